//! Making a volume ready on this node: attach, make the file system if the volume is provably
//! blank, mount, grow to the device's size; and the way back.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use stowage_host::{Target, blocking, device, failpoint, filesystem, mount, probe};
use stowage_model::error::Context;
use stowage_model::filesystem::mount_options;
use stowage_model::record::Content;
use stowage_model::request::{Access, AccessMode, Provisioning, StageRequest};
use stowage_model::{Bytes, Error, FsType, Id, PoolKind, Result};
use stowage_pool::{Attach, Device, Written};

use crate::attachments::{Attachment, Of, Staging};
use crate::index::Entry;
use crate::journal::Intent;
use crate::local::Inner;
use crate::target::mount_at;

/// How often and how long detaching is tried again: the journal thread of an unmounted ext4 or
/// xfs holds the device for a moment after umount(2) has returned.
const DETACH_TRIES: u32 = 20;
const DETACH_PAUSE: Duration = Duration::from_millis(100);

impl Inner {
    pub(crate) async fn stage(self: &Arc<Self>, want: StageRequest) -> Result<()> {
        let _held = self.ops.begin(&want.id, "staging").await?;
        let entry = self.need_volume(&want.id)?;
        self.filled(&entry)?;
        let before = self.attachments.get(&want.id).staging;
        let plan = Plan::new(&entry, &want);
        if let Some(before) = &before
            && plan.as_ref().map(|p| &p.staging).ok() != Some(before)
            && (before.block || self.mounted_here(&entry, &before.path).await?)
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
            self.attachments.update(&want.id, note).await?;
        }
        failpoint::hit("node.stage.noted");
        let path = &plan.staging.path;
        let staged = match plan.fs {
            None => self.stage_block(entry.clone(), plan.staging.mode).await,
            Some(fs) => self.stage_mount(entry.clone(), fs, &plan.staging).await,
        };
        if staged.is_err()
            && before.is_none()
            && !self.mounted_here(&entry, path).await.unwrap_or(false)
        {
            // As if it had never been asked; the pool lets go of an unmounted device by itself.
            self.attachments
                .update(&want.id, |a| a.staging = None)
                .await?;
        }
        staged
    }

    async fn stage_block(self: &Arc<Self>, mut entry: Entry, mode: AccessMode) -> Result<()> {
        if becomes_raw(&mut entry, mode) {
            self.save_lazily(&entry).await?;
            failpoint::hit("node.stage.raw-noted");
        }
        entry
            .pool
            .attach(&entry.record, Attach::Held)
            .await
            .map(drop)
    }

    async fn stage_mount(
        self: &Arc<Self>,
        entry: Entry,
        fs: FsType,
        staging: &Staging,
    ) -> Result<()> {
        if self.mounted_here(&entry, &staging.path).await? {
            return self.catch_up(entry, fs, staging).await;
        }
        let target = open_staging(&staging.path).await?;
        let device = entry
            .pool
            .attach(&entry.record, Attach::UntilUnused)
            .await?;
        failpoint::hit("node.stage.attached");
        if entry.outgrown(&device) {
            // Nothing works on an unmounted file system that the kernel still has.
            self.unwedge(&entry).await;
        }
        let mut entry = entry;
        let staged = self
            .bring_up(&mut entry, fs, &device, target, staging)
            .await;
        if staged.is_err() {
            if let Err(e) = self.unmount_ours(&entry, &staging.path, false).await {
                tracing::warn!(volume.id = %entry.record.id, error = %e.chain(), "still mounted");
            }
            drop(device);
            if let Err(e) = self.detach(&entry).await {
                tracing::warn!(volume.id = %entry.record.id, error = %e.chain(), "still attached");
            }
        }
        staged
    }

    async fn bring_up(
        self: &Arc<Self>,
        entry: &mut Entry,
        fs: FsType,
        device: &Device,
        target: Target,
        staging: &Staging,
    ) -> Result<()> {
        let before = entry.record.clone();
        self.ensure_file_system(entry, fs, device).await?;
        self.before_mount(entry, fs, device, staging).await?;
        // Before the mount, not beside it: a mount outlives us, and whoever finds it after a kill
        // lets its consumer write to a volume whose record still says that it may be formatted.
        if entry.record != before {
            self.save_lazily(entry).await?;
        }
        failpoint::hit("node.stage.recorded");
        self.mount(entry, fs, device, target, staging).await?;
        failpoint::hit("node.stage.mounted");
        self.thaw_left(entry, &staging.path).await;
        entry.pool.refill(&entry.record).await?;
        let Err(e) = self.grow_outgrown(entry, fs, device, staging).await else {
            return Ok(());
        };
        if !fs.grows_unmounted() {
            return Err(e);
        }
        tracing::warn!(volume.id = %entry.record.id, error = %e.chain(), "growing it unmounted");
        self.unmount_ours(entry, &staging.path, false).await?;
        self.grow_unmounted(entry, fs, device).await?;
        self.save_lazily(entry).await?;
        let target = open_staging(&staging.path).await?;
        self.mount(entry, fs, device, target, staging).await
    }

    /// Make the record of a volume that is mounted already say what is there, and do what a kill
    /// after the mount left undone.
    async fn catch_up(
        self: &Arc<Self>,
        mut entry: Entry,
        fs: FsType,
        staging: &Staging,
    ) -> Result<()> {
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
            self.save_lazily(&entry).await?;
        }
        self.grow_outgrown(&mut entry, fs, &device, staging).await
    }

    async fn mount(
        &self,
        entry: &Entry,
        fs: FsType,
        device: &Device,
        target: Target,
        staging: &Staging,
    ) -> Result<()> {
        let mut options = match self.in_place(entry) {
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
        let holds = match probe::probe(&self.runner_of(entry), &device.path).await {
            Ok(content) => content.describe(),
            Err(_) => "something unreadable".to_owned(),
        };
        Err(Error::internal(format!(
            "failed to mount {} as {fs}; its device holds {holds}",
            entry.title()
        ))
        .caused_by(e))
    }

    /// Make sure that `fs` is on the device, making it only where the volume is provably blank:
    /// never handed out by our record, and nothing but zeros and no signature by the device.
    async fn ensure_file_system(
        self: &Arc<Self>,
        entry: &mut Entry,
        fs: FsType,
        device: &Device,
    ) -> Result<()> {
        match entry.record.content {
            Content::FileSystem(_) => Ok(()),
            // Such ones are refused when they are made; those of before are served as far as the
            // kernel takes them, with nothing written to the snapshot they show.
            Content::Twin(_) if self.in_place(entry) => Ok(()),
            Content::Blank if self.in_place(entry) => Err(Error::precondition(format!(
                "{} shows a snapshot that was cut before its volume was first mounted, and holds \
                 no file system to be read; delete it",
                entry.title()
            ))),
            Content::Blank => self.format(entry, fs, device).await,
            Content::Twin(_) => self.part_twins(entry, fs, device).await,
            Content::Raw | Content::Filling => self.adopt(entry, fs, device).await,
        }
    }

    async fn format(
        self: &Arc<Self>,
        entry: &mut Entry,
        fs: FsType,
        device: &Device,
    ) -> Result<()> {
        if !entry.half_formatted {
            if let Some(found) = self.found_on(entry, device).await? {
                return Err(Error::precondition(format!(
                    "{} should be blank, but its device {} holds {found}; it is not formatted. \
                     Save what is there if it matters, then delete the volume",
                    entry.title(),
                    device.path.display(),
                )));
            }
            let intent = Intent::mkfs(entry.pool.name(), &entry.record);
            self.note(&entry.record.id, intent).await?;
            entry.half_formatted = true;
            self.index.put(entry.clone());
        }
        failpoint::hit("node.stage.format-noted");
        filesystem::mkfs(
            &self.runner_of(entry),
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

    /// What is on a device that should be blank: by the pool's word where it has one, otherwise by
    /// what is read.
    pub(crate) async fn found_on(&self, entry: &Entry, device: &Device) -> Result<Option<String>> {
        let written = entry.pool.written(&entry.record).await?;
        if written == Written::Nothing {
            return Ok(None);
        }
        Ok(match (self.probe(entry, device).await?, written) {
            (probe::Content::Blank, Written::Something(what)) => Some(what),
            (probe::Content::Blank, _) => None,
            (content, _) => Some(content.describe()),
        })
    }

    async fn part_twins(
        self: &Arc<Self>,
        entry: &mut Entry,
        fs: FsType,
        device: &Device,
    ) -> Result<()> {
        filesystem::fresh_uuid(&self.runner_of(entry), fs.as_str(), &device.path)
            .await
            .or_internal(|| format!("failed to give {} a UUID of its own", entry.title()))?;
        failpoint::hit("node.stage.parted");
        entry.record.content = Content::FileSystem(fs);
        self.save(entry).await
    }

    /// A device that was handed out raw may be mounted only if its consumer made this very file
    /// system on it.
    async fn adopt(self: &Arc<Self>, entry: &mut Entry, fs: FsType, device: &Device) -> Result<()> {
        match self.probe(entry, device).await? {
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

    async fn probe(&self, entry: &Entry, device: &Device) -> Result<probe::Content> {
        probe::probe(&self.runner_of(entry), &device.path)
            .await
            .or_internal(|| format!("failed to look at what {} holds", entry.title()))
    }

    /// Detach, patiently.
    pub(crate) async fn detach(&self, entry: &Entry) -> Result<()> {
        for n in 1..DETACH_TRIES {
            if entry.pool.detach(&entry.record).await.is_ok() {
                return Ok(());
            }
            if n == DETACH_TRIES / 4 {
                self.unwedge(entry).await;
            }
            tokio::time::sleep(DETACH_PAUSE).await;
        }
        entry.pool.detach(&entry.record).await
    }

    /// Whether the volume's own device is mounted at `path`; something else there is an error.
    pub(crate) async fn mounted_here(&self, entry: &Entry, path: &Path) -> Result<bool> {
        let Some(found) = mount_at(path).await? else {
            return Ok(false);
        };
        if self.is_ours(entry, &found).await? {
            return Ok(true);
        }
        Err(Error::exists(format!(
            "{} is mounted at {} already; unmount it or use another path",
            found.source,
            path.display()
        )))
    }

    pub(crate) async fn is_ours(&self, entry: &Entry, found: &mount::Mount) -> Result<bool> {
        if self.device_of(entry).await? == Some(found.dev) {
            return Ok(true);
        }
        // btrfs shows a device number of its own; there the source names the device.
        let Some(attached) = entry.pool.attached(&entry.record).await? else {
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

    pub(crate) async fn unstage(self: &Arc<Self>, id: &Id, staging: &Path) -> Result<()> {
        let _held = self.ops.begin(id, "unstaging").await?;
        self.unstage_locked(id, staging).await
    }

    pub(crate) async fn unstage_locked(self: &Arc<Self>, id: &Id, staging: &Path) -> Result<()> {
        let Some(entry) = self.index.get(id) else {
            return self.end_unknown_use(id, staging).await;
        };
        let attachment = self.attachments.get(id);
        if let Some(target) = attachment.targets.keys().next() {
            return Err(Error::precondition(format!(
                "{} is still published at {}; unpublish it there first",
                entry.title(),
                target.display()
            )));
        }
        let known = attachment.staging.filter(|s| s.path == staging);
        let block = known.as_ref().is_some_and(|s| s.block);
        let ours = !block && self.mounted_here(&entry, staging).await.unwrap_or(false);
        if known.is_none() && !ours {
            // Never staged here: nothing to undo.
            return Ok(());
        }
        if !block {
            self.unmount_ours(&entry, staging, false).await?;
            failpoint::hit("node.unstage.unmounted");
        }
        self.detach(&entry).await?;
        failpoint::hit("node.unstage.detached");
        self.attachments.update(id, |a| a.staging = None).await
    }
}

/// Make the record of a volume that is handed out raw say so; tells whether it did not. Whatever file
/// system was on it, its consumer may write another one there, or half of one: it is no longer known to
/// be whole, nor made by us.
pub(crate) fn becomes_raw(entry: &mut Entry, mode: AccessMode) -> bool {
    let record = &mut entry.record;
    let becomes = match record.content {
        Content::Blank => true,
        Content::FileSystem(_) | Content::Twin(_) => {
            !record.read_only && mode != AccessMode::ReaderOnly
        }
        Content::Raw | Content::Filling => false,
    };
    if becomes {
        record.content = Content::Raw;
        record.fs_bytes = Bytes(0);
        entry.half_formatted = false;
    }
    becomes
}

/// What staging comes down to, checked before anything is touched.
pub(crate) struct Plan {
    fs: Option<FsType>,
    pub(crate) staging: Staging,
}

impl Plan {
    pub(crate) fn new(entry: &Entry, want: &StageRequest) -> Result<Self> {
        let record = &entry.record;
        let staging = |block, options| Staging {
            path: want.staging.clone(),
            block,
            options,
            mode: want.mode,
        };
        let Access::Mount { fs, flags } = &want.access else {
            if !record.usage.block {
                return Err(Error::invalid(format!(
                    "{} was made to be mounted, not to be used as a block device",
                    entry.title()
                )));
            }
            return Ok(Self {
                fs: None,
                staging: staging(true, Vec::new()),
            });
        };
        let Some(made_for) = record.usage.mount else {
            return Err(Error::invalid(format!(
                "{} was made as a block device and cannot be mounted",
                entry.title()
            )));
        };
        let held = record.content.file_system();
        let fs = match (held, fs) {
            (Some(held), Some(asked)) if held != *asked => {
                return Err(Error::invalid(format!(
                    "{} holds {held}; it cannot be mounted as {asked}",
                    entry.title()
                )));
            }
            (Some(held), _) => held,
            (None, asked) => asked.unwrap_or(made_for),
        };
        let mut options = mount_options(fs, flags)?;
        if record.read_only || want.mode == AccessMode::ReaderOnly {
            options.retain(|o| o != "rw");
            if !options.iter().any(|o| o == "ro") {
                options.push("ro".to_owned());
            }
        }
        Ok(Self {
            fs: Some(fs),
            staging: staging(false, options),
        })
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

fn without_discard(fs: FsType, mut options: Vec<String>) -> Vec<String> {
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

async fn open_staging(path: &Path) -> Result<Target> {
    let owned = path.to_owned();
    blocking(move || Target::open(&owned))
        .await
        .map_err(|e| bad_path("staging directory", path, e))
}

/// A path the caller gave that cannot be used: its own fault, said with the reason.
pub(crate) fn bad_path(
    what: &str,
    path: &Path,
    e: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> Error {
    Error::invalid(format!("the {what} {} cannot be used", path.display())).caused_by(e)
}

#[cfg(test)]
mod tests;
