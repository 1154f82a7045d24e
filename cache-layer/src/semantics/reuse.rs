//! What a request says about the stored response that it wants (RFC 9111, section 5.2.1).

use http::{
    HeaderMap,
    header::{CACHE_CONTROL, PRAGMA},
};

use super::{
    cache_control::CacheControl,
    delta_seconds::DeltaSeconds,
    list::{has_any, members},
};

/// The directives of a request, if they are honoured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RequestDirectives {
    cache_control: CacheControl,
}

/// A stored response that was selected for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    /// Its age, in seconds.
    pub(crate) age: u64,
    /// The milliseconds for which it stays fresh; it is stale at 0 and below.
    pub(crate) freshness_left_ms: i64,
    /// It does not change while it is fresh (RFC 8246).
    pub(crate) immutable: bool,
    /// It must not be used stale, or only for the client that it was made for.
    pub(crate) never_stale: bool,
}

/// The decision about a candidate for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reuse {
    /// It is fresh and answers the request.
    Fresh,
    /// It is stale, and the client accepts that.
    AcceptedStale,
    /// It is stale, and the request says nothing about that.
    Stale,
    /// The request demands validation, or another response.
    Unwanted,
}

impl RequestDirectives {
    /// The directives of a request; none, if they are not to be honoured.
    pub(crate) fn from_headers(headers: &HeaderMap, honoured: bool) -> Self {
        if !honoured || !has_any(headers, &[CACHE_CONTROL, PRAGMA]) {
            return Self::default();
        }
        let mut cache_control = CacheControl::from_headers(headers);
        // RFC 9111, section 5.4: HTTP/1.0 has `Pragma` instead.
        if !headers.contains_key(CACHE_CONTROL) {
            cache_control.no_cache = members(headers, &PRAGMA).any(|member| member.eq_ignore_ascii_case(b"no-cache"));
        }
        Self { cache_control }
    }

    /// The same, but a stored response has to be validated or loaded anew.
    pub(crate) fn refreshing(mut self) -> Self {
        self.cache_control.no_cache = true;
        self
    }

    /// Whether the client wants no other answer than a stored one; if there is none, it gets a 504.
    pub(crate) fn only_if_cached(&self) -> bool {
        self.cache_control.only_if_cached
    }

    /// Whether, and how, a stored response may answer the request.
    pub(crate) fn reuse(&self, candidate: Candidate) -> Reuse {
        let cc = &self.cache_control;
        let fresh = candidate.freshness_left_ms > 0;
        if cc.no_cache {
            return Reuse::Unwanted;
        }
        // A browser that reloads a page asks for age 0 with every request; an immutable response need not be validated.
        let reload_is_moot = fresh && candidate.immutable;
        if let Some(max_age) = cc.max_age.map(at_most).filter(|_| !reload_is_moot)
            && (candidate.age > max_age || max_age == 0)
        {
            return Reuse::Unwanted;
        }
        if cc.min_fresh.is_some_and(|wanted| !stays_fresh(candidate, wanted)) {
            return Reuse::Unwanted;
        }
        let accepted =
            cc.max_stale.is_some_and(|limit| candidate.freshness_left_ms.unsigned_abs() <= at_most(limit) * 1000);
        if fresh {
            Reuse::Fresh
        } else if accepted && !candidate.never_stale {
            Reuse::AcceptedStale
        } else {
            Reuse::Stale
        }
    }

    /// Whether the request permits a response that has been stale for `seconds_stale` in place of an error, if the response
    /// itself permits it.
    pub(crate) fn accepts_stale_on_error(&self, seconds_stale: u64) -> bool {
        let cc = &self.cache_control;
        !cc.no_cache && cc.stale_if_error.is_none_or(|limit| seconds_stale <= at_most(limit))
    }
}

/// The limit in seconds; an invalid limit counts as reached.
fn at_most(limit: DeltaSeconds) -> u64 {
    limit.seconds().unwrap_or(0)
}

fn stays_fresh(candidate: Candidate, wanted: DeltaSeconds) -> bool {
    let left = u64::try_from(candidate.freshness_left_ms).unwrap_or(0);
    wanted.seconds().is_some_and(|wanted| left >= wanted * 1000)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    const FRESH: Candidate = Candidate { age: 30, freshness_left_ms: 70_000, immutable: false, never_stale: false };
    const STALE: Candidate = Candidate { age: 130, freshness_left_ms: -30_000, immutable: false, never_stale: false };

    fn request(fields: &[(&'static str, &'static str)]) -> RequestDirectives {
        let mut headers = HeaderMap::new();
        for &(name, value) in fields {
            headers.append(name, HeaderValue::from_static(value));
        }
        RequestDirectives::from_headers(&headers, true)
    }

    fn reuse(line: &'static str, candidate: Candidate) -> Reuse {
        request(&[("cache-control", line)]).reuse(candidate)
    }

    #[test]
    fn a_request_that_wants_nothing_special_takes_what_is_fresh() {
        for line in ["nothing-to-see-here", "max-age=30", "max-age=3600", "min-fresh=70", "max-stale", "no-transform"] {
            assert_eq!(reuse(line, FRESH), Reuse::Fresh, "{line}");
        }
        assert_eq!(request(&[("pragma", "foo")]).reuse(FRESH), Reuse::Fresh);
        assert_eq!(RequestDirectives::default().reuse(STALE), Reuse::Stale);
        assert_eq!(reuse("foo", Candidate { freshness_left_ms: 0, ..FRESH }), Reuse::Stale);
    }

    #[test]
    fn a_client_may_want_it_younger() {
        for line in ["no-cache", "max-age=0", "max-age=29", "max-age=soon", "min-fresh=71", "min-fresh=soon"] {
            assert_eq!(reuse(line, FRESH), Reuse::Unwanted, "{line}");
        }
        assert_eq!(reuse("max-age=0", Candidate { age: 0, ..FRESH }), Reuse::Unwanted);
        assert_eq!(reuse("min-fresh=1", STALE), Reuse::Unwanted);
    }

    #[test]
    fn pragma_counts_only_without_cache_control() {
        assert_eq!(request(&[("pragma", "No-Cache")]).reuse(FRESH), Reuse::Unwanted);
        assert_eq!(request(&[("pragma", "foo, no-cache")]).reuse(FRESH), Reuse::Unwanted);
        assert_eq!(request(&[("pragma", "no-cache"), ("cache-control", "foo")]).reuse(FRESH), Reuse::Fresh);
    }

    #[test]
    fn a_client_may_accept_it_stale() {
        for (line, expected) in [
            ("max-stale", Reuse::AcceptedStale),
            ("max-stale=30", Reuse::AcceptedStale),
            ("max-stale=29", Reuse::Stale),
            ("max-stale=soon", Reuse::Stale),
            ("max-stale, max-age=129", Reuse::Unwanted),
            ("max-stale, no-cache", Reuse::Unwanted),
        ] {
            assert_eq!(reuse(line, STALE), expected, "{line}");
        }
    }

    #[test]
    fn no_client_accepts_what_must_not_be_used_stale() {
        assert_eq!(reuse("max-stale", Candidate { never_stale: true, ..STALE }), Reuse::Stale);
    }

    #[test]
    fn a_reload_does_not_validate_what_cannot_have_changed() {
        let immutable = Candidate { immutable: true, ..FRESH };
        assert_eq!(reuse("max-age=0", immutable), Reuse::Fresh);
        assert_eq!(reuse("no-cache", immutable), Reuse::Unwanted);
        assert_eq!(reuse("max-age=0", Candidate { immutable: true, ..STALE }), Reuse::Unwanted);
    }

    #[test]
    fn only_a_stored_answer_can_be_asked_for() {
        assert!(request(&[("cache-control", "only-if-cached")]).only_if_cached());
        assert!(!request(&[]).only_if_cached());
    }

    #[test]
    fn a_client_may_narrow_the_use_on_errors() {
        for (line, stale, expected) in [
            ("foo", u64::MAX, true),
            ("stale-if-error=30", 30, true),
            ("stale-if-error=30", 31, false),
            ("stale-if-error=soon", 1, false),
            ("no-cache", 1, false),
        ] {
            assert_eq!(request(&[("cache-control", line)]).accepts_stale_on_error(stale), expected, "{line}");
        }
    }

    proptest! {
        #[test]
        fn what_is_not_honoured_changes_nothing(age: u64, freshness_left_ms: i64, immutable: bool, never_stale: bool) {
            let mut headers = HeaderMap::new();
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, max-age=0, max-stale, only-if-cached"));
            headers.insert(PRAGMA, HeaderValue::from_static("no-cache"));
            let ignored = RequestDirectives::from_headers(&headers, false);
            let candidate = Candidate { age, freshness_left_ms, immutable, never_stale };
            prop_assert_eq!(ignored.reuse(candidate), if freshness_left_ms > 0 { Reuse::Fresh } else { Reuse::Stale });
            prop_assert!(!ignored.only_if_cached());
        }

        #[test]
        fn only_max_stale_makes_a_stale_response_acceptable(
            wishes in prop::collection::vec(
                prop::sample::select(vec!["no-cache", "max-age=100", "min-fresh=0", "immutable", "stale-if-error=9"]),
                0..4,
            ),
            stale in i64::MIN..=0,
            never_stale: bool,
        ) {
            let line = wishes.join(", ");
            let mut headers = HeaderMap::new();
            headers.insert(CACHE_CONTROL, HeaderValue::from_str(&line).unwrap());
            let candidate = Candidate { age: 5, freshness_left_ms: stale, immutable: true, never_stale };
            let reuse = RequestDirectives::from_headers(&headers, true).reuse(candidate);
            prop_assert!(matches!(reuse, Reuse::Stale | Reuse::Unwanted));
        }
    }
}
