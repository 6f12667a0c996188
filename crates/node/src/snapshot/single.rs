//! Cutting and removing snapshots.

use std::sync::Arc;

use jiff::Timestamp;
use stowage_host::failpoint;
use stowage_model::id::Role;
use stowage_model::volumes::Snapshot;
use stowage_model::{Error, Id, Result, SnapshotRequest};

use crate::lookup::{not_copied_from, snapshot_of};
use crate::snapshot::cut::{cut, cuttable, drop_snapshot};
use crate::state::Node;
use crate::state::entry::Entry;
use crate::undo::end_failed_creation;

pub(crate) async fn cut_snapshot(node: &Arc<Node>, want: SnapshotRequest) -> Result<Snapshot> {
    let id = Id::derive(Role::Snapshot, &want.name);
    let _held = node
        .ops()
        .begin_all(&[want.source.clone(), id.clone()], "snapshot")
        .await?;
    if let Some(entry) = node.index().get(&id) {
        if entry.record.source.as_ref() != Some(&want.source) || entry.record.name != want.name {
            return Err(Error::exists(format!(
                "{} exists and was cut from another volume; choose another name",
                entry.title()
            )));
        }
        return Ok(snapshot_of(node, &entry));
    }
    // It can only be where its source is, and that pool is there.
    node.unread().rule_out_record(&id)?;
    end_failed_creation(node, &id).await?;
    let source = cuttable(node, &want.source)?;
    let mut record = source
        .record
        .snapshot(id, want.name.clone(), source.size, Timestamp::now());
    record.read_only = want.read_only;
    record.growth = Some(want.growth);
    failpoint::hit("node.snapshot.begun");
    cut(node, &source, &record).await?;
    failpoint::hit("node.snapshot.cut");
    Ok(snapshot_of(node, &node.index().need(&record.id)?))
}

pub(crate) async fn remove_snapshot(node: &Arc<Node>, id: &Id) -> Result<()> {
    let _held = node.ops().begin(id, "deletion").await?;
    let Some(entry) = node.index().get(id) else {
        node.unread().rule_out(id)?;
        return end_failed_creation(node, id).await;
    };
    if !entry.record.is_snapshot() {
        return Err(Error::invalid(format!(
            "{} is not a snapshot",
            entry.title()
        )));
    }
    entry.understood()?;
    if let Some(member) = &entry.record.group {
        return Err(Error::invalid(format!(
            "{} belongs to the group {}; delete the group",
            entry.title(),
            member.group
        )));
    }
    remove_snapshot_locked(node, &entry).await
}

pub(crate) async fn remove_snapshot_locked(node: &Arc<Node>, entry: &Entry) -> Result<()> {
    not_copied_from(node, entry)?;
    failpoint::hit("node.snapshot.removing");
    drop_snapshot(node, entry).await?;
    failpoint::hit("node.snapshot.removed");
    Ok(())
}
