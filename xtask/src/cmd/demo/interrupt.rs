//! SIGINT, SIGTERM and the like, as a flag.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};

#[derive(Clone)]
pub(super) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// From now on these signals do nothing but set the flag.
    pub(super) fn listen() -> Result<Self> {
        let flag = Arc::new(AtomicBool::new(false));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .context("failed to prepare for signals")?;
        let mut streams = Vec::new();
        for kind in [
            SignalKind::interrupt(),
            SignalKind::terminate(),
            SignalKind::hangup(),
            SignalKind::quit(),
        ] {
            let _inside = runtime.enter();
            streams.push(signal(kind).context("failed to listen for signals")?);
        }
        let seen = Arc::clone(&flag);
        std::thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    let each = streams.iter_mut().map(|s| Box::pin(s.recv()));
                    let mut waiting: Vec<_> = each.collect();
                    std::future::poll_fn(|cx| {
                        match waiting.iter_mut().any(|w| w.as_mut().poll(cx).is_ready()) {
                            true => std::task::Poll::Ready(()),
                            false => std::task::Poll::Pending,
                        }
                    })
                    .await;
                    seen.store(true, Ordering::SeqCst);
                });
            })
            .context("failed to start the thread for signals")?;
        Ok(Self(flag))
    }

    pub(super) fn came(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}
