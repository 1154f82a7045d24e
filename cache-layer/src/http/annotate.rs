//! What the cache says about itself in a response: `X-Cache`, `X-Cache-Age`, `Age` and `Cache-Status`.

use http::{HeaderMap, HeaderName, HeaderValue, header::AGE};

use crate::{
    semantics::cache_status::{CacheName, CacheStatus, ForwardReason, Outcome},
    telemetry::NoCacheReason,
};

const X_CACHE: HeaderName = HeaderName::from_static("x-cache");
const X_CACHE_AGE: HeaderName = HeaderName::from_static("x-cache-age");
const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// The request was answered from the cache.
pub(super) fn hit(headers: &mut HeaderMap, name: &CacheName, hit: &Hit) {
    headers.insert(AGE, number(hit.age));
    headers.insert(X_CACHE_AGE, number(hit.resident));
    headers.insert(X_CACHE, HeaderValue::from_static("HIT"));
    let outcome = if hit.collapsed {
        Outcome::Forward { why: ForwardReason::UriMiss, status: None, stored: false, collapsed: true }
    } else {
        Outcome::Hit { ttl: hit.ttl }
    };
    status(headers, name, outcome, None);
}

/// What there is to say about a hit, in seconds.
pub(super) struct Hit {
    pub(super) age: u64,
    pub(super) resident: u64,
    pub(super) ttl: i64,
    /// It waited for another request's load.
    pub(super) collapsed: bool,
}

/// The request went to the application, since nothing stored could answer it.
pub(super) fn miss(headers: &mut HeaderMap, name: &CacheName, why: ForwardReason, not_stored: Option<NoCacheReason>) {
    headers.insert(X_CACHE, HeaderValue::from_static("MISS"));
    let outcome = Outcome::Forward { why, status: None, stored: not_stored.is_none(), collapsed: false };
    status(headers, name, outcome, not_stored);
}

/// The request was not looked up.
pub(super) fn bypass(headers: &mut HeaderMap, name: &CacheName, reason: NoCacheReason) {
    headers.insert(X_CACHE, HeaderValue::from_static("BYPASS"));
    let why = match reason {
        NoCacheReason::Method | NoCacheReason::ConnectMethod => ForwardReason::Method,
        _ => ForwardReason::Bypass,
    };
    let outcome = Outcome::Forward { why, status: None, stored: false, collapsed: false };
    status(headers, name, outcome, Some(reason));
}

/// Takes out what an earlier pass through a cache of this kind, or an application that plays one, wrote: it must not be
/// replayed with every hit.
pub(super) fn clear(headers: &mut HeaderMap) {
    for name in [X_CACHE, X_CACHE_AGE, CACHE_STATUS] {
        headers.remove(name);
    }
}

fn status(headers: &mut HeaderMap, name: &CacheName, outcome: Outcome, detail: Option<NoCacheReason>) {
    let status = CacheStatus { name, outcome, detail: detail.map(NoCacheReason::as_str) };
    headers.append(CACHE_STATUS, status.to_header_value());
}

fn number(number: u64) -> HeaderValue {
    HeaderValue::from(number)
}
