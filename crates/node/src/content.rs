//! What is on a device, by the pool's word or by what is read.

use stowage_host::probe;
use stowage_model::Result;
use stowage_model::error::Context;
use stowage_pool::{Device, Written};

use crate::activation::runner_of;
use crate::state::Node;
use crate::state::index::Entry;

/// What is on a device that should be blank: by the pool's word where it has one, otherwise by
/// what is read.
pub(crate) async fn found_on(
    node: &Node,
    entry: &Entry,
    device: &Device,
) -> Result<Option<String>> {
    let written = entry.pool.written(&entry.record).await?;
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
