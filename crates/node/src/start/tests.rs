use crate::config::Options;
use crate::local::Local;
use crate::recover::state_dir::look_at_state;
use crate::state::attachments::Publication;
use crate::state::journal::{Intent, Journal};
use crate::state::nesting::Paths;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use stowage_model::PoolConfig;
use stowage_model::Pools;
use stowage_model::volumes::Trouble;

use stowage_model::id::Role;
use stowage_model::request::{AccessMode, Layout, Placement, Provisioning};
use stowage_model::volumes::{Capacity, PoolStatus, Volumes};
use stowage_model::{Id, Kind, Name, Publish, VolumeRequest};
use tokio::time::Instant;

use super::*;
use crate::testing::{Bench, wanted};

/// What only informs is told within it.
const SECOND: Duration = Duration::from_secs(1);

fn of<'a>(all: &'a [PoolStatus], name: &str) -> &'a PoolStatus {
    all.iter().find(|p| p.name.as_str() == name).unwrap()
}

#[tokio::test(start_paused = true)]
async fn calls_are_answered_soon_though_a_pool_hangs_at_the_start() {
    let begun = Instant::now();
    let bench = Bench::prepared(|_, b| b.silent.store(true, Ordering::SeqCst)).await;
    assert!(
        begun.elapsed() < Duration::from_secs(2),
        "{:?}",
        begun.elapsed()
    );
    bench.local.ready().unwrap();
    // The other pool is served at once.
    let asked = Instant::now();
    let id = bench.volume("v").await;
    let told = bench.local.pools().await.unwrap();
    assert_eq!(of(&told, "a").problem, None);
    assert!(of(&told, "b").problem.as_deref().unwrap().contains("read"));
    let found = bench.local.findings().await.unwrap();
    assert!(found.iter().any(|f| f.subject == "b"), "{found:?}");
    bench.local.delete(&id).await.unwrap();
    assert!(
        asked.elapsed() < Duration::from_secs(1),
        "{:?}",
        asked.elapsed()
    );
    // What it may hold is not taken for gone.
    let refused = bench.local.delete(&id).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Unavailable);
    let refused = bench.local.create(wanted("w", "b", None)).await;
    assert_eq!(refused.unwrap_err().kind(), Kind::Unavailable);
}

#[tokio::test(start_paused = true)]
async fn a_pool_that_waits_for_a_command_of_a_dead_daemon_is_read_when_that_has_ended() {
    let bench = Bench::prepared(|_, b| b.waits.store(true, Ordering::SeqCst)).await;
    let told = bench.local.pools().await.unwrap();
    let problem = of(&told, "b").problem.clone().unwrap();
    assert!(problem.contains("lvcreate is still at work"), "{problem}");
    let made = tokio::spawn({
        let local = bench.local.clone();
        async move { local.create(wanted("w", "b", None)).await }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    bench.b.waits.store(false, Ordering::SeqCst);
    // Whoever asked meanwhile has waited for it.
    made.await.unwrap().unwrap();
    assert_eq!(of(&bench.local.pools().await.unwrap(), "b").problem, None);
}

#[tokio::test(start_paused = true)]
async fn a_pool_that_does_not_answer_is_asked_once_and_told_as_it_was_known() {
    let bench = Bench::new().await;
    let known = bench.local.pools().await.unwrap();
    assert_eq!(
        (of(&known, "b").problem.clone(), of(&known, "b").age),
        (None, None)
    );
    bench.b.silent.store(true, Ordering::SeqCst);
    let before = bench.b.asked.load(Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(5)).await;
    // It may only be slow.
    let told = bench.local.pools().await.unwrap();
    assert_eq!(of(&told, "b").problem, None);
    assert_eq!(of(&told, "b").free, of(&known, "b").free);
    assert!(of(&told, "b").age >= Some(5), "{told:?}");
    tokio::time::sleep(Duration::from_secs(3)).await;
    for _ in 0..20 {
        let asked = Instant::now();
        let told = bench.local.pools().await.unwrap();
        assert!(asked.elapsed() < SECOND, "{:?}", asked.elapsed());
        let asked = Instant::now();
        bench.local.findings().await.unwrap();
        assert!(asked.elapsed() < SECOND, "{:?}", asked.elapsed());
        assert_eq!(of(&told, "a").problem, None);
        let b = of(&told, "b");
        let problem = b.problem.as_deref().unwrap();
        assert!(problem.contains("has not answered"), "{problem}");
        assert_eq!(b.total, of(&known, "b").total);
        assert!(b.age >= Some(8), "{:?}", b.age);
    }
    let asked = bench.b.asked.load(Ordering::SeqCst) - before;
    assert_eq!(asked, 1, "questions pile up");
}

#[tokio::test(start_paused = true)]
async fn what_only_all_pools_tell_waits_for_the_last_of_them() {
    let dir = tempfile::tempdir().unwrap();
    let id = Id::derive(Role::Volume, &Name::new("gone").unwrap());
    let journal = Journal::new(dir.path().join("journal"));
    journal.prepare().unwrap();
    journal.write(&id, &Intent::Format).unwrap();
    let bench = Bench::at(dir, |_, b| b.waits.store(true, Ordering::SeqCst)).await;
    assert_eq!(journal.read(&id).unwrap(), Some(Intent::Format));
    bench.b.waits.store(false, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(journal.read(&id).unwrap(), None);
}

#[tokio::test]
async fn damage_in_the_state_directory_is_told_and_over_when_it_is_mended() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    for folder in ["pools", "journal", "attachments"] {
        std::fs::create_dir(at(folder)).unwrap();
        std::fs::write(at(folder).join("junk.json"), "{").unwrap();
    }
    let paths: Vec<_> = ["pools", "journal", "attachments"]
        .map(|folder| at(folder).join("junk.json"))
        .to_vec();
    let bench = Bench::at(dir, |_, _| ()).await;
    bench.volume("v").await;
    let found = bench.local.findings().await.unwrap();
    for path in &paths {
        let named = |f: &&Finding| f.what.contains(path.to_str().unwrap());
        assert_eq!(found.iter().filter(named).count(), 1, "{path:?}: {found:?}");
        std::fs::remove_file(path).unwrap();
    }
    look_at_state(&bench.local.node, false).await;
    assert_eq!(bench.local.findings().await.unwrap(), []);
}

/// A definition of pool c that cannot be used, in ways that happen.
fn damages() -> Vec<(&'static str, String)> {
    let of = |more: &str| format!("{{\"name\": \"c\", \"kind\": \"lvm\", \"vg\": \"x\"{more}}}");
    vec![
        ("torn", "{".to_owned()),
        ("of a newer version", of(", \"shelf\": 7")),
        ("of no such kind", of("").replace("lvm", "zfs")),
        (
            "not its own place",
            "{\"name\": \"c\", \"kind\": \"file\", \"path\": \"/\"}".to_owned(),
        ),
    ]
}

/// Nothing that may be in a pool that is not served counts as gone, and what is elsewhere is served.
async fn gone_is_not_told(bench: &Bench, what: &str) -> Id {
    let local = &bench.local;
    let id = Id::derive(Role::Volume, &Name::new("in-c").unwrap());
    let refused = |e: Error| {
        assert_eq!(e.kind(), Kind::Unavailable, "{what}: {e}");
        assert!(e.message().contains("pools"), "{what}: {e}");
    };
    refused(local.delete(&id).await.unwrap_err());
    let cut = Id::derive(Role::Snapshot, &Name::new("in-c").unwrap());
    refused(local.delete_snapshot(&cut).await.unwrap_err());
    // In use, as is noted.
    let target = bench.cgroups.join("target");
    let noted = local.node.attachments().update(&id, {
        let target = target.clone();
        let publication = Publication {
            block: false,
            read_only: false,
            mode: AccessMode::SingleNodeWriter,
            cgroup: None,
            holders: Default::default(),
        };
        move |a| drop(a.targets.insert(target, publication))
    });
    noted.await.unwrap();
    refused(local.unpublish(&id, &target).await.unwrap_err());
    let anywhere = Placement::default();
    let want = |name: &str, placement: &Placement| VolumeRequest {
        placement: placement.clone(),
        ..wanted(name, "a", None)
    };
    refused(local.create(want("in-c", &anywhere)).await.unwrap_err());
    refused(local.create(wanted("new", "c", None)).await.unwrap_err());
    let room = |choice: Placement| async move {
        let asked = local.capacity(&choice, Layout::Linear, Provisioning::Thin);
        asked.await.unwrap()
    };
    assert_eq!(room(anywhere).await, Capacity::default(), "{what}");
    let config = serde_json::json!({"name": "c", "kind": "file", "path": bench.cgroups});
    let config = serde_json::from_value(config).unwrap();
    refused(local.create_pool(config, &[], false).await.unwrap_err());
    // Who names another pool is not concerned.
    let in_a = wanted("v", "a", None);
    assert_ne!(room(in_a.placement.clone()).await, Capacity::default());
    let made = local.create(in_a).await.unwrap();
    local.delete(&made.record.id).await.unwrap();
    local.ready().unwrap();
    id
}

#[tokio::test(start_paused = true)]
async fn what_may_be_in_a_pool_whose_definition_cannot_be_used_is_not_taken_for_gone() {
    for (what, text) in damages() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pools/c.json");
        std::fs::create_dir(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        let noted = Id::derive(Role::Volume, &Name::new("noted").unwrap());
        let journal = Journal::new(dir.path().join("journal"));
        journal.prepare().unwrap();
        journal.write(&noted, &Intent::Format).unwrap();
        let bench = Bench::at(dir, |_, _| ()).await;
        let id = gone_is_not_told(&bench, what).await;
        let found = bench.local.findings().await.unwrap();
        let told = found.iter().find(|f| f.subject == "c").expect(what);
        assert_eq!(told.trouble, Trouble::PoolMissing);
        assert!(told.what.contains(path.to_str().unwrap()), "{told:?}");
        tokio::time::sleep(Duration::from_secs(60)).await;
        bench.local.delete(&id).await.expect_err(what);
        assert_eq!(journal.read(&noted).unwrap(), Some(Intent::Format));
        // It was not wanted any more.
        std::fs::remove_file(&path).unwrap();
        tokio::time::sleep(Duration::from_secs(60)).await;
        bench.local.delete(&id).await.unwrap();
        assert_eq!(bench.local.findings().await.unwrap(), []);
        assert_eq!(journal.read(&noted).unwrap(), None, "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn where_definitions_cannot_be_listed_nothing_is_taken_for_gone() {
    let dir = tempfile::tempdir().unwrap();
    let pools = dir.path().join("pools");
    // In the place of a directory on a disk that fails.
    std::fs::write(&pools, "").unwrap();
    let bench = Bench::at(dir, |_, _| ()).await;
    let id = gone_is_not_told(&bench, "unlisted").await;
    std::fs::remove_file(&pools).unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    bench.local.delete(&id).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_definition_that_was_mended_is_served_without_a_moment_of_doubt() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pools/c.json");
    std::fs::create_dir(path.parent().unwrap()).unwrap();
    std::fs::write(&path, "{").unwrap();
    let bench = Bench::at(dir, |_, _| ()).await;
    // Its file system is not there yet.
    std::fs::write(path.with_extension("seen"), "").unwrap();
    let config = serde_json::json!({"name": "c", "kind": "file", "path": bench.cgroups});
    std::fs::write(&path, config.to_string()).unwrap();
    look_at_state(&bench.local.node, false).await;
    let id = Id::derive(Role::Volume, &Name::new("in-c").unwrap());
    let refused = bench.local.delete(&id).await.unwrap_err();
    assert!(
        refused.message().contains("the pool c could not be read"),
        "{refused}"
    );
}

/// How often a path that hangs was asked for.
static ASKED: AtomicU32 = AtomicU32::new(0);

/// What `hung` leads to answers when the file `answers` is beside it, the others at once.
fn slow(path: &Path) -> PathBuf {
    if path.file_stem().is_some_and(|name| name == "hung") {
        ASKED.fetch_add(1, Ordering::SeqCst);
        // Not for ever: a daemon that waits for it fails the test.
        let given_up = std::time::Instant::now() + Duration::from_secs(20);
        while !path.with_file_name("answers").exists() && std::time::Instant::now() < given_up {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    crate::state::nesting::real(path)
}

#[tokio::test(start_paused = true)]
async fn a_pool_whose_path_hangs_is_unread_until_it_answers_and_in_nobodys_way() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        state_dir: dir.path().join("state"),
        program: PathBuf::from("/proc/self/exe"),
        ephemeral: Default::default(),
        lock_dir: dir.path().join("locks"),
    };
    let files = |name: &str, at: &str| -> PoolConfig {
        let text = serde_json::json!({"name": name, "kind": "file", "path": dir.path().join(at)});
        serde_json::from_value(text).unwrap()
    };
    // One is kept, two are configured.
    std::fs::create_dir_all(dir.path().join("state/pools")).unwrap();
    let kept = serde_json::to_vec(&files("kept", "hung.kept")).unwrap();
    std::fs::write(dir.path().join("state/pools/kept.json"), kept).unwrap();
    // This is seen to lie in another when it answers.
    std::os::unix::fs::symlink(dir.path().join("good/volumes"), dir.path().join("hung.in"))
        .unwrap();
    let configured = vec![
        files("away", "hung.away"),
        files("in", "hung.in"),
        files("good", "good"),
    ];
    let begun = std::time::Instant::now();
    let local = Local::start_with(options, configured, Paths::resolved_by(slow))
        .await
        .unwrap();
    let made = local.create(wanted("v", "good", None)).await.unwrap();
    local.delete(&made.record.id).await.unwrap();
    let refused = local
        .create_pool(files("made", "hung.made"), &[], false)
        .await;
    assert_eq!(refused.unwrap_err().kind(), Kind::Unavailable);
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "{:?}",
        begun.elapsed()
    );
    let problem = async |name: &str| of(&local.pools().await.unwrap(), name).problem.clone();
    assert_eq!(problem("good").await, None);
    // What it may hold is not taken for gone.
    assert_eq!(
        local.delete(&made.record.id).await.unwrap_err().kind(),
        Kind::Unavailable
    );
    tokio::time::sleep(Duration::from_secs(60)).await;
    for name in ["away", "in", "kept"] {
        let why = problem(name).await.unwrap();
        assert!(why.contains("does not answer"), "{name}: {why}");
    }
    assert_eq!(ASKED.load(Ordering::SeqCst), 4, "each is asked once");
    std::fs::write(dir.path().join("answers"), "").unwrap();
    let in_time = std::time::Instant::now() + Duration::from_secs(10);
    while problem("away").await.is_some() || problem("kept").await.is_some() {
        assert!(
            std::time::Instant::now() < in_time,
            "{:?}",
            problem("away").await
        );
        tokio::time::sleep(Duration::from_secs(48)).await;
    }
    let why = problem("in").await.unwrap();
    assert!(
        why.contains("lies where the pool good keeps its volumes"),
        "{why}"
    );
    let made = local
        .create_pool(files("made", "hung.made"), &[], false)
        .await;
    assert_eq!(made.unwrap().problem, None);
}
