//! What becomes of one request.

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use http_body::Body;
use tower_service::Service;
use tracing::Instrument as _;

use super::{
    annotate::Note,
    body::ResponseBody,
    fetch::visit,
    future::ResponseFuture,
    load_limit::Rooms,
    ranges::Ranges,
    target::{Naming, Target},
    write::write_through,
};
use crate::{
    engine::Cache,
    key::Key,
    policy::Policy,
    semantics::{cache_status::CacheName, sites::Sites, storable::refusal_of_request},
    telemetry::{Event, NoCacheReason, Tier},
};

/// A service behind a cache, made by [`CacheLayer`](super::CacheLayer).
///
/// It is always ready, so that a hit never waits for a busy application; a request that has to go forward drives a clone
/// of the inner service to readiness first. Limits and load shedders that protect the application belong inside, those
/// that protect the process outside.
#[derive(Clone)]
pub struct CacheService<S> {
    inner: S,
    pub(super) shared: Arc<Shared>,
}

pub(super) struct Shared {
    pub(super) cache: Cache,
    pub(super) policy: Policy,
    pub(super) name: CacheName,
    /// What the keys of all requests begin with.
    pub(super) space: String,
    /// What scheme and host of a request are taken for.
    pub(super) sites: Sites,
    pub(super) rooms: Rooms,
    pub(super) ranges: Ranges,
}

impl<S> CacheService<S> {
    pub(super) fn new(inner: S, shared: Arc<Shared>) -> Self {
        Self { inner, shared }
    }

    /// The service behind the cache.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The service behind the cache.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// The service, without the cache.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S, B, R> Service<Request<B>> for CacheService<S>
where
    S: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    B: Body + Send + 'static,
    R: Body<Data = Bytes> + Send + 'static,
    R::Error: Send + 'static,
{
    type Response = Response<ResponseBody<R>>;
    type Error = S::Error;
    type Future = ResponseFuture<S, B, R>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        // Cloned only for what goes on to them: a hit does not.
        let Self { inner, shared } = self;
        let mark = shared.take_mark(request.headers_mut());
        let bypass = |request, reason| {
            shared.cache.emit(Event::Bypass(reason));
            ResponseFuture::bypass(inner.clone(), request, shared.clone(), reason)
        };
        let (method, headers) = (request.method(), request.headers());
        let refusal = refusal_of_request(method, headers, !request.body().is_end_stream());
        match (refusal, Target::of(&shared.sites, request.uri(), headers)) {
            (None, None) => bypass(request, NoCacheReason::NoAuthority),
            (Some(NoCacheReason::Method), Some(target)) => {
                shared.cache.emit(Event::Bypass(NoCacheReason::Method));
                let target = target.into_owned();
                ResponseFuture::boxed(write_through(shared.clone(), inner.clone(), request, target))
            }
            (Some(reason), _) => bypass(request, reason),
            (None, Some(target)) => {
                let key = target.key(&shared.naming(headers));
                if shared.is_nested(&key, request.extensions()) {
                    return bypass(request, NoCacheReason::Nested);
                }
                if shared.policy.is_bypassed_by_cookie(headers) {
                    return bypass(request, NoCacheReason::Cookie);
                }
                if let Some(mark) = mark {
                    return ResponseFuture::boxed(marked(shared.clone(), inner.clone(), request, key, mark));
                }
                let mut look = shared.cache.look(&key);
                let due = match shared.select_in_memory(&key, headers) {
                    Some(entry) => {
                        look.at(Tier::Memory);
                        if *method != Method::GET || !shared.is_due_early(&entry) {
                            let response = shared.respond(entry, method, headers, Note::Hit, &mut look);
                            return ResponseFuture::ready(response);
                        }
                        Some(entry.id())
                    }
                    None if shared.cache.is_uncacheable(&key) && !shared.directives(headers).only_if_cached() => {
                        look.bypassed(NoCacheReason::Remembered);
                        return bypass(request, NoCacheReason::Remembered);
                    }
                    None => None,
                };
                let span = look.span();
                let visit = visit(shared.clone(), inner.clone(), request, key, due, look);
                ResponseFuture::boxed(visit.instrument(span))
            }
        }
    }
}

/// A request with the mark of another process's load. What is in memory does not answer it before it is clear that the mark
/// is not this key's: a refresh is not to bring back what is to be refreshed.
async fn marked<S, B, R>(
    shared: Arc<Shared>,
    inner: S,
    mut request: Request<B>,
    key: Key,
    mark: HeaderValue,
) -> Result<Response<ResponseBody<R>>, S::Error>
where
    S: Service<Request<B>, Response = Response<R>> + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    B: Send + 'static,
    R: Body<Data = Bytes> + Send + 'static,
    R::Error: Send + 'static,
{
    let look = shared.cache.look(&key);
    if shared.keep_mark(request.headers_mut(), &key, mark).await {
        let reason = NoCacheReason::Nested;
        look.bypassed(reason);
        shared.cache.emit(Event::Bypass(reason));
        return ResponseFuture::bypass(inner, request, shared, reason).await;
    }
    let span = look.span();
    visit(shared, inner, request, key, None, look).instrument(span).await
}

impl Shared {
    /// What the key of a request with `headers` is made of.
    pub(super) fn naming<'a>(&'a self, headers: &'a HeaderMap) -> Naming<'a> {
        let Policy { caching, key_headers, .. } = &self.policy;
        Naming { sites: &self.sites, space: &self.space, ignored_query: &caching.ignored_query, key_headers, headers }
    }
}

impl<S: fmt::Debug> fmt::Debug for CacheService<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheService")
            .field("inner", &self.inner)
            .field("cache", &self.shared.cache)
            .field("policy", &self.shared.policy)
            .finish()
    }
}
