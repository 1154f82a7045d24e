//! Asking the application once for all requests that wait, and replying to the request that leads the load.
//!
//! A load runs in a task of its own: if the client that caused it leaves, the load continues and is stored. A load that no
//! request waits for any more continues for a while, and is then dropped. The context of the client's task, such as task-locals
//! of a layer further out, does not reach the load, because the result is stored for all clients.

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

/// A request on its way to the application. It is boxed, because it is large, and moves from the request's future to its load's.
pub(super) struct Load<S, B> {
    pub(super) context: Arc<Context>,
    pub(super) service: S,
    pub(super) request: Request<B>,
    pub(super) asked: CacheRequest,
    pub(super) miss: Miss,
    pub(super) purpose: Purpose,
    /// For waits for other loads, and for a place at the application.
    pub(super) patience: Patience,
}

type ReplyOf<S, B> = LoadReply<<S as Origin<B>>::Content, ErrorOf<S, B>>;
pub(super) type ErrorOf<S, B> = <S as tower_service::Service<Request<B>>>::Error;

/// A load, the right to store its result, and the request that waits for it.
type Granted<S, B> = (Box<Load<S, B>>, Box<WritePermit>, ReplyTo<ReplyOf<S, B>>);

impl<S: Origin<B>, B: Send + 'static> Load<S, B> {
    /// Leads `flight` to its end, and replies as soon as there is a reply. If the request that waits for it is gone, the load
    /// continues for a while.
    #[expect(clippy::manual_async_fn, reason = "an `async fn` keeps its arguments twice")]
    pub(super) fn lead(
        self: Box<Self>,
        flight: Flight,
        reply_to: ReplyTo<ReplyOf<S, B>>,
    ) -> impl Future<Output = ()> + Send {
        async move {
            let (load, permit, reply_to) = match self.acquire_at_once(flight, &reply_to) {
                Ok(permit) => (self, permit, reply_to),
                // Boxed, so that the future of a load that need not wait stays small.
                Err(flight) => match Box::pin(self.acquired(flight, reply_to)).await {
                    Some(granted) => granted,
                    None => return,
                },
            };
            load.load(permit, reply_to).await;
        }
    }

    /// Asks for the right to load. Returns the load with the right, if it is granted; otherwise ends the load here.
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

    /// Loads, with the right to store the result.
    #[expect(clippy::boxed_local, reason = "what is in the box is moved once, into the next one")]
    fn load(
        self: Box<Self>,
        permit: Box<WritePermit>,
        reply_to: ReplyTo<ReplyOf<S, B>>,
    ) -> impl Future<Output = ()> + Send {
        let Self { context, service, request, asked, miss, purpose, patience } = *self;
        let load = GrantedLoad { context, request: asked, miss, permit, reply_to, room: None };
        // Both are boxed, so that this future is small, however large the application's is.
        Box::new(load).run(Box::pin(Oneshot::new(service, request)), purpose, patience.end())
    }

    /// Forwards the request alone, and replies with the response, unless the client leaves before that; a background load has no
    /// client.
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
