//! csi-sanity, the conformance suite of the CSI project, with every spec accounted for.
//!
//! A driver may lack optional calls, and the suite skips what it cannot try. A skip nobody counts
//! hides a capability that was lost by accident, so here each spec is either passed or one of the
//! few that need attaching, which node-local storage does not have.

mod junit;

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::scratch;

/// The specs of csi-sanity 5.6.0 that pass with a driver that can do all but attach: 103 in all,
/// less [`ATTACH_SPECS`], less the pending one.
pub const EXPECTED_PASSED: usize = 92;

/// How many specs need `PUBLISH_UNPUBLISH_VOLUME`: 7, 1 and 2 of the groups below.
pub const ATTACH_SPECS: usize = 10;

/// What the names of those specs begin with.
const ATTACH_GROUPS: [&str; 3] = [
    "[It] Controller Service [Controller Server] ControllerPublishVolume ",
    "[It] Controller Service [Controller Server] ControllerUnpublishVolume ",
    "[It] Controller Service [Controller Server] volume lifecycle ",
];

/// The one spec the suite's authors have switched off (`XIt` in its controller.go).
const PENDING_SPEC: &str = "[It] Controller Service [Controller Server] ListVolumes pagination \
    should detect volumes added between pages and accept tokens when the last volume from a page \
    is deleted";

/// How a volume is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    Mount,
    Block,
}

impl Access {
    pub fn name(self) -> &'static str {
        match self {
            Self::Mount => "mount",
            Self::Block => "block",
        }
    }
}

/// One run of the suite.
#[derive(Debug)]
#[must_use]
pub struct Sanity {
    binary: PathBuf,
    socket: PathBuf,
    access: Access,
    size: u64,
    expanded_size: u64,
    volume_parameters: Parameters,
    mutable_parameters: Parameters,
    snapshot_parameters: Parameters,
}

type Parameters = Vec<(String, String)>;

impl Sanity {
    /// A run against the driver that listens on `socket`, controller and node alike.
    pub fn new(socket: impl Into<PathBuf>, access: Access) -> Self {
        Self {
            binary: default_binary(),
            socket: socket.into(),
            access,
            size: 64 << 20,
            expanded_size: 128 << 20,
            volume_parameters: Parameters::new(),
            mutable_parameters: Parameters::new(),
            snapshot_parameters: Parameters::new(),
        }
    }

    /// Sizes of a volume and of an expanded one, 64 and 128 MiB unless told.
    pub fn sizes(mut self, size: u64, expanded_size: u64) -> Self {
        (self.size, self.expanded_size) = (size, expanded_size);
        self
    }

    /// A parameter as a StorageClass has it.
    pub fn volume_parameter(mut self, key: &str, value: &str) -> Self {
        self.volume_parameters
            .push((key.to_owned(), value.to_owned()));
        self
    }

    /// A parameter as a VolumeAttributesClass has it.
    pub fn mutable_parameter(mut self, key: &str, value: &str) -> Self {
        self.mutable_parameters
            .push((key.to_owned(), value.to_owned()));
        self
    }

    /// A parameter as a VolumeSnapshotClass has it.
    pub fn snapshot_parameter(mut self, key: &str, value: &str) -> Self {
        self.snapshot_parameters
            .push((key.to_owned(), value.to_owned()));
        self
    }

    /// Runs the whole suite; its output and junit report go to `logs`.
    ///
    /// An `Err` means that it did not run to its end; what the specs said is in the report.
    ///
    /// Ends early when `alive` says that the driver is gone: against a socket nobody serves every
    /// single spec would wait a minute for its connection.
    pub fn run(
        &self,
        logs: &Path,
        timeout: Duration,
        mut alive: impl FnMut() -> bool,
    ) -> Result<Report> {
        ensure!(
            self.binary.is_file(),
            "{} is missing; build it with: cargo xtask setup",
            self.binary.display()
        );
        std::fs::create_dir_all(logs).context("failed to create the log directory")?;
        let junit = logs.join("junit.xml");
        // One from an earlier run must not pass for this one's.
        match std::fs::remove_file(&junit) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).context("failed to remove the old junit report");
            }
            _ => {}
        }
        let work = tempfile::Builder::new()
            .prefix("csi-sanity-")
            .tempdir()
            .context("failed to make the mount directories")?;
        let output_path = logs.join("csi-sanity.txt");
        let output = File::create(&output_path).context("failed to create the output file")?;
        let errors = output
            .try_clone()
            .context("failed to create the output file")?;
        let mut command = Command::new(&self.binary);
        command.args(self.arguments(work.path(), &junit)?);
        command.stdin(Stdio::null()).stdout(output).stderr(errors);

        let started = Instant::now();
        let mut child = command.spawn().context("failed to start csi-sanity")?;
        let exit = loop {
            if let Some(exit) = child.try_wait().context("failed to wait for csi-sanity")? {
                break exit;
            }
            let alive = alive();
            if !alive || started.elapsed() > timeout {
                child.kill().context("failed to kill csi-sanity")?;
                child.wait().context("failed to wait for csi-sanity")?;
                ensure!(alive, "the driver died; see {}", output_path.display());
                bail!(
                    "csi-sanity took longer than {timeout:?}; see {}",
                    output_path.display()
                );
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        let Ok(xml) = std::fs::read_to_string(&junit) else {
            bail!(
                "csi-sanity left no report ({exit}); see {}",
                output_path.display()
            );
        };
        let report = junit::parse(&xml)?;
        ensure!(
            exit.success() || !report.failed.is_empty(),
            "csi-sanity ended with {exit} without a failed spec; see {}",
            output_path.display()
        );
        Ok(report)
    }

    fn arguments(&self, work: &Path, junit: &Path) -> Result<Vec<OsString>> {
        let mut arguments: Vec<OsString> = vec![
            "--ginkgo.no-color".into(),
            "--ginkgo.v".into(),
            format!("--csi.testvolumeaccesstype={}", self.access.name()).into(),
            format!("--csi.testvolumesize={}", self.size).into(),
            format!("--csi.testvolumeexpandsize={}", self.expanded_size).into(),
        ];
        let mut path = |flag: &str, value: &Path| {
            let mut argument = OsString::from(format!("--{flag}="));
            argument.push(value);
            arguments.push(argument);
        };
        path("ginkgo.junit-report", junit);
        // The suite makes and removes the two itself and fails if they are there.
        path("csi.mountdir", &work.join("mount"));
        path("csi.stagingdir", &work.join("staging"));
        for (flag, file, parameters) in [
            (
                "csi.testvolumeparameters",
                "volume.yaml",
                &self.volume_parameters,
            ),
            (
                "csi.testvolumemutableparameters",
                "mutable.yaml",
                &self.mutable_parameters,
            ),
            (
                "csi.testsnapshotparameters",
                "snapshot.yaml",
                &self.snapshot_parameters,
            ),
        ] {
            if !parameters.is_empty() {
                let file = work.join(file);
                std::fs::write(&file, yaml(parameters)).context("failed to write parameters")?;
                path(flag, &file);
            }
        }
        let mut endpoint = OsString::from("--csi.endpoint=unix://");
        endpoint.push(&self.socket);
        arguments.push(endpoint);
        Ok(arguments)
    }
}

/// `STOWAGE_CSI_SANITY`, else where `cargo xtask setup` builds it.
pub fn default_binary() -> PathBuf {
    std::env::var_os("STOWAGE_CSI_SANITY")
        .map_or_else(|| scratch::target().join("tools/csi-sanity"), PathBuf::from)
}

/// All values quoted: the suite wants strings, and `1000` alone would be a number.
fn yaml(parameters: &[(String, String)]) -> String {
    parameters
        .iter()
        .fold(String::new(), |mut text, (key, value)| {
            let _ = writeln!(text, "{key:?}: {value:?}");
            text
        })
}

/// What became of the specs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    pub passed: usize,
    pub failed: Vec<Failure>,
    pub skipped: Vec<String>,
    pub pending: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub name: String,
    pub message: String,
}

impl Report {
    /// The specs that ran.
    pub fn run(&self) -> usize {
        self.passed + self.failed.len()
    }

    /// Fails unless every spec passed but those that need attaching.
    pub fn check(&self) -> Result<()> {
        let mut problems = Vec::new();
        for failure in &self.failed {
            problems.push(format!("failed: {}\n    {}", failure.name, failure.message));
        }
        for name in self.skipped.iter().filter(|name| !needs_attach(name)) {
            problems.push(format!("skipped, though it needs no attach: {name}"));
        }
        for name in self.pending.iter().filter(|name| *name != PENDING_SPEC) {
            problems.push(format!("pending: {name}"));
        }
        // Only when nothing else is wrong: otherwise it follows from what is.
        if problems.is_empty() && self.passed != EXPECTED_PASSED {
            problems.push(format!(
                "{} specs passed instead of {EXPECTED_PASSED}",
                self.passed
            ));
        }
        ensure!(problems.is_empty(), "{}", problems.join("\n"));
        Ok(())
    }
}

fn needs_attach(name: &str) -> bool {
    ATTACH_GROUPS.iter().any(|group| name.starts_with(group))
}

#[cfg(test)]
mod tests;
