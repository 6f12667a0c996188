//! The daemon's CSI socket, called without async, and requests that are right until a test bends
//! them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use stowage_csi::client::connect;
use stowage_csi::proto::controller_client::ControllerClient;
use stowage_csi::proto::group_controller_client::GroupControllerClient;
use stowage_csi::proto::node_client::NodeClient;
pub use stowage_csi::proto::volume_capability::access_mode::Mode;
use stowage_csi::proto::volume_capability::{AccessMode, AccessType, BlockVolume, MountVolume};
use stowage_csi::proto::volume_content_source::{SnapshotSource, Type, VolumeSource};
use stowage_csi::proto::{
    CapacityRange, ControllerExpandVolumeRequest, ControllerGetVolumeHealthRequest,
    ControllerGetVolumeRequest, ControllerModifyVolumeRequest, CreateSnapshotRequest,
    CreateVolumeGroupSnapshotRequest, CreateVolumeRequest, DeleteSnapshotRequest,
    DeleteVolumeGroupSnapshotRequest, DeleteVolumeRequest, GetCapacityRequest, GetSnapshotRequest,
    ListSnapshotsRequest, ListVolumesRequest, NodeExpandVolumeRequest, NodeGetVolumeStatsRequest,
    NodePublishVolumeRequest, NodeStageVolumeRequest, NodeUnpublishVolumeRequest,
    NodeUnstageVolumeRequest, Snapshot, ValidateVolumeCapabilitiesRequest,
    ValidateVolumeCapabilitiesResponse, Volume, VolumeCapability, VolumeContentSource,
    VolumeGroupSnapshot, VolumeHealth, VolumeUsage,
};
use tokio::runtime::Runtime;
use tonic::transport::Channel;
pub use tonic::{Code, Status};

use super::Rig;

pub const MIB: i64 = 1 << 20;

/// A connection to the daemon of a rig. Open a new one after the daemon was restarted.
#[derive(Clone)]
pub struct Csi {
    runtime: Arc<Runtime>,
    channel: Channel,
    patience: Option<Duration>,
}

/// `fn name(request) -> Result<reply>` for an RPC.
macro_rules! calls {
    ($($client:ident { $($method:ident($request:ty) -> $reply:ty = |$answer:ident| $pick:expr;)* })*) => {
        $($(
            pub fn $method(&self, request: $request) -> Result<$reply, Status> {
                let mut client = $client::new(self.channel.clone());
                let mut request = tonic::Request::new(request);
                if let Some(patience) = self.patience {
                    request.set_timeout(patience);
                }
                let $answer = self.runtime.block_on(client.$method(request))?.into_inner();
                Ok($pick)
            }
        )*)*
    };
}

impl Csi {
    pub fn new(rig: &Rig) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let channel = runtime
            .block_on(connect(&rig.path("csi.sock")))
            .expect("the daemon answers");
        Self {
            runtime: Arc::new(runtime),
            channel,
            patience: None,
        }
    }

    /// The same connection, its calls given up after this long.
    pub fn within(&self, patience: Duration) -> Self {
        Self {
            patience: Some(patience),
            ..self.clone()
        }
    }

    calls! {
        ControllerClient {
        create_volume(CreateVolumeRequest) -> Volume = |r| r.volume.expect("a volume");
        delete_volume(DeleteVolumeRequest) -> () = |_r| ();
        controller_expand_volume(ControllerExpandVolumeRequest) -> (i64, bool)
            = |r| (r.capacity_bytes, r.node_expansion_required);
        controller_get_volume(ControllerGetVolumeRequest) -> Volume = |r| r.volume.expect("a volume");
        controller_modify_volume(ControllerModifyVolumeRequest) -> () = |_r| ();
        get_capacity(GetCapacityRequest) -> (i64, Option<i64>)
            = |r| (r.available_capacity, r.maximum_volume_size);
        validate_volume_capabilities(ValidateVolumeCapabilitiesRequest)
            -> ValidateVolumeCapabilitiesResponse = |r| r;
        list_volumes(ListVolumesRequest) -> Vec<Volume>
            = |r| r.entries.into_iter().filter_map(|e| e.volume).collect();
        controller_get_volume_health(ControllerGetVolumeHealthRequest) -> VolumeHealth
            = |r| r.volume_health.expect("its health");
        list_snapshots(ListSnapshotsRequest) -> usize = |r| r.entries.len();
        get_snapshot(GetSnapshotRequest) -> Snapshot = |r| r.snapshot.expect("a snapshot");
        create_snapshot(CreateSnapshotRequest) -> Snapshot = |r| r.snapshot.expect("a snapshot");
        delete_snapshot(DeleteSnapshotRequest) -> () = |_r| ();
        }
        GroupControllerClient {
        create_volume_group_snapshot(CreateVolumeGroupSnapshotRequest) -> VolumeGroupSnapshot
            = |r| r.group_snapshot.expect("a group");
        delete_volume_group_snapshot(DeleteVolumeGroupSnapshotRequest) -> () = |_r| ();
        }
        NodeClient {
        node_stage_volume(NodeStageVolumeRequest) -> () = |_r| ();
        node_unstage_volume(NodeUnstageVolumeRequest) -> () = |_r| ();
        node_publish_volume(NodePublishVolumeRequest) -> () = |_r| ();
        node_unpublish_volume(NodeUnpublishVolumeRequest) -> () = |_r| ();
        node_get_volume_stats(NodeGetVolumeStatsRequest) -> Vec<VolumeUsage> = |r| r.usage;
        node_expand_volume(NodeExpandVolumeRequest) -> i64 = |r| r.capacity_bytes;
        }
    }

    /// Make the volume of [`volume`].
    #[track_caller]
    pub fn made(&self, name: &str) -> Volume {
        self.create_volume(volume(name)).expect("a volume")
    }

    #[track_caller]
    pub fn stage(&self, id: &str, staging: &Path, capability: VolumeCapability) {
        self.node_stage_volume(staging_of(id, staging, capability))
            .expect("staged");
    }

    #[track_caller]
    pub fn publish(&self, id: &str, staging: &Path, target: &Path, capability: VolumeCapability) {
        self.node_publish_volume(publishing(id, staging, target, capability))
            .expect("published");
    }

    pub fn unpublish(&self, id: &str, target: &Path) -> Result<(), Status> {
        self.node_unpublish_volume(NodeUnpublishVolumeRequest {
            volume_id: id.to_owned(),
            target_path: text(target),
        })
    }

    pub fn unstage(&self, id: &str, staging: &Path) -> Result<(), Status> {
        self.node_unstage_volume(NodeUnstageVolumeRequest {
            volume_id: id.to_owned(),
            staging_target_path: text(staging),
        })
    }

    pub fn delete(&self, id: &str) -> Result<(), Status> {
        self.delete_volume(DeleteVolumeRequest {
            volume_id: id.to_owned(),
            ..Default::default()
        })
    }

    pub fn drop_snapshot(&self, id: &str) -> Result<(), Status> {
        self.delete_snapshot(DeleteSnapshotRequest {
            snapshot_id: id.to_owned(),
            ..Default::default()
        })
    }

    pub fn cut(&self, name: &str, of: &str) -> Result<Snapshot, Status> {
        self.create_snapshot(CreateSnapshotRequest {
            name: name.to_owned(),
            source_volume_id: of.to_owned(),
            ..Default::default()
        })
    }

    pub fn stats(&self, id: &str, path: &Path) -> Result<Vec<VolumeUsage>, Status> {
        self.node_get_volume_stats(NodeGetVolumeStatsRequest {
            volume_id: id.to_owned(),
            volume_path: text(path),
            ..Default::default()
        })
    }
}

pub fn text(path: &Path) -> String {
    path.to_str().expect("a path of text").to_owned()
}

pub fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect()
}

/// For a file system; `""` leaves its kind to the driver.
pub fn mount(fs: &str, mode: Mode) -> VolumeCapability {
    flagged(fs, mode, &[])
}

pub fn flagged(fs: &str, mode: Mode, flags: &[&str]) -> VolumeCapability {
    VolumeCapability {
        access_mode: Some(AccessMode { mode: mode.into() }),
        access_type: Some(AccessType::Mount(MountVolume {
            fs_type: fs.to_owned(),
            mount_flags: flags.iter().map(|f| (*f).to_owned()).collect(),
            volume_mount_group: String::new(),
        })),
    }
}

pub fn block(mode: Mode) -> VolumeCapability {
    VolumeCapability {
        access_mode: Some(AccessMode { mode: mode.into() }),
        access_type: Some(AccessType::Block(BlockVolume {})),
    }
}

pub fn range(required_bytes: i64, limit_bytes: i64) -> CapacityRange {
    CapacityRange {
        required_bytes,
        limit_bytes,
    }
}

/// A right request for an ext4 volume of 64 MiB.
pub fn volume(name: &str) -> CreateVolumeRequest {
    CreateVolumeRequest {
        name: name.to_owned(),
        capacity_range: Some(range(64 * MIB, 0)),
        volume_capabilities: vec![mount("ext4", Mode::SingleNodeWriter)],
        ..Default::default()
    }
}

pub fn staging_of(
    id: &str,
    staging: &Path,
    capability: VolumeCapability,
) -> NodeStageVolumeRequest {
    NodeStageVolumeRequest {
        volume_id: id.to_owned(),
        staging_target_path: text(staging),
        volume_capability: Some(capability),
        ..Default::default()
    }
}

pub fn publishing(
    id: &str,
    staging: &Path,
    target: &Path,
    capability: VolumeCapability,
) -> NodePublishVolumeRequest {
    NodePublishVolumeRequest {
        volume_id: id.to_owned(),
        staging_target_path: text(staging),
        target_path: text(target),
        volume_capability: Some(capability),
        ..Default::default()
    }
}

/// What the kubelet sends for an inline volume.
pub fn inline(handle: &str, target: &Path, context: &[(&str, &str)]) -> NodePublishVolumeRequest {
    let mut volume_context = map(context);
    volume_context.extend(map(&[
        ("csi.storage.k8s.io/ephemeral", "true"),
        ("csi.storage.k8s.io/pod.name", "file-server"),
    ]));
    NodePublishVolumeRequest {
        volume_id: handle.to_owned(),
        target_path: text(target),
        volume_capability: Some(mount("ext4", Mode::SingleNodeWriter)),
        volume_context,
        ..Default::default()
    }
}

pub fn from_snapshot(id: &str) -> Option<VolumeContentSource> {
    Some(VolumeContentSource {
        r#type: Some(Type::Snapshot(SnapshotSource {
            snapshot_id: id.to_owned(),
        })),
    })
}

pub fn from_volume(id: &str) -> Option<VolumeContentSource> {
    Some(VolumeContentSource {
        r#type: Some(Type::Volume(VolumeSource {
            volume_id: id.to_owned(),
        })),
    })
}

/// A call that must fail with this code and name the culprit; every CSI error has a text and no
/// details.
#[track_caller]
pub fn refused<T>(answer: Result<T, Status>, code: Code, words: &[&str]) {
    let Err(status) = answer else {
        panic!("succeeded, expected {code:?} naming {words:?}");
    };
    assert_eq!(status.code(), code, "{}", status.message());
    assert!(!status.message().is_empty() && status.details().is_empty());
    for word in words {
        assert!(
            status.message().contains(word),
            "{word:?} is not in: {}",
            status.message()
        );
    }
}
