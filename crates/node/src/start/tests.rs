use std::sync::atomic::Ordering;
use std::time::Duration;

use stowage_model::volumes::{PoolStatus, Volumes};
use stowage_model::{Kind, Name};
use tokio::time::Instant;

use super::*;
use crate::journal::Intent;
use crate::testing::{Bench, wanted};

fn of<'a>(all: &'a [PoolStatus], name: &str) -> &'a PoolStatus {
    all.iter().find(|p| p.name.as_str() == name).unwrap()
}

#[tokio::test(start_paused = true)]
async fn calls_are_answered_soon_though_a_pool_hangs_at_the_start() {
    let begun = Instant::now();
    let bench = Bench::prepared(|_, b| b.silent.store(true, Ordering::SeqCst)).await;
    assert!(
        begun.elapsed() < Duration::from_secs(2),
        "{:?}",
        begun.elapsed()
    );
    bench.local.ready().unwrap();
    // The other pool is served at once.
    let asked = Instant::now();
    let id = bench.volume("v").await;
    let told = bench.local.pools().await.unwrap();
    assert_eq!(of(&told, "a").problem, None);
    assert!(of(&told, "b").problem.as_deref().unwrap().contains("read"));
    let found = bench.local.findings().await.unwrap();
    assert!(found.iter().any(|f| f.subject == "b"), "{found:?}");
    bench.local.delete(&id).await.unwrap();
    assert!(
        asked.elapsed() < Duration::from_secs(1),
        "{:?}",
        asked.elapsed()
    );
    // What it may hold is not taken for gone.
    let refused = bench.local.delete(&id).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Precondition);
    let refused = bench.local.create(wanted("w", "b", None)).await;
    assert_eq!(refused.unwrap_err().kind(), Kind::Precondition);
}

#[tokio::test(start_paused = true)]
async fn a_pool_that_waits_for_a_command_of_a_dead_daemon_is_read_when_that_has_ended() {
    let bench = Bench::prepared(|_, b| b.waits.store(true, Ordering::SeqCst)).await;
    let told = bench.local.pools().await.unwrap();
    let problem = of(&told, "b").problem.clone().unwrap();
    assert!(problem.contains("lvcreate is still at work"), "{problem}");
    let made = tokio::spawn({
        let local = bench.local.clone();
        async move { local.create(wanted("w", "b", None)).await }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    bench.b.waits.store(false, Ordering::SeqCst);
    // Whoever asked meanwhile has waited for it.
    made.await.unwrap().unwrap();
    assert_eq!(of(&bench.local.pools().await.unwrap(), "b").problem, None);
}

#[tokio::test(start_paused = true)]
async fn a_pool_that_does_not_answer_is_asked_once_and_told_as_it_was_known() {
    let bench = Bench::new().await;
    let known = bench.local.pools().await.unwrap();
    assert_eq!(
        (of(&known, "b").problem.clone(), of(&known, "b").age),
        (None, None)
    );
    bench.b.silent.store(true, Ordering::SeqCst);
    let before = bench.b.asked.load(Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(5)).await;
    for _ in 0..20 {
        let asked = Instant::now();
        let told = bench.local.pools().await.unwrap();
        bench.local.findings().await.unwrap();
        assert!(
            asked.elapsed() < Duration::from_secs(2),
            "{:?}",
            asked.elapsed()
        );
        assert_eq!(of(&told, "a").problem, None);
        let b = of(&told, "b");
        let problem = b.problem.as_deref().unwrap();
        assert!(problem.contains("has not answered"), "{problem}");
        assert_eq!(b.total, of(&known, "b").total);
        assert!(b.age >= Some(5), "{:?}", b.age);
    }
    let asked = bench.b.asked.load(Ordering::SeqCst) - before;
    assert_eq!(asked, 1, "questions pile up");
}

#[tokio::test(start_paused = true)]
async fn what_only_all_pools_tell_waits_for_the_last_of_them() {
    let dir = tempfile::tempdir().unwrap();
    let id =
        stowage_model::Id::derive(stowage_model::id::Role::Volume, &Name::new("gone").unwrap());
    let journal = Journal::new(dir.path().join("journal"));
    journal.prepare().unwrap();
    journal.write(&id, &Intent::Format).unwrap();
    let bench = Bench::at(dir, |_, b| b.waits.store(true, Ordering::SeqCst)).await;
    assert_eq!(journal.read(&id).unwrap(), Some(Intent::Format));
    bench.b.waits.store(false, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(journal.read(&id).unwrap(), None);
}

#[tokio::test]
async fn damage_in_the_state_directory_is_told_and_over_when_it_is_mended() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    for folder in ["pools", "journal", "attachments"] {
        std::fs::create_dir(at(folder)).unwrap();
        std::fs::write(at(folder).join("junk.json"), "{").unwrap();
    }
    let paths: Vec<_> = ["pools", "journal", "attachments"]
        .map(|folder| at(folder).join("junk.json"))
        .to_vec();
    let bench = Bench::at(dir, |_, _| ()).await;
    bench.volume("v").await;
    let found = bench.local.findings().await.unwrap();
    for path in &paths {
        let named = |f: &&Finding| f.what.contains(path.to_str().unwrap());
        assert_eq!(found.iter().filter(named).count(), 1, "{path:?}: {found:?}");
        std::fs::remove_file(path).unwrap();
    }
    bench.local.inner.look_at_state(false).await;
    assert_eq!(bench.local.findings().await.unwrap(), []);
}
