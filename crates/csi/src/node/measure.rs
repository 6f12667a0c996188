//! How a volume on this node fares: its use, its health, and its size after growth.

use stowage_model::publish::Stats;
use stowage_model::{Bytes, Id, Result};

use crate::door::Door;
use crate::proto::volume_usage::Unit;
use crate::proto::{
    NodeExpandVolumeRequest, NodeExpandVolumeResponse, NodeGetStorageHealthRequest,
    NodeGetStorageHealthResponse, NodeGetVolumeHealthRequest, NodeGetVolumeHealthResponse,
    NodeGetVolumeStatsRequest, NodeGetVolumeStatsResponse, VolumeUsage,
};
use crate::{capability, fields, health, size};

pub(super) async fn stats(
    door: &Door,
    request: NodeGetVolumeStatsRequest,
) -> Result<NodeGetVolumeStatsResponse> {
    fields::needed("volume_id", &request.volume_id)?;
    fields::needed_path("volume_path", &request.volume_path)?;
    fields::path("staging_target_path", &request.staging_target_path)?;
    // The kubelet measures inline volumes too.
    let id = Id::from_handle(&request.volume_id)?;
    let path = fields::where_it_is("volume_path", &request.volume_path)?;
    let usage = match door.publish.stats(&id, path).await? {
        Stats::Block { total } => vec![VolumeUsage {
            total: size::wire(total),
            unit: Unit::Bytes.into(),
            ..VolumeUsage::default()
        }],
        Stats::FileSystem {
            total,
            available,
            used,
            inodes,
            inodes_free,
            inodes_used,
        } => {
            let row = |unit: Unit, total, available, used| VolumeUsage {
                available: size::count(available),
                total: size::count(total),
                used: size::count(used),
                unit: unit.into(),
            };
            let mut rows = vec![row(Unit::Bytes, total.0, available.0, used.0)];
            // btrfs has no fixed number; "0 of 0" would read as full.
            if inodes > 0 {
                rows.push(row(Unit::Inodes, inodes, inodes_free, inodes_used));
            }
            rows
        }
    };
    Ok(NodeGetVolumeStatsResponse { usage })
}

pub(super) async fn expand(
    door: &Door,
    request: NodeExpandVolumeRequest,
) -> Result<NodeExpandVolumeResponse> {
    fields::needed("volume_id", &request.volume_id)?;
    fields::needed_path("volume_path", &request.volume_path)?;
    fields::path("staging_target_path", &request.staging_target_path)?;
    fields::map("secrets", &request.secrets)?;
    let required: Option<Bytes> = size::reached(request.capacity_range.as_ref())?;
    if let Some(capability) = &request.volume_capability {
        capability::check("volume_capability", capability)?;
    }
    let id = fields::volume_id(&request.volume_id)?;
    let path = fields::where_it_is("volume_path", &request.volume_path)?;
    let reached = door.publish.expand(&id, path, required).await?;
    Ok(NodeExpandVolumeResponse {
        capacity_bytes: size::wire(reached),
    })
}

pub(super) async fn health(
    door: &Door,
    request: NodeGetVolumeHealthRequest,
) -> Result<NodeGetVolumeHealthResponse> {
    fields::needed("volume_id", &request.volume_id)?;
    fields::path("volume_publish_path", &request.volume_publish_path)?;
    fields::path("staging_target_path", &request.staging_target_path)?;
    // May be asked for a volume whose mount failed, so no path is looked at.
    let id = Id::from_handle(&request.volume_id)?;
    Ok(NodeGetVolumeHealthResponse {
        volume_health: Some(health::volume(door, &id, &request.volume_id).await?),
    })
}

pub(super) async fn storage_health(
    door: &Door,
    request: NodeGetStorageHealthRequest,
) -> Result<NodeGetStorageHealthResponse> {
    fields::map("secrets", &request.secrets)?;
    Ok(NodeGetStorageHealthResponse {
        backend_health: health::storage(door).await?,
    })
}
