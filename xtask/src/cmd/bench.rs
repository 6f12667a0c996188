use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use stowage_testkit::{Guest, scratch};

use crate::process;

/// Measure volumes against the bare commands, and many against few: files here, LVM in a guest
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only these: `file`, `lvm` and `thin` volumes against the bare commands, `many` volumes of a
    /// file pool and of a `recorded` group of LVM's against few
    #[arg(value_name = "KIND", value_parser = ["file", "many", "recorded", "lvm", "thin"])]
    kinds: Vec<String>,
}

const TIMEOUT: Duration = Duration::from_secs(900);
const DISK_BYTES: u64 = 8 << 30;
const NOTHING: [&str; 0] = [];

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    scratch::sweep()?;
    let wanted = |kind: &&str| args.kinds.is_empty() || args.kinds.iter().any(|k| k == kind);
    if wanted(&"recorded") {
        let program = build("stowage-pool", "recorded")?;
        process::run(&mut process::command(&program, NOTHING))?;
    }
    if !["file", "many", "lvm", "thin"].iter().any(wanted) {
        return Ok(ExitCode::SUCCESS);
    }
    let program = build("stowage-app", "volumes")?;
    for kind in ["file", "many"].into_iter().filter(wanted) {
        process::run(&mut process::command(&program, [kind]))?;
    }
    let in_guest: Vec<&str> = ["lvm", "thin"].into_iter().filter(wanted).collect();
    if in_guest.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    let argv = std::iter::once(program.as_str()).chain(in_guest);
    let outcome = Guest::builder()
        .current_dir(scratch::workspace())
        .disk(DISK_BYTES)
        .on_line(|line| println!("{line}"))
        .boot(argv, TIMEOUT)?;
    outcome.success()?;
    Ok(ExitCode::SUCCESS)
}

fn build(package: &str, name: &str) -> Result<String> {
    let args = ["bench", "-p", package, "--bench", name, "--no-run"];
    let mut cargo = process::cargo(args);
    cargo.arg("--message-format=json-render-diagnostics");
    let messages = process::output(&mut cargo)?;
    let find = |line: &str| {
        let message: Value = serde_json::from_str(line).ok()?;
        let bench = message["target"]["kind"][0] == "bench";
        bench.then(|| message["executable"].as_str().map(str::to_owned))?
    };
    messages
        .lines()
        .find_map(find)
        .context("cargo built no benchmark")
}
