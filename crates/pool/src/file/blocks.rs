//! A thick volume keeps its blocks for life. Nothing on its device takes any from its file as far
//! as the kernel lets us say so (`host::loopdev::keep_blocks`), and holes that came all the same
//! are filled again: when it is attached, after its first mount, and by upkeep.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{MutexGuard, PoisonError};

use stowage_host::reflink::{self, Extent};
use stowage_host::{FsError, loopdev};
use stowage_model::volumes::{Finding, Severity, Trouble};
use stowage_model::{Bytes, Id};

use super::Shared;
use super::ledger::Held;
use super::volume::keeps_blocks;
use crate::Found;

/// How often, in rounds of upkeep, it is looked at what is still shared though nothing was shared
/// or removed: volumes part by being written.
const SURVEY_EVERY: u64 = 20;

/// A stretch of blocks of one file that another has too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stretch {
    from: u64,
    to: u64,
    thick: bool,
}

impl Shared {
    pub(super) fn data_of(&self, id: &Id) -> PathBuf {
        self.place(id).join("data")
    }

    /// Look at what every thick volume has, and has for itself, and enter it.
    pub(super) fn survey(&self) {
        self.ledger.take_stale();
        let mut found = BTreeMap::new();
        let mut stretches = Vec::new();
        for (id, size) in self.ledger.thick() {
            // One that goes meanwhile is struck as well.
            match reflink::extents(&self.data_of(&id)) {
                Ok(extents) => {
                    found.insert(id, held(&extents, size));
                    stretches.extend(shared(&extents, true));
                }
                Err(error) => {
                    tracing::debug!(volume.id = %id, %error, "blocks not looked at");
                    found.insert(id.clone(), self.guess(&id, size));
                }
            }
        }
        let credit = match stretches.is_empty() || self.names("trash").is_ok_and(|t| !t.is_empty())
        {
            // What is in the trash keeps its blocks until it is purged.
            true => Bytes(0),
            false => {
                for id in self.ledger.others() {
                    if let Ok(extents) = reflink::extents(&self.data_of(&id)) {
                        stretches.extend(shared(&extents, false));
                    }
                }
                credit(&stretches)
            }
        };
        self.ledger.surveyed(&found, credit);
    }

    /// Where the file system does not tell extents.
    fn guess(&self, id: &Id, size: Bytes) -> Held {
        let shares = self.reflink.get().copied().unwrap_or_default();
        Held {
            missing: size.minus(self.allocated(id)),
            shared: if shares { size } else { Bytes(0) },
        }
    }

    /// Fill the holes of a volume's file. What cannot be filled is told by upkeep, and counts as
    /// promised until then.
    pub(super) fn fill(&self, id: &Id) {
        let data = self.data_of(id);
        match reflink::fill_holes(&data) {
            Ok(filled) => {
                if filled > 0 {
                    tracing::info!(volume.id = %id, bytes = filled, "blocks given back");
                }
                self.ledger.lacks(id, Bytes(0));
            }
            Err(error) => {
                let missing = reflink::hole_bytes(&data).unwrap_or_default();
                self.ledger.lacks(id, Bytes(missing));
                let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
                if told.is_due(&format!("{id}: {error}")) {
                    tracing::warn!(volume.id = %id, %error, missing, "blocks cannot be given back");
                }
            }
        }
    }

    /// At the start: thick volumes that an earlier version made on btrfs.
    pub(super) fn note_copied_on_write(&self, found: &[Found]) {
        let thick = found.iter().filter(|f| keeps_blocks(&f.record));
        let copied =
            thick.filter(|f| reflink::is_in_place(&self.data(&f.record)).is_ok_and(|is| !is));
        let copied = copied.map(|f| f.record.id.clone()).collect();
        *self.copied.lock().unwrap_or_else(PoisonError::into_inner) = copied;
    }

    /// Turn discards of a device off, and remember to give the device back as it was.
    pub(super) fn keep_blocks(&self, device: &Path) -> Result<(), FsError> {
        self.remember_kept(device);
        loopdev::keep_blocks(device)
    }

    pub(super) fn remember_kept(&self, device: &Path) {
        self.kept().insert(device.to_owned());
    }

    /// Whoever gets a loop device after us may discard on it.
    pub(super) fn renew_devices(&self) {
        self.kept()
            .retain(|device| !loopdev::renew(device).unwrap_or(true));
    }

    fn kept(&self) -> MutexGuard<'_, BTreeSet<PathBuf>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Upkeep: fill what was lost, and see who still shares.
    pub(super) fn tend_blocks(&self, round: u64) -> Vec<Finding> {
        self.renew_devices();
        let mut findings = Vec::new();
        let thick = self.ledger.thick();
        for (id, size) in &thick {
            // The block count holds some of the file system's own, so that a small hole may hide
            // in it; the next attach finds that.
            if self.allocated(id) < *size {
                self.fill(id);
            }
        }
        if self.ledger.take_stale()
            || (round.is_multiple_of(SURVEY_EVERY) && self.ledger.owed() > Bytes(0))
        {
            self.survey();
        }
        findings.extend(
            self.ledger
                .lacking()
                .iter()
                .map(|l| self.lacking(&l.0, l.1)),
        );
        findings.extend(self.owed_finding());
        let there: BTreeSet<&Id> = thick.iter().map(|(id, _)| id).collect();
        let mut copied = self.copied.lock().unwrap_or_else(PoisonError::into_inner);
        copied.retain(|id| there.contains(id));
        findings.extend(copied.iter().map(copied_on_write));
        findings
    }

    fn lacking(&self, id: &Id, missing: Bytes) -> Finding {
        Finding {
            severity: Severity::Error,
            trouble: Trouble::PoolFull,
            subject: id.to_string(),
            what: format!(
                "{missing} of this thick volume have no blocks, and pool {} has no room to give \
                 them back; writing there fails",
                self.options.name
            ),
            mend: format!(
                "delete volumes or snapshots, or grow the file system under {}; it is tried again \
                 every few seconds, and no new volume is made before",
                self.options.path.display()
            ),
        }
    }

    fn owed_finding(&self) -> Option<Finding> {
        let space = self.space().ok()?;
        let owed = self.ledger.owed();
        (owed > space.available).then(|| Finding {
            severity: Severity::Error,
            trouble: Trouble::PoolFull,
            subject: self.options.name.to_string(),
            what: format!(
                "thick volumes may need {owed} more, since they share blocks with snapshots or \
                 clones, and only {} is free; they may run out of space",
                space.available
            ),
            mend: format!(
                "delete snapshots, clones or thin volumes, or grow the file system under {}; no \
                 new volume is made before",
                self.options.path.display()
            ),
        })
    }
}

fn copied_on_write(id: &Id) -> Finding {
    Finding {
        severity: Severity::Warning,
        trouble: Trouble::PoolFull,
        subject: id.to_string(),
        what: "this thick volume was made on btrfs by an earlier version: every rewrite needs \
               new blocks, so it can run out of space when its pool is full"
            .to_owned(),
        mend: "clone it (the copy does not have that), use the clone and delete this volume; or \
               keep a tenth of the pool free"
            .to_owned(),
    }
}

fn held(extents: &[Extent], size: Bytes) -> Held {
    let length = |extent: &Extent| {
        let end = extent.at.end.min(size.0);
        Bytes(end.saturating_sub(extent.at.start))
    };
    let has: Bytes = extents.iter().map(length).sum();
    Held {
        missing: size.minus(has),
        shared: extents.iter().filter(|e| e.shared).map(length).sum(),
    }
}

fn shared(extents: &[Extent], thick: bool) -> impl Iterator<Item = Stretch> {
    extents.iter().filter(|e| e.shared).filter_map(move |e| {
        let from = e.place?;
        Some(Stretch {
            from,
            to: from.saturating_add(e.at.end - e.at.start),
            thick,
        })
    })
}

/// How many bytes of blocks only thick volumes share, at least two of them: when all others have
/// been overwritten, the last one has those for itself.
fn credit(stretches: &[Stretch]) -> Bytes {
    let mut marks: Vec<(u64, i64, bool)> = stretches
        .iter()
        .flat_map(|s| [(s.from, 1, s.thick), (s.to, -1, s.thick)])
        .collect();
    marks.sort_unstable();
    let (mut thick, mut others, mut since, mut total) = (0_i64, 0_i64, 0, 0);
    for (at, change, is_thick) in marks {
        if thick > 1 && others == 0 {
            total += at - since;
        }
        since = at;
        match is_thick {
            true => thick += change,
            false => others += change,
        }
    }
    Bytes(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stretch(from: u64, to: u64, thick: bool) -> Stretch {
        Stretch { from, to, thick }
    }

    #[test]
    fn the_last_of_thick_volumes_keeps_what_they_share_unless_another_needs_it() {
        for (stretches, expected) in [
            (vec![], 0),
            (vec![stretch(0, 10, true)], 0),
            (vec![stretch(0, 10, true), stretch(0, 10, true)], 10),
            (vec![stretch(0, 10, true); 3], 10),
            (vec![stretch(0, 10, true), stretch(0, 10, false)], 0),
            (
                vec![
                    stretch(0, 10, true),
                    stretch(4, 12, true),
                    stretch(6, 7, false),
                ],
                5,
            ),
        ] {
            assert_eq!(credit(&stretches), Bytes(expected), "{stretches:?}");
        }
    }
}
