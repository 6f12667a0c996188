//! The device of a volume that is handed out raw.

use std::path::PathBuf;

use stowage_host::{blocking, loopdev};
use stowage_model::error::Context;
use stowage_model::{Error, Result};

use crate::backing::device::attached;
use crate::state::Node;
use crate::state::entry::Entry;

/// The device node to bind: the volume's own, or for a reader a read-only loop device over
/// it, since a read-only mount of a device node does not keep anybody from writing to it.
pub(crate) async fn block_source(entry: &Entry, read_only: bool) -> Result<PathBuf> {
    let attached = attached(entry).await?.ok_or_else(|| {
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

/// Detach the read-only loop device unless a target other than these uses it.
pub(crate) async fn drop_reader_device(node: &Node, entry: &Entry, gone: &[PathBuf]) -> Result<()> {
    let mut rest = node.attachments().get(&entry.record.id).targets;
    rest.retain(|target, _| !gone.contains(target));
    if rest.values().any(|p| p.block && p.read_only) {
        return Ok(());
    }
    let Some(attached) = attached(entry).await? else {
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
