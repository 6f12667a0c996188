//! Thick volumes on real LVM.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod guest;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use guest::{
    Bench, Counting, VG, count, count_in, destroy, device, fill, found, lv, reader, snapshot, text,
    volume,
};
use stowage_host::{Locks, Progress};
use stowage_model::record::Content;
use stowage_model::request::{Layout, Provisioning, SnapshotGrowth};
use stowage_model::volumes::{Severity, Trouble};
use stowage_model::{Bytes, FsType, Kind, PoolName, Record, Reserve};
use stowage_pool::lvm::{LvmPool, Options, Wipe, make};
use stowage_pool::{
    Attach, BlockDevices, Clones, Defect, Disks, Hold, Pool, Removed, Scan, Snapshots,
};

fn options() -> Options {
    Options {
        name: PoolName::new("fast").unwrap(),
        vg: VG.to_owned(),
        wipe: Wipe::Zero,
        reserve: Reserve::default(),
    }
}

async fn open(bench: &Bench) -> LvmPool {
    LvmPool::open(options(), Arc::clone(&bench.runner))
        .await
        .unwrap()
}

/// A pool over the first `n` disks.
async fn pool(bench: &Bench, n: usize) -> LvmPool {
    make(&options(), &bench.some(n), false, Arc::clone(&bench.runner))
        .await
        .unwrap();
    open(bench).await
}

#[tokio::test]
async fn a_volume_is_made_found_written_grown_rewritten_and_removed() {
    let bench = Bench::new().await;
    let pool = bench.timed("make and open a pool", pool(&bench, 1)).await;
    let all = pool.status().await.unwrap();
    assert_eq!((all.problem, all.free, all.volumes), (None, all.total, 0));

    let mut record = volume("Ü +ナ, \"$(x)\"");
    let size = bench
        .timed("create", pool.create(&record, Bytes::mib(61)))
        .await
        .unwrap();
    assert_eq!(size, Bytes::mib(64));
    assert_eq!(pool.create(&record, Bytes::mib(61)).await.unwrap(), size);
    let scan = bench.timed("scan", pool.scan()).await.unwrap();
    assert_eq!(scan.found.len(), 1);
    assert_eq!((&scan.found[0].record, scan.found[0].size), (&record, size));

    let at = bench
        .timed("attach", pool.attach(&record, Attach::Held))
        .await
        .unwrap();
    assert_eq!(at.size, size);
    bench.ext4(&at.path).await;
    record.content = Content::FileSystem(FsType::Ext4);
    record.fs_bytes = size;
    bench.timed("rewrite", pool.rewrite(&record)).await.unwrap();
    // Another process of ours knows what this one wrote.
    let other = open(&bench).await;
    assert_eq!(found(&other).await, [record.clone()]);

    let mounted = bench.mount(&at.path, "rw").await;
    mounted.write("file", b"bytes");
    assert_eq!(
        pool.detach(&record).await.unwrap_err().kind(),
        Kind::Precondition
    );
    assert_eq!(
        pool.remove(&record).await.unwrap_err().kind(),
        Kind::Precondition
    );
    let grown = bench
        .timed("grow", pool.grow(&record, Bytes::mib(100)))
        .await
        .unwrap();
    assert_eq!(grown, Bytes::mib(100));
    assert_eq!(pool.grow(&record, Bytes::mib(80)).await.unwrap(), grown);
    assert!(mounted.has("file"));
    mounted.unmount(&bench).await;

    bench.timed("detach", pool.detach(&record)).await.unwrap();
    assert!(pool.attached(&record).await.unwrap().is_none());
    pool.detach(&record).await.unwrap();
    assert_eq!(device(&pool, &record).await, at.path);
    let Removed::ToPurge(leftover) = bench.timed("remove", pool.remove(&record)).await.unwrap()
    else {
        panic!("a thick volume is wiped later")
    };
    assert!(matches!(pool.remove(&record).await.unwrap(), Removed::Gone));
    assert_eq!(
        pool.scan().await.unwrap().leftovers,
        std::slice::from_ref(&leftover)
    );
    // Its id is free while the old blocks are still there.
    pool.create(&record, Bytes::mib(4)).await.unwrap();
    let progress = Arc::new(Progress::new());
    bench
        .timed("purge 100Mi", pool.purge(&leftover, &progress))
        .await
        .unwrap();
    assert_eq!(progress.percent(), 100);
    pool.purge(&leftover, &progress).await.unwrap();
    destroy(&pool, &record).await;
    assert_eq!(pool.status().await.unwrap().free, all.free);
}

#[tokio::test]
async fn no_byte_of_a_removed_volume_or_snapshot_is_seen_again() {
    let bench = Bench::new().await;
    let pool = pool(&bench, 1).await;
    let free = pool.status().await.unwrap().free;
    let (secret, cut) = (volume("secret"), snapshot("cut", &volume("secret")));
    pool.create(&secret, Bytes::mib(32)).await.unwrap();
    let at = device(&pool, &secret).await;
    fill(&at, 0, 32, 0xA5);
    pool.snapshot(&secret, &cut).await.unwrap();
    // Old bytes go to the snapshot's store.
    fill(&at, 8, 2, 0x5A);
    destroy(&pool, &cut).await;
    destroy(&pool, &secret).await;
    assert_eq!(pool.status().await.unwrap().free, free);
    let whole = volume("whole");
    pool.create(&whole, free).await.unwrap();
    let at = device(&pool, &whole).await;
    assert_eq!((count(&at, 0xA5), count(&at, 0x5A)), (0, 0));
}

#[tokio::test]
async fn a_wipe_can_be_stopped_and_spares_what_is_a_volume() {
    let bench = Bench::new().await;
    let pool = pool(&bench, 1).await;
    let record = volume("v");
    pool.create(&record, Bytes::mib(64)).await.unwrap();
    let fake = stowage_pool::Leftover {
        handle: lv(&record),
        size: Bytes::mib(64),
    };
    let progress = Arc::new(Progress::new());
    assert_eq!(
        pool.purge(&fake, &progress).await.unwrap_err().kind(),
        Kind::NotFound
    );
    let Removed::ToPurge(leftover) = pool.remove(&record).await.unwrap() else {
        panic!()
    };
    progress.stop();
    assert_eq!(
        pool.purge(&leftover, &progress).await.unwrap_err().kind(),
        Kind::Pending
    );
    progress.stop.store(false, Ordering::Relaxed);
    pool.purge(&leftover, &progress).await.unwrap();
    guest::sweep(&pool).await;
}

#[tokio::test]
async fn a_snapshot_keeps_its_moment_and_its_store_grows() {
    let bench = Bench::new().await;
    let pool = pool(&bench, 1).await;
    let (record, cut) = (volume("v"), snapshot("s", &volume("v")));
    pool.create(&record, Bytes::mib(128)).await.unwrap();
    let at = device(&pool, &record).await;
    bench.ext4(&at).await;
    let mounted = bench.mount(&at, "rw").await;
    mounted.write("before", b"1");
    bench
        .timed("snapshot of a mounted volume", pool.snapshot(&record, &cut))
        .await
        .unwrap();
    pool.snapshot(&record, &cut).await.unwrap();
    mounted.write("after", b"2");

    let scan = pool.scan().await.unwrap();
    let kept = scan.found.iter().find(|found| found.record == cut).unwrap();
    assert_eq!(kept.size, Bytes::mib(128));
    let status = pool.status().await.unwrap();
    assert_eq!(
        (status.volumes, status.snapshots, status.promised),
        (1, 1, Bytes::mib(128))
    );

    // Much more than the store of 8Mi, in bites that fit between two looks.
    for i in 0..12 {
        mounted.write(&format!("big{i}"), &vec![7; 3 << 20]);
        let findings = bench.timed("tend", pool.tend()).await.unwrap();
        assert_eq!(findings, []);
    }
    bench
        .timed("tend with nothing written", pool.tend())
        .await
        .unwrap();
    assert_eq!(pool.scan().await.unwrap().defects, []);
    let frozen = bench.mount(&device(&pool, &cut).await, "ro,noload").await;
    assert!(frozen.has("before") && !frozen.has("after"));

    // Deleting it needs it unused; deleting its origin needs it gone.
    assert_eq!(
        pool.remove(&cut).await.unwrap_err().kind(),
        Kind::Precondition
    );
    frozen.unmount(&bench).await;
    mounted.unmount(&bench).await;
    let refused = pool.remove(&record).await.unwrap_err();
    assert!(refused.message().contains(cut.id.as_str()), "{refused}");
    bench.timed("remove a snapshot", destroy(&pool, &cut)).await;
    destroy(&pool, &record).await;
}

#[tokio::test]
async fn a_snapshot_without_room_to_grow_is_told_and_one_that_overflowed_too() {
    let bench = Bench::new().await;
    let pool = pool(&bench, 1).await;
    let (record, cut) = (volume("v"), snapshot("s", &volume("v")));
    pool.create(&record, Bytes::mib(64)).await.unwrap();
    pool.snapshot(&record, &cut).await.unwrap();
    let rest = volume("rest");
    let free = pool.status().await.unwrap().free;
    pool.create(&rest, free.minus(Bytes::mib(4))).await.unwrap();
    let at = device(&pool, &record).await;
    fill(&at, 0, 5, 1);
    assert_eq!(
        pool.tend().await.unwrap(),
        [],
        "the last 4Mi are enough for now"
    );
    fill(&at, 5, 4, 1);
    let findings = pool.tend().await.unwrap();
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert_eq!(
        (findings[0].trouble, findings[0].severity),
        (Trouble::PoolFull, Severity::Error)
    );
    assert_eq!(findings[0].subject, cut.id.to_string());
    fill(&at, 9, 8, 1);
    let findings = pool.tend().await.unwrap();
    assert_eq!(findings[0].trouble, Trouble::SnapshotLost, "{findings:?}");
    assert_eq!(pool.tend().await.unwrap(), findings);
    let scan = pool.scan().await.unwrap();
    assert_eq!(scan.defects, [Defect::LostSnapshot(cut.id.clone())]);
    assert!(scan.found.iter().any(|found| found.record == cut));
    // Also after a start, when only an activation can tell.
    bench
        .sh(&format!("lvchange -an {VG}/{}", lv(&record)))
        .await;
    let attached = open(&bench).await.attach(&cut, Attach::Held).await;
    assert!(attached.unwrap_err().message().contains("overflowed"));
    let late = reader("r", &cut);
    let refused = pool.clone_volume(&cut, &late, Bytes::mib(64));
    assert!(refused.await.unwrap_err().message().contains("overflowed"));
    destroy(&pool, &cut).await;
    destroy(&pool, &record).await;
}

/// Older kernels refuse to hold what is frozen, newer ones freeze it once more beneath.
#[tokio::test]
async fn a_frozen_file_system_is_cut_whole_or_refused_and_stays_frozen() {
    let bench = Bench::new().await;
    let pool = pool(&bench, 1).await;
    let (record, cut) = (volume("v"), snapshot("s", &volume("v")));
    pool.create(&record, Bytes::mib(64)).await.unwrap();
    let at = device(&pool, &record).await;
    bench.ext4(&at).await;
    let mounted = bench.mount(&at, "rw").await;
    mounted.write("before", b"kept");
    bench.freeze(&mounted).await;
    let made = pool.snapshot(&record, &cut).await;
    bench.still_frozen(&mounted).await;
    let held = pool.suspend(std::slice::from_ref(&record)).await;
    if held.is_ok() {
        pool.resume(std::slice::from_ref(&record)).await.unwrap();
    }
    bench.still_frozen(&mounted).await;
    bench.thaw(&mounted).await;
    if let (Err(made), Err(held)) = (&made, &held) {
        assert_eq!(made.kind(), Kind::Precondition);
        assert_eq!(held.kind(), Kind::Precondition);
        assert_eq!(pool.scan().await.unwrap().leftovers, []);
        pool.snapshot(&record, &cut).await.unwrap();
    } else {
        assert!(made.is_ok() && held.is_ok(), "{made:?}, {held:?}");
    }
    let frozen = bench.mount(&device(&pool, &cut).await, "ro,noload").await;
    assert!(frozen.has("before"));
    frozen.unmount(&bench).await;
    mounted.unmount(&bench).await;
    guest::sweep(&pool).await;
}

#[tokio::test]
async fn snapshots_of_several_volumes_show_one_moment() {
    let bench = Bench::new().await;
    let pool = pool(&bench, 1).await;
    let records = [volume("a"), volume("b")];
    let cuts = [snapshot("sa", &records[0]), snapshot("sb", &records[1])];
    let mut mounts = Vec::new();
    for record in &records {
        pool.create(record, Bytes::mib(48)).await.unwrap();
        let at = device(&pool, record).await;
        bench.ext4(&at).await;
        mounts.push(bench.mount(&at, "rw").await);
    }
    let counting = Counting::begin(&mounts[0].point.join("n"), &mounts[1].point.join("n")).await;
    bench
        .timed("suspend two", pool.suspend(&records))
        .await
        .unwrap();
    for (record, cut) in records.iter().zip(&cuts) {
        bench
            .timed("snapshot while held", pool.snapshot(record, cut))
            .await
            .unwrap();
    }
    bench
        .timed("resume two", pool.resume(&records))
        .await
        .unwrap();
    bench
        .timed("resume again", pool.resume(&records))
        .await
        .unwrap();
    counting.await_more().await;
    let end = counting.end();
    let mut counts = Vec::new();
    for cut in &cuts {
        let frozen = bench.mount(&device(&pool, cut).await, "ro,noload").await;
        counts.push(count_in(&frozen.point.join("n")));
        frozen.unmount(&bench).await;
    }
    Counting::assert_one_moment(counts[0], counts[1], end);
    for mounted in mounts {
        mounted.unmount(&bench).await;
    }
    guest::sweep(&pool).await;
}

#[tokio::test]
async fn suspended_volumes_are_let_go_by_another_process() {
    let bench = Bench::new().await;
    let pool = pool(&bench, 1).await;
    let record = volume("v");
    pool.create(&record, Bytes::mib(16)).await.unwrap();
    pool.suspend(std::slice::from_ref(&record)).await.unwrap();
    drop(pool);
    let pool = open(&bench).await;
    pool.resume(std::slice::from_ref(&record)).await.unwrap();
    fill(&device(&pool, &record).await, 0, 1, 1);
    destroy(&pool, &record).await;
}

#[tokio::test]
async fn a_reader_shows_its_snapshot_in_place() {
    let bench = Bench::new().await;
    let pool = pool(&bench, 1).await;
    let record = volume("v");
    let cut = snapshot("s", &record);
    let mut first = reader("r1", &cut);
    let second = reader("r2", &cut);
    pool.create(&record, Bytes::mib(64)).await.unwrap();
    let at = device(&pool, &record).await;
    fill(&at, 0, 4, 0x11);
    pool.snapshot(&record, &cut).await.unwrap();
    fill(&at, 0, 4, 0x22);
    assert!(pool.clones_instantly(&first) && !pool.clones_instantly(&volume("w")));
    let too_large = pool
        .clone_volume(&cut, &first, Bytes::mib(100))
        .await
        .unwrap_err();
    assert_eq!(too_large.kind(), Kind::OutOfRange);
    for reader in [&first, &second, &first] {
        let made = bench
            .timed("reader", pool.clone_volume(&cut, reader, Bytes::mib(64)))
            .await;
        assert_eq!(made.unwrap(), Bytes::mib(64));
    }
    assert_eq!(
        found(&pool).await,
        [first.clone(), second.clone(), cut.clone(), record.clone()]
    );
    let attached = pool.attach(&first, Attach::Held).await.unwrap();
    assert_eq!(attached.size, Bytes::mib(64));
    assert_eq!(count(&attached.path, 0x11), 4 << 20);
    assert_eq!(count(&attached.path, 0x22), 0);
    pool.detach(&first).await.unwrap();
    assert!(pool.attached(&record).await.unwrap().is_some());

    first.limits.read_bps = Some(1 << 20);
    pool.rewrite(&first).await.unwrap();
    assert_eq!(found(&open(&bench).await).await[0], first);
    assert_eq!(
        pool.grow(&first, Bytes::gib(1)).await.unwrap_err().kind(),
        Kind::Precondition
    );
    let refused = pool.remove(&cut).await.unwrap_err();
    assert!(refused.message().contains(first.id.as_str()), "{refused}");
    for reader in [&first, &second] {
        assert!(matches!(pool.remove(reader).await.unwrap(), Removed::Gone));
        assert!(matches!(pool.remove(reader).await.unwrap(), Removed::Gone));
    }
    assert_eq!(found(&pool).await, [cut.clone(), record.clone()]);
    guest::sweep(&pool).await;
}

#[tokio::test]
async fn an_origin_grows_only_while_unused() {
    let bench = Bench::new().await;
    let pool = pool(&bench, 1).await;
    let (record, cut) = (volume("v"), snapshot("s", &volume("v")));
    pool.create(&record, Bytes::mib(32)).await.unwrap();
    pool.snapshot(&record, &cut).await.unwrap();
    let at = device(&pool, &record).await;
    bench.ext4(&at).await;
    let mounted = bench.mount(&at, "rw").await;
    let refused = pool.grow(&record, Bytes::mib(64)).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Precondition);
    assert!(refused.message().contains(cut.id.as_str()), "{refused}");
    mounted.unmount(&bench).await;
    assert_eq!(
        pool.grow(&record, Bytes::mib(64)).await.unwrap(),
        Bytes::mib(64)
    );
    let attached = pool
        .attached(&record)
        .await
        .unwrap()
        .expect("it was attached before");
    assert_eq!(attached.size, Bytes::mib(64));
    // The snapshot stays as large as its origin was.
    assert_eq!(
        pool.attach(&cut, Attach::Held).await.unwrap().size,
        Bytes::mib(32)
    );
    pool.detach(&record).await.unwrap();
    assert_eq!(
        pool.grow(&record, Bytes::mib(80)).await.unwrap(),
        Bytes::mib(80)
    );
    guest::sweep(&pool).await;
}

/// As from containers that do not share `/run`.
#[tokio::test]
async fn a_group_has_one_daemon_whatever_directories_that_sees() {
    let bench = Bench::new().await;
    let first = pool(&bench, 1).await;
    let second = open(&bench).await;
    let dirs = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let [here, there] = [&dirs[0], &dirs[1]].map(|dir| Locks::new(dir.path()).of_kernel());
    first.claim(&here).await.unwrap();
    first.claim(&here).await.unwrap();
    let refused = second.claim(&there).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Precondition);
    assert!(refused.message().contains("another daemon"), "{refused}");
    drop(first);
    second.claim(&there).await.unwrap();
}

/// The free extents hold what others left.
#[tokio::test]
async fn a_blank_volume_that_grew_is_blank_at_its_end_and_what_somebody_wrote_is_kept() {
    let bench = Bench::new().await;
    let pool = pool(&bench, 1).await;
    bench
        .run(&["lvcreate", "-y", "-q", "-L", "256m", "-n", "old", VG])
        .await;
    fill(&PathBuf::from(format!("/dev/{VG}/old")), 0, 256, 0xAA);
    bench
        .run(&["lvremove", "-y", "-q", &format!("{VG}/old")])
        .await;
    for (name, used, inactive) in [
        ("blank", false, false),
        ("inactive", false, true),
        ("used", true, false),
    ] {
        let record = volume(name);
        assert_eq!(record.content, Content::Blank);
        pool.create(&record, Bytes::mib(32)).await.unwrap();
        if used {
            fill(&device(&pool, &record).await, 0, 1, 7);
        }
        if inactive {
            pool.detach(&record).await.unwrap();
        }
        pool.grow(&record, Bytes::mib(64)).await.unwrap();
        let bytes = std::fs::read(device(&pool, &record).await).unwrap();
        let ends = (bytes[0], bytes[(64 << 20) - 1]);
        assert_eq!(ends, if used { (7, 0xAA) } else { (0, 0) }, "{name}");
        // Far from both ends nothing is written.
        assert_eq!(bytes[40 << 20], 0xAA, "{name}");
        let tags = bench
            .run(&["lvs", "-o", "lv_tags", &format!("{VG}/{}", lv(&record))])
            .await;
        assert!(
            tags.contains("stowage.id") && !tags.contains("grown"),
            "{tags}"
        );
    }
}

#[tokio::test]
async fn a_volume_and_its_snapshots_are_attached_together() {
    let bench = Bench::new().await;
    let pool = pool(&bench, 1).await;
    let (record, cut) = (volume("v"), snapshot("s", &volume("v")));
    pool.create(&record, Bytes::mib(32)).await.unwrap();
    pool.snapshot(&record, &cut).await.unwrap();
    // As after a reboot.
    bench.run(&["vgchange", "-q", "-an", VG]).await;
    assert!(pool.attached(&cut).await.unwrap().is_none());
    device(&pool, &cut).await;
    assert!(pool.attached(&record).await.unwrap().is_some());
    pool.detach(&record).await.unwrap();
    assert!(pool.attached(&cut).await.unwrap().is_some());
    destroy(&pool, &cut).await;
    pool.detach(&record).await.unwrap();
    assert!(pool.attached(&record).await.unwrap().is_none());
    guest::sweep(&pool).await;
}

#[tokio::test]
async fn striped_and_mirrored_volumes_need_two_disks() {
    let bench = Bench::new().await;
    let pool = pool(&bench, 1).await;
    let striped = Record {
        layout: Layout::Striped,
        ..volume("striped")
    };
    let raid1 = Record {
        layout: Layout::Raid1,
        ..volume("raid1")
    };
    for record in [&striped, &raid1] {
        let refused = pool.create(record, Bytes::mib(62)).await.unwrap_err();
        assert_eq!(refused.kind(), Kind::Full);
    }
    let before = pool.status().await.unwrap();
    bench
        .timed("extend", pool.extend(&bench.some(2), false))
        .await
        .unwrap();
    pool.extend(&bench.some(2), false).await.unwrap();
    let after = pool.status().await.unwrap();
    assert_eq!(after.free, before.free + before.free);

    let told = pool.rounded(&striped, Bytes::mib(57)).await.unwrap();
    assert_eq!(told, Bytes::mib(64));
    assert_eq!(pool.create(&striped, told).await.unwrap(), told);
    let made = bench
        .timed("create raid1", pool.create(&raid1, Bytes::mib(60)))
        .await
        .unwrap();
    assert_eq!(made, Bytes::mib(60));
    assert_eq!(
        pool.status().await.unwrap().free,
        after.free.minus(Bytes::mib(64 + 128))
    );
    let told = pool.rounded(&striped, Bytes::mib(68)).await.unwrap();
    assert_eq!(told, Bytes::mib(72));
    assert_eq!(
        pool.grow(&striped, Bytes::mib(68)).await.unwrap(),
        Bytes::mib(72)
    );
    assert_eq!(
        pool.grow(&raid1, Bytes::mib(80)).await.unwrap(),
        Bytes::mib(80)
    );
    let cut = snapshot("s", &raid1);
    pool.snapshot(&raid1, &cut).await.unwrap();
    let expected = [raid1.clone(), cut, striped.clone()];
    assert_eq!(found(&pool).await, expected);
    let beyond = Bytes(after.free.0 / 2);
    for record in [
        Record {
            layout: Layout::Raid1,
            ..volume("x")
        },
        Record {
            layout: Layout::Striped,
            ..volume("y")
        },
    ] {
        let size = if record.layout == Layout::Raid1 {
            beyond
        } else {
            after.free
        };
        assert_eq!(
            pool.create(&record, size).await.unwrap_err().kind(),
            Kind::Full
        );
    }
    guest::sweep(&pool).await;
    assert_eq!(pool.status().await.unwrap().free, after.free);
}

#[tokio::test]
async fn a_full_pool_says_what_is_free() {
    let bench = Bench::new().await;
    let pool = pool(&bench, 1).await;
    let free = pool.status().await.unwrap().free;
    let e = pool
        .create(&volume("big"), Bytes::gib(100))
        .await
        .unwrap_err();
    assert_eq!(e.kind(), Kind::Full);
    for part in ["fast", "100Gi", &free.to_string()] {
        assert!(e.message().contains(part), "{e}");
    }
    let record = volume("all");
    pool.create(&record, free).await.unwrap();
    assert_eq!(pool.create(&record, free).await.unwrap(), free);
    let full = [
        pool.create(&volume("more"), Bytes::mib(4))
            .await
            .unwrap_err(),
        pool.grow(&record, free + Bytes(1)).await.unwrap_err(),
        pool.snapshot(&record, &snapshot("s", &record))
            .await
            .unwrap_err(),
    ];
    assert!(full.iter().all(|e| e.kind() == Kind::Full), "{full:?}");
    // Room that LVM finds lacking by itself, because another took it since we looked.
    guest::sweep(&pool).await;
    pool.status().await.unwrap();
    bench
        .run(&["lvcreate", "-y", "-q", "-l", "100%FREE", "-n", "thief", VG])
        .await;
    let e = pool.create(&record, Bytes::mib(8)).await.unwrap_err();
    assert_eq!(e.kind(), Kind::Full, "{e:?}");
}

#[tokio::test]
async fn a_group_whose_metadata_are_full_refuses_and_deletes() {
    let bench = Bench::new().await;
    // As an administrator makes it: with LVM's own size, 1 MiB.
    bench
        .run(&["vgcreate", "-y", "-q", VG, text(&bench.disks[0])])
        .await;
    let pool = open(&bench).await;
    let (record, cut) = (volume("v"), snapshot("s", &volume("v")));
    pool.create(&record, Bytes::mib(16)).await.unwrap();
    pool.snapshot(&record, &cut).await.unwrap();
    let tag = "x".repeat(1000);
    let fill = async |from: usize, to: usize| {
        let tags: Vec<_> = (from..to).map(|n| format!("--addtag {n}.{tag}")).collect();
        let done = tags.join(" ");
        bench
            .sh(&format!("vgchange -q {done} {VG} >/dev/null 2>&1 || true"))
            .await;
    };
    for n in 0..4 {
        fill(n * 106, n * 106 + 106).await;
    }
    let pool = open(&bench).await;
    let told = pool.tend().await.unwrap();
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(
        (told[0].trouble, told[0].severity),
        (Trouble::PoolFull, Severity::Warning)
    );
    pool.create(&volume("w"), Bytes::mib(4)).await.unwrap();
    // To the last byte that LVM takes, by others.
    for n in 0..24 {
        fill(424 + n * 4, 428 + n * 4).await;
    }
    for n in 520..524 {
        fill(n, n + 1).await;
    }
    let pool = open(&bench).await;
    for refused in [
        pool.create(&volume("x"), Bytes::mib(4)).await.map(drop),
        pool.snapshot(&record, &snapshot("t", &record)).await,
    ] {
        let e = refused.unwrap_err();
        assert_eq!(e.kind(), Kind::Full, "{e}");
        assert!(e.message().contains("metadata area"), "{e}");
    }
    assert_eq!(pool.tend().await.unwrap()[0].severity, Severity::Error);
    for record in [&cut, &record, &volume("w")] {
        destroy(&pool, record).await;
    }
    assert_eq!(found(&pool).await, []);
}

#[tokio::test]
async fn a_host_without_room_for_lvms_archive_gives_volumes_back() {
    let bench = Bench::new().await;
    for inodes in [false, true] {
        let pool = pool(&bench, 1).await;
        let (record, cut) = (volume("v"), snapshot("s", &volume("v")));
        pool.create(&record, Bytes::mib(16)).await.unwrap();
        pool.snapshot(&record, &cut).await.unwrap();
        let size = if inodes { "nr_inodes=3" } else { "size=64k" };
        bench
            .sh(&format!(
                "mkdir -p /run/etc; mount -t tmpfs -o {size} etc /run/etc; mkdir /run/etc/lvm; \
                 head -c 1M /dev/zero >/run/etc/fill || true"
            ))
            .await;
        let kept = bench.settings_by(|before| {
            let off = "backup { backup=0 archive=0 }";
            let on = r#"backup { backup=1 archive=1 archive_dir="/run/etc/lvm" backup_dir="/run/etc/lvm" }"#;
            assert!(before.contains(off), "{before}");
            before.replace(off, on)
        });
        let pool = open(&bench).await;
        for record in [&cut, &record] {
            destroy(&pool, record).await;
        }
        assert_eq!(found(&pool).await, []);
        drop(kept);
        bench.run(&["umount", "/run/etc"]).await;
        bench.blank().await;
    }
}

#[tokio::test]
async fn what_a_drained_disk_leaves_is_told_and_made() {
    let bench = Bench::new().await;
    let pool = pool(&bench, 3).await;
    let whole = pool.status().await.unwrap().free;
    let drained = text(&bench.disks[1]).to_owned();
    bench.run(&["pvchange", "-q", "-xn", &drained]).await;
    for layout in [Layout::Linear, Layout::Striped, Layout::Raid1] {
        let pool = open(&bench).await;
        let told = pool.capacity(layout, Provisioning::Thick).await.largest;
        assert!(told.0 <= whole.0 / 3 * 2, "{layout:?}: {told}");
        let record = Record {
            layout,
            ..volume("v")
        };
        // Without a raid1's copying of all of it.
        let size = match layout {
            Layout::Raid1 => Bytes::mib(8),
            _ => told,
        };
        assert_eq!(
            pool.create(&record, size).await.unwrap(),
            size,
            "{layout:?}"
        );
        let on = bench
            .run(&["pvs", "--noheadings", "-o", "lv_name", &drained])
            .await;
        assert_eq!(on.trim(), "", "{layout:?}");
        let larger = Record {
            layout,
            ..volume("w")
        };
        let e = pool
            .create(&larger, told + Bytes::mib(8))
            .await
            .unwrap_err();
        assert_eq!(e.kind(), Kind::Full, "{e}");
        bench
            .sh(&format!("lvremove -y -q -f {VG}/{}", lv(&record)))
            .await;
    }
}

#[tokio::test]
async fn what_is_not_ours_is_told_and_never_touched() {
    let bench = Bench::new().await;
    let pool = pool(&bench, 1).await;
    let record = volume("v");
    pool.create(&record, Bytes::mib(16)).await.unwrap();
    for argv in [
        vec!["lvcreate", "-y", "-q", "-n", "root", "-L", "8M", VG],
        vec![
            "lvcreate",
            "-y",
            "-q",
            "-n",
            "stowage-v-untagged",
            "-L",
            "8M",
            VG,
        ],
        vec![
            "lvcreate",
            "-y",
            "-q",
            "-n",
            "stowage-x-0123456789abcdef",
            "-L",
            "8M",
            VG,
        ],
    ] {
        bench.run(&argv).await;
    }
    let damaged = volume("damaged");
    pool.create(&damaged, Bytes::mib(8)).await.unwrap();
    let path = format!("{VG}/{}", lv(&damaged));
    bench
        .run(&["lvchange", "-q", "--deltag", "stowage.version=1", &path])
        .await;
    // A snapshot by somebody else of a volume of ours, with a store that is nearly full.
    let of = format!("{VG}/{}", lv(&record));
    bench
        .run(&[
            "lvcreate", "-y", "-q", "-s", "-n", "theirs", "-L", "4M", &of,
        ])
        .await;
    let cut = snapshot("s", &record);
    pool.snapshot(&record, &cut).await.unwrap();
    fill(&device(&pool, &record).await, 0, 3, 1);
    assert_eq!(pool.tend().await.unwrap(), []);

    let scan = pool.scan().await.unwrap();
    let mut foreign = Vec::new();
    let mut unreadable = Vec::new();
    for defect in &scan.defects {
        match defect {
            Defect::Foreign(name) => foreign.push(name.as_str()),
            Defect::Unreadable { what, .. } => unreadable.push(what.as_str()),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(foreign, ["root", "theirs"]);
    assert_eq!(unreadable.len(), 3, "{unreadable:?}");
    assert_eq!(scan.leftovers, []);
    for handle in ["root", "theirs", "stowage-x-0123456789abcdef"] {
        let leftover = stowage_pool::Leftover {
            handle: handle.into(),
            size: Bytes(0),
        };
        let refused = pool
            .purge(&leftover, &Arc::new(Progress::new()))
            .await
            .unwrap_err();
        assert_eq!(refused.kind(), Kind::NotFound);
    }
    let refused = pool.remove(&record).await.unwrap_err();
    assert!(refused.message().contains("theirs"), "{refused}");
    assert_eq!(
        pool.create(&damaged, Bytes::mib(8))
            .await
            .unwrap_err()
            .kind(),
        Kind::Exists
    );
}

#[tokio::test]
async fn a_hosts_own_settings_change_nothing_that_is_read() {
    let bench = Bench::new().await;
    let hostile = bench.settings(
        r#"
global { units="s" suffix=1 test=1 }
log { prefix="!" command_names=1 verbose=1 report_command_log=1 }
report {
    binary_values_as_numeric=1 compact_output=1 prefixes=1 headings=0 columns_as_rows=1
    list_item_separator=";" mark_hidden_devices=0 segs_sort_full="-seg_start"
}
"#,
    );
    let pool = pool(&bench, 2).await;
    let status = pool.status().await.unwrap();
    assert_eq!((status.problem, status.free), (None, status.total));
    let record = volume("v");
    pool.create(&record, Bytes::mib(16)).await.unwrap();
    let cut = snapshot("s", &record);
    pool.snapshot(&record, &cut).await.unwrap();
    let raid1 = Record {
        layout: Layout::Raid1,
        ..volume("raid1")
    };
    pool.create(&raid1, Bytes::mib(16)).await.unwrap();
    let scan = pool.scan().await.unwrap();
    assert_eq!(scan.found.len(), 3);
    assert_eq!((scan.defects, scan.leftovers), (Vec::new(), Vec::new()));
    guest::sweep(&pool).await;
    assert_eq!(pool.status().await.unwrap().free, status.total);
    drop(hostile);
}

#[tokio::test]
async fn a_volume_that_was_given_a_cache_is_served_and_never_lost() {
    let bench = Bench::new().await;
    let pool = pool(&bench, 2).await;
    let record = volume("v");
    let path = format!("{VG}/{}", lv(&record));
    pool.create(&record, Bytes::mib(64)).await.unwrap();
    let at = device(&pool, &record).await;
    bench.ext4(&at).await;
    // The last one is the policy that LVM takes.
    bench
        .sh("for m in dm-writecache dm-cache dm-cache-smq; do $(cat /proc/sys/kernel/modprobe) $m; done")
        .await;
    for kind in ["writecache", "cache"] {
        assert_eq!(pool.tend().await.unwrap(), [], "before {kind}");
        let cache = format!(
            "lvcreate -y -q -an -Zn -n fast -L 32M {VG} {}",
            text(&bench.disks[1])
        );
        bench.sh(&cache).await;
        let put = format!("lvconvert -y -q --type {kind} --cachevol fast {path}");
        bench.sh(&put).await;
        // Upkeep sees it, and so does the next start.
        let findings = pool.tend().await.unwrap();
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert_eq!(findings[0].subject, record.id.to_string());
        assert!(findings[0].mend.contains("--splitcache"), "{findings:?}");
        let scan = open(&bench).await.scan().await.unwrap();
        assert_eq!(scan.found[0].record, record, "{kind}");
        assert_eq!((scan.leftovers, scan.defects), (vec![], vec![]), "{kind}");

        let mounted = bench.mount(&at, "rw").await;
        mounted.write(kind, b"bytes");
        mounted.unmount(&bench).await;
        pool.detach(&record).await.unwrap();
        assert_eq!(device(&pool, &record).await, at);
        let mounted = bench.mount(&at, "rw").await;
        assert!(mounted.has(kind));
        mounted.unmount(&bench).await;
        for refused in [
            pool.grow(&record, Bytes::mib(100)).await.map(drop),
            pool.snapshot(&record, &snapshot("s", &record)).await,
            pool.removable(&record).await,
            pool.remove(&record).await.map(drop),
        ] {
            let e = refused.unwrap_err();
            assert_eq!(e.kind(), Kind::Precondition, "{e}");
            assert!(e.message().contains("lvconvert --splitcache"), "{e}");
        }
        bench
            .sh(&format!("lvconvert -y -q --splitcache {path}"))
            .await;
        bench.sh(&format!("lvremove -y -q -f {VG}/fast")).await;
    }
    pool.tend().await.unwrap();
    let mounted = bench.mount(&at, "rw").await;
    assert!(mounted.has("writecache") && mounted.has("cache"));
    mounted.unmount(&bench).await;
    destroy(&pool, &record).await;
}

#[tokio::test]
async fn a_volume_that_is_moved_converted_or_renamed_is_never_called_gone() {
    let bench = Bench::new().await;
    let pool = pool(&bench, 2).await;
    let record = volume("v");
    let path = format!("{VG}/{}", lv(&record));
    pool.create(&record, Bytes::mib(64)).await.unwrap();
    let served = async || {
        let scan = open(&bench).await.scan().await.unwrap();
        assert_eq!((scan.leftovers, scan.defects), (vec![], vec![]));
        assert_eq!(scan.found.len(), 1);
        assert_eq!(scan.found[0].record, record);
    };
    // With the plus its end is looked for after the interval only, not at once.
    let first = text(&bench.disks[0]);
    bench
        .sh(&format!("pvmove -q -b -i +300 {first} >/dev/null 2>&1"))
        .await;
    served().await;
    for refused in [
        pool.remove(&record).await.map(drop),
        pool.grow(&record, Bytes::mib(100)).await.map(drop),
        pool.snapshot(&record, &snapshot("s", &record)).await,
    ] {
        let e = refused.unwrap_err();
        assert_eq!(e.kind(), Kind::Pending, "{e}");
        assert!(e.message().contains("pvmove"), "{e}");
    }
    bench.sh("pvmove -q --abort").await;

    for conversion in ["--type raid1 -m1", "-m0"] {
        bench
            .sh(&format!("lvconvert -y -q {conversion} {path}"))
            .await;
        served().await;
    }
    bench.sh(&format!("lvchange -q --refresh {path}")).await;
    served().await;

    pool.tend().await.unwrap();
    bench.sh(&format!("lvrename -q {path} {VG}/precious")).await;
    let told = pool.tend().await.unwrap();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(
        told[0]
            .mend
            .contains(&format!("lvrename {VG}/precious {path}")),
        "{told:?}"
    );
    let scan = open(&bench).await.scan().await.unwrap();
    let astray = |defect: &Defect| match defect {
        Defect::Astray { ids, finding, .. } => {
            ids[..] == [record.id.clone()] && *finding == told[0]
        }
        _ => false,
    };
    assert!(
        scan.found.is_empty() && scan.defects.iter().all(astray),
        "{scan:?}"
    );
    let e = pool.remove(&record).await.unwrap_err();
    assert_eq!(e.kind(), Kind::Precondition, "{e}");
    // As the cache of another volume it is a part that LVM hides.
    let other = volume("w");
    pool.create(&other, Bytes::mib(64)).await.unwrap();
    bench
        .sh(&format!(
            "lvrename -q {VG}/precious {path}; lvchange -an {path}"
        ))
        .await;
    let hide = format!(
        "lvconvert -y -q --type writecache --cachevol {path} {VG}/{}",
        lv(&other)
    );
    bench
        .sh(&format!(
            "$(cat /proc/sys/kernel/modprobe) dm-writecache; {hide}"
        ))
        .await;
    let e = pool.remove(&record).await.unwrap_err();
    assert!(e.message().contains("is not gone"), "{e}");
    let scan = open(&bench).await.scan().await.unwrap();
    assert!(
        scan.defects
            .iter()
            .any(|d| matches!(d, Defect::Astray { ids, .. } if ids[..] == [record.id.clone()])),
        "{scan:?}"
    );
}

#[tokio::test]
async fn what_a_tenant_writes_into_a_volume_is_no_group_of_the_machines() {
    let bench = Bench::new().await;
    let pool = pool(&bench, 1).await;
    // Somebody else's group of that name, on a disk of its own.
    let other = text(&bench.disks[1]);
    let (record, later) = (volume("v"), volume("later"));
    bench
        .run(&["vgcreate", "-q", "-y", "--devices", other, VG, other])
        .await;
    let lv = lv(&later);
    let theirs = ["-q", "-y", "-n", &lv, "-L", "8M", "--devices", other, VG];
    bench.run(&[&["lvcreate"], &theirs[..]].concat()).await;
    bench
        .run(&["vgchange", "-q", "-an", "--devices", other, VG])
        .await;
    // A tenant writes it into a raw volume, over which kubelet puts a loop device.
    pool.create(&record, Bytes::mib(64)).await.unwrap();
    let at = device(&pool, &record).await;
    bench
        .sh(&format!(
            "dd if={other} of={} bs=1M count=48 conv=fsync",
            text(&at)
        ))
        .await;
    let over = ["losetup", "-f", "--show", text(&at)];
    let over = bench.run(&over).await.trim().to_owned();
    bench
        .run(&["vgchange", "-q", "-ay", "--devices", &over, VG])
        .await;

    assert!(pool.attached(&later).await.unwrap().is_none());
    let reopened = open(&bench).await;
    for pool in [&pool, &reopened] {
        assert_eq!(found(pool).await, std::slice::from_ref(&record));
        assert_eq!(pool.status().await.unwrap().problem, None);
        assert_eq!(pool.tend().await.unwrap(), []);
    }
    let next = volume("next");
    pool.create(&next, Bytes::mib(8)).await.unwrap();
    device(&pool, &next).await;
    destroy(&pool, &next).await;
    let refused = pool
        .extend(&[PathBuf::from(&over)], true)
        .await
        .unwrap_err();
    assert!(refused.message().contains("is a volume"), "{refused}");
    bench
        .run(&["vgchange", "-q", "-an", "--devices", &over, VG])
        .await;
    bench.run(&["losetup", "-d", &over]).await;
    bench.run(&["wipefs", "-a", "-q", other]).await;
}

#[tokio::test]
async fn a_disk_added_beside_us_is_used_and_not_lost() {
    let bench = Bench::new().await;
    let pool = pool(&bench, 1).await;
    let before = pool.status().await.unwrap();
    let (first, second) = (text(&bench.disks[0]), text(&bench.disks[1]));
    let both = format!("{first},{second}");
    let beside = ["vgextend", "-q", "-y", "--devices", &both, VG, second];
    bench.run(&beside).await;
    let record = volume("v");
    pool.create(&record, Bytes::mib(8)).await.unwrap();
    pool.remove(&record).await.unwrap();
    let after = pool.status().await.unwrap();
    assert_eq!(after.problem, None);
    assert!(after.total.0 >= 2 * before.total.0, "{}", after.total);
    let missing = ["vgs", "--noheadings", "-o", "vg_missing_pv_count", VG];
    assert_eq!(bench.run(&missing).await.trim(), "0");
}

#[tokio::test]
async fn a_disk_of_a_group_that_lvm_hides_is_refused_untouched() {
    let bench = Bench::new().await;
    let pool = pool(&bench, 1).await;
    let second = text(&bench.disks[1]);
    let disks = [bench.disks[1].clone()];
    let there = "local/system_id=\"there\" global/system_id_source=\"lvmlocal\"";
    let refused = async |disks: &[PathBuf], what: &str| {
        let refused = pool.extend(disks, true).await.unwrap_err();
        assert_eq!(refused.kind(), Kind::Precondition, "{refused}");
        assert!(refused.message().contains(what), "{what}: {refused}");
    };
    bench
        .run(&["vgcreate", "-q", "-y", "--config", there, "away", second])
        .await;
    refused(
        &disks,
        "volume group away of the host with system id \"there\"",
    )
    .await;
    let own = [
        "vgs",
        "--noheadings",
        "--config",
        there,
        "-o",
        "vg_name",
        "away",
    ];
    assert_eq!(bench.run(&own).await.trim(), "away");

    // In a partition of the disk.
    bench.blank().await;
    let pool = self::pool(&bench, 1).await;
    bench
        .sh(&format!("echo 'label: gpt\n,100M' | sfdisk -q {second}"))
        .await;
    let part = format!("{second}1");
    bench.run(&["vgcreate", "-q", "-y", "inner", &part]).await;
    let e = pool.extend(&disks, true).await.unwrap_err();
    assert!(e.message().contains("volume group inner"), "{e}");

    // A disk that the host keeps from LVM.
    bench.run(&["vgremove", "-q", "-y", "inner"]).await;
    for key in ["filter", "global_filter"] {
        let hidden = bench.settings(&format!("devices {{ {key}=[\"r|^{second}$|\"] }}\n"));
        let e = pool.extend(&disks, true).await.unwrap_err();
        assert!(e.message().contains("a filter in lvm.conf"), "{e}");
        drop(hidden);
    }

    // Another sector size, told before anything is wiped.
    bench
        .sh("truncate -s 64M /run/four && mkfs.ext4 -q -b 4096 /run/four")
        .await;
    let four = ["losetup", "-f", "--show", "-b", "4096", "/run/four"];
    let four = bench.run(&four).await.trim().to_owned();
    let both = [PathBuf::from(&four), bench.disks[1].clone()];
    let e = pool.extend(&both, true).await.unwrap_err();
    assert!(e.message().contains("sectors of"), "{e}");
    let kept = ["blkid", "-p", "-o", "value", "-s", "TYPE", &four];
    assert_eq!(bench.run(&kept).await.trim(), "ext4");
    bench.run(&["losetup", "-d", &four]).await;
    bench.run(&["rm", "/run/four"]).await;

    // All in order now.
    pool.extend(&disks, true).await.unwrap();
}

#[tokio::test]
async fn a_disk_taken_joins_a_devices_file() {
    let bench = Bench::new().await;
    let pool = pool(&bench, 1).await;
    let dir = std::env::var("LVM_SYSTEM_DIR").unwrap();
    let used = bench.settings_by(|before| before.replace("use_devicesfile=0", "use_devicesfile=1"));
    let first = text(&bench.disks[0]);
    bench.run(&["mkdir", "-p", &format!("{dir}/devices")]).await;
    bench.run(&["lvm", "lvmdevices", "--adddev", first]).await;
    for _ in 0..2 {
        pool.extend(&bench.some(2), false).await.unwrap();
    }
    let seen = [
        "vgs",
        "--noheadings",
        "-o",
        "pv_count,vg_missing_pv_count",
        VG,
    ];
    let seen = bench.run(&seen).await;
    assert_eq!(seen.split_whitespace().collect::<Vec<_>>(), ["2", "0"]);
    drop(used);
    bench.run(&["rm", "-r", &format!("{dir}/devices")]).await;
}

#[tokio::test]
async fn a_volume_left_on_a_disk_that_moved_is_told_and_not_handed_out() {
    let bench = Bench::new().await;
    let pool = pool(&bench, 1).await;
    let record = volume("v");
    pool.create(&record, Bytes::mib(16)).await.unwrap();
    let at = device(&pool, &record).await;
    fill(&at, 0, 1, 0x77);
    // The disk shows up under another name; what was active goes on with the old one.
    let (from, to) = (text(&bench.disks[0]), text(&bench.disks[1]));
    bench
        .sh(&format!(
            "dd if={from} of={to} bs=1M count=64 conv=notrunc,fsync && \
             dd if=/dev/zero of={from} bs=4k count=1 conv=notrunc,fsync"
        ))
        .await;
    let in_use = std::fs::File::open(&at).unwrap();
    pool.status().await.unwrap();
    let findings = pool.tend().await.unwrap();
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert_eq!(findings[0].trouble, Trouble::DeviceError);
    assert!(findings[0].what.contains("another name"), "{findings:?}");
    let refused = pool.attach(&record, Attach::Held).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Precondition, "{refused}");
    drop(in_use);
    let at = device(&pool, &record).await;
    assert_eq!(count(&at, 0x77), 1 << 20);
    let below = bench
        .sh(&format!("dmsetup deps -o devname {}", text(&at)))
        .await;
    let name = bench.disks[1].file_name().unwrap().to_str().unwrap();
    assert!(below.contains(name), "{below}");
    pool.scan().await.unwrap();
    assert_eq!(pool.tend().await.unwrap(), []);
}

#[tokio::test]
async fn disks_in_use_or_with_data_are_refused() {
    let bench = Bench::new().await;
    let (first, second) = (text(&bench.disks[0]), text(&bench.disks[1]));
    let gpt = format!("echo 'label: gpt\n,100M' | sfdisk -q {second}");
    let luks = format!(
        "echo key | cryptsetup -q luksFormat --pbkdf pbkdf2 --pbkdf-force-iterations 1000 {second} -"
    );
    let makers: [(&str, String); 5] = [
        ("ext4", format!("mkfs.ext4 -q -F {second}")),
        ("gpt", gpt),
        ("physical volume", format!("pvcreate -q -y {second}")),
        ("LUKS", luks),
        (
            "offset",
            format!("echo x | dd of={second} bs=1 seek=100000 conv=notrunc,fsync"),
        ),
    ];
    let pool = pool(&bench, 1).await;
    let disks = [bench.disks[1].clone()];
    for (what, script) in makers {
        bench.sh(&script).await;
        let refused = pool.extend(&disks, false).await.unwrap_err();
        assert_eq!(refused.kind(), Kind::Precondition);
        assert!(refused.message().contains(what), "{what}: {refused}");
        assert!(refused.message().contains("--force"), "{refused}");
        bench.sh(&format!("wipefs -q -a {second}; dd if=/dev/zero of={second} bs=1M count=20 conv=notrunc,fsync")).await;
    }
    // Mounted, even with force.
    bench.ext4(&bench.disks[1]).await;
    let mounted = bench.mount(&bench.disks[1], "rw").await;
    let refused = pool.extend(&disks, true).await.unwrap_err();
    assert!(refused.message().contains("mounted"), "{refused}");
    mounted.unmount(&bench).await;
    // In another group, even with force.
    bench.run(&["vgcreate", "-q", "-y", "other", second]).await;
    let refused = pool.extend(&disks, true).await.unwrap_err();
    assert!(refused.message().contains("other"), "{refused}");
    bench.run(&["vgremove", "-q", "-y", "other"]).await;
    bench
        .sh(&format!(
            "wipefs -q -a {second}; echo 'label: gpt\n,100M' | sfdisk -q {second}"
        ))
        .await;
    pool.extend(&disks, true).await.unwrap();

    // The group itself: made once, found again, not taken from another pool.
    let runner = || Arc::clone(&bench.runner);
    make(&options(), &bench.some(2), false, runner())
        .await
        .unwrap();
    let theirs = Options {
        name: PoolName::new("slow").unwrap(),
        ..options()
    };
    let refused = make(&theirs, &bench.some(1), true, runner())
        .await
        .unwrap_err();
    assert_eq!(refused.kind(), Kind::Exists);
    assert!(!first.is_empty());
}

/// LVM keeps old and new metadata side by side, so that half of the place is what there is.
#[tokio::test]
async fn a_groups_metadata_have_room_for_thousands_of_volumes() {
    let bench = Bench::new().await;
    let pool = pool(&bench, 1).await;
    pool.extend(&bench.some(2)[1..], false).await.unwrap();
    let left = async || {
        let shown = ["vgs", "--noheadings", "--nosuffix", "--units", "b"];
        let argv = [&shown[..], &["-o", "vg_mda_free", VG]].concat();
        let text = bench.run(&argv).await;
        text.trim().parse::<u64>().unwrap()
    };
    let before = left().await;
    for n in 0..4 {
        // As provisioners call them.
        let record = volume(&format!("pvc-3f0d2c1e-7a55-4d2b-9c58-0b1e6a9f4d{n:02}"));
        pool.create(&record, Bytes::mib(4)).await.unwrap();
    }
    let each = (before - left().await) / 4;
    assert!(before / 2 / each > 3000, "{before} bytes, {each} a volume");
}

#[tokio::test]
async fn a_missing_group_is_a_problem_not_a_crash() {
    let bench = Bench::new().await;
    let pool = open(&bench).await;
    let status = pool.status().await.unwrap();
    assert!(status.problem.unwrap().contains("is missing"));
    assert_eq!(status.free, Bytes(0));
    let e = pool.create(&volume("v"), Bytes::mib(8)).await.unwrap_err();
    assert_eq!(e.kind(), Kind::Precondition, "{e:?}");
    assert_eq!(pool.tend().await.unwrap()[0].trouble, Trouble::PoolMissing);
    // It comes back by itself.
    make(&options(), &bench.some(2), false, Arc::clone(&bench.runner))
        .await
        .unwrap();
    pool.create(&volume("v"), Bytes::mib(8)).await.unwrap();
    assert_eq!(pool.tend().await.unwrap(), []);
    // A disk of it is gone.
    bench.run(&["vgchange", "-q", "-an", VG]).await;
    bench
        .sh(&format!(
            "dd if=/dev/zero of={} bs=1M count=2 conv=notrunc,fsync",
            text(&bench.disks[1])
        ))
        .await;
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    let status = pool.status().await.unwrap();
    assert!(status.problem.unwrap().contains("missing"));
    assert_eq!(found(&pool).await.len(), 1);
    let e = pool.create(&volume("w"), Bytes::mib(8)).await.unwrap_err();
    assert_eq!(e.kind(), Kind::Precondition, "{e:?}");
    assert_eq!(pool.tend().await.unwrap()[0].trouble, Trouble::PoolMissing);
}

#[tokio::test]
async fn wiping_can_be_left_out() {
    let bench = Bench::new().await;
    make(&options(), &bench.some(1), false, Arc::clone(&bench.runner))
        .await
        .unwrap();
    for wipe in [Wipe::None, Wipe::Discard] {
        let options = Options { wipe, ..options() };
        let pool = LvmPool::open(options, Arc::clone(&bench.runner))
            .await
            .unwrap();
        let (record, cut) = (volume("v"), snapshot("s", &volume("v")));
        pool.create(&record, Bytes::mib(16)).await.unwrap();
        pool.snapshot(&record, &cut).await.unwrap();
        destroy(&pool, &cut).await;
        destroy(&pool, &record).await;
        assert_eq!(pool.scan().await.unwrap(), Scan::default());
    }
}

// What the test below cuts off at each step.

#[tokio::test]
#[ignore = "run by killed_anywhere_a_pool_is_understood_and_can_be_swept"]
async fn making() {
    let bench = Bench::as_is();
    make(&options(), &bench.some(1), true, Arc::clone(&bench.runner))
        .await
        .unwrap();
    let pool = open(&bench).await;
    pool.extend(&bench.some(2), true).await.unwrap();
}

#[tokio::test]
#[ignore = "run by killed_anywhere_a_pool_is_understood_and_can_be_swept"]
async fn copying() {
    let pool = open(&Bench::as_is()).await;
    let (record, cut, reader) = copies();
    let at = guest::lay_down(&pool, &record, Bytes::mib(16)).await;
    pool.snapshot(&record, &cut).await.unwrap();
    guest::tell_made(&cut);
    pool.clone_volume(&cut, &reader, Bytes::mib(16))
        .await
        .unwrap();
    guest::tell_made(&reader);
    fill(&at, 1, 3, 0xA5);
    pool.tend().await.unwrap();
}

#[tokio::test]
#[ignore = "run by killed_anywhere_a_pool_is_understood_and_can_be_swept"]
async fn changing() {
    let pool = open(&Bench::as_is()).await;
    let (record, ..) = copies();
    pool.grow(&record, Bytes::mib(24)).await.unwrap();
    let content = Content::Raw;
    pool.rewrite(&Record { content, ..record }).await.unwrap();
}

#[tokio::test]
#[ignore = "run by killed_anywhere_a_pool_is_understood_and_can_be_swept"]
async fn removing() {
    let pool = open(&Bench::as_is()).await;
    let (record, cut, reader) = copies();
    for record in [&reader, &cut, &record] {
        guest::tell_and_destroy(&pool, record).await;
    }
}

/// A volume, a snapshot of it whose store grows early, and a reader of that.
fn copies() -> (Record, Record, Record) {
    let record = volume("v");
    let growth = SnapshotGrowth {
        initial: Bytes::mib(4),
        threshold: 50,
        step: Bytes::mib(4),
    };
    let cut = Record {
        growth: Some(growth),
        ..snapshot("s", &record)
    };
    let reader = reader("r", &cut);
    (record, cut, reader)
}

#[tokio::test]
async fn killed_anywhere_a_pool_is_understood_and_can_be_swept() {
    let bench = Bench::new().await;
    let recover = async || {
        // Trying again is the way on from there, also for making the pool.
        let runner = Arc::clone(&bench.runner);
        make(&options(), &bench.some(1), true, runner)
            .await
            .unwrap();
        open(&bench).await
    };
    let settle = async |pool: &LvmPool, cut: &str| {
        guest::sweep(pool).await;
        let status = pool.status().await.unwrap();
        assert_eq!(status.free, status.total, "after {cut}");
    };
    let blank = async || {
        bench.blank().await;
        // One disk is not blank, so that wiping it is among the steps.
        let disk = text(&bench.disks[1]);
        bench.run(&["mkfs.ext4", "-q", "-F", disk, "16M"]).await;
    };
    let making = guest::killed_at_each_step(&bench, "making", blank, recover, settle).await;
    recover().await.extend(&bench.some(2), true).await.unwrap();
    let nothing = async || {};
    let copying = guest::killed_at_each_step(&bench, "copying", nothing, recover, settle).await;
    let made = async || {
        let pool = open(&bench).await;
        let (record, cut, reader) = copies();
        guest::lay_down(&pool, &record, Bytes::mib(16)).await;
        pool.snapshot(&record, &cut).await.unwrap();
        guest::tell_made(&cut);
        pool.clone_volume(&cut, &reader, Bytes::mib(16))
            .await
            .unwrap();
        guest::tell_made(&reader);
    };
    let changing = guest::killed_at_each_step(&bench, "changing", made, recover, settle).await;
    let removing = guest::killed_at_each_step(&bench, "removing", made, recover, settle).await;
    let steps = [making, copying, changing, removing];
    assert!(steps.iter().sum::<usize>() >= 17, "{steps:?}");
}
