//! Pools as configured: from definition to open pool. Definitions come from the configuration file and
//! from `<state>/pools`, where those made on request are kept.

use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use stowage_host::Runner;
use stowage_model::{Error, PoolKind, PoolName, Reserve, Result};
use stowage_pool::Pool;
use stowage_pool::file::{self, FilePool};
use stowage_pool::lvm::{self, LvmPool};
use stowage_pool::thin::{self, ThinPool};

pub use stowage_pool::lvm::Wipe;

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
    pub(crate) fn place(&self) -> Option<String> {
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
    pub(crate) async fn make(
        &self,
        runner: &Arc<dyn Runner>,
        disks: &[PathBuf],
        force: bool,
    ) -> Result<()> {
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

    /// The pool, not looked at yet. The UUID of its volume group is kept in the file `group`; `first` says
    /// that it may be initialised.
    pub(crate) fn open(
        &self,
        runner: &Arc<dyn Runner>,
        group: PathBuf,
        first: bool,
    ) -> Result<Arc<dyn Pool>> {
        self.check()?;
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
            PoolKind::Lvm => Arc::new(LvmPool::new(self.lvm_options()?, Some(group), runner)?),
            PoolKind::Thin => Arc::new(ThinPool::new(self.thin_options()?, Some(group), runner)?),
        })
    }
}
