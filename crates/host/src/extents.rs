//! Where the blocks of a file lie, and which it lacks; FIEMAP of linux/fiemap.h.

use std::fs::File;
use std::ops::Range;
use std::path::Path;

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;
use rustix::ioctl::{Opcode, Updater, ioctl, opcode};

use crate::error::{Context, FsError};

/// How many extents are asked for at once.
const BATCH: usize = 256;

const FIEMAP: Opcode = opcode::read_write::<Head>(b'f', 11);

/// Flags of `fe_flags`.
const LAST: u32 = 0x1;
const UNKNOWN: u32 = 0x2;
const SHARED: u32 = 0x2000;

/// `struct fiemap` without its extents.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Head {
    start: u64,
    length: u64,
    flags: u32,
    mapped_extents: u32,
    extent_count: u32,
    reserved: u32,
}

/// `struct fiemap_extent`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Raw {
    logical: u64,
    physical: u64,
    length: u64,
    reserved64: [u64; 2],
    flags: u32,
    reserved: [u32; 3],
}

/// `struct fiemap` with room for its extents.
#[repr(C)]
struct Map {
    head: Head,
    extents: [Raw; BATCH],
}

/// A stretch of a file that has blocks, written or merely allocated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extent {
    /// Its place in the file, in bytes.
    pub at: Range<u64>,
    /// Where its blocks begin, in bytes of the file system's own count; `None` while that is not
    /// decided.
    pub place: Option<u64>,
    /// Other files, or this one a second time, have the same blocks.
    pub shared: bool,
}

/// Calls `each` with every extent of the file, in order.
fn walk(file: &File, mut each: impl FnMut(Extent)) -> Result<(), Errno> {
    let mut map = Box::new(Map {
        head: Head::default(),
        extents: [Raw::default(); BATCH],
    });
    let mut at = 0;
    loop {
        map.head = Head {
            start: at,
            length: u64::MAX - at,
            extent_count: u32::try_from(BATCH).unwrap_or(0),
            ..Head::default()
        };
        // SAFETY: FS_IOC_FIEMAP reads one struct fiemap and writes at most fm_extent_count structs
        // fiemap_extent behind it (fs/ioctl.c, ioctl_fiemap); Map has room for that many.
        unsafe { ioctl(file, Updater::<FIEMAP, Map>::new(&mut map)) }?;
        let mapped = usize::try_from(map.head.mapped_extents).unwrap_or(0);
        for raw in map.extents.iter().take(mapped) {
            let end = raw.logical.saturating_add(raw.length);
            each(Extent {
                at: raw.logical..end,
                place: (raw.flags & UNKNOWN == 0).then_some(raw.physical),
                shared: raw.flags & SHARED != 0,
            });
            if raw.flags & LAST != 0 || end <= at {
                return Ok(());
            }
            at = end;
        }
        if mapped == 0 {
            return Ok(());
        }
    }
}

/// The extents of a file, in order.
///
/// # Errors
/// EOPNOTSUPP where the file system cannot tell.
pub fn extents(file: &Path) -> Result<Vec<Extent>, FsError> {
    let open = File::open(file).context("open", file)?;
    let mut all = Vec::new();
    walk(&open, |extent| all.push(extent)).context("ask for the extents of", file)?;
    Ok(all)
}

/// The stretches of the first `len` bytes that have no blocks.
pub(crate) fn holes(file: &File, len: u64) -> Result<Vec<Range<u64>>, Errno> {
    let mut holes = Vec::new();
    let mut at = 0;
    walk(file, |extent| {
        let start = extent.at.start.min(len);
        if at < start {
            holes.push(at..start);
        }
        at = at.max(extent.at.end);
    })?;
    if at < len {
        holes.push(at..len);
    }
    Ok(holes)
}

/// Gives blocks to the holes in the first `len` bytes of a file, and answers how many bytes had
/// none. Nothing else is touched: not its length, not its bytes.
///
/// Others may write meanwhile, a loop device above all. fallocate(2) without a mode only maps what
/// is not mapped, under the lock of the inode that a write to a hole takes as well; so a write
/// that comes first is found there and left, and one that comes later lands in the new blocks.
///
/// Only the holes are asked for, because xfs wants room for all it is asked for, also for what has
/// blocks already (fs/xfs, xfs_alloc_file_space): on a full file system that fails for nothing.
pub(crate) fn fill(file: &File, len: u64) -> Result<u64, Errno> {
    let holes = match holes(file, len) {
        // Rare file systems; all of it at once is right, if not always possible.
        Err(Errno::OPNOTSUPP | Errno::NOTTY) => {
            fallocate(file, FallocateFlags::KEEP_SIZE, 0, len)?;
            return Ok(0);
        }
        other => other?,
    };
    for hole in &holes {
        fallocate(
            file,
            FallocateFlags::KEEP_SIZE,
            hole.start,
            hole.end - hole.start,
        )?;
    }
    Ok(holes.iter().map(|hole| hole.end - hole.start).sum())
}

#[cfg(test)]
mod tests;
