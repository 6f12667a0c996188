//! Whether what is discarded on a loop device leaves its file.
//!
//! A loop device punches holes for discards (mkfs, fstrim, `mount -o discard`) and for zeroing
//! without REQ_NOUNMAP (ext4's lazy initialisation): drivers/block/loop.c, lo_fallocate(). With a
//! `discard_max_bytes` of 0 the first do not reach the driver, and recent kernels refuse the
//! second too, so that zeros are written. Elsewhere holes must be filled again.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::{CONTROL, abi};
use crate::error::{Context, FsError};

fn queue(device: &Path, attribute: &str) -> PathBuf {
    let name = device.file_name().unwrap_or_default();
    Path::new("/sys/block")
        .join(name)
        .join("queue")
        .join(attribute)
}

fn bytes(device: &Path, attribute: &str) -> Option<u64> {
    let text = fs::read_to_string(queue(device, attribute)).ok()?;
    text.trim().parse().ok()
}

/// Lets no discard of the device reach its file. That stays with the device, not with what is
/// attached, and the kernel takes no other value afterwards (its granularity is 0 by then); see
/// [`renew`].
///
/// # Errors
/// EROFS and the like where sysfs cannot be written.
pub fn keep_blocks(device: &Path) -> Result<(), FsError> {
    let path = queue(device, "discard_max_bytes");
    if bytes(device, "discard_max_bytes") == Some(0) {
        return Ok(());
    }
    fs::write(&path, "0").context("write", &path)
}

/// Whether the device could discard and must not.
pub(super) fn is_off(device: &Path) -> bool {
    bytes(device, "discard_max_bytes") == Some(0)
        && bytes(device, "discard_max_hw_bytes").is_some_and(|most| most > 0)
}

/// Takes away a device with nothing attached whose discards were turned off, so that the next
/// user of its number has them. Answers false while it is in use.
///
/// # Errors
/// If there is no `/dev/loop-control`.
pub fn renew(device: &Path) -> Result<bool, FsError> {
    let name = device.file_name().unwrap_or_default().to_string_lossy();
    let number = name.strip_prefix("loop").and_then(|n| n.parse().ok());
    let (Some(number), true) = (number, is_off(device)) else {
        return Ok(true);
    };
    let control_path = Path::new(CONTROL);
    let control = File::open(control_path).context("open", control_path)?;
    match abi::remove(&control, number) {
        Ok(()) | Err(Errno::NODEV) => Ok(true),
        // Attached, or open somewhere: the kernel looks, and removes under the same lock.
        Err(_) => Ok(false),
    }
}
