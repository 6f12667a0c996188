//! Taking a volume back from its consumer.

use std::path::Path;
use std::sync::Arc;

use stowage_model::mounts::Holders;
use stowage_model::{Error, Id, Result};

use crate::mounts::mounted_here;
use crate::publish::ephemeral::end_ephemeral_locked;
use crate::publish::unmount::{clear_away, end_unknown_use, take_back};
use crate::state::Node;
use crate::state::entry::Entry;

pub(crate) async fn unpublish(node: &Arc<Node>, id: &Id, target: &Path) -> Result<()> {
    let _held = node.ops().begin(id, "unpublishing").await?;
    let Some(entry) = node.index().get(id) else {
        return end_unknown_use(node, id, target).await;
    };
    if let Some(publication) = node.attachments().get(id).targets.get(target) {
        not_held(&entry, target, &publication.holders)?;
    }
    unpublish_locked(node, &entry, target).await
}

/// As [`unpublish`], for a caller that holds the volume, whoever holds the publication.
pub(crate) async fn unpublish_locked(node: &Arc<Node>, entry: &Entry, target: &Path) -> Result<()> {
    let id = &entry.record.id;
    let noted = node.attachments().get(id);
    let known = noted.targets.contains_key(target);
    if known || mounted_here(entry, target).await.unwrap_or(false) {
        take_back(node, entry, target).await?;
    } else if noted.left.contains(target) {
        clear_away(node, id, target).await?;
    }
    if entry.record.ephemeral && node.attachments().get(id).targets.is_empty() {
        end_ephemeral_locked(node, entry).await?;
    }
    Ok(())
}

/// Refuse to end a publication that is held, for who is none of the holders.
pub(crate) fn not_held(entry: &Entry, target: &Path, holders: &Holders) -> Result<()> {
    if holders.is_empty() {
        return Ok(());
    }
    let times = |(holder, times): (_, &u32)| match times {
        1 => format!("{holder}"),
        _ => format!("{holder} ({times} times)"),
    };
    let all: Vec<String> = holders.iter().map(times).collect();
    Err(Error::precondition(format!(
        "{} is held at {} by {}; it is unmounted with the last of them",
        entry.title(),
        target.display(),
        all.join(", ")
    )))
}
