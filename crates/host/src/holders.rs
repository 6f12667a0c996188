//! Which processes keep a mount busy, as far as /proc shows.

use std::fmt;
use std::fs;
use std::path::Path;

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
