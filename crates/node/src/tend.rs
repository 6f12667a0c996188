//! Upkeep, every few seconds: pools look after themselves (snapshot stores, fill levels), consumers
//! keep their limits, pools that were away are read. Starts no process while nothing happens.

use std::collections::{BTreeSet, HashSet};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use stowage_model::PoolName;
use stowage_model::volumes::{Finding, Severity};
use stowage_pool::Pool;

use crate::local::Inner;

/// How often. A copy-on-write snapshot at its threshold must be grown before writers fill the
/// rest of its store.
const PERIOD: Duration = Duration::from_secs(3);

/// Upkeep of one pool that may hang with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Chore {
    Tend,
    Limit,
}

impl Inner {
    pub(crate) fn begin_upkeep(self: &Arc<Self>) {
        self.every_period(|me| async move {
            me.tend_all();
            me.limit_all();
            me.look_for_consumers();
        });
        // By itself: the state directory may lie on a disk that hangs.
        self.every_period(|me| async move {
            me.state_again().await;
            me.late_notes().await;
        });
    }

    /// Do this every few seconds until the stop, never twice at a time.
    fn every_period<F>(self: &Arc<Self>, work: impl Fn(Arc<Self>) -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let me = Arc::clone(self);
        self.ops.background(async move {
            loop {
                tokio::select! {
                    () = tokio::time::sleep(PERIOD) => {}
                    () = me.stopping.cancelled() => return,
                }
                work(Arc::clone(&me)).await;
            }
        });
    }

    /// Each pool for itself: a command that hangs in one must not keep the stores of another from
    /// growing.
    pub(crate) fn tend_all(self: &Arc<Self>) {
        for pool in self.pools() {
            let me = Arc::clone(self);
            self.chore(Chore::Tend, pool.name().clone(), async move {
                if me.unread.is_due(pool.name()) {
                    me.read(&pool, std::future::ready(())).await;
                    me.tidy_beside();
                }
                // Until it was read it is not ours to look after.
                if !me.unread.is_unread(pool.name()) {
                    me.tend(&pool).await;
                }
            });
        }
    }

    /// Each pool for itself, and beside its upkeep: a consumer is not to wait for its limits
    /// because a disk that is not its own hangs.
    fn limit_all(self: &Arc<Self>) {
        for pool in self.pools() {
            let (me, name) = (Arc::clone(self), pool.name().clone());
            self.chore(Chore::Limit, name.clone(), async move {
                me.watch_limits(&name).await;
            });
        }
    }

    /// Do a chore in the background, unless the last one of its kind is still at it.
    pub(crate) fn chore(
        self: &Arc<Self>,
        what: Chore,
        pool: PoolName,
        work: impl Future<Output = ()> + Send + 'static,
    ) {
        let key = (what, pool);
        if !self.chores().insert(key.clone()) {
            return;
        }
        let me = Arc::clone(self);
        self.ops.background(async move {
            work.await;
            me.chores().remove(&key);
        });
    }

    pub(crate) fn chores(&self) -> MutexGuard<'_, BTreeSet<(Chore, PoolName)>> {
        self.chores.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn tend(&self, pool: &Arc<dyn Pool>) {
        let findings = match pool.tend().await {
            Ok(findings) => findings,
            Err(e) => {
                if self.is_news(pool.name(), &e.chain()) {
                    tracing::error!(pool = %pool.name(), error = %e.chain(), "upkeep failed");
                }
                return;
            }
        };
        let mut upkeep = self.upkeep.write().unwrap_or_else(PoisonError::into_inner);
        let before = upkeep.insert(pool.name().clone(), findings.clone());
        drop(upkeep);
        let before = before.unwrap_or_default();
        let said = |f: &Finding| (f.subject.clone(), f.what.clone());
        let told: HashSet<_> = before.iter().map(said).collect();
        let new = findings.iter().filter(|f| !told.contains(&said(f)));
        new.for_each(tell);
    }

    /// Whether this about a pool was not told, or long ago.
    pub(crate) fn is_news(&self, pool: &PoolName, what: &str) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.entry(pool.clone()).or_default().is_due(what)
    }
}

fn tell(finding: &Finding) {
    let Finding {
        subject,
        what,
        mend,
        ..
    } = finding;
    match finding.severity {
        Severity::Warning => tracing::warn!(subject, mend, "{what}"),
        Severity::Error => tracing::error!(subject, mend, "{what}"),
    }
}

#[cfg(test)]
mod tests;
