//! A volume's whole life on a file pool, by the command line.

mod support;

use serde_json::json;
use stowage_testkit::disk::FsKind;
use support::{Rig, Storage, get, put};

#[test]
fn a_volume_is_made_used_and_gone() {
    let rig = Rig::new(Storage::file(FsKind::Xfs));
    let made = rig.ok(&["volume", "create", "data", "--size", "256Mi"]);
    assert_eq!(made["size"], json!(256 << 20));
    rig.ok(&["volume", "mount", "data", &rig.text("m")]);
    put(&rig.path("m/file"), "kept");
    rig.ok(&["volume", "unmount", &rig.text("m")]);
    assert!(!rig.path("m").exists(), "the target goes with the mount");
    rig.ok(&["volume", "mount", "data", &rig.text("m")]);
    assert_eq!(get(&rig.path("m/file")), "kept");
    rig.run(&["volume", "delete", "data"])
        .fails_with(&["in use", &rig.text("m")]);
    rig.ok(&["volume", "unmount", &rig.text("m")]);
    rig.ok(&["volume", "delete", "data"]);
    rig.assert_clean();
}

#[test]
fn a_mount_that_is_shared_ends_with_the_last_of_its_holders() {
    let rig = Rig::new(Storage::file(FsKind::Xfs));
    rig.ok(&["volume", "create", "data", "--size", "64Mi"]);
    let at = rig.text("m");
    let mount = ["volume", "mount", "data", &at];
    let hold = |holder| rig.ok(&[&mount[..], &["--holder", holder]].concat());
    let end = |holder| rig.run(&["volume", "unmount", &at, "--holder", holder]);
    hold("a");
    put(&rig.path("m/file"), "kept");
    hold("b");
    let shown = hold("b");
    let held = json!([
        {"target": &at, "holder": "a", "times": 1},
        {"target": &at, "holder": "b", "times": 2},
    ]);
    assert_eq!(shown["holders"], held);
    // Whoever is none of them ends nothing, and cannot join without saying who it is.
    end("c").ok();
    rig.run(&["volume", "unmount", &at])
        .fails_with(&["held at", "a, b (2 times)"]);
    rig.run(&mount).fails_with(&["mounted at", "by holders"]);
    let read_only = [&mount[..], &["--holder", "c", "--read-only"]].concat();
    rig.run(&read_only).fails_with(&["in another way"]);
    assert_eq!(rig.ok(&["volume", "show", "data"])["holders"], held);
    for holder in ["a", "b"] {
        end(holder).ok();
        assert_eq!(get(&rig.path("m/file")), "kept");
    }
    end("a").ok();
    rig.run(&["volume", "delete", "data"])
        .fails_with(&["in use"]);
    end("b").ok();
    assert!(!rig.path("m").exists(), "the target goes with the mount");
    // One that is not shared has no holders, nor takes any.
    rig.ok(&mount);
    rig.run(&[&mount[..], &["--holder", "a"]].concat())
        .fails_with(&["without a holder"]);
    for bad in ["", "a b", "ü"] {
        rig.run(&[&mount[..], &["--holder", bad]].concat())
            .fails_with(&["holder"]);
    }
    rig.ok(&["volume", "unmount", &at]);
    rig.ok(&["volume", "delete", "data"]);
    rig.assert_clean();
}

#[test]
fn holders_outlive_the_daemon() {
    let mut rig = Rig::new(Storage::file(FsKind::Xfs));
    rig.ok(&["volume", "create", "data", "--size", "64Mi"]);
    let at = rig.text("m");
    for holder in ["a", "b"] {
        rig.ok(&["volume", "mount", "data", &at, "--holder", holder]);
    }
    rig.kill();
    rig.start();
    rig.ok(&["volume", "unmount", &at, "--holder", "a"]);
    rig.run(&["volume", "delete", "data"])
        .fails_with(&["in use"]);
    rig.kill();
    // Somebody unmounts it meanwhile: nobody holds what is not mounted.
    support::tool("umount", &[&at]);
    rig.start();
    assert_eq!(rig.ok(&["volume", "show", "data"])["holders"], json!(null));
    rig.ok(&["volume", "delete", "data"]);
    rig.assert_clean();
}
