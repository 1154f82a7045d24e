//! A request whose answer is not in memory: found in the store, waited for, or to be loaded.

use std::{convert::Infallible, time::Duration};

use http::{HeaderMap, Method, Response, header::RANGE};
use http_body::Body;

use super::{
    annotate::Served,
    body::ResponseBody,
    context::Context,
    respond::Content,
    response_entry::ResponseEntry,
    select::{Hit, Miss, Selection},
};
use crate::{
    engine::{
        backoff::RecentFailure,
        fetch::Followed,
        flight::{Flight, FlightOutcome, Follower, Role},
        in_progress::InProgress,
        patience::{LONGEST_PAUSE, Patience},
        permit::Purpose,
        span::LookupSpan,
    },
    entry::{Entry, EntryId},
    key::Key,
    semantics::{cache_status::ForwardReason, incremental::is_incremental},
    telemetry::{Event, NoCacheReason, Release},
};

/// A request, as far as it is needed to find out what is to be done.
pub(super) struct RequestLookup<'a> {
    pub(super) context: &'a Context,
    pub(super) key: &'a Key,
    pub(super) method: &'a Method,
    pub(super) headers: &'a HeaderMap,
    /// The entry in memory that is to be refreshed, if this process has one.
    pub(super) due: Option<EntryId>,
    pub(super) patience: &'a mut Patience,
    pub(super) span: &'a mut LookupSpan,
}

/// What is to be done for a request.
#[expect(clippy::large_enum_variant, reason = "there is one for each request, and it is taken apart at once")]
pub(super) enum Next<R: Body> {
    Respond(Response<ResponseBody<R>>),
    /// It leads a load.
    Lead {
        flight: Flight,
        miss: Miss,
        purpose: Purpose,
        answer: Answer<R>,
    },
    /// The application answers it by itself; or what is `stale`, in place of an error. `learns`: what the response says of the
    /// next range is remembered.
    Forward {
        reason: NoCacheReason,
        stale: Option<Entry>,
        learns: bool,
    },
}

/// What answers a request that leads a load.
pub(super) enum Answer<R: Body> {
    /// This; the load is for later requests.
    Stored(Response<ResponseBody<R>>),
    Load,
    /// The load; or this, if the load panics or takes too long.
    LoadOrStale(ResponseEntry),
}

impl RequestLookup<'_> {
    /// Looks the request up, and waits for another request's load, for as long as there is patience.
    pub(super) async fn next<R: Body>(&mut self) -> Next<R> {
        let cache = &self.context.cache;
        let mut served = Served::Hit;
        loop {
            self.span.at(cache.far_tier());
            let miss = match self.context.select(self.key, self.headers).await {
                Selection::Fresh(hit) if !self.is_due(&hit) => return self.respond(hit.entry, served),
                Selection::Fresh(hit) => {
                    let miss = hit.miss(self.key, ForwardReason::Stale);
                    return self.refresh(hit.entry, served, miss);
                }
                Selection::Stale(hit, miss) => {
                    return self.refresh(hit.entry, Served::Stale, miss);
                }
                Selection::Missing(miss) => miss,
            };
            if let Some(next) = self.without_load(&miss) {
                return next;
            }
            let follower = match cache.flights().join(&miss.key) {
                Role::Leader(flight) => {
                    return Next::Lead { flight, miss, purpose: Purpose::Answer, answer: Answer::Load };
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

    fn is_due(&self, hit: &Hit) -> bool {
        *self.method != Method::HEAD
            && self.due.map_or_else(|| self.context.is_due_early(&hit.entry), |due| due == hit.entry.id())
    }

    fn respond<R: Body>(&mut self, entry: ResponseEntry, served: Served) -> Next<R> {
        Next::Respond(self.context.respond(entry, self.method, self.headers, served, self.span))
    }

    /// There is an answer, which is to be refreshed by one request.
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
            Purpose::RetriedRefresh => Answer::LoadOrStale(entry),
            _ => Answer::Stored(self.context.respond(entry, self.method, self.headers, served, self.span)),
        };
        Next::Lead { flight, miss, purpose, answer }
    }

    /// What a request gets for which nothing will be loaded; `None` if it is to be loaded.
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
        if let Some(failure) = context.cache.recent_failure(&miss.key)
            && let Some(response) = self.respond_while_backing_off(stale, &failure)
        {
            return Some(Next::Respond(response));
        }
        let reason = if *self.method == Method::HEAD {
            NoCacheReason::HeadMiss
        } else if is_incremental(self.headers) {
            // A load would make others wait for it, or make it wait for theirs.
            NoCacheReason::Incremental
        } else {
            let stale = stale.cloned().and_then(ResponseEntry::new);
            context.passes_range(self.key, self.headers, stale.map(|entry| entry.response().response_time))?
        };
        self.span.because(reason);
        Some(Next::Forward { reason, stale: stale.cloned(), learns: true })
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

    /// Waits for another request's load; `None` if the request is to look again.
    async fn follow<R: Body>(&mut self, follower: Follower, miss: Miss, served: Served) -> Option<Next<R>> {
        let wait = self.span.wait_for(&follower);
        let deadline = self.patience.deadline();
        let join = |load: &InProgress| self.join(load, miss.reached_store());
        let outcome = match follower.follow(wait, deadline, join).await {
            Followed::Joined(response) => return Some(Next::Respond(response)),
            Followed::Ended(outcome) => outcome,
            Followed::TimedOut => return Some(self.waited_too_long(miss)),
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
            FlightOutcome::Stored | FlightOutcome::Unstored(_) | FlightOutcome::Void
                if self.patience.again(LONGEST_PAUSE, Duration::ZERO).await =>
            {
                None
            }
            FlightOutcome::Uncacheable => Some(self.forward(NoCacheReason::Remembered, miss)),
            FlightOutcome::Failed => Some(self.failed_together(miss)),
            _ => Some(self.waited_too_long(miss)),
        }
    }

    /// What is coming in, if it answers this request as well as it will from the store, and the request came before any
    /// invalidation of it. `reached_store`: the request's own lookup was answered.
    fn join<R: Body>(&mut self, load: &InProgress, reached_store: bool) -> Option<Response<ResponseBody<R>>> {
        let context = self.context;
        if !context.cache.may_join(load, reached_store) {
            return None;
        }
        let entry = context.select_among(&load.entries, self.key, self.headers)?;
        let content = match load.payload.length() {
            Some(length) => Content::Loading(load.payload.clone(), length),
            // A part can be cut out once the whole is there.
            None if self.headers.contains_key(RANGE) => return None,
            None => Content::Growing(load.payload.read_all()?),
        };
        context.cache.emit(Event::Joined);
        Some(context.respond_while_loading(entry, content, self.method, self.headers, self.span))
    }

    /// The load failed. It did so by an error that a stale entry stood in for, or without any response: the wider of the two
    /// permissions is the one that counts.
    fn failed_together<R: Body>(&mut self, miss: Miss) -> Next<R> {
        let (context, stale) = (self.context, miss.stale.as_ref());
        if let Some(entry) = context.stale_if_error_entry(self.headers, stale, None) {
            context.cache.emit(Event::Miss);
            self.span.because(NoCacheReason::ServiceFailed);
            return self.respond(entry, Served::StaleIfError(None));
        }
        if let Some(failure) = context.cache.recent_failure(&miss.key)
            && let Some(response) = self.respond_while_backing_off(stale, &failure)
        {
            return Next::Respond(response);
        }
        self.forward(NoCacheReason::ServiceFailed, miss)
    }

    fn waited_too_long<R: Body>(&mut self, miss: Miss) -> Next<R> {
        self.context.cache.emit(Event::Release(Release::WaitTimeout));
        self.forward(NoCacheReason::WaitedTooLong, miss)
    }

    fn forward<R: Body>(&mut self, reason: NoCacheReason, miss: Miss) -> Next<R> {
        self.span.because(reason);
        Next::Forward { reason, stale: miss.stale, learns: false }
    }
}
