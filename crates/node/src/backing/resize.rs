//! File systems that are smaller than their volume, and growing them to it: while they are mounted
//! where the kernel lets us, since a program that works on an unmounted one can be cut off half way.

use std::path::Path;
use std::sync::Arc;

use stowage_host::{failpoint, filesystem};
use stowage_model::error::Context;
use stowage_model::filesystem::asks_for_no_journal;
use stowage_model::volumes::{Finding, Severity, Trouble};
use stowage_model::{Bytes, Error, FsType, Result};
use stowage_pool::Device;

use crate::backing::activation::runner_of;
use crate::records::save_lazily;
use crate::state::Node;
use crate::state::attachments::Staging;
use crate::state::entry::Entry;

/// Bring what must not be mounted for it in order: growth where it cannot be had later, and a
/// journal where one is missing.
pub(crate) async fn before_mount(
    node: &Arc<Node>,
    entry: &mut Entry,
    fs: FsType,
    device: &Device,
    staging: &Staging,
) -> Result<()> {
    let journal = lacks_journal(node, entry, fs, device).await?;
    let later = filesystem::grows_mounted(fs.as_str()) && !staging.is_read_only() && !journal;
    if entry.outgrown(device) && fs.grows_unmounted() && !later {
        grow_unmounted(node, entry, fs, device).await?;
    }
    if journal && let Err(e) = filesystem::add_journal(&runner_of(node, entry), &device.path).await
    {
        // No worse than it was. It may have no room for one.
        let error = Error::internal("no journal added").caused_by(e);
        tracing::warn!(volume.id = %entry.record.id, error = %error.chain(),
            "the file system stays without a journal");
    }
    Ok(())
}

/// Whether an ext3 or ext4 of ours has no journal that nobody asked to leave out. mkfs makes
/// none in a device below [`FsType::smallest`], which was not refused once.
async fn lacks_journal(node: &Node, entry: &Entry, fs: FsType, device: &Device) -> Result<bool> {
    let record = &entry.record;
    let made_small = record.fs_bytes < fs.smallest() || record.source.is_none();
    let can_have = matches!(fs, FsType::Ext3 | FsType::Ext4) && device.size >= fs.smallest();
    let ours = record.fs_bytes != Bytes(0) && !node.index().in_place(entry);
    if !(can_have && ours && made_small) || asks_for_no_journal(&record.mkfs) {
        return Ok(false);
    }
    let journal = filesystem::has_journal(&device.path).await;
    journal
        .map(|has| !has)
        .or_internal(|| format!("failed to look at what {} holds", entry.title()))
}

pub(crate) async fn grow_unmounted(
    node: &Arc<Node>,
    entry: &mut Entry,
    fs: FsType,
    device: &Device,
) -> Result<()> {
    filesystem::grow_unmounted(&runner_of(node, entry), fs.as_str(), &device.path)
        .await
        .or_internal(|| format!("failed to grow the file system of {}", entry.title()))?;
    entry.record.fs_bytes = device.size;
    Ok(())
}

/// Grow the file system of a volume that is staged, if it is outgrown.
pub(crate) async fn grow_outgrown(
    node: &Arc<Node>,
    entry: &mut Entry,
    fs: FsType,
    device: &Device,
    staging: &Staging,
) -> Result<()> {
    // One that is mounted to be read cannot grow; it does at the next writable mount.
    let reader = staging.is_read_only();
    if entry.outgrown(device) && !reader {
        grow_mounted(node, entry, fs, device, &staging.path).await?;
    }
    Ok(())
}

/// Grow a mounted file system to its device.
pub(crate) async fn grow_mounted(
    node: &Arc<Node>,
    entry: &mut Entry,
    fs: FsType,
    device: &Device,
    mounted_at: &Path,
) -> Result<()> {
    let runner = runner_of(node, entry);
    let grown = filesystem::grow(&runner, fs.as_str(), &device.path, mounted_at);
    grown.await.map_err(|e| not_grown(entry, fs).caused_by(e))?;
    failpoint::hit("node.expand.grown");
    if entry.record.fs_bytes == device.size {
        return Ok(());
    }
    entry.record.fs_bytes = device.size;
    save_lazily(node, entry).await
}

/// What there is to say of a mounted file system that is smaller than its volume.
pub(crate) fn smaller(entry: &Entry, staging: &Staging) -> Option<Finding> {
    let record = &entry.record;
    let smaller = record.fs_bytes != Bytes(0) && record.fs_bytes < entry.size;
    let fs = record.content.file_system()?;
    if !smaller || record.read_only || staging.is_read_only() {
        return None;
    }
    let mend = match lacking(fs) {
        Some(what) => format!("{what}, or unmount it everywhere and mount it again"),
        None => "grow the volume again, or unmount it everywhere and mount it again; the \
                 error of that says more"
            .to_owned(),
    };
    Some(Finding {
        severity: Severity::Warning,
        trouble: Trouble::Smaller,
        subject: record.id.to_string(),
        what: format!(
            "the file system of {} has {} of its {}: it did not grow with it",
            entry.title(),
            record.fs_bytes,
            entry.size
        ),
        mend,
    })
}

/// What this process would need to let a mounted file system grow.
fn lacking(fs: FsType) -> Option<&'static str> {
    match fs {
        FsType::Ext3 | FsType::Ext4 if !filesystem::grows_mounted(fs.as_str()) => {
            Some("grant the daemon the capability CAP_SYS_RESOURCE")
        }
        _ => None,
    }
}

fn not_grown(entry: &Entry, fs: FsType) -> Error {
    let what = format!("failed to grow the file system of {}", entry.title());
    match (lacking(fs), fs) {
        // To a kubelet, FAILED_PRECONDITION is growth that waits until nobody uses the volume.
        (Some(need), _) => Error::precondition(format!(
            "{what}, which is mounted: {need}, or unmount it everywhere and mount it again"
        )),
        (None, FsType::Ext2) => Error::precondition(format!(
            "{what}: ext2 does not grow while mounted; unmount it everywhere and mount it again"
        )),
        (None, _) => Error::internal(what),
    }
}
