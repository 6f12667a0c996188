//! From a volume to its consumer and back, where steps were cut off or others came in between:
//! what is mounted, what is noted, and what is told must agree.

#![allow(
    clippy::disallowed_methods,
    reason = "tests start the program under test"
)]

mod support;

use std::fs::{create_dir, create_dir_all};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use stowage_csi::proto::{CreateVolumeRequest, NodeExpandVolumeRequest};
use stowage_testkit::disk::{FsKind, loops_below};
use support::calls::{
    Code, Csi, Mode, block, mount, publishing, refused, staging_of, text, volume,
};
use support::{Rig, Storage, get, output, put, tool, uses as on};

fn rig() -> Rig {
    Rig::new(Storage::file(FsKind::Xfs))
}

fn writer() -> stowage_csi::proto::VolumeCapability {
    mount("ext4", Mode::SingleNodeMultiWriter)
}

/// A directory below the rig, made.
fn dir(rig: &Rig, name: &str) -> PathBuf {
    let path = rig.path(name);
    create_dir(&path).expect("a fresh directory");
    path
}

/// The file that holds a volume's record in its pool.
fn record_of(rig: &Rig, id: &str) -> PathBuf {
    let Storage::File(fs) = &rig.storage else {
        unreachable!("a file pool")
    };
    fs.path().join("pool/volumes").join(id).join("record.json")
}

#[test]
fn a_mount_that_outlived_its_note_is_not_formatted_again() {
    let mut rig = rig();
    let csi = Csi::new(&rig);
    let id = csi.made("v").volume_id;
    let (staging, target) = (dir(&rig, "staging"), rig.path("t"));
    let blank = std::fs::read(record_of(&rig, &id)).expect("a record");
    csi.stage(&id, &staging, writer());
    rig.kill();
    // As if the daemon had died between mount(2) and the note that there is a file system.
    std::fs::write(record_of(&rig, &id), blank).expect("writable");
    let journal = rig.path("state/journal").join(format!("{id}.json"));
    std::fs::write(journal, "\"format\"").expect("writable");
    for restart in [true, false] {
        if restart {
            rig.start();
        }
        let csi = Csi::new(&rig);
        csi.stage(&id, &staging, writer());
        csi.publish(&id, &staging, &target, writer());
        if restart {
            put(&target.join("kept"), "kept");
        }
        assert_eq!(get(&target.join("kept")), "kept");
        csi.unpublish(&id, &target).expect("unpublished");
        csi.unstage(&id, &staging).expect("unstaged");
    }
    let csi = Csi::new(&rig);
    csi.delete(&id).expect("deleted");
    rig.assert_clean();
}

#[test]
fn a_snapshot_freezes_the_volume_itself_wherever_it_is_mounted() {
    let rig = rig();
    let csi = Csi::new(&rig);
    let id = csi.made("v").volume_id;
    // What lies beneath the staging path cannot be frozen, so that an attempt shows.
    let beneath = dir(&rig, "beneath");
    tool("mount", &["-t", "tmpfs", "tmpfs", &text(&beneath)]);
    let (staging, target) = (dir(&rig, "beneath/staging"), rig.path("t"));
    csi.stage(&id, &staging, writer());
    csi.publish(&id, &staging, &target, writer());
    tool("umount", &[&text(&staging)]);
    std::fs::write(target.join("kept"), "kept").expect("writable");
    let snapshot = csi.cut("s", &id).expect("cut").snapshot_id;
    // A sync alone brings the file to the disk too, but leaves a journal to replay.
    let Storage::File(fs) = &rig.storage else {
        unreachable!("a file pool")
    };
    let cut = fs
        .path()
        .join("pool/snapshots")
        .join(&snapshot)
        .join("data");
    let needs_recovery =
        |data: &Path| output("dumpe2fs", &["-h", &text(data)]).contains("needs_recovery");
    assert!(!needs_recovery(&cut), "cut without a freeze");
    std::fs::remove_file(target.join("kept")).expect("still writable");
    rig.ok(&["snapshot", "restore", "s", "r"]);
    rig.ok(&["volume", "mount", "r", &rig.text("m")]);
    assert_eq!(get(&rig.path("m/kept")), "kept");
    rig.ok(&["volume", "unmount", &rig.text("m")]);
    rig.ok(&["volume", "delete", "r"]);
    csi.drop_snapshot(&snapshot).expect("deleted");
    csi.unpublish(&id, &target).expect("unpublished");
    csi.unstage(&id, &staging).expect("unstaged");
    csi.delete(&id).expect("deleted");
    tool("umount", &[&text(&beneath)]);
    rig.assert_clean();
}

#[test]
fn after_a_reboot_old_targets_are_somebody_elses_but_for_what_we_made() {
    let mut rig = rig();
    let csi = Csi::new(&rig);
    let id = csi.made("v").volume_id;
    let staging = dir(&rig, "staging");
    let (taken, left) = (rig.path("taken"), rig.path("left"));
    let once = || mount("ext4", Mode::SingleNodeSingleWriter);
    csi.stage(&id, &staging, writer());
    for target in [&taken, &left] {
        csi.publish(&id, &staging, target, writer());
    }
    rig.stop();
    for mounted in [&taken, &left, &staging] {
        tool("umount", &[&text(mounted)]);
    }
    let note = rig.path("state/attachments").join(format!("{id}.json"));
    let mut noted: serde_json::Value = serde_json::from_str(&get(&note)).expect("a note");
    noted["boot"] = "an earlier one".into();
    put(&note, &noted.to_string());
    rig.start();
    let csi = Csi::new(&rig);
    tool("mount", &["-t", "tmpfs", "tmpfs", &text(&taken)]);
    put(&taken.join("theirs"), "theirs");
    assert_eq!(
        rig.ok(&["volume", "show", "v"])["used-at"],
        serde_json::json!([])
    );
    // Nobody uses it any more, so one who wants it alone can have it.
    csi.stage(&id, &staging, once());
    csi.publish(&id, &staging, &rig.path("t"), once());
    csi.unpublish(&id, &rig.path("t")).expect("unpublished");
    rig.run(&["volume", "unmount", &text(&taken)])
        .fails_with(&["no volume"]);
    for target in [&taken, &left] {
        csi.unpublish(&id, target).expect("unpublished");
    }
    assert_eq!(get(&taken.join("theirs")), "theirs");
    assert!(!left.exists(), "what we made goes");
    csi.unstage(&id, &staging).expect("unstaged");
    csi.delete(&id).expect("deleted");
    tool("umount", &[&text(&taken)]);
    rig.assert_clean();
}

#[test]
fn growth_that_lacks_a_capability_is_told_and_comes_with_the_next_mount() {
    let mut rig = Rig::stopped(Storage::file(FsKind::Xfs));
    rig.lacks("sys_resource");
    rig.start();
    let csi = Csi::new(&rig);
    on::create(&rig, "v", "ext4", "64Mi");
    let m = on::mount(&rig, "v", "m");
    put(&m.join("file"), "kept");
    let before = on::capacity(&m);
    rig.run(&["volume", "grow", "v", "128Mi"])
        .fails_with(&["CAP_SYS_RESOURCE", "mount it again"]);
    let shown = rig.ok(&["volume", "show", "v"]);
    let expand = NodeExpandVolumeRequest {
        volume_id: shown["id"].as_str().expect("an id").to_owned(),
        volume_path: text(&m),
        ..Default::default()
    };
    let refusal = csi.node_expand_volume(expand);
    refused(refusal, Code::FailedPrecondition, &["CAP_SYS_RESOURCE"]);
    let told = rig.ok(&["doctor"]);
    assert_eq!(told[0]["trouble"], "smaller", "{told}");
    assert_eq!(on::capacity(&m), before);

    on::unmount(&rig, "m");
    on::mount(&rig, "v", "m");
    assert!(on::capacity(&m) > before + before / 2);
    assert_eq!(get(&m.join("file")), "kept");
    assert_eq!(rig.ok(&["doctor"]), serde_json::json!([]));
    on::unmount(&rig, "m");
    on::delete(&rig, &["v"]);
    rig.assert_clean();
}

#[test]
fn no_ext4_is_without_a_journal_whatever_its_size_and_whoever_made_it() {
    let rig = rig();
    let made = on::create(&rig, "v", "ext4", "4Mi");
    assert_eq!(made["size"], 8 << 20);
    let Storage::File(fs) = &rig.storage else {
        unreachable!("a file pool")
    };
    let id = made["id"].as_str().expect("an id");
    let data = fs.path().join("pool/volumes").join(id).join("data");
    let has_journal = || output("dumpe2fs", &["-h", &text(&data)]).contains("has_journal");
    on::mount(&rig, "v", "m");
    on::unmount(&rig, "m");
    assert!(has_journal());
    // As it was once made in less than 8 MiB.
    tool(
        "mkfs.ext4",
        &["-q", "-F", "-b", "4096", "-O", "^has_journal", &text(&data)],
    );
    put(&on::mount(&rig, "v", "m").join("file"), "kept");
    on::unmount(&rig, "m");
    assert!(has_journal());
    on::delete(&rig, &["v"]);
    rig.assert_clean();
}

/// Make a file, or fail where that would wait for a thaw.
fn writes(at: &Path) {
    on::put_unfrozen(&at.join("written"), "");
}

#[test]
fn what_a_backup_left_frozen_is_thawed_before_its_last_mount_goes() {
    let rig = rig();
    for fs in ["ext4", "xfs", "btrfs"] {
        on::create(&rig, "v", fs, on::small(fs));
        let m = on::mount(&rig, "v", "m");
        let second = on::mount(&rig, "v", "second");
        tool("fsfreeze", &["-f", &text(&m)]);
        on::unmount(&rig, "m");
        // Not by the one before: a second thaw fails where nothing is frozen.
        tool("fsfreeze", &["-u", &text(&second)]);
        tool("fsfreeze", &["-f", &text(&second)]);
        on::unmount(&rig, "second");
        assert!(rig.log().contains("thawed"), "{}", rig.log());
        writes(&on::mount(&rig, "v", "m"));
        on::unmount(&rig, "m");
        on::delete(&rig, &["v"]);
        rig.assert_clean();
    }
}

/// While it is mounted, a freeze is whose it is: a backup that is at work would be torn.
#[test]
fn what_a_backup_froze_stays_frozen_over_a_snapshot_and_a_restart() {
    let mut rig = rig();
    on::create(&rig, "v", "ext4", on::small("ext4"));
    let m = on::mount(&rig, "v", "m");
    tool("fsfreeze", &["-f", &text(&m)]);
    rig.run(&["snapshot", "create", "v", "s"])
        .fails_with(&["frozen by somebody else", "fsfreeze -u"]);
    rig.kill();
    rig.start();
    // A second thaw fails where nothing is frozen.
    tool("fsfreeze", &["-u", &text(&m)]);
    rig.ok(&["snapshot", "create", "v", "s"]);
    writes(&m);
    on::unmount(&rig, "m");
    rig.ok(&["snapshot", "delete", "s"]);
    on::delete(&rig, &["v"]);
    rig.assert_clean();
}

#[test]
fn a_volume_that_was_left_frozen_and_unmounted_is_mended() {
    let mut rig = rig();
    let id = Csi::new(&rig).made("v").volume_id;
    let staging = dir(&rig, "staging");
    let wedge = |rig: &Rig| {
        Csi::new(rig).stage(&id, &staging, writer());
        tool("fsfreeze", &["-f", &text(&staging)]);
        tool("umount", &[&text(&staging)]);
    };
    // By the next mount,
    wedge(&rig);
    Csi::new(&rig).stage(&id, &staging, writer());
    writes(&staging);
    Csi::new(&rig).unstage(&id, &staging).expect("unstaged");
    // by an unmount that found no mount any more,
    wedge(&rig);
    Csi::new(&rig).unstage(&id, &staging).expect("unstaged");
    // by the start,
    wedge(&rig);
    rig.stop();
    rig.start();
    let Storage::File(fs) = &rig.storage else {
        unreachable!("a file pool")
    };
    let deadline = Instant::now() + Duration::from_secs(20);
    while !loops_below(fs.path()).expect("sysfs").is_empty() {
        assert!(Instant::now() < deadline, "still held: {}", rig.log());
        std::thread::sleep(Duration::from_millis(50));
    }
    // and by a deletion.
    wedge(&rig);
    Csi::new(&rig).delete(&id).expect("deleted");
    rig.assert_clean();
}

#[test]
fn a_kubelet_and_a_state_behind_links_of_root_are_served_and_links_in_pods_are_not() {
    let mut rig = Rig::stopped(Storage::file(FsKind::Xfs));
    let real = dir(&rig, "real-state");
    symlink(&real, rig.path("state")).expect("a link");
    rig.start();
    // By way of our own directory.
    on::create(&rig, "v", "ext4", "64Mi");
    put(&on::mount(&rig, "v", "m").join("file"), "kept");
    on::unmount(&rig, "m");

    // Not below /tmp, where anybody may put a link.
    let top = tempfile::tempdir_in("/var/lib").expect("a directory");
    let kubelet = top.path().join("kubelet");
    create_dir_all(top.path().join("data/kubelet")).expect("a directory");
    symlink("data/kubelet", &kubelet).expect("a link");
    let staging = kubelet.join("plugins/kubernetes.io/csi/x/globalmount");
    let volumes = kubelet.join("pods/uid/volumes/kubernetes.io~csi");
    let target = volumes.join("pvc/mount");
    for made in [&staging, &volumes.join("pvc")] {
        create_dir_all(made).expect("a directory");
    }
    let shown = rig.ok(&["volume", "show", "v"]);
    let id = shown["id"].as_str().expect("an id");
    let csi = Csi::new(&rig);
    for _ in 0..2 {
        csi.stage(id, &staging, writer());
        csi.publish(id, &staging, &target, writer());
    }
    assert_eq!(get(&target.join("file")), "kept");
    csi.stats(id, &target).expect("told");
    // What looks like root's there may be a tenant's, who is root in a container.
    symlink(top.path(), volumes.join("link")).expect("a link");
    let through = publishing(id, &staging, &volumes.join("link/t"), writer());
    let refusal = csi.node_publish_volume(through);
    refused(refusal, Code::InvalidArgument, &["symbolic link"]);
    csi.unpublish(id, &target).expect("unpublished");
    assert!(!target.exists());
    csi.unstage(id, &staging).expect("unstaged");
    on::delete(&rig, &["v"]);
    rig.assert_clean();
}

/// As after a restart of the machine: nothing is mounted, and the notes are of another boot.
#[test]
fn a_mount_that_a_person_made_and_a_reboot_ended_is_told_with_its_command() {
    let mut rig = rig();
    rig.ok(&["volume", "create", "v", "--size", "64Mi"]);
    let target = rig.text("m");
    let options = ["--option", "noatime", "--read-only"];
    rig.ok(&[&["volume", "mount", "v", &target], &options[..]].concat());
    let id = rig.ok(&["volume", "show", "v"])["id"].clone();
    let note = format!("state/attachments/{}.json", id.as_str().expect("an id"));
    let reboot = |rig: &mut Rig| {
        rig.stop();
        let mut noted: serde_json::Value =
            serde_json::from_str(&get(&rig.path(&note))).expect("a note");
        tool("umount", &[&target]);
        tool(
            "umount",
            &[noted["staging"]["path"].as_str().expect("staged")],
        );
        noted["boot"] = "an earlier one".into();
        put(&rig.path(&note), &noted.to_string());
        rig.start();
    };
    reboot(&mut rig);
    let told = |rig: &Rig| {
        let found = rig.run(&["doctor", "-o", "json"]).json();
        let all = found.as_array().cloned().unwrap_or_default();
        let mut mends = all.iter().filter_map(|f| f["mend"].as_str());
        let mend = mends.find_map(|m| m.strip_prefix("stowage volume mount "));
        mend.map(|rest| rest.split(';').next().unwrap_or_default().to_owned())
    };
    let command = told(&rig).expect("a finding");
    assert_eq!(command, format!("v {target} --option noatime --read-only"));
    let words: Vec<&str> = command.split(' ').collect();
    rig.ok(&[&["volume", "mount"], words.as_slice()].concat());
    assert_eq!(told(&rig), None);
    let used = rig.ok(&["volume", "show", "v"])["used-at"].clone();
    assert_eq!(used, serde_json::json!([target]));
    // Once more, and it is not wanted any longer.
    reboot(&mut rig);
    assert!(told(&rig).is_some());
    rig.ok(&["volume", "unmount", &target]);
    assert_eq!(told(&rig), None);
    assert!(!rig.path("m").exists(), "what we made goes");
    rig.ok(&["volume", "delete", "v"]);
    rig.assert_clean();
}

/// Made by us, written by its consumer: only the bytes tell what it is.
#[test]
fn a_file_system_handed_out_raw_is_looked_at_before_it_is_mounted_again() {
    let rig = rig();
    let csi = Csi::new(&rig);
    let either = CreateVolumeRequest {
        volume_capabilities: vec![writer(), block(Mode::SingleNodeMultiWriter)],
        ..volume("v")
    };
    let id = csi.create_volume(either).expect("a volume").volume_id;
    let (staging, device) = (dir(&rig, "staging"), rig.path("device"));
    csi.stage(&id, &staging, writer());
    put(&staging.join("kept"), "kept");
    csi.unstage(&id, &staging).expect("unstaged");
    let raw = |change: &dyn Fn()| {
        csi.stage(&id, &staging, block(Mode::SingleNodeMultiWriter));
        csi.publish(&id, &staging, &device, block(Mode::SingleNodeMultiWriter));
        change();
        csi.unpublish(&id, &device).expect("unpublished");
        csi.unstage(&id, &staging).expect("unstaged");
    };
    // One that only looked finds it as it was.
    raw(&|| ());
    csi.stage(&id, &staging, writer());
    assert_eq!(get(&staging.join("kept")), "kept");
    csi.unstage(&id, &staging).expect("unstaged");
    raw(&|| tool("mkfs.ext2", &["-q", "-F", &text(&device)]));
    refused(
        csi.node_stage_volume(staging_of(&id, &staging, writer())),
        Code::FailedPrecondition,
        &["raw device", "ext2", "not formatted"],
    );
    csi.delete(&id).expect("deleted");
    rig.assert_clean();
}

/// As an administrator does who looks at a partition in it, or backs it up.
#[test]
fn a_volume_whose_staging_directory_is_gone_is_mounted_again() {
    let rig = rig();
    let id = Csi::new(&rig).made("v").volume_id;
    rig.ok(&["volume", "mount", "v", &rig.text("m")]);
    // A person unmounts all of it, and tidies up.
    let staging = rig.path("state/staging").join(&id);
    tool("umount", &[&rig.text("m")]);
    tool("umount", &[&text(&staging)]);
    std::fs::remove_dir(&staging).expect("an empty directory");
    rig.ok(&["volume", "mount", "v", &rig.text("m")]);
    std::fs::write(rig.path("m/file"), "here").expect("a mounted volume");
    rig.ok(&["volume", "unmount", &rig.text("m")]);
    assert!(!staging.exists());
    rig.ok(&["volume", "delete", "v"]);
    rig.assert_clean();
}

#[test]
fn a_device_that_others_put_on_a_volumes_file_is_named_and_not_mounted() {
    let rig = rig();
    let made = on::create(&rig, "v", "ext4", "64Mi");
    let id = made["id"].as_str().expect("an id");
    let data = text(&record_of(&rig, id).with_file_name("data"));
    let m = rig.text("m");
    for (round, options) in [&["--offset", "1048576"][..], &["--read-only"]]
        .into_iter()
        .enumerate()
    {
        let shown = output("losetup", &[options, &["--find", "--show", &data]].concat());
        let theirs = shown.trim();
        let refused = rig.run(&["volume", "mount", "v", &m]);
        let kept = rig.run(&["volume", "delete", "v"]);
        // It is there until its owner detaches it.
        tool("losetup", &["--detach", theirs]);
        for refused in [refused, kept] {
            refused.fails_with(&[theirs, "not done by us", "losetup --detach"]);
        }
        rig.ok(&["volume", "mount", "v", &m]);
        let file = rig.path("m/kept");
        match round {
            0 => put(&file, "kept"),
            _ => assert_eq!(get(&file), "kept"),
        }
        rig.ok(&["volume", "unmount", &m]);
    }
    rig.ok(&["volume", "delete", "v"]);
    rig.assert_clean();
}
