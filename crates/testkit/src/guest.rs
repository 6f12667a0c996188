//! A node with a kernel of its own: User Mode Linux, booted in seconds as a plain process.
//!
//! ```text
//!  Guest::builder() ─ spawn ─► Guest ─ wait ──────► Outcome { status, console }
//!        │                       └──── power_cut ─► Console (the disks keep what was flushed)
//!        └─ boot = spawn + wait
//! ```
//!
//! The guest's root *is* the machine's root, writable, over hostfs: every program and every
//! freshly built binary is there under its own path. `/run`, `/tmp`, `/dev`, `/proc` and `/sys`
//! are the guest's own. Whatever else a command writes to lands on the machine.
//!
//! Disks are sparse files, `/dev/ubdb`, `/dev/ubdc` and so on; the command finds their names in
//! `STOWAGE_TEST_DISKS`, with commas between.

mod console;
mod init;
pub mod kernel;

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal};
use tempfile::TempDir;

pub use console::Console;
pub use kernel::Kernel;

use crate::{disk, require, scratch};

/// The variable that names the guest's disks.
pub const DISKS_VARIABLE: &str = "STOWAGE_TEST_DISKS";

/// How long a guest may take to halt once its command has ended. Longer means a hang, for example
/// in a device-mapper device that was left suspended; the outcome is known by then.
const HALT_TIMEOUT: Duration = Duration::from_secs(30);

const POLL: Duration = Duration::from_millis(20);

/// What a guest is made of.
#[derive(Default)]
#[must_use]
pub struct GuestBuilder {
    disks: Vec<Disk>,
    memory: Option<String>,
    env: Vec<(OsString, OsString)>,
    modules: Vec<String>,
    visible: Vec<PathBuf>,
    current_dir: Option<PathBuf>,
    on_line: Option<console::OnLine>,
    kernel: Option<Kernel>,
}

enum Disk {
    Fresh(u64),
    File(PathBuf),
}

impl GuestBuilder {
    /// A fresh empty disk that lives as long as the guest.
    pub fn disk(mut self, bytes: u64) -> Self {
        self.disks.push(Disk::Fresh(bytes));
        self
    }

    /// A disk in an existing file, such as a [`SparseFile`](crate::SparseFile): the next guest on
    /// it sees what this one flushed.
    pub fn disk_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.disks.push(Disk::File(path.into()));
        self
    }

    /// Memory with a unit, `2G` unless told.
    pub fn memory(mut self, size: impl Into<String>) -> Self {
        self.memory = Some(size.into());
        self
    }

    /// A variable in the command's environment, which otherwise holds `PATH`, `HOME` (empty, in
    /// `/run`), `LC_ALL=C`, `LVM_SYSTEM_DIR` and the disks.
    pub fn env(mut self, key: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((key.into(), value.into()));
        self
    }

    /// A kernel module to load beyond those a node needs (device mapper, loop, fuse, xfs, btrfs).
    pub fn module(mut self, name: impl Into<String>) -> Self {
        self.modules.push(name.into());
        self
    }

    /// A directory under `/tmp` or `/run` that the guest must see in spite of its own tmpfs there.
    /// The workspace, the target directory and the command's own are seen without this.
    pub fn visible(mut self, dir: impl Into<PathBuf>) -> Self {
        self.visible.push(dir.into());
        self
    }

    /// The command's working directory, `/` unless told.
    pub fn current_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.current_dir = Some(dir.into());
        self
    }

    /// Another kernel than [`Kernel::chosen`].
    pub fn kernel(mut self, kernel: Kernel) -> Self {
        self.kernel = Some(kernel);
        self
    }

    /// Is called with every console line as it comes, from another thread.
    pub fn on_line(mut self, callback: impl FnMut(&str) + Send + 'static) -> Self {
        self.on_line = Some(Box::new(callback));
        self
    }

    /// Boots, runs the command to its end and halts.
    pub fn boot<A: Into<OsString>>(
        self,
        argv: impl IntoIterator<Item = A>,
        timeout: Duration,
    ) -> Result<Outcome> {
        self.spawn(argv)?.wait(timeout)
    }

    /// Boots and lets the command run.
    ///
    /// The guest dies with the *thread* that spawned it (the kernel's parent-death signal counts
    /// threads), so let that thread live as long as the guest.
    ///
    /// # Panics
    /// Without root or without a program the guest needs, see [`require`].
    pub fn spawn<A: Into<OsString>>(self, argv: impl IntoIterator<Item = A>) -> Result<Guest> {
        require(&["modprobe", "lvm", "setpriv", "ip", "mount"]);
        let kernel = self.kernel.clone().unwrap_or_else(Kernel::chosen);
        if kernel.is_stock() {
            require(&["linux.uml"]);
        }
        let argv: Vec<OsString> = argv.into_iter().map(Into::into).collect();
        ensure!(!argv.is_empty(), "a guest needs a command to run");

        let scratch = scratch::dir("guest")?;
        let disks = self.make_disks(scratch.path())?;
        let memory = self.memory.clone().unwrap_or_else(|| "2G".to_owned());
        let init = init::write(
            scratch.path(),
            &init::Plan {
                modules: &self.modules,
                modules_dir: &kernel.modules,
                visible: &self.visible_dirs(&argv, &kernel),
                env: &self.env,
                disks: disks.len(),
                current_dir: self
                    .current_dir
                    .as_deref()
                    .unwrap_or_else(|| Path::new("/")),
                argv: &argv,
            },
        )?;

        let name = unique_name();
        let mut command = Command::new("setpriv");
        // Should the test be killed with SIGKILL, no destructor runs; the kernel ends the guest,
        // and the next sweep its helpers.
        command.args(["--pdeathsig", "KILL", "--"]);
        command.arg(&kernel.program).args(kernel.options);
        command.arg(format!("mem={memory}"));
        command.args([
            "root=/dev/root",
            "rootfstype=hostfs",
            "rootflags=/",
            "rw",
            "quiet",
        ]);
        command.args(["con=null", "con0=null,fd:1"]);
        command
            .arg(join("init=", &init)?)
            .arg(format!("umid={name}"));
        // Beside the rest instead of in ~/.uml, where a killed guest would leave it.
        command.arg(join("uml_dir=", scratch.path())?);
        for (index, disk) in disks.iter().enumerate() {
            command.arg(join(&format!("ubd{}=", letter(index)?), disk)?);
        }
        command.env("TMPDIR", memory_dir(&memory, scratch.path())?);
        let (reader, writer) = std::io::pipe().context("failed to make the console's pipe")?;
        let stderr = writer
            .try_clone()
            .context("failed to make the console's pipe")?;
        command.stdin(Stdio::null()).stdout(writer).stderr(stderr);
        // One group for all the processes a guest consists of, so that all can be killed at once.
        command.process_group(0);

        let started = Instant::now();
        let child = command.spawn().context("failed to start linux.uml")?;
        // Holds the pipe's writing end; were it kept, the console would never end.
        drop(command);
        let console = Console::follow(reader, self.on_line)?;
        Ok(Guest {
            child,
            console,
            name,
            disks,
            started,
            scratch,
        })
    }

    fn make_disks(&self, scratch: &Path) -> Result<Vec<PathBuf>> {
        let mut paths = Vec::new();
        for (index, disk) in self.disks.iter().enumerate() {
            paths.push(match disk {
                Disk::File(path) => std::path::absolute(path)
                    .with_context(|| format!("failed to resolve {}", path.display()))?,
                Disk::Fresh(bytes) => {
                    let path = scratch.join(format!("disk-{}.img", letter(index)?));
                    disk::create_sparse(&path, *bytes)?;
                    path
                }
            });
        }
        Ok(paths)
    }

    fn visible_dirs(&self, argv: &[OsString], kernel: &Kernel) -> Vec<PathBuf> {
        let modules = kernel.modules.clone();
        let mut dirs = vec![scratch::workspace(), scratch::target(), modules];
        dirs.extend(self.visible.iter().cloned());
        dirs.extend(self.current_dir.iter().cloned());
        let program = argv
            .first()
            .map(Path::new)
            .filter(|path| path.is_absolute());
        dirs.extend(program.and_then(Path::parent).map(Path::to_path_buf));
        dirs
    }
}

/// A running guest. Dropping it cuts its power.
#[derive(Debug)]
pub struct Guest {
    child: Child,
    console: Console,
    name: String,
    disks: Vec<PathBuf>,
    started: Instant,
    scratch: TempDir,
}

/// How a guest's command ended.
#[derive(Debug)]
pub struct Outcome {
    /// The command's exit status; 128 and the signal's number if it was killed.
    pub status: i32,
    pub console: Console,
    /// From the start of the boot to the halt.
    pub elapsed: Duration,
}

impl Outcome {
    /// Fails, with the console's tail, unless the command ended with status 0.
    pub fn success(self) -> Result<Self> {
        if self.status == 0 {
            return Ok(self);
        }
        bail!(
            "the guest's command ended with status {}; {}",
            self.status,
            self.console.tail()
        );
    }
}

impl Guest {
    pub fn builder() -> GuestBuilder {
        GuestBuilder::default()
    }

    /// The files behind the guest's disks.
    pub fn disks(&self) -> &[PathBuf] {
        &self.disks
    }

    /// All it has printed so far.
    pub fn console(&self) -> Vec<String> {
        self.console.lines()
    }

    /// Waits until a console line contains `text` and returns that line. Looks also at what has
    /// been printed already.
    pub fn wait_for_line(&self, text: &str, timeout: Duration) -> Result<String> {
        match self.console.wait_for(text, timeout) {
            Some(line) => Ok(line),
            None => bail!("the guest never printed {text:?}; {}", self.console.tail()),
        }
    }

    /// Ends the guest as a power failure does: what it had not written to its disks is gone.
    ///
    /// Gentler than the worst disk: what the guest did write is kept also where it sent no flush
    /// after it, because the machine that holds the disk files goes on running.
    pub fn power_cut(mut self) -> Result<Console> {
        self.kill()?;
        self.console.finish();
        Ok(self.console.clone())
    }

    /// Waits for the command's end. A guest that takes longer than `timeout` is killed.
    pub fn wait(mut self, timeout: Duration) -> Result<Outcome> {
        let deadline = self.started + timeout;
        let mut ended: Option<Instant> = None;
        let exit = loop {
            if let Some(exit) = self
                .child
                .try_wait()
                .context("failed to wait for linux.uml")?
            {
                break Some(exit);
            }
            if ended.is_none() && self.status_file().exists() {
                ended = Some(Instant::now());
            }
            if ended.is_some_and(|at| at.elapsed() > HALT_TIMEOUT) {
                break None;
            }
            if ended.is_none() && Instant::now() > deadline {
                self.kill()?;
                self.console.finish();
                bail!(
                    "the guest's command did not end within {timeout:?}; {}",
                    self.console.tail()
                );
            }
            std::thread::sleep(POLL);
        };
        // Also after an orderly halt: helper processes of the guest may linger.
        self.kill()?;
        self.console.finish();
        Ok(Outcome {
            status: self.read_status(exit)?,
            console: self.console.clone(),
            elapsed: self.started.elapsed(),
        })
    }

    fn status_file(&self) -> PathBuf {
        self.scratch.path().join(init::STATUS_FILE)
    }

    fn read_status(&self, exit: Option<ExitStatus>) -> Result<i32> {
        let text = match std::fs::read_to_string(self.status_file()) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let how = exit.map_or_else(|| "killed".to_owned(), |exit| exit.to_string());
                bail!(
                    "the guest died before its command ended (linux.uml: {how}); {}",
                    self.console.tail()
                );
            }
            Err(error) => return Err(error).context("failed to read the guest's status file"),
        };
        text.trim()
            .parse()
            .with_context(|| format!("no number in the status file: {text:?}"))
    }

    /// Kills every process of the guest and waits until none is left: one that still wrote to a
    /// disk file would spoil it for the next guest.
    fn kill(&mut self) -> Result<()> {
        let raw = i32::try_from(self.child.id()).context("process id out of range")?;
        let group = Pid::from_raw(raw).context("process id zero")?;
        // Fails when all are gone already, which is as good.
        let _ = rustix::process::kill_process_group(group, Signal::KILL);
        self.child.wait().context("failed to wait for linux.uml")?;
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let left = processes_of(&self.name);
            if left.is_empty() {
                return Ok(());
            }
            for pid in &left {
                let _ = rustix::process::kill_process(*pid, Signal::KILL);
            }
            ensure!(
                Instant::now() < deadline,
                "processes of the guest survive SIGKILL: {left:?}"
            );
            std::thread::sleep(POLL);
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            eprintln!("failed to end guest {}: {error:#}", self.name);
        }
        self.console.finish();
    }
}

/// The processes that carry the guest's name in their command line: linux.uml and its helpers.
///
/// The stubs that run the guest's programs are copies of the first on an older kernel; on a newer
/// one they have no command line, hold none of the disks, and die with linux.uml.
fn processes_of(name: &str) -> Vec<Pid> {
    guest_processes()
        .into_iter()
        .filter(|(_, other)| other == name)
        .map(|(pid, _)| pid)
        .collect()
}

/// Ends what is left of guests whose owner was killed: the kernel then ends linux.uml itself, but
/// not its helpers, which hold the guest's memory and disks.
pub(crate) fn sweep() {
    for (pid, name) in guest_processes() {
        let owner = name
            .strip_prefix(NAME_PREFIX)
            .and_then(|rest| rest.split('-').next());
        if owner.is_some_and(|owner| !Path::new("/proc").join(owner).exists()) {
            // Fails when it is gone already, which is as good.
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
    }
}

/// Every process of every guest on this machine, with the guest's name.
fn guest_processes() -> Vec<(Pid, String)> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| {
            let pid = entry
                .file_name()
                .to_str()?
                .parse()
                .ok()
                .and_then(Pid::from_raw)?;
            let cmdline = std::fs::read(entry.path().join("cmdline")).ok()?;
            let name = cmdline
                .split(|byte| *byte == 0)
                .find_map(|arg| arg.strip_prefix(b"umid="))?;
            Some((pid, String::from_utf8_lossy(name).into_owned()))
        })
        .collect()
}

const NAME_PREFIX: &str = "stowage-";

fn unique_name() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!(
        "stowage-{}-{}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    )
}

/// `b`, `c` and so on: `ubda` is left free, there the kernel looks for a root by default.
fn letter(index: usize) -> Result<char> {
    ('b'..='p')
        .nth(index)
        .context("a guest has room for 15 disks")
}

/// A kernel parameter with a path; blanks and commas would end or split it.
fn join(key: &str, path: &Path) -> Result<OsString> {
    let bytes = path.as_os_str().as_bytes();
    ensure!(
        !bytes
            .iter()
            .any(|byte| byte.is_ascii_whitespace() || *byte == b','),
        "the kernel's command line cannot name {}: no blanks, no commas",
        path.display()
    );
    let mut parameter = OsString::from(key);
    parameter.push(path);
    Ok(parameter)
}

/// Where the file behind the guest's memory goes: `/dev/shm`, unless that is too small (64 MiB in
/// many containers), where the guest would die of a bus error as its memory fills.
fn memory_dir<'a>(memory: &str, scratch: &'a Path) -> Result<&'a OsStr> {
    let needed = disk::parse_size(memory)?;
    let free = rustix::fs::statvfs("/dev/shm").map_or(0, |fs| fs.f_bavail * fs.f_frsize);
    Ok(if free > needed {
        OsStr::new("/dev/shm")
    } else {
        scratch.as_os_str()
    })
}
