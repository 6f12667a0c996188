//! Snapshots of several volumes at one moment: all or none. Every writer is stopped (file systems
//! frozen, device-mapper devices suspended) before the first cut and goes on after the last.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use jiff::Timestamp;
use stowage_host::failpoint;
use stowage_model::id::Role;
use stowage_model::record::Membership;
use stowage_model::request::GroupRequest;
use stowage_model::volumes::{Finding, Group, Severity, Trouble};
use stowage_model::{Error, Id, Kind, PoolName, Record, Result};
use stowage_pool::Pool;
use tokio::time::timeout_at;

use crate::backing::device::attached;
use crate::lookup::{not_copied_from, snapshot_of};
use crate::mounts::seen_mounted;
use crate::records::{note, unnote};
use crate::snapshot::cut::cuttable;
use crate::snapshot::quiesce::{HOLD, Held, hold_writers, let_writers_go, took_too_long};
use crate::snapshot::single::remove_snapshot_locked;
use crate::state::Node;
use crate::state::entry::Entry;
use crate::state::journal::Intent;
use crate::undo::{end_failed_creation, undo_creation};

type ByPool = BTreeMap<PoolName, (Arc<dyn Pool>, Vec<Record>)>;

fn group_of(node: &Node, id: Id, members: &[Entry]) -> Group {
    Group {
        id,
        members: members.iter().map(|e| snapshot_of(node, e)).collect(),
    }
}

pub(crate) async fn cut_group(node: &Arc<Node>, want: GroupRequest) -> Result<Group> {
    let id = Id::derive(Role::Group, &want.name);
    let mut sources = want.sources.clone();
    sources.sort();
    sources.dedup();
    if sources.is_empty() {
        return Err(Error::invalid(
            "the group names no volume; name at least one",
        ));
    }
    let mut held = sources.clone();
    held.push(id.clone());
    let _held = node.ops().begin_all(&held, "group snapshot").await?;
    let present = whole_group(node, &id)?;
    if !present.is_empty() {
        let cut: Vec<&Id> = present
            .iter()
            .filter_map(|e| e.record.source.as_ref())
            .collect();
        if cut.len() == sources.len() && sources.iter().all(|s| cut.contains(&s)) {
            return Ok(group_of(node, id, &present));
        }
        return Err(Error::exists(format!(
            "the group {:?} exists with other members; choose another name",
            want.name.to_string()
        )));
    }
    let entries = sources
        .iter()
        .map(|s| cuttable(node, s).map_err(not_now))
        .collect::<Result<Vec<Entry>>>()?;
    let created = Timestamp::now();
    let of = entries.len();
    let cuts: Vec<(Entry, Record)> = entries
        .into_iter()
        .map(|source| {
            let member = Id::group_member(&want.name, &source.record.id);
            let mut record =
                source
                    .record
                    .snapshot(member, want.name.clone(), source.size, created);
            record.read_only = want.read_only;
            record.growth = Some(want.growth);
            record.group = Some(Membership {
                group: id.clone(),
                of,
            });
            (source, record)
        })
        .collect();
    one_moment(node, &cuts).await?;
    for (_, member) in &cuts {
        end_failed_creation(node, &member.id).await?;
    }
    let noted = cuts.iter().map(|(source, cut)| (source.pool.name(), cut));
    note(node, &id, Intent::group(noted)).await?;
    failpoint::hit("node.group.noted");
    cut_all(node, &id, &cuts).await?;
    Ok(group_of(node, id.clone(), &members(node, &id)))
}

/// Refuse what cannot be one moment. A mounted file system is frozen, and device mapper holds
/// its devices; but nobody holds the writers of a raw device that is a file. One such member is
/// well: its own cut is one moment, at which all others stand still.
async fn one_moment(node: &Node, cuts: &[(Entry, Record)]) -> Result<()> {
    let mut at_large = Vec::new();
    for (source, _) in cuts.iter().filter(|(s, _)| s.pool.hold().is_none()) {
        let attached = attached(source).await?.is_some();
        if attached && seen_mounted(node, source).await?.is_none() {
            at_large.push(source.title());
        }
    }
    if at_large.len() < 2 {
        return Ok(());
    }
    Err(Error::precondition(format!(
        "{} are raw devices in use whose writers nothing can hold at one moment; cut the group \
         while at most one of them is attached, or put them into an lvm or thin pool",
        at_large.join(" and ")
    )))
}

async fn cut_all(node: &Arc<Node>, id: &Id, cuts: &[(Entry, Record)]) -> Result<()> {
    let sources: Vec<Entry> = cuts.iter().map(|(source, _)| source.clone()).collect();
    let mut self_freezing = ByPool::new();
    for source in sources.iter().filter(|s| s.pool.hold().is_some()) {
        let entry = self_freezing
            .entry(source.pool.name().clone())
            .or_insert_with(|| (Arc::clone(&source.pool), Vec::new()));
        entry.1.push(source.record.clone());
    }
    let held = hold_writers(node, &sources).await?;
    let (made, cut) = cut_held(cuts, &self_freezing, &held).await;
    let let_go = let_writers_go(node, held).await;
    let result = match cut.and(let_go) {
        // From here on a start leaves them alone.
        Ok(()) => unnote(node, id).await,
        failed => failed,
    };
    for (source, record) in cuts.iter().filter(|(_, r)| made.contains(&r)) {
        match &result {
            Ok(()) => {
                let pool = Arc::clone(&source.pool);
                node.index()
                    .put(Entry::new(record.clone(), source.size, pool));
            }
            // Every one is tried. What stays is noted, and no member of the next attempt,
            // which is of another moment.
            Err(_) => undo_creation(node, &source.pool, record).await,
        }
    }
    if result.is_err()
        && let Err(e) = unnote(node, id).await
    {
        tracing::warn!(group.id = %id, error = %e.chain(), "journal not kept");
    }
    result
}

/// Cut every member while the writers of all are held. Answers those that were made, in any
/// case.
async fn cut_held<'a>(
    cuts: &'a [(Entry, Record)],
    self_freezing: &ByPool,
    held: &Held,
) -> (Vec<&'a Record>, Result<()>) {
    let mut made = Vec::new();
    let late = AtomicBool::new(false);
    let cut = {
        let cutting = async {
            // One member alone needs no holding: its own cut is one moment.
            if cuts.len() > 1 {
                suspend_all(self_freezing, held).await?;
            }
            failpoint::hit("node.group.held");
            for (source, record) in cuts {
                // The others would be of another moment.
                if late.load(Ordering::Relaxed) {
                    break;
                }
                let turn = held.turn(&source.pool);
                let cut = match source.pool.snapshots() {
                    Ok(pool) => pool.snapshot_in(turn, &source.record, record).await,
                    Err(e) => Err(e),
                };
                // What was there before was not made here.
                if !cut.as_ref().is_err_and(|e| e.kind() == Kind::Exists) {
                    made.push(record);
                }
                cut?;
                failpoint::hit("node.group.member-cut");
            }
            Ok(())
        };
        let mut cutting = std::pin::pin!(cutting);
        match timeout_at(held.since + HOLD, cutting.as_mut()).await {
            Ok(cut) => cut,
            Err(_) => {
                // What runs now cannot be cut off, but its writers need not wait for it.
                late.store(true, Ordering::Relaxed);
                let resumed = resume_all(self_freezing).await;
                let ended = cutting.await;
                ended.and(resumed).and(Err(took_too_long()))
            }
        }
    };
    let resumed = resume_all(self_freezing).await;
    (made, cut.and(resumed))
}

/// The members of a group, in the order of their sources.
fn members(node: &Node, id: &Id) -> Vec<Entry> {
    let mut members = node
        .index()
        .list(|e| e.record.group.as_ref().is_some_and(|m| m.group == *id));
    members.sort_by(|a, b| a.record.source.cmp(&b.record.source));
    members
}

/// The members of a group, when none can have been overlooked.
fn whole_group(node: &Node, id: &Id) -> Result<Vec<Entry>> {
    let members = members(node, id);
    let of = members.iter().filter_map(|e| e.record.group.as_ref());
    if members.len() < of.map(|m| m.of).max().unwrap_or(1) {
        node.unread().rule_out_members()?;
        // One whose record is known in part may be of this group.
        let in_part = |e: &Entry| e.record.is_snapshot() && e.record.beyond.is_some();
        if let Some(snapshot) = node.index().list(in_part).first() {
            snapshot.understood()?;
        }
    }
    Ok(members)
}

/// All members go, or, as far as can be told before the first goes, none. A call that was cut
/// off is repeated with the same names, of which some are gone by then.
pub(crate) async fn remove_group(node: &Arc<Node>, id: &Id, named: &[Id]) -> Result<()> {
    let members = members(node, id);
    let mut ids: Vec<Id> = members.iter().map(|e| e.record.id.clone()).collect();
    ids.push(id.clone());
    let _held = node.ops().begin_all(&ids, "deletion").await?;
    let members = whole_group(node, id)?;
    if members.is_empty() {
        return Ok(());
    }
    let is_member = |id: &Id| members.iter().any(|e| e.record.id == *id);
    let known = |id: &Id| is_member(id) || node.index().get(id).is_none();
    let all_named = members.iter().all(|e| named.contains(&e.record.id));
    let fits = named.is_empty() || all_named && named.iter().all(known);
    if !fits {
        let ids: Vec<String> = members.iter().map(|e| e.record.id.to_string()).collect();
        return Err(Error::invalid(format!(
            "the snapshots named are not those of the group {id}; its members are {}",
            ids.join(", ")
        )));
    }
    for member in &members {
        member.understood()?;
        not_copied_from(node, member)?;
        if let Ok(snapshots) = member.pool.snapshots() {
            snapshots.removable(&member.record).await?;
        }
    }
    let noted = members.iter().map(|e| (e.pool.name(), &e.record));
    // On a full disk it goes without: what a kill then leaves is told, and can be removed.
    if let Err(e) = note(node, id, Intent::group(noted)).await {
        tracing::warn!(group.id = %id, error = %e.chain(), "removing it without a note");
    }
    for (n, member) in members.iter().enumerate() {
        if let Err(e) = remove_snapshot_locked(node, member).await {
            if n == 0 {
                unnote(node, id).await?;
            }
            return Err(e);
        }
        failpoint::hit("node.group.member-removed");
    }
    unnote(node, id).await
}

/// Groups that lack a member, now that all pools were read. What is left of them is kept: somebody
/// was told that it exists.
pub(crate) fn broken_groups(node: &Node) -> Vec<Finding> {
    if !node.unread().pools().is_empty() {
        return Vec::new();
    }
    let mut groups: BTreeMap<Id, Vec<Entry>> = BTreeMap::new();
    for entry in node.index().list(|e| e.record.group.is_some()) {
        if let Some(member) = &entry.record.group {
            groups.entry(member.group.clone()).or_default().push(entry);
        }
    }
    let broken = groups.into_iter().filter_map(|(id, members)| {
        let first = members.first()?;
        let of = first.record.group.as_ref()?.of;
        (members.len() < of).then(|| Finding {
            severity: Severity::Warning,
            trouble: Trouble::Leftover,
            subject: id.to_string(),
            what: format!(
                "{} of the {of} snapshots of the group {:?} are there",
                members.len(),
                first.record.name.to_string()
            ),
            mend: "those that are there can be restored; the others are in a pool that is not \
                   configured, or lost with theirs, or an earlier version left the group \
                   unfinished: bring the pool back, or delete the group"
                .to_owned(),
        })
    });
    broken.collect()
}

pub(crate) fn need_group(node: &Node, id: &Id) -> Result<Group> {
    let members = whole_group(node, id)?;
    if members.is_empty() {
        return Err(Error::not_found(format!(
            "there is no group of snapshots {id}"
        )));
    }
    Ok(group_of(node, id.clone(), &members))
}

/// That the pool of one of its volumes cuts no snapshots is the state of a group, not a call that
/// is unknown.
fn not_now(e: Error) -> Error {
    match e.kind() {
        Kind::Unsupported => Error::precondition(e.message().to_owned()).caused_by(e),
        _ => e,
    }
}

async fn suspend_all(by_pool: &ByPool, held: &Held) -> Result<()> {
    for (pool, records) in by_pool.values() {
        if let Some(hold) = pool.hold() {
            hold.suspend_in(held.turn(pool), records).await?;
        }
    }
    Ok(())
}

async fn resume_all(by_pool: &ByPool) -> Result<()> {
    let mut result = Ok(());
    for (pool, records) in by_pool.values() {
        if let Some(hold) = pool.hold() {
            result = result.and(hold.resume(records).await);
        }
    }
    result
}

#[cfg(test)]
mod tests;
