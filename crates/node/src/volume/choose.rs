//! Which pool a new volume goes to.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use stowage_model::request::{Layout, Placement, Provisioning};
use stowage_model::volumes::{Capacity, PoolStatus};
use stowage_model::{Bytes, Error, PoolKind, Result, VolumeSpec};
use stowage_pool::Pool;

use crate::state::Node;
use crate::state::entry::Entry;

/// How long a pool is waited for when others may do as well: a look at one on a hung disk takes
/// much longer, and volumes must not all wait for it.
const PATIENCE: Duration = Duration::from_secs(3);

/// What each of these pools has left for volumes made like this; none where it does not answer.
async fn rooms(
    pools: Vec<Arc<dyn Pool>>,
    layout: Layout,
    provisioning: Provisioning,
) -> Vec<(Arc<dyn Pool>, Capacity)> {
    join_all(pools.into_iter().map(|pool| async move {
        let room = answer(&pool, pool.capacity(layout, provisioning)).await;
        (pool, room.unwrap_or_default())
    }))
    .await
}

/// What a pool answers, unless it takes too long.
pub(crate) async fn answer<T>(pool: &Arc<dyn Pool>, look: impl Future<Output = T>) -> Option<T> {
    let looked = tokio::time::timeout(PATIENCE, look).await;
    if looked.is_err() {
        tracing::warn!(pool.name = %pool.name(), "the pool does not answer; others are preferred");
    }
    looked.ok()
}

/// The pools that a placement and a layout allow, whatever they lie on.
pub(crate) fn placed(node: &Node, placement: &Placement, layout: Layout) -> Vec<Arc<dyn Pool>> {
    let mut placed = node.pools();
    placed.retain(|pool| {
        let name = placement.pool.as_ref();
        name.is_none_or(|name| name == pool.name())
            && placement.kind.is_none_or(|kind| kind == pool.kind())
            && (placement.vg.is_none() || placement.vg.as_deref() == pool.vg())
            && (layout == Layout::Linear || pool.kind() == PoolKind::Lvm)
    });
    placed
}

/// The pools that a placement and a layout allow. One that could not be read is among them
/// whatever its medium seems to be (a mount point without its file system lies on another
/// disk): a volume made there by the same request may be in it.
pub(crate) async fn allowed(
    node: &Node,
    placement: &Placement,
    layout: Layout,
) -> Vec<Arc<dyn Pool>> {
    let allowed = placed(node, placement, layout);
    let Some(media) = placement.media else {
        return allowed;
    };
    let looked = join_all(allowed.iter().map(|pool| answer(pool, pool.status()))).await;
    let medium = |status: &Option<Result<PoolStatus>>| status.as_ref()?.as_ref().ok()?.media;
    let found = allowed.into_iter().zip(looked);
    found
        .filter(|(pool, status)| {
            node.unread().is_unread(pool.name()) || medium(status) == Some(media)
        })
        .map(|(pool, _)| pool)
        .collect()
}

/// The one of the allowed pools for a new volume of `size`: its source's pool where that is
/// allowed, since a copy may be instant there, otherwise the one with the most room.
pub(crate) async fn choose(
    node: &Node,
    allowed: Vec<Arc<dyn Pool>>,
    want: &VolumeSpec,
    size: Bytes,
    source: Option<&Entry>,
) -> Result<Arc<dyn Pool>> {
    if let Some(source) = source
        && let Some(same) = allowed.iter().find(|p| p.name() == source.pool.name())
    {
        return Ok(Arc::clone(same));
    }
    if let [only] = allowed.as_slice() {
        return Ok(Arc::clone(only));
    }
    // Of equal ones the first by name.
    let best = rooms(allowed, want.layout, want.provisioning)
        .await
        .into_iter()
        .map(|(pool, room)| (room.largest, pool))
        .rev()
        .max_by_key(|(room, _)| *room);
    match best {
        Some((room, pool)) if room >= size => Ok(pool),
        Some((room, pool)) => Err(Error::full(format!(
            "no pool has room for {size}: the emptiest, {}, has {room} left; extend a pool or \
             ask for less",
            pool.name()
        ))),
        None => Err(no_such_pool(node, &want.placement, want.layout)),
    }
}

fn no_such_pool(node: &Node, placement: &Placement, layout: Layout) -> Error {
    let (asked, way_out) = match layout {
        Layout::Linear => (String::new(), ""),
        // Pools of other kinds are not meant, be they named or not.
        layout => (
            format!("of kind lvm, as layout {} needs, and ", layout.as_str()),
            "; leave the layout out, or name an lvm pool",
        ),
    };
    let here: Vec<String> = node
        .pools()
        .iter()
        .map(|p| format!("{} ({})", p.name(), p.kind()))
        .collect();
    let here = if here.is_empty() {
        "none".to_owned()
    } else {
        here.join(", ")
    };
    Error::invalid(format!(
        "there is no pool {asked}of {} on this node; pools here: {here}{way_out}",
        placement.describe()
    ))
}
