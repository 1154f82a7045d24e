//! One row of requests, as many as are asked for, on one thread and without a socket: what `run` counts the instructions
//! of. The application is the cheapest there can be, so that what a row has more than `application` is the cache's part.

use std::{
    convert::Infallible,
    env,
    fmt::Debug,
    process::{self, ExitCode},
    time::Duration,
};

use bytes::Bytes;
use cache_layer::{
    Cache, CacheLayer, Coding, Key, Parts, Rule,
    store::{MemoryStore, RedisStore},
};
use http::{
    Request, Response,
    header::{
        ACCEPT, ACCEPT_ENCODING, ACCEPT_LANGUAGE, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, ETAG, HOST, USER_AGENT,
        VARY,
    },
};
use http_body::Body;
use http_body_util::{BodyExt as _, Empty, Full};
use redis::{AsyncCommands as _, aio::MultiplexedConnection};
use tokio::runtime::Runtime;
use tower::{Layer as _, Service, ServiceExt as _, service_fn};

/// Requests before those that are asked for: the first one stores, and the next ones have it encoded.
const WARM_UP: usize = 8;

const MINUTE: Duration = Duration::from_secs(60);

static BODY: [u8; 1_580] = [b'x'; 1_580];

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [row, count, redis @ ..] = &arguments[..] else { return usage() };
    let redis = redis.first().map_or("redis://127.0.0.1:6379", String::as_str);
    let (Ok(count), Ok(runtime)) = (count.parse(), tokio::runtime::Builder::new_current_thread().enable_all().build())
    else {
        return usage();
    };
    match row.as_str() {
        "application" => ask(&runtime, &service_fn(application), Paths::Same, count, None),
        "memory-hit" => ask(&runtime, &cached(), Paths::Same, count, Some("HIT")),
        "memory-hit-rules" => ask(&runtime, &ruled(), Paths::Same, count, Some("HIT")),
        "memory-hit-verified" => ask(&runtime, &verified(), Paths::Same, count, Some("HIT")),
        "memory-hit-variant" => ask(&runtime, &cached(), Paths::SameVaried, count, Some("HIT")),
        "memory-hit-encoded" => ask(&runtime, &encoding(), Paths::SameEncoded, count, Some("HIT")),
        "memory-miss" => ask(&runtime, &cached(), Paths::New, count, Some("MISS")),
        "memory-miss-encoded" => ask(&runtime, &encoding(), Paths::NewEncoded, count, Some("MISS")),
        "bypass" => ask(&runtime, &cached(), Paths::Personal, count, Some("BYPASS")),
        "redis-miss" => ask(&runtime, &runtime.block_on(over_redis(redis)), Paths::New, count, Some("MISS")),
        "redis-miss-by-hand" => ask(&runtime, &runtime.block_on(by_hand(redis)), Paths::New, count, None),
        "key" => (0..count).for_each(|_| {
            let parts = ["http", "://", "shop.example", "/products/1?currency=EUR"];
            std::hint::black_box(Key::new(std::hint::black_box(parts)));
        }),
        "redis-hit-decode" => {
            let parts = Parts::new(BODY.len());
            let reply = parts.encode();
            (0..count).for_each(|_| assert!(parts.answer(reply.to_vec()).status().is_success()));
        }
        _ => return usage(),
    }
    ExitCode::SUCCESS
}

fn usage() -> ExitCode {
    eprintln!(
        "usage: instructions application|memory-hit|memory-hit-rules|memory-hit-verified|memory-hit-variant|memory-hit-encoded|\
         memory-miss|memory-miss-encoded|bypass|key|redis-hit-decode COUNT\n       instructions redis-miss|redis-miss-by-hand COUNT \
         redis://HOST:PORT"
    );
    ExitCode::FAILURE
}

/// Which paths to ask for.
#[derive(Clone, Copy)]
enum Paths {
    Same,
    SameVaried,
    /// As a browser asks, which accepts a few codings.
    SameEncoded,
    New,
    /// The same, as a browser asks: what is stored may be encoded, once it is asked for again.
    NewEncoded,
    /// With `no-store`.
    Personal,
}

impl Paths {
    fn request(self, number: usize) -> Request<Empty<Bytes>> {
        let path = match self {
            Self::Same | Self::SameEncoded | Self::Personal => "/products/1".to_owned(),
            Self::SameVaried => "/varied/products/1".to_owned(),
            Self::New | Self::NewEncoded => format!("/products/{number}"),
        };
        let request = Request::get(path)
            .header(HOST, "shop.example")
            .header(USER_AGENT, "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0")
            .header(ACCEPT, "application/json")
            .header(ACCEPT_LANGUAGE, "de,en;q=0.5");
        let request = match self {
            Self::Personal => request.header(CACHE_CONTROL, "no-store"),
            Self::SameEncoded | Self::NewEncoded => request.header(ACCEPT_ENCODING, "gzip, deflate, br, zstd"),
            Self::Same | Self::SameVaried | Self::New => request,
        };
        request.body(Empty::new()).expect("a request")
    }
}

async fn application(request: Request<Empty<Bytes>>) -> Result<Response<Full<Bytes>>, Infallible> {
    let response = Response::builder()
        .header(CONTENT_TYPE, "application/json")
        .header(CONTENT_LENGTH, BODY.len())
        .header(CACHE_CONTROL, "public, max-age=3600")
        .header(ETAG, "\"33a64df551425fcc\"");
    let response =
        if request.uri().path().starts_with("/varied") { response.header(VARY, "accept-language") } else { response };
    Ok(response.body(Full::new(Bytes::from_static(&BODY))).expect("a response"))
}

fn cached()
-> impl Service<Request<Empty<Bytes>>, Response = Response<impl Body<Error: Debug>>, Error = Infallible> + Clone {
    CacheLayer::new(Cache::new(MemoryStore::new(64 << 20))).layer(service_fn(application))
}

/// As [`cached`], and what is stored is encoded.
fn encoding()
-> impl Service<Request<Empty<Bytes>>, Response = Response<impl Body<Error: Debug>>, Error = Infallible> + Clone {
    CacheLayer::new(Cache::new(MemoryStore::new(64 << 20))).encode([Coding::Gzip]).layer(service_fn(application))
}

/// As [`cached`], with a hundred rules, one of which is for what is asked for.
fn ruled()
-> impl Service<Request<Empty<Bytes>>, Response = Response<impl Body<Error: Debug>>, Error = Infallible> + Clone {
    let hour = Duration::from_secs(3600);
    let layer = CacheLayer::new(Cache::new(MemoryStore::new(64 << 20)));
    let others = (0..99).map(|number| Rule::path(format!("/things-{number}/{{id}}")).ttl(hour));
    let rules = others.chain([Rule::path("/products/{id}").ttl(hour)]);
    rules.fold(layer, |layer, rule| layer.rule(rule).expect("rules")).layer(service_fn(application))
}

/// As [`cached`], and one hit in a thousand is verified.
fn verified()
-> impl Service<Request<Empty<Bytes>>, Response = Response<impl Body<Error: Debug>>, Error = Infallible> + Clone {
    CacheLayer::new(Cache::new(MemoryStore::new(64 << 20))).verify(0.001).layer(service_fn(application))
}

/// As [`cached`], over a Redis.
async fn over_redis(
    redis: &str,
) -> impl Service<Request<Empty<Bytes>>, Response = Response<impl Body<Error: Debug>>, Error = Infallible> + Clone {
    let prefix = format!("{}", process::id());
    let store =
        RedisStore::builder(redis).prefix(prefix).operation_timeout(Duration::from_secs(10)).build().expect("a store");
    store.wait_connected(MINUTE).await;
    CacheLayer::new(Cache::new(store)).layer(service_fn(application))
}

/// What one writes by hand: a `GET`, and a `SET` when there is nothing.
async fn by_hand(
    redis: &str,
) -> impl Service<Request<Empty<Bytes>>, Response = Response<Full<Bytes>>, Error = Infallible> + Clone {
    let client = redis::Client::open(redis).expect("an address");
    let connection = client.get_multiplexed_async_connection().await.expect("a connection");
    service_fn(move |request| answer_by_hand(connection.clone(), request))
}

async fn answer_by_hand(
    mut redis: MultiplexedConnection,
    request: Request<Empty<Bytes>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let key = format!("{}:{}", process::id(), request.uri());
    let found: Option<Vec<u8>> = redis.get(&key).await.expect("a reply");
    let response = application(request).await?;
    match found {
        Some(found) => Ok(response.map(|_| Full::from(found))),
        None => {
            let () = redis.set_ex(&key, &BODY[..], 3_600).await.expect("a reply");
            Ok(response)
        }
    }
}

/// Asks so many times, each answer read to the end. A row whose answers come from elsewhere than it says measures nothing.
fn ask<S, B>(runtime: &Runtime, service: &S, paths: Paths, count: usize, x_cache: Option<&str>)
where
    S: Service<Request<Empty<Bytes>>, Response = Response<B>, Error = Infallible> + Clone,
    B: Body<Error: Debug>,
{
    let ask = async |number, x_cache: Option<&str>| {
        let response = service.clone().oneshot(paths.request(number)).await.expect("it never fails");
        let from = response.headers().get("x-cache").map(|value| value.as_bytes());
        assert!(x_cache.is_none_or(|expected| from == Some(expected.as_bytes())), "{from:?}");
        let body = response.into_body().collect().await.expect("a whole body").to_bytes();
        let is_encoded = matches!(paths, Paths::SameEncoded) && x_cache.is_some();
        assert!(if is_encoded { body.len() < 100 } else { body.len() <= BODY.len() }, "{}", body.len());
        // What a request leaves for later is its cost as well.
        tokio::task::yield_now().await;
    };
    runtime.block_on(async {
        for _ in 0..WARM_UP {
            ask(usize::MAX, None).await;
        }
        for number in 0..count {
            ask(number, x_cache).await;
        }
    });
}
