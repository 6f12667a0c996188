//! What is under way, each at most once: what hangs is not begun a second time.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Those under way.
pub(crate) struct Busy<K>(Mutex<BTreeSet<K>>);

impl<K> Default for Busy<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Ord> Busy<K> {
    /// Begin this one; false when it is under way.
    pub(crate) fn begin(&self, what: K) -> bool {
        self.lock().insert(what)
    }

    /// It has ended.
    pub(crate) fn end(&self, what: &K) {
        self.lock().remove(what);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<K>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
