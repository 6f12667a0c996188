//! Long work and how far it has come: copies and wipes. People see it as progress bars; a source
//! that is being copied from cannot be removed.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use stowage_host::Progress;
use stowage_model::{Bytes, Id};

/// One piece of long work, as people see it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Job {
    /// What is done: "copy" or "wipe".
    pub what: String,
    /// The volume's id, or the pool's own name of a removed volume.
    pub subject: String,
    /// Bytes done.
    pub done: Bytes,
    /// Bytes in all.
    pub total: Bytes,
}

struct Running {
    what: &'static str,
    subject: String,
    source: Option<Id>,
    progress: Arc<Progress>,
}

/// The work under way.
#[derive(Default)]
pub(crate) struct Jobs {
    next: Mutex<(u64, BTreeMap<u64, Running>)>,
}

/// Ends a job when dropped.
pub(crate) struct JobGuard {
    jobs: Arc<Jobs>,
    key: u64,
    pub(crate) progress: Arc<Progress>,
}

impl Jobs {
    /// Register work on `subject`, reading from `source`.
    pub(crate) fn begin(
        self: &Arc<Self>,
        what: &'static str,
        subject: String,
        source: Option<Id>,
    ) -> JobGuard {
        let progress = Arc::new(Progress::new());
        let mut inner = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        inner.0 += 1;
        let key = inner.0;
        inner.1.insert(
            key,
            Running {
                what,
                subject,
                source,
                progress: Arc::clone(&progress),
            },
        );
        JobGuard {
            jobs: Arc::clone(self),
            key,
            progress,
        }
    }

    /// Whether something is being copied from this volume or snapshot.
    pub(crate) fn reads_from(&self, id: &Id) -> bool {
        let inner = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        inner.1.values().any(|job| job.source.as_ref() == Some(id))
    }

    /// Whether a job other than the one with this progress reads from there.
    pub(crate) fn others_read(&self, id: &Id, than: &Arc<Progress>) -> bool {
        let inner = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        inner
            .1
            .values()
            .any(|job| job.source.as_ref() == Some(id) && !Arc::ptr_eq(&job.progress, than))
    }

    /// Everything under way.
    pub(crate) fn list(&self) -> Vec<Job> {
        let inner = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let jobs = inner.1.values().map(|job| Job {
            what: job.what.to_owned(),
            subject: job.subject.clone(),
            done: Bytes(job.progress.done.load(Ordering::Relaxed)),
            total: Bytes(job.progress.total.load(Ordering::Relaxed)),
        });
        jobs.collect()
    }

    /// Tell everything to stop at the next chunk.
    pub(crate) fn stop_all(&self) {
        let inner = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        inner.1.values().for_each(|job| job.progress.stop());
    }
}

impl Drop for JobGuard {
    fn drop(&mut self) {
        self.jobs
            .next
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .1
            .remove(&self.key);
    }
}
