//! What the door writes into the log: one line per failure, with the volume, and no secret.

use std::cell::RefCell;
use std::io;
use std::sync::Once;

use stowage_csi::proto::{CreateVolumeRequest, DeleteVolumeRequest};
use stowage_model::Error;

use crate::support::{Server, absent, map, volume};

thread_local! {
    /// The log of this test: its runtime keeps the whole server on the test's own thread.
    static LOG: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

struct ToThread;

impl io::Write for ToThread {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LOG.with_borrow_mut(|log| log.extend_from_slice(bytes));
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// One subscriber for all tests, set before any of them calls: with one per test, tracing decides
/// on one thread that a span is off while another thread wants it.
pub(crate) fn listen() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        tracing_subscriber::fmt()
            .with_env_filter("stowage_csi=trace")
            .with_ansi(false)
            .with_writer(|| ToThread)
            .init();
    });
}

fn text() -> String {
    LOG.with_borrow(|log| String::from_utf8(log.clone()).unwrap())
}

#[tokio::test]
async fn our_own_failure_is_logged_once_with_the_volume_and_the_cause() {
    let mut s = Server::start().await;
    let cause = io::Error::other("the disk is on fire");
    s.fake.state().fail = Some(Error::internal("failed to remove it").caused_by(cause));
    let request = DeleteVolumeRequest {
        volume_id: absent('v'),
        ..Default::default()
    };
    s.controller.delete_volume(request).await.unwrap_err();
    let text = text();
    let errors: Vec<&str> = text.lines().filter(|l| l.contains("ERROR")).collect();
    let [line] = errors[..] else {
        panic!("{text}");
    };
    for part in [
        "rpc.method=\"DeleteVolume\"",
        &format!("volume.id=\"{}\"", absent('v')),
        "failed to remove it: the disk is on fire",
    ] {
        assert!(line.contains(part), "{line} lacks {part}");
    }
}

#[tokio::test]
async fn secrets_and_attributes_are_never_logged() {
    let mut s = Server::start().await;
    let secret = map(&[("password", "hunter2")]);
    let request = CreateVolumeRequest {
        secrets: secret.clone(),
        ..volume("n")
    };
    let id = s.create(request).await.unwrap().volume_id;
    let refused = CreateVolumeRequest {
        secrets: map(&[("password", &"hunter2".repeat(1000))]),
        ..volume("n")
    };
    s.create(refused).await.unwrap_err();
    let mut staging = s.staging(&id);
    staging.secrets.clone_from(&secret);
    s.node.node_stage_volume(staging).await.unwrap();
    let mut publishing = s.publishing(&id, "target");
    publishing.secrets.clone_from(&secret);
    publishing.volume_context = map(&[("csi.storage.k8s.io/serviceAccount.tokens", "hunter2")]);
    s.node.node_publish_volume(publishing).await.unwrap();
    let text = text();
    assert!(text.contains("NodePublishVolume"), "{text}");
    assert!(!text.contains("hunter2"), "{text}");
}

#[tokio::test]
async fn a_callers_text_cannot_flood_or_forge_the_log() {
    let mut s = Server::start().await;
    let forged = format!("x\n2026 ERROR all is lost {}", "y".repeat(100_000));
    s.create(volume(&forged)).await.unwrap_err();
    let text = text();
    assert!(text.contains("CreateVolume"), "{text}");
    assert!(
        text.lines().all(|l| !l.starts_with("2026 ERROR all")),
        "{text}"
    );
    assert!(text.len() < 4096, "{}", text.len());
}
