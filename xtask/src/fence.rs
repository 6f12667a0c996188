//! The fence around mounts is whole: `clippy.toml` names every function of `rustix::mount`, and none
//! that is not there, which `allow-invalid` would hide.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

const MODULE: &str = "rustix::mount::";

/// What is wrong with the fence.
///
/// # Errors
/// If cargo's metadata or rustix's source cannot be read.
pub(crate) fn gaps(clippy: &str, metadata: &str) -> Result<Vec<String>> {
    let (named, there) = (named(clippy)?, functions(&source(metadata)?)?);
    let open = there.difference(&named);
    let open = open.map(|name| format!("{MODULE}{name} is not in clippy.toml"));
    let idle = named.difference(&there);
    let idle = idle.map(|name| format!("{MODULE}{name} is in clippy.toml and not in rustix"));
    Ok(open.chain(idle).collect())
}

fn named(clippy: &str) -> Result<BTreeSet<String>> {
    let clippy: toml::Table = clippy.parse().context("failed to parse clippy.toml")?;
    let methods = clippy.get("disallowed-methods").and_then(|m| m.as_array());
    let paths = methods
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.get("path")?.as_str()?.strip_prefix(MODULE));
    Ok(paths.map(str::to_owned).collect())
}

/// Where the sources of `rustix::mount` lie.
fn source(metadata: &str) -> Result<PathBuf> {
    let metadata: Value = serde_json::from_str(metadata).context("failed to parse metadata")?;
    let mut packages = metadata["packages"].as_array().into_iter().flatten();
    let manifest = packages
        .find(|package| package["name"] == "rustix")
        .and_then(|package| package["manifest_path"].as_str())
        .context("rustix is no dependency")?;
    Ok(Path::new(manifest).with_file_name("src").join("mount"))
}

fn functions(dir: &Path) -> Result<BTreeSet<String>> {
    let failed = || format!("failed to read {}", dir.display());
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(dir).with_context(failed)? {
        let text = std::fs::read_to_string(entry.with_context(failed)?.path())?;
        let public = text.lines().filter_map(|l| l.strip_prefix("pub fn "));
        names.extend(public.filter_map(|rest| {
            let end = rest.find(['<', '('])?;
            Some(rest[..end].to_owned())
        }));
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_and_an_idle_entry_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let mount = dir.path().join("src/mount");
        std::fs::create_dir_all(&mount).unwrap();
        let code = "pub fn mount<P>(p: P) {}\npub fn fsopen(n: &str) {}\nfn inner() {}\n";
        std::fs::write(mount.join("api.rs"), code).unwrap();
        let manifest = dir.path().join("Cargo.toml");
        let metadata = serde_json::json!({
            "packages": [{"name": "other"}, {"name": "rustix", "manifest_path": manifest}]
        });
        let clippy = "disallowed-methods = [{ path = \"rustix::mount::mount\" }, \
                      { path = \"rustix::mount::mount2\" }, { path = \"std::x\" }]";
        assert_eq!(
            gaps(clippy, &metadata.to_string()).unwrap(),
            [
                "rustix::mount::fsopen is not in clippy.toml",
                "rustix::mount::mount2 is in clippy.toml and not in rustix"
            ]
        );
    }
}
