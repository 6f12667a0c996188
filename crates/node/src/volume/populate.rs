//! Filling a new volume by copying its source's bytes, where the pool has no instant copy: thick
//! logical volumes, and sources in another pool. A volume being filled is marked so on the disk;
//! when the copy was cut off, the next create of that name starts it over.

use std::sync::Arc;

use stowage_host::{Progress, failpoint};
use stowage_model::record::Content;
use stowage_model::request::SnapshotGrowth;
use stowage_model::{Bytes, Error, Id, Result};

use crate::backing::copy::copy;
use crate::lookup::copyable;
use crate::records::save;
use crate::snapshot::cut::{cut, drop_snapshot};
use crate::state::Node;
use crate::state::entry::Entry;
use crate::state::jobs::{Task, Way};

/// Copy the source of a volume in state [`Content::Filling`] into it. The caller holds the
/// volume.
pub(crate) async fn fill(node: &Arc<Node>, new: &Entry) -> Result<()> {
    let source_id = new.record.source.as_ref().ok_or_else(|| {
        Error::internal(format!("{} has no source to be filled from", new.title()))
    })?;
    let source = node.index().get(source_id).ok_or_else(|| {
        let gone = format!("the source of {} is gone; delete it", new.title());
        node.unread().absent(source_id, gone)
    })?;
    let job = node.jobs().begin(Task::Copy {
        from: source.record.id.clone(),
        into: new.record.id.clone(),
    });
    let way = Way::Copy {
        from: source.pool.name().clone(),
        to: new.pool.name().clone(),
    };
    // Before the source is held or cut: that may take long.
    let Some(_turn) = job.turn(&way).await else {
        return Err(ended(node, new));
    };
    // A snapshot changes no more, nor does a volume that shows one in place.
    let copied = if source.record.is_snapshot() || node.index().in_place(&source) {
        let facts = (source.record.content, source.record.fs_bytes);
        let copied = copy(node, &source, new, &job.progress).await;
        copied.map(|()| facts)
    } else {
        copy_live(node, &source, new, &job.progress).await
    };
    let (content, fs_bytes) = match copied {
        Err(e) if job.is_stopped() => return Err(ended(node, new).caused_by(e)),
        copied => copied?,
    };
    failpoint::hit("node.fill.copied");
    let mut filled = new.clone();
    filled.record.content = content.copied();
    filled.record.fs_bytes = fs_bytes;
    save(node, &filled).await
}

/// Why a copy that was told to stop did.
fn ended(node: &Node, new: &Entry) -> Error {
    let title = new.title();
    match node.stopping().is_cancelled() {
        true => Error::pending(format!(
            "the daemon stops before {title} is filled; ask again"
        )),
        false => Error::precondition(format!("{title} was deleted while it was being filled")),
    }
}

/// Copy a volume that may be in use: through a passing snapshot, or, where its pool cannot
/// cut one, while it is held and unused.
async fn copy_live(
    node: &Arc<Node>,
    source: &Entry,
    new: &Entry,
    progress: &Arc<Progress>,
) -> Result<(Content, Bytes)> {
    let held = node.ops().begin(&source.record.id, "cloning").await?;
    let source = node.index().need(&source.record.id)?;
    copyable(node, &source)?;
    let facts = (source.record.content, source.record.fs_bytes);
    if let Err(no_snapshots) = source.pool.snapshots() {
        if node.attachments().get(&source.record.id).is_empty() {
            copy(node, &source, new, progress).await?;
            return Ok(facts);
        }
        return Err(no_snapshots);
    }
    let passing = passing_snapshot(&source, &new.record.id);
    drop_snapshot(node, &passing).await?;
    cut(node, &source, &passing.record).await?;
    drop(held);
    failpoint::hit("node.fill.cut");
    let copied = copy(node, &passing, new, progress).await;
    let dropped = drop_snapshot(node, &passing).await;
    copied.and(dropped).map(|()| facts)
}

fn passing_snapshot(source: &Entry, new: &Id) -> Entry {
    let id = Id::filling_snapshot(new);
    let mut record = source.record.snapshot(
        id,
        source.record.name.clone(),
        source.size,
        jiff::Timestamp::now(),
    );
    // Room for a fifth of the source to change while it is being copied, and it still grows.
    let part = Bytes(source.size.0 / 5) + Bytes::mib(64);
    record.growth = Some(SnapshotGrowth {
        initial: part,
        threshold: 50,
        step: part,
    });
    record.ephemeral = true;
    Entry::new(record, source.size, Arc::clone(&source.pool))
}
