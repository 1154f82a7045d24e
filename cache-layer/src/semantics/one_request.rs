//! Fields of a response that are about one request, or for one client.

use http::{
    HeaderMap, HeaderName,
    header::{CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY_REPORT_ONLY},
};

/// Fields that describe one request: if they were replayed with a stored response, they would be wrong. A name that ends in
/// `*` is a prefix.
pub(crate) const OF_ONE_REQUEST: &[&str] = &[
    // Ids of the request.
    "x-request-id",
    "request-id",
    "x-correlation-id",
    "correlation-id",
    "x-trace-id",
    "traceparent",
    "tracestate",
    "traceresponse",
    "x-b3-*",
    "x-amzn-trace-id",
    "x-cloud-trace-context",
    // Timings.
    "server-timing",
    "x-runtime",
    "x-response-time",
    // The state of the client's rate limit.
    "ratelimit",
    "ratelimit-*",
    "x-ratelimit-*",
    "x-rate-limit-*",
];

/// Fields that are meant for one client, even if `Cache-Control` does not say so.
static FOR_ONE_CLIENT: [HeaderName; 4] = [
    HeaderName::from_static("clear-site-data"),
    HeaderName::from_static("csrf-token"),
    HeaderName::from_static("x-csrf-token"),
    HeaderName::from_static("x-xsrf-token"),
];

/// Whether one of the fields of a response is meant for one client: a field that clears the client's data, a token against forged
/// requests, or a nonce of a Content Security Policy, which may be used once.
pub(crate) fn is_for_one_client(headers: &HeaderMap) -> bool {
    headers.iter().any(|(name, value)| {
        FOR_ONE_CLIENT.contains(name)
            || ((name == CONTENT_SECURITY_POLICY || name == CONTENT_SECURITY_POLICY_REPORT_ONLY)
                && has_nonce(value.as_bytes()))
    })
}

fn has_nonce(policy: &[u8]) -> bool {
    const NONCE: &[u8] = b"'nonce-";
    policy.windows(NONCE.len()).any(|window| window.eq_ignore_ascii_case(NONCE))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::semantics::{names::Names, test_fields::headers};

    #[test]
    fn what_says_something_of_one_request_is_known_by_its_name() {
        let names = Names::new(OF_ONE_REQUEST);
        let of_one = |name: &str| names.has(name.as_bytes());
        for name in
            ["x-request-id", "x-ratelimit-remaining", "ratelimit", "ratelimit-policy", "server-timing", "x-b3-traceid"]
        {
            assert!(of_one(name), "{name}");
        }
        for name in ["content-type", "etag", "x-request", "x-b3", "server"] {
            assert!(!of_one(name), "{name}");
        }
    }

    #[test]
    fn the_list_has_names_as_they_are_compared() {
        for name in OF_ONE_REQUEST {
            assert_eq!(*name, name.to_ascii_lowercase());
        }
    }

    #[test]
    fn what_is_for_one_client_is_known_by_its_fields() {
        for (name, value) in [
            ("clear-site-data", "\"cache\""),
            ("x-csrf-token", "t"),
            ("x-xsrf-token", "t"),
            ("csrf-token", "t"),
            ("content-security-policy", "script-src 'nonce-abc'"),
            ("content-security-policy-report-only", "default-src 'self'; script-src 'NONCE-abc'"),
        ] {
            assert!(is_for_one_client(&headers(&[("etag", "\"a\""), (name, value)])), "{name}: {value}");
        }
        for (name, value) in [
            ("content-security-policy", "script-src 'self' 'unsafe-inline'"),
            ("content-security-policy", "report-uri /nonce-1"),
            ("x-csrf", "t"),
        ] {
            assert!(!is_for_one_client(&headers(&[(name, value)])), "{name}: {value}");
        }
    }
}
