//! How many loads run at one time, and the queue of requests that wait for a place.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout_at},
};

#[cfg(feature = "typed")]
tokio::task_local! {
    /// The places of the loads that this code is part of.
    static PLACES: Places;
}

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

/// A place for one load, and for the loads of values that it waits for; empty if there is no limit. Clones share the place: it is
/// free again when the last of them is dropped.
#[derive(Clone, Debug, Default)]
pub(crate) struct LoadPermit {
    _taken: Option<Arc<Taken>>,
}

#[derive(Debug)]
struct Taken {
    _own: Option<OwnedSemaphorePermit>,
    _of_cache: Option<OwnedSemaphorePermit>,
}

impl LoadPermit {
    fn of(own: Option<OwnedSemaphorePermit>, of_cache: Option<OwnedSemaphorePermit>) -> Self {
        let is_limited = own.is_some() || of_cache.is_some();
        Self { _taken: is_limited.then(|| Arc::new(Taken { _own: own, _of_cache: of_cache })) }
    }
}

/// The places of a load: its own, and those of the loads that it is part of, which belong to other caches. The loads of values
/// that it waits for need no places of their own at the same limits: otherwise loads could wait for each other's places forever.
/// Clones share the places, so that a load that its caller has left still has one.
#[cfg(feature = "typed")]
#[derive(Clone, Debug, Default)]
pub(crate) struct Places(Option<Arc<Placed>>);

#[cfg(feature = "typed")]
#[derive(Debug)]
struct Placed {
    /// The limit of the cache that the place belongs to.
    limit: Option<Arc<Limit>>,
    permit: LoadPermit,
    outer: Places,
}

#[cfg(feature = "typed")]
impl Places {
    /// The places of the load that the caller of this is part of.
    pub(crate) fn here() -> Self {
        PLACES.try_with(Clone::clone).unwrap_or_default()
    }

    /// The place at the limit of a cache, if there is one; empty if the load has waited for it in vain.
    pub(crate) fn at(&self, limit: &LoadLimit) -> Option<&LoadPermit> {
        let mut places = self;
        while let Some(placed) = places.0.as_deref() {
            if placed.limit.as_ref().map(Arc::as_ptr) == limit.of_cache.as_ref().map(Arc::as_ptr) {
                return Some(&placed.permit);
            }
            places = &placed.outer;
        }
        None
    }

    /// These places, and one at another limit.
    pub(crate) fn and(self, limit: &LoadLimit, permit: LoadPermit) -> Self {
        Self(Some(Arc::new(Placed { limit: limit.of_cache.clone(), permit, outer: self })))
    }

    /// Runs `load` in these places.
    pub(crate) async fn hold<T>(self, load: impl Future<Output = T>) -> T {
        PLACES.scope(self, load).await
    }

    /// Runs a `step` of a load in these places.
    pub(crate) fn hold_at_once<T>(self, step: impl FnOnce() -> T) -> T {
        PLACES.sync_scope(self, step)
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

    /// Waits for a permit for one load: first come, first served. `None` if there was none by `deadline`.
    pub(crate) async fn wait(&self, deadline: Instant) -> Option<LoadPermit> {
        if let Some(permit) = self.take() {
            return Some(permit);
        }
        // The order is the same everywhere: no load holds a place of the cache while it waits for one of its front end.
        let own = Limit::wait(self.own.as_deref(), deadline).await?;
        let of_cache = Limit::wait(self.of_cache.as_deref(), deadline).await?;
        Some(LoadPermit::of(own, of_cache))
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

    /// Whether the loads of the cache are limited.
    #[cfg(feature = "typed")]
    pub(crate) fn is_limited(&self) -> bool {
        self.of_cache.is_some()
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
    async fn wait(limit: Option<&Self>, deadline: Instant) -> Option<Option<OwnedSemaphorePermit>> {
        let Some(limit) = limit else { return Some(None) };
        let _waiting = Waiting::at(&limit.waiting);
        // The semaphore is never closed.
        timeout_at(deadline, limit.places.clone().acquire_owned()).await.ok()?.ok().map(Some)
    }
}

/// Counts a request as waiting, until this is dropped.
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

    #[cfg(feature = "typed")]
    #[tokio::test]
    async fn a_place_is_at_its_own_limit_and_free_once_all_have_left_it() {
        let (one, other) = (LoadLimit::new(1), LoadLimit::new(1));
        let places = Places::default().and(&one, one.take().expect("it is empty"));
        let within = places.hold(async {
            assert!(Places::here().at(&one).is_some() && Places::here().at(&other).is_none());
            Places::here().and(&other, other.take().expect("it is empty"))
        });
        let left = within.await;
        assert!(left.at(&one).is_some() && left.at(&other.within(7)).is_some(), "a front end's is its cache's");
        assert!(one.take().is_none() && other.take().is_none(), "what goes on has both places");
        drop(left);
        assert!(one.take().is_some() && other.take().is_some());
        assert!(Places::here().at(&one).is_none());
    }

    #[tokio::test]
    async fn without_a_limit_there_is_always_room() {
        let load_limit = LoadLimit::default();
        let taken: Vec<_> = (0..1_000).map(|_| load_limit.take()).collect();
        assert!(taken.iter().all(Option::is_some) && load_limit.wait(Instant::now()).await.is_some());
    }
}
