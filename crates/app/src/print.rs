//! Printing for people and for scripts.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde::Serialize;
use stowage_model::volumes::Job;

use crate::cli::Output;

/// An error with its causes, each said once.
pub(crate) fn chain(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if !text.contains(cause.trim()) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(cause.trim());
        }
    }
    text
}

/// Print a value as JSON.
pub(crate) fn json(value: &impl Serialize) -> anyhow::Result<ExitCode> {
    put(&serde_json::to_string_pretty(value)?)
}

/// Print a list, as JSON or as the table it makes.
pub(crate) fn list<T: Serialize>(
    output: Output,
    items: &[T],
    table: impl FnOnce() -> Table,
) -> anyhow::Result<ExitCode> {
    match output {
        Output::Json => json(&items),
        Output::Table => put(&table().render()),
    }
}

/// Say that something was done.
pub(crate) fn done(output: Output, text: &str) -> anyhow::Result<ExitCode> {
    match output {
        Output::Json => json(&serde_json::json!({ "done": text })),
        Output::Table => put(text),
    }
}

/// Print what is text already.
pub(crate) fn text(text: &str) -> anyhow::Result<ExitCode> {
    put(text)
}

fn put(text: &str) -> anyhow::Result<ExitCode> {
    match writeln!(std::io::stdout(), "{text}") {
        // The reader has seen enough (`stowage volume list | head -1`).
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        Err(e) => Err(e.into()),
        Ok(()) => Ok(ExitCode::SUCCESS),
    }
}

/// Say what is to be known about what is printed, beside it.
pub(crate) fn warn(text: &str) {
    // Nobody reads it any more, perhaps; the answer is what counts.
    let _ = writeln!(std::io::stderr(), "stowage: {text}");
}

/// Aligned columns.
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new<const N: usize>(head: [&str; N]) -> Self {
        Self {
            rows: vec![head.iter().map(|s| (*s).to_owned()).collect()],
        }
    }

    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into());
    }

    fn render(&self) -> String {
        let columns = self.rows.first().map_or(0, Vec::len);
        let width = |column: usize| {
            self.rows
                .iter()
                .map(|row| row[column].chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let lines = self.rows.iter().map(|row| {
            let cells = row
                .iter()
                .zip(&widths)
                .map(|(cell, width)| format!("{cell:<width$}"));
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        });
        lines.collect::<Vec<_>>().join("\n")
    }
}

/// How long ago a time was, in the shortest form: `5s`, `3m`, `2h`, `9d`.
pub(crate) fn age(created: &str) -> String {
    let Ok(then) = created.parse::<jiff::Timestamp>() else {
        return "-".to_owned();
    };
    let seconds = jiff::Timestamp::now().duration_since(then).as_secs().max(0);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        7_200..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// Progress bars on a terminal; nothing elsewhere.
pub(crate) struct Bars {
    multi: Option<MultiProgress>,
    bars: BTreeMap<String, ProgressBar>,
}

impl Bars {
    pub(crate) fn new(output: Output) -> Self {
        let wanted = output == Output::Table && std::io::stderr().is_terminal();
        Self {
            multi: wanted.then(MultiProgress::new),
            bars: BTreeMap::new(),
        }
    }

    /// Show the work under way.
    pub(crate) fn show(&mut self, jobs: &[Job]) {
        let Some(multi) = &self.multi else { return };
        let key = |job: &Job| format!("{} {}", job.what, job.subject);
        self.bars.retain(|shown, bar| {
            let goes_on = jobs.iter().any(|job| key(job) == *shown);
            if !goes_on {
                bar.finish_and_clear();
            }
            goes_on
        });
        for job in jobs.iter().filter(|job| job.total.0 > 0) {
            let bar = self.bars.entry(key(job)).or_insert_with(|| {
                let bar = multi.add(ProgressBar::new(job.total.0));
                let style = ProgressStyle::with_template(
                    "{msg} {bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta}",
                );
                bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
                bar.set_message(key(job));
                bar
            });
            bar.set_position(job.done.0);
        }
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        self.bars.values().for_each(ProgressBar::finish_and_clear);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(["NAME", "SIZE"]);
        table.row(["größe".into(), "1Gi".into()]);
        assert_eq!(table.render(), "NAME   SIZE\ngröße  1Gi");
    }

    #[test]
    fn each_cause_is_said_once() {
        let e = anyhow::anyhow!("disk on fire").context("failed to write: disk on fire");
        assert_eq!(chain(&e), "failed to write: disk on fire");
    }
}
