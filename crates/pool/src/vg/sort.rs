//! What an LV is to us, told by its name, its tags and its kind.

use std::collections::BTreeSet;

use stowage_model::{Error, Id, Record};

use super::report::Lv;
use super::{names, tags};
use crate::Defect;
use crate::contract;

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
        // Whatever it is to the version that wrote it.
        Ok(record) if record.beyond.is_some() => Sort::Ours(Box::new(record)),
        Ok(record) if thick && record.is_snapshot() && !lv.is_cow() => Sort::Leftover,
        Ok(record) => Sort::Ours(Box::new(record)),
    }
}

/// The error that something else has the name of an LV to be made.
pub(crate) fn in_the_way(path: &str, sort: &Sort) -> Error {
    Error::exists(match sort {
        Sort::Unreadable(why) => format!(
            "LV {path} is in the way: {why}; look at `lvs -o+lv_tags`, and remove or rename it"
        ),
        Sort::Ours(found) if found.beyond.is_some() => format!(
            "LV {path} is in the way: {}",
            found.beyond.as_deref().unwrap_or_default()
        ),
        Sort::Ours(found) => format!(
            "LV {path} is in the way: it is another volume of this name, made {}, which was not \
             readable when the group was read; restart the daemon",
            found.created
        ),
        Sort::Leftover | Sort::Foreign => {
            format!("LV {path} is in the way; remove or rename it")
        }
    })
}

/// Whether an LV may be taken away on behalf of this record: it is that very volume, or what a
/// step of its making or removal left under its name.
pub(crate) fn may_go(lv: &Lv, thick: bool, meant: &Record) -> Result<(), String> {
    match sort(lv, thick) {
        Sort::Ours(found) if contract::may_go(&found, meant) => Ok(()),
        Sort::Leftover => Ok(()),
        Sort::Ours(found) if found.beyond.is_some() => {
            Err(found.beyond.clone().unwrap_or_default())
        }
        Sort::Ours(found) => Err(format!(
            "it is another volume of this name, made {}",
            found.created
        )),
        Sort::Unreadable(why) => Err(why),
        Sort::Foreign => Err("it was not made by us".to_owned()),
    }
}

/// The LVs among these defects that are astray.
pub(crate) fn names_of(defects: &[Defect]) -> BTreeSet<String> {
    let astray = |defect: &Defect| match defect {
        Defect::Astray { lv, .. } => Some(lv.clone()),
        _ => None,
    };
    defects.iter().filter_map(astray).collect()
}

/// The readers of a snapshot's LV, as far as their tags can be read.
pub(crate) fn readers(lv: &Lv) -> Vec<Id> {
    tags::readers(&lv.tags)
        .into_iter()
        .filter_map(|(id, _)| id.parse().ok())
        .collect()
}
