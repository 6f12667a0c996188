//! What is there: every volume and snapshot with its pool. Rebuilt from the pools at start, kept
//! in step by every operation, never the truth itself.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use stowage_model::{Error, Id, PoolName, Result};

use super::entry::Entry;
use super::last_known::LastKnown;

/// Every volume and snapshot by id.
pub(crate) struct Index {
    entries: RwLock<BTreeMap<Id, Entry>>,
    last_known: Arc<LastKnown>,
}

impl Index {
    /// An empty one, whose changes are noted there.
    pub(crate) fn noted_in(last_known: Arc<LastKnown>) -> Self {
        Self {
            entries: RwLock::default(),
            last_known,
        }
    }

    pub(crate) fn get(&self, id: &Id) -> Option<Entry> {
        self.read().get(id).cloned()
    }

    /// The entry, or the error that it is missing.
    pub(crate) fn need(&self, id: &Id) -> Result<Entry> {
        self.get(id).ok_or_else(|| {
            Error::not_found(format!("there is no volume or snapshot with the id {id}"))
        })
    }

    pub(crate) fn put(&self, entry: Entry) {
        self.last_known.put(&entry);
        self.write().insert(entry.record.id.clone(), entry);
    }

    pub(crate) fn remove(&self, id: &Id) {
        self.last_known.remove(id);
        self.write().remove(id);
    }

    /// Every entry, in the order of ids, for which `keep` holds.
    pub(crate) fn list(&self, keep: impl Fn(&Entry) -> bool) -> Vec<Entry> {
        self.read().values().filter(|e| keep(e)).cloned().collect()
    }

    /// How many volumes and snapshots a pool holds.
    pub(crate) fn count(&self, pool: &PoolName) -> (usize, usize) {
        let entries = self.read();
        let here = entries.values().filter(|e| e.pool.name() == pool);
        let (snapshots, volumes): (Vec<_>, Vec<_>) = here.partition(|e| e.record.is_snapshot());
        (volumes.len(), snapshots.len())
    }

    /// Whether a volume shows a snapshot in place. One restored from another pool has the same
    /// record and bytes of its own.
    pub(crate) fn in_place(&self, volume: &Entry) -> bool {
        let record = &volume.record;
        let source = record.source.as_ref().and_then(|id| self.get(id));
        let same_pool = source.is_some_and(|source| source.pool.name() == volume.pool.name());
        same_pool && volume.pool.shows_in_place(record)
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, BTreeMap<Id, Entry>> {
        self.entries.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, BTreeMap<Id, Entry>> {
        self.entries.write().unwrap_or_else(PoisonError::into_inner)
    }
}
