//! The daemon killed at every step of every operation, on logical volumes, thick and thin. See
//! `support/crash.rs`.

mod support;

#[path = "support/crash.rs"]
mod crash;
#[path = "support/scenarios.rs"]
mod scenarios;

use crash::{Depth, Report};
use support::{Rig, Storage};

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
