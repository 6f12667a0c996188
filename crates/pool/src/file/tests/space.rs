//! That a thick volume keeps its blocks, and that nobody is promised what it may need.

use stowage_host::reflink::{allocated_bytes, hole_bytes};
use stowage_model::volumes::{Finding, Severity, Trouble};
use stowage_testkit::disk::run;

use super::*;

impl Bench {
    fn data(&self, record: &Record) -> PathBuf {
        self.pool.shared.data(record)
    }

    /// As what took its blocks by a way that we do not know of.
    fn punch(&self, record: &Record, mib: u64) {
        let data = self.data(record).display().to_string();
        let length = format!("{mib}M");
        run("fallocate", ["-p", "-o", "0", "-l", &length, &data]).unwrap();
    }

    async fn free(&self) -> Bytes {
        self.pool.status().await.unwrap().free
    }

    async fn thin_room(&self) -> Bytes {
        let capacity = self.pool.capacity(Layout::Linear, Provisioning::Thin);
        capacity.await.available
    }

    /// Leave only so much of the file system.
    async fn fill_up_to(&self, left: Bytes) {
        let available = self.pool.shared.space().unwrap().available;
        let rest = self.fs.path().join("rest").display().to_string();
        let length = available.minus(left).0.to_string();
        run("fallocate", ["-l", &length, &rest]).unwrap();
    }
}

fn about<'a>(findings: &'a [Finding], subject: &str) -> Vec<&'a Finding> {
    findings.iter().filter(|f| f.subject == subject).collect()
}

#[tokio::test]
async fn blocks_that_a_thick_volume_lost_come_back_by_upkeep_and_when_it_is_attached() {
    for kind in FsKind::ALL {
        let bench = Bench::new(kind);
        let v = bench.make("v", Bytes::mib(64)).await;
        let device = bench.pool.attach(&v, Attach::Held).await.unwrap();
        write(&device.path, 48 << 20, b"bytes");
        bench.punch(&v, 40);
        assert!(bench.pool.tend().await.unwrap().is_empty());
        assert_eq!(hole_bytes(&bench.data(&v)).unwrap(), 0, "{kind:?}");
        bench.punch(&v, 40);
        let again = bench.pool.attach(&v, Attach::Held).await.unwrap();
        assert_eq!(hole_bytes(&bench.data(&v)).unwrap(), 0, "{kind:?}");
        bench.punch(&v, 40);
        bench.pool.refill(&v).await.unwrap();
        assert_eq!(hole_bytes(&bench.data(&v)).unwrap(), 0, "{kind:?}");
        assert_eq!(read(&device.path, 48 << 20, 5), b"bytes");
        drop((device, again));
        bench.pool.detach(&v).await.unwrap();
        // A thin one gets nothing that it did not ask for.
        let t = volume("t", Provisioning::Thin);
        bench.pool.create(&t, Bytes::mib(64)).await.unwrap();
        let device = bench.pool.attach(&t, Attach::Held).await.unwrap();
        bench.pool.refill(&t).await.unwrap();
        bench.pool.tend().await.unwrap();
        assert_eq!(allocated_bytes(&bench.data(&t)).unwrap(), 0, "{kind:?}");
        drop(device);
        bench.pool.detach(&t).await.unwrap();
    }
}

#[tokio::test]
async fn a_device_of_a_thick_volume_discards_nothing_and_the_next_thin_one_does() {
    let bench = Bench::new(FsKind::Xfs);
    let v = bench.make("v", Bytes::mib(64)).await;
    let t = volume("t", Provisioning::Thin);
    bench.pool.create(&t, Bytes::mib(64)).await.unwrap();
    let full = allocated_bytes(&bench.data(&v)).unwrap();
    for _ in 0..2 {
        let device = bench.pool.attach(&v, Attach::Held).await.unwrap();
        assert!(!stowage_host::device::discard(&device.path).unwrap());
        assert_eq!(allocated_bytes(&bench.data(&v)).unwrap(), full);
        drop(device);
        bench.pool.detach(&v).await.unwrap();
        let device = bench.pool.attach(&t, Attach::Held).await.unwrap();
        write(&device.path, 0, &[1; 1 << 20]);
        assert!(stowage_host::device::discard(&device.path).unwrap());
        assert_eq!(allocated_bytes(&bench.data(&t)).unwrap(), 0);
        drop(device);
        bench.pool.detach(&t).await.unwrap();
    }
}

/// As one that was in use when an older daemon was replaced.
#[tokio::test]
async fn a_thick_volume_in_use_at_the_start_discards_nothing_from_then_on() {
    let bench = Bench::new(FsKind::Xfs);
    let v = bench.make("v", Bytes::mib(64)).await;
    let options = loopdev::Options {
        autoclear: true,
        block_size: Some(4096),
        ..Default::default()
    };
    let device = loopdev::attach(&bench.data(&v), options).unwrap();
    assert!(stowage_host::device::discard(&device.path).unwrap());
    let pool = bench.again();
    pool.scan().await.unwrap();
    assert!(!stowage_host::device::discard(&device.path).unwrap());
    pool.tend().await.unwrap();
    assert_eq!(hole_bytes(&bench.data(&v)).unwrap(), 0);
    drop(device);
}

#[tokio::test]
async fn a_hole_that_cannot_be_filled_is_told_and_nothing_is_promised_until_it_is() {
    let bench = Bench::new(FsKind::Xfs);
    let v = bench.make("v", Bytes::mib(300)).await;
    bench.punch(&v, 200);
    bench.fill_up_to(Bytes::mib(64)).await;
    for pool in [&bench.pool, &bench.again()] {
        pool.scan().await.unwrap();
        let findings = pool.tend().await.unwrap();
        let told = about(&findings, v.id.as_str());
        assert_eq!(told.len(), 1, "{findings:?}");
        assert_eq!(told[0].severity, Severity::Error);
        assert!(told[0].mend.contains("grow the file system"), "{told:?}");
        for provisioning in [Provisioning::Thick, Provisioning::Thin] {
            let refused = pool.create(&volume("w", provisioning), Bytes::mib(1)).await;
            assert_eq!(refused.unwrap_err().kind(), Kind::Full, "{provisioning:?}");
        }
    }
    std::fs::remove_file(bench.fs.path().join("rest")).unwrap();
    // xfs gives the blocks of a removed file back in its own time.
    let mut left = 100;
    while !bench.pool.tend().await.unwrap().is_empty() {
        left -= 1;
        assert!(left > 0, "not filled");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(hole_bytes(&bench.data(&v)).unwrap(), 0);
    bench.make("w", Bytes::mib(1)).await;
}

#[tokio::test]
async fn what_a_thick_volume_may_need_is_promised_to_nobody() {
    for kind in [FsKind::Xfs, FsKind::Btrfs] {
        let bench = Bench::new(kind);
        let v = bench.make("v", Bytes::mib(200)).await;
        let device = bench.pool.attach(&v, Attach::Held).await.unwrap();
        write(&device.path, 0, &vec![1; 200 << 20]);
        let (free, thin) = (bench.free().await, bench.thin_room().await);
        let s = cut(&v, "s", Bytes::mib(200));
        bench.pool.snapshot(&v, &s).await.unwrap();
        let near = |bytes: Bytes, of: Bytes| bytes <= of && of <= bytes + Bytes::mib(24);
        for _ in 0..2 {
            let left = bench.free().await;
            assert!(
                near(left, free.minus(Bytes::mib(200))),
                "{kind:?} {left} {free}"
            );
            let left = bench.thin_room().await;
            assert!(
                near(left, thin.minus(Bytes::mib(200))),
                "{kind:?} {left} {thin}"
            );
            // By the book, and as the files tell.
            bench.pool.shared.survey();
        }
        // A second snapshot of the same bytes takes nothing more.
        let s2 = cut(&v, "s2", Bytes::mib(200));
        bench.pool.snapshot(&v, &s2).await.unwrap();
        assert!(near(bench.free().await, free.minus(Bytes::mib(200))));
        // What was overwritten needs nothing any more; the blocks are taken.
        write(&device.path, 0, &vec![2; 200 << 20]);
        bench.pool.shared.survey();
        assert!(bench.pool.shared.ledger.owed() < Bytes::mib(16), "{kind:?}");
        drop(device);
        bench.pool.detach(&v).await.unwrap();
    }
}

/// The files tell, where the records of what is gone do not.
#[tokio::test]
async fn what_volumes_share_whose_source_is_gone_still_counts() {
    for kind in [FsKind::Xfs, FsKind::Btrfs] {
        let bench = Bench::new(kind);
        let v = bench.make("v", Bytes::mib(100)).await;
        let device = bench.pool.attach(&v, Attach::Held).await.unwrap();
        write(&device.path, 0, &vec![1; 100 << 20]);
        drop(device);
        bench.pool.detach(&v).await.unwrap();
        let s = cut(&v, "s", Bytes::mib(100));
        bench.pool.snapshot(&v, &s).await.unwrap();
        let c = Record {
            provisioning: Provisioning::Thin,
            ..copy(&s, "c")
        };
        bench.pool.clone_volume(&s, &c, Bytes(0)).await.unwrap();
        let Removed::ToPurge(gone) = bench.pool.remove(&s).await.unwrap() else {
            panic!("a file has to be unlinked");
        };
        bench
            .pool
            .purge(&gone, &Arc::new(Progress::new()))
            .await
            .unwrap();
        for pool in [&bench.pool, &bench.again()] {
            pool.scan().await.unwrap();
            pool.tend().await.unwrap();
            let owed = pool.shared.ledger.owed();
            assert!(
                owed >= Bytes::mib(99) && owed <= Bytes::mib(101),
                "{kind:?} {owed}"
            );
        }
        let Removed::ToPurge(gone) = bench.pool.remove(&c).await.unwrap() else {
            panic!("a file has to be unlinked");
        };
        bench
            .pool
            .purge(&gone, &Arc::new(Progress::new()))
            .await
            .unwrap();
        bench.pool.tend().await.unwrap();
        assert_eq!(bench.pool.shared.ledger.owed(), Bytes(0), "{kind:?}");
    }
}

/// Of two thick volumes that share all, either may be overwritten first, and the other keeps what
/// is there.
#[tokio::test]
async fn a_thick_clone_needs_its_size_once() {
    for kind in [FsKind::Xfs, FsKind::Btrfs] {
        let bench = Bench::new(kind);
        let v = bench.make("v", Bytes::mib(200)).await;
        let device = bench.pool.attach(&v, Attach::Held).await.unwrap();
        write(&device.path, 0, &vec![1; 200 << 20]);
        drop(device);
        bench.pool.detach(&v).await.unwrap();
        let c = copy(&v, "c");
        bench.pool.clone_volume(&v, &c, Bytes(0)).await.unwrap();
        for _ in 0..2 {
            assert_eq!(bench.pool.shared.ledger.owed(), Bytes::mib(200), "{kind:?}");
            bench.pool.shared.survey();
        }
        // A snapshot keeps the old bytes besides.
        let s = cut(&v, "s", Bytes::mib(200));
        bench.pool.snapshot(&v, &s).await.unwrap();
        for _ in 0..2 {
            assert_eq!(bench.pool.shared.ledger.owed(), Bytes::mib(400), "{kind:?}");
            bench.pool.shared.survey();
        }
    }
}

#[tokio::test]
async fn thin_writes_that_eat_what_thick_volumes_may_need_are_told() {
    let bench = Bench::new(FsKind::Xfs);
    let v = bench.make("v", Bytes::mib(200)).await;
    let device = bench.pool.attach(&v, Attach::Held).await.unwrap();
    write(&device.path, 0, &vec![1; 200 << 20]);
    let s = cut(&v, "s", Bytes::mib(200));
    bench.pool.snapshot(&v, &s).await.unwrap();
    bench.fill_up_to(Bytes::mib(180)).await;
    let findings = bench.pool.tend().await.unwrap();
    let told = findings
        .iter()
        .find(|f| f.what.contains("thick volumes may need"));
    let told = told.unwrap_or_else(|| panic!("{findings:?}"));
    assert_eq!(
        (told.trouble, told.severity),
        (Trouble::PoolFull, Severity::Error)
    );
    assert!(told.mend.contains("delete snapshots"), "{told:?}");
    drop(device);
    bench.pool.detach(&v).await.unwrap();
}

#[tokio::test]
async fn on_btrfs_a_thick_volume_is_written_in_place_and_an_older_one_is_told() {
    let bench = Bench::new(FsKind::Btrfs);
    let v = bench.make("v", Bytes::mib(8)).await;
    let t = volume("t", Provisioning::Thin);
    bench.pool.create(&t, Bytes::mib(8)).await.unwrap();
    let in_place =
        |record: &Record| stowage_host::reflink::is_in_place(&bench.data(record)).unwrap();
    assert_eq!((in_place(&v), in_place(&t)), (true, false));
    // What thin volumes and their snapshots have is copied into a thick one, not shared.
    let thick = |of: &Record, name: &str| Record {
        provisioning: Provisioning::Thick,
        ..copy(of, name)
    };
    assert!(bench.pool.clones_instantly(&thick(&v, "a")));
    assert!(!bench.pool.clones_instantly(&thick(&t, "b")));
    assert!(bench.pool.clones_instantly(&copy(&t, "c")));
    bench.pool.scan().await.unwrap();
    assert!(bench.pool.tend().await.unwrap().is_empty());
    // As an earlier version made it.
    let data = bench.data(&v);
    std::fs::remove_file(&data).unwrap();
    std::fs::write(&data, "").unwrap();
    stowage_host::reflink::allocate(&data, 8 << 20).unwrap();
    let pool = bench.again();
    pool.scan().await.unwrap();
    let findings = pool.tend().await.unwrap();
    let told = about(&findings, v.id.as_str());
    assert_eq!(told.len(), 1, "{findings:?}");
    assert!(told[0].mend.contains("clone it"), "{told:?}");
    assert!(!pool.clones_instantly(&copy(&v, "d")));
    pool.remove(&v).await.unwrap();
    let findings = pool.tend().await.unwrap();
    assert!(findings.is_empty(), "{findings:?}");
}
