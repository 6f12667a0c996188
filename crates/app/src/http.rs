//! `/metrics` and `/healthz` on loopback.

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use stowage_node::Local;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Serve until told to stop.
pub(crate) async fn serve(
    listener: TcpListener,
    local: Local,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .with_state(local);
    axum::serve(listener, router)
        .with_graceful_shutdown(stop.cancelled_owned())
        .await
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
