//! Copies between block devices and files.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::device::{exclusively, size_of};
use crate::error::{Context, FsError};
use crate::progress::Progress;

/// Read and written at once: large enough for a disk's full speed.
const CHUNK: usize = 4 << 20;

/// Dirty pages are brought to disk this often, so that a stop is quick and the rest of the machine
/// keeps its cache.
const FLUSH: u64 = 256 << 20;

/// Copies the first `len` bytes of `src` over those of `dst`, durably. Both are block devices or
/// files, and must not change meanwhile; a device `dst` must not be in use.
///
/// With `sparse`, chunks of 4 MiB (or the rest) that are zero in both are not written, which keeps
/// a thin device or a sparse file thin: unwritten blocks of either read as zeros at memory speed.
/// `dst` is read, not taken for blank, since an earlier copy of other bytes may have been cut off.
///
/// # Errors
/// `UnexpectedEof` or `WriteZero` before anything is written if one of them is too short (a file
/// `dst` may be: it grows); EBUSY; `Interrupted` if `progress` was told to stop.
pub fn copy_device(
    src: &Path,
    dst: &Path,
    len: u64,
    sparse: bool,
    progress: &Progress,
) -> Result<(), FsError> {
    let from = File::open(src).context("open", src)?;
    let to = exclusively(OpenOptions::new().read(true).write(true), dst)?;
    if size_of(&from, src)? < len {
        return Err(FsError::new("copy", src, io::ErrorKind::UnexpectedEof));
    }
    let size = size_of(&to, dst)?;
    if size < len {
        if !to.metadata().context("look at", dst)?.is_file() {
            return Err(FsError::new("copy to", dst, io::ErrorKind::WriteZero));
        }
        to.set_len(len).context("grow", dst)?;
    }
    progress.begin(len);
    let mut buffer = vec![0; CHUNK];
    let mut present = vec![0; CHUNK];
    let (mut at, mut dirty) = (0, 0);
    while at < len {
        progress.check().context("copy", src)?;
        let part = usize::try_from(len - at).unwrap_or(CHUNK).min(CHUNK);
        let chunk = &mut buffer[..part];
        from.read_exact_at(chunk, at).context("read", src)?;
        let mut needed = true;
        if sparse && is_zero(chunk) {
            let present = &mut present[..part];
            to.read_exact_at(present, at).context("read", dst)?;
            needed = !is_zero(present);
        }
        if needed {
            to.write_all_at(chunk, at).context("write", dst)?;
            dirty += part as u64;
        }
        if dirty >= FLUSH {
            to.sync_data().context("sync", dst)?;
            dirty = 0;
        }
        at += part as u64;
        progress.add(part as u64);
    }
    to.sync_all().context("sync", dst)
}

fn is_zero(bytes: &[u8]) -> bool {
    // Equal to itself shifted by one: a memcmp(), at memory speed also in debug builds.
    bytes
        .first()
        .is_none_or(|first| *first == 0 && bytes[1..] == bytes[..bytes.len() - 1])
}

#[cfg(test)]
mod tests;
