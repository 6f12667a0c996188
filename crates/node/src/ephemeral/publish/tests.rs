use super::*;
use crate::config::ephemeral::EphemeralRules;
use crate::state::attachments::{Attachment, Attachments, Publication, Staging};
use crate::state::ground::Ground;
use crate::volume::create::create_locked;
use crate::volume::remove::remove_locked;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Duration;
use stowage_model::record::Content;
use stowage_model::request::{Layout, Media, PoolKind, Provisioning, Source};
use stowage_model::volume_request::Wanted;
use stowage_model::volumes::Volumes;
use stowage_model::{Bytes, FsType, Limits, Name, PoolName, Publish, Record, VolumeRequest};

use crate::testing::{Bench, wanted};

fn pool(name: &str) -> PoolName {
    PoolName::new(name).unwrap()
}

/// What the CSI door makes of an inline volume without any attribute.
fn plain(name: &str) -> VolumeRequest {
    VolumeRequest {
        size: Some(Bytes::mib(100)),
        placement: Default::default(),
        provisioning: Provisioning::Thick,
        ..wanted(name, "a", None)
    }
}

fn request(change: impl FnOnce(&mut VolumeRequest)) -> EphemeralRequest {
    let mut volume = plain("csi-1");
    change(&mut volume);
    EphemeralRequest {
        volume,
        target: "/nowhere/t".into(),
        flags: Vec::new(),
        read_only: false,
    }
}

fn bound(write_bps: u64) -> Limits {
    Limits {
        write_bps: Some(write_bps),
        ..Limits::default()
    }
}

#[tokio::test]
async fn the_author_of_a_pod_has_size_file_system_pool_and_limits_and_no_more() {
    let rules = EphemeralRules {
        pools: Some(vec![pool("a")]),
        limits: bound(1000),
        ..EphemeralRules::default()
    };
    let bench = Bench::with_rules(rules.clone()).await;
    let source = bench.volume("source").await;
    let invalid = [
        (
            "volumeType",
            request(|v| v.placement.kind = Some(PoolKind::File)),
        ),
        (
            "mediaType",
            request(|v| v.placement.media = Some(Media::Ssd)),
        ),
        ("lvmType", request(|v| v.layout = Layout::Striped)),
        ("lvmType", request(|v| v.layout = Layout::Raid1)),
        (
            "provisioning",
            request(|v| v.provisioning = Provisioning::Thin),
        ),
        ("mkfsOptions", request(|v| v.mkfs = Some("-m0".into()))),
        ("copy", request(|v| v.source = Some(Source::Volume(source)))),
        ("block", request(|v| v.usage = Wanted::Either(None))),
        ("pool b", request(|v| v.placement.pool = Some(pool("b")))),
        ("wbps", request(|v| v.limits = bound(1001))),
    ];
    let refused = async |bench: &Bench, request, kind: Kind, word: &str| {
        let e = bench.local.publish_ephemeral(request).await.unwrap_err();
        assert_eq!(e.kind(), kind, "{word}: {e}");
        assert!(e.message().contains(word), "{word}: {e}");
        assert!(bench.local.node.attachments().all().is_empty(), "{word}");
    };
    for (word, request) in invalid {
        refused(&bench, request, Kind::Invalid, word).await;
    }
    let large = request(|v| v.size = Some(Bytes::gib(65)));
    refused(&bench, large, Kind::OutOfRange, "max-size").await;
    assert_eq!(bench.local.volumes().await.whole().unwrap().len(), 1);
    let off = EphemeralRules {
        enabled: false,
        ..rules
    };
    let bench = Bench::with_rules(off).await;
    refused(&bench, request(|_| {}), Kind::Precondition, "switched off").await;
}

#[tokio::test]
async fn inline_volumes_lie_in_their_pools_with_the_limits_of_the_node() {
    let rules = EphemeralRules {
        pools: Some(vec![pool("b")]),
        limits: bound(1000),
        ..EphemeralRules::default()
    };
    let bench = Bench::with_rules(rules.clone()).await;
    let make = async |volume: &VolumeRequest| {
        let id = Id::ephemeral(&volume.name);
        let inner = &bench.local.node;
        create_locked(inner, id, &volume.settled(None).unwrap(), Some(&rules)).await
    };
    let made = make(&plain("csi-1")).await.unwrap();
    assert_eq!(made.pool, pool("b"));
    assert_eq!(made.record.limits, bound(1000));
    let lower = VolumeRequest {
        limits: Limits {
            read_iops: Some(7),
            ..bound(9)
        },
        ..plain("csi-2")
    };
    assert_eq!(make(&lower).await.unwrap().record.limits, lower.limits);
    // Asked for again, as by a kubelet that was restarted, it is the same one, whatever the rules
    // have become.
    let other = EphemeralRules::default();
    let inner = &bench.local.node;
    let spec = lower.settled(None).unwrap();
    let again = create_locked(inner, Id::ephemeral(&lower.name), &spec, Some(&other));
    assert_eq!(again.await.unwrap().record.limits, lower.limits);
    let elsewhere = VolumeRequest {
        placement: wanted("x", "a", None).placement,
        ..plain("csi-3")
    };
    let e = make(&elsewhere).await.unwrap_err();
    assert!(e.message().contains("only in the pool(s) b"), "{e}");
}

#[tokio::test]
async fn inline_volumes_are_as_many_as_their_rules_say_however_small_they_are() {
    let rules = EphemeralRules {
        max_count: 3,
        ..EphemeralRules::default()
    };
    let bench = Bench::with_rules(rules.clone()).await;
    let make = |name: &str| {
        let volume = VolumeRequest {
            size: Some(Bytes::mib(1)),
            placement: wanted("x", "a", None).placement,
            ..plain(name)
        };
        let (inner, rules) = (Arc::clone(&bench.local.node), rules.clone());
        async move {
            let id = Id::ephemeral(&volume.name);
            create_locked(&inner, id, &volume.settled(None).unwrap(), Some(&rules)).await
        }
    };
    // What is lasting does not count.
    bench.volume("lasting").await;
    let made = futures::future::join_all((0..5).map(|n| make(&format!("csi-{n}")))).await;
    let (made, refused): (Vec<_>, Vec<_>) = made.into_iter().partition(Result::is_ok);
    assert_eq!((made.len(), refused.len()), (3, 2));
    for e in refused.into_iter().filter_map(Result::err) {
        assert_eq!(e.kind(), Kind::Full, "{e}");
        assert!(e.message().contains("max-count"), "{e}");
    }
    let made: Vec<_> = made.into_iter().filter_map(Result::ok).collect();
    // Asked for again it is there.
    let name = made[0].record.name.as_str().to_owned();
    assert_eq!(make(&name).await.unwrap().record.id, made[0].record.id);
    remove_locked(&bench.local.node, &made[0].record.id)
        .await
        .unwrap();
    make("csi-9").await.unwrap();
}

/// Pools of 1 GiB here: 256 MiB are for inline volumes, two of 100 MiB.
#[tokio::test]
async fn inline_volumes_take_their_share_of_a_pool_and_no_more() {
    let rules = EphemeralRules::default();
    let bench = Bench::new().await;
    let make = |name: &str, place: &str| {
        let volume = VolumeRequest {
            placement: match place {
                "" => Default::default(),
                pool => wanted("x", pool, None).placement,
            },
            ..plain(name)
        };
        let (inner, rules) = (Arc::clone(&bench.local.node), rules.clone());
        async move {
            let id = Id::ephemeral(&volume.name);
            create_locked(&inner, id, &volume.settled(None).unwrap(), Some(&rules)).await
        }
    };
    // All at once: each must count those that are being made.
    let made = futures::future::join_all((0..5).map(|n| make(&format!("csi-{n}"), "a"))).await;
    let (made, refused): (Vec<_>, Vec<_>) = made.into_iter().partition(Result::is_ok);
    assert_eq!((made.len(), refused.len()), (2, 3));
    for e in refused.into_iter().filter_map(Result::err) {
        assert_eq!(e.kind(), Kind::Full, "{e}");
        assert!(e.message().contains("max-share"), "{e}");
    }
    // What is lasting takes none of it, and another pool has a share of its own.
    bench.volume("lasting").await;
    for name in ["csi-7", "csi-8"] {
        assert_eq!(make(name, "").await.unwrap().pool, pool("b"));
    }
    assert_eq!(make("csi-9", "").await.unwrap_err().kind(), Kind::Full);
    let gone = made.into_iter().find_map(Result::ok).unwrap().record.id;
    remove_locked(&bench.local.node, &gone).await.unwrap();
    assert_eq!(make("csi-9", "").await.unwrap().pool, pool("a"));
}

/// The record of an inline volume in pool `a` that was in use.
async fn an_inline_record() -> Record {
    let bench = Bench::new().await;
    let rules = EphemeralRules::default();
    let want = VolumeRequest {
        placement: wanted("x", "a", None).placement,
        ..plain("csi-1")
    };
    let inner = &bench.local.node;
    let spec = want.settled(None).unwrap();
    let made = create_locked(inner, Id::ephemeral(&want.name), &spec, Some(&rules));
    let mut record = made.await.unwrap().record;
    record.content = Content::FileSystem(FsType::Ext4);
    record
}

fn is_there(bench: &Bench, id: &Id) -> bool {
    bench.a.written.lock().unwrap().contains_key(id)
}

/// As with a state directory whose own disk is not mounted at the start, or whose notes cannot be read,
/// while the pools are there.
#[tokio::test(start_paused = true)]
async fn an_inline_volume_of_which_nothing_is_noted_is_kept_and_told() {
    let record = an_inline_record().await;
    let id = &record.id;
    for readable in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        if !readable {
            std::fs::write(dir.path().join("attachments"), "").unwrap();
        }
        let bench = Bench::at(dir, |a, _| a.holds(&record)).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(is_there(&bench, id), "readable: {readable}");
        assert!(bench.a.wiped.lock().unwrap().is_empty());
        let told = bench.local.health(id).await.unwrap();
        assert!(told.iter().any(|f| f.what.contains("is kept")), "{told:?}");
        if readable {
            // The kubelet's word ends it.
            let target = std::path::Path::new("/nowhere/t");
            bench.local.unpublish(id, target).await.unwrap();
            assert!(!is_there(&bench, id));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_inline_volume_whose_removal_was_cut_off_is_removed_at_the_next_start() {
    let record = an_inline_record().await;
    let id = &record.id;
    let note = |state: &std::path::Path| state.join(format!("attachments/{id}.json"));
    let bench = Bench::prepared(|a, _| a.holds(&record)).await;
    // Its pod is gone, and its device cannot be let go.
    let target = std::path::PathBuf::from("/nowhere/t");
    let publication = Publication {
        block: false,
        read_only: false,
        mode: AccessMode::SingleNodeWriter,
        cgroup: None,
        holders: Default::default(),
    };
    let published = {
        let target = target.clone();
        move |a: &mut Attachment| drop(a.targets.insert(target, publication))
    };
    let notes = &bench.local.node.attachments();
    notes.update(id, published).await.unwrap();
    bench.a.busy.lock().unwrap().insert(id.clone());
    bench.local.unpublish(id, &target).await.unwrap_err();
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("attachments")).unwrap();
    let state = &bench.local.node.options().state_dir;
    std::fs::copy(note(state), note(dir.path())).unwrap();
    let bench = Bench::at(dir, |a, _| a.holds(&record)).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(!is_there(&bench, id));
    assert!(bench.local.node.attachments().all().is_empty());
    assert!(!note(&bench.local.node.options().state_dir).exists());
}

/// The records of forty of them.
async fn forty() -> Vec<Record> {
    let one = an_inline_record().await;
    let named = |n: usize| Record {
        id: Id::ephemeral(&Name::new(format!("csi-{n}")).unwrap()),
        ..one.clone()
    };
    (0..40).map(named).collect()
}

/// As the kubelet noted it, with a pod whose directory is gone.
async fn note_as_abandoned(notes: &Attachments, state: &std::path::Path, id: &Id) {
    let (target, path) = (PathBuf::from("/nowhere/t"), state.join(id.as_str()));
    let note = move |a: &mut Attachment| {
        let mode = AccessMode::SingleNodeWriter;
        let publication = Publication {
            block: false,
            read_only: false,
            mode,
            cgroup: None,
            holders: Default::default(),
        };
        a.ephemeral = true;
        a.ground = Ground::of(&target);
        a.targets.insert(target, publication);
        a.staging = Some(Staging {
            path,
            block: false,
            options: Vec::new(),
            mode,
        });
    };
    notes.update(id, note).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn inline_volumes_that_hang_keep_their_pool_neither_unread_nor_from_upkeep() {
    let records = forty().await;
    let dir = tempfile::tempdir().unwrap();
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let notes = Attachments::new(dir.path().join("attachments"), boot.trim().to_owned());
    notes.load().unwrap();
    for record in &records {
        note_as_abandoned(&notes, dir.path(), &record.id).await;
    }
    let bench = Bench::at(dir, |a, _| {
        records.iter().for_each(|record| a.holds(record));
        a.hangs.store(true, Ordering::SeqCst);
    })
    .await;
    let begun = tokio::time::Instant::now();
    while bench.local.node.unread().is_unread(&pool("a")) {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(
        begun.elapsed() < Duration::from_secs(2),
        "{:?}",
        begun.elapsed()
    );
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(bench.a.tended.load(Ordering::SeqCst) > 15);
    assert_eq!(bench.a.written.lock().unwrap().len(), 40);
}

#[tokio::test(start_paused = true)]
async fn an_inline_volume_that_is_busy_when_its_pod_is_found_gone_goes_when_it_is_let_go() {
    let records = forty().await;
    let dir = tempfile::tempdir().unwrap();
    let notes = Attachments::new(dir.path().join("attachments"), "an earlier boot".into());
    notes.load().unwrap();
    for record in &records {
        note_as_abandoned(&notes, dir.path(), &record.id).await;
    }
    let bench = Bench::at(dir, |a, _| {
        records.iter().for_each(|record| a.holds(record));
        let busy = records[..30].iter().map(|record| record.id.clone());
        a.busy.lock().unwrap().extend(busy);
    })
    .await;
    // Those that cannot go keep none of the others.
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(bench.a.written.lock().unwrap().len(), 30);
    bench.a.busy.lock().unwrap().clear();
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(bench.a.written.lock().unwrap().is_empty());
}
