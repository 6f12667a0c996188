//! CreateVolume: the request with the most to check, every bit of it before anything is made.

use stowage_model::params::{ClassParams, Origin};
use stowage_model::request::Source;
use stowage_model::{Bytes, Name, Result, VolumeRequest};

use crate::door::Door;
use crate::proto::volume_content_source::Type;
use crate::proto::{CreateVolumeRequest, CreateVolumeResponse, VolumeContentSource};
use crate::size::Wish;
use crate::{capability, context, fields, topology};

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
    let wish = Wish::parse(request.capacity_range.as_ref())?;
    let class = ClassParams::parse(
        &request.parameters,
        &request.mutable_parameters,
        Origin::Class,
    )?;
    let wanted = capability::wanted(&request.volume_capabilities, class.fs)?;
    // Checked for block volumes too, so that a class is right or wrong whoever uses it first.
    let mut mkfs = class.mkfs(capability::choose_fs(wanted.usage.mount, class.fs))?;
    if wanted.usage.mount.is_none() {
        mkfs.clear();
    }
    topology::check(&door.config, request.accessibility_requirements.as_ref())?;
    let source = request
        .volume_content_source
        .as_ref()
        .map(parse_source)
        .transpose()?;
    let source_size = match &source {
        Some(source) if wish.is_open() => Some(size_of(door, source).await?),
        _ => None,
    };
    let want = VolumeRequest {
        name,
        size: wish.settle(source_size)?,
        usage: wanted.usage,
        placement: class.placement,
        layout: class.layout,
        provisioning: class.provisioning,
        mkfs,
        limits: class.limits,
        source,
        read_only: wanted.read_only,
    };
    let volume = door.volumes.create(want).await?;
    let pools = door.volumes.pools().await?;
    let mut reply = context::wire(&door.config, &volume, &pools);
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

async fn size_of(door: &Door, source: &Source) -> Result<Bytes> {
    match source {
        Source::Volume(id) => Ok(door.volumes.volume(id).await?.size),
        Source::Snapshot(id) => Ok(super::snapshots::find(door, id).await?.size),
    }
}
