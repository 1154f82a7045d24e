//! A new response of the application's: passed to the client, and stored.

use bytes::Bytes;
use http::{
    HeaderValue, Method, Response, StatusCode,
    header::{ACCEPT_RANGES, CONTENT_LENGTH, DATE, ETAG, IF_NONE_MATCH, RANGE},
    response::Parts,
};
use http_body::{Body, SizeHint};
use tokio::sync::mpsc;

use super::{
    annotate::{self, Served},
    body::{Piece, ResponseBody},
    fill::Fill,
    plan::{Draft, OriginResponse, Plan},
    record::{Incoming, Unkept, content_length, pass_on, record},
    reply::LoadReply,
};
use crate::{
    engine::{growing_body::BodyWriter, permit::WritePermit, task::ReplyTo},
    inherit::Reads,
    policy::{Freshness, Remaining},
    semantics::{
        cache_status::ForwardReason,
        conditional::{is_not_modified, retain_not_modified_fields},
        storable::forbids_length,
    },
    store::Writes,
    tag::Tags,
    telemetry::NoCacheReason,
};

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

/// What to store of a response.
struct Planned {
    plan: Result<Plan, NoCacheReason>,
    length: Length,
    /// The date that the response has, or is given.
    date: HeaderValue,
}

impl<R: Body<Data = Bytes>, E> Fill<R, E> {
    /// Passes a new response to the client, and stores it if it may be stored.
    pub(super) async fn receive(mut self: Box<Self>, response: Response<R>) {
        let (mut parts, body) = response.into_parts();
        let Planned { plan, length, date } = self.plan(&mut parts, body.size_hint());
        if plan.is_ok() {
            self.permit.reserve(length.known());
        }
        let not_stored = plan.as_ref().err().copied().or_else(|| self.permit.refusal());
        let mut head = self.client_head(parts, not_stored);
        let plan = match plan {
            Ok(plan) => plan,
            Err(reason) => {
                let (status, offers_ranges) = (head.status, head.offers_ranges);
                self.context.record_uncacheable(self.permit, &self.request, status, offers_ranges, reason);
                return self.reply_to.send(head.reply(ResponseBody::inner(body)));
            }
        };
        let context = &self.context;
        head.parts.headers.entry(DATE).or_insert(date);
        if context.policy.remaining != Remaining::Age {
            plan.remaining_freshness(context.cache.now()).say(&mut head.parts.headers, context.policy.remaining);
        }
        let is_new = self.miss.stale.is_none();
        let draft = context.draft(plan, &self.request, self.miss.detail.varies.take(), is_new);
        let mut body = Incoming::new(body);
        match length.exact() {
            Some(exact) if body.take_at_once(exact).await => {
                // Until the load is over.
                let _room = self.room.take();
                let (permit, writes, tags) = self.reply_whole(draft, head, body);
                permit.commit(writes, tags).await;
            }
            // In a box, so that the load of a body that is there, as most are, is the smaller for it.
            _ => Box::pin(self.store_streaming(draft, head, body, length)).await,
        }
    }

    /// Takes out of the head what only the cache is told.
    fn plan(&self, parts: &mut Parts, hint: SizeHint) -> Planned {
        let mut headers = parts.headers.clone();
        let date = self.context.dated(&mut headers).clone();
        let tags = parts.extensions.remove::<Tags>().unwrap_or_default();
        let freshness = parts.extensions.remove::<Freshness>();
        let inherited = parts.extensions.remove::<Reads>();
        let declared = content_length(&headers);
        let plan = declared.and_then(|declared| {
            let length = declared.unwrap_or(0).max(hint.lower());
            let response = OriginResponse { status: parts.status, headers, tags, freshness, inherited, length };
            self.context.plan(&self.request, response)
        });
        Planned { plan, length: Length { declared: declared.unwrap_or(None), hint }, date }
    }

    fn client_head(&self, mut parts: Parts, not_stored: Option<NoCacheReason>) -> ClientHead {
        let Self { context, request, miss, .. } = self;
        let (status, why) = (parts.status, miss.detail.why);
        // What a client wants of a response to its POST, only the application can say.
        let of_get = request.method == Method::GET;
        let not_modified =
            of_get && is_not_modified(&request.headers, status, &parts.headers, context.cache.now() / 1000);
        let in_part = of_get && !not_modified && request.headers.contains_key(RANGE);
        if not_modified {
            retain_not_modified_fields(&mut parts.headers);
            parts.status = StatusCode::NOT_MODIFIED;
        }
        if forbids_length(status) {
            parts.headers.remove(CONTENT_LENGTH);
        }
        context.policy.strip_internal(&mut parts.headers);
        annotate::miss(&mut parts.headers, &context.signature, why, not_stored);
        let offers_ranges = parts.headers.contains_key(ACCEPT_RANGES);
        ClientHead { parts, status, not_modified, in_part, offers_ranges, why, not_stored }
    }

    /// All of the body is there: replies, and returns what is to be stored.
    fn reply_whole(
        self: Box<Self>,
        mut draft: Draft,
        mut head: ClientHead,
        body: Incoming<R>,
    ) -> (WritePermit, Writes, Tags) {
        if let Some(tag) = draft.mint(body.taken()) {
            head.parts.headers.insert(ETAG, tag);
            // The client may have it.
            head.in_part |= self.request.headers.contains_key(IF_NONE_MATCH);
        }
        let millis = self.context.load_time(&self.request);
        let (writes, tags, entry) = draft.complete(|entry| entry.loaded(body.taken(), millis));
        drop(body);
        let payload = entry.payload().clone();
        // Others wait no longer for a store in this process than for this.
        if !self.context.cache.is_local() {
            let growing = BodyWriter::new(Some(payload.len() as u64));
            self.permit.publish_partial(writes.entries.clone().into(), growing.body());
            growing.end(payload.clone());
        }
        self.reply_to.send(match head.in_part {
            true => LoadReply::Entry(entry, head.served()),
            false => head.reply(ResponseBody::stored(payload)),
        });
        (self.permit, writes, tags)
    }

    /// The body is passed on while it comes in, to the client and to the requests that join.
    async fn store_streaming(self: Box<Self>, mut draft: Draft, head: ClientHead, body: Incoming<R>, length: Length) {
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
                permit.commit(writes, tags).await;
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
