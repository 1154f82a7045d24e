//! What the cache says about itself in a response: `X-Cache`, `X-Cache-Age`, `Age` and `Cache-Status`.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header::AGE};

use crate::{
    semantics::cache_status::{CacheName, CacheStatus, ForwardReason, Outcome, Text, write_number},
    telemetry::{LookupResult, NoCacheReason},
};

const X_CACHE: HeaderName = HeaderName::from_static("x-cache");
const X_CACHE_AGE: HeaderName = HeaderName::from_static("x-cache-age");
const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// How a stored response came to be the answer.
#[derive(Clone, Copy, Debug)]
pub(super) enum Note {
    /// It was there.
    Hit,
    /// It was there once the load that this request waited for had ended.
    Collapsed,
    /// It is stale, and may be used all the same: while it is refreshed, or by the client's leave.
    Stale,
    /// It is stale, and answers while a failing application is left alone.
    BackedOff,
    /// It stands in for an error of this status, or for no response at all.
    StaleIfError(Option<u16>),
    /// The application said that it still holds.
    Validated { why: ForwardReason, not_stored: Option<NoCacheReason> },
    /// It has just been stored, and this answers a part of it, or a precondition.
    Loaded { why: ForwardReason, not_stored: Option<NoCacheReason> },
}

impl Note {
    /// Whether the look-up was enough. What follows one that was not has been counted as a miss.
    pub(super) fn is_hit(self) -> bool {
        self.result(true).is_some()
    }

    /// What came of a look-up that was enough.
    pub(super) fn result(self, fresh: bool) -> Option<LookupResult> {
        match self {
            Self::Hit if fresh => Some(LookupResult::Hit),
            Self::Hit | Self::Stale | Self::BackedOff => Some(LookupResult::Stale),
            Self::Collapsed => Some(LookupResult::Collapsed),
            Self::StaleIfError(_) | Self::Validated { .. } | Self::Loaded { .. } => None,
        }
    }

    /// Whether the request was answered without a new response of the application's.
    pub(super) fn is_from_cache(self) -> bool {
        !matches!(self, Self::Loaded { .. } | Self::Validated { .. })
    }
}

/// What there is to say about the age of a stored response, in seconds.
pub(super) struct Times {
    pub(super) age: u64,
    pub(super) resident: u64,
    pub(super) ttl: i64,
    pub(super) fresh: bool,
}

/// The answer is a stored response.
pub(super) fn stored(headers: &mut HeaderMap, name: &CacheName, times: &Times, note: Note) {
    let forward = |why, status, stored, collapsed| Outcome::Forward { why, status, ttl: None, stored, collapsed };
    let (x_cache, outcome, detail) = match note {
        Note::Hit if times.fresh => ("HIT", Outcome::Hit { ttl: times.ttl }, None),
        Note::Hit | Note::Stale => ("STALE", Outcome::Hit { ttl: times.ttl }, None),
        Note::BackedOff => ("STALE", Outcome::Hit { ttl: times.ttl }, Some(NoCacheReason::BackedOff)),
        Note::Collapsed => ("HIT", forward(ForwardReason::UriMiss, None, false, true), None),
        Note::StaleIfError(status) => ("STALE", forward(ForwardReason::Stale, status, false, false), None),
        Note::Validated { why, not_stored } => {
            ("REVALIDATED", forward(why, Some(304), not_stored.is_none(), false), not_stored)
        }
        Note::Loaded { why, not_stored } => ("MISS", forward(why, None, not_stored.is_none(), false), not_stored),
    };
    headers.insert(X_CACHE, HeaderValue::from_static(x_cache));
    // All that is written anew for every hit is in one allocation.
    let mut text = Text::new();
    CacheStatus { name, outcome, detail: detail.map(NoCacheReason::as_str) }.write(&mut text);
    let status = text.len();
    write_number(&mut text, times.age);
    let age = text.len();
    write_number(&mut text, times.resident);
    let text = Bytes::from_owner(text);
    headers.insert(CACHE_STATUS, value(text.slice(..status)));
    if note.is_from_cache() || times.age > 0 {
        headers.insert(AGE, value(text.slice(status..age)));
    } else {
        headers.remove(AGE);
    }
    if note.is_from_cache() {
        headers.insert(X_CACHE_AGE, value(text.slice(age..)));
    } else {
        headers.remove(X_CACHE_AGE);
    }
}

/// Makes room for what [`stored`] will say, so that no answer has to: a map with four fields more than it was cloned with
/// is moved and hashed anew.
pub(super) fn make_room(headers: &mut HeaderMap) {
    for name in [AGE, X_CACHE, X_CACHE_AGE, CACHE_STATUS] {
        headers.insert(name, HeaderValue::from_static(""));
    }
}

fn value(text: Bytes) -> HeaderValue {
    HeaderValue::from_maybe_shared(text).expect("only printable ASCII is written")
}

/// The request went to the application, since nothing stored could answer it.
pub(super) fn miss(headers: &mut HeaderMap, name: &CacheName, why: ForwardReason, not_stored: Option<NoCacheReason>) {
    headers.insert(X_CACHE, HeaderValue::from_static("MISS"));
    let outcome = Outcome::Forward { why, status: None, ttl: None, stored: not_stored.is_none(), collapsed: false };
    status(headers, name, outcome, not_stored);
}

/// The request was not looked up.
pub(super) fn bypass(headers: &mut HeaderMap, name: &CacheName, reason: NoCacheReason) {
    headers.insert(X_CACHE, HeaderValue::from_static("BYPASS"));
    let (why, detail) = match reason {
        NoCacheReason::Method | NoCacheReason::ConnectMethod => (ForwardReason::Method, None),
        _ => (ForwardReason::Bypass, Some(reason)),
    };
    let outcome = Outcome::Forward { why, status: None, ttl: None, stored: false, collapsed: false };
    status(headers, name, outcome, detail);
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
    let mut text = Text::new();
    status.write(&mut text);
    headers.append(CACHE_STATUS, value(Bytes::copy_from_slice(&text)));
}
