//! Asking the daemon.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Context, anyhow, bail};
use serde::de::DeserializeOwned;
use stowage_model::volumes::Job;

use super::protocol::{Answer, Request};
use crate::print;

/// Send a request and wait for its outcome, showing progress as it comes.
pub(crate) fn ask<T: DeserializeOwned>(
    socket: &Path,
    request: &Request,
    mut progress: impl FnMut(&[Job]),
) -> anyhow::Result<T> {
    let mut stream = UnixStream::connect(socket).with_context(|| {
        format!(
            "failed to reach the daemon at {}; is `stowage serve` running, and are you root?",
            socket.display()
        )
    })?;
    let mut text = serde_json::to_vec(request)?;
    text.push(b'\n');
    stream
        .write_all(&text)
        .context("failed to send the request")?;
    for line in BufReader::new(stream).lines() {
        let line = line.context("failed to read the daemon's answer")?;
        match serde_json::from_str(&line).context("the daemon's answer is malformed")? {
            Answer::Progress(jobs) => progress(&jobs),
            Answer::Warning(text) => print::warn(&text),
            Answer::Done(value) => {
                return serde_json::from_value(value).context("the daemon's answer is unexpected");
            }
            Answer::Failed { message, .. } => return Err(anyhow!(message)),
        }
    }
    bail!(
        "the daemon ended before it answered; look at its log, then try again: every command can \
           be repeated safely"
    )
}
