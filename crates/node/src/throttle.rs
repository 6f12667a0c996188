//! A volume's I/O limits on the cgroups of its consumers. Each consumer gets the volume's limits
//! for itself, since that is what the kernel can bound.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use stowage_host::cgroup::{Hierarchy, IoLimits};
use stowage_host::{Devno, blocking};
use stowage_model::error::Context;
use stowage_model::{Error, Id, Limits, Result};

use crate::backing::limit::throttled_devices;
use crate::state::Node;
use crate::state::attachments::Publication;
use crate::state::entry::Entry;

pub(crate) mod watch;

/// The cgroup of the pod a target path belongs to, if the path names one and the pod has its
/// cgroup already.
pub(crate) async fn consumer_of(node: &Node, target: &Path) -> Option<PathBuf> {
    let uid = pod_uid(target)?;
    pods(node, [uid.to_owned()].into()).await.remove(uid)
}

/// The cgroups of the pods that have one of these volumes and had no cgroup when it was
/// published, in one walk over all there are.
pub(crate) async fn pods_of(
    node: &Node,
    ids: impl Iterator<Item = &Id>,
) -> BTreeMap<String, PathBuf> {
    let targets = ids.flat_map(|id| node.attachments().get(id).targets);
    let lost = targets.filter(|(_, publication)| publication.cgroup.is_none());
    let uids = lost.filter_map(|(target, _)| pod_uid(&target).map(str::to_owned));
    pods(node, uids.collect()).await
}

async fn pods(node: &Node, uids: BTreeSet<String>) -> BTreeMap<String, PathBuf> {
    let Some(hierarchy) = node.cgroups().cloned().filter(|_| !uids.is_empty()) else {
        return BTreeMap::new();
    };
    blocking(move || {
        let uids = uids.iter().map(String::as_str).collect();
        hierarchy.find_pods(&uids).unwrap_or_default()
    })
    .await
}

/// Put the volume's limits on one consumer, where there are both.
///
/// # Errors
/// Internal when the kernel refuses; [`stowage_model::Kind::Precondition`] when the machine
/// has no I/O controller.
pub(crate) async fn throttle(node: &Node, entry: &Entry, publication: &Publication) -> Result<()> {
    if entry.record.beyond.is_some() {
        // What its limits are is not known; those that are set stay.
        return Ok(());
    }
    let limits = entry.record.limits;
    let Some(cgroup) = publication.cgroup.clone() else {
        if !limits.is_unlimited() {
            tracing::warn!(volume.id = %entry.record.id, limits = %limits,
                "the consumer's cgroup is not known yet; limits follow when it is");
        }
        return Ok(());
    };
    let Some(hierarchy) = node.cgroups().cloned() else {
        return match limits.is_unlimited() {
            true => Ok(()),
            false => Err(Error::precondition(
                "this machine has no cgroup I/O controller, so I/O limits cannot be set; \
                 enable cgroup v2 with the io controller, or v1 with blkio",
            )),
        };
    };
    let devices = throttled_devices(entry, publication).await?;
    let id = &entry.record.id;
    for dev in devices.iter().copied() {
        let (hierarchy, cgroup) = (hierarchy.clone(), cgroup.clone());
        blocking(move || set(&hierarchy, &cgroup, dev, limits))
            .await
            .or_internal(|| format!("failed to set the I/O limits of {id}"))?;
    }
    node.limits().are_set(id, &cgroup, devices);
    Ok(())
}

/// Put changed limits on every consumer.
pub(crate) async fn throttle_all(node: &Node, entry: &Entry) -> Result<()> {
    for publication in node
        .attachments()
        .get(&entry.record.id)
        .targets
        .into_values()
    {
        throttle(node, entry, &publication).await?;
    }
    Ok(())
}

/// Lift the limits from a consumer that goes: its device number may soon be another's.
pub(crate) async fn unthrottle(node: &Node, entry: &Entry, publication: &Publication) {
    let (Some(hierarchy), Some(cgroup)) = (node.cgroups().cloned(), publication.cgroup.clone())
    else {
        return;
    };
    // Another target may be in the same cgroup.
    let others = node.attachments().get(&entry.record.id).targets;
    if others
        .values()
        .filter(|p| p.cgroup.as_ref() == Some(&cgroup))
        .count()
        > 1
    {
        return;
    }
    node.limits().are_lifted(&entry.record.id, &cgroup);
    for dev in throttled_devices(entry, publication)
        .await
        .unwrap_or_default()
    {
        let (hierarchy, cgroup) = (hierarchy.clone(), cgroup.clone());
        if let Err(e) = blocking(move || hierarchy.clear(&cgroup, dev)).await {
            tracing::warn!(volume.id = %entry.record.id, error = %e, "limits not lifted");
        }
    }
}

/// Lift the limits from every consumer of a volume for a while; [`limits_again`] ends it,
/// at the next start should we die before. The caller holds the volume.
pub(crate) async fn lift_limits(node: &Node, entry: &Entry) {
    let mut unlimited = entry.clone();
    unlimited.record.limits = Limits::default();
    if let Err(e) = throttle_all(node, &unlimited).await {
        tracing::warn!(volume.id = %entry.record.id, error = %e.chain(), "limits not lifted");
    }
}

/// Set the limits of every consumer of a volume again after a restart, and find the cgroups of
/// those that had none when they were published. The caller holds the volume.
pub(crate) async fn limits_again(node: &Node, id: &Id) {
    let pods = pods_of(node, std::iter::once(id)).await;
    limits_again_in(node, id, &pods).await;
}

/// As [`limits_again`], for one of many volumes of which [`pods_of`] was asked.
pub(crate) async fn limits_again_in(node: &Node, id: &Id, pods: &BTreeMap<String, PathBuf>) {
    let Some(entry) = node.index().get(id) else {
        return;
    };
    for (target, publication) in node.attachments().get(id).targets {
        let cgroup = match publication.cgroup.clone() {
            Some(known) => Some(known),
            None => pod_uid(&target).and_then(|uid| pods.get(uid).cloned()),
        };
        let publication = Publication {
            cgroup,
            ..publication
        };
        if let Err(e) = throttle(node, &entry, &publication).await {
            tracing::warn!(volume.id = %id, volume.path = %target.display(),
                error = %e.chain(), "limits not set again");
        }
    }
}

fn set(
    hierarchy: &Hierarchy,
    cgroup: &Path,
    dev: Devno,
    limits: Limits,
) -> std::result::Result<(), stowage_host::cgroup::CgroupError> {
    if limits.is_unlimited() {
        return hierarchy.clear(cgroup, dev);
    }
    hierarchy.apply(cgroup, dev, &io_limits(limits))
}

fn io_limits(limits: Limits) -> IoLimits {
    IoLimits {
        read_bps: limits.read_bps,
        write_bps: limits.write_bps,
        read_iops: limits.read_iops,
        write_iops: limits.write_iops,
    }
}

/// The pod uid in a kubelet path: `…/pods/<uid>/volumes/…` or, for block volumes,
/// `…/publish/<volume>/<uid>`. Anything that does not look like a uid is none.
fn pod_uid(target: &Path) -> Option<&str> {
    let parts: Vec<&str> = target
        .components()
        .filter_map(|c| match c {
            Component::Normal(part) => part.to_str(),
            _ => None,
        })
        .collect();
    let after_pods = parts.windows(3).find_map(|w| match w {
        ["pods", uid, "volumes" | "volumeDevices"] => Some(*uid),
        _ => None,
    });
    let after_publish = || match parts.as_slice() {
        [.., "publish", _, uid] => Some(*uid),
        _ => None,
    };
    after_pods.or_else(after_publish).filter(|uid| {
        (32..=36).contains(&uid.len()) && uid.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pod_is_found_in_kubelets_paths_only() {
        let uid = "52f1bab4-d39b-4cde-abad-6c5963b47761";
        for path in [
            format!("/var/lib/kubelet/pods/{uid}/volumes/kubernetes.io~csi/pv/mount"),
            format!("/data/k/plugins/kubernetes.io/csi/volumeDevices/publish/pv-1/{uid}"),
        ] {
            assert_eq!(pod_uid(Path::new(&path)), Some(uid), "{path}");
        }
        for path in [
            "/mnt/pods/x/volumes",
            "/var/lib/kubelet/pods/..%2f/volumes/y",
            "/publish/a",
        ] {
            assert_eq!(pod_uid(Path::new(path)), None, "{path}");
        }
    }
}
