//! What is on a device, by the pool's word or by what is read.

use stowage_host::{filesystem, probe};
use stowage_model::error::Context;
use stowage_model::{FsType, Result};
use stowage_pool::{Attach, Backing, Device, Written};

use crate::backing::activation::{let_go, runner_of};
use crate::backing::device::{attach, attached};
use crate::state::Node;
use crate::state::entry::Entry;

/// What is on a device that should be blank: by the pool's word where it has one, otherwise by
/// what is read.
pub(crate) async fn found_on(
    node: &Node,
    entry: &Entry,
    device: &Device,
) -> Result<Option<String>> {
    let Backing::Block(devices) = entry.pool.backing();
    let written = devices.written(&entry.record).await?;
    if written == Written::Nothing {
        return Ok(None);
    }
    Ok(match (probe(node, entry, device).await?, written) {
        (probe::Content::Blank, Written::Something(what)) => Some(what),
        (probe::Content::Blank, _) => None,
        (content, _) => Some(content.describe()),
    })
}

pub(crate) async fn probe(node: &Node, entry: &Entry, device: &Device) -> Result<probe::Content> {
    probe::probe(&runner_of(node, entry), &device.path)
        .await
        .or_internal(|| format!("failed to look at what {} holds", entry.title()))
}

/// Whether nothing is on a volume or snapshot that should be blank. The caller holds it.
pub(crate) async fn is_unwritten(node: &Node, source: &Entry) -> Result<bool> {
    let Backing::Block(devices) = source.pool.backing();
    match devices.written(&source.record).await? {
        Written::Nothing => Ok(true),
        Written::Something(_) => Ok(false),
        Written::Unknown => Ok(found_in_unused(node, source).await?.is_none()),
    }
}

async fn found_in_unused(node: &Node, source: &Entry) -> Result<Option<String>> {
    let record = &source.record;
    let was_attached = attached(source).await?.is_some();
    let device = attach(source, Attach::UntilUnused).await?;
    let found = found_on(node, source, &device).await;
    drop(device);
    if !was_attached
        && !node.jobs().reads_from(&record.id)
        && let Err(e) = let_go(node, source).await
    {
        tracing::warn!(volume.id = %record.id, error = %e.chain(), "still attached");
    }
    found
}

/// Whether the file system of a snapshot is whole only after its log was replayed.
pub(crate) async fn needs_replay(node: &Node, fs: FsType, snapshot: &Entry) -> Result<bool> {
    let _held = node.ops().begin(&snapshot.record.id, "reading").await?;
    let was_attached = attached(snapshot).await?.is_some();
    let device = attach(snapshot, Attach::UntilUnused).await?;
    let needs = filesystem::needs_replay(fs.as_str(), &device.path)
        .await
        .or_internal(|| format!("failed to look at what {} holds", snapshot.title()));
    drop(device);
    if !was_attached {
        let_go(node, snapshot).await?;
    }
    needs
}
