//! `http-cache-semantics` as a second opinion: where it decides otherwise, one of the differences listed here has to
//! be the reason.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_cache_semantics::{CacheOptions, CachePolicy};
use proptest::prelude::*;

use super::{
    cache_control::CacheControl,
    caching_policy::CachingPolicy,
    delta_seconds::DeltaSeconds,
    freshness::{initial_age, lifetime},
    received::Received,
    reuse::{Candidate, RequestDirectives, Reuse},
    stale_windows::{Windows, forbids_stale_use},
    storable::{refusal_of_freshness, refusal_of_request, refusal_of_response},
    vary::{Normalization, Vary},
};

const NOW: u64 = 1_795_392_000_000;

/// A response to a first request, and a second request some seconds later.
#[derive(Clone, Debug)]
struct Exchange {
    method: Method,
    first: HeaderMap,
    status: StatusCode,
    response: HeaderMap,
    seconds_later: u64,
    second: HeaderMap,
}

/// Whether the second request is answered without asking, by a shared cache or a private one.
fn ours(exchange: &Exchange, shared: bool) -> bool {
    let Exchange { method, first, status, response, seconds_later, second } = exchange;
    let strict = CachingPolicy { targets: Vec::new(), ..CachingPolicy::strict() };
    let policy = CachingPolicy { private: !shared, ..strict };
    let directives = policy.directives(response);
    let received = Received::at(NOW, *status, response, &directives);
    let (lifetime, age) = (lifetime(&policy, &received, None), initial_age(&received));
    let windows = Windows::new(&policy, &received, lifetime, age);
    let refused = refusal_of_request(method, first, false)
        .or_else(|| refusal_of_response(&policy, first, &received))
        .or_else(|| refusal_of_freshness(&policy, first, &received, lifetime, &windows, false));
    if refused.is_some() || !selects(first, response, second) {
        return false;
    }
    let candidate = Candidate {
        age: age + seconds_later,
        freshness_left_ms: windows.fresh as i64 - (NOW + seconds_later * 1000) as i64,
        immutable: directives.cache_control.immutable,
        never_stale: forbids_stale_use(&directives.cache_control) || response.contains_key("set-cookie"),
    };
    let reuse = RequestDirectives::from_headers(second, true).reuse(candidate);
    matches!(reuse, Reuse::Fresh | Reuse::AcceptedStale)
}

fn selects(first: &HeaderMap, response: &HeaderMap, second: &HeaderMap) -> bool {
    match Vary::from_headers(response) {
        None => true,
        Some(Vary::Star) => false,
        Some(Vary::Fields(fields)) => {
            let values = |request| fields.values(request, &Normalization::default());
            values(first) == values(second)
        }
    }
}

fn theirs(exchange: &Exchange, shared: bool) -> bool {
    let Exchange { method, first, status, response, seconds_later, second } = exchange;
    let request = |headers: &HeaderMap| {
        let mut request = Request::new(());
        *request.method_mut() = method.clone();
        *request.headers_mut() = headers.clone();
        request
    };
    let mut answer = Response::new(());
    *answer.status_mut() = *status;
    *answer.headers_mut() = response.clone();
    let now = SystemTime::UNIX_EPOCH + Duration::from_millis(NOW);
    let options = CacheOptions { shared, ..CacheOptions::default() };
    let policy = CachePolicy::new_options(&request(first), &answer, now, options);
    policy.is_storable()
        && policy
            .before_request(&request(second), now + Duration::from_secs(*seconds_later))
            .satisfies_without_revalidation()
}

/// Why we answer where they ask.
fn why_only_we_answer(exchange: &Exchange, shared: bool) -> Option<&'static str> {
    let Exchange { status, response, second, .. } = exchange;
    let stored = CacheControl::from_headers(response);
    let wishes = CacheControl::from_headers(second);
    let has = |name: &str| response.contains_key(name);
    let reasons = [
        (stored.must_understand && stored.no_store, "they do not know that must-understand overrides no-store"),
        (status.as_u16() >= 499, "they keep only the statuses that they know, we any with explicit freshness"),
        (has("pragma") && !has("cache-control"), "they honour Pragma in responses, where it never had a meaning"),
        (
            second.contains_key("pragma") && second.contains_key("cache-control"),
            "they honour Pragma beside Cache-Control, against RFC 9111, section 5.4",
        ),
        (shared && stored.proxy_revalidate, "they take proxy-revalidate, which is about stale responses, for stale"),
        (shared && has("set-cookie"), "they take what sets a cookie for stale, unless it is public"),
        (stored.immutable && wishes.max_age.is_some(), "they validate immutable responses on reload"),
        (wishes.max_stale == Some(DeltaSeconds::Seconds(10)), "they take max-stale for a limit that is not reached"),
        (repeats(response) || repeats(second), "they take a repeated directive for must-revalidate"),
    ];
    reasons.into_iter().find(|(holds, _)| *holds).map(|(_, reason)| reason)
}

/// Why they answer where we ask.
fn why_only_they_answer(exchange: &Exchange, shared: bool) -> Option<&'static str> {
    let Exchange { method, first, status, response, second, .. } = exchange;
    let stored = CacheControl::from_headers(response);
    let wishes = CacheControl::from_headers(second);
    let has = |name: &str| response.contains_key(name);
    let stated = stored.max_age.or(stored.s_maxage.filter(|_| shared));
    let is_estimate = stated.is_none() && !has("expires");
    let reasons = [
        (*method == Method::POST, "they keep responses to POST whatever their Content-Location"),
        (status.as_u16() == 206, "they keep a part as if it were the whole"),
        (has("date"), "they do not count the age that Date shows (RFC 9111, section 4.2.3)"),
        (
            wishes.max_stale.is_some() && (forbids_stale_use(&stored) || has("set-cookie")),
            "they let max-stale override what forbids stale use",
        ),
        (wishes.max_stale.is_some() && is_estimate, "they keep what states no freshness, for who takes it stale"),
        (stored.immutable, "they take immutable for a day of freshness"),
        (wishes.max_age == Some(DeltaSeconds::Seconds(0)), "they answer max-age=0 in the first second"),
        (shared && is_estimate && first.contains_key("cookie"), "they estimate whatever the cookies"),
        (repeats(response) || repeats(second), "they take another one of repeated directives"),
        (response.get_all("expires").iter().count() > 1, "they take the first of several Expires"),
        (
            has("vary") && [first, second].iter().any(|request| request.get_all("accept-language").iter().count() > 1),
            "they compare the first line of a field that Vary names",
        ),
    ];
    reasons.into_iter().find(|(holds, _)| *holds).map(|(_, reason)| reason)
}

/// Whether a directive is stated twice.
fn repeats(headers: &HeaderMap) -> bool {
    let names: Vec<_> = headers
        .get_all("cache-control")
        .iter()
        .map(|line| line.as_bytes().split(|&byte| byte == b'=').next())
        .collect();
    names.iter().enumerate().any(|(at, name)| names[..at].contains(name))
}

fn fields(choices: &'static [(&'static str, &'static str)], most: usize) -> impl Strategy<Value = HeaderMap> {
    prop::collection::vec(prop::sample::select(choices), 0..=most).prop_map(|lines| {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        headers
    })
}

const REQUEST: &[(&str, &str)] = &[
    ("authorization", "Basic eA=="),
    ("cookie", "a=b"),
    ("accept-language", "en"),
    ("accept-language", "de"),
    ("cache-control", "no-store"),
    ("cache-control", "no-cache"),
    ("cache-control", "max-age=0"),
    ("cache-control", "max-age=30"),
    ("cache-control", "min-fresh=30"),
    ("cache-control", "max-stale"),
    ("cache-control", "max-stale=10"),
    ("pragma", "no-cache"),
];

const RESPONSE: &[(&str, &str)] = &[
    ("cache-control", "max-age=60"),
    ("cache-control", "max-age=0"),
    ("cache-control", "s-maxage=60"),
    ("cache-control", "public"),
    ("cache-control", "private"),
    ("cache-control", "no-store"),
    ("cache-control", "no-cache"),
    ("cache-control", "must-revalidate"),
    ("cache-control", "proxy-revalidate"),
    ("cache-control", "immutable"),
    ("cache-control", "must-understand"),
    ("cache-control", "max-age=soon"),
    ("expires", "Mon, 23 Nov 2026 00:01:00 GMT"),
    ("expires", "Sun, 22 Nov 2026 00:00:00 GMT"),
    ("expires", "0"),
    ("date", "Mon, 23 Nov 2026 00:00:00 GMT"),
    ("date", "Sun, 22 Nov 2026 23:59:30 GMT"),
    ("last-modified", "Sun, 22 Nov 2026 23:00:00 GMT"),
    ("age", "30"),
    ("etag", "\"a\""),
    ("vary", "accept-language"),
    ("vary", "*"),
    ("set-cookie", "a=b"),
    ("pragma", "no-cache"),
];

fn exchanges() -> impl Strategy<Value = Exchange> {
    let method = prop::sample::select(vec![Method::GET, Method::GET, Method::GET, Method::POST, Method::PUT]);
    let status = prop::sample::select(vec![200, 200, 200, 204, 206, 301, 302, 404, 499, 500, 503]);
    let status = status.prop_map(|status| StatusCode::from_u16(status).unwrap());
    let requests = (fields(REQUEST, 2), fields(REQUEST, 2));
    (method, requests, status, fields(RESPONSE, 4), 0..90_u64).prop_map(
        |(method, (first, second), status, response, seconds_later)| Exchange {
            method,
            first,
            status,
            response,
            seconds_later,
            second,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn every_difference_to_the_other_implementation_is_known(exchange in exchanges(), shared: bool) {
        match (ours(&exchange, shared), theirs(&exchange, shared)) {
            (true, false) => prop_assert!(why_only_we_answer(&exchange, shared).is_some(), "only we answer"),
            (false, true) => prop_assert!(why_only_they_answer(&exchange, shared).is_some(), "only they answer"),
            _ => {}
        }
    }
}
