use std::sync::atomic::Ordering;

use stowage_model::id::Role;
use stowage_model::record::Content;
use stowage_model::request::{
    Access, AccessMode, GroupRequest, PublishRequest, SizeRange, SnapshotRequest, Source,
    StageRequest,
};
use stowage_model::{Bytes, Kind, LimitsChange, Name, Publish, VolumeRequest, Volumes};

use super::*;
use crate::testing::{Bench, wanted};

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn cut_of(source: &Id) -> SnapshotRequest {
    SnapshotRequest {
        name: name("cut"),
        source: source.clone(),
        read_only: false,
        growth: Default::default(),
    }
}

fn group_of(sources: &[Id]) -> GroupRequest {
    GroupRequest {
        name: name("group"),
        sources: sources.to_vec(),
        read_only: false,
        growth: Default::default(),
    }
}

/// What every call says of a volume, a snapshot and a group that the index lacks.
async fn every_call(bench: &Bench) -> Vec<(&'static str, Kind)> {
    let local = &bench.local;
    let volume = Id::derive(Role::Volume, &name("absent"));
    let snapshot = Id::derive(Role::Snapshot, &name("absent"));
    let (staging, target) = (bench.cgroups.join("staging"), bench.cgroups.join("target"));
    std::fs::create_dir_all(&staging).unwrap();
    let access = Access::Mount {
        fs: None,
        flags: Vec::new(),
    };
    let mode = AccessMode::SingleNodeWriter;
    let stage = StageRequest {
        id: volume.clone(),
        staging: staging.clone(),
        access: access.clone(),
        mode,
    };
    let publish = PublishRequest {
        id: volume.clone(),
        staging,
        target: target.clone(),
        access,
        mode,
        read_only: false,
        cgroup: None,
    };
    let from = |source| local.create(wanted("copy", "a", Some(source)));
    let room = SizeRange::at_least(Bytes::gib(1));
    let here = bench.volume("here").await;
    let told = [
        ("volume", local.volume(&volume).await.map(drop)),
        ("health", local.health(&volume).await.map(drop)),
        ("grow", local.grow(&volume, room).await.map(drop)),
        (
            "modify",
            local
                .modify(&volume, LimitsChange::default())
                .await
                .map(drop),
        ),
        ("stage", local.stage(stage).await),
        ("publish", local.publish(publish).await),
        ("stats", local.stats(&volume, &target).await.map(drop)),
        (
            "expand",
            local.expand(&volume, &target, None).await.map(drop),
        ),
        ("cut", local.snapshot(cut_of(&volume)).await.map(drop)),
        (
            "group cut",
            local
                .snapshot_group(group_of(&[here, volume.clone()]))
                .await
                .map(drop),
        ),
        ("clone", from(Source::Volume(volume)).await.map(drop)),
        ("snapshot", local.one_snapshot(&snapshot).await.map(drop)),
        ("restore", from(Source::Snapshot(snapshot)).await.map(drop)),
        (
            "group",
            local
                .group(&Id::derive(Role::Group, &name("absent")))
                .await
                .map(drop),
        ),
    ];
    let kind = |(what, told): (_, Result<()>)| (what, told.unwrap_err().kind());
    told.into_iter().map(kind).collect()
}

#[tokio::test]
async fn while_a_pool_is_unread_no_call_says_that_something_is_gone() {
    let bench = Bench::new().await;
    for (what, kind) in every_call(&bench).await {
        assert_eq!(kind, Kind::NotFound, "{what}");
    }
    let (local, unread) = (&bench.local, &bench.local.node.unread());
    let known = bench.volume("v").await;
    let cut = bench.snapshot(&known, "s").await;
    // One that was never read.
    let c = PoolName::new("c").unwrap();
    unread.pool(&c, "unplugged".into());
    for (what, kind) in every_call(&bench).await {
        assert_eq!(kind, Kind::Unavailable, "{what}");
    }
    // Lists that lack something would say so, too.
    let (volumes, snapshots) = (local.volumes().await, local.snapshots().await);
    for e in [volumes.whole().unwrap_err(), snapshots.whole().unwrap_err()] {
        assert_eq!(e.kind(), Kind::Unavailable);
        assert!(e.message().contains("the pool c"), "{e}");
    }
    // What is known is served and told.
    assert_eq!(local.volume(&known).await.unwrap().record.id, known);
    assert_eq!(local.one_snapshot(&cut).await.unwrap().record.id, cut);
    let listed = local.volumes().await;
    assert!(listed.all.iter().any(|v| v.record.id == known));
    let listed = (listed.gaps, local.snapshots().await);
    assert_eq!(listed.1.all.len(), 1);
    for gaps in [listed.0, listed.1.gaps] {
        assert_eq!(gaps.len(), 1, "{gaps:?}");
        assert!(gaps[0].message().contains("the pool c"), "{gaps:?}");
    }
    unread.is_read(&c);
    assert_eq!(local.snapshots().await.whole().unwrap().len(), 1);
    for (what, kind) in every_call(&bench).await {
        assert_eq!(kind, Kind::NotFound, "{what}");
    }
}

#[tokio::test]
async fn what_has_an_unreadable_record_is_told_by_its_id_and_missing_in_no_list() {
    let bench = Bench::new().await;
    let id = Id::derive(Role::Volume, &name("damaged"));
    let a = PoolName::new("a").unwrap();
    bench.local.node.unread().record(&id, &a, "torn".into());
    let told = bench.local.volume(&id).await.unwrap_err();
    assert_eq!(told.kind(), Kind::Unavailable);
    assert!(told.message().contains("torn"), "{told}");
    let told = bench.local.volumes().await.whole().unwrap_err();
    assert!(told.message().contains(id.as_str()), "{told}");
    // Another that is not there is not there.
    let other = Id::derive(Role::Volume, &name("other"));
    let told = bench.local.volume(&other).await.unwrap_err();
    assert_eq!(told.kind(), Kind::NotFound, "{told}");
}

#[tokio::test]
async fn a_copy_whose_source_is_unread_is_neither_ended_nor_told_to_be_lost() {
    let bench = Bench::new().await;
    let source = bench.volume("source").await;
    let want = VolumeRequest {
        source: Some(Source::Volume(source.clone())),
        ..wanted("copy", "b", None)
    };
    let copy = bench.local.create(want.clone()).await.unwrap().record.id;
    // As a kill leaves it.
    bench.alter(&copy, |e| e.record.content = Content::Filling);
    bench.local.node.index().remove(&source);
    let a = PoolName::new("a").unwrap();
    bench.local.node.unread().pool(&a, "unplugged".into());
    let told = bench.local.create(want).await.unwrap_err();
    assert_eq!(told.kind(), Kind::Unavailable, "{told}");
    assert!(bench.entry(&copy).is_some());
}

#[tokio::test(start_paused = true)]
async fn what_a_pool_held_is_told_while_it_is_away_and_nothing_is_done_on_that_word() {
    let state = tempfile::tempdir().unwrap();
    let (at, next) = (state.path().to_owned(), tempfile::tempdir().unwrap());
    let (volume, snapshot) = {
        let bench = Bench::at(state, |_, _| ()).await;
        let want = crate::testing::wanted("v", "b", None);
        let volume = bench.local.create(want).await.unwrap().record.id;
        let snapshot = bench.snapshot(&volume, "s").await;
        let gone = crate::testing::wanted("gone", "b", None);
        let gone = bench.local.create(gone).await.unwrap().record.id;
        bench.local.delete(&gone).await.unwrap();
        bench.local.stop(Duration::from_secs(1)).await;
        // Its state directory is that of the next.
        std::fs::rename(at.join("known"), next.path().join("known")).unwrap();
        (volume, snapshot)
    };
    let bench = Bench::at(next, |_, b| b.away.store(true, Ordering::SeqCst)).await;
    let local = &bench.local;
    // Nothing is lacking in a list, since all that the pool held is known.
    let volumes = local.volumes().await.whole().unwrap();
    assert_eq!(volumes.len(), 1);
    assert!(volumes[0].away && volumes[0].record.id == volume);
    let told = local.volume(&volume).await.unwrap();
    assert_eq!(told, volumes[0]);
    let snapshots = local.snapshots().await.whole().unwrap();
    assert!(snapshots[0].away && snapshots[0].record.id == snapshot);
    assert_eq!(local.one_snapshot(&snapshot).await.unwrap(), snapshots[0]);
    assert_eq!(local.find(Role::Volume, "v").await.unwrap(), volume);
    for refused in [
        local.delete(&volume).await.unwrap_err(),
        local.delete_snapshot(&snapshot).await.unwrap_err(),
        local
            .grow(&volume, SizeRange::at_least(Bytes::gib(1)))
            .await
            .unwrap_err(),
        local
            .create(crate::testing::wanted("v", "b", None))
            .await
            .unwrap_err(),
    ] {
        assert_eq!(refused.kind(), Kind::Unavailable, "{refused}");
    }
    // Once it is read, it holds what it holds: here it was emptied meanwhile.
    bench.b.away.store(false, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(local.volumes().await.whole().unwrap(), []);
    assert_eq!(
        local.volume(&volume).await.unwrap_err().kind(),
        Kind::NotFound
    );
}
