//! What was found wrong and is kept until it is over: in pools, in the state directory, at doors, in the
//! kernel. What can be looked at when somebody asks is not kept here.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use stowage_host::{Repeat, kernel};
use stowage_model::PoolName;
use stowage_model::volumes::{Finding, Severity, Trouble};
use tokio::time::Instant;

use super::entry::Entry;

/// How long the state directory is left alone at first when something in it cannot be used, doubled
/// each time, and at most.
const PAUSE: Duration = Duration::from_secs(3);
const LONGEST_PAUSE: Duration = Duration::from_secs(48);

type OfPools = RwLock<BTreeMap<PoolName, Vec<Finding>>>;

/// What was found.
#[derive(Default)]
pub(crate) struct Notices {
    /// By reading the pools, and by work on what they hold.
    read: OfPools,
    /// By the last maintenance.
    maintained: OfPools,
    state: RwLock<State>,
    /// What doors say of themselves.
    doors: RwLock<BTreeMap<&'static str, Finding>>,
    kernel: Option<Finding>,
    /// What was logged of each pool.
    logged: Mutex<BTreeMap<PoolName, Repeat>>,
}

/// What is wrong with the state directory.
#[derive(Default)]
struct State {
    findings: Vec<Finding>,
    again: Option<(Instant, Duration)>,
}

impl Notices {
    /// Nothing but what this kernel lacks.
    pub(crate) fn of_this_kernel() -> Self {
        Self {
            kernel: of_kernel(&kernel::lacking(), &kernel::release()),
            ..Self::default()
        }
    }

    /// Keep a finding about something in this pool until the next start.
    pub(crate) fn found_in(&self, pool: &PoolName, finding: Finding) {
        let mut read = write(&self.read);
        read.entry(pool.clone()).or_default().push(finding);
    }

    /// Drop what was found in this pool and is over.
    pub(crate) fn found_no_more(&self, pool: &PoolName, is_over: impl Fn(&Finding) -> bool) {
        if let Some(of_pool) = write(&self.read).get_mut(pool) {
            of_pool.retain(|finding| !is_over(finding));
        }
    }

    /// A pool was read, and this is what was found.
    pub(crate) fn was_read(&self, pool: &PoolName, findings: Vec<Finding>) {
        write(&self.read).insert(pool.clone(), findings);
    }

    /// A pool was maintained, and this is what was found. Answers what was not found the last time.
    pub(crate) fn was_maintained(&self, pool: &PoolName, findings: Vec<Finding>) -> Vec<Finding> {
        let before = write(&self.maintained).insert(pool.clone(), findings.clone());
        let before = before.unwrap_or_default();
        let said = |f: &Finding| (f.subject.clone(), f.what.clone());
        let told: HashSet<_> = before.iter().map(said).collect();
        let mut new = findings;
        new.retain(|f| !told.contains(&said(f)));
        new
    }

    /// What the last maintenance of this pool found.
    pub(crate) fn of_maintenance(&self, pool: &PoolName) -> Vec<Finding> {
        let maintained = read(&self.maintained);
        maintained.get(pool).cloned().unwrap_or_default()
    }

    /// All that was found in pools.
    pub(crate) fn in_pools(&self) -> Vec<Finding> {
        let (read, maintained) = (read(&self.read), read(&self.maintained));
        let all = read.values().chain(maintained.values());
        all.flatten().cloned().collect()
    }

    /// The pools that were not there when they were last maintained.
    pub(crate) fn missing_pools(&self) -> Vec<PoolName> {
        let is_gone =
            |f: &Finding| f.trouble == Trouble::PoolMissing && f.severity == Severity::Error;
        let maintained = read(&self.maintained);
        let missing = maintained
            .iter()
            .filter(|(_, findings)| findings.iter().any(is_gone));
        missing.map(|(pool, _)| pool.clone()).collect()
    }

    /// Whether the last look at the pool of a snapshot found that it overflowed.
    pub(crate) fn is_lost(&self, snapshot: &Entry) -> bool {
        [&self.read, &self.maintained].into_iter().any(|kept| {
            let kept = read(kept);
            let mut of_pool = kept.get(snapshot.pool.name()).into_iter().flatten();
            of_pool.any(|f| tells_of_the_loss_of(f, snapshot))
        })
    }

    /// A snapshot is gone; the next of its name has its id.
    pub(crate) fn not_lost_any_more(&self, snapshot: &Entry) {
        for kept in [&self.read, &self.maintained] {
            if let Some(of_pool) = write(kept).get_mut(snapshot.pool.name()) {
                of_pool.retain(|f| !tells_of_the_loss_of(f, snapshot));
            }
        }
    }

    /// The state directory was looked at, and this is what was found; where that is something, it is
    /// looked at again after a pause that grows.
    pub(crate) fn of_state(&self, findings: Vec<Finding>) {
        let mut state = write(&self.state);
        let pause = state
            .again
            .map_or(PAUSE, |(_, pause)| (pause * 2).min(LONGEST_PAUSE));
        let told = |f: &&Finding| state.findings.iter().any(|before| before.what == f.what);
        for finding in findings.iter().filter(|f| !told(f)) {
            tracing::error!(subject = finding.subject, "{}", finding.what);
        }
        state.again = (!findings.is_empty()).then(|| (Instant::now() + pause, pause));
        state.findings = findings;
    }

    /// Whether the state directory is to be looked at again now.
    pub(crate) fn is_state_due(&self) -> bool {
        let again = read(&self.state).again;
        again.is_some_and(|(due, _)| due <= Instant::now())
    }

    /// A trouble that a door has, or that it has no more.
    pub(crate) fn of_door(&self, door: &'static str, finding: Option<Finding>) {
        let mut doors = write(&self.doors);
        match finding {
            Some(finding) => doors.insert(door, finding),
            None => doors.remove(door),
        };
    }

    /// What is wrong with the state directory, with doors and with the kernel.
    pub(crate) fn beside_pools(&self) -> Vec<Finding> {
        let (state, doors) = (read(&self.state), read(&self.doors));
        let all = state.findings.iter().chain(doors.values());
        all.chain(&self.kernel).cloned().collect()
    }

    /// Whether this about a pool was not logged, or long ago.
    pub(crate) fn is_news(&self, pool: &PoolName, what: &str) -> bool {
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        logged.entry(pool.clone()).or_default().is_due(what)
    }
}

fn read<T>(of: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    of.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(of: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    of.write().unwrap_or_else(PoisonError::into_inner)
}

fn tells_of_the_loss_of(finding: &Finding, snapshot: &Entry) -> bool {
    finding.trouble == Trouble::SnapshotLost && finding.subject == snapshot.record.id.as_str()
}

/// That the kernel lacks these calls.
fn of_kernel(lacking: &[&str], release: &str) -> Option<Finding> {
    if lacking.is_empty() {
        return None;
    }
    let what = format!(
        "{release} has no {}, without which volumes cannot be mounted safely",
        lacking.join(", ")
    );
    let mend = format!(
        "run {} or newer; in a container, with a seccomp profile that allows them",
        kernel::NEEDED
    );
    tracing::error!(mend, "{what}");
    Some(Finding {
        severity: Severity::Error,
        trouble: Trouble::ToolMissing,
        subject: "kernel".to_owned(),
        what,
        mend,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_that_is_too_old_is_told_with_what_it_lacks_and_what_is_needed() {
        assert_eq!(of_kernel(&[], "Linux 6.1.0"), None);
        let found = of_kernel(&["open_tree", "mount_setattr"], "Linux 5.4.0-9").unwrap();
        assert_eq!(found.severity, Severity::Error);
        assert!(
            found
                .what
                .contains("Linux 5.4.0-9 has no open_tree, mount_setattr")
        );
        assert!(found.mend.contains("5.12"), "{}", found.mend);
    }
}
