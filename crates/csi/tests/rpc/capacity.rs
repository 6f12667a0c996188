use stowage_csi::proto::volume_capability::access_mode::Mode;
use stowage_csi::proto::{GetCapacityRequest, GetCapacityResponse};
use stowage_model::Bytes;
use stowage_model::request::{Layout, Provisioning};
use tonic::{Code, Status};

use crate::fake::SPACE;
use crate::support::{Server, map, mib, mount, place, refused};

async fn capacity(
    s: &mut Server,
    request: GetCapacityRequest,
) -> Result<GetCapacityResponse, Status> {
    Ok(s.controller.get_capacity(request).await?.into_inner())
}

fn of(parameters: &[(&str, &str)]) -> GetCapacityRequest {
    GetCapacityRequest {
        parameters: map(parameters),
        ..Default::default()
    }
}

fn wire(size: Bytes) -> i64 {
    i64::try_from(size.0).unwrap()
}

#[tokio::test]
async fn capacity_shrinks_with_volumes_and_the_largest_volume_is_told() {
    let mut s = Server::start().await;
    let empty = capacity(&mut s, GetCapacityRequest::default())
        .await
        .unwrap();
    assert_eq!(empty.available_capacity, wire(SPACE));
    assert_eq!(empty.maximum_volume_size, Some(wire(SPACE) / 2));
    s.made("n").await;
    let used = capacity(&mut s, GetCapacityRequest::default())
        .await
        .unwrap();
    assert_eq!(used.available_capacity, wire(SPACE) - mib(64));
}

#[tokio::test]
async fn parameters_choose_the_pools_and_bad_ones_are_refused() {
    let mut s = Server::start().await;
    for (parameters, space) in [
        (&[("volumeType", "LVM"), ("bps", "1Mi")][..], wire(SPACE)),
        (&[("volumeType", "Thin")], 0),
        (&[("pool", "slow")], 0),
    ] {
        let found = capacity(&mut s, of(parameters)).await.unwrap();
        assert_eq!(found.available_capacity, space, "{parameters:?}");
    }
    let bad = of(&[("volumetype", "LVM")]);
    refused(
        capacity(&mut s, bad).await,
        Code::InvalidArgument,
        "volumetype",
    );
}

#[tokio::test]
async fn capacity_is_that_of_the_layout_and_provisioning_of_the_class() {
    let mut s = Server::start().await;
    for (parameters, want) in [
        (&[][..], (Layout::Linear, Provisioning::Thick)),
        (
            &[("lvmType", "striping")],
            (Layout::Striped, Provisioning::Thick),
        ),
        (
            &[("lvmType", "raid1")],
            (Layout::Raid1, Provisioning::Thick),
        ),
        (
            &[("provisioning", "thin")],
            (Layout::Linear, Provisioning::Thin),
        ),
    ] {
        capacity(&mut s, of(parameters)).await.unwrap();
        assert_eq!(s.fake.state().measured, Some(want), "{parameters:?}");
    }
}

#[tokio::test]
async fn another_node_has_no_capacity_here() {
    let mut s = Server::start().await;
    for (segments, space) in [
        (&[("kubernetes.io/hostname", "node-1")][..], wire(SPACE)),
        (&[("kubernetes.io/hostname", "node-2")], 0),
        (&[("zone", "z")], 0),
    ] {
        let request = GetCapacityRequest {
            accessible_topology: Some(place(segments)),
            ..Default::default()
        };
        let found = capacity(&mut s, request).await.unwrap();
        assert_eq!(found.available_capacity, space, "{segments:?}");
        assert_eq!(found.maximum_volume_size, Some(space / 2));
    }
}

#[tokio::test]
async fn volumes_for_writers_on_many_nodes_have_no_capacity_anywhere() {
    let mut s = Server::start().await;
    let request = GetCapacityRequest {
        volume_capabilities: vec![mount("", Mode::MultiNodeMultiWriter)],
        ..Default::default()
    };
    assert_eq!(
        capacity(&mut s, request).await.unwrap().available_capacity,
        0
    );
}
