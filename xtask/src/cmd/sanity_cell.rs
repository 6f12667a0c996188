use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::ValueEnum;
use stowage_testkit::sanity;

use crate::cell::{Cell, Pool, run_cell};

/// Run one cell of the csi-sanity matrix here (`test` runs the whole matrix)
#[derive(clap::Args)]
pub(crate) struct Args {
    #[arg(long)]
    pool: Pool,
    #[arg(long)]
    access: Access,
    /// The program under test
    #[arg(long)]
    stowage: PathBuf,
    /// Where logs and the result go
    #[arg(long)]
    logs: PathBuf,
}

#[derive(Clone, Copy, ValueEnum)]
enum Access {
    Mount,
    Block,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let access = match args.access {
        Access::Mount => sanity::Access::Mount,
        Access::Block => sanity::Access::Block,
    };
    let cell = Cell {
        pool: args.pool,
        access,
    };
    std::fs::create_dir_all(&args.logs).context("failed to create the log directory")?;
    let result = run_cell(cell, &args.stowage, &args.logs);
    result.write(&args.logs)?;
    if let Some(problem) = &result.problem {
        eprintln!("{cell}: {problem}");
        return Ok(ExitCode::FAILURE);
    }
    println!(
        "{cell}: {} passed, {} skipped",
        result.passed, result.skipped
    );
    Ok(ExitCode::SUCCESS)
}
