//! How pools are defined: those that are known, where they lie, and what is remembered of each in
//! `<state>/pools`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use stowage_host::durable;
use stowage_model::error::Context;
use stowage_model::{Error, PoolName, Result};

use super::nesting;
use super::unread::Undefined;
use stowage_model::PoolConfig;

/// The definitions kept in `<state>/pools`, and those that cannot be used.
pub(crate) fn kept(dir: &Path) -> (Vec<PoolConfig>, Vec<Undefined>) {
    let unlisted = |why: std::io::Error| Undefined {
        pool: None,
        why: Error::internal(format!("failed to read the pools in {}", dir.display()))
            .caused_by(why),
    };
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) => return (Vec::new(), vec![unlisted(e)]),
    };
    let read = |path: &Path| {
        let text = std::fs::read(path).map_err(|e| unusable(path).caused_by(e))?;
        let config: PoolConfig =
            serde_json::from_slice(&text).map_err(|e| unusable(path).caused_by(e))?;
        Ok(config)
    };
    let (mut kept, mut undefined) = (Vec::new(), Vec::new());
    let mut paths = Vec::new();
    for entry in entries {
        match entry {
            Ok(entry) => paths.push(entry.path()),
            Err(e) => undefined.push(unlisted(e)),
        }
    }
    paths.retain(|path| path.extension().is_some_and(|e| e == "json"));
    paths.sort();
    for path in paths {
        match read(&path) {
            Ok(config) => kept.push(config),
            Err(why) => undefined.push(Undefined {
                pool: path.file_stem().map(|n| n.to_string_lossy().into_owned()),
                why,
            }),
        }
    }
    (kept, undefined)
}

pub(crate) fn unusable(definition: &Path) -> Error {
    let path = definition.display();
    Error::internal(format!("the pool definition {path} cannot be used"))
}

/// Whether a pool of this name was opened before on this machine, so that its directory must have
/// its marker. Where that cannot be told it may have been.
pub(crate) fn seen_before(dir: &Path, name: &PoolName) -> bool {
    seen(dir, name).try_exists().unwrap_or(true)
}

/// The names of all pools that were ever opened on this machine.
pub(crate) fn all_seen(dir: &Path) -> Result<Vec<PoolName>> {
    let failed = || format!("failed to read the pools in {}", dir.display());
    let mut all = Vec::new();
    for entry in std::fs::read_dir(dir).or_internal(failed)? {
        let name = entry.or_internal(failed)?.file_name();
        let name = name.to_string_lossy();
        all.extend(
            name.strip_suffix(".seen")
                .and_then(|name| PoolName::new(name).ok()),
        );
    }
    Ok(all)
}

/// Remember that a pool was opened: afterwards, not before, or a directory that was refused at
/// first could never become one.
pub(crate) fn remember_seen(dir: &Path, name: &PoolName) -> Result<()> {
    let path = seen(dir, name);
    if path.exists() {
        return Ok(());
    }
    durable::write_atomic(&path, b"").or_internal(|| format!("failed to note pool {name}"))
}

/// Where the UUID of a pool's volume group is kept.
pub(crate) fn group_file(dir: &Path, name: &PoolName) -> PathBuf {
    dir.join(format!("{name}.vg"))
}

/// Forget the volume group that a pool of this name had: the pool is made anew.
pub(crate) fn forget_group(dir: &Path, name: &PoolName) -> Result<()> {
    durable::remove_file(&group_file(dir, name))
        .or_internal(|| format!("failed to forget the volume group of an earlier pool {name}"))
}

fn seen(dir: &Path, name: &PoolName) -> PathBuf {
    dir.join(format!("{name}.seen"))
}

/// Refuse a pool that would hold the same volumes as another. Where directories lie is compared when
/// they answer, by [`Definitions::lies_at`].
pub(crate) fn apart<'a>(
    new: &PoolConfig,
    others: impl IntoIterator<Item = &'a PoolConfig>,
) -> Result<()> {
    for other in others {
        if new.name == other.name {
            return Err(Error::exists(format!(
                "the pool {} exists; extend it or choose another name",
                new.name
            )));
        }
        if new.place.is_same_group(&other.place) {
            return Err(nesting::one_and_the_same(
                &other.name,
                &new.name,
                &new.place,
            ));
        }
    }
    Ok(())
}

/// What is known of how pools are defined.
#[derive(Default)]
pub(crate) struct Definitions(Mutex<Known>);

#[derive(Default)]
struct Known {
    /// What they were opened from, those in the making among them.
    all: Vec<PoolConfig>,
    /// Where file pools really lie: those whose directories have answered, and lie apart.
    places: BTreeMap<PoolName, PathBuf>,
    /// Disks that are being put into pools, by their real paths.
    taken: BTreeSet<PathBuf>,
}

/// A definition that is known until this is dropped, or for good once it is kept.
pub(crate) struct Reserved {
    definitions: Arc<Definitions>,
    name: PoolName,
    kept: bool,
}

impl Reserved {
    pub(crate) fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        if !self.kept {
            let mut known = self.definitions.lock();
            known.all.retain(|known| known.name != self.name);
            known.places.remove(&self.name);
        }
    }
}

/// Disks that nobody else takes until this is dropped.
pub(crate) struct Disks {
    definitions: Arc<Definitions>,
    real: BTreeSet<PathBuf>,
}

impl Drop for Disks {
    fn drop(&mut self) {
        let taken = &mut self.definitions.lock().taken;
        taken.retain(|disk| !self.real.contains(disk));
    }
}

impl Definitions {
    /// These are the configured ones; they were checked against each other.
    pub(crate) fn are(&self, configured: Vec<PoolConfig>) {
        self.lock().all = configured;
    }

    /// Whether a pool of this name is defined.
    pub(crate) fn knows(&self, name: &str) -> bool {
        self.lock()
            .all
            .iter()
            .any(|known| known.name.as_str() == name)
    }

    /// The definition of this pool.
    pub(crate) fn of(&self, name: &PoolName) -> Option<PoolConfig> {
        let known = self.lock();
        known.all.iter().find(|known| known.name == *name).cloned()
    }

    /// Enter a definition among those that are known, if it is apart from them. Nothing is locked
    /// afterwards: making a pool waits for disks, which may hang.
    ///
    /// # Errors
    /// As [`apart`]; [`stowage_model::Kind::Pending`] while a pool of this name is being made, which is
    /// then not `open`.
    pub(crate) fn reserve(
        self: &Arc<Self>,
        config: &PoolConfig,
        is_open: impl FnOnce() -> bool,
    ) -> Result<Reserved> {
        let mut known = self.lock();
        let is_known = known.all.iter().any(|k| k.name == config.name);
        if is_known && !is_open() {
            return Err(Error::pending(format!(
                "the pool {} is being made; ask again",
                config.name
            )));
        }
        apart(config, &known.all)?;
        known.all.push(config.clone());
        Ok(Reserved {
            definitions: Arc::clone(self),
            name: config.name.clone(),
            kept: false,
        })
    }

    /// Whether it is known where this pool lies.
    pub(crate) fn is_placed(&self, name: &PoolName) -> bool {
        self.lock().places.contains_key(name)
    }

    /// Note where a file pool lies, if that is apart from those that were noted before. One that
    /// does not answer is in nobody's way: what lies in it would not answer either.
    ///
    /// # Errors
    /// As [`nesting::apart`], [`nesting::clear_of_state`].
    pub(crate) fn lies_at(&self, name: &PoolName, real: PathBuf, state_dir: &Path) -> Result<()> {
        let lying = (name, real.as_path());
        nesting::clear_of_state(lying, state_dir)?;
        let mut known = self.lock();
        for (other, place) in &known.places {
            if other != name {
                nesting::apart(lying, (other, place))?;
            }
        }
        known.places.insert(name.clone(), real);
        Ok(())
    }

    /// Have disks, by their real paths, for oneself while they are looked at and taken: what two found
    /// blank is not to be wiped by the later of them when the earlier has made it part of a pool.
    ///
    /// # Errors
    /// [`stowage_model::Kind::Pending`] while somebody has one of them.
    pub(crate) fn take_disks(self: &Arc<Self>, real: BTreeSet<PathBuf>) -> Result<Disks> {
        let mut known = self.lock();
        if let Some(disk) = known.taken.intersection(&real).next() {
            return Err(Error::pending(format!(
                "disk {} is just being added to a pool; ask again",
                disk.display()
            )));
        }
        known.taken.extend(real.iter().cloned());
        Ok(Disks {
            definitions: Arc::clone(self),
            real,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
