//! What a volume's I/O limits are set on.

use stowage_host::{Devno, blocking, device};
use stowage_model::Result;
use stowage_model::error::Context;

use crate::backing::device::attached;
use crate::state::attachments::Publication;
use crate::state::entry::Entry;

/// The devices through which a consumer reaches the volume.
pub(crate) async fn throttled_devices(
    entry: &Entry,
    publication: &Publication,
) -> Result<Vec<Devno>> {
    let Some(device) = attached(entry).await? else {
        return Ok(Vec::new());
    };
    let reader = publication.block && publication.read_only;
    blocking(move || {
        let failed = || format!("failed to look at {}", device.path.display());
        let mut all = vec![stowage_host::device::devno(&device.path).or_internal(failed)?];
        if reader {
            for path in stowage_host::loopdev::readers(&device.path).or_internal(failed)? {
                all.push(device::devno(&path).or_internal(failed)?);
            }
        }
        Ok(all)
    })
    .await
}
