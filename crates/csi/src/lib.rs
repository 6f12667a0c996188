//! The CSI door: the Identity, Controller, GroupController and Node services of the Container
//! Storage Interface 1.13, on a Unix socket. It checks what a caller sent against the
//! specification, turns it into the house's own requests, and turns answers and errors back.
//!
//! This room must not know how bytes are stored (LVM, thin pools, files), how anything is mounted,
//! nor that Kubernetes exists: it stands on the traits [`Volumes`] and [`Publish`] alone, so what
//! answers behind them may be on this machine or on the other end of a cluster.
//!
//! ```text
//!  kubelet, sidecars ──gRPC──▶ identity  controller  group  node      one table of RPCs each
//!                                  │  fields, capability, size, topology   checked once, here
//!                                  ▼
//!                        model::{VolumeRequest, StageRequest, ...}
//!                                  │
//!                                  ▼
//!                        dyn Volumes / dyn Publish ──Err(Kind)──▶ status   one code table
//! ```
#![warn(missing_docs)]

mod authority;
mod capability;
#[cfg(feature = "client")]
pub mod client;
mod config;
mod context;
mod controller;
mod door;
mod fields;
mod group;
mod health;
mod identity;
mod node;
mod page;
pub mod proto;
mod size;
mod socket;
mod status;
mod topology;

use std::future::Future;
use std::sync::Arc;

use stowage_model::error::Context;
use stowage_model::{Publish, Result, Volumes};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnixListenerStream;

pub use config::{Config, DEFAULT_TOPOLOGY_KEY};
pub use socket::bind;

use authority::Forgiving;
use door::Door;
use proto::controller_server::ControllerServer;
use proto::group_controller_server::GroupControllerServer;
use proto::identity_server::IdentityServer;
use proto::node_server::NodeServer;

/// What Probe asks: whether the driver can serve. [`stowage_model::Kind::Pending`] means "still
/// starting"; any other error means "unwell". Must be cheap: liveness probes call it.
pub type Ready = Arc<dyn Fn() -> Result<()> + Send + Sync>;

/// Answer CSI calls on `listener` until `shutdown` resolves, then finish the calls under way.
///
/// # Errors
/// [`stowage_model::Kind::Invalid`] when the configuration breaks a rule of the specification,
/// [`stowage_model::Kind::Internal`] when the socket fails.
pub async fn serve(
    listener: tokio::net::UnixListener,
    config: Config,
    volumes: Arc<dyn Volumes>,
    publish: Arc<dyn Publish>,
    ready: Ready,
    shutdown: impl Future<Output = ()>,
) -> Result<()> {
    config.check()?;
    let door = Arc::new(Door {
        config,
        volumes,
        publish,
        ready,
    });
    let callers = UnixListenerStream::new(listener).map(|caller| caller.map(Forgiving::new));
    tonic::transport::Server::builder()
        .add_service(IdentityServer::from_arc(Arc::clone(&door)))
        .add_service(ControllerServer::from_arc(Arc::clone(&door)))
        .add_service(GroupControllerServer::from_arc(Arc::clone(&door)))
        .add_service(NodeServer::from_arc(door))
        .serve_with_incoming_shutdown(callers, shutdown)
        .await
        .or_internal(|| "failed to serve CSI calls".to_owned())
}
