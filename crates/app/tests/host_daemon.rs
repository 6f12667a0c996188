//! The daemon as a process: how it stops, and what it tells about itself.

mod support;

use std::time::{Duration, Instant};

use serde_json::json;
use stowage_testkit::disk::FsKind;
use support::calls::{Csi, Mode, block, from_volume, map, range};
use support::{Rig, Storage};

use stowage_csi::proto::CreateVolumeRequest;

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
