//! The daemon killed at every step of every operation, on logical volumes, thick and thin. See
//! `support/crash.rs`.

mod support;

#[path = "support/crash.rs"]
mod crash;
#[path = "support/scenarios.rs"]
mod scenarios;

use crash::{Depth, Report};
use support::{Rig, Storage, output, put, tool};

#[test]
fn a_kill_at_any_step_on_thick_volumes_loses_and_leaves_nothing() {
    let mut report = Report::new(Depth::Once(&["lvm.", "node."]));
    let rig = || Rig::stopped(Storage::lvm(false));
    report.run(rig, &scenarios::common());
    report.run(rig, &scenarios::readers());
    report.assert_good();
    report.assert_covers(&["lvm.", "node.create.", "node.fill."], &[]);
}

#[test]
fn a_kill_at_any_step_on_thin_volumes_loses_and_leaves_nothing() {
    // What the steps above the pool do is the same on thick volumes.
    let mut report = Report::new(Depth::Once(&["thin.", "node.clone.", "node.group."]));
    let rig = || Rig::stopped(Storage::lvm(true));
    report.run(rig, &scenarios::particular_to_pools());
    report.assert_good();
    report.assert_covers(&["thin."], &[]);
}

/// A volume group that was used before: its free extents hold whatever was there.
#[test]
fn a_volume_on_extents_that_others_used_is_blank() {
    let rig = Rig::new(Storage::lvm(false));
    let name = output("vgs", &["--noheadings", "-o", "vg_name"]);
    let vg = name.trim();
    // On the extents that the volume gets next, and more.
    tool("lvcreate", &["-y", "-q", "-L", "64m", "-n", "old", vg]);
    let old = std::fs::File::options()
        .write(true)
        .open(format!("/dev/{vg}/old"));
    let mut old = old.expect("a device");
    std::io::Write::write_all(&mut old, &vec![0xAA; 64 << 20]).expect("writable");
    old.sync_all().expect("a disk");
    drop(old);
    tool("lvremove", &["-y", "-q", &format!("{vg}/old")]);
    rig.ok(&["volume", "create", "v", "--size", "32Mi"]);
    rig.ok(&["volume", "mount", "v", &rig.text("m")]);
    put(&rig.path("m/file"), "kept");
    rig.ok(&["volume", "unmount", &rig.text("m")]);
    rig.ok(&["volume", "delete", "v"]);
    rig.assert_clean();
}
