//! Asking pools what those only want to know who cannot wait: metrics, listings, probes. A pool on
//! a disk that hangs is asked once; until it answers, what was known is told, and how old that is.

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use stowage_model::request::{Layout, Provisioning};
use stowage_model::volumes::{Capacity, Finding, PoolStatus, Severity, Trouble};
use stowage_model::{Bytes, PoolName};
use stowage_pool::Pool;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::local::Inner;

/// How long a pool is waited for: what is told of all pools is told within a second.
const PATIENCE: Duration = Duration::from_millis(700);

/// For so long a pool is slow and not away: what was known a moment ago is told as it was, with its
/// age. Where nothing is known, whoever chooses a pool by its room waits as long.
const SLOW: Duration = Duration::from_secs(3);

/// What is known of each pool, by what was asked.
#[derive(Default)]
pub(crate) struct Looks {
    status: Known<PoolName, Result<PoolStatus, String>>,
    rooms: Known<(PoolName, Layout, Provisioning), Capacity>,
    /// What was found of the volumes.
    found: Known<(), Vec<Finding>>,
}

struct Known<K, V>(Arc<Mutex<HashMap<K, Look<V>>>>);

struct Look<V> {
    /// The last answer, and when it came.
    known: Option<(Instant, V)>,
    /// Since when the pool is being asked; the channel closes with its answer.
    under_way: Option<(Instant, watch::Receiver<()>)>,
}

/// What came of a question.
enum Answer<V> {
    /// The pool answered.
    New(V),
    /// It did not, and is being asked for so long; this is what was known, and how old it is.
    Old(Duration, Option<(Duration, V)>),
}

impl<K, V> Default for Known<K, V> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K: Hash + Eq + Clone + Send + 'static, V: Clone + Send + 'static> Known<K, V> {
    /// What the pool answers to `question`, which is put to it unless an earlier one still is. It
    /// is waited for as long as `first` where nothing is known.
    async fn ask(
        &self,
        key: &K,
        first: Duration,
        question: impl Future<Output = V> + Send + 'static,
    ) -> Answer<V> {
        let (since, mut done, patience) = self.begin(key, first, question);
        // The sender says nothing; it goes when the answer is there.
        let answered = tokio::time::timeout(patience, done.changed()).await.is_ok();
        let looks = self.lock();
        let known = looks.get(key).and_then(|look| look.known.clone());
        match (answered, known) {
            (true, Some((_, value))) => Answer::New(value),
            (_, known) => Answer::Old(
                since.elapsed(),
                known.map(|(at, value)| (at.elapsed(), value)),
            ),
        }
    }

    fn begin(
        &self,
        key: &K,
        first: Duration,
        question: impl Future<Output = V> + Send + 'static,
    ) -> (Instant, watch::Receiver<()>, Duration) {
        let mut looks = self.lock();
        let look = looks.entry(key.clone()).or_insert(Look {
            known: None,
            under_way: None,
        });
        let patience = match look.known {
            Some(_) => PATIENCE,
            None => first,
        };
        if let Some((since, done)) = &look.under_way {
            return (*since, done.clone(), PATIENCE);
        }
        let (answered, done) = watch::channel(());
        let since = Instant::now();
        look.under_way = Some((since, done.clone()));
        let (all, key) = (Arc::clone(&self.0), key.clone());
        // By itself: nobody waits for it at a stop, and who asked may have gone.
        tokio::spawn(async move {
            let value = question.await;
            let mut looks = all.lock().unwrap_or_else(PoisonError::into_inner);
            looks.insert(
                key,
                Look {
                    known: Some((Instant::now(), value)),
                    under_way: None,
                },
            );
            drop(answered);
        });
        (since, done, patience)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, Look<V>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// What a pool says of itself, or what was known of it, within a second.
    pub(crate) async fn status_of(&self, pool: &Arc<dyn Pool>) -> PoolStatus {
        let mut status = match self.unread.why(pool.name()) {
            Some(why) => PoolStatus {
                problem: Some(why),
                ..nothing_known(pool)
            },
            None => self.asked_status(pool).await,
        };
        (status.volumes, status.snapshots) = self.index.count(pool.name());
        status
    }

    /// As [`Inner::status_of`], for a pool that was read.
    pub(crate) async fn asked_status(&self, pool: &Arc<dyn Pool>) -> PoolStatus {
        let question = {
            let pool = Arc::clone(pool);
            async move { pool.status().await.map_err(|e| e.chain()) }
        };
        let asked = self.looks.status.ask(pool.name(), PATIENCE, question);
        let (since, known) = match asked.await {
            Answer::New(Ok(status)) => return status,
            Answer::New(Err(why)) => {
                return PoolStatus {
                    problem: Some(why),
                    ..nothing_known(pool)
                };
            }
            Answer::Old(since, known) => (since, known),
        };
        let mut status = nothing_known(pool);
        if let Some((age, Ok(known))) = known {
            status = known;
            status.age = Some(age.as_secs() + status.age.unwrap_or_default());
            if since < SLOW {
                return status;
            }
            // Nothing can be made there now.
            (status.free, status.largest) = (Bytes(0), Bytes(0));
        }
        let more = status.problem.map(|p| format!("; {p}")).unwrap_or_default();
        status.problem = Some(format!("has not answered for {} s{more}", since.as_secs()));
        status
    }

    /// What each of these pools has left for volumes made like this, within a second: nothing where
    /// it does not answer.
    pub(crate) async fn rooms_known(
        &self,
        pools: &[Arc<dyn Pool>],
        layout: Layout,
        provisioning: Provisioning,
    ) -> Vec<Capacity> {
        let rooms = pools.iter().map(|pool| async move {
            let key = (pool.name().clone(), layout, provisioning);
            let question = {
                let pool = Arc::clone(pool);
                async move { pool.capacity(layout, provisioning).await }
            };
            match self.looks.rooms.ask(&key, SLOW, question).await {
                Answer::New(room) => room,
                // What there was a moment ago is a better guess than nothing.
                Answer::Old(since, Some((_, room))) if since < SLOW => room,
                Answer::Old(..) => Capacity::default(),
            }
        });
        futures::future::join_all(rooms).await
    }

    /// What is wrong with the volumes, or what was known of that, within a second.
    pub(crate) async fn volumes_findings(self: &Arc<Self>) -> Vec<Finding> {
        let me = Arc::clone(self);
        let look = async move { me.look_at_volumes().await };
        let (since, known) = match self.looks.found.ask(&(), PATIENCE, look).await {
            Answer::New(found) => return found,
            Answer::Old(since, known) => (since, known),
        };
        let (age, mut found) = known.unwrap_or_default();
        if since >= SLOW || age == Duration::ZERO {
            found.push(Finding {
                severity: Severity::Warning,
                trouble: Trouble::DeviceError,
                subject: "volumes in use".to_owned(),
                what: format!(
                    "what they are mounted on has not answered for {} s; what else is told of \
                     volumes is {} s old",
                    since.as_secs(),
                    age.as_secs()
                ),
                mend: "look for a disk that hangs in the kernel log".to_owned(),
            });
        }
        found
    }
}

/// The status of a pool that never answered.
fn nothing_known(pool: &Arc<dyn Pool>) -> PoolStatus {
    PoolStatus {
        name: pool.name().clone(),
        kind: pool.kind(),
        location: pool
            .vg()
            .map(|vg| format!("volume group {vg}"))
            .unwrap_or_default(),
        media: None,
        total: Bytes(0),
        free: Bytes(0),
        largest: Bytes(0),
        promised: Bytes(0),
        data_percent: None,
        metadata_percent: None,
        volumes: 0,
        snapshots: 0,
        problem: None,
        age: None,
    }
}
