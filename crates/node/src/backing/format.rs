//! Making the file system of a volume that is provably blank, and taking over one that its consumer made.

use std::sync::Arc;

use stowage_host::{failpoint, filesystem, probe};
use stowage_model::error::Context;
use stowage_model::record::Content;
use stowage_model::request::Provisioning;
use stowage_model::{Error, FsType, PoolKind, Result};
use stowage_pool::Device;

use crate::backing::activation::runner_of;
use crate::backing::content::{found_on, probe};
use crate::records::{note, save};
use crate::state::Node;
use crate::state::entry::Entry;
use crate::state::journal::Intent;

/// Make sure that `fs` is on the device, making it only where the volume is provably blank:
/// never handed out by our record, and nothing but zeros and no signature by the device.
pub(crate) async fn ensure_file_system(
    node: &Arc<Node>,
    entry: &mut Entry,
    fs: FsType,
    device: &Device,
) -> Result<()> {
    match entry.record.content {
        Content::FileSystem(_) => Ok(()),
        // Such ones are refused when they are made; those of before are served as far as the
        // kernel takes them, with nothing written to the snapshot they show.
        Content::Twin(_) if node.index().in_place(entry) => Ok(()),
        Content::Blank if node.index().in_place(entry) => Err(Error::precondition(format!(
            "{} shows a snapshot that was cut before its volume was first mounted, and holds \
             no file system to be read; delete it",
            entry.title()
        ))),
        Content::Blank => format(node, entry, fs, device).await,
        Content::Twin(_) => part_twins(node, entry, fs, device).await,
        Content::Raw | Content::Filling => adopt(node, entry, fs, device).await,
    }
}

async fn format(node: &Arc<Node>, entry: &mut Entry, fs: FsType, device: &Device) -> Result<()> {
    if !entry.half_formatted {
        if let Some(found) = found_on(node, entry, device).await? {
            return Err(Error::precondition(format!(
                "{} should be blank, but its device {} holds {found}; it is not formatted. \
                 Save what is there if it matters, then delete the volume",
                entry.title(),
                device.path.display(),
            )));
        }
        let intent = Intent::mkfs(entry.pool.name(), &entry.record);
        note(node, &entry.record.id, intent).await?;
        entry.half_formatted = true;
        node.index().put(entry.clone());
    }
    failpoint::hit("node.stage.format-noted");
    filesystem::mkfs(
        &runner_of(node, entry),
        fs.as_str(),
        &device.path,
        &mkfs_options(fs, entry),
        None,
    )
    .await
    .or_internal(|| {
        let (title, options) = (entry.title(), entry.record.mkfs.join(" "));
        match options.as_str() {
            "" => format!("failed to make {fs} on {title}"),
            _ => format!(
                "failed to make {fs} on {title} with the mkfs options {options} (if one of these \
                 is wrong, delete the volume and create it with others)"
            ),
        }
    })?;
    failpoint::hit("node.stage.formatted");
    entry.half_formatted = false;
    entry.record.content = Content::FileSystem(fs);
    entry.record.fs_bytes = device.size;
    Ok(())
}

async fn part_twins(
    node: &Arc<Node>,
    entry: &mut Entry,
    fs: FsType,
    device: &Device,
) -> Result<()> {
    filesystem::fresh_uuid(&runner_of(node, entry), fs.as_str(), &device.path)
        .await
        .or_internal(|| format!("failed to give {} a UUID of its own", entry.title()))?;
    failpoint::hit("node.stage.parted");
    entry.record.content = Content::FileSystem(fs);
    save(node, entry).await
}

/// A device that was handed out raw may be mounted only if its consumer made this very file
/// system on it.
async fn adopt(node: &Arc<Node>, entry: &mut Entry, fs: FsType, device: &Device) -> Result<()> {
    match probe(node, entry, device).await? {
        probe::Content::Filesystem { fstype, .. } if fstype == fs.as_str() => {
            entry.record.content = Content::FileSystem(fs);
            Ok(())
        }
        found => Err(Error::precondition(format!(
            "{} was handed out as a raw device and holds {}; it is not formatted. Use it as a \
             block device, or make {fs} on it yourself",
            entry.title(),
            found.describe()
        ))),
    }
}

/// mkfs options with a block or sector size of 4096 unless the class names one: mkfs would take
/// less on a device with 512-byte sectors, and the copy of such a file system in a pool with
/// 4096-byte sectors could not be mounted.
fn portable(fs: FsType, options: &[String]) -> Vec<String> {
    let default = match fs {
        FsType::Ext2 | FsType::Ext3 | FsType::Ext4 => ["-b", "4096"],
        FsType::Xfs => ["-s", "size=4096"],
        FsType::Btrfs => return options.to_vec(),
    };
    let mut all = options.to_vec();
    if !options.iter().any(|o| o == default[0]) {
        all.extend(default.map(str::to_owned));
    }
    all
}

/// What mkfs of a volume gets. Discarding saves time, and takes the blocks of a thick file, which
/// others may have by the time it is filled again.
fn mkfs_options(fs: FsType, entry: &Entry) -> Vec<String> {
    let options = portable(fs, &entry.record.mkfs);
    let thick = entry.record.provisioning == Provisioning::Thick;
    match thick && entry.pool.kind() == PoolKind::File {
        true => without_discard(fs, options),
        false => options,
    }
}

pub(crate) fn without_discard(fs: FsType, mut options: Vec<String>) -> Vec<String> {
    let (FsType::Ext2 | FsType::Ext3 | FsType::Ext4) = fs else {
        options.push("-K".to_owned());
        return options;
    };
    // mke2fs(8) takes the last -E for all of them.
    match options.iter().rposition(|o| o == "-E") {
        Some(at) if at + 1 < options.len() => options[at + 1].push_str(",nodiscard"),
        _ => options.extend(["-E", "nodiscard"].map(str::to_owned)),
    }
    options
}
