//! A load that has the right to store what comes: what it needs before it asks the application, and its end where there is
//! nothing to store.

use std::sync::Arc;

use http::{Request, Response, StatusCode};
use http_body::Body;
use tokio::time::Instant;

use super::{
    annotate::Served,
    context::Context,
    load_limit::LoadPermit,
    plan::{CacheRequest, is_lasting},
    reply::LoadReply,
    response_entry::ResponseEntry,
    select::Miss,
};
use crate::{
    engine::{
        permit::{Demand, Purpose, WritePermit},
        task::ReplyTo,
    },
    semantics::{
        conditional::{unconditional, validating},
        staleness::{has_validator, is_replaceable_error},
    },
    telemetry::{Event, NoCacheReason},
};

/// A load under way, for the request that waits for its reply and for all that follow it. In a box, since it goes from one
/// step to the next, each of which is a future.
pub(super) struct Fill<R: Body, E> {
    pub(super) context: Arc<Context>,
    pub(super) request: CacheRequest,
    pub(super) miss: Miss,
    pub(super) permit: WritePermit,
    pub(super) reply_to: ReplyTo<LoadReply<R, E>>,
    /// Room at the application, until the load is over.
    pub(super) room: Option<LoadPermit>,
}

/// Whether a load has room at the application.
pub(super) enum Admission {
    Admitted,
    /// No request waits for the load any more.
    Abandoned,
    NoRoom,
}

impl<R: Body, E> Fill<R, E> {
    /// Says what the load is for, and waits for room at the application until `deadline`; in the background, not at all.
    pub(super) async fn admit(&mut self, purpose: Purpose, deadline: Instant) -> Admission {
        let Self { context, permit, reply_to, room, .. } = self;
        if self.miss.reached_store() {
            permit.is_for(purpose, &self.miss.key);
        }
        if purpose.is_in_background() {
            *room = context.load_limit.take();
        } else {
            context.cache.emit(Event::Miss);
            let limit = &context.load_limit;
            let demand = || context.demand(reply_to.is_awaited());
            match permit.while_loading(limit.wait(deadline), demand).await {
                Some(found) => *room = found,
                None => return Admission::Abandoned,
            }
        }
        if room.is_some() { Admission::Admitted } else { Admission::NoRoom }
    }

    /// Ends a load for which there is no room at the application.
    pub(super) fn refuse(mut self: Box<Self>, purpose: Purpose) {
        if purpose.is_in_background() {
            // A request that can't do without will lead.
            self.permit.leave_out();
            self.context.cache.emit(Event::RefreshSkipped);
            return;
        }
        let reply = match self.stale_if_error(None) {
            Some(reply) => reply,
            None => LoadReply::Response(self.context.overloaded()),
        };
        self.permit.failed(None, false);
        self.reply_to.send(reply);
    }

    /// Ends a load for which the application has no response but an error.
    pub(super) fn failed(self: Box<Self>, purpose: Purpose, error: E) {
        let reply = self.stale_if_error(None).unwrap_or(LoadReply::Failed(error));
        // Without its request, a service may have no answer that has one otherwise.
        self.permit.failed(None, !purpose.is_in_background() && !self.context.is_personal(&self.request.headers));
        self.context.cache.emit(Event::NotStored(NoCacheReason::ServiceFailed));
        self.reply_to.send(reply);
    }

    /// Makes the application's request of the client's: for the whole, or for whether what is stored still holds; what the
    /// client wants of it is answered here. Returns what is stored, and whether the application is asked about it.
    pub(super) fn prepare<B>(&mut self, request: &mut Request<B>, purpose: Purpose) -> (Option<ResponseEntry>, bool) {
        unconditional(request.headers_mut());
        let stored = self.miss.stale.clone().and_then(ResponseEntry::new);
        let validator = stored.as_ref().map(ResponseEntry::response);
        let validator =
            validator.filter(|stored| has_validator(&stored.headers) && stored.traits.are_known_to_the_application());
        if let Some(stored) = validator {
            validating(request.headers_mut(), &stored.headers);
        }
        let validates = validator.is_some();
        self.context.mark(request, &self.request.key, self.permit.token());
        if purpose == Purpose::EarlyRefresh {
            self.context.cache.emit(Event::EarlyRefresh);
        }
        self.request.time = self.context.cache.now();
        (stored, validates)
    }

    /// The application's answer; `None` if no request waits for the load any more.
    pub(super) fn ask(
        &mut self,
        answer: impl Future<Output = Result<Response<R>, E>>,
    ) -> impl Future<Output = Option<Result<Response<R>, E>>> {
        let Self { context, permit, reply_to, .. } = self;
        let asking = context.with_reads(answer);
        permit.while_loading(asking, || context.demand(reply_to.is_awaited()))
    }

    /// What is stale, in place of an error of the application's.
    pub(super) fn stale_instead_of(&self, status: StatusCode) -> Option<LoadReply<R, E>> {
        if is_replaceable_error(status) { self.stale_if_error(Some(status.as_u16())) } else { None }
    }

    /// Ends a load that the application answers with an error, for which something stale stands in.
    pub(super) fn failed_with(self: Box<Self>, status: StatusCode, stale: LoadReply<R, E>) {
        self.permit.failed(Some(status.as_u16()), !self.context.is_personal(&self.request.headers));
        self.reply_to.send(stale);
    }

    /// What is stale, in place of an error of this status, or of no response at all.
    fn stale_if_error(&self, status: Option<u16>) -> Option<LoadReply<R, E>> {
        let entry = self.context.stale_if_error_entry(&self.request.headers, self.miss.stale.as_ref(), status)?;
        Some(LoadReply::Entry(entry, Served::StaleIfError(status)))
    }
}

impl Context {
    /// Who waits for a load, by whether the request does that leads it, or that has its body.
    pub(super) fn demand(&self, awaited: bool) -> Demand {
        match awaited {
            true => Demand::Awaited,
            false if self.load_limit.is_contended() => Demand::Contended,
            false => Demand::Unawaited,
        }
    }

    /// Ends a load whose response is not stored.
    pub(super) fn record_uncacheable(
        &self,
        permit: WritePermit,
        request: &CacheRequest,
        status: StatusCode,
        offers_ranges: bool,
        reason: NoCacheReason,
    ) {
        // What may be due to this one client, or to a moment's trouble, is not held against the others.
        let personal = self.is_personal(&request.headers);
        if is_replaceable_error(status) {
            permit.emit(Event::NotStored(reason));
            return permit.failed(Some(status.as_u16()), !personal);
        }
        if status == StatusCode::OK {
            self.learn_from_whole(request, offers_ranges, reason);
        }
        let remembered = !personal && status == StatusCode::OK && is_lasting(reason);
        permit.uncacheable(reason, remembered.then_some(&request.key));
    }
}
