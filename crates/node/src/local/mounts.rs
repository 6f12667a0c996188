//! A volume brought to a path in one step.

use std::path::Path;

use async_trait::async_trait;
use stowage_model::mounts::Mounted;
use stowage_model::{Bytes, Holder, Id, MountRequest, Mounts, Result};

use super::Local;
use crate::kubelet::settled;
use crate::lookup::known;
use crate::publish::direct::{mount, mounted, unmount, volume_at};
use crate::publish::stats::expand;

#[async_trait]
impl Mounts for Local {
    async fn mount(&self, mut want: MountRequest) -> Result<()> {
        want.target = settled(want.target).await;
        let id = want.id.clone();
        let work = |node, _| async move { mount(&node, want).await };
        self.on(&id, work).await
    }

    async fn unmount(&self, id: &Id, target: &Path, holder: Option<&Holder>) -> Result<bool> {
        let (target, holder) = (settled(target.to_owned()).await, holder.cloned());
        let work = |node, id| async move { unmount(&node, &id, &target, holder.as_ref()).await };
        self.on(id, work).await
    }

    async fn mounted(&self, id: &Id) -> Result<Vec<Mounted>> {
        known(&self.node, id).await;
        mounted(&self.node, id).await
    }

    async fn volume_at(&self, target: &Path) -> Option<Id> {
        volume_at(&self.node, &settled(target.to_owned()).await).await
    }

    async fn expand_mounted(&self, id: &Id) -> Result<Option<Bytes>> {
        let staging = self.node.attachments().get(id).staging;
        let Some(staging) = staging.filter(|s| !s.block) else {
            return Ok(None);
        };
        let work = |node, id| async move { expand(&node, &id, &staging.path, None).await };
        self.on(id, work).await.map(Some)
    }
}
