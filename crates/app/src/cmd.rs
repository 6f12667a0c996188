//! One file a subcommand group.

mod doctor;
mod pool;
mod serve;
mod snapshot;
mod volume;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::CommandFactory;
use serde::de::DeserializeOwned;

use crate::admin::{client, protocol::Request};
use crate::cli::{Cli, Command, Output};
use crate::print;

/// Where and how a command answers.
pub(crate) struct Caller {
    socket: PathBuf,
    output: Output,
}

impl Caller {
    fn ask<T: DeserializeOwned>(&self, request: &Request) -> anyhow::Result<T> {
        let mut bars = print::Bars::new(self.output);
        client::ask(&self.socket, request, |jobs| bars.show(jobs))
    }
}

pub(crate) fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let caller = Caller {
        socket: cli.socket,
        output: cli.output,
    };
    match cli.command {
        Command::Serve { config } => serve::run(config.as_deref()),
        Command::Pool(command) => pool::run(&caller, command),
        Command::Volume(command) => volume::run(&caller, command),
        Command::Snapshot(command) => snapshot::run(&caller, command),
        Command::Jobs => doctor::jobs(&caller),
        Command::Doctor => doctor::run(&caller),
        Command::Completions { shell } => {
            let name = "stowage";
            clap_complete::generate(shell, &mut Cli::command(), name, &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
        Command::InternalThaw { bound, paths } => {
            let bound = Duration::try_from_secs_f64(bound)?;
            stowage_host::freeze::guard_main(bound, &paths)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}
