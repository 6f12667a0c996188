use crate::snapshot::quiesce::HOLD;
use crate::state::journal::{Intent, Journal};
use std::sync::atomic::Ordering;
use std::time::Duration;

use stowage_model::volumes::Volumes;
use stowage_model::{Id, Kind, Name};
use stowage_pool::Attach;

use super::*;
use crate::testing::{Bench, Files, wanted};

/// A group snapshot of two volumes in pool `a`, each cut of which takes this long.
async fn two(bench: &Bench, takes: Duration) -> GroupRequest {
    let mut sources: Vec<Id> = Vec::new();
    for name in ["v", "w"] {
        sources.push(bench.volume(name).await);
    }
    *bench.a.cuts_take.lock().unwrap() = takes;
    bench.a.steps.lock().unwrap().clear();
    GroupRequest {
        name: Name::new("g").unwrap(),
        sources,
        read_only: false,
        growth: Default::default(),
    }
}

fn steps(pool: &Files) -> Vec<&'static str> {
    let steps = pool.steps.lock().unwrap();
    steps.iter().map(|(step, _)| *step).collect()
}

#[tokio::test(start_paused = true)]
async fn nothing_comes_between_holding_writers_and_letting_them_go() {
    let bench = Bench::new().await;
    let want = two(&bench, Duration::from_secs(3)).await;
    let group = tokio::spawn({
        let local = bench.local.clone();
        async move { local.snapshot_group(want).await }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(steps(&bench.a), ["suspend", "cut"]);
    bench.local.create(wanted("x", "a", None)).await.unwrap();
    assert_eq!(
        steps(&bench.a),
        ["suspend", "cut", "cut", "resume", "create"]
    );
    group.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn writers_are_let_go_after_ten_seconds_and_the_group_fails() {
    let bench = Bench::new().await;
    let want = two(&bench, Duration::from_secs(60)).await;
    let failed = bench.local.snapshot_group(want).await.unwrap_err();
    assert_eq!(failed.kind(), Kind::Internal, "{failed}");
    assert!(failed.message().contains("10 s"), "{failed}");
    let when = |what: &str| {
        let steps = bench.a.steps.lock().unwrap();
        steps.iter().find(|(step, _)| *step == what).unwrap().1
    };
    let held = when("resume") - when("suspend");
    assert!(held <= HOLD + Duration::from_millis(100), "{held:?}");
    // The second member is not even begun, and the first is taken away.
    assert_eq!(steps(&bench.a), ["suspend", "cut", "resume", "resume"]);
    assert!(bench.local.snapshots().await.whole().unwrap().is_empty());
    assert_eq!(bench.a.written.lock().unwrap().len(), 2);
}

/// Of the raw file nobody holds the writers, so all others must stand still at its cut.
#[tokio::test]
async fn one_volume_of_device_mapper_and_one_raw_file_are_one_moment() {
    let bench = Bench::new().await;
    bench.b.is_file.store(true, Ordering::SeqCst);
    let mut sources = Vec::new();
    for pool in ["a", "b"] {
        let made = bench.local.create(wanted(pool, pool, None)).await.unwrap();
        let entry = bench.entry(&made.record.id).unwrap();
        crate::backing::device::attach(&entry, Attach::Held)
            .await
            .unwrap();
        sources.push(made.record.id);
    }
    for pool in [&bench.a, &bench.b] {
        pool.steps.lock().unwrap().clear();
    }
    let want = GroupRequest {
        name: Name::new("g").unwrap(),
        sources,
        read_only: false,
        growth: Default::default(),
    };
    bench.local.snapshot_group(want).await.unwrap();
    assert_eq!(steps(&bench.a), ["suspend", "cut", "resume"]);
    assert_eq!(steps(&bench.b), ["cut"]);
    let at = |pool: &Files, n: usize| pool.steps.lock().unwrap()[n].1;
    let cut = at(&bench.b, 0);
    assert!(at(&bench.a, 0) <= cut && cut <= at(&bench.a, 2));
}

/// A group of one volume in pool `a` and one in pool `b`, and what the pools hold then.
async fn over_both(bench: &Bench) -> (Id, Vec<Record>, Vec<Record>) {
    let v = bench.volume("v").await;
    let w = bench.local.create(wanted("w", "b", None)).await.unwrap();
    let want = GroupRequest {
        name: Name::new("g").unwrap(),
        sources: vec![v, w.record.id],
        read_only: false,
        growth: Default::default(),
    };
    let group = bench.local.snapshot_group(want).await.unwrap();
    let held = |pool: &Files| pool.written.lock().unwrap().values().cloned().collect();
    (group.id, held(&bench.a), held(&bench.b))
}

fn holds_all(pool: &Files, records: &[Record]) {
    records.iter().for_each(|record| pool.holds(record));
}

fn snapshots(pool: &Files) -> usize {
    let written = pool.written.lock().unwrap();
    written
        .values()
        .filter(|record| record.is_snapshot())
        .count()
}

fn journal_of(bench: &Bench) -> Journal {
    Journal::new(bench.local.node.options().state_dir.join("journal"))
}

/// Pool `b` was made anew on another disk, or is not configured.
#[tokio::test(start_paused = true)]
async fn a_group_that_was_acknowledged_is_kept_though_a_member_is_lost() {
    let (id, a, _) = over_both(&Bench::new().await).await;
    let bench = Bench::prepared(|pool, _| holds_all(pool, &a)).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(snapshots(&bench.a), 1);
    let told = async || {
        let found = bench.local.findings().await.unwrap();
        found
            .into_iter()
            .any(|f| f.subject == id.to_string() && f.what.contains("1 of the 2"))
    };
    assert!(told().await);
    let left = bench.local.group(&id).await.unwrap();
    assert_eq!(left.members.len(), 1);
    bench.local.delete_group(&id, &[]).await.unwrap();
    assert_eq!(snapshots(&bench.a), 0);
    assert!(!told().await);
}

#[tokio::test(start_paused = true)]
async fn a_group_that_a_kill_cut_off_goes_pool_by_pool_as_they_are_read() {
    let (id, a, b) = over_both(&Bench::new().await).await;
    let (in_a, in_b) = (PoolName::new("a").unwrap(), PoolName::new("b").unwrap());
    let of_a = a.iter().map(|record| (&in_a, record));
    let all = of_a.chain(b.iter().map(|record| (&in_b, record)));
    let intent = Intent::group(all.filter(|(_, record)| record.is_snapshot()));
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::new(dir.path().join("journal"));
    journal.prepare().unwrap();
    journal.write(&id, &intent).unwrap();
    let bench = Bench::at(dir, |in_a, in_b| {
        holds_all(in_a, &a);
        holds_all(in_b, &b);
        in_b.away.store(true, Ordering::SeqCst);
    })
    .await;
    assert_eq!((snapshots(&bench.a), snapshots(&bench.b)), (0, 1));
    assert_eq!(journal.read(&id).unwrap(), Some(intent));
    bench.b.away.store(false, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!((snapshots(&bench.a), snapshots(&bench.b)), (0, 0));
    assert_eq!(journal.read(&id).unwrap(), None);
    assert!(bench.local.findings().await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_group_is_noted_while_it_is_cut_or_removed_and_no_longer() {
    let bench = Bench::new().await;
    let want = two(&bench, Duration::from_secs(3)).await;
    let journal = journal_of(&bench);
    let group = Id::derive(Role::Group, &want.name);
    let cut = tokio::spawn({
        let local = bench.local.clone();
        async move { local.snapshot_group(want).await }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    let noted = journal.read(&group).unwrap();
    let cut = cut.await.unwrap().unwrap().members;
    let noted = noted.unwrap();
    assert!(cut.iter().all(|member| noted.names(&member.record)));
    assert_eq!(journal.read(&group).unwrap(), None);
    // One that cannot go before any has gone leaves the group as it is, and later not.
    let ids: Vec<Id> = cut.into_iter().map(|member| member.record.id).collect();
    let hold = |id: &Id| bench.a.busy.lock().unwrap().extend([id.clone()]);
    ids.iter().for_each(hold);
    bench.local.delete_group(&group, &[]).await.unwrap_err();
    assert_eq!(journal.read(&group).unwrap(), None);
    let order = members(&bench.local.node, &group);
    bench.a.busy.lock().unwrap().clear();
    hold(&order[1].record.id);
    bench.local.delete_group(&group, &[]).await.unwrap_err();
    assert!(journal.read(&group).unwrap().is_some());
    bench.a.busy.lock().unwrap().clear();
    bench.local.delete_group(&group, &[]).await.unwrap();
    assert_eq!(journal.read(&group).unwrap(), None);
    assert_eq!(snapshots(&bench.a), 0);
}

#[tokio::test(start_paused = true)]
async fn a_group_whose_note_cannot_be_ended_is_no_group() {
    let bench = Bench::new().await;
    let want = two(&bench, Duration::from_secs(3)).await;
    let group = Id::derive(Role::Group, &want.name);
    let cut = tokio::spawn({
        let (local, want) = (bench.local.clone(), want.clone());
        async move { local.snapshot_group(want).await }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    let state = bench.local.node.options().state_dir.clone();
    let note = state.join(format!("journal/{group}.json"));
    // Stands for a disk that takes no change of a directory.
    std::fs::remove_file(&note).unwrap();
    std::fs::create_dir(&note).unwrap();
    cut.await.unwrap().unwrap_err();
    assert_eq!(snapshots(&bench.a), 0);
    std::fs::remove_dir(&note).unwrap();
    bench.local.snapshot_group(want).await.unwrap();
}
