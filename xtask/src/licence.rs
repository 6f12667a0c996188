//! The rules of deny.toml that need no cargo-deny: licences and sources of all dependencies.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use serde::Deserialize;

/// How the metadata names the default registry's index, whatever mirror serves it.
const DEFAULT_REGISTRY: &str = "/crates.io-index";

#[derive(Deserialize)]
struct Deny {
    licenses: Licenses,
}

#[derive(Deserialize)]
struct Licenses {
    allow: BTreeSet<String>,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    license: Option<String>,
    source: Option<String>,
}

/// What breaks the rules, a line each. `metadata` is the output of `cargo metadata`.
pub(crate) fn problems(deny_toml: &str, metadata: &str) -> Result<Vec<String>> {
    let deny: Deny = toml::from_str(deny_toml).context("failed to parse deny.toml")?;
    let metadata: Metadata =
        serde_json::from_str(metadata).context("failed to parse cargo's metadata")?;
    let mut problems = Vec::new();
    for package in metadata.packages {
        let Package {
            name,
            version,
            license,
            source,
        } = package;
        // No source: a member of the workspace.
        if source
            .as_ref()
            .is_some_and(|s| !(s.starts_with("registry+") && s.ends_with(DEFAULT_REGISTRY)))
        {
            problems.push(format!(
                "{name} {version} is not from the default registry: {source:?}"
            ));
        }
        match license {
            None => problems.push(format!("{name} {version} names no licence")),
            Some(text) if !allowed(&text, &deny.licenses.allow) => {
                problems.push(format!(
                    "{name} {version} has a licence not in deny.toml: {text}"
                ));
            }
            Some(_) => {}
        }
    }
    Ok(problems)
}

/// Whether the allowed licences satisfy an SPDX expression. One that cannot be read is refused.
fn allowed(expression: &str, allow: &BTreeSet<String>) -> bool {
    // Before SPDX, Cargo.toml had a slash for "or".
    let spaced = expression
        .replace('/', " OR ")
        .replace('(', " ( ")
        .replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut parser = Parser {
        words: &words,
        allow,
    };
    parser.any() == Some(true) && parser.words.is_empty()
}

/// OR binds weaker than AND; `None` is a syntax error.
struct Parser<'a> {
    words: &'a [&'a str],
    allow: &'a BTreeSet<String>,
}

impl<'a> Parser<'a> {
    fn next(&mut self) -> Option<&'a str> {
        let (first, rest) = self.words.split_first()?;
        self.words = rest;
        Some(first)
    }

    fn eat(&mut self, word: &str) -> bool {
        let found = self.words.first() == Some(&word);
        if found {
            self.words = &self.words[1..];
        }
        found
    }

    fn any(&mut self) -> Option<bool> {
        let mut fine = self.all()?;
        while self.eat("OR") {
            fine |= self.all()?;
        }
        Some(fine)
    }

    fn all(&mut self) -> Option<bool> {
        let mut fine = self.one()?;
        while self.eat("AND") {
            fine &= self.one()?;
        }
        Some(fine)
    }

    fn one(&mut self) -> Option<bool> {
        if self.eat("(") {
            let fine = self.any()?;
            return self.eat(")").then_some(fine);
        }
        let licence = self.next()?;
        if self.eat("WITH") {
            // To be allowed by the pair's own name, as cargo-deny has it.
            return Some(
                self.allow
                    .contains(&format!("{licence} WITH {}", self.next()?)),
            );
        }
        Some(self.allow.contains(licence))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_read_as_spdx_says() {
        let allow = ["MIT", "Unicode-3.0", "LGPL-2.1 WITH X-exception"]
            .map(str::to_owned)
            .into();
        for fine in [
            "MIT",
            "GPL-3.0 OR MIT",
            "MIT/GPL-3.0",
            "(MIT OR GPL-3.0) AND Unicode-3.0",
            "LGPL-2.1 WITH X-exception",
            "GPL-3.0 AND Zlib OR MIT",
        ] {
            assert!(allowed(fine, &allow), "{fine}");
        }
        for bad in [
            "LGPL-2.1",
            "MIT AND GPL-3.0",
            "MIT OR",
            "(MIT",
            "MIT MIT",
            "",
        ] {
            assert!(!allowed(bad, &allow), "{bad}");
        }
    }

    #[test]
    fn a_git_dependency_and_a_strange_licence_are_reported() {
        let deny = "[licenses]\nallow = [\"MIT\"]";
        let metadata = r#"{"packages": [
            {"name": "own", "version": "1.0.0", "license": "MIT", "source": null},
            {"name": "odd", "version": "2.0.0", "license": "Odd", "source": "git+ssh://host/odd"},
            {"name": "bare", "version": "3.0.0", "license": null, "source": null}
        ]}"#;
        let problems = problems(deny, metadata).unwrap();
        assert_eq!(problems.len(), 3, "{problems:?}");
        assert!(problems[0].contains("odd 2.0.0 is not from the default registry"));
        assert!(problems[2].contains("bare 3.0.0 names no licence"));
    }
}
