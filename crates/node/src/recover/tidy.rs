//! What can only be told from all pools together: a note that is about nothing. It waits until all of them were read, and operations may be under way by then: each
//! thing is looked at again while it is held.

use std::sync::Arc;

use futures::stream::{self, StreamExt};
use stowage_host::blocking;
use stowage_model::{Id, PoolName, Result};

use crate::records::{noted, unnote};
use crate::recover::stagings::unused_stagings;
use crate::state::Node;
use crate::state::attachments::Attachment;
use crate::state::definitions::all_seen;
use crate::state::journal::Intent;

/// Tidy up in the background.
pub(crate) fn tidy_beside(node: &Arc<Node>) {
    let me = Arc::clone(node);
    node.ops().background(async move { tidy(&me).await });
}

/// Tidy up, once, when every pool and every record in it could be read. Each thing is
/// waited for by itself, however long somebody works on it; nobody is to wait for this.
pub(crate) async fn tidy(node: &Arc<Node>) {
    // With a pool or a record unread, what seems to lack a volume or a member may well have it
    // there.
    let all_read = node.unread().pools().is_empty()
        && !node.unread().lacks_records()
        && !node.unread().lacks_definitions()
        && !node.unread().is_partly_read();
    if !all_read || !node.before().begin_tidying() {
        return;
    }
    let all = async {
        tokio::join!(
            clear_stale_journal(node),
            clear_stale_attachments(node),
            unused_stagings(node),
        );
    };
    tokio::select! {
        () = all => {}
        // The next start does the rest.
        () = node.stopping().cancelled() => {}
    }
}

/// What a note was about is gone, or never was, or was made another time. Only what was noted
/// before this start: an operation notes what it is about to do, and what it could not undo.
async fn clear_stale_journal(node: &Arc<Node>) {
    let all = stream::iter(node.before().intents());
    all.for_each_concurrent(None, async |(id, before)| {
        let _held = node.ops().begin_reading(id).await;
        if let Err(e) = clear_if_stale(node, id, before).await {
            tracing::warn!(volume.id = %id, error = %e.chain(),
                "a stale journal entry stays until the next start");
        }
    })
    .await;
}

async fn clear_if_stale(node: &Arc<Node>, id: &Id, before: &Intent) -> Result<()> {
    let stale = match node.index().get(id) {
        Some(entry) if before.is_of(&entry.record) => matches!(before, Intent::Create { .. }),
        _ => known_to_lack(node, &before.pools()).await?,
    };
    if stale && noted(node, id).await?.as_ref() == Some(before) {
        unnote(node, id).await?;
    }
    Ok(())
}

/// A use is noted before an ephemeral volume is made and forgotten after a volume is removed;
/// a kill in between leaves a note about nothing.
async fn clear_stale_attachments(node: &Arc<Node>) {
    let all = stream::iter(node.attachments().all().into_keys());
    all.for_each_concurrent(None, async |id| {
        let _held = node.ops().begin_reading(&id).await;
        if let Err(e) = forget_if_stale(node, &id).await {
            tracing::warn!(volume.id = %id, error = %e.chain(),
                "a stale note of a use stays until the next start");
        }
    })
    .await;
}

async fn forget_if_stale(node: &Arc<Node>, id: &Id) -> Result<()> {
    let of = node.attachments().get(id).of;
    let stale = match (node.index().get(id), of) {
        (Some(entry), Some(of)) if !of.is(&entry) => known_to_lack(node, &[&of.pool]).await?,
        (Some(_), _) => false,
        (None, Some(of)) => known_to_lack(node, &[&of.pool]).await?,
        (None, None) => known_to_lack(node, &[]).await?,
    };
    match stale {
        true => {
            let forget = |a: &mut Attachment| *a = Attachment::default();
            node.attachments().update(id, forget).await
        }
        false => Ok(()),
    }
}

/// Whether what is noted of these pools, and not in the index, is about nothing: now that all pools
/// were read, what is in one of them is known. One that was taken out of the configuration may come
/// back, and its notes are the only word about what it holds. What names no pool is of any that was
/// ever open here.
async fn known_to_lack(node: &Arc<Node>, pools: &[&PoolName]) -> Result<bool> {
    let open = node.pools();
    let is_open = |name: &PoolName| open.iter().any(|pool| pool.name() == name);
    if !pools.is_empty() {
        return Ok(pools.iter().all(|pool| is_open(pool)));
    }
    let dir = node.pools_dir();
    let seen = blocking(move || all_seen(&dir)).await?;
    Ok(seen.iter().all(is_open))
}

#[cfg(test)]
mod tests;
