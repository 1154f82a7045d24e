//! The cost of a typed value from memory, from Redis, and of many at once, compared with hand-written code.
//!
//! The value is a product of 150 bytes of JSON, which every hit decodes anew. Everything but the Redis server runs on one
//! thread. `by_hand` is what one would write with the `redis` crate: an `MGET` of the names, and serde on each reply; it
//! checks no tag, no deadline and no checksum.
//!
//! ```sh
//! cargo bench -p cache-layer --bench typed
//! ```

use std::{
    convert::Infallible,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use cache_layer::{
    Cache, Clock,
    store::{MemoryStore, RedisStore, RedisStoreBuilder, TieredStore},
};
use divan::{Bencher, Divan, black_box};
use redis::AsyncCommands as _;
use tests::RedisServer;
use tokio::runtime::Runtime;

use product::{Product, product};

mod product;

const MANY: u64 = 100;

fn main() {
    Divan::default().min_time(Duration::from_secs(1)).config_with_args().main();
}

#[divan::bench]
fn get_or_load_hit_in_memory(bencher: Bencher<'_, '_>) {
    let runtime = runtime();
    bench_hit(bencher, &runtime, &Cache::new(MemoryStore::new(64 << 20)));
}

#[divan::bench]
fn get_or_load_hit_in_the_first_tier(bencher: Bencher<'_, '_>) {
    let runtime = runtime();
    let server = RedisServer::start();
    let cache = Cache::new(TieredStore::new(64 << 20, connect(&runtime, &server)));
    bench_hit(bencher, &runtime, &cache);
}

#[divan::bench]
fn get_or_load_hit_in_redis(bencher: Bencher<'_, '_>) {
    let runtime = runtime();
    let server = RedisServer::start();
    bench_hit(bencher, &runtime, &Cache::new(connect(&runtime, &server)));
}

#[divan::bench]
fn get_many_100_from_redis(bencher: Bencher<'_, '_>) {
    let runtime = runtime();
    let server = RedisServer::start();
    let cache = Cache::new(connect(&runtime, &server));
    let products: Vec<_> = (0..MANY).map(product).collect();
    let set = cache.set_many(products.iter().map(|product| (("product", product.id), product))).tags(["products"]);
    runtime.block_on(set.into_future()).expect("stored");
    bencher.bench_local(|| {
        let found = runtime.block_on(cache.get_many::<Product>((0..MANY).map(|id| ("product", id))));
        assert!(found.iter().all(Option::is_some));
        black_box(found)
    });
}

#[divan::bench]
fn get_many_100_by_hand(bencher: Bencher<'_, '_>) {
    let runtime = runtime();
    let server = RedisServer::start();
    let client = redis::Client::open(server.url()).expect("a URL");
    let mut connection = runtime.block_on(client.get_multiplexed_async_connection()).expect("a connection");
    runtime.block_on(async {
        for id in 0..MANY {
            let value = serde_json::to_vec(&product(id)).expect("JSON");
            let () = connection.set_ex(format!("product:{id}"), value, 300).await.expect("stored");
        }
    });
    bencher.bench_local(|| {
        let names: Vec<String> = (0..MANY).map(|id| format!("product:{id}")).collect();
        let replies: Vec<Option<Vec<u8>>> = runtime.block_on(connection.mget(names)).expect("found");
        let found: Vec<Product> =
            replies.iter().flatten().map(|reply| serde_json::from_slice(reply).expect("a product")).collect();
        assert_eq!(found.len() as u64, MANY);
        black_box(found)
    });
}

/// To compare with `get_many_100_by_hand`: all keys are stored.
#[divan::bench]
fn get_or_load_many_100_from_redis(bencher: Bencher<'_, '_>) {
    let runtime = runtime();
    let server = RedisServer::start();
    let cache = Cache::new(connect(&runtime, &server));
    let products: Vec<_> = (0..MANY).map(|id| Some(product(id))).collect();
    let set = cache.set_many(products.iter().enumerate().map(|(id, product)| (("product", id), product)));
    runtime.block_on(set.tags(["products"]).into_future()).expect("stored");
    bencher.bench_local(|| {
        let load = async |_: Vec<(&'static str, u64)>| -> Result<Vec<_>, Infallible> { unreachable!("all are there") };
        let keys = (0..MANY).map(|id| ("product", id));
        let found: Vec<Option<Product>> =
            runtime.block_on(cache.get_or_load_many(keys, load).into_future()).expect("found");
        assert!(found.iter().all(Option::is_some));
        black_box(found)
    });
}

/// No key is stored: a look-up, a load, and a hundred values are stored.
#[divan::bench]
fn get_or_load_many_100_cold(bencher: Bencher<'_, '_>) {
    let runtime = runtime();
    let server = RedisServer::start();
    let cache = Cache::new(connect(&runtime, &server));
    let first = AtomicU64::new(0);
    bencher.bench_local(|| {
        let first = first.fetch_add(MANY, Ordering::Relaxed);
        let load = async |missing: Vec<(&'static str, u64)>| {
            Ok::<_, Infallible>(missing.into_iter().map(|key| (key, product(key.1))).collect::<Vec<_>>())
        };
        let keys = (first..first + MANY).map(|id| ("product", id));
        runtime.block_on(async {
            let found = cache.get_or_load_many(keys, load).await.expect("loaded");
            // The hand-written code stores a value before it returns it.
            assert!(cache.drain(Duration::from_secs(10)).await);
            black_box(found)
        })
    });
}

/// The same by hand: an `MGET`, and a pipeline of `SET`s. Callers do not wait for each other, and values can be invalidated by
/// name only.
#[divan::bench]
fn get_or_load_many_100_cold_by_hand(bencher: Bencher<'_, '_>) {
    let runtime = runtime();
    let server = RedisServer::start();
    let client = redis::Client::open(server.url()).expect("a URL");
    let mut connection = runtime.block_on(client.get_multiplexed_async_connection()).expect("a connection");
    let first = AtomicU64::new(0);
    bencher.bench_local(|| {
        let first = first.fetch_add(MANY, Ordering::Relaxed);
        let ids: Vec<u64> = (first..first + MANY).collect();
        runtime.block_on(async {
            let names: Vec<String> = ids.iter().map(|id| format!("product:{id}")).collect();
            let replies: Vec<Option<Vec<u8>>> = connection.mget(&names).await.expect("an answer");
            assert!(replies.iter().all(Option::is_none));
            let found: Vec<Product> = ids.iter().map(|id| product(*id)).collect();
            let mut pipeline = redis::pipe();
            for (name, product) in names.iter().zip(&found) {
                pipeline.set_ex(name, serde_json::to_vec(product).expect("JSON"), 300).ignore();
            }
            let () = pipeline.query_async(&mut connection).await.expect("stored");
            black_box(found)
        })
    });
}

/// A load of 300 ms, a stale value, and a soft timeout of 10 ms: the slowest call matters.
#[divan::bench(sample_count = 200, sample_size = 1, min_time = 0)]
fn stale_after_a_soft_timeout_of_10_ms(bencher: Bencher<'_, '_>) {
    let runtime = runtime();
    let clock = Clock::manual();
    let cache = Cache::builder(MemoryStore::new(64 << 20)).clock(clock.clone()).build();
    let second = Duration::from_secs(1);
    let ask = |load_time: Duration| {
        let load = async move || {
            tokio::time::sleep(load_time).await;
            Ok::<_, Infallible>(product(1))
        };
        let ask = cache.get_or_load(("product", 1), load).ttl(second).stale_if_error(3600 * second);
        runtime.block_on(ask.soft_timeout(Duration::from_millis(10)).into_future()).expect("an answer")
    };
    ask(Duration::ZERO);
    runtime.block_on(cache.drain(second));
    bencher.with_inputs(|| clock.advance(2 * second)).bench_local_values(|()| ask(Duration::from_millis(300)));
}

/// A value of 4 KiB from Redis: the difference is the cost of opening a sealed entry.
#[divan::bench]
fn get_4_kib_from_redis(bencher: Bencher<'_, '_>) {
    bench_get_4_kib(bencher, |store| store);
}

#[cfg(feature = "sealed")]
#[divan::bench]
fn get_4_kib_from_a_sealed_redis(bencher: Bencher<'_, '_>) {
    bench_get_4_kib(bencher, |store| store.sealed_with(cache_layer::store::KeyRing::new([1; 32], [2; 32])));
}

fn bench_get_4_kib(bencher: Bencher<'_, '_>, set: impl FnOnce(RedisStoreBuilder) -> RedisStoreBuilder) {
    let runtime = runtime();
    let server = RedisServer::start();
    let cache = runtime.block_on(async {
        let store = set(RedisStore::builder(server.url())).build().expect("a store");
        assert!(store.wait_connected(Duration::from_secs(10)).await, "{server} is not reachable");
        let cache = Cache::new(store);
        cache.set("page", &"x".repeat(4096)).await.expect("stored");
        cache
    });
    bencher.bench_local(|| runtime.block_on(cache.get::<String>("page")).expect("found"));
}

fn bench_hit(bencher: Bencher<'_, '_>, runtime: &Runtime, cache: &Cache) {
    let set = cache.set(("product", 1), &product(1)).ttl(Duration::from_secs(3600)).tags(["product:1"]);
    runtime.block_on(set.into_future()).expect("stored");
    bencher.bench_local(|| {
        let load = async || -> Result<Product, Infallible> { unreachable!("it is there") };
        runtime.block_on(cache.get_or_load(("product", 1), load).into_future())
    });
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

fn connect(runtime: &Runtime, server: &RedisServer) -> RedisStore {
    runtime.block_on(async {
        let store = RedisStore::builder(server.url()).build().expect("a store");
        assert!(store.wait_connected(Duration::from_secs(10)).await, "{server} is not reachable");
        store
    })
}
