//! Running other programs from the workspace's root.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use stowage_testkit::scratch;

/// A command in the workspace's root that never waits for a keyboard.
pub(crate) fn command<A: AsRef<OsStr>>(
    program: impl AsRef<OsStr>,
    args: impl IntoIterator<Item = A>,
) -> Command {
    let mut command = Command::new(program);
    command
        .args(args)
        .current_dir(scratch::workspace())
        .stdin(Stdio::null());
    command
}

/// `cargo` as the one that runs this tool, hence with the same toolchain.
pub(crate) fn cargo<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Command {
    command(
        std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()),
        args,
    )
}

/// Runs with the terminal's output; fails unless the command does well.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("failed to run {command:?}"))?;
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok(())
}

/// Runs and returns stdout; stderr goes to the terminal.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    command.stdout(Stdio::piped()).stderr(Stdio::inherit());
    let output = command
        .output()
        .with_context(|| format!("failed to run {command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?} ended with {}",
        output.status
    );
    String::from_utf8(output.stdout).with_context(|| format!("{command:?} printed no UTF-8"))
}

/// How often a command that prints nothing is looked after.
const LOOK: Duration = Duration::from_millis(20);

/// What is still in the pipe when a command and its group are gone is read in a moment.
const DRAIN: Duration = Duration::from_secs(3);

/// Runs in a process group of its own, hands each line of stdout and stderr to `on_line` as it
/// comes, and returns whether the command did well.
///
/// Both through one pipe: their order is the order a person would see. The pipe's end is not waited
/// for: what the command started holds it too, and may outlive it. Its group is killed when it has
/// ended, and after `limit`; what left the group or hangs in the kernel keeps nobody waiting.
pub(crate) fn stream(
    mut command: Command,
    limit: Duration,
    mut on_line: impl FnMut(&str),
) -> Result<bool> {
    let (reader, writer) = std::io::pipe().context("failed to make a pipe")?;
    let errors = writer.try_clone().context("failed to make a pipe")?;
    command.stdout(writer).stderr(errors).process_group(0);
    let mut child = command
        .spawn()
        .with_context(|| format!("failed to run {command:?}"))?;
    let shown = format!("{command:?}");
    // The command holds writing ends of the pipe, which would otherwise never end.
    drop(command);
    let (sender, lines) = mpsc::channel();
    // Ends at the first line that nobody wants any more.
    std::thread::spawn(move || read_lines(reader, &sender));
    let group = Pid::from_child(&child);
    let deadline = Instant::now() + limit;
    let mut printing = true;
    // When the group was killed.
    let mut killed = None;
    let mut ended = false;
    while printing || !ended {
        match lines.recv_timeout(LOOK) {
            Ok(line) => on_line(&line.context("failed to read the command's output")?),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                printing = false;
                std::thread::sleep(LOOK);
            }
        }
        ended = ended || has_ended(group)?;
        if killed.is_none() && (ended || Instant::now() > deadline) {
            // It may be empty.
            let _ = kill_process_group(group, Signal::KILL);
            killed = Some(Instant::now());
        }
        if killed.is_some_and(|at| at.elapsed() > DRAIN) {
            break;
        }
    }
    ensure!(ended, "{shown} cannot be ended after {limit:?}");
    if printing {
        on_line("(a process that it left still holds its output)");
    }
    let status = child.wait().context("failed to wait for the command")?;
    Ok(status.success())
}

/// Whether a child has ended; it is not reaped, so that its id stays its group's.
fn has_ended(child: Pid) -> Result<bool> {
    let how = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    let status = waitid(WaitId::Pid(child), how).context("failed to look at the command")?;
    Ok(status.is_some())
}

fn read_lines(reader: impl Read, lines: &mpsc::Sender<std::io::Result<String>>) {
    for bytes in BufReader::new(reader).split(b'\n') {
        let line = bytes.map(|bytes| String::from_utf8_lossy(&bytes).trim_end().to_owned());
        let broken = line.is_err();
        if lines.send(line).is_err() || broken {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Longer than any test may take.
    const LONG: &str = "40";

    /// What a script printed and whether it did well; it must not take as long as what it leaves.
    fn streamed(script: &str, limit: Duration) -> (Result<bool>, Vec<String>) {
        let began = Instant::now();
        let mut lines = Vec::new();
        let command = command("sh", ["-c", script, "sh", LONG]);
        let good = stream(command, limit, |line| lines.push(line.to_owned()));
        assert!(began.elapsed() < Duration::from_secs(20), "{lines:?}");
        (good, lines)
    }

    #[test]
    fn what_a_command_leaves_running_is_ended_with_it() {
        let script = "sleep $1 & echo $!; echo said";
        let (good, lines) = streamed(script, Duration::from_secs(60));
        assert!(good.unwrap());
        assert_eq!(lines[1..], ["said"]);
        let left = Pid::from_raw(lines[0].parse().unwrap()).unwrap();
        // One that was killed and that nobody reaped yet has no command line.
        let path = format!("/proc/{}/cmdline", left.as_raw_nonzero());
        let text = std::fs::read_to_string(path).unwrap_or_default();
        assert!(!text.contains("sleep"), "{text:?}");
    }

    #[test]
    fn what_left_the_group_keeps_nobody_waiting() {
        // Until the child has a session of its own, it would be ended with this group.
        let script = "setsid sleep $1 & echo $!
            until [ $(cut -d ' ' -f 6 /proc/$!/stat) = $! ]; do :; done; exit 3";
        let (good, lines) = streamed(script, Duration::from_secs(60));
        let left = Pid::from_raw(lines[0].parse().unwrap()).unwrap();
        rustix::process::kill_process(left, Signal::KILL).unwrap();
        assert!(!good.unwrap());
        assert!(lines[1].contains("still holds its output"), "{lines:?}");
    }

    #[test]
    fn a_command_without_an_end_is_ended() {
        let (good, lines) = streamed("echo said; sleep $1; echo more", Duration::from_secs(1));
        assert!(!good.unwrap());
        assert_eq!(lines, ["said"]);
    }
}
