//! What pools say of themselves, told within a second: of one that does not answer, what was known.

use std::sync::Arc;

use stowage_model::Bytes;
use stowage_model::request::{Layout, Provisioning};
use stowage_model::volumes::{Capacity, PoolStatus};
use stowage_pool::Pool;

use crate::state::Node;
use crate::state::looks::{Answer, PATIENCE, SLOW};

/// What a pool says of itself, or what was known of it, within a second.
pub(crate) async fn status_of(node: &Node, pool: &Arc<dyn Pool>) -> PoolStatus {
    let mut status = match node.unread().why(pool.name()) {
        Some(why) => PoolStatus {
            problem: Some(why),
            ..nothing_known(pool)
        },
        None => asked_status(node, pool).await,
    };
    (status.volumes, status.snapshots) = node.index().count(pool.name());
    status
}

/// As [`status_of`], for a pool that was read.
pub(crate) async fn asked_status(node: &Node, pool: &Arc<dyn Pool>) -> PoolStatus {
    let question = {
        let pool = Arc::clone(pool);
        async move { pool.status().await.map_err(|e| e.chain()) }
    };
    let asked = node.looks().status.ask(pool.name(), PATIENCE, question);
    let (since, known) = match asked.await {
        Answer::New(Ok(status)) => return status,
        Answer::New(Err(why)) => {
            return PoolStatus {
                problem: Some(why),
                ..nothing_known(pool)
            };
        }
        Answer::Old(since, known) => (since, known),
    };
    let mut status = nothing_known(pool);
    if let Some((age, Ok(known))) = known {
        status = known;
        status.age = Some(age.as_secs() + status.age.unwrap_or_default());
        if since < SLOW {
            return status;
        }
        // Nothing can be made there now.
        (status.free, status.largest) = (Bytes(0), Bytes(0));
    }
    let more = status.problem.map(|p| format!("; {p}")).unwrap_or_default();
    status.problem = Some(format!("has not answered for {} s{more}", since.as_secs()));
    status
}

/// What each of these pools has left for volumes made like this, within a second: nothing where
/// it does not answer.
pub(crate) async fn rooms_known(
    node: &Node,
    pools: &[Arc<dyn Pool>],
    layout: Layout,
    provisioning: Provisioning,
) -> Vec<Capacity> {
    let rooms = pools.iter().map(|pool| async move {
        let key = (pool.name().clone(), layout, provisioning);
        let question = {
            let pool = Arc::clone(pool);
            async move { pool.capacity(layout, provisioning).await }
        };
        match node.looks().rooms.ask(&key, SLOW, question).await {
            Answer::New(room) => room,
            // What there was a moment ago is a better guess than nothing.
            Answer::Old(since, Some((_, room))) if since < SLOW => room,
            Answer::Old(..) => Capacity::default(),
        }
    });
    futures::future::join_all(rooms).await
}

/// The status of a pool that never answered.
fn nothing_known(pool: &Arc<dyn Pool>) -> PoolStatus {
    PoolStatus {
        name: pool.name().clone(),
        kind: pool.kind(),
        location: pool
            .vg()
            .map(|vg| format!("volume group {vg}"))
            .unwrap_or_default(),
        media: None,
        total: Bytes(0),
        free: Bytes(0),
        largest: Bytes(0),
        promised: Bytes(0),
        data_percent: None,
        metadata_percent: None,
        volumes: 0,
        snapshots: 0,
        problem: None,
        age: None,
    }
}
