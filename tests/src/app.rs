//! A cache in front of an application, and what its clients see.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use cache_layer::{Cache, CacheLayer, CacheService, Explanation, ResponseBody, Verdict};
use http::{HeaderMap, Method, Request};
use http_body_util::BodyExt as _;
use sfv::{BareItem, List, ListEntry, Parser};
use tower::{Layer as _, Service, ServiceExt as _};

use crate::{
    Backend, Response,
    origin::{Body, Failure, Origin, full},
};

/// So that a request that is never answered is a failed test and not a hung one.
const LIMIT: Duration = Duration::from_secs(30);

/// The host of requests that name no other.
pub const HOST: &str = "shop.example";

/// A cache in front of an [`Origin`]. Clones are one.
#[derive(Debug, Clone)]
pub struct App {
    /// The cache.
    pub cache: Cache,
    /// The layer that the cache is in.
    pub layer: CacheLayer,
    service: CacheService<Origin>,
    origin: Origin,
    /// Requests that began, and requests that have ended.
    asks: Arc<[AtomicUsize; 2]>,
    explains: bool,
}

impl App {
    /// `cache` in front of `origin`, by the settings that `set` makes.
    pub fn new(cache: Cache, origin: &Origin, set: impl FnOnce(CacheLayer) -> CacheLayer) -> Self {
        let layer = set(CacheLayer::new(cache.clone()));
        let service = layer.layer(origin.clone());
        Self { cache, layer, service, origin: origin.clone(), asks: Arc::default(), explains: true }
    }

    /// One more cache on `backend` in front of `origin`, with nothing set.
    pub async fn on(backend: &Backend, origin: &Origin) -> Self {
        Self::new(backend.cache().await.build(), origin, |layer| layer)
    }

    /// Asks for no explanation before a request: for a test that counts what is read or turned away.
    #[must_use]
    pub fn unexplained(self) -> Self {
        Self { explains: false, ..self }
    }

    /// The service, to put into a stack.
    #[must_use]
    pub fn service(&self) -> CacheService<Origin> {
        self.service.clone()
    }

    /// GET of `uri`, answered to the end and with all that it leaves behind stored.
    pub async fn get(&self, uri: &str, fields: &[(&str, &str)]) -> Response {
        self.ask(request(Method::GET, uri, fields)).await
    }

    /// As [`get`](Self::get), with another method.
    pub async fn send(&self, method: Method, uri: &str, fields: &[(&str, &str)]) -> Response {
        self.ask(request(method, uri, fields)).await
    }

    /// As [`get`](Self::get), for any request. What the layer explained just before has to be what `Cache-Status` says, unless
    /// there is another request or load at the same time.
    pub async fn ask(&self, request: Request<Body>) -> Response {
        let foretold = Foretold::of(self, &request).await;
        let response =
            ask(&self.service, request).await.unwrap_or_else(|error| panic!("the application failed: {error}"));
        if let Some(foretold) = foretold {
            foretold.compare(self, &response);
        }
        self.settled().await;
        response
    }

    /// The head of an answer, and its body as it comes in.
    ///
    /// # Errors
    ///
    /// The application's.
    pub async fn begin(&self, request: Request<Body>) -> Result<http::Response<ResponseBody<Body>>, Failure> {
        let answer = self.service.clone().oneshot(request);
        tokio::time::timeout(LIMIT, answer).await.unwrap_or_else(|_| panic!("no answer within {LIMIT:?}"))
    }

    /// Waits until nothing is being loaded or stored any more.
    pub async fn settled(&self) {
        assert!(self.cache.drain(LIMIT).await, "loads were still under way after {LIMIT:?}");
    }
}

/// What a layer explained before a request was sent.
struct Foretold {
    explanation: Explanation,
    request: String,
    /// How many requests had begun by then, this one included; 0 if it is not the only one.
    began: usize,
    calls: usize,
}

impl Foretold {
    // No `async fn`, which would keep a body that is not `Sync`.
    fn of(app: &App, request: &Request<Body>) -> impl Future<Output = Option<Self>> + Send {
        let [begun, ended] = &*app.asks;
        let before = begun.fetch_add(1, Ordering::SeqCst);
        let alone = before == ended.load(Ordering::SeqCst) && app.cache.loads_in_flight() == 0;
        let calls = app.origin.calls();
        let line = format!("{} {} {:?}", request.method(), request.uri(), request.headers());
        let explaining = app.explains.then(|| app.layer.explain(request));
        let began = if alone { before + 1 } else { 0 };
        async move { Some(Self { explanation: explaining?.await, request: line, began, calls }) }
    }

    fn compare(self, app: &App, response: &Response) {
        let Self { explanation, request, began, calls } = self;
        let [begun, ended] = &*app.asks;
        ended.fetch_add(1, Ordering::SeqCst);
        // A request that waits answers as the other one's load ends.
        if begun.load(Ordering::SeqCst) != began || explanation.verdict == Verdict::Wait {
            return;
        }
        let explanation = match (explanation.is_final, app.origin.last()) {
            (true, _) => explanation,
            (false, Some(head)) if app.origin.calls() == calls + 1 => explanation.if_answered(head.response()),
            (false, None) if app.origin.calls() == calls + 1 => explanation.if_failed(),
            (false, _) => return,
        };
        // A response to POST that may be kept for GET.
        if !explanation.is_final {
            return;
        }
        let came = response.headers.get_all("cache-status").iter().last().and_then(|line| line.to_str().ok());
        let came = came.unwrap_or_default();
        let [(said, foretold_ttl), (same, ttl)] = [&explanation.cache_status, came].map(without_ttl);
        // A second may have begun in between; and what is softened is stale since the moment at which that is noticed.
        let in_time = match (foretold_ttl, ttl) {
            (Some(foretold), Some(ttl)) => foretold.abs_diff(ttl) <= 1,
            (foretold, ttl) => foretold == ttl,
        };
        assert!(
            said == same && in_time,
            "explained as {:?}, and then {came:?} came to {request}: {explanation:?}",
            explanation.cache_status
        );
    }
}

/// A member of `Cache-Status`, and its `ttl` apart.
fn without_ttl(member: &str) -> (String, Option<i64>) {
    let is_ttl = |parameter: &&str| parameter.starts_with("ttl=");
    let ttl = member.split("; ").find(is_ttl).and_then(|parameter| parameter[4..].parse().ok());
    (member.split("; ").filter(|parameter| !is_ttl(parameter)).collect::<Vec<_>>().join("; "), ttl)
}

/// A request without content, to [`HOST`] unless `uri` or `fields` say otherwise.
#[must_use]
pub fn request(method: Method, uri: &str, fields: &[(&str, &str)]) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(uri);
    if uri.starts_with('/') && !fields.iter().any(|(name, _)| *name == "host") {
        request = request.header("host", HOST);
    }
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request.body(full("")).expect("a valid request")
}

/// The answer of any service, to the end.
///
/// # Errors
///
/// The service's own.
pub async fn ask<S, B, R>(service: &S, request: Request<B>) -> Result<Response, S::Error>
where
    S: Service<Request<B>, Response = http::Response<R>> + Clone,
    R: http_body::Body<Data = Bytes>,
    R::Error: fmt::Debug,
{
    let answer = async {
        let (parts, body) = service.clone().oneshot(request).await?.into_parts();
        let body = body.collect().await.expect("a whole body");
        let trailers = body.trailers().cloned();
        Ok(Response { status: parts.status, headers: parts.headers, body: body.to_bytes(), trailers })
    };
    tokio::time::timeout(LIMIT, answer).await.unwrap_or_else(|_| panic!("no answer within {LIMIT:?}"))
}

impl Response {
    /// Which call of an [`Origin`] this is the answer to; panics when its head and its body don't agree.
    #[must_use]
    pub fn call(&self) -> usize {
        let call = self.header("x-call").unwrap_or_else(|| panic!("no echo: {self:?}"));
        assert!(self.body.is_empty() || self.text().starts_with(&format!("answer {call} ")), "mixed up: {self:?}");
        call.parse().expect("a number")
    }

    /// What `Cache-Status` says.
    #[must_use]
    pub fn cache_status(&self) -> CacheStatus {
        CacheStatus::of(&self.headers)
    }
}

/// What a cache says in `Cache-Status` (RFC 9211).
#[derive(Debug, Default, PartialEq, Eq)]
pub struct CacheStatus {
    /// `hit`
    pub hit: bool,
    /// `fwd`
    pub fwd: Option<String>,
    /// `fwd-status`
    pub fwd_status: Option<i64>,
    /// `ttl`
    pub ttl: Option<i64>,
    /// `stored`
    pub stored: bool,
    /// `collapsed`
    pub collapsed: bool,
    /// `detail`
    pub detail: Option<String>,
}

impl CacheStatus {
    /// The member of the cache that the client is closest to; panics with a field that can't be read.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Self {
        let lines: Vec<&[u8]> = headers.get_all("cache-status").iter().map(|line| line.as_bytes()).collect();
        let list: List = Parser::new(&lines.join(&b", "[..])).parse().expect("a structured field");
        let Some(ListEntry::Item(last)) = list.last() else { panic!("no cache speaks in {headers:?}") };
        let mut status = Self::default();
        for (name, value) in &last.params {
            match (name.as_str(), value) {
                ("hit", BareItem::Boolean(hit)) => status.hit = *hit,
                ("fwd", BareItem::Token(why)) => status.fwd = Some(why.as_str().to_owned()),
                ("fwd-status", BareItem::Integer(code)) => status.fwd_status = Some(i64::from(*code)),
                ("ttl", BareItem::Integer(ttl)) => status.ttl = Some(i64::from(*ttl)),
                ("stored", BareItem::Boolean(stored)) => status.stored = *stored,
                ("collapsed", BareItem::Boolean(collapsed)) => status.collapsed = *collapsed,
                ("detail", BareItem::Token(detail)) => status.detail = Some(detail.as_str().to_owned()),
                unexpected => panic!("{unexpected:?} in {lines:?}"),
            }
        }
        status
    }
}
