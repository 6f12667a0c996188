//! Which loop device each volume is on. The kernel tells that of a device and not of a file, so it is
//! noted, and what is noted is seen to be so still whenever it is asked for. Whatever is not noted,
//! or must be the whole truth (before a volume is removed, say), is looked for on all devices.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{MutexGuard, PoisonError};

use stowage_host::loopdev;
use stowage_model::error::Context;
use stowage_model::{Id, Record, Result};

use super::Shared;
use crate::Device;

impl Shared {
    pub(super) fn attached(&self, record: &Record) -> Result<Option<Device>> {
        let Some(size) = self.length(record)? else {
            return Ok(None);
        };
        let path = match self.seen_on(record)? {
            Some(path) => Some(path),
            None => self.loops(record)?.into_iter().next(),
        };
        Ok(path.map(|path| {
            self.note_device(&record.id, &path);
            Device::new(path, size)
        }))
    }

    /// The device that was noted for a volume, if it still is on it. Asked for every volume in use
    /// at a start, so the other devices of the machine are not looked at.
    fn seen_on(&self, record: &Record) -> Result<Option<PathBuf>> {
        let noted = self.devices().get(&record.id).cloned();
        match noted {
            Some(path) if self.is_on(&path, record)? => Ok(Some(path)),
            Some(_) => {
                self.forget_device(&record.id);
                Ok(None)
            }
            None => Ok(None),
        }
    }

    pub(super) fn is_on(&self, device: &Path, record: &Record) -> Result<bool> {
        loopdev::is_on(device, &self.data(record))
            .or_internal(|| format!("failed to look for the devices of {}", record.id))
    }

    pub(super) fn note_device(&self, id: &Id, device: &Path) {
        self.devices().insert(id.clone(), device.to_owned());
    }

    pub(super) fn forget_device(&self, id: &Id) {
        self.devices().remove(id);
    }

    fn devices(&self) -> MutexGuard<'_, BTreeMap<Id, PathBuf>> {
        self.devices.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The writable loop devices on the data file.
    pub(super) fn loops(&self, record: &Record) -> Result<Vec<PathBuf>> {
        loopdev::find(&self.data(record))
            .or_internal(|| format!("failed to look for the devices of {}", record.id))
    }

    /// At the start: note what is attached, in one look at all loop devices, and turn discards off
    /// for thick volumes that a daemon attached which did not.
    pub(super) fn see_attached(&self) {
        let Ok(all) = loopdev::all() else { return };
        let known = self.ledger.ids();
        let thick: BTreeSet<Id> = self.ledger.thick().into_iter().map(|(id, _)| id).collect();
        for (device, backing) in all {
            let mut parts = backing.iter().rev();
            let (file, name) = (parts.next(), parts.next());
            let id = name.and_then(|n| n.to_str()?.parse::<Id>().ok());
            let Some(id) = id.filter(|id| known.contains(id)) else {
                continue;
            };
            if file.is_none_or(|f| f != "data") {
                continue;
            }
            // Not opened here: one that is dying would keep the whole pool from being read.
            self.note_device(&id, &device);
            if !thick.contains(&id)
                || !loopdev::is_on(&device, &self.data_of(&id)).unwrap_or_default()
            {
                continue;
            }
            if let Err(error) = self.keep_blocks(&device) {
                tracing::warn!(volume.id = %id, %error, "discards reach its file");
            }
        }
    }
}
