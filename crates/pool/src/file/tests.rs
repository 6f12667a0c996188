use std::path::Path;

use stowage_host::loopdev;
use stowage_model::Kind;
use stowage_model::id::Role;
use stowage_model::record::Content;
use stowage_model::request::{Layout, Provisioning, Usage};
use stowage_model::{FsType, Limits, Name};
use stowage_testkit::disk::{FsKind, LoopFs};

use super::*;
use crate::{Defect, Found};

struct Bench {
    fs: LoopFs,
    pool: FilePool,
}

fn options(fs: &LoopFs, first: bool) -> Options {
    Options {
        name: PoolName::new("p").unwrap(),
        path: fs.path().join("pool"),
        overprovision: 2.0,
        reserve: stowage_model::Reserve::default(),
        may_initialise: first,
    }
}

impl Bench {
    fn new(kind: FsKind) -> Self {
        let fs = LoopFs::new(kind, 1 << 30).unwrap();
        let pool = FilePool::open(options(&fs, true)).unwrap();
        Self { fs, pool }
    }

    /// The same directory, opened anew as after a restart.
    fn again(&self) -> FilePool {
        FilePool::open(options(&self.fs, false)).unwrap()
    }

    fn dir(&self, record: &Record) -> PathBuf {
        self.pool.shared.dir(record)
    }

    fn entries(&self, folder: &str) -> usize {
        std::fs::read_dir(self.pool.path().join(folder))
            .unwrap()
            .count()
    }

    async fn make(&self, name: &str, size: Bytes) -> Record {
        let record = volume(name, Provisioning::Thick);
        assert_eq!(self.pool.create(&record, size).await.unwrap(), size);
        record
    }
}

fn volume(name: &str, provisioning: Provisioning) -> Record {
    let name = Name::new(name).unwrap();
    Record {
        id: Id::derive(Role::Volume, &name),
        name,
        asked: Bytes::mib(8),
        created: "2026-11-21T10:00:00.123Z".parse().unwrap(),
        usage: Usage {
            mount: Some(FsType::Ext4),
            block: false,
        },
        content: Content::Blank,
        fs_bytes: Bytes(0),
        mkfs: Vec::new(),
        layout: Layout::Linear,
        provisioning,
        limits: Limits::default(),
        source: None,
        fingerprint: stowage_model::Fingerprint::from_text("f"),
        read_only: false,
        ephemeral: false,
        group: None,
        growth: None,
        beyond: None,
    }
}

fn cut(of: &Record, name: &str, size: Bytes) -> Record {
    let name = Name::new(name).unwrap();
    let id = Id::derive(Role::Snapshot, &name);
    of.snapshot(id, name, size, of.created)
}

fn copy(of: &Record, name: &str) -> Record {
    Record {
        source: Some(of.id.clone()),
        ..volume(name, of.provisioning)
    }
}

fn write(device: &Path, at: u64, text: &[u8]) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(device)
        .unwrap();
    file.write_all_at(text, at).unwrap();
    file.sync_all().unwrap();
}

fn read(path: &Path, at: u64, length: usize) -> Vec<u8> {
    use std::os::unix::fs::FileExt;
    let mut found = vec![0; length];
    let file = std::fs::File::open(path).unwrap();
    file.read_exact_at(&mut found, at).unwrap();
    found
}

mod devices;
mod space;

#[tokio::test]
async fn a_removal_that_was_cut_off_is_ended_and_lost_data_are_not_taken_for_one() {
    let bench = Bench::new(FsKind::Xfs);
    let names = ["emptied", "unrecorded", "bare", "lost", "kept"];
    for name in names {
        bench.make(name, Bytes::mib(8)).await;
    }
    let at = |name: &str| bench.dir(&volume(name, Provisioning::Thick));
    // As `discard` leaves it, killed after each of its steps.
    for name in ["emptied", "unrecorded"] {
        std::fs::write(at(name).join("data"), "").unwrap();
    }
    std::fs::remove_file(at("unrecorded").join("record.json")).unwrap();
    for file in ["data", "record.json"] {
        std::fs::remove_file(at("bare").join(file)).unwrap();
    }
    // Somebody moved it away, perhaps.
    std::fs::remove_file(at("lost").join("data")).unwrap();
    let scan = bench.again().scan().await.unwrap();
    let found: Vec<&str> = scan.found.iter().map(|f| f.record.name.as_str()).collect();
    assert_eq!(found, ["kept"]);
    assert_eq!(scan.leftovers.len(), 3, "{:?}", scan.leftovers);
    let [Defect::Unreadable { what, why, .. }] = &scan.defects[..] else {
        panic!("{:?}", scan.defects)
    };
    assert!(what.contains(at("lost").to_str().unwrap()), "{what}");
    assert!(why.contains("data"), "{why}");
    assert!(at("lost").join("record.json").exists());
    // A removal that could not be ended is ended by the next, and until then nothing can be used.
    let half = bench.make("half", Bytes::mib(8)).await;
    std::fs::write(bench.dir(&half).join("data"), "").unwrap();
    assert!(bench.pool.attach(&half, Attach::Held).await.is_err());
    std::fs::remove_file(bench.dir(&half).join("record.json")).unwrap();
    bench.pool.remove(&half).await.unwrap();
    assert!(!bench.dir(&half).exists());
}

#[tokio::test]
async fn what_is_set_aside_is_promised_to_no_file() {
    let fs = LoopFs::new(FsKind::Xfs, 1 << 30).unwrap();
    let options = Options {
        reserve: "400Mi".parse().unwrap(),
        ..options(&fs, true)
    };
    let pool = FilePool::open(options).unwrap();
    let room = async |provisioning| pool.capacity(Layout::Linear, provisioning).await.largest;
    let thick = room(Provisioning::Thick).await;
    assert!(thick < Bytes::mib(624), "{thick}");
    // All but 400Mi of the whole, twice.
    let thin = room(Provisioning::Thin).await;
    assert!(thin > Bytes::mib(1024) && thin < Bytes::mib(1248), "{thin}");
    let large = volume("large", Provisioning::Thick);
    let e = pool.create(&large, thick + Bytes::mib(1)).await;
    assert_eq!(e.unwrap_err().kind(), Kind::Full);
    pool.create(&large, thick).await.unwrap();
    let more = volume("more", Provisioning::Thick);
    let e = pool.create(&more, Bytes::mib(2)).await;
    assert_eq!(e.unwrap_err().kind(), Kind::Full);
    let removed = pool.remove(&large).await.unwrap();
    if let Removed::ToPurge(leftover) = removed {
        let progress = Arc::new(Progress::new());
        pool.purge(&leftover, &progress).await.unwrap();
    }
    pool.create(&large, Bytes::mib(8)).await.unwrap();
}

#[tokio::test]
async fn what_was_made_is_found_again() {
    for kind in FsKind::ALL {
        let bench = Bench::new(kind);
        let v = bench.make("../v", Bytes::mib(8)).await;
        // Asked again it is the same, and keeps its size.
        assert_eq!(
            bench.pool.create(&v, Bytes::mib(16)).await.unwrap(),
            Bytes::mib(8)
        );
        let mut changed = v.clone();
        changed.limits.read_bps = Some(7);
        bench.pool.rewrite(&changed).await.unwrap();
        let scan = bench.again().scan().await.unwrap();
        let found = Found {
            record: changed,
            size: Bytes::mib(8),
        };
        assert_eq!(scan.found, [found]);
        assert!(
            scan.leftovers.is_empty() && scan.defects.is_empty(),
            "{scan:?}"
        );
        assert_eq!(bench.entries("making"), 0);
    }
}

#[tokio::test]
async fn a_removed_volume_is_gone_at_once_and_its_id_free() {
    let bench = Bench::new(FsKind::Xfs);
    let v = bench.make("v", Bytes::mib(8)).await;
    let Removed::ToPurge(leftover) = bench.pool.remove(&v).await.unwrap() else {
        panic!("a file has to be unlinked");
    };
    assert_eq!(bench.pool.remove(&v).await.unwrap(), Removed::Gone);
    // Killed here, the next start finds what is left.
    let scan = bench.again().scan().await.unwrap();
    assert_eq!(
        (scan.found, scan.leftovers),
        (vec![], vec![leftover.clone()])
    );
    let next = bench.make("v", Bytes::mib(8)).await;
    for _ in 0..2 {
        let progress = Arc::new(Progress::new());
        bench.pool.purge(&leftover, &progress).await.unwrap();
    }
    assert_eq!(bench.entries("trash"), 0);
    assert!(bench.dir(&next).exists(), "the purge took the next volume");
}

#[tokio::test]
async fn a_leftover_that_climbs_out_is_not_purged() {
    let bench = Bench::new(FsKind::Xfs);
    let v = bench.make("v", Bytes::mib(8)).await;
    for handle in [
        format!("volumes/{}", v.id),
        "trash/..".into(),
        "trash/../volumes".into(),
        "trash".into(),
        String::new(),
        "/etc".into(),
    ] {
        let leftover = Leftover {
            handle,
            size: Bytes(0),
        };
        let progress = Arc::new(Progress::new());
        let refused = bench.pool.purge(&leftover, &progress).await.unwrap_err();
        assert_eq!(refused.kind(), Kind::NotFound, "{refused}");
    }
    assert!(bench.dir(&v).join("data").exists());
}

#[tokio::test]
async fn what_is_foreign_or_damaged_is_told_and_neither_taken_nor_removed() {
    let bench = Bench::new(FsKind::Xfs);
    let v = bench.make("v", Bytes::mib(8)).await;
    let volumes = bench.pool.path().join("volumes");
    std::fs::write(volumes.join("notes"), "theirs").unwrap();
    std::fs::write(bench.dir(&v).join("data"), "bytes").unwrap();
    std::fs::write(bench.dir(&v).join("record.json"), "{").unwrap();
    let pool = bench.again();
    let scan = pool.scan().await.unwrap();
    assert!(scan.found.is_empty(), "{scan:?}");
    let foreign = Defect::Foreign(volumes.join("notes").display().to_string());
    assert!(scan.defects.contains(&foreign), "{scan:?}");
    assert!(
        scan.defects
            .iter()
            .any(|d| matches!(d, Defect::Unreadable { .. }))
    );
    for (refused, kind) in [
        (pool.create(&v, Bytes::mib(8)).await.map(drop), Kind::Exists),
        (pool.remove(&v).await.map(drop), Kind::Precondition),
        (
            pool.clone_volume(&v, &v, Bytes::mib(8)).await.map(drop),
            Kind::Exists,
        ),
    ] {
        assert_eq!(refused.unwrap_err().kind(), kind);
    }
    assert_eq!(std::fs::read(bench.dir(&v).join("data")).unwrap(), b"bytes");
}

#[tokio::test]
async fn a_volume_of_the_same_name_from_another_day_is_not_taken_over() {
    let bench = Bench::new(FsKind::Xfs);
    let old = bench.make("v", Bytes::mib(8)).await;
    let new = Record {
        created: old.created + std::time::Duration::from_secs(1),
        ..old.clone()
    };
    let refused = bench.pool.create(&new, Bytes::mib(8)).await;
    assert_eq!(refused.unwrap_err().kind(), Kind::Exists);
    let refused = bench.pool.remove(&new).await;
    assert_eq!(refused.unwrap_err().kind(), Kind::Precondition);
    assert!(bench.dir(&old).join("data").exists());
}

#[tokio::test]
async fn copies_share_blocks_and_part_when_written() {
    for kind in [FsKind::Xfs, FsKind::Btrfs] {
        let bench = Bench::new(kind);
        let v = bench.make("v", Bytes::mib(64)).await;
        let device = bench.pool.attach(&v, Attach::Held).await.unwrap();
        write(&device.path, 0, &vec![1; 32 << 20]);
        write(&device.path, 4096, b"old");
        bench.pool.snapshots().map(drop).unwrap();
        let before = bench.pool.shared.space().unwrap().available;
        let s = cut(&v, "s", Bytes::mib(64));
        bench.pool.snapshot(&v, &s).await.unwrap();
        write(&device.path, 4096, b"new");
        let c = copy(&v, "c");
        let r = copy(&s, "r");
        assert_eq!(
            bench.pool.clone_volume(&v, &c, Bytes(0)).await.unwrap(),
            Bytes::mib(64)
        );
        // Larger, and thick: the rest has blocks of its own.
        assert_eq!(
            bench
                .pool
                .clone_volume(&s, &r, Bytes::mib(96))
                .await
                .unwrap(),
            Bytes::mib(96)
        );
        let after = bench.pool.shared.space().unwrap().available;
        let taken = before.minus(after);
        // 64 and 96 MiB, less the 32 written ones that each shares.
        assert!(taken < Bytes::mib(104), "{kind:?} copied {taken}");
        for (copy, size) in [(&c, 64 << 20), (&r, 96 << 20)] {
            let has = stowage_host::reflink::allocated_bytes(&bench.pool.shared.data(copy));
            assert!(has.unwrap() >= size, "{kind:?}: a thick copy with holes");
        }
        for (record, text) in [(&v, b"new"), (&s, b"old"), (&c, b"new"), (&r, b"old")] {
            let file = bench.pool.shared.data(record);
            assert_eq!(&read(&file, 4096, 3), text, "{kind:?} {}", record.name);
        }
        // Whatever goes, the others stay whole.
        drop(device);
        bench.pool.detach(&v).await.unwrap();
        for record in [&v, &s] {
            bench.pool.remove(record).await.unwrap();
        }
        assert_eq!(&read(&bench.pool.shared.data(&c), 4096, 3), b"new");
        assert_eq!(&read(&bench.pool.shared.data(&r), 4096, 3), b"old");
    }
}

#[tokio::test]
async fn without_reflink_the_way_out_is_named() {
    let bench = Bench::new(FsKind::Ext4);
    let v = bench.make("v", Bytes::mib(8)).await;
    let s = cut(&v, "s", Bytes::mib(8));
    for refused in [
        bench.pool.snapshots().map(drop),
        bench.pool.snapshot(&v, &s).await,
        bench
            .pool
            .clone_volume(&v, &copy(&v, "c"), Bytes(0))
            .await
            .map(drop),
    ] {
        let e = refused.unwrap_err();
        assert_eq!(e.kind(), Kind::Unsupported);
        assert!(e.message().contains("xfs or btrfs"), "{e}");
    }
    assert!(!bench.pool.clones_instantly(&copy(&v, "c")));
    assert_eq!(bench.entries("snapshots"), 0);
    assert_eq!(bench.entries("making"), 0);
}

#[tokio::test]
async fn room_is_counted_before_anything_is_made() {
    let bench = Bench::new(FsKind::Xfs);
    let free = bench.pool.status().await.unwrap().free;
    let too_much = free + Bytes::mib(1);
    let thick = volume("thick", Provisioning::Thick);
    let e = bench.pool.create(&thick, too_much).await.unwrap_err();
    assert_eq!(e.kind(), Kind::Full);
    // Thin ones may be promised twice over here, and no more.
    let total = bench.pool.status().await.unwrap().total;
    let thin = volume("thin", Provisioning::Thin);
    bench.pool.create(&thin, total).await.unwrap();
    let more = volume("more", Provisioning::Thin);
    let e = bench
        .pool
        .create(&more, total + Bytes::mib(1))
        .await
        .unwrap_err();
    assert_eq!(e.kind(), Kind::Full);
    let e = bench
        .pool
        .grow(&thin, total + total + Bytes::mib(1))
        .await
        .unwrap_err();
    assert_eq!(e.kind(), Kind::Full);
    assert_eq!((bench.entries("volumes"), bench.entries("making")), (1, 0));
}

#[tokio::test]
async fn room_in_hand_is_not_given_out_twice() {
    let bench = Bench::new(FsKind::Xfs);
    let free = bench.pool.status().await.unwrap().free;
    let half = Bytes(free.0 / 2 + Bytes::mib(32).0).round_down(STEP);
    let (a, b) = (
        volume("a", Provisioning::Thick),
        volume("b", Provisioning::Thick),
    );
    let (one, two) = tokio::join!(bench.pool.create(&a, half), bench.pool.create(&b, half));
    let failed: Vec<Kind> = [one, two]
        .into_iter()
        .filter_map(|r| r.err())
        .map(|e| e.kind())
        .collect();
    assert_eq!(failed, [Kind::Full]);
    assert_eq!((bench.entries("volumes"), bench.entries("making")), (1, 0));
}

#[tokio::test]
async fn a_volume_grows_while_attached_and_never_shrinks() {
    for kind in FsKind::ALL {
        let bench = Bench::new(kind);
        let v = bench.make("v", Bytes::mib(8)).await;
        let device = bench.pool.attach(&v, Attach::Held).await.unwrap();
        assert_eq!(stowage_host::device::size(&device.path).unwrap(), 8 << 20);
        for _ in 0..2 {
            let grown = bench.pool.grow(&v, Bytes::mib(24)).await.unwrap();
            assert_eq!(grown, Bytes::mib(24));
            assert_eq!(stowage_host::device::size(&device.path).unwrap(), 24 << 20);
        }
        let still = bench.pool.grow(&v, Bytes::mib(8)).await.unwrap();
        assert_eq!(still, Bytes::mib(24));
        drop(device);
        bench.pool.detach(&v).await.unwrap();
    }
}

#[tokio::test]
async fn a_volume_has_one_device_and_keeps_it_from_removal() {
    let bench = Bench::new(FsKind::Xfs);
    let v = bench.make("v", Bytes::mib(8)).await;
    assert!(bench.pool.attached(&v).await.unwrap().is_none());
    let device = bench.pool.attach(&v, Attach::Held).await.unwrap();
    // Also for a daemon that has just started.
    let again = bench.again().attach(&v, Attach::Held).await.unwrap();
    assert_eq!(device.path, again.path);
    let e = bench.pool.remove(&v).await.unwrap_err();
    assert_eq!(e.kind(), Kind::Precondition);
    drop((device, again));
    for _ in 0..2 {
        bench.pool.detach(&v).await.unwrap();
    }
    assert!(bench.pool.attached(&v).await.unwrap().is_none());
    // One that is wanted until it is unused goes by itself.
    let device = bench.pool.attach(&v, Attach::UntilUnused).await.unwrap();
    let file = bench.pool.shared.data(&v);
    drop(device);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
    while !loopdev::find(&file).unwrap().is_empty() {
        assert!(std::time::Instant::now() < deadline, "still attached");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    bench.pool.remove(&v).await.unwrap();
}

#[tokio::test]
async fn sectors_are_the_same_for_every_file() {
    let bench = Bench::new(FsKind::Xfs);
    let v = bench.make("v", Bytes::mib(8)).await;
    bench
        .pool
        .snapshot(&v, &cut(&v, "s", Bytes::mib(8)))
        .await
        .unwrap();
    for record in [&v, &volume("w", Provisioning::Thin)] {
        if record.id != v.id {
            bench.pool.create(record, Bytes::mib(8)).await.unwrap();
        }
        let device = bench.pool.attach(record, Attach::Held).await.unwrap();
        let name = device
            .path
            .file_name()
            .unwrap()
            .to_string_lossy()
            .into_owned();
        let queue = format!("/sys/block/{name}/queue/logical_block_size");
        assert_eq!(std::fs::read_to_string(queue).unwrap().trim(), "4096");
        drop(device);
        bench.pool.detach(record).await.unwrap();
    }
}

#[tokio::test]
async fn blocks_smaller_than_a_sector_are_refused_before_anything_is_made() {
    let bench = Bench::new(FsKind::Xfs);
    for (option, value, fits) in [
        ("-b", "1024", false),
        ("-b", "size=2k", false),
        ("-s", "size=512", false),
        ("-b", "4096", true),
    ] {
        let record = Record {
            mkfs: vec![option.to_owned(), value.to_owned()],
            ..volume("v", Provisioning::Thin)
        };
        let made = bench.pool.create(&record, Bytes::mib(8)).await;
        match made {
            Ok(_) => assert!(fits, "{option} {value}"),
            Err(e) => {
                assert!(!fits, "{e}");
                assert_eq!(e.kind(), Kind::Invalid);
                assert!(e.message().contains("sectors of 4096"), "{e}");
                assert!(bench.pool.scan().await.unwrap().found.is_empty());
            }
        }
    }
}

#[tokio::test]
async fn half_made_things_are_leftovers() {
    let bench = Bench::new(FsKind::Xfs);
    let v = volume("v", Provisioning::Thick);
    let half = bench.pool.path().join("making").join(v.id.as_str());
    std::fs::create_dir(&half).unwrap();
    std::fs::write(half.join("data"), [1; 4096]).unwrap();
    let scan = bench.again().scan().await.unwrap();
    assert!(scan.found.is_empty());
    assert_eq!(scan.leftovers.len(), 1);
    // A retry starts over.
    bench.pool.create(&v, Bytes::mib(8)).await.unwrap();
    assert_eq!(read(&bench.pool.shared.data(&v), 0, 4096), [0; 4096]);
    let progress = Arc::new(Progress::new());
    bench
        .pool
        .purge(&scan.leftovers[0], &progress)
        .await
        .unwrap();
    assert!(bench.dir(&v).exists());
}

#[tokio::test]
async fn a_directory_is_made_a_pool_only_when_it_is_empty_and_ours() {
    let fs = LoopFs::new(FsKind::Xfs, 512 << 20).unwrap();
    let path = fs.path().join("pool");
    std::fs::create_dir(&path).unwrap();
    std::fs::write(path.join("theirs"), "").unwrap();
    let e = FilePool::open(options(&fs, true)).err().unwrap();
    assert_eq!(e.kind(), Kind::Precondition);
    assert!(e.message().contains("theirs"), "{e}");
    assert_eq!(std::fs::read_dir(&path).unwrap().count(), 1);
    std::fs::remove_file(path.join("theirs")).unwrap();
    std::fs::create_dir(path.join("lost+found")).unwrap();
    FilePool::open(options(&fs, true)).unwrap();
    let other = Options {
        name: PoolName::new("other").unwrap(),
        ..options(&fs, true)
    };
    let e = FilePool::open(other).err().unwrap();
    assert!(e.message().contains("belongs to the pool"), "{e}");
    // A pool that was there before and has lost its marker is not mounted.
    std::fs::remove_file(path.join("stowage-pool.json")).unwrap();
    let pool = FilePool::open(options(&fs, false)).unwrap();
    assert!(pool.status().await.unwrap().problem.is_some());
    let e = pool
        .create(&volume("v", Provisioning::Thin), Bytes::mib(8))
        .await;
    assert_eq!(e.unwrap_err().kind(), Kind::Precondition);
    assert!(!pool.tend().await.unwrap().is_empty());
}

#[tokio::test]
async fn what_a_killed_open_left_is_swept_and_stops_no_purge() {
    let bench = Bench::new(FsKind::Xfs);
    let making = bench.pool.path().join("making");
    std::fs::write(making.join(".stowage-reflink-4711-0-a"), "x").unwrap();
    std::fs::write(making.join("file"), "x").unwrap();
    std::fs::write(making.join(".theirs"), "x").unwrap();
    let pool = bench.again();
    let scan = pool.scan().await.unwrap();
    assert_eq!(scan.leftovers.len(), 1, "{scan:?}");
    let foreign = Defect::Foreign(making.join(".theirs").display().to_string());
    assert_eq!(scan.defects, [foreign]);
    let progress = Arc::new(Progress::new());
    pool.purge(&scan.leftovers[0], &progress).await.unwrap();
    assert_eq!((bench.entries("making"), bench.entries("trash")), (1, 0));
}

#[tokio::test]
async fn the_purge_of_a_half_made_volume_does_not_meet_the_next_of_its_name() {
    let bench = Bench::new(FsKind::Xfs);
    let v = volume("v", Provisioning::Thick);
    let half = bench.pool.path().join("making").join(v.id.as_str());
    std::fs::create_dir(&half).unwrap();
    let scan = bench.again().scan().await.unwrap();
    // The next one of that name is being made.
    std::fs::create_dir(&half).unwrap();
    let progress = Arc::new(Progress::new());
    let leftover = &scan.leftovers[0];
    bench.pool.purge(leftover, &progress).await.unwrap();
    assert!(half.exists());
}

#[tokio::test]
async fn a_directory_that_others_put_among_our_files_is_told_and_goes_with_nothing() {
    let bench = Bench::new(FsKind::Xfs);
    let v = bench.make("v", Bytes::mib(8)).await;
    let w = volume("w", Provisioning::Thick);
    // Another pool, as one may be configured with another daemon.
    let nested = [
        bench.pool.path().join("trash/x.1-2/pool"),
        bench
            .pool
            .path()
            .join("making")
            .join(w.id.as_str())
            .join("pool"),
        bench.dir(&v).join("pool"),
    ];
    for path in &nested {
        std::fs::create_dir_all(path).unwrap();
        std::fs::write(path.join("theirs"), "bytes").unwrap();
    }
    let pool = bench.again();
    let scan = pool.scan().await.unwrap();
    assert!(scan.leftovers.is_empty(), "{scan:?}");
    for path in &nested[..2] {
        let told = Defect::Foreign(path.parent().unwrap().display().to_string());
        assert!(scan.defects.contains(&told), "{scan:?}");
    }
    assert!(pool.create(&w, Bytes::mib(8)).await.is_err());
    let leftover = Leftover {
        handle: "trash/x.1-2".into(),
        size: Bytes(0),
    };
    let purged = pool.purge(&leftover, &Arc::new(Progress::new())).await;
    assert_eq!(purged.unwrap_err().kind(), Kind::Precondition);
    assert_eq!(
        pool.removable(&v).await.unwrap_err().kind(),
        Kind::Precondition
    );
    let e = pool.remove(&v).await.unwrap_err();
    assert!(e.message().contains("move that out"), "{e}");
    for path in &nested {
        assert_eq!(std::fs::read(path.join("theirs")).unwrap(), b"bytes");
    }
}

#[tokio::test]
async fn one_daemon_has_a_directory_and_what_was_unmounted_is_let_go() {
    let bench = Bench::new(FsKind::Xfs);
    let (first, second) = (bench.again(), bench.again());
    let locks = Locks::new("/nonexistent");
    first.claim(&locks).await.unwrap();
    first.claim(&locks).await.unwrap();
    let e = second.claim(&locks).await.unwrap_err();
    assert_eq!(e.kind(), Kind::Precondition);
    assert!(e.message().contains("another daemon"), "{e}");
    // As seen where the directory lay.
    let away = bench.fs.path().join("away");
    std::fs::rename(bench.pool.path(), &away).unwrap();
    assert!(first.status().await.unwrap().problem.is_some());
    std::fs::rename(&away, bench.pool.path()).unwrap();
    second.claim(&locks).await.unwrap();
    // Another daemon took it meanwhile.
    let problem = first.status().await.unwrap().problem;
    assert!(problem.unwrap().contains("another daemon"));
}

#[tokio::test]
async fn a_device_that_somebody_attached_is_neither_the_volumes_nor_detached() {
    let bench = Bench::new(FsKind::Xfs);
    let v = bench.make("v", Bytes::mib(8)).await;
    let losetup = |options: &[&str]| {
        let data = bench.pool.shared.data(&v);
        let all = [options, &["--find", "--show", data.to_str().unwrap()]].concat();
        PathBuf::from(stowage_testkit::disk::run("losetup", all).unwrap().trim())
    };
    for options in [
        &["--offset", "1048576", "--sector-size", "4096"][..],
        &["--sizelimit", "1048576", "--sector-size", "4096"],
        &["--read-only", "--sector-size", "4096"],
        &["--sector-size", "512"],
    ] {
        let theirs = losetup(options);
        assert_eq!(bench.pool.attached(&v).await.unwrap().map(|d| d.path), None);
        let refused = [
            bench.pool.attach(&v, Attach::Held).await.map(drop),
            bench.pool.remove(&v).await.map(drop),
        ];
        bench.pool.detach(&v).await.unwrap();
        let kept = loopdev::find(&bench.pool.shared.data(&v)).unwrap();
        loopdev::detach(&theirs).unwrap();
        assert_eq!(kept, std::slice::from_ref(&theirs), "{options:?}");
        for refused in refused {
            let e = refused.unwrap_err();
            assert_eq!(e.kind(), Kind::Precondition);
            assert!(e.message().contains(theirs.to_str().unwrap()), "{e}");
        }
        // One that came later keeps nobody from what is in use, nor is it taken for that.
        let ours = bench.pool.attach(&v, Attach::Held).await.unwrap().path;
        let theirs = losetup(options);
        let again = bench.pool.attach(&v, Attach::Held).await.map(|d| d.path);
        let seen = bench.pool.attached(&v).await;
        bench.pool.detach(&v).await.unwrap();
        let kept = loopdev::find(&bench.pool.shared.data(&v)).unwrap();
        loopdev::detach(&theirs).unwrap();
        assert_eq!(again.unwrap(), ours);
        assert_eq!(seen.unwrap().unwrap().path, ours);
        assert_eq!(kept, [theirs], "{options:?}");
    }
    bench.pool.remove(&v).await.unwrap();
}
