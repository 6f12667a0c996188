//! Volumes that live and die with one consumer. The target is noted before the volume is made, so
//! that a kill at any point leaves either nothing or a volume that the unpublish call or the next
//! start finds and removes.

use std::sync::Arc;

use stowage_host::failpoint;
use stowage_model::request::{Access, AccessMode, EphemeralRequest, PublishRequest, StageRequest};
use stowage_model::{Error, Id, Kind, Result};

use crate::attachments::{Attachment, Publication};
use crate::index::Entry;
use crate::local::Inner;

mod consumer;
mod rules;
mod share;

pub(crate) use consumer::{Doubts, Ground};
pub use rules::EphemeralRules;
pub(crate) use share::Making;

impl Inner {
    pub(crate) async fn publish_ephemeral(self: &Arc<Self>, want: EphemeralRequest) -> Result<()> {
        let id = Id::ephemeral(&want.volume.name);
        let mode = AccessMode::SingleNodeWriter;
        let fresh;
        {
            let _held = self.ops.begin(&id, "creation").await?;
            let other = self
                .attachments
                .get(&id)
                .targets
                .into_keys()
                .find(|t| *t != want.target);
            if let Some(other) = other {
                return Err(Error::exists(format!(
                    "the ephemeral volume {:?} is published at {} already",
                    want.volume.name.as_str(),
                    other.display()
                )));
            }
            let entry = self.index.get(&id);
            fresh = entry.is_none();
            let rules = &self.options.ephemeral;
            if fresh {
                // What is there was allowed when it was made, and stays its pod's.
                rules.vet(&want)?;
                // Before the note of its target is touched, by which its consumer is known.
                self.unread.rule_out(&id)?;
            }
            self.vet_target(entry.as_ref(), &want.target, false).await?;
            let publication = Publication {
                block: false,
                read_only: want.read_only,
                mode,
                cgroup: None,
            };
            let target = want.target.clone();
            self.attachments
                .update(&id, move |a| {
                    a.ephemeral = true;
                    a.ending = false;
                    if fresh {
                        a.of = None;
                    }
                    a.ground = Ground::of(&target).or_else(|| a.ground.take());
                    a.targets.entry(target).or_insert(publication);
                })
                .await?;
            failpoint::hit("node.ephemeral.noted");
            if let Err(e) = self
                .create_locked(id.clone(), &want.volume, Some(rules))
                .await
            {
                if self.index.get(&id).is_none() {
                    self.attachments.update(&id, |a| a.targets.clear()).await?;
                }
                return Err(e);
            }
            failpoint::hit("node.ephemeral.made");
        }
        let target = want.target.clone();
        let brought = self.bring_ephemeral(&id, want, mode).await;
        if let Err(e) = &brought
            && fresh
            && e.kind() != Kind::Pending
            && let Err(e) = self.unpublish(&id, &target).await
        {
            tracing::warn!(volume.id = %id, error = %e.chain(), "failed inline volume not removed");
        }
        brought
    }

    async fn bring_ephemeral(
        self: &Arc<Self>,
        id: &Id,
        want: EphemeralRequest,
        mode: AccessMode,
    ) -> Result<()> {
        let staging = self.own_staging(id)?;
        let access = Access::Mount {
            fs: want.volume.usage.mount,
            flags: want.flags,
        };
        self.stage(StageRequest {
            id: id.clone(),
            staging: staging.clone(),
            access: access.clone(),
            mode,
        })
        .await?;
        self.publish(PublishRequest {
            id: id.clone(),
            staging,
            target: want.target,
            access,
            mode,
            read_only: want.read_only,
            cgroup: None,
        })
        .await
    }

    /// Remove an ephemeral volume whose consumer is gone. The caller holds it.
    pub(crate) async fn end_ephemeral_locked(self: &Arc<Self>, entry: &Entry) -> Result<()> {
        let id = &entry.record.id;
        let staging = self.own_staging_path(id);
        if !self.attachments.get(id).ending {
            let end = |a: &mut Attachment| {
                a.ephemeral = true;
                a.ending = true;
                a.targets.clear();
            };
            self.attachments.update(id, end).await?;
        }
        self.unstage_locked(id, &staging).await?;
        failpoint::hit("node.ephemeral.unstaged");
        self.remove_locked(id).await?;
        self.remove_own_staging(&staging)
    }
}

#[cfg(test)]
mod tests;
