//! The daemon as a process: how it stops, and what it tells about itself.

mod support;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;
use stowage_testkit::disk::FsKind;
use support::calls::{Csi, Mode, block, from_volume, map, range};
use support::{Rig, Storage, ends_within, http};

use stowage_csi::proto::{ControllerExpandVolumeRequest, CreateVolumeRequest};

/// Longer than a chunk of a copy, shorter than the bound for operations under way.
const SOON: Duration = Duration::from_secs(15);

/// Change the configuration of a rig that is to be started.
fn configure(rig: &Rig, from: &str, to: &str) {
    let path = rig.path("stowage.toml");
    let text = support::get(&path);
    assert!(text.contains(from), "{from:?} is not in {text}");
    std::fs::write(&path, text.replace(from, to)).expect("a writable directory");
}

#[track_caller]
fn wait_for(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < deadline, "not seen: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A source that reads as zeros takes a copy nothing but time.
const SLOW: i64 = 120 << 30;

#[test]
fn a_stop_does_not_wait_for_a_copy_that_a_csi_call_waits_for() {
    let mut rig = Rig::stopped(Storage::file(FsKind::Xfs));
    let Storage::File(fs) = &rig.storage else {
        unreachable!("made so")
    };
    let second = format!(
        "overprovision = 90.0\n[[pool]]\nname = \"q\"\nkind = \"file\"\npath = \"{}\"\n\
         overprovision = 90.0\n",
        fs.path().join("q").display()
    );
    configure(&rig, "overprovision = 4.0\n", &second);
    rig.start();
    let csi = Csi::new(&rig);
    let thin = |name: &str, pool: &str| CreateVolumeRequest {
        name: name.to_owned(),
        capacity_range: Some(range(SLOW, 0)),
        volume_capabilities: vec![block(Mode::SingleNodeWriter)],
        parameters: map(&[("pool", pool), ("provisioning", "thin")]),
        ..Default::default()
    };
    let source = csi.create_volume(thin("source", "p")).expect("a volume");
    // Of one that nobody was ever given, nothing is copied.
    rig.ok(&["volume", "mount", "source", &rig.text("dev")]);
    rig.ok(&["volume", "unmount", &rig.text("dev")]);
    let copy = CreateVolumeRequest {
        volume_content_source: from_volume(&source.volume_id),
        ..thin("copy", "q")
    };
    std::thread::scope(|scope| {
        let call = scope.spawn(|| csi.create_volume(copy.clone()));
        wait_for("the copy", || {
            let jobs = rig.ok(&["jobs"]);
            jobs.as_array()
                .is_some_and(|jobs| jobs.iter().any(|job| job["done"] != json!(0)))
        });
        let begun = Instant::now();
        support::tool("kill", &["-TERM", &rig.pid().to_string()]);
        let told = call.join().expect("the call returns");
        assert!(
            begun.elapsed() < SOON,
            "stopped after {:?}",
            begun.elapsed()
        );
        assert!(told.is_err(), "the copy cannot have ended");
    });
    let begun = Instant::now();
    rig.stop();
    assert!(
        begun.elapsed() < SOON,
        "stopped after {:?}",
        begun.elapsed()
    );
    rig.start();
    for name in ["copy", "source"] {
        rig.ok(&["volume", "delete", name]);
    }
    rig.assert_clean();
}

#[test]
fn six_hundred_copies_that_wait_hold_up_no_mount_and_end_when_deleted() {
    let mut rig = Rig::stopped(Storage::file(FsKind::Xfs));
    let Storage::File(fs) = &rig.storage else {
        unreachable!("made so")
    };
    let second = format!(
        "overprovision = 90.0\n[[pool]]\nname = \"q\"\nkind = \"file\"\npath = \"{}\"\n\
         overprovision = 90.0\n",
        fs.path().join("q").display()
    );
    configure(&rig, "overprovision = 4.0\n", &second);
    rig.start();
    let csi = Csi::new(&rig);
    let thin = |name: &str, pool: &str| CreateVolumeRequest {
        name: name.to_owned(),
        capacity_range: Some(range(1 << 30, 0)),
        volume_capabilities: vec![block(Mode::SingleNodeWriter)],
        parameters: map(&[("pool", pool), ("provisioning", "thin")]),
        ..Default::default()
    };
    let source = csi.create_volume(thin("source", "p")).expect("a volume");
    // Of one that nobody was ever given, nothing is copied.
    rig.ok(&["volume", "mount", "source", &rig.text("dev")]);
    rig.ok(&["volume", "unmount", &rig.text("dev")]);
    let other = csi.made("other");
    // A connection carries 200 calls at a time.
    let callers: Vec<Csi> = (0..4).map(|_| Csi::new(&rig)).collect();
    let ids = || -> Vec<String> {
        let listed = rig.ok(&["volume", "list"]);
        let copies = listed.as_array().into_iter().flatten();
        let copies = copies.filter(|v| v["pool"] == json!("q"));
        copies
            .map(|v| v["id"].as_str().expect("an id").to_owned())
            .collect()
    };
    std::thread::scope(|scope| {
        for n in 0..600 {
            let copy = CreateVolumeRequest {
                volume_content_source: from_volume(&source.volume_id),
                ..thin(&format!("copy-{n}"), "q")
            };
            let caller = &callers[n % callers.len()];
            // Given up by the caller, and no less under way.
            scope.spawn(move || caller.within(Duration::from_secs(2)).create_volume(copy));
        }
    });
    wait_for("600 copies", || ids().len() == 600);
    let waiting = || rig.ok(&["jobs"]).as_array().map_or(0, Vec::len);
    assert!(waiting() > 300, "{} copies wait", waiting());
    let (staging, target) = (rig.path("stage"), rig.path("target"));
    std::fs::create_dir(&staging).expect("a directory");
    let mount = || support::calls::mount("ext4", Mode::SingleNodeWriter);
    let begun = Instant::now();
    csi.stage(&other.volume_id, &staging, mount());
    csi.publish(&other.volume_id, &staging, &target, mount());
    csi.unpublish(&other.volume_id, &target)
        .expect("unpublished");
    csi.unstage(&other.volume_id, &staging).expect("unstaged");
    let took = begun.elapsed();
    assert!(waiting() > 300, "{} copies wait", waiting());
    std::thread::scope(|scope| {
        for (n, id) in ids().into_iter().enumerate() {
            let caller = &callers[n % callers.len()];
            scope.spawn(move || caller.delete(&id).expect("deleted"));
        }
    });
    assert_eq!(ids().len(), 0);
    for id in [&source.volume_id, &other.volume_id] {
        csi.delete(id).expect("deleted");
    }
    assert!(took < Duration::from_secs(9), "mounted in {took:?}");
    rig.assert_clean();
}

/// Words of the kind `stowage_…` in the documentation of metrics.
fn documented() -> BTreeSet<String> {
    let text = include_str!("../../../docs/parameters.md");
    let (_, section) = text.split_once("## Metrics").expect("a section on metrics");
    let words = section.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words
        .filter(|w| w.starts_with("stowage_"))
        .map(str::to_owned)
        .collect()
}

#[test]
fn the_daemon_tells_the_metrics_that_are_documented_and_no_others() {
    let mut rig = Rig::stopped(Storage::file(FsKind::Xfs));
    let port = rig.start_with_metrics();
    rig.ok(&["volume", "create", "v", "--size", "64Mi"]);
    let (status, body) = http(port, "/metrics");
    assert!(status.contains("200"), "{status}");
    assert!(body.ends_with("# EOF\n"), "{body}");
    let told: BTreeSet<String> = body
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
        .map(str::to_owned)
        .collect();
    // A file pool has no such metadata.
    let mut here = documented();
    assert!(here.remove("stowage_pool_metadata_percent"));
    assert_eq!(told, here, "{body}");
    for sample in [
        "stowage_pool_up{pool=\"p\",kind=\"file\"} 1",
        "stowage_pool_age_seconds{pool=\"p\",kind=\"file\"} 0",
        "stowage_pool_volumes{pool=\"p\",kind=\"file\"} 1",
        "stowage_findings{severity=\"error\"} 0",
        "stowage_jobs 0",
    ] {
        assert!(body.lines().any(|line| line == sample), "{sample}: {body}");
    }
    let size = body
        .lines()
        .find(|line| line.starts_with("stowage_volume_size_bytes{"));
    assert!(
        size.is_some_and(|line| line.contains("name=\"v\"") && line.ends_with(" 67108864")),
        "{body}"
    );
    assert_eq!(
        http(port, "/healthz"),
        ("HTTP/1.1 200 OK".to_owned(), "ok\n".to_owned())
    );
    assert!(http(port, "/else").0.contains("404"));
    rig.ok(&["volume", "delete", "v"]);
    rig.assert_clean();
}

#[test]
fn a_taken_port_is_told_and_used_when_it_is_free() {
    let mut rig = Rig::stopped(Storage::file(FsKind::Xfs));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("an address").port();
    configure(
        &rig,
        "metrics = \"off\"",
        &format!("metrics = \"127.0.0.1:{port}\""),
    );
    rig.start();
    rig.ok(&["volume", "create", "v", "--size", "64Mi"]);
    let told = || rig.run(&["doctor"]).stdout;
    assert!(told().contains(&format!("listen on 127.0.0.1:{port}")));
    drop(taken);
    wait_for("the port is used", || told().trim() == "[]");
    assert!(http(port, "/metrics").0.contains("200"));
    rig.ok(&["volume", "delete", "v"]);
    rig.assert_clean();
}

#[test]
fn a_socket_that_cannot_be_bound_is_told_and_bound_when_it_can_be() {
    let mut rig = Rig::stopped(Storage::file(FsKind::Xfs));
    // Its directory's name is taken.
    std::fs::write(rig.path("sockets"), "in the way").expect("a writable directory");
    configure(&rig, "/csi.sock", "/sockets/csi.sock");
    rig.start();
    rig.ok(&["volume", "create", "v", "--size", "64Mi"]);
    let told = || rig.run(&["doctor"]).stdout;
    let path = rig.text("sockets/csi.sock");
    assert!(told().contains(&format!("failed to listen at {path}")));
    std::fs::remove_file(rig.path("sockets")).expect("ours");
    wait_for("the socket is bound", || told().trim() == "[]");
    std::os::unix::net::UnixStream::connect(&path).expect("somebody listens");
    rig.ok(&["volume", "delete", "v"]);
    rig.assert_clean();
    // What only a person can mend ends the start.
    rig.stop();
    std::fs::write(&path, "no socket").expect("a writable directory");
    assert!(!rig.try_start());
    assert!(rig.log().contains("is no socket"), "{}", rig.log());
}

#[test]
fn an_orchestrator_that_asks_for_less_is_told_what_there_is() {
    let rig = Rig::new(Storage::file(FsKind::Xfs));
    let csi = Csi::new(&rig);
    let made = csi.made("v");
    let asked = ControllerExpandVolumeRequest {
        volume_id: made.volume_id.clone(),
        capacity_range: Some(range(16 << 20, 0)),
        ..Default::default()
    };
    let (size, _) = csi
        .controller_expand_volume(asked)
        .expect("large enough already");
    assert_eq!(size, 64 << 20);
    rig.run(&["volume", "grow", "v", "16Mi"])
        .fails_with(&["64Mi already", "never shrink"]);
    csi.delete(&made.volume_id).expect("deleted");
    rig.assert_clean();
}

#[test]
fn a_deletion_that_is_waited_for_leaves_no_work() {
    let rig = Rig::new(Storage::file(FsKind::Xfs));
    rig.ok(&["volume", "create", "v", "--size", "64Mi"]);
    rig.ok(&["volume", "delete", "v", "--wait"]);
    assert_eq!(rig.ok(&["jobs"]), json!([]));
    assert_eq!(rig.ok(&["jobs", "--watch"]), json!([]));
    rig.assert_clean();
}

#[test]
fn the_store_of_a_snapshot_is_asked_for_at_the_command_line() {
    let rig = Rig::new(Storage::file(FsKind::Xfs));
    rig.ok(&["volume", "create", "v", "--size", "64Mi", "--fs", "xfs"]);
    let cut = |more: &[&str]| rig.run(&[&["snapshot", "create", "v", "s"], more].concat());
    cut(&["--initial-size", "1Mi"]).fails_with(&["snapshotInitialSize", "at least 4Mi"]);
    cut(&["--grow-at", "99%"]).fails_with(&["snapshotExpansionThreshold", "95%"]);
    cut(&["--grow-by", "0"]).fails_with(&["snapshotExpansionSize", "at least 4Mi"]);
    cut(&[
        "--initial-size",
        "8Mi",
        "--grow-at",
        "70%",
        "--grow-by",
        "4Mi",
    ])
    .ok();
    rig.ok(&["snapshot", "delete", "s"]);
    rig.ok(&["volume", "delete", "v"]);
    rig.assert_clean();
}

/// Of the bench itself: a daemon that hears nothing must fail its test, not hold it for ever.
#[allow(clippy::disallowed_methods, reason = "a program that is no command")]
#[test]
fn a_program_that_does_not_end_is_killed_and_told() {
    let deaf = Command::new("sh")
        .args(["-c", "trap '' TERM; echo why; exec sleep 600"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("a shell");
    let pid = deaf.id();
    let told = std::panic::catch_unwind(|| {
        ends_within(Duration::from_secs(1), deaf, || "its log".to_owned());
    });
    let told = told.expect_err("it does not end");
    let told = told.downcast_ref::<String>().expect("a text");
    assert!(told.contains("why") && told.contains("its log"), "{told}");
    assert!(!Path::new("/proc").join(pid.to_string()).exists());
}
