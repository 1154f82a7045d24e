//! The service behind a [`CacheLayer`](super::CacheLayer): how one request is handled.

use std::{
    fmt,
    sync::Arc,
    task::{self, Poll},
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response};
use http_body::Body;
use tower_service::Service;
use tracing::Span;

use super::{
    annotate::{Refusal, Served},
    asking::{Asking, Sending},
    body::ResponseBody,
    context::Context,
    fetch::{Known, fetch, fetch_missing, fetch_unless_nested},
    forward::add_plain_tags,
    future::ResponseFuture,
    hints::Hints,
    origin::Origin,
    rules::{Choice, RequestSettings, Ruled},
    select::InMemory,
    target::Target,
    write::{Written, write_through},
};
use crate::{
    engine::span::LookupSpan,
    key::Key,
    semantics::{conditional::ignore_undefined, storable::refusal_of_request},
    telemetry::{NoCacheReason, Tier},
};

/// A service behind a cache, made by [`CacheLayer`](super::CacheLayer).
///
/// It is always ready, so that a hit never waits for a busy application; before a request is forwarded, a clone of the inner
/// service is driven to readiness. Limits and load shedders that protect the application belong inside, those that protect the
/// process outside.
#[derive(Clone)]
pub struct CacheService<S> {
    inner: S,
    settings: Settings,
}

/// The settings of a service.
#[derive(Clone)]
pub(super) enum Settings {
    /// All requests are looked up with the same settings.
    Plain(Arc<Context>),
    Ruled(Ruled),
}

impl Settings {
    /// The settings, without rules.
    #[inline(always)]
    fn base(&self) -> &Arc<Context> {
        match self {
            Self::Plain(context) => context,
            Self::Ruled(ruled) => ruled.base(),
        }
    }
}

impl<S> CacheService<S> {
    pub(super) fn new(inner: S, settings: Settings) -> Self {
        Self { inner, settings }
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
        if let Settings::Ruled(ruled) = &mut self.settings {
            ruled.keep_up();
        }
        let context = self.settings.base();
        let enclosing = context.take_enclosing(request.headers_mut());
        let (method, headers) = (request.method(), request.headers());
        let refusal = refusal_of_request(method, headers, !request.body().is_end_stream());
        let target = match (refusal, Target::of_request(&context.sites, &request)) {
            (None, Some(target)) => target,
            (Some(NoCacheReason::Method), target) => {
                let Some(written) = Written::of(target, &context.sites, &request) else {
                    return self.bypass(request, NoCacheReason::Method);
                };
                context.report_bypass(&request, NoCacheReason::Method);
                let settings = self.settings(request.extensions().get());
                let written = write_through(settings, self.inner.clone(), request, written);
                return ResponseFuture::boxed(written, Span::none());
            }
            (Some(reason), _) => return self.bypass(request, reason),
            (None, None) => return self.bypass(request, NoCacheReason::NoAuthority),
        };
        let hints = request.extensions().get::<Hints>();
        let found = match &self.settings {
            Settings::Plain(context) => Ok(context),
            Settings::Ruled(ruled) => ruled.context(&target, &Method::GET),
        };
        let is_plain = matches!(self.settings, Settings::Plain(_));
        let chosen;
        let (context, key) = if let (Ok(context), None) = (found, hints)
            && (is_plain || !context.asks_first())
        {
            (context, target.key(&context.key_rules(headers)))
        } else {
            let choice = Choice::of(context, found, hints, &target, headers);
            if choice.is_to_be_judged() {
                let target = target.into_owned();
                return self.answer_by(choice, request, target, enclosing);
            }
            chosen = choice.context;
            (&chosen, choice.key)
        };
        match context.answer_at_once(&request, &key, enclosing.is_some()) {
            AtOnce::Answer(response) => {
                // First of all, so that the response is not moved twice.
                let answer = ResponseFuture::ready(response);
                if !is_plain && let Some(turn) = context.verification_turn(&key) {
                    context.verify(turn, self.inner.clone(), request, &key);
                }
                answer
            }
            AtOnce::Bypass(refusal) => self.bypass_by(context, request, refusal),
            AtOnce::Fetch(known, lookup) => {
                let target = target.into_owned();
                self.fetch(context.clone(), request, key, target, enclosing, (known, lookup))
            }
        }
    }
}

/// The first result for a request that the cache may answer.
enum AtOnce<R: Body> {
    Answer(Response<ResponseBody<R>>),
    Bypass(Refusal),
    Fetch(Known, LookupSpan),
}

impl Context {
    /// Answers a hit in memory, without cloning anything. A request that states an enclosing load is never a hit.
    fn answer_at_once<B, R: Body>(&self, request: &Request<B>, key: &Key, is_enclosed: bool) -> AtOnce<R> {
        let (method, headers) = (request.method(), request.headers());
        if self.is_nested(key, request.extensions()) {
            return AtOnce::Bypass(NoCacheReason::Nested.into());
        }
        let mut lookup = self.cache.lookup_span(key);
        lookup.came_by(|| route_of(request), self.rule.as_ref());
        if is_enclosed {
            return AtOnce::Fetch(Known::Nothing, lookup);
        }
        let known = match self.select_in_memory(key, headers) {
            InMemory::Answer(entry, now) => {
                lookup.at(Tier::Memory);
                if *method != Method::GET || !self.is_due_early(&entry) {
                    return AtOnce::Answer(self.respond_at(now, entry, method, headers, Served::Hit, &mut lookup));
                }
                Known::Due(entry.id())
            }
            _ if self.remembers_refusal(key) && !self.directives(headers).only_if_cached() => {
                lookup.bypassed(NoCacheReason::Remembered);
                return AtOnce::Bypass(self.refusal(NoCacheReason::Remembered, key));
            }
            InMemory::Missing(seen) => Known::Missing(seen),
            InMemory::Unknown => Known::Nothing,
        };
        AtOnce::Fetch(known, lookup)
    }
}

/// The application's route that matched a request, if that is known.
#[cfg_attr(not(feature = "axum"), expect(unused_variables, reason = "only axum leaves anything there"))]
fn route_of<B>(request: &Request<B>) -> Option<Box<str>> {
    #[cfg(feature = "axum")]
    if let Some(route) = request.extensions().get::<axum::extract::MatchedPath>() {
        return Some(route.as_str().into());
    }
    None
}

impl<S: Clone> CacheService<S> {
    pub(super) fn settings(&self, hints: Option<&Hints>) -> RequestSettings {
        let ruled = match &self.settings {
            Settings::Plain(_) => None,
            Settings::Ruled(ruled) => Some(ruled.clone()),
        };
        RequestSettings::new(self.settings.base().clone(), ruled, hints)
    }

    pub(super) fn context(&self) -> &Arc<Context> {
        self.settings.base()
    }

    /// Answers a request whose key or settings differ from those of its target alone.
    pub(super) fn answer_by<B: Send + 'static>(
        &self,
        Choice { context, key, mut bypass }: Choice,
        mut request: Request<B>,
        target: Target<'static>,
        enclosing: Option<HeaderValue>,
    ) -> ResponseFuture<S, B, S::Content>
    where
        S: Origin<B>,
    {
        // The outer layer decides what is stored.
        if context.is_nested(&key, request.extensions()) {
            return self.bypass_by(&context, request, NoCacheReason::Nested);
        }
        if let (None, Some(bypass_if)) = (bypass, &context.policy.bypass_if) {
            let judged;
            (judged, request) = bypass_if.judge(request);
            bypass = judged.then_some(NoCacheReason::BypassIf);
        }
        if let Some(reason) = bypass {
            return self.bypass_by(&context, request, reason);
        }
        // A POST is here to be answered by its content.
        ignore_undefined(&mut request);
        match context.answer_at_once(&request, &key, enclosing.is_some()) {
            AtOnce::Answer(response) => {
                if let Some(turn) = context.verification_turn(&key) {
                    context.verify(turn, self.inner.clone(), request, &key);
                }
                ResponseFuture::ready(response)
            }
            AtOnce::Bypass(refusal) => self.bypass_by(&context, request, refusal),
            AtOnce::Fetch(known, lookup) => self.fetch(context, request, key, target, enclosing, (known, lookup)),
        }
    }

    /// Answers a request that needs a future, and so a clone of the service's parts.
    fn fetch<B: Send + 'static>(
        &self,
        context: Arc<Context>,
        request: Request<B>,
        key: Key,
        target: Target<'static>,
        enclosing: Option<HeaderValue>,
        (known, lookup): (Known, LookupSpan),
    ) -> ResponseFuture<S, B, S::Content>
    where
        S: Origin<B>,
    {
        let span = lookup.span();
        // With `No-Vary-Search`, another query's load may provide the missing response.
        let only_by_key = context.variations.is_none();
        let sending = Box::pin(Sending::new(self.inner.clone(), request, key, target));
        let asking = Asking { context, sending };
        match (enclosing, known) {
            (Some(enclosing), _) => ResponseFuture::boxed(fetch_unless_nested(asking, enclosing, lookup), Span::none()),
            (None, Known::Missing(seen)) if only_by_key => {
                ResponseFuture::missing(fetch_missing(asking, seen, lookup), span)
            }
            (None, known) => ResponseFuture::boxed(fetch(asking, known, lookup), span),
        }
    }

    /// Forwards a request that is not looked up, and whose settings are not known yet.
    pub(super) fn bypass<B, R: Body>(&self, request: Request<B>, refusal: impl Into<Refusal>) -> ResponseFuture<S, B, R>
    where
        S: Service<Request<B>>,
    {
        match &self.settings {
            Settings::Plain(context) => self.bypass_by(context, request, refusal),
            Settings::Ruled(_) => {
                let (base, settings) = (self.settings.base(), self.settings(None));
                let target = Target::of_request(&base.sites, &request);
                let context = target.map_or(base, |target| settings.context(&target, &Method::GET));
                self.bypass_by(context, request, refusal)
            }
        }
    }

    /// Forwards a request that is not looked up. Other requests for its target may be answered by these settings, in codings, too.
    fn bypass_by<B, R: Body>(
        &self,
        context: &Arc<Context>,
        mut request: Request<B>,
        refusal: impl Into<Refusal>,
    ) -> ResponseFuture<S, B, R>
    where
        S: Service<Request<B>>,
    {
        let refusal = refusal.into();
        add_plain_tags(&mut request);
        context.ask_for_whole(&mut request, refusal.reason);
        context.report_bypass(&request, refusal.reason);
        ResponseFuture::bypass(self.inner.clone(), request, context.clone(), refusal)
    }
}

impl<S: fmt::Debug> fmt::Debug for CacheService<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheService")
            .field("inner", &self.inner)
            .field("cache", &self.settings.base().cache)
            .field("policy", &self.settings.base().policy)
            .finish()
    }
}
