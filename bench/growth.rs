//! The same work for few volumes and for ten times as many, in one run.

use std::ops::Sub;
use std::time::{Duration, Instant};

pub(crate) const FEW: usize = 200;
pub(crate) const MANY: usize = 10 * FEW;

/// Ten times, and a little for what does not fit into the processor's caches any more.
const MOST: f64 = 11.0;

/// What something cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Cost {
    /// Time of the processors, spent by all threads of a process. Of a machine on which others work
    /// as well it is what can be compared.
    spent: Duration,
    passed: Duration,
}

/// What was done, and the cheapest of several times that it was: whatever else happens only adds.
pub(crate) type Figures = Vec<(&'static str, Cost)>;

/// A moment in the life of a process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
    pub(crate) spent: Duration,
    pub(crate) at: Instant,
}

impl Moment {
    pub(crate) fn of(pid: u32) -> Self {
        // Of a thread that runs the kernel counts what it spent when it stops running.
        std::thread::yield_now();
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("it runs");
        // proc(5): nanoseconds on a processor come first. A thread may end meanwhile.
        let spent = tasks.flatten().filter_map(|task| {
            let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
            text.split(' ').next()?.parse::<u64>().ok()
        });
        Self {
            spent: Duration::from_nanos(spent.sum()),
            at: Instant::now(),
        }
    }
}

impl Sub for Moment {
    type Output = Cost;

    fn sub(self, earlier: Self) -> Cost {
        Cost {
            spent: self.spent.saturating_sub(earlier.spent),
            passed: self.at - earlier.at,
        }
    }
}

/// Prints a row of the table each.
///
/// # Panics
/// When something takes more than [`MOST`] times as much.
pub(crate) fn compare(few: Figures, many: Figures) {
    let mut over = Vec::new();
    for ((what, few), (_, many)) in few.into_iter().zip(many) {
        let ms = |time: Duration| time.as_secs_f64() * 1000.0;
        let ratio = ms(many.spent) / ms(few.spent);
        let shown = |cost: Cost| format!("{:.2} ms ({:.2})", ms(cost.spent), ms(cost.passed));
        println!(
            "| {MANY} volumes: {what}, spent (passed) | {} | {FEW} volumes: {} | {ratio:.2}x |",
            shown(many),
            shown(few)
        );
        if ratio > MOST {
            over.push(what);
        }
    }
    assert!(over.is_empty(), "more than {MOST} times as much: {over:?}");
}
