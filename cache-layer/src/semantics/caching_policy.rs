//! The choices that the specifications leave to a cache.

use std::collections::BTreeMap;

use http::{HeaderMap, HeaderName, header::AUTHORIZATION};

use super::{
    cache_control::CacheControl,
    list::{has, has_any},
    targeted::ResponseDirectives,
    vary::Normalization,
};

/// What to do where RFC 9111 and its companions say "may". Durations are in milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CachingPolicy {
    /// The cache is private: it keeps responses for one owner (RFC 9111, section 1).
    pub(crate) private: bool,
    /// Request fields with credentials, besides `Authorization`.
    pub(crate) credentials: Vec<HeaderName>,
    /// The targeted fields that address this cache, the most specific first (RFC 9213, section 2.2).
    pub(crate) targets: Vec<HeaderName>,
    /// Estimate a lifetime from `Last-Modified` where none is stated (RFC 9111, section 4.2.2).
    pub(crate) heuristics: bool,
    /// What happens to a response that sets a cookie (RFC 9111, section 7.3).
    pub(crate) set_cookie: SetCookie,
    /// Keep a response with `Content-Range` whose status is not 206, so that the field has no meaning (RFC 9110, section 14.4).
    pub(crate) stray_content_range: bool,
    /// Keep a response to POST for GET, under the terms of RFC 9110, section 9.3.3.
    pub(crate) post_for_get: bool,
    /// By status: how long responses are fresh that state no freshness themselves.
    pub(crate) negative_ttl: BTreeMap<u16, u64>,
    /// No response is fresh for longer.
    pub(crate) ttl_cap: Option<u64>,
    /// `stale-while-revalidate` where the response has none.
    pub(crate) default_stale_while_revalidate: u64,
    /// `stale-if-error` where the response has none.
    pub(crate) default_stale_if_error: u64,
    /// Honour `stale-while-revalidate` and `stale-if-error` beside `s-maxage`, which by RFC 9111, section
    /// 5.2.2.10, forbids all stale use. The combination is common and meant.
    pub(crate) s_maxage_permits_stale: bool,
    /// How long a stale response is used without permission when the application can't be reached (RFC 9111,
    /// section 4.2.4).
    pub(crate) stale_if_disconnected: u64,
    /// How long a stale response is kept that can be validated.
    pub(crate) keep_for_validation: u64,
    /// Honour the directives of requests (RFC 9111, section 5.2.1), by which any client could make requests bypass the
    /// cache; `no-store` is always honoured.
    pub(crate) request_directives: bool,
    /// Which spellings of a selecting field count as equal.
    pub(crate) normalization: Normalization,
    /// Query parameters that are no part of the key; a name that ends in `*` is a prefix.
    pub(crate) ignored_query: Vec<String>,
}

/// A starting point for all choices that the specifications leave to a cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Profile {
    /// A response is shared only if the application clearly meant it to be: it needs explicit freshness or a rule, and must not
    /// set a cookie, and no client can decide for other clients. The default.
    #[default]
    Safe,
    /// Whatever the specifications permit: heuristic freshness, responses with `Set-Cookie`, directives of requests,
    /// `CDN-Cache-Control`, stale responses when the application can't be reached; and the response to a POST, if it states its
    /// freshness and its `Content-Location` is the URI of the POST, answers GET as well. For comparison with other caches.
    ///
    /// For that, each POST takes the lease of its URI for a sixth of the lock timeout, and a GET that finds nothing waits for it,
    /// unless it is part of that POST. A response to POST that is to be kept reaches its client when it is stored, or has not been
    /// for as long again. It is not kept if something was invalidated meanwhile that it is made of, while loads of its URI back off
    /// after failures, or if keys have more parts than the URI.
    Strict,
}

/// What happens to a response that sets a cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SetCookie {
    /// It is not stored. If a 304 sets the cookie, the response that it confirms is stored without it.
    Refuse,
    /// It is stored without its cookies; the client whose request loaded it gets them.
    Strip,
    /// It is stored as it is, and every client gets the cookie.
    Keep,
}

const HOUR: u64 = 3_600_000;

impl CachingPolicy {
    /// The choices of a profile.
    pub(crate) fn of(profile: Profile) -> Self {
        match profile {
            Profile::Safe => Self::safe(),
            Profile::Strict => Self::strict(),
        }
    }

    /// The choices of [`Profile::Safe`].
    pub(crate) fn safe() -> Self {
        Self {
            private: false,
            credentials: Vec::new(),
            targets: Vec::new(),
            heuristics: false,
            set_cookie: SetCookie::Refuse,
            stray_content_range: false,
            post_for_get: false,
            negative_ttl: BTreeMap::new(),
            ttl_cap: None,
            default_stale_while_revalidate: 0,
            default_stale_if_error: 0,
            s_maxage_permits_stale: false,
            stale_if_disconnected: 0,
            keep_for_validation: HOUR,
            request_directives: false,
            normalization: Normalization::safe(),
            ignored_query: Vec::new(),
        }
    }

    /// The choices of [`Profile::Strict`].
    pub(crate) fn strict() -> Self {
        Self {
            targets: vec![HeaderName::from_static("cdn-cache-control")],
            heuristics: true,
            set_cookie: SetCookie::Keep,
            stray_content_range: true,
            post_for_get: true,
            stale_if_disconnected: 24 * HOUR,
            keep_for_validation: 24 * HOUR,
            request_directives: true,
            normalization: Normalization::permitted(),
            ..Self::safe()
        }
    }

    /// The choices of a private cache: as a browser, for one owner.
    pub(crate) fn private() -> Self {
        Self {
            private: true,
            heuristics: true,
            // A hit that set a cookie again would undo a later change of that cookie.
            set_cookie: SetCookie::Strip,
            stray_content_range: true,
            keep_for_validation: 24 * HOUR,
            request_directives: true,
            ..Self::safe()
        }
    }

    /// Whether a request has credentials (RFC 9111, section 3.5). Cookies are not among them: what they forbid depends on more.
    pub(crate) fn has_credentials(&self, request: &HeaderMap) -> bool {
        has(request, &AUTHORIZATION) || (!self.credentials.is_empty() && has_any(request, &self.credentials))
    }

    /// A response's directives for this cache. A private cache ignores directives for shared caches (RFC 9111, sections
    /// 5.2.2.7, 5.2.2.8 and 5.2.2.10).
    pub(crate) fn directives(&self, headers: &HeaderMap) -> ResponseDirectives {
        let directives = ResponseDirectives::from_headers(headers, &self.targets);
        if !self.private {
            return directives;
        }
        let ResponseDirectives { cache_control, targeted } = directives;
        let cache_control = CacheControl {
            private: false,
            private_fields: Vec::new(),
            proxy_revalidate: false,
            s_maxage: None,
            ..cache_control
        };
        ResponseDirectives { cache_control, targeted }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::semantics::{delta_seconds::DeltaSeconds::Seconds, test_fields::headers};

    #[test]
    fn what_is_said_to_shared_caches_is_not_said_to_a_private_one() {
        let line =
            "private=\"set-cookie\", s-maxage=1, proxy-revalidate, max-age=60, must-revalidate, no-cache, public";
        let fields = headers(&[("cache-control", line), ("cdn-cache-control", "no-store")]);
        let shared = CachingPolicy::strict().directives(&fields);
        assert!(shared.targeted && shared.cache_control.no_store);
        let shared = CachingPolicy::safe().directives(&fields).cache_control;
        assert!(shared.private && shared.proxy_revalidate && shared.s_maxage == Some(Seconds(1)));
        let private = CachingPolicy::private().directives(&fields);
        let kept = CacheControl {
            max_age: Some(Seconds(60)),
            must_revalidate: true,
            no_cache: true,
            public: true,
            ..CacheControl::default()
        };
        assert_eq!(private, ResponseDirectives { cache_control: kept, targeted: false });
    }
}
