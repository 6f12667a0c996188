//! Stage, publish, measure, expand and back.

use std::path::PathBuf;
use std::time::Duration;

use stowage_csi::proto::volume_capability::access_mode::Mode;
use stowage_csi::proto::volume_usage::Unit;
use stowage_csi::proto::{
    CreateVolumeRequest, ListVolumesRequest, NodeExpandVolumeRequest, NodeGetVolumeStatsRequest,
    NodePublishVolumeRequest, NodeStageVolumeRequest, NodeUnpublishVolumeRequest,
    NodeUnstageVolumeRequest, VolumeUsage,
};
use stowage_model::request::{Access, AccessMode};
use stowage_model::{Bytes, Error, FsType, Id, Kind};
use tonic::Code;

use crate::support::{Server, absent, block, flagged, map, mib, mount, ok, range, refused, volume};

/// A server with one staged volume.
async fn staged() -> (Server, String) {
    let mut s = Server::start().await;
    let id = s.made("n").await.volume_id;
    let request = s.staging(&id);
    ok(s.node.node_stage_volume(request).await);
    (s, id)
}

fn unpublish(id: &str, target: &str) -> NodeUnpublishVolumeRequest {
    NodeUnpublishVolumeRequest {
        volume_id: id.into(),
        target_path: target.into(),
    }
}

fn unstage(id: &str, staging: &str) -> NodeUnstageVolumeRequest {
    NodeUnstageVolumeRequest {
        volume_id: id.into(),
        staging_target_path: staging.into(),
    }
}

#[tokio::test]
async fn a_volume_goes_to_its_consumer_and_back_twice_over() {
    let (mut s, id) = staged().await;
    let request = s.staging(&id);
    ok(s.node.node_stage_volume(request).await);
    let target = s.text("target");
    for _ in 0..2 {
        let request = s.publishing(&id, "target");
        ok(s.node.node_publish_volume(request).await);
        assert!(s.path("target").is_dir());
    }
    for _ in 0..2 {
        ok(s.node.node_unpublish_volume(unpublish(&id, &target)).await);
        assert!(!s.path("target").exists());
    }
    let staging = s.text("staging");
    for _ in 0..2 {
        ok(s.node.node_unstage_volume(unstage(&id, &staging)).await);
    }
    assert!(s.fake.state().mounts.staged.is_empty());
}

#[tokio::test]
async fn what_is_staged_is_what_was_asked() {
    let mut s = Server::start().await;
    let id = s.made("n").await.volume_id;
    let request = NodeStageVolumeRequest {
        volume_capability: Some(flagged(
            "ext4",
            Mode::SingleNodeSingleWriter,
            &["noatime", "nodev"],
        )),
        volume_context: map(&[("vgName", "vg0"), ("anything", "goes")]),
        publish_context: map(&[("device", "/dev/mock")]),
        ..s.staging(&id)
    };
    ok(s.node.node_stage_volume(request).await);
    let state = s.fake.state();
    let (key, want) = state.mounts.staged.iter().next().unwrap();
    assert_eq!(key.as_str(), id);
    assert_eq!(want.staging, s.path("staging"));
    assert_eq!(want.mode, AccessMode::SingleNodeSingleWriter);
    let access = Access::Mount {
        fs: Some(FsType::Ext4),
        flags: vec!["noatime".into(), "nodev".into()],
    };
    assert_eq!(want.access, access);
}

/// What may be staged and published beside what is the node's to say (`host_csi`); the door hands on
/// its answer, save that on the way down what is gone is well.
#[tokio::test]
async fn what_the_node_refuses_is_told_and_what_is_gone_is_down_already() {
    let (mut s, id) = staged().await;
    let (staging, target) = (s.text("staging"), s.text("target"));
    for (kind, code) in [
        (Kind::Exists, Code::AlreadyExists),
        (Kind::Precondition, Code::FailedPrecondition),
        (Kind::Pending, Code::Aborted),
        (Kind::NotFound, Code::NotFound),
        (Kind::Internal, Code::Internal),
    ] {
        let fails = |s: &Server| {
            let cause = std::io::Error::other("the disk is on fire");
            s.fake.state().fail = Some(Error::new(kind, "failed on v-1").caused_by(cause));
        };
        let told = "failed on v-1: the disk is on fire";
        fails(&s);
        let request = s.staging(&id);
        refused(s.node.node_stage_volume(request).await, code, told);
        fails(&s);
        let request = s.publishing(&id, "target");
        refused(s.node.node_publish_volume(request).await, code, told);
        fails(&s);
        let stats = s.node.node_get_volume_stats(stats_of(&id, &staging)).await;
        refused(stats, code, told);
        fails(&s);
        let expand = NodeExpandVolumeRequest {
            volume_id: id.clone(),
            volume_path: staging.clone(),
            ..Default::default()
        };
        refused(s.node.node_expand_volume(expand).await, code, told);
        fails(&s);
        let unpublished = s.node.node_unpublish_volume(unpublish(&id, &target)).await;
        let unstaged = {
            fails(&s);
            s.node.node_unstage_volume(unstage(&id, &staging)).await
        };
        if kind == Kind::NotFound {
            ok(unpublished);
            ok(unstaged);
        } else {
            refused(unpublished, code, told);
            refused(unstaged, code, told);
        }
        assert!(s.fake.state().fail.is_none(), "somebody was not asked");
    }
}

#[tokio::test]
async fn readers_get_it_read_only_and_unknown_contexts_do_not_matter() {
    let (mut s, id) = staged().await;
    for (target, mode, readonly, want) in [
        ("a", Mode::SingleNodeMultiWriter, false, false),
        ("b", Mode::SingleNodeMultiWriter, true, true),
        ("c", Mode::SingleNodeReaderOnly, false, true),
        ("d", Mode::MultiNodeReaderOnly, false, true),
    ] {
        let request = NodePublishVolumeRequest {
            volume_capability: Some(mount("", mode)),
            readonly,
            publish_context: map(&[("device", "/dev/mock")]),
            volume_context: map(&[("csi.storage.k8s.io/ephemeral", "false"), ("x", "y")]),
            ..s.publishing(&id, target)
        };
        ok(s.node.node_publish_volume(request).await);
        let state = s.fake.state();
        let published = &state.mounts.published[&s.path(target)];
        assert_eq!(published.read_only, want, "{target}");
        assert_eq!(published.staging, s.path("staging"));
        assert_eq!(published.cgroup, None);
    }
}

#[tokio::test]
async fn publishing_without_a_staging_path_is_a_precondition() {
    let (mut s, id) = staged().await;
    let request = NodePublishVolumeRequest {
        staging_target_path: String::new(),
        ..s.publishing(&id, "target")
    };
    let answer = s.node.node_publish_volume(request).await;
    refused(answer, Code::FailedPrecondition, "staging_target_path");
    assert!(!s.path("target").exists());
}

#[tokio::test]
async fn modes_and_file_systems_the_node_cannot_serve_are_refused() {
    let (mut s, id) = staged().await;
    for (capability, naming) in [
        (
            mount("", Mode::MultiNodeMultiWriter),
            "MULTI_NODE_MULTI_WRITER",
        ),
        (mount("", Mode::Unknown), "access_mode"),
        (mount("ntfs", Mode::SingleNodeWriter), "ntfs"),
    ] {
        let request = NodePublishVolumeRequest {
            volume_capability: Some(capability.clone()),
            ..s.publishing(&id, "target")
        };
        let answer = s.node.node_publish_volume(request).await;
        refused(answer, Code::InvalidArgument, naming);
        let request = NodeStageVolumeRequest {
            volume_capability: Some(capability),
            ..s.staging(&id)
        };
        let answer = s.node.node_stage_volume(request).await;
        refused(answer, Code::InvalidArgument, naming);
    }
}

#[tokio::test]
async fn unknown_volumes_are_not_found_on_the_way_up_and_fine_on_the_way_down() {
    let mut s = Server::start().await;
    for foreign in ["x", "../x", &absent('v'), &absent('s')] {
        let request = s.staging(foreign);
        refused(
            s.node.node_stage_volume(request).await,
            Code::NotFound,
            "there is no",
        );
        let request = s.publishing(foreign, "target");
        refused(
            s.node.node_publish_volume(request).await,
            Code::NotFound,
            "there is no",
        );
        ok(s.node.node_unpublish_volume(unpublish(foreign, "/t")).await);
        ok(s.node.node_unstage_volume(unstage(foreign, "/s")).await);
    }
}

fn stats_of(id: &str, path: &str) -> NodeGetVolumeStatsRequest {
    NodeGetVolumeStatsRequest {
        volume_id: id.into(),
        volume_path: path.into(),
        ..Default::default()
    }
}

#[tokio::test]
async fn a_file_system_is_measured_in_bytes_and_inodes_if_it_counts_them() {
    let (mut s, id) = staged().await;
    let bytes = VolumeUsage {
        available: mib(64) - 100,
        total: mib(64),
        used: 100,
        unit: Unit::Bytes.into(),
    };
    let inodes = VolumeUsage {
        available: 990,
        total: 1000,
        used: 10,
        unit: Unit::Inodes.into(),
    };
    let path = s.text("staging");
    let usage = ok(s.node.node_get_volume_stats(stats_of(&id, &path)).await).usage;
    assert_eq!(usage, [bytes, inodes]);
    let request = s.publishing(&id, "btrfs");
    ok(s.node.node_publish_volume(request).await);
    let path = s.text("btrfs");
    let usage = ok(s.node.node_get_volume_stats(stats_of(&id, &path)).await).usage;
    assert_eq!(usage, [bytes]);
}

#[tokio::test]
async fn a_block_volume_is_measured_by_its_size_alone_and_published_as_a_file() {
    let mut s = Server::start().await;
    let raw = CreateVolumeRequest {
        volume_capabilities: vec![block(Mode::SingleNodeWriter)],
        ..volume("raw")
    };
    let id = s.create(raw).await.unwrap().volume_id;
    let request = NodeStageVolumeRequest {
        volume_capability: Some(block(Mode::SingleNodeWriter)),
        ..s.staging(&id)
    };
    ok(s.node.node_stage_volume(request).await);
    let request = NodePublishVolumeRequest {
        volume_capability: Some(block(Mode::SingleNodeWriter)),
        ..s.publishing(&id, "device")
    };
    ok(s.node.node_publish_volume(request).await);
    assert!(s.path("device").is_file());
    let path = s.text("device");
    let usage = ok(s.node.node_get_volume_stats(stats_of(&id, &path)).await).usage;
    let total = VolumeUsage {
        total: mib(64),
        unit: Unit::Bytes.into(),
        ..Default::default()
    };
    assert_eq!(usage, [total]);
}

#[tokio::test]
async fn what_is_not_at_the_path_is_not_found_whatever_the_path_looks_like() {
    let (mut s, id) = staged().await;
    let expand = |id: &str, path: &str| NodeExpandVolumeRequest {
        volume_id: id.into(),
        volume_path: path.into(),
        ..Default::default()
    };
    for (id, path) in [
        (id.as_str(), "/elsewhere"),
        (&id, "some/path"),
        (&id, "/a/../b"),
        (&absent('v'), "some/path"),
        ("x", "some/path"),
        ("x", "/elsewhere"),
    ] {
        let answer = s.node.node_get_volume_stats(stats_of(id, path)).await;
        refused(answer, Code::NotFound, "");
        refused(
            s.node.node_expand_volume(expand(id, path)).await,
            Code::NotFound,
            "",
        );
    }
}

#[tokio::test]
async fn expansion_tells_the_size_reached_and_never_less_than_required() {
    let (mut s, id) = staged().await;
    let key: Id = id.parse().unwrap();
    s.fake.state().volumes.get_mut(&key).unwrap().size = Bytes::mib(100);
    let expand = |to| NodeExpandVolumeRequest {
        volume_id: id.clone(),
        volume_path: s.text("staging"),
        capacity_range: to,
        ..Default::default()
    };
    let fits = [None, Some(range(0, 0)), Some(range(mib(100), 0))].map(expand);
    let larger = expand(Some(range(mib(101), 0)));
    let crossed = expand(Some(range(mib(2), mib(1))));
    for request in fits {
        let reached = ok(s.node.node_expand_volume(request).await);
        assert_eq!(reached.capacity_bytes, mib(100));
    }
    refused(
        s.node.node_expand_volume(larger).await,
        Code::OutOfRange,
        "smaller",
    );
    refused(
        s.node.node_expand_volume(crossed).await,
        Code::OutOfRange,
        "limit",
    );
}

#[tokio::test]
async fn one_volume_that_hangs_holds_up_no_other() {
    let (mut s, id) = staged().await;
    let stuck = s.made("stuck").await.volume_id;
    s.fake.state().mounts.hangs = Some(PathBuf::from("/hangs"));
    let request = NodeStageVolumeRequest {
        staging_target_path: "/hangs".into(),
        ..s.staging(&stuck)
    };
    let mut other = s.node.clone();
    let call = tokio::spawn(async move { other.node_stage_volume(request).await });
    tokio::task::yield_now().await;
    let path = s.text("staging");
    let stats = s.node.node_get_volume_stats(stats_of(&id, &path));
    ok(tokio::time::timeout(Duration::from_secs(10), stats)
        .await
        .unwrap());
    let list = s.controller.list_volumes(ListVolumesRequest::default());
    ok(tokio::time::timeout(Duration::from_secs(10), list)
        .await
        .unwrap());
    assert!(!call.is_finished());
    call.abort();
}
