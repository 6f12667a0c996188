//! Which pool a new volume goes to.

use std::sync::Arc;

use stowage_model::request::{Layout, Placement};
use stowage_model::{Bytes, Error, PoolKind, Result, VolumeRequest};
use stowage_pool::Pool;

use crate::index::Entry;
use crate::local::Inner;

impl Inner {
    /// The pools a placement allows.
    pub(crate) async fn allowed(&self, placement: &Placement) -> Result<Vec<Arc<dyn Pool>>> {
        let mut allowed = Vec::new();
        for pool in self.pools() {
            let fits = placement
                .pool
                .as_ref()
                .is_none_or(|name| name == pool.name())
                && placement.kind.is_none_or(|kind| kind == pool.kind())
                && placement
                    .vg
                    .as_deref()
                    .is_none_or(|vg| pool.vg() == Some(vg));
            let media_fits = match placement.media {
                Some(media) if fits => pool.status().await?.media == Some(media),
                _ => true,
            };
            if fits && media_fits {
                allowed.push(pool);
            }
        }
        Ok(allowed)
    }

    /// The pool for a new volume of `size`: its source's pool where that is allowed, since a copy
    /// may be instant there, otherwise the one with the most room.
    pub(crate) async fn choose(
        &self,
        want: &VolumeRequest,
        size: Bytes,
        source: Option<&Entry>,
    ) -> Result<Arc<dyn Pool>> {
        let mut allowed = self.allowed(&want.placement).await?;
        if want.layout != Layout::Linear {
            allowed.retain(|pool| pool.kind() == PoolKind::Lvm);
        }
        if allowed.is_empty() {
            return Err(self.no_such_pool(&want.placement));
        }
        if let Some(source) = source
            && let Some(same) = allowed.iter().find(|p| p.name() == source.pool.name())
        {
            return Ok(Arc::clone(same));
        }
        if let [only] = allowed.as_slice() {
            return Ok(Arc::clone(only));
        }
        let mut best: Option<(Bytes, Arc<dyn Pool>)> = None;
        for pool in allowed {
            let room = pool.status().await?.largest;
            if best.as_ref().is_none_or(|(most, _)| room > *most) {
                best = Some((room, pool));
            }
        }
        match best {
            Some((room, pool)) if room >= size => Ok(pool),
            Some((room, pool)) => Err(Error::full(format!(
                "no pool has room for {size}: the emptiest, {}, has {room} left; extend a pool or \
                 ask for less",
                pool.name()
            ))),
            None => Err(self.no_such_pool(&want.placement)),
        }
    }

    fn no_such_pool(&self, placement: &Placement) -> Error {
        let here: Vec<String> = self
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
            "there is no pool of {} on this node; pools here: {here}",
            placement.describe()
        ))
    }
}
