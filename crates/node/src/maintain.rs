//! Upkeep, every few seconds: pools look after themselves (snapshot stores, fill levels), consumers
//! keep their limits, pools that were away are read. Starts no process while nothing happens.

use std::sync::Arc;
use std::time::Duration;

use stowage_model::PoolName;
use stowage_model::volumes::{Finding, Severity};
use stowage_pool::Pool;

use crate::ephemeral::consumer::look_for_consumers;
use crate::recover::read::read;
use crate::recover::state_dir::state_again;
use crate::recover::tidy::tidy_beside;
use crate::recover::uses::late_notes;
use crate::state::{Chore, Node};
use crate::throttle::watch::watch_limits;

/// How often. A copy-on-write snapshot at its threshold must be grown before writers fill the
/// rest of its store.
const PERIOD: Duration = Duration::from_secs(3);

pub(crate) fn begin_upkeep(node: &Arc<Node>) {
    every_period(node, |me| async move {
        tend_all(&me);
        limit_all(&me);
        look_for_consumers(&me);
    });
    // By itself: the state directory may lie on a disk that hangs.
    every_period(node, |me| async move {
        state_again(&me).await;
        late_notes(&me).await;
    });
}

/// Do this every few seconds until the stop, never twice at a time.
fn every_period<F>(node: &Arc<Node>, work: impl Fn(Arc<Node>) -> F + Send + 'static)
where
    F: Future<Output = ()> + Send + 'static,
{
    let me = Arc::clone(node);
    node.ops().background(async move {
        loop {
            tokio::select! {
                () = tokio::time::sleep(PERIOD) => {}
                () = me.stopping().cancelled() => return,
            }
            work(Arc::clone(&me)).await;
        }
    });
}

/// Each pool for itself: a command that hangs in one must not keep the stores of another from
/// growing.
fn tend_all(node: &Arc<Node>) {
    for pool in node.pools() {
        let me = Arc::clone(node);
        chore(node, Chore::Maintain, pool.name().clone(), async move {
            if me.unread().is_due(pool.name()) {
                read(&me, &pool, std::future::ready(())).await;
                tidy_beside(&me);
            }
            // Until it was read it is not ours to look after.
            if !me.unread().is_unread(pool.name()) {
                tend(&me, &pool).await;
            }
        });
    }
}

/// Each pool for itself, and beside its upkeep: a consumer is not to wait for its limits
/// because a disk that is not its own hangs.
fn limit_all(node: &Arc<Node>) {
    for pool in node.pools() {
        let (me, name) = (Arc::clone(node), pool.name().clone());
        chore(node, Chore::Limit, name.clone(), async move {
            watch_limits(&me, &name).await;
        });
    }
}

/// Do a chore in the background, unless the last one of its kind is still at it.
fn chore(
    node: &Arc<Node>,
    what: Chore,
    pool: PoolName,
    work: impl Future<Output = ()> + Send + 'static,
) {
    let key = (what, pool);
    if !node.chores().begin(key.clone()) {
        return;
    }
    let me = Arc::clone(node);
    node.ops().background(async move {
        work.await;
        me.chores().end(&key);
    });
}

async fn tend(node: &Node, pool: &Arc<dyn Pool>) {
    let findings = match pool.tend().await {
        Ok(findings) => findings,
        Err(e) => {
            if node.notices().is_news(pool.name(), &e.chain()) {
                tracing::error!(pool = %pool.name(), error = %e.chain(), "upkeep failed");
            }
            return;
        }
    };
    let new = node.notices().was_maintained(pool.name(), findings);
    new.iter().for_each(tell);
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
