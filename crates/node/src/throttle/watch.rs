//! Limits hold only while the kernel has them. A control group that is made anew, as when a service
//! restarts, has none; on version 2 all groups below one lose theirs while `io` is switched off there,
//! which systemd does by itself. So they are read back every few seconds: files, no process.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use stowage_host::cgroup::{CgroupError, Hierarchy};
use stowage_host::{Devno, blocking};
use stowage_model::volumes::{Finding, Severity, Trouble};
use stowage_model::{Id, Limits, PoolName};

use crate::backing::device::attached;
use crate::state::Node;
use crate::state::attachments::Publication;
use crate::state::entry::Entry;
use crate::throttle::{io_limits, pod_uid, throttle};

/// How long a consumer may be without its limits before that is told: kubelet makes a pod's control
/// group about when it mounts the pod's volumes, and a service that restarts is soon back.
const PATIENCE: Duration = Duration::from_secs(30);

/// A consumer that is to be limited.
struct Consumer {
    id: Id,
    target: PathBuf,
    cgroup: Option<PathBuf>,
    devices: Vec<Devno>,
    limits: Limits,
}

/// One that is not, and the group of its pod, if that was found.
type Lacking = Vec<(Consumer, Option<PathBuf>)>;

/// See to it that every consumer of a pool's volumes has its limits.
pub(crate) async fn watch_limits(node: &Arc<Node>, pool: &PoolName) {
    let consumers = limited_consumers(node, pool);
    let lacking = match node.cgroups().cloned() {
        Some(hierarchy) => blocking(move || lacking(&hierarchy, consumers)).await,
        None => consumers.into_iter().map(|c| (c, None)).collect(),
    };
    for (consumer, cgroup) in lacking {
        limit_again(node, &consumer, cgroup).await;
    }
}

/// All that are to be limited. What was missing to others is forgotten.
fn limited_consumers(node: &Node, pool: &PoolName) -> Vec<Consumer> {
    let mut consumers = Vec::new();
    for (id, attachment) in node.attachments().all() {
        let entry = node.index().get(&id).filter(|e| e.pool.name() == pool);
        let limits = entry.map(|e| e.record.limits).unwrap_or_default();
        if limits.is_unlimited() {
            continue;
        }
        for (target, Publication { cgroup, .. }) in attachment.targets {
            let devices = cgroup
                .as_ref()
                .map(|group| node.limits().devices(&id, group));
            consumers.push(Consumer {
                id: id.clone(),
                target,
                cgroup,
                devices: devices.unwrap_or_default(),
                limits,
            });
        }
    }
    let all: HashSet<(&Id, &Path)> = consumers
        .iter()
        .map(|c| (&c.id, c.target.as_path()))
        .collect();
    let of_another = |id: &Id| node.index().get(id).is_some_and(|e| e.pool.name() != pool);
    let keep = |id: &Id, target: &Path| all.contains(&(id, target)) || of_another(id);
    node.limits().retain_missing(keep);
    consumers
}

async fn limit_again(node: &Arc<Node>, consumer: &Consumer, cgroup: Option<PathBuf>) {
    let Consumer { id, target, .. } = consumer;
    // Whoever works on the volume may have lifted them on purpose; the next look is soon.
    let Ok(_held) = node.ops().begin_now(id, "limiting").await else {
        return;
    };
    let Some(entry) = node.index().get(id) else {
        return;
    };
    let Some(mut publication) = node.attachments().get(id).targets.remove(target) else {
        return;
    };
    if cgroup.is_some() && cgroup != publication.cgroup {
        publication.cgroup = cgroup;
        let (at, found) = (target.clone(), publication.clone());
        let noted = node.attachments().update(id, move |a| {
            if let Some(publication) = a.targets.get_mut(&at) {
                *publication = found;
            }
        });
        if let Err(e) = noted.await {
            tracing::warn!(volume.id = %id, error = %e.chain(), "control group not noted");
        }
    }
    // After a restart of the machine, say: an inline volume whose pod may be back.
    if !matches!(attached(&entry).await, Ok(Some(_))) {
        return;
    }
    let limits = entry.record.limits;
    let hold = format!(
        "the limits {limits} of {} do not hold at {}",
        entry.title(),
        target.display()
    );
    let missing = |why: String, mend: &str| {
        node.limits()
            .missing(id, target, format!("{hold}: {why}"), mend);
    };
    if publication.cgroup.is_none() && node.cgroups().is_some() {
        return match pod_uid(target) {
            Some(uid) => missing(
                format!("no control group of pod {uid} was found"),
                "let the daemon see the host's /sys/fs/cgroup; the limits follow within \
                 seconds of the group",
            ),
            None => missing(
                "it was mounted without a control group".to_owned(),
                "unmount it, and mount it with --cgroup DIR; or lift the limits",
            ),
        };
    }
    match throttle(node, &entry, &publication).await {
        Ok(()) => {
            tracing::info!(volume.id = %id, volume.path = %target.display(), "limits set again");
            node.limits().not_missing_any_more(id, target);
        }
        Err(e) => missing(
            e.chain(),
            "they are set again within seconds of the control group being there; unmount \
             what nobody uses any more",
        ),
    }
}

/// What is to be told of the consumers of a volume that have been without its limits for long.
pub(crate) fn without_limits(node: &Node, volume: &Entry) -> Vec<Finding> {
    let id = &volume.record.id;
    let missing = node.limits().missing_for(id, PATIENCE).into_iter();
    missing
        .map(|(what, mend)| Finding {
            severity: Severity::Warning,
            trouble: Trouble::NotLimited,
            subject: id.to_string(),
            what,
            mend,
        })
        .collect()
}

/// Those without their limits; pods are looked for in one walk over all groups.
fn lacking(hierarchy: &Hierarchy, consumers: Vec<Consumer>) -> Lacking {
    let mut lacking = Vec::new();
    for consumer in consumers {
        let set = |cgroup: &PathBuf| is_set(hierarchy, cgroup, &consumer);
        match consumer.cgroup.as_ref().map(set) {
            Some(Ok(true)) => {}
            Some(Ok(false) | Err(_)) | None => lacking.push(consumer),
        }
    }
    let gone = |c: &Consumer| c.cgroup.as_ref().is_none_or(|group| !group.is_dir());
    let lost = lacking.iter().filter(|c| gone(c));
    let uids: BTreeSet<&str> = lost.filter_map(|c| pod_uid(&c.target)).collect();
    let pods = match uids.is_empty() {
        true => BTreeMap::new(),
        false => hierarchy.find_pods(&uids).unwrap_or_default(),
    };
    let with_group = |consumer: Consumer| {
        let uid = pod_uid(&consumer.target);
        let group = uid.and_then(|uid| pods.get(uid).cloned());
        (consumer, group)
    };
    lacking.into_iter().map(with_group).collect()
}

fn is_set(
    hierarchy: &Hierarchy,
    cgroup: &Path,
    consumer: &Consumer,
) -> std::result::Result<bool, CgroupError> {
    let wanted = io_limits(consumer.limits);
    for dev in &consumer.devices {
        if hierarchy.read(cgroup, *dev)? != wanted {
            return Ok(false);
        }
    }
    Ok(!consumer.devices.is_empty())
}

#[cfg(test)]
mod tests;
