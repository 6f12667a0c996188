//! Which loop device each volume is on. The kernel tells that of a device and not of a file, so it is
//! noted, and what is noted is seen to be so still whenever it is asked for. Whatever is not noted,
//! or must be the whole truth (before a volume is removed, say), is looked for on all devices.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{MutexGuard, PoisonError};

use stowage_host::{FsError, loopdev};
use stowage_model::error::Context;
use stowage_model::{Error, Id, Record, Result};

use super::Shared;
use super::volume::SECTOR;
use crate::Device;

/// How we attach a volume. Whatever shows its file in another way was attached by somebody else: a file
/// system made there would be one of a part of the file.
const OWN: loopdev::View = loopdev::View {
    whole: true,
    read_only: false,
    block_size: SECTOR,
};

/// The loop devices on a data file.
#[derive(Default)]
pub(super) struct Loops {
    pub(super) own: Vec<PathBuf>,
    foreign: Vec<PathBuf>,
}

impl Loops {
    /// Refuse a volume that somebody else has attached.
    pub(super) fn only_own(&self, record: &Record) -> Result<()> {
        match self.foreign.first() {
            None => Ok(()),
            Some(path) => Err(Error::precondition(format!(
                "the file of {} is attached as {}, which was not done by us; end its use there, \
                 and: losetup --detach {}",
                record.id,
                path.display(),
                path.display()
            ))),
        }
    }
}

impl Shared {
    pub(super) fn attached(&self, record: &Record) -> Result<Option<Device>> {
        let Some(size) = self.length(record)? else {
            return Ok(None);
        };
        let path = match self.seen_on(record)? {
            Some(path) => Some(path),
            None => self.loops(record)?.own.into_iter().next(),
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
        shows(device, &self.data(record))
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

    /// The loop devices on the data file.
    pub(super) fn loops(&self, record: &Record) -> Result<Loops> {
        let failed = || format!("failed to look for the devices of {}", record.id);
        let mut loops = Loops::default();
        for path in loopdev::find(&self.data(record)).or_internal(failed)? {
            match loopdev::view(&path).or_internal(failed)? {
                Some(view) if view == OWN => loops.own.push(path),
                Some(_) => loops.foreign.push(path),
                None => {}
            }
        }
        Ok(loops)
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
            if !thick.contains(&id) || !shows(&device, &self.data_of(&id)).unwrap_or_default() {
                continue;
            }
            if let Err(error) = self.keep_blocks(&device) {
                tracing::warn!(volume.id = %id, %error, "discards reach its file");
            }
        }
    }
}

/// Whether it is ours, and on this file.
fn shows(device: &Path, data: &Path) -> std::result::Result<bool, FsError> {
    Ok(loopdev::is_on(device, data)? && loopdev::view(device)? == Some(OWN))
}
