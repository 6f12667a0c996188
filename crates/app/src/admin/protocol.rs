//! What goes over the socket. The same structures are printed by `-o json`, so their fields are
//! an interface: add, do not rename.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use stowage_model::request::{Layout, Provisioning};
use stowage_model::volumes::{Job, PoolStatus, Snapshot, Volume};
use stowage_model::{Bytes, Limits, PoolConfig};

/// The longest request line, in bytes.
pub(crate) const MAX_REQUEST: usize = 64 << 10;

/// What a person asks for.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Request {
    PoolList,
    PoolCreate {
        pool: PoolConfig,
        disks: Vec<PathBuf>,
        force: bool,
    },
    PoolExtend {
        name: String,
        disks: Vec<PathBuf>,
        force: bool,
    },
    VolumeCreate(VolumeCreate),
    VolumeList,
    VolumeShow {
        name: String,
    },
    VolumeGrow {
        name: String,
        size: Bytes,
    },
    VolumeLimit {
        name: String,
        limits: Vec<(String, String)>,
    },
    VolumeMount {
        name: String,
        target: PathBuf,
        options: Vec<String>,
        read_only: bool,
        cgroup: Option<PathBuf>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        holder: Option<String>,
    },
    VolumeUnmount {
        name: Option<String>,
        target: PathBuf,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        holder: Option<String>,
    },
    VolumeDelete {
        name: String,
    },
    SnapshotCreate {
        volume: String,
        name: String,
        read_only: bool,
        /// VolumeSnapshotClass parameters.
        #[serde(default)]
        parameters: Vec<(String, String)>,
    },
    SnapshotList,
    SnapshotDelete {
        name: String,
    },
    Jobs,
    Doctor,
}

/// A volume to make: blank, or from a snapshot or volume.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(crate) struct VolumeCreate {
    pub(crate) name: String,
    /// Left out for copies: the size of the source.
    pub(crate) size: Option<Bytes>,
    /// StorageClass parameters.
    pub(crate) parameters: Vec<(String, String)>,
    pub(crate) block: bool,
    pub(crate) from_snapshot: Option<String>,
    pub(crate) from_volume: Option<String>,
    pub(crate) read_only: bool,
}

/// One line of the answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Answer {
    /// Still at it.
    Progress(Vec<Job>),
    /// What to know about the answer, for people.
    Warning(String),
    /// Done; what it is depends on the request.
    Done(serde_json::Value),
    /// Failed.
    Failed { kind: String, message: String },
}

/// A volume, as people see it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct VolumeView {
    pub(crate) name: String,
    /// Where the name was given; none for CSI and the command line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) door: Option<String>,
    pub(crate) id: String,
    pub(crate) pool: String,
    pub(crate) size: Bytes,
    /// `ext4`, `xfs`, `btrfs` or `block`.
    pub(crate) kind: String,
    /// `blank`, `ready`, `filling`; `unreadable` where its record is known in part only; `away`
    /// where its pool cannot be read, and this is how it was last known.
    pub(crate) state: String,
    pub(crate) limits: Limits,
    pub(crate) source: Option<String>,
    pub(crate) created: String,
    pub(crate) layout: String,
    pub(crate) provisioning: String,
    pub(crate) read_only: bool,
    pub(crate) ephemeral: bool,
    pub(crate) used_at: Vec<PathBuf>,
    /// Who holds mounts that are shared; told of one volume, not in lists.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) holders: Vec<Held>,
}

/// One who holds a mount.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Held {
    pub(crate) target: PathBuf,
    pub(crate) holder: String,
    pub(crate) times: u32,
}

impl From<&Volume> for VolumeView {
    fn from(volume: &Volume) -> Self {
        use stowage_model::record::Content;
        let record = &volume.record;
        let fs = record.content.file_system().or(record.usage.mount);
        Self {
            name: record.name.as_str().to_owned(),
            door: record.name.door().word().map(str::to_owned),
            id: record.id.to_string(),
            pool: volume.pool.to_string(),
            size: volume.size,
            kind: fs.map_or_else(|| "block".to_owned(), |fs| fs.to_string()),
            state: match record.content {
                _ if volume.away => "away",
                _ if record.beyond.is_some() => "unreadable",
                Content::Blank => "blank",
                Content::Filling => "filling",
                Content::FileSystem(_) | Content::Twin(_) | Content::Raw => "ready",
            }
            .to_owned(),
            limits: record.limits,
            source: record.source.as_ref().map(ToString::to_string),
            created: record.created.to_string(),
            layout: Layout::as_str(record.layout).to_owned(),
            provisioning: Provisioning::as_str(record.provisioning).to_owned(),
            read_only: record.read_only,
            ephemeral: record.ephemeral,
            used_at: volume.used_at.clone(),
            holders: Vec::new(),
        }
    }
}

/// A snapshot, as people see it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct SnapshotView {
    pub(crate) name: String,
    /// As [`VolumeView::door`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) door: Option<String>,
    pub(crate) id: String,
    pub(crate) pool: String,
    pub(crate) source: Option<String>,
    pub(crate) size: Bytes,
    pub(crate) created: String,
    pub(crate) read_only: bool,
    pub(crate) group: Option<String>,
    pub(crate) lost: bool,
    /// Its pool cannot be read, and this is how it was last known.
    #[serde(default)]
    pub(crate) away: bool,
}

impl From<&Snapshot> for SnapshotView {
    fn from(snapshot: &Snapshot) -> Self {
        let record = &snapshot.record;
        Self {
            name: record.name.as_str().to_owned(),
            door: record.name.door().word().map(str::to_owned),
            id: record.id.to_string(),
            pool: snapshot.pool.to_string(),
            source: record.source.as_ref().map(ToString::to_string),
            size: snapshot.size,
            created: record.created.to_string(),
            read_only: record.read_only,
            group: record.group.as_ref().map(|m| m.group.to_string()),
            lost: snapshot.lost,
            away: snapshot.away,
        }
    }
}

/// A name with its door, as tables show it: `docker/data`.
pub(crate) fn shown(door: Option<&str>, name: &str) -> String {
    match door {
        None => name.to_owned(),
        Some(door) => format!("{door}/{name}"),
    }
}

/// Pools, as people see them: the status itself.
pub(crate) type PoolView = PoolStatus;
