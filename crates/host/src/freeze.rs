//! Freezing mounted file systems for a consistent snapshot, and never leaving one frozen.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use rustix::io::Errno;
use rustix::ioctl::{Opcode, Setter, ioctl, opcode};

use crate::error::{Context, FsError};

const FIFREEZE: Opcode = opcode::read_write::<i32>(b'X', 119);
const FITHAW: Opcode = opcode::read_write::<i32>(b'X', 120);

/// The hidden subcommand of the daemon's binary that must call [`guard_main`].
pub const SUBCOMMAND: &str = "internal-thaw";

/// How long a file system may stay frozen at most, if nothing else is asked: writers block.
pub const BOUND: Duration = Duration::from_secs(10);

/// Opening a mount point on a live file system takes no time, starting a process little.
const READY: Duration = Duration::from_secs(10);

/// Flushes and stops all writes to the file system mounted at `path`; ioctl_fsfreeze(2). Snapshots
/// by device mapper freeze by themselves; this is for copies of files and for reflinks.
///
/// Arm a [`Guard`] before: nothing thaws by itself.
///
/// # Errors
/// EBUSY if it is frozen already, EOPNOTSUPP if the file system cannot.
pub fn freeze(path: &Path) -> Result<(), FsError> {
    let dir = File::open(path).context("open", path)?;
    // SAFETY: FIFREEZE ignores its argument (fs/ioctl.c, ioctl_fsfreeze); a valid pointer is given.
    unsafe { ioctl(&dir, Setter::<FIFREEZE, i32>::new(0)) }.context("freeze", path)
}

/// Brings everything written to the file system mounted at `path` to its disk; syncfs(2). Writers
/// go on meanwhile.
///
/// # Errors
/// EIO if something could not be written.
pub fn sync(path: &Path) -> Result<(), FsError> {
    let dir = File::open(path).context("open", path)?;
    rustix::fs::syncfs(&dir).context("sync", path)
}

/// Lets writes go on. Returns false if it was not frozen.
///
/// # Errors
/// As ioctl(2).
pub fn thaw(path: &Path) -> Result<bool, FsError> {
    let dir = File::open(path).context("open", path)?;
    thaw_open(&dir).context("thaw", path)
}

fn thaw_open(dir: &File) -> Result<bool, Errno> {
    // SAFETY: FITHAW ignores its argument (fs/ioctl.c, ioctl_fsthaw); a valid pointer is given.
    match unsafe { ioctl(dir, Setter::<FITHAW, i32>::new(0)) } {
        Ok(()) => Ok(true),
        Err(Errno::INVAL) => Ok(false),
        Err(error) => Err(error),
    }
}

/// A helper process that thaws when we die, or after a bound.
///
/// It is started before anything is frozen and has the mount points open by then: afterwards an
/// exec or an open could itself wait for the frozen file system.
#[derive(Debug)]
pub struct Guard {
    child: Child,
    /// Closed by the kernel when we die, however we die.
    alive: Option<ChildStdin>,
    paths: Vec<PathBuf>,
}

impl Guard {
    /// Starts `exe internal-thaw <seconds> <path>...` and waits until it watches. Blocks shortly.
    ///
    /// # Errors
    /// If it cannot be started or does not get ready; then nothing may be frozen.
    pub fn arm(exe: &Path, paths: &[PathBuf], bound: Duration) -> Result<Self, FsError> {
        let started = Command::new(exe)
            .arg(SUBCOMMAND)
            .arg(bound.as_secs_f64().to_string())
            .args(paths)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            // A ^C at the daemon's terminal must not end its guard first.
            .process_group(0)
            .spawn();
        let mut child = started.context("start the thaw guard", exe)?;
        let (alive, stdout) = (child.stdin.take(), child.stdout.take());
        let guard = Self {
            child,
            alive,
            paths: paths.to_vec(),
        };
        // A guard that is not ready is dropped here, which ends it.
        await_byte(stdout).context("start the thaw guard", exe)?;
        Ok(guard)
    }

    /// Thaws what it guards and ends the helper. Returns false if something was not frozen any
    /// more: then the bound had passed, and what was copied meanwhile is not consistent.
    ///
    /// # Errors
    /// The first path that could not be thawed; the helper then tries as well.
    pub fn release(mut self) -> Result<bool, FsError> {
        let mut result = Ok(true);
        for path in &self.paths {
            match (thaw(path), &mut result) {
                (Ok(was), Ok(all)) => *all &= was,
                (Err(error), Ok(_)) => result = Err(error),
                (_, Err(_)) => {}
            }
        }
        self.end();
        result
    }

    /// Closing the pipe is the signal; the helper thaws once more and exits.
    fn end(&mut self) {
        self.alive = None;
        // Fails only if it was waited for already.
        let _ = self.child.wait();
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.end();
    }
}

fn await_byte(stdout: Option<impl Read + Send + 'static>) -> io::Result<()> {
    let mut stdout = stdout.ok_or(io::ErrorKind::BrokenPipe)?;
    let (sender, ready) = mpsc::channel();
    std::thread::spawn(move || {
        let mut byte = [0];
        // Nobody listens if the time is over.
        let _ = sender.send(stdout.read_exact(&mut byte));
    });
    match ready.recv_timeout(READY) {
        Ok(read) => read,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// What the hidden subcommand does: opens `paths`, says so with one byte on stdout, waits until
/// stdin ends or `bound` is over, and thaws.
///
/// # Errors
/// If a path cannot be opened (before the byte) or thawed; the others are thawed all the same.
pub fn guard_main(bound: Duration, paths: &[PathBuf]) -> Result<(), FsError> {
    let open = |path: &PathBuf| File::open(path).context("open", path);
    let dirs = paths.iter().map(open).collect::<Result<Vec<_>, _>>()?;
    let stdout = Path::new("/dev/stdout");
    io::stdout()
        .write_all(b"r")
        .and_then(|()| io::stdout().flush())
        .context("write to", stdout)?;
    let (sender, ended) = mpsc::channel::<()>();
    std::thread::spawn(move || {
        // Any end of reading means that nobody holds the other end.
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        drop(sender);
    });
    // Disconnected or timed out: thaw in both cases.
    let _ = ended.recv_timeout(bound);
    let mut result = Ok(());
    for (dir, path) in dirs.iter().zip(paths) {
        if let Err(error) = thaw_open(dir).context("thaw", path) {
            result = result.and(Err(error));
        }
    }
    result
}

#[cfg(test)]
mod tests;
