use super::super::samples::{EMPTY, GROUP, Steps, snapshot, vg, volume};
use super::super::{dm, names, tags};
use crate::Snapshots as _;
use crate::lvm::{LvmPool, Options, Wipe};
use crate::thin::{self, ThinPool};
use crate::vg::report;
use crate::{Defect, Leftover, Pool, Removed};
use std::sync::Arc;
use stowage_host::Progress;
use stowage_host::fake::Script;
use stowage_model::volumes::Trouble;
use stowage_model::{Bytes, Kind, PoolName, Record, Reserve};

/// A row of the report, as LVM 2.03.16 wrote them of LVs that were cached, moved and converted.
fn row(name: &str, attr: &str, origin: &str, pool: &str, tags: &[String]) -> String {
    let tags = tags.join(",");
    let part = name.starts_with('[');
    let size = if part { 8_388_608 } else { 67_108_864 };
    format!(
        "{{\"lv_name\":\"{name}\", \"lv_size\":\"{size}\", \"origin_size\":\"\", \
         \"lv_attr\":\"{attr}\", \"origin\":\"{origin}\", \"pool_lv\":\"{pool}\", \
         \"data_percent\":\"\", \"metadata_percent\":\"\", \"lv_tags\":\"{tags}\"}}"
    )
}

fn group(rows: &[String]) -> String {
    let mut document: serde_json::Value = serde_json::from_str(EMPTY).unwrap();
    let rows: Vec<serde_json::Value> = rows
        .iter()
        .map(|row| serde_json::from_str(row).unwrap())
        .collect();
    document["report"][0]["lv"] = rows.into();
    document.to_string()
}

fn of(record: &Record) -> (String, Vec<String>) {
    (names::of(&record.id), tags::of_record(record).unwrap())
}

async fn thick(script: Script) -> LvmPool {
    let options = Options {
        name: PoolName::new("fast").unwrap(),
        vg: "vg-0".into(),
        wipe: Wipe::Zero,
        reserve: Reserve::default(),
    };
    LvmPool::open(options, Arc::new(script)).await.unwrap()
}

/// A group in which administrators were at work on LVs of ours.
fn disturbed() -> (String, [Record; 5]) {
    let [cached, renamed, below, merging, moved] =
        ["cached", "renamed", "below", "merging", "moved"].map(volume);
    let merging = snapshot("merging", &merging);
    let (c, c_tags) = of(&cached);
    let (b, b_tags) = of(&below);
    let (m, m_tags) = of(&moved);
    let (s, s_tags) = of(&merging);
    let json = group(&[
        row(
            &c,
            "Cwi-a-C---",
            &format!("[{c}_wcorig]"),
            "[fast_cvol]",
            &c_tags,
        ),
        row(&format!("[{c}_wcorig]"), "owi-aoC---", "", "", &[]),
        row("[fast_cvol]", "Cwi-aoC---", "", "", &[]),
        row("theirs", "-wi-a-----", "", "", &of(&renamed).1),
        row(&format!("[{b}_cvol]"), "Cwi-aoC---", "", "", &b_tags),
        row(&m, "owI-a-----", "", "", &m_tags),
        row("[pvmove0]", "p-C-aom---", "", "", &[]),
        row(&format!("[{s}]"), "Swi-a-s---", &m, "", &s_tags),
    ]);
    (json, [cached, renamed, below, merging, moved])
}

#[tokio::test]
async fn every_lv_with_a_record_is_served_or_told() {
    let (json, [cached, renamed, below, merging, moved]) = disturbed();
    let pool = thick(Script::new().report(&json).report(&json)).await;
    let scan = pool.scan().await.unwrap();
    let served: Vec<_> = scan.found.iter().map(|found| &found.record).collect();
    assert_eq!(served, [&cached, &moved]);
    assert_eq!(scan.found[0].size, Bytes::mib(64));
    assert_eq!(scan.leftovers, []);
    let mut told = Vec::new();
    for defect in &scan.defects {
        let Defect::Astray { lv, ids, finding } = defect else {
            panic!("{defect:?}")
        };
        assert_eq!(finding.subject, ids[0].to_string());
        assert!(finding.what.contains(lv), "{finding:?}");
        told.extend(ids.clone());
    }
    assert_eq!(told, [renamed.id.clone(), below.id, merging.id]);
    // The cached one as well.
    assert_eq!(pool.tend().await.unwrap().len(), 4);
}

#[tokio::test]
async fn what_was_renamed_or_hidden_is_not_called_gone() {
    let (json, [_, renamed, below, merging, moved]) = disturbed();
    for record in [&renamed, &below, &merging] {
        let pool = thick(Script::new().report(&json).report(&json).report(&json)).await;
        for refused in [
            pool.remove(record).await.map(drop),
            pool.removable(record).await,
        ] {
            let e = refused.unwrap_err();
            assert_eq!(e.kind(), Kind::Precondition, "{e}");
            assert!(e.message().contains("is not gone"), "{e}");
        }
    }
    // The very name in another moment, and a name nobody has, are gone.
    let later = Record {
        created: renamed.created + std::time::Duration::from_secs(1),
        ..renamed
    };
    let pool = thick(Script::new().report(&json).report(&json).report(&json)).await;
    for gone in [later, volume("never")] {
        assert!(matches!(pool.remove(&gone).await.unwrap(), Removed::Gone));
    }
    // A merge into it goes on.
    let pool = thick(Script::new().report(&json).report(&json)).await;
    let e = pool.remove(&moved).await.unwrap_err();
    assert!(e.message().contains(merging.id.as_str()), "{e}");
}

#[tokio::test]
async fn what_is_cached_or_moved_is_not_grown_cut_or_removed() {
    let (json, [cached, _, _, _, moved]) = disturbed();
    let of_moved = format!("\"origin\":\"{}\"", names::of(&moved.id));
    let alone = json
        .replace("Swi-a-s---", "-wi-a-----")
        .replace(&of_moved, "\"origin\":\"\"");
    assert_ne!(alone, json);
    for (record, kind, way_out) in [
        (&cached, Kind::Precondition, "lvconvert --splitcache"),
        (&moved, Kind::Pending, "pvmove"),
    ] {
        let script = Script::new().report(&alone).report(&alone);
        let pool = thick(script.report(&alone).report(&alone)).await;
        for refused in [
            pool.grow(record, Bytes::gib(1)).await.map(drop),
            pool.snapshot(record, &snapshot("new", record)).await,
            pool.remove(record).await.map(drop),
        ] {
            let e = refused.unwrap_err();
            assert!(e.message().contains(way_out), "{e}");
            assert_eq!(e.kind(), kind, "{e}");
        }
    }
}

#[tokio::test]
async fn a_leftover_that_is_a_part_of_another_lv_is_not_wiped() {
    let handle = "stowage-x-00112233aabbccdd";
    let (_, tags) = of(&volume("v"));
    let json = group(&[row(
        &format!("[{handle}_cvol]"),
        "Cwi-aoC---",
        "",
        "",
        &tags,
    )]);
    let pool = thick(Script::new().report(&json).report(&json).report(&json)).await;
    let leftover = Leftover {
        handle: handle.into(),
        size: Bytes(0),
    };
    let purged = pool.purge(&leftover, &Arc::new(Progress::new())).await;
    assert_eq!(purged.unwrap_err().kind(), Kind::Precondition);
    // Its id is free, since it was removed.
    pool.remove(&volume("v")).await.unwrap();
}

#[tokio::test]
async fn the_parts_of_a_raid1_bear_its_tags_and_are_no_volumes() {
    let (name, tags) = of(&volume("v"));
    let condemned = "stowage-x-00112233aabbccdd";
    let half = vec![tags::HALF.to_owned()];
    for (whole, tags) in [(&name[..], &tags), (&name[..], &half), (condemned, &tags)] {
        let part = format!("[{whole}_rmeta_0]");
        let json = group(&[
            row(whole, "rwi-a-r---", "", "", tags),
            row(&part, "ewi-aor---", "", "", tags),
        ]);
        let script = Script::new().report(&json).report(&json);
        let script = match whole == condemned {
            true => script.report(&json),
            false => script,
        };
        let pool = thick(script).await;
        let scan = pool.scan().await.unwrap();
        assert_eq!(scan.defects, [], "{whole}");
        assert_eq!(scan.found.len() + scan.leftovers.len(), 1, "{whole}");
        assert_eq!(pool.tend().await.unwrap(), [], "{whole}");
        if whole == condemned {
            pool.remove(&volume("v")).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_snapshot_whose_store_is_converted_is_no_leftover() {
    let origin = volume("v");
    let (cut, tags) = of(&snapshot("s", &origin));
    for attr in ["cwi-a-s---", "rwi-a-r---"] {
        let rows = [
            row(&names::of(&origin.id), "owi-a-s---", "", "", &of(&origin).1),
            row(&cut, attr, &names::of(&origin.id), "", &tags),
        ];
        let json = group(&rows);
        let scan = thick(Script::new().report(&json).report(&json)).await;
        let scan = scan.scan().await.unwrap();
        assert_eq!((scan.found.len(), scan.leftovers.len()), (2, 0), "{attr}");
    }
}

#[tokio::test]
async fn a_renamed_thin_volume_is_its_pools_and_is_not_gone() {
    let t = volume("t");
    let json = GROUP.replace(&names::of(&t.id), "theirs-now");
    let options = thin::Options {
        name: PoolName::new("fast").unwrap(),
        vg: "vg-0".into(),
        thin_pool: "tp".into(),
        overprovision: 2.0,
        data_limit: thin::Options::DATA_LIMIT,
        metadata_limit: thin::Options::METADATA_LIMIT,
        reserve: Reserve::default(),
    };
    let script = Script::new().report(&json).report(&json).report(&json);
    let pool = ThinPool::open(options, Arc::new(script)).await.unwrap();
    let scan = pool.scan().await.unwrap();
    assert!(
        scan.defects
            .iter()
            .any(|defect| matches!(defect, Defect::Astray { ids, .. } if *ids == [t.id.clone()]))
    );
    let e = pool.remove(&t).await.unwrap_err();
    assert!(e.message().contains("lvrename"), "{e}");
}

#[tokio::test]
async fn upkeep_looks_when_a_part_of_another_lv_appears_and_not_otherwise() {
    let (json, [cached, ..]) = disturbed();
    let lv = names::of(&cached.id);
    let dm_name = names::dm("vg-0", &lv);
    let (root, devices) = dm::fake::sysfs(&[(&dm_name, false, 0)]);
    let group = vg(Script::new().report(&json), devices);
    group.look_if_disturbed().await.unwrap();
    group.look_if_disturbed().await.unwrap();
    assert_eq!(group.findings(), []);
    let part = root.path().join("dm-9/dm");
    std::fs::create_dir_all(&part).unwrap();
    std::fs::write(part.join("name"), format!("{dm_name}_wcorig\n")).unwrap();
    group.look_if_disturbed().await.unwrap();
    group.look_if_disturbed().await.unwrap();
    let findings = group.findings();
    let of_cached = findings.iter().find(|f| f.subject == cached.id.as_str());
    let of_cached = of_cached.expect("told");
    assert_eq!(of_cached.trouble, Trouble::Foreign);
    assert!(of_cached.mend.contains("lvconvert --splitcache"));
    assert_eq!(findings.len(), 4, "{findings:?}");
}

#[test]
fn parts_of_lvs_are_told_from_lvs() {
    let report = report::parse(&disturbed().0).unwrap();
    assert_eq!(report.lvs.len(), 3);
    assert!(report.hidden.iter().all(|lv| !lv.name.contains('[')));
    let cached = &report.lvs[0];
    assert_eq!(cached.cache.as_deref(), Some("fast_cvol"));
    assert_eq!((&cached.pool, &cached.origin), (&None, &None));
    assert!(!cached.is_cow());
}
