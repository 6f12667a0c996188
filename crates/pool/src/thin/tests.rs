use super::*;
use crate::vg::dm::{Devices, fake::sysfs};
use crate::vg::samples::{EMPTY, GROUP, Steps, flags, snapshot, vg, volume};
use crate::vg::tags;
use crate::{Defect, Found};
use stowage_host::fake::Script;
use stowage_model::volumes::{Severity, Trouble};
use stowage_model::{Kind, Reserve};

fn options() -> Options {
    Options {
        name: PoolName::new("fast").unwrap(),
        vg: "vg-0".into(),
        thin_pool: "tp".into(),
        overprovision: 2.0,
        data_limit: Options::DATA_LIMIT,
        metadata_limit: Options::METADATA_LIMIT,
        reserve: Reserve::default(),
    }
}

fn on(script: Script, devices: Devices) -> ThinPool {
    ThinPool {
        vg: vg(script, devices),
        options: options(),
        watch: Watch::default(),
        calm_until: Mutex::default(),
        since: Mutex::default(),
    }
}

fn pool(script: Script) -> ThinPool {
    on(script, Devices::at("/nonexistent"))
}

fn tags_of(record: &Record) -> String {
    flags("--addtag", &tags::of_record(record).unwrap())
}

fn lv(record: &Record) -> String {
    names::of(&record.id)
}

#[tokio::test]
async fn a_scan_sees_the_members_of_its_pool_only() {
    let scan = pool(Script::new().report(GROUP)).scan().await.unwrap();
    let (t, ts) = (volume("t"), snapshot("ts", &volume("t")));
    let found = |record| Found {
        record,
        size: Bytes::mib(60),
    };
    assert_eq!(scan.found, [found(ts), found(t)]);
    assert_eq!(scan.leftovers.len(), 1);
    assert_eq!(scan.leftovers[0].handle, lv(&volume("th")));
    assert_eq!(scan.defects, [Defect::Foreign("theirs".into())]);
}

#[tokio::test]
async fn room_is_what_may_still_be_promised() {
    let status = pool(Script::new().report(GROUP)).status().await.unwrap();
    assert_eq!(
        (status.total, status.promised),
        (Bytes::mib(100), Bytes::mib(68))
    );
    assert_eq!(status.free, Bytes::mib(132));
    assert_eq!(
        (status.data_percent, status.metadata_percent),
        (Some(10.0), Some(10.55))
    );
    assert_eq!((status.volumes, status.snapshots), (1, 1));
}

#[tokio::test]
async fn a_volume_is_one_lvcreate_with_its_record() {
    let new = volume("new");
    let create = format!(
        "lvcreate -y -q -n {} -V 138412032b -T vg-0/tp {}",
        lv(&new),
        tags_of(&new)
    );
    let script = Script::new().report(GROUP).does(&create);
    assert_eq!(
        pool(script).create(&new, Bytes::mib(129)).await.unwrap(),
        Bytes::mib(132)
    );
    // As much as is told, and not a byte more.
    let told = pool(Script::new().report(GROUP))
        .capacity(Layout::Linear, Provisioning::Thick)
        .await;
    assert_eq!(told.largest, Bytes::mib(132));
    let script = Script::new().report(GROUP).report(GROUP);
    let e = pool(script)
        .create(&new, Bytes::mib(133))
        .await
        .unwrap_err();
    assert_eq!(e.kind(), Kind::Full);
    assert!(e.message().contains("132Mi"), "{e}");
}

#[tokio::test]
async fn a_filled_pool_takes_nothing_new() {
    for (percent, what) in [
        ("\"data_percent\":\"10.00\"", "data"),
        ("\"10.55\"", "metadata"),
    ] {
        let filled = GROUP.replace(
            percent,
            &percent.replace("10.00", "95.00").replace("10.55", "85.00"),
        );
        let script = Script::new()
            .report(&filled)
            .report(&filled)
            .report(&filled);
        let (_root, devices) = sysfs(&[]);
        let pool = on(script, devices);
        let e = pool
            .create(&volume("new"), Bytes::mib(4))
            .await
            .unwrap_err();
        assert_eq!(e.kind(), Kind::Full);
        assert!(e.message().contains(what), "{e}");
        let t = volume("t");
        assert_eq!(
            pool.snapshot(&t, &snapshot("new", &t))
                .await
                .unwrap_err()
                .kind(),
            Kind::Full
        );
    }
}

#[tokio::test]
async fn a_clone_and_growth_count_before_the_next_look() {
    let t = volume("t");
    let clone = Record {
        source: Some(t.id.clone()),
        ..volume("c")
    };
    // The same room is taken when t is twice as large.
    let (small, large) = ("\"lv_size\":\"62914560\"", "\"lv_size\":\"125829120\"");
    let after = GROUP.replace(
        &format!("{}\", {small}", lv(&t)),
        &format!("{}\", {large}", lv(&t)),
    );
    assert_ne!(after, GROUP);
    let cloned = format!(
        "lvcreate -y -q -s -kn -n {} vg-0/{} {}",
        lv(&clone),
        lv(&t),
        tags_of(&clone)
    );
    let grown = format!("lvextend -y -q -L 125829120b vg-0/{}", lv(&t));
    for change in [&cloned, &grown] {
        let script = Script::new().report(GROUP).does(change).report(&after);
        let pool = pool(script);
        match change == &cloned {
            true => pool.clone_volume(&t, &clone, Bytes::mib(60)).await,
            false => pool.grow(&t, Bytes::mib(120)).await,
        }
        .unwrap();
        // 132Mi could be promised before, 72Mi can be now.
        let e = pool.create(&volume("new"), Bytes::mib(100)).await;
        assert_eq!(e.unwrap_err().kind(), Kind::Full, "{change}");
    }
}

#[tokio::test]
async fn what_is_set_aside_of_a_thin_pool_is_not_promised_and_kept_free() {
    // 100Mi, of which 68Mi are promised and 10 % written.
    let with = |reserve: &str| {
        let script = Script::new().report(GROUP).report(GROUP);
        let (root, devices) = sysfs(&[]);
        let mut pool = on(script, devices);
        pool.options.reserve = reserve.parse().unwrap();
        (root, pool)
    };
    let (_root, some) = with("40%");
    assert_eq!(some.status().await.unwrap().free, Bytes::mib(52));
    let e = some.create(&volume("new"), Bytes::mib(56)).await;
    assert_eq!(e.unwrap_err().kind(), Kind::Full);
    let (_root, filled) = with("90Mi");
    assert_eq!(filled.status().await.unwrap().free, Bytes(0));
    let t = volume("t");
    let e = filled.snapshot(&t, &snapshot("new", &t)).await.unwrap_err();
    assert!(e.message().contains("90Mi that are set aside"), "{e}");
}

#[tokio::test]
async fn a_half_made_volume_is_made_anew() {
    let th = volume("th");
    let script = Script::new()
        .report(GROUP)
        .does(&format!("lvremove -y -q -f vg-0/{}", lv(&th)))
        .does(&format!(
            "lvcreate -y -q -n {} -V 4194304b -T vg-0/tp {}",
            lv(&th),
            tags_of(&th)
        ));
    pool(script).create(&th, Bytes::mib(4)).await.unwrap();
}

/// Seen after a power cut between the two commits of an lvcreate.
#[tokio::test]
async fn a_volume_whose_device_was_made_and_not_noted_can_be_removed() {
    let (_root, devices) = sysfs(&[]);
    let t = volume("t");
    let remove = format!("lvremove -y -q -f vg-0/{}", lv(&t));
    let argv: Vec<&str> = remove.split(' ').collect();
    let why = |number: u32| {
        format!(
            "device-mapper: message ioctl on (254:6) failed: File exists\n  Thin pool \
             vg--0-tp-tpool (254:6) already contain thin device with device_id {number}."
        )
    };
    let script = Script::new()
        .report(GROUP)
        .fails(&argv, 5, &why(1))
        .ok(
            &["dmsetup", "message", "vg--0-tp-tpool", "0", "delete 1"],
            "",
        )
        .does(&remove);
    on(script, devices.clone()).remove(&t).await.unwrap();
    // That of another volume stays.
    let script = Script::new()
        .report(GROUP)
        .fails(&argv, 5, &why(3))
        .report(GROUP);
    assert!(on(script, devices).remove(&t).await.is_err());
}

#[tokio::test]
async fn a_snapshot_of_a_held_volume_goes_past_lvm() {
    let (t, cut) = (volume("t"), snapshot("new", &volume("t")));
    let held = names::dm("vg-0", &lv(&t));
    let (_root, devices) = sysfs(&[(&held, true, 0)]);
    let name = lv(&cut);
    // The report that follows shows the empty volume: `th` stands for it, under its name.
    let with_new = GROUP.replace(&lv(&volume("th")), &name);
    let record = tags_of(&cut);
    let script = Script::new()
        .report(GROUP)
        .does(&format!(
            "lvcreate -y -q -an -ky -n {name} -V 62914560b -T vg-0/tp --addtag stowage.half=yes"
        ))
        .report(&with_new)
        .ok(
            &["dmsetup", "message", "vg--0-tp-tpool", "0", "delete 3"],
            "",
        )
        .ok(
            &[
                "dmsetup",
                "message",
                "vg--0-tp-tpool",
                "0",
                "create_snap 3 1",
            ],
            "",
        )
        // The second message is a change, so the tags are read anew; they are as they were.
        .does(&format!(
            "lvchange -y -q --deltag stowage.half=yes {record} vg-0/{name}"
        ));
    on(script, devices).snapshot(&t, &cut).await.unwrap();
}

/// A look at the group takes as long as the cut itself; a pool far from full needs none.
#[tokio::test]
async fn a_snapshot_is_one_lvcreate_and_the_group_is_looked_at_when_that_fails() {
    let (_root, devices) = sysfs(&[]);
    let (t, gone) = (volume("t"), volume("gone"));
    let create = |of: &Record, cut: &Record| {
        let (name, of, record) = (lv(cut), lv(of), tags_of(cut));
        format!("lvcreate -y -q -s -ky -n {name} vg-0/{of} {record}")
    };
    let fails = |script: Script, command: &str, why: &str| {
        let argv: Vec<&str> = command.split(' ').collect();
        script.fails(&argv, 5, why).report(GROUP)
    };
    let cuts = ["first", "second", "ts"].map(|name| snapshot(name, &t));
    let of_gone = snapshot("third", &gone);
    let script = Script::new()
        .report(&GROUP.replace(&lv(&cuts[2]), "later"))
        .does(&create(&t, &cuts[0]))
        .does(&create(&t, &cuts[1]));
    let script = fails(script, &create(&t, &cuts[2]), "already exists");
    let script = fails(script, &create(&gone, &of_gone), "not found");
    let pool = on(script, devices);
    for cut in &cuts {
        pool.snapshot(&t, cut).await.unwrap();
    }
    let e = pool.snapshot(&gone, &of_gone).await.unwrap_err();
    assert_eq!(e.kind(), Kind::NotFound);
}

#[tokio::test]
async fn a_larger_clone_has_no_record_until_it_is_as_large() {
    let (_root, devices) = sysfs(&[]);
    let t = volume("t");
    let new = Record {
        source: Some(t.id.clone()),
        ..volume("new")
    };
    let name = lv(&new);
    let script = Script::new()
        .report(GROUP)
        .does(&format!(
            "lvcreate -y -q -s -kn -n {name} vg-0/{} --addtag stowage.half=yes",
            lv(&t)
        ))
        .does(&format!("lvextend -y -q -L 83886080b vg-0/{name}"))
        .does(&format!(
            "lvchange -y -q --deltag stowage.half=yes {} vg-0/{name}",
            tags_of(&new)
        ));
    let pool = on(script, devices);
    assert_eq!(
        pool.clone_volume(&t, &new, Bytes::mib(77)).await.unwrap(),
        Bytes::mib(80)
    );
}

#[tokio::test]
async fn a_pool_that_shows_old_blocks_is_not_opened() {
    let dirty = GROUP.replace("\"zero\":\"zero\"", "\"zero\":\"\"");
    let e = ThinPool::open(options(), Arc::new(Script::new().report(&dirty)))
        .await
        .err()
        .unwrap();
    assert!(e.message().contains("lvchange --zero y vg-0/tp"), "{e}");
    ThinPool::open(options(), Arc::new(Script::new().report(GROUP)))
        .await
        .unwrap();
    // No thin pool yet.
    ThinPool::open(options(), Arc::new(Script::new().report(EMPTY)))
        .await
        .unwrap();
}

#[tokio::test]
async fn options_are_checked() {
    for options in [
        Options {
            thin_pool: "-y".into(),
            ..options()
        },
        Options {
            overprovision: 0.0,
            ..options()
        },
        Options {
            overprovision: f64::NAN,
            ..options()
        },
        Options {
            data_limit: 101,
            ..options()
        },
        Options {
            metadata_limit: 0,
            ..options()
        },
    ] {
        let e = ThinPool::open(options, Arc::new(Script::new()))
            .await
            .err()
            .unwrap();
        assert_eq!(e.kind(), Kind::Invalid);
    }
}

#[tokio::test(start_paused = true)]
async fn fill_is_looked_at_when_something_was_written_and_not_all_the_time() {
    let (root, devices) = sysfs(&[("vg--0-tp_tdata", false, 1), ("vg--0-tp_tmeta", false, 1)]);
    let full = GROUP.replace("\"data_percent\":\"10.00\"", "\"data_percent\":\"96.00\"");
    let pool = on(Script::new().report(GROUP).report(&full), devices);
    assert_eq!(pool.tend().await.unwrap(), []);
    assert_eq!(pool.tend().await.unwrap(), []);
    std::fs::write(root.path().join("dm-0/stat"), "1 0 8 0 5 0 9 0 0 0\n").unwrap();
    assert_eq!(pool.tend().await.unwrap(), [], "a pool at 10 % can wait");
    tokio::time::advance(std::time::Duration::from_secs(16)).await;
    let findings = pool.tend().await.unwrap();
    assert_eq!(findings.len(), 1);
    assert_eq!(
        (findings[0].trouble, findings[0].severity),
        (Trouble::PoolFull, Severity::Error)
    );
    assert_eq!(pool.tend().await.unwrap(), findings);
}

#[tokio::test]
async fn a_volume_of_the_same_name_from_another_day_is_neither_taken_over_nor_removed() {
    let t = volume("t");
    let other = Record {
        created: t.created + std::time::Duration::from_secs(1),
        ..t.clone()
    };
    let cut = Record {
        created: other.created,
        ..snapshot("ts", &t)
    };
    let (root, _) = sysfs(&[]);
    let refused = |script: Script| on(script, Devices::at(root.path()));
    let e = refused(Script::new().report(GROUP))
        .create(&other, Bytes::mib(8))
        .await;
    assert_eq!(e.unwrap_err().kind(), Kind::Exists);
    let e = refused(Script::new().report(GROUP))
        .snapshot(&t, &cut)
        .await;
    assert_eq!(e.unwrap_err().kind(), Kind::Exists);
    let e = refused(Script::new().report(GROUP))
        .clone_volume(&cut, &other, Bytes::mib(60))
        .await;
    assert_eq!(e.unwrap_err().kind(), Kind::Exists);
    let pool = pool(Script::new().report(GROUP).report(GROUP).report(GROUP));
    for record in [other.clone(), cut] {
        let e = pool.remove(&record).await;
        assert_eq!(e.unwrap_err().kind(), Kind::Precondition);
    }
    let e = pool.removable(&other).await;
    assert_eq!(e.unwrap_err().kind(), Kind::Precondition);
}

#[tokio::test]
async fn a_pool_that_shows_old_blocks_makes_and_attaches_nothing() {
    let dirty = GROUP.replace("\"zero\":\"zero\"", "\"zero\":\"\"");
    // The group came after the pool was opened.
    let script = Script::new().report(&dirty).report(&dirty).report(&dirty);
    let pool = pool(script);
    let e = pool.create(&volume("new"), Bytes::mib(4)).await;
    assert!(e.unwrap_err().message().contains("lvchange --zero y"));
    let e = pool.attach(&volume("t"), Attach::Held).await;
    assert_eq!(e.unwrap_err().kind(), Kind::Precondition);
}

#[tokio::test]
async fn fill_is_warned_of_before_creation_is_refused_with_a_way_that_works() {
    for (from, to, way) in [
        ("\"10.55\"", "\"66.00\"", "vgextend vg-0"),
        (
            "\"data_percent\":\"10.00\"",
            "\"data_percent\":\"85.00\"",
            "stowage pool extend fast",
        ),
    ] {
        let (_root, devices) = sysfs(&[("vg--0-tp_tdata", false, 1)]);
        let filling = GROUP.replace(from, to);
        let pool = on(Script::new().report(&filling), devices);
        let findings = pool.tend().await.unwrap();
        assert_eq!(findings[0].severity, Severity::Warning);
        assert!(findings[0].mend.contains(way), "{}", findings[0].mend);
    }
}
