//! The GroupController service: snapshots of several volumes cut at one moment.

use std::collections::BTreeSet;

use stowage_model::params::SnapshotParams;
use stowage_model::request::GroupRequest;
use stowage_model::volumes::Group;
use stowage_model::{Error, Id, Name, Result};

use crate::Config;
use crate::controller::snapshots::{timestamp, wire};
use crate::door::{Door, rpcs};
use crate::fields;
use crate::proto::group_controller_server::GroupController;
use crate::proto::group_controller_service_capability::{Rpc, Type, rpc};
use crate::proto::{
    CreateVolumeGroupSnapshotRequest, CreateVolumeGroupSnapshotResponse,
    DeleteVolumeGroupSnapshotRequest, DeleteVolumeGroupSnapshotResponse,
    GetVolumeGroupSnapshotRequest, GetVolumeGroupSnapshotResponse,
    GroupControllerGetCapabilitiesRequest, GroupControllerGetCapabilitiesResponse,
    GroupControllerServiceCapability, VolumeGroupSnapshot,
};

rpcs! { GroupController {
    "GroupControllerGetCapabilities"
        group_controller_get_capabilities(GroupControllerGetCapabilitiesRequest)
        -> GroupControllerGetCapabilitiesResponse => capabilities;
    "CreateVolumeGroupSnapshot"
        create_volume_group_snapshot(CreateVolumeGroupSnapshotRequest) [group.name = name]
        -> CreateVolumeGroupSnapshotResponse => create;
    "DeleteVolumeGroupSnapshot"
        delete_volume_group_snapshot(DeleteVolumeGroupSnapshotRequest) [group.id = group_snapshot_id]
        -> DeleteVolumeGroupSnapshotResponse => delete;
    "GetVolumeGroupSnapshot"
        get_volume_group_snapshot(GetVolumeGroupSnapshotRequest) [group.id = group_snapshot_id]
        -> GetVolumeGroupSnapshotResponse => get;
} }

async fn capabilities(
    _: &Door,
    _: GroupControllerGetCapabilitiesRequest,
) -> Result<GroupControllerGetCapabilitiesResponse> {
    let rpc = Rpc {
        r#type: rpc::Type::CreateDeleteGetVolumeGroupSnapshot.into(),
    };
    Ok(GroupControllerGetCapabilitiesResponse {
        capabilities: vec![GroupControllerServiceCapability {
            r#type: Some(Type::Rpc(rpc)),
        }],
    })
}

async fn create(
    door: &Door,
    request: CreateVolumeGroupSnapshotRequest,
) -> Result<CreateVolumeGroupSnapshotResponse> {
    fields::needed("name", &request.name)?;
    let name = Name::new(request.name)?;
    if request.source_volume_ids.is_empty() {
        return Err(fields::missing("source_volume_ids"));
    }
    for id in &request.source_volume_ids {
        fields::needed("source_volume_ids", id)?;
    }
    fields::map("secrets", &request.secrets)?;
    fields::map("parameters", &request.parameters)?;
    let unique: BTreeSet<&String> = request.source_volume_ids.iter().collect();
    if unique.len() < request.source_volume_ids.len() {
        return Err(Error::invalid(
            "source_volume_ids names a volume twice; a group cuts each volume once",
        ));
    }
    let params = SnapshotParams::parse(&request.parameters)?;
    let sources = request
        .source_volume_ids
        .iter()
        .map(|id| fields::volume_id(id))
        .collect::<Result<Vec<Id>>>()?;
    let group = door
        .volumes
        .snapshot_group(GroupRequest {
            name,
            sources,
            read_only: params.read_only,
            growth: params.growth,
        })
        .await?;
    Ok(CreateVolumeGroupSnapshotResponse {
        group_snapshot: Some(reply(&door.config, &group)?),
    })
}

async fn delete(
    door: &Door,
    request: DeleteVolumeGroupSnapshotRequest,
) -> Result<DeleteVolumeGroupSnapshotResponse> {
    let done = DeleteVolumeGroupSnapshotResponse {};
    check(&request.group_snapshot_id, &request.snapshot_ids)?;
    fields::map("secrets", &request.secrets)?;
    let Ok(id) = fields::group_id(&request.group_snapshot_id) else {
        return Ok(done);
    };
    // Without members given there is nothing to compare. The spec calls the field required, but a
    // group whose members the orchestrator has forgotten could then never be removed.
    let members = members(&request.snapshot_ids)?;
    fields::gone_is_fine(door.volumes.delete_group(&id, &members).await)?;
    Ok(done)
}

async fn get(
    door: &Door,
    request: GetVolumeGroupSnapshotRequest,
) -> Result<GetVolumeGroupSnapshotResponse> {
    check(&request.group_snapshot_id, &request.snapshot_ids)?;
    fields::map("secrets", &request.secrets)?;
    let id = fields::group_id(&request.group_snapshot_id)?;
    let group = door.volumes.group(&id).await?;
    let given: BTreeSet<Id> = members(&request.snapshot_ids)?.into_iter().collect();
    let real: BTreeSet<Id> = group.members.iter().map(|s| s.record.id.clone()).collect();
    if !given.is_empty() && given != real {
        return Err(not_its_members());
    }
    Ok(GetVolumeGroupSnapshotResponse {
        group_snapshot: Some(reply(&door.config, &group)?),
    })
}

fn check(group: &str, snapshots: &[String]) -> Result<()> {
    fields::needed("group_snapshot_id", group)?;
    snapshots
        .iter()
        .try_for_each(|id| fields::needed("snapshot_ids", id))
}

/// An id we never made up is no member of a group of ours: a mismatch, not an unknown thing.
fn members(ids: &[String]) -> Result<Vec<Id>> {
    ids.iter()
        .map(|id| fields::snapshot_id(id).map_err(|_| not_its_members()))
        .collect()
}

fn not_its_members() -> Error {
    Error::invalid("snapshot_ids are not the members of this group; name all of them and no other")
}

fn reply(config: &Config, group: &Group) -> Result<VolumeGroupSnapshot> {
    let members = group.members.iter().map(|member| wire(config, member));
    let mut snapshots = members.collect::<Result<Vec<_>>>()?;
    for snapshot in &mut snapshots {
        snapshot.group_snapshot_id = group.id.to_string();
    }
    let created = group.members.iter().map(|s| s.record.created).min();
    Ok(VolumeGroupSnapshot {
        group_snapshot_id: group.id.to_string(),
        snapshots,
        creation_time: created.map(timestamp),
        ready_to_use: group.members.iter().all(|member| !member.lost),
    })
}
