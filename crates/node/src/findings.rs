//! What is wrong, and how to mend it: for health calls and for `doctor`.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use stowage_host::{Devno, Holder, blocking, filesystem, mount};
use stowage_model::record::Content;
use stowage_model::volumes::{Finding, Severity, Trouble};
use stowage_model::{Id, PoolName};

use crate::backing::resize::smaller;
use crate::ephemeral::consumer::kept_for_its_consumer;
use crate::lookup::filling;
use crate::mounts::mounts;
use crate::snapshot::group::broken_groups;
use crate::state::Node;
use crate::state::attachments::Attachment;
use crate::state::entry::Entry;
use crate::state::looks::{Answer, PATIENCE, SLOW};
use crate::state::ops::named;
use crate::status::status_of;
use crate::throttle::watch::without_limits;

pub(crate) async fn all_findings(node: &Arc<Node>) -> Vec<Finding> {
    let mut all = node.notices().beside_pools();
    all.extend(late_finding(node));
    let pools = node.pools();
    let asked = pools.iter().map(|pool| status_of(node, pool));
    // At once, since each may take as long as a caller waits.
    let (asked, of_volumes) = tokio::join!(join_all(asked), volumes_findings(node));
    all.extend(of_volumes);
    for status in asked {
        if let Some(problem) = status.problem {
            let problem = match node.unread().why(&status.name) {
                Some(why) => format!("could not be read: {why}"),
                None => problem,
            };
            all.push(pool_missing(node, status.name.as_str(), &problem));
        }
    }
    let kept = node.notices().in_pools();
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

/// What is wrong with the volumes, or what was known of that, within a second.
async fn volumes_findings(node: &Arc<Node>) -> Vec<Finding> {
    let me = Arc::clone(node);
    let look = async move { look_at_volumes(&me).await };
    let (since, known) = match node.looks().found.ask(&(), PATIENCE, look).await {
        Answer::New(found) => return found,
        Answer::Old(since, known) => (since, known),
    };
    let (age, mut found) = known.unwrap_or_default();
    if since >= SLOW || age == Duration::ZERO {
        found.push(Finding {
            severity: Severity::Warning,
            trouble: Trouble::DeviceError,
            subject: "volumes in use".to_owned(),
            what: format!(
                "what they are mounted on has not answered for {} s; what else is told of \
                 volumes is {} s old",
                since.as_secs(),
                age.as_secs()
            ),
            mend: "look for a disk that hangs in the kernel log".to_owned(),
        });
    }
    found
}

/// What is wrong with each volume, its pool aside. May take as long as a disk hangs.
async fn look_at_volumes(node: &Node) -> Vec<Finding> {
    let mut all = Vec::new();
    all.extend(broken_groups(node));
    for (id, by) in node.ops().left_behind().await {
        all.push(left_behind(&id, &by));
    }
    // Notes before mounts: what was mounted only afterwards is not missed.
    let noted = node.attachments().all();
    let seen = Seen::of(noted.values()).await;
    // Of one that is whole, and in use nowhere, there is nothing to tell; the note of an inline
    // one may be missing.
    let of_interest = |e: &Entry| {
        let inline_or_not_whole = e.record.ephemeral || e.record.content == Content::Filling;
        !e.record.is_snapshot() && (inline_or_not_whole || noted.contains_key(&e.record.id))
    };
    for entry in node.index().list(of_interest) {
        let noted = noted.get(&entry.record.id).cloned().unwrap_or_default();
        all.extend(own_findings(node, &entry, noted, &seen));
    }
    all
}

/// What is wrong with each of these volumes, their pools included.
pub(crate) async fn findings_of(node: &Node, all: &[Entry]) -> BTreeMap<Id, Vec<Finding>> {
    let pools: BTreeMap<_, _> = all.iter().map(|e| (e.pool.name(), &e.pool)).collect();
    let asked = pools.into_values().map(|pool| status_of(node, pool));
    let asked = join_all(asked).await;
    let problems: BTreeMap<_, _> = asked
        .into_iter()
        .filter_map(|status| Some((status.name, status.problem?)))
        .collect();
    let noted: Vec<_> = all
        .iter()
        .map(|e| node.attachments().get(&e.record.id))
        .collect();
    let seen = Seen::of(noted.iter()).await;
    let each = all.iter().zip(noted).map(|(entry, noted)| {
        let mut findings = own_findings(node, entry, noted, &seen);
        findings.extend(pool_findings(node, entry, problems.get(entry.pool.name())));
        (entry.record.id.clone(), findings)
    });
    each.collect()
}

fn pool_missing(node: &Node, name: &str, problem: &str) -> Finding {
    let definition = node.pools_dir().join(format!("{name}.json"));
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
fn pool_findings(node: &Node, entry: &Entry, problem: Option<&String>) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(problem) = problem {
        findings.push(pool_missing(node, entry.pool.name().as_str(), problem));
    }
    let of_pool = node.notices().of_maintenance(entry.pool.name());
    findings.extend(of_pool.into_iter().filter(|f| concerns(f, entry)));
    findings
}

/// The pools that were not there when they were last looked at.
pub(crate) fn missing_pools(node: &Node) -> Vec<PoolName> {
    let unread = node.unread().pools().into_iter();
    let unread = unread.map(|(pool, _)| pool);
    unread.chain(node.notices().missing_pools()).collect()
}

/// What is wrong with a volume of which this was noted and seen.
fn own_findings(node: &Node, entry: &Entry, noted: Attachment, seen: &Seen) -> Vec<Finding> {
    let id = &entry.record.id;
    let mut findings = Vec::new();
    if entry.record.content == Content::Filling && !filling(node, entry) {
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
    findings.extend(without_limits(node, entry));
    findings.extend(kept_for_its_consumer(node, entry));
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
        findings.extend(smaller(entry, &staging));
    }
    match found {
        // Unless it was unstaged meanwhile.
        None if node.attachments().get(id).staging.as_ref() != Some(&staging) => {}
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

/// That notes are late.
fn late_finding(node: &Node) -> Option<Finding> {
    let late = node.attachments().late();
    let why = late.values().next()?;
    Some(Finding {
        severity: Severity::Warning,
        trouble: Trouble::Leftover,
        subject: node.state_dir().display().to_string(),
        what: format!(
            "that {} volume(s) are no longer in use where they were cannot be noted: {why}",
            late.len()
        ),
        mend: "make room in that file system, or mount it writable again; volumes can be \
               unmounted and deleted meanwhile, and it is tried again every few seconds"
            .to_owned(),
    })
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
        || record.source.as_ref() == Some(&subject) && volume.pool.shows_in_place(record)
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
    use crate::testing::Bench;
    use std::sync::atomic::Ordering;
    use std::time::Duration;

    use stowage_model::volumes::Volumes;
    use tokio::time::Instant;

    use super::*;

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
}
