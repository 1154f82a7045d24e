//! Which host a request is for: one that names none, or two, is answered with 400. RFC 9112, section 3.2.

use std::net::Ipv6Addr;

use axum::{
    extract::Request,
    http::{HeaderMap, HeaderValue, StatusCode, Version, header::HOST},
    middleware::Next,
    response::{IntoResponse, Response},
};

use crate::problem::Problem;

pub(super) async fn one_host(request: Request, next: Next) -> Response {
    let named = request.uri().authority().is_some();
    match wrong(request.version(), named, request.headers()) {
        None => next.run(request).await,
        Some(why) => Problem::new(StatusCode::BAD_REQUEST, why).into_response(),
    }
}

/// What is wrong with the host of a request, whose target may name one as well.
fn wrong(version: Version, named: bool, fields: &HeaderMap) -> Option<&'static str> {
    let mut hosts = fields.get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (None, _) if version < Version::HTTP_11 || (version >= Version::HTTP_2 && named) => None,
        (None, _) => Some("a request names its host, in the field Host"),
        (Some(_), Some(_)) => Some("a request has one field Host, not several"),
        (Some(host), None) if !is_host(host) => {
            Some("the field Host has a host and perhaps a port, such as shop.example:8000")
        }
        _ => None,
    }
}

/// `uri-host [ ":" port ]`, both of which may be empty. RFC 9110, 7.2; RFC 3986, 3.2.2.
fn is_host(value: &HeaderValue) -> bool {
    let Ok(text) = value.to_str() else { return false };
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port),
        _ => (text, ""),
    };
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=%".contains(&byte);
    address.map_or_else(|| host.bytes().all(is_name), |address| address.parse::<Ipv6Addr>().is_ok())
        && port.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(values: &[&'static str]) -> HeaderMap {
        values.iter().map(|value| (HOST, HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn a_host_is_named_once() {
        for (version, named, values, allowed) in [
            (Version::HTTP_10, false, &[] as &[_], true),
            (Version::HTTP_10, false, &["a.example", "a.example"], false),
            (Version::HTTP_11, false, &[], false),
            // The target in its absolute form is no substitute.
            (Version::HTTP_11, true, &[], false),
            (Version::HTTP_11, false, &["a.example"], true),
            (Version::HTTP_11, false, &["a.example", "b.example"], false),
            (Version::HTTP_11, false, &["a.example", "a.example"], false),
            (Version::HTTP_2, true, &[], true),
            (Version::HTTP_2, false, &[], false),
            (Version::HTTP_2, true, &["a.example"], true),
        ] {
            assert_eq!(wrong(version, named, &hosts(values)).is_none(), allowed, "{version:?} {named} {values:?}");
        }
    }

    #[test]
    fn a_host_is_a_name_or_an_address_and_perhaps_a_port() {
        for host in ["", "a.example", "a_b:8000", "127.0.0.1:1", "[::1]", "[::1]:8000", "a.example:", "xn--bcher-kva"] {
            assert!(is_host(&HeaderValue::from_static(host)), "{host}");
        }
        for host in
            ["a b", "me@a.example", "a.example/x", "a.example:http", "::1", "[::1", "[x]", "a?b", "a:1:2", "[::1%eth0]"]
        {
            assert!(!is_host(&HeaderValue::from_static(host)), "{host}");
        }
        assert!(!is_host(&HeaderValue::from_bytes(b"b\xc3\xbccher").unwrap()));
    }
}
