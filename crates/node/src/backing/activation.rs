//! Letting the device of a volume go, and running commands that hold the volume meanwhile.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use stowage_host::{Cmd, CmdError, Output, Runner};
use stowage_model::Result;
use stowage_pool::Pool;

use crate::backing::device::detach;
use crate::backing::thaw::unwedge;
use crate::state::Node;
use crate::state::entry::Entry;

/// How often and how long detaching is tried again: the journal thread of an unmounted ext4 or
/// xfs holds the device for a moment after umount(2) has returned.
const DETACH_TRIES: u32 = 20;

const DETACH_PAUSE: Duration = Duration::from_millis(100);

/// How long a command waits for another that works on its volume.
const TURN: Duration = Duration::from_secs(2);

/// Runs commands that work on one volume.
pub(crate) struct Working {
    runner: Arc<dyn Runner>,
    lock: String,
}

#[async_trait]
impl Runner for Working {
    async fn run(&self, cmd: Cmd) -> Result<Output, CmdError> {
        self.runner.run(cmd.locked(&self.lock, TURN)).await
    }
}

/// A runner whose commands hold the volume while they live, whatever becomes of us.
pub(crate) fn runner_of(node: &Node, entry: &Entry) -> Working {
    Working {
        runner: Arc::clone(node.runner()),
        lock: use_lock(&entry.pool, entry.record.id.as_str()),
    }
}

/// The lock that commands which work on this volume hold.
pub(crate) fn use_lock(pool: &Arc<dyn Pool>, id: &str) -> String {
    format!("use@{}@{id}", pool.place())
}

/// Let the device go, patiently.
pub(crate) async fn let_go(node: &Node, entry: &Entry) -> Result<()> {
    for n in 1..DETACH_TRIES {
        if detach(&entry.pool, &entry.record).await.is_ok() {
            return Ok(());
        }
        if n == DETACH_TRIES / 4 {
            unwedge(node, entry).await;
        }
        tokio::time::sleep(DETACH_PAUSE).await;
    }
    detach(&entry.pool, &entry.record).await
}
