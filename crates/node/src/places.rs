//! Where file pools lie, asked without waiting for paths that hang.

use std::path::PathBuf;

use futures::future::join_all;
use stowage_model::{Error, PoolName, Result};

use crate::state::Node;
use stowage_model::PoolConfig;

/// Find out where a pool lies, and that it is apart from the others.
///
/// # Errors
/// As [`Definitions::lies_at`](crate::state::definitions::Definitions::lies_at); [`stowage_model::Kind::Unavailable`] while its path does not answer.
pub(crate) async fn place(node: &Node, config: &PoolConfig) -> Result<()> {
    let Some(path) = config.path() else {
        return Ok(());
    };
    if node.definitions().is_placed(&config.name) {
        return Ok(());
    }
    match node.paths().of(path).await {
        Some(real) => node
            .definitions()
            .lies_at(&config.name, real, node.state_dir()),
        None => Err(Error::unavailable(format!(
            "the path {} does not answer: a file system on it hangs",
            path.display()
        ))),
    }
}

/// As [`place`], for a pool that may be known.
pub(crate) async fn place_known(node: &Node, pool: &PoolName) -> Result<()> {
    match node.definitions().of(pool) {
        Some(config) => place(node, &config).await,
        None => Ok(()),
    }
}

/// Where those of these pools lie that are directories and answer, all asked at once.
pub(crate) async fn lying(node: &Node, pools: &[PoolConfig]) -> Vec<Option<PathBuf>> {
    let asked = pools.iter().map(|config| async {
        match config.path() {
            Some(path) => node.paths().of(path).await,
            None => None,
        }
    });
    join_all(asked).await
}
