//! Staging directories of ours that a kill left behind.

use std::sync::Arc;

use futures::stream::{self, StreamExt};
use stowage_model::Id;

use crate::own_staging::{own_staging_path, remove_own_staging};
use crate::publish::unstage::unstage_locked;
use crate::state::Node;

/// After a kill between two steps nobody may come to take the rest: a volume staged at a
/// directory of ours for no target counts as in use, and the unmount call that was cut off
/// finds no target to name any more. For the start: the caller holds the volume, and nobody
/// could ask for it before.
pub(crate) async fn abandoned_staging(node: &Arc<Node>, id: &Id) {
    let (attachment, own) = (node.attachments().get(id), own_staging_path(node, id));
    let staged = attachment.staging.is_some_and(|s| s.path == own);
    if staged
        && attachment.targets.is_empty()
        && let Err(e) = unstage_locked(node, id, &own).await
    {
        tracing::warn!(volume.id = %id, error = %e.chain(), "still staged for nobody");
    }
}

/// Staging directories that were there at the start and that nothing is staged at.
pub(crate) async fn unused_stagings(node: &Arc<Node>) {
    let all = stream::iter(node.before().stagings());
    all.for_each_concurrent(None, async |path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // Made for the volume of this id alone; what is mounted there otherwise stays as well.
        let (used, _held) = match name.parse::<Id>() {
            Ok(id) => {
                let held = node.ops().begin_reading(&id).await;
                let staging = node.attachments().get(&id).staging;
                (staging.is_some_and(|s| s.path == *path), Some(held))
            }
            Err(_) => (false, None),
        };
        if !used && let Err(e) = remove_own_staging(path) {
            tracing::warn!(volume.path = %path.display(), error = %e.chain(),
                "unused staging directory not removed");
        }
    })
    .await;
}
