use crate::recover::read::take_in;
use crate::state::attachments::Publication;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use stowage_model::record::Content;
use stowage_model::request::{AccessMode, Source};
use stowage_model::volumes::Volumes;
use stowage_model::{Bytes, Id, Kind, LimitsChange, VolumeRequest};

use crate::testing::{Bench, wanted};

const SOON: Duration = Duration::from_secs(5);

/// A snapshot in pool `a`, of a volume that was handed out: of others nothing is copied.
async fn snapshot(bench: &Bench) -> Id {
    let source = bench.volume("v").await;
    bench.alter(&source, |e| e.record.content = Content::Raw);
    bench.snapshot(&source, "s").await
}

/// What opens a fifo hangs in the kernel until somebody writes to it, as what reads from a disk
/// that does not answer does.
fn hang(bench: &Bench, snapshot: &Id) {
    let file = bench.a.file(snapshot);
    std::fs::remove_file(&file).unwrap();
    mknodat(CWD, &file, FileType::Fifo, Mode::RWXU, 0).unwrap();
}

/// Let them go; the copies then fail, since a fifo has no size.
fn answer(bench: &Bench, snapshot: &Id) -> std::fs::File {
    let file = bench.a.file(snapshot);
    std::fs::File::options()
        .read(true)
        .write(true)
        .open(file)
        .unwrap()
}

fn restore(name: &str, snapshot: &Id) -> VolumeRequest {
    wanted(name, "b", Some(Source::Snapshot(snapshot.clone())))
}

async fn wait_for(what: &str, is: impl Fn() -> bool) {
    let poll = async {
        while !is() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(30), poll).await;
    waited.unwrap_or_else(|_| panic!("waited for {what}"));
}

#[tokio::test]
async fn six_hundred_copies_from_a_disk_that_hangs_hold_up_no_other_volume() {
    let bench = Bench::new().await;
    let snapshot = snapshot(&bench).await;
    hang(&bench, &snapshot);
    let mut copies = tokio::task::JoinSet::new();
    for n in 0..600 {
        let (local, want) = (bench.local.clone(), restore(&format!("r{n}"), &snapshot));
        copies.spawn(async move { local.create(want).await });
    }
    wait_for("the copies", || bench.local.jobs().len() == 600).await;
    // Time to take every thread there is.
    wait_for("some threads", || threads("stowage-long") > 0).await;
    let other = async {
        // From another pool to the same one, and what notes things down.
        let there = bench.local.create(wanted("w", "b", None)).await?;
        bench.alter(&there.record.id, |e| e.record.content = Content::Raw);
        let copy = wanted("c", "a", Some(Source::Volume(there.record.id.clone())));
        let copy = bench.local.create(copy).await?;
        bench.local.delete(&copy.record.id).await?;
        bench.local.delete(&there.record.id).await
    };
    let other = tokio::time::timeout(SOON, other).await;
    // Those of other tests in this process end by themselves; what hangs here stays.
    let few = || threads("stowage-long") <= super::COPIES;
    wait_for("no more threads than turns", few).await;
    let _open = answer(&bench, &snapshot);
    while copies.join_next().await.is_some() {}
    other.expect("in time").unwrap();
}

/// Note a target of a volume, with this cgroup.
async fn hand_out(bench: &Bench, id: &Id, target: &str, cgroup: Option<&str>) {
    let publication = Publication {
        block: false,
        read_only: false,
        mode: AccessMode::SingleNodeWriter,
        cgroup: cgroup.map(Into::into),
        holders: Default::default(),
    };
    let (target, attachments) = (target.into(), &bench.local.node.attachments());
    let noted = attachments.update(id, |a| drop(a.targets.insert(target, publication)));
    noted.await.unwrap();
}

/// The threads of this process with this name.
fn threads(name: &str) -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let named = |task: &std::fs::DirEntry| {
        std::fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm.trim_end() == name)
    };
    tasks.flatten().filter(named).count()
}

#[tokio::test]
async fn deleting_a_volume_ends_the_copy_into_it_waiting_or_running() {
    let bench = Bench::new().await;
    let snapshot = snapshot(&bench).await;
    // Sparse, so that it takes no room, and too large to be copied in a day.
    let size = Bytes::gib(1 << 10);
    let file = std::fs::File::options()
        .write(true)
        .open(bench.a.file(&snapshot));
    file.unwrap().set_len(size.0).unwrap();
    bench.alter(&snapshot, |e| e.size = size);
    let mut copies = Vec::new();
    for name in ["r1", "r2", "waiting"] {
        let mut want = restore(name, &snapshot);
        want.size = Some(size);
        let local = bench.local.clone();
        copies.push(tokio::spawn(async move { local.create(want).await }));
        wait_for("the copy", || bench.local.jobs().len() == copies.len()).await;
    }
    let begun = || {
        bench
            .local
            .jobs()
            .iter()
            .filter(|job| job.done.0 > 0)
            .count()
    };
    wait_for("two copies to begin", || begun() == super::COPIES).await;
    let pending = bench.local.delete_snapshot(&snapshot).await.unwrap_err();
    assert_eq!(pending.kind(), Kind::Pending, "{pending}");
    for copy in bench.local.volumes().await.whole().unwrap() {
        if copy.pool.as_str() == "b" {
            let gone = tokio::time::timeout(SOON, bench.local.delete(&copy.record.id)).await;
            gone.expect("in time").unwrap();
        }
    }
    for copy in copies {
        let ended = copy.await.unwrap().unwrap_err();
        assert_eq!(ended.kind(), Kind::Precondition, "{ended}");
    }
    assert_eq!(bench.b.written.lock().unwrap().len(), 0);
    bench.local.delete_snapshot(&snapshot).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_wipe_that_hangs_holds_up_no_wipe_in_another_pool() {
    let bench = Bench::new().await;
    let in_a = bench.volume("v").await;
    let in_b = bench.local.create(wanted("w", "b", None)).await.unwrap();
    bench.a.wipes_hang.store(true, Ordering::SeqCst);
    bench.local.delete(&in_a).await.unwrap();
    wait_for("the hanging wipe", || bench.local.jobs().len() == 1).await;
    bench.local.delete(&in_b.record.id).await.unwrap();
    let wiped = || bench.b.wiped.lock().unwrap().len();
    wait_for("the other pool's wipe", || wiped() == 1).await;
    assert_eq!(bench.local.jobs().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_pool_that_hangs_keeps_no_late_limits_from_the_consumers_of_another() {
    let bench = Bench::new().await;
    let uid = "52f1bab4-d39b-4cde-abad-6c5963b47761";
    let target = |name| format!("/k/pods/{uid}/volumes/csi/{name}/mount");
    // What hangs comes first in the order of ids.
    let mut ids = Vec::new();
    for name in ["v", "w"] {
        let made = bench.local.create(wanted(name, "a", None)).await.unwrap();
        ids.push((made.record.id, name));
    }
    ids.sort();
    let (first, second) = (ids[0].clone(), ids[1].clone());
    bench.alter(&second.0, |e| e.pool = bench.b.clone());
    for (id, name) in [&first, &second] {
        let mut change = LimitsChange::default();
        change.set("bps", "1Mi").unwrap();
        bench.local.modify(id, change).await.unwrap();
        hand_out(&bench, id, &target(name), None).await;
    }
    bench.a.hangs.store(true, Ordering::SeqCst);
    std::fs::create_dir_all(bench.cgroups.join("kubepods").join(format!("pod{uid}"))).unwrap();
    let known = || {
        let noted = bench.local.node.attachments().get(&second.0);
        noted
            .targets
            .values()
            .all(|publication| publication.cgroup.is_some())
    };
    wait_for("its cgroup to be noted", known).await;
}

#[tokio::test(start_paused = true)]
async fn a_volume_in_use_whose_disk_hangs_holds_up_no_start() {
    let bench = Bench::new().await;
    let id = bench.volume("v").await;
    hand_out(&bench, &id, "/k/target", Some("/pod")).await;
    bench.local.node.index().remove(&id);
    bench.a.hangs.store(true, Ordering::SeqCst);
    let pool: std::sync::Arc<dyn stowage_pool::Pool> = bench.a.clone();
    let turn = None::<std::future::Ready<()>>;
    let read = take_in(&bench.local.node, &pool, turn);
    let read = tokio::time::timeout(SOON, read).await;
    read.expect("in time").unwrap();
    assert!(bench.entry(&id).is_some());
    // It is held until its limits are set again, and tells so.
    let held = bench.local.delete(&id).await.unwrap_err();
    assert_eq!(held.kind(), Kind::Pending, "{held}");
}
