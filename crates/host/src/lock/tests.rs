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

/// As in a container with a `/run`, a `/dev` and a `/proc` of its own, in which the test runs once more.
#[tokio::test]
async fn a_claim_excludes_daemons_in_containers_with_directories_of_their_own() {
    const INSIDE: &str = "STOWAGE_TEST_CLAIM";
    let dir = tempfile::tempdir().unwrap();
    let locks = Locks::new(dir.path()).of_kernel();
    if let Ok(name) = std::env::var(INSIDE) {
        let claim = locks.claim(&name, Duration::ZERO).await;
        println!("said: {claim:?}");
        return;
    }
    crate::testing::require_root();
    let name = format!("claim@test@{}", std::process::id());
    let inside = || {
        let script = "mount -t tmpfs tmpfs /dev && mknod /dev/null c 1 3 && \
                      exec \"$0\" --exact --nocapture lock::tests::\
                      a_claim_excludes_daemons_in_containers_with_directories_of_their_own";
        let out = Command::new("unshare")
            .args(["-m", "-p", "-f", "--mount-proc", "sh", "-c", script])
            .arg(std::env::current_exe().unwrap())
            .env(INSIDE, &name)
            .output()
            .unwrap();
        String::from_utf8_lossy(&out.stdout).into_owned()
    };
    let claim = locks.claim(&name, Duration::ZERO).await.unwrap();
    let refused = inside();
    assert!(refused.contains("said: Err(Held"), "{refused}");
    // Elsewhere on the machine, too.
    let other = tempfile::tempdir().unwrap();
    let other = Locks::new(other.path()).of_kernel();
    let refused = other.claim(&name, Duration::ZERO).await.unwrap_err();
    assert!(
        refused
            .to_string()
            .contains(&format!("/dev/stowage/{name}")),
        "{refused}"
    );
    other.claim("claim@test@other", SOON).await.unwrap();
    drop(claim);
    let taken = inside();
    assert!(taken.contains("said: Ok("), "{taken}");
    std::fs::remove_file(Path::new(OF_KERNEL).join(&name)).unwrap();
    std::fs::remove_file(Path::new(OF_KERNEL).join("claim@test@other")).unwrap();
}
