use super::*;
use std::time::Duration;
use stowage_model::FsType;
use stowage_model::volumes::Volumes;

use crate::testing::{Bench, wanted};

#[tokio::test(start_paused = true)]
async fn an_instant_clone_waits_for_work_on_its_source_and_shows_what_came_of_it() {
    let bench = Bench::new().await;
    let source = bench.volume("v").await;
    let staging = bench.local.inner.ops.begin(&source, "staging").await;
    let local = bench.local.clone();
    let clone = || wanted("c", "a", Some(Source::Volume(source.clone())));
    let busy = local.create(clone()).await.unwrap_err();
    assert_eq!(busy.kind(), Kind::Pending, "{busy}");
    let waiting = tokio::spawn({
        let (local, want) = (local.clone(), clone());
        async move { local.create(want).await }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    bench.alter(&source, |e| {
        e.record.content = Content::FileSystem(FsType::Ext4);
    });
    drop(staging);
    let made = waiting.await.unwrap().unwrap();
    assert_eq!(made.record.content, Content::FileSystem(FsType::Ext4));
}

#[tokio::test]
async fn what_mkfs_left_half_is_not_copied() {
    let bench = Bench::new().await;
    let source = bench.volume("v").await;
    bench.alter(&source, |e| e.half_formatted = true);
    for pool in ["a", "b"] {
        let want = wanted("c", pool, Some(Source::Volume(source.clone())));
        let refused = bench.local.create(want).await.unwrap_err();
        assert_eq!(refused.kind(), Kind::Precondition, "{refused}");
    }
}
