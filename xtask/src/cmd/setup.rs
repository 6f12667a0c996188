mod kernel;

use std::path::Path;
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::{Context, Result, ensure};
use stowage_testkit::requirement::{TOOLS, find};
use stowage_testkit::sanity;

use crate::{build, process};

/// Install what the tests need and build csi-sanity; does nothing when all is there
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Meanwhile compile what `test` runs
    #[arg(long)]
    build: bool,
}

const MODULE: &str = "tools/csi-sanity";
const COMMAND: &str = "github.com/kubernetes-csi/csi-test/v5/cmd/csi-sanity";

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    std::thread::scope(|scope| {
        // It may fail here unheard: who needs it builds it again and shows what is wrong.
        if args.build {
            scope.spawn(|| build::tests(None).map(drop));
        }
        install_packages()?;
        // One waits for the network, the other for the compiler.
        scope.spawn(kernel::provide);
        build_csi_sanity()
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Looks for the programs, not for the packages: a machine that has them from elsewhere is fine.
fn install_packages() -> Result<()> {
    let mut packages: Vec<&str> = TOOLS
        .iter()
        .filter(|tool| find(tool.program).is_none())
        .map(|tool| tool.package)
        .collect();
    packages.sort_unstable();
    packages.dedup();
    if packages.is_empty() {
        return Ok(());
    }
    println!("installing {}", packages.join(" "));
    let install = ["install", "-y", "-qq", "--no-install-recommends"];
    ensure!(
        find("apt-get").is_some(),
        "no apt-get here: install by other means what brings these Debian packages' programs: {}",
        packages.join(" ")
    );
    ensure!(
        rustix::process::geteuid().is_root(),
        "not root; run: sudo apt-get {} {}",
        install.join(" "),
        packages.join(" ")
    );
    let apt = |args: &[&str]| {
        let mut command = process::command("apt-get", args);
        process::run(command.env("DEBIAN_FRONTEND", "noninteractive"))
    };
    let all: Vec<&str> = install
        .into_iter()
        .chain(packages.iter().copied())
        .collect();
    // Often the lists are fresh enough; a container without any needs them first.
    if apt(&all).is_err() {
        apt(&["update", "-qq"]).context("failed to fetch the package lists")?;
        apt(&all).context("failed to install packages")?;
    }
    Ok(())
}

fn build_csi_sanity() -> Result<()> {
    let binary = sanity::default_binary();
    let module = stowage_testkit::scratch::workspace().join(MODULE);
    if is_newer(&binary, &[module.join("go.mod"), module.join("go.sum")]) {
        return Ok(());
    }
    ensure!(
        find("go").is_some(),
        "go is missing; install Go 1.25 or newer to build csi-sanity, or name a csi-sanity 5.6.0 \
         binary in STOWAGE_CSI_SANITY"
    );
    println!("building csi-sanity");
    let mut build = process::command("go", ["build", "-mod=readonly", "-trimpath", "-o"]);
    build.arg(&binary).arg(COMMAND).current_dir(module);
    // No C compiler, no libc: the binary also runs where a guest has none of the machine's.
    build.env("CGO_ENABLED", "0");
    process::run(&mut build).context("failed to build csi-sanity")
}

fn is_newer(file: &Path, sources: &[std::path::PathBuf]) -> bool {
    let modified = |path: &Path| -> Option<SystemTime> { path.metadata().ok()?.modified().ok() };
    let Some(built) = modified(file) else {
        return false;
    };
    sources
        .iter()
        .all(|source| modified(source).is_some_and(|changed| changed <= built))
}
