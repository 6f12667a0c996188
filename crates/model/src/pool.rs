//! How pools are defined. What a definition may say depends on its kind, so there is a type for each;
//! nothing that was not checked can be one.

use std::fmt;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::id::is_plain_word;
use crate::volumes::PoolStatus;
use crate::{Error, PoolKind, PoolName, Reserve, Result};

/// One pool, as defined in the configuration file or on request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "PoolKeys", into = "PoolKeys")]
pub struct PoolConfig {
    /// Its name.
    pub name: PoolName,
    /// What is promised to nobody: `10Gi`, or `5%` of the pool.
    pub reserve: Reserve,
    /// Its kind, and what its volumes lie in.
    pub place: PoolPlace,
}

/// What the volumes of a pool lie in.
#[derive(Debug, Clone, PartialEq)]
pub enum PoolPlace {
    /// Thick logical volumes in a volume group.
    Lvm {
        /// The group.
        vg: VgName,
        /// What happens to the blocks of a removed volume.
        wipe: Wipe,
    },
    /// Thin logical volumes in an LVM thin pool.
    Thin {
        /// The group of the thin pool.
        vg: VgName,
        /// The thin pool in it.
        thin_pool: VgName,
        /// How many times the space may be promised.
        overprovision: Overprovision,
    },
    /// Files in a directory.
    File {
        /// The directory, an absolute path.
        path: PathBuf,
        /// How many times the space may be promised to thin volumes.
        overprovision: Overprovision,
    },
}

/// What happens to the blocks of a removed volume before others get them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Wipe {
    /// They are overwritten with zeros.
    #[default]
    Zero,
    /// They are discarded, for disks that promise to read zeros then; a disk that cannot discard
    /// is overwritten.
    Discard,
    /// Nothing: a new raw volume may show what an old one held.
    None,
}

/// The name of a volume group, or of a logical volume: letters, digits, `_`, `.`, `+` and `-`, no
/// longer than LVM takes (lvm(8), "VALID NAMES"; 127 characters), so never an option nor a path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VgName(String);

impl VgName {
    /// Check a name.
    ///
    /// # Errors
    /// [`crate::Kind::Invalid`] naming it.
    pub fn new(name: impl Into<String>) -> Result<Self> {
        let name = name.into();
        if is_plain_word(&name) && name.len() <= 127 {
            return Ok(Self(name));
        }
        Err(Error::invalid(format!(
            "{name:?} is not a volume group name"
        )))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for VgName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// How many times the space of a pool may be promised: 0.1 to 100.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Overprovision(f64);

impl Default for Overprovision {
    fn default() -> Self {
        Self(1.0)
    }
}

impl Overprovision {
    /// Check a ratio.
    ///
    /// # Errors
    /// [`crate::Kind::Invalid`] naming it.
    pub fn new(ratio: f64) -> Result<Self> {
        match (0.1..=100.0).contains(&ratio) {
            true => Ok(Self(ratio)),
            false => Err(Error::invalid(format!(
                "overprovision {ratio} is not between 0.1 and 100"
            ))),
        }
    }

    /// As a number.
    pub fn ratio(self) -> f64 {
        self.0
    }
}

impl PoolConfig {
    /// Its kind.
    pub fn kind(&self) -> PoolKind {
        match self.place {
            PoolPlace::Lvm { .. } => PoolKind::Lvm,
            PoolPlace::Thin { .. } => PoolKind::Thin,
            PoolPlace::File { .. } => PoolKind::File,
        }
    }

    /// The directory of a file pool.
    pub fn path(&self) -> Option<&Path> {
        match &self.place {
            PoolPlace::File { path, .. } => Some(path),
            PoolPlace::Lvm { .. } | PoolPlace::Thin { .. } => None,
        }
    }
}

impl PoolPlace {
    /// Whether volumes lie in the same group or thin pool. Where directories lie their paths do not
    /// tell.
    pub fn is_same_group(&self, other: &Self) -> bool {
        use PoolPlace::{File, Lvm, Thin};
        match (self, other) {
            (Lvm { vg: a, .. }, Lvm { vg: b, .. }) => a == b,
            (
                Thin {
                    vg: a,
                    thin_pool: x,
                    ..
                },
                Thin {
                    vg: b,
                    thin_pool: y,
                    ..
                },
            ) => (a, x) == (b, y),
            (Lvm { .. } | Thin { .. } | File { .. }, _) => false,
        }
    }
}

impl fmt::Display for PoolPlace {
    /// "volume group fast", for messages.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PoolPlace::Lvm { vg, .. } => write!(f, "volume group {vg}"),
            PoolPlace::Thin { vg, thin_pool, .. } => write!(f, "thin pool {vg}/{thin_pool}"),
            PoolPlace::File { path, .. } => write!(f, "directory {}", path.display()),
        }
    }
}

/// A definition as typed: every key that any kind has.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct PoolKeys {
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

impl PoolKeys {
    fn bad(&self, what: impl fmt::Display) -> Error {
        Error::invalid(format!("pool {}: {what}", self.name))
    }

    /// Refuse keys of other kinds.
    fn without(&self, keys: [(&str, bool); 3]) -> Result<()> {
        match keys.into_iter().find(|(_, typed)| *typed) {
            None => Ok(()),
            Some((key, _)) => Err(self.bad(format!("{key} does not belong to kind {}", self.kind))),
        }
    }

    fn vg(&self) -> Result<VgName> {
        let vg = self.vg.clone().ok_or_else(|| {
            self.bad(format!(
                "kind {} needs the key vg, the name of its volume group",
                self.kind
            ))
        })?;
        VgName::new(vg).map_err(|e| self.bad(e.message()))
    }

    fn thin_pool(&self) -> Result<VgName> {
        let named = self
            .thin_pool
            .clone()
            .and_then(|name| VgName::new(name).ok());
        named.ok_or_else(|| {
            self.bad("kind thin needs the key thin-pool, the name of a thin pool in its group")
        })
    }

    fn overprovision(&self) -> Result<Overprovision> {
        let ratio = self.overprovision.map(Overprovision::new).transpose();
        ratio
            .map(Option::unwrap_or_default)
            .map_err(|e| self.bad(e.message()))
    }

    fn place(&self) -> Result<PoolPlace> {
        let (path, vg) = (("path", self.path.is_some()), ("vg", self.vg.is_some()));
        let thin_pool = ("thin-pool", self.thin_pool.is_some());
        let wipe = ("wipe", self.wipe.is_some());
        match self.kind {
            PoolKind::File => {
                self.without([vg, thin_pool, wipe])?;
                match &self.path {
                    Some(path) if path.is_absolute() => Ok(PoolPlace::File {
                        path: path.clone(),
                        overprovision: self.overprovision()?,
                    }),
                    _ => Err(self.bad("kind file needs the key path, an absolute directory")),
                }
            }
            PoolKind::Lvm => {
                let overprovision = ("overprovision", self.overprovision.is_some());
                self.without([path, thin_pool, overprovision])?;
                Ok(PoolPlace::Lvm {
                    vg: self.vg()?,
                    wipe: self.wipe.unwrap_or_default(),
                })
            }
            PoolKind::Thin => {
                self.without([path, wipe, ("", false)])?;
                Ok(PoolPlace::Thin {
                    vg: self.vg()?,
                    thin_pool: self.thin_pool()?,
                    overprovision: self.overprovision()?,
                })
            }
        }
    }
}

impl TryFrom<PoolKeys> for PoolConfig {
    type Error = Error;

    fn try_from(typed: PoolKeys) -> Result<Self> {
        Ok(Self {
            place: typed.place()?,
            reserve: typed.reserve.unwrap_or_default(),
            name: typed.name,
        })
    }
}

impl From<PoolConfig> for PoolKeys {
    fn from(config: PoolConfig) -> Self {
        let mut typed = Self {
            kind: config.kind(),
            name: config.name,
            path: None,
            vg: None,
            thin_pool: None,
            overprovision: None,
            reserve: Some(config.reserve).filter(|reserve| !reserve.is_none()),
            wipe: None,
        };
        let told = |ratio: Overprovision| (ratio != Overprovision::default()).then_some(ratio.0);
        match config.place {
            PoolPlace::Lvm { vg, wipe } => {
                typed.vg = Some(vg.0);
                typed.wipe = (wipe != Wipe::default()).then_some(wipe);
            }
            PoolPlace::Thin {
                vg,
                thin_pool,
                overprovision,
            } => {
                typed.vg = Some(vg.0);
                typed.thin_pool = Some(thin_pool.0);
                typed.overprovision = told(overprovision);
            }
            PoolPlace::File {
                path,
                overprovision,
            } => {
                typed.path = Some(path);
                typed.overprovision = told(overprovision);
            }
        }
        typed
    }
}

/// Making pools and giving them disks.
#[async_trait]
pub trait Pools: Send + Sync {
    /// Make a pool from a definition and remember it across restarts.
    ///
    /// # Errors
    /// [`crate::Kind::Exists`] when the name is taken, [`crate::Kind::Precondition`] for disks that are
    /// not blank, unless `force`.
    async fn create_pool(
        &self,
        config: PoolConfig,
        disks: &[PathBuf],
        force: bool,
    ) -> Result<PoolStatus>;

    /// Add disks to a pool.
    ///
    /// # Errors
    /// [`crate::Kind::NotFound`] for an unknown pool, [`crate::Kind::Precondition`] as in
    /// [`Pools::create_pool`], [`crate::Kind::Unsupported`] for a pool that takes no disks.
    async fn extend_pool(
        &self,
        name: &PoolName,
        disks: &[PathBuf],
        force: bool,
    ) -> Result<PoolStatus>;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> std::result::Result<PoolConfig, String> {
        serde_json::from_str(json).map_err(|e| e.to_string())
    }

    #[test]
    fn a_definition_is_written_as_it_was_typed() {
        for typed in [
            r#"{"name":"a","kind":"lvm","vg":"vg0"}"#,
            r#"{"name":"a","kind":"lvm","vg":"vg0","reserve":"5%","wipe":"discard"}"#,
            r#"{"name":"a","kind":"thin","vg":"vg0","thin-pool":"tp","overprovision":2.5}"#,
            r#"{"name":"a","kind":"file","path":"/srv/a","reserve":"10Gi"}"#,
        ] {
            let config = read(typed).unwrap();
            assert_eq!(serde_json::to_string(&config).unwrap(), typed);
        }
    }

    #[test]
    fn a_key_that_is_missing_wrong_or_of_another_kind_is_named() {
        for (keys, named) in [
            (r#""kind":"lvm""#, "needs the key vg"),
            (r#""kind":"lvm","vg":"-x""#, "is not a volume group name"),
            (
                r#""kind":"lvm","vg":"v","path":"/a""#,
                "path does not belong to kind lvm",
            ),
            (
                r#""kind":"lvm","vg":"v","overprovision":2"#,
                "overprovision does not belong to kind lvm",
            ),
            (r#""kind":"thin","vg":"v""#, "needs the key thin-pool"),
            (
                r#""kind":"thin","vg":"v","thin-pool":"t","wipe":"none""#,
                "wipe does not belong to kind thin",
            ),
            (
                r#""kind":"thin","vg":"v","thin-pool":"t","overprovision":0"#,
                "overprovision 0 is not between 0.1 and 100",
            ),
            (r#""kind":"file""#, "needs the key path"),
            (r#""kind":"file","path":"a""#, "an absolute directory"),
            (
                r#""kind":"file","path":"/a","vg":"v""#,
                "vg does not belong to kind file",
            ),
            (
                r#""kind":"file","path":"/a","size":1"#,
                "unknown field `size`",
            ),
            (r#""kind":"nfs","path":"/a""#, "unknown variant `nfs`"),
        ] {
            let e = read(&format!(r#"{{"name":"a",{keys}}}"#)).unwrap_err();
            assert!(e.contains(named), "{keys}: {e}");
        }
    }
}
