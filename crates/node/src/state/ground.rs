//! What the target of an inline volume lies on.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use stowage_host::mount;

/// The root of the mount that a consumer's directory lies on; see [`mount::Root`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Ground {
    pub(crate) point: PathBuf,
    pub(crate) inode: u64,
    pub(crate) born: u64,
}

impl Ground {
    /// What a target lies on now.
    pub(crate) fn of(target: &Path) -> Option<Self> {
        let root = mount::root_of(target.parent()?);
        let root = root.inspect_err(|e| {
            tracing::warn!(volume.path = %target.display(), error = %e, "its mount is not known");
        });
        let mount::Root { point, inode, born } = root.ok()?;
        Some(Self { point, inode, born })
    }
}
