//! Pools made and extended on request.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use stowage_model::volumes::PoolStatus;
use stowage_model::{PoolConfig, PoolName, Pools, Result};

use super::Local;
use crate::pools::{create_pool, extend_pool};

#[async_trait]
impl Pools for Local {
    async fn create_pool(
        &self,
        config: PoolConfig,
        disks: &[PathBuf],
        force: bool,
    ) -> Result<PoolStatus> {
        let (node, disks) = (Arc::clone(&self.node), disks.to_vec());
        let work = async move { create_pool(&node, config, &disks, force).await };
        self.node.ops().detached(work).await
    }

    async fn extend_pool(
        &self,
        name: &PoolName,
        disks: &[PathBuf],
        force: bool,
    ) -> Result<PoolStatus> {
        let (node, name, disks) = (Arc::clone(&self.node), name.clone(), disks.to_vec());
        let work = async move { extend_pool(&node, &name, &disks, force).await };
        self.node.ops().detached(work).await
    }
}
