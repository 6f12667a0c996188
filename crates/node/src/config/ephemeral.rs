//! What the authors of pods may ask for inline volumes. A class is written by an administrator, an
//! inline volume by whoever may run a pod: what lets a class author place, lay out and size a volume
//! at will must not be theirs. Held here and not in a door, so that it holds for every door.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, de};
use stowage_model::request::{EphemeralRequest, Layout, Provisioning};
use stowage_model::volume_request::{DEFAULT_SIZE, Wanted};
use stowage_model::{Bytes, Error, Limits, LimitsChange, PoolName, Result};

/// `[ephemeral]` in the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct EphemeralRules {
    /// Whether there are inline volumes at all.
    pub enabled: bool,
    /// The pools they may lie in; every pool when absent.
    pub pools: Option<Vec<PoolName>>,
    /// The largest one.
    #[serde(deserialize_with = "size")]
    pub max_size: Bytes,
    /// How much of a pool all of them together may be, in percent.
    #[serde(deserialize_with = "percentage")]
    pub max_share: u8,
    /// How many of them may be in one pool. Their size does not bound that: each takes room in a
    /// volume group's metadata, or an inode, however small it is.
    pub max_count: u32,
    /// The limits of those that name none, and the highest of those that do.
    #[serde(deserialize_with = "limits")]
    pub limits: Limits,
}

impl Default for EphemeralRules {
    fn default() -> Self {
        Self {
            enabled: true,
            pools: None,
            max_size: Bytes::gib(64),
            max_share: 25,
            // A kubelet has 110 pods unless it is told otherwise; a small metadata area of LVM, 1 MiB,
            // has room for some 300 volumes.
            max_count: 128,
            limits: Limits::default(),
        }
    }
}

impl EphemeralRules {
    /// Check what was configured.
    ///
    /// # Errors
    /// [`stowage_model::Kind::Invalid`] naming the key.
    pub fn check(&self) -> Result<()> {
        if self.pools.as_ref().is_some_and(Vec::is_empty) {
            return Err(Error::invalid(
                "ephemeral.pools names no pool; leave it out for all of them, or set enabled = \
                 false to refuse inline volumes",
            ));
        }
        if self.max_size < Bytes::mib(1) {
            return Err(Error::invalid(format!(
                "ephemeral.max-size: {} is less than the smallest volume, 1Mi; set enabled = false \
                 to refuse inline volumes",
                self.max_size
            )));
        }
        if self.max_count == 0 {
            return Err(Error::invalid(
                "ephemeral.max-count is 0; set enabled = false to refuse inline volumes",
            ));
        }
        Ok(())
    }

    /// Whether a pod's author may have this.
    ///
    /// # Errors
    /// [`stowage_model::Kind::Invalid`], or [`stowage_model::Kind::OutOfRange`] for the size, naming
    /// the key and the way out; [`stowage_model::Kind::Precondition`] where there are none.
    pub(crate) fn vet(&self, want: &EphemeralRequest) -> Result<()> {
        if !self.enabled {
            return Err(Error::precondition(
                "inline volumes are switched off on this node; use a volume claim, or have the \
                 administrator set enabled = true under [ephemeral] in the daemon's configuration",
            ));
        }
        let volume = &want.volume;
        let chosen = [
            ("volumeType", volume.placement.kind.is_some()),
            ("mediaType", volume.placement.media.is_some()),
            ("lvmType", volume.layout != Layout::default()),
            (
                "provisioning",
                volume.provisioning != Provisioning::default(),
            ),
            ("mkfsOptions", volume.mkfs.is_some()),
        ];
        if let Some((key, _)) = chosen.into_iter().find(|(_, chosen)| *chosen) {
            return Err(Error::invalid(format!(
                "parameter {key}: not for the author of a pod to choose for an inline volume; \
                 leave it out, or use a volume claim with a class that has it"
            )));
        }
        if volume.source.is_some() || !matches!(volume.usage, Wanted::Mount(_)) {
            return Err(Error::invalid(
                "an inline volume is a new file system, neither a copy nor a block device; use a \
                 volume claim for one",
            ));
        }
        let size = volume.size.unwrap_or(DEFAULT_SIZE);
        if size > self.max_size {
            return Err(Error::out_of_range(format!(
                "parameter size: {size} is more than {}, the largest inline volume on this node; \
                 ask for less, use a volume claim, or have the administrator raise max-size under \
                 [ephemeral]",
                self.max_size
            )));
        }
        if let (Some(pool), Some(allowed)) = (&volume.placement.pool, &self.pools)
            && !allowed.contains(pool)
        {
            return Err(self.not_there(&format!("pool {pool}")));
        }
        self.limited(volume.limits).map(drop)
    }

    /// Whether inline volumes may lie in this pool.
    pub(crate) fn may_lie_in(&self, pool: &PoolName) -> bool {
        self.pools.as_ref().is_none_or(|all| all.contains(pool))
    }

    /// The refusal of a place that is not for inline volumes.
    pub(crate) fn not_there(&self, place: &str) -> Error {
        let all: Vec<&str> = self.pools.iter().flatten().map(PoolName::as_str).collect();
        Error::invalid(format!(
            "inline volumes may not lie in {place}, only in the pool(s) {}; name one of these, or \
             use a volume claim",
            all.join(", ")
        ))
    }

    /// The limits that come of what was asked.
    ///
    /// # Errors
    /// [`stowage_model::Kind::Invalid`] for one above those of the node.
    pub(crate) fn limited(&self, asked: Limits) -> Result<Limits> {
        let most = self.limits;
        let side = |key: &str, asked: Option<u64>, most: Option<u64>| match (asked, most) {
            (Some(asked), Some(most)) if asked > most => Err(Error::invalid(format!(
                "parameter {key} (or {}): {asked} is more than {most}, the most for an inline \
                 volume on this node; ask for less or leave it out",
                &key[1..]
            ))),
            (asked, most) => Ok(asked.or(most)),
        };
        Ok(Limits {
            read_bps: side("rbps", asked.read_bps, most.read_bps)?,
            write_bps: side("wbps", asked.write_bps, most.write_bps)?,
            read_iops: side("riops", asked.read_iops, most.read_iops)?,
            write_iops: side("wiops", asked.write_iops, most.write_iops)?,
        })
    }
}

/// A value that may be typed as a number or as text.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a number, or text like \"64Gi\"")]
enum Typed {
    Number(u64),
    Text(String),
}

impl Typed {
    fn text(self) -> String {
        match self {
            Self::Number(number) => number.to_string(),
            Self::Text(text) => text,
        }
    }
}

fn size<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<Bytes, D::Error> {
    let text = Typed::deserialize(from)?.text();
    text.parse().map_err(de::Error::custom)
}

fn percentage<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<u8, D::Error> {
    let text = Typed::deserialize(from)?.text();
    let number = text.strip_suffix('%').unwrap_or(&text).trim().parse().ok();
    number
        .filter(|n| (1..=100).contains(n))
        .ok_or_else(|| de::Error::custom(format!("{text:?} is not a percentage from 1 to 100")))
}

fn limits<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<Limits, D::Error> {
    let typed = BTreeMap::<String, Typed>::deserialize(from)?;
    let typed = typed.into_iter().map(|(key, value)| (key, value.text()));
    let change = LimitsChange::from_map(&typed.collect()).map_err(de::Error::custom)?;
    Ok(change.applied_to(Limits::default()))
}
