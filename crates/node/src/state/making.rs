//! The room of inline volumes that are being made.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use stowage_model::{Bytes, Id, PoolName, Result};

/// What inline volumes that are being made will take: until one is in the index, another that is
/// made at the same time must count it.
#[derive(Default)]
pub(crate) struct Making(Mutex<BTreeMap<Id, (PoolName, Bytes)>>);

/// The room of one in the making; given back when this is dropped.
pub(crate) struct Share {
    making: Arc<Making>,
    id: Id,
}

impl Drop for Share {
    fn drop(&mut self) {
        self.making.lock().remove(&self.id);
    }
}

impl Making {
    /// Take the room of this one in this pool, if it `fits` beside the others, which nobody changes
    /// meanwhile.
    ///
    /// # Errors
    /// Those of `fits`.
    pub(crate) fn take(
        self: &Arc<Self>,
        id: &Id,
        pool: &PoolName,
        size: Bytes,
        fits: impl FnOnce(&BTreeMap<Id, (PoolName, Bytes)>) -> Result<()>,
    ) -> Result<Share> {
        let mut making = self.lock();
        fits(&making)?;
        making.insert(id.clone(), (pool.clone(), size));
        Ok(Share {
            making: Arc::clone(self),
            id: id.clone(),
        })
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, BTreeMap<Id, (PoolName, Bytes)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
