//! The suite of the CSI project against the door and its fakes. The same suite runs against the
//! whole driver in `cargo xtask test`; here it judges the door alone, in seconds and without root.

use std::time::Duration;

use stowage_testkit::Sanity;
use stowage_testkit::sanity::Access;

use crate::support::Server;

async fn run(access: Access) {
    let server = Server::start().await;
    let logs = server.path("logs");
    let suite = Sanity::new(server.socket(), access)
        .volume_parameter("volumeType", "LVM")
        .mutable_parameter("bps", "10485760")
        .mutable_parameter("iops", "1000");
    let judged = move || suite.run(&logs, Duration::from_secs(300), || true);
    let report = tokio::task::spawn_blocking(judged).await.unwrap().unwrap();
    report.check().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs csi-sanity: cargo xtask setup"]
async fn csi_sanity_finds_nothing_with_file_systems() {
    run(Access::Mount).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs csi-sanity: cargo xtask setup"]
async fn csi_sanity_finds_nothing_with_block_devices() {
    run(Access::Block).await;
}
