//! The node's one object: what the doors call.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use futures::future::join_all;
use stowage_host::cgroup::Hierarchy;
use stowage_host::{Cmd, CmdError, Lock, Locks, Output, Repeat, Runner, blocking, device, mount};
use stowage_model::error::Context;
use stowage_model::request::{
    EphemeralRequest, GroupRequest, Layout, Placement, Provisioning, PublishRequest, SizeRange,
    StageRequest,
};
use stowage_model::volumes::{
    Capacity, Finding, Group, Grown, PoolStatus, Snapshot, Volume, Volumes,
};
use stowage_model::{
    Bytes, Error, Id, LimitsChange, PoolName, Publish, Result, SnapshotRequest, VolumeRequest,
    publish::Stats,
};
use stowage_pool::Pool;
use tokio_util::sync::CancellationToken;

use crate::ask::Looks;
use crate::attachments::Attachments;
use crate::ephemeral::{Doubts, EphemeralRules, Making};
use crate::index::{Entry, Index};
use crate::jobs::{Job, Jobs};
use crate::journal::{Intent, Journal};
use crate::kubelet::settled;
use crate::nesting::Paths;
use crate::ops::Ops;
use crate::pools::{Definitions, PoolConfig};
use crate::recover::use_lock;
use crate::start::State;
use crate::tend::Chore;
use crate::throttle::Watch;
use crate::unread::Unread;

/// How long a record changed in use may wait before it is carried into its pool: long enough for
/// a stage and the publish that follows it not to meet the LVM command.
const CARRY_AFTER: Duration = Duration::from_secs(3);

/// What a node needs to know.
#[derive(Debug, Clone)]
pub struct Options {
    /// Directory for the journal, attachments and pool definitions.
    pub state_dir: PathBuf,
    /// Our own executable, which the thaw guard runs from.
    pub program: PathBuf,
    /// What the authors of pods may ask for inline volumes.
    pub ephemeral: EphemeralRules,
    /// Directory for the locks of pools, and of the commands at work in them. The same for all
    /// daemons of the machine, and outlives a daemon but not the machine's boot.
    pub lock_dir: PathBuf,
}

/// Volumes on this machine.
#[derive(Clone)]
pub struct Local {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) options: Options,
    pub(crate) runner: Arc<dyn Runner>,
    pub(crate) locks: Locks,
    pub(crate) started: tokio::time::Instant,
    pub(crate) pools: RwLock<BTreeMap<PoolName, Arc<dyn Pool>>>,
    pub(crate) definitions: Mutex<Definitions>,
    pub(crate) paths: Paths,
    pub(crate) index: Index,
    /// What the index lacks.
    pub(crate) unread: Unread,
    /// Something that is in a pool could not be read, or not be ended.
    pub(crate) halves: AtomicBool,
    /// What all pools together tell was tidied up.
    pub(crate) tidied: AtomicBool,
    /// What pools said of themselves.
    pub(crate) looks: Looks,
    pub(crate) ops: Arc<Ops>,
    pub(crate) journal: Journal,
    /// What was noted, and staged at directories of ours, before this start.
    pub(crate) noted_before: BTreeMap<Id, Intent>,
    pub(crate) stagings_before: Vec<PathBuf>,
    pub(crate) attachments: Attachments,
    pub(crate) jobs: Arc<Jobs>,
    /// What the kernel lacks.
    pub(crate) kernel: Option<Finding>,
    /// Which limits are in force.
    pub(crate) limits: Watch,
    /// Inline volumes that are being made.
    pub(crate) making: Making,
    /// Upkeep that is under way.
    pub(crate) chores: Mutex<BTreeSet<(Chore, PoolName)>>,
    /// Those whose consumers are neither seen nor known to be gone.
    pub(crate) doubts: Doubts,
    /// Volumes whose data are on their way to the disk.
    pub(crate) syncing: Mutex<BTreeSet<Id>>,
    pub(crate) stopping: CancellationToken,
    /// What reading the pools, and work on what they hold, found.
    pub(crate) found: RwLock<BTreeMap<PoolName, Vec<Finding>>>,
    /// What the last upkeep found.
    pub(crate) upkeep: RwLock<BTreeMap<PoolName, Vec<Finding>>>,
    pub(crate) state: RwLock<State>,
    /// What was told of each pool.
    pub(crate) told: Mutex<BTreeMap<PoolName, Repeat>>,
    /// What doors say of themselves.
    pub(crate) doors: RwLock<BTreeMap<&'static str, Finding>>,
    pub(crate) cgroups: Option<Hierarchy>,
    /// One daemon at a time.
    pub(crate) _lock: Lock,
}

impl Inner {
    pub(crate) fn pools(&self) -> Vec<Arc<dyn Pool>> {
        self.pools
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .cloned()
            .collect()
    }

    /// Right after the start: wait for this volume or snapshot to be read, if it may be there.
    pub(crate) async fn known(&self, id: &Id) {
        self.first_reading(|| self.index.get(id).is_some()).await;
    }

    /// A runner whose commands hold the volume while they live, whatever becomes of us.
    pub(crate) fn runner_of(&self, entry: &Entry) -> Working {
        Working {
            runner: Arc::clone(&self.runner),
            lock: use_lock(&entry.pool, entry.record.id.as_str()),
        }
    }

    pub(crate) fn need_volume(&self, id: &Id) -> Result<Entry> {
        let gone = || format!("there is no volume {id}");
        match self.index.get(id) {
            Some(entry) if entry.record.is_snapshot() => Err(Error::not_found(gone())),
            Some(entry) => Ok(entry),
            None => Err(self.unread.absent(id, gone())),
        }
    }

    pub(crate) fn volume_of(&self, entry: &Entry) -> Result<Volume> {
        Ok(self.shown(entry.clone()))
    }

    fn shown(&self, entry: Entry) -> Volume {
        let attachment = self.attachments.get(&entry.record.id);
        // The staging directory is of interest only while no consumer has the volume.
        let targets: Vec<PathBuf> = attachment.targets.keys().cloned().collect();
        let used_at = match targets.is_empty() {
            true => attachment.paths().map(Path::to_owned).collect(),
            false => targets,
        };
        Volume {
            record: entry.record,
            pool: entry.pool.name().clone(),
            kind: entry.pool.kind(),
            vg: entry.pool.vg().map(str::to_owned),
            size: entry.size,
            used_at,
        }
    }

    /// Where a volume is in use: what we noted and the mount table confirms.
    pub(crate) fn used_at(&self, entry: &Entry) -> Result<Vec<PathBuf>> {
        let noted = self.attachments.get(&entry.record.id);
        let own = self.own_staging_path(&entry.record.id);
        let mut paths: Vec<PathBuf> = noted.paths().map(Path::to_owned).collect();
        if !paths.is_empty() {
            let mounts = mount::Table::read();
            let mounts = mounts.or_internal(|| "failed to read the mount table".into())?;
            paths.retain(|path| mounts.at(path).is_some());
        }
        // People know the targets they named, not the directory we stage at for them.
        if paths.len() > 1 {
            paths.retain(|path| *path != own);
        }
        Ok(paths)
    }

    /// Write a changed record into its pool and the index. The caller holds the volume.
    pub(crate) async fn save(self: &Arc<Self>, entry: &Entry) -> Result<()> {
        entry.pool.rewrite(&entry.record).await?;
        self.index.put(entry.clone());
        // The note of a mkfs that did not end must outlive other changes: without it what is on
        // the device is somebody's, and the volume can never be formatted.
        match entry.half_formatted {
            true => Ok(()),
            false => self.unnote(&entry.record.id).await,
        }
    }

    /// Make a changed record durable now and carry it into the pool later. The caller holds the
    /// volume.
    pub(crate) async fn save_lazily(self: &Arc<Self>, entry: &Entry) -> Result<()> {
        let id = entry.record.id.clone();
        let intent = Intent::record(entry.pool.name(), &entry.record);
        self.note(&id, intent).await?;
        self.index.put(entry.clone());
        let me = Arc::clone(self);
        self.ops.background(async move {
            // Tried again until it is there: a group may be busy or away for a while.
            let mut repeat = Repeat::default();
            loop {
                tokio::select! {
                    () = tokio::time::sleep(CARRY_AFTER) => {}
                    // The journal keeps it for the next start.
                    () = me.stopping.cancelled() => return,
                }
                match me.carry(&id).await {
                    Ok(()) => return,
                    Err(e) if !repeat.is_due(&e.chain()) => {}
                    Err(e) => tracing::warn!(volume.id = %id, error = %e.chain(),
                        "record not yet in the pool"),
                }
            }
        });
        Ok(())
    }

    async fn carry(self: &Arc<Self>, id: &Id) -> Result<()> {
        let _held = self.ops.begin(id, "record keeping").await?;
        match self.index.get(id) {
            Some(entry) => self.save(&entry).await,
            None => self.unnote(id).await,
        }
    }

    /// Write an intention down, durably.
    pub(crate) async fn note(self: &Arc<Self>, id: &Id, intent: Intent) -> Result<()> {
        let (me, id) = (Arc::clone(self), id.clone());
        blocking(move || me.journal.write(&id, &intent)).await
    }

    /// What is noted about this volume, if that can be read.
    pub(crate) async fn noted(self: &Arc<Self>, id: &Id) -> Result<Option<Intent>> {
        let (me, id) = (Arc::clone(self), id.clone());
        blocking(move || me.journal.read(&id)).await
    }

    /// Forget an intention, durably.
    pub(crate) async fn unnote(self: &Arc<Self>, id: &Id) -> Result<()> {
        let (me, id) = (Arc::clone(self), id.clone());
        blocking(move || me.journal.clear(&id)).await
    }

    pub(crate) async fn device_of(&self, entry: &Entry) -> Result<Option<stowage_host::Devno>> {
        let Some(device) = entry.pool.attached(&entry.record).await? else {
            return Ok(None);
        };
        device::devno(&device.path)
            .map(Some)
            .or_internal(|| format!("failed to look at {}", device.path.display()))
    }
}

/// Whether this is a snapshot that somebody asked for. Passing ones, that only feed a copy, are
/// nobody's business.
fn lasts(entry: &Entry) -> bool {
    entry.record.is_snapshot() && !entry.record.ephemeral
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
    /// [`stowage_model::Kind::Unavailable`] while there may be more.
    pub fn whole(self) -> Result<Vec<T>> {
        match self.gaps.into_iter().next() {
            None => Ok(self.all),
            Some(gap) => Err(gap),
        }
    }
}

/// How long a command waits for another that works on its volume.
const TURN: Duration = Duration::from_secs(2);

/// Runs commands that work on one volume.
pub(crate) struct Working {
    runner: Arc<dyn Runner>,
    lock: String,
}

#[async_trait]
impl Runner for Working {
    async fn run(&self, cmd: Cmd) -> Result<Output, CmdError> {
        self.runner.run(cmd.locked(&self.lock, TURN)).await
    }
}

impl Local {
    /// Everything that is being copied or wiped.
    pub fn jobs(&self) -> Vec<Job> {
        self.inner.jobs.list()
    }

    /// Whether a volume or snapshot that is not listed is known not to exist: nothing that may hold it
    /// is unread.
    ///
    /// # Errors
    /// [`stowage_model::Kind::Unavailable`] naming the pool it may be in, and the way out.
    pub fn rule_out(&self, id: &Id) -> Result<()> {
        self.inner.unread.rule_out(id)
    }

    /// Right after the start: wait for this volume or snapshot to be read, if it may be there.
    pub async fn known(&self, id: &Id) {
        self.inner.known(id).await;
    }

    /// The volumes that are known by now. Right after the start more may be:
    /// [`Local::list_volumes`] waits for them.
    pub fn volumes_known(&self) -> Listing<Volume> {
        // Before the look: what is read meanwhile is not listed, perhaps.
        let gaps = self.inner.unread.gaps();
        let volumes = self.inner.index.list(|e| !e.record.is_snapshot());
        let all = volumes.into_iter().map(|e| self.inner.shown(e)).collect();
        Listing { all, gaps }
    }

    /// The volumes that are known.
    pub async fn list_volumes(&self) -> Listing<Volume> {
        self.inner.first_reading(|| false).await;
        self.volumes_known()
    }

    /// The snapshots that are known.
    pub async fn list_snapshots(&self) -> Listing<Snapshot> {
        self.inner.first_reading(|| false).await;
        self.snapshots_known()
    }

    /// As [`Local::volumes_known`], for snapshots.
    pub fn snapshots_known(&self) -> Listing<Snapshot> {
        // Before the look, as with volumes.
        let gaps = self.inner.unread.gaps();
        let lasting = self.inner.index.list(lasts);
        let all = lasting.iter().map(|e| self.inner.snapshot_of(e)).collect();
        Listing { all, gaps }
    }

    /// Make a pool from a definition and remember it across restarts.
    ///
    /// # Errors
    /// [`stowage_model::Kind::Exists`] when the name is taken, [`stowage_model::Kind::Precondition`]
    /// for disks that are not blank.
    pub async fn create_pool(
        &self,
        config: PoolConfig,
        disks: &[PathBuf],
        force: bool,
    ) -> Result<PoolStatus> {
        let (me, disks) = (Arc::clone(&self.inner), disks.to_vec());
        self.inner
            .ops
            .detached(async move { me.create_pool(config, &disks, force).await })
            .await
    }

    /// Add disks to a pool.
    ///
    /// # Errors
    /// [`stowage_model::Kind::NotFound`] for an unknown pool, else as [`Pool::extend`].
    pub async fn extend_pool(
        &self,
        name: &PoolName,
        disks: &[PathBuf],
        force: bool,
    ) -> Result<PoolStatus> {
        let (me, name, disks) = (Arc::clone(&self.inner), name.clone(), disks.to_vec());
        let work = async move { me.extend_pool(&name, &disks, force).await };
        self.inner.ops.detached(work).await
    }

    /// Whether the node can serve: one pool at least is there. Those that are not are told by
    /// [`Volumes::findings`]; their trouble must not keep the others' volumes from being used.
    ///
    /// # Errors
    /// [`stowage_model::Kind::Precondition`] when no pool is configured, or none is there,
    /// [`stowage_model::Kind::Pending`] right after the start.
    pub fn ready(&self) -> Result<()> {
        let pools = self.inner.pools();
        if pools.is_empty() && !self.inner.unread.lacks_definitions() {
            return Err(Error::precondition("no pool is configured"));
        }
        let missing = self.inner.missing_pools();
        if pools.iter().all(|pool| missing.contains(pool.name())) && self.inner.unread.is_coming() {
            return Err(Error::pending("the pools are being read"));
        }
        if pools.iter().all(|pool| missing.contains(pool.name())) {
            return Err(Error::precondition(
                "none of the pools is there; run `stowage doctor`",
            ));
        }
        Ok(())
    }

    /// Stop: no new background work, copies and wipes stop at the next chunk (they are taken up
    /// again at the next start), operations under way get until `bound`. Mounts stay.
    pub async fn stop(&self, bound: Duration) {
        self.inner.stopping.cancel();
        self.inner.jobs.stop_all();
        if !self.inner.ops.drain(bound).await {
            tracing::warn!("operations still under way are left to the next start");
        }
    }
}

/// Run an operation on this volume or snapshot to its end even if the caller goes away.
macro_rules! detached {
    ($self:ident, $id:expr, |$me:ident| $work:expr) => {{
        let $me = Arc::clone(&$self.inner);
        $self.inner.known($id).await;
        $self.inner.ops.detached(async move { $work.await }).await
    }};
}

#[async_trait]
impl Volumes for Local {
    async fn create(&self, want: VolumeRequest) -> Result<Volume> {
        let id = Id::derive(stowage_model::id::Role::Volume, &want.name);
        let me = &self.inner;
        // It may be in a pool where it would be made; the others do not concern it.
        me.first_reading(|| {
            let placed = me.placed(&want.placement, want.layout);
            me.index.get(&id).is_some() || !me.unread.are_coming(&placed)
        })
        .await;
        let me = Arc::clone(me);
        let work = async move {
            let _held = me.ops.begin(&id, "creation").await?;
            me.create_locked(id, &want, None).await
        };
        self.inner.ops.detached(work).await
    }

    async fn delete(&self, id: &Id) -> Result<()> {
        let id = id.clone();
        detached!(self, &id.clone(), |me| me.remove_volume(&id))
    }

    async fn grow(&self, id: &Id, size: SizeRange) -> Result<Grown> {
        let id = id.clone();
        detached!(self, &id.clone(), |me| me.grow_volume(&id, size))
    }

    async fn modify(&self, id: &Id, change: LimitsChange) -> Result<Volume> {
        let id = id.clone();
        detached!(self, &id.clone(), |me| me.change_limits(&id, change))
    }

    async fn volume(&self, id: &Id) -> Result<Volume> {
        self.inner.known(id).await;
        self.inner.volume_of(&self.inner.need_volume(id)?)
    }

    async fn volumes(&self) -> Result<Vec<Volume>> {
        self.list_volumes().await.whole()
    }

    async fn known_volumes(&self) -> Result<Vec<Volume>> {
        Ok(self.list_volumes().await.all)
    }

    async fn snapshot(&self, want: SnapshotRequest) -> Result<Snapshot> {
        detached!(self, &want.source.clone(), |me| me.cut_snapshot(want))
    }

    async fn delete_snapshot(&self, id: &Id) -> Result<()> {
        let id = id.clone();
        detached!(self, &id.clone(), |me| me.remove_snapshot(&id))
    }

    async fn one_snapshot(&self, id: &Id) -> Result<Snapshot> {
        self.inner.known(id).await;
        let gone = || format!("there is no snapshot with the id {id}");
        match self.inner.index.get(id) {
            Some(entry) if lasts(&entry) => Ok(self.inner.snapshot_of(&entry)),
            Some(_) => Err(Error::not_found(gone())),
            None => Err(self.inner.unread.absent(id, gone())),
        }
    }

    async fn snapshots(&self) -> Result<Vec<Snapshot>> {
        self.list_snapshots().await.whole()
    }

    async fn snapshot_group(&self, want: GroupRequest) -> Result<Group> {
        self.inner.first_reading(|| false).await;
        let me = Arc::clone(&self.inner);
        self.inner
            .ops
            .detached(async move { me.cut_group(want).await })
            .await
    }

    async fn delete_group(&self, id: &Id, members: &[Id]) -> Result<()> {
        let (id, members) = (id.clone(), members.to_vec());
        detached!(self, &id.clone(), |me| me.remove_group(&id, &members))
    }

    async fn group(&self, id: &Id) -> Result<Group> {
        self.inner.first_reading(|| false).await;
        self.inner.need_group(id)
    }

    async fn capacity(
        &self,
        choice: &Placement,
        layout: Layout,
        provisioning: Provisioning,
    ) -> Result<Capacity> {
        let mut capacity = Capacity::default();
        let pools = self.inner.allowed(choice, layout).await;
        if self.inner.unread.among_allowed(choice, &pools).is_err() {
            // Nothing new is made there meanwhile.
            return Ok(capacity);
        }
        for room in self.inner.rooms_known(&pools, layout, provisioning).await {
            capacity.available = capacity.available + room.available;
            capacity.largest = capacity.largest.max(room.largest);
        }
        Ok(capacity)
    }

    async fn pools(&self) -> Result<Vec<PoolStatus>> {
        let pools = self.inner.pools();
        let all = pools.iter().map(|pool| self.inner.status_of(pool));
        Ok(join_all(all).await)
    }

    async fn health(&self, id: &Id) -> Result<Vec<Finding>> {
        self.inner.known(id).await;
        let entry = self.inner.need_volume(id)?;
        let mut found = self.inner.findings_of(&[entry]).await;
        Ok(found.remove(id).unwrap_or_default())
    }

    async fn health_of_all(&self, ids: &[Id]) -> Result<BTreeMap<Id, Vec<Finding>>> {
        let there = ids.iter().filter_map(|id| self.inner.index.get(id));
        let volumes: Vec<Entry> = there.filter(|e| !e.record.is_snapshot()).collect();
        Ok(self.inner.findings_of(&volumes).await)
    }

    async fn findings(&self) -> Result<Vec<Finding>> {
        Ok(self.inner.all_findings().await)
    }
}

#[async_trait]
impl Publish for Local {
    async fn stage(&self, mut want: StageRequest) -> Result<()> {
        want.staging = settled(want.staging).await;
        detached!(self, &want.id.clone(), |me| me.stage(want))
    }

    async fn unstage(&self, id: &Id, staging: &Path) -> Result<()> {
        let (id, staging) = (id.clone(), settled(staging.to_owned()).await);
        detached!(self, &id.clone(), |me| me.unstage(&id, &staging))
    }

    async fn publish(&self, mut want: PublishRequest) -> Result<()> {
        want.staging = settled(want.staging).await;
        want.target = settled(want.target).await;
        detached!(self, &want.id.clone(), |me| me.publish(want))
    }

    async fn unpublish(&self, id: &Id, target: &Path) -> Result<()> {
        let (id, target) = (id.clone(), settled(target.to_owned()).await);
        detached!(self, &id.clone(), |me| me.unpublish(&id, &target))
    }

    async fn publish_ephemeral(&self, mut want: EphemeralRequest) -> Result<()> {
        want.target = settled(want.target).await;
        let id = Id::ephemeral(&want.volume.name);
        detached!(self, &id, |me| me.publish_ephemeral(want))
    }

    async fn stats(&self, id: &Id, path: &Path) -> Result<Stats> {
        self.inner.stats(id, &settled(path.to_owned()).await).await
    }

    async fn expand(&self, id: &Id, path: &Path, required: Option<Bytes>) -> Result<Bytes> {
        let (id, path) = (id.clone(), settled(path.to_owned()).await);
        detached!(self, &id.clone(), |me| me.expand(&id, &path, required))
    }
}
