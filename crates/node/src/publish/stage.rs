//! Making a volume ready on this node: attach, make the file system if the volume is provably blank,
//! mount, grow to the device's size.

use std::sync::Arc;

use stowage_host::failpoint;
use stowage_model::request::{AccessMode, StageRequest};
use stowage_model::{Error, Result};
use stowage_pool::Attach;

use crate::backing::device::attach;
use crate::backing::ready::make_ready;
use crate::lookup::{filled, need_volume};
use crate::mounts::mounted_here;
use crate::publish::plan::{Plan, becomes_raw};
use crate::records::save_lazily;
use crate::state::Node;
use crate::state::attachments::{Attachment, Of};
use crate::state::entry::Entry;

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
        Some(fs) => make_ready(node, entry.clone(), fs, &plan.staging).await,
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
    attach(&entry, Attach::Held).await.map(drop)
}

#[cfg(test)]
mod tests;
