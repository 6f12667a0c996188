//! The real runner: processes of this machine.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Seek};
use std::os::unix::fs::FileExt;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use async_trait::async_trait;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

use super::{Cmd, CmdError, Output, Runner, package_of};
use crate::lock::{Lock, LockError, Locks};

/// From SIGTERM to SIGKILL, and from there until a command in the kernel's hands is left behind.
const GRACE: Duration = Duration::from_secs(2);

/// How often a spared command that was told to end is waited for, and how long each time.
const REPORTS: u32 = 20;
const REPORT_EVERY: Duration = Duration::from_secs(30);

/// More than any report of LVM for 10 000 volumes; a bound all the same.
const MAX_OUTPUT: u64 = 16 << 20;

/// The host's system directories; not the caller's PATH, so that nothing can be slipped in.
const SEARCH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// Runs commands with a cleared environment, `/` as directory, and a process group of their own
/// (so that a time-out also reaches their children, and ^C at a terminal does not).
///
/// If the caller's future is dropped, the command is ended as by a time-out, in the background. If
/// the runtime ends or this process dies, the command runs to its end: what it does may be harmful
/// to leave half done. Its output goes to memory files, not pipes, so that no SIGPIPE ends it then,
/// and it keeps the lock of what it works on ([`Cmd::locked`]), and of nothing else.
#[derive(Debug, Default)]
pub struct System {
    locks: Option<Locks>,
}

impl System {
    /// A runner whose commands hold no locks.
    pub fn new() -> Self {
        Self::default()
    }

    /// A runner whose commands hold the locks they name.
    pub fn with_locks(locks: Locks) -> Self {
        Self { locks: Some(locks) }
    }

    async fn lock(&self, cmd: &Cmd) -> Result<Option<Lock>, CmdError> {
        let (Some((name, wait)), Some(locks)) = (&cmd.lock, &self.locks) else {
            return Ok(None);
        };
        let argv = cmd.argv();
        match locks.take(name, *wait).await {
            Ok(lock) => Ok(Some(lock)),
            Err(LockError::Held { by, .. }) => Err(CmdError::Busy { argv, by }),
            Err(error) => Err(CmdError::Io {
                argv,
                source: io::Error::other(error),
            }),
        }
    }

    /// True if `program` can be found where [`System`] looks for it.
    pub fn has(program: impl AsRef<OsStr>) -> bool {
        std::env::split_paths(SEARCH).any(|dir| dir.join(program.as_ref()).is_file())
    }

    fn spawn(cmd: &Cmd, lock: Option<&Lock>, out: &Capture, err: &Capture) -> io::Result<Child> {
        let stdin = match (&cmd.stdin, lock) {
            (Some(_), _) => Stdio::piped(),
            (None, Some(lock)) => lock.stdin()?,
            (None, None) => Stdio::null(),
        };
        let mut command = Command::new(&cmd.program);
        command
            .args(&cmd.args)
            .args(&cmd.settings)
            .env_clear()
            .env("PATH", SEARCH)
            .env("LC_ALL", "C")
            // Descriptors that whoever started the daemon left open would be told of on every call.
            .env("LVM_SUPPRESS_FD_WARNINGS", "1")
            // Where there is no such file e2fsprogs takes what is built in: a host's own could leave
            // out the journal, or tell e2fsck other answers.
            .env("MKE2FS_CONFIG", "/nonexistent")
            .env("E2FSCK_CONFIG", "/nonexistent")
            .current_dir("/")
            .stdin(stdin)
            .stdout(out.stdio()?)
            .stderr(err.stdio()?)
            .process_group(0)
            .kill_on_drop(false);
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
        let io_error = |source| CmdError::Io {
            argv: argv.clone(),
            source,
        };
        let out = Capture::new().map_err(io_error)?;
        let err = Capture::new().map_err(io_error)?;
        let lock = self.lock(&cmd).await?;
        let child = match Self::spawn(&cmd, lock.as_ref(), &out, &err) {
            Ok(child) => child,
            Err(source) if source.kind() == io::ErrorKind::NotFound => {
                let program = cmd.program.to_string_lossy().into_owned();
                let package = package_of(&program).to_owned();
                return Err(CmdError::Missing { program, package });
            }
            Err(source) => return Err(io_error(source)),
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
            .map_err(io_error)?;
        // Secrets are never in argv, so it may be told.
        tracing::debug!(command.argv = ?argv, command.took = ?started.elapsed(), "command ended");
        let Some(status) = ended else {
            return Err(CmdError::TimedOut { argv, after });
        };
        if let Some(lock) = lock {
            lock.discard();
        }
        let stdout = out.text().map_err(io_error)?;
        let stderr = err.text().map_err(io_error)?;
        if status.success() {
            return Ok(Output { stdout, stderr });
        }
        Err(CmdError::Failed {
            argv,
            code: status.code(),
            stderr,
        })
    }
}

/// Waits for a command that nothing may disturb, whoever else waits for it.
async fn see_out(child: &mut Child, cmd: &Cmd) -> io::Result<ExitStatus> {
    loop {
        if let Ok(status) = timeout(cmd.timeout.max(REPORT_EVERY), child.wait()).await {
            return status;
        }
        tracing::warn!(command.argv = ?cmd.argv(), command.pid = child.id(),
            "a command takes long and must not be ended; still waiting");
    }
}

/// How the command ended by itself; none if it ran too long or nobody waits for it.
async fn watch(
    mut child: Child,
    cmd: Cmd,
    gone: oneshot::Receiver<()>,
) -> io::Result<Option<ExitStatus>> {
    if cmd.undisturbed {
        return see_out(&mut child, &cmd).await.map(Some);
    }
    let (stdin, bytes) = (child.stdin.take(), cmd.stdin.as_deref());
    let feed = async {
        if let (Some(mut pipe), Some(bytes)) = (stdin, bytes) {
            // A command that does not want all of its input says so with its exit code.
            let _ = pipe.write_all(bytes).await;
        }
    };
    let too_long = sleep(cmd.timeout);
    tokio::pin!(feed, too_long, gone);
    let mut fed = false;
    loop {
        tokio::select! {
            status = child.wait() => return status.map(Some),
            () = &mut feed, if !fed => fed = true,
            () = &mut too_long => break,
            _ = &mut gone => break,
        }
    }
    end(&mut child, &cmd).await;
    Ok(None)
}

/// SIGTERM to the group, and SIGKILL after the grace unless the command is spared. LVM blocks
/// SIGTERM while devices are suspended and ends after that.
///
/// The wait is bounded even then: a process may hang in the kernel for good. It is left behind,
/// keeps the lock it was given, and is collected whenever it ends.
async fn end(child: &mut Child, cmd: &Cmd) {
    signal(child, Signal::TERM);
    if cmd.spared {
        for _ in 0..REPORTS {
            if timeout(REPORT_EVERY, child.wait()).await.is_ok() {
                return;
            }
            tracing::warn!(command.argv = ?cmd.argv(), command.pid = child.id(),
                "a command was told to end and does not; still waiting");
        }
    } else {
        if timeout(GRACE, child.wait()).await.is_ok() {
            return;
        }
        signal(child, Signal::KILL);
        if timeout(GRACE, child.wait()).await.is_ok() {
            return;
        }
    }
    tracing::error!(command.argv = ?cmd.argv(), command.pid = child.id(),
        "a command cannot be ended and is left behind");
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

/// What a command writes to one of its streams. The file's offset, which the command shares, tells
/// how much that is; its size is sealed at the bound, so that writing beyond fails.
struct Capture(File);

impl Capture {
    fn new() -> io::Result<Self> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = File::from(memfd_create("stowage-command", flags)?);
        file.set_len(MAX_OUTPUT)?;
        fcntl_add_seals(&file, SealFlags::GROW | SealFlags::SHRINK)?;
        Ok(Self(file))
    }

    fn stdio(&self) -> io::Result<Stdio> {
        Ok(self.0.try_clone()?.into())
    }

    /// What was written by now; a daemon that the command left behind may go on.
    fn text(&self) -> io::Result<String> {
        let written = (&self.0).stream_position()?;
        if written >= MAX_OUTPUT {
            return Err(io::Error::other("it wrote more than 16 MiB"));
        }
        let mut bytes = vec![0; usize::try_from(written).map_err(io::Error::other)?];
        self.0.read_exact_at(&mut bytes, 0)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

#[cfg(test)]
mod tests;
