//! Waits and their ends: what a caller has when it waits no longer, and what becomes of the load that it has waited for.

use std::{
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use cache_layer::{Cache, Clock, GetOrLoad, GetOrLoadMany, Loaded, Lock, Stale, testing::TestStore};
use futures_util::future::{BoxFuture, join_all};
use http::Method;
use tests::{App, Backend, Failure, Feed, Gate, Origin, Response, ask, echo, over_each_store, request, wait_until};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const LIMIT: Duration = Duration::from_secs(30);
const SOON: Duration = Duration::from_millis(10);
/// That of the tests in which time stands still.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);

over_each_store!(
    the_longest_back_off_and_lock_timeout_are_no_errors,
    the_longest_back_off_of_a_layer_is_no_error,
    a_refresh_that_waits_in_vain_for_another_process_loads_nothing,
    refreshes_of_many_that_wait_in_vain_for_another_process_load_nothing,
    a_refresh_of_a_response_that_waits_in_vain_for_another_process_loads_nothing,
    a_response_that_streams_is_stored_though_its_request_waited_no_longer,
    a_response_that_is_too_long_is_let_go_if_its_request_waited_no_longer,
    what_is_made_from_something_stale_is_loaded_once_for_all_who_wait,
    what_is_made_from_something_stale_is_not_for_who_came_after_an_invalidation,
    a_response_that_is_made_from_something_stale_is_loaded_once_for_all_who_wait,
);

#[derive(Clone, Debug, PartialEq)]
enum Failed {
    Broken,
    TimedOut,
}

/// A function behind the cache, whose calls are counted.
#[derive(Clone, Default)]
struct Source(Arc<AtomicUsize>);

impl Source {
    fn calls(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }

    fn called(&self) -> usize {
        self.0.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// The number of the call.
    fn count(&self, cache: &Cache) -> GetOrLoad<usize, Failed> {
        self.count_behind(cache, &open())
    }

    /// The number of the call, once the gate is open.
    fn count_behind(&self, cache: &Cache, gate: &Gate) -> GetOrLoad<usize, Failed> {
        self.count_after(cache, gate, || {})
    }

    /// As [`count_behind`](Self::count_behind), after doing something.
    fn count_after(
        &self,
        cache: &Cache,
        gate: &Gate,
        first: impl FnOnce() + Send + 'static,
    ) -> GetOrLoad<usize, Failed> {
        let (source, gate) = (self.clone(), gate.clone());
        cache.get_or_load("k", async move || {
            let call = source.called();
            first();
            gate.pass().await;
            Ok(call)
        })
    }

    fn fail_after(&self, cache: &Cache, first: impl FnOnce() + Send + 'static) -> GetOrLoad<usize, Failed> {
        let source = self.clone();
        cache.get_or_load("k", async move || {
            source.called();
            first();
            Err(Failed::Broken)
        })
    }

    /// As [`count_after`](Self::count_after), for two keys at once.
    fn count_many(
        &self,
        cache: &Cache,
        gate: &Gate,
        first: impl FnOnce() + Clone + Send + Sync + 'static,
    ) -> GetOrLoadMany<&'static str, usize, Failed> {
        let (source, gate) = (self.clone(), gate.clone());
        cache.get_or_load_many(["a", "b"], async move |missing: Vec<&'static str>| {
            let call = source.called();
            first();
            gate.pass().await;
            Ok(missing.into_iter().map(|key| (key, call)).collect::<Vec<_>>())
        })
    }

    fn fail_many(&self, cache: &Cache) -> GetOrLoadMany<&'static str, usize, Failed> {
        let source = self.clone();
        cache.get_or_load_many(["a", "b"], async move |_| {
            source.called();
            Err::<Vec<_>, _>(Failed::Broken)
        })
    }
}

fn open() -> Gate {
    let gate = Gate::closed();
    gate.open();
    gate
}

async fn settled(cache: &Cache) {
    assert!(cache.drain(LIMIT).await, "loads were still under way after {LIMIT:?}");
}

async fn the_longest_back_off_and_lock_timeout_are_no_errors(backend: &Backend) {
    let mut caches = Vec::new();
    for _ in 0..2 {
        caches.push(backend.cache().await.max_loads(1).lock_timeout(Duration::MAX).build());
    }
    let (one, other, source) = (&caches[0], &caches[1], Source::default());
    for first in [MINUTE, Duration::MAX] {
        let ask = |cache: &Cache| source.fail_after(cache, || {}).fallback(7).failure_backoff(first, Duration::MAX);
        assert_eq!(ask(one).await, Ok(7));
        settled(one).await;
        // The record of a failure is sent to the server without waiting for it.
        wait_until("the other process leaves it alone, too", async || {
            let before = source.calls();
            assert_eq!(ask(other).await, Ok(7));
            settled(other).await;
            source.calls() == before
        })
        .await;
        one.invalidate(&"k".into()).await.unwrap();
    }
    // Callers that wait for a load that waits for a place.
    let gate = Gate::closed();
    let (held, has_place) = (gate.clone(), Gate::closed());
    let begun = has_place.clone();
    let holds = async move || {
        begun.open();
        held.pass().await;
        Ok::<_, Infallible>(())
    };
    let holder = tokio::spawn(one.get_or_load("other", holds).into_future());
    has_place.pass().await;
    let source = Source::default();
    let callers: Vec<_> = (0..3).map(|_| tokio::spawn(source.count(one).into_future())).collect();
    wait_until("two wait for the third", async || one.counts().coalesced == 2).await;
    gate.open();
    for caller in callers {
        assert_eq!(caller.await.unwrap(), Ok(1));
    }
    holder.await.unwrap().unwrap();
    settled(one).await;
    assert_eq!((one.get::<usize>("k").await, source.calls()), (Some(1), 1), "and it is stored");
}

async fn the_longest_back_off_of_a_layer_is_no_error(backend: &Backend) {
    let clock = Clock::manual();
    let origin = Origin::new(|call, request| async move {
        if call > 1 { Err(Failure("away")) } else { Ok(echo(call, &request, &[("cache-control", "max-age=60")])) }
    });
    let cache = backend.cache().await.clock(clock.clone()).build();
    let app =
        App::new(cache, &origin, |layer| layer.stale_if_error(HOUR).failure_backoff(Duration::MAX, Duration::MAX));
    app.get("/page", &[]).await;
    clock.advance(2 * MINUTE);
    for _ in 0..2 {
        assert_eq!(app.get("/page", &[]).await.header("x-call"), Some("1"));
    }
    assert_eq!(origin.calls(), 2, "it is left alone after that");
}

/// Two processes, the second of which has less patience than the load of the first takes.
async fn two_processes(backend: &Backend) -> (Cache, Cache, Clock) {
    let clock = Clock::manual();
    let one = backend.cache().await.clock(clock.clone()).lock_timeout(MINUTE).build();
    let other = backend.cache().await.clock(clock.clone()).lock_timeout(2 * SECOND).build();
    (one, other, clock)
}

async fn expect_no_load_in_vain(other: &Cache, calls: impl Fn() -> usize) {
    assert!(other.loads_in_flight() > 0);
    wait_until("it waits no longer", async || other.loads_in_flight() == 0).await;
    settled(other).await;
    assert_eq!((calls(), other.counts().failed_refreshes), (2, 0), "one process refreshes");
}

async fn a_refresh_that_waits_in_vain_for_another_process_loads_nothing(backend: &Backend) {
    let ((one, other, clock), source, gate) = (two_processes(backend).await, Source::default(), Gate::closed());
    let ask = |cache: &Cache, gate: &Gate| {
        source.count_behind(cache, gate).ttl(MINUTE).stale_while_revalidate(HOUR).into_future()
    };
    assert_eq!(ask(&one, &open()).await, Ok(1));
    settled(&one).await;
    clock.advance(2 * MINUTE);
    assert_eq!(ask(&one, &gate).await, Ok(1));
    wait_until("one process refreshes", async || source.calls() == 2).await;
    assert_eq!(ask(&other, &gate).await, Ok(1));
    expect_no_load_in_vain(&other, || source.calls()).await;
    gate.open();
    settled(&one).await;
    assert_eq!(ask(&other, &gate).await, Ok(2));
}

async fn refreshes_of_many_that_wait_in_vain_for_another_process_load_nothing(backend: &Backend) {
    let ((one, other, clock), source, gate) = (two_processes(backend).await, Source::default(), Gate::closed());
    let ask = |cache: &Cache, gate: &Gate| {
        source.count_many(cache, gate, || {}).ttl(MINUTE).stale_while_revalidate(HOUR).into_future()
    };
    assert_eq!(ask(&one, &open()).await, Ok(vec![Some(1); 2]));
    settled(&one).await;
    clock.advance(2 * MINUTE);
    assert_eq!(ask(&one, &gate).await, Ok(vec![Some(1); 2]));
    wait_until("one process refreshes", async || source.calls() == 2).await;
    assert_eq!(ask(&other, &gate).await, Ok(vec![Some(1); 2]));
    expect_no_load_in_vain(&other, || source.calls()).await;
    gate.open();
    settled(&one).await;
    assert_eq!(ask(&other, &gate).await, Ok(vec![Some(2); 2]));
}

/// The page, without waiting for what goes on behind it.
async fn get(app: &App) -> Response {
    ask(&app.service(), request(Method::GET, "/page", &[])).await.unwrap()
}

/// An application that answers its first request at once, and others when the gate is open, after doing something.
fn slow(
    gate: &Gate,
    fields: &'static [(&'static str, &'static str)],
    first: impl Fn() + Send + Sync + 'static,
) -> Origin {
    let (gate, first) = (gate.clone(), Arc::new(first));
    Origin::new(move |call, request| {
        let (gate, first) = (gate.clone(), first.clone());
        async move {
            if call > 1 {
                first();
                gate.pass().await;
            }
            Ok(echo(call, &request, fields))
        }
    })
}

async fn a_refresh_of_a_response_that_waits_in_vain_for_another_process_loads_nothing(backend: &Backend) {
    let ((one, other, clock), gate) = (two_processes(backend).await, Gate::closed());
    let origin = slow(&gate, &[("cache-control", "max-age=60, stale-while-revalidate=3600")], || {});
    let [one, other] = [one, other].map(|cache| App::new(cache, &origin, |layer| layer));
    get(&one).await;
    one.settled().await;
    clock.advance(2 * MINUTE);
    assert_eq!(get(&one).await.header("x-call"), Some("1"));
    wait_until("one process refreshes", async || origin.calls() == 2).await;
    assert_eq!(get(&other).await.header("x-call"), Some("1"));
    expect_no_load_in_vain(&other.cache, || origin.calls()).await;
    gate.open();
    one.settled().await;
    assert_eq!(get(&other).await.header("x-call"), Some("2"));
}

/// An application whose second response has its head when the gate is open, and its body when it is fed.
struct Streaming {
    app: App,
    origin: Origin,
    head: Gate,
    feed: Arc<Mutex<Option<Feed>>>,
}

impl Streaming {
    /// The first response is there, and stale, and the second is waited for no longer.
    async fn left(backend: &Backend, max_body: u64) -> Self {
        let (clock, head, feed) = (Clock::manual(), Gate::closed(), Arc::<Mutex<Option<Feed>>>::default());
        let origin = {
            let (head, feed) = (head.clone(), feed.clone());
            Origin::new(move |call, request| {
                let (head, feed) = (head.clone(), feed.clone());
                async move {
                    if call != 2 {
                        return Ok(echo(call, &request, &[("cache-control", "max-age=60")]));
                    }
                    head.pass().await;
                    let (sender, body) = Feed::new();
                    *feed.lock().unwrap() = Some(sender);
                    let response = http::Response::builder().header("cache-control", "max-age=60");
                    Ok(response.header("x-call", call).body(body).unwrap())
                }
            })
        };
        // A load that nobody waits for ends within a second.
        let cache = backend.cache().await.clock(clock.clone()).abandoned_load(Duration::ZERO);
        let app =
            App::new(cache.build(), &origin, |layer| layer.stale_if_error(HOUR).soft_timeout(SOON).max_body(max_body));
        get(&app).await;
        app.settled().await;
        clock.advance(2 * MINUTE);
        assert_eq!(get(&app).await.header("x-call"), Some("1"));
        let streaming = Self { app, origin, head, feed };
        streaming.head.open();
        wait_until("the body begins", async || streaming.feed.lock().unwrap().is_some()).await;
        streaming
    }

    fn feed(&self) -> Feed {
        self.feed.lock().unwrap().take().unwrap()
    }
}

async fn a_response_that_streams_is_stored_though_its_request_waited_no_longer(backend: &Backend) {
    let streaming = Streaming::left(backend, 1 << 20).await;
    let feed = streaming.feed();
    feed.data("half of it, ").unwrap();
    sleep(5 * SECOND / 2).await;
    feed.data("and the rest").expect("the load goes on");
    drop(feed);
    streaming.app.settled().await;
    let answer = get(&streaming.app).await;
    assert_eq!((answer.header("x-call"), answer.header("x-cache")), (Some("2"), Some("HIT")));
    assert_eq!((answer.text(), streaming.origin.calls()), ("half of it, and the rest", 2));
}

async fn a_response_that_is_too_long_is_let_go_if_its_request_waited_no_longer(backend: &Backend) {
    let streaming = Streaming::left(backend, 200).await;
    let feed = streaming.feed();
    wait_until("nobody reads it any more", async || feed.data("far too much of it".repeat(9)).is_err()).await;
    streaming.app.settled().await;
}

/// A value that is stale, and about to be refreshed.
async fn stale_part(cache: &Cache, clock: &Clock) {
    assert_eq!(part(cache, &open()).await, Ok(1));
    settled(cache).await;
    clock.advance(2 * MINUTE);
}

fn part(cache: &Cache, gate: &Gate) -> GetOrLoad<usize, Infallible> {
    let gate = gate.clone();
    let load = async move || {
        gate.pass().await;
        Ok(1)
    };
    cache.get_or_load("part", load).ttl(MINUTE).stale_while_revalidate(HOUR)
}

/// Returns once so many have waited for loads.
async fn all_wait(cache: Cache, count: u64) {
    while cache.counts().coalesced < count {
        sleep(SOON).await;
    }
}

async fn what_is_made_from_something_stale_is_loaded_once_for_all_who_wait(backend: &Backend) {
    const CALLERS: u64 = 50;
    let (clock, source, gate) = (Clock::manual(), Source::default(), Gate::closed());
    let cache = backend.cache().await.clock(clock.clone()).lock_timeout(LIMIT).build();
    stale_part(&cache, &clock).await;
    let page = |wait: bool| {
        let (cache, source, gate) = (cache.clone(), source.clone(), gate.clone());
        async move || {
            let call = source.called();
            let Ok(part) = part(&cache, &gate).await;
            if wait {
                all_wait(cache, CALLERS - 1).await;
            }
            Ok::<_, Infallible>(10 * call + part)
        }
    };
    let callers = (0..CALLERS).map(|_| tokio::spawn(cache.get_or_load("page", page(true)).into_future()));
    for answer in join_all(callers.collect::<Vec<_>>()).await {
        assert_eq!(answer.unwrap(), Ok(11));
    }
    assert_eq!(source.calls(), 1);
    // What is made from their answers is not kept either.
    assert_eq!(cache.get_or_load("page", page(false)).await, Ok(21));
    gate.open();
    settled(&cache).await;
    assert!(!cache.contains("page").await);
}

async fn a_response_that_is_made_from_something_stale_is_loaded_once_for_all_who_wait(backend: &Backend) {
    const REQUESTS: u64 = 20;
    let (clock, gate) = (Clock::manual(), Gate::closed());
    let cache = backend.cache().await.clock(clock.clone()).lock_timeout(LIMIT).build();
    stale_part(&cache, &clock).await;
    for streams in [false, true] {
        let before = cache.counts().coalesced;
        let origin = {
            let (cache, gate) = (cache.clone(), gate.clone());
            Origin::new(move |call, request| {
                let (cache, gate) = (cache.clone(), gate.clone());
                async move {
                    let Ok(_) = part(&cache, &gate).await;
                    all_wait(cache, before + REQUESTS - 1).await;
                    let mut response = echo(call, &request, &[("cache-control", "max-age=60")]);
                    if streams {
                        let (feed, body) = Feed::new();
                        feed.data("piece by ").unwrap();
                        *response.body_mut() = body;
                        tokio::spawn(async move {
                            sleep(SOON).await;
                            feed.data("piece").unwrap();
                        });
                    }
                    Ok(response)
                }
            })
        };
        let app = App::new(cache.clone(), &origin, |layer| layer.inherit(true));
        let requests: Vec<_> = (0..REQUESTS).map(|_| spawn_get(&app)).collect();
        for response in join_all(requests).await {
            let response = response.unwrap();
            assert_eq!(response.header("x-call"), Some("1"));
            assert!(response.text().starts_with(if streams { "piece by piece" } else { "answer 1" }));
        }
        assert_eq!(origin.calls(), 1);
        assert_eq!(get(&app).await.header("x-call"), Some("2"), "it is not kept");
    }
    gate.open();
    settled(&cache).await;
}

async fn what_is_made_from_something_stale_is_not_for_who_came_after_an_invalidation(backend: &Backend) {
    let (clock, version, gate) = (Clock::manual(), Arc::new(AtomicUsize::new(1)), Gate::closed());
    let one = backend.cache().await.clock(clock.clone()).lock_timeout(LIMIT).build();
    let other = backend.cache().await.clock(clock.clone()).build();
    stale_part(&one, &clock).await;
    let refresh = Gate::closed();
    let page = || {
        let (cache, version, gate, refresh) = (one.clone(), version.clone(), gate.clone(), refresh.clone());
        let load = async move || {
            let read = version.load(Ordering::SeqCst);
            let Ok(_) = part(&cache, &refresh).await;
            gate.pass().await;
            Ok::<_, Infallible>(read)
        };
        tokio::spawn(one.get_or_load("page", load).into_future())
    };
    let first = page();
    wait_until("the page and its part are loaded", async || one.loads_in_flight() == 2).await;
    version.store(2, Ordering::SeqCst);
    other.invalidate(&"page".into()).await.unwrap();
    let second = page();
    wait_until("the second caller waits", async || one.counts().coalesced == 1 || second.is_finished()).await;
    gate.open();
    assert_eq!((first.await.unwrap(), second.await.unwrap()), (Ok(1), Ok(2)));
    refresh.open();
    settled(&one).await;
}

/// A cache with a clock of its own, and in it a value that is stale, and may be used for eight more minutes.
async fn with_stale(source: &Source) -> (Cache, Clock) {
    let (cache, clock) = with_clock().await;
    assert_eq!(terms(source.count(&cache)).await, Ok(1));
    settled(&cache).await;
    clock.advance(2 * MINUTE);
    (cache, clock)
}

async fn with_clock() -> (Cache, Clock) {
    let clock = Clock::manual();
    (Backend::memory().cache().await.clock(clock.clone()).lock_timeout(LOCK_TIMEOUT).build(), clock)
}

fn terms(ask: GetOrLoad<usize, Failed>) -> GetOrLoad<usize, Failed> {
    ask.ttl(MINUTE).stale_if_error(10 * MINUTE)
}

type Call<T> = JoinHandle<T>;

/// Nothing stands in for what is waited for, however long that takes.
async fn expect_waiting<T>(call: &Call<T>) {
    sleep(2 * SECOND).await;
    assert!(!call.is_finished(), "what was stale is too old by now");
}

/// The clock of these tests stands still unless all wait, so that each timeout is exact.
#[tokio::test(start_paused = true)]
async fn a_value_that_becomes_too_old_during_the_wait_is_not_returned() {
    let (source, gate) = (Source::default(), Gate::closed());
    let (cache, clock) = with_stale(&source).await;
    let ask = terms(source.count_after(&cache, &gate, move || clock.advance(HOUR))).soft_timeout(SECOND);
    let leader = tokio::spawn(ask.into_future());
    expect_waiting(&leader).await;
    gate.open();
    assert_eq!(leader.await.unwrap(), Ok(2));
}

#[tokio::test(start_paused = true)]
async fn a_value_that_becomes_too_old_while_another_call_loads_is_not_returned() {
    let (source, gate) = (Source::default(), Gate::closed());
    let (cache, clock) = with_stale(&source).await;
    let leader = tokio::spawn(terms(source.count_behind(&cache, &gate)).into_future());
    wait_until("it loads", async || source.calls() == 2).await;
    let follower = tokio::spawn(terms(source.count(&cache)).soft_timeout(SECOND).into_future());
    wait_until("another call waits", async || cache.counts().coalesced == 1).await;
    clock.advance(HOUR);
    expect_waiting(&follower).await;
    gate.open();
    assert_eq!((leader.await.unwrap(), follower.await.unwrap()), (Ok(2), Ok(2)));
    assert_eq!(source.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_value_that_becomes_too_old_is_not_returned_by_who_loads_alone() {
    let (source, gate) = (Source::default(), Gate::closed());
    let (cache, clock) = with_stale(&source).await;
    let leader = tokio::spawn(terms(source.count_behind(&cache, &gate)).into_future());
    wait_until("it loads", async || source.calls() == 2).await;
    let ask = source.count_after(&cache, &gate, move || clock.advance(HOUR));
    let alone = tokio::spawn(terms(ask).lock(Lock::Off).soft_timeout(SECOND).into_future());
    expect_waiting(&alone).await;
    gate.open();
    assert_eq!((leader.await.unwrap(), alone.await.unwrap()), (Ok(2), Ok(3)));
}

#[tokio::test(start_paused = true)]
async fn values_that_become_too_old_during_the_wait_are_not_returned() {
    for follows in [false, true] {
        let (source, gate, (cache, clock)) = (Source::default(), Gate::closed(), with_clock().await);
        let ask = |gate: &Gate, first: Option<Clock>| {
            let first = move || first.iter().for_each(|clock| clock.advance(HOUR));
            source.count_many(&cache, gate, first).ttl(MINUTE).stale_if_error(10 * MINUTE)
        };
        assert_eq!(ask(&open(), None).await, Ok(vec![Some(1); 2]));
        settled(&cache).await;
        clock.advance(2 * MINUTE);
        let leader = follows.then(|| tokio::spawn(ask(&gate, None).into_future()));
        wait_until("it loads", async || !follows || source.calls() == 2).await;
        let late = ask(&gate, (!follows).then(|| clock.clone())).soft_timeout(SECOND);
        let late = tokio::spawn(late.into_future());
        wait_until("it waits", async || source.calls() == 2 && (!follows || cache.counts().coalesced == 2)).await;
        if follows {
            clock.advance(HOUR);
        }
        expect_waiting(&late).await;
        gate.open();
        assert_eq!(late.await.unwrap(), Ok(vec![Some(2); 2]), "{follows}");
        if let Some(leader) = leader {
            leader.await.unwrap().unwrap();
        }
        assert_eq!(source.calls(), 2);
    }
}

/// A value whose refresh in the background came to nothing, so that the next call waits for its own.
async fn retried(source: &Source) -> (Cache, Clock) {
    let (cache, clock) = with_clock().await;
    let first = source.count(&cache).ttl(MINUTE).stale_while_revalidate(10 * MINUTE);
    assert_eq!(first.await, Ok(1));
    settled(&cache).await;
    clock.advance(2 * MINUTE);
    let second = source.fail_after(&cache, || {}).ttl(MINUTE).stale_while_revalidate(10 * MINUTE);
    assert_eq!(second.failure_backoff(Duration::ZERO, Duration::ZERO).await, Ok(1));
    settled(&cache).await;
    assert_eq!(source.calls(), 2);
    (cache, clock)
}

#[tokio::test(start_paused = true)]
async fn a_value_that_becomes_too_old_stands_in_for_no_failure() {
    let source = Source::default();
    let (cache, clock) = retried(&source).await;
    let ask = |cache: &Cache, by: Duration| {
        let clock = clock.clone();
        source.fail_after(cache, move || clock.advance(by)).ttl(MINUTE).stale_while_revalidate(10 * MINUTE)
    };
    assert_eq!(ask(&cache, SECOND).failure_backoff(Duration::ZERO, Duration::ZERO).await, Ok(1));
    settled(&cache).await;
    assert_eq!(ask(&cache, HOUR).await, Err(Failed::Broken));
}

#[tokio::test(start_paused = true)]
async fn a_retried_refresh_is_waited_for_until_the_sooner_of_both_timeouts() {
    for (soft, expected) in [(SECOND, SECOND), (LIMIT, LOCK_TIMEOUT)] {
        let (source, gate) = (Source::default(), Gate::closed());
        let (cache, _) = retried(&source).await;
        let ask = source.count_behind(&cache, &gate).ttl(MINUTE).stale_while_revalidate(10 * MINUTE);
        let began = Instant::now();
        assert_eq!(ask.soft_timeout(soft).await, Ok(1));
        expect_about(began, expected);
        gate.open();
        settled(&cache).await;
        assert_eq!(source.calls(), 3);
    }
}

#[tokio::test(start_paused = true)]
async fn a_retried_refresh_of_many_is_waited_for_until_the_sooner_of_both_timeouts() {
    for (soft, expected) in [(SECOND, SECOND), (LIMIT, LOCK_TIMEOUT)] {
        let (source, gate, (cache, clock)) = (Source::default(), Gate::closed(), with_clock().await);
        let ask = |gate: &Gate| source.count_many(&cache, gate, || {}).ttl(MINUTE).stale_while_revalidate(HOUR);
        assert_eq!(ask(&open()).await, Ok(vec![Some(1); 2]));
        settled(&cache).await;
        clock.advance(2 * MINUTE);
        let failing = source.fail_many(&cache).ttl(MINUTE).stale_while_revalidate(HOUR);
        assert_eq!(failing.failure_backoff(Duration::ZERO, Duration::ZERO).await, Ok(vec![Some(1); 2]));
        settled(&cache).await;
        let began = Instant::now();
        assert_eq!(ask(&gate).soft_timeout(soft).await, Ok(vec![Some(1); 2]));
        expect_about(began, expected);
        gate.open();
        settled(&cache).await;
        assert_eq!(source.calls(), 3);
    }
}

/// Timers have a resolution of a millisecond.
#[track_caller]
fn expect_about(began: Instant, expected: Duration) {
    let took = began.elapsed();
    assert!((expected..expected + SOON).contains(&took), "{took:?} instead of {expected:?}");
}

const MAX_AGE: &[(&str, &str)] = &[("cache-control", "max-age=60")];
const REVALIDATED: &[(&str, &str)] = &[("cache-control", "max-age=60, stale-while-revalidate=600")];

/// An application of whose answer there is a stale one, which may stand in for an error for eight more minutes.
async fn stale_response(slow: impl FnOnce(&Clock) -> Origin, soft: Duration) -> (App, Clock) {
    let (cache, clock) = with_clock().await;
    let app = App::new(cache, &slow(&clock), |layer| layer.stale_if_error(10 * MINUTE).soft_timeout(soft));
    get(&app).await;
    app.settled().await;
    clock.advance(2 * MINUTE);
    (app, clock)
}

fn spawn_get(app: &App) -> Call<Response> {
    let app = app.clone();
    tokio::spawn(async move { get(&app).await })
}

#[tokio::test(start_paused = true)]
async fn a_response_that_becomes_too_old_during_the_wait_is_not_sent() {
    let gate = Gate::closed();
    let origin = |clock: &Clock| {
        let clock = clock.clone();
        slow(&gate, MAX_AGE, move || clock.advance(HOUR))
    };
    let (app, _) = stale_response(origin, SECOND).await;
    let leader = spawn_get(&app);
    expect_waiting(&leader).await;
    gate.open();
    assert_eq!(leader.await.unwrap().header("x-call"), Some("2"));
}

#[tokio::test(start_paused = true)]
async fn a_response_that_becomes_too_old_while_another_request_loads_is_not_sent() {
    let gate = Gate::closed();
    let (app, clock) = stale_response(|_| slow(&gate, MAX_AGE, || {}), SECOND).await;
    // The leader gets what is stale, and leaves its load to others.
    assert_eq!(get(&app).await.header("x-call"), Some("1"));
    let follower = spawn_get(&app);
    wait_until("it waits for the load", async || app.cache.counts().coalesced == 1).await;
    clock.advance(HOUR);
    expect_waiting(&follower).await;
    gate.open();
    // The response took an hour to arrive, so that it is stale when it comes (RFC 9111, section 4.2.3).
    assert_eq!(follower.await.unwrap().header("x-call"), Some("3"));
}

/// A response whose refresh in the background failed, so that the next request waits for its own.
async fn retried_response(
    gate: &Gate,
    soft: Duration,
    first: impl Fn(&Clock) + Send + Sync + 'static,
) -> (App, Origin) {
    let (cache, clock) = with_clock().await;
    let origin = {
        let (gate, clock, first) = (gate.clone(), clock.clone(), Arc::new(first));
        Origin::new(move |call, request| {
            let (gate, clock, first) = (gate.clone(), clock.clone(), first.clone());
            async move {
                if call == 2 {
                    return Err(Failure("away"));
                }
                if call > 2 {
                    first(&clock);
                    gate.pass().await;
                }
                Ok(echo(call, &request, REVALIDATED))
            }
        })
    };
    let app = App::new(cache, &origin, |layer| layer.soft_timeout(soft));
    get(&app).await;
    app.settled().await;
    clock.advance(2 * MINUTE);
    assert_eq!(get(&app).await.header("x-call"), Some("1"));
    app.settled().await;
    assert_eq!(origin.calls(), 2);
    (app, origin)
}

#[tokio::test(start_paused = true)]
async fn a_retried_refresh_of_a_response_is_waited_for_until_the_sooner_of_both_timeouts() {
    for (soft, expected) in [(SECOND, SECOND), (LIMIT, LOCK_TIMEOUT)] {
        let gate = Gate::closed();
        let (app, origin) = retried_response(&gate, soft, |_| {}).await;
        let began = Instant::now();
        assert_eq!(get(&app).await.header("x-call"), Some("1"));
        expect_about(began, expected);
        gate.open();
        app.settled().await;
        assert_eq!(origin.calls(), 3);
    }
}

#[tokio::test(start_paused = true)]
async fn a_response_whose_window_ends_while_it_is_refreshed_is_not_sent() {
    let gate = Gate::closed();
    let (app, _) = retried_response(&gate, SECOND, |clock| clock.advance(HOUR)).await;
    let leader = spawn_get(&app);
    expect_waiting(&leader).await;
    gate.open();
    assert_eq!(leader.await.unwrap().header("x-call"), Some("3"));
}

#[tokio::test(start_paused = true)]
async fn a_load_of_many_goes_on_while_other_keys_are_looked_up_again() {
    let store = TestStore::new();
    let [one, other] = [(); 2].map(|()| Cache::builder(store.clone()).lock_timeout(HOUR).build());
    let (elsewhere, gate) = (Gate::closed(), Gate::closed());
    let (begun, ended) = (Source::default(), Source::default());
    let theirs = {
        let (begun, gate) = (begun.clone(), elsewhere.clone());
        other.get_or_load("b", async move || {
            begun.called();
            gate.pass().await;
            Ok::<_, Failed>(Some(1))
        })
    };
    let theirs = tokio::spawn(theirs.into_future());
    wait_until("it is loaded elsewhere", async || begun.calls() == 1).await;
    let call = {
        let (begun, ended, gate) = (begun.clone(), ended.clone(), gate.clone());
        one.get_or_load_many(["a", "b"], async move |missing: Vec<&'static str>| {
            begun.called();
            gate.pass().await;
            ended.called();
            Ok::<_, Failed>(missing.into_iter().map(|key| (key, 2)).collect::<Vec<_>>())
        })
    };
    let call = tokio::spawn(call.into_future());
    wait_until("the rest is loaded here", async || begun.calls() == 2).await;
    // From now on, the other value takes a minute to be stored, and another one to be found.
    store.delay(MINUTE..=MINUTE);
    elsewhere.open();
    sleep(MINUTE + MINUTE / 2).await;
    gate.open();
    sleep(SECOND).await;
    assert_eq!(ended.calls(), 1);
    store.delay(Duration::ZERO..=Duration::ZERO);
    assert_eq!((call.await.unwrap(), theirs.await.unwrap()), (Ok(vec![Some(2), Some(1)]), Ok(Some(1))));
}

#[tokio::test(start_paused = true)]
async fn a_hard_timeout_counts_while_the_store_is_slow() {
    let (store, source) = (TestStore::new(), Source::default());
    let cache = Cache::new(store.clone());
    store.delay(2 * SECOND..=2 * SECOND);
    let (began, limit) = (Instant::now(), 5 * SOON);
    assert_eq!(source.count(&cache).hard_timeout(limit, Failed::TimedOut).await, Err(Failed::TimedOut));
    expect_about(began, limit);
    let began = Instant::now();
    let each = source.count_many(&cache, &open(), || {}).hard_timeout(limit, Failed::TimedOut).each().await;
    expect_about(began, limit);
    assert_eq!((each, source.calls()), (vec![Err(Failed::TimedOut); 2], 0));
}

#[tokio::test(start_paused = true)]
async fn a_hard_timeout_of_a_later_look_up_prefers_what_is_stale() {
    type Wanted = Vec<(&'static str, Option<Stale<usize>>)>;
    type Brought = Vec<(&'static str, Result<Loaded<usize>, Failed>)>;
    let (store, clock, gate) = (TestStore::new(), Clock::manual(), Gate::closed());
    let cache = Cache::builder(store.clone()).clock(clock.clone()).build();
    let ask = |load: fn(Wanted, Gate) -> BoxFuture<'static, Result<Brought, Failed>>| {
        let gate = gate.clone();
        let ask = cache.get_or_load_many_with(["a", "b"], move |wanted: Wanted| load(wanted, gate));
        ask.ttl(MINUTE).stale_if_error(10 * MINUTE)
    };
    let first = ask(|wanted, _| {
        Box::pin(async move { Ok(wanted.into_iter().map(|(key, _)| (key, Ok(Loaded::new(1)))).collect()) })
    });
    assert_eq!(first.await, Ok(vec![Some(1); 2]));
    settled(&cache).await;
    clock.advance(2 * MINUTE);
    let lost = ask(|_, gate| {
        Box::pin(async move {
            gate.pass().await;
            panic!("as if its runtime had ended")
        })
    });
    let lost = tokio::spawn(lost.into_future());
    wait_until("it loads", async || cache.loads_in_flight() == 2).await;
    let follower = ask(|_, _| Box::pin(async { Err(Failed::Broken) })).hard_timeout(SECOND, Failed::TimedOut);
    let (began, follower) = (Instant::now(), tokio::spawn(follower.each()));
    wait_until("it is waited for", async || cache.counts().coalesced == 2).await;
    store.delay(MINUTE..=MINUTE);
    gate.open();
    assert_eq!(follower.await.unwrap(), [Ok(Some(1)), Ok(Some(1))]);
    expect_about(began, SECOND);
    assert!(lost.await.unwrap_err().is_panic());
}
