//! Questions about one volume, and the errors that answer them: whether it is there, whole, and free to
//! be copied.

use std::path::{Path, PathBuf};
use std::time::Duration;

use stowage_model::record::Content;
use stowage_model::volumes::{Snapshot, Volume};
use stowage_model::{Bytes, Error, Id, Record, Result};
use tokio::time::Instant;

use crate::state::Node;
use crate::state::entry::Entry;
use crate::state::last_known::Known;

/// For how long after the start a caller waits for pools that are being read. Below the 10 s that
/// CSI sidecars give a call by default.
const FIRST_READING: Duration = Duration::from_secs(6);

/// How often a caller that waits looks.
const LOOK: Duration = Duration::from_millis(100);

/// Right after the start: wait for this volume or snapshot to be read, if it may be there.
pub(crate) async fn known(node: &Node, id: &Id) {
    first_reading(node, || node.index().get(id).is_some()).await;
}

/// Right after the start pools are still being read: wait for that a little, unless what is
/// asked for is known.
pub(crate) async fn first_reading(node: &Node, is_known: impl Fn() -> bool) {
    let until = node.started() + FIRST_READING;
    while !is_known() && node.unread().is_coming() {
        // A change between the question and the wait is seen at the next look.
        let change = tokio::time::timeout(LOOK, node.unread().change());
        if Instant::now() >= until {
            return;
        }
        let _ = change.await;
    }
}

pub(crate) fn need_volume(node: &Node, id: &Id) -> Result<Entry> {
    let gone = || format!("there is no volume {id}");
    match node.index().get(id) {
        Some(entry) if entry.record.is_snapshot() => Err(Error::not_found(gone())),
        Some(entry) => Ok(entry),
        None => Err(node.unread().absent(id, gone())),
    }
}

/// As [`need_volume`], for who does something with it.
///
/// # Errors
/// As [`Entry::understood`].
pub(crate) fn usable_volume(node: &Node, id: &Id) -> Result<Entry> {
    let entry = need_volume(node, id)?;
    entry.understood()?;
    Ok(entry)
}

pub(crate) fn shown(node: &Node, entry: Entry) -> Volume {
    let used_at = shown_uses(node, &entry.record.id);
    Volume {
        record: entry.record,
        pool: entry.pool.name().clone(),
        kind: entry.pool.kind(),
        vg: entry.pool.vg().map(str::to_owned),
        size: entry.size,
        used_at,
        away: false,
    }
}

/// A volume or snapshot that the index lacks as it was last known, while it may be there and cannot be read.
pub(crate) fn away(node: &Node, id: &Id) -> Option<Known> {
    let known = node.last_known().get(id);
    known.filter(|known| node.index().get(id).is_none() && is_away(node, known))
}

/// All that [`away`] tells of, in the order of their ids.
pub(crate) fn all_away(node: &Node, keep: impl Fn(&Record) -> bool) -> Vec<Known> {
    let known = node.last_known().list(|known| keep(&known.record));
    let mut away = known;
    away.retain(|known| is_away(node, known) && node.index().get(&known.record.id).is_none());
    away
}

fn is_away(node: &Node, known: &Known) -> bool {
    node.unread().may_hold(&known.pool, &known.record.id)
}

/// A volume that is away, as doors see it.
pub(crate) fn shown_away(node: &Node, known: Known) -> Volume {
    Volume {
        used_at: shown_uses(node, &known.record.id),
        record: known.record,
        pool: known.pool,
        kind: known.kind,
        vg: known.vg,
        size: known.size,
        away: true,
    }
}

/// A snapshot that is away, as doors see it.
pub(crate) fn snapshot_away(known: Known) -> Snapshot {
    Snapshot {
        size: least_of(&known.record, known.size),
        record: known.record,
        pool: known.pool,
        lost: false,
        away: true,
    }
}

fn shown_uses(node: &Node, id: &Id) -> Vec<PathBuf> {
    let attachment = node.attachments().get(id);
    // The staging directory is of interest only while no consumer has the volume.
    let targets: Vec<PathBuf> = attachment.targets.keys().cloned().collect();
    match targets.is_empty() {
        true => attachment.paths().map(Path::to_owned).collect(),
        false => targets,
    }
}

/// The snapshot as doors see it.
pub(crate) fn snapshot_of(node: &Node, entry: &Entry) -> Snapshot {
    Snapshot {
        record: entry.record.clone(),
        pool: entry.pool.name().clone(),
        size: restore_size(entry),
        lost: node.notices().is_lost(entry),
        away: false,
    }
}

/// The size a volume restored from this needs at least. open-local reports the snapshot's own
/// store for snapshots that are only read in place, and its examples claim just that much.
pub(crate) fn restore_size(entry: &Entry) -> Bytes {
    least_of(&entry.record, entry.size)
}

fn least_of(record: &Record, size: Bytes) -> Bytes {
    match record.growth {
        Some(growth) if record.is_snapshot() && record.read_only => growth.initial.min(size),
        _ => size,
    }
}

/// Whether this is a snapshot that somebody asked for. Passing ones, that only feed a copy, are
/// nobody's business.
pub(crate) fn lasts(record: &Record) -> bool {
    record.is_snapshot() && !record.ephemeral
}

/// Whether a volume has all of its bytes.
///
/// # Errors
/// [`stowage_model::Kind::Pending`] while it is being filled, and
/// [`stowage_model::Kind::Precondition`] when nobody does that any more.
pub(crate) fn filled(node: &Node, entry: &Entry) -> Result<()> {
    if entry.record.content != Content::Filling {
        return Ok(());
    }
    let title = entry.title();
    Err(match filling(node, entry) {
        true => Error::pending(format!("{title} is still being filled")),
        false => Error::precondition(format!(
            "{title} was being filled when the copy was cut off; create it again with the same \
             request to start over, or delete it"
        )),
    })
}

/// Whether a volume is being filled right now.
pub(crate) fn filling(node: &Node, entry: &Entry) -> bool {
    node.jobs().fills(&entry.record.id)
}

/// Whether a volume's bytes may be taken for a copy or snapshot.
///
/// # Errors
/// As [`filled`]; [`stowage_model::Kind::Precondition`] for what mkfs left half: that is
/// neither blank nor a file system, and a copy of it could never be mounted.
pub(crate) fn copyable(node: &Node, entry: &Entry) -> Result<()> {
    entry.understood()?;
    filled(node, entry)?;
    if entry.half_formatted {
        return Err(Error::precondition(format!(
            "making the file system of {} was cut off; mount it once first",
            entry.title()
        )));
    }
    Ok(())
}

/// Refuse while something is being copied from a snapshot.
pub(crate) fn not_copied_from(node: &Node, entry: &Entry) -> Result<()> {
    match node.jobs().reads_from(&entry.record.id) {
        false => Ok(()),
        true => Err(Error::pending(format!(
            "{} is being copied from",
            entry.title()
        ))),
    }
}
