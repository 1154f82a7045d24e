//! One handler behind one cache or another, for a load generator to ask.
//!
//! The handler returns bytes that are in memory already, for any path below `/v` (the length is the query `bytes`, 1,580
//! unless given), and says that they are fresh for an hour. So every difference between two modes is the cache's.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::Body,
    extract::{RawQuery, State},
    http::{HeaderValue, Uri, header},
    response::{IntoResponse, Response},
    routing::get,
};
use bytes::Bytes;
use cache_layer::{
    Cache, CacheLayer, Tags,
    store::{MemoryStore, RedisStore, Store, TieredStore},
};
use clap::{Parser, ValueEnum};
use mimalloc::MiMalloc;
use redis::{AsyncCommands as _, aio::MultiplexedConnection};
use tokio::net::TcpListener;

/// The service's own.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Mode {
    /// The handler alone, as if memory were its database.
    Plain,
    /// The handler behind the layer, in memory.
    Memory,
    Redis,
    Tiered,
    /// What one writes by hand: a `GET` in the handler, and a `SET` when there is nothing.
    Handmade,
}

/// Serves until it is killed, and prints its address first.
#[derive(Debug, Parser)]
struct Args {
    #[arg(value_enum)]
    mode: Mode,
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    #[arg(long, default_value = "redis://127.0.0.1:6379")]
    redis: String,
    /// First part of every key in Redis
    #[arg(long, default_value = "load")]
    prefix: String,
    /// Bytes of memory for entries
    #[arg(long, default_value_t = 1 << 30)]
    memory: u64,
    /// Tags of every response
    #[arg(long, default_value_t = 0)]
    tags: usize,
    /// Whether responses vary on `Accept-Language`
    #[arg(long)]
    vary: bool,
    /// Microseconds of computing that the handler takes, as if it asked a database in this process
    #[arg(long, default_value_t = 0)]
    work: u64,
}

#[derive(Clone)]
struct Responses {
    tags: Option<Tags>,
    vary: bool,
    work: Duration,
}

/// Bytes to answer with: a slice of these.
static BODY: [u8; 1 << 20] = [b'x'; 1 << 20];

fn body(query: Option<&str>) -> Bytes {
    let length = query.and_then(|query| query.strip_prefix("bytes=")?.split('&').next()?.parse().ok()).unwrap_or(1_580);
    Bytes::from_static(&BODY[..length.min(BODY.len())])
}

fn response(body: Bytes) -> Response {
    let mut response = Response::new(Body::from(body));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("max-age=3600"));
    response
}

async fn answer(State(responses): State<Responses>, RawQuery(query): RawQuery) -> Response {
    let end = (!responses.work.is_zero()).then(|| Instant::now() + responses.work);
    while end.is_some_and(|end| Instant::now() < end) {
        std::hint::spin_loop();
    }
    let mut response = response(body(query.as_deref()));
    if let Some(tags) = responses.tags {
        response.extensions_mut().insert(tags);
    }
    if responses.vary {
        response.headers_mut().insert(header::VARY, HeaderValue::from_static("accept-language"));
    }
    response
}

async fn answer_by_hand(
    State(mut redis): State<MultiplexedConnection>,
    uri: Uri,
    RawQuery(query): RawQuery,
) -> Response {
    let key = uri.to_string();
    match redis.get::<_, Option<Vec<u8>>>(&key).await {
        Ok(Some(found)) => response(found.into()),
        Ok(None) | Err(_) => {
            let body = body(query.as_deref());
            let _: Result<(), _> = redis.set_ex(&key, &body[..], 3_600).await;
            response(body)
        }
    }
}

fn cached(router: Router, store: impl Store) -> Router {
    router.layer(CacheLayer::new(Cache::new(store)))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args = Args::parse();
    let tags = (args.tags > 0).then(|| Tags::new((0..args.tags).map(|tag| format!("tag:{tag}"))));
    let responses = Responses { tags, vary: args.vary, work: Duration::from_micros(args.work) };
    let routes = Router::new().route("/v/{*any}", get(answer)).with_state(responses);
    let redis =
        || RedisStore::builder(&*args.redis).prefix(&args.prefix).operation_timeout(Duration::from_secs(5)).build();
    let routes = match args.mode {
        Mode::Plain => routes,
        Mode::Memory => cached(routes, MemoryStore::new(args.memory)),
        Mode::Redis => cached(routes, connected(redis()?).await),
        Mode::Tiered => cached(routes, TieredStore::new(args.memory, connected(redis()?).await)),
        Mode::Handmade => {
            let connection = redis::Client::open(&*args.redis)?.get_multiplexed_async_connection().await?;
            Router::new().route("/v/{*any}", get(answer_by_hand)).with_state(connection)
        }
    };
    let listener = TcpListener::bind(args.listen).await?;
    println!("{}", listener.local_addr()?);
    axum::serve(
        axum::serve::ListenerExt::tap_io(listener, |connection| {
            // As the proxies do.
            let _ = connection.set_nodelay(true);
        }),
        routes.fallback(|| async { axum::http::StatusCode::NOT_FOUND.into_response() }),
    )
    .await?;
    Ok(())
}

async fn connected(store: RedisStore) -> RedisStore {
    store.wait_connected(Duration::from_secs(10)).await;
    store
}
