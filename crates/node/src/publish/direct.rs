//! Mounting for callers that know no staging: people at a shell, and doors whose protocol has one
//! step. The volume is staged at a directory of ours before its first target and unstaged after
//! its last.

use std::path::Path;
use std::sync::Arc;

use stowage_host::failpoint;
use stowage_model::mounts::Mounted;
use stowage_model::request::{Access, AccessMode, PublishRequest, StageRequest};
use stowage_model::{Error, Holder, Id, MountRequest, Result};

use crate::lookup::{away, need_volume, usable_volume};
use crate::mounts::{mount_at, mounts};
use crate::own_staging::{own_staging, own_staging_path, remove_own_staging};
use crate::publish::stage::stage_locked;
use crate::publish::target::publish_locked;
use crate::publish::unmount::release;
use crate::publish::unpublish::{not_held, unpublish_locked};
use crate::publish::unstage::unstage_locked;
use crate::state::Node;
use crate::state::attachments::Attachment;

/// Stage if need be, and publish.
pub(crate) async fn mount(node: &Arc<Node>, want: MountRequest) -> Result<()> {
    // Held for all of it: another's unmount in between would take the staging away.
    let _held = node.ops().begin(&want.id, "mounting").await?;
    let entry = usable_volume(node, &want.id)?;
    let mode = AccessMode::SingleNodeMultiWriter;
    let staged = node.attachments().get(&want.id).staging;
    let (staging, access, staged_for) = match &staged {
        // As it was staged, whatever is asked.
        Some(s) => {
            if s.path == own_staging_path(node, &want.id) {
                // It may be gone: somebody unmounted the volume and tidied up.
                own_staging(node, &want.id)?;
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
            (own_staging(node, &want.id)?, access, mode)
        }
    };
    let id = want.id;
    let stage = StageRequest {
        id: id.clone(),
        staging: staging.clone(),
        access: access.clone(),
        mode: staged_for,
    };
    stage_locked(node, stage).await?;
    let publish = PublishRequest {
        id: id.clone(),
        staging: staging.clone(),
        target: want.target,
        access,
        mode,
        read_only: want.read_only,
        cgroup: want.cgroup,
    };
    let published = publish_locked(node, publish, want.holder).await;
    if published.is_err() && staged.is_none() {
        unstage_locked(node, &id, &staging).await?;
        remove_own_staging(&staging)?;
    }
    published
}

/// End one hold, and with the last one the mount; answers whether the volume is still mounted there.
pub(crate) async fn unmount(
    node: &Arc<Node>,
    id: &Id,
    target: &Path,
    holder: Option<&Holder>,
) -> Result<bool> {
    let _held = node.ops().begin(id, "unmounting").await?;
    let entry = need_volume(node, id)?;
    let noted = node.attachments().get(id);
    match (noted.targets.get(target), holder) {
        (Some(publication), Some(holder)) => {
            let holders = &publication.holders;
            let Some(times) = holders.get(holder) else {
                return Ok(true);
            };
            if *times > 1 || holders.len() > 1 {
                release(node, id, target, holder).await?;
                failpoint::hit("node.unmount.released");
                return Ok(true);
            }
        }
        (Some(publication), None) => not_held(&entry, target, &publication.holders)?,
        (None, None) if noted.left.contains(target) || mount_at(target).await?.is_some() => {}
        (None, None) => {
            return Err(Error::not_found(format!(
                "{} is not mounted at {}",
                entry.title(),
                target.display()
            )));
        }
        (None, Some(_)) => {}
    }
    unpublish_locked(node, &entry, target).await?;
    let rest = node.attachments().get(id);
    let own = own_staging_path(node, id);
    if rest.targets.is_empty() && rest.staging.is_some_and(|s| s.path == own) {
        unstage_locked(node, id, &own).await?;
        remove_own_staging(&own)?;
    }
    Ok(false)
}

/// Where a volume is in use: what is noted and the mount table confirms.
pub(crate) async fn mounted(node: &Node, id: &Id) -> Result<Vec<Mounted>> {
    if let Err(e) = need_volume(node, id)
        && away(node, id).is_none()
    {
        return Err(e);
    }
    let targets = node.attachments().get(id).targets;
    if targets.is_empty() {
        return Ok(Vec::new());
    }
    let mounts = mounts().await?;
    let there = targets.into_iter().filter(|(path, _)| mounts.has(path));
    let mounted = there.map(|(target, publication)| Mounted {
        target,
        read_only: publication.read_only,
        holders: publication.holders,
    });
    Ok(mounted.collect())
}

/// The volume that is in use at this path, or was before the machine or the daemon was restarted.
pub(crate) async fn volume_at(node: &Node, target: &Path) -> Option<Id> {
    let all = node.attachments().all();
    let used = |a: &Attachment| a.targets.contains_key(target);
    if let Some((id, _)) = all.iter().find(|(_, a)| used(a)) {
        return Some(id.clone());
    }
    let (id, _) = all.iter().find(|(_, a)| a.left.contains(target))?;
    // What somebody else has mounted there since is not ours to unmount.
    matches!(mount_at(target).await, Ok(None)).then(|| id.clone())
}
