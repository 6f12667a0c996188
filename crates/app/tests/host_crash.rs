//! The daemon killed at every step of every operation, on file pools. See `support/crash.rs`.

mod support;

#[path = "support/crash.rs"]
mod crash;
#[path = "support/scenarios.rs"]
mod scenarios;

use std::io::Write;

use crash::{Depth, Report};
use stowage_testkit::disk::FsKind;
use support::{Rig, Storage};

/// Points that no operation on a file pool passes.
const NOT_ON_FILES: &[(&str, &str)] = &[(
    "node.create.noted",
    "files are never made half; guest_crash dies there",
)];

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
    let config = std::fs::File::options()
        .append(true)
        .open(rig.path("stowage.toml"));
    config
        .and_then(|mut f| f.write_all(q.as_bytes()))
        .expect("writable");
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
