//! How much of a volume is used, and growing a file system in use.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use stowage_host::filesystem;
use stowage_model::error::Context;
use stowage_model::publish::Stats;
use stowage_model::{Bytes, Error, Id, Result};

use crate::backing::device::attached;
use crate::backing::resize::grow_mounted;
use crate::lookup::{need_volume, usable_volume};
use crate::mounts::{block_at, mounted_here, must_be_at};
use crate::state::Node;
use crate::state::attachments::Staging;

/// How long a file system may take to answer before it counts as dead. kubelet asks once a minute
/// for every pod.
const PATIENCE: Duration = Duration::from_secs(5);

/// Takes no lock: a long mkfs or copy elsewhere must not delay it.
pub(crate) async fn stats(node: &Node, id: &Id, path: &Path) -> Result<Stats> {
    let entry = need_volume(node, id)?;
    if block_at(node, &entry, path)? {
        return Ok(Stats::Block { total: entry.size });
    }
    must_be_at(node, &entry, path).await?;
    let usage = filesystem::statvfs_bounded(path, PATIENCE)
        .await
        .or_internal(|| format!("failed to ask how full {} is", entry.title()))?;
    Ok(Stats::FileSystem {
        total: Bytes(usage.total),
        available: Bytes(usage.available),
        used: Bytes(usage.used),
        inodes: usage.inodes,
        inodes_free: usage.inodes_free,
        inodes_used: usage.inodes_used,
    })
}

pub(crate) async fn expand(
    node: &Arc<Node>,
    id: &Id,
    path: &Path,
    required: Option<Bytes>,
) -> Result<Bytes> {
    let _held = node.ops().begin(id, "growth").await?;
    let entry = usable_volume(node, id)?;
    let block = block_at(node, &entry, path)?;
    if !block {
        must_be_at(node, &entry, path).await?;
    }
    if let Some(required) = required.filter(|r| *r > entry.size) {
        return Err(Error::out_of_range(format!(
            "{} is {}, smaller than the {required} it should have; grow the volume first",
            entry.title(),
            entry.size
        )));
    }
    let size = entry.size;
    // Also after a kill between the growth of the file and that of its device.
    entry.pool.grow(&entry.record, size).await?;
    let device = attached(&entry).await?;
    if let (false, Some(device), Some(fs)) = (block, device, entry.record.content.file_system()) {
        let staging = node.attachments().get(id).staging;
        if staging.as_ref().is_some_and(Staging::is_read_only) {
            // Its file system cannot be written to; the next stage grows it.
            return Ok(size);
        }
        // Not through a target, which may be read-only where the volume is not.
        let mounted_at = match staging {
            Some(staging) if mounted_here(&entry, &staging.path).await? => staging.path,
            _ => path.to_owned(),
        };
        let mut entry = entry;
        grow_mounted(node, &mut entry, fs, &device, &mounted_at).await?;
    }
    Ok(size)
}
