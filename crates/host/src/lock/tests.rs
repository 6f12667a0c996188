use super::*;
use std::process::{Child, Command};

const SOON: Duration = Duration::from_secs(20);

fn sleeper(lock: &Lock) -> Child {
    let mut sleep = Command::new("sleep");
    sleep.arg("60").stdin(lock.stdin().unwrap());
    sleep.spawn().unwrap()
}

#[tokio::test]
async fn a_second_daemon_is_refused_and_a_drop_frees() {
    let dir = tempfile::tempdir().unwrap();
    let first = Lock::of_directory(dir.path(), Duration::ZERO)
        .await
        .unwrap();
    let refused = Lock::of_directory(dir.path(), Duration::ZERO).await;
    assert!(
        matches!(refused, Err(LockError::Held { .. })),
        "{refused:?}"
    );
    let noted = std::fs::read_to_string(dir.path().join("lock")).unwrap();
    assert_eq!(noted.trim(), std::process::id().to_string());
    drop(first);
    // A child that another test forks has it until its exec.
    Lock::of_directory(dir.path(), SOON).await.unwrap();
}

#[tokio::test]
async fn no_child_has_a_lock_that_it_was_not_given() {
    let dir = tempfile::tempdir().unwrap();
    let lock = Lock::of_directory(dir.path(), Duration::ZERO)
        .await
        .unwrap();
    let mut child = Command::new("sleep").arg("60").spawn().unwrap();
    drop(lock);
    let again = Lock::of_directory(dir.path(), SOON).await;
    child.kill().unwrap();
    child.wait().unwrap();
    again.unwrap();
}

#[tokio::test]
async fn a_command_that_outlives_its_daemon_keeps_what_it_was_given_and_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let locks = Locks::new(dir.path().join("locks"));
    let lock = locks.take("change@vg", Duration::ZERO).await.unwrap();
    let mut child = sleeper(&lock);
    // What kill -9 does to the daemon's own descriptor.
    drop(lock);
    let refused = locks.take("change@vg", Duration::from_millis(100)).await;
    let named = Holder {
        pid: child.id(),
        comm: "sleep".into(),
    };
    assert_eq!(locks.holders("change@vg"), Some(vec![named]));
    assert_eq!(locks.held("change@"), ["change@vg"]);
    // Others are not concerned.
    locks.take("change@other", Duration::ZERO).await.unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let said = refused.unwrap_err().to_string();
    assert!(
        said.contains(&format!("pid {} (sleep)", child.id())),
        "{said}"
    );
    locks.take("change@vg", SOON).await.unwrap();
    assert_eq!(locks.holders("change@vg"), None);
}

#[tokio::test]
async fn a_lock_that_is_discarded_leaves_no_file_and_excludes_whoever_waited() {
    let dir = tempfile::tempdir().unwrap();
    let locks = Locks::new(dir.path());
    let first = locks.take("a", Duration::ZERO).await.unwrap();
    let waiter = tokio::spawn({
        let locks = locks.clone();
        async move { locks.take("a", SOON).await.unwrap() }
    });
    tokio::time::sleep(RETRY * 3).await;
    first.discard();
    let second = waiter.await.unwrap();
    assert!(second.is_in_place());
    let third = locks.take("a", Duration::ZERO).await;
    assert!(matches!(third, Err(LockError::Held { .. })), "{third:?}");
    second.discard();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn what_cannot_be_written_is_locked_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    // No file can be made there: the name is taken by a directory.
    std::fs::create_dir(dir.path().join("lock")).unwrap();
    let first = Lock::of_directory(dir.path(), Duration::ZERO)
        .await
        .unwrap();
    let second = Lock::of_directory(dir.path(), Duration::ZERO).await;
    assert!(matches!(second, Err(LockError::Held { .. })), "{second:?}");
    drop(first);
}
