//! The cache's own fields in a response: `X-Cache`, `X-Cache-Age`, `Age` and `Cache-Status`.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header::AGE};

use crate::{
    semantics::{
        cache_status::{CacheName, CacheStatus, ForwardReason, Outcome, Text, write_number},
        list::has,
        names::Shapes,
    },
    telemetry::{LookupResult, NoCacheReason},
};

const X_CACHE: HeaderName = HeaderName::from_static("x-cache");
const X_CACHE_AGE: HeaderName = HeaderName::from_static("x-cache-age");
const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// The cache's name, and the fields in which it says what it did.
#[derive(Clone, Debug, Default)]
pub(super) struct Signature {
    pub(super) name: CacheName,
    /// `None` for the default fields.
    fields: Option<Box<SignatureFields>>,
}

/// The fields in which the cache says what it did; `None` for a field that is not sent.
#[derive(Clone, Debug)]
pub(super) struct SignatureFields {
    /// Sends none of the fields, whatever their names.
    pub(super) silent: bool,
    pub(super) x_cache: Option<HeaderName>,
    pub(super) x_cache_age: Option<HeaderName>,
    pub(super) cache_status: Option<HeaderName>,
}

impl Default for SignatureFields {
    fn default() -> Self {
        let [x_cache, x_cache_age, cache_status] = [X_CACHE, X_CACHE_AGE, CACHE_STATUS].map(Some);
        Self { silent: false, x_cache, x_cache_age, cache_status }
    }
}

impl SignatureFields {
    /// The names of the fields that are sent, in the order `X-Cache`, `X-Cache-Age`, `Cache-Status`.
    fn names(&self) -> [Option<&HeaderName>; 3] {
        let Self { silent, x_cache, x_cache_age, cache_status } = self;
        [x_cache, x_cache_age, cache_status].map(|name| name.as_ref().filter(|_| !silent))
    }
}

impl Signature {
    /// The fields, mutably.
    pub(super) fn fields_mut(&mut self) -> &mut SignatureFields {
        self.fields.get_or_insert_default()
    }

    /// The same name, with the default fields.
    pub(super) fn plain(&self) -> Self {
        Self { name: self.name.clone(), fields: None }
    }

    /// The field that says what the cache did; `None` if none does.
    pub(super) fn status_field(&self) -> Option<HeaderName> {
        match &self.fields {
            Some(fields) => fields.names()[2].cloned(),
            None => Some(CACHE_STATUS),
        }
    }

    pub(super) fn is_silent(&self) -> bool {
        self.fields.as_ref().is_some_and(|fields| fields.silent)
    }

    /// Renames the cache's own fields from their default names to the configured ones.
    fn rename(&self, headers: &mut HeaderMap) {
        let Some(fields) = &self.fields else { return };
        let said = [X_CACHE, X_CACHE_AGE, CACHE_STATUS].map(|usual| headers.remove(usual));
        for (value, name) in said.into_iter().zip(fields.names()) {
            match (value, name) {
                (Some(value), Some(name)) => drop(headers.insert(name, value)),
                // A field of this name is from an inner cache of this kind.
                (None, Some(name)) => drop(headers.remove(name)),
                (_, None) => {}
            }
        }
    }
}

/// How a stored response became the answer.
#[derive(Clone, Copy, Debug)]
pub(super) enum Served {
    /// The look-up found it.
    Hit,
    /// It was found after the load that this request waited for.
    Collapsed,
    /// It was stored for another query of the same class; if `collapsed`, by the load that this request waited for.
    Alias { collapsed: bool },
    /// It is stale, and may be used: while it is refreshed, or because the client accepts it.
    Stale,
    /// It is stale, and is used during a back-off.
    BackedOff,
    /// It stands in for an error of this status, or for no response at all.
    StaleIfError(Option<u16>),
    /// The application said that it still holds.
    Validated { why: ForwardReason, not_stored: Option<NoCacheReason> },
    /// It has just been stored, and answers a request for a range, or with a precondition.
    Loaded { why: ForwardReason, not_stored: Option<NoCacheReason> },
}

impl Served {
    /// Whether the look-up itself answered the request. Otherwise the request has been counted as a miss.
    pub(super) fn is_hit(self) -> bool {
        self.result(true).is_some()
    }

    /// The result of a look-up that answered the request.
    pub(super) fn result(self, fresh: bool) -> Option<LookupResult> {
        match self {
            Self::Hit | Self::Alias { collapsed: false } if fresh => Some(LookupResult::Hit),
            Self::Hit | Self::Alias { collapsed: false } | Self::Stale | Self::BackedOff => Some(LookupResult::Stale),
            Self::Collapsed | Self::Alias { collapsed: true } => Some(LookupResult::Collapsed),
            Self::StaleIfError(_) | Self::Validated { .. } | Self::Loaded { .. } => None,
        }
    }

    /// Whether the request was answered without a new response of the application.
    pub(super) fn is_from_cache(self) -> bool {
        !matches!(self, Self::Loaded { .. } | Self::Validated { .. })
    }
}

/// The age and remaining freshness of a stored response, in seconds.
pub(super) struct Times {
    pub(super) age: u64,
    pub(super) resident: u64,
    pub(super) ttl: i64,
    pub(super) fresh: bool,
}

/// The detail of an answer that was stored for another query: by `No-Vary-Search`.
const BY_ALIAS: &str = "nvs";

/// Annotates a stored response that answers a request.
pub(super) fn stored(headers: &mut HeaderMap, signature: &Signature, times: &Times, note: Served) {
    let forward = |why, status, stored, collapsed| Outcome::Forward { why, status, ttl: None, stored, collapsed };
    let reason = |why, not_stored| detail(why, not_stored).map(NoCacheReason::as_str);
    let (x_cache, outcome, detail) = match note {
        Served::Hit if times.fresh => ("HIT", Outcome::Hit { ttl: times.ttl }, None),
        Served::Hit | Served::Stale => ("STALE", Outcome::Hit { ttl: times.ttl }, None),
        Served::BackedOff => ("STALE", Outcome::Hit { ttl: times.ttl }, Some(NoCacheReason::BackedOff.as_str())),
        Served::Alias { collapsed: false } => {
            let x_cache = if times.fresh { "HIT" } else { "STALE" };
            (x_cache, Outcome::Hit { ttl: times.ttl }, Some(BY_ALIAS))
        }
        Served::Alias { collapsed: true } => {
            ("HIT", forward(ForwardReason::UriMiss, None, false, true), Some(BY_ALIAS))
        }
        Served::Collapsed => ("HIT", forward(ForwardReason::UriMiss, None, false, true), None),
        Served::StaleIfError(status) => ("STALE", forward(ForwardReason::Stale, status, false, false), None),
        Served::Validated { why, not_stored } => {
            ("REVALIDATED", forward(why, Some(304), not_stored.is_none(), false), reason(why, not_stored))
        }
        Served::Loaded { why, not_stored } => {
            ("MISS", forward(why, None, not_stored.is_none(), false), reason(why, not_stored))
        }
    };
    // One allocation holds all values that are written for a hit.
    let mut text = Text::new();
    let name = &signature.name;
    CacheStatus { name, outcome, detail, first: None }.write(&mut text);
    let status = text.len();
    write_number(&mut text, times.age);
    let age = text.len();
    write_number(&mut text, times.resident);
    let text = Bytes::from_owner(text);
    let from_cache = note.is_from_cache();
    let values = [
        Some(HeaderValue::from_static(x_cache)),
        (from_cache || times.age > 0).then(|| value(text.slice(status..age))),
        from_cache.then(|| value(text.slice(age..))),
        Some(value(text.slice(..status))),
    ];
    set(headers, 0, FIELDS.iter().zip(values));
    signature.rename(headers);
}

/// The fields that [`stored`] sets, in the order of its values.
static FIELDS: [HeaderName; OWN_PLACES] = [X_CACHE, AGE, X_CACHE_AGE, CACHE_STATUS];

/// How many places [`with_room`] makes for the cache's own fields.
pub(super) const OWN_PLACES: usize = 4;

/// Gives each of these fields its only value, or none. If they have their places after `at` other lines, each once and in this
/// order, nothing is hashed: see [`with_room`].
pub(super) fn set<'n>(
    headers: &mut HeaderMap,
    at: usize,
    mut fields: impl Iterator<Item = (&'n HeaderName, Option<HeaderValue>)>,
) {
    let once = headers.len() == headers.keys_len();
    let mut rest = None;
    let mut current = headers.iter_mut().skip(at);
    for (name, value) in &mut fields {
        match (value, current.next()) {
            (Some(value), Some((there, slot))) if once && there == name => *slot = value,
            (value, _) => {
                rest = Some((name, value));
                break;
            }
        }
    }
    for (name, value) in rest.into_iter().chain(fields) {
        match value {
            Some(value) => drop(headers.insert(name, value)),
            None => drop(headers.remove(name)),
        }
    }
}

/// The same fields after placeholders for those that [`stored`] sets, and after those that are to come `first`. Without the
/// placeholders, each answer would grow a cloned map, which moves and rehashes it.
pub(super) fn with_room(headers: &HeaderMap, first: &[(&HeaderName, HeaderValue)]) -> HeaderMap {
    let new = first.iter().filter(|(name, _)| !headers.contains_key(*name)).count();
    let mut roomy = HeaderMap::with_capacity(FIELDS.len() + new + headers.keys_len());
    for name in &FIELDS {
        roomy.insert(name, HeaderValue::from_static(""));
    }
    for (name, value) in first {
        roomy.insert(*name, value.clone());
    }
    // Stored values of these fields are dropped: each answer gets its own.
    let has_place = |name: &HeaderName| FIELDS.contains(name) || first.iter().any(|(placed, _)| *placed == name);
    for (name, value) in headers.iter().filter(|(name, _)| !has_place(name)) {
        roomy.append(name, value.clone());
    }
    // It is kept, and a clone has no spare capacity, which can be as much again.
    roomy.clone()
}

fn value(text: Bytes) -> HeaderValue {
    HeaderValue::from_maybe_shared(text).expect("only printable ASCII is written")
}

/// Annotates the response to a request that no stored response could answer.
pub(super) fn miss(
    headers: &mut HeaderMap,
    signature: &Signature,
    why: ForwardReason,
    not_stored: Option<NoCacheReason>,
) {
    missed(headers, signature, status_of_miss(signature, why, not_stored));
}

/// As [`miss`], with this `Cache-Status`.
pub(super) fn missed(headers: &mut HeaderMap, signature: &Signature, status: HeaderValue) {
    forwarded(headers, signature, "MISS", status);
}

/// The `Cache-Status` of a request that went to the application.
pub(super) fn status_of_miss(
    signature: &Signature,
    why: ForwardReason,
    not_stored: Option<NoCacheReason>,
) -> HeaderValue {
    let outcome = Outcome::Forward { why, status: None, ttl: None, stored: not_stored.is_none(), collapsed: false };
    status(signature, outcome, detail(why, not_stored).map(Refusal::from))
}

/// Annotates the response to a request that was forwarded alone.
pub(super) fn passed(headers: &mut HeaderMap, signature: &Signature, refusal: Refusal) {
    let why = ForwardReason::Miss;
    let outcome = Outcome::Forward { why, status: None, ttl: None, stored: false, collapsed: false };
    forwarded(headers, signature, "MISS", status(signature, outcome, Some(refusal)));
}

/// Why nothing is stored; and, if that is remembered from an earlier request, why nothing was stored then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) reason: NoCacheReason,
    pub(super) first: Option<NoCacheReason>,
}

impl From<NoCacheReason> for Refusal {
    fn from(reason: NoCacheReason) -> Self {
        Self { reason, first: None }
    }
}

/// Why nothing is stored, or else a detail of why the application was asked.
pub(super) fn detail(why: ForwardReason, not_stored: Option<NoCacheReason>) -> Option<NoCacheReason> {
    not_stored.or((why == ForwardReason::FromTheFuture).then_some(NoCacheReason::FromTheFuture))
}

/// Annotates the response to a request that was not looked up.
pub(super) fn bypass(headers: &mut HeaderMap, signature: &Signature, refusal: Refusal) {
    let (why, detail) = match refusal.reason {
        NoCacheReason::Method | NoCacheReason::ConnectMethod => (ForwardReason::Method, None),
        _ => (ForwardReason::Bypass, Some(refusal)),
    };
    let outcome = Outcome::Forward { why, status: None, ttl: None, stored: false, collapsed: false };
    forwarded(headers, signature, "BYPASS", status(signature, outcome, detail));
}

/// Annotates a response of the application. Fields of a cache of this kind behind this one are replaced, except that
/// `Cache-Status` is a list of all caches on the way, and `Age` belongs to the response.
fn forwarded(headers: &mut HeaderMap, signature: &Signature, x_cache: &'static str, status: HeaderValue) {
    let x_cache = HeaderValue::from_static(x_cache);
    let Some(fields) = &signature.fields else {
        headers.insert(X_CACHE, x_cache);
        if has(headers, &X_CACHE_AGE) {
            headers.remove(X_CACHE_AGE);
        }
        headers.append(CACHE_STATUS, status);
        return;
    };
    headers.remove(X_CACHE);
    headers.remove(X_CACHE_AGE);
    let [x_cache_field, age_field, status_field] = fields.names();
    if let Some(name) = age_field {
        headers.remove(name);
    }
    if let Some(name) = x_cache_field {
        headers.insert(name, x_cache);
    }
    if let Some(name) = status_field {
        headers.append(name, status);
    }
}

/// The shapes of the cache's [own fields](is_own).
pub(super) const OWN: Shapes = Shapes::of_each(&["x-cache", "x-cache-age", "cache-status"]);

/// Whether a field was written by a cache of this kind further in, or by an application that imitates one: it must not be
/// replayed with every hit.
pub(super) fn is_own(name: &HeaderName) -> bool {
    // Compared as strings, which differ in length.
    matches!(name.as_str(), "x-cache" | "x-cache-age" | "cache-status")
}

fn status(signature: &Signature, outcome: Outcome, detail: Option<Refusal>) -> HeaderValue {
    let first = detail.and_then(|detail| detail.first).map(NoCacheReason::as_str);
    let detail = detail.map(|detail| detail.reason.as_str());
    let status = CacheStatus { name: &signature.name, outcome, detail, first };
    let mut text = Text::new();
    status.write(&mut text);
    value(Bytes::copy_from_slice(text.as_ref()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        lines.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    fn lines(headers: &HeaderMap) -> Vec<(&str, &str)> {
        let mut lines: Vec<_> =
            headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap_or_default())).collect();
        lines.sort_unstable();
        lines
    }

    #[test]
    fn each_field_has_one_line_or_none_wherever_there_were_some() {
        let age = HeaderValue::from_static("7");
        let [x_cache, cache_status] = ["HIT", "x; hit"].map(HeaderValue::from_static);
        let content_type = ("content-type", "text/plain");
        let before = [
            vec![content_type],
            vec![content_type, ("age", "1"), ("x-cache", "MISS")],
            vec![("x-cache", "MISS"), ("age", "1"), ("age", "2"), content_type],
            vec![
                ("x-cache-age", "1"),
                content_type,
                ("cache-status", "y"),
                ("x-cache-age", "2"),
                ("cache-status", "z"),
            ],
        ];
        for before in before.map(|lines| headers(&lines)) {
            for before in [with_room(&before, &[]), before] {
                for with_age in [true, false] {
                    let mut after = before.clone();
                    let age = with_age.then(|| age.clone());
                    let values = [Some(x_cache.clone()), age.clone(), age, Some(cache_status.clone())];
                    set(&mut after, 0, FIELDS.iter().zip(values));
                    let said = [("cache-status", "x; hit"), content_type, ("x-cache", "HIT")];
                    let aged = [("age", "7"), said[0], said[1], said[2], ("x-cache-age", "7")];
                    assert_eq!(lines(&after), if with_age { &aged[..] } else { &said }, "{before:?}");
                }
            }
        }
    }
}
