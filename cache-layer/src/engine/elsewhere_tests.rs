//! A store outside of this process that contradicts itself or can't keep up.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::stream;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, Full, StreamBody};
use tokio::time::{Instant, sleep};
use tower::{Layer as _, ServiceExt as _, service_fn};

use super::{
    Cache,
    backoff::BackOff,
    cache::{COMMITS, ON_THEIR_WAY},
    flight::Role,
    miss::AttemptNow,
    permit::FailurePolicy,
};
use crate::{
    CacheLayer,
    entry::Entry,
    key::Key,
    pattern::Pattern,
    store::{
        Acquired, BoxFuture, Committed, Estimate, Failed, Failures, Fill, Hardness, Invalidated, Lease, LeaseState,
        LeaseToken, Lookup, MemoryStore, Reach, Scope, Seen, Store, StoreBackend, StoreError,
    },
    switches::{SwitchState, Switches},
    tag::{TagToken, Tags},
};

/// The store's answer to a request for a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Says {
    TheTruth,
    /// What was true when it was asked, and its answer comes later; an invalidation takes effect before that.
    TheTruthLater,
    /// The key has changed; but look-ups find nothing.
    Changed,
    /// The lease is held; and a wait for its end returns at once.
    Held,
}

/// How much later.
const LATER: Duration = Duration::from_millis(100);

#[derive(Clone, Debug)]
struct Elsewhere {
    store: MemoryStore,
    says: Says,
    looks: Arc<AtomicUsize>,
    renewals: Arc<AtomicUsize>,
}

impl Elsewhere {
    fn that(says: Says) -> Self {
        Self { store: MemoryStore::new(1 << 20), says, looks: Arc::default(), renewals: Arc::default() }
    }

    fn looks(&self) -> usize {
        self.looks.load(Ordering::SeqCst)
    }
}

impl Store for Elsewhere {}

impl StoreBackend for Elsewhere {
    fn peek(&self, _: &Key) -> Option<Entry> {
        None
    }

    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Lookup, StoreError>> {
        self.looks.fetch_add(1, Ordering::SeqCst);
        self.store.get(key)
    }

    fn follow_switches(&self) -> Arc<Switches> {
        self.store.follow_switches()
    }

    fn set_switch(&self, state: SwitchState) -> BoxFuture<'_, Result<(), StoreError>> {
        self.store.set_switch(state)
    }

    fn lease_state<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<LeaseState, StoreError>> {
        self.store.lease_state(key)
    }

    fn tag_token<'a>(&'a self, tag: &'a str) -> BoxFuture<'a, Result<Option<TagToken>, StoreError>> {
        self.store.tag_token(tag)
    }

    fn count<'a>(&'a self, reach: Reach<'a>) -> BoxFuture<'a, Result<Option<u64>, StoreError>> {
        StoreBackend::count(&self.store, reach)
    }

    fn estimate<'a>(
        &'a self,
        reach: Reach<'a>,
        within: Duration,
    ) -> BoxFuture<'a, Result<Option<Estimate>, StoreError>> {
        self.store.estimate(reach, within)
    }

    fn acquire<'a>(
        &'a self,
        key: &'a Key,
        seen: Seen,
        ttl: Duration,
        failures: Failures,
    ) -> BoxFuture<'a, Result<Acquired, StoreError>> {
        match self.says {
            Says::TheTruth => self.store.acquire(key, seen, ttl, failures),
            Says::TheTruthLater => {
                let answer = self.store.acquire(key, seen, ttl, failures);
                Box::pin(async {
                    sleep(LATER).await;
                    answer.await
                })
            }
            Says::Changed => Box::pin(async { Ok(Acquired::Changed) }),
            Says::Held => Box::pin(async { Ok(Acquired::Held) }),
        }
    }

    fn identity(&self) -> usize {
        self.store.identity()
    }

    fn is_held_by<'a>(&'a self, key: &'a Key, token: LeaseToken) -> BoxFuture<'a, Result<bool, StoreError>> {
        self.store.is_held_by(key, token)
    }

    fn renew<'a>(&'a self, lease: &'a Lease, ttl: Duration) -> BoxFuture<'a, Result<bool, StoreError>> {
        self.renewals.fetch_add(1, Ordering::SeqCst);
        self.store.renew(lease, ttl)
    }

    fn overtaken(&self, lease: &Lease) -> bool {
        self.store.overtaken(lease)
    }

    fn commit<'a>(&'a self, fill: &'a Fill) -> BoxFuture<'a, Result<Committed, StoreError>> {
        self.store.commit(fill)
    }

    fn release(&self, lease: &Lease, uncacheable: Option<Duration>) {
        self.store.release(lease, uncacheable);
    }

    fn supersede<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<(), StoreError>> {
        self.store.supersede(lease)
    }

    fn end_lease<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<(), StoreError>> {
        self.store.end_lease(key)
    }

    fn fail(&self, lease: &Lease, failed: Failed) {
        self.store.fail(lease, failed);
    }

    fn lease_ended<'a>(&'a self, _: &'a Key) -> BoxFuture<'a, ()> {
        Box::pin(async {})
    }

    fn invalidate(&self, scope: Scope<'_>, hardness: Hardness) -> BoxFuture<'static, Result<Invalidated, StoreError>> {
        if self.says != Says::TheTruthLater {
            return self.store.invalidate(scope, hardness);
        }
        let (store, scope) = (self.store.clone(), scope.to_owned());
        Box::pin(async move {
            sleep(LATER / 2).await;
            store.invalidate(scope.borrow(), hardness).await
        })
    }

    fn delete_matching(&self, pattern: &Pattern) -> BoxFuture<'static, Result<Invalidated, StoreError>> {
        self.store.delete_matching(pattern)
    }

    fn get_many<'a>(&'a self, keys: &'a [Key]) -> BoxFuture<'a, Vec<Result<Lookup, StoreError>>> {
        self.store.get_many(keys)
    }

    fn put<'a>(&'a self, entries: Vec<(Key, Entry)>, tags: &'a Tags) -> BoxFuture<'a, Result<(), StoreError>> {
        self.store.put(entries, tags)
    }
}

/// The `Cache-Status` that the client receives, and the body.
async fn ask(cache: &Cache, path: &str) -> (String, Bytes) {
    let application = service_fn(async |_: Request<Full<Bytes>>| {
        let response = Response::builder().header("cache-control", "max-age=60").body(Full::from("a page"));
        Ok::<_, std::convert::Infallible>(response.unwrap())
    });
    let site = CacheLayer::new(cache.clone()).layer(application);
    let request = Request::get(format!("http://shop.example{path}")).body(Full::default()).unwrap();
    let response = site.oneshot(request).await.unwrap();
    let status = response.headers()["cache-status"].to_str().unwrap().to_owned();
    (status, response.into_body().collect().await.unwrap().to_bytes())
}

#[tokio::test(start_paused = true)]
async fn who_is_told_one_thing_and_its_contrary_is_answered_within_the_lock_timeout_and_does_not_ask_all_the_time() {
    for says in [Says::Changed, Says::Held] {
        let store = Elsewhere::that(says);
        let cache = Cache::new(store.clone());
        let began = Instant::now();
        let answers = tokio::join!(ask(&cache, "/x"), ask(&cache, "/x"));
        let took = began.elapsed();
        assert!((cache.lock_timeout() / 2..=cache.lock_timeout()).contains(&took), "{says:?}: {took:?}");
        for (status, body) in [answers.0, answers.1] {
            assert!(status.ends_with("; detail=waited-too-long"), "{says:?}: {status}");
            assert_eq!(body, "a page");
        }
        let most = if says == Says::Changed { 40 } else { 150 };
        assert!(store.looks() < most, "{says:?}: looked {} times", store.looks());
    }
}

#[cfg(feature = "typed")]
#[tokio::test(start_paused = true)]
async fn so_is_who_asks_for_a_value() {
    for says in [Says::Changed, Says::Held] {
        let store = Elsewhere::that(says);
        let cache = Cache::new(store.clone());
        let began = Instant::now();
        assert_eq!(cache.get_or_load("k", || async { Ok::<u8, ()>(7) }).await, Ok(7));
        let took = began.elapsed();
        assert!((cache.lock_timeout() / 2..=cache.lock_timeout()).contains(&took), "{says:?}: {took:?}");
        assert!(store.looks() < 150, "{says:?}: looked {} times", store.looks());
    }
}

#[tokio::test]
async fn what_there_is_no_room_for_on_its_way_to_the_store_does_not_say_that_it_is_stored() {
    let cache = Cache::new(Elsewhere::that(Says::TheTruth));
    let full = cache.0.on_their_way.clone().acquire_many_owned(ON_THEIR_WAY as u32).await.unwrap();
    let (status, body) = ask(&cache, "/x").await;
    assert!(status.ends_with("fwd=uri-miss; detail=store-busy"), "{status}");
    assert_eq!(body, "a page");
    assert!(cache.drain(Duration::from_secs(10)).await);
    assert_eq!((cache.counts().shed, cache.counts().stored), (1, 0));

    drop(full);
    assert!(ask(&cache, "/x").await.0.ends_with("fwd=uri-miss; stored"), "its lease was given back");
    assert!(cache.drain(Duration::from_secs(10)).await);
    assert_eq!((cache.counts().shed, cache.counts().stored), (1, 1));
    assert_eq!(cache.0.on_their_way.available_permits(), ON_THEIR_WAY, "room is given back");
}

#[tokio::test]
async fn what_waits_for_its_turn_to_be_stored_keeps_its_lease() {
    let store = Elsewhere::that(Says::TheTruth);
    let cache = Cache::builder(store.clone()).lock_timeout(Duration::from_secs(6)).build();
    let turns = cache.0.commits.acquire_many(COMMITS as u32).await.unwrap();
    assert!(ask(&cache, "/x").await.0.ends_with("stored"));
    sleep(2 * cache.lease_life()).await;
    // Leases of this store don't expire.
    assert!(store.renewals.load(Ordering::SeqCst) >= 2, "not renewed");
    drop(turns);
    assert!(cache.drain(Duration::from_secs(10)).await);
    assert_eq!((cache.counts().stored, cache.counts().fenced), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_renewed_though_each_part_of_its_load_takes_less_time_than_that() {
    let store = Elsewhere::that(Says::TheTruth);
    let cache = Cache::builder(store.clone()).lock_timeout(Duration::from_secs(6)).build();
    let part = cache.lease_life() * 3 / 10;
    let application = service_fn(move |_: Request<Full<Bytes>>| async move {
        sleep(part).await;
        let body = stream::once(async move {
            sleep(part).await;
            Ok::<_, std::convert::Infallible>(Frame::data(Bytes::from("a page")))
        });
        let response = Response::builder().header("cache-control", "max-age=60");
        Ok::<_, std::convert::Infallible>(response.body(StreamBody::new(Box::pin(body))).unwrap())
    });
    let request = Request::get("http://shop.example/x").body(Full::default()).unwrap();
    let response = CacheLayer::new(cache.clone()).layer(application).oneshot(request).await.unwrap();
    assert_eq!(store.renewals.load(Ordering::SeqCst), 0, "it is early");
    response.into_body().collect().await.unwrap();
    assert_eq!(store.renewals.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn what_waits_too_long_for_its_turn_is_dropped_and_counted() {
    let cache = Cache::new(Elsewhere::that(Says::TheTruth));
    let turns = cache.0.commits.acquire_many(COMMITS as u32).await.unwrap();
    ask(&cache, "/x").await;
    assert!(cache.drain(2 * cache.lock_timeout()).await);
    assert_eq!((cache.counts().stored, cache.counts().shed), (0, 1));
    drop(turns);
}

/// A cache whose last load of `key` ended in this way, for [`HOUR`].
async fn after(key: &Key, end: impl Fn(&MemoryStore, &Lease)) -> Cache {
    let store = Elsewhere::that(Says::TheTruthLater);
    let acquired = store.store.acquire(key, Seen::Nothing, HOUR, Failures::Heed).await.unwrap();
    let Acquired::Granted(lease) = acquired else { panic!("nobody loads it") };
    end(&store.store, &lease);
    Cache::new(store)
}

const HOUR: Duration = Duration::from_secs(3600);

async fn attempt(cache: &Cache, key: &Key) -> AttemptNow {
    let Role::Leader(flight) = cache.flights().join(key) else { panic!("nobody loads it") };
    let policy = FailurePolicy { back_off: BackOff::new(HOUR, HOUR), heed: true, anew: false, overtakes: false };
    cache.attempt(flight, key, Some(Seen::Nothing), policy).await
}

#[tokio::test(start_paused = true)]
async fn a_back_off_that_an_invalidation_has_ended_is_not_remembered() {
    let failed = Failed { status: None, pause: HOUR, remembered: HOUR };
    let key = Key::new(["k"]).named();
    // Before the store is asked, or after that.
    for before in [Some(true), Some(false), None] {
        let cache = after(&key, |store, lease| store.fail(lease, failed)).await;
        let asked = async {
            sleep(LATER / 10).await;
            attempt(&cache, &key).await
        };
        let invalidated = async {
            let Some(before) = before else { return };
            sleep(if before { Duration::ZERO } else { LATER / 5 }).await;
            cache.invalidate(&key).await.unwrap();
        };
        let (attempt, ()) = tokio::join!(asked, invalidated);
        assert!(matches!(attempt, AttemptNow::BackedOff(_)), "as it was when the store was asked");
        assert_eq!(cache.recent_failure(&key).is_some(), before.is_none(), "{before:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_can_not_be_stored_by_settings_that_were_replaced_meanwhile_is_not_remembered() {
    let key = Key::new(["k"]).named();
    for which in 0..3 {
        let cache = after(&key, |store, lease| store.release(lease, Some(HOUR))).await;
        let meanwhile = async {
            sleep(LATER / 5).await;
            match which {
                0 => cache.forget_refusals(),
                1 => cache.invalidate_all().await.unwrap(),
                _ => {}
            }
        };
        let (attempt, ()) = tokio::join!(attempt(&cache, &key), meanwhile);
        assert!(matches!(attempt, AttemptNow::Uncacheable), "as it was when the store was asked");
        assert_eq!(cache.is_uncacheable(&key), which == 2, "{which}");
    }
}
