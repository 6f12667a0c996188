//! What is wrong, and how to mend it: for health calls and for `doctor`.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};

use futures::future::join_all;
use stowage_host::{Devno, Holder, blocking, filesystem, kernel, mount};
use stowage_model::record::Content;
use stowage_model::volumes::{Finding, Severity, Trouble};
use stowage_model::{Id, PoolName};

use crate::attachments::Attachment;
use crate::index::Entry;
use crate::local::Inner;
use crate::ops::named;
use crate::target::mounts;

impl Inner {
    pub(crate) async fn all_findings(self: &Arc<Self>) -> Vec<Finding> {
        let mut all = self.own_troubles();
        all.extend(self.kernel.iter().cloned());
        let pools = self.pools();
        let asked = pools.iter().map(|pool| self.status_of(pool));
        // At once, since each may take as long as a caller waits.
        let (asked, of_volumes) = tokio::join!(join_all(asked), self.volumes_findings());
        all.extend(of_volumes);
        for status in asked {
            if let Some(problem) = status.problem {
                let problem = match self.unread.why(&status.name) {
                    Some(why) => format!("could not be read: {why}"),
                    None => problem,
                };
                all.push(self.pool_missing(status.name.as_str(), &problem));
            }
        }
        let mut kept = Vec::new();
        for of_pools in [&self.found, &self.upkeep] {
            let of_pools = of_pools.read().unwrap_or_else(PoisonError::into_inner);
            kept.extend(of_pools.values().flatten().cloned());
        }
        // A pool knows better how it is brought back.
        let about = |f: &Finding| (f.trouble, f.subject.clone(), f.what.clone());
        let known: HashSet<_> = kept.iter().map(about).collect();
        all.retain(|told| !known.contains(&about(told)));
        all.extend(kept);
        all.sort_by(|a, b| {
            b.severity
                .cmp(&a.severity)
                .then_with(|| a.subject.cmp(&b.subject))
                .then_with(|| a.what.cmp(&b.what))
        });
        all.dedup();
        all
    }

    /// What is wrong with each volume, its pool aside. May take as long as a disk hangs.
    pub(crate) async fn look_at_volumes(&self) -> Vec<Finding> {
        let mut all = Vec::new();
        all.extend(self.broken_groups());
        for (id, by) in self.ops.left_behind().await {
            all.push(left_behind(&id, &by));
        }
        // Notes before mounts: what was mounted only afterwards is not missed.
        let noted = self.attachments.all();
        let seen = Seen::of(noted.values()).await;
        // Of one that is whole, and in use nowhere, there is nothing to tell; the note of an inline
        // one may be missing.
        let of_interest = |e: &Entry| {
            let inline_or_not_whole = e.record.ephemeral || e.record.content == Content::Filling;
            !e.record.is_snapshot() && (inline_or_not_whole || noted.contains_key(&e.record.id))
        };
        for entry in self.index.list(of_interest) {
            let noted = noted.get(&entry.record.id).cloned().unwrap_or_default();
            all.extend(self.own_findings(&entry, noted, &seen));
        }
        all
    }

    /// What is wrong with each of these volumes, their pools included.
    pub(crate) async fn findings_of(&self, all: &[Entry]) -> BTreeMap<Id, Vec<Finding>> {
        let pools: BTreeMap<_, _> = all.iter().map(|e| (e.pool.name(), &e.pool)).collect();
        let asked = pools.into_values().map(|pool| self.status_of(pool));
        let asked = join_all(asked).await;
        let problems: BTreeMap<_, _> = asked
            .into_iter()
            .filter_map(|status| Some((status.name, status.problem?)))
            .collect();
        let noted: Vec<_> = all
            .iter()
            .map(|e| self.attachments.get(&e.record.id))
            .collect();
        let seen = Seen::of(noted.iter()).await;
        let each = all.iter().zip(noted).map(|(entry, noted)| {
            let mut findings = self.own_findings(entry, noted, &seen);
            findings.extend(self.pool_findings(entry, problems.get(entry.pool.name())));
            (entry.record.id.clone(), findings)
        });
        each.collect()
    }

    fn pool_missing(&self, name: &str, problem: &str) -> Finding {
        let definition = self.pools_dir().join(format!("{name}.json"));
        Finding {
            severity: Severity::Error,
            trouble: Trouble::PoolMissing,
            subject: name.to_owned(),
            what: problem.to_owned(),
            mend: format!(
                "do what it says, or bring its disk or file system back; if the pool is not wanted \
                 any more take it out of the configuration (one made with `pool create`: remove {}) \
                 and restart the daemon",
                definition.display()
            ),
        }
    }

    /// What is wrong with the pool of a volume, of which this is known.
    fn pool_findings(&self, entry: &Entry, problem: Option<&String>) -> Vec<Finding> {
        let mut findings = Vec::new();
        if let Some(problem) = problem {
            findings.push(self.pool_missing(entry.pool.name().as_str(), problem));
        }
        let upkeep = self.upkeep.read().unwrap_or_else(PoisonError::into_inner);
        let of_pool = upkeep.get(entry.pool.name()).into_iter().flatten();
        findings.extend(of_pool.filter(|f| concerns(f, entry)).cloned());
        findings
    }

    /// Whether the last look at the pool of a snapshot found that it overflowed.
    pub(crate) fn is_lost(&self, snapshot: &Entry) -> bool {
        let id = snapshot.record.id.as_str();
        [&self.found, &self.upkeep].into_iter().any(|kept| {
            let kept = kept.read().unwrap_or_else(PoisonError::into_inner);
            let mut of_pool = kept.get(snapshot.pool.name()).into_iter().flatten();
            of_pool.any(|f| f.trouble == Trouble::SnapshotLost && f.subject == id)
        })
    }

    /// A snapshot is gone; the next of its name has its id.
    pub(crate) fn not_lost_any_more(&self, snapshot: &Entry) {
        let id = snapshot.record.id.as_str();
        for kept in [&self.found, &self.upkeep] {
            let mut kept = kept.write().unwrap_or_else(PoisonError::into_inner);
            if let Some(of_pool) = kept.get_mut(snapshot.pool.name()) {
                of_pool.retain(|f| f.trouble != Trouble::SnapshotLost || f.subject != id);
            }
        }
    }

    /// Keep a finding about something in this pool until the next start.
    pub(crate) fn found_in(&self, pool: &PoolName, finding: Finding) {
        let mut found = self.found.write().unwrap_or_else(PoisonError::into_inner);
        found.entry(pool.clone()).or_default().push(finding);
    }

    /// Drop what was found in this pool and is over.
    pub(crate) fn found_no_more(&self, pool: &PoolName, is_over: impl Fn(&Finding) -> bool) {
        let mut found = self.found.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(of_pool) = found.get_mut(pool) {
            of_pool.retain(|finding| !is_over(finding));
        }
    }

    /// The pools that were not there when they were last looked at.
    pub(crate) fn missing_pools(&self) -> Vec<PoolName> {
        let unread = self.unread.pools().into_iter();
        let mut missing: Vec<_> = unread.map(|(pool, _)| pool).collect();
        let upkeep = self.upkeep.read().unwrap_or_else(PoisonError::into_inner);
        let gone = |findings: &[Finding]| {
            let mut of_pool = findings.iter();
            of_pool.any(|f| f.trouble == Trouble::PoolMissing && f.severity == Severity::Error)
        };
        let gone = upkeep.iter().filter(|(_, findings)| gone(findings));
        missing.extend(gone.map(|(pool, _)| pool.clone()));
        missing
    }

    /// What is wrong with a volume of which this was noted and seen.
    fn own_findings(&self, entry: &Entry, noted: Attachment, seen: &Seen) -> Vec<Finding> {
        let id = &entry.record.id;
        let mut findings = Vec::new();
        if entry.record.content == Content::Filling && !self.filling(entry) {
            findings.push(Finding {
                severity: Severity::Warning,
                trouble: Trouble::Leftover,
                subject: id.to_string(),
                what: format!(
                    "{} was being filled when the copy was cut off",
                    entry.title()
                ),
                mend: "create it again with the same request to start over, or delete it".into(),
            });
        }
        findings.extend(self.without_limits(entry));
        findings.extend(self.kept_for_its_consumer(entry));
        for (target, unmounted) in &noted.unmounted {
            findings.push(Finding {
                severity: Severity::Warning,
                trouble: Trouble::Leftover,
                subject: id.to_string(),
                what: format!(
                    "{} was mounted at {} and is not since the machine was restarted; what is \
                     written there goes to the disk below",
                    entry.title(),
                    target.display()
                ),
                mend: format!(
                    "{}; or, if it is no longer wanted there: stowage volume unmount {}",
                    unmounted.command(&entry.record.name.to_string(), target),
                    target.display()
                ),
            });
        }
        let Some(staging) = noted.staging.filter(|s| !s.block) else {
            return findings;
        };
        let Some(mounts) = &seen.mounts else {
            return findings;
        };
        let found = mounts.at(&staging.path);
        let errors = found.and_then(|m| seen.errors.get(&m.dev));
        let errors = errors.copied().unwrap_or_default();
        if errors > 0 {
            findings.push(Finding {
                severity: Severity::Warning,
                trouble: Trouble::DeviceError,
                subject: id.to_string(),
                what: format!(
                    "the file system of {} has recorded {errors} error(s) since its last check",
                    entry.title()
                ),
                mend: "look for device errors in the kernel log, save what matters, unmount, run \
                       fsck, mount again"
                    .into(),
            });
        }
        if found.is_some() {
            findings.extend(self.smaller(entry, &staging));
        }
        match found {
            // Unless it was unstaged meanwhile.
            None if self.attachments.get(id).staging.as_ref() != Some(&staging) => {}
            None => findings.push(Finding {
                severity: Severity::Warning,
                trouble: Trouble::Leftover,
                subject: id.to_string(),
                what: format!(
                    "{} should be mounted at {} and is not",
                    entry.title(),
                    staging.path.display()
                ),
                mend: "unmount it with this tool, then mount it again".into(),
            }),
            // The kernel turns a file system read-only by itself after errors (ext4:
            // errors=remount-ro); the mount's own flags then stay as they were.
            Some(m) if m.super_options.iter().any(|o| o == "ro") && !staging.is_read_only() => {
                findings.push(Finding {
                    severity: Severity::Error,
                    trouble: Trouble::ReadOnly,
                    subject: id.to_string(),
                    what: format!("the file system of {} turned read-only", entry.title()),
                    mend: "look for device errors in the kernel log, unmount, run fsck, mount \
                           again"
                        .into(),
                });
            }
            Some(_) => {}
        }
        findings
    }

    /// Whether a volume is being filled right now.
    pub(crate) fn filling(&self, entry: &Entry) -> bool {
        self.jobs.fills(&entry.record.id)
    }
}

/// What the kernel shows of volumes, looked at once for all of them.
#[derive(Default)]
struct Seen {
    /// None where the table cannot be read.
    mounts: Option<mount::Table>,
    /// Errors that the file systems staged have recorded.
    errors: HashMap<Devno, u64>,
}

impl Seen {
    async fn of(noted: impl Iterator<Item = &Attachment>) -> Self {
        let staged = noted
            .filter_map(|a| a.staging.as_ref())
            .filter(|s| !s.block);
        let staged: Vec<PathBuf> = staged.map(|s| s.path.clone()).collect();
        let mounts = match mounts().await {
            Ok(mounts) => mounts,
            Err(e) => {
                tracing::error!(error = %e.chain(), "what is mounted is not known");
                return Self::default();
            }
        };
        blocking(move || {
            let devs = staged.iter().filter_map(|path| Some(mounts.at(path)?.dev));
            let errors = devs.filter_map(|dev| Some((dev, filesystem::recorded_errors(dev)?)));
            let errors = errors.collect();
            let mounts = Some(mounts);
            Self { mounts, errors }
        })
        .await
    }
}

/// Whether what upkeep found in the pool of a volume is about that volume: about the pool itself,
/// the volume, or the snapshot whose bytes it shows.
fn concerns(finding: &Finding, volume: &Entry) -> bool {
    let Ok(subject) = finding.subject.parse::<Id>() else {
        return true;
    };
    let record = &volume.record;
    subject == record.id
        || record.source.as_ref() == Some(&subject) && volume.pool.reads_in_place(record)
}

/// That the kernel lacks these calls.
pub(crate) fn of_kernel(lacking: &[&str], release: &str) -> Option<Finding> {
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

fn left_behind(id: &Id, by: &[Holder]) -> Finding {
    Finding {
        severity: Severity::Warning,
        trouble: Trouble::Leftover,
        subject: id.to_string(),
        what: format!(
            "{} outlived the daemon that started it and is still at work on it",
            named(by)
        ),
        mend: "wait; the volume is served when that has ended".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;
    use std::time::Duration;

    use stowage_model::volumes::Volumes;
    use tokio::time::Instant;

    use super::*;
    use crate::testing::Bench;

    #[tokio::test(start_paused = true)]
    async fn however_many_volumes_are_asked_for_a_pool_that_does_not_answer_is_waited_for_once() {
        let bench = Bench::new().await;
        let mut ids = Vec::new();
        for n in 0..50 {
            ids.push(bench.volume(&format!("v{n}")).await);
        }
        bench.a.silent.store(true, Ordering::SeqCst);
        // Slow at first, then away.
        bench.local.pools().await.unwrap();
        tokio::time::sleep(Duration::from_secs(10)).await;
        let begun = Instant::now();
        let found = bench.local.health_of_all(&ids).await.unwrap();
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(1), "{took:?}");
        assert_eq!(found.len(), 50);
        for (id, findings) in found {
            let alone = bench.local.health(&id).await.unwrap();
            assert_eq!(findings.len(), alone.len(), "{alone:?}");
            assert_eq!(findings[0].trouble, Trouble::PoolMissing, "{findings:?}");
        }
        let gone = Id::derive(
            stowage_model::id::Role::Volume,
            &stowage_model::Name::new("gone").unwrap(),
        );
        assert_eq!(
            bench.local.health_of_all(&[gone]).await.unwrap(),
            BTreeMap::new()
        );
    }

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
