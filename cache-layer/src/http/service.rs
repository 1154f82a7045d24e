//! What becomes of one request.

use std::{
    fmt,
    sync::Arc,
    task::{self, Poll},
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response};
use http_body::Body;
use tower_service::Service;
use tracing::Instrument as _;

use super::{
    annotate::Served,
    body::ResponseBody,
    context::Context,
    fetch::{Known, fetch, fetch_unless_nested},
    future::ResponseFuture,
    origin::Origin,
    select::InMemory,
    target::Target,
    write::write_through,
};
use crate::{
    engine::span::LookupSpan,
    key::Key,
    semantics::storable::refusal_of_request,
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
    context: Arc<Context>,
}

impl<S> CacheService<S> {
    pub(super) fn new(inner: S, context: Arc<Context>) -> Self {
        Self { inner, context }
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

    fn poll_ready(&mut self, _: &mut task::Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let context = &self.context;
        let mark = context.take_mark(request.headers_mut());
        let (method, headers) = (request.method(), request.headers());
        let refusal = refusal_of_request(method, headers, !request.body().is_end_stream());
        match (refusal, Target::of(&context.sites, request.uri(), headers)) {
            (None, Some(target)) => {
                let key = target.key(&context.key_rules(headers));
                match self.answer_at_once(&request, &key, mark.is_some()) {
                    AtOnce::Answer(response) => ResponseFuture::ready(response),
                    AtOnce::Bypass(reason) => self.bypass(request, reason),
                    AtOnce::Fetch(known, lookup) => {
                        let target = target.into_owned();
                        self.fetch(request, key, target, mark, known, lookup)
                    }
                }
            }
            (Some(NoCacheReason::Method), Some(target)) => {
                context.cache.emit(Event::Bypass(NoCacheReason::Method));
                let target = target.into_owned();
                ResponseFuture::boxed(write_through(context.clone(), self.inner.clone(), request, target))
            }
            (Some(reason), _) => self.bypass(request, reason),
            (None, None) => self.bypass(request, NoCacheReason::NoAuthority),
        }
    }
}

/// What becomes of a request that the cache may have an answer for, or is to find one for.
enum AtOnce<R: Body> {
    Answer(Response<ResponseBody<R>>),
    Bypass(NoCacheReason),
    Fetch(Known, LookupSpan),
}

impl<S> CacheService<S> {
    /// A hit in memory is answered here: nothing is cloned for it. A request with another process's mark has no hit.
    fn answer_at_once<B, R: Body>(&self, request: &Request<B>, key: &Key, marked: bool) -> AtOnce<R> {
        let context = &self.context;
        let (method, headers) = (request.method(), request.headers());
        if context.is_nested(key, request.extensions()) {
            return AtOnce::Bypass(NoCacheReason::Nested);
        }
        if context.policy.is_bypassed_by_cookie(headers) {
            return AtOnce::Bypass(NoCacheReason::Cookie);
        }
        let mut lookup = context.cache.lookup_span(key);
        if marked {
            return AtOnce::Fetch(Known::Nothing, lookup);
        }
        let known = match context.select_in_memory(key, headers) {
            InMemory::Answer(entry) => {
                lookup.at(Tier::Memory);
                if *method != Method::GET || !context.is_due_early(&entry) {
                    return AtOnce::Answer(context.respond(entry, method, headers, Served::Hit, &mut lookup));
                }
                Known::Due(entry.id())
            }
            _ if context.cache.is_uncacheable(key) && !context.directives(headers).only_if_cached() => {
                lookup.bypassed(NoCacheReason::Remembered);
                return AtOnce::Bypass(NoCacheReason::Remembered);
            }
            InMemory::Missing(seen) => Known::Missing(seen),
            InMemory::Unknown => Known::Nothing,
        };
        AtOnce::Fetch(known, lookup)
    }
}

impl<S: Clone> CacheService<S> {
    /// A request whose answer takes a future, and with it a clone of what the service is made of.
    fn fetch<B: Send + 'static>(
        &self,
        request: Request<B>,
        key: Key,
        target: Target<'static>,
        mark: Option<HeaderValue>,
        known: Known,
        lookup: LookupSpan,
    ) -> ResponseFuture<S, B, S::Content>
    where
        S: Origin<B>,
    {
        let (context, inner, span) = (self.context.clone(), self.inner.clone(), lookup.span());
        if let Some(mark) = mark {
            return ResponseFuture::boxed(fetch_unless_nested(context, inner, request, key, target, mark, lookup));
        }
        ResponseFuture::boxed(fetch(context, inner, request, key, target, known, lookup).instrument(span))
    }

    /// A request that is not looked up.
    fn bypass<B, R: Body>(&self, request: Request<B>, reason: NoCacheReason) -> ResponseFuture<S, B, R>
    where
        S: Service<Request<B>>,
    {
        self.context.cache.emit(Event::Bypass(reason));
        ResponseFuture::bypass(self.inner.clone(), request, self.context.clone(), reason)
    }
}

impl<S: fmt::Debug> fmt::Debug for CacheService<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheService")
            .field("inner", &self.inner)
            .field("cache", &self.context.cache)
            .field("policy", &self.context.policy)
            .finish()
    }
}
