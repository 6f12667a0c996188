//! Readers: read-only volumes that are no LV but a record in the tags of the snapshot they show.

use stowage_host::failpoint::hit;
use stowage_model::id::Role;
use stowage_model::{Error, Id, Record, Result};

use super::LvmPool;
use super::scan::device_size;
use crate::Turn;
use crate::contract::is_wholly;
use crate::vg::{Lv, names, tags};

/// The snapshot a volume may be reading in place, by the shape of its record. It may as well be a
/// copy (restored from another pool), which then has an LV of its own.
pub(super) fn snapshot_of(record: &Record) -> Option<&Id> {
    let source = record.source.as_ref()?;
    (record.read_only && !record.is_snapshot() && source.role() == Role::Snapshot).then_some(source)
}

/// The record of a reader of this snapshot, or why it cannot be read.
fn readable(there: &Lv, id: &Id) -> Option<Result<Record>> {
    let mut readers = tags::readers(&there.tags).into_iter();
    readers.find_map(|(reader, record)| (reader == id.as_str()).then_some(record))
}

impl LvmPool {
    /// The LV through which a volume or snapshot is reached.
    pub(super) async fn lv_of(&self, record: &Record) -> Result<String> {
        let own = names::of(&record.id);
        let Some(snapshot) = snapshot_of(record) else {
            return Ok(own);
        };
        let report = self.vg.glance().await?;
        Ok(if report.lv(&own).is_some() {
            own
        } else {
            names::of(snapshot)
        })
    }

    /// Refuse a snapshot that overflowed, or a reader of one. Nothing else is looked at.
    pub(super) async fn not_lost(&self, record: &Record) -> Result<()> {
        if !record.is_snapshot() && snapshot_of(record).is_none() {
            return Ok(());
        }
        let lv = self.lv_of(record).await?;
        let report = self.vg.glance().await?;
        match report.lv(&lv).is_some_and(Lv::is_lost) {
            false => Ok(()),
            true => Err(self.overflowed(&lv)),
        }
    }

    fn overflowed(&self, lv: &str) -> Error {
        Error::precondition(format!(
            "the store of snapshot LV {} overflowed, and what it kept is lost; delete it and the \
             volumes that read it",
            self.vg.path(lv)
        ))
    }

    pub(super) async fn add_reader(
        &self,
        _turn: &Turn,
        source: &Record,
        new: &Record,
        size: stowage_model::Bytes,
    ) -> Result<stowage_model::Bytes> {
        if snapshot_of(new) != Some(&source.id) {
            return Err(Error::unsupported(format!(
                "pool {} keeps thick volumes: only a read-only volume is made from a snapshot \
                 without copying",
                self.vg.pool()
            )));
        }
        let lv = names::of(&source.id);
        let report = self.vg.report().await?;
        let Some(there) = report.lv(&lv).filter(|lv| lv.is_cow()) else {
            return Err(Error::not_found(format!(
                "there is no snapshot {}",
                source.id
            )));
        };
        if there.is_lost() {
            return Err(self.overflowed(&lv));
        }
        let real = device_size(there);
        if size > real {
            return Err(Error::out_of_range(format!(
                "a read-only volume shows snapshot {} in place and is exactly as large, {real}; \
                 {size} were asked",
                source.id
            )));
        }
        match readable(there, &new.id) {
            None => {}
            Some(Ok(found)) if is_wholly(&found, new) => return Ok(real),
            Some(found) => {
                let why = found.map_or_else(
                    |e| e.chain(),
                    |found| format!("it was made {}", found.created),
                );
                return Err(Error::exists(format!(
                    "snapshot LV {} has another reader {}: {why}",
                    self.vg.path(&lv),
                    new.id
                )));
            }
        }
        self.vg.takes_more(&report)?;
        hit("lvm.reader.begin");
        self.vg.retag(&lv, &[], &tags::of_reader(new)?).await?;
        hit("lvm.reader.made");
        Ok(real)
    }

    /// Take a reader's record off its snapshot; one that is not there is success.
    pub(super) async fn drop_reader(&self, record: &Record, snapshot: &Id) -> Result<()> {
        let lv = names::of(snapshot);
        let report = self.vg.report().await?;
        let Some(there) = report.lv(&lv) else {
            return Ok(());
        };
        match readable(there, &record.id) {
            None => return Ok(()),
            Some(Ok(found)) if is_wholly(&found, record) => {}
            Some(_) => {
                return Err(Error::precondition(format!(
                    "the reader {} of snapshot LV {} is not the one to be removed, and is kept",
                    record.id,
                    self.vg.path(&lv)
                )));
            }
        }
        let old: Vec<_> = tags::reader_part(&there.tags, &record.id)
            .cloned()
            .collect();
        self.vg.retag(&lv, &old, &[]).await
    }
}
