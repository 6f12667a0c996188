//! ListVolumes and its pages, and what lists say while not all is known.

use stowage_csi::proto::volume_content_source::{SnapshotSource, Type};
use stowage_csi::proto::{
    ControllerGetVolumeRequest, CreateVolumeRequest, ListSnapshotsRequest, ListVolumesRequest,
    ListVolumesResponse, Volume, VolumeContentSource,
};
use stowage_model::Id;
use tonic::{Code, Status};

use crate::support::{Server, absent, ok, refused, volume};

async fn page(s: &mut Server, most: i32, token: &str) -> Result<ListVolumesResponse, Status> {
    let request = ListVolumesRequest {
        max_entries: most,
        starting_token: token.into(),
    };
    Ok(s.controller.list_volumes(request).await?.into_inner())
}

fn ids(response: &ListVolumesResponse) -> Vec<String> {
    let volume = |e: &stowage_csi::proto::list_volumes_response::Entry| e.volume.clone().unwrap();
    response
        .entries
        .iter()
        .map(|e| volume(e).volume_id)
        .collect()
}

async fn several(s: &mut Server, count: usize) -> Vec<Volume> {
    let mut made = Vec::new();
    for n in 0..count {
        made.push(s.made(&format!("n{n}")).await);
    }
    made.sort_by(|a, b| a.volume_id.cmp(&b.volume_id));
    made
}

#[tokio::test]
async fn without_a_limit_all_volumes_come_at_once_as_they_were_made() {
    let mut s = Server::start().await;
    assert!(page(&mut s, 0, "").await.unwrap().entries.is_empty());
    let made = several(&mut s, 5).await;
    let all = page(&mut s, 0, "").await.unwrap();
    assert!(all.next_token.is_empty());
    let listed: Vec<Volume> = all.entries.into_iter().map(|e| e.volume.unwrap()).collect();
    assert_eq!(listed, made);
}

#[tokio::test]
async fn pages_hold_no_more_than_asked_and_miss_and_repeat_nothing() {
    let mut s = Server::start().await;
    let made = several(&mut s, 5).await;
    let mut listed = Vec::new();
    let mut token = String::new();
    for expected in [2, 2, 1] {
        let page = page(&mut s, 2, &token).await.unwrap();
        assert_eq!(page.entries.len(), expected);
        listed.extend(ids(&page));
        token = page.next_token;
    }
    assert!(token.is_empty(), "a last page has no token");
    let expected: Vec<String> = made.into_iter().map(|v| v.volume_id).collect();
    assert_eq!(listed, expected);
}

#[tokio::test]
async fn an_exactly_full_last_page_has_no_token() {
    let mut s = Server::start().await;
    several(&mut s, 2).await;
    let page = page(&mut s, 2, "").await.unwrap();
    assert_eq!((page.entries.len(), page.next_token.as_str()), (2, ""));
}

#[tokio::test]
async fn pages_stay_true_while_volumes_come_and_go() {
    let mut s = Server::start().await;
    let made = several(&mut s, 6).await;
    let first = page(&mut s, 2, "").await.unwrap();
    // The volume the token names goes, one of the second page goes, others come.
    for gone in [&made[1], &made[2]] {
        let id: Id = gone.volume_id.parse().unwrap();
        s.fake.state().volumes.remove(&id);
    }
    for n in 0..10 {
        s.made(&format!("later{n}")).await;
    }
    let rest = page(&mut s, 0, &first.next_token).await.unwrap();
    let rest = ids(&rest);
    assert!(ids(&first).iter().all(|id| !rest.contains(id)), "repeated");
    assert!(
        made[3..].iter().all(|v| rest.contains(&v.volume_id)),
        "missed"
    );
    assert!(!rest.contains(&made[2].volume_id));
}

#[tokio::test]
async fn tokens_nobody_gave_out_are_aborted() {
    let mut s = Server::start().await;
    for token in ["invalid-token", "0", "-1", "../x", &absent('s'), "v-1"] {
        refused(
            page(&mut s, 0, token).await,
            Code::Aborted,
            "starting_token",
        );
    }
}

#[tokio::test]
async fn volumes_being_filled_and_inline_volumes_are_not_listed() {
    let mut s = Server::start().await;
    let filling: Id = s.made("filling").await.volume_id.parse().unwrap();
    let inline: Id = s.made("inline").await.volume_id.parse().unwrap();
    let ready = s.made("ready").await.volume_id;
    {
        let mut state = s.fake.state();
        state.unfinish(&filling);
        state.volumes.get_mut(&inline).unwrap().record.ephemeral = true;
    }
    assert_eq!(ids(&page(&mut s, 0, "").await.unwrap()), [ready]);
}

#[tokio::test]
async fn a_list_that_would_lack_something_fails_and_what_is_known_is_told() {
    let mut s = Server::start().await;
    let known = s.made("known").await;
    let cut = s.cut("cut", &known).await.unwrap();
    s.fake.state().unread = true;
    let (code, named) = (Code::Unavailable, "the pool slow");
    refused(page(&mut s, 0, "").await, code, named);
    let all = ListSnapshotsRequest::default();
    let of = |id: &str| ListSnapshotsRequest {
        snapshot_id: id.to_owned(),
        ..Default::default()
    };
    refused(s.controller.list_snapshots(all).await, code, named);
    refused(
        s.controller.list_snapshots(of(&absent('s'))).await,
        code,
        named,
    );
    let get = |id: String| ControllerGetVolumeRequest { volume_id: id };
    let gone = s.controller.controller_get_volume(get(absent('v'))).await;
    refused(gone, code, named);
    let told = ok(s.controller.list_snapshots(of(&cut.snapshot_id)).await);
    assert_eq!(told.entries.len(), 1);
    let foreign = ok(s.controller.list_snapshots(of("nobody's")).await);
    assert!(foreign.entries.is_empty());
    let told = s
        .controller
        .controller_get_volume(get(known.volume_id.clone()));
    assert_eq!(ok(told.await).volume, Some(known.clone()));
    // A copy of what is known is made, where its request allows no other pool.
    let copy = CreateVolumeRequest {
        volume_content_source: Some(VolumeContentSource {
            r#type: Some(Type::Snapshot(SnapshotSource {
                snapshot_id: cut.snapshot_id,
            })),
        }),
        ..volume("copy")
    };
    s.create(copy).await.unwrap();
}
