//! How full a file system is, without hanging on a dead one.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::statvfs;
use rustix::io::Errno;
use tokio::sync::watch;

use crate::error::{Context, FsError};

/// Space in bytes and inodes in pieces; file systems without a fixed number of inodes (btrfs) say
/// 0 for all three.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    pub total: u64,
    /// To unprivileged users; root's reserve is neither available nor used.
    pub available: u64,
    pub used: u64,
    pub inodes: u64,
    pub inodes_free: u64,
    pub inodes_used: u64,
}

/// How full the file system that `mountpoint` lies on is. Blocks as long as its server or disk
/// does: see [`statvfs_bounded`].
///
/// # Errors
/// As statvfs(3).
pub fn size(mountpoint: &Path) -> Result<Usage, FsError> {
    ask(mountpoint).context("read the usage of", mountpoint)
}

fn ask(path: &Path) -> Result<Usage, Errno> {
    let found = statvfs(path)?;
    Ok(Usage {
        total: found.f_blocks.saturating_mul(found.f_frsize),
        available: found.f_bavail.saturating_mul(found.f_frsize),
        used: found
            .f_blocks
            .saturating_sub(found.f_bfree)
            .saturating_mul(found.f_frsize),
        inodes: found.f_files,
        inodes_free: found.f_ffree,
        inodes_used: found.f_files.saturating_sub(found.f_ffree),
    })
}

type Answer = watch::Receiver<Option<Result<Usage, Errno>>>;

/// The questions under way. Global because what it bounds is: threads of this process that hang
/// in the kernel, whoever asks.
static ASKED: Mutex<Option<HashMap<PathBuf, Answer>>> = Mutex::new(None);

/// As [`size`], but gives up after `timeout`.
///
/// The thread that asked stays behind until the kernel answers it; while it does, everybody who
/// asks about the same path waits for its answer, so a dead mount costs one thread. It is a plain
/// thread because a runtime waits for its blocking tasks when it shuts down.
///
/// # Errors
/// `TimedOut`, or as statvfs(3).
pub async fn statvfs_bounded(path: &Path, timeout: Duration) -> Result<Usage, FsError> {
    bounded(path, timeout, ask)
        .await
        .context("read the usage of", path)
}

async fn bounded(
    path: &Path,
    timeout: Duration,
    ask: impl FnOnce(&Path) -> Result<Usage, Errno> + Send + 'static,
) -> io::Result<Usage> {
    let mut answer = join(path, ask)?;
    let wait = answer.wait_for(Option::is_some);
    match tokio::time::timeout(timeout, wait).await {
        Ok(Ok(answered)) => match &*answered {
            Some(answer) => Ok((*answer)?),
            None => Err(io::ErrorKind::Other.into()),
        },
        Ok(Err(_)) => Err(io::Error::other("the thread that asked has panicked")),
        Err(_) => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("the file system did not answer in {timeout:?}"),
        )),
    }
}

/// The answer under way, or a new thread for it.
fn join(
    path: &Path,
    ask: impl FnOnce(&Path) -> Result<Usage, Errno> + Send + 'static,
) -> io::Result<Answer> {
    let mut asked = ASKED.lock().unwrap_or_else(PoisonError::into_inner);
    let asked = asked.get_or_insert_default();
    if let Some(answer) = asked.get(path) {
        return Ok(answer.clone());
    }
    let (sender, answer) = watch::channel(None);
    let question = Arc::<Path>::from(path);
    std::thread::Builder::new()
        .name("statvfs".to_owned())
        .spawn(move || {
            let done = Done(&question);
            let result = ask(&question);
            // Forgotten before it is told: whoever asks after an answer gets a fresh one.
            drop(done);
            sender.send_replace(Some(result));
        })?;
    asked.insert(path.to_owned(), answer.clone());
    Ok(answer)
}

/// Forgets the question also when the thread panics.
struct Done<'a>(&'a Path);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        if let Some(asked) = &mut *ASKED.lock().unwrap_or_else(PoisonError::into_inner) {
            asked.remove(self.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn usage_adds_up() {
        let usage = size(Path::new("/")).unwrap();
        assert!(
            usage.used > 0 && usage.used + usage.available <= usage.total,
            "{usage:?}"
        );
        assert_eq!(usage.inodes_used + usage.inodes_free, usage.inodes);
    }

    #[tokio::test]
    async fn a_live_path_answers_again_and_again() {
        for _ in 0..3 {
            statvfs_bounded(Path::new("/proc"), Duration::from_secs(5))
                .await
                .unwrap();
        }
        let gone = statvfs_bounded(Path::new("/nowhere"), Duration::from_secs(5)).await;
        assert_eq!(gone.unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn a_dead_path_costs_one_thread_and_recovers() {
        let path = Path::new("/imagined/dead/mount");
        let (release, blocked) = mpsc::channel::<()>();
        let hang = move |_: &Path| {
            let _ = blocked.recv();
            ask(Path::new("/"))
        };
        let short = Duration::from_millis(50);
        let first = bounded(path, short, hang).await.unwrap_err();
        assert_eq!(first.kind(), io::ErrorKind::TimedOut);
        // The second must join the first, not ask by itself.
        let second = bounded(path, short, |_| panic!("asked twice"))
            .await
            .unwrap_err();
        assert_eq!(second.kind(), io::ErrorKind::TimedOut);
        let third = tokio::spawn(bounded(path, Duration::from_secs(5), |_| {
            panic!("asked thrice")
        }));
        tokio::time::sleep(short).await;
        release.send(()).unwrap();
        assert!(third.await.unwrap().is_ok());
        let fourth = bounded(path, Duration::from_secs(5), |_| Err(Errno::STALE)).await;
        assert_eq!(
            Errno::from_io_error(&fourth.unwrap_err()),
            Some(Errno::STALE)
        );
    }
}
