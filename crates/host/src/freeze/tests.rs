use super::*;
use crate::testing::{Disk, Mounted};
use std::io::BufRead;
use std::time::Instant;

const BOUND: Duration = Duration::from_secs(10);

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

    /// As a backup does.
    fn freeze(&self) -> Result<(), Errno> {
        freeze_open(&File::open(self.path()).unwrap())
    }

    fn guarded(&self, bound: Duration) -> Result<Guard, FsError> {
        Guard::freeze(&helper(), &[self.path().to_owned()], &[], bound)
    }

    fn frozen(&self) -> bool {
        // FIFREEZE answers EBUSY on a frozen file system; if it was not, it must not stay so.
        match self.freeze() {
            Ok(()) => {
                assert!(thaw(self.path()).unwrap());
                false
            }
            Err(error) => {
                assert_eq!(error, Errno::BUSY);
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
    fixture.freeze().unwrap();
    assert_eq!(fixture.freeze(), Err(Errno::BUSY));
    let path = fixture.path().join("note");
    let writer = std::thread::spawn(move || std::fs::write(path, "x"));
    std::thread::sleep(Duration::from_millis(200));
    assert!(!writer.is_finished());
    assert!(thaw(fixture.path()).unwrap());
    writer.join().unwrap().unwrap();
}

#[test]
fn what_cannot_be_frozen_is_named_and_the_rest_thawed() {
    let fixture = Fixture::new();
    let paths = [fixture.path().to_owned(), "/proc".into()];
    let error = Guard::freeze(&helper(), &paths, &[], BOUND).unwrap_err();
    assert_eq!(error.to_string(), "failed to freeze /proc");
    assert_eq!(error.errno(), Some(Errno::OPNOTSUPP));
    assert!(fixture.thawed_within(Duration::from_secs(5)));
}

#[test]
fn a_freeze_of_others_is_kept() {
    let (theirs, other) = (Fixture::new(), Fixture::new());
    theirs.freeze().unwrap();
    let paths = [other.path().to_owned(), theirs.path().to_owned()];
    let error = Guard::freeze(&helper(), &paths, &[], BOUND).unwrap_err();
    assert_eq!(error.errno(), Some(Errno::BUSY));
    assert!(other.thawed_within(Duration::from_secs(5)));
    assert!(theirs.frozen(), "what a backup froze was thawed");
}

#[test]
fn release_thaws_and_tells_that_it_was_in_time() {
    let fixture = Fixture::new();
    let guard = fixture.guarded(BOUND).unwrap();
    assert!(fixture.frozen());
    assert!(guard.release().unwrap());
    assert!(!fixture.frozen());
}

#[test]
fn the_bound_thaws_and_release_tells_that_it_was_late() {
    let fixture = Fixture::new();
    let guard = fixture.guarded(Duration::from_millis(300)).unwrap();
    assert!(fixture.thawed_within(Duration::from_secs(5)));
    assert!(!guard.release().unwrap());
}

#[test]
fn a_dropped_guard_thaws() {
    let fixture = Fixture::new();
    drop(fixture.guarded(Duration::from_secs(60)).unwrap());
    assert!(fixture.thawed_within(Duration::from_secs(5)));
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
    for exe in [&helper(), Path::new("/no/such/exe")] {
        let refused = Guard::freeze(exe, &["/no/such/place".into()], &[], BOUND);
        assert!(
            refused
                .unwrap_err()
                .to_string()
                .starts_with("failed to start the thaw guard")
        );
    }
}
