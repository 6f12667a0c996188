//! Where file pools lie. Directories must not lie in one another: what is tidied up in the one would
//! be the other. To resolve a path is to ask the file systems on its way, any of which may hang, so
//! each is asked once, on a thread of its own, and waited for only a moment.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use stowage_host::{blocking, on_own_thread};
use stowage_model::{Error, PoolName, Result};

/// How long a path is waited for before others are served without it.
const PATIENCE: Duration = Duration::from_millis(300);

/// What a file pool has in its directory for itself.
const OF_A_POOL: [&str; 4] = ["volumes", "snapshots", "making", "trash"];

/// What the state directory has for itself. A pool beside them is well: the default one is there.
const OF_THE_STATE: [&str; 4] = ["journal", "attachments", "pools", "staging"];

/// The path without symlinks, as far as it exists.
pub(crate) fn real(path: &Path) -> PathBuf {
    for there in path.ancestors() {
        let Ok(mut real) = std::fs::canonicalize(there) else {
            continue;
        };
        for part in path.strip_prefix(there).unwrap_or(path).components() {
            match part {
                Component::ParentDir => drop(real.pop()),
                part => real.push(part),
            }
        }
        return real;
    }
    path.to_owned()
}

/// The real path of something, once that is known.
#[derive(Default)]
struct Answer(Mutex<Option<PathBuf>>, Condvar);

impl Answer {
    fn give(&self, real: PathBuf) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(real);
        self.1.notify_all();
    }

    fn within(&self, patience: Duration) -> Option<PathBuf> {
        let answer = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self
            .1
            .wait_timeout_while(answer, patience, |answer| answer.is_none());
        let (answer, _) = waited.unwrap_or_else(PoisonError::into_inner);
        answer.clone()
    }
}

/// Paths that were asked for and have not been answered yet.
pub(crate) struct Paths {
    asked: Mutex<BTreeMap<PathBuf, Arc<Answer>>>,
    resolve: fn(&Path) -> PathBuf,
}

impl Default for Paths {
    fn default() -> Self {
        Self {
            asked: Mutex::default(),
            resolve: real,
        }
    }
}

impl Paths {
    /// With paths resolved by this.
    #[cfg(test)]
    pub(crate) fn resolved_by(resolve: fn(&Path) -> PathBuf) -> Self {
        Self {
            resolve,
            ..Self::default()
        }
    }

    /// Where a file pool lies; none while that does not answer.
    pub(crate) async fn of(&self, path: &Path) -> Option<PathBuf> {
        let answer = self.ask(path);
        let waiting = Arc::clone(&answer);
        // For a moment, so that the runtime's threads are not used up by what hangs.
        let real = blocking(move || waiting.within(PATIENCE)).await?;
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if asked.get(path).is_some_and(|now| Arc::ptr_eq(now, &answer)) {
            asked.remove(path);
        }
        Some(real)
    }

    fn ask(&self, path: &Path) -> Arc<Answer> {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(answer) = asked.get(path) {
            return Arc::clone(answer);
        }
        let answer = Arc::<Answer>::default();
        asked.insert(path.to_owned(), Arc::clone(&answer));
        let (resolve, path, told) = (self.resolve, path.to_owned(), Arc::clone(&answer));
        tokio::spawn(on_own_thread(move || told.give(resolve(&path))));
        answer
    }
}

fn lies_in(inner: &Path, outer: &Path, folders: &[&str]) -> bool {
    folders
        .iter()
        .any(|folder| inner.starts_with(outer.join(folder)))
}

/// A file pool by its name, and where it lies.
type Lying<'a> = (&'a PoolName, &'a Path);

/// Refuse two pools in one directory, and two of which one lies where the other keeps its volumes.
pub(crate) fn apart(one: Lying<'_>, other: Lying<'_>) -> Result<()> {
    let ((name, a), (known, b)) = (one, other);
    if a == b {
        return Err(one_and_the_same(
            known,
            name,
            format_args!("directory {}", a.display()),
        ));
    }
    let ((inner, _), (outer, at)) = if lies_in(a, b, &OF_A_POOL) {
        (one, other)
    } else if lies_in(b, a, &OF_A_POOL) {
        (other, one)
    } else {
        return Ok(());
    };
    Err(Error::invalid(format!(
        "the pool {inner} lies where the pool {outer} keeps its volumes; give it a directory outside \
         of {}",
        at.display()
    )))
}

pub(crate) fn one_and_the_same(
    known: &PoolName,
    new: &PoolName,
    place: impl std::fmt::Display,
) -> Error {
    Error::invalid(format!(
        "the pools {known} and {new} are one and the same {place}; keep one of them"
    ))
}

/// Refuse a pool that lies among the daemon's own files, or around them. `state` is a real path.
pub(crate) fn clear_of_state((pool, place): Lying<'_>, state: &Path) -> Result<()> {
    let among = lies_in(place, state, &OF_THE_STATE);
    if !among && !state.starts_with(place) {
        return Ok(());
    }
    let how = if among { "lies among" } else { "holds" };
    Err(Error::invalid(format!(
        "the directory of pool {pool} {how} the daemon's own files in {}; give it another",
        state.display()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> PoolName {
        PoolName::new(name).unwrap()
    }

    #[test]
    fn a_pool_does_not_lie_where_another_keeps_its_volumes_however_it_is_spelt() {
        let dir = tempfile::tempdir().unwrap();
        let a = dir.path().join("a");
        std::fs::create_dir_all(a.join("trash")).unwrap();
        std::os::unix::fs::symlink(a.join("trash"), dir.path().join("link")).unwrap();
        std::os::unix::fs::symlink(&a, dir.path().join("b")).unwrap();
        let (outer, at) = (name("outer"), real(&a));
        let outer = (&outer, &*at);
        for inside in [
            "a/trash/p",
            "a/making",
            "a/volumes/v/p",
            "b/snapshots/p",
            "link",
            "link/x/y",
            "a/new/../trash/p",
        ] {
            let (inner, at) = (name("inner"), real(&dir.path().join(inside)));
            let inner = (&inner, &*at);
            for (one, other) in [(inner, outer), (outer, inner)] {
                let e = apart(one, other).unwrap_err();
                assert!(
                    e.message()
                        .starts_with("the pool inner lies where the pool outer"),
                    "{e}"
                );
            }
        }
        for beside in ["c", "a/sub", "a/trash2/p", "trash"] {
            let (other, at) = (name("other"), real(&dir.path().join(beside)));
            apart((&other, &at), outer).unwrap();
            apart(outer, (&other, &at)).unwrap();
        }
    }

    #[test]
    fn a_pool_neither_lies_among_the_daemons_files_nor_around_them() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("lib/stowage");
        std::fs::create_dir_all(state.join("staging")).unwrap();
        std::os::unix::fs::symlink(&state, dir.path().join("link")).unwrap();
        for bad in [
            "lib",
            "lib/stowage",
            "lib/stowage/staging/v",
            "link/journal",
            "link",
            "lib/x/..",
        ] {
            let at = real(&dir.path().join(bad));
            let e = clear_of_state((&name("p"), &at), &real(&state)).unwrap_err();
            assert!(e.message().contains("the daemon's own files"), "{bad}: {e}");
        }
        for good in ["lib/stowage/pool", "lib/stowage2", "data"] {
            let at = real(&dir.path().join(good));
            clear_of_state((&name("p"), &at), &real(&state)).unwrap();
        }
    }
}
