//! Who may work: one daemon for a state directory, one for a pool, and commands that outlived the
//! daemon that ran them.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::blocking;
use crate::holders::{Holder, is_dying, list, openers};

/// How often a held lock is tried again.
const RETRY: Duration = Duration::from_millis(20);

/// How often a daemon's lock is: each time the holders are looked for.
const LOOK: Duration = Duration::from_millis(100);

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

impl LockError {
    /// Whether those who have it were killed and cannot end, since a thread of each hangs in the
    /// kernel: they will not run again.
    pub fn is_of_dying(&self) -> bool {
        match self {
            Self::Held { by, .. } => are_dying(by),
            Self::Io { .. } => false,
        }
    }

    fn io(path: &Path, source: impl Into<io::Error>) -> Self {
        Self::Io {
            path: path.to_owned(),
            source: source.into(),
        }
    }
}

/// An exclusive flock(2) on a file, held until this is dropped *and* every command that was given
/// it has ended.
///
/// An flock belongs to the open file, not to the process (flock(2)). This one is close-on-exec, so
/// that no command has it by accident: a command that outlives its daemon must hold up nothing but
/// what it works on. One that is given it gets it as its stdin, since LVM closes inherited
/// descriptors above 2 (lvmcmdline.c, `_close_stray_fds`).
#[derive(Debug)]
pub struct Lock {
    file: File,
    path: PathBuf,
}

enum Attempt {
    Had(Lock),
    Busy(File),
}

impl Lock {
    /// Takes the lock of a daemon on its state directory `dir`, waiting at most `wait` for its
    /// holders. The file `lock` in it then contains our pid, for people. Where it can neither be
    /// made nor opened to write, as on a file system that turned read-only, what is there is locked.
    ///
    /// A holder that was killed and cannot end, since a thread of it hangs in the kernel on some
    /// disk, is passed over: it will not run again.
    ///
    /// # Errors
    /// [`LockError::Held`] names the processes that have it.
    pub async fn of_directory(dir: &Path, wait: Duration) -> Result<Self, LockError> {
        let path = dir.join("lock");
        let deadline = tokio::time::Instant::now() + wait;
        let mut lock = loop {
            let file = match attempt(&path, || open_some(&path, dir))? {
                Attempt::Had(lock) => break lock,
                Attempt::Busy(file) => file,
            };
            let by = blocking(move || openers(&file)).await;
            if are_dying(&by) {
                tracing::warn!(holders = list(&by), "a daemon that was killed cannot end");
                let (dir, path) = (dir.to_owned(), path.clone());
                blocking(move || pass_over(&dir, &path)).await?;
                continue;
            }
            if tokio::time::Instant::now() >= deadline {
                return Err(LockError::Held { path, by });
            }
            tokio::time::sleep(LOOK).await;
        };
        // Nobody but people reads it.
        let _ = lock.note_pid();
        Ok(lock)
    }

    /// Takes the lock on a file that is open, at once.
    ///
    /// # Errors
    /// [`LockError::Held`] names the processes that have it.
    pub fn on(file: File, path: &Path) -> Result<Self, LockError> {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self {
                file,
                path: path.to_owned(),
            }),
            Err(Errno::WOULDBLOCK) => Err(LockError::Held {
                path: path.to_owned(),
                by: openers(&file),
            }),
            Err(error) => Err(LockError::io(path, error)),
        }
    }

    /// Whether it is this very file that is at its path.
    pub fn is_in_place(&self) -> bool {
        is_at(&self.file, &self.path)
    }

    /// What a command that is to hold it gets as its stdin, which is empty.
    pub(crate) fn stdin(&self) -> io::Result<Stdio> {
        Ok(self.file.try_clone()?.into())
    }

    /// Free it for good: no command has it any more.
    pub(crate) fn discard(self) {
        // While it is held: whoever waits for it looks whether it is still at its path.
        let _ = std::fs::remove_file(&self.path);
    }

    fn note_pid(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.seek(SeekFrom::Start(0))?;
        self.file
            .write_all(format!("{}\n", std::process::id()).as_bytes())
    }
}

fn attempt(path: &Path, open: impl Fn() -> io::Result<File>) -> Result<Attempt, LockError> {
    loop {
        let file = open().map_err(|e| LockError::io(path, e))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            // Its last holder may have removed it meanwhile.
            Ok(()) if !is_at(&file, path) && path.exists() => {}
            Ok(()) => {
                return Ok(Attempt::Had(Lock {
                    file,
                    path: path.to_owned(),
                }));
            }
            Err(Errno::WOULDBLOCK) => return Ok(Attempt::Busy(file)),
            Err(error) => return Err(LockError::io(path, error)),
        }
    }
}

fn is_at(file: &File, path: &Path) -> bool {
    let there = std::fs::metadata(path);
    let ours = file.metadata();
    ours.ok()
        .zip(there.ok())
        .is_some_and(|(a, b)| a.dev() == b.dev() && a.ino() == b.ino())
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
}

/// The file, or what of it can be locked where nothing can be written.
fn open_some(path: &Path, dir: &Path) -> io::Result<File> {
    open(path)
        .or_else(|e| File::open(path).map_err(|_| e))
        .or_else(|e| File::open(dir).map_err(|_| e))
}

/// Whether there are holders, and all of them were killed and cannot end.
fn are_dying(by: &[Holder]) -> bool {
    !by.is_empty() && by.iter().all(is_dying)
}

/// Take away a lock file whose holders are all dying.
fn pass_over(dir: &Path, path: &Path) -> Result<(), LockError> {
    clear_of_dying(dir, path, || std::fs::remove_file(path))
}

/// Have `clear` put another file, or none, in the place of a lock file in `dir` whose holders were
/// killed and cannot end. Two daemons may come to that at once, so it is looked at again while the
/// directory is locked.
///
/// # Errors
/// When the directory or the file cannot be locked, and those of `clear`.
pub fn clear_of_dying(
    dir: &Path,
    path: &Path,
    clear: impl FnOnce() -> io::Result<()>,
) -> Result<(), LockError> {
    let failed = |e: io::Error| LockError::io(path, e);
    let held = File::open(dir).map_err(failed)?;
    flock(&held, FlockOperation::LockExclusive).map_err(|e| failed(e.into()))?;
    let Ok(file) = File::open(path) else {
        return Ok(());
    };
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
        return Ok(());
    }
    match are_dying(&openers(&file)) {
        true => clear().map_err(failed),
        false => Ok(()),
    }
}

/// Where the claims of all daemons on this kernel are, as the host's `/dev` shows it.
const OF_KERNEL: &str = "/dev/stowage";

/// The directory of the locks that are known by name, on a file system that does not outlive the
/// machine's boot.
#[derive(Debug, Clone)]
pub struct Locks {
    dir: Arc<PathBuf>,
    /// Claims are for all daemons on this kernel, whatever directories they see.
    of_kernel: bool,
}

/// What [`Locks::claim`] took.
#[derive(Debug)]
pub struct Claim {
    _here: Lock,
    _everywhere: Option<Lock>,
}

impl Locks {
    /// Locks in this directory, which is made when the first is taken.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: Arc::new(dir.into()),
            of_kernel: false,
        }
    }

    /// The same, whose claims also exclude those of daemons that see another directory there, as in a
    /// container.
    #[must_use]
    pub fn of_kernel(self) -> Self {
        Self {
            of_kernel: true,
            ..self
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name.replace('/', "_"))
    }

    fn attempt(&self, name: &str) -> Result<Attempt, LockError> {
        let path = self.path(name);
        attempt(&path, || {
            open(&path).or_else(|_| {
                std::fs::create_dir_all(&*self.dir)?;
                open(&path)
            })
        })
    }

    /// Takes the lock of this name, waiting at most `wait` for its holders.
    ///
    /// # Errors
    /// [`LockError::Held`] names the processes that have it.
    pub async fn take(&self, name: &str, wait: Duration) -> Result<Lock, LockError> {
        let deadline = tokio::time::Instant::now() + wait;
        loop {
            match self.attempt(name)? {
                Attempt::Had(lock) => return Ok(lock),
                Attempt::Busy(file) if tokio::time::Instant::now() >= deadline => {
                    let by = blocking(move || openers(&file)).await;
                    let path = self.path(name);
                    return Err(LockError::Held { path, by });
                }
                Attempt::Busy(_) => tokio::time::sleep(RETRY).await,
            }
        }
    }

    /// As [`Locks::take`], for a lock that daemons have and no command is given. One that was killed
    /// and cannot end, since a thread of it hangs in the kernel on some disk, is passed over: it will
    /// not run again.
    async fn take_as_daemon(&self, name: &str, wait: Duration) -> Result<Lock, LockError> {
        let deadline = tokio::time::Instant::now() + wait;
        loop {
            match self.take(name, Duration::ZERO).await {
                Err(LockError::Held { path, by }) if are_dying(&by) => {
                    let dir = Arc::clone(&self.dir);
                    blocking(move || pass_over(&dir, &path)).await?;
                }
                Err(LockError::Held { .. }) if tokio::time::Instant::now() < deadline => {
                    tokio::time::sleep(LOOK).await;
                }
                other => return other,
            }
        }
    }

    /// Takes what a daemon has for its life, waiting at most `wait` for whoever has it.
    ///
    /// The second lock lies in devtmpfs, of which a kernel has one, whoever mounts it: containers with
    /// directories and nodes of their own come to the same file. A lock on a disk's node would be another
    /// one in each such container, and would keep udev from the disk, which takes it for a sign that the
    /// disk is being repartitioned.
    ///
    /// A daemon that was killed and cannot end, since a thread of it hangs in the kernel on some disk, is
    /// passed over.
    ///
    /// # Errors
    /// [`LockError::Held`] names the processes that have it.
    pub async fn claim(&self, name: &str, wait: Duration) -> Result<Claim, LockError> {
        let here = self.take_as_daemon(name, wait).await?;
        let everywhere = match self.of_kernel {
            true => take_of_kernel(name, wait).await?,
            false => None,
        };
        Ok(Claim {
            _here: here,
            _everywhere: everywhere,
        })
    }

    /// Who has the lock of this name; none when it is free, which it is when nobody ever took it.
    pub fn holders(&self, name: &str) -> Option<Vec<Holder>> {
        if !self.path(name).exists() {
            return None;
        }
        match self.attempt(name).ok()? {
            Attempt::Had(lock) => {
                lock.discard();
                None
            }
            Attempt::Busy(file) => Some(openers(&file)),
        }
    }

    /// The names that begin so and are held. Those that are free are cleared away.
    pub fn held(&self, prefix: &str) -> Vec<String> {
        let entries = std::fs::read_dir(&*self.dir)
            .into_iter()
            .flatten()
            .flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        names
            .filter(|name| name.starts_with(prefix) && self.holders(name).is_some())
            .collect()
    }
}

/// The lock of this name for the whole kernel; none, with a word in the log, where there is no such
/// place.
async fn take_of_kernel(name: &str, wait: Duration) -> Result<Option<Lock>, LockError> {
    let missing = |error: &dyn std::fmt::Display| {
        tracing::warn!(
            %error,
            "no lock for all containers of this machine: two daemons that do not share \
             /run/stowage must not have one volume group"
        );
    };
    let devices = match blocking(crate::mount::devices).await {
        Ok(devices) => devices,
        Err(error) => {
            missing(&error);
            return Ok(None);
        }
    };
    let dir = format!("/proc/self/fd/{}/stowage", devices.as_raw_fd());
    match Locks::new(dir).take_as_daemon(name, wait).await {
        Ok(lock) => Ok(Some(lock)),
        Err(LockError::Held { by, .. }) => Err(LockError::Held {
            path: Path::new(OF_KERNEL).join(name),
            by,
        }),
        Err(error) => {
            missing(&error);
            Ok(None)
        }
    }
}

#[cfg(test)]
mod tests;
