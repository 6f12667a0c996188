use std::time::Duration;

use stowage_model::{Name, id::Role};

use super::*;
use crate::journal::Journal;
use crate::testing::Bench;

fn id(name: &str) -> Id {
    Id::derive(Role::Volume, &Name::new(name).unwrap())
}

/// A state directory with notes of what these volumes were in the middle of.
fn noted(names: &[&str]) -> (tempfile::TempDir, Journal) {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::new(dir.path().join("journal"));
    journal.prepare().unwrap();
    for name in names {
        journal.write(&id(name), &Intent::Format).unwrap();
    }
    (dir, journal)
}

#[tokio::test(start_paused = true)]
async fn a_pool_that_comes_late_is_looked_after_though_a_volume_elsewhere_is_busy() {
    let (dir, journal) = noted(&["a", "b", "c", "d", "e", "f"]);
    let bench = Bench::at(dir, |_, b| b.away.store(true, Ordering::SeqCst)).await;
    // The first of them is busy, as e2fsck of a large file system is, or a mount on a disk that hangs.
    let busy = bench
        .local
        .inner
        .noted_before
        .keys()
        .next()
        .unwrap()
        .clone();
    let held = bench.local.inner.ops.begin(&busy, "staging").await;
    bench.b.away.store(false, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert!(bench.b.tended.load(Ordering::SeqCst) > 100);
    // What is noted of others does not wait for it either.
    assert_eq!(journal.load().unwrap().0.len(), 1);
    assert!(journal.read(&busy).unwrap().is_some());
    drop(held);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(journal.read(&busy).unwrap().is_none());
}
