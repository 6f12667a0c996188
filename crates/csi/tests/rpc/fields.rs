//! Every field of every request: missing where it is required, too large where it is not, and
//! each refusal names it.

use stowage_csi::proto::volume_capability::access_mode::Mode;
use stowage_csi::proto::{
    ControllerExpandVolumeRequest, ControllerGetVolumeHealthRequest, ControllerGetVolumeRequest,
    ControllerListVolumeHealthRequest, ControllerModifyVolumeRequest,
    CreateVolumeGroupSnapshotRequest, DeleteSnapshotRequest, DeleteVolumeGroupSnapshotRequest,
    DeleteVolumeRequest, GetCapacityRequest, GetSnapshotRequest, GetVolumeGroupSnapshotRequest,
    ListSnapshotsRequest, ListVolumesRequest, NodeExpandVolumeRequest, NodeGetStorageHealthRequest,
    NodeGetVolumeHealthRequest, NodeGetVolumeStatsRequest, NodeUnpublishVolumeRequest,
    NodeUnstageVolumeRequest, TopologyRequirement, ValidateVolumeCapabilitiesRequest,
    VolumeContentSource,
};
use stowage_csi::proto::{CreateSnapshotRequest, volume_content_source as source};
use tonic::Code;

use crate::support::{Server, absent, big_map, flagged, mount, place, range, refused, volume};

/// Send the good request once per row with one field bent; each must be refused by its name.
macro_rules! refuses {
    ($client:expr, $method:ident, $good:expr, { $($field:literal: $request:ident => $bend:expr;)+ }) => {
        $({
            let mut $request = $good.clone();
            $bend;
            refused($client.$method($request).await, Code::InvalidArgument, $field);
        })+
    };
}

fn long() -> String {
    "x".repeat(129)
}

fn long_path() -> String {
    format!("/{}", "p/".repeat(2048))
}

#[tokio::test]
async fn create_volume_names_the_field_it_refuses() {
    let mut s = Server::start().await;
    let good = volume("n");
    let from = |from: source::Type| Some(VolumeContentSource { r#type: Some(from) });
    let snapshot = |id: &str| {
        from(source::Type::Snapshot(source::SnapshotSource {
            snapshot_id: id.into(),
        }))
    };
    let clone = |id: &str| {
        from(source::Type::Volume(source::VolumeSource {
            volume_id: id.into(),
        }))
    };
    refuses!(s.controller, create_volume, good, {
        "name": r => r.name.clear();
        "name": r => r.name = long();
        "volume_capabilities": r => r.volume_capabilities.clear();
        "parameters": r => r.parameters = big_map();
        "mutable_parameters": r => r.mutable_parameters = big_map();
        "secrets": r => r.secrets = big_map();
        "volume_content_source": r => r.volume_content_source = Some(VolumeContentSource::default());
        "snapshot_id": r => r.volume_content_source = snapshot("");
        "snapshot_id": r => r.volume_content_source = snapshot(&long());
        "volume_id": r => r.volume_content_source = clone("");
        "volume_id": r => r.volume_content_source = clone(&long());
        "accessibility_requirements": r => r.accessibility_requirements = Some(TopologyRequirement {
            requisite: vec![place(&[("k", &"v".repeat(4096))])],
            preferred: vec![],
        });
    });
    assert!(s.fake.state().volumes.is_empty());
}

#[tokio::test]
async fn controller_rpcs_name_the_field_they_refuse() {
    let mut s = Server::start().await;
    let c = &mut s.controller;
    let id = absent('v');
    let good = DeleteVolumeRequest {
        volume_id: id.clone(),
        ..Default::default()
    };
    refuses!(c, delete_volume, good, {
        "volume_id": r => r.volume_id.clear();
        "volume_id": r => r.volume_id = long();
        "secrets": r => r.secrets = big_map();
    });
    let good = ControllerExpandVolumeRequest {
        volume_id: id.clone(),
        capacity_range: Some(range(1, 0)),
        ..Default::default()
    };
    refuses!(c, controller_expand_volume, good, {
        "volume_id": r => r.volume_id.clear();
        "volume_id": r => r.volume_id = long();
        "secrets": r => r.secrets = big_map();
        "capacity_range": r => r.capacity_range = None;
        "capacity_range": r => r.capacity_range = Some(range(0, 0));
        "required_bytes": r => r.capacity_range = Some(range(-1, 0));
        "limit_bytes": r => r.capacity_range = Some(range(1, -1));
        "access_type": r => r.volume_capability = Some(Default::default());
    });
    let good = ControllerModifyVolumeRequest {
        volume_id: id.clone(),
        mutable_parameters: crate::support::map(&[("bps", "1")]),
        ..Default::default()
    };
    refuses!(c, controller_modify_volume, good, {
        "volume_id": r => r.volume_id.clear();
        "volume_id": r => r.volume_id = long();
        "secrets": r => r.secrets = big_map();
        "mutable_parameters": r => r.mutable_parameters.clear();
        "mutable_parameters": r => r.mutable_parameters = big_map();
    });
    let good = ValidateVolumeCapabilitiesRequest {
        volume_id: id.clone(),
        volume_capabilities: vec![mount("", Mode::SingleNodeWriter)],
        ..Default::default()
    };
    refuses!(c, validate_volume_capabilities, good, {
        "volume_id": r => r.volume_id.clear();
        "volume_id": r => r.volume_id = long();
        "volume_capabilities": r => r.volume_capabilities.clear();
        "access_mode": r => r.volume_capabilities = vec![mount("", Mode::Unknown)];
        "volume_context": r => r.volume_context = big_map();
        "parameters": r => r.parameters = big_map();
        "mutable_parameters": r => r.mutable_parameters = big_map();
        "secrets": r => r.secrets = big_map();
    });
    let good = ControllerGetVolumeRequest {
        volume_id: id.clone(),
    };
    refuses!(c, controller_get_volume, good, {
        "volume_id": r => r.volume_id.clear();
        "volume_id": r => r.volume_id = long();
    });
    let good = ControllerGetVolumeHealthRequest {
        volume_id: id,
        ..Default::default()
    };
    refuses!(c, controller_get_volume_health, good, {
        "volume_id": r => r.volume_id.clear();
        "volume_id": r => r.volume_id = long();
        "secrets": r => r.secrets = big_map();
    });
    refuses!(c, get_capacity, GetCapacityRequest::default(), {
        "parameters": r => r.parameters = big_map();
        "accessible_topology": r => r.accessible_topology = Some(place(&[("k", &"v".repeat(4096))]));
        "access_mode": r => r.volume_capabilities = vec![mount("", Mode::Unknown)];
    });
}

#[tokio::test]
async fn listings_name_the_field_they_refuse() {
    let mut s = Server::start().await;
    let c = &mut s.controller;
    refuses!(c, list_volumes, ListVolumesRequest::default(), {
        "max_entries": r => r.max_entries = -1;
        "max_entries": r => r.max_entries = i32::MIN;
        "starting_token": r => r.starting_token = long();
    });
    refuses!(c, controller_list_volume_health, ControllerListVolumeHealthRequest::default(), {
        "max_entries": r => r.max_entries = -1;
        "starting_token": r => r.starting_token = long();
        "secrets": r => r.secrets = big_map();
    });
    refuses!(c, list_snapshots, ListSnapshotsRequest::default(), {
        "max_entries": r => r.max_entries = -1;
        "starting_token": r => r.starting_token = long();
        "source_volume_id": r => r.source_volume_id = long();
        "snapshot_id": r => r.snapshot_id = long();
        "secrets": r => r.secrets = big_map();
    });
}

#[tokio::test]
async fn snapshot_rpcs_name_the_field_they_refuse() {
    let mut s = Server::start().await;
    let c = &mut s.controller;
    let good = CreateSnapshotRequest {
        name: "n".into(),
        source_volume_id: absent('v'),
        ..Default::default()
    };
    refuses!(c, create_snapshot, good, {
        "name": r => r.name.clear();
        "name": r => r.name = long();
        "name": r => r.name = "a\u{7}".into();
        "source_volume_id": r => r.source_volume_id.clear();
        "source_volume_id": r => r.source_volume_id = long();
        "secrets": r => r.secrets = big_map();
        "parameters": r => r.parameters = big_map();
        "colour": r => r.parameters = crate::support::map(&[("colour", "blue")]);
    });
    let good = DeleteSnapshotRequest {
        snapshot_id: absent('s'),
        ..Default::default()
    };
    refuses!(c, delete_snapshot, good, {
        "snapshot_id": r => r.snapshot_id.clear();
        "snapshot_id": r => r.snapshot_id = long();
        "secrets": r => r.secrets = big_map();
    });
    let good = GetSnapshotRequest {
        snapshot_id: absent('s'),
        ..Default::default()
    };
    refuses!(c, get_snapshot, good, {
        "snapshot_id": r => r.snapshot_id.clear();
        "snapshot_id": r => r.snapshot_id = long();
        "secrets": r => r.secrets = big_map();
    });
}

#[tokio::test]
async fn group_rpcs_name_the_field_they_refuse() {
    let mut s = Server::start().await;
    let g = &mut s.group;
    let good = CreateVolumeGroupSnapshotRequest {
        name: "n".into(),
        source_volume_ids: vec![absent('v')],
        ..Default::default()
    };
    refuses!(g, create_volume_group_snapshot, good, {
        "name": r => r.name.clear();
        "name": r => r.name = long();
        "source_volume_ids": r => r.source_volume_ids.clear();
        "source_volume_ids": r => r.source_volume_ids.push(String::new());
        "source_volume_ids": r => r.source_volume_ids.push(long());
        "source_volume_ids": r => r.source_volume_ids.push(absent('v'));
        "secrets": r => r.secrets = big_map();
        "parameters": r => r.parameters = big_map();
        "colour": r => r.parameters = crate::support::map(&[("colour", "blue")]);
    });
    let good = DeleteVolumeGroupSnapshotRequest {
        group_snapshot_id: absent('g'),
        ..Default::default()
    };
    refuses!(g, delete_volume_group_snapshot, good, {
        "group_snapshot_id": r => r.group_snapshot_id.clear();
        "group_snapshot_id": r => r.group_snapshot_id = long();
        "snapshot_ids": r => r.snapshot_ids.push(long());
        "secrets": r => r.secrets = big_map();
    });
    let good = GetVolumeGroupSnapshotRequest {
        group_snapshot_id: absent('g'),
        ..Default::default()
    };
    refuses!(g, get_volume_group_snapshot, good, {
        "group_snapshot_id": r => r.group_snapshot_id.clear();
        "group_snapshot_id": r => r.group_snapshot_id = long();
        "snapshot_ids": r => r.snapshot_ids.push(String::new());
        "secrets": r => r.secrets = big_map();
    });
}

#[tokio::test]
async fn stage_and_publish_name_the_field_they_refuse() {
    let mut s = Server::start().await;
    let id = s.made("n").await.volume_id;
    let many_flags = || Some(flagged("", Mode::SingleNodeWriter, &[&"x".repeat(4097)]));
    let good = s.staging(&id);
    refuses!(s.node, node_stage_volume, good, {
        "volume_id": r => r.volume_id.clear();
        "volume_id": r => r.volume_id = long();
        "staging_target_path": r => r.staging_target_path.clear();
        "staging_target_path": r => r.staging_target_path = long_path();
        "staging_target_path": r => r.staging_target_path = "some/path".into();
        "staging_target_path": r => r.staging_target_path = "/a/../b".into();
        "volume_capability": r => r.volume_capability = None;
        "mount_flags": r => r.volume_capability = many_flags();
        "publish_context": r => r.publish_context = big_map();
        "volume_context": r => r.volume_context = big_map();
        "secrets": r => r.secrets = big_map();
    });
    let good = s.publishing(&id, "target");
    refuses!(s.node, node_publish_volume, good, {
        "volume_id": r => r.volume_id.clear();
        "volume_id": r => r.volume_id = long();
        "target_path": r => r.target_path.clear();
        "target_path": r => r.target_path = long_path();
        "target_path": r => r.target_path = "some/path".into();
        "staging_target_path": r => r.staging_target_path = long_path();
        "staging_target_path": r => r.staging_target_path = "some/path".into();
        "volume_capability": r => r.volume_capability = None;
        "mount_flags": r => r.volume_capability = many_flags();
        "publish_context": r => r.publish_context = big_map();
        "volume_context": r => r.volume_context = big_map();
        "secrets": r => r.secrets = big_map();
    });
}

#[tokio::test]
async fn other_node_rpcs_name_the_field_they_refuse() {
    let mut s = Server::start().await;
    let n = &mut s.node;
    let good = NodeUnstageVolumeRequest {
        volume_id: absent('v'),
        staging_target_path: "/staging".into(),
    };
    refuses!(n, node_unstage_volume, good, {
        "volume_id": r => r.volume_id.clear();
        "volume_id": r => r.volume_id = long();
        "staging_target_path": r => r.staging_target_path.clear();
        "staging_target_path": r => r.staging_target_path = long_path();
        "staging_target_path": r => r.staging_target_path = "some/path".into();
    });
    let good = NodeUnpublishVolumeRequest {
        volume_id: absent('v'),
        target_path: "/target".into(),
    };
    refuses!(n, node_unpublish_volume, good, {
        "volume_id": r => r.volume_id.clear();
        "volume_id": r => r.volume_id = long();
        "target_path": r => r.target_path.clear();
        "target_path": r => r.target_path = long_path();
        "target_path": r => r.target_path = "some/path".into();
    });
    let good = NodeGetVolumeStatsRequest {
        volume_id: absent('v'),
        volume_path: "/target".into(),
        ..Default::default()
    };
    refuses!(n, node_get_volume_stats, good, {
        "volume_id": r => r.volume_id.clear();
        "volume_id": r => r.volume_id = long();
        "volume_path": r => r.volume_path.clear();
        "volume_path": r => r.volume_path = long_path();
        "staging_target_path": r => r.staging_target_path = long_path();
    });
    let good = NodeExpandVolumeRequest {
        volume_id: absent('v'),
        volume_path: "/target".into(),
        ..Default::default()
    };
    refuses!(n, node_expand_volume, good, {
        "volume_id": r => r.volume_id.clear();
        "volume_id": r => r.volume_id = long();
        "volume_path": r => r.volume_path.clear();
        "volume_path": r => r.volume_path = long_path();
        "staging_target_path": r => r.staging_target_path = long_path();
        "required_bytes": r => r.capacity_range = Some(range(-1, 0));
        "limit_bytes": r => r.capacity_range = Some(range(1, -1));
        "access_mode": r => r.volume_capability = Some(mount("", Mode::Unknown));
        "secrets": r => r.secrets = big_map();
    });
    let good = NodeGetVolumeHealthRequest {
        volume_id: absent('v'),
        ..Default::default()
    };
    refuses!(n, node_get_volume_health, good, {
        "volume_id": r => r.volume_id.clear();
        "volume_id": r => r.volume_id = long();
        "volume_publish_path": r => r.volume_publish_path = long_path();
        "staging_target_path": r => r.staging_target_path = long_path();
    });
    refuses!(n, node_get_storage_health, NodeGetStorageHealthRequest::default(), {
        "secrets": r => r.secrets = big_map();
    });
}
