//! What runs in a namespace of its own, or in a guest: the daemon, and a walk around each kind of
//! pool.

use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use stowage_testkit::disk;

use super::show::Show;
use super::{guest, steps};
use crate::process;

/// Walk around pools on the given disks (started by demo)
#[derive(clap::Args)]
pub(crate) struct Args {
    #[arg(long)]
    pub(super) stowage: PathBuf,
    /// A directory over which a file system in memory is mounted; all paths lie in it
    #[arg(long)]
    pub(super) room: PathBuf,
    #[arg(long)]
    pub(super) file_disk: Option<PathBuf>,
    #[arg(long)]
    pub(super) lvm_disk: Vec<PathBuf>,
    #[arg(long)]
    pub(super) thin_disk: Option<PathBuf>,
    /// A disk with data on it, which must be refused
    #[arg(long)]
    pub(super) used_disk: Option<PathBuf>,
    #[arg(long)]
    prepare_used_disk: bool,
    #[arg(long)]
    pub(super) cgroup: Option<PathBuf>,
    #[arg(long)]
    colour: bool,
    #[arg(long)]
    marked: bool,
}

const START: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let show = match args.marked {
        true => Show::marked(args.colour),
        false => Show::new(args.colour),
    };
    let toured = tour(args, &show);
    if let Err(error) = &toured {
        show.bad(&format!("failed: {error:#}"));
    }
    if args.marked {
        println!("{}", guest::END);
    }
    Ok(match toured {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    })
}

fn tour(args: &Args, show: &Show) -> Result<()> {
    let room = &args.room;
    let shown = room.display().to_string();
    disk::run("mount", ["-t", "tmpfs", "-o", "mode=755", "tmpfs", &shown])?;
    if let Some(used) = args.used_disk.as_ref().filter(|_| args.prepare_used_disk) {
        disk::run(
            "mkfs.ext4",
            ["-q", "-L", "holiday", &used.display().to_string()],
        )?;
    }
    if let Some(cgroup) = args.cgroup.as_ref().filter(|c| !c.exists()) {
        fs::create_dir(cgroup).context("failed to make the control group")?;
    }
    let daemon = Daemon::start(&args.stowage, room)?;
    let walk = steps::Walk {
        args,
        show,
        daemon: &daemon,
    };
    let walked = walk.all();
    match walked {
        Ok(()) => daemon.stop(),
        Err(error) => Err(anyhow::anyhow!("{error:#}; {}", daemon.last_words())),
    }
}

/// The daemon, with an empty configuration: its pools come from the command line.
pub(super) struct Daemon {
    child: Child,
    dir: PathBuf,
    stowage: PathBuf,
}

impl Daemon {
    fn start(stowage: &Path, room: &Path) -> Result<Self> {
        let dir = room.join(".stowage");
        fs::create_dir(&dir).context("failed to make the daemon's directory")?;
        let config = dir.join("config.toml");
        let path = |name: &str| toml::Value::from(dir.join(name).display().to_string());
        let text = format!(
            "node-name = \"demo\"\nmetrics = \"off\"\nstate-dir = {}\ncsi-socket = {}\n\
             admin-socket = {}\n",
            path("state"),
            path("csi.sock"),
            path("admin.sock")
        );
        fs::write(&config, text).context("failed to write the daemon's configuration")?;
        let log = File::create(dir.join("log")).context("failed to make the daemon's log")?;
        let mut command = process::command(stowage, ["serve", "--config"]);
        command
            .arg(config)
            .current_dir("/")
            .stdout(Stdio::null())
            .stderr(log);
        let mut daemon = Self {
            child: command.spawn().context("failed to start the daemon")?,
            dir,
            stowage: stowage.to_owned(),
        };
        let deadline = Instant::now() + START;
        while UnixStream::connect(daemon.socket()).is_err() {
            let ended = daemon
                .child
                .try_wait()
                .context("failed to look at the daemon")?;
            if ended.is_some() || Instant::now() > deadline {
                bail!("the daemon does not serve; {}", daemon.last_words());
            }
            std::thread::sleep(POLL);
        }
        Ok(daemon)
    }

    fn socket(&self) -> PathBuf {
        self.dir.join("admin.sock")
    }

    /// A command to it. The socket is not the usual one, lest a daemon of this machine answers.
    pub(super) fn command<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Command {
        let mut command = process::command(&self.stowage, args);
        command
            .env("STOWAGE_SOCKET", self.socket())
            .current_dir("/");
        command
    }

    fn last_words(&self) -> String {
        let text = fs::read_to_string(self.dir.join("log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        format!(
            "the daemon's log ends with:\n  {}",
            lines[lines.len().saturating_sub(8)..].join("\n  ")
        )
    }

    fn stop(mut self) -> Result<()> {
        let pid = self.child.id().to_string();
        disk::run("kill", ["-TERM", &pid])?;
        let status = self.child.wait().context("failed to wait for the daemon")?;
        ensure!(
            status.success(),
            "the daemon ended with {status}; {}",
            self.last_words()
        );
        Ok(())
    }
}
