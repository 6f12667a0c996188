//! Mounting for callers that know no staging: people at a shell, and doors whose protocol has one
//! step. The volume is staged at a directory of ours before its first target and unstaged after
//! its last.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::stream::{self, StreamExt};
use stowage_host::{Target, durable, mount};
use stowage_model::error::Context;
use stowage_model::request::{Access, AccessMode, PublishRequest, StageRequest};
use stowage_model::{Bytes, Error, Id, Result};

use crate::attachments::{Attachment, OWN_STAGING, unwritten};
use crate::kubelet::{settled, settled_now};
use crate::local::{Inner, Local};

/// A volume to bring to one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountRequest {
    /// The volume.
    pub id: Id,
    /// Directory (or file, for a block volume) to make; its parent exists.
    pub target: PathBuf,
    /// Mount options as given; they count for the first target only.
    pub flags: Vec<String>,
    /// The consumer may only read.
    pub read_only: bool,
    /// The consumer's cgroup.
    pub cgroup: Option<PathBuf>,
}

impl Local {
    /// Stage if need be, and publish.
    ///
    /// # Errors
    /// As [`stowage_model::Publish::stage`] and [`stowage_model::Publish::publish`].
    pub async fn mount(&self, mut want: MountRequest) -> Result<()> {
        want.target = settled(want.target).await;
        let me = Arc::clone(&self.inner);
        self.inner
            .ops
            .detached(async move { me.mount_simply(want).await })
            .await
    }

    /// Unpublish, and unstage after the last target.
    ///
    /// # Errors
    /// As [`stowage_model::Publish::unpublish`] and [`stowage_model::Publish::unstage`];
    /// [`stowage_model::Kind::NotFound`] when the volume is not there.
    pub async fn unmount(&self, id: &Id, target: &Path) -> Result<()> {
        let target = settled(target.to_owned()).await;
        let (me, id) = (Arc::clone(&self.inner), id.clone());
        self.inner
            .ops
            .detached(async move { me.unmount_simply(&id, &target).await })
            .await
    }

    /// The volume that is in use at this path, or was before the machine or the daemon was restarted.
    pub fn volume_at(&self, target: &Path) -> Option<Id> {
        let target = settled_now(target);
        let all = self.inner.attachments.all();
        let used = |a: &Attachment| a.targets.contains_key(&target);
        let ended = |a: &Attachment| a.left.contains(&target);
        let found = all.iter().find(|(_, a)| used(a)).or_else(|| {
            // What somebody else has mounted there since is not ours to unmount.
            let free = matches!(mount::at(&target), Ok(None));
            all.iter().find(|(_, a)| free && ended(a))
        });
        found.map(|(id, _)| id.clone())
    }

    /// Whether a volume is larger than its pool would make it of this size.
    ///
    /// # Errors
    /// [`stowage_model::Kind::NotFound`] when the volume is not there; those of
    /// [`stowage_pool::Pool::rounded`].
    pub async fn exceeds(&self, id: &Id, size: Bytes) -> Result<bool> {
        let entry = self.inner.need_volume(id)?;
        Ok(entry.size > entry.pool.rounded(&entry.record, size).await?)
    }

    /// Grow the file system of a volume to the volume's size where it is mounted, if it is.
    ///
    /// # Errors
    /// As [`stowage_model::Publish::expand`].
    pub async fn expand_if_mounted(&self, id: &Id) -> Result<Option<Bytes>> {
        let Some(staging) = self.inner.attachments.get(id).staging.filter(|s| !s.block) else {
            return Ok(None);
        };
        let (me, id) = (Arc::clone(&self.inner), id.clone());
        let work = async move { me.expand(&id, &staging.path, None).await };
        self.inner.ops.detached(work).await.map(Some)
    }
}

impl Inner {
    async fn mount_simply(self: &Arc<Self>, want: MountRequest) -> Result<()> {
        let entry = self.need_volume(&want.id)?;
        let mode = AccessMode::SingleNodeMultiWriter;
        let staged = self.attachments.get(&want.id).staging;
        let (staging, access, staged_for) = match &staged {
            // As it was staged, whatever is asked.
            Some(s) => {
                if s.path == self.own_staging_path(&want.id) {
                    // It may be gone: somebody unmounted the volume and tidied up.
                    self.own_staging(&want.id)?;
                }
                (s.path.clone(), s.access(), s.mode)
            }
            None => {
                let access = match entry.record.usage.mount {
                    None => Access::Block,
                    Some(_) => Access::Mount {
                        fs: None,
                        flags: want.flags,
                    },
                };
                (self.own_staging(&want.id)?, access, mode)
            }
        };
        let id = want.id.clone();
        self.stage(StageRequest {
            id: id.clone(),
            staging: staging.clone(),
            access: access.clone(),
            mode: staged_for,
        })
        .await?;
        let published = self
            .publish(PublishRequest {
                id: id.clone(),
                staging: staging.clone(),
                target: want.target,
                access,
                mode,
                read_only: want.read_only,
                cgroup: want.cgroup,
            })
            .await;
        if published.is_err() && staged.is_none() {
            self.unstage(&id, &staging).await?;
            self.remove_own_staging(&staging)?;
        }
        published
    }

    async fn unmount_simply(self: &Arc<Self>, id: &Id, target: &Path) -> Result<()> {
        let entry = self.need_volume(id)?;
        let noted = self.attachments.get(id);
        let known = noted.targets.contains_key(target) || noted.left.contains(target);
        let mounted = || mount::at(target).ok().flatten().is_some();
        if !known && !mounted() {
            return Err(Error::not_found(format!(
                "{} is not mounted at {}",
                entry.title(),
                target.display()
            )));
        }
        self.unpublish(id, target).await?;
        let rest = self.attachments.get(id);
        let own = self.own_staging_path(id);
        if rest.targets.is_empty() && rest.staging.is_some_and(|s| s.path == own) {
            self.unstage(id, &own).await?;
            self.remove_own_staging(&own)?;
        }
        Ok(())
    }

    /// After a kill between two steps nobody may come to take the rest: a volume staged at a
    /// directory of ours for no target counts as in use, and the unmount call that was cut off
    /// finds no target to name any more. For the start: the caller holds the volume, and nobody
    /// could ask for it before.
    pub(crate) async fn abandoned_staging(self: &Arc<Self>, id: &Id) {
        let (attachment, own) = (self.attachments.get(id), self.own_staging_path(id));
        let staged = attachment.staging.is_some_and(|s| s.path == own);
        if staged
            && attachment.targets.is_empty()
            && let Err(e) = self.unstage_locked(id, &own).await
        {
            tracing::warn!(volume.id = %id, error = %e.chain(), "still staged for nobody");
        }
    }

    /// Staging directories that were there at the start and that nothing is staged at.
    pub(crate) async fn unused_stagings(self: &Arc<Self>) {
        let all = stream::iter(&self.stagings_before);
        all.for_each_concurrent(None, async |path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            // Made for the volume of this id alone; what is mounted there otherwise stays as well.
            let (used, _held) = match name.parse::<Id>() {
                Ok(id) => {
                    let held = self.ops.begin_reading(&id).await;
                    let staging = self.attachments.get(&id).staging;
                    (staging.is_some_and(|s| s.path == *path), Some(held))
                }
                Err(_) => (false, None),
            };
            if !used && let Err(e) = self.remove_own_staging(path) {
                tracing::warn!(volume.path = %path.display(), error = %e.chain(),
                    "unused staging directory not removed");
            }
        })
        .await;
    }

    /// Our own staging directory for a volume, made if it is missing.
    pub(crate) fn own_staging(&self, id: &Id) -> Result<PathBuf> {
        let staging = self.own_staging_path(id);
        for path in staging.parent().into_iter().chain([staging.as_path()]) {
            durable::create_dir(path).map_err(|e| {
                let what = format!("failed to make {}", path.display());
                unwritten(e, &self.options.state_dir, what)
            })?;
        }
        Ok(staging)
    }

    /// Remove a staging directory of ours; never what is in it, should it still be mounted.
    pub(crate) fn remove_own_staging(&self, path: &Path) -> Result<()> {
        Target::remove(path)
            .map(drop)
            .or_internal(|| format!("failed to remove {}", path.display()))
    }

    pub(crate) fn own_staging_path(&self, id: &Id) -> PathBuf {
        self.options.state_dir.join(OWN_STAGING).join(id.as_str())
    }
}
