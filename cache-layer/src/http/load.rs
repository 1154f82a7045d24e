//! Asking the application once for all requests that wait, and replying to the one that asks.
//!
//! This runs in a task of its own: the client that began it may leave, and what it asked for goes on and is stored all the
//! same. Not for ever: a load that no request waits for any more is given a while, and then dropped. Nor does what the client's
//! task has around it reach into the load, such as the task-locals of a layer further out: what is stored is for all.

use std::sync::Arc;

use http::Request;

use super::{
    annotate::Served,
    context::Context,
    forward::Forward,
    granted_load::GrantedLoad,
    oneshot::Oneshot,
    origin::Origin,
    plan::CacheRequest,
    reply::LoadReply,
    select::{Hit, Miss},
};
use crate::{
    engine::{
        Reading,
        fetch::AcquireOutcome,
        flight::{Flight, ReplyTo},
        patience::Patience,
        permit::{FailurePolicy, Purpose, WritePermit},
    },
    entry::Entry,
    telemetry::NoCacheReason,
};

/// A request on its way to the application. In a box, since it is large, and goes from the request's future to its load's.
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
pub(super) type ErrorOf<S, B> = <S as tower_service::Service<Request<B>>>::Error;

/// A load, with the right to store what comes, and who waits for it.
type Granted<S, B> = (Box<Load<S, B>>, Box<WritePermit>, ReplyTo<ReplyOf<S, B>>);

impl<S: Origin<B>, B: Send + 'static> Load<S, B> {
    /// Leads `flight` to its end, and replies as soon as there is a reply. The request that waits for it may be gone; the load
    /// goes on without it, for a while.
    #[expect(clippy::manual_async_fn, reason = "an `async fn` keeps its arguments twice")]
    pub(super) fn lead(
        self: Box<Self>,
        flight: Flight,
        reply_to: ReplyTo<ReplyOf<S, B>>,
    ) -> impl Future<Output = ()> + Send {
        async move {
            let (load, permit, reply_to) = match self.acquire_at_once(flight, &reply_to) {
                Ok(permit) => (self, permit, reply_to),
                // In a box, so that the future of a load that need not wait is the smaller for it.
                Err(flight) => match Box::pin(self.acquired(flight, reply_to)).await {
                    Some(granted) => granted,
                    None => return,
                },
            };
            load.load(permit, reply_to).await;
        }
    }

    /// Asks for the right to load, and does what there is to do without it; all of this again, with the right, if it is had.
    async fn acquired(mut self: Box<Self>, flight: Flight, reply_to: ReplyTo<ReplyOf<S, B>>) -> Option<Granted<S, B>> {
        match self.acquire(flight, &reply_to).await {
            AcquireOutcome::Granted(permit) => return Some((self, permit, reply_to)),
            AcquireOutcome::Found(hit) => reply_to.send(LoadReply::Entry(hit.entry, Served::Collapsed)),
            AcquireOutcome::Uncacheable => self.reply_uncached(NoCacheReason::Remembered, None, reply_to).await,
            AcquireOutcome::BackedOff(failure) => {
                let stale = self.miss.stale.take();
                match self.context.reply_while_backing_off(&self.asked.headers, stale.as_ref(), &failure) {
                    Some(reply) => reply_to.send(reply),
                    None => self.reply_uncached(NoCacheReason::BackedOff, stale, reply_to).await,
                }
            }
        }
        None
    }

    /// The right to load, if the store gives it at once; else the flight.
    fn acquire_at_once(&self, flight: Flight, reply_to: &ReplyTo<ReplyOf<S, B>>) -> Result<Box<WritePermit>, Flight> {
        let policy = self.failure_policy(&self.miss, reply_to);
        self.context.cache.acquire_at_once(flight, &self.miss, policy)
    }

    fn failure_policy(&self, miss: &Miss, reply_to: &ReplyTo<ReplyOf<S, B>>) -> FailurePolicy {
        // The task of a load in the background may run before the request has dropped its end.
        let is_unawaited = self.purpose.is_in_background() || !reply_to.is_awaited();
        self.context.failure_policy(&self.asked.headers, miss.stale.as_ref(), is_unawaited)
    }

    /// Asks for the right to load.
    async fn acquire(&mut self, flight: Flight, reply_to: &ReplyTo<ReplyOf<S, B>>) -> AcquireOutcome<Hit> {
        let Self { context, asked, miss, purpose, patience, .. } = self;
        let (context, asked) = (&**context, &*asked);
        // The task of a load in the background may run before the request has dropped its end.
        let is_unawaited = || purpose.is_in_background() || !reply_to.is_awaited();
        let policy = |miss: &Miss| context.failure_policy(&asked.headers, miss.stale.as_ref(), is_unawaited());
        let find = || context.select(&asked.key, &asked.headers, Reading::Answer);
        context.cache.acquire(flight, miss, patience, policy, find).await
    }

    /// Loads, with the right to store what comes.
    #[expect(clippy::boxed_local, reason = "what is in the box is moved once, into the next one")]
    fn load(
        self: Box<Self>,
        permit: Box<WritePermit>,
        reply_to: ReplyTo<ReplyOf<S, B>>,
    ) -> impl Future<Output = ()> + Send {
        let Self { context, service, request, asked, miss, purpose, patience } = *self;
        let load = GrantedLoad { context, request: asked, miss, permit, reply_to, room: None };
        // In a box each: whatever the application's future is, this one is small.
        Box::new(load).run(Box::pin(Oneshot::new(service, request)), purpose, patience.end())
    }

    /// Forwards the request by itself, and replies with what comes of it, unless its client leaves before that; in the
    /// background, there is no client.
    async fn reply_uncached(
        self: Box<Self>,
        reason: NoCacheReason,
        stale: Option<Entry>,
        reply_to: ReplyTo<ReplyOf<S, B>>,
    ) {
        let Self { context, service, request, asked, purpose, patience, .. } = *self;
        if purpose.is_in_background() {
            return;
        }
        let (key, stale) = (&asked.key, stale.as_ref());
        let forward = Forward { service, request, key, reason, deadline: patience.end(), stale };
        let reply =
            async { context.forward_uncached(forward).await.map_or_else(LoadReply::Failed, LoadReply::Response) };
        reply_to.send_while_awaited(reply).await;
    }
}
