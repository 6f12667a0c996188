//! The daemon under test.

use std::fs::File;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::process;

/// The pool's name in the daemon's configuration, hence in the class's parameter.
pub(super) const POOL: &str = "p";

/// In a guest every system call costs several times what it does here.
const START_TIMEOUT: Duration = Duration::from_secs(60);
const STOP_TIMEOUT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(50);

/// The daemon's configuration with one pool; `pool_toml` is what differs by kind.
pub(super) fn config(work: &Path, pool_toml: &str) -> String {
    let path = |name: &str| toml::Value::from(work.join(name).display().to_string());
    format!(
        "node-name = \"node-a\"\nstate-dir = {}\ncsi-socket = {}\nadmin-socket = {}\n\
         metrics = \"127.0.0.1:0\"\n\n[[pool]]\nname = \"{POOL}\"\n{pool_toml}\n",
        path("state"),
        path("csi.sock"),
        path("admin.sock"),
    )
}

pub(super) struct Daemon {
    child: Child,
    csi_socket: PathBuf,
    log: PathBuf,
}

impl Daemon {
    /// Starts it and waits until its CSI socket takes connections.
    pub(super) fn start(stowage: &Path, config: &Path, work: &Path, logs: &Path) -> Result<Self> {
        std::fs::create_dir_all(work.join("state")).context("failed to create the state-dir")?;
        let log = logs.join("daemon.txt");
        let output = File::create(&log).context("failed to create the daemon's log")?;
        let errors = output
            .try_clone()
            .context("failed to create the daemon's log")?;
        // So that it ends with this program, however that ends.
        let mut command = process::command("setpriv", ["--pdeathsig", "KILL", "--"]);
        command
            .arg(stowage)
            .arg("serve")
            .arg("--config")
            .arg(config);
        command
            .stdout(Stdio::from(output))
            .stderr(Stdio::from(errors));
        let child = command.spawn().context("failed to start the daemon")?;
        let mut daemon = Self {
            child,
            csi_socket: work.join("csi.sock"),
            log,
        };
        daemon.wait_for_socket()?;
        Ok(daemon)
    }

    pub(super) fn csi_socket(&self) -> &Path {
        &self.csi_socket
    }

    pub(super) fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Asks it to end. Fails if it had died before, or does not end well.
    pub(super) fn stop(mut self) -> Result<()> {
        if let Some(exit) = self
            .child
            .try_wait()
            .context("failed to look at the daemon")?
        {
            bail!(
                "the daemon died during the test ({exit}); {}",
                self.log_tail()
            );
        }
        let raw = i32::try_from(self.child.id()).context("process id out of range")?;
        let pid = Pid::from_raw(raw).context("process id zero")?;
        kill_process(pid, Signal::TERM).context("failed to stop the daemon")?;
        let deadline = Instant::now() + STOP_TIMEOUT;
        while Instant::now() < deadline {
            if let Some(exit) = self
                .child
                .try_wait()
                .context("failed to look at the daemon")?
            {
                ensure!(
                    exit.success(),
                    "the daemon ended with {exit}; {}",
                    self.log_tail()
                );
                return Ok(());
            }
            std::thread::sleep(POLL);
        }
        bail!(
            "the daemon ignored SIGTERM for {STOP_TIMEOUT:?}; {}",
            self.log_tail()
        );
    }

    fn wait_for_socket(&mut self) -> Result<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        while UnixStream::connect(&self.csi_socket).is_err() {
            if let Some(exit) = self
                .child
                .try_wait()
                .context("failed to look at the daemon")?
            {
                bail!(
                    "the daemon ended at its start ({exit}); {}",
                    self.log_tail()
                );
            }
            ensure!(
                Instant::now() < deadline,
                "the daemon did not listen within {START_TIMEOUT:?}; {}",
                self.log_tail()
            );
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    fn log_tail(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let tail = &lines[lines.len().saturating_sub(20)..];
        format!(
            "the end of {}:\n  {}",
            self.log.display(),
            tail.join("\n  ")
        )
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Gone already after `stop`; then both fail, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
