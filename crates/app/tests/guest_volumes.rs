//! Volumes on real LVM, thick and thin: what every pool must do.

mod support;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use stowage_csi::proto::{
    CreateVolumeGroupSnapshotRequest, CreateVolumeRequest, DeleteVolumeGroupSnapshotRequest,
};
use support::calls::{Code, Csi, from_snapshot, inline, map, refused, volume};
use support::uses as on;
use support::{Rig, STOWAGE, Storage, output, put, tool};

const FILE_SYSTEMS: [&str; 3] = ["ext4", "xfs", "btrfs"];

fn thick() -> Rig {
    Rig::new(Storage::lvm(false))
}

fn thin() -> Rig {
    Rig::new(Storage::lvm(true))
}

#[test]
fn thick_files_stay_over_unmount_and_restart() {
    let mut rig = thick();
    for fs in FILE_SYSTEMS {
        on::files_stay(&mut rig, fs);
    }
}

#[test]
fn thick_volumes_grow_under_a_writer() {
    let rig = thick();
    for fs in ["ext4", "xfs"] {
        on::grows_under_a_writer(&rig, fs);
    }
}

#[test]
fn thick_volumes_grown_while_unmounted_are_larger_at_the_next_mount() {
    on::grows_unmounted(&thick(), "ext4");
}

#[test]
fn thick_a_snapshot_of_a_volume_in_use_is_one_moment() {
    let rig = thick();
    for fs in ["ext4", "btrfs"] {
        on::snapshot_is_one_moment(&rig, fs);
    }
}

#[test]
fn thick_original_clone_and_restored_volume_are_mounted_side_by_side() {
    let rig = thick();
    for fs in ["xfs", "btrfs"] {
        on::twins_side_by_side(&rig, fs);
    }
}

#[test]
fn thick_a_volume_restored_larger_has_a_larger_file_system() {
    let rig = thick();
    for fs in ["ext4", "btrfs"] {
        on::restored_larger(&rig, fs);
    }
}

#[test]
fn thick_a_read_only_target_refuses_writes() {
    on::read_only_target(&thick(), "ext4");
}

#[test]
fn thick_nothing_shrinks() {
    on::never_shrinks(&thick());
}

#[test]
fn thick_old_bytes_do_not_reach_the_next_volume() {
    on::no_old_bytes(&thick());
}

#[test]
fn thick_a_raw_device_grows_and_outlives_the_daemon() {
    on::raw_block(&mut thick());
}

#[test]
fn thick_a_raw_device_handed_out_to_read_cannot_be_written() {
    on::raw_block_read_only(&thick());
}

#[test]
fn thick_the_daemon_comes_and_goes_under_a_writer() {
    on::daemon_comes_and_goes(&mut thick(), "ext4");
}

#[test]
fn thin_files_stay_over_unmount_and_restart() {
    let mut rig = thin();
    for fs in FILE_SYSTEMS {
        on::files_stay(&mut rig, fs);
    }
}

#[test]
fn thin_volumes_grow_under_a_writer() {
    let rig = thin();
    for fs in ["ext4", "xfs"] {
        on::grows_under_a_writer(&rig, fs);
    }
}

#[test]
fn thin_volumes_grown_while_unmounted_are_larger_at_the_next_mount() {
    on::grows_unmounted(&thin(), "ext4");
}

#[test]
fn thin_a_snapshot_of_a_volume_in_use_is_one_moment() {
    let rig = thin();
    for fs in ["ext4", "btrfs"] {
        on::snapshot_is_one_moment(&rig, fs);
    }
}

#[test]
fn thin_original_clone_and_restored_volume_are_mounted_side_by_side() {
    let rig = thin();
    for fs in ["xfs", "btrfs"] {
        on::twins_side_by_side(&rig, fs);
    }
}

#[test]
fn thin_a_volume_restored_larger_has_a_larger_file_system() {
    let rig = thin();
    for fs in ["ext4", "btrfs"] {
        on::restored_larger(&rig, fs);
    }
}

#[test]
fn thin_a_read_only_target_refuses_writes() {
    on::read_only_target(&thin(), "ext4");
}

#[test]
fn thin_nothing_shrinks() {
    on::never_shrinks(&thin());
}

#[test]
fn thin_old_bytes_do_not_reach_the_next_volume() {
    on::no_old_bytes(&thin());
}

#[test]
fn thin_a_raw_device_grows_and_outlives_the_daemon() {
    on::raw_block(&mut thin());
}

#[test]
fn thin_a_raw_device_handed_out_to_read_cannot_be_written() {
    on::raw_block_read_only(&thin());
}

#[test]
fn thin_the_daemon_comes_and_goes_under_a_writer() {
    on::daemon_comes_and_goes(&mut thin(), "ext4");
}

/// Far from both ends, where no signature is and nothing is read: the thin pool knows.
#[test]
fn a_blank_thin_volume_that_somebody_wrote_to_is_not_formatted() {
    let rig = thin();
    let made = on::create(&rig, "v", "ext4", "64Mi");
    let Storage::Thin { vg, .. } = &rig.storage else {
        unreachable!("asked for above")
    };
    let lv = format!("/dev/{vg}/stowage-{}", made["id"].as_str().expect("an id"));
    on::scribble(lv.as_ref(), 31 << 20, b"all around is nothing");
    let before = on::digest(lv.as_ref());
    for _ in 0..2 {
        rig.run(&["volume", "mount", "v", &rig.text("m")])
            .fails_with(&["should be blank", "somebody wrote", "not formatted"]);
    }
    assert!(!rig.path("m").exists());
    tool("lvchange", &["-q", "-ay", "-K", &lv]);
    assert_eq!(on::digest(lv.as_ref()), before);
    on::delete(&rig, &["v"]);
    rig.assert_clean();
}

#[test]
fn thin_source_snapshot_and_copies_are_deleted_in_any_order() {
    on::deletion_in_any_order(&thin());
}

/// A thick snapshot holds only what its origin overwrote, so the origin must stay.
#[test]
fn a_thick_volume_with_snapshots_stays_and_is_whole() {
    let rig = thick();
    on::create(&rig, "v", "ext4", "64Mi");
    support::put(&on::mount(&rig, "v", "m").join("file"), "kept");
    on::snapshot(&rig, "v", "s");
    on::unmount(&rig, "m");
    rig.run(&["volume", "delete", "v"])
        .fails_with(&["snapshots", "delete those first"]);
    let m = on::mount(&rig, "v", "m");
    assert_eq!(support::get(&m.join("file")), "kept");
    on::unmount(&rig, "m");
    on::restore(&rig, "s", "r");
    rig.ok(&["snapshot", "delete", "s"]);
    on::delete(&rig, &["v"]);
    let r = on::mount(&rig, "r", "m");
    assert_eq!(support::get(&r.join("file")), "kept");
    on::unmount(&rig, "m");
    on::delete(&rig, &["r"]);
    rig.assert_clean();
}

#[test]
fn a_full_pool_refuses_and_makes_nothing() {
    for rig in [thick as fn() -> Rig, thin] {
        let rig = rig();
        rig.run(&["volume", "create", "big", "--size", "100Gi"])
            .fails_with(&["pool p", "100Gi"]);
        assert_eq!(rig.storage.contents(), Vec::<String>::new());
        rig.assert_clean();
    }
}

/// What a snapshot that is read in place lies on.
fn device_of_snapshot(rig: &Rig) -> PathBuf {
    let Storage::Lvm { vg, .. } = &rig.storage else {
        unreachable!("only thick snapshots are read in place")
    };
    let id = id_of_snapshot(rig);
    tool(
        "lvchange",
        &["-y", "-q", "-ay", &format!("{vg}/stowage-{id}")],
    );
    format!("/dev/{vg}/stowage-{id}").into()
}

/// The only one there is.
fn id_of_snapshot(rig: &Rig) -> String {
    let id = rig.ok(&["snapshot", "list"])[0]["id"].clone();
    id.as_str().expect("an id").to_owned()
}

/// Two at once, with the volume itself in use and its log not empty.
#[test]
fn readers_show_one_moment_and_change_nothing_of_their_snapshot() {
    let rig = thick();
    for fs in ["ext4", "xfs"] {
        on::create(&rig, "v", fs, on::small(fs));
        let m = on::mount(&rig, "v", "m");
        let writer = on::Writer::new(&m.join("a"), &m.join("b"));
        let before = writer.done();
        rig.ok(&["snapshot", "create", "v", "s", "--read-only"]);
        let after = writer.begun();
        writer.await_more(2);
        writer.end();
        let device = device_of_snapshot(&rig);
        let digest = on::digest(&device);
        for n in ["1", "2"] {
            on::restore(&rig, "s", &format!("r{n}"));
            let r = on::mount(&rig, &format!("r{n}"), &format!("m{n}"));
            let (a, b) = (on::records(&r.join("a")), on::records(&r.join("b")));
            assert!(b >= before && a <= after && a - b <= 1, "{a} {b}");
            File::create(r.join("c")).expect_err("read-only");
        }
        let file = File::options().write(true).open(&device);
        let written = file.and_then(|file| file.write_all_at(b"changed", 4096));
        written.expect_err("the device takes no writes");
        for n in ["1", "2"] {
            on::unmount(&rig, &format!("m{n}"));
        }
        assert_eq!(
            on::digest(&device),
            digest,
            "{fs}: the snapshot was changed"
        );
        on::delete(&rig, &["r1", "r2"]);
        rig.ok(&["snapshot", "delete", "s"]);
        on::unmount(&rig, "m");
        on::delete(&rig, &["v"]);
        // The store of the snapshot was wiped, through the device that took no writes.
        rig.assert_clean();
    }
}

#[test]
fn what_cannot_be_read_in_place_is_refused_when_it_is_made() {
    let rig = thick();
    let refuses = |of: &str, words: &[&str]| {
        rig.ok(&["snapshot", "create", of, "s", "--read-only"]);
        rig.run(&["snapshot", "restore", "s", "r"])
            .fails_with(words);
        let request = CreateVolumeRequest {
            volume_content_source: from_snapshot(&id_of_snapshot(&rig)),
            ..volume("r")
        };
        Csi::new(&rig).create_volume(request).expect_err("refused");
        let volumes = rig.ok(&["volume", "list"]);
        assert_eq!(volumes.as_array().map(Vec::len), Some(2), "{volumes}");
        rig.ok(&["snapshot", "delete", "s"]);
    };
    on::create(&rig, "v", "ext4", "32Mi");
    on::create(&rig, "b", "btrfs", "110Mi");
    refuses(
        "v",
        &[
            "before its volume was first mounted",
            "mount the volume once",
        ],
    );
    on::mount(&rig, "b", "m");
    on::unmount(&rig, "m");
    refuses("b", &["btrfs", "UUID", "writable volume"]);
    // Not unmounted well.
    let m = on::mount(&rig, "v", "m");
    support::put(&m.join("file"), "in the log");
    tool(
        "xfs_io",
        &["-x", "-c", "shutdown", &support::calls::text(&m)],
    );
    on::unmount(&rig, "m");
    refuses("v", &["not unmounted well", "log", "writable volume"]);
    on::delete(&rig, &["v", "b"]);
    rig.assert_clean();
}

/// One of its members is read in place, and a group goes whole or not at all.
#[test]
fn a_group_with_a_reader_stays_whole_and_keeps_nobody_from_starting() {
    let mut rig = thick();
    let sources = ["v", "w"].map(|name| {
        let made = on::create(&rig, name, "ext4", "32Mi");
        on::mount(&rig, name, "m");
        on::unmount(&rig, "m");
        made["id"].as_str().expect("an id").to_owned()
    });
    let group = Csi::new(&rig)
        .create_volume_group_snapshot(CreateVolumeGroupSnapshotRequest {
            name: "g".to_owned(),
            source_volume_ids: sources.into(),
            parameters: map(&[("csi.aliyun.com/readonly", "true")]),
            ..Default::default()
        })
        .expect("a group");
    let members: Vec<String> = group.snapshots.into_iter().map(|s| s.snapshot_id).collect();
    let delete = |rig: &Rig| {
        Csi::new(rig).delete_volume_group_snapshot(DeleteVolumeGroupSnapshotRequest {
            group_snapshot_id: group.group_snapshot_id.clone(),
            snapshot_ids: members.clone(),
            ..Default::default()
        })
    };
    for reader in &members {
        rig.ok(&["snapshot", "restore", reader, "r"]);
        refused(delete(&rig), Code::FailedPrecondition, &["read"]);
        rig.kill();
        rig.start();
        let left = rig.ok(&["snapshot", "list"]);
        assert_eq!(left.as_array().map(Vec::len), Some(2), "{left}");
        assert_eq!(rig.ok(&["doctor"]), serde_json::json!([]));
        on::delete(&rig, &["r"]);
    }
    delete(&rig).expect("deleted");
    delete(&rig).expect("deleted before");
    on::delete(&rig, &["v", "w"]);
    rig.assert_clean();
}

/// Devices of device mapper that are suspended.
fn suspended() -> Vec<String> {
    let blocks = std::fs::read_dir("/sys/block").expect("sysfs");
    let names = blocks.map(|entry| entry.expect("a name").file_name());
    names
        .filter_map(|name| name.into_string().ok())
        .filter(|name| {
            let state = std::fs::read_to_string(format!("/sys/block/{name}/dm/suspended"));
            state.is_ok_and(|state| state.trim() == "1")
        })
        .collect()
}

#[test]
fn writers_that_a_dead_daemon_held_for_a_group_go_on_without_another() {
    let mut rig = thick();
    let sources = ["v", "w"].map(|name| {
        let made = on::create(&rig, name, "ext4", "32Mi");
        on::mount(&rig, name, name);
        made["id"].as_str().expect("an id").to_owned()
    });
    rig.stop();
    rig.set("STOWAGE_FAILPOINT", "node.group.held");
    rig.start();
    let begun = Instant::now();
    let cut = Csi::new(&rig).create_volume_group_snapshot(CreateVolumeGroupSnapshotRequest {
        name: "g".to_owned(),
        source_volume_ids: sources.into(),
        ..Default::default()
    });
    assert!(cut.is_err() && rig.died());
    while !suspended().is_empty() {
        // The guard's bound is 10 s, and this machine may be busy.
        if begun.elapsed() > Duration::from_secs(30) {
            for device in suspended() {
                tool("dmsetup", &["resume", &format!("/dev/{device}")]);
            }
            panic!("writers were still held");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    for name in ["v", "w"] {
        put(&rig.path(name).join("file"), "written");
    }
    rig.set("STOWAGE_FAILPOINT", "");
    rig.start();
    for name in ["v", "w"] {
        on::unmount(&rig, name);
    }
    on::delete(&rig, &["v", "w"]);
    rig.assert_clean();
}

/// A wipe takes long enough to be watched.
#[test]
fn a_person_at_a_terminal_sees_progress_and_a_script_does_not() {
    let rig = thick();
    let delete = |wrap: &dyn Fn(&str) -> String| {
        rig.ok(&["volume", "create", "v", "--size", "1Gi"]);
        let socket = rig.text("admin.sock");
        let command = format!("{STOWAGE} --socket {socket} volume delete v --wait 2>&1");
        output("sh", &["-c", &wrap(&command)])
    };
    // script(1) gives it a terminal.
    let shown =
        delete(&|command| format!("TERM=xterm script -qec '{command}' /dev/null </dev/null"));
    assert!(shown.contains("/1.00 GiB"), "{shown:?}");
    let shown = delete(&str::to_owned);
    assert!(!shown.contains("GiB"), "{shown:?}");
    rig.assert_clean();
}

/// A disk that comes late, with its volume in use all the while.
#[test]
fn a_group_that_comes_back_is_read_without_a_restart() {
    for rig in [thick as fn() -> Rig, thin] {
        let unplug = || tool("vgrename", &["vgtest", "vgaway"]);
        let plug = || tool("vgrename", &["vgaway", "vgtest"]);
        on::pool_comes_back(&mut rig(), &unplug, &plug);
    }
}

/// The article's classes and inline volumes name a group; a node may have several.
#[test]
fn volumes_go_to_the_group_and_the_medium_that_are_named() {
    let Storage::Lvm { vg, disks } = &Storage::lvm(false) else {
        unreachable!("asked for above")
    };
    let shown: Vec<String> = disks.iter().map(|d| d.display().to_string()).collect();
    let [own, other, _] = shown.as_slice() else {
        panic!("three disks, not {shown:?}")
    };
    tool("vgremove", &["-y", vg]);
    tool("pvremove", &["-y", other]);
    tool("vgcreate", &["-y", vg, own]);
    let rig = Rig::new(Storage::Lvm {
        vg: vg.clone(),
        disks: vec![own.into()],
    });
    // By force: what LVM wrote there before is still on it.
    rig.ok(&[
        "pool", "create", "fast", "--kind", "lvm", "--vg", "vgfast", "--disk", other, "--force",
    ]);
    let csi = Csi::new(&rig);
    let class = |name: &str, more: &[(&str, &str)]| CreateVolumeRequest {
        parameters: map(&[&[("volumeType", "LVM")], more].concat()),
        ..volume(name)
    };
    for (group, pool) in [("vgfast", "fast"), (vg.as_str(), "p")] {
        let made = csi.create_volume(class("v", &[("vgName", group)]));
        let made = made.expect("a volume");
        assert_eq!(made.volume_context["vgName"], group);
        assert_eq!(rig.ok(&["volume", "show", "v"])["pool"], pool);
        csi.delete(&made.volume_id).expect("deleted");
        let target = rig.path("pod-target");
        let request = inline("csi-1", &target, &[("vgName", group), ("size", "32Mi")]);
        csi.node_publish_volume(request).expect("published");
        assert_eq!(rig.ok(&["volume", "list"])[0]["pool"], pool);
        csi.unpublish("csi-1", &target).expect("unpublished");
    }
    let nowhere = csi.create_volume(class("v", &[("vgName", "nowhere")]));
    refused(nowhere, Code::InvalidArgument, &["nowhere", "fast"]);
    let disk = own.trim_start_matches("/dev/");
    let turns = std::fs::read_to_string(format!("/sys/block/{disk}/queue/rotational"));
    let (medium, not) = match turns.expect("a disk").trim() {
        "0" => ("ssd", "hdd"),
        _ => ("hdd", "ssd"),
    };
    let made = csi.create_volume(class("v", &[("mediaType", medium)]));
    csi.delete(&made.expect("a volume").volume_id)
        .expect("deleted");
    let none = csi.create_volume(class("v", &[("mediaType", not)]));
    refused(none, Code::InvalidArgument, &[not]);
    rig.assert_clean();
    tool("vgremove", &["-y", "-f", "vgfast"]);
    tool("pvremove", &["-y", other]);
}
