//! Wiping and freeing what a removal left, in the background.

use std::sync::Arc;
use std::time::Duration;

use stowage_model::volumes::{Finding, Severity, Trouble};
use stowage_model::{Error, Kind};
use stowage_pool::{Leftover, Pool, Removed};

use crate::state::Node;
use crate::state::jobs::{JobGuard, Task, Way};

/// How long to wait before trying a failed wipe again: mostly somebody looked at the device for a
/// moment. Doubled each time.
const RETRY: Duration = Duration::from_secs(1);

const LONGEST_RETRY: Duration = Duration::from_secs(600);

/// Wipe and free what a removal left, in the background.
pub(crate) fn purge_later(node: &Arc<Node>, pool: &Arc<dyn Pool>, removed: Removed) {
    if let Removed::ToPurge(leftover) = removed {
        let (me, pool) = (Arc::clone(node), Arc::clone(pool));
        // Told of from now on, also while it waits for its turn.
        let job = node.jobs().begin(Task::Wipe(leftover.handle.clone()));
        node.ops()
            .background(async move { purge(&me, &pool, &leftover, &job).await });
    }
}

async fn purge(node: &Arc<Node>, pool: &Arc<dyn Pool>, leftover: &Leftover, job: &JobGuard) {
    let way = Way::Wipe(pool.name().clone());
    let mut pause = RETRY;
    loop {
        // One that failed waits for its next try without keeping others from theirs.
        let wiped = {
            let Some(_turn) = job.turn(&way).await else {
                return;
            };
            pool.purge(leftover, &job.progress).await
        };
        node.notices()
            .found_no_more(pool.name(), |f| is_not_wiped(f, leftover));
        let Err(e) = wiped else { return };
        if job.is_stopped() {
            return;
        }
        if e.kind() == Kind::NotFound {
            tracing::info!(leftover = %leftover.handle, error = %e.chain(), "not wiped");
            return;
        }
        tracing::warn!(leftover = %leftover.handle, error = %e.chain(), "wipe failed, will retry");
        node.notices()
            .found_in(pool.name(), not_wiped(leftover, &e));
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = node.stopping().cancelled() => return,
        }
        pause = (pause * 2).min(LONGEST_RETRY);
    }
}

fn not_wiped(leftover: &Leftover, why: &Error) -> Finding {
    Finding {
        severity: Severity::Warning,
        trouble: Trouble::Leftover,
        subject: leftover.handle.clone(),
        what: format!("this removed volume cannot be wiped: {}", why.chain()),
        mend: "it only takes space; mend that, and it is wiped within 10 minutes or by the next \
               start"
            .to_owned(),
    }
}

fn is_not_wiped(finding: &Finding, leftover: &Leftover) -> bool {
    finding.trouble == Trouble::Leftover && finding.subject == leftover.handle
}
