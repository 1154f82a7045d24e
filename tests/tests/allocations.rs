//! How often answers allocate, counted on the thread that makes them.

use std::{convert::Infallible, time::Duration};

use allocation_counter::measure;
use bytes::Bytes;
use cache_layer::{
    Cache, CacheLayer, Coding, Rule,
    store::{MemoryStore, RedisStore},
};
use http::{
    Request, Response,
    header::{ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, ETAG, HOST},
};
use http_body_util::{BodyExt as _, Empty, Full};
use tests::RedisServer;
use tokio::runtime::Runtime;
use tower::{Layer as _, Service, service_fn};

/// Per hit in memory: the key, the two parts of the map of header fields, and the text of the fields that are new.
const PER_MEMORY_HIT: u64 = 4;

static BODY: [u8; 1_580] = [b'x'; 1_580];

#[test]
fn a_hit_in_memory_allocates_four_times() {
    let runtime = runtime();
    let mut service = service(CacheLayer::new(Cache::new(MemoryStore::new(1 << 20))));
    let miss = allocations(&runtime, &mut service, "MISS");
    let hit = (0..10).map(|_| allocations(&runtime, &mut service, "HIT")).min().unwrap();
    println!("allocations: {miss} for a miss, {hit} for a hit in memory");
    assert!(hit <= PER_MEMORY_HIT, "{hit}");
    assert!(hit < miss, "the counter counts nothing: {hit} and {miss}");
}

#[test]
fn a_rule_makes_a_hit_allocate_no_more() {
    let runtime = runtime();
    let hour = Duration::from_secs(3600);
    let rules = (0..99).map(|number| Rule::path(format!("/things-{number}/{{id}}")).ttl(hour));
    let layer = rules
        .chain([Rule::path("/products/{id}").ttl(hour)])
        .fold(CacheLayer::new(Cache::new(MemoryStore::new(1 << 20))), |layer, rule| layer.rule(rule).unwrap());
    let mut service = service(layer);
    allocations(&runtime, &mut service, "MISS");
    let hit = (0..10).map(|_| allocations(&runtime, &mut service, "HIT")).min().unwrap();
    assert!(hit <= PER_MEMORY_HIT, "{hit}");
}

/// Its fields are made once, and not for each hit.
#[test]
fn a_coding_makes_a_hit_allocate_no_more() {
    let runtime = runtime();
    // A hit has the response encoded in a task.
    let _entered = runtime.enter();
    let cache = Cache::new(MemoryStore::new(1 << 20));
    let mut service = service(CacheLayer::new(cache.clone()).encode([Coding::Gzip]));
    let mut ask = || {
        let request = Request::get("/products/1").header(HOST, "shop.example").header(ACCEPT_ENCODING, "gzip, br");
        let request = request.body(Empty::new()).unwrap();
        let mut response = None;
        let counted = measure(|| response = Some(runtime.block_on(service.call(request)).unwrap()));
        (response.unwrap(), counted.count_total)
    };
    ask();
    ask();
    assert!(runtime.block_on(cache.drain(Duration::from_secs(10))), "the response is not encoded");
    let hits = (0..10).map(|_| {
        let (response, allocations) = ask();
        assert_eq!(response.headers()[CONTENT_ENCODING], "gzip");
        allocations
    });
    let hit = hits.min().unwrap();
    println!("allocations: {hit} for a hit in memory that is sent in a coding");
    assert!(hit <= PER_MEMORY_HIT, "{hit}");
}

#[test]
fn a_hit_in_redis_allocates_less_than_a_miss() {
    let runtime = runtime();
    let server = RedisServer::start();
    let store = runtime.block_on(async {
        let store = RedisStore::builder(server.url()).operation_timeout(Duration::from_secs(10)).build().unwrap();
        assert!(store.wait_connected(Duration::from_secs(10)).await, "{server} is not reachable");
        store
    });
    let cache = Cache::new(store);
    let mut service = service(CacheLayer::new(cache.clone()));
    let miss = allocations(&runtime, &mut service, "MISS");
    assert!(runtime.block_on(cache.drain(Duration::from_secs(10))), "the response is not stored");
    let hit = (0..10).map(|_| allocations(&runtime, &mut service, "HIT")).min().unwrap();
    println!("allocations: {miss} for a miss, {hit} for a hit in Redis");
    assert!(hit < miss, "{hit} and {miss}");
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

type Answer<B> = Result<Response<B>, Infallible>;

#[expect(clippy::needless_pass_by_value, reason = "what is returned would borrow it")]
fn service(
    layer: CacheLayer,
) -> impl Service<Request<Empty<Bytes>>, Response = Response<impl http_body::Body<Error: std::fmt::Debug>>, Error = Infallible>
{
    layer.layer(service_fn(async |_| -> Answer<Full<Bytes>> {
        let response = Response::builder()
            .header(CONTENT_TYPE, "application/json")
            .header(CONTENT_LENGTH, BODY.len())
            .header(CACHE_CONTROL, "public, max-age=3600")
            .header(ETAG, "\"33a64df551425fcc\"");
        Ok(response.body(Full::new(Bytes::from_static(&BODY))).unwrap())
    }))
}

/// From the call to the end of the body, without those of the request and of the body's collector.
fn allocations<S, B>(runtime: &Runtime, service: &mut S, x_cache: &str) -> u64
where
    S: Service<Request<Empty<Bytes>>, Response = Response<B>, Error = Infallible>,
    B: http_body::Body<Error: std::fmt::Debug>,
{
    let request = Request::get("/products/1").header(HOST, "shop.example").body(Empty::new()).unwrap();
    let mut response = None;
    let counted = measure(|| {
        response = Some(runtime.block_on(service.call(request)).unwrap());
    });
    let response = response.unwrap();
    assert_eq!(response.headers()["x-cache"], x_cache);
    let mut body = std::pin::pin!(response.into_body());
    let counted_of_body = measure(|| while runtime.block_on(body.frame()).transpose().unwrap().is_some() {});
    counted.count_total + counted_of_body.count_total
}
