//! How far a long job is, and whether it should stop.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// Shared between a long job (zeroing, copying) and those who watch or stop it; put it in an `Arc`.
#[derive(Debug, Default)]
pub struct Progress {
    /// Bytes done so far.
    pub done: AtomicU64,
    /// Bytes in all; 0 until the job knows.
    pub total: AtomicU64,
    /// Set to end the job at its next chunk.
    pub stop: AtomicBool,
}

impl Progress {
    /// A job that has not begun.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks the job to end at its next chunk; it then fails with [`io::ErrorKind::Interrupted`].
    pub fn stop(&self) {
        self.stop.store(true, Relaxed);
    }

    /// Done, 0 to 100; 0 while the total is unknown.
    pub fn percent(&self) -> u8 {
        let total = self.total.load(Relaxed);
        let done = self.done.load(Relaxed).min(total);
        u8::try_from(u128::from(done) * 100 / u128::from(total.max(1))).unwrap_or(100)
    }

    pub(crate) fn begin(&self, total: u64) {
        self.done.store(0, Relaxed);
        self.total.store(total, Relaxed);
    }

    pub(crate) fn add(&self, bytes: u64) {
        self.done.fetch_add(bytes, Relaxed);
    }

    /// Fails when the job was asked to stop.
    pub(crate) fn check(&self) -> io::Result<()> {
        if self.stop.load(Relaxed) {
            return Err(io::Error::new(
                io::ErrorKind::Interrupted,
                "the job was asked to stop",
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_never_divides_by_zero_nor_passes_100() {
        let progress = Progress::new();
        assert_eq!(progress.percent(), 0);
        progress.begin(u64::MAX);
        progress.add(u64::MAX / 2);
        assert_eq!(progress.percent(), 49);
        progress.begin(3);
        progress.add(9);
        assert_eq!(progress.percent(), 100);
    }

    #[test]
    fn stop_is_seen_by_the_next_check() {
        let progress = Progress::new();
        assert!(progress.check().is_ok());
        progress.stop();
        assert_eq!(
            progress.check().unwrap_err().kind(),
            io::ErrorKind::Interrupted
        );
    }
}
