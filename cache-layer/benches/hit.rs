//! What an answer costs: from the application, from memory, from Redis, and on the way into a cache.
//!
//! The application costs next to nothing: it returns 1,580 bytes that are in memory. So `application` is the cost of axum, and
//! the difference between it and another row is the cost of the cache; a real application is slower by its own work. Requests
//! go into the router directly, without a socket, and everything but the Redis server runs on one thread. One request
//! at a time to Redis is a round trip between two sleeping processes, and as fast as the machine wakes them: expect that row
//! to differ between runs more than the others.
//!
//! ```sh
//! cargo bench -p cache-layer            # measures
//! cargo bench -p cache-layer -- --test  # only tries every row once
//! ```

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use axum::{Router, body::Body, routing::get};
use cache_layer::{
    Cache, CacheLayer,
    store::{MemoryStore, RedisStore},
};
use divan::{Bencher, Divan, counter::ItemsCount};
use http::{Request, header::HOST};
use http_body_util::BodyExt as _;
use tests::RedisServer;
use tokio::{runtime::Runtime, task::JoinSet};
use tower::ServiceExt as _;

fn main() {
    Divan::default().min_time(Duration::from_secs(1)).config_with_args().main();
}

static BODY: [u8; 1_580] = [b'x'; 1_580];

#[divan::bench]
fn application(bencher: Bencher<'_, '_>) {
    let runtime = runtime();
    let app = app();
    bencher.bench_local(|| runtime.block_on(ask(app.clone(), "/products/1".to_owned(), None)));
}

#[divan::bench]
fn memory_hit(bencher: Bencher<'_, '_>) {
    let runtime = runtime();
    bench_hits(bencher, &runtime, &memory(), 1);
}

#[divan::bench]
fn memory_miss(bencher: Bencher<'_, '_>) {
    let runtime = runtime();
    bench_misses(bencher, &runtime, memory());
}

/// The requests in flight at one time, by row; they share one connection.
#[divan::bench(args = [1, 64])]
fn redis_hit(bencher: Bencher<'_, '_>, at_once: usize) {
    let runtime = runtime();
    let server = RedisServer::start();
    bench_hits(bencher, &runtime, &redis(&runtime, &server), at_once);
}

#[divan::bench]
fn redis_miss(bencher: Bencher<'_, '_>) {
    let runtime = runtime();
    let server = RedisServer::start();
    bench_misses(bencher, &runtime, redis(&runtime, &server));
}

fn bench_hits(bencher: Bencher<'_, '_>, runtime: &Runtime, cache: &Cache, at_once: usize) {
    let app = app().layer(layer(cache.clone()));
    let path = "/products/1";
    runtime.block_on(ask(app.clone(), path.to_owned(), Some("MISS")));
    assert!(runtime.block_on(cache.drain(Duration::from_secs(10))), "the response is not stored");

    let bencher = bencher.counter(ItemsCount::new(at_once));
    if at_once == 1 {
        bencher.bench_local(|| runtime.block_on(ask(app.clone(), path.to_owned(), Some("HIT"))));
    } else {
        bencher.bench_local(|| {
            runtime.block_on(async {
                let requests: JoinSet<()> =
                    (0..at_once).map(|_| ask(app.clone(), path.to_owned(), Some("HIT"))).collect();
                requests.join_all().await;
            });
        });
    }
}

fn bench_misses(bencher: Bencher<'_, '_>, runtime: &Runtime, cache: Cache) {
    let app = app().layer(layer(cache));
    let next = AtomicU64::new(0);
    bencher.bench_local(|| {
        let path = format!("/products/{}", next.fetch_add(1, Ordering::Relaxed));
        runtime.block_on(ask(app.clone(), path, Some("MISS")));
    });
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

fn app() -> Router {
    Router::new().route("/products/{id}", get(async || &BODY[..]))
}

fn layer(cache: Cache) -> CacheLayer {
    CacheLayer::new(cache).ttl(Duration::from_secs(3600))
}

fn memory() -> Cache {
    Cache::new(MemoryStore::new(64 << 20))
}

fn redis(runtime: &Runtime, server: &RedisServer) -> Cache {
    runtime.block_on(async {
        let store = RedisStore::builder(server.url()).build().expect("a store");
        assert!(store.wait_connected(Duration::from_secs(10)).await, "{server} is not reachable");
        Cache::new(store)
    })
}

/// One request, with its response read to the end. Panics if the response does not come from where the row says.
async fn ask(app: Router, path: String, x_cache: Option<&str>) {
    let request = Request::get(path).header(HOST, "shop.example").body(Body::empty()).expect("a request");
    let response = app.oneshot(request).await.expect("a router never fails");
    let from = response.headers().get("x-cache").map(|value| value.as_bytes());
    assert_eq!(from, x_cache.map(str::as_bytes));
    let body = response.into_body().collect().await.expect("a whole body").to_bytes();
    assert_eq!(body.len(), BODY.len());
}
