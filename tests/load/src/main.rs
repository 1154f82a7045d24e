//! One handler behind one cache or another, for a load generator to ask.
//!
//! The handler returns bytes that are in memory already, for any path below `/v` (the length is the query `bytes`, 1,580
//! unless given, and `page` for a page of products), and says that they are fresh for an hour. So every difference between two modes is the cache's.

mod handler;

use std::{
    convert::Infallible,
    io,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::{RawQuery, Request, State},
    http::{HeaderValue, Uri, header},
    response::Response,
    routing::get,
};
use cache_layer::{
    Cache, CacheLayer, Encode, ResponseBody, Tags,
    store::{MemoryStore, RedisStore, TieredStore},
};
use cache_layer_admin::{Admin, Recorder};
use clap::{Parser, ValueEnum};
use redis::{AsyncCommands as _, aio::MultiplexedConnection};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy, sink},
    net::{TcpListener, TcpStream},
};
use tower::{Service, ServiceBuilder};
use tower_http::compression::{CompressionBody, CompressionLayer};

use self::handler::{body, compute, response, serve};

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Mode {
    /// The handler alone, as if memory were its database.
    Plain,
    /// The handler behind the layer, in memory.
    Memory,
    /// As memory, with the operator's side on a port of its own, and a client there that watches every decision.
    Watched,
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
    /// Content codings that the layer keeps, each with a level if wanted: zstd,br:9,gzip
    #[arg(long)]
    encode: Option<Encode>,
    /// Whether a layer around the cache compresses, each response anew
    #[arg(long)]
    compress: bool,
    /// Microseconds of the processor's time that the handler takes, as if it asked a database in this process
    #[arg(long, default_value_t = 0)]
    work: u64,
}

#[derive(Clone)]
struct Responses {
    tags: Option<Tags>,
    vary: bool,
    work: Duration,
}

async fn answer(State(responses): State<Responses>, RawQuery(query): RawQuery) -> Response {
    compute(responses.work);
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
    State((mut redis, work)): State<(MultiplexedConnection, Duration)>,
    uri: Uri,
    RawQuery(query): RawQuery,
) -> Response {
    let key = uri.to_string();
    match redis.get::<_, Option<Vec<u8>>>(&key).await {
        Ok(Some(found)) => response(found.into()),
        Ok(None) | Err(_) => {
            compute(work);
            let body = body(query.as_deref());
            let _: Result<(), _> = redis.set_ex(&key, &body[..], 3_600).await;
            response(body)
        }
    }
}

/// The cache is before the router, so that a hit is not routed.
fn cached(
    cache: Cache,
    encode: Option<Encode>,
    routes: Router,
) -> impl Service<Request, Response = Response, Error = Infallible, Future: Send> + Clone + Send + 'static {
    ServiceBuilder::new()
        .map_response(|response: Response<ResponseBody<Body>>| response.map(Body::new))
        .layer(CacheLayer::new(cache).encode(encode.unwrap_or_else(|| Encode::new([]))))
        .service(routes)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args = Args::parse();
    let tags = (args.tags > 0).then(|| Tags::new((0..args.tags).map(|tag| format!("tag:{tag}"))));
    let responses = Responses { tags, vary: args.vary, work: Duration::from_micros(args.work) };
    let routes = Router::new().route("/v/{*any}", get(answer)).with_state(responses);
    let redis =
        || RedisStore::builder(&*args.redis).prefix(&args.prefix).operation_timeout(Duration::from_secs(5)).build();
    let listener = TcpListener::bind(args.listen).await?;
    println!("{}", listener.local_addr()?);
    match args.mode {
        Mode::Plain => serve(listener, routes).await?,
        Mode::Memory if args.compress => {
            let cached = cached(Cache::new(MemoryStore::new(args.memory)), args.encode, routes);
            let around = ServiceBuilder::new()
                .map_response(|response: Response<CompressionBody<Body>>| response.map(Body::new))
                .layer(CompressionLayer::new());
            serve(listener, around.service(cached)).await?;
        }
        Mode::Memory => {
            serve(listener, cached(Cache::new(MemoryStore::new(args.memory)), args.encode, routes)).await?;
        }
        Mode::Watched => {
            let (store, recorder) = (MemoryStore::new(args.memory), Recorder::new());
            let cache = Cache::builder(store.clone()).observer(recorder.clone()).build();
            watch(Admin::new(cache.clone()).memory(store).recorder(recorder)).await?;
            serve(listener, cached(cache, args.encode, routes)).await?;
        }
        Mode::Redis => serve(listener, cached(Cache::new(connected(redis()?).await), args.encode, routes)).await?,
        Mode::Tiered => {
            let store = TieredStore::new(args.memory, connected(redis()?).await);
            serve(listener, cached(Cache::new(store), args.encode, routes)).await?;
        }
        Mode::Handmade => {
            let connection = redis::Client::open(&*args.redis)?.get_multiplexed_async_connection().await?;
            let state = (connection, Duration::from_micros(args.work));
            serve(listener, Router::new().route("/v/{*any}", get(answer_by_hand)).with_state(state)).await?;
        }
    }
    Ok(())
}

/// Serves the operator's side, and watches there from now on.
async fn watch(admin: Admin) -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    let router = admin.router().into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(async move { axum::serve(listener, router).await });
    let mut watcher = TcpStream::connect(address).await?;
    watcher.write_all(format!("GET /api/live HTTP/1.1\r\nHost: {address}\r\n\r\n").as_bytes()).await?;
    let mut status = [0; 12];
    watcher.read_exact(&mut status).await?;
    assert_eq!(&status, b"HTTP/1.1 200");
    tokio::spawn(async move { copy(&mut watcher, &mut sink()).await });
    Ok(())
}

async fn connected(store: RedisStore) -> RedisStore {
    store.wait_connected(Duration::from_secs(10)).await;
    store
}
