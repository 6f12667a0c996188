//! Snapshots, one at a time.

use jiff::Timestamp;
use stowage_model::id::Role;
use stowage_model::params::SnapshotParams;
use stowage_model::{Error, Id, Name, Result, Snapshot, SnapshotRequest};

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
pub(crate) fn wire(snapshot: &Snapshot) -> Result<proto::Snapshot> {
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
        // Optional, and left out: csi-sanity 5.6.0 compares it with the node's by reflection, a
        // size cached by the Go library included, so that every answer but none fails. Tell
        // `topology::here` once that is mended; until then requirements are checked all the same.
        accessible_topology: Vec::new(),
    })
}

/// The snapshot of this id.
pub(super) async fn find(door: &Door, id: &Id) -> Result<Snapshot> {
    let all = door.volumes.snapshots().await?;
    all.into_iter()
        .find(|s| s.record.id == *id)
        .ok_or_else(|| Error::not_found(format!("there is no snapshot with the id {id}")))
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
    Ok(CreateSnapshotResponse {
        snapshot: Some(wire(&snapshot)?),
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
    let snapshot = find(door, &id).await?;
    Ok(GetSnapshotResponse {
        snapshot: Some(wire(&snapshot)?),
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
    let mut all = door.volumes.snapshots().await?;
    all.retain(|s| matches(s) && s.source().is_some());
    let (entries, next_token) = page.cut(all, |s| &s.record.id);
    let entries = entries
        .iter()
        .map(|s| {
            Ok(Entry {
                snapshot: Some(wire(s)?),
            })
        })
        .collect::<Result<Vec<_>>>()?;
    Ok(ListSnapshotsResponse {
        entries,
        next_token,
    })
}
