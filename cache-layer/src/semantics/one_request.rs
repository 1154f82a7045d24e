//! Fields of a response that are about one request, or for one client.

use http::{
    HeaderMap, HeaderName,
    header::{CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY_REPORT_ONLY},
};

use super::names::Names;

/// Fields that say something of one request: replayed with a stored response, they would say it of others. A name that ends in
/// `*` is a prefix.
pub(crate) const OF_ONE_REQUEST: &[&str] = &[
    // Which request it was.
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
    // How long it took.
    "server-timing",
    "x-runtime",
    "x-response-time",
    // What is left to its client.
    "ratelimit",
    "ratelimit-*",
    "x-ratelimit-*",
    "x-rate-limit-*",
];

/// Takes the fields of these names out.
pub(crate) fn remove(headers: &mut HeaderMap, names: &Names) {
    // Most responses have none.
    while let Some(name) = headers.keys().find(|name| names.has(name.as_str().as_bytes())).cloned() {
        headers.remove(name);
    }
}

/// Fields by which a response is for one client, even if it says nothing about who may keep it.
static FOR_ONE_CLIENT: [HeaderName; 4] = [
    HeaderName::from_static("clear-site-data"),
    HeaderName::from_static("csrf-token"),
    HeaderName::from_static("x-csrf-token"),
    HeaderName::from_static("x-xsrf-token"),
];

/// Whether a response is for one client by one of its fields: one that clears what the client has, a token against forged
/// requests, or a nonce of a Content Security Policy, which counts once.
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
    use crate::semantics::test_fields::headers;

    #[test]
    fn what_says_something_of_one_request_is_taken_out() {
        let mut fields = headers(&[
            ("content-type", "text/plain"),
            ("x-request-id", "1"),
            ("x-ratelimit-remaining", "2"),
            ("ratelimit", "3"),
            ("ratelimit-policy", "4"),
            ("server-timing", "a"),
            ("server-timing", "b"),
            ("x-b3-traceid", "5"),
            ("etag", "\"v1\""),
            ("x-request", "6"),
        ]);
        remove(&mut fields, &Names::new(OF_ONE_REQUEST));
        let mut left: Vec<_> = fields.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["content-type", "etag", "x-request"]);
        remove(&mut fields, &Names::new(["x-*"]));
        assert_eq!(fields.len(), 2);
        remove(&mut fields, &Names::default());
        assert_eq!(fields.len(), 2);
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
