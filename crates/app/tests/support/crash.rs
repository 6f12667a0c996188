//! Dying at every step: each scenario is run once to learn the kill points its operation passes,
//! then once more for each of them, with the daemon killed right there.
//!
//! ```text
//!   daemon that notes the points it passes ─► setup ─► operation ─► its points
//!   for each of them:
//!     setup ─► the daemon is told where to die ─► operation ─► must be dead, of that
//!           ─► daemon again ─► between ─► the same operation until it succeeds ─► verify
//!           ─► clean ─► nothing left, and the same daemon serves the next
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
use crate::support::uses::put_unfrozen;
use crate::support::{Rig, get, put};

/// How long a point may take to be reached; wipes and upkeep run in the background.
const REACHED: Duration = Duration::from_secs(20);

/// Less than the 10 s after which the guard of a freeze thaws by itself.
pub const NO_WAIT: Duration = Duration::from_secs(9);

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
        let took = put_unfrozen(&self.path(&format!("{suffix}.m/{file}")), file);
        assert!(took < NO_WAIT, "a write took {took:?}");
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
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Every point of every scenario, at its first two hits.
    Every,
    /// Every point at its first two hits, in the first scenario that passes it: a death costs
    /// seconds where every step is a command of LVM's.
    New,
    /// Every point of every scenario, two deaths at each. `STOWAGE_CRASH_EVERY` asks for this.
    Twice,
}

impl Depth {
    /// The hits of a point to die at, of this many, after so many deaths there.
    fn hits(self, hits: usize, deaths: usize) -> &'static [usize] {
        match (self, hits) {
            (Depth::New, _) if deaths > 0 => &[],
            (Depth::Twice, 1) => &[1, 1],
            (Depth::Every | Depth::New, 1) => &[1],
            _ => &[1, 2],
        }
    }
}

/// What a set of scenarios came to.
pub struct Report {
    depth: Depth,
    /// Deaths at each point while restarting after a first death.
    restarting: BTreeMap<String, usize>,
    /// Every point passed by an operation, or a start after a death, in any of them.
    passed: BTreeSet<String>,
    /// Deaths at each point.
    died: BTreeMap<String, usize>,
    failures: Vec<String>,
}

impl Report {
    pub fn new(depth: Depth) -> Self {
        let all = std::env::var_os("STOWAGE_CRASH_EVERY").is_some();
        Self {
            depth: if all { Depth::Twice } else { depth },
            restarting: BTreeMap::new(),
            passed: BTreeSet::new(),
            died: BTreeMap::new(),
            failures: Vec::new(),
        }
    }

    fn deaths(&self) -> usize {
        self.died.values().sum()
    }

    /// Run the scenarios; each failure is told and the next scenario gets a fresh rig.
    pub fn run(&mut self, storage: impl Fn() -> Rig, scenarios: &[Scenario]) {
        let only = std::env::var("STOWAGE_CRASH_ONLY").unwrap_or_default();
        let mut rig = None;
        for scenario in scenarios.iter().filter(|s| s.name.contains(&only)) {
            let (started, before) = (Instant::now(), self.deaths());
            let here = rig.get_or_insert_with(&storage);
            let mut run = Run {
                report: self,
                rig: here,
                scenario,
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
                self.deaths() - before,
                started.elapsed().as_secs_f64()
            );
        }
    }

    /// All must have gone well, with a death at each point that was passed, or two.
    #[track_caller]
    pub fn assert_good(&self) {
        println!(
            "crash: {} deaths at {} points of {} passed",
            self.deaths(),
            self.died.len(),
            self.passed.len()
        );
        assert!(self.failures.is_empty(), "failed: {:#?}", self.failures);
        let least = if self.depth == Depth::Twice { 2 } else { 1 };
        let deaths = |point: &&String| self.died.get(*point).copied().unwrap_or(0);
        let missed: Vec<&String> = self.passed.iter().filter(|p| deaths(p) < least).collect();
        assert!(missed.is_empty(), "not {least} deaths at {missed:#?}");
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
            .filter(|p| !self.died.contains_key(*p) && !is_excused(p))
            .collect();
        assert!(missed.is_empty(), "nobody died at {missed:#?}");
        let idle: Vec<_> = excused
            .iter()
            .filter(|(name, _)| self.died.contains_key(*name) || !points.contains(*name))
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
    count: usize,
    now: String,
}

/// Each with how often it was passed.
pub type Points = Vec<(String, usize)>;

impl Run<'_> {
    fn all(&mut self) {
        let points = self.learn();
        assert!(!points.is_empty(), "no kill point on the way");
        let mut in_restart = BTreeMap::new();
        for (point, hits) in points {
            let deaths = self.report.died.get(&point).copied().unwrap_or(0);
            for nth in self.report.depth.hits(hits, deaths) {
                let first = format!("{point}#{nth}");
                for (second, _) in self.die(&first, None) {
                    in_restart.entry(second).or_insert_with(|| first.clone());
                }
            }
        }
        for (second, first) in in_restart {
            let deaths = self.report.restarting.get(&second).copied().unwrap_or(0);
            for _ in self.report.depth.hits(1, deaths) {
                self.die(&first, Some(&second));
                *self.report.restarting.entry(second.clone()).or_default() += 1;
            }
        }
    }

    /// The points the operation passes when nobody dies.
    fn learn(&mut self) -> Points {
        self.begin("learning the way");
        self.rig.forget_points();
        let done = (self.scenario.operate)(&self.place());
        assert_eq!(done, Ok(()), "the operation fails even undisturbed");
        let points = self.passed();
        self.finish();
        points
    }

    /// Die at this point, and at another during the restart; the points the restart passed.
    fn die(&mut self, first: &str, second: Option<&str>) -> Points {
        self.begin(&match second {
            None => format!("dying at {first}"),
            Some(second) => format!("dying at {first}, then while restarting at {second}"),
        });
        self.rig.die_at(first);
        // What it is told does not matter: the point may lie behind the answer.
        let _ = catch_unwind(AssertUnwindSafe(|| (self.scenario.operate)(&self.place())));
        self.assert_dies(first);
        if let Some(second) = second {
            self.rig.die_at(second);
            // It may die before it serves or soon after.
            self.rig.try_start();
            self.assert_dies(second);
        }
        self.rig.forget_points();
        self.rig.start();
        let points = self.passed();
        (self.scenario.between)(&self.place());
        self.finish();
        points
    }

    /// Names of its own, a daemon that runs, and all that the operation needs.
    fn begin(&mut self, now: &str) {
        self.count += 1;
        now.clone_into(&mut self.now);
        if !self.rig.is_alive() {
            self.rig.watch_points();
            self.rig.start();
        }
        (self.scenario.setup)(&self.place());
        self.rig.settle();
    }

    fn place(&self) -> Place<'_> {
        Place {
            rig: self.rig,
            tag: format!("{}{}", self.scenario.name, self.count),
        }
    }

    /// Those since they were forgotten, once nothing is under way.
    fn passed(&mut self) -> Points {
        self.rig.settle();
        let points = counted(self.rig.points());
        let names = points.iter().map(|(name, _)| name.clone());
        self.report.passed.extend(names);
        points
    }

    fn assert_dies(&mut self, point: &str) {
        let deadline = Instant::now() + REACHED;
        while !self.rig.died() {
            assert!(Instant::now() < deadline, "nobody died at {point}");
        }
        let name = point.split('#').next().unwrap_or(point);
        *self.report.died.entry(name.to_owned()).or_default() += 1;
    }

    fn finish(&mut self) {
        let deadline = Instant::now() + RETRY;
        while let Err(said) = (self.scenario.retry)(&self.place()) {
            assert!(Instant::now() < deadline, "refused for good: {said}");
            assert!(self.rig.is_alive(), "the daemon died again: {said}");
            std::thread::sleep(Duration::from_millis(50));
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

/// Points in the order they were first passed, with how often.
pub fn counted(passed: Vec<String>) -> Points {
    let mut points = Points::new();
    for name in passed {
        match points.iter_mut().find(|(known, _)| *known == name) {
            Some((_, hits)) => *hits += 1,
            None => points.push((name, 1)),
        }
    }
    points
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}
