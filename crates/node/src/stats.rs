//! How much of a volume is used, and growing a file system in use.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use stowage_host::filesystem;
use stowage_model::error::Context;
use stowage_model::publish::Stats;
use stowage_model::{Bytes, Error, Id, Result};

use crate::attachments::Staging;
use crate::index::Entry;
use crate::local::Inner;
use crate::target::Mounted;

/// How long a file system may take to answer before it counts as dead. kubelet asks once a minute
/// for every pod.
const PATIENCE: Duration = Duration::from_secs(5);

impl Inner {
    /// Takes no lock: a long mkfs or copy elsewhere must not delay it.
    pub(crate) async fn stats(&self, id: &Id, path: &Path) -> Result<Stats> {
        let entry = self.need_volume(id)?;
        if self.block_at(&entry, path)? {
            return Ok(Stats::Block { total: entry.size });
        }
        self.must_be_at(&entry, path).await?;
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
        self: &Arc<Self>,
        id: &Id,
        path: &Path,
        required: Option<Bytes>,
    ) -> Result<Bytes> {
        let _held = self.ops.begin(id, "growth").await?;
        let entry = self.need_volume(id)?;
        let block = self.block_at(&entry, path)?;
        if !block {
            self.must_be_at(&entry, path).await?;
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
        let device = entry.pool.attached(&entry.record).await?;
        if let (false, Some(device), Some(fs)) = (block, device, entry.record.content.file_system())
        {
            let staging = self.attachments.get(id).staging;
            if staging.as_ref().is_some_and(Staging::is_read_only) {
                // Its file system cannot be written to; the next stage grows it.
                return Ok(size);
            }
            // Not through a target, which may be read-only where the volume is not.
            let mounted_at = match staging {
                Some(staging) if self.mounted_here(&entry, &staging.path).await? => staging.path,
                _ => path.to_owned(),
            };
            let mut entry = entry;
            self.grow_mounted(&mut entry, fs, &device, &mounted_at)
                .await?;
        }
        Ok(size)
    }

    /// # Errors
    /// [`stowage_model::Kind::NotFound`] unless the volume's file system is mounted at `path`.
    async fn must_be_at(&self, entry: &Entry, path: &Path) -> Result<()> {
        match self.ours_at(entry, path, false).await? {
            Mounted::Ours => Ok(()),
            Mounted::Nothing | Mounted::Foreign(_) => Err(Error::not_found(format!(
                "{} is not at {}",
                entry.title(),
                path.display()
            ))),
        }
    }

    /// Whether the volume is handed out as a block device at `path`.
    fn block_at(&self, entry: &Entry, path: &Path) -> Result<bool> {
        let attachment = self.attachments.get(&entry.record.id);
        let staged = attachment
            .staging
            .as_ref()
            .is_some_and(|s| s.block && s.path == path);
        Ok(staged || attachment.targets.get(path).is_some_and(|p| p.block))
    }
}
