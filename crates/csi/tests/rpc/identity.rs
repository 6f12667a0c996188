use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use stowage_csi::proto::plugin_capability::{Type, service, volume_expansion};
use stowage_csi::proto::{
    GetPluginCapabilitiesRequest, GetPluginInfoRequest, ProbeRequest, ProbeResponse,
};
use stowage_model::Error;
use tonic::{Code, Status};

use crate::support::{Server, ok, refused};

#[tokio::test]
async fn the_plugin_tells_its_configured_name_and_version() {
    let mut s = Server::start().await;
    let info = ok(s.identity.get_plugin_info(GetPluginInfoRequest {}).await);
    assert_eq!(info.name, "local.csi.aliyun.com");
    assert_eq!(info.vendor_version, "0.1.0");
}

#[tokio::test]
async fn the_plugin_claims_controller_topology_groups_and_online_expansion() {
    let mut s = Server::start().await;
    let request = GetPluginCapabilitiesRequest {};
    let all = ok(s.identity.get_plugin_capabilities(request).await).capabilities;
    let mut services = Vec::new();
    for capability in all {
        match capability.r#type.unwrap() {
            Type::Service(s) => services.push(s.r#type()),
            Type::VolumeExpansion(e) => assert_eq!(e.r#type(), volume_expansion::Type::Online),
        }
    }
    assert_eq!(
        services,
        [
            service::Type::ControllerService,
            service::Type::VolumeAccessibilityConstraints,
            service::Type::GroupControllerService,
            service::Type::SnapshotAccessibilityConstraints,
        ]
    );
}

async fn probe(s: &mut Server) -> Result<ProbeResponse, Status> {
    Ok(s.identity.probe(ProbeRequest {}).await?.into_inner())
}

#[tokio::test]
async fn probe_tells_starting_from_ready_from_unwell() {
    let calls = AtomicUsize::new(0);
    let mut s = Server::start_with(Arc::new(move || {
        match calls.fetch_add(1, Ordering::Relaxed) {
            0 => Err(Error::pending("reading the pools")),
            1 => Ok(()),
            _ => Err(Error::internal("lvm is not installed")),
        }
    }))
    .await;
    assert_eq!(probe(&mut s).await.unwrap().ready, Some(false));
    assert_eq!(probe(&mut s).await.unwrap().ready, Some(true));
    refused(probe(&mut s).await, Code::FailedPrecondition, "lvm is not");
}
