//! How long a stored response may be used once it is stale (RFC 9111, section 4.2.4; RFC 5861).

use http::{
    HeaderMap, HeaderName, StatusCode,
    header::{ETAG, LAST_MODIFIED, SET_COOKIE},
};

use super::{
    cache_control::CacheControl,
    caching_policy::CachingPolicy,
    delta_seconds::DeltaSeconds,
    freshness::Lifetime,
    list::{has, has_any},
    received::Received,
};

/// Until when a stored response may be used for which purpose, in milliseconds since the Unix epoch. A purpose is permitted
/// while `now` is before its time; each time after `fresh` is at or after `fresh`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Windows {
    /// Used as fresh.
    pub(crate) fresh: u64,
    /// Used while it is validated in the background.
    pub(crate) stale_while_revalidate: u64,
    /// Used in place of an error.
    pub(crate) stale_if_error: u64,
    /// Used when the application gives no response at all.
    pub(crate) stale_if_disconnected: u64,
    /// Kept, for any of these or to be validated.
    pub(crate) keep: u64,
}

impl Windows {
    /// The windows of a response that was `initial_age` seconds old when it was received. Without a lifetime, it is stale from
    /// the start.
    pub(crate) fn new(
        policy: &CachingPolicy,
        received: &Received<'_>,
        lifetime: Option<Lifetime>,
        initial_age: u64,
    ) -> Self {
        let Received { headers, response_time, .. } = *received;
        let cc = &received.directives.cache_control;
        let lifetime = lifetime.filter(|_| !cc.no_cache).map_or(0, |lifetime| lifetime.millis);
        let fresh = response_time.saturating_add(lifetime).saturating_sub(initial_age.saturating_mul(1000));

        let stated =
            |stated: Option<DeltaSeconds>| stated.map(|stated| stated.seconds().unwrap_or(0).saturating_mul(1000));
        // A configured window is not a permission to send one client's cookie for longer.
        let configured = |millis| if millis > 0 && has(headers, &SET_COOKIE) { 0 } else { millis };
        let while_revalidate =
            stated(cc.stale_while_revalidate).unwrap_or_else(|| configured(policy.default_stale_while_revalidate));
        let if_error = stated(cc.stale_if_error).unwrap_or_else(|| configured(policy.default_stale_if_error));
        let (while_revalidate, if_error, if_disconnected) = if !forbids_stale_use(cc) {
            (while_revalidate, if_error, if_error.max(configured(policy.stale_if_disconnected)))
        } else if policy.s_maxage_permits_stale && !forbids_stale_use(&CacheControl { s_maxage: None, ..cc.clone() }) {
            let if_error = stated(cc.stale_if_error).unwrap_or(0);
            (stated(cc.stale_while_revalidate).unwrap_or(0), if_error, if_error)
        } else {
            (0, 0, 0)
        };

        let stale_while_revalidate = fresh.saturating_add(while_revalidate);
        let stale_if_error = fresh.saturating_add(if_error);
        let stale_if_disconnected = fresh.saturating_add(if_disconnected);
        // A private cache's client may take it stale, whether or not it can be validated (`max-stale`).
        let is_wanted_stale = policy.private && fresh > response_time && !forbids_stale_use(cc);
        let longer = if is_wanted_stale || has_validator(headers) { policy.keep_for_validation } else { 0 };
        let keep = fresh
            .max(response_time)
            .saturating_add(longer)
            .max(stale_while_revalidate)
            .max(stale_if_error)
            .max(stale_if_disconnected);
        Self { fresh, stale_while_revalidate, stale_if_error, stale_if_disconnected, keep }
    }

    /// Whether the response will be of any use after its arrival at `response_time_ms`.
    pub(crate) fn are_worth_storing(&self, response_time_ms: u64) -> bool {
        self.keep > response_time_ms
    }
}

/// Whether the response must not be used stale, even where a request or the configuration permits it.
pub(crate) fn forbids_stale_use(cc: &CacheControl) -> bool {
    cc.no_cache || cc.must_revalidate || cc.proxy_revalidate || cc.s_maxage.is_some()
}

/// Whether the response has a validator.
pub(crate) fn has_validator(headers: &HeaderMap) -> bool {
    static VALIDATORS: [HeaderName; 2] = [ETAG, LAST_MODIFIED];
    has_any(headers, &VALIDATORS)
}

/// Whether a response with this status is an error that a stale response may stand in for (RFC 5861, section 4).
pub(crate) fn is_replaceable_error(status: StatusCode) -> bool {
    matches!(status.as_u16(), 500 | 502 | 503 | 504)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;
    use crate::semantics::{freshness::LifetimeSource, targeted::ResponseDirectives, test_fields::headers};

    const NOW: u64 = 1_000_000;

    fn policy() -> CachingPolicy {
        CachingPolicy { keep_for_validation: 0, stale_if_disconnected: 0, ..CachingPolicy::strict() }
    }

    fn windows_of(policy: &CachingPolicy, fields: &[(&'static str, &'static str)], lifetime: u64, age: u64) -> Windows {
        let headers = headers(fields);
        let directives = ResponseDirectives::from_headers(&headers, &policy.targets);
        let lifetime = Lifetime { millis: lifetime * 1000, source: LifetimeSource::Response };
        Windows::new(policy, &Received::at(NOW, StatusCode::OK, &headers, &directives), Some(lifetime), age)
    }

    /// Seconds after [`NOW`].
    fn seconds(windows: &Windows) -> [i64; 5] {
        let Windows { fresh, stale_while_revalidate, stale_if_error, stale_if_disconnected, keep } = *windows;
        [fresh, stale_while_revalidate, stale_if_error, stale_if_disconnected, keep]
            .map(|moment| (moment as i64 - NOW as i64) / 1000)
    }

    fn cc(line: &'static str) -> [i64; 5] {
        seconds(&windows_of(&policy(), &[("cache-control", line)], 10, 4))
    }

    #[test]
    fn freshness_ends_when_the_age_reaches_the_lifetime() {
        assert_eq!(cc("max-age=10"), [6; 5]);
        assert_eq!(seconds(&windows_of(&policy(), &[], 10, 10)), [0; 5]);
    }

    #[test]
    fn stale_windows_begin_where_freshness_ends() {
        assert_eq!(cc("max-age=10, stale-while-revalidate=5"), [6, 11, 6, 6, 11]);
        assert_eq!(cc("max-age=10, stale-if-error=60"), [6, 6, 66, 66, 66]);
        assert_eq!(cc("max-age=10, stale-if-error=soon, stale-while-revalidate=-1"), [6; 5]);
        let arrived_stale = windows_of(&policy(), &[("cache-control", "stale-while-revalidate=5")], 10, 12);
        assert_eq!(seconds(&arrived_stale), [-2, 3, -2, -2, 3]);
    }

    #[test]
    fn nothing_permits_what_the_response_forbids() {
        let generous = CachingPolicy {
            default_stale_while_revalidate: 100_000,
            default_stale_if_error: 100_000,
            stale_if_disconnected: 100_000,
            ..policy()
        };
        for line in ["must-revalidate", "proxy-revalidate", "s-maxage=10", "s-maxage=soon"] {
            let line = format!("max-age=10, stale-while-revalidate=50, stale-if-error=50, {line}");
            let mut headers = HeaderMap::new();
            headers.insert("cache-control", HeaderValue::from_str(&line).unwrap());
            let directives = ResponseDirectives::from_headers(&headers, &[]);
            let lifetime = Some(Lifetime { millis: 10_000, source: LifetimeSource::Response });
            let received = Received::at(NOW, StatusCode::OK, &headers, &directives);
            let windows = Windows::new(&generous, &received, lifetime, 4);
            assert_eq!(seconds(&windows), [6; 5], "{line}");
        }
    }

    #[test]
    fn what_must_be_validated_each_time_is_never_fresh() {
        let generous = CachingPolicy { default_stale_if_error: 100_000, ..policy() };
        let fields = [("cache-control", "max-age=10, no-cache, stale-while-revalidate=5")];
        assert_eq!(seconds(&windows_of(&generous, &fields, 10, 0)), [0; 5]);
        let keeping = CachingPolicy { keep_for_validation: 60_000, ..generous };
        let validator = [fields[0], ("etag", "\"a\"")];
        assert_eq!(seconds(&windows_of(&keeping, &validator, 10, 0)), [0, 0, 0, 0, 60]);
    }

    #[test]
    fn s_maxage_permits_stated_windows_by_choice() {
        let chosen = CachingPolicy { s_maxage_permits_stale: true, stale_if_disconnected: 500_000, ..policy() };
        let stated = |line| seconds(&windows_of(&chosen, &[("cache-control", line)], 10, 4));
        assert_eq!(stated("s-maxage=10, stale-while-revalidate=30, stale-if-error=5"), [6, 36, 11, 11, 36]);
        assert_eq!(stated("s-maxage=10"), [6; 5]);
        assert_eq!(stated("s-maxage=10, stale-while-revalidate=30, must-revalidate"), [6; 5]);
        let unchosen = CachingPolicy { s_maxage_permits_stale: false, ..chosen.clone() };
        assert_eq!(
            seconds(&windows_of(&unchosen, &[("cache-control", "s-maxage=10, stale-if-error=9")], 10, 4)),
            [6; 5]
        );
    }

    #[test]
    fn configured_windows_hold_where_none_is_stated() {
        let configured = CachingPolicy {
            default_stale_while_revalidate: 20_000,
            default_stale_if_error: 30_000,
            stale_if_disconnected: 40_000,
            ..policy()
        };
        let windows = |fields| seconds(&windows_of(&configured, fields, 10, 4));
        assert_eq!(windows(&[]), [6, 26, 36, 46, 46]);
        assert_eq!(windows(&[("cache-control", "stale-while-revalidate=1, stale-if-error=2")]), [6, 7, 8, 46, 46]);
        assert_eq!(windows(&[("set-cookie", "a=b")]), [6; 5]);
        assert_eq!(windows(&[("set-cookie", "a=b"), ("cache-control", "stale-if-error=2")]), [6, 6, 8, 8, 8]);
    }

    #[test]
    fn what_can_be_validated_is_kept_longer() {
        let policy = CachingPolicy { keep_for_validation: 60_000, ..policy() };
        for field in [("etag", "\"a\""), ("last-modified", "Mon, 23 Nov 2020 00:00:00 GMT")] {
            assert_eq!(seconds(&windows_of(&policy, &[field], 10, 4)), [6, 6, 6, 6, 66]);
            assert_eq!(seconds(&windows_of(&policy, &[field], 10, 100))[4], 60);
        }
        assert_eq!(seconds(&windows_of(&policy, &[], 10, 4))[4], 6);
    }

    #[test]
    fn a_private_cache_keeps_what_its_client_may_take_stale() {
        let policy = CachingPolicy { private: true, keep_for_validation: 60_000, ..policy() };
        assert_eq!(seconds(&windows_of(&policy, &[], 10, 4)), [6, 6, 6, 6, 66]);
        assert_eq!(seconds(&windows_of(&policy, &[], 10, 100))[4], 0, "it has not been fresh");
        for line in ["must-revalidate", "no-cache"] {
            let kept = seconds(&windows_of(&policy, &[("cache-control", line)], 10, 4))[4];
            assert!(kept <= 6, "{line}: {kept}");
        }
    }

    #[test]
    fn only_what_will_be_of_use_is_worth_storing() {
        assert!(windows_of(&policy(), &[], 10, 9).are_worth_storing(NOW));
        assert!(!windows_of(&policy(), &[], 10, 10).are_worth_storing(NOW));
        assert!(windows_of(&policy(), &[("cache-control", "stale-if-error=5")], 10, 10).are_worth_storing(NOW));
        let (headers, directives) = (HeaderMap::new(), ResponseDirectives::default());
        let received = Received::at(NOW, StatusCode::OK, &headers, &directives);
        let nothing_stated = Windows::new(&policy(), &received, None, 0);
        assert!(!nothing_stated.are_worth_storing(NOW));
    }

    #[test]
    fn only_errors_of_the_server_are_replaced() {
        let replaced: Vec<u16> =
            (100..1000).filter(|&status| is_replaceable_error(StatusCode::from_u16(status).unwrap())).collect();
        assert_eq!(replaced, [500, 502, 503, 504]);
    }

    proptest! {
        #[test]
        fn no_moment_lies_before_the_end_of_freshness(
            lifetime: u64,
            age: u64,
            swr: u64,
            sie: u64,
            stated: Option<u64>,
            now: u64,
        ) {
            let policy = CachingPolicy {
                default_stale_while_revalidate: swr,
                default_stale_if_error: sie,
                ..CachingPolicy::strict()
            };
            let lifetime = Some(Lifetime { millis: lifetime, source: LifetimeSource::Rule });
            let (headers, mut directives) = (HeaderMap::new(), ResponseDirectives::default());
            directives.cache_control.stale_if_error = stated.map(DeltaSeconds::Seconds);
            let received = Received::at(now, StatusCode::OK, &headers, &directives);
            let windows = Windows::new(&policy, &received, lifetime, age);
            prop_assert!(windows.stale_while_revalidate >= windows.fresh);
            prop_assert!(windows.stale_if_disconnected >= windows.stale_if_error);
            prop_assert!(windows.stale_if_error >= windows.fresh);
            prop_assert!(windows.keep >= windows.stale_while_revalidate.max(windows.stale_if_disconnected));
        }
    }
}
