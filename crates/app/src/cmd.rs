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
use stowage_model::volumes::Job;

use crate::admin::{client, protocol::Request};
use crate::cli::{Cli, Command, Output};
use crate::print;

/// How often work that is watched is looked at.
const LOOK: Duration = Duration::from_millis(200);

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

    /// Show the work that is meant until none of it is left.
    fn watch(&self, meant: impl Fn(&Job) -> bool) -> anyhow::Result<()> {
        let mut bars = print::Bars::new(self.output);
        loop {
            let mut jobs: Vec<Job> = client::ask(&self.socket, &Request::Jobs, |_| ())?;
            jobs.retain(&meant);
            if jobs.is_empty() {
                return Ok(());
            }
            bars.show(&jobs);
            std::thread::sleep(LOOK);
        }
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
        Command::Jobs { watch } => doctor::jobs(&caller, watch),
        Command::Doctor => doctor::run(&caller),
        Command::Completions { shell } => {
            let name = "stowage";
            // Not straight to stdout, whose reader may go before the end.
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), name, &mut script);
            print::text(String::from_utf8_lossy(&script).trim_end())
        }
        Command::InternalThaw {
            bound,
            resume,
            paths,
        } => {
            let bound = Duration::try_from_secs_f64(bound)?;
            stowage_host::freeze::guard_main(bound, &paths, &resume)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}
