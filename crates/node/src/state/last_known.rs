//! What each pool held when it was last read or changed, for as long as it is away: one small file a volume
//! or snapshot under `<state>/known`. It answers what there is and how it was, and nothing else: it is not
//! the truth, and nothing is done on its word.
//!
//! Written beside the calls, by a thread of its own: the disk of the state directory may hang. What is
//! written last may be missing after a kill.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use stowage_host::{Repeat, blocking, durable};
use stowage_model::{Bytes, Id, PoolKind, PoolName, Record};

use super::entry::Entry;

/// Ends the names of the notes that all that a pool holds is noted. Each names the boot of the machine in
/// which that is so: what a power cut leaves may lack something.
const WHOLE: &str = "pool";

/// A volume or snapshot as it was.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Known {
    pub(crate) record: Record,
    pub(crate) size: Bytes,
    pub(crate) pool: PoolName,
    pub(crate) kind: PoolKind,
    pub(crate) vg: Option<String>,
}

impl Known {
    fn of(entry: &Entry) -> Self {
        Self {
            record: entry.record.clone(),
            size: entry.size,
            pool: entry.pool.name().clone(),
            kind: entry.pool.kind(),
            vg: entry.pool.vg().map(str::to_owned),
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct File {
    pool: PoolName,
    kind: PoolKind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    vg: Option<String>,
    size: Bytes,
    pairs: BTreeMap<String, String>,
}

impl File {
    fn of(known: &Known) -> Self {
        let pairs = known.record.to_pairs().into_iter();
        Self {
            pool: known.pool.clone(),
            kind: known.kind,
            vg: known.vg.clone(),
            size: known.size,
            pairs: pairs.map(|(k, v)| (k.to_owned(), v)).collect(),
        }
    }

    fn read(path: &Path) -> Option<Known> {
        let file: Self = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
        Some(Known {
            record: Record::from_pairs(&file.pairs).ok()?,
            size: file.size,
            pool: file.pool,
            kind: file.kind,
            vg: file.vg,
        })
    }
}

/// What is to be written.
enum Change {
    /// This file gets this text, or goes.
    File(PathBuf, Option<Vec<u8>>),
    /// All before it is written.
    Done(Sender<()>),
}

#[derive(Default)]
struct Book {
    all: BTreeMap<Id, Known>,
    /// Pools of which all is noted.
    whole: BTreeSet<PoolName>,
}

/// What was known last.
pub(crate) struct LastKnown {
    dir: PathBuf,
    boot: String,
    book: Mutex<Book>,
    changes: Mutex<Sender<Change>>,
}

impl LastKnown {
    /// What is noted in this directory, made if it is missing; `boot` tells this boot of the machine from
    /// others. What cannot be read there is not known.
    pub(crate) fn in_directory(dir: PathBuf, boot: &str) -> Self {
        let mut book = Book::default();
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            let path = entry.path();
            let stem = path.file_stem().and_then(|stem| stem.to_str());
            let stem = stem.unwrap_or_default();
            if path.extension().is_some_and(|e| e == WHOLE) {
                let same = std::fs::read_to_string(&path).is_ok_and(|of| of == boot);
                book.whole.extend(PoolName::new(stem).ok().filter(|_| same));
            } else if let Some(known) = File::read(&path)
                && known.record.id.as_str() == stem
            {
                book.all.insert(known.record.id.clone(), known);
            }
        }
        let (changes, next) = channel();
        let at = dir.clone();
        let thread = std::thread::Builder::new().name("stowage-known".to_owned());
        // Without it nothing is noted, and nothing waits.
        if let Err(e) = thread.spawn(move || write_all(&at, &next)) {
            tracing::warn!(error = %e, "what pools hold is not noted");
        }
        Self {
            dir,
            boot: boot.to_owned(),
            book: Mutex::new(book),
            changes: Mutex::new(changes),
        }
    }

    /// It is so now.
    pub(crate) fn put(&self, entry: &Entry) {
        let passing = entry.record.is_snapshot() && entry.record.ephemeral;
        if passing || entry.record.beyond.is_some() {
            // The one is nobody's business; what is known of the other in part is less than what was
            // known of it, perhaps.
            return;
        }
        let known = Known::of(entry);
        let id = known.record.id.clone();
        let text = serde_json::to_vec(&File::of(&known)).ok();
        if self.lock().all.insert(id.clone(), known.clone()) != Some(known) {
            self.change(Change::File(self.path(&id), text));
        }
    }

    /// It is gone.
    pub(crate) fn remove(&self, id: &Id) {
        if self.lock().all.remove(id).is_some() {
            self.change(Change::File(self.path(id), None));
        }
    }

    /// A pool was read, and holds these; of what could not be read in it something is noted here, perhaps.
    pub(crate) fn pool_was_read(&self, pool: &PoolName, holds: impl Fn(&Id) -> bool) {
        let mut book = self.lock();
        let gone = book
            .all
            .iter()
            .filter(|(id, known)| known.pool == *pool && !holds(id));
        let gone: Vec<Id> = gone.map(|(id, _)| id.clone()).collect();
        for id in &gone {
            book.all.remove(id);
        }
        let is_new = book.whole.insert(pool.clone());
        drop(book);
        for id in gone {
            self.change(Change::File(self.path(&id), None));
        }
        if is_new {
            let path = self.dir.join(format!("{pool}.{WHOLE}"));
            self.change(Change::File(path, Some(self.boot.clone().into_bytes())));
        }
    }

    /// How one was.
    pub(crate) fn get(&self, id: &Id) -> Option<Known> {
        self.lock().all.get(id).cloned()
    }

    /// How all were for which this holds, in the order of their ids.
    pub(crate) fn list(&self, keep: impl Fn(&Known) -> bool) -> Vec<Known> {
        let book = self.lock();
        book.all.values().filter(|k| keep(k)).cloned().collect()
    }

    /// Whether all that a pool held is known.
    pub(crate) fn is_whole(&self, pool: &str) -> bool {
        self.lock().whole.iter().any(|whole| whole.as_str() == pool)
    }

    /// Wait until all is written, for no longer than this.
    pub(crate) async fn written(&self, patience: Duration) {
        let (done, all_done) = channel();
        self.change(Change::Done(done));
        // Its end may come when the thread is gone, which is as good.
        let _ = blocking(move || all_done.recv_timeout(patience)).await;
    }

    fn path(&self, id: &Id) -> PathBuf {
        self.dir.join(format!("{id}.json"))
    }

    fn change(&self, change: Change) {
        let changes = self.changes.lock();
        // The thread ends with the daemon, or could not be had.
        let _ = changes.unwrap_or_else(PoisonError::into_inner).send(change);
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn write_all(dir: &Path, changes: &Receiver<Change>) {
    let mut failed = Repeat::default();
    for change in changes {
        let (path, text) = match change {
            Change::File(path, text) => (path, text),
            Change::Done(done) => {
                let _ = done.send(());
                continue;
            }
        };
        let written = match text {
            Some(text) => durable::create_dir(dir).and_then(|()| durable::replace(&path, &text)),
            None => match std::fs::remove_file(&path) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    Err(stowage_host::FsError::new("remove", &path, e))
                }
                _ => Ok(()),
            },
        };
        if let Err(e) = written
            && failed.is_due(&e.to_string())
        {
            tracing::warn!(error = %e, "what a pool holds is not noted");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use stowage_model::Name;
    use stowage_model::id::Role;

    use super::*;
    use crate::testing::{Files, wanted};

    fn entry(name: &str, pool: &Arc<Files>) -> Entry {
        let spec = wanted(name, "a", None).settled(None).unwrap();
        let id = Id::derive(Role::Volume, &Name::new(name).unwrap());
        let record = Record::for_volume(id, &spec, jiff::Timestamp::now());
        Entry::new(record, Bytes::mib(16), pool.clone())
    }

    #[tokio::test]
    async fn what_is_noted_is_known_to_the_next_and_what_is_damaged_is_not() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path().join("known");
        let pool = Arc::new(Files::new("a", tmp.path().to_owned()));
        let (kept, gone, torn) = (entry("k", &pool), entry("g", &pool), entry("t", &pool));
        let first = LastKnown::in_directory(dir.clone(), "1");
        for entry in [&kept, &gone, &torn] {
            first.put(entry);
        }
        first.remove(&gone.record.id);
        first.pool_was_read(&PoolName::new("a").unwrap(), |_| true);
        first.written(Duration::from_secs(30)).await;
        std::fs::write(dir.join(format!("{}.json", torn.record.id)), "{").unwrap();
        // After a power cut what is there is known, and that it is all is not.
        assert!(!LastKnown::in_directory(dir.clone(), "2").is_whole("a"));
        let next = LastKnown::in_directory(dir, "1");
        assert_eq!(next.list(|_| true), [Known::of(&kept)]);
        assert!(next.is_whole("a") && !next.is_whole("b"));
        // Read again, it holds what it holds.
        next.pool_was_read(&PoolName::new("a").unwrap(), |_| false);
        assert_eq!(next.list(|_| true), []);
    }
}
