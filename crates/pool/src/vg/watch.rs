//! Upkeep that looks only where something was written since it looked last.

use std::sync::{Mutex, MutexGuard, PoisonError};

use stowage_model::volumes::Finding;

/// What was seen at the last look: the write counters, and what was found to be wrong.
pub(crate) struct Watch<W>(Mutex<Option<(W, Vec<Finding>)>>);

impl<W> Default for Watch<W> {
    fn default() -> Self {
        Self(Mutex::new(None))
    }
}

impl<W: PartialEq> Watch<W> {
    fn seen(&self) -> MutexGuard<'_, Option<(W, Vec<Finding>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was found last, when nothing was written since.
    pub(crate) fn unchanged(&self, written: &W) -> Option<Vec<Finding>> {
        match &*self.seen() {
            Some((then, findings)) if then == written => Some(findings.clone()),
            _ => None,
        }
    }

    /// `written` must have been read before the look that led to `findings`: what is written
    /// meanwhile then leads to another look.
    pub(crate) fn note(&self, written: W, findings: Vec<Finding>) {
        *self.seen() = Some((written, findings));
    }
}
