//! Uses that ended and are noted all the same: their end was cut off by a kill, or could not be written
//! since the file system of the state directory is full, read-only or damaged.

use std::path::PathBuf;
use std::sync::Arc;

use stowage_host::mount;

use crate::backing::raw::drop_reader_device;
use crate::state::Node;
use crate::state::entry::Entry;
use crate::throttle::unthrottle;

/// Write the notes that could not be written when their uses ended.
pub(crate) async fn late_notes(node: &Arc<Node>) {
    for id in node.attachments().late().keys() {
        // Whoever works on it notes what comes of that; the next look is soon.
        let Ok(_held) = node.ops().begin_now(id, "noting").await else {
            continue;
        };
        if let Err(e) = node.attachments().update(id, |_| ()).await {
            tracing::warn!(volume.id = %id, error = %e.chain(), "not noted");
        }
    }
}

/// End the uses of a volume that are noted and of which nothing is mounted. What was made to mount
/// upon stays until somebody asks for its removal, as the targets of an earlier boot do. The caller
/// holds the volume, at the start.
pub(crate) async fn end_unmounted(node: &Arc<Node>, entry: &Entry, mounts: &mount::Table) {
    let id = &entry.record.id;
    let noted = node.attachments().get(id);
    // The target of an ephemeral one tells whether its consumer may return.
    if noted.ephemeral || noted.of.as_ref().is_some_and(|of| !of.is(entry)) {
        return;
    }
    let mut over: Vec<PathBuf> = Vec::new();
    for (target, publication) in &noted.targets {
        if !mounts.has(target) {
            unthrottle(node, entry, publication).await;
            over.push(target.clone());
        }
    }
    if over.is_empty() {
        return;
    }
    let read = |target: &PathBuf| {
        noted
            .targets
            .get(target)
            .is_some_and(|p| p.block && p.read_only)
    };
    let dropped = match over.iter().any(read) {
        true => drop_reader_device(node, entry, &over).await,
        false => Ok(()),
    };
    let noted = match dropped {
        Ok(()) => node.attachments().update(id, move |a| a.leave(over)).await,
        Err(e) => Err(e),
    };
    if let Err(e) = noted {
        tracing::warn!(volume.id = %id, error = %e.chain(), "uses that are over stay noted");
    }
}
