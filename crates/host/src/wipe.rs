//! Zeroing, discarding and syncing of whole devices.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::io::Errno;
use rustix::ioctl::{Setter, ioctl, opcode};

use crate::device::{exclusively, size_of};
use crate::error::{Context, FsError};
use crate::probe::{ends, first_nonzero};
use crate::progress::Progress;

const BLKDISCARD: u32 = opcode::none(0x12, 119);
const BLKZEROOUT: u32 = opcode::none(0x12, 127);

/// Zeroed between two looks at the stop flag: about a second on a slow disk.
const CHUNK: u64 = 64 << 20;

/// Written at once where the kernel cannot zero by itself.
const BUFFER: u64 = 4 << 20;

/// Makes all of a block device, or of a file's length, read as zeros, durably.
///
/// A device is zeroed by the kernel (BLKZEROOUT: by a command where the disk has one, else by
/// writing), which also drops cached pages. It must not be in use: it is opened exclusively.
///
/// # Errors
/// EBUSY if it is in use; `Interrupted` if `progress` was told to stop.
pub fn zero(path: &Path, progress: &Progress) -> Result<(), FsError> {
    let file = exclusively(OpenOptions::new().read(true).write(true), path)?;
    let size = size_of(&file, path)?;
    progress.begin(size);
    let mut by_kernel = true;
    let mut offset = 0;
    while offset < size {
        progress.check().context("zero", path)?;
        let length = CHUNK.min(size - offset);
        if by_kernel {
            match zero_out(&file, offset, length) {
                Ok(()) => {}
                // A file (ENOTTY), or a driver without any of the kernel's ways.
                Err(Errno::NOTTY | Errno::OPNOTSUPP | Errno::INVAL) => by_kernel = false,
                Err(error) => return Err(FsError::new("zero", path, error)),
            }
        }
        if !by_kernel {
            write_zeros(&file, offset, length).context("zero", path)?;
        }
        offset += length;
        progress.add(length);
    }
    file.sync_all().context("sync", path)
}

fn zero_out(file: &File, offset: u64, length: u64) -> Result<(), Errno> {
    // SAFETY: BLKZEROOUT reads two u64 (start, length) from its argument (block/ioctl.c,
    // blk_ioctl_zeroout) and writes nothing to it.
    unsafe { ioctl(file, Setter::<BLKZEROOUT, [u64; 2]>::new([offset, length])) }
}

fn write_zeros(file: &File, offset: u64, length: u64) -> std::io::Result<()> {
    let zeros = vec![0; usize::try_from(BUFFER.min(length)).unwrap_or(0)];
    let end = offset + length;
    let mut at = offset;
    while at < end {
        let step = (end - at).min(BUFFER);
        let part = usize::try_from(step)
            .unwrap_or(zeros.len())
            .min(zeros.len());
        file.write_all_at(&zeros[..part], at)?;
        at += step;
    }
    // Here and not only at the end: a stop must not leave gigabytes of dirty pages behind.
    file.sync_data()
}

/// Makes both ends of a block device read as zeros, durably: all that a
/// [`probe`](crate::probe::probe) looks at where it finds no signature. It must not be in use.
///
/// # Errors
/// EBUSY if it is in use.
pub fn zero_ends(path: &Path) -> Result<(), FsError> {
    let file = exclusively(OpenOptions::new().read(true).write(true), path)?;
    let size = size_of(&file, path)?;
    for (from, to) in ends(size) {
        write_zeros(&file, from, to - from).context("zero", path)?;
    }
    file.sync_all().context("sync", path)
}

/// As [`zero_ends`], for a block device that has grown and ended at `from` before, and only beyond that:
/// what lies before is not written to. Where it is not blank up to there, nothing is zeroed, since
/// something is on it; tells whether it was.
///
/// # Errors
/// EBUSY if it is blank and in use.
pub fn zero_grown(path: &Path, from: u64) -> Result<bool, FsError> {
    let looked = File::open(path).context("open", path)?;
    let size = size_of(&looked, path)?;
    let from = from.min(size);
    for (start, end) in ends(from) {
        if first_nonzero(&looked, start, end)
            .context("read", path)?
            .is_some()
        {
            return Ok(false);
        }
    }
    drop(looked);
    let file = exclusively(OpenOptions::new().read(true).write(true), path)?;
    for (start, end) in ends(size) {
        let start = start.max(from);
        write_zeros(&file, start, end.saturating_sub(start)).context("zero", path)?;
    }
    file.sync_all().context("sync", path)?;
    Ok(true)
}

/// Tells a block device that none of its content is needed; returns false if it cannot know.
/// What it reads as afterwards is up to the device: see [`zero`] for a promise.
///
/// # Errors
/// EBUSY if it is in use.
pub fn discard(path: &Path) -> Result<bool, FsError> {
    let file = exclusively(OpenOptions::new().read(true).write(true), path)?;
    let size = size_of(&file, path)?;
    // SAFETY: BLKDISCARD reads two u64 (start, length) from its argument (block/ioctl.c,
    // blk_ioctl_discard) and writes nothing to it.
    match unsafe { ioctl(&file, Setter::<BLKDISCARD, [u64; 2]>::new([0, size])) } {
        Ok(()) => Ok(true),
        Err(Errno::OPNOTSUPP | Errno::NOTTY) => Ok(false),
        Err(error) => Err(FsError::new("discard", path, error)),
    }
}

/// Brings everything written to a block device or file to the disk, by whomever it was written.
///
/// # Errors
/// As fsync(2): EIO if any earlier write failed unnoticed.
pub fn sync(path: &Path) -> Result<(), FsError> {
    File::open(path)
        .and_then(|file| file.sync_all())
        .context("sync", path)
}

#[cfg(test)]
mod tests;
