//! QUERY (RFC 10008): requests that are answered by their content. A separate layer around the cache layer reads the content;
//! after that, QUERY is handled like GET, under a key that contains the content's digest.

use std::{
    fmt,
    sync::Arc,
    task::{self, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response, request};
use http_body::Body;
use tower_layer::Layer;
use tower_service::Service;
use tracing::Span;

use super::{
    ask_again::AskAgain, body::ResponseBody, future::ResponseFuture, hints::Hints, layer::CacheLayer, origin::Origin,
    query_body::QueryBody, record::content_length, service::CacheService, target::Target,
};
use crate::{
    clock::deadline,
    semantics::{
        cache_control::CacheControl,
        content_key::{self, Meaning},
        storable::refusal_of_request_with_content,
    },
    telemetry::NoCacheReason,
};

/// The longest content that is read unless another limit is set.
const MOST_CONTENT: u64 = 64 * 1024;
const READ_TIMEOUT: Duration = Duration::from_secs(10);
const QUERY: &str = "QUERY";

/// A [`CacheLayer`] that keeps responses to QUERY as well (RFC 10008), made by [`CacheLayer::query`].
///
/// QUERY is GET with content: it is safe, and its response depends on the content. A response is stored under the method, the
/// target, the content and every `Content-*` field that says what the content is, and answers only a QUERY that is equal in all
/// of them, byte by byte; the type is compared in lower case. All else is as for GET: freshness, which must be stated, `Vary`,
/// conditions, ranges, validation, stale use, one load for all requests that wait. A write to the target that succeeds
/// invalidates the responses for every content.
///
/// ```
/// use cache_layer::{Cache, CacheLayer, QueryBody, store::MemoryStore};
/// use http::{Request, Response};
/// use tower::{ServiceBuilder, service_fn};
///
/// # type Body = http_body_util::Full<bytes::Bytes>;
/// async fn search(request: Request<QueryBody<Body>>) -> Result<Response<Body>, std::convert::Infallible> {
///     // …
/// #   Ok(Response::new(Body::default()))
/// }
///
/// let cache = Cache::new(MemoryStore::new(64 * 1024 * 1024));
/// let service = ServiceBuilder::new().layer(CacheLayer::new(cache).query().max_content(16 * 1024)).service_fn(search);
/// # let _: cache_layer::QueryService<_> = service;
/// ```
///
/// The application gets its requests with a [`QueryBody`] in place of their own body, with the same bytes; axum's `Router`
/// accepts any body. The content is read before the application sees the request, and so before access checks in the
/// application: put these outside of the cache. The content is held in memory while its request is answered. The names of keys,
/// logs and traces never contain it, only a digest; an attacker who can read names in Redis can test by the digest whether a
/// guessed content occurs.
///
/// These requests are forwarded unchanged, and their responses are not stored: requests without exactly one readable
/// `Content-Type`; with `Content-Range`, trailers, `Expect` ([`expect_continue`](Self::expect_continue)), `Incremental: ?1`,
/// `If-Match` or `If-Unmodified-Since`; with content that is longer than [`max_content`](Self::max_content), breaks off, or
/// takes longer to arrive than [`read_timeout`](Self::read_timeout). While a client is sending, no other request waits for it.
/// A method `query`, in lower case, is not QUERY, and like any unknown method it invalidates its target.
///
/// If the response's `Location` names a resource that repeats the query by GET, let clients use that: every cache on the way can
/// store it.
#[derive(Clone, Debug)]
#[must_use = "a layer does nothing until it is put on a service"]
pub struct QueryLayer {
    cache: CacheLayer,
    policy: ContentPolicy,
}

/// Which requests have their content read, and how.
#[derive(Clone)]
struct ContentPolicy {
    most_content: u64,
    read_timeout: Duration,
    reads_expected: bool,
    normalize: Option<Arc<Normalize>>,
    /// `None` means all QUERY requests.
    queries: Option<Arc<Predicate>>,
    posts: Option<Arc<Predicate>>,
}

type Normalize = dyn Fn(&request::Parts, &[u8]) -> Option<Vec<u8>> + Send + Sync;
type Predicate = dyn Fn(&request::Parts) -> bool + Send + Sync;

impl CacheLayer {
    /// Stores responses to QUERY, too, by the content of the requests (RFC 10008); QUERY passes through unless this is
    /// called. Call it last: it returns a [`QueryLayer`], which has settings of its own.
    pub fn query(self) -> QueryLayer {
        let policy = ContentPolicy {
            most_content: MOST_CONTENT,
            read_timeout: READ_TIMEOUT,
            reads_expected: false,
            normalize: None,
            queries: None,
            posts: None,
        };
        QueryLayer { cache: self.with_content_keys(), policy }
    }
}

impl QueryLayer {
    /// The longest content that is read, in bytes; 64 KiB unless set. A request with longer content is forwarded as it arrives.
    pub fn max_content(mut self, bytes: u64) -> Self {
        self.policy.most_content = bytes;
        self
    }

    /// How long to wait for the content of a request; 10 s unless set. A request that takes longer is forwarded as it arrives.
    pub fn read_timeout(mut self, timeout: Duration) -> Self {
        self.policy.read_timeout = timeout;
        self
    }

    /// Whether the content of requests with `Expect: 100-continue` is read as well; they are forwarded unless set. Reading tells
    /// the client to send the content before the application had a chance to refuse it.
    pub fn expect_continue(mut self, reads: bool) -> Self {
        self.policy.reads_expected = reads;
        self
    }

    /// Treats contents that mean the same as equal: the returned bytes replace the content in the key, and `None` keeps the
    /// content itself. The application still gets the original content. Unless this is set, contents are compared byte by byte.
    ///
    /// Use it only for a language whose rules the application defines: a mistake here causes wrong responses. White space in JSON
    /// has no meaning, but the order of names, repeated names, and the spelling of numbers may have one. A request with
    /// `no-transform` is never normalized (RFC 10008, section 2.7).
    ///
    /// ```
    /// # use cache_layer::{Cache, CacheLayer, store::MemoryStore};
    /// # let cache = Cache::new(MemoryStore::new(1 << 20));
    /// let layer = CacheLayer::new(cache).query().normalize(|request, content| {
    ///     // Terms, one on each line, in any order.
    ///     let mut terms: Vec<&[u8]> = content.split(|&byte| byte == b'\n').collect();
    ///     terms.sort_unstable();
    ///     (request.uri.path() == "/terms").then(|| terms.join(&b'\n'))
    /// });
    /// ```
    pub fn normalize(
        mut self,
        normalize: impl Fn(&request::Parts, &[u8]) -> Option<Vec<u8>> + Send + Sync + 'static,
    ) -> Self {
        self.policy.normalize = Some(Arc::new(normalize));
        self
    }

    /// The cache layer that this layer is around.
    pub fn cache_layer(&self) -> &CacheLayer {
        &self.cache
    }

    /// The digest of a request's content, if it is part of the key, or the reason why it is not; `None` for a request that is not
    /// answered by its content.
    pub(super) async fn digest_of(
        &self,
        request: &Request<()>,
        content: Bytes,
    ) -> Option<Result<[u8; 32], NoCacheReason>> {
        let (parts, ()) = request.clone().into_parts();
        if !self.policy.cover(&parts) {
            return None;
        }
        let content = QueryBody::<String>::of_content(content);
        match self.policy.read(&parts, content).await {
            Ok(content) => Some(Ok(self.policy.digest(&parts, &content))),
            Err((_, reason)) => Some(Err(reason)),
        }
    }

    /// The QUERY requests that are answered by their content, such as those of one route; all unless set. Other QUERY requests
    /// pass through, with their content unread, and invalidate nothing.
    ///
    /// ```
    /// # use cache_layer::{Cache, CacheLayer, store::MemoryStore};
    /// # let cache = Cache::new(MemoryStore::new(1 << 20));
    /// let layer = CacheLayer::new(cache).query().queries(|request| request.uri.path() == "/search");
    /// ```
    pub fn queries(mut self, answered: impl Fn(&request::Parts) -> bool + Send + Sync + 'static) -> Self {
        self.policy.queries = Some(Arc::new(answered));
        self
    }

    /// POST requests that only read, such as those of GraphQL and of many searches: they are answered by their content as QUERY
    /// is, but their responses never answer QUERY or GET, and their `If-None-Match` and ranges are ignored: no answer to POST is a
    /// 304 or a part. None unless set. A POST that can't be answered by its content invalidates its target like any other POST, unless
    /// [`voids`](CacheLayer::voids) says otherwise.
    ///
    /// ```
    /// # use cache_layer::{Cache, CacheLayer, store::MemoryStore};
    /// # let cache = Cache::new(MemoryStore::new(1 << 20));
    /// let layer = CacheLayer::new(cache)
    ///     .voids(|request| request.uri.path() != "/search")
    ///     .query()
    ///     .posts(|request| request.uri.path() == "/search");
    /// ```
    pub fn posts(mut self, only_reads: impl Fn(&request::Parts) -> bool + Send + Sync + 'static) -> Self {
        self.policy.posts = Some(Arc::new(only_reads));
        self
    }
}

impl fmt::Debug for ContentPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ContentPolicy")
            .field("most_content", &self.most_content)
            .field("read_timeout", &self.read_timeout)
            .field("reads_expected", &self.reads_expected)
            .field("normalizes", &self.normalize.is_some())
            .field("queries", &self.queries.is_some())
            .field("posts", &self.posts.is_some())
            .finish()
    }
}

impl<S> Layer<S> for QueryLayer {
    type Service = QueryService<S>;

    fn layer(&self, inner: S) -> QueryService<S> {
        QueryService { cache: self.cache.layer(AskAgain::new(inner)), policy: Arc::new(self.policy.clone()) }
    }
}

/// A service behind a cache that answers QUERY as well, made by [`QueryLayer`].
///
/// It is always ready, as a [`CacheService`] is.
#[derive(Clone, Debug)]
pub struct QueryService<S> {
    cache: CacheService<AskAgain<S>>,
    policy: Arc<ContentPolicy>,
}

impl<S> QueryService<S> {
    /// The service behind the cache.
    pub fn get_ref(&self) -> &S {
        self.cache.get_ref().get_ref()
    }
}

impl<S, B, R> Service<Request<B>> for QueryService<S>
where
    S: Service<Request<QueryBody<B>>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    B: Body<Data = Bytes, Error: Send> + Send + 'static,
    R: Body<Data = Bytes> + Send + 'static,
    R::Error: Send + 'static,
{
    type Response = Response<ResponseBody<R>>;
    type Error = S::Error;
    type Future = ResponseFuture<AskAgain<S>, QueryBody<B>, R>;

    fn poll_ready(&mut self, _: &mut task::Context<'_>) -> Poll<Result<(), S::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (parts, body) = request.into_parts();
        if !self.policy.cover(&parts) {
            return self.cache.call(Request::from_parts(parts, QueryBody::untouched(body)));
        }
        ResponseFuture::boxed(self.policy.clone().answer(self.cache.clone(), parts, body), Span::none())
    }
}

impl ContentPolicy {
    /// Whether the request is to be answered by its content.
    fn cover(&self, request: &request::Parts) -> bool {
        match request.method.as_str() {
            QUERY => self.queries.as_ref().is_none_or(|answered| answered(request)),
            "POST" => self.posts.as_ref().is_some_and(|only_reads| only_reads(request)),
            _ => false,
        }
    }

    async fn answer<S, B>(
        self: Arc<Self>,
        mut cache: CacheService<S>,
        mut parts: request::Parts,
        body: B,
    ) -> Result<Response<ResponseBody<S::Content>>, S::Error>
    where
        S: Origin<QueryBody<B>> + Clone,
        B: Body<Data = Bytes, Error: Send> + Send + 'static,
    {
        let (body, reason) = match self.read(&parts, body).await {
            Ok(content) => {
                let context = cache.context();
                if let Some(target) = Target::of_parts(&context.sites, &parts) {
                    let digest = self.digest(&parts, &content);
                    let settings = cache.settings(parts.extensions.get::<Hints>());
                    let choice = settings.choose_with(&target, &parts.headers, |rules| {
                        target.key_with_content(rules, &parts.method, &digest)
                    });
                    let target = target.into_owned();
                    let enclosing = context.take_enclosing(&mut parts.headers);
                    let request = Request::from_parts(parts, QueryBody::of_content(content));
                    return cache.answer_by(choice, request, target, enclosing).await;
                }
                (QueryBody::of_content(content), NoCacheReason::NoAuthority)
            }
            Err(unread) => unread,
        };
        let is_post = parts.method == Method::POST;
        let request = Request::from_parts(parts, body);
        if is_post {
            return cache.call(request).await;
        }
        cache.bypass(request, reason).await
    }

    /// The content of a request that may be answered by it; otherwise its body unread, and the reason.
    async fn read<B: Body<Data = Bytes>>(
        &self,
        request: &request::Parts,
        body: B,
    ) -> Result<Bytes, (QueryBody<B>, NoCacheReason)> {
        if let Some(reason) = refusal_of_request_with_content(&request.headers, self.reads_expected) {
            return Err((QueryBody::untouched(body), reason));
        }
        let Ok(declared) = content_length(&request.headers) else {
            return Err((QueryBody::untouched(body), NoCacheReason::ContentUnread));
        };
        QueryBody::read(body, self.most_content, declared, deadline(self.read_timeout)).await
    }

    fn digest(&self, request: &request::Parts, content: &Bytes) -> [u8; 32] {
        let normalize = self.normalize.as_ref().filter(|_| !CacheControl::from_headers(&request.headers).no_transform);
        let normalized = normalize.and_then(|normalize| normalize(request, content));
        let meaning = normalized.as_deref().map_or(Meaning::Raw(content), Meaning::Normalized);
        content_key::digest(&request.headers, meaning)
    }
}
