use stowage_csi::proto::{
    CreateSnapshotRequest, DeleteSnapshotRequest, GetSnapshotRequest, ListSnapshotsRequest,
    ListSnapshotsResponse, TopologyRequirement,
};
use tonic::{Code, Status};

use crate::support::{Server, absent, map, mib, ok, place, refused};

async fn list(
    s: &mut Server,
    request: ListSnapshotsRequest,
) -> Result<ListSnapshotsResponse, Status> {
    Ok(s.controller.list_snapshots(request).await?.into_inner())
}

fn ids(response: &ListSnapshotsResponse) -> Vec<String> {
    let id = |e: &stowage_csi::proto::list_snapshots_response::Entry| {
        e.snapshot.clone().unwrap().snapshot_id
    };
    response.entries.iter().map(id).collect()
}

#[tokio::test]
async fn a_snapshot_is_ready_at_once_and_its_time_never_moves() {
    let mut s = Server::start().await;
    let of = s.made("n").await;
    let first = s.cut("cut", &of).await.unwrap();
    assert!(first.ready_to_use);
    assert!(first.snapshot_id.starts_with("s-"));
    assert_eq!(first.source_volume_id, of.volume_id);
    assert_eq!(first.size_bytes, mib(64));
    assert!(first.group_snapshot_id.is_empty());
    let here = place(&[("kubernetes.io/hostname", "node-1")]);
    assert_eq!(first.accessible_topology, [here]);
    let time = first.creation_time.unwrap();
    assert!(time.seconds > 1_700_000_000, "{time:?}");
    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    assert_eq!(s.cut("cut", &of).await.unwrap(), first);
    let request = GetSnapshotRequest {
        snapshot_id: first.snapshot_id.clone(),
        ..Default::default()
    };
    assert_eq!(
        ok(s.controller.get_snapshot(request).await)
            .snapshot
            .unwrap(),
        first
    );
}

#[tokio::test]
async fn a_snapshot_that_overflowed_is_not_ready() {
    let mut s = Server::start().await;
    let of = s.made("n").await;
    let id = s.cut("cut", &of).await.unwrap().snapshot_id;
    let mut lost = 0;
    for snapshot in s.fake.state().snapshots.values_mut() {
        snapshot.lost = true;
        lost += 1;
    }
    assert_eq!(lost, 1);
    let request = GetSnapshotRequest {
        snapshot_id: id,
        ..Default::default()
    };
    let told = ok(s.controller.get_snapshot(request).await).snapshot;
    assert!(!told.unwrap().ready_to_use);
    let listed = list(&mut s, ListSnapshotsRequest::default()).await.unwrap();
    assert!(!listed.entries[0].snapshot.clone().unwrap().ready_to_use);
    assert!(!s.cut("cut", &of).await.unwrap().ready_to_use);
}

#[tokio::test]
async fn a_source_that_is_not_there_is_not_found() {
    let mut s = Server::start().await;
    for foreign in ["x", "../x", &absent('v'), &absent('s')] {
        let request = CreateSnapshotRequest {
            name: "cut".into(),
            source_volume_id: foreign.into(),
            ..Default::default()
        };
        refused(
            s.controller.create_snapshot(request).await,
            Code::NotFound,
            foreign,
        );
    }
}

#[tokio::test]
async fn the_class_and_the_place_are_checked() {
    let mut s = Server::start().await;
    let of = s.made("n").await;
    let ask = |parameters, node: &str| CreateSnapshotRequest {
        name: "cut".into(),
        source_volume_id: of.volume_id.clone(),
        parameters: map(parameters),
        accessibility_requirements: Some(TopologyRequirement {
            requisite: vec![place(&[("kubernetes.io/hostname", node)])],
            preferred: vec![],
        }),
        ..Default::default()
    };
    let far = ask(&[], "node-2");
    refused(
        s.controller.create_snapshot(far).await,
        Code::ResourceExhausted,
        "node-1",
    );
    let bad = ask(&[("csi.aliyun.com/readonly", "yes")], "node-1");
    let answer = s.controller.create_snapshot(bad).await;
    refused(answer, Code::InvalidArgument, "csi.aliyun.com/readonly");
    let good = ask(
        &[
            ("csi.aliyun.com/readonly", "true"),
            ("csi.storage.k8s.io/volumesnapshot/name", "s"),
        ],
        "node-1",
    );
    ok(s.controller.create_snapshot(good).await);
}

#[tokio::test]
async fn deleting_and_getting_what_is_not_there_differ() {
    let mut s = Server::start().await;
    let of = s.made("n").await;
    let cut = s.cut("cut", &of).await.unwrap();
    for id in [
        &cut.snapshot_id,
        &cut.snapshot_id,
        &absent('s'),
        &absent('v'),
        "../x",
    ] {
        let request = DeleteSnapshotRequest {
            snapshot_id: id.to_owned(),
            ..Default::default()
        };
        ok(s.controller.delete_snapshot(request).await);
        let request = GetSnapshotRequest {
            snapshot_id: id.to_owned(),
            ..Default::default()
        };
        refused(s.controller.get_snapshot(request).await, Code::NotFound, id);
    }
    assert!(s.fake.state().snapshots.is_empty());
    assert_eq!(
        s.fake.state().volumes.len(),
        1,
        "an id of another role deletes nothing"
    );
}

#[tokio::test]
async fn filters_narrow_the_list_and_unknown_ones_empty_it() {
    let mut s = Server::start().await;
    let (a, b) = (s.made("a").await, s.made("b").await);
    let of_a = s.cut("of-a", &a).await.unwrap();
    let of_b = s.cut("of-b", &b).await.unwrap();
    let by = |id: &str, source: &str| ListSnapshotsRequest {
        snapshot_id: id.into(),
        source_volume_id: source.into(),
        ..Default::default()
    };
    for (request, want) in [
        (by("", &a.volume_id), vec![of_a.snapshot_id.clone()]),
        (by(&of_b.snapshot_id, ""), vec![of_b.snapshot_id.clone()]),
        (
            by(&of_b.snapshot_id, &b.volume_id),
            vec![of_b.snapshot_id.clone()],
        ),
        (by(&of_b.snapshot_id, &a.volume_id), vec![]),
        (by("none", ""), vec![]),
        (by("", "none"), vec![]),
        (by(&absent('s'), ""), vec![]),
    ] {
        assert_eq!(ids(&list(&mut s, request).await.unwrap()), want);
    }
    assert_eq!(list(&mut s, by("", "")).await.unwrap().entries.len(), 2);
}

#[tokio::test]
async fn pages_of_snapshots_go_on_where_the_last_one_ended() {
    let mut s = Server::start().await;
    let of = s.made("n").await;
    for n in 0..5 {
        s.cut(&format!("cut{n}"), &of).await.unwrap();
    }
    let (mut listed, mut token) = (Vec::new(), String::new());
    loop {
        let request = ListSnapshotsRequest {
            max_entries: 2,
            starting_token: token,
            source_volume_id: of.volume_id.clone(),
            ..Default::default()
        };
        let page = list(&mut s, request).await.unwrap();
        assert!(page.entries.len() <= 2);
        listed.extend(ids(&page));
        token = page.next_token;
        if token.is_empty() {
            break;
        }
    }
    let all = ids(&list(&mut s, ListSnapshotsRequest::default()).await.unwrap());
    assert_eq!(listed, all);
    for token in ["invalid-token", &absent('v')] {
        let request = ListSnapshotsRequest {
            starting_token: token.into(),
            ..Default::default()
        };
        refused(list(&mut s, request).await, Code::Aborted, "starting_token");
    }
}
