//! The daemon killed at every step that is particular to thick logical volumes; what is common to
//! all pools dies on files, where it takes less time (`host_crash`). See `support/crash.rs`.

mod support;

#[path = "support/crash.rs"]
mod crash;
#[path = "support/scenarios.rs"]
mod scenarios;

use crash::{Depth, Report};
use support::{Rig, Storage, output, put, tool};

#[test]
fn a_kill_at_any_step_on_thick_volumes_loses_and_leaves_nothing() {
    let mut report = Report::new(Depth::New);
    let rig = || Rig::stopped(Storage::lvm(false));
    report.run(rig, &scenarios::on_thick());
    let unwiped = || {
        let rig = rig();
        rig.configure("wipe = \"none\"\n");
        rig
    };
    report.run(unwiped, &[scenarios::unwiped()]);
    report.assert_good();
    report.assert_covers(&["lvm."], &[]);
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
    // One that has grown before anybody mounted it ends somewhere else.
    rig.ok(&["volume", "create", "w", "--size", "16Mi"]);
    rig.ok(&["volume", "grow", "w", "32Mi"]);
    rig.ok(&["volume", "mount", "w", &rig.text("n")]);
    for (name, at) in [("v", "m"), ("w", "n")] {
        rig.ok(&["volume", "unmount", &rig.text(at)]);
        rig.ok(&["volume", "delete", name]);
    }
    rig.assert_clean();
}
