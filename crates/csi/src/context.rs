//! A volume as CSI tells it, the same in every RPC.

use std::collections::BTreeMap;

use stowage_model::id::Role;
use stowage_model::params::ClassParams;
use stowage_model::request::{Layout, Media};
use stowage_model::{Error, PoolKind, Record, Result, Volume};

use crate::proto::volume_content_source::{SnapshotSource, Type, VolumeSource};
use crate::proto::{self, VolumeContentSource};
use crate::{Config, size, topology};

/// The volume for a reply.
pub(crate) fn wire(config: &Config, volume: &Volume) -> proto::Volume {
    proto::Volume {
        capacity_bytes: size::wire(volume.size),
        volume_id: volume.record.id.to_string(),
        volume_context: context(volume),
        content_source: source(&volume.record),
        accessible_topology: vec![topology::here(config)],
    }
}

/// The attributes Kubernetes shows in the PersistentVolume, with open-local's keys: what the
/// volume is and where.
///
/// "A volume uniquely identified by volume_id SHALL always report the same volume_context", and
/// ListVolumes has no parameters to echo. So it is built from what is on the disk, not from the
/// request, and holds nothing that can change (limits), is secret, or needs a look at a pool, whose
/// disks may hang. The node needs none of it.
pub(crate) fn context(volume: &Volume) -> BTreeMap<String, String> {
    let mut context = BTreeMap::from([("pool".to_owned(), volume.pool.to_string())]);
    let mut put = |key: &str, value: &str| context.insert(key.to_owned(), value.to_owned());
    put(
        "volumeType",
        match volume.kind {
            PoolKind::Lvm => "LVM",
            PoolKind::Thin => "Thin",
            PoolKind::File => "File",
        },
    );
    if let Some(vg) = &volume.vg {
        put("vgName", vg);
    }
    if volume.kind == PoolKind::File {
        put("provisioning", volume.record.provisioning.as_str());
    }
    if volume.kind == PoolKind::Lvm {
        put(
            "lvmType",
            match volume.record.layout {
                Layout::Linear => "linear",
                Layout::Striped => "striping",
                Layout::Raid1 => "raid1",
            },
        );
    }
    context
}

fn source(record: &Record) -> Option<VolumeContentSource> {
    let id = record.source.as_ref()?;
    Some(VolumeContentSource {
        r#type: Some(match id.role() {
            Role::Snapshot => Type::Snapshot(SnapshotSource {
                snapshot_id: id.to_string(),
            }),
            Role::Volume | Role::Group => Type::Volume(VolumeSource {
                volume_id: id.to_string(),
            }),
        }),
    })
}

/// Why an existing volume, on this medium, is not what these class parameters make.
///
/// # Errors
/// [`stowage_model::Kind::Precondition`] naming the first parameter that differs.
pub(crate) fn mismatch(params: &ClassParams, volume: &Volume, media: Option<Media>) -> Result<()> {
    let record = &volume.record;
    let place = &params.placement;
    let differs = [
        (
            "pool",
            place.pool.as_ref().is_some_and(|n| *n != volume.pool),
        ),
        ("volumeType", place.kind.is_some_and(|k| k != volume.kind)),
        ("mediaType", place.media.is_some() && place.media != media),
        ("vgName", place.vg.is_some() && place.vg != volume.vg),
        ("lvmType", params.layout != record.layout),
        ("provisioning", params.provisioning != record.provisioning),
    ];
    match differs.into_iter().find(|(_, differs)| *differs) {
        None => Ok(()),
        Some((key, _)) => Err(Error::precondition(format!(
            "the volume was not made with this {key}"
        ))),
    }
}
