//! Directories that must not lie in one another: what is tidied up in the one would be the other.

use std::path::{Component, Path, PathBuf};

use stowage_model::{Error, PoolKind, Result};

use crate::pools::PoolConfig;

/// What a file pool has in its directory for itself.
const OF_A_POOL: [&str; 4] = ["volumes", "snapshots", "making", "trash"];

/// What the state directory has for itself. A pool beside them is well: the default one is there.
const OF_THE_STATE: [&str; 4] = ["journal", "attachments", "pools", "staging"];

/// The path without symlinks, as far as it exists.
pub(crate) fn real(path: &Path) -> PathBuf {
    for there in path.ancestors() {
        let Ok(mut real) = std::fs::canonicalize(there) else {
            continue;
        };
        for part in path.strip_prefix(there).unwrap_or(path).components() {
            match part {
                Component::ParentDir => drop(real.pop()),
                part => real.push(part),
            }
        }
        return real;
    }
    path.to_owned()
}

/// Where a file pool lies.
fn place(pool: &PoolConfig) -> Option<PathBuf> {
    match pool.kind {
        PoolKind::File => pool.path.as_deref().map(real),
        PoolKind::Lvm | PoolKind::Thin => None,
    }
}

fn lies_in(inner: &Path, outer: &Path, folders: &[&str]) -> bool {
    folders
        .iter()
        .any(|folder| inner.starts_with(outer.join(folder)))
}

/// Refuse two pools of which one lies where the other keeps its volumes.
pub(crate) fn apart(one: &PoolConfig, other: &PoolConfig) -> Result<()> {
    // Neither is looked for, on a disk that may hang, unless both are on one.
    if (one.kind, other.kind) != (PoolKind::File, PoolKind::File) {
        return Ok(());
    }
    let (Some(a), Some(b)) = (place(one), place(other)) else {
        return Ok(());
    };
    let (inner, outer) = if lies_in(&a, &b, &OF_A_POOL) {
        (one, other)
    } else if lies_in(&b, &a, &OF_A_POOL) {
        (other, one)
    } else {
        return Ok(());
    };
    Err(Error::invalid(format!(
        "the pool {} lies where the pool {} keeps its volumes; give it a directory outside of {}",
        inner.name,
        outer.name,
        outer.path.clone().unwrap_or_default().display()
    )))
}

/// Refuse a pool that lies among the daemon's own files, or around them.
pub(crate) fn clear_of_state(pool: &PoolConfig, state: &Path) -> Result<()> {
    let Some(place) = place(pool) else {
        return Ok(());
    };
    let real_state = real(state);
    let among = lies_in(&place, &real_state, &OF_THE_STATE);
    if !among && !real_state.starts_with(&place) {
        return Ok(());
    }
    let how = if among { "lies among" } else { "holds" };
    Err(Error::invalid(format!(
        "the directory of pool {} {how} the daemon's own files in {}; give it another",
        pool.name,
        state.display()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use stowage_model::PoolName;

    fn pool(name: &str, path: &Path) -> PoolConfig {
        PoolConfig {
            name: PoolName::new(name).unwrap(),
            ..serde_json::from_value(serde_json::json!({
                "name": "x", "kind": "file", "path": path,
            }))
            .unwrap()
        }
    }

    #[test]
    fn a_pool_does_not_lie_where_another_keeps_its_volumes_however_it_is_spelt() {
        let dir = tempfile::tempdir().unwrap();
        let a = dir.path().join("a");
        std::fs::create_dir_all(a.join("trash")).unwrap();
        std::os::unix::fs::symlink(a.join("trash"), dir.path().join("link")).unwrap();
        std::os::unix::fs::symlink(&a, dir.path().join("b")).unwrap();
        let outer = pool("outer", &a);
        for inside in [
            "a/trash/p",
            "a/making",
            "a/volumes/v/p",
            "b/snapshots/p",
            "link",
            "link/x/y",
            "a/new/../trash/p",
        ] {
            let inner = pool("inner", &dir.path().join(inside));
            for (one, other) in [(&inner, &outer), (&outer, &inner)] {
                let e = apart(one, other).unwrap_err();
                assert!(
                    e.message()
                        .starts_with("the pool inner lies where the pool outer"),
                    "{e}"
                );
            }
        }
        for beside in ["c", "a/sub", "a/trash2/p", "trash"] {
            let other = pool("other", &dir.path().join(beside));
            apart(&other, &outer).unwrap();
            apart(&outer, &other).unwrap();
        }
    }

    #[test]
    fn a_pool_neither_lies_among_the_daemons_files_nor_around_them() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("lib/stowage");
        std::fs::create_dir_all(state.join("staging")).unwrap();
        std::os::unix::fs::symlink(&state, dir.path().join("link")).unwrap();
        for bad in [
            "lib",
            "lib/stowage",
            "lib/stowage/staging/v",
            "link/journal",
            "link",
            "lib/x/..",
        ] {
            let e = clear_of_state(&pool("p", &dir.path().join(bad)), &state).unwrap_err();
            assert!(e.message().contains("the daemon's own files"), "{bad}: {e}");
            // The state directory by its other name.
            clear_of_state(&pool("p", &dir.path().join(bad)), &dir.path().join("link"))
                .unwrap_err();
        }
        for good in ["lib/stowage/pool", "lib/stowage2", "data"] {
            clear_of_state(&pool("p", &dir.path().join(good)), &state).unwrap();
        }
    }
}
