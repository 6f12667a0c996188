use super::*;
use crate::testing::{Disk, Mounted};
use std::io::BufRead;
use std::time::Instant;

/// Built by `cargo test` along with the tests (not by `cargo test --lib`).
fn helper() -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    let helper = exe
        .parent()
        .unwrap()
        .parent()
        .unwrap()
        .join("examples/thaw");
    assert!(
        helper.exists(),
        "{} is missing: run cargo test without --lib",
        helper.display()
    );
    helper
}

/// The mount before the disk: fields are dropped in order, and a frozen file system cannot be
/// unmounted, so it is thawed first.
struct Fixture {
    mounted: Mounted,
    _disk: Disk,
}

impl Fixture {
    fn new() -> Self {
        let disk = Disk::formatted("ext4");
        Self {
            mounted: disk.mounted("ext4"),
            _disk: disk,
        }
    }

    fn path(&self) -> &Path {
        &self.mounted.0
    }

    fn frozen(&self) -> bool {
        // FIFREEZE answers EBUSY on a frozen file system; if it was not, it must not stay so.
        match freeze(self.path()) {
            Ok(()) => {
                assert!(thaw(self.path()).unwrap());
                false
            }
            Err(error) => {
                assert_eq!(error.errno(), Some(Errno::BUSY), "{error}");
                true
            }
        }
    }

    fn thawed_within(&self, time: Duration) -> bool {
        let begun = Instant::now();
        while begun.elapsed() < time {
            if !self.frozen() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        false
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        let _ = thaw(&self.mounted.0);
    }
}

#[test]
fn a_frozen_file_system_takes_no_writes_until_thawed() {
    let fixture = Fixture::new();
    assert!(!thaw(fixture.path()).unwrap(), "it was not frozen");
    freeze(fixture.path()).unwrap();
    assert_eq!(
        freeze(fixture.path()).unwrap_err().errno(),
        Some(Errno::BUSY)
    );
    let path = fixture.path().join("note");
    let writer = std::thread::spawn(move || std::fs::write(path, "x"));
    std::thread::sleep(Duration::from_millis(200));
    assert!(!writer.is_finished());
    assert!(thaw(fixture.path()).unwrap());
    writer.join().unwrap().unwrap();
}

#[test]
fn proc_cannot_be_frozen() {
    let error = freeze(Path::new("/proc")).unwrap_err();
    assert_eq!(error.to_string(), "failed to freeze /proc");
    assert_eq!(error.errno(), Some(Errno::OPNOTSUPP));
}

#[test]
fn release_thaws_and_tells_that_it_was_in_time() {
    let fixture = Fixture::new();
    let paths = [fixture.path().to_owned()];
    let guard = Guard::arm(&helper(), &paths, BOUND).unwrap();
    freeze(fixture.path()).unwrap();
    assert!(guard.release().unwrap());
    assert!(!fixture.frozen());
}

#[test]
fn the_bound_thaws_and_release_tells_that_it_was_late() {
    let fixture = Fixture::new();
    let paths = [fixture.path().to_owned()];
    let guard = Guard::arm(&helper(), &paths, Duration::from_millis(300)).unwrap();
    freeze(fixture.path()).unwrap();
    assert!(fixture.thawed_within(Duration::from_secs(5)));
    assert!(!guard.release().unwrap());
}

#[test]
fn a_dropped_guard_thaws() {
    let fixture = Fixture::new();
    let guard = Guard::arm(&helper(), &[fixture.path().to_owned()], BOUND).unwrap();
    freeze(fixture.path()).unwrap();
    drop(guard);
    assert!(!fixture.frozen());
}

#[test]
fn a_killed_daemon_leaves_nothing_frozen() {
    let fixture = Fixture::new();
    let mut daemon = Command::new(helper())
        .args([Path::new("hold"), fixture.path()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    io::BufReader::new(daemon.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert_eq!(line, "frozen\n");
    assert!(fixture.frozen());
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    // Far below the 30 s bound of that guard.
    assert!(fixture.thawed_within(Duration::from_secs(5)));
}

#[test]
fn a_guard_that_cannot_watch_is_an_error() {
    let refused = Guard::arm(&helper(), &["/no/such/place".into()], BOUND);
    assert!(
        refused
            .unwrap_err()
            .to_string()
            .starts_with("failed to start the thaw guard")
    );
    assert!(Guard::arm(Path::new("/no/such/exe"), &[], BOUND).is_err());
}
