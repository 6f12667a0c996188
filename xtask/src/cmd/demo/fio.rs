//! fio's figures beside the limit.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::show::Show;
use crate::process;

/// What the throttling class of open-local's example allows, in bytes a second each way.
pub(super) const LIMIT: u64 = 1_048_576;

pub(super) struct Speed {
    pub(super) read: f64,
    pub(super) write: f64,
}

/// The example's own job, made shorter, in the control group.
pub(super) fn run(show: &Show, device: &Path, cgroup: &Path, seconds: u32) -> Result<Speed> {
    let job = format!(
        "fio -name=test -filename={} -ioengine=psync -direct=1 -iodepth=1 -thread -bs=16k \
         -rw=readwrite -numjobs=32 -size=128M -runtime={seconds} -time_based -group_reporting",
        device.display()
    );
    // The shell enters the group and becomes fio.
    let script = format!(
        "echo $$ >{}/cgroup.procs && exec {job} -output-format=json",
        cgroup.display()
    );
    let mut command: Command = process::command("sh", ["-c", &script]);
    let mut speed = None;
    let output = show.attempt(&job, command.current_dir("/"), |output| {
        speed = parse(&output.stdout).ok();
        speed.as_ref().map_or_else(
            || String::from_utf8_lossy(&output.stdout).into_owned(),
            |s| format!("read {}   write {}", rate(s.read), rate(s.write)),
        )
    })?;
    ensure!(
        output.status.success(),
        "fio ended with {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    speed.context("fio printed no figures")
}

fn parse(stdout: &[u8]) -> Result<Speed> {
    // fio may print notes before the JSON.
    let start = stdout
        .iter()
        .position(|b| *b == b'{')
        .context("no JSON from fio")?;
    let told: serde_json::Value =
        serde_json::from_slice(&stdout[start..]).context("no JSON from fio")?;
    let figure = |way: &str| {
        told["jobs"][0][way]["bw_bytes"]
            .as_f64()
            .with_context(|| format!("fio told no {way} bandwidth"))
    };
    Ok(Speed {
        read: figure("read")?,
        write: figure("write")?,
    })
}

/// The figures beside the limit; fails when the limit was none.
pub(super) fn beside_the_limit(show: &Show, speed: &Speed) -> Result<()> {
    #[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
    let limit = LIMIT as f64;
    for (way, got) in [("read", speed.read), ("write", speed.write)] {
        show.result(&format!(
            "{way:<5} {got:>9.0} B/s beside the limit of {LIMIT} B/s: {:.1} %",
            got / limit * 100.0
        ));
        ensure!(
            got < limit * 1.1,
            "{way} went at {got:.0} B/s in spite of a limit of {LIMIT} B/s"
        );
    }
    Ok(())
}

fn rate(bytes: f64) -> String {
    format!("{:.1} MiB/s", bytes / f64::from(1 << 20))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_figures_are_found_behind_a_note() {
        let text = br#"note: both iodepth >= 1 and synchronous I/O engine are selected
{"jobs":[{"read":{"bw_bytes":10},"write":{"bw_bytes":20}}]}"#;
        let speed = super::parse(text).unwrap();
        assert!((speed.read - 10.0).abs() < 0.1 && (speed.write - 20.0).abs() < 0.1);
    }
}
