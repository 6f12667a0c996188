//! A volume on its way to a consumer and back, in the steps of an orchestrator.

use std::path::Path;

use async_trait::async_trait;
use stowage_model::publish::Stats;
use stowage_model::request::{EphemeralRequest, PublishRequest, StageRequest};
use stowage_model::{Bytes, Id, Publish, Result};

use super::Local;
use crate::ephemeral::publish::publish_ephemeral;
use crate::kubelet::settled;
use crate::publish::stage::stage;
use crate::publish::stats::{expand, stats};
use crate::publish::target::publish;
use crate::publish::unpublish::unpublish;
use crate::publish::unstage::unstage;

#[async_trait]
impl Publish for Local {
    async fn stage(&self, mut want: StageRequest) -> Result<()> {
        want.staging = settled(want.staging).await;
        let id = want.id.clone();
        let work = |node, _| async move { stage(&node, want).await };
        self.on(&id, work).await
    }

    async fn unstage(&self, id: &Id, staging: &Path) -> Result<()> {
        let staging = settled(staging.to_owned()).await;
        let work = |node, id| async move { unstage(&node, &id, &staging).await };
        self.on(id, work).await
    }

    async fn publish(&self, mut want: PublishRequest) -> Result<()> {
        want.staging = settled(want.staging).await;
        want.target = settled(want.target).await;
        let id = want.id.clone();
        let work = |node, _| async move { publish(&node, want).await };
        self.on(&id, work).await
    }

    async fn unpublish(&self, id: &Id, target: &Path) -> Result<()> {
        let target = settled(target.to_owned()).await;
        let work = |node, id| async move { unpublish(&node, &id, &target).await };
        self.on(id, work).await
    }

    async fn publish_ephemeral(&self, mut want: EphemeralRequest) -> Result<()> {
        want.target = settled(want.target).await;
        let id = Id::ephemeral(&want.volume.name);
        let work = |node, _| async move { publish_ephemeral(&node, want).await };
        self.on(&id, work).await
    }

    async fn stats(&self, id: &Id, path: &Path) -> Result<Stats> {
        stats(&self.node, id, &settled(path.to_owned()).await).await
    }

    async fn expand(&self, id: &Id, path: &Path, required: Option<Bytes>) -> Result<Bytes> {
        let path = settled(path.to_owned()).await;
        let work = |node, id| async move { expand(&node, &id, &path, required).await };
        self.on(id, work).await
    }
}
