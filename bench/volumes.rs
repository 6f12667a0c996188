//! What volumes cost, as ratios against the bare commands in the same run.
//!
//! Run it by `make bench`: `file` and `many` on the machine itself, `lvm` and `thin` in a guest. Prints
//! one Markdown table row a figure: what, ours, the bare commands' (or the goal), the ratio.
#![allow(
    clippy::disallowed_methods,
    reason = "the bare commands are what is compared with"
)]

mod growth;
mod many;
#[path = "../crates/app/tests/support/mod.rs"]
mod support;

use std::path::Path;
use std::time::{Duration, Instant};

use stowage_csi::proto as csi;
use stowage_testkit::disk::FsKind;
use support::{Rig, Storage, output, tool};
use tonic::transport::Channel;

/// Volumes of the create-to-publish comparison.
const SIZE: i64 = 256 << 20;

type Controller = csi::controller_client::ControllerClient<Channel>;
type Node = csi::node_client::NodeClient<Channel>;

#[derive(Clone)]
struct Door {
    controller: Controller,
    node: Node,
}

fn main() {
    let kinds: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| !a.starts_with('-'))
        .collect();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    println!("| what | ours | against | ratio |\n|---|---|---|---|");
    for kind in kinds {
        match kind.as_str() {
            "many" => runtime.block_on(many::measure()),
            kind => runtime.block_on(measure(kind)),
        }
    }
}

async fn measure(kind: &str) {
    let storage = || match kind {
        "file" => Storage::file(FsKind::Xfs),
        "lvm" => Storage::lvm(false),
        "thin" => Storage::lvm(true),
        other => panic!("{other:?} is none of: file, lvm, thin, many"),
    };
    let rounds = if kind == "file" { 15 } else { 7 };
    let rig = Rig::new(storage());
    let mut door = connect(&rig).await;
    to_publish(&mut door, &rig, kind, rounds).await;
    if kind != "lvm" {
        instant_copies(&mut door, &rig, kind).await;
    }
    drop(rig);
    if kind == "file" {
        burst(&Rig::new(storage())).await;
        idle(Rig::new(storage())).await;
    }
}

async fn connect(rig: &Rig) -> Door {
    let channel = stowage_csi::client::connect(&rig.path("csi.sock"))
        .await
        .expect("a CSI socket");
    Door {
        controller: Controller::new(channel.clone()),
        node: Node::new(channel),
    }
}

fn capability() -> csi::VolumeCapability {
    use csi::volume_capability::{AccessMode, AccessType, MountVolume, access_mode};
    csi::VolumeCapability {
        access_mode: Some(AccessMode {
            mode: access_mode::Mode::SingleNodeWriter.into(),
        }),
        access_type: Some(AccessType::Mount(MountVolume {
            fs_type: "ext4".to_owned(),
            ..MountVolume::default()
        })),
    }
}

fn create(name: &str, bytes: i64) -> csi::CreateVolumeRequest {
    csi::CreateVolumeRequest {
        name: name.to_owned(),
        capacity_range: Some(csi::CapacityRange {
            required_bytes: bytes,
            limit_bytes: 0,
        }),
        volume_capabilities: vec![capability()],
        ..csi::CreateVolumeRequest::default()
    }
}

impl Door {
    async fn create(&mut self, request: csi::CreateVolumeRequest) -> String {
        let made = self
            .controller
            .create_volume(request)
            .await
            .expect("a volume")
            .into_inner();
        made.volume.expect("a volume").volume_id
    }

    async fn publish(&mut self, id: &str, staging: &Path, target: &Path) {
        std::fs::create_dir_all(staging).expect("a directory");
        let stage = csi::NodeStageVolumeRequest {
            volume_id: id.to_owned(),
            staging_target_path: staging.display().to_string(),
            volume_capability: Some(capability()),
            ..csi::NodeStageVolumeRequest::default()
        };
        self.node.node_stage_volume(stage).await.expect("staged");
        let publish = csi::NodePublishVolumeRequest {
            volume_id: id.to_owned(),
            staging_target_path: staging.display().to_string(),
            target_path: target.display().to_string(),
            volume_capability: Some(capability()),
            ..csi::NodePublishVolumeRequest::default()
        };
        self.node
            .node_publish_volume(publish)
            .await
            .expect("published");
    }

    async fn unpublish(&mut self, id: &str, staging: &Path, target: &Path) {
        let unpublish = csi::NodeUnpublishVolumeRequest {
            volume_id: id.to_owned(),
            target_path: target.display().to_string(),
        };
        self.node
            .node_unpublish_volume(unpublish)
            .await
            .expect("unpublished");
        let unstage = csi::NodeUnstageVolumeRequest {
            volume_id: id.to_owned(),
            staging_target_path: staging.display().to_string(),
        };
        self.node
            .node_unstage_volume(unstage)
            .await
            .expect("unstaged");
    }

    async fn delete(&mut self, id: &str) {
        let delete = csi::DeleteVolumeRequest {
            volume_id: id.to_owned(),
            ..Default::default()
        };
        self.controller
            .delete_volume(delete)
            .await
            .expect("deleted");
    }
}

/// Create, stage and publish an ext4 volume, against lvcreate or fallocate and losetup, mkfs and
/// mount; in turn, so that a drift of the machine's speed meets both.
async fn to_publish(door: &mut Door, rig: &Rig, kind: &str, rounds: usize) {
    let (staging, target, bare) = (rig.path("stage"), rig.path("target"), rig.path("bare"));
    std::fs::create_dir_all(&bare).expect("a directory");
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..=rounds {
        let started = Instant::now();
        let id = door.create(create(&format!("bench-{round}"), SIZE)).await;
        door.publish(&id, &staging, &target).await;
        let our_time = started.elapsed();
        door.unpublish(&id, &staging, &target).await;
        door.delete(&id).await;
        rig.settle();

        let started = Instant::now();
        let device = bare_create(&rig.storage, kind);
        // The block size that the daemon takes: with a smaller one mkfs takes longer.
        tool("mkfs.ext4", &["-q", "-F", "-b", "4096", &device]);
        tool("mount", &[&device, &bare.display().to_string()]);
        let their_time = started.elapsed();
        tool("umount", &[&bare.display().to_string()]);
        bare_remove(&rig.storage, &device);
        if round > 0 {
            ours.push(our_time);
            theirs.push(their_time);
        }
    }
    row(
        &format!("{kind}: create + stage + publish (ext4)"),
        median(ours),
        median(theirs),
    );
}

fn bare_create(storage: &Storage, kind: &str) -> String {
    let size = format!("{SIZE}");
    match storage {
        Storage::File(fs) => {
            let file = fs.path().join("bare.img").display().to_string();
            tool("fallocate", &["-l", &size, &file]);
            output("losetup", &["--find", "--show", "--direct-io=on", &file])
                .trim()
                .to_owned()
        }
        Storage::Lvm { vg, .. } => {
            let bytes = format!("{size}b");
            tool(
                "lvcreate",
                &["-q", "-y", "-Wy", "-Zy", "-n", "bare", "-L", &bytes, vg],
            );
            format!("/dev/{vg}/bare")
        }
        Storage::Thin { vg, .. } => {
            assert_eq!(kind, "thin");
            let (bytes, pool) = (format!("{size}b"), format!("{vg}/tp"));
            tool(
                "lvcreate",
                &["-q", "-y", "-n", "bare", "-V", &bytes, "-T", &pool],
            );
            format!("/dev/{vg}/bare")
        }
        Storage::Others => unreachable!("measured on storage of its own"),
    }
}

fn bare_remove(storage: &Storage, device: &str) {
    match storage {
        Storage::File(fs) => {
            tool("losetup", &["--detach", device]);
            std::fs::remove_file(fs.path().join("bare.img")).expect("the file");
        }
        Storage::Lvm { .. } | Storage::Thin { .. } => tool("lvremove", &["-q", "-y", device]),
        Storage::Others => unreachable!("measured on storage of its own"),
    }
}

/// Snapshot, clone and restore of 1 GiB and of 10 GiB, written to before.
async fn instant_copies(door: &mut Door, rig: &Rig, kind: &str) {
    let mut thin_params = std::collections::BTreeMap::new();
    if kind == "file" {
        thin_params.insert("provisioning".to_owned(), "thin".to_owned());
    }
    for size in [1_i64 << 30, 10 << 30] {
        let shown = format!("{} GiB", size >> 30);
        let mut request = create(&format!("copy-{size}"), size);
        request.parameters.clone_from(&thin_params);
        let id = door.create(request).await;
        let (staging, target) = (rig.path("stage"), rig.path("target"));
        door.publish(&id, &staging, &target).await;
        let file = target.join("data").display().to_string();
        tool(
            "dd",
            &[
                "if=/dev/urandom",
                &format!("of={file}"),
                "bs=1M",
                "count=64",
                "conv=fsync",
            ],
        );
        let (mut cuts, mut clones, mut restores) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..5 {
            let started = Instant::now();
            let cut = csi::CreateSnapshotRequest {
                source_volume_id: id.clone(),
                name: format!("cut-{size}-{round}"),
                ..csi::CreateSnapshotRequest::default()
            };
            let cut = door
                .controller
                .create_snapshot(cut)
                .await
                .expect("a snapshot")
                .into_inner();
            cuts.push(started.elapsed());
            let cut = cut.snapshot.expect("a snapshot").snapshot_id;
            for (times, source) in [
                (&mut clones, from_volume(&id)),
                (&mut restores, from_snapshot(&cut)),
            ] {
                let started = Instant::now();
                let mut request = create(&format!("of-{size}-{round}-{}", times.len()), size);
                request.parameters.clone_from(&thin_params);
                request.name = format!("{}-{source:?}", request.name)
                    .chars()
                    .take(100)
                    .collect();
                request.volume_content_source = Some(source);
                let copy = door.create(request).await;
                times.push(started.elapsed());
                door.delete(&copy).await;
            }
            let delete = csi::DeleteSnapshotRequest {
                snapshot_id: cut,
                ..Default::default()
            };
            door.controller
                .delete_snapshot(delete)
                .await
                .expect("deleted");
        }
        if let Storage::Thin { vg, .. } = &rig.storage {
            // In a guest no LVM command is near the goal; how near we are to LVM tells more.
            let bare = bare_snapshots(vg, &id);
            row(
                &format!("thin: snapshot of {shown}, mounted"),
                median(cuts.clone()),
                bare,
            );
        }
        for (what, times) in [("snapshot", cuts), ("clone", clones), ("restore", restores)] {
            goal(
                &format!("{kind}: {what} of {shown}, mounted"),
                median(times),
                100,
            );
        }
        door.unpublish(&id, &staging, &target).await;
        door.delete(&id).await;
    }
}

/// What `lvcreate -s` of the same volume takes by itself.
fn bare_snapshots(vg: &str, id: &str) -> Duration {
    let origin = format!("{vg}/stowage-{id}");
    let times = (0..5).map(|_| {
        let started = Instant::now();
        tool("lvcreate", &["-q", "-y", "-s", "-n", "bare", &origin]);
        let took = started.elapsed();
        tool("lvremove", &["-q", "-y", &format!("{vg}/bare")]);
        took
    });
    median(times.collect())
}

fn from_volume(id: &str) -> csi::VolumeContentSource {
    use csi::volume_content_source::{Type, VolumeSource};
    csi::VolumeContentSource {
        r#type: Some(Type::Volume(VolumeSource {
            volume_id: id.to_owned(),
        })),
    }
}

fn from_snapshot(id: &str) -> csi::VolumeContentSource {
    use csi::volume_content_source::{SnapshotSource, Type};
    csi::VolumeContentSource {
        r#type: Some(Type::Snapshot(SnapshotSource {
            snapshot_id: id.to_owned(),
        })),
    }
}

/// A hundred creates at once.
async fn burst(rig: &Rig) {
    let door = connect(rig).await;
    let started = Instant::now();
    let all = (0..100).map(|n| {
        let mut controller = door.controller.clone();
        tokio::spawn(async move {
            controller
                .create_volume(create(&format!("burst-{n}"), 16 << 20))
                .await
                .expect("a volume");
        })
    });
    for one in all.collect::<Vec<_>>() {
        one.await.expect("a volume");
    }
    let took = started.elapsed();
    let rate = 100.0 / took.as_secs_f64();
    println!(
        "| file: 100 creates at once | {rate:.0} a second | goal 100 | {:.2}x |",
        rate / 100.0
    );
}

/// Memory, idleness and restart with 250 volumes.
async fn idle(mut rig: Rig) {
    {
        let mut door = connect(&rig).await;
        for n in 0..250 {
            door.create(create(&format!("many-{n}"), 8 << 20)).await;
        }
    }
    // What was journaled is in the pool by then.
    std::thread::sleep(Duration::from_secs(5));
    let before = usage(rig.pid());
    std::thread::sleep(Duration::from_secs(30));
    let after = usage(rig.pid());
    let resident = output("grep", &["VmRSS", &format!("/proc/{}/status", rig.pid())]);
    let kib: f64 = resident
        .split_whitespace()
        .nth(1)
        .expect("a number")
        .parse()
        .expect("a number");
    let mib = kib / 1024.0;
    println!(
        "| 250 volumes: resident memory | {mib:.1} MiB | goal 25 MiB | {:.2}x |",
        mib / 25.0
    );
    let (own, children) = (after.0 - before.0, after.1 - before.1);
    println!(
        "| 250 volumes: CPU ticks (10 ms) in 30 s idle, own and children's | {own}, {children} | goal 0 | - |"
    );
    for how in ["SIGTERM", "kill -9"] {
        if how == "SIGTERM" {
            rig.stop();
        } else {
            rig.kill();
        }
        let started = Instant::now();
        rig.start();
        let took = started.elapsed();
        let volumes = rig.ok(&["volume", "list"]);
        assert_eq!(volumes.as_array().map(Vec::len), Some(250));
        goal(
            &format!("250 volumes: from start to serving after {how}"),
            took,
            1000,
        );
    }
}

/// Processor time of the process and of its children that have ended, in clock ticks (proc(5)).
fn usage(pid: u32) -> (u64, u64) {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the daemon runs");
    let fields: Vec<u64> = stat
        .rsplit(')')
        .next()
        .expect("a name")
        .split_whitespace()
        .skip(11)
        .take(4)
        .map(|n| n.parse().expect("a number"))
        .collect();
    (fields[0] + fields[1], fields[2] + fields[3])
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn row(what: &str, ours: Duration, theirs: Duration) {
    let ratio = ours.as_secs_f64() / theirs.as_secs_f64();
    println!(
        "| {what} | {:.1} ms | bare commands {:.1} ms | {ratio:.2}x |",
        ms(ours),
        ms(theirs)
    );
}

fn goal(what: &str, ours: Duration, goal_ms: u32) {
    let ratio = ms(ours) / f64::from(goal_ms);
    println!(
        "| {what} | {:.1} ms | goal {goal_ms} ms | {ratio:.2}x |",
        ms(ours)
    );
}
