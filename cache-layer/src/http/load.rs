//! Asking the application once for all requests that wait, and replying to the request that leads the load.
//!
//! A load runs in a task of its own: if the client that caused it leaves, the load continues and is stored. A load that no
//! request waits for any more continues for a while, and is then dropped. The context of the client's task, such as task-locals
//! of a layer further out, does not reach the load, because the result is stored for all clients.

use std::pin::Pin;

use http::Request;

use super::{
    annotate::Served,
    asking::Sending,
    forward::Forward,
    granted_load::{Asked, GrantedLoad},
    origin::Origin,
    reply::LoadReply,
    select::{Hit, Miss},
};
use crate::{
    engine::{
        Reading,
        flight::{Flight, ReplyTo},
        miss::AcquireOutcome,
        patience::Patience,
        permit::{FailurePolicy, Purpose, WritePermit},
    },
    entry::Entry,
    telemetry::NoCacheReason,
};

/// A request on its way to the application. What is large is boxed, because it moves from the request's future to its load's.
pub(super) struct Load<S: Origin<B>, B> {
    pub(super) asked: Box<Asked>,
    pub(super) sending: Pin<Box<Sending<S, B>>>,
    pub(super) purpose: Purpose,
    /// For waits for other loads, and for a place at the application.
    pub(super) patience: Patience,
}

type ReplyOf<S, B> = LoadReply<<S as Origin<B>>::Content, ErrorOf<S, B>>;
pub(super) type ErrorOf<S, B> = <S as tower_service::Service<Request<B>>>::Error;

/// A load, the right to store its result, and the request that waits for it.
type Granted<S, B> = (Load<S, B>, Box<WritePermit>, ReplyTo<ReplyOf<S, B>>);

impl<S: Origin<B>, B: Send + 'static> Load<S, B> {
    /// Leads `flight` to its end, and replies as soon as there is a reply. If the request that waits for it is gone, the load
    /// continues for a while.
    #[expect(clippy::manual_async_fn, reason = "an `async fn` keeps its arguments twice")]
    pub(super) fn lead(self, flight: Flight, reply_to: ReplyTo<ReplyOf<S, B>>) -> impl Future<Output = ()> + Send {
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
    async fn acquired(mut self, flight: Flight, reply_to: ReplyTo<ReplyOf<S, B>>) -> Option<Granted<S, B>> {
        match self.acquire(flight, &reply_to).await {
            AcquireOutcome::Granted(permit) => return Some((self, permit, reply_to)),
            AcquireOutcome::Found(hit) => reply_to.send(LoadReply::Entry(hit.entry, Served::Collapsed)),
            AcquireOutcome::Uncacheable => self.reply_uncached(NoCacheReason::Remembered, None, reply_to).await,
            AcquireOutcome::BackedOff(failure) => {
                let Asked { context, request, miss, .. } = &mut *self.asked;
                let stale = miss.stale.take();
                match context.reply_while_backing_off(&request.headers, stale.as_ref(), &failure) {
                    Some(reply) => reply_to.send(reply),
                    None => self.reply_uncached(NoCacheReason::BackedOff, stale, reply_to).await,
                }
            }
        }
        None
    }

    /// The right to load, if the store gives it at once; else the flight.
    fn acquire_at_once(&self, flight: Flight, reply_to: &ReplyTo<ReplyOf<S, B>>) -> Result<Box<WritePermit>, Flight> {
        let Asked { context, miss, .. } = &*self.asked;
        context.cache.acquire_at_once(flight, miss, self.failure_policy(miss, reply_to))
    }

    fn failure_policy(&self, miss: &Miss, reply_to: &ReplyTo<ReplyOf<S, B>>) -> FailurePolicy {
        // The task of a load in the background may run before the request has dropped its end.
        let is_unawaited = self.purpose.is_in_background() || !reply_to.is_awaited();
        let Asked { context, request, .. } = &*self.asked;
        context.failure_policy(&request.headers, miss.stale.as_ref(), is_unawaited)
    }

    /// Asks for the right to load.
    async fn acquire(&mut self, flight: Flight, reply_to: &ReplyTo<ReplyOf<S, B>>) -> AcquireOutcome<Hit> {
        let Self { asked, purpose, patience, .. } = self;
        let Asked { context, request, miss, .. } = &mut **asked;
        let (context, key, headers) = (&**context, &request.key, &*request.headers);
        // The task of a load in the background may run before the request has dropped its end.
        let is_unawaited = || purpose.is_in_background() || !reply_to.is_awaited();
        let policy = |miss: &Miss| context.failure_policy(headers, miss.stale.as_ref(), is_unawaited());
        let find = || context.select(key, headers, Reading::Answer);
        context.cache.acquire(flight, miss, patience, policy, find).await
    }

    /// Loads, with the right to store the result.
    fn load(self, permit: Box<WritePermit>, reply_to: ReplyTo<ReplyOf<S, B>>) -> impl Future<Output = ()> + Send {
        let Self { asked, sending, purpose, patience } = self;
        GrantedLoad { asked, permit, reply_to }.run(sending, purpose, patience.end())
    }

    /// Forwards the request alone, and replies with the response, unless the client leaves before that; a background load has no
    /// client.
    async fn reply_uncached(self, reason: NoCacheReason, stale: Option<Entry>, reply_to: ReplyTo<ReplyOf<S, B>>) {
        let Self { asked, sending, purpose, patience } = self;
        if purpose.is_in_background() {
            return;
        }
        let Asked { context, request, miss, enclosing } = *asked;
        let (key, stale) = (&request.key, stale.as_ref());
        let refusal = context.refusal(reason, &miss.key);
        let forward = Forward { sending, key, refusal, deadline: patience.end(), stale, enclosing };
        let reply = async { context.forward_alone(forward).await.map_or_else(LoadReply::Failed, LoadReply::Response) };
        reply_to.send_while_awaited(reply).await;
    }
}
