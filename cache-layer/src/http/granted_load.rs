//! A load that has the right to store what comes: it asks the application, passes the response to the client, and stores it.

use std::{pin::Pin, sync::Arc};

use bytes::Bytes;
use http::{
    HeaderValue, Method, Request, Response, StatusCode,
    header::{ACCEPT_RANGES, CONTENT_LENGTH, DATE, ETAG, IF_NONE_MATCH, RANGE},
    response::Parts,
};
use http_body::{Body, SizeHint};
use tokio::{sync::mpsc, time::Instant};

use super::{
    annotate::{self, Served},
    body::{Piece, ResponseBody},
    context::Context,
    encode::Encoding,
    oneshot::Oneshot,
    origin::Origin,
    plan::{CacheRequest, DatedHeaders, Draft, OriginResponse, Plan, date_for, is_lasting},
    preferences::ClientPreferences,
    record::{Incoming, Unkept, content_length, pass_on, record},
    reply::LoadReply,
    response_entry::ResponseEntry,
    select::Miss,
};
use crate::{
    engine::{
        flight::ReplyTo,
        growing_body::BodyWriter,
        load_limit::LoadPermit,
        permit::{Demand, Purpose, WritePermit},
    },
    inherit::Reads,
    policy::{Freshness, Remaining},
    semantics::{
        cache_status::ForwardReason,
        conditional::{is_not_modified, retain_not_modified_fields, unconditional, validating},
        list::has,
        staleness::is_replaceable_error,
        storable::forbids_length,
    },
    tag::Tags,
    telemetry::{Event, NoCacheReason},
};

/// A load under way, for the request that waits for its reply and for all that follow it. In a box, since it goes from one
/// step to the next, each of which is a future.
pub(super) struct GrantedLoad<R: Body, E> {
    pub(super) context: Arc<Context>,
    pub(super) request: CacheRequest,
    pub(super) miss: Miss,
    pub(super) permit: Box<WritePermit>,
    pub(super) reply_to: ReplyTo<LoadReply<R, E>>,
    /// Room at the application, until the load is over.
    pub(super) room: Option<LoadPermit>,
}

/// Whether a load has room at the application.
enum Admission {
    Admitted,
    /// No request waits for the load any more.
    Abandoned,
    NoRoom,
}

impl<R: Body, E> GrantedLoad<R, E> {
    /// Asks the application, and does with its answer what there is to do, by `deadline` for room at the application.
    #[expect(clippy::manual_async_fn, reason = "an `async fn` keeps its arguments twice")]
    pub(super) fn run<S, B>(
        mut self: Box<Self>,
        mut asking: Pin<Box<Oneshot<S, Request<B>>>>,
        purpose: Purpose,
        deadline: Instant,
    ) -> impl Future<Output = ()>
    where
        S: Origin<B, Content = R, Error = E>,
        R: Body<Data = Bytes>,
    {
        async move {
            match self.admit(purpose, deadline).await {
                Admission::Admitted => {}
                Admission::Abandoned => return self.permit.abandon(),
                Admission::NoRoom => return self.refuse(purpose),
            }
            let request = asking.as_mut().request_mut().expect("it is not sent yet");
            let (stored, validates) = self.prepare(request, purpose);
            let answered = self.ask(asking.as_mut()).await;
            // What the application holds for a request, such as its place under a limit, is free from here on.
            drop(asking);
            let response = match answered {
                Some(Ok(response)) => response,
                Some(Err(error)) => return self.failed(purpose, error),
                None => return self.permit.abandon(),
            };
            if let Some(entry) = stored
                && response.status() == StatusCode::NOT_MODIFIED
            {
                let (head, _) = response.into_parts();
                return Box::pin(self.revalidated(entry, validates.then_some(head))).await;
            }
            match self.stale_instead_of(response.status()) {
                Some(reply) => self.failed_with(response.status(), reply),
                None => self.receive(response).await,
            }
        }
    }

    /// Says what the load is for, and waits for room at the application until `deadline`; in the background, not at all.
    async fn admit(&mut self, purpose: Purpose, deadline: Instant) -> Admission {
        let Self { context, permit, reply_to, room, .. } = self;
        if self.miss.reached_store() {
            permit.is_for(purpose, &self.miss.key);
        }
        if purpose.is_in_background() {
            *room = context.load_limit.take();
        } else {
            context.cache.emit(Event::Miss);
            *room = context.load_limit.take();
            if room.is_none() {
                // In a box, so that the future of a load that finds room at once is the smaller for it.
                let waiting = Box::pin(context.load_limit.wait(deadline));
                let demand = || context.demand(reply_to.is_awaited());
                match Box::pin(permit.while_loading(waiting, demand)).await {
                    Some(found) => *room = found,
                    None => return Admission::Abandoned,
                }
            }
        }
        if room.is_some() { Admission::Admitted } else { Admission::NoRoom }
    }

    /// Ends a load for which there is no room at the application.
    fn refuse(mut self: Box<Self>, purpose: Purpose) {
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
    fn failed(self: Box<Self>, purpose: Purpose, error: E) {
        let reply = self.stale_if_error(None).unwrap_or(LoadReply::Failed(error));
        // Without its request, a service may have no answer that has one otherwise.
        self.permit.failed(None, !purpose.is_in_background() && !self.context.is_personal(&self.request.headers));
        self.context.cache.emit(Event::NotStored(NoCacheReason::ServiceFailed));
        self.reply_to.send(reply);
    }

    /// Makes the application's request of the client's: for the whole, or for whether what is stored still holds; what the
    /// client wants of it is answered here. Returns what is stored, and whether the application is asked about it.
    fn prepare<B>(&mut self, request: &mut Request<B>, purpose: Purpose) -> (Option<ResponseEntry>, bool) {
        unconditional(request.headers_mut());
        let stored = self.miss.stale.clone().and_then(ResponseEntry::new);
        let validator = stored.as_ref().map(ResponseEntry::response).filter(|stored| stored.can_be_validated());
        if let Some(stored) = validator {
            validating(request.headers_mut(), &stored.headers);
        }
        if let Some(sent) = self.context.policy.caching.normalization.negotiate(request.headers_mut()) {
            ClientPreferences::keep(sent, request.extensions_mut());
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
    fn ask(
        &mut self,
        answer: impl Future<Output = Result<Response<R>, E>>,
    ) -> impl Future<Output = Option<Result<Response<R>, E>>> {
        let Self { context, permit, reply_to, .. } = self;
        let asking = context.with_reads(answer);
        permit.while_loading(asking, || context.demand(reply_to.is_awaited()))
    }

    /// What is stale, in place of an error of the application's.
    fn stale_instead_of(&self, status: StatusCode) -> Option<LoadReply<R, E>> {
        if is_replaceable_error(status) { self.stale_if_error(Some(status.as_u16())) } else { None }
    }

    /// Ends a load that the application answers with an error, for which something stale stands in.
    fn failed_with(self: Box<Self>, status: StatusCode, stale: LoadReply<R, E>) {
        self.permit.failed(Some(status.as_u16()), !self.context.is_personal(&self.request.headers));
        self.reply_to.send(stale);
    }

    /// What is stale, in place of an error of this status, or of no response at all.
    fn stale_if_error(&self, status: Option<u16>) -> Option<LoadReply<R, E>> {
        let entry = self.context.stale_if_error_entry(&self.request.headers, self.miss.stale.as_ref(), status)?;
        Some(LoadReply::Entry(entry, Served::StaleIfError(status)))
    }
}

/// The head of a response, as its client gets it.
struct ClientHead {
    parts: Parts,
    /// The status that the application gave it.
    status: StatusCode,
    /// The client has the response already, by its precondition.
    not_modified: bool,
    /// The client wants what can only be told once the whole is there: a part of it, or whether it has it already.
    in_part: bool,
    offers_ranges: bool,
    why: ForwardReason,
    not_stored: Option<NoCacheReason>,
}

impl ClientHead {
    fn reply<R: Body, E>(self, body: ResponseBody<R>) -> LoadReply<R, E> {
        let body = if self.not_modified { ResponseBody::empty() } else { body };
        LoadReply::Response(Response::from_parts(self.parts, body))
    }

    /// How a part of the response is served, once the whole is there.
    fn served(&self) -> Served {
        Served::Loaded { why: self.why, not_stored: self.not_stored }
    }
}

/// How long a body is.
struct Length {
    /// As its head says.
    declared: Option<u64>,
    /// As the body says.
    hint: SizeHint,
}

impl Length {
    fn known(&self) -> Option<u64> {
        self.declared.or_else(|| self.hint.exact())
    }

    /// If the body says so, and its head nothing else.
    fn exact(&self) -> Option<u64> {
        self.hint.exact().filter(|exact| self.declared.is_none_or(|declared| declared == *exact))
    }
}

/// What is left of a load once its response has come.
enum Received<F> {
    Done,
    /// All of it was there, its client has it, and the store has not.
    Committing(Pin<Box<dyn Future<Output = ()> + Send>>),
    Streaming(Pin<Box<F>>),
}

/// What to store of a response.
pub(super) struct Planned {
    pub(super) plan: Result<Plan, NoCacheReason>,
    length: Length,
    /// The date that the response is given, if it has none.
    date: Option<HeaderValue>,
}

impl<R: Body<Data = Bytes>, E> GrantedLoad<R, E> {
    /// Passes a new response to the client, and stores it if it may be stored. What takes no time is done when this is called,
    /// so that the future of it has only what it waits with.
    pub(super) fn receive(self: Box<Self>, response: Response<R>) -> impl Future<Output = ()> {
        let received = self.take_in(response);
        async move {
            match received {
                Received::Done => {}
                Received::Committing(rest) => rest.await,
                Received::Streaming(rest) => rest.await,
            }
        }
    }

    fn take_in(mut self: Box<Self>, response: Response<R>) -> Received<impl Future<Output = ()>> {
        let (mut parts, body) = response.into_parts();
        let now = self.context.cache.now();
        let Planned { plan, length, date } = self.context.plan_head(&self.request, &mut parts, body.size_hint(), now);
        if plan.is_ok() {
            self.permit.reserve(length.known());
            self.permit.admit();
        }
        let not_stored = plan.as_ref().err().copied().or_else(|| self.permit.refusal());
        let plan = match plan {
            Ok(plan) => plan,
            Err(reason) => {
                let head = self.client_head(parts, not_stored, false, now);
                let (status, offers_ranges) = (head.status, head.offers_ranges);
                self.context.record_uncacheable(self.permit, &self.request, status, offers_ranges, reason);
                self.reply_to.send(head.reply(ResponseBody::inner(body)));
                return Received::Done;
            }
        };
        self.context.lead_there(&self.request, &plan, now, &mut self.permit);
        let remaining = self.context.policy.remaining;
        let left =
            (remaining != Remaining::Age).then(|| plan.remaining_freshness(now, self.context.cache.local_time(now)));
        let (varies, is_new) = (self.miss.detail.varies.take(), self.miss.stale.is_none());
        // Before the client's head is made of it: what is stored are the fields as they came.
        let headers = DatedHeaders { own: &parts.headers, date: date.as_ref() };
        let draft = self.context.draft(plan, &self.request, headers, varies, is_new);
        let encoding = draft.is_encodable().then(|| self.encoding());
        let mut head = self.client_head(parts, not_stored, encoding.is_some(), now);
        if let Some(date) = date {
            head.parts.headers.insert(DATE, date);
        }
        if let Some(left) = left {
            left.say(&mut head.parts.headers, remaining);
        }
        let mut body = Incoming::new(body);
        match length.exact() {
            Some(exact) if body.take_at_once(exact) => self.reply_whole(draft, head, body, encoding, now),
            _ => Received::Streaming(Box::pin(self.store_streaming(draft, head, body, length))),
        }
    }

    fn encoding(&self) -> Encoding {
        Encoding { context: self.context.clone(), request: self.request.headers.clone() }
    }

    /// `encodable`: what is stored of it may be sent in content codings of the cache's own.
    fn client_head(
        &self,
        mut parts: Parts,
        not_stored: Option<NoCacheReason>,
        encodable: bool,
        now: u64,
    ) -> ClientHead {
        let Self { context, request, miss, .. } = self;
        let (status, why) = (parts.status, miss.detail.why);
        // What a client wants of a response to its POST, only the application can say.
        let of_get = request.method == Method::GET;
        if encodable {
            context.as_it_came(of_get.then_some(&*request.headers), status, &mut parts.headers);
        }
        let not_modified = of_get && is_not_modified(&request.headers, status, &parts.headers, now / 1000);
        let in_part = of_get && !not_modified && has(&request.headers, &RANGE);
        if not_modified {
            retain_not_modified_fields(&mut parts.headers);
            parts.status = StatusCode::NOT_MODIFIED;
        }
        if forbids_length(status) {
            parts.headers.remove(CONTENT_LENGTH);
        }
        context.policy.strip_internal(&mut parts.headers);
        annotate::missed(&mut parts.headers, &context.signature, context.status_of_miss(why, not_stored));
        let offers_ranges = has(&parts.headers, &ACCEPT_RANGES);
        ClientHead { parts, status, not_modified, in_part, offers_ranges, why, not_stored }
    }

    /// All of the body is there: replies, and stores it.
    fn reply_whole<F>(
        self: Box<Self>,
        mut draft: Draft,
        mut head: ClientHead,
        body: Incoming<R>,
        encoding: Option<Encoding>,
        now: u64,
    ) -> Received<F> {
        if let Some(tag) = draft.mint(body.taken()) {
            head.parts.headers.insert(ETAG, tag);
            // The client may have it.
            head.in_part |= self.request.headers.contains_key(IF_NONE_MATCH);
        }
        let millis = now.saturating_sub(self.request.time);
        let (writes, tags, entry) = draft.complete(|entry| entry.loaded(body.taken(), millis));
        drop(body);
        let payload = entry.payload().clone();
        // Others wait no longer for a store in this process than for this.
        if !self.context.cache.is_local() {
            let growing = BodyWriter::new(Some(payload.len() as u64));
            self.permit.publish_partial(writes.entries.clone().into(), growing.body());
            growing.end(payload.clone());
        }
        let Self { permit, reply_to, room, .. } = *self;
        reply_to.send(match head.in_part {
            true => LoadReply::Entry(entry, head.served()),
            false => head.reply(ResponseBody::stored(payload)),
        });
        if let Some(encoding) = encoding {
            return Received::Committing(Box::pin(async move {
                encoding.commit(permit, writes, tags).await;
                drop(room);
            }));
        }
        match permit.begin_commit(writes, tags) {
            None => Received::Done,
            Some(rest) => Received::Committing(Box::pin(async move {
                rest.await;
                drop(room);
            })),
        }
    }

    /// The body is passed on while it comes in, to the client and to the requests that join.
    async fn store_streaming(self: Box<Self>, mut draft: Draft, head: ClientHead, body: Incoming<R>, length: Length) {
        let encoding = draft.is_encodable().then(|| self.encoding());
        let Self { context, request, mut permit, reply_to, room, .. } = *self;
        let mut growing = Some(BodyWriter::new(length.known()));
        if let Some(growing) = &growing {
            permit.publish_partial(draft.entries(), growing.body());
        }
        let (status, offers_ranges, served) = (head.status, head.offers_ranges, head.served());
        let (feed, pieces) = mpsc::unbounded_channel();
        let in_part = head.in_part;
        let whole = head.reply(ResponseBody::recorded(pieces, length.hint));
        let (waiting, held) = if in_part {
            (Some(reply_to), Some(whole))
        } else {
            reply_to.send(whole);
            (None, None)
        };
        let recording = record(body, context.policy.max_body, length.declared, &feed, &mut growing);
        let is_awaited = || waiting.as_ref().map_or_else(|| !feed.is_closed(), ReplyTo::is_awaited);
        match permit.while_loading(recording, || context.demand(is_awaited())).await {
            None => permit.abandon(),
            Some(Ok(pieces)) => {
                let millis = context.load_time(&request);
                draft.mint(pieces.iter());
                let (writes, tags, entry) = draft.complete(|entry| entry.loaded(pieces.iter(), millis));
                drop(pieces);
                if let Some(growing) = growing {
                    growing.end(entry.payload().clone());
                }
                match waiting {
                    Some(reply_to) => reply_to.send(LoadReply::Entry(entry, served)),
                    None => drop(feed.send(Piece::End)),
                }
                match encoding {
                    None => permit.commit(writes, tags).await,
                    Some(encoding) => encoding.commit(permit, writes, tags).await,
                }
            }
            Some(Err(Unkept { reason, rest })) => {
                if let (Some(reply_to), Some(whole)) = (waiting, held) {
                    reply_to.send(whole);
                }
                context.record_uncacheable(permit, &request, status, offers_ranges, reason);
                if let (Some(rest), Some(growing)) = (rest, growing) {
                    // As for one client alone, which takes the rest for itself.
                    drop(room);
                    pass_on(rest, &feed, growing).await;
                }
            }
        }
    }
}

impl Context {
    /// What to store of the response with this head, which came at `now`. Takes out of it what only the cache is told.
    pub(super) fn plan_head(&self, request: &CacheRequest, parts: &mut Parts, hint: SizeHint, now: u64) -> Planned {
        let date = date_for(&parts.headers, self.cache.local_time(now));
        let tags = parts.extensions.remove::<Tags>().unwrap_or_default();
        let freshness = parts.extensions.remove::<Freshness>();
        let inherited = parts.extensions.remove::<Reads>();
        let headers = &parts.headers;
        let declared = content_length(headers);
        let plan = declared.and_then(|declared| {
            let length = declared.unwrap_or(0).max(hint.lower());
            let response =
                OriginResponse { status: parts.status, headers, time: now, tags, freshness, inherited, length };
            self.plan(request, response)
        });
        Planned { plan, length: Length { declared: declared.unwrap_or(None), hint }, date }
    }

    /// Who waits for a load, by whether the request does that leads it, or that has its body.
    fn demand(&self, awaited: bool) -> Demand {
        match awaited {
            true => Demand::Awaited,
            false if self.load_limit.is_contended() => Demand::Contended,
            false => Demand::Unawaited,
        }
    }

    /// Ends a load whose response is not stored.
    pub(super) fn record_uncacheable(
        &self,
        permit: Box<WritePermit>,
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
