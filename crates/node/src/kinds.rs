//! From the definition of a pool to the open pool: the one place that knows which kinds there are.

use std::path::PathBuf;
use std::sync::Arc;

use stowage_host::Runner;
use stowage_model::pool::{PoolConfig, PoolPlace};
use stowage_model::{Error, Result};
use stowage_pool::Pool;
use stowage_pool::file::{self, FilePool};
use stowage_pool::lvm::{self, LvmPool};
use stowage_pool::thin::{self, ThinPool};

/// A definition in the words of its kind.
enum Options {
    Lvm(lvm::Options),
    Thin(thin::Options),
    File(file::Options),
}

fn options(config: &PoolConfig, may_initialise: bool) -> Options {
    let (name, reserve) = (config.name.clone(), config.reserve);
    match &config.place {
        PoolPlace::Lvm { vg, wipe } => Options::Lvm(lvm::Options {
            name,
            vg: vg.to_string(),
            wipe: *wipe,
            reserve,
        }),
        PoolPlace::Thin {
            vg,
            thin_pool,
            overprovision,
        } => Options::Thin(thin::Options {
            name,
            vg: vg.to_string(),
            thin_pool: thin_pool.to_string(),
            overprovision: overprovision.ratio(),
            data_limit: thin::Options::DATA_LIMIT,
            metadata_limit: thin::Options::METADATA_LIMIT,
            reserve,
        }),
        PoolPlace::File {
            path,
            overprovision,
        } => Options::File(file::Options {
            name,
            path: path.clone(),
            overprovision: overprovision.ratio(),
            reserve,
            may_initialise,
        }),
    }
}

/// Make what a pool stands on: nothing for a directory, which opening makes.
///
/// # Errors
/// [`stowage_model::Kind::Invalid`] for disks of a file pool, else as [`lvm::make`] and [`thin::make`].
pub(crate) async fn make(
    config: &PoolConfig,
    runner: &Arc<dyn Runner>,
    disks: &[PathBuf],
    force: bool,
) -> Result<()> {
    let runner = Arc::clone(runner);
    match options(config, true) {
        Options::File(_) if disks.is_empty() => Ok(()),
        Options::File(_) => Err(Error::invalid(
            "a file pool is a directory; make a file system on the disk and give its path",
        )),
        // Without disks the group exists already and is used as it is.
        Options::Lvm(_) if disks.is_empty() => Ok(()),
        Options::Lvm(options) => lvm::make(&options, disks, force, runner).await,
        Options::Thin(options) => thin::make(&options, disks, None, force, runner).await,
    }
}

/// The pool, not looked at yet. The UUID of its volume group is kept in the file `group`;
/// `may_initialise` says that it was never opened here.
///
/// # Errors
/// [`stowage_model::Kind::Invalid`] for a definition that its kind refuses.
pub(crate) fn open(
    config: &PoolConfig,
    runner: &Arc<dyn Runner>,
    group: PathBuf,
    may_initialise: bool,
) -> Result<Arc<dyn Pool>> {
    let (group, runner) = (Some(group), Arc::clone(runner));
    Ok(match options(config, may_initialise) {
        Options::File(options) => Arc::new(FilePool::new(options)?),
        Options::Lvm(options) => Arc::new(LvmPool::new(options, group, runner)?),
        Options::Thin(options) => Arc::new(ThinPool::new(options, group, runner)?),
    })
}
