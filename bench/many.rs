//! Whether what the daemon does for all volumes at once takes no longer for each of them when there
//! are more: the same with 2,000 volumes and with 200, one in ten of them mounted, in one run.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use futures::stream::{self, StreamExt};
use stowage_csi::proto as csi;
use stowage_testkit::disk::FsKind;

use super::growth::{Cost, FEW, Figures, MANY, Moment, compare};
use super::support::{Rig, Storage};
use super::{Door, connect, create};

/// One volume in so many is mounted.
const MOUNTED: usize = 10;

/// How often each thing is done; the start less often, since it takes longest.
const ROUNDS: usize = 9;
const LOOKS: usize = 25;
const STARTS: usize = 5;

/// Calls made at a time while volumes are made and mounted.
const AT_A_TIME: usize = 8;

/// # Panics
/// As [`compare`].
pub(super) async fn measure() {
    // One after the other: loop devices and mounts are the machine's, so that the few would pay for
    // those of the many.
    let few = with(FEW).await;
    compare(few, with(MANY).await);
}

async fn with(volumes: usize) -> Figures {
    let mut rig = Rig::stopped(Storage::file(FsKind::Xfs));
    let metrics = serve_metrics(&rig);
    assert!(rig.start_at_once(), "the daemon died: {}", rig.log());
    let mut door = connect(&rig).await;
    let mounted = fill(&door, &rig, volumes).await;
    let last = mounted.iter().max().expect("a volume").clone();

    let mut figures = vec![("start, until the last mounted volume is free", {
        let mut times = Vec::new();
        for _ in 0..STARTS {
            rig.stop();
            let begun = Moment {
                spent: Duration::ZERO,
                at: Instant::now(),
            };
            assert!(rig.start_at_once(), "the daemon died: {}", rig.log());
            door = connect(&rig).await;
            // It is held until its limits are set and it was seen not to be frozen.
            let (staging, target) = paths(&rig, &last);
            door.publish(&last, &staging, &target).await;
            times.push(Moment::of(rig.pid()) - begun);
        }
        least(times)
    })];
    let listed = ask(&rig, "volume-list");
    assert_eq!(listed.matches("\"id\"").count(), volumes);
    figures.push((
        "volume list",
        often(&rig, || drop(ask(&rig, "volume-list"))),
    ));
    assert!(scrape(metrics).contains("stowage_volume_size_bytes{"));
    figures.push(("metrics", often(&rig, || drop(scrape(metrics)))));
    figures.push(("doctor", often(&rig, || drop(ask(&rig, "doctor")))));
    figures.extend(one_more(&mut door, &rig).await);

    let unmounts = mounted.iter().map(|id| {
        let (mut door, (staging, target)) = (door.clone(), paths(&rig, id));
        async move { door.unpublish(id, &staging, &target).await }
    });
    stream::iter(unmounts)
        .for_each_concurrent(AT_A_TIME, |unmount| unmount)
        .await;
    figures
}

/// The steps of one volume beside all others.
async fn one_more(door: &mut Door, rig: &Rig) -> Figures {
    let steps = [
        "create",
        "stage and publish",
        "stats",
        "unpublish and unstage",
        "delete",
    ];
    let mut times = [const { Vec::new() }; 5];
    for round in 0..ROUNDS {
        let now = || Moment::of(rig.pid());
        let mut begun = now();
        let mut lap = |step: usize| {
            times[step].push(now() - begun);
            begun = now();
        };
        let id = door.create(thin(&format!("one-more-{round}"))).await;
        lap(0);
        let (staging, target) = paths(rig, &id);
        door.publish(&id, &staging, &target).await;
        lap(1);
        let stats = csi::NodeGetVolumeStatsRequest {
            volume_id: id.clone(),
            volume_path: target.display().to_string(),
            ..Default::default()
        };
        let stats = door.node.node_get_volume_stats(stats).await;
        stats.expect("figures of the volume");
        lap(2);
        door.unpublish(&id, &staging, &target).await;
        lap(3);
        door.delete(&id).await;
        lap(4);
    }
    let times = times.into_iter().map(least);
    steps.into_iter().zip(times).collect()
}

/// So many volumes, every other one thick and raw; the ids of those that are mounted now.
async fn fill(door: &Door, rig: &Rig, volumes: usize) -> Vec<String> {
    let made = (0..volumes).map(|n| {
        let mut door = door.clone();
        async move {
            let name = format!("many-{n}");
            let id = match n % 2 {
                0 => door.create(thin(&name)).await,
                _ => door.create(raw(&name)).await,
            };
            if n % MOUNTED != 0 {
                return None;
            }
            let (staging, target) = paths(rig, &id);
            door.publish(&id, &staging, &target).await;
            Some(id)
        }
    });
    let made = stream::iter(made).buffer_unordered(AT_A_TIME);
    made.filter_map(async |id| id).collect().await
}

/// As small as an ext4 with a journal may be; larger than its share of the disk.
fn thin(name: &str) -> csi::CreateVolumeRequest {
    let mut request = create(name, 12 << 20);
    let thin = ("provisioning".to_owned(), "thin".to_owned());
    request.parameters.extend([thin]);
    request
}

fn raw(name: &str) -> csi::CreateVolumeRequest {
    use csi::volume_capability::{AccessType, BlockVolume};
    let mut request = create(name, 1 << 20);
    for capability in &mut request.volume_capabilities {
        capability.access_type = Some(AccessType::Block(BlockVolume {}));
    }
    request
}

fn paths(rig: &Rig, id: &str) -> (PathBuf, PathBuf) {
    let of = |what: &str| rig.path(&format!("{what}-{id}"));
    (of("stage"), of("target"))
}

/// An address for metrics, which a rig does not have otherwise.
fn serve_metrics(rig: &Rig) -> std::net::SocketAddr {
    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let free = free.expect("a free port");
    let path = rig.path("stowage.toml");
    let config = std::fs::read_to_string(&path).expect("a configuration");
    let config = config.replace("metrics = \"off\"", &format!("metrics = \"{free}\""));
    std::fs::write(&path, config).expect("a writable directory");
    free
}

/// What the command line asks the daemon, without the start of a process.
fn ask(rig: &Rig, what: &str) -> String {
    let mut socket = UnixStream::connect(rig.path("admin.sock")).expect("the daemon serves");
    writeln!(socket, "{{\"op\":\"{what}\"}}").expect("it listens");
    read_all(socket)
}

fn scrape(at: std::net::SocketAddr) -> String {
    let mut socket = TcpStream::connect(at).expect("the daemon serves metrics");
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).expect("it listens");
    read_all(socket)
}

fn read_all(mut from: impl Read) -> String {
    let mut text = String::new();
    from.read_to_string(&mut text).expect("an answer");
    text
}

fn often(rig: &Rig, mut once: impl FnMut()) -> Cost {
    let now = || Moment::of(rig.pid());
    least((0..LOOKS).map(|_| {
        let begun = now();
        once();
        now() - begun
    }))
}

fn least(costs: impl IntoIterator<Item = Cost>) -> Cost {
    costs.into_iter().min().expect("it was done")
}
