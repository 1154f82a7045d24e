//! Responses that are stored only from the second load on: what they say, and that no more than two loads are needed.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use cache_layer::{
    Cache, CacheBuilder,
    store::{MemoryStore, RedisStore},
    telemetry::{Event, WaitScope},
};
use tests::{App, Origin, RedisServer, echo, wait_until};
use tokio::sync::Semaphore;

const PATIENCE: Duration = Duration::from_secs(10);
const HOUR: Duration = Duration::from_secs(3600);

async fn redis(server: &RedisServer) -> RedisStore {
    let store = RedisStore::builder(server.url()).operation_timeout(PATIENCE).build().unwrap();
    assert!(store.wait_connected(PATIENCE).await);
    store
}

async fn builder(server: &RedisServer, bound: Duration) -> CacheBuilder {
    Cache::builder(redis(server).await).lock_timeout(PATIENCE).second_sight(bound)
}

async fn cache(server: &RedisServer, bound: Duration) -> Cache {
    builder(server, bound).await.build()
}

/// Loads that wait until they are let go.
#[derive(Clone)]
struct Loads {
    begun: Arc<AtomicUsize>,
    gate: Arc<Semaphore>,
}

impl Loads {
    fn new(open: bool) -> Self {
        Self { begun: Arc::default(), gate: Arc::new(Semaphore::new(if open { Semaphore::MAX_PERMITS } else { 0 })) }
    }

    async fn value(&self, cache: &Cache) -> usize {
        let loads = self.clone();
        let load = async move || {
            let number = loads.begun.fetch_add(1, Ordering::SeqCst) + 1;
            drop(loads.gate.acquire().await.unwrap());
            Ok::<_, Infallible>(number)
        };
        let value = cache.get_or_load("key", load).ttl(HOUR).tags(["tag"]).await.unwrap();
        assert!(cache.drain(PATIENCE).await);
        value
    }

    fn begun(&self) -> usize {
        self.begun.load(Ordering::SeqCst)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_is_stored_from_the_second_load_on_and_says_why_not_before() {
    let server = RedisServer::start();
    let origin = Origin::echo(&[("cache-control", "max-age=600"), ("vary", "accept-language")]);
    // The explanation of each request is compared with its response.
    let app = App::new(cache(&server, HOUR).await, &origin, |layer| layer);
    for language in ["de", "en"] {
        let fields = [("accept-language", language)];
        let first = app.get("/a", &fields).await;
        let status = first.cache_status();
        assert_eq!((first.x_cache(), status.stored), ("MISS", false), "{first:?}");
        assert_eq!(status.detail.as_deref(), Some("first-sight"), "{first:?}");
        app.settled().await;
        let second = app.get("/a", &fields).await;
        assert_eq!((second.x_cache(), second.cache_status().stored), ("MISS", true), "{second:?}");
        app.settled().await;
        assert_eq!(app.get("/a", &fields).await.x_cache(), "HIT");
        if language == "de" {
            assert_eq!((app.cache.counts().first_sights, app.cache.counts().shed), (1, 0));
            assert_eq!(server.keys().iter().filter(|name| name.contains(":e:")).count(), 2, "{:?}", server.keys());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_took_long_to_load_is_stored_at_once() {
    const BOUND: Duration = Duration::from_millis(20);
    let server = RedisServer::start();
    let origin = Origin::new(|call, request| async move {
        tokio::time::sleep(BOUND).await;
        Ok(echo(call, &request, &[("cache-control", "max-age=600")]))
    });
    let app = App::new(cache(&server, BOUND).await, &origin, |layer| layer).unexplained();
    assert!(app.get("/a", &[]).await.cache_status().stored);
    app.settled().await;
    assert_eq!(app.get("/a", &[]).await.x_cache(), "HIT");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_is_stored_from_the_second_load_on_and_at_once_if_there_was_one() {
    let server = RedisServer::start();
    let (cache, loads) = (cache(&server, HOUR).await, Loads::new(true));
    assert_eq!((loads.value(&cache).await, cache.contains("key").await), (1, false));
    assert_eq!((loads.value(&cache).await, cache.contains("key").await), (2, true));
    assert_eq!(loads.value(&cache).await, 2);
    // Another process, which does not know the key: there is an entry, though it is void.
    let other = self::cache(&server, HOUR).await;
    cache.invalidate_tag("tag").await.unwrap();
    assert_eq!((loads.value(&other).await, loads.value(&cache).await), (3, 3));
    assert_eq!((cache.counts().first_sights, other.counts().first_sights), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_that_others_wait_for_is_stored_and_shared() {
    let server = RedisServer::start();
    let (cache, loads) = (cache(&server, HOUR).await, Loads::new(false));
    let ask = || {
        let (cache, loads) = (cache.clone(), loads.clone());
        tokio::spawn(async move { loads.value(&cache).await })
    };
    let leader = ask();
    wait_until("the load has begun", async || loads.begun() == 1).await;
    let followers = [ask(), ask(), ask()];
    wait_until("they follow", async || cache.counts().coalesced == 3).await;
    loads.gate.add_permits(100);
    assert_eq!(leader.await.unwrap(), 1);
    for follower in followers {
        assert_eq!(follower.await.unwrap(), 1);
    }
    assert!(cache.contains("key").await);
}

/// The one that waited for another process's load has the second.
#[tokio::test(flavor = "multi_thread")]
async fn in_a_fleet_that_asks_at_the_same_time_there_are_two_loads() {
    let server = RedisServer::start();
    let loads = Loads::new(false);
    let (mut nodes, mut waits) = (Vec::new(), Vec::new());
    for _ in 0..4 {
        let waited = Arc::new(AtomicUsize::new(0));
        waits.push(waited.clone());
        let observer = move |event: Event| {
            let waits = matches!(event, Event::Waited { scope: WaitScope::Fleet, .. });
            waited.fetch_add(usize::from(waits), Ordering::SeqCst);
        };
        nodes.push(builder(&server, HOUR).await.observer(observer).build());
    }
    let ask = |node: &Cache| {
        let (cache, loads) = (node.clone(), loads.clone());
        tokio::spawn(async move { loads.value(&cache).await })
    };
    let mut asked = vec![ask(&nodes[0])];
    wait_until("the load has begun", async || loads.begun() == 1).await;
    asked.extend(nodes[1..].iter().map(ask));
    // Who waits looks several times a second whether the load still runs.
    wait_until("each of the others waits for it", async || {
        waits[1..].iter().all(|waited| waited.load(Ordering::SeqCst) > 0)
    })
    .await;
    loads.gate.add_permits(100);
    for one in asked {
        one.await.unwrap();
    }
    assert_eq!(loads.begun(), 2);
    assert!(nodes[0].contains("key").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_memory_store_has_a_policy_of_its_own() {
    let (cache, loads) = (Cache::builder(MemoryStore::new(1 << 20)).second_sight(HOUR).build(), Loads::new(true));
    assert_eq!((loads.value(&cache).await, loads.value(&cache).await), (1, 1));
}
