//! The socket, and what a server does at its start and end.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::{fs, io};

use stowage_csi::client::connect;
use stowage_csi::proto::ProbeRequest;
use stowage_csi::proto::identity_client::IdentityClient;
use stowage_csi::{Config, bind, serve};
use stowage_model::Kind;

use crate::fake::Fake;
use crate::support::config;

fn names(dir: &std::path::Path) -> Vec<std::ffi::OsString> {
    fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect()
}

#[tokio::test]
async fn only_the_owner_may_connect_and_nothing_else_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("csi.sock");
    let _listener = bind(&path, |_| false).unwrap();
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert_eq!(names(dir.path()), ["csi.sock"]);
}

#[tokio::test]
async fn a_dead_servers_socket_is_replaced_and_a_live_ones_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("csi.sock");
    drop(bind(&path, |_| false).unwrap());
    assert!(path.exists(), "a dead server leaves its socket");
    let _live = bind(&path, |_| false).unwrap();
    let error = bind(&path, |_| false).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    assert!(error.to_string().contains("csi.sock"), "{error}");
    assert_eq!(names(dir.path()), ["csi.sock"]);
}

#[tokio::test]
async fn the_socket_of_a_server_that_runs_no_more_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("csi.sock");
    let _hangs = bind(&path, |_| false).unwrap();
    let _ours = bind(&path, |pid| pid == std::process::id()).unwrap();
    assert_eq!(names(dir.path()), ["csi.sock"]);
}

#[tokio::test]
async fn what_is_no_socket_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data");
    fs::write(&path, "precious").unwrap();
    let error = bind(&path, |_| false).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
    assert_eq!(fs::read(&path).unwrap(), b"precious");
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    assert_eq!(
        bind(&link, |_| false).unwrap_err().kind(),
        io::ErrorKind::AlreadyExists
    );
}

#[tokio::test]
async fn what_a_killed_start_left_is_in_nobodys_way() {
    let dir = tempfile::tempdir().unwrap();
    let private = dir.path().join(format!(".{:x}", std::process::id()));
    fs::create_dir(&private).unwrap();
    fs::write(private.join("s"), "").unwrap();
    let _listener = bind(&dir.path().join("csi.sock"), |_| false).unwrap();
    assert_eq!(names(dir.path()), ["csi.sock"]);
}

#[tokio::test]
async fn a_directory_that_is_not_there_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let error = bind(&dir.path().join("no/csi.sock"), |_| false).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
}

#[tokio::test]
async fn a_bad_configuration_fails_at_start() {
    let dir = tempfile::tempdir().unwrap();
    let listener = bind(&dir.path().join("csi.sock"), |_| false).unwrap();
    let fake = Arc::new(Fake::default());
    let bad = Config {
        driver_name: "9".into(),
        ..config()
    };
    let never = std::future::pending();
    let served = serve(
        listener,
        bad,
        fake.clone(),
        fake,
        Arc::new(|| Ok(())),
        never,
    );
    let error = served.await.unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid);
    assert!(error.message().contains("driver name"));
}

#[tokio::test]
async fn a_server_told_to_stop_ends_though_clients_stay_connected() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("csi.sock");
    let listener = bind(&path, |_| false).unwrap();
    let fake = Arc::new(Fake::default());
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let shutdown = async {
        let _ = stopped.await;
    };
    let ready = Arc::new(|| Ok(()));
    let server = tokio::spawn(serve(
        listener,
        config(),
        fake.clone(),
        fake,
        ready,
        shutdown,
    ));
    let mut client = IdentityClient::new(connect(&path).await.unwrap());
    client.probe(ProbeRequest {}).await.unwrap();
    stop.send(()).unwrap();
    let ended = tokio::time::timeout(std::time::Duration::from_secs(10), server).await;
    ended.unwrap().unwrap().unwrap();
    assert!(client.probe(ProbeRequest {}).await.is_err());
}

/// Frames as gRPC's C core sends them over a Unix socket. No client in Rust can be made to.
#[tokio::test]
async fn a_client_that_names_the_sockets_path_as_its_authority_is_served() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let s = crate::support::Server::start().await;
    let mut socket = tokio::net::UnixStream::connect(s.path("csi.sock"))
        .await
        .unwrap();
    let literal = |name: &str, value: &str| {
        let part = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
        [&[0x40][..], &part(name), &part(value)].concat()
    };
    // `:method: POST` and `:scheme: http` are of the table that both sides have.
    let fields = [
        vec![0x83, 0x86],
        literal(":path", "/csi.v1.Identity/Probe"),
        literal(":authority", "run%2Fstowage%2Fcsi.sock"),
        literal("te", "trailers"),
        literal("content-type", "application/grpc"),
    ]
    .concat();
    let frame = |kind: u8, flags: u8, stream: u8, payload: &[u8]| {
        let length = u8::try_from(payload.len()).unwrap();
        [&[0, 0, length, kind, flags, 0, 0, 0, stream], payload].concat()
    };
    let sent = [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        frame(4, 0, 0, &[]),
        frame(1, 4, 1, &fields),
        frame(0, 1, 1, &[0; 5]),
    ];
    socket.write_all(&sent.concat()).await.unwrap();
    // The kind of the first frame that is about the stream: HEADERS, not RST_STREAM.
    let mut answered = async || loop {
        let mut header = [0; 9];
        socket.read_exact(&mut header).await.unwrap();
        let mut payload = vec![0; (usize::from(header[1]) << 8) | usize::from(header[2])];
        socket.read_exact(&mut payload).await.unwrap();
        if header[8] == 1 && header[3] != 8 {
            return header[3];
        }
    };
    let patience = std::time::Duration::from_secs(10);
    let kind = tokio::time::timeout(patience, answered()).await.unwrap();
    assert_eq!(kind, 1);
}
