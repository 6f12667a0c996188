//! What a caller asks for, as meant: parsed once at a door, checked, typed.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::{Bytes, Error, FsType, Id, Name, PoolName, Result, VolumeRequest};

/// How a pool keeps its bytes.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum PoolKind {
    /// Thick logical volumes in a volume group.
    Lvm,
    /// Thin logical volumes in an LVM thin pool.
    Thin,
    /// Files behind loop devices in a directory.
    File,
}

impl PoolKind {
    /// The word used in configuration, on the disk and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            PoolKind::Lvm => "lvm",
            PoolKind::Thin => "thin",
            PoolKind::File => "file",
        }
    }
}

impl fmt::Display for PoolKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for PoolKind {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        match text {
            "lvm" => Ok(PoolKind::Lvm),
            "thin" => Ok(PoolKind::Thin),
            "file" => Ok(PoolKind::File),
            _ => Err(Error::invalid(format!(
                "pool kind {text:?} is unknown; use lvm, thin or file"
            ))),
        }
    }
}

/// The medium under a pool, as the kernel's `queue/rotational` tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Media {
    /// Not rotating.
    Ssd,
    /// Rotating.
    Hdd,
}

impl Media {
    /// The word used in parameters.
    pub fn as_str(self) -> &'static str {
        match self {
            Media::Ssd => "ssd",
            Media::Hdd => "hdd",
        }
    }
}

/// How a thick logical volume is laid over the disks of its group.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Layout {
    /// One extent after the other.
    #[default]
    Linear,
    /// Striped over every disk with room (open-local's `lvmType: striping`).
    Striped,
    /// Two copies on two disks.
    Raid1,
}

impl Layout {
    /// The word kept on the disk.
    pub fn as_str(self) -> &'static str {
        match self {
            Layout::Linear => "linear",
            Layout::Striped => "striped",
            Layout::Raid1 => "raid1",
        }
    }
}

impl FromStr for Layout {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        match text {
            "linear" => Ok(Layout::Linear),
            "striped" | "striping" => Ok(Layout::Striped),
            "raid1" => Ok(Layout::Raid1),
            _ => Err(Error::invalid(format!(
                "lvmType {text:?} is unknown; use linear, striping or raid1"
            ))),
        }
    }
}

/// Whether a file-pool volume's space is set aside at once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Provisioning {
    /// All of it is allocated when the volume is made.
    #[default]
    Thick,
    /// Blocks are taken when first written.
    Thin,
}

impl Provisioning {
    /// The word kept on the disk.
    pub fn as_str(self) -> &'static str {
        match self {
            Provisioning::Thick => "thick",
            Provisioning::Thin => "thin",
        }
    }
}

impl FromStr for Provisioning {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        match text {
            "thick" => Ok(Provisioning::Thick),
            "thin" => Ok(Provisioning::Thin),
            _ => Err(Error::invalid(format!(
                "provisioning {text:?} is unknown; use thick or thin"
            ))),
        }
    }
}

/// Which pools may hold the volume; every `Some` narrows the choice.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Placement {
    /// The pool of this name.
    pub pool: Option<PoolName>,
    /// A pool in this volume group.
    pub vg: Option<String>,
    /// A pool of this kind.
    pub kind: Option<PoolKind>,
    /// A pool on this medium.
    pub media: Option<Media>,
}

impl Placement {
    /// The choice in words, for an error: `pool "fast"`, `kind lvm, volume group "vg0"`.
    pub fn describe(&self) -> String {
        let parts: Vec<String> = [
            self.pool.as_ref().map(|p| format!("name {p}")),
            self.kind.map(|k| format!("kind {k}")),
            self.vg.as_ref().map(|v| format!("volume group {v}")),
            self.media.map(|m| format!("medium {}", m.as_str())),
        ]
        .into_iter()
        .flatten()
        .collect();
        if parts.is_empty() {
            "any kind".to_owned()
        } else {
            parts.join(", ")
        }
    }
}

/// The size wanted, as CSI gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SizeRange {
    /// At least this much.
    pub required: Bytes,
    /// At most this much, when the caller cares.
    pub limit: Option<Bytes>,
}

impl SizeRange {
    /// At least `required`, no upper bound.
    pub fn at_least(required: Bytes) -> Self {
        Self {
            required,
            limit: None,
        }
    }

    /// Check a range as CSI defines it: not both zero, required not above limit.
    ///
    /// # Errors
    /// [`crate::Kind::Invalid`] or [`crate::Kind::OutOfRange`].
    pub fn new(required: Bytes, limit: Option<Bytes>) -> Result<Self> {
        if required > crate::bytes::MAX || limit.is_some_and(|l| l > crate::bytes::MAX) {
            return Err(Error::out_of_range(
                "the size is beyond the largest possible, 8Ei - 1",
            ));
        }
        match limit {
            Some(limit) if required > limit => Err(Error::out_of_range(format!(
                "the size asked, {required}, is above its own limit, {limit}"
            ))),
            _ if required.0 == 0 && limit.is_none() => {
                Err(Error::invalid("the size is 0; ask for at least 1Mi"))
            }
            _ => Ok(Self { required, limit }),
        }
    }

    /// Whether `size` lies within.
    pub fn contains(&self, size: Bytes) -> bool {
        size >= self.required && self.limit.is_none_or(|l| size <= l)
    }
}

/// How the volume may be used: as a file system, as a raw block device, or as either.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Usage {
    /// Mounted with this file system.
    pub mount: Option<FsType>,
    /// Handed out as a block device.
    pub block: bool,
}

/// Who may use a volume at once. All modes are of one node: the bytes live there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AccessMode {
    /// CSI SINGLE_NODE_WRITER: writable on one node.
    SingleNodeWriter,
    /// CSI SINGLE_NODE_SINGLE_WRITER: writable at one target (ReadWriteOncePod).
    SingleNodeSingleWriter,
    /// CSI SINGLE_NODE_MULTI_WRITER: writable at many targets of one node.
    SingleNodeMultiWriter,
    /// CSI SINGLE_NODE_READER_ONLY and MULTI_NODE_READER_ONLY: read only.
    ReaderOnly,
}

/// Where a new volume's first bytes come from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Source {
    /// The state kept by a snapshot.
    Snapshot(Id),
    /// The present state of a volume.
    Volume(Id),
}

impl Source {
    /// The id of the source.
    pub fn id(&self) -> &Id {
        match self {
            Source::Snapshot(id) | Source::Volume(id) => id,
        }
    }
}

/// How a copy-on-write snapshot's own store grows before it overflows (thick LVM only).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotGrowth {
    /// Store size at the cut.
    pub initial: Bytes,
    /// Fill level, in percent, at which it grows.
    pub threshold: u8,
    /// By how much it grows.
    pub step: Bytes,
}

impl Default for SnapshotGrowth {
    /// open-local's defaults: 4Gi, 50 %, 1Gi.
    fn default() -> Self {
        Self {
            initial: Bytes::gib(4),
            threshold: 50,
            step: Bytes::gib(1),
        }
    }
}

/// A snapshot to cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotRequest {
    /// The caller's name; the same name is the same snapshot.
    pub name: Name,
    /// The volume to cut.
    pub source: Id,
    /// Volumes made from it only read it in place (open-local's `csi.aliyun.com/readonly`).
    pub read_only: bool,
    /// Store of a copy-on-write snapshot.
    pub growth: SnapshotGrowth,
}

/// A group of snapshots to cut at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupRequest {
    /// The caller's name.
    pub name: Name,
    /// The volumes to cut.
    pub sources: Vec<Id>,
    /// As in [`SnapshotRequest`].
    pub read_only: bool,
    /// As in [`SnapshotRequest`].
    pub growth: SnapshotGrowth,
}

/// How a caller wants to reach a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    /// As a mounted file system.
    Mount {
        /// The type the caller expects; `None` leaves it to the volume.
        fs: Option<FsType>,
        /// Mount options as given, unchecked until the file system is known.
        flags: Vec<String>,
    },
    /// As a raw block device.
    Block,
}

/// Make a volume ready on this node, at `staging`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StageRequest {
    /// The volume.
    pub id: Id,
    /// The directory to mount at; exists already.
    pub staging: PathBuf,
    /// File system or block.
    pub access: Access,
    /// Who may use it at once.
    pub mode: AccessMode,
}

/// Hand a staged volume to a consumer, at `target`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishRequest {
    /// The volume.
    pub id: Id,
    /// Where it was staged.
    pub staging: PathBuf,
    /// Directory (file system) or file (block) to make; its parent exists.
    pub target: PathBuf,
    /// File system or block.
    pub access: Access,
    /// Who may use it at once.
    pub mode: AccessMode,
    /// The consumer may only read.
    pub read_only: bool,
    /// The consumer's cgroup, when known; else found from the pod uid in `target`.
    pub cgroup: Option<PathBuf>,
}

/// A volume that lives and dies with one consumer (CSI inline ephemeral).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EphemeralRequest {
    /// What to make; its name is kubelet's handle.
    pub volume: VolumeRequest,
    /// Directory to make and mount at.
    pub target: PathBuf,
    /// Mount options as given.
    pub flags: Vec<String>,
    /// The consumer may only read.
    pub read_only: bool,
}
