//! All tests, each where it can run:
//!
//! ```text
//!   workspace ──► build ──► host_* tests, one after another, on the machine
//!                   │
//!                   └─────► guest_* tests, each in a guest of its own     ┐ a few at a time,
//!                           boots_* tests, which boot guests themselves   │ as cores allow
//!                           sanity cells, in a guest or on the machine    ┘
//! ```

mod artifacts;
mod job;

use std::path::Path;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use stowage_testkit::scratch;

use crate::cell::Cell;
use crate::process;
use crate::tally::Tally;
use artifacts::{Artifacts, Place};
use job::{Finished, Job, Kind};

/// Run every test: workspace, system tests, guests, csi-sanity
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Run only what has this text in its name, as the final table shows it (repeat for more)
    #[arg(long, value_name = "TEXT")]
    only: Vec<String>,
    /// Guests and cells at a time; a core each unless told
    #[arg(long)]
    jobs: Option<usize>,
}

const WORKSPACE: &str = "workspace";

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let started = Instant::now();
    let logs = scratch::target().join("test-logs");
    std::fs::create_dir_all(&logs).context("failed to create the log directory")?;
    scratch::sweep()?;
    let wanted = |name: &str| args.only.is_empty() || args.only.iter().any(|o| name.contains(o));
    let mut finished = Vec::new();

    if wanted(WORKSPACE) {
        finished.push(test_workspace()?);
    }
    let built = Instant::now();
    match Artifacts::build(&logs) {
        Ok(artifacts) => {
            println!("== build: {}", seconds(built.elapsed()));
            let (alone, together): (Vec<Job>, Vec<Job>) = jobs(&artifacts, &logs)
                .into_iter()
                .filter(|job| wanted(&job.name))
                .partition(|job| job.alone);
            finished.extend(run_jobs(alone, 1));
            let at_a_time = args.jobs.unwrap_or_else(|| {
                std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
            });
            finished.extend(run_jobs(together, at_a_time));
        }
        Err(error) => finished.push(Finished {
            name: "build".to_owned(),
            tally: Tally::ONE_FAILED,
            elapsed: built.elapsed(),
            cell: None,
            problem: Some(format!("{error:#}")),
        }),
    }

    let total = summarise(&finished);
    println!(
        "logs in {}; {} in all",
        logs.display(),
        seconds(started.elapsed())
    );
    println!("{} passed, {} failed", total.passed, total.failed);
    // A selection that selects nothing has tested nothing.
    let good = total.failed == 0 && total.passed > 0;
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn test_workspace() -> Result<Finished> {
    println!("== {WORKSPACE}");
    let started = Instant::now();
    let mut tally = Tally::default();
    let good = process::stream(
        process::cargo(["test", "--workspace", "--no-fail-fast"]),
        |line| {
            println!("{line}");
            if let Some(counts) = Tally::parse(line) {
                tally += counts;
            }
        },
    )?;
    Ok(Finished {
        name: WORKSPACE.to_owned(),
        tally: tally.at_least_one_failed(good),
        elapsed: started.elapsed(),
        cell: None,
        problem: (!good).then(|| "cargo test failed; see above".to_owned()),
    })
}

fn jobs(artifacts: &Artifacts, logs: &Path) -> Vec<Job> {
    let tests = artifacts.tests.iter().map(|test| {
        let (executable, package) = (test.executable.clone(), test.package.clone());
        let kind = match test.place {
            Place::Guest => Kind::GuestTest {
                executable,
                package,
            },
            Place::Machine | Place::Beside => Kind::HostTest {
                executable,
                package,
            },
        };
        (test.name.clone(), kind, test.place == Place::Machine)
    });
    let cells = Cell::all().into_iter().map(|cell| {
        (
            cell.to_string(),
            Kind::SanityCell {
                cell,
                stowage: artifacts.stowage.clone(),
            },
            false,
        )
    });
    tests
        .chain(cells)
        .map(|(name, kind, alone)| Job {
            logs: logs.join(&name),
            name,
            kind,
            alone,
        })
        .collect()
}

/// Runs the jobs, `at_a_time` of them; the results come in the jobs' order.
fn run_jobs(jobs: Vec<Job>, at_a_time: usize) -> Vec<Finished> {
    let count = jobs.len();
    let queue = Mutex::new(jobs.into_iter().enumerate());
    let results = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..at_a_time.clamp(1, count.max(1)) {
            // A guest dies with the thread that started it; these outlive their guests.
            scope.spawn(|| {
                loop {
                    let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
                    let Some((index, job)) = next else { return };
                    let done = job.run();
                    results
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push((index, done));
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, done)| done).collect()
}

fn summarise(finished: &[Finished]) -> Tally {
    println!("\n== where                      passed  failed  skipped  pending      time");
    let mut total = Tally::default();
    for done in finished {
        let (skipped, pending) = done
            .cell
            .as_ref()
            .map_or((done.tally.ignored, 0), |cell| (cell.skipped, cell.pending));
        println!(
            "   {:<26} {:>6}  {:>6}  {skipped:>7}  {pending:>7}  {:>8}",
            done.name,
            done.tally.passed,
            done.tally.failed,
            seconds(done.elapsed)
        );
        total += done.tally;
    }
    for done in finished {
        if let Some(problem) = &done.problem {
            println!("\n== {} failed: {problem}", done.name);
        }
    }
    println!();
    total
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}
