//! The block devices that are the machine's own: what no user of a volume can write to.
//!
//! A logical volume, a loop device over one (kubelet puts one over every raw volume) or over a
//! file that is a volume, and whatever is stacked on these, hold what a tenant wrote. Looking for
//! LVM's disks there would let a tenant make one up.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::Duration;

use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::devno::Devno;
use crate::error::{Context, FsError};
use crate::{loopdev, mountinfo};

const SYS_BLOCK: &str = "/sys/block";

/// Direct reads must begin, end and lie in memory at multiples of a device's sector; none is
/// larger than a page.
const ALIGN: usize = 4096;

/// How long a file system is waited for that the file of a loop device lies on.
const PATIENCE: Duration = Duration::from_secs(1);

/// Loop devices whose files do not answer.
static HANGING: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// Says of the file of a loop device whether it is a volume's.
pub type IsVolume = fn(&Path) -> bool;

/// A disk or partition.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct OwnDisk {
    /// Its node, which was seen to bear the number that sysfs tells.
    pub path: PathBuf,
    pub devno: Devno,
}

/// The machine's own disks and partitions that have a size, sorted by path.
///
/// Left out are floppy and optical drives, and the members of md arrays and multipath devices,
/// which show what the device above them shows.
///
/// # Errors
/// If sysfs cannot be listed; a device that goes meanwhile is left out.
pub fn own_disks(is_volume: IsVolume) -> Result<Vec<OwnDisk>, FsError> {
    let root = Path::new(SYS_BLOCK);
    let mut found = Vec::new();
    for entry in fs::read_dir(root).context("list", root)? {
        let name = entry.context("list", root)?.file_name();
        let dir = root.join(&name);
        let text = name.to_string_lossy();
        let drive = ["sr", "fd"].iter().any(|kind| {
            let number = text.strip_prefix(kind);
            number.is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_digit()))
        });
        if drive || is_tenants(&dir, is_volume) {
            continue;
        }
        let parts = fs::read_dir(&dir).into_iter().flatten().flatten();
        let parts = parts
            .map(|entry| entry.path())
            .filter(|dir| dir.join("partition").exists());
        found.extend(parts.chain([dir.clone()]).filter_map(|dir| own(&dir)));
    }
    found.sort();
    Ok(found)
}

/// Whether a tenant may write to the device, or nobody can tell.
///
/// # Errors
/// `NotFound` if no such device exists.
pub fn is_tenants_device(devno: Devno, is_volume: IsVolume) -> Result<bool, FsError> {
    let link = crate::device::sysfs(devno);
    let mut dir = fs::canonicalize(&link).context("find the device", &link)?;
    if dir.join("partition").exists() {
        dir.pop();
    }
    Ok(is_tenants(&dir, is_volume))
}

/// The node of a device, by its directory in sysfs, when it has a size and is not a member of
/// something larger.
fn own(dir: &Path) -> Option<OwnDisk> {
    let read = |file: &str| fs::read_to_string(dir.join(file)).ok();
    if read("size")?.trim() == "0" || is_member(dir) {
        return None;
    }
    let devno: Devno = read("dev")?.parse().ok()?;
    // A slash in the kernel's name is a bang in sysfs.
    let name = dir.file_name()?.to_str()?.replace('!', "/");
    let path = Path::new("/dev").join(name);
    is_node(&path, devno).then_some(OwnDisk { path, devno })
}

/// Whether this node bears that number: /dev may hold what an earlier device left.
pub fn is_node(path: &Path, devno: Devno) -> bool {
    fs::metadata(path).is_ok_and(|metadata| {
        metadata.file_type().is_block_device() && Devno::from_stat(metadata.rdev()) == devno
    })
}

fn is_member(dir: &Path) -> bool {
    let holders = fs::read_dir(dir.join("holders")).into_iter().flatten();
    holders.flatten().any(|holder| {
        let uuid = fs::read_to_string(holder.path().join("dm/uuid"));
        holder.path().join("md").exists() || uuid.is_ok_and(|uuid| uuid.starts_with("mpath-"))
    })
}

fn is_tenants(dir: &Path, is_volume: IsVolume) -> bool {
    if fs::read_to_string(dir.join("dm/uuid")).is_ok_and(|uuid| uuid.starts_with("LVM-")) {
        return true;
    }
    if let Ok(backing) = fs::read_to_string(dir.join("loop/backing_file")) {
        return loop_may_be_tenants(dir, Path::new(backing.trim_end_matches('\n')), is_volume);
    }
    let Ok(below) = fs::read_dir(dir.join("slaves")) else {
        return false;
    };
    below.flatten().any(|below| {
        let Ok(mut dir) = fs::canonicalize(below.path()) else {
            // What is gone can be written by nobody, but what it was is not known.
            return true;
        };
        if dir.join("partition").exists() {
            dir.pop();
        }
        is_tenants(&dir, is_volume)
    })
}

/// As [`loop_is_tenants`], and true where the file system of its file does not answer: nobody can tell
/// then, and all other disks must not wait for it.
fn loop_may_be_tenants(dir: &Path, backing: &Path, is_volume: IsVolume) -> bool {
    let hanging = || HANGING.lock().unwrap_or_else(PoisonError::into_inner);
    if hanging().contains(dir) {
        return true;
    }
    // Room for one: whoever answers in time does not wait for us.
    let (tell, told) = mpsc::sync_channel(1);
    let (dir_of, backing) = (dir.to_owned(), backing.to_owned());
    let thread = std::thread::Builder::new().name("stowage-loop".to_owned());
    let spawned = thread.spawn(move || {
        let answer = loop_is_tenants(&dir_of, &backing, is_volume);
        if tell.send(answer).is_err() {
            hanging().remove(&dir_of);
        }
    });
    if spawned.is_err() {
        return true;
    }
    if let Ok(answer) = told.recv_timeout(PATIENCE) {
        return answer;
    }
    hanging().insert(dir.to_owned());
    // It may have answered just before that.
    match told.try_recv() {
        Ok(answer) => {
            hanging().remove(dir);
            answer
        }
        Err(_) => true,
    }
}

/// The path in sysfs is looked at first: opening a loop device waits for whatever is being done
/// to it.
fn loop_is_tenants(dir: &Path, backing: &Path, is_volume: IsVolume) -> bool {
    if backing.starts_with("/dev") || is_volume(backing) {
        return true;
    }
    let Some(name) = dir.file_name() else {
        return true;
    };
    // A file that is not where the kernel says, for us, may be anybody's.
    let Ok(file) = fs::metadata(backing) else {
        return true;
    };
    let Ok(of) = loopdev::backing(&Path::new("/dev").join(name)) else {
        return true;
    };
    if of.is_device || of.inode != file.ino() || of.dev != Devno::from_stat(file.dev()) {
        return true;
    }
    match file_systems_device(of.dev) {
        Some(devno) => holds_a_volume(devno, is_volume),
        None => false,
    }
}

/// The device of a file system by its `st_dev`: itself, or for btrfs what was mounted.
fn file_systems_device(dev: Devno) -> Option<Devno> {
    if dev.major != 0 {
        return Some(dev);
    }
    let mounts = mountinfo::of_device(dev).ok()?;
    let sources = mounts.iter().map(|mount| Path::new(&mount.source));
    sources
        .filter(|source| source.starts_with("/dev"))
        .find_map(|source| crate::device::devno(source).ok())
}

/// Whether a file system on this device is a volume's. Many machines have their root on a logical
/// volume of their own, so those count only where they bear our name.
fn holds_a_volume(devno: Devno, is_volume: IsVolume) -> bool {
    let Ok(mut dir) = fs::canonicalize(crate::device::sysfs(devno)) else {
        return true;
    };
    if dir.join("partition").exists() {
        dir.pop();
    }
    match fs::read_to_string(dir.join("dm/name")) {
        Ok(name) => name.contains("-stowage--"),
        Err(_) => is_tenants(&dir, is_volume),
    }
}

/// Up to `len` bytes of a device or file from `offset` on, fewer at its end. Past the page cache:
/// what another program has just written is seen, and nothing stale is left for it.
///
/// # Errors
/// As open(2) and read(2).
pub fn read(path: &Path, offset: u64, len: usize) -> Result<Vec<u8>, FsError> {
    let direct = i32::try_from(OFlags::DIRECT.bits()).unwrap_or(0);
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(direct)
        .open(path);
    let mut file = match file {
        // A file system that cannot, as a tmpfs of old kernels.
        Err(error) if Errno::from_io_error(&error) == Some(Errno::INVAL) => File::open(path),
        other => other,
    }
    .context("open", path)?;
    let align = ALIGN as u64;
    let from = offset / align * align;
    let skip = usize::try_from(offset - from).unwrap_or(0);
    let whole = (skip + len).div_ceil(ALIGN) * ALIGN;
    let mut buffer = vec![0; whole + ALIGN];
    let at = buffer.as_ptr().align_offset(ALIGN);
    file.seek(SeekFrom::Start(from)).context("read", path)?;
    let mut have = 0;
    while have < whole {
        match file.read(&mut buffer[at + have..at + whole]) {
            Ok(0) => break,
            Ok(n) => have += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(FsError::new("read", path, error)),
        }
        // An odd number is the end of a file; the next read could not begin there.
        if have % 512 != 0 {
            break;
        }
    }
    let have = have.saturating_sub(skip).min(len);
    Ok(buffer[at + skip..at + skip + have].to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Disk;

    fn is_own(path: &Path) -> bool {
        let disks = own_disks(|file| file.ends_with("volume")).unwrap();
        let own = disks.iter().any(|disk| disk.path == path);
        let devno = crate::device::devno(path).unwrap();
        let tenants = is_tenants_device(devno, |file| file.ends_with("volume")).unwrap();
        assert_ne!(own, tenants, "{}", path.display());
        own
    }

    fn over(file: &Path) -> loopdev::LoopDevice {
        let options = loopdev::Options {
            autoclear: true,
            ..loopdev::Options::default()
        };
        loopdev::attach(file, options).unwrap()
    }

    #[test]
    fn what_a_volumes_user_writes_is_no_disk_of_our_own() {
        let disk = Disk::new(16 << 20);
        assert!(is_own(disk.path()), "a file of the machine's own");
        let above = over(disk.path());
        assert!(!is_own(&above.path), "kubelet's, over a raw volume");
        let volume = disk.dir.path().join("volume");
        File::create(&volume).unwrap().set_len(16 << 20).unwrap();
        let of_volume = over(&volume);
        assert!(!is_own(&of_volume.path), "a raw volume of a file pool");
        fs::remove_file(&disk.file).unwrap();
        assert!(!is_own(disk.path()), "of a file that nobody sees");
    }

    #[test]
    fn a_node_that_bears_another_number_is_not_the_device() {
        use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

        let disk = Disk::new(16 << 20);
        let devno = crate::device::devno(disk.path()).unwrap();
        let other = Devno {
            minor: devno.minor + 1,
            ..devno
        };
        let dir = disk.dir.path();
        let (left, link, file) = (dir.join("left"), dir.join("link"), dir.join("file"));
        let number = makedev(other.major, other.minor);
        mknodat(CWD, &left, FileType::BlockDevice, Mode::RUSR, number).unwrap();
        std::os::unix::fs::symlink(disk.path(), &link).unwrap();
        fs::write(&file, "").unwrap();
        for (path, is) in [(disk.path(), devno), (&link, devno), (&left, other)] {
            assert!(is_node(path, is), "{}", path.display());
        }
        for (path, is) in [(disk.path(), other), (&left, devno), (&file, devno)] {
            assert!(!is_node(path, is), "{}", path.display());
        }
        // What sysfs tells of a device whose node another one has got.
        let told = dir.join(disk.path().file_name().unwrap());
        fs::create_dir(&told).unwrap();
        fs::write(told.join("size"), "32768").unwrap();
        for (number, found) in [(devno, Some(disk.path())), (other, None)] {
            fs::write(told.join("dev"), format!("{number}\n")).unwrap();
            assert_eq!(own(&told).as_ref().map(|disk| &*disk.path), found);
        }
    }

    #[test]
    fn a_file_that_does_not_answer_holds_up_no_other_disk_and_is_asked_for_once() {
        static HELD: Mutex<()> = Mutex::new(());
        static ASKED: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        fn hangs(file: &Path) -> bool {
            if file.ends_with("hangs") {
                ASKED.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                drop(HELD.lock().unwrap_or_else(PoisonError::into_inner));
            }
            false
        }
        let good = Disk::new(16 << 20);
        let file = good.dir.path().join("hangs");
        File::create(&file).unwrap().set_len(16 << 20).unwrap();
        let device = over(&file);
        let is_own = || {
            let disks = own_disks(hangs).unwrap();
            assert!(disks.iter().any(|disk| disk.path == good.path()));
            disks.iter().any(|disk| disk.path == device.path)
        };
        let held = HELD.lock().unwrap();
        let begun = std::time::Instant::now();
        for _ in 0..20 {
            assert!(!is_own(), "nobody can tell");
        }
        let took = begun.elapsed();
        assert!(took < PATIENCE * 10, "{took:?}");
        assert_eq!(ASKED.load(std::sync::atomic::Ordering::SeqCst), 1);
        drop(held);
        for _ in 0..1000 {
            if is_own() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("it answers again");
    }

    #[test]
    fn a_file_in_a_volume_is_its_users() {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().join("volume");
        File::create(&volume).unwrap().set_len(64 << 20).unwrap();
        let below = over(&volume);
        crate::testing::tool("mkfs.ext4", &["-q", below.path.to_str().unwrap()]);
        let point = dir.path().join("mnt");
        fs::create_dir(&point).unwrap();
        let (from, to) = (below.path.to_str().unwrap(), point.to_str().unwrap());
        crate::testing::tool("mount", &[from, to]);
        let inner = point.join("image");
        File::create(&inner).unwrap().set_len(16 << 20).unwrap();
        let device = over(&inner);
        let own = is_own(&device.path);
        drop(device);
        crate::testing::tool("umount", &["-l", to]);
        assert!(!own);
    }

    #[test]
    fn any_part_is_read_and_what_is_beyond_the_end_is_missing() {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let file = dir.path().join("bytes");
        let bytes: Vec<u8> = (0..10_000u32).map(|n| (n % 251) as u8).collect();
        fs::write(&file, &bytes).unwrap();
        for (offset, len) in [(0, 1), (1, 4096), (4095, 2), (5000, 5000)] {
            let want = &bytes[offset..offset + len];
            assert_eq!(read(&file, offset as u64, len).unwrap(), want, "{offset}");
        }
        assert_eq!(read(&file, 9_990, 100).unwrap(), &bytes[9_990..]);
        assert_eq!(read(&file, 20_000, 100).unwrap(), b"");
        assert!(read(Path::new("/nonexistent"), 0, 1).is_err());
    }
}
