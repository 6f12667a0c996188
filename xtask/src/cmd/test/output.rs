//! What a test program prints, read line by line: counts, how long each test took, which were
//! ignored.

use std::time::{Duration, Instant};

use crate::tally::Tally;

/// Reads libtest's lines as they come. One test runs at a time, so that the time between two
/// results is the later test's.
#[derive(Debug)]
pub(super) struct Output {
    pub(super) tally: Option<Tally>,
    pub(super) times: Vec<(String, Duration)>,
    /// Names of tests that did not run, with the reason given.
    pub(super) ignored: Vec<(String, Option<String>)>,
    /// A test that has begun and whose result follows on a line of its own, since something was
    /// printed between.
    begun: Option<String>,
    since: Instant,
}

impl Output {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            tally: None,
            times: Vec::new(),
            ignored: Vec::new(),
            begun: None,
            since: now,
        }
    }

    pub(super) fn line(&mut self, line: &str, now: Instant) {
        if let Some(tally) = Tally::parse(line) {
            self.tally = Some(tally);
        } else if line.starts_with("running ") {
            self.since = now;
        } else if let Some((name, result)) = result(line) {
            self.begun = None;
            match result.strip_prefix("ignored") {
                Some(reason) => {
                    let reason = reason.strip_prefix(", ").map(str::to_owned);
                    self.ignored.push((name.to_owned(), reason));
                }
                None if is_verdict(result) => self.end(name.to_owned(), now),
                None => self.begun = Some(name.to_owned()),
            }
        } else if is_verdict(line)
            && let Some(name) = self.begun.take()
        {
            self.end(name, now);
        }
    }

    fn end(&mut self, name: String, now: Instant) {
        self.times.push((name, now.duration_since(self.since)));
        self.since = now;
    }
}

/// `test NAME ... RESULT`
fn result(line: &str) -> Option<(&str, &str)> {
    let (name, result) = line.strip_prefix("test ")?.split_once(" ... ")?;
    Some((name.trim_end_matches(" - should panic"), result))
}

fn is_verdict(text: &str) -> bool {
    text == "ok" || text == "FAILED"
}

/// What a reader of a failure needs: from libtest's list of failures on, or else the end.
pub(super) fn failure(text: &str) -> String {
    const MOST: usize = 150;
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.iter().position(|line| *line == "failures:");
    let from = from.unwrap_or_else(|| lines.len().saturating_sub(60));
    let shown = &lines[from..lines.len().min(from + MOST)];
    let more = lines.len() - from - shown.len();
    let mut told = shown.join("\n");
    if more > 0 {
        told.push_str(&format!("\n… and {more} lines more"));
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_test_gets_the_time_since_the_one_before() {
        let start = Instant::now();
        let mut output = Output::new(start);
        let lines = [
            (3, "running 4 tests"),
            (5, "test a ... ok"),
            (5, "test b ... ignored, run by hand"),
            (6, "test c ... device-mapper: a message of the kernel's"),
            (9, "ok"),
            (10, "test d - should panic ... FAILED"),
            (
                10,
                "test result: FAILED. 2 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out",
            ),
        ];
        for (at, line) in lines {
            output.line(line, start + Duration::from_secs(at));
        }
        let times: Vec<_> = output
            .times
            .iter()
            .map(|(n, t)| (n.as_str(), t.as_secs()))
            .collect();
        assert_eq!(times, [("a", 2), ("c", 4), ("d", 1)]);
        assert_eq!(
            output.ignored,
            [("b".to_owned(), Some("run by hand".to_owned()))]
        );
        assert_eq!(output.tally.unwrap().passed, 2);
    }

    #[test]
    fn of_a_failure_the_list_is_shown_or_the_end() {
        let text = "noise\nfailures:\n---- a stdout ----\nboom";
        assert_eq!(failure(text), "failures:\n---- a stdout ----\nboom");
        assert_eq!(failure("died\nhere"), "died\nhere");
        let long = format!("failures:\n{}", "x\n".repeat(500));
        assert!(failure(&long).ends_with("… and 351 lines more"));
    }
}
