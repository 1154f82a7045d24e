//! Fields that belong to one connection and are never stored or passed on (RFC 9110, section 7.6.1).

use http::header::{
    CONNECTION, HeaderMap, HeaderName, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};

use super::{
    list::{has, has_any, members},
    names::{Shaped, Shapes},
};

static FIELDS: [HeaderName; 10] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    PROXY_AUTHENTICATE,
    HeaderName::from_static("proxy-authentication-info"),
    PROXY_AUTHORIZATION,
    HeaderName::from_static("proxy-connection"),
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// The shapes of the names in [`FIELDS`].
pub(crate) const SHAPES: Shapes = Shapes::of_each(&[
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authentication-info",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
]);

/// Removes the hop-by-hop fields, those that `Connection` names among them.
pub(crate) fn strip(headers: &mut HeaderMap) {
    if !has_any(headers, &FIELDS) {
        return;
    }
    let named = named(headers);
    for name in FIELDS.iter().chain(&named) {
        headers.remove(name);
    }
}

/// A predicate on a field's name: whether the field of the message is end-to-end.
pub(crate) fn is_end_to_end(headers: &HeaderMap) -> impl Fn(Shaped<'_>) -> bool + use<> {
    let named = if has(headers, &CONNECTION) { named(headers) } else { Vec::new() };
    move |Shaped { name, text, shape }| {
        let is_hop_by_hop = (shape.may_meet(SHAPES) && is_listed(text)) || named.contains(name);
        !is_hop_by_hop
    }
}

/// Whether a field is one of [`FIELDS`]. The length is compared first, which is faster than comparing each name.
fn is_listed(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "keep-alive"
            | "proxy-authenticate"
            | "proxy-authentication-info"
            | "proxy-authorization"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
    )
}

fn named(headers: &HeaderMap) -> Vec<HeaderName> {
    members(headers, &CONNECTION).filter_map(|name| HeaderName::from_bytes(name).ok()).collect()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn only_end_to_end_fields_remain_in_their_order() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("content-type", "text/plain"),
            ("connection", "close, X-Internal"),
            ("connection", "x-session,"),
            ("x-internal", "1"),
            ("x-internal", "2"),
            ("x-session", "3"),
            ("keep-alive", "timeout=5"),
            ("proxy-authenticate", "Basic"),
            ("proxy-authentication-info", "a=b"),
            ("proxy-authorization", "Basic eA=="),
            ("proxy-connection", "keep-alive"),
            ("te", "trailers"),
            ("trailer", "expires"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("x-twice", "1"),
            ("x-twice", "2"),
        ] {
            headers.append(name, HeaderValue::from_static(value));
        }
        let is_end_to_end = is_end_to_end(&headers);
        let told: Vec<_> =
            headers.keys().filter(|name| is_end_to_end((*name).into())).map(|name| name.as_str().to_owned()).collect();
        assert_eq!(told, ["content-type", "x-twice"]);
        strip(&mut headers);
        let left: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        let expected: [(&str, &[u8]); 3] = [("content-type", b"text/plain"), ("x-twice", b"1"), ("x-twice", b"2")];
        assert_eq!(left, expected);
    }

    #[test]
    fn a_field_is_told_as_it_is_listed() {
        assert!(FIELDS.iter().all(|name| is_listed(name.as_str()) && Shapes::of([name]).may_meet(SHAPES)));
        assert!(!is_listed("etag"));
    }

    #[test]
    fn a_connection_field_that_names_no_field_removes_none() {
        let mut headers = HeaderMap::new();
        headers.insert(CONNECTION, HeaderValue::from_static("not a name, \"etag\", (etag)"));
        headers.insert("etag", HeaderValue::from_static("\"1\""));
        strip(&mut headers);
        assert_eq!(headers.len(), 1);
    }
}
