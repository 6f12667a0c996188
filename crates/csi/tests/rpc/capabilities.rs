//! What each service claims, and that nothing claimed is missing.

use stowage_csi::proto::controller_service_capability::{Type, rpc::Type as Can};
use stowage_csi::proto::node_service_capability::{Type as NodeType, rpc::Type as NodeCan};
use stowage_csi::proto::{
    ControllerGetCapabilitiesRequest, ControllerPublishVolumeRequest,
    ControllerUnpublishVolumeRequest, GroupControllerGetCapabilitiesRequest,
    NodeGetCapabilitiesRequest, NodeGetInfoRequest,
};
use tonic::Code;

use crate::support::{Server, ok, refused};

#[tokio::test]
async fn the_controller_claims_all_but_attaching() {
    let mut s = Server::start().await;
    let request = ControllerGetCapabilitiesRequest {};
    let all = ok(s.controller.controller_get_capabilities(request).await).capabilities;
    let mut claimed: Vec<i32> = all
        .into_iter()
        .map(|c| match c.r#type.unwrap() {
            Type::Rpc(rpc) => rpc.r#type,
        })
        .collect();
    claimed.sort_unstable();
    let attach = [
        Can::PublishUnpublishVolume,
        Can::PublishReadonly,
        Can::ListVolumesPublishedNodes,
    ];
    // Number 11 was VOLUME_CONDITION, gone in 1.13.
    let rest: Vec<i32> = (1..=17)
        .filter(|n| *n != 11 && attach.iter().all(|a| i32::from(*a) != *n))
        .collect();
    assert_eq!(claimed, rest);
}

#[tokio::test]
async fn attaching_is_unimplemented_as_it_is_not_claimed() {
    let mut s = Server::start().await;
    let request = ControllerPublishVolumeRequest::default();
    let answer = s.controller.controller_publish_volume(request).await;
    refused(answer, Code::Unimplemented, "attach");
    let request = ControllerUnpublishVolumeRequest::default();
    let answer = s.controller.controller_unpublish_volume(request).await;
    refused(answer, Code::Unimplemented, "attach");
}

#[tokio::test]
async fn the_node_claims_all_but_mount_groups() {
    let mut s = Server::start().await;
    let request = NodeGetCapabilitiesRequest {};
    let all = ok(s.node.node_get_capabilities(request).await).capabilities;
    let claimed: Vec<NodeCan> = all
        .into_iter()
        .map(|c| match c.r#type.unwrap() {
            NodeType::Rpc(rpc) => rpc.r#type(),
        })
        .collect();
    assert_eq!(
        claimed,
        [
            NodeCan::StageUnstageVolume,
            NodeCan::GetVolumeStats,
            NodeCan::ExpandVolume,
            NodeCan::SingleNodeMultiWriter,
            NodeCan::GetVolumeHealth,
            NodeCan::GetStorageHealth,
        ]
    );
}

#[tokio::test]
async fn the_group_controller_claims_its_one_capability() {
    let mut s = Server::start().await;
    let request = GroupControllerGetCapabilitiesRequest {};
    let all = ok(s.group.group_controller_get_capabilities(request).await);
    assert_eq!(all.capabilities.len(), 1);
}

#[tokio::test]
async fn the_node_tells_its_id_place_and_room() {
    let mut s = Server::start().await;
    let info = ok(s.node.node_get_info(NodeGetInfoRequest {}).await);
    assert_eq!(info.node_id, "node-1");
    assert_eq!(info.max_volumes_per_node, 256);
    let place = info.accessible_topology.unwrap().segments;
    assert_eq!(place.get("kubernetes.io/hostname").unwrap(), "node-1");
    assert_eq!(place.len(), 1);
}
