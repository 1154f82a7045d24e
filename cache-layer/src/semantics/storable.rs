//! What may be answered from or kept in the cache (RFC 9111, section 3), and the name of every refusal.

use std::fmt;

use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderName, IF_MATCH, IF_MODIFIED_SINCE,
    IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, RANGE, SET_COOKIE, TRAILER, UPGRADE,
};
use http::{Method, StatusCode, request, response};

use super::cache_control::CacheControl;
use super::list::members;
use super::vary::Vary;

/// Keeps a reason, its documentation and its token in one place.
macro_rules! no_cache_reasons {
    ($($(#[$doc:meta])+ $variant:ident => $token:literal,)+) => {
        /// Why a request was not answered from the cache, or its response not kept.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum NoCacheReason {
            $($(#[$doc])+ $variant,)+
        }

        impl NoCacheReason {
            /// Every reason there is, as the closed set of values of a metric's label.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The reason as one token: the `detail` of `Cache-Status` and the label of a metric.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $token,)+
                }
            }
        }
    };
}

no_cache_reasons! {
    /// Neither GET nor HEAD (RFC 9111, section 3).
    Method => "method",
    /// CONNECT asks for a tunnel and has no response to keep (RFC 9110, section 9.3.6).
    ConnectMethod => "connect",
    /// The request asks to leave HTTP (RFC 9110, section 7.8).
    Upgrade => "upgrade",
    /// A GET or HEAD with content, which the key does not cover (RFC 9110, section 9.3.1).
    RequestBody => "request-body",
    /// The target has no authority, and without one hosts would share entries (RFC 9111, section 2).
    NoAuthority => "no-authority",
    /// Only a part was asked for (RFC 9110, section 14.2).
    RangeRequest => "range",
    /// The request has a precondition (RFC 9110, section 13.1).
    ConditionalRequest => "conditional",
    /// The request says `no-store` (RFC 9111, section 5.2.1.5).
    RequestNoStore => "request-no-store",
    /// No status but 200 is kept (RFC 9111, section 3).
    Status => "status",
    /// The response says `no-store` (RFC 9111, section 5.2.2.5).
    NoStore => "no-store",
    /// The response says `private` (RFC 9111, section 5.2.2.7).
    Private => "private",
    /// The response says `no-cache` (RFC 9111, section 5.2.2.4).
    NoCache => "no-cache",
    /// The request was authorised, and the response does not permit sharing (RFC 9111, section 3.5).
    Authorization => "authorization",
    /// The request has cookies, and the response does not state its own freshness.
    Cookie => "cookie",
    /// The response sets a cookie (RFC 9111, section 7.3).
    SetCookie => "set-cookie",
    /// No other request can select the response (RFC 9111, section 4.1).
    VaryStar => "vary",
    /// A stream of events has no end (`text/event-stream`).
    EventStream => "event-stream",
    /// gRPC ends in trailers and may stream without end.
    Grpc => "grpc",
    /// The content is a part, whatever the status says (RFC 9110, section 14.4).
    ContentRange => "content-range",
    /// The response has or announces trailers (RFC 9110, section 6.5).
    Trailers => "trailers",
    /// Neither the response nor a rule states how long it is fresh (RFC 9111, section 4.2.1).
    NoFreshness => "no-freshness",
    /// Its age on arrival exceeds its lifetime, or what states the lifetime is invalid (RFC 9111, section 4.2).
    AlreadyStale => "stale",
    /// A response to HEAD is forwarded and not kept (RFC 9110, section 9.3.2).
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
    /// The store did not answer in time.
    StoreUnavailable => "store-unavailable",
    /// An earlier response to the same request could not be kept.
    Remembered => "remembered",
}

impl fmt::Display for NoCacheReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why the cache must not touch a request, if it must not.
pub(crate) fn refusal_of_request(parts: &request::Parts, has_body: bool) -> Option<NoCacheReason> {
    let headers = &parts.headers;
    match parts.method {
        Method::GET | Method::HEAD => {}
        Method::CONNECT => return Some(NoCacheReason::ConnectMethod),
        _ => return Some(NoCacheReason::Method),
    }
    if asks_for_upgrade(headers) {
        return Some(NoCacheReason::Upgrade);
    }
    if has_body {
        return Some(NoCacheReason::RequestBody);
    }
    if headers.contains_key(RANGE) {
        return Some(NoCacheReason::RangeRequest);
    }
    if PRECONDITIONS.iter().any(|name| headers.contains_key(name)) {
        return Some(NoCacheReason::ConditionalRequest);
    }
    CacheControl::from_headers(headers).no_store.then_some(NoCacheReason::RequestNoStore)
}

const PRECONDITIONS: [HeaderName; 5] = [IF_MATCH, IF_NONE_MATCH, IF_MODIFIED_SINCE, IF_UNMODIFIED_SINCE, IF_RANGE];

fn asks_for_upgrade(headers: &HeaderMap) -> bool {
    headers.contains_key(UPGRADE) || members(headers, &CONNECTION).any(|member| member.eq_ignore_ascii_case(b"upgrade"))
}

/// Why a response must not be kept, if it must not. Freshness is not looked at.
pub(crate) fn refusal_of_response(
    request_headers: &HeaderMap,
    response: &response::Parts,
    cc: &CacheControl,
) -> Option<NoCacheReason> {
    let headers = &response.headers;
    if response.status != StatusCode::OK {
        return Some(NoCacheReason::Status);
    }
    // The rules of 200 are understood here, and then `must-understand` asks to disregard `no-store`.
    if cc.no_store && !cc.must_understand {
        return Some(NoCacheReason::NoStore);
    }
    if cc.private {
        return Some(NoCacheReason::Private);
    }
    if cc.no_cache {
        return Some(NoCacheReason::NoCache);
    }
    if request_headers.contains_key(AUTHORIZATION) && !permits_sharing_authorized(cc) {
        return Some(NoCacheReason::Authorization);
    }
    if headers.contains_key(SET_COOKIE) {
        return Some(NoCacheReason::SetCookie);
    }
    if Vary::from_headers(headers) == Some(Vary::Star) {
        return Some(NoCacheReason::VaryStar);
    }
    if headers.contains_key(CONTENT_RANGE) {
        return Some(NoCacheReason::ContentRange);
    }
    if headers.contains_key(TRAILER) {
        return Some(NoCacheReason::Trailers);
    }
    streaming_type(headers)
}

/// RFC 9111, section 3.5.
fn permits_sharing_authorized(cc: &CacheControl) -> bool {
    cc.public || cc.must_revalidate || cc.s_maxage.is_some_and(|age| age.seconds().is_some())
}

fn streaming_type(headers: &HeaderMap) -> Option<NoCacheReason> {
    let line = headers.get(CONTENT_TYPE)?.as_bytes();
    let media_type = line.split(|&byte| byte == b';').next()?.trim_ascii().to_ascii_lowercase();
    if media_type == b"text/event-stream" {
        Some(NoCacheReason::EventStream)
    } else if media_type.starts_with(b"application/grpc") {
        Some(NoCacheReason::Grpc)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use http::{HeaderValue, Request, Response};

    use super::NoCacheReason::{
        self, Authorization, ConditionalRequest, ConnectMethod, ContentRange, EventStream, Grpc, NoCache, NoStore,
        Private, RangeRequest, RequestBody, RequestNoStore, SetCookie, Trailers, Upgrade, VaryStar,
    };
    use super::*;

    type Fields = &'static [(&'static str, &'static str)];

    fn headers(fields: Fields) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for &(name, value) in fields {
            headers.append(name, HeaderValue::from_static(value));
        }
        headers
    }

    fn request_with(method: &str, fields: Fields) -> request::Parts {
        let (mut parts, ()) = Request::new(()).into_parts();
        parts.method = Method::from_bytes(method.as_bytes()).unwrap();
        parts.headers = headers(fields);
        parts
    }

    fn response_refusal(request: Fields, status: u16, response: Fields) -> Option<NoCacheReason> {
        let (mut parts, ()) = Response::new(()).into_parts();
        parts.status = StatusCode::from_u16(status).unwrap();
        parts.headers = headers(response);
        let cc = CacheControl::from_headers(&parts.headers);
        refusal_of_response(&headers(request), &parts, &cc)
    }

    #[test]
    fn plain_get_and_head_are_handled() {
        let fields: Fields = &[
            ("cookie", "a=b"),
            ("authorization", "Basic eA=="),
            ("cache-control", "no-cache, max-age=0"),
            ("pragma", "no-cache"),
            ("connection", "keep-alive, te"),
        ];
        for method in ["GET", "HEAD"] {
            assert_eq!(refusal_of_request(&request_with(method, &[]), false), None, "{method}");
            assert_eq!(refusal_of_request(&request_with(method, fields), false), None, "{method}");
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
            assert_eq!(refusal_of_request(&request_with(method, &[]), false), Some(expected), "{method}");
        }
    }

    #[test]
    fn requests_that_a_stored_response_cannot_answer_pass() {
        let cases: [(Fields, NoCacheReason); 11] = [
            (&[("upgrade", "websocket"), ("connection", "upgrade")], Upgrade),
            (&[("connection", "keep-alive, Upgrade")], Upgrade),
            (&[("range", "bytes=0-1")], RangeRequest),
            (&[("range", "bytes=0-1"), ("if-range", "\"a\"")], RangeRequest),
            (&[("if-match", "\"a\"")], ConditionalRequest),
            (&[("if-none-match", "*")], ConditionalRequest),
            (&[("if-modified-since", "Mon, 23 Nov 2026 00:00:00 GMT")], ConditionalRequest),
            (&[("if-unmodified-since", "Mon, 23 Nov 2026 00:00:00 GMT")], ConditionalRequest),
            (&[("if-range", "\"a\"")], ConditionalRequest),
            (&[("cache-control", "max-age=5, No-Store")], RequestNoStore),
            (&[("cache-control", "no-store, must-understand")], RequestNoStore),
        ];
        for (fields, expected) in cases {
            assert_eq!(refusal_of_request(&request_with("GET", fields), false), Some(expected), "{fields:?}");
        }
        assert_eq!(refusal_of_request(&request_with("GET", &[]), true), Some(RequestBody));
    }

    #[test]
    fn a_plain_200_is_kept() {
        let cases: [Fields; 7] = [
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
    fn no_other_status_is_kept() {
        for status in [201, 203, 204, 206, 301, 304, 404, 500, 503, 599, 999] {
            let refusal = response_refusal(&[], status, &[("cache-control", "max-age=60, must-understand")]);
            assert_eq!(refusal, Some(NoCacheReason::Status), "{status}");
        }
    }

    #[test]
    fn responses_that_must_not_be_shared_are_refused() {
        let cases: [(Fields, NoCacheReason); 16] = [
            (&[("cache-control", "no-store")], NoStore),
            (&[("cache-control", "max-age=60"), ("cache-control", "NO-STORE")], NoStore),
            (&[("cache-control", "max-age=60, private")], Private),
            (&[("cache-control", "max-age=60, private=\"x-user\"")], Private),
            (&[("cache-control", "no-store, must-understand, private")], Private),
            (&[("cache-control", "private; max-age=60")], Private),
            (&[("cache-control", "max-age=60, no-cache")], NoCache),
            (&[("cache-control", "max-age=60, no-cache=\"etag\"")], NoCache),
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
            let (mut parts, ()) = Response::new(()).into_parts();
            parts.headers.insert("cache-control", HeaderValue::from_static(line));
            let cc = CacheControl::from_headers(&parts.headers);
            let authorized = headers(&[("authorization", "Basic eA==")]);
            assert_eq!(refusal_of_response(&authorized, &parts, &cc), expected, "{line}");
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
}
