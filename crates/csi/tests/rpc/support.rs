//! A server of its own for each test, and requests that are right until a test bends them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use stowage_csi::client::connect;
use stowage_csi::proto::controller_client::ControllerClient;
use stowage_csi::proto::group_controller_client::GroupControllerClient;
use stowage_csi::proto::identity_client::IdentityClient;
use stowage_csi::proto::node_client::NodeClient;
use stowage_csi::proto::volume_capability::access_mode::Mode;
use stowage_csi::proto::volume_capability::{AccessMode, AccessType, BlockVolume, MountVolume};
use stowage_csi::proto::{
    CapacityRange, CreateSnapshotRequest, CreateVolumeRequest, NodePublishVolumeRequest,
    NodeStageVolumeRequest, Snapshot, Topology, Volume, VolumeCapability,
};
use stowage_csi::{Config, DEFAULT_TOPOLOGY_KEY, Ready, bind, serve};
use stowage_model::Bytes;
use tempfile::TempDir;
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

use crate::fake::Fake;

pub(crate) fn config() -> Config {
    Config {
        driver_name: "local.csi.aliyun.com".into(),
        vendor_version: "0.1.0".into(),
        node_id: "node-1".into(),
        topology_key: DEFAULT_TOPOLOGY_KEY.into(),
        topology_value: "node-1".into(),
        max_volumes: 256,
    }
}

/// A running server and its clients. Dropping it ends the server with the test's runtime.
pub(crate) struct Server {
    pub(crate) fake: Arc<Fake>,
    pub(crate) dir: TempDir,
    pub(crate) identity: IdentityClient<Channel>,
    pub(crate) controller: ControllerClient<Channel>,
    pub(crate) group: GroupControllerClient<Channel>,
    pub(crate) node: NodeClient<Channel>,
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::start_with(Arc::new(|| Ok(()))).await
    }

    pub(crate) async fn start_with(ready: Ready) -> Self {
        crate::logging::listen();
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("csi.sock");
        let listener = bind(&socket, |_| false).unwrap();
        let fake = Arc::new(Fake::default());
        tokio::spawn(serve(
            listener,
            config(),
            fake.clone(),
            fake.clone(),
            ready,
            std::future::pending(),
        ));
        let channel = connect(&socket).await.unwrap();
        Self {
            fake,
            dir,
            identity: IdentityClient::new(channel.clone()),
            controller: ControllerClient::new(channel.clone()),
            group: GroupControllerClient::new(channel.clone()),
            node: NodeClient::new(channel),
        }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.path("csi.sock")
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn text(&self, name: &str) -> String {
        text(&self.path(name))
    }

    pub(crate) async fn create(&mut self, request: CreateVolumeRequest) -> Result<Volume, Status> {
        let reply = self.controller.create_volume(request).await?;
        Ok(reply.into_inner().volume.unwrap())
    }

    /// A volume made as [`volume`] says.
    pub(crate) async fn made(&mut self, name: &str) -> Volume {
        self.create(volume(name)).await.unwrap()
    }

    pub(crate) async fn cut(&mut self, name: &str, of: &Volume) -> Result<Snapshot, Status> {
        let request = CreateSnapshotRequest {
            name: name.into(),
            source_volume_id: of.volume_id.clone(),
            ..Default::default()
        };
        let reply = self.controller.create_snapshot(request).await?;
        Ok(reply.into_inner().snapshot.unwrap())
    }

    /// A right request to stage this volume.
    pub(crate) fn staging(&self, volume_id: &str) -> NodeStageVolumeRequest {
        NodeStageVolumeRequest {
            volume_id: volume_id.into(),
            staging_target_path: self.text("staging"),
            volume_capability: Some(mount("", Mode::SingleNodeMultiWriter)),
            ..Default::default()
        }
    }

    /// A right request to publish this volume.
    pub(crate) fn publishing(&self, volume_id: &str, target: &str) -> NodePublishVolumeRequest {
        NodePublishVolumeRequest {
            volume_id: volume_id.into(),
            staging_target_path: self.text("staging"),
            target_path: self.text(target),
            volume_capability: Some(mount("", Mode::SingleNodeMultiWriter)),
            ..Default::default()
        }
    }
}

pub(crate) fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

pub(crate) fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect()
}

/// One byte more than a map may hold.
pub(crate) fn big_map() -> BTreeMap<String, String> {
    map(&[("k", &"v".repeat(4096))])
}

pub(crate) fn mount(fs: &str, mode: Mode) -> VolumeCapability {
    flagged(fs, mode, &[])
}

pub(crate) fn flagged(fs: &str, mode: Mode, flags: &[&str]) -> VolumeCapability {
    VolumeCapability {
        access_mode: Some(AccessMode { mode: mode.into() }),
        access_type: Some(AccessType::Mount(MountVolume {
            fs_type: fs.into(),
            mount_flags: flags.iter().map(|f| (*f).to_owned()).collect(),
            volume_mount_group: String::new(),
        })),
    }
}

pub(crate) fn block(mode: Mode) -> VolumeCapability {
    VolumeCapability {
        access_mode: Some(AccessMode { mode: mode.into() }),
        access_type: Some(AccessType::Block(BlockVolume {})),
    }
}

pub(crate) fn range(required: i64, limit: i64) -> CapacityRange {
    CapacityRange {
        required_bytes: required,
        limit_bytes: limit,
    }
}

pub(crate) fn mib(n: u64) -> i64 {
    i64::try_from(Bytes::mib(n).0).unwrap()
}

pub(crate) fn place(segments: &[(&str, &str)]) -> Topology {
    Topology {
        segments: map(segments),
    }
}

/// A right request for a volume of 64 MiB with a file system.
pub(crate) fn volume(name: &str) -> CreateVolumeRequest {
    CreateVolumeRequest {
        name: name.into(),
        capacity_range: Some(range(mib(64), 0)),
        volume_capabilities: vec![mount("", Mode::SingleNodeWriter)],
        ..Default::default()
    }
}

/// A well-formed id of something that is not there.
pub(crate) fn absent(letter: char) -> String {
    format!("{letter}-{}", "0".repeat(32))
}

/// The code and text of a call that must fail; every CSI error has a text and no details.
#[track_caller]
pub(crate) fn refusal<T: std::fmt::Debug>(answer: Result<T, Status>) -> (Code, String) {
    let status = answer.unwrap_err();
    assert!(!status.message().is_empty(), "{status:?}");
    assert!(status.details().is_empty(), "{status:?}");
    (status.code(), status.message().to_owned())
}

/// A call that must fail with this code and name the culprit.
#[track_caller]
pub(crate) fn refused<T: std::fmt::Debug>(answer: Result<T, Status>, code: Code, naming: &str) {
    let (found, message) = refusal(answer);
    assert_eq!(found, code, "{message}");
    assert!(
        message.contains(naming),
        "{message:?} does not name {naming:?}"
    );
}

/// A call that must succeed.
#[track_caller]
pub(crate) fn ok<T>(answer: Result<Response<T>, Status>) -> T {
    answer.unwrap().into_inner()
}
