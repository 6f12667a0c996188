//! Mount targets: where a file system is to appear, pinned so that nobody can swap it.
//!
//! kubelet names a target inside a directory tree that pods can influence (subPath, hostPath). A
//! symlink in that path would make us mount over, or remove, something else on the host
//! (CVE-2017-1002101), so no component may be one, and mount(2) gets the opened directory instead
//! of the path.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, fstat, mkdirat, openat, openat2,
    statat, unlinkat,
};
use rustix::io::Errno;

mod settled;

pub use settled::settled;

/// Bytes of a path without its NUL; the kernel's PATH_MAX, 4096, counts the NUL.
const MAX_PATH: usize = 4095;

/// Why a path is no mount target.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    #[error("failed to use {}: {} is a symbolic link", path.display(), component.display())]
    Symlink {
        path: PathBuf,
        /// The path up to the component that is the link.
        component: PathBuf,
    },
    #[error("failed to use {path:?}: not an absolute path free of '.', '..' and NUL")]
    NotAbsolute { path: PathBuf },
    #[error("failed to use a path of {length} bytes: too long")]
    TooLong { length: usize },
    #[error("failed to find {}", parent.display())]
    Missing {
        /// What is missing: the path itself when it was to be opened, else its parent.
        parent: PathBuf,
    },
    #[error("failed to use {}: it is {found}, expected {expected}", path.display())]
    WrongType {
        path: PathBuf,
        found: &'static str,
        expected: &'static str,
    },
    #[error("failed to remove {}: it is not empty", path.display())]
    NotEmpty { path: PathBuf },
    #[error("failed to {verb} {}", path.display())]
    Io {
        verb: &'static str,
        path: PathBuf,
        source: io::Error,
    },
}

/// What a target is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetKind {
    Directory,
    File,
    /// A block device, usually one bound to a file.
    Block,
}

/// A directory or file reached without following any symlink, and held open.
///
/// It pins the mount it lies *on*: drop targets opened inside a mount before unmounting that mount.
#[derive(Debug, Clone)]
pub struct Target {
    path: PathBuf,
    fd: Arc<OwnedFd>,
    kind: TargetKind,
}

impl Target {
    /// Opens what is at `path`; with something mounted there, the root of that mount.
    ///
    /// # Errors
    /// `Missing` if nothing is there, `WrongType` for sockets, pipes and character devices.
    pub fn open(path: &Path) -> Result<Self, TargetError> {
        let path = checked(path)?;
        let fd = open_plain(&path, OFlags::PATH)?;
        let status = fstat(&fd).map_err(|error| failed("look at", &path, error))?;
        let kind = match FileType::from_raw_mode(status.st_mode) {
            FileType::Directory => TargetKind::Directory,
            FileType::RegularFile => TargetKind::File,
            FileType::BlockDevice => TargetKind::Block,
            other => {
                let (found, expected) = (type_name(other), "a directory, file or block device");
                return Err(TargetError::WrongType {
                    path,
                    found,
                    expected,
                });
            }
        };
        Ok(Self {
            path,
            fd: Arc::new(fd),
            kind,
        })
    }

    /// Makes the directory `path` with the permissions `mode` (as in `0o750`), or opens the one
    /// that exists, leaving its permissions alone. Its parent must exist.
    ///
    /// # Errors
    /// `Missing` names the parent; `WrongType` if something else than a directory is there.
    pub fn create_dir(path: &Path, mode: u32) -> Result<Self, TargetError> {
        let path = checked(path)?;
        let (parent, name) = open_parent(&path)?;
        match mkdirat(&parent, name, Mode::from_raw_mode(mode)) {
            Ok(()) | Err(Errno::EXIST) => Self::expect(&path, TargetKind::Directory, "a directory"),
            Err(error) => Err(failed("create the directory", &path, error)),
        }
    }

    /// Makes the empty file `path` (mode 0600), or opens the one that exists: what a block device
    /// is bound to. Its parent must exist.
    ///
    /// # Errors
    /// As [`Target::create_dir`].
    pub fn create_file(path: &Path) -> Result<Self, TargetError> {
        let path = checked(path)?;
        let (parent, name) = open_parent(&path)?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        match openat(&parent, name, flags, Mode::RUSR | Mode::WUSR) {
            Ok(_) | Err(Errno::EXIST) => {}
            Err(error) => return Err(failed("create the file", &path, error)),
        }
        let target = Self::open(&path)?;
        if target.kind == TargetKind::Directory {
            let (found, expected) = ("a directory", "a file");
            return Err(TargetError::WrongType {
                path,
                found,
                expected,
            });
        }
        Ok(target)
    }

    /// Removes an empty directory or an empty file that is not a mount point; nothing there is
    /// fine. Returns whether something was removed.
    ///
    /// # Errors
    /// `Symlink`, `NotEmpty`, `WrongType`; EBUSY as `Io` while something is mounted there.
    pub fn remove(path: &Path) -> Result<bool, TargetError> {
        let path = checked(path)?;
        let (parent, name) = match open_parent(&path) {
            Ok(found) => found,
            Err(TargetError::Missing { .. }) => return Ok(false),
            Err(error) => return Err(error),
        };
        let status = match statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(status) => status,
            Err(Errno::NOENT) => return Ok(false),
            Err(error) => return Err(failed("look at", &path, error)),
        };
        let flags = match FileType::from_raw_mode(status.st_mode) {
            FileType::Directory => AtFlags::REMOVEDIR,
            FileType::RegularFile if status.st_size == 0 => AtFlags::empty(),
            FileType::RegularFile => return Err(TargetError::NotEmpty { path }),
            FileType::Symlink => {
                return Err(TargetError::Symlink {
                    component: path.clone(),
                    path,
                });
            }
            other => {
                let (found, expected) = (type_name(other), "an empty directory or file");
                return Err(TargetError::WrongType {
                    path,
                    found,
                    expected,
                });
            }
        };
        match unlinkat(&parent, name, flags) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(Errno::NOTEMPTY | Errno::EXIST) => Err(TargetError::NotEmpty { path }),
            Err(error) => Err(failed("remove", &path, error)),
        }
    }

    /// The path it was opened by, without repeated or trailing slashes.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it is.
    pub fn kind(&self) -> TargetKind {
        self.kind
    }

    /// A name for system calls that take only paths; it leads to this very inode for as long as
    /// the target lives.
    pub fn proc_path(&self) -> PathBuf {
        proc_path(self.fd.as_fd())
    }

    /// True for a directory without entries; with something mounted on it since it was opened,
    /// this looks below that mount.
    ///
    /// # Errors
    /// `WrongType` if it is no directory.
    pub fn is_empty_dir(&self) -> Result<bool, TargetError> {
        if self.kind != TargetKind::Directory {
            let (path, expected) = (self.path.clone(), "a directory");
            return Err(TargetError::WrongType {
                path,
                found: "a file or device",
                expected,
            });
        }
        let read = |error| failed("read the directory", &self.path, error);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = openat(&*self.fd, ".", flags, Mode::empty()).map_err(read)?;
        for entry in Dir::new(fd).map_err(read)? {
            if !matches!(entry.map_err(read)?.file_name().to_bytes(), b"." | b"..") {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn expect(path: &Path, kind: TargetKind, expected: &'static str) -> Result<Self, TargetError> {
        let target = Self::open(path)?;
        if target.kind != kind {
            let (path, found) = (path.to_owned(), "a file or device");
            return Err(TargetError::WrongType {
                path,
                found,
                expected,
            });
        }
        Ok(target)
    }
}

impl AsFd for Target {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The magic link to an open file; proc(5), /proc/pid/fd.
pub(crate) fn proc_path(fd: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

/// `path` rebuilt from its components, or why it cannot be a target.
pub(crate) fn checked(path: &Path) -> Result<PathBuf, TargetError> {
    let bytes = path.as_os_str().as_bytes();
    if bytes.len() > MAX_PATH {
        return Err(TargetError::TooLong {
            length: bytes.len(),
        });
    }
    // Path::components() would silently drop the dots.
    let dots = bytes
        .split(|byte| *byte == b'/')
        .any(|name| matches!(name, b"." | b".."));
    let clean: PathBuf = path.components().collect();
    if !path.is_absolute() || dots || bytes.contains(&0) || clean.parent().is_none() {
        return Err(TargetError::NotAbsolute {
            path: path.to_owned(),
        });
    }
    Ok(clean)
}

/// The directory above a [`checked`] path, and the last component.
pub(crate) fn open_parent(path: &Path) -> Result<(OwnedFd, &OsStr), TargetError> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(TargetError::NotAbsolute {
            path: path.to_owned(),
        });
    };
    Ok((open_plain(parent, OFlags::PATH | OFlags::DIRECTORY)?, name))
}

/// openat2(2) that fails on any symlink; Linux 5.6.
fn open_plain(path: &Path, flags: OFlags) -> Result<OwnedFd, TargetError> {
    let flags = flags | OFlags::CLOEXEC;
    match openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS) {
        Ok(fd) => Ok(fd),
        Err(Errno::LOOP) => Err(TargetError::Symlink {
            path: path.to_owned(),
            component: first_link(path),
        }),
        Err(Errno::NOENT) => Err(TargetError::Missing {
            parent: path.to_owned(),
        }),
        Err(Errno::NAMETOOLONG) => Err(TargetError::TooLong {
            length: path.as_os_str().as_bytes().len(),
        }),
        Err(Errno::NOTDIR) => {
            let (found, expected) = ("not a directory, or below one that is not", "a directory");
            Err(TargetError::WrongType {
                path: path.to_owned(),
                found,
                expected,
            })
        }
        Err(error) => Err(failed("open", path, error)),
    }
}

/// For the message only, hence allowed to race.
fn first_link(path: &Path) -> PathBuf {
    let mut walked = PathBuf::new();
    for component in path.components() {
        walked.push(component);
        if component != Component::RootDir && walked.is_symlink() {
            return walked;
        }
    }
    path.to_owned()
}

fn failed(verb: &'static str, path: &Path, errno: Errno) -> TargetError {
    TargetError::Io {
        verb,
        path: path.to_owned(),
        source: errno.into(),
    }
}

fn type_name(kind: FileType) -> &'static str {
    match kind {
        FileType::RegularFile => "a file",
        FileType::Directory => "a directory",
        FileType::Symlink => "a symbolic link",
        FileType::Fifo => "a pipe",
        FileType::Socket => "a socket",
        FileType::CharacterDevice => "a character device",
        FileType::BlockDevice => "a block device",
        _ => "something unknown",
    }
}

#[cfg(test)]
mod tests;
