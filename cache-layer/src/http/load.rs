//! Asking the application once for all who wait, and answering the one who asks.
//!
//! This runs in a task of its own: the client that began it may leave, and what it asked for goes on and is stored all the
//! same. Without an end, it doesn't: what nobody waits for any more is given a while, and then dropped.

use std::sync::Arc;

use bytes::Bytes;
use http::{
    HeaderMap, Method, Request, Response, StatusCode,
    header::{ACCEPT_RANGES, CONTENT_LENGTH, DATE, RANGE},
    response,
};
use http_body::Body;
use tokio::sync::{mpsc, oneshot};
use tower_service::Service;

use super::{
    annotate::{self, Note},
    body::{Piece, ResponseBody},
    failure::is_personal,
    load_limit::{Room, Rooms},
    oneshot::Oneshot,
    plan::{Asked, Came},
    record::{Incoming, Unkept, content_length, pass_on, record},
    select::{Selection, Vacancy, Varies, response as stored_response},
    service::Shared,
};
use crate::{
    engine::{
        flight::{Flight, Landing},
        growing_body::RopeWriter,
        patience::Patience,
        permit::{Demand, Permission, Permit},
    },
    entry::Entry,
    inherit::Reads,
    policy::{Freshness, Remaining},
    semantics::{
        cache_status::ForwardReason,
        conditional::{is_not_modified, retain_not_modified_fields, unconditional, validating},
        staleness::{has_validator, is_replaceable_error},
        storable::forbids_length,
        update::{freshen, selects},
    },
    tag::Tags,
    telemetry::{Event, NoCacheReason},
};

/// What came of a load, for the request that leads it.
pub(super) enum Led<R: Body, E> {
    /// This entry is the answer.
    Entry(Entry, Note),
    Response(Response<ResponseBody<R>>),
    Failed(E),
}

/// A request on its way to the application.
pub(super) struct Load<S, B> {
    pub(super) shared: Arc<Shared>,
    pub(super) service: S,
    pub(super) request: Request<B>,
    pub(super) asked: Asked,
    /// `None` if the store doesn't answer.
    pub(super) vacancy: Option<Vacancy>,
    pub(super) purpose: Purpose,
    /// For others, and for room at the application.
    pub(super) patience: Patience,
}

/// What a request is sent on for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To be answered.
    Answer,
    /// To be answered, and there is something stale that may answer it, too: the last refresh of that in the background came
    /// to nothing.
    Overdue,
    /// In the background, for those who come later: what is there is stale, or will soon be.
    Refresh,
    EarlyRefresh,
}

/// What is known of the place that the response will take.
pub(super) struct Place {
    varies: Option<Varies>,
    why: ForwardReason,
    stale: Option<Entry>,
}

impl Default for Place {
    fn default() -> Self {
        Self { varies: None, why: ForwardReason::Miss, stale: None }
    }
}

type Tell<R, E> = oneshot::Sender<Led<R, E>>;

impl<S, B, R> Load<S, B>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: Body<Data = Bytes>,
{
    /// Leads `flight` to its end, and tells the request that waits as soon as there is something to tell. It may be gone;
    /// the load goes on without it, for a while.
    pub(super) fn lead(self, mut flight: Flight, tell: Tell<R, S::Error>) -> impl Future<Output = ()> + Send
    where
        S: Send,
        S::Future: Send,
        S::Error: Send,
        B: Send,
        R: Send,
        R::Error: Send,
    {
        // Not an `async fn`, which would keep its arguments twice: as they came, and as it uses them.
        let Self { shared, service, mut request, mut asked, mut vacancy, purpose, mut patience } = self;
        async move {
            let background = matches!(purpose, Purpose::Refresh | Purpose::EarlyRefresh);
            let cache = &shared.cache;
            let end = patience.end();
            let mut permit = loop {
                let Some(place) = &vacancy else { break cache.load_without_store(flight) };
                let caution = shared.caution(&asked.headers, place.stale.as_ref(), tell.is_closed());
                match cache.ask_to_load(flight, &place.key, place.seen, &mut patience, caution).await {
                    Permission::Load(permit) => break permit,
                    Permission::Uncacheable if background => return,
                    Permission::Uncacheable => {
                        let reason = NoCacheReason::Remembered;
                        let led = shared.go_alone(service, request, &asked.key, reason, end, None);
                        return tell_unless_gone(led, tell).await;
                    }
                    Permission::BackedOff(setback) => {
                        let stale = place.stale.as_ref();
                        match shared.spare(&asked.headers, stale, &setback) {
                            Some(led) => drop(tell.send(led)),
                            None if background => {}
                            None => {
                                let reason = NoCacheReason::BackedOff;
                                let led = shared.go_alone(service, request, &asked.key, reason, end, stale);
                                tell_unless_gone(led, tell).await;
                            }
                        }
                        return;
                    }
                    Permission::LookAgain(again) => flight = again,
                }
                vacancy = match shared.select(&asked.key, &asked.headers).await {
                    Selection::Hit(found) => {
                        flight.land(Landing::Stored);
                        let _ = tell.send(Led::Entry(found.entry, Note::Collapsed));
                        return;
                    }
                    Selection::Stale(found) => Some(found.vacancy(&asked.key)),
                    Selection::Miss(vacancy) => Some(vacancy),
                    Selection::Unavailable => None,
                };
            };

            if !background {
                cache.emit(Event::Miss);
            }
            let place = vacancy.map_or_else(Place::default, |vacancy| {
                let Vacancy { key, varies, why, stale, .. } = vacancy;
                match purpose {
                    Purpose::Answer => {}
                    Purpose::Overdue => permit.makes_up_for(&key),
                    Purpose::Refresh | Purpose::EarlyRefresh => permit.in_background(&key),
                }
                Place { varies, why, stale }
            });
            let room = if background {
                shared.rooms.take()
            } else {
                match permit.while_loading(shared.rooms.wait(end), || demand(&tell, &shared.rooms)).await {
                    Some(room) => room,
                    None => return permit.abandon(),
                }
            };
            // Held until the load is over.
            let Some(room) = room else {
                if background {
                    // Somebody who needs it more will lead.
                    permit.leave_out();
                    return cache.emit(Event::RefreshSkipped);
                }
                let led = match shared.stands_in(&asked.headers, place.stale.as_ref(), None) {
                    Some(entry) => Led::Entry(entry, Note::StaleIfError(None)),
                    None => Led::Response(shared.overloaded()),
                };
                permit.failed(None, false);
                let _ = tell.send(led);
                return;
            };
            // The application is asked for the whole, or whether what is stored still holds; what the client wants of it is
            // answered here.
            unconditional(request.headers_mut());
            let stored = place.stale.as_ref().and_then(stored_response);
            let has_stored = stored.is_some();
            let validated = stored.filter(|stored| has_validator(&stored.headers) && !stored.traits.unmatched);
            let validates = validated.is_some();
            if let Some(stored) = validated {
                validating(request.headers_mut(), &stored.headers);
            }
            shared.mark(&mut request, &asked.key, permit.token());
            if purpose == Purpose::EarlyRefresh {
                cache.emit(Event::EarlyRefresh);
            }
            asked.time = cache.now();
            let asking = shared.with_reads(Oneshot::new(service, request));
            let Some(came) = permit.while_loading(asking, || demand(&tell, &shared.rooms)).await else {
                return permit.abandon();
            };
            match came {
                Ok(response) if has_stored && response.status() == StatusCode::NOT_MODIFIED => {
                    let (parts, _) = response.into_parts();
                    shared.validated(permit, &asked, place, validates.then_some(parts), tell).await;
                }
                Ok(response) if is_replaceable_error(response.status()) => {
                    let status = response.status().as_u16();
                    match shared.stands_in(&asked.headers, place.stale.as_ref(), Some(status)) {
                        Some(entry) => {
                            permit.failed(Some(status), !is_personal(&asked.headers));
                            let _ = tell.send(Led::Entry(entry, Note::StaleIfError(Some(status))));
                        }
                        None => shared.answer(permit, &asked, place, response, tell, Some(room)).await,
                    }
                }
                Ok(response) => shared.answer(permit, &asked, place, response, tell, Some(room)).await,
                Err(error) => {
                    let led = match shared.stands_in(&asked.headers, place.stale.as_ref(), None) {
                        Some(entry) => Led::Entry(entry, Note::StaleIfError(None)),
                        None => Led::Failed(error),
                    };
                    // Without its request, a service may have no answer that has one otherwise.
                    permit.failed(None, !background && !is_personal(&asked.headers));
                    cache.emit(Event::NotStored(NoCacheReason::ServiceFailed));
                    let _ = tell.send(led);
                }
            }
        }
    }
}

/// Whether anybody waits for what is to be told.
fn demand<R: Body, E>(tell: &Tell<R, E>, rooms: &Rooms) -> Demand {
    demand_of(!tell.is_closed(), rooms)
}

fn demand_of(awaited: bool, rooms: &Rooms) -> Demand {
    match awaited {
        true => Demand::Awaited,
        false if rooms.are_wanted() => Demand::InTheWay,
        false => Demand::Unawaited,
    }
}

/// Tells what comes of a request that is nobody else's, unless its client leaves before that: the request ends with it then,
/// as it would without a cache.
async fn tell_unless_gone<R: Body, E>(
    led: impl Future<Output = Result<Response<ResponseBody<R>>, E>>,
    mut tell: Tell<R, E>,
) {
    let led = tokio::select! {
        led = led => led,
        () = tell.closed() => return,
    };
    let _ = tell.send(led.map_or_else(Led::Failed, Led::Response));
}

impl Shared {
    /// Ends a load whose response is not kept.
    fn give_up(&self, permit: Permit, asked: &Asked, status: StatusCode, offers_ranges: bool, reason: NoCacheReason) {
        // What may be due to this one client, or to a moment's trouble, is not held against the others.
        let personal = is_personal(&asked.headers);
        if is_replaceable_error(status) {
            permit.emit(Event::NotStored(reason));
            return permit.failed(Some(status.as_u16()), !personal);
        }
        if status == StatusCode::OK {
            self.learn_from_whole(asked, offers_ranges, reason);
        }
        let remembered = !personal && status == StatusCode::OK && says_something_about_the_next(reason);
        permit.uncacheable(reason, remembered.then_some(&asked.key));
    }

    /// The stale entry that may be used in place of an error, or of no response at all. What may be used while it is loaded
    /// anew may be used if that fails.
    pub(super) fn stands_in(&self, request: &HeaderMap, stale: Option<&Entry>, status: Option<u16>) -> Option<Entry> {
        let entry = stale?;
        let stored = stored_response(entry)?;
        let now = self.cache.now();
        if entry.is_from_the_future(now) {
            return None;
        }
        let until = match status {
            Some(_) => entry.deadlines().stale_if_error,
            None => {
                let disconnected = stored.stale_if_disconnected.saturating_sub(entry.brought_forward());
                disconnected.max(entry.deadlines().stale_if_error)
            }
        };
        let until = until.max(entry.deadlines().stale_while_revalidate);
        let stale_for = now.saturating_sub(entry.deadlines().fresh) / 1000;
        let accepted = self.directives(request).accepts_stale_on_error(stale_for);
        (now < until && accepted).then(|| entry.clone())
    }

    /// The application says that what is stored still holds (RFC 9111, section 4.3.4): by the head of a 304, or by one that
    /// is none, since it was not asked.
    async fn validated<R: Body, E>(
        &self,
        mut permit: Permit,
        asked: &Asked,
        place: Place,
        parts: Option<response::Parts>,
        tell: Tell<R, E>,
    ) {
        let Some((entry, stored)) = place.stale.as_ref().and_then(|entry| Some((entry, stored_response(entry)?)))
        else {
            return permit.failed(None, false);
        };
        let why = place.why;
        permit.not_modified();
        permit.reserve(Some(entry.payload().len() as u64));
        let asked_about = parts.is_some();
        let selects = |parts: &response::Parts| selects(&parts.headers, &stored.headers, self.cache.now() / 1000);
        let Some(mut parts) = parts.filter(selects) else {
            // It names another response than the one that was asked about, which may only be spelled otherwise: so this
            // one is not made fresh. Yet the application has said that it holds, and the request is gone. The next one
            // asks for the whole.
            let reason = NoCacheReason::Unmatched;
            let note = Note::Validated { why, not_stored: Some(reason) };
            let _ = tell.send(Led::Entry(entry.clone(), note));
            if !asked_about {
                return permit.uncacheable(reason, None);
            }
            permit.emit(Event::NotStored(reason));
            let writes = self.unmatched(entry, stored, asked, place.varies.as_ref());
            return permit.commit(writes, entry.tags()).await;
        };
        self.dated(&mut parts.headers);
        let mut headers = stored.headers.clone();
        freshen(&mut headers, &parts.headers, &self.policy.caching);
        let names_tags = self.policy.tag_fields.iter().any(|name| parts.headers.contains_key(name));
        let tags = parts.extensions.remove::<Tags>().or_else(|| names_tags.then(Tags::default));
        let tags = tags.unwrap_or_else(|| entry.tags());
        let came = Came {
            status: stored.status,
            headers,
            tags,
            freshness: parts.extensions.remove::<Freshness>(),
            inherited: parts.extensions.remove::<Reads>().map(|reads| reads.and(&entry.tags())),
            length: entry.payload().len() as u64,
        };
        match self.plan(asked, came) {
            Ok(plan) => {
                let (mut writes, tags) = self.writes(plan, asked, place.varies, false);
                let again = |again: Entry, millis| again.loaded_again(entry, millis);
                if let Some(entry) = self.complete(&mut writes, asked, again) {
                    let note = Note::Validated { why, not_stored: permit.refusal() };
                    let _ = tell.send(Led::Entry(entry, note));
                }
                permit.commit(writes, tags).await;
            }
            Err(reason) => {
                let note = Note::Validated { why, not_stored: Some(reason) };
                let _ = tell.send(Led::Entry(entry.clone(), note));
                self.give_up(permit, asked, stored.status, stored.headers.contains_key(ACCEPT_RANGES), reason);
            }
        }
    }

    /// A new response.
    pub(super) async fn answer<R: Body<Data = Bytes>, E>(
        &self,
        mut permit: Permit,
        asked: &Asked,
        place: Place,
        response: Response<R>,
        tell: Tell<R, E>,
        room: Option<Room>,
    ) {
        let (mut parts, body) = response.into_parts();
        let status = parts.status;
        let mut headers = parts.headers.clone();
        let date = self.dated(&mut headers).clone();
        let tags = parts.extensions.remove::<Tags>().unwrap_or_default();
        let freshness = parts.extensions.remove::<Freshness>();
        let inherited = parts.extensions.remove::<Reads>();
        let declared_length = content_length(&headers);
        let plan = declared_length.and_then(|declared| {
            let length = declared.unwrap_or(0).max(body.size_hint().lower());
            self.plan(asked, Came { status, headers, tags, freshness, inherited, length })
        });
        let why = place.why;
        let size = body.size_hint();
        let declared = declared_length.unwrap_or(None);
        let length = declared.or_else(|| size.exact());
        if plan.is_ok() {
            permit.reserve(length);
        }
        // What a client wants of a response to its POST, only the application can say.
        let of_get = asked.method == Method::GET;
        let not_modified = of_get && is_not_modified(&asked.headers, status, &parts.headers, self.cache.now() / 1000);
        let not_stored = plan.as_ref().err().copied().or_else(|| permit.refusal());
        if not_modified {
            retain_not_modified_fields(&mut parts.headers);
            parts.status = StatusCode::NOT_MODIFIED;
        }
        if forbids_length(status) {
            parts.headers.remove(CONTENT_LENGTH);
        }
        self.policy.strip_internal(&mut parts.headers);
        annotate::miss(&mut parts.headers, &self.name, why, not_stored);
        let offers_ranges = parts.headers.contains_key(ACCEPT_RANGES);
        let plan = match plan {
            Ok(plan) => plan,
            Err(reason) => {
                self.give_up(permit, asked, status, offers_ranges, reason);
                let body = if not_modified { ResponseBody::empty() } else { ResponseBody::inner(body) };
                let _ = tell.send(Led::Response(Response::from_parts(parts, body)));
                return;
            }
        };
        parts.headers.entry(DATE).or_insert(date);
        if self.policy.remaining != Remaining::Age {
            plan.left(self.cache.now()).say(&mut parts.headers, self.policy.remaining);
        }

        let (mut writes, tags) = self.writes(plan, asked, place.varies, place.stale.is_none());
        let mut shared = Some(RopeWriter::new(length));
        let mut body = Incoming::new(body);
        let at_once = match size.exact().filter(|exact| declared.is_none_or(|declared| declared == *exact)) {
            Some(length) => body.take_at_once(length).await,
            None => false,
        };
        let answer =
            |body| Led::Response(Response::from_parts(parts, if not_modified { ResponseBody::empty() } else { body }));
        // A part can be cut out once the whole is there.
        let in_part = of_get && !not_modified && asked.headers.contains_key(RANGE);
        let part_of = |entry| Led::Entry(entry, Note::Loaded { why, not_stored });
        if at_once {
            let loaded = |entry: Entry, millis| entry.loaded(body.taken(), millis);
            let Some(entry) = self.complete(&mut writes, asked, loaded) else { return };
            drop(body);
            // Others wait no longer for a store in this process than for this.
            if let Some(shared) = shared.filter(|_| !self.cache.is_local()) {
                permit.share(&writes, shared.rope());
                shared.end(entry.payload().clone());
            }
            let whole = ResponseBody::stored(entry.payload().clone());
            let _ = tell.send(if in_part { part_of(entry) } else { answer(whole) });
            return permit.commit(writes, tags).await;
        }
        if let Some(shared) = &shared {
            permit.share(&writes, shared.rope());
        }
        let (feed, pieces) = mpsc::unbounded_channel();
        let whole = answer(ResponseBody::recorded(pieces, size));
        let (waiting, held) = if in_part {
            (Some(tell), Some(whole))
        } else {
            let _ = tell.send(whole);
            (None, None)
        };
        let recording = record(body, self.policy.max_body, declared, &feed, &mut shared);
        let awaited = || waiting.as_ref().map_or_else(|| !feed.is_closed(), |tell| !tell.is_closed());
        let pieces = match permit.while_loading(recording, || demand_of(awaited(), &self.rooms)).await {
            Some(Ok(pieces)) => pieces,
            Some(Err(Unkept { reason, rest })) => {
                if let (Some(tell), Some(whole)) = (waiting, held) {
                    let _ = tell.send(whole);
                }
                self.give_up(permit, asked, status, offers_ranges, reason);
                if let (Some(rest), Some(shared)) = (rest, shared) {
                    // As for one client alone, that takes the rest for itself.
                    drop(room);
                    pass_on(rest, &feed, shared).await;
                }
                return;
            }
            None => return permit.abandon(),
        };
        let loaded = |entry: Entry, millis| entry.loaded(pieces.iter(), millis);
        let Some(entry) = self.complete(&mut writes, asked, loaded) else { return };
        drop(pieces);
        if let Some(shared) = shared {
            shared.end(entry.payload().clone());
        }
        match waiting {
            Some(tell) => drop(tell.send(part_of(entry))),
            None => drop(feed.send(Piece::End)),
        }
        permit.commit(writes, tags).await;
    }
}

/// Whether the next response to the same request will most likely be refused for the same reason.
pub(super) fn says_something_about_the_next(reason: NoCacheReason) -> bool {
    matches!(
        reason,
        NoCacheReason::NoStore
            | NoCacheReason::Private
            | NoCacheReason::NoCache
            | NoCacheReason::SetCookie
            | NoCacheReason::VaryStar
            | NoCacheReason::EventStream
            | NoCacheReason::Grpc
            | NoCacheReason::NoFreshness
            | NoCacheReason::AlreadyStale
            | NoCacheReason::BodyTooLarge
            | NoCacheReason::Trailers
            | NoCacheReason::TooManyTags
    )
}
