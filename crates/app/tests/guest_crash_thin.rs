//! The daemon killed at every step that is particular to thin volumes and to the making of pools;
//! what is common to all pools dies on files, where it takes less time (`host_crash`). See
//! `support/crash.rs`.

mod support;

#[path = "support/crash.rs"]
mod crash;
#[path = "support/scenarios.rs"]
mod scenarios;

use crash::{Depth, Report};
use support::{Rig, Storage, output, tool};

#[test]
fn a_kill_at_any_step_on_thin_volumes_loses_and_leaves_nothing() {
    let mut report = Report::new(Depth::New);
    let rig = || Rig::stopped(Storage::lvm(true));
    report.run(rig, &scenarios::on_thin());
    report.assert_good();
    report.assert_covers(
        &["thin."],
        &["thin.make.begin", "thin.make.made", "thin.extend.begin"]
            .map(|p| (p, "the test below dies there")),
    );
}

/// A thin pool on one disk with something on it, then on two; asked for again after each death.
#[test]
fn a_kill_while_a_pool_is_made_is_mended_by_asking_again() {
    let Storage::Lvm { vg, disks } = &Storage::lvm(false) else {
        unreachable!("asked for above")
    };
    // One disk for the rig's own pool, two for those to be made.
    tool("vgremove", &["-y", vg]);
    let shown: Vec<String> = disks.iter().map(|d| d.display().to_string()).collect();
    let [own, first, second] = shown.as_slice() else {
        panic!("three disks, not {shown:?}")
    };
    tool("pvremove", &["-y", first, second]);
    tool("vgcreate", &["-y", vg, own]);
    let mut rig = Rig::stopped(Storage::Lvm {
        vg: vg.clone(),
        disks: vec![own.into()],
    });
    let create = [
        "pool", "create", "q", "--kind", "thin", "--vg", "vgq", "--disk", first, "--force",
    ];
    // By force too: what LVM wrote there before is still on it.
    let extend = ["pool", "extend", "q", second, "--force"];
    let mut passed = Vec::new();
    let mut points: Vec<String> = vec![String::new()];
    let mut next = 0;
    while let Some(point) = points.get(next).cloned() {
        tool("mkfs.ext4", &["-q", "-F", first]);
        match point.as_str() {
            "" => rig.watch_points(),
            _ => rig.die_at(&point),
        }
        rig.start();
        let answers = [&create[..], &extend[..]].map(|args| rig.run(args).stderr);
        let went = answers.iter().all(String::is_empty);
        assert_eq!(went, point.is_empty(), "{point:?}: {answers:?}");
        if point.is_empty() {
            passed = crash::counted(rig.points());
            let hits = |(point, hits): &(String, usize)| {
                let point = point.clone();
                (1..=2.min(*hits)).map(move |nth| format!("{point}#{nth}"))
            };
            points.extend(passed.iter().flat_map(hits));
            rig.kill();
        } else {
            assert!(rig.died(), "alive at {point}");
        }
        rig.start();
        let made = rig.ok(&["pool", "list"]).to_string().contains("\"q\"");
        if !made {
            rig.ok(&create);
        }
        rig.ok(&extend);
        rig.ok(&["volume", "create", "v", "--pool", "q", "--size", "32Mi"]);
        rig.ok(&["volume", "delete", "v"]);
        rig.settle();
        let lvs = output("lvs", &["--noheadings", "-o", "lv_name", "vgq"]);
        assert_eq!(lvs.trim(), "thinpool", "after dying at {point}");
        assert_eq!(rig.ok(&["doctor"]), serde_json::json!([]));
        // Pools are taken apart by hand.
        rig.stop();
        tool("vgremove", &["-y", "-f", "vgq"]);
        tool("pvremove", &["-y", first, second]);
        for name in ["q.json", "q.seen"] {
            let _ = std::fs::remove_file(rig.path("state/pools").join(name));
        }
        println!("crash: pool: after dying at {point:?}: well");
        next += 1;
    }
    let source = crash::points_in_the_source();
    let missed: Vec<_> = source
        .iter()
        .filter(|p| {
            ["vg.", "thin.make.", "thin.extend."]
                .iter()
                .any(|q| p.starts_with(q))
        })
        .filter(|p| !passed.iter().any(|(point, _)| point == *p))
        .collect();
    assert!(missed.is_empty(), "nobody died at {missed:?}");
}
