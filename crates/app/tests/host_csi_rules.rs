//! What CSI says an answer must be, with the real node behind the socket: sizes, capacity, sources,
//! modes, limits.

#![allow(
    clippy::disallowed_methods,
    reason = "tests start the program under test"
)]

mod support;

use std::path::{Path, PathBuf};

use stowage_csi::proto::{
    ControllerExpandVolumeRequest, CreateVolumeRequest, GetCapacityRequest, NodeExpandVolumeRequest,
};
use stowage_testkit::disk::FsKind;
use support::calls::{
    Code, Csi, MIB, Mode, block, flagged, map, mount, publishing, range, refused, text, volume,
};
use support::{Rig, Storage, get, output, put, tool};

fn rig() -> Rig {
    Rig::new(Storage::file(FsKind::Xfs))
}

// Capacity.

#[test]
fn the_largest_volume_told_is_made_and_one_step_more_is_not() {
    // Not on btrfs, whose own figure counts room it needs for itself.
    for kind in [FsKind::Xfs, FsKind::Ext4] {
        let rig = Rig::new(Storage::file(kind));
        let csi = Csi::new(&rig);
        for provisioning in ["thick", "thin"] {
            let parameters = map(&[("provisioning", provisioning)]);
            let ask = GetCapacityRequest {
                parameters: parameters.clone(),
                ..Default::default()
            };
            let (available, largest) = csi.get_capacity(ask).expect("a capacity");
            let largest = largest.expect("a largest size");
            assert!(0 < largest && largest <= available);
            assert_eq!(largest % MIB, 0);
            let sized = |bytes: i64| CreateVolumeRequest {
                capacity_range: Some(range(bytes, bytes)),
                volume_capabilities: vec![block(Mode::SingleNodeWriter)],
                parameters: parameters.clone(),
                ..volume("v")
            };
            let more = csi.create_volume(sized(largest + MIB));
            refused(more, Code::ResourceExhausted, &["full"]);
            let made = csi.create_volume(sized(largest)).expect("it fits");
            assert_eq!(made.capacity_bytes, largest, "{kind:?} {provisioning}");
            csi.delete(&made.volume_id).expect("deleted");
            rig.assert_clean();
        }
    }
}

#[test]
fn a_class_no_pool_can_serve_has_no_capacity() {
    let rig = rig();
    let csi = Csi::new(&rig);
    for parameters in [
        &[("lvmType", "striping")][..],
        &[("lvmType", "raid1")],
        &[("volumeType", "LVM")],
        &[("vgName", "vg0")],
    ] {
        let ask = GetCapacityRequest {
            parameters: map(parameters),
            ..Default::default()
        };
        let told = csi.get_capacity(ask).expect("a capacity");
        assert_eq!(told, (0, Some(0)), "{parameters:?}");
        let want = CreateVolumeRequest {
            parameters: map(parameters),
            ..volume("v")
        };
        refused(csi.create_volume(want), Code::InvalidArgument, &["no pool"]);
    }
    rig.assert_clean();
}

// Publish, stats and growth are about the volume as it was staged, and about its own mounts.

fn staged(rig: &Rig, csi: &Csi, flags: &[&str]) -> (String, PathBuf) {
    let (id, staging) = (csi.made("v").volume_id, rig.path("staging"));
    std::fs::create_dir_all(&staging).expect("a writable directory");
    let mode = Mode::SingleNodeMultiWriter;
    csi.stage(&id, &staging, flagged("ext4", mode, flags));
    (id, staging)
}

#[test]
fn what_is_staged_one_way_is_not_published_another() {
    let rig = rig();
    let csi = Csi::new(&rig);
    let (id, staging) = staged(&rig, &csi, &["noatime"]);
    let table = std::fs::read_to_string("/proc/self/mounts").expect("a mount table");
    let staged_at = text(&staging);
    let line = table
        .lines()
        .find(|l| l.split(' ').nth(1) == Some(&staged_at));
    assert!(line.is_some_and(|l| l.contains("noatime")), "{line:?}");
    let (target, mode) = (rig.path("target"), Mode::SingleNodeMultiWriter);
    let publish =
        |capability| csi.node_publish_volume(publishing(&id, &staging, &target, capability));
    for flags in [&[][..], &["noexec"], &["noatime", "ro"]] {
        let answer = publish(flagged("ext4", mode, flags));
        refused(answer, Code::InvalidArgument, &["noatime", "unstage"]);
    }
    refused(
        publish(mount("xfs", mode)),
        Code::InvalidArgument,
        &["ext4"],
    );
    assert!(!target.exists());
    publish(flagged("ext4", mode, &["noatime"])).expect("as it was staged");
    publish(flagged("ext4", mode, &["noatime"])).expect("the same again");
    refused(
        publish(mount("ext4", mode)),
        Code::AlreadyExists,
        &["noatime"],
    );
    csi.unpublish(&id, &target).expect("unpublished");
    csi.unstage(&id, &staging).expect("unstaged");
    csi.delete(&id).expect("deleted");
    rig.assert_clean();
}

#[test]
fn a_file_system_is_counted_as_the_kernel_counts_it_and_only_where_it_is() {
    let rig = rig();
    let csi = Csi::new(&rig);
    let (id, staging) = staged(&rig, &csi, &[]);
    let kernel = rustix::fs::statvfs(&staging).expect("a mounted file system");
    let (bytes, inodes) = (kernel.f_blocks * kernel.f_frsize, kernel.f_files);
    let told: Vec<i64> = csi
        .stats(&id, &staging)
        .expect("statistics")
        .iter()
        .map(|usage| usage.total)
        .collect();
    assert_eq!(
        told,
        [bytes, inodes].map(|n| i64::try_from(n).expect("not so many"))
    );
    let foreign = rig.path("foreign");
    std::fs::create_dir(&foreign).expect("a writable directory");
    tool("mount", &["-t", "tmpfs", "none", &text(&foreign)]);
    let there = csi.stats(&id, &foreign);
    let expanded = csi.node_expand_volume(NodeExpandVolumeRequest {
        volume_id: id.clone(),
        volume_path: text(&foreign),
        ..Default::default()
    });
    tool("umount", &[&text(&foreign)]);
    refused(there, Code::NotFound, &["is not at"]);
    refused(expanded, Code::NotFound, &["is not at"]);
    csi.unstage(&id, &staging).expect("unstaged");
    csi.delete(&id).expect("deleted");
    rig.assert_clean();
}

#[test]
fn a_volume_grows_through_a_target_that_may_only_read() {
    let rig = rig();
    let csi = Csi::new(&rig);
    let mode = Mode::SingleNodeMultiWriter;
    let sized = |bytes: i64| Some(range(bytes, 0));
    let wanted = CreateVolumeRequest {
        capacity_range: sized(320 * MIB),
        volume_capabilities: vec![mount("xfs", mode)],
        ..volume("v")
    };
    let id = csi.create_volume(wanted).expect("a volume").volume_id;
    let (staging, target) = (rig.path("staging"), rig.path("target"));
    std::fs::create_dir_all(&staging).expect("a writable directory");
    csi.stage(&id, &staging, mount("xfs", mode));
    let mut publish = publishing(&id, &staging, &target, mount("xfs", mode));
    publish.readonly = true;
    csi.node_publish_volume(publish).expect("published");
    assert!(
        std::fs::write(target.join("file"), "x").is_err(),
        "only to read"
    );
    let bytes = |at: &Path| {
        let size = rustix::fs::statvfs(at).expect("a mounted file system");
        size.f_blocks * size.f_frsize
    };
    let before = bytes(&target);
    let grow = ControllerExpandVolumeRequest {
        volume_id: id.clone(),
        capacity_range: sized(352 * MIB),
        ..Default::default()
    };
    for _ in 0..2 {
        let grown = csi.controller_expand_volume(grow.clone());
        assert_eq!(grown.expect("grown"), (352 * MIB, true));
        csi.node_expand_volume(NodeExpandVolumeRequest {
            volume_id: id.clone(),
            volume_path: text(&target),
            capacity_range: sized(352 * MIB),
            ..Default::default()
        })
        .expect("expanded");
    }
    assert_eq!(bytes(&target), before + (32 << 20));
    csi.unpublish(&id, &target).expect("unpublished");
    csi.unstage(&id, &staging).expect("unstaged");
    csi.delete(&id).expect("deleted");
    rig.assert_clean();
}

#[test]
fn a_class_says_how_its_file_systems_are_made() {
    let rig = rig();
    let csi = Csi::new(&rig);
    let wanted = CreateVolumeRequest {
        parameters: map(&[("mkfsOptions", "-L hello -m 0")]),
        volume_capabilities: vec![mount("ext4", Mode::SingleNodeWriter)],
        ..volume("v")
    };
    let id = csi.create_volume(wanted).expect("a volume").volume_id;
    let staging = rig.path("staging");
    std::fs::create_dir_all(&staging).expect("a writable directory");
    csi.stage(&id, &staging, mount("ext4", Mode::SingleNodeWriter));
    let device = output("findmnt", &["-n", "-o", "SOURCE", &text(&staging)]);
    let label = output(
        "blkid",
        &["-p", "-s", "LABEL", "-o", "value", device.trim()],
    );
    assert_eq!(label.trim(), "hello");
    csi.unstage(&id, &staging).expect("unstaged");
    csi.delete(&id).expect("deleted");
    rig.assert_clean();
}

#[test]
fn readers_may_be_many_and_none_of_them_writes() {
    let rig = rig();
    let csi = Csi::new(&rig);
    let writer = mount("ext4", Mode::SingleNodeWriter);
    for (name, mode) in [
        ("v", Mode::SingleNodeReaderOnly),
        ("w", Mode::MultiNodeReaderOnly),
    ] {
        let reader = || mount("ext4", mode);
        let wanted = CreateVolumeRequest {
            volume_capabilities: vec![writer.clone(), reader()],
            ..volume(name)
        };
        let id = csi.create_volume(wanted).expect("a volume").volume_id;
        let staging = rig.path(&format!("{name}-staging"));
        std::fs::create_dir_all(&staging).expect("a writable directory");
        csi.stage(&id, &staging, writer.clone());
        std::fs::write(staging.join("file"), "kept").expect("writable");
        csi.unstage(&id, &staging).expect("unstaged");
        csi.stage(&id, &staging, reader());
        let targets = ["a", "b"].map(|at| rig.path(&format!("{name}-{at}")));
        for target in &targets {
            csi.publish(&id, &staging, target, reader());
        }
        for at in targets.iter().chain([&staging]) {
            assert_eq!(std::fs::read(at.join("file")).expect("readable"), b"kept");
            assert!(
                std::fs::write(at.join("file"), "spoiled").is_err(),
                "{at:?}"
            );
        }
        for target in &targets {
            csi.unpublish(&id, target).expect("unpublished");
        }
        csi.unstage(&id, &staging).expect("unstaged");
        csi.delete(&id).expect("deleted");
    }
    rig.assert_clean();
}

#[test]
fn all_that_is_known_of_volumes_is_read_back_from_the_pool_alone() {
    let mut rig = rig();
    rig.ok(&[
        "volume", "create", "v", "--size", "32Mi", "--limit", "bps=2Mi",
    ]);
    rig.ok(&["volume", "mount", "v", &rig.text("m")]);
    put(&rig.path("m/file"), "kept");
    rig.ok(&["snapshot", "create", "v", "s"]);
    rig.ok(&["volume", "create", "b", "--size", "32Mi", "--block"]);
    rig.ok(&["snapshot", "restore", "s", "r"]);
    rig.ok(&["volume", "unmount", &rig.text("m")]);
    let known = |rig: &Rig| [rig.ok(&["volume", "list"]), rig.ok(&["snapshot", "list"])];
    // What was changed in use is in the pool by then, and not only in the journal.
    let journal = rig.path("state/journal");
    let entries = || std::fs::read_dir(&journal).expect("a journal").count();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while entries() > 0 {
        assert!(std::time::Instant::now() < deadline, "still noted");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let before = known(&rig);
    rig.stop();
    std::fs::remove_dir_all(rig.path("state")).expect("removable");
    rig.start();
    assert_eq!(known(&rig), before);
    rig.ok(&["volume", "mount", "r", &rig.text("m")]);
    assert_eq!(get(&rig.path("m/file")), "kept");
}
