//! RPCs about every volume at once: which there are, which are unwell, and how many more fit.

use stowage_model::id::Role;
use stowage_model::params::{ClassParams, Origin};
use stowage_model::record::Content;
use stowage_model::volumes::Capacity;
use stowage_model::{Id, Kind, Result, Volume};

use crate::door::Door;
use crate::page::Page;
use crate::proto::list_volumes_response::Entry;
use crate::proto::{
    ControllerListVolumeHealthRequest, ControllerListVolumeHealthResponse, GetCapacityRequest,
    GetCapacityResponse, ListVolumesRequest, ListVolumesResponse,
};
use crate::{capability, context, fields, size, topology};

/// Volumes the caller made and may ask about. One still being filled is not made yet, and an
/// inline one belongs to its pod: it never went through CreateVolume and must not be offered for
/// DeleteVolume.
fn listed(volume: &Volume) -> bool {
    volume.record.content != Content::Filling && !volume.record.ephemeral
}

pub(super) async fn volumes(
    door: &Door,
    request: ListVolumesRequest,
) -> Result<ListVolumesResponse> {
    let page = Page::new(request.max_entries, &request.starting_token, Role::Volume)?;
    let mut all = door.volumes.volumes().await.whole()?;
    all.retain(listed);
    let (entries, next_token) = page.cut(all, |v| &v.record.id);
    Ok(ListVolumesResponse {
        entries: entries
            .iter()
            .map(|volume| Entry {
                volume: Some(context::wire(&door.config, volume)),
                status: None,
            })
            .collect(),
        next_token,
    })
}

/// The volumes that are unwell: what ControllerGetVolumeHealth tells of each, asked for all at once. A pool
/// that cannot be read keeps nothing of the others from being told.
pub(super) async fn health(
    door: &Door,
    request: ControllerListVolumeHealthRequest,
) -> Result<ControllerListVolumeHealthResponse> {
    fields::map("secrets", &request.secrets)?;
    let page = Page::new(request.max_entries, &request.starting_token, Role::Volume)?;
    let mut all = door.volumes.volumes().await.all;
    all.retain(|v| listed(v) && page.reaches(&v.record.id));
    let ids: Vec<Id> = all.into_iter().map(|v| v.record.id).collect();
    let mut found = door.volumes.health_of_all(&ids).await?;
    found.retain(|_, findings| !findings.is_empty());
    let mut reply = ControllerListVolumeHealthResponse::default();
    for (id, findings) in found {
        if page.is_full(reply.entries.len()) {
            if let Some(last) = reply.entries.last() {
                reply.next_token.clone_from(&last.volume_id);
            }
            break;
        }
        reply
            .entries
            .push(crate::health::told(id.as_str(), findings));
    }
    Ok(reply)
}

pub(super) async fn capacity(
    door: &Door,
    request: GetCapacityRequest,
) -> Result<GetCapacityResponse> {
    for capability in &request.volume_capabilities {
        capability::check("volume_capabilities", capability)?;
    }
    fields::map("parameters", &request.parameters)?;
    let class = ClassParams::parse(
        &request.parameters,
        &std::collections::BTreeMap::new(),
        Origin::Class,
    )?;
    let elsewhere = match &request.accessible_topology {
        None => false,
        Some(place) => {
            fields::map("accessible_topology", &place.segments)?;
            !topology::covers(&door.config, place)
        }
    };
    let servable = match capability::wanted(&request.volume_capabilities, class.fs) {
        // Nothing here holds volumes of that kind, which is a capacity and not a mistake.
        Err(e) if e.kind() == Kind::Unsupported => false,
        other => other.map(|_| true)?,
    };
    let Capacity { available, largest } = if servable && !elsewhere {
        door.volumes
            .capacity(&class.placement, class.layout, class.provisioning)
            .await?
    } else {
        Capacity::default()
    };
    Ok(GetCapacityResponse {
        available_capacity: size::wire(available),
        maximum_volume_size: Some(size::wire(largest)),
        minimum_volume_size: None,
    })
}
