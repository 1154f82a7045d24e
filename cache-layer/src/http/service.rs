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
    annotate::{Refusal, Served},
    body::ResponseBody,
    context::Context,
    fetch::{fetch, fetch_unless_nested},
    future::ResponseFuture,
    hints::Hints,
    origin::Origin,
    rules::{Choice, RequestSettings, RuledContexts},
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
    /// None where all requests are looked up, by the same settings.
    ruled: Option<Arc<RuledContexts>>,
}

impl<S> CacheService<S> {
    pub(super) fn new(inner: S, context: Arc<Context>, ruled: Option<Arc<RuledContexts>>) -> Self {
        Self { inner, context, ruled }
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
        match (refusal, Target::of_request(&context.sites, &request)) {
            (None, Some(target)) => {
                let hints = request.extensions().get::<Hints>();
                if self.ruled.is_none() && hints.is_none() {
                    let key = target.key(&context.key_rules(headers));
                    return self.answer(context, request, key, mark);
                }
                let choice = self.settings(hints).choose(&target, headers);
                self.answer_by(choice, request, mark)
            }
            (Some(NoCacheReason::Method), Some(target)) => {
                context.cache.emit(Event::Bypass(NoCacheReason::Method));
                let (settings, target) = (self.settings(request.extensions().get()), target.into_owned());
                ResponseFuture::boxed(write_through(settings, self.inner.clone(), request, target))
            }
            (Some(reason), _) => self.bypass(request, reason),
            (None, None) => self.bypass(request, NoCacheReason::NoAuthority),
        }
    }
}

impl<S: Clone> CacheService<S> {
    fn settings(&self, hints: Option<&Hints>) -> RequestSettings {
        RequestSettings::new(self.context.clone(), self.ruled.as_deref(), hints)
    }

    /// As [`answer`](Self::answer), for a request that rules, hints or the like have something to say of.
    fn answer_by<B: Send + 'static>(
        &self,
        Choice { context, key, mut bypass }: Choice,
        mut request: Request<B>,
        mark: Option<HeaderValue>,
    ) -> ResponseFuture<S, B, S::Content>
    where
        S: Origin<B>,
    {
        // What a layer further out stores is its to decide.
        if context.is_nested(&key, request.extensions()) {
            return self.bypass(request, NoCacheReason::Nested);
        }
        if let (None, Some(bypass_if)) = (bypass, &context.policy.bypass_if) {
            let judged;
            (judged, request) = bypass_if.judge(request);
            bypass = judged.then_some(NoCacheReason::BypassIf);
        }
        match bypass {
            Some(reason) => self.bypass(request, reason),
            None => self.answer(&context, request, key, mark),
        }
    }

    /// A request that the cache may have an answer for, or is to find one for. What goes on to a future is cloned for it: a
    /// hit clones nothing.
    fn answer<B: Send + 'static>(
        &self,
        context: &Arc<Context>,
        request: Request<B>,
        key: Key,
        mark: Option<HeaderValue>,
    ) -> ResponseFuture<S, B, S::Content>
    where
        S: Origin<B>,
    {
        let inner = &self.inner;
        let (method, headers) = (request.method(), request.headers());
        if context.is_nested(&key, request.extensions()) {
            return self.bypass(request, NoCacheReason::Nested);
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
                return self.bypass(request, context.refusal(NoCacheReason::Remembered, &key));
            }
            None => None,
        };
        let span = lookup.span();
        let fetched = fetch(context.clone(), inner.clone(), request, key, due, lookup);
        ResponseFuture::boxed(fetched.instrument(span))
    }

    /// A request that is not looked up.
    fn bypass<B, R: Body>(&self, request: Request<B>, refusal: impl Into<Refusal>) -> ResponseFuture<S, B, R>
    where
        S: Service<Request<B>>,
    {
        let refusal = refusal.into();
        self.context.cache.emit(Event::Bypass(refusal.reason));
        ResponseFuture::bypass(self.inner.clone(), request, self.context.clone(), refusal)
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
