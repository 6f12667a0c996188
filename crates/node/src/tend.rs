//! Upkeep, every few seconds: pools look after themselves (snapshot stores, fill levels), limits
//! reach consumers that came late. Starts no process while nothing happens.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use stowage_model::volumes::{Finding, Severity};

use crate::local::Inner;

/// How often. A copy-on-write snapshot at its threshold must be grown before writers fill the
/// rest of its store.
const PERIOD: Duration = Duration::from_secs(3);

impl Inner {
    pub(crate) fn begin_upkeep(self: &Arc<Self>) {
        let me = Arc::clone(self);
        self.ops.background(async move {
            let mut told = BTreeSet::new();
            loop {
                tokio::select! {
                    () = tokio::time::sleep(PERIOD) => {}
                    () = me.stopping.cancelled() => return,
                }
                me.tend(&mut told).await;
            }
        });
    }

    async fn tend(&self, told: &mut BTreeSet<String>) {
        let mut present = BTreeSet::new();
        for pool in self.pools() {
            let findings = match pool.tend().await {
                Ok(findings) => findings,
                Err(e) => {
                    tracing::error!(pool = %pool.name(), error = %e.chain(), "upkeep failed");
                    continue;
                }
            };
            for finding in &findings {
                let text = format!("{}: {}", finding.subject, finding.what);
                if !told.contains(&text) {
                    tell(finding);
                }
                present.insert(text);
            }
            self.upkeep
                .write()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(pool.name().clone(), findings);
        }
        *told = present;
        self.late_limits().await;
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
