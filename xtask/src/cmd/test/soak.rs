//! Longer campaigns of the tests that kill and cut power: hours, for a quiet night. They print what
//! they ran, and are no part of the run that is judged.

use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use stowage_testkit::guest::kernel;
use stowage_testkit::scratch;

use super::job::{Aloud, Finished, Job};
use super::suites::{SUITES, Suite};
use super::{report, run_beside};
use crate::build::{self, Built};

/// Longer campaigns: many power cuts, death at every fail point twice; hours
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Power cuts in all, in a tenth of them on the machine's own, older kernel for guests
    #[arg(long, default_value_t = 1000)]
    cuts: u64,
    /// Power cuts with one seed, on disks of their own
    #[arg(long, default_value_t = 100)]
    cuts_a_seed: u64,
    /// Print what would be run, and do nothing else
    #[arg(long)]
    list: bool,
}

const POWER: &str = "app-boots_power";
const CRASHES: [&str; 3] = [
    "app-host_crash",
    "app-guest_crash_thick",
    "app-guest_crash_thin",
];

/// Ten times what one takes on two quiet cores, for those that hang.
const LIMIT: Duration = Duration::from_secs(6 * 3600);

/// A suite, with what its environment tells it.
struct Campaign {
    suite: &'static str,
    env: Vec<String>,
}

impl Campaign {
    fn told(&self) -> String {
        format!("{} {}", self.env.join(" "), self.suite)
    }
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    ensure!(
        args.cuts > 0 && args.cuts_a_seed > 0,
        "no cuts, no campaign"
    );
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let seed = now.context("the clock is before 1970")?.as_secs();
    let campaigns = campaigns(args, seed);
    for campaign in &campaigns {
        println!("   {}", campaign.told());
    }
    if args.list {
        return Ok(ExitCode::SUCCESS);
    }
    let started = Instant::now();
    scratch::sweep()?;
    let built = build::tests(None)?;
    let jobs: Vec<Job> = campaigns
        .iter()
        .enumerate()
        .map(|(number, campaign)| job(campaign, number, &built))
        .collect::<Result<_>>()?;
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut ran: Vec<(usize, Finished)> = run_beside(&jobs, (0..jobs.len()).collect(), cores);
    ran.sort_by_key(|(number, _)| *number);

    println!("\n== ran");
    for (number, done) in &ran {
        let verdict = if done.is_good() { "good" } else { "FAILED" };
        let time = report::seconds(done.elapsed);
        println!("   {verdict:<6} {time:>10}  {}", campaigns[*number].told());
    }
    let done: Vec<Finished> = ran.into_iter().map(|(_, done)| done).collect();
    let total = report::summarise(&done, &[]);
    println!("{} in all", report::seconds(started.elapsed()));
    println!("{} passed, {} failed", total.passed, total.failed);
    Ok(if total.failed == 0 && total.passed > 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The longest first.
fn campaigns(args: &Args, first_seed: u64) -> Vec<Campaign> {
    let mut all = Vec::new();
    for suite in CRASHES {
        all.push(Campaign {
            suite,
            env: vec!["STOWAGE_CRASH_EVERY=1".to_owned()],
        });
    }
    let (mut left, mut seed) = (args.cuts, first_seed);
    while left > 0 {
        let cuts = left.min(args.cuts_a_seed);
        let mut env = vec![
            format!("STOWAGE_POWER_CUTS={cuts}"),
            format!("STOWAGE_POWER_SEED={seed}"),
        ];
        // The last of several: what holds on one kernel for guests should hold on the other.
        if left == cuts && args.cuts > cuts {
            env.push(format!("{}={}", kernel::VARIABLE, kernel::STOCK));
        }
        all.push(Campaign { suite: POWER, env });
        (left, seed) = (left - cuts, seed + 1);
    }
    all
}

fn job(campaign: &Campaign, number: usize, built: &[Built]) -> Result<Job> {
    let is_it = |suite: &&'static Suite| suite.name == campaign.suite;
    let suite = SUITES.iter().find(is_it).context("no such suite")?;
    let is_its = |built: &&Built| built.suite().as_deref() == Some(suite.name);
    let program = built
        .iter()
        .find(is_its)
        .with_context(|| format!("cargo built no {}", suite.name))?;
    Ok(Job {
        suite,
        program: program.executable.clone(),
        dir: program.dir.clone(),
        logs: scratch::target().join(format!("test-logs/soak-{number}-{}", suite.name)),
        env: campaign.env.clone(),
        aloud: Aloud::Campaign,
        limit: Some(LIMIT),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_soak_is_all_its_cuts_each_seed_once_and_ends_on_the_other_kernel() {
        let args = Args {
            cuts: 250,
            cuts_a_seed: 100,
            list: false,
        };
        let told: Vec<String> = campaigns(&args, 7).iter().map(Campaign::told).collect();
        assert_eq!(told.len(), CRASHES.len() + 3);
        assert_eq!(
            told[CRASHES.len()..],
            [
                "STOWAGE_POWER_CUTS=100 STOWAGE_POWER_SEED=7 app-boots_power",
                "STOWAGE_POWER_CUTS=100 STOWAGE_POWER_SEED=8 app-boots_power",
                "STOWAGE_POWER_CUTS=50 STOWAGE_POWER_SEED=9 STOWAGE_GUEST_KERNEL=stock app-boots_power",
            ]
        );
    }
}
