//! What a run tells.

use std::time::Duration;

use super::job::{Finished, OVER};
use super::suites::{Place, Suite};
use crate::tally::Tally;

const SLOWEST: usize = 20;

/// As each suite ends.
pub(super) fn done(done: &Finished) {
    let Tally { passed, failed, .. } = done.tally;
    let time = seconds(done.elapsed);
    println!("== {}: {passed} passed, {failed} failed, {time}", done.name);
}

pub(super) fn problem(done: &Finished) {
    if let Some(problem) = &done.problem {
        println!("\n== {} failed: {problem}\n", done.name);
    }
}

/// The tables, what is slow, what failed; what all came to.
pub(super) fn summarise(finished: &[Finished], flaky: &[String]) -> Tally {
    println!("\n== where                      passed  failed  skipped  pending      time");
    let mut total = Tally::default();
    for done in finished {
        let (skipped, pending) = done
            .cell
            .as_ref()
            .map_or((done.tally.ignored, 0), |cell| (cell.skipped, cell.pending));
        println!(
            "   {:<26} {:>6}  {:>6}  {skipped:>7}  {pending:>7}  {:>8}{}",
            done.name,
            done.tally.passed,
            done.tally.failed,
            seconds(done.elapsed),
            if flaky.contains(&done.name) {
                "  at the second try"
            } else {
                ""
            }
        );
        total += done.tally;
    }
    slowest(finished);
    for done in finished {
        if let Some(budget) = done.budget.filter(|budget| done.elapsed > *budget) {
            let (took, budget) = (seconds(done.elapsed), seconds(budget));
            println!(
                "== {} took {took}, budget {budget} (it fails at {OVER} times that)",
                done.name
            );
        }
    }
    for done in finished {
        problem(done);
    }
    println!();
    total
}

fn slowest(finished: &[Finished]) {
    let mut times: Vec<(Duration, &str, &str)> = finished
        .iter()
        .flat_map(|done| {
            let times = done.times.iter();
            times.map(|(test, time)| (*time, done.name.as_str(), test.as_str()))
        })
        .collect();
    times.sort_by(|a, b| b.cmp(a));
    println!("\n== the slowest tests");
    for (time, suite, test) in times.iter().take(SLOWEST) {
        println!("   {:>8}  {suite} {test}", seconds(*time));
    }
    println!();
}

pub(super) fn list(suites: &[Suite]) {
    println!("{:<26} {:<10} budget", "suite", "where");
    for suite in suites {
        let place = match suite.place {
            Place::Host => "host",
            Place::Alone => "host alone",
            Place::Guest(_) => "guest",
            Place::Boots => "boots",
            Place::Docs => "docs",
        };
        println!(
            "{:<26} {place:<10} {} s",
            suite.name,
            suite.budget.as_secs()
        );
    }
}

pub(super) fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}
