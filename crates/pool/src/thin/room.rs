//! How much may still be promised, and whether anything new may be made at all.

use std::sync::{Arc, MutexGuard, PoisonError};

use stowage_model::{Bytes, Error, Result};

use super::ThinPool;
use super::tend::is_calm;
use crate::vg::sort::{Sort, sort};
use crate::vg::{Lv, Report};

/// The room of a thin pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Room {
    /// Sizes of all volumes.
    pub(super) promised: Bytes,
    /// What may be promised on top.
    pub(super) free: Bytes,
}

impl ThinPool {
    pub(super) fn room(&self, report: &Report, pool: &Lv) -> Room {
        let promised = self
            .members(report)
            .filter(|lv| counts(lv))
            .map(|lv| lv.size)
            .sum();
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a factor given by a person is not exact to the byte; `as` saturates"
        )]
        let promisable = Bytes((self.offered(pool).0 as f64 * self.options.overprovision) as u64);
        let free = match self.filled(pool) {
            _ if report.vg.metadata.is_full() => Bytes(0),
            Some(_) => Bytes(0),
            None => promisable.minus(promised).round_down(report.vg.extent),
        };
        Room { promised, free }
    }

    /// All of the pool but for what is set aside.
    fn offered(&self, pool: &Lv) -> Bytes {
        pool.size.minus(self.options.reserve.of(pool.size))
    }

    /// Why nothing new may be made, whatever was promised.
    fn filled(&self, pool: &Lv) -> Option<String> {
        let offered = self.offered(pool);
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a fill level is good to two decimals at best"
        )]
        let used = Bytes((pool.size.0 as f64 * pool.data_percent.unwrap_or(0.0) / 100.0) as u64);
        if offered < pool.size && used >= offered {
            return Some(format!(
                "the data of thin pool {} have reached the {} that are set aside",
                self.location(),
                self.options.reserve
            ));
        }
        [
            ("data", pool.data_percent, self.options.data_limit),
            (
                "metadata",
                pool.metadata_percent,
                self.options.metadata_limit,
            ),
        ]
        .into_iter()
        .find_map(|(what, percent, limit)| {
            let percent = percent.filter(|percent| *percent >= f64::from(limit))?;
            Some(format!(
                "the {what} of thin pool {} are filled to {percent:.0} %, its limit is {limit} %",
                self.location()
            ))
        })
    }

    /// The pool as it was last looked at, if it was far from full then, and what was promised
    /// since.
    pub(super) fn known(&self) -> Option<(Arc<Report>, Bytes)> {
        let last = self.vg.recall()?;
        // Neither is known any more after many changes: the group's metadata fill as well.
        if !self.vg.is_roomy() {
            return None;
        }
        if !self.thin_pool(&last).is_ok_and(is_calm) {
            return None;
        }
        let since = self.promised_since(&last).1;
        Some((last, since))
    }

    /// What was promised since this look.
    fn promised_since(&self, last: &Arc<Report>) -> MutexGuard<'_, (Option<Arc<Report>>, Bytes)> {
        let mut since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        if !since.0.as_ref().is_some_and(|of| Arc::ptr_eq(of, last)) {
            *since = (Some(Arc::clone(last)), Bytes(0));
        }
        since
    }

    /// Count what was promised to a new volume, a clone or one that grew: the last look, which the
    /// next creation may go by, does not show it. One taken since may; then it counts twice, until
    /// the next.
    pub(super) fn promise(&self, size: Bytes) {
        if let Some(last) = self.vg.recall() {
            let mut since = self.promised_since(&last);
            since.1 = since.1 + size;
        }
    }

    /// Refuse what would promise or fill too much. A snapshot promises nothing.
    ///
    /// # Errors
    /// [`stowage_model::Kind::Full`] naming the pool, what is left and what was asked.
    pub(super) fn has_room(&self, report: &Report, asked: Bytes) -> Result<()> {
        self.vg.takes_more(report)?;
        let pool = self.thin_pool(report)?;
        self.zeroing(pool)?;
        let name = &self.options.name;
        if let Some(filled) = self.filled(pool) {
            return Err(Error::full(format!(
                "pool {name} has no room: {filled}; delete something or extend it"
            )));
        }
        let room = self.room(report, pool);
        if asked > room.free {
            return Err(Error::full(format!(
                "pool {name} has no room: {asked} asked, {} may still be promised ({} of {} times \
                 {} are)",
                room.free,
                room.promised,
                self.options.overprovision,
                self.offered(pool)
            )));
        }
        Ok(())
    }
}

/// Whether a member's size is promised to someone. Foreign ones count: they can fill the pool.
fn counts(lv: &Lv) -> bool {
    match sort(lv, false) {
        Sort::Ours(record) => !record.is_snapshot(),
        Sort::Leftover => false,
        Sort::Unreadable(_) | Sort::Foreign => true,
    }
}
