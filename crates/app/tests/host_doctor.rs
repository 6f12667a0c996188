//! What `stowage doctor` finds when something came between: it names the thing and the way out.

mod support;

use std::time::{Duration, Instant};

use stowage_testkit::disk::FsKind;
use support::uses as on;
use support::{Rig, Storage, get, output, put, tool};

fn rig() -> Rig {
    Rig::new(Storage::file(FsKind::Xfs))
}

/// Upkeep looks every few seconds.
#[track_caller]
fn finds(rig: &Rig, words: &[&str]) {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let said = rig.run(&["doctor"]).stdout;
        if words.iter().all(|word| said.contains(word)) {
            return;
        }
        assert!(Instant::now() < deadline, "{words:?} not in {said}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Where the daemon staged the volume of this id for a person.
fn staging(rig: &Rig, id: &str) -> String {
    rig.path("state/staging").join(id).display().to_string()
}

#[test]
fn a_file_system_that_turned_read_only_is_told() {
    let rig = rig();
    let made = on::create(&rig, "v", "ext4", "64Mi");
    on::mount(&rig, "v", "m");
    assert_eq!(rig.ok(&["doctor"]), serde_json::json!([]));
    let at = staging(&rig, made["id"].as_str().expect("an id"));
    tool("mount", &["-o", "remount,ro", &at]);
    finds(&rig, &["turned read-only", "fsck"]);
    on::unmount(&rig, "m");
    on::delete(&rig, &["v"]);
    assert_eq!(rig.ok(&["doctor"]), serde_json::json!([]));
}

/// ext4 goes on after an error unless told otherwise, so that nothing else shows it.
#[test]
fn errors_that_a_file_system_has_recorded_are_told_until_it_is_checked() {
    let rig = rig();
    on::create(&rig, "v", "ext4", "64Mi");
    put(&on::mount(&rig, "v", "m").join("file"), "kept");
    assert_eq!(rig.ok(&["doctor"]), serde_json::json!([]));
    let device = output("findmnt", &["-n", "-o", "SOURCE", &rig.text("m")]);
    let device = device.trim();
    let name = device.trim_start_matches("/dev/");
    // The kernel's own way to have one.
    let trigger = format!("/sys/fs/ext4/{name}/trigger_fs_error");
    std::fs::write(trigger, "test").expect("a kernel with ext4");
    finds(&rig, &["recorded 1 error", "fsck"]);
    // As it says, with the file where its device was.
    on::unmount(&rig, "m");
    let contents = rig.storage.contents();
    let check = format!("e2fsck -fy {}/data; test $? -le 1", contents[0]);
    tool("sh", &["-c", &check]);
    assert_eq!(get(&on::mount(&rig, "v", "m").join("file")), "kept");
    assert_eq!(rig.ok(&["doctor"]), serde_json::json!([]));
    on::unmount(&rig, "m");
    on::delete(&rig, &["v"]);
    rig.assert_clean();
}

#[test]
fn a_mount_that_somebody_took_away_is_told_and_can_be_put_right() {
    let rig = rig();
    let made = on::create(&rig, "v", "ext4", "64Mi");
    on::mount(&rig, "v", "m");
    let at = staging(&rig, made["id"].as_str().expect("an id"));
    tool("umount", &[&rig.text("m")]);
    tool("umount", &[&at]);
    finds(&rig, &["should be mounted", &at, "unmount it"]);
    // As it says.
    on::unmount(&rig, "m");
    on::mount(&rig, "v", "m");
    assert_eq!(rig.ok(&["doctor"]), serde_json::json!([]));
    on::unmount(&rig, "m");
    on::delete(&rig, &["v"]);
}

#[test]
fn a_file_pool_nearly_full_is_told() {
    let rig = rig();
    let Storage::File(fs) = &rig.storage else {
        unreachable!("asked for above")
    };
    let filler = fs.path().join("filler");
    let free = rustix::fs::statvfs(fs.path()).expect("a file system");
    let fill = free.f_bavail * free.f_frsize / 100 * 90;
    tool(
        "fallocate",
        &["-l", &fill.to_string(), &filler.display().to_string()],
    );
    finds(&rig, &["\"p\"", "warning"]);
    std::fs::remove_file(filler).expect("removable");
    let deadline = Instant::now() + Duration::from_secs(30);
    while rig.ok(&["doctor"]) != serde_json::json!([]) {
        assert!(Instant::now() < deadline, "still told");
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// A flush in the volume is a flush of the disk only if nothing is cached in between.
#[test]
fn files_are_read_and_written_past_the_page_cache() {
    let rig = rig();
    on::create(&rig, "v", "ext4", "64Mi");
    on::mount(&rig, "v", "m");
    let device = output("findmnt", &["-n", "-o", "SOURCE", &rig.text("m")]);
    let name = device.trim().trim_start_matches("/dev/");
    let direct = std::fs::read_to_string(format!("/sys/block/{name}/loop/dio"));
    assert_eq!(direct.expect("a loop device").trim(), "1");
    on::unmount(&rig, "m");
    on::delete(&rig, &["v"]);
    rig.assert_clean();
}
