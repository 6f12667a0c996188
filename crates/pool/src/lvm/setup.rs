//! Making the pool.

use std::path::PathBuf;
use std::sync::Arc;

use stowage_host::Runner;
use stowage_model::pool::Wipe;
use stowage_model::{PoolName, Reserve, Result};

use crate::vg::{self, Vg};

/// What a pool of thick volumes is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Its name.
    pub name: PoolName,
    /// Its volume group.
    pub vg: String,
    /// What happens to the blocks of a removed volume.
    pub wipe: Wipe,
    /// What is promised to nobody; stores of snapshots that are there grow into it.
    pub reserve: Reserve,
}

/// Make the volume group of a pool out of disks; doing it twice is success.
///
/// # Errors
/// [`stowage_model::Kind::Exists`] for a group of that name that is not this pool's,
/// [`stowage_model::Kind::Precondition`] naming what was found on a disk that is not blank
/// (unless `force`), or who uses it.
pub async fn make(
    options: &Options,
    disks: &[PathBuf],
    force: bool,
    runner: Arc<dyn Runner>,
) -> Result<()> {
    let vg = Vg::new(options.name.clone(), options.vg.clone(), runner)?;
    vg::setup::make_vg(&vg, disks, force).await
}
