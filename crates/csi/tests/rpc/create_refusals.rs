//! CreateVolume: what is refused, before anything is made.

use stowage_csi::proto::volume_capability::AccessMode;
use stowage_csi::proto::volume_capability::access_mode::Mode;
use stowage_csi::proto::volume_content_source::{SnapshotSource, Type, VolumeSource};
use stowage_csi::proto::{CreateVolumeRequest, VolumeCapability, VolumeContentSource};
use stowage_model::{Error, Kind};
use tonic::Code;

use crate::support::{
    Server, absent, block, flagged, map, mib, mount, range, refusal, refused, volume,
};

/// Each request must be refused with this code, naming the culprit, and leave nothing behind.
async fn all_refused(code: Code, table: Vec<(&str, CreateVolumeRequest)>) {
    let mut s = Server::start().await;
    for (naming, request) in table {
        refused(s.create(request).await, code, naming);
    }
    assert!(s.fake.state().volumes.is_empty());
    assert!(s.fake.state().created.is_none());
}

fn with_capability(capability: VolumeCapability) -> CreateVolumeRequest {
    CreateVolumeRequest {
        volume_capabilities: vec![capability],
        ..volume("n")
    }
}

fn with_parameter(key: &str, value: &str) -> CreateVolumeRequest {
    CreateVolumeRequest {
        parameters: map(&[(key, value)]),
        ..volume("n")
    }
}

fn sized(required: i64, limit: i64) -> CreateVolumeRequest {
    CreateVolumeRequest {
        capacity_range: Some(range(required, limit)),
        ..volume("n")
    }
}

#[tokio::test]
async fn names_beyond_the_spec_are_refused() {
    all_refused(
        Code::InvalidArgument,
        vec![
            ("name", volume("")),
            ("U+0000", volume("a\0")),
            ("U+001B", volume("\u{1b}[31m")),
            ("U+007F", volume("a\u{7f}")),
            ("U+0085", volume("\u{85}")),
            ("129", volume(&"x".repeat(129))),
            ("130", volume(&"ü".repeat(65))),
        ],
    )
    .await;
}

#[tokio::test]
async fn senseless_sizes_are_refused() {
    let sixteen_eib = i64::from_le_bytes(u64::MAX.to_le_bytes());
    all_refused(
        Code::InvalidArgument,
        vec![
            ("capacity_range", sized(0, 0)),
            ("required_bytes", sized(-1, 0)),
            ("required_bytes", sized(i64::MIN, 0)),
            ("required_bytes", sized(sixteen_eib, 0)),
            ("limit_bytes", sized(1, -1)),
        ],
    )
    .await;
    all_refused(Code::OutOfRange, vec![("limit", sized(mib(2), mib(1)))]).await;
}

#[tokio::test]
async fn a_size_beyond_the_pool_is_no_internal_error() {
    let mut s = Server::start().await;
    let answer = s.create(sized(i64::MAX, 0)).await;
    refused(answer, Code::ResourceExhausted, "full");
}

#[tokio::test]
async fn writers_on_many_nodes_and_unknown_modes_are_refused_with_the_way_out() {
    let numbered = |mode| VolumeCapability {
        access_mode: Some(AccessMode { mode }),
        ..mount("", Mode::SingleNodeWriter)
    };
    all_refused(
        Code::InvalidArgument,
        vec![
            (
                "MULTI_NODE_MULTI_WRITER",
                with_capability(mount("", Mode::MultiNodeMultiWriter)),
            ),
            (
                "ReadWriteOnce",
                with_capability(block(Mode::MultiNodeSingleWriter)),
            ),
            ("access_mode", with_capability(mount("", Mode::Unknown))),
            ("access_mode 99", with_capability(numbered(99))),
            ("access_mode -1", with_capability(numbered(-1))),
        ],
    )
    .await;
}

#[tokio::test]
async fn malformed_capabilities_are_refused_by_field() {
    let bare = |change: fn(&mut VolumeCapability)| {
        let mut capability = mount("", Mode::SingleNodeWriter);
        change(&mut capability);
        with_capability(capability)
    };
    let mount_group = |c: &mut VolumeCapability| {
        use stowage_csi::proto::volume_capability::AccessType::Mount;
        if let Some(Mount(m)) = &mut c.access_type {
            m.volume_mount_group = "9".repeat(129);
        }
    };
    all_refused(
        Code::InvalidArgument,
        vec![
            ("access_type", bare(|c| c.access_type = None)),
            ("access_mode", bare(|c| c.access_mode = None)),
            ("volume_mount_group", bare(mount_group)),
            (
                "fs_type",
                with_capability(mount(&"x".repeat(129), Mode::SingleNodeWriter)),
            ),
            (
                "mount_flags",
                with_capability(flagged("", Mode::SingleNodeWriter, &[&"x".repeat(4097)])),
            ),
            (
                "two file systems",
                CreateVolumeRequest {
                    volume_capabilities: vec![
                        mount("xfs", Mode::SingleNodeWriter),
                        mount("ext4", Mode::SingleNodeWriter),
                    ],
                    ..volume("n")
                },
            ),
        ],
    )
    .await;
}

#[tokio::test]
async fn unknown_and_bad_parameters_are_refused_by_name() {
    let mutable = |key: &str, value: &str| CreateVolumeRequest {
        mutable_parameters: map(&[(key, value)]),
        ..volume("n")
    };
    all_refused(
        Code::InvalidArgument,
        vec![
            ("volumetype", with_parameter("volumetype", "LVM")),
            ("volumeType", with_parameter("volumeType", "lvm")),
            ("MountPoint", with_parameter("volumeType", "MountPoint")),
            ("vgName", with_parameter("vgName", "--config")),
            ("../x", with_parameter("pool", "../x")),
            ("size", with_parameter("size", "1Gi")),
            ("bps", with_parameter("bps", "-1")),
            ("ntfs", with_parameter("fsType", "ntfs")),
            ("XXX_FakeKey", mutable("XXX_FakeKey", "1")),
            ("vgName", mutable("vgName", "vg0")),
            (
                "ntfs",
                with_capability(mount("ntfs", Mode::SingleNodeWriter)),
            ),
        ],
    )
    .await;
}

#[tokio::test]
async fn options_that_would_reach_a_root_process_are_refused() {
    let mkfs = |options: &str| with_parameter("mkfsOptions", options);
    let flag = |flag: &str| with_capability(flagged("ext4", Mode::SingleNodeWriter, &[flag]));
    all_refused(
        Code::InvalidArgument,
        vec![
            ("-F", mkfs("-F")),
            ("/dev/sda", mkfs("/dev/sda")),
            ("-d", mkfs("-d /etc")),
            ("reboot", mkfs("-E root_owner=0:0;reboot")),
            ("$(id)", mkfs("-O $(id)")),
            ("device=", mkfs("-J device=/dev/sdb")),
            (
                "$(id)",
                CreateVolumeRequest {
                    volume_capabilities: vec![block(Mode::SingleNodeWriter)],
                    ..mkfs("-O $(id)")
                },
            ),
            ("bind", flag("bind")),
            ("remount", flag("noatime,remount")),
            ("journal_path", flag("journal_path=/dev/sdb")),
            ("nouuid", flag("nouuid")),
        ],
    )
    .await;
}

#[tokio::test]
async fn sources_that_are_not_there_are_not_found() {
    let from_snapshot = |id: &str| CreateVolumeRequest {
        volume_content_source: Some(VolumeContentSource {
            r#type: Some(Type::Snapshot(SnapshotSource {
                snapshot_id: id.into(),
            })),
        }),
        capacity_range: None,
        ..volume("n")
    };
    let from_volume = |id: &str| CreateVolumeRequest {
        volume_content_source: Some(VolumeContentSource {
            r#type: Some(Type::Volume(VolumeSource {
                volume_id: id.into(),
            })),
        }),
        ..volume("n")
    };
    let mut s = Server::start().await;
    for (id, request) in [
        ("non-existing", from_snapshot("non-existing")),
        (&absent('s'), from_snapshot(&absent('s'))),
        (&absent('v'), from_snapshot(&absent('v'))),
        ("../x", from_volume("../x")),
        (&absent('v'), from_volume(&absent('v'))),
        (&absent('s'), from_volume(&absent('s'))),
    ] {
        refused(s.create(request).await, Code::NotFound, id);
    }
    assert!(s.fake.state().volumes.is_empty());
}

#[tokio::test]
async fn a_limit_below_the_source_is_out_of_range() {
    let mut s = Server::start().await;
    let original = s.made("original").await;
    let request = CreateVolumeRequest {
        volume_content_source: Some(VolumeContentSource {
            r#type: Some(Type::Volume(VolumeSource {
                volume_id: original.volume_id,
            })),
        }),
        ..sized(0, mib(1))
    };
    refused(s.create(request).await, Code::OutOfRange, "64Mi");
}

#[tokio::test]
async fn every_kind_of_failure_reaches_the_caller_with_its_causes() {
    let mut s = Server::start().await;
    for kind in Kind::ALL {
        let cause = std::io::Error::other("the disk is on fire");
        s.fake.state().fail = Some(Error::new(kind, "failed to make v-1").caused_by(cause));
        let (code, message) = refusal(s.create(volume("n")).await);
        assert_ne!(code, Code::Ok);
        assert_eq!(code == Code::Internal, kind == Kind::Internal, "{kind:?}");
        assert_eq!(message, "failed to make v-1: the disk is on fire");
    }
}
