//! Many values at once: one look-up, one load for what is missing, and each key on its own.

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use cache_layer::{
    Cache, Clock, Loaded, Lock, Stale,
    telemetry::{Event, Release, WaitScope},
};
use futures_util::future::join_all;
use tests::{Backend, Gate, RedisUsage, heard, over_each_store, wait_until};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const LIMIT: Duration = Duration::from_secs(30);

over_each_store!(
    values_come_in_the_order_of_the_keys_however_often_each_is_asked_for,
    what_is_not_stored_is_loaded_once_however_often_it_is_asked_for,
    only_what_is_missing_is_loaded_and_only_once,
    a_key_without_a_value_is_known_to_have_none,
    each_key_is_loaded_once_by_all_processes_together,
    who_waits_in_vain_loads_all_of_that_at_once,
    what_has_come_meanwhile_is_not_loaded_again,
    what_is_found_is_there_though_the_load_fails,
    a_part_that_fails_leaves_the_others_stored,
    what_is_stale_stands_in_for_the_keys_that_have_it,
    an_invalidation_during_the_load_is_of_its_own_key,
    what_another_process_loads_in_vain_is_loaded_after_all,
    a_caller_that_leaves_leaves_all_values_stored,
    a_panic_is_its_callers_alone,
    what_is_stale_is_refreshed_together,
    each_value_has_its_tags_and_those_of_all,
    they_are_the_values_that_are_asked_for_one_by_one,
    a_load_decides_on_each_value_and_may_say_that_it_still_holds,
    a_soft_timeout_waits_only_for_what_has_nothing_stale,
    a_hard_timeout_is_of_what_is_not_there,
    all_are_loaded_anew_by_a_refresh,
    a_refresh_is_not_content_with_a_load_that_began_before,
    a_refresh_overtakes_a_load_that_it_no_longer_waits_for,
    a_slow_load_that_was_left_is_not_abandoned,
    the_values_of_one_load_need_one_place,
    no_other_process_is_waited_for_if_the_lock_is_its_own,
    without_a_lock_all_keys_are_loaded_at_once,
    what_failed_to_be_refreshed_is_loaded_by_the_next_call_after_the_back_off,
    early_refreshes_are_counted_by_keys_and_only_if_they_have_a_place,
);

type Id = (&'static str, u64);

fn ids(ids: impl IntoIterator<Item = u64>) -> Vec<Id> {
    ids.into_iter().map(|id| ("n", id)).collect()
}

#[derive(Clone, Debug, PartialEq)]
struct Broken;

/// The keys that a loader was asked for, call by call.
#[derive(Clone, Default)]
struct Asked(Arc<Mutex<Vec<Vec<u64>>>>);

impl Asked {
    fn note(&self, missing: &[Id]) -> usize {
        let mut calls = self.0.lock().unwrap();
        calls.push(missing.iter().map(|(_, id)| *id).collect());
        calls.len()
    }

    fn calls(&self) -> Vec<Vec<u64>> {
        self.0.lock().unwrap().clone()
    }

    fn count(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

/// A text for each key; there are none from 1,000 on.
async fn texts(asked: Asked, gate: Gate, missing: Vec<Id>) -> Result<Vec<(Id, String)>, Broken> {
    let call = asked.note(&missing);
    gate.pass().await;
    // In another order than they were asked for.
    Ok(missing.into_iter().rev().filter(|(_, id)| *id < 1_000).map(|id| (id, format!("{} of {call}", id.1))).collect())
}

fn text(id: u64, call: usize) -> Option<String> {
    Some(format!("{id} of {call}"))
}

fn open() -> Gate {
    let gate = Gate::closed();
    gate.open();
    gate
}

async fn settled(cache: &Cache) {
    assert!(cache.drain(LIMIT).await, "loads were still under way after {LIMIT:?}");
}

/// The texts of these keys, each fresh for a minute.
fn ask(
    cache: &Cache,
    asked: &Asked,
    gate: &Gate,
    keys: impl IntoIterator<Item = u64>,
) -> cache_layer::GetOrLoadMany<Id, String, Broken> {
    let (asked, gate) = (asked.clone(), gate.clone());
    cache.get_or_load_many(ids(keys), move |missing| texts(asked, gate, missing)).ttl(MINUTE)
}

async fn values_come_in_the_order_of_the_keys_however_often_each_is_asked_for(backend: &Backend) {
    let (cache, asked) = (backend.cache().await.build(), Asked::default());
    let values = ask(&cache, &asked, &open(), [3, 1, 3, 2, 1]).await.unwrap();
    assert_eq!(values, [3, 1, 3, 2, 1].map(|id| text(id, 1)));
    assert_eq!(asked.calls(), [[3, 1, 2]]);
    assert_eq!(ask(&cache, &asked, &open(), []).await, Ok(vec![]));
    assert_eq!(asked.count(), 1, "nothing is loaded for nothing");
}

async fn what_is_not_stored_is_loaded_once_however_often_it_is_asked_for(backend: &Backend) {
    let (cache, asked) = (backend.cache().await.build(), Asked::default());
    let values = ask(&cache, &asked, &open(), [3, 1, 3, 1]).ttl(Duration::ZERO).await.unwrap();
    assert_eq!(values, [3, 1, 3, 1].map(|id| text(id, 1)));
    assert_eq!(asked.calls(), [[3, 1]]);
}

async fn only_what_is_missing_is_loaded_and_only_once(backend: &Backend) {
    let (one, other) = (backend.cache().await.build(), backend.cache().await.build());
    let asked = Asked::default();
    for (cache, keys, call) in [(&one, 0..50, 1), (&other, 25..100, 2)] {
        let values = ask(cache, &asked, &open(), keys.clone()).await.unwrap();
        assert!(keys.zip(values).all(|(id, value)| value == text(id, if id < 50 { 1 } else { call })));
        settled(cache).await;
    }
    assert_eq!(asked.calls(), [(0..50).collect::<Vec<_>>(), (50..100).collect()]);
    assert_eq!((other.counts().hits, other.counts().misses, other.counts().stored), (25, 50, 50));
    assert_eq!(ask(&one, &asked, &open(), 0..100).await.unwrap().len(), 100);
    assert_eq!(asked.count(), 2);
}

async fn a_key_without_a_value_is_known_to_have_none(backend: &Backend) {
    let clock = Clock::manual();
    let cache = backend.cache().await.clock(clock.clone()).build();
    let asked = Asked::default();
    let ask = async || {
        let values = ask(&cache, &asked, &open(), [1, 1_000]).negative_ttl(MINUTE / 2).await.unwrap();
        settled(&cache).await;
        values
    };
    assert_eq!(ask().await, [text(1, 1), None]);
    assert_eq!(ask().await, [text(1, 1), None]);
    assert_eq!(asked.count(), 1);
    clock.advance(MINUTE / 2);
    assert_eq!(ask().await, [text(1, 1), None]);
    assert_eq!(asked.calls(), [vec![1, 1_000], vec![1_000]]);
}

async fn each_key_is_loaded_once_by_all_processes_together(backend: &Backend) {
    const PROCESSES: usize = 8;
    let mut caches = Vec::new();
    for _ in 0..PROCESSES {
        // Nobody is to lose patience on a busy machine.
        caches.push(backend.cache().await.lock_timeout(LIMIT).build());
    }
    let loads: Arc<Mutex<HashMap<u64, usize>>> = Arc::default();
    let callers = (0..64_u64).map(|caller| {
        let (cache, loads) = (caches[caller as usize % PROCESSES].clone(), loads.clone());
        tokio::spawn(async move {
            let load = async move |missing: Vec<Id>| {
                for (_, id) in &missing {
                    *loads.lock().unwrap().entry(*id).or_default() += 1;
                }
                tokio::time::sleep(Duration::from_millis(missing.len() as u64)).await;
                Ok::<_, Infallible>(missing.into_iter().map(|id| (id, id.1)).collect::<Vec<_>>())
            };
            // Thirty keys of a hundred, from another one on, and backwards every second time.
            let mut keys: Vec<u64> = (0..30).map(|place| (caller * 7 + place * 3) % 100).collect();
            if caller % 2 == 0 {
                keys.reverse();
            }
            let values = cache.get_or_load_many(ids(keys.clone()), load).await.unwrap();
            assert!(keys.iter().zip(values).all(|(id, value)| value == Some(*id)), "caller {caller}");
        })
    });
    for caller in callers.collect::<Vec<_>>() {
        caller.await.unwrap();
    }
    let loads = loads.lock().unwrap();
    assert_eq!(loads.len(), 100);
    assert!(loads.values().all(|count| *count == 1), "{loads:?}");
}

async fn who_waits_in_vain_loads_all_of_that_at_once(backend: &Backend) {
    let (asked, gate, impatient) = (Asked::default(), Gate::closed(), Arc::new(AtomicUsize::new(0)));
    let noted = impatient.clone();
    let observer = move |event: Event| {
        noted.fetch_add(usize::from(matches!(event, Event::Release(Release::WaitTimeout))), Ordering::SeqCst);
    };
    let here = backend.cache().await.build();
    let there = backend.cache().await.lock_timeout(Duration::from_millis(500)).observer(observer).build();
    let first = tokio::spawn(ask(&here, &asked, &gate, 0..20).into_future());
    wait_until("it is loaded", async || asked.count() == 1).await;
    let found = ask(&there, &asked, &open(), 0..20).await.unwrap();
    assert_eq!(found, (0..20).map(|id| text(id, 2)).collect::<Vec<_>>());
    let mut calls = asked.calls();
    calls.iter_mut().for_each(|call| call.sort_unstable());
    assert_eq!(calls, [(0..20).collect::<Vec<_>>(), (0..20).collect()]);
    assert_eq!(impatient.load(Ordering::SeqCst), 20, "and it is said why each of them is not stored");
    gate.open();
    assert_eq!(first.await.unwrap().unwrap()[0], text(0, 1));
}

async fn what_has_come_meanwhile_is_not_loaded_again(backend: &Backend) {
    let (asked, gates, timeouts) = (Asked::default(), [Gate::closed(), Gate::closed()], Arc::new(AtomicUsize::new(0)));
    let noted = timeouts.clone();
    let observer = move |event: Event| {
        if let Event::Waited { scope: WaitScope::Process, release: Release::WaitTimeout, .. } = event {
            noted.fetch_add(1, Ordering::SeqCst);
        }
    };
    let cache = backend.cache().await.lock_timeout(12 * SECOND).observer(observer).build();
    let first = tokio::spawn(ask(&cache, &asked, &gates[0], [1]).into_future());
    wait_until("it is loaded", async || asked.count() == 1).await;
    let second = tokio::spawn(ask(&cache, &asked, &gates[1], [1, 2]).into_future());
    wait_until("the second call waits no longer", async || timeouts.load(Ordering::SeqCst) == 1).await;
    // The load that it has waited for ends while it waits for its own.
    gates[0].open();
    assert_eq!(first.await.unwrap().unwrap(), [text(1, 1)]);
    wait_until("it is stored", async || cache.get::<Option<String>>(("n", 1)).await.is_some()).await;
    gates[1].open();
    assert_eq!(second.await.unwrap().unwrap(), [text(1, 1), text(2, 2)]);
    assert_eq!(asked.calls(), [[1], [2]]);
}

fn failing(cache: &Cache, keys: impl IntoIterator<Item = u64>) -> cache_layer::GetOrLoadMany<Id, String, Broken> {
    cache.get_or_load_many(ids(keys), async |_: Vec<Id>| Err::<Vec<(Id, String)>, _>(Broken)).ttl(MINUTE)
}

async fn what_is_found_is_there_though_the_load_fails(backend: &Backend) {
    let (cache, asked) = (backend.cache().await.build(), Asked::default());
    ask(&cache, &asked, &open(), [1]).await.unwrap();
    settled(&cache).await;
    assert_eq!(failing(&cache, [1, 2]).await, Err(Broken));
    assert_eq!(failing(&cache, [1, 2]).each().await, [Ok(text(1, 1)), Err(Broken)]);
}

async fn a_part_that_fails_leaves_the_others_stored(backend: &Backend) {
    let cache = backend.cache().await.build();
    let load = async |wanted: Vec<(Id, Option<Stale<u64>>)>| {
        let value = |id: Id| if id.1 == 2 { Err(Broken) } else { Ok(Loaded::new(id.1)) };
        Ok(wanted.into_iter().map(|(id, _)| (id, value(id))).collect())
    };
    let each = cache.get_or_load_many_with(ids([1, 2, 3]), load).each().await;
    assert_eq!(each, [Ok(Some(1)), Err(Broken), Ok(Some(3))]);
    settled(&cache).await;
    assert_eq!(cache.get_many::<u64>(ids([1, 2, 3])).await, [Some(1), None, Some(3)]);
    // Neither does one that can't be written.
    let load = async |missing: Vec<Id>| {
        let value = |id: Id| if id.1 == 5 { f64::NAN } else { 1.5 };
        Ok::<_, Infallible>(missing.into_iter().map(|id| (id, value(id))).collect::<Vec<_>>())
    };
    let values = cache.get_or_load_many(ids([4, 5, 6]), load).await.unwrap();
    assert!(values[1].is_some_and(f64::is_nan) && values[2] == Some(1.5));
    settled(&cache).await;
    assert_eq!(cache.get_many::<f64>(ids([4, 5, 6])).await, [Some(1.5), None, Some(1.5)]);
}

async fn what_is_stale_stands_in_for_the_keys_that_have_it(backend: &Backend) {
    let clock = Clock::manual();
    let cache = backend.cache().await.clock(clock.clone()).build();
    let asked = Asked::default();
    ask(&cache, &asked, &open(), [1]).stale_if_error(MINUTE).await.unwrap();
    settled(&cache).await;
    clock.advance(MINUTE + SECOND);
    for _ in 0..2 {
        let each = failing(&cache, [1, 2]).stale_if_error(MINUTE).each().await;
        assert_eq!(each, [Ok(text(1, 1)), Err(Broken)]);
        settled(&cache).await;
    }
}

async fn an_invalidation_during_the_load_is_of_its_own_key(backend: &Backend) {
    let (one, other) = (backend.cache().await.build(), backend.cache().await.build());
    let (asked, gate) = (Asked::default(), Gate::closed());
    // So that it is known of each tag that nothing was invalidated: of one that nobody has ever seen, that can't be said.
    let tags = (0..4).map(|id| format!("n:{id}")).chain(["all".to_owned()]);
    one.set("before", "value").tags(tags).await.unwrap();
    let loading =
        tokio::spawn(ask(&one, &asked, &gate, 0..4).tags(["all"]).tags_of(|(_, id)| [format!("n:{id}")]).into_future());
    wait_until("it loads", async || asked.count() == 1).await;
    other.invalidate(&("n", 1).into()).await.unwrap();
    other.invalidate_tag("n:2").await.unwrap();
    gate.open();
    assert_eq!(loading.await.unwrap().unwrap().len(), 4, "the caller has asked before");
    settled(&one).await;
    for cache in [&one, &other] {
        let expected = [text(0, 1), None, None, text(3, 1)];
        wait_until("what was invalidated is not there", async || cache.get_many::<String>(ids(0..4)).await == expected)
            .await;
    }
    assert_eq!(one.counts().fenced, 2);
}

async fn what_another_process_loads_in_vain_is_loaded_after_all(backend: &Backend) {
    let (one, other) = (backend.cache().await.build(), backend.cache().await.build());
    let (asked, gate) = (Asked::default(), Gate::closed());
    let begun = Arc::new(AtomicUsize::new(0));
    for id in [1, 2] {
        let (gate, begun) = (gate.clone(), begun.clone());
        let load = async move || -> Result<Option<String>, Infallible> {
            begun.fetch_add(1, Ordering::SeqCst);
            gate.pass().await;
            panic!("as if the process had died")
        };
        tokio::spawn(other.get_or_load(("n", id), load).into_future());
    }
    wait_until("the other process loads", async || begun.load(Ordering::SeqCst) == 2).await;
    let loading = tokio::spawn(ask(&one, &asked, &open(), 0..4).into_future());
    wait_until("what is nobody's is loaded", async || asked.calls() == [[0, 3]]).await;
    wait_until("and stored, while the rest is waited for", async || one.contains(("n", 3)).await).await;
    assert!(!loading.is_finished());
    gate.open();
    let values = loading.await.unwrap().unwrap();
    assert!(values.iter().all(Option::is_some) && values[0] == text(0, 1), "{values:?}");
    settled(&one).await;
    let mut later: Vec<u64> = asked.calls()[1..].concat();
    later.sort_unstable();
    assert_eq!(later, [1, 2]);
    assert!(one.get_many::<String>(ids(0..4)).await.iter().all(Option::is_some));
}

async fn a_caller_that_leaves_leaves_all_values_stored(backend: &Backend) {
    let (cache, asked, gate) = (backend.cache().await.build(), Asked::default(), Gate::closed());
    let loading = tokio::spawn(ask(&cache, &asked, &gate, 0..10).into_future());
    wait_until("it loads", async || asked.count() == 1).await;
    loading.abort();
    assert!(loading.await.unwrap_err().is_cancelled());
    gate.open();
    settled(&cache).await;
    assert!(cache.get_many::<String>(ids(0..10)).await.iter().all(Option::is_some));
    assert_eq!(asked.count(), 1);
}

async fn a_panic_is_its_callers_alone(backend: &Backend) {
    let (cache, asked, gate) = (backend.cache().await.build(), Asked::default(), Gate::closed());
    let panics = {
        let gate = gate.clone();
        async move |missing: Vec<Id>| {
            gate.pass().await;
            assert!(missing.is_empty(), "it panics");
            Ok::<Vec<(Id, String)>, Broken>(Vec::new())
        }
    };
    let panicking = tokio::spawn(cache.get_or_load_many(ids(0..3), panics).into_future());
    wait_until("it loads", async || cache.loads_in_flight() == 3).await;
    let waiting = tokio::spawn(ask(&cache, &asked, &open(), 1..4).into_future());
    wait_until("the others wait", async || cache.counts().coalesced == 2).await;
    gate.open();
    assert!(panicking.await.unwrap_err().is_panic());
    assert!(waiting.await.unwrap().unwrap().iter().all(Option::is_some));
    settled(&cache).await;
}

async fn what_is_stale_is_refreshed_together(backend: &Backend) {
    let clock = Clock::manual();
    let cache = backend.cache().await.clock(clock.clone()).build();
    let asked = Asked::default();
    let ask = async || {
        let values = ask(&cache, &asked, &open(), 0..5).stale_while_revalidate(MINUTE).await.unwrap();
        settled(&cache).await;
        values
    };
    ask().await;
    clock.advance(MINUTE + SECOND);
    assert_eq!(ask().await, [0, 1, 2, 3, 4].map(|id| text(id, 1)));
    assert_eq!(ask().await, [0, 1, 2, 3, 4].map(|id| text(id, 2)));
    assert_eq!(asked.calls(), [[0, 1, 2, 3, 4], [0, 1, 2, 3, 4]]);
}

async fn each_value_has_its_tags_and_those_of_all(backend: &Backend) {
    let (cache, asked) = (backend.cache().await.build(), Asked::default());
    let fill = async || {
        let ask = ask(&cache, &asked, &open(), 0..3).tags(["all"]).tags_of(|(_, id)| [format!("n:{id}")]);
        ask.await.unwrap();
        settled(&cache).await;
    };
    let there = async || cache.get_many::<String>(ids(0..3)).await.iter().flatten().count();
    fill().await;
    cache.invalidate_tag("n:1").await.unwrap();
    assert_eq!(there().await, 2);
    fill().await;
    assert_eq!((there().await, asked.calls().pop()), (3, Some(vec![1])));
    cache.invalidate_tag("all").await.unwrap();
    assert_eq!(there().await, 0);
    // A value that is made of them has the tags of all of them.
    let (inner, asked) = (cache.clone(), asked.clone());
    let list = async move || ask(&inner, &asked, &open(), 0..3).tags_of(|(_, id)| [format!("n:{id}")]).await;
    cache.get_or_load("list", list).await.unwrap();
    settled(&cache).await;
    assert!(cache.contains("list").await);
    cache.invalidate_tag("n:2").await.unwrap();
    assert!(!cache.contains("list").await);
}

async fn they_are_the_values_that_are_asked_for_one_by_one(backend: &Backend) {
    let (cache, asked, gate) = (backend.cache().await.build(), Asked::default(), Gate::closed());
    let (calls, one_gate) = (Arc::new(AtomicUsize::new(0)), gate.clone());
    let called = calls.clone();
    let one = cache.get_or_load(("n", 1), async move || {
        called.fetch_add(1, Ordering::SeqCst);
        one_gate.pass().await;
        Ok::<_, Broken>(Some("alone".to_owned()))
    });
    let one = tokio::spawn(one.into_future());
    wait_until("one loads", async || calls.load(Ordering::SeqCst) == 1).await;
    let many = tokio::spawn(ask(&cache, &asked, &open(), [0, 1]).into_future());
    wait_until("the other is loaded", async || asked.calls() == [[0]]).await;
    gate.open();
    assert_eq!(one.await.unwrap(), Ok(Some("alone".to_owned())));
    assert_eq!(many.await.unwrap(), Ok(vec![text(0, 1), Some("alone".to_owned())]));
    settled(&cache).await;
    let none = async || Ok::<Option<String>, Broken>(None);
    assert_eq!(cache.get_or_load(("n", 0), none).await, Ok(text(0, 1)));
    assert_eq!(cache.get::<String>(("n", 0)).await, text(0, 1));
}

async fn a_load_decides_on_each_value_and_may_say_that_it_still_holds(backend: &Backend) {
    let clock = Clock::manual();
    let cache = backend.cache().await.clock(clock.clone()).build();
    let ask = async || {
        let load = async |wanted: Vec<(Id, Option<Stale<u64>>)>| {
            let value = |id: Id, stale: Option<Stale<u64>>| match stale {
                Some(stale) if id.1 == 1 => stale.not_modified(),
                Some(stale) => Loaded::new(*stale + 10),
                None => Loaded::new(id.1).tags([format!("n:{}", id.1)]).ttl(SECOND * id.1 as u32),
            };
            Ok::<_, Broken>(wanted.into_iter().map(|(id, stale)| (id, Ok(value(id, stale)))).collect())
        };
        let values = cache.get_or_load_many_with(ids([1, 2, 3]), load).ttl(MINUTE).keep(MINUTE).await.unwrap();
        settled(&cache).await;
        values.into_iter().flatten().collect::<Vec<_>>()
    };
    assert_eq!(ask().await, [1, 2, 3]);
    clock.advance(2 * SECOND);
    assert_eq!(ask().await, [1, 12, 3]);
    cache.invalidate_tag("n:1").await.unwrap();
    assert_eq!(cache.get_many::<u64>(ids([1, 2, 3])).await, [None, Some(12), Some(3)]);
}

async fn a_soft_timeout_waits_only_for_what_has_nothing_stale(backend: &Backend) {
    let clock = Clock::manual();
    let cache = backend.cache().await.clock(clock.clone()).build();
    let (asked, gate, soon) = (Asked::default(), Gate::closed(), Duration::from_millis(10));
    ask(&cache, &asked, &open(), 0..3).stale_if_error(MINUTE).await.unwrap();
    settled(&cache).await;
    clock.advance(MINUTE + SECOND);
    let values = ask(&cache, &asked, &gate, 0..3).stale_if_error(MINUTE).soft_timeout(soon).await.unwrap();
    assert_eq!(values, [0, 1, 2].map(|id| text(id, 1)));
    let more = ask(&cache, &asked, &gate, 0..4).stale_if_error(MINUTE).soft_timeout(soon);
    let more = tokio::spawn(more.into_future());
    wait_until("the rest is loaded", async || asked.calls().last() == Some(&vec![3])).await;
    // Callers with a stale value must have it by now.
    tokio::time::sleep(30 * soon).await;
    gate.open();
    let values = more.await.unwrap().unwrap();
    assert_eq!((&values[..3], &values[3]), (&[0, 1, 2].map(|id| text(id, 1))[..], &text(3, 3)));
    settled(&cache).await;
    assert_eq!(ask(&cache, &asked, &open(), 0..3).await.unwrap(), [0, 1, 2].map(|id| text(id, 2)));
}

async fn a_hard_timeout_is_of_what_is_not_there(backend: &Backend) {
    let cache = backend.cache().await.lock_timeout(LIMIT).build();
    let (asked, gate) = (Asked::default(), Gate::closed());
    ask(&cache, &asked, &open(), [1]).await.unwrap();
    settled(&cache).await;
    let each = ask(&cache, &asked, &gate, [1, 2]).hard_timeout(Duration::from_secs(3), Broken).each().await;
    assert_eq!(each, [Ok(text(1, 1)), Err(Broken)]);
    gate.open();
    settled(&cache).await;
    assert_eq!(cache.get::<String>(("n", 2)).await, text(2, 2));
}

async fn all_are_loaded_anew_by_a_refresh(backend: &Backend) {
    let (cache, asked) = (backend.cache().await.build(), Asked::default());
    for call in 1..=2 {
        let values = ask(&cache, &asked, &open(), [1, 2]).refresh().await.unwrap();
        assert_eq!(values, [text(1, call), text(2, call)]);
        settled(&cache).await;
    }
    assert_eq!(cache.get_many::<String>(ids([1, 2])).await, [text(1, 2), text(2, 2)]);
}

async fn a_refresh_is_not_content_with_a_load_that_began_before(backend: &Backend) {
    let (cache, asked, gate) = (backend.cache().await.lock_timeout(LIMIT).build(), Asked::default(), Gate::closed());
    let first = tokio::spawn(ask(&cache, &asked, &gate, [1, 2]).into_future());
    wait_until("it loads", async || asked.count() == 1).await;
    let refresh = tokio::spawn(ask(&cache, &asked, &open(), [1, 2]).refresh().into_future());
    wait_until("the refresh waits for it", async || cache.counts().coalesced == 2).await;
    gate.open();
    assert_eq!(first.await.unwrap().unwrap(), [text(1, 1), text(2, 1)]);
    assert_eq!(refresh.await.unwrap().unwrap(), [text(1, 2), text(2, 2)]);
    settled(&cache).await;
    assert_eq!(cache.get_many::<String>(ids([1, 2])).await, [text(1, 2), text(2, 2)]);
    // Nor with its failure.
    let gate = Gate::closed();
    let load = {
        let (asked, gate) = (asked.clone(), gate.clone());
        async move |missing: Vec<Id>| {
            asked.note(&missing);
            gate.pass().await;
            Err::<Vec<(Id, String)>, _>(Broken)
        }
    };
    let failing = tokio::spawn(cache.get_or_load_many(ids([1, 2]), load).refresh().into_future());
    wait_until("it loads", async || asked.count() == 3).await;
    let refresh = tokio::spawn(ask(&cache, &asked, &open(), [1, 2]).refresh().into_future());
    wait_until("the refresh waits for it", async || cache.counts().coalesced == 4).await;
    gate.open();
    assert_eq!(failing.await.unwrap(), Err(Broken));
    // The lease of one key may be given back later than that of the other.
    let found = refresh.await.unwrap().unwrap();
    assert!(
        (4..=5).any(|call| found[0] == text(1, call)) && (4..=5).any(|call| found[1] == text(2, call)),
        "{found:?}"
    );
}

/// The load that began before is in this process, or in another one.
async fn a_refresh_overtakes_a_load_that_it_no_longer_waits_for(backend: &Backend) {
    let cases = [Lock::Fleet, Lock::Process, Lock::Off].map(|lock| [(lock, false), (lock, true)]);
    let overtakes = async |(key, (lock, elsewhere)): (u64, (Lock, bool))| {
        let case = format!("{lock:?} {elsewhere}");
        let cache = async || backend.cache().await.lock_timeout(3 * SECOND).build();
        let one = cache().await;
        let refreshing = if elsewhere { cache().await } else { one.clone() };
        let (asked, gate) = (Asked::default(), Gate::closed());
        let keys = [key, key + 100];
        let old = tokio::spawn(ask(&one, &asked, &gate, [key]).lock(lock).into_future());
        wait_until("the old load has begun", async || asked.count() == 1).await;
        let new = ask(&refreshing, &asked, &open(), keys).lock(lock).refresh().await.unwrap();
        gate.open();
        assert_eq!(old.await.unwrap().unwrap(), [text(key, 1)], "{case}");
        settled(&one).await;
        settled(&refreshing).await;
        assert!(new[0] != text(key, 1) && new.iter().all(Option::is_some), "{new:?}, {case}");
        assert_eq!(refreshing.get_many::<String>(ids(keys)).await, new, "{case}");
        heard(&refreshing, &one).await;
        assert_eq!(one.get_many::<String>(ids(keys)).await, new, "{case}");
        assert_eq!(one.counts().fenced, 1, "{case}");
    };
    join_all((0..).zip(cases.into_iter().flatten()).map(overtakes)).await;
}

async fn a_slow_load_that_was_left_is_not_abandoned(backend: &Backend) {
    let clock = Clock::manual();
    // A load that nobody waits for ends within a second.
    let cache = backend.cache().await.clock(clock.clone()).abandoned_load(Duration::ZERO);
    let cache = cache.lock_timeout(LIMIT).build();
    let (asked, gate) = (Asked::default(), Gate::closed());
    ask(&cache, &asked, &open(), 0..3).stale_if_error(MINUTE).await.unwrap();
    settled(&cache).await;
    clock.advance(MINUTE + SECOND);
    let soon = ask(&cache, &asked, &gate, 0..3).stale_if_error(MINUTE).soft_timeout(Duration::from_millis(10));
    assert_eq!(soon.await.unwrap(), [0, 1, 2].map(|id| text(id, 1)));
    tokio::time::sleep(5 * SECOND / 2).await;
    assert_eq!(cache.loads_in_flight(), 3);
    gate.open();
    settled(&cache).await;
    assert_eq!(cache.get_many::<String>(ids(0..3)).await, [0, 1, 2].map(|id| text(id, 2)));
}

async fn the_values_of_one_load_need_one_place(backend: &Backend) {
    let cache = backend.cache().await.max_loads(1).build();
    let busy = Arc::new((AtomicUsize::new(0), AtomicUsize::new(0)));
    let calls = (0..8).map(|call| {
        let busy = busy.clone();
        let load = async move |missing: Vec<Id>| {
            busy.1.fetch_max(busy.0.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(5)).await;
            busy.0.fetch_sub(1, Ordering::SeqCst);
            Ok::<_, Infallible>(missing.into_iter().map(|id| (id, id.1)).collect::<Vec<_>>())
        };
        tokio::spawn(cache.get_or_load_many(ids(10 * call..10 * (call + 1)), load).into_future())
    });
    for call in calls.collect::<Vec<_>>() {
        assert!(call.await.unwrap().unwrap().iter().all(Option::is_some));
    }
    assert_eq!(busy.1.load(Ordering::SeqCst), 1);
}

async fn no_other_process_is_waited_for_if_the_lock_is_its_own(backend: &Backend) {
    let (asked, gate) = (Asked::default(), Gate::closed());
    let here = backend.cache().await.build();
    let there = backend.cache().await.lock_timeout(10 * MINUTE).build();
    let first = tokio::spawn(ask(&here, &asked, &gate, [1, 2]).into_future());
    wait_until("it loads", async || asked.count() == 1).await;
    let second = ask(&there, &asked, &open(), [1, 2]).lock(Lock::Process);
    let second = tokio::time::timeout(LIMIT, second.into_future()).await.expect("it waits for nobody");
    assert_eq!(second.unwrap(), [text(1, 2), text(2, 2)]);
    gate.open();
    first.await.unwrap().unwrap();
    settled(&here).await;
    // That of the load which began first is stored.
    assert_eq!(here.get_many::<String>(ids([1, 2])).await, [text(1, 1), text(2, 1)]);
}

/// One `MGET` for the look-up, and no other read of missing keys.
#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_keys_are_looked_up_in_one_round_trip() {
    let backend = Backend::redis();
    let (one, other, asked) = (backend.cache().await.build(), backend.cache().await.build(), Asked::default());
    ask(&one, &asked, &open(), 0..100).await.unwrap();
    settled(&one).await;
    let before = RedisUsage::of(backend.server());
    assert!(ask(&other, &asked, &open(), 0..100).await.unwrap().iter().all(Option::is_some));
    let reads = RedisUsage::of(backend.server()).since(&before);
    // The values, the token that this process did not know, and heartbeats.
    assert!(reads.calls("mget") <= 8 && reads.calls("get") <= 1, "{}", reads.per(100));
    assert_eq!(asked.count(), 1);
}

async fn without_a_lock_all_keys_are_loaded_at_once(backend: &Backend) {
    let (cache, asked, gate) = (backend.cache().await.build(), Asked::default(), Gate::closed());
    let elsewhere = tokio::spawn(ask(&cache, &asked, &gate, [1]).into_future());
    wait_until("another call loads one of the keys", async || asked.count() == 1).await;
    let all = tokio::spawn(ask(&cache, &asked, &gate, [1, 2]).lock(Lock::Off).into_future());
    wait_until("this call loads both of its keys", async || asked.count() == 3).await;
    gate.open();
    let (elsewhere, all) = (elsewhere.await.unwrap().unwrap(), all.await.unwrap().unwrap());
    let mut calls = asked.calls();
    calls[1..].sort_unstable();
    assert_eq!(calls, [[1], [1], [2]]);
    assert_eq!(elsewhere, [text(1, 1)]);
    assert!(all[0] != elsewhere[0] && all.iter().all(Option::is_some), "{all:?}");
}

async fn what_failed_to_be_refreshed_is_loaded_by_the_next_call_after_the_back_off(backend: &Backend) {
    let clock = Clock::manual();
    let cache = backend.cache().await.clock(clock.clone()).build();
    // By keys: a key whose former lease is given back late is loaded later than the other one.
    let loads = Arc::new(AtomicUsize::new(0));
    let get = async |outcome: Result<u64, Broken>, back_off: Duration| {
        let loads = loads.clone();
        let load = async move |missing: Vec<Id>| {
            loads.fetch_add(missing.len(), Ordering::SeqCst);
            outcome.map(|value| missing.into_iter().map(|id| (id, value)).collect::<Vec<_>>())
        };
        let values = cache.get_or_load_many(ids([1, 2]), load).ttl(MINUTE).stale_while_revalidate(10 * MINUTE);
        let values = values.failure_backoff(back_off, back_off).await.unwrap();
        settled(&cache).await;
        values
    };
    assert_eq!(get(Ok(1), Duration::ZERO).await, [Some(1); 2]);
    clock.advance(MINUTE + SECOND);
    assert_eq!(get(Err(Broken), Duration::ZERO).await, [Some(1); 2], "they are refreshed in the background");
    assert_eq!(cache.counts().failed_refreshes, 2);
    assert_eq!(get(Ok(2), Duration::ZERO).await, [Some(2); 2], "and then in the foreground");
    clock.advance(MINUTE + SECOND);
    assert_eq!(get(Err(Broken), MINUTE).await, [Some(2); 2]);
    // What this process knows of a back-off is asked for again each second.
    wait_until("what is stale is found without a question", async || {
        let hits = cache.counts().hits;
        assert_eq!(get(Ok(3), MINUTE).await, [Some(2); 2]);
        cache.counts().hits == hits + 2
    })
    .await;
    assert_eq!(loads.load(Ordering::SeqCst), 4 * 2, "they are left alone");
}

async fn early_refreshes_are_counted_by_keys_and_only_if_they_have_a_place(backend: &Backend) {
    let clock = Clock::manual();
    let cache = backend.cache().await.clock(clock.clone()).max_loads(1).build();
    let (calls, gate) = (Arc::new(AtomicUsize::new(0)), Gate::closed());
    let get = async || {
        let (calls, clock) = (calls.clone(), clock.clone());
        let load = async move |missing: Vec<Id>| {
            calls.fetch_add(1, Ordering::SeqCst);
            // Of its minute, the value has a millisecond left then.
            clock.advance(SECOND);
            Ok::<_, Broken>(missing.into_iter().map(|id| (id, id.1)).collect::<Vec<_>>())
        };
        let values = cache.get_or_load_many(ids([1, 2]), load).ttl(MINUTE).early_refresh(1e6).await;
        assert_eq!(values, Ok(vec![Some(1), Some(2)]));
    };
    get().await;
    settled(&cache).await;
    clock.advance(MINUTE - Duration::from_millis(1));
    let other = {
        let (gate, calls) = (gate.clone(), calls.clone());
        cache.get_or_load("other", async move || {
            calls.fetch_add(1, Ordering::SeqCst);
            gate.pass().await;
            Ok::<_, Broken>(7)
        })
    };
    let other = tokio::spawn(other.into_future());
    wait_until("the only place is taken", async || calls.load(Ordering::SeqCst) == 2).await;
    get().await;
    wait_until("the refresh is skipped", async || cache.counts().skipped_refreshes == 2).await;
    assert_eq!(cache.counts().early_refreshes, 0);
    gate.open();
    assert_eq!(other.await.unwrap(), Ok(7));
    settled(&cache).await;
    wait_until("it is refreshed", async || {
        get().await;
        settled(&cache).await;
        calls.load(Ordering::SeqCst) == 3
    })
    .await;
    assert_eq!((cache.counts().early_refreshes, cache.counts().skipped_refreshes), (2, 2));
}
