//! The start: read everything back from the pools, finish or undo what a kill cut off, and end
//! what must not outlive us (a frozen file system, a suspended device). Needs no help and can
//! itself be killed at any point.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use futures::future::join_all;
use stowage_host::cgroup::Hierarchy;
use stowage_host::lock::DaemonLock;
use stowage_host::{System, freeze};
use stowage_model::error::Context;
use stowage_model::record::Content;
use stowage_model::volumes::{Finding, Severity, Trouble};
use stowage_model::{Error, Id, Record, Result};
use stowage_pool::{Defect, Pool, Removed, Scan};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::attachments::{Attachment, Attachments};
use crate::index::{Entry, Index};
use crate::journal::{Intent, Journal};
use crate::local::{Inner, Local, Options};
use crate::pools::{self, PoolConfig};

/// How long to wait for a previous daemon, or the commands it left running when it was killed.
const LOCK_WAIT: Duration = Duration::from_secs(30);

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
        let inner = Arc::new(Inner {
            journal: Journal::open(options.state_dir.join("journal"))?,
            attachments: Attachments::open(options.state_dir.join("attachments"), boot_id()?)?,
            options,
            runner: Arc::new(
                System::holding(&lock)
                    .or_internal(|| "failed to share the lock with commands".to_owned())?,
            ),
            pools: RwLock::default(),
            index: Index::default(),
            ops: Arc::default(),
            jobs: Arc::default(),
            purging: Semaphore::new(1),
            stopping: CancellationToken::new(),
            found: RwLock::default(),
            upkeep: RwLock::default(),
            cgroups: Hierarchy::detect()
                .inspect_err(|e| tracing::warn!(error = %e, "I/O limits cannot be set here"))
                .ok(),
            _lock: lock,
        });
        inner.open_pools(configured).await?;
        inner.thaw_everything().await;
        inner.limits_after_restart().await;
        inner.abandoned_ephemerals().await;
        inner.abandoned_stagings().await;
        inner.begin_upkeep();
        Ok(Self { inner })
    }
}

impl Inner {
    async fn open_pools(self: &Arc<Self>, mut configs: Vec<PoolConfig>) -> Result<()> {
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
        for config in &configs {
            config.check()?;
            let first = !pools::seen_before(&dir, &config.name)?;
            opened.push(config.open(&self.runner, first).await?);
        }
        let scans = join_all(opened.iter().map(|pool| pool.scan())).await;
        let mut all_read = true;
        for (pool, scan) in opened.iter().zip(scans) {
            self.enter(pool);
            match scan {
                Ok(scan) => {
                    all_read &= !unreadable(&scan);
                    self.load(pool, scan).await?;
                }
                Err(e) => {
                    all_read = false;
                    tracing::error!(pool = %pool.name(), error = %e.chain(), "pool cannot be read");
                }
            }
        }
        if all_read {
            // With a pool or a record unread, what seems to lack a volume or a member may well
            // have it there.
            self.clear_stale_journal()?;
            self.clear_stale_attachments()?;
            self.undo_partial_groups().await?;
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
        self.load(&pool, scan).await
    }

    /// Take what was read from one pool into the index, applying the journal.
    async fn load(self: &Arc<Self>, pool: &Arc<dyn Pool>, scan: Scan) -> Result<()> {
        let (intents, unreadable) = self.journal.load()?;
        for path in unreadable {
            tracing::warn!(path, "unreadable journal entry, left alone");
        }
        for leftover in scan.leftovers {
            self.purge_later(pool, Removed::ToPurge(leftover));
        }
        for item in scan.found {
            let entry = Entry::new(item.record, item.size, Arc::clone(pool));
            self.settle(entry, &intents).await?;
        }
        self.note_defects(pool, &scan.defects);
        Ok(())
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
        match intents.get(&id) {
            None => {}
            // Nobody was told that it exists, and it may bear what its extents held before.
            Some(Intent::Create { .. })
                if matches!(entry.record.content, Content::Blank | Content::Filling) =>
            {
                entry.pool.detach(&entry.record).await?;
                let removed = entry.pool.remove(&entry.record).await?;
                self.purge_later(&entry.pool, removed);
                return self.journal.clear(&id);
            }
            Some(Intent::Create { .. }) => self.journal.clear(&id)?,
            Some(Intent::Format) => entry.half_formatted = true,
            Some(Intent::Record { pairs }) => match Record::from_pairs(pairs) {
                Ok(record) if record.created == entry.record.created => {
                    entry.record = record;
                    entry.pool.rewrite(&entry.record).await?;
                    self.journal.clear(&id)?;
                }
                // The entry is of an earlier volume of this name.
                Ok(_) => self.journal.clear(&id)?,
                Err(e) => {
                    tracing::warn!(volume.id = %id, error = %e.chain(), "unreadable journal entry");
                }
            },
        }
        self.index.put(entry);
        Ok(())
    }

    /// A group is cut whole or not at all.
    async fn undo_partial_groups(self: &Arc<Self>) -> Result<()> {
        for member in self.index.list(|e| e.record.group.is_some()) {
            let Some(membership) = &member.record.group else {
                continue;
            };
            let present = self.members(&membership.group).len();
            if present < membership.of {
                tracing::warn!(snapshot.id = %member.record.id, group = %membership.group,
                    present, of = membership.of, "removing a member of an unfinished group");
                self.drop_snapshot(&member).await?;
            }
        }
        Ok(())
    }

    /// A use is noted before an ephemeral volume is made and forgotten after a volume is removed;
    /// a kill in between leaves a note about nothing.
    fn clear_stale_attachments(&self) -> Result<()> {
        let all = self.attachments.all();
        for id in all.keys().filter(|id| self.index.get(id).is_none()) {
            self.attachments
                .update(id, |a| *a = Attachment::default())?;
        }
        Ok(())
    }

    fn clear_stale_journal(&self) -> Result<()> {
        let (intents, _) = self.journal.load()?;
        for id in intents.keys().filter(|id| self.index.get(id).is_none()) {
            self.journal.clear(id)?;
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

    /// A kill during a snapshot may have left a file system frozen or a device suspended.
    async fn thaw_everything(&self) {
        for pool in self.pools() {
            let here = self.index.list(|e| e.pool.name() == pool.name());
            let records: Vec<Record> = here.into_iter().map(|e| e.record).collect();
            if let Err(e) = pool.resume(&records).await {
                tracing::error!(pool = %pool.name(), error = %e.chain(), "devices not resumed");
            }
        }
        let staged: Vec<PathBuf> = self
            .attachments
            .all()
            .into_values()
            .filter_map(|a| a.staging.filter(|s| !s.block).map(|s| s.path))
            .collect();
        stowage_host::blocking(move || {
            for path in staged {
                if let Ok(true) = freeze::thaw(&path) {
                    tracing::warn!(path = %path.display(), "thawed a file system left frozen");
                }
            }
        })
        .await;
    }

    /// An ephemeral volume whose consumer is gone, directory and all, is nobody's.
    async fn abandoned_ephemerals(self: &Arc<Self>) {
        for entry in self
            .index
            .list(|e| e.record.ephemeral && !e.record.is_snapshot())
        {
            let id = &entry.record.id;
            let targets = self.attachments.get(id).targets;
            let alive = targets
                .keys()
                .any(|t| t.parent().is_some_and(std::path::Path::exists));
            if alive {
                continue;
            }
            if let Err(e) = self.end_ephemeral(id).await {
                tracing::warn!(volume.id = %id, error = %e.chain(), "ephemeral volume not removed");
            }
        }
    }
}

fn unreadable(scan: &Scan) -> bool {
    let is_unreadable = |d: &Defect| matches!(d, Defect::Unreadable { .. });
    scan.defects.iter().any(is_unreadable)
}

/// What tells this boot of the machine from others (random, made by the kernel at boot).
fn boot_id() -> Result<String> {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|text| text.trim().to_owned())
        .or_internal(|| "failed to read the boot id".to_owned())
}
