//! Which requests may be answered from the cache, which responses may be stored (RFC 9111, section 3), and the name of every
//! refusal.

use http::{
    Method, StatusCode,
    header::{
        AGE, CACHE_CONTROL, CONNECTION, CONTENT_ENCODING, CONTENT_RANGE, CONTENT_TYPE, COOKIE, EXPECT, HeaderMap,
        HeaderName, IF_MATCH, IF_UNMODIFIED_SINCE, RANGE, SET_COOKIE, TRAILER, UPGRADE, VARY,
    },
};

use super::{
    cache_control::CacheControl,
    caching_policy::{CachingPolicy, SetCookie},
    conditional::must_be_forwarded,
    content_key::has_one_type,
    freshness::{Lifetime, LifetimeSource},
    hop_by_hop,
    incremental::is_incremental,
    invalidation::{Target, represents_target},
    list::{has_any, members},
    names::{Names, Shaped, Shapes},
    one_request::is_for_one_client,
    range::has_foreign_unit,
    received::Received,
    stale_windows::Windows,
    vary::Vary,
};
use crate::labels::labels;

labels! {
    /// Why a request was not answered from the cache, or its response not stored. The name is also the `detail` of
    /// `Cache-Status`.
    pub enum NoCacheReason {
        /// Neither GET nor HEAD (RFC 9111, section 3).
        Method => "method",
        /// CONNECT asks for a tunnel and has no response to keep (RFC 9110, section 9.3.6).
        ConnectMethod => "connect",
        /// The request asks to switch to another protocol (RFC 9110, section 7.8).
        Upgrade => "upgrade",
        /// A GET or HEAD with content, which the key does not cover (RFC 9110, section 9.3.1).
        RequestBody => "request-body",
        /// The target has no authority, by which hosts are told apart (RFC 9111, section 2), or the request states more than one.
        /// A write invalidates what is stored for the first four.
        NoAuthority => "no-authority",
        /// The request is for a range in another unit than bytes, or of a response that will most likely not be stored: the
        /// application answers it (RFC 9110, section 14.2).
        RangeRequest => "range",
        /// A layer further out, over the same cache, is loading the same entry; or a call is part of a load of the same key.
        Nested => "nested",
        /// The request has a precondition that is not for caches to evaluate (RFC 9110, section 13.1).
        ConditionalRequest => "conditional",
        /// The cache is [turned off](crate::CacheLayer::enabled).
        Off => "off",
        /// An operator has turned [`BypassReads`](crate::Switch::BypassReads) on, for a while.
        Switched => "switched",
        /// A [rule](crate::Rule) says that responses are not stored, by `bypass`, or by a lifetime or a cap of zero.
        Rule => "rule",
        /// A [hint](crate::Hints::bypass) of a layer outside says that the request bypasses the cache.
        Hint => "hint",
        /// [`bypass_if`](crate::CacheLayer::bypass_if) says that the request bypasses the cache.
        BypassIf => "bypass-if",
        /// The application may read the path differently than the [rules](crate::Rule) do (RFC 3986, section 6.2.2).
        UnclearPath => "unclear-path",
        /// The request says `no-store` (RFC 9111, section 5.2.1.5).
        RequestNoStore => "request-no-store",
        /// The request demands a stored response and there is none (RFC 9111, section 5.2.1.7).
        OnlyIfCached => "only-if-cached",
        /// The application's 304 is about another response than the stored one (RFC 9111, section 4.3.4). The next
        /// request asks for the whole response.
        Unmatched => "unmatched",
        /// Responses with this status are not stored, `must-understand` applies and the status is not understood (RFC 9111,
        /// section 3), or no rule covers the status.
        Status => "status",
        /// The response says `no-store` (RFC 9111, section 5.2.2.5).
        NoStore => "no-store",
        /// The response says `private` (RFC 9111, section 5.2.2.7).
        Private => "private",
        /// The response says `no-cache` and has no validator (RFC 9111, section 5.2.2.4).
        NoCache => "no-cache",
        /// The request has [credentials](crate::CacheLayer::credentials), and the response does not permit sharing (RFC 9111,
        /// section 3.5).
        Authorization => "authorization",
        /// The request has cookies, and the response does not state its own freshness; or one of them
        /// [bypasses](crate::CacheLayer::bypass_on_cookies) the cache.
        Cookie => "cookie",
        /// One of the response's fields is meant for one client (`Clear-Site-Data`, a token against forged requests, the nonce
        /// of a Content Security Policy), and the response does not state its own freshness.
        OneClient => "one-client",
        /// [`keep_if`](crate::CacheLayer::keep_if) says that the response is not to be stored.
        KeepIf => "keep-if",
        /// The response sets a cookie (RFC 9111, section 7.3).
        SetCookie => "set-cookie",
        /// No other request can select the response (RFC 9111, section 4.1).
        VaryStar => "vary",
        /// A stream of events has no end (`text/event-stream`).
        EventStream => "event-stream",
        /// gRPC ends in trailers and may stream without end.
        Grpc => "grpc",
        /// The response has `Content-Range`, so its content may be a part, whatever the status (RFC 9110, section 14.4).
        ContentRange => "content-range",
        /// The response has or announces trailers (RFC 9110, section 6.5).
        Trailers => "trailers",
        /// Neither the response nor a rule states how long it is fresh (RFC 9111, section 4.2.1).
        NoFreshness => "no-freshness",
        /// The response's age on arrival exceeds its lifetime, or its lifetime is stated in an invalid way, and nothing permits
        /// its stale use (RFC 9111, section 4.2).
        AlreadyStale => "stale",
        /// The content would be part of the key, but the request does not have exactly one readable `Content-Type` (RFC 10008,
        /// section 2).
        ContentType => "content-type",
        /// The content would be part of the key, but is longer than the limit.
        ContentTooLarge => "content-too-large",
        /// The content would be part of the key, but was incomplete, too slow, or of another length than announced.
        ContentUnread => "content-unread",
        /// The client waits for a 100 (Continue) before it sends its content (RFC 9110, section 10.1.1).
        Expect => "expect",
        /// The message is to be passed on as it arrives (RFC 10036).
        Incremental => "incremental",
        /// The response is an error in answer to a prefetch (`Sec-Purpose`), and so about that request alone.
        SecPurpose => "sec-purpose",
        /// The content can be read only with a dictionary that few clients have (RFC 9842).
        Dictionary => "dictionary",
        /// A response to HEAD is forwarded and not stored (RFC 9110, section 9.3.2).
        HeadMiss => "head",
        /// The content exceeds the limit.
        BodyTooLarge => "body-too-large",
        /// The content did not have the length that was announced (RFC 9111, section 3.3).
        BodyTruncated => "body-truncated",
        /// The content ended in an error (RFC 9111, section 3.3).
        BodyFailed => "body-failed",
        /// The service failed and gave no response.
        ServiceFailed => "service-failed",
        /// An invalidation, or another load, overtook this one.
        LeaseLost => "lease-lost",
        /// Another request's load of the same key took too long to wait for.
        WaitedTooLong => "waited-too-long",
        /// More tags, or longer ones, than an entry can carry.
        TooManyTags => "too-many-tags",
        /// More than 1,000 header fields.
        TooManyFields => "too-many-fields",
        /// The store did not answer in time.
        StoreUnavailable => "store-unavailable",
        /// The store is full, and evicts nothing.
        StoreFull => "store-full",
        /// An operator has turned [`StopFills`](crate::Switch::StopFills) on, for a while.
        FillsStopped => "fills-stopped",
        /// It was the first load of its key, and results are stored from the second load on
        /// ([`CacheBuilder::second_sight`](crate::CacheBuilder::second_sight)).
        FirstSight => "first-sight",
        /// The store can't keep up: too many entries are already on their way to it.
        StoreBusy => "store-busy",
        /// The load was cancelled, because no request waited for it any more.
        Abandoned => "abandoned",
        /// No place at the application became free while the request waited.
        Overloaded => "overloaded",
        /// An earlier response to the same request could not be stored, in the last 5 s. Where something is stored that varies
        /// (`Vary`), this is about one variant; otherwise it is about all requests with the key. `Cache-Status` also names the
        /// reason for that, if this process knows it: `remembered/set-cookie`.
        Remembered => "remembered",
        /// The application failed recently, and the key is in back-off.
        BackedOff => "backed-off",
        /// The response or value was made from a stored one that is stale, or that may have been invalidated meanwhile.
        MadeFromStale => "made-from-stale",
        /// The cache's codec can't write the value, or the value's type can't read it back.
        Unserializable => "unserializable",
        /// The request states the default port, which the application may have repeated in its response.
        StatedPort => "stated-port",
        /// The response redirects to its own key, as from `http` to `https` where both share stored responses
        /// ([`schemes_apart`](crate::CacheLayer::schemes_apart)): if it were stored, its clients would be redirected in a circle.
        RedirectToItself => "redirect-to-itself",
        /// By the clock that freshness is judged by, the stored response was made in the future: its age is unknown.
        FromTheFuture => "from-the-future",
    }
}

static SEC_PURPOSE: HeaderName = HeaderName::from_static("sec-purpose");

/// Request fields that may prevent the cache from handling a request.
static TELLING: [HeaderName; 6] = [UPGRADE, CONNECTION, RANGE, IF_MATCH, IF_UNMODIFIED_SINCE, CACHE_CONTROL];

/// Why the cache must not handle a request, if it must not.
pub(crate) fn refusal_of_request(method: &Method, headers: &HeaderMap, has_body: bool) -> Option<NoCacheReason> {
    match *method {
        Method::GET | Method::HEAD => {}
        Method::CONNECT => return Some(NoCacheReason::ConnectMethod),
        _ => return Some(NoCacheReason::Method),
    }
    if !has_any(headers, &TELLING) {
        return has_body.then_some(NoCacheReason::RequestBody);
    }
    if asks_for_upgrade(headers) {
        return Some(NoCacheReason::Upgrade);
    }
    if has_body {
        return Some(NoCacheReason::RequestBody);
    }
    if has_foreign_unit(headers) {
        return Some(NoCacheReason::RangeRequest);
    }
    if must_be_forwarded(headers) {
        return Some(NoCacheReason::ConditionalRequest);
    }
    CacheControl::from_headers(headers).no_store.then_some(NoCacheReason::RequestNoStore)
}

/// Why a request with content, which would be part of its key, must not be answered from the cache, nor its response stored, as
/// far as that is known before the content is read.
pub(crate) fn refusal_of_request_with_content(headers: &HeaderMap, reads_expected: bool) -> Option<NoCacheReason> {
    if asks_for_upgrade(headers) {
        return Some(NoCacheReason::Upgrade);
    }
    if !has_one_type(headers) {
        return Some(NoCacheReason::ContentType);
    }
    for (name, reason) in [
        (CONTENT_RANGE, NoCacheReason::ContentRange),
        (TRAILER, NoCacheReason::Trailers),
        (IF_MATCH, NoCacheReason::ConditionalRequest),
        (IF_UNMODIFIED_SINCE, NoCacheReason::ConditionalRequest),
    ] {
        if headers.contains_key(name) {
            return Some(reason);
        }
    }
    // Reading the content tells the client to send it.
    if headers.contains_key(EXPECT) && !reads_expected {
        return Some(NoCacheReason::Expect);
    }
    if is_incremental(headers) {
        return Some(NoCacheReason::Incremental);
    }
    if has_foreign_unit(headers) {
        return Some(NoCacheReason::RangeRequest);
    }
    CacheControl::from_headers(headers).no_store.then_some(NoCacheReason::RequestNoStore)
}

fn asks_for_upgrade(headers: &HeaderMap) -> bool {
    headers.contains_key(UPGRADE) || members(headers, &CONNECTION).any(|option| option.eq_ignore_ascii_case(b"upgrade"))
}

/// Response fields that may prevent a response from being stored.
const REFUSING: Shapes =
    Shapes::of_each(&["set-cookie", "vary", "content-range", "trailer", "incremental", "content-encoding"]);

/// Why a response must not be stored, whatever its freshness.
pub(crate) fn refusal_of_response(
    policy: &CachingPolicy,
    request_headers: &HeaderMap,
    received: &Received<'_>,
) -> Option<NoCacheReason> {
    let (headers, cc) = (received.headers, &received.directives.cache_control);
    if let Some(reason) = refusal_of_status(received.status, cc) {
        return Some(reason);
    }
    if cc.private {
        return Some(NoCacheReason::Private);
    }
    if !policy.private && policy.has_credentials(request_headers) && !permits_sharing_authorized(cc) {
        return Some(NoCacheReason::Authorization);
    }
    if is_refusal_to_prefetch(request_headers, received.status) {
        return Some(NoCacheReason::SecPurpose);
    }
    if !received.names.may_meet(REFUSING) {
        return streaming_type(headers);
    }
    if headers.contains_key(SET_COOKIE) && policy.set_cookie == SetCookie::Refuse {
        return Some(NoCacheReason::SetCookie);
    }
    if Vary::from_headers(headers) == Some(Vary::Star) {
        return Some(NoCacheReason::VaryStar);
    }
    if headers.contains_key(CONTENT_RANGE) && !policy.stray_content_range {
        return Some(NoCacheReason::ContentRange);
    }
    if headers.contains_key(TRAILER) {
        return Some(NoCacheReason::Trailers);
    }
    if is_incremental(headers) {
        return Some(NoCacheReason::Incremental);
    }
    if needs_dictionary(headers) {
        return Some(NoCacheReason::Dictionary);
    }
    streaming_type(headers)
}

/// Whether the response may be an answer to a prefetch only, and not meant for any other request (Preliminary Request Denied).
fn is_refusal_to_prefetch(request: &HeaderMap, status: StatusCode) -> bool {
    (status.is_client_error() || status == StatusCode::SERVICE_UNAVAILABLE) && request.contains_key(&SEC_PURPOSE)
}

/// Whether the content can be read only with a dictionary, or was chosen by one: each dictionary that a client has would make a
/// variant (RFC 9842, section 6).
fn needs_dictionary(headers: &HeaderMap) -> bool {
    let by_dictionary = |coding: &[u8]| coding.eq_ignore_ascii_case(b"dcb") || coding.eq_ignore_ascii_case(b"dcz");
    members(headers, &CONTENT_ENCODING).any(by_dictionary)
        || members(headers, &VARY).any(|name| name.eq_ignore_ascii_case(b"available-dictionary"))
}

/// Why a response that could otherwise be stored is not, for lack of freshness.
///
/// `ruled`: a rule states a lifetime for successful responses, even if this is not one.
pub(crate) fn refusal_of_freshness(
    policy: &CachingPolicy,
    request_headers: &HeaderMap,
    received: &Received<'_>,
    lifetime: Option<Lifetime>,
    windows: &Windows,
    ruled: bool,
) -> Option<NoCacheReason> {
    let cc = &received.directives.cache_control;
    // `no-cache` states a freshness, too: none.
    if lifetime.is_none() && !cc.no_cache {
        return Some(if ruled { NoCacheReason::Status } else { NoCacheReason::NoFreshness });
    }
    // No window for stale use brings back what a setting forbids to store.
    if !cc.no_cache && lifetime.is_some_and(|lifetime| lifetime.is_forbidden(policy)) {
        return Some(NoCacheReason::Rule);
    }
    if !windows.are_worth_storing(received.response_time) {
        return Some(if cc.no_cache { NoCacheReason::NoCache } else { NoCacheReason::AlreadyStale });
    }
    if lifetime.is_none_or(|lifetime| lifetime.source == LifetimeSource::Response) {
        return None;
    }
    // Neither a rule nor an estimate can know whether the application used a cookie, or for which client it made the response.
    // In a private cache, cookies are part of the key.
    if !policy.private && request_headers.contains_key(COOKIE) {
        return Some(NoCacheReason::Cookie);
    }
    is_for_one_client(received.headers).then_some(NoCacheReason::OneClient)
}

/// Whether a response to POST that is not refused may be stored for GET of its target (RFC 9110, section 9.3.3).
pub(crate) fn post_answers_get(
    policy: &CachingPolicy,
    target: Target<'_>,
    received: &Received<'_>,
    lifetime: Option<Lifetime>,
) -> bool {
    let stated = lifetime.is_some_and(|lifetime| lifetime.source == LifetimeSource::Response);
    policy.post_for_get && stated && received.status.is_success() && represents_target(target, received.headers)
}

/// A predicate on a field: whether the field is stored (RFC 9111, section 3.1). Fields with the given names are not. `Age` is kept
/// separately.
pub(crate) fn is_stored_field<'a>(
    policy: &CachingPolicy,
    not_stored: &'a Names,
    headers: &HeaderMap,
) -> impl Fn(Shaped<'_>) -> bool + use<'a> {
    const APART: Shapes = Shapes::of_each(&["age", "set-cookie"]);
    let is_end_to_end = hop_by_hop::is_end_to_end(headers);
    let strips_cookies = policy.set_cookie == SetCookie::Strip;
    move |field| {
        let Shaped { name, text, shape } = field;
        let is_apart = || *name == AGE || (strips_cookies && *name == SET_COOKIE);
        is_end_to_end(field) && !(shape.may_meet(APART) && is_apart()) && !not_stored.has_shaped(text.as_bytes(), shape)
    }
}

/// The statuses whose requirements on caches are met here (RFC 9111, section 5.2.2.3).
const UNDERSTOOD_STATUSES: [u16; 24] = [
    200, 203, 204, 300, 301, 302, 303, 307, 308, 400, 401, 403, 404, 405, 410, 414, 421, 451, 500, 501, 502, 503, 504,
    505,
];

fn refusal_of_status(status: StatusCode, cc: &CacheControl) -> Option<NoCacheReason> {
    // A part or a 304 can't answer later requests.
    if status.is_informational() || matches!(status, StatusCode::PARTIAL_CONTENT | StatusCode::NOT_MODIFIED) {
        return Some(NoCacheReason::Status);
    }
    if cc.must_understand {
        let understood = UNDERSTOOD_STATUSES.contains(&status.as_u16());
        return (!understood).then_some(NoCacheReason::Status);
    }
    cc.no_store.then_some(NoCacheReason::NoStore)
}

/// Whether a response says what its target is now, so that it can be compared with a stored one; `refusal` is why it would not be
/// stored in that one's place. An error of the moment says nothing, and neither does what would not be stored, such as a
/// response that is degraded, and says `no-store`; unless it is longer than any stored one, or the target is gone, or moved for
/// good.
pub(crate) fn says_what_is_there(status: StatusCode, refusal: Option<NoCacheReason>) -> bool {
    let is_of_the_moment = status.is_server_error() || matches!(status.as_u16(), 408 | 425 | 429);
    match refusal {
        _ if is_of_the_moment => false,
        None | Some(NoCacheReason::BodyTooLarge) => true,
        // About one request, or about what was there before.
        Some(
            NoCacheReason::SecPurpose
            | NoCacheReason::StatedPort
            | NoCacheReason::RedirectToItself
            | NoCacheReason::MadeFromStale,
        ) => false,
        Some(_) => matches!(status.as_u16(), 301 | 308 | 404 | 410),
    }
}

/// Whether a response with this status has no `Content-Length`, not even in answer to HEAD (RFC 9110, section 8.6).
pub(crate) fn forbids_length(status: StatusCode) -> bool {
    status.is_informational() || status == StatusCode::NO_CONTENT
}

/// RFC 9111, section 3.5.
fn permits_sharing_authorized(cc: &CacheControl) -> bool {
    cc.public || cc.must_revalidate || cc.s_maxage.is_some_and(|age| age.seconds().is_some())
}

/// Whether this is a message of gRPC or gRPC-Web.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    streaming_type(headers) == Some(NoCacheReason::Grpc)
}

fn streaming_type(headers: &HeaderMap) -> Option<NoCacheReason> {
    let line = headers.get(CONTENT_TYPE)?.as_bytes().trim_ascii_start();
    if after(b"application/grpc", line).is_some() {
        return Some(NoCacheReason::Grpc);
    }
    let rest = after(b"text/event-stream", line)?.trim_ascii_start();
    matches!(rest, [] | [b';', ..]).then_some(NoCacheReason::EventStream)
}

/// The rest of a line that begins like this, in upper or lower case.
fn after<'a>(beginning: &[u8], line: &'a [u8]) -> Option<&'a [u8]> {
    let (begin, rest) = line.split_at_checked(beginning.len())?;
    begin.eq_ignore_ascii_case(beginning).then_some(rest)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use http::HeaderValue;
    use proptest::prelude::*;

    use super::NoCacheReason::{
        self, Authorization, ConditionalRequest, ConnectMethod, ContentRange, EventStream, Grpc, NoCache, NoStore,
        Private, RangeRequest, RequestBody, RequestNoStore, SetCookie, Trailers, Upgrade, VaryStar,
    };
    use super::*;
    use crate::semantics::{
        caching_policy::SetCookie as OnSetCookie,
        freshness::{initial_age, lifetime},
        sites::Sites,
        targeted::ResponseDirectives,
        test_fields::{Fields, headers},
    };

    fn request_refusal(method: &str, fields: Fields<'_>, has_body: bool) -> Option<NoCacheReason> {
        refusal_of_request(&Method::from_bytes(method.as_bytes()).unwrap(), &headers(fields), has_body)
    }

    fn refusal_under(
        policy: &CachingPolicy,
        request: Fields<'_>,
        status: u16,
        response: Fields<'_>,
    ) -> Option<NoCacheReason> {
        let (status, response) = (StatusCode::from_u16(status).unwrap(), headers(response));
        let directives = policy.directives(&response);
        refusal_of_response(policy, &headers(request), &Received::at(NOW, status, &response, &directives))
    }

    fn response_refusal(request: Fields<'_>, status: u16, response: Fields<'_>) -> Option<NoCacheReason> {
        refusal_under(&CachingPolicy::safe(), request, status, response)
    }

    #[test]
    fn what_is_there_is_said_by_what_would_be_stored_or_is_gone() {
        let says = |refusal| {
            let all =
                (200..600).filter(move |status| says_what_is_there(StatusCode::from_u16(*status).unwrap(), refusal));
            all.collect::<Vec<u16>>()
        };
        let all_but_errors_of_the_moment: Vec<u16> =
            (200..500).filter(|status| ![408, 425, 429].contains(status)).collect();
        assert_eq!(says(None), all_but_errors_of_the_moment);
        assert_eq!(says(Some(NoCacheReason::BodyTooLarge)), all_but_errors_of_the_moment);
        for refusal in [NoStore, Private, SetCookie, NoCacheReason::NoFreshness, NoCacheReason::AlreadyStale] {
            assert_eq!(says(Some(refusal)), [301, 308, 404, 410], "{refusal:?}");
        }
        for refusal in [NoCacheReason::SecPurpose, NoCacheReason::StatedPort, NoCacheReason::MadeFromStale] {
            assert!(says(Some(refusal)).is_empty(), "{refusal:?}");
        }
    }

    const NOW: u64 = 1_795_392_000_000;

    /// All questions about a response in their order, as the layer asks them.
    fn whole_refusal(
        policy: &CachingPolicy,
        request: Fields<'_>,
        status: u16,
        response: Fields<'_>,
    ) -> Option<NoCacheReason> {
        let (request, response) = (headers(request), headers(response));
        let status = StatusCode::from_u16(status).unwrap();
        let directives = policy.directives(&response);
        let received = Received::at(NOW, status, &response, &directives);
        refusal_of_response(policy, &request, &received).or_else(|| {
            let lifetime = lifetime(policy, &received, None);
            let windows = Windows::new(policy, &received, lifetime, initial_age(&received));
            refusal_of_freshness(policy, &request, &received, lifetime, &windows, false)
        })
    }

    #[test]
    fn plain_get_and_head_are_handled() {
        let fields: Fields<'_> = &[
            ("cookie", "a=b"),
            ("authorization", "Basic eA=="),
            ("cache-control", "no-cache, max-age=0"),
            ("pragma", "no-cache"),
            ("connection", "keep-alive, te"),
        ];
        for method in ["GET", "HEAD"] {
            assert_eq!(request_refusal(method, &[], false), None, "{method}");
            assert_eq!(request_refusal(method, fields, false), None, "{method}");
        }
    }

    #[test]
    fn other_methods_pass() {
        for (method, expected) in [
            ("POST", NoCacheReason::Method),
            ("OPTIONS", NoCacheReason::Method),
            ("QUERY", NoCacheReason::Method),
            ("get", NoCacheReason::Method),
            ("CONNECT", ConnectMethod),
        ] {
            assert_eq!(request_refusal(method, &[], false), Some(expected), "{method}");
        }
    }

    #[test]
    fn requests_that_a_stored_response_cannot_answer_pass() {
        let cases: [(Fields<'_>, NoCacheReason); 8] = [
            (&[("upgrade", "websocket"), ("connection", "upgrade")], Upgrade),
            (&[("upgrade", "websocket")], Upgrade),
            (&[("connection", "keep-alive, Upgrade")], Upgrade),
            (&[("range", "seconds=0-1")], RangeRequest),
            (&[("if-match", "\"a\"")], ConditionalRequest),
            (&[("if-unmodified-since", "Mon, 23 Nov 2026 00:00:00 GMT")], ConditionalRequest),
            (&[("cache-control", "max-age=5, No-Store")], RequestNoStore),
            (&[("cache-control", "no-store, must-understand")], RequestNoStore),
        ];
        for (fields, expected) in cases {
            assert_eq!(request_refusal("GET", fields, false), Some(expected), "{fields:?}");
        }
        assert_eq!(request_refusal("GET", &[], true), Some(RequestBody));
    }

    #[test]
    fn parts_and_preconditions_are_answered_from_the_whole() {
        let cases: [Fields<'_>; 4] = [
            &[("range", "bytes=0-1")],
            &[("range", "bytes=0-1,4-5"), ("if-range", "\"a\"")],
            &[("if-none-match", "*")],
            &[("if-modified-since", "Mon, 23 Nov 2026 00:00:00 GMT")],
        ];
        for fields in cases {
            assert_eq!(request_refusal("GET", fields, false), None, "{fields:?}");
        }
    }

    #[test]
    fn a_plain_200_is_kept() {
        let cases: [Fields<'_>; 7] = [
            &[],
            &[("cache-control", "max-age=60, must-revalidate, proxy-revalidate, no-transform")],
            &[("cache-control", "no-store, must-understand")],
            &[("pragma", "no-cache")],
            &[("vary", "accept, cookie")],
            &[("content-type", "text/html; charset=utf-8")],
            &[("cache-control", "extension=\"no-store, private\"")],
        ];
        for response in cases {
            assert_eq!(response_refusal(&[("cookie", "a=b")], 200, response), None, "{response:?}");
        }
    }

    #[test]
    fn any_final_status_is_kept_but_parts_and_validations() {
        const FRESH: Fields<'_> = &[("cache-control", "max-age=60")];
        for policy in [CachingPolicy::safe(), CachingPolicy::strict()] {
            for status in
                [200, 203, 204, 299, 301, 302, 303, 307, 308, 400, 404, 410, 499, 500, 502, 503, 504, 599, 999]
            {
                assert_eq!(whole_refusal(&policy, &[], status, FRESH), None, "{status}");
                let stale = whole_refusal(&policy, &[], status, &[("expires", "0")]);
                assert_eq!(stale, expected_for_stale(&policy), "{status}");
            }
            for status in [100, 103, 206, 304] {
                assert_eq!(whole_refusal(&policy, &[], status, FRESH), Some(NoCacheReason::Status), "{status}");
            }
        }
    }

    /// Without a reachable application, even a stale response is of use by the letter.
    fn expected_for_stale(policy: &CachingPolicy) -> Option<NoCacheReason> {
        (policy.stale_if_disconnected == 0).then_some(NoCacheReason::AlreadyStale)
    }

    #[test]
    fn what_must_be_understood_is_kept_by_its_status() {
        for (status, line, expected) in [
            (200, "max-age=60, no-store, must-understand", None),
            (404, "max-age=60, no-store, must-understand", None),
            (599, "max-age=60, no-store, must-understand", Some(NoCacheReason::Status)),
            (299, "max-age=60, must-understand", Some(NoCacheReason::Status)),
            (299, "max-age=60", None),
            (206, "max-age=60, must-understand", Some(NoCacheReason::Status)),
            (200, "no-store", Some(NoStore)),
        ] {
            assert_eq!(response_refusal(&[], status, &[("cache-control", line)]), expected, "{status} {line}");
        }
    }

    #[test]
    fn a_cookie_is_refused_stripped_or_kept_by_choice() {
        const COOKIE: Fields<'_> = &[("cache-control", "public, max-age=60"), ("set-cookie", "a=b"), ("age", "5")];
        for (set_cookie, refusal, kept) in [
            (OnSetCookie::Refuse, Some(NoCacheReason::SetCookie), true),
            (OnSetCookie::Strip, None, false),
            (OnSetCookie::Keep, None, true),
        ] {
            let policy = CachingPolicy { set_cookie, ..CachingPolicy::safe() };
            assert_eq!(whole_refusal(&policy, &[], 200, COOKIE), refusal, "{set_cookie:?}");
            let (came, no_names) = (headers(COOKIE), Names::default());
            let is_stored = is_stored_field(&policy, &no_names, &came);
            let stored = |name| is_stored(Shaped::from(&HeaderName::from_static(name)));
            assert_eq!(stored("set-cookie"), kept, "{set_cookie:?}");
            assert!(stored("cache-control") && !stored("age"));
        }
    }

    #[test]
    fn a_stray_content_range_is_kept_by_choice() {
        const STRAY: Fields<'_> = &[("cache-control", "max-age=60"), ("content-range", "abc")];
        assert_eq!(whole_refusal(&CachingPolicy::safe(), &[], 200, STRAY), Some(ContentRange));
        assert_eq!(whole_refusal(&CachingPolicy::strict(), &[], 200, STRAY), None);
    }

    #[test]
    fn a_targeted_field_decides_alone() {
        const FRESH: Fields<'_> = &[("cache-control", "no-store"), ("cdn-cache-control", "max-age=10000")];
        assert_eq!(whole_refusal(&CachingPolicy::strict(), &[], 200, FRESH), None);
        assert_eq!(whole_refusal(&CachingPolicy::safe(), &[], 200, FRESH), Some(NoStore));
        let cases: [(Fields<'_>, NoCacheReason); 4] = [
            (&[("cache-control", "max-age=9"), ("cdn-cache-control", "no-store")], NoStore),
            (&[("cache-control", "max-age=9"), ("cdn-cache-control", "private")], Private),
            (&[("cache-control", "max-age=9"), ("cdn-cache-control", "no-cache")], NoCache),
            (&[("cache-control", "no-store"), ("cdn-cache-control", "max-age=10000, &&&&&")], NoStore),
        ];
        for (fields, expected) in cases {
            assert_eq!(whole_refusal(&CachingPolicy::strict(), &[], 200, fields), Some(expected), "{fields:?}");
        }
    }

    #[test]
    fn what_must_be_validated_is_kept_if_it_can_be() {
        let cases: [(Fields<'_>, Option<NoCacheReason>); 5] = [
            (&[("cache-control", "no-cache"), ("etag", "\"a\"")], None),
            (&[("cache-control", "no-cache"), ("last-modified", "Mon, 23 Nov 2020 00:00:00 GMT")], None),
            (&[("cache-control", "max-age=60, No-CaChE"), ("etag", "\"a\"")], None),
            (&[("cache-control", "max-age=60, no-cache=\"a\"")], Some(NoCache)),
            (&[("cache-control", "no-cache")], Some(NoCache)),
        ];
        for (fields, expected) in cases {
            assert_eq!(whole_refusal(&CachingPolicy::safe(), &[], 200, fields), expected, "{fields:?}");
        }
    }

    #[test]
    fn freshness_must_be_stated_or_estimated() {
        const MODIFIED: Fields<'_> = &[("last-modified", "Mon, 23 Nov 2020 00:00:00 GMT")];
        let (safe, strict) = (CachingPolicy::safe(), CachingPolicy::strict());
        assert_eq!(whole_refusal(&safe, &[], 200, &[("etag", "\"a\"")]), Some(NoCacheReason::NoFreshness));
        assert_eq!(whole_refusal(&safe, &[], 200, &[("cache-control", "public")]), Some(NoCacheReason::NoFreshness));
        assert_eq!(whole_refusal(&safe, &[], 200, MODIFIED), Some(NoCacheReason::NoFreshness));
        assert_eq!(whole_refusal(&strict, &[], 200, MODIFIED), None);
        assert_eq!(whole_refusal(&strict, &[], 599, MODIFIED), Some(NoCacheReason::NoFreshness));
        assert_eq!(whole_refusal(&safe, &[], 200, &[("cache-control", "max-age=0"), ("etag", "\"a\"")]), None);
    }

    #[test]
    fn an_estimate_does_not_share_what_may_depend_on_a_cookie() {
        const MODIFIED: Fields<'_> = &[("last-modified", "Mon, 23 Nov 2020 00:00:00 GMT")];
        let strict = CachingPolicy::strict();
        assert_eq!(whole_refusal(&strict, &[("cookie", "a=b")], 200, MODIFIED), Some(NoCacheReason::Cookie));
        assert_eq!(whole_refusal(&strict, &[("cookie", "a=b")], 200, &[("cache-control", "max-age=60")]), None);
        let no_cache: Fields<'_> = &[("cache-control", "no-cache"), ("etag", "\"a\"")];
        assert_eq!(whole_refusal(&strict, &[("cookie", "a=b")], 200, no_cache), None);
    }

    #[test]
    fn responses_that_must_not_be_shared_are_refused() {
        let cases: [(Fields<'_>, NoCacheReason); 14] = [
            (&[("cache-control", "no-store")], NoStore),
            (&[("cache-control", "max-age=60"), ("cache-control", "NO-STORE")], NoStore),
            (&[("cache-control", "max-age=60, private")], Private),
            (&[("cache-control", "max-age=60, private=\"x-user\"")], Private),
            (&[("cache-control", "no-store, must-understand, private")], Private),
            (&[("cache-control", "private; max-age=60")], Private),
            (&[("cache-control", "public, max-age=60"), ("set-cookie", "a=b")], SetCookie),
            (&[("vary", "accept, *")], VaryStar),
            (&[("content-type", "Text/Event-Stream; charset=utf-8")], EventStream),
            (&[("content-type", "application/grpc")], Grpc),
            (&[("content-type", "application/grpc+proto")], Grpc),
            (&[("content-type", "application/grpc-web+proto")], Grpc),
            (&[("content-range", "bytes 0-1/10")], ContentRange),
            (&[("trailer", "expires")], Trailers),
        ];
        for (response, expected) in cases {
            assert_eq!(response_refusal(&[], 200, response), Some(expected), "{response:?}");
        }
    }

    #[test]
    fn an_authorized_response_is_shared_only_by_permission() {
        for (line, expected) in [
            ("max-age=60", Some(Authorization)),
            ("max-age=60, proxy-revalidate", Some(Authorization)),
            ("max-age=60, s-maxage=soon", Some(Authorization)),
            ("max-age=60, public=no", Some(Authorization)),
            ("max-age=60, public", None),
            ("max-age=60, must-revalidate", None),
            ("s-maxage=60", None),
            ("public, private", Some(Private)),
        ] {
            assert_eq!(response_refusal(&[("authorization", "Basic eA==")], 200, &[("cache-control", line)]), expected);
        }
    }

    #[test]
    fn every_reason_has_its_own_token() {
        let tokens: HashSet<_> = NoCacheReason::ALL.iter().map(|reason| reason.as_str()).collect();
        assert_eq!(tokens.len(), NoCacheReason::ALL.len());
        for token in tokens {
            assert!(token.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-'), "{token}");
        }
    }

    #[test]
    fn a_post_answers_get_on_its_terms() {
        let sites = Sites::default();
        let target = Target { sites: &sites, scheme: "http", authority: "a.example", path_and_query: "/a" };
        let lifetime = |source| Some(Lifetime { millis: 60_000, source });
        let stated = lifetime(LifetimeSource::Response);
        let named = headers(&[("content-location", "/a")]);
        let answers = |policy: &CachingPolicy, status, headers: &HeaderMap, lifetime| {
            let directives = ResponseDirectives::default();
            post_answers_get(policy, target, &Received::at(NOW, status, headers, &directives), lifetime)
        };
        let strict = CachingPolicy::strict();
        assert!(answers(&strict, StatusCode::OK, &named, stated));
        assert!(!answers(&CachingPolicy::safe(), StatusCode::OK, &named, stated));
        assert!(!answers(&strict, StatusCode::SEE_OTHER, &named, stated));
        assert!(!answers(&strict, StatusCode::OK, &headers(&[("content-location", "/b")]), stated));
        assert!(!answers(&strict, StatusCode::OK, &HeaderMap::new(), stated));
        assert!(!answers(&strict, StatusCode::OK, &named, lifetime(LifetimeSource::Rule)));
        assert!(!answers(&strict, StatusCode::OK, &named, None));
    }

    proptest! {
        #[test]
        fn no_policy_shares_what_is_private_or_not_to_be_stored(
            status in 100..1000_u16,
            restriction in prop::sample::select(vec!["no-store", "private", "private=\"x\""]),
            strict: bool,
        ) {
            let policy = if strict { CachingPolicy::strict() } else { CachingPolicy::safe() };
            let mut response = HeaderMap::new();
            let line = format!("public, s-maxage=60, {restriction}, stale-if-error=60");
            response.insert("cache-control", HeaderValue::from_str(&line).unwrap());
            let directives = policy.directives(&response);
            let status = StatusCode::from_u16(status).unwrap();
            let received = Received::at(NOW, status, &response, &directives);
            let refusal = refusal_of_response(&policy, &HeaderMap::new(), &received);
            prop_assert!(refusal.is_some());
        }
    }
}
