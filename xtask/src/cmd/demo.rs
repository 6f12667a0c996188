//! The product at work on real disks, for people to watch.
//!
//! ```text
//!   demo ──► machine: unshare(mount, pid) ──► demo-tour file [lvm thin]   private mounts, and
//!     │                                                                  no process survives it
//!     ├────► guest, where this kernel lacks device mapper ──► demo-tour lvm thin
//!     └────► keeper: loop devices, directory, control group go; then it looks again
//! ```
//!
//! A signal only sets a flag here. The tours run in process groups of their own, which ^C at a
//! terminal does not reach, so that there is one place that ends them.

mod fio;
mod guest;
mod interrupt;
mod keeper;
mod machine;
mod show;
mod steps;
pub(crate) mod tour;

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result};
use stowage_testkit::{requirement, scratch};

use crate::build;
use interrupt::Interrupt;
use keeper::Keeper;
use show::Show;

/// Show it working, from a blank disk to a restored snapshot; leaves nothing behind
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Show LVM in a guest even if this machine's kernel has device mapper
    #[arg(long)]
    guest: bool,
    /// Show this program instead of building it
    #[arg(long, value_name = "FILE")]
    stowage: Option<PathBuf>,
}

/// What a tour needs, wherever it runs.
pub(crate) struct Kit {
    /// Copies, so that a build meanwhile does not change the program under way.
    xtask: PathBuf,
    stowage: PathBuf,
    colour: bool,
}

/// How a tour ended, other than well.
#[derive(Debug)]
enum Stop {
    Interrupted,
    Failed(anyhow::Error),
}

impl From<anyhow::Error> for Stop {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}

/// 128 and the number of SIGINT, as a shell reports it.
const INTERRUPTED: u8 = 130;

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    requirement::require(&["mount", "losetup", "unshare", "setpriv", "mkfs.xfs", "fio"]);
    let stowage = match &args.stowage {
        Some(file) => file.clone(),
        None => build::stowage_of(&build::stowage()?)?,
    };
    // From here on nothing may end this process but itself.
    let interrupt = Interrupt::listen()?;
    scratch::sweep()?;
    let started = Instant::now();
    let show = Show::new(std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none());
    let mut keeper = Keeper::new()?;
    let toured = all(args, &show, &stowage, &mut keeper, &interrupt);
    if let Err(Stop::Interrupted) = toured {
        show.line("");
        show.line("interrupted; cleaning up");
    }
    let kept = keeper.undo();
    match &kept {
        Ok(()) => show.good(&format!(
            "nothing left behind: no mount, loop device, device-mapper device, process, control \
             group or file ({:.0} s in all)",
            started.elapsed().as_secs_f64()
        )),
        Err(error) => show.bad(&format!("left behind: {error:#}")),
    }
    Ok(match (toured, kept) {
        (Err(Stop::Interrupted), _) => ExitCode::from(INTERRUPTED),
        (Err(Stop::Failed(error)), _) => {
            show.bad(&format!("the demo stopped: {error:#}"));
            ExitCode::FAILURE
        }
        (Ok(()), Err(_)) => ExitCode::FAILURE,
        (Ok(()), Ok(())) => ExitCode::SUCCESS,
    })
}

fn all(
    args: &Args,
    show: &Show,
    stowage: &Path,
    keeper: &mut Keeper,
    interrupt: &Interrupt,
) -> std::result::Result<(), Stop> {
    let kit = Kit::new(stowage, keeper.dir(), show.colour())?;
    let lvm_here = !args.guest && device_mapper().is_ok();
    match device_mapper() {
        Ok(()) if args.guest => show.note("LVM is shown in a guest, as asked."),
        Ok(()) => show.note(
            "This machine's kernel has device mapper: everything runs here, on loop devices over \
             sparse files.",
        ),
        Err(why) => show.note(&format!(
            "This machine has no usable device mapper ({why}). Files are shown on the machine \
             itself, LVM in a guest: User Mode Linux, a kernel that runs as a process and has it."
        )),
    }
    machine::run(&kit, keeper, interrupt, lvm_here)?;
    if !lvm_here {
        guest::run(&kit, show, interrupt)?;
    }
    Ok(())
}

impl Kit {
    fn new(stowage: &Path, dir: &Path, colour: bool) -> Result<Self> {
        let here = std::env::current_exe().context("failed to find this program's own file")?;
        let copy = |from: &Path, name: &str| {
            let to = dir.join(name);
            std::fs::copy(from, &to)
                .with_context(|| format!("failed to copy {} for the demo", from.display()))?;
            anyhow::Ok(to)
        };
        Ok(Self {
            xtask: copy(&here, "xtask")?,
            stowage: copy(stowage, "stowage")?,
            colour,
        })
    }
}

/// Why logical volumes cannot be made with this kernel, if they cannot.
fn device_mapper() -> std::result::Result<(), String> {
    if !Path::new("/dev/mapper/control").exists() {
        return Err("there is no /dev/mapper/control".to_owned());
    }
    for tool in ["lvm", "dmsetup"] {
        if requirement::find(tool).is_none() {
            return Err(format!("{tool} is not installed"));
        }
    }
    // The control file alone may be a leftover: its driver must answer.
    stowage_testkit::disk::run("dmsetup", ["version"])
        .map(drop)
        .map_err(|_| "dmsetup gets no answer from the kernel".to_owned())
}
