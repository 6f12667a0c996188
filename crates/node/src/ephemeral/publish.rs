//! Volumes that live and die with one consumer. The target is noted before the volume is made, so
//! that a kill at any point leaves either nothing or a volume that the unpublish call or the next
//! start finds and removes.

use std::sync::Arc;

use stowage_host::failpoint;
use stowage_model::request::{Access, AccessMode, EphemeralRequest, PublishRequest, StageRequest};
use stowage_model::{Error, FsType, Id, Kind, Result};

use crate::own_staging::own_staging;
use crate::publish::stage::stage;
use crate::publish::target::{publish, vet_target};
use crate::publish::unpublish::unpublish;
use crate::state::Node;
use crate::state::attachments::Publication;
use crate::state::ground::Ground;
use crate::volume::create::{create_locked, settled};

pub(crate) async fn publish_ephemeral(node: &Arc<Node>, want: EphemeralRequest) -> Result<()> {
    let id = Id::ephemeral(&want.volume.name);
    let mode = AccessMode::SingleNodeWriter;
    let (fresh, fs);
    {
        let _held = node.ops().begin(&id, "creation").await?;
        let other = node
            .attachments()
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
        let entry = node.index().get(&id);
        fresh = entry.is_none();
        let rules = &node.options().ephemeral;
        if fresh {
            // What is there was allowed when it was made, and stays its pod's.
            rules.vet(&want)?;
            // Before the note of its target is touched, by which its consumer is known.
            node.unread().rule_out(&id)?;
        }
        let volume = settled(node, &id, &want.volume)?;
        fs = volume.usage.mount;
        vet_target(node, entry.as_ref(), &want.target, false).await?;
        let publication = Publication {
            block: false,
            read_only: want.read_only,
            mode,
            cgroup: None,
            holders: Default::default(),
        };
        let target = want.target.clone();
        node.attachments()
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
        if let Err(e) = create_locked(node, id.clone(), &volume, Some(rules)).await {
            if node.index().get(&id).is_none() {
                node.attachments()
                    .update(&id, |a| a.targets.clear())
                    .await?;
            }
            return Err(e);
        }
        failpoint::hit("node.ephemeral.made");
    }
    let target = want.target.clone();
    let brought = bring_ephemeral(node, &id, want, fs, mode).await;
    if let Err(e) = &brought
        && fresh
        && e.kind() != Kind::Pending
        && let Err(e) = unpublish(node, &id, &target).await
    {
        tracing::warn!(volume.id = %id, error = %e.chain(), "failed inline volume not removed");
    }
    brought
}

async fn bring_ephemeral(
    node: &Arc<Node>,
    id: &Id,
    want: EphemeralRequest,
    fs: Option<FsType>,
    mode: AccessMode,
) -> Result<()> {
    let staging = own_staging(node, id)?;
    let access = Access::Mount {
        fs,
        flags: want.flags,
    };
    stage(
        node,
        StageRequest {
            id: id.clone(),
            staging: staging.clone(),
            access: access.clone(),
            mode,
        },
    )
    .await?;
    publish(
        node,
        PublishRequest {
            id: id.clone(),
            staging,
            target: want.target,
            access,
            mode,
            read_only: want.read_only,
            cgroup: None,
        },
    )
    .await
}

#[cfg(test)]
mod tests;
