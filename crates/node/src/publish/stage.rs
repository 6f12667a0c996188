//! Making a volume ready on this node: attach, make the file system if the volume is provably blank,
//! mount, grow to the device's size.

use std::path::Path;
use std::sync::Arc;

use stowage_host::{Target, blocking, failpoint, mount, probe};
use stowage_model::record::Content;
use stowage_model::request::{AccessMode, StageRequest};
use stowage_model::{Error, FsType, Result};
use stowage_pool::{Attach, Device};

use crate::activation::{detach, runner_of};
use crate::lookup::{filled, need_volume};
use crate::mounts::{bad_path, mount_at, mounted_here};
use crate::publish::format::ensure_file_system;
use crate::publish::plan::{Plan, becomes_raw};
use crate::publish::resize::{before_mount, grow_outgrown, grow_unmounted};
use crate::publish::unmount::unmount_ours;
use crate::records::save_lazily;
use crate::state::Node;
use crate::state::attachments::{Attachment, Of, Staging};
use crate::state::index::Entry;
use crate::thaw::{thaw_left, unwedge};

pub(crate) async fn stage(node: &Arc<Node>, want: StageRequest) -> Result<()> {
    let _held = node.ops().begin(&want.id, "staging").await?;
    stage_locked(node, want).await
}

/// As [`stage`], for a caller that holds the volume.
pub(crate) async fn stage_locked(node: &Arc<Node>, want: StageRequest) -> Result<()> {
    let entry = need_volume(node, &want.id)?;
    let before = node.attachments().get(&want.id).staging;
    if let Err(e) = entry.understood() {
        let staged = before.filter(|before| before.path == want.staging);
        return match staged {
            // It stays as it is.
            Some(s) if s.block || mounted_here(&entry, &s.path).await? => Ok(()),
            _ => Err(e),
        };
    }
    filled(node, &entry)?;
    let plan = Plan::new(&entry, &want);
    if let Some(before) = &before
        && plan.as_ref().map(|p| &p.staging).ok() != Some(before)
        && (before.block || mounted_here(&entry, &before.path).await?)
    {
        let other = Error::exists(format!(
            "{} is staged at {} in another way; unstage it there first",
            entry.title(),
            before.path.display()
        ));
        return Err(match plan {
            Ok(_) => other,
            Err(e) => other.caused_by(e),
        });
    }
    let plan = plan?;
    if before.as_ref() != Some(&plan.staging) {
        let (staging, of) = (plan.staging.clone(), Of::new(&entry));
        let note = |a: &mut Attachment| {
            a.staging = Some(staging);
            a.of = Some(of);
        };
        node.attachments().update(&want.id, note).await?;
    }
    failpoint::hit("node.stage.noted");
    let path = &plan.staging.path;
    let staged = match plan.fs {
        None => stage_block(node, entry.clone(), plan.staging.mode).await,
        Some(fs) => stage_mount(node, entry.clone(), fs, &plan.staging).await,
    };
    if staged.is_err() && before.is_none() && !mounted_here(&entry, path).await.unwrap_or(false) {
        // As if it had never been asked; the pool lets go of an unmounted device by itself.
        node.attachments()
            .update(&want.id, |a| a.staging = None)
            .await?;
    }
    staged
}

async fn stage_block(node: &Arc<Node>, mut entry: Entry, mode: AccessMode) -> Result<()> {
    if becomes_raw(&mut entry, mode) {
        save_lazily(node, &entry).await?;
        failpoint::hit("node.stage.raw-noted");
    }
    entry
        .pool
        .attach(&entry.record, Attach::Held)
        .await
        .map(drop)
}

async fn stage_mount(node: &Arc<Node>, entry: Entry, fs: FsType, staging: &Staging) -> Result<()> {
    if mounted_here(&entry, &staging.path).await? {
        return catch_up(node, entry, fs, staging).await;
    }
    let target = open_staging(&staging.path).await?;
    let device = entry
        .pool
        .attach(&entry.record, Attach::UntilUnused)
        .await?;
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
        if let Err(e) = detach(node, &entry).await {
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
    entry.pool.refill(&entry.record).await?;
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
    let Some(device) = entry.pool.attached(&entry.record).await? else {
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

pub(crate) async fn mount(
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

#[cfg(test)]
mod tests;
