//! What an administrator decides: the daemon's directories, its pools, and what pod authors may ask for.

use std::path::PathBuf;

pub(crate) mod ephemeral;

use ephemeral::EphemeralRules;

/// What a node needs to know.
#[derive(Debug, Clone)]
pub struct Options {
    /// Directory for the journal, attachments and pool definitions.
    pub state_dir: PathBuf,
    /// Our own executable, which the thaw guard runs from.
    pub program: PathBuf,
    /// What the authors of pods may ask for inline volumes.
    pub ephemeral: EphemeralRules,
    /// Directory for the locks of pools, and of the commands at work in them. The same for all
    /// daemons of the machine, and outlives a daemon but not the machine's boot.
    pub lock_dir: PathBuf,
}
