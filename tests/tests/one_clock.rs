//! Machines whose clocks are minutes apart, over one Redis: freshness is judged by its clock, so that none serves what is stale, nor
//! loses what is fresh. What is dated by the application's own clock stays so.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use cache_layer::{
    Cache, CacheBuilder, CacheLayer, Clock,
    store::{MemoryStore, RedisState, RedisStore, TieredStore},
};
use http::header;
use tests::{App, Origin, RedisCluster, RedisServer, echo, wait_until};

const PATIENCE: Duration = Duration::from_secs(10);
const MINUTE: i64 = 60_000;
/// Far more than an entry lives here, back and forth.
const SKEWS: [i64; 3] = [0, 10 * MINUTE, -10 * MINUTE];

/// A machine with a clock of its own.
struct Machine {
    clock: Clock,
    store: RedisStore,
    cache: CacheBuilder,
}

async fn machine(url: String, skew: i64, first_tier: bool) -> Machine {
    let clock = Clock::skewed(skew);
    let store = RedisStore::builder(url).operation_timeout(PATIENCE).local_clock(clock.clone()).build().unwrap();
    assert!(store.wait_connected(PATIENCE).await);
    let cache = match first_tier {
        true => Cache::builder(TieredStore::new(1 << 20, store.clone())),
        false => Cache::builder(store.clone()),
    };
    Machine { clock, store, cache }
}

async fn load(cache: &Cache, key: &str, ttl: Duration) -> u32 {
    let load = async || Ok::<_, Infallible>(7);
    let value = cache.get_or_load(key, load).ttl(ttl).await.unwrap();
    assert!(cache.drain(PATIENCE).await);
    value
}

async fn get(cache: &Cache, key: &str) -> Option<u32> {
    cache.get::<u32>(key).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_stores_is_fresh_to_the_others_and_no_longer_than_it_was_made_to_be() {
    for first_tier in [false, true] {
        let server = RedisServer::start();
        let mut machines = Vec::new();
        for skew in SKEWS {
            machines.push(machine(server.url(), skew, first_tier).await.cache.build());
        }
        for (number, writer) in machines.iter().enumerate() {
            let (lasting, passing) = (format!("lasting {number}"), format!("passing {number}"));
            load(writer, &lasting, Duration::from_secs(300)).await;
            load(writer, &passing, Duration::from_secs(2)).await;
            let stored = Instant::now();
            for reader in &machines {
                assert_eq!(get(reader, &lasting).await, Some(7), "{SKEWS:?}, by {number}");
            }
            for reader in &machines {
                wait_until("its time is up", async || {
                    let asked = stored.elapsed();
                    let found = get(reader, &passing).await.is_some();
                    // A second more than it lives is what clocks may differ by.
                    assert!(!found || asked < Duration::from_secs(3), "{asked:?} later, by {number}");
                    !found
                })
                .await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_set_during_a_run_makes_no_difference() {
    for first_tier in [false, true] {
        let server = RedisServer::start();
        let other = machine(server.url(), 0, first_tier).await.cache.build();
        let Machine { clock, store, cache } = machine(server.url(), 0, first_tier).await;
        let cache = cache.build();
        for (number, skew) in [60 * MINUTE, -60 * MINUTE, 0].into_iter().enumerate() {
            let (before, after) = (format!("before {number}"), format!("after {number}"));
            load(&cache, &before, Duration::from_secs(300)).await;
            clock.skew(skew);
            assert_eq!(get(&cache, &before).await, Some(7), "set to {skew}");
            load(&cache, &after, Duration::from_secs(300)).await;
            for cache in [&cache, &other] {
                assert_eq!((get(cache, &before).await, get(cache, &after).await), (Some(7), Some(7)), "set to {skew}");
            }
            let offset = store.state().clock.expect("it was asked").millis;
            assert!((offset + skew).abs() < MINUTE / 2, "{offset} beside {skew}");
        }
    }
}

/// RFC 9111, section 4.2.3: `Date` and `Expires` are the application's, whose clock is this machine's.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_application_dates_by_its_machines_clock_is_as_old_as_it_says() {
    let server = RedisServer::start();
    for skew in SKEWS {
        let Machine { clock, cache, .. } = machine(server.url(), skew, true).await;
        let cache = cache.build();
        let dating = clock.clone();
        let origin = Origin::new(move |call, request| {
            let now = dating.now();
            async move {
                let path = request.uri().path().to_owned();
                let (dated, expires) = (date(now), date(now + 300_000));
                let mut response = echo(call, &request, &[]);
                let headers = response.headers_mut();
                match &*path {
                    "/expires" => {
                        headers.insert(header::DATE, dated.parse().unwrap());
                        headers.insert(header::EXPIRES, expires.parse().unwrap());
                    }
                    "/expires-undated" => {
                        headers.insert(header::EXPIRES, expires.parse().unwrap());
                    }
                    "/dated" => {
                        headers.insert(header::DATE, dated.parse().unwrap());
                        headers.insert(header::CACHE_CONTROL, "max-age=300".parse().unwrap());
                    }
                    _ => {
                        headers.insert(header::CACHE_CONTROL, "max-age=300".parse().unwrap());
                    }
                }
                Ok(response)
            }
        });
        let app = App::new(cache.clone(), &origin, |layer: CacheLayer| layer);
        let far = machine(server.url(), -skew, true).await.cache.build();
        let far = App::new(far, &origin, |layer: CacheLayer| layer);
        cache.invalidate_all().await.unwrap();
        for path in ["/expires", "/expires-undated", "/dated", "/undated"] {
            let now = clock.now();
            app.get(path, &[]).await;
            app.settled().await;
            for app in [&app, &far] {
                let hit = app.get(path, &[]).await;
                let (status, age) = (hit.cache_status(), hit.header("age").unwrap().parse::<u64>().unwrap());
                assert_eq!(hit.x_cache(), "HIT", "{path}, {skew} ms ahead: {hit:?}");
                assert!(
                    age < 60 && status.ttl.is_some_and(|ttl| (240..=300).contains(&ttl)),
                    "{path}, {skew}: {hit:?}"
                );
                let dated = seconds_between(hit.header("date").unwrap_or("none"), now);
                assert!(path == "/expires-undated" || dated < 60, "{path}, {skew}: {hit:?}");
            }
        }
    }
}

fn date(millis: u64) -> String {
    httpdate::fmt_http_date(std::time::UNIX_EPOCH + Duration::from_millis(millis))
}

/// How many seconds there are between a date and a moment.
fn seconds_between(date: &str, now: u64) -> u64 {
    let date = httpdate::parse_http_date(date).unwrap().duration_since(std::time::UNIX_EPOCH).unwrap();
    date.as_secs().abs_diff(now / 1000)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_given_is_the_one_that_counts() {
    let server = RedisServer::start();
    // The machine's own, by somebody's will: it is off, and so is what is judged by it.
    let Machine { clock, cache, .. } = machine(server.url(), -10 * MINUTE, false).await;
    let own = cache.clock(clock).build();
    let right = machine(server.url(), 0, false).await.cache.build();
    load(&right, "key", Duration::from_secs(300)).await;
    assert_eq!(get(&own, "key").await, None, "it comes from the future");

    let manual = Clock::manual();
    let tested = machine(server.url(), 0, false).await.cache.clock(manual.clone()).build();
    load(&tested, "tested", Duration::from_secs(300)).await;
    manual.advance(Duration::from_secs(299));
    assert_eq!(get(&tested, "tested").await, Some(7));
    manual.advance(Duration::from_secs(2));
    assert_eq!(get(&tested, "tested").await, None);
}

/// The caches of a process may have different clocks: one in memory has the machine's, one over Redis has the server's.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_made_from_a_value_is_fresh_as_long_as_that_whatever_the_clocks_of_the_two_caches_say() {
    let server = RedisServer::start();
    for skew in SKEWS {
        let Machine { clock, cache, .. } = machine(server.url(), skew, false).await;
        let (inner, outer) = (cache.build(), Cache::builder(MemoryStore::new(1 << 20)).clock(clock).build());
        inner.invalidate_all().await.unwrap();
        let made = Arc::new(AtomicU32::new(0));
        let made_from = async || {
            let (made, source) = (made.clone(), inner.clone());
            let load = async move || {
                made.fetch_add(1, Ordering::Relaxed);
                source.get_or_load("inner", async || Ok::<_, Infallible>(7)).ttl(Duration::from_secs(2)).await
            };
            // Kept for longer, since a store goes by the system's clock.
            let made = outer.get_or_load("outer", load).ttl(Duration::from_secs(900)).keep(Duration::from_secs(7200));
            assert_eq!(made.await, Ok(7));
            assert!(outer.drain(PATIENCE).await && inner.drain(PATIENCE).await);
        };
        made_from().await;
        made_from().await;
        assert_eq!(made.load(Ordering::Relaxed), 1, "{skew} ms ahead: it is stored");
        wait_until("what it is made from is stale", async || {
            made_from().await;
            made.load(Ordering::Relaxed) > 1
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_with_a_clock_of_its_own_stores_and_finds_what_it_has_stored() {
    let server = RedisServer::start();
    for skew in SKEWS {
        let Machine { clock, cache, .. } = machine(server.url(), skew, false).await;
        let own = cache.clock(clock).build();
        let (loaded, set) = (format!("loaded {skew}"), format!("set {skew}"));
        load(&own, &loaded, Duration::from_secs(300)).await;
        own.set(&*set, &7).ttl(Duration::from_secs(300)).await.unwrap();
        assert_eq!((get(&own, &loaded).await, get(&own, &set).await), (Some(7), Some(7)), "{skew}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_cluster_it_is_the_clock_of_the_server_that_has_the_tags() {
    let cluster = RedisCluster::start(3, 0);
    let writer = machine(cluster.url(), 10 * MINUTE, true).await;
    let reader = machine(cluster.url(), -10 * MINUTE, true).await;
    let offset = |machine: &Machine| {
        let RedisState { clock, .. } = machine.store.state();
        clock.expect("it was asked").millis
    };
    assert!((offset(&writer) + 10 * MINUTE).abs() < MINUTE, "{}", offset(&writer));
    assert!((offset(&reader) - 10 * MINUTE).abs() < MINUTE, "{}", offset(&reader));
    let (writer, reader) = (writer.cache.build(), reader.cache.build());
    load(&writer, "key", Duration::from_secs(300)).await;
    assert_eq!(get(&reader, "key").await, Some(7));
}

/// An untrusted owner of the Redis could set its clock back, so that expired entries would be served.
#[tokio::test(flavor = "multi_thread")]
async fn where_redis_is_not_trusted_its_clock_is_not_either() {
    use cache_layer::store::KeyRing;
    let server = RedisServer::start();
    let machine = async |skew: i64| {
        let store = RedisStore::builder(server.url()).operation_timeout(PATIENCE).local_clock(Clock::skewed(skew));
        let store = store.sealed_with(KeyRing::new([1; 32], [2; 32])).build().unwrap();
        assert!(store.wait_connected(PATIENCE).await);
        (Cache::new(store.clone()), store)
    };
    let ((writer, _), (reader, store)) = (machine(0).await, machine(-10 * MINUTE).await);
    load(&writer, "key", Duration::from_secs(300)).await;
    assert_eq!(get(&reader, "key").await, None, "by this machine's clock, it comes from the future");
    let offset = store.state().clock.expect("it is measured").millis;
    assert!((offset - 10 * MINUTE).abs() < MINUTE, "{offset}");
}
