//! Writing down what changes: records into pools, now or a little later, and intentions into the journal.

use std::sync::Arc;
use std::time::Duration;

use stowage_host::{Repeat, blocking};
use stowage_model::{Id, Result};

use crate::state::Node;
use crate::state::attachments::Attachment;
use crate::state::entry::Entry;
use crate::state::journal::Intent;

/// How long a record changed in use may wait before it is carried into its pool: long enough for
/// a stage and the publish that follows it not to meet the LVM command.
const CARRY_AFTER: Duration = Duration::from_secs(3);

/// Write a changed record into its pool and the index. The caller holds the volume.
pub(crate) async fn save(node: &Arc<Node>, entry: &Entry) -> Result<()> {
    entry.understood()?;
    entry.pool.rewrite(&entry.record).await?;
    node.index().put(entry.clone());
    // The note of a mkfs that did not end must outlive other changes: without it what is on
    // the device is somebody's, and the volume can never be formatted.
    match entry.half_formatted {
        true => Ok(()),
        false => unnote(node, &entry.record.id).await,
    }
}

/// Make a changed record durable now and carry it into the pool later. The caller holds the
/// volume.
pub(crate) async fn save_lazily(node: &Arc<Node>, entry: &Entry) -> Result<()> {
    entry.understood()?;
    let id = entry.record.id.clone();
    let intent = Intent::record(entry.pool.name(), &entry.record);
    note(node, &id, intent).await?;
    node.index().put(entry.clone());
    let me = Arc::clone(node);
    node.ops().background(async move {
        // Tried again until it is there: a group may be busy or away for a while.
        let mut repeat = Repeat::default();
        loop {
            tokio::select! {
                () = tokio::time::sleep(CARRY_AFTER) => {}
                // The journal keeps it for the next start.
                () = me.stopping().cancelled() => return,
            }
            match carry(&me, &id).await {
                Ok(()) => return,
                Err(e) if !repeat.is_due(&e.chain()) => {}
                Err(e) => tracing::warn!(volume.id = %id, error = %e.chain(),
                    "record not yet in the pool"),
            }
        }
    });
    Ok(())
}

async fn carry(node: &Arc<Node>, id: &Id) -> Result<()> {
    let _held = node.ops().begin(id, "record keeping").await?;
    match node.index().get(id) {
        Some(entry) => save(node, &entry).await,
        None => unnote(node, id).await,
    }
}

/// Write an intention down, durably.
pub(crate) async fn note(node: &Arc<Node>, id: &Id, intent: Intent) -> Result<()> {
    let (me, id) = (Arc::clone(node), id.clone());
    blocking(move || me.journal().write(&id, &intent)).await
}

/// What is noted about this volume, if that can be read.
pub(crate) async fn noted(node: &Arc<Node>, id: &Id) -> Result<Option<Intent>> {
    let (me, id) = (Arc::clone(node), id.clone());
    blocking(move || me.journal().read(&id)).await
}

/// Forget an intention, durably.
pub(crate) async fn unnote(node: &Arc<Node>, id: &Id) -> Result<()> {
    let (me, id) = (Arc::clone(node), id.clone());
    blocking(move || me.journal().clear(&id)).await
}

/// Forget what is noted of a volume that is gone.
pub(crate) async fn forget(node: &Arc<Node>, id: &Id) -> Result<()> {
    unnote(node, id).await?;
    node.attachments()
        .update(id, |a| *a = Attachment::default())
        .await
}
