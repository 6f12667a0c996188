//! Where kubelet puts the control group of a pod.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::CgroupError;

/// Deeper than kubelet in a container of a user's session makes them.
const DEPTH: usize = 16;

/// Searches the groups of these pods. They are known by the uid in their name, whatever they lie in:
/// the first group may be `kubepods`, kind's `kubelet-kubepods.slice`, one of `--cgroup-root`, or one
/// that kubelet has as a container.
///
/// Groups in pods come last: there is a cluster in one rarely, and containers in all of them.
pub(super) fn find(
    root: &Path,
    uids: &BTreeSet<&str>,
) -> Result<BTreeMap<String, PathBuf>, CgroupError> {
    let mut found = BTreeMap::new();
    let (mut queue, mut in_pods) = (VecDeque::from([(root.to_owned(), 1)]), VecDeque::new());
    while found.len() < uids.len() {
        let Some((dir, depth)) = queue.pop_front().or_else(|| in_pods.pop_front()) else {
            break;
        };
        for group in groups(&dir)? {
            let name = group.file_name().unwrap_or_default().to_string_lossy();
            let pod = pod_of(&name);
            if let Some(uid) = pod.as_deref().filter(|uid| uids.contains(uid)) {
                found.insert(uid.to_owned(), group.clone());
            } else if depth < DEPTH {
                let later = if pod.is_some() {
                    &mut in_pods
                } else {
                    &mut queue
                };
                later.push_back((group, depth + 1));
            }
        }
    }
    Ok(found)
}

/// The uid in the name of a pod's group: `pod<uid>` (cgroupfs driver), or `…-pod<uid with _ for
/// ->.slice` (systemd driver), whose beginning says where it lies.
fn pod_of(name: &str) -> Option<String> {
    let systemd = || {
        let (_, uid) = name.strip_suffix(".slice")?.rsplit_once("-pod")?;
        Some(uid.replace('_', "-"))
    };
    let plain = name.strip_prefix("pod").map(str::to_owned);
    let uid = plain.filter(|uid| is_uid(uid)).or_else(systemd)?;
    is_uid(&uid).then_some(uid)
}

fn is_uid(text: &str) -> bool {
    let part_of_it = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    !text.is_empty() && text.bytes().all(part_of_it)
}

/// The groups right below this one.
fn groups(dir: &Path) -> Result<Vec<PathBuf>, CgroupError> {
    let failed = |source| CgroupError::Io {
        verb: "list",
        file: dir.to_owned(),
        source,
    };
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        // Groups come and go.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut groups = Vec::new();
    for entry in entries {
        match entry {
            Ok(entry) if entry.file_type().is_ok_and(|kind| kind.is_dir()) => {
                groups.push(entry.path());
            }
            Ok(_) => {}
            // ENODEV: it went while it was read.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error()) => {
                break;
            }
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(groups)
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "0a1b-2c3d";

    fn find_one(root: &Path, uid: &str) -> Option<PathBuf> {
        find(root, &BTreeSet::from([uid])).unwrap().remove(uid)
    }

    #[test]
    fn a_pod_is_found_by_its_uid_wherever_kubelet_puts_it() {
        for path in [
            "kubepods/pod0a1b-2c3d",
            "kubepods/burstable/pod0a1b-2c3d",
            "kubelet/kubepods/besteffort/pod0a1b-2c3d",
            "kubepods.slice/kubepods-pod0a1b_2c3d.slice",
            "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod0a1b_2c3d.slice",
            // kind, with either driver, seen from within its node and from the host.
            "kubelet/kubepods/burstable/pod0a1b-2c3d",
            "kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod0a1b_2c3d.slice",
            "docker/4f/kubelet/kubepods/burstable/pod0a1b-2c3d",
            "system.slice/docker-4f.scope/kubelet.slice/kubelet-kubepods.slice/\
             kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-pod0a1b_2c3d.slice",
            // A user's own cluster, below podman.
            "user.slice/user-1000.slice/user@1000.service/user.slice/libpod-4f.scope/container/\
             kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod0a1b_2c3d.slice",
            // --cgroup-root=/podding
            "podding/kubepods/pod0a1b-2c3d",
            // A cluster in a pod.
            "kubepods/pod9999-8888/4f/kubelet/kubepods/pod0a1b-2c3d",
        ] {
            let root = tempfile::tempdir().unwrap();
            let pod = root.path().join(path);
            fs::create_dir_all(pod.join("container")).unwrap();
            assert_eq!(find_one(root.path(), UID), Some(pod), "{path}");
        }
    }

    #[test]
    fn several_pods_are_found_at_once() {
        let root = tempfile::tempdir().unwrap();
        for pod in ["a/poda-1", "b/b-podb_2.slice", "c"] {
            fs::create_dir_all(root.path().join(pod)).unwrap();
        }
        let found = find(root.path(), &BTreeSet::from(["a-1", "b-2", "c-3"])).unwrap();
        assert_eq!(found.len(), 2, "{found:?}");
        assert_eq!(found["b-2"], root.path().join("b/b-podb_2.slice"));
    }

    #[test]
    fn a_missing_pod_and_an_odd_uid_are_not_found() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("kubepods/pod0a1b-2c3dx")).unwrap();
        fs::create_dir_all(root.path().join("x")).unwrap();
        for uid in [UID, "", "../x", "a/b"] {
            assert_eq!(find_one(root.path(), uid), None, "{uid}");
        }
    }
}
