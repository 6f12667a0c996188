//! Volumes as files in a directory, reached through loop devices with direct I/O.
//!
//! ```text
//!   <path>/stowage-pool.json            marks the directory as a pool of ours
//!   <path>/volumes/<id>/{data,record.json}      volumes
//!   <path>/snapshots/<id>/{data,record.json}    snapshots (reflinked copies of data)
//!   <path>/making/<id>/…                half-made; renamed into place as the last step, or by the
//!                                       next scan into the trash
//!   <path>/trash/<id>.<n>/…             removed; unlinked in the background
//! ```
//!
//! A volume comes and goes by one rename, so there is no state in between, but where the file system is
//! too full for a name in the trash: there it goes by losing its bytes, which needs no block. On xfs and btrfs,
//! snapshots, clones and restores share blocks (FICLONE) and take no time; elsewhere there are no
//! snapshots. The file system itself keeps a deleted volume's bytes from the next one: new blocks
//! read as zeros.

mod blocks;
mod devices;
mod ledger;
mod scan;
pub(crate) mod setup;
mod volume;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use stowage_host::{Lock, Locks, Progress, Repeat, blocking, on_own_thread};
use stowage_model::request::{Layout, Provisioning};
use stowage_model::volumes::{Capacity, Finding, PoolStatus, Severity, Trouble};
use stowage_model::{Bytes, Error, Id, PoolKind, PoolName, Record, Result};
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

use crate::{
    Attach, Backing, BlockDevices, Clones, Device, Disks, Leftover, Pool, Removed, Scan, Snapshots,
    Turn, Written,
};
use ledger::Ledger;

pub use setup::Options;

/// Files are made in steps of 1 MiB: a multiple of every block and page size.
const STEP: Bytes = Bytes::mib(1);

/// How long a look that only informs waits for others.
const LOOK_TURN: Duration = Duration::from_millis(500);

/// Free space, in percent, below which the pool warns and below which it reports an error.
const WARN_FREE: u64 = 15;
const ERROR_FREE: u64 = 5;

/// A directory that holds volumes.
pub struct FilePool {
    shared: Arc<Shared>,
    /// Turns of looks that only inform, and of work.
    looks: Arc<Semaphore>,
    work: Arc<Semaphore>,
}

struct Shared {
    options: Options,
    /// Whether files can share blocks here; unknown while the directory was never there.
    reflink: OnceLock<bool>,
    /// Why that could not be found out.
    no_reflink: Mutex<Option<String>>,
    /// What is in it is known.
    read: AtomicBool,
    /// Ours alone, for as long as we live.
    claim: Mutex<Claim>,
    /// What tells its directory from all others. Known when it was taken: whoever asks does not wait.
    at: Mutex<Option<String>>,
    ledger: Ledger,
    /// The loop device on which a volume was last seen. Where it is not any more, all are looked at.
    devices: Mutex<BTreeMap<Id, PathBuf>>,
    /// Loop devices whose discards we turned off.
    kept: Mutex<BTreeSet<PathBuf>>,
    /// Thick volumes whose rewriting needs new blocks, see [`stowage_host::reflink::is_in_place`].
    copied: Mutex<BTreeSet<Id>>,
    /// What was told of blocks that cannot be given back.
    told: Mutex<Repeat>,
    /// Rounds of upkeep.
    rounds: AtomicU64,
}

/// The lock of the daemon that has the pool, on its marker.
#[derive(Default)]
struct Claim {
    /// It was taken once: without it the pool is not used.
    wanted: bool,
    lock: Option<Lock>,
}

impl Shared {
    fn dir(&self, record: &Record) -> PathBuf {
        self.place(&record.id)
    }

    fn place(&self, id: &Id) -> PathBuf {
        let kind = match id.role() {
            stowage_model::id::Role::Snapshot => "snapshots",
            _ => "volumes",
        };
        self.options.path.join(kind).join(id.as_str())
    }

    fn data(&self, record: &Record) -> PathBuf {
        self.dir(record).join("data")
    }

    /// Whether files can share blocks here.
    ///
    /// # Errors
    /// [`stowage_model::Kind::Precondition`] while that could not be found out.
    fn reflink(&self) -> Result<bool> {
        let why = || {
            let why = self
                .no_reflink
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            why.clone().unwrap_or_else(|| {
                "it was not there when it was opened and has not been read since".to_owned()
            })
        };
        self.reflink.get().copied().ok_or_else(|| {
            Error::precondition(format!(
                "whether pool {} can cut snapshots is not known: {}",
                self.options.name,
                why()
            ))
        })
    }

    /// The marker must still be there: a file system unmounted under us would otherwise let
    /// volumes be made on what lies beneath.
    fn present(&self) -> Result<()> {
        self.in_place()?;
        if self.read.load(Ordering::Acquire) {
            return Ok(());
        }
        Err(Error::precondition(format!(
            "pool {} was not there when it was opened and has not been read since",
            self.options.name
        )))
    }
}

impl FilePool {
    /// Run blocking work on the pool's directory, when its turn comes. A thread that hangs keeps
    /// its turn.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let turn = Arc::clone(&self.work).acquire_owned().await;
        self.run_in(turn, work).await
    }

    /// As [`FilePool::run`], for what only informs: where no turn comes soon, the pool does not
    /// answer.
    async fn look<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let turn = Arc::clone(&self.looks).acquire_owned();
        match tokio::time::timeout(LOOK_TURN, turn).await {
            Ok(turn) => self.run_in(turn, work).await,
            Err(_) => Err(Error::internal(format!(
                "pool {} does not answer; look for a disk under {} that hangs in the kernel log",
                self.name(),
                self.path().display()
            ))),
        }
    }

    async fn run_in<T: Send + 'static>(
        &self,
        turn: Result<OwnedSemaphorePermit, AcquireError>,
        work: impl FnOnce(&Shared) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let shared = Arc::clone(&self.shared);
        blocking(move || {
            let _turn = turn;
            work(&shared)
        })
        .await
    }

    fn path(&self) -> &Path {
        &self.shared.options.path
    }
}

impl FilePool {
    /// Whether files can share blocks here.
    ///
    /// # Errors
    /// [`stowage_model::Kind::Unsupported`] with the reason.
    fn shares(&self) -> Result<()> {
        if self.shared.reflink()? {
            return Ok(());
        }
        Err(Error::unsupported(format!(
            "pool {} cannot cut snapshots: the file system under {} cannot share blocks between \
             files (reflink); put the pool on xfs or btrfs",
            self.name(),
            self.path().display()
        )))
    }
}

#[async_trait]
impl Pool for FilePool {
    fn name(&self) -> &PoolName {
        &self.shared.options.name
    }

    fn kind(&self) -> PoolKind {
        PoolKind::File
    }

    fn vg(&self) -> Option<&str> {
        None
    }

    fn place(&self) -> String {
        let at = self.shared.at.lock();
        let at = at.unwrap_or_else(PoisonError::into_inner).clone();
        at.unwrap_or_else(|| format!("pool@{}", self.name()))
    }

    async fn claim(&self, _locks: &Locks) -> Result<()> {
        self.run(Shared::take).await
    }

    async fn rounded(&self, _: &Record, size: Bytes) -> Result<Bytes> {
        Ok(size.round_up(STEP))
    }

    async fn capacity(&self, _: Layout, provisioning: Provisioning) -> Capacity {
        let looked = self
            .look(move |shared| Ok(shared.capacity(provisioning)))
            .await;
        looked.unwrap_or_default()
    }

    fn creation_needs_journal(&self) -> bool {
        false
    }

    async fn status(&self) -> Result<PoolStatus> {
        self.look(|shared| Ok(shared.status())).await
    }

    async fn scan(&self) -> Result<Scan> {
        self.run(|shared| shared.scan()).await
    }

    async fn create(&self, record: &Record, size: Bytes) -> Result<Bytes> {
        let record = record.clone();
        self.run(move |shared| shared.create(&record, size)).await
    }

    async fn rewrite(&self, record: &Record) -> Result<()> {
        let record = record.clone();
        self.run(move |shared| shared.rewrite(&record)).await
    }

    async fn grow(&self, record: &Record, size: Bytes) -> Result<Bytes> {
        let record = record.clone();
        self.run(move |shared| shared.grow(&record, size)).await
    }

    async fn remove(&self, record: &Record) -> Result<Removed> {
        let record = record.clone();
        self.run(move |shared| shared.remove(&record)).await
    }

    async fn purge(&self, leftover: &Leftover, _progress: &Arc<Progress>) -> Result<()> {
        // Unlinking a large file takes the file system a while.
        let (shared, leftover) = (Arc::clone(&self.shared), leftover.clone());
        on_own_thread(move || shared.purge(&leftover)).await
    }

    async fn tend(&self) -> Result<Vec<Finding>> {
        let status = self
            .look(|shared| {
                shared.learn_reflink();
                Ok(shared.status())
            })
            .await?;
        if let Some(problem) = status.problem {
            return Ok(vec![Finding {
                severity: Severity::Error,
                trouble: Trouble::PoolMissing,
                subject: self.name().to_string(),
                what: problem,
                mend: format!("mount the file system of {} again", self.path().display()),
            }]);
        }
        let mut findings = self
            .run(|shared| {
                let round = shared.rounds.fetch_add(1, Ordering::Relaxed);
                Ok(shared.tend_blocks(round))
            })
            .await?;
        findings.extend(self.no_files());
        let free_percent = (100 - status.data_percent.map_or(0, percent)).min(100);
        let severity = match free_percent {
            free if free < ERROR_FREE => Severity::Error,
            free if free < WARN_FREE => Severity::Warning,
            _ => return Ok(findings),
        };
        findings.push(Finding {
            severity,
            trouble: Trouble::PoolFull,
            subject: self.name().to_string(),
            what: format!("only {free_percent} % of {} is free", status.total),
            mend: format!(
                "delete volumes or snapshots, or grow the file system under {}; thin volumes get \
                 I/O errors when it is full",
                self.path().display()
            ),
        });
        Ok(findings)
    }

    fn backing(&self) -> Backing<'_> {
        Backing::Block(self)
    }

    fn snapshots(&self) -> Result<&dyn Snapshots> {
        self.shares()?;
        Ok(self)
    }

    fn clones(&self) -> Option<&dyn Clones> {
        self.shares().is_ok().then_some(self as &dyn Clones)
    }

    fn disks(&self) -> Result<&dyn Disks> {
        Err(Error::unsupported(format!(
            "pool {} is a directory and takes no disks; grow the file system under {} instead",
            self.name(),
            self.path().display()
        )))
    }
}

#[async_trait]
impl BlockDevices for FilePool {
    async fn written(&self, record: &Record) -> Result<Written> {
        let record = record.clone();
        self.run(move |shared| Ok(shared.written(&record))).await
    }

    async fn attach(&self, record: &Record, how: Attach) -> Result<Device> {
        let record = record.clone();
        self.run(move |shared| shared.attach(&record, how)).await
    }

    async fn refill(&self, record: &Record) -> Result<()> {
        let record = record.clone();
        self.run(move |shared| {
            shared.refill(&record);
            Ok(())
        })
        .await
    }

    async fn attached(&self, record: &Record) -> Result<Option<Device>> {
        let record = record.clone();
        self.run(move |shared| shared.attached(&record)).await
    }

    async fn detach(&self, record: &Record) -> Result<()> {
        let record = record.clone();
        self.run(move |shared| shared.detach(&record)).await
    }
}

#[async_trait]
impl Snapshots for FilePool {
    async fn snapshot_in(&self, _turn: &Turn, of: &Record, snapshot: &Record) -> Result<()> {
        self.shares()?;
        let (of, snapshot) = (of.clone(), snapshot.clone());
        self.run(move |shared| shared.share(&of, &snapshot, Bytes(0)).map(drop))
            .await
    }

    async fn removable(&self, record: &Record) -> Result<()> {
        let record = record.clone();
        self.run(move |shared| shared.check_removable(&record))
            .await
    }
}

#[async_trait]
impl Clones for FilePool {
    /// btrfs shares blocks between two files that are written in place, or two that are not: a
    /// thick volume is a copy of what is not.
    fn clones_instantly(&self, new: &Record) -> bool {
        let source = new.source.as_ref().filter(|_| volume::keeps_blocks(new));
        let in_place = |id: &Id| {
            let data = self.shared.place(id).join("data");
            stowage_host::reflink::is_in_place(&data).unwrap_or(true)
        };
        self.shared.reflink().unwrap_or_default() && source.is_none_or(in_place)
    }

    async fn clone_in(
        &self,
        _turn: &Turn,
        source: &Record,
        new: &Record,
        size: Bytes,
    ) -> Result<Bytes> {
        self.shares()?;
        let (source, new) = (source.clone(), new.clone());
        self.run(move |shared| shared.share(&source, &new, size))
            .await
    }
}

impl FilePool {
    /// That no file could be made in the pool since it was opened.
    fn no_files(&self) -> Vec<Finding> {
        let why = self.shared.no_reflink.lock();
        let why = why.unwrap_or_else(PoisonError::into_inner).clone();
        let told = why.map(|what| Finding {
            severity: Severity::Error,
            trouble: Trouble::ReadOnly,
            subject: self.name().to_string(),
            what,
            mend: format!(
                "make room in the file system of {}, or look for device errors in the kernel log \
                 and mount it again; it is tried again every few seconds",
                self.path().display()
            ),
        });
        told.into_iter().collect()
    }
}

/// A percentage as a whole number, for comparing.
fn percent(value: f32) -> u64 {
    // Clamped first, so the cast cannot lose anything but the fraction.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped to 0..=100"
    )]
    let whole = value.clamp(0.0, 100.0) as u64;
    whole
}

#[cfg(test)]
mod tests;
