//! RPCs about one volume.

use stowage_csi::proto::volume_capability::access_mode::Mode;
use stowage_csi::proto::{
    ControllerExpandVolumeRequest, ControllerGetVolumeRequest, ControllerModifyVolumeRequest,
    CreateVolumeRequest, DeleteSnapshotRequest, DeleteVolumeGroupSnapshotRequest,
    DeleteVolumeRequest, ListVolumesRequest, ValidateVolumeCapabilitiesRequest,
    ValidateVolumeCapabilitiesResponse, VolumeCapability,
};
use stowage_model::{Error, Kind};
use tonic::Code;

use crate::support::{Server, absent, block, flagged, map, mib, mount, ok, range, refused, volume};

fn deletion(id: &str) -> DeleteVolumeRequest {
    DeleteVolumeRequest {
        volume_id: id.into(),
        ..Default::default()
    }
}

#[tokio::test]
async fn a_volume_is_deleted_and_what_is_not_there_needs_no_deleting() {
    let mut s = Server::start().await;
    let made = s.made("n").await;
    for id in [
        &made.volume_id,
        &made.volume_id,
        &absent('v'),
        &absent('s'),
        "reallyfakevolumeid",
        "../../etc/passwd",
    ] {
        ok(s.controller.delete_volume(deletion(id)).await);
    }
    assert!(s.fake.state().volumes.is_empty());
}

/// Whether it may go is the node's to say: in use (`host_csi`), with snapshots, a group's member.
#[tokio::test]
async fn what_may_not_be_deleted_is_told_and_what_is_gone_is_gone() {
    let mut s = Server::start().await;
    let fails = |s: &Server, kind| {
        s.fake.state().fail = Some(Error::new(kind, "it is held by c-1"));
    };
    for (kind, code) in [
        (Kind::Precondition, Code::FailedPrecondition),
        (Kind::Pending, Code::Aborted),
        (Kind::Invalid, Code::InvalidArgument),
        (Kind::Internal, Code::Internal),
    ] {
        fails(&s, kind);
        let answer = s.controller.delete_volume(deletion(&absent('v'))).await;
        refused(answer, code, "held by c-1");
        fails(&s, kind);
        let answer = s.controller.delete_snapshot(dropping(&absent('s'))).await;
        refused(answer, code, "held by c-1");
        fails(&s, kind);
        let answer = s
            .group
            .delete_volume_group_snapshot(ungrouping(&absent('g')));
        refused(answer.await, code, "held by c-1");
    }
    fails(&s, Kind::NotFound);
    ok(s.controller.delete_volume(deletion(&absent('v'))).await);
    fails(&s, Kind::NotFound);
    ok(s.controller.delete_snapshot(dropping(&absent('s'))).await);
    fails(&s, Kind::NotFound);
    let answer = s
        .group
        .delete_volume_group_snapshot(ungrouping(&absent('g')));
    ok(answer.await);
    assert!(s.fake.state().fail.is_none(), "nobody was asked");
}

fn dropping(id: &str) -> DeleteSnapshotRequest {
    DeleteSnapshotRequest {
        snapshot_id: id.into(),
        ..Default::default()
    }
}

fn ungrouping(id: &str) -> DeleteVolumeGroupSnapshotRequest {
    DeleteVolumeGroupSnapshotRequest {
        group_snapshot_id: id.into(),
        ..Default::default()
    }
}

fn expansion(id: &str, to: i64) -> ControllerExpandVolumeRequest {
    ControllerExpandVolumeRequest {
        volume_id: id.into(),
        capacity_range: Some(range(to, 0)),
        ..Default::default()
    }
}

#[tokio::test]
async fn a_volume_grows_and_one_large_enough_stays() {
    let mut s = Server::start().await;
    let id = s.made("n").await.volume_id;
    for (to, is) in [(mib(100), mib(100)), (mib(64), mib(100))] {
        let grown = ok(s
            .controller
            .controller_expand_volume(expansion(&id, to))
            .await);
        assert_eq!(grown.capacity_bytes, is);
        assert!(grown.node_expansion_required);
    }
    let below = ControllerExpandVolumeRequest {
        capacity_range: Some(range(0, mib(10))),
        ..expansion(&id, 0)
    };
    let answer = s.controller.controller_expand_volume(below).await;
    refused(answer, Code::OutOfRange, "larger");
    for foreign in ["x", &absent('v')] {
        let answer = s
            .controller
            .controller_expand_volume(expansion(foreign, 1))
            .await;
        refused(answer, Code::NotFound, foreign);
    }
}

#[tokio::test]
async fn only_a_file_system_needs_the_node_to_expand() {
    let mut s = Server::start().await;
    let both = CreateVolumeRequest {
        volume_capabilities: vec![
            block(Mode::SingleNodeWriter),
            mount("", Mode::SingleNodeWriter),
        ],
        ..volume("both")
    };
    let both = s.create(both).await.unwrap().volume_id;
    let raw = CreateVolumeRequest {
        volume_capabilities: vec![block(Mode::SingleNodeWriter)],
        ..volume("raw")
    };
    let raw = s.create(raw).await.unwrap().volume_id;
    for (id, used_as, wanted) in [
        (&both, Some(block(Mode::SingleNodeWriter)), false),
        (&both, Some(mount("", Mode::SingleNodeWriter)), true),
        (&both, None, true),
        (&raw, None, false),
    ] {
        let request = ControllerExpandVolumeRequest {
            volume_capability: used_as,
            ..expansion(id, mib(100))
        };
        let grown = ok(s.controller.controller_expand_volume(request).await);
        assert_eq!(grown.node_expansion_required, wanted);
    }
}

#[tokio::test]
async fn limits_change_all_or_none() {
    let mut s = Server::start().await;
    let id = s.made("n").await.volume_id;
    let change = |id: &str, pairs| ControllerModifyVolumeRequest {
        volume_id: id.into(),
        mutable_parameters: map(pairs),
        ..Default::default()
    };
    let good = change(&id, &[("bps", "1Mi"), ("riops", "5")]);
    ok(s.controller.controller_modify_volume(good).await);
    for (bad, naming) in [
        (&[("bps", "2Mi"), ("vgName", "vg1")][..], "vgName"),
        (&[("bps", "2Mi"), ("iops", "many")], "iops"),
        (&[("XXX_FakeKey", "1")], "XXX_FakeKey"),
    ] {
        let answer = s
            .controller
            .controller_modify_volume(change(&id, bad))
            .await;
        refused(answer, Code::InvalidArgument, naming);
    }
    {
        let state = s.fake.state();
        assert_eq!(state.modified, 1);
        let limits = state.volumes.values().next().unwrap().record.limits;
        assert_eq!(limits.to_text(), "rbps=1048576,wbps=1048576,riops=5");
    }
    for foreign in ["x", &absent('v')] {
        let request = change(foreign, &[("bps", "1")]);
        let answer = s.controller.controller_modify_volume(request).await;
        refused(answer, Code::NotFound, foreign);
    }
}

#[tokio::test]
async fn a_volume_reads_the_same_whoever_asks_and_after_a_change() {
    let mut s = Server::start().await;
    let made = s.made("n").await;
    let request = ControllerModifyVolumeRequest {
        volume_id: made.volume_id.clone(),
        mutable_parameters: map(&[("bps", "1Mi")]),
        ..Default::default()
    };
    ok(s.controller.controller_modify_volume(request).await);
    let get = |id: &str| ControllerGetVolumeRequest {
        volume_id: id.into(),
    };
    let found = ok(s
        .controller
        .controller_get_volume(get(&made.volume_id))
        .await);
    assert_eq!(found.volume.unwrap(), made);
    assert!(found.status.unwrap().published_node_ids.is_empty());
    for foreign in ["x", &absent('v'), &absent('s')] {
        let answer = s.controller.controller_get_volume(get(foreign)).await;
        refused(answer, Code::NotFound, foreign);
    }
}

async fn validate(
    s: &mut Server,
    id: &str,
    capabilities: &[VolumeCapability],
    parameters: &[(&str, &str)],
    context: &[(&str, &str)],
) -> ValidateVolumeCapabilitiesResponse {
    let request = ValidateVolumeCapabilitiesRequest {
        volume_id: id.into(),
        volume_capabilities: capabilities.to_vec(),
        parameters: map(parameters),
        volume_context: map(context),
        ..Default::default()
    };
    ok(s.controller.validate_volume_capabilities(request).await)
}

#[tokio::test]
async fn what_a_volume_can_do_is_confirmed_and_echoed() {
    let mut s = Server::start().await;
    let id = s.made("n").await.volume_id;
    let asked = [
        mount("", Mode::SingleNodeWriter),
        flagged("ext4", Mode::SingleNodeMultiWriter, &["noatime"]),
        mount("", Mode::MultiNodeReaderOnly),
    ];
    let parameters = [
        ("volumeType", "LVM"),
        ("vgName", "vg0"),
        ("mediaType", "ssd"),
        ("bps", "1Mi"),
    ];
    let context = [
        ("vgName", "vg0"),
        ("storage.kubernetes.io/csiProvisionerIdentity", "x"),
    ];
    let answer = validate(&mut s, &id, &asked, &parameters, &context).await;
    let confirmed = answer.confirmed.unwrap();
    assert_eq!(confirmed.volume_capabilities, asked);
    assert_eq!(confirmed.parameters, map(&parameters));
    assert_eq!(confirmed.volume_context, map(&context));
    assert!(answer.message.is_empty());
}

#[tokio::test]
async fn what_a_volume_cannot_do_is_a_plain_no_with_a_reason() {
    let mut s = Server::start().await;
    let id = s.made("n").await.volume_id;
    let writer = mount("", Mode::SingleNodeWriter);
    for (capability, parameters, context, reason) in [
        (
            mount("xfs", Mode::SingleNodeWriter),
            &[][..],
            &[][..],
            "ext4",
        ),
        (mount("ntfs", Mode::SingleNodeWriter), &[], &[], "ntfs"),
        (block(Mode::SingleNodeWriter), &[], &[], "block"),
        (
            mount("", Mode::MultiNodeMultiWriter),
            &[],
            &[],
            "MULTI_NODE",
        ),
        (
            flagged("", Mode::SingleNodeWriter, &["bind"]),
            &[],
            &[],
            "bind",
        ),
        (writer.clone(), &[("colour", "blue")], &[], "colour"),
        (writer.clone(), &[("volumeType", "Thin")], &[], "volumeType"),
        (writer.clone(), &[("lvmType", "striping")], &[], "lvmType"),
        (writer.clone(), &[("vgName", "other")], &[], "vgName"),
        (writer.clone(), &[("pool", "other")], &[], "pool"),
        (writer.clone(), &[("mediaType", "hdd")], &[], "mediaType"),
        (
            writer.clone(),
            &[],
            &[("vgName", "other")],
            "volume_context",
        ),
    ] {
        let both = [writer.clone(), capability];
        let answer = validate(&mut s, &id, &both, parameters, context).await;
        assert_eq!(answer.confirmed, None, "{reason}");
        assert!(
            answer.message.contains(reason),
            "{reason}: {}",
            answer.message
        );
    }
}

#[tokio::test]
async fn a_pool_that_hangs_keeps_nobody_from_a_volume() {
    let mut s = Server::start().await;
    s.fake.state().pools_hang = true;
    let bound = std::time::Duration::from_secs(5);
    let asked = async {
        let made = s.made("n").await;
        let get = ControllerGetVolumeRequest {
            volume_id: made.volume_id.clone(),
        };
        let got = ok(s.controller.controller_get_volume(get).await);
        assert_eq!(got.volume.as_ref(), Some(&made));
        let all = ok(s
            .controller
            .list_volumes(ListVolumesRequest::default())
            .await);
        assert_eq!(all.entries[0].volume, got.volume);
        let vg = [("vgName", "vg0"), ("volumeType", "LVM")];
        let writer = [mount("", Mode::SingleNodeWriter)];
        let answer = validate(&mut s, &made.volume_id, &writer, &vg, &[]).await;
        assert!(answer.confirmed.is_some());
    };
    tokio::time::timeout(bound, asked).await.expect("it waited");
}

#[tokio::test]
async fn a_read_only_volume_and_a_raw_one_say_no_to_what_they_are_not() {
    let mut s = Server::start().await;
    let reader = CreateVolumeRequest {
        volume_capabilities: vec![mount("", Mode::MultiNodeReaderOnly)],
        ..volume("reader")
    };
    let reader = s.create(reader).await.unwrap().volume_id;
    let writer = [mount("", Mode::SingleNodeWriter)];
    let answer = validate(&mut s, &reader, &writer, &[], &[]).await;
    assert!(answer.message.contains("only be read"));
    let raw = CreateVolumeRequest {
        volume_capabilities: vec![block(Mode::SingleNodeWriter)],
        ..volume("raw")
    };
    let raw = s.create(raw).await.unwrap().volume_id;
    let answer = validate(&mut s, &raw, &writer, &[], &[]).await;
    assert!(answer.message.contains("block device"));
}

#[tokio::test]
async fn validating_what_is_not_there_is_not_found_and_a_failure_is_a_failure() {
    let mut s = Server::start().await;
    let ask = |id: &str| ValidateVolumeCapabilitiesRequest {
        volume_id: id.into(),
        volume_capabilities: vec![mount("", Mode::SingleNodeWriter)],
        ..Default::default()
    };
    for foreign in ["x", &absent('v')] {
        let answer = s
            .controller
            .validate_volume_capabilities(ask(foreign))
            .await;
        refused(answer, Code::NotFound, foreign);
    }
    let id = s.made("n").await.volume_id;
    s.fake.state().fail = Some(Error::internal("no answer"));
    let answer = s.controller.validate_volume_capabilities(ask(&id)).await;
    refused(answer, Code::Internal, "no answer");
}
