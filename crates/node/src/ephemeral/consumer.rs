//! Whether the consumer of an inline volume is gone. Its directory missing does not say so by itself:
//! the file system it lies on may be missing (a disk of the kubelet's own, mounted `nofail`), and
//! with the pod its volume is back once that is mounted. Nor does it say so that nothing is noted of it:
//! the file system of our own notes may be the one that is missing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use stowage_host::{blocking, mount};
use stowage_model::volumes::{Finding, Severity, Trouble};
use stowage_model::{Id, Result};
use stowage_pool::Pool;
use tokio::time::Instant;

use crate::attachments::Attachment;
use crate::index::Entry;
use crate::local::Inner;

/// How many consumers are looked for at a time: each may keep a thread for good.
const LOOKS: usize = 16;

/// How long after a look that left a doubt the next may come.
const AGAIN: Duration = Duration::from_secs(3);

/// The root of the mount that a consumer's directory lies on; see [`mount::Root`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Ground {
    pub(crate) point: PathBuf,
    pub(crate) inode: u64,
    pub(crate) born: u64,
}

impl Ground {
    /// What a target lies on now.
    pub(crate) fn of(target: &Path) -> Option<Self> {
        let root = mount::root_of(target.parent()?);
        let root = root.inspect_err(|e| {
            tracing::warn!(volume.path = %target.display(), error = %e, "its mount is not known");
        });
        let mount::Root { point, inode, born } = root.ok()?;
        Some(Self { point, inode, born })
    }
}

/// What is known of a consumer.
enum Consumer {
    There,
    Gone,
    /// What its target lay on is not mounted there, or cannot be told to be; or no target is noted.
    Unknown,
}

impl Consumer {
    fn of(known: &Attachment) -> Self {
        if known.targets.is_empty() {
            return match known.ending {
                true => Self::Gone,
                false => Self::Unknown,
            };
        }
        for directory in known.targets.keys().filter_map(|t| t.parent()) {
            match directory.try_exists() {
                Ok(true) => return Self::There,
                Ok(false) => {}
                // On a disk that fails nothing is known to be gone.
                Err(_) => return Self::Unknown,
            }
        }
        let same = |target: &PathBuf| known.ground.is_some() && Ground::of(target) == known.ground;
        match known.targets.keys().all(same) {
            true => Self::Gone,
            false => Self::Unknown,
        }
    }
}

/// Inline volumes whose consumers are neither seen nor known to be gone.
#[derive(Default)]
pub(crate) struct Doubts(Mutex<BTreeMap<Id, Doubt>>);

struct Doubt {
    why: Why,
    /// When it was last looked into.
    last: Option<Instant>,
    under_way: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Why {
    /// Its consumer was not looked for yet, or not since its note has changed.
    Unseen,
    /// It is neither there nor known to be gone.
    Unknown,
    /// It is gone, and the volume could not be removed.
    Stays(String),
}

impl Doubts {
    /// Doubt of this volume.
    fn add(&self, id: Id) {
        self.lock().entry(id).or_insert(Doubt {
            why: Why::Unseen,
            last: None,
            under_way: false,
        });
    }

    /// Those to be looked into now, the longest not looked into first.
    fn begin(&self) -> Vec<Id> {
        let mut all = self.lock();
        let room = LOOKS.saturating_sub(all.values().filter(|doubt| doubt.under_way).count());
        let is_due = |doubt: &Doubt| {
            !doubt.under_way && doubt.last.is_none_or(|last| last.elapsed() >= AGAIN)
        };
        let mut due: Vec<(&Id, &mut Doubt)> =
            all.iter_mut().filter(|(_, doubt)| is_due(doubt)).collect();
        due.sort_by_key(|(_, doubt)| doubt.last);
        let begun = due.into_iter().take(room).map(|(id, doubt)| {
            doubt.under_way = true;
            id.clone()
        });
        begun.collect()
    }

    /// What came of it; nothing when there is no doubt any more. Answers whether that is another
    /// doubt than before.
    fn end(&self, id: &Id, why: Option<Why>) -> bool {
        let mut all = self.lock();
        let Some(why) = why else {
            return all.remove(id).is_some();
        };
        let Some(doubt) = all.get_mut(id) else {
            return false;
        };
        let changed = doubt.why != why;
        *doubt = Doubt {
            why,
            last: Some(Instant::now()),
            under_way: false,
        };
        changed
    }

    fn is_unknown(&self, id: &Id) -> bool {
        let all = self.lock();
        all.get(id).is_some_and(|doubt| doubt.why == Why::Unknown)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Id, Doubt>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// The inline volumes that were found in a pool: whether their consumers are still there is to be
    /// looked into.
    pub(crate) fn doubt_inline(&self, pool: &Arc<dyn Pool>) {
        let in_it = |e: &Entry| {
            e.pool.name() == pool.name() && e.record.ephemeral && !e.record.is_snapshot()
        };
        for entry in self.index.list(in_it) {
            self.doubts.add(entry.record.id);
        }
    }

    /// Look for the consumers of those, and remove the volumes of those that are gone. Each for itself,
    /// and so many at a time: where the kubelet's disk hangs, or the pool's, it does not end.
    pub(crate) fn look_for_consumers(self: &Arc<Self>) {
        if self.stopping.is_cancelled() {
            return;
        }
        for id in self.doubts.begin() {
            let me = Arc::clone(self);
            self.ops.background(async move {
                let why = match me.look_into(&id).await {
                    Ok(why) => why,
                    Err(e) => Some(Why::Stays(e.chain())),
                };
                let told = match &why {
                    Some(Why::Stays(why)) => Some(why.clone()),
                    _ => None,
                };
                if me.doubts.end(&id, why)
                    && let Some(error) = told
                {
                    tracing::warn!(volume.id = %id, error, "ephemeral volume not removed yet");
                }
                me.look_for_consumers();
            });
        }
    }

    /// What is still in doubt of an inline volume; nothing when its consumer is there, or it is gone
    /// with it.
    async fn look_into(self: &Arc<Self>, id: &Id) -> Result<Option<Why>> {
        if self.attachments.is_unread(id) {
            // Its consumer may well be there.
            return Ok(Some(Why::Unseen));
        }
        let known = self.attachments.get(id);
        let seen = known.clone();
        let look = blocking(move || {
            let target = seen.targets.keys().next();
            let unnoted = target.filter(|_| seen.ground.is_none());
            (Consumer::of(&seen), unnoted.and_then(|t| Ground::of(t)))
        });
        // The volume is not held meanwhile: its consumer may come back, and this may never end.
        let (consumer, ground) = tokio::select! {
            looked = look => looked,
            () = self.stopping.cancelled() => return Ok(Some(Why::Unseen)),
        };
        let _held = self.ops.begin(id, "deletion").await?;
        let Some(entry) = self.index.get(id) else {
            return Ok(None);
        };
        if self.attachments.get(id) != known {
            return Ok(Some(Why::Unseen));
        }
        match consumer {
            Consumer::There => {
                if ground.is_some() {
                    // Published by a version that did not note it.
                    let note = move |a: &mut Attachment| a.ground = ground;
                    self.attachments.update(id, note).await?;
                }
                Ok(None)
            }
            Consumer::Unknown => Ok(Some(Why::Unknown)),
            Consumer::Gone => self.end_ephemeral_locked(&entry).await.map(|()| None),
        }
    }

    /// What is to be told of a volume that is kept since its consumer may be back.
    pub(crate) fn kept_for_its_consumer(&self, volume: &Entry) -> Option<Finding> {
        let id = &volume.record.id;
        if !self.doubts.is_unknown(id) {
            return None;
        }
        let known = self.attachments.get(id);
        let Some(target) = known.targets.into_keys().next() else {
            return Some(self.kept_without_a_note(volume));
        };
        let why = match known.ground {
            Some(ground) => format!(
                "what was mounted at {} when it was published is not",
                ground.point.display()
            ),
            None => "what it lay on is not known".to_owned(),
        };
        Some(Finding {
            severity: Severity::Warning,
            trouble: Trouble::Leftover,
            subject: id.to_string(),
            what: format!(
                "the inline {} is kept, though its pod's directory is not there: {} cannot be \
                 seen, since {why}",
                volume.title(),
                target.display()
            ),
            mend: format!(
                "mount it, and the volume is used again or removed within seconds; if the pod \
                 is gone for good: stowage volume delete {id}"
            ),
        })
    }

    fn kept_without_a_note(&self, volume: &Entry) -> Finding {
        let id = &volume.record.id;
        Finding {
            severity: Severity::Warning,
            trouble: Trouble::Leftover,
            subject: id.to_string(),
            what: format!(
                "the inline {} is kept, though nothing is noted of its pod in {}",
                volume.title(),
                self.options.state_dir.display()
            ),
            mend: format!(
                "if a file system of its own belongs there, stop the daemon, mount it and start \
                 again; if the pod is gone for good: stowage volume delete {id}"
            ),
        }
    }
}
