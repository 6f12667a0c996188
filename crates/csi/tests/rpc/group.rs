use stowage_csi::proto::{
    CreateVolumeGroupSnapshotRequest, DeleteVolumeGroupSnapshotRequest,
    GetVolumeGroupSnapshotRequest, VolumeGroupSnapshot,
};
use tonic::{Code, Status};

use crate::support::{Server, absent, ok, refused};

async fn cut(s: &mut Server, name: &str, of: &[&str]) -> Result<VolumeGroupSnapshot, Status> {
    let request = CreateVolumeGroupSnapshotRequest {
        name: name.into(),
        source_volume_ids: of.iter().map(|id| (*id).to_owned()).collect(),
        ..Default::default()
    };
    let reply = s.group.create_volume_group_snapshot(request).await?;
    Ok(reply.into_inner().group_snapshot.unwrap())
}

async fn pair(s: &mut Server) -> VolumeGroupSnapshot {
    let (a, b) = (s.made("a").await, s.made("b").await);
    cut(s, "g", &[&a.volume_id, &b.volume_id]).await.unwrap()
}

fn members(group: &VolumeGroupSnapshot) -> Vec<String> {
    group
        .snapshots
        .iter()
        .map(|s| s.snapshot_id.clone())
        .collect()
}

fn get(id: &str, snapshot_ids: &[String]) -> GetVolumeGroupSnapshotRequest {
    GetVolumeGroupSnapshotRequest {
        group_snapshot_id: id.into(),
        snapshot_ids: snapshot_ids.to_vec(),
        ..Default::default()
    }
}

fn delete(id: &str, snapshot_ids: &[String]) -> DeleteVolumeGroupSnapshotRequest {
    DeleteVolumeGroupSnapshotRequest {
        group_snapshot_id: id.into(),
        snapshot_ids: snapshot_ids.to_vec(),
        ..Default::default()
    }
}

#[tokio::test]
async fn a_group_is_ready_and_every_member_knows_it() {
    let mut s = Server::start().await;
    let group = pair(&mut s).await;
    assert!(group.group_snapshot_id.starts_with("g-"));
    assert!(group.ready_to_use);
    assert!(group.creation_time.is_some());
    assert_eq!(group.snapshots.len(), 2);
    for member in &group.snapshots {
        assert_eq!(member.group_snapshot_id, group.group_snapshot_id);
        assert!(member.ready_to_use);
    }
    let again = pair(&mut s).await;
    assert_eq!(again, group);
}

#[tokio::test]
async fn a_group_with_a_missing_volume_is_not_cut_at_all() {
    let mut s = Server::start().await;
    let a = s.made("a").await.volume_id;
    for foreign in ["x", &absent('v'), &absent('s')] {
        refused(
            cut(&mut s, "g", &[&a, foreign]).await,
            Code::NotFound,
            foreign,
        );
    }
    assert!(s.fake.state().snapshots.is_empty());
}

#[tokio::test]
async fn a_group_is_found_with_its_members_named_or_not() {
    let mut s = Server::start().await;
    let group = pair(&mut s).await;
    let id = &group.group_snapshot_id;
    let mut turned = members(&group);
    turned.reverse();
    for given in [vec![], members(&group), turned] {
        let found = ok(s.group.get_volume_group_snapshot(get(id, &given)).await);
        assert_eq!(found.group_snapshot.unwrap().snapshots.len(), 2);
    }
    for foreign in ["x", &absent('g'), &absent('s')] {
        let answer = s.group.get_volume_group_snapshot(get(foreign, &[])).await;
        refused(answer, Code::NotFound, foreign);
    }
}

#[tokio::test]
async fn members_that_do_not_match_are_refused_and_nothing_goes() {
    let mut s = Server::start().await;
    let group = pair(&mut s).await;
    let id = &group.group_snapshot_id;
    let real = members(&group);
    let more = [real.clone(), vec![absent('s')]].concat();
    for given in [&real[..1], &more, &["x".to_owned()]] {
        let answer = s.group.get_volume_group_snapshot(get(id, given)).await;
        refused(answer, Code::InvalidArgument, "members");
    }
    // No id of ours: nobody needs to be asked.
    let foreign = delete(id, &[real[0].clone(), "x".to_owned()]);
    let answer = s.group.delete_volume_group_snapshot(foreign).await;
    refused(answer, Code::InvalidArgument, "members");
    assert_eq!(s.fake.state().dropped, None);
    assert_eq!(s.fake.state().snapshots.len(), 2);
}

/// Whether they are all of its members is the node's to say, so it must be told all that were named.
#[tokio::test]
async fn a_group_goes_by_the_members_named_and_is_gone_the_next_time() {
    let mut s = Server::start().await;
    let group = pair(&mut s).await;
    let whole = delete(&group.group_snapshot_id, &members(&group));
    for _ in 0..2 {
        ok(s.group.delete_volume_group_snapshot(whole.clone()).await);
        let named: Option<Vec<String>> = s.fake.state().dropped.take().map(|ids| {
            let ids = ids.into_iter();
            ids.map(|id| id.to_string()).collect()
        });
        assert_eq!(named, Some(members(&group)));
    }
    assert!(s.fake.state().snapshots.is_empty());
    for foreign in ["x", &absent('g'), &absent('v')] {
        ok(s.group
            .delete_volume_group_snapshot(delete(foreign, &[]))
            .await);
    }
}
