//! What is on a device, so that nothing is formatted that might be somebody's data.

use std::fmt;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use crate::blocking::blocking;
use crate::command::{Cmd, CmdError, Runner};
use crate::device::size_of;
use crate::error::{Context, FsError};

/// Looked at, at either end, when no signature is known; all signatures of libblkid lie there.
const EDGE: u64 = 1 << 20;

/// A hung disk keeps blkid in the kernel longer than any time-out; this is for slow ones.
const TIMEOUT: Duration = Duration::from_secs(60);

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// No known signature, and the first and last MiB read as zeros.
    Blank,
    Filesystem {
        fstype: String,
        label: Option<String>,
        uuid: Option<String>,
    },
    /// A partition table: `gpt`, `dos`, ...
    PartitionTable { kind: String },
    /// A part of something else: `LVM2_member`, `crypto_LUKS`, `linux_raid_member`, `swap`, ...
    Other { kind: String },
    /// Several signatures that contradict each other.
    Ambiguous,
    /// No known signature, but not zeros either.
    Unknown {
        /// Bytes from the start of the device to the first that is not zero.
        offset: u64,
    },
}

impl Content {
    /// For people, to complete "the device holds ...".
    pub fn describe(&self) -> String {
        match self {
            Self::Blank => "nothing".to_owned(),
            Self::Filesystem {
                fstype,
                label: Some(label),
                ..
            } => {
                format!("an {fstype} file system labelled {label:?}")
            }
            Self::Filesystem {
                fstype,
                uuid: Some(uuid),
                ..
            } => {
                format!("an {fstype} file system with UUID {uuid}")
            }
            Self::Filesystem { fstype, .. } => format!("an {fstype} file system"),
            Self::PartitionTable { kind } => format!("a {kind} partition table"),
            Self::Other { kind } => format!("{kind} data"),
            Self::Ambiguous => "several contradicting signatures".to_owned(),
            Self::Unknown { offset } => format!("unrecognised data at offset {offset}"),
        }
    }
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.describe())
    }
}

/// Why a device could not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    #[error(transparent)]
    Command(#[from] CmdError),
    #[error(transparent)]
    Read(#[from] FsError),
}

/// Tells what a block device (or file) holds, reading the device itself and no cache.
///
/// # Errors
/// If blkid or a read fails; then nothing is known, and the device must not be taken for blank.
pub async fn probe(runner: &dyn Runner, device: &Path) -> Result<Content, ProbeError> {
    let cmd = Cmd::new("blkid")
        .args(["-p", "-o", "export"])
        .arg(device)
        .timeout(TIMEOUT);
    match runner.run(cmd).await {
        Ok(output) => match recognise(&output.stdout) {
            Some(content) => Ok(content),
            // Only PART_ENTRY_ lines: the device is a partition, they are about its place.
            None => Ok(edges(device).await?),
        },
        // blkid(8), exit status: 2 is "nothing found", but also "could not be read", so all rests
        // on our own reading; 8 is "ambivalent".
        Err(error) => match error.code() {
            Some(2) => Ok(edges(device).await?),
            Some(8) => Ok(Content::Ambiguous),
            _ => Err(error.into()),
        },
    }
}

fn recognise(export: &str) -> Option<Content> {
    let value = |name: &str| {
        let line = export
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        line.map(unescape)
    };
    match (value("TYPE"), value("USAGE").as_deref(), value("PTTYPE")) {
        (Some(fstype), Some("filesystem"), _) => Some(Content::Filesystem {
            fstype,
            label: value("LABEL"),
            uuid: value("UUID"),
        }),
        (Some(kind), _, _) => Some(Content::Other { kind }),
        (None, _, Some(kind)) => Some(Content::PartitionTable { kind }),
        (None, _, None) => None,
    }
}

/// The export format puts a backslash before what a shell would take apart.
fn unescape(value: &str) -> String {
    let mut plain = String::with_capacity(value.len());
    let mut letters = value.chars();
    while let Some(letter) = letters.next() {
        plain.push(if letter == '\\' {
            letters.next().unwrap_or(letter)
        } else {
            letter
        });
    }
    plain
}

async fn edges(device: &Path) -> Result<Content, FsError> {
    let device = device.to_owned();
    blocking(move || {
        let file = File::open(&device).context("open", &device)?;
        let size = size_of(&file, &device)?;
        for (from, to) in ends(size) {
            if let Some(offset) = first_nonzero(&file, from, to).context("read", &device)? {
                return Ok(Content::Unknown { offset });
            }
        }
        Ok(Content::Blank)
    })
    .await
}

/// Both ends of a device of this size, as far as they are looked at.
pub(crate) fn ends(size: u64) -> [(u64, u64); 2] {
    // Aligned, so that a device with large blocks is read without detours.
    let last = (size.saturating_sub(EDGE) / EDGE * EDGE).max(EDGE.min(size));
    [(0, EDGE.min(size)), (last, size)]
}

pub(crate) fn first_nonzero(file: &File, from: u64, to: u64) -> std::io::Result<Option<u64>> {
    let mut buffer = vec![0; 64 << 10];
    let mut at = from;
    while at < to {
        let part = usize::try_from(to - at)
            .unwrap_or(buffer.len())
            .min(buffer.len());
        file.read_exact_at(&mut buffer[..part], at)?;
        if let Some(found) = (at..).zip(&buffer[..part]).find(|(_, byte)| **byte != 0) {
            return Ok(Some(found.0));
        }
        at += part as u64;
    }
    Ok(None)
}

#[cfg(test)]
mod tests;
