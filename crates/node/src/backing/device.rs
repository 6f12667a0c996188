//! The device of a volume, while it has one.

use std::sync::Arc;

use stowage_model::{Record, Result};
use stowage_pool::{Attach, Backing, Device, Pool};

use crate::state::entry::Entry;

/// Make the device.
pub(crate) async fn attach(entry: &Entry, how: Attach) -> Result<Device> {
    let Backing::Block(devices) = entry.pool.backing();
    devices.attach(&entry.record, how).await
}

/// The device, where there is one.
pub(crate) async fn attached(entry: &Entry) -> Result<Option<Device>> {
    let Backing::Block(devices) = entry.pool.backing();
    devices.attached(&entry.record).await
}

/// Let the device go, at once; nothing is done where there is none.
pub(crate) async fn detach(pool: &Arc<dyn Pool>, record: &Record) -> Result<()> {
    let Backing::Block(devices) = pool.backing();
    devices.detach(record).await
}
