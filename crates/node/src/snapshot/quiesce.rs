//! Holding writers for a cut, and for no longer than they bear.
//!
//! ```text
//!   lift the limits ─▶ sync, writers go on ─▶ the pools' turns ─▶ freeze ─▶ cut ─▶ thaw ─▶ limits
//!                      at most 30 s            at most 6 s        └── at most 10 s ──┘
//! ```
//!
//! Holding writers means waiting until what they wrote is on the disk. So that is brought there
//! before, as often as it takes until little is left, and without the consumers' limits: a hundred
//! megabytes at one a second would hold its writers, and the whole group, for minutes.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::try_join_all;
use stowage_host::freeze::Guard;
use stowage_host::{Devno, device, failpoint, freeze, on_own_thread};
use stowage_model::error::Context;
use stowage_model::{Error, Id, PoolName, Result};
use stowage_pool::{Pool, Turn};
use tokio::time::{Instant, timeout, timeout_at};

use crate::backing::thaw::{note_freeze, unnote_freeze};
use crate::backing::writers::{Reached, writers_of};
use crate::state::Node;
use crate::state::entry::Entry;
use crate::throttle::{lift_limits, limits_again};

/// How long writers may be held at most, whatever happens to us meanwhile.
pub(crate) const HOLD: Duration = Duration::from_secs(10);

/// How long the writers' data may take to the disk while they go on.
const SYNC: Duration = Duration::from_secs(30);

/// When it took no longer than this, what was written meanwhile takes no longer either.
const QUICK: Duration = Duration::from_secs(2);

/// How long to wait for work in the pools that is under way.
const TURN: Duration = Duration::from_secs(6);

/// Writers that are held. They go on by [`let_writers_go`], or by the guard's own process
/// when we die or take too long.
pub(crate) struct Held {
    guard: Option<Guard>,
    turns: BTreeMap<PoolName, Turn>,
    /// Volumes that are noted to be frozen.
    noted: Vec<Id>,
    /// Volumes whose limits were lifted.
    lifted: Vec<Id>,
    /// When the first of them was held.
    pub(crate) since: Instant,
}

impl Held {
    /// The turn of the pool of one of the volumes.
    pub(crate) fn turn(&self, pool: &Arc<dyn Pool>) -> &Turn {
        static NONE: Turn = Turn::NONE;
        self.turns.get(pool.name()).unwrap_or(&NONE)
    }
}

/// Take the turns of the pools of these volumes, and hold the writers of those that are mounted
/// and whose pools do not hold them by themselves. The caller holds the volumes.
///
/// # Errors
/// [`stowage_model::Kind::Pending`] when a turn does not come, and
/// [`stowage_model::Kind::Precondition`] when the disk is too busy; nobody is held then.
pub(crate) async fn hold_writers(node: &Arc<Node>, sources: &[Entry]) -> Result<Held> {
    let limited = sources.iter().filter(|s| !s.record.limits.is_unlimited());
    let mut held = Held {
        guard: None,
        turns: BTreeMap::new(),
        noted: Vec::new(),
        lifted: limited.map(|s| s.record.id.clone()).collect(),
        since: Instant::now(),
    };
    match hold(node, sources, &mut held).await {
        Ok(()) => Ok(held),
        Err(e) => {
            if let Err(more) = let_writers_go(node, held).await {
                tracing::warn!(error = %more.chain(), "not let go as it should");
            }
            Err(e)
        }
    }
}

async fn hold(node: &Arc<Node>, sources: &[Entry], held: &mut Held) -> Result<()> {
    for source in sources {
        if held.lifted.contains(&source.record.id) {
            lift_limits(node, source).await;
        }
    }
    let (mut written, mut mounted, mut suspended) = (Vec::new(), Vec::new(), Vec::new());
    let mut noted = Vec::new();
    for source in sources {
        let Some(writers) = writers_of(node, source).await? else {
            continue;
        };
        // One alone is suspended by its own cut.
        if sources.len() > 1 {
            suspended.extend(writers.suspended);
        }
        written.push((source, writers.reached));
        if let Some(path) = writers.frozen {
            mounted.push(path);
            noted.push(source.record.id.clone());
        }
    }
    settle_writes(node, &written).await?;
    let pools = sources.iter().map(|s| (s.pool.name().clone(), &s.pool));
    // In the order of their names, so that two calls cannot block each other.
    for (name, pool) in pools.collect::<BTreeMap<_, _>>() {
        let turn = timeout(TURN, pool.turn())
            .await
            .map_err(|_| Error::pending(format!("pool {name} is being changed; ask again")))?;
        held.turns.insert(name, turn);
    }
    held.since = Instant::now();
    if !mounted.is_empty() || !suspended.is_empty() {
        noted.iter().for_each(|id| note_freeze(node, id));
        held.noted = noted;
        held.guard = Some(freeze(node, mounted, suspended).await?);
        if !held.noted.is_empty() {
            failpoint::hit("node.snapshot.frozen");
        }
    }
    Ok(())
}

/// Bring what was written to the disk until so little is left that holding the writers will not
/// take long.
async fn settle_writes(node: &Arc<Node>, sources: &[(&Entry, Reached)]) -> Result<()> {
    if sources.is_empty() {
        return Ok(());
    }
    let deadline = Instant::now() + SYNC;
    loop {
        let begun = Instant::now();
        let all = try_join_all(sources.iter().map(|(entry, at)| sync(node, entry, at)));
        let Ok(synced) = timeout_at(deadline, all).await else {
            let titles: Vec<String> = sources.iter().map(|(e, _)| e.title()).collect();
            return Err(Error::precondition(format!(
                "what is written to {} does not reach its disk within {} s, and its writers \
                 would be held as long; try again when the disk is less busy",
                titles.join(", "),
                SYNC.as_secs()
            )));
        };
        synced?;
        if begun.elapsed() <= QUICK {
            return Ok(());
        }
    }
}

/// One sync at a time for each volume: one whose disk hangs keeps a thread for good.
async fn sync(node: &Arc<Node>, entry: &Entry, at: &Reached) -> Result<()> {
    let id = entry.record.id.clone();
    if !node.syncing().begin(id.clone()) {
        return Err(Error::pending(format!(
            "what was written to {} is still on its way to the disk; ask again",
            entry.title()
        )));
    }
    let me = Arc::clone(node);
    let (path, mounted) = match at {
        Reached::Mounted(path) => (path.clone(), true),
        Reached::Raw(path) => (path.clone(), false),
    };
    let synced = on_own_thread(move || {
        let synced = match mounted {
            true => freeze::sync(&path),
            false => device::sync(&path),
        };
        me.syncing().end(&id);
        synced
    });
    synced
        .await
        .or_internal(|| format!("failed to flush {}", entry.title()))
}

/// Freeze what is mounted; what will be suspended is resumed by the guard should we not be there
/// to do it.
async fn freeze(node: &Node, mounted: Vec<PathBuf>, suspended: Vec<Devno>) -> Result<Guard> {
    let exe = node.options().program.clone();
    let names: Vec<String> = mounted.iter().map(|p| p.display().to_string()).collect();
    let frozen = on_own_thread(move || Guard::freeze(&exe, &mounted, &suspended, HOLD)).await;
    frozen.map_err(|e| match e.kind() {
        ErrorKind::ResourceBusy => Error::precondition(
            "its file system was frozen by somebody else, a backup perhaps, and stays so; thaw \
             it (fsfreeze -u) and try again",
        )
        .caused_by(e),
        _ => Error::internal(format!("failed to freeze {}", names.join(", "))).caused_by(e),
    })
}

/// Let writers go on; an error says that a freeze had ended before, so the cut may not be one
/// moment.
pub(crate) async fn let_writers_go(node: &Arc<Node>, held: Held) -> Result<()> {
    let thawed = match held.guard {
        None => Ok(true),
        Some(guard) => on_own_thread(move || guard.release())
            .await
            .or_internal(|| "failed to thaw after the cut".to_owned()),
    };
    for id in &held.noted {
        unnote_freeze(node, id);
    }
    drop(held.turns);
    for id in &held.lifted {
        limits_again(node, id).await;
    }
    match thawed? {
        true => Ok(()),
        false => Err(took_too_long()),
    }
}

/// The error of a cut during which writers had to be let go.
pub(crate) fn took_too_long() -> Error {
    Error::internal(format!(
        "the cut took longer than the {} s that writers may be held; try again when the disk is \
         less busy",
        HOLD.as_secs()
    ))
}
