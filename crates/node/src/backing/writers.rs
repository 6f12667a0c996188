//! Who writes to a volume, and how they can be held still.

use std::path::PathBuf;

use stowage_host::{Devno, device};
use stowage_model::{FsType, Result};

use crate::backing::device::attached;
use crate::mounts::seen_mounted;
use crate::state::Node;
use crate::state::entry::Entry;

/// Where a volume's data are brought to the disk from.
pub(crate) enum Reached {
    /// Its file system is mounted there.
    Mounted(PathBuf),
    /// Only its device is in use.
    Raw(PathBuf),
}

/// The writers of a volume in use.
pub(crate) struct Writers {
    /// Where what they wrote is brought to the disk from.
    pub(crate) reached: Reached,
    /// A file system to be frozen, since the pool does not hold it by itself.
    pub(crate) frozen: Option<PathBuf>,
    /// The device that the pool suspends.
    pub(crate) suspended: Option<Devno>,
}

/// The writers of a volume; none where it is not in use.
pub(crate) async fn writers_of(node: &Node, entry: &Entry) -> Result<Option<Writers>> {
    let Some(device) = attached(entry).await? else {
        return Ok(None);
    };
    let suspends = entry.pool.hold().is_some();
    let suspended = suspends.then(|| device::devno(&device.path).ok()).flatten();
    let Some(path) = seen_mounted(node, entry).await? else {
        return Ok(Some(Writers {
            reached: Reached::Raw(device.path),
            frozen: None,
            suspended,
        }));
    };
    // Device mapper does not reach btrfs, whose log of synced files would then be in the
    // cut; a copy gets a UUID of its own by btrfstune, which makes such a log unreadable.
    let btrfs = entry.record.content.file_system() == Some(FsType::Btrfs);
    Ok(Some(Writers {
        reached: Reached::Mounted(path.clone()),
        frozen: (btrfs || !suspends).then_some(path),
        suspended,
    }))
}
