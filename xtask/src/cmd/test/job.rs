//! One suite, run to its end: on the machine or in a guest.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use stowage_testkit::scratch;

use super::guests::{Room, Visit};
use super::output::{self, Output};
use super::suites::{Ignored, Place, Suite};
use crate::build;
use crate::cell::{Cell, CellResult};
use crate::process;
use crate::tally::Tally;

/// How many times its budget a suite may take, in a run of all.
pub(super) const OVER: u32 = 3;

/// When a suite is ended that hangs, where its budget is not judged.
pub(super) const HANGS: Duration = Duration::from_secs(30 * 60);

/// `timeout` ends a suite at its limit; how much later the suite is left alone even if `timeout` hangs.
const GRACE: Duration = Duration::from_secs(30);

pub(super) struct Job {
    pub(super) suite: &'static Suite,
    /// The test program and where cargo would run it; for a cell, the program under test.
    pub(super) program: PathBuf,
    pub(super) dir: PathBuf,
    pub(super) logs: PathBuf,
    /// For its environment, as `KEY=VALUE`.
    pub(super) env: Vec<String>,
    pub(super) aloud: Aloud,
    /// When it is ended. None judges it by its budget.
    pub(super) limit: Option<Duration>,
}

/// What of a suite's output is also printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Aloud {
    Nothing,
    Everything,
    /// What its tests say of the campaign they run, which libtest otherwise keeps.
    Campaign,
}

/// What such lines begin with.
const CAMPAIGN: [&str; 3] = ["power: ", "crash: ", "FAILED "];

/// What became of it.
#[derive(Debug, Default)]
pub(super) struct Finished {
    pub(super) name: String,
    pub(super) tally: Tally,
    pub(super) elapsed: Duration,
    pub(super) budget: Option<Duration>,
    pub(super) cell: Option<CellResult>,
    pub(super) times: Vec<(String, Duration)>,
    pub(super) problem: Option<String>,
}

impl Finished {
    /// Something other than a suite went wrong.
    pub(super) fn broken(name: &str, elapsed: Duration, problem: String) -> Self {
        Self {
            name: name.to_owned(),
            tally: Tally::ONE_FAILED,
            elapsed,
            problem: Some(problem),
            ..Self::default()
        }
    }

    pub(super) fn is_good(&self) -> bool {
        self.tally.failed == 0 && self.problem.is_none()
    }
}

impl Job {
    pub(super) fn run(&self, room: &mut Option<Room>) -> Finished {
        let started = Instant::now();
        let name = self.suite.name;
        let done = match self.suite.cell() {
            Some(cell) => self.cell(cell, room),
            None => self.test(room),
        };
        let elapsed = started.elapsed();
        let mut finished =
            done.unwrap_or_else(|error| Finished::broken(name, elapsed, format!("{error:#}")));
        finished.name = name.to_owned();
        finished.elapsed = elapsed;
        finished.budget = Some(self.suite.budget);
        if self.limit.is_none() && elapsed > self.suite.budget * OVER {
            let told = format!("took more than {OVER} times its budget");
            let before = finished.problem.take();
            let all: Vec<String> = std::iter::once(told).chain(before).collect();
            finished.problem = Some(all.join("; "));
            finished.tally = finished.tally.at_least_one_failed(false);
        }
        finished
    }

    fn test(&self, room: &mut Option<Room>) -> Result<Finished> {
        let mut argv = vec![
            self.program.display().to_string(),
            "--test-threads=1".to_owned(),
        ];
        if matches!(self.suite.ignored, Ignored::Run) {
            argv.push("--include-ignored".to_owned());
        }
        if self.aloud == Aloud::Campaign {
            argv.push("--nocapture".to_owned());
        }
        if !self.env.is_empty() {
            let env = std::iter::once("env".to_owned()).chain(self.env.iter().cloned());
            argv.splice(0..0, env);
        }
        let (good, output) = self.run_argv(&argv, &self.dir, room)?;
        let Some(tally) = output.tally else {
            bail!("it printed no result; {}", self.shown());
        };
        let mut problems: Vec<String> = Vec::new();
        if !good {
            problems.push(self.shown());
        }
        // The examples may be none, and are counted once a crate.
        if self.suite.place != Place::Docs {
            problems.extend(misdeclared(self.suite, &output));
        }
        let tally = tally.at_least_one_failed(problems.is_empty());
        Ok(Finished {
            tally,
            times: output.times,
            problem: (!problems.is_empty()).then(|| problems.join("; ")),
            ..Finished::default()
        })
    }

    fn cell(&self, cell: Cell, room: &mut Option<Room>) -> Result<Finished> {
        // A result from an earlier run must not pass for this one's.
        if self.logs.exists() {
            std::fs::remove_dir_all(&self.logs).context("failed to remove old logs")?;
        }
        let this = std::env::current_exe().context("failed to find this program")?;
        let path = |path: &Path| path.display().to_string();
        let argv = [
            path(&this),
            "sanity-cell".to_owned(),
            "--pool".to_owned(),
            cell.pool.name().to_owned(),
            "--access".to_owned(),
            cell.access.name().to_owned(),
            "--stowage".to_owned(),
            path(&self.program),
            "--logs".to_owned(),
            path(&self.logs),
        ];
        self.run_argv(&argv, &scratch::workspace(), room)?;
        let result = CellResult::read(&self.logs)?;
        Ok(Finished {
            tally: result.tally(),
            problem: result.problem.clone(),
            cell: Some(result),
            ..Finished::default()
        })
    }

    fn run_argv(
        &self,
        argv: &[String],
        dir: &Path,
        room: &mut Option<Room>,
    ) -> Result<(bool, Output)> {
        let log = Log::create(&self.console(), self.suite.name, self.aloud)?;
        let log = Arc::new(Mutex::new(log));
        let on_line = {
            let log = Arc::clone(&log);
            move |line: &str| {
                log.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .line(line)
            }
        };
        let limit = self.limit.unwrap_or(self.suite.budget * OVER);
        let good = match self.suite.place {
            Place::Guest(needs) => {
                let visit = Visit {
                    argv,
                    dir,
                    logs: &self.logs,
                    limit,
                };
                Room::run(room, needs, &visit, on_line)?
            }
            Place::Docs => process::stream(docs(limit)?, limit + GRACE, on_line)?,
            place => {
                let mut command = on_machine(place, limit, argv);
                command.current_dir(dir);
                process::stream(command, limit + GRACE, on_line)?
            }
        };
        let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = Output::new(Instant::now());
        Ok((good, std::mem::replace(&mut log.output, fresh)))
    }

    fn console(&self) -> PathBuf {
        self.logs.join("console.txt")
    }

    /// Where to look, after what matters of it.
    fn shown(&self) -> String {
        let text = std::fs::read(self.console()).unwrap_or_default();
        let text = output::failure(&String::from_utf8_lossy(&text));
        format!("all of it is in {}\n{text}", self.console().display())
    }
}

/// Lets go of what other tests have mounted below the directories for temporary files and scratch, in a
/// copy of the machine's mounts: a file system stays, and its loop device with it, as long as any copy
/// has it.
const LET_GO: &str = r#"
tmp=$1 scratch=$2; shift 2
while read -r _ at _; do
    # A space is written as \040.
    case $at in "$tmp"/.tmp*|"$tmp"/stowage-*|"$scratch"/*) printf "$at\n";; esac
done </proc/self/mounts | tac | while IFS= read -r at; do umount -l "$at" 2>/dev/null; done
exec "$@"
"#;

/// Limited in time; with its helpers, which are of its process group.
///
/// Beside others each has mounts of its own, which end with it and which no other sees.
fn on_machine(place: Place, limit: Duration, argv: &[String]) -> Command {
    let seconds = limit.as_secs().to_string();
    let mut command = process::command("timeout", ["--signal=KILL", &seconds]);
    if place == Place::Host && rustix::process::geteuid().is_root() {
        command.args(["unshare", "--mount", "--propagation", "private", "--"]);
        command.args(["sh", "-c", LET_GO, "suite"]);
        command.args([std::env::temp_dir(), scratch::target().join("scratch")]);
    }
    command.args(argv);
    command
}

fn docs(limit: Duration) -> Result<Command> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let features = build::features()?.join(",");
    let args = ["test", "--workspace", "--doc", "--features", &features];
    let argv: Vec<String> = [&[cargo.as_str()], &args[..]]
        .concat()
        .into_iter()
        .map(str::to_owned)
        .collect();
    Ok(on_machine(Place::Docs, limit, &argv))
}

/// Tests that did not run and should have, and the other way round.
fn misdeclared(suite: &Suite, output: &Output) -> Vec<String> {
    let mut problems = Vec::new();
    let ran = output.tally.is_some_and(|t| t.passed + t.failed > 0);
    if !ran {
        problems.push("it ran no test at all".to_owned());
    }
    let declared = match suite.ignored {
        Ignored::These(names) => names,
        Ignored::None | Ignored::Run => &[],
    };
    let last = |name: &str| name.rsplit("::").next().unwrap_or(name).to_owned();
    for (name, reason) in &output.ignored {
        if !declared.contains(&last(name).as_str()) {
            problems.push(format!("{name} is ignored and its row does not say so"));
        } else if reason.is_none() {
            problems.push(format!("{name} is ignored without a reason"));
        }
    }
    let is_ignored = |wanted: &&&str| output.ignored.iter().any(|(n, _)| last(n) == **wanted);
    for name in declared.iter().filter(|name| !is_ignored(name)) {
        problems.push(format!("{name} is not ignored, though its row says so"));
    }
    problems
}

/// Everything printed goes to a file; when `aloud` also to the terminal, with the suite's name.
struct Log {
    file: File,
    name: &'static str,
    aloud: Aloud,
    output: Output,
}

impl Log {
    fn create(path: &Path, name: &'static str, aloud: Aloud) -> Result<Self> {
        let dir = path.parent().context("a log needs a directory")?;
        std::fs::create_dir_all(dir).context("failed to create the log directory")?;
        let file =
            File::create(path).with_context(|| format!("failed to create {}", path.display()))?;
        Ok(Self {
            file,
            name,
            aloud,
            output: Output::new(Instant::now()),
        })
    }

    fn line(&mut self, line: &str) {
        // A full disk costs the log, not the test.
        let _ = writeln!(self.file, "{line}");
        self.output.line(line, Instant::now());
        let said = match self.aloud {
            Aloud::Nothing => false,
            Aloud::Everything => true,
            Aloud::Campaign => CAMPAIGN.iter().any(|begin| line.starts_with(begin)),
        };
        if said {
            println!("{}: {line}", self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;

    use stowage_testkit::disk::{self, FsKind, LoopFs};

    use super::*;

    const SUITE: Suite = Suite {
        name: "a",
        place: Place::Host,
        budget: Duration::from_secs(1),
        ignored: Ignored::These(&["scenario"]),
        again: true,
        waits: false,
    };

    fn judged(suite: &Suite, lines: &[&str]) -> Vec<String> {
        let mut output = Output::new(Instant::now());
        for line in lines {
            output.line(line, Instant::now());
        }
        misdeclared(suite, &output)
    }

    #[test]
    fn ignored_tests_must_be_declared_and_have_a_reason() {
        let result = "test result: ok. 1 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out";
        let good = ["test m::scenario ... ignored, run by another", result];
        assert_eq!(judged(&SUITE, &good), [""; 0]);
        let silent = judged(&SUITE, &["test scenario ... ignored", result]);
        assert_eq!(silent, ["scenario is ignored without a reason"]);
        let none = Suite {
            ignored: Ignored::None,
            ..SUITE
        };
        assert_eq!(
            judged(&none, &good),
            ["m::scenario is ignored and its row does not say so"]
        );
        assert_eq!(
            judged(&SUITE, &[result]),
            ["scenario is not ignored, though its row says so"]
        );
    }

    #[test]
    fn a_suite_holds_no_mount_of_another() {
        let fs = LoopFs::new(FsKind::Ext4, 64 << 20).unwrap();
        let image = fs.image();
        let dir = image.parent().unwrap();
        let argv = ["sh", "-c", "echo here; exec sleep 60"].map(str::to_owned);
        let mut suite = on_machine(Place::Host, Duration::from_secs(60), &argv);
        let mut suite = suite.stdout(Stdio::piped()).spawn().unwrap();
        let mut said = [0; 5];
        let mut out = suite.stdout.take().unwrap();
        std::io::Read::read_exact(&mut out, &mut said).unwrap();
        // To remove the directory would take the mounts in all copies away.
        disk::unmount_below(dir).unwrap();
        disk::detach_loops_below(dir).unwrap();
        let deadline = Instant::now() + Duration::from_secs(5);
        let mut left = disk::loops_below(dir).unwrap();
        while !left.is_empty() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
            left = disk::loops_below(dir).unwrap();
        }
        let group = rustix::process::Pid::from_child(&suite);
        rustix::process::kill_process_group(group, rustix::process::Signal::KILL).unwrap();
        suite.wait().unwrap();
        assert!(left.is_empty(), "{left:?}");
    }

    #[test]
    fn no_test_at_all_is_a_failure() {
        let none = Suite {
            ignored: Ignored::None,
            ..SUITE
        };
        let result = "test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 7 filtered out";
        assert_eq!(judged(&none, &[result]), ["it ran no test at all"]);
    }
}
