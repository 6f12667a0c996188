//! From a volume to its consumer and back, where steps were cut off or others came in between:
//! what is mounted, what is noted, and what is told must agree.

#![allow(
    clippy::disallowed_methods,
    reason = "tests start the program under test"
)]

mod support;

use std::fs::create_dir;
use std::path::PathBuf;

use stowage_testkit::disk::FsKind;
use support::calls::{Csi, Mode, mount, text};
use support::{Rig, Storage, get, put, tool};

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
    // Not synced: only a freeze brings it to the disk.
    std::fs::write(target.join("kept"), "kept").expect("writable");
    let snapshot = csi.cut("s", &id).expect("cut").snapshot_id;
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
