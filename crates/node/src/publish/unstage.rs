//! Unmounting the staging directory and letting the device go.

use std::path::Path;
use std::sync::Arc;

use stowage_host::failpoint;
use stowage_model::{Error, Id, Result};

use crate::backing::activation::let_go;
use crate::backing::unmount::unmount_ours;
use crate::mounts::mounted_here;
use crate::publish::unmount::end_unknown_use;
use crate::state::Node;

pub(crate) async fn unstage(node: &Arc<Node>, id: &Id, staging: &Path) -> Result<()> {
    let _held = node.ops().begin(id, "unstaging").await?;
    unstage_locked(node, id, staging).await
}

pub(crate) async fn unstage_locked(node: &Arc<Node>, id: &Id, staging: &Path) -> Result<()> {
    let Some(entry) = node.index().get(id) else {
        return end_unknown_use(node, id, staging).await;
    };
    let attachment = node.attachments().get(id);
    if let Some(target) = attachment.targets.keys().next() {
        return Err(Error::precondition(format!(
            "{} is still published at {}; unpublish it there first",
            entry.title(),
            target.display()
        )));
    }
    let known = attachment.staging.filter(|s| s.path == staging);
    let block = known.as_ref().is_some_and(|s| s.block);
    let ours = !block && mounted_here(&entry, staging).await.unwrap_or(false);
    if known.is_none() && !ours {
        // Never staged here: nothing to undo.
        return Ok(());
    }
    if !block {
        unmount_ours(node, &entry, staging, false).await?;
        failpoint::hit("node.unstage.unmounted");
    }
    let_go(node, &entry).await?;
    failpoint::hit("node.unstage.detached");
    node.attachments().update(id, |a| a.staging = None).await
}
