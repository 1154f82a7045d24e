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
    fetch::{fetch, fetch_or_alias, fetch_unless_nested},
    future::ResponseFuture,
    origin::Origin,
    target::Target,
    write::write_through,
};
use crate::{
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
                self.answer(request, key, mark)
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

impl<S: Clone> CacheService<S> {
    pub(super) fn context(&self) -> &Arc<Context> {
        &self.context
    }

    /// A request that the cache may have an answer for, or is to find one for. What goes on to a future is cloned for it: a
    /// hit clones nothing.
    pub(super) fn answer<B: Send + 'static>(
        &self,
        request: Request<B>,
        key: Key,
        mark: Option<HeaderValue>,
    ) -> ResponseFuture<S, B, S::Content>
    where
        S: Origin<B>,
    {
        let Self { inner, context } = self;
        let (method, headers) = (request.method(), request.headers());
        if context.is_nested(&key, request.extensions()) {
            return self.bypass(request, NoCacheReason::Nested);
        }
        if context.policy.is_bypassed_by_cookie(headers) {
            return self.bypass(request, NoCacheReason::Cookie);
        }
        if let Some(mark) = mark {
            let fetched = fetch_unless_nested(context.clone(), inner.clone(), request, key, mark);
            return ResponseFuture::boxed(fetched);
        }
        let mut lookup = context.cache.lookup_span(&key);
        let due = match context.select_in_memory(&key, headers) {
            Some(entry) => {
                lookup.at(Tier::Memory);
                if *method != Method::GET || !context.is_due_early(&entry) {
                    return ResponseFuture::ready(context.respond(entry, method, headers, Served::Hit, &mut lookup));
                }
                Some(entry.id())
            }
            None if context.cache.is_uncacheable(&key) && !context.directives(headers).only_if_cached() => {
                lookup.bypassed(NoCacheReason::Remembered);
                return self.bypass(request, NoCacheReason::Remembered);
            }
            None => None,
        };
        let span = lookup.span();
        if due.is_none()
            && let Some(alias) = context.alias_of(&request)
        {
            let fetched = fetch_or_alias(context.clone(), inner.clone(), request, key, alias, lookup);
            return ResponseFuture::boxed(fetched.instrument(span));
        }
        let fetched = fetch(context.clone(), inner.clone(), request, key, due, lookup);
        ResponseFuture::boxed(fetched.instrument(span))
    }

    /// A request that is not looked up.
    pub(super) fn bypass<B, R: Body>(&self, request: Request<B>, reason: NoCacheReason) -> ResponseFuture<S, B, R>
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
