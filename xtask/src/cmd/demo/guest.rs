//! The tour in a guest: a kernel with device mapper, as a process of this machine.

use std::ffi::OsString;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use stowage_testkit::Guest;

use super::interrupt::Interrupt;
use super::show::{MARK, Show};
use super::{Kit, Stop};

const DISK: u64 = 2 << 30;
const USED_DISK: u64 = 64 << 20;

/// The tour in a guest takes a minute; far beyond it something hangs.
const TIMEOUT: Duration = Duration::from_secs(280);
const HALT_TIMEOUT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(100);

/// Printed when the tour has ended.
pub(super) const END: &str = "demo-tour ended";

pub(super) fn run(kit: &Kit, show: &Show, interrupt: &Interrupt) -> std::result::Result<(), Stop> {
    let mut argv: Vec<OsString> = vec![kit.xtask.clone().into(), "demo-tour".into()];
    argv.extend(["--stowage".into(), kit.stowage.clone().into()]);
    let rest = "--marked --room /mnt --lvm-disk /dev/ubdb --lvm-disk /dev/ubdc \
                --thin-disk /dev/ubdd --used-disk /dev/ubde --prepare-used-disk \
                --cgroup /sys/fs/cgroup/stowage-demo";
    argv.extend(rest.split_whitespace().map(OsString::from));
    if kit.colour {
        argv.push("--colour".into());
    }
    show.line("");
    show.note("Starting the guest…");
    let guest = Guest::builder()
        .disk(DISK)
        .disk(DISK)
        .disk(DISK)
        .disk(USED_DISK)
        .on_line(|line| {
            if let Some(text) = line.strip_prefix(MARK) {
                println!("{text}");
            }
        })
        .spawn(argv)
        .context("failed to start the guest")?;
    let started = Instant::now();
    while guest.wait_for_line(END, POLL).is_err() {
        if interrupt.came() {
            // Dropping it cuts its power.
            return Err(Stop::Interrupted);
        }
        let halted = guest.console().iter().any(|l| l.contains("System halted"));
        if halted || started.elapsed() > TIMEOUT {
            break;
        }
    }
    let outcome = guest.wait(started.elapsed() + HALT_TIMEOUT)?;
    match outcome.status {
        0 => Ok(()),
        _ => Err(Stop::Failed(anyhow!(
            "see the error of the last step, in the guest; {}",
            outcome.console.tail()
        ))),
    }
}
