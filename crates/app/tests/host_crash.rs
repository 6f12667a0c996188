//! The daemon killed at every step of every operation, on file pools. See `support/crash.rs`.

mod support;

#[path = "support/crash.rs"]
mod crash;
#[path = "support/scenarios.rs"]
mod scenarios;

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crash::{Depth, NO_WAIT, Report};
use serde_json::json;
use stowage_testkit::disk::FsKind;
use support::calls::{self, Csi};
use support::{Rig, Storage, get, tool, uses};

/// Points that no operation on a file pool passes.
const NOT_ON_FILES: &[(&str, &str)] = &[
    (
        "node.create.noted",
        "files are never made half; guest_crash_thick dies there",
    ),
    ("file.discard.emptied", FULL),
    ("file.discard.unlinked", FULL),
];

const FULL: &str = "only where there is no room for a name; host_full dies there";

/// A daemon with two file pools on one xfs: `p`, and `q` to copy into.
fn two_pools() -> Rig {
    let rig = Rig::stopped(Storage::file(FsKind::Xfs));
    let Storage::File(fs) = &rig.storage else {
        unreachable!("made above")
    };
    let q = format!(
        "[[pool]]\nname = \"q\"\nkind = \"file\"\npath = \"{}\"\noverprovision = 4.0\n",
        fs.path().join("pool-q").display()
    );
    rig.configure(&q);
    rig
}

#[test]
fn a_kill_at_any_step_on_files_loses_and_leaves_nothing() {
    let mut report = Report::new(Depth::Every);
    let one = || Rig::stopped(Storage::file(FsKind::Xfs));
    report.run(one, &scenarios::common());
    report.run(two_pools, &scenarios::fills());
    report.assert_good();
    report.assert_covers(&["node.", "file."], NOT_ON_FILES);
}

#[test]
fn a_copy_taken_up_again_holds_nothing_of_the_first_attempt() {
    let mut rig = two_pools();
    rig.die_at("node.fill.copied");
    rig.start();
    let create = ["volume", "create", "v", "--block", "--size", "64Mi"];
    rig.ok(&[&create[..], &["--pool", "p"]].concat());
    rig.ok(&["volume", "mount", "v", &rig.text("dev")]);
    uses::scribble(&rig.path("dev"), 0, &vec![b'A'; 32 << 20]);
    let clone = ["volume", "clone", "v", "c", "--pool", "q"];
    rig.run(&clone);
    assert!(rig.died());
    // Its user goes on meanwhile.
    uses::scribble(&rig.path("dev"), 0, &vec![0; 16 << 20]);
    rig.start();
    rig.ok(&clone);
    rig.ok(&["volume", "mount", "c", &rig.text("copy")]);
    assert_eq!(
        uses::digest(&rig.path("copy")),
        uses::digest(&rig.path("dev"))
    );
    for (at, name) in [("copy", "c"), ("dev", "v")] {
        rig.ok(&["volume", "unmount", &rig.text(at)]);
        rig.ok(&["volume", "delete", name]);
    }
    rig.assert_clean();
}

#[test]
fn a_file_system_frozen_by_a_dead_daemon_thaws_without_another() {
    let mut rig = Rig::new(Storage::file(FsKind::Xfs));
    rig.ok(&["volume", "create", "v", "--size", "32Mi"]);
    rig.ok(&["volume", "mount", "v", &rig.text("m")]);
    rig.stop();
    rig.die_at("node.snapshot.frozen");
    rig.start();
    rig.run(&["snapshot", "create", "v", "s"]);
    assert!(rig.died());
    // Nobody starts it again. The guard's bound is 10 s; it needs none of that when we die.
    let took = uses::put_unfrozen(&rig.path("m/file"), "written");
    assert!(took < NO_WAIT, "a write waited for {took:?}");
}

/// Tells a thread to end, also where an assertion fails: a scope waits for its threads.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn kills_do_not_reach_those_who_use_a_volume() {
    let mut rig = Rig::new(Storage::file(FsKind::Xfs));
    rig.ok(&["volume", "create", "v", "--size", "64Mi"]);
    rig.ok(&["volume", "mount", "v", &rig.text("m")]);
    let (path, stop) = (rig.path("m/lines"), AtomicBool::new(false));
    let written = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut file = std::fs::File::create(&path).expect("writable");
            let (mut lines, mut slowest) = (0_u32, Duration::ZERO);
            while !stop.load(Ordering::Relaxed) {
                let started = Instant::now();
                writeln!(file, "{lines}").expect("writable all the time");
                file.sync_all().expect("a disk");
                (lines, slowest) = (lines + 1, slowest.max(started.elapsed()));
            }
            assert!(
                slowest < Duration::from_secs(30),
                "a write took {slowest:?}"
            );
            lines
        });
        let ends = Ends(&stop);
        for round in 0..10 {
            if round % 2 == 0 {
                rig.kill();
            } else {
                rig.stop();
            }
            rig.start();
            let used = &rig.ok(&["volume", "show", "v"])["used-at"];
            assert!(used.to_string().contains(&rig.text("m")), "{used}");
            rig.run(&["volume", "delete", "v"]).fails_with(&["in use"]);
        }
        drop(ends);
        writer.join().expect("the writer goes on")
    });
    let lines: Vec<String> = (0..written).map(|n| n.to_string()).collect();
    assert_eq!(get(&path).lines().collect::<Vec<_>>(), lines);
    rig.ok(&["volume", "unmount", &rig.text("m")]);
    rig.ok(&["volume", "delete", "v"]);
    rig.assert_clean();
}

#[test]
fn an_inline_volume_whose_pod_went_while_the_daemon_was_dead_goes_at_the_start() {
    let mut rig = Rig::new(Storage::file(FsKind::Xfs));
    let (pod, target) = (rig.path("pod"), rig.path("pod/t"));
    std::fs::create_dir(&pod).expect("writable");
    let request = calls::inline("csi-1", &target, &[("size", "32Mi")]);
    Csi::new(&rig)
        .node_publish_volume(request)
        .expect("published");
    assert_eq!(
        rig.ok(&["volume", "list"]).as_array().map(Vec::len),
        Some(1)
    );
    rig.kill();
    // As after a reboot, with a pod that was deleted meanwhile.
    tool("umount", &[&target.display().to_string()]);
    std::fs::remove_dir_all(&pod).expect("removable");
    rig.start();
    soon("it is removed", || rig.ok(&["volume", "list"]) == json!([]));
    rig.assert_clean();
}

/// What is done after the start, beside what is served.
#[track_caller]
fn soon(what: &str, is: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !is() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// As with `/var/lib/kubelet` on a disk of its own that is mounted `nofail`, after a restart of the
/// machine: the kubelet may have made its directories anew on what lies below.
#[test]
fn an_inline_volume_is_kept_while_the_disk_of_its_pod_is_missing() {
    let mut rig = Rig::new(Storage::file(FsKind::Xfs));
    let (kubelet, pod) = (rig.path("kubelet"), rig.path("kubelet/pods/1"));
    for made in ["kubelet", "disk"] {
        std::fs::create_dir(rig.path(made)).expect("writable");
    }
    let unplug = || tool("umount", &[&kubelet.display().to_string()]);
    let plug = |rig: &Rig| {
        tool(
            "mount",
            &["--bind", &rig.text("disk"), &rig.text("kubelet")],
        )
    };
    plug(&rig);
    std::fs::create_dir_all(&pod).expect("writable");
    let target = pod.join("t");
    let request = calls::inline("csi-1", &target, &[("size", "32Mi")]);
    Csi::new(&rig)
        .node_publish_volume(request.clone())
        .expect("published");
    let listed = |rig: &Rig| rig.ok(&["volume", "list"]).as_array().map(Vec::len);
    rig.kill();
    tool("umount", &[&target.display().to_string()]);
    unplug();
    for made_anew in ["", "kubelet/pods"] {
        if !made_anew.is_empty() {
            std::fs::create_dir(rig.path(made_anew)).expect("writable");
        }
        rig.start();
        soon("doctor tells that it is kept", || {
            let told = rig.run(&["doctor"]).stdout;
            told.contains("is kept") && told.contains("csi-1")
        });
        assert_eq!(listed(&rig), Some(1), "{made_anew}");
        rig.kill();
    }
    rig.start();
    plug(&rig);
    // The pod is there, and may go on with its volume.
    Csi::new(&rig)
        .node_publish_volume(request)
        .expect("published again");
    assert_eq!(listed(&rig), Some(1));
    rig.kill();
    tool("umount", &[&target.display().to_string()]);
    unplug();
    rig.start();
    assert_eq!(listed(&rig), Some(1));
    // It went while nobody could see it.
    tool(
        "mount",
        &["--bind", &rig.text("disk"), &rig.text("kubelet")],
    );
    std::fs::remove_dir_all(&pod).expect("removable");
    soon("it is removed", || listed(&rig) == Some(0));
    unplug();
    rig.assert_clean();
}
