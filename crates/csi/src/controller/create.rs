//! CreateVolume: the request with the most to check, every bit of it before anything is made.

use stowage_model::id::Role;
use stowage_model::params::{ClassParams, Origin};
use stowage_model::request::Source;
use stowage_model::{Bytes, FsType, Id, Kind, Name, Record, Result, VolumeRequest};

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
    topology::check(&door.config, request.accessibility_requirements.as_ref())?;
    let source = request
        .volume_content_source
        .as_ref()
        .map(parse_source)
        .transpose()?;
    let hints = match &source {
        Some(source) => hints(door, &name, source).await?,
        None => Hints::default(),
    };
    // A file system nobody names is that of the source: what is copied cannot be another.
    let unnamed = class.fs.or(hints.fs);
    let wanted = capability::wanted(&request.volume_capabilities, unnamed)?;
    // Checked for block volumes too, so that a class is right or wrong whoever uses it first.
    let mut mkfs = class.mkfs(capability::choose_fs(wanted.usage.mount, unnamed))?;
    if wanted.usage.mount.is_none() {
        mkfs.clear();
    }
    let want = VolumeRequest {
        name,
        size: wish.settle(hints.size)?,
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

/// What a request leaves open, and a copy takes from what it copies.
#[derive(Default)]
struct Hints {
    size: Option<Bytes>,
    fs: Option<FsType>,
}

/// From the volume itself if this is the retry of a call that made it, since its source may have
/// grown or gone meanwhile; otherwise from the source. A source that is gone says nothing and
/// refuses nothing: whether it is needed only [`stowage_model::Volumes`] can tell.
async fn hints(door: &Door, name: &Name, source: &Source) -> Result<Hints> {
    let id = Id::derive(Role::Volume, name);
    let made = match door.volumes.volume(&id).await {
        Ok(volume) => Some(volume.record),
        // One that may be where nobody can look does not concern who asks for another pool.
        Err(e) if matches!(e.kind(), Kind::NotFound | Kind::Unavailable) => None,
        Err(e) => return Err(e),
    };
    if let Some(record) = made.filter(|record| record.source.as_ref() == Some(source.id())) {
        return Ok(Hints {
            size: Some(record.asked),
            fs: file_system(&record),
        });
    }
    let found = match source {
        Source::Volume(id) => door.volumes.volume(id).await.map(|v| (v.size, v.record)),
        Source::Snapshot(id) => {
            let found = door.volumes.one_snapshot(id).await;
            found.map(|s| (s.size, s.record))
        }
    };
    match found {
        Ok((size, record)) => Ok(Hints {
            size: Some(size),
            fs: file_system(&record),
        }),
        Err(e) if e.kind() == Kind::NotFound => Ok(Hints::default()),
        Err(e) => Err(e),
    }
}

fn file_system(record: &Record) -> Option<FsType> {
    record.content.file_system().or(record.usage.mount)
}
