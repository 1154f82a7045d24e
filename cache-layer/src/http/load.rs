//! Asking the application once for all requests that wait, and replying to the one that asks.
//!
//! This runs in a task of its own: the client that began it may leave, and what it asked for goes on and is stored all the
//! same. Not for ever: a load that no request waits for any more is given a while, and then dropped.

use std::sync::Arc;

use http::{Request, Response, StatusCode};

use super::{
    annotate::Served,
    context::{Context, is_personal},
    fill::{Admission, Fill},
    forward::Forward,
    oneshot::Oneshot,
    origin::Origin,
    plan::CacheRequest,
    reply::LoadReply,
    response_entry::ResponseEntry,
    select::Miss,
};
use crate::{
    engine::{
        fetch::Acquire,
        flight::Flight,
        patience::Patience,
        permit::Purpose,
        span::LookupSpan,
        task::{LoadTask, ReplyTo},
    },
    semantics::{
        conditional::{unconditional, validating},
        staleness::{has_validator, is_replaceable_error},
    },
    telemetry::{Event, NoCacheReason},
};

/// A request on its way to the application.
pub(super) struct Load<S, B> {
    pub(super) context: Arc<Context>,
    pub(super) service: S,
    pub(super) request: Request<B>,
    pub(super) asked: CacheRequest,
    pub(super) miss: Miss,
    pub(super) purpose: Purpose,
    /// For other loads, and for room at the application.
    pub(super) patience: Patience,
}

type ReplyOf<S, B> = LoadReply<<S as Origin<B>>::Content, ErrorOf<S, B>>;
type ErrorOf<S, B> = <S as tower_service::Service<Request<B>>>::Error;

impl<S: Origin<B>, B: Send + 'static> Load<S, B> {
    /// Leads `flight` in a task of its own, for a request that waits.
    pub(super) fn begin(self, flight: Flight, lookup: &LookupSpan) -> LoadTask<ReplyOf<S, B>> {
        let cache = self.context.cache.clone();
        let span = cache.load_span(&self.asked.key, lookup);
        flight.is_in(&span);
        cache.spawn_load(span, |reply_to| self.lead(flight, reply_to))
    }

    /// Leads `flight` in a task of its own, for later requests.
    pub(super) fn begin_in_background(self, flight: Flight, lookup: &LookupSpan) {
        let cache = self.context.cache.clone();
        let span = cache.background_span(&self.asked.key, lookup);
        flight.is_in(&span);
        drop(cache.spawn_load(span, |reply_to| self.lead(flight, reply_to)));
    }

    /// Leads `flight` to its end, and replies as soon as there is a reply. The request that waits for it may be gone; the load
    /// goes on without it, for a while.
    fn lead(self, flight: Flight, reply_to: ReplyTo<ReplyOf<S, B>>) -> impl Future<Output = ()> + Send {
        // Not an `async fn`, which would keep its arguments twice: as they came, and as it uses them.
        let Self { context, service, request, asked, miss, purpose, mut patience } = self;
        async move {
            let end = patience.end();
            let policy =
                |miss: &Miss| context.failure_policy(&asked.headers, miss.stale.as_ref(), !reply_to.is_awaited());
            let find = || context.select(&asked.key, &asked.headers);
            let acquired = context.cache.acquire(flight, miss, &mut patience, policy, find).await;
            let (permit, miss) = match acquired {
                Acquire::Granted(permit, miss) => (permit, miss),
                Acquire::Found(hit) => return reply_to.send(LoadReply::Entry(hit.entry, Served::Collapsed)),
                Acquire::Uncacheable if purpose.is_in_background() => return,
                Acquire::Uncacheable => {
                    let (key, reason) = (&asked.key, NoCacheReason::Remembered);
                    let forward = Forward { service, request, key, reason, deadline: end, stale: None };
                    return context.reply_uncached(forward, reply_to).await;
                }
                Acquire::BackedOff(failure, miss) => {
                    let stale = miss.stale.as_ref();
                    match context.reply_while_backing_off(&asked.headers, stale, &failure) {
                        Some(reply) => return reply_to.send(reply),
                        None if purpose.is_in_background() => return,
                        None => {}
                    }
                    let (key, reason) = (&asked.key, NoCacheReason::BackedOff);
                    let forward = Forward { service, request, key, reason, deadline: end, stale };
                    return context.reply_uncached(forward, reply_to).await;
                }
            };
            let mut fill = Fill { context, request: asked, miss, permit, reply_to, room: None };
            match fill.admit(purpose, end).await {
                Admission::Admitted => fill.ask(service, request, purpose).await,
                Admission::Abandoned => fill.permit.abandon(),
                Admission::NoRoom => fill.refuse(purpose),
            }
        }
    }
}

impl Context {
    /// Forwards a request by itself, and replies with what comes of it, unless its client leaves before that.
    async fn reply_uncached<S: Origin<B>, B>(&self, forward: Forward<'_, S, B>, reply_to: ReplyTo<ReplyOf<S, B>>) {
        let reply = async { self.forward_uncached(forward).await.map_or_else(LoadReply::Failed, LoadReply::Response) };
        reply_to.send_while_awaited(reply).await;
    }
}

impl<R, E> Fill<R, E>
where
    R: http_body::Body<Data = bytes::Bytes>,
{
    /// Asks the application for the whole, or whether what is stored still holds; what the client wants of it is answered
    /// here.
    async fn ask<S, B>(mut self, service: S, mut request: Request<B>, purpose: Purpose)
    where
        S: Origin<B, Content = R, Error = E>,
    {
        let cache = &self.context.cache;
        unconditional(request.headers_mut());
        let stored = self.miss.stale.clone().and_then(ResponseEntry::new);
        let validator = stored.as_ref().map(ResponseEntry::response);
        let validator = validator.filter(|stored| has_validator(&stored.headers) && !stored.traits.unmatched);
        let validates = validator.is_some();
        if let Some(stored) = validator {
            validating(request.headers_mut(), &stored.headers);
        }
        self.context.mark(&mut request, &self.request.key, self.permit.token());
        if purpose == Purpose::EarlyRefresh {
            cache.emit(Event::EarlyRefresh);
        }
        self.request.time = cache.now();
        let Self { context, permit, reply_to, .. } = &mut self;
        let asking = context.with_reads(Oneshot::new(service, request));
        match permit.while_loading(asking, || context.demand(reply_to.is_awaited())).await {
            None => self.permit.abandon(),
            Some(Err(error)) => self.failed(purpose, error),
            Some(Ok(response)) => match stored {
                Some(entry) if response.status() == StatusCode::NOT_MODIFIED => {
                    let (head, _) = response.into_parts();
                    self.revalidated(entry, validates.then_some(head)).await;
                }
                _ => self.answered(response).await,
            },
        }
    }

    /// The application has a response of its own.
    async fn answered(self, response: Response<R>) {
        let status = response.status();
        if is_replaceable_error(status)
            && let Some(reply) = self.stale_if_error(Some(status.as_u16()))
        {
            self.permit.failed(Some(status.as_u16()), !is_personal(&self.request.headers));
            return self.reply_to.send(reply);
        }
        self.receive(response).await;
    }
}
