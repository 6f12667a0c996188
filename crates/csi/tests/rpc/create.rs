//! CreateVolume: what is understood.

use std::collections::BTreeSet;

use stowage_csi::proto::volume_capability::access_mode::Mode;
use stowage_csi::proto::volume_content_source::{SnapshotSource, Type, VolumeSource};
use stowage_csi::proto::{CreateVolumeRequest, TopologyRequirement, VolumeContentSource};
use stowage_model::request::{Layout, Source};
use stowage_model::{Bytes, FsType, PoolKind, VolumeSpec};
use tonic::Code;

use crate::support::{Server, block, flagged, map, mib, mount, place, range, refused, volume};

/// What the door made of a request.
async fn understood(request: CreateVolumeRequest) -> VolumeSpec {
    let mut s = Server::start().await;
    s.create(request).await.unwrap();
    let want = s.fake.state().created.take();
    want.unwrap()
}

fn here() -> stowage_csi::proto::Topology {
    place(&[("kubernetes.io/hostname", "node-1")])
}

fn elsewhere() -> stowage_csi::proto::Topology {
    place(&[("kubernetes.io/hostname", "node-2")])
}

#[tokio::test]
async fn a_volume_tells_its_id_size_place_and_open_locals_attributes() {
    let mut s = Server::start().await;
    let made = s.made("pvc-1").await;
    assert!(made.volume_id.starts_with("v-"));
    assert_eq!(made.capacity_bytes, mib(64));
    assert_eq!(made.accessible_topology, [here()]);
    assert_eq!(made.content_source, None);
    assert_eq!(
        made.volume_context,
        map(&[
            ("volumeType", "LVM"),
            ("vgName", "vg0"),
            ("pool", "fast"),
            ("lvmType", "linear"),
        ])
    );
}

#[tokio::test]
async fn asking_again_finds_the_same_volume_and_asking_otherwise_is_refused() {
    let mut s = Server::start().await;
    let first = s.made("n").await;
    assert_eq!(s.made("n").await, first);
    let larger = CreateVolumeRequest {
        capacity_range: Some(range(mib(65), 0)),
        ..volume("n")
    };
    refused(s.create(larger).await, Code::AlreadyExists, "n");
    let limited = CreateVolumeRequest {
        mutable_parameters: map(&[("bps", "1Mi")]),
        ..volume("n")
    };
    refused(s.create(limited).await, Code::AlreadyExists, "n");
}

#[tokio::test]
async fn every_name_csi_allows_makes_a_volume_of_its_own() {
    let mut s = Server::start().await;
    let names = [
        "../x",
        "-n",
        "$(x)",
        "Ü ナ",
        "a/b",
        "a",
        "A",
        "..",
        "con'\"`;",
        "pvc-1",
        "PVC-1",
        &"x".repeat(128),
    ];
    let mut ids = BTreeSet::new();
    for name in names {
        assert!(ids.insert(s.made(name).await.volume_id), "{name}");
    }
}

#[tokio::test]
async fn no_size_means_one_gib_and_a_range_is_kept() {
    let none = CreateVolumeRequest {
        capacity_range: None,
        ..volume("n")
    };
    assert_eq!(understood(none).await.size.required, Bytes::gib(1));
    let only_limit = CreateVolumeRequest {
        capacity_range: Some(range(0, mib(10))),
        ..volume("n")
    };
    assert_eq!(understood(only_limit).await.size.required, Bytes::mib(10));
    let exact = CreateVolumeRequest {
        capacity_range: Some(range(mib(3), mib(3))),
        ..volume("n")
    };
    let size = understood(exact).await.size;
    assert_eq!(size.required, Bytes::mib(3));
    assert_eq!(size.limit, Some(Bytes::mib(3)));
}

#[tokio::test]
async fn the_capability_names_the_file_system_before_the_class_and_ext4_is_the_rest() {
    for (own, class, want) in [
        ("", &[][..], FsType::Ext4),
        ("", &[("csi.storage.k8s.io/fstype", "xfs")], FsType::Xfs),
        ("", &[("fsType", "btrfs")], FsType::Btrfs),
        ("ext3", &[("fsType", "xfs")], FsType::Ext3),
    ] {
        let request = CreateVolumeRequest {
            volume_capabilities: vec![mount(own, Mode::SingleNodeWriter)],
            parameters: map(class),
            ..volume("n")
        };
        assert_eq!(
            understood(request).await.usage.mount,
            Some(want),
            "{own} {class:?}"
        );
    }
}

#[tokio::test]
async fn a_volume_for_both_uses_is_asked_for_both() {
    let request = CreateVolumeRequest {
        volume_capabilities: vec![
            block(Mode::SingleNodeMultiWriter),
            mount("xfs", Mode::SingleNodeWriter),
            // Leaves it open.
            mount("", Mode::SingleNodeWriter),
        ],
        ..volume("n")
    };
    let usage = understood(request).await.usage;
    assert!(usage.block);
    assert_eq!(usage.mount, Some(FsType::Xfs));
}

#[tokio::test]
async fn a_volume_is_read_only_when_every_mode_only_reads() {
    use Mode::{
        MultiNodeReaderOnly, SingleNodeMultiWriter, SingleNodeReaderOnly, SingleNodeSingleWriter,
        SingleNodeWriter,
    };
    for (modes, want) in [
        (&[SingleNodeWriter][..], false),
        (&[SingleNodeSingleWriter], false),
        (&[SingleNodeMultiWriter], false),
        (&[SingleNodeReaderOnly], true),
        (&[SingleNodeReaderOnly, MultiNodeReaderOnly], true),
        (&[MultiNodeReaderOnly, SingleNodeWriter], false),
    ] {
        let request = CreateVolumeRequest {
            volume_capabilities: modes.iter().map(|m| mount("", *m)).collect(),
            ..volume("n")
        };
        assert_eq!(understood(request).await.read_only, want, "{modes:?}");
    }
}

#[tokio::test]
async fn parameters_are_open_locals_and_mutable_ones_win() {
    let request = CreateVolumeRequest {
        parameters: map(&[
            ("volumeType", "LVM"),
            ("vgName", "open-local-pool-0"),
            ("lvmType", "striping"),
            ("mkfsOptions", "-m 0 -i 65536"),
            ("bps", "1048576"),
            ("iops", "1024"),
            ("csi.storage.k8s.io/pvc/name", "claim"),
        ]),
        mutable_parameters: map(&[("iops", "7")]),
        ..volume("n")
    };
    let want = understood(request).await;
    assert_eq!(want.placement.kind, Some(PoolKind::Lvm));
    assert_eq!(want.placement.vg.as_deref(), Some("open-local-pool-0"));
    assert_eq!(want.layout, Layout::Striped);
    assert_eq!(want.mkfs, ["-m", "0", "-i", "65536"]);
    assert_eq!(want.limits.write_bps, Some(1 << 20));
    assert_eq!(want.limits.read_iops, Some(7));
}

#[tokio::test]
async fn a_block_volume_of_a_class_with_mkfs_options_has_none() {
    let request = CreateVolumeRequest {
        volume_capabilities: vec![block(Mode::SingleNodeWriter)],
        parameters: map(&[("mkfsOptions", "-m 0")]),
        ..volume("n")
    };
    assert!(understood(request).await.mkfs.is_empty());
}

#[tokio::test]
async fn mount_options_on_the_list_pass() {
    let request = CreateVolumeRequest {
        volume_capabilities: vec![flagged(
            "xfs",
            Mode::SingleNodeWriter,
            &["noatime,nodev", "nouuid"],
        )],
        ..volume("n")
    };
    understood(request).await;
}

#[tokio::test]
async fn one_requisite_place_of_ours_is_enough() {
    let ask = |requisite, preferred| CreateVolumeRequest {
        accessibility_requirements: Some(TopologyRequirement {
            requisite,
            preferred,
        }),
        ..volume("n")
    };
    understood(ask(vec![elsewhere(), here()], vec![elsewhere()])).await;
    understood(ask(vec![], vec![here()])).await;
    let cased = place(&[("KUBERNETES.io/Hostname", "node-1"), ("zone", "z")]);
    understood(ask(vec![cased], vec![])).await;
    let mut s = Server::start().await;
    for refuse in [
        ask(vec![elsewhere()], vec![]),
        ask(vec![elsewhere()], vec![here()]),
        ask(vec![], vec![elsewhere()]),
        ask(vec![place(&[("zone", "z")])], vec![]),
    ] {
        refused(s.create(refuse).await, Code::ResourceExhausted, "node-1");
    }
}

#[tokio::test]
async fn a_source_is_passed_on_echoed_and_gives_the_size_nobody_asked() {
    let mut s = Server::start().await;
    let original = s.made("original").await;
    let snapshot = s.cut("cut", &original).await.unwrap();
    let from_snapshot = VolumeContentSource {
        r#type: Some(Type::Snapshot(SnapshotSource {
            snapshot_id: snapshot.snapshot_id.clone(),
        })),
    };
    let from_volume = VolumeContentSource {
        r#type: Some(Type::Volume(VolumeSource {
            volume_id: original.volume_id.clone(),
        })),
    };
    for (name, from) in [("restored", from_snapshot), ("cloned", from_volume)] {
        let request = CreateVolumeRequest {
            capacity_range: None,
            volume_content_source: Some(from.clone()),
            ..volume(name)
        };
        let made = s.create(request).await.unwrap();
        assert_eq!(made.content_source, Some(from), "{name}");
        assert_eq!(made.capacity_bytes, mib(64), "{name}");
        let source = s.fake.state().created.take().unwrap().source.unwrap();
        match source {
            Source::Snapshot(id) => assert_eq!(id.as_str(), snapshot.snapshot_id),
            Source::Volume(id) => assert_eq!(id.as_str(), original.volume_id),
        }
    }
}

fn clone_of(id: &str) -> Option<VolumeContentSource> {
    Some(VolumeContentSource {
        r#type: Some(Type::Volume(VolumeSource {
            volume_id: id.into(),
        })),
    })
}

#[tokio::test]
async fn a_copy_gets_the_file_system_of_its_source_unless_told_otherwise() {
    let mut s = Server::start().await;
    let xfs = CreateVolumeRequest {
        parameters: map(&[("fsType", "xfs")]),
        ..volume("xfs")
    };
    let xfs = s.create(xfs).await.unwrap();
    for (name, own, class, want) in [
        ("a", "", &[][..], FsType::Xfs),
        ("b", "", &[("fsType", "ext4")], FsType::Ext4),
        ("c", "btrfs", &[], FsType::Btrfs),
    ] {
        let request = CreateVolumeRequest {
            volume_capabilities: vec![mount(own, Mode::SingleNodeWriter)],
            parameters: map(class),
            volume_content_source: clone_of(&xfs.volume_id),
            ..volume(name)
        };
        s.create(request).await.unwrap();
        let asked = s.fake.state().created.take().unwrap();
        assert_eq!(asked.usage.mount, Some(want), "{name}");
    }
}

#[tokio::test]
async fn a_retry_finds_the_copy_though_its_source_is_gone() {
    let mut s = Server::start().await;
    let original = s.made("original").await;
    let request = CreateVolumeRequest {
        volume_content_source: clone_of(&original.volume_id),
        ..volume("copy")
    };
    let copy = s.create(request.clone()).await.unwrap();
    let id: stowage_model::Id = original.volume_id.parse().unwrap();
    s.fake.state().volumes.remove(&id);
    assert_eq!(s.create(request).await.unwrap(), copy);
}

#[tokio::test]
async fn a_retry_that_leaves_all_to_its_source_finds_the_copy_whatever_became_of_the_source() {
    let mut s = Server::start().await;
    let original = CreateVolumeRequest {
        volume_capabilities: vec![mount("xfs", Mode::SingleNodeWriter)],
        ..volume("original")
    };
    let original = s.create(original).await.unwrap().volume_id;
    let request = CreateVolumeRequest {
        capacity_range: None,
        volume_capabilities: vec![mount("", Mode::SingleNodeWriter)],
        volume_content_source: clone_of(&original),
        ..volume("copy")
    };
    let copy = s.create(request.clone()).await.unwrap();
    let id: stowage_model::Id = original.parse().unwrap();
    let grown = Bytes::gib(64);
    s.fake.state().volumes.get_mut(&id).unwrap().size = grown;
    assert_eq!(s.create(request.clone()).await.unwrap(), copy);
    s.fake.state().volumes.remove(&id);
    assert_eq!(s.create(request.clone()).await.unwrap(), copy);
    // Nothing left open: another source is another volume.
    let other = s.made("other").await.volume_id;
    let other = CreateVolumeRequest {
        volume_content_source: clone_of(&other),
        ..request
    };
    assert_eq!(
        s.create(other).await.unwrap_err().code(),
        Code::AlreadyExists
    );
}
