//! Who waits for the end of another process's lease. A tracked read of the lease registers the connection with the
//! server, whose push then wakes everybody who waits for that key.
//!
//! Polling goes on beside it, rarely: it bounds what a lost push, or a lease that the server is late to expire, costs.

use std::{
    collections::HashMap,
    sync::{
        Arc, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use crate::{key::KeyId, sync::Mutex};

/// How long to wait for a push before looking again, in milliseconds: this, and up to so much more at random.
const POLL: u64 = 25;
const POLL_SPREAD: u64 = 75;
/// The same where there are no pushes.
const POLL_UNTRACKED: std::ops::Range<u64> = 5..25;

/// One bell for each key that is waited for.
#[derive(Debug)]
pub(crate) struct Waiters {
    bells: Mutex<HashMap<KeyId, Arc<CancellationToken>>>,
    poll: AtomicU64,
}

impl Default for Waiters {
    fn default() -> Self {
        Self { bells: Mutex::default(), poll: AtomicU64::new(POLL) }
    }
}

/// A place among those who wait for a key.
pub(crate) struct Waiter<'a> {
    waiters: &'a Waiters,
    id: KeyId,
    bell: Arc<CancellationToken>,
}

/// How long to wait before looking again where nobody will tell.
pub(crate) fn pause_untracked() -> Duration {
    Duration::from_millis(fastrand::u64(POLL_UNTRACKED))
}

impl Waiters {
    fn bells(&self) -> MutexGuard<'_, HashMap<KeyId, Arc<CancellationToken>>> {
        self.bells.lock()
    }

    /// Begins to wait. To be called before the lease is read: a push after that read is not missed, then.
    pub(crate) fn join(&self, id: KeyId) -> Waiter<'_> {
        let bell = self.bells().entry(id).or_default().clone();
        Waiter { waiters: self, id, bell }
    }

    /// Something happened to the lease on this key.
    pub(crate) fn wake(&self, id: KeyId) {
        if let Some(bell) = self.bells().remove(&id) {
            bell.cancel();
        }
    }

    /// Something may have happened to every lease.
    pub(crate) fn wake_all(&self) {
        for (_, bell) in self.bells().drain() {
            bell.cancel();
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
        self.bells().len()
    }
}

impl Waiter<'_> {
    /// Returns once something happened to the lease since this waiter joined.
    pub(crate) async fn woken(&self) {
        self.bell.cancelled().await;
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let mut bells = self.waiters.bells();
        // The last to leave: one for the table and one for this.
        if Arc::strong_count(&self.bell) == 2 && bells.get(&self.id).is_some_and(|bell| Arc::ptr_eq(bell, &self.bell)) {
            bells.remove(&self.id);
        }
    }
}
