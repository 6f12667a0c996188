//! `stowage serve`: the daemon.

use std::io::{ErrorKind, IsTerminal};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use stowage_node::{Local, Options};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::admin;
use crate::config::Config;

/// Where locks of pools are: the same for all daemons of the machine, and gone with a reboot.
const LOCKS: &str = "/run/stowage/locks";

/// How long operations under way may take to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(20);

/// How long callers may take to hear what their operations came to.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// A command that a killed daemon was just starting keeps its listening socket open until it executes,
/// and a client of it finds somebody there.
const LEFTOVER: Duration = Duration::from_secs(2);

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
    let csi_socket = bind(&config.csi_socket).await?;
    let admin_socket = bind(&config.admin_socket).await?;
    tracing::info!(node = %csi.node_id, csi = %config.csi_socket.display(),
        admin = %config.admin_socket.display(), pools = config.pool.len(), "serving");
    let admin = tokio::spawn(admin::server::serve(
        admin_socket,
        local.clone(),
        stop.clone(),
    ));
    let web = metrics.map(|at| tokio::spawn(crate::http::serve(at, local.clone(), stop.clone())));
    let ready = {
        let local = local.clone();
        Arc::new(move || local.ready())
    };
    let shared = Arc::new(local.clone());
    let mut calls = tokio::spawn(stowage_csi::serve(
        csi_socket,
        csi,
        shared.clone(),
        shared,
        ready,
        stop.clone().cancelled_owned(),
    ));
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

async fn bind(path: &Path) -> anyhow::Result<tokio::net::UnixListener> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)
            .with_context(|| format!("failed to make {}", parent.display()))?;
    }
    let deadline = Instant::now() + LEFTOVER;
    loop {
        match stowage_csi::bind(path, stowage_host::runs_no_more) {
            Err(e) if e.kind() == ErrorKind::AddrInUse && Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            bound => {
                return bound.with_context(|| format!("failed to listen at {}", path.display()));
            }
        }
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
