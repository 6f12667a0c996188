//! Our own staging directories, for callers that know no staging.

use std::path::{Path, PathBuf};

use stowage_host::{Target, durable};
use stowage_model::error::Context;
use stowage_model::{Id, Result};

use crate::state::Node;
use crate::state::attachments::OWN_STAGING;
use crate::state::journal::unwritten;

pub(crate) fn own_staging_path(node: &Node, id: &Id) -> PathBuf {
    node.state_dir().join(OWN_STAGING).join(id.as_str())
}

/// Our own staging directory for a volume, made if it is missing.
pub(crate) fn own_staging(node: &Node, id: &Id) -> Result<PathBuf> {
    let staging = own_staging_path(node, id);
    for path in staging.parent().into_iter().chain([staging.as_path()]) {
        durable::create_dir(path).map_err(|e| {
            let what = format!("failed to make {}", path.display());
            unwritten(e, node.state_dir(), what)
        })?;
    }
    Ok(staging)
}

/// Remove a staging directory of ours; never what is in it, should it still be mounted.
pub(crate) fn remove_own_staging(path: &Path) -> Result<()> {
    Target::remove(path)
        .map(drop)
        .or_internal(|| format!("failed to remove {}", path.display()))
}
