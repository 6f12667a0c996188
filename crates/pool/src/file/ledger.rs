//! What a file pool has promised. Free space as the file system tells it is not enough: a thick
//! volume that shares blocks with a snapshot or clone needs new ones when it is overwritten, one
//! whose consumer discarded blocks (mkfs, fstrim) may want them back, and thin volumes have been
//! promised more than they have taken.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use stowage_model::request::Provisioning;
use stowage_model::{Bytes, Error, Id, Record, Result};

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
    book: Mutex<Book>,
}

/// Space set aside while a file is being allocated.
pub(super) struct Reserved<'a> {
    ledger: &'a Ledger,
    size: Bytes,
}

impl Ledger {
    pub(super) fn new(overprovision: f64) -> Self {
        Self {
            overprovision,
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
        self.lock()
            .lines
            .values()
            .filter(|l| !l.snapshot)
            .map(|l| l.size)
            .sum()
    }

    /// Space left for thick files.
    pub(super) fn free(&self, space: Space, allocated: Allocated<'_>) -> Bytes {
        self.lock().free(space, allocated)
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
        let full = |free: Bytes| {
            Error::full(format!(
                "pool {pool} is full: {more} asked, {free} left; delete volumes or snapshots, or \
                 grow its file system"
            ))
        };
        let free = book.free(space, allocated);
        let size = match provisioning {
            Provisioning::Thick if more > free => return Err(full(free)),
            Provisioning::Thick => more,
            Provisioning::Thin => {
                let promised: Bytes = book
                    .lines
                    .values()
                    .filter(|l| !l.snapshot)
                    .map(|l| l.size)
                    .sum();
                let may = scaled(space.total, self.overprovision);
                if promised + more > may || free.0 < space.total.0 / 20 {
                    return Err(full(may.minus(promised)));
                }
                Bytes(0)
            }
        };
        book.in_flight = book.in_flight + size;
        Ok(Reserved { ledger: self, size })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
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
