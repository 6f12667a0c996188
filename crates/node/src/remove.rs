//! Removing volumes: gone at once as volumes, wiped in the background.

use std::sync::Arc;
use std::time::Duration;

use stowage_host::failpoint;
use stowage_model::volumes::{Finding, Severity, Trouble};
use stowage_model::{Error, Id, Kind, Result};
use stowage_pool::{Leftover, Pool, Removed};

use crate::attachments::Attachment;
use crate::jobs::{JobGuard, Way};
use crate::local::Inner;

/// How long to wait before trying a failed wipe again: mostly somebody looked at the device for a
/// moment. Doubled each time.
const RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(600);

impl Inner {
    pub(crate) async fn remove_volume(self: &Arc<Self>, id: &Id) -> Result<()> {
        // A copy into it is for nothing now; one that does not end in time is told so again by the
        // next call.
        let _doom = self.jobs.doom(id);
        let _held = self.ops.begin(id, "deletion").await?;
        self.remove_locked(id).await
    }

    /// Remove a volume that the caller holds.
    pub(crate) async fn remove_locked(self: &Arc<Self>, id: &Id) -> Result<()> {
        let Some(entry) = self.index.get(id) else {
            self.unread.rule_out(id)?;
            return self.end_failed_creation(id).await;
        };
        if entry.record.is_snapshot() {
            return Err(Error::invalid(format!("{} is not a volume", entry.title())));
        }
        if self.jobs.reads_from(id) {
            return Err(Error::pending(format!(
                "{} is being copied from",
                entry.title()
            )));
        }
        let used_at = self.used_at(&entry)?;
        if !used_at.is_empty() {
            let paths: Vec<String> = used_at.iter().map(|p| p.display().to_string()).collect();
            return Err(Error::precondition(format!(
                "{} is in use at {}; unmount it there first",
                entry.title(),
                paths.join(", ")
            )));
        }
        failpoint::hit("node.remove.begun");
        if let Err(e) = entry.pool.detach(&entry.record).await {
            if !self.unwedge(&entry).await {
                return Err(e);
            }
            self.detach(&entry).await?;
        }
        let removed = entry.pool.remove(&entry.record).await?;
        failpoint::hit("node.remove.removed");
        // It is no volume any more, whether or not that can be noted: a retry would find nothing to
        // wipe.
        self.index.remove(id);
        self.purge_later(&entry.pool, removed);
        self.forget(id).await
    }

    /// Forget what is noted of a volume that is gone.
    async fn forget(self: &Arc<Self>, id: &Id) -> Result<()> {
        self.unnote(id).await?;
        self.attachments
            .update(id, |a| *a = Attachment::default())
            .await
    }

    /// Wipe and free what a removal left, in the background.
    pub(crate) fn purge_later(self: &Arc<Self>, pool: &Arc<dyn Pool>, removed: Removed) {
        if let Removed::ToPurge(leftover) = removed {
            let (me, pool) = (Arc::clone(self), Arc::clone(pool));
            // Told of from now on, also while it waits for its turn.
            let job = self.jobs.begin("wipe", leftover.handle.clone(), None);
            self.ops
                .background(async move { me.purge(&pool, &leftover, &job).await });
        }
    }

    async fn purge(self: &Arc<Self>, pool: &Arc<dyn Pool>, leftover: &Leftover, job: &JobGuard) {
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
            self.found_no_more(pool.name(), |f| is_not_wiped(f, leftover));
            let Err(e) = wiped else { return };
            if job.is_stopped() {
                return;
            }
            if e.kind() == Kind::NotFound {
                tracing::info!(leftover = %leftover.handle, error = %e.chain(), "not wiped");
                return;
            }
            tracing::warn!(leftover = %leftover.handle, error = %e.chain(), "wipe failed, will retry");
            self.found_in(pool.name(), not_wiped(leftover, &e));
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.stopping.cancelled() => return,
            }
            pause = (pause * 2).min(LONGEST_RETRY);
        }
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

#[cfg(test)]
mod tests;
