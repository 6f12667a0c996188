//! Thin volumes on a real LVM thin pool.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod guest;

use std::path::Path;
use std::sync::Arc;

use guest::{
    Bench, Counting, VG, count, count_in, destroy, device, fill, found, lv, snapshot, text, volume,
};
use stowage_model::record::Content;
use stowage_model::volumes::{Severity, Trouble};
use stowage_model::{Bytes, Kind, PoolName, Record};
use stowage_pool::thin::{Options, ThinPool, make};
use stowage_pool::{
    Attach, BlockDevices, Clones, Defect, Disks, Hold, Pool, Removed, Snapshots, Written, lvm,
};

fn options() -> Options {
    Options {
        name: PoolName::new("thin").unwrap(),
        vg: VG.to_owned(),
        thin_pool: "tp-0".to_owned(),
        overprovision: 3.0,
        data_limit: Options::DATA_LIMIT,
        metadata_limit: Options::METADATA_LIMIT,
        reserve: stowage_model::Reserve::default(),
    }
}

async fn open(bench: &Bench) -> ThinPool {
    ThinPool::open(options(), Arc::clone(&bench.runner))
        .await
        .unwrap()
}

/// A thin pool of this size on the first disk.
async fn pool(bench: &Bench, size: Bytes) -> ThinPool {
    let runner = || Arc::clone(&bench.runner);
    make(&options(), &bench.some(1), Some(size), false, runner())
        .await
        .unwrap();
    make(&options(), &bench.some(1), Some(size), false, runner())
        .await
        .unwrap();
    open(bench).await
}

fn clone(name: &str, of: &Record) -> Record {
    Record {
        source: Some(of.id.clone()),
        ..volume(name)
    }
}

#[tokio::test]
async fn a_volume_is_made_found_written_grown_rewritten_and_removed() {
    let bench = Bench::new().await;
    let pool = bench
        .timed("make and open a pool", pool(&bench, Bytes::mib(200)))
        .await;
    let before = pool.status().await.unwrap();
    assert_eq!((before.problem, before.total), (None, Bytes::mib(200)));
    assert_eq!((before.free, before.promised), (Bytes::mib(600), Bytes(0)));

    let mut record = volume("Ü +ナ, \"$(x)\"");
    let size = bench
        .timed("create", pool.create(&record, Bytes::mib(61)))
        .await
        .unwrap();
    assert_eq!(size, Bytes::mib(64));
    assert_eq!(pool.create(&record, Bytes::mib(61)).await.unwrap(), size);
    let at = bench
        .timed("attach", pool.attach(&record, Attach::Held))
        .await
        .unwrap();
    assert_eq!((at.size, count(&at.path, 0)), (size, 64 << 20));
    // Reading gives no block; one that was written stays, whatever it holds.
    assert_eq!(pool.written(&record).await.unwrap(), Written::Nothing);
    fill(&at.path, 32, 1, 0);
    let known = pool.written(&record).await.unwrap();
    assert!(
        matches!(&known, Written::Something(what) if what.contains("1Mi")),
        "{known:?}"
    );
    bench.ext4(&at.path).await;
    record.content = Content::Raw;
    bench.timed("rewrite", pool.rewrite(&record)).await.unwrap();
    assert_eq!(found(&open(&bench).await).await, [record.clone()]);

    let mounted = bench.mount(&at.path, "rw").await;
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
    mounted.unmount(&bench).await;
    bench.timed("detach", pool.detach(&record)).await.unwrap();
    assert!(pool.attached(&record).await.unwrap().is_none());
    device(&pool, &record).await;
    assert!(matches!(
        bench.timed("remove", pool.remove(&record)).await.unwrap(),
        Removed::Gone
    ));
    assert!(matches!(pool.remove(&record).await.unwrap(), Removed::Gone));
    assert_eq!(pool.status().await.unwrap().free, before.free);
}

#[tokio::test]
async fn no_byte_of_a_removed_volume_is_seen_again() {
    let bench = Bench::new().await;
    let pool = pool(&bench, Bytes::mib(64)).await;
    let (old, new) = (volume("old"), volume("new"));
    pool.create(&old, Bytes::mib(48)).await.unwrap();
    fill(&device(&pool, &old).await, 0, 48, 0xA5);
    destroy(&pool, &old).await;
    pool.create(&new, Bytes::mib(48)).await.unwrap();
    let at = device(&pool, &new).await;
    // One sector of each block, so that every block is taken.
    let file = std::fs::File::options().write(true).open(&at).unwrap();
    for block in 0..(48 << 20) / (64 << 10) {
        std::os::unix::fs::FileExt::write_all_at(&file, &[1; 512], block * (64 << 10)).unwrap();
    }
    file.sync_all().unwrap();
    assert_eq!(count(&at, 0xA5), 0);
}

#[tokio::test]
async fn snapshots_and_clones_live_on_their_own() {
    let bench = Bench::new().await;
    let pool = pool(&bench, Bytes::mib(300)).await;
    let (record, cut) = (volume("v"), snapshot("s", &volume("v")));
    pool.create(&record, Bytes::mib(32)).await.unwrap();
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
    let (of_cut, of_volume) = (clone("c1", &cut), clone("c2", &record));
    let made = bench
        .timed("clone", pool.clone_volume(&cut, &of_cut, Bytes::mib(32)))
        .await;
    assert_eq!(made.unwrap(), Bytes::mib(32));
    let made = pool.clone_volume(&record, &of_volume, Bytes::mib(48));
    assert_eq!(
        bench.timed("clone and grow", made).await.unwrap(),
        Bytes::mib(48)
    );
    assert_eq!(
        pool.clone_volume(&record, &of_volume, Bytes::mib(48))
            .await
            .unwrap(),
        Bytes::mib(48)
    );
    let status = pool.status().await.unwrap();
    assert_eq!((status.volumes, status.snapshots), (3, 1));
    assert_eq!(
        status.promised,
        Bytes::mib(32 + 32 + 48),
        "snapshots promise nothing"
    );
    mounted.unmount(&bench).await;
    destroy(&pool, &record).await;

    let kept = bench.mount(&device(&pool, &cut).await, "ro,noload").await;
    assert!(kept.has("before") && !kept.has("after"));
    kept.unmount(&bench).await;
    destroy(&pool, &cut).await;
    for (copy, after) in [(&of_cut, false), (&of_volume, true)] {
        let mounted = bench.mount(&device(&pool, copy).await, "rw").await;
        assert_eq!((mounted.has("before"), mounted.has("after")), (true, after));
        mounted.write("more", b"3");
        mounted.unmount(&bench).await;
    }
    assert_eq!(found(&pool).await, [of_cut, of_volume]);
    guest::sweep(&pool).await;
}

#[tokio::test]
async fn snapshots_of_several_volumes_show_one_moment() {
    let bench = Bench::new().await;
    let pool = pool(&bench, Bytes::mib(300)).await;
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
    // LVM and the kernel still agree about the pool.
    pool.create(&volume("c"), Bytes::mib(8)).await.unwrap();
    pool.snapshot(&records[0], &snapshot("later", &records[0]))
        .await
        .unwrap();
    for mounted in mounts {
        mounted.unmount(&bench).await;
    }
    guest::sweep(&pool).await;
}

/// Older kernels refuse to hold what is frozen, newer ones freeze it once more beneath.
#[tokio::test]
async fn a_frozen_file_system_is_cut_whole_or_refused_and_stays_frozen() {
    let bench = Bench::new().await;
    let pool = pool(&bench, Bytes::mib(200)).await;
    let (record, cut) = (volume("v"), snapshot("s", &volume("v")));
    pool.create(&record, Bytes::mib(64)).await.unwrap();
    let at = device(&pool, &record).await;
    bench.ext4(&at).await;
    let mounted = bench.mount(&at, "rw").await;
    mounted.write("before", b"kept");
    bench.freeze(&mounted).await;
    let made = pool.snapshot(&record, &cut).await;
    bench.still_frozen(&mounted).await;
    bench.thaw(&mounted).await;
    if let Err(refused) = made {
        assert_eq!(refused.kind(), Kind::Precondition);
        assert_eq!(found(&pool).await, std::slice::from_ref(&record));
        pool.snapshot(&record, &cut).await.unwrap();
    }
    let frozen = bench.mount(&device(&pool, &cut).await, "ro,noload").await;
    assert!(frozen.has("before"));
    frozen.unmount(&bench).await;
    mounted.unmount(&bench).await;
    guest::sweep(&pool).await;
}

#[tokio::test]
async fn a_thin_device_that_lvm_does_not_know_is_in_nobodys_way() {
    let bench = Bench::new().await;
    let pool = pool(&bench, Bytes::mib(200)).await;
    // What a power cut leaves between the commits of the kernel and of LVM, under the number that
    // LVM gives next.
    let stray = async |number: u32| {
        let tell = format!("dmsetup message st--test-tp--0-tpool 0 'create_thin {number}'");
        bench.sh(&tell).await;
    };
    let (v, w) = (volume("v"), volume("w"));
    pool.create(&v, Bytes::mib(16)).await.unwrap();
    fill(&device(&pool, &v).await, 0, 1, 7);
    stray(2).await;
    // Somebody's bytes are in it.
    let map = "0 8192 thin /dev/mapper/st--test-tp--0-tpool 2";
    bench
        .sh(&format!(
            "dmsetup create stray --noudevsync --table '{map}'; dmsetup mknodes stray"
        ))
        .await;
    fill(Path::new("/dev/mapper/stray"), 0, 2, 9);
    bench.sh("dmsetup remove --noudevsync stray").await;
    pool.create(&w, Bytes::mib(16)).await.unwrap();
    assert_eq!(count(&device(&pool, &w).await, 9), 0);
    stray(3).await;
    pool.snapshot(&v, &snapshot("s", &v)).await.unwrap();
    stray(4).await;
    pool.clone_volume(&v, &clone("c", &v), Bytes::mib(16))
        .await
        .unwrap();
    stray(5).await;
    pool.suspend(std::slice::from_ref(&v)).await.unwrap();
    let held = pool.snapshot(&v, &snapshot("h", &v)).await;
    pool.resume(std::slice::from_ref(&v)).await.unwrap();
    held.unwrap();
    assert_eq!(count(&device(&pool, &clone("c", &v)).await, 7), 1 << 20);
    assert_eq!(found(&pool).await.len(), 5);
    guest::sweep(&pool).await;
}

#[tokio::test]
async fn promises_and_fill_have_limits() {
    let bench = Bench::new().await;
    let pool = pool(&bench, Bytes::mib(100)).await;
    let (one, cut) = (volume("one"), snapshot("s", &volume("one")));
    pool.create(&one, Bytes::mib(200)).await.unwrap();
    assert_eq!(pool.status().await.unwrap().free, Bytes::mib(100));
    pool.snapshot(&one, &cut).await.unwrap();
    assert_eq!(pool.status().await.unwrap().free, Bytes::mib(100));
    let full = [
        pool.create(&volume("two"), Bytes::mib(104))
            .await
            .unwrap_err(),
        pool.grow(&one, Bytes::mib(304)).await.unwrap_err(),
        pool.clone_volume(&cut, &clone("c", &cut), Bytes::mib(200))
            .await
            .unwrap_err(),
    ];
    assert!(full.iter().all(|e| e.kind() == Kind::Full), "{full:?}");
    assert!(
        full[0].message().contains("104Mi") && full[0].message().contains("100Mi"),
        "{full:?}"
    );
    pool.create(&volume("two"), Bytes::mib(8)).await.unwrap();

    assert_eq!(pool.tend().await.unwrap(), []);
    let at = device(&pool, &one).await;
    fill(&at, 0, 84, 1);
    // A pool that was far from full is looked at again after a while only.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    let findings = loop {
        let findings = bench.timed("tend", pool.tend()).await.unwrap();
        if !findings.is_empty() {
            break findings;
        }
        assert!(std::time::Instant::now() < deadline, "the fill goes unseen");
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    };
    assert_eq!(
        (findings[0].trouble, findings[0].severity),
        (Trouble::PoolFull, Severity::Warning)
    );
    assert!(findings[0].mend.contains("pool extend"), "{findings:?}");
    assert_eq!(
        bench
            .timed("tend with nothing written", pool.tend())
            .await
            .unwrap(),
        findings
    );
    fill(&at, 84, 8, 1);
    // A report may be a second old.
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    for refused in [
        pool.create(&volume("three"), Bytes::mib(4))
            .await
            .unwrap_err(),
        pool.snapshot(&one, &snapshot("s2", &one))
            .await
            .unwrap_err(),
    ] {
        assert_eq!(refused.kind(), Kind::Full);
        assert!(refused.message().contains("92 %"), "{refused}");
    }
    assert_eq!(pool.status().await.unwrap().free, Bytes(0));
    fill(&at, 92, 5, 1);
    assert_eq!(pool.tend().await.unwrap()[0].severity, Severity::Error);

    // Another disk helps at once.
    bench
        .timed("extend", pool.extend(&[bench.disks[1].clone()], false))
        .await
        .unwrap();
    pool.extend(&[bench.disks[1].clone()], false).await.unwrap();
    assert!(pool.status().await.unwrap().total > Bytes::gib(1));
    pool.create(&volume("three"), Bytes::mib(4)).await.unwrap();
    bench.run(&["blkdiscard", "-f", text(&at)]).await;
    assert_eq!(pool.tend().await.unwrap(), []);
    guest::sweep(&pool).await;
}

/// What the kernel says of the thin pool.
async fn state(bench: &Bench) -> String {
    bench
        .sh("dmsetup status $(dmsetup ls | cut -f1 | grep tpool)")
        .await
}

/// How long writers wait for room in a thin pool that is full, in seconds, before they fail.
async fn patience(bench: &Bench, seconds: u32) {
    let knob = "/sys/module/dm_thin_pool/parameters/no_space_timeout";
    bench.sh(&format!("echo {seconds} >{knob}")).await;
}

#[tokio::test]
async fn a_thin_pool_without_data_is_emptied() {
    let bench = Bench::new().await;
    let before = pool(&bench, Bytes::mib(100)).await;
    for name in ["v", "w"] {
        before.create(&volume(name), Bytes::mib(140)).await.unwrap();
    }
    let (v, w) = (volume("v"), volume("w"));
    let at = device(&before, &v).await;
    bench.ext4(&at).await;
    let mounted = bench.mount(&at, "rw").await;
    mounted.write("kept", b"kept");
    patience(&bench, 3).await;
    let full = mounted.point.join("fill");
    bench
        .sh(&format!(
            "dd if=/dev/zero of={0} bs=1M count=120 2>&1; ! sync -f {0}",
            text(&full)
        ))
        .await;
    let said = state(&bench).await;
    assert!(said.contains("out_of_data_space"), "{said}");
    // A daemon that starts now finds everything, and can take it away.
    let pool = open(&bench).await;
    assert_eq!(found(&pool).await.len(), 2);
    bench.timed("unmount", mounted.unmount(&bench)).await;
    pool.detach(&v).await.unwrap();
    let refused = pool.create(&volume("x"), Bytes::mib(4)).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Full, "{refused}");
    destroy(&pool, &w).await;
    // What reached the pool before it was full is there.
    let mounted = bench.mount(&device(&pool, &v).await, "ro").await;
    assert!(mounted.has("kept"));
    mounted.unmount(&bench).await;
    pool.detach(&v).await.unwrap();
    destroy(&pool, &v).await;
    assert_eq!(found(&pool).await, []);
    let said = state(&bench).await;
    assert!(!said.contains("out_of_data_space"), "{said}");
    pool.create(&v, Bytes::mib(4)).await.unwrap();
    guest::sweep(&pool).await;
    patience(&bench, 60).await;
}

#[tokio::test]
async fn a_thin_pool_without_metadata_lets_go_of_its_volumes() {
    let bench = Bench::new().await;
    bench
        .run(&["vgcreate", "-y", "-q", VG, text(&bench.disks[0])])
        .await;
    bench
        .sh(&format!(
            "lvcreate -y -q --type thin-pool -Zy -n tp-0 -L 1G --poolmetadatasize 4M {VG}"
        ))
        .await;
    let before = open(&bench).await;
    let (v, w) = (volume("v"), volume("w"));
    for record in [&v, &w] {
        before.create(record, Bytes::mib(64)).await.unwrap();
    }
    let at = device(&before, &v).await;
    bench.ext4(&device(&before, &w).await).await;
    let mounted = bench.mount(&device(&before, &w).await, "rw").await;
    fill(&at, 0, 40, 1);
    // Each snapshot of the kernel's own, and a block that is no longer shared, takes some metadata.
    let id = bench
        .sh(&format!("lvs --noheadings -o thin_id {VG}/{}", lv(&v)))
        .await;
    bench
        .sh(&format!(
            "pool=$(dmsetup ls | cut -f1 | grep tpool); n=1000; \
             while dmsetup message $pool 0 \"create_snap $n {0}\" 2>/dev/null && \
                dd if=/dev/zero of={1} bs=4k count=1 seek=$(( n * 592 % 10000 )) oflag=direct 2>/dev/null; \
             do n=$(( n + 1 )); test $n -lt 4000 || exit 1; done",
            id.trim(),
            text(&at)
        ))
        .await;
    let said = state(&bench).await;
    assert!(
        said.contains(" ro ") || said.contains("out_of_metadata"),
        "{said}"
    );
    // A daemon that starts now finds everything, and says what is wrong.
    let pool = open(&bench).await;
    assert_eq!(found(&pool).await.len(), 2);
    let told = pool.tend().await.unwrap();
    let full = |f: &&stowage_model::volumes::Finding| f.trouble == Trouble::PoolFull;
    assert!(
        told.iter()
            .find(full)
            .is_some_and(|f| f.mend.contains("poolmetadatasize")),
        "{told:?}"
    );
    bench.timed("unmount", mounted.unmount(&bench)).await;
    for record in [&v, &w] {
        pool.detach(record).await.unwrap();
        destroy(&pool, record).await;
    }
    assert_eq!(found(&pool).await, []);
    let refused = pool.create(&v, Bytes::mib(4)).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Full, "{refused}");
    // The way out that is told.
    bench
        .run(&[
            "lvextend",
            "-q",
            "--poolmetadatasize",
            "+8M",
            &format!("{VG}/tp-0"),
        ])
        .await;
    let pool = open(&bench).await;
    pool.create(&v, Bytes::mib(4)).await.unwrap();
    let said = state(&bench).await;
    println!("{said}");
    guest::sweep(&pool).await;
}

#[tokio::test]
async fn a_pool_may_be_all_that_is_free() {
    let bench = Bench::new().await;
    let runner = || Arc::clone(&bench.runner);
    make(&options(), &bench.some(2), None, false, runner())
        .await
        .unwrap();
    let status = open(&bench).await.status().await.unwrap();
    assert!(status.total > Bytes::gib(1), "{status:?}");
    let theirs = Options {
        name: PoolName::new("other").unwrap(),
        ..options()
    };
    let refused = make(&theirs, &[], None, false, runner()).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Exists);
}

#[tokio::test]
async fn a_pool_that_does_not_zero_is_refused() {
    let bench = Bench::new().await;
    pool(&bench, Bytes::mib(64)).await;
    let location = format!("{VG}/tp-0");
    bench
        .run(&["lvchange", "-q", "--zero", "n", &location])
        .await;
    let refused = ThinPool::open(options(), Arc::clone(&bench.runner))
        .await
        .err()
        .unwrap();
    assert!(
        refused
            .message()
            .contains(&format!("lvchange --zero y {location}")),
        "{refused}"
    );
    bench
        .run(&["lvchange", "-q", "--zero", "y", &location])
        .await;
    open(&bench).await;
}

#[tokio::test]
async fn a_missing_pool_is_a_problem_not_a_crash() {
    let bench = Bench::new().await;
    let pool = open(&bench).await;
    assert!(
        pool.status()
            .await
            .unwrap()
            .problem
            .unwrap()
            .contains("is missing")
    );
    assert_eq!(pool.tend().await.unwrap()[0].trouble, Trouble::PoolMissing);
    lvm::make(
        &lvm::Options {
            name: PoolName::new("x").unwrap(),
            vg: VG.into(),
            wipe: lvm::Wipe::Zero,
            reserve: stowage_model::Reserve::default(),
        },
        &bench.some(1),
        false,
        Arc::clone(&bench.runner),
    )
    .await
    .unwrap();
    assert!(
        pool.status()
            .await
            .unwrap()
            .problem
            .unwrap()
            .contains("tp-0 is missing")
    );
    let refused = pool.create(&volume("v"), Bytes::mib(4)).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Precondition);
    make(
        &options(),
        &[],
        Some(Bytes::mib(64)),
        false,
        Arc::clone(&bench.runner),
    )
    .await
    .unwrap();
    pool.create(&volume("v"), Bytes::mib(4)).await.unwrap();
    // After a reboot nothing is active, and nothing is known of the fill.
    pool.detach(&volume("v")).await.unwrap();
    bench.run(&["vgchange", "-q", "-an", VG]).await;
    let pool = open(&bench).await;
    let status = pool.status().await.unwrap();
    assert_eq!((status.data_percent, status.volumes), (None, 1));
    device(&pool, &volume("v")).await;
    guest::sweep(&pool).await;
}

#[tokio::test]
async fn two_pools_of_one_group_do_not_see_each_other() {
    let bench = Bench::new().await;
    let thin = pool(&bench, Bytes::mib(64)).await;
    let options = lvm::Options {
        name: PoolName::new("thick").unwrap(),
        vg: VG.into(),
        wipe: lvm::Wipe::Zero,
        reserve: stowage_model::Reserve::default(),
    };
    let thick = lvm::LvmPool::open(options, Arc::clone(&bench.runner))
        .await
        .unwrap();
    thin.create(&volume("thin"), Bytes::mib(4)).await.unwrap();
    thick.create(&volume("thick"), Bytes::mib(4)).await.unwrap();
    bench
        .run(&[
            "lvcreate",
            "-q",
            "-y",
            "-n",
            "theirs",
            "-V",
            "8M",
            "-T",
            &format!("{VG}/tp-0"),
        ])
        .await;
    assert_eq!(found(&thin).await, [volume("thin")]);
    assert_eq!(found(&thick).await, [volume("thick")]);
    assert_eq!(
        thin.scan().await.unwrap().defects,
        [Defect::Foreign("theirs".into())]
    );
    assert_eq!(thick.scan().await.unwrap().defects, []);
    assert_eq!(thin.status().await.unwrap().promised, Bytes::mib(12));
    let taken = thin
        .create(&volume("thick"), Bytes::mib(4))
        .await
        .unwrap_err();
    assert_eq!(taken.kind(), Kind::Exists);
    let fake = stowage_pool::Leftover {
        handle: lv(&volume("thin")),
        size: Bytes(0),
    };
    let progress = Arc::new(stowage_host::Progress::new());
    assert_eq!(
        thin.purge(&fake, &progress).await.unwrap_err().kind(),
        Kind::NotFound
    );
}

// What the test below cuts off at each step.

#[tokio::test]
#[ignore = "run by killed_anywhere_a_pool_is_understood_and_can_be_swept"]
async fn making() {
    made(&Bench::as_is()).await;
}

#[tokio::test]
#[ignore = "run by killed_anywhere_a_pool_is_understood_and_can_be_swept"]
async fn copying() {
    let pool = open(&Bench::as_is()).await;
    let (record, cut, copy, _) = copies();
    guest::lay_down(&pool, &record, Bytes::mib(16)).await;
    pool.snapshot(&record, &cut).await.unwrap();
    guest::tell_made(&cut);
    pool.clone_volume(&cut, &copy, Bytes::mib(24))
        .await
        .unwrap();
    guest::tell_made(&copy);
}

#[tokio::test]
#[ignore = "run by killed_anywhere_a_pool_is_understood_and_can_be_swept"]
async fn changing() {
    let pool = open(&Bench::as_is()).await;
    let (record, _, _, held) = copies();
    pool.suspend(std::slice::from_ref(&record)).await.unwrap();
    pool.snapshot(&record, &held).await.unwrap();
    pool.resume(std::slice::from_ref(&record)).await.unwrap();
    guest::tell_made(&held);
    pool.grow(&record, Bytes::mib(24)).await.unwrap();
    let content = Content::Raw;
    pool.rewrite(&Record { content, ..record }).await.unwrap();
}

#[tokio::test]
#[ignore = "run by killed_anywhere_a_pool_is_understood_and_can_be_swept"]
async fn removing() {
    let pool = open(&Bench::as_is()).await;
    let (record, cut, copy, _) = copies();
    for record in [&cut, &copy, &record] {
        guest::tell_and_destroy(&pool, record).await;
    }
}

#[tokio::test]
#[ignore = "run by killed_anywhere_a_pool_is_understood_and_can_be_swept"]
async fn extending() {
    let bench = Bench::as_is();
    let pool = open(&bench).await;
    pool.extend(&bench.some(2), true).await.unwrap();
}

/// A volume, a snapshot of it, a clone of that, and a snapshot that is made while the volume is held.
fn copies() -> (Record, Record, Record, Record) {
    let record = volume("v");
    let (cut, held) = (snapshot("s", &record), snapshot("h", &record));
    let copy = clone("c", &cut);
    (record, cut, copy, held)
}

async fn made(bench: &Bench) -> ThinPool {
    let (size, runner) = (Some(Bytes::mib(64)), Arc::clone(&bench.runner));
    make(&options(), &bench.some(1), size, true, runner)
        .await
        .unwrap();
    open(bench).await
}

#[tokio::test]
async fn killed_anywhere_a_pool_is_understood_and_can_be_swept() {
    let bench = Bench::new().await;
    let recover = async || {
        let pool = made(&bench).await;
        let records: Vec<_> = found(&pool).await;
        pool.resume(&records).await.unwrap();
        pool
    };
    let settle = async |pool: &ThinPool, cut: &str| {
        // What was half made can be made again.
        let records = found(pool).await;
        if let Some(record) = records.iter().find(|r| **r == volume("v")) {
            pool.snapshot(record, &snapshot("h", record)).await.unwrap();
        }
        guest::sweep(pool).await;
        assert_eq!(
            pool.status().await.unwrap().promised,
            Bytes(0),
            "after {cut}"
        );
    };
    let blank = async || bench.blank().await;
    let nothing = async || {};
    let laid_down = async || {
        let pool = open(&bench).await;
        guest::lay_down(&pool, &volume("v"), Bytes::mib(16)).await;
    };
    let copied = async || {
        let pool = open(&bench).await;
        let (record, cut, copy, _) = copies();
        guest::lay_down(&pool, &record, Bytes::mib(16)).await;
        pool.snapshot(&record, &cut).await.unwrap();
        guest::tell_made(&cut);
        pool.clone_volume(&cut, &copy, Bytes::mib(16))
            .await
            .unwrap();
        guest::tell_made(&copy);
    };
    // The second disk is still to be taken.
    let without_the_second = async || {
        bench.blank().await;
        made(&bench).await;
    };
    let making = guest::killed_at_each_step(&bench, "making", blank, recover, settle).await;
    let copying = guest::killed_at_each_step(&bench, "copying", nothing, recover, settle).await;
    let changing = guest::killed_at_each_step(&bench, "changing", laid_down, recover, settle).await;
    let removing = guest::killed_at_each_step(&bench, "removing", copied, recover, settle).await;
    let extending =
        guest::killed_at_each_step(&bench, "extending", without_the_second, recover, settle).await;
    let steps = [making, copying, changing, removing, extending];
    assert!(steps.iter().sum::<usize>() >= 16, "{steps:?}");
}
