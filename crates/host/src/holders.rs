//! Which processes keep a mount busy, as far as /proc shows.

use std::fmt;
use std::fs;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatxFlags, statx};

/// A process by number and name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    pub pid: u32,
    /// The name in /proc/PID/comm, at most 15 bytes.
    pub comm: String,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pid {} ({})", self.pid, self.comm)
    }
}

/// "pid 1 (init), pid 7 (sh)" for messages.
pub(crate) fn list(holders: &[Holder]) -> String {
    if holders.is_empty() {
        return "something that /proc does not show".to_owned();
    }
    holders
        .iter()
        .map(Holder::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}

/// All processes. One that ends meanwhile is left out.
pub(crate) fn processes() -> impl Iterator<Item = Holder> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let comm = fs::read_to_string(entry.path().join("comm"))
                .ok()?
                .trim_end()
                .to_owned();
            Some(Holder { pid, comm })
        })
}

/// The other processes that have `file` open, those that are dying included.
///
/// /proc/locks would name the process that called flock(2), which may be dead.
pub(crate) fn openers(file: &fs::File) -> Vec<Holder> {
    let own = format!("/proc/self/fd/{}", file.as_raw_fd());
    let Some(ours) = inode(Path::new(&own)) else {
        return Vec::new();
    };
    let open_in = |fds: PathBuf| {
        let fds = fs::read_dir(fds).into_iter().flatten().flatten();
        fds.filter_map(|fd| inode(&fd.path())).any(|it| it == ours)
    };
    processes()
        .filter(|holder| holder.pid != std::process::id())
        .filter(|holder| {
            let base = Path::new("/proc").join(holder.pid.to_string());
            // Of a process whose first thread has ended, only the others still show what is open.
            open_in(base.join("fd")) || threads(holder).any(|thread| open_in(thread.join("fd")))
        })
        .collect()
}

/// Which file it is, by what the kernel knows: what others have open may lie on a server that does
/// not answer.
fn inode(link: &Path) -> Option<(u32, u32, u64)> {
    let flags = AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT;
    let found = statx(CWD, link, flags, StatxFlags::INO).ok()?;
    Some((found.stx_dev_major, found.stx_dev_minor, found.stx_ino))
}

fn threads(holder: &Holder) -> impl Iterator<Item = PathBuf> {
    let tasks = fs::read_dir(format!("/proc/{}/task", holder.pid));
    let tasks = tasks.into_iter().flatten().flatten();
    tasks.map(|task| task.path())
}

/// Whether a process runs no instruction of its own any more, though it may still have files and
/// sockets open: it was killed, and a thread of it hangs in the kernel.
pub fn runs_no_more(pid: u32) -> bool {
    let comm = String::new();
    is_dying(&Holder { pid, comm })
}

/// As [`runs_no_more`].
pub(crate) fn is_dying(holder: &Holder) -> bool {
    const SIGKILL: u64 = 1 << (9 - 1);
    let is_dying = |thread: PathBuf| {
        // One that cannot be read has ended.
        let status = fs::read_to_string(thread.join("status")).unwrap_or_default();
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
        let pending = |name| {
            let mask = field(name).map(str::trim);
            mask.and_then(|mask| u64::from_str_radix(mask, 16).ok())
                .is_some_and(|mask| mask & SIGKILL != 0)
        };
        let state = field("State:").map_or("X", str::trim);
        state.starts_with(['Z', 'X']) || pending("SigPnd:") || pending("ShdPnd:")
    };
    threads(holder).all(is_dying)
}

/// The processes whose directories, open files or mapped files lie on the mount with this id (of
/// mountinfo). Exactly these references make umount(2) fail with EBUSY; another mount of the same
/// file system, also one in another namespace, has another id.
pub(crate) fn of_mount(id: u64) -> Vec<Holder> {
    processes()
        .filter(|holder| {
            let base = Path::new("/proc").join(holder.pid.to_string());
            ["cwd", "root", "exe"]
                .iter()
                .any(|link| on_mount(&base.join(link), id))
                || ["fd", "map_files"].iter().any(|dir| {
                    let links = fs::read_dir(base.join(dir));
                    links
                        .into_iter()
                        .flatten()
                        .flatten()
                        .any(|link| on_mount(&link.path(), id))
                })
        })
        .collect()
}

/// STATX_MNT_ID is of Linux 5.8; AT_STATX_DONT_SYNC keeps a dead NFS server from hanging us.
fn on_mount(link: &Path, id: u64) -> bool {
    statx(
        CWD,
        link,
        AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT,
        StatxFlags::MNT_ID,
    )
    .is_ok_and(|found| {
        StatxFlags::from_bits_retain(found.stx_mask).contains(StatxFlags::MNT_ID)
            && found.stx_mnt_id == id
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn we_are_among_the_processes() {
        let us = processes()
            .find(|holder| holder.pid == std::process::id())
            .unwrap();
        let comm = fs::read_to_string("/proc/self/comm").unwrap();
        assert_eq!(us.comm, comm.trim_end());
        assert_eq!(list(&[us.clone(), us.clone()]), format!("{us}, {us}"));
    }
}
