//! One cell of the conformance matrix: a pool of one kind, the daemon on it, csi-sanity against
//! the daemon with volumes of one access type.
//!
//! The same code runs on the machine (pools of files) and in a guest (pools on LVM), where this
//! program is started a second time; the result travels in a file.

mod daemon;

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use stowage_testkit::disk::{self, FsKind, LoopFs, run};
use stowage_testkit::guest::DISKS_VARIABLE;
use stowage_testkit::sanity::{Access, Sanity};
use stowage_testkit::scratch;

use crate::process;
use crate::tally::Tally;
use daemon::Daemon;

const SUITE_TIMEOUT: Duration = Duration::from_secs(15 * 60);

/// Holds all volumes of a spec many times over, and costs nothing until written.
const FILE_POOL_BYTES: u64 = 8 << 30;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Pool {
    File,
    Lvm,
    Thin,
}

impl Pool {
    pub(crate) const ALL: [Self; 3] = [Self::File, Self::Lvm, Self::Thin];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Lvm => "lvm",
            Self::Thin => "thin",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cell {
    pub(crate) pool: Pool,
    pub(crate) access: Access,
}

impl Cell {
    pub(crate) fn all() -> Vec<Self> {
        let both = [Access::Mount, Access::Block];
        Pool::ALL
            .into_iter()
            .flat_map(|pool| both.map(|access| Self { pool, access }))
            .collect()
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sanity-{}-{}", self.pool.name(), self.access.name())
    }
}

/// What a cell came to, as it is written to `result.json` in its log directory.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct CellResult {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    pub(crate) skipped: usize,
    pub(crate) pending: usize,
    pub(crate) seconds: f64,
    /// Why the cell fails, be it failed specs, a wrong skip, a crash or something left behind.
    pub(crate) problem: Option<String>,
}

impl CellResult {
    pub(crate) fn broken(error: &anyhow::Error) -> Self {
        Self {
            problem: Some(format!("{error:#}")),
            ..Self::default()
        }
    }

    pub(crate) fn tally(&self) -> Tally {
        Tally {
            passed: self.passed,
            failed: self.failed,
            ignored: 0,
        }
        .at_least_one_failed(self.problem.is_none())
    }

    pub(crate) fn read(logs: &Path) -> Result<Self> {
        let path = logs.join("result.json");
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("the cell left no result in {}", path.display()))?;
        serde_json::from_str(&text).context("failed to parse the cell's result")
    }

    pub(crate) fn write(&self, logs: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).context("failed to write the result")?;
        std::fs::write(logs.join("result.json"), text).context("failed to write the result")
    }
}

/// Runs the cell here and now; all logs go to `logs`.
pub(crate) fn run_cell(cell: Cell, stowage: &Path, logs: &Path) -> CellResult {
    let started = Instant::now();
    let mut result =
        try_cell(cell, stowage, logs).unwrap_or_else(|error| CellResult::broken(&error));
    result.seconds = started.elapsed().as_secs_f64();
    result
}

fn try_cell(cell: Cell, stowage: &Path, logs: &Path) -> Result<CellResult> {
    // A short path: a socket's has room for 107 bytes.
    let work = scratch::short()?;
    let storage = Storage::make(cell.pool)?;
    let config = work.path().join("stowage.toml");
    std::fs::write(&config, daemon::config(work.path(), &storage.pool_toml))
        .context("failed to write the daemon's configuration")?;

    let mut daemon = Daemon::start(stowage, &config, work.path(), logs)?;
    let report = Sanity::new(daemon.csi_socket(), cell.access)
        .volume_parameter("pool", daemon::POOL)
        .mutable_parameter("bps", "10485760")
        .mutable_parameter("iops", "1000")
        .run(logs, SUITE_TIMEOUT, || daemon.is_alive());
    let stopped = daemon.stop();
    // Looked for after the daemon's end, which may still let go of something.
    let left = storage.left_behind(work.path());
    // Whatever was left must go before the directories can.
    disk::unmount_below(work.path())?;

    let report = match report {
        Ok(report) => report,
        // Most often because of what became of the daemon, so that is told first.
        Err(error) => {
            stopped?;
            return Err(error.context("csi-sanity did not run to its end"));
        }
    };
    let checks = [report.check(), stopped, left];
    let problems: Vec<String> = checks
        .into_iter()
        .filter_map(Result::err)
        .map(|error| format!("{error:#}"))
        .collect();
    Ok(CellResult {
        passed: report.passed,
        failed: report.failed.len(),
        skipped: report.skipped.len(),
        pending: report.pending.len(),
        seconds: 0.0,
        problem: (!problems.is_empty()).then(|| problems.join("\n")),
    })
}

/// What a pool lies on.
struct Storage {
    pool_toml: String,
    fs: Option<LoopFs>,
}

impl Storage {
    /// On LVM with bare commands, so that the driver's own are not trusted to prepare its test.
    fn make(pool: Pool) -> Result<Self> {
        match pool {
            Pool::File => {
                let fs = LoopFs::new(FsKind::Xfs, FILE_POOL_BYTES)?;
                let path = fs.path().join("pool");
                std::fs::create_dir(&path).context("failed to create the pool's directory")?;
                let path = toml::Value::from(path.display().to_string());
                Ok(Self {
                    pool_toml: format!("kind = \"file\"\npath = {path}"),
                    fs: Some(fs),
                })
            }
            Pool::Lvm => {
                make_volume_group()?;
                Ok(Self {
                    pool_toml: "kind = \"lvm\"\nvg = \"vg0\"".to_owned(),
                    fs: None,
                })
            }
            Pool::Thin => {
                make_volume_group()?;
                let size = [
                    "--type",
                    "thin-pool",
                    "-l",
                    "80%FREE",
                    "--poolmetadatasize",
                    "16M",
                ];
                run(
                    "lvcreate",
                    ["-q", "-y", "-n", "tp"].iter().chain(&size).chain(&["vg0"]),
                )?;
                let toml = "kind = \"thin\"\nvg = \"vg0\"\nthin-pool = \"tp\"\noverprovision = 2.0";
                Ok(Self {
                    pool_toml: toml.to_owned(),
                    fs: None,
                })
            }
        }
    }

    /// Fails if the daemon left a mount, a loop device, a volume or a snapshot: csi-sanity has
    /// unpublished, unstaged and deleted all it made.
    fn left_behind(&self, work: &Path) -> Result<()> {
        let mounts: Vec<PathBuf> = disk::mounts()?
            .into_iter()
            .map(|(_, target)| target)
            .filter(|target| target.starts_with(work))
            .collect();
        ensure!(
            mounts.is_empty(),
            "the driver left mounts behind: {mounts:?}"
        );
        if let Some(fs) = &self.fs {
            let loops = disk::loops_below(fs.path())?;
            ensure!(
                loops.is_empty(),
                "the driver left loop devices behind: {loops:?}"
            );
        }
        let kept = match &self.fs {
            Some(fs) => kept_files(&fs.path().join("pool"))?,
            None => kept_lvs()?,
        };
        ensure!(kept.is_empty(), "the driver left behind: {kept:?}");
        Ok(())
    }
}

/// Volumes and snapshots in a file pool; what lies in its trash is deleted already.
fn kept_files(pool: &Path) -> Result<Vec<String>> {
    let mut kept = Vec::new();
    for folder in ["volumes", "snapshots"] {
        let entries = std::fs::read_dir(pool.join(folder)).context("failed to list the pool")?;
        for entry in entries {
            kept.push(entry?.path().display().to_string());
        }
    }
    Ok(kept)
}

/// Logical volumes but for the thin pool and those that are deleted and await their wipe.
fn kept_lvs() -> Result<Vec<String>> {
    let mut lvs = process::command("lvs", ["--noheadings", "-o", "lv_name", "vg0"]);
    let names = process::output(&mut lvs)?;
    let kept = names
        .split_whitespace()
        .filter(|name| *name != "tp" && !name.starts_with("stowage-x-"));
    Ok(kept.map(str::to_owned).collect())
}

fn make_volume_group() -> Result<()> {
    let disks = std::env::var(DISKS_VARIABLE)
        .with_context(|| format!("{DISKS_VARIABLE} is not set: this cell belongs in a guest"))?;
    let disks: Vec<&str> = disks.split(',').filter(|disk| !disk.is_empty()).collect();
    ensure!(!disks.is_empty(), "the guest has no disks");
    run("pvcreate", ["-q"].iter().chain(&disks))?;
    run("vgcreate", ["-q", "vg0"].iter().chain(&disks))?;
    Ok(())
}
