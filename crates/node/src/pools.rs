//! Pools as configured: from definition to open pool. Definitions come from the configuration
//! file and from `<state>/pools`, where those made on request are kept.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, MutexGuard, PoisonError};

use futures::future::join_all;
use serde::{Deserialize, Serialize};
use stowage_host::{Runner, blocking, durable};
use stowage_model::error::Context;
use stowage_model::volumes::PoolStatus;
use stowage_model::{Error, PoolKind, PoolName, Reserve, Result};
use stowage_pool::Pool;
use stowage_pool::file::{self, FilePool};
use stowage_pool::lvm::{self, LvmPool};
use stowage_pool::thin::{self, ThinPool};

pub use stowage_pool::lvm::Wipe;

use crate::local::Inner;
use crate::nesting;
use crate::unread::Undefined;

/// One pool, as written in the configuration file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct PoolConfig {
    /// Its name.
    pub name: PoolName,
    /// `lvm`, `thin` or `file`.
    pub kind: PoolKind,
    /// Directory of a file pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// Volume group of an lvm or thin pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vg: Option<String>,
    /// Name of the LVM thin pool in the group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thin_pool: Option<String>,
    /// How many times the space may be promised to thin volumes (1.0 when absent).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overprovision: Option<f64>,
    /// What is promised to nobody: `10Gi`, or `5%` of the pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reserve: Option<Reserve>,
    /// How a removed thick logical volume is wiped: `zero` (when absent), `discard` or `none`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wipe: Option<Wipe>,
}

impl PoolConfig {
    fn refuse(&self, key: &str) -> Error {
        Error::invalid(format!(
            "pool {}: {key} does not belong to kind {}",
            self.name, self.kind
        ))
    }

    fn vg(&self) -> Result<String> {
        match self.vg.as_deref() {
            Some(vg) if stowage_model::id::is_plain_word(vg) && vg.len() <= 127 => {
                Ok(vg.to_owned())
            }
            Some(vg) => Err(Error::invalid(format!(
                "pool {}: {vg:?} is not a volume group name",
                self.name
            ))),
            None => Err(Error::invalid(format!(
                "pool {}: kind {} needs the key vg, the name of its volume group",
                self.name, self.kind
            ))),
        }
    }

    /// What its volumes lie in, unless that is a directory.
    fn place(&self) -> Option<String> {
        let vg = || self.vg.clone().unwrap_or_default();
        match self.kind {
            PoolKind::File => None,
            PoolKind::Lvm => Some(format!("volume group {}", vg())),
            PoolKind::Thin => {
                let pool = self.thin_pool.clone().unwrap_or_default();
                Some(format!("thin pool {}/{pool}", vg()))
            }
        }
    }

    fn ratio(&self) -> Result<f64> {
        match self.overprovision {
            None => Ok(1.0),
            Some(ratio) if (0.1..=100.0).contains(&ratio) => Ok(ratio),
            Some(ratio) => Err(Error::invalid(format!(
                "pool {}: overprovision {ratio} is not between 0.1 and 100",
                self.name
            ))),
        }
    }

    /// Check the keys against the kind.
    ///
    /// # Errors
    /// [`stowage_model::Kind::Invalid`] naming the key.
    pub fn check(&self) -> Result<()> {
        self.ratio()?;
        match self.kind {
            PoolKind::File => {
                if self.vg.is_some() || self.thin_pool.is_some() || self.wipe.is_some() {
                    return Err(self.refuse("vg, thin-pool or wipe"));
                }
                match &self.path {
                    Some(path) if path.is_absolute() => Ok(()),
                    _ => Err(Error::invalid(format!(
                        "pool {}: kind file needs the key path, an absolute directory",
                        self.name
                    ))),
                }
            }
            PoolKind::Lvm | PoolKind::Thin => {
                self.vg()?;
                if self.path.is_some() {
                    return Err(self.refuse("path"));
                }
                if self.kind == PoolKind::Lvm {
                    if self.thin_pool.is_some() || self.overprovision.is_some() {
                        return Err(self.refuse("thin-pool or overprovision"));
                    }
                    return Ok(());
                }
                if self.wipe.is_some() {
                    return Err(self.refuse("wipe"));
                }
                self.thin_pool().map(drop)
            }
        }
    }

    fn thin_pool(&self) -> Result<String> {
        match self.thin_pool.as_deref() {
            Some(name) if stowage_model::id::is_plain_word(name) => Ok(name.to_owned()),
            _ => Err(Error::invalid(format!(
                "pool {}: kind thin needs the key thin-pool, the name of a thin pool in its group",
                self.name
            ))),
        }
    }

    fn lvm_options(&self) -> Result<lvm::Options> {
        let wipe = self.wipe.unwrap_or_default();
        Ok(lvm::Options {
            name: self.name.clone(),
            vg: self.vg()?,
            wipe,
            reserve: self.reserve.unwrap_or_default(),
        })
    }

    fn thin_options(&self) -> Result<thin::Options> {
        Ok(thin::Options {
            name: self.name.clone(),
            vg: self.vg()?,
            thin_pool: self.thin_pool()?,
            overprovision: self.ratio()?,
            data_limit: thin::Options::DATA_LIMIT,
            metadata_limit: thin::Options::METADATA_LIMIT,
            reserve: self.reserve.unwrap_or_default(),
        })
    }

    /// Make what the pool stands on: nothing for a directory, which opening makes.
    async fn make(&self, runner: &Arc<dyn Runner>, disks: &[PathBuf], force: bool) -> Result<()> {
        match self.kind {
            PoolKind::File if disks.is_empty() => Ok(()),
            PoolKind::File => Err(Error::invalid(
                "a file pool is a directory; make a file system on the disk and give its path",
            )),
            // Without disks the group exists already and is used as it is.
            PoolKind::Lvm if disks.is_empty() => Ok(()),
            PoolKind::Lvm => {
                lvm::make(&self.lvm_options()?, disks, force, Arc::clone(runner)).await
            }
            PoolKind::Thin => {
                let options = self.thin_options()?;
                thin::make(&options, disks, None, force, Arc::clone(runner)).await
            }
        }
    }

    /// The pool, not looked at yet, of which `dir` keeps what is remembered. `first` says that it may
    /// be initialised.
    pub(crate) fn open(
        &self,
        runner: &Arc<dyn Runner>,
        dir: &Path,
        first: bool,
    ) -> Result<Arc<dyn Pool>> {
        self.check()?;
        let group = Some(group_file(dir, &self.name));
        let runner = Arc::clone(runner);
        Ok(match self.kind {
            PoolKind::File => {
                let options = file::Options {
                    name: self.name.clone(),
                    path: self.path.clone().unwrap_or_default(),
                    overprovision: self.ratio()?,
                    reserve: self.reserve.unwrap_or_default(),
                    may_initialise: first,
                };
                Arc::new(FilePool::new(options)?)
            }
            PoolKind::Lvm => Arc::new(LvmPool::new(self.lvm_options()?, group, runner)?),
            PoolKind::Thin => Arc::new(ThinPool::new(self.thin_options()?, group, runner)?),
        })
    }
}

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
        config.check().map_err(|e| unusable(path).caused_by(e))?;
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
fn group_file(dir: &Path, name: &PoolName) -> PathBuf {
    dir.join(format!("{name}.vg"))
}

/// Forget the volume group that a pool of this name had: the pool is made anew.
fn forget_group(dir: &Path, name: &PoolName) -> Result<()> {
    durable::remove_file(&group_file(dir, name))
        .or_internal(|| format!("failed to forget the volume group of an earlier pool {name}"))
}

fn seen(dir: &Path, name: &PoolName) -> PathBuf {
    dir.join(format!("{name}.seen"))
}

/// Refuse a pool that would hold the same volumes as another. Where directories lie is compared when
/// they answer, by [`Inner::lies_at`].
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
        if let Some(place) = new.place()
            && other.place().as_ref() == Some(&place)
        {
            return Err(nesting::one_and_the_same(&other.name, &new.name, place));
        }
    }
    Ok(())
}

/// What is known of how pools are defined.
#[derive(Default)]
pub(crate) struct Definitions {
    /// What they were opened from, those in the making among them.
    pub(crate) known: Vec<PoolConfig>,
    /// Where file pools really lie: those whose directories have answered, and lie apart.
    places: BTreeMap<PoolName, PathBuf>,
    /// Disks that are being put into pools, by their real paths.
    taken: BTreeSet<PathBuf>,
}

/// A definition that is known until this is dropped, or for good once it is kept.
pub(crate) struct Reserved {
    node: Arc<Inner>,
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
            let mut definitions = self.node.definitions();
            definitions.known.retain(|known| known.name != self.name);
            definitions.places.remove(&self.name);
        }
    }
}

/// Disks that nobody else takes until this is dropped.
struct Disks {
    node: Arc<Inner>,
    real: BTreeSet<PathBuf>,
}

impl Drop for Disks {
    fn drop(&mut self) {
        let taken = &mut self.node.definitions().taken;
        taken.retain(|disk| !self.real.contains(disk));
    }
}

impl Inner {
    pub(crate) fn pools_dir(&self) -> PathBuf {
        self.options.state_dir.join("pools")
    }

    pub(crate) async fn create_pool(
        self: &Arc<Self>,
        config: PoolConfig,
        disks: &[PathBuf],
        force: bool,
    ) -> Result<PoolStatus> {
        config.check()?;
        self.unread.rule_out_definition(&config.name)?;
        let reserved = self.reserve(&config)?;
        self.place(&config).await?;
        let _disks = self.take_disks(disks).await?;
        forget_group(&self.pools_dir(), &config.name)?;
        config.make(&self.runner, disks, force).await?;
        let pool = config.open(&self.runner, &self.pools_dir(), true)?;
        pool.claim(&self.locks).await?;
        if config.kind == PoolKind::Lvm && disks.is_empty() {
            // Nothing was made. A group that is not there is a typing mistake rather than a disk that
            // is away, and a pool that cannot be read would hold up others from then on.
            if let Some(problem) = pool.status().await?.problem {
                return Err(Error::precondition(problem));
            }
        }
        let text = serde_json::to_vec_pretty(&config)
            .or_internal(|| format!("failed to note pool {}", config.name))?;
        durable::write_atomic(
            &self.pools_dir().join(format!("{}.json", config.name)),
            &text,
        )
        .or_internal(|| format!("failed to keep the definition of pool {}", config.name))?;
        reserved.keep();
        let noted = remember_seen(&self.pools_dir(), &config.name);
        let read = match noted {
            Ok(()) => self.take_in(&pool, None::<std::future::Ready<()>>).await,
            Err(e) => Err(e),
        };
        if let Err(e) = read {
            // It is defined: the next start would open it, and so do we.
            self.unread.pool(pool.name(), e.chain());
            self.enter(&pool);
            return Err(e);
        }
        pool.status().await
    }

    /// Enter a definition among those that are known, if it is apart from them. Nothing is locked
    /// afterwards: making a pool waits for disks, which may hang.
    ///
    /// # Errors
    /// As [`apart`]; [`stowage_model::Kind::Pending`] while a pool of this name is being made.
    pub(crate) fn reserve(self: &Arc<Self>, config: &PoolConfig) -> Result<Reserved> {
        let mut definitions = self.definitions();
        let is_known = definitions.known.iter().any(|k| k.name == config.name);
        if is_known && self.pools().iter().all(|pool| *pool.name() != config.name) {
            return Err(Error::pending(format!(
                "the pool {} is being made; ask again",
                config.name
            )));
        }
        apart(config, &definitions.known)?;
        definitions.known.push(config.clone());
        Ok(Reserved {
            node: Arc::clone(self),
            name: config.name.clone(),
            kept: false,
        })
    }

    /// Find out where a pool lies, and that it is apart from the others.
    ///
    /// # Errors
    /// As [`Inner::lies_at`]; [`stowage_model::Kind::Unavailable`] while its path does not answer.
    async fn place(&self, config: &PoolConfig) -> Result<()> {
        if config.kind != PoolKind::File || self.definitions().places.contains_key(&config.name) {
            return Ok(());
        }
        match self.paths.of(config).await {
            Some(real) => self.lies_at(config, real),
            None => Err(Error::unavailable(format!(
                "the path {} does not answer: a file system on it hangs",
                config.path.clone().unwrap_or_default().display()
            ))),
        }
    }

    /// As [`Inner::place`], for a pool that may be known.
    pub(crate) async fn place_known(&self, pool: &PoolName) -> Result<()> {
        let config = {
            let definitions = self.definitions();
            let mut known = definitions.known.iter();
            known.find(|known| known.name == *pool).cloned()
        };
        match config {
            Some(config) => self.place(&config).await,
            None => Ok(()),
        }
    }

    /// Where those of these pools lie that are directories and answer, all asked at once.
    pub(crate) async fn lying(&self, pools: &[PoolConfig]) -> Vec<Option<PathBuf>> {
        let asked = pools.iter().map(|config| async {
            match config.kind {
                PoolKind::File => self.paths.of(config).await,
                PoolKind::Lvm | PoolKind::Thin => None,
            }
        });
        join_all(asked).await
    }

    /// Note where a file pool lies, if that is apart from those that were noted before. One that
    /// does not answer is in nobody's way: what lies in it would not answer either.
    ///
    /// # Errors
    /// As [`nesting::apart`], [`nesting::clear_of_state`].
    pub(crate) fn lies_at(&self, config: &PoolConfig, real: PathBuf) -> Result<()> {
        let lying = (&config.name, real.as_path());
        nesting::clear_of_state(lying, &self.options.state_dir)?;
        let mut definitions = self.definitions();
        for (other, place) in &definitions.places {
            if *other != config.name {
                nesting::apart(lying, (other, place))?;
            }
        }
        definitions.places.insert(config.name.clone(), real);
        Ok(())
    }

    /// Have disks for oneself while they are looked at and taken: what two found blank is not to be
    /// wiped by the later of them when the earlier has made it part of a pool.
    async fn take_disks(self: &Arc<Self>, disks: &[PathBuf]) -> Result<Disks> {
        let named = disks.to_vec();
        let real = move || -> BTreeSet<PathBuf> {
            // One that is not there is told by whoever looks at it.
            let real = named.iter().filter_map(|disk| disk.canonicalize().ok());
            real.collect()
        };
        let real = blocking(real).await;
        let mut definitions = self.definitions();
        if let Some(disk) = definitions.taken.intersection(&real).next() {
            return Err(Error::pending(format!(
                "disk {} is just being added to a pool; ask again",
                disk.display()
            )));
        }
        definitions.taken.extend(real.iter().cloned());
        Ok(Disks {
            node: Arc::clone(self),
            real,
        })
    }

    pub(crate) fn definitions(&self) -> MutexGuard<'_, Definitions> {
        let all = self.definitions.lock();
        all.unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) async fn extend_pool(
        self: &Arc<Self>,
        name: &PoolName,
        disks: &[PathBuf],
        force: bool,
    ) -> Result<PoolStatus> {
        if disks.is_empty() {
            return Err(Error::invalid(
                "name at least one disk to extend the pool with",
            ));
        }
        let pool = self
            .pools()
            .into_iter()
            .find(|p| p.name() == name)
            .ok_or_else(|| {
                Error::not_found(format!("there is no pool {name}; see the list of pools"))
            })?;
        // Another daemon may be serving it.
        self.unread.among(std::slice::from_ref(&pool))?;
        let _disks = self.take_disks(disks).await?;
        pool.extend(disks, force).await?;
        pool.status().await
    }
}

#[cfg(test)]
mod tests;
