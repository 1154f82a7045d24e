//! Asking the application once for all who wait, and recording what it says while its client reads it.
//!
//! This runs in a task of its own: the client that began it may leave, and what it asked for is finished and stored all
//! the same.

use std::{pin::Pin, sync::Arc};

use bytes::{Bytes, BytesMut};
use http::{
    HeaderMap, Request, Response,
    header::{AGE, AUTHORIZATION, CONTENT_LENGTH, COOKIE, DATE},
    response,
};
use http_body::{Body, Frame};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};
use tower_service::Service;

use super::{
    annotate,
    body::{Piece, ResponseBody},
    oneshot::Oneshot,
    select::{Selection, Vacancy, Varies, select, variant_key},
    service::Shared,
    stored::{Stored, StoredResponse},
};
use crate::{
    engine::{
        fill::{Permission, Permit},
        flight::{Flight, Landing},
    },
    entry::{Deadlines, Entry, EntryId},
    key::Key,
    semantics::{
        cache_control::CacheControl,
        cache_status::ForwardReason,
        date::write_http_date,
        freshness::{explicit_lifetime, initial_age},
        hop_by_hop,
        storable::refusal_of_response,
        vary::{Vary, VaryFields},
    },
    store::Writes,
    tag::Tags,
    telemetry::{Event, NoCacheReason},
};

/// What came of a load, for the request that leads it.
pub(super) enum Led<R: Body, E> {
    /// Somebody else was faster.
    Found(Entry),
    Response(Response<ResponseBody<R>>),
    Failed(E),
}

/// A request on its way to the application.
pub(super) struct Load<S, B> {
    pub(super) shared: Arc<Shared>,
    pub(super) service: S,
    pub(super) request: Request<B>,
    /// The primary key.
    pub(super) key: Key,
    /// `None` if the store doesn't answer.
    pub(super) vacancy: Option<Vacancy>,
}

/// What the request was, for deciding about its response.
struct Asked {
    key: Key,
    path: String,
    headers: HeaderMap,
    /// When it was sent on, in milliseconds since the Unix epoch.
    time: u64,
}

impl<S, B, R> Load<S, B>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: Body<Data = Bytes>,
{
    /// Leads `flight` to its end, and tells the request that waits as soon as there is something to tell.
    pub(super) async fn lead(self, flight: Flight, tell: oneshot::Sender<Led<R, S::Error>>) {
        let cache = self.shared.cache.clone();
        let deadline = Instant::now() + cache.lock_timeout();
        let (mut flight, mut vacancy) = (flight, self.vacancy);
        let permit = loop {
            let Some(place) = &vacancy else {
                break cache.load_without_store(flight);
            };
            match cache.ask_to_load(flight, &place.key, place.seen, deadline).await {
                Permission::Load(permit) => break permit,
                Permission::Uncacheable => {
                    cache.emit(Event::Miss);
                    let led = Oneshot::new(self.service, self.request).await.map(|response| {
                        let mut response = response.map(ResponseBody::inner);
                        let why = ForwardReason::Miss;
                        self.shared.miss(&mut response, why, Some(NoCacheReason::Remembered));
                        response
                    });
                    // The client may be gone; nothing is stored, so nothing is left to do.
                    let _ = tell.send(led.map_or_else(Led::Failed, Led::Response));
                    return;
                }
                Permission::LookAgain(again) => flight = again,
            }
            vacancy = match select(&cache, &self.key, self.request.headers()).await {
                Selection::Hit(entry) => {
                    flight.land(Landing::Stored);
                    let _ = tell.send(Led::Found(entry));
                    return;
                }
                Selection::Miss(vacancy) => Some(vacancy),
                Selection::Unavailable => None,
            };
        };

        cache.emit(Event::Miss);
        let asked = Asked {
            key: self.key,
            path: self.request.uri().path().to_owned(),
            headers: self.request.headers().clone(),
            time: cache.now(),
        };
        let (why, varies) = vacancy.map_or((ForwardReason::Miss, None), |place| (place.why, place.varies));
        match permit.while_loading(Oneshot::new(self.service, self.request)).await {
            Ok(response) => self.shared.answer(permit, asked, varies, why, response, tell).await,
            Err(error) => {
                permit.failed();
                cache.emit(Event::NotStored(NoCacheReason::ServiceFailed));
                let _ = tell.send(Led::Failed(error));
            }
        }
    }
}

impl Asked {
    fn give_up(&self, permit: Permit, reason: NoCacheReason) {
        // What may be due to this one client is not held against the others.
        let personal = self.headers.contains_key(AUTHORIZATION) || self.headers.contains_key(COOKIE);
        let remembered = !personal && says_something_about_the_next(reason);
        permit.uncacheable(reason, remembered.then_some(&self.key));
    }
}

impl Shared {
    fn miss<R>(&self, response: &mut Response<R>, why: ForwardReason, not_stored: Option<NoCacheReason>) {
        annotate::miss(response.headers_mut(), &self.name, why, not_stored);
    }

    async fn answer<R: Body<Data = Bytes>, E>(
        &self,
        permit: Permit,
        asked: Asked,
        varies: Option<Varies>,
        why: ForwardReason,
        response: Response<R>,
        tell: oneshot::Sender<Led<R, E>>,
    ) {
        let (mut parts, body) = response.into_parts();
        let plan = match self.plan(&asked, &mut parts, &body) {
            Ok(plan) => plan,
            Err(reason) => {
                let mut response = Response::from_parts(parts, ResponseBody::inner(body));
                self.miss(&mut response, why, Some(reason));
                asked.give_up(permit, reason);
                let _ = tell.send(Led::Response(response));
                return;
            }
        };
        let declared_length = plan.declared_length;
        let (feed, pieces) = mpsc::unbounded_channel();
        let mut response = Response::from_parts(parts, ResponseBody::recorded(pieces, body.size_hint()));
        self.miss(&mut response, why, permit.refusal());
        let _ = tell.send(Led::Response(response));
        match permit.while_loading(record(body, self.policy.max_body, declared_length, &feed)).await {
            Ok(payload) => {
                let _ = feed.send(Piece::End);
                let writes = plan.writes(&asked, varies, payload);
                permit.commit(writes, plan.tags).await;
            }
            Err(reason) => asked.give_up(permit, reason),
        }
    }

    /// What to store of a response, or why nothing.
    fn plan<R: Body>(&self, asked: &Asked, parts: &mut response::Parts, body: &R) -> Result<Plan, NoCacheReason> {
        let tags = parts.extensions.remove::<Tags>().unwrap_or_default();
        let response_time = self.cache.now();
        let cc = CacheControl::from_headers(&parts.headers);
        if let Some(reason) = refusal_of_response(&asked.headers, parts, &cc) {
            return Err(reason);
        }
        let lifetime = match explicit_lifetime(&cc, &parts.headers, response_time) {
            Some(seconds) => seconds.saturating_mul(1000),
            None => {
                let rule = self.policy.ttl(&asked.path).ok_or(NoCacheReason::NoFreshness)?;
                // A rule knows nothing of what the application makes of a cookie.
                if asked.headers.contains_key(COOKIE) {
                    return Err(NoCacheReason::Cookie);
                }
                crate::clock::millis(rule)
            }
        };
        let age = initial_age(&parts.headers, asked.time, response_time);
        let left = lifetime.saturating_sub(age.saturating_mul(1000));
        if left == 0 {
            return Err(NoCacheReason::AlreadyStale);
        }
        let declared_length = content_length(&parts.headers)?;
        let least = declared_length.unwrap_or(0).max(body.size_hint().lower());
        if least > self.policy.max_body {
            return Err(NoCacheReason::BodyTooLarge);
        }
        if !tags.fit() {
            return Err(NoCacheReason::TooManyTags);
        }
        let vary = match Vary::from_headers(&parts.headers) {
            None => None,
            Some(Vary::Fields(fields)) => Some(fields),
            Some(Vary::Star) => return Err(NoCacheReason::VaryStar),
        };
        // Who answers with a stored response can't date it any more; so that all agree, it is dated before anybody
        // has it.
        parts.headers.entry(DATE).or_insert_with(|| write_http_date(response_time / 1000));
        let mut headers = parts.headers.clone();
        annotate::clear(&mut headers);
        hop_by_hop::strip(&mut headers);
        headers.remove(AGE);
        let response = StoredResponse { status: parts.status, headers, response_time, initial_age: age, parent: None };
        let deadlines = Deadlines::fresh_until(response_time.saturating_add(left));
        Ok(Plan { response, declared_length, vary, tags, deadlines })
    }
}

/// What is going to be stored, but for the body.
struct Plan {
    response: StoredResponse,
    declared_length: Option<u64>,
    vary: Option<VaryFields>,
    tags: Tags,
    deadlines: Deadlines,
}

impl Plan {
    /// The entries to write.
    fn writes(&self, asked: &Asked, known: Option<Varies>, payload: Bytes) -> Writes {
        // The load ran under a variant's lease, which an invalidation of the key doesn't reach. The primary entry is
        // what it deletes: without the one that was seen, nothing is written.
        let guard = known.as_ref().map(|known| (asked.key.clone(), known.id));
        let entry =
            |id, key: &Key, stored: &Stored, payload| Entry::new(id, key, self.deadlines, stored.to_bytes(), payload);
        let entries = match &self.vary {
            None => {
                let stored = Stored::Response(self.response_with(None));
                vec![(asked.key.clone(), entry(EntryId::random(), &asked.key, &stored, payload))]
            }
            Some(fields) => {
                // The same selecting fields keep their entry's id, and with it the variants that name it.
                let parent = match known {
                    Some(known) if known.fields == *fields => known.id,
                    _ => EntryId::random(),
                };
                let varies = Stored::Varies(fields.clone());
                let variant = variant_key(&asked.key, fields, &asked.headers);
                let stored = Stored::Response(self.response_with(Some(parent)));
                vec![
                    (asked.key.clone(), entry(parent, &asked.key, &varies, Bytes::new())),
                    (variant.clone(), entry(EntryId::random(), &variant, &stored, payload)),
                ]
            }
        };
        Writes { entries, guard }
    }

    fn response_with(&self, parent: Option<EntryId>) -> StoredResponse {
        let StoredResponse { status, headers, response_time, initial_age, .. } = &self.response;
        StoredResponse {
            status: *status,
            headers: headers.clone(),
            response_time: *response_time,
            initial_age: *initial_age,
            parent,
        }
    }
}

/// Passes `body` on through `feed` and keeps a copy; returns it if it is whole and within `max` bytes.
async fn record<R: Body<Data = Bytes>>(
    body: R,
    max: u64,
    declared_length: Option<u64>,
    feed: &mpsc::UnboundedSender<Piece<R>>,
) -> Result<Bytes, NoCacheReason> {
    let mut body = Box::pin(body);
    let mut recorded = Vec::new();
    let mut length = 0u64;
    let mut trailers = false;
    // A client that is gone makes every send fail; the recording goes on without it.
    while let Some(frame) = next_frame(body.as_mut()).await {
        let data = match frame.map(Frame::into_data) {
            Ok(Ok(data)) => data,
            Ok(Err(other)) => {
                trailers |= other.is_trailers();
                let _ = feed.send(Piece::Frame(other));
                continue;
            }
            Err(error) => {
                let _ = feed.send(Piece::Failed(error));
                return Err(NoCacheReason::BodyFailed);
            }
        };
        length += data.len() as u64;
        if length > max {
            let _ = feed.send(Piece::Frame(Frame::data(data)));
            let _ = feed.send(Piece::Rest(body));
            return Err(NoCacheReason::BodyTooLarge);
        }
        recorded.push(data.clone());
        let _ = feed.send(Piece::Frame(Frame::data(data)));
    }
    if trailers {
        let _ = feed.send(Piece::End);
        return Err(NoCacheReason::Trailers);
    }
    if declared_length.is_some_and(|declared| declared != length) {
        let _ = feed.send(Piece::End);
        return Err(NoCacheReason::BodyTruncated);
    }
    // Copied in any case: a slice of a larger buffer would keep all of it in memory.
    let mut payload = BytesMut::with_capacity(recorded.iter().map(Bytes::len).sum());
    recorded.iter().for_each(|data| payload.extend_from_slice(data));
    Ok(payload.freeze())
}

async fn next_frame<R: Body>(mut body: Pin<&mut R>) -> Option<Result<Frame<R::Data>, R::Error>> {
    std::future::poll_fn(|cx| body.as_mut().poll_frame(cx)).await
}

/// The length that the response announces, if it does. Of two, or of none in digits, nobody knows which one counts.
fn content_length(headers: &HeaderMap) -> Result<Option<u64>, NoCacheReason> {
    let mut lines = headers.get_all(CONTENT_LENGTH).into_iter();
    let Some(line) = lines.next() else { return Ok(None) };
    let digits = line.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    match (digits.and_then(|text| text.parse().ok()), lines.next()) {
        (Some(length), None) => Ok(Some(length)),
        _ => Err(NoCacheReason::BodyTruncated),
    }
}

/// Whether the next response to the same request will most likely be refused for the same reason.
fn says_something_about_the_next(reason: NoCacheReason) -> bool {
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
