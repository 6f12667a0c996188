//! Taking a volume back from one path, and nothing that is somebody else's.

use std::path::{Path, PathBuf};

use stowage_host::{Target, blocking, failpoint, loopdev, mount};
use stowage_model::error::Context;
use stowage_model::{Error, Holder, Id, Result};

use crate::mounts::{Mounted, bad_path, mount_at, ours_at};
use crate::state::Node;
use crate::state::index::Entry;
use crate::thaw::thaw_last;
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

/// Unmount what is ours at `path`, and nothing else: what somebody mounted over it is an
/// error.
pub(crate) async fn unmount_ours(
    node: &Node,
    entry: &Entry,
    path: &Path,
    block: bool,
) -> Result<()> {
    loop {
        match ours_at(node, entry, path, block).await? {
            Mounted::Nothing => return Ok(()),
            Mounted::Foreign(source) => {
                return Err(Error::precondition(format!(
                    "{source} is mounted over {} at {}; unmount it there first",
                    entry.title(),
                    path.display()
                )));
            }
            Mounted::Ours => {}
        }
        if !block {
            thaw_last(entry, path).await;
        }
        let owned = path.to_owned();
        blocking(move || mount::unmount(&owned))
            .await
            .map_err(|e| match e {
                mount::MountError::Busy { .. } => {
                    Error::precondition(format!("{} is in use", path.display())).caused_by(e)
                }
                mount::MountError::Target(e) => bad_path("target path", path, e),
                e => Error::internal(format!("failed to unmount {}", path.display())).caused_by(e),
            })?;
    }
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

/// Detach the read-only loop device unless a target other than these uses it.
pub(crate) async fn drop_reader_device(node: &Node, entry: &Entry, gone: &[PathBuf]) -> Result<()> {
    let mut rest = node.attachments().get(&entry.record.id).targets;
    rest.retain(|target, _| !gone.contains(target));
    if rest.values().any(|p| p.block && p.read_only) {
        return Ok(());
    }
    let Some(attached) = entry.pool.attached(&entry.record).await? else {
        return Ok(());
    };
    let title = entry.title();
    blocking(move || {
        let failed = || format!("failed to detach the read-only device of {title}");
        for path in loopdev::readers(&attached.path).or_internal(failed)? {
            loopdev::detach(&path).or_internal(failed)?;
        }
        Ok(())
    })
    .await
}
