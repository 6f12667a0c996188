//! How much of a pool inline volumes take in all, and how many there are.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::join_all;
use stowage_model::{Bytes, Error, Id, PoolName, Result};
use stowage_pool::Pool;

use crate::config::ephemeral::EphemeralRules;
use crate::state::Node;
use crate::state::making::Share;
use crate::volume::choose::answer;

/// What inline volumes in one pool may be in all.
#[derive(Default)]
struct Most {
    bytes: Bytes,
    count: usize,
}

/// Those of the pools where an inline volume of this size may lie.
///
/// # Errors
/// [`stowage_model::Kind::Invalid`] when none of them is for inline volumes,
/// [`stowage_model::Kind::Full`] when none has room for another one.
pub(crate) async fn for_inline(
    node: &Node,
    rules: &EphemeralRules,
    mut pools: Vec<Arc<dyn Pool>>,
    size: Bytes,
) -> Result<Vec<Arc<dyn Pool>>> {
    let asked: Vec<String> = pools.iter().map(|p| p.name().to_string()).collect();
    pools.retain(|pool| rules.may_lie_in(pool.name()));
    if pools.is_empty() && !asked.is_empty() {
        return Err(rules.not_there(&format!("the pool(s) {}", asked.join(", "))));
    }
    let looked = join_all(pools.iter().map(|pool| most_inline(rules, pool))).await;
    let mut refusal = None;
    let mut fit = Vec::new();
    for (pool, most) in pools.into_iter().zip(looked) {
        let most = most.unwrap_or_default();
        match fits(node, &pool, &most, size) {
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
    node: &Node,
    rules: &EphemeralRules,
    pool: &Arc<dyn Pool>,
    id: &Id,
    size: Bytes,
) -> Result<Share> {
    let most = most_inline(rules, pool).await.unwrap_or_default();
    let fits = |making: &_| fits_beside(node, making, pool, &most, size);
    node.making().take(id, pool.name(), size, fits)
}

/// What inline volumes in a pool may be, if the pool answers.
async fn most_inline(rules: &EphemeralRules, pool: &Arc<dyn Pool>) -> Option<Most> {
    let total = answer(pool, pool.status()).await?.ok()?.total;
    Some(Most {
        bytes: Bytes(total.0 / 100 * u64::from(rules.max_share)),
        count: usize::try_from(rules.max_count).unwrap_or(usize::MAX),
    })
}

fn fits(node: &Node, pool: &Arc<dyn Pool>, most: &Most, size: Bytes) -> Result<()> {
    fits_beside(node, &node.making().lock(), pool, most, size)
}

fn fits_beside(
    node: &Node,
    making: &BTreeMap<Id, (PoolName, Bytes)>,
    pool: &Arc<dyn Pool>,
    most: &Most,
    size: Bytes,
) -> Result<()> {
    let made = node
        .index()
        .list(|e| e.record.ephemeral && !e.record.is_snapshot() && e.pool.name() == pool.name());
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
