//! Making volumes.

use std::sync::Arc;

use jiff::Timestamp;
use stowage_host::failpoint;
use stowage_model::record::Content;
use stowage_model::request::Source;
use stowage_model::volume_request::Model;
use stowage_model::volumes::Volume;
use stowage_model::{Bytes, Error, Id, Kind, Record, Result, VolumeRequest, VolumeSpec};
use stowage_pool::Pool;

use crate::backing::content::is_unwritten;
use crate::config::ephemeral::EphemeralRules;
use crate::lookup::{copyable, restore_size, shown};
use crate::records::{note, unnote};
use crate::snapshot::quiesce::{hold_writers, let_writers_go};
use crate::snapshot::reader::showable;
use crate::state::Node;
use crate::state::entry::Entry;
use crate::state::journal::Intent;
use crate::undo::{creation_failed, end_failed_creation, undo_creation};
use crate::volume::choose::{allowed, choose};
use crate::volume::inline::{for_inline, take_share};
use crate::volume::populate::fill;

/// Make the volume `id`, or find the one this same request made.
pub(crate) async fn create_volume(
    node: &Arc<Node>,
    id: Id,
    want: &VolumeRequest,
) -> Result<Volume> {
    let _held = node.ops().begin(&id, "creation").await?;
    let want = settled(node, &id, want)?;
    create_locked(node, id, &want, None).await
}

/// The request with what it leaves open settled. The caller holds the volume: what its source is, or what
/// the volume is that an earlier call made, does not change meanwhile.
///
/// # Errors
/// As [`VolumeRequest::settled`].
pub(crate) fn settled(node: &Node, id: &Id, want: &VolumeRequest) -> Result<VolumeSpec> {
    if let Some(entry) = node.index().get(id) {
        entry.understood()?;
    }
    let Some(from) = &want.source else {
        return want.settled(None);
    };
    let of = |size: Bytes, record: &Record| Model {
        size,
        fs: record.content.file_system().or(record.usage.mount),
        usage: record.usage,
    };
    // The source may have grown or gone since the volume was made.
    let model = match node.index().get(id) {
        Some(made) if made.record.source.as_ref() == Some(from.id()) => {
            // Of a size left open 0.1.0 noted none.
            let asked = Some(made.record.asked).filter(|asked| asked.0 > 0);
            of(asked.unwrap_or(made.size), &made.record)
        }
        // It is another's, whatever is left open.
        Some(_) => return want.settled(None),
        None => {
            let source = source(node, from)?;
            of(restore_size(&source), &source.record)
        }
    };
    want.settled(Some(&model))
}

/// Make the volume `id`, or find the one this same request made; `inline` for one that lives and
/// dies with its consumer, whose author these rules are for. The caller holds the volume.
pub(crate) async fn create_locked(
    node: &Arc<Node>,
    id: Id,
    want: &VolumeSpec,
    inline: Option<&EphemeralRules>,
) -> Result<Volume> {
    if let Some(entry) = node.index().get(&id) {
        same(&entry, want)?;
        if entry.record.content == Content::Filling {
            fill_or_undo(node, &entry).await?;
        }
        return Ok(shown(node, node.index().need(&id)?));
    }
    node.unread().rule_out_record(&id)?;
    let allowed = allowed(node, &want.placement, want.layout).await;
    node.unread().among_allowed(&want.placement, &allowed)?;
    end_failed_creation(node, &id).await?;
    let source = want.source.as_ref().map(|s| source(node, s)).transpose()?;
    if let Some(source) = &source
        && let Ok(snapshots) = source.pool.snapshots()
    {
        snapshots.intact(&source.record).await?;
    }
    let asked = asked_size(want, source.as_ref())?;
    let allowed = match inline {
        Some(rules) => for_inline(node, rules, allowed, asked).await?,
        None => allowed,
    };
    let pool = choose(node, allowed, want, asked, source.as_ref()).await?;
    let mut record = Record::for_volume(id, want, Timestamp::now());
    if let Some(rules) = inline {
        record.ephemeral = true;
        record.limits = rules.limited(want.limits)?;
    }
    if let Some(source) = &source {
        record.read_only |= source.record.is_snapshot() && source.record.read_only;
    }
    let size = pool.rounded(&record, asked).await?;
    if want.size.limit.is_some_and(|limit| size > limit) {
        return Err(Error::out_of_range(format!(
            "pool {} gives sizes in steps: {asked} becomes {size}, above the limit asked; \
             raise the limit or ask for less",
            pool.name()
        )));
    }
    let _share = match inline {
        Some(rules) => Some(take_share(node, rules, &pool, &record.id, size).await?),
        None => None,
    };
    match source {
        None => make_blank(node, pool, record, size).await,
        Some(source) => make_from(node, pool, record, size, &source).await,
    }
}

async fn make_blank(
    node: &Arc<Node>,
    pool: Arc<dyn Pool>,
    record: Record,
    size: Bytes,
) -> Result<Volume> {
    make_in(node, &pool, &record, size).await?;
    Ok(shown(node, node.index().need(&record.id)?))
}

/// Make the volume in its pool and enter it into the index.
async fn make_in(
    node: &Arc<Node>,
    pool: &Arc<dyn Pool>,
    record: &Record,
    size: Bytes,
) -> Result<()> {
    if pool.creation_needs_journal() {
        let intent = Intent::create(pool.name(), record);
        note(node, &record.id, intent).await?;
        failpoint::hit("node.create.noted");
    }
    let made = pool.create(record, size).await;
    failpoint::hit("node.create.made");
    let size = match made {
        Ok(size) => size,
        Err(e) => {
            creation_failed(node, pool, record, &e).await;
            return Err(e);
        }
    };
    unnote(node, &record.id).await?;
    node.index()
        .put(Entry::new(record.clone(), size, Arc::clone(pool)));
    Ok(())
}

async fn make_from(
    node: &Arc<Node>,
    pool: Arc<dyn Pool>,
    mut record: Record,
    size: Bytes,
    source: &Entry,
) -> Result<Volume> {
    suits(&record, source)?;
    let same_pool = pool.name() == source.pool.name();
    if same_pool && pool.shows_in_place(&record) {
        showable(node, &record, source).await?;
    }
    let clones = pool
        .clones()
        .filter(|c| same_pool && c.clones_instantly(&record));
    if let Some(clones) = clones {
        // Whoever works on the source, a first stage that formats it above all, has it for
        // itself; what it holds is known afterwards.
        let _held = node.ops().begin(&source.record.id, "cloning").await?;
        let before = source.size;
        let source = &node.index().need(&source.record.id)?;
        copyable(node, source)?;
        suits(&record, source)?;
        if source.size != before {
            return Err(Error::pending(format!(
                "{} has just grown; ask again",
                source.title()
            )));
        }
        record.content = source.record.content.copied();
        record.fs_bytes = source.record.fs_bytes;
        let held = hold_writers(node, std::slice::from_ref(source)).await?;
        let turn = held.turn(&pool);
        let made = clones.clone_in(turn, &source.record, &record, size).await;
        let thawed = let_writers_go(node, held).await;
        failpoint::hit("node.clone.made");
        // After a thaw that failed it is torn, perhaps; the next call of this name must not find
        // it.
        let made = match made.and_then(|made| thawed.map(|()| made)) {
            Ok(made) => made,
            Err(e) => {
                creation_failed(node, &pool, &record, &e).await;
                return Err(e);
            }
        };
        unnote(node, &record.id).await?;
        node.index().put(Entry::new(record.clone(), made, pool));
    } else if nothing_to_copy(node, source).await? {
        return make_blank(node, pool, record, size).await;
    } else {
        record.content = Content::Filling;
        make_in(node, &pool, &record, size).await?;
        failpoint::hit("node.fill.made");
        fill_or_undo(node, &node.index().need(&record.id)?).await?;
    }
    Ok(shown(node, node.index().need(&record.id)?))
}

/// Whether a copy of this is a new blank volume: nothing was ever handed out, and nothing is on it.
/// Its bytes are no one's then, but need not be zeros (a thick logical volume lies on what others
/// left), and with them the copy could never be seen to be blank, nor be formatted.
async fn nothing_to_copy(node: &Node, source: &Entry) -> Result<bool> {
    if source.record.content != Content::Blank {
        return Ok(false);
    }
    // A first stage under way is waited for.
    let _held = node.ops().begin(&source.record.id, "cloning").await?;
    let source = node.index().need(&source.record.id)?;
    copyable(node, &source)?;
    if source.record.content != Content::Blank {
        return Ok(false);
    }
    // What somebody wrote behind our back, or before a note of it was lost, is copied, and found by
    // whoever mounts the copy.
    is_unwritten(node, &source).await
}

/// Fill a volume; one that cannot be filled goes, so that the error is the whole outcome also
/// for callers who take it for final.
async fn fill_or_undo(node: &Arc<Node>, new: &Entry) -> Result<()> {
    let filled = fill(node, new).await;
    // Work that goes on by a retry, or at the next start, keeps what it has.
    if let Err(e) = &filled
        && !matches!(e.kind(), Kind::Pending | Kind::Unavailable)
        && !node.stopping().is_cancelled()
    {
        node.index().remove(&new.record.id);
        undo_creation(node, &new.pool, &new.record).await;
    }
    filled
}

fn source(node: &Node, source: &Source) -> Result<Entry> {
    let id = source.id();
    let entry = node.index().get(id).ok_or_else(|| {
        let gone = match source {
            Source::Snapshot(_) => format!("there is no snapshot {id} to restore from"),
            Source::Volume(_) => format!("there is no volume {id} to clone"),
        };
        node.unread().absent(id, gone)
    })?;
    let (wants_snapshot, role) = match source {
        Source::Snapshot(_) => (true, "a snapshot"),
        Source::Volume(_) => (false, "a volume"),
    };
    if entry.record.is_snapshot() != wants_snapshot {
        return Err(Error::invalid(format!("{} is not {role}", entry.title())));
    }
    copyable(node, &entry)?;
    Ok(entry)
}

/// A copy holds the file system of its source.
fn suits(record: &Record, source: &Entry) -> Result<()> {
    match (record.usage.mount, source.record.content.file_system()) {
        (Some(asked), Some(held)) if asked != held => Err(Error::invalid(format!(
            "{} holds {held}, so a volume made from it cannot be {asked}; ask for {held}",
            source.title()
        ))),
        _ => Ok(()),
    }
}

fn same(entry: &Entry, want: &VolumeSpec) -> Result<()> {
    let record = &entry.record;
    let what = if record.name != want.name {
        "a different name"
    } else if !record.fingerprint.is_of(want) {
        "different parameters, capabilities or source"
    } else if !want.size.contains(entry.size.max(record.asked)) && !want.size.contains(record.asked)
    {
        "a different size"
    } else {
        return Ok(());
    };
    Err(Error::exists(format!(
        "{} exists with {what}; delete it first or choose another name",
        entry.title()
    )))
}

fn asked_size(want: &VolumeSpec, source: Option<&Entry>) -> Result<Bytes> {
    // A copy's file system is made already.
    let made = source.is_some_and(|source| source.record.content.file_system().is_some());
    let least = match want.usage.mount {
        Some(fs) if !made => fs.smallest(),
        _ => Bytes::mib(1),
    };
    let mut size = want.size.required.max(least);
    if let Some(source) = source {
        let (asked, needed) = (want.size.required, restore_size(source));
        if asked < needed {
            return Err(Error::out_of_range(format!(
                "{asked} is smaller than {}, which needs {needed}",
                source.title()
            )));
        }
        // A volume that reads a snapshot in place is as large as the snapshot.
        if source.record.read_only {
            size = size.max(source.size);
        }
    }
    match want.size.limit {
        Some(limit) if limit < size => Err(Error::out_of_range(format!(
            "the limit {limit} is below {size}, the least this volume can be"
        ))),
        _ => Ok(size),
    }
}

#[cfg(test)]
mod tests;
