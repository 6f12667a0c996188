//! Freezing mounted file systems for a consistent snapshot, and never leaving one frozen.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::ioctl::{Opcode, Setter, ioctl, opcode};

use crate::devno::Devno;
use crate::dm::Control;
use crate::error::{Context, FsError};

const FIFREEZE: Opcode = opcode::read_write::<i32>(b'X', 119);
const FITHAW: Opcode = opcode::read_write::<i32>(b'X', 120);

/// The hidden subcommand of the daemon's binary that must call [`guard_main`].
pub const SUBCOMMAND: &str = "internal-thaw";

/// Opening a mount point on a live file system takes no time, starting a process little.
const STARTS: Duration = Duration::from_secs(10);

/// Flushes and stops all writes to a mounted file system; ioctl_fsfreeze(2). EBUSY if it is frozen
/// already, EOPNOTSUPP if it cannot be. Snapshots by device mapper freeze by themselves; this is for
/// copies of files and for reflinks.
pub(crate) fn freeze_open(dir: &File) -> Result<(), Errno> {
    // SAFETY: FIFREEZE ignores its argument (fs/ioctl.c, ioctl_fsfreeze); a valid pointer is given.
    unsafe { ioctl(dir, Setter::<FIFREEZE, i32>::new(0)) }
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

/// A helper process that freezes, and thaws when we die, or after a bound.
///
/// It freezes by itself, so that it knows what it froze: what somebody else froze before is not its
/// to thaw. It has everything open before: afterwards an exec or an open could itself wait for the
/// frozen file system.
#[derive(Debug)]
pub struct Guard {
    child: Option<Child>,
    /// Closed by the kernel when we die, however we die.
    alive: Option<ChildStdin>,
    paths: Vec<PathBuf>,
}

/// Tells the helper that all is let go, before the pipe ends.
const DONE: u8 = b'd';

/// Answers of the helper: all is frozen, or why not, `e ERRNO INDEX`.
const READY: &str = "r";

impl Guard {
    /// Starts `exe internal-thaw`, which freezes what is mounted at `paths`, and waits until it has.
    /// It also resumes `devices` of device mapper that the caller suspends afterwards and is not
    /// alive to resume when the bound is over: not before, since a command of LVM that outlives us
    /// may be at work on them.
    ///
    /// # Errors
    /// If it cannot be started, or something cannot be frozen: EBUSY if that is frozen already, by
    /// somebody else. Then nothing is frozen by us.
    pub fn freeze(
        exe: &Path,
        paths: &[PathBuf],
        devices: &[Devno],
        bound: Duration,
    ) -> Result<Self, FsError> {
        let started = Command::new(exe)
            .arg(SUBCOMMAND)
            .arg(bound.as_secs_f64().to_string())
            .args(devices.iter().map(|device| format!("--resume={device}")))
            .arg("--")
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
            child: Some(child),
            alive,
            paths: paths.to_vec(),
        };
        // A guard that is not ready is dropped here, which ends it.
        let answer = first_line(stdout, STARTS + bound).context("start the thaw guard", exe)?;
        if answer == READY {
            return Ok(guard);
        }
        let refused = answer.strip_prefix("e ").and_then(|refused| {
            let (errno, index) = refused.split_once(' ')?;
            Some((
                errno.parse().ok()?,
                paths.get(index.parse::<usize>().ok()?)?,
            ))
        });
        Err(match refused {
            Some((errno, path)) => {
                FsError::new("freeze", path, io::Error::from_raw_os_error(errno))
            }
            None => {
                let error = io::Error::from(io::ErrorKind::BrokenPipe);
                FsError::new("start the thaw guard", exe, error)
            }
        })
    }

    /// Thaws what it guards and ends the helper, which leaves devices to the caller. Returns false if
    /// something was not frozen any more: then the bound had passed, and what was copied meanwhile is
    /// not consistent.
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
        if let Some(alive) = self.alive.as_mut().filter(|_| result.is_ok()) {
            // Fails if it has ended: then there is nothing to tell.
            let _ = alive.write_all(&[DONE]);
        }
        result
    }
}

impl Drop for Guard {
    /// Closing the pipe is the signal; the helper thaws what is still frozen and exits. That may take
    /// as long as the disk does.
    fn drop(&mut self) {
        self.alive = None;
        if let Some(mut child) = self.child.take() {
            std::thread::spawn(move || child.wait());
        }
    }
}

fn first_line(
    stdout: Option<impl Read + Send + 'static>,
    patience: Duration,
) -> io::Result<String> {
    let stdout = stdout.ok_or(io::ErrorKind::BrokenPipe)?;
    let (sender, answered) = mpsc::channel();
    std::thread::spawn(move || {
        let mut line = String::new();
        let read = BufReader::new(stdout.take(256)).read_line(&mut line);
        // Nobody listens if the time is over.
        let _ = sender.send(read.map(|_| line));
    });
    match answered.recv_timeout(patience) {
        Ok(line) => line.map(|line| line.trim_end().to_owned()),
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// What the hidden subcommand does: freezes what is mounted at `paths`, says so on stdout, waits until
/// stdin ends or `bound` is over, and thaws. Unless it was told that all is done, it resumes `devices`
/// when the bound is over.
///
/// # Errors
/// If something cannot be opened (nothing is frozen then), thawed or resumed; the others are all the
/// same.
pub fn guard_main(bound: Duration, paths: &[PathBuf], devices: &[Devno]) -> Result<(), FsError> {
    let open = |path: &PathBuf| File::open(path).context("open", path);
    let dirs = paths.iter().map(open).collect::<Result<Vec<_>, _>>()?;
    let control = match devices.is_empty() {
        true => None,
        false => Some(Control::open()?),
    };
    let (sender, ended) = mpsc::channel();
    std::thread::spawn(move || {
        let mut told = Vec::new();
        // Any end of reading means that nobody holds the other end.
        let _ = io::stdin().read_to_end(&mut told);
        let _ = sender.send(told.contains(&DONE));
    });
    let begun = Instant::now();
    let mut frozen: Vec<(&File, &PathBuf)> = Vec::new();
    let mut answer = READY.to_owned();
    for (index, (dir, path)) in dirs.iter().zip(paths).enumerate() {
        if let Err(error) = freeze_open(dir) {
            answer = format!("e {} {index}", error.raw_os_error());
            break;
        }
        frozen.push((dir, path));
    }
    // Fails if nobody listens any more: what is frozen is thawed in any case.
    let told = writeln!(io::stdout(), "{answer}").and_then(|()| io::stdout().flush());
    let left = || bound.saturating_sub(begun.elapsed());
    let held = answer == READY && told.is_ok();
    // What was let go by the caller may be frozen by others by now.
    if held && ended.recv_timeout(left()).unwrap_or(false) {
        return Ok(());
    }
    let mut result = Ok(());
    for (dir, path) in frozen {
        if let Err(error) = thaw_open(dir).context("thaw", path) {
            result = result.and(Err(error));
        }
    }
    let Some(control) = control.filter(|_| held) else {
        return result;
    };
    std::thread::sleep(left());
    for device in devices {
        let resumed = control.resume(*device);
        result = result.and(resumed);
    }
    result
}

#[cfg(test)]
mod tests;
