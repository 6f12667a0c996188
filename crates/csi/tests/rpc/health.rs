//! Findings as health, for the controller and the node.

use std::collections::BTreeSet;

use stowage_csi::proto::{
    ControllerGetVolumeHealthRequest, ControllerListVolumeHealthRequest,
    ControllerListVolumeHealthResponse, NodeGetStorageHealthRequest, NodeGetVolumeHealthRequest,
    StorageHealthErrorType, VolumeHealthErrorType,
};
use stowage_model::volumes::{Finding, Severity, Trouble};
use tonic::{Code, Status};

use crate::support::{Server, absent, ok, refused};

fn finding(subject: &str, trouble: Trouble, severity: Severity) -> Finding {
    Finding {
        severity,
        trouble,
        subject: subject.into(),
        what: "it is broken".into(),
        mend: "mend it".into(),
    }
}

async fn list(
    s: &mut Server,
    max_entries: i32,
    token: &str,
) -> Result<ControllerListVolumeHealthResponse, Status> {
    let request = ControllerListVolumeHealthRequest {
        max_entries,
        starting_token: token.into(),
        ..Default::default()
    };
    let reply = s.controller.controller_list_volume_health(request).await?;
    Ok(reply.into_inner())
}

#[tokio::test]
async fn controller_and_node_tell_the_same_of_a_volume() {
    let mut s = Server::start().await;
    let id = s.made("n").await.volume_id;
    s.fake.state().findings = vec![
        finding(&id, Trouble::DeviceError, Severity::Error),
        finding(&id, Trouble::DeviceError, Severity::Error),
        finding(&id, Trouble::PoolFull, Severity::Warning),
    ];
    let request = ControllerGetVolumeHealthRequest {
        volume_id: id.clone(),
        ..Default::default()
    };
    let told = ok(s.controller.controller_get_volume_health(request).await);
    let told = told.volume_health.unwrap();
    assert_eq!(told.volume_id, id);
    let statuses: Vec<_> = told
        .health_statuses
        .iter()
        .map(|e| (e.status(), e.reason.as_str()))
        .collect();
    assert_eq!(
        statuses,
        [
            (VolumeHealthErrorType::Degraded, "PoolFull"),
            (VolumeHealthErrorType::Inaccessible, "DeviceError"),
        ]
    );
    assert!(told.health_statuses[0].message.contains("mend it"));
    // The mount may have failed, so there is nothing at these paths.
    let request = NodeGetVolumeHealthRequest {
        volume_id: id,
        volume_publish_path: "/nowhere".into(),
        staging_target_path: "/nowhere/either".into(),
    };
    let same = ok(s.node.node_get_volume_health(request).await);
    assert_eq!(same.volume_health.unwrap(), told);
}

#[tokio::test]
async fn a_healthy_volume_has_no_entries_and_an_unknown_one_is_not_found() {
    let mut s = Server::start().await;
    let id = s.made("n").await.volume_id;
    let ask = |id: &str| ControllerGetVolumeHealthRequest {
        volume_id: id.into(),
        ..Default::default()
    };
    let told = ok(s.controller.controller_get_volume_health(ask(&id)).await);
    assert!(told.volume_health.unwrap().health_statuses.is_empty());
    for foreign in ["x", &absent('v')] {
        let answer = s
            .controller
            .controller_get_volume_health(ask(foreign))
            .await;
        refused(answer, Code::NotFound, foreign);
        let request = NodeGetVolumeHealthRequest {
            volume_id: foreign.into(),
            ..Default::default()
        };
        refused(
            s.node.node_get_volume_health(request).await,
            Code::NotFound,
            "there is no",
        );
    }
}

#[tokio::test]
async fn the_list_holds_the_unwell_only_page_by_page() {
    let mut s = Server::start().await;
    let mut unwell = BTreeSet::new();
    for n in 0..6 {
        let id = s.made(&format!("n{n}")).await.volume_id;
        if n % 2 == 0 {
            let mut state = s.fake.state();
            state
                .findings
                .push(finding(&id, Trouble::ReadOnly, Severity::Error));
            unwell.insert(id);
        }
    }
    let all = list(&mut s, 0, "").await.unwrap();
    assert_eq!(all.entries.len(), 3);
    let first = list(&mut s, 2, "").await.unwrap();
    assert_eq!(first.entries.len(), 2);
    let second = list(&mut s, 2, &first.next_token).await.unwrap();
    assert_eq!((second.entries.len(), second.next_token.as_str()), (1, ""));
    let listed: BTreeSet<String> = [first.entries, second.entries]
        .concat()
        .into_iter()
        .map(|e| e.volume_id)
        .collect();
    assert_eq!(listed, unwell);
    let exact = list(&mut s, 3, "").await.unwrap();
    assert!(exact.next_token.is_empty());
    refused(
        list(&mut s, 0, "invalid-token").await,
        Code::Aborted,
        "starting_token",
    );
    // A pool that is away is when the others' health matters.
    s.fake.state().unread = true;
    assert_eq!(list(&mut s, 0, "").await.unwrap(), all);
}

#[tokio::test]
async fn storage_health_is_of_pools_and_tools_not_of_single_volumes() {
    let mut s = Server::start().await;
    let id = s.made("n").await.volume_id;
    let ask = NodeGetStorageHealthRequest::default();
    let well = ok(s.node.node_get_storage_health(ask.clone()).await);
    assert!(well.backend_health.is_empty());
    s.fake.state().findings = vec![
        finding("fast", Trouble::PoolMissing, Severity::Error),
        finding("slow", Trouble::PoolFull, Severity::Warning),
        finding("huge", Trouble::PoolFull, Severity::Warning),
        finding("vg0/x", Trouble::Leftover, Severity::Warning),
        finding(&id, Trouble::DeviceError, Severity::Error),
    ];
    let unwell = ok(s.node.node_get_storage_health(ask).await).backend_health;
    let told: Vec<_> = unwell
        .iter()
        .map(|e| (e.status(), e.reason.as_str()))
        .collect();
    assert_eq!(
        told,
        [
            (StorageHealthErrorType::StorageDegraded, "PoolFull"),
            (StorageHealthErrorType::StorageUnreachable, "PoolMissing"),
        ]
    );
}
