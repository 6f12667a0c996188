//! CreateVolume: the request with the most to check, every bit of it before anything is made.

use stowage_model::params::{ClassParams, Origin};
use stowage_model::request::Source;
use stowage_model::{Name, Result, VolumeRequest};

use crate::door::Door;
use crate::proto::volume_content_source::Type;
use crate::proto::{CreateVolumeRequest, CreateVolumeResponse, VolumeContentSource};
use crate::{capability, context, fields, size, topology};

pub(super) async fn create(
    door: &Door,
    request: CreateVolumeRequest,
) -> Result<CreateVolumeResponse> {
    fields::needed("name", &request.name)?;
    capability::check_all(&request.volume_capabilities)?;
    fields::map("parameters", &request.parameters)?;
    fields::map("mutable_parameters", &request.mutable_parameters)?;
    fields::map("secrets", &request.secrets)?;
    let name = Name::new(request.name)?;
    let (size, limit) = size::of_new(request.capacity_range.as_ref())?;
    let class = ClassParams::parse(
        &request.parameters,
        &request.mutable_parameters,
        Origin::Class,
    )?;
    topology::check(&door.config, request.accessibility_requirements.as_ref())?;
    let source = request
        .volume_content_source
        .as_ref()
        .map(parse_source)
        .transpose()?;
    let wanted = capability::wanted(&request.volume_capabilities, class.fs)?;
    let want = VolumeRequest {
        name,
        size,
        limit,
        usage: wanted.usage,
        mount_flags: wanted.mount_flags,
        placement: class.placement,
        layout: class.layout,
        provisioning: class.provisioning,
        mkfs: class.mkfs_options,
        limits: class.limits,
        source,
        read_only: wanted.read_only,
    };
    let volume = door.volumes.create(want).await?;
    let mut reply = context::wire(&door.config, &volume);
    // The source must be echoed, and as it was asked.
    reply.content_source = request.volume_content_source.or(reply.content_source);
    Ok(CreateVolumeResponse {
        volume: Some(reply),
    })
}

fn parse_source(source: &VolumeContentSource) -> Result<Source> {
    match &source.r#type {
        None => Err(fields::missing(
            "volume_content_source.type (snapshot or volume)",
        )),
        Some(Type::Snapshot(from)) => {
            fields::needed(
                "volume_content_source.snapshot.snapshot_id",
                &from.snapshot_id,
            )?;
            fields::snapshot_id(&from.snapshot_id).map(Source::Snapshot)
        }
        Some(Type::Volume(from)) => {
            fields::needed("volume_content_source.volume.volume_id", &from.volume_id)?;
            fields::volume_id(&from.volume_id).map(Source::Volume)
        }
    }
}
