//! The limit of a store in memory is held by what its entries take, and not by what they say: with everything allocated
//! counted, and each entry asked for, whatever it is made of.

use std::{convert::Infallible, time::Duration};

use allocation_counter::{AllocationInfo, measure};
use bytes::Bytes;
use cache_layer::{
    Cache, CacheLayer, CacheService, Coding, Encode,
    store::{MemoryStore, RedisStore, TieredStore},
};
use http::{HeaderName, HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, Empty, Full};
use tests::RedisServer;
use tokio::runtime::Runtime;
use tower::{Layer as _, Service as _, service_fn};

const LIMIT: u64 = 4 << 20;

/// The shapes of responses.
#[derive(Clone, Copy, Debug)]
struct Shape {
    /// Fields of their own names, so long in their values.
    fields: (usize, usize),
    /// Fields of one name.
    same: usize,
    tags: usize,
    body: usize,
    varies: bool,
    /// Behind a path of that length.
    path: usize,
    /// Sent in two codings as well.
    encoded: bool,
}

const PLAIN: Shape = Shape { fields: (2, 10), same: 0, tags: 0, body: 100, varies: false, path: 10, encoded: false };

const SHAPES: [Shape; 13] = [
    PLAIN,
    Shape { fields: (15, 20), body: 1_000, ..PLAIN },
    Shape { fields: (30, 30), ..PLAIN },
    Shape { fields: (90, 1), ..PLAIN },
    Shape { fields: (90, 900), ..PLAIN },
    Shape { same: 60, ..PLAIN },
    Shape { tags: 32, ..PLAIN },
    Shape { body: 20_000, ..PLAIN },
    Shape { varies: true, ..PLAIN },
    Shape { path: 5_000, ..PLAIN },
    Shape { body: 1_000, encoded: true, ..PLAIN },
    Shape { body: 20_000, encoded: true, varies: true, ..PLAIN },
    Shape { fields: (15, 20), body: 300, encoded: true, ..PLAIN },
];

fn respond(shape: Shape) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(vec![b'x'; shape.body])));
    if shape.encoded {
        response.headers_mut().insert("etag", HeaderValue::from_static("\"33a64df551425fcc\""));
        response.headers_mut().insert("content-length", HeaderValue::from(shape.body));
    }
    let headers = response.headers_mut();
    headers.insert("cache-control", HeaderValue::from_static("max-age=3600"));
    headers.insert("content-type", HeaderValue::from_static("text/plain"));
    let (count, length) = shape.fields;
    for number in 0..count {
        let name = HeaderName::from_bytes(format!("x-{number}").as_bytes()).unwrap();
        headers.insert(name, HeaderValue::from_bytes(&vec![b'v'; length]).unwrap());
    }
    for number in 0..shape.same {
        headers.append("link", HeaderValue::from_str(&format!("</{number}>")).unwrap());
    }
    if shape.tags > 0 {
        let tags: Vec<String> = (0..shape.tags).map(|number| format!("tag:{number}")).collect();
        headers.insert("cache-tag", HeaderValue::from_str(&tags.join(",")).unwrap());
    }
    if shape.varies {
        headers.insert("vary", HeaderValue::from_static("accept-language, x-region"));
    }
    response
}

fn layer(cache: &Cache, shape: Shape) -> CacheLayer {
    let codings = if shape.encoded { &[Coding::Zstd, Coding::Gzip][..] } else { &[] };
    CacheLayer::new(cache.clone()).encode(Encode::new(codings.iter().copied()).at_once(8))
}

async fn answer(shape: Shape, _: Request<Empty<Bytes>>) -> Result<Response<Full<Bytes>>, Infallible> {
    Ok(respond(shape))
}

fn runtime() -> Runtime {
    // On this thread, so that everything is counted.
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// The memory of a store, as the store counts it and as the allocator counts it, after `fill` has filled and read it.
fn held<S>(store: impl FnOnce() -> S, fill: impl FnOnce(&S), bytes: impl FnOnce(&S) -> u64) -> (u64, u64) {
    let mut kept = None;
    let AllocationInfo { bytes_current, count_current, .. } = measure(|| {
        let store = store();
        fill(&store);
        kept = Some(store);
    });
    // A block has a head of its own in most allocators.
    (bytes(&kept.unwrap()), (bytes_current + 8 * count_current).try_into().unwrap())
}

fn assert_held(what: &str, (counted, allocated): (u64, u64)) {
    println!("{what}: counted {counted}, allocated {allocated}, {:.2}", allocated as f64 / counted as f64);
    assert!(counted > LIMIT / 10 * 8, "{what}: the store is not full: {counted}");
    assert!(allocated <= counted / 10 * 11, "{what}: {allocated} bytes are allocated where {counted} are counted");
    assert!(allocated >= counted / 2, "{what}: {allocated} bytes are allocated where {counted} are counted");
}

/// Asks for pages, and for each of them again at once, until the store is full, and for some more.
async fn fill<S, F>(cache: &Cache, shape: Shape, service: &mut CacheService<S>, bytes: impl Fn() -> u64)
where
    S: tower::Service<Request<Empty<Bytes>>, Response = Response<Full<Bytes>>, Error = Infallible, Future = F>
        + Clone
        + Send
        + 'static,
    F: Future<Output = Result<Response<Full<Bytes>>, Infallible>> + Send + 'static,
{
    let (mut number, mut last) = (0, usize::MAX);
    while number < last {
        // Only the second answer to a client that accepts a coding is in it.
        let accepted: &[&str] =
            if shape.encoded { &["gzip", "zstd", "gzip", "zstd", "identity"] } else { &["identity"; 3] };
        for accepts in accepted {
            let path = format!("/{number:0length$}", length = shape.path);
            let request = Request::get(path).header("host", "shop.example").header("accept-language", "de");
            let request = request.header("accept-encoding", *accepts);
            let response = service.call(request.body(Empty::new()).unwrap()).await.unwrap();
            response.into_body().collect().await.unwrap();
            assert!(cache.drain(Duration::from_secs(30)).await);
        }
        number += 1;
        if last == usize::MAX && bytes() > LIMIT / 10 * 9 {
            last = number + number / 3;
        }
    }
}

#[test]
fn a_memory_store_takes_what_it_counts_however_its_responses_are_made() {
    let runtime = runtime();
    for shape in SHAPES {
        let fill = |store: &MemoryStore| {
            let cache = Cache::new(store.clone());
            let mut service = layer(&cache, shape).layer(service_fn(move |request| answer(shape, request)));
            runtime.block_on(fill(&cache, shape, &mut service, || store.bytes()));
        };
        assert_held(&format!("{shape:?}"), held(|| MemoryStore::new(LIMIT), fill, MemoryStore::bytes));
    }
}

#[test]
fn a_memory_store_takes_what_it_counts_of_values() {
    let runtime = runtime();
    for (count, value) in [(10_000_u64, "v".to_owned()), (5_000, "v".repeat(1_100)), (200, "v".repeat(33_000))] {
        let fill = |store: &MemoryStore| {
            let cache = Cache::new(store.clone());
            runtime.block_on(async {
                for number in 0..count {
                    cache.set(("value", number), &value).ttl(Duration::from_secs(3_600)).await.unwrap();
                    cache.get::<String>(("value", number)).await;
                }
            });
        };
        let length = value.len();
        assert_held(&format!("values of {length}"), held(|| MemoryStore::new(LIMIT), fill, MemoryStore::bytes));
    }
}

#[test]
fn a_first_tier_takes_what_it_counts_of_what_it_read() {
    let runtime = runtime();
    // The shapes whose entries differ in memory, if they came from Redis.
    for shape in
        SHAPES.into_iter().filter(|shape| shape.fields.0 > 60 || shape.tags > 0 || shape.body > 10_000 || shape.encoded)
    {
        let server = RedisServer::start();
        let store = runtime.block_on(async {
            let redis = RedisStore::builder(server.url()).operation_timeout(Duration::from_secs(10)).build().unwrap();
            assert!(redis.wait_connected(Duration::from_secs(10)).await, "{server} is not reachable");
            redis
        });
        let fill = |store: &TieredStore| {
            let cache = Cache::new(store.clone());
            let mut service = layer(&cache, shape).layer(service_fn(move |request| answer(shape, request)));
            runtime.block_on(fill(&cache, shape, &mut service, || store.memory_bytes()));
        };
        let held = held(|| TieredStore::new(LIMIT, store), fill, TieredStore::memory_bytes);
        assert_held(&format!("{shape:?}"), held);
    }
}

/// A page that is half as long in a coding, and not the same as any other.
fn compressible(page: u64) -> Response<Full<Bytes>> {
    let mut random = fastrand::Rng::with_seed(page);
    let body: String = (0..4_000).map(|_| random.digit(16)).collect();
    let mut response = respond(PLAIN);
    *response.body_mut() = Full::new(body.into());
    response
}

#[test]
fn a_full_store_stays_within_its_limit_while_its_pages_are_asked_for_in_more_codings() {
    runtime().block_on(async {
        let store = MemoryStore::new(LIMIT);
        let cache = Cache::new(store.clone());
        let layer = CacheLayer::new(cache.clone()).encode(Encode::new([Coding::Zstd, Coding::Gzip]).at_once(8));
        let mut service = layer.layer(service_fn(async |request: Request<Empty<Bytes>>| {
            let page = request.uri().path()[1..].parse().unwrap();
            Ok::<_, Infallible>(compressible(page))
        }));
        let mut ask = async |page: u64, accepts: &str| {
            let request = Request::get(format!("/{page}")).header("host", "shop.example");
            let request = request.header("accept-encoding", accepts).body(Empty::new()).unwrap();
            service.call(request).await.unwrap().into_body().collect().await.unwrap();
            assert!(cache.drain(Duration::from_secs(30)).await);
        };
        let mut pages = 0;
        while store.bytes() < LIMIT / 100 * 95 {
            for _ in 0..2 {
                ask(pages, "identity").await;
            }
            pages += 1;
        }
        for (page, accepts) in (0..pages).flat_map(|page| [(page, "gzip"), (page, "zstd")]) {
            ask(page, accepts).await;
            assert!(
                store.bytes() <= LIMIT,
                "{} bytes once page {page} of {pages} is there in {accepts}",
                store.bytes()
            );
        }
    });
}

/// The memory of so many pages, each of which was requested in all these codings: as counted by the store, as allocated, and the
/// bytes of the coded content.
fn pages_in(codings: &'static [Coding], pages: usize) -> [u64; 3] {
    let runtime = runtime();
    let mut coded = 0;
    let fill = |store: &MemoryStore| {
        let cache = Cache::new(store.clone());
        let layer = CacheLayer::new(cache.clone()).encode(Encode::new(codings.iter().copied()).at_once(8));
        let shape = Shape { body: 1_580, encoded: true, ..PLAIN };
        let mut service = layer.layer(service_fn(move |request| answer(shape, request)));
        runtime.block_on(async {
            for (page, round) in (0..pages).flat_map(|page| (0..3).map(move |round| (page, round))) {
                for accepts in ["gzip", "zstd", "identity"] {
                    let request = Request::get(format!("/{page:04}")).header("host", "shop.example");
                    let request = request.header("accept-encoding", accepts).body(Empty::new()).unwrap();
                    let response = service.call(request).await.unwrap();
                    let is_coded = response.headers().contains_key("content-encoding");
                    let length = response.into_body().collect().await.unwrap().to_bytes().len();
                    coded += if is_coded && round == 2 { length as u64 } else { 0 };
                    assert!(cache.drain(Duration::from_secs(30)).await);
                }
            }
        });
    };
    let (counted, allocated) = held(|| MemoryStore::new(64 << 20), fill, MemoryStore::bytes);
    [counted, allocated, coded]
}

#[test]
fn two_codings_take_little_more_than_their_content() {
    const BOTH: &[Coding] = &[Coding::Zstd, Coding::Gzip];
    /// Pages by which two stores differ, so that what a store takes by itself does not count.
    const PAGES: u64 = 256;
    let each = |codings| {
        let (few, many) = (pages_in(codings, 256), pages_in(codings, 512));
        [0, 1, 2].map(|of| (many[of] - few[of]) / PAGES)
    };
    // The first of everything is made here.
    pages_in(BOTH, 1);
    let [counted_plain, plain, _] = each(&[]);
    let [counted, allocated, coded] = each(BOTH);
    let (more, counted_more) = (allocated - plain, counted - counted_plain);
    println!(
        "an entry takes {plain} bytes, with two codings {allocated}: {coded} are content in them, {} beside",
        more - coded
    );
    println!("{counted_more} more are counted");
    assert!(coded > 30, "both codings are there");
    assert!((300..=1_200).contains(&(more - coded)), "{more}, {coded} of content");
    assert!(
        (more..=more / 4 * 5).contains(&counted_more),
        "{more} more are allocated where {counted_more} are counted"
    );
}
