//! A request whose answer is not in memory: found, waited for, or loaded.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body::Body;
use tokio::{
    sync::oneshot,
    time::{Instant, timeout_at},
};
use tower_service::Service;
use tracing::Instrument as _;

use super::{
    annotate::{self, Note},
    body::ResponseBody,
    load::{Led, Load},
    oneshot::Oneshot,
    plan::Asked,
    select::{Selection, response as stored_response},
    service::Shared,
    target::Target,
};
use crate::{
    engine::flight::{Flight, Landing, Seat},
    entry::Entry,
    key::Key,
    semantics::{cache_status::ForwardReason, update::head_outdates},
    telemetry::{Event, NoCacheReason},
};

/// A request whose answer is not in memory.
pub(super) async fn visit<S, B, R>(
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

impl Shared {
    /// Drops what a response to HEAD says has changed.
    async fn drop_outdated(&self, key: &Key) {
        if let Err(error) = self.cache.invalidate(key).await {
            tracing::warn!(%error, "an outdated response is not dropped everywhere yet");
        }
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
        self.policy.strip_internal(response.headers_mut());
        annotate::miss(response.headers_mut(), &self.name, ForwardReason::Miss, Some(reason));
        Ok(response)
    }
}
