//! What `stowage doctor` finds when something came between: it names the thing and the way out.

mod support;

use std::time::{Duration, Instant};

use stowage_testkit::disk::FsKind;
use support::uses as on;
use support::{Rig, Storage, output, tool};

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
