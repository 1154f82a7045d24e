//! Values of any type, over every store.

use std::{
    collections::HashSet,
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use cache_layer::{
    Cache, CacheBuilder, CacheLayer, Clock, Loaded, Lock, SetError, Stale,
    codec::{Codec, CodecError, Postcard},
    depends_on,
    store::RedisStore,
    telemetry::{Event, NoCacheReason, Rejection},
    testing::TestStore,
};
use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use tests::{App, Backend, Body, Gate, Origin, RedisServer, RedisUsage, full, over_each_store, wait_until};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const LIMIT: Duration = Duration::from_secs(30);

over_each_store!(
    a_value_is_loaded_once_and_then_found_by_all,
    what_is_set_is_found_by_all_until_it_is_deleted,
    one_of_the_fleet_loads_for_all,
    one_of_each_process_loads_if_the_lock_is_its_own,
    everybody_loads_without_a_lock,
    a_set_during_a_load_wins,
    an_invalidation_during_a_load_wins,
    an_error_is_everybodys_who_waited,
    a_panic_is_its_callers_alone,
    a_caller_that_leaves_leaves_a_stored_value,
    nothing_is_a_value_with_a_life_of_its_own,
    a_stale_value_is_used_while_it_is_loaded_anew,
    a_value_whose_refresh_brought_nothing_is_loaded_by_the_next_call,
    a_value_whose_refresh_failed_is_loaded_by_the_next_call_after_the_back_off,
    a_stale_value_stands_in_for_an_error,
    a_load_decides_on_its_own_ttl_and_tags,
    a_load_may_say_that_the_stale_value_still_holds,
    a_value_that_no_longer_fits_is_replaced,
    a_value_that_no_longer_fits_is_deleted,
    a_refresh_replaces_what_is_there,
    many_values_go_and_come_at_once,
    each_of_many_is_judged_by_its_own_tags,
    what_cannot_be_written_is_answered_all_the_same,
    what_would_not_come_back_as_it_was_is_refused,
    what_its_own_type_does_not_read_is_answered_and_not_kept,
    a_float_comes_back_to_the_last_bit,
    codecs_read_each_others_values,
    a_value_of_another_codec_or_schema_is_a_miss_with_a_reason,
    a_value_inherits_from_what_its_load_reads,
    a_value_from_a_stale_one_is_not_kept,
    a_response_inherits_from_what_its_handler_reads,
    a_response_of_a_slow_handler_is_fresh_for_as_long_as_what_it_is_made_from,
    a_response_inherits_from_hundreds_of_values,
    a_response_inherits_nothing_unless_it_is_told_to,
    values_and_responses_are_never_mistaken,
);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Product {
    id: u64,
    name: String,
}

fn product(id: u64) -> Product {
    Product { id, name: format!("lamp {id}") }
}

#[derive(Clone, Debug, PartialEq)]
struct Broken(usize);

/// Counts its calls.
#[derive(Clone, Default)]
struct Calls(Arc<AtomicUsize>);

impl Calls {
    fn next(&self) -> usize {
        self.0.fetch_add(1, Ordering::SeqCst) + 1
    }

    fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

async fn cache(backend: &Backend) -> Cache {
    backend.cache().await.build()
}

async fn settled(cache: &Cache) {
    assert!(cache.drain(LIMIT).await, "loads were still under way after {LIMIT:?}");
}

/// The value of `key`, which is the number of the call that made it.
async fn load(cache: &Cache, key: &'static str, calls: &Calls) -> usize {
    let calls = calls.clone();
    let value = cache.get_or_load(key, async move || Ok::<_, Infallible>(calls.next())).await.unwrap();
    settled(cache).await;
    value
}

async fn a_value_is_loaded_once_and_then_found_by_all(backend: &Backend) {
    let (one, other) = (cache(backend).await, cache(backend).await);
    let calls = Calls::default();
    for cache in [&one, &one, &other] {
        assert_eq!(load(cache, "rates", &calls).await, 1);
    }
    assert_eq!((one.counts().hits, one.counts().misses, one.counts().stored), (1, 1, 1));
    assert_eq!((other.counts().hits, other.counts().misses), (1, 0));
}

/// Waits until `cache` has `value`: another process's first tier hears of a change by a push.
async fn comes_to_have(cache: &Cache, key: &str, value: Option<&str>) {
    wait_until("the change is everywhere", async || cache.get::<String>(key).await.as_deref() == value).await;
}

async fn what_is_set_is_found_by_all_until_it_is_deleted(backend: &Backend) {
    let (one, other) = (cache(backend).await, cache(backend).await);
    assert_eq!(one.get::<String>("k").await, None);
    assert!(!other.contains("k").await);
    for value in ["first", "second"] {
        one.set("k", value).tags(["t"]).await.unwrap();
        assert_eq!(one.get::<String>("k").await.as_deref(), Some(value));
        comes_to_have(&other, "k", Some(value)).await;
        assert!(other.contains("k").await);
    }
    other.delete("k").await.unwrap();
    assert!(!other.contains("k").await);
    comes_to_have(&one, "k", None).await;
    one.set("k", "third").tags(["t"]).await.unwrap();
    comes_to_have(&other, "k", Some("third")).await;
    other.invalidate_tag("t").await.unwrap();
    assert!(!other.contains("k").await);
    comes_to_have(&one, "k", None).await;
    one.set("k", "fourth").await.unwrap();
    one.set("k", "fifth").ttl(Duration::ZERO).await.unwrap();
    assert!(!one.contains("k").await);
}

/// How many loads there are when many callers of two processes ask for one cold key. No load ends before every caller
/// has asked.
async fn loads_of_a_cold_key(backend: &Backend, lock: Lock) -> (usize, HashSet<usize>) {
    const CALLERS: usize = 20;
    let caches = [cache(backend).await, cache(backend).await];
    let (gate, calls, asked) = (Gate::closed(), Calls::default(), Calls::default());
    let callers = (0..CALLERS).map(|caller| {
        let (cache, gate, calls, asked) = (caches[caller % 2].clone(), gate.clone(), calls.clone(), asked.clone());
        tokio::spawn(async move {
            let load = async move || {
                let call = calls.next();
                gate.pass().await;
                Ok::<_, Infallible>(call)
            };
            let answer = cache.get_or_load("cold", load).lock(lock).into_future();
            asked.next();
            answer.await.unwrap()
        })
    });
    let callers: Vec<_> = callers.collect();
    let (at_once, waiting) = match lock {
        Lock::Off => (CALLERS, 0),
        Lock::Process => (2, CALLERS - 2),
        // The leader of one process waits in the store for the other one's.
        _ => (1, CALLERS - 2),
    };
    wait_until("every caller has asked", async || asked.count() == CALLERS).await;
    wait_until("some load and the others wait", async || {
        let coalesced: u64 = caches.iter().map(|cache| cache.counts().coalesced).sum();
        (calls.count(), coalesced) == (at_once, waiting as u64)
    })
    .await;
    gate.open();
    let values = join_all(callers).await.into_iter().map(|value| value.unwrap()).collect();
    for cache in &caches {
        settled(cache).await;
    }
    assert!(caches[0].contains("cold").await && caches[1].contains("cold").await);
    (calls.count(), values)
}

async fn one_of_the_fleet_loads_for_all(backend: &Backend) {
    let (loads, values) = loads_of_a_cold_key(backend, Lock::Fleet).await;
    assert_eq!((loads, values), (1, HashSet::from([1])));
}

async fn one_of_each_process_loads_if_the_lock_is_its_own(backend: &Backend) {
    // A caller that waited for a load that is not stored looks again, and may do so before the other process has stored its own.
    // Without any lock there would be twenty loads.
    let (loads, _) = loads_of_a_cold_key(backend, Lock::Process).await;
    assert!((2..=10).contains(&loads), "{loads}");
}

async fn everybody_loads_without_a_lock(backend: &Backend) {
    let (loads, values) = loads_of_a_cold_key(backend, Lock::Off).await;
    assert_eq!((loads, values.len()), (20, 20));
}

/// Begins a load of `"k"`, which brings `"old"` once the gate is open; returns when it has begun.
async fn begin_old_load(cache: &Cache, gate: &Gate) -> tokio::task::JoinHandle<Result<String, Infallible>> {
    let (calls, gate) = (Calls::default(), gate.clone());
    let begun = calls.clone();
    let load = async move || {
        begun.next();
        gate.pass().await;
        Ok("old".to_owned())
    };
    let loading = tokio::spawn(cache.get_or_load("k", load).tags(["t"]).into_future());
    wait_until("the load has begun", async || calls.count() == 1).await;
    loading
}

async fn a_set_during_a_load_wins(backend: &Backend) {
    let (one, other) = (cache(backend).await, cache(backend).await);
    for setter in [&one, &other] {
        other.delete("k").await.unwrap();
        comes_to_have(&one, "k", None).await;
        let gate = Gate::closed();
        let loading = begin_old_load(&one, &gate).await;
        setter.set("k", "new").await.unwrap();
        gate.open();
        assert_eq!(loading.await.unwrap().unwrap(), "old");
        settled(&one).await;
        for cache in [&one, &other] {
            comes_to_have(cache, "k", Some("new")).await;
        }
    }
    assert_eq!(one.counts().fenced, 2);
}

async fn an_invalidation_during_a_load_wins(backend: &Backend) {
    let (one, other) = (cache(backend).await, cache(backend).await);
    for by_tag in [true, false] {
        let gate = Gate::closed();
        let loading = begin_old_load(&one, &gate).await;
        if by_tag {
            other.invalidate_tag("t").await.unwrap();
        } else {
            other.delete("k").await.unwrap();
        }
        gate.open();
        assert_eq!(loading.await.unwrap().unwrap(), "old");
        settled(&one).await;
        for cache in [&one, &other] {
            comes_to_have(cache, "k", None).await;
        }
    }
}

async fn an_error_is_everybodys_who_waited(backend: &Backend) {
    let cache = cache(backend).await;
    let (gate, calls) = (Gate::closed(), Calls::default());
    let callers: Vec<_> = (0..5)
        .map(|_| {
            let (gate, calls) = (gate.clone(), calls.clone());
            let load = async move || {
                let call = calls.next();
                gate.pass().await;
                Err::<u64, _>(Broken(call))
            };
            tokio::spawn(cache.get_or_load("broken", load).into_future())
        })
        .collect();
    wait_until("four wait for the fifth", async || cache.counts().coalesced == 4).await;
    gate.open();
    for caller in callers {
        assert_eq!(caller.await.unwrap(), Err(Broken(1)));
    }
    settled(&cache).await;
    assert_eq!(calls.count(), 1);
    // Nothing of it is kept.
    assert_eq!(load(&cache, "broken", &calls).await, 2);
}

async fn a_panic_is_its_callers_alone(backend: &Backend) {
    let cache = cache(backend).await;
    let (gate, calls) = (Gate::closed(), Calls::default());
    let callers: Vec<_> = (0..3)
        .map(|_| {
            let (gate, calls) = (gate.clone(), calls.clone());
            let load = async move || {
                let call = calls.next();
                gate.pass().await;
                assert_ne!(call, 1, "the first one panics");
                Ok::<_, Infallible>(call)
            };
            tokio::spawn(cache.get_or_load("k", load).into_future())
        })
        .collect();
    wait_until("two wait for the third", async || cache.counts().coalesced == 2).await;
    gate.open();
    let (panics, values): (Vec<_>, Vec<_>) = join_all(callers).await.into_iter().partition(Result::is_err);
    assert_eq!(panics.len(), 1);
    assert!(panics.into_iter().all(|panic| panic.unwrap_err().is_panic()));
    assert!(values.into_iter().all(|value| value.unwrap() == Ok(2)));
}

async fn a_caller_that_leaves_leaves_a_stored_value(backend: &Backend) {
    let cache = cache(backend).await;
    let gate = Gate::closed();
    let loading = begin_old_load(&cache, &gate).await;
    loading.abort();
    assert!(loading.await.unwrap_err().is_cancelled());
    gate.open();
    settled(&cache).await;
    assert_eq!(cache.get::<String>("k").await.as_deref(), Some("old"));
}

async fn nothing_is_a_value_with_a_life_of_its_own(backend: &Backend) {
    let clock = Clock::manual();
    let cache = backend.cache().await.clock(clock.clone()).build();
    let calls = Calls::default();
    let ask = async |found: bool| {
        let calls = calls.clone();
        let load = async move || {
            calls.next();
            Ok::<_, Infallible>(found.then(|| product(1)))
        };
        let value = cache.get_or_load(("product", 1), load).ttl(MINUTE).negative_ttl(5 * SECOND).await.unwrap();
        settled(&cache).await;
        value
    };
    assert_eq!((ask(false).await, ask(false).await, calls.count()), (None, None, 1));
    assert_eq!(cache.get::<Option<Product>>(("product", 1)).await, Some(None));
    clock.advance(5 * SECOND);
    assert_eq!((ask(true).await, calls.count()), (Some(product(1)), 2));
    clock.advance(59 * SECOND);
    assert_eq!((ask(false).await, calls.count()), (Some(product(1)), 2));
}

async fn a_stale_value_is_used_while_it_is_loaded_anew(backend: &Backend) {
    let clock = Clock::manual();
    let cache = backend.cache().await.clock(clock.clone()).build();
    let calls = Calls::default();
    let ask = async || {
        let calls = calls.clone();
        let load = async move || Ok::<_, Infallible>(calls.next());
        let value = cache.get_or_load("k", load).ttl(MINUTE).stale_while_revalidate(10 * SECOND).await.unwrap();
        settled(&cache).await;
        value
    };
    assert_eq!(ask().await, 1);
    clock.advance(65 * SECOND);
    assert_eq!(cache.get::<usize>("k").await, None);
    assert_eq!((ask().await, calls.count()), (1, 2));
    assert_eq!((ask().await, calls.count()), (2, 2));
    clock.advance(70 * SECOND);
    assert_eq!((ask().await, calls.count()), (3, 3));
    let counts = cache.counts();
    assert_eq!((counts.hits, counts.misses), (2, 3));
}

/// As with responses: what a refresh in the background did not bring, the next call loads itself.
async fn a_value_whose_refresh_brought_nothing_is_loaded_by_the_next_call(backend: &Backend) {
    let clock = Clock::manual();
    let cache = backend.cache().await.clock(clock.clone()).build();
    let ask = async |loaded: Result<Loaded<usize>, Broken>| {
        let load = async move |_: Option<Stale<usize>>| loaded;
        let value = cache.get_or_load_with("k", load).ttl(MINUTE).stale_while_revalidate(10 * MINUTE).await;
        settled(&cache).await;
        value
    };
    let not_kept = |value| Ok(Loaded::new(value).ttl(Duration::ZERO));
    assert_eq!(ask(Ok(Loaded::new(1))).await, Ok(1));
    clock.advance(65 * SECOND);
    assert_eq!(ask(not_kept(2)).await, Ok(1), "it is refreshed in the background");
    assert_eq!(ask(not_kept(3)).await, Ok(3), "and then in the foreground");
    assert_eq!(ask(Ok(Loaded::new(4))).await, Ok(4));
    assert_eq!(ask(Ok(Loaded::new(5))).await, Ok(4), "it is fresh");
    clock.advance(65 * SECOND);
    assert_eq!(ask(not_kept(6)).await, Ok(4), "and refreshed in the background as ever");
    assert_eq!(ask(Err(Broken(7))).await, Err(Broken(7)), "what is not kept has superseded it");
}

async fn a_value_whose_refresh_failed_is_loaded_by_the_next_call_after_the_back_off(backend: &Backend) {
    let clock = Clock::manual();
    let cache = backend.cache().await.clock(clock.clone()).build();
    let calls = Calls::default();
    let ask = async |outcome: Result<usize, Broken>, back_off: Duration| {
        let calls = calls.clone();
        let load = async move || {
            calls.next();
            outcome
        };
        let value = cache.get_or_load("k", load).ttl(MINUTE).stale_while_revalidate(10 * MINUTE);
        let value = value.failure_backoff(back_off, back_off).await;
        settled(&cache).await;
        value
    };
    assert_eq!(ask(Ok(1), Duration::ZERO).await, Ok(1));
    clock.advance(65 * SECOND);
    assert_eq!(ask(Err(Broken(2)), Duration::ZERO).await, Ok(1), "it is refreshed in the background");
    assert_eq!((calls.count(), cache.counts().failed_refreshes), (2, 1));
    assert_eq!(ask(Ok(3), Duration::ZERO).await, Ok(3), "and then in the foreground");
    clock.advance(65 * SECOND);
    assert_eq!(ask(Err(Broken(4)), MINUTE).await, Ok(3));
    assert_eq!((calls.count(), cache.counts().failed_refreshes), (4, 2));
    // What this process knows of a back-off is asked for again each second.
    wait_until("what is stale is found without a question", async || {
        let hits = cache.counts().hits;
        assert_eq!(ask(Ok(5), MINUTE).await, Ok(3));
        cache.counts().hits > hits
    })
    .await;
    assert_eq!(calls.count(), 4, "it is left alone");
}

async fn a_stale_value_stands_in_for_an_error(backend: &Backend) {
    let clock = Clock::manual();
    let cache = backend.cache().await.clock(clock.clone()).build();
    let ask = async |outcome: Result<usize, Broken>| {
        let value = cache.get_or_load("k", async move || outcome).ttl(MINUTE).stale_if_error(MINUTE).await;
        settled(&cache).await;
        value
    };
    assert_eq!(ask(Ok(1)).await, Ok(1));
    clock.advance(90 * SECOND);
    assert_eq!(ask(Err(Broken(2))).await, Ok(1));
    clock.advance(31 * SECOND);
    assert_eq!(ask(Err(Broken(3))).await, Err(Broken(3)));
}

async fn a_load_decides_on_its_own_ttl_and_tags(backend: &Backend) {
    let clock = Clock::manual();
    let cache = backend.cache().await.clock(clock.clone()).build();
    let ask = async |loaded: Loaded<usize>| {
        let load = async move |_: Option<Stale<usize>>| Ok::<_, Infallible>(loaded);
        let value = cache.get_or_load_with("k", load).ttl(MINUTE).tags(["call"]).await.unwrap();
        settled(&cache).await;
        value
    };
    assert_eq!(ask(Loaded::new(1).ttl(MINUTE / 2)).await, 1);
    assert_eq!(ask(Loaded::new(2)).await, 1);
    clock.advance(MINUTE / 2);
    assert_eq!(ask(Loaded::new(3).tags(["load"])).await, 3);
    cache.invalidate_tag("load").await.unwrap();
    assert_eq!(ask(Loaded::new(4)).await, 4);
    cache.invalidate_tag("call").await.unwrap();
    assert_eq!(ask(Loaded::new(5).ttl(Duration::ZERO)).await, 5);
    assert!(!cache.contains("k").await);
    // Whatever would keep it once it is stale.
    let windows = cache.get_or_load("w", async || Ok::<_, Infallible>(None::<usize>)).negative_ttl(Duration::ZERO);
    let windows = windows.stale_while_revalidate(MINUTE).stale_if_error(MINUTE).keep(MINUTE);
    assert_eq!(windows.await, Ok(None));
    settled(&cache).await;
    assert!(!cache.contains("w").await);
}

async fn a_load_may_say_that_the_stale_value_still_holds(backend: &Backend) {
    let clock = Clock::manual();
    let cache = backend.cache().await.clock(clock.clone()).build();
    let ask = async || {
        let load = async |stale: Option<Stale<usize>>| {
            Ok::<_, Infallible>(match stale {
                Some(stale) => stale.not_modified(),
                None => Loaded::new(1).tags(["first"]),
            })
        };
        let value = cache.get_or_load_with("k", load).ttl(MINUTE).stale_if_error(MINUTE).await.unwrap();
        settled(&cache).await;
        value
    };
    assert_eq!(ask().await, 1);
    clock.advance(90 * SECOND);
    assert!(!cache.contains("k").await);
    assert_eq!(ask().await, 1);
    assert!(cache.contains("k").await);
    // Its tags count, too.
    cache.invalidate_tag("first").await.unwrap();
    assert!(!cache.contains("k").await);
}

async fn a_value_that_no_longer_fits_is_replaced(backend: &Backend) {
    let cache = cache(backend).await;
    cache.set("k", "a text").await.unwrap();
    assert_eq!(load(&cache, "k", &Calls::default()).await, 1);
    let rejected = cache.counts().rejected;
    assert!(rejected.iter().any(|(why, count)| *why == Rejection::Type && *count >= 1), "{rejected:?}");
    assert_eq!(cache.get::<usize>("k").await, Some(1));
}

async fn a_value_that_no_longer_fits_is_deleted(backend: &Backend) {
    let cache = cache(backend).await;
    cache.set("k", "a text").await.unwrap();
    assert_eq!(cache.get::<usize>("k").await, None);
    settled(&cache).await;
    assert_eq!(cache.counts().rejected, [(Rejection::Type, 1)]);
    assert!(!cache.contains("k").await);
}

async fn a_refresh_replaces_what_is_there(backend: &Backend) {
    let (one, other) = (cache(backend).await, cache(backend).await);
    // A load that began before may bring what the refresh was meant to replace.
    let gate = Gate::closed();
    let loading = begin_old_load(&one, &gate).await;
    let refresh =
        tokio::spawn(other.get_or_load("k", async || Ok::<_, Infallible>("new".to_owned())).refresh().into_future());
    gate.open();
    assert_eq!(loading.await.unwrap().unwrap(), "old");
    assert_eq!(refresh.await.unwrap().unwrap(), "new");
    settled(&one).await;
    settled(&other).await;
    comes_to_have(&one, "k", Some("new")).await;
    // A refresh that fails leaves what is there.
    let failed = one.get_or_load("k", async || Err::<String, _>(Broken(1))).refresh().await;
    assert_eq!(failed, Err(Broken(1)));
    settled(&one).await;
    assert_eq!(one.get::<String>("k").await.as_deref(), Some("new"));
}

async fn many_values_go_and_come_at_once(backend: &Backend) {
    let (one, other) = (cache(backend).await, cache(backend).await);
    let products: Vec<Product> = (0..100).map(product).collect();
    // So that the tags are known.
    one.set(("product", 0), &product(0)).tags(["products"]).await.unwrap();
    assert!(one.contains(("product", 0)).await && other.contains(("product", 0)).await);
    let reads = || match backend {
        Backend::Memory(_) => 0,
        Backend::Redis(server) | Backend::Tiered(server) => RedisUsage::of(server).calls("mget"),
    };
    // Heartbeats read as well, once a second.
    let mut of_sets = Vec::new();
    for _ in 0..5 {
        let before = reads();
        let entries = products.iter().map(|product| (("product", product.id), product));
        one.set_many(entries).tags(["products"]).await.unwrap();
        of_sets.push(reads() - before);
    }
    assert!(of_sets.contains(&0), "a set reads nothing: {of_sets:?}");
    let before = reads();
    let found: Vec<Option<Product>> = other.get_many((0..101).map(|id| ("product", id))).await;
    assert_eq!(found.len(), 101);
    assert!(found.iter().zip(&products).all(|(found, product)| found.as_ref() == Some(product)));
    assert_eq!(found[100], None);
    // The entries, the tag, and heartbeats.
    assert!(reads() - before <= 8, "{} reads", reads() - before);
    assert_eq!((other.counts().hits, other.counts().misses), (100, 1));
    other.invalidate_tag("products").await.unwrap();
    assert_eq!(other.get_many::<Product>((0..100).map(|id| ("product", id))).await, vec![None; 100]);
}

async fn each_of_many_is_judged_by_its_own_tags(backend: &Backend) {
    let (one, other) = (cache(backend).await, cache(backend).await);
    for id in 0..6 {
        one.set(("product", id), &product(id)).tags([format!("product:{id}"), "products".to_owned()]).await.unwrap();
    }
    for by in [1, 4] {
        one.invalidate_tag(&format!("product:{by}")).await.unwrap();
        let expected: Vec<_> = (0..6).map(|id| (id != 1 && !(by == 4 && id == 4)).then(|| product(id))).collect();
        let found = async |cache: &Cache| cache.get_many::<Product>((0..6).map(|id| ("product", id))).await;
        assert_eq!(found(&one).await, expected);
        wait_until("the change is everywhere", async || found(&other).await == expected).await;
    }
}

async fn what_cannot_be_written_is_answered_all_the_same(backend: &Backend) {
    /// JSON has texts for keys only.
    type Odd = std::collections::BTreeMap<Vec<u8>, u8>;
    let cache = cache(backend).await;
    let odd = Odd::from([(vec![1], 2)]);
    let load = {
        let odd = odd.clone();
        async move || Ok::<_, Infallible>(odd)
    };
    assert_eq!(cache.get_or_load("odd", load).await, Ok(odd.clone()));
    settled(&cache).await;
    assert_eq!((cache.counts().not_stored, cache.counts().stored), (1, 0));
    assert!(matches!(cache.set("odd", &odd).await, Err(SetError::Unserializable(_))));
    let tags = (0..1_025).map(|tag| tag.to_string());
    assert_eq!(cache.set("k", "value").tags(tags).await, Err(SetError::TooManyTags));
}

/// A value that the cache refuses changes nothing under `"k"`.
async fn is_refused<V>(backend: &Backend, value: V, because: &str)
where
    V: Clone + std::fmt::Debug + Serialize + serde::de::DeserializeOwned + Send + Sync + 'static,
{
    let cache = cache(backend).await;
    cache.set("k", "before").await.unwrap();
    match cache.set("k", &value).await {
        Err(SetError::Unserializable(reason)) => assert!(reason.contains(because), "{reason}"),
        other => panic!("{value:?}: {other:?}"),
    }
    assert!(matches!(cache.set_many([("k", &value)]).await, Err(SetError::Unserializable(_))));
    assert_eq!(cache.get::<String>("k").await.as_deref(), Some("before"));
    answers_and_keeps_nothing(backend.cache().await, value.clone()).await;

    // A codec that distinguishes them stores them.
    let exact = backend.cache().await.codec(Postcard).build();
    exact.set("exact", &value).await.unwrap();
    let found = exact.get::<V>("exact").await;
    assert_eq!(format!("{found:?}"), format!("{:?}", Some(value)));
}

/// Loads `value` twice; nothing of it is stored, and each time it is said why.
async fn answers_and_keeps_nothing<V>(cache: CacheBuilder, value: V)
where
    V: Clone + std::fmt::Debug + Serialize + serde::de::DeserializeOwned + Send + Sync + 'static,
{
    let reasons = Arc::<Mutex<Vec<NoCacheReason>>>::default();
    let noted = reasons.clone();
    let observer = move |event: Event| {
        if let Event::NotStored(reason) = event {
            noted.lock().unwrap().push(reason);
        }
    };
    let cache = cache.observer(observer).build();
    for loads in 1..=2 {
        let loaded = value.clone();
        let answer = cache.get_or_load("loaded", async move || Ok::<_, Infallible>(loaded)).await.unwrap();
        settled(&cache).await;
        assert_eq!(format!("{answer:?}"), format!("{value:?}"));
        assert_eq!((cache.counts().not_stored, cache.counts().stored), (loads, 0), "{value:?}");
    }
    assert_eq!(*reasons.lock().unwrap(), [NoCacheReason::Unserializable; 2]);
    assert_eq!(cache.counts().rejected, []);
}

async fn what_would_not_come_back_as_it_was_is_refused(backend: &Backend) {
    #[derive(Clone, Debug, Serialize, Deserialize)]
    struct Deep(Vec<Self>);
    let deep = (0..127).fold(Deep(vec![]), |inner, _| Deep(vec![inner]));
    for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        is_refused(backend, value, "no number").await;
    }
    is_refused(backend, vec![Some(1.5_f32), Some(f32::NAN)], "no number").await;
    is_refused(backend, (1, Some(None::<u8>)), "`null`").await;
    is_refused(backend, Some(()), "`null`").await;
    is_refused(backend, deep, "127 levels").await;
}

async fn what_its_own_type_does_not_read_is_answered_and_not_kept(backend: &Backend) {
    /// JSON's keys are texts, and what is flattened doesn't take them for numbers again.
    #[derive(Clone, Debug, Serialize, Deserialize)]
    struct Flat {
        #[serde(flatten)]
        rest: Stock,
    }
    #[derive(Clone, Debug, Serialize, Deserialize)]
    struct Stock {
        by_id: std::collections::HashMap<u32, u32>,
    }
    /// Looks at what is there, and Postcard doesn't say.
    #[derive(Clone, Debug, Serialize, Deserialize)]
    #[serde(untagged)]
    enum Price {
        Cents(u64),
        Text(String),
    }
    let flat = Flat { rest: Stock { by_id: [(1, 2)].into() } };
    answers_and_keeps_nothing(backend.cache().await, flat).await;
    let compact = || async { backend.cache().await.codec(Postcard) };
    answers_and_keeps_nothing(compact().await, Price::Cents(1)).await;
    answers_and_keeps_nothing(compact().await, Price::Text("1.00".to_owned())).await;
    answers_and_keeps_nothing(compact().await, serde_json::json!({"price": 1})).await;
}

async fn a_float_comes_back_to_the_last_bit(backend: &Backend) {
    let cache = cache(backend).await;
    // Cents, at a rate: every seventh of them is rounded otherwise where the reading is not exact.
    let prices: Vec<f64> = (0..2_000).map(|cents| f64::from(cents * 4_999) / 100.0 * 1.19).collect();
    cache.set("prices", &prices).await.unwrap();
    assert_eq!(cache.get::<Vec<f64>>("prices").await.unwrap(), prices);
    let singles: Vec<f32> = prices.iter().map(|price| *price as f32 * 1.1).chain([-0.0, f32::MIN_POSITIVE]).collect();
    for _ in 0..2 {
        let loaded = singles.clone();
        let found = cache.get_or_load("singles", async move || Ok::<_, Infallible>(loaded)).await.unwrap();
        settled(&cache).await;
        assert!(found.iter().zip(&singles).all(|(found, single)| found.to_bits() == single.to_bits()));
    }
    assert_eq!(cache.counts().hits, 2);
}

async fn codecs_read_each_others_values(backend: &Backend) {
    let json = backend.cache().await.build();
    let compact = backend.cache().await.codec(Postcard).build();
    json.set(("product", 1), &product(1)).await.unwrap();
    compact.set(("product", 2), &product(2)).await.unwrap();
    for cache in [&json, &compact] {
        let found: Vec<Option<Product>> = cache.get_many([("product", 1), ("product", 2)]).await;
        assert_eq!(found, [Some(product(1)), Some(product(2))]);
    }
    compact.set("k", "a text").await.unwrap();
    assert_eq!(compact.get::<Vec<Product>>("k").await, None);
    assert_eq!(compact.counts().rejected, [(Rejection::Type, 1)]);
}

/// JSON, upside down.
#[derive(Debug)]
struct Reversed(&'static str);

impl Codec for Reversed {
    fn name(&self) -> &str {
        self.0
    }

    fn encode<V: Serialize + ?Sized>(&self, value: &V) -> Result<Vec<u8>, CodecError> {
        let mut bytes = serde_json::to_vec(value)?;
        bytes.reverse();
        Ok(bytes)
    }

    fn decode<V: serde::de::DeserializeOwned>(&self, bytes: &[u8]) -> Result<V, CodecError> {
        let mut bytes = bytes.to_vec();
        bytes.reverse();
        Ok(serde_json::from_slice(&bytes)?)
    }
}

async fn a_value_of_another_codec_or_schema_is_a_miss_with_a_reason(backend: &Backend) {
    let own = backend.cache().await.codec(Reversed("one")).build();
    let same = backend.cache().await.codec(Reversed("one")).build();
    let other = backend.cache().await.codec(Reversed("other")).build();
    let plain = backend.cache().await.build();
    own.set(("product", 1), &product(1)).await.unwrap();
    own.set("nested", &vec![Some((1.5, "a".to_owned())), None]).await.unwrap();
    assert_eq!(same.get::<Product>(("product", 1)).await, Some(product(1)));
    assert_eq!(same.get::<Vec<Option<(f64, String)>>>("nested").await, Some(vec![Some((1.5, "a".to_owned())), None]));
    assert_eq!(same.get::<Vec<u8>>(("product", 1)).await, None, "it is of another type");
    settled(&same).await;
    own.set(("product", 1), &product(1)).await.unwrap();
    for cache in [&other, &plain] {
        wait_until("it is there", async || cache.contains(("product", 1)).await).await;
        assert_eq!(cache.get::<Product>(("product", 1)).await, None);
        settled(cache).await;
        assert_eq!(cache.counts().rejected, [(Rejection::Codec, 1)]);
    }
    assert!(own.contains(("product", 1)).await, "it is not theirs to delete");
    // Values of the codecs that come with the library are read by all caches.
    plain.set(("product", 2), &product(2)).await.unwrap();
    assert_eq!(own.get::<Product>(("product", 2)).await, Some(product(2)));
    // The value is loaded by the first call, and found by the second.
    let calls = Calls::default();
    assert_eq!((load(&own, "k", &calls).await, load(&same, "k", &calls).await), (1, 1));

    let newer = backend.cache().await.schema(2).build();
    assert_eq!(newer.get::<Product>(("product", 2)).await, None);
    assert_eq!(newer.counts().rejected, [(Rejection::Schema, 1)]);
    assert!(plain.contains(("product", 2)).await);
    newer.set(("product", 2), &product(3)).await.unwrap();
    let newest = backend.cache().await.schema(2).codec(Reversed("one")).build();
    assert_eq!(newest.get::<Product>(("product", 2)).await, Some(product(3)));
    newest.set(("product", 2), &product(4)).await.unwrap();
    assert_eq!(newest.get::<Product>(("product", 2)).await, Some(product(4)));
}

/// Loads a product under its own tag, for a minute.
async fn cached_product(cache: &Cache, id: u64) -> Product {
    let load = async move || Ok::<_, Infallible>(product(id));
    cache.get_or_load(("product", id), load).ttl(MINUTE).tags([format!("product:{id}")]).await.unwrap()
}

async fn a_value_inherits_from_what_its_load_reads(backend: &Backend) {
    let clock = Clock::manual();
    let cache = backend.cache().await.clock(clock.clone()).build();
    let ask = async |cache: Cache| {
        let inner = cache.clone();
        let load = async move || {
            // A tag that is named, a value that is loaded, and a value that is found.
            depends_on(["list"]);
            Ok::<_, Infallible>([cached_product(&inner, 1).await, cached_product(&inner, 2).await])
        };
        cache.get_or_load("page", load).ttl(3600 * SECOND).await.unwrap();
        settled(&cache).await;
    };
    cached_product(&cache, 2).await;
    settled(&cache).await;
    clock.advance(30 * SECOND);
    for tag in ["product:1", "product:2", "list"] {
        ask(cache.clone()).await;
        assert!(cache.contains("page").await);
        cache.invalidate_tag(tag).await.unwrap();
        assert!(!cache.contains("page").await, "{tag}");
    }
    cached_product(&cache, 1).await;
    settled(&cache).await;
    clock.advance(30 * SECOND);
    ask(cache.clone()).await;
    clock.advance(29 * SECOND);
    assert!(cache.contains("page").await);
    clock.advance(SECOND);
    assert!(!cache.contains("page").await, "the page is older than a product on it may be");
}

async fn a_value_from_a_stale_one_is_not_kept(backend: &Backend) {
    let clock = Clock::manual();
    let cache = backend.cache().await.clock(clock.clone()).build();
    let part = async |cache: &Cache| {
        let load = async || Ok::<_, Infallible>(1);
        cache.get_or_load("part", load).ttl(SECOND).stale_while_revalidate(MINUTE).await.unwrap()
    };
    part(&cache).await;
    settled(&cache).await;
    clock.advance(2 * SECOND);
    let inner = cache.clone();
    let whole = cache.get_or_load("whole", async move || Ok::<_, Infallible>(part(&inner).await)).await;
    assert_eq!(whole, Ok(1));
    settled(&cache).await;
    assert!(cache.contains("part").await && !cache.contains("whole").await);
}

/// A page of two products, which says nothing about its freshness.
fn page(cache: &Cache) -> Origin {
    let cache = cache.clone();
    Origin::new(move |_, _| {
        let cache = cache.clone();
        async move {
            let products = [cached_product(&cache, 1).await, cached_product(&cache, 2).await];
            Ok(http::Response::new(full(format!("{products:?}"))))
        }
    })
}

async fn a_response_inherits_from_what_its_handler_reads(backend: &Backend) {
    let clock = Clock::manual();
    let cache = backend.cache().await.clock(clock.clone()).build();
    let origin = page(&cache);
    // An explanation can not know what a handler will read.
    let app = App::new(cache.clone(), &origin, |layer| layer.inherit(true)).unexplained();
    for (calls, tag) in [(1, "product:1"), (2, "product:2")] {
        app.get("/page", &[]).await;
        assert!(app.get("/page", &[]).await.cache_status().hit);
        assert_eq!(origin.calls(), calls);
        cache.invalidate_tag(tag).await.unwrap();
    }
    app.get("/page", &[]).await;
    clock.advance(59 * SECOND);
    assert!(app.get("/page", &[]).await.cache_status().hit);
    clock.advance(SECOND);
    let late = app.get("/page", &[]).await.cache_status();
    assert!(!late.hit, "{late:?}");

    // A rule is no reason to keep it longer than what it is made from.
    let ruled = App::new(cache.clone(), &origin, |layer| layer.inherit(true).ttl(3600 * SECOND).namespace("ruled"));
    let ruled = ruled.unexplained();
    clock.advance(30 * SECOND);
    ruled.get("/page", &[]).await;
    assert_eq!(ruled.get("/page", &[]).await.cache_status().ttl, Some(30));
}

async fn a_response_of_a_slow_handler_is_fresh_for_as_long_as_what_it_is_made_from(backend: &Backend) {
    let clock = Clock::manual();
    let cache = backend.cache().await.clock(clock.clone()).build();
    let origin = Origin::new({
        let (cache, clock) = (cache.clone(), clock.clone());
        move |_, _| {
            let (cache, clock) = (cache.clone(), clock.clone());
            async move {
                let product = cached_product(&cache, 1).await;
                clock.advance(40 * SECOND);
                Ok(http::Response::new(full(format!("{product:?}"))))
            }
        }
    });
    let app = App::new(cache.clone(), &origin, |layer| layer.inherit(true)).unexplained();
    app.get("/page", &[]).await;
    assert_eq!(app.get("/page", &[]).await.cache_status().ttl, Some(20));
    clock.advance(20 * SECOND);
    assert!(!app.get("/page", &[]).await.cache_status().hit);
}

async fn a_response_inherits_from_hundreds_of_values(backend: &Backend) {
    let cache = cache(backend).await;
    let origin = Origin::new({
        let cache = cache.clone();
        move |_, request: http::Request<Body>| {
            let cache = cache.clone();
            async move {
                let count: u64 = request.uri().query().unwrap().parse().unwrap();
                let ids: Vec<u64> = (0..count).collect();
                for ids in ids.chunks(64) {
                    let loads = ids.iter().map(|&id| {
                        let load = async move || Ok::<_, Infallible>(id);
                        cache.get_or_load(("item", id), load).tags([format!("item:{id}")]).ttl(MINUTE).into_future()
                    });
                    let loaded = join_all(loads).await.into_iter().map(Result::unwrap);
                    assert!(loaded.eq(ids.iter().copied()));
                }
                Ok(http::Response::new(full(count.to_string())))
            }
        }
    });
    let layer = |layer: CacheLayer| layer.inherit(true).key_headers([http::HeaderName::from_static("x-tenant")]);
    let app = App::new(cache.clone(), &origin, layer).unexplained();
    for (count, detail) in [(300, None), (1_024, None), (1_025, Some("too-many-tags"))] {
        let uri = format!("/items?{count}");
        assert_eq!(app.get(&uri, &[]).await.cache_status().detail.as_deref(), detail, "{count}");
        if detail.is_none() {
            assert!(app.get(&uri, &[]).await.cache_status().hit, "{count}");
            cache.invalidate_tag(&format!("item:{}", count - 1)).await.unwrap();
            assert!(!app.get(&uri, &[]).await.cache_status().hit, "{count}");
        }
    }
}

async fn a_response_inherits_nothing_unless_it_is_told_to(backend: &Backend) {
    let cache = cache(backend).await;
    let origin = page(&cache);
    let app = App::new(cache.clone(), &origin, |layer| layer);
    assert_eq!(app.get("/page", &[]).await.cache_status().detail, Some(NoCacheReason::NoFreshness.to_string()));
    let ruled = App::new(cache.clone(), &origin, |layer| layer.ttl(MINUTE).namespace("ruled"));
    ruled.get("/page", &[]).await;
    cache.invalidate_tag("product:1").await.unwrap();
    assert!(ruled.get("/page", &[]).await.cache_status().hit);
}

async fn values_and_responses_are_never_mistaken(backend: &Backend) {
    let cache = cache(backend).await;
    let origin = Origin::echo(&[]);
    let mut layer = None;
    let app = App::new(cache.clone(), &origin, |set| layer.insert(set.ttl(MINUTE)).clone());
    let key = layer.unwrap().key(&http::Uri::from_static("http://shop.example/page")).unwrap();
    // A value where a response should be.
    cache.set(&key, "a value").await.unwrap();
    assert!(!app.get("/page", &[]).await.cache_status().hit);
    assert!(app.get("/page", &[]).await.cache_status().hit);
    // And a response where a value should be.
    assert_eq!(cache.get::<String>(&key).await, None);
    assert_eq!(load(&cache, "/page", &Calls::default()).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn people_can_read_a_value_in_redis() {
    let backend = Backend::redis();
    let cache = cache(&backend).await;
    cache.set(("product", 1), &product(1)).await.unwrap();
    let name = backend.server().keys().into_iter().find(|name| name.ends_with(":product:1")).unwrap();
    let stored: Vec<u8> = backend.server().command(&["GET", &name]);
    assert!(stored.ends_with(br#"{"id":1,"name":"lamp 1"}"#), "{}", stored.escape_ascii());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_store_loads_go_ahead_and_what_was_set_is_void() {
    let mut server = RedisServer::start();
    let store = RedisStore::builder(server.url()).operation_timeout(Duration::from_secs(10)).build().unwrap();
    assert!(store.wait_connected(LIMIT).await);
    let cache = Cache::new(store.clone());
    cache.set("k", "old").await.unwrap();
    // The data set outlives its server.
    let _: () = server.command(&["SAVE"]);
    server.kill();
    assert!(matches!(cache.set("k", "new").await, Err(SetError::Undelivered(_))));
    let calls = Calls::default();
    assert_eq!(load(&cache, "rates", &calls).await, 1);
    assert_eq!(load(&cache, "rates", &calls).await, 2);
    assert_eq!(cache.get_many::<String>(["k", "rates"]).await, [None, None]);
    server.restart();
    assert!(store.wait_connected(LIMIT).await);
    assert_eq!(cache.get::<String>("k").await, None, "an older value came back");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_values_without_a_life_are_dropped_whatever_becomes_of_the_others() {
    let store = TestStore::new();
    let cache = Cache::new(store.clone());
    let keys = ["a", "b", "c"];
    let dropped = || cache.set_many(keys.map(|key| (key, &2))).ttl(Duration::ZERO).into_future();
    for is_left in [false, true] {
        cache.set_many(keys.map(|key| (key, &1))).await.unwrap();
        assert_eq!(cache.get_many::<u32>(keys).await, [Some(1); 3]);
        match is_left {
            false => {
                store.disconnect();
                assert!(matches!(dropped().await, Err(SetError::Undelivered(_))));
                store.reconnect();
            }
            true => {
                store.delay(SECOND..=SECOND);
                assert!(tokio::time::timeout(Duration::ZERO, dropped()).await.is_err(), "its caller leaves");
                store.delay(Duration::ZERO..=Duration::ZERO);
            }
        }
        wait_until("they are gone", async || cache.get_many::<u32>(keys).await == [None; 3]).await;
    }
}
