//! Thick logical volumes in a volume group.
//!
//! ```text
//!   LV                                   what it is
//!   stowage-v-<32 hex>                   a volume; its record in tags
//!   stowage-s-<32 hex>, COW of an LV     a snapshot; its record, and its readers', in tags
//!   stowage-s-<32 hex>, plain            leftover: a snapshot half made, or split to be removed
//!   stowage-x-<16 hex>                   leftover: removed, to be wiped
//!
//!   create:   lvcreate with the tags ──────────────────────────────────▶ volume
//!   remove:   volume ── lvrename ──▶ stowage-x-… ── zero, lvremove ──▶ gone
//!             snapshot ── lvconvert --splitsnapshot ──▶ plain ── lvrename ──▶ stowage-x-…
//! ```
//!
//! Each arrow is one commit of LVM's metadata, so a kill leaves one of these forms. Blocks are
//! wiped *before* they are given back: a new volume never shows what an old one held. That goes
//! for the store of a snapshot too, which holds what its origin had before it was overwritten;
//! split off it becomes a plain LV that can be wiped whole.
//!
//! A read-only restore is no LV but a *reader*: a record in the tags of its snapshot, whose
//! device it is attached through.
//!
//! Failpoints: `lvm.{create,grow,snapshot,rewrite,reader}.{begin,made}`, `lvm.grow.{inactive,blanked}`,
//! `lvm.remove.{begin,split,renamed,gone}`, `lvm.purge.{begin,wiped,removed}`, `lvm.tend.grown`,
//! and those of `vg::setup`: `vg.{make,extend}.{begin,made}`, `vg.disk.wipe`.

mod reader;
mod removal;
mod room;
mod scan;
mod setup;
mod snapshot;
mod tend;
mod volume;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use stowage_host::{Locks, Progress, Runner};
use stowage_model::request::{Layout, Provisioning};
use stowage_model::volumes::{Capacity, Finding, PoolStatus};
use stowage_model::{Bytes, PoolKind, PoolName, Record, Reserve, Result};

use crate::vg::watch::Watch;
use crate::vg::{Vg, names};
use crate::{
    Attach, Backing, BlockDevices, Clones, Device, Disks, Hold, Leftover, Pool, Removed, Scan,
    Snapshots, Turn,
};

pub use setup::{Options, make};
pub use stowage_model::pool::Wipe;

/// A volume group that holds thick volumes.
pub struct LvmPool {
    vg: Vg,
    wipe: Wipe,
    reserve: Reserve,
    /// Sectors written to each store, and how often the group was changed.
    watch: Watch<(BTreeMap<String, u64>, u64)>,
}

impl LvmPool {
    /// Open a pool. A group that is not there (yet) is no error; [`Pool::status`] tells.
    ///
    /// # Errors
    /// [`stowage_model::Kind::Invalid`] when `vg` is no name of a volume group.
    pub async fn open(options: Options, runner: Arc<dyn Runner>) -> Result<Self> {
        Self::open_known(options, None, runner).await
    }

    /// As [`LvmPool::open`], for the group whose UUID the file `memory` holds. Where there is no
    /// such file the group is known by its name, and its UUID is kept there from then on.
    ///
    /// # Errors
    /// As [`LvmPool::open`].
    pub async fn open_known(
        options: Options,
        memory: Option<PathBuf>,
        runner: Arc<dyn Runner>,
    ) -> Result<Self> {
        let pool = Self::new(options, memory, runner)?;
        if let Err(error) = pool.vg.report().await {
            tracing::warn!(pool.name = %pool.vg.pool(), "{}", error.chain());
        }
        Ok(pool)
    }

    /// As [`LvmPool::open`], without a look at the group, which may hang.
    ///
    /// # Errors
    /// As [`LvmPool::open`].
    pub fn new(options: Options, memory: Option<PathBuf>, runner: Arc<dyn Runner>) -> Result<Self> {
        Ok(Self {
            vg: Vg::new(options.name, options.vg, runner)?.remembering(memory),
            wipe: options.wipe,
            reserve: options.reserve,
            watch: Watch::default(),
        })
    }

    /// The LVs under records whose devices exist or can exist.
    fn lvs(&self, records: &[Record]) -> Vec<String> {
        records.iter().map(|record| names::of(&record.id)).collect()
    }
}

#[async_trait]
impl Pool for LvmPool {
    fn name(&self) -> &PoolName {
        self.vg.pool()
    }

    fn kind(&self) -> PoolKind {
        PoolKind::Lvm
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

    async fn rounded(&self, record: &Record, size: Bytes) -> Result<Bytes> {
        self.whole_extents(record, size).await
    }

    async fn capacity(&self, layout: Layout, _: Provisioning) -> Capacity {
        self.capacity_of(layout).await
    }

    fn creation_needs_journal(&self) -> bool {
        // lvcreate commits the LV before it wipes the first sector of it.
        true
    }

    async fn status(&self) -> Result<PoolStatus> {
        self.status_now().await
    }

    async fn scan(&self) -> Result<Scan> {
        self.scan_group().await
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

    async fn purge(&self, leftover: &Leftover, progress: &Arc<Progress>) -> Result<()> {
        self.wipe_leftover(leftover, progress).await
    }

    async fn tend(&self) -> Result<Vec<Finding>> {
        self.vg.look_again().await;
        self.tend_stores().await
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
impl BlockDevices for LvmPool {
    async fn attach(&self, record: &Record, _how: Attach) -> Result<Device> {
        self.reach(record).await
    }

    async fn attached(&self, record: &Record) -> Result<Option<Device>> {
        self.vg.attached(&self.lv_of(record).await?)
    }

    async fn detach(&self, record: &Record) -> Result<()> {
        self.let_go(record).await
    }
}

#[async_trait]
impl Snapshots for LvmPool {
    async fn snapshot_in(&self, turn: &Turn, of: &Record, snapshot: &Record) -> Result<()> {
        self.cut(turn, of, snapshot).await
    }

    async fn intact(&self, record: &Record) -> Result<()> {
        self.not_lost(record).await
    }

    fn reads_in_place(&self, record: &Record) -> bool {
        reader::snapshot_of(record).is_some()
    }

    async fn removable(&self, record: &Record) -> Result<()> {
        self.check_removable(record).await
    }
}

#[async_trait]
impl Clones for LvmPool {
    fn clones_instantly(&self, new: &Record) -> bool {
        reader::snapshot_of(new).is_some()
    }

    async fn clone_in(
        &self,
        turn: &Turn,
        source: &Record,
        new: &Record,
        size: Bytes,
    ) -> Result<Bytes> {
        self.add_reader(turn, source, new, size).await
    }
}

#[async_trait]
impl Hold for LvmPool {
    async fn suspend_in(&self, _turn: &Turn, records: &[Record]) -> Result<()> {
        self.vg.suspend(&self.lvs(records)).await
    }

    async fn resume(&self, records: &[Record]) -> Result<()> {
        self.vg.resume(&self.lvs(records)).await
    }
}

#[async_trait]
impl Disks for LvmPool {
    async fn extend(&self, disks: &[PathBuf], force: bool) -> Result<()> {
        crate::vg::setup::extend(&self.vg, disks, force)
            .await
            .map(drop)
    }
}

#[cfg(test)]
mod tests;
