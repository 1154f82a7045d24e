//! How long a response stays fresh, and how old it already is (RFC 9111, section 4.2).

use http::header::{AGE, DATE, EXPIRES, HeaderMap};

use super::cache_control::CacheControl;
use super::date::parse_http_date;
use super::delta_seconds::DeltaSeconds;

/// The freshness lifetime that the application stated, in seconds.
///
/// The first of `s-maxage`, `max-age` and `Expires` decides. `None` when there is none of them; 0 when the
/// one that decides is invalid, which means stale.
pub(crate) fn explicit_lifetime(cc: &CacheControl, headers: &HeaderMap, response_time_ms: u64) -> Option<u64> {
    if let Some(stated) = cc.s_maxage.or(cc.max_age) {
        return Some(stated.seconds().unwrap_or(0));
    }
    let now_secs = response_time_ms / 1000;
    let mut lines = headers.get_all(EXPIRES).into_iter();
    let expires = lines.next()?;
    let expires = match lines.next() {
        None => parse_http_date(expires.as_bytes(), now_secs),
        Some(_) => None,
    };
    let date = date_value(headers, now_secs).unwrap_or(now_secs);
    let lifetime = expires.unwrap_or(0).saturating_sub(date);
    Some(lifetime.min(DeltaSeconds::MAX))
}

/// The age in seconds with which a response arrived: `corrected_initial_age` of RFC 9111, section 4.2.3.
pub(crate) fn initial_age(headers: &HeaderMap, request_time_ms: u64, response_time_ms: u64) -> u64 {
    let now_secs = response_time_ms / 1000;
    let date = date_value(headers, now_secs).unwrap_or(now_secs);
    let apparent_age = now_secs.saturating_sub(date);
    let response_delay = response_time_ms.saturating_sub(request_time_ms) / 1000;
    apparent_age.max(age_value(headers) + response_delay)
}

fn date_value(headers: &HeaderMap, now_secs: u64) -> Option<u64> {
    parse_http_date(headers.get(DATE)?.as_bytes(), now_secs)
}

/// The first member of the first line of `Age`: a list is an error, in which RFC 9111, section 5.1, picks
/// the first and ignores what is not an integer.
fn age_value(headers: &HeaderMap) -> u64 {
    headers
        .get(AGE)
        .and_then(|line| line.as_bytes().split(|&byte| byte == b',').next())
        .and_then(|member| DeltaSeconds::parse(member.trim_ascii()).seconds())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    /// `Mon, 23 Nov 2026 00:00:00 GMT`, and a fraction that must not matter.
    const NOW_MS: u64 = 1_795_392_000_900;

    type Fields = &'static [(&'static str, &'static str)];

    fn headers(fields: Fields) -> HeaderMap {
        let field = |&(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value));
        let mut headers = HeaderMap::new();
        for (name, value) in fields.iter().map(field) {
            headers.append(name, value);
        }
        headers
    }

    fn lifetime(fields: Fields) -> Option<u64> {
        let headers = headers(fields);
        explicit_lifetime(&CacheControl::from_headers(&headers), &headers, NOW_MS)
    }

    fn age(fields: Fields) -> u64 {
        initial_age(&headers(fields), NOW_MS, NOW_MS)
    }

    #[test]
    fn silence_is_not_staleness() {
        assert_eq!(lifetime(&[]), None);
        assert_eq!(lifetime(&[("cache-control", "public, stale-while-revalidate=60")]), None);
        assert_eq!(lifetime(&[("last-modified", "Mon, 23 Nov 2020 00:00:00 GMT")]), None);
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
            assert_eq!(lifetime(fields), Some(expected), "{fields:?}");
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
            assert_eq!(lifetime(fields), Some(0), "{fields:?}");
        }
    }

    #[test]
    fn expires_is_measured_from_date() {
        let cases: [(Fields, u64); 6] = [
            // A clock that is an hour fast, or slow, states the same span.
            (&[("date", "Mon, 23 Nov 2026 01:00:00 GMT"), ("expires", "Mon, 23 Nov 2026 01:01:00 GMT")], 60),
            (&[("date", "Sun, 22 Nov 2026 23:00:00 GMT"), ("expires", "Sun, 22 Nov 2026 23:01:00 GMT")], 60),
            (&[("date", "Mon, 23 Nov 2026 00:00:00 GMT"), ("expires", "Mon, 23 Nov 2026 00:00:00 GMT")], 0),
            (&[("date", "Mon, 23 Nov 2026 00:00:00 GMT"), ("expires", "Sun, 22 Nov 2026 00:00:00 GMT")], 0),
            (&[("date", "today"), ("expires", "Mon, 23 Nov 2026 00:01:00 GMT")], 60),
            (&[("expires", "Fri, 31 Dec 9999 23:59:59 GMT")], DeltaSeconds::MAX),
        ];
        for (fields, expected) in cases {
            assert_eq!(lifetime(fields), Some(expected), "{fields:?}");
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
        let headers = headers(&[("age", "10")]);
        assert_eq!(initial_age(&headers, NOW_MS - 2_500, NOW_MS), 12);
        // The clock was set back while the response was on its way.
        assert_eq!(initial_age(&headers, NOW_MS + 2_500, NOW_MS), 10);
    }
}
