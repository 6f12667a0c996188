//! One cut, and the end of one snapshot.

use std::sync::Arc;

use stowage_model::{Id, Record, Result};

use crate::backing::device::detach;
use crate::lookup::{copyable, need_volume};
use crate::snapshot::quiesce::{hold_writers, let_writers_go};
use crate::state::Node;
use crate::state::entry::Entry;
use crate::undo::creation_failed;
use crate::wipe::purge_later;

/// A volume that can be cut now.
pub(crate) fn cuttable(node: &Node, id: &Id) -> Result<Entry> {
    let source = need_volume(node, id)?;
    copyable(node, &source)?;
    source.pool.snapshots()?;
    Ok(source)
}

/// Cut `source` into `record`, frozen where it is mounted. The caller holds both.
pub(crate) async fn cut(node: &Arc<Node>, source: &Entry, record: &Record) -> Result<()> {
    let snapshots = source.pool.snapshots()?;
    let held = hold_writers(node, std::slice::from_ref(source)).await?;
    let turn = held.turn(&source.pool);
    let cut = snapshots.snapshot_in(turn, &source.record, record);
    let cut = cut.await;
    let let_go = let_writers_go(node, held).await;
    if let Err(e) = cut.and(let_go) {
        creation_failed(node, &source.pool, record, &e).await;
        return Err(e);
    }
    let entry = Entry::new(record.clone(), source.size, Arc::clone(&source.pool));
    node.index().put(entry);
    Ok(())
}

/// Remove a passing snapshot, if it is there.
pub(crate) async fn drop_snapshot(node: &Arc<Node>, passing: &Entry) -> Result<()> {
    detach(&passing.pool, &passing.record).await?;
    let removed = passing.pool.remove(&passing.record).await?;
    purge_later(node, &passing.pool, removed);
    node.index().remove(&passing.record.id);
    node.notices().not_lost_any_more(passing);
    Ok(())
}
