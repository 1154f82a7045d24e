//! Tasks that wait for the end of another process's lease. A tracked read of the lease registers the connection with the server,
//! whose push then wakes every task that waits for that key.
//!
//! Tasks also poll, rarely: that limits the cost of a lost push, or of a lease that the server is late to expire.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use crate::{key::KeyId, sync::Mutex};

/// How long to wait for a push before looking again, in milliseconds: this, and up to as much more at random.
const POLL: u64 = 25;
const POLL_SPREAD: u64 = 75;
/// The same without pushes.
const POLL_UNTRACKED: std::ops::Range<u64> = 5..25;

/// One waker for each key with waiters. It is in the table until it wakes, or until the last of its waiters leaves.
#[derive(Debug)]
pub(crate) struct Waiters {
    wakers: Mutex<HashMap<KeyId, Waker>>,
    poll: AtomicU64,
}

#[derive(Debug, Default)]
struct Waker {
    waiting: usize,
    woken: CancellationToken,
}

impl Default for Waiters {
    fn default() -> Self {
        Self { wakers: Mutex::default(), poll: AtomicU64::new(POLL) }
    }
}

/// A place among the waiters for a key.
pub(crate) struct Waiter<'a> {
    waiters: &'a Waiters,
    id: KeyId,
    woken: CancellationToken,
}

/// How long to wait before looking again if there are no pushes.
pub(crate) fn pause_untracked() -> Duration {
    Duration::from_millis(fastrand::u64(POLL_UNTRACKED))
}

impl Waiters {
    /// Begins to wait. To be called before the lease is read, so that a push after that read is not missed.
    pub(crate) fn join(&self, id: KeyId) -> Waiter<'_> {
        let mut wakers = self.wakers.lock();
        let waker = wakers.entry(id).or_default();
        waker.waiting += 1;
        Waiter { waiters: self, id, woken: waker.woken.clone() }
    }

    /// Something happened to the lease on this key.
    pub(crate) fn wake(&self, id: KeyId) {
        let mut wakers = self.wakers.lock();
        if let Some(waker) = wakers.remove(&id) {
            waker.woken.cancel();
        }
    }

    /// Something may have happened to every lease.
    pub(crate) fn wake_all(&self) {
        for (_, waker) in self.wakers.lock().drain() {
            waker.woken.cancel();
        }
    }

    /// How long to wait for a push before looking again.
    pub(crate) fn pause(&self) -> Duration {
        Duration::from_millis(self.poll.load(Ordering::Relaxed) + fastrand::u64(..POLL_SPREAD))
    }

    #[cfg(test)]
    pub(crate) fn hardly_poll(&self) {
        self.poll.store(600_000, Ordering::Relaxed);
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.wakers.lock().len()
    }
}

impl Waiter<'_> {
    /// Returns once something happened to the lease since this waiter joined.
    pub(crate) fn woken(&self) -> impl Future<Output = ()> {
        self.woken.cancelled()
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let mut wakers = self.waiters.wakers.lock();
        // A waker that has woken is no longer in the table, and its place may have another one.
        if self.woken.is_cancelled() {
            return;
        }
        if let Some(waker) = wakers.get_mut(&self.id) {
            waker.waiting -= 1;
            if waker.waiting == 0 {
                wakers.remove(&self.id);
            }
        }
    }
}
