//! What the pools were not able to tell: pools that could not be read, pools that are not served
//! since their definitions cannot be used, and volumes whose records could not be read. Until they
//! are, an id that the index lacks is not known to be free: its volume may be there, mounted and
//! full of data.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use stowage_model::request::Placement;
use stowage_model::{Error, Id, PoolName, Result};
use stowage_pool::Pool;
use tokio::sync::Notify;
use tokio::time::Instant;

/// How long a pool that could not be read is left alone at first, doubled each time: reading one
/// of LVM starts a process.
const PAUSE: Duration = Duration::from_secs(3);

/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(48);

/// Pools and records that could not be read.
#[derive(Default)]
pub(crate) struct Unread(RwLock<Gaps>, Notify);

#[derive(Default)]
struct Gaps {
    pools: BTreeMap<PoolName, Away>,
    /// What each of these ids is called in its pool, and what is wrong with its record.
    records: BTreeMap<Id, (PoolName, String)>,
    undefined: Vec<Undefined>,
    /// Something that is in a pool could not be read, or not be ended.
    partly: bool,
}

/// Something that is not known.
pub(crate) enum Gap<'a> {
    /// What this pool holds.
    Pool(&'a str),
    /// What the record of this id says.
    Record(&'a Id),
}

/// A definition of a pool that cannot be used: its pool is not served, and may hold anything.
#[derive(Debug)]
pub(crate) struct Undefined {
    /// The pool, by the name of the file; none where it is not known which definitions there are.
    pub(crate) pool: Option<String>,
    pub(crate) why: Error,
}

impl Undefined {
    fn error(&self) -> Error {
        let pool = match &self.pool {
            Some(pool) => format!("the pool {pool} is"),
            None => "pools made on request are".to_owned(),
        };
        Error::unavailable(format!(
            "{pool} not served ({}), so what may be there is not known; mend or remove what is \
             named (it is read again within a minute)",
            self.why.chain()
        ))
    }

    /// Whether its pool may be meant by this placement, which these pools fit.
    fn may_be_meant(&self, placement: &Placement, there: &[Arc<dyn Pool>]) -> bool {
        match (&placement.pool, &self.pool) {
            (None, _) => true,
            (Some(meant), Some(pool)) => meant.as_str() == pool,
            (Some(meant), None) => there.iter().all(|pool| pool.name() != meant),
        }
    }
}

/// A pool that could not be read.
struct Away {
    why: String,
    pause: Duration,
    due: Instant,
    /// It is being read for the first time, or waited for: it may be there in a moment.
    coming: bool,
}

impl Gaps {
    /// The first of these pools that could not be read, as an error.
    fn pool(&self, is_meant: impl Fn(&PoolName) -> bool) -> Result<()> {
        match self.pools.iter().find(|(pool, _)| is_meant(pool)) {
            None => Ok(()),
            Some((pool, Away { why, .. })) => Err(Error::unavailable(format!(
                "the pool {pool} could not be read ({why}), so what it holds is not known; bring \
                 it back (it is read again within a minute), or take it out of the configuration \
                 and restart the daemon"
            ))),
        }
    }

    /// Whether every pool is served and was read.
    fn every_pool(&self) -> Result<()> {
        self.pool(|_| true)?;
        match self.undefined.first() {
            None => Ok(()),
            Some(undefined) => Err(undefined.error()),
        }
    }

    fn record(&self, id: &Id) -> Result<()> {
        match self.records.get(id) {
            None => Ok(()),
            Some((pool, what)) => Err(Error::unavailable(format!(
                "{id} is in pool {pool} and cannot be served ({what}); run `stowage doctor`"
            ))),
        }
    }
}

impl Unread {
    /// This pool could not be read, again perhaps.
    pub(crate) fn pool(&self, pool: &PoolName, why: String) {
        let mut gaps = self.write();
        let pause = match gaps.pools.get(pool) {
            None => PAUSE,
            Some(away) => (away.pause * 2).min(LONGEST_PAUSE),
        };
        let due = Instant::now() + pause;
        let coming = false;
        gaps.pools.insert(
            pool.clone(),
            Away {
                why,
                pause,
                due,
                coming,
            },
        );
        drop(gaps);
        self.1.notify_waiters();
    }

    /// This pool is being read, or is when what it waits for has ended.
    pub(crate) fn coming(&self, pool: &PoolName, why: String) {
        let away = Away {
            why,
            pause: PAUSE / 2,
            due: Instant::now(),
            coming: true,
        };
        self.write().pools.insert(pool.clone(), away);
    }

    /// Whether a pool may be read in a moment.
    pub(crate) fn is_coming(&self) -> bool {
        self.read().pools.values().any(|away| away.coming)
    }

    /// Whether one of these may be.
    pub(crate) fn are_coming(&self, pools: &[Arc<dyn Pool>]) -> bool {
        let gaps = self.read();
        let coming = |pool: &Arc<dyn Pool>| gaps.pools.get(pool.name()).is_some_and(|a| a.coming);
        pools.iter().any(coming)
    }

    /// Wait until a pool was read, or could not be.
    pub(crate) async fn change(&self) {
        self.1.notified().await;
    }

    /// Why this pool could not be read, if it could not.
    pub(crate) fn why(&self, pool: &PoolName) -> Option<String> {
        let gaps = self.read();
        gaps.pools.get(pool).map(|away| away.why.clone())
    }

    /// Whether a record could not be read.
    pub(crate) fn lacks_records(&self) -> bool {
        !self.read().records.is_empty()
    }

    /// Something in a pool that was read could not be read, or what was cut off in it not be ended.
    pub(crate) fn partly(&self) {
        self.write().partly = true;
    }

    /// Whether that is so of any pool.
    pub(crate) fn is_partly_read(&self) -> bool {
        self.read().partly
    }

    /// The definitions that cannot be used, all of them. Pools whose definitions can be by now are
    /// told by [`Unread::coming`] before.
    pub(crate) fn undefined(&self, all: Vec<Undefined>) {
        self.write().undefined = all;
    }

    /// Whether a pool is not served since its definition cannot be used.
    pub(crate) fn lacks_definitions(&self) -> bool {
        !self.read().undefined.is_empty()
    }

    /// Whether the definition of this pool is known not to be there, unusable.
    ///
    /// # Errors
    /// As [`Unread::rule_out`].
    pub(crate) fn rule_out_definition(&self, pool: &PoolName) -> Result<()> {
        let gaps = self.read();
        let named = |u: &&Undefined| u.pool.as_deref().is_none_or(|name| name == pool.as_str());
        match gaps.undefined.iter().find(named) {
            None => Ok(()),
            Some(undefined) => Err(undefined.error()),
        }
    }

    /// Whether this pool could not be read.
    pub(crate) fn is_unread(&self, pool: &PoolName) -> bool {
        self.read().pools.contains_key(pool)
    }

    /// Whether this pool could not be read and is to be tried again now.
    pub(crate) fn is_due(&self, pool: &PoolName) -> bool {
        let away = |away: &Away| away.due <= Instant::now();
        self.read().pools.get(pool).is_some_and(away)
    }

    /// All that this pool holds is in the index now, or told by [`Unread::record`].
    pub(crate) fn is_read(&self, pool: &PoolName) {
        self.write().pools.remove(pool);
        self.1.notify_waiters();
    }

    /// There is something of this id in this pool that could not be read.
    pub(crate) fn record(&self, id: &Id, pool: &PoolName, what: String) {
        let mut gaps = self.write();
        gaps.records.insert(id.clone(), (pool.clone(), what));
    }

    /// The pools that could not be read, and why.
    pub(crate) fn pools(&self) -> Vec<(PoolName, String)> {
        let gaps = self.read();
        let pools = gaps.pools.iter();
        pools
            .map(|(p, away)| (p.clone(), away.why.clone()))
            .collect()
    }

    /// Whether an id that the index lacks is known to be nobody's.
    ///
    /// # Errors
    /// [`stowage_model::Kind::Unavailable`] naming the pool it may be in, and the way out.
    pub(crate) fn rule_out(&self, id: &Id) -> Result<()> {
        let gaps = self.read();
        gaps.record(id)?;
        gaps.every_pool()
    }

    /// Why the index lacks an id: it is nobody's, as `gone` says, or that is not known.
    pub(crate) fn absent(&self, id: &Id, gone: impl Into<String>) -> Error {
        match self.rule_out(id) {
            Ok(()) => Error::not_found(gone),
            Err(not_known) => not_known,
        }
    }

    /// What is not known, each with the way out, but for what is `known` to have been there.
    pub(crate) fn gaps(&self, known: impl Fn(&Gap<'_>) -> bool) -> Vec<Error> {
        let gaps = self.read();
        let unknown = |gap: &Gap<'_>| !known(gap);
        let pools = gaps
            .pools
            .keys()
            .filter(|pool| unknown(&Gap::Pool(pool.as_str())));
        let pools = pools.map(|pool| gaps.pool(|p| p == pool));
        let records = gaps.records.keys().filter(|id| unknown(&Gap::Record(id)));
        let records = records.map(|id| gaps.record(id));
        let undefined = gaps.undefined.iter();
        let undefined = undefined.filter(|u| {
            u.pool
                .as_deref()
                .is_none_or(|pool| unknown(&Gap::Pool(pool)))
        });
        let told = pools.chain(records).filter_map(Result::err);
        told.chain(undefined.map(Undefined::error)).collect()
    }

    /// Whether something of this id may be in this pool, and cannot be read now.
    pub(crate) fn may_hold(&self, pool: &PoolName, id: &Id) -> bool {
        let gaps = self.read();
        let undefined = |u: &Undefined| u.pool.as_deref().is_none_or(|name| name == pool.as_str());
        gaps.pools.contains_key(pool)
            || gaps.records.contains_key(id)
            || gaps.undefined.iter().any(undefined)
    }

    /// Whether nothing of this id is known to be there and unreadable.
    ///
    /// # Errors
    /// As [`Unread::rule_out`].
    pub(crate) fn rule_out_record(&self, id: &Id) -> Result<()> {
        self.read().record(id)
    }

    /// Whether all of these pools could be read. A request that only they can serve finds there
    /// what it made before; the others do not concern it.
    ///
    /// # Errors
    /// As [`Unread::rule_out`].
    pub(crate) fn among(&self, pools: &[Arc<dyn Pool>]) -> Result<()> {
        self.read()
            .pool(|unread| pools.iter().any(|pool| pool.name() == unread))
    }

    /// Whether all pools that a placement allows could be read: `there`, and those that are not
    /// served.
    ///
    /// # Errors
    /// As [`Unread::rule_out`].
    pub(crate) fn among_allowed(
        &self,
        placement: &Placement,
        there: &[Arc<dyn Pool>],
    ) -> Result<()> {
        self.among(there)?;
        let gaps = self.read();
        let meant = |u: &&Undefined| u.may_be_meant(placement, there);
        match gaps.undefined.iter().find(meant) {
            None => Ok(()),
            Some(undefined) => Err(undefined.error()),
        }
    }

    /// As [`Unread::rule_out`], for the members of a group, whose ids its own does not tell.
    ///
    /// # Errors
    /// As [`Unread::rule_out`].
    pub(crate) fn rule_out_members(&self) -> Result<()> {
        let gaps = self.read();
        gaps.every_pool()?;
        let snapshot = |id: &&Id| id.role() == stowage_model::id::Role::Snapshot;
        match gaps.records.keys().find(snapshot) {
            None => Ok(()),
            Some(id) => Err(Error::unavailable(format!(
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

#[cfg(test)]
mod tests;
