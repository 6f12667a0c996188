use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::reflink::{self, allocated_bytes, clone_file, create_in_place, fill_holes, is_in_place};
use crate::testing::Disk;

fn punch(file: &Path, from: u64, len: u64) {
    let open = OpenOptions::new().write(true).open(file).unwrap();
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(&open, flags, from, len).unwrap();
}

#[test]
fn the_kernels_structs_are_that_large() {
    assert_eq!((size_of::<Head>(), size_of::<Raw>()), (32, 56));
}

#[test]
fn holes_are_filled_and_bytes_stay() {
    for fstype in ["xfs", "btrfs", "ext4"] {
        let disk = Disk::formatted(fstype);
        let mounted = disk.mounted(fstype);
        let file = mounted.0.join("file");
        create_in_place(&file).unwrap();
        reflink::allocate(&file, 16 << 20).unwrap();
        let open = OpenOptions::new().write(true).open(&file).unwrap();
        open.write_all_at(&[7; 1 << 20], 1 << 20).unwrap();
        open.sync_all().unwrap();
        assert_eq!(
            fill_holes(&file).unwrap(),
            0,
            "{fstype}: allocated is no hole"
        );
        punch(&file, 0, 1 << 20);
        punch(&file, (1 << 20) + 4096, 8192);
        punch(&file, 8 << 20, 8 << 20);
        let lost = (9 << 20) + 8192;
        assert_eq!(reflink::hole_bytes(&file).unwrap(), lost, "{fstype}");
        assert_eq!(fill_holes(&file).unwrap(), lost, "{fstype}");
        assert_eq!(fill_holes(&file).unwrap(), 0, "{fstype}");
        assert!(allocated_bytes(&file).unwrap() >= 16 << 20, "{fstype}");
        let bytes = fs::read(&file).unwrap();
        assert_eq!(bytes.len(), 16 << 20);
        let sum: usize = bytes.iter().map(|b| usize::from(*b)).sum();
        assert_eq!(sum, 7 * ((1 << 20) - 8192), "{fstype}");
    }
}

#[test]
fn a_full_file_system_does_not_keep_a_small_hole_from_being_filled() {
    for fstype in ["xfs", "btrfs", "ext4"] {
        let disk = Disk::formatted(fstype);
        let mounted = disk.mounted(fstype);
        let file = mounted.0.join("file");
        create_in_place(&file).unwrap();
        reflink::allocate(&file, 32 << 20).unwrap();
        punch(&file, 16 << 20, 4 << 20);
        let free = crate::filesystem::size(&mounted.0).unwrap().available;
        let rest = mounted.0.join("rest");
        fs::write(&rest, "").unwrap();
        reflink::allocate(&rest, free - (12 << 20)).unwrap();
        assert_eq!(fill_holes(&file).unwrap(), 4 << 20, "{fstype}");
        // Nor one that has all its blocks from growing by what is left.
        reflink::allocate(&file, 34 << 20).unwrap();
    }
}

#[test]
fn what_is_written_while_holes_are_filled_stays() {
    for fstype in ["xfs", "btrfs", "ext4"] {
        let disk = Disk::formatted(fstype);
        let mounted = disk.mounted(fstype);
        let file = mounted.0.join("file");
        create_in_place(&file).unwrap();
        reflink::allocate(&file, 16 << 20).unwrap();
        let options = crate::loopdev::Options {
            autoclear: true,
            ..Default::default()
        };
        let device = crate::loopdev::attach(&file, options).unwrap();
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let filler = scope.spawn(|| {
                let mut filled = 0;
                while !over.load(Ordering::Relaxed) {
                    filled += fill_holes(&file).unwrap();
                }
                filled
            });
            for round in 1..=8_u8 {
                punch(&file, 0, 16 << 20);
                let open = OpenOptions::new().write(true).open(&device.path).unwrap();
                for at in (0..16 << 20).step_by(64 << 10) {
                    open.write_all_at(&[round; 4096], at).unwrap();
                }
                open.sync_all().unwrap();
                let found = fs::read(&file).unwrap();
                for at in (0..16 << 20).step_by(64 << 10) {
                    assert!(
                        found[at..at + 4096] == [round; 4096],
                        "{fstype} {round} {at}"
                    );
                }
            }
            over.store(true, Ordering::Relaxed);
            assert!(filler.join().unwrap() > 0, "{fstype}");
        });
    }
}

#[test]
fn shared_blocks_are_told_and_copies_are_written_as_their_source_is() {
    for fstype in ["xfs", "btrfs"] {
        let disk = Disk::formatted(fstype);
        let mounted = disk.mounted(fstype);
        let (src, dst) = (mounted.0.join("src"), mounted.0.join("dst"));
        create_in_place(&src).unwrap();
        let open = OpenOptions::new().write(true).open(&src).unwrap();
        open.write_all_at(&[7; 2 << 20], 0).unwrap();
        open.sync_all().unwrap();
        assert!(extents(&src).unwrap().iter().all(|e| !e.shared));
        clone_file(&src, &dst).unwrap();
        for file in [&src, &dst] {
            let shared = extents(file).unwrap();
            assert!(shared.iter().all(|e| e.shared), "{fstype} {shared:?}");
            let bytes: u64 = shared.iter().map(|e| e.at.end - e.at.start).sum();
            assert_eq!(bytes, 2 << 20);
            assert!(is_in_place(file).unwrap());
        }
        assert_eq!(extents(&src).unwrap(), extents(&dst).unwrap());
        let plain = mounted.0.join("plain");
        fs::write(&plain, "x").unwrap();
        assert_eq!(is_in_place(&plain).unwrap(), fstype != "btrfs");
    }
}
