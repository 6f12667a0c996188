//! Making and growing file systems.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::thread::CapabilitySet;

use crate::blocking::blocking;
use crate::command::{Cmd, CmdError, Runner};
use crate::device::{self, Devno};
use crate::error::FsError;

pub use crate::usage::{Usage, size, statvfs_bounded};

/// Why a file system could not be made or changed.
#[derive(Debug, thiserror::Error)]
pub enum FilesystemError {
    #[error(
        "failed to use the file system type {fstype:?}: not one of ext2, ext3, ext4, xfs, btrfs"
    )]
    Unsupported { fstype: String },
    #[error(
        "failed to give the btrfs copy on {} a UUID of its own: it has a log to be replayed; \
         mount and unmount the original once, then copy it again",
        device.display()
    )]
    Unreplayed { device: PathBuf },
    #[error(transparent)]
    Command(#[from] CmdError),
    #[error(transparent)]
    Device(#[from] FsError),
}

enum Family {
    Ext,
    Xfs,
    Btrfs,
}

fn family(fstype: &str) -> Result<Family, FilesystemError> {
    match fstype {
        "ext2" | "ext3" | "ext4" => Ok(Family::Ext),
        "xfs" => Ok(Family::Xfs),
        "btrfs" => Ok(Family::Btrfs),
        _ => Err(FilesystemError::Unsupported {
            fstype: fstype.to_owned(),
        }),
    }
}

/// Makes a file system on all of `device`, over whatever is there: probe first.
///
/// `extra_args` go before the device and must have been checked by the caller; `uuid` is the
/// textual form. Every program is told to ask nothing and to overwrite what an earlier, killed run
/// left; discarding and lazy initialisation stay at their defaults, as both only save time.
///
/// # Errors
/// The program's own reason; `TimedOut` after two minutes plus two seconds a GiB.
pub async fn mkfs(
    runner: &dyn Runner,
    fstype: &str,
    device: &Path,
    extra_args: &[String],
    uuid: Option<&str>,
) -> Result<(), FilesystemError> {
    if fstype == "btrfs" && uuid.is_some() {
        // mkfs.btrfs refuses a UUID that any device has, even if that is the one it is to
        // overwrite: the second run after a kill would fail ("non-unique UUID", 6.2).
        runner
            .run(Cmd::new("wipefs").args(["-q", "-a"]).arg(device))
            .await?;
    }
    let cmd = Cmd::new(format!("mkfs.{fstype}"));
    let cmd = match family(fstype)? {
        // -F: also when it does not look like an empty block device; it never asks off a terminal.
        Family::Ext => cmd
            .args(["-q", "-F"])
            .args(uuid.map(|it| ["-U", it]).iter().flatten()),
        Family::Xfs => {
            let uuid = uuid.map(|it| format!("uuid={it}"));
            let cmd = cmd.args(["-q", "-f"]);
            uuid.into_iter()
                .fold(cmd, |cmd, uuid| cmd.args(["-m".to_owned(), uuid]))
        }
        Family::Btrfs => cmd
            .args(["-q", "-f"])
            .args(uuid.map(|it| ["-U", it]).iter().flatten()),
    };
    let cmd = cmd
        .args(extra_args)
        .arg(device)
        .timeout(time_for(device).await?);
    runner.run(cmd).await?;
    Ok(())
}

/// Lets a mounted file system fill its grown device; one that does already is left as it is.
///
/// # Errors
/// The program's own reason. ext2 cannot grow while mounted; ext3 and ext4 only for a process with
/// CAP_SYS_RESOURCE, else resize2fs says "Permission denied to resize filesystem".
pub async fn grow(
    runner: &dyn Runner,
    fstype: &str,
    device: &Path,
    mountpoint: &Path,
) -> Result<(), FilesystemError> {
    let cmd = match family(fstype)? {
        Family::Ext => Cmd::new("resize2fs").arg(device),
        Family::Xfs => Cmd::new("xfs_growfs").arg("-d").arg(mountpoint),
        Family::Btrfs => Cmd::new("btrfs")
            .args(["filesystem", "resize", "max"])
            .arg(mountpoint),
    };
    runner.run(cmd.timeout(time_for(device).await?)).await?;
    Ok(())
}

/// Whether this process may let a mounted file system of this type grow: ext3 and ext4 ask for
/// CAP_SYS_RESOURCE (fs/ext4/resize.c, `ext4_resize_begin`), ext2 cannot.
pub fn grows_mounted(fstype: &str) -> bool {
    let may = || {
        rustix::thread::capabilities(None)
            .is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_RESOURCE))
    };
    match fstype {
        "ext2" => false,
        "ext3" | "ext4" => may(),
        _ => true,
    }
}

/// Lets an unmounted ext file system fill its grown device. resize2fs(8) wants it checked first;
/// the check mends what a lost journal left and gives up on anything worse. Neither is ever ended:
/// cut off half way, resize2fs has moved some of the blocks and inodes and not the others.
///
/// # Errors
/// The programs' own reasons; `Unsupported` for xfs and btrfs, which grow only while mounted.
pub async fn grow_unmounted(
    runner: &dyn Runner,
    fstype: &str,
    device: &Path,
) -> Result<(), FilesystemError> {
    let Family::Ext = family(fstype)? else {
        return Err(FilesystemError::Unsupported {
            fstype: fstype.to_owned(),
        });
    };
    check(runner, device).await?;
    runner
        .run(Cmd::new("resize2fs").arg(device).undisturbed())
        .await?;
    Ok(())
}

async fn check(runner: &dyn Runner, device: &Path) -> Result<(), FilesystemError> {
    let cmd = Cmd::new("e2fsck").args(["-f", "-p"]).arg(device);
    match runner.run(cmd.undisturbed()).await {
        // e2fsck(8): 1 is "errors corrected".
        Err(error) if error.code() != Some(1) => Err(error.into()),
        _ => Ok(()),
    }
}

/// Whether the ext file system on a device has a journal.
///
/// # Errors
/// `Device` if it cannot be read.
pub async fn has_journal(device: &Path) -> Result<bool, FilesystemError> {
    let device = device.to_owned();
    let features = blocking(move || bytes_at(&device, EXT_COMPAT)).await?;
    Ok(u32::from_le_bytes(features) & EXT_HAS_JOURNAL != 0)
}

/// Gives an unmounted ext2 file system the journal that makes it ext3, or an ext4 the one it lacks.
///
/// # Errors
/// The programs' own reasons, as that there is no room for one.
pub async fn add_journal(runner: &dyn Runner, device: &Path) -> Result<(), FilesystemError> {
    check(runner, device).await?;
    let cmd = Cmd::new("tune2fs").arg("-j").arg(device);
    runner.run(cmd.undisturbed()).await?;
    Ok(())
}

/// Gives the unmounted copy of a file system an identity of its own, where the kernel needs one.
///
/// btrfs finds the devices of a file system by UUID and would mix up copy and original, so it gets
/// a new one (`-m` changes only the superblock's, in no time). ext file systems are told apart by
/// device. xfs refuses to mount a UUID twice unless told `nouuid`, which is the caller's option
/// to give and, unlike a new UUID, does not need a clean log.
///
/// # Errors
/// `Unreplayed` for a btrfs copy of a volume that was not unmounted well: what its log holds would
/// be lost under the new UUID. Else the program's own reason.
pub async fn fresh_uuid(
    runner: &dyn Runner,
    fstype: &str,
    device: &Path,
) -> Result<(), FilesystemError> {
    if let Family::Btrfs = family(fstype)? {
        let path = device.to_owned();
        if blocking(move || has_btrfs_log(&path)).await? {
            return Err(FilesystemError::Unreplayed {
                device: device.to_owned(),
            });
        }
        runner
            .run(
                Cmd::new("btrfstune")
                    .args(["-f", "-m"])
                    .arg(device)
                    .undisturbed(),
            )
            .await?;
    }
    Ok(())
}

/// Whether an unmounted file system has a log that must be replayed before it is whole, as after a
/// power cut; a freeze leaves none. Nothing is written to the device.
///
/// Of xfs it cannot be told: a freeze leaves a log to be replayed too, on purpose and with nothing
/// in it that matters (`xfs_fs_freeze`).
///
/// # Errors
/// `Unsupported`; `Device` if it cannot be read.
pub async fn needs_replay(fstype: &str, device: &Path) -> Result<bool, FilesystemError> {
    let device = device.to_owned();
    Ok(match family(fstype)? {
        Family::Ext => blocking(move || needs_recovery(&device)).await?,
        Family::Xfs => false,
        Family::Btrfs => blocking(move || has_btrfs_log(&device)).await?,
    })
}

/// How many errors the ext2, ext3 or ext4 on a mounted device has recorded since it was last
/// checked (Documentation/ABI/testing/sysfs-fs-ext4). By default it goes on after them. `None` for
/// other file systems, which turn read-only or shut down instead.
pub fn recorded_errors(device: Devno) -> Option<u64> {
    let name = device::kernel_name(device).ok()?;
    let count = Path::new("/sys/fs/ext4").join(name).join("errors_count");
    std::fs::read_to_string(count).ok()?.trim().parse().ok()
}

/// Where the address of the log's tree stands, in bytes from the start of the device: the
/// superblock is at 64 KiB, and its `log_root` at 96 (linux/btrfs_tree.h). 0 is no log.
const BTRFS_LOG_ROOT: u64 = (64 << 10) + 96;

fn has_btrfs_log(device: &Path) -> Result<bool, FsError> {
    Ok(bytes_at::<8>(device, BTRFS_LOG_ROOT)? != [0; 8])
}

/// Where an ext superblock has the features that a kernel must know, in bytes from the start of the
/// device: it is at 1 KiB, its `s_feature_compat` at 0x5c, and its `s_feature_incompat` after that
/// (fs/ext4/ext4.h).
const EXT_COMPAT: u64 = (1 << 10) + 0x5c;
const EXT_HAS_JOURNAL: u32 = 0x4;
const EXT_INCOMPAT: u64 = (1 << 10) + 0x60;
const EXT_NEEDS_RECOVERY: u32 = 0x4;

fn needs_recovery(device: &Path) -> Result<bool, FsError> {
    let features = u32::from_le_bytes(bytes_at(device, EXT_INCOMPAT)?);
    Ok(features & EXT_NEEDS_RECOVERY != 0)
}

fn bytes_at<const N: usize>(device: &Path, offset: u64) -> Result<[u8; N], FsError> {
    use std::os::unix::fs::FileExt;
    let mut bytes = [0; N];
    std::fs::File::open(device)
        .and_then(|file| file.read_exact_at(&mut bytes, offset))
        .map_err(|error| FsError::new("read", device, error))?;
    Ok(bytes)
}

/// mkfs of a device that cannot discard writes its inode tables or log: a share of its size.
async fn time_for(device: &Path) -> Result<Duration, FsError> {
    let device: PathBuf = device.to_owned();
    let size = blocking(move || device::size(&device)).await?;
    Ok(Duration::from_secs(120 + 2 * (size >> 30)))
}

#[cfg(test)]
mod tests;
