//! Where bytes live. One file (or folder) per kind of pool, each with the same rooms: making the
//! pool, reading back what is there (`scan`), volumes, snapshots, removal, upkeep (`tend`).
//!
//! ```text
//!   node ──▶ dyn Pool ──▶ lvm   thick LVs in a volume group        ──▶ host::Runner (lvm commands)
//!                     ├─▶ thin  thin LVs in an LVM thin pool       ──▶ host::Runner (lvm commands)
//!                     └─▶ file  loop files in a directory          ──▶ host::{reflink, loopdev, ..}
//! ```
//!
//! A pool is told *what* to do with ids and records that were checked before. It keeps no index:
//! `node` does, from `scan` and from what it asked for. It must not know CSI, mounts of consumers,
//! cgroups, or who asked. The caller holds the lock of a volume while it changes it; calls for
//! different volumes run side by side.

mod contract;
pub mod file;
pub mod lvm;
pub mod thin;
mod vg;

pub use contract::{
    Attach, Backing, BlockDevices, Clones, Defect, Device, Disks, Found, Hold, Leftover, Pool,
    Removed, Scan, Snapshots, Turn, Written,
};
