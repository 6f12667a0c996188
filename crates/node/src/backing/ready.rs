//! Making a volume ready: attach, make the file system if the volume is provably blank, mount, grow to the
//! device's size.

use std::path::Path;
use std::sync::Arc;

use stowage_host::{Target, blocking, failpoint, mount, probe};
use stowage_model::record::Content;
use stowage_model::{Error, FsType, Result};
use stowage_pool::{Attach, Backing, Device};

use crate::backing::activation::{let_go, runner_of};
use crate::backing::device::{attach, attached};
use crate::backing::format::ensure_file_system;
use crate::backing::resize::{before_mount, grow_outgrown, grow_unmounted};
use crate::backing::thaw::{thaw_left, unwedge};
use crate::backing::unmount::unmount_ours;
use crate::mounts::{bad_path, mount_at, mounted_here};
use crate::records::save_lazily;
use crate::state::Node;
use crate::state::attachments::Staging;
use crate::state::entry::Entry;

/// Make a volume ready at the staging directory: its device, its file system where it is provably blank, its
/// mount, and its growth. Where it is mounted there, what a kill left undone is done.
pub(crate) async fn make_ready(
    node: &Arc<Node>,
    entry: Entry,
    fs: FsType,
    staging: &Staging,
) -> Result<()> {
    if mounted_here(&entry, &staging.path).await? {
        return catch_up(node, entry, fs, staging).await;
    }
    let target = open_staging(&staging.path).await?;
    let device = attach(&entry, Attach::UntilUnused).await?;
    failpoint::hit("node.stage.attached");
    if entry.outgrown(&device) {
        // Nothing works on an unmounted file system that the kernel still has.
        unwedge(node, &entry).await;
    }
    let mut entry = entry;
    let staged = bring_up(node, &mut entry, fs, &device, target, staging).await;
    if staged.is_err() {
        if let Err(e) = unmount_ours(node, &entry, &staging.path, false).await {
            tracing::warn!(volume.id = %entry.record.id, error = %e.chain(), "still mounted");
        }
        drop(device);
        if let Err(e) = let_go(node, &entry).await {
            tracing::warn!(volume.id = %entry.record.id, error = %e.chain(), "still attached");
        }
    }
    staged
}

async fn bring_up(
    node: &Arc<Node>,
    entry: &mut Entry,
    fs: FsType,
    device: &Device,
    target: Target,
    staging: &Staging,
) -> Result<()> {
    let before = entry.record.clone();
    ensure_file_system(node, entry, fs, device).await?;
    before_mount(node, entry, fs, device, staging).await?;
    // Before the mount, not beside it: a mount outlives us, and whoever finds it after a kill
    // lets its consumer write to a volume whose record still says that it may be formatted.
    if entry.record != before {
        save_lazily(node, entry).await?;
    }
    failpoint::hit("node.stage.recorded");
    mount(node, entry, fs, device, target, staging).await?;
    failpoint::hit("node.stage.mounted");
    thaw_left(entry, &staging.path).await;
    let Backing::Block(devices) = entry.pool.backing();
    devices.refill(&entry.record).await?;
    let Err(e) = grow_outgrown(node, entry, fs, device, staging).await else {
        return Ok(());
    };
    if !fs.grows_unmounted() {
        return Err(e);
    }
    tracing::warn!(volume.id = %entry.record.id, error = %e.chain(), "growing it unmounted");
    unmount_ours(node, entry, &staging.path, false).await?;
    grow_unmounted(node, entry, fs, device).await?;
    save_lazily(node, entry).await?;
    let target = open_staging(&staging.path).await?;
    mount(node, entry, fs, device, target, staging).await
}

/// Make the record of a volume that is mounted already say what is there, and do what a kill
/// after the mount left undone.
async fn catch_up(node: &Arc<Node>, mut entry: Entry, fs: FsType, staging: &Staging) -> Result<()> {
    let Some(device) = attached(&entry).await? else {
        return Ok(());
    };
    let unmade = matches!(entry.record.content, Content::Blank | Content::Raw);
    if unmade || entry.half_formatted {
        let found = mount_at(&staging.path).await?;
        if let Some(found) = found.filter(|f| f.fstype != fs.as_str()) {
            return Err(Error::exists(format!(
                "{} is mounted at {} as {}; unstage it there first",
                entry.title(),
                staging.path.display(),
                found.fstype
            )));
        }
        if entry.record.content == Content::Blank {
            // Nobody but us made it, over all of the device.
            entry.record.fs_bytes = device.size;
        }
        entry.record.content = Content::FileSystem(fs);
        entry.half_formatted = false;
        save_lazily(node, &entry).await?;
    }
    grow_outgrown(node, &mut entry, fs, &device, staging).await
}

async fn mount(
    node: &Node,
    entry: &Entry,
    fs: FsType,
    device: &Device,
    target: Target,
    staging: &Staging,
) -> Result<()> {
    let mut options = match node.index().in_place(entry) {
        true => fs.untouched(&staging.options),
        false => staging.options.clone(),
    };
    // A clone bears its source's UUID, and either may be mounted first (xfs(5), nouuid).
    if fs == FsType::Xfs && !options.iter().any(|o| o == "nouuid") {
        options.push("nouuid".to_owned());
    }
    let path = device.path.clone();
    let mounted =
        blocking(move || mount::mount_device(&path, &target, fs.as_str(), &options)).await;
    let Err(e) = mounted else { return Ok(()) };
    let holds = match probe::probe(&runner_of(node, entry), &device.path).await {
        Ok(content) => content.describe(),
        Err(_) => "something unreadable".to_owned(),
    };
    Err(Error::internal(format!(
        "failed to mount {} as {fs}; its device holds {holds}",
        entry.title()
    ))
    .caused_by(e))
}

async fn open_staging(path: &Path) -> Result<Target> {
    let owned = path.to_owned();
    blocking(move || Target::open(&owned))
        .await
        .map_err(|e| bad_path("staging directory", path, e))
}
