//! Inline ephemeral volumes, which only NodePublish and NodeUnpublish ever see.

use stowage_csi::proto::volume_capability::access_mode::Mode;
use stowage_csi::proto::{
    NodeGetVolumeHealthRequest, NodeGetVolumeStatsRequest, NodePublishVolumeRequest,
    NodeUnpublishVolumeRequest,
};
use stowage_model::{Bytes, FsType, Id, Name};
use tonic::Code;

use crate::support::{Server, absent, block, flagged, map, mount, ok, refused};

/// As kubelet makes it up.
const HANDLE: &str = "csi-0d8ee58d7a6cba5fbf5d1eb92e1f1ee14b6b7d3b5ac3cba4e2f3f5ef8b76e7b1";

fn inline(s: &Server, attributes: &[(&str, &str)]) -> NodePublishVolumeRequest {
    let mut context = map(attributes);
    context.extend(map(&[
        ("csi.storage.k8s.io/ephemeral", "true"),
        ("csi.storage.k8s.io/pod.name", "file-server"),
        ("csi.storage.k8s.io/pod.namespace", "default"),
        ("csi.storage.k8s.io/serviceAccount.name", "default"),
    ]));
    NodePublishVolumeRequest {
        staging_target_path: String::new(),
        volume_context: context,
        ..s.publishing(HANDLE, "target")
    }
}

#[tokio::test]
async fn an_inline_volume_lives_and_dies_with_its_target() {
    let mut s = Server::start().await;
    let request = inline(
        &s,
        &[
            ("size", "2Gi"),
            ("vgName", "open-local-pool-0"),
            ("bps", "1Mi"),
        ],
    );
    for _ in 0..2 {
        ok(s.node.node_publish_volume(request.clone()).await);
    }
    let asked = s.fake.state().mounts.ephemeral[&s.path("target")].clone();
    assert_eq!(asked.volume.name.as_str(), HANDLE);
    let spec = asked.volume.settled(None).unwrap();
    assert_eq!(spec.size.required, Bytes::gib(2));
    assert_eq!(spec.usage.mount, Some(FsType::Ext4));
    assert_eq!(
        asked.volume.placement.vg.as_deref(),
        Some("open-local-pool-0")
    );
    assert_eq!(asked.volume.limits.write_bps, Some(1 << 20));
    assert!(!asked.read_only);
    let id = Id::ephemeral(&Name::new(HANDLE).unwrap());
    assert!(s.fake.state().volumes.contains_key(&id));

    // The kubelet measures it by its handle and does not say that it is inline.
    let stats = NodeGetVolumeStatsRequest {
        volume_id: HANDLE.into(),
        volume_path: s.text("target"),
        ..Default::default()
    };
    assert_eq!(
        ok(s.node.node_get_volume_stats(stats).await).usage[0].total,
        2 << 30
    );
    let health = NodeGetVolumeHealthRequest {
        volume_id: HANDLE.into(),
        ..Default::default()
    };
    let told = ok(s.node.node_get_volume_health(health).await)
        .volume_health
        .unwrap();
    assert_eq!(told.volume_id, HANDLE);

    let unpublish = NodeUnpublishVolumeRequest {
        volume_id: HANDLE.into(),
        target_path: s.text("target"),
    };
    for _ in 0..2 {
        ok(s.node.node_unpublish_volume(unpublish.clone()).await);
        assert!(s.fake.state().volumes.is_empty());
        assert!(!s.path("target").exists());
    }
}

#[tokio::test]
async fn size_and_file_system_have_defaults_and_the_capability_wins() {
    let mut s = Server::start().await;
    ok({
        let request = inline(&s, &[]);
        s.node.node_publish_volume(request).await
    });
    let asked = s.fake.state().mounts.ephemeral[&s.path("target")].clone();
    assert_eq!(
        asked.volume.settled(None).unwrap().size.required,
        Bytes::gib(1)
    );
    let request = NodePublishVolumeRequest {
        volume_id: "other".into(),
        target_path: s.text("other"),
        volume_capability: Some(flagged("xfs", Mode::SingleNodeReaderOnly, &["noatime"])),
        ..inline(&s, &[("fsType", "btrfs")])
    };
    ok(s.node.node_publish_volume(request).await);
    let asked = s.fake.state().mounts.ephemeral[&s.path("other")].clone();
    assert_eq!(
        asked.volume.settled(None).unwrap().usage.mount,
        Some(FsType::Xfs)
    );
    assert_eq!(asked.flags, ["noatime"]);
    assert!(asked.read_only);
    assert!(!asked.volume.read_only, "it must be written to be made");
}

#[tokio::test]
async fn a_pod_author_gets_no_more_than_a_class_author() {
    let mut s = Server::start().await;
    for (attribute, value) in [
        ("size", "0"),
        ("size", "-1Gi"),
        ("size", "big"),
        ("vgName", "../x"),
        ("mkfsOptions", "-d /etc"),
        ("colour", "blue"),
        ("spdk", "true"),
    ] {
        let request = inline(&s, &[(attribute, value)]);
        let answer = s.node.node_publish_volume(request).await;
        refused(answer, Code::InvalidArgument, "");
    }
    let huge = inline(&s, &[("size", "16Ei")]);
    refused(
        s.node.node_publish_volume(huge).await,
        Code::OutOfRange,
        "16Ei",
    );
    for (capability, naming) in [
        (block(Mode::SingleNodeWriter), "block"),
        (flagged("", Mode::SingleNodeWriter, &["bind"]), "bind"),
        (mount("", Mode::MultiNodeMultiWriter), "MULTI_NODE"),
    ] {
        let request = NodePublishVolumeRequest {
            volume_capability: Some(capability),
            ..inline(&s, &[])
        };
        refused(
            s.node.node_publish_volume(request).await,
            Code::InvalidArgument,
            naming,
        );
    }
    assert!(s.fake.state().volumes.is_empty());
    assert!(!s.path("target").exists());
}

#[tokio::test]
async fn an_inline_volume_cannot_pass_for_a_lasting_one() {
    let mut s = Server::start().await;
    let lasting = s.made("n").await.volume_id;
    for handle in [&lasting, &absent('v'), &absent('s')] {
        let request = NodePublishVolumeRequest {
            volume_id: handle.clone(),
            ..inline(&s, &[])
        };
        let answer = s.node.node_publish_volume(request).await;
        refused(answer, Code::InvalidArgument, handle);
    }
}
