mod deny;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use stowage_testkit::scratch;

use crate::{fence, licence, process, promises};

/// Format, lints, each crate alone, docs, fences, cited tests, licences, generated files
#[derive(clap::Args)]
pub(crate) struct Args {}

type Step = (&'static str, fn() -> Result<Verdict>);

enum Verdict {
    Good,
    /// Not looked at here, and why.
    Unchecked(String),
}

const STEPS: [Step; 10] = [
    ("format", format),
    ("clippy", clippy),
    ("each crate alone", each_crate_alone),
    ("docs", docs),
    ("fences", fences),
    ("promises", cited_tests),
    ("licences and sources", licences),
    ("cargo deny", cargo_deny),
    ("advisories", advisories),
    ("generated files", generated_files),
];

/// All steps run, also after one has failed: a person wants the whole list.
pub(crate) fn run(_: &Args) -> Result<ExitCode> {
    let (mut failed, mut unchecked) = (Vec::new(), Vec::new());
    for (name, step) in STEPS {
        println!("== {name}");
        let started = Instant::now();
        let done = step();
        let seconds = started.elapsed().as_secs_f64();
        match done {
            Ok(Verdict::Good) => println!("== {name}: good ({seconds:.1} s)"),
            Ok(Verdict::Unchecked(why)) => {
                println!("== {name}: NOT CHECKED, {why}");
                unchecked.push(name);
            }
            Err(error) => {
                println!("== {name}: FAILED ({seconds:.1} s): {error:#}");
                failed.push(name);
            }
        }
    }
    let good = STEPS.len() - failed.len() - unchecked.len();
    println!(
        "{good} good; not checked: {}; failed: {}",
        list(&unchecked),
        list(&failed)
    );
    Ok(if failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn list(names: &[&str]) -> String {
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(", ")
    }
}

fn good(done: Result<()>) -> Result<Verdict> {
    done.map(|()| Verdict::Good)
}

fn format() -> Result<Verdict> {
    good(process::run(&mut process::cargo([
        "fmt", "--all", "--check",
    ])))
}

fn clippy() -> Result<Verdict> {
    let args = [
        "clippy",
        "--workspace",
        "--all-targets",
        "--all-features",
        "--",
        "-D",
        "warnings",
    ];
    good(process::run(&mut process::cargo(args)))
}

/// Alone, a crate has only the features it asks for itself; within the workspace it may compile by
/// another's.
fn each_crate_alone() -> Result<Verdict> {
    for name in members()? {
        process::run(&mut process::cargo(["check", "--quiet", "-p", &name]))?;
    }
    Ok(Verdict::Good)
}

fn docs() -> Result<Verdict> {
    let mut doc = process::cargo([
        "doc",
        "--workspace",
        "--no-deps",
        "--document-private-items",
    ]);
    good(process::run(doc.env("RUSTDOCFLAGS", "-D warnings")))
}

fn fences() -> Result<Verdict> {
    let clippy = workspace_file("clippy.toml")?;
    none(&fence::gaps(&clippy, &metadata(&[])?)?)
}

fn cited_tests() -> Result<Verdict> {
    let semantics = workspace_file("docs/semantics.md")?;
    let crates = scratch::workspace().join("crates");
    let missing = promises::without_test(&semantics, &crates)?;
    none(&missing).context("docs/semantics.md cites tests that are not there")
}

fn none(problems: &[String]) -> Result<Verdict> {
    ensure!(problems.is_empty(), "\n  {}", problems.join("\n  "));
    Ok(Verdict::Good)
}

fn workspace_file(name: &str) -> Result<String> {
    std::fs::read_to_string(scratch::workspace().join(name))
        .with_context(|| format!("failed to read {name}"))
}

fn licences() -> Result<Verdict> {
    let deny = workspace_file("deny.toml")?;
    none(&licence::problems(&deny, &metadata(&[])?)?)
}

/// Licences once more, with the texts; duplicates and sources.
fn cargo_deny() -> Result<Verdict> {
    let program = match deny::program() {
        Ok(program) => program,
        Err(error) => return Ok(Verdict::Unchecked(format!("no cargo-deny: {error:#}"))),
    };
    let args = [
        "--log-level",
        "error",
        "check",
        "bans",
        "licenses",
        "sources",
    ];
    good(process::run(&mut process::command(program, args)))
}

/// What is known to be unsafe. The list is a git repository, which not every machine reaches.
fn advisories() -> Result<Verdict> {
    let program = match deny::program() {
        Ok(program) => program,
        Err(error) => return Ok(Verdict::Unchecked(format!("no cargo-deny: {error:#}"))),
    };
    let args = ["60", &program.display().to_string(), "check", "advisories"].map(str::to_owned);
    let output = process::command("timeout", args)
        .output()
        .context("failed to run cargo-deny")?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        return Ok(Verdict::Good);
    }
    if let Some(line) = said.lines().find(|line| line.contains(NO_LIST)) {
        let (_, why) = line.split_once(NO_LIST).unwrap_or_default();
        return Ok(Verdict::Unchecked(format!("no list of advisories:{why}")));
    }
    anyhow::bail!("cargo-deny ended with {}\n{said}", output.status)
}

/// How cargo-deny begins when it cannot get the list.
const NO_LIST: &str = "failed to fetch advisory database";

fn generated_files() -> Result<Verdict> {
    metadata(&["--locked"]).context("Cargo.lock is stale; run: cargo update --workspace")?;
    let mut tidy = process::command("go", ["mod", "tidy", "-diff"]);
    tidy.current_dir(scratch::workspace().join("tools/csi-sanity"));
    good(process::run(&mut tidy).context("go.mod or go.sum is stale; run: go mod tidy"))
}

fn metadata(more: &[&str]) -> Result<String> {
    let args = ["metadata", "--format-version=1"];
    process::output(&mut process::cargo(args.iter().chain(more)))
}

fn members() -> Result<Vec<String>> {
    let metadata: Value = serde_json::from_str(&metadata(&["--no-deps"])?)
        .context("failed to parse cargo's metadata")?;
    let packages = metadata["packages"]
        .as_array()
        .context("cargo's metadata has no packages")?;
    Ok(packages
        .iter()
        .filter_map(|p| p["name"].as_str().map(str::to_owned))
        .collect())
}
