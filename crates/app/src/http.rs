//! `/metrics` and `/healthz` on loopback.

mod few;

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use stowage_model::volumes::{Finding, Severity, Trouble};
use stowage_node::Local;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// How long an address that is taken is left alone at first, doubled each time, and at most.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Serve until told to stop. An address that cannot be listened at keeps nothing else from being
/// served: it is a finding, and tried again.
pub(crate) async fn serve(
    address: SocketAddr,
    local: Local,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let listener = tokio::select! {
        listener = listen(address, &local) => listener,
        () = stop.cancelled() => return Ok(()),
    };
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .with_state(local)
        .layer(axum::middleware::map_response(once));
    axum::serve(few::Few::new(listener), router)
        .with_graceful_shutdown(stop.cancelled_owned())
        .await
}

/// A connection is for one page: kept, it would take the place of somebody else.
async fn once(mut response: Response) -> Response {
    let close = header::HeaderValue::from_static("close");
    response.headers_mut().insert(header::CONNECTION, close);
    response
}

async fn listen(address: SocketAddr, local: &Local) -> TcpListener {
    let mut pause = PAUSE;
    loop {
        let why = match TcpListener::bind(address).await {
            Ok(listener) => {
                local.tell("metrics", None);
                return listener;
            }
            Err(e) => e,
        };
        if pause == PAUSE {
            tracing::error!(%address, error = %why, "metrics are not served yet");
        }
        let finding = Finding {
            severity: Severity::Warning,
            trouble: Trouble::Leftover,
            subject: "metrics".to_owned(),
            what: format!("failed to listen on {address}: {why}"),
            mend: "end what has the port, or set `metrics` to another one or to `off`; it is \
                   tried again within a minute"
                .to_owned(),
        };
        local.tell("metrics", Some(finding));
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

async fn metrics(State(local): State<Local>) -> Response {
    const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    match crate::metrics::page(&local).await {
        Ok(text) => ([(header::CONTENT_TYPE, OPENMETRICS)], text).into_response(),
        Err(e) => (StatusCode::INTERNAL_SERVER_ERROR, crate::print::chain(&e)).into_response(),
    }
}

async fn healthz(State(local): State<Local>) -> Response {
    match local.ready() {
        Ok(()) => "ok\n".into_response(),
        Err(e) => (StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", e.chain())).into_response(),
    }
}
