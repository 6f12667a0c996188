//! RPCs about one volume that exists, or should not.

use stowage_model::params::{ClassParams, Origin};
use stowage_model::request::Media;
use stowage_model::{LimitsChange, Result, Volume};

use crate::door::Door;
use crate::proto::controller_get_volume_response::VolumeStatus;
use crate::proto::validate_volume_capabilities_response::Confirmed;
use crate::proto::volume_capability::AccessType;
use crate::proto::{
    ControllerExpandVolumeRequest, ControllerExpandVolumeResponse,
    ControllerGetVolumeHealthRequest, ControllerGetVolumeHealthResponse,
    ControllerGetVolumeRequest, ControllerGetVolumeResponse, ControllerModifyVolumeRequest,
    ControllerModifyVolumeResponse, DeleteVolumeRequest, DeleteVolumeResponse,
    ValidateVolumeCapabilitiesRequest, ValidateVolumeCapabilitiesResponse,
};
use crate::{capability, context, fields, size};

pub(super) async fn delete(
    door: &Door,
    request: DeleteVolumeRequest,
) -> Result<DeleteVolumeResponse> {
    fields::needed("volume_id", &request.volume_id)?;
    fields::map("secrets", &request.secrets)?;
    // An id we never made up names nothing of ours, so it is as gone as one we removed.
    if let Ok(id) = fields::volume_id(&request.volume_id) {
        fields::gone_is_fine(door.volumes.delete(&id).await)?;
    }
    Ok(DeleteVolumeResponse {})
}

pub(super) async fn expand(
    door: &Door,
    request: ControllerExpandVolumeRequest,
) -> Result<ControllerExpandVolumeResponse> {
    fields::needed("volume_id", &request.volume_id)?;
    fields::map("secrets", &request.secrets)?;
    let to = size::of_growth(request.capacity_range.as_ref())?;
    let capability = request.volume_capability.as_ref();
    capability.map_or(Ok(()), |c| capability::check("volume_capability", c))?;
    let id = fields::volume_id(&request.volume_id)?;
    let grown = door.volumes.grow(&id, to).await?;
    let block = capability.is_some_and(|c| matches!(c.access_type, Some(AccessType::Block(_))));
    Ok(ControllerExpandVolumeResponse {
        capacity_bytes: size::wire(grown.size),
        node_expansion_required: grown.file_system_pending && !block,
    })
}

pub(super) async fn modify(
    door: &Door,
    request: ControllerModifyVolumeRequest,
) -> Result<ControllerModifyVolumeResponse> {
    fields::needed("volume_id", &request.volume_id)?;
    fields::map("secrets", &request.secrets)?;
    fields::map("mutable_parameters", &request.mutable_parameters)?;
    if request.mutable_parameters.is_empty() {
        return Err(fields::missing("mutable_parameters"));
    }
    let id = fields::volume_id(&request.volume_id)?;
    // All keys are read before any is applied: a bad one changes nothing.
    let change = LimitsChange::from_map(&request.mutable_parameters)?;
    door.volumes.modify(&id, change).await?;
    Ok(ControllerModifyVolumeResponse {})
}

pub(super) async fn get(
    door: &Door,
    request: ControllerGetVolumeRequest,
) -> Result<ControllerGetVolumeResponse> {
    fields::needed("volume_id", &request.volume_id)?;
    let id = fields::volume_id(&request.volume_id)?;
    let volume = door.volumes.volume(&id).await?;
    Ok(ControllerGetVolumeResponse {
        volume: Some(context::wire(&door.config, &volume)),
        status: Some(VolumeStatus::default()),
    })
}

pub(super) async fn health(
    door: &Door,
    request: ControllerGetVolumeHealthRequest,
) -> Result<ControllerGetVolumeHealthResponse> {
    fields::needed("volume_id", &request.volume_id)?;
    fields::map("secrets", &request.secrets)?;
    let id = fields::volume_id(&request.volume_id)?;
    Ok(ControllerGetVolumeHealthResponse {
        volume_health: Some(crate::health::volume(door, &id, &request.volume_id).await?),
    })
}

async fn medium(door: &Door, volume: &Volume) -> Result<Option<Media>> {
    let pools = door.volumes.pools().await?;
    let own = pools.iter().find(|pool| pool.name == volume.pool);
    Ok(own.and_then(|pool| pool.media))
}

/// Whether the volume can do all that is asked. What it cannot is a "no" with a reason, not a
/// failure of the call; only a malformed question is.
pub(super) async fn validate(
    door: &Door,
    request: ValidateVolumeCapabilitiesRequest,
) -> Result<ValidateVolumeCapabilitiesResponse> {
    fields::needed("volume_id", &request.volume_id)?;
    capability::check_all(&request.volume_capabilities)?;
    fields::map("volume_context", &request.volume_context)?;
    fields::map("parameters", &request.parameters)?;
    fields::map("mutable_parameters", &request.mutable_parameters)?;
    fields::map("secrets", &request.secrets)?;
    let id = fields::volume_id(&request.volume_id)?;
    let volume = door.volumes.volume(&id).await?;
    let class = ClassParams::parse(
        &request.parameters,
        &request.mutable_parameters,
        Origin::Class,
    );
    // The one thing about a volume that needs a look at its pool.
    let media = match &class {
        Ok(class) if class.placement.media.is_some() => medium(door, &volume).await?,
        _ => None,
    };

    let answer = || {
        request
            .volume_capabilities
            .iter()
            .try_for_each(|c| capability::mismatch(c, &volume.record))?;
        let class = class?;
        if !request.parameters.is_empty() {
            context::mismatch(&class, &volume, media)?;
        }
        let own = context::context(&volume);
        if own.iter().any(|(key, value)| {
            request
                .volume_context
                .get(key)
                .is_some_and(|given| given != value)
        }) {
            return Err(stowage_model::Error::precondition(
                "volume_context is not this volume's",
            ));
        }
        Ok(())
    };
    Ok(match answer() {
        Err(no) => ValidateVolumeCapabilitiesResponse {
            confirmed: None,
            message: no.chain(),
        },
        Ok(()) => ValidateVolumeCapabilitiesResponse {
            confirmed: Some(Confirmed {
                volume_context: request.volume_context,
                volume_capabilities: request.volume_capabilities,
                parameters: request.parameters,
                mutable_parameters: request.mutable_parameters,
            }),
            message: String::new(),
        },
    })
}
