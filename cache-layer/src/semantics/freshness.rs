//! The freshness lifetime and the age of a response (RFC 9111, section 4.2).

use http::{
    StatusCode,
    header::{AGE, DATE, EXPIRES, HeaderMap, HeaderName, LAST_MODIFIED},
};

use super::{
    caching_policy::CachingPolicy, date::parse_http_date, delta_seconds::DeltaSeconds, names::Shapes,
    received::Received, targeted::ResponseDirectives,
};

/// The freshness lifetime of a response, from its creation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lifetime {
    /// In milliseconds: a rule may be finer than a response, which states seconds.
    pub(crate) millis: u64,
    /// The origin of the lifetime.
    pub(crate) source: LifetimeSource,
}

impl Lifetime {
    /// Whether a setting says that the response is not to be stored: a rule's lifetime of zero, or a cap of zero.
    pub(crate) fn is_forbidden(self, policy: &CachingPolicy) -> bool {
        self.millis == 0 && (self.source == LifetimeSource::Rule || policy.ttl_cap == Some(0))
    }
}

/// The origin of a lifetime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LifetimeSource {
    /// The response states it.
    Response,
    /// A rule of the cache, because the response states none.
    Rule,
    /// The heuristic, because neither the response nor a rule states any.
    Heuristic,
}

/// The lifetime of a response; `None` if neither the response, nor a rule, nor the heuristic gives one.
///
/// `rule` is the configured lifetime, in milliseconds, of responses to this request that state none. It applies to successes;
/// other statuses have [`CachingPolicy::negative_ttl`].
pub(crate) fn lifetime(policy: &CachingPolicy, received: &Received<'_>, rule: Option<u64>) -> Option<Lifetime> {
    let Received { status, headers, directives, local_time, .. } = *received;
    let stated = |source| move |seconds: u64| Lifetime { millis: seconds.saturating_mul(1000), source };
    let rule = || {
        let covered = is_heuristically_cacheable(status) && status.is_success();
        policy.negative_ttl.get(&status.as_u16()).copied().or(rule.filter(|_| covered))
    };
    let estimate = || {
        let due = policy.heuristics && (is_heuristically_cacheable(status) || directives.cache_control.public);
        due.then(|| heuristic_lifetime(headers, local_time)).flatten()
    };
    let mut lifetime = explicit_lifetime(directives, headers, local_time)
        .map(stated(LifetimeSource::Response))
        .or_else(|| rule().map(|millis| Lifetime { millis, source: LifetimeSource::Rule }))
        .or_else(|| estimate().map(stated(LifetimeSource::Heuristic)))?;
    lifetime.millis = lifetime.millis.min(policy.ttl_cap.unwrap_or(u64::MAX));
    Some(lifetime)
}

/// The freshness lifetime that the application stated, in seconds.
///
/// The first of `s-maxage`, `max-age` and `Expires` decides. `None` if all are absent; 0, which means stale, if the one that
/// decides is invalid.
pub(crate) fn explicit_lifetime(
    directives: &ResponseDirectives,
    headers: &HeaderMap,
    response_time_ms: u64,
) -> Option<u64> {
    let cc = &directives.cache_control;
    if let Some(stated) = cc.s_maxage.or(cc.max_age) {
        return Some(stated.seconds().unwrap_or(0));
    }
    if directives.targeted {
        return None;
    }
    let now_secs = response_time_ms / 1000;
    let mut lines = headers.get_all(EXPIRES).into_iter();
    let expires = lines.next()?;
    let expires = match lines.next() {
        None => parse_http_date(expires.as_bytes(), now_secs),
        Some(_) => None,
    };
    let date = date_value(headers, DATE, now_secs).unwrap_or(now_secs);
    let lifetime = expires.unwrap_or(0).saturating_sub(date);
    Some(lifetime.min(DeltaSeconds::MAX))
}

/// The heuristic: a tenth of the time since the last modification, but at most a day, because a resource that has not changed
/// for long is unlikely to change soon (RFC 9111, section 4.2.2).
fn heuristic_lifetime(headers: &HeaderMap, response_time_ms: u64) -> Option<u64> {
    const DAY: u64 = 86_400;
    let now_secs = response_time_ms / 1000;
    let last_modified = date_value(headers, LAST_MODIFIED, now_secs)?;
    let date = date_value(headers, DATE, now_secs).unwrap_or(now_secs);
    Some((date.saturating_sub(last_modified) / 10).min(DAY))
}

/// RFC 9110, section 15.1; without 206, which the cache does not store.
fn is_heuristically_cacheable(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200 | 203 | 204 | 300 | 301 | 308 | 404 | 405 | 410 | 414 | 501)
}

/// The age in seconds with which a response arrived: `corrected_initial_age` of RFC 9111, section 4.2.3.
pub(crate) fn initial_age(received: &Received<'_>) -> u64 {
    const TELLING: Shapes = Shapes::of_each(&["date", "age"]);
    let now_secs = received.local_time / 1000;
    let response_delay = received.response_time.saturating_sub(received.request_time) / 1000;
    if !received.names.may_meet(TELLING) {
        return response_delay;
    }
    let date = date_value(received.headers, DATE, now_secs).unwrap_or(now_secs);
    let apparent_age = now_secs.saturating_sub(date);
    apparent_age.max(age_value(received.headers) + response_delay)
}

fn date_value(headers: &HeaderMap, name: HeaderName, now_secs: u64) -> Option<u64> {
    parse_http_date(headers.get(name)?.as_bytes(), now_secs)
}

/// The first member of the first line of `Age`. A list is an error; RFC 9111, section 5.1, uses its first member and ignores
/// a value that is not an integer.
fn age_value(headers: &HeaderMap) -> u64 {
    headers
        .get(AGE)
        .and_then(|line| line.as_bytes().split(|&byte| byte == b',').next())
        .and_then(|member| DeltaSeconds::parse(member.trim_ascii()).seconds())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::semantics::test_fields::headers;

    /// `Mon, 23 Nov 2026 00:00:00 GMT`, and a fraction of a second, which must not matter.
    const NOW_MS: u64 = 1_795_392_000_900;

    type Fields = &'static [(&'static str, &'static str)];

    fn explicit(fields: Fields) -> Option<u64> {
        let headers = headers(fields);
        explicit_lifetime(&ResponseDirectives::from_headers(&headers, &[]), &headers, NOW_MS)
    }

    fn lifetime_under(policy: &CachingPolicy, status: u16, fields: Fields, rule: Option<u64>) -> Option<Lifetime> {
        let headers = headers(fields);
        let directives = ResponseDirectives::from_headers(&headers, &policy.targets);
        let status = StatusCode::from_u16(status).unwrap();
        lifetime(policy, &Received::at(NOW_MS, status, &headers, &directives), rule)
    }

    fn heuristic(status: u16, fields: Fields) -> Option<u64> {
        let lifetime = lifetime_under(&CachingPolicy::strict(), status, fields, None)?;
        assert_eq!(lifetime.source, LifetimeSource::Heuristic);
        Some(lifetime.millis / 1000)
    }

    /// The age of a response that arrived at [`NOW_MS`], this many milliseconds after its request.
    fn age_after(delay: i64, fields: Fields) -> u64 {
        let (headers, directives) = (headers(fields), ResponseDirectives::default());
        let received = Received::at(NOW_MS, StatusCode::OK, &headers, &directives);
        initial_age(&Received { request_time: NOW_MS.saturating_add_signed(-delay), ..received })
    }

    fn age(fields: Fields) -> u64 {
        age_after(0, fields)
    }

    #[test]
    fn silence_is_not_staleness() {
        assert_eq!(explicit(&[]), None);
        assert_eq!(explicit(&[("cache-control", "public, stale-while-revalidate=60")]), None);
        assert_eq!(explicit(&[("last-modified", "Mon, 23 Nov 2020 00:00:00 GMT")]), None);
    }

    #[test]
    fn s_maxage_then_max_age_then_expires() {
        let cases: [(Fields, u64); 6] = [
            (&[("cache-control", "max-age=1, s-maxage=3600")], 3600),
            (&[("cache-control", "s-maxage=1"), ("cache-control", "max-age=3600")], 1),
            (&[("cache-control", "max-age=0, s-maxage=3600"), ("expires", "0")], 3600),
            (&[("cache-control", "max-age=3600"), ("expires", "0")], 3600),
            (&[("cache-control", "max-age=0"), ("expires", "Mon, 23 Nov 2026 00:01:00 GMT")], 0),
            (&[("expires", "Mon, 23 Nov 2026 00:01:00 GMT")], 60),
        ];
        for (fields, expected) in cases {
            assert_eq!(explicit(fields), Some(expected), "{fields:?}");
        }
    }

    #[test]
    fn an_invalid_statement_means_stale() {
        let cases: [Fields; 7] = [
            &[("cache-control", "max-age=-1")],
            &[("cache-control", "max-age=soon"), ("expires", "Fri, 31 Dec 9999 23:59:59 GMT")],
            &[("cache-control", "s-maxage=1.5, max-age=60")],
            &[("expires", "0")],
            &[("expires", "")],
            &[("expires", "Thu, 18 Aug 2050 02:01:18 UTC")],
            &[("expires", "Thu, 18 Aug 2050 02:01:18 GMT"), ("expires", "Thu, 18 Aug 2050 02:01:19 GMT")],
        ];
        for fields in cases {
            assert_eq!(explicit(fields), Some(0), "{fields:?}");
        }
    }

    #[test]
    fn expires_is_measured_from_date() {
        let cases: [(Fields, u64); 6] = [
            // A clock that is an hour fast or slow states the same lifetime.
            (&[("date", "Mon, 23 Nov 2026 01:00:00 GMT"), ("expires", "Mon, 23 Nov 2026 01:01:00 GMT")], 60),
            (&[("date", "Sun, 22 Nov 2026 23:00:00 GMT"), ("expires", "Sun, 22 Nov 2026 23:01:00 GMT")], 60),
            (&[("date", "Mon, 23 Nov 2026 00:00:00 GMT"), ("expires", "Mon, 23 Nov 2026 00:00:00 GMT")], 0),
            (&[("date", "Mon, 23 Nov 2026 00:00:00 GMT"), ("expires", "Sun, 22 Nov 2026 00:00:00 GMT")], 0),
            (&[("date", "today"), ("expires", "Mon, 23 Nov 2026 00:01:00 GMT")], 60),
            (&[("expires", "Fri, 31 Dec 9999 23:59:59 GMT")], DeltaSeconds::MAX),
        ];
        for (fields, expected) in cases {
            assert_eq!(explicit(fields), Some(expected), "{fields:?}");
        }
    }

    #[test]
    fn age_is_the_first_integer_or_nothing() {
        let cases: [(Fields, u64); 15] = [
            (&[], 0),
            (&[("age", "7200")], 7200),
            (&[("age", "7200, 0")], 7200),
            (&[("age", "0, 7200")], 0),
            (&[("age", "7200"), ("age", "0")], 7200),
            (&[("age", "0"), ("age", "7200")], 0),
            (&[("age", "2147483647")], 2_147_483_647),
            (&[("age", "2147483648")], DeltaSeconds::MAX),
            (&[("age", "2147483649")], DeltaSeconds::MAX),
            (&[("age", "99999999999999999999")], DeltaSeconds::MAX),
            (&[("age", "abc")], 0),
            (&[("age", "-7200")], 0),
            (&[("age", "7200.0")], 0),
            (&[("age", "7200;foo=bar")], 0),
            (&[("age", ", 7200")], 0),
        ];
        for (fields, expected) in cases {
            assert_eq!(age(fields), expected, "{fields:?}");
        }
    }

    #[test]
    fn the_larger_of_date_and_age_counts() {
        let cases: [(Fields, u64); 5] = [
            (&[("date", "Sun, 22 Nov 2026 22:00:00 GMT")], 7200),
            (&[("date", "Sun, 22 Nov 2026 22:00:00 GMT"), ("age", "60")], 7200),
            (&[("date", "Sun, 22 Nov 2026 23:59:00 GMT"), ("age", "7200")], 7200),
            (&[("date", "Mon, 23 Nov 2026 01:00:00 GMT")], 0),
            (&[("date", "yesterday")], 0),
        ];
        for (fields, expected) in cases {
            assert_eq!(age(fields), expected, "{fields:?}");
        }
    }

    #[test]
    fn the_time_on_the_way_counts_as_age() {
        assert_eq!(age_after(2_500, &[("age", "10")]), 12);
        // The clock was set back while the response was on its way.
        assert_eq!(age_after(-2_500, &[("age", "10")]), 10);
    }

    const YESTERDAY: (&str, &str) = ("last-modified", "Sun, 22 Nov 2026 00:00:00 GMT");
    const DATED: (&str, &str) = ("date", "Mon, 23 Nov 2026 00:00:00 GMT");

    #[test]
    fn a_tenth_of_the_time_without_change_is_estimated() {
        assert_eq!(heuristic(200, &[YESTERDAY, DATED]), Some(8_640));
        assert_eq!(heuristic(200, &[YESTERDAY]), Some(8_640));
        assert_eq!(heuristic(200, &[("last-modified", "Mon, 23 Nov 2020 00:00:00 GMT")]), Some(86_400));
        assert_eq!(heuristic(200, &[("last-modified", "Tue, 24 Nov 2026 00:00:00 GMT")]), Some(0));
        assert_eq!(heuristic(200, &[("last-modified", "yesterday")]), None);
        assert_eq!(heuristic(200, &[("cache-control", "public")]), None);
    }

    #[test]
    fn only_some_statuses_are_estimated_unless_public() {
        for status in [200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501] {
            assert_eq!(heuristic(status, &[YESTERDAY]), Some(8_640), "{status}");
        }
        for status in [201, 202, 206, 302, 303, 307, 400, 403, 500, 502, 503, 504, 599] {
            assert_eq!(heuristic(status, &[YESTERDAY]), None, "{status}");
            assert_eq!(heuristic(status, &[YESTERDAY, ("cache-control", "public")]), Some(8_640), "{status}");
        }
    }

    #[test]
    fn nothing_is_estimated_where_something_is_stated() {
        let cases: [Fields; 3] = [
            &[YESTERDAY, ("cache-control", "max-age=0")],
            &[YESTERDAY, ("expires", "0")],
            &[YESTERDAY, ("cdn-cache-control", "max-age=soon")],
        ];
        for fields in cases {
            let expected = Lifetime { millis: 0, source: LifetimeSource::Response };
            assert_eq!(lifetime_under(&CachingPolicy::strict(), 200, fields, Some(60)), Some(expected), "{fields:?}");
        }
        assert_eq!(lifetime_under(&CachingPolicy::safe(), 200, &[YESTERDAY], None), None);
    }

    #[test]
    fn a_targeted_lifetime_silences_all_others() {
        let cases: [(Fields, u64); 5] = [
            (&[("cdn-cache-control", "max-age=60"), ("expires", "0")], 60),
            (&[("cdn-cache-control", "max-age=0"), ("expires", "Fri, 31 Dec 9999 23:59:59 GMT")], 0),
            (&[("cdn-cache-control", "max-age=3600"), ("cache-control", "max-age=1")], 3600),
            (&[("cdn-cache-control", "max-age=1"), ("cache-control", "max-age=3600")], 1),
            (&[("cdn-cache-control", "max-age=2, s-maxage=3"), ("cache-control", "no-store")], 3),
        ];
        for (fields, expected) in cases {
            let lifetime = lifetime_under(&CachingPolicy::strict(), 200, fields, None).unwrap();
            assert_eq!((lifetime.millis, lifetime.source), (expected * 1000, LifetimeSource::Response), "{fields:?}");
        }
        let only_others: Fields = &[("cdn-cache-control", "foo"), ("cache-control", "max-age=5"), ("expires", "0")];
        assert_eq!(lifetime_under(&CachingPolicy::strict(), 200, only_others, None), None);
    }

    #[test]
    fn a_rule_speaks_for_successes_that_say_nothing() {
        let rule = |status, fields| lifetime_under(&CachingPolicy::strict(), status, fields, Some(60));
        for status in [200, 203, 204] {
            let expected = Lifetime { millis: 60, source: LifetimeSource::Rule };
            assert_eq!(rule(status, &[YESTERDAY]), Some(expected), "{status}");
        }
        for status in [201, 300, 301, 302, 308, 404, 500, 501] {
            assert_eq!(rule(status, &[]), None, "{status}");
        }
        assert_eq!(rule(200, &[("cache-control", "max-age=5")]).unwrap().millis, 5_000);
    }

    #[test]
    fn errors_have_their_own_rule() {
        let mut policy = CachingPolicy::safe();
        policy.negative_ttl.insert(404, 10);
        let expected = Lifetime { millis: 10, source: LifetimeSource::Rule };
        assert_eq!(lifetime_under(&policy, 404, &[], Some(60)), Some(expected));
        assert_eq!(lifetime_under(&policy, 410, &[], Some(60)), None);
        assert_eq!(lifetime_under(&policy, 404, &[("cache-control", "max-age=5")], None).unwrap().millis, 5_000);
    }

    #[test]
    fn no_lifetime_exceeds_the_cap() {
        let policy = CachingPolicy { ttl_cap: Some(30_000), ..CachingPolicy::strict() };
        assert_eq!(lifetime_under(&policy, 200, &[("cache-control", "max-age=60")], None).unwrap().millis, 30_000);
        assert_eq!(lifetime_under(&policy, 200, &[], Some(60_000)).unwrap().millis, 30_000);
        assert_eq!(lifetime_under(&policy, 200, &[YESTERDAY], None).unwrap().millis, 30_000);
        assert_eq!(lifetime_under(&policy, 200, &[("cache-control", "max-age=5")], None).unwrap().millis, 5_000);
    }
}
