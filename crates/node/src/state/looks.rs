//! Questions to what may hang: each is put once, its answer is waited for by all, and until it comes what
//! was known is told with its age.

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use stowage_model::PoolName;
use stowage_model::request::{Layout, Provisioning};
use stowage_model::volumes::{Capacity, Finding, PoolStatus};
use tokio::sync::watch;
use tokio::time::Instant;

/// How long a pool is waited for: what is told of all pools is told within a second.
pub(crate) const PATIENCE: Duration = Duration::from_millis(700);

/// For so long a pool is slow and not away: what was known a moment ago is told as it was, with its
/// age. Where nothing is known, whoever chooses a pool by its room waits as long.
pub(crate) const SLOW: Duration = Duration::from_secs(3);

/// What is known of each pool, by what was asked.
#[derive(Default)]
pub(crate) struct Looks {
    pub(crate) status: Known<PoolName, Result<PoolStatus, String>>,
    pub(crate) rooms: Known<(PoolName, Layout, Provisioning), Capacity>,
    /// What was found of the volumes.
    pub(crate) found: Known<(), Vec<Finding>>,
}

pub(crate) struct Known<K, V>(Arc<Mutex<HashMap<K, Look<V>>>>);

struct Look<V> {
    /// The last answer, and when it came.
    known: Option<(Instant, V)>,
    /// Since when the pool is being asked; the channel closes with its answer.
    under_way: Option<(Instant, watch::Receiver<()>)>,
}

/// What came of a question.
pub(crate) enum Answer<V> {
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
    pub(crate) async fn ask(
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
