use std::sync::atomic::Ordering;
use std::time::Duration;
use stowage_model::volumes::Volumes;

use crate::testing::Bench;

async fn not_wiped_by(bench: &Bench) -> usize {
    let findings = bench.local.findings().await.unwrap();
    let told = findings
        .iter()
        .filter(|f| f.what.contains("cannot be wiped"));
    told.count()
}

fn wipes(bench: &Bench) -> usize {
    let jobs = bench.local.node.jobs().list();
    jobs.iter().filter(|job| job.what == "wipe").count()
}

#[tokio::test(start_paused = true)]
async fn a_wipe_waits_for_whoever_holds_the_leftover_for_a_while() {
    let bench = Bench::new().await;
    let id = bench.volume("v").await;
    bench.a.wipe_refusals.store(4, Ordering::SeqCst);
    bench.local.delete(&id).await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(not_wiped_by(&bench).await, 1, "told while it lasts");
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(not_wiped_by(&bench).await, 1, "told once");
    assert!(bench.a.wiped.lock().unwrap().is_empty());
    tokio::time::sleep(Duration::from_secs(15)).await;
    assert_eq!(*bench.a.wiped.lock().unwrap(), [id.to_string()]);
    assert_eq!(not_wiped_by(&bench).await, 0);
    assert_eq!(wipes(&bench), 0);
}

#[tokio::test(start_paused = true)]
async fn what_is_no_leftover_any_more_is_left_alone_at_once() {
    let bench = Bench::new().await;
    let id = bench.volume("v").await;
    bench.a.no_leftovers.store(true, Ordering::SeqCst);
    bench.local.delete(&id).await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(wipes(&bench), 0);
    assert_eq!(not_wiped_by(&bench).await, 0);
    assert!(bench.a.wiped.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_was_removed_is_wiped_though_that_cannot_be_noted() {
    let bench = Bench::new().await;
    let id = bench.volume("v").await;
    // Stands for a disk that takes no change of a directory.
    let state = bench.local.node.options().state_dir.clone();
    let note = state.join(format!("journal/{id}.json"));
    std::fs::create_dir(&note).unwrap();
    bench.local.delete(&id).await.unwrap_err();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(*bench.a.wiped.lock().unwrap(), [id.to_string()]);
    assert!(bench.local.volumes().await.whole().unwrap().is_empty());
    std::fs::remove_dir(&note).unwrap();
    bench.local.delete(&id).await.unwrap();
    assert_eq!(bench.volume("v").await, id);
}
