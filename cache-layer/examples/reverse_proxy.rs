//! A caching reverse proxy: a hyper server, the cache, and an origin behind it.
//!
//! ```sh
//! cargo run --release -p cache-layer --example reverse_proxy -- --listen 127.0.0.1:8080 --origin http://127.0.0.1:3000
//! ```
//!
//! Method, path, query, fields, body and trailers pass unchanged in both directions, except for fields that belong to one
//! connection only (RFC 9110, section 7.6.1); interim responses such as 103 pass as well. `Host` stays the client's, and must
//! occur once (RFC 9112, section 3.2). A connection whose client doesn't finish a request's head is closed.
//!
//! A client of HTTP/1.0 can't distinguish the end of a body from a broken connection. So a body of unknown length is sent to
//! such a client once it is complete. A body that is too large or too slow for that is sent as it arrives, and if it breaks
//! off, the connection is reset.
//!
//! On SIGTERM or SIGINT, the proxy tells clients for a moment that their connections end, answers the requests in flight, and
//! stores what they loaded before it ends.

use std::{
    convert::Infallible,
    error::Error,
    fmt::Display,
    io,
    net::SocketAddr,
    pin::pin,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use cache_layer::{
    Cache, CacheLayer, ConfigError, Encode, NoVarySearch, QueryBody, ResponseBody, Vary,
    store::{MemoryStore, RedisStore, Store, TieredStore},
    telemetry::{Event, Named, Observer},
};
use clap::{Parser, ValueEnum, error::ErrorKind};
use http_body_util::{BodyExt as _, Collected, Either, Full};
use hyper::{
    Method, Request, Response, StatusCode, Uri, Version,
    body::Incoming,
    client, header,
    http::uri::{Authority, PathAndQuery},
    server,
    service::service_fn as hyper_service_fn,
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
};
use tokio::{
    net::{TcpListener, TcpStream},
    signal::unix::{SignalKind, signal},
    time::{sleep, timeout},
};
use tower::{Layer as _, Service, ServiceExt as _, service_fn};

use self::{
    arguments::{listen, milliseconds, origin, size},
    explained::{Explained, StandingClock, noted},
    fields::{field_lists, strip_hop_by_hop},
    http10::Held,
    interim::{Interim, Requests, Wire},
};

#[path = "reverse_proxy/arguments.rs"]
mod arguments;
#[path = "reverse_proxy/explained.rs"]
mod explained;
#[path = "reverse_proxy/fields.rs"]
mod fields;
#[path = "reverse_proxy/http10.rs"]
mod http10;
#[path = "reverse_proxy/interim.rs"]
mod interim;
#[cfg(test)]
#[path = "reverse_proxy/tests.rs"]
mod tests;

/// How long the proxy waits for Redis before it listens.
const REDIS_PATIENCE: Duration = Duration::from_secs(5);
/// The default size of the cache in memory.
const DEFAULT_MEMORY: u64 = 64 << 20;
/// How long requests in flight, and then their fills, may take at shutdown.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long, before that, new connections are accepted, and responses tell clients to close theirs.
const NOTICE: Duration = Duration::from_millis(250);

/// A caching reverse proxy.
#[derive(Parser)]
#[command(name = "reverse_proxy")]
struct Options {
    /// Address and port to listen on; port 0 picks a free one
    #[arg(long, value_name = "ADDR", value_parser = listen)]
    listen: SocketAddr,

    /// The origin, for requests that the cache can't answer: http://HOST[:PORT]
    #[arg(long, value_name = "URL", value_parser = origin)]
    origin: Authority,

    /// Store responses in this Redis: redis://, rediss:// (with the feature `tls`) or unix://
    #[arg(long, value_name = "URL")]
    redis: Option<String>,

    /// How long a request may wait for Redis before it counts as a miss
    #[arg(long, value_name = "MILLISECONDS", value_parser = milliseconds, default_value = "50")]
    redis_timeout: Duration,

    /// Store responses in memory, up to this size; with --redis, as a first tier. Without either option, 64MiB
    #[arg(long, value_name = "SIZE", value_parser = size)]
    memory: Option<u64>,

    /// How long to store responses whose origin sets no lifetime; without it, they are not stored
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    ttl: Option<Duration>,

    /// How long a client may take for the head of a request, from the end of the last response. It is also how long an idle
    /// connection is kept, so it should be longer than the idle timeout of the client or proxy in front, which is often 60
    #[arg(long, value_name = "SECONDS", value_parser = seconds, default_value = "75")]
    header_timeout: Duration,

    /// Which responses to share: `safe`, those that the origin clearly meant to be shared, or `strict`, all that HTTP permits
    #[arg(long, value_enum, default_value_t = Profile::Safe)]
    profile: Profile,

    /// The field that tells a cache in front how much freshness is left: `accel-expires` for nginx, `max-age` for caches that
    /// ignore Age
    #[arg(long, value_enum, default_value_t = Remaining::Age)]
    remaining: Remaining,

    /// Store responses to QUERY, too, by the request's content, up to this size; without it, QUERY bypasses the cache
    #[arg(long, value_name = "SIZE", value_parser = size)]
    query: Option<u64>,

    /// Use No-Vary-Search in responses, which says which queries a response answers
    #[arg(long)]
    no_vary_search: bool,

    /// Which requests get the same variant of a response that varies: `safe`, `all`, or `negotiate=CODING,..`, which also makes
    /// the origin choose among these codings only
    #[arg(long, value_name = "LEVEL", value_parser = vary)]
    vary: Option<Vary>,

    /// A request field that is part of the key, though responses don't name it in Vary; may be repeated
    #[arg(long, value_name = "NAME")]
    key_header: Vec<header::HeaderName>,

    /// Also store responses in these content codings, and send them to clients that accept them, the preferred one first: some of
    /// zstd, br and gzip, as far as the example was built with them, each with a level if wanted, such as zstd,br:9,gzip
    #[arg(long, value_name = "CODING[:LEVEL],..")]
    encode: Option<Encode>,

    /// Load this share of the hits again, from 0 to 1, and log whether they still equal the origin's response: 0.001 is one in a
    /// thousand
    #[arg(long, value_name = "RATE", value_parser = rate)]
    verify: Option<f64>,

    /// The most requests at the origin at one time that load a missing response; without it, there is no limit
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_loads: Option<u32>,

    /// Explain each request just before it is answered, and log each answer that differs from its explanation: for tests
    #[arg(long)]
    explain: bool,
}

impl Options {
    fn layer(&self, cache: Cache) -> CacheLayer {
        let profile = match self.profile {
            Profile::Safe => cache_layer::Profile::Safe,
            Profile::Strict => cache_layer::Profile::Strict,
        };
        let remaining = match self.remaining {
            Remaining::Age => cache_layer::Remaining::Age,
            Remaining::AccelExpires => cache_layer::Remaining::AccelExpires,
            Remaining::MaxAge => cache_layer::Remaining::MaxAge,
        };
        let mut layer =
            CacheLayer::new(cache).profile(profile).remaining(remaining).key_headers(self.key_header.clone());
        if let Some(ttl) = self.ttl {
            layer = layer.ttl(ttl);
        }
        if let Some(vary) = &self.vary {
            layer = layer.vary(vary.clone());
        }
        if self.no_vary_search {
            layer = layer.no_vary_search(NoVarySearch::new());
        }
        if let Some(encode) = &self.encode {
            layer = layer.encode(encode.clone());
        }
        if let Some(most) = self.max_loads {
            layer = layer.max_loads(most as usize);
        }
        if let Some(rate) = self.verify {
            layer = layer.verify(rate);
        }
        layer
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum Profile {
    Safe,
    Strict,
}

#[derive(Clone, Copy, ValueEnum)]
enum Remaining {
    Age,
    AccelExpires,
    MaxAge,
}

type BoxError = Box<dyn Error + Send + Sync>;

#[tokio::main]
async fn main() -> ExitCode {
    let options = match Options::try_parse() {
        Ok(options) => options,
        Err(asked) if asked.kind() == ErrorKind::DisplayHelp => {
            print!("{asked}");
            return ExitCode::SUCCESS;
        }
        Err(wrong) => return refuse(&wrong, 2),
    };
    let clock = options.explain.then(StandingClock::start);
    let cache = match cache(&options, clock.as_ref()).await {
        Ok(cache) => cache,
        Err(wrong) => return refuse(&wrong, 2),
    };
    match run(options, cache, clock).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => refuse(&error, 1),
    }
}

/// Prints the cause as one line.
fn refuse(why: &impl Display, code: u8) -> ExitCode {
    let why = why.to_string();
    let lines: Vec<_> = why.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
    eprintln!("reverse_proxy: {}", lines.join(" ").trim_start_matches("error: "));
    ExitCode::from(code)
}

/// A cache over `store`, which logs verified hits that differ from the origin's response.
fn over(store: impl Store, options: &Options, clock: Option<&StandingClock>) -> Cache {
    let mut cache = Cache::builder(store);
    if let Some(clock) = clock {
        cache = cache.clock(clock.clock());
    }
    if options.verify.is_some() { cache.observer(Differences) } else { cache }.build()
}

struct Differences;

impl Observer for Differences {
    fn observe(&self, _: Event) {}

    fn wants_names(&self) -> bool {
        true
    }

    fn observe_named(&self, named: &Named<'_>) {
        match named {
            Named::Verified { key, age, differs: Some(differs), .. } => {
                eprintln!("reverse_proxy: {key}, stored {} s ago, has another {differs} now", age.as_secs());
            }
            Named::VerifiedAgain { key, stable, .. } => {
                let found = if *stable { "is stale" } else { "differs each time" };
                eprintln!("reverse_proxy: {key} {found}");
            }
            _ => {}
        }
    }
}

/// Memory, Redis, or memory over Redis, by the options.
async fn cache(options: &Options, clock: Option<&StandingClock>) -> Result<Cache, ConfigError> {
    match (&options.redis, options.memory) {
        (None, memory) => Ok(over(MemoryStore::new(memory.unwrap_or(DEFAULT_MEMORY)), options, clock)),
        (Some(url), None) => Ok(over(redis(url, options.redis_timeout).await?, options, clock)),
        (Some(url), Some(bytes)) => {
            Ok(over(TieredStore::new(bytes, redis(url, options.redis_timeout).await?), options, clock))
        }
    }
}

/// Waits for the connection, so that other processes learn of invalidations from the first request on.
async fn redis(url: &str, timeout: Duration) -> Result<RedisStore, ConfigError> {
    let redis = RedisStore::builder(url).operation_timeout(timeout).build()?;
    redis.wait_connected(REDIS_PATIENCE).await;
    Ok(redis)
}

async fn run(options: Options, cache: Cache, clock: Option<StandingClock>) -> io::Result<()> {
    let listener = TcpListener::bind(options.listen).await?;
    println!("reverse_proxy: http://{} -> http://{}", listener.local_addr()?, options.origin);
    match clock {
        None => serve(listener, options, cache).await,
        Some(clock) => serve_explained(listener, options, cache, clock).await,
    }
}

/// Serves until it receives a signal.
async fn serve(listener: TcpListener, options: Options, cache: Cache) -> io::Result<()> {
    let (layer, origin, header_timeout) = (options.layer(cache.clone()), options.origin, options.header_timeout);
    match options.query {
        None => {
            let forward = service_fn(move |request| forward(origin.clone(), request));
            accept(listener, header_timeout, layer.layer(forward), cache).await
        }
        Some(size) => {
            let forward = service_fn(move |request: Request<QueryBody<Incoming>>| forward(origin.clone(), request));
            accept(listener, header_timeout, layer.query().max_content(size).layer(forward), cache).await
        }
    }
}

/// As [`serve`], with each answer compared with the explanation of its request.
async fn serve_explained(
    listener: TcpListener,
    options: Options,
    cache: Cache,
    clock: StandingClock,
) -> io::Result<()> {
    let (layer, origin, header_timeout) = (options.layer(cache.clone()), options.origin, options.header_timeout);
    let explained = match options.query {
        None => {
            let (forward, explaining) = (service_fn(move |request| forward(origin.clone(), request)), layer.clone());
            let explained = Explained::new(clock, move |request| {
                let layer = explaining.clone();
                Box::pin(async move { layer.explain(&request).await })
            });
            let service = explained.before(layer.layer(noted(forward)));
            accept(listener, header_timeout, service, cache).await?;
            explained
        }
        Some(size) => {
            let forward = service_fn(move |request: Request<QueryBody<Full<Bytes>>>| forward(origin.clone(), request));
            let layer = layer.query().max_content(size);
            let explaining = layer.clone();
            let explained = Explained::new(clock, move |request: Request<Full<Bytes>>| {
                let layer = explaining.clone();
                Box::pin(async move {
                    let content = request.body().clone().collect().await.map(Collected::to_bytes);
                    layer.explain(&request, content.unwrap_or_default()).await
                })
            });
            let service = explained.before(layer.layer(noted(forward)));
            accept(listener, header_timeout, service, cache).await?;
            explained
        }
    };
    println!("{}", explained.report());
    Ok(())
}

async fn accept<S>(listener: TcpListener, header_timeout: Duration, service: S, cache: Cache) -> io::Result<()>
where
    S: Service<Request<Incoming>, Response = Response<ResponseBody<Incoming>>, Error = BoxError>,
    S: Clone + Send + 'static,
    S::Future: Send,
{
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let closing = Arc::new(AtomicBool::new(false));
    let mut end = pin!(async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        // If an idle connection were closed at once, that could happen under a request.
        closing.store(true, Ordering::Relaxed);
        sleep(NOTICE).await;
    });
    let connections = GracefulShutdown::new();
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Most likely there are too many open files: wait until some are closed.
                    eprintln!("reverse_proxy: {error}");
                    sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
            () = &mut end => break,
        };
        // Otherwise the kernel may delay small writes. An error here is no reason to refuse the connection.
        let _ = stream.set_nodelay(true);
        let wire = Wire::new(stream);
        let (service, requests, closing) = (service.clone(), wire.requests(), closing.clone());
        let serve = hyper_service_fn(move |request| {
            let (answer, closing) = (answer(service.clone(), requests.clone(), request), closing.clone());
            async move {
                let mut answer = answer.await?;
                if closing.load(Ordering::Relaxed) {
                    answer.headers_mut().insert(header::CONNECTION, header::HeaderValue::from_static("close"));
                }
                Ok::<_, Infallible>(answer)
            }
        });
        let connection = server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(header_timeout)
            .serve_connection(TokioIo::new(wire), serve);
        let connection = connections.watch(connection);
        // An error means that the client disconnected, which is not worth a report.
        tokio::spawn(async { connection.await.ok() });
    }
    drop(listener);
    if timeout(PATIENCE, connections.shutdown()).await.is_err() || !cache.drain(PATIENCE).await {
        eprintln!("reverse_proxy: ended before all was done");
    }
    Ok(())
}

type Answer<B> = Response<Either<Either<B, Held<B>>, Full<Bytes>>>;

/// Answers one request of a client.
async fn answer<S>(
    service: S,
    requests: Requests,
    mut request: Request<Incoming>,
) -> Result<Answer<ResponseBody<Incoming>>, Infallible>
where
    S: Service<Request<Incoming>, Response = Response<ResponseBody<Incoming>>, Error = BoxError>,
{
    if request.method() == Method::CONNECT {
        return Ok(plain(StatusCode::NOT_IMPLEMENTED, "This is no forward proxy.\n"));
    }
    let version = request.version();
    if version == Version::HTTP_11 {
        request.extensions_mut().insert(requests.begin());
    }
    // Before the cache: the cache must decide by the same request that the origin sees.
    if let Err(error) = prepare(&mut request) {
        return Ok(plain(StatusCode::BAD_REQUEST, &format!("{error}\n")));
    }
    let what = format!("{} {}", request.method(), request.uri());
    let result = service.oneshot(request).await;
    requests.end();
    let result = match result {
        Ok(response) if version == Version::HTTP_10 => http10::hold(response, &requests).await,
        other => other.map(|response| response.map(Either::Left)),
    };
    Ok(match result {
        Ok(response) => response.map(Either::Left),
        Err(error) => {
            eprintln!("reverse_proxy: {what}: {error}");
            plain(StatusCode::BAD_GATEWAY, "The origin gave no valid response.\n")
        }
    })
}

fn plain<B>(status: StatusCode, text: &str) -> Answer<B> {
    let mut response = Response::new(Either::Right(Full::from(text.to_owned())));
    *response.status_mut() = status;
    response
}

/// Brings a request into the form in which it is looked up and forwarded.
fn prepare<B>(request: &mut Request<B>) -> Result<(), BoxError> {
    check_host(request)?;
    // An absolute target takes precedence over `Host` (RFC 9112, section 3.2.2).
    if let Some(authority) = request.uri().authority() {
        let host = authority.as_str().rsplit_once('@').map_or(authority.as_str(), |(_, host)| host);
        let host = host.parse()?;
        request.headers_mut().insert(header::HOST, host);
        let path = request.uri().path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
        *request.uri_mut() = Uri::from(path);
    }
    let takes_trailers = field_lists(request.headers(), &header::TE).any(|coding| coding == "trailers");
    strip_hop_by_hop(request.headers_mut());
    if takes_trailers {
        request.headers_mut().insert(header::TE, header::HeaderValue::from_static("trailers"));
    }
    *request.version_mut() = Version::HTTP_11;
    Ok(())
}

/// Checks that there is exactly one `Host`, from HTTP/1.1 on (RFC 9112, section 3.2).
fn check_host<B>(request: &Request<B>) -> Result<(), BoxError> {
    let mut lines = request.headers().get_all(header::HOST).into_iter();
    match (lines.next(), lines.next()) {
        (None, _) if request.version() < Version::HTTP_11 => Ok(()),
        (None, _) => Err("There is no Host.".into()),
        (Some(_), Some(_)) => Err("There is more than one Host.".into()),
        (Some(host), None) if is_host(host) => Ok(()),
        (Some(_), None) => Err("The Host is invalid.".into()),
    }
}

fn is_host(value: &header::HeaderValue) -> bool {
    let Some(authority) = value.to_str().ok().and_then(|value| value.parse::<Authority>().ok()) else { return false };
    // The authority must begin with the host: user information is refused.
    let Some(port) = authority.as_str().strip_prefix(authority.host()) else { return false };
    let digits = port.strip_prefix(':').unwrap_or(port);
    !authority.host().is_empty()
        && (port.is_empty() || port.starts_with(':'))
        && digits.bytes().all(|byte| byte.is_ascii_digit())
}

/// Asks the origin, over a connection for this request alone: the origin could close a persistent connection under a request
/// that can't be sent twice.
async fn forward<B>(origin: Authority, mut request: Request<B>) -> Result<Response<Incoming>, BoxError>
where
    B: hyper::body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    if request.headers().contains_key(header::TE) {
        request.headers_mut().insert(header::CONNECTION, header::HeaderValue::from_static("te"));
    }
    if !request.headers().contains_key(header::HOST) {
        // A client of HTTP/1.0, whose request bypassed the cache.
        request.headers_mut().insert(header::HOST, origin.as_str().parse()?);
    }
    if request.body().size_hint().exact().is_none() {
        // Without this field, hyper's client assumes that GET and HEAD have no body of unknown length.
        request.headers_mut().insert(header::TRANSFER_ENCODING, header::HeaderValue::from_static("chunked"));
    }
    if let Some(interim) = request.extensions_mut().remove::<Interim>() {
        pass_interim_responses(&mut request, interim);
    }
    let stream = TcpStream::connect((host(&origin), origin.port_u16().unwrap_or(80))).await?;
    stream.set_nodelay(true)?;
    let (mut sender, connection) = client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // Its errors also show in the response or in its body.
    tokio::spawn(async { connection.await.ok() });
    let mut response = sender.send_request(request).await?;
    strip_hop_by_hop(response.headers_mut());
    *response.version_mut() = Version::HTTP_11;
    Ok(response)
}

fn pass_interim_responses<B>(request: &mut Request<B>, interim: Interim) {
    hyper::ext::on_informational(request, move |response| {
        // This proxy's own server sends 100 (Continue) when it reads the content.
        if response.status() != StatusCode::CONTINUE {
            let mut headers = response.headers().clone();
            strip_hop_by_hop(&mut headers);
            interim.send(response.status(), &headers);
        }
    });
}

/// Without the brackets of an IPv6 address, which belong to URLs.
fn host(authority: &Authority) -> &str {
    authority.host().trim_start_matches('[').trim_end_matches(']')
}

fn seconds(text: &str) -> Result<Duration, String> {
    text.parse().map(Duration::from_secs).map_err(|_| "must be a whole number of seconds".to_owned())
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate| (0.0..=1.0).contains(rate));
    rate.ok_or_else(|| "must be a number from 0 to 1, such as 0.001".to_owned())
}

fn vary(text: &str) -> Result<Vary, String> {
    match text.split_once('=') {
        None if text == "safe" => Ok(Vary::safe()),
        None if text == "all" => Ok(Vary::all()),
        Some(("negotiate", codings)) => Vary::negotiate(codings.split(',')).map_err(|wrong| wrong.to_string()),
        _ => Err("must be safe, all, or negotiate=CODING,.. such as negotiate=br,gzip".to_owned()),
    }
}
