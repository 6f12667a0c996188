use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;
use stowage_host::Runner;
use stowage_model::PoolConfig;
use stowage_model::Pools;

use async_trait::async_trait;
use stowage_host::{Cmd, CmdError, Output};
use stowage_model::{Kind, Volumes as _};
use stowage_pool::Pool as _;
use tokio::sync::Notify;

use super::*;
use crate::testing::Bench;

/// Commands that never end, as on a disk that hangs.
#[derive(Default)]
struct Hanging(Notify);

#[async_trait]
impl Runner for Hanging {
    async fn run(&self, _: Cmd) -> Result<Output, CmdError> {
        self.0.notify_one();
        std::future::pending().await
    }
}

/// LVM on a machine without volume groups.
struct NoGroups;

#[async_trait]
impl Runner for NoGroups {
    async fn run(&self, cmd: Cmd) -> Result<Output, CmdError> {
        let stdout = match format!("{cmd:?}").contains("\"version\"") {
            true => "  LVM version:     2.03.16(2) (2022-05-18)\n",
            false => r#"{"report": [{"vg": [], "pv": [], "lv": [], "pvseg": [], "seg": []}]}"#,
        };
        Ok(Output {
            stdout: stdout.to_owned(),
            ..Output::default()
        })
    }
}

fn files(name: &str, path: &Path) -> PoolConfig {
    let text = serde_json::json!({"name": name, "kind": "file", "path": path});
    serde_json::from_value(text).unwrap()
}

fn group(name: &str, vg: &str) -> PoolConfig {
    let text = serde_json::json!({"name": name, "kind": "lvm", "vg": vg});
    serde_json::from_value(text).unwrap()
}

/// A node whose commands hang, in the middle of making the pool `c` of `disk`.
async fn making(disk: &Path) -> Bench {
    let runner = Arc::new(Hanging::default());
    let dir = tempfile::tempdir().unwrap();
    // So that the state directory is looked at again and again.
    std::fs::create_dir(dir.path().join("pools")).unwrap();
    std::fs::write(dir.path().join("pools/damaged.json"), "{").unwrap();
    let bench = Bench::over(dir, Arc::clone(&runner) as Arc<dyn Runner>).await;
    let (local, disk) = (bench.local.clone(), disk.to_owned());
    tokio::spawn(async move { local.create_pool(group("c", "c"), &[disk], false).await });
    runner.0.notified().await;
    bench
}

#[tokio::test(start_paused = true)]
async fn a_pool_in_the_making_on_a_disk_that_hangs_holds_up_neither_upkeep_nor_another() {
    let dir = tempfile::tempdir().unwrap();
    let bench = making(&dir.path().join("disk")).await;
    let before = bench.a.tended.load(Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(60)).await;
    let tended = bench.a.tended.load(Ordering::SeqCst) - before;
    assert!(tended >= 19, "{tended}");
    let damaged = bench.local.node.pools_dir().join("damaged.json");
    std::fs::remove_file(damaged).unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(bench.local.findings().await.unwrap(), []);
    let other = files("d", &dir.path().join("d"));
    let made = bench.local.create_pool(other, &[], false);
    let made = tokio::time::timeout(Duration::from_secs(1), made).await;
    assert_eq!(made.unwrap().unwrap().name.as_str(), "d");
}

#[tokio::test(start_paused = true)]
async fn what_a_pool_in_the_making_has_is_not_given_to_another() {
    let dir = tempfile::tempdir().unwrap();
    let (disk, link) = (dir.path().join("disk"), dir.path().join("link"));
    std::fs::write(&disk, "").unwrap();
    std::os::unix::fs::symlink(&disk, &link).unwrap();
    let bench = making(&disk).await;
    let make = |config: PoolConfig, disk: &Path| {
        let (local, disks) = (bench.local.clone(), [disk.to_owned()]);
        async move {
            let made = local.create_pool(config, &disks, true);
            let made = tokio::time::timeout(Duration::from_secs(1), made).await;
            made.unwrap().unwrap_err()
        }
    };
    let other = dir.path().join("other");
    let name = make(group("c", "x"), &other).await;
    assert_eq!(name.kind(), Kind::Pending, "{name}");
    let place = make(group("x", "c"), &other).await;
    assert_eq!(place.kind(), Kind::Invalid, "{place}");
    let taken = make(group("x", "x"), &link).await;
    assert_eq!(taken.kind(), Kind::Pending, "{taken}");
    let extended = bench.local.extend_pool(bench.a.name(), &[link], true).await;
    assert_eq!(extended.unwrap_err().kind(), Kind::Pending);
}

#[tokio::test]
async fn a_pool_that_could_not_be_made_leaves_its_name_place_and_disks() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::new().await;
    let at = dir.path().join("file");
    std::fs::write(&at, "in the way").unwrap();
    for _ in 0..2 {
        let refused = bench.local.create_pool(files("c", &at), &[], false).await;
        let refused = refused.unwrap_err();
        assert_ne!(refused.kind(), Kind::Exists, "{refused}");
        assert_ne!(refused.kind(), Kind::Pending, "{refused}");
        let disks = std::slice::from_ref(&at);
        let refused = bench.local.create_pool(files("c", &at), disks, false).await;
        assert_eq!(refused.unwrap_err().kind(), Kind::Invalid);
    }
    std::fs::remove_file(&at).unwrap();
    let made = bench.local.create_pool(files("c", &at), &[], false).await;
    assert_eq!(made.unwrap().name.as_str(), "c");
    let again = bench.local.create_pool(files("c", &at), &[], false).await;
    assert_eq!(again.unwrap_err().kind(), Kind::Exists);
}

#[tokio::test]
async fn a_pool_on_a_group_that_is_not_there_is_refused_and_not_kept() {
    let bench = Bench::over(tempfile::tempdir().unwrap(), Arc::new(NoGroups)).await;
    for _ in 0..2 {
        let refused = bench
            .local
            .create_pool(group("c", "typo"), &[], false)
            .await;
        let refused = refused.unwrap_err();
        assert!(refused.message().contains("typo"), "{refused}");
        assert_ne!(refused.kind(), Kind::Exists, "{refused}");
    }
    assert!(!bench.local.node.pools_dir().join("c.json").exists());
    assert_eq!(bench.local.findings().await.unwrap(), []);
}
