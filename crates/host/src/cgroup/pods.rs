//! Where kubelet puts the control group of a pod.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::CgroupError;

/// Deeper than any parent kubelet or a nested cluster uses.
const DEPTH: usize = 6;

/// Searches groups whose name says they are kubelet's for the pod's: `pod<uid>` (cgroupfs driver)
/// or `kubepods-<class>-pod<uid with _ for ->.slice` (systemd driver). Guaranteed pods have no
/// class level in either.
pub(super) fn find(root: &Path, uid: &str) -> Result<Option<PathBuf>, CgroupError> {
    // A uid goes into names only; an odd one would match strange groups.
    if uid.is_empty()
        || !uid
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    {
        return Ok(None);
    }
    let plain = format!("pod{uid}");
    let systemd = format!("-pod{}.slice", uid.replace('-', "_"));
    search(root, DEPTH, &|name| {
        name == plain || (name.starts_with("kubepods") && name.ends_with(&systemd))
    })
}

fn search(
    dir: &Path,
    depth: usize,
    is_pod: &dyn Fn(&str) -> bool,
) -> Result<Option<PathBuf>, CgroupError> {
    let failed = |source| CgroupError::Io {
        verb: "list",
        file: dir.to_owned(),
        source,
    };
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        // Groups come and go.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut below = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let name = entry.file_name().to_string_lossy().into_owned();
        if is_pod(&name) {
            return Ok(Some(entry.path()));
        }
        // Not into other pods (their containers) and not into systemd's services.
        let pod = name.starts_with("pod") || name.contains("-pod");
        if depth > 1 && !pod && !name.ends_with(".service") && !name.ends_with(".scope") {
            below.push(entry.path());
        }
    }
    for dir in below {
        if let Some(found) = search(&dir, depth - 1, is_pod)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "0a1b-2c3d";

    #[test]
    fn both_drivers_and_all_classes_are_found() {
        for path in [
            "kubepods/pod0a1b-2c3d",
            "kubepods/burstable/pod0a1b-2c3d",
            "kubelet/kubepods/besteffort/pod0a1b-2c3d",
            "kubepods.slice/kubepods-pod0a1b_2c3d.slice",
            "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod0a1b_2c3d.slice",
        ] {
            let root = tempfile::tempdir().unwrap();
            let pod = root.path().join(path);
            fs::create_dir_all(&pod).unwrap();
            fs::create_dir_all(pod.join("container")).unwrap();
            assert_eq!(find(root.path(), UID).unwrap(), Some(pod), "{path}");
        }
    }

    #[test]
    fn a_missing_pod_and_an_odd_uid_are_not_found() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("kubepods/pod0a1b-2c3dx")).unwrap();
        for uid in [UID, "", "../x", "a/b"] {
            assert_eq!(find(root.path(), uid).unwrap(), None, "{uid}");
        }
    }
}
