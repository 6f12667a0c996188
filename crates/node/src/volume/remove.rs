//! Removing volumes: gone at once as volumes, wiped in the background.

use std::sync::Arc;

use stowage_host::failpoint;
use stowage_model::{Error, Id, Result};

use crate::backing::activation::let_go;
use crate::backing::device::detach;
use crate::backing::thaw::unwedge;
use crate::mounts::used_at;
use crate::records::forget;
use crate::state::Node;
use crate::undo::end_failed_creation;
use crate::wipe::purge_later;

pub(crate) async fn remove_volume(node: &Arc<Node>, id: &Id) -> Result<()> {
    // A copy into it is for nothing now; one that does not end in time is told so again by the
    // next call.
    let _doom = node.jobs().doom(id);
    let _held = node.ops().begin(id, "deletion").await?;
    remove_locked(node, id).await
}

/// Remove a volume that the caller holds.
pub(crate) async fn remove_locked(node: &Arc<Node>, id: &Id) -> Result<()> {
    let Some(entry) = node.index().get(id) else {
        node.unread().rule_out(id)?;
        return end_failed_creation(node, id).await;
    };
    if entry.record.is_snapshot() {
        return Err(Error::invalid(format!("{} is not a volume", entry.title())));
    }
    entry.understood()?;
    if node.jobs().reads_from(id) {
        return Err(Error::pending(format!(
            "{} is being copied from",
            entry.title()
        )));
    }
    let used_at = used_at(node, &entry)?;
    if !used_at.is_empty() {
        let paths: Vec<String> = used_at.iter().map(|p| p.display().to_string()).collect();
        return Err(Error::precondition(format!(
            "{} is in use at {}; unmount it there first",
            entry.title(),
            paths.join(", ")
        )));
    }
    failpoint::hit("node.remove.begun");
    if let Err(e) = detach(&entry.pool, &entry.record).await {
        if !unwedge(node, &entry).await {
            return Err(e);
        }
        let_go(node, &entry).await?;
    }
    let removed = entry.pool.remove(&entry.record).await?;
    failpoint::hit("node.remove.removed");
    // It is no volume any more, whether or not that can be noted: a retry would find nothing to
    // wipe.
    node.index().remove(id);
    purge_later(node, &entry.pool, removed);
    forget(node, id).await
}

#[cfg(test)]
mod tests;
