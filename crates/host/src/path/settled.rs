//! Directories behind symbolic links that only root can have placed, as a system's directory that was
//! moved to another disk.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, Stat, fstat, openat, readlinkat};
use rustix::io::Errno;

/// As many as the kernel follows in one path (linux/namei.h, MAXSYMLINKS).
const MAX_LINKS: u32 = 40;

/// `path` with its symbolic links replaced by what they lead to, if nobody but root can change any of
/// them: every directory on the way, and every link, belongs to root and can be written by nobody
/// else. Otherwise, or if something is missing, `path` as it is.
///
/// Each directory is checked once it is open, and what comes back holds no link, so that one put in
/// its place later is met by whoever opens it without following any ([`super::Target`]).
#[must_use]
pub fn settled(path: &Path) -> PathBuf {
    walk(path).ok().flatten().unwrap_or_else(|| path.to_owned())
}

/// None where somebody else could have had a hand in it.
fn walk(path: &Path) -> Result<Option<PathBuf>, Errno> {
    let mut left: VecDeque<OsString> = VecDeque::new();
    let mut reached = (root()?, PathBuf::from("/"));
    let mut links = 0;
    if !path.is_absolute() || !roots_alone(&fstat(&reached.0)?) {
        return Ok(None);
    }
    prepend(&mut left, path);
    while let Some(name) = left.pop_front() {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let next = openat(&reached.0, &name, flags, Mode::empty())?;
        let status = fstat(&next)?;
        match FileType::from_raw_mode(status.st_mode) {
            FileType::Directory if roots_alone(&status) => {
                reached.0 = next;
                match name == ".." {
                    true => drop(reached.1.pop()),
                    false => reached.1.push(name),
                }
            }
            // The permissions of a link mean nothing; who may replace it is its directory's matter.
            FileType::Symlink if status.st_uid == 0 && links < MAX_LINKS => {
                links += 1;
                let to = OsString::from_vec(readlinkat(&next, c"", Vec::new())?.into_bytes());
                if Path::new(&to).is_absolute() {
                    reached = (root()?, PathBuf::from("/"));
                }
                prepend(&mut left, Path::new(&to));
            }
            _ => return Ok(None),
        }
    }
    Ok(Some(reached.1))
}

fn root() -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(CWD, "/", flags, Mode::empty())
}

fn roots_alone(status: &Stat) -> bool {
    status.st_uid == 0 && status.st_mode & 0o022 == 0
}

fn prepend(left: &mut VecDeque<OsString>, path: &Path) {
    for component in path.components().rev() {
        match component {
            Component::Normal(name) => left.push_front(name.to_owned()),
            Component::ParentDir => left.push_front("..".into()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
}
