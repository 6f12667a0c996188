//! The operations that are killed at every step, the same on every kind of pool.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test program uses a part of it"
)]

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;
use stowage_csi::proto::{
    CreateSnapshotRequest, CreateVolumeGroupSnapshotRequest, DeleteVolumeGroupSnapshotRequest,
};

use crate::crash::{Outcome, Place, Scenario, nothing};
use crate::support::calls::{self, Mode, Status, block};
use crate::support::{get, is_file, output, put};

const MIB: u64 = 1 << 20;

/// Large enough for every file system but xfs and btrfs, small enough to be wiped quickly.
const SIZE: &str = "32Mi";
const LARGER: &str = "48Mi";

/// All that work on every pool.
pub fn common() -> Vec<Scenario> {
    vec![
        create(),
        delete(),
        snapshot(),
        snapshot_delete(),
        restore(),
        clone_in_use(),
        clone_larger(),
        grow(),
        grow_in_use(),
        grow_at_mount(),
        grow_at_stage(),
        limit(),
        first_mount(),
        mount(),
        unmount(),
        hold(),
        hold_beside(),
        let_go(),
        let_go_last(),
        block_publish(),
        block_unpublish(),
        twin_publish(),
        csi_stage(),
        csi_unpublish(),
        group(),
        group_delete(),
        inline_publish(),
        inline_abandoned(),
        inline_unpublish(),
    ]
}

/// Those in which a thin pool does something of its own.
pub fn on_thin() -> Vec<Scenario> {
    vec![
        create(),
        delete(),
        snapshot(),
        restore(),
        clone_larger(),
        grow(),
        group(),
    ]
}

/// Those in which thick volumes do; a large volume takes long to wipe, so no xfs.
pub fn on_thick() -> Vec<Scenario> {
    let mut all = vec![
        create(),
        delete(),
        snapshot(),
        snapshot_delete(),
        clone_in_use(),
        grow(),
        grow_blank(),
        grow_in_use(),
        grow_held(),
        first_mount(),
        csi_stage(),
        inline_abandoned(),
    ];
    all.extend(readers());
    all.extend(stores());
    // Last: it passes most points, and takes the longest to put right after each.
    all.push(group());
    all
}

/// A scenario whose retry is the operation itself.
fn again(
    name: &'static str,
    setup: fn(&Place<'_>),
    operate: fn(&Place<'_>) -> Outcome,
    verify: fn(&Place<'_>),
    clean: fn(&Place<'_>),
) -> Scenario {
    Scenario {
        name,
        setup,
        operate,
        between: nothing,
        retry: operate,
        verify,
        clean,
    }
}

fn create() -> Scenario {
    again(
        "create",
        nothing,
        |p| p.ask(&["volume", "create", &p.name(""), "--size", SIZE]),
        |p| {
            assert_eq!(p.single("volume", "")["size"], json!(32 * MIB));
            p.filled("", "ext4", SIZE);
            p.unmount("");
        },
        |p| p.delete(""),
    )
}

fn delete() -> Scenario {
    again(
        "delete",
        |p| p.laid_down("", "ext4", SIZE),
        |p| gone(p.ask(&["volume", "delete", &p.name("")])),
        |p| assert_eq!(p.listed("volume", ""), Vec::<serde_json::Value>::new()),
        nothing,
    )
}

/// Asked to remove what is not there: as good as removed.
fn gone(outcome: Outcome) -> Outcome {
    match outcome {
        Err(said) if said.contains("there is no") || said.contains("no volume is mounted") => {
            Ok(())
        }
        other => other,
    }
}

fn snapshot() -> Scenario {
    Scenario {
        // Before anybody asks again a writer must get on: nothing may have been left frozen.
        between: |p| p.write("", "between"),
        ..again(
            "snapshot",
            |p| p.filled("", "ext4", SIZE),
            |p| p.ask(&["snapshot", "create", &p.name(""), &p.name("s")]),
            |p| {
                p.later("");
                p.single("snapshot", "s");
                p.ok(&["snapshot", "restore", &p.name("s"), &p.name("r")]);
                p.of_the_moment("r");
                p.intact("", true);
            },
            |p| {
                // A thick snapshot needs its origin's blocks, so it goes first.
                p.unmount("");
                p.delete("r");
                p.ok(&["snapshot", "delete", &p.name("s")]);
                p.delete("");
            },
        )
    }
}

fn snapshot_delete() -> Scenario {
    again(
        "snapshot-delete",
        |p| {
            p.filled("", "ext4", SIZE);
            p.ok(&["snapshot", "create", &p.name(""), &p.name("s")]);
            p.later("");
        },
        |p| gone(p.ask(&["snapshot", "delete", &p.name("s")])),
        |p| {
            assert!(p.listed("snapshot", "s").is_empty());
            p.intact("", true);
            assert_eq!(get(&p.path(".m/later")), "later");
        },
        |p| {
            p.unmount("");
            p.delete("");
        },
    )
}

fn restore() -> Scenario {
    again(
        "restore",
        |p| {
            p.filled("", "ext4", SIZE);
            p.ok(&["snapshot", "create", &p.name(""), &p.name("s")]);
            p.later("");
        },
        |p| p.ask(&["snapshot", "restore", &p.name("s"), &p.name("r")]),
        |p| {
            p.of_the_moment("r");
            p.intact("", true);
        },
        |p| {
            p.unmount("");
            p.delete("r");
            p.ok(&["snapshot", "delete", &p.name("s")]);
            p.delete("");
        },
    )
}

fn clone_in_use() -> Scenario {
    again(
        "clone",
        |p| p.filled("", "ext4", SIZE),
        |p| p.ask(&["volume", "clone", &p.name(""), &p.name("c")]),
        |p| {
            p.later("");
            p.of_the_moment("c");
            p.intact("c", false);
            p.intact("", true);
        },
        |p| {
            p.unmount("");
            p.delete("c");
            p.delete("");
        },
    )
}

fn clone_larger() -> Scenario {
    again(
        "clone-larger",
        |p| p.laid_down("", "ext4", SIZE),
        |p| {
            let (from, to) = (p.name(""), p.name("c"));
            p.ask(&["volume", "clone", &from, &to, "--size", LARGER])
        },
        |p| {
            assert_eq!(p.single("volume", "c")["size"], json!(48 * MIB));
            p.mount("c");
            assert!(room(&p.path("c.m")) > 40 * MIB, "the file system grows too");
            p.unmount("c");
            p.of_the_moment("c");
            p.intact("", false);
        },
        |p| {
            p.delete("c");
            p.delete("");
        },
    )
}

fn grow() -> Scenario {
    again(
        "grow",
        |p| p.laid_down("", "ext4", SIZE),
        |p| p.ask(&["volume", "grow", &p.name(""), LARGER]),
        |p| {
            assert_eq!(p.single("volume", "")["size"], json!(48 * MIB));
            p.mount("");
            assert!(room(&p.path(".m")) > 40 * MIB);
            p.intact("", true);
            p.unmount("");
        },
        |p| p.delete(""),
    )
}

/// Before anything was on it: what it grew by must be as blank as the rest.
fn grow_blank() -> Scenario {
    again(
        "grow-blank",
        |p| p.create("", "ext4", SIZE),
        |p| p.ask(&["volume", "grow", &p.name(""), LARGER]),
        |p| {
            assert_eq!(p.single("volume", "")["size"], json!(48 * MIB));
            p.mount("");
            assert!(room(&p.path(".m")) > 40 * MIB);
            p.unmount("");
        },
        |p| p.delete(""),
    )
}

/// LVM grows a volume that snapshots hold on to only while it is inactive.
fn grow_held() -> Scenario {
    again(
        "grow-held",
        |p| {
            // Cut in use: its snapshot keeps it active when it is unmounted.
            p.filled("", "ext4", SIZE);
            p.ok(&["snapshot", "create", &p.name(""), &p.name("s")]);
            p.unmount("");
        },
        |p| p.ask(&["volume", "grow", &p.name(""), LARGER]),
        |p| {
            assert_eq!(p.single("volume", "")["size"], json!(48 * MIB));
            p.mount("");
            assert!(room(&p.path(".m")) > 40 * MIB);
            p.intact("", true);
            p.later("");
            p.ok(&["snapshot", "restore", &p.name("s"), &p.name("r")]);
            p.of_the_moment("r");
            p.unmount("");
        },
        |p| {
            p.delete("r");
            p.ok(&["snapshot", "delete", &p.name("s")]);
            p.delete("");
        },
    )
}

/// In a pool that does not wipe what is removed.
pub fn unwiped() -> Scenario {
    Scenario {
        name: "delete-unwiped",
        ..delete()
    }
}

/// The online growth of ext4 needs CAP_SYS_RESOURCE in the first user namespace, which root in a
/// container lacks; a guest's root has it, and there the smaller volume is the quicker one.
fn growable(p: &Place<'_>) -> (&'static str, &'static str, &'static str, u64) {
    match is_file(&p.rig.storage) {
        true => ("xfs", "320Mi", "352Mi", 352 * MIB),
        false => ("ext4", SIZE, LARGER, 48 * MIB),
    }
}

fn grow_in_use() -> Scenario {
    again(
        "grow-in-use",
        |p| {
            let (fs, size, ..) = growable(p);
            p.filled("", fs, size);
        },
        |p| p.ask(&["volume", "grow", &p.name(""), growable(p).2]),
        |p| {
            let bytes = growable(p).3;
            assert_eq!(p.single("volume", "")["size"], json!(bytes));
            // An eighth and more goes to logs and tables.
            assert!(room(&p.path(".m")) > bytes / 8 * 6, "not grown");
            p.intact("", true);
        },
        |p| {
            p.unmount("");
            p.delete("");
        },
    )
}

/// Grown while unmounted: xfs can only be grown once it is mounted.
fn grow_at_mount() -> Scenario {
    again(
        "grow-at-mount",
        |p| {
            p.laid_down("", "xfs", "320Mi");
            p.ok(&["volume", "grow", &p.name(""), "352Mi"]);
        },
        |p| p.ask(&["volume", "mount", &p.name(""), &p.text(".m")]),
        |p| {
            grown(&p.path(".m"));
            p.intact("", true);
        },
        |p| {
            p.unmount("");
            p.delete("");
        },
    )
}

/// The same at a staging path of the caller's own, which nobody unmounts at the start.
fn grow_at_stage() -> Scenario {
    again(
        "grow-at-stage",
        |p| {
            p.laid_down("", "xfs", "320Mi");
            p.ok(&["volume", "grow", &p.name(""), "352Mi"]);
            remember(p, "");
        },
        |p| publish(p, "", "xfs"),
        |p| {
            grown(&p.path(".t"));
            assert_eq!(get(&p.path(".t/kept")), "kept");
        },
        |p| {
            unpublish(p, "").expect("unpublished");
            p.delete("");
        },
    )
}

/// An xfs of 320 MiB was grown to 352: a part goes to the log.
#[track_caller]
fn grown(at: &Path) {
    let room = room(at);
    assert!(room > 270 * MIB, "{room} bytes: not grown");
}

fn limit() -> Scenario {
    again(
        "limit",
        |p| p.filled("", "ext4", SIZE),
        |p| p.ask(&["volume", "limit", &p.name(""), "bps=1Mi", "riops=77"]),
        |p| {
            let limits = &p.single("volume", "")["limits"];
            assert_eq!(limits["read-bps"], json!(MIB), "{limits}");
            assert_eq!(limits["write-bps"], json!(MIB), "{limits}");
            assert_eq!(limits["read-iops"], json!(77), "{limits}");
            p.intact("", true);
        },
        |p| {
            p.unmount("");
            p.delete("");
        },
    )
}

/// The mount that makes the file system.
fn first_mount() -> Scenario {
    again(
        "first-mount",
        |p| p.create("", "ext4", SIZE),
        |p| p.ask(&["volume", "mount", &p.name(""), &p.text(".m")]),
        |p| {
            assert_eq!(p.mounts(&p.path(".m")), 1);
            put(&p.path(".m/kept"), "kept");
            p.intact("", true);
            p.unmount("");
            p.intact("", false);
        },
        |p| p.delete(""),
    )
}

fn mount() -> Scenario {
    again(
        "mount",
        |p| p.laid_down("", "ext4", SIZE),
        |p| p.ask(&["volume", "mount", &p.name(""), &p.text(".m")]),
        |p| {
            assert_eq!(p.mounts(&p.path(".m")), 1);
            p.intact("", true);
        },
        |p| {
            p.unmount("");
            p.delete("");
        },
    )
}

fn unmount() -> Scenario {
    again(
        "unmount",
        |p| p.filled("", "ext4", SIZE),
        |p| gone(p.ask(&["volume", "unmount", &p.text(".m")])),
        |p| {
            assert!(!p.path(".m").exists(), "the target goes with the mount");
            assert_eq!(p.single("volume", "")["used-at"], json!([]));
            p.intact("", false);
        },
        |p| p.delete(""),
    )
}

/// Mount for this holder, at the path of [`Place::mount`].
fn held(p: &Place<'_>, holder: &str) -> Outcome {
    let (name, at) = (p.name(""), p.text(".m"));
    p.ask(&["volume", "mount", &name, &at, "--holder", holder])
}

fn given_back(p: &Place<'_>, holder: &str) -> Outcome {
    gone(p.ask(&["volume", "unmount", &p.text(".m"), "--holder", holder]))
}

/// How many times this holder holds the mount.
fn times(p: &Place<'_>, holder: &str) -> u64 {
    let shown = p.ok(&["volume", "show", &p.name("")]);
    let holders = shown["holders"].as_array().cloned().unwrap_or_default();
    let own = holders.iter().filter(|held| held["holder"] == holder);
    own.map(|held| held["times"].as_u64().expect("a number"))
        .sum()
}

/// The first of those who share a mount.
fn hold() -> Scenario {
    again(
        "hold",
        |p| p.laid_down("", "ext4", SIZE),
        |p| held(p, "a"),
        |p| {
            p.intact("", true);
            // Of a call that was not answered nobody knows whether it counts.
            let times = times(p, "a");
            assert!((1..=2).contains(&times), "{times}");
            for _ in 0..times {
                assert_eq!(p.mounts(&p.path(".m")), 1);
                given_back(p, "a").expect("given back");
            }
            assert_eq!(p.mounts(&p.path(".m")), 0);
        },
        |p| p.delete(""),
    )
}

/// Another one at a mount that is held.
fn hold_beside() -> Scenario {
    again(
        "hold-beside",
        |p| {
            p.laid_down("", "ext4", SIZE);
            held(p, "a").expect("held");
        },
        |p| held(p, "b"),
        |p| {
            assert_eq!(times(p, "a"), 1);
            given_back(p, "a").expect("given back");
            p.intact("", true);
            for _ in 0..times(p, "b") {
                assert_eq!(p.mounts(&p.path(".m")), 1);
                given_back(p, "b").expect("given back");
            }
            assert_eq!(p.mounts(&p.path(".m")), 0);
        },
        |p| p.delete(""),
    )
}

/// One of two gives the mount back.
fn let_go() -> Scenario {
    Scenario {
        between: |p| p.write("", "between"),
        ..again(
            "let-go",
            |p| {
                p.laid_down("", "ext4", SIZE);
                held(p, "a").expect("held");
                held(p, "b").expect("held");
            },
            |p| given_back(p, "a"),
            |p| {
                assert_eq!((times(p, "a"), times(p, "b")), (0, 1));
                p.intact("", true);
            },
            |p| {
                given_back(p, "b").expect("given back");
                assert_eq!(p.mounts(&p.path(".m")), 0);
                p.delete("");
            },
        )
    }
}

/// The last one does, and the mount ends.
fn let_go_last() -> Scenario {
    again(
        "let-go-last",
        |p| {
            p.laid_down("", "ext4", SIZE);
            held(p, "a").expect("held");
        },
        |p| given_back(p, "a"),
        |p| {
            assert_eq!(times(p, "a"), 0);
            assert!(!p.path(".m").exists(), "the target goes with the mount");
            p.intact("", false);
        },
        |p| p.delete(""),
    )
}

fn said(status: Status) -> String {
    format!("{:?}: {}", status.code(), status.message())
}

const MODE: Mode = Mode::SingleNodeMultiWriter;

/// Stage a block volume and publish it, writable and read-only.
fn publish_block(p: &Place<'_>) -> Outcome {
    let (id, staging, csi) = (p.noted_id(""), p.path(".stage"), p.csi());
    let stage = calls::staging_of(&id, &staging, block(MODE));
    csi.node_stage_volume(stage).map_err(said)?;
    for (target, readonly) in [(".dev", false), (".ro", true)] {
        let mut publish = calls::publishing(&id, &staging, &p.path(target), block(MODE));
        publish.readonly = readonly;
        csi.node_publish_volume(publish).map_err(said)?;
    }
    Ok(())
}

fn unpublish_block(p: &Place<'_>) -> Outcome {
    let (id, csi) = (p.noted_id(""), p.csi());
    for target in [".ro", ".dev"] {
        csi.unpublish(&id, &p.path(target)).map_err(said)?;
    }
    csi.unstage(&id, &p.path(".stage")).map_err(said)
}

fn make_block(p: &Place<'_>) {
    let name = p.name("");
    p.ok(&["volume", "create", &name, "--block", "--size", SIZE]);
    remember(p, "");
}

/// Ids outlive the daemon in whoever made the volumes.
fn remember(p: &Place<'_>, suffix: &str) {
    put(&p.path(&format!("{suffix}.id")), &p.id(suffix));
}

impl Place<'_> {
    /// The id noted when the volume was made; the daemon may be dead when it is needed.
    fn noted_id(&self, suffix: &str) -> String {
        get(&self.path(&format!("{suffix}.id")))
    }
}

/// Bytes on the device by direct reading: the first few.
fn first_bytes(device: &Path) -> Vec<u8> {
    use std::io::Read;
    let mut bytes = vec![0; 8];
    let mut file = std::fs::File::open(device).expect("a device");
    file.read_exact(&mut bytes).expect("readable");
    bytes
}

fn write_first_bytes(device: &Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::io::Write;
    let mut file = std::fs::File::options().write(true).open(device)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn block_publish() -> Scenario {
    again(
        "block-publish",
        make_block,
        publish_block,
        |p| {
            assert_eq!(p.mounts(&p.path(".dev")), 1);
            assert_eq!(p.mounts(&p.path(".ro")), 1);
            write_first_bytes(&p.path(".dev"), b"kept it!").expect("writable");
            assert_eq!(first_bytes(&p.path(".ro")), b"kept it!");
            assert!(write_first_bytes(&p.path(".ro"), b"spoiled!").is_err());
        },
        |p| {
            unpublish_block(p).expect("unpublished");
            p.delete("");
        },
    )
}

fn block_unpublish() -> Scenario {
    again(
        "block-unpublish",
        |p| {
            make_block(p);
            publish_block(p).expect("published");
            write_first_bytes(&p.path(".dev"), b"kept it!").expect("writable");
        },
        unpublish_block,
        |p| {
            assert!(!p.path(".dev").exists() && !p.path(".ro").exists());
            publish_block(p).expect("published again");
            assert_eq!(first_bytes(&p.path(".dev")), b"kept it!");
            unpublish_block(p).expect("unpublished");
        },
        |p| p.delete(""),
    )
}

/// A copy of a btrfs volume must get a UUID of its own before it is mounted.
fn twin_publish() -> Scenario {
    again(
        "twin-publish",
        |p| {
            p.filled("", "btrfs", "128Mi");
            p.ok(&["volume", "clone", &p.name(""), &p.name("c")]);
            remember(p, "c");
        },
        |p| publish(p, "c", "btrfs"),
        |p| {
            assert_eq!(get(&p.path("c.t/kept")), "kept");
            assert_eq!(p.mounts(&p.path("c.t")), 1);
            p.intact("", true);
        },
        |p| {
            unpublish(p, "c").expect("unpublished");
            p.delete("c");
            p.unmount("");
            p.delete("");
        },
    )
}

fn publish(p: &Place<'_>, suffix: &str, fs: &str) -> Outcome {
    let (id, staging) = (p.noted_id(suffix), p.path(&format!("{suffix}.stage")));
    // As the kubelet does.
    std::fs::create_dir_all(&staging).expect("a writable directory");
    let (target, csi) = (p.path(&format!("{suffix}.t")), p.csi());
    let capability = calls::mount(fs, MODE);
    csi.node_stage_volume(calls::staging_of(&id, &staging, capability.clone()))
        .map_err(said)?;
    csi.node_publish_volume(calls::publishing(&id, &staging, &target, capability))
        .map_err(said)
}

fn unpublish(p: &Place<'_>, suffix: &str) -> Outcome {
    let (id, csi) = (p.noted_id(suffix), p.csi());
    let staging = p.path(&format!("{suffix}.stage"));
    csi.unpublish(&id, &p.path(&format!("{suffix}.t")))
        .map_err(said)?;
    csi.unstage(&id, &staging).map_err(said)
}

/// The first stage at a path of the caller's own: its mount outlives the daemon, and what is
/// written to it must outlive the next stage.
fn csi_stage() -> Scenario {
    again(
        "csi-stage",
        |p| {
            p.create("", "ext4", SIZE);
            remember(p, "");
        },
        |p| publish(p, "", "ext4"),
        |p| {
            assert_eq!(p.mounts(&p.path(".stage")), 1);
            put(&p.path(".t/kept"), "kept");
            unpublish(p, "").expect("unpublished");
            publish(p, "", "ext4").expect("published again");
            assert_eq!(get(&p.path(".t/kept")), "kept");
        },
        |p| {
            unpublish(p, "").expect("unpublished");
            p.delete("");
        },
    )
}

fn csi_unpublish() -> Scenario {
    again(
        "csi-unpublish",
        |p| {
            p.create("", "ext4", SIZE);
            remember(p, "");
            publish(p, "", "ext4").expect("published");
            put(&p.path(".t/kept"), "kept");
        },
        |p| unpublish(p, ""),
        |p| {
            assert!(!p.path(".t").exists());
            p.intact("", false);
        },
        |p| p.delete(""),
    )
}

/// Cut both volumes; what was made is noted for whoever deletes it.
fn cut_group(p: &Place<'_>) -> Outcome {
    let request = CreateVolumeGroupSnapshotRequest {
        name: p.name("g"),
        source_volume_ids: ["", "x"].map(|s| p.noted_id(s)).into(),
        ..Default::default()
    };
    let group = p
        .csi()
        .create_volume_group_snapshot(request)
        .map_err(said)?;
    let snapshots: Vec<String> = group.snapshots.into_iter().map(|s| s.snapshot_id).collect();
    put(&p.path("g.id"), &group.group_snapshot_id);
    put(&p.path("g.snapshots"), &snapshots.join("\n"));
    Ok(())
}

fn delete_group(p: &Place<'_>) -> Outcome {
    let request = DeleteVolumeGroupSnapshotRequest {
        group_snapshot_id: get(&p.path("g.id")),
        snapshot_ids: get(&p.path("g.snapshots"))
            .lines()
            .map(str::to_owned)
            .collect(),
        ..Default::default()
    };
    p.csi().delete_volume_group_snapshot(request).map_err(said)
}

fn two_filled(p: &Place<'_>) {
    for suffix in ["", "x"] {
        p.filled(suffix, "ext4", SIZE);
        remember(p, suffix);
    }
}

fn all_or_none(p: &Place<'_>) {
    let members = p.listed("snapshot", "g").len();
    assert!([0, 2].contains(&members), "{members} members of two");
}

fn group() -> Scenario {
    Scenario {
        between: |p| {
            all_or_none(p);
            p.write("", "between");
            p.write("x", "between");
        },
        ..again(
            "group",
            two_filled,
            cut_group,
            |p| {
                assert_eq!(p.listed("snapshot", "g").len(), 2);
                for suffix in ["", "x"] {
                    p.later(suffix);
                }
                let snapshots = get(&p.path("g.snapshots"));
                for (snapshot, copy) in snapshots.lines().zip(["r", "s"]) {
                    p.ok(&["snapshot", "restore", snapshot, &p.name(copy)]);
                    p.of_the_moment(copy);
                    p.delete(copy);
                }
            },
            |p| {
                delete_group(p).expect("deleted");
                for suffix in ["", "x"] {
                    p.unmount(suffix);
                    p.delete(suffix);
                }
            },
        )
    }
}

fn group_delete() -> Scenario {
    Scenario {
        between: all_or_none,
        ..again(
            "group-delete",
            |p| {
                two_filled(p);
                cut_group(p).expect("cut");
            },
            delete_group,
            |p| {
                assert!(p.listed("snapshot", "g").is_empty());
                p.intact("", true);
                p.intact("x", true);
            },
            |p| {
                for suffix in ["", "x"] {
                    p.unmount(suffix);
                    p.delete(suffix);
                }
            },
        )
    }
}

fn publish_inline(p: &Place<'_>) -> Outcome {
    std::fs::create_dir_all(p.path(".pod")).expect("a writable directory");
    let request = calls::inline(&p.name(""), &p.path(".pod/t"), &[("size", SIZE)]);
    p.csi().node_publish_volume(request).map_err(said)
}

fn unpublish_inline(p: &Place<'_>) -> Outcome {
    p.csi()
        .unpublish(&p.name(""), &p.path(".pod/t"))
        .map_err(said)
}

fn nothing_inline(p: &Place<'_>) {
    assert!(p.listed("volume", "").is_empty(), "the volume goes as well");
    assert!(!p.path(".pod/t").exists());
}

fn inline_publish() -> Scenario {
    again(
        "inline-publish",
        nothing,
        publish_inline,
        |p| {
            assert_eq!(p.listed("volume", "").len(), 1);
            assert_eq!(p.mounts(&p.path(".pod/t")), 1);
            put(&p.path(".pod/t/kept"), "kept");
        },
        |p| {
            unpublish_inline(p).expect("unpublished");
            nothing_inline(p);
        },
    )
}

/// The pod was deleted meanwhile: the kubelet asks for the end, not for the beginning again.
fn inline_abandoned() -> Scenario {
    Scenario {
        retry: unpublish_inline,
        ..again(
            "inline-abandoned",
            nothing,
            publish_inline,
            nothing_inline,
            nothing,
        )
    }
}

fn inline_unpublish() -> Scenario {
    again(
        "inline-unpublish",
        |p| {
            publish_inline(p).expect("published");
            put(&p.path(".pod/t/kept"), "kept");
        },
        unpublish_inline,
        nothing_inline,
        nothing,
    )
}

/// Where volumes cannot share blocks with others: file pools, into a second pool `q`.
pub fn fills() -> Vec<Scenario> {
    let clone = Scenario {
        name: "fill-clone",
        operate: |p| p.ask(&["volume", "clone", &p.name(""), &p.name("c"), "--pool", "q"]),
        ..clone_in_use()
    };
    let restore = Scenario {
        name: "fill-restore",
        operate: |p| {
            let (from, to) = (p.name("s"), p.name("r"));
            p.ask(&["snapshot", "restore", &from, &to, "--pool", "q"])
        },
        ..restore()
    };
    [clone, restore]
        .map(|s| Scenario {
            retry: s.operate,
            ..s
        })
        .into()
}

/// Volumes that read a snapshot in place.
pub fn readers() -> Vec<Scenario> {
    let setup: fn(&Place<'_>) = |p| {
        p.filled("", "ext4", SIZE);
        let (of, name) = (p.name(""), p.name("s"));
        p.ok(&["snapshot", "create", &of, &name, "--read-only"]);
        p.later("");
    };
    let make = again(
        "reader",
        setup,
        |p| p.ask(&["snapshot", "restore", &p.name("s"), &p.name("r")]),
        |p| {
            p.of_the_moment("r");
            p.intact("", true);
        },
        |p| {
            p.delete("r");
            p.unmount("");
            p.ok(&["snapshot", "delete", &p.name("s")]);
            p.delete("");
        },
    );
    let remove = again(
        "reader-delete",
        |p| {
            p.filled("", "ext4", SIZE);
            let (of, name) = (p.name(""), p.name("s"));
            p.ok(&["snapshot", "create", &of, &name, "--read-only"]);
            p.later("");
            p.ok(&["snapshot", "restore", &p.name("s"), &p.name("r")]);
        },
        |p| gone(p.ask(&["volume", "delete", &p.name("r")])),
        |p| {
            assert!(p.listed("volume", "r").is_empty());
            p.single("snapshot", "s");
            p.intact("", true);
        },
        |p| {
            p.unmount("");
            p.ok(&["snapshot", "delete", &p.name("s")]);
            p.delete("");
        },
    );
    vec![make, remove]
}

/// The store of a copy-on-write snapshot, grown by upkeep while its origin is written to.
pub fn stores() -> Vec<Scenario> {
    vec![again(
        "store",
        |p| {
            p.filled("", "ext4", SIZE);
            let request = CreateSnapshotRequest {
                name: p.name("s"),
                source_volume_id: p.id(""),
                parameters: calls::map(&[
                    ("csi.aliyun.com/snapshot-initial-size", "16Mi"),
                    ("csi.aliyun.com/snapshot-expansion-size", "4Mi"),
                    ("csi.aliyun.com/snapshot-expansion-threshold", "50%"),
                ]),
                ..Default::default()
            };
            p.csi().create_snapshot(request).expect("a snapshot");
        },
        |p| {
            // Ten MiB: past the threshold, and not past the end before upkeep has looked.
            put(&p.path(".m/later"), &"later".repeat(1 << 21));
            let deadline = Instant::now() + Duration::from_secs(15);
            while store_size() <= 16 * MIB {
                if Instant::now() > deadline {
                    return Err("the store was not grown".to_owned());
                }
                std::thread::sleep(Duration::from_millis(200));
            }
            Ok(())
        },
        |p| {
            p.ok(&["snapshot", "restore", &p.name("s"), &p.name("r")]);
            p.of_the_moment("r");
            p.intact("", true);
        },
        |p| {
            p.delete("r");
            p.ok(&["snapshot", "delete", &p.name("s")]);
            p.unmount("");
            p.delete("");
        },
    )]
}

/// The size of the one LV that has an origin.
fn store_size() -> u64 {
    let columns = "lv_size,origin";
    let args = ["--noheadings", "--units", "b", "--nosuffix", "-o", columns];
    let lvs = output("lvs", &args);
    let mut sizes = lvs.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        Some((words.next()?.parse::<u64>().ok()?, words.next()?))
    });
    sizes.next().map_or(0, |(size, _)| size)
}

/// Bytes the file system mounted here holds in all.
fn room(at: &Path) -> u64 {
    let stat = rustix::fs::statvfs(at).expect("a mounted file system");
    stat.f_blocks * stat.f_frsize
}
