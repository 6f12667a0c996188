use super::*;
use crate::testing::Disk;
use std::io::ErrorKind;
use std::sync::atomic::Ordering::Relaxed;

fn fill(path: &Path, size: usize) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(&vec![0xa5; size], 0).unwrap();
    file.sync_all().unwrap();
}

fn zeros(path: &Path) -> bool {
    std::fs::read(path).unwrap().iter().all(|byte| *byte == 0)
}

#[test]
fn a_device_reads_as_zeros_to_its_last_byte() {
    let size = (65 << 20) + 4096;
    let disk = Disk::new(size as u64);
    fill(disk.path(), size);
    assert!(!zeros(disk.path()));
    let progress = Progress::new();
    zero(disk.path(), &progress).unwrap();
    assert!(zeros(disk.path()) && zeros(&disk.file));
    assert_eq!(progress.percent(), 100);
    assert_eq!(progress.done.load(Relaxed), size as u64);
}

#[test]
fn a_file_is_zeroed_by_writing() {
    let file = tempfile::NamedTempFile::new().unwrap();
    fill(file.path(), (5 << 20) + 3);
    zero(file.path(), &Progress::new()).unwrap();
    assert!(zeros(file.path()));
    assert_eq!(file.as_file().metadata().unwrap().len(), (5 << 20) + 3);
}

#[test]
fn a_stopped_job_leaves_the_rest_alone() {
    let disk = Disk::new(1 << 20);
    fill(disk.path(), 1 << 20);
    let progress = Progress::new();
    progress.stop();
    let error = zero(disk.path(), &progress).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Interrupted);
    assert!(!zeros(disk.path()));
}

#[test]
fn a_mounted_device_is_neither_zeroed_nor_discarded() {
    let disk = Disk::formatted("ext4");
    let mounted = disk.mounted("ext4");
    std::fs::write(mounted.0.join("kept"), "x").unwrap();
    assert_eq!(
        zero(disk.path(), &Progress::new()).unwrap_err().errno(),
        Some(Errno::BUSY)
    );
    assert_eq!(discard(disk.path()).unwrap_err().errno(), Some(Errno::BUSY));
    drop(mounted);
    let mounted = disk.mounted("ext4");
    assert_eq!(
        std::fs::read_to_string(mounted.0.join("kept")).unwrap(),
        "x"
    );
}

#[test]
fn discard_frees_the_blocks_of_the_file_below() {
    let disk = Disk::new(16 << 20);
    fill(disk.path(), 16 << 20);
    let before = crate::reflink::allocated_bytes(&disk.file).unwrap();
    assert!(discard(disk.path()).unwrap());
    let after = crate::reflink::allocated_bytes(&disk.file).unwrap();
    assert!(before >= 16 << 20 && after < 1 << 20, "{before} {after}");
    let file = tempfile::NamedTempFile::new().unwrap();
    assert!(!discard(file.path()).unwrap(), "a file cannot");
}

#[test]
fn sync_takes_devices_and_files_and_names_what_is_missing() {
    let disk = Disk::new(1 << 20);
    sync(disk.path()).unwrap();
    sync(&disk.file).unwrap();
    assert_eq!(
        sync(Path::new("/no/disk")).unwrap_err().to_string(),
        "failed to sync /no/disk"
    );
}

#[test]
fn of_a_grown_device_what_was_there_before_is_not_zeroed() {
    const MIB: usize = 1 << 20;
    let grown = |before: &[(usize, u8)], from: usize| {
        let file = tempfile::NamedTempFile::new().unwrap();
        // Beyond the old end lies what others left.
        let mut bytes = vec![0; from];
        bytes.resize(8 * MIB, 0xa5);
        for (at, byte) in before {
            bytes[*at] = *byte;
        }
        std::fs::write(file.path(), &bytes).unwrap();
        let blank = zero_grown(file.path(), from as u64).unwrap();
        (blank, bytes, std::fs::read(file.path()).unwrap())
    };
    for from in [4 * MIB, MIB / 2, 8 * MIB - 4096, 8 * MIB] {
        let (blank, before, after) = grown(&[], from);
        assert!(blank);
        assert_eq!(before[..from], after[..from]);
        let rest = [(from.min(MIB), MIB), (from.max(7 * MIB), 8 * MIB)];
        for (start, end) in rest.into_iter().filter(|(start, end)| start < end) {
            assert!(after[start..end].iter().all(|b| *b == 0), "{from}");
        }
        for byte in [0, from - 1] {
            let (blank, before, after) = grown(&[(byte, 7)], from);
            assert!(!blank);
            assert!(before == after, "{from}: something is on it");
        }
    }
}
