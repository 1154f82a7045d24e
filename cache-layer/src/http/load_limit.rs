//! How many requests may be at the application at one time because the cache has no answer.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout_at},
};

/// Unlimited by default. Clones are one.
#[derive(Clone, Debug, Default)]
pub(super) struct LoadLimit(Option<Arc<Limit>>);

#[derive(Debug)]
struct Limit {
    load_limit: Arc<Semaphore>,
    /// Requests that wait for one.
    waiting: AtomicUsize,
}

/// A place for one request at the application, until it is dropped.
#[derive(Debug)]
pub(super) struct LoadPermit {
    _permit: Option<OwnedSemaphorePermit>,
}

impl LoadLimit {
    pub(super) fn new(most: usize) -> Self {
        let load_limit = Arc::new(Semaphore::new(most.clamp(1, Semaphore::MAX_PERMITS)));
        Self(Some(Arc::new(Limit { load_limit, waiting: AtomicUsize::new(0) })))
    }

    /// A permit for one request, as soon as there is one: first come, first served. `None` if there was none by `deadline`.
    pub(super) async fn wait(&self, deadline: Instant) -> Option<LoadPermit> {
        if let Some(room) = self.take() {
            return Some(room);
        }
        let limit = self.0.as_ref()?;
        let _waiting = Waiting::at(&limit.waiting);
        // The semaphore is never closed.
        let permit = timeout_at(deadline, limit.load_limit.clone().acquire_owned()).await.ok()?.ok()?;
        Some(LoadPermit { _permit: Some(permit) })
    }

    /// A permit for one request, if there is one.
    pub(super) fn take(&self) -> Option<LoadPermit> {
        let permit = match &self.0 {
            None => None,
            Some(limit) => Some(limit.load_limit.clone().try_acquire_owned().ok()?),
        };
        Some(LoadPermit { _permit: permit })
    }

    /// Whether a request waits for room.
    pub(super) fn is_contended(&self) -> bool {
        self.0.as_ref().is_some_and(|limit| limit.waiting.load(Ordering::Relaxed) > 0)
    }
}

/// A request that waits, until it is dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn at(waiting: &'a AtomicUsize) -> Self {
        waiting.fetch_add(1, Ordering::Relaxed);
        Self(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_waits_goes_in_order_and_gives_up_in_time() {
        let load_limit = LoadLimit::new(1);
        let room = load_limit.take().expect("it is empty");
        assert!(load_limit.take().is_none());
        let soon = Instant::now() + std::time::Duration::from_secs(5);
        assert!(load_limit.wait(soon).await.is_none());
        assert_eq!(Instant::now(), soon);
        let later = soon + std::time::Duration::from_secs(5);
        let waiting = [load_limit.clone(), load_limit.clone()]
            .map(|load_limit| tokio::spawn(async move { load_limit.wait(later).await }));
        tokio::task::yield_now().await;
        drop(room);
        let [first, second] = waiting;
        let room = first.await.unwrap().expect("it is first");
        assert!(load_limit.take().is_none() && !second.is_finished() && load_limit.is_contended());
        drop(room);
        assert!(second.await.unwrap().is_some() && !load_limit.is_contended());
    }

    #[tokio::test]
    async fn without_a_limit_there_is_always_room() {
        let load_limit = LoadLimit::default();
        let taken: Vec<_> = (0..1_000).map(|_| load_limit.take()).collect();
        assert!(taken.iter().all(Option::is_some) && load_limit.wait(Instant::now()).await.is_some());
    }
}
