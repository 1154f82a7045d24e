//! The store for tests of one's own: it does what it is told, and what it says of loads is so.

use std::{
    convert::Infallible,
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, Instant},
};

use cache_layer::{Cache, testing::TestStore};
use futures_util::future::join_all;
use tests::wait_until;

const LIMIT: Duration = Duration::from_secs(30);

async fn load(cache: &Cache, id: u32) -> u32 {
    let load = async move || Ok::<_, Infallible>(id);
    let Ok(value) = cache.get_or_load(("n", id), load).tags([format!("n:{id}")]).await;
    value
}

async fn settled(cache: &Cache) {
    assert!(cache.drain(LIMIT).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_says_what_was_loaded_and_panics_if_that_was_something_else() {
    let store = TestStore::new();
    let caches = [Cache::new(store.clone()), Cache::new(store.clone())];
    for cache in &caches {
        load(cache, 1).await;
        load(cache, 2).await;
        settled(cache).await;
    }
    assert_eq!(store.take_loaded(), ["n:1", "n:2"]);
    store.assert_loaded::<&str>([]);
    store.lose(("n", 1));
    load(&caches[0], 1).await;
    let wrong = catch_unwind(AssertUnwindSafe(|| store.assert_loaded(["n:2"]))).unwrap_err();
    assert_eq!(wrong.downcast_ref::<String>().unwrap(), "loaded were [\"n:1\"], and not [\"n:2\"]");
    settled(&caches[0]).await;
    store.lose_all();
    join_all((1..=2).map(|id| load(&caches[1], id))).await;
    store.assert_loaded(["n:2", "n:1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_it_is_away_nothing_is_stored_and_what_is_invalidated_is_delivered_later() {
    let store = TestStore::new();
    let (one, other) = (Cache::new(store.clone()), Cache::new(store.clone()));
    load(&one, 1).await;
    settled(&one).await;
    store.disconnect();
    assert_eq!(load(&one, 1).await, 1);
    settled(&one).await;
    assert!(one.counts().unavailable > 0 && one.counts().stored == 1);
    assert!(one.invalidate_tag("n:1").await.is_err());
    assert!(one.set(("n", 2), &3).await.is_err());
    store.reconnect();
    assert!(!other.contains(("n", 1)).await, "what was invalidated meanwhile is");
    assert_eq!(load(&other, 2).await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_go_in_the_order_in_which_they_are_released() {
    let store = TestStore::new();
    let cache = Cache::new(store.clone());
    store.hold_commits();
    for id in 1..=3 {
        assert_eq!(load(&cache, id).await, id, "callers have their values");
        wait_until("it is held", async || store.held_commits() == id as usize).await;
    }
    let there = async || {
        let mut there = Vec::new();
        for id in 1..=3 {
            there.extend(cache.contains(("n", id)).await.then_some(id));
        }
        there
    };
    assert!(there().await.is_empty());
    assert!(store.release_newest_commit());
    wait_until("the newest is stored", async || there().await == [3]).await;
    // An entry that is invalidated in between is not served.
    cache.invalidate(&("n", 1).into()).await.unwrap();
    assert!(store.release_oldest_commit());
    wait_until("it is refused", async || cache.counts().fenced == 1).await;
    store.release_commits();
    settled(&cache).await;
    assert_eq!(there().await, [2, 3]);
    assert!(!store.release_newest_commit());
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_take_as_long_as_it_is_told() {
    let store = TestStore::new();
    let cache = Cache::new(store.clone());
    let least = Duration::from_millis(30);
    store.delay(least..=20 * least);
    let began = Instant::now();
    assert!(!cache.contains("k").await);
    assert!(began.elapsed() >= least);
    // Requests at the same time are answered in any order.
    let slow = |cache: Cache, place: usize| async move {
        cache.contains("k").await;
        (Instant::now(), place)
    };
    let mut answered = join_all((0..20).map(|place| slow(cache.clone(), place))).await;
    answered.sort_unstable();
    assert!(!answered.iter().map(|(_, place)| *place).is_sorted());
    store.delay(Duration::ZERO..=Duration::ZERO);
    load(&cache, 1).await;
    settled(&cache).await;
}

/// Many invalidations are delivered, the one that counts last, while two threads read.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_read_before_the_invalidations_of_the_meantime_are_delivered() {
    let store = TestStore::new();
    let cache = Cache::new(store.clone());
    for round in 0..200 {
        load(&cache, round).await;
        settled(&cache).await;
        assert!(cache.contains(("n", round)).await);
        store.disconnect();
        for other in 0..200 {
            cache.invalidate(&("other", other).into()).await.unwrap_err();
        }
        cache.invalidate(&("n", round).into()).await.unwrap_err();
        store.reconnect();
        let reading = (0..4).map(|_| {
            let cache = cache.clone();
            tokio::spawn(async move { cache.contains(("n", round)).await })
        });
        for read in join_all(reading).await {
            assert!(!read.unwrap(), "it was invalidated in the meantime");
        }
    }
}
