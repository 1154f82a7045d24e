//! What becomes of one request.

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, header::CONTENT_LENGTH};
use http_body::Body;
use tokio::{
    sync::oneshot,
    time::{Instant, timeout_at},
};
use tower_service::Service;
use tracing::Instrument as _;

use super::{
    annotate,
    body::ResponseBody,
    future::ResponseFuture,
    load::{Led, Load},
    oneshot::Oneshot,
    select::{Selection, response, select, select_among, select_in_memory},
    target::Target,
};
use crate::{
    engine::{
        Cache,
        flight::{Flight, Landing, Seat},
    },
    entry::Entry,
    key::Key,
    policy::Policy,
    semantics::{
        cache_status::{CacheName, ForwardReason},
        invalidation::invalidates,
        storable::refusal_of_request,
    },
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
                let key = target.key(&shared.space);
                if let Some(entry) = select_in_memory(&shared.cache, &key, request.headers()) {
                    return ResponseFuture::ready(shared.hit(&entry, request.method(), false));
                }
                if shared.cache.is_uncacheable(&key) {
                    return bypass(inner, request, shared, NoCacheReason::Remembered);
                }
                ResponseFuture::boxed(visit(shared, inner, request, key))
            }
        }
    }
}

/// A request whose answer is not in memory.
async fn visit<S, B, R>(
    shared: Arc<Shared>,
    inner: S,
    request: Request<B>,
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
    let mut collapsed = false;
    loop {
        let (headers, method) = (request.headers(), request.method());
        let vacancy = match select(cache, &key, headers).await {
            Selection::Hit(entry) => return Ok(shared.hit(&entry, method, collapsed)),
            Selection::Miss(vacancy) => Some(vacancy),
            Selection::Unavailable => None,
        };
        if method == Method::HEAD {
            return shared.go_alone(inner, request, NoCacheReason::HeadMiss).await;
        }
        let place = vacancy.as_ref().map_or(&key, |vacancy| &vacancy.key);
        let follower = match cache.flights().board(place) {
            Seat::Leader(flight) => {
                let load = Load { shared, service: inner, request, key, vacancy };
                return load.begin(flight).await;
            }
            Seat::Follower(follower) => follower,
        };
        if !collapsed {
            cache.emit(Event::Coalesced);
            collapsed = true;
        }
        let reason = match timeout_at(deadline, follower.landing()).await {
            // Who could ask the store knows of invalidations that a load without it does not.
            Ok(Landing::Unstored(entries)) if vacancy.is_none() => {
                match select_among(&entries, &key, headers, cache.now()) {
                    Some(entry) => return Ok(shared.hit(&entry, method, collapsed)),
                    None => NoCacheReason::StoreUnavailable,
                }
            }
            Ok(Landing::Stored | Landing::Unstored(_) | Landing::Void) if Instant::now() < deadline => continue,
            Ok(Landing::Uncacheable) => NoCacheReason::Remembered,
            Ok(Landing::Failed) => NoCacheReason::ServiceFailed,
            Ok(_) | Err(_) => NoCacheReason::WaitedTooLong,
        };
        return shared.go_alone(inner, request, reason).await;
    }
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
        let method = self.request.method().clone();
        let (tell, told) = oneshot::channel();
        let task = shared.cache.spawn(self.lead(flight, tell).in_current_span());
        match told.await {
            Ok(Led::Found(entry)) => Ok(shared.hit(&entry, &method, true)),
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
    R: Body<Data = Bytes>,
{
    let method = request.method().clone();
    let mut response = Oneshot::new(inner, request).await?.map(ResponseBody::inner);
    if invalidates(&method, response.status()) {
        let keys: Vec<Key> = target.affected(&shared.space, response.headers()).collect();
        let cache = shared.cache.clone();
        // In a task of its own: the write is done, whether or not its client waits for what follows from it.
        let invalidated = shared.cache.spawn(async move {
            for key in keys {
                if let Err(error) = cache.invalidate(&key).await {
                    tracing::warn!(%error, "a write is not invalidated everywhere yet");
                }
            }
        });
        // It fails only if the runtime is shutting down.
        let _ = invalidated.await;
    }
    annotate::bypass(response.headers_mut(), &shared.name, NoCacheReason::Method);
    Ok(response)
}

impl Shared {
    /// The stored response that `entry` holds.
    fn hit<R: Body>(&self, entry: &Entry, method: &Method, collapsed: bool) -> Response<ResponseBody<R>> {
        self.cache.emit(Event::Hit);
        let Some(stored) = response(entry) else {
            // Selection hands out readable responses only.
            return Response::new(ResponseBody::empty());
        };
        let now = self.cache.now();
        let body =
            if method == Method::HEAD { ResponseBody::empty() } else { ResponseBody::stored(entry.payload().clone()) };
        let mut response = Response::new(body);
        *response.status_mut() = stored.status;
        let headers = response.headers_mut();
        headers.clone_from(&stored.headers);
        if method == Method::HEAD && !headers.contains_key(CONTENT_LENGTH) {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(entry.payload().len()));
        }
        let hit = annotate::Hit {
            age: stored.age(now),
            resident: stored.resident(now),
            ttl: (entry.deadlines().fresh as i64).saturating_sub(now as i64).div_euclid(1000),
            collapsed,
        };
        annotate::hit(headers, &self.name, &hit);
        response
    }

    /// Goes to the application for this one request, and keeps nothing.
    async fn go_alone<S, B, R>(
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
