//! The start: read everything back from the pools, finish or undo what a kill cut off, and end
//! what must not outlive us (a frozen file system, a suspended device). Needs no help and can
//! itself be killed at any point.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::DirBuilderExt;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use futures::future::join_all;
use futures::stream::{self, StreamExt};
use stowage_host::cgroup::Hierarchy;
use stowage_host::lock::DaemonLock;
use stowage_host::{System, freeze, kernel};
use stowage_model::error::Context;
use stowage_model::volumes::{Finding, Severity, Trouble};
use stowage_model::{Error, Id, Record, Result};
use stowage_pool::{Defect, Pool, Removed, Scan};
use tokio::sync::Mutex as AsyncMutex;
use tokio_util::sync::CancellationToken;

use crate::attachments::{Attachment, Attachments};
use crate::ephemeral::Making;
use crate::findings;
use crate::index::{Entry, Index};
use crate::journal::{Intent, Journal};
use crate::local::{Inner, Local, Options};
use crate::nesting;
use crate::ops::Guard;
use crate::pools::{self, PoolConfig};
use crate::throttle::Watch;
use crate::unread::Unread;

/// How long to wait for a previous daemon, or the commands it left running when it was killed.
const LOCK_WAIT: Duration = Duration::from_secs(30);

/// How long a start waits for volumes in use to be let go: no disk that works needs as long.
const RELEASE: Duration = Duration::from_secs(1);

/// How many of them are let go at a time.
const RELEASES: usize = 16;

impl Local {
    /// Start the node: open the pools, recover, and begin upkeep.
    ///
    /// # Errors
    /// [`stowage_model::Kind::Precondition`] while another daemon uses the state directory,
    /// [`stowage_model::Kind::Invalid`] for a pool that is misconfigured. A pool that is merely
    /// missing does not keep the others from being served.
    pub async fn start(options: Options, configured: Vec<PoolConfig>) -> Result<Self> {
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
        let lock_path = state.join("lock");
        let lock = stowage_host::blocking(move || DaemonLock::acquire(&lock_path, LOCK_WAIT))
            .await
            .map_err(|e| {
                Error::precondition(format!(
                    "the state directory {} is in use; stop the other daemon first",
                    state.display()
                ))
                .caused_by(e)
            })?;
        let inner = Arc::new(Inner::new(options, lock)?);
        let pools = inner.open_pools(configured).await?;
        Self::begin(inner, pools).await
    }

    /// Read these pools, recover, and begin upkeep.
    pub(crate) async fn begin(inner: Arc<Inner>, pools: Vec<Arc<dyn Pool>>) -> Result<Self> {
        inner.read_pools(pools).await?;
        for pool in inner.pools() {
            inner.abandoned_ephemerals(&pool).await;
        }
        inner.abandoned_stagings().await;
        inner.begin_upkeep();
        Ok(Self { inner })
    }
}

impl Inner {
    pub(crate) fn new(options: Options, lock: DaemonLock) -> Result<Self> {
        Ok(Self {
            journal: Journal::open(options.state_dir.join("journal"))?,
            attachments: Attachments::open(options.state_dir.join("attachments"), boot_id()?)?,
            options,
            runner: Arc::new(
                System::holding(&lock)
                    .or_internal(|| "failed to share the lock with commands".to_owned())?,
            ),
            pools: RwLock::default(),
            configs: AsyncMutex::default(),
            index: Index::default(),
            unread: Unread::default(),
            ops: Arc::default(),
            jobs: Arc::default(),
            kernel: findings::of_kernel(&kernel::lacking(), &kernel::release()),
            limits: Watch::default(),
            making: Making::default(),
            chores: Mutex::default(),
            doubtful: Mutex::default(),
            stopping: CancellationToken::new(),
            found: RwLock::default(),
            upkeep: RwLock::default(),
            cgroups: Hierarchy::detect()
                .inspect_err(|e| tracing::warn!(error = %e, "I/O limits cannot be set here"))
                .ok(),
            _lock: lock,
        })
    }

    async fn open_pools(&self, mut configs: Vec<PoolConfig>) -> Result<Vec<Arc<dyn Pool>>> {
        let dir = self.options.state_dir.join("pools");
        for kept in pools::kept(&dir)? {
            if !configs.iter().any(|c| c.name == kept.name) {
                configs.push(kept);
            }
        }
        let mut names = BTreeSet::new();
        for config in &configs {
            if !names.insert(&config.name) {
                return Err(Error::invalid(format!(
                    "two pools are called {}",
                    config.name
                )));
            }
        }
        let mut opened = Vec::new();
        for (n, config) in configs.iter().enumerate() {
            config.check()?;
            pools::apart(config, &configs[..n])?;
            nesting::clear_of_state(config, &self.options.state_dir)?;
            let first = !pools::seen_before(&dir, &config.name);
            opened.push(config.open(&self.runner, &dir, first).await?);
            pools::remember_seen(&dir, &config.name)?;
        }
        *self.configs.lock().await = configs;
        Ok(opened)
    }

    /// Read every pool back, and end what a kill cut off. What cannot be ended in one volume is
    /// told, and keeps no other from being served.
    async fn read_pools(self: &Arc<Self>, opened: Vec<Arc<dyn Pool>>) -> Result<()> {
        let scans = join_all(opened.iter().map(|pool| pool.scan())).await;
        let mut all_read = true;
        for (pool, scan) in opened.iter().zip(scans) {
            self.enter(pool);
            match scan {
                Ok(scan) => all_read &= self.load(pool, scan).await?,
                Err(e) => {
                    all_read = false;
                    self.unread.pool(pool.name(), e.chain());
                    tracing::error!(pool = %pool.name(), error = %e.chain(), "pool cannot be read");
                }
            }
        }
        if all_read {
            // With a pool or a record unread, what seems to lack a volume or a member may well
            // have it there.
            self.clear_stale_journal()?;
            self.clear_stale_attachments().await?;
            self.undo_partial_groups().await;
        }
        Ok(())
    }

    fn enter(&self, pool: &Arc<dyn Pool>) {
        let mut pools = self.pools.write().unwrap_or_else(PoisonError::into_inner);
        pools.insert(pool.name().clone(), Arc::clone(pool));
    }

    /// Enter a pool opened while serving, and what it holds.
    pub(crate) async fn take_in(self: &Arc<Self>, pool: Arc<dyn Pool>) -> Result<()> {
        let scan = pool.scan().await?;
        self.enter(&pool);
        self.load(&pool, scan).await.map(drop)
    }

    /// Read a pool that could not be read before, where that is due. What can only be told from
    /// all pools at rest (a note or a member of a group that is about nothing) is left to the next
    /// start: operations are under way now.
    pub(crate) async fn read_again(self: &Arc<Self>, pool: &Arc<dyn Pool>) {
        if !self.unread.is_due(pool.name()) {
            return;
        }
        match self.take_in(Arc::clone(pool)).await {
            Ok(()) => {
                tracing::info!(pool = %pool.name(), "pool is back and was read");
                self.abandoned_ephemerals(pool).await;
                self.unread.is_read(pool.name());
            }
            Err(e) => self.unread.pool(pool.name(), e.chain()),
        }
    }

    /// Take what was read from one pool into the index, applying the journal; let go what a kill
    /// left held, and set limits again. Answers whether all that is in it could be read, and brought
    /// to a state to start from.
    async fn load(self: &Arc<Self>, pool: &Arc<dyn Pool>, scan: Scan) -> Result<bool> {
        let (intents, unreadable) = self.journal.load()?;
        for path in unreadable {
            tracing::warn!(path, "unreadable journal entry, left alone");
        }
        for leftover in scan.leftovers {
            self.purge_later(pool, Removed::ToPurge(leftover));
        }
        self.note_defects(pool, &scan.defects);
        let mut whole = true;
        for defect in scan.defects {
            let (what, ids) = match defect {
                Defect::Unreadable { what, id, .. } => (what, id.into_iter().collect()),
                Defect::Astray { lv, ids, .. } => (lv, ids),
                Defect::Foreign(_) | Defect::LostSnapshot(_) => continue,
            };
            whole = false;
            for id in ids {
                self.unread.record(&id, pool.name(), what.clone());
            }
        }
        // Before any of them can be found, and held on purpose, by an operation.
        let records: Vec<Record> = scan.found.iter().map(|f| f.record.clone()).collect();
        if let Err(e) = pool.resume(&records).await {
            tracing::error!(pool = %pool.name(), error = %e.chain(), "devices not resumed");
        }
        let mut in_use = Vec::new();
        for item in scan.found {
            let entry = Entry::new(item.record, item.size, Arc::clone(pool));
            let id = entry.record.id.clone();
            // While we serve, one of its name may be in the making in another pool.
            let held = self.ops.begin_patiently(&id, "reading").await;
            if !self.attachments.get(&id).is_empty() {
                in_use.push((entry.clone(), held));
            }
            if let Err(e) = self.settle(entry, &intents).await {
                whole = false;
                self.unfinished(pool, &id, &e);
            }
        }
        self.release_all(in_use).await;
        Ok(whole)
    }

    /// Let go what a kill left held of volumes in use, and set their limits again. Each stays held
    /// until that is done; of those whose disk hangs that is not waited for.
    async fn release_all(self: &Arc<Self>, in_use: Vec<(Entry, Guard)>) {
        let (me, (done, all_done)) = (Arc::clone(self), tokio::sync::oneshot::channel());
        self.ops.background(async move {
            let me = &me;
            let each = stream::iter(in_use);
            let each = each.for_each_concurrent(RELEASES, async |(entry, _held)| {
                me.thaw(&entry).await;
                me.limits_again(&entry.record.id).await;
            });
            each.await;
            // Nobody listens once the patience is over.
            let _ = done.send(());
        });
        if tokio::time::timeout(RELEASE, all_done).await.is_err() {
            tracing::warn!("volumes in use do not answer and are left to the background");
        }
    }

    /// Tell of something that a kill cut off and that could not be ended at this start.
    fn unfinished(&self, pool: &Arc<dyn Pool>, id: &Id, why: &Error) {
        tracing::warn!(volume.id = %id, error = %why.chain(), "not brought in order");
        let finding = Finding {
            severity: Severity::Warning,
            trouble: Trouble::Leftover,
            subject: id.to_string(),
            what: format!("what was cut off could not be ended: {}", why.chain()),
            mend: "mend that; the next start tries again".to_owned(),
        };
        self.found_in(pool.name(), finding);
    }

    /// Bring one volume found on the disk to a state that operations can start from.
    async fn settle(
        self: &Arc<Self>,
        mut entry: Entry,
        intents: &BTreeMap<Id, Intent>,
    ) -> Result<()> {
        let id = entry.record.id.clone();
        if entry.record.is_snapshot() && entry.record.ephemeral {
            return self.drop_snapshot(&entry).await;
        }
        if let Some(Intent::Create { pool, pairs }) = intents.get(&id)
            && pool == entry.pool.name()
            && is_of(pairs, &entry.record)
        {
            // Nobody was told that it exists, and it may bear what its extents held before.
            entry.pool.detach(&entry.record).await?;
            let removed = entry.pool.remove(&entry.record).await?;
            self.purge_later(&entry.pool, removed);
            return self.journal.clear(&id);
        }
        if let Some(first) = self.index.get(&id)
            && first.pool.name() != entry.pool.name()
        {
            self.second_of_its_id(&entry, &first);
            return Ok(());
        }
        let mut carry = false;
        let mut done = false;
        match intents.get(&id) {
            // A creation noted is of another one of its name, in a pool still to be read perhaps.
            None | Some(Intent::Create { .. }) => {}
            Some(Intent::Format) => entry.half_formatted = true,
            Some(Intent::Record { pairs }) => match Record::from_pairs(pairs) {
                Ok(record) if record.created == entry.record.created => {
                    entry.record = record;
                    carry = true;
                }
                // The entry is of an earlier volume of this name.
                Ok(_) => done = true,
                Err(e) => {
                    tracing::warn!(volume.id = %id, error = %e.chain(), "unreadable journal entry");
                }
            },
        }
        // It is there, whatever becomes of its record.
        self.index.put(entry.clone());
        if carry {
            entry.pool.rewrite(&entry.record).await?;
        }
        if carry || done {
            self.journal.clear(&id)?;
        }
        Ok(())
    }

    /// A group is cut whole or not at all.
    async fn undo_partial_groups(self: &Arc<Self>) {
        for member in self.index.list(|e| e.record.group.is_some()) {
            let Some(membership) = &member.record.group else {
                continue;
            };
            let present = self.members(&membership.group).len();
            if present < membership.of {
                tracing::warn!(snapshot.id = %member.record.id, group = %membership.group,
                    present, of = membership.of, "removing a member of an unfinished group");
                if let Err(e) = self.drop_snapshot(&member).await {
                    self.unfinished(&member.pool, &member.record.id, &e);
                }
            }
        }
    }

    /// Two pools hold a volume of one id, as when one of them could not be read while the other
    /// volume was made. Only one can be told apart by it: the first stays what it is.
    fn second_of_its_id(&self, second: &Entry, first: &Entry) {
        let (pool, other) = (second.pool.name(), first.pool.name());
        tracing::error!(volume.id = %second.record.id, %pool, %other, "two of one id");
        let finding = Finding {
            severity: Severity::Error,
            trouble: Trouble::BadRecord,
            subject: format!("{} in pool {pool}", second.record.id),
            what: format!(
                "{} has the id of one in pool {other}, which is the one that is served",
                second.title()
            ),
            mend: "its bytes are untouched; copy out the one you need, remove the other, and \
                   restart the daemon"
                .to_owned(),
        };
        self.found_in(pool, finding);
    }

    /// A use is noted before an ephemeral volume is made and forgotten after a volume is removed;
    /// a kill in between leaves a note about nothing.
    async fn clear_stale_attachments(&self) -> Result<()> {
        let all = self.attachments.all();
        for id in all.keys().filter(|id| self.index.get(id).is_none()) {
            self.attachments
                .update(id, |a| *a = Attachment::default())
                .await?;
        }
        Ok(())
    }

    fn clear_stale_journal(&self) -> Result<()> {
        let (intents, _) = self.journal.load()?;
        for (id, intent) in intents {
            // What it was about is gone, or never was. What is there was made another time.
            if self.index.get(&id).is_none() || matches!(intent, Intent::Create { .. }) {
                self.journal.clear(&id)?;
            }
        }
        Ok(())
    }

    fn note_defects(&self, pool: &Arc<dyn Pool>, defects: &[Defect]) {
        let findings = defects.iter().map(|defect| match defect {
            Defect::Foreign(what) => Finding {
                severity: Severity::Warning,
                trouble: Trouble::Foreign,
                subject: what.clone(),
                what: format!("lies in pool {} and was not made by us", pool.name()),
                mend: "nothing needs to be done; it is never touched and only takes space".into(),
            },
            Defect::Unreadable { what, why, .. } => Finding {
                severity: Severity::Error,
                trouble: Trouble::BadRecord,
                subject: what.clone(),
                what: why.clone(),
                mend: "its bytes are untouched; copy them out, then remove it by hand".into(),
            },
            Defect::Astray { finding, .. } => finding.clone(),
            Defect::LostSnapshot(id) => Finding {
                severity: Severity::Error,
                trouble: Trouble::SnapshotLost,
                subject: id.to_string(),
                what: "its copy-on-write store overflowed; the state it kept is lost".into(),
                mend: "delete the snapshot; cut the next with a larger initial size".into(),
            },
        });
        let findings = findings.collect();
        self.found
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(pool.name().clone(), findings);
    }

    /// A kill during a snapshot may have left a file system frozen. The caller holds the volume.
    async fn thaw(&self, entry: &Entry) {
        // Where somebody unmounted it lies a file system that others may have frozen.
        let path = match self.seen_mounted(entry).await {
            Ok(Some(path)) => path,
            Ok(None) if self.staged_for_files(entry) => {
                self.unwedge(entry).await;
                return;
            }
            _ => return,
        };
        stowage_host::on_own_thread(move || {
            if let Ok(true) = freeze::thaw(&path) {
                tracing::warn!(path = %path.display(), "thawed a file system left frozen");
            }
        })
        .await;
    }

    fn staged_for_files(&self, entry: &Entry) -> bool {
        let staging = self.attachments.get(&entry.record.id).staging;
        staging.is_some_and(|staging| !staging.block)
    }
}

/// Whether the flat form of a record is of this very volume.
fn is_of(pairs: &BTreeMap<String, String>, record: &Record) -> bool {
    Record::from_pairs(pairs).is_ok_and(|noted| noted.created == record.created)
}

/// What tells this boot of the machine from others (random, made by the kernel at boot).
fn boot_id() -> Result<String> {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|text| text.trim().to_owned())
        .or_internal(|| "failed to read the boot id".to_owned())
}
