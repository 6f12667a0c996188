//! A pool that cannot be read when the daemon starts: what it holds is not taken for gone.

#![allow(
    clippy::disallowed_methods,
    reason = "a process that stands for a command of ours"
)]

mod support;

use std::fs::rename;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use stowage_csi::proto::{
    ControllerExpandVolumeRequest, ControllerGetVolumeHealthRequest, ControllerGetVolumeRequest,
    CreateVolumeRequest, GetSnapshotRequest, ListSnapshotsRequest, ListVolumesRequest,
};
use stowage_testkit::disk::{FsKind, LoopFs};
use support::calls::{
    Code, Csi, MIB, Mode, Status, from_snapshot, from_volume, map, mount, publishing, range,
    refused, staging_of, text, volume,
};
use support::uses as on;
use support::{Rig, Storage, get, put};

/// A daemon with two file pools on one xfs, `p` and `q`.
fn two_pools() -> (Rig, PathBuf) {
    let rig = Rig::stopped(Storage::file(FsKind::Xfs));
    let Storage::File(fs) = &rig.storage else {
        unreachable!("made above")
    };
    let (p, q) = (fs.path().join("pool"), fs.path().join("pool-q"));
    rig.configure(&format!(
        "[[pool]]\nname = \"q\"\nkind = \"file\"\npath = \"{}\"\n",
        q.display()
    ));
    (rig, p)
}

fn in_pool(name: &str, pool: &str) -> CreateVolumeRequest {
    CreateVolumeRequest {
        parameters: map(&[("pool", pool)]),
        ..volume(name)
    }
}

/// Where a pool lies while it is away.
fn away(pool: &Path) -> PathBuf {
    pool.with_file_name("unplugged")
}

#[test]
fn what_a_pool_holds_that_was_not_there_at_the_start_is_not_taken_for_gone() {
    let (mut rig, pool) = two_pools();
    rig.start();
    let csi = Csi::new(&rig);
    let writer = || mount("ext4", Mode::SingleNodeMultiWriter);
    let id = csi
        .create_volume(in_pool("v", "p"))
        .expect("made")
        .volume_id;
    let (staging, target) = (rig.path("staging"), rig.path("target"));
    std::fs::create_dir(&staging).expect("a writable directory");
    csi.stage(&id, &staging, writer());
    csi.publish(&id, &staging, &target, writer());
    put(&target.join("file"), "kept");
    let cut = csi.cut("s", &id).expect("a snapshot").snapshot_id;
    rig.stop();
    rename(&pool, away(&pool)).expect("unplugged");

    rig.start();
    let csi = Csi::new(&rig);
    let named = ["pool p", "bring it back"];
    fn not_known<T>(answer: Result<T, Status>) {
        refused(answer, Code::Unavailable, &["pool p", "bring it back"]);
    }
    not_known(csi.delete(&id));
    not_known(csi.drop_snapshot(&cut));
    not_known(csi.unpublish(&id, &target));
    not_known(csi.unstage(&id, &staging));
    // It may be the very volume that is in there, whoever may hold it as well.
    not_known(csi.create_volume(volume("v")));
    not_known(csi.create_volume(in_pool("w", "p")));
    // Nor is it told to be gone: what there is and how it was is told, since all of it is known.
    let volume_id = || id.clone();
    let listed = csi.list_volumes(ListVolumesRequest::default());
    let told = listed.expect("a list");
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0].volume_id, id);
    let got = csi.controller_get_volume(ControllerGetVolumeRequest {
        volume_id: volume_id(),
    });
    assert_eq!(got.expect("known"), told[0]);
    for snapshot_id in ["", &cut] {
        let listed = csi.list_snapshots(ListSnapshotsRequest {
            snapshot_id: snapshot_id.to_owned(),
            ..Default::default()
        });
        assert_eq!(listed.expect("a list"), 1);
    }
    let got = csi.get_snapshot(GetSnapshotRequest {
        snapshot_id: cut.clone(),
        ..Default::default()
    });
    assert_eq!(got.expect("known").snapshot_id, cut);
    let shown = rig.ok(&["volume", "show", "v"]);
    assert_eq!(shown["state"], "away", "{shown}");
    not_known(
        csi.controller_get_volume_health(ControllerGetVolumeHealthRequest {
            volume_id: volume_id(),
            ..Default::default()
        }),
    );
    not_known(csi.controller_expand_volume(ControllerExpandVolumeRequest {
        volume_id: volume_id(),
        capacity_range: Some(range(128 * MIB, 0)),
        ..Default::default()
    }));
    not_known(csi.cut("t", &id));
    for source in [from_volume(&id), from_snapshot(&cut)] {
        not_known(csi.create_volume(CreateVolumeRequest {
            volume_content_source: source,
            ..in_pool("copy", "q")
        }));
    }
    not_known(csi.node_stage_volume(staging_of(&id, &staging, writer())));
    not_known(csi.node_publish_volume(publishing(&id, &staging, &rig.path("t2"), writer())));
    not_known(csi.stats(&id, &target));
    // People see what is known, and what is not beside it.
    for list in [["volume", "list"], ["snapshot", "list"]] {
        let listed = rig.run(&list);
        assert_eq!(listed.ok().json().as_array().map(Vec::len), Some(1));
        assert!(
            !listed.stderr.contains("not all is listed"),
            "{}",
            listed.stderr
        );
    }
    for order in [["volume", "delete", "v"], ["snapshot", "delete", "s"]] {
        rig.run(&order).fails_with(&named);
    }
    let found = rig.run(&["doctor"]);
    assert!(found.stdout.contains("\"p\""), "{}", found.stdout);
    // Who asks for another pool is not concerned, nor are its volumes.
    let other = csi
        .create_volume(in_pool("w", "q"))
        .expect("made")
        .volume_id;
    let its = csi.cut("t", &other).expect("a snapshot").snapshot_id;
    csi.drop_snapshot(&its).expect("deleted");
    csi.delete(&other).expect("deleted");
    assert_eq!(get(&target.join("file")), "kept");
    rig.stop();
    rename(away(&pool), &pool).expect("plugged in");

    rig.start();
    let csi = Csi::new(&rig);
    assert_eq!(rig.ok(&["volume", "show", "v"])["id"], json!(id));
    assert_eq!(
        rig.ok(&["volume", "show", "v"])["used-at"],
        json!([text(&target)])
    );
    csi.unpublish(&id, &target).expect("unpublished");
    csi.unstage(&id, &staging).expect("unstaged");
    csi.drop_snapshot(&cut).expect("deleted");
    csi.delete(&id).expect("deleted");
    rig.assert_clean();
}

#[test]
fn a_pool_that_comes_back_is_read_without_a_restart() {
    let (mut rig, pool) = two_pools();
    rig.start();
    let unplug = || rename(&pool, away(&pool)).expect("unplugged");
    let plug = || rename(away(&pool), &pool).expect("plugged in");
    on::pool_comes_back(&mut rig, &unplug, &plug);
}

#[test]
fn a_volume_that_is_there_twice_is_told_and_the_first_is_kept() {
    let (mut rig, pool) = two_pools();
    rig.start();
    rig.ok(&["volume", "create", "v", "--pool", "p", "--size", "32Mi"]);
    rig.ok(&["volume", "mount", "v", &rig.text("m")]);
    put(&rig.path("m/file"), "kept");
    rig.ok(&["volume", "unmount", &rig.text("m")]);
    rig.stop();
    // A pool that was copied, as people do with directories.
    let q = pool.with_file_name("pool-q");
    let id = std::fs::read_dir(pool.join("volumes"))
        .expect("a pool")
        .map(|entry| entry.expect("an entry").file_name())
        .next()
        .expect("a volume");
    support::tool(
        "cp",
        &[
            "-r",
            &text(&pool.join("volumes").join(&id)),
            &text(&q.join("volumes").join(&id)),
        ],
    );
    rig.start();
    let all = rig.ok(&["volume", "list"]);
    assert_eq!(all.as_array().map(Vec::len), Some(1), "{all}");
    assert_eq!(all[0]["pool"], json!("p"));
    let found: Value = serde_json::from_str(&rig.run(&["doctor"]).stdout).expect("JSON");
    let told = found.to_string();
    assert!(told.contains(&id.to_string_lossy().into_owned()), "{told}");
    rig.ok(&["volume", "mount", "v", &rig.text("m")]);
    assert_eq!(get(&rig.path("m/file")), "kept");
    rig.ok(&["volume", "unmount", &rig.text("m")]);
    rig.ok(&["volume", "delete", "v"]);
    assert!(q.join("volumes").join(&id).exists(), "not ours to remove");
}

/// A daemon with the pool `p`, and `q` on a file system of its own. The rig comes last and so goes
/// first: its daemon keeps the file system in use.
fn pools_apart(size: u64) -> (LoopFs, Rig) {
    let rig = Rig::stopped(Storage::file(FsKind::Xfs));
    let fs = LoopFs::new(FsKind::Xfs, size).expect("a file system");
    let q = fs.path().join("pool");
    let q = q.display();
    rig.configure(&format!(
        "[[pool]]\nname = \"q\"\nkind = \"file\"\npath = \"{q}\"\n"
    ));
    (fs, rig)
}

fn doctor(rig: &Rig) -> String {
    rig.run(&["doctor"]).stdout
}

#[track_caller]
fn wait_for(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(70);
    while !condition() {
        assert!(Instant::now() < deadline, "not seen: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_pool_that_takes_no_file_at_the_start_is_served_as_far_as_it_goes() {
    let (fs, mut rig) = pools_apart(512 << 20);
    let at = text(fs.path());
    rig.start();
    rig.ok(&[
        "volume", "create", "kept", "--pool", "q", "--size", "64Mi", "--thin",
    ]);
    rig.stop();
    // It turned read-only, as after an error of its disk.
    support::tool("mount", &["-o", "remount,ro", &at]);
    rig.start();
    rig.ok(&["volume", "create", "v", "--pool", "p", "--size", "64Mi"]);
    assert_eq!(rig.ok(&["volume", "show", "kept"])["pool"], json!("q"));
    wait_for("what is wrong", || {
        let told = doctor(&rig);
        told.contains("Read-only") && told.contains(&at)
    });
    support::tool("mount", &["-o", "remount,rw", &at]);
    wait_for("the pool is well", || doctor(&rig).trim() == "[]");
    rig.stop();
    // It is full to the last block and inode.
    let ballast = fs.path().join("ballast");
    std::fs::create_dir(&ballast).expect("room");
    let mut size = 512_u64 << 20;
    let mut n = 0;
    while size > 0 {
        n += 1;
        let filled = std::process::Command::new("fallocate")
            .args(["-l", &size.to_string(), &text(&ballast.join(n.to_string()))])
            .stderr(std::process::Stdio::null())
            .status();
        if !filled.expect("util-linux").success() {
            size /= 2;
        }
    }
    while std::fs::write(ballast.join(format!("one-{n}")), [1]).is_ok() {
        n += 1;
    }
    rig.start();
    rig.ok(&["volume", "create", "w", "--pool", "p", "--size", "64Mi"]);
    wait_for("what is wrong", || doctor(&rig).contains("No space left"));
    rig.ok(&["volume", "delete", "kept"]);
    std::fs::remove_dir_all(&ballast).expect("ours");
    wait_for("the pool is well", || doctor(&rig).trim() == "[]");
    rig.ok(&["volume", "create", "x", "--pool", "q", "--size", "64Mi"]);
    for name in ["v", "w", "x"] {
        rig.ok(&["volume", "delete", name]);
    }
    rig.assert_clean();
}

#[test]
fn damaged_state_keeps_nothing_from_being_served() {
    let (mut rig, _) = two_pools();
    rig.start();
    rig.ok(&["volume", "create", "v", "--pool", "p", "--size", "64Mi"]);
    let id = rig.ok(&["volume", "show", "v"])["id"].clone();
    let id = id.as_str().expect("an id").to_owned();
    rig.stop();
    let damaged = [
        "pools/x.json".to_owned(),
        format!("journal/{id}.json"),
        format!("attachments/{id}.json"),
    ];
    let paths = damaged.map(|name| rig.path("state").join(name));
    for path in &paths {
        std::fs::write(path, "{\"name\": 7").expect("writable");
    }
    rig.start();
    let told = doctor(&rig);
    for path in &paths {
        assert!(told.contains(&text(path)), "{path:?}: {told}");
    }
    rig.ok(&["volume", "mount", "v", &rig.text("m")]);
    rig.ok(&["volume", "unmount", &rig.text("m")]);
    for path in &paths {
        let _ = std::fs::remove_file(path);
    }
    wait_for("all is well", || doctor(&rig).trim() == "[]");
    rig.ok(&["volume", "delete", "v"]);
    rig.assert_clean();
}

#[test]
fn a_pool_has_one_daemon_and_the_next_takes_it_over() {
    let (mut rig, pool) = two_pools();
    rig.start();
    rig.ok(&["volume", "create", "v", "--pool", "p", "--size", "64Mi"]);
    // What a creation that is under way has there.
    let making = pool.join("making/v-0123456789abcdef0123456789abcdef");
    std::fs::create_dir(&making).expect("a fresh directory");
    let mut other = rig.beside();
    other.start();
    let told = doctor(&other);
    let pid = format!("pid {}", rig.pid());
    assert!(
        told.contains(&pid) && told.contains("another daemon"),
        "{told}"
    );
    assert_eq!(other.ok(&["volume", "list"]), json!([]));
    other
        .run(&["volume", "create", "w", "--pool", "p", "--size", "64Mi"])
        .fails_with(&[&pid]);
    assert!(making.is_dir(), "another daemon's work was thrown away");
    rig.ok(&["volume", "delete", "v"]);
    rig.stop();
    wait_for("it is taken over", || doctor(&other).trim() == "[]");
    other.ok(&["volume", "create", "w", "--pool", "p", "--size", "64Mi"]);
    other.ok(&["volume", "delete", "w"]);
    other.assert_clean();
}

#[test]
fn a_command_that_outlived_its_daemon_holds_up_its_volume_alone() {
    use std::os::unix::fs::MetadataExt;
    let (mut rig, pool) = two_pools();
    rig.start();
    for name in ["v", "w"] {
        rig.ok(&["volume", "create", name, "--pool", "p", "--size", "64Mi"]);
    }
    let id = rig.ok(&["volume", "show", "v"])["id"].clone();
    rig.kill();
    // In the place of mkfs or e2fsck of a large volume, which nobody waits for in a test.
    let at = std::fs::metadata(&pool).expect("a pool");
    let lock = format!(
        "/run/stowage/locks/use@file@{}@{}@{}",
        at.dev(),
        at.ino(),
        id.as_str().expect("an id")
    );
    std::fs::create_dir_all("/run/stowage/locks").expect("root");
    let mut command = std::process::Command::new("flock")
        .args(["--no-fork", &lock, "sleep", "600"])
        .spawn()
        .expect("util-linux");
    let pid = format!("pid {}", command.id());
    wait_for("the lock", || {
        let mut tried = std::process::Command::new("flock");
        let tried = tried.args(["-n", &lock, "true"]).status();
        !tried.expect("util-linux").success()
    });
    let begun = Instant::now();
    assert!(rig.start_at_once(), "{}", rig.log());
    rig.ok(&["volume", "mount", "w", &rig.text("m")]);
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(9), "{took:?}: {}", rig.log());
    assert!(doctor(&rig).contains(&pid), "{}", doctor(&rig));
    rig.run(&["volume", "mount", "v", &rig.text("n")])
        .fails_with(&[&pid, "still at work"]);
    command.kill().expect("a child");
    command.wait().expect("a child");
    rig.ok(&["volume", "mount", "v", &rig.text("n")]);
    wait_for("all is well", || doctor(&rig).trim() == "[]");
    for (name, at) in [("v", "n"), ("w", "m")] {
        rig.ok(&["volume", "unmount", &rig.text(at)]);
        rig.ok(&["volume", "delete", name]);
    }
    rig.assert_clean();
}
