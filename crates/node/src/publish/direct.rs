//! Mounting for callers that know no staging: people at a shell, and doors whose protocol has one
//! step. The volume is staged at a directory of ours before its first target and unstaged after
//! its last.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use stowage_host::mount;
use stowage_model::request::{Access, AccessMode, PublishRequest, StageRequest};
use stowage_model::{Error, Id, Result};

use crate::lookup::need_volume;
use crate::own_staging::{own_staging, own_staging_path, remove_own_staging};
use crate::publish::stage::stage;
use crate::publish::target::publish;
use crate::publish::unpublish::unpublish;
use crate::publish::unstage::unstage;
use crate::state::Node;

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

pub(crate) async fn mount_simply(node: &Arc<Node>, want: MountRequest) -> Result<()> {
    let entry = need_volume(node, &want.id)?;
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
    let id = want.id.clone();
    stage(
        node,
        StageRequest {
            id: id.clone(),
            staging: staging.clone(),
            access: access.clone(),
            mode: staged_for,
        },
    )
    .await?;
    let published = publish(
        node,
        PublishRequest {
            id: id.clone(),
            staging: staging.clone(),
            target: want.target,
            access,
            mode,
            read_only: want.read_only,
            cgroup: want.cgroup,
        },
    )
    .await;
    if published.is_err() && staged.is_none() {
        unstage(node, &id, &staging).await?;
        remove_own_staging(node, &staging)?;
    }
    published
}

pub(crate) async fn unmount_simply(node: &Arc<Node>, id: &Id, target: &Path) -> Result<()> {
    let entry = need_volume(node, id)?;
    let noted = node.attachments().get(id);
    let known = noted.targets.contains_key(target) || noted.left.contains(target);
    let mounted = || mount::at(target).ok().flatten().is_some();
    if !known && !mounted() {
        return Err(Error::not_found(format!(
            "{} is not mounted at {}",
            entry.title(),
            target.display()
        )));
    }
    unpublish(node, id, target).await?;
    let rest = node.attachments().get(id);
    let own = own_staging_path(node, id);
    if rest.targets.is_empty() && rest.staging.is_some_and(|s| s.path == own) {
        unstage(node, id, &own).await?;
        remove_own_staging(node, &own)?;
    }
    Ok(())
}
