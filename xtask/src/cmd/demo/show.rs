//! What the person watching sees: steps, command lines, results, times.

use std::io::Write;
use std::process::{Command, Output, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

/// Longer lines of a result are cut: what is there at the end of a table is for scripts.
const WIDTH: usize = 100;
/// A result longer than this is not compact.
const LINES: usize = 6;

/// Stands before each line a tour prints in a guest, whose kernel prints to the same console.
pub(super) const MARK: &str = "\u{1}";

pub(super) struct Show {
    colour: bool,
    mark: &'static str,
    step: std::cell::Cell<usize>,
}

impl Show {
    pub(super) fn new(colour: bool) -> Self {
        Self {
            colour,
            mark: "",
            step: std::cell::Cell::new(0),
        }
    }

    /// As it is read by [`super::guest`].
    pub(super) fn marked(colour: bool) -> Self {
        Self {
            mark: MARK,
            ..Self::new(colour)
        }
    }

    pub(super) fn colour(&self) -> bool {
        self.colour
    }

    /// A line as it is. Nobody may be reading any more, which must not keep us from cleaning up.
    pub(super) fn line(&self, text: &str) {
        let mut out = std::io::stdout().lock();
        for line in text.split('\n') {
            let _ = writeln!(out, "{}{line}", self.mark);
        }
        let _ = out.flush();
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    /// A part of the tour.
    pub(super) fn part(&self, title: &str) {
        self.step.set(0);
        self.line("");
        let rule = "=".repeat(WIDTH.saturating_sub(title.chars().count() + 4));
        self.line(&self.paint("1;36", &format!("== {title} {rule}")));
    }

    /// A step of it.
    pub(super) fn step(&self, title: &str) {
        self.step.set(self.step.get() + 1);
        self.line("");
        self.line(&self.paint("1", &format!("{:>2}. {title}", self.step.get())));
    }

    /// Something to know, wrapped.
    pub(super) fn note(&self, text: &str) {
        let mut line = String::new();
        for word in text.split_whitespace() {
            if !line.is_empty() && line.chars().count() + word.chars().count() >= WIDTH {
                self.line(&line);
                line.clear();
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        self.line(&line);
    }

    pub(super) fn good(&self, text: &str) {
        self.line("");
        self.note(&self.paint("32", text));
    }

    pub(super) fn bad(&self, text: &str) {
        self.line("");
        self.line(&self.paint("31", text));
    }

    /// A line of a result.
    pub(super) fn result(&self, text: &str) {
        let mut cut: String = text.chars().take(WIDTH - 4).collect();
        if cut.len() < text.len() {
            cut.pop();
            cut.push('…');
        }
        self.line(&format!("    {}", cut.trim_end()));
    }

    /// Shows a command line, runs it, shows what it printed and how long it took.
    pub(super) fn run(&self, shown: &str, command: &mut Command) -> Result<Output> {
        let output = self.attempt(shown, command, |output| {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            if text.trim().is_empty() {
                String::from_utf8_lossy(&output.stderr).into_owned()
            } else {
                text
            }
        })?;
        ensure!(
            output.status.success(),
            "{shown} ended with {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(output)
    }

    /// As [`Show::run`], for a command that must be refused, and shows why.
    pub(super) fn refused(&self, shown: &str, command: &mut Command) -> Result<()> {
        let output = self.attempt(shown, command, |output| {
            String::from_utf8_lossy(&output.stderr).into_owned()
        })?;
        if output.status.success() {
            bail!("{shown} should have been refused");
        }
        Ok(())
    }

    /// As [`Show::run`], with a result made of what it printed.
    pub(super) fn attempt(
        &self,
        shown: &str,
        command: &mut Command,
        result: impl FnOnce(&Output) -> String,
    ) -> Result<Output> {
        self.line(&format!(
            "  {} {}",
            self.paint("36", "$"),
            self.paint("1", shown)
        ));
        let started = Instant::now();
        let output = command
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("failed to run {shown}"))?;
        let took = started.elapsed();
        let text = result(&output);
        let lines: Vec<&str> = text.lines().filter(|l| !l.trim().is_empty()).collect();
        for line in lines.iter().take(LINES) {
            // An error is for reading: whole.
            if output.status.success() {
                self.result(line);
            } else {
                wrapped(line, |l| self.line(&self.paint("33", &format!("    {l}"))));
            }
        }
        self.line(&self.paint("2", &format!("    {:.2} s", took.as_secs_f64())));
        Ok(output)
    }
}

fn wrapped(text: &str, mut line: impl FnMut(&str)) {
    let mut now = String::new();
    for word in text.split_whitespace() {
        if !now.is_empty() && now.chars().count() + word.chars().count() >= WIDTH - 4 {
            line(&now);
            now.clear();
        }
        if !now.is_empty() {
            now.push(' ');
        }
        now.push_str(word);
    }
    line(&now);
}
