//! The trait every door asks for volumes, and what it answers with.

use std::collections::BTreeMap;
use std::path::PathBuf;

use async_trait::async_trait;

use crate::id::Role;
use crate::request::{GroupRequest, Layout, Media, Placement, Provisioning, SizeRange};
use crate::{
    Bytes, Error, Id, LimitsChange, PoolKind, PoolName, Record, Result, SnapshotRequest,
    VolumeRequest,
};

/// A volume as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// What is written on the disk about it.
    pub record: Record,
    /// The pool that holds it.
    pub pool: PoolName,
    /// The kind of that pool.
    pub kind: PoolKind,
    /// The volume group of that pool, if it lies in one.
    pub vg: Option<String>,
    /// Its real size.
    pub size: Bytes,
    /// Where it is mounted or bound.
    pub used_at: Vec<PathBuf>,
    /// Its pool or record cannot be read now; it is told as it was last known.
    pub away: bool,
}

/// A snapshot as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// What is written on the disk about it.
    pub record: Record,
    /// The pool that holds it.
    pub pool: PoolName,
    /// The size a volume restored from it needs at least.
    pub size: Bytes,
    /// Its store overflowed: what it kept is gone.
    pub lost: bool,
    /// As [`Volume::away`].
    pub away: bool,
}

impl Snapshot {
    /// The volume it was cut from.
    pub fn source(&self) -> Option<&Id> {
        self.record.source.as_ref()
    }
}

/// Snapshots cut at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// The id of the group.
    pub id: Id,
    /// Its members, in the order of their sources.
    pub members: Vec<Snapshot>,
}

/// What there is, as far as that is known.
#[derive(Debug)]
pub struct Listing<T> {
    /// In the order of their ids.
    pub all: Vec<T>,
    /// What may hold more of them, each with the way out.
    pub gaps: Vec<Error>,
}

impl<T> Listing<T> {
    /// All there is.
    ///
    /// # Errors
    /// [`crate::Kind::Unavailable`] while there may be more.
    pub fn whole(self) -> Result<Vec<T>> {
        match self.gaps.into_iter().next() {
            None => Ok(self.all),
            Some(gap) => Err(gap),
        }
    }
}

/// One piece of long work, a copy or a wipe.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Job {
    /// What is done: "copy" or "wipe".
    pub what: String,
    /// The volume's id, or the pool's own name of a removed volume.
    pub subject: String,
    /// Bytes done.
    pub done: Bytes,
    /// Bytes in all.
    pub total: Bytes,
}

/// A volume after growth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grown {
    /// Its real size.
    pub size: Bytes,
    /// It was larger before than its pool would make one of the size that was asked.
    pub was_larger: bool,
    /// A file system on it has yet to be grown, on the node.
    pub file_system_pending: bool,
}

/// What a choice of pools can still hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Capacity {
    /// Bytes left.
    pub available: Bytes,
    /// The largest single volume that fits.
    pub largest: Bytes,
}

/// A pool as it is.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct PoolStatus {
    /// Its name.
    pub name: PoolName,
    /// Its kind.
    pub kind: PoolKind,
    /// Where it is: a volume group, a thin pool in one, a directory.
    pub location: String,
    /// The medium under it, when known.
    pub media: Option<Media>,
    /// All the space it manages.
    pub total: Bytes,
    /// Space left for new volumes.
    pub free: Bytes,
    /// The largest single volume that fits.
    pub largest: Bytes,
    /// Sizes promised to volumes, which may exceed `total` in thin pools.
    pub promised: Bytes,
    /// Data really in use, in percent of the space (thin pools, file systems).
    pub data_percent: Option<f32>,
    /// Metadata in use, in percent (thin pools).
    pub metadata_percent: Option<f32>,
    /// Number of volumes.
    pub volumes: usize,
    /// Number of snapshots.
    pub snapshots: usize,
    /// Why it cannot be used, when it cannot.
    pub problem: Option<String>,
    /// How many seconds old the figures are, where the pool did not answer when it was asked.
    #[serde(default)]
    pub age: Option<u64>,
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Works, but should be looked at.
    Warning,
    /// Does not work.
    Error,
}

/// What the finding is about, for doors with codes of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Trouble {
    /// A program is not installed, or the kernel is too old.
    ToolMissing,
    /// A pool cannot be reached.
    PoolMissing,
    /// A pool is nearly or entirely full.
    PoolFull,
    /// A device reports errors or is gone.
    DeviceError,
    /// A file system turned read-only by itself.
    ReadOnly,
    /// A file system is smaller than its volume.
    Smaller,
    /// A copy-on-write snapshot overflowed.
    SnapshotLost,
    /// Something in a pool that we did not make.
    Foreign,
    /// Left by an interrupted operation or a volume that is gone.
    Leftover,
    /// A record on the disk that cannot be read.
    BadRecord,
    /// A consumer is without the volume's I/O limits.
    NotLimited,
}

/// Something wrong, and how to mend it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Finding {
    /// How bad.
    pub severity: Severity,
    /// What sort.
    pub trouble: Trouble,
    /// The volume, snapshot, pool, tool or path in question.
    pub subject: String,
    /// What is wrong.
    pub what: String,
    /// What a person can do.
    pub mend: String,
}

/// Make, grow, cut and remove volumes. Every call is idempotent: a retry finds what the first
/// try did. Work goes on when the caller hangs up; a caller who comes back while it runs joins it
/// or is told [`crate::Kind::Pending`].
///
/// [`crate::Kind::NotFound`] says that a thing is not there. While that is not known, since what may
/// hold it cannot be read now, every call is [`crate::Kind::Unavailable`] instead.
#[async_trait]
pub trait Volumes: Send + Sync {
    /// Make a volume, or find the one that this same request made.
    ///
    /// # Errors
    /// [`crate::Kind::Exists`] when the name belongs to a different volume, [`crate::Kind::NotFound`] when the
    /// source or pool is missing, [`crate::Kind::Full`], [`crate::Kind::OutOfRange`], [`crate::Kind::Pending`].
    async fn create(&self, want: VolumeRequest) -> Result<Volume>;

    /// Remove a volume; one that is not there is success.
    ///
    /// # Errors
    /// [`crate::Kind::Precondition`] while it is in use or snapshots need it.
    async fn delete(&self, id: &Id) -> Result<()>;

    /// Grow a volume to at least `size.required`; a volume that large already is success.
    ///
    /// # Errors
    /// [`crate::Kind::NotFound`], [`crate::Kind::OutOfRange`], [`crate::Kind::Full`], [`crate::Kind::Precondition`].
    async fn grow(&self, id: &Id, size: SizeRange) -> Result<Grown>;

    /// Change I/O limits, also of a volume in use.
    ///
    /// # Errors
    /// [`crate::Kind::NotFound`].
    async fn modify(&self, id: &Id, change: LimitsChange) -> Result<Volume>;

    /// One volume. While its pool is away it is told as it was last known.
    ///
    /// # Errors
    /// [`crate::Kind::NotFound`].
    async fn volume(&self, id: &Id) -> Result<Volume>;

    /// Every volume. Right after the start what is not known yet is waited for, a little.
    async fn volumes(&self) -> Listing<Volume>;

    /// The volume or snapshot that a person means by this text: its id, its name with its door
    /// (`docker/data`), or its bare name while it is the only one of that name.
    ///
    /// # Errors
    /// [`crate::Kind::NotFound`]; [`crate::Kind::Invalid`] naming the candidates;
    /// [`crate::Kind::Precondition`] where another of that name may be what is meant.
    async fn find(&self, role: Role, text: &str) -> Result<Id>;

    /// Cut a snapshot, or find the one this same request cut.
    ///
    /// # Errors
    /// [`crate::Kind::Exists`] when the name belongs to a snapshot of another volume,
    /// [`crate::Kind::NotFound`], [`crate::Kind::Full`], [`crate::Kind::Unsupported`] where the pool cannot cut.
    async fn snapshot(&self, want: SnapshotRequest) -> Result<Snapshot>;

    /// Remove a snapshot; one that is not there is success.
    ///
    /// # Errors
    /// [`crate::Kind::Invalid`] for a member of a group, [`crate::Kind::Precondition`] while volumes read it.
    async fn delete_snapshot(&self, id: &Id) -> Result<()>;

    /// One snapshot.
    ///
    /// # Errors
    /// [`crate::Kind::NotFound`].
    async fn one_snapshot(&self, id: &Id) -> Result<Snapshot>;

    /// Every snapshot. Right after the start what is not known yet is waited for, a little.
    async fn snapshots(&self) -> Listing<Snapshot>;

    /// Cut several volumes at one moment: all or none.
    ///
    /// # Errors
    /// As [`Volumes::snapshot`]; [`crate::Kind::Precondition`] when one moment cannot be had.
    async fn snapshot_group(&self, want: GroupRequest) -> Result<Group>;

    /// Remove a group and its members; `members`, when not empty, must be exactly its members.
    ///
    /// # Errors
    /// [`crate::Kind::Invalid`] when `members` differ.
    async fn delete_group(&self, id: &Id, members: &[Id]) -> Result<()>;

    /// One group.
    ///
    /// # Errors
    /// [`crate::Kind::NotFound`].
    async fn group(&self, id: &Id) -> Result<Group>;

    /// What fits into the pools of this choice, of volumes made like this.
    ///
    /// # Errors
    /// None of its own; a choice without pools has no capacity.
    async fn capacity(
        &self,
        choice: &Placement,
        layout: Layout,
        provisioning: Provisioning,
    ) -> Result<Capacity>;

    /// Every pool.
    async fn pools(&self) -> Result<Vec<PoolStatus>>;

    /// What is wrong with one volume; empty when it is well.
    ///
    /// # Errors
    /// [`crate::Kind::NotFound`].
    async fn health(&self, id: &Id) -> Result<Vec<Finding>>;

    /// What is wrong with each of these volumes, as [`Volumes::health`] tells it; those that are not
    /// there are left out. However many they are, a pool is asked once.
    async fn health_of_all(&self, ids: &[Id]) -> Result<BTreeMap<Id, Vec<Finding>>>;

    /// What is wrong with the pools and everything in them.
    async fn findings(&self) -> Result<Vec<Finding>>;

    /// Everything that is being copied or wiped.
    fn jobs(&self) -> Vec<Job>;
}
