//! The Identity service: who is this, what can it do, is it well.

use stowage_model::{Kind, Result};
use tonic::Status;

use crate::door::{Door, rpcs};
use crate::proto::identity_server::Identity;
use crate::proto::plugin_capability::{Service, Type, VolumeExpansion, service, volume_expansion};
use crate::proto::{
    GetPluginCapabilitiesRequest, GetPluginCapabilitiesResponse, GetPluginInfoRequest,
    GetPluginInfoResponse, PluginCapability, ProbeRequest, ProbeResponse,
};

rpcs! { Identity {
    "GetPluginInfo" get_plugin_info(GetPluginInfoRequest) -> GetPluginInfoResponse => info;
    "GetPluginCapabilities" get_plugin_capabilities(GetPluginCapabilitiesRequest)
        -> GetPluginCapabilitiesResponse => capabilities;
    "Probe" probe(ProbeRequest) -> ProbeResponse => probe;
} }

async fn info(door: &Door, _: GetPluginInfoRequest) -> Result<GetPluginInfoResponse> {
    Ok(GetPluginInfoResponse {
        name: door.config.driver_name.clone(),
        vendor_version: door.config.vendor_version.clone(),
        manifest: [].into(),
    })
}

async fn capabilities(
    _: &Door,
    _: GetPluginCapabilitiesRequest,
) -> Result<GetPluginCapabilitiesResponse> {
    let service = |s: service::Type| Type::Service(Service { r#type: s.into() });
    let expansion = Type::VolumeExpansion(VolumeExpansion {
        r#type: volume_expansion::Type::Online.into(),
    });
    let all = [
        service(service::Type::ControllerService),
        service(service::Type::VolumeAccessibilityConstraints),
        service(service::Type::GroupControllerService),
        // A snapshot lies in the pool of its volume, so it can be restored on this node only.
        service(service::Type::SnapshotAccessibilityConstraints),
        expansion,
    ];
    Ok(GetPluginCapabilitiesResponse {
        capabilities: all
            .into_iter()
            .map(|t| PluginCapability { r#type: Some(t) })
            .collect(),
    })
}

async fn probe(door: &Door, _: ProbeRequest) -> Result<ProbeResponse, Status> {
    match (door.ready)() {
        Ok(()) => Ok(ProbeResponse { ready: Some(true) }),
        Err(e) if e.kind() == Kind::Pending => Ok(ProbeResponse { ready: Some(false) }),
        // Probe has one code for every way of being unwell.
        Err(e) => {
            tracing::warn!(error = e.chain(), "not ready");
            Err(Status::failed_precondition(e.chain()))
        }
    }
}
