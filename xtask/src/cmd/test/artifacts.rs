//! Building what the jobs run.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

use super::{APP, app_dir};
use crate::process;

/// Test targets are told apart by the prefix of their name.
const GUEST_PREFIX: &str = "guest_";
const HOST_PREFIX: &str = "host_";
const FEATURES: [&str; 2] = ["guest-tests", "host-tests"];

pub(super) struct Artifacts {
    /// The program as it is shipped, without the features that only tests want.
    pub(super) stowage: PathBuf,
    pub(super) tests: Vec<TestBinary>,
    /// The package's directory, where cargo would run its tests.
    pub(super) package: PathBuf,
}

pub(super) struct TestBinary {
    pub(super) name: String,
    pub(super) executable: PathBuf,
    pub(super) in_guest: bool,
}

impl Artifacts {
    pub(super) fn build(logs: &Path) -> Result<Self> {
        let built = build(&["build", "-p", APP])?;
        let stowage = built
            .iter()
            .find(|built| built.kind == "bin" && built.name == "stowage")
            .context("the package has no program named stowage")?;
        // Building the tests below replaces the program by one with their features.
        let plain = logs.join("stowage");
        // Removed first: one that still runs cannot be written to.
        let _ = std::fs::remove_file(&plain);
        std::fs::copy(&stowage.executable, &plain).context("failed to copy the program")?;

        let (features, package) = describe_app()?;
        let mut tests = Vec::new();
        if !features.is_empty() {
            let features = features.join(",");
            for built in build(&["test", "-p", APP, "--no-run", "--features", &features])? {
                let in_guest = built.name.starts_with(GUEST_PREFIX);
                if built.kind == "test" && (in_guest || built.name.starts_with(HOST_PREFIX)) {
                    tests.push(TestBinary {
                        name: built.name,
                        executable: built.executable,
                        in_guest,
                    });
                }
            }
        }
        tests.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Self {
            stowage: plain,
            tests,
            package,
        })
    }
}

/// Which of the test features the package has, and where it lies.
fn describe_app() -> Result<(Vec<&'static str>, PathBuf)> {
    let metadata = process::output(&mut process::cargo([
        "metadata",
        "--format-version=1",
        "--no-deps",
        "--offline",
    ]))?;
    let metadata: Value =
        serde_json::from_str(&metadata).context("failed to parse cargo's metadata")?;
    let package = metadata["packages"]
        .as_array()
        .and_then(|packages| packages.iter().find(|package| package["name"] == APP))
        .with_context(|| format!("the workspace has no package {APP}"))?;
    let features = FEATURES
        .into_iter()
        .filter(|feature| package["features"].get(feature).is_some())
        .collect();
    let manifest = package["manifest_path"].as_str().unwrap_or_default();
    Ok((features, app_dir(manifest)))
}

struct Built {
    kind: String,
    name: String,
    executable: PathBuf,
}

fn build(args: &[&str]) -> Result<Vec<Built>> {
    let mut cargo = process::cargo(args);
    cargo.arg("--message-format=json-render-diagnostics");
    let messages = process::output(&mut cargo)?;
    let messages = messages
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok());
    Ok(messages
        .filter_map(|message| executable(&message))
        .collect())
}

fn executable(message: &Value) -> Option<Built> {
    let path = message["executable"].as_str()?;
    let target = &message["target"];
    Some(Built {
        kind: target["kind"][0].as_str()?.to_owned(),
        name: target["name"].as_str()?.to_owned(),
        executable: PathBuf::from(path),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_messages_with_an_executable_count() {
        let message = serde_json::json!({
            "reason": "compiler-artifact",
            "target": {"kind": ["test"], "name": "guest_lvm"},
            "executable": "/t/guest_lvm-1",
        });
        let built = executable(&message).unwrap();
        assert_eq!(
            (built.kind.as_str(), built.name.as_str()),
            ("test", "guest_lvm")
        );
        let library = serde_json::json!({"target": {"kind": ["lib"]}, "executable": null});
        assert!(executable(&library).is_none());
    }
}
