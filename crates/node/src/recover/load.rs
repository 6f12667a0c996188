//! What one pool holds, read back: what a kill cut off is finished or undone, and what must not
//! outlive us (a frozen file system, a suspended device) is ended. Needs no help and can itself be
//! killed at any point.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, StreamExt};
use stowage_host::{freeze, mount};
use stowage_model::volumes::{Finding, Severity, Trouble};
use stowage_model::{Error, Id, Record, Result};
use stowage_pool::{Defect, Pool, Removed, Scan};

use crate::backing::activation::use_lock;
use crate::backing::device::detach;
use crate::backing::thaw::{unnote_freeze, unwedge};
use crate::mounts::{mounts, seen_mounted_in};
use crate::publish::plan::becomes_raw;
use crate::records::noted;
use crate::recover::stagings::abandoned_staging;
use crate::recover::uses::end_unmounted;
use crate::snapshot::cut::drop_snapshot;
use crate::state::Node;
use crate::state::entry::Entry;
use crate::state::journal::Intent;
use crate::state::ops::Guard;
use crate::throttle::{limits_again_in, pods_of};
use crate::wipe::purge_later;

/// How long a start waits for volumes in use to be let go: no disk that works needs as long.
const RELEASE: Duration = Duration::from_secs(1);

/// How many of them are let go at a time.
const RELEASES: usize = 16;

/// Take what was read from one pool into the index, applying the journal; let go what a kill
/// left held, and set limits again. Answers whether all that is in it could be read, and brought
/// to a state to start from.
pub(crate) async fn load(node: &Arc<Node>, pool: &Arc<dyn Pool>, scan: Scan) -> Result<bool> {
    let (intents, _) = node.journal().load()?;
    for leftover in scan.leftovers {
        purge_later(node, pool, Removed::ToPurge(leftover));
    }
    note_defects(node, pool, &scan.defects);
    let mut whole = true;
    for defect in scan.defects {
        let (what, ids) = match defect {
            Defect::Unreadable { what, id, why } => {
                (format!("{what}: {why}"), id.into_iter().collect())
            }
            Defect::Astray { lv, ids, .. } => (lv, ids),
            Defect::Foreign(_) | Defect::LostSnapshot(_) => continue,
        };
        whole = false;
        for id in ids {
            node.unread().record(&id, pool.name(), what.clone());
        }
    }
    // Before any of them can be found, and held on purpose, by an operation.
    let records: Vec<Record> = scan.found.iter().map(|f| f.record.clone()).collect();
    if let Some(hold) = pool.hold()
        && let Err(e) = hold.resume(&records).await
    {
        tracing::error!(pool = %pool.name(), error = %e.chain(), "devices not resumed");
    }
    let left = left_in(node, pool).await;
    let mut in_use = Vec::new();
    for item in scan.found {
        let entry = Entry::new(item.record, item.size, Arc::clone(pool));
        let id = entry.record.id.clone();
        // While we serve, one of its name may be in the making in another pool.
        let held = node.ops().begin_reading(&id).await;
        if let Some(lock) = left.get(id.as_str()) {
            tracing::warn!(volume.id = %id, "a command that outlived its daemon is at work");
            node.ops().leave_to(&id, node.locks(), lock.clone());
            // Nothing is ended in it meanwhile; what cannot wait is its place in the index.
            if node.index().get(&id).is_none() {
                node.index().put(as_noted(entry, &intents));
            }
            continue;
        }
        if !node.attachments().get(&id).is_empty() {
            in_use.push((entry.clone(), held));
        }
        if let Err(e) = settle(node, entry, &intents).await {
            whole = false;
            unfinished(node, pool, &id, &e);
        }
    }
    release_all(node, in_use).await;
    Ok(whole)
}

/// Let go what a kill left held of volumes in use, and set their limits again. Each stays held
/// until that is done; of those whose disk hangs that is not waited for.
async fn release_all(node: &Arc<Node>, in_use: Vec<(Entry, Guard)>) {
    let (me, (done, all_done)) = (Arc::clone(node), tokio::sync::oneshot::channel());
    node.ops().background(async move {
        // The same for all of them, and nobody mounts any while it is held.
        let mounts = mounts().await;
        let mounts = mounts.inspect_err(|e| tracing::error!(error = %e.chain(), "not thawed"));
        let ids = in_use.iter().map(|(entry, _)| &entry.record.id);
        let pods = pods_of(&me, ids).await;
        let (me, mounts, pods) = (&me, mounts.as_ref().ok(), &pods);
        let each = stream::iter(in_use);
        let each = each.for_each_concurrent(RELEASES, async |(entry, _held)| {
            if let Some(mounts) = mounts {
                thaw(me, &entry, mounts).await;
                end_unmounted(me, &entry, mounts).await;
            }
            abandoned_staging(me, &entry.record.id).await;
            limits_again_in(me, &entry.record.id, pods).await;
        });
        each.await;
        // Nobody listens once the patience is over.
        let _ = done.send(());
    });
    if tokio::time::timeout(RELEASE, all_done).await.is_err() {
        tracing::warn!("volumes in use do not answer and are left to the background");
    }
}

/// The volumes of this pool that a command which outlived its daemon still works on, each with
/// the name of its lock.
async fn left_in(node: &Node, pool: &Arc<dyn Pool>) -> BTreeMap<String, String> {
    let (locks, prefix) = (node.locks().clone(), use_lock(pool, ""));
    let held = stowage_host::blocking(move || (locks.held(&prefix), prefix)).await;
    let (names, prefix) = held;
    let of_id = |name: String| Some((name.strip_prefix(&prefix)?.to_owned(), name));
    names.into_iter().filter_map(of_id).collect()
}

/// An entry with what is noted of it, for one in which nothing can be ended now.
fn as_noted(mut entry: Entry, intents: &BTreeMap<Id, Intent>) -> Entry {
    match noted_of(&entry, intents) {
        Some(Intent::Format | Intent::Mkfs { .. }) => entry.half_formatted = true,
        Some(Intent::Record { pairs, .. }) => {
            // Carried into the pool with the next change of it, or at the next start.
            if let Ok(record) = Record::from_pairs(pairs) {
                entry.record = record;
            }
        }
        None | Some(Intent::Create { .. } | Intent::Group { .. }) => {}
    }
    entry
}

/// Tell of something that a kill cut off and that could not be ended at this start.
fn unfinished(node: &Node, pool: &Arc<dyn Pool>, id: &Id, why: &Error) {
    tracing::warn!(volume.id = %id, error = %why.chain(), "not brought in order");
    let finding = Finding {
        severity: Severity::Warning,
        trouble: Trouble::Leftover,
        subject: id.to_string(),
        what: format!("what was cut off could not be ended: {}", why.chain()),
        mend: "mend that; the next start tries again".to_owned(),
    };
    node.notices().found_in(pool.name(), finding);
}

/// Bring one volume found on the disk to a state that operations can start from.
async fn settle(node: &Arc<Node>, mut entry: Entry, intents: &BTreeMap<Id, Intent>) -> Result<()> {
    let id = entry.record.id.clone();
    if let Some(why) = &entry.record.beyond {
        node.notices()
            .found_in(entry.pool.name(), kept_as_it_is(&entry, why));
        match node.index().get(&id) {
            Some(first) if first.pool.name() != entry.pool.name() => {
                second_of_its_id(node, &entry, &first);
            }
            _ => node.index().put(entry),
        }
        return Ok(());
    }
    if entry.record.is_snapshot() && entry.record.ephemeral {
        return drop_snapshot(node, &entry).await;
    }
    if goes_with_its_group(node, &entry.record, intents).await? {
        return drop_snapshot(node, &entry).await;
    }
    // What is noted of another one of its name, in a pool still to be read perhaps, or not configured
    // now, is left alone.
    let noted = noted_of(&entry, intents);
    if let Some(Intent::Create { .. }) = noted {
        // Nobody was told that it exists, and it may bear what its extents held before.
        detach(&entry.pool, &entry.record).await?;
        let removed = entry.pool.remove(&entry.record).await?;
        purge_later(node, &entry.pool, removed);
        return node.journal().clear(&id);
    }
    if let Some(first) = node.index().get(&id)
        && first.pool.name() != entry.pool.name()
    {
        second_of_its_id(node, &entry, &first);
        return Ok(());
    }
    let mut carry = false;
    match noted {
        None | Some(Intent::Create { .. } | Intent::Group { .. }) => {}
        Some(Intent::Format | Intent::Mkfs { .. }) => entry.half_formatted = true,
        Some(Intent::Record { pairs, .. }) => {
            entry.record = Record::from_pairs(pairs)?;
            carry = true;
        }
    }
    // Handed out by a daemon that did not note so.
    if let Some(staging) = node.attachments().get(&id).staging.filter(|s| s.block)
        && becomes_raw(&mut entry, staging.mode)
    {
        carry = true;
    }
    // It is there, whatever becomes of its record.
    node.index().put(entry.clone());
    if carry {
        entry.pool.rewrite(&entry.record).await?;
        node.journal().clear(&id)?;
    }
    Ok(())
}

/// Whether this snapshot is of a group that a kill cut off while it was cut or removed.
async fn goes_with_its_group(
    node: &Arc<Node>,
    snapshot: &Record,
    intents: &BTreeMap<Id, Intent>,
) -> Result<bool> {
    let Some(group) = snapshot.group.as_ref().map(|member| &member.group) else {
        return Ok(false);
    };
    if !intents
        .get(group)
        .is_some_and(|noted| noted.names(snapshot))
    {
        return Ok(false);
    }
    // Where the pool comes late, it may be ours who is at it.
    let _held = node.ops().begin_reading(group).await;
    let noted = noted(node, group).await?;
    Ok(noted.is_some_and(|noted| noted.names(snapshot)))
}

/// That a record is known in part only.
fn kept_as_it_is(entry: &Entry, why: &str) -> Finding {
    Finding {
        severity: Severity::Error,
        trouble: Trouble::BadRecord,
        subject: entry.record.id.to_string(),
        what: format!("{} is kept as it is and cannot be served: {why}", entry.title()),
        mend: "a newer version made it: run that one again. If it is damaged, its bytes are untouched; \
               copy them out, then remove it by hand"
            .to_owned(),
    }
}

/// Two pools hold a volume of one id, as when one of them could not be read while the other
/// volume was made. Only one can be told apart by it: the first stays what it is.
fn second_of_its_id(node: &Node, second: &Entry, first: &Entry) {
    let (pool, other) = (second.pool.name(), first.pool.name());
    tracing::error!(volume.id = %second.record.id, %pool, %other, "two of one id");
    let finding = Finding {
        severity: Severity::Error,
        trouble: Trouble::BadRecord,
        subject: format!("{} in pool {pool}", second.record.id),
        what: format!(
            "{} has the id of one in pool {other}, which is the one that is served",
            second.title()
        ),
        mend: "its bytes are untouched; copy out the one you need, remove the other, and \
               restart the daemon"
            .to_owned(),
    };
    node.notices().found_in(pool, finding);
}

fn note_defects(node: &Node, pool: &Arc<dyn Pool>, defects: &[Defect]) {
    let findings = defects.iter().map(|defect| match defect {
        Defect::Foreign(what) => Finding {
            severity: Severity::Warning,
            trouble: Trouble::Foreign,
            subject: what.clone(),
            what: format!("lies in pool {} and was not made by us", pool.name()),
            mend: "nothing needs to be done; it is never touched and only takes space".into(),
        },
        Defect::Unreadable { what, why, .. } => Finding {
            severity: Severity::Error,
            trouble: Trouble::BadRecord,
            subject: what.clone(),
            what: why.clone(),
            mend: "its bytes are untouched; copy them out, then remove it by hand".into(),
        },
        Defect::Astray { finding, .. } => finding.clone(),
        Defect::LostSnapshot(id) => Finding {
            severity: Severity::Error,
            trouble: Trouble::SnapshotLost,
            subject: id.to_string(),
            what: "its copy-on-write store overflowed; the state it kept is lost".into(),
            mend: "delete the snapshot; cut the next with a larger initial size".into(),
        },
    });
    let findings = findings.collect();
    node.notices().was_read(pool.name(), findings);
}

/// A kill during a snapshot may have left a file system frozen. What others froze is theirs, unless
/// nobody can reach it any more. The caller holds the volume.
async fn thaw(node: &Node, entry: &Entry, mounts: &mount::Table) {
    let ours = unnote_freeze(node, &entry.record.id);
    // Where somebody unmounted it lies a file system that others may have frozen.
    let path = match seen_mounted_in(node, mounts, entry).await {
        Ok(Some(path)) if ours => path,
        Ok(None) if staged_for_files(node, entry) => {
            unwedge(node, entry).await;
            return;
        }
        _ => return,
    };
    stowage_host::on_own_thread(move || {
        if let Ok(true) = freeze::thaw(&path) {
            tracing::warn!(path = %path.display(), "thawed a file system left frozen");
        }
    })
    .await;
}

fn staged_for_files(node: &Node, entry: &Entry) -> bool {
    let staging = node.attachments().get(&entry.record.id).staging;
    staging.is_some_and(|staging| !staging.block)
}

/// What is noted of this very volume.
fn noted_of<'a>(entry: &Entry, intents: &'a BTreeMap<Id, Intent>) -> Option<&'a Intent> {
    let noted = intents.get(&entry.record.id);
    noted.filter(|intent| intent.is_of(&entry.record))
}
