//! Values on the terms of their callers: what stands in for a load that is slow or fails, when what is fresh is loaded anew, and
//! how many load at one time.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use cache_layer::{
    Cache, CacheBuilder, Clock, GetOrLoad, Key, Loaded, Lock, Stale, cached,
    store::{LeaseState, MemoryStore},
    testing::TestStore,
};
use futures_util::future::join_all;
use tests::{App, Backend, Gate, Origin, full, heard, over_each_store, wait_until};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const LIMIT: Duration = Duration::from_secs(30);
const SOON: Duration = Duration::from_millis(10);
/// Enough for a look-up, on a busy machine too.
const A_WHILE: Duration = Duration::from_secs(3);

over_each_store!(
    what_is_stale_stands_in_for_a_slow_load_which_goes_on_and_is_stored,
    a_slow_load_that_was_left_is_not_abandoned,
    nothing_stale_means_waiting_for_the_load,
    a_soft_timeout_counts_for_another_process_too,
    a_load_that_fails_after_it_was_left_is_left_alone,
    bursts_under_soft_timeouts_end_with_what_was_loaded_last,
    a_hard_timeout_ends_the_wait_and_the_load_goes_on,
    a_hard_timeout_prefers_what_is_stale,
    a_fallback_stands_in_for_an_error_and_is_not_kept,
    what_is_made_from_what_stands_in_is_not_kept,
    what_a_load_has_superseded_stands_in_for_nothing,
    what_a_refresh_has_superseded_is_not_found,
    a_follower_of_a_load_that_superseded_its_stale_value_does_not_use_it,
    a_fallback_does_not_stand_in_for_a_slow_load,
    a_failing_load_is_left_alone_where_something_stands_in,
    a_back_off_of_zero_is_none,
    calls_that_a_back_off_answers_are_counted,
    what_is_fresh_is_refreshed_before_it_is_stale,
    one_of_the_fleet_refreshes_early,
    an_invalidation_during_an_early_refresh_wins,
    a_refresh_is_not_content_with_a_load_that_began_before,
    a_refresh_overtakes_a_load_that_it_no_longer_waits_for,
    one_of_refreshes_that_no_longer_wait_is_stored,
    a_refresh_heeds_no_back_off,
    the_refresh_of_a_cached_function_heeds_no_back_off,
    refreshes_at_one_time_load_twice,
    refreshes_at_one_time_fail_together,
    a_load_for_one_call_alone_is_given_the_former_value,
    lives_are_as_different_as_the_jitter_says,
    what_is_kept_is_for_its_load_alone,
    the_longest_life_and_the_longest_waits_are_no_errors,
    values_and_responses_share_the_places_of_their_cache,
    what_a_load_loads_needs_no_place_of_its_own,
    a_refresh_in_the_background_waits_for_no_place,
    a_call_that_waits_for_a_place_ends_with_its_timeouts,
);

#[derive(Clone, Debug, PartialEq)]
enum Failed {
    Broken,
    TimedOut,
}

/// A function behind the cache, whose calls are counted.
#[derive(Clone, Default)]
struct Source {
    calls: Arc<AtomicUsize>,
}

impl Source {
    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    fn called(&self) -> usize {
        self.calls.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// The number of the call.
    fn count(&self, cache: &Cache) -> GetOrLoad<usize, Failed> {
        self.count_behind(cache, &open())
    }

    /// The number of the call, once the gate is open.
    fn count_behind(&self, cache: &Cache, gate: &Gate) -> GetOrLoad<usize, Failed> {
        self.count_under("k", cache, gate)
    }

    fn count_under(&self, key: impl Into<Key>, cache: &Cache, gate: &Gate) -> GetOrLoad<usize, Failed> {
        let (source, gate) = (self.clone(), gate.clone());
        cache.get_or_load(key, async move || {
            let call = source.called();
            gate.pass().await;
            Ok(call)
        })
    }

    fn fail(&self, cache: &Cache) -> GetOrLoad<usize, Failed> {
        let source = self.clone();
        cache.get_or_load("k", async move || {
            source.called();
            Err(Failed::Broken)
        })
    }
}

fn open() -> Gate {
    let gate = Gate::closed();
    gate.open();
    gate
}

async fn aging(backend: &Backend) -> (CacheBuilder, Clock) {
    let clock = Clock::manual();
    (backend.cache().await.clock(clock.clone()), clock)
}

async fn settled(cache: &Cache) {
    assert!(cache.drain(LIMIT).await, "loads were still under way after {LIMIT:?}");
}

/// A value of which there is a first version, stale for half a minute, which may stand in for another half.
async fn with_stale(cache: &Cache, clock: &Clock, source: &Source) {
    assert_eq!(terms(source.count(cache)).await, Ok(1));
    settled(cache).await;
    clock.advance(MINUTE + MINUTE / 2);
}

fn terms(ask: GetOrLoad<usize, Failed>) -> GetOrLoad<usize, Failed> {
    ask.ttl(MINUTE).stale_if_error(MINUTE)
}

async fn the_longest_life_and_the_longest_waits_are_no_errors(backend: &Backend) {
    let cache = backend.cache().await.lock_timeout(LIMIT).build();
    let load = async || Ok::<_, Infallible>(7);
    let call = cache.get_or_load("loaded", load).ttl(Duration::MAX).soft_timeout(Duration::MAX);
    assert_eq!(call.await, Ok(7));
    cache.set("set", &7).ttl(Duration::MAX).await.unwrap();
    assert!(cache.drain(LIMIT).await);
    assert_eq!(cache.get_many::<u32>(["loaded", "set"]).await, [Some(7), Some(7)]);
}

/// ZiggyCreatures/FusionCache#583: there, the load got stuck once its caller had left.
async fn what_is_stale_stands_in_for_a_slow_load_which_goes_on_and_is_stored(backend: &Backend) {
    let (cache, clock) = aging(backend).await;
    let (cache, source, gate) = (cache.lock_timeout(10 * MINUTE).build(), Source::default(), Gate::closed());
    with_stale(&cache, &clock, &source).await;
    for _ in 0..3 {
        let ask = terms(source.count_behind(&cache, &gate)).soft_timeout(SOON).into_future();
        assert_eq!(tokio::time::timeout(LIMIT, ask).await, Ok(Ok(1)));
    }
    let callers = (0..10).map(|_| terms(source.count_behind(&cache, &gate)).soft_timeout(SOON).into_future());
    assert!(join_all(callers).await.iter().all(|answer| *answer == Ok(1)));
    wait_until("one of them loads", async || source.calls() == 2).await;
    assert_eq!(cache.loads_in_flight(), 1, "and still does");
    gate.open();
    settled(&cache).await;
    assert_eq!(cache.get::<usize>("k").await, Some(2));
    assert_eq!(terms(source.count(&cache)).soft_timeout(SOON).await, Ok(2));
}

async fn a_slow_load_that_was_left_is_not_abandoned(backend: &Backend) {
    let (cache, clock) = aging(backend).await;
    // A load that nobody waits for ends within a second.
    let cache = cache.abandoned_load(Duration::ZERO).lock_timeout(LIMIT).build();
    let (source, gate) = (Source::default(), Gate::closed());
    with_stale(&cache, &clock, &source).await;
    assert_eq!(terms(source.count_behind(&cache, &gate)).soft_timeout(SOON).await, Ok(1));
    tokio::time::sleep(5 * SECOND / 2).await;
    assert_eq!(cache.loads_in_flight(), 1);
    gate.open();
    settled(&cache).await;
    assert_eq!(cache.get::<usize>("k").await, Some(2));
}

async fn nothing_stale_means_waiting_for_the_load(backend: &Backend) {
    let (cache, clock) = aging(backend).await;
    let (cache, source) = (cache.build(), Source::default());
    let gate = Gate::closed();
    let first = tokio::spawn(terms(source.count_behind(&cache, &gate)).soft_timeout(SOON).into_future());
    wait_until("it loads", async || source.calls() == 1).await;
    tokio::time::sleep(5 * SOON).await;
    assert!(!first.is_finished());
    gate.open();
    assert_eq!(first.await.unwrap(), Ok(1));
    settled(&cache).await;
    // A value that is older than its window is not used either.
    clock.advance(3 * MINUTE);
    let gate = Gate::closed();
    let second = tokio::spawn(terms(source.count_behind(&cache, &gate)).soft_timeout(SOON).into_future());
    wait_until("it loads again", async || source.calls() == 2).await;
    tokio::time::sleep(5 * SOON).await;
    assert!(!second.is_finished());
    gate.open();
    assert_eq!(second.await.unwrap(), Ok(2));
}

/// ZiggyCreatures/FusionCache#534: there, the first call after expiry waited for the second tier all the same.
async fn a_soft_timeout_counts_for_another_process_too(backend: &Backend) {
    let (one, clock) = aging(backend).await;
    let (one, other) = (one.build(), backend.cache().await.clock(clock.clone()).build());
    let (source, gate) = (Source::default(), Gate::closed());
    with_stale(&one, &clock, &source).await;
    let loading = tokio::spawn(terms(source.count_behind(&one, &gate)).into_future());
    wait_until("one loads", async || source.calls() == 2).await;
    assert_eq!(terms(source.count(&other)).soft_timeout(SOON).await, Ok(1));
    assert_eq!(source.calls(), 2, "the other one waits for it");
    gate.open();
    assert_eq!(loading.await.unwrap(), Ok(2));
    settled(&one).await;
    settled(&other).await;
    assert_eq!(terms(source.count(&other)).soft_timeout(SOON).await, Ok(2));
    assert_eq!(source.calls(), 2);
}

/// ZiggyCreatures/FusionCache#332: there, a failure after the time-out was as if nothing had happened.
async fn a_load_that_fails_after_it_was_left_is_left_alone(backend: &Backend) {
    let (cache, clock) = aging(backend).await;
    let (cache, source, gate) = (cache.build(), Source::default(), Gate::closed());
    with_stale(&cache, &clock, &source).await;
    let failing = {
        let (source, gate) = (source.clone(), gate.clone());
        cache.get_or_load("k", async move || {
            source.called();
            gate.pass().await;
            Err(Failed::Broken)
        })
    };
    assert_eq!(terms(failing).soft_timeout(SOON).await, Ok(1));
    gate.open();
    settled(&cache).await;
    assert_eq!(terms(source.count(&cache)).soft_timeout(SOON).await, Ok(1));
    assert_eq!(source.calls(), 2, "a second of peace");
}

/// ZiggyCreatures/FusionCache#560: there, an old value came back under load, and stayed.
async fn bursts_under_soft_timeouts_end_with_what_was_loaded_last(backend: &Backend) {
    let (cache, clock) = aging(backend).await;
    let caches = [cache.build(), backend.cache().await.clock(clock.clone()).build()];
    let version = Arc::new(AtomicUsize::new(0));
    for round in 1..=6 {
        version.store(round, Ordering::SeqCst);
        let callers = (0..60).map(|caller| {
            let (cache, version) = (caches[caller % 2].clone(), version.clone());
            tokio::spawn(async move {
                let load = async move || {
                    let read = version.load(Ordering::SeqCst);
                    tokio::time::sleep(Duration::from_millis(5 * (caller as u64 % 7))).await;
                    Ok::<_, Infallible>(read)
                };
                let ask = cache.get_or_load(("product", caller % 3), load).ttl(SECOND).stale_if_error(MINUTE);
                ask.soft_timeout(SOON).await.unwrap()
            })
        });
        let answers = join_all(callers.collect::<Vec<_>>()).await;
        let answers: Vec<usize> = answers.into_iter().map(Result::unwrap).collect();
        assert!(answers.iter().all(|answer| (round - 1..=round).contains(answer)), "{round}: {answers:?}");
        for cache in &caches {
            settled(cache).await;
        }
        for (cache, id) in caches.iter().zip([0, 1, 2].into_iter().cycle()) {
            wait_until("it has what was loaded last", async || {
                cache.get::<usize>(("product", id)).await == Some(round)
            })
            .await;
        }
        clock.advance(2 * SECOND);
    }
}

async fn a_hard_timeout_ends_the_wait_and_the_load_goes_on(backend: &Backend) {
    let cache = backend.cache().await.lock_timeout(LIMIT).build();
    let (source, gate) = (Source::default(), Gate::closed());
    let ask = |limit| source.count_behind(&cache, &gate).hard_timeout(limit, Failed::TimedOut);
    assert_eq!(ask(A_WHILE).await, Err(Failed::TimedOut));
    assert_eq!(ask(SOON).await, Err(Failed::TimedOut), "whoever waits for it has the same");
    assert_eq!(ask(SOON).fallback(7).await, Ok(7));
    wait_until("it loads", async || source.calls() == 1).await;
    gate.open();
    settled(&cache).await;
    assert_eq!(ask(LIMIT).await, Ok(1));
}

async fn a_hard_timeout_prefers_what_is_stale(backend: &Backend) {
    let (cache, clock) = aging(backend).await;
    let (cache, source, gate) = (cache.build(), Source::default(), Gate::closed());
    with_stale(&cache, &clock, &source).await;
    let ask = || terms(source.count_behind(&cache, &gate)).hard_timeout(A_WHILE, Failed::TimedOut);
    assert_eq!(ask().fallback(7).await, Ok(1));
    clock.advance(MINUTE);
    assert_eq!(ask().await, Err(Failed::TimedOut), "it is too old by now");
    gate.open();
    settled(&cache).await;
}

async fn a_fallback_stands_in_for_an_error_and_is_not_kept(backend: &Backend) {
    let (cache, other) = (backend.cache().await.build(), backend.cache().await.build());
    let source = Source::default();
    let expect_whole_not_kept = async |cache: &Cache| {
        let (inner, part) = (cache.clone(), source.clone());
        let whole = async move || -> Result<usize, Failed> {
            part.fail(&inner).fallback(7).failure_backoff(MINUTE, MINUTE).await
        };
        assert_eq!(cache.get_or_load("whole", whole).await, Ok(7));
        settled(cache).await;
        assert!(!cache.contains("k").await && !cache.contains("whole").await, "neither it, nor what is made of it");
        source.calls()
    };
    for when in ["when it fails", "while it is left alone"] {
        assert_eq!(expect_whole_not_kept(&cache).await, 1, "{when}");
    }
    // What is said of a failure goes to the server without waiting.
    wait_until("another process leaves it alone", async || source.calls() == expect_whole_not_kept(&other).await).await;
    assert_eq!(source.fail(&cache).await, Err(Failed::Broken));
}

async fn what_is_made_from_what_stands_in_is_not_kept(backend: &Backend) {
    for way in ["slow", "late", "failing"] {
        let (cache, clock) = aging(backend).await;
        let (cache, source, gate) = (cache.build(), Source::default(), Gate::closed());
        cache.invalidate_all().await.unwrap();
        with_stale(&cache, &clock, &source).await;
        let (inner, part, closed) = (cache.clone(), source.clone(), gate.clone());
        let whole = async move || match way {
            "slow" => terms(part.count_behind(&inner, &closed)).soft_timeout(SOON).await,
            "late" => terms(part.count_behind(&inner, &closed)).hard_timeout(A_WHILE, Failed::TimedOut).await,
            _ => terms(part.fail(&inner)).await,
        };
        assert_eq!(cache.get_or_load(way, whole).await, Ok(1), "{way}");
        gate.open();
        settled(&cache).await;
        assert!(!cache.contains(way).await, "{way}");
    }
}

/// JSON has texts for keys only: the empty one alone can be written.
type Odd = Option<BTreeMap<Vec<u8>, u8>>;

/// What a load of `"k"` returns.
#[derive(Clone)]
struct Returns {
    value: Odd,
    ttl: Option<Duration>,
    tags: usize,
}

impl Returns {
    fn new(value: impl Into<Odd>) -> Self {
        Self { value: value.into(), ttl: None, tags: 0 }
    }

    fn storable() -> Self {
        Self::new(BTreeMap::new())
    }

    fn loaded<V>(&self, value: V) -> Loaded<V> {
        let loaded = Loaded::new(value).tags((0..self.tags).map(|tag| tag.to_string()));
        self.ttl.into_iter().fold(loaded, Loaded::ttl)
    }
}

/// What is not stored, and why not.
fn unstorable() -> [(&'static str, Returns); 4] {
    [
        ("there is none", Returns::new(None)),
        ("it is not to be stored", Returns { ttl: Some(Duration::ZERO), ..Returns::storable() }),
        ("it can't be written", Returns::new(BTreeMap::from([(vec![1], 2)]))),
        ("it has too many tags", Returns { tags: 1_025, ..Returns::storable() }),
    ]
}

fn loads(cache: &Cache, returns: &Returns) -> GetOrLoad<Odd, Failed> {
    let returns = returns.clone();
    odd_terms(cache.get_or_load_with("k", async move |_| Ok(returns.loaded(returns.value.clone()))))
}

fn fails(cache: &Cache) -> GetOrLoad<Odd, Failed> {
    odd_terms(cache.get_or_load("k", async || Err(Failed::Broken)))
}

fn odd_terms(ask: GetOrLoad<Odd, Failed>) -> GetOrLoad<Odd, Failed> {
    ask.ttl(MINUTE).stale_if_error(MINUTE).negative_ttl(Duration::ZERO).failure_backoff(Duration::ZERO, MINUTE)
}

async fn what_a_load_has_superseded_stands_in_for_nothing(backend: &Backend) {
    let (cache, clock) = aging(backend).await;
    let (cache, other) = (cache.build(), backend.cache().await.clock(clock.clone()).build());
    for many in [false, true] {
        for (why, next) in unstorable() {
            loads(&cache, &Returns::storable()).await.unwrap();
            settled(&cache).await;
            // It is in the first tier of the other process as well.
            assert!(fails(&other).await.is_ok(), "{why}");
            clock.advance(MINUTE + MINUTE / 2);
            assert!(fails(&cache).await.is_ok(), "{why}: it is usable");
            if many {
                let next = next.clone();
                let load = async move |_| {
                    let value = next.value.clone().map(|value| ("k", Ok(next.loaded(value))));
                    Ok::<_, Failed>(value.into_iter().collect())
                };
                cache.get_or_load_many_with(["k"], load).negative_ttl(Duration::ZERO).await.unwrap();
            } else {
                assert_eq!(loads(&cache, &next).await, Ok(next.value), "{why}");
            }
            assert_eq!(fails(&cache).await, Err(Failed::Broken), "{why}");
            wait_until("the other process hears of it", async || fails(&other).await.is_err()).await;
        }
    }
}

async fn what_a_refresh_has_superseded_is_not_found(backend: &Backend) {
    let cache = backend.cache().await.build();
    for (why, next) in unstorable() {
        loads(&cache, &Returns::storable()).await.unwrap();
        settled(&cache).await;
        assert!(cache.contains("k").await, "{why}");
        assert_eq!(loads(&cache, &next).refresh().await, Ok(next.value), "{why}");
        settled(&cache).await;
        assert_eq!(fails(&cache).await, Err(Failed::Broken), "{why}");
    }
}

async fn a_follower_of_a_load_that_superseded_its_stale_value_does_not_use_it(backend: &Backend) {
    let (cache, clock) = aging(backend).await;
    let (cache, gate) = (cache.build(), Gate::closed());
    loads(&cache, &Returns::storable()).await.unwrap();
    settled(&cache).await;
    clock.advance(MINUTE + MINUTE / 2);
    let (began, behind) = (Gate::closed(), gate.clone());
    let beginning = began.clone();
    let leader = odd_terms(cache.get_or_load("k", async move || {
        beginning.open();
        behind.pass().await;
        Ok(None)
    }));
    let leader = tokio::spawn(leader.into_future());
    began.pass().await;
    let follower = tokio::spawn(fails(&cache).into_future());
    let late = fails(&cache).hard_timeout(LIMIT, Failed::TimedOut);
    let late = tokio::spawn(late.into_future());
    wait_until("both wait", async || cache.counts().coalesced == 2).await;
    gate.open();
    assert_eq!(leader.await.unwrap(), Ok(None));
    assert_eq!((follower.await.unwrap(), late.await.unwrap()), (Err(Failed::Broken), Err(Failed::Broken)));
}

/// ZiggyCreatures/FusionCache#67: there, it stood in for every slow first load.
async fn a_fallback_does_not_stand_in_for_a_slow_load(backend: &Backend) {
    let cache = backend.cache().await.build();
    let (source, gate) = (Source::default(), Gate::closed());
    let ask = source.count_behind(&cache, &gate).soft_timeout(SOON).fallback(7);
    let asking = tokio::spawn(ask.into_future());
    wait_until("it loads", async || source.calls() == 1).await;
    tokio::time::sleep(5 * SOON).await;
    gate.open();
    assert_eq!(asking.await.unwrap(), Ok(1));
}

async fn a_failing_load_is_left_alone_where_something_stands_in(backend: &Backend) {
    let (one, clock) = aging(backend).await;
    let (one, other) = (one.build(), backend.cache().await.clock(clock.clone()).build());
    let (source, pause) = (Source::default(), Duration::from_millis(300));
    let ask = |cache: &Cache| source.fail(cache).fallback(7).failure_backoff(MINUTE, MINUTE);
    assert_eq!(ask(&one).await, Ok(7));
    settled(&one).await;
    // The record of a failure is sent to the server without waiting for it.
    wait_until("the other process knows", async || {
        let before = source.calls();
        assert_eq!(ask(&other).await, Ok(7));
        source.calls() == before
    })
    .await;
    let calls = source.calls();
    assert_eq!(ask(&one).await, Ok(7));
    assert_eq!(source.calls(), calls, "it is left alone");
    let anew = source.fail(&one).failure_backoff(pause, pause).await;
    assert_eq!(anew, Err(Failed::Broken), "but not by those who have nothing else");
    assert_eq!(source.calls(), calls + 1);
    wait_until("the pause is over", async || {
        assert_eq!(ask(&one).await, Ok(7));
        source.calls() > calls + 1
    })
    .await;
}

/// Calls until one of them does not load: that one alone is counted.
async fn expect_to_be_counted(cache: &Cache, source: &Source, ask: impl Fn() -> GetOrLoad<usize, Failed>) {
    // The record of a failure is sent to the server without waiting for it.
    wait_until("the failure is known", async || {
        let (calls, counted) = (source.calls(), cache.counts().backed_off);
        ask().await.unwrap();
        let is_answered = source.calls() == calls;
        assert_eq!(cache.counts().backed_off, counted + u64::from(is_answered));
        is_answered
    })
    .await;
}

async fn calls_that_a_back_off_answers_are_counted(backend: &Backend) {
    let (one, clock) = aging(backend).await;
    let (one, other) = (one.build(), backend.cache().await.clock(clock.clone()).build());
    let source = Source::default();
    let fail = |cache: &Cache| source.fail(cache).failure_backoff(MINUTE, MINUTE);
    assert_eq!((fail(&one).fallback(7).await, one.counts().backed_off), (Ok(7), 0), "it has failed");
    settled(&one).await;
    for cache in [&one, &one, &other, &other] {
        expect_to_be_counted(cache, &source, || fail(cache).fallback(7)).await;
    }
    one.delete("k").await.unwrap();
    let source = Source::default();
    with_stale(&one, &clock, &source).await;
    let fail = |cache: &Cache| terms(source.fail(cache)).failure_backoff(MINUTE, MINUTE);
    let before = one.counts().backed_off;
    assert_eq!((fail(&one).await, one.counts().backed_off), (Ok(1), before), "it has failed");
    settled(&one).await;
    // This process knows nothing of the first failure.
    let third = backend.cache().await.clock(clock.clone()).build();
    for cache in [&one, &one, &third, &third] {
        expect_to_be_counted(cache, &source, || fail(cache)).await;
    }
}

async fn a_back_off_of_zero_is_none(backend: &Backend) {
    let cache = backend.cache().await.build();
    let source = Source::default();
    for calls in 1..=3 {
        let ask = source.fail(&cache).fallback(7).failure_backoff(Duration::ZERO, Duration::ZERO);
        assert_eq!((ask.await, source.calls()), (Ok(7), calls));
        settled(&cache).await;
    }
}

/// Loads a value that takes 30 ms, and has a millisecond to live. At a factor of a million, each call wants to refresh it.
async fn nearly_stale(cache: &Cache, clock: &Clock, source: &Source) {
    let (slow, time) = (source.clone(), clock.clone());
    let load = async move || {
        time.advance(Duration::from_millis(30));
        Ok::<_, Failed>(slow.called())
    };
    assert_eq!(cache.get_or_load("k", load).ttl(MINUTE).tags(["t"]).await, Ok(1));
    settled(cache).await;
    clock.advance(MINUTE - Duration::from_millis(1));
}

fn early(ask: GetOrLoad<usize, Failed>) -> GetOrLoad<usize, Failed> {
    ask.ttl(MINUTE).tags(["t"]).early_refresh(1e6)
}

async fn what_is_fresh_is_refreshed_before_it_is_stale(backend: &Backend) {
    let (cache, clock) = aging(backend).await;
    let (cache, source) = (cache.build(), Source::default());
    nearly_stale(&cache, &clock, &source).await;
    assert_eq!(source.count(&cache).ttl(MINUTE).await, Ok(1));
    settled(&cache).await;
    assert_eq!(source.calls(), 1, "not unless it is said");
    assert_eq!(early(source.count(&cache)).await, Ok(1), "nobody waits for it");
    settled(&cache).await;
    assert_eq!((source.calls(), cache.counts().early_refreshes), (2, 1));
    clock.advance(MINUTE / 2);
    assert_eq!(early(source.count(&cache)).await, Ok(2));
    settled(&cache).await;
    assert_eq!(source.calls(), 2, "half of its life is no time for it");
}

async fn one_of_the_fleet_refreshes_early(backend: &Backend) {
    let (one, clock) = aging(backend).await;
    let caches = [one.build(), backend.cache().await.clock(clock.clone()).build()];
    let (source, gate) = (Source::default(), Gate::closed());
    nearly_stale(&caches[0], &clock, &source).await;
    let callers = (0..40).map(|caller| early(source.count_behind(&caches[caller % 2], &gate)).into_future());
    assert!(join_all(callers).await.iter().all(|answer| *answer == Ok(1)));
    wait_until("one loads", async || source.calls() == 2).await;
    gate.open();
    for cache in &caches {
        settled(cache).await;
    }
    assert_eq!(source.calls(), 2);
}

/// ZiggyCreatures/FusionCache#628: there, the invalidation was lost.
async fn an_invalidation_during_an_early_refresh_wins(backend: &Backend) {
    let (one, clock) = aging(backend).await;
    let (one, other) = (one.build(), backend.cache().await.clock(clock.clone()).build());
    let (source, gate) = (Source::default(), Gate::closed());
    nearly_stale(&one, &clock, &source).await;
    assert_eq!(early(source.count_behind(&one, &gate)).await, Ok(1));
    wait_until("it loads", async || source.calls() == 2).await;
    other.invalidate_tag("t").await.unwrap();
    gate.open();
    settled(&one).await;
    wait_until("nothing is there", async || !one.contains("k").await).await;
    assert!(!other.contains("k").await);
}

async fn a_refresh_is_not_content_with_a_load_that_began_before(backend: &Backend) {
    let (cache, source, gate) = (backend.cache().await.lock_timeout(LIMIT).build(), Source::default(), Gate::closed());
    let first = tokio::spawn(source.count_behind(&cache, &gate).into_future());
    wait_until("it loads", async || source.calls() == 1).await;
    let refresh = tokio::spawn(source.count(&cache).refresh().into_future());
    wait_until("the refresh waits for it", async || cache.counts().coalesced == 1).await;
    gate.open();
    assert_eq!((first.await.unwrap(), refresh.await.unwrap()), (Ok(1), Ok(2)));
    settled(&cache).await;
    assert_eq!((cache.get::<usize>("k").await, source.calls()), (Some(2), 2));
    // Nor with its failure.
    let gate = Gate::closed();
    let failing = {
        let (source, gate) = (source.clone(), gate.clone());
        cache.get_or_load("k", async move || {
            source.called();
            gate.pass().await;
            Err::<usize, _>(Failed::Broken)
        })
    };
    let failing = tokio::spawn(failing.refresh().into_future());
    wait_until("it loads", async || source.calls() == 3).await;
    let refresh = tokio::spawn(source.count(&cache).refresh().into_future());
    wait_until("the refresh waits for it", async || cache.counts().coalesced == 2).await;
    gate.open();
    assert_eq!((failing.await.unwrap(), refresh.await.unwrap()), (Err(Failed::Broken), Ok(4)));
}

/// The load that began before is in this process, or in another one.
async fn a_refresh_overtakes_a_load_that_it_no_longer_waits_for(backend: &Backend) {
    let cases = [Lock::Fleet, Lock::Process, Lock::Off].map(|lock| [(lock, false), (lock, true)]);
    let overtakes = async |(lock, elsewhere): (Lock, bool)| {
        let case = &*format!("{lock:?} {elsewhere}");
        let cache = async || backend.cache().await.lock_timeout(A_WHILE).build();
        let one = cache().await;
        let refreshing = if elsewhere { cache().await } else { one.clone() };
        let (source, gate) = (Source::default(), Gate::closed());
        refreshing.set(case, &0_usize).await.unwrap();
        let refresh = |cache: &Cache, gate: &Gate| source.count_under(case, cache, gate).lock(lock).refresh();
        let old = tokio::spawn(refresh(&one, &gate).into_future());
        wait_until("the old load has begun", async || source.calls() == 1).await;
        assert_eq!(refresh(&refreshing, &open()).await, Ok(2), "{case}");
        gate.open();
        assert_eq!(old.await.unwrap(), Ok(1), "{case}");
        settled(&one).await;
        settled(&refreshing).await;
        assert_eq!((refreshing.get::<usize>(case).await, source.calls()), (Some(2), 2), "{case}");
        heard(&refreshing, &one).await;
        assert_eq!((one.get::<usize>(case).await, one.counts().fenced), (Some(2), 1), "{case}");
    };
    join_all(cases.into_iter().flatten().map(overtakes)).await;
}

async fn one_of_refreshes_that_no_longer_wait_is_stored(backend: &Backend) {
    const REFRESHES: usize = 20;
    let cache = backend.cache().await.lock_timeout(3 * A_WHILE).build();
    let (source, gate) = (Source::default(), Gate::closed());
    let refresh = || tokio::spawn(source.count_behind(&cache, &gate).refresh().into_future());
    let first = refresh();
    wait_until("it loads", async || source.calls() == 1).await;
    let others: Vec<_> = (1..REFRESHES).map(|_| refresh()).collect();
    wait_until("none waits for another", async || source.calls() == REFRESHES).await;
    gate.open();
    assert_eq!(first.await.unwrap(), Ok(1));
    let mut loaded: Vec<_> = join_all(others).await.into_iter().map(|one| one.unwrap().unwrap()).collect();
    loaded.sort_unstable();
    assert_eq!(loaded, (2..=REFRESHES).collect::<Vec<_>>());
    settled(&cache).await;
    assert_eq!(cache.counts().stored, 1);
    assert!(cache.get::<usize>("k").await.is_some_and(|stored| stored > 1));
}

/// Waits until it is known, in the whole fleet, that the last load of `key` failed.
async fn has_failed(cache: &Cache, key: impl Into<Key>) {
    let key = key.into();
    let state = async || cache.inspect_lease(&key).await.unwrap();
    wait_until("the failure is known", async || matches!(state().await, LeaseState::Failed { .. })).await;
}

/// What could stand in is what the call wants to have replaced.
async fn a_refresh_heeds_no_back_off(backend: &Backend) {
    let (one, other, source) = (backend.cache().await.build(), backend.cache().await.build(), Source::default());
    let backs_off = |ask: GetOrLoad<usize, Failed>| ask.fallback(7).failure_backoff(MINUTE, MINUTE).refresh();
    assert_eq!(source.count(&one).await, Ok(1));
    settled(&one).await;
    for (cache, calls) in [(&one, 1), (&other, 3)] {
        assert_eq!(backs_off(source.fail(&one)).await, Ok(7));
        has_failed(&one, "k").await;
        assert_eq!(backs_off(source.count(cache)).await, Ok(calls + 2));
        settled(cache).await;
        assert_eq!((cache.get::<usize>("k").await, source.calls()), (Some(calls + 2), calls + 2));
    }
}

async fn the_refresh_of_a_cached_function_heeds_no_back_off(backend: &Backend) {
    #[cached(name = "price", cache = "cache", fallback = 7, failure_backoff("60s", "60s"), skip(cache, source, fails))]
    async fn price(cache: &Cache, source: &Source, fails: bool) -> Result<usize, Failed> {
        let call = source.called();
        if fails { Err(Failed::Broken) } else { Ok(call) }
    }
    let (cache, source) = (backend.cache().await.build(), Source::default());
    assert_eq!(price(&cache, &source, false).await, Ok(1));
    settled(&cache).await;
    assert_eq!(price_cache::refresh(&cache, &source, true).await, Ok(7));
    has_failed(&cache, price_cache::key()).await;
    assert_eq!(price_cache::refresh(&cache, &source, false).await, Ok(3));
    settled(&cache).await;
    assert_eq!(price(&cache, &source, false).await, Ok(3));
}

/// Refreshes at one time: the first load may have begun before some of them, the second has not.
async fn refreshes_at_one_time_load_twice(backend: &Backend) {
    const REFRESHES: usize = 100;
    let cache = backend.cache().await.lock_timeout(LIMIT).build();
    let (source, gate) = (Source::default(), Gate::closed());
    let load = {
        let (source, gate) = (source.clone(), gate.clone());
        async move || {
            let call = source.called();
            match call {
                1 => gate.pass().await,
                _ => tokio::time::sleep(SECOND).await,
            }
            Ok::<_, Failed>(call)
        }
    };
    let many = {
        let load = load.clone();
        async move |missing: Vec<&'static str>| {
            let call = load().await?;
            Ok::<_, Failed>(missing.into_iter().map(|key| (key, call)).collect::<Vec<_>>())
        }
    };
    let refreshes: Vec<_> = (0..REFRESHES)
        .map(|number| match number % 2 {
            0 => {
                let load = load.clone();
                let one = cache.get_or_load("k", async move || Ok::<_, Failed>(Some(load().await?))).refresh();
                tokio::spawn(one.into_future())
            }
            _ => {
                let many = cache.get_or_load_many(["k"], many.clone()).refresh();
                tokio::spawn(async move { Ok::<_, Failed>(many.await?[0]) })
            }
        })
        .collect();
    wait_until("all wait for the first", async || cache.counts().coalesced == REFRESHES as u64 - 1).await;
    gate.open();
    let mut of_the_first = 0;
    for refreshed in join_all(refreshes).await {
        match refreshed.unwrap() {
            Ok(Some(1)) => of_the_first += 1,
            other => assert_eq!(other, Ok(Some(2))),
        }
    }
    assert_eq!((of_the_first, source.calls()), (1, 2));
    settled(&cache).await;
    assert_eq!(cache.get::<Option<usize>>("k").await, Some(Some(2)));
}

async fn refreshes_at_one_time_fail_together(backend: &Backend) {
    const REFRESHES: u64 = 20;
    let cache = backend.cache().await.lock_timeout(LIMIT).build();
    let (source, gate) = (Source::default(), Gate::closed());
    cache.set("k", &7_usize).await.unwrap();
    let refresh = || {
        let (source, gate) = (source.clone(), gate.clone());
        let load = async move || {
            match source.called() {
                1 => gate.pass().await,
                _ => tokio::time::sleep(SECOND).await,
            }
            Err::<usize, _>(Failed::Broken)
        };
        tokio::spawn(cache.get_or_load("k", load).refresh().into_future())
    };
    let refreshes: Vec<_> = (0..REFRESHES).map(|_| refresh()).collect();
    wait_until("all wait for the first", async || cache.counts().coalesced == REFRESHES - 1).await;
    gate.open();
    for refreshed in join_all(refreshes).await {
        assert_eq!(refreshed.unwrap(), Err(Failed::Broken), "not the value that it is to replace");
    }
    assert_eq!(source.calls(), 2);
}

/// A load for one call alone is not stored, but may find as well that the former value still holds.
async fn a_load_for_one_call_alone_is_given_the_former_value(backend: &Backend) {
    let (cache, clock) = aging(backend).await;
    let (cache, gate) = (cache.build(), Gate::closed());
    cache.get_or_load("k", async || Ok::<_, Failed>(Some(1_usize))).ttl(MINUTE).keep(10 * MINUTE).await.unwrap();
    settled(&cache).await;
    clock.advance(2 * MINUTE);
    let slow = {
        let gate = gate.clone();
        async move || {
            gate.pass().await;
            Ok::<_, Failed>(Some(2_usize))
        }
    };
    let slow = tokio::spawn(cache.get_or_load("k", slow).into_future());
    wait_until("it loads", async || cache.loads_in_flight() == 1).await;
    let one = async |former: Option<Stale<Option<usize>>>| {
        Ok::<_, Failed>(former.map_or(Loaded::new(None), Stale::not_modified))
    };
    assert_eq!(cache.get_or_load_with("k", one).lock(Lock::Off).await, Ok(Some(1)));
    let many = async |wanted: Vec<(&'static str, Option<Stale<usize>>)>| {
        let found = wanted.into_iter().filter_map(|(key, former)| Some((key, Ok(former?.not_modified()))));
        Ok::<_, Failed>(found.collect::<Vec<_>>())
    };
    assert_eq!(cache.get_or_load_many_with(["k"], many).lock(Lock::Off).await, Ok(vec![Some(1)]));
    gate.open();
    assert_eq!(slow.await.unwrap(), Ok(Some(2)));
}

async fn lives_are_as_different_as_the_jitter_says(backend: &Backend) {
    let (cache, clock) = aging(backend).await;
    let cache = cache.build();
    for id in 0..60_u32 {
        let load = async move || Ok::<_, Infallible>(id);
        cache.get_or_load(("n", id), load).ttl(100 * SECOND).jitter(50).await.unwrap();
    }
    settled(&cache).await;
    let fresh = async || cache.get_many::<u32>((0..60).map(|id| ("n", id))).await.iter().flatten().count();
    assert_eq!(fresh().await, 60);
    clock.advance(75 * SECOND);
    let half = fresh().await;
    assert!((10..50).contains(&half), "{half} of 60, where half of them are expected");
    clock.advance(25 * SECOND);
    assert_eq!(fresh().await, 0);
}

async fn what_is_kept_is_for_its_load_alone(backend: &Backend) {
    let (cache, clock) = aging(backend).await;
    let cache = cache.build();
    let ask = async |outcome: Result<(), Failed>| {
        let load = async move |stale: Option<Stale<usize>>| {
            outcome?;
            Ok(stale.map_or_else(|| Loaded::new(1), |stale| Loaded::new(*stale + 10)))
        };
        let answer = cache.get_or_load_with("k", load).ttl(MINUTE).stale_if_error(SECOND).keep(10 * MINUTE).await;
        settled(&cache).await;
        answer
    };
    assert_eq!(ask(Ok(())).await, Ok(1));
    clock.advance(9 * MINUTE);
    assert_eq!(ask(Err(Failed::Broken)).await, Err(Failed::Broken), "it does not stand in");
    assert_eq!(cache.get::<usize>("k").await, None);
    assert_eq!(ask(Ok(())).await, Ok(11), "but its load has it");
    clock.advance(12 * MINUTE);
    assert_eq!(ask(Ok(())).await, Ok(1), "for so long and no longer");
}

/// How many run at one time, and the most that did.
#[derive(Clone, Default)]
struct Busy {
    now: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

impl Busy {
    async fn work(&self) {
        self.most.fetch_max(self.now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(5)).await;
        self.now.fetch_sub(1, Ordering::SeqCst);
    }

    fn most(&self) -> usize {
        self.most.load(Ordering::SeqCst)
    }
}

async fn values_and_responses_share_the_places_of_their_cache(backend: &Backend) {
    let (cache, busy) = (backend.cache().await.max_loads(3).build(), Busy::default());
    let origin = Origin::new({
        let busy = busy.clone();
        move |_, _| {
            let busy = busy.clone();
            async move {
                busy.work().await;
                Ok(http::Response::new(full("a page".to_owned())))
            }
        }
    });
    let app = App::new(cache.clone(), &origin, |layer| layer.ttl(MINUTE));
    let values = (0..40).map(|id| {
        let busy = busy.clone();
        let load = async move || {
            busy.work().await;
            Ok::<_, Infallible>(id)
        };
        tokio::spawn(cache.get_or_load(("n", id), load).into_future())
    });
    let values: Vec<_> = values.collect();
    let pages = (0..40).map(|id| {
        let app = app.clone();
        tokio::spawn(async move { app.get(&format!("/{id}"), &[]).await.status })
    });
    let pages: Vec<_> = pages.collect();
    for (id, value) in values.into_iter().enumerate() {
        assert_eq!(value.await.unwrap(), Ok(id));
    }
    for page in pages {
        assert_eq!(page.await.unwrap(), 200);
    }
    assert_eq!(busy.most(), 3);
}

/// There is one place, and the load that has it must not wait for another.
async fn what_a_load_loads_needs_no_place_of_its_own(backend: &Backend) {
    let cache = backend.cache().await.max_loads(1).build();
    let outer = async |cache: &Cache, key: &'static str| {
        let inner = cache.clone();
        let load = async move || {
            let part = inner.get_or_load((key, 1), async || Ok::<_, Infallible>(1)).await?;
            let parts = inner.get_or_load_many([(key, 2)], async |missing: Vec<(&str, i32)>| {
                Ok::<_, Infallible>(missing.into_iter().map(|id| (id, 2)).collect::<Vec<_>>())
            });
            Ok::<_, Infallible>(part + parts.await?[0].unwrap_or(0))
        };
        cache.get_or_load(key, load).await
    };
    let whole = tokio::time::timeout(LIMIT, outer(&cache, "value")).await;
    assert_eq!(whole.expect("it does not wait for itself"), Ok(3));
    let handler = cache.clone();
    let origin = Origin::new(move |_, _| {
        let cache = handler.clone();
        async move { Ok(http::Response::new(full(format!("{:?}", outer(&cache, "handler").await)))) }
    });
    let app = App::new(cache.clone(), &origin, |layer| layer.ttl(MINUTE));
    let page = tokio::time::timeout(LIMIT, app.get("/page", &[])).await;
    assert_eq!(page.expect("nor does a response wait for its values").status, 200);
}

async fn a_refresh_in_the_background_waits_for_no_place(backend: &Backend) {
    let (cache, clock) = aging(backend).await;
    let (cache, source, gate) = (cache.max_loads(1).build(), Source::default(), Gate::closed());
    let ask = || source.count(&cache).ttl(MINUTE).stale_while_revalidate(MINUTE);
    assert_eq!(ask().await, Ok(1));
    settled(&cache).await;
    clock.advance(MINUTE + SECOND);
    let (taken, other) = (Source::default(), gate.clone());
    let hold = {
        let taken = taken.clone();
        async move || {
            taken.called();
            other.pass().await;
            Ok::<_, Infallible>(())
        }
    };
    let holder = tokio::spawn(cache.get_or_load("other", hold).into_future());
    wait_until("the place is taken", async || taken.calls() == 1).await;
    assert_eq!(ask().await, Ok(1));
    wait_until("the refresh is left out", async || cache.counts().skipped_refreshes == 1).await;
    assert_eq!(source.calls(), 1);
    gate.open();
    holder.await.unwrap().unwrap();
    settled(&cache).await;
    assert_eq!(ask().await, Ok(1));
    settled(&cache).await;
    assert_eq!(source.calls(), 2, "the next call refreshes it");
}

async fn a_call_that_waits_for_a_place_ends_with_its_timeouts(backend: &Backend) {
    let (cache, clock) = aging(backend).await;
    let (cache, source, gate) = (cache.max_loads(1).build(), Source::default(), Gate::closed());
    with_stale(&cache, &clock, &source).await;
    let (taken, other) = (Source::default(), gate.clone());
    let hold = {
        let taken = taken.clone();
        async move || {
            taken.called();
            other.pass().await;
            Ok::<_, Infallible>(())
        }
    };
    let holder = tokio::spawn(cache.get_or_load("other", hold).into_future());
    wait_until("the place is taken", async || taken.calls() == 1).await;
    assert_eq!(terms(source.count(&cache)).soft_timeout(SOON).await, Ok(1));
    let load = async || Ok::<usize, _>(2);
    assert_eq!(cache.get_or_load("cold", load).hard_timeout(SOON, Failed::TimedOut).await, Err(Failed::TimedOut));
    assert_eq!(source.calls(), 1);
    gate.open();
    holder.await.unwrap().unwrap();
    settled(&cache).await;
    assert_eq!(cache.get::<usize>("k").await, Some(2), "whoever waited for the place had it then");
}

/// Everybody loads for himself, but nobody longer than he has time.
#[tokio::test(flavor = "multi_thread")]
async fn a_soft_timeout_counts_without_a_lock() {
    let backend = Backend::memory();
    let (cache, clock) = aging(&backend).await;
    let (cache, source, gate) = (cache.build(), Source::default(), Gate::closed());
    with_stale(&cache, &clock, &source).await;
    let callers =
        (0..5).map(|_| terms(source.count_behind(&cache, &gate)).lock(Lock::Off).soft_timeout(SOON).into_future());
    assert!(join_all(callers).await.iter().all(|answer| *answer == Ok(1)));
    wait_until("each of them loads", async || source.calls() == 6).await;
    gate.open();
    settled(&cache).await;
    assert_eq!(source.calls(), 6);
    // The fallback for an error also applies to callers that load by themselves.
    clock.advance(MINUTE + MINUTE / 2);
    let failing = (0..5).map(|_| terms(source.fail(&cache)).lock(Lock::Off).into_future());
    let answers = join_all(failing).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
}

#[tokio::test]
async fn an_early_refresh_that_failed_is_not_repeated_at_once() {
    let (cache, clock) = aging(&Backend::memory()).await;
    let (cache, source) = (cache.build(), Source::default());
    nearly_stale(&cache, &clock, &source).await;
    for _ in 0..2 {
        assert_eq!(early(source.fail(&cache)).failure_backoff(MINUTE, MINUTE).await, Ok(1));
        settled(&cache).await;
    }
    assert_eq!(source.calls(), 2);
}

/// The value that it was to refresh has been replaced meanwhile.
#[tokio::test(start_paused = true)]
async fn an_early_refresh_that_comes_late_loads_nothing() {
    let (store, clock, source) = (TestStore::new(), Clock::manual(), Source::default());
    let [one, other] = [(); 2].map(|()| Cache::builder(store.clone()).clock(clock.clone()).build());
    nearly_stale(&one, &clock, &source).await;
    assert_eq!(early(source.count(&other)).await, Ok(1));
    store.delay(MINUTE..=MINUTE);
    tokio::task::yield_now().await;
    store.delay(Duration::ZERO..=Duration::ZERO);
    assert_eq!(early(source.count(&one)).await, Ok(1));
    settled(&one).await;
    assert_eq!(source.calls(), 2);
    tokio::time::sleep(2 * MINUTE).await;
    settled(&other).await;
    assert_eq!(source.calls(), 2, "the other one is not needed any more");
}

/// A cache, and a function that takes this part of its lock timeout.
fn with_slow_loads(part: f64) -> (Cache, impl Fn() -> GetOrLoad<usize, Failed>, Source) {
    let (cache, source) = (Cache::builder(MemoryStore::new(1 << 20)).lock_timeout(MINUTE).build(), Source::default());
    let slow = {
        let (cache, source) = (cache.clone(), source.clone());
        move || {
            let source = source.clone();
            cache.get_or_load("k", async move || {
                let call = source.called();
                tokio::time::sleep(MINUTE.mul_f64(part)).await;
                Ok(call)
            })
        }
    };
    (cache, slow, source)
}

#[tokio::test(start_paused = true)]
async fn refreshes_that_keep_coming_are_stored_if_loads_are_shorter_than_they_wait() {
    const REFRESHES: u64 = 60;
    let (cache, slow, _) = with_slow_loads(0.6);
    let mut refreshes = Vec::new();
    for _ in 0..REFRESHES {
        refreshes.push(tokio::spawn(slow().refresh().into_future()));
        tokio::time::sleep(MINUTE / 10).await;
    }
    for refreshed in join_all(refreshes).await {
        assert!(refreshed.unwrap().is_ok());
    }
    settled(&cache).await;
    let counts = cache.counts();
    assert_eq!(counts.fenced, 0, "no load was overtaken by a refresh that it was as good for");
    assert!(counts.stored >= REFRESHES / 6, "one load after the other: {}", counts.stored);
}

#[tokio::test(start_paused = true)]
async fn a_load_is_overtaken_by_one_of_the_refreshes_that_waited_for_it() {
    const REFRESHES: usize = 20;
    let (cache, slow, source) = with_slow_loads(2.0);
    let refreshes: Vec<_> = (0..REFRESHES).map(|_| tokio::spawn(slow().refresh().into_future())).collect();
    for refreshed in join_all(refreshes).await {
        assert!(refreshed.unwrap().is_ok());
    }
    settled(&cache).await;
    assert_eq!((cache.counts().stored, cache.counts().fenced, source.calls()), (1, 1, REFRESHES));
    assert!(cache.get::<usize>("k").await.is_some_and(|call| call > 1), "that of a refresh");
}

/// With the lock timeout as the unit: the calls follow a load from 0 to 0.7, which a refresh overtakes with one from 0.4 to 1.1.
#[tokio::test(start_paused = true)]
async fn calls_that_follow_an_overtaken_load_wait_for_the_newer_one() {
    let (cache, slow, source) = with_slow_loads(0.7);
    let first = tokio::spawn(slow().into_future());
    tokio::task::yield_now().await;
    let followers: Vec<_> = (0..20).map(|_| tokio::spawn(slow().into_future())).collect();
    tokio::time::sleep(MINUTE.mul_f64(0.4)).await;
    assert_eq!((cache.counts().coalesced, source.calls()), (20, 1));
    assert_eq!(slow().refresh().lock(Lock::Off).await, Ok(2));
    assert_eq!(first.await.unwrap(), Ok(1), "the call that leads it gets its value");
    for follower in followers {
        assert_eq!(follower.await.unwrap(), Ok(2));
    }
    settled(&cache).await;
    assert_eq!((cache.counts().stored, cache.counts().fenced, source.calls()), (1, 1, 2));
}

/// Each load of a key is overtaken before it ends.
#[tokio::test(start_paused = true)]
async fn a_call_begins_its_wait_anew_only_once() {
    let (cache, slow, _) = with_slow_loads(0.7);
    let mut loads = vec![tokio::spawn(slow().into_future())];
    tokio::task::yield_now().await;
    let began = tokio::time::Instant::now();
    let call = cache.get_or_load("k", async || Ok::<_, Failed>(0));
    let call = tokio::spawn(async move { (call.await, began.elapsed()) });
    for _ in 0..10 {
        tokio::time::sleep(MINUTE.mul_f64(0.4)).await;
        loads.push(tokio::spawn(slow().refresh().lock(Lock::Off).into_future()));
    }
    let (value, waited) = call.await.unwrap();
    assert_eq!(value, Ok(0), "it went to the application alone");
    assert!(MINUTE < waited && waited < 2 * MINUTE, "{waited:?}");
    assert!(join_all(loads).await.iter().all(Result::is_ok));
}
