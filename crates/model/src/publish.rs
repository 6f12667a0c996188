//! The trait every door asks to bring a volume to its consumers on this node.

use std::path::Path;

use async_trait::async_trait;

use crate::request::{EphemeralRequest, PublishRequest, StageRequest};
use crate::{Bytes, Id, Result};

/// How much of a published volume is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stats {
    /// A file system: what statfs says.
    FileSystem {
        /// Size in bytes.
        total: Bytes,
        /// Bytes an unprivileged user may still write.
        available: Bytes,
        /// Bytes used.
        used: Bytes,
        /// Number of inodes; 0 where the file system has no fixed number (btrfs).
        inodes: u64,
        /// Inodes left.
        inodes_free: u64,
        /// Inodes used.
        inodes_used: u64,
    },
    /// A block device: its size.
    Block {
        /// Size in bytes.
        total: Bytes,
    },
}

/// Paths in, paths out; every undo is safe to repeat, and undoing what was never done is success.
#[async_trait]
pub trait Publish: Send + Sync {
    /// Attach the volume and, for a file system, make it if the volume is provably blank, mount
    /// it at the staging directory and grow it to the volume's size.
    ///
    /// # Errors
    /// [`crate::Kind::NotFound`] for an unknown volume, [`crate::Kind::Exists`] when staged there
    /// in another way, [`crate::Kind::Precondition`] when foreign data is on the device,
    /// [`crate::Kind::Invalid`] for options off the list and paths through symlinks.
    async fn stage(&self, want: StageRequest) -> Result<()>;

    /// Unmount the staging directory and detach the volume.
    ///
    /// # Errors
    /// [`crate::Kind::Precondition`] while it is published.
    async fn unstage(&self, id: &Id, staging: &Path) -> Result<()>;

    /// Bind the staged volume to the target, make it read-only there if asked, and put the
    /// volume's I/O limits on the consumer's cgroup.
    ///
    /// # Errors
    /// [`crate::Kind::Precondition`] when it is not staged, or for a second target of a single
    /// writer; [`crate::Kind::Exists`] when published there in another way.
    async fn publish(&self, want: PublishRequest) -> Result<()>;

    /// Unbind and remove the target; an ephemeral volume is removed with it.
    ///
    /// # Errors
    /// [`crate::Kind::Invalid`] for a path that is no target of ours.
    async fn unpublish(&self, id: &Id, target: &Path) -> Result<()>;

    /// Make a volume for one consumer and mount it at the target.
    ///
    /// # Errors
    /// As [`crate::Volumes::create`] and [`Publish::publish`].
    async fn publish_ephemeral(&self, want: EphemeralRequest) -> Result<()>;

    /// Use of the volume at `path`, a staging directory or target of it. Never hangs on a dead
    /// device and never waits for other work on the volume.
    ///
    /// # Errors
    /// [`crate::Kind::NotFound`] when the volume is not there.
    async fn stats(&self, id: &Id, path: &Path) -> Result<Stats>;

    /// Grow the file system at `path` to the size of the volume and answer that size; nothing is
    /// to be done for a block device. `required`, when given, must have been reached.
    ///
    /// # Errors
    /// [`crate::Kind::NotFound`] when the volume is not there, [`crate::Kind::OutOfRange`] when
    /// the volume is smaller than `required`.
    async fn expand(&self, id: &Id, path: &Path, required: Option<Bytes>) -> Result<Bytes>;
}
