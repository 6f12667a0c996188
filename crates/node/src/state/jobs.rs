//! Long work and how far it has come: copies and wipes. People see it as progress bars; a source
//! that is being copied from cannot be removed, and who removes a volume ends the copy into it.
//!
//! Little of it runs at a time, since it steals bandwidth from consumers; the rest waits, which
//! costs no thread. Each way has turns of its own, so that a disk that hangs holds up only what
//! would need that disk.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use stowage_host::Progress;
use stowage_model::volumes::Job;
use stowage_model::{Bytes, Id, PoolName};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// Copies at a time from one pool to another: one mostly waits for its disks.
const COPIES: usize = 2;

/// Wipes at a time in one pool: they only steal bandwidth from each other.
const WIPES: usize = 1;

/// What a piece of long work uses, and so what it takes turns with.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Way {
    /// Reading one pool to write another, or the same.
    Copy { from: PoolName, to: PoolName },
    /// Wiping what was removed from a pool.
    Wipe(PoolName),
}

/// One piece of long work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Task {
    /// All of a volume or snapshot is copied into a volume.
    Copy { from: Id, into: Id },
    /// What was removed is wiped; the pool's own name of it.
    Wipe(String),
}

struct Running {
    task: Task,
    progress: Arc<Progress>,
    stop: CancellationToken,
}

impl Running {
    fn reads_from(&self, id: &Id) -> bool {
        matches!(&self.task, Task::Copy { from, .. } if from == id)
    }

    /// The volume that is copied into.
    fn fills(&self) -> Option<&Id> {
        match &self.task {
            Task::Copy { into, .. } => Some(into),
            Task::Wipe(_) => None,
        }
    }

    fn stop(&self) {
        self.progress.stop();
        self.stop.cancel();
    }
}

/// The work under way.
#[derive(Default)]
pub(crate) struct Jobs {
    book: Mutex<Book>,
    turns: Mutex<BTreeMap<Way, Arc<Semaphore>>>,
}

#[derive(Default)]
struct Book {
    next: u64,
    running: BTreeMap<u64, Running>,
    /// Volumes into which nothing is to be copied any more, by how many callers.
    doomed: BTreeMap<Id, usize>,
    stopped: bool,
}

/// Ends a job when dropped.
pub(crate) struct JobGuard {
    jobs: Arc<Jobs>,
    key: u64,
    pub(crate) progress: Arc<Progress>,
    stop: CancellationToken,
}

/// While it is held, every copy into a volume is told to stop, also one that begins only now.
pub(crate) struct Doom {
    jobs: Arc<Jobs>,
    id: Id,
}

impl Jobs {
    fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Register a piece of work.
    pub(crate) fn begin(self: &Arc<Self>, task: Task) -> JobGuard {
        let job = Running {
            task,
            progress: Arc::new(Progress::new()),
            stop: CancellationToken::new(),
        };
        let mut book = self.lock();
        let is_doomed = job.fills().is_some_and(|id| book.doomed.contains_key(id));
        if book.stopped || is_doomed {
            job.stop();
        }
        book.next += 1;
        let guard = JobGuard {
            jobs: Arc::clone(self),
            key: book.next,
            progress: Arc::clone(&job.progress),
            stop: job.stop.clone(),
        };
        book.running.insert(guard.key, job);
        guard
    }

    /// End every copy into this volume at its next chunk.
    pub(crate) fn doom(self: &Arc<Self>, id: &Id) -> Doom {
        let mut book = self.lock();
        *book.doomed.entry(id.clone()).or_default() += 1;
        let own = |job: &&Running| job.fills() == Some(id);
        book.running.values().filter(own).for_each(Running::stop);
        Doom {
            jobs: Arc::clone(self),
            id: id.clone(),
        }
    }

    fn turns(&self, way: &Way) -> Arc<Semaphore> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        let of_way = turns.entry(way.clone()).or_insert_with(|| {
            Arc::new(Semaphore::new(match way {
                Way::Copy { .. } => COPIES,
                Way::Wipe(_) => WIPES,
            }))
        });
        Arc::clone(of_way)
    }

    /// Whether something is being copied from this volume or snapshot.
    pub(crate) fn reads_from(&self, id: &Id) -> bool {
        let book = self.lock();
        let mut jobs = book.running.values();
        jobs.any(|job| job.reads_from(id))
    }

    /// Whether a job other than the one with this progress reads from there.
    pub(crate) fn others_read(&self, id: &Id, than: &Arc<Progress>) -> bool {
        let book = self.lock();
        let mut jobs = book.running.values();
        jobs.any(|job| job.reads_from(id) && !Arc::ptr_eq(&job.progress, than))
    }

    /// Everything under way.
    pub(crate) fn list(&self) -> Vec<Job> {
        let book = self.lock();
        let shown = |task: &Task| match task {
            Task::Copy { into, .. } => ("copy", into.to_string()),
            Task::Wipe(handle) => ("wipe", handle.clone()),
        };
        let jobs = book.running.values().map(|job| Job {
            what: shown(&job.task).0.to_owned(),
            subject: shown(&job.task).1,
            done: Bytes(job.progress.done.load(Ordering::Relaxed)),
            total: Bytes(job.progress.total.load(Ordering::Relaxed)),
        });
        jobs.collect()
    }

    /// Whether a copy into this volume is under way, or waits for its turn.
    pub(crate) fn fills(&self, id: &Id) -> bool {
        let book = self.lock();
        book.running.values().any(|job| job.fills() == Some(id))
    }

    /// Tell everything to stop at the next chunk, also what begins only now.
    pub(crate) fn stop_all(&self) {
        let mut book = self.lock();
        book.stopped = true;
        book.running.values().for_each(Running::stop);
    }
}

impl JobGuard {
    /// Wait for a turn; none when the job is told to stop before it comes.
    pub(crate) async fn turn(&self, way: &Way) -> Option<OwnedSemaphorePermit> {
        let turns = self.jobs.turns(way);
        tokio::select! {
            biased;
            () = self.stop.cancelled() => None,
            turn = turns.acquire_owned() => turn.ok(),
        }
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stop.is_cancelled()
    }
}

impl Drop for JobGuard {
    fn drop(&mut self) {
        self.jobs.lock().running.remove(&self.key);
    }
}

impl Drop for Doom {
    fn drop(&mut self) {
        let mut book = self.jobs.lock();
        if let Some(callers) = book.doomed.get_mut(&self.id) {
            *callers -= 1;
            if *callers == 0 {
                book.doomed.remove(&self.id);
            }
        }
    }
}

#[cfg(test)]
mod tests;
