//! Block devices: what the kernel knows about them, and who uses them.
//!
//! The rule for sysfs names is in the kernel's Documentation/ABI/stable/sysfs-block; sizes there
//! are in sectors of 512 bytes whatever the device's own sector is.

use std::collections::VecDeque;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{OFlags, ioctl_blksszget};
use rustix::io::Errno;
use rustix::ioctl::{Getter, Setter, ioctl, opcode};

use crate::error::{Context, FsError};
use crate::mountinfo;

pub use crate::devno::{Devno, NotADevno};
pub use crate::wipe::{discard, sync, zero, zero_ends, zero_grown};

/// linux/fs.h declares the argument of BLKGETSIZE64 as `size_t`, but the kernel writes a u64.
const BLKGETSIZE64: u32 = opcode::read::<usize>(0x12, 114);
const BLKROSET: u32 = opcode::none(0x12, 93);

/// Size of a block device, or length of a file, in bytes.
///
/// # Errors
/// If `path` cannot be opened for reading or is neither.
pub fn size(path: &Path) -> Result<u64, FsError> {
    let file = File::open(path).context("open", path)?;
    size_of(&file, path)
}

pub(crate) fn size_of(file: &File, path: &Path) -> Result<u64, FsError> {
    let metadata = file.metadata().context("look at", path)?;
    if metadata.is_file() {
        return Ok(metadata.len());
    }
    // SAFETY: BLKGETSIZE64 writes one u64 to its argument (block/ioctl.c, blkdev_common_ioctl).
    unsafe { ioctl(file, Getter::<BLKGETSIZE64, u64>::new()) }.context("read the size of", path)
}

/// Number of the block device at `path`; symlinks are followed (/dev/VG/LV is one).
///
/// # Errors
/// `InvalidInput` if it is no block device.
pub fn devno(path: &Path) -> Result<Devno, FsError> {
    let metadata = fs::metadata(path).context("look at", path)?;
    if !metadata.file_type().is_block_device() {
        let error = io::Error::new(io::ErrorKind::InvalidInput, "not a block device");
        return Err(FsError::new("use", path, error));
    }
    Ok(Devno::from_stat(metadata.rdev()))
}

/// The device's directory in sysfs, of a disk or a partition.
pub fn sysfs(devno: Devno) -> PathBuf {
    PathBuf::from(format!("/sys/dev/block/{devno}"))
}

/// The kernel's name, as in `dm-3`, which is also its node in devtmpfs.
///
/// # Errors
/// `NotFound` if no such device exists.
pub fn kernel_name(devno: Devno) -> Result<String, FsError> {
    let link = sysfs(devno);
    let real = fs::read_link(&link).context("find the device", &link)?;
    Ok(real
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned())
}

/// Smallest unit the device reads and writes, in bytes (BLKSSZGET).
///
/// # Errors
/// If `path` is no readable block device.
pub fn logical_block_size(path: &Path) -> Result<u32, FsError> {
    let file = File::open(path).context("open", path)?;
    ioctl_blksszget(&file).context("read the block size of", path)
}

/// True for a disk with moving heads, as far as its driver says; of a partition, its disk.
///
/// # Errors
/// `NotFound` if no such device exists.
pub fn rotational(devno: Devno) -> Result<bool, FsError> {
    let own = sysfs(devno).join("queue/rotational");
    if own.exists() {
        flag(&own)
    } else {
        flag(&sysfs(devno).join("../queue/rotational"))
    }
}

/// True if the kernel refuses writes to the device.
///
/// # Errors
/// `NotFound` if no such device exists.
pub fn read_only(devno: Devno) -> Result<bool, FsError> {
    flag(&sysfs(devno).join("ro"))
}

/// Makes the kernel refuse writes to the block device, or take them again, for whoever opens it
/// from now on. It lasts as long as the device: over a reload of its table, not over its removal.
///
/// # Errors
/// If `path` cannot be opened for reading or is no block device.
pub fn set_read_only(path: &Path, read_only: bool) -> Result<(), FsError> {
    let device = File::open(path).context("open", path)?;
    let value = i32::from(read_only);
    // SAFETY: BLKROSET reads one int from its argument (block/ioctl.c, blkdev_roset).
    unsafe { ioctl(&device, Setter::<BLKROSET, i32>::new(value)) }
        .context("set the read-only flag of", path)
}

/// Kernel names of the devices built on this one (device mapper, md).
///
/// # Errors
/// `NotFound` if no such device exists.
pub fn holders(devno: Devno) -> Result<Vec<String>, FsError> {
    names(&sysfs(devno).join("holders"))
}

/// Whether a block device is a disk of its own or a part of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Whole,
    Partition,
}

/// Tells a whole disk (also dm and loop devices) from a partition.
///
/// # Errors
/// `NotFound` if no such device exists.
pub fn is_whole_or_partition(devno: Devno) -> Result<Part, FsError> {
    let dir = sysfs(devno);
    fs::metadata(&dir).context("find the device", &dir)?;
    Ok(if dir.join("partition").exists() {
        Part::Partition
    } else {
        Part::Whole
    })
}

/// Who uses a block device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InUse {
    /// Where it or one of its partitions is mounted, as far as this mount namespace shows.
    pub mounts: Vec<PathBuf>,
    /// Kernel names of devices built on it or its partitions.
    pub holders: Vec<String>,
    /// True if it is swap space.
    pub swap: bool,
}

impl fmt::Display for InUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mounts = self
            .mounts
            .iter()
            .map(|point| format!("mounted at {}", point.display()));
        let holders = self.holders.iter().map(|name| format!("held by {name}"));
        let swap = self.swap.then(|| "used as swap".to_owned());
        let all: Vec<_> = mounts.chain(holders).chain(swap).collect();
        let unknown = "in use, perhaps in another mount namespace";
        if all.is_empty() {
            f.write_str(unknown)
        } else {
            f.write_str(&all.join(", "))
        }
    }
}

/// Who has the block device for itself, `None` if nobody.
///
/// O_EXCL on a block device without O_CREAT asks exactly this (open(2)): mounts, swap, device
/// mapper and md claim their devices, and a whole disk counts as claimed while a partition is.
///
/// # Errors
/// If `path` is no block device or cannot be opened for another reason than being claimed.
pub fn in_use(path: &Path) -> Result<Option<InUse>, FsError> {
    let devno = devno(path)?;
    match exclusively(OpenOptions::new().read(true), path) {
        Ok(_) => Ok(None),
        Err(error) if error.errno() == Some(Errno::BUSY) => users(devno).map(Some),
        Err(error) => Err(error),
    }
}

/// Opens with O_EXCL if `path` is a block device.
pub(crate) fn exclusively(options: &mut OpenOptions, path: &Path) -> Result<File, FsError> {
    let block = fs::metadata(path)
        .context("look at", path)?
        .file_type()
        .is_block_device();
    let flags = if block { OFlags::EXCL } else { OFlags::empty() };
    let flags = i32::try_from(flags.bits()).unwrap_or(0);
    options.custom_flags(flags).open(path).context("open", path)
}

fn users(devno: Devno) -> Result<InUse, FsError> {
    let mut all = vec![devno];
    for name in names(&sysfs(devno))? {
        let part = sysfs(devno).join(name);
        if part.join("partition").exists() {
            all.push(read_devno(&part.join("dev"))?);
        }
    }
    let table = mountinfo::table().context("read", Path::new("/proc/self/mountinfo"))?;
    let swaps = fs::read_to_string("/proc/swaps").unwrap_or_default();
    let mut found = InUse::default();
    for one in all {
        found.holders.extend(holders(one)?);
        let node = Path::new("/dev").join(kernel_name(one)?);
        // btrfs mounts have a device number of their own; their source is the device.
        let mounts = table.iter().filter(|mount| {
            mount.dev == one || (mount.fstype == "btrfs" && Path::new(&mount.source) == node)
        });
        found.mounts.extend(mounts.map(|mount| mount.point.clone()));
        found.swap |= swaps
            .lines()
            .any(|line| line.split(' ').next() == node.to_str());
    }
    Ok(found)
}

/// Sectors of 512 bytes written since boot: the seventh field of the `stat` file
/// (Documentation/block/stat.rst). It moves when something wrote, whoever it was.
///
/// # Errors
/// `NotFound` if no such device exists.
pub fn write_sectors(devno: Devno) -> Result<u64, FsError> {
    let path = sysfs(devno).join("stat");
    let text = fs::read_to_string(&path).context("read", &path)?;
    let field = text
        .split_ascii_whitespace()
        .nth(6)
        .and_then(|field| field.parse().ok());
    field.ok_or_else(|| FsError::new("read", &path, io::Error::from(io::ErrorKind::InvalidData)))
}

/// The active device-mapper device of this name (`vg-lv`, with `-` in names doubled), if any.
///
/// # Errors
/// If sysfs cannot be read.
pub fn dm_device(dm_name: &str) -> Result<Option<Devno>, FsError> {
    let root = Path::new("/sys/block");
    for name in names(root)?.iter().filter(|name| name.starts_with("dm-")) {
        // A device may go between listing and reading.
        let found = fs::read_to_string(root.join(name).join("dm/name")).unwrap_or_default();
        if found.trim_end() == dm_name {
            return read_devno(&root.join(name).join("dev")).map(Some);
        }
    }
    Ok(None)
}

/// The devices below this one, nearest first, each once: the slaves of a dm or md device and the
/// disk of a partition. Empty for a plain disk, and for a loop device (its file is no device).
///
/// # Errors
/// `NotFound` if a device is gone.
pub fn backing_chain(devno: Devno) -> Result<Vec<Devno>, FsError> {
    let mut below: Vec<Devno> = Vec::new();
    let mut open = VecDeque::from([devno]);
    while let Some(next) = open.pop_front() {
        let dir = sysfs(next);
        let mut found = Vec::new();
        if is_whole_or_partition(next)? == Part::Partition {
            found.push(read_devno(&dir.join("../dev"))?);
        } else {
            for name in names(&dir.join("slaves"))? {
                found.push(read_devno(&dir.join("slaves").join(name).join("dev"))?);
            }
        }
        for one in found {
            if !below.contains(&one) {
                below.push(one);
                open.push_back(one);
            }
        }
    }
    Ok(below)
}

/// A whole block device as sysfs lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// The kernel's name: `sda`, `dm-3`, `loop0`.
    pub name: String,
    pub devno: Devno,
    /// Bytes.
    pub size: u64,
    pub read_only: bool,
    pub removable: bool,
    pub rotational: bool,
    /// What the hardware calls itself; virtual devices have none.
    pub model: Option<String>,
}

/// All whole block devices with a size (unbound loop devices have none), sorted by name.
///
/// # Errors
/// If sysfs cannot be read; a device that goes meanwhile is left out.
pub fn all_disks() -> Result<Vec<Disk>, FsError> {
    let root = Path::new("/sys/block");
    let mut disks: Vec<Disk> = names(root)?
        .into_iter()
        .filter_map(|name| disk(&root.join(&name), name).ok())
        .filter(|disk| disk.size > 0)
        .collect();
    disks.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(disks)
}

fn disk(dir: &Path, name: String) -> Result<Disk, FsError> {
    let size = dir.join("size");
    let sectors: u64 = fs::read_to_string(&size)
        .and_then(|text| text.trim().parse().map_err(io::Error::other))
        .context("read", &size)?;
    let model = fs::read_to_string(dir.join("device/model")).ok();
    Ok(Disk {
        devno: read_devno(&dir.join("dev"))?,
        size: sectors.saturating_mul(512),
        read_only: flag(&dir.join("ro"))?,
        removable: flag(&dir.join("removable"))?,
        rotational: flag(&dir.join("queue/rotational"))?,
        model: model
            .map(|model| model.trim().to_owned())
            .filter(|model| !model.is_empty()),
        name,
    })
}

fn flag(path: &Path) -> Result<bool, FsError> {
    Ok(fs::read_to_string(path).context("read", path)?.trim() != "0")
}

fn read_devno(path: &Path) -> Result<Devno, FsError> {
    let text = fs::read_to_string(path).context("read", path)?;
    text.parse().map_err(io::Error::other).context("read", path)
}

fn names(dir: &Path) -> Result<Vec<String>, FsError> {
    let entries = fs::read_dir(dir).context("list", dir)?;
    let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    names.collect::<io::Result<_>>().context("list", dir)
}

#[cfg(test)]
mod tests;
