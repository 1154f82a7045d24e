//! A load with the right to store its result: it asks the application, passes the response to the client, and stores it.

use std::{mem::take, pin::Pin, sync::Arc};

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
    asking::Sending,
    body::{Piece, ResponseBody},
    context::{Context, at_once_within, within},
    encode::Encoding,
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
        enclosing::EnclosingLoads,
        flight::{ReplyTo, first_lent},
        growing_body::BodyWriter,
        load_limit::WaitForPlace,
        permit::{Demand, Purpose, WritePermit},
    },
    inherit::Reads,
    key::Key,
    policy::{Freshness, Remaining},
    semantics::{
        cache_status::ForwardReason,
        conditional::{is_not_modified, retain_not_modified_fields, unconditional, validating},
        list::has,
        names::Shapes,
        stale_windows::is_replaceable_error,
        storable::forbids_length,
    },
    tag::Tags,
    telemetry::{Event, NoCacheReason},
};

/// What is loaded. It is boxed, because it is large, and passed from one step to the next, each of which is a future.
pub(super) struct Asked {
    pub(super) context: Arc<Context>,
    pub(super) request: CacheRequest,
    pub(super) miss: Miss,
    /// The loads that the request is part of, and then also the load itself with its place, until it is over.
    pub(super) enclosing: EnclosingLoads,
}

/// A load under way, for the request that waits for its reply and for its followers.
pub(super) struct GrantedLoad<R: Body, E> {
    pub(super) asked: Box<Asked>,
    pub(super) permit: Box<WritePermit>,
    pub(super) reply_to: ReplyTo<LoadReply<R, E>>,
}

/// Whether a load has a place at the application.
enum Admission {
    Admitted,
    /// No request waits for the load any more.
    Abandoned,
    NoPlace,
}

impl<R: Body, E> GrantedLoad<R, E> {
    /// Asks the application, and handles its answer; `deadline` is for the wait for a place at the application.
    #[expect(clippy::manual_async_fn, reason = "an `async fn` keeps its arguments twice")]
    pub(super) fn run<S, B>(
        mut self,
        mut asking: Pin<Box<Sending<S, B>>>,
        purpose: Purpose,
        deadline: Instant,
    ) -> impl Future<Output = ()>
    where
        S: Origin<B, Content = R, Error = E>,
        R: Body<Data = Bytes>,
    {
        async move {
            match self.take_place(purpose, deadline).await {
                Admission::Admitted => {}
                Admission::Abandoned => return self.permit.abandon(),
                Admission::NoPlace => return self.refuse(purpose),
            }
            let request = asking.as_mut().request_mut();
            let (stored, validates) = self.prepare(request, purpose);
            let answered = self.ask(asking.as_mut()).await;
            // From here on, everything that the application holds for a request, such as a place under a limit, is free.
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
                return Box::pin(self.revalidated(entry, head, validates)).await;
            }
            match self.stale_instead_of(response.status()) {
                Some(reply) => self.failed_with(response.status(), reply),
                None => self.receive(response).await,
            }
        }
    }

    /// Sets the purpose of the load, and waits for a place at the application until `deadline`; in the background, not at all.
    async fn take_place(&mut self, purpose: Purpose, deadline: Instant) -> Admission {
        let Self { asked, permit, reply_to } = self;
        let Asked { context, miss, enclosing, .. } = &mut **asked;
        let limit = enclosing.not_placed_at(&context.load_limit);
        if miss.reached_store() {
            permit.set_purpose(purpose, &miss.key);
        }
        let place = if purpose.is_in_background() {
            if permit.is_useful(purpose) { limit.take() } else { None }
        } else {
            context.cache.emit(Event::Miss);
            match limit.take() {
                Some(place) => Some(place),
                None => {
                    let wait = Arc::new(WaitForPlace::of(1));
                    let lent = first_lent(vec![permit.waits_for_place(wait.clone())]);
                    // Boxed, so that the future of a load that gets a place at once stays small.
                    let waiting = Box::pin(limit.wait_or_borrow(deadline, &wait, lent));
                    let demand = || context.demand(reply_to.is_awaited());
                    match Box::pin(permit.while_loading(waiting, demand)).await {
                        Some(found) => found,
                        None => return Admission::Abandoned,
                    }
                }
            }
        };
        let Some(place) = place else { return Admission::NoPlace };
        *enclosing = take(enclosing).placed(&limit, place);
        Admission::Admitted
    }

    /// Ends a load for which there is no place at the application, or a background load that could not be stored.
    fn refuse(mut self, purpose: Purpose) {
        if purpose.is_in_background() {
            // A later request that needs the response will lead a load.
            self.permit.leave_out();
            self.asked.context.cache.emit(Event::RefreshSkipped);
            return;
        }
        let reply = match self.stale_if_error(None) {
            Some(reply) => reply,
            None => LoadReply::Response(self.asked.context.overloaded()),
        };
        self.permit.failed(None, false);
        self.reply_to.send(reply);
    }

    /// Ends a load for which the application's service returned an error instead of a response.
    fn failed(self, purpose: Purpose, error: E) {
        let reply = self.stale_if_error(None).unwrap_or(LoadReply::Failed(error));
        // In the background, a service may fail only because its request is over.
        self.permit
            .failed(None, !purpose.is_in_background() && !self.asked.context.is_personal(&self.asked.request.headers));
        self.asked.context.cache.emit(Event::NotStored(NoCacheReason::ServiceFailed));
        self.reply_to.send(reply);
    }

    /// Turns the client's request into the application's: for the whole response, or to validate the stored one; the client's own
    /// conditions and ranges are handled here. Returns the stored response, and whether the application is asked to validate it.
    fn prepare<B>(&mut self, request: &mut Request<B>, purpose: Purpose) -> (Option<ResponseEntry>, bool) {
        unconditional(request.headers_mut());
        // Here and not at the look-up, so that of all requests that find it stale only the one that leads the load inflates it.
        let stale = self.asked.miss.stale.take().and_then(|stale| stale.inflated());
        self.asked.miss.stale.clone_from(&stale);
        let stored = stale.and_then(ResponseEntry::new);
        let validator = stored.as_ref().map(ResponseEntry::response).filter(|stored| stored.can_be_validated());
        if let Some(stored) = validator {
            validating(request.headers_mut(), &stored.headers);
        }
        if let Some(sent) = self.asked.context.policy.caching.normalization.negotiate(request.headers_mut()) {
            ClientPreferences::keep(sent, request.extensions_mut());
        }
        let validates = validator.is_some();
        self.asked.context.enclose(request, &self.asked.request.key, self.permit.token());
        if purpose == Purpose::EarlyRefresh {
            self.asked.context.cache.emit(Event::EarlyRefresh);
        }
        self.asked.request.time = self.asked.context.cache.now();
        (stored, validates)
    }

    /// The application's answer; `None` if no request waits for the load any more.
    fn ask(
        &mut self,
        answer: impl Future<Output = Result<Response<R>, E>>,
    ) -> impl Future<Output = Option<Result<Response<R>, E>>> {
        let Self { asked, permit, reply_to } = self;
        let context = &asked.context;
        let asking = context.with_reads(asked.enclosing.clone(), answer);
        permit.while_loading(asking, || context.demand(reply_to.is_awaited()))
    }

    /// The commit of its response, if that may be sent in codings.
    pub(super) fn encoding(&self) -> Encoding {
        Encoding {
            context: self.asked.context.clone(),
            request: self.asked.request.headers.clone(),
            is_asked_again: self.asked.miss.stale.is_some(),
        }
    }

    /// The stale response, in place of an error of the application.
    fn stale_instead_of(&self, status: StatusCode) -> Option<LoadReply<R, E>> {
        if is_replaceable_error(status) { self.stale_if_error(Some(status.as_u16())) } else { None }
    }

    /// Ends a load that the application answers with an error, which a stale response replaces.
    fn failed_with(self, status: StatusCode, stale: LoadReply<R, E>) {
        self.permit.failed(Some(status.as_u16()), !self.asked.context.is_personal(&self.asked.request.headers));
        self.reply_to.send(stale);
    }

    /// The stale response, in place of an error with this status, or of a missing response.
    fn stale_if_error(&self, status: Option<u16>) -> Option<LoadReply<R, E>> {
        let entry = self.asked.context.stale_if_error_entry(
            &self.asked.request.headers,
            self.asked.miss.stale.as_ref(),
            status,
        )?;
        Some(LoadReply::Entry(entry, Served::StaleIfError(status)))
    }
}

/// The shape of the name of the field that says whether ranges are served.
const RANGES: Shapes = Shapes::of_each(&["accept-ranges"]);

/// The head of a response, as its client gets it.
struct ClientHead {
    parts: Parts,
    /// The application's status.
    status: StatusCode,
    /// The client already has the response, by its precondition.
    not_modified: bool,
    /// The answer needs the complete response: the client wants a range, or has a precondition.
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

    /// How a part of the response is served, once the response is complete.
    fn served(&self) -> Served {
        Served::Loaded { why: self.why, not_stored: self.not_stored }
    }
}

/// The length of a body.
struct Length {
    /// The length that its head states.
    declared: Option<u64>,
    /// The length that the body states.
    hint: SizeHint,
}

impl Length {
    fn known(&self) -> Option<u64> {
        self.declared.or_else(|| self.hint.exact())
    }

    /// The exact length, if the body states one, and its head does not contradict it.
    fn exact(&self) -> Option<u64> {
        self.hint.exact().filter(|exact| self.declared.is_none_or(|declared| declared == *exact))
    }
}

/// The rest of a load after its response has come.
enum Received<F> {
    Done,
    /// The body was complete at once, its client has been answered, and the store has not been written to.
    Committing(Pin<Box<dyn Future<Output = ()> + Send>>),
    Streaming(Pin<Box<F>>),
}

/// What to store of a response.
pub(super) struct Planned {
    pub(super) plan: Result<Plan, NoCacheReason>,
    length: Length,
    /// The date that the response is given, if it has none.
    date: Option<HeaderValue>,
    /// The shapes of the names of its fields.
    names: Shapes,
}

impl<R: Body<Data = Bytes>, E> GrantedLoad<R, E> {
    /// Passes a new response to the client, and stores it if it may be stored. The synchronous part is done when this is called,
    /// so that its future only contains the part that waits.
    pub(super) fn receive(self, response: Response<R>) -> impl Future<Output = ()> {
        let received = self.take_in(response);
        async move {
            match received {
                Received::Done => {}
                Received::Committing(rest) => rest.await,
                Received::Streaming(rest) => rest.await,
            }
        }
    }

    fn take_in(mut self, response: Response<R>) -> Received<impl Future<Output = ()>> {
        let (mut parts, body) = response.into_parts();
        let now = self.asked.context.cache.now();
        let Planned { mut plan, length, date, names } =
            self.asked.context.plan_head(&self.asked.request, &mut parts, body.size_hint(), now);
        if plan.is_ok() {
            self.permit.reserve(length.known());
            self.permit.admit();
        }
        let not_stored = plan.as_ref().err().copied().or_else(|| self.permit.refusal());
        if matches!(plan, Err(NoCacheReason::MadeFromStale)) {
            plan = self.plan_for_followers(&mut parts, body.size_hint(), now);
        }
        let plan = match plan {
            Ok(plan) => plan,
            Err(reason) => {
                let head = self.client_head(parts, names, not_stored, false, now);
                let (status, offers_ranges) = (head.status, head.offers_ranges);
                let Asked { context, request, miss, .. } = &*self.asked;
                context.record_uncacheable(self.permit, request, &miss.key, (status, offers_ranges), reason);
                self.reply_to.send(head.reply(ResponseBody::inner(body)));
                return Received::Done;
            }
        };
        let Asked { context, request, miss, .. } = &*self.asked;
        context.lead_there(request, &plan, miss.detail.varies.as_deref(), now, &mut self.permit);
        let remaining = self.asked.context.policy.remaining;
        let tells = remaining != Remaining::Age && not_stored != Some(NoCacheReason::MadeFromStale);
        let left = tells.then(|| plan.remaining_freshness(now, self.asked.context.cache.local_time(now)));
        let varies = self.asked.miss.detail.varies.take();
        // This is done before the client's head is made: the fields are stored as they came.
        let headers = DatedHeaders { own: &parts.headers, date: date.as_ref() };
        let draft = self.asked.context.draft(plan, &self.asked.request, headers, varies);
        let encoding = draft.is_encodable().then(|| self.encoding());
        let mut head = self.client_head(parts, names, not_stored, encoding.is_some(), now);
        if let Some(date) = date {
            head.parts.headers.insert(DATE, date);
        }
        if let Some(left) = left {
            left.say(&mut head.parts.headers, remaining);
        }
        let mut body = Incoming::new(body);
        match length.exact() {
            Some(exact) if self.take_at_once(&mut body, exact) => self.reply_whole(draft, head, body, encoding, now),
            _ => Received::Streaming(Box::pin(self.store_streaming(draft, head, body, length))),
        }
    }

    /// As [`Incoming::take_at_once`], as part of the load.
    fn take_at_once(&self, body: &mut Incoming<R>, length: u64) -> bool {
        at_once_within(&self.asked.enclosing, || body.take_at_once(length))
    }

    /// The plan for a response that is made from something stale, if other requests wait for it: they get it, too, but it is not
    /// stored. What its handler has said of it is not known any more, as it was taken from the head with the handler's reads.
    fn plan_for_followers(&mut self, parts: &mut Parts, hint: SizeHint, now: u64) -> Result<Plan, NoCacheReason> {
        let Self { asked, permit, .. } = self;
        match asked.context.plan_head(&asked.request, parts, hint, now).plan {
            Ok(plan) if !is_replaceable_error(parts.status) && permit.keep_for_followers() => Ok(plan),
            _ => Err(NoCacheReason::MadeFromStale),
        }
    }

    /// `names`: the shapes of the names of its fields. `encodable`: the stored response may be sent in content codings of the
    /// cache's own.
    fn client_head(
        &self,
        mut parts: Parts,
        names: Shapes,
        not_stored: Option<NoCacheReason>,
        encodable: bool,
        now: u64,
    ) -> ClientHead {
        let Asked { context, request, miss, .. } = &*self.asked;
        let (status, why) = (parts.status, miss.detail.why);
        // Only the application can evaluate the preconditions of a POST.
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
        if context.policy.may_name_tags(names) {
            context.policy.strip_internal(&mut parts.headers);
        }
        annotate::missed(&mut parts.headers, &context.signature, context.status_of_miss(why, not_stored));
        let offers_ranges = names.may_meet(RANGES) && has(&parts.headers, &ACCEPT_RANGES);
        ClientHead { parts, status, not_modified, in_part, offers_ranges, why, not_stored }
    }

    /// Replies with a body that is complete, and stores it; returns the rest of the load.
    fn reply_whole<F>(
        self,
        mut draft: Draft,
        mut head: ClientHead,
        body: Incoming<R>,
        encoding: Option<Encoding>,
        now: u64,
    ) -> Received<F> {
        if let Some(tag) = draft.mint(body.taken()) {
            head.parts.headers.insert(ETAG, tag);
            // The client of a GET may already have the response.
            let request = &self.asked.request;
            head.in_part |= request.method == Method::GET && request.headers.contains_key(IF_NONE_MATCH);
        }
        let millis = now.saturating_sub(self.asked.request.time);
        let (writes, tags, entry) = draft.complete(|entry| entry.loaded(body.taken(), millis));
        drop(body);
        let payload = entry.payload().clone();
        // With a store in this process, followers wait for the commit, which takes no longer than this would.
        if !self.asked.context.cache.is_local() {
            let growing = BodyWriter::new(Some(payload.len() as u64));
            self.permit.publish_partial(writes.entries.iter().cloned().collect(), growing.body());
            growing.end(payload.clone());
        }
        let Self { asked, permit, reply_to } = self;
        let place = asked.enclosing;
        reply_to.send(match head.in_part {
            true => LoadReply::entry(entry, head.served(), asked.context.cookies_for_client(&head.parts.headers)),
            false => head.reply(ResponseBody::stored(payload)),
        });
        if let Some(encoding) = encoding {
            return Received::Committing(Box::pin(async move {
                encoding.commit(permit, writes, tags).await;
                drop(place);
            }));
        }
        match permit.begin_commit(writes, tags) {
            None => Received::Done,
            Some(rest) => Received::Committing(Box::pin(async move {
                rest.await;
                drop(place);
            })),
        }
    }

    /// Passes the body on while it arrives, to the client and to the requests that join, and stores it.
    async fn store_streaming(self, mut draft: Draft, head: ClientHead, body: Incoming<R>, length: Length) {
        let encoding = draft.is_encodable().then(|| self.encoding());
        let Self { asked, mut permit, reply_to } = self;
        let Asked { context, request, miss, enclosing } = *asked;
        let mut growing = Some(BodyWriter::new(length.known()));
        if let Some(growing) = &growing {
            permit.publish_partial(draft.entries(), growing.body());
        }
        let (status, offers_ranges, served) = (head.status, head.offers_ranges, head.served());
        let (feed, pieces) = mpsc::unbounded_channel();
        let in_part = head.in_part;
        let cookies = if in_part { context.cookies_for_client(&head.parts.headers) } else { Vec::new() };
        let whole = head.reply(ResponseBody::recorded(pieces, length.hint));
        let (waiting, held) = if in_part {
            (Some(reply_to), Some(whole))
        } else {
            reply_to.send(whole);
            (None, None)
        };
        let recording = record(body, context.policy.max_body, length.known(), &feed, &mut growing);
        // A body may load values as its handler does, and has to wait for no place while this load keeps one.
        let recording = within(enclosing.clone(), recording);
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
                    Some(reply_to) => reply_to.send(LoadReply::entry(entry, served, cookies)),
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
                context.record_uncacheable(permit, &request, &miss.key, (status, offers_ranges), reason);
                if let (Some(rest), Some(growing)) = (rest, growing) {
                    // As for a single client, which reads the rest by itself.
                    drop(enclosing);
                    pass_on(rest, &feed, growing).await;
                }
            }
        }
    }
}

impl Context {
    /// The plan for the response with this head, which came at `now`. Removes the fields that are for the cache only.
    pub(super) fn plan_head(&self, request: &CacheRequest, parts: &mut Parts, hint: SizeHint, now: u64) -> Planned {
        let date = date_for(&parts.headers, self.cache.local_time(now));
        let tags = parts.extensions.remove::<Tags>().unwrap_or_default();
        let freshness = parts.extensions.remove::<Freshness>();
        let inherited = parts.extensions.remove::<Reads>();
        let headers = &parts.headers;
        let (declared, names) = (content_length(headers), Shapes::of(headers.keys()));
        let plan = declared.and_then(|declared| {
            let (status, length) = (parts.status, declared.unwrap_or(0).max(hint.lower()));
            let response = OriginResponse { status, headers, names, time: now, tags, freshness, inherited, length };
            self.plan(request, response)
        });
        Planned { plan, length: Length { declared: declared.unwrap_or(None), hint }, date, names }
    }

    /// The demand for a load: `awaited` says whether the request that leads it waits for it, or reads its body.
    fn demand(&self, awaited: bool) -> Demand {
        match awaited {
            true => Demand::Awaited,
            false if self.load_limit.is_contended() => Demand::Contended,
            false => Demand::Unawaited,
        }
    }

    /// Ends a load whose response is not stored; `key` is the place that it would have taken as far as is known: that of a variant,
    /// if what is stored varies. What the application answers to other variants may be stored.
    pub(super) fn record_uncacheable(
        &self,
        mut permit: Box<WritePermit>,
        request: &CacheRequest,
        key: &Key,
        (status, offers_ranges): (StatusCode, bool),
        reason: NoCacheReason,
    ) {
        // A reason that may be due to this client alone, or to a temporary problem, must not affect other clients.
        let personal = self.is_personal(&request.headers);
        if is_replaceable_error(status) {
            permit.emit(Event::NotStored(reason));
            return permit.failed(Some(status.as_u16()), !personal);
        }
        if status == StatusCode::OK {
            self.learn_from_whole(request, offers_ranges, reason);
        }
        if reason == NoCacheReason::MadeFromStale {
            // There is no copy for the followers, which go to the application, as far as it has places for them.
            return permit.made_from_stale(Vec::new());
        }
        let speaks_for_others = self.speaks_for_others();
        if !speaks_for_others {
            permit.tells_nothing_of_later_ones();
        }
        let remembered = !personal && status == StatusCode::OK && is_lasting(reason) && speaks_for_others;
        permit.uncacheable(reason, remembered.then_some(key));
        // The rules may have been replaced just now, and what was remembered by them forgotten just before this was.
        if remembered && !self.speaks_for_others() {
            self.cache.forget_refusal(key);
        }
    }
}
