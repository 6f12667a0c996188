//! Directories on the machine's disk that a guest sees under the same path.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::{disk, guest};

/// The repository's root.
pub fn workspace() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_path_buf()
}

/// Cargo's target directory: `CARGO_TARGET_DIR`, else the one of the running test or tool, else
/// `target` in the workspace.
pub fn target() -> PathBuf {
    if let Some(dir) = std::env::var_os("CARGO_TARGET_DIR").filter(|dir| !dir.is_empty()) {
        // A relative one is relative to where cargo was started, which is the workspace here.
        return workspace().join(dir);
    }
    std::env::current_exe()
        .ok()
        .and_then(|exe| {
            exe.ancestors()
                .find(|dir| dir.join("CACHEDIR.TAG").exists())
                .map(Path::to_path_buf)
        })
        .unwrap_or_else(|| workspace().join("target"))
}

/// Where a guest keeps its scratch directories: in its own memory, since the sweep on the machine
/// cannot know the guest's processes.
pub(crate) const VARIABLE: &str = "STOWAGE_SCRATCH";

fn base() -> PathBuf {
    std::env::var_os(VARIABLE).map_or_else(|| target().join("scratch"), PathBuf::from)
}

/// A fresh directory under `target/scratch`, removed when dropped.
///
/// Not under `/tmp`: often a small tmpfs, and every guest mounts its own over it. The name bears
/// this process's id for [`sweep`].
pub fn dir(prefix: &str) -> Result<TempDir> {
    let base = base();
    std::fs::create_dir_all(&base)
        .with_context(|| format!("failed to create {}", base.display()))?;
    tempfile::Builder::new()
        .prefix(&format!("{prefix}-{}-", std::process::id()))
        .tempdir_in(&base)
        .with_context(|| format!("failed to create a directory in {}", base.display()))
}

/// Begins the names of directories with short paths.
const SHORT: &str = "stowage-rig-";

/// A fresh directory with a short path, removed when dropped: a socket's path has room for 107 bytes.
///
/// Under `/tmp`, which every guest mounts its own over. The name bears this process's id for
/// [`sweep`].
pub fn short() -> Result<TempDir> {
    tempfile::Builder::new()
        .prefix(&format!("{SHORT}{}-", std::process::id()))
        .tempdir()
        .context("failed to create a directory for temporary files")
}

/// Removes what processes that are gone have left: one that was killed ran no destructor, and its
/// mounts, loop devices and guests would stay until the next reboot.
pub fn sweep() -> Result<()> {
    guest::sweep();
    sweep_in(&base(), "")?;
    sweep_in(&std::env::temp_dir(), SHORT)
}

fn sweep_in(base: &Path, prefix: &str) -> Result<()> {
    let Ok(entries) = std::fs::read_dir(base) else {
        return Ok(());
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let owner = owner(&name).filter(|_| name.starts_with(prefix));
        if owner.is_none_or(|pid| Path::new("/proc").join(pid.to_string()).exists()) {
            continue;
        }
        let dir = entry.path();
        disk::unmount_below(&dir)?;
        disk::detach_loops_below(&dir)?;
        match std::fs::remove_dir_all(&dir) {
            // Another run sweeps the directory for temporary files, too.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            removed => {
                removed.with_context(|| format!("failed to remove {}", dir.display()))?;
            }
        }
    }
    Ok(())
}

/// The process in a name that [`dir`] made.
fn owner(name: &str) -> Option<u32> {
    name.rsplit('-').nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sweep_takes_what_the_dead_left_and_nothing_else() {
        let mine = [dir("two-words").unwrap(), short().unwrap()];
        // Beyond the largest id the kernel gives.
        let left = ["xfs-4194305-abc", "stowage-rig-4194305-abc"];
        let left = [0, 1].map(|n| mine[n].path().with_file_name(left[n]));
        let theirs = mine[1].path().with_file_name("theirs-4194305-abc");
        for dir in left.iter().chain([&theirs]) {
            std::fs::create_dir_all(dir.join("mnt")).unwrap();
        }
        sweep().unwrap();
        assert_eq!(left.each_ref().map(|dir| dir.exists()), [false; 2]);
        assert!(mine.iter().all(|dir| dir.path().exists()));
        std::fs::remove_dir_all(theirs).unwrap();
    }
}
