//! What the pools were not able to tell: pools that could not be read, and volumes whose records
//! could not. Until they are, an id that the index lacks is not known to be free: its volume may
//! be there, mounted and full of data.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use stowage_host::{blocking, mount};
use stowage_model::error::Context;
use stowage_model::{Error, Id, PoolName, Result};

use crate::local::Inner;

/// Pools and records that could not be read.
#[derive(Default)]
pub(crate) struct Unread(RwLock<Gaps>);

#[derive(Default)]
struct Gaps {
    /// Why each of these pools could not be read.
    pools: BTreeMap<PoolName, String>,
    /// What each of these ids is called in its pool, and what is wrong with its record.
    records: BTreeMap<Id, (PoolName, String)>,
}

impl Gaps {
    /// The first pool that could not be read, as an error.
    fn pool(&self) -> Result<()> {
        match self.pools.iter().next() {
            None => Ok(()),
            Some((pool, why)) => Err(Error::precondition(format!(
                "the pool {pool} could not be read ({why}), so what it holds is not known; bring \
                 it back and restart the daemon, or take it out of the configuration"
            ))),
        }
    }
}

impl Unread {
    /// This pool could not be read.
    pub(crate) fn pool(&self, pool: &PoolName, why: String) {
        self.write().pools.insert(pool.clone(), why);
    }

    /// There is something of this id in this pool that could not be read.
    pub(crate) fn record(&self, id: &Id, pool: &PoolName, what: String) {
        let mut gaps = self.write();
        gaps.records.insert(id.clone(), (pool.clone(), what));
    }

    /// The pools that could not be read.
    pub(crate) fn pools(&self) -> Vec<PoolName> {
        self.read().pools.keys().cloned().collect()
    }

    /// Whether an id that the index lacks is known to be nobody's.
    ///
    /// # Errors
    /// [`stowage_model::Kind::Precondition`] naming the pool it may be in, and the way out.
    pub(crate) fn rule_out(&self, id: &Id) -> Result<()> {
        let gaps = self.read();
        match gaps.records.get(id) {
            Some((pool, what)) => Err(Error::precondition(format!(
                "{id} is in pool {pool} and its record cannot be read ({what}); run `stowage \
                 doctor`"
            ))),
            None => gaps.pool(),
        }
    }

    /// As [`Unread::rule_out`], for the members of a group, whose ids its own does not tell.
    ///
    /// # Errors
    /// As [`Unread::rule_out`].
    pub(crate) fn rule_out_members(&self) -> Result<()> {
        let gaps = self.read();
        gaps.pool()?;
        let snapshot = |id: &&Id| id.role() == stowage_model::id::Role::Snapshot;
        match gaps.records.keys().find(snapshot) {
            None => Ok(()),
            Some(id) => Err(Error::precondition(format!(
                "the record of {id}, which may be of this group, cannot be read; run `stowage \
                 doctor`"
            ))),
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Gaps> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Gaps> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// The end of a use of a volume that the index lacks: nothing is to be done, unless it may be
    /// there, and in use at this path.
    ///
    /// # Errors
    /// As [`Unread::rule_out`].
    pub(crate) async fn end_unknown_use(&self, id: &Id, path: &Path) -> Result<()> {
        let noted = self.attachments.get(id);
        let staged = noted.staging.is_some_and(|s| s.path == path);
        let owned = path.to_owned();
        let mounted = blocking(move || mount::at(&owned))
            .await
            .or_internal(|| "failed to read the mount table".to_owned())?;
        if staged || noted.targets.contains_key(path) || mounted.is_some() {
            self.unread.rule_out(id)?;
        }
        Ok(())
    }
}
