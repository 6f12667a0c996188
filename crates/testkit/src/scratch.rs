//! Directories on the machine's disk that a guest sees under the same path.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tempfile::TempDir;

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

/// A fresh directory under `target/scratch`, removed when dropped.
///
/// Not under `/tmp`: often a small tmpfs, and every guest mounts its own over it.
pub fn dir(prefix: &str) -> Result<TempDir> {
    let base = target().join("scratch");
    std::fs::create_dir_all(&base)
        .with_context(|| format!("failed to create {}", base.display()))?;
    tempfile::Builder::new()
        .prefix(&format!("{prefix}-"))
        .tempdir_in(&base)
        .with_context(|| format!("failed to create a directory in {}", base.display()))
}
