//! The tests and test programs that docs/semantics.md cites are there: a promise whose test was renamed or removed
//! is a promise without one.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result};

/// Cited tests that no source below `crates` has.
///
/// # Errors
/// If a source cannot be read.
pub(crate) fn without_test(semantics: &str, crates: &Path) -> Result<Vec<String>> {
    let mut functions = BTreeSet::new();
    collect(crates, &mut functions)?;
    let missing = cited(semantics)
        .into_iter()
        .filter(|cited| !functions.iter().any(|name| fits(cited, name)));
    Ok(missing.map(str::to_owned).collect())
}

/// Words in backticks that read like a sentence; `…` stands for what several tests differ in.
fn cited(text: &str) -> Vec<&str> {
    let quoted = text.split('`').skip(1).step_by(2);
    quoted
        .filter(|word| {
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_…".contains(c);
            word.matches('_').count() >= 2 && word.chars().all(plain)
        })
        .collect()
}

fn fits(cited: &str, name: &str) -> bool {
    match cited.contains('…') {
        true => cited.split('…').all(|part| name.contains(part)),
        false => cited == name,
    }
}

fn collect(dir: &Path, functions: &mut BTreeSet<String>) -> Result<()> {
    let failed = || format!("failed to read {}", dir.display());
    for entry in std::fs::read_dir(dir).with_context(failed)? {
        let path = entry.with_context(failed)?.path();
        if path.is_dir() {
            collect(&path, functions)?;
        } else if path.extension().is_some_and(|end| end == "rs") {
            let text = std::fs::read_to_string(&path).with_context(failed)?;
            let names = text.split("fn ").skip(1);
            functions.extend(names.filter_map(|rest| Some(rest.split_once('(')?.0.to_owned())));
            // The program the tests are in is cited beside them.
            functions.extend(
                path.file_stem()
                    .map(|stem| stem.to_string_lossy().into_owned()),
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cited_test_must_be_there() {
        let dir = tempfile::tempdir().unwrap();
        let code = "#[test]\nfn thin_files_stay_whole() {}\nfn nothing_ever_shrinks() {}\n";
        std::fs::write(dir.path().join("t.rs"), code).unwrap();
        let text = "`…_files_stay_whole`, `nothing_ever_shrinks`, `…_files_stay_long`, \
                    `nothing_ever`, `host_power`, `wipe = \"none\"`";
        let missing = without_test(text, dir.path()).unwrap();
        assert_eq!(missing, ["…_files_stay_long"]);
        let missing = without_test("`nothing_ever_shrinks_here`", dir.path()).unwrap();
        assert_eq!(missing, ["nothing_ever_shrinks_here"]);
    }
}
