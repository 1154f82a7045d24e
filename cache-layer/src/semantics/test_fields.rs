//! Header fields for the tests of these rules.

use http::{HeaderMap, HeaderValue};

/// Names and values, in their order.
pub(crate) type Fields<'a> = &'a [(&'static str, &'a str)];

/// A map of these fields; a value may have bytes beyond ASCII.
pub(crate) fn headers(fields: Fields<'_>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for &(name, value) in fields {
        headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    headers
}
