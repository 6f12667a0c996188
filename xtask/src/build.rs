//! One debug build for all that runs the product: tests, csi-sanity's cells, the demo.
//!
//! Everything is built as a part of the whole workspace with the tests' dependencies: cargo unites
//! the features that are asked for, and a library asked for with other features is another
//! compilation.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::process;

/// What keeps system tests out of a plain `cargo test`: their `required-features`. No code depends
/// on them.
const FEATURES: [&str; 2] = ["guest-tests", "host-tests"];

/// Something cargo built that can be run.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Built {
    /// The package less its prefix `stowage-`.
    pub(crate) package: String,
    /// Where cargo would run a test of it.
    pub(crate) dir: PathBuf,
    kind: String,
    target: String,
    is_test: bool,
    pub(crate) executable: PathBuf,
}

impl Built {
    /// As the table of suites names it; none for what is no test.
    pub(crate) fn suite(&self) -> Option<String> {
        let name = match self.kind.as_str() {
            "test" => format!("{}-{}", self.package, self.target),
            _ => format!("workspace-{}", self.package),
        };
        self.is_test.then_some(name)
    }

    fn is_stowage(&self) -> bool {
        !self.is_test && self.kind == "bin" && self.target == "stowage"
    }
}

/// The program under test and, of the test programs, those named by `targets` or all.
pub(crate) fn tests(targets: Option<&[&str]>) -> Result<Vec<Built>> {
    let features = features()?.join(",");
    let mut args = vec!["test", "--workspace", "--no-run", "--features", &features];
    for target in targets.unwrap_or_default() {
        args.extend(["--test", target]);
    }
    run(&args)
}

/// The program under test alone.
pub(crate) fn stowage() -> Result<Vec<Built>> {
    // Asking for examples (there is next to none) brings the tests' dependencies in, without a test.
    run(&["build", "--workspace", "--bin", "stowage", "--examples"])
}

pub(crate) fn stowage_of(built: &[Built]) -> Result<PathBuf> {
    let program = built.iter().find(|built| built.is_stowage());
    let program = program.context("cargo built no program named stowage")?;
    Ok(program.executable.clone())
}

/// `PACKAGE/FEATURE` for each of [`FEATURES`] that a package has; also wanted by cargo for the doc
/// tests, so that they find the same libraries.
pub(crate) fn features() -> Result<Vec<String>> {
    let args = ["metadata", "--format-version=1", "--no-deps", "--offline"];
    let metadata = process::output(&mut process::cargo(args))?;
    let metadata: Value =
        serde_json::from_str(&metadata).context("failed to parse cargo's metadata")?;
    let packages = metadata["packages"]
        .as_array()
        .context("cargo's metadata has no packages")?;
    Ok(packages.iter().flat_map(features_of).collect())
}

fn features_of(package: &Value) -> Vec<String> {
    let name = package["name"].as_str().unwrap_or_default();
    let has = |feature: &&str| package["features"].get(feature).is_some();
    let features = FEATURES.into_iter().filter(has);
    features
        .map(|feature| format!("{name}/{feature}"))
        .collect()
}

fn run(args: &[&str]) -> Result<Vec<Built>> {
    let mut cargo = process::cargo(args);
    cargo.arg("--message-format=json-render-diagnostics");
    let messages = process::output(&mut cargo)?;
    let messages = messages
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok());
    Ok(messages.filter_map(|message| built(&message)).collect())
}

fn built(message: &Value) -> Option<Built> {
    let target = &message["target"];
    let dir = Path::new(message["manifest_path"].as_str()?).parent()?;
    // `path+file:///work/crates/app#stowage-app@0.1.0`, or without the name where the directory's
    // is the same.
    let id = message["package_id"].as_str()?.rsplit('#').next()?;
    let package = match id.split_once('@') {
        Some((name, _)) => name,
        None => dir.file_name()?.to_str()?,
    };
    Some(Built {
        package: package.trim_start_matches("stowage-").to_owned(),
        dir: dir.to_path_buf(),
        kind: target["kind"][0].as_str()?.to_owned(),
        target: target["name"].as_str()?.to_owned(),
        is_test: message["profile"]["test"].as_bool()?,
        executable: PathBuf::from(message["executable"].as_str()?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: &str, target: &str, package: &str, test: bool) -> Value {
        serde_json::json!({
            "reason": "compiler-artifact",
            "package_id": format!("path+file:///w/crates/app#{package}"),
            "manifest_path": "/w/crates/app/Cargo.toml",
            "target": {"kind": [kind], "name": target},
            "profile": {"test": test},
            "executable": "/t/x-1",
        })
    }

    #[test]
    fn what_cargo_built_gets_the_name_of_its_suite() {
        let suite = |message| built(&message).unwrap().suite();
        let name = |name: &str| Some(name.to_owned());
        let app = "stowage-app@0.1.0";
        assert_eq!(
            suite(message("test", "host_csi", app, true)),
            name("app-host_csi")
        );
        assert_eq!(
            suite(message("lib", "stowage_pool", "stowage-pool@0.1.0", true)),
            name("workspace-pool")
        );
        assert_eq!(
            suite(message("bin", "stowage", app, true)),
            name("workspace-app")
        );
        // A package named like its directory.
        assert_eq!(
            suite(message("bin", "app", "0.1.0", true)),
            name("workspace-app")
        );
        assert_eq!(suite(message("bin", "stowage", app, false)), None);
        assert!(
            built(&message("bin", "stowage", app, false))
                .unwrap()
                .is_stowage()
        );
        assert!(
            !built(&message("bin", "stowage", app, true))
                .unwrap()
                .is_stowage()
        );
        let mut library = message("lib", "stowage_pool", app, false);
        library["executable"] = Value::Null;
        assert_eq!(built(&library), None);
    }

    #[test]
    fn the_features_that_gate_tests_are_found() {
        let package = serde_json::json!({
            "name": "stowage-pool",
            "features": {"guest-tests": [], "other": []},
        });
        assert_eq!(features_of(&package), ["stowage-pool/guest-tests"]);
    }
}
