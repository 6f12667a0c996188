//! The start. Calls are answered soon, whatever hangs: pools are opened without a look at them and
//! read by a task each. What is not read yet, or cannot be, is a finding and is tried again; what
//! it may hold is not taken for gone meanwhile (see `unread`).

use std::collections::BTreeSet;
use std::os::unix::fs::DirBuilderExt;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use stowage_host::Lock;
use stowage_model::error::Context;
use stowage_model::volumes::Finding;
use stowage_model::{Error, Result};
use stowage_pool::Pool;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::config::Options;
use crate::local::Local;
use crate::maintain::begin_upkeep;
use crate::places::lying;
use crate::recover::read::read;
use crate::recover::state_dir::{look_at_state, open};
use crate::recover::tidy::tidy;
use crate::state::definitions::apart;
use crate::state::nesting::Paths;
use crate::state::{Chore, Node};
use stowage_model::PoolConfig;

/// How long to wait for a previous daemon to end.
const LOCK_WAIT: Duration = Duration::from_secs(30);

/// How long pools are waited for before calls are answered without them.
const FIRST_LOOK: Duration = Duration::from_secs(1);

/// How long a pool waits for those before it: of two volumes of one id the first pool's is kept.
const ORDER: Duration = Duration::from_millis(700);

impl Local {
    /// Start the node: open the pools, recover, and begin upkeep. It serves within two seconds;
    /// what could not be opened or read by then is tried again while serving.
    ///
    /// # Errors
    /// [`stowage_model::Kind::Precondition`] while another daemon uses the state directory,
    /// [`stowage_model::Kind::Invalid`] for a pool that is misconfigured.
    pub async fn start(options: Options, configured: Vec<PoolConfig>) -> Result<Self> {
        Self::start_with(options, configured, Paths::default()).await
    }

    async fn start_with(
        options: Options,
        configured: Vec<PoolConfig>,
        paths: Paths,
    ) -> Result<Self> {
        let mut names = BTreeSet::new();
        for (n, config) in configured.iter().enumerate() {
            if !names.insert(&config.name) {
                let name = &config.name;
                return Err(Error::invalid(format!("two pools are called {name}")));
            }
            apart(config, &configured[..n])?;
        }
        let state = options.state_dir.clone();
        // Staged volumes lie below it, and their files are for their consumers only.
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&state)
            .or_internal(|| format!("failed to make the state directory {}", state.display()))?;
        // It may lie behind a link, which is root's word; mount tables show where it leads.
        let state = std::fs::canonicalize(&state)
            .or_internal(|| format!("failed to find the state directory {}", state.display()))?;
        let options = Options {
            state_dir: state.clone(),
            ..options
        };
        let lock = Lock::of_directory(&state, LOCK_WAIT).await.map_err(|e| {
            Error::precondition(format!(
                "the state directory {} is in use; stop the other daemon first",
                state.display()
            ))
            .caused_by(e)
        })?;
        let node = Arc::new(Node::new(options, lock)?.with_paths(paths));
        node.definitions().are(configured.clone());
        for (config, real) in configured.iter().zip(lying(&node, &configured).await) {
            if let Some(real) = real {
                node.definitions()
                    .lies_at(&config.name, real, node.state_dir())?;
            }
        }
        let mut opened = Vec::new();
        for config in &configured {
            opened.push(open(&node, config)?);
        }
        Ok(Self::begin(node, opened).await)
    }

    /// Read these pools and what the state directory holds, and begin upkeep.
    pub(crate) async fn begin(node: Arc<Node>, mut pools: Vec<Arc<dyn Pool>>) -> Self {
        pools.extend(look_at_state(&node, true).await);
        read_first(&node, pools).await;
        begin_upkeep(&node);
        Self { node }
    }

    /// Tell of a trouble that a door has, or that it has no more.
    pub fn tell(&self, door: &'static str, finding: Option<Finding>) {
        self.node.notices().of_door(door, finding);
    }
}

/// Read these pools, each by itself, and wait for them a moment.
async fn read_first(node: &Arc<Node>, pools: Vec<Arc<dyn Pool>>) {
    let until = Instant::now() + ORDER;
    let mut before: Option<oneshot::Receiver<()>> = None;
    let mut reads = Vec::new();
    for pool in pools {
        node.unread()
            .coming(pool.name(), "it is being read".to_owned());
        node.enter(&pool);
        let chore = (Chore::Maintain, pool.name().clone());
        node.chores().begin(chore.clone());
        let (done, next) = oneshot::channel();
        let first = before.replace(next);
        let me = Arc::clone(node);
        reads.push(tokio::spawn(async move {
            read(&me, &pool, async move {
                if let Some(first) = first {
                    let _ = tokio::time::timeout_at(until, first).await;
                }
            })
            .await;
            drop(done);
            me.chores().end(&chore);
        }));
    }
    let me = Arc::clone(node);
    let all = tokio::spawn(async move {
        join_all(reads).await;
        tidy(&me).await;
    });
    if tokio::time::timeout(FIRST_LOOK, all).await.is_err() {
        tracing::warn!("not all pools could be read yet; serving without them");
    }
}

#[cfg(test)]
mod tests;
