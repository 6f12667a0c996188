//! The Node service: a volume of this node on its way to a consumer and back.

mod ephemeral;
mod measure;

use stowage_model::request::{AccessMode, PublishRequest, StageRequest};
use stowage_model::{Error, Id, Result};

use crate::door::{Door, rpcs};
use crate::proto::node_server::Node;
use crate::proto::node_service_capability::rpc::Type as Can;
use crate::proto::node_service_capability::{Rpc, Type};
use crate::proto::{
    NodeGetCapabilitiesRequest, NodeGetCapabilitiesResponse, NodeGetInfoRequest,
    NodeGetInfoResponse, NodePublishVolumeRequest, NodePublishVolumeResponse,
    NodeServiceCapability, NodeStageVolumeRequest, NodeStageVolumeResponse,
    NodeUnpublishVolumeRequest, NodeUnpublishVolumeResponse, NodeUnstageVolumeRequest,
    NodeUnstageVolumeResponse,
};
use crate::{capability, fields, topology};

rpcs! { Node {
    "NodeStageVolume" node_stage_volume(NodeStageVolumeRequest) [volume.id = volume_id]
        -> NodeStageVolumeResponse => stage;
    "NodeUnstageVolume" node_unstage_volume(NodeUnstageVolumeRequest) [volume.id = volume_id]
        -> NodeUnstageVolumeResponse => unstage;
    "NodePublishVolume" node_publish_volume(NodePublishVolumeRequest) [volume.id = volume_id]
        -> NodePublishVolumeResponse => publish;
    "NodeUnpublishVolume" node_unpublish_volume(NodeUnpublishVolumeRequest) [volume.id = volume_id]
        -> NodeUnpublishVolumeResponse => unpublish;
    "NodeGetVolumeStats" node_get_volume_stats(NodeGetVolumeStatsRequest) [volume.id = volume_id]
        -> NodeGetVolumeStatsResponse => measure::stats;
    "NodeGetVolumeHealth"
        node_get_volume_health(NodeGetVolumeHealthRequest) [volume.id = volume_id]
        -> NodeGetVolumeHealthResponse => measure::health;
    "NodeGetStorageHealth" node_get_storage_health(NodeGetStorageHealthRequest)
        -> NodeGetStorageHealthResponse => measure::storage_health;
    "NodeExpandVolume" node_expand_volume(NodeExpandVolumeRequest) [volume.id = volume_id]
        -> NodeExpandVolumeResponse => measure::expand;
    "NodeGetCapabilities" node_get_capabilities(NodeGetCapabilitiesRequest)
        -> NodeGetCapabilitiesResponse => capabilities;
    "NodeGetInfo" node_get_info(NodeGetInfoRequest) -> NodeGetInfoResponse => info;
} }

/// VOLUME_MOUNT_GROUP is not here: without it the kubelet applies a pod's fsGroup itself, which
/// for local file systems is as good and for which it has a "only when the root differs" policy.
const CAPABILITIES: [Can; 6] = [
    Can::StageUnstageVolume,
    Can::GetVolumeStats,
    Can::ExpandVolume,
    Can::SingleNodeMultiWriter,
    Can::GetVolumeHealth,
    Can::GetStorageHealth,
];

async fn capabilities(
    _: &Door,
    _: NodeGetCapabilitiesRequest,
) -> Result<NodeGetCapabilitiesResponse> {
    let capabilities = CAPABILITIES
        .into_iter()
        .map(|can| NodeServiceCapability {
            r#type: Some(Type::Rpc(Rpc { r#type: can.into() })),
        })
        .collect();
    Ok(NodeGetCapabilitiesResponse { capabilities })
}

async fn info(door: &Door, _: NodeGetInfoRequest) -> Result<NodeGetInfoResponse> {
    Ok(NodeGetInfoResponse {
        node_id: door.config.node_id.clone(),
        max_volumes_per_node: door.config.max_volumes,
        accessible_topology: Some(topology::here(&door.config)),
    })
}

async fn stage(door: &Door, request: NodeStageVolumeRequest) -> Result<NodeStageVolumeResponse> {
    fields::needed("volume_id", &request.volume_id)?;
    fields::needed_path("staging_target_path", &request.staging_target_path)?;
    let capability = capability::needed(request.volume_capability.as_ref())?;
    fields::map("publish_context", &request.publish_context)?;
    fields::map("volume_context", &request.volume_context)?;
    fields::map("secrets", &request.secrets)?;
    let id = fields::volume_id(&request.volume_id)?;
    let staging = fields::absolute("staging_target_path", &request.staging_target_path)?;
    door.publish
        .stage(StageRequest {
            id,
            staging: staging.to_owned(),
            access: capability::access(capability)?,
            mode: capability::mode(capability)?,
        })
        .await?;
    Ok(NodeStageVolumeResponse {})
}

async fn unstage(
    door: &Door,
    request: NodeUnstageVolumeRequest,
) -> Result<NodeUnstageVolumeResponse> {
    fields::needed("volume_id", &request.volume_id)?;
    fields::needed_path("staging_target_path", &request.staging_target_path)?;
    let staging = fields::absolute("staging_target_path", &request.staging_target_path)?;
    // A volume that never was ours is staged nowhere.
    if let Ok(id) = fields::volume_id(&request.volume_id) {
        fields::gone_is_fine(door.publish.unstage(&id, staging).await)?;
    }
    Ok(NodeUnstageVolumeResponse {})
}

async fn publish(
    door: &Door,
    request: NodePublishVolumeRequest,
) -> Result<NodePublishVolumeResponse> {
    fields::needed("volume_id", &request.volume_id)?;
    fields::needed_path("target_path", &request.target_path)?;
    fields::path("staging_target_path", &request.staging_target_path)?;
    let capability = capability::needed(request.volume_capability.as_ref())?;
    fields::map("publish_context", &request.publish_context)?;
    fields::map("volume_context", &request.volume_context)?;
    fields::map("secrets", &request.secrets)?;
    let mode = capability::mode(capability)?;
    let access = capability::access(capability)?;
    let read_only = request.readonly || mode == AccessMode::ReaderOnly;
    if ephemeral::asked(&request.volume_context) {
        let want = ephemeral::parse(&request, access, read_only)?;
        door.publish.publish_ephemeral(want).await?;
        return Ok(NodePublishVolumeResponse {});
    }
    let id = fields::volume_id(&request.volume_id)?;
    let target = fields::absolute("target_path", &request.target_path)?;
    if request.staging_target_path.is_empty() {
        // The code the spec has for this, though a missing field elsewhere is INVALID_ARGUMENT.
        return Err(Error::precondition(
            "staging_target_path is missing; this driver stages volumes, so stage it first and \
             say where",
        ));
    }
    let staging = fields::absolute("staging_target_path", &request.staging_target_path)?;
    door.publish
        .publish(PublishRequest {
            id,
            staging: staging.to_owned(),
            target: target.to_owned(),
            access,
            mode,
            read_only,
            // The node room reads the pod's uid out of the target path.
            cgroup: None,
        })
        .await?;
    Ok(NodePublishVolumeResponse {})
}

async fn unpublish(
    door: &Door,
    request: NodeUnpublishVolumeRequest,
) -> Result<NodeUnpublishVolumeResponse> {
    fields::needed("volume_id", &request.volume_id)?;
    fields::needed_path("target_path", &request.target_path)?;
    let target = fields::absolute("target_path", &request.target_path)?;
    // The kubelet does not say whether the volume was inline; the handle does.
    let id = Id::from_handle(&request.volume_id)?;
    fields::gone_is_fine(door.publish.unpublish(&id, target).await)?;
    Ok(NodeUnpublishVolumeResponse {})
}
