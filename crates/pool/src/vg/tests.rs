use super::samples::{EMPTY, FULL, GROUP, MISSING, PARTIAL, Steps, vg};
use super::*;
use stowage_host::Locks;
use stowage_host::fake::Script;
use stowage_model::Kind;

fn alone(script: Script) -> Vg {
    vg(script, dm::Devices::default())
}

#[tokio::test]
async fn a_missing_group_is_named_with_the_way_out() {
    let argv = report::command("vg-0").argv();
    let argv: Vec<_> = argv.iter().map(String::as_str).collect();
    let vg = alone(Script::new().fails(&argv, 5, MISSING));
    let e = vg.report().await.unwrap_err();
    assert_eq!(e.kind(), Kind::Precondition);
    assert!(e.message().contains("vg-0 is missing"), "{e}");
    assert_eq!(vg.findings()[0].trouble, Trouble::PoolMissing);
}

#[tokio::test]
async fn a_young_report_serves_twice_unless_something_changed() {
    let script = Script::new()
        .report(GROUP)
        .does("lvremove -y -q -f vg-0/x")
        .report(EMPTY);
    let vg = alone(script);
    vg.glance().await.unwrap();
    assert_eq!(vg.glance().await.unwrap().lvs.len(), 16);
    vg.lvremove("x").await.unwrap();
    assert!(vg.glance().await.unwrap().lvs.is_empty());
}

#[tokio::test]
async fn a_group_without_a_disk_is_a_problem() {
    let vg = alone(Script::new().report(PARTIAL));
    let report = vg.report().await.unwrap();
    let findings = vg.findings();
    assert_eq!(findings[0].trouble, Trouble::PoolMissing);
    let volumes = findings[1..].iter();
    assert!(
        volumes.clone().all(|f| f.trouble == Trouble::DeviceError),
        "{findings:?}"
    );
    // The raid1 has lost one of its two copies.
    assert!(
        volumes
            .map(|f| &f.subject)
            .any(|id| id == "v-62c66a7a5dd70c3146618063c344e531")
    );
    assert!(vg.problem().unwrap().contains("1 disk(s)"));
    assert_eq!(vg.whole(&report).unwrap_err().kind(), Kind::Precondition);
}

#[tokio::test(start_paused = true)]
async fn a_group_that_does_not_answer_is_left_alone_and_then_asked_again() {
    let argv = report::command("vg-0").argv();
    let argv: Vec<_> = argv.iter().map(String::as_str).collect();
    // A call that the script does not expect is a process too many.
    let script = Script::new()
        .report(GROUP)
        .times_out(&argv)
        .times_out(&argv)
        .report(GROUP);
    let vg = alone(script);
    let known = vg.report().await.unwrap();
    vg.report().await.unwrap_err();
    for _ in 0..5 {
        let e = vg.glance().await.unwrap_err();
        assert!(e.message().contains("vg-0 does not answer"), "{e}");
        vg.look_again().await;
    }
    assert!(vg.problem().is_some() && vg.recall().is_none());
    assert!(Arc::ptr_eq(&vg.known().unwrap().1, &known));
    tokio::time::sleep(Duration::from_secs(4)).await;
    vg.look_again().await;
    // Twice as long, the second time.
    tokio::time::sleep(Duration::from_secs(4)).await;
    vg.look_again().await;
    assert!(vg.problem().is_some());
    tokio::time::sleep(Duration::from_secs(4)).await;
    vg.look_again().await;
    assert!(vg.problem().is_none() && vg.findings().is_empty());
}

#[tokio::test]
async fn callers_that_come_together_share_a_report() {
    let script = Script::new().report(GROUP).report(GROUP);
    let vg = alone(script);
    let first = vg.ask().await.unwrap();
    let both = async { tokio::join!(vg.report(), vg.report()) };
    let ((one, other), ()) = tokio::join!(both, async {
        tokio::task::yield_now().await;
        drop(first);
    });
    assert!(Arc::ptr_eq(&one.unwrap(), &other.unwrap()));
    vg.report().await.unwrap();
}

#[tokio::test]
async fn one_daemon_has_a_group_and_commands_of_a_dead_one_are_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let locks = Locks::new(dir.path());
    let (vg, other) = (alone(Script::new()), alone(Script::new()));
    let left = locks.take("change@vg-0", Duration::ZERO).await.unwrap();
    assert_eq!(vg.claim(&locks).await.unwrap_err().kind(), Kind::Pending);
    drop(left);
    vg.claim(&locks).await.unwrap();
    vg.claim(&locks).await.unwrap();
    let e = other.claim(&locks).await.unwrap_err();
    assert_eq!(e.kind(), Kind::Precondition);
    assert!(e.message().contains("another daemon"), "{e}");
    drop(vg);
    other.claim(&locks).await.unwrap();
    // A thin pool in the group is another pool.
    let thin = alone(Script::new()).of_thin_pool("tp");
    thin.claim(&locks).await.unwrap();
}

/// In [`GROUP`] a thick volume with a snapshot.
const ORIGIN: &str = "stowage-v-4c94485e0c21ae6c41ce1dfe7b6bface";
/// In [`GROUP`] a volume of the thin pool `tp`.
const THIN: &str = "stowage-v-6bde0b830d8bd56dea61c5c1cb648c7f";

#[tokio::test]
async fn a_change_that_fails_leaves_no_writers_held() {
    let origin = names::dm("vg-0", ORIGIN);
    let real = names::dm_layer("vg-0", ORIGIN, "real");
    let others = names::dm("vg-0", THIN);
    let (_root, devices) = dm::fake::sysfs(&[
        (&origin, true, 0),
        (&real, true, 0),
        (&others, true, 0),
        ("vg--0-root", true, 0),
    ]);
    let script = Script::new()
        .times_out(&["lvremove", "-y", "-q", "-f", "vg-0/x"])
        .report(GROUP)
        .does(&format!("dmsetup resume {real}"))
        .does(&format!("dmsetup resume {origin}"));
    let e = vg(script, devices).lvremove("x").await.unwrap_err();
    assert_eq!(e.kind(), Kind::Internal);
}

#[tokio::test]
async fn a_thin_pool_is_let_go_before_its_volumes() {
    let (tpool, thin) = (
        names::dm_layer("vg-0", "tp", "tpool"),
        names::dm("vg-0", THIN),
    );
    let origin = names::dm("vg-0", ORIGIN);
    let (_root, devices) =
        dm::fake::sysfs(&[(&thin, true, 0), (&tpool, true, 0), (&origin, true, 0)]);
    let script = Script::new()
        .refuses("lvremove -y -q -f vg-0/x", "  disk on fire")
        .report(GROUP)
        .does(&format!("dmsetup resume {tpool}"))
        .does(&format!("dmsetup resume {thin}"));
    let vg = vg(script, devices).of_thin_pool("tp");
    vg.lvremove("x").await.unwrap_err();
}

#[tokio::test]
async fn what_is_held_for_a_snapshot_stays_held_when_another_change_fails() {
    let origin = names::dm("vg-0", ORIGIN);
    let (root, devices) = dm::fake::sysfs(&[(&origin, false, 0)]);
    let lvs = [ORIGIN.to_owned()];
    let script = Script::new()
        .does(&format!("dmsetup suspend {origin}"))
        .refuses("lvremove -y -q -f vg-0/x", "  disk on fire")
        .report(GROUP)
        .does(&format!("dmsetup resume {origin}"));
    let vg = vg(script, devices);
    vg.suspend(&lvs).await.unwrap();
    std::fs::write(root.path().join("dm-0/dm/suspended"), "1\n").unwrap();
    vg.lvremove("x").await.unwrap_err();
    vg.resume(&lvs).await.unwrap();
}

#[tokio::test]
async fn tags_change_in_one_commit_and_only_where_they_differ() {
    let script =
        Script::new().does("lvchange -y -q --deltag stowage.b=1 --addtag stowage.b=2 vg-0/v");
    let vg = alone(script);
    let old = ["stowage.a=1".to_owned(), "stowage.b=1".to_owned()];
    let new = ["stowage.a=1".to_owned(), "stowage.b=2".to_owned()];
    vg.note_tags("v", old.to_vec());
    vg.retag("v", &old, &new).await.unwrap();
    assert_eq!(vg.tags_of("v").await.unwrap(), new);
    vg.retag("v", &new, &new).await.unwrap();
}

#[tokio::test]
async fn tags_are_read_again_after_a_change_that_failed() {
    let script = Script::new()
        .refuses(
            "lvchange -y -q --addtag stowage.a=1 vg-0/stowage-v-x",
            "  disk on fire",
        )
        .report(EMPTY);
    let vg = alone(script);
    vg.note_tags("stowage-v-x", Vec::new());
    let e = vg
        .retag("stowage-v-x", &[], &["stowage.a=1".to_owned()])
        .await
        .unwrap_err();
    assert_eq!(e.kind(), Kind::Internal);
    assert!(e.chain().contains("disk on fire"), "{}", e.chain());
    assert_eq!(
        vg.tags_of("stowage-v-x").await.unwrap_err().kind(),
        Kind::NotFound
    );
}

#[test]
fn failures_are_told_apart_by_exit_code_first() {
    let vg = alone(Script::new());
    let failed = |code, stderr: &str| CmdError::Failed {
        argv: vec!["lvcreate".into()],
        code: Some(code),
        stderr: stderr.into(),
    };
    for (code, stderr, kind) in [
        (5, FULL, Kind::Full),
        (
            5,
            "  Insufficient free space: 25570 extents needed, but only 213 available",
            Kind::Full,
        ),
        (
            5,
            "  Insufficient suitable allocatable extents for logical volume r: 8 more required",
            Kind::Full,
        ),
        (5, MISSING, Kind::Precondition),
        (
            5,
            "  Cannot change VG vg0 while PVs are missing.",
            Kind::Precondition,
        ),
        (
            5,
            "  Logical volume vg0/t1 contains a filesystem in use.",
            Kind::Precondition,
        ),
        (5, "  Failed to suspend logical volume", Kind::Internal),
        (3, FULL, Kind::Internal),
    ] {
        assert_eq!(
            vg.explain(failed(code, stderr), "x").kind(),
            kind,
            "{stderr}"
        );
    }
}

#[test]
fn group_names_cannot_be_options() {
    for bad in ["", "-y", "a/b", "a b"] {
        let pool = PoolName::new("p").unwrap();
        let e = Vg::new(pool, bad.into(), Arc::new(Script::new()))
            .err()
            .unwrap();
        assert_eq!(e.kind(), Kind::Invalid, "{bad:?}");
    }
}
