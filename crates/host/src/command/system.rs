//! The real runner: processes of this machine.

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::process::{ExitStatus, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until, timeout};

use super::{Cmd, CmdError, Output, Runner, package_of};
use crate::lock::DaemonLock;

/// After SIGTERM: LVM blocks it in its critical sections (devices suspended) and ends after them.
const GRACE: Duration = Duration::from_secs(2);

/// A command that ended may leave a daemon behind which still holds its stdout.
const LINGER: Duration = Duration::from_millis(500);

/// More than any report of LVM for 10 000 volumes; a bound all the same.
const MAX_OUTPUT: usize = 16 << 20;

/// The host's system directories; not the caller's PATH, so that nothing can be slipped in.
const SEARCH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// Runs commands with a cleared environment, `/` as directory, and a process group of their own
/// (so that a time-out also reaches their children, and ^C at a terminal does not).
///
/// If the caller's future is dropped, the command is ended as by a time-out, in the background.
#[derive(Debug, Default)]
pub struct System {
    held: Option<OwnedFd>,
}

impl System {
    /// A runner whose commands get an empty stdin.
    pub fn new() -> Self {
        Self::default()
    }

    /// A runner whose commands keep `lock` held while they live, even if this process is killed.
    ///
    /// They inherit the lock's open file, as they inherit every descriptor that is not
    /// close-on-exec. LVM closes inherited descriptors above 2 (lvmcmdline.c,
    /// `_close_stray_fds`), so the lock is also their stdin when they have no other: its offset
    /// stands at its end, hence it reads as empty.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub fn holding(lock: &DaemonLock) -> io::Result<Self> {
        Ok(Self {
            held: Some(lock.duplicate()?),
        })
    }

    /// True if `program` can be found where [`System`] looks for it.
    pub fn has(program: impl AsRef<OsStr>) -> bool {
        std::env::split_paths(SEARCH).any(|dir| dir.join(program.as_ref()).is_file())
    }

    fn spawn(&self, cmd: &Cmd) -> io::Result<Child> {
        let stdin = match (&cmd.stdin, &self.held) {
            (Some(_), _) => Stdio::piped(),
            (None, Some(held)) => held.try_clone()?.into(),
            (None, None) => Stdio::null(),
        };
        let mut command = Command::new(&cmd.program);
        command
            .args(&cmd.args)
            .env_clear()
            .env("PATH", SEARCH)
            .env("LC_ALL", "C")
            // The inherited lock would be reported as leaked on every call.
            .env("LVM_SUPPRESS_FD_WARNINGS", "1")
            .current_dir("/")
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        if let Some(dir) = std::env::var_os("LVM_SYSTEM_DIR") {
            command.env("LVM_SYSTEM_DIR", dir);
        }
        command.spawn()
    }
}

#[async_trait]
impl Runner for System {
    async fn run(&self, cmd: Cmd) -> Result<Output, CmdError> {
        let argv = cmd.argv();
        let child = match self.spawn(&cmd) {
            Ok(child) => child,
            Err(source) if source.kind() == io::ErrorKind::NotFound => {
                let program = cmd.program.to_string_lossy().into_owned();
                let package = package_of(&program).to_owned();
                return Err(CmdError::Missing { program, package });
            }
            Err(source) => return Err(CmdError::Io { argv, source }),
        };
        // The child is watched by a task of its own: a caller that gives up drops `alive`, and
        // the task still has the time to end the child gently.
        let (alive, gone) = oneshot::channel::<()>();
        let after = cmd.timeout;
        let started = Instant::now();
        let watched = tokio::spawn(watch(child, cmd, gone)).await;
        drop(alive);
        let ended = watched
            .map_err(io::Error::other)
            .and_then(|ended| ended)
            .map_err(|source| CmdError::Io {
                argv: argv.clone(),
                source,
            })?;
        // Secrets are never in argv, so it may be told.
        tracing::debug!(command.argv = ?argv, command.took = ?started.elapsed(), "command ended");
        match ended {
            Ended::Exit(status, output) if status.success() => Ok(output),
            Ended::Exit(status, output) => Err(CmdError::Failed {
                argv,
                code: status.code(),
                stderr: output.stderr,
            }),
            Ended::TimedOut => Err(CmdError::TimedOut { argv, after }),
        }
    }
}

enum Ended {
    Exit(ExitStatus, Output),
    TimedOut,
}

async fn watch(mut child: Child, cmd: Cmd, gone: oneshot::Receiver<()>) -> io::Result<Ended> {
    let deadline = Instant::now() + cmd.timeout;
    let (out, err) = (Capture::default(), Capture::default());
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let feed = async {
        if let (Some(mut pipe), Some(bytes)) = (stdin, cmd.stdin) {
            // A command that does not want all of its input says so with its exit code.
            let _ = pipe.write_all(&bytes).await;
        }
    };
    let streams = async { tokio::join!(feed, out.fill(stdout), err.fill(stderr)) };
    tokio::pin!(streams, gone);
    let mut drained = None;
    let status = loop {
        tokio::select! {
            status = child.wait() => break status?,
            results = &mut streams, if drained.is_none() => drained = Some(results),
            () = sleep_until(deadline) => {
                end(&mut child).await?;
                return Ok(Ended::TimedOut);
            }
            _ = &mut gone => {
                end(&mut child).await?;
                return Ok(Ended::TimedOut);
            }
        }
    };
    if drained.is_none() {
        drained = timeout(LINGER, &mut streams).await.ok();
    }
    if let Some(((), stdout, stderr)) = drained {
        stdout.and(stderr)?;
    }
    Ok(Ended::Exit(
        status,
        Output {
            stdout: out.text(),
            stderr: err.text(),
        },
    ))
}

/// SIGTERM to the group, SIGKILL after the grace, and the exit status collected.
async fn end(child: &mut Child) -> io::Result<()> {
    signal(child, Signal::TERM);
    if timeout(GRACE, child.wait()).await.is_err() {
        signal(child, Signal::KILL);
        child.wait().await?;
    }
    Ok(())
}

fn signal(child: &Child, signal: Signal) {
    // The child leads its group, and its number cannot be reused before it was waited for.
    let group = child
        .id()
        .and_then(|id| i32::try_from(id).ok())
        .and_then(Pid::from_raw);
    if let Some(group) = group {
        // ESRCH: it ended by itself just now.
        let _ = kill_process_group(group, signal);
    }
}

/// Bytes read so far, readable even if the stream never ends.
#[derive(Default)]
struct Capture(Mutex<Vec<u8>>);

impl Capture {
    async fn fill(&self, stream: Option<impl AsyncRead + Unpin>) -> io::Result<()> {
        let Some(mut stream) = stream else {
            return Ok(());
        };
        let mut chunk = vec![0; 64 << 10];
        let mut fits = true;
        loop {
            let read = stream.read(&mut chunk).await?;
            if read == 0 {
                break;
            }
            let mut held = self.lock();
            fits = fits && held.len() + read <= MAX_OUTPUT;
            // Beyond the bound the stream is drained, not kept: the command must not block.
            if fits {
                held.extend_from_slice(&chunk[..read]);
            }
        }
        if fits {
            Ok(())
        } else {
            Err(io::Error::other("it wrote more than 16 MiB"))
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<u8>> {
        self.0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.lock()).into_owned()
    }
}

#[cfg(test)]
mod tests;
