//! The start. Calls are answered soon, whatever hangs: pools are opened without a look at them and
//! read by a task each. What is not read yet, or cannot be, is a finding and is tried again; what
//! it may hold is not taken for gone meanwhile (see `unread`).

use std::collections::BTreeSet;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use futures::future::join_all;
use stowage_host::cgroup::Hierarchy;
use stowage_host::{Lock, Locks, System, blocking, durable, kernel};
use stowage_model::error::Context;
use stowage_model::volumes::{Finding, Severity, Trouble};
use stowage_model::{Error, Kind, Result};
use stowage_pool::Pool;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::attachments::{Attachments, OWN_STAGING};
use crate::findings;
use crate::journal::Journal;
use crate::local::{Inner, Local, Options};
use crate::nesting::Paths;
use crate::pools::{self, PoolConfig};
use crate::tend::Chore;
use crate::unread::Undefined;

/// How long to wait for a previous daemon to end.
const LOCK_WAIT: Duration = Duration::from_secs(30);

/// How long pools are waited for before calls are answered without them.
const FIRST_LOOK: Duration = Duration::from_secs(1);

/// How long a pool waits for those before it: of two volumes of one id the first pool's is kept.
const ORDER: Duration = Duration::from_millis(700);

/// How often a pool is tried that only waits for a command to end.
const WAIT: Duration = Duration::from_millis(250);

/// How long the state directory is left alone at first when something in it cannot be used, doubled
/// each time, and at most.
const STATE_PAUSE: Duration = Duration::from_secs(3);
const LONGEST_STATE_PAUSE: Duration = Duration::from_secs(48);

/// What is wrong with the state directory.
#[derive(Default)]
pub(crate) struct State {
    findings: Vec<Finding>,
    again: Option<(Instant, Duration)>,
}

impl Local {
    /// Start the node: open the pools, recover, and begin upkeep. It serves within two seconds;
    /// what could not be opened or read by then is tried again while serving.
    ///
    /// # Errors
    /// [`stowage_model::Kind::Precondition`] while another daemon uses the state directory,
    /// [`stowage_model::Kind::Invalid`] for a pool that is misconfigured.
    pub async fn start(options: Options, configured: Vec<PoolConfig>) -> Result<Self> {
        Self::start_with(options, configured, Paths::default()).await
    }

    async fn start_with(
        options: Options,
        configured: Vec<PoolConfig>,
        paths: Paths,
    ) -> Result<Self> {
        let mut names = BTreeSet::new();
        for (n, config) in configured.iter().enumerate() {
            if !names.insert(&config.name) {
                let name = &config.name;
                return Err(Error::invalid(format!("two pools are called {name}")));
            }
            config.check()?;
            pools::apart(config, &configured[..n])?;
        }
        let state = options.state_dir.clone();
        // Staged volumes lie below it, and their files are for their consumers only.
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&state)
            .or_internal(|| format!("failed to make the state directory {}", state.display()))?;
        // It may lie behind a link, which is root's word; mount tables show where it leads.
        let state = std::fs::canonicalize(&state)
            .or_internal(|| format!("failed to find the state directory {}", state.display()))?;
        let options = Options {
            state_dir: state.clone(),
            ..options
        };
        let lock = Lock::of_directory(&state, LOCK_WAIT).await.map_err(|e| {
            Error::precondition(format!(
                "the state directory {} is in use; stop the other daemon first",
                state.display()
            ))
            .caused_by(e)
        })?;
        let mut inner = Inner::new(options, lock)?;
        inner.paths = paths;
        let inner = Arc::new(inner);
        inner.definitions().known = configured.clone();
        for (config, real) in configured.iter().zip(inner.lying(&configured).await) {
            if let Some(real) = real {
                inner.lies_at(config, real)?;
            }
        }
        let mut opened = Vec::new();
        for config in &configured {
            opened.push(inner.open(config)?);
        }
        Ok(Self::begin(inner, opened).await)
    }

    /// Read these pools and what the state directory holds, and begin upkeep.
    pub(crate) async fn begin(inner: Arc<Inner>, mut pools: Vec<Arc<dyn Pool>>) -> Self {
        pools.extend(inner.look_at_state(true).await);
        inner.read_first(pools).await;
        inner.begin_upkeep();
        Self { inner }
    }

    /// Tell of a trouble that a door has, or that it has no more.
    pub fn tell(&self, door: &'static str, finding: Option<Finding>) {
        let doors = self.inner.doors.write();
        let mut doors = doors.unwrap_or_else(PoisonError::into_inner);
        match finding {
            Some(finding) => doors.insert(door, finding),
            None => doors.remove(door),
        };
    }
}

impl Inner {
    pub(crate) fn new(options: Options, lock: Lock) -> Result<Self> {
        let locks = Locks::new(&options.lock_dir).of_kernel();
        let boot = boot_id()?;
        let journal = Journal::new(options.state_dir.join("journal"));
        let noted_before = journal.load().map(|(intents, _)| intents);
        let stagings = std::fs::read_dir(options.state_dir.join(OWN_STAGING));
        let stagings = stagings.into_iter().flatten().flatten();
        Ok(Self {
            noted_before: noted_before.unwrap_or_default(),
            stagings_before: stagings.map(|entry| entry.path()).collect(),
            journal,
            attachments: Attachments::new(options.state_dir.join("attachments"), boot),
            options,
            runner: Arc::new(System::with_locks(locks.clone())),
            locks,
            started: Instant::now(),
            pools: RwLock::default(),
            definitions: Mutex::default(),
            paths: Paths::default(),
            index: Default::default(),
            unread: Default::default(),
            halves: AtomicBool::new(false),
            tidied: AtomicBool::new(false),
            looks: Default::default(),
            ops: Arc::default(),
            jobs: Arc::default(),
            making: Default::default(),
            chores: Mutex::default(),
            doubts: Default::default(),
            syncing: Mutex::default(),
            kernel: findings::of_kernel(&kernel::lacking(), &kernel::release()),
            limits: Default::default(),
            stopping: CancellationToken::new(),
            found: RwLock::default(),
            upkeep: RwLock::default(),
            state: RwLock::default(),
            told: Mutex::default(),
            doors: RwLock::default(),
            cgroups: Hierarchy::detect()
                .inspect_err(|e| tracing::warn!(error = %e, "I/O limits cannot be set here"))
                .ok(),
            _lock: lock,
        })
    }

    fn open(&self, config: &PoolConfig) -> Result<Arc<dyn Pool>> {
        let first = !pools::seen_before(&self.pools_dir(), &config.name);
        let pool = config.open(&self.runner, &self.pools_dir(), first)?;
        self.unread
            .coming(pool.name(), "it is being read".to_owned());
        self.enter(&pool);
        Ok(pool)
    }

    /// Look at everything in the state directory, and open the pools that are kept there and are
    /// not open yet.
    async fn look_at_state(self: &Arc<Self>, first: bool) -> Vec<Arc<dyn Pool>> {
        let me = Arc::clone(self);
        let (mut kept, mut undefined, mut findings) = blocking(move || me.read_state(first)).await;
        let is_known = |name: &str| {
            let definitions = self.definitions();
            let mut known = definitions.known.iter();
            known.any(|known| known.name.as_str() == name)
        };
        // One that is configured as well is as the configuration says.
        kept.retain(|config| !is_known(config.name.as_str()));
        let lying = self.lying(&kept).await;
        let mut opened = Vec::new();
        for (config, real) in kept.into_iter().zip(lying) {
            match self.open_kept(&config, real).await {
                Ok(pool) => opened.push(pool),
                Err(e) => {
                    let pool = config.name.to_string();
                    let path = self.pools_dir().join(format!("{pool}.json"));
                    undefined.push(Undefined {
                        why: pools::unusable(&path).caused_by(e),
                        pool: Some(pool),
                    });
                }
            }
        }
        findings.extend(undefined.iter().map(|u| self.definition_finding(u)));
        // One that is served is as it was when its definition could be read.
        undefined.retain(|u| u.pool.as_deref().is_none_or(|pool| !is_known(pool)));
        self.unread.undefined(undefined);
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let pause = state.again.map_or(STATE_PAUSE, |(_, pause)| {
            (pause * 2).min(LONGEST_STATE_PAUSE)
        });
        let told = |f: &&Finding| state.findings.iter().any(|before| before.what == f.what);
        for finding in findings.iter().filter(|f| !told(f)) {
            tracing::error!(subject = finding.subject, "{}", finding.what);
        }
        state.again = (!findings.is_empty()).then(|| (Instant::now() + pause, pause));
        state.findings = findings;
        opened
    }

    /// Open a pool that is kept, and lies there if that is known yet.
    async fn open_kept(
        self: &Arc<Self>,
        config: &PoolConfig,
        real: Option<PathBuf>,
    ) -> Result<Arc<dyn Pool>> {
        let reserved = self.reserve(config)?;
        if let Some(real) = real {
            self.lies_at(config, real)?;
        }
        let (me, config) = (Arc::clone(self), config.clone());
        let pool = blocking(move || me.open(&config)).await?;
        reserved.keep();
        Ok(pool)
    }

    fn read_state(&self, first: bool) -> (Vec<PoolConfig>, Vec<Undefined>, Vec<Finding>) {
        let mut wrong = Vec::new();
        let dir = self.pools_dir();
        let made = durable::create_dir(&dir)
            .or_internal(|| format!("failed to make {}", dir.display()))
            .and_then(|()| self.journal.prepare());
        wrong.extend(made.err());
        if first {
            for dir in [&dir, &self.options.state_dir.join("attachments")] {
                if let Err(e) = durable::sweep(dir)
                    && dir.exists()
                {
                    let what = format!("failed to clean {}", dir.display());
                    wrong.push(Error::internal(what).caused_by(e));
                }
            }
        }
        match self.journal.load() {
            Ok((_, unread)) => wrong.extend(unread.into_iter().map(|path| {
                Error::internal(format!(
                    "the journal entry {path} cannot be read; it is left alone, and its volume is \
                     taken to be as its pool says"
                ))
            })),
            Err(e) => wrong.push(e),
        }
        wrong.extend(self.attachments.load().err());
        for (path, why) in self.attachments.unread() {
            wrong.push(Error::internal(format!(
                "the note {} of where a volume is in use cannot be read: {why}",
                path.display()
            )));
        }
        let (kept, undefined) = pools::kept(&dir);
        let findings = wrong.iter().map(|e| self.state_finding(e)).collect();
        (kept, undefined, findings)
    }

    fn definition_finding(&self, undefined: &Undefined) -> Finding {
        let state = || self.options.state_dir.display().to_string();
        Finding {
            trouble: Trouble::PoolMissing,
            subject: undefined.pool.clone().unwrap_or_else(state),
            ..self.state_finding(&undefined.why)
        }
    }

    fn state_finding(&self, e: &Error) -> Finding {
        Finding {
            severity: Severity::Error,
            trouble: Trouble::Leftover,
            subject: self.options.state_dir.display().to_string(),
            what: e.chain(),
            mend: "mend or remove what is named; it is tried again within a minute".to_owned(),
        }
    }

    /// What is wrong with the state directory, and with doors.
    pub(crate) fn own_troubles(&self) -> Vec<Finding> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let doors = self.doors.read().unwrap_or_else(PoisonError::into_inner);
        let all = state.findings.iter().chain(doors.values());
        all.cloned().chain(self.late_finding()).collect()
    }

    /// Look at the state directory again, where something in it could not be used.
    pub(crate) async fn state_again(self: &Arc<Self>) {
        let again = {
            let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
            state.again
        };
        if again.is_some_and(|(due, _)| due <= Instant::now()) {
            let lacked = self.unread.lacks_definitions();
            // They are read with the others that are due.
            self.look_at_state(false).await;
            if lacked && !self.unread.lacks_definitions() {
                // Nothing is read where a definition was removed.
                self.tidy_beside();
            }
        }
    }

    /// Read these pools, each by itself, and wait for them a moment.
    pub(crate) async fn read_first(self: &Arc<Self>, pools: Vec<Arc<dyn Pool>>) {
        let until = Instant::now() + ORDER;
        let mut before: Option<oneshot::Receiver<()>> = None;
        let mut reads = Vec::new();
        for pool in pools {
            self.unread
                .coming(pool.name(), "it is being read".to_owned());
            self.enter(&pool);
            let chore = (Chore::Tend, pool.name().clone());
            self.chores().insert(chore.clone());
            let (done, next) = oneshot::channel();
            let first = before.replace(next);
            let me = Arc::clone(self);
            reads.push(tokio::spawn(async move {
                me.read(&pool, async move {
                    if let Some(first) = first {
                        let _ = tokio::time::timeout_at(until, first).await;
                    }
                })
                .await;
                drop(done);
                me.chores().remove(&chore);
            }));
        }
        let me = Arc::clone(self);
        let all = tokio::spawn(async move {
            join_all(reads).await;
            me.tidy().await;
        });
        if tokio::time::timeout(FIRST_LOOK, all).await.is_err() {
            tracing::warn!("not all pools could be read yet; serving without them");
        }
    }

    /// Read a pool that was not read yet: at once where it only waits for a command of a daemon
    /// that was killed. What is found is taken in after `turn`.
    pub(crate) async fn read(
        self: &Arc<Self>,
        pool: &Arc<dyn Pool>,
        turn: impl Future<Output = ()>,
    ) {
        let name = pool.name();
        let mut turn = Some(turn);
        loop {
            match self.take_in(pool, turn.take()).await {
                Ok(()) => break,
                Err(e) if e.kind() == Kind::Pending => {
                    if self.is_news(name, &e.chain()) {
                        tracing::info!(pool = %name, "{}", e.chain());
                    }
                    self.unread.coming(name, e.chain());
                    tokio::select! {
                        () = tokio::time::sleep(WAIT) => {}
                        () = self.stopping.cancelled() => return,
                    }
                }
                Err(e) => {
                    if self.is_news(name, &e.chain()) {
                        tracing::error!(pool = %name, error = %e.chain(), "pool cannot be read");
                    }
                    return self.unread.pool(name, e.chain());
                }
            }
        }
        if let Err(e) = pools::remember_seen(&self.pools_dir(), name) {
            tracing::warn!(pool = %name, error = %e.chain(), "pool not noted");
        }
        self.doubt_inline(pool);
        // So that there is something to tell of it from now on, should it be slow.
        let _ = self.asked_status(pool).await;
        self.unread.is_read(name);
        tracing::info!(pool = %name, "pool was read");
        self.look_for_consumers();
    }

    /// Take a pool for this daemon, and what it holds into the index.
    pub(crate) async fn take_in(
        self: &Arc<Self>,
        pool: &Arc<dyn Pool>,
        turn: Option<impl Future<Output = ()>>,
    ) -> Result<()> {
        self.place_known(pool.name()).await?;
        pool.claim(&self.locks).await?;
        let scan = pool.scan().await?;
        if let Some(turn) = turn {
            turn.await;
        }
        self.enter(pool);
        if !self.load(pool, scan).await? {
            self.halves.store(true, Ordering::Release);
        }
        Ok(())
    }

    pub(crate) fn enter(&self, pool: &Arc<dyn Pool>) {
        let mut pools = self.pools.write().unwrap_or_else(PoisonError::into_inner);
        pools.insert(pool.name().clone(), Arc::clone(pool));
    }
}

/// What tells this boot of the machine from others (random, made by the kernel at boot).
fn boot_id() -> Result<String> {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|text| text.trim().to_owned())
        .or_internal(|| "failed to read the boot id".to_owned())
}

#[cfg(test)]
mod tests;
