//! Running a blocking system call from async code.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Mutex, PoisonError};

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
            Ok(panic) => resume_unwind(panic),
            // The only other cause is a runtime that is shutting down; nobody is left to hear an
            // answer, and this future is about to be dropped.
            Err(_) => std::future::pending().await,
        },
    }
}

/// As [`blocking`], for work that takes minutes, or for ever on a disk that hangs: copies, wipes,
/// unlinking. It gets a thread of its own.
///
/// tokio has 512 blocking threads in all, and waits for every one of them when it shuts down: taken
/// by such work they would be missing to the next umount(2). The caller bounds how many run.
pub async fn on_own_thread<T, F>(work: F) -> T
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    let work = Arc::new(Mutex::new(Some(work)));
    let take = |work: &Mutex<Option<F>>| work.lock().unwrap_or_else(PoisonError::into_inner).take();
    let (tell, told) = tokio::sync::oneshot::channel();
    let theirs = Arc::clone(&work);
    let thread = std::thread::Builder::new().name("stowage-long".to_owned());
    let spawned = thread.spawn(move || {
        let Some(work) = take(&theirs) else { return };
        // Nobody listens if the caller was dropped.
        let _ = tell.send(catch_unwind(AssertUnwindSafe(work)));
    });
    if spawned.is_err()
        && let Some(work) = take(&work)
    {
        // The machine gives no more threads; those that are there will do.
        return blocking(work).await;
    }
    match told.await {
        Ok(Ok(value)) => value,
        Ok(Err(panic)) => resume_unwind(panic),
        // It was taken, so it is told, whatever it came to.
        Err(_) => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    #[tokio::test]
    #[should_panic(expected = "words of its own")]
    async fn a_panic_on_a_thread_of_its_own_reaches_the_caller() {
        super::on_own_thread(|| panic!("words of its own")).await
    }

    #[test]
    fn work_that_hangs_takes_no_thread_of_the_runtime_and_holds_up_no_shutdown() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(1)
            .build()
            .unwrap();
        let (release, hang) = mpsc::channel::<()>();
        runtime.spawn(super::on_own_thread(move || hang.recv()));
        let soon =
            async { tokio::time::timeout(Duration::from_secs(5), super::blocking(|| 1)).await };
        assert_eq!(runtime.block_on(soon), Ok(1));
        drop(runtime);
        // Only now may it end.
        drop(release);
    }

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
