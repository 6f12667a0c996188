//! Undoing a creation that failed or was cut off. Nobody was told of what it made.

use std::sync::Arc;

use stowage_model::{Error, Id, Kind, Record, Result};
use stowage_pool::Pool;

use crate::backing::device::detach;
use crate::records::{note, noted, unnote};
use crate::state::Node;
use crate::state::journal::Intent;
use crate::wipe::purge_later;

/// A creation failed, and the error is its whole outcome.
pub(crate) async fn creation_failed(
    node: &Arc<Node>,
    pool: &Arc<dyn Pool>,
    record: &Record,
    why: &Error,
) {
    if why.kind() != Kind::Exists {
        return undo_creation(node, pool, record).await;
    }
    // Nothing was made: what bears the id was there before, and is not ours to remove.
    if let Err(e) = unnote(node, &record.id).await {
        tracing::warn!(volume.id = %record.id, error = %e.chain(), "journal not kept");
    }
}

/// Take away what a failed creation may have left. What cannot be taken away is noted, for the
/// next creation of that id or the next start.
pub(crate) async fn undo_creation(node: &Arc<Node>, pool: &Arc<dyn Pool>, record: &Record) {
    let id = &record.id;
    let noted = match take_away(node, pool, record).await {
        Ok(()) => unnote(node, id).await,
        Err(e) => {
            tracing::warn!(volume.id = %id, error = %e.chain(), "failed creation not undone");
            note(node, id, Intent::create(pool.name(), record)).await
        }
    };
    if let Err(e) = noted {
        tracing::warn!(volume.id = %id, error = %e.chain(), "journal not kept");
    }
}

/// Take away what an earlier creation of this id left that could not be undone then: a new one
/// is of another moment and would find it in its way. The caller holds the id, and has seen
/// that the index lacks it.
pub(crate) async fn end_failed_creation(node: &Arc<Node>, id: &Id) -> Result<()> {
    let Some(Intent::Create { pool, pairs }) = noted(node, id).await? else {
        return Ok(());
    };
    let Some(pool) = node.pools().into_iter().find(|p| *p.name() == pool) else {
        return Ok(());
    };
    node.unread().among(std::slice::from_ref(&pool))?;
    take_away(node, &pool, &Record::from_pairs(&pairs)?).await?;
    unnote(node, id).await
}

async fn take_away(node: &Arc<Node>, pool: &Arc<dyn Pool>, record: &Record) -> Result<()> {
    detach(pool, record).await?;
    let removed = pool.remove(record).await?;
    purge_later(node, pool, removed);
    Ok(())
}
