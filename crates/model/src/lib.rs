//! The words every room speaks: ids, sizes, errors, what may be asked of a volume, and what is
//! written on the disk about it. Pure: no I/O, no clock, no protocol, no command.
//!
//! ```text
//!   params  (StorageClass keys, as typed)  ──parse──▶  VolumeRequest  ──settled──▶  VolumeSpec
//!   request ──▶ Volumes / Publish / Mounts / Pools (traits; doors call them, `node` implements them)
//!   record::Record  ◀──codec──▶  LV tags, metadata file   (the truth, kept on the disk)
//! ```
//!
//! This room must not know how a pool stores bytes, nor which door asked.
#![warn(missing_docs)]

pub mod bytes;
pub mod error;
pub mod filesystem;
pub mod fingerprint;
pub mod id;
pub mod limits;
pub mod mounts;
pub mod params;
pub mod pool;
pub mod publish;
pub mod record;
pub mod request;
pub mod reserve;
pub mod volume_request;
pub mod volumes;

pub use bytes::Bytes;
pub use error::{Error, Kind, Result};
pub use filesystem::FsType;
pub use fingerprint::Fingerprint;
pub use id::{Id, Name, PoolName};
pub use limits::{Limits, LimitsChange};
pub use mounts::{Holder, MountRequest, Mounts};
pub use pool::{PoolConfig, Pools};
pub use publish::Publish;
pub use record::Record;
pub use request::{PoolKind, SnapshotRequest};
pub use reserve::Reserve;
pub use volume_request::{VolumeRequest, VolumeSpec};
pub use volumes::{Snapshot, Volume, Volumes};
