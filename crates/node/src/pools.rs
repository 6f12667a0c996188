//! Making and extending pools on request.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use stowage_host::{blocking, durable};
use stowage_model::error::Context;
use stowage_model::volumes::PoolStatus;
use stowage_model::{Error, PoolKind, PoolName, Result};

use crate::kinds;
use crate::places::place;
use crate::recover::read::take_in;
use crate::state::Node;
use crate::state::definitions::{Disks, forget_group, group_file, remember_seen};
use stowage_model::PoolConfig;

pub(crate) async fn create_pool(
    node: &Arc<Node>,
    config: PoolConfig,
    disks: &[PathBuf],
    force: bool,
) -> Result<PoolStatus> {
    node.unread().rule_out_definition(&config.name)?;
    let reserved = node
        .definitions()
        .reserve(&config, || node.is_open(&config.name))?;
    place(node, &config).await?;
    let _disks = take_disks(node, disks).await?;
    forget_group(&node.pools_dir(), &config.name)?;
    kinds::make(&config, node.runner(), disks, force).await?;
    let pool = kinds::open(
        &config,
        node.runner(),
        group_file(&node.pools_dir(), &config.name),
        true,
    )?;
    pool.claim(node.locks()).await?;
    if config.kind() == PoolKind::Lvm && disks.is_empty() {
        // Nothing was made. A group that is not there is a typing mistake rather than a disk that
        // is away, and a pool that cannot be read would hold up others from then on.
        if let Some(problem) = pool.status().await?.problem {
            return Err(Error::precondition(problem));
        }
    }
    let text = serde_json::to_vec_pretty(&config)
        .or_internal(|| format!("failed to note pool {}", config.name))?;
    durable::write_atomic(
        &node.pools_dir().join(format!("{}.json", config.name)),
        &text,
    )
    .or_internal(|| format!("failed to keep the definition of pool {}", config.name))?;
    reserved.keep();
    let noted = remember_seen(&node.pools_dir(), &config.name);
    let read = match noted {
        Ok(()) => take_in(node, &pool, None::<std::future::Ready<()>>).await,
        Err(e) => Err(e),
    };
    if let Err(e) = read {
        // It is defined: the next start would open it, and so do we.
        node.unread().pool(pool.name(), e.chain());
        node.enter(&pool);
        return Err(e);
    }
    pool.status().await
}

pub(crate) async fn extend_pool(
    node: &Arc<Node>,
    name: &PoolName,
    disks: &[PathBuf],
    force: bool,
) -> Result<PoolStatus> {
    if disks.is_empty() {
        return Err(Error::invalid(
            "name at least one disk to extend the pool with",
        ));
    }
    let pool = node
        .pools()
        .into_iter()
        .find(|p| p.name() == name)
        .ok_or_else(|| {
            Error::not_found(format!("there is no pool {name}; see the list of pools"))
        })?;
    // Another daemon may be serving it.
    node.unread().among(std::slice::from_ref(&pool))?;
    let _disks = take_disks(node, disks).await?;
    pool.disks()?.extend(disks, force).await?;
    pool.status().await
}

/// As [`Definitions::take_disks`](crate::state::definitions::Definitions::take_disks).
async fn take_disks(node: &Arc<Node>, disks: &[PathBuf]) -> Result<Disks> {
    let named = disks.to_vec();
    let real = move || -> BTreeSet<PathBuf> {
        // One that is not there is told by whoever looks at it.
        let real = named.iter().filter_map(|disk| disk.canonicalize().ok());
        real.collect()
    };
    let real = blocking(real).await;
    node.definitions().take_disks(real)
}

#[cfg(test)]
mod tests;
