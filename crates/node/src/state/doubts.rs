//! Inline volumes of which it is not known whether their consumers are gone.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use stowage_model::Id;
use tokio::time::Instant;

/// How many consumers are looked for at a time: each may keep a thread for good.
const LOOKS: usize = 16;

/// How long after a look that left a doubt the next may come.
const AGAIN: Duration = Duration::from_secs(3);

/// Inline volumes whose consumers are neither seen nor known to be gone.
#[derive(Default)]
pub(crate) struct Doubts(Mutex<BTreeMap<Id, Doubt>>);

struct Doubt {
    why: Why,
    /// When it was last looked into.
    last: Option<Instant>,
    under_way: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// Its consumer was not looked for yet, or not since its note has changed.
    Unseen,
    /// It is neither there nor known to be gone.
    Unknown,
    /// It is gone, and the volume could not be removed.
    Stays(String),
}

impl Doubts {
    /// Doubt of this volume.
    pub(crate) fn add(&self, id: Id) {
        self.lock().entry(id).or_insert(Doubt {
            why: Why::Unseen,
            last: None,
            under_way: false,
        });
    }

    /// Those to be looked into now, the longest not looked into first.
    pub(crate) fn begin(&self) -> Vec<Id> {
        let mut all = self.lock();
        let room = LOOKS.saturating_sub(all.values().filter(|doubt| doubt.under_way).count());
        let is_due = |doubt: &Doubt| {
            !doubt.under_way && doubt.last.is_none_or(|last| last.elapsed() >= AGAIN)
        };
        let mut due: Vec<(&Id, &mut Doubt)> =
            all.iter_mut().filter(|(_, doubt)| is_due(doubt)).collect();
        due.sort_by_key(|(_, doubt)| doubt.last);
        let begun = due.into_iter().take(room).map(|(id, doubt)| {
            doubt.under_way = true;
            id.clone()
        });
        begun.collect()
    }

    /// What came of it; nothing when there is no doubt any more. Answers whether that is another
    /// doubt than before.
    pub(crate) fn end(&self, id: &Id, why: Option<Why>) -> bool {
        let mut all = self.lock();
        let Some(why) = why else {
            return all.remove(id).is_some();
        };
        let Some(doubt) = all.get_mut(id) else {
            return false;
        };
        let changed = doubt.why != why;
        *doubt = Doubt {
            why,
            last: Some(Instant::now()),
            under_way: false,
        };
        changed
    }

    pub(crate) fn is_unknown(&self, id: &Id) -> bool {
        let all = self.lock();
        all.get(id).is_some_and(|doubt| doubt.why == Why::Unknown)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Id, Doubt>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
