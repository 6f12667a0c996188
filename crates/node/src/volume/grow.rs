//! Growing volumes and changing their I/O limits.

use std::sync::Arc;

use stowage_host::failpoint;
use stowage_model::request::SizeRange;
use stowage_model::volumes::{Grown, Volume};
use stowage_model::{Error, Id, LimitsChange, Result};

use crate::lookup::{filled, shown, usable_volume};
use crate::records::save;
use crate::state::Node;
use crate::throttle::throttle_all;

pub(crate) async fn grow_volume(node: &Arc<Node>, id: &Id, size: SizeRange) -> Result<Grown> {
    let _held = node.ops().begin(id, "growth").await?;
    let mut entry = usable_volume(node, id)?;
    let file_system_pending = entry.record.usage.mount.is_some();
    if entry.size >= size.required {
        let rounded = entry.pool.rounded(&entry.record, size.required).await?;
        return match size.limit {
            Some(limit) if limit < entry.size => Err(Error::out_of_range(format!(
                "{} is {} already, above the limit {limit}; volumes cannot shrink",
                entry.title(),
                entry.size
            ))),
            _ => Ok(Grown {
                size: entry.size,
                was_larger: entry.size > rounded,
                file_system_pending,
            }),
        };
    }
    filled(node, &entry)?;
    if entry.record.read_only {
        return Err(Error::precondition(format!(
            "{} only reads a snapshot and cannot grow; restore the snapshot into a writable \
             volume instead",
            entry.title()
        )));
    }
    let target = entry.pool.rounded(&entry.record, size.required).await?;
    if size.limit.is_some_and(|limit| target > limit) {
        return Err(Error::out_of_range(format!(
            "pool {} gives sizes in steps: {} becomes {target}, above the limit asked",
            entry.pool.name(),
            size.required
        )));
    }
    failpoint::hit("node.grow.begun");
    entry.size = entry.pool.grow(&entry.record, target).await?;
    failpoint::hit("node.grow.done");
    node.index().put(entry.clone());
    Ok(Grown {
        size: entry.size,
        was_larger: false,
        file_system_pending,
    })
}

pub(crate) async fn change_limits(
    node: &Arc<Node>,
    id: &Id,
    change: LimitsChange,
) -> Result<Volume> {
    let _held = node.ops().begin(id, "change of limits").await?;
    let mut entry = usable_volume(node, id)?;
    let limits = change.applied_to(entry.record.limits);
    if limits != entry.record.limits {
        entry.record.limits = limits;
        failpoint::hit("node.limit.begun");
        save(node, &entry).await?;
        failpoint::hit("node.limit.saved");
    }
    throttle_all(node, &entry).await?;
    Ok(shown(node, entry))
}
