//! One operation per volume at a time, others side by side.
//!
//! A caller who comes while the same volume is being worked on waits a little (most work takes
//! less) and is then told that it is pending, which doors turn into "ask again" (CSI: ABORTED,
//! allowed only while work really goes on). Reading, such as stats, takes no lock.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use stowage_host::{Holder, Locks, blocking};
use stowage_model::{Error, Id, Result};
use tokio::sync::OwnedMutexGuard;
use tokio_util::task::TaskTracker;

/// How long a caller waits for work under way before it is told to come back. Below the 10 s that
/// CSI sidecars give a call by default.
const PATIENCE: Duration = Duration::from_secs(6);

/// How often a command that outlived its daemon is looked for.
const LOOK: Duration = Duration::from_millis(100);

type Slot = Arc<tokio::sync::Mutex<()>>;

struct Entry {
    slot: Slot,
    what: &'static str,
    users: usize,
}

/// The operations under way.
#[derive(Default)]
pub(crate) struct Ops {
    entries: Mutex<HashMap<Id, Entry>>,
    /// Volumes that a command which outlived its daemon still works on, and its lock.
    left: Mutex<HashMap<Id, (Locks, String)>>,
    tracker: TaskTracker,
}

/// Holds one volume; the next operation on it may begin when this is dropped.
pub(crate) struct Guard {
    ops: Arc<Ops>,
    id: Id,
    _held: OwnedMutexGuard<()>,
}

/// Counts an interest in an entry, so that the entry goes when the last interest does.
struct Interest<'a> {
    ops: &'a Ops,
    id: &'a Id,
    armed: bool,
}

impl Ops {
    /// Take the volume for an operation called `what`.
    ///
    /// # Errors
    /// [`stowage_model::Kind::Pending`] when it is still taken after the patience ran out.
    pub(crate) async fn begin(self: &Arc<Self>, id: &Id, what: &'static str) -> Result<Guard> {
        self.begin_within(id, what, PATIENCE).await
    }

    /// As [`Ops::begin`], without waiting.
    ///
    /// # Errors
    /// As [`Ops::begin`].
    pub(crate) async fn begin_now(self: &Arc<Self>, id: &Id, what: &'static str) -> Result<Guard> {
        self.begin_within(id, what, Duration::ZERO).await
    }

    /// As [`Ops::begin`], however long what is going on takes, and though a command that outlived
    /// its daemon be at work.
    pub(crate) async fn begin_reading(self: &Arc<Self>, id: &Id) -> Guard {
        loop {
            if let Ok(guard) = self.begin_beside(id, "reading", PATIENCE).await {
                return guard;
            }
        }
    }

    async fn begin_within(
        self: &Arc<Self>,
        id: &Id,
        what: &'static str,
        patience: Duration,
    ) -> Result<Guard> {
        let until = tokio::time::Instant::now() + patience;
        let guard = self.begin_beside(id, what, patience).await?;
        while let Some(by) = self.left_at(id).await {
            if tokio::time::Instant::now() >= until {
                return Err(Error::pending(format!(
                    "{} is still at work on {id}: it outlived the daemon that started it; ask again",
                    named(&by)
                )));
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(guard)
    }

    /// A command that outlived its daemon has this lock, and works on this volume: no operation
    /// may begin before it has ended.
    pub(crate) fn leave_to(&self, id: &Id, locks: &Locks, lock: String) {
        self.left().insert(id.clone(), (locks.clone(), lock));
    }

    /// Every volume that such commands work on, and who they are.
    pub(crate) async fn left_behind(&self) -> Vec<(Id, Vec<Holder>)> {
        let ids: Vec<Id> = self.left().keys().cloned().collect();
        let mut all = Vec::new();
        for id in ids {
            all.extend(self.left_at(&id).await.map(|by| (id, by)));
        }
        all
    }

    /// Who is still at work on this volume, if anybody.
    async fn left_at(&self, id: &Id) -> Option<Vec<Holder>> {
        let (locks, name) = self.left().get(id).cloned()?;
        let by = blocking(move || locks.holders(&name)).await;
        if by.is_none() {
            self.left().remove(id);
        }
        by
    }

    fn left(&self) -> std::sync::MutexGuard<'_, HashMap<Id, (Locks, String)>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn begin_beside(
        self: &Arc<Self>,
        id: &Id,
        what: &'static str,
        patience: Duration,
    ) -> Result<Guard> {
        let slot = self.enter(id, what);
        let mut interest = Interest {
            ops: self,
            id,
            armed: true,
        };
        match tokio::time::timeout(patience, slot.lock_owned()).await {
            Ok(held) => {
                interest.armed = false;
                if let Some(entry) = self.lock().get_mut(id) {
                    entry.what = what;
                }
                Ok(Guard {
                    ops: Arc::clone(self),
                    id: id.clone(),
                    _held: held,
                })
            }
            Err(_) => {
                let doing = self.lock().get(id).map_or("work", |e| e.what);
                Err(Error::pending(format!(
                    "{doing} of {id} is still going on; ask again"
                )))
            }
        }
    }

    /// Take several volumes, in the order of their ids so that two such calls cannot block each
    /// other.
    ///
    /// # Errors
    /// As [`Ops::begin`].
    pub(crate) async fn begin_all(
        self: &Arc<Self>,
        ids: &[Id],
        what: &'static str,
    ) -> Result<Vec<Guard>> {
        let mut sorted: Vec<&Id> = ids.iter().collect();
        sorted.sort();
        sorted.dedup();
        let mut guards = Vec::with_capacity(sorted.len());
        for id in sorted {
            guards.push(self.begin(id, what).await?);
        }
        Ok(guards)
    }

    /// Run work to its end even when the caller goes away (a gRPC deadline, a closed connection).
    ///
    /// # Errors
    /// Those of the work; a panic in it becomes an internal error.
    pub(crate) async fn detached<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        match self.tracker.spawn(work).await {
            Ok(result) => result,
            Err(e) => Err(Error::internal("the operation died unexpectedly").caused_by(e)),
        }
    }

    /// Let work run in the background until it ends or the process does.
    pub(crate) fn background(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.tracker.spawn(work);
    }

    /// Wait until all work has ended, or until `bound` is over.
    pub(crate) async fn drain(&self, bound: Duration) -> bool {
        self.tracker.close();
        tokio::time::timeout(bound, self.tracker.wait())
            .await
            .is_ok()
    }

    fn enter(&self, id: &Id, what: &'static str) -> Slot {
        let mut entries = self.lock();
        let entry = entries.entry(id.clone()).or_insert_with(|| Entry {
            slot: Slot::default(),
            what,
            users: 0,
        });
        entry.users += 1;
        Arc::clone(&entry.slot)
    }

    fn leave(&self, id: &Id) {
        let mut entries = self.lock();
        if let Some(entry) = entries.get_mut(id) {
            entry.users -= 1;
            if entry.users == 0 {
                entries.remove(id);
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Id, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// "pid 7 (mkfs.ext4)", for messages.
pub(crate) fn named(holders: &[Holder]) -> String {
    let names: Vec<_> = holders.iter().map(Holder::to_string).collect();
    match names.is_empty() {
        true => "a process that /proc does not show".to_owned(),
        false => names.join(", "),
    }
}

impl Drop for Interest<'_> {
    fn drop(&mut self) {
        if self.armed {
            self.ops.leave(self.id);
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.ops.leave(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use stowage_model::{Kind, Name, id::Role};

    fn id(name: &str) -> Id {
        Id::derive(Role::Volume, &Name::new(name).unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_operation_is_pending_only_while_the_first_runs() {
        let ops = Arc::new(Ops::default());
        let first = ops.begin(&id("a"), "creation").await.unwrap();
        let e = ops.begin(&id("a"), "deletion").await.err().unwrap();
        assert_eq!(e.kind(), Kind::Pending);
        assert!(e.message().contains("creation"), "{e}");
        drop(first);
        assert!(ops.begin(&id("a"), "deletion").await.is_ok());
        assert!(ops.lock().is_empty(), "entries must not pile up");
    }

    #[tokio::test(start_paused = true)]
    async fn a_short_operation_is_waited_for() {
        let ops = Arc::new(Ops::default());
        let first = ops.begin(&id("a"), "creation").await.unwrap();
        let later = tokio::spawn({
            let ops = Arc::clone(&ops);
            async move { ops.begin(&id("a"), "deletion").await.is_ok() }
        });
        tokio::time::sleep(Duration::from_secs(1)).await;
        drop(first);
        assert!(later.await.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn other_volumes_are_not_held_up() {
        let ops = Arc::new(Ops::default());
        let _slow = ops.begin(&id("a"), "mkfs").await.unwrap();
        let started = tokio::time::Instant::now();
        assert!(ops.begin(&id("b"), "staging").await.is_ok());
        assert_eq!(started.elapsed(), Duration::ZERO);
    }

    #[tokio::test]
    async fn work_goes_on_when_the_caller_hangs_up() {
        let ops = Arc::new(Ops::default());
        let (tell, told) = tokio::sync::oneshot::channel();
        let (done, wait) = tokio::sync::oneshot::channel();
        let call = tokio::spawn({
            let ops = Arc::clone(&ops);
            async move {
                ops.detached(async move {
                    told.await.map_err(|_| Error::internal("gone"))?;
                    let _ = done.send(());
                    Ok(())
                })
                .await
            }
        });
        tokio::task::yield_now().await;
        call.abort();
        tell.send(()).unwrap();
        tokio::time::timeout(Duration::from_secs(5), wait)
            .await
            .unwrap()
            .unwrap();
    }
}
