//! Building what the jobs run.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::process;

/// The package with the program under test.
const APP: &str = "stowage-app";

/// Test targets are told apart by the prefix of their name, and any package may have some.
const GUEST_PREFIX: &str = "guest_";
const HOST_PREFIX: &str = "host_";
/// On the machine too, but all it does happens in guests that it boots itself.
const BOOTS_PREFIX: &str = "boots_";

/// What keeps them out of a plain `cargo test`: their `required-features`.
const FEATURES: [&str; 2] = ["guest-tests", "host-tests"];

pub(super) struct Artifacts {
    /// The program as it is shipped, without the features that only tests want.
    pub(super) stowage: PathBuf,
    pub(super) tests: Vec<TestBinary>,
}

pub(super) struct TestBinary {
    pub(super) name: String,
    pub(super) executable: PathBuf,
    /// Where cargo would run it.
    pub(super) package: PathBuf,
    pub(super) place: Place,
}

/// Where a test runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// On the machine, and nothing beside it: what it sees there must be its own doing.
    Machine,
    /// On the machine, beside others.
    Beside,
    /// In a guest of its own.
    Guest,
}

impl Place {
    fn of(target: &str) -> Option<Self> {
        let places = [
            (HOST_PREFIX, Self::Machine),
            (BOOTS_PREFIX, Self::Beside),
            (GUEST_PREFIX, Self::Guest),
        ];
        let mut places = places.into_iter();
        places.find_map(|(prefix, place)| target.starts_with(prefix).then_some(place))
    }
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

        let mut tests = Vec::new();
        for package in packages_with_tests()? {
            let features = package.features.join(",");
            let args = [
                "test",
                "-p",
                &package.name,
                "--no-run",
                "--features",
                &features,
            ];
            tests.extend(
                build(&args)?
                    .into_iter()
                    .filter_map(|built| package.test(built)),
            );
        }
        tests.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Self {
            stowage: plain,
            tests,
        })
    }
}

struct Package {
    name: String,
    features: Vec<&'static str>,
    dir: PathBuf,
}

impl Package {
    fn test(&self, built: Built) -> Option<TestBinary> {
        let place = Place::of(&built.name).filter(|_| built.kind == "test")?;
        // Two packages may have a target of the same name.
        let short = self.name.trim_start_matches("stowage-");
        Some(TestBinary {
            name: format!("{short}-{}", built.name),
            executable: built.executable,
            package: self.dir.clone(),
            place,
        })
    }
}

fn packages_with_tests() -> Result<Vec<Package>> {
    let args = ["metadata", "--format-version=1", "--no-deps", "--offline"];
    let metadata = process::output(&mut process::cargo(args))?;
    let metadata: Value =
        serde_json::from_str(&metadata).context("failed to parse cargo's metadata")?;
    let packages = metadata["packages"]
        .as_array()
        .context("cargo's metadata has no packages")?;
    Ok(packages.iter().filter_map(package_with_tests).collect())
}

fn package_with_tests(package: &Value) -> Option<Package> {
    let has = |feature: &&'static str| package["features"].get(feature).is_some();
    let features: Vec<&'static str> = FEATURES.into_iter().filter(has).collect();
    let manifest = Path::new(package["manifest_path"].as_str()?);
    (!features.is_empty()).then_some(Package {
        name: package["name"].as_str()?.to_owned(),
        features,
        dir: manifest.parent()?.to_path_buf(),
    })
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
    fn a_guest_test_is_found_by_its_name_and_bears_its_packages() {
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
        let package = package_with_tests(&serde_json::json!({
            "name": "stowage-pool",
            "features": {"guest-tests": [], "other": []},
            "manifest_path": "/w/crates/pool/Cargo.toml",
        }))
        .unwrap();
        assert_eq!(package.features, ["guest-tests"]);
        let test = package.test(built).unwrap();
        assert_eq!(
            (test.name.as_str(), test.place),
            ("pool-guest_lvm", Place::Guest)
        );
        assert_eq!(test.package, Path::new("/w/crates/pool"));
        let library = serde_json::json!({"target": {"kind": ["lib"]}, "executable": null});
        assert!(executable(&library).is_none());
    }
}
