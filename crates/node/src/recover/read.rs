//! Reading one pool that was not read yet: taken for this daemon, scanned, and entered into the index.

use std::sync::Arc;
use std::time::Duration;

use stowage_model::{Id, Kind, Result};
use stowage_pool::Pool;

use crate::ephemeral::consumer::{doubt_inline, look_for_consumers};
use crate::places::place_known;
use crate::recover::load::load;
use crate::state::Node;
use crate::state::definitions::remember_seen;
use crate::status::asked_status;

/// How often a pool is tried that only waits for a command to end.
const WAIT: Duration = Duration::from_millis(250);

/// Read a pool that was not read yet: at once where it only waits for a command of a daemon
/// that was killed. What is found is taken in after `turn`.
pub(crate) async fn read(node: &Arc<Node>, pool: &Arc<dyn Pool>, turn: impl Future<Output = ()>) {
    let name = pool.name();
    let mut turn = Some(turn);
    loop {
        match take_in(node, pool, turn.take()).await {
            Ok(()) => break,
            Err(e) if e.kind() == Kind::Pending => {
                if node.notices().is_news(name, &e.chain()) {
                    tracing::info!(pool = %name, "{}", e.chain());
                }
                node.unread().coming(name, e.chain());
                tokio::select! {
                    () = tokio::time::sleep(WAIT) => {}
                    () = node.stopping().cancelled() => return,
                }
            }
            Err(e) => {
                if node.notices().is_news(name, &e.chain()) {
                    tracing::error!(pool = %name, error = %e.chain(), "pool cannot be read");
                }
                return node.unread().pool(name, e.chain());
            }
        }
    }
    if let Err(e) = remember_seen(&node.pools_dir(), name) {
        tracing::warn!(pool = %name, error = %e.chain(), "pool not noted");
    }
    doubt_inline(node, pool);
    // So that there is something to tell of it from now on, should it be slow.
    let _ = asked_status(node, pool).await;
    node.unread().is_read(name);
    tracing::info!(pool = %name, "pool was read");
    look_for_consumers(node);
}

/// Take a pool for this daemon, and what it holds into the index.
pub(crate) async fn take_in(
    node: &Arc<Node>,
    pool: &Arc<dyn Pool>,
    turn: Option<impl Future<Output = ()>>,
) -> Result<()> {
    place_known(node, pool.name()).await?;
    pool.claim(node.locks()).await?;
    let scan = pool.scan().await?;
    if let Some(turn) = turn {
        turn.await;
    }
    node.enter(pool);
    if !load(node, pool, scan).await? {
        node.unread().partly();
    }
    let (index, unread) = (node.index(), node.unread());
    let holds = |id: &Id| index.get(id).is_some() || unread.rule_out_record(id).is_err();
    node.last_known().pool_was_read(pool.name(), holds);
    Ok(())
}
