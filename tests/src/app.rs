//! A cache in front of an application, and what its clients see.

use std::{fmt, time::Duration};

use bytes::Bytes;
use cache_layer::{Cache, CacheLayer, CacheService, ResponseBody, testing::verified};
use http::{HeaderMap, Method, Request};
use http_body_util::BodyExt as _;
use sfv::{BareItem, List, ListEntry, Parser};
use tower::{Layer as _, Service, ServiceExt as _};

use crate::{
    Backend, Foreteller, Response,
    origin::{Body, Failure, Origin, full},
};

/// Makes a test fail, instead of hang, if a request is never answered.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// The host of requests that name no other.
pub const HOST: &str = "shop.example";

/// A cache in front of an [`Origin`]. Clones share it.
#[derive(Debug, Clone)]
pub struct App {
    /// The cache.
    pub cache: Cache,
    /// The layer that the cache is in.
    pub layer: CacheLayer,
    service: CacheService<Origin>,
    /// `None` if nothing is explained before a request.
    foreteller: Option<Foreteller>,
}

impl App {
    /// `cache` in front of `origin`, with the settings that `set` makes.
    pub fn new(cache: Cache, origin: &Origin, set: impl FnOnce(CacheLayer) -> CacheLayer) -> Self {
        let layer = set(CacheLayer::new(cache.clone()));
        let service = layer.layer(origin.clone());
        let foreteller = Some(Foreteller::new(cache.clone(), origin));
        Self { cache, layer, service, foreteller }
    }

    /// One more cache on `backend` in front of `origin`, with nothing set.
    pub async fn on(backend: &Backend, origin: &Origin) -> Self {
        Self::new(backend.cache().await.build(), origin, |layer| layer)
    }

    /// Asks for no explanation before a request: for tests that count reads or refusals.
    #[must_use]
    pub fn unexplained(self) -> Self {
        Self { foreteller: None, ..self }
    }

    /// The service, to put into a stack.
    #[must_use]
    pub fn service(&self) -> CacheService<Origin> {
        self.service.clone()
    }

    /// GET of `uri`: returns once the response is complete, and everything that the request caused is stored.
    pub async fn get(&self, uri: &str, fields: &[(&str, &str)]) -> Response {
        self.ask(request(Method::GET, uri, fields)).await
    }

    /// As [`get`](Self::get), with another method.
    pub async fn send(&self, method: Method, uri: &str, fields: &[(&str, &str)]) -> Response {
        self.ask(request(method, uri, fields)).await
    }

    /// As [`get`](Self::get), for any request. The layer's explanation just before has to agree with `Cache-Status`, unless
    /// there is another request or load at the same time.
    pub async fn ask(&self, request: Request<Body>) -> Response {
        let explaining = self.foreteller.as_ref().map(|foreteller| {
            let foretold = foreteller.foretell(&request, self.layer.explain(&request));
            async move { (foreteller, foretold.await) }
        });
        let foretold = match explaining {
            Some(explaining) => Some(explaining.await),
            None => None,
        };
        let response =
            ask(&self.service, request).await.unwrap_or_else(|error| panic!("the application failed: {error}"));
        if let Some((foreteller, foretold)) = foretold {
            foreteller.compare(foretold, &response);
        }
        self.settled().await;
        response
    }

    /// The head of an answer, and its body as it arrives.
    ///
    /// # Errors
    ///
    /// The application's.
    pub async fn begin(&self, request: Request<Body>) -> Result<http::Response<ResponseBody<Body>>, Failure> {
        let answer = self.service.clone().oneshot(request);
        tokio::time::timeout(LIMIT, answer).await.unwrap_or_else(|_| panic!("no answer within {LIMIT:?}"))
    }

    /// Waits until nothing is being loaded, stored or verified any more.
    pub async fn settled(&self) {
        settled(&self.cache).await;
    }
}

/// Waits until nothing is being loaded, stored or verified any more.
pub(crate) async fn settled(cache: &Cache) {
    assert!(cache.drain(LIMIT).await, "loads were still under way after {LIMIT:?}");
    let verified = tokio::time::timeout(LIMIT, verified(cache)).await;
    assert!(verified.is_ok(), "hits were still being verified after {LIMIT:?}");
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
