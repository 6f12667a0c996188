//! All tests, each where it can run; the table in `suites` says which there are:
//!
//! ```text
//!   build ──► suites beside each other, the longest first, as many at a time as there are cores
//!     │         on the machine (with mounts of their own) · in a guest that serves one after another
//!     │         in guests they boot themselves · the examples in the docs
//!     │         · one more that mostly waits
//!     ├─────► suites that want the machine for themselves, one after another
//!     └─────► what failed, once more and alone: a suite that passes then is flaky; not where chance
//!             chooses what is tested, there the first failure is the verdict
//! ```

mod guests;
mod job;
mod output;
mod report;
pub(crate) mod soak;
mod suites;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result};
use stowage_testkit::scratch;

use crate::build::{self, Built};
use crate::tally::Tally;
use job::{Aloud, Finished, Job};
use report::seconds;
use suites::{Place, SUITES, Suite};

/// Run every test: workspace, system tests, guests, csi-sanity
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Run only what has this text in its name, as the final table shows it (repeat for more);
    /// prints all of it, and only tells what takes too long
    #[arg(long, value_name = "TEXT")]
    only: Vec<String>,
    /// Suites at a time; a core each unless told
    #[arg(long)]
    jobs: Option<usize>,
    /// Print every suite there is, and do nothing else
    #[arg(long)]
    list: bool,
}

/// More failures than this are no bad luck, and running all of them again would take long.
const RUN_AGAIN: usize = 3;

/// This many flaky suites fail a run.
const TOO_FLAKY: usize = 2;

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    if args.list {
        report::list(SUITES);
        return Ok(ExitCode::SUCCESS);
    }
    if args.only.is_empty() {
        whole()?;
    }
    let started = Instant::now();
    let logs = scratch::target().join("test-logs");
    std::fs::create_dir_all(&logs).context("failed to create the log directory")?;
    scratch::sweep()?;
    let wanted = |suite: &&Suite| {
        args.only.is_empty() || args.only.iter().any(|only| suite.name.contains(only))
    };
    let wanted: Vec<&'static Suite> = SUITES.iter().filter(wanted).collect();
    let mut finished = Vec::new();
    let mut flaky = Vec::new();

    match build_for(&wanted, args.only.is_empty()) {
        Ok(built) => {
            println!("== build: {}", seconds(started.elapsed()));
            if args.only.is_empty() {
                finished.extend(judge_table(&built));
            }
            let jobs = jobs(&wanted, &built, &logs, !args.only.is_empty())?;
            let at_a_time = args.jobs.unwrap_or_else(|| {
                std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
            });
            let mut ran = run_all(&jobs, at_a_time);
            flaky = run_again(&jobs, &mut ran)?;
            finished.extend(ran);
        }
        Err(error) => {
            let elapsed = started.elapsed();
            finished.push(Finished::broken("build", elapsed, format!("{error:#}")));
        }
    }
    let total = report::summarise(&finished, &flaky);
    println!(
        "logs in {}; {} in all",
        logs.display(),
        seconds(started.elapsed())
    );
    if flaky.len() >= TOO_FLAKY {
        println!("{} flaky suites fail the run", flaky.len());
    }
    let failed = failures(total, &flaky);
    println!("{} passed, {failed} failed", total.passed);
    for name in &flaky {
        println!("FLAKY: {name}");
    }
    // A selection that selects nothing has tested nothing.
    let good = failed == 0 && total.passed > 0;
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Of the tests, and of too many suites that only passed at their second try.
fn failures(total: Tally, flaky: &[String]) -> usize {
    let enough = flaky.len() < TOO_FLAKY;
    total.failed + if enough { 0 } else { flaky.len() }
}

/// These make a test do less or other than its name says: good for a developer, no claim.
const NARROWING: [&str; 4] = [
    "STOWAGE_CRASH_ONLY",
    "STOWAGE_CRASH_EVERY",
    "STOWAGE_POWER_CUTS",
    "STOWAGE_POWER_SEED",
];

fn whole() -> Result<()> {
    let set = NARROWING
        .into_iter()
        .find(|name| std::env::var_os(name).is_some());
    match set {
        None => Ok(()),
        Some(name) => anyhow::bail!(
            "{name} is set and changes what is tested: unset it, or select suites with --only"
        ),
    }
}

/// A selection of system tests needs none of the others built.
fn build_for(wanted: &[&Suite], all: bool) -> Result<Vec<Built>> {
    let target = |suite: &&Suite| {
        let (package, target) = suite.name.split_once('-')?;
        (suite.place != Place::Docs && package != "workspace").then_some(target)
    };
    let (cells, others): (Vec<&Suite>, Vec<&Suite>) =
        wanted.iter().partition(|suite| suite.cell().is_some());
    let targets: Vec<&str> = others
        .iter()
        .copied()
        .filter_map(|suite| target(&suite))
        .collect();
    if all || targets.len() < others.len() {
        return build::tests(None);
    }
    let mut built = Vec::new();
    if !targets.is_empty() {
        built.extend(build::tests(Some(&targets))?);
    }
    if !cells.is_empty() && build::stowage_of(&built).is_err() {
        built.extend(build::stowage()?);
    }
    Ok(built)
}

fn judge_table(built: &[Built]) -> Vec<Finished> {
    let names: BTreeSet<String> = built.iter().filter_map(Built::suite).collect();
    let told = suites::disagreements(SUITES, &names);
    let broken = |told: String| Finished::broken("table", std::time::Duration::ZERO, told);
    told.into_iter().map(broken).collect()
}

/// The longest first, so that the last to end began early.
fn jobs(
    wanted: &[&'static Suite],
    built: &[Built],
    logs: &Path,
    selected: bool,
) -> Result<Vec<Job>> {
    let mut jobs = Vec::new();
    for suite in wanted {
        let (program, dir) = if suite.cell().is_some() {
            (build::stowage_of(built)?, scratch::workspace())
        } else if suite.place == Place::Docs {
            (Default::default(), scratch::workspace())
        } else {
            let is_it = |built: &&Built| built.suite().as_deref() == Some(suite.name);
            // One without is in the table's disagreements.
            let Some(built) = built.iter().find(is_it) else {
                continue;
            };
            (built.executable.clone(), built.dir.clone())
        };
        jobs.push(Job {
            suite,
            program,
            dir,
            logs: logs.join(suite.name),
            env: Vec::new(),
            aloud: if selected {
                Aloud::Everything
            } else {
                Aloud::Nothing
            },
            limit: selected.then_some(job::HANGS),
        });
    }
    jobs.sort_by_key(|job| std::cmp::Reverse(job.suite.budget));
    Ok(jobs)
}

/// What came of each job, in the jobs' order.
fn run_all(jobs: &[Job], at_a_time: usize) -> Vec<Finished> {
    let is_alone = |index: &usize| jobs[*index].suite.place == Place::Alone;
    let (alone, beside): (Vec<usize>, Vec<usize>) = (0..jobs.len()).partition(is_alone);
    let mut results: Vec<(usize, Finished)> = run_beside(jobs, beside, at_a_time);
    results.extend(
        alone
            .into_iter()
            .map(|index| (index, one(&jobs[index], &mut None))),
    );
    results.sort_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, done)| done).collect()
}

/// So many at a time, and beside several one that waits.
fn run_beside(jobs: &[Job], left: Vec<usize>, at_a_time: usize) -> Vec<(usize, Finished)> {
    let waits = |index: &usize| at_a_time > 1 && jobs[*index].suite.waits;
    let (waiting, left): (Vec<usize>, Vec<usize>) = left.into_iter().partition(waits);
    let workers = at_a_time.clamp(1, left.len().max(1));
    let (left, waiting) = (Mutex::new(left), Mutex::new(waiting));
    let results = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        let queues = std::iter::repeat_n(&left, workers).chain([&waiting]);
        for left in queues {
            let results = &results;
            // A guest dies with the thread that started it; these outlive their guests.
            scope.spawn(move || {
                let mut room = None;
                while let Some(index) = next(jobs, left, room.is_some()) {
                    // One that waits for nothing costs memory, and a core now and then.
                    if !is_in_guest(&jobs[index]) {
                        room = None;
                    }
                    let done = one(&jobs[index], &mut room);
                    let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
                    results.push((index, done));
                }
            });
        }
    });
    results.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// The longest that is left; of those for a guest, where there is one.
fn next(jobs: &[Job], left: &Mutex<Vec<usize>>, guest: bool) -> Option<usize> {
    let mut left = left.lock().unwrap_or_else(PoisonError::into_inner);
    let at = left.iter().position(|index| is_in_guest(&jobs[*index]));
    let at = at.filter(|_| guest);
    (!left.is_empty()).then(|| left.remove(at.unwrap_or(0)))
}

fn is_in_guest(job: &Job) -> bool {
    matches!(job.suite.place, Place::Guest(_))
}

fn one(job: &Job, room: &mut Option<guests::Room>) -> Finished {
    println!("== {}", job.suite.name);
    let done = job.run(room);
    report::done(&done);
    done
}

/// What failed gets a second try, alone; the names of those that passed then. The first try's
/// whole output stays beside the second's.
fn run_again(jobs: &[Job], ran: &mut [Finished]) -> Result<Vec<String>> {
    let failed: Vec<usize> = (0..ran.len())
        .filter(|index| !ran[*index].is_good())
        .collect();
    if failed.len() > RUN_AGAIN {
        println!("== {} suites failed: none is run again", failed.len());
        return Ok(Vec::new());
    }
    let mut flaky = Vec::new();
    for index in failed {
        let job = &jobs[index];
        if !job.suite.again {
            println!(
                "== {} failed and is not run again: what it tests is chosen by chance",
                job.suite.name
            );
            continue;
        }
        let kept = job.logs.with_file_name(format!("{}.first", job.suite.name));
        let _ = std::fs::remove_dir_all(&kept);
        // None where it failed before it could print.
        if job.logs.exists() {
            std::fs::rename(&job.logs, &kept).context("failed to keep the first try's output")?;
        }
        println!(
            "== {} failed and is run again, alone; the first try: {}",
            job.suite.name,
            kept.display()
        );
        report::problem(&ran[index]);
        // What it left may be why it would fail again.
        if let Err(error) = scratch::sweep() {
            println!("== {error:#}");
        }
        let again = one(job, &mut None);
        if again.is_good() {
            flaky.push(job.suite.name.to_owned());
        }
        ran[index] = again;
    }
    Ok(flaky)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::suites::Ignored;
    use super::*;

    /// A suite whose first so many runs fail.
    fn scripted(dir: &Path, name: &'static str, failures: usize) -> Job {
        scripted_again(dir, name, failures, true)
    }

    fn scripted_again(dir: &Path, name: &'static str, failures: usize, again: bool) -> Job {
        scripted_as(dir, name, failures, again, false)
    }

    fn scripted_as(
        dir: &Path,
        name: &'static str,
        failures: usize,
        again: bool,
        waits: bool,
    ) -> Job {
        let suite = Box::leak(Box::new(Suite {
            name,
            place: Place::Host,
            budget: Duration::from_secs(60),
            ignored: Ignored::None,
            again,
            waits,
        }));
        Job {
            suite,
            program: scratch::workspace().join("xtask/src/cmd/test/scripted.sh"),
            dir: dir.to_owned(),
            logs: dir.join(name),
            env: vec![
                format!("RUNS={}", dir.join(format!("{name}.runs")).display()),
                format!("FAILURES={failures}"),
            ],
            aloud: Aloud::Nothing,
            limit: None,
        }
    }

    fn text(path: &Path) -> String {
        std::fs::read_to_string(path).unwrap()
    }

    fn runs(dir: &Path, name: &str) -> usize {
        text(&dir.join(format!("{name}.runs"))).lines().count()
    }

    /// Run them as a run of all does; failures, and which were flaky.
    fn run_scripts(jobs: &[Job]) -> (usize, Vec<String>) {
        let mut ran = run_all(jobs, 2);
        let flaky = run_again(jobs, &mut ran).unwrap();
        (failures(report::summarise(&ran, &flaky), &flaky), flaky)
    }

    #[test]
    fn a_suite_that_fails_once_is_flaky_and_its_first_output_is_kept_whole() {
        let dir = scratch::dir("flaky").unwrap();
        let at = dir.path();
        let jobs = [scripted(at, "steady", 0), scripted(at, "flaky", 1)];
        assert_eq!(run_scripts(&jobs), (0, vec!["flaky".to_owned()]));
        assert_eq!([runs(at, "steady"), runs(at, "flaky")], [1, 2]);
        let first = text(&at.join("flaky.first/console.txt"));
        assert!(first.contains("run 1 began") && first.contains("run 1 broke"));
        let second = text(&at.join("flaky/console.txt"));
        assert!(second.contains("run 2 began") && second.contains("1 passed"));
    }

    #[test]
    fn one_that_waits_keeps_no_place_from_the_others() {
        let dir = scratch::dir("flaky").unwrap();
        let mut jobs =
            ["a", "b", "waits"].map(|name| scripted_as(dir.path(), name, 0, true, name == "waits"));
        // Each of those that fill the cores goes on when it sees the other two at work.
        for (job, others) in [(0, ["b", "waits"]), (1, ["a", "waits"])] {
            let seen = others.map(|name| dir.path().join(format!("{name}.runs")));
            let [one, other] = seen.map(|path| path.display().to_string());
            jobs[job].env.push(format!("AWAITS={one} {other}"));
            jobs[job].limit = Some(Duration::from_secs(10));
        }
        assert_eq!(run_scripts(&jobs), (0, Vec::new()));
    }

    #[test]
    fn what_the_first_try_left_is_gone_at_the_second() {
        let dir = scratch::dir("flaky").unwrap();
        // Beyond the largest id the kernel gives.
        let left = dir.path().with_file_name("left-4194305-abc");
        let mut job = scripted(dir.path(), "untidy", 1);
        job.env.push(format!("LEAVES={}", left.display()));
        let (failed, flaky) = run_scripts(&[job]);
        assert_eq!((failed, flaky), (0, vec!["untidy".to_owned()]));
    }

    #[test]
    fn a_suite_that_fails_twice_is_broken() {
        let dir = scratch::dir("flaky").unwrap();
        let jobs = [scripted(dir.path(), "broken", 2)];
        assert_eq!(run_scripts(&jobs), (1, Vec::new()));
        assert_eq!(runs(dir.path(), "broken"), 2);
    }

    #[test]
    fn the_first_failure_is_the_verdict_where_chance_chooses() {
        let dir = scratch::dir("flaky").unwrap();
        let jobs = [scripted_again(dir.path(), "power", 1, false)];
        assert_eq!(run_scripts(&jobs), (1, Vec::new()));
        assert_eq!(runs(dir.path(), "power"), 1);
    }

    #[test]
    fn two_flaky_suites_fail_the_run() {
        let dir = scratch::dir("flaky").unwrap();
        let jobs = ["a", "b"].map(|name| scripted(dir.path(), name, 1));
        let (failed, flaky) = run_scripts(&jobs);
        assert_eq!((failed, flaky), (2, vec!["a".to_owned(), "b".to_owned()]));
    }

    #[test]
    fn many_failures_are_no_bad_luck_and_nothing_is_run_again() {
        let dir = scratch::dir("flaky").unwrap();
        let names = ["a", "b", "c", "d"];
        let jobs = names.map(|name| scripted(dir.path(), name, 1));
        assert_eq!(run_scripts(&jobs), (names.len(), Vec::new()));
        assert!(names.iter().all(|name| runs(dir.path(), name) == 1));
    }
}
