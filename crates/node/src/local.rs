//! What the doors call. Each call waits for what is not known yet right after the start, and then runs to
//! its end whether or not its caller stays.

use std::sync::Arc;
use std::time::Duration;

use stowage_model::volumes::{Listing, Snapshot, Volume};
use stowage_model::{Error, Id, Result};

use crate::findings::missing_pools;
use crate::lookup::{all_away, known, lasts, shown, shown_away, snapshot_away, snapshot_of};
use crate::state::Node;
use crate::state::unread::Gap;

mod mounts;
mod pools;
mod publish;
mod volumes;

/// How long notes are waited for that nothing is done on.
const WRITTEN: Duration = Duration::from_secs(1);

/// Volumes on this machine.
#[derive(Clone)]
pub struct Local {
    pub(crate) node: Arc<Node>,
}

impl Local {
    /// The volumes that are known by now. Right after the start more may be, which
    /// [`stowage_model::Volumes::volumes`] waits for.
    pub fn volumes_known(&self) -> Listing<Volume> {
        // Before the look: what is read meanwhile is not listed, perhaps.
        let gaps = self.gaps();
        let volumes = self.node.index().list(|e| !e.record.is_snapshot());
        let mut all: Vec<Volume> = volumes.into_iter().map(|e| shown(&self.node, e)).collect();
        let away = all_away(&self.node, |record| !record.is_snapshot());
        if !away.is_empty() {
            all.extend(away.into_iter().map(|known| shown_away(&self.node, known)));
            all.sort_by(|a, b| a.record.id.cmp(&b.record.id));
        }
        Listing { all, gaps }
    }

    /// As [`Local::volumes_known`], for snapshots.
    fn snapshots_known(&self) -> Listing<Snapshot> {
        // Before the look, as with volumes.
        let gaps = self.gaps();
        let lasting = self.node.index().list(|e| lasts(&e.record));
        let shown = lasting.iter().map(|e| snapshot_of(&self.node, e));
        let mut all: Vec<Snapshot> = shown.collect();
        let away = all_away(&self.node, lasts);
        if !away.is_empty() {
            all.extend(away.into_iter().map(snapshot_away));
            all.sort_by(|a, b| a.record.id.cmp(&b.record.id));
        }
        Listing { all, gaps }
    }

    /// What may hold more than is known, or was last known.
    fn gaps(&self) -> Vec<Error> {
        let last = self.node.last_known();
        self.node.unread().gaps(|gap| match gap {
            Gap::Pool(pool) => last.is_whole(pool),
            Gap::Record(id) => last.get(id).is_some(),
        })
    }

    /// Whether the node can serve: one pool at least is there. Those that are not are told by
    /// [`stowage_model::Volumes::findings`]; their trouble must not keep the others' volumes from being
    /// used.
    ///
    /// # Errors
    /// [`stowage_model::Kind::Precondition`] when no pool is configured, or none is there,
    /// [`stowage_model::Kind::Pending`] right after the start.
    pub fn ready(&self) -> Result<()> {
        let pools = self.node.pools();
        if pools.is_empty() && !self.node.unread().lacks_definitions() {
            return Err(Error::precondition("no pool is configured"));
        }
        let missing = missing_pools(&self.node);
        if pools.iter().any(|pool| !missing.contains(pool.name())) {
            return Ok(());
        }
        Err(if self.node.unread().is_coming() {
            Error::pending("the pools are being read")
        } else {
            Error::precondition("none of the pools is there; run `stowage doctor`")
        })
    }

    /// Stop: no new background work, copies and wipes stop at the next chunk (they are taken up
    /// again at the next start), operations under way get until `bound`. Mounts stay.
    pub async fn stop(&self, bound: Duration) {
        self.node.stopping().cancel();
        self.node.jobs().stop_all();
        if !self.node.ops().drain(bound).await {
            tracing::warn!("operations still under way are left to the next start");
        }
        self.have_noted().await;
    }

    /// After something was made: have it noted, so that it is told while its pool is away.
    async fn have_noted(&self) {
        self.node.last_known().written(WRITTEN).await;
    }

    /// Run an operation on this volume or snapshot.
    async fn on<T, W>(&self, id: &Id, work: impl FnOnce(Arc<Node>, Id) -> W) -> Result<T>
    where
        T: Send + 'static,
        W: Future<Output = Result<T>> + Send + 'static,
    {
        known(&self.node, id).await;
        let work = work(Arc::clone(&self.node), id.clone());
        self.node.ops().detached(work).await
    }
}
