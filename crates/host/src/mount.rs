//! Mounting and unmounting. Every function here may block: see [`crate::blocking()`].

use std::ffi::CString;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
    fsconfig_create, fsmount, fsopen, move_mount, open_tree,
};
use std::os::fd::{AsFd, OwnedFd};

use crate::holders;
use crate::path::{Target, TargetError, checked, open_parent, proc_path};

mod root;
mod setattr;

pub use crate::holders::Holder;
pub use crate::mountinfo::{Mount, Table, at, of_device, table};
pub use crate::options::{BadOption, Split, split};
pub use root::{Root, root_of};
pub(crate) use setattr::is_there as has_setattr;

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

/// The kernel's own directory of devices, of which there is one for the whole machine, whatever a
/// container shows as `/dev`: mounted nowhere, for as long as the descriptor is open.
///
/// # Errors
/// EPERM without CAP_SYS_ADMIN in the machine's first user namespace, ENODEV of a kernel without it.
pub(crate) fn devices() -> io::Result<OwnedFd> {
    let context = fsopen(c"devtmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    Ok(fsmount(
        &context,
        FsMountFlags::FSMOUNT_CLOEXEC,
        attributes,
    )?)
}

/// Shows `source` (a directory, or a file or device at a file target) at `target` too.
///
/// Read-only is a property of the new mount alone, and it is set before the mount is attached.
/// The classic way, a bind and then a remount, first shows it writable, and for good where it
/// matters: the mount is propagated to the host's namespace when it is attached, and later changes
/// of options are not, so containers would get a writable one from an agent that itself runs in a
/// container. (Documentation/filesystems/sharedsubtree.rst propagates mounts and unmounts only.)
/// Then the table is asked whether it worked.
///
/// # Errors
/// After an error nothing is mounted.
pub fn bind(source: &Path, target: &Target, read_only: bool) -> Result<(), MountError> {
    let failed = |error: io::Error| MountError::Bind {
        from: source.to_owned(),
        target: target.path().to_owned(),
        source: error,
    };
    let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(CWD, source, clone).map_err(|errno| failed(errno.into()))?;
    if read_only {
        setattr::set_read_only(&tree).map_err(failed)?;
    }
    let by_descriptor =
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(&tree, c"", target.as_fd(), c"", by_descriptor)
        .map_err(|errno| failed(errno.into()))?;
    if !read_only {
        return Ok(());
    }
    let refused = match is_read_only(&tree) {
        Ok(true) => return Ok(()),
        Ok(false) => MountError::StillWritable {
            target: target.path().to_owned(),
        },
        Err(error) => error,
    };
    // Detach, because `tree` itself keeps the mount busy. If even this fails, the error at hand is
    // still the one to tell, and the caller's own undo meets the mount.
    let _ = rustix::mount::unmount(proc_path(tree.as_fd()), UnmountFlags::DETACH);
    Err(refused)
}

/// By the mount's id, as its path may lead elsewhere by now. A mount that is not in the table any
/// more was taken away by somebody else, and nobody can write through it.
fn is_read_only(tree: &OwnedFd) -> Result<bool, MountError> {
    let id = statx(tree, c"", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)
        .map_err(|errno| MountError::Table(errno.into()))?
        .stx_mnt_id;
    let table = table().map_err(MountError::Table)?;
    Ok(table
        .iter()
        .find(|mount| mount.id == id)
        .is_none_or(Mount::read_only))
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

fn c_string(data: String) -> Result<CString, BadOption> {
    // Cannot fail after split(), which refuses NUL; the message costs nothing.
    CString::new(data).map_err(|error| BadOption {
        option: String::from_utf8_lossy(&error.into_vec()).into_owned(),
        reason: "it contains NUL",
    })
}

#[cfg(test)]
mod tests;
