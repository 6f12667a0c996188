//! `stowage serve`: the daemon.

use std::io::IsTerminal;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use stowage_node::{Local, Options};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::admin;
use crate::config::Config;
use crate::socket::Socket;

/// Where locks of pools are: the same for all daemons of the machine, and gone with a reboot.
const LOCKS: &str = "/run/stowage/locks";

/// How long operations under way may take to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(20);

/// How long callers may take to hear what their operations came to.
const LAST_WORDS: Duration = Duration::from_secs(2);

pub(crate) fn run(config: Option<&Path>) -> anyhow::Result<ExitCode> {
    let config = Config::load(config)?;
    if !rustix::process::geteuid().is_root() {
        anyhow::bail!("the daemon attaches devices and mounts, so it must run as root; use sudo");
    }
    let filter = EnvFilter::try_from_env("STOWAGE_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    // Few threads: the work is done by the kernel and by commands, and every thread's stack and
    // arena counts against a daemon that runs on each node.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("failed to start the runtime")?;
    let served = runtime.block_on(serve(config));
    // Not shut down: that would drop operations under way in any order, and a dropped caller's
    // command is told to end. Commands run on, as they do when the daemon is killed.
    std::mem::forget(runtime);
    served.map(|()| ExitCode::SUCCESS)
}

async fn serve(config: Config) -> anyhow::Result<()> {
    let metrics = config.metrics_address()?;
    let csi = config.identity()?;
    let options = Options {
        state_dir: config.state_dir.clone(),
        program: std::env::current_exe().context("failed to find this program's own file")?,
        ephemeral: config.ephemeral.clone(),
        lock_dir: LOCKS.into(),
    };
    let local = Local::start(options, config.pool.clone()).await?;
    let stop = stop_on_signal()?;
    // In this order: whoever finds the second finds the first.
    let csi_socket = Socket::bind("csi", &config.csi_socket, &local).await?;
    let admin_socket = Socket::bind("admin", &config.admin_socket, &local).await?;
    tracing::info!(node = %csi.node_id, csi = %config.csi_socket.display(),
        admin = %config.admin_socket.display(), pools = config.pool.len(), "serving");
    let admin = {
        let (stop, local) = (stop.clone(), Arc::new(local.clone()));
        let node = admin::server::Node {
            volumes: local.clone(),
            mounts: local.clone(),
            pools: local,
        };
        tokio::spawn(async move {
            if let Some(listener) = unless(&stop, admin_socket.listener()).await {
                admin::server::serve(listener, node, stop).await;
            }
        })
    };
    let web = metrics.map(|at| tokio::spawn(crate::http::serve(at, local.clone(), stop.clone())));
    let ready = {
        let local = local.clone();
        Arc::new(move || local.ready())
    };
    let shared = Arc::new(local.clone());
    let ended = stop.clone();
    let mut calls = tokio::spawn(async move {
        match unless(&ended, csi_socket.listener()).await {
            None => Ok(()),
            Some(listener) => {
                let stop = ended.cancelled_owned();
                stowage_csi::serve(listener, csi, shared.clone(), shared, ready, stop).await
            }
        }
    });
    let died = tokio::select! {
        died = &mut calls => Some(died),
        () = stop.cancelled() => None,
    };
    stop.cancel();
    // Before the servers' end is waited for: they wait for the calls under way, among them copies
    // that run for hours unless they are told to stop.
    local.stop(GRACE).await;
    let servers = async {
        let _ = admin.await;
        if let Some(web) = web {
            web.await.context("the metrics server died")??;
        }
        let ended = match died {
            Some(died) => died,
            None => calls.await,
        };
        ended
            .context("the CSI server died")?
            .map_err(anyhow::Error::from)
    };
    // All work has ended or is left behind by now; what remains is to say so.
    if let Ok(ended) = tokio::time::timeout(LAST_WORDS, servers).await {
        ended?;
    }
    for socket in [&config.csi_socket, &config.admin_socket] {
        // Gone already is fine; the next start replaces a dead socket anyway.
        let _ = std::fs::remove_file(socket);
    }
    tracing::info!("stopped; mounted volumes stay mounted");
    Ok(())
}

/// What comes, unless a stop comes first.
async fn unless<T>(stop: &CancellationToken, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        done = work => Some(done),
        () = stop.cancelled() => None,
    }
}

fn stop_on_signal() -> anyhow::Result<CancellationToken> {
    let stop = CancellationToken::new();
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        let mut signal = signal(kind).context("failed to listen for signals")?;
        let stop = stop.clone();
        tokio::spawn(async move {
            signal.recv().await;
            stop.cancel();
        });
    }
    Ok(stop)
}
