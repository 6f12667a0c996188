use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use stowage_testkit::disk::parse_size;
use stowage_testkit::{Guest, SparseFile, scratch};

/// Run a command in a guest that has device mapper, LVM and fresh disks
#[derive(clap::Args)]
#[command(after_help = "Example: cargo xtask guest --disk 2G -- sh -c 'pvcreate /dev/ubdb; pvs'")]
pub(crate) struct Args {
    /// A fresh disk of this size (repeat for more): /dev/ubdb, /dev/ubdc, …
    #[arg(long, value_name = "SIZE", value_parser = size)]
    disk: Vec<u64>,
    /// A disk in this file, after the fresh ones; made, with 2 GiB, if it does not exist
    #[arg(long, value_name = "PATH")]
    disk_file: Vec<PathBuf>,
    /// The guest's memory
    #[arg(long, default_value = "2G")]
    memory: String,
    /// Seconds until the guest is killed
    #[arg(long, default_value_t = 600)]
    timeout: u64,
    /// A variable for the command, as KEY=VALUE
    #[arg(long, value_name = "KEY=VALUE")]
    env: Vec<String>,
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

fn size(text: &str) -> Result<u64, String> {
    parse_size(text).map_err(|error| error.to_string())
}

pub(crate) fn run(args: Args) -> Result<ExitCode> {
    scratch::sweep()?;
    let here = std::env::current_dir().context("failed to find the working directory")?;
    let mut builder = Guest::builder().memory(args.memory).current_dir(here);
    let fresh: Vec<SparseFile> = args
        .disk
        .iter()
        .map(|bytes| SparseFile::new(*bytes))
        .collect::<Result<_>>()?;
    for disk in &fresh {
        builder = builder.disk_file(disk.path());
    }
    for path in args.disk_file {
        if !path.exists() {
            stowage_testkit::disk::create_sparse(&path, 2 << 30)?;
        }
        builder = builder.disk_file(path);
    }
    for pair in args.env {
        let (key, value) = pair.split_once('=').context("--env wants KEY=VALUE")?;
        builder = builder.env(key, value);
    }
    let outcome = builder
        .on_line(|line| println!("{line}"))
        .boot(args.command, Duration::from_secs(args.timeout))?;
    Ok(ExitCode::from(
        u8::try_from(outcome.status).unwrap_or(u8::MAX),
    ))
}
