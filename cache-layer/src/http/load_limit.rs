//! Room at the application: how many requests may be there at one time because the cache has no answer.

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
pub(super) struct Rooms(Option<Arc<Limit>>);

#[derive(Debug)]
struct Limit {
    rooms: Arc<Semaphore>,
    /// Requests that wait for one.
    waiting: AtomicUsize,
}

/// Room for one request, until it is dropped.
#[derive(Debug)]
pub(super) struct Room {
    _permit: Option<OwnedSemaphorePermit>,
}

impl Rooms {
    pub(super) fn new(most: usize) -> Self {
        let rooms = Arc::new(Semaphore::new(most.clamp(1, Semaphore::MAX_PERMITS)));
        Self(Some(Arc::new(Limit { rooms, waiting: AtomicUsize::new(0) })))
    }

    /// Room for one request, as soon as there is some: first come, first served. `None` if there was none by `deadline`.
    pub(super) async fn wait(&self, deadline: Instant) -> Option<Room> {
        if let Some(room) = self.take() {
            return Some(room);
        }
        let limit = self.0.as_ref()?;
        let _waiting = Waiting::at(&limit.waiting);
        // The semaphore is never closed.
        let permit = timeout_at(deadline, limit.rooms.clone().acquire_owned()).await.ok()?.ok()?;
        Some(Room { _permit: Some(permit) })
    }

    /// Room for one request, if there is some.
    pub(super) fn take(&self) -> Option<Room> {
        let permit = match &self.0 {
            None => None,
            Some(limit) => Some(limit.rooms.clone().try_acquire_owned().ok()?),
        };
        Some(Room { _permit: permit })
    }

    /// Whether a request waits for room.
    pub(super) fn are_wanted(&self) -> bool {
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
        let rooms = Rooms::new(1);
        let room = rooms.take().expect("it is empty");
        assert!(rooms.take().is_none());
        let soon = Instant::now() + std::time::Duration::from_secs(5);
        assert!(rooms.wait(soon).await.is_none());
        assert_eq!(Instant::now(), soon);
        let later = soon + std::time::Duration::from_secs(5);
        let waiting = [rooms.clone(), rooms.clone()].map(|rooms| tokio::spawn(async move { rooms.wait(later).await }));
        tokio::task::yield_now().await;
        drop(room);
        let [first, second] = waiting;
        let room = first.await.unwrap().expect("it is first");
        assert!(rooms.take().is_none() && !second.is_finished() && rooms.are_wanted());
        drop(room);
        assert!(second.await.unwrap().is_some() && !rooms.are_wanted());
    }

    #[tokio::test]
    async fn without_a_limit_there_is_always_room() {
        let rooms = Rooms::default();
        let taken: Vec<_> = (0..1_000).map(|_| rooms.take()).collect();
        assert!(taken.iter().all(Option::is_some) && rooms.wait(Instant::now()).await.is_some());
    }
}
