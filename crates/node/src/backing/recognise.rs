//! Recognising a volume among what is mounted and bound.

use std::path::{Path, PathBuf};

use stowage_host::{blocking, device, loopdev, mount};
use stowage_model::Result;
use stowage_model::error::Context;
use stowage_pool::Device;

use crate::backing::device::attached;
use crate::state::entry::Entry;

async fn device_of(entry: &Entry) -> Result<Option<stowage_host::Devno>> {
    let Some(device) = attached(entry).await? else {
        return Ok(None);
    };
    device::devno(&device.path)
        .map(Some)
        .or_internal(|| format!("failed to look at {}", device.path.display()))
}

/// Whether what is mounted there is the volume's own file system.
pub(crate) async fn is_ours(entry: &Entry, found: &mount::Mount) -> Result<bool> {
    if device_of(entry).await? == Some(found.dev) {
        return Ok(true);
    }
    // btrfs shows a device number of its own; there the source names the device.
    let Some(attached) = attached(entry).await? else {
        return Ok(false);
    };
    let (source, attached) = (PathBuf::from(&found.source), attached.path);
    Ok(blocking(move || {
        let same = device::devno(&source)
            .ok()
            .zip(device::devno(&attached).ok());
        same.is_some_and(|(a, b)| a == b)
    })
    .await
        && found.fstype == "btrfs")
}

/// Whether the device node at `path` is the volume's own, or one that only reads it.
pub(crate) async fn is_own_device(entry: &Entry, device: &Device, path: &Path) -> Result<bool> {
    let (path, own, title) = (path.to_owned(), device.path.clone(), entry.title());
    blocking(move || {
        let failed = || format!("failed to look for the devices of {title}");
        let Ok(here) = device::devno(&path) else {
            return Ok(false);
        };
        if device::devno(&own).or_internal(failed)? == here {
            return Ok(true);
        }
        let readers = loopdev::readers(&own).or_internal(failed)?;
        Ok(readers.iter().any(|r| device::devno(r).ok() == Some(here)))
    })
    .await
}
