//! Running a blocking system call from async code.

/// Runs `work` on tokio's blocking threads and waits for it.
///
/// mount(2), umount(2), fsync(2) and the block ioctls of this crate may take seconds on a busy
/// disk; called directly they would stop every other task of the worker thread. A panic in `work`
/// continues in the caller.
///
/// Dropping the future does not stop the call: what was asked of the kernel happens anyway.
pub async fn blocking<T, F>(work: F) -> T
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(failed) => match failed.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The only other cause is a runtime that is shutting down; nobody is left to hear an
            // answer, and this future is about to be dropped.
            Err(_) => std::future::pending().await,
        },
    }
}

#[cfg(test)]
mod tests {
    #[tokio::test]
    async fn gives_the_value_back() {
        assert_eq!(super::blocking(|| 6 * 7).await, 42);
    }

    #[tokio::test]
    #[should_panic(expected = "inner words")]
    async fn a_panic_reaches_the_caller() {
        super::blocking(|| panic!("inner words")).await
    }
}
