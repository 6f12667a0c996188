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
