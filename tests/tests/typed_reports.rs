//! Reports about other caches, and about this one, as tests of typed values.

use std::{
    collections::HashMap,
    convert::Infallible,
    hash::{Hash, Hasher},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use cache_layer::{
    Cache, Clock, Key, Lock, cached,
    codec::{Codec, CodecError, Json, Postcard},
    store::MemoryStore,
};
use futures_util::future::join_all;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tests::{Backend, Gate, over_each_store};

const MINUTE: Duration = Duration::from_secs(60);
const LIMIT: Duration = Duration::from_secs(30);
const SOON: Duration = Duration::from_millis(10);

over_each_store!(what_is_invalidated_stands_in_for_nothing,);

#[derive(Clone, Debug, PartialEq)]
enum Failed {
    Broken,
    TimedOut,
}

async fn settled(cache: &Cache) {
    assert!(cache.drain(LIMIT).await, "loads were still under way after {LIMIT:?}");
}

/// ZiggyCreatures/FusionCache#648: there, what was cleared came back where a load failed.
async fn what_is_invalidated_stands_in_for_nothing(backend: &Backend) {
    let clock = Clock::manual();
    let cache = backend.cache().await.clock(clock.clone()).build();
    for way in ["key", "tag", "pattern", "everything"] {
        let ask = |answer: Result<u32, Failed>, gate: Gate| {
            let load = async move || {
                gate.pass().await;
                answer
            };
            cache.get_or_load(("value", way), load).ttl(MINUTE).stale_if_error(60 * MINUTE).tags(["t"])
        };
        let (open, closed) = (Gate::closed(), Gate::closed());
        open.open();
        let fails = async || ask(Err(Failed::Broken), open.clone()).failure_backoff(MINUTE, MINUTE).await;
        assert_eq!(ask(Ok(1), open.clone()).await, Ok(1));
        settled(&cache).await;
        clock.advance(2 * MINUTE);
        assert_eq!(fails().await, Ok(1), "until then it stands in");
        settled(&cache).await;

        match way {
            "key" => cache.invalidate(&Key::from(("value", way))).await.unwrap(),
            "tag" => cache.invalidate_tag("t").await.unwrap(),
            "pattern" => cache.delete_pattern("value:*").await.unwrap(),
            _ => cache.invalidate_all().await.unwrap(),
        }
        assert_eq!([fails().await, fails().await], [Err(Failed::Broken), Err(Failed::Broken)], "{way}");
        settled(&cache).await;
        let late = ask(Ok(2), closed.clone()).hard_timeout(SOON, Failed::TimedOut).await;
        assert_eq!(late, Err(Failed::TimedOut), "{way}");
        let waits = tokio::spawn(ask(Ok(3), closed.clone()).soft_timeout(SOON).into_future());
        tokio::time::sleep(5 * SOON).await;
        assert!(!waits.is_finished(), "{way}");
        closed.open();
        let found = waits.await.unwrap();
        assert!(matches!(found, Ok(2 | 3)), "{way}: {found:?}");
        settled(&cache).await;
    }
}

/// A value for each number: how often they were loaded.
fn numbers(
    cache: &Cache,
    calls: &Arc<AtomicUsize>,
    gate: &Gate,
    ids: Vec<u64>,
) -> cache_layer::GetOrLoadMany<(&'static str, u64), usize, Infallible> {
    let (calls, gate) = (calls.clone(), gate.clone());
    let load = async move |missing: Vec<(&'static str, u64)>| {
        let call = calls.fetch_add(1, Ordering::SeqCst) + 1;
        gate.pass().await;
        Ok::<_, Infallible>(missing.into_iter().map(|id| (id, call)).collect::<Vec<_>>())
    };
    cache
        .get_or_load_many(ids.into_iter().map(|id| ("n", id)).collect::<Vec<_>>(), load)
        .ttl(MINUTE)
        .stale_if_error(MINUTE)
}

/// As for one value: each caller loads by itself, but none waits longer than its soft timeout for what it has a stale value of.
#[tokio::test(flavor = "multi_thread")]
async fn a_soft_timeout_counts_for_many_without_a_lock() {
    let clock = Clock::manual();
    let cache = Cache::builder(MemoryStore::new(1 << 20)).clock(clock.clone()).build();
    let (calls, gate, open) = (Arc::default(), Gate::closed(), Gate::closed());
    open.open();
    assert_eq!(numbers(&cache, &calls, &open, vec![1, 2]).await, Ok(vec![Some(1), Some(1)]));
    settled(&cache).await;
    clock.advance(MINUTE + MINUTE / 2);
    let callers = (0..3).map(|_| {
        let ask = numbers(&cache, &calls, &gate, vec![1, 2]).lock(Lock::Off).soft_timeout(SOON);
        tokio::time::timeout(LIMIT, ask.into_future())
    });
    for answer in join_all(callers).await {
        assert_eq!(answer.expect("nobody waits for the gate"), Ok(vec![Some(1), Some(1)]));
    }
    tests::wait_until("each of them loads", async || calls.load(Ordering::SeqCst) == 4).await;
    // A key without a stale value is waited for; the first load still runs.
    let mixed = numbers(&cache, &calls, &gate, vec![1, 3]).lock(Lock::Off).soft_timeout(SOON);
    let leads = tokio::spawn(numbers(&cache, &calls, &gate, vec![3]).into_future());
    tests::wait_until("3 is being loaded", async || calls.load(Ordering::SeqCst) == 5).await;
    let mixed = tokio::spawn(mixed.into_future());
    tests::wait_until("it is loaded for this call alone, too", async || calls.load(Ordering::SeqCst) == 6).await;
    tokio::time::sleep(5 * SOON).await;
    assert!(!mixed.is_finished());
    gate.open();
    assert_eq!(mixed.await.unwrap(), Ok(vec![Some(1), Some(6)]));
    assert_eq!(leads.await.unwrap(), Ok(vec![Some(5)]));
    settled(&cache).await;
}

/// A codec whose format was once another one: it reads both, and writes the one or the other.
#[derive(Debug)]
struct Formats {
    is_old: bool,
}

impl Codec for Formats {
    fn name(&self) -> &str {
        "formats"
    }

    fn encode<V: Serialize + ?Sized>(&self, value: &V) -> Result<Vec<u8>, CodecError> {
        if self.is_old { Json.encode(value) } else { Postcard.encode(value) }
    }

    fn decode<V: DeserializeOwned>(&self, bytes: &[u8]) -> Result<V, CodecError> {
        Postcard.decode(bytes).or_else(|_| Json.decode(bytes))
    }
}

#[tokio::test]
async fn a_codec_may_try_one_format_after_another() {
    let store = MemoryStore::new(1 << 20);
    let [old, new] = [true, false].map(|is_old| Cache::builder(store.clone()).codec(Formats { is_old }).build());
    let names = vec!["lamp".to_owned(), "chair".to_owned()];
    for (key, cache) in [("old", &old), ("new", &new)] {
        cache.set(key, &names).await.unwrap();
        for reader in [&old, &new] {
            assert_eq!(reader.get::<Vec<String>>(key).await.as_ref(), Some(&names), "{key}");
            let load = async || -> Result<Vec<String>, Infallible> { unreachable!("it is there") };
            assert_eq!(reader.get_or_load(key, load).await.as_ref(), Ok(&names));
        }
    }
}

/// Names that differ in their case are equal, and yet are written differently.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Loose(String);

impl PartialEq for Loose {
    fn eq(&self, other: &Self) -> bool {
        self.0.eq_ignore_ascii_case(&other.0)
    }
}

impl Eq for Loose {}

impl Hash for Loose {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.to_ascii_lowercase().hash(state);
    }
}

#[cached(name = "length", many(name in names))]
async fn lengths(cache: &Cache, names: Vec<Loose>) -> HashMap<Loose, usize> {
    names.into_iter().map(|name| (name.clone(), name.0.len())).collect()
}

#[cached(name = "place", many(name in names))]
async fn places(cache: &Cache, names: Vec<Loose>) -> Vec<(Loose, usize)> {
    names.into_iter().enumerate().map(|(place, name)| (name, place)).collect()
}

#[tokio::test]
async fn elements_that_are_equal_and_have_different_keys_all_have_values() {
    let cache = Cache::new(MemoryStore::new(1 << 20));
    let names = ["lamp", "Lamp", "chair", "LAMP"].map(|name| Loose(name.to_owned()));
    lengths(&cache, names.to_vec()).await;
    places(&cache, names.to_vec()).await;
    settled(&cache).await;
    for (place, name) in names.into_iter().enumerate() {
        let length = cache.get::<Option<usize>>(lengths_cache::key(name.clone())).await;
        assert_eq!(length, Some(Some(name.0.len())), "{name:?}");
        let found = cache.get::<Option<usize>>(places_cache::key(name.clone())).await;
        assert_eq!(found, Some(Some(place)), "{name:?}");
    }
}
