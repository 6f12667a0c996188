use super::*;
use crate::vg::samples::{EMPTY, GROUP, PARTIAL};

#[test]
fn a_report_is_read() {
    let report = parse(GROUP).unwrap();
    assert_eq!(report.vg.extent, Bytes::mib(4));
    assert_eq!(report.vg.size, Bytes(2_139_095_040));
    assert_eq!(report.free(), Bytes(1_669_332_992));
    assert_eq!(report.vg.tags, ["stowage.pool=fast"]);
    let pvs: Vec<_> = report
        .pvs
        .iter()
        .map(|pv| (pv.name.as_str(), pv.missing))
        .collect();
    assert_eq!(pvs, [("/dev/ubdb", false), ("/dev/ubdc", false)]);
    assert_eq!(
        report.lvs.len(),
        16,
        "one row each, none of LVM's hidden ones"
    );
}

#[test]
fn the_letters_of_lvs_are_understood() {
    let report = parse(GROUP).unwrap();
    let lv = |end: &str| report.lvs.iter().find(|lv| lv.name.ends_with(end)).unwrap();
    let cow = lv("043a718774c572bd8a25adbeb1bfcd5c");
    assert!(cow.is_cow() && !cow.is_lost() && !cow.is_open());
    assert_eq!(
        (cow.size, cow.origin_size),
        (Bytes::mib(16), Some(Bytes::mib(60)))
    );
    assert_eq!(cow.data_percent, Some(75.34));
    let lost = lv("a18b869b2e81c0c529552a3c4fa5c92e");
    assert!(lost.is_cow() && lost.is_lost());
    let raid = lv("62c66a7a5dd70c3146618063c344e531");
    assert_eq!((raid.copies(), raid.state()), (2, State::Active));
    let pool = lv("tp");
    assert!(pool.is_thin_pool() && pool.zeroes && pool.illness().is_none());
    assert_eq!(
        (pool.data_percent, pool.metadata_percent),
        (Some(10.0), Some(10.55))
    );
    let skipped = lv("44ad63f60af0f6db6fdde6d5186ef781");
    assert_eq!(
        (skipped.thin_id, skipped.state()),
        (Some(2), State::Inactive)
    );
    assert_eq!(
        report
            .cows_of("stowage-v-4c94485e0c21ae6c41ce1dfe7b6bface")
            .count(),
        1
    );
}

#[test]
fn a_group_without_volumes_and_one_without_a_disk_are_read() {
    assert_eq!(parse(EMPTY).unwrap().lvs, []);
    let partial = parse(PARTIAL).unwrap();
    assert_eq!(partial.vg.missing_pvs, 1);
    assert!(partial.pvs.iter().any(|pv| pv.missing));
    assert_eq!(partial.lvs.len(), 16);
}

#[test]
fn a_report_that_makes_no_sense_is_told() {
    for bad in ["", "{}", r#"{"report":[]}"#, r#"{"report":[{"vg":[]}]}"#] {
        assert!(parse(bad).is_err(), "{bad}");
    }
    let e = parse(&GROUP.replace("675282944", "1.6g")).unwrap_err();
    assert!(e.message().contains("pv_free"), "{e}");
    let dead = Lv {
        attr: "twi-cotz--".into(),
        name: "tp".into(),
        ..Lv::default()
    };
    assert!(dead.illness().unwrap().contains("needs a check"));
    let stray = Lv {
        attr: "-wi-i-----".into(),
        ..Lv::default()
    };
    assert_eq!(stray.state(), State::Broken);
}
