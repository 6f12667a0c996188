//! Volumes on file pools, on real xfs, btrfs and ext4: the scenarios every pool must pass, and
//! what is particular to files.

mod support;

use std::path::PathBuf;

use serde_json::json;
use stowage_testkit::disk::FsKind;
use support::uses::{self as on, mount, unmount};
use support::{Rig, Storage, get, put};

const FILE_SYSTEMS: [&str; 3] = ["ext4", "xfs", "btrfs"];

fn rig(kind: FsKind) -> Rig {
    Rig::new(Storage::file(kind))
}

#[test]
fn on_xfs_files_stay_over_unmount_and_restart() {
    let mut rig = rig(FsKind::Xfs);
    for fs in FILE_SYSTEMS {
        on::files_stay(&mut rig, fs);
    }
}

#[test]
fn on_btrfs_files_stay_over_unmount_and_restart() {
    on::files_stay(&mut rig(FsKind::Btrfs), "ext4");
}

#[test]
fn on_ext4_files_stay_over_unmount_and_restart() {
    on::files_stay(&mut rig(FsKind::Ext4), "xfs");
}

#[test]
fn volumes_grow_under_a_writer() {
    let rig = rig(FsKind::Xfs);
    // ext4 grows while mounted only with CAP_SYS_RESOURCE, which a container may lack; the guest
    // has it.
    for fs in ["xfs", "btrfs"] {
        on::grows_under_a_writer(&rig, fs);
    }
}

#[test]
fn on_btrfs_and_ext4_volumes_grow_under_a_writer() {
    on::grows_under_a_writer(&rig(FsKind::Btrfs), "xfs");
    on::grows_under_a_writer(&rig(FsKind::Ext4), "xfs");
}

#[test]
fn volumes_grown_while_unmounted_are_larger_at_the_next_mount() {
    let rig = rig(FsKind::Xfs);
    for fs in FILE_SYSTEMS {
        on::grows_unmounted(&rig, fs);
    }
}

#[test]
fn nothing_shrinks() {
    on::never_shrinks(&rig(FsKind::Xfs));
}

#[test]
fn on_xfs_a_snapshot_of_a_volume_in_use_is_one_moment() {
    let rig = rig(FsKind::Xfs);
    for fs in FILE_SYSTEMS {
        on::snapshot_is_one_moment(&rig, fs);
    }
}

#[test]
fn on_btrfs_a_snapshot_of_a_volume_in_use_is_one_moment() {
    on::snapshot_is_one_moment(&rig(FsKind::Btrfs), "ext4");
}

#[test]
fn original_clone_and_restored_volume_are_mounted_side_by_side() {
    let rig = rig(FsKind::Xfs);
    for fs in FILE_SYSTEMS {
        on::twins_side_by_side(&rig, fs);
    }
}

#[test]
fn on_btrfs_original_clone_and_restored_volume_are_mounted_side_by_side() {
    on::twins_side_by_side(&rig(FsKind::Btrfs), "xfs");
}

#[test]
fn a_volume_restored_larger_has_a_larger_file_system() {
    let rig = rig(FsKind::Xfs);
    for fs in FILE_SYSTEMS {
        on::restored_larger(&rig, fs);
    }
}

#[test]
fn source_snapshot_and_copies_are_deleted_in_any_order() {
    on::deletion_in_any_order(&rig(FsKind::Xfs));
}

#[test]
fn old_bytes_do_not_reach_the_next_volume() {
    on::no_old_bytes(&rig(FsKind::Xfs));
}

#[test]
fn a_raw_device_grows_and_outlives_the_daemon() {
    on::raw_block(&mut rig(FsKind::Xfs));
}

#[test]
fn a_raw_device_handed_out_to_read_cannot_be_written() {
    on::raw_block_read_only(&rig(FsKind::Xfs));
}

#[test]
fn a_read_only_target_refuses_writes() {
    let rig = rig(FsKind::Xfs);
    for fs in FILE_SYSTEMS {
        on::read_only_target(&rig, fs);
    }
}

#[test]
fn the_daemon_comes_and_goes_under_a_writer() {
    on::daemon_comes_and_goes(&mut rig(FsKind::Xfs), "xfs");
}

fn data(rig: &Rig, id: &str) -> PathBuf {
    let Storage::File(fs) = &rig.storage else {
        unreachable!("a file pool")
    };
    fs.path().join("pool/volumes").join(id).join("data")
}

fn allocated(rig: &Rig, id: &str) -> u64 {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(data(rig, id)).expect("a volume").blocks() * 512
}

#[test]
fn thick_volumes_take_their_space_at_once_and_thin_ones_as_written() {
    for kind in FsKind::ALL {
        let rig = rig(kind);
        let thick = rig.ok(&["volume", "create", "thick", "--size", "256Mi"]);
        let thin = rig.ok(&["volume", "create", "thin", "--size", "256Mi", "--thin"]);
        let id = |v: &serde_json::Value| v["id"].as_str().expect("an id").to_owned();
        assert!(allocated(&rig, &id(&thick)) >= 256 << 20, "{kind:?}");
        assert!(allocated(&rig, &id(&thin)) < 1 << 20, "{kind:?}");
        let m = mount(&rig, "thin", "m");
        put(&m.join("file"), &"x".repeat(4 << 20));
        unmount(&rig, "m");
        let used = allocated(&rig, &id(&thin));
        assert!((4 << 20..128 << 20).contains(&used), "{kind:?}: {used}");
        // Growth keeps to the kind too.
        for name in ["thick", "thin"] {
            rig.ok(&["volume", "grow", name, "512Mi"]);
        }
        assert!(allocated(&rig, &id(&thick)) >= 512 << 20, "{kind:?}");
        assert!(allocated(&rig, &id(&thin)) < 128 << 20, "{kind:?}");
        on::delete(&rig, &["thick", "thin"]);
        rig.assert_clean();
    }
}

#[test]
fn a_full_pool_refuses_and_makes_nothing() {
    for kind in FsKind::ALL {
        let rig = rig(kind);
        rig.run(&["volume", "create", "big", "--size", "9Gi"])
            .fails_with(&["pool p is full"]);
        // 8 GiB, promised four times.
        rig.run(&["volume", "create", "big", "--size", "40Gi", "--thin"])
            .fails_with(&["pool p is full"]);
        assert_eq!(rig.storage.contents(), Vec::<String>::new());
        rig.ok(&["volume", "create", "v", "--size", "5Gi"]);
        rig.run(&["volume", "create", "w", "--size", "5Gi"])
            .fails_with(&["pool p is full"]);
        rig.run(&["volume", "grow", "v", "10Gi"]).fails_with(&["p"]);
        assert_eq!(rig.ok(&["volume", "show", "v"])["size"], json!(5_u64 << 30));
        assert_eq!(rig.storage.contents().len(), 1);
        on::delete(&rig, &["v"]);
        // The space is back when the files are.
        rig.settle();
        rig.ok(&["volume", "create", "w", "--size", "5Gi"]);
        on::delete(&rig, &["w"]);
        rig.assert_clean();
    }
}

#[test]
fn without_reflink_snapshots_are_refused_and_unused_volumes_are_cloned_by_copying() {
    let rig = rig(FsKind::Ext4);
    on::create(&rig, "v", "ext4", "64Mi");
    let m = mount(&rig, "v", "m");
    put(&m.join("file"), "kept");
    rig.run(&["snapshot", "create", "v", "s"])
        .fails_with(&["pool p", "reflink", "xfs or btrfs"]);
    rig.run(&["volume", "clone", "v", "c"])
        .fails_with(&["pool p", "reflink", "xfs or btrfs"]);
    rig.settle();
    assert_eq!(
        rig.storage.contents().len(),
        1,
        "{:?}",
        rig.storage.contents()
    );
    assert_eq!(rig.ok(&["snapshot", "list"]), json!([]));
    unmount(&rig, "m");
    rig.ok(&["volume", "clone", "v", "c", "--size", "128Mi"]);
    let (m, c) = (mount(&rig, "v", "m"), mount(&rig, "c", "mc"));
    assert_eq!(get(&c.join("file")), "kept");
    assert!(on::capacity(&c) > on::capacity(&m) * 3 / 2);
    put(&c.join("file"), "changed");
    assert_eq!(get(&m.join("file")), "kept");
    unmount(&rig, "m");
    unmount(&rig, "mc");
    on::delete(&rig, &["v", "c"]);
    rig.assert_clean();
}

// Nothing that might be somebody's bytes is ever formatted.

/// Put the bytes of something on a file.
fn plant(what: &str, file: &std::path::Path) {
    use support::tool;
    let name = file.display().to_string();
    match what {
        "ext4" => tool("mkfs.ext4", &["-q", "-F", &name]),
        "gpt" => tool(
            "sh",
            &["-c", &format!("echo 'label: gpt' | sfdisk -q {name}")],
        ),
        "LUKS" => tool(
            "sh",
            &[
                "-c",
                &format!(
                    "echo -n secret | cryptsetup luksFormat -q --type luks1 \
                     --pbkdf-force-iterations 1000 {name} -"
                ),
            ],
        ),
        "LVM" => tool(
            "sh",
            &[
                "-ec",
                &format!(
                    "dev=$(losetup -f --show {name}); trap \"losetup -d $dev\" EXIT; \
                     pvcreate -q -q -y $dev"
                ),
            ],
        ),
        "unknown data" => on::scribble(file, 600 << 10, b"not all of it is zero"),
        "unknown data in the middle" => on::scribble(file, 31 << 20, b"all around is nothing"),
        "unknown data at the end" => on::scribble(file, (64 << 20) - 7, b"the end"),
        other => unreachable!("{other}"),
    }
}

#[test]
fn a_blank_volume_that_holds_something_is_not_formatted() {
    stowage_testkit::require(&["sfdisk", "cryptsetup", "lvm"]);
    let rig = rig(FsKind::Xfs);
    for what in [
        "ext4",
        "gpt",
        "LUKS",
        "LVM",
        "unknown data",
        "unknown data in the middle",
        "unknown data at the end",
    ] {
        let made = on::create(&rig, "v", "ext4", "64Mi");
        let file = data(&rig, made["id"].as_str().expect("an id"));
        plant(what, &file);
        let before = on::digest(&file);
        let found = match what {
            "gpt" => "partition table",
            unknown if unknown.starts_with("unknown") => "unrecognised data",
            signature => signature,
        };
        for _ in 0..2 {
            rig.run(&["volume", "mount", "v", &rig.text("m")])
                .fails_with(&["should be blank", found, "not formatted"]);
        }
        assert!(!rig.path("m").exists());
        assert_eq!(on::digest(&file), before, "{what} was written to");
        on::delete(&rig, &["v"]);
        rig.assert_clean();
    }
}

#[test]
fn a_volume_that_lost_its_superblock_is_not_formatted_again() {
    let mut rig = rig(FsKind::Xfs);
    for fs in FILE_SYSTEMS {
        let made = on::create(&rig, "v", fs, on::small(fs));
        let file = data(&rig, made["id"].as_str().expect("an id"));
        let m = mount(&rig, "v", "m");
        put(&m.join("file"), "kept");
        unmount(&rig, "m");
        let whole = std::fs::read(&file).expect("readable");
        // Even a volume that reads as blank from end to end has been in use by its record.
        for (lost, all) in [(1 << 20, false), (whole.len(), true)] {
            on::scribble(&file, 0, &vec![0; lost]);
            let before = on::digest(&file);
            for restart in [false, true] {
                if restart {
                    rig.kill();
                    rig.start();
                }
                rig.run(&["volume", "mount", "v", &rig.text("m")])
                    .fails_with(&["failed to mount", fs]);
            }
            assert!(!rig.path("m").exists());
            assert_eq!(
                on::digest(&file),
                before,
                "{fs} written to, all lost: {all}"
            );
        }
        on::scribble(&file, 0, &whole);
        assert_eq!(get(&mount(&rig, "v", "m").join("file")), "kept");
        unmount(&rig, "m");
        on::delete(&rig, &["v"]);
        rig.assert_clean();
    }
}

// A thick volume keeps its space for life.

/// A pool so small that its neighbours can fill it.
fn small_rig(kind: FsKind) -> Rig {
    Rig::new(Storage::File(
        stowage_testkit::disk::LoopFs::new(kind, 700 << 20).expect("a small file system"),
    ))
}

/// Written at once, and acknowledged.
const STEP: usize = 16 << 20;

/// Write to a file in steps until there is no more room, each step acknowledged by fsync; answers
/// how much was.
fn write_full(file: &std::path::Path, byte: u8) -> Result<u64, String> {
    use std::io::Write;
    let mut open = std::fs::File::create(file).map_err(|e| e.to_string())?;
    let chunk = vec![byte; STEP];
    let mut done = 0;
    loop {
        let step = open.write_all(&chunk).and_then(|()| open.sync_all());
        match step {
            Ok(()) => done += STEP as u64,
            Err(e) if e.kind() == std::io::ErrorKind::StorageFull => return Ok(done),
            Err(e) => return Err(format!("after {} MiB: {e}", done >> 20)),
        }
    }
}

/// Mounts a new thick volume of 320 MiB, fills and empties it, and has it trimmed.
fn trimmed_thick(rig: &Rig, fs: &str) -> PathBuf {
    stowage_testkit::require(&["fstrim"]);
    let made = on::create(rig, "thick", fs, "320Mi");
    let id = made["id"].as_str().expect("an id");
    let m = rig.path("m");
    rig.ok(&[
        "volume",
        "mount",
        "thick",
        &rig.text("m"),
        "--option",
        "discard",
    ]);
    put(&m.join("gone"), &"x".repeat(64 << 20));
    std::fs::remove_file(m.join("gone")).expect("removed");
    // It may be refused; what must not be is that it takes the blocks away.
    let _ = stowage_testkit::disk::run("fstrim", [&m]);
    let has = allocated(rig, id);
    assert!(has >= 320 << 20, "{fs}: {} MiB are left", has >> 20);
    m
}

#[test]
fn mkfs_and_trims_take_nothing_from_a_thick_volume() {
    for (kind, fs) in [
        (FsKind::Xfs, "xfs"),
        (FsKind::Xfs, "btrfs"),
        (FsKind::Btrfs, "ext4"),
        (FsKind::Ext4, "ext4"),
    ] {
        trimmed_thick(&small_rig(kind), fs);
    }
}

#[test]
fn a_thick_volume_takes_writes_to_its_full_size_while_thin_ones_fill_the_pool() {
    for (kind, fs) in [(FsKind::Xfs, "ext4"), (FsKind::Btrfs, "xfs")] {
        let rig = small_rig(kind);
        let m = trimmed_thick(&rig, fs);
        rig.ok(&["volume", "create", "thin", "--size", "1000Mi", "--thin"]);
        let thin = mount(&rig, "thin", "mt");
        // It ends with an error, or when its file system is told that there is no more.
        let _ = write_full(&thin.join("all"), 1);
        // Rewriting is what needs new blocks where files are copied on write.
        for round in [2, 3] {
            let took = write_full(&m.join("all"), round);
            let took = took.unwrap_or_else(|e| panic!("{fs} on {kind:?}, round {round}: {e}"));
            assert!(took >= 100 << 20, "{fs} on {kind:?}: {took}");
            let bytes = std::fs::read(m.join("all")).expect("readable");
            assert!(bytes.len() as u64 >= took, "{fs} on {kind:?}");
            let chunk = vec![round; STEP];
            let same = |part: &[u8]| part == &chunk[..part.len()];
            assert!(bytes.chunks(STEP).all(same), "{fs} on {kind:?}: torn");
        }
    }
}
