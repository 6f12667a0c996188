//! What a file pool has promised. Free space as the file system tells it is not enough: a thick
//! volume that shares blocks with a snapshot or clone needs new ones when it is overwritten, one
//! whose consumer discarded blocks (mkfs, fstrim) may want them back, and thin volumes have been
//! promised more than they have taken.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use stowage_model::request::Provisioning;
use stowage_model::{Bytes, Error, Id, Record, Reserve, Result};

/// One file.
#[derive(Debug, Clone)]
struct Line {
    size: Bytes,
    source: Option<Id>,
    thick: bool,
    snapshot: bool,
}

/// Space as the file system under the pool tells it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Space {
    pub(super) total: Bytes,
    pub(super) available: Bytes,
}

/// How much of a volume's file has blocks.
pub(super) type Allocated<'a> = &'a dyn Fn(&Id) -> Bytes;

#[derive(Default)]
struct Book {
    lines: BTreeMap<Id, Line>,
    /// Thick volumes whose blocks are being allocated.
    in_flight: Bytes,
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
    size: Bytes,
}

impl Ledger {
    pub(super) fn new(overprovision: f64, reserve: Reserve) -> Self {
        Self {
            overprovision,
            reserve,
            book: Mutex::default(),
        }
    }

    pub(super) fn enter(&self, record: &Record, size: Bytes) {
        let line = Line {
            size,
            source: record.source.clone(),
            thick: record.provisioning == Provisioning::Thick,
            snapshot: record.is_snapshot(),
        };
        self.lock().lines.insert(record.id.clone(), line);
    }

    pub(super) fn strike(&self, id: &Id) {
        self.lock().lines.remove(id);
    }

    /// Sum of the sizes of all volumes.
    pub(super) fn promised(&self) -> Bytes {
        self.lock().promised()
    }

    /// What a new file may take, or may be promised.
    pub(super) fn room(
        &self,
        provisioning: Provisioning,
        space: Space,
        allocated: Allocated<'_>,
    ) -> Bytes {
        let (kept, may) = self.kept_and_offered(space);
        self.lock().room(provisioning, space, allocated, kept, may)
    }

    /// What is set aside, and what of the rest may be promised to thin volumes.
    fn kept_and_offered(&self, space: Space) -> (Bytes, Bytes) {
        let kept = self.reserve.of(space.total);
        (kept, scaled(space.total.minus(kept), self.overprovision))
    }

    /// Set aside `more` bytes for a thick file, or check that `more` may be promised to a thin
    /// one.
    ///
    /// # Errors
    /// [`stowage_model::Kind::Full`].
    pub(super) fn reserve(
        &self,
        provisioning: Provisioning,
        more: Bytes,
        space: Space,
        allocated: Allocated<'_>,
        pool: &str,
    ) -> Result<Reserved<'_>> {
        let mut book = self.lock();
        let (kept, may) = self.kept_and_offered(space);
        let left = book.room(provisioning, space, allocated, kept, may);
        if more > left {
            return Err(Error::full(format!(
                "pool {pool} is full: {more} asked, {left} left; delete volumes or snapshots, or \
                 grow its file system"
            )));
        }
        let size = match provisioning {
            Provisioning::Thick => more,
            Provisioning::Thin => Bytes(0),
        };
        book.in_flight = book.in_flight + size;
        Ok(Reserved { ledger: self, size })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
    fn promised(&self) -> Bytes {
        let volumes = self.lines.values().filter(|line| !line.snapshot);
        volumes.map(|line| line.size).sum()
    }

    /// A thin file takes nothing at first, so it is what `may` be promised that counts, until the
    /// last twentieth of the space: that is for what was promised already.
    fn room(
        &self,
        provisioning: Provisioning,
        space: Space,
        allocated: Allocated<'_>,
        kept: Bytes,
        may: Bytes,
    ) -> Bytes {
        let free = self.free(space, allocated);
        match provisioning {
            Provisioning::Thick => free.minus(kept),
            Provisioning::Thin if free <= kept || free.0 < space.total.0 / 20 => Bytes(0),
            Provisioning::Thin => may.minus(self.promised()),
        }
    }

    /// What the file system has left, less what thick volumes may still take: all of a volume
    /// that shares blocks (it was made from another file of this pool, or another from it) in the
    /// worst case that all of it is overwritten, else what it has not allocated.
    fn free(&self, space: Space, allocated: Allocated<'_>) -> Bytes {
        let sources: BTreeSet<&Id> = self
            .lines
            .values()
            .filter_map(|l| l.source.as_ref())
            .collect();
        let shares = |id: &Id, line: &Line| {
            let from = line.source.as_ref();
            from.is_some_and(|source| self.lines.contains_key(source)) || sources.contains(id)
        };
        let outstanding: Bytes = self
            .lines
            .iter()
            .filter(|(_, line)| line.thick && !line.snapshot)
            .map(|(id, line)| match shares(id, line) {
                true => line.size,
                false => line.size.minus(allocated(id)),
            })
            .sum();
        space.available.minus(outstanding).minus(self.in_flight)
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        let mut book = self.ledger.lock();
        book.in_flight = book.in_flight.minus(self.size);
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
