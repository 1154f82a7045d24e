//! One process of a fleet: a cache over a Redis that the fleet shares, in front of an application that it shares as well.
//!
//! `REDIS_URL` and `ORIGIN_URL` say where they are, `NODE` how this process calls itself to the application; with
//! `TIERED` the cache has a first tier, and with `SHARE_FAILURES_MS` failures are shared, and backed off from for so long.
//! Paths below `/-/` are for the test that runs the fleet; every other path is the application's.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    env,
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use cache_layer::{
    Cache, CacheLayer, Tags,
    store::{Breaker, RedisStore, TieredStore},
    telemetry::{Event, FillOutcome},
};
use http::{Method, Request, Response, Uri};
use http_body_util::{BodyExt as _, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, server::conn::http1};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use serde_json::json;
use tests::{App, Failure, HOST, HttpClient, Origin, QueryApp, full, request};
use tokio::{net::TcpListener, task::JoinSet};
use tower::{ServiceExt as _, service_fn};

type Anything = Box<dyn Error + Send + Sync>;

#[derive(Clone)]
struct Node {
    app: App,
    /// The same cache, as it answers QUERY.
    queries: QueryApp,
    redis: RedisStore,
    /// Where the application is, and how this process calls itself to it.
    origin: (String, String),
    /// When a fill was last stored, in microseconds since the Unix epoch.
    stored: Arc<AtomicU64>,
}

#[tokio::main]
async fn main() -> Result<(), Anything> {
    let redis =
        RedisStore::builder(env::var("REDIS_URL")?).operation_timeout(number("OPERATION_TIMEOUT_MS", 50)).build()?;
    redis.wait_connected(Duration::from_secs(10)).await;
    let builder = if env::var_os("TIERED").is_some() {
        Cache::builder(TieredStore::new(16 << 20, redis.clone()))
    } else {
        Cache::builder(redis.clone())
    };
    let stored = Arc::new(AtomicU64::new(0));
    let note = stored.clone();
    let cache = builder
        .lock_timeout(number("LOCK_TIMEOUT_MS", 5_000))
        .observer(move |event: Event| {
            if event == Event::Fill(FillOutcome::Stored) {
                note.store(now(), Ordering::SeqCst);
            }
        })
        .build();
    let (origin, name) = (env::var("ORIGIN_URL")?, env::var("NODE").unwrap_or_default());
    let back_off = env::var_os("SHARE_FAILURES_MS").map(|_| number("SHARE_FAILURES_MS", 0));
    let (at, origin) = ((origin.clone(), name.clone()), forward(origin, name));
    let queries = QueryApp::new(cache.clone(), &origin, CacheLayer::query);
    let app = App::new(cache, &origin, |layer| match back_off {
        Some(back_off) => layer.share_failures(true).failure_backoff(back_off, back_off),
        None => layer,
    });
    let node = Node { app, queries, redis, origin: at, stored };

    let listener = TcpListener::bind(env::var("APP_LISTEN")?).await?;
    println!("listening on http://{}", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let node = node.clone();
        let service = TowerToHyperService::new(service_fn(move |request| node.clone().answer(request)));
        tokio::spawn(async move {
            // However a client leaves, the others stay.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

/// The application's answers carry the tags that it names in `X-Tags`.
fn forward(origin: String, name: String) -> Origin {
    let client = HttpClient::new();
    Origin::new(move |_, request| {
        let (client, url, name) = (client.clone(), format!("{origin}{}", request.uri().path()), name.clone());
        async move {
            let (method, content) = (request.method().clone(), request.into_body().collect().await?.to_bytes());
            let answer = client
                .try_request(method, &url, &[("x-node", &name)], content)
                .await
                .map_err(|_| Failure("the application did not answer"))?;
            let mut response = Response::builder().status(answer.status);
            if let Some(control) = answer.header("cache-control") {
                response = response.header("cache-control", control);
            }
            if let Some(tags) = answer.header("x-tags") {
                response = response.extension(Tags::new(tags.split(' ')));
            }
            Ok(response.body(full(answer.body)).expect("a valid response"))
        }
    })
}

impl Node {
    async fn answer(self, request: Request<Incoming>) -> Result<Response<UnsyncBoxBody<Bytes, Anything>>, Anything> {
        if let Some(order) = request.uri().path().strip_prefix("/-/") {
            let answer = self.obey(order).await;
            return Ok(Response::new(full(answer.to_string()).map_err(Anything::from).boxed_unsync()));
        }
        let request = request.map(|body| body.map_err(|_| Failure("the client left")).boxed_unsync());
        let response = self.app.service().oneshot(request).await?;
        Ok(response.map(|body| body.map_err(|error| error.to_string().into()).boxed_unsync()))
    }

    async fn obey(&self, order: &str) -> serde_json::Value {
        let cache = &self.app.cache;
        match order.split_once('/').unwrap_or((order, "")) {
            ("reads-redis", _) => json!(self.redis.state().breaker == Breaker::Closed),
            ("lost-connections", _) => json!(self.redis.state().lost_connections),
            ("stored", _) => json!(self.stored.load(Ordering::SeqCst)),
            ("invalidate-tag", tag) => json!(cache.invalidate_tag(tag).await.is_ok()),
            ("invalidate-path", path) => {
                let uri: Uri = format!("http://{HOST}/{path}").parse().expect("a path");
                let key = CacheLayer::new(cache.clone()).key(&uri).expect("a whole URI");
                json!(cache.invalidate(&key).await.is_ok())
            }
            ("storm", arguments) => {
                let (tasks, path) = arguments.split_once('/').expect("storm/<tasks>/<path>");
                self.storm(tasks.parse().expect("a number"), &format!("/{path}"), None).await
            }
            ("query", arguments) => {
                let [tasks, content, path] = *arguments.splitn(3, '/').collect::<Vec<_>>() else {
                    panic!("query/<tasks>/<content>/<path>")
                };
                self.storm(tasks.parse().expect("a number"), &format!("/{path}"), Some(content)).await
            }
            ("many", arguments) => {
                let (calls, keys) = arguments.split_once('/').expect("many/<calls>/<keys>");
                self.many(calls.parse().expect("a number"), keys.parse().expect("a number")).await
            }
            _ => json!({ "unknown": order }),
        }
    }

    /// Asks for values by so many calls at once, each for half of the keys, from another one on and every second time backwards: how
    /// often each value came. The call that loads asks the application for each key that is missing, at `/many/<key>`.
    async fn many(&self, calls: u64, keys: u64) -> serde_json::Value {
        let mut asking = JoinSet::new();
        for call in 0..calls {
            let (cache, origin) = (self.app.cache.clone(), self.origin.clone());
            let load = move |missing: Vec<(&'static str, u64)>| {
                let origin = origin.clone();
                async move {
                    let mut loads = JoinSet::new();
                    for key in missing {
                        let (url, name) = origin.clone();
                        loads.spawn(async move {
                            let url = format!("{url}/many/{}", key.1);
                            (key, HttpClient::new().get(&url, &[("x-node", &name)]).await.text().to_owned())
                        });
                    }
                    Ok::<_, Infallible>(loads.join_all().await)
                }
            };
            let mut wanted: Vec<_> = (0..keys / 2).map(|place| ("many", (call * 7 + place) % keys)).collect();
            if call % 2 == 1 {
                wanted.reverse();
            }
            asking.spawn(async move { cache.get_or_load_many(wanted, load).await });
        }
        let mut values = BTreeMap::<String, usize>::new();
        while let Some(found) = asking.join_next().await {
            let Ok(found) = found.expect("a task that ends");
            for value in found {
                *values.entry(value.unwrap_or_default()).or_default() += 1;
            }
        }
        json!({ "answers": values, "finished": now() })
    }

    /// Asks for `path` by so many tasks at once, by QUERY if there is `content`: how often each answer came, and when the last
    /// one did.
    async fn storm(&self, tasks: usize, path: &str, content: Option<&str>) -> serde_json::Value {
        let mut storm = JoinSet::new();
        for _ in 0..tasks {
            let node = self.clone();
            let request = match content {
                None => request(Method::GET, path, &[]),
                Some(content) => {
                    request(Method::QUERY, path, &[("content-type", "text/plain")]).map(|_| full(content.to_owned()))
                }
            };
            storm.spawn(async move {
                let answer = match *request.method() {
                    Method::GET => tests::ask(&node.app.service(), request).await,
                    _ => tests::ask(&node.queries.service, request).await,
                };
                match answer {
                    Ok(response) => format!("{} {}", response.status.as_u16(), response.text()),
                    Err(failure) => failure.to_string(),
                }
            });
        }
        let mut answers = BTreeMap::<String, usize>::new();
        while let Some(answer) = storm.join_next().await {
            *answers.entry(answer.expect("a task that ends")).or_default() += 1;
        }
        json!({ "answers": answers, "finished": now() })
    }
}

fn number(name: &str, unless_set: u64) -> Duration {
    let set = env::var(name).ok();
    Duration::from_millis(set.map_or(unless_set, |value| value.parse().expect("milliseconds")))
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
