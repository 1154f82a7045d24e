//! How many loads run at one time, and the queue of requests that wait for a place.

use std::{
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout_at},
};

use crate::sync::Mutex;

/// The limit of a cache, and that of one front end within it. Unlimited by default. Clones share the limit.
#[derive(Clone, Debug, Default)]
pub(crate) struct LoadLimit {
    own: Option<Arc<Limit>>,
    of_cache: Option<Arc<Limit>>,
}

#[derive(Debug)]
struct Limit {
    places: Arc<Semaphore>,
    /// The number of requests that wait for a place.
    waiting: AtomicUsize,
}

/// A place for one load, and for the loads that are part of it; empty if there is no limit. Clones share the place: it is
/// free again when the last of them is dropped.
#[derive(Clone, Debug, Default)]
pub(crate) struct LoadPermit {
    _taken: Option<Arc<Taken>>,
}

#[derive(Debug)]
struct Taken {
    _own: Option<OwnedSemaphorePermit>,
    _of_cache: Option<OwnedSemaphorePermit>,
    /// In place of the one of the cache.
    _lent: LoadPermit,
}

impl LoadPermit {
    fn of(own: Option<OwnedSemaphorePermit>, of_cache: Option<OwnedSemaphorePermit>) -> Self {
        let is_limited = own.is_some() || of_cache.is_some();
        Self { _taken: is_limited.then(|| Arc::new(Taken { _own: own, _of_cache: of_cache, _lent: Self::default() })) }
    }

    /// A place of the front end, with one of the cache that another load has.
    fn lent(own: Option<OwnedSemaphorePermit>, lent: Self) -> Self {
        if own.is_none() {
            return lent;
        }
        Self { _taken: Some(Arc::new(Taken { _own: own, _of_cache: None, _lent: lent })) }
    }
}

/// The wait of a load for its place, as far as other loads need to know: it counts as a request that waits only for as long as a
/// call or client waits for the load.
#[derive(Debug)]
pub(crate) struct WaitForPlace(Mutex<Wait>);

#[derive(Debug)]
struct Wait {
    /// How many parts of the load are waited for.
    awaited: usize,
    /// The limit at which the load waits.
    at: Option<Arc<Limit>>,
    /// Since when the load has its place.
    since: Option<Instant>,
}

impl WaitForPlace {
    /// For a load of so many parts that are waited for.
    pub(crate) fn of(parts: usize) -> Self {
        Self(Mutex::new(Wait { awaited: parts, at: None, since: None }))
    }

    /// Since when the load has its place.
    pub(crate) fn since(&self) -> Option<Instant> {
        self.0.lock().since
    }

    /// Nothing waits for one of the parts any more.
    pub(super) fn left(&self) {
        self.change(|wait| wait.awaited = wait.awaited.saturating_sub(1));
    }

    /// One of the parts is waited for again.
    pub(super) fn rejoined(&self) {
        self.change(|wait| wait.awaited += 1);
    }

    fn change(&self, change: impl FnOnce(&mut Wait)) {
        let mut wait = self.0.lock();
        if let Some(limit) = wait.counts_at() {
            limit.waiting.fetch_sub(1, Ordering::Relaxed);
        }
        change(&mut wait);
        if let Some(limit) = wait.counts_at() {
            limit.waiting.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Wait {
    /// The limit at which a request waits.
    fn counts_at(&self) -> Option<&Limit> {
        self.at.as_deref().filter(|_| self.awaited > 0)
    }
}

impl LoadLimit {
    /// The limit of a cache: `most` loads, at least one.
    pub(crate) fn new(most: usize) -> Self {
        Self { own: None, of_cache: Some(Limit::new(most)) }
    }

    /// A limit of a front end's own, within that of its cache.
    pub(crate) fn within(&self, most: usize) -> Self {
        Self { own: Some(Limit::new(most)), of_cache: self.of_cache.clone() }
    }

    /// The part of this limit that is not among the `held` ones.
    pub(crate) fn without(self, held: &Self) -> Self {
        let rest = |limit: Option<Arc<Limit>>, held: &Option<Arc<Limit>>| {
            limit.filter(|limit| held.as_ref().is_none_or(|held| !Arc::ptr_eq(limit, held)))
        };
        Self { own: rest(self.own, &held.own), of_cache: rest(self.of_cache, &held.of_cache) }
    }

    /// Whether both have the limit of one cache.
    pub(crate) fn shares_that_of_the_cache(&self, other: &Self) -> bool {
        let (one, other) = (self.of_cache.as_ref(), other.of_cache.as_ref());
        one.zip(other).is_some_and(|(one, other)| Arc::ptr_eq(one, other))
    }

    /// Waits for a permit for one load: first come, first served. `None` if there was none by `deadline`.
    pub(crate) async fn wait(&self, deadline: Instant) -> Option<LoadPermit> {
        self.wait_or_borrow(deadline, &WaitForPlace::of(1), pending()).await
    }

    /// As [`wait`](Self::wait), for a load that is waited for as `wait` says; a place of the cache may also be `lent`.
    pub(crate) async fn wait_or_borrow(
        &self,
        deadline: Instant,
        wait: &WaitForPlace,
        lent: impl Future<Output = LoadPermit>,
    ) -> Option<LoadPermit> {
        if let Some(permit) = self.take() {
            wait.change(|wait| wait.since = Some(Instant::now()));
            return Some(permit);
        }
        let _ends = Waiting(wait);
        // In this order, no load holds a place of the cache while it waits for one of its front end, unless it is part of another
        // load, whose place of the cache it has.
        let own = Limit::wait(self.own.as_ref(), deadline, wait).await?;
        let permit = tokio::select! {
            biased;
            of_cache = Limit::wait(self.of_cache.as_ref(), deadline, wait) => LoadPermit::of(own, of_cache?),
            lent = lent => LoadPermit::lent(own, lent),
        };
        wait.change(|wait| wait.since = Some(Instant::now()));
        Some(permit)
    }

    /// A permit for one load, if there is one.
    pub(crate) fn take(&self) -> Option<LoadPermit> {
        let own = Limit::take(self.own.as_deref())?;
        let of_cache = Limit::take(self.of_cache.as_deref())?;
        Some(LoadPermit::of(own, of_cache))
    }

    /// A permit for a load that no request waits for, if another place remains free then. For a moment this takes both places.
    pub(crate) fn spare(&self) -> Option<LoadPermit> {
        let own = Limit::spare(self.own.as_deref())?;
        let of_cache = Limit::spare(self.of_cache.as_deref())?;
        Some(LoadPermit::of(own, of_cache))
    }

    /// Whether a request waits for a place.
    pub(crate) fn is_contended(&self) -> bool {
        [&self.own, &self.of_cache].into_iter().flatten().any(|limit| limit.waiting.load(Ordering::Relaxed) > 0)
    }

    /// Whether there is a place for no other load.
    #[cfg(feature = "typed")]
    pub(crate) fn is_full(&self) -> bool {
        [&self.own, &self.of_cache].into_iter().flatten().any(|limit| limit.places.available_permits() == 0)
    }

    /// Whether there is no limit.
    pub(crate) fn is_none(&self) -> bool {
        self.own.is_none() && self.of_cache.is_none()
    }
}

impl Limit {
    fn new(most: usize) -> Arc<Self> {
        let places = Arc::new(Semaphore::new(most.clamp(1, Semaphore::MAX_PERMITS)));
        Arc::new(Self { places, waiting: AtomicUsize::new(0) })
    }

    /// A place, if one is free; `Some(None)` if there is no limit.
    #[allow(clippy::option_option, reason = "whether there is a place, and what it is where there is a limit")]
    fn take(limit: Option<&Self>) -> Option<Option<OwnedSemaphorePermit>> {
        match limit {
            None => Some(None),
            Some(limit) => limit.places.clone().try_acquire_owned().ok().map(Some),
        }
    }

    #[allow(clippy::option_option, reason = "as above")]
    fn spare(limit: Option<&Self>) -> Option<Option<OwnedSemaphorePermit>> {
        let Some(limit) = limit else { return Some(None) };
        let mut two = limit.places.clone().try_acquire_many_owned(2).ok()?;
        two.split(1).map(Some)
    }

    #[allow(clippy::option_option, reason = "as above")]
    async fn wait(
        limit: Option<&Arc<Self>>,
        deadline: Instant,
        wait: &WaitForPlace,
    ) -> Option<Option<OwnedSemaphorePermit>> {
        let Some(limit) = limit else { return Some(None) };
        wait.change(|wait| wait.at = Some(limit.clone()));
        // The semaphore is never closed.
        timeout_at(deadline, limit.places.clone().acquire_owned()).await.ok()?.ok().map(Some)
    }
}

/// A load waits for a place, until this is dropped.
struct Waiting<'a>(&'a WaitForPlace);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.change(|wait| wait.at = None);
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

    #[tokio::test(start_paused = true)]
    async fn a_front_end_has_no_more_than_its_own_and_no_more_than_is_left_of_the_cache() {
        let cache = LoadLimit::new(2);
        let (one, other) = (cache.within(1), cache.within(2));
        let (first, second) = (one.take().expect("it is empty"), other.take().expect("there are two"));
        assert!(one.take().is_none() && other.take().is_none() && cache.take().is_none());
        drop(first);
        // What is not had of the cache is given back to the front end.
        let third = other.take().expect("the cache has one again");
        assert!(one.take().is_none());
        drop(third);
        drop((one.take().expect("nothing was kept of the attempt"), second));
    }

    #[tokio::test(start_paused = true)]
    async fn a_load_that_is_not_awaited_waits_on_but_does_not_count() {
        let load_limit = LoadLimit::new(1);
        let room = load_limit.take().expect("it is empty");
        let wait = WaitForPlace::of(2);
        let deadline = Instant::now() + std::time::Duration::from_secs(5);
        let mut waiting = std::pin::pin!(load_limit.wait_or_borrow(deadline, &wait, pending()));
        let begun = timeout_at(Instant::now(), waiting.as_mut()).await;
        assert!(begun.is_err() && load_limit.is_contended());
        wait.left();
        assert!(load_limit.is_contended(), "one part is still waited for");
        wait.left();
        assert!(!load_limit.is_contended());
        wait.rejoined();
        assert!(load_limit.is_contended());
        wait.left();
        drop(room);
        assert!(waiting.await.is_some() && wait.since().is_some() && !load_limit.is_contended());
        wait.rejoined();
        assert!(!load_limit.is_contended(), "it does not wait any more");
    }

    #[tokio::test]
    async fn a_place_of_the_cache_may_be_lent_and_one_of_the_front_end_is_its_own() {
        let cache = LoadLimit::new(1);
        let (one, deadline) = (cache.within(1), Instant::now() + std::time::Duration::from_secs(3600));
        let lent = cache.take().expect("it is empty");
        let place = one.wait_or_borrow(deadline, &WaitForPlace::of(1), std::future::ready(lent.clone())).await;
        drop(lent);
        assert!(place.is_some() && cache.take().is_none(), "the load has it now");
        drop(place);
        assert!(one.take().is_some());
    }

    #[tokio::test]
    async fn without_a_limit_there_is_always_room() {
        let load_limit = LoadLimit::default();
        let taken: Vec<_> = (0..1_000).map(|_| load_limit.take()).collect();
        assert!(taken.iter().all(Option::is_some) && load_limit.wait(Instant::now()).await.is_some());
    }
}
