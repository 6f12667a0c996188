//! What every pool can do.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use stowage_host::progress::Progress;
use stowage_host::{Holder, LockError, Locks};
use stowage_model::request::{Layout, Provisioning};
use stowage_model::volumes::{Capacity, Finding, PoolStatus};
use stowage_model::{Bytes, Error, Id, PoolKind, PoolName, Record, Result};
use tokio::sync::OwnedMutexGuard;

/// A device a volume or snapshot is reached through.
#[derive(Debug, Clone)]
pub struct Device {
    /// Its node under /dev.
    pub path: PathBuf,
    /// Its real size.
    pub size: Bytes,
    /// Keeps a device attached with [`Attach::UntilUnused`] alive until it is mounted.
    pub hold: Option<Arc<OwnedFd>>,
}

impl Device {
    /// A device that stays without being held.
    pub fn new(path: PathBuf, size: Bytes) -> Self {
        Self {
            path,
            size,
            hold: None,
        }
    }
}

/// How a volume is to be attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attach {
    /// Until [`BlockDevices::detach`].
    Held,
    /// Until the last opener (a mount) lets go, where the kind can do that: a crash between
    /// attaching and mounting then leaves nothing behind.
    UntilUnused,
}

/// A volume or snapshot read back from the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// What is written about it.
    pub record: Record,
    /// Its real size.
    pub size: Bytes,
}

/// What a pool knows of the bytes of a volume that should be blank.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Written {
    /// All of it reads as zeros, for certain.
    Nothing,
    /// It holds something, for certain: what, to complete "the device holds ...".
    Something(String),
    /// It cannot tell; the device must be read.
    Unknown,
}

/// Something the pool holds for us that is no volume any more (or not yet): a removed volume
/// whose blocks are still to be wiped, a half-made one, a helper snapshot. `purge` ends it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leftover {
    /// The name the pool itself knows it by (an LV, a directory entry).
    pub handle: String,
    /// Space it holds until purged.
    pub size: Bytes,
}

/// Something with our mark that cannot be understood, or something foreign. Reported, never
/// touched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Defect {
    /// Not made by us.
    Foreign(String),
    /// Ours by its name, but its record is missing or damaged.
    Unreadable {
        /// What the pool itself calls it.
        what: String,
        /// The id it is named after, where it has such a name: whatever is known of that id is
        /// not all there is.
        id: Option<Id>,
        /// What is wrong with its record.
        why: String,
    },
    /// Ours by its record, but not where a volume is looked for: renamed, or made a part of
    /// something else. It cannot be used, and is not gone.
    Astray {
        /// What the pool itself calls it.
        lv: String,
        /// Whose records it holds.
        ids: Vec<Id>,
        /// What is wrong, and the way out.
        finding: Finding,
    },
    /// A copy-on-write snapshot whose store overflowed; its bytes are lost.
    LostSnapshot(Id),
}

/// Everything that is in a pool.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scan {
    /// Volumes and snapshots.
    pub found: Vec<Found>,
    /// Things to purge.
    pub leftovers: Vec<Leftover>,
    /// Things to report.
    pub defects: Vec<Defect>,
}

/// A pool's turn to be changed, where its kind has such a thing; others wait until it is dropped.
#[derive(Debug)]
#[must_use]
pub struct Turn {
    _held: Option<OwnedMutexGuard<()>>,
}

impl Turn {
    /// Of a pool whose kind takes none.
    pub const NONE: Self = Self { _held: None };
}

impl From<OwnedMutexGuard<()>> for Turn {
    fn from(held: OwnedMutexGuard<()>) -> Self {
        Self { _held: Some(held) }
    }
}

/// What became of a removed volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removed {
    /// It is gone and its space is free.
    Gone,
    /// It is no volume any more, durably; its blocks are still to be wiped.
    ToPurge(Leftover),
}

/// Whether a record read back is of the very volume meant: another one of its name, from another
/// day or unknown to the caller, was made at another moment.
pub(crate) fn is_same(found: &Record, meant: &Record) -> bool {
    found.id == meant.id && found.created == meant.created
}

/// As [`is_same`], for who takes it for what was made, or away: one whose record is known in part is
/// nobody's to work on.
pub(crate) fn is_wholly(found: &Record, meant: &Record) -> bool {
    is_same(found, meant) && found.beyond.is_none()
}

/// As [`is_wholly`], for taking away: a passing snapshot is cut anew by each attempt, which removes
/// whatever the last one left.
pub(crate) fn may_go(found: &Record, meant: &Record) -> bool {
    let passing = |record: &Record| record.is_snapshot() && record.ephemeral;
    is_wholly(found, meant) || found.id == meant.id && passing(found) && passing(meant)
}

/// "pid 7 (lvcreate)", for messages.
pub(crate) fn named(holders: &[Holder]) -> String {
    let names: Vec<_> = holders.iter().map(Holder::to_string).collect();
    match names.is_empty() {
        true => "a process that /proc does not show".to_owned(),
        false => names.join(", "),
    }
}

/// The error of a pool that another daemon has.
pub(crate) fn claimed(pool: &PoolName, error: LockError) -> Error {
    match error {
        LockError::Held { by, .. } => Error::precondition(format!(
            "pool {pool} is served by another daemon, {}; stop one of the two, or take the pool \
             out of its configuration",
            named(&by)
        )),
        error => Error::internal(format!("failed to lock pool {pool}")).caused_by(error),
    }
}

/// A place that holds volumes.
///
/// A volume is known by its id *and* the moment it was made: what bears the id but was made at
/// another moment, or cannot be read, is [`stowage_model::Kind::Exists`] to whoever makes a volume
/// and [`stowage_model::Kind::Precondition`] to whoever removes one, and stays as it is.
///
/// Rules for every kind: each call is idempotent, looks before it acts, and leaves the disk in a
/// state that `scan` understands wherever it is cut off. Sizes given are rounded up by
/// [`Pool::rounded`] first.
///
/// This is what every kind has. What a volume of it is made of, [`Pool::backing`] tells; what only some kinds
/// can, they answer as abilities.
#[async_trait]
pub trait Pool: Send + Sync {
    /// Its name.
    fn name(&self) -> &PoolName;

    /// Its kind.
    fn kind(&self) -> PoolKind;

    /// The volume group it lies in, if any.
    fn vg(&self) -> Option<&str>;

    /// What tells this pool from all others of this machine, as a part of a file's name.
    fn place(&self) -> String {
        format!("pool@{}", self.name())
    }

    /// Take the pool for this daemon. Until that has succeeded nothing in the pool is changed:
    /// another daemon may be serving it. Doing it twice is success.
    ///
    /// # Errors
    /// [`stowage_model::Kind::Precondition`] naming the daemon that has it,
    /// [`stowage_model::Kind::Pending`] while a command that outlived its daemon still changes it.
    async fn claim(&self, _locks: &Locks) -> Result<()> {
        Ok(())
    }

    /// The size that a volume of this record really gets when `size` is asked: a new one, or one
    /// that is there and grows.
    ///
    /// # Errors
    /// [`stowage_model::Kind::Full`] when the layout decides and there is no room for it.
    async fn rounded(&self, record: &Record, size: Bytes) -> Result<Bytes>;

    /// What is left for new volumes made like this. The largest is one that [`Pool::create`] makes;
    /// a pool that cannot be looked at has room for none.
    async fn capacity(&self, layout: Layout, provisioning: Provisioning) -> Capacity;

    /// Whether a kill during [`Pool::create`] may leave a volume that is found by `scan` but is
    /// not provably blank; the caller then journals the creation.
    fn creation_needs_journal(&self) -> bool;

    /// Free, used and promised space. Cheap enough to call for every create.
    async fn status(&self) -> Result<PoolStatus>;

    /// Read back everything that is there, in one go.
    async fn scan(&self) -> Result<Scan>;

    /// Make a blank volume of `size` with its record.
    ///
    /// # Errors
    /// [`stowage_model::Kind::Full`] without room, [`stowage_model::Kind::Exists`] when something
    /// else bears its id: then nothing was made.
    async fn create(&self, record: &Record, size: Bytes) -> Result<Bytes>;

    /// Write a changed record.
    async fn rewrite(&self, record: &Record) -> Result<()>;

    /// Grow a volume, attached or not, to at least `size`; answers the real size.
    ///
    /// # Errors
    /// [`stowage_model::Kind::Full`], [`stowage_model::Kind::Precondition`].
    async fn grow(&self, record: &Record, size: Bytes) -> Result<Bytes>;

    /// Take a detached volume or snapshot away. Afterwards its id is free for a new volume.
    ///
    /// # Errors
    /// [`stowage_model::Kind::Precondition`] while others need it, or when something else bears
    /// its id.
    async fn remove(&self, record: &Record) -> Result<Removed>;

    /// Wipe and free a leftover; long, restartable, stops when `progress` is told to.
    ///
    /// # Errors
    /// [`stowage_model::Kind::NotFound`] when what bears its name is no leftover (any more): it is
    /// kept, and there is nothing to be done. Everything else is to be tried again.
    async fn purge(&self, leftover: &Leftover, progress: &Arc<Progress>) -> Result<()>;

    /// Upkeep, called every few seconds: grow snapshot stores, watch fill levels. Must start no
    /// process while nothing was written. Answers what is wrong with the pool.
    async fn tend(&self) -> Result<Vec<Finding>>;

    /// Wait for the pool's turn. Whoever holds writers takes it before, since a cut that queued
    /// behind other changes would hold them for as long as those take.
    async fn turn(&self) -> Turn {
        Turn::NONE
    }

    /// What its volumes are made of.
    fn backing(&self) -> Backing<'_>;

    /// Cutting snapshots.
    ///
    /// # Errors
    /// [`stowage_model::Kind::Unsupported`] with the reason why volumes of this pool cannot be
    /// snapshotted, and what to do.
    fn snapshots(&self) -> Result<&dyn Snapshots>;

    /// Making volumes of others without copying bytes.
    fn clones(&self) -> Option<&dyn Clones> {
        None
    }

    /// Holding the writers of its volumes by itself: cutting a snapshot then makes the kernel freeze the
    /// file system on the volume (device mapper does on suspend; freezing twice fails before Linux 6.6).
    fn hold(&self) -> Option<&dyn Hold> {
        None
    }

    /// Taking disks.
    ///
    /// # Errors
    /// [`stowage_model::Kind::Unsupported`] with what to do instead.
    fn disks(&self) -> Result<&dyn Disks>;
}

impl dyn Pool {
    /// Whether a volume of this pool with this record has no bytes of its own but shows its source's in
    /// place.
    pub fn shows_in_place(&self, record: &Record) -> bool {
        self.snapshots()
            .is_ok_and(|snapshots| snapshots.reads_in_place(record))
    }
}

/// What the volumes of a pool are made of.
#[derive(Clone, Copy)]
pub enum Backing<'a> {
    /// Block devices.
    Block(&'a dyn BlockDevices),
}

/// Volumes that are block devices while they are attached.
#[async_trait]
pub trait BlockDevices: Send + Sync {
    /// Make the volume or snapshot reachable as a device.
    async fn attach(&self, record: &Record, how: Attach) -> Result<Device>;

    /// The device, when attached.
    async fn attached(&self, record: &Record) -> Result<Option<Device>>;

    /// Let the device go; nothing is done when it is not attached.
    async fn detach(&self, record: &Record) -> Result<()>;

    /// What the pool itself knows of an attached volume's bytes; proves more, and costs less, than
    /// reading its device.
    async fn written(&self, _record: &Record) -> Result<Written> {
        Ok(Written::Unknown)
    }

    /// Called after a file system was made on an attached volume, or mounted: what that took away
    /// of the space of a thick volume comes back. What cannot be given back now is told by
    /// [`Pool::tend`].
    async fn refill(&self, _record: &Record) -> Result<()> {
        Ok(())
    }
}

/// Cutting snapshots, and what becomes of them.
#[async_trait]
pub trait Snapshots: Pool {
    /// Cut a snapshot of a volume, in this turn. The cut is a moment of the device; the caller
    /// freezes a mounted file system where there is no [`Pool::hold`].
    async fn snapshot_in(&self, turn: &Turn, of: &Record, snapshot: &Record) -> Result<()>;

    /// As [`Snapshots::snapshot_in`], in a turn of its own.
    async fn snapshot(&self, of: &Record, snapshot: &Record) -> Result<()> {
        self.snapshot_in(&self.turn().await, of, snapshot).await
    }

    /// Whether the bytes of a volume or snapshot are still there, as far as that can be told
    /// without attaching it.
    ///
    /// # Errors
    /// [`stowage_model::Kind::Precondition`] for a snapshot that overflowed and whoever reads it.
    async fn intact(&self, _record: &Record) -> Result<()> {
        Ok(())
    }

    /// Whether a volume of this pool with this record has no bytes of its own but shows its
    /// source's in place.
    fn reads_in_place(&self, _record: &Record) -> bool {
        false
    }

    /// Whether [`Pool::remove`] would be refused, as far as can be told beforehand.
    ///
    /// # Errors
    /// [`stowage_model::Kind::Precondition`] saying who needs it.
    async fn removable(&self, _record: &Record) -> Result<()> {
        Ok(())
    }
}

/// Making a volume from a snapshot or volume of the same pool without copying.
#[async_trait]
pub trait Clones: Pool {
    /// Whether a new volume with this record can be made from a snapshot or volume in this pool
    /// without copying bytes.
    fn clones_instantly(&self, new: &Record) -> bool;

    /// Make a volume from a snapshot or volume of this pool without copying, in this turn; `size`
    /// is at least the source's.
    async fn clone_in(
        &self,
        turn: &Turn,
        source: &Record,
        new: &Record,
        size: Bytes,
    ) -> Result<Bytes>;

    /// As [`Clones::clone_in`], in a turn of its own.
    async fn clone_volume(&self, source: &Record, new: &Record, size: Bytes) -> Result<Bytes> {
        self.clone_in(&self.turn().await, source, new, size).await
    }
}

/// Holding the writers of several volumes at one moment.
#[async_trait]
pub trait Hold: Pool {
    /// Hold writes to these volumes (all in this pool) so that snapshots taken until
    /// [`Hold::resume`] show one moment.
    async fn suspend_in(&self, turn: &Turn, records: &[Record]) -> Result<()>;

    /// As [`Hold::suspend_in`], in a turn of its own.
    async fn suspend(&self, records: &[Record]) -> Result<()> {
        self.suspend_in(&self.turn().await, records).await
    }

    /// End [`Hold::suspend`]; harmless when nothing is suspended.
    async fn resume(&self, records: &[Record]) -> Result<()>;
}

/// Giving a pool more disks.
#[async_trait]
pub trait Disks: Send + Sync {
    /// Add disks to the pool.
    ///
    /// # Errors
    /// [`stowage_model::Kind::Precondition`] naming what was found on a disk that is not blank,
    /// unless `force`.
    async fn extend(&self, disks: &[PathBuf], force: bool) -> Result<()>;
}
