//! What a file pool has promised. Free space as the file system tells it is not enough: a thick
//! volume that shares blocks with a snapshot or clone needs new ones when it is overwritten, one
//! that lost blocks wants them back, and thin volumes have been promised more than they have taken.
//!
//! The book is kept in memory, so that a creation asks the file system one thing, whatever the
//! number of volumes. What the files themselves tell is entered by [`Ledger::surveyed`]; between
//! two surveys the book may say that more is owed than is, and never less: what thick volumes
//! share grows by our own doing only.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use stowage_model::request::Provisioning;
use stowage_model::{Bytes, Error, Id, Record, Reserve, Result};

/// One file.
#[derive(Debug, Clone)]
struct Line {
    size: Bytes,
    /// All its blocks are its own for life, so what it lacks is owed to it.
    thick: bool,
    snapshot: bool,
    /// Of a thick volume: bytes without blocks.
    missing: Bytes,
    /// Of a thick volume: bytes whose blocks other files have too.
    shared: Bytes,
}

/// Space as the file system under the pool tells it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Space {
    pub(super) total: Bytes,
    pub(super) available: Bytes,
}

/// What a new file, or the growth of one, comes to.
#[derive(Debug, Clone, Copy)]
pub(super) enum Want<'a> {
    /// So many bytes more for a volume like this.
    Own(Provisioning, Bytes),
    /// A file of this size that shares the blocks of another.
    Share {
        source: &'a Record,
        new: &'a Record,
        size: Bytes,
    },
}

#[derive(Default)]
struct Book {
    lines: BTreeMap<Id, Line>,
    /// Of blocks that thick volumes share among themselves alone, one of them keeps what is there.
    credit: Bytes,
    /// What is being allocated, and what is being promised.
    in_flight: Claim,
    /// Something was shared or removed since the last survey.
    stale: bool,
}

/// What a file takes: blocks for certain, and a promise.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Claim {
    blocks: Bytes,
    promise: Bytes,
}

/// What a survey found about one thick volume.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) missing: Bytes,
    pub(super) shared: Bytes,
}

/// The promises of one pool.
pub(super) struct Ledger {
    overprovision: f64,
    reserve: Reserve,
    book: Mutex<Book>,
}

/// Space set aside while a file is being allocated.
pub(super) struct Reserved<'a> {
    ledger: &'a Ledger,
    claim: Claim,
}

impl Ledger {
    pub(super) fn new(overprovision: f64, reserve: Reserve) -> Self {
        Self {
            overprovision,
            reserve,
            book: Mutex::default(),
        }
    }

    /// Enter a file, or the new size of one.
    pub(super) fn enter(&self, record: &Record, size: Bytes) {
        self.lock().enter(record, size);
    }

    /// Enter a file made of the blocks of `source`.
    pub(super) fn enter_shared(&self, source: &Record, new: &Record, size: Bytes) {
        let mut book = self.lock();
        book.enter(new, size);
        book.stale = true;
        let new_is_thick = book.lines.get(&new.id).is_some_and(Line::is_owed);
        let Some(line) = book.lines.get_mut(&source.id) else {
            return;
        };
        let length = line.size.min(size);
        if line.is_owed() {
            let more = line.size.minus(line.shared);
            line.shared = line.size;
            match new_is_thick {
                true => book.credit = book.credit + more,
                // It keeps the blocks as they are, and may lie in any family of thick ones.
                false => book.credit = Bytes(0),
            }
        }
        if let Some(line) = book.lines.get_mut(&new.id).filter(|l| l.is_owed()) {
            line.shared = length;
        }
    }

    pub(super) fn strike(&self, id: &Id) {
        let mut book = self.lock();
        if let Some(line) = book.lines.remove(id) {
            // What it shared is still there until it is purged.
            book.credit = book.credit.minus(line.size);
            book.stale = true;
        }
    }

    /// Something that shared blocks is gone: the next survey may find less owed.
    pub(super) fn parted(&self) {
        self.lock().stale = true;
    }

    /// Everything entered.
    pub(super) fn ids(&self) -> BTreeSet<Id> {
        self.lock().lines.keys().cloned().collect()
    }

    /// The thick volumes and their sizes.
    pub(super) fn thick(&self) -> Vec<(Id, Bytes)> {
        let book = self.lock();
        let owed = book.lines.iter().filter(|(_, line)| line.is_owed());
        owed.map(|(id, line)| (id.clone(), line.size)).collect()
    }

    /// All other files.
    pub(super) fn others(&self) -> Vec<Id> {
        let book = self.lock();
        let others = book.lines.iter().filter(|(_, line)| !line.is_owed());
        others.map(|(id, _)| id.clone()).collect()
    }

    /// Whether a survey may find less owed than the book says; the next call says no.
    pub(super) fn take_stale(&self) -> bool {
        std::mem::take(&mut self.lock().stale)
    }

    /// Enter what a survey found. What was shared meanwhile stays as it was entered.
    pub(super) fn surveyed(&self, found: &BTreeMap<Id, Held>, credit: Bytes) {
        let mut book = self.lock();
        let shared_meanwhile = book.stale;
        for (id, held) in found {
            if let Some(line) = book.lines.get_mut(id) {
                line.missing = held.missing;
                if !shared_meanwhile {
                    line.shared = held.shared;
                }
            }
        }
        if !shared_meanwhile {
            book.credit = credit;
        }
    }

    /// Note what a thick volume lacks.
    pub(super) fn lacks(&self, id: &Id, missing: Bytes) {
        if let Some(line) = self.lock().lines.get_mut(id) {
            line.missing = missing;
        }
    }

    /// The thick volumes that lack blocks, and how much.
    pub(super) fn lacking(&self) -> Vec<(Id, Bytes)> {
        let book = self.lock();
        let owed = book.lines.iter().filter(|(_, line)| line.is_owed());
        let lacking = owed.filter(|(_, line)| line.missing > Bytes(0));
        lacking
            .map(|(id, line)| (id.clone(), line.missing))
            .collect()
    }

    /// What thick volumes may still take from the file system.
    pub(super) fn owed(&self) -> Bytes {
        self.lock().owed()
    }

    /// Sum of the sizes of all volumes.
    pub(super) fn promised(&self) -> Bytes {
        self.lock().promised()
    }

    /// What a new file may take, or may be promised.
    pub(super) fn room(&self, provisioning: Provisioning, space: Space) -> Bytes {
        let (kept, may) = self.kept_and_offered(space);
        self.lock().room(provisioning, space, kept, may)
    }

    /// What is set aside, and what of the rest may be promised to thin volumes.
    fn kept_and_offered(&self, space: Space) -> (Bytes, Bytes) {
        let kept = self.reserve.of(space.total);
        (kept, scaled(space.total.minus(kept), self.overprovision))
    }

    /// Set aside the blocks that a thick file takes or may come to take, and what may be promised
    /// to a thin one.
    ///
    /// # Errors
    /// [`stowage_model::Kind::Full`].
    pub(super) fn reserve(&self, want: Want<'_>, space: Space, pool: &str) -> Result<Reserved<'_>> {
        let mut book = self.lock();
        let (kept, may) = self.kept_and_offered(space);
        let (claim, thin) = book.claim(want);
        let full = |asked: Bytes, left: Bytes| {
            Error::full(format!(
                "pool {pool} is full: {asked} asked, {left} left; delete volumes or snapshots, or \
                 grow its file system"
            ))
        };
        let free = book.room(Provisioning::Thick, space, kept, may);
        if claim.blocks > free {
            return Err(full(claim.blocks, free));
        }
        if thin {
            let space = Space {
                available: space.available.minus(claim.blocks),
                ..space
            };
            let left = book.room(Provisioning::Thin, space, kept, may);
            if claim.promise > left {
                return Err(full(claim.promise, left));
            }
        }
        book.in_flight = book.in_flight.plus(claim);
        Ok(Reserved {
            ledger: self,
            claim,
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Line {
    fn is_owed(&self) -> bool {
        self.thick && !self.snapshot
    }
}

impl Book {
    fn enter(&mut self, record: &Record, size: Bytes) {
        let line = self.lines.entry(record.id.clone()).or_insert_with(|| Line {
            size,
            thick: false,
            snapshot: record.is_snapshot(),
            missing: Bytes(0),
            shared: Bytes(0),
        });
        line.size = size;
        line.thick = record.provisioning == Provisioning::Thick;
    }

    fn promised(&self) -> Bytes {
        let volumes = self.lines.values().filter(|line| !line.snapshot);
        volumes.map(|line| line.size).sum()
    }

    /// What thick volumes may need of blocks that they do not have for themselves.
    fn shared(&self) -> Bytes {
        let owed = self.lines.values().filter(|line| line.is_owed());
        let shared: Bytes = owed.map(|line| line.shared).sum();
        shared.minus(self.credit)
    }

    fn owed(&self) -> Bytes {
        let owed = self.lines.values().filter(|line| line.is_owed());
        let missing: Bytes = owed.map(|line| line.missing).sum();
        missing + self.shared()
    }

    /// What this takes, and whether it is a thin file, of which the promise counts.
    fn claim(&self, want: Want<'_>) -> (Claim, bool) {
        match want {
            Want::Own(provisioning, more) => {
                let thick = provisioning == Provisioning::Thick;
                let claim = Claim {
                    blocks: if thick { more } else { Bytes(0) },
                    promise: more,
                };
                (claim, !thick)
            }
            // Every block of the source gets one more thick owner, whoever has it besides.
            Want::Share {
                source: _,
                new,
                size,
            } if !new.is_snapshot() && new.provisioning == Provisioning::Thick => {
                let claim = Claim {
                    blocks: size,
                    promise: size,
                };
                (claim, false)
            }
            Want::Share { source, new, size } => {
                let line = self.lines.get(&source.id).filter(|l| l.is_owed());
                // A thick source has nothing for itself afterwards.
                let blocks = line.map_or(Bytes(0), |l| l.size.minus(l.shared) + self.credit);
                let thin = !new.is_snapshot() || source.provisioning == Provisioning::Thin;
                let promise = if thin { size } else { Bytes(0) };
                (Claim { blocks, promise }, thin)
            }
        }
    }

    /// A thin file takes nothing at first, so it is what `may` be promised that counts, less what
    /// thick ones need beside their size, until the last twentieth of the space: that is for what
    /// was promised already.
    fn room(&self, provisioning: Provisioning, space: Space, kept: Bytes, may: Bytes) -> Bytes {
        let free = space
            .available
            .minus(self.owed())
            .minus(self.in_flight.blocks);
        match provisioning {
            Provisioning::Thick => free.minus(kept),
            Provisioning::Thin if free <= kept || free.0 < space.total.0 / 20 => Bytes(0),
            Provisioning::Thin => {
                let promised = self.promised() + self.in_flight.promise;
                may.minus(promised).minus(self.shared())
            }
        }
    }
}

impl Claim {
    fn plus(self, other: Self) -> Self {
        Self {
            blocks: self.blocks + other.blocks,
            promise: self.promise + other.promise,
        }
    }

    fn minus(self, other: Self) -> Self {
        Self {
            blocks: self.blocks.minus(other.blocks),
            promise: self.promise.minus(other.promise),
        }
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        let mut book = self.ledger.lock();
        book.in_flight = book.in_flight.minus(self.claim);
    }
}

fn scaled(total: Bytes, ratio: f64) -> Bytes {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an estimate; the cast saturates"
    )]
    Bytes((total.0 as f64 * ratio) as u64)
}
