//! One test binary or one cell of the matrix, on the machine or in a guest.

use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use stowage_testkit::{Guest, scratch};

use crate::cell::{Cell, CellResult};
use crate::process;
use crate::tally::Tally;

/// Several times what the slowest takes on two busy cores.
const GUEST_TIMEOUT: Duration = Duration::from_secs(20 * 60);

/// Sparse: they cost what is written to them.
const GUEST_DISKS: usize = 3;
const GUEST_DISK_BYTES: u64 = 2 << 30;

pub(super) struct Job {
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) logs: PathBuf,
    /// Runs while nothing else does.
    pub(super) alone: bool,
}

pub(super) enum Kind {
    HostTest {
        executable: PathBuf,
        package: PathBuf,
    },
    GuestTest {
        executable: PathBuf,
        package: PathBuf,
    },
    SanityCell {
        cell: Cell,
        stowage: PathBuf,
    },
}

pub(super) struct Finished {
    pub(super) name: String,
    pub(super) tally: Tally,
    pub(super) elapsed: Duration,
    pub(super) cell: Option<CellResult>,
    pub(super) problem: Option<String>,
}

impl Job {
    pub(super) fn run(self) -> Finished {
        println!("== {}", self.name);
        let started = Instant::now();
        let done = match &self.kind {
            Kind::HostTest {
                executable,
                package,
            } => self.test(executable, package, false),
            Kind::GuestTest {
                executable,
                package,
            } => self.test(executable, package, true),
            Kind::SanityCell { cell, stowage } => self.sanity_cell(*cell, stowage),
        };
        let elapsed = started.elapsed();
        let finished = match done {
            Ok((tally, cell, problem)) => Finished {
                name: self.name,
                tally,
                elapsed,
                cell,
                problem,
            },
            Err(error) => Finished {
                name: self.name,
                tally: Tally::ONE_FAILED,
                elapsed,
                cell: None,
                problem: Some(format!("{error:#}")),
            },
        };
        let Tally { passed, failed, .. } = finished.tally;
        println!("== {}: {passed} passed, {failed} failed", finished.name);
        finished
    }

    fn test(&self, executable: &Path, package: &Path, in_guest: bool) -> Result<Parts> {
        // One at a time: they share the machine's devices, and in a guest the only core.
        let argv = [executable.as_os_str().to_owned(), "--test-threads=1".into()];
        let (good, tally) = if in_guest {
            self.in_guest(argv, package, true)?
        } else {
            self.here(argv, package, true)?
        };
        let Some(tally) = tally else {
            bail!(
                "{} printed no result; see {}",
                self.name,
                self.console().display()
            );
        };
        let problem = (!good).then(|| format!("see above or {}", self.console().display()));
        Ok((tally.at_least_one_failed(good), None, problem))
    }

    fn sanity_cell(&self, cell: Cell, stowage: &Path) -> Result<Parts> {
        // A result from an earlier run must not pass for this one's.
        if self.logs.exists() {
            std::fs::remove_dir_all(&self.logs).context("failed to remove old logs")?;
        }
        let this = std::env::current_exe().context("failed to find this program")?;
        let argv: Vec<OsString> = vec![
            this.into(),
            "sanity-cell".into(),
            "--pool".into(),
            cell.pool.name().into(),
            "--access".into(),
            cell.access.name().into(),
            "--stowage".into(),
            stowage.into(),
            "--logs".into(),
            self.logs.clone().into(),
        ];
        if cell.pool.needs_guest() {
            self.in_guest(argv, &scratch::workspace(), false)?
        } else {
            self.here(argv, &scratch::workspace(), false)?
        };
        let result = CellResult::read(&self.logs)?;
        Ok((result.tally(), Some(result.clone()), result.problem))
    }

    fn here(
        &self,
        argv: impl IntoIterator<Item = OsString>,
        dir: &Path,
        aloud: bool,
    ) -> Result<(bool, Option<Tally>)> {
        let mut log = Log::create(&self.console(), &self.name, aloud)?;
        let mut argv = argv.into_iter();
        let mut command = process::command(argv.next().context("no command")?, argv);
        command.current_dir(dir);
        let good = process::stream(command, |line| log.line(line))?;
        Ok((good, log.tally))
    }

    fn in_guest(
        &self,
        argv: impl IntoIterator<Item = OsString>,
        dir: &Path,
        aloud: bool,
    ) -> Result<(bool, Option<Tally>)> {
        let mut log = Log::create(&self.console(), &self.name, aloud)?;
        let mut guest = Guest::builder()
            .current_dir(dir)
            .visible(&self.logs)
            .env("RUST_BACKTRACE", "1")
            .on_line(move |line| log.line(line));
        for _ in 0..GUEST_DISKS {
            guest = guest.disk(GUEST_DISK_BYTES);
        }
        let outcome = guest.boot(argv, GUEST_TIMEOUT)?;
        let lines = outcome.console.lines();
        Ok((
            outcome.status == 0,
            lines.iter().rev().find_map(|line| Tally::parse(line)),
        ))
    }

    fn console(&self) -> PathBuf {
        self.logs.join("console.txt")
    }
}

type Parts = (Tally, Option<CellResult>, Option<String>);

/// Everything printed goes to a file; when `aloud` also to the terminal, with the job's name.
struct Log {
    file: File,
    name: String,
    aloud: bool,
    tally: Option<Tally>,
}

impl Log {
    fn create(path: &Path, name: &str, aloud: bool) -> Result<Self> {
        let dir = path.parent().context("a log needs a directory")?;
        std::fs::create_dir_all(dir).context("failed to create the log directory")?;
        let file =
            File::create(path).with_context(|| format!("failed to create {}", path.display()))?;
        Ok(Self {
            file,
            name: name.to_owned(),
            aloud,
            tally: None,
        })
    }

    fn line(&mut self, line: &str) {
        // A full disk costs the log, not the test.
        let _ = writeln!(self.file, "{line}");
        self.tally = Tally::parse(line).or(self.tally);
        if self.aloud {
            println!("{}: {line}", self.name);
        }
    }
}
