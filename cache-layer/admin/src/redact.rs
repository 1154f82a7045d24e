//! Hides the values that may be secret.

use http::{HeaderMap, HeaderName};

/// Replaces a hidden value.
pub(crate) const HIDDEN: &str = "•••";

/// Fields whose values are private or grant access.
const FIELDS: [&str; 8] = [
    "authorization",
    "cookie",
    "proxy-authenticate",
    "proxy-authorization",
    "set-cookie",
    "www-authenticate",
    "x-api-key",
    "x-auth-token",
];

/// Parts of names of query parameters and fields whose values grant access.
const TELLING: [&str; 12] = [
    "token",
    "secret",
    "passw",
    "apikey",
    "api_key",
    "api-key",
    "session",
    "signature",
    "credential",
    "auth",
    "jwt",
    "private_key",
];

/// Whether the value with this name is hidden.
pub(crate) fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    FIELDS.contains(&&*name) || matches!(&*name, "sig" | "key" | "code" | "pwd") || {
        TELLING.iter().any(|telling| name.contains(telling))
    }
}

/// The fields of a response as they are shown, in their order.
pub(crate) fn fields(headers: &HeaderMap) -> Vec<[String; 2]> {
    let shown = |name: &HeaderName, value: &[u8]| match is_secret(name.as_str()) {
        true => HIDDEN.to_owned(),
        false => String::from_utf8_lossy(value).into_owned(),
    };
    headers.iter().map(|(name, value)| [name.to_string(), shown(name, value.as_bytes())]).collect()
}

/// A URL, a path or a readable key, without the values of query parameters that may be secret, and without user information in
/// its authority.
pub(crate) fn url(text: &str) -> String {
    let (before, query) = match text.split_once('?') {
        Some((before, query)) => (before, Some(query)),
        None => (text, None),
    };
    let mut shown = without_user(before);
    let Some(query) = query else { return shown };
    for (place, pair) in query.split('&').enumerate() {
        shown.push(if place == 0 { '?' } else { '&' });
        match pair.split_once('=') {
            Some((name, value)) if !value.is_empty() && is_secret(&decoded(name)) => {
                shown.push_str(name);
                shown.push('=');
                shown.push_str(HIDDEN);
            }
            _ => shown.push_str(pair),
        }
    }
    shown
}

fn decoded(name: &str) -> String {
    percent_encoding::percent_decode_str(name).decode_utf8_lossy().into_owned()
}

fn without_user(before: &str) -> String {
    let Some((scheme, rest)) = before.split_once("://") else { return before.to_owned() };
    let end = rest.find('/').unwrap_or(rest.len());
    match rest[..end].rfind('@') {
        Some(at) => format!("{scheme}://{HIDDEN}{}", &rest[at..]),
        None => before.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_opens_something_is_not_shown() {
        for (text, shown) in [
            ("http://a/x?page=2&api_key=abc", "http://a/x?page=2&api_key=•••"),
            ("/x?X-Amz-Signature=abc&b", "/x?X-Amz-Signature=•••&b"),
            ("/x?%74oken=abc", "/x?%74oken=•••"),
            ("http://user:pass@a/x", "http://•••@a/x"),
            ("http://a/@b?sig=", "http://a/@b?sig="),
            ("product:42", "product:42"),
            ("/x?keyword=shoes&sort=price", "/x?keyword=shoes&sort=price"),
        ] {
            assert_eq!(url(text), shown);
        }
    }

    #[test]
    fn fields_that_are_somebodys_own_are_named_and_not_shown() {
        let mut headers = HeaderMap::new();
        for (name, value) in [("set-cookie", "a=b"), ("content-type", "text/plain"), ("x-auth-token", "abc")] {
            headers.append(name, value.parse().unwrap());
        }
        let shown: Vec<String> = fields(&headers).iter().map(|[name, value]| format!("{name}: {value}")).collect();
        assert_eq!(shown, ["set-cookie: •••", "content-type: text/plain", "x-auth-token: •••"]);
    }
}
