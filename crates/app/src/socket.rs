//! The daemon's Unix sockets. One that cannot be bound, since its directory is read-only, full, hangs
//! or its name is taken, does not keep the other from being served: it is a finding, and tried again.
//! Another daemon that answers there, something else of its name, and a path that no socket can have
//! end the start, for only a person can mend those.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::{Duration, Instant};

use anyhow::Context;
use stowage_model::volumes::{Finding, Severity, Trouble};
use stowage_node::Local;
use tokio::net::UnixListener;

/// How long the directory of a socket is waited for before others are served without it.
const PATIENCE: Duration = Duration::from_millis(400);

/// A command that a killed daemon was just starting keeps its listening socket open until it executes,
/// and a client of it finds somebody there: so long it is looked again, and how often.
const LEFTOVER: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(50);

/// How long a socket that cannot be bound is left alone at first, doubled each time, and at most.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

type Attempt = Pin<Box<dyn Future<Output = Result<UnixListener, Failure>> + Send>>;

/// Why a socket is not bound.
struct Failure {
    why: io::Error,
    /// Only a person can mend it.
    is_final: bool,
}

/// A socket that is bound, or is to be.
pub(crate) struct Socket {
    name: &'static str,
    path: PathBuf,
    local: Local,
    bound: Option<UnixListener>,
    under_way: Option<Attempt>,
}

impl Socket {
    /// Bind it, if that can be done soon.
    ///
    /// # Errors
    /// When it is not to be tried again.
    pub(crate) async fn bind(
        name: &'static str,
        path: &Path,
        local: &Local,
    ) -> anyhow::Result<Self> {
        let mut socket = Self {
            name,
            path: path.to_owned(),
            local: local.clone(),
            bound: None,
            under_way: None,
        };
        let deadline = Instant::now() + LEFTOVER;
        loop {
            let mut attempt = socket.attempt();
            match tokio::time::timeout(PATIENCE, &mut attempt).await {
                Ok(Ok(listener)) => socket.bound = Some(listener),
                Ok(Err(Failure { why, .. }))
                    if why.kind() == ErrorKind::AddrInUse && Instant::now() < deadline =>
                {
                    tokio::time::sleep(LOOK).await;
                    continue;
                }
                Ok(Err(Failure { why, is_final })) if is_final => {
                    return Err(why)
                        .with_context(|| format!("failed to listen at {}", path.display()));
                }
                Ok(Err(failure)) => socket.tell(&failure.why),
                Err(_) => {
                    socket.tell(&io::Error::other("its directory does not answer"));
                    socket.under_way = Some(attempt);
                }
            }
            return Ok(socket);
        }
    }

    /// The listener, as soon as there is one.
    pub(crate) async fn listener(mut self) -> UnixListener {
        if let Some(bound) = self.bound.take() {
            return bound;
        }
        let mut pause = PAUSE;
        loop {
            let attempt = match self.under_way.take() {
                Some(attempt) => attempt,
                None => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    self.attempt()
                }
            };
            match attempt.await {
                Ok(listener) => {
                    tracing::info!(path = %self.path.display(), "listening at last");
                    self.local.tell(self.name, None);
                    return listener;
                }
                Err(failure) => self.tell(&failure.why),
            }
        }
    }

    fn attempt(&self) -> Attempt {
        let path = self.path.clone();
        Box::pin(stowage_host::blocking(move || bind(&path)))
    }

    fn tell(&self, why: &io::Error) {
        let path = self.path.display();
        tracing::error!(%path, error = %why, "not listening there yet");
        let finding = Finding {
            severity: Severity::Error,
            trouble: Trouble::Leftover,
            subject: format!("{} socket", self.name),
            what: format!("failed to listen at {path}: {why}"),
            mend: "mend its directory; it is tried again within a minute".to_owned(),
        };
        self.local.tell(self.name, Some(finding));
    }
}

fn bind(path: &Path) -> Result<UnixListener, Failure> {
    let later = |why| Failure {
        why,
        is_final: false,
    };
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(later)?;
    }
    stowage_csi::bind(path, stowage_host::runs_no_more).map_err(|why| {
        let is_final = matches!(
            why.kind(),
            ErrorKind::AddrInUse | ErrorKind::AlreadyExists | ErrorKind::InvalidInput
        );
        Failure { why, is_final }
    })
}
