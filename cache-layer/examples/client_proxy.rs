//! A forward proxy for one user, with that user's private cache: a browser's cache for programs that have none.
//!
//! ```sh
//! cargo run --release -p cache-layer --example client_proxy -- --listen 127.0.0.1:8080
//! curl -ix http://127.0.0.1:8080 http://example.com/   # Cache-Status: cache-layer; fwd=uri-miss; stored
//! curl -ix http://127.0.0.1:8080 http://example.com/   # Cache-Status: cache-layer; hit; …
//! ```
//!
//! Its client is hyper-util's, behind a [`PrivateCacheLayer`]. Other proxies pass `https` through a tunnel (`CONNECT`), where
//! nothing can be stored; this one refuses `CONNECT`. Interim responses are not passed on. With `--origin`, all requests go to
//! one server, and clients address the proxy as if it were that server. On SIGTERM or SIGINT, the proxy answers the requests in
//! flight, and stores what they loaded.

use std::{convert::Infallible, error::Error, fmt::Display, io, net::SocketAddr, process::ExitCode, time::Duration};

use bytes::Bytes;
use cache_layer::{
    Cache, PrivateCacheLayer, ResponseBody,
    store::{MemoryStore, RedisStore, TieredStore},
};
use clap::Parser;
use http_body_util::{Either, Full};
use hyper::{
    Method, Request, Response, StatusCode, Uri, Version,
    body::Incoming,
    header,
    http::uri::{Authority, PathAndQuery, Scheme},
    server::conn::http1,
    service::service_fn as hyper_service_fn,
};
use hyper_util::{
    client::legacy::{self, Client},
    rt::{TokioExecutor, TokioIo},
    server::graceful::GracefulShutdown,
};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    time::timeout,
};
use tower::{Layer as _, Service, ServiceBuilder, ServiceExt as _};

use self::{
    arguments::{listen, milliseconds, origin, size},
    explained::{Explained, StandingClock, noted},
    fields::{field_lists, strip_hop_by_hop},
};

#[path = "reverse_proxy/arguments.rs"]
mod arguments;
#[path = "reverse_proxy/explained.rs"]
mod explained;
#[path = "reverse_proxy/fields.rs"]
mod fields;

/// How long the proxy waits for Redis before it listens.
const REDIS_PATIENCE: Duration = Duration::from_secs(5);
/// The default size of the cache in memory.
const DEFAULT_MEMORY: u64 = 64 << 20;
/// How long requests in flight, and then their fills, may take at shutdown.
const PATIENCE: Duration = Duration::from_secs(10);

/// A forward proxy for one user, with that user's private cache.
#[derive(Parser)]
#[command(name = "client_proxy")]
struct Options {
    /// Address and port to listen on; port 0 picks a free one. A user who can reach it can get the owner's stored responses
    #[arg(long, value_name = "ADDR", value_parser = listen)]
    listen: SocketAddr,

    /// Name of the owner of the responses; required with --redis, where others may store theirs as well
    #[arg(long, value_name = "NAME")]
    owner: Option<String>,

    /// The server for all requests: http://HOST[:PORT]; without it, the server that each request names
    #[arg(long, value_name = "URL", value_parser = origin)]
    origin: Option<Authority>,

    /// Store responses in this Redis: redis://, rediss:// (with the feature `tls`) or unix://
    #[arg(long, value_name = "URL", requires = "owner")]
    redis: Option<String>,

    /// How long a request may wait for Redis before it counts as a miss
    #[arg(long, value_name = "MILLISECONDS", value_parser = milliseconds, default_value = "50")]
    redis_timeout: Duration,

    /// Store responses in memory, up to this size; with --redis, as a first tier. Without either option, 64MiB
    #[arg(long, value_name = "SIZE", value_parser = size)]
    memory: Option<u64>,

    /// Explain each request just before it is answered, and log each answer that differs from its explanation: for tests
    #[arg(long, requires = "owner")]
    explain: bool,
}

type BoxError = Box<dyn Error + Send + Sync>;

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    match run(options).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("client_proxy: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The owner's cache: in a memory of its own, or under the owner's name in a shared Redis.
async fn layer(options: &Options, clock: Option<&StandingClock>) -> Result<PrivateCacheLayer, BoxError> {
    let memory = options.memory.unwrap_or(DEFAULT_MEMORY);
    let cache = match (&options.redis, options.memory) {
        (None, _) if clock.is_none() => return Ok(PrivateCacheLayer::in_memory(memory)),
        (None, _) => Cache::builder(MemoryStore::new(memory)),
        (Some(url), Some(bytes)) => Cache::builder(TieredStore::new(bytes, redis(url, options.redis_timeout).await?)),
        (Some(url), None) => Cache::builder(redis(url, options.redis_timeout).await?),
    };
    let cache = match clock {
        Some(clock) => cache.clock(clock.clock()).build(),
        None => cache.build(),
    };
    // The owner is required wherever this is reached.
    Ok(PrivateCacheLayer::of(options.owner.as_deref().unwrap_or_default(), cache)?)
}

async fn redis(url: &str, timeout: Duration) -> Result<RedisStore, BoxError> {
    let redis = RedisStore::builder(url).operation_timeout(timeout).build()?;
    redis.wait_connected(REDIS_PATIENCE).await;
    Ok(redis)
}

async fn run(options: Options) -> Result<(), BoxError> {
    let clock = options.explain.then(StandingClock::start);
    let layer = layer(&options, clock.as_ref()).await?;
    let cache = layer.cache().clone();
    let Some(clock) = clock else { return serve(options, layer.layer(client()), cache).await };
    let explaining = layer.clone();
    let explained = Explained::new(clock, move |request| Box::pin(explaining.explain(&request)));
    serve(options, explained.before(layer.layer(noted(client::<Full<Bytes>>()))), cache).await?;
    println!("{}", explained.report());
    Ok(())
}

/// The client, without the cache.
fn client<B>()
-> impl Service<Request<B>, Response = Response<Incoming>, Error = legacy::Error, Future: Send> + Clone + Send + 'static
where
    B: hyper::body::Body<Data: Send, Error: Into<BoxError>> + Send + Unpin + 'static,
{
    ServiceBuilder::new()
        .map_request(as_sent)
        .map_response(|mut response: Response<Incoming>| {
            strip_hop_by_hop(response.headers_mut());
            response
        })
        .service(Client::builder(TokioExecutor::new()).build_http::<B>())
}

/// Serves until it receives a signal.
async fn serve<S>(options: Options, client: S, cache: Cache) -> Result<(), BoxError>
where
    S: Service<Request<Incoming>, Response = Response<ResponseBody<Incoming>>, Error: Display, Future: Send>,
    S: Clone + Send + 'static,
{
    let listener = TcpListener::bind(options.listen).await?;
    let leads_to = options.origin.as_ref().map_or("the hosts that it is asked for", |origin| origin.as_str());
    println!("client_proxy: http://{} -> {leads_to}", listener.local_addr()?);

    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let connections = GracefulShutdown::new();
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => accepted?.0,
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        };
        let _ = stream.set_nodelay(true);
        let (client, origin) = (client.clone(), options.origin.clone());
        let serve = hyper_service_fn(move |request| {
            let (client, prepared) = (client.clone(), prepare(request, origin.as_ref()));
            async move {
                let request = match prepared {
                    Ok(request) => request,
                    Err((status, why)) => return Ok::<_, Infallible>(plain(status, why)),
                };
                let what = format!("{} {}", request.method(), request.uri());
                Ok(match client.oneshot(request).await {
                    Ok(response) => response.map(Either::Left),
                    Err(error) => {
                        eprintln!("client_proxy: {what}: {error}");
                        plain(StatusCode::BAD_GATEWAY, "The server gave no valid response.\n")
                    }
                })
            }
        });
        let connection = connections.watch(http1::Builder::new().serve_connection(TokioIo::new(stream), serve));
        // An error means that the client disconnected, which is not worth a report.
        tokio::spawn(async { connection.await.ok() });
    }
    if timeout(PATIENCE, connections.shutdown()).await.is_err() || !cache.drain(PATIENCE).await {
        return Err(io::Error::other("ended before all was done").into());
    }
    Ok(())
}

/// Makes the request for the client: with an absolute URI, which alone states the host.
fn prepare(
    mut request: Request<Incoming>,
    origin: Option<&Authority>,
) -> Result<Request<Incoming>, (StatusCode, &'static str)> {
    if *request.method() == Method::CONNECT {
        return Err((StatusCode::NOT_IMPLEMENTED, "There are no tunnels here.\n"));
    }
    let mut uri = request.uri().clone().into_parts();
    if let Some(origin) = origin {
        (uri.scheme, uri.authority) = (Some(Scheme::HTTP), Some(origin.clone()));
        uri.path_and_query.get_or_insert(PathAndQuery::from_static("/"));
    }
    if uri.scheme != Some(Scheme::HTTP) {
        return Err((StatusCode::BAD_REQUEST, "A proxy is asked for a whole URI, http://HOST/.\n"));
    }
    *request.uri_mut() = Uri::from_parts(uri).map_err(|_| (StatusCode::BAD_REQUEST, "The URI is invalid.\n"))?;
    // An absolute target takes precedence over `Host` (RFC 9112, section 3.2.2).
    request.headers_mut().remove(header::HOST);
    let takes_trailers = field_lists(request.headers(), &header::TE).any(|coding| coding == "trailers");
    strip_hop_by_hop(request.headers_mut());
    if takes_trailers {
        request.headers_mut().insert(header::TE, header::HeaderValue::from_static("trailers"));
    }
    *request.version_mut() = Version::HTTP_11;
    Ok(request)
}

/// Adapts a request that the cache could not answer to the connection to the server.
fn as_sent<B: hyper::body::Body>(mut request: Request<B>) -> Request<B> {
    if request.headers().contains_key(header::TE) {
        request.headers_mut().insert(header::CONNECTION, header::HeaderValue::from_static("te"));
    }
    if request.body().size_hint().exact().is_none() {
        // Without this field, the client assumes that GET and HEAD have no body of unknown length.
        request.headers_mut().insert(header::TRANSFER_ENCODING, header::HeaderValue::from_static("chunked"));
    }
    request
}

fn plain<B>(status: StatusCode, text: &'static str) -> Response<Either<B, Full<Bytes>>> {
    let mut response = Response::new(Either::Right(Full::from(text)));
    *response.status_mut() = status;
    response
}
