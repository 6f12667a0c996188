//! Volumes that have no bytes of their own and show a snapshot's in place. The snapshot is another's
//! word about the past: whoever reads it, nothing is written to it, not even by the kernel.

use std::sync::Arc;

use stowage_model::record::Content;
use stowage_model::{Error, FsType, Record, Result};

use crate::backing::content::needs_replay;
use crate::state::Node;
use crate::state::entry::Entry;

/// Refuse a volume that would show this snapshot in place and could never be mounted so.
///
/// # Errors
/// [`stowage_model::Kind::Unsupported`] and [`stowage_model::Kind::Precondition`], with the
/// reason and the way out.
pub(crate) async fn showable(node: &Arc<Node>, record: &Record, snapshot: &Entry) -> Result<()> {
    if record.usage.mount.is_none() {
        return Ok(());
    }
    let title = snapshot.title();
    let out = match snapshot.record.read_only {
        true => "cut a snapshot that is not read-only and restore that into a writable volume",
        false => "restore it into a writable volume, which is a copy",
    };
    let fs = match snapshot.record.content {
        Content::FileSystem(FsType::Btrfs) | Content::Twin(_) => {
            return Err(Error::unsupported(format!(
                "{title} holds btrfs, which cannot be read in place: it has the UUID of its \
                 volume, and two btrfs of one UUID cannot be mounted at once; {out}"
            )));
        }
        Content::FileSystem(fs) => fs,
        Content::Blank => {
            return Err(Error::precondition(format!(
                "{title} was cut before its volume was first mounted and holds no file system \
                 to be read; mount the volume once and cut another"
            )));
        }
        Content::Raw | Content::Filling => {
            return Err(Error::precondition(format!(
                "{title} is of a raw device, and whatever file system is on it may be whole \
                 only after its log was replayed, which writes; {out}"
            )));
        }
    };
    if needs_replay(node, fs, snapshot).await? {
        return Err(Error::precondition(format!(
            "{title} was cut from a volume that was not unmounted well: its {fs} is whole only \
             after its log was replayed, which writes; {out}, or mount the volume once and cut \
             another"
        )));
    }
    Ok(())
}
