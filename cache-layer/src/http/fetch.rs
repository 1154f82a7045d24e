//! A request whose answer is not in memory: found, waited for, or loaded.

use std::{ops::ControlFlow, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use http_body::Body;
use tokio::{
    sync::oneshot,
    time::{Instant, timeout_at},
};
use tower_service::Service;

use super::{
    annotate::{self, Note},
    body::ResponseBody,
    load::{Led, Load, Purpose},
    oneshot::Oneshot,
    plan::Asked,
    select::{Selection, response as stored_response},
    service::Shared,
    target::Target,
};
use crate::{
    engine::{
        flight::{Flight, Landing, Seat},
        patience::LONGEST_PAUSE,
        span::{Look, in_span},
    },
    entry::{Entry, EntryId},
    key::Key,
    semantics::{cache_status::ForwardReason, staleness::is_replaceable_error, update::head_outdates},
    telemetry::{Event, NoCacheReason, Release},
    throttle::Throttle,
};

/// A request whose answer is not in memory, or is the entry `due` there, which is to be refreshed.
#[expect(
    clippy::manual_async_fn,
    reason = "an `async fn` keeps its arguments twice: as they came, and as it uses them"
)]
pub(super) fn visit<S, B, R>(
    shared: Arc<Shared>,
    inner: S,
    request: Request<B>,
    key: Key,
    due: Option<EntryId>,
    mut look: Look,
) -> impl Future<Output = Result<Response<ResponseBody<R>>, S::Error>> + Send
where
    S: Service<Request<B>, Response = Response<R>> + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    B: Send + 'static,
    R: Body<Data = Bytes> + Send + 'static,
    R::Error: Send + 'static,
{
    async move {
        let cache = &shared.cache;
        let mut patience = cache.patience();
        let (deadline, end) = (patience.deadline(), patience.end());
        let mut note = Note::Hit;
        let look = &mut look;
        loop {
            look.at(cache.far_tier());
            let (headers, method) = (request.headers(), request.method());
            // What answers the request, and is refreshed in the background.
            let (usable, vacancy) = match shared.select(&key, headers).await {
                Selection::Hit(found) => {
                    let entry = &found.entry;
                    let is_due = || due.map_or_else(|| shared.is_due_early(entry), |due| due == entry.id());
                    if method == Method::HEAD || !is_due() {
                        return Ok(shared.respond(found.entry, method, headers, note, look));
                    }
                    let vacancy = found.vacancy(&key);
                    (Some((found.entry, note)), Some(vacancy))
                }
                Selection::Stale(found) => {
                    let vacancy = found.vacancy(&key);
                    (Some((found.entry, Note::Stale)), Some(vacancy))
                }
                Selection::Miss(vacancy) => {
                    if vacancy.why == ForwardReason::FromTheFuture {
                        look.because(NoCacheReason::FromTheFuture);
                    }
                    (None, Some(vacancy))
                }
                Selection::Unavailable => {
                    look.unavailable();
                    (None, None)
                }
            };
            let answer =
                |(entry, note): (Entry, Note), look: &mut Look| shared.respond(entry, method, headers, note, look);
            if usable.is_none() && shared.directives(headers).only_if_cached() {
                cache.emit(Event::Miss);
                look.because(NoCacheReason::OnlyIfCached);
                return Ok(shared.no_answer(NoCacheReason::OnlyIfCached));
            }
            let place = vacancy.as_ref().map_or(&key, |vacancy| &vacancy.key);
            if let Some(setback) = cache.setback(place) {
                if let Some(usable) = usable {
                    return Ok(answer(usable, look));
                }
                let stale = vacancy.as_ref().and_then(|vacancy| vacancy.stale.as_ref());
                match shared.spare::<R, S::Error>(headers, stale, &setback) {
                    Some(Led::Entry(entry, note)) => return Ok(shared.respond(entry, method, headers, note, look)),
                    Some(Led::Response(response)) => return Ok(response),
                    Some(Led::Failed(_)) | None => {}
                }
            }
            let stale = vacancy.as_ref().and_then(|vacancy| vacancy.stale.as_ref());
            if method == Method::HEAD {
                return match usable {
                    Some(usable) => Ok(answer(usable, look)),
                    None => {
                        look.because(NoCacheReason::HeadMiss);
                        let reason = NoCacheReason::HeadMiss;
                        let response = shared.go_and_learn(inner, request, &key, reason, end, stale).await?;
                        if is_outdated_by(&response, stale) {
                            shared.drop_outdated(&key).await;
                        }
                        Ok(response)
                    }
                };
            }
            if usable.is_none() {
                let since = stale.and_then(stored_response).map(|stored| stored.response_time);
                if let Some(reason) = shared.passes_range(&key, headers, since) {
                    look.because(reason);
                    return shared.go_and_learn(inner, request, &key, reason, end, stale).await;
                }
            }
            let mut follower = match cache.flights().board(place) {
                Seat::Leader(flight) => {
                    // It had one when its key was made of it.
                    let Some(target) = Target::of(&shared.sites, request.uri(), headers).map(Target::into_owned) else {
                        let reason = NoCacheReason::NoAuthority;
                        return shared.go_alone(inner, request, &key, reason, end, None).await;
                    };
                    let purpose = match &usable {
                        None => Purpose::Answer,
                        Some((_, Note::Stale)) if cache.is_overdue(place) => Purpose::Overdue,
                        Some((_, Note::Stale)) => Purpose::Refresh,
                        Some(_) => Purpose::EarlyRefresh,
                    };
                    let for_all = Arc::new(headers.clone());
                    let (response, stands_in) = match (usable, purpose) {
                        (Some((entry, _)), Purpose::Overdue) => (None, Some((entry, shared.clone(), for_all.clone()))),
                        (usable, _) => (usable.map(|usable| answer(usable, look)), None),
                    };
                    let asked = Asked { target, key, method: Method::GET, headers: for_all, time: cache.now() };
                    let load = Load { shared, service: inner, request, asked, vacancy, purpose, patience };
                    if let Some(response) = response {
                        load.begin_in_background(flight, look);
                        return Ok(response);
                    }
                    let instead = stands_in.as_ref().map(|(entry, ..)| entry.clone());
                    let answered = load.begin(flight, look, instead);
                    let Some((entry, shared, headers)) = stands_in else { return answered.await };
                    return match timeout_at(end, answered).await {
                        Ok(answered) => answered,
                        Err(_) => Ok(shared.stand_in(entry, &Method::GET, &headers, None)),
                    };
                }
                Seat::Follower(follower) => follower,
            };
            if let Some(usable) = usable {
                return Ok(answer(usable, look));
            }
            if matches!(note, Note::Hit) {
                cache.emit(Event::Coalesced);
                note = Note::Collapsed;
            }
            let wait = look.wait_for(&follower);
            let waited = async {
                if let Some(sharing) = follower.sharing().await
                    && let Some(response) = shared.join(&sharing, &key, vacancy.is_some(), method, headers, look)
                {
                    return ControlFlow::Break(response);
                }
                ControlFlow::Continue(follower.landing().await)
            };
            let landing = match timeout_at(deadline, waited).await {
                Ok(ControlFlow::Break(response)) => {
                    wait.ended(Release::Done);
                    return Ok(response);
                }
                Ok(ControlFlow::Continue(landing)) => {
                    wait.ended(landing.release());
                    Ok(landing)
                }
                Err(elapsed) => {
                    wait.ended(Release::WaitTimeout);
                    Err(elapsed)
                }
            };
            let reason = match landing {
                // Who could ask the store knows of invalidations that a load without it does not.
                Ok(Landing::Unstored(entries)) if vacancy.is_none() => {
                    match shared.select_among(&entries, &key, headers) {
                        Some(entry) => return Ok(shared.respond(entry, method, headers, note, look)),
                        None => NoCacheReason::StoreUnavailable,
                    }
                }
                Ok(Landing::Stored | Landing::Unstored(_) | Landing::Void)
                    if patience.again(LONGEST_PAUSE, Duration::ZERO).await =>
                {
                    continue;
                }
                Ok(Landing::Uncacheable) => NoCacheReason::Remembered,
                // A load fails by an error that this entry stood in for, or without any response: the wider of the two
                // permissions is the one that counts.
                Ok(Landing::Failed) => {
                    let stale = vacancy.as_ref().and_then(|vacancy| vacancy.stale.as_ref());
                    match shared.stands_in(headers, stale, None) {
                        Some(entry) => {
                            cache.emit(Event::Miss);
                            look.because(NoCacheReason::ServiceFailed);
                            return Ok(shared.respond(entry, method, headers, Note::StaleIfError(None), look));
                        }
                        None => match cache.setback(place).and_then(|setback| shared.spare(headers, stale, &setback)) {
                            Some(Led::<R, S::Error>::Response(response)) => return Ok(response),
                            _ => NoCacheReason::ServiceFailed,
                        },
                    }
                }
                Ok(_) | Err(_) => {
                    cache.emit(Event::Release(Release::WaitTimeout));
                    NoCacheReason::WaitedTooLong
                }
            };
            let stale = vacancy.as_ref().and_then(|vacancy| vacancy.stale.as_ref());
            look.because(reason);
            return shared.go_alone(inner, request, &key, reason, end, stale).await;
        }
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
    /// Leads `flight` in a task of its own, and waits for what there is to answer; `instead` of a panic, this entry.
    fn begin(
        self,
        flight: Flight,
        look: &mut Look,
        instead: Option<Entry>,
    ) -> impl Future<Output = Result<Response<ResponseBody<R>>, S::Error>> + Send {
        let shared = self.shared.clone();
        let (method, headers) = (self.request.method().clone(), self.asked.headers.clone());
        let (tell, told) = oneshot::channel();
        let span = shared.cache.load_span(&self.asked.key, look);
        flight.is_in(&span);
        let task = shared.cache.spawn(in_span(self.lead(flight, tell), span));
        async move {
            match told.await {
                Ok(Led::Entry(entry, note)) => Ok(shared.respond(entry, &method, &headers, note, look)),
                Ok(Led::Response(response)) => Ok(response.map(|body| body.recorded_by(task))),
                Ok(Led::Failed(error)) => Err(error),
                Err(_) => {
                    if let Some(entry) = instead {
                        return Ok(shared.stand_in(entry, &method, &headers, None));
                    }
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

    /// Leads `flight` in a task of its own, for those who come later.
    fn begin_in_background(self, flight: Flight, look: &Look) {
        let cache = self.shared.cache.clone();
        let (tell, _) = oneshot::channel();
        let span = cache.background_span(&self.asked.key, look);
        flight.is_in(&span);
        cache.spawn(in_span(self.lead(flight, tell), span));
    }
}

impl Shared {
    /// Drops what a response to HEAD says has changed.
    async fn drop_outdated(&self, key: &Key) {
        if let Err(error) = self.cache.invalidate(key).await {
            static THROTTLE: Throttle = Throttle::new();
            if let Some(kept_back) = THROTTLE.pass() {
                tracing::warn!(%error, kept_back, "an outdated response is not dropped everywhere yet");
            }
        }
    }

    /// The answer where there was no room at the application.
    fn without_room<R: Body>(
        &self,
        method: &Method,
        headers: &HeaderMap,
        stale: Option<&Entry>,
    ) -> Response<ResponseBody<R>> {
        match self.stands_in(headers, stale, None) {
            Some(entry) => self.stand_in(entry, method, headers, None),
            None => self.overloaded(),
        }
    }

    /// As [`go_alone`](Self::go_alone), and learns from the answer what to do with the next range.
    async fn go_and_learn<S, B, R>(
        &self,
        inner: S,
        request: Request<B>,
        key: &Key,
        reason: NoCacheReason,
        deadline: Instant,
        stale: Option<&Entry>,
    ) -> Result<Response<ResponseBody<R>>, S::Error>
    where
        S: Service<Request<B>, Response = Response<R>>,
        R: Body,
    {
        let headers = Arc::new(request.headers().clone());
        let target = Target::of(&self.sites, request.uri(), &headers).map(Target::into_owned);
        let time = self.cache.now();
        let response = self.go_alone(inner, request, key, reason, deadline, stale).await?;
        if let Some(target) = target {
            let asked = Asked { target, key: key.clone(), method: Method::GET, headers, time };
            self.learn_from_answer(&asked, &response);
        }
        Ok(response)
    }

    /// Goes to the application for this one request, and keeps nothing. Where the cache might have had an answer, it waits
    /// for room until `deadline`, and makes do with what is `stale` if there is none, or in place of an error.
    pub(super) async fn go_alone<S, B, R>(
        &self,
        inner: S,
        mut request: Request<B>,
        key: &Key,
        reason: NoCacheReason,
        deadline: Instant,
        stale: Option<&Entry>,
    ) -> Result<Response<ResponseBody<R>>, S::Error>
    where
        S: Service<Request<B>, Response = Response<R>>,
        R: Body,
    {
        self.cache.emit(Event::Miss);
        let room = match reason {
            NoCacheReason::Remembered => None,
            _ => match self.rooms.wait(deadline).await {
                Some(room) => Some(room),
                None => return Ok(self.without_room(request.method(), request.headers(), stale)),
            },
        };
        let fallback = stale.map(|stale| (stale, request.method().clone(), request.headers().clone()));
        // A layer further in is not to wait for what this one has waited for, nor for its room.
        self.mark(&mut request, key, None);
        let result = Oneshot::new(inner, request).await;
        drop(room);
        let failed = match &result {
            Ok(response) => Some(response.status()).filter(|status| is_replaceable_error(*status)).map(Some),
            Err(_) => Some(None),
        };
        if let (Some(status), Some((stale, method, headers))) = (failed, fallback) {
            let status = status.map(|status| status.as_u16());
            if let Some(entry) = self.stands_in(&headers, Some(stale), status) {
                return Ok(self.stand_in(entry, &method, &headers, status));
            }
        }
        let mut response = result?.map(ResponseBody::inner);
        self.policy.strip_internal(response.headers_mut());
        annotate::miss(response.headers_mut(), &self.name, ForwardReason::Miss, Some(reason));
        Ok(response)
    }
}
