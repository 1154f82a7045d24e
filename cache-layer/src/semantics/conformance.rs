//! Tests of the public suite `http-cache-tests` that depend on these rules alone, by their ids. Where the suite lets
//! some seconds pass between two requests, the clock is set.

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::{
    caching_policy::CachingPolicy,
    freshness::{initial_age, lifetime},
    received::Received,
    stale_windows::Windows,
    storable::{refusal_of_freshness, refusal_of_response},
};

/// What a second request gets three seconds later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Second {
    /// The stored response.
    Cached,
    /// The stored response, because there is no other.
    CachedIfDisconnected,
    /// Another one, or the stored one validated.
    NotCached,
}

use Second::{Cached, CachedIfDisconnected, NotCached};

/// `Mon, 23 Nov 2026 00:00:00 GMT`
const NOW: u64 = 1_795_392_000_000;
const DATE: (&str, &str) = ("date", "Mon, 23 Nov 2026 00:00:00 GMT");
const FUTURE: (&str, &str) = ("expires", "Mon, 23 Nov 2026 01:00:00 GMT");
const PAST: (&str, &str) = ("expires", "Sun, 22 Nov 2026 23:00:00 GMT");
const A_DAY_OLD: (&str, &str) = ("last-modified", "Sun, 22 Nov 2026 00:00:00 GMT");

fn second(status: u16, fields: &[(&'static str, &'static str)]) -> Second {
    let policy = CachingPolicy::strict();
    let mut headers = HeaderMap::new();
    for &(name, value) in fields {
        headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    let (request, status) = (HeaderMap::new(), StatusCode::from_u16(status).unwrap());
    let directives = policy.directives(&headers);
    let received = Received::at(NOW, status, &headers, &directives);
    let lifetime = lifetime(&policy, &received, None);
    let windows = Windows::new(&policy, &received, lifetime, initial_age(&received));
    let refused = refusal_of_response(&policy, &request, &received)
        .or_else(|| refusal_of_freshness(&policy, &request, &received, lifetime, &windows, false));
    let later = NOW + 3_000;
    match refused {
        None if later < windows.fresh => Cached,
        None if later < windows.stale_if_disconnected => CachedIfDisconnected,
        _ => NotCached,
    }
}

const fn cc(value: &'static str) -> (&'static str, &'static str) {
    ("cache-control", value)
}

const fn cdn(value: &'static str) -> (&'static str, &'static str) {
    ("cdn-cache-control", value)
}

#[test]
fn responses_are_reused_as_the_suite_expects() {
    type Case = (&'static str, u16, &'static [(&'static str, &'static str)], Second);
    const CASES: &[Case] = &[
        ("freshness-none", 200, &[], NotCached),
        ("freshness-max-age", 200, &[cc("max-age=3600")], Cached),
        ("freshness-max-age-0", 200, &[cc("max-age=0")], CachedIfDisconnected),
        ("freshness-max-age-max-minus-1", 200, &[cc("max-age=2147483647")], Cached),
        ("freshness-max-age-max", 200, &[cc("max-age=2147483648")], Cached),
        ("freshness-max-age-max-plus-1", 200, &[cc("max-age=2147483649")], Cached),
        ("freshness-max-age-max-plus", 200, &[cc("max-age=99999999999")], Cached),
        ("freshness-max-age-age", 200, &[cc("max-age=3600"), ("age", "7200")], CachedIfDisconnected),
        (
            "freshness-max-age-date",
            200,
            &[cc("max-age=3600"), ("date", "Sun, 22 Nov 2026 22:00:00 GMT")],
            CachedIfDisconnected,
        ),
        ("freshness-max-age-0-expires", 200, &[cc("max-age=0"), FUTURE, DATE], CachedIfDisconnected),
        ("freshness-max-age-expires", 200, &[cc("max-age=3600"), PAST, DATE], Cached),
        ("freshness-max-age-negative", 200, &[cc("max-age=-3600")], CachedIfDisconnected),
        ("freshness-max-age-single-quoted", 200, &[cc("max-age='3600'")], CachedIfDisconnected),
        ("freshness-max-age-quoted", 200, &[cc("max-age=\"3600\"")], Cached),
        ("freshness-max-age-leading-zero", 200, &[cc("max-age=003600")], Cached),
        ("freshness-max-age-s-maxage-shared-shorter", 200, &[cc("max-age=1, s-maxage=3600")], Cached),
        ("freshness-max-age-s-maxage-shared-longer", 200, &[cc("max-age=3600, s-maxage=1")], NotCached),
        ("freshness-max-age-ignore-quoted", 200, &[cc("extension=\"max-age=3600\", max-age=1")], CachedIfDisconnected),
        (
            "freshness-max-age-ignore-quoted-rev",
            200,
            &[cc("max-age=1, extension=\"max-age=3600\"")],
            CachedIfDisconnected,
        ),
        ("freshness-expires-future", 200, &[FUTURE, DATE], Cached),
        ("freshness-expires-past", 200, &[PAST, DATE], CachedIfDisconnected),
        ("freshness-expires-present", 200, &[("expires", "Mon, 23 Nov 2026 00:00:00 GMT"), DATE], CachedIfDisconnected),
        ("freshness-expires-invalid", 200, &[("expires", "0"), DATE], CachedIfDisconnected),
        ("freshness-expires-age-slow-date", 200, &[FUTURE, DATE, ("age", "7200")], CachedIfDisconnected),
        ("freshness-expires-ansi-c", 200, &[("expires", "Thu Nov 23 01:00:00 2026"), DATE], Cached),
        ("freshness-expires-rfc850", 200, &[("expires", "Monday, 23-Nov-26 01:00:00 GMT"), DATE], Cached),
        ("freshness-expires-wrong-case-month", 200, &[("expires", "Mon, 23 NOV 2026 01:00:00 GMT"), DATE], Cached),
        (
            "freshness-expires-invalid-aest",
            200,
            &[("expires", "Mon, 23 Nov 2026 01:00:00 AEST"), DATE],
            CachedIfDisconnected,
        ),
        ("freshness-expires-invalid-multiple-lines", 200, &[FUTURE, FUTURE, DATE], CachedIfDisconnected),
        ("age-parse-nonnumeric", 200, &[cc("max-age=3600"), ("age", "abc")], Cached),
        ("age-parse-suffix", 200, &[cc("max-age=3600"), ("age", "7200, 0")], CachedIfDisconnected),
        ("age-parse-prefix", 200, &[cc("max-age=3600"), ("age", "0, 7200")], Cached),
        ("age-parse-large", 200, &[cc("max-age=3600"), ("age", "99999999999")], NotCached),
        ("cc-resp-no-store-case-insensitive", 200, &[cc("max-age=3600, No-StOrE")], NotCached),
        ("cc-resp-private-shared", 200, &[cc("private, max-age=3600")], NotCached),
        ("cc-resp-no-cache", 200, &[cc("max-age=10000, no-cache"), FUTURE, DATE], NotCached),
        ("cc-resp-must-revalidate-fresh", 200, &[cc("max-age=10000, must-revalidate"), ("etag", "\"a\"")], Cached),
        ("stale-close", 200, &[cc("max-age=2"), DATE], CachedIfDisconnected),
        ("stale-close-must-revalidate", 200, &[cc("max-age=2, must-revalidate")], NotCached),
        ("stale-close-proxy-revalidate", 200, &[cc("max-age=2, proxy-revalidate")], NotCached),
        ("stale-close-no-cache", 200, &[cc("max-age=2, no-cache")], NotCached),
        ("stale-close-s-maxage=2", 200, &[cc("max-age=2, s-maxage=2")], NotCached),
        ("status-599-fresh", 599, &[cc("max-age=100000"), DATE], Cached),
        ("status-599-must-understand", 599, &[cc("max-age=3600, no-store, must-understand")], NotCached),
        ("status-200-must-understand", 200, &[cc("max-age=3600, no-store, must-understand")], Cached),
        ("headers-store-Content-Range", 200, &[cc("max-age=3600"), ("content-range", "abc"), DATE], Cached),
        ("other-set-cookie", 200, &[cc("max-age=100000"), DATE, ("set-cookie", "a=b")], Cached),
        ("heuristic-200-cached", 200, &[A_DAY_OLD, DATE], Cached),
        ("heuristic-201-not_cached", 201, &[A_DAY_OLD, DATE], NotCached),
        ("heuristic-501-cached", 501, &[A_DAY_OLD, DATE], Cached),
        ("heuristic-502-not_cached", 502, &[A_DAY_OLD, DATE], NotCached),
        ("heuristic-599-not_cached", 599, &[A_DAY_OLD, DATE], NotCached),
        ("heuristic-599-cached", 599, &[A_DAY_OLD, DATE, cc("public")], Cached),
        ("pragma-response-no-cache", 200, &[cc("max-age=3600"), ("pragma", "no-cache")], Cached),
        ("vary-star", 200, &[cc("max-age=5000"), ("vary", "*")], NotCached),
        ("cdn-max-age", 200, &[cdn("max-age=3600")], Cached),
        ("cdn-max-age-max-plus", 200, &[cdn("max-age=99999999999")], Cached),
        ("cdn-max-age-age", 200, &[DATE, cdn("max-age=3600"), ("age", "7200")], CachedIfDisconnected),
        ("cdn-max-age-extension", 200, &[cdn("foobar, max-age=3600")], Cached),
        ("cdn-max-age-expires", 200, &[cdn("max-age=3600"), PAST, DATE], Cached),
        ("cdn-max-age-0-expires", 200, &[cdn("max-age=0"), FUTURE, DATE], CachedIfDisconnected),
        ("cdn-max-age-short-cc-max-age", 200, &[cc("max-age=1"), cdn("max-age=3600")], Cached),
        ("cdn-max-age-long-cc-max-age", 200, &[cc("max-age=3600"), cdn("max-age=1")], CachedIfDisconnected),
        ("cdn-private", 200, &[cdn("private"), cc("max-age=10000"), FUTURE, DATE], NotCached),
        ("cdn-no-cache", 200, &[cdn("no-cache"), cc("max-age=10000"), FUTURE, DATE], NotCached),
        ("cdn-no-store-cc-fresh", 200, &[cdn("no-store"), cc("max-age=10000"), FUTURE, DATE], NotCached),
        ("cdn-fresh-cc-nostore", 200, &[cc("no-store"), cdn("max-age=10000")], Cached),
        ("cdn-cc-invalid-sh-type-unknown", 200, &[cdn("max-age=10000, &&&&&"), cc("no-store")], NotCached),
        ("cdn-cc-invalid-sh-type-wrong", 200, &[cdn("max-age=\"10000\""), cc("no-store")], CachedIfDisconnected),
    ];
    for (id, status, fields, expected) in CASES {
        assert_eq!(second(*status, fields), *expected, "{id}");
    }
}
