//! One daemon at a time, and none while a command of a dead one still runs.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::{Errno, FdFlags, fcntl_setfd};

use crate::holders::{Holder, list, processes};

/// How often a held lock is tried again.
const RETRY: Duration = Duration::from_millis(50);

/// Why the lock was not had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process still has it.
    #[error("failed to lock {}: held by {}", path.display(), list(by))]
    Held {
        path: PathBuf,
        /// The processes that have the file open, as far as /proc shows them.
        by: Vec<Holder>,
    },
    #[error("failed to lock {}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// An exclusive flock(2) on a file, held until dropped *and* every command that inherited the open
/// file has ended.
///
/// An flock belongs to the open file, not to the process (flock(2)), and this file is not
/// close-on-exec. When the daemon dies by SIGKILL while, say, an `lvcreate` runs, that child keeps
/// the lock, so the next daemon waits for it rather than racing it. See
/// [`System::holding`](crate::System::holding) for the commands that close what they inherit.
#[derive(Debug)]
pub struct DaemonLock {
    file: File,
}

impl DaemonLock {
    /// Takes the lock on `path` (made with mode 0600 if missing), waiting at most `wait` for its
    /// holders. Blocks the thread. The file then contains our pid, for people.
    ///
    /// # Errors
    /// [`LockError::Held`] names the processes that have it.
    pub fn acquire(path: &Path, wait: Duration) -> Result<Self, LockError> {
        let failed = |source: io::Error| LockError::Io {
            path: path.to_owned(),
            source,
        };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(failed)?;
        let deadline = Instant::now() + wait;
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(Errno::WOULDBLOCK) if Instant::now() >= deadline => {
                    let by = openers(&file);
                    return Err(LockError::Held {
                        path: path.to_owned(),
                        by,
                    });
                }
                Err(Errno::WOULDBLOCK) => std::thread::sleep(RETRY),
                Err(error) => return Err(failed(error.into())),
            }
        }
        // Only the holder may be inherited: a waiting daemon's children must not block others.
        fcntl_setfd(&file, FdFlags::empty()).map_err(|error| failed(error.into()))?;
        file.set_len(0).map_err(failed)?;
        // Written, not pwritten: the offset must stand at the end, see System::holding.
        file.write_all(format!("{}\n", std::process::id()).as_bytes())
            .map_err(failed)?;
        Ok(Self { file })
    }

    /// Another descriptor of the same open file (this one close-on-exec).
    pub(crate) fn duplicate(&self) -> io::Result<OwnedFd> {
        Ok(self.file.try_clone()?.into())
    }
}

/// The other processes that have `file` open.
///
/// /proc/locks would name the process that called flock(2), which may be dead.
fn openers(file: &File) -> Vec<Holder> {
    let Ok(ours) = file.metadata() else {
        return Vec::new();
    };
    processes()
        .filter(|holder| holder.pid != std::process::id())
        .filter(|holder| {
            let fds = std::fs::read_dir(format!("/proc/{}/fd", holder.pid));
            fds.into_iter().flatten().flatten().any(|fd| {
                std::fs::metadata(fd.path())
                    .is_ok_and(|it| it.dev() == ours.dev() && it.ino() == ours.ino())
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn a_second_open_is_refused_and_a_drop_frees() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let first = DaemonLock::acquire(&path, Duration::ZERO).unwrap();
        let refused = DaemonLock::acquire(&path, Duration::ZERO);
        assert!(
            matches!(refused, Err(LockError::Held { .. })),
            "{refused:?}"
        );
        assert_eq!(
            std::fs::read_to_string(&path).unwrap().trim(),
            std::process::id().to_string()
        );
        drop(first);
        wait_for(&path);
    }

    /// Other tests of this process spawn children at any time, which inherit the lock for as long
    /// as they live: freeing it is not instant here.
    fn wait_for(path: &Path) {
        DaemonLock::acquire(path, Duration::from_secs(20)).unwrap();
    }

    #[test]
    fn a_child_of_a_dead_daemon_keeps_the_lock_and_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let lock = DaemonLock::acquire(&path, Duration::ZERO).unwrap();
        let mut child = Command::new("sleep")
            .arg("60")
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        // What kill -9 does to the daemon's own descriptor.
        drop(lock);
        let refused = DaemonLock::acquire(&path, Duration::from_millis(200)).unwrap_err();
        child.kill().unwrap();
        child.wait().unwrap();
        let LockError::Held { by, .. } = &refused else {
            panic!("{refused}")
        };
        let named = Holder {
            pid: child.id(),
            comm: "sleep".into(),
        };
        assert!(by.contains(&named), "{refused}");
        assert!(
            refused
                .to_string()
                .contains(&format!("pid {} (sleep)", child.id()))
        );
        wait_for(&path);
    }

    #[test]
    fn waits_for_the_holder_to_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let lock = DaemonLock::acquire(&path, Duration::ZERO).unwrap();
        let mut child = Command::new("sleep").arg("0.5").spawn().unwrap();
        drop(lock);
        let begun = Instant::now();
        wait_for(&path);
        assert!(begun.elapsed() > Duration::from_millis(300));
        child.wait().unwrap();
    }
}
