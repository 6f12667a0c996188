//! Counting tests over everything that ran.

use std::ops::AddAssign;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    pub(crate) ignored: usize,
}

impl Tally {
    /// Something that is no test case went wrong, such as a build.
    pub(crate) const ONE_FAILED: Self = Self {
        passed: 0,
        failed: 1,
        ignored: 0,
    };

    /// Reads `test result: ok. 3 passed; 0 failed; 1 ignored; …`, cargo's last line of a binary.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let (_, counts) = line.split_once("test result: ")?.1.split_once(". ")?;
        let count = |word: &str| {
            let part = counts.split(';').find(|part| part.trim().ends_with(word))?;
            part.trim().strip_suffix(word)?.trim().parse().ok()
        };
        Some(Self {
            passed: count("passed")?,
            failed: count("failed")?,
            ignored: count("ignored")?,
        })
    }

    /// The command failed, yet no test did: a build error, a crash, a guest that died.
    pub(crate) fn at_least_one_failed(self, command_succeeded: bool) -> Self {
        if command_succeeded || self.failed > 0 {
            self
        } else {
            Self { failed: 1, ..self }
        }
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_line_is_counted() {
        let line = "test result: FAILED. 3 passed; 1 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.01s";
        assert_eq!(
            Tally::parse(line),
            Some(Tally {
                passed: 3,
                failed: 1,
                ignored: 2
            })
        );
        assert_eq!(Tally::parse("test result_of_x ... ok"), None);
    }

    #[test]
    fn a_crash_without_a_failed_test_counts_as_one() {
        let tally = Tally {
            passed: 5,
            failed: 0,
            ignored: 0,
        };
        assert_eq!(tally.at_least_one_failed(false).failed, 1);
        assert_eq!(tally.at_least_one_failed(true).failed, 0);
    }
}
