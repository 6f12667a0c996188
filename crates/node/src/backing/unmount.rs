//! Unmounting a volume from one path.

use std::path::Path;

use stowage_host::{blocking, mount};
use stowage_model::{Error, Result};

use crate::backing::thaw::thaw_last;
use crate::mounts::{Mounted, bad_path, ours_at};
use crate::state::Node;
use crate::state::entry::Entry;

/// Unmount what is ours at `path`, and nothing else: what somebody mounted over it is an
/// error.
pub(crate) async fn unmount_ours(
    node: &Node,
    entry: &Entry,
    path: &Path,
    block: bool,
) -> Result<()> {
    loop {
        match ours_at(node, entry, path, block).await? {
            Mounted::Nothing => return Ok(()),
            Mounted::Foreign(source) => {
                return Err(Error::precondition(format!(
                    "{source} is mounted over {} at {}; unmount it there first",
                    entry.title(),
                    path.display()
                )));
            }
            Mounted::Ours => {}
        }
        if !block {
            thaw_last(entry, path).await;
        }
        let owned = path.to_owned();
        blocking(move || mount::unmount(&owned))
            .await
            .map_err(|e| match e {
                mount::MountError::Busy { .. } => {
                    Error::precondition(format!("{} is in use", path.display())).caused_by(e)
                }
                mount::MountError::Target(e) => bad_path("target path", path, e),
                e => Error::internal(format!("failed to unmount {}", path.display())).caused_by(e),
            })?;
    }
}
