//! `cargo xtask`: what developers and CI run. One file per subcommand, below `cmd`.

mod build;
mod cell;
mod cmd;
mod fence;
mod licence;
mod process;
mod promises;
mod tally;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Set up, test and check Stowage")]
struct Cli {
    #[command(subcommand)]
    command: Cmd,
}

#[derive(Subcommand)]
enum Cmd {
    Setup(cmd::setup::Args),
    Test(cmd::test::Args),
    Soak(cmd::test::soak::Args),
    Check(cmd::check::Args),
    Guest(cmd::guest::Args),
    Bench(cmd::bench::Args),
    Demo(cmd::demo::Args),
    #[command(hide = true)]
    DemoTour(cmd::demo::tour::Args),
    #[command(hide = true)]
    SanityCell(cmd::sanity_cell::Args),
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Cmd::Setup(args) => cmd::setup::run(&args),
        Cmd::Test(args) => cmd::test::run(&args),
        Cmd::Soak(args) => cmd::test::soak::run(&args),
        Cmd::Check(args) => cmd::check::run(&args),
        Cmd::Guest(args) => cmd::guest::run(args),
        Cmd::Bench(args) => cmd::bench::run(&args),
        Cmd::Demo(args) => cmd::demo::run(&args),
        Cmd::DemoTour(args) => cmd::demo::tour::run(&args),
        Cmd::SanityCell(args) => cmd::sanity_cell::run(&args),
    };
    done.unwrap_or_else(|error| {
        eprintln!("xtask: {error:#}");
        ExitCode::FAILURE
    })
}
