//! The command line. Doc comments here are the help text.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use stowage_host::Devno;
use stowage_model::{Bytes, PoolKind, Reserve};

use crate::config::DEFAULT_ADMIN_SOCKET;

/// Volumes for containers from this machine's own disks.
///
/// `stowage serve` is the daemon: it serves CSI to Kubernetes and answers the other commands.
/// Without a configuration it keeps volumes as files under /var/lib/stowage, so you can try:
///
///   stowage serve &
///   stowage volume create data --size 10Gi
///   stowage volume mount data /mnt/data
#[derive(Debug, Parser)]
#[command(
    name = "stowage",
    version,
    propagate_version = true,
    verbatim_doc_comment
)]
pub(crate) struct Cli {
    /// Print tables for people, or JSON for scripts.
    #[arg(short, long, global = true, value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
    /// The daemon's socket.
    #[arg(long, global = true, env = "STOWAGE_SOCKET", default_value = DEFAULT_ADMIN_SOCKET)]
    pub(crate) socket: PathBuf,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// Aligned columns.
    Table,
    /// JSON.
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the daemon.
    Serve {
        /// Configuration file (TOML); /etc/stowage/config.toml is read if it exists.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Places that hold volumes.
    #[command(subcommand)]
    Pool(Pool),
    /// Volumes.
    #[command(subcommand)]
    Volume(Volume),
    /// Snapshots of volumes.
    #[command(subcommand)]
    Snapshot(Snapshot),
    /// Copies and wipes under way.
    Jobs {
        /// Show how they come along, until there are none.
        #[arg(long)]
        watch: bool,
    },
    /// Say what is wrong and how to mend it. Exits with 1 when something does not work.
    Doctor,
    /// Print a completion script for your shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Freeze file systems, and thaw them when stdin closes (started by the daemon itself).
    #[command(name = "internal-thaw", hide = true)]
    InternalThaw {
        /// Seconds to wait at most.
        bound: f64,
        /// Devices of device mapper, as MAJOR:MINOR, to resume then.
        #[arg(long)]
        resume: Vec<Devno>,
        /// Mount points.
        paths: Vec<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Pool {
    /// List the pools.
    #[command(visible_alias = "ls")]
    List,
    /// Make a pool.
    ///
    /// Disks must be blank: one with a file system, partition table or any other signature is
    /// refused, and what was found is named. --force uses it all the same and destroys what is on
    /// it; a disk in use is refused even then.
    Create(PoolCreate),
    /// Add disks to a pool's volume group.
    Extend {
        /// The pool.
        name: String,
        /// Disks to add.
        #[arg(required = true, value_name = "DISK")]
        disks: Vec<PathBuf>,
        /// Destroy what is on the disks.
        #[arg(long)]
        force: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct PoolCreate {
    /// Name of the new pool.
    pub(crate) name: String,
    /// lvm: thick logical volumes; thin: an LVM thin pool; file: files in a directory.
    #[arg(long)]
    pub(crate) kind: PoolKind,
    /// Volume group to make or use (lvm, thin); the pool's name when left out.
    #[arg(long)]
    pub(crate) vg: Option<String>,
    /// LVM thin pool to make or use (thin); "thinpool" when left out.
    #[arg(long)]
    pub(crate) thin_pool: Option<String>,
    /// Directory (file), best on xfs or btrfs.
    #[arg(long)]
    pub(crate) path: Option<PathBuf>,
    /// Disks to make the volume group from; none when it exists.
    #[arg(long = "disk", value_name = "DISK")]
    pub(crate) disks: Vec<PathBuf>,
    /// How many times the space may be promised to thin volumes.
    #[arg(long)]
    pub(crate) overprovision: Option<f64>,
    /// What is promised to nobody: a size, as 10Gi, or a part of the pool, as 5%.
    #[arg(long)]
    pub(crate) reserve: Option<Reserve>,
    /// Destroy what is on the disks.
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Volume {
    /// Make a volume.
    Create(VolumeCreate),
    /// List the volumes.
    #[command(visible_alias = "ls")]
    List,
    /// Show one volume.
    Show {
        /// Name or id.
        name: String,
    },
    /// Make a volume larger, in use or not. Volumes never shrink.
    Grow {
        /// Name or id.
        name: String,
        /// The new size, like 20Gi.
        size: Bytes,
    },
    /// Change I/O limits, in use or not.
    Limit {
        /// Name or id.
        name: String,
        /// bps, iops (reading and writing each), rbps, wbps, riops, wiops; 0 lifts a limit.
        #[arg(required = true, value_name = "KEY=VALUE", value_parser = pair)]
        limits: Vec<(String, String)>,
    },
    /// Mount a volume; a block volume appears as a device at the path.
    ///
    /// It stays mounted until it is unmounted or the machine is restarted, whatever becomes of the
    /// daemon. After a restart of the machine it is to be mounted again; `stowage doctor` tells what
    /// was mounted and with which command it is again.
    Mount {
        /// Name or id.
        name: String,
        /// Directory (or file, for a block volume) to make; its parent exists.
        target: PathBuf,
        /// Mount option, like noatime. Where the volume is mounted already, its options stay.
        #[arg(long = "option", value_name = "OPTION")]
        options: Vec<String>,
        /// Mount read-only.
        #[arg(long)]
        read_only: bool,
        /// The consumer's cgroup, which the volume's I/O limits are set on; without one they hold for
        /// nobody. Its directory below /sys/fs/cgroup (cgroup v1: below the one of blkio), or its path
        /// as in /proc/PID/cgroup.
        #[arg(long, value_name = "DIR")]
        cgroup: Option<PathBuf>,
        /// Share the mount: it ends when each holder has unmounted it as often as it mounted it. Any
        /// word of yours, a job's id say.
        #[arg(long, value_name = "ID")]
        holder: Option<String>,
    },
    /// Unmount a volume.
    #[command(visible_alias = "umount")]
    Unmount {
        /// Where it is mounted.
        target: PathBuf,
        /// The holder that needs a shared mount no longer.
        #[arg(long, value_name = "ID")]
        holder: Option<String>,
    },
    /// Delete a volume and what is on it.
    #[command(visible_alias = "rm")]
    Delete {
        /// Name or id.
        name: String,
        /// Wait until its blocks are wiped and its space is free.
        #[arg(long)]
        wait: bool,
    },
    /// Make a volume that starts as a copy of another.
    Clone {
        /// The volume to copy: name or id.
        source: String,
        /// Name of the new volume.
        name: String,
        /// Size, at least the source's; the source's when left out.
        #[arg(long)]
        size: Option<Bytes>,
        /// Pool for the copy; the source's when left out.
        #[arg(long)]
        pool: Option<String>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct VolumeCreate {
    /// Name of the new volume.
    pub(crate) name: String,
    /// Size, like 10Gi (powers of 1024) or 10G (powers of 1000).
    #[arg(long)]
    pub(crate) size: Bytes,
    /// Pool; the one with the most room when left out.
    #[arg(long)]
    pub(crate) pool: Option<String>,
    /// File system: ext4, xfs or btrfs.
    #[arg(long, default_value = "ext4", conflicts_with = "block")]
    pub(crate) fs: String,
    /// Hand it out as a raw block device instead.
    #[arg(long)]
    pub(crate) block: bool,
    /// Take blocks when first written instead of at once (file pools).
    #[arg(long)]
    pub(crate) thin: bool,
    /// linear, striped or raid1 (lvm pools).
    #[arg(long)]
    pub(crate) layout: Option<String>,
    /// Options for mkfs, from an allowed list.
    #[arg(long, value_name = "OPTIONS", allow_hyphen_values = true)]
    pub(crate) mkfs_options: Option<String>,
    /// I/O limit, like bps=10Mi or iops=500; keys as for `volume limit`.
    #[arg(long = "limit", value_name = "KEY=VALUE", value_parser = pair)]
    pub(crate) limits: Vec<(String, String)>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Snapshot {
    /// Cut a snapshot of a volume, in use or not.
    Create {
        /// The volume: name or id.
        volume: String,
        /// Name of the snapshot.
        name: String,
        /// Volumes restored from it only read it in place, taking no space of their own.
        #[arg(long)]
        read_only: bool,
        /// Size of its copy-on-write store at first (lvm pools); 4Gi when left out.
        #[arg(long, value_name = "SIZE")]
        initial_size: Option<Bytes>,
        /// How full the store may become before it grows, 1% to 95% (lvm pools); 50% when left out.
        #[arg(long, value_name = "PERCENT")]
        grow_at: Option<String>,
        /// By how much it grows (lvm pools); 1Gi when left out.
        #[arg(long, value_name = "SIZE")]
        grow_by: Option<Bytes>,
    },
    /// List the snapshots.
    #[command(visible_alias = "ls")]
    List,
    /// Make a volume from a snapshot.
    Restore {
        /// The snapshot: name or id.
        snapshot: String,
        /// Name of the new volume.
        name: String,
        /// Size, at least the snapshot's; the snapshot's when left out.
        #[arg(long)]
        size: Option<Bytes>,
        /// Pool for the volume; the snapshot's when left out.
        #[arg(long)]
        pool: Option<String>,
    },
    /// Delete a snapshot.
    #[command(visible_alias = "rm")]
    Delete {
        /// Name or id.
        name: String,
    },
}

fn pair(text: &str) -> Result<(String, String), String> {
    text.split_once('=')
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .ok_or_else(|| format!("{text:?} is not KEY=VALUE, like bps=10Mi"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        super::Cli::command().debug_assert();
    }
}
