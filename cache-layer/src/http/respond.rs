//! Answers a request from a stored response: with all of it, a part, or a 304.

use std::{ops::Range, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header};
use http_body::Body;

use super::{
    annotate::{self, Served, Times},
    body::ResponseBody,
    context::Context,
    encode::Representation,
    remaining_freshness::RemainingFreshness,
    reply::LoadReply,
    response_entry::ResponseEntry,
    select::milliseconds_left,
    stored::{StoredInfo, StoredResponse},
};
use crate::{
    engine::{
        growing_body::{BodyReader, GrowingBody},
        span::LookupSpan,
    },
    entry::Deadlines,
    policy::Remaining,
    semantics::{
        cache_status::ForwardReason,
        coded_tag::resumes_by_date,
        conditional::{is_not_modified, retain_not_modified_fields},
        range::{self, Selected},
        storable::forbids_length,
    },
    telemetry::{Event, NoCacheReason},
};

/// The content of a complete response, or of one that will be complete.
pub(super) enum Content {
    Stored(Bytes),
    /// Still arriving, with a known length.
    Loading(GrowingBody, u64),
    /// Still arriving, with an unknown length.
    Growing(BodyReader),
}

impl Content {
    fn length(&self) -> Option<u64> {
        match self {
            Self::Stored(payload) => Some(payload.len() as u64),
            Self::Loading(_, length) => Some(*length),
            Self::Growing(_) => None,
        }
    }

    fn whole<R: Body>(self) -> ResponseBody<R> {
        match self {
            Self::Stored(payload) => ResponseBody::stored(payload),
            Self::Loading(body, length) => ResponseBody::joined(body.read(0..length)),
            Self::Growing(reader) => ResponseBody::joined(reader),
        }
    }

    fn parts<R: Body>(
        self,
        parts: &[Range<u64>],
        content_type: Option<&HeaderValue>,
        boundary: &str,
    ) -> ResponseBody<R> {
        match self {
            Self::Stored(payload) => {
                ResponseBody::stored(range::multipart(&payload, parts, content_type, boundary).into())
            }
            // Several parts are never selected from a body that is still arriving.
            Self::Loading(..) | Self::Growing(_) => self.whole(),
        }
    }

    fn part<R: Body>(self, part: Range<u64>) -> ResponseBody<R> {
        match self {
            // Within the payload, which is in memory: these fit.
            Self::Stored(payload) => ResponseBody::stored(payload.slice(part.start as usize..part.end as usize)),
            Self::Loading(body, _) => ResponseBody::joined(body.read(part)),
            // A part is never selected from a body of unknown length.
            Self::Growing(reader) => ResponseBody::joined(reader),
        }
    }
}

/// A stored response, or one that is still arriving, as the answer to a request.
struct Reply {
    entry: ResponseEntry,
    content: Content,
    served: Served,
    /// The moment at which it is the answer, in milliseconds since the Unix epoch.
    now: u64,
}

impl Reply {
    fn stored(entry: ResponseEntry, served: Served, now: u64) -> Self {
        let content = Content::Stored(entry.payload().clone());
        Self { entry, content, served, now }
    }
}

impl Context {
    /// The stored response that `entry` holds, as an answer to a request.
    pub(super) fn respond<R: Body>(
        &self,
        entry: ResponseEntry,
        method: &Method,
        request: &HeaderMap,
        served: Served,
        lookup: &mut LookupSpan,
    ) -> Response<ResponseBody<R>> {
        self.respond_at(self.cache.now(), entry, method, request, served, lookup)
    }

    /// As [`respond`](Self::respond), at this moment, in milliseconds since the Unix epoch: hits are decided and answered at one.
    pub(super) fn respond_at<R: Body>(
        &self,
        now: u64,
        entry: ResponseEntry,
        method: &Method,
        request: &HeaderMap,
        served: Served,
        lookup: &mut LookupSpan,
    ) -> Response<ResponseBody<R>> {
        self.respond_with(Reply::stored(entry, served, now), method, request, Some(lookup))
    }

    /// As [`respond`](Self::respond), after a lookup that has ended in a miss.
    pub(super) fn respond_after_miss<R: Body>(
        &self,
        entry: ResponseEntry,
        method: &Method,
        request: &HeaderMap,
        served: Served,
    ) -> Response<ResponseBody<R>> {
        self.respond_with(Reply::stored(entry, served, self.cache.now()), method, request, None)
    }

    /// As [`respond`](Self::respond), while the payload of `entry` is still arriving, as `content`.
    pub(super) fn respond_while_loading<R: Body>(
        &self,
        entry: ResponseEntry,
        content: Content,
        method: &Method,
        request: &HeaderMap,
        served: Served,
        lookup: &mut LookupSpan,
    ) -> Response<ResponseBody<R>> {
        self.respond_with(Reply { entry, content, served, now: self.cache.now() }, method, request, Some(lookup))
    }

    /// The reply of a load, as an answer to a request.
    pub(super) fn respond_with_loaded<R: Body, E>(
        &self,
        reply: LoadReply<R, E>,
        method: &Method,
        request: &HeaderMap,
        lookup: &mut LookupSpan,
    ) -> Result<Response<ResponseBody<R>>, E> {
        match reply {
            LoadReply::Entry(entry, served) => Ok(self.respond(entry, method, request, served, lookup)),
            LoadReply::WithCookies(answer) => {
                let (entry, served, cookies) = *answer;
                let mut response = self.respond(entry, method, request, served, lookup);
                for cookie in cookies {
                    response.headers_mut().append(header::SET_COOKIE, cookie);
                }
                Ok(response)
            }
            LoadReply::Response(response) => Ok(response),
            LoadReply::Failed(error) => Err(error),
        }
    }

    fn respond_with<R: Body>(
        &self,
        Reply { entry, content, served, now }: Reply,
        method: &Method,
        request: &HeaderMap,
        lookup: Option<&mut LookupSpan>,
    ) -> Response<ResponseBody<R>> {
        if served.is_hit() {
            self.cache.emit(Event::Hit);
        }
        let StoredResponse { info, shapes, .. } = *entry.response();
        let deadlines = entry.deadlines_at(now);
        let times = times(info, &deadlines, now);
        if let (Some(lookup), Some(result)) = (lookup, served.result(times.fresh)) {
            lookup.found(result);
            lookup.answered_by(&entry, || Some(Duration::from_secs(times.age)));
        }
        let mut response = if info.traits.encodable {
            self.negotiated(entry, content, method, request, now / 1000)
        } else {
            let headers = entry.into_headers();
            let answer = Answer::new(info.status, &headers, &content, method, request, now / 1000);
            answer.response(info.status, headers, content, method)
        };
        // Another process may pass tag fields on, and so have stored them.
        if self.policy.may_name_tags(shapes) {
            self.policy.strip_internal(response.headers_mut());
        }
        annotate::stored(response.headers_mut(), &self.signature, &times, served);
        if self.policy.remaining != Remaining::Age {
            let left = RemainingFreshness::new(times.age, &deadlines, now).dated_by(self.cache.local_time(now));
            left.say(response.headers_mut(), self.policy.remaining);
        }
        response
    }

    /// The answer from an entry that may have several representations, with the one that the request gets.
    fn negotiated<R: Body>(
        &self,
        entry: ResponseEntry,
        content: Content,
        method: &Method,
        request: &HeaderMap,
        now_secs: u64,
    ) -> Response<ResponseBody<R>> {
        let status = entry.response().info.status;
        let is_whole = matches!(content, Content::Stored(_));
        let Representation { headers, coded } = self.represent(entry, request, is_whole);
        let content = coded.map_or(content, Content::Stored);
        let mut answer = Answer::new(status, &headers, &content, method, request, now_secs);
        // A date is that of every representation. It does not say of which one the client has a part: it may have accepted another
        // coding then.
        if !matches!(answer, Answer::NotModified | Answer::Of(Selected::Whole)) && resumes_by_date(request) {
            answer = Answer::Of(Selected::Whole);
        }
        answer.response(status, headers, content, method)
    }

    /// The cache's own answer if no stored response may be used, and the application must not be asked (RFC 9111,
    /// sections 4.2.4 and 5.2.1.7).
    pub(super) fn gateway_timeout<R: Body>(&self, reason: NoCacheReason) -> Response<ResponseBody<R>> {
        let mut response = Response::new(ResponseBody::empty());
        *response.status_mut() = StatusCode::GATEWAY_TIMEOUT;
        annotate::miss(response.headers_mut(), &self.signature, ForwardReason::Miss, Some(reason));
        response
    }

    /// The cache's own answer if no place at the application became free while the request waited.
    pub(super) fn overloaded<R: Body>(&self) -> Response<ResponseBody<R>> {
        self.cache.emit(Event::Overloaded);
        let mut response = Response::new(ResponseBody::empty());
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        let seconds = self.cache.lock_timeout().as_secs().max(1);
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        annotate::miss(response.headers_mut(), &self.signature, ForwardReason::Miss, Some(NoCacheReason::Overloaded));
        response
    }
}

/// The age and remaining freshness of a response with these deadlines.
pub(super) fn times(info: StoredInfo, deadlines: &Deadlines, now: u64) -> Times {
    Times {
        age: info.age(now),
        resident: info.resident(now),
        ttl: milliseconds_left(deadlines.fresh, now).div_euclid(1000),
        fresh: now < deadlines.fresh,
    }
}

static CONTENT_DIGEST: HeaderName = HeaderName::from_static("content-digest");

/// Removes the fields that are true for the complete content only. `Repr-Digest` is true for a part as well.
fn remove_what_is_of_the_whole(headers: &mut HeaderMap) {
    headers.remove(header::CONTENT_LENGTH);
    headers.remove(&CONTENT_DIGEST);
    headers.remove("content-md5");
}

/// The part of a complete response that answers a request (RFC 9110, sections 13.2.2 and 14.2).
enum Answer {
    NotModified,
    Of(Selected),
}

impl Answer {
    /// The answer from a complete response with this `status` and these `headers`.
    fn new(
        status: StatusCode,
        headers: &HeaderMap,
        content: &Content,
        method: &Method,
        request: &HeaderMap,
        now_secs: u64,
    ) -> Self {
        if is_not_modified(request, status, headers, now_secs) {
            return Self::NotModified;
        }
        let whole = Selected::Whole;
        let selected =
            content.length().map_or(whole, |length| range::select(method, request, status, headers, length, now_secs));
        Self::Of(selected)
    }

    /// The response, made from the `status` and the `headers` of the complete one.
    fn response<R: Body>(
        self,
        status: StatusCode,
        mut headers: HeaderMap,
        content: Content,
        method: &Method,
    ) -> Response<ResponseBody<R>> {
        let length = content.length();
        if forbids_length(status) {
            headers.remove(header::CONTENT_LENGTH);
        }
        let (status, body) = match self {
            Self::NotModified => {
                retain_not_modified_fields(&mut headers);
                (StatusCode::NOT_MODIFIED, ResponseBody::empty())
            }
            Self::Of(Selected::Whole) if method == Method::HEAD => {
                // A 304 has no content that the digest could be of (RFC 9530, section 2).
                headers.remove(&CONTENT_DIGEST);
                if let Some(length) = length.filter(|_| !forbids_length(status)) {
                    headers.entry(header::CONTENT_LENGTH).or_insert_with(|| HeaderValue::from(length));
                }
                (status, ResponseBody::empty())
            }
            Self::Of(Selected::Whole) => (status, content.whole()),
            // Several parts can only be assembled from a complete body.
            Self::Of(Selected::Parts(_)) if !matches!(content, Content::Stored(_)) => (status, content.whole()),
            Self::Of(Selected::Part(part)) => {
                remove_what_is_of_the_whole(&mut headers);
                headers.insert(header::CONTENT_RANGE, range::content_range(&part, length.unwrap_or(0)));
                (StatusCode::PARTIAL_CONTENT, content.part(part.start..part.end))
            }
            Self::Of(Selected::Parts(parts)) => {
                remove_what_is_of_the_whole(&mut headers);
                let boundary = format!("{:032x}", fastrand::u128(..));
                let content_type = headers.insert(header::CONTENT_TYPE, range::multipart_type(&boundary));
                (StatusCode::PARTIAL_CONTENT, content.parts(&parts, content_type.as_ref(), &boundary))
            }
            Self::Of(Selected::Unsatisfiable) => {
                remove_what_is_of_the_whole(&mut headers);
                for name in [header::CONTENT_TYPE, header::CONTENT_ENCODING] {
                    headers.remove(name);
                }
                headers.insert(header::CONTENT_RANGE, range::unsatisfied_content_range(length.unwrap_or(0)));
                (StatusCode::RANGE_NOT_SATISFIABLE, ResponseBody::empty())
            }
        };
        let mut response = Response::new(body);
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        response
    }
}
