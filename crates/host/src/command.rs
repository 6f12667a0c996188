//! Commands: what to run, what came back, and the seam behind which tests put a script.
//!
//! Never a shell; secrets go by stdin only, because every user of the machine can read argv.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::time::Duration;

use async_trait::async_trait;

#[cfg(any(test, feature = "fake"))]
pub mod fake;
mod system;

pub use system::System;

use crate::holders::{Holder, list};

/// Long enough for a metadata change of LVM on a busy disk, short enough that a hung device is
/// noticed before kubelet's own two minutes are over.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(90);

/// A command to run: program, arguments, and at most some bytes on stdin.
#[derive(Clone, PartialEq, Eq)]
pub struct Cmd {
    pub(crate) program: OsString,
    pub(crate) args: Vec<OsString>,
    pub(crate) settings: Vec<OsString>,
    pub(crate) stdin: Option<Vec<u8>>,
    pub(crate) timeout: Duration,
    pub(crate) spared: bool,
    pub(crate) undisturbed: bool,
    pub(crate) lock: Option<(String, Duration)>,
}

impl Cmd {
    /// A command looked up in the runner's own search path, with a time-out of 90 seconds.
    pub fn new(program: impl Into<OsString>) -> Self {
        Self {
            program: program.into(),
            args: Vec::new(),
            settings: Vec::new(),
            stdin: None,
            timeout: DEFAULT_TIMEOUT,
            spared: false,
            undisturbed: false,
            lock: None,
        }
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Adds several arguments.
    #[must_use]
    pub fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Adds arguments that come last and that people need not see: the same for every command of a
    /// program, such as its configuration. They are in no message and no [`Cmd::argv`].
    #[must_use]
    pub fn settings<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.settings.extend(args.into_iter().map(Into::into));
        self
    }

    /// Adds to the last of [`Cmd::settings`], for a configuration that may be given only once.
    #[must_use]
    pub fn also_set(mut self, more: &str) -> Self {
        if let Some(last) = self.settings.last_mut() {
            last.push(" ");
            last.push(more);
        }
        self
    }

    /// Gives these bytes on stdin, then end of file. The place for keys: they appear in no message.
    #[must_use]
    pub fn stdin(mut self, bytes: Vec<u8>) -> Self {
        self.stdin = Some(bytes);
        self
    }

    /// Ends the command (SIGTERM, two seconds later SIGKILL) when it runs longer than this.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Never sends SIGKILL: after SIGTERM its end is waited for, up to ten minutes. For what leaves
    /// the machine worse than a late answer does when it is cut off, as LVM does between suspending
    /// a device and resuming it.
    #[must_use]
    pub fn spared(mut self) -> Self {
        self.spared = true;
        self
    }

    /// Sends no signal at all and has no time-out: its end is waited for. For what changes an
    /// unmounted file system in place and has no way to be told to end, as resize2fs, which leaves
    /// it broken when it is cut off.
    #[must_use]
    pub fn undisturbed(mut self) -> Self {
        self.undisturbed = true;
        self
    }

    /// Runs the command only while it has the lock of this name, waited for at most that long, and
    /// keeps it held while the command lives, whatever becomes of this process. A command with
    /// bytes on stdin cannot be given one.
    #[must_use]
    pub fn locked(mut self, name: impl Into<String>, wait: Duration) -> Self {
        self.lock = Some((name.into(), wait));
        self
    }

    /// Program and arguments as text, for messages; without [`Cmd::settings`].
    pub fn argv(&self) -> Vec<String> {
        text(std::iter::once(&self.program).chain(&self.args))
    }

    /// What [`Cmd::settings`] added, as text.
    pub fn settings_text(&self) -> Vec<String> {
        text(&self.settings)
    }
}

fn text<'a>(words: impl IntoIterator<Item = &'a OsString>) -> Vec<String> {
    let words = words.into_iter();
    words
        .map(|word| word.to_string_lossy().into_owned())
        .collect()
}

impl fmt::Debug for Cmd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cmd")
            .field("argv", &self.argv())
            .field(
                "stdin",
                &self
                    .stdin
                    .as_ref()
                    .map(|bytes| format!("{} bytes", bytes.len())),
            )
            .field("timeout", &self.timeout)
            .finish()
    }
}

/// What a successful command wrote; bytes that are not UTF-8 become U+FFFD.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Output {
    pub stdout: String,
    pub stderr: String,
}

/// Why a command gave no output.
#[derive(Debug, thiserror::Error)]
pub enum CmdError {
    /// The program is not installed.
    #[error("failed to run {program}: not found, install the package {package}")]
    Missing {
        program: String,
        /// The Debian package that contains it.
        package: String,
    },
    /// It ran and did not exit with 0.
    #[error("failed to run {}: {}{}", argv.join(" "), ending(*code), said(stderr))]
    Failed {
        argv: Vec<String>,
        /// The exit code; none when a signal ended it.
        code: Option<i32>,
        stderr: String,
    },
    /// It was ended because it ran too long.
    #[error("failed to run {}: no end after {after:?}", argv.join(" "))]
    TimedOut { argv: Vec<String>, after: Duration },
    /// It was not run, because what it needs is not there.
    #[error("did not run {}: {why}", argv.join(" "))]
    Refused { argv: Vec<String>, why: String },
    /// What it needs for itself is held by others: commands of a daemon that was killed, or of this
    /// one that could not be ended, or another daemon.
    #[error("failed to run {}: {} is still at work there", argv.join(" "), list(by))]
    Busy { argv: Vec<String>, by: Vec<Holder> },
    /// It could not be started, fed or read.
    #[error("failed to run {}", argv.join(" "))]
    Io {
        argv: Vec<String>,
        source: io::Error,
    },
}

impl CmdError {
    /// The error of a command that was not run.
    pub fn refused(cmd: &Cmd, why: impl Into<String>) -> Self {
        Self::Refused {
            argv: cmd.argv(),
            why: why.into(),
        }
    }

    /// The exit code, if the command ran to its end.
    pub fn code(&self) -> Option<i32> {
        match self {
            Self::Failed { code, .. } => *code,
            _ => None,
        }
    }

    /// What the command wrote to stderr; empty if it did not run to its end.
    pub fn stderr(&self) -> &str {
        match self {
            Self::Failed { stderr, .. } => stderr,
            _ => "",
        }
    }
}

fn ending(code: Option<i32>) -> String {
    code.map_or_else(
        || "ended by a signal".to_owned(),
        |code| format!("exit code {code}"),
    )
}

/// The first three lines of stderr that say something; LVM's warnings come before its reason.
fn said(stderr: &str) -> String {
    let lines: Vec<&str> = stderr
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with("WARNING:"))
        .take(3)
        .collect();
    if lines.is_empty() {
        String::new()
    } else {
        format!(": {}", lines.join("; "))
    }
}

/// The Debian package to install for a program this project runs.
fn package_of(program: &str) -> &str {
    match program.rsplit('/').next().unwrap_or(program) {
        "blkid" | "wipefs" | "sfdisk" | "fstrim" | "lsblk" => "util-linux",
        "mkfs.ext2" | "mkfs.ext3" | "mkfs.ext4" | "resize2fs" | "tune2fs" | "e2fsck" => "e2fsprogs",
        "mkfs.xfs" | "xfs_growfs" | "xfs_admin" | "xfs_repair" => "xfsprogs",
        "mkfs.btrfs" | "btrfs" | "btrfstune" => "btrfs-progs",
        "thin_check" | "thin_dump" | "thin_repair" => "thin-provisioning-tools",
        "cryptsetup" => "cryptsetup-bin",
        "dmsetup" => "dmsetup",
        lvm if lvm == "lvm" || ["pv", "vg", "lv"].iter().any(|kind| lvm.starts_with(kind)) => {
            "lvm2"
        }
        other => other,
    }
}

/// Runs commands: [`System`] on the machine, `fake::Script` in tests.
#[async_trait]
pub trait Runner: Send + Sync {
    /// Runs `cmd` to its end. Exit code 0 is the only success.
    async fn run(&self, cmd: Cmd) -> Result<Output, CmdError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_says_what_lvm_meant_and_not_what_it_always_says() {
        let error = CmdError::Failed {
            argv: vec!["lvcreate".into(), "-n".into(), "a".into()],
            code: Some(5),
            stderr: "  WARNING: Sum of sizes exceeds.\n\n  Volume group has no space.\n".into(),
        };
        assert_eq!(
            error.to_string(),
            "failed to run lvcreate -n a: exit code 5: Volume group has no space."
        );
        assert_eq!(error.code(), Some(5));
    }

    #[test]
    fn keys_on_stdin_are_in_no_message() {
        let cmd = Cmd::new("cryptsetup")
            .arg("open")
            .stdin(b"hunter2".to_vec());
        assert!(!format!("{cmd:?}").contains("hunter2"));
        assert!(format!("{cmd:?}").contains("7 bytes"));
        assert_eq!(cmd.argv(), ["cryptsetup", "open"]);
    }

    #[test]
    fn settings_are_given_and_not_told() {
        let cmd = Cmd::new("lvs").settings(["--config", "x{}"]).arg("-a");
        assert_eq!(cmd.argv(), ["lvs", "-a"]);
        assert_eq!(cmd.settings_text(), ["--config", "x{}"]);
        assert!(!format!("{cmd:?}").contains("config"));
    }

    #[test]
    fn packages_are_those_of_debian() {
        assert_eq!(package_of("lvcreate"), "lvm2");
        assert_eq!(package_of("/usr/sbin/mkfs.xfs"), "xfsprogs");
        assert_eq!(package_of("something"), "something");
    }
}
