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
    assert!(bench.local.snapshots().await.unwrap().is_empty());
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
        entry
            .pool
            .attach(&entry.record, Attach::Held)
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
