//! What a path lies on, in a way that outlives a restart of the machine.

use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatxFlags, statx};

/// The root of the mount that a path lies on. Device numbers and mount ids may be others after a
/// restart; which directory is at which path, and when it was made, is not: a mount point whose
/// file system is missing is another directory than that file system's root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    /// Where it is mounted.
    pub point: PathBuf,
    /// Inode number of the directory there.
    pub inode: u64,
    /// When that directory was made, in nanoseconds since 1970; 0 where the file system does not
    /// say.
    pub born: u64,
}

/// The root of the mount that `path`, or what there is of it, lies on.
///
/// # Errors
/// What the kernel says of a directory on the way.
pub fn root_of(path: &Path) -> io::Result<Root> {
    let there = path.ancestors().find(|p| p.exists());
    let mut point = there.unwrap_or_else(|| Path::new("/")).canonicalize()?;
    let mut here = look(&point)?;
    while let Some(above) = point.parent() {
        let next = look(above)?;
        if next.mount != here.mount {
            break;
        }
        (point, here) = (above.to_owned(), next);
    }
    Ok(Root {
        point,
        inode: here.inode,
        born: here.born,
    })
}

struct Looked {
    mount: u64,
    inode: u64,
    born: u64,
}

fn look(path: &Path) -> io::Result<Looked> {
    let wanted = StatxFlags::INO | StatxFlags::BTIME | StatxFlags::MNT_ID;
    let found = statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, wanted)?;
    let says = StatxFlags::from_bits_retain(found.stx_mask).contains(StatxFlags::BTIME);
    let seconds = u64::try_from(found.stx_btime.tv_sec).unwrap_or_default();
    let born = seconds * 1_000_000_000 + u64::from(found.stx_btime.tv_nsec);
    Ok(Looked {
        mount: found.stx_mnt_id,
        inode: found.stx_ino,
        born: if says { born } else { 0 },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_lies_on_the_root_of_its_mount_whether_it_is_there_or_not() {
        let proc = root_of(Path::new("/proc/sys/kernel/no-such/file")).unwrap();
        assert_eq!(proc.point, Path::new("/proc"));
        assert_eq!(proc, root_of(Path::new("/proc/self")).unwrap());
        let top = root_of(Path::new("/no-such-directory/x")).unwrap();
        assert_eq!(top.point, Path::new("/"));
        assert_ne!((top.inode, top.born), (proc.inode, proc.born));
    }
}
