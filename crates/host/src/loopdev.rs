//! Loop devices by ioctl, without losetup; loop(4) and linux/loop.h.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::devno::Devno;
use crate::error::{Context, FsError};

mod abi;
mod discard;

pub use discard::{keep_blocks, renew};

use abi::{AUTOCLEAR, DIRECT_IO, READ_ONLY};

const CONTROL: &str = "/dev/loop-control";
const SYSFS: &str = "/sys/block";

/// Another process may take the free device between asking for it and using it.
const TRIES: usize = 64;

/// How to attach a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    pub read_only: bool,
    /// Detach by itself when the last user (descriptor or mount) is gone.
    ///
    /// With it a kill -9 between attach and mount leaks nothing: our descriptor closes with the
    /// process, it is the last one, and the kernel detaches the file. After the mount, the mount
    /// is the user, and the device lives exactly as long as it.
    pub autoclear: bool,
    /// Logical block size in bytes, a power of two from 512 to the page size; the kernel's choice
    /// if `None`.
    pub block_size: Option<u32>,
    /// Let nothing that happens on the device take blocks from the file; see [`keep_blocks`].
    pub keep_blocks: bool,
}

/// An attached loop device. Dropping it closes the descriptor and detaches nothing, unless
/// `autoclear` was asked for and nobody else uses the device.
#[derive(Debug)]
pub struct LoopDevice {
    /// `/dev/loopN`.
    pub path: PathBuf,
    pub devno: Devno,
    /// Whether the file is read and written without the page cache in between. Always asked for,
    /// refused by file systems that cannot; then data is cached twice.
    pub direct_io: bool,
    fd: File,
}

impl AsFd for LoopDevice {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Attaches `file` to a free loop device.
///
/// # Errors
/// EBUSY only after many lost races; ENOENT where the kernel has no loop devices, or has one that
/// `/dev` does not show, as in a container with a `/dev` of its own.
pub fn attach(file: &Path, options: Options) -> Result<LoopDevice, FsError> {
    let control_path = Path::new(CONTROL);
    let no_loops = "open (is the loop module loaded, and does /dev show it?)";
    let control = File::open(control_path).context(no_loops, control_path)?;
    let backing = OpenOptions::new()
        .read(true)
        .write(!options.read_only)
        .open(file)
        .context("open", file)?;
    let mut last = FsError::new("attach a loop device to", file, Errno::BUSY);
    for _ in 0..TRIES {
        // ENOSPC is of the numbers of loop devices here, not of a disk.
        let number = abi::free(&control).context(
            "get a free loop device (all may be in use: losetup -a) from",
            control_path,
        )?;
        let path = PathBuf::from(format!("/dev/loop{number}"));
        if !options.keep_blocks && discard::is_off(&path) && abi::remove(&control, number).is_ok() {
            // What was turned off by its last user stays off; a new one of that number has it.
            continue;
        }
        match attach_to(&path, &backing, file, options) {
            Ok(device) => return Ok(device),
            // EBUSY: somebody else took it. ENOENT, ENXIO: removed again, or not yet made by udev.
            Err(error) => match error.errno() {
                Some(Errno::BUSY | Errno::NOENT | Errno::NXIO | Errno::NODEV) => {
                    last = error;
                    std::thread::sleep(std::time::Duration::from_millis(5));
                }
                _ => return Err(error),
            },
        }
    }
    if last.path == file {
        return Err(last);
    }
    // The kernel has a free one all the time, and we cannot get at it.
    Err(FsError {
        verb: "open the free loop device (does /dev show the host's devices, or is udev away? \
               mknod makes the node)",
        ..last
    })
}

fn attach_to(
    path: &Path,
    backing: &File,
    file: &Path,
    options: Options,
) -> Result<LoopDevice, FsError> {
    // Writable even for a read-only loop device would be allowed, but a writable open of a
    // read-only device fails later; so open as it will be.
    let fd = OpenOptions::new()
        .read(true)
        .write(!options.read_only)
        .open(path)
        .context("open", path)?;
    let mut config = abi::Config::new(backing.as_raw_fd(), options.block_size.unwrap_or(0), file);
    let wanted = |on: bool, flag: u32| if on { flag } else { 0 };
    config.info.flags =
        wanted(options.read_only, READ_ONLY) | wanted(options.autoclear, AUTOCLEAR) | DIRECT_IO;
    let configured = match abi::configure(&fd, config) {
        // Some kernels refuse direct I/O that the file system lacks, others drop the flag.
        Err(Errno::INVAL) => {
            config.info.flags &= !DIRECT_IO;
            abi::configure(&fd, config)
        }
        other => other,
    };
    configured.context("attach a loop device to", file)?;
    if options.keep_blocks
        && let Err(error) = keep_blocks(path)
    {
        // As where sysfs is mounted read-only. Whoever needs the blocks fills the holes.
        tracing::warn!(device = %path.display(), %error, "discards reach the file");
    }
    let status = abi::status(&fd).context("read the status of", path)?;
    let devno = Devno::from_stat(fd.metadata().context("look at", path)?.rdev());
    let direct_io = status.flags & DIRECT_IO != 0;
    Ok(LoopDevice {
        path: path.to_owned(),
        devno,
        direct_io,
        fd,
    })
}

/// The loop devices `file` is attached to, sorted.
///
/// Compared by device and inode number, because what `loop/backing_file` in sysfs shows depends on
/// where the file system is mounted for whom. It is looked at first all the same: opening a
/// device waits for whatever is being done to it, and one that is dying would stall every volume.
/// Where `file` is gone that path is all there is to compare.
///
/// # Errors
/// If sysfs or `file` cannot be read; devices that go meanwhile are left out.
pub fn find(file: &Path) -> Result<Vec<PathBuf>, FsError> {
    let wanted = Wanted::of(file)?;
    let mut found = all()?;
    found.retain(|(device, backing)| wanted.is(device, backing));
    Ok(found.into_iter().map(|(device, _)| device).collect())
}

/// Whether `file` is attached to `device`, compared as [`find`] does. No other device is looked at,
/// however many there are.
///
/// # Errors
/// If `file` cannot be looked at.
pub fn is_on(device: &Path, file: &Path) -> Result<bool, FsError> {
    let name = device.file_name().unwrap_or_default();
    match backing_path(&Path::new(SYSFS).join(name)) {
        Some(backing) => Ok(Wanted::of(file)?.is(device, &backing)),
        None => Ok(false),
    }
}

/// A file whose devices are looked for.
struct Wanted<'a> {
    file: &'a Path,
    /// Device and inode number, and the path without symlinks, while it is there.
    there: Option<(Devno, u64, PathBuf)>,
}

impl<'a> Wanted<'a> {
    fn of(file: &'a Path) -> Result<Self, FsError> {
        let there = fs::canonicalize(file).and_then(|real| Ok((fs::metadata(&real)?, real)));
        let there = match there {
            Ok((meta, real)) => Some((Devno::from_stat(meta.dev()), meta.ino(), real)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(FsError::new("look at", file, error)),
        };
        Ok(Self { file, there })
    }

    /// Whether it is attached to this device, for which sysfs shows this path.
    fn is(&self, device: &Path, backing: &Path) -> bool {
        let Some((dev, ino, real)) = &self.there else {
            return backing == self.file;
        };
        let status = || File::open(device).ok().and_then(|fd| abi::status(&fd).ok());
        named_alike(backing, real)
            && status().is_some_and(|status| status.inode == *ino && status.devno() == *dev)
    }
}

/// All loop devices with something attached, sorted, and the path that sysfs shows for it.
///
/// # Errors
/// If sysfs cannot be read; devices that go meanwhile are left out.
pub fn all() -> Result<Vec<(PathBuf, PathBuf)>, FsError> {
    let root = Path::new(SYSFS);
    let mut all = Vec::new();
    for entry in fs::read_dir(root).context("list", root)? {
        let name = entry.context("list", root)?.file_name();
        if let Some(backing) = backing_path(&root.join(&name)) {
            all.push((Path::new("/dev").join(&name), backing));
        }
    }
    all.sort();
    Ok(all)
}

/// The path that sysfs shows for what is attached to the device of this directory there, if anything
/// is: the file exists only then.
fn backing_path(dir: &Path) -> Option<PathBuf> {
    let backing = fs::read_to_string(dir.join("loop/backing_file")).ok()?;
    let backing = backing.trim_end_matches('\n');
    let backing = backing.strip_suffix(" (deleted)").unwrap_or(backing);
    Some(PathBuf::from(backing))
}

/// Whether two paths may name one file: the kernel shows the name a file has at the moment, below
/// the mount point it was opened through. Its directory's name is what tells volumes apart.
fn named_alike(one: &Path, other: &Path) -> bool {
    one.iter().rev().take(2).eq(other.iter().rev().take(2))
}

/// Detaches; a device with nothing attached, or gone, is fine. While the device is in use the
/// kernel only marks it autoclear, so it goes with its last user.
///
/// # Errors
/// As open(2); ENOTTY if `device` is no loop device.
pub fn detach(device: &Path) -> Result<(), FsError> {
    let fd = match File::open(device) {
        Ok(fd) => fd,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => match Errno::from_io_error(&error) {
            Some(Errno::NXIO | Errno::NODEV) => return Ok(()),
            _ => return Err(FsError::new("open", device, error)),
        },
    };
    match abi::clear(&fd) {
        Ok(()) | Err(Errno::NXIO) => Ok(()),
        Err(error) => Err(FsError::new("detach", device, error)),
    }
}

/// Makes the device as large as its file has become.
///
/// # Errors
/// ENXIO if nothing is attached.
pub fn set_capacity(device: &Path) -> Result<(), FsError> {
    let fd = File::open(device).context("open", device)?;
    abi::set_capacity(&fd).context("update the size of", device)
}

/// Turns autoclear on or off; see [`Options::autoclear`].
///
/// # Errors
/// ENXIO if nothing is attached.
pub fn set_autoclear(device: &Path, on: bool) -> Result<(), FsError> {
    // Open before, so that turning it off cannot come too late for this very open.
    let fd = File::open(device).context("open", device)?;
    let mut status = abi::status(&fd).context("read the status of", device)?;
    status.flags = if on {
        status.flags | AUTOCLEAR
    } else {
        status.flags & !AUTOCLEAR
    };
    abi::set_status(&fd, status).context("set autoclear of", device)
}

/// What a loop device lies on.
pub(crate) struct Backing {
    /// It is no file but a block device.
    pub(crate) is_device: bool,
    /// `st_dev` and inode number.
    pub(crate) dev: Devno,
    pub(crate) inode: u64,
}

/// What a loop device lies on.
///
/// # Errors
/// ENXIO if nothing is attached.
pub(crate) fn backing(device: &Path) -> Result<Backing, FsError> {
    let fd = File::open(device).context("open", device)?;
    let status = abi::status(&fd).context("read the status of", device)?;
    Ok(Backing {
        is_device: status.rdevice != 0,
        dev: status.devno(),
        inode: status.inode,
    })
}

/// What a loop device shows of its file, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View {
    /// From the first byte to the last, as opposed to `losetup --offset` or `--sizelimit`.
    pub whole: bool,
    /// It refuses writes.
    pub read_only: bool,
    /// Its logical block size.
    pub block_size: u32,
}

/// How a device shows its file; nothing when none is attached (any more).
///
/// # Errors
/// As open(2) and ioctl(2).
pub fn view(device: &Path) -> Result<Option<View>, FsError> {
    let gone = |error: &FsError| {
        let gone = [Errno::NOENT, Errno::NXIO, Errno::NODEV];
        error.errno().is_some_and(|errno| gone.contains(&errno))
    };
    let seen = || {
        let fd = File::open(device).context("open", device)?;
        let status = abi::status(&fd).context("read the status of", device)?;
        Ok(View {
            whole: status.is_whole(),
            read_only: status.flags & READ_ONLY != 0,
            block_size: crate::device::logical_block_size(device)?,
        })
    };
    match seen() {
        Ok(view) => Ok(Some(view)),
        Err(error) if gone(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The loop devices that show all of `file` and refuse writes: what was made for its readers, or is as
/// good. What others attached otherwise is theirs.
///
/// # Errors
/// As [`find`] and [`view`].
pub fn readers(file: &Path) -> Result<Vec<PathBuf>, FsError> {
    let mut readers = Vec::new();
    for device in find(file)? {
        if view(&device)?.is_some_and(|view| view.whole && view.read_only) {
            readers.push(device);
        }
    }
    Ok(readers)
}

#[cfg(test)]
mod tests;
