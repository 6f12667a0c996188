//! Mounting and unmounting. Every function here may block: see [`crate::blocking()`].

use std::ffi::CString;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, move_mount, open_tree,
};
use std::os::fd::{AsFd, OwnedFd};

use crate::holders;
use crate::path::{Target, TargetError, checked, open_parent, proc_path};

pub use crate::holders::Holder;
pub use crate::mountinfo::{Mount, at, of_device, table};
pub use crate::options::{BadOption, Split, split};

/// A target under more mounts than this was stacked by a loop, not by retries.
const MAX_STACK: usize = 100;

/// Why a mount or unmount failed.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    #[error("failed to mount {} at {} as {fstype}", device.display(), target.display())]
    Mount {
        device: PathBuf,
        target: PathBuf,
        fstype: String,
        source: io::Error,
    },
    #[error("failed to bind {} to {}", from.display(), target.display())]
    Bind {
        from: PathBuf,
        target: PathBuf,
        source: io::Error,
    },
    #[error("failed to make the mount at {} read-only: it still is writable", target.display())]
    StillWritable { target: PathBuf },
    #[error("failed to remount {}", target.display())]
    Remount { target: PathBuf, source: io::Error },
    #[error("failed to unmount {}: used by {}", target.display(), users(by, mounts))]
    Busy {
        target: PathBuf,
        /// Processes with a directory or file there; best effort.
        by: Vec<Holder>,
        /// Mounts below it.
        mounts: Vec<PathBuf>,
    },
    #[error("failed to unmount {}", target.display())]
    Unmount { target: PathBuf, source: io::Error },
    #[error("failed to read the mount table")]
    Table(#[source] io::Error),
    #[error(transparent)]
    Option(#[from] BadOption),
    #[error(transparent)]
    Target(#[from] TargetError),
}

fn users(by: &[Holder], mounts: &[PathBuf]) -> String {
    if by.is_empty() && !mounts.is_empty() {
        let points: Vec<_> = mounts
            .iter()
            .map(|point| point.display().to_string())
            .collect();
        return format!("the mounts {}", points.join(", "));
    }
    holders::list(by)
}

/// Mounts a file system that lies on `device`, with options as of mount(8).
///
/// # Errors
/// `Option` before anything is done; else `Mount` with the kernel's reason (EINVAL often means a
/// bad option or superblock: the kernel log has the words).
pub fn mount_device<S: AsRef<str>>(
    device: &Path,
    target: &Target,
    fstype: &str,
    options: &[S],
) -> Result<(), MountError> {
    let Split { flags, data } = split(options)?;
    let data = c_string(data)?;
    rustix::mount::mount(device, target.proc_path(), fstype, flags, data.as_c_str()).map_err(
        |errno| MountError::Mount {
            device: device.to_owned(),
            target: target.path().to_owned(),
            fstype: fstype.to_owned(),
            source: errno.into(),
        },
    )
}

/// Shows `source` (a directory, or a file or device at a file target) at `target` too.
///
/// Read-only is a property of the new mount alone. A bind takes its source's options, so it is
/// made first and then remounted with all options it has plus `ro`; leaving one of them out would
/// fail with EPERM where they are locked (mount_namespaces(7)). The new mount is held by a
/// descriptor (open_tree(2)) throughout, so the remount cannot hit another one, and the table is
/// asked whether it worked.
///
/// # Errors
/// After an error nothing is mounted.
pub fn bind(source: &Path, target: &Target, read_only: bool) -> Result<(), MountError> {
    let failed = |errno: Errno| MountError::Bind {
        from: source.to_owned(),
        target: target.path().to_owned(),
        source: errno.into(),
    };
    let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(CWD, source, clone).map_err(failed)?;
    let by_descriptor =
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(&tree, c"", target.as_fd(), c"", by_descriptor).map_err(failed)?;
    if !read_only {
        return Ok(());
    }
    make_read_only(&tree, target).inspect_err(|_| {
        // Detach, because `tree` itself keeps the mount busy. If even this fails, the error at
        // hand is still the one to tell, and the caller's own undo meets the mount.
        let _ = rustix::mount::unmount(proc_path(tree.as_fd()), UnmountFlags::DETACH);
    })
}

fn make_read_only(tree: &OwnedFd, target: &Target) -> Result<(), MountError> {
    let failed = |errno: Errno| MountError::Remount {
        target: target.path().to_owned(),
        source: errno.into(),
    };
    let id = mount_id(tree).map_err(failed)?;
    let kept = split(&by_id(id)?.options)?.flags;
    let flags = kept | MountFlags::BIND | MountFlags::RDONLY;
    rustix::mount::mount_remount(proc_path(tree.as_fd()), flags, c"").map_err(failed)?;
    if by_id(id)?.read_only() {
        Ok(())
    } else {
        Err(MountError::StillWritable {
            target: target.path().to_owned(),
        })
    }
}

/// Changes the options of the file system mounted at `target`, which must have been opened after
/// the mount. Flags that are not given are cleared, as in mount(2).
///
/// # Errors
/// EINVAL if `target` is no mount point; EBUSY for `ro` while files are open for writing.
pub fn remount<S: AsRef<str>>(target: &Target, options: &[S]) -> Result<(), MountError> {
    let Split { flags, data } = split(options)?;
    rustix::mount::mount_remount(target.proc_path(), flags, c_string(data)?.as_c_str()).map_err(
        |errno| MountError::Remount {
            target: target.path().to_owned(),
            source: errno.into(),
        },
    )
}

/// Takes the topmost mount at `path` away. Returns whether there was one; a missing path is fine.
///
/// Neither `path` nor a directory above it may be a symlink. What is mounted there need not be
/// alive.
///
/// # Errors
/// `Busy` names the users it can find.
pub fn unmount(path: &Path) -> Result<bool, MountError> {
    let path = checked(path)?;
    let (parent, name) = match open_parent(&path) {
        Ok(found) => found,
        Err(TargetError::Missing { .. }) => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    // The last component by name, not opened: a descriptor of it would keep the mount busy.
    let place = proc_path(parent.as_fd()).join(name);
    match rustix::mount::unmount(&place, UnmountFlags::NOFOLLOW) {
        Ok(()) => Ok(true),
        Err(Errno::INVAL | Errno::NOENT) => Ok(false),
        Err(Errno::BUSY) => Err(busy(path)),
        Err(errno) => Err(MountError::Unmount {
            target: path,
            source: errno.into(),
        }),
    }
}

/// Takes all mounts stacked at `path` away; returns how many there were.
///
/// # Errors
/// As [`unmount`]; the upper ones may be gone by then.
pub fn unmount_all(path: &Path) -> Result<usize, MountError> {
    for count in 0..MAX_STACK {
        if !unmount(path)? {
            return Ok(count);
        }
    }
    let (target, source) = (path.to_owned(), io::Error::other("mounts keep appearing"));
    Err(MountError::Unmount { target, source })
}

fn busy(target: PathBuf) -> MountError {
    let table = table().unwrap_or_default();
    let (by, mounts) = match crate::mountinfo::topmost(&table, &target) {
        Some(mount) => {
            let below = table.iter().filter(|other| other.parent == mount.id);
            (
                holders::of_mount(mount.id),
                below.map(|other| other.point.clone()).collect(),
            )
        }
        None => (Vec::new(), Vec::new()),
    };
    MountError::Busy { target, by, mounts }
}

fn by_id(id: u64) -> Result<Mount, MountError> {
    let found = table()
        .map_err(MountError::Table)?
        .into_iter()
        .find(|mount| mount.id == id);
    found.ok_or_else(|| {
        MountError::Table(io::Error::new(
            io::ErrorKind::NotFound,
            format!("no mount {id}"),
        ))
    })
}

fn mount_id(fd: &OwnedFd) -> Result<u64, Errno> {
    Ok(statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?.stx_mnt_id)
}

fn c_string(data: String) -> Result<CString, BadOption> {
    // Cannot fail after split(), which refuses NUL; the message costs nothing.
    CString::new(data).map_err(|error| BadOption {
        option: String::from_utf8_lossy(&error.into_vec()).into_owned(),
        reason: "it contains NUL",
    })
}

#[cfg(test)]
mod tests;
