//! A daemon under test: its pool on real storage, its command line, its CSI socket. Everything it
//! leaves is undone when dropped, and what it should not have left is an error.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test program uses a part of it"
)]
#![allow(
    clippy::disallowed_methods,
    reason = "tests start the program under test"
)]

pub mod calls;
pub mod recorded;
pub mod throttle;
pub mod uses;

use std::fs::File;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde_json::Value;
use stowage_testkit::disk::{self, FsKind, LoopFs};

/// The program under test, built with the crash points.
pub const STOWAGE: &str = env!("CARGO_BIN_EXE_stowage");

/// Longer than any start should take, also in a guest.
const START: Duration = Duration::from_secs(60);

/// Below a rig's directory: the points its daemon passed, and the one where it is to die.
const POINTS: &str = "points";
const DIES_AT: &str = "dies-at";

/// The pool under test.
pub enum Storage {
    /// Files on a loop device with this file system.
    File(LoopFs),
    /// A volume group on the guest's disks.
    Lvm { vg: String, disks: Vec<PathBuf> },
    /// A thin pool on the guest's disks.
    Thin { vg: String, disks: Vec<PathBuf> },
    /// That of another rig.
    Others,
}

/// A thin pool `tp` of this size (as lvcreate has it) in a group, as an administrator makes one.
pub fn thin_pool(vg: &str, size: &[&str]) {
    let made = ["-y", "-q", "--type", "thin-pool", "-Zy", "-n", "tp"];
    tool("lvcreate", &[&made[..], size, &[vg]].concat());
}

impl Storage {
    /// A file pool on a fresh file system of 8 GiB (sparse).
    pub fn file(kind: FsKind) -> Self {
        Self::File(LoopFs::new(kind, 8 << 30).expect("a file system on a loop device"))
    }

    /// A volume group on all disks of the guest, or the thin pool in one.
    pub fn lvm(thin: bool) -> Self {
        let disks: Vec<PathBuf> = std::env::var(stowage_testkit::guest::DISKS_VARIABLE)
            .expect("run this test in a guest: cargo xtask test --only guest")
            .split(',')
            .map(PathBuf::from)
            .collect();
        let vg = "vgtest".to_owned();
        wipe(&vg, &disks);
        let shown: Vec<String> = disks.iter().map(|d| d.display().to_string()).collect();
        let names: Vec<&str> = shown.iter().map(String::as_str).collect();
        tool(
            "vgcreate",
            &[&["-y", vg.as_str()], names.as_slice()].concat(),
        );
        if !thin {
            return Self::Lvm { vg, disks };
        }
        thin_pool(&vg, &["-l", "80%FREE"]);
        Self::Thin { vg, disks }
    }

    /// The pool `p` in the daemon's configuration.
    pub fn toml(&self) -> String {
        match self {
            Self::File(fs) => format!(
                "[[pool]]\nname = \"p\"\nkind = \"file\"\npath = \"{}\"\noverprovision = 4.0\n",
                fs.path().join("pool").display()
            ),
            Self::Lvm { vg, .. } => {
                format!("[[pool]]\nname = \"p\"\nkind = \"lvm\"\nvg = \"{vg}\"\n")
            }
            Self::Thin { vg, .. } => format!(
                "[[pool]]\nname = \"p\"\nkind = \"thin\"\nvg = \"{vg}\"\nthin-pool = \"tp\"\n\
                 overprovision = 4.0\n"
            ),
            Self::Others => String::new(),
        }
    }

    /// Every volume, snapshot and leftover in the pool, as the pool's own tools show them.
    pub fn contents(&self) -> Vec<String> {
        let mut names = match self {
            Self::File(fs) => ["volumes", "snapshots", "making", "trash"]
                .iter()
                .filter_map(|d| std::fs::read_dir(fs.path().join("pool").join(d)).ok())
                .flatten()
                .map(|e| e.expect("readable").path().display().to_string())
                .collect(),
            Self::Lvm { vg, .. } | Self::Thin { vg, .. } => {
                let out = output("lvs", &["--noheadings", "-o", "lv_name", vg]);
                out.split_whitespace()
                    .filter(|n| *n != "tp")
                    .map(str::to_owned)
                    .collect()
            }
            Self::Others => Vec::new(),
        };
        let names_ref: &mut Vec<String> = &mut names;
        names_ref.sort();
        names
    }
}

/// Whether volumes are files there.
pub fn is_file(storage: &Storage) -> bool {
    matches!(storage, Storage::File(_))
}

impl Drop for Storage {
    fn drop(&mut self) {
        match self {
            Self::File(_) | Self::Others => {}
            Self::Lvm { vg, disks } | Self::Thin { vg, disks } => wipe(vg, disks),
        }
    }
}

fn wipe(vg: &str, disks: &[PathBuf]) {
    let quiet = |program: &str, args: &[&str]| {
        let _ = Command::new(program)
            .args(args)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
    };
    quiet("vgremove", &["-y", "-f", vg]);
    // LVM's labels, too.
    let disks: Vec<String> = disks.iter().map(|d| d.display().to_string()).collect();
    let all: Vec<&str> = std::iter::once("-a")
        .chain(disks.iter().map(String::as_str))
        .collect();
    quiet("wipefs", &all);
}

/// Run a tool that must succeed.
#[track_caller]
pub fn tool(program: &str, args: &[&str]) {
    output(program, args);
}

/// Run a tool that must succeed; what it printed.
#[track_caller]
pub fn output(program: &str, args: &[&str]) -> String {
    let out = Command::new(program).args(args).env("LC_ALL", "C").output();
    let out = out.unwrap_or_else(|e| panic!("failed to start {program}: {e}"));
    assert!(
        out.status.success(),
        "{program} {args:?} failed: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// Longer than the program under test takes to end, whatever the machine does beside it.
pub const END: Duration = Duration::from_secs(60);

/// What a program printed on the pipes it has, and how it ended. One that does not end is killed, and
/// told with what it said and with its log.
#[track_caller]
pub fn ends_within(limit: Duration, child: Child, log: impl FnOnce() -> String) -> Output {
    let pid = rustix::process::Pid::from_child(&child);
    let (sender, ended) = mpsc::channel();
    std::thread::spawn(move || {
        // Nobody waits for it any more after the time.
        let _ = sender.send(child.wait_with_output());
    });
    if let Ok(output) = ended.recv_timeout(limit) {
        return output.expect("a child");
    }
    // One that hangs in the kernel ends later.
    let killed = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    let output = ended.recv_timeout(Duration::from_secs(5));
    let said = output.ok().and_then(Result::ok).unwrap_or_else(|| Output {
        status: ExitStatus::default(),
        stdout: Vec::new(),
        stderr: Vec::new(),
    });
    let said = [&said.stdout, &said.stderr].map(|text| String::from_utf8_lossy(text));
    panic!(
        "it has not ended in {limit:?}; killed: {killed:?}\n{}{}{}",
        said[0],
        said[1],
        log()
    );
}

/// What a command of ours came to.
pub struct Answer {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Answer {
    /// The JSON it printed; it must have succeeded.
    #[track_caller]
    pub fn json(&self) -> Value {
        self.ok();
        serde_json::from_str(&self.stdout).unwrap_or(Value::Null)
    }

    /// It must have succeeded.
    #[track_caller]
    pub fn ok(&self) -> &Self {
        assert!(self.status.success(), "failed: {}", self.stderr);
        self
    }

    /// It must have failed with one line of error that holds each of these words.
    #[track_caller]
    pub fn fails_with(&self, words: &[&str]) -> &Self {
        assert!(!self.status.success(), "succeeded: {}", self.stdout);
        assert_ne!(self.status.code(), Some(101), "panicked: {}", self.stderr);
        assert_eq!(
            self.stderr.trim().lines().count(),
            1,
            "not one line: {}",
            self.stderr
        );
        for word in words {
            assert!(
                self.stderr.contains(word),
                "{word:?} is not in: {}",
                self.stderr
            );
        }
        self
    }
}

/// A rig's directory.
pub struct Work {
    dir: tempfile::TempDir,
    /// Where it is mounted, if its path is to be this one.
    at: Option<PathBuf>,
}

impl Work {
    fn new() -> Self {
        let dir = stowage_testkit::scratch::short().expect("a directory");
        Self { dir, at: None }
    }

    /// A directory of its own at this path. Each suite has mounts of its own: what a killed one left
    /// at the path is hidden, and two at a time do not meet.
    pub fn at(path: &Path) -> Self {
        let mut work = Self::new();
        // It stays: to remove it would undo the mount of another run.
        std::fs::create_dir_all(path).expect("a directory");
        work.at = Some(path.to_owned());
        let (from, to) = (work.dir.path().display(), path.display());
        tool("mount", &["--bind", &from.to_string(), &to.to_string()]);
        work
    }

    pub fn path(&self) -> &Path {
        self.at.as_deref().unwrap_or_else(|| self.dir.path())
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        if let Some(at) = &self.at {
            // While it panics there is no use in another.
            let _ = disk::run("umount", [at]);
        }
    }
}

/// A daemon and what it stands on.
pub struct Rig {
    pub work: Work,
    pub storage: Storage,
    daemon: Option<Child>,
    /// How the last daemon ended, if it did so by itself.
    ended: Option<ExitStatus>,
    /// The point where the daemon is to die.
    dies_at: Option<String>,
    environment: Vec<(String, String)>,
    /// A capability that the daemon is started without.
    lacking: Option<&'static str>,
}

impl Rig {
    /// A running daemon on this storage.
    pub fn new(storage: Storage) -> Self {
        let mut rig = Self::stopped(storage);
        rig.start();
        rig
    }

    /// The same, not started yet.
    pub fn stopped(storage: Storage) -> Self {
        Self::stopped_in(Work::new(), storage)
    }

    /// The same, in this directory.
    pub fn stopped_in(work: Work, storage: Storage) -> Self {
        stowage_testkit::require(&["blkid", "mkfs.ext4", "mkfs.xfs", "mkfs.btrfs"]);
        let config = format!(
            "node-name = \"node-a\"\nstate-dir = \"{0}/state\"\ncsi-socket = \"{0}/csi.sock\"\n\
             admin-socket = \"{0}/admin.sock\"\nmetrics = \"off\"\n{1}",
            work.path().display(),
            storage.toml()
        );
        std::fs::write(work.path().join("stowage.toml"), config).expect("a writable directory");
        Self {
            work,
            storage,
            daemon: None,
            ended: None,
            dies_at: None,
            environment: Vec::new(),
            lacking: None,
        }
    }

    /// Another daemon, with directories and sockets of its own and the same pools, not started yet.
    pub fn beside(&self) -> Self {
        let work = Work::new();
        let config = std::fs::read_to_string(self.path("stowage.toml")).expect("a configuration");
        let (ours, its) = (self.work.path().display(), work.path().display());
        let config = config.replace(&ours.to_string(), &its.to_string());
        std::fs::write(work.path().join("stowage.toml"), config).expect("a writable directory");
        Self {
            work,
            storage: Storage::Others,
            daemon: None,
            ended: None,
            dies_at: None,
            environment: Vec::new(),
            lacking: Default::default(),
        }
    }

    /// Add lines to the configuration; at first they are its pool's.
    pub fn configure(&self, lines: &str) {
        let file = File::options().append(true).open(self.path("stowage.toml"));
        let written = file.and_then(|mut file| file.write_all(lines.as_bytes()));
        written.expect("a writable configuration");
    }

    /// Start the daemon so that it serves metrics; at which port.
    #[track_caller]
    pub fn start_with_metrics(&mut self) -> u16 {
        let path = self.path("stowage.toml");
        let text = get(&path);
        // Between finding a port free and the daemon's taking it, somebody else may take it.
        for _ in 0..2 {
            let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
            let port = free.local_addr().expect("an address").port();
            let served = format!("metrics = \"127.0.0.1:{port}\"");
            let text = text.replace("metrics = \"off\"", &served);
            std::fs::write(&path, text).expect("a writable configuration");
            drop(free);
            self.start();
            if !self.run(&["doctor"]).stdout.contains("listen on") {
                return port;
            }
            self.stop();
        }
        panic!("no port to be had: {}", self.log());
    }

    /// A path below the working directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.work.path().join(name)
    }

    /// As [`Rig::path`], as text.
    pub fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// Set a variable for the next start.
    pub fn set(&mut self, key: &str, value: &str) {
        self.environment.retain(|(k, _)| k != key);
        self.environment.push((key.to_owned(), value.to_owned()));
    }

    /// Start without a capability from now on, as in many containers.
    pub fn lacks(&mut self, capability: &'static str) {
        self.lacking = Some(capability);
    }

    /// From its next start on the daemon notes the points it passes, and can be told while it runs
    /// where to die.
    pub fn watch_points(&mut self) {
        for (variable, file) in [
            ("STOWAGE_FAILPOINT_LOG", POINTS),
            ("STOWAGE_FAILPOINT_FILE", DIES_AT),
        ] {
            let path = self.text(file);
            self.set(variable, &path);
        }
    }

    /// Points passed since the last [`Rig::forget_points`], each time.
    pub fn points(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.path(POINTS)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    pub fn forget_points(&self) {
        let _ = std::fs::remove_file(self.path(POINTS));
    }

    /// Let the daemon die at this point, `name` or `name#2` for its second hit from here on: the
    /// one that runs, if it watches points already, else the next that is started.
    pub fn die_at(&mut self, point: &str) {
        self.watch_points();
        self.forget_points();
        // There whole or not at all: the daemon may be looking.
        let beside = self.path("dies-at.new");
        std::fs::write(&beside, point).expect("a writable directory");
        std::fs::rename(&beside, self.path(DIES_AT)).expect("a writable directory");
        self.dies_at = Some(point.to_owned());
    }

    /// Start the daemon and wait until it serves, with all pools read that can be; false when it
    /// ended before, which [`Rig::died`] judges.
    pub fn try_start(&mut self) -> bool {
        if !self.start_at_once() {
            return false;
        }
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.run(&["doctor"]).stdout.contains("it is being read") {
            assert!(Instant::now() < deadline, "still reading: {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        self.is_alive()
    }

    /// Whether the daemon runs.
    pub fn is_alive(&mut self) -> bool {
        let Some(child) = &mut self.daemon else {
            return false;
        };
        self.ended = child.try_wait().expect("a child");
        if self.ended.is_some() {
            self.daemon = None;
        }
        self.ended.is_none()
    }

    /// As [`Rig::try_start`], whatever pools are still to be read.
    pub fn start_at_once(&mut self) -> bool {
        assert!(self.daemon.is_none(), "the daemon runs already");
        let log = File::options()
            .append(true)
            .create(true)
            .open(self.path("log"))
            .expect("a writable directory");
        let mut command = match self.lacking {
            None => Command::new(STOWAGE),
            Some(capability) => {
                let mut command = Command::new("setpriv");
                command.args(["--bounding-set", &format!("-{capability}"), STOWAGE]);
                command
            }
        };
        command
            .args(["serve", "--config"])
            .arg(self.path("stowage.toml"))
            .envs(
                self.environment
                    .iter()
                    .map(|(k, v)| (k.as_str(), v.as_str())),
            )
            .stdout(Stdio::null())
            .stderr(log);
        self.ended = None;
        let child = command.spawn().expect("the program under test starts");
        let pid = child.id();
        self.daemon = Some(child);
        let deadline = Instant::now() + START;
        // The admin socket is bound last.
        while !self.answers(pid) {
            if !self.is_alive() {
                return false;
            }
            assert!(
                Instant::now() < deadline,
                "the daemon does not serve: {}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        true
    }

    /// Whether the daemon with this process id listens. A command that a killed one was just starting
    /// keeps its sockets open until it executes, and nobody answers there.
    fn answers(&self, pid: u32) -> bool {
        let Ok(stream) = UnixStream::connect(self.path("admin.sock")) else {
            return false;
        };
        let peer = rustix::net::sockopt::socket_peercred(&stream).expect("a Unix socket");
        peer.pid.as_raw_nonzero().get().cast_unsigned() == pid
    }

    /// Start the daemon.
    #[track_caller]
    pub fn start(&mut self) {
        assert!(
            self.try_start(),
            "the daemon died at its start: {}",
            self.log()
        );
    }

    /// Kill the daemon with SIGKILL.
    pub fn kill(&mut self) {
        self.ended = None;
        if let Some(mut child) = self.daemon.take() {
            child.kill().expect("a child");
            child.wait().expect("a child");
        }
    }

    /// As [`Rig::kill`], without waiting: a thread of it may hang in the kernel.
    pub fn kill_at_once(&mut self) -> Child {
        let mut child = self.daemon.take().expect("the daemon runs");
        child.kill().expect("a child");
        child
    }

    /// Whether the daemon has died by itself. It must have been SIGKILL, and where a point was named
    /// at that point: one that could not start, or panicked, has not died where it was to.
    #[track_caller]
    pub fn died(&mut self) -> bool {
        let deadline = Instant::now() + Duration::from_millis(500);
        while self.is_alive() {
            if Instant::now() > deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let status = self.ended.expect("a daemon that was started, not killed");
        assert_eq!(
            status.signal(),
            Some(9),
            "ended with {status}: {}",
            self.log()
        );
        if let Some(point) = self.dies_at.take() {
            std::fs::remove_file(self.path(DIES_AT)).expect("the name of the point");
            let (name, nth) = point.split_once('#').unwrap_or((&point, "1"));
            let passed = self.points();
            let hits = passed.iter().filter(|passed| *passed == name).count();
            // Another thread may come by while the one that dies is dying.
            assert!(
                hits >= nth.parse().expect("a number"),
                "killed elsewhere than at {point}, after {passed:?}"
            );
        }
        true
    }

    /// Stop the daemon with SIGTERM; it must end well.
    #[track_caller]
    pub fn stop(&mut self) {
        let Some(child) = self.daemon.take() else {
            return;
        };
        let pid = child.id().to_string();
        tool("kill", &["-TERM", &pid]);
        let status = ends_within(END, child, || self.log()).status;
        assert!(
            status.success(),
            "the daemon ended with {status}: {}",
            self.log()
        );
    }

    /// The daemon's process id.
    pub fn pid(&self) -> u32 {
        self.daemon.as_ref().expect("the daemon runs").id()
    }

    /// Run a command of ours, with JSON output.
    pub fn run(&self, args: &[&str]) -> Answer {
        let out = Command::new(STOWAGE)
            .args(["-o", "json", "--socket"])
            .arg(self.path("admin.sock"))
            .args(args)
            .output()
            .expect("the program under test starts");
        Answer {
            status: out.status,
            stdout: String::from_utf8_lossy(&out.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&out.stderr).into_owned(),
        }
    }

    /// Run a command of ours that must succeed.
    #[track_caller]
    pub fn ok(&self, args: &[&str]) -> Value {
        let answer = self.run(args);
        assert!(
            answer.status.success(),
            "{args:?}: {}\n{}",
            answer.stderr,
            self.log()
        );
        answer.json()
    }

    /// What the daemon logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Wait until nothing is copied or wiped any more.
    #[track_caller]
    pub fn settle(&self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.ok(&["jobs"]) != Value::Array(Vec::new()) {
            assert!(Instant::now() < deadline, "still at work: {}", self.log());
            // In a guest each look takes half of this from what is waited for.
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// After everything was deleted: nothing may be left, neither in the pool nor mounted nor
    /// attached.
    #[track_caller]
    pub fn assert_clean(&self) {
        self.settle();
        let none: Vec<String> = Vec::new();
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.storage.contents() != none && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(50));
        }
        assert_eq!(
            self.storage.contents(),
            none,
            "left in the pool: {}",
            self.log()
        );
        let mounts = std::fs::read_to_string("/proc/self/mounts").expect("a mount table");
        let work = self.work.path().display().to_string();
        let below = format!("{work}/");
        let left: Vec<&str> = mounts.lines().filter(|l| l.contains(&below)).collect();
        assert!(left.is_empty(), "left mounted: {left:?}");
        if let Storage::File(fs) = &self.storage {
            let loops = disk::loops_below(fs.path()).expect("sysfs");
            assert!(loops.is_empty(), "left attached: {loops:?}");
        }
        let journal: Vec<_> = std::fs::read_dir(self.path("state/journal"))
            .expect("a journal")
            .collect();
        assert!(journal.is_empty(), "left in the journal: {journal:?}");
    }
}

impl Rig {
    /// Unmount and detach all that a killed daemon left in use.
    pub fn unmount_all(&self) {
        disk::unmount_below(self.work.path()).expect("nobody uses what is mounted");
        if let Storage::File(fs) = &self.storage {
            disk::detach_loops_below(fs.path()).expect("nobody uses what is attached");
        }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.kill();
        let _ = disk::unmount_below(self.work.path());
        if let Storage::File(fs) = &self.storage {
            let _ = disk::detach_loops_below(fs.path());
        }
    }
}

/// Write a file and bring it to the disk.
#[track_caller]
pub fn put(path: &Path, text: &str) {
    use std::io::Write;
    let mut file = File::create(path).expect("a writable volume");
    file.write_all(text.as_bytes()).expect("room");
    file.sync_all().expect("a disk");
}

/// Read a file.
#[track_caller]
pub fn get(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The status line and the body of an answer of the daemon's web server.
#[track_caller]
pub fn http(port: u16, path: &str) -> (String, String) {
    use std::io::Read;
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    // A daemon that is dead and cannot end still listens.
    let patience = Some(Duration::from_secs(60));
    stream.set_read_timeout(patience).expect("a socket");
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    .expect("sent");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head and a body");
    let status = head.lines().next().expect("a status line");
    (status.to_owned(), body.to_owned())
}
