//! The end of a volume whose consumer is gone.

use std::sync::Arc;

use stowage_host::failpoint;
use stowage_model::Result;

use crate::own_staging::{own_staging_path, remove_own_staging};
use crate::publish::unstage::unstage_locked;
use crate::state::Node;
use crate::state::attachments::Attachment;
use crate::state::entry::Entry;
use crate::volume::remove::remove_locked;

/// Remove an ephemeral volume whose consumer is gone. The caller holds it.
pub(crate) async fn end_ephemeral_locked(node: &Arc<Node>, entry: &Entry) -> Result<()> {
    let id = &entry.record.id;
    let staging = own_staging_path(node, id);
    if !node.attachments().get(id).ending {
        let end = |a: &mut Attachment| {
            a.ephemeral = true;
            a.ending = true;
            a.targets.clear();
        };
        node.attachments().update(id, end).await?;
    }
    unstage_locked(node, id, &staging).await?;
    failpoint::hit("node.ephemeral.unstaged");
    remove_locked(node, id).await?;
    remove_own_staging(&staging)
}
