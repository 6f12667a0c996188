//! Copying the bytes of a volume.

use std::sync::Arc;

use stowage_host::{Progress, on_own_thread, reflink};
use stowage_model::error::Context;
use stowage_model::{Bytes, PoolKind, Record, Result};
use stowage_pool::{Attach, Device};

use crate::backing::activation::let_go;
use crate::backing::device::{attach, attached, detach};
use crate::state::Node;
use crate::state::entry::Entry;

/// Copy all of one volume or snapshot into another.
pub(crate) async fn copy(
    node: &Node,
    from: &Entry,
    to: &Entry,
    progress: &Arc<Progress>,
) -> Result<()> {
    let was_attached = attached(from).await?.is_some();
    // The source is let go with its last reader: another copy may read it as well.
    let source = attach(from, Attach::UntilUnused).await?;
    let target = attach(to, Attach::Held).await?;
    let copied = copy_bytes(
        &source,
        &target,
        from.size,
        &to.record,
        to.pool.kind(),
        progress,
    );
    let copied = copied.await;
    drop((source, target));
    // Patiently: whoever looks at new devices may have it open for a moment.
    let detached = let_go(node, to).await;
    if !was_attached
        && !node.jobs().others_read(&from.record.id, progress)
        && let Err(e) = detach(&from.pool, &from.record).await
    {
        // The copy is whole; whoever removes or attaches the source detaches it again.
        tracing::warn!(volume.id = %from.record.id, error = %e.chain(), "still attached");
    }
    copied.and(detached)
}

async fn copy_bytes(
    source: &Device,
    target: &Device,
    length: Bytes,
    record: &Record,
    kind: PoolKind,
    progress: &Arc<Progress>,
) -> Result<()> {
    // Most of a new file or thin volume reads as zeros at no cost, and zeros written there would
    // take space; reading a thick logical volume would cost as much as writing it.
    let sparse = kind == PoolKind::Thin || kind == PoolKind::File;
    let (from, to) = (source.path.clone(), target.path.clone());
    let (id, progress) = (record.id.clone(), Arc::clone(progress));
    on_own_thread(move || reflink::copy_device(&from, &to, length.0, sparse, &progress))
        .await
        .or_internal(|| format!("failed to copy into {id}"))
}
