//! Whether the consumer of an inline volume is gone. Its directory missing does not say so by itself:
//! the file system it lies on may be missing (a disk of the kubelet's own, mounted `nofail`), and
//! with the pod its volume is back once that is mounted. Nor does it say so that nothing is noted of it:
//! the file system of our own notes may be the one that is missing.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use serde::{Deserialize, Serialize};
use stowage_host::{blocking, mount};
use stowage_model::volumes::{Finding, Severity, Trouble};
use stowage_model::{Id, Result};
use stowage_pool::Pool;

use crate::attachments::Attachment;
use crate::index::Entry;
use crate::local::Inner;

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

impl Inner {
    /// Remove the ephemeral volumes of a pool whose consumers are gone.
    pub(crate) async fn abandoned_ephemerals(self: &Arc<Self>, pool: &Arc<dyn Pool>) {
        let in_it = |e: &Entry| {
            e.pool.name() == pool.name() && e.record.ephemeral && !e.record.is_snapshot()
        };
        for entry in self.index.list(in_it) {
            self.end_if_abandoned(&entry.record.id).await;
        }
    }

    /// Look again at those whose consumers were not known to be there or gone.
    pub(crate) async fn doubtful_ephemerals(self: &Arc<Self>, pool: &Arc<dyn Pool>) {
        let doubtful = self.doubtful();
        let in_it = |e: &Entry| e.pool.name() == pool.name() && doubtful.contains(&e.record.id);
        for entry in self.index.list(in_it) {
            self.end_if_abandoned(&entry.record.id).await;
        }
    }

    async fn end_if_abandoned(self: &Arc<Self>, id: &Id) {
        if let Err(e) = self.try_to_end(id).await {
            tracing::warn!(volume.id = %id, error = %e.chain(), "ephemeral volume not removed");
        }
    }

    async fn try_to_end(self: &Arc<Self>, id: &Id) -> Result<()> {
        let _held = self.ops.begin(id, "deletion").await?;
        let Some(entry) = self.index.get(id) else {
            return Ok(());
        };
        if self.attachments.is_unread(id) {
            // Its consumer may well be there.
            return Ok(());
        }
        let known = self.attachments.get(id);
        let (consumer, ground) = blocking(move || {
            let target = known.targets.keys().next();
            let unnoted = target.filter(|_| known.ground.is_none());
            (Consumer::of(&known), unnoted.and_then(|t| Ground::of(t)))
        })
        .await;
        self.doubts(|all| match consumer {
            Consumer::Unknown => all.insert(id.clone()),
            _ => all.remove(id),
        });
        match consumer {
            // Published by a version that did not note it.
            Consumer::There if ground.is_some() => {
                self.attachments
                    .update(id, move |a| a.ground = ground)
                    .await
            }
            Consumer::There | Consumer::Unknown => Ok(()),
            Consumer::Gone => self.end_ephemeral_locked(&entry).await,
        }
    }

    /// What is to be told of a volume that is kept since its consumer may be back.
    pub(crate) fn kept_for_its_consumer(&self, volume: &Entry) -> Option<Finding> {
        let id = &volume.record.id;
        if !self.doubtful().contains(id) {
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

    fn doubtful(&self) -> std::collections::BTreeSet<Id> {
        let all = self.doubtful.lock();
        all.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn doubts(&self, change: impl FnOnce(&mut std::collections::BTreeSet<Id>) -> bool) {
        let mut all = self.doubtful.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut all);
    }
}
