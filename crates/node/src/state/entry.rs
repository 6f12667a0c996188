//! One volume or snapshot, as it is known.

use std::sync::Arc;

use stowage_model::{Bytes, Error, Record, Result};
use stowage_pool::{Device, Pool};

/// One volume or snapshot.
#[derive(Clone)]
pub(crate) struct Entry {
    pub(crate) record: Record,
    pub(crate) size: Bytes,
    pub(crate) pool: Arc<dyn Pool>,
    /// mkfs was interrupted on it: it was blank before, so what is there may be overwritten.
    pub(crate) half_formatted: bool,
}

impl Entry {
    pub(crate) fn new(record: Record, size: Bytes, pool: Arc<dyn Pool>) -> Self {
        Self {
            record,
            size,
            pool,
            half_formatted: false,
        }
    }

    /// Whether all of its record is known, so that something may be done with it.
    ///
    /// # Errors
    /// [`stowage_model::Kind::Unavailable`] with what is not, and the way out.
    pub(crate) fn understood(&self) -> Result<()> {
        match &self.record.beyond {
            None => Ok(()),
            Some(why) => Err(Error::unavailable(format!(
                "{} is kept as it is and cannot be served: {why}; run the version of this program \
                 that made it",
                self.title()
            ))),
        }
    }

    /// Whether the file system is smaller than its device: the volume grew, or was restored into
    /// a larger one. A file system whose size was never noted (made by a raw volume's consumer)
    /// is left to its maker, and one that is only read stays as it is.
    pub(crate) fn outgrown(&self, device: &Device) -> bool {
        let known = self.record.fs_bytes;
        !self.record.read_only && known != Bytes(0) && known < device.size
    }

    /// "volume pvc-1 (v-00…)", for messages.
    pub(crate) fn title(&self) -> String {
        let role = if self.record.is_snapshot() {
            "snapshot"
        } else {
            "volume"
        };
        format!(
            "{role} {:?} ({})",
            self.record.name.to_string(),
            self.record.id
        )
    }
}
