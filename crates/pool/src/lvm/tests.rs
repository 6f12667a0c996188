use super::*;
use crate::vg::dm::{Devices, fake::sysfs};
use crate::vg::samples::{
    EMPTY, EXISTS, FROZEN, FULL, GROUP, PARTIAL, Steps, flags, snapshot, vg, volume,
};
use crate::vg::tags;
use crate::{Defect, Found};
use stowage_host::fake::Script;
use stowage_model::request::Layout;
use stowage_model::volumes::{Finding, Severity, Trouble};
use stowage_model::{Id, Kind};

fn pool(script: Script) -> LvmPool {
    on(script, Devices::at("/nonexistent"))
}

fn on(script: Script, devices: Devices) -> LvmPool {
    LvmPool {
        vg: vg(script, devices),
        wipe: Wipe::Zero,
        reserve: Reserve::default(),
        watch: Watch::default(),
    }
}

fn no_devices() -> (tempfile::TempDir, Devices) {
    sysfs(&[])
}

fn lvcreate(record: &Record, kind: &str, bytes: u64, on: &str) -> String {
    let tags = flags("--addtag", &tags::of_record(record).unwrap());
    let name = names::of(&record.id);
    format!("lvcreate -y -q -Wy -Zy --type {kind} -n {name} -L {bytes}b {tags} {on}")
}

fn id(hex: &str) -> Id {
    hex.parse().unwrap()
}

#[tokio::test]
async fn a_scan_tells_ours_from_leftovers_damage_and_strangers() {
    let scan = pool(Script::new().report(GROUP)).scan().await.unwrap();
    let mut names: Vec<_> = scan
        .found
        .iter()
        .map(|f| f.record.name.to_string())
        .collect();
    names.sort();
    assert_eq!(
        names,
        ["damaged", "full", "lost", "m", "r", "s", "v", "Ü x"]
    );
    let size = |name: &str| {
        scan.found
            .iter()
            .find(|f| f.record.name.as_str() == name)
            .unwrap()
            .size
    };
    assert_eq!(
        size("s"),
        Bytes::mib(60),
        "as large as its origin, not as its store"
    );
    assert_eq!(size("r"), Bytes::mib(60));
    let leftovers: Vec<_> = scan
        .leftovers
        .iter()
        .map(|l| (l.handle.as_str(), l.size))
        .collect();
    assert_eq!(
        leftovers,
        [
            ("stowage-s-a11ae06469c63740d7b0ecf802f282a0", Bytes::mib(16)),
            ("stowage-x-00112233aabbccdd", Bytes::mib(8)),
        ]
    );
    let [foreign, lost, untagged] = scan.defects.as_slice() else {
        panic!("{:?}", scan.defects)
    };
    assert_eq!(*foreign, Defect::Foreign("root".into()));
    assert_eq!(
        *lost,
        Defect::LostSnapshot(id("s-a18b869b2e81c0c529552a3c4fa5c92e"))
    );
    let newer = |f: &&Found| f.record.id == volume("damaged").id;
    let newer = scan.found.iter().find(newer).unwrap();
    let why = newer.record.beyond.as_deref().unwrap();
    assert!(why.contains("version \"99\""), "{why}");
    let untagged_name = "stowage-x-untagged".to_owned();
    assert_eq!(
        *untagged,
        Defect::Unreadable {
            what: untagged_name,
            id: None,
            why: "it has no tag of ours".into()
        }
    );
}

#[tokio::test]
async fn the_status_counts_what_is_ours() {
    let pool = pool(Script::new().report(GROUP));
    let status = pool.status().await.unwrap();
    assert_eq!((status.volumes, status.snapshots), (6, 2));
    assert_eq!(status.promised, Bytes::mib(60 + 60 + 60 + 16 + 8));
    assert_eq!(
        (status.free, status.largest),
        (Bytes(1_669_332_992), Bytes(1_669_332_992))
    );
    assert_eq!(status.problem, None);
    pool.status().await.unwrap();
}

#[tokio::test]
async fn a_volume_is_one_lvcreate_with_its_record() {
    let record = volume("new");
    let script = Script::new().does(&lvcreate(&record, "linear", 12 << 20, "vg-0"));
    let (_sysfs, devices) = no_devices();
    let made = on(script, devices).create(&record, Bytes::mib(9)).await;
    assert_eq!(made.unwrap(), Bytes::mib(12));
}

#[tokio::test]
async fn a_volume_that_is_there_is_success_with_its_real_size() {
    let record = volume("v");
    let create = lvcreate(&record, "linear", 12 << 20, "vg-0");
    let script = Script::new().refuses(&create, EXISTS).report(GROUP);
    assert_eq!(
        pool(script).create(&record, Bytes::mib(9)).await.unwrap(),
        Bytes::mib(60)
    );
    let record = volume("damaged");
    let create = lvcreate(&record, "linear", 12 << 20, "vg-0");
    let script = Script::new().refuses(&create, EXISTS).report(GROUP);
    let e = pool(script).create(&record, Bytes::mib(9)).await;
    assert_eq!(e.unwrap_err().kind(), Kind::Exists);
}

#[tokio::test]
async fn a_full_group_is_found_by_lvcreate_and_explained_by_looking() {
    let record = volume("new");
    let create = lvcreate(&record, "linear", 10 << 30, "vg-0");
    let script = Script::new().refuses(&create, FULL).report(EMPTY);
    let e = pool(script)
        .create(&record, Bytes::gib(10))
        .await
        .unwrap_err();
    assert_eq!(e.kind(), Kind::Full);
    assert!(
        e.message().contains("fast") && e.message().contains("10Gi"),
        "{e}"
    );
    let create = lvcreate(&record, "linear", 12 << 20, "vg-0");
    // Somebody else made room, or took it, in between.
    let script = Script::new().refuses(&create, FULL).report(EMPTY);
    let e = pool(script)
        .create(&record, Bytes::mib(9))
        .await
        .unwrap_err();
    assert_eq!(e.kind(), Kind::Full);
}

#[tokio::test]
async fn stripes_and_copies_go_over_the_disks_with_room() {
    let striped = Record {
        layout: Layout::Striped,
        ..volume("new")
    };
    let disks = "vg-0 /dev/ubdc /dev/ubdb";
    let create = lvcreate(&striped, "striped -i 2 -I 64k", 16 << 20, disks);
    let script = Script::new().report(GROUP).does(&create);
    let (_sysfs, devices) = no_devices();
    let made = on(script, devices).create(&striped, Bytes::mib(16)).await;
    assert_eq!(made.unwrap(), Bytes::mib(16));
    let raid1 = Record {
        layout: Layout::Raid1,
        ..volume("new")
    };
    let script = Script::new()
        .report(GROUP)
        .does(&lvcreate(&raid1, "raid1 -m1", 12 << 20, "vg-0"));
    let (_sysfs, devices) = no_devices();
    let made = on(script, devices).create(&raid1, Bytes::mib(12)).await;
    assert_eq!(made.unwrap(), Bytes::mib(12));
    let lone = pool(Script::new().report(EMPTY).report(EMPTY))
        .create(&raid1, Bytes::mib(4))
        .await;
    // Another node may have two disks.
    assert_eq!(lone.unwrap_err().kind(), Kind::Full);
}

/// A group of blank disks of so many MiB.
fn disks(mib: &[u64]) -> String {
    let pv = |(n, mib): (usize, &u64)| {
        let free = Bytes::mib(*mib).0;
        format!("{{\"pv_name\":\"/dev/d{n}\", \"pv_free\":\"{free}\", \"pv_missing\":\"\"}}")
    };
    let pvs: Vec<_> = mib.iter().enumerate().map(pv).collect();
    let all = Bytes::mib(mib.iter().sum()).0.to_string();
    let one = "{\"pv_name\":\"/dev/ubdd\", \"pv_free\":\"1069547520\", \"pv_missing\":\"\"}";
    assert!(EMPTY.contains(one));
    EMPTY
        .replace(one, &pvs.join(","))
        .replace("1069547520", &all)
}

fn laid(layout: Layout) -> Record {
    Record {
        layout,
        ..volume("new")
    }
}

#[tokio::test]
async fn the_size_told_before_is_the_size_made() {
    for (layout, kind, want) in [
        (Layout::Linear, "linear", 1028),
        (Layout::Striped, "striped -i 3 -I 64k", 1032),
        (Layout::Raid1, "raid1 -m1", 1028),
    ] {
        let record = laid(layout);
        let on_disks = match layout {
            Layout::Striped => "vg-0 /dev/d0 /dev/d1 /dev/d2",
            _ => "vg-0",
        };
        let group = disks(&[2000, 2000, 2000]);
        let create = lvcreate(&record, kind, want << 20, on_disks);
        let script = Script::new().report(&group).does(&create);
        let (_sysfs, devices) = no_devices();
        let pool = on(script, devices);
        pool.status().await.unwrap();
        let told = pool.rounded(&record, Bytes::mib(1025)).await.unwrap();
        assert_eq!(told, Bytes::mib(want), "{layout:?}");
        assert_eq!(pool.create(&record, told).await.unwrap(), told);
    }
}

#[tokio::test]
async fn stripes_never_make_a_volume_larger_than_was_told() {
    // A third disk had room when the size was told, and has none now.
    let record = laid(Layout::Striped);
    let now = disks(&[2000, 2000, 100]);
    let script = Script::new().report(&now).report(&now);
    let (_sysfs, devices) = no_devices();
    let pool = on(script, devices);
    let odd = Bytes::mib(3 * 4 * 87);
    let refused = pool.create(&record, odd).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Full);
}

#[tokio::test]
async fn a_striped_volume_grows_by_whole_stripes_of_its_own() {
    let record = Record {
        layout: Layout::Striped,
        ..volume("Ü x")
    };
    let name = names::of(&record.id);
    let plain = format!("{{\"lv_name\":\"{name}\", \"thin_id\":\"\", \"zero\":\"unknown\"}}");
    let three = plain.replace('}', ", \"stripes\":\"3\"}");
    // Its first extents lie over two disks; the last ones tell how it goes on.
    let two = plain.replace('}', ", \"stripes\":\"2\"}");
    assert!(GROUP.contains(&plain));
    let group = GROUP.replace(&plain, &format!("{two},{three}"));
    for (asked, want) in [(60, 60), (50, 60), (61, 72), (72, 72), (73, 84)] {
        let pool = pool(Script::new().report(&group));
        let told = pool.rounded(&record, Bytes::mib(asked)).await.unwrap();
        assert_eq!(told, Bytes::mib(want), "{asked}");
    }
}

#[tokio::test]
async fn the_largest_volume_told_is_made_and_one_extent_more_is_not() {
    for (group, layout, most, kind, on_disks) in [
        (&[2000][..], Layout::Linear, 2000, "linear", ""),
        (&[2000, 400], Layout::Linear, 2400, "linear", ""),
        (&[2000], Layout::Striped, 0, "", ""),
        (&[2000], Layout::Raid1, 0, "", ""),
        (
            &[400, 2000],
            Layout::Striped,
            800,
            "striped -i 2 -I 64k",
            " /dev/d1 /dev/d0",
        ),
        (
            &[2000, 2000, 100],
            Layout::Striped,
            4000,
            "striped -i 2 -I 64k",
            " /dev/d0 /dev/d1",
        ),
        (
            &[2000, 1500, 1500],
            Layout::Striped,
            4500,
            "striped -i 3 -I 64k",
            " /dev/d0 /dev/d1 /dev/d2",
        ),
        // An extent of each copy is for the state of the array.
        (&[400, 2000], Layout::Raid1, 396, "raid1 -m1", ""),
        (&[900, 400, 2000, 800], Layout::Raid1, 1296, "raid1 -m1", ""),
        (&[2, 2000], Layout::Raid1, 0, "", ""),
    ] {
        let json = disks(group);
        let record = laid(layout);
        let told = pool(Script::new().report(&json))
            .capacity(layout, Provisioning::Thick)
            .await;
        assert_eq!(told.largest, Bytes::mib(most), "{layout:?} {group:?}");
        if most > 0 {
            let create = lvcreate(&record, kind, most << 20, &format!("vg-0{on_disks}"));
            let script = Script::new().report(&json).does(&create);
            let (_sysfs, devices) = no_devices();
            let pool = on(script, devices);
            pool.status().await.unwrap();
            let told = pool.rounded(&record, Bytes::mib(most)).await.unwrap();
            assert_eq!(pool.create(&record, told).await.unwrap(), told);
        }
        // A linear one is refused by LVM itself.
        let more = Bytes::mib(most + 4);
        let refused = lvcreate(&record, "linear", more.0, "vg-0");
        let script = match layout {
            Layout::Linear => Script::new().refuses(&refused, FULL).report(&json),
            _ => Script::new().report(&json).report(&json),
        };
        let e = pool(script).create(&record, more).await.unwrap_err();
        assert_eq!(e.kind(), Kind::Full, "{layout:?} {group:?}");
    }
    let missing = pool(Script::new().report(PARTIAL));
    let told = missing.capacity(Layout::Linear, Provisioning::Thick).await;
    assert_eq!(told.largest, Bytes(0));
}

#[tokio::test]
async fn a_disk_that_is_drained_is_no_room() {
    let drained = |n: &str, json: &str| {
        let open = format!("\"/dev/d{n}\", ");
        let closed = format!("{open}\"pv_allocatable\":\"\", ");
        assert!(json.contains(&open));
        json.replace(&open, &closed)
    };
    let three = drained("0", &disks(&[2000, 1500, 400]));
    for (layout, most, on_disks) in [
        (Layout::Linear, 1900, ""),
        (Layout::Striped, 800, " /dev/d1 /dev/d2"),
        (Layout::Raid1, 396, ""),
    ] {
        let told = pool(Script::new().report(&three))
            .capacity(layout, Provisioning::Thick)
            .await;
        assert_eq!(told.largest, Bytes::mib(most), "{layout:?}");
        if layout == Layout::Striped {
            let create = lvcreate(
                &laid(layout),
                "striped -i 2 -I 64k",
                800 << 20,
                &format!("vg-0{on_disks}"),
            );
            let (_sysfs, devices) = no_devices();
            let pool = on(Script::new().report(&three).does(&create), devices);
            pool.create(&laid(layout), Bytes::mib(800)).await.unwrap();
        }
    }
    let status = pool(Script::new().report(&three)).status().await.unwrap();
    assert_eq!(status.free, Bytes::mib(1900));
    // Two disks, one of them closed, are one disk.
    let lone = drained("1", &disks(&[2000, 2000]));
    for layout in [Layout::Striped, Layout::Raid1] {
        let pool = pool(Script::new().report(&lone).report(&lone));
        let e = pool.create(&laid(layout), Bytes::mib(4)).await.unwrap_err();
        assert_eq!(e.kind(), Kind::Full, "{e}");
    }
}

/// A group whose metadata area of 1 MiB has so much left.
fn area(json: &str, free: u64) -> String {
    let told = "\"vg_missing_pv_count\"";
    let more = format!("\"vg_mda_size\":\"1044480\", \"vg_mda_free\":\"{free}\", {told}");
    assert!(json.contains(told));
    json.replace(told, &more)
}

#[tokio::test]
async fn a_full_metadata_area_takes_nothing_new_and_gives_back() {
    let full = area(GROUP, 30_000);
    let told = pool(Script::new().report(&full))
        .capacity(Layout::Linear, Provisioning::Thick)
        .await;
    assert_eq!(told.largest, Bytes(0));
    let (of, cut) = (volume("v"), snapshot("new", &volume("v")));
    let script = Script::new().report(&full).report(&full).report(&full);
    let (_sysfs, devices) = no_devices();
    let full_pool = on(script.report(&full), devices);
    full_pool.status().await.unwrap();
    for refused in [
        full_pool
            .create(&volume("new"), Bytes::mib(4))
            .await
            .map(drop),
        full_pool.snapshot(&of, &cut).await,
        full_pool.grow(&of, Bytes::gib(1)).await.map(drop),
    ] {
        let e = refused.unwrap_err();
        assert_eq!(e.kind(), Kind::Full, "{e}");
        assert!(e.message().contains("metadata area"), "{e}");
    }
    let findings = full_pool.tend().await.unwrap();
    let of_pool = |f: &&Finding| f.trouble == Trouble::PoolFull && f.subject == "fast";
    let told = findings.iter().find(of_pool).expect("told");
    assert_eq!(told.severity, Severity::Error);
    let gone = volume("Ü x");
    let from = format!("vg-0/{}", names::of(&gone.id));
    let script = Script::new()
        .report(&full)
        .ok(&["lvrename", "-y", "-q", &from, "*"], "");
    let (_sysfs, devices) = no_devices();
    on(script, devices).remove(&gone).await.unwrap();

    // It is told before.
    let (_sysfs, devices) = no_devices();
    let filling = on(Script::new().report(&area(GROUP, 100_000)), devices);
    filling.status().await.unwrap();
    let findings = filling.tend().await.unwrap();
    let told = findings.iter().find(of_pool).expect("told");
    assert_eq!(told.severity, Severity::Warning);
    assert!(told.what.contains("80 %"), "{told:?}");
    let (_sysfs, devices) = no_devices();
    let well = on(Script::new().report(&area(GROUP, 200_000)), devices);
    well.status().await.unwrap();
    assert!(well.tend().await.unwrap().iter().all(|f| !of_pool(&f)));
}

#[tokio::test]
async fn a_group_is_looked_at_before_its_metadata_can_have_filled_unseen() {
    let of = |n: usize| volume(&format!("n{n}"));
    let roomy = area(EMPTY, 500_000);
    let mut script = Script::new().report(&roomy);
    let unseen = usize::try_from(crate::vg::UNSEEN).unwrap();
    // Each is two changes: forgotten before and after.
    for n in 0..unseen / 2 {
        script = script.does(&lvcreate(&of(n), "linear", 4 << 20, "vg-0"));
    }
    let script = script
        .report(&area(EMPTY, 30_000))
        .report(&area(EMPTY, 30_000));
    let (_sysfs, devices) = no_devices();
    let pool = on(script, devices);
    pool.status().await.unwrap();
    for n in 0..unseen / 2 {
        pool.create(&of(n), Bytes::mib(4)).await.unwrap();
    }
    let e = pool.create(&of(unseen), Bytes::mib(4)).await.unwrap_err();
    assert_eq!(e.kind(), Kind::Full);
}

#[tokio::test]
async fn what_is_set_aside_is_promised_to_no_volume_and_left_to_stores() {
    // 1000Mi of 4000Mi.
    let json = disks(&[2000, 2000]);
    let with = |script: Script, devices: Devices| LvmPool {
        reserve: Reserve::Percent(25),
        ..on(script, devices)
    };
    for (layout, most, kind, on_disks) in [
        (Layout::Linear, 3000, "linear", ""),
        (
            Layout::Striped,
            3000,
            "striped -i 2 -I 64k",
            " /dev/d0 /dev/d1",
        ),
        (Layout::Raid1, 1496, "raid1 -m1", ""),
    ] {
        let record = laid(layout);
        let create = lvcreate(&record, kind, most << 20, &format!("vg-0{on_disks}"));
        let script = Script::new().report(&json).does(&create);
        let (_sysfs, devices) = no_devices();
        let pool = with(script, devices);
        let told = pool.capacity(layout, Provisioning::Thick).await.largest;
        assert_eq!(told, Bytes::mib(most), "{layout:?}");
        pool.create(&record, told).await.unwrap();
        let (_sysfs, devices) = no_devices();
        let pool = with(Script::new().report(&json).report(&json), devices);
        let e = pool
            .create(&record, told + Bytes::mib(8))
            .await
            .unwrap_err();
        assert_eq!(e.kind(), Kind::Full, "{layout:?}");
    }
    let (of, cut) = (volume("v"), snapshot("new", &volume("v")));
    let (_sysfs, devices) = no_devices();
    let all = LvmPool {
        reserve: Reserve::Bytes(Bytes::gib(100)),
        ..on(Script::new().report(GROUP).report(GROUP), devices)
    };
    for refused in [
        all.snapshot(&of, &cut).await,
        all.grow(&of, Bytes::gib(1)).await.map(drop),
    ] {
        assert_eq!(refused.unwrap_err().kind(), Kind::Full);
    }
    let (_root, devices) = sysfs(&[(STORE, false, 8)]);
    let grow = "lvextend -y -q -L 33554432b vg-0/stowage-s-043a718774c572bd8a25adbeb1bfcd5c";
    let after = GROUP.replace("75.34", "37.67");
    let stores = LvmPool {
        reserve: Reserve::Bytes(Bytes::gib(100)),
        ..on(
            Script::new().report(GROUP).does(grow).report(&after),
            devices,
        )
    };
    stores.tend().await.unwrap();
}

fn cut_argv(cut: &Record, of: &Record, bytes: u64) -> String {
    let tags = flags("--addtag", &tags::of_record(cut).unwrap());
    let (name, origin) = (names::of(&cut.id), names::of(&of.id));
    format!("lvcreate -y -q -s -n {name} -L {bytes}b {tags} vg-0/{origin}")
}

#[tokio::test]
async fn a_store_is_never_larger_than_its_origin_can_fill() {
    let (of, cut) = (volume("lost"), snapshot("new", &volume("lost")));
    let growth = stowage_model::request::SnapshotGrowth::default();
    let cut = Record {
        growth: Some(growth),
        ..cut
    };
    // 16Mi, what stands about them, and the header.
    let script = Script::new()
        .report(GROUP)
        .does(&cut_argv(&cut, &of, 20 << 20));
    pool(script).snapshot(&of, &cut).await.unwrap();
}

#[tokio::test]
async fn a_snapshot_that_failed_leaves_no_stray() {
    let (of, cut) = (volume("v"), snapshot("half", &volume("v")));
    // What was in its place before is put aside first.
    let name = names::of(&cut.id);
    let script = Script::new()
        .report(GROUP)
        .ok(&["lvrename", "-y", "-q", &format!("vg-0/{name}"), "*"], "")
        .refuses(&cut_argv(&cut, &of, 16 << 20), FROZEN)
        .report(GROUP)
        .does(&format!("lvremove -y -q -f vg-0/{name}"));
    let e = pool(script).snapshot(&of, &cut).await.unwrap_err();
    assert_eq!(e.kind(), Kind::Precondition);
    assert!(e.message().contains("fsfreeze -u"), "{e}");
}

#[tokio::test]
async fn a_snapshot_that_is_there_is_success() {
    let of = volume("v");
    pool(Script::new().report(GROUP))
        .snapshot(&of, &snapshot("s", &of))
        .await
        .unwrap();
    let stranger = volume("lost");
    let e = pool(Script::new().report(GROUP))
        .snapshot(&stranger, &snapshot("s", &stranger))
        .await
        .unwrap_err();
    assert_eq!(e.kind(), Kind::Exists);
}

#[tokio::test]
async fn what_others_need_stays() {
    let pool = pool(Script::new().report(GROUP).report(GROUP));
    let e = pool.remove(&volume("v")).await.unwrap_err();
    assert!(
        e.message().contains("s-043a718774c572bd8a25adbeb1bfcd5c"),
        "{e}"
    );
    let e = pool.remove(&snapshot("s", &volume("v"))).await.unwrap_err();
    assert!(e.message().contains(volume("r").id.as_str()), "{e}");
}

#[tokio::test]
async fn a_removed_volume_is_renamed_and_a_snapshot_split_before() {
    let (_root, devices) = no_devices();
    let volume = volume("Ü x");
    let from = format!("vg-0/{}", names::of(&volume.id));
    let script = Script::new()
        .report(GROUP)
        .ok(&["lvrename", "-y", "-q", &from, "*"], "");
    let Removed::ToPurge(leftover) = on(script, devices).remove(&volume).await.unwrap() else {
        panic!()
    };
    assert!(names::is_condemned(&leftover.handle));
    assert_eq!(leftover.size, Bytes::mib(60));
    let (_root, devices) = no_devices();
    let cut = snapshot("full", &volume);
    let from = format!("vg-0/{}", names::of(&cut.id));
    let script = Script::new()
        .report(GROUP)
        .does(&format!("lvconvert -y -q --splitsnapshot {from}"))
        .ok(&["lvrename", "-y", "-q", &from, "*"], "");
    assert!(matches!(
        on(script, devices).remove(&cut).await.unwrap(),
        Removed::ToPurge(_)
    ));
}

#[tokio::test]
async fn only_leftovers_are_wiped() {
    for handle in ["root", "stowage-x-untagged", &names::of(&volume("v").id)] {
        let leftover = Leftover {
            handle: handle.to_owned(),
            size: Bytes(0),
        };
        let pool = pool(Script::new().report(GROUP));
        let e = pool
            .purge(&leftover, &Arc::new(Progress::new()))
            .await
            .unwrap_err();
        assert_eq!(e.kind(), Kind::NotFound, "{handle}");
    }
    let gone = Leftover {
        handle: "stowage-x-0000000000000000".into(),
        size: Bytes(0),
    };
    let pool = pool(Script::new().report(GROUP));
    pool.purge(&gone, &Arc::new(Progress::new())).await.unwrap();
}

const STORE: &str = "vg--0-stowage--s--043a718774c572bd8a25adbeb1bfcd5c-cow";

#[tokio::test]
async fn upkeep_runs_nothing_while_nothing_is_written() {
    let (_root, devices) = sysfs(&[
        ("vg--0-theirs-cow", false, 5),
        ("other-stowage--s-cow", false, 5),
    ]);
    assert_eq!(on(Script::new(), devices).tend().await.unwrap(), []);

    let (root, devices) = sysfs(&[(STORE, false, 8)]);
    // 16Mi filled to 75.34 %, to be below 50 %: two steps of 8Mi.
    let grow = "lvextend -y -q -L 33554432b vg-0/stowage-s-043a718774c572bd8a25adbeb1bfcd5c";
    let after = GROUP.replace("75.34", "37.67");
    let script = Script::new()
        .report(GROUP)
        .does(grow)
        .report(&after)
        .report(&after);
    let pool = on(script, devices);
    let findings = pool.tend().await.unwrap();
    // The other snapshot of the recording overflowed.
    assert_eq!(findings.len(), 1);
    assert_eq!(findings[0].trouble, Trouble::SnapshotLost);
    assert_eq!(pool.tend().await.unwrap(), findings);
    std::fs::write(root.path().join("dm-0/stat"), "1 0 8 0 5 0 9 0 0 0\n").unwrap();
    assert_eq!(pool.tend().await.unwrap(), findings);
}

#[tokio::test]
async fn the_store_of_a_held_origin_is_left_alone() {
    let origin = format!("vg--0-{}", names::of(&volume("v").id).replace('-', "--"));
    let (_root, devices) = sysfs(&[(STORE, false, 8), (&origin, true, 0)]);
    let findings = on(Script::new().report(GROUP), devices)
        .tend()
        .await
        .unwrap();
    assert!(
        findings.iter().all(|f| f.trouble == Trouble::SnapshotLost),
        "{findings:?}"
    );
}

#[tokio::test]
async fn a_store_takes_what_is_left_and_then_cries() {
    let (_root, devices) = sysfs(&[(STORE, false, 8)]);
    let none = GROUP.replace("675282944", "0").replace("994050048", "0");
    let little = GROUP
        .replace("675282944", "4194304")
        .replace("994050048", "0");
    let grow = "lvextend -y -q -L 20971520b vg-0/stowage-s-043a718774c572bd8a25adbeb1bfcd5c";
    let script = Script::new().report(&little).does(grow).report(&none);
    let findings = on(script, devices).tend().await.unwrap();
    let full: Vec<_> = findings
        .iter()
        .filter(|f| f.trouble == Trouble::PoolFull)
        .collect();
    assert_eq!(full[0].subject, "s-043a718774c572bd8a25adbeb1bfcd5c");
}

#[tokio::test]
async fn what_is_attached_or_held_is_known_without_a_process() {
    let name = format!("vg--0-{}", names::of(&volume("v").id).replace('-', "--"));
    let (_root, devices) = sysfs(&[(&name, true, 0)]);
    let script = Script::new().does(&format!("dmsetup resume {name}"));
    let pool = on(script, devices);
    let device = pool.attach(&volume("v"), Attach::Held).await.unwrap();
    assert_eq!(device.path, PathBuf::from("/dev/mapper").join(&name));
    assert!(pool.attached(&volume("Ü x")).await.unwrap().is_none());
    pool.detach(&volume("Ü x")).await.unwrap();
    pool.resume(&[volume("Ü x"), volume("v")]).await.unwrap();
}

#[tokio::test]
async fn the_second_suspend_that_fails_lets_the_first_go() {
    let dm = |name: &str| format!("vg--0-{}", names::of(&volume(name).id).replace('-', "--"));
    let (root, devices) = sysfs(&[(&dm("a"), false, 0), (&dm("b"), false, 0)]);
    let script = Script::new()
        .does(&format!("dmsetup suspend {}", dm("a")))
        .fails(
            &["dmsetup", "suspend", &dm("b")],
            1,
            "Device or resource busy",
        );
    let pool = on(script, devices);
    let e = pool.suspend(&[volume("a"), volume("b")]).await.unwrap_err();
    assert_eq!(e.kind(), Kind::Precondition);
    drop(root);
}

/// The same name on another day.
fn later(record: &Record) -> Record {
    Record {
        created: record.created + std::time::Duration::from_secs(1),
        ..record.clone()
    }
}

#[tokio::test]
async fn a_volume_of_the_same_name_from_another_day_is_neither_taken_over_nor_removed() {
    let record = later(&volume("v"));
    let create = lvcreate(&record, "linear", 12 << 20, "vg-0");
    let script = Script::new()
        .refuses(&create, EXISTS)
        .report(GROUP)
        .report(GROUP)
        .report(GROUP);
    let pool = pool(script);
    let e = pool.create(&record, Bytes::mib(9)).await.unwrap_err();
    assert_eq!(e.kind(), Kind::Exists);
    let of = volume("v");
    for record in [later(&volume("Ü x")), later(&snapshot("full", &of))] {
        let e = pool.remove(&record).await.unwrap_err();
        assert_eq!(e.kind(), Kind::Precondition, "{e}");
    }
}

#[tokio::test]
async fn an_lv_with_a_damaged_record_is_not_removed_by_name() {
    let e = pool(Script::new().report(GROUP))
        .remove(&volume("damaged"))
        .await
        .unwrap_err();
    assert_eq!(e.kind(), Kind::Precondition);
    assert!(e.message().contains("version"), "{e}");
}

#[tokio::test]
async fn a_thin_volume_of_the_group_is_not_removed_as_a_thick_one() {
    let e = pool(Script::new().report(GROUP)).remove(&volume("t")).await;
    assert_eq!(e.unwrap_err().kind(), Kind::Precondition);
}

#[tokio::test]
async fn a_snapshot_of_another_moment_is_not_taken_for_the_new_one() {
    let of = volume("v");
    let e = pool(Script::new().report(GROUP))
        .snapshot(&of, &later(&snapshot("s", &of)))
        .await
        .unwrap_err();
    assert_eq!(e.kind(), Kind::Exists);
}

#[tokio::test]
async fn a_reader_of_another_day_stays() {
    let scan = pool(Script::new().report(GROUP)).scan().await.unwrap();
    let mut found = scan.found.into_iter().map(|f| f.record);
    let reader = found.find(|r| r.name.as_str() == "r").unwrap();
    let source = snapshot("s", &volume("v"));
    let script = Script::new().report(GROUP).report(GROUP);
    let pool = pool(script.report(GROUP).report(GROUP));
    let made = pool.clone_volume(&source, &reader, Bytes::mib(60)).await;
    assert_eq!(made.unwrap(), Bytes::mib(60));
    let other = later(&reader);
    let e = pool.clone_volume(&source, &other, Bytes::mib(60)).await;
    assert_eq!(e.unwrap_err().kind(), Kind::Exists);
    let e = pool.remove(&other).await;
    assert_eq!(e.unwrap_err().kind(), Kind::Precondition);
}

#[tokio::test]
async fn a_snapshot_that_overflowed_is_no_source_and_not_read() {
    // The recording's own: it overflowed while it was active.
    let cut = snapshot("full", &volume("lost"));
    let reader = Record {
        source: Some(cut.id.clone()),
        read_only: true,
        ..volume("reader")
    };
    let dm = names::dm("vg-0", &names::of(&cut.id));
    let (_root, devices) = sysfs(&[(&dm, false, 0)]);
    let script = Script::new().report(GROUP).report(GROUP);
    let pool = on(script, devices);
    pool.intact(&volume("lost")).await.unwrap();
    pool.intact(&snapshot("s", &volume("v"))).await.unwrap();
    for refused in [
        pool.intact(&cut).await,
        pool.intact(&reader).await,
        pool.attach(&cut, Attach::Held).await.map(drop),
        pool.attach(&reader, Attach::Held).await.map(drop),
        pool.clone_volume(&cut, &reader, Bytes::mib(16))
            .await
            .map(drop),
    ] {
        let e = refused.unwrap_err();
        assert_eq!(e.kind(), Kind::Precondition, "{e}");
        assert!(e.message().contains("overflowed"), "{e}");
    }
}

#[tokio::test]
async fn what_cannot_be_removed_is_known_before() {
    let pool = pool(Script::new().report(GROUP).report(GROUP).report(GROUP));
    let e = pool.removable(&snapshot("s", &volume("v"))).await;
    assert!(e.unwrap_err().message().contains(volume("r").id.as_str()));
    let e = pool.removable(&later(&volume("v"))).await;
    assert_eq!(e.unwrap_err().kind(), Kind::Precondition);
    pool.removable(&volume("gone")).await.unwrap();
}

#[tokio::test]
async fn a_store_that_cannot_grow_keeps_no_other_from_growing() {
    let (_root, devices) = sysfs(&[(STORE, false, 8)]);
    // The one that overflowed in the recording stands for another that must grow.
    let both = GROUP.replace("swi-I-s---", "swi-a-s---");
    let after = both.replace("\"100.00\"", "\"33.00\"");
    let grow = |id: &str, bytes: u64| format!("lvextend -y -q -L {bytes}b vg-0/stowage-{id}");
    let fails = grow("s-043a718774c572bd8a25adbeb1bfcd5c", 32 << 20);
    let script = Script::new()
        .report(&both)
        .refuses(&fails, "an error of this LV")
        .does(&grow("s-a18b869b2e81c0c529552a3c4fa5c92e", 12 << 20))
        .report(&after)
        .refuses(&fails, "an error of this LV")
        .report(&after)
        .refuses(&fails, "an error of this LV");
    let pool = on(script, devices);
    for _ in 0..2 {
        let findings = pool.tend().await.unwrap();
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert_eq!(findings[0].subject, "s-043a718774c572bd8a25adbeb1bfcd5c");
        assert!(findings[0].what.contains("an error of this LV"));
    }
}

#[tokio::test]
async fn the_room_of_a_mirror_beyond_every_size_is_no_overflow() {
    let raid1 = Record {
        layout: Layout::Raid1,
        ..volume("new")
    };
    let pool = pool(Script::new().report(GROUP).report(GROUP));
    let e = pool.create(&raid1, Bytes(u64::MAX / 2)).await.unwrap_err();
    assert_eq!(e.kind(), Kind::Full);
}

/// The device of volume `Ü x`, which had 60 MiB and has 64, with bytes at its start and beyond its old
/// end.
struct Grown {
    node: PathBuf,
    name: String,
    _sysfs: tempfile::TempDir,
    devices: Devices,
}

impl Grown {
    fn new(first: u8) -> Self {
        let name = names::of(&volume("Ü x").id);
        let dm = names::dm("vg-0", &name);
        let (sysfs, devices) = sysfs(&[(&dm, false, 0)]);
        let node = names::node(&dm);
        let mut bytes = vec![0; 64 << 20];
        bytes[0] = first;
        bytes[60 << 20..].fill(0xa5);
        std::fs::write(&node, bytes).unwrap();
        Self {
            node,
            name,
            _sysfs: sysfs,
            devices,
        }
    }

    /// First and last byte.
    fn ends(&self) -> (u8, u8) {
        let bytes = std::fs::read(&self.node).unwrap();
        (bytes[0], *bytes.last().unwrap())
    }

    fn mark(&self, flag: &str) -> String {
        let name = &self.name;
        format!("lvchange -y -q {flag} stowage.grown-from=62914560 vg-0/{name}")
    }

    /// The group when its LV has grown; cut off, if it is marked.
    fn group(&self, marked: bool) -> String {
        let own = format!("\"lv_name\":\"{}\"", self.name);
        let at = GROUP.find(&own).unwrap();
        let (before, row) = GROUP.split_at(at);
        let mark = "\"lv_tags\":\"stowage.grown-from=62914560,";
        let row = row.replacen("62914560", "67108864", 1);
        let row = match marked {
            true => row.replacen("\"lv_tags\":\"", mark, 1),
            false => row,
        };
        format!("{before}{row}")
    }
}

impl Drop for Grown {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.node);
    }
}

/// One after the other: a node under /dev/mapper has one name.
#[tokio::test]
async fn growth_writes_nothing_to_what_a_volume_that_should_be_blank_was_before() {
    let of = volume("Ü x");
    for (first, ends) in [(0, (0, 0)), (7, (7, 0xa5))] {
        // Nothing is extended, and nothing written.
        let bench = Grown::new(first);
        let script = Script::new().report(GROUP);
        let pool = on(script, bench.devices.clone());
        pool.grow(&of, Bytes::mib(60)).await.unwrap();
        assert_eq!(bench.ends(), (first, 0xa5));
        // What is beyond the old end is blank if what is before is.
        let (name, after) = (&bench.name, bench.group(true));
        let script = Script::new()
            .report(GROUP)
            .does(&bench.mark("--addtag"))
            .does(&format!("lvextend -y -q -L 67108864b vg-0/{name}"))
            .report(&after)
            .does(&bench.mark("--deltag"));
        let pool = on(script, bench.devices.clone());
        let grown = pool.grow(&of, Bytes::mib(64)).await.unwrap();
        assert_eq!(grown, Bytes::mib(64));
        assert_eq!(bench.ends(), ends);
        // Cut off before: ended by a growth that finds nothing to do, or by whoever attaches it.
        for attached in [false, true] {
            let bench = Grown::new(first);
            let script = Script::new()
                .report(&bench.group(true))
                .does(&bench.mark("--deltag"));
            let pool = on(script, bench.devices.clone());
            if attached {
                pool.scan().await.unwrap();
                pool.attach(&of, Attach::Held).await.unwrap();
            } else {
                pool.grow(&of, Bytes::mib(64)).await.unwrap();
            }
            assert_eq!(bench.ends(), ends);
        }
        // Its record tells that something is on it: the mark is of no account, and goes with the
        // next change of the record.
        let bench = Grown::new(first);
        let used = Record {
            content: stowage_model::record::Content::Raw,
            ..of.clone()
        };
        let change = format!(
            "lvchange -y -q --deltag stowage.content=blank --deltag stowage.grown-from=62914560 \
             --addtag stowage.content=raw vg-0/{}",
            bench.name
        );
        let script = Script::new().report(&bench.group(true)).does(&change);
        let pool = on(script, bench.devices.clone());
        pool.scan().await.unwrap();
        pool.attach(&used, Attach::Held).await.unwrap();
        pool.rewrite(&used).await.unwrap();
        assert_eq!(bench.ends(), (first, 0xa5));
    }
}
