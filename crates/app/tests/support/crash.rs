//! Dying at every step: each scenario is run once to learn the kill points its operation passes,
//! then once more for each of them, with the daemon killed right there.
//!
//! ```text
//!   setup ─► daemon with STOWAGE_FAILPOINT_LOG ─► operation ─► points it passed
//!   for each point:
//!     setup ─► daemon with STOWAGE_FAILPOINT=point ─► operation ─► must be dead
//!           ─► plain daemon ─► between ─► the same operation until it succeeds ─► verify
//!           ─► clean ─► nothing left
//!   and for each point the restart itself passed: die at both
//! ```
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test program uses a part of it"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::calls::Csi;
use crate::support::{Rig, get, put};

/// How long a point may take to be reached; wipes and upkeep run in the background.
const REACHED: Duration = Duration::from_secs(20);

/// How long the same request may be refused after a restart.
const RETRY: Duration = Duration::from_secs(30);

/// One operation and what must be true of it.
#[derive(Clone)]
pub struct Scenario {
    /// Begins the names of what it makes.
    pub name: &'static str,
    /// Makes what the operation needs.
    pub setup: fn(&Place<'_>),
    /// The operation under test.
    pub operate: fn(&Place<'_>) -> Outcome,
    /// Right after the restart, before anybody asks again.
    pub between: fn(&Place<'_>),
    /// What the caller asks then, mostly the same again.
    pub retry: fn(&Place<'_>) -> Outcome,
    pub verify: fn(&Place<'_>),
    /// Undoes everything, by ordinary requests.
    pub clean: fn(&Place<'_>),
}

/// Whether a request succeeded, else what was said.
pub type Outcome = Result<(), String>;

pub fn nothing(_: &Place<'_>) {}

/// Where one run of a scenario plays: names of its own, so that runs cannot meet.
pub struct Place<'a> {
    pub rig: &'a Rig,
    tag: String,
}

impl Place<'_> {
    /// A connection to the daemon as it runs.
    pub fn csi(&self) -> Csi {
        Csi::new(self.rig)
    }

    /// The name of a volume, snapshot or group.
    pub fn name(&self, suffix: &str) -> String {
        format!("{}{suffix}", self.tag)
    }

    /// A path below the rig.
    pub fn path(&self, suffix: &str) -> PathBuf {
        self.rig.path(&self.name(suffix))
    }

    pub fn text(&self, suffix: &str) -> String {
        self.path(suffix).display().to_string()
    }

    /// Ask; what was said if it was refused.
    pub fn ask(&self, args: &[&str]) -> Outcome {
        let answer = self.rig.run(args);
        match answer.status.success() {
            true => Ok(()),
            false => Err(answer.stderr),
        }
    }

    #[track_caller]
    pub fn ok(&self, args: &[&str]) -> Value {
        self.rig.ok(args)
    }

    /// Make a volume with this file system.
    #[track_caller]
    pub fn create(&self, suffix: &str, fs: &str, size: &str) {
        let name = self.name(suffix);
        self.ok(&["volume", "create", &name, "--fs", fs, "--size", size]);
    }

    #[track_caller]
    pub fn mount(&self, suffix: &str) -> PathBuf {
        let at = self.text(&format!("{suffix}.m"));
        self.ok(&["volume", "mount", &self.name(suffix), &at]);
        PathBuf::from(at)
    }

    #[track_caller]
    pub fn unmount(&self, suffix: &str) {
        self.ok(&["volume", "unmount", &self.text(&format!("{suffix}.m"))]);
    }

    #[track_caller]
    pub fn delete(&self, suffix: &str) {
        self.ok(&["volume", "delete", &self.name(suffix)]);
    }

    /// A volume that holds "kept" in the file "kept", mounted.
    #[track_caller]
    pub fn filled(&self, suffix: &str, fs: &str, size: &str) {
        self.create(suffix, fs, size);
        put(&self.mount(suffix).join("kept"), "kept");
    }

    /// As [`Place::filled`], unmounted again.
    #[track_caller]
    pub fn laid_down(&self, suffix: &str, fs: &str, size: &str) {
        self.filled(suffix, fs, size);
        self.unmount(suffix);
    }

    /// The volume is there once, holds what was written before, and can be written to.
    #[track_caller]
    pub fn intact(&self, suffix: &str, mounted: bool) {
        self.single("volume", suffix);
        let at = match mounted {
            true => self.path(&format!("{suffix}.m")),
            false => self.mount(suffix),
        };
        assert_eq!(get(&at.join("kept")), "kept");
        put(&at.join("new"), "new");
        if !mounted {
            self.unmount(suffix);
        }
    }

    /// A copy of the volume as it was when it held nothing but "kept".
    #[track_caller]
    pub fn of_the_moment(&self, suffix: &str) {
        self.single("volume", suffix);
        let at = self.mount(suffix);
        assert_eq!(get(&at.join("kept")), "kept");
        assert!(!at.join("later").exists(), "from after the moment");
        self.unmount(suffix);
    }

    /// Write after the moment, where the volume is mounted.
    #[track_caller]
    pub fn later(&self, suffix: &str) {
        self.write(suffix, "later");
    }

    /// Write a file where the volume is mounted; must not wait for a thaw that does not come.
    #[track_caller]
    pub fn write(&self, suffix: &str, file: &str) {
        let (at, started) = (self.path(&format!("{suffix}.m/{file}")), Instant::now());
        put(&at, file);
        assert!(
            started.elapsed() < Duration::from_secs(5),
            "a write took {:?}",
            started.elapsed()
        );
    }

    /// The volumes or snapshots of this name.
    #[track_caller]
    pub fn listed(&self, what: &str, suffix: &str) -> Vec<Value> {
        let all = self.ok(&[what, "list"]);
        let name = self.name(suffix);
        let all = all.as_array().expect("a list").iter();
        all.filter(|v| v["name"] == name.as_str())
            .cloned()
            .collect()
    }

    #[track_caller]
    pub fn single(&self, what: &str, suffix: &str) -> Value {
        let mut listed = self.listed(what, suffix);
        assert_eq!(listed.len(), 1, "{what} {}: {listed:?}", self.name(suffix));
        listed.remove(0)
    }

    #[track_caller]
    pub fn id(&self, suffix: &str) -> String {
        let id = self.single("volume", suffix)["id"].clone();
        id.as_str().expect("an id").to_owned()
    }

    /// How often something is mounted at this path.
    pub fn mounts(&self, path: &Path) -> usize {
        let table = std::fs::read_to_string("/proc/self/mounts").expect("a mount table");
        let path = path.display().to_string();
        table
            .lines()
            .filter(|l| l.split(' ').nth(1) == Some(&path))
            .count()
    }
}

/// How much to try.
#[derive(Clone, Copy)]
pub enum Depth {
    /// Every point of every scenario, at its first two hits.
    Every,
    /// Of the points that begin with one of these, each once: a death costs seconds where every
    /// step is a command of LVM's. `STOWAGE_CRASH_EVERY` turns this into [`Depth::Every`].
    Once(&'static [&'static str]),
}

impl Depth {
    fn hits(self, point: &str, before: &BTreeSet<String>, hits: usize) -> usize {
        let prefixes = match self {
            Depth::Once(prefixes) if std::env::var_os("STOWAGE_CRASH_EVERY").is_none() => prefixes,
            _ => return hits.min(2),
        };
        let wanted = prefixes.iter().any(|p| point.starts_with(p)) && !before.contains(point);
        usize::from(wanted)
    }
}

/// What a set of scenarios came to.
pub struct Report {
    depth: Depth,
    /// Points died at while restarting after a first death.
    twice: BTreeSet<String>,
    /// Every point passed in any of them.
    pub passed: BTreeSet<String>,
    /// Every point died at.
    pub died: BTreeSet<String>,
    pub deaths: usize,
    failures: Vec<String>,
}

impl Report {
    pub fn new(depth: Depth) -> Self {
        Self {
            depth,
            twice: BTreeSet::new(),
            passed: BTreeSet::new(),
            died: BTreeSet::new(),
            deaths: 0,
            failures: Vec::new(),
        }
    }

    /// Run the scenarios; each failure is told and the next scenario gets a fresh rig.
    pub fn run(&mut self, storage: impl Fn() -> Rig, scenarios: &[Scenario]) {
        let only = std::env::var("STOWAGE_CRASH_ONLY").unwrap_or_default();
        let mut rig = None;
        for scenario in scenarios.iter().filter(|s| s.name.contains(&only)) {
            let (started, before) = (Instant::now(), self.deaths);
            let here = rig.get_or_insert_with(&storage);
            let mut run = Run {
                report: self,
                rig: here,
                scenario,
                before: BTreeSet::new(),
                count: 0,
                now: String::new(),
            };
            let result = catch_unwind(AssertUnwindSafe(|| run.all()));
            let now = std::mem::take(&mut run.now);
            if result.is_err() {
                let log = rig.as_ref().map(|r| tail(&r.log())).unwrap_or_default();
                println!("FAILED {} {now}; the daemon's log:\n{log}", scenario.name);
                self.failures.push(format!("{} {now}", scenario.name));
                rig = None;
            }
            println!(
                "crash: {}: {} deaths in {:.1} s",
                scenario.name,
                self.deaths - before,
                started.elapsed().as_secs_f64()
            );
        }
    }

    /// All must have gone well.
    #[track_caller]
    pub fn assert_good(&self) {
        println!(
            "crash: {} deaths at {} points of {} passed",
            self.deaths,
            self.died.len(),
            self.passed.len()
        );
        assert!(self.failures.is_empty(), "failed: {:#?}", self.failures);
    }

    /// Every point in the source that begins with one of these must have been died at, but for
    /// those excused, each with a reason; an excuse that is not needed is an error as well.
    #[track_caller]
    pub fn assert_covers(&self, prefixes: &[&str], excused: &[(&str, &str)]) {
        if std::env::var_os("STOWAGE_CRASH_ONLY").is_some() {
            return;
        }
        let points = points_in_the_source();
        assert!(points.len() > 50, "found too little: {points:?}");
        let wanted = |p: &&String| prefixes.iter().any(|prefix| p.starts_with(prefix));
        let is_excused = |p: &String| excused.iter().any(|(name, _)| name == p);
        let missed: Vec<_> = points
            .iter()
            .filter(wanted)
            .filter(|p| !self.died.contains(*p) && !is_excused(p))
            .collect();
        assert!(missed.is_empty(), "nobody died at {missed:#?}");
        let idle: Vec<_> = excused
            .iter()
            .filter(|(name, _)| self.died.contains(*name) || !points.contains(*name))
            .collect();
        assert!(idle.is_empty(), "excused for nothing: {idle:#?}");
    }
}

/// Every name given to a kill point in the product's source.
pub fn points_in_the_source() -> BTreeSet<String> {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("a workspace");
    let mut names = BTreeSet::new();
    let mut dirs: Vec<PathBuf> = ["node/src", "pool/src", "host/src", "csi/src", "app/src"]
        .iter()
        .map(|d| crates.join(d))
        .collect();
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir).expect("a source directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") && !path.ends_with("failpoint.rs")
            {
                let text = std::fs::read_to_string(&path).expect("source");
                let calls = text.split("hit(\"").skip(1);
                names.extend(calls.filter_map(|c| Some(c.split_once('"')?.0.to_owned())));
            }
        }
    }
    names
}

/// One scenario on one rig.
struct Run<'a> {
    report: &'a mut Report,
    rig: &'a mut Rig,
    scenario: &'a Scenario,
    /// The points passed before the operation.
    before: BTreeSet<String>,
    count: usize,
    now: String,
}

/// Points in the order they were first passed, with how often.
type Points = Vec<(String, usize)>;

impl Run<'_> {
    fn all(&mut self) {
        let points = self.learn();
        assert!(!points.is_empty(), "no kill point on the way");
        let mut in_restart = BTreeMap::new();
        for (point, hits) in points {
            for nth in 1..=self.report.depth.hits(&point, &self.report.died, hits) {
                let first = format!("{point}#{nth}");
                for (second, _) in self.die(&first, None) {
                    in_restart.entry(second).or_insert_with(|| first.clone());
                }
            }
        }
        for (second, first) in in_restart {
            if self.report.depth.hits(&second, &self.report.twice, 1) > 0 {
                self.die(&first, Some(&second));
                self.report.twice.insert(second);
            }
        }
    }

    /// The points the operation passes when nobody dies.
    fn learn(&mut self) -> Points {
        self.begin("learning the way");
        let log = self.rig.path("points");
        self.start_logging(&log);
        (self.scenario.setup)(&self.place());
        self.rig.settle();
        self.rig.stop();
        let passed = read_points(&log);
        self.start_logging(&log);
        // Those of the start as well.
        let before = passed.into_iter().chain(read_points(&log));
        self.before = before.map(|p| p.0).collect();
        let done = (self.scenario.operate)(&self.place());
        assert_eq!(done, Ok(()), "the operation fails even undisturbed");
        self.rig.settle();
        let points = read_points(&log);
        self.report
            .passed
            .extend(points.iter().map(|p| p.0.clone()));
        self.finish();
        points
    }

    /// Die at this point, and at another during the restart; the points the restart passed.
    fn die(&mut self, first: &str, second: Option<&str>) -> Points {
        self.begin(&match second {
            None => format!("dying at {first}"),
            Some(second) => format!("dying at {first}, then while restarting at {second}"),
        });
        if !self.before.contains(name_of(first)) {
            // One start less; those of a daemon with many volumes on LVM take a while.
            self.start_to_die(first);
            (self.scenario.setup)(&self.place());
        } else {
            self.start_plain();
            (self.scenario.setup)(&self.place());
            self.rig.settle();
            self.rig.stop();
            self.start_to_die(first);
        }
        self.operate_to_death(first);
        if let Some(second) = second {
            self.start_to_die(second);
            self.assert_dies(second);
        }
        let log = self.rig.path("points");
        self.start_logging(&log);
        self.rig.settle();
        let points = read_points(&log);
        self.report
            .passed
            .extend(points.iter().map(|p| p.0.clone()));
        (self.scenario.between)(&self.place());
        self.finish();
        points
    }

    fn begin(&mut self, now: &str) {
        self.count += 1;
        now.clone_into(&mut self.now);
    }

    fn place(&self) -> Place<'_> {
        Place {
            rig: self.rig,
            tag: format!("{}{}", self.scenario.name, self.count),
        }
    }

    fn start_plain(&mut self) {
        self.rig.kill();
        self.rig.unset_all();
        self.rig.start();
    }

    fn start_logging(&mut self, log: &Path) {
        let _ = std::fs::remove_file(log);
        self.rig.kill();
        self.rig.unset_all();
        self.rig
            .set("STOWAGE_FAILPOINT_LOG", &log.display().to_string());
        self.rig.start();
    }

    /// It may die before it serves or soon after.
    fn start_to_die(&mut self, point: &str) {
        self.rig.kill();
        self.rig.unset_all();
        self.rig.set("STOWAGE_FAILPOINT", point);
        self.rig.try_start();
    }

    fn operate_to_death(&mut self, point: &str) {
        // What it is told does not matter: the point may lie behind the answer, or have been
        // reached before there was anybody to ask.
        let _ = catch_unwind(AssertUnwindSafe(|| (self.scenario.operate)(&self.place())));
        self.assert_dies(point);
    }

    fn assert_dies(&mut self, point: &str) {
        let deadline = Instant::now() + REACHED;
        while !self.rig.died() {
            assert!(Instant::now() < deadline, "nobody died at {point}");
        }
        self.report.died.insert(name_of(point).to_owned());
        self.report.deaths += 1;
    }

    fn finish(&mut self) {
        let deadline = Instant::now() + RETRY;
        while let Err(said) = (self.scenario.retry)(&self.place()) {
            assert!(Instant::now() < deadline, "refused for good: {said}");
            assert!(!self.rig.died(), "the daemon died again: {said}");
            std::thread::sleep(Duration::from_millis(100));
        }
        let place = self.place();
        (self.scenario.verify)(&place);
        (self.scenario.clean)(&place);
        self.rig.assert_clean();
        let state = self.rig.path("state");
        for dir in ["attachments", "staging"] {
            let left: Vec<_> = std::fs::read_dir(state.join(dir))
                .into_iter()
                .flatten()
                .collect();
            assert!(left.is_empty(), "left in {dir}: {left:?}");
        }
        let doctor = self.rig.ok(&["doctor"]);
        assert_eq!(doctor, Value::Array(Vec::new()), "doctor finds something");
    }
}

/// A point without the number of the hit.
fn name_of(point: &str) -> &str {
    point.split('#').next().unwrap_or(point)
}

fn read_points(log: &Path) -> Points {
    let mut points = Points::new();
    for name in std::fs::read_to_string(log).unwrap_or_default().lines() {
        match points.iter_mut().find(|(known, _)| known == name) {
            Some((_, hits)) => *hits += 1,
            None => points.push((name.to_owned(), 1)),
        }
    }
    points
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}
