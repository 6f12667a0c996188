//! The Controller service: volumes and snapshots come and go. No RPC here needs the volume to be
//! on this machine's mounts; that is the Node service's business.

mod create;
mod listing;
pub(crate) mod snapshots;
mod volumes;

use stowage_model::Result;
use tonic::Status;

use crate::door::{Door, rpcs};
use crate::proto::controller_server::Controller;
use crate::proto::controller_service_capability::rpc::Type as Can;
use crate::proto::controller_service_capability::{Rpc, Type};
use crate::proto::{
    ControllerGetCapabilitiesRequest, ControllerGetCapabilitiesResponse,
    ControllerPublishVolumeRequest, ControllerPublishVolumeResponse, ControllerServiceCapability,
    ControllerUnpublishVolumeRequest, ControllerUnpublishVolumeResponse,
};

rpcs! { Controller {
    "CreateVolume" create_volume(CreateVolumeRequest) [volume.name = name]
        -> CreateVolumeResponse => create::create;
    "DeleteVolume" delete_volume(DeleteVolumeRequest) [volume.id = volume_id]
        -> DeleteVolumeResponse => volumes::delete;
    "ControllerPublishVolume"
        controller_publish_volume(ControllerPublishVolumeRequest) [volume.id = volume_id]
        -> ControllerPublishVolumeResponse => publish;
    "ControllerUnpublishVolume"
        controller_unpublish_volume(ControllerUnpublishVolumeRequest) [volume.id = volume_id]
        -> ControllerUnpublishVolumeResponse => unpublish;
    "ValidateVolumeCapabilities"
        validate_volume_capabilities(ValidateVolumeCapabilitiesRequest) [volume.id = volume_id]
        -> ValidateVolumeCapabilitiesResponse => volumes::validate;
    "ListVolumes" list_volumes(ListVolumesRequest) -> ListVolumesResponse => listing::volumes;
    "ControllerListVolumeHealth" controller_list_volume_health(ControllerListVolumeHealthRequest)
        -> ControllerListVolumeHealthResponse => listing::health;
    "ControllerGetVolumeHealth"
        controller_get_volume_health(ControllerGetVolumeHealthRequest) [volume.id = volume_id]
        -> ControllerGetVolumeHealthResponse => volumes::health;
    "GetCapacity" get_capacity(GetCapacityRequest) -> GetCapacityResponse => listing::capacity;
    "ControllerGetCapabilities" controller_get_capabilities(ControllerGetCapabilitiesRequest)
        -> ControllerGetCapabilitiesResponse => capabilities;
    "CreateSnapshot" create_snapshot(CreateSnapshotRequest) [snapshot.name = name]
        -> CreateSnapshotResponse => snapshots::create;
    "DeleteSnapshot" delete_snapshot(DeleteSnapshotRequest) [snapshot.id = snapshot_id]
        -> DeleteSnapshotResponse => snapshots::delete;
    "ListSnapshots" list_snapshots(ListSnapshotsRequest)
        -> ListSnapshotsResponse => snapshots::list;
    "GetSnapshot" get_snapshot(GetSnapshotRequest) [snapshot.id = snapshot_id]
        -> GetSnapshotResponse => snapshots::get;
    "ControllerExpandVolume"
        controller_expand_volume(ControllerExpandVolumeRequest) [volume.id = volume_id]
        -> ControllerExpandVolumeResponse => volumes::expand;
    "ControllerGetVolume" controller_get_volume(ControllerGetVolumeRequest) [volume.id = volume_id]
        -> ControllerGetVolumeResponse => volumes::get;
    "ControllerModifyVolume"
        controller_modify_volume(ControllerModifyVolumeRequest) [volume.id = volume_id]
        -> ControllerModifyVolumeResponse => volumes::modify;
} }

/// LIST_VOLUMES_PUBLISHED_NODES is not here because it demands PUBLISH_UNPUBLISH_VOLUME, which is
/// not here because a local volume is never attached anywhere.
const CAPABILITIES: [Can; 13] = [
    Can::CreateDeleteVolume,
    Can::ListVolumes,
    Can::GetCapacity,
    Can::CreateDeleteSnapshot,
    Can::ListSnapshots,
    Can::CloneVolume,
    Can::ExpandVolume,
    Can::GetVolume,
    // Without it the kubelet gives pods that share a volume SINGLE_NODE_WRITER and a second
    // target, which that mode forbids; and ReadWriteOncePod does not work at all.
    Can::SingleNodeMultiWriter,
    Can::ModifyVolume,
    Can::GetSnapshot,
    Can::GetVolumeHealth,
    Can::ListVolumeHealth,
];

async fn capabilities(
    _: &Door,
    _: ControllerGetCapabilitiesRequest,
) -> Result<ControllerGetCapabilitiesResponse> {
    let capabilities = CAPABILITIES
        .into_iter()
        .map(|can| ControllerServiceCapability {
            r#type: Some(Type::Rpc(Rpc { r#type: can.into() })),
        })
        .collect();
    Ok(ControllerGetCapabilitiesResponse { capabilities })
}

fn no_attach() -> Status {
    Status::unimplemented(
        "volumes of this driver are local and need no attaching; set attachRequired: false",
    )
}

async fn publish(
    _: &Door,
    _: ControllerPublishVolumeRequest,
) -> Result<ControllerPublishVolumeResponse, Status> {
    Err(no_attach())
}

async fn unpublish(
    _: &Door,
    _: ControllerUnpublishVolumeRequest,
) -> Result<ControllerUnpublishVolumeResponse, Status> {
    Err(no_attach())
}
