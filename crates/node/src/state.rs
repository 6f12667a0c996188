//! What a node knows and holds: one object that every verb is given. Its parts are private, each in a
//! file of its own; what is asked of a part is a method of that part.
//!
//! It must not know what is done with volumes: nothing here imports a verb.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use stowage_host::cgroup::Hierarchy;
use stowage_host::{Lock, Locks, Runner, System};
use stowage_model::error::Context;
use stowage_model::{Id, PoolName, Result};
use stowage_pool::Pool;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::Options;

pub(crate) mod attachments;
pub(crate) mod before;
pub(crate) mod busy;
pub(crate) mod definitions;
pub(crate) mod doubts;
pub(crate) mod entry;
pub(crate) mod ground;
pub(crate) mod index;
pub(crate) mod jobs;
pub(crate) mod journal;
pub(crate) mod last_known;
pub(crate) mod limits;
pub(crate) mod looks;
pub(crate) mod making;
pub(crate) mod nesting;
pub(crate) mod notices;
pub(crate) mod ops;
pub(crate) mod unread;

use attachments::Attachments;
use before::Before;
use busy::Busy;
use definitions::Definitions;
use doubts::Doubts;
use index::Index;
use jobs::Jobs;
use journal::Journal;
use last_known::LastKnown;
use limits::Watch;
use looks::Looks;
use making::Making;
use nesting::Paths;
use notices::Notices;
use ops::Ops;
use unread::Unread;

/// Maintenance of one pool that may hang with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Chore {
    Maintain,
    Limit,
}

/// A node's state. Verbs are functions that are given it, and mostly an [`Arc`] of it: work goes on when
/// its caller hangs up.
pub(crate) struct Node {
    options: Options,
    runner: Arc<dyn Runner>,
    locks: Locks,
    started: Instant,
    pools: RwLock<BTreeMap<PoolName, Arc<dyn Pool>>>,
    definitions: Arc<Definitions>,
    paths: Paths,
    index: Index,
    last_known: Arc<LastKnown>,
    unread: Unread,
    looks: Looks,
    ops: Arc<Ops>,
    journal: Journal,
    before: Before,
    attachments: Attachments,
    jobs: Arc<Jobs>,
    limits: Watch,
    making: Arc<Making>,
    chores: Busy<(Chore, PoolName)>,
    doubts: Doubts,
    syncing: Busy<Id>,
    stopping: CancellationToken,
    notices: Notices,
    cgroups: Option<Hierarchy>,
    /// One daemon at a time.
    _lock: Lock,
}

impl Node {
    /// The state of a node that serves nothing yet.
    ///
    /// # Errors
    /// [`stowage_model::Kind::Internal`] when the kernel does not tell this boot from others.
    pub(crate) fn new(options: Options, lock: Lock) -> Result<Self> {
        let locks = Locks::new(&options.lock_dir).of_kernel();
        let boot = boot_id()?;
        let journal = Journal::new(options.state_dir.join("journal"));
        let last_known = Arc::new(LastKnown::in_directory(
            options.state_dir.join("known"),
            &boot,
        ));
        Ok(Self {
            before: Before::seen(&journal, &options.state_dir),
            journal,
            attachments: Attachments::new(options.state_dir.join("attachments"), boot),
            options,
            runner: Arc::new(System::with_locks(locks.clone())),
            locks,
            started: Instant::now(),
            pools: RwLock::default(),
            definitions: Arc::default(),
            paths: Paths::default(),
            index: Index::noted_in(Arc::clone(&last_known)),
            last_known,
            unread: Unread::default(),
            looks: Looks::default(),
            ops: Arc::default(),
            jobs: Arc::default(),
            making: Arc::default(),
            chores: Busy::default(),
            doubts: Doubts::default(),
            syncing: Busy::default(),
            limits: Watch::default(),
            stopping: CancellationToken::new(),
            notices: Notices::of_this_kernel(),
            cgroups: Hierarchy::detect()
                .inspect_err(|e| tracing::warn!(error = %e, "I/O limits cannot be set here"))
                .ok(),
            _lock: lock,
        })
    }

    /// With the paths of file pools resolved by this.
    pub(crate) fn with_paths(mut self, paths: Paths) -> Self {
        self.paths = paths;
        self
    }

    /// With commands run by this.
    #[cfg(test)]
    pub(crate) fn with_runner(mut self, runner: Arc<dyn Runner>) -> Self {
        self.runner = runner;
        self
    }

    /// With these control groups.
    #[cfg(test)]
    pub(crate) fn with_cgroups(mut self, cgroups: Hierarchy) -> Self {
        self.cgroups = Some(cgroups);
        self
    }

    pub(crate) fn options(&self) -> &Options {
        &self.options
    }

    /// What runs commands.
    pub(crate) fn runner(&self) -> &Arc<dyn Runner> {
        &self.runner
    }

    /// The locks of pools, and of the commands at work in them.
    pub(crate) fn locks(&self) -> &Locks {
        &self.locks
    }

    pub(crate) fn started(&self) -> Instant {
        self.started
    }

    /// The pools that are open, by their names.
    pub(crate) fn pools(&self) -> Vec<Arc<dyn Pool>> {
        let pools = self.pools.read().unwrap_or_else(PoisonError::into_inner);
        pools.values().cloned().collect()
    }

    /// Whether a pool of this name is open.
    pub(crate) fn is_open(&self, name: &PoolName) -> bool {
        let pools = self.pools.read().unwrap_or_else(PoisonError::into_inner);
        pools.contains_key(name)
    }

    /// Enter a pool among those that are open.
    pub(crate) fn enter(&self, pool: &Arc<dyn Pool>) {
        let mut pools = self.pools.write().unwrap_or_else(PoisonError::into_inner);
        pools.insert(pool.name().clone(), Arc::clone(pool));
    }

    /// Where the definitions of pools are kept that were made on request, and what is remembered of
    /// all of them.
    pub(crate) fn pools_dir(&self) -> PathBuf {
        self.state_dir().join("pools")
    }

    pub(crate) fn state_dir(&self) -> &Path {
        &self.options.state_dir
    }

    /// How pools are defined.
    pub(crate) fn definitions(&self) -> &Arc<Definitions> {
        &self.definitions
    }

    /// Where file pools lie.
    pub(crate) fn paths(&self) -> &Paths {
        &self.paths
    }

    /// What is there; rebuilt from the pools.
    pub(crate) fn index(&self) -> &Index {
        &self.index
    }

    /// What there was in pools that are away.
    pub(crate) fn last_known(&self) -> &LastKnown {
        &self.last_known
    }

    /// What the index lacks.
    pub(crate) fn unread(&self) -> &Unread {
        &self.unread
    }

    /// What pools said of themselves.
    pub(crate) fn looks(&self) -> &Looks {
        &self.looks
    }

    /// The operations under way.
    pub(crate) fn ops(&self) -> &Arc<Ops> {
        &self.ops
    }

    /// What was about to happen.
    pub(crate) fn journal(&self) -> &Journal {
        &self.journal
    }

    /// What was noted before this start.
    pub(crate) fn before(&self) -> &Before {
        &self.before
    }

    /// Where volumes were handed out.
    pub(crate) fn attachments(&self) -> &Attachments {
        &self.attachments
    }

    /// Copies and wipes.
    pub(crate) fn jobs(&self) -> &Arc<Jobs> {
        &self.jobs
    }

    /// Which limits are in force.
    pub(crate) fn limits(&self) -> &Watch {
        &self.limits
    }

    /// Inline volumes that are being made.
    pub(crate) fn making(&self) -> &Arc<Making> {
        &self.making
    }

    /// Maintenance that is under way.
    pub(crate) fn chores(&self) -> &Busy<(Chore, PoolName)> {
        &self.chores
    }

    /// Inline volumes whose consumers are neither seen nor known to be gone.
    pub(crate) fn doubts(&self) -> &Doubts {
        &self.doubts
    }

    /// Volumes whose data are on their way to the disk.
    pub(crate) fn syncing(&self) -> &Busy<Id> {
        &self.syncing
    }

    /// Cancelled when the daemon stops.
    pub(crate) fn stopping(&self) -> &CancellationToken {
        &self.stopping
    }

    /// What was found wrong and is kept until it is over.
    pub(crate) fn notices(&self) -> &Notices {
        &self.notices
    }

    /// The control groups of this machine, where limits can be set.
    pub(crate) fn cgroups(&self) -> Option<&Hierarchy> {
        self.cgroups.as_ref()
    }
}

/// What tells this boot of the machine from others (random, made by the kernel at boot).
fn boot_id() -> Result<String> {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|text| text.trim().to_owned())
        .or_internal(|| "failed to read the boot id".to_owned())
}
