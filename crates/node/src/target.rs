//! Handing a staged volume to one consumer, and taking it back.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use stowage_host::path::{TargetError, TargetKind};
use stowage_host::{Target, blocking, device, failpoint, loopdev, mount};
use stowage_model::error::Context;
use stowage_model::request::{Access, AccessMode, PublishRequest, StageRequest};
use stowage_model::{Error, Id, Result};

use crate::attachments::{Attachment, Of, Publication};
use crate::index::Entry;
use crate::local::Inner;
use crate::stage::{Plan, bad_path};

/// Permissions of a target directory before the volume's own root covers it.
const TARGET_MODE: u32 = 0o750;

impl Inner {
    pub(crate) async fn publish(self: &Arc<Self>, want: PublishRequest) -> Result<()> {
        let _held = self.ops.begin(&want.id, "publishing").await?;
        let entry = self.need_volume(&want.id)?;
        let before = self.attachments.get(&want.id);
        let publication = check(&entry, &before, &want)?;
        let known = before.targets.contains_key(&want.target);
        if !known {
            self.vet_target(Some(&entry), &want.target, publication.block)
                .await?;
        }
        let cgroup = match &want.cgroup {
            Some(path) => Some(path.clone()),
            None => self.consumer_of(&want.target).await,
        };
        let publication = Publication {
            cgroup,
            ..publication
        };
        let noted = (want.target.clone(), publication.clone());
        let of = Of::new(&entry);
        self.attachments
            .update(&want.id, |a| {
                a.of = Some(of);
                a.left.remove(&noted.0);
                a.unmounted.remove(&noted.0);
                a.targets.insert(noted.0, noted.1);
            })
            .await?;
        failpoint::hit("node.publish.noted");
        let published = async {
            self.bind(&entry, &want, &publication).await?;
            failpoint::hit("node.publish.bound");
            self.throttle(&entry, &publication).await
        };
        let published = published.await;
        if published.is_err() && !known {
            self.undo_publication(&entry, &want.target).await;
        }
        published
    }

    async fn bind(
        &self,
        entry: &Entry,
        want: &PublishRequest,
        publication: &Publication,
    ) -> Result<()> {
        let path = want.target.clone();
        if publication.block {
            let source = self.block_source(entry, publication.read_only).await?;
            return blocking(move || {
                let target =
                    Target::create_file(&path).map_err(|e| bad_path("target path", &path, e))?;
                let failed = || format!("failed to look at {}", source.display());
                let wanted = device::devno(&source).or_internal(failed)?;
                // What is no device yet is the empty file to bind upon.
                if device::devno(&path).ok() == Some(wanted) {
                    return Ok(());
                }
                failpoint::hit("node.publish.made");
                // Never a read-only bind: on a device node it would protect nothing.
                mount::bind(&source, &target, false)
                    .or_internal(|| format!("failed to publish at {}", path.display()))
            })
            .await;
        }
        if self.mounted_here(entry, &path).await? {
            return Ok(());
        }
        if !self.mounted_here(entry, &want.staging).await? {
            return Err(Error::precondition(format!(
                "{} is not mounted at its staging directory {}; stage it again",
                entry.title(),
                want.staging.display()
            )));
        }
        let (source, read_only) = (want.staging.clone(), publication.read_only);
        blocking(move || {
            let target = Target::create_dir(&path, TARGET_MODE)
                .map_err(|e| bad_path("target path", &path, e))?;
            failpoint::hit("node.publish.made");
            mount::bind(&source, &target, read_only)
                .or_internal(|| format!("failed to publish at {}", path.display()))
        })
        .await
    }

    /// The device node to bind: the volume's own, or for a reader a read-only loop device over
    /// it, since a read-only mount of a device node does not keep anybody from writing to it.
    async fn block_source(&self, entry: &Entry, read_only: bool) -> Result<PathBuf> {
        let attached = entry.pool.attached(&entry.record).await?.ok_or_else(|| {
            Error::precondition(format!("{} is not attached; stage it again", entry.title()))
        })?;
        if !read_only {
            return Ok(attached.path);
        }
        let title = entry.title();
        blocking(move || {
            let failed = || format!("failed to make {title} read-only");
            if let Some(reader) = loopdev::readers(&attached.path)
                .or_internal(failed)?
                .into_iter()
                .next()
            {
                return Ok(reader);
            }
            let options = loopdev::Options {
                read_only: true,
                autoclear: false,
                block_size: None,
                keep_blocks: false,
            };
            Ok(loopdev::attach(&attached.path, options)
                .or_internal(failed)?
                .path
                .clone())
        })
        .await
    }

    async fn undo_publication(&self, entry: &Entry, target: &Path) {
        if let Err(e) = self.take_back(entry, target).await {
            tracing::warn!(volume.id = %entry.record.id, volume.path = %target.display(),
                error = %e.chain(), "failed publication not undone");
        }
    }

    pub(crate) async fn unpublish(self: &Arc<Self>, id: &Id, target: &Path) -> Result<()> {
        let _held = self.ops.begin(id, "unpublishing").await?;
        let Some(entry) = self.index.get(id) else {
            return self.end_unknown_use(id, target).await;
        };
        let noted = self.attachments.get(id);
        let known = noted.targets.contains_key(target);
        if known || self.mounted_here(&entry, target).await.unwrap_or(false) {
            self.take_back(&entry, target).await?;
        } else if noted.left.contains(target) {
            self.clear_away(id, target).await?;
        }
        if entry.record.ephemeral && self.attachments.get(id).targets.is_empty() {
            self.end_ephemeral_locked(&entry).await?;
        }
        Ok(())
    }

    /// Look at a target before it is noted as ours: nothing may be there, or something empty that
    /// can be mounted upon. Whatever else it is belongs to somebody, and undoing a publication
    /// that fails later must not find it.
    pub(crate) async fn vet_target(
        &self,
        entry: Option<&Entry>,
        path: &Path,
        block: bool,
    ) -> Result<()> {
        let ours = match entry {
            Some(entry) => self.ours_at(entry, path, block).await?,
            None => Mounted::of(mount_at(path).await?, false),
        };
        match ours {
            Mounted::Ours => return Ok(()),
            Mounted::Foreign(source) => {
                return Err(Error::exists(format!(
                    "{source} is mounted at {} already; unmount it or use another path",
                    path.display()
                )));
            }
            Mounted::Nothing => {}
        }
        let owned = path.to_owned();
        blocking(move || vacant(&owned, block)).await
    }

    /// What is mounted at `path`, on top.
    pub(crate) async fn ours_at(&self, entry: &Entry, path: &Path, block: bool) -> Result<Mounted> {
        let Some(found) = mount_at(path).await? else {
            return Ok(Mounted::Nothing);
        };
        let Some(attached) = entry.pool.attached(&entry.record).await? else {
            // Its device cannot be told any more (the pool went away under it); our notes can.
            let noted = self.attachments.get(&entry.record.id);
            let ours = noted.paths().any(|known| known == path);
            return Ok(Mounted::of(Some(found), ours));
        };
        if !block {
            let ours = self.is_ours(entry, &found).await?;
            return Ok(Mounted::of(Some(found), ours));
        }
        let (path, title) = (path.to_owned(), entry.title());
        let ours = blocking(move || {
            let failed = || format!("failed to look for the devices of {title}");
            let Ok(here) = device::devno(&path) else {
                return Ok::<bool, Error>(false);
            };
            if device::devno(&attached.path).or_internal(failed)? == here {
                return Ok(true);
            }
            let readers = loopdev::readers(&attached.path).or_internal(failed)?;
            Ok(readers.iter().any(|r| device::devno(r).ok() == Some(here)))
        })
        .await?;
        Ok(Mounted::of(Some(found), ours))
    }

    /// Unmount what is ours at `path`, and nothing else: what somebody mounted over it is an
    /// error.
    pub(crate) async fn unmount_ours(&self, entry: &Entry, path: &Path, block: bool) -> Result<()> {
        loop {
            match self.ours_at(entry, path, block).await? {
                Mounted::Nothing => return Ok(()),
                Mounted::Foreign(source) => {
                    return Err(Error::precondition(format!(
                        "{source} is mounted over {} at {}; unmount it there first",
                        entry.title(),
                        path.display()
                    )));
                }
                Mounted::Ours => {}
            }
            if !block {
                self.thaw_last(entry, path).await;
            }
            let owned = path.to_owned();
            blocking(move || mount::unmount(&owned))
                .await
                .map_err(|e| match e {
                    mount::MountError::Busy { .. } => {
                        Error::precondition(format!("{} is in use", path.display())).caused_by(e)
                    }
                    mount::MountError::Target(e) => bad_path("target path", path, e),
                    e => Error::internal(format!("failed to unmount {}", path.display()))
                        .caused_by(e),
                })?;
        }
    }

    /// Undo a publication: unmount, lift the limits, remove the target, forget it.
    async fn take_back(&self, entry: &Entry, target: &Path) -> Result<()> {
        let id = &entry.record.id;
        let publication = self.attachments.get(id).targets.remove(target);
        let block = publication.as_ref().is_some_and(|p| p.block);
        self.unmount_ours(entry, target, block).await?;
        failpoint::hit("node.unpublish.unmounted");
        // Afterwards: a consumer that is still busy keeps its limits.
        if let Some(publication) = &publication {
            self.unthrottle(entry, publication).await;
        }
        let path = target.to_owned();
        blocking(move || {
            Target::remove(&path).map_err(|e| bad_path("target path", &path, e))?;
            failpoint::hit("node.unpublish.removed");
            Ok::<(), Error>(())
        })
        .await?;
        // Before the target is forgotten: afterwards a call that is repeated after a kill would
        // find nothing to undo, and the device would stay.
        if publication.is_some_and(|p| p.block && p.read_only) {
            let gone = [target.to_owned()];
            self.drop_reader_device(entry, &gone).await?;
            failpoint::hit("node.unpublish.reader-dropped");
        }
        let (target, ephemeral) = (target.to_owned(), entry.record.ephemeral);
        self.attachments
            .update(id, move |a| {
                a.targets.remove(&target);
                a.ending |= ephemeral && a.targets.is_empty();
            })
            .await
    }

    /// Remove what an earlier boot made to publish upon, unless it is somebody's by now.
    async fn clear_away(&self, id: &Id, target: &Path) -> Result<()> {
        if mount_at(target).await?.is_none() {
            let path = target.to_owned();
            let removed = blocking(move || Target::remove(&path)).await;
            if let Err(e) = removed {
                tracing::warn!(volume.id = %id, error = %e, "left as it is");
            }
        }
        let target = target.to_owned();
        self.attachments
            .update(id, move |a| {
                a.left.remove(&target);
                a.unmounted.remove(&target);
            })
            .await
    }

    /// Detach the read-only loop device unless a target other than these uses it.
    pub(crate) async fn drop_reader_device(&self, entry: &Entry, gone: &[PathBuf]) -> Result<()> {
        let mut rest = self.attachments.get(&entry.record.id).targets;
        rest.retain(|target, _| !gone.contains(target));
        if rest.values().any(|p| p.block && p.read_only) {
            return Ok(());
        }
        let Some(attached) = entry.pool.attached(&entry.record).await? else {
            return Ok(());
        };
        let title = entry.title();
        blocking(move || {
            let failed = || format!("failed to detach the read-only device of {title}");
            for path in loopdev::readers(&attached.path).or_internal(failed)? {
                loopdev::detach(&path).or_internal(failed)?;
            }
            Ok(())
        })
        .await
    }
}

/// What is mounted somewhere, on top.
pub(crate) enum Mounted {
    Nothing,
    Ours,
    /// Somebody else's: its source.
    Foreign(String),
}

impl Mounted {
    fn of(found: Option<mount::Mount>, ours: bool) -> Self {
        match found {
            None => Self::Nothing,
            Some(_) if ours => Self::Ours,
            Some(foreign) => Self::Foreign(foreign.source),
        }
    }
}

/// What is mounted anywhere, for who asks about many places.
pub(crate) async fn mounts() -> Result<mount::Table> {
    blocking(mount::Table::read)
        .await
        .or_internal(|| "failed to read the mount table".to_owned())
}

pub(crate) async fn mount_at(path: &Path) -> Result<Option<mount::Mount>> {
    let path = path.to_owned();
    blocking(move || mount::at(&path))
        .await
        .or_internal(|| "failed to read the mount table".to_owned())
}

/// Whether `path` is free to be mounted upon: absent, or empty and of the right kind.
fn vacant(path: &Path, block: bool) -> Result<()> {
    let bad = |e| bad_path("target path", path, e);
    let target = match Target::open(path) {
        Ok(target) => target,
        Err(TargetError::Missing { .. }) => return Ok(()),
        Err(e) => return Err(bad(e)),
    };
    let (expected, found) = match (block, target.kind()) {
        (false, TargetKind::Directory) => {
            if target.is_empty_dir().map_err(bad)? {
                return Ok(());
            }
            ("an empty directory", "a directory with something in it")
        }
        (true, TargetKind::File) => {
            let length = std::fs::metadata(target.proc_path())
                .or_internal(|| format!("failed to look at {}", path.display()))?
                .len();
            if length == 0 {
                return Ok(());
            }
            ("an empty file", "a file with something in it")
        }
        (false, _) => ("a directory", "a file or device"),
        (true, TargetKind::Directory) => ("a file", "a directory"),
        (true, TargetKind::Block) => ("a file", "a device"),
    };
    Err(Error::invalid(format!(
        "the target path {} cannot be used: it is {found}, not {expected}",
        path.display()
    )))
}

fn check(entry: &Entry, before: &Attachment, want: &PublishRequest) -> Result<Publication> {
    let title = entry.title();
    let Some(staging) = before.staging.as_ref().filter(|s| s.path == want.staging) else {
        return Err(Error::precondition(format!(
            "{title} is not staged at {}; stage it first",
            want.staging.display()
        )));
    };
    let block = want.access == Access::Block;
    if block != staging.block {
        return Err(Error::invalid(format!(
            "{title} is staged {}, so it cannot be published otherwise",
            if staging.block {
                "as a block device"
            } else {
                "as a file system"
            }
        )));
    }
    let known = before.targets.get(&want.target);
    let asked = StageRequest {
        id: want.id.clone(),
        staging: want.staging.clone(),
        access: want.access.clone(),
        mode: staging.mode,
    };
    // A bind shows the file system as it was staged, whatever is asked of it.
    if Plan::new(entry, &asked)?.staging != *staging {
        let text = format!(
            "{title} is staged with the mount options {:?} and cannot be published with others; \
             unstage it first",
            staging.options
        );
        return Err(match known {
            Some(_) => Error::exists(text),
            None => Error::invalid(text),
        });
    }
    let publication = Publication {
        block,
        read_only: want.read_only
            || entry.record.read_only
            || want.mode == AccessMode::ReaderOnly
            || staging.mode == AccessMode::ReaderOnly,
        mode: want.mode,
        cgroup: None,
    };
    if let Some(same) = known {
        let same = Publication {
            cgroup: None,
            ..same.clone()
        };
        if same != publication {
            return Err(Error::exists(format!(
                "{title} is mounted at {} in another way (read-only or not, say); unmount it there first",
                want.target.display()
            )));
        }
        return Ok(publication);
    }
    let single = |mode: AccessMode| mode == AccessMode::SingleNodeSingleWriter;
    let others = before.targets.values().map(|p| p.mode);
    if !before.targets.is_empty() && (single(want.mode) || others.into_iter().any(single)) {
        let at: Vec<String> = before
            .targets
            .keys()
            .map(|p| p.display().to_string())
            .collect();
        return Err(Error::precondition(format!(
            "{title} may have a single writer and is published at {}",
            at.join(", ")
        )));
    }
    Ok(publication)
}
