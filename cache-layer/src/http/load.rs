//! Asking the application once for all requests that wait, and replying to the one that asks.
//!
//! This runs in a task of its own: the client that began it may leave, and what it asked for goes on and is stored all the
//! same. Not for ever: a load that no request waits for any more is given a while, and then dropped.

use std::sync::Arc;

use http::{Request, StatusCode};

use super::{
    annotate::Served,
    context::Context,
    fill::{Admission, Fill},
    forward::Forward,
    oneshot::Oneshot,
    origin::Origin,
    plan::CacheRequest,
    reply::LoadReply,
    select::Miss,
};
use crate::{
    engine::{
        fetch::AcquireOutcome,
        flight::Flight,
        patience::Patience,
        permit::Purpose,
        span::LookupSpan,
        task::{LoadTask, ReplyTo},
    },
    telemetry::NoCacheReason,
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
        let Self { context, service, mut request, asked, miss, purpose, mut patience } = self;
        async move {
            let end = patience.end();
            // The task of a load in the background may run before the request has dropped its end.
            let is_unawaited = || purpose.is_in_background() || !reply_to.is_awaited();
            let policy = |miss: &Miss| context.failure_policy(&asked.headers, miss.stale.as_ref(), is_unawaited());
            let find = || context.select(&asked.key, &asked.headers);
            let acquired = context.cache.acquire(flight, miss, &mut patience, policy, find).await;
            let (permit, miss) = match acquired {
                AcquireOutcome::Granted(permit, miss) => (permit, miss),
                AcquireOutcome::Found(hit) => return reply_to.send(LoadReply::Entry(hit.entry, Served::Collapsed)),
                AcquireOutcome::Uncacheable => {
                    let (key, reason) = (&asked.key, NoCacheReason::Remembered);
                    let forward = Forward { service, request, key, reason, deadline: end, stale: None };
                    return Box::pin(context.reply_uncached(forward, purpose, reply_to)).await;
                }
                AcquireOutcome::BackedOff(failure, miss) => {
                    let (key, reason, stale) = (&asked.key, NoCacheReason::BackedOff, miss.stale.as_ref());
                    if let Some(reply) = context.reply_while_backing_off(&asked.headers, stale, &failure) {
                        return reply_to.send(reply);
                    }
                    let forward = Forward { service, request, key, reason, deadline: end, stale };
                    return Box::pin(context.reply_uncached(forward, purpose, reply_to)).await;
                }
            };
            let mut fill = Box::new(Fill { context, request: asked, miss, permit, reply_to, room: None });
            match fill.admit(purpose, end).await {
                Admission::Admitted => {}
                Admission::Abandoned => return fill.permit.abandon(),
                Admission::NoRoom => return fill.refuse(purpose),
            }
            let (stored, validates) = fill.prepare(&mut request, purpose);
            let response = match fill.ask(Oneshot::new(service, request)).await {
                Some(Ok(response)) => response,
                Some(Err(error)) => return fill.failed(purpose, error),
                None => return fill.permit.abandon(),
            };
            if let Some(entry) = stored
                && response.status() == StatusCode::NOT_MODIFIED
            {
                let (head, _) = response.into_parts();
                return fill.revalidated(entry, validates.then_some(head)).await;
            }
            match fill.stale_instead_of(response.status()) {
                Some(reply) => fill.failed_with(response.status(), reply),
                None => fill.receive(response).await,
            }
        }
    }
}

impl Context {
    /// Forwards a request by itself, and replies with what comes of it, unless its client leaves before that; in the background,
    /// there is no client. To be put in a box, as it is rare: the future of a load is moved, and should be small.
    async fn reply_uncached<S: Origin<B>, B>(
        &self,
        forward: Forward<'_, S, B>,
        purpose: Purpose,
        reply_to: ReplyTo<ReplyOf<S, B>>,
    ) {
        if purpose.is_in_background() {
            return;
        }
        let reply = async { self.forward_uncached(forward).await.map_or_else(LoadReply::Failed, LoadReply::Response) };
        reply_to.send_while_awaited(reply).await;
    }
}
