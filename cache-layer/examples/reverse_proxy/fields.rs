//! Fields that a proxy does not pass on (RFC 9110, section 7.6.1).

use hyper::{HeaderMap, header};

/// Removes the fields that belong to one connection. `Trailer` stays: the trailers that it announces are passed on.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    const FIELDS: [&str; 9] = [
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authentication-info",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "transfer-encoding",
        "upgrade",
    ];
    let named: Vec<String> = field_lists(headers, &header::CONNECTION).collect();
    for name in FIELDS.into_iter().chain(named.iter().map(String::as_str)) {
        headers.remove(name);
    }
}

/// The members of all lines of a field, in lower case.
pub(crate) fn field_lists(headers: &HeaderMap, name: &header::HeaderName) -> impl Iterator<Item = String> {
    let lines = headers.get_all(name).into_iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(|member| member.trim().to_ascii_lowercase())
}
