//! What a start found of the daemon before it. An operation notes what it is about to do, and what it
//! could not undo, so only what was noted before this start can be about nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use stowage_model::Id;

use super::attachments::OWN_STAGING;
use super::journal::{Intent, Journal};

/// What was noted, and staged at directories of ours, before this start.
pub(crate) struct Before {
    intents: BTreeMap<Id, Intent>,
    stagings: Vec<PathBuf>,
    tidied: AtomicBool,
}

impl Before {
    /// What is there now.
    pub(crate) fn seen(journal: &Journal, state_dir: &Path) -> Self {
        let intents = journal.load().map(|(intents, _)| intents);
        let stagings = std::fs::read_dir(state_dir.join(OWN_STAGING));
        let stagings = stagings.into_iter().flatten().flatten();
        Self {
            intents: intents.unwrap_or_default(),
            stagings: stagings.map(|entry| entry.path()).collect(),
            tidied: AtomicBool::new(false),
        }
    }

    /// The journal as it was.
    pub(crate) fn intents(&self) -> &BTreeMap<Id, Intent> {
        &self.intents
    }

    /// The staging directories of ours.
    pub(crate) fn stagings(&self) -> &[PathBuf] {
        &self.stagings
    }

    /// Begin to tidy up what is about nothing; false after the first time.
    pub(crate) fn begin_tidying(&self) -> bool {
        !self.tidied.swap(true, Ordering::AcqRel)
    }
}
