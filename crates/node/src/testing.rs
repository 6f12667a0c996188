//! A node over pools that keep plain files and fail on demand, for claims about the order of steps
//! alone: locks, retries, what is undone. Nothing is mounted here; what the kernel makes of the
//! steps is asked of a real one, in the tests of `app`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use stowage_model::volume_request::Wanted;
use stowage_model::volumes::Volumes;

use async_trait::async_trait;
use stowage_host::cgroup::Hierarchy;
use stowage_host::{Lock, Locks, Progress, Runner};
use stowage_model::request::{Layout, Media, Placement, Provisioning, SnapshotRequest, Source};
use stowage_model::volumes::{Capacity, Finding, PoolStatus};
use stowage_model::{
    Bytes, Error, FsType, Id, Limits, Name, PoolKind, PoolName, Record, Result, VolumeRequest,
};
use stowage_pool::{
    Attach, Backing, BlockDevices, Clones, Defect, Device, Disks, Found, Hold, Leftover, Pool,
    Removed, Scan, Snapshots, Turn,
};
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::Instant;

use crate::config::Options;
use crate::config::ephemeral::EphemeralRules;
use crate::local::Local;
use crate::state::Node;
use crate::state::entry::Entry;

const SIZE: Bytes = Bytes::mib(16);

/// A node with the pools `a` and `b`.
pub(crate) struct Bench {
    pub(crate) local: Local,
    pub(crate) a: Arc<Files>,
    pub(crate) b: Arc<Files>,
    /// The root of an empty tree of control groups, as a directory.
    pub(crate) cgroups: PathBuf,
    _dirs: [tempfile::TempDir; 2],
}

impl Bench {
    pub(crate) async fn new() -> Self {
        Self::prepared(|_, _| ()).await
    }

    pub(crate) async fn with_rules(ephemeral: EphemeralRules) -> Self {
        Self::build(
            tempfile::tempdir().unwrap(),
            ephemeral,
            |node| node,
            |_, _| (),
        )
        .await
    }

    /// As [`Bench::new`], with this state directory, and commands run by this.
    pub(crate) async fn over(state: tempfile::TempDir, runner: Arc<dyn Runner>) -> Self {
        let rules = EphemeralRules::default();
        Self::build(state, rules, |node| node.with_runner(runner), |_, _| ()).await
    }

    /// As [`Bench::new`], with something done to the pools before they are read.
    pub(crate) async fn prepared(prepare: impl FnOnce(&Files, &Files)) -> Self {
        Self::at(tempfile::tempdir().unwrap(), prepare).await
    }

    /// As [`Bench::prepared`], with this state directory.
    pub(crate) async fn at(state: tempfile::TempDir, prepare: impl FnOnce(&Files, &Files)) -> Self {
        Self::build(state, EphemeralRules::default(), |node| node, prepare).await
    }

    async fn build(
        state: tempfile::TempDir,
        ephemeral: EphemeralRules,
        fit: impl FnOnce(Node) -> Node,
        prepare: impl FnOnce(&Files, &Files),
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = Options {
            state_dir: state.path().to_owned(),
            program: PathBuf::from("/proc/self/exe"),
            ephemeral,
            lock_dir: dir.path().join("locks"),
        };
        let lock = Lock::of_directory(state.path(), Duration::ZERO).await;
        let lock = lock.unwrap();
        let node = fit(Node::new(options, lock).unwrap());
        let cgroups = dir.path().join("cgroup");
        std::fs::create_dir(&cgroups).unwrap();
        std::fs::write(cgroups.join("cgroup.controllers"), "io").unwrap();
        let node = node.with_cgroups(Hierarchy::detect_at(&cgroups).unwrap());
        let pool = |name: &str| {
            let at = dir.path().join(name);
            std::fs::create_dir(&at).unwrap();
            Arc::new(Files::new(name, at))
        };
        let (a, b) = (pool("a"), pool("b"));
        prepare(&a, &b);
        let pools: Vec<Arc<dyn Pool>> = vec![a.clone(), b.clone()];
        let local = Local::begin(Arc::new(node), pools).await;
        Self {
            local,
            a,
            b,
            cgroups,
            _dirs: [dir, state],
        }
    }

    pub(crate) async fn volume(&self, name: &str) -> Id {
        let made = self.local.create(wanted(name, "a", None)).await.unwrap();
        made.record.id
    }

    pub(crate) async fn snapshot(&self, source: &Id, name: &str) -> Id {
        let want = SnapshotRequest {
            name: Name::new(name).unwrap(),
            source: source.clone(),
            read_only: false,
            growth: Default::default(),
        };
        self.local.snapshot(want).await.unwrap().record.id
    }

    pub(crate) fn entry(&self, id: &Id) -> Option<Entry> {
        self.local.node.index().get(id)
    }

    /// Change what is known of a volume, as another operation would.
    pub(crate) fn alter(&self, id: &Id, change: impl FnOnce(&mut Entry)) {
        let mut entry = self.entry(id).unwrap();
        change(&mut entry);
        self.local.node.index().put(entry);
    }
}

/// A request for an ext4 volume in this pool.
pub(crate) fn wanted(name: &str, pool: &str, source: Option<Source>) -> VolumeRequest {
    VolumeRequest {
        name: Name::new(name).unwrap(),
        size: Some(SIZE),
        limit: None,
        usage: Wanted::Mount(Some(FsType::Ext4)),
        mount_flags: Vec::new(),
        placement: Placement {
            pool: Some(PoolName::new(pool).unwrap()),
            ..Placement::default()
        },
        layout: Layout::Linear,
        provisioning: Provisioning::Thin,
        mkfs: None,
        limits: Limits::default(),
        source,
        read_only: false,
    }
}

/// Whether there was one more.
fn count_down(left: &AtomicU32) -> bool {
    let next = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
    next.is_ok()
}

/// A pool of plain files; copies within it are instant.
pub(crate) struct Files {
    name: PoolName,
    dir: PathBuf,
    attached: Mutex<BTreeSet<Id>>,
    /// What was last written about each volume.
    pub(crate) written: Mutex<BTreeMap<Id, Record>>,
    /// What is in use, and by nobody we know.
    pub(crate) busy: Mutex<BTreeSet<Id>>,
    /// How many more times a record cannot be written.
    pub(crate) refusals: AtomicU32,
    /// Whether read-only volumes show their snapshots in place.
    pub(crate) shows: AtomicBool,
    /// What its files lie on.
    pub(crate) media: Mutex<Option<Media>>,
    /// Whether looks at it never end, as on a disk that hangs.
    pub(crate) hangs: AtomicBool,
    /// Whether wipes never end.
    pub(crate) wipes_hang: AtomicBool,
    /// How many more wipes find it in use.
    pub(crate) wipe_refusals: AtomicU32,
    /// Whether what is to be wiped is no leftover.
    pub(crate) no_leftovers: AtomicBool,
    /// What was wiped.
    pub(crate) wiped: Mutex<Vec<String>>,
    /// What a scan finds wrong.
    pub(crate) defects: Mutex<Vec<Defect>>,
    /// Whether it can be neither read nor asked about itself.
    pub(crate) silent: AtomicBool,
    /// Whether a command that outlived its daemon is still changing it.
    pub(crate) waits: AtomicBool,
    /// Whether it is not there.
    pub(crate) away: AtomicBool,
    /// How often its status was asked for.
    pub(crate) asked: AtomicU32,
    /// How often it was looked after.
    pub(crate) tended: AtomicU32,
    /// Cutting does not hold writers, as with files.
    pub(crate) is_file: AtomicBool,
    /// Whether it cannot be.
    pub(crate) ill: AtomicBool,
    /// How long a snapshot takes.
    pub(crate) cuts_take: Mutex<Duration>,
    /// What was done, and when.
    pub(crate) steps: Mutex<Vec<(&'static str, Instant)>>,
    turn: Arc<AsyncMutex<()>>,
}

impl Files {
    pub(crate) fn new(name: &str, dir: PathBuf) -> Self {
        Self {
            name: PoolName::new(name).unwrap(),
            dir,
            attached: Mutex::default(),
            written: Mutex::default(),
            busy: Mutex::default(),
            refusals: AtomicU32::new(0),
            shows: AtomicBool::new(false),
            media: Mutex::default(),
            hangs: AtomicBool::new(false),
            wipes_hang: AtomicBool::new(false),
            wipe_refusals: AtomicU32::new(0),
            no_leftovers: AtomicBool::new(false),
            wiped: Mutex::default(),
            defects: Mutex::default(),
            silent: AtomicBool::new(false),
            waits: AtomicBool::new(false),
            away: AtomicBool::new(false),
            asked: AtomicU32::new(0),
            tended: AtomicU32::new(0),
            is_file: AtomicBool::new(false),
            ill: AtomicBool::new(false),
            cuts_take: Mutex::default(),
            steps: Mutex::default(),
            turn: Arc::default(),
        }
    }

    async fn hang(&self, hangs: &AtomicBool) {
        if hangs.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
    }

    pub(crate) fn file(&self, id: &Id) -> PathBuf {
        self.dir.join(id.as_str())
    }

    /// It holds this already.
    pub(crate) fn holds(&self, record: &Record) {
        self.make(record, SIZE);
    }

    fn log(&self, step: &'static str) {
        self.steps.lock().unwrap().push((step, Instant::now()));
    }

    fn make(&self, record: &Record, size: Bytes) -> Bytes {
        let file = std::fs::File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(self.file(&record.id))
            .unwrap();
        file.set_len(size.0).unwrap();
        let id = record.id.clone();
        self.written.lock().unwrap().insert(id, record.clone());
        size
    }
}

#[async_trait]
impl Pool for Files {
    fn name(&self) -> &PoolName {
        &self.name
    }

    fn kind(&self) -> PoolKind {
        PoolKind::File
    }

    fn vg(&self) -> Option<&str> {
        None
    }

    async fn rounded(&self, _record: &Record, size: Bytes) -> Result<Bytes> {
        Ok(size)
    }

    async fn capacity(&self, _layout: Layout, _provisioning: Provisioning) -> Capacity {
        self.hang(&self.hangs).await;
        Capacity {
            available: Bytes::gib(1),
            largest: Bytes::gib(1),
        }
    }

    fn creation_needs_journal(&self) -> bool {
        false
    }

    async fn status(&self) -> Result<PoolStatus> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        self.hang(&self.silent).await;
        Ok(PoolStatus {
            name: self.name.clone(),
            kind: PoolKind::File,
            location: self.dir.display().to_string(),
            media: *self.media.lock().unwrap(),
            total: Bytes::gib(1),
            free: Bytes::gib(1),
            largest: Bytes::gib(1),
            promised: Bytes(0),
            data_percent: None,
            metadata_percent: None,
            volumes: 0,
            snapshots: 0,
            problem: None,
            age: None,
        })
    }

    async fn claim(&self, _locks: &Locks) -> Result<()> {
        if self.away.load(Ordering::SeqCst) {
            return Err(Error::precondition("it is away"));
        }
        match self.waits.load(Ordering::SeqCst) {
            true => Err(Error::pending("lvcreate is still at work")),
            false => Ok(()),
        }
    }

    async fn scan(&self) -> Result<Scan> {
        self.hang(&self.silent).await;
        let written = self.written.lock().unwrap();
        let found = |record: &Record| Found {
            record: record.clone(),
            size: SIZE,
        };
        Ok(Scan {
            found: written.values().map(found).collect(),
            defects: self.defects.lock().unwrap().clone(),
            leftovers: Vec::new(),
        })
    }

    async fn create(&self, record: &Record, size: Bytes) -> Result<Bytes> {
        let _turn = self.turn().await;
        self.log("create");
        // Making one takes time, and others go on meanwhile.
        tokio::task::yield_now().await;
        Ok(self.make(record, size))
    }

    async fn rewrite(&self, record: &Record) -> Result<()> {
        if count_down(&self.refusals) {
            return Err(Error::internal("no LVM command works"));
        }
        let id = record.id.clone();
        self.written.lock().unwrap().insert(id, record.clone());
        Ok(())
    }

    async fn grow(&self, record: &Record, size: Bytes) -> Result<Bytes> {
        Ok(self.make(record, size))
    }

    async fn remove(&self, record: &Record) -> Result<Removed> {
        let _ = std::fs::remove_file(self.file(&record.id));
        self.written.lock().unwrap().remove(&record.id);
        Ok(Removed::ToPurge(Leftover {
            handle: record.id.to_string(),
            size: SIZE,
        }))
    }

    async fn purge(&self, leftover: &Leftover, _progress: &Arc<Progress>) -> Result<()> {
        if self.wipes_hang.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        if count_down(&self.wipe_refusals) {
            return Err(Error::precondition(format!("{} is open", leftover.handle)));
        }
        if self.no_leftovers.load(Ordering::SeqCst) {
            return Err(Error::not_found("it is a volume"));
        }
        self.wiped.lock().unwrap().push(leftover.handle.clone());
        Ok(())
    }

    async fn tend(&self) -> Result<Vec<Finding>> {
        self.tended.fetch_add(1, Ordering::SeqCst);
        if self.ill.load(Ordering::SeqCst) {
            return Err(Error::internal("its disk is gone"));
        }
        Ok(Vec::new())
    }

    async fn turn(&self) -> Turn {
        Arc::clone(&self.turn).lock_owned().await.into()
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
        (!self.is_file.load(Ordering::SeqCst)).then_some(self as &dyn Hold)
    }

    fn disks(&self) -> Result<&dyn Disks> {
        Ok(self)
    }
}

#[async_trait]
impl BlockDevices for Files {
    async fn attach(&self, record: &Record, _how: Attach) -> Result<Device> {
        self.attached.lock().unwrap().insert(record.id.clone());
        Ok(Device::new(self.file(&record.id), SIZE))
    }

    async fn attached(&self, record: &Record) -> Result<Option<Device>> {
        self.hang(&self.hangs).await;
        let attached = self.attached.lock().unwrap().contains(&record.id);
        Ok(attached.then(|| Device::new(self.file(&record.id), SIZE)))
    }

    async fn detach(&self, record: &Record) -> Result<()> {
        if self.busy.lock().unwrap().contains(&record.id) {
            return Err(Error::precondition(format!("{} is in use", record.id)));
        }
        self.attached.lock().unwrap().remove(&record.id);
        Ok(())
    }
}

#[async_trait]
impl Snapshots for Files {
    fn reads_in_place(&self, record: &Record) -> bool {
        self.shows.load(Ordering::SeqCst) && record.read_only && record.source.is_some()
    }

    async fn snapshot_in(&self, _turn: &Turn, of: &Record, snapshot: &Record) -> Result<()> {
        self.log("cut");
        let takes = *self.cuts_take.lock().unwrap();
        tokio::time::sleep(takes).await;
        std::fs::copy(self.file(&of.id), self.file(&snapshot.id)).unwrap();
        self.make(snapshot, SIZE);
        Ok(())
    }
}

#[async_trait]
impl Clones for Files {
    fn clones_instantly(&self, _new: &Record) -> bool {
        true
    }

    async fn clone_in(
        &self,
        _turn: &Turn,
        source: &Record,
        new: &Record,
        size: Bytes,
    ) -> Result<Bytes> {
        std::fs::copy(self.file(&source.id), self.file(&new.id)).unwrap();
        Ok(self.make(new, size))
    }
}

#[async_trait]
impl Hold for Files {
    async fn suspend_in(&self, _turn: &Turn, _records: &[Record]) -> Result<()> {
        self.log("suspend");
        Ok(())
    }

    async fn resume(&self, _records: &[Record]) -> Result<()> {
        self.log("resume");
        Ok(())
    }
}

#[async_trait]
impl Disks for Files {
    async fn extend(&self, _disks: &[PathBuf], _force: bool) -> Result<()> {
        Ok(())
    }
}

/// What is logged on this thread.
#[derive(Clone, Default)]
pub(crate) struct Heard(Arc<Mutex<Vec<String>>>);

impl Heard {
    /// Listen until the guard goes.
    pub(crate) fn listen() -> (Self, tracing::subscriber::DefaultGuard) {
        let heard = Self::default();
        let guard = tracing::subscriber::set_default(heard.clone());
        (heard, guard)
    }

    /// How many lines there were with this in them.
    pub(crate) fn count(&self, text: &str) -> usize {
        let lines = self.0.lock().unwrap();
        lines.iter().filter(|line| line.contains(text)).count()
    }
}

impl tracing::Subscriber for Heard {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut line = String::new();
        event.record(
            &mut |field: &tracing::field::Field, value: &dyn std::fmt::Debug| {
                line.push_str(&format!("{}={value:?} ", field.name()));
            },
        );
        self.0.lock().unwrap().push(line);
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}
