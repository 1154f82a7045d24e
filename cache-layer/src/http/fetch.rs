//! A request whose answer is not in memory: found in the store, waited for, loaded, or answered by the application alone.

use std::{
    convert::Infallible,
    future::ready,
    pin::Pin,
    sync::Arc,
    task::{self, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{Extensions, HeaderMap, HeaderValue, Method, Request, Response, header::RANGE};
use http_body::Body;
use tokio::{task::JoinHandle, time::Instant};
use tower_service::Service;
use tracing::{Instrument as _, Span};

use super::{
    alias::Alias,
    annotate::{Refusal, Served},
    asking::Asking,
    body::ResponseBody,
    context::Context,
    forward::{Answered, Forward},
    granted_load::Asked,
    load::{ErrorOf, Load},
    origin::Origin,
    plan::CacheRequest,
    reply::LoadReply,
    respond::Content,
    response_entry::ResponseEntry,
    select::{Hit, Miss, Selection, missing_uri},
    target::Target,
};
use crate::{
    engine::{
        Reading,
        backoff::RecentFailure,
        enclosing::EnclosingLoads,
        flight::{Flight, FlightOutcome, Follower, LoadTask, Role, resume_panic},
        in_progress::InProgress,
        miss::Followed,
        patience::{LONGEST_PAUSE, Patience},
        permit::Purpose,
        span::LookupSpan,
    },
    entry::{Entry, EntryId},
    key::Key,
    semantics::{
        cache_status::ForwardReason, incremental::is_incremental, range::names_several, update::head_outdates,
    },
    store::Seen,
    telemetry::{Event, NoCacheReason, Release},
    throttle::Throttle,
};

type Outcome<R, E> = Result<Response<ResponseBody<R>>, E>;
type Fetched<S, B> = Outcome<<S as Origin<B>>::Content, ErrorOf<S, B>>;

impl<S: Origin<B>, B: Send + 'static> Asking<S, B> {
    fn lookup<'a>(&'a self, known: Known, patience: &'a mut Patience, span: &'a mut LookupSpan) -> RequestLookup<'a> {
        let ((key, target), request) = (self.sending.asked(), self.sending.request());
        RequestLookup {
            context: &self.context,
            key,
            target,
            method: request.method(),
            headers: request.headers(),
            extensions: request.extensions(),
            known,
            class: Class::Unasked,
            patience,
            span,
        }
    }

    /// Begins the load that a request leads, in this span.
    fn lead(self, flight: Flight, miss: Miss, purpose: Purpose, patience: Patience, span: Span) -> LeadingFor<S, B> {
        let Self { context, mut sending } = self;
        let (key, target) = sending.as_mut().take_asked();
        let asked = CacheRequest::as_get(&context, target, key, sending.request());
        let headers = asked.headers.clone();
        flight.set_span(&span);
        // What goes on in the background is part of no other load.
        let enclosing = if purpose.is_in_background() { EnclosingLoads::default() } else { EnclosingLoads::here() };
        let asked = Box::new(Asked { context: context.clone(), request: asked, miss, enclosing });
        let load = Load { asked, sending, purpose, patience };
        let load = context.cache.flights().spawn_load(span, |reply_to| load.lead(flight, reply_to));
        Leading { context, headers, load }
    }

    /// Begins to handle a request for which memory has no entry.
    fn begin(self, seen: Seen, mut span: LookupSpan) -> BegunFor<S, B> {
        let mut patience = self.context.patience();
        match self.lookup(Known::Missing(seen), &mut patience, &mut span).next_at_once() {
            Some(next) => self.go_on(next, patience, span),
            None => Begun::GoesOn(Box::pin(fetch(self, Known::Missing(seen), span))),
        }
    }

    /// Begins the next step for a request. Rare and long steps are boxed, so that the future of a load stays small.
    fn go_on(self, next: Next<S::Content>, patience: Patience, mut span: LookupSpan) -> BegunFor<S, B> {
        let (flight, miss, purpose, answer) = match next {
            Next::Respond(response) => return Begun::answered(self.verifying(response)),
            Next::Forward { refusal, stale, learns } => {
                let forwarded = self.forward(refusal, stale, learns, patience.end(), span);
                return Begun::GoesOn(Box::pin(forwarded));
            }
            Next::Lead { flight, miss, purpose, answer } => (flight, miss, purpose, answer),
        };
        let (cache, is_left_behind) = (&self.context.cache, patience.soft_deadline().is_some());
        let (key, _) = self.sending.asked();
        let load_span = match answer {
            LeaderAnswer::Stored(_) => cache.background_span(key, &span),
            LeaderAnswer::Load | LeaderAnswer::LoadOrStale(..) => cache.load_span(key, &span),
        };
        let leading = self.lead(flight, miss, purpose, patience, load_span);
        match answer {
            LeaderAnswer::Stored(response) => Begun::answered(*response),
            LeaderAnswer::Load => Begun::Leads(leading, span),
            LeaderAnswer::LoadOrStale(stale, until) => {
                Begun::GoesOn(Box::pin(
                    async move { leading.response_or(*stale, until, is_left_behind, &mut span).await },
                ))
            }
        }
    }

    /// Forwards the request to the application; the `stale` entry may replace an error.
    async fn forward(
        self,
        refusal: Refusal,
        stale: Option<Entry>,
        learns: bool,
        deadline: Instant,
        // Kept until the answer.
        _span: LookupSpan,
    ) -> Fetched<S, B> {
        let Self { context, mut sending } = self;
        let (key, _) = sending.as_mut().take_asked();
        let enclosing = EnclosingLoads::here();
        let forward = Forward { sending, key: &key, refusal, deadline, stale: stale.as_ref(), enclosing };
        context.forward(forward, learns).await
    }

    /// This answer, which may be verified afterwards.
    fn verifying(mut self, answer: Response<ResponseBody<S::Content>>) -> Response<ResponseBody<S::Content>> {
        let (key, _) = self.sending.as_mut().take_asked();
        if let Some(turn) = self.context.verification_turn(&key) {
            let (service, request) = self.sending.as_mut().unsent();
            self.context.verify(turn, service, request, &key);
        }
        answer
    }
}

/// A request whose load has begun.
struct Leading<R: Body, E> {
    context: Arc<Context>,
    headers: Arc<HeaderMap>,
    load: LoadTask<LoadReply<R, E>>,
}

type LeadingFor<S, B> = Leading<<S as Origin<B>>::Content, ErrorOf<S, B>>;

impl<R, E> Leading<R, E>
where
    R: Body<Data = Bytes, Error: Send + 'static> + Send + 'static,
    E: Send + 'static,
{
    /// The response of the load; or the stale response, if the load panics, or has not replied by then, unless the stale response
    /// has become too old. If it `is_left_behind` then, as by a soft timeout, the load continues for later requests.
    async fn response_or(
        self,
        stale: ResponseEntry,
        until: Instant,
        is_left_behind: bool,
        span: &mut LookupSpan,
    ) -> Outcome<R, E> {
        let Self { context, headers, load } = self;
        let replied = match load.reply_by(until).await {
            Ok(replied) => replied,
            Err(load) if !context.is_usable(&headers, &stale) => load.reply_unless_panicked().await,
            Err(load) => {
                if is_left_behind {
                    let longest = context.cache.longest_load();
                    context.cache.flights().leave_to_later(load, longest, LoadReply::received);
                }
                return Ok(context.stale_after_miss(stale, &headers));
            }
        };
        match replied {
            Ok((reply, task)) => respond(&context, reply, &headers, span, task),
            Err(_) if context.is_usable(&headers, &stale) => Ok(context.stale_after_miss(stale, &headers)),
            Err(panicked) => resume_panic(panicked).await,
        }
    }
}

fn respond<R: Body, E>(
    context: &Context,
    mut reply: LoadReply<R, E>,
    headers: &HeaderMap,
    span: &mut LookupSpan,
    task: JoinHandle<()>,
) -> Result<Response<ResponseBody<R>>, E> {
    reply.set_recorder(task);
    context.respond_with_loaded(reply, &Method::GET, headers, span)
}

/// A step that has begun, for a request whose answer is not in memory. This and its parts are moved between polls, and never
/// pinned.
#[allow(clippy::large_enum_variant, reason = "the large one is the common one")]
enum Begun<R: Body, E> {
    Leads(Leading<R, E>, LookupSpan),
    GoesOn(Pin<Box<dyn Future<Output = Outcome<R, E>> + Send>>),
}

type BegunFor<S, B> = Begun<<S as Origin<B>>::Content, ErrorOf<S, B>>;

impl<R: Body, E> Unpin for Begun<R, E> {}

impl<R, E> Future for Begun<R, E>
where
    R: Body<Data = Bytes, Error: Send + 'static> + Send + 'static,
    E: Send + 'static,
{
    type Output = Outcome<R, E>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Self::Output> {
        let Self::Leads(Leading { context, headers, load }, span) = &mut *self else { return self.poll_rest(cx) };
        match ready!(load.poll_reply(cx)) {
            Some(reply) => Poll::Ready(respond(context, reply, headers, span, load.take_task())),
            None => {
                *self = Self::GoesOn(Box::pin(resume_panic(load.take_task())));
                self.poll_rest(cx)
            }
        }
    }
}

impl<R, E> Begun<R, E>
where
    R: Body<Data = Bytes, Error: Send + 'static> + Send + 'static,
    E: Send + 'static,
{
    fn answered(response: Response<ResponseBody<R>>) -> Self {
        Self::GoesOn(Box::pin(ready(Ok(response))))
    }

    fn poll_rest(&mut self, cx: &mut task::Context<'_>) -> Poll<Outcome<R, E>> {
        match self {
            Self::GoesOn(fetching) => fetching.as_mut().poll(cx),
            Self::Leads(..) => Poll::Pending,
        }
    }
}

/// Answers a request whose answer is not in memory, or has to be refreshed; `known` is what memory had.
#[expect(
    clippy::manual_async_fn,
    reason = "an `async fn` keeps its arguments twice: as they came, and as it uses them"
)]
pub(super) fn fetch<S: Origin<B>, B: Send + 'static>(
    asking: Asking<S, B>,
    known: Known,
    mut span: LookupSpan,
) -> impl Future<Output = Fetched<S, B>> + Send {
    async move {
        let mut patience = asking.context.patience();
        let next = Box::pin(asking.lookup(known, &mut patience, &mut span).next()).await;
        asking.go_on(next, patience, span).await
    }
}

/// As [`fetch`], if the whole store is in this process and has no entry: most such requests lead a load, so the future is only
/// as large as that needs.
pub(super) fn fetch_missing<S: Origin<B>, B: Send + 'static>(
    asking: Asking<S, B>,
    seen: Seen,
    span: LookupSpan,
) -> MissingFor<S, B> {
    Missing(MissingStep::New(Some((asking, seen, span))))
}

type Unbegun<S, B> = (Asking<S, B>, Seen, LookupSpan);

/// The future of [`fetch_missing`], in no box of its own: it takes no more room than an answer.
pub(super) struct Missing<S: Service<Request<B>>, B, R: Body>(MissingStep<S, B, R>);

enum MissingStep<S: Service<Request<B>>, B, R: Body> {
    New(Option<Unbegun<S, B>>),
    Begun(Begun<R, S::Error>),
}

type MissingFor<S, B> = Missing<S, B, <S as Origin<B>>::Content>;

impl<S: Service<Request<B>>, B, R: Body> Unpin for Missing<S, B, R> {}

impl<S: Origin<B>, B: Send + 'static> Future for MissingFor<S, B> {
    type Output = Fetched<S, B>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Self::Output> {
        let Self(step) = &mut *self;
        if let MissingStep::New(new) = step {
            let (asking, seen, span) = new.take().expect("polled after a panic");
            *step = MissingStep::Begun(asking.begin(seen, span));
        }
        match step {
            MissingStep::Begun(begun) => Pin::new(begun).poll(cx),
            MissingStep::New(_) => Poll::Pending,
        }
    }
}

/// As [`fetch`], for a request that states an enclosing load of another process. An entry in memory may answer it only once it
/// is clear that this is not a load of the same key: otherwise a refresh would get the entry that it should refresh.
pub(super) async fn fetch_unless_nested<S: Origin<B>, B: Send + 'static>(
    mut asking: Asking<S, B>,
    enclosing: HeaderValue,
    mut lookup: LookupSpan,
) -> Fetched<S, B> {
    let Asking { context, sending } = &mut asking;
    let key = sending.asked().0.clone();
    let request = sending.as_mut().request_mut();
    if context.is_enclosed_by(request.headers_mut(), &key, enclosing, Reading::Answer).await {
        let reason = NoCacheReason::Nested;
        lookup.bypassed(reason);
        context.report_bypass(request, reason);
        return Ok(context.bypassed(sending.await?, reason));
    }
    let span = lookup.span();
    fetch(asking, Known::Nothing, lookup).instrument(span).await
}

/// The parts of a request that decide the next step.
struct RequestLookup<'a> {
    context: &'a Context,
    key: &'a Key,
    target: &'a Target<'static>,
    method: &'a Method,
    headers: &'a HeaderMap,
    extensions: &'a Extensions,
    known: Known,
    class: Class,
    patience: &'a mut Patience,
    span: &'a mut LookupSpan,
}

/// What is known of a request before its look-up.
#[derive(Clone, Copy)]
pub(super) enum Known {
    Nothing,
    /// The whole store is in this process, and has no usable entry.
    Missing(Seen),
    /// This entry in memory has to be refreshed.
    Due(EntryId),
}

/// The role of a request for the loads of its class: see [`alias`](super::alias).
enum Class {
    Unasked,
    /// It leads one, for all requests that wait.
    Leads(Box<Flight>),
    /// It has waited for one, which has ended.
    Waited,
    /// It loads alone.
    Alone,
}

/// The next step for a request, by its class.
enum ByClass<R: Body> {
    Done(Box<Next<R>>),
    /// The request has to be looked up again.
    Again,
}

/// The next step for a request.
enum Next<R: Body> {
    Respond(Response<ResponseBody<R>>),
    /// It leads a load.
    Lead {
        flight: Flight,
        miss: Miss,
        purpose: Purpose,
        answer: LeaderAnswer<R>,
    },
    /// The application answers it alone; the `stale` entry may replace an error. `learns`: the response decides how the next
    /// request for a range is handled.
    Forward {
        refusal: Refusal,
        stale: Option<Entry>,
        learns: bool,
    },
}

/// The answer to a request that leads a load.
enum LeaderAnswer<R: Body> {
    /// This response; the load is for later requests.
    Stored(Box<Response<ResponseBody<R>>>),
    Load,
    /// The load; or this response, if the load panics, or has not replied by then.
    LoadOrStale(Box<ResponseEntry>, Instant),
}

impl RequestLookup<'_> {
    /// The next step, if it needs neither a look-up nor a wait for another request's load.
    fn next_at_once<R: Body>(&mut self) -> Option<Next<R>> {
        let Known::Missing(seen) = self.known else { return None };
        self.span.at(self.context.cache.far_tier());
        let miss = missing_uri(self.key, seen);
        if let Some(next) = self.without_load(&miss) {
            return Some(next);
        }
        match self.context.cache.flights().join(&miss.key) {
            Role::Leader(flight) => {
                Some(Next::Lead { flight, miss, purpose: Purpose::Answer, answer: LeaderAnswer::Load })
            }
            Role::Follower(_) => None,
        }
    }

    /// Looks the request up, and waits for another request's load, for as long as there is patience.
    async fn next<R: Body>(mut self) -> Next<R> {
        let cache = &self.context.cache;
        let mut served = Served::Hit;
        loop {
            self.span.at(cache.far_tier());
            let miss = match self.select().await {
                Selection::Fresh(hit) if !self.is_due(&hit) => return self.respond(hit.entry, served),
                Selection::Fresh(hit) => {
                    let miss = hit.miss(self.key, ForwardReason::Stale);
                    return self.refresh(hit.entry, served, miss);
                }
                Selection::Stale(hit, miss) => {
                    let refused = self.refused(&miss);
                    return refused.unwrap_or_else(|| self.refresh(hit.entry, Served::Stale, miss));
                }
                Selection::Missing(miss) => miss,
            };
            if self.context.variations.is_some() {
                match Box::pin(self.by_class(&miss, &mut served)).await {
                    Some(ByClass::Done(next)) => return *next,
                    Some(ByClass::Again) => continue,
                    None => {}
                }
            }
            if let Some(next) = self.without_load(&miss) {
                return next;
            }
            let follower = match cache.flights().join(&miss.key) {
                Role::Leader(mut flight) => {
                    let answer = match self.stale_if_slow(&miss) {
                        Some((stale, until)) => LeaderAnswer::LoadOrStale(Box::new(stale), until),
                        None => LeaderAnswer::Load,
                    };
                    if let Class::Leads(class) = self.class {
                        flight.take_along(class);
                    }
                    return Next::Lead { flight, miss, purpose: Purpose::Answer, answer };
                }
                Role::Follower(follower) => follower,
            };
            if matches!(served, Served::Hit) {
                cache.emit(Event::Coalesced);
                served = Served::Collapsed;
            }
            if let Some(next) = self.follow(follower, miss, served).await {
                return next;
            }
        }
    }

    /// Selects from the store; the first time, from what is already known.
    async fn select(&mut self) -> Selection {
        match self.known {
            Known::Missing(seen) => {
                self.known = Known::Nothing;
                Selection::Missing(missing_uri(self.key, seen))
            }
            Known::Nothing | Known::Due(_) => self.context.select(self.key, self.headers, Reading::Answer).await,
        }
    }

    fn is_due(&self, hit: &Hit) -> bool {
        *self.method != Method::HEAD
            && match self.known {
                Known::Due(due) => due == hit.entry.id(),
                Known::Nothing | Known::Missing(_) => self.context.is_due_early(&hit.entry),
            }
    }

    fn respond<R: Body>(&mut self, entry: ResponseEntry, served: Served) -> Next<R> {
        self.context.learn_from_stored(self.target, self.method, self.headers, self.extensions, &entry);
        Next::Respond(self.context.respond(entry, self.method, self.headers, served, self.span))
    }

    /// The next step if there is an answer that one request has to refresh.
    fn refresh<R: Body>(&mut self, entry: ResponseEntry, served: Served, miss: Miss) -> Next<R> {
        let cache = &self.context.cache;
        if *self.method == Method::HEAD || cache.recent_failure(&miss.key).is_some() {
            return self.respond(entry, served);
        }
        let Role::Leader(flight) = cache.flights().join(&miss.key) else { return self.respond(entry, served) };
        let purpose = match served {
            Served::Stale => cache.purpose_of_refresh(&miss.key),
            _ => Purpose::EarlyRefresh,
        };
        let answer = match purpose {
            Purpose::RetriedRefresh => LeaderAnswer::LoadOrStale(Box::new(entry), self.patience.end_with_stale()),
            _ => {
                let response = self.context.respond(entry, self.method, self.headers, served, self.span);
                LeaderAnswer::Stored(Box::new(response))
            }
        };
        Next::Lead { flight, miss, purpose, answer }
    }

    /// The next step if a response to this variant could not be stored a moment ago: neither it nor what is stale is for others.
    fn refused<R: Body>(&mut self, miss: &Miss) -> Option<Next<R>> {
        if !self.context.remembers_refusal_of_variant(miss) || self.context.directives(self.headers).only_if_cached() {
            return None;
        }
        self.span.because(NoCacheReason::Remembered);
        let refusal = self.context.refusal(NoCacheReason::Remembered, &miss.key);
        Some(Next::Forward { refusal, stale: None, learns: false })
    }

    /// The next step for a request that does not load; `None` if it has to load.
    fn without_load<R: Body>(&mut self, miss: &Miss) -> Option<Next<R>> {
        let (context, stale) = (self.context, miss.stale.as_ref());
        if !miss.reached_store() {
            self.span.unavailable();
        } else if miss.detail.why == ForwardReason::FromTheFuture {
            self.span.because(NoCacheReason::FromTheFuture);
        }
        if context.directives(self.headers).only_if_cached() {
            context.cache.emit(Event::Miss);
            self.span.because(NoCacheReason::OnlyIfCached);
            return Some(Next::Respond(context.gateway_timeout(NoCacheReason::OnlyIfCached)));
        }
        if let Some(next) = self.refused(miss) {
            return Some(next);
        }
        if let Some(failure) = context.cache.recent_failure(&miss.key)
            && let Some(response) = self.respond_while_backing_off(stale, &failure)
        {
            return Some(Next::Respond(response));
        }
        let reason = if *self.method == Method::HEAD {
            NoCacheReason::HeadMiss
        } else if is_incremental(self.headers) {
            // A load would make other requests wait for it, or make it wait for theirs.
            NoCacheReason::Incremental
        } else {
            let stale = stale.cloned().and_then(ResponseEntry::new);
            context.passes_range(self.key, self.headers, stale.map(|entry| entry.response().info.response_time))?
        };
        self.span.because(reason);
        Some(Next::Forward { refusal: reason.into(), stale: stale.cloned(), learns: true })
    }

    fn respond_while_backing_off<R: Body>(
        &mut self,
        stale: Option<&Entry>,
        failure: &RecentFailure,
    ) -> Option<Response<ResponseBody<R>>> {
        let reply = self.context.reply_while_backing_off::<R, Infallible>(self.headers, stale, failure)?;
        let Ok(response) = self.context.respond_with_loaded(reply, self.method, self.headers, self.span);
        Some(response)
    }

    /// Waits for another request's load; `None` if the request has to be looked up again.
    async fn follow<R: Body>(&mut self, mut follower: Follower, miss: Miss, served: Served) -> Option<Next<R>> {
        let wait = self.span.wait_for(&follower);
        let stale = self.stale_if_slow(&miss);
        let soft = stale.as_ref().map_or(self.patience.deadline(), |(_, until)| *until);
        let deadline = self.patience.deadline().min(soft);
        // The load may wait for the very place of the load that this request is part of.
        if let Some(place) = EnclosingLoads::here().place_at(&self.context.load_limit) {
            follower.lend(place.clone());
        }
        let key = self.key;
        let join = |load: &InProgress| {
            self.join(load, miss.reached_store(), Served::Collapsed, |context, headers| {
                context.select_among(&load.entries, key, headers)
            })
        };
        let outcome = match follower.follow(wait, deadline, || None, join).await {
            Followed::Joined(response) => return Some(Next::Respond(response)),
            Followed::Ended(outcome) => outcome,
            Followed::TimedOut => {
                return match stale {
                    Some((entry, _)) if self.context.is_usable(self.headers, &entry) => {
                        Some(self.respond_with_stale(entry, NoCacheReason::WaitedTooLong))
                    }
                    // The stale entry expired during the wait; the request waits on, without it.
                    Some(_) if !self.patience.is_over() => None,
                    _ => Some(self.waited_too_long(miss)),
                };
            }
        };
        match outcome {
            // A request that could reach the store must not take an entry that was loaded without it: the request may know
            // of an invalidation that the load did not.
            FlightOutcome::Unstored(entries) if !miss.reached_store() => {
                match self.context.select_among(&entries, self.key, self.headers) {
                    Some(entry) => Some(self.respond(entry, served)),
                    None => Some(self.forward(NoCacheReason::StoreUnavailable, miss)),
                }
            }
            FlightOutcome::Stored | FlightOutcome::Found | FlightOutcome::Unstored(_) | FlightOutcome::Void
                if self.patience.again(LONGEST_PAUSE, Duration::ZERO).await =>
            {
                None
            }
            FlightOutcome::Uncacheable => Some(self.forward(NoCacheReason::Remembered, miss)),
            FlightOutcome::Transient(entries) => Some(self.with_transient(&entries, miss, served)),
            FlightOutcome::Failed(status) => Some(self.failed_together(miss, status)),
            _ => Some(self.waited_too_long(miss)),
        }
    }

    /// The next step if nothing is stored for the request's own target: a response that answers several queries may answer it,
    /// or is being loaded. `None` if the request has to load.
    async fn by_class<R: Body>(&mut self, miss: &Miss, served: &mut Served) -> Option<ByClass<R>> {
        let context = self.context;
        if miss.detail.why != ForwardReason::UriMiss {
            return None;
        }
        let alias = context.alias_of(self.target, self.method, self.headers, self.extensions)?;
        if let Some(answer) = self.answer_by_alias(&alias, *served).await {
            return Some(answer);
        }
        match self.class {
            // The load that it would wait for may itself wait for this request.
            Class::Unasked if !context.is_within_a_load(self.extensions) => {}
            Class::Unasked | Class::Leads(_) | Class::Alone => return None,
            Class::Waited => {
                alias.keep_apart();
                return None;
            }
        }
        if let Some(next) = self.without_load(miss) {
            return Some(ByClass::Done(Box::new(next)));
        }
        let follower = match alias.join()? {
            Role::Leader(flight) => {
                self.class = Class::Leads(Box::new(flight));
                // Another load may have ended since that look-up.
                return self.answer_by_alias(&alias, *served).await;
            }
            Role::Follower(follower) => follower,
        };
        if matches!(served, Served::Hit) {
            context.cache.emit(Event::Coalesced);
            *served = Served::Collapsed;
        }
        Some(self.follow_class(follower, miss, &alias).await)
    }

    async fn answer_by_alias<R: Body>(&mut self, alias: &Alias<'_>, served: Served) -> Option<ByClass<R>> {
        let entry = self.context.select_by_alias(alias, self.headers, Reading::Answer).await?;
        let collapsed = matches!(served, Served::Collapsed);
        Some(ByClass::Done(Box::new(self.respond(entry, Served::Alias { collapsed }))))
    }

    /// Waits for the load of another query of the class.
    async fn follow_class<R: Body>(&mut self, follower: Follower, miss: &Miss, alias: &Alias<'_>) -> ByClass<R> {
        let (wait, deadline) = (self.span.wait_for(&follower), self.patience.deadline());
        let join = |load: &InProgress| {
            let served = Served::Alias { collapsed: true };
            self.join(load, miss.reached_store(), served, |context, headers| {
                context.select_of_class(load, alias, headers)
            })
        };
        let outcome = match follower.follow(wait, deadline, || None, join).await {
            Followed::Joined(response) => return ByClass::Done(Box::new(Next::Respond(response))),
            Followed::Ended(outcome) => outcome,
            Followed::TimedOut => return ByClass::Done(Box::new(self.waited_too_long(miss.clone()))),
        };
        self.class = match outcome {
            // The load was overtaken, or lost: one of the waiting requests loads.
            FlightOutcome::Void => Class::Unasked,
            FlightOutcome::Failed(_) => Class::Alone,
            _ => Class::Waited,
        };
        match self.patience.again(LONGEST_PAUSE, Duration::ZERO).await {
            true => ByClass::Again,
            false => ByClass::Done(Box::new(self.waited_too_long(miss.clone()))),
        }
    }

    /// The response that is being loaded, if it answers this request as well as it will from the store, as `select` decides,
    /// and no invalidation came between the load and the request. `reached_store`: the store answered the request's own
    /// look-up.
    fn join<R: Body>(
        &mut self,
        load: &InProgress,
        reached_store: bool,
        served: Served,
        select: impl FnOnce(&Context, &HeaderMap) -> Option<ResponseEntry>,
    ) -> Option<Response<ResponseBody<R>>> {
        let context = self.context;
        if !context.cache.may_join(load, reached_store) {
            return None;
        }
        let entry = select(context, self.headers)?;
        let content = match load.payload.length() {
            // Several ranges need the complete body, and a single range needs a known length.
            Some(_) if names_several(self.headers) => return None,
            Some(length) => Content::Loading(load.payload.clone(), length),
            None if self.headers.contains_key(RANGE) => return None,
            None => Content::Growing(load.payload.read_all()?),
        };
        context.cache.emit(Event::Joined);
        Some(context.respond_while_loading(entry, content, self.method, self.headers, served, self.span))
    }

    /// The next step if the load failed, with a response of this status or without any: a stale entry may be used as it may by the
    /// request that led the load.
    fn failed_together<R: Body>(&mut self, miss: Miss, status: Option<u16>) -> Next<R> {
        let (context, stale) = (self.context, miss.stale.as_ref());
        if let Some(entry) = context.stale_if_error_entry(self.headers, stale, status) {
            return self.respond_with_stale(entry, NoCacheReason::ServiceFailed);
        }
        if let Some(failure) = context.cache.recent_failure(&miss.key)
            && let Some(response) = self.respond_while_backing_off(stale, &failure)
        {
            return Next::Respond(response);
        }
        self.forward(NoCacheReason::ServiceFailed, miss)
    }

    /// The next step if the load's response was made from something stale, and is not stored.
    fn with_transient<R: Body>(&mut self, entries: &[(Key, Entry)], miss: Miss, served: Served) -> Next<R> {
        let entry = self.context.select_among(entries, self.key, self.headers).filter(|_| miss.reached_store());
        match entry {
            Some(entry) => self.respond(entry, served),
            // Unlike a response that can never be stored, the next one may be: this request needs a place.
            None => self.forward(NoCacheReason::MadeFromStale, miss),
        }
    }

    /// Answers with a stale entry.
    fn respond_with_stale<R: Body>(&mut self, entry: ResponseEntry, reason: NoCacheReason) -> Next<R> {
        self.context.cache.emit(Event::Miss);
        self.span.because(reason);
        self.respond(entry, Served::StaleIfError(None))
    }

    /// The stale entry that may be used if the response is slow, and from when on.
    fn stale_if_slow(&self, miss: &Miss) -> Option<(ResponseEntry, Instant)> {
        let until = self.patience.soft_deadline()?;
        Some((self.context.stale_if_error_entry(self.headers, miss.stale.as_ref(), None)?, until))
    }

    fn waited_too_long<R: Body>(&mut self, miss: Miss) -> Next<R> {
        self.context.cache.emit(Event::Release(Release::WaitTimeout));
        self.forward(NoCacheReason::WaitedTooLong, miss)
    }

    fn forward<R: Body>(&mut self, reason: NoCacheReason, miss: Miss) -> Next<R> {
        self.span.because(reason);
        let refusal = self.context.refusal(reason, &miss.key);
        Next::Forward { refusal, stale: miss.stale, learns: false }
    }
}

impl Context {
    fn patience(&self) -> Patience {
        self.cache.patience().with_soft_timeout(self.policy.soft_timeout)
    }

    /// Whether a stale entry may still be used, while it is refreshed or in place of an error: to be asked again at the end of
    /// each wait.
    fn is_usable(&self, headers: &HeaderMap, entry: &ResponseEntry) -> bool {
        let now = self.cache.now();
        now < entry.deadlines_at(now).stale_while_revalidate
            || self.usable_on_error(headers, Some(entry), None).is_some()
    }

    fn stale_after_miss<R: Body>(&self, stale: ResponseEntry, headers: &HeaderMap) -> Response<ResponseBody<R>> {
        self.respond_after_miss(stale, &Method::GET, headers, Served::StaleIfError(None))
    }

    /// Forwards a request that does not load. A response to HEAD may show that the `stale` entry has changed.
    async fn forward<S: Origin<B>, B>(
        &self,
        mut forward: Forward<'_, S, B>,
        learns: bool,
    ) -> Result<Response<ResponseBody<S::Content>>, S::Error> {
        if !learns {
            return self.forward_alone(forward).await;
        }
        let (key, stale, is_head) = (forward.key, forward.stale, forward.request().method() == Method::HEAD);
        let asked = self.would_be_stored(&mut forward);
        let Answered { mut response, by_application } = self.forward_and_learn(forward).await?;
        if by_application {
            if is_head && is_outdated_by(&response, stale) {
                self.drop_outdated(key).await;
            }
            // Not before: what is learned is about the application's response.
            self.as_stored(asked, &mut response);
        }
        Ok(response)
    }

    /// Drops an entry that has changed, by a response to HEAD.
    async fn drop_outdated(&self, key: &Key) {
        if let Err(error) = self.cache.invalidate(key).await {
            static THROTTLE: Throttle = Throttle::new();
            if let Some(kept_back) = THROTTLE.pass() {
                tracing::warn!(%error, kept_back, "an outdated response is not dropped everywhere yet");
            }
        }
    }
}

/// Whether a response to HEAD shows that the stored response has changed.
fn is_outdated_by<R>(head: &Response<R>, stored: Option<&Entry>) -> bool {
    stored.cloned().and_then(ResponseEntry::new).is_some_and(|stored| {
        let length = stored.payload_length();
        head_outdates(head.status(), head.headers(), &stored.stored_headers(), length)
    })
}
