//! What an LV is to us, told by its name, its tags and its kind.

use stowage_model::{Id, Record};

use super::report::Lv;
use super::{names, tags};

/// What an LV is.
#[derive(Debug)]
pub(crate) enum Sort {
    /// A volume or snapshot, with its record.
    Ours(Box<Record>),
    /// Removed, half-made, or the store of a snapshot that is none (any more).
    Leftover,
    /// Named like ours, but its record is missing or damaged.
    Unreadable(String),
    /// Anything else.
    Foreign,
}

/// Tell what an LV is. `thick` says that a snapshot must be copy-on-write: one that is not was
/// cut off while it was made or removed.
pub(crate) fn sort(lv: &Lv, thick: bool) -> Sort {
    if !lv.name.starts_with(names::PREFIX) {
        return Sort::Foreign;
    }
    if !tags::any_ours(&lv.tags) {
        return Sort::Unreadable("it has no tag of ours".to_owned());
    }
    if names::is_condemned(&lv.name) {
        return Sort::Leftover;
    }
    let Some(id) = names::id(&lv.name) else {
        return Sort::Unreadable("no id has this name".to_owned());
    };
    if lv.tags.iter().any(|tag| tag == tags::HALF) {
        return Sort::Leftover;
    }
    match tags::record(&lv.tags) {
        Err(error) => Sort::Unreadable(error.chain()),
        Ok(record) if record.id != id => {
            Sort::Unreadable(format!("its record is of {}", record.id))
        }
        Ok(record) if thick && record.is_snapshot() && !lv.is_cow() => Sort::Leftover,
        Ok(record) => Sort::Ours(Box::new(record)),
    }
}

/// The readers of a snapshot's LV, as far as their tags can be read.
pub(crate) fn readers(lv: &Lv) -> Vec<Id> {
    tags::readers(&lv.tags)
        .into_iter()
        .filter_map(|(id, _)| id.parse().ok())
        .collect()
}
