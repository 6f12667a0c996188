use super::*;
use crate::testing::{Disk, tool};

#[test]
fn sysfs_and_ioctls_agree_on_a_real_device() {
    let disk = Disk::new(8 << 20);
    let found = devno(disk.path()).unwrap();
    assert_eq!(found, disk.device.devno);
    assert_eq!(size(disk.path()).unwrap(), 8 << 20);
    assert_eq!(size(&disk.file).unwrap(), 8 << 20);
    assert_eq!(
        Path::new("/dev").join(kernel_name(found).unwrap()),
        disk.path()
    );
    assert_eq!(is_whole_or_partition(found).unwrap(), Part::Whole);
    assert!(!read_only(found).unwrap());
    assert!(holders(found).unwrap().is_empty());
    assert!(backing_chain(found).unwrap().is_empty());
    assert!(logical_block_size(disk.path()).unwrap().is_power_of_two());
    rotational(found).unwrap();
}

#[test]
fn a_file_is_no_device_and_a_missing_device_is_named() {
    let file = tempfile::NamedTempFile::new().unwrap();
    assert_eq!(
        devno(file.path()).unwrap_err().kind(),
        io::ErrorKind::InvalidInput
    );
    let gone = Devno {
        major: 7,
        minor: 98765,
    };
    assert_eq!(holders(gone).unwrap_err().kind(), io::ErrorKind::NotFound);
    assert_eq!(
        is_whole_or_partition(gone).unwrap_err().kind(),
        io::ErrorKind::NotFound
    );
    assert!(
        write_sectors(gone)
            .unwrap_err()
            .to_string()
            .contains("7:98765")
    );
}

#[test]
fn all_disks_has_the_attached_and_not_the_unbound() {
    let disk = Disk::new(8 << 20);
    let disks = all_disks().unwrap();
    let found = disks
        .iter()
        .find(|one| one.devno == disk.device.devno)
        .unwrap();
    assert_eq!((found.size, found.read_only), (8 << 20, false));
    assert!(disks.iter().all(|one| one.size > 0));
    assert!(disks.is_sorted_by_key(|one| one.name.clone()));
}

#[test]
fn a_mounted_device_is_in_use_and_the_mount_is_named() {
    for fstype in ["ext4", "btrfs"] {
        let disk = Disk::formatted(fstype);
        assert_eq!(in_use(disk.path()).unwrap(), None);
        let mounted = disk.mounted(fstype);
        let users = in_use(disk.path()).unwrap().unwrap();
        assert_eq!(users.mounts, std::slice::from_ref(&mounted.0), "{fstype}");
        assert!(users.to_string().contains(mounted.0.to_str().unwrap()));
    }
}

#[test]
fn a_mounted_partition_claims_its_disk() {
    let disk = Disk::new(160 << 20);
    let script = disk.dir.path().join("table");
    fs::write(&script, "label: gpt\nstart=2048, size=100MiB\n").unwrap();
    let path = disk.path().to_str().unwrap();
    tool(
        "sh",
        &[
            "-c",
            &format!("sfdisk -q --no-reread {path} < {}", script.display()),
        ],
    );
    tool("partx", &["-a", path]);
    let part = PathBuf::from(format!("{path}p1"));
    let remove = RemovePartitions(path.to_owned());
    let number = devno(&part).unwrap();
    assert_eq!(is_whole_or_partition(number).unwrap(), Part::Partition);
    assert_eq!(backing_chain(number).unwrap(), [disk.device.devno]);
    rotational(number).unwrap();
    tool("mkfs.ext4", &["-q", part.to_str().unwrap()]);
    let mounted = crate::testing::Mounted::at(disk.dir.path().join("mnt"));
    crate::mount::mount_device::<&str>(&part, &mounted.target(), "ext4", &[]).unwrap();
    let users = in_use(disk.path()).unwrap().unwrap();
    assert_eq!(users.mounts, std::slice::from_ref(&mounted.0));
    drop(mounted);
    drop(remove);
}

struct RemovePartitions(String);

impl Drop for RemovePartitions {
    fn drop(&mut self) {
        tool("partx", &["-d", &self.0]);
    }
}

#[test]
fn written_sectors_move_with_writes() {
    let disk = Disk::new(8 << 20);
    let before = write_sectors(disk.device.devno).unwrap();
    let mut file = OpenOptions::new().write(true).open(disk.path()).unwrap();
    io::Write::write_all(&mut file, &[7; 1 << 20]).unwrap();
    file.sync_all().unwrap();
    let written = write_sectors(disk.device.devno).unwrap() - before;
    assert!(written >= 2048, "1 MiB is 2048 sectors, not {written}");
}

#[test]
fn an_unknown_dm_name_is_none() {
    assert_eq!(dm_device("no-such--name").unwrap(), None);
}

#[test]
fn a_device_set_read_only_takes_no_writes_until_it_is_set_back() {
    let disk = Disk::new(1 << 20);
    let write = || {
        let file = OpenOptions::new().write(true).open(disk.path())?;
        std::os::unix::fs::FileExt::write_all_at(&file, b"x", 0)
    };
    write().unwrap();
    set_read_only(disk.path(), true).unwrap();
    assert!(read_only(devno(disk.path()).unwrap()).unwrap());
    write().unwrap_err();
    set_read_only(disk.path(), false).unwrap();
    write().unwrap();
}
