//! What becomes of one request.

use std::{
    convert::Infallible,
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use http_body::Body;
use tokio::{
    runtime::Handle,
    sync::oneshot,
    time::{Instant, timeout_at},
};
use tower_service::Service;
use tracing::Instrument as _;

use super::{
    annotate::{self, Note},
    body::ResponseBody,
    future::ResponseFuture,
    load::{Led, Load, Place},
    oneshot::Oneshot,
    plan::Asked,
    select::{Selection, response as stored_response},
    target::{Naming, Target},
};
use crate::{
    engine::{
        Cache,
        fill::Permission,
        flight::{Flight, Landing, Seat},
    },
    entry::Entry,
    key::Key,
    policy::Policy,
    semantics::{
        cache_status::{CacheName, ForwardReason},
        freshness::lifetime,
        groups::invalidated_groups,
        invalidation::{invalidates, is_safe},
        storable::{post_answers_get, refusal_of_request},
        targeted::ResponseDirectives,
        update::head_outdates,
    },
    store::Seen,
    telemetry::{Event, NoCacheReason},
};

/// A service behind a cache, made by [`CacheLayer`](super::CacheLayer).
///
/// It is always ready, so that a hit never waits for a busy application; a request that has to go forward drives a clone
/// of the inner service to readiness first. Limits and load shedders that protect the application belong inside, those
/// that protect the process outside.
#[derive(Clone)]
pub struct CacheService<S> {
    inner: S,
    shared: Arc<Shared>,
}

pub(super) struct Shared {
    pub(super) cache: Cache,
    pub(super) policy: Policy,
    pub(super) name: CacheName,
    /// What the keys of all requests begin with.
    pub(super) space: String,
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

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (parts, body) = request.into_parts();
        let refusal = refusal_of_request(&parts, !body.is_end_stream());
        let target = Target::of(&parts);
        let request = Request::from_parts(parts, body);
        let shared = self.shared.clone();
        let inner = self.inner.clone();
        let bypass = |inner, request, shared: Arc<Shared>, reason| {
            shared.cache.emit(Event::Bypass(reason));
            ResponseFuture::bypass(inner, request, shared, reason)
        };
        match (refusal, target) {
            (None, None) => bypass(inner, request, shared, NoCacheReason::NoAuthority),
            (Some(NoCacheReason::Method), Some(target)) => {
                shared.cache.emit(Event::Bypass(NoCacheReason::Method));
                ResponseFuture::boxed(write_through(shared, inner, request, target))
            }
            (Some(reason), _) => bypass(inner, request, shared, reason),
            (None, Some(target)) => {
                let headers = request.headers();
                if shared.policy.is_bypassed_by_cookie(headers) {
                    return bypass(inner, request, shared, NoCacheReason::Cookie);
                }
                let key = target.key(&shared.naming(headers));
                if let Some(entry) = shared.select_in_memory(&key, headers) {
                    return ResponseFuture::ready(shared.respond(&entry, request.method(), headers, Note::Hit));
                }
                if shared.cache.is_uncacheable(&key) && !shared.directives(headers).only_if_cached() {
                    return bypass(inner, request, shared, NoCacheReason::Remembered);
                }
                ResponseFuture::boxed(visit(shared, inner, request, target, key))
            }
        }
    }
}

/// A request whose answer is not in memory.
async fn visit<S, B, R>(
    shared: Arc<Shared>,
    inner: S,
    request: Request<B>,
    target: Target,
    key: Key,
) -> Result<Response<ResponseBody<R>>, S::Error>
where
    S: Service<Request<B>, Response = Response<R>> + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    B: Send + 'static,
    R: Body<Data = Bytes> + Send + 'static,
    R::Error: Send + 'static,
{
    let cache = &shared.cache;
    let deadline = Instant::now() + cache.lock_timeout();
    let mut note = Note::Hit;
    loop {
        let (headers, method) = (request.headers(), request.method());
        let (stale, vacancy) = match shared.select(&key, headers).await {
            Selection::Hit(entry) => return Ok(shared.respond(&entry, method, headers, note)),
            Selection::Stale(entry, vacancy) => (Some(entry), Some(vacancy)),
            Selection::Miss(vacancy) => (None, Some(vacancy)),
            Selection::Unavailable => (None, None),
        };
        let use_stale = |entry: &Entry| shared.respond(entry, method, headers, Note::Stale);
        if stale.is_none() && shared.directives(headers).only_if_cached() {
            cache.emit(Event::Miss);
            return Ok(shared.no_answer(NoCacheReason::OnlyIfCached));
        }
        if method == Method::HEAD {
            return match stale {
                Some(entry) => Ok(use_stale(&entry)),
                None => {
                    let response = shared.go_alone(inner, request, NoCacheReason::HeadMiss).await?;
                    if vacancy.is_some_and(|vacancy| is_outdated_by(&response, vacancy.stale.as_ref())) {
                        shared.drop_outdated(&key).await;
                    }
                    Ok(response)
                }
            };
        }
        let place = vacancy.as_ref().map_or(&key, |vacancy| &vacancy.key);
        let follower = match cache.flights().board(place) {
            Seat::Leader(flight) => {
                let asked = Asked { target, key, method: Method::GET, headers: headers.clone(), time: cache.now() };
                let Some(entry) = stale else {
                    return Load { shared, service: inner, request, asked, vacancy }.begin(flight).await;
                };
                let response = use_stale(&entry);
                Load { shared, service: inner, request, asked, vacancy }.begin_in_background(flight);
                return Ok(response);
            }
            Seat::Follower(follower) => follower,
        };
        if let Some(entry) = stale {
            return Ok(use_stale(&entry));
        }
        if matches!(note, Note::Hit) {
            cache.emit(Event::Coalesced);
            note = Note::Collapsed;
        }
        let reason = match timeout_at(deadline, follower.landing()).await {
            // Who could ask the store knows of invalidations that a load without it does not.
            Ok(Landing::Unstored(entries)) if vacancy.is_none() => match shared.select_among(&entries, &key, headers) {
                Some(entry) => return Ok(shared.respond(&entry, method, headers, note)),
                None => NoCacheReason::StoreUnavailable,
            },
            Ok(Landing::Stored | Landing::Unstored(_) | Landing::Void) if Instant::now() < deadline => continue,
            Ok(Landing::Uncacheable) => NoCacheReason::Remembered,
            // A load fails by an error that this entry stood in for, or without any response: the wider of the two
            // permissions is the one that counts.
            Ok(Landing::Failed) => {
                match shared.stands_in(headers, vacancy.and_then(|vacancy| vacancy.stale).as_ref(), None) {
                    Some(entry) => {
                        cache.emit(Event::Miss);
                        return Ok(shared.respond(&entry, method, headers, Note::StaleIfError(None)));
                    }
                    None => NoCacheReason::ServiceFailed,
                }
            }
            Ok(_) | Err(_) => NoCacheReason::WaitedTooLong,
        };
        return shared.go_alone(inner, request, reason).await;
    }
}

/// Whether a response to HEAD says that what is stored has changed.
fn is_outdated_by<R>(head: &Response<R>, stored: Option<&Entry>) -> bool {
    stored
        .and_then(|entry| Some((entry.payload().len() as u64, stored_response(entry)?)))
        .is_some_and(|(length, stored)| head_outdates(head.status(), head.headers(), &stored.headers, length))
}

impl<S, B, R> Load<S, B>
where
    S: Service<Request<B>, Response = Response<R>> + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    B: Send + 'static,
    R: Body<Data = Bytes> + Send + 'static,
    R::Error: Send + 'static,
{
    /// Leads `flight` in a task of its own, and waits for what there is to answer.
    async fn begin(self, flight: Flight) -> Result<Response<ResponseBody<R>>, S::Error> {
        let shared = self.shared.clone();
        let (method, headers) = (self.request.method().clone(), self.asked.headers.clone());
        let (tell, told) = oneshot::channel();
        let task = shared.cache.spawn(self.lead(flight, tell).in_current_span());
        match told.await {
            Ok(Led::Entry(entry, note)) => Ok(shared.respond(&entry, &method, &headers, note)),
            Ok(Led::Response(response)) => Ok(response.map(|body| body.recorded_by(task))),
            Ok(Led::Failed(error)) => Err(error),
            Err(_) => {
                // A panic of the application's goes on where it would have without a cache.
                if let Some(panic) = task.await.err().and_then(|error| error.try_into_panic().ok()) {
                    std::panic::resume_unwind(panic);
                }
                // The runtime is shutting down, and this task with it.
                std::future::pending().await
            }
        }
    }

    /// Leads `flight` in a task of its own, for those who come later.
    fn begin_in_background(self, flight: Flight) {
        let cache = self.shared.cache.clone();
        let (tell, _) = oneshot::channel();
        cache.spawn(self.lead(flight, tell).in_current_span());
    }
}

/// A write that nobody has answered yet. Dropped with its key, its client has left, and what the application has done by
/// then nobody knows: the key is voided to be safe.
struct Abandoned {
    cache: Cache,
    key: Option<Key>,
}

impl Drop for Abandoned {
    fn drop(&mut self) {
        // Without a runtime there is no process left to serve what is stored.
        let (Some(key), Ok(_)) = (self.key.take(), Handle::try_current()) else { return };
        let cache = self.cache.clone();
        self.cache.spawn(async move {
            if let Err(error) = cache.invalidate(&key).await {
                tracing::warn!(%error, "a write is not invalidated everywhere yet");
            }
        });
    }
}

/// An unsafe request: the application answers it, and what that makes stale is gone before the client knows.
async fn write_through<S, B, R>(
    shared: Arc<Shared>,
    inner: S,
    request: Request<B>,
    target: Target,
) -> Result<Response<ResponseBody<R>>, S::Error>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Error: Send + 'static,
    R: Body<Data = Bytes> + Send + 'static,
    R::Error: Send + 'static,
{
    let method = request.method().clone();
    let headers = request.headers().clone();
    let time = shared.cache.now();
    let abandoned = (!is_safe(&method))
        .then(|| Abandoned { cache: shared.cache.clone(), key: Some(target.key(&shared.naming(&headers))) });
    let result = Oneshot::new(inner, request).await;
    if let Some(mut abandoned) = abandoned {
        abandoned.key = None;
    }
    let response = result?;
    let naming = shared.naming(&headers);
    if invalidates(&method, response.status()) {
        let keys = target.affected(&naming, response.headers());
        let groups = invalidated_groups(&method, response.headers());
        let groups: Vec<String> = groups.iter().map(|group| shared.group_tag(&target, group)).collect();
        let cache = shared.cache.clone();
        // In a task of its own: the write is done, whether or not its client waits for what follows from it.
        let invalidated = shared.cache.spawn(async move {
            let mut results = vec![cache.invalidate_tags(groups).await];
            for key in keys {
                results.push(cache.invalidate(&key).await);
            }
            for error in results.into_iter().filter_map(Result::err) {
                tracing::warn!(%error, "a write is not invalidated everywhere yet");
            }
        });
        // It fails only if the runtime is shutting down.
        let _ = invalidated.await;
    }
    if method == Method::POST && shared.answers_get(&target, &response) {
        let key = target.key(&naming);
        return Ok(shared.keep_for_get(Asked { target, key, method, headers, time }, response).await);
    }
    let mut response = response.map(ResponseBody::inner);
    annotate::bypass(response.headers_mut(), &shared.name, NoCacheReason::Method);
    Ok(response)
}

impl Shared {
    /// What the key of a request with `headers` is made of.
    pub(super) fn naming<'a>(&'a self, headers: &'a HeaderMap) -> Naming<'a> {
        let Policy { caching, key_headers, .. } = &self.policy;
        Naming { space: &self.space, ignored_query: &caching.ignored_query, key_headers, headers }
    }

    /// A response to POST that GET would have, too (RFC 9110, section 9.3.3).
    async fn keep_for_get<R>(self: &Arc<Self>, asked: Asked, response: Response<R>) -> Response<ResponseBody<R>>
    where
        R: Body<Data = Bytes> + Send + 'static,
        R::Error: Send + 'static,
    {
        let deadline = Instant::now();
        let permission = match self.cache.flights().board(&asked.key) {
            Seat::Leader(flight) => self.cache.ask_to_load(flight, &asked.key, Seen::Unusable, deadline).await,
            Seat::Follower(_) => Permission::Uncacheable,
        };
        let Permission::Load(permit) = permission else {
            let mut response = response.map(ResponseBody::inner);
            annotate::bypass(response.headers_mut(), &self.name, NoCacheReason::Method);
            return response;
        };
        let (tell, told) = oneshot::channel::<Led<R, Infallible>>();
        let shared = self.clone();
        let task =
            self.cache.spawn(async move { shared.answer(permit, &asked, Place::default(), response, tell).await });
        match told.await {
            Ok(Led::Response(response)) => response.map(|body| body.recorded_by(task)),
            // Told of nothing else, or the runtime is shutting down.
            Ok(Led::Entry(..)) | Err(_) => std::future::pending().await,
        }
    }

    /// Drops what a response to HEAD says has changed.
    async fn drop_outdated(&self, key: &Key) {
        if let Err(error) = self.cache.invalidate(key).await {
            tracing::warn!(%error, "an outdated response is not dropped everywhere yet");
        }
    }

    /// Whether this response to POST is to be kept for GET.
    fn answers_get<R>(&self, target: &Target, response: &Response<R>) -> bool {
        let (policy, headers) = (&self.policy.caching, response.headers());
        let directives = ResponseDirectives::from_headers(headers, &policy.targets);
        let lifetime = lifetime(policy, &directives, response.status(), headers, self.cache.now(), None);
        post_answers_get(policy, target.reference(), response.status(), headers, lifetime)
    }

    /// Goes to the application for this one request, and keeps nothing.
    pub(super) async fn go_alone<S, B, R>(
        &self,
        inner: S,
        request: Request<B>,
        reason: NoCacheReason,
    ) -> Result<Response<ResponseBody<R>>, S::Error>
    where
        S: Service<Request<B>, Response = Response<R>>,
        R: Body,
    {
        self.cache.emit(Event::Miss);
        let mut response = Oneshot::new(inner, request).await?.map(ResponseBody::inner);
        annotate::miss(response.headers_mut(), &self.name, ForwardReason::Miss, Some(reason));
        Ok(response)
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
