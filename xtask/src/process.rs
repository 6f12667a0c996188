//! Running other programs from the workspace's root.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
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

/// Runs, hands each line of stdout and stderr to `on_line` as it comes, and returns whether the
/// command did well.
///
/// Both through one pipe: their order is the order a person would see.
pub(crate) fn stream(mut command: Command, mut on_line: impl FnMut(&str)) -> Result<bool> {
    let (reader, writer) = std::io::pipe().context("failed to make a pipe")?;
    let errors = writer.try_clone().context("failed to make a pipe")?;
    command.stdout(writer).stderr(errors);
    let mut child = command
        .spawn()
        .with_context(|| format!("failed to run {command:?}"))?;
    // The command holds writing ends of the pipe, which would otherwise never end.
    drop(command);
    read_lines(reader, &mut on_line).context("failed to read the command's output")?;
    let status = child.wait().context("failed to wait for the command")?;
    Ok(status.success())
}

fn read_lines(reader: impl Read, on_line: &mut impl FnMut(&str)) -> std::io::Result<()> {
    let mut reader = BufReader::new(reader);
    let mut bytes = Vec::new();
    while reader.read_until(b'\n', &mut bytes)? > 0 {
        on_line(String::from_utf8_lossy(&bytes).trim_end());
        bytes.clear();
    }
    Ok(())
}
