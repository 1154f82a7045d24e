//! Waiting for a condition, with a cap.

use std::{
    panic::Location,
    thread,
    time::{Duration, Instant},
};

/// Long enough for a busy machine with one core, short enough to be reported before a test runner gives up.
const PATIENCE: Duration = Duration::from_secs(30);
const INTERVAL: Duration = Duration::from_millis(10);

/// Polls `condition` until it holds; panics with `what` when it does not within 30 seconds.
#[track_caller]
pub fn wait_until<C>(what: &str, mut condition: C) -> impl Future<Output = ()>
where
    C: AsyncFnMut() -> bool,
{
    let caller = Location::caller();
    async move {
        let poll = async {
            while !condition().await {
                tokio::time::sleep(INTERVAL).await;
            }
        };
        if tokio::time::timeout(PATIENCE, poll).await.is_err() {
            panic!("{caller}: waited {PATIENCE:?} in vain until {what}");
        }
    }
}

/// Polls `condition` from a thread; true as soon as it holds, false when it did not within `limit`.
pub(crate) fn poll(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        thread::sleep(INTERVAL);
    }
}
