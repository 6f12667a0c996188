use super::*;
use crate::records::{note, noted, save_lazily};
use crate::recover::read::take_in;
use crate::state::journal::Intent;
use std::sync::atomic::Ordering;
use std::time::Duration;
use stowage_model::request::{Media, Placement, Source};
use stowage_model::volumes::{Finding, Severity, Trouble, Volumes};
use stowage_model::{FsType, LimitsChange, Name, PoolName};
use stowage_pool::Defect;

use crate::testing::{Bench, wanted};

#[tokio::test(start_paused = true)]
async fn an_instant_clone_waits_for_work_on_its_source_and_shows_what_came_of_it() {
    let bench = Bench::new().await;
    let source = bench.volume("v").await;
    let staging = bench.local.node.ops().begin(&source, "staging").await;
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

#[tokio::test(start_paused = true)]
async fn a_pool_that_hangs_holds_up_no_volume_that_another_can_take() {
    let bench = Bench::new().await;
    let anywhere = |name: &str| VolumeRequest {
        placement: Default::default(),
        ..wanted(name, "a", None)
    };
    let first = bench.local.create(anywhere("first")).await.unwrap();
    assert_eq!(first.pool.as_str(), "a");
    bench.a.hangs.store(true, Ordering::SeqCst);
    let begun = tokio::time::Instant::now();
    let second = bench.local.create(anywhere("second")).await.unwrap();
    assert_eq!(second.pool.as_str(), "b");
    // A CSI sidecar waits for 10 s.
    assert!(begun.elapsed() < Duration::from_secs(5));
    bench.b.hangs.store(true, Ordering::SeqCst);
    let nowhere = bench.local.create(anywhere("third")).await.unwrap_err();
    assert_eq!(nowhere.kind(), Kind::Full, "{nowhere}");
}

#[tokio::test]
async fn a_pool_that_could_not_be_read_counts_whatever_medium_is_asked_for() {
    let bench = Bench::new().await;
    let on_ssd = |name: &str| VolumeRequest {
        placement: Placement {
            media: Some(Media::Ssd),
            ..Placement::default()
        },
        ..wanted(name, "a", None)
    };
    *bench.a.media.lock().unwrap() = Some(Media::Ssd);
    let gone = PoolName::new("b").unwrap();
    bench.local.node.unread().pool(&gone, "unplugged".into());
    // Its mount point, without its file system, lies on another disk.
    for seems in [None, Some(Media::Hdd)] {
        *bench.b.media.lock().unwrap() = seems;
        let refused = bench.local.create(on_ssd("v")).await.unwrap_err();
        assert_eq!(refused.kind(), Kind::Unavailable, "{refused}");
        assert!(refused.message().contains("the pool b"), "{refused}");
    }
    bench.local.node.unread().is_read(&gone);
    let made = bench.local.create(on_ssd("v")).await.unwrap();
    assert_eq!(made.pool.as_str(), "a");
}

#[tokio::test]
async fn what_is_astray_in_a_pool_is_told_and_neither_made_again_nor_deleted() {
    let bench = Bench::new().await;
    let want = wanted("v", "a", None);
    let id = Id::derive(stowage_model::id::Role::Volume, &want.name);
    let finding = Finding {
        severity: Severity::Error,
        trouble: Trouble::BadRecord,
        subject: id.to_string(),
        what: "renamed by somebody".into(),
        mend: "rename it back".into(),
    };
    *bench.a.defects.lock().unwrap() = vec![Defect::Astray {
        lv: "theirs".into(),
        ids: vec![id.clone()],
        finding: finding.clone(),
    }];
    let pool: Arc<dyn Pool> = bench.a.clone();
    take_in(&bench.local.node, &pool, None::<std::future::Ready<()>>)
        .await
        .unwrap();
    let found = bench.local.findings().await.unwrap();
    assert!(found.contains(&finding), "{found:?}");
    for refused in [
        bench.local.delete(&id).await,
        bench.local.create(want).await.map(drop),
    ] {
        let e = refused.unwrap_err();
        assert_eq!(e.kind(), Kind::Unavailable, "{e}");
        assert!(e.message().contains("theirs"), "{e}");
    }
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

#[tokio::test]
async fn a_snapshot_that_overflowed_is_told_and_the_next_of_its_name_is_another() {
    let bench = Bench::new().await;
    let source = bench.volume("v").await;
    let snapshot = bench.snapshot(&source, "s").await;
    let lost = async || bench.local.snapshots().await.whole().unwrap()[0].lost;
    assert!(!lost().await);
    let finding = Finding {
        severity: Severity::Error,
        trouble: Trouble::SnapshotLost,
        subject: snapshot.to_string(),
        what: "overflowed".into(),
        mend: "delete it".into(),
    };
    bench
        .local
        .node
        .notices()
        .found_in(&PoolName::new("a").unwrap(), finding);
    assert!(lost().await);
    bench.local.delete_snapshot(&snapshot).await.unwrap();
    assert_eq!(bench.snapshot(&source, "s").await, snapshot);
    assert!(!lost().await);
}

/// A restore into another pool, cut off by a stop.
async fn half_filled(bench: &Bench) -> (stowage_model::VolumeRequest, Id) {
    let source = bench.volume("v").await;
    let snapshot = bench.snapshot(&source, "s").await;
    let want = wanted("r", "b", Some(Source::Snapshot(snapshot.clone())));
    let made = bench.local.create(want.clone()).await.unwrap().record.id;
    bench.alter(&made, |e| e.record.content = Content::Filling);
    (want, snapshot)
}

#[tokio::test]
async fn a_copy_taken_up_again_whose_source_is_gone_leaves_no_volume() {
    let bench = Bench::new().await;
    let (want, snapshot) = half_filled(&bench).await;
    bench.local.delete_snapshot(&snapshot).await.unwrap();
    let gone = bench.local.create(want).await.unwrap_err();
    assert_eq!(gone.kind(), Kind::NotFound, "{gone}");
    assert!(bench.b.written.lock().unwrap().is_empty());
    assert_eq!(bench.local.volumes().await.whole().unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_waits_for_its_source_is_kept() {
    let bench = Bench::new().await;
    let source = bench.volume("v").await;
    bench.alter(&source, |e| e.record.content = Content::Raw);
    let want = wanted("c", "b", Some(Source::Volume(source.clone())));
    let _at_work = bench.local.node.ops().begin(&source, "staging").await;
    let waits = bench.local.create(want).await.unwrap_err();
    assert_eq!(waits.kind(), Kind::Pending, "{waits}");
    let kept: Vec<Content> = bench
        .b
        .written
        .lock()
        .unwrap()
        .values()
        .map(|r| r.content)
        .collect();
    assert_eq!(kept, [Content::Filling]);
}

#[tokio::test]
async fn a_copy_that_fails_is_undone_and_one_that_a_stop_cut_off_is_kept() {
    for (stops, kept) in [(false, 0), (true, 1)] {
        let bench = Bench::new().await;
        let (want, _) = half_filled(&bench).await;
        if stops {
            bench.local.node.stopping().cancel();
        }
        bench.b.refusals.store(1, Ordering::SeqCst);
        bench.local.create(want).await.unwrap_err();
        assert_eq!(bench.b.written.lock().unwrap().len(), kept);
    }
}

#[tokio::test(start_paused = true)]
async fn a_copy_is_whole_though_its_source_is_read_by_others() {
    let bench = Bench::new().await;
    let source = bench.volume("v").await;
    let snapshot = bench.snapshot(&source, "s").await;
    bench.alter(&snapshot, |e| e.record.content = Content::Raw);
    std::fs::write(bench.a.file(&snapshot), vec![7; 16 << 20]).unwrap();
    bench.a.busy.lock().unwrap().insert(snapshot.clone());
    let want = wanted("r", "b", Some(Source::Snapshot(snapshot)));
    let made = bench.local.create(want).await.unwrap();
    let bytes = std::fs::read(bench.b.file(&made.record.id)).unwrap();
    assert!(bytes.iter().all(|b| *b == 7));
}

/// What it shows does not change, and there is nothing of its own that could be cut.
#[tokio::test(start_paused = true)]
async fn a_volume_that_shows_a_snapshot_in_place_is_copied_without_a_cut() {
    let bench = Bench::new().await;
    let source = bench.volume("v").await;
    let snapshot = bench.snapshot(&source, "s").await;
    bench.alter(&snapshot, |e| e.record.content = Content::Raw);
    let mut reader = wanted("r", "a", Some(Source::Snapshot(snapshot)));
    reader.read_only = true;
    let reader = bench.local.create(reader).await.unwrap().record.id;
    bench.a.shows.store(true, Ordering::SeqCst);
    std::fs::write(bench.a.file(&reader), vec![7; 16 << 20]).unwrap();
    bench.a.steps.lock().unwrap().clear();
    let clone = wanted("c", "b", Some(Source::Volume(reader)));
    let made = bench.local.create(clone).await.unwrap();
    let bytes = std::fs::read(bench.b.file(&made.record.id)).unwrap();
    assert!(bytes.iter().all(|b| *b == 7));
    let steps = bench.a.steps.lock().unwrap();
    assert!(steps.iter().all(|(step, _)| *step != "cut"), "{steps:?}");
}

#[tokio::test]
async fn a_copy_of_what_was_never_handed_out_is_a_new_blank_volume() {
    let bench = Bench::new().await;
    let source = bench.volume("v").await;
    let snapshot = bench.snapshot(&source, "s").await;
    // As a thick logical volume, whose ends are zeroed when it is made, lies on what others left.
    let mut left = vec![0; 16 << 20];
    left[1 << 20..15 << 20].fill(7);
    for id in [&source, &snapshot] {
        std::fs::write(bench.a.file(id), &left).unwrap();
    }
    let from_volume = wanted("c", "b", Some(Source::Volume(source)));
    let from_snapshot = wanted("r", "b", Some(Source::Snapshot(snapshot)));
    for want in [from_volume, from_snapshot] {
        let made = bench.local.create(want.clone()).await.unwrap();
        assert_eq!(made.record.content, Content::Blank);
        let bytes = std::fs::read(bench.b.file(&made.record.id)).unwrap();
        assert!(bytes.iter().all(|b| *b == 0));
        let again = bench.local.create(want).await.unwrap();
        assert_eq!(again.record, made.record);
    }
}

#[tokio::test(start_paused = true)]
async fn a_record_that_could_not_be_written_is_written_later() {
    let bench = Bench::new().await;
    let id = bench.volume("v").await;
    let mut entry = bench.entry(&id).unwrap();
    entry.record.content = Content::FileSystem(FsType::Ext4);
    bench.a.refusals.store(2, Ordering::SeqCst);
    save_lazily(&bench.local.node, &entry).await.unwrap();
    let written = || bench.a.written.lock().unwrap()[&id].content;
    let patience = tokio::time::timeout(Duration::from_secs(60), async {
        while written() == Content::Blank {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    });
    patience.await.expect("tried until it is there");
    assert_eq!(bench.a.refusals.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_half_made_file_system_is_remembered_whatever_else_changes() {
    let bench = Bench::new().await;
    let id = bench.volume("v").await;
    let inner = &bench.local.node;
    note(inner, &id, Intent::Format).await.unwrap();
    bench.alter(&id, |e| e.half_formatted = true);
    let mut change = LimitsChange::default();
    change.set("bps", "1Mi").unwrap();
    bench.local.modify(&id, change).await.unwrap();
    assert_eq!(noted(inner, &id).await.unwrap(), Some(Intent::Format));
}

#[tokio::test]
async fn a_name_given_at_another_door_is_another_volume() {
    let bench = Bench::new().await;
    let docker = stowage_model::id::Door::new("docker").unwrap();
    let theirs = VolumeRequest {
        name: Name::at(docker, "data").unwrap(),
        ..wanted("data", "a", None)
    };
    let own = bench.local.create(wanted("data", "a", None)).await.unwrap();
    let other = bench.local.create(theirs.clone()).await.unwrap();
    assert_ne!(own.record.id, other.record.id);
    assert_eq!(
        bench.local.create(theirs).await.unwrap().record,
        other.record
    );
    bench.local.delete(&other.record.id).await.unwrap();
    let left = bench.local.volumes().await.whole().unwrap();
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].record, own.record);
}

#[tokio::test]
async fn what_is_on_a_volume_that_should_be_blank_is_in_its_copies() {
    let bench = Bench::new().await;
    let v = bench.volume("v").await;
    // The note of its first mount was lost, or somebody wrote to it without us. Its pool cannot tell.
    std::fs::write(bench.a.file(&v), vec![7; 16 << 20]).unwrap();
    let s = bench.snapshot(&v, "s").await;
    for (name, source) in [("c", Source::Volume(v)), ("r", Source::Snapshot(s))] {
        let copy = bench.local.create(wanted(name, "b", Some(source))).await;
        let id = copy.unwrap().record.id;
        let copied = std::fs::read(bench.b.file(&id)).unwrap();
        assert!(copied == [7; 16 << 20], "{name}");
        // It is found on the copy, too.
        assert_eq!(bench.entry(&id).unwrap().record.content, Content::Blank);
    }
}
