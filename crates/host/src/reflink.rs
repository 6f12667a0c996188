//! Files that share their blocks, and the blocks a file has.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{
    FallocateFlags, IFlags, SeekFrom, fallocate, ioctl_ficlone, ioctl_getflags, ioctl_setflags,
    seek,
};
use rustix::io::Errno;

use crate::error::{Context, FsError};
use crate::extents;
use crate::probe::first_nonzero;

pub use crate::copy::copy_device;
pub use crate::extents::{Extent, extents};

/// Tells the trial files of one process apart.
static SERIAL: AtomicU64 = AtomicU64::new(0);

/// How the names of the files begin that [`supported`] tries with, and that a kill leaves.
pub const TRIAL: &str = ".stowage-reflink-";

/// Whether files in `dir` can share blocks (FICLONE): asked by trying it with two small files.
///
/// # Errors
/// If the trial files cannot be made.
pub fn supported(dir: &Path) -> Result<bool, FsError> {
    let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
    let name = |end| dir.join(format!("{TRIAL}{}-{serial}-{end}", std::process::id()));
    let (from, to) = (name("a"), name("b"));
    let tried = fs::write(&from, [1; 4096])
        .context("write", &from)
        .and_then(|()| match clone_file(&from, &to) {
            Ok(()) => Ok(true),
            Err(error) => match error.errno() {
                Some(Errno::OPNOTSUPP | Errno::INVAL | Errno::XDEV | Errno::NOTTY) => Ok(false),
                _ => Err(error),
            },
        });
    for trial in [from, to] {
        // May not have been made; the answer is what counts.
        let _ = fs::remove_file(trial);
    }
    tried
}

/// Makes `dst` (new, mode 0600) a copy of `src` that shares its blocks; ioctl_ficlone(2). Durable
/// once its directory is synced. Where `src` is written in place (no copy on write) `dst` is too:
/// btrfs shares between no others.
///
/// # Errors
/// EEXIST if there is a `dst`; EOPNOTSUPP or EXDEV where blocks cannot be shared. No `dst` is left
/// behind then.
pub fn clone_file(src: &Path, dst: &Path) -> Result<(), FsError> {
    let from = File::open(src).context("open", src)?;
    let to = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(dst)
        .context("create", dst)?;
    let alike = match in_place(&from) {
        true => set_in_place(&to),
        false => Ok(()),
    };
    let cloned = alike
        .and_then(|()| ioctl_ficlone(&to, &from))
        .map_err(io::Error::from)
        .and_then(|()| to.sync_all());
    if cloned.is_err() {
        // The file is ours, it was made above.
        let _ = fs::remove_file(dst);
    }
    cloned.context("share the blocks of", src)
}

/// Gives a file blocks for its first `len` bytes, and that length if it was shorter. What was
/// there stays; fallocate(2).
///
/// # Errors
/// ENOSPC; some blocks may have been given then.
pub fn allocate(file: &Path, len: u64) -> Result<(), FsError> {
    let open = writable(file)?;
    let has = open.metadata().context("look at", file)?.len();
    extents::fill(&open, len.min(has)).context("allocate", file)?;
    if has < len {
        fallocate(&open, FallocateFlags::empty(), has, len - has).context("allocate", file)?;
    }
    open.sync_all().context("sync", file)
}

/// Gives blocks to the holes of a file that may be written meanwhile; nothing else changes.
/// Answers how many bytes had none.
///
/// # Errors
/// ENOSPC; some blocks may have been given then.
pub fn fill_holes(file: &Path) -> Result<u64, FsError> {
    let open = writable(file)?;
    let len = open.metadata().context("look at", file)?.len();
    let filled = extents::fill(&open, len).context("allocate", file)?;
    if filled > 0 {
        open.sync_all().context("sync", file)?;
    }
    Ok(filled)
}

/// How many bytes of a file have no blocks.
///
/// # Errors
/// EOPNOTSUPP where the file system cannot tell.
pub fn hole_bytes(file: &Path) -> Result<u64, FsError> {
    let open = File::open(file).context("open", file)?;
    let len = open.metadata().context("look at", file)?.len();
    let holes = extents::holes(&open, len).context("ask for the extents of", file)?;
    Ok(holes.iter().map(|hole| hole.end - hole.start).sum())
}

fn set_in_place(file: &File) -> Result<(), Errno> {
    let flags = ioctl_getflags(file)?;
    ioctl_setflags(file, flags | IFlags::NOCOW)
}

fn in_place(file: &File) -> bool {
    ioctl_getflags(file).is_ok_and(|flags| flags.contains(IFlags::NOCOW))
}

/// What statfs(2) says of btrfs (linux/magic.h).
const BTRFS_SUPER_MAGIC: i64 = 0x9123_683E;

fn on_btrfs(file: &File) -> Result<bool, Errno> {
    Ok(rustix::fs::fstatfs(file)?.f_type == BTRFS_SUPER_MAGIC)
}

/// Makes a file (new, mode 0600) whose bytes are overwritten in place, so that it needs no new
/// blocks once it has all. btrfs keeps no checksums of such a file.
///
/// # Errors
/// EEXIST.
pub fn create_in_place(file: &Path) -> Result<(), FsError> {
    let new = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file)
        .context("create", file)?;
    if on_btrfs(&new).context("look at", file)? {
        // Only an empty file takes the flag.
        set_in_place(&new).context("turn off copy-on-write of", file)?;
    }
    Ok(())
}

/// Whether overwriting a file that shares no blocks needs no new ones.
///
/// # Errors
/// If the file cannot be looked at.
pub fn is_in_place(file: &Path) -> Result<bool, FsError> {
    let open = File::open(file).context("open", file)?;
    Ok(in_place(&open) || !on_btrfs(&open).context("look at", file)?)
}

fn writable(file: &Path) -> Result<File, FsError> {
    let open = OpenOptions::new().write(true).open(file);
    open.context("open", file)
}

/// Offset of the first byte that is not zero. Only what was ever written is read: holes and space
/// that is merely reserved read as zeros (lseek(2), SEEK_DATA), so a fresh file costs one call
/// whatever its size.
///
/// # Errors
/// If the file cannot be read, or its file system cannot tell what was written.
pub fn first_data(file: &Path) -> Result<Option<u64>, FsError> {
    let open = File::open(file).context("open", file)?;
    let next = |from: SeekFrom| match seek(&open, from) {
        Ok(at) => Ok(Some(at)),
        Err(Errno::NXIO) => Ok(None),
        Err(error) => Err(FsError::new("look for data in", file, error)),
    };
    let mut at = 0;
    while let Some(start) = next(SeekFrom::Data(at))? {
        // The end of the file counts as a hole.
        at = next(SeekFrom::Hole(start))?.unwrap_or(u64::MAX);
        if let Some(found) = first_nonzero(&open, start, at).context("read", file)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// Bytes on disk that belong to a file (shared ones count for each of their files).
///
/// # Errors
/// As stat(2).
pub fn allocated_bytes(file: &Path) -> Result<u64, FsError> {
    // st_blocks is in units of 512 bytes, whatever the file system; stat(3type).
    Ok(fs::metadata(file)
        .context("look at", file)?
        .blocks()
        .saturating_mul(512))
}

#[cfg(test)]
mod tests;
