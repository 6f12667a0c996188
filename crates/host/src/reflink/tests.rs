use std::os::unix::fs::FileExt;

use super::*;
use crate::testing::Disk;

#[test]
fn xfs_and_btrfs_share_blocks_and_ext4_does_not() {
    for (fstype, shares) in [("xfs", true), ("btrfs", true), ("ext4", false)] {
        let disk = Disk::formatted(fstype);
        let mounted = disk.mounted(fstype);
        assert_eq!(supported(&mounted.0).unwrap(), shares, "{fstype}");
        let left: Vec<_> = fs::read_dir(&mounted.0)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .filter(|name| name != "lost+found")
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

#[test]
fn a_clone_has_the_content_and_takes_no_space() {
    let disk = Disk::formatted("xfs");
    let mounted = disk.mounted("xfs");
    let (src, dst) = (mounted.0.join("src"), mounted.0.join("dst"));
    fs::write(&src, vec![5; 32 << 20]).unwrap();
    crate::device::sync(&src).unwrap();
    let used = || crate::filesystem::size(&mounted.0).unwrap().used;
    let before = used();
    clone_file(&src, &dst).unwrap();
    assert!(fs::read(&dst).unwrap() == vec![5; 32 << 20]);
    assert!(used() - before < 4 << 20, "{} {before}", used());
    let again = clone_file(&src, &dst).unwrap_err();
    assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
    assert!(dst.exists(), "somebody else's file is not removed");
}

#[test]
fn a_refused_clone_leaves_no_file() {
    let disk = Disk::formatted("ext4");
    let mounted = disk.mounted("ext4");
    let (src, dst) = (mounted.0.join("src"), mounted.0.join("dst"));
    fs::write(&src, "x").unwrap();
    assert!(clone_file(&src, &dst).is_err());
    assert!(!dst.exists());
}

#[test]
fn allocate_reserves_and_keeps_content() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "content").unwrap();
    allocate(&file, 8 << 20).unwrap();
    assert!(allocated_bytes(&file).unwrap() >= 8 << 20);
    let bytes = fs::read(&file).unwrap();
    assert_eq!((bytes.len(), &bytes[..8]), (8 << 20, &b"content\0"[..]));
    allocate(&file, 1 << 20).unwrap();
    assert_eq!(fs::metadata(&file).unwrap().len(), 8 << 20);
}

#[test]
fn the_first_byte_ever_written_is_found_wherever_it_is() {
    for fstype in ["xfs", "btrfs", "ext4"] {
        let disk = Disk::formatted(fstype);
        let mounted = disk.mounted(fstype);
        let file = mounted.0.join("file");
        fs::write(&file, "").unwrap();
        assert_eq!(first_data(&file).unwrap(), None, "{fstype}: empty");
        allocate(&file, 16 << 20).unwrap();
        assert_eq!(first_data(&file).unwrap(), None, "{fstype}: reserved");
        let open = OpenOptions::new().write(true).open(&file).unwrap();
        open.write_all_at(&[0; 4096], 2 << 20).unwrap();
        open.sync_all().unwrap();
        assert_eq!(first_data(&file).unwrap(), None, "{fstype}: zeros");
        open.write_all_at(b"x", (9 << 20) + 77).unwrap();
        open.set_len(32 << 20).unwrap();
        let found = first_data(&file).unwrap();
        assert_eq!(found, Some((9 << 20) + 77), "{fstype}: in the middle");
    }
}

#[test]
fn a_full_file_system_says_so() {
    let disk = Disk::formatted("ext4");
    let mounted = disk.mounted("ext4");
    let file = mounted.0.join("file");
    fs::write(&file, "").unwrap();
    assert_eq!(
        allocate(&file, 1 << 30).unwrap_err().errno(),
        Some(Errno::NOSPC)
    );
}
