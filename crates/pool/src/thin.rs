//! Thin logical volumes in an LVM thin pool.
//!
//! ```text
//!   LV in the thin pool                  what it is
//!   stowage-v-<32 hex>                   a volume; its record in tags
//!   stowage-s-<32 hex>                   a snapshot; its record in tags
//!   either, tagged stowage.half=yes      leftover: half made
//!
//!   create, snapshot, clone:  lvcreate with the tags ─────────────────▶ there
//!   clone and grow:           lvcreate ──▶ half ── lvextend ── lvchange (record, no half) ──▶ there
//!   snapshot while held:      lvcreate ──▶ half ── dmsetup message ×2 ── lvchange ──▶ there
//!   remove:                   lvremove ──▶ gone
//! ```
//!
//! Snapshots and clones are volumes of their own: nothing needs its source. Nothing is wiped: a
//! thin pool zeroes a block before it hands it out, which is checked before any is made or attached.
//!
//! Room is counted twice. *Promised*: the sizes of all volumes and clones (not of snapshots, which
//! take blocks only as their sources change) must stay within the pool's size times
//! `overprovision`. *Real*: nothing new is made once the pool's data or metadata are filled to
//! their limits, because a pool that overflows stops all of its volumes.
//!
//! Failpoints: `thin.{create,grow,snapshot,clone,rewrite,remove,purge}.{begin,made}`,
//! `thin.clone.{half,grown}`, `thin.held.{half,emptied,filled}`, `thin.extend.begin`,
//! `thin.make.{begin,made}`, and those of `vg::setup`.

mod clone;
mod removal;
mod room;
mod scan;
mod setup;
mod snapshot;
mod stray;
mod tend;
mod volume;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use stowage_host::{Locks, Progress, Runner};
use stowage_model::request::{Layout, Provisioning};
use stowage_model::volumes::{Capacity, Finding, PoolStatus};
use stowage_model::{Bytes, Error, PoolKind, PoolName, Record, Result};

use crate::vg::watch::Watch;
use crate::vg::{Lv, Report, Vg, names};
use crate::{
    Attach, Backing, BlockDevices, Clones, Device, Disks, Hold, Leftover, Pool, Removed, Scan,
    Snapshots, Turn, Written,
};

pub use setup::{Options, make};

/// A thin pool that holds thin volumes.
pub struct ThinPool {
    vg: Vg,
    options: Options,
    /// Sectors written to the data and to the metadata of the thin pool.
    watch: Watch<Vec<u64>>,
    /// Until when a pool that was far from full needs no other look, and what the last one found.
    calm_until: Mutex<Option<(tokio::time::Instant, Vec<Finding>)>>,
    /// What was promised since a look at the pool: that look, and how much.
    since: Mutex<(Option<Arc<Report>>, Bytes)>,
}

impl ThinPool {
    /// Open a pool. A group or thin pool that is not there (yet) is no error; [`Pool::status`]
    /// tells.
    ///
    /// # Errors
    /// [`stowage_model::Kind::Invalid`] for names LVM cannot have,
    /// [`stowage_model::Kind::Precondition`] when the thin pool does not zero new blocks: a
    /// volume would show what another one held.
    pub async fn open(options: Options, runner: Arc<dyn Runner>) -> Result<Self> {
        Self::open_known(options, None, runner).await
    }

    /// As [`ThinPool::open`], for the group whose UUID the file `memory` holds. Where there is no
    /// such file the group is known by its name, and its UUID is kept there from then on.
    ///
    /// # Errors
    /// As [`ThinPool::open`].
    pub async fn open_known(
        options: Options,
        memory: Option<PathBuf>,
        runner: Arc<dyn Runner>,
    ) -> Result<Self> {
        let pool = Self::new(options, memory, runner)?;
        let looked = pool.vg.report().await;
        match looked.and_then(|report| pool.thin_pool(&report).cloned()) {
            Ok(lv) => pool.zeroing(&lv)?,
            Err(problem) => tracing::warn!(pool.name = %pool.options.name, "{}", problem.chain()),
        }
        Ok(pool)
    }

    /// As [`ThinPool::open`], without a look at the group, which may hang. A thin pool that does
    /// not zero new blocks is then a problem that its status tells.
    ///
    /// # Errors
    /// [`stowage_model::Kind::Invalid`] for names LVM cannot have.
    pub fn new(options: Options, memory: Option<PathBuf>, runner: Arc<dyn Runner>) -> Result<Self> {
        let vg = Vg::new(options.name.clone(), options.vg.clone(), runner)?
            .remembering(memory)
            .of_thin_pool(&options.thin_pool);
        setup::check(&options)?;
        Ok(Self {
            vg,
            options,
            watch: Watch::default(),
            calm_until: Mutex::default(),
            since: Mutex::default(),
        })
    }

    /// Refuse a thin pool that hands out blocks as they are. Asked whenever something is made or
    /// attached, since the group may have appeared, or been changed, after the pool was opened.
    fn zeroing(&self, lv: &Lv) -> Result<()> {
        if lv.zeroes {
            return Ok(());
        }
        Err(Error::precondition(format!(
            "pool {}: thin pool {} does not zero new blocks, so a volume would show what another \
             one held; run: lvchange --zero y {}",
            self.options.name,
            self.location(),
            self.location()
        )))
    }

    /// As [`ThinPool::zeroing`], from the last look where that was fine.
    async fn zeroes_now(&self) -> Result<()> {
        if let Some(last) = self.vg.recall()
            && self.thin_pool(&last).is_ok_and(|lv| lv.zeroes)
        {
            return Ok(());
        }
        let report = self.vg.report().await?;
        self.zeroing(self.thin_pool(&report)?)
    }

    /// `vg/pool`, as LVM's commands take it.
    fn location(&self) -> String {
        self.vg.path(&self.options.thin_pool)
    }

    /// The thin pool's own LV.
    fn thin_pool<'a>(&self, report: &'a Report) -> Result<&'a Lv> {
        report
            .lv(&self.options.thin_pool)
            .filter(|lv| lv.is_thin_pool())
            .ok_or_else(|| {
                Error::precondition(format!(
                    "thin pool {} is missing; make it with `stowage pool create` or \
                 `lvcreate --type thin-pool`",
                    self.location()
                ))
            })
    }

    /// The thin volumes in the pool, of whatever sort.
    fn members<'a>(&'a self, report: &'a Report) -> impl Iterator<Item = &'a Lv> {
        report
            .lvs
            .iter()
            .filter(|lv| lv.pool.as_ref() == Some(&self.options.thin_pool))
    }

    fn lvs(&self, records: &[Record]) -> Vec<String> {
        records.iter().map(|record| names::of(&record.id)).collect()
    }
}

#[async_trait]
impl Pool for ThinPool {
    fn name(&self) -> &PoolName {
        self.vg.pool()
    }

    fn kind(&self) -> PoolKind {
        PoolKind::Thin
    }

    fn vg(&self) -> Option<&str> {
        Some(self.vg.name())
    }

    fn place(&self) -> String {
        self.vg.place()
    }

    async fn claim(&self, locks: &Locks) -> Result<()> {
        self.vg.claim(locks).await
    }

    async fn rounded(&self, _: &Record, size: Bytes) -> Result<Bytes> {
        Ok(size.round_up(self.vg.extent()))
    }

    async fn capacity(&self, _: Layout, _: Provisioning) -> Capacity {
        let (available, largest) = match self.status_now().await {
            Ok(status) => (status.free, status.largest),
            Err(_) => (Bytes(0), Bytes(0)),
        };
        Capacity { available, largest }
    }

    fn creation_needs_journal(&self) -> bool {
        // LVM may give it a thin device that holds somebody's bytes, which is seen afterwards.
        true
    }

    async fn status(&self) -> Result<PoolStatus> {
        self.status_now().await
    }

    async fn scan(&self) -> Result<Scan> {
        self.scan_pool().await
    }

    async fn create(&self, record: &Record, size: Bytes) -> Result<Bytes> {
        self.create_volume(record, size).await
    }

    async fn rewrite(&self, record: &Record) -> Result<()> {
        self.rewrite_record(record).await
    }

    async fn grow(&self, record: &Record, size: Bytes) -> Result<Bytes> {
        self.grow_volume(record, size).await
    }

    async fn remove(&self, record: &Record) -> Result<Removed> {
        self.take_away(record).await
    }

    async fn purge(&self, leftover: &Leftover, _progress: &Arc<Progress>) -> Result<()> {
        self.clear_leftover(leftover).await
    }

    async fn tend(&self) -> Result<Vec<Finding>> {
        self.vg.look_again().await;
        self.watch_fill().await
    }

    async fn turn(&self) -> Turn {
        self.vg.turn_to_cut().await
    }

    fn backing(&self) -> Backing<'_> {
        Backing::Block(self)
    }

    fn snapshots(&self) -> Result<&dyn Snapshots> {
        Ok(self)
    }

    fn clones(&self) -> Option<&dyn Clones> {
        Some(self)
    }

    fn hold(&self) -> Option<&dyn Hold> {
        Some(self)
    }

    fn disks(&self) -> Result<&dyn Disks> {
        Ok(self)
    }
}

#[async_trait]
impl BlockDevices for ThinPool {
    async fn written(&self, record: &Record) -> Result<Written> {
        self.blocks_of(record).await
    }

    async fn attach(&self, record: &Record, _how: Attach) -> Result<Device> {
        self.zeroes_now().await?;
        self.vg.attach(&names::of(&record.id)).await
    }

    async fn attached(&self, record: &Record) -> Result<Option<Device>> {
        self.vg.attached(&names::of(&record.id))
    }

    async fn detach(&self, record: &Record) -> Result<()> {
        let _turn = self.vg.turn().await;
        self.vg.detach(&names::of(&record.id)).await
    }
}

#[async_trait]
impl Snapshots for ThinPool {
    async fn snapshot_in(&self, turn: &Turn, of: &Record, snapshot: &Record) -> Result<()> {
        self.cut(turn, of, snapshot).await
    }

    async fn removable(&self, record: &Record) -> Result<()> {
        self.check_removable(record).await
    }
}

#[async_trait]
impl Clones for ThinPool {
    fn clones_instantly(&self, _new: &Record) -> bool {
        true
    }

    async fn clone_in(
        &self,
        turn: &Turn,
        source: &Record,
        new: &Record,
        size: Bytes,
    ) -> Result<Bytes> {
        self.make_clone(turn, source, new, size).await
    }
}

#[async_trait]
impl Hold for ThinPool {
    async fn suspend_in(&self, _turn: &Turn, records: &[Record]) -> Result<()> {
        self.vg.suspend(&self.lvs(records)).await
    }

    async fn resume(&self, records: &[Record]) -> Result<()> {
        self.vg.resume(&self.lvs(records)).await
    }
}

#[async_trait]
impl Disks for ThinPool {
    async fn extend(&self, disks: &[PathBuf], force: bool) -> Result<()> {
        self.take_disks(disks, force).await
    }
}

#[cfg(test)]
mod tests;
