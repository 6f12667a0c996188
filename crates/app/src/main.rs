//! The one binary: `stowage serve` is the daemon, everything else speaks to it. Wires the rooms
//! together and maps the outcome to an exit code; nothing else is decided here.

mod admin;
mod cli;
mod cmd;
mod config;
mod http;
mod metrics;
mod print;
mod socket;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    match cmd::run(cli::Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("stowage: {}", print::chain(&error));
            ExitCode::FAILURE
        }
    }
}
