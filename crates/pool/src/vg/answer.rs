//! Asking LVM about a group that may not answer: a disk of it hangs, and a command that reads it
//! hangs with it, in the kernel's hands. One report is asked for at a time; while one that hung is
//! still there no other is started, and callers hear at once that the group does not answer.

use std::sync::Arc;
use std::time::Duration;

use stowage_host::{CmdError, Locks};
use stowage_model::{Error, Result};
use tokio::sync::MutexGuard as Turn;
use tokio::time::Instant;

use super::{Report, Vg};

/// How long a caller waits for reports that others asked for.
const QUEUE: Duration = Duration::from_secs(10);

/// How long a group that could not be looked at is left alone at first, doubled each time.
const PAUSE: Duration = Duration::from_secs(3);
const LONGEST_PAUSE: Duration = Duration::from_secs(48);

/// How long a report waits for one of another daemon, or for one that hung to be gone.
pub(super) const READ_TURN: Duration = Duration::from_secs(2);
/// How long a change waits for those of others.
pub(super) const CHANGE_TURN: Duration = Duration::from_secs(30);
/// How long a daemon that has just died may take to let a pool go.
const CLAIM: Duration = Duration::from_millis(500);

/// Looks at a group that fail.
#[derive(Debug, Clone)]
pub(super) struct Silence {
    /// No answer at all, as opposed to a bad one: a command hangs.
    hangs: bool,
    pause: Duration,
    due: Instant,
}

impl Silence {
    /// After one more look that failed.
    pub(super) fn after(before: Option<&Self>, hangs: bool) -> Self {
        let pause = before.map_or(PAUSE, |s| (s.pause * 2).min(LONGEST_PAUSE));
        Self {
            hangs,
            pause,
            due: Instant::now() + pause,
        }
    }
}

/// Whether a command did not end, or was not started since one that did not is still there.
pub(super) fn hangs(error: &CmdError) -> bool {
    matches!(error, CmdError::TimedOut { .. } | CmdError::Busy { .. })
}

impl Vg {
    /// The right to ask for a report; none where one has come that was begun after this call.
    ///
    /// # Errors
    /// [`stowage_model::Kind::Internal`] while the group does not answer.
    pub(super) async fn ask(&self) -> Result<Asked<'_>> {
        let now = Instant::now();
        self.answers()?;
        let waited = tokio::time::timeout(QUEUE, self.asking.lock()).await;
        let Ok(mut begun) = waited else {
            return Err(self.does_not_answer());
        };
        self.answers()?;
        if let Some((at, report)) = &*begun
            && *at > now
            && self.is_still(report)
        {
            return Ok(Asked::Known(Arc::clone(report)));
        }
        *begun = None;
        Ok(Asked::Turn(begun, Instant::now()))
    }

    /// Whether this is what is remembered, and not overtaken by a change of ours.
    fn is_still(&self, report: &Arc<Report>) -> bool {
        let seen = self.seen();
        seen.report
            .as_ref()
            .is_some_and(|(_, last)| Arc::ptr_eq(last, report))
    }

    fn answers(&self) -> Result<()> {
        match &self.seen().silence {
            Some(silence) if silence.hangs && Instant::now() < silence.due => {
                Err(self.does_not_answer())
            }
            _ => Ok(()),
        }
    }

    fn does_not_answer(&self) -> Error {
        Error::internal(format!(
            "volume group {} does not answer; look for a disk of it that hangs in the kernel log \
             (it is asked again within a minute)",
            self.name
        ))
    }

    /// Look again at a group that could not be looked at, or lacked something, where that is due.
    pub(crate) async fn look_again(&self) {
        let due = match &self.seen().silence {
            Some(silence) => Instant::now() >= silence.due,
            None => false,
        };
        if due {
            // What comes of it is told with the findings.
            let _ = self.report().await;
        }
    }

    /// The last report there was, and its age, for telling what was known of a group that cannot
    /// be looked at.
    pub(crate) fn known(&self) -> Option<(Duration, Arc<Report>)> {
        let known = self.seen().known.clone();
        known.map(|(at, report)| (at.elapsed(), report))
    }

    /// What tells this pool from all others of this machine: a group, or a thin pool in one. Names
    /// of LVM hold no '@'.
    pub(crate) fn place(&self) -> String {
        match &self.thin_pool {
            None => format!("lvm@{}", self.name),
            Some(thin_pool) => format!("thin@{}@{thin_pool}", self.name),
        }
    }

    pub(super) fn change_lock(&self) -> String {
        format!("change@{}", self.name)
    }

    pub(super) fn read_lock(&self) -> String {
        format!("read@{}", self.name)
    }

    /// Take the group, or the thin pool in it, for this daemon.
    ///
    /// # Errors
    /// [`stowage_model::Kind::Precondition`] naming the daemon that has it,
    /// [`stowage_model::Kind::Pending`] while a command that outlived its daemon still changes it.
    pub(crate) async fn claim(&self, locks: &Locks) -> Result<()> {
        let mut claim = self.claim.lock().await;
        if claim.is_none() {
            let name = format!("claim@{}", self.place());
            let taken = locks.claim(&name, CLAIM).await;
            *claim = Some(taken.map_err(|e| crate::contract::claimed(&self.pool, e))?);
        }
        let (locks, name) = (locks.clone(), self.change_lock());
        match stowage_host::blocking(move || locks.holders(&name)).await {
            None => Ok(()),
            Some(by) => Err(Error::pending(format!(
                "volume group {} is still being changed by {}, which outlived the daemon that \
                 started it or is another daemon's; the pool is read when that has ended",
                self.name,
                crate::contract::named(&by)
            ))),
        }
    }
}

/// What a caller that needs a report got.
pub(super) enum Asked<'a> {
    /// One that another caller asked for.
    Known(Arc<Report>),
    /// The right to ask, and when that began; the report goes in here.
    Turn(Turn<'a, Option<(Instant, Arc<Report>)>>, Instant),
}
