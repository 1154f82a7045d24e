//! The remaining freshness of a response, in fields for caches that ignore `Age`.

use std::cell::Cell;

use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::{
    entry::Deadlines,
    policy::Remaining,
    semantics::{
        cache_control::CacheControl,
        date::{parse_http_date, write_http_date},
        delta_seconds::DeltaSeconds,
        freshness::explicit_lifetime,
        targeted::ResponseDirectives,
    },
};

/// A field that nginx reads from its upstream servers.
const X_ACCEL_EXPIRES: HeaderName = HeaderName::from_static("x-accel-expires");

/// The remaining freshness of a response, in seconds.
pub(super) struct RemainingFreshness {
    age: u64,
    /// The time for which the response is still fresh; 0 for a stale one.
    fresh: u64,
    stale_while_revalidate: u64,
    stale_if_error: u64,
    /// Since the Unix epoch.
    now: u64,
}

impl RemainingFreshness {
    /// For a response of this age in seconds; `now` is in milliseconds, as the deadlines are.
    pub(super) fn new(age: u64, deadlines: &Deadlines, now: u64) -> Self {
        // Rounded up, because the age is rounded down: their sum is the lifetime that the response has stated.
        let until = |deadline: u64| deadline.saturating_sub(now).div_ceil(1000);
        Self {
            age,
            fresh: until(deadlines.fresh),
            stale_while_revalidate: until(deadlines.stale_while_revalidate),
            stale_if_error: until(deadlines.stale_if_error),
            now: now / 1000,
        }
    }

    /// The same, for answers that are dated by a clock that now shows `now`, in milliseconds.
    pub(super) fn dated_by(self, now: u64) -> Self {
        Self { now: now / 1000, ..self }
    }

    /// Adds it to the fields of an answer.
    pub(super) fn say(&self, headers: &mut HeaderMap, by: Remaining) {
        match by {
            Remaining::Age => {}
            Remaining::AccelExpires => self.say_to_nginx(headers),
            Remaining::MaxAge => self.say_by_max_age(headers),
        }
    }

    fn say_to_nginx(&self, headers: &mut HeaderMap) {
        let left = match headers.get(X_ACCEL_EXPIRES) {
            Some(stated) => {
                let Some(left) = self.stated_to_nginx(stated) else { return };
                left
            }
            // The field would override anything that forbids nginx to keep the response.
            None => {
                let directives = ResponseDirectives::from_headers(headers, &[]);
                let cc = &directives.cache_control;
                let forbidden = cc.no_store || cc.no_cache || cc.private;
                let Some(stated) = explicit_lifetime(&directives, headers, self.now * 1000).filter(|_| !forbidden)
                else {
                    return;
                };
                stated.saturating_sub(self.age).min(self.fresh)
            }
        };
        headers.insert(X_ACCEL_EXPIRES, HeaderValue::from(left));
    }

    /// The rest of the time that the application itself has stated. With an `@` it is an absolute time, which does not change.
    fn stated_to_nginx(&self, stated: &HeaderValue) -> Option<u64> {
        if self.fresh == 0 {
            // The response is stale, perhaps by a soft invalidation, whatever it has stated.
            return Some(0);
        }
        Some(DeltaSeconds::parse(stated.as_bytes()).seconds()?.saturating_sub(self.age))
    }

    fn say_by_max_age(&self, headers: &mut HeaderMap) {
        self.move_expires(headers);
        let left = headers.get(X_ACCEL_EXPIRES).and_then(|stated| self.stated_to_nginx(stated));
        if let Some(left) = left {
            headers.insert(X_ACCEL_EXPIRES, HeaderValue::from(left));
        }
        let states = Cell::new(headers.contains_key(header::EXPIRES));
        let for_shared = CacheControl::from_headers(headers).s_maxage.is_some();
        for (name, line) in headers.iter_mut() {
            let targeted = is_targeted(name);
            if !targeted && *name != header::CACHE_CONTROL {
                continue;
            }
            let seconds = |directive: &[u8], seconds: u64| match directive {
                b"max-age" | b"s-maxage" => {
                    states.set(true);
                    // A lifetime for other caches may be longer than the one for this cache, so it is reduced by the age only.
                    let for_others = targeted || (for_shared && directive == b"max-age");
                    let most = if for_others && self.fresh > 0 { u64::MAX } else { self.fresh };
                    seconds.saturating_sub(self.age).min(most)
                }
                // These windows begin when freshness ends, so a fresh response has all of them left.
                b"stale-while-revalidate" if self.fresh == 0 => seconds.min(self.stale_while_revalidate),
                b"stale-if-error" if self.fresh == 0 => seconds.min(self.stale_if_error),
                _ => seconds,
            };
            let changed = CacheControl::with_seconds(line.as_bytes(), seconds);
            if let Ok(changed) = HeaderValue::from_maybe_shared(bytes::Bytes::from(changed)) {
                *line = changed;
            }
        }
        // Otherwise caches estimate a lifetime, from these fields.
        if states.get() {
            headers.remove(header::AGE);
            headers.insert(header::DATE, write_http_date(self.now));
        }
    }

    /// Moves `Expires`, so that its distance to the new `Date` is the rest of its distance to the old one.
    fn move_expires(&self, headers: &mut HeaderMap) {
        let date = |name| parse_http_date(headers.get(name)?.as_bytes(), self.now);
        if let (Some(expires), Some(date)) = (date(header::EXPIRES), date(header::DATE)) {
            let left = expires.saturating_sub(date).saturating_sub(self.age);
            let cc = CacheControl::from_headers(headers);
            let decides = cc.s_maxage.or(cc.max_age).is_none();
            let left = if decides { left.min(self.fresh) } else { left };
            headers.insert(header::EXPIRES, write_http_date(self.now + left));
        }
    }
}

/// Whether a field is a `Cache-Control` for some caches only: a field of RFC 9213, by the convention for their names, or
/// `Surrogate-Control`.
fn is_targeted(name: &HeaderName) -> bool {
    name.as_str().ends_with("-cache-control") || name == "surrogate-control"
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 23 November 2026, 00:00:50 GMT.
    const NOW: u64 = 1_795_392_050_000;
    const DATE: (&str, &str) = ("date", "Mon, 23 Nov 2026 00:00:00 GMT");
    const NOW_DATE: (&str, &str) = ("date", "Mon, 23 Nov 2026 00:00:50 GMT");

    type Fields<'a> = &'a [(&'static str, &'static str)];

    fn left(age: u64, fresh_ms: i64) -> RemainingFreshness {
        let fresh = NOW.saturating_add_signed(fresh_ms);
        let deadlines = Deadlines {
            fresh,
            stale_while_revalidate: fresh + 20_000,
            stale_if_error: fresh + 60_000,
            made: NOW,
            gone: fresh + 100_000,
        };
        RemainingFreshness::new(age, &deadlines, NOW)
    }

    fn said(by: Remaining, left: &RemainingFreshness, fields: Fields<'_>) -> Vec<(String, String)> {
        let mut headers: HeaderMap = fields
            .iter()
            .map(|&(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect();
        left.say(&mut headers, by);
        let line = |(name, value): (&HeaderName, &HeaderValue)| (name.to_string(), value.to_str().unwrap().to_owned());
        headers.iter().map(line).collect()
    }

    fn accel_expires(left: &RemainingFreshness, fields: Fields<'_>) -> Option<String> {
        let said = said(Remaining::AccelExpires, left, fields);
        said.into_iter().find_map(|(name, value)| (name == "x-accel-expires").then_some(value))
    }

    #[track_caller]
    fn by_max_age(left: &RemainingFreshness, fields: Fields<'_>, expected: Fields<'_>) {
        let mut said = said(Remaining::MaxAge, left, fields);
        let mut expected: Vec<_> = expected.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
        said.sort();
        expected.sort();
        assert_eq!(said, expected);
    }

    #[test]
    fn by_age_nothing_is_added() {
        let fields = [("cache-control", "max-age=60"), ("age", "50"), DATE];
        assert_eq!(said(Remaining::Age, &left(50, 10_000), &fields).len(), 3);
    }

    #[test]
    fn nginx_is_told_what_a_shared_cache_has_left() {
        let ten = left(50, 10_000);
        for (expected, fields) in [
            (Some("10"), &[("cache-control", "max-age=60")][..]),
            (Some("10"), &[("cache-control", "s-maxage=60, max-age=600")]),
            (Some("0"), &[("cache-control", "max-age=50")]),
            (Some("10"), &[("expires", "Mon, 23 Nov 2026 00:01:00 GMT"), DATE]),
            // This cache keeps it no longer than that, for reasons of its own.
            (Some("10"), &[("cache-control", "max-age=600")]),
            // It says nothing to other caches, or that they may not have it: this must not be overruled.
            (None, &[]),
            (None, &[("cache-control", "max-age=60, private")]),
            (None, &[("cache-control", "max-age=60, no-cache")]),
            (None, &[("cache-control", "max-age=60, no-store, must-understand")]),
        ] {
            assert_eq!(accel_expires(&ten, fields).as_deref(), expected, "{fields:?}");
        }
        assert_eq!(accel_expires(&left(70, -10_000), &[("cache-control", "max-age=60")]).as_deref(), Some("0"));
    }

    #[test]
    fn what_the_application_says_to_nginx_ages() {
        let ten = left(50, 10_000);
        for (stated, expected) in [("600", "550"), ("40", "0"), ("0", "0"), ("@1795392060", "@1795392060"), ("x", "x")]
        {
            let fields = [("cache-control", "max-age=60"), ("x-accel-expires", stated)];
            assert_eq!(accel_expires(&ten, &fields).as_deref(), Some(expected));
        }
        // Softly invalidated.
        for stated in ["600", "@1795392060", "x"] {
            let fields = [("cache-control", "max-age=60"), ("x-accel-expires", stated)];
            assert_eq!(accel_expires(&left(50, 0), &fields).as_deref(), Some("0"), "{stated}");
        }
    }

    #[test]
    fn max_age_is_what_is_left_and_the_answer_is_of_now() {
        let ten = left(50, 10_000);
        by_max_age(
            &ten,
            &[("cache-control", "public, max-age=60, stale-while-revalidate=20"), ("age", "50"), ("etag", "1"), DATE],
            &[("cache-control", "public, max-age=10, stale-while-revalidate=20"), ("etag", "1"), NOW_DATE],
        );
        // For clients it may be fresh for longer.
        by_max_age(
            &ten,
            &[("cache-control", "s-maxage=60, max-age=600"), ("age", "50"), DATE],
            &[("cache-control", "s-maxage=10, max-age=550"), NOW_DATE],
        );
        // This cache keeps it no longer than that, for reasons of its own.
        by_max_age(&ten, &[("cache-control", "max-age=600"), DATE], &[("cache-control", "max-age=10"), NOW_DATE]);
    }

    #[test]
    fn max_age_is_lowered_in_whatever_field_it_is() {
        let ten = left(50, 10_000);
        by_max_age(
            &ten,
            &[
                ("cache-control", "max-age=60"),
                ("cdn-cache-control", "max-age=600"),
                ("own-cache-control", "s-maxage=55, stale-while-revalidate=20"),
                ("surrogate-control", "max-age=40, content=\"ESI/1.0\""),
                ("x-accel-expires", "600"),
                ("age", "50"),
                DATE,
            ],
            &[
                ("cache-control", "max-age=10"),
                ("cdn-cache-control", "max-age=550"),
                ("own-cache-control", "s-maxage=5, stale-while-revalidate=20"),
                ("surrogate-control", "max-age=0, content=\"ESI/1.0\""),
                ("x-accel-expires", "550"),
                NOW_DATE,
            ],
        );
        by_max_age(
            &ten,
            &[("cdn-cache-control", "max-age=60"), ("age", "50"), DATE],
            &[("cdn-cache-control", "max-age=10"), NOW_DATE],
        );
        // Softly invalidated five seconds ago.
        by_max_age(
            &left(50, -5_000),
            &[("cdn-cache-control", "max-age=600, stale-while-revalidate=20"), ("x-accel-expires", "600"), DATE],
            &[("cdn-cache-control", "max-age=0, stale-while-revalidate=15"), ("x-accel-expires", "0"), NOW_DATE],
        );
    }

    #[test]
    fn what_says_nothing_keeps_its_age() {
        let modified = ("last-modified", "Sun, 22 Nov 2026 00:00:00 GMT");
        for said in
            [&[modified, ("age", "50"), DATE][..], &[modified, ("cache-control", "public"), ("age", "50"), DATE]]
        {
            by_max_age(&left(50, 10_000), said, said);
        }
        by_max_age(
            &left(50, 10_000),
            &[modified, ("x-accel-expires", "60"), ("age", "50"), DATE],
            &[modified, ("x-accel-expires", "10"), ("age", "50"), DATE],
        );
    }

    #[test]
    fn of_what_is_stale_nothing_is_left_but_the_rest_of_its_windows() {
        by_max_age(
            &left(65, -5_000),
            &[("cache-control", "max-age=60, stale-while-revalidate=20"), ("cache-control", "stale-if-error=60"), DATE],
            &[
                ("cache-control", "max-age=0, stale-while-revalidate=15"),
                ("cache-control", "stale-if-error=55"),
                NOW_DATE,
            ],
        );
    }

    #[test]
    fn expires_moves_along() {
        let ten = left(50, 10_000);
        let minute_later = ("expires", "Mon, 23 Nov 2026 00:01:00 GMT");
        by_max_age(&ten, &[minute_later, DATE], &[minute_later, NOW_DATE]);
        // By the application's clock, which is behind.
        let (date, expires) = (("date", "Sun, 22 Nov 2026 23:00:00 GMT"), ("expires", "Sun, 22 Nov 2026 23:01:00 GMT"));
        by_max_age(&ten, &[expires, date], &[minute_later, NOW_DATE]);
        by_max_age(&ten, &[("expires", "0"), DATE], &[("expires", "0"), NOW_DATE]);
    }
}
