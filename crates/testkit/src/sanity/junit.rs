//! The junit report as ginkgo writes it.

use anyhow::{Context, Result, bail, ensure};
use quick_xml::events::{BytesStart, Event};
use quick_xml::{Reader, XmlVersion};

use super::{Failure, Report};

/// Specs bear this mark; other nodes (`[BeforeSuite]`, `[ReportAfterSuite]`) are no specs.
const SPEC: &str = "[It] ";

pub(super) fn parse(xml: &str) -> Result<Report> {
    let mut reader = Reader::from_str(xml);
    let mut report = Report::default();
    let mut cases = 0;
    loop {
        match reader
            .read_event()
            .context("failed to parse the junit report")?
        {
            Event::Start(tag) | Event::Empty(tag) => match tag.name().as_ref() {
                "testcase" => {
                    cases += 1;
                    add(
                        &mut report,
                        &attribute(&tag, "name")?,
                        &attribute(&tag, "status")?,
                    );
                }
                // Both lie inside their testcase, whose failure was added just before.
                "failure" | "error" => {
                    if let Some(failure) = report.failed.last_mut() {
                        failure.message = attribute(&tag, "message")?;
                    }
                }
                _ => {}
            },
            Event::Eof => break,
            _ => {}
        }
    }
    ensure!(cases > 0, "the junit report names no spec");
    Ok(report)
}

/// Whatever is neither passed, skipped nor pending (failed, panicked, aborted, interrupted,
/// timedout, and what a later version adds) counts as failed.
fn add(report: &mut Report, name: &str, status: &str) {
    let name = name.to_owned();
    match status {
        "passed" if name.starts_with(SPEC) => report.passed += 1,
        "passed" => {}
        "skipped" => report.skipped.push(name),
        "pending" => report.pending.push(name),
        _ => report.failed.push(Failure {
            name,
            message: status.to_owned(),
        }),
    }
}

fn attribute(tag: &BytesStart<'_>, name: &str) -> Result<String> {
    let found = tag
        .try_get_attribute(name)
        .context("failed to parse the junit report")?;
    let Some(attribute) = found else {
        bail!(
            "a {} in the junit report has no {name}",
            tag.name().as_ref()
        );
    };
    let value = attribute
        .normalized_value(XmlVersion::Implicit1_0)
        .context("failed to parse the junit report")?;
    Ok(value.into_owned())
}
