//! The room where Stowage touches the machine: it runs commands, mounts, and asks the kernel.
//!
//! What it must not know: volumes, pools, CSI, Kubernetes, configuration. Paths, device numbers
//! and bytes come in; results and errors that name the thing that failed go out. It is the only
//! crate that may start a process, mount, or hold `unsafe` (ioctls and mount_setattr(2)), which
//! `clippy.toml` and the lint tables of the workspace enforce.
//!
//! ```text
//!  run       command (Cmd, Runner, System) · command/fake (Script) · blocking · progress
//!  keep      durable (atomic files) · lock (one daemon, one a pool, and their orphans) · failpoint
//!  mount     path (Target) · mountinfo (the table) · options · mount · holders (who is busy)
//!  devices   devno · device (sysfs, in use) · dm (device mapper's own word) · wipe (zero, discard, sync)
//!            loopdev
//!  contents  probe (blkid and zeros) · filesystem (mkfs, grow) · usage (statvfs) · freeze · reflink · copy
//!            extents (which blocks a file has, and lacks)
//!  limits    cgroup (I/O throttling, v1 and v2)
//!  kernel    kernel (what it lacks)
//!  log       repeat (what goes wrong again and again)
//! ```
//!
//! The rooms `mountinfo`, `options` and `holders` are seen through [`mount`], `wipe` through
//! [`device`], `usage` through [`filesystem`], `copy` and `extents` through [`reflink`].
//!
//! Most functions block: call those that reach a disk through [`blocking()`] from async code, and
//! those that go over a whole device through [`on_own_thread`].

pub mod blocking;
pub mod cgroup;
pub mod command;
mod copy;
pub mod device;
pub mod devno;
pub mod disks;
pub mod dm;
pub mod durable;
pub mod error;
mod extents;
pub mod failpoint;
pub mod filesystem;
pub mod freeze;
mod holders;
pub mod kernel;
pub mod lock;
pub mod loopdev;
pub mod mount;
mod mountinfo;
mod options;
pub mod path;
pub mod probe;
pub mod progress;
pub mod reflink;
mod repeat;
mod usage;
mod wipe;

#[cfg(feature = "fake")]
pub use command::fake;

#[cfg(test)]
mod testing;

pub use blocking::{blocking, on_own_thread};
pub use command::{Cmd, CmdError, Output, Runner, System};
pub use devno::Devno;
pub use error::FsError;
pub use holders::{Holder, runs_no_more};
pub use lock::{Claim, Lock, LockError, Locks};
pub use path::Target;
pub use progress::Progress;
pub use repeat::Repeat;
