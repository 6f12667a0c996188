//! Whether the consumer of an inline volume is gone. Its directory missing does not say so by itself:
//! the file system it lies on may be missing (a disk of the kubelet's own, mounted `nofail`), and
//! with the pod its volume is back once that is mounted. Nor does it say so that nothing is noted of it:
//! the file system of our own notes may be the one that is missing.

use std::path::PathBuf;
use std::sync::Arc;

use stowage_host::blocking;
use stowage_model::volumes::{Finding, Severity, Trouble};
use stowage_model::{Id, Result};
use stowage_pool::Pool;

use crate::publish::ephemeral::end_ephemeral_locked;
use crate::state::Node;
use crate::state::attachments::Attachment;
use crate::state::doubts::Why;
use crate::state::entry::Entry;
use crate::state::ground::Ground;

/// The inline volumes that were found in a pool: whether their consumers are still there is to be
/// looked into.
pub(crate) fn doubt_inline(node: &Node, pool: &Arc<dyn Pool>) {
    let in_it =
        |e: &Entry| e.pool.name() == pool.name() && e.record.ephemeral && !e.record.is_snapshot();
    for entry in node.index().list(in_it) {
        node.doubts().add(entry.record.id);
    }
}

/// Look for the consumers of those, and remove the volumes of those that are gone. Each for itself,
/// and so many at a time: where the kubelet's disk hangs, or the pool's, it does not end.
pub(crate) fn look_for_consumers(node: &Arc<Node>) {
    if node.stopping().is_cancelled() {
        return;
    }
    for id in node.doubts().begin() {
        let me = Arc::clone(node);
        node.ops().background(async move {
            let why = match look_into(&me, &id).await {
                Ok(why) => why,
                Err(e) => Some(Why::Stays(e.chain())),
            };
            let told = match &why {
                Some(Why::Stays(why)) => Some(why.clone()),
                _ => None,
            };
            if me.doubts().end(&id, why)
                && let Some(error) = told
            {
                tracing::warn!(volume.id = %id, error, "ephemeral volume not removed yet");
            }
            look_for_consumers(&me);
        });
    }
}

/// What is still in doubt of an inline volume; nothing when its consumer is there, or it is gone
/// with it.
async fn look_into(node: &Arc<Node>, id: &Id) -> Result<Option<Why>> {
    if node.attachments().is_unread(id) {
        // Its consumer may well be there.
        return Ok(Some(Why::Unseen));
    }
    let known = node.attachments().get(id);
    let seen = known.clone();
    let look = blocking(move || {
        let target = seen.targets.keys().next();
        let unnoted = target.filter(|_| seen.ground.is_none());
        (Consumer::of(&seen), unnoted.and_then(|t| Ground::of(t)))
    });
    // The volume is not held meanwhile: its consumer may come back, and this may never end.
    let (consumer, ground) = tokio::select! {
        looked = look => looked,
        () = node.stopping().cancelled() => return Ok(Some(Why::Unseen)),
    };
    let _held = node.ops().begin(id, "deletion").await?;
    let Some(entry) = node.index().get(id) else {
        return Ok(None);
    };
    if node.attachments().get(id) != known {
        return Ok(Some(Why::Unseen));
    }
    match consumer {
        Consumer::There => {
            if ground.is_some() {
                // Published by a version that did not note it.
                let note = move |a: &mut Attachment| a.ground = ground;
                node.attachments().update(id, note).await?;
            }
            Ok(None)
        }
        Consumer::Unknown => Ok(Some(Why::Unknown)),
        Consumer::Gone => end_ephemeral_locked(node, &entry).await.map(|()| None),
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

/// What is to be told of a volume that is kept since its consumer may be back.
pub(crate) fn kept_for_its_consumer(node: &Node, volume: &Entry) -> Option<Finding> {
    let id = &volume.record.id;
    if !node.doubts().is_unknown(id) {
        return None;
    }
    let known = node.attachments().get(id);
    let Some(target) = known.targets.into_keys().next() else {
        return Some(kept_without_a_note(node, volume));
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

fn kept_without_a_note(node: &Node, volume: &Entry) -> Finding {
    let id = &volume.record.id;
    Finding {
        severity: Severity::Warning,
        trouble: Trouble::Leftover,
        subject: id.to_string(),
        what: format!(
            "the inline {} is kept, though nothing is noted of its pod in {}",
            volume.title(),
            node.state_dir().display()
        ),
        mend: format!(
            "if a file system of its own belongs there, stop the daemon, mount it and start \
             again; if the pod is gone for good: stowage volume delete {id}"
        ),
    }
}
