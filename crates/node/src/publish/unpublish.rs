//! Taking a volume back from its consumer.

use std::path::Path;
use std::sync::Arc;

use stowage_model::{Id, Result};

use crate::mounts::mounted_here;
use crate::publish::ephemeral::end_ephemeral_locked;
use crate::publish::unmount::{clear_away, end_unknown_use, take_back};
use crate::state::Node;

pub(crate) async fn unpublish(node: &Arc<Node>, id: &Id, target: &Path) -> Result<()> {
    let _held = node.ops().begin(id, "unpublishing").await?;
    let Some(entry) = node.index().get(id) else {
        return end_unknown_use(node, id, target).await;
    };
    let noted = node.attachments().get(id);
    let known = noted.targets.contains_key(target);
    if known || mounted_here(node, &entry, target).await.unwrap_or(false) {
        take_back(node, &entry, target).await?;
    } else if noted.left.contains(target) {
        clear_away(node, id, target).await?;
    }
    if entry.record.ephemeral && node.attachments().get(id).targets.is_empty() {
        end_ephemeral_locked(node, &entry).await?;
    }
    Ok(())
}
