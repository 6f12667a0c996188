//! Taking a volume back from one path, and nothing that is somebody else's.

use std::path::Path;

use stowage_host::{Target, blocking, failpoint};
use stowage_model::{Error, Holder, Id, Result};

use crate::backing::raw::drop_reader_device;
use crate::backing::unmount::unmount_ours;
use crate::mounts::{bad_path, mount_at};
use crate::state::Node;
use crate::state::entry::Entry;
use crate::throttle::unthrottle;

/// The end of a use of a volume that the index lacks: nothing is to be done, unless it may be
/// there, and in use at this path.
///
/// # Errors
/// As [`Unread::rule_out`](crate::state::unread::Unread::rule_out).
pub(crate) async fn end_unknown_use(node: &Node, id: &Id, path: &Path) -> Result<()> {
    let noted = node.attachments().get(id);
    let staged = noted.staging.is_some_and(|s| s.path == path);
    let mounted = mount_at(path).await?;
    if staged || noted.targets.contains_key(path) || mounted.is_some() {
        node.unread().rule_out(id)?;
    }
    Ok(())
}

/// End one hold of a publication that others hold as well.
pub(crate) async fn release(node: &Node, id: &Id, target: &Path, holder: &Holder) -> Result<()> {
    let (target, holder) = (target.to_owned(), holder.clone());
    node.attachments()
        .update(id, move |a| {
            let Some(publication) = a.targets.get_mut(&target) else {
                return;
            };
            if let Some(times) = publication.holders.get_mut(&holder) {
                *times -= 1;
                if *times == 0 {
                    publication.holders.remove(&holder);
                }
            }
        })
        .await
}

/// Undo a publication: unmount, lift the limits, remove the target, forget it.
pub(crate) async fn take_back(node: &Node, entry: &Entry, target: &Path) -> Result<()> {
    let id = &entry.record.id;
    let publication = node.attachments().get(id).targets.remove(target);
    let block = publication.as_ref().is_some_and(|p| p.block);
    unmount_ours(node, entry, target, block).await?;
    failpoint::hit("node.unpublish.unmounted");
    // Afterwards: a consumer that is still busy keeps its limits.
    if let Some(publication) = &publication {
        unthrottle(node, entry, publication).await;
    }
    let path = target.to_owned();
    blocking(move || {
        Target::remove(&path).map_err(|e| bad_path("target path", &path, e))?;
        failpoint::hit("node.unpublish.removed");
        Ok::<(), Error>(())
    })
    .await?;
    // Before the target is forgotten: afterwards a call that is repeated after a kill would
    // find nothing to undo, and the device would stay.
    if publication.is_some_and(|p| p.block && p.read_only) {
        let gone = [target.to_owned()];
        drop_reader_device(node, entry, &gone).await?;
        failpoint::hit("node.unpublish.reader-dropped");
    }
    let (target, ephemeral) = (target.to_owned(), entry.record.ephemeral);
    node.attachments()
        .update(id, move |a| {
            a.targets.remove(&target);
            a.ending |= ephemeral && a.targets.is_empty();
        })
        .await
}

/// Remove what an earlier boot made to publish upon, unless it is somebody's by now.
pub(crate) async fn clear_away(node: &Node, id: &Id, target: &Path) -> Result<()> {
    if mount_at(target).await?.is_none() {
        let path = target.to_owned();
        let removed = blocking(move || Target::remove(&path)).await;
        if let Err(e) = removed {
            tracing::warn!(volume.id = %id, error = %e, "left as it is");
        }
    }
    let target = target.to_owned();
    node.attachments()
        .update(id, move |a| {
            a.left.remove(&target);
            a.unmounted.remove(&target);
        })
        .await
}
