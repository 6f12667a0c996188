use super::*;
use crate::reflink::allocated_bytes;
use crate::testing::Disk;
use std::fs;

/// 9 MiB and a bit: data, a chunk of zeros, data again.
fn pattern() -> Vec<u8> {
    let mut bytes = vec![0; (9 << 20) + 777];
    bytes[..5000].fill(1);
    bytes[(8 << 20) + 5..].fill(2);
    bytes
}

#[test]
fn a_copy_has_every_byte_and_sparse_leaves_holes() {
    let dir = tempfile::tempdir().unwrap();
    let (src, dst) = (dir.path().join("src"), dir.path().join("dst"));
    fs::write(&src, pattern()).unwrap();
    for (sparse, expected) in [(false, 9 << 20), (true, 5 << 20)] {
        let _ = fs::remove_file(&dst);
        File::create(&dst).unwrap();
        let progress = Progress::new();
        let len = pattern().len() as u64;
        copy_device(&src, &dst, len, sparse, &progress).unwrap();
        assert!(fs::read(&dst).unwrap() == pattern());
        let allocated = allocated_bytes(&dst).unwrap();
        assert!(
            (expected..expected + (2 << 20)).contains(&allocated),
            "{sparse} {allocated}"
        );
        assert_eq!(progress.percent(), 100);
    }
}

#[test]
fn sparse_leaves_nothing_of_an_earlier_copy() {
    let dir = tempfile::tempdir().unwrap();
    let (src, dst) = (dir.path().join("src"), dir.path().join("dst"));
    fs::write(&src, pattern()).unwrap();
    fs::write(&dst, vec![9; pattern().len()]).unwrap();
    let len = pattern().len() as u64;
    copy_device(&src, &dst, len, true, &Progress::new()).unwrap();
    assert!(fs::read(&dst).unwrap() == pattern());
}

#[test]
fn without_sparse_old_data_is_overwritten_by_zeros() {
    let disk = Disk::new(16 << 20);
    fs::write(disk.path(), vec![9; 16 << 20]).unwrap();
    let src = disk.dir.path().join("src");
    fs::write(&src, pattern()).unwrap();
    copy_device(
        &src,
        disk.path(),
        pattern().len() as u64,
        false,
        &Progress::new(),
    )
    .unwrap();
    let got = fs::read(disk.path()).unwrap();
    assert!(got[..pattern().len()] == pattern());
    assert!(
        got[pattern().len()..].iter().all(|byte| *byte == 9),
        "nothing beyond len"
    );
}

#[test]
fn too_short_ends_are_refused_before_anything_is_written() {
    let disk = Disk::new(1 << 20);
    let src = disk.dir.path().join("src");
    fs::write(&src, vec![1; 2 << 20]).unwrap();
    let copy = |len| copy_device(&src, disk.path(), len, false, &Progress::new()).unwrap_err();
    assert_eq!(copy(2 << 20).kind(), io::ErrorKind::WriteZero);
    assert_eq!(copy(3 << 20).kind(), io::ErrorKind::UnexpectedEof);
    assert!(fs::read(disk.path()).unwrap().iter().all(|byte| *byte == 0));
}

#[test]
fn a_stop_and_a_mounted_destination_end_the_copy() {
    let disk = Disk::formatted("ext4");
    let src = disk.dir.path().join("src");
    fs::write(&src, vec![1; 1 << 20]).unwrap();
    let progress = Progress::new();
    progress.stop();
    let stopped = copy_device(&src, disk.path(), 1 << 20, false, &progress).unwrap_err();
    assert_eq!(stopped.kind(), io::ErrorKind::Interrupted);
    let _mounted = disk.mounted("ext4");
    let busy = copy_device(&src, disk.path(), 1 << 20, false, &Progress::new()).unwrap_err();
    assert_eq!(busy.errno(), Some(rustix::io::Errno::BUSY));
}

#[test]
fn zero_is_told_from_nearly_zero() {
    let mut bytes = vec![0; 4096];
    assert!(is_zero(&bytes) && is_zero(&[]) && is_zero(&[0]));
    for place in [0, 1, 2000, 4095] {
        bytes[place] = 1;
        assert!(!is_zero(&bytes), "{place}");
        bytes[place] = 0;
    }
}
