use crate::records::save_lazily;
use std::sync::atomic::Ordering;

use stowage_model::FsType;
use stowage_model::record::Content;

use crate::testing::{Bench, Heard};

use super::*;

const HOUR: Duration = Duration::from_secs(3600);

/// What is told of one trouble within an hour: at once, and then ever more seldom.
const FEW: std::ops::RangeInclusive<usize> = 5..=8;

#[tokio::test(start_paused = true)]
async fn a_pool_that_stays_ill_is_told_of_at_growing_intervals() {
    let bench = Bench::new().await;
    let (heard, _guard) = Heard::listen();
    bench.a.ill.store(true, Ordering::SeqCst);
    tokio::time::sleep(HOUR).await;
    assert!(bench.a.tended.load(Ordering::SeqCst) > 1000);
    let told = heard.count("upkeep failed");
    assert!(FEW.contains(&told), "{told}");
    // The other pool is another matter.
    bench.b.ill.store(true, Ordering::SeqCst);
    tokio::time::sleep(PERIOD * 2).await;
    assert_eq!(heard.count("upkeep failed"), told + 1);
}

#[tokio::test(start_paused = true)]
async fn a_record_that_cannot_be_carried_is_told_of_at_growing_intervals() {
    let bench = Bench::new().await;
    let id = bench.volume("v").await;
    let (heard, _guard) = Heard::listen();
    bench.a.refusals.store(u32::MAX, Ordering::SeqCst);
    let mut entry = bench.entry(&id).unwrap();
    entry.record.content = Content::FileSystem(FsType::Ext4);
    save_lazily(&bench.local.node, &entry).await.unwrap();
    tokio::time::sleep(HOUR).await;
    let tried = u32::MAX - bench.a.refusals.load(Ordering::SeqCst);
    assert!(tried > 1000, "{tried}");
    let told = heard.count("record not yet in the pool");
    assert!(FEW.contains(&told), "{told}");
}

#[tokio::test(start_paused = true)]
async fn a_pool_that_waits_for_a_command_is_told_of_at_growing_intervals() {
    let (heard, _guard) = Heard::listen();
    let bench = Bench::prepared(|_, b| b.waits.store(true, Ordering::SeqCst)).await;
    tokio::time::sleep(HOUR).await;
    assert!(bench.local.node.unread().is_coming());
    let told = heard.count("lvcreate is still at work");
    assert!(FEW.contains(&told), "{told}");
}
