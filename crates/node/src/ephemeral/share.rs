//! How much of a pool inline volumes take in all, and how many there are.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use futures::future::join_all;
use stowage_model::{Bytes, Error, Id, PoolName, Result};
use stowage_pool::Pool;

use super::EphemeralRules;
use crate::choose::answer;
use crate::local::Inner;

/// What inline volumes that are being made will take: until one is in the index, another that is
/// made at the same time must count it.
#[derive(Default)]
pub(crate) struct Making(Mutex<BTreeMap<Id, (PoolName, Bytes)>>);

/// What inline volumes in one pool may be in all.
#[derive(Default)]
struct Most {
    bytes: Bytes,
    count: usize,
}

/// The room of one in the making; given back when this is dropped.
pub(crate) struct Share {
    node: Arc<Inner>,
    id: Id,
}

impl Drop for Share {
    fn drop(&mut self) {
        self.node.making.lock().remove(&self.id);
    }
}

impl Making {
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Id, (PoolName, Bytes)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Those of the pools where an inline volume of this size may lie.
    ///
    /// # Errors
    /// [`stowage_model::Kind::Invalid`] when none of them is for inline volumes,
    /// [`stowage_model::Kind::Full`] when none has room for another one.
    pub(crate) async fn for_inline(
        &self,
        rules: &EphemeralRules,
        mut pools: Vec<Arc<dyn Pool>>,
        size: Bytes,
    ) -> Result<Vec<Arc<dyn Pool>>> {
        let asked: Vec<String> = pools.iter().map(|p| p.name().to_string()).collect();
        pools.retain(|pool| rules.may_lie_in(pool.name()));
        if pools.is_empty() && !asked.is_empty() {
            return Err(rules.not_there(&format!("the pool(s) {}", asked.join(", "))));
        }
        let looked = join_all(pools.iter().map(|pool| self.most_inline(rules, pool))).await;
        let mut refusal = None;
        let mut fit = Vec::new();
        for (pool, most) in pools.into_iter().zip(looked) {
            let most = most.unwrap_or_default();
            match self.fits(&pool, &most, size) {
                Ok(()) => fit.push(pool),
                Err(e) => refusal = Some(e),
            }
        }
        match refusal {
            Some(e) if fit.is_empty() => Err(e),
            _ => Ok(fit),
        }
    }

    /// Take the room of an inline volume that is about to be made.
    ///
    /// # Errors
    /// [`stowage_model::Kind::Full`] when others took it.
    pub(crate) async fn take_share(
        self: &Arc<Self>,
        rules: &EphemeralRules,
        pool: &Arc<dyn Pool>,
        id: &Id,
        size: Bytes,
    ) -> Result<Share> {
        let most = self.most_inline(rules, pool).await.unwrap_or_default();
        let mut making = self.making.lock();
        self.fits_beside(&making, pool, &most, size)?;
        making.insert(id.clone(), (pool.name().clone(), size));
        let node = Arc::clone(self);
        Ok(Share {
            node,
            id: id.clone(),
        })
    }

    /// What inline volumes in a pool may be, if the pool answers.
    async fn most_inline(&self, rules: &EphemeralRules, pool: &Arc<dyn Pool>) -> Option<Most> {
        let total = answer(pool, pool.status()).await?.ok()?.total;
        Some(Most {
            bytes: Bytes(total.0 / 100 * u64::from(rules.max_share)),
            count: usize::try_from(rules.max_count).unwrap_or(usize::MAX),
        })
    }

    fn fits(&self, pool: &Arc<dyn Pool>, most: &Most, size: Bytes) -> Result<()> {
        self.fits_beside(&self.making.lock(), pool, most, size)
    }

    fn fits_beside(
        &self,
        making: &BTreeMap<Id, (PoolName, Bytes)>,
        pool: &Arc<dyn Pool>,
        most: &Most,
        size: Bytes,
    ) -> Result<()> {
        let made = self.index.list(|e| {
            e.record.ephemeral && !e.record.is_snapshot() && e.pool.name() == pool.name()
        });
        let other = making.iter().filter(|(id, (at, _))| {
            at == pool.name() && !made.iter().any(|entry| entry.record.id == **id)
        });
        let sizes: Vec<Bytes> = made
            .iter()
            .map(|entry| entry.size)
            .chain(other.map(|(_, (_, size))| *size))
            .collect();
        let taken: Bytes = sizes.iter().copied().sum();
        let fits = taken + size <= most.bytes;
        if fits && sizes.len() < most.count {
            return Ok(());
        }
        if fits {
            return Err(Error::full(format!(
                "pool {} has {} inline volumes and takes no more of them; use a volume claim, or \
                 have the administrator raise max-count under [ephemeral]",
                pool.name(),
                sizes.len()
            )));
        }
        let most = most.bytes;
        Err(Error::full(format!(
            "an inline volume of {size} does not fit into pool {}: inline volumes may be {most} of \
             it in all and are {taken}; ask for less, use a volume claim, or have the \
             administrator raise max-share under [ephemeral]",
            pool.name()
        )))
    }
}
