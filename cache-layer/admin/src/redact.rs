//! Hides the values that may be secret.

use cache_layer::{Key, ResponseKey};
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
    headers.iter().map(|(name, value)| [name.to_string(), field(name, value.as_bytes())]).collect()
}

/// The value of a field as it is shown.
fn field(name: &HeaderName, value: &[u8]) -> String {
    let value = String::from_utf8_lossy(value);
    match name.as_str() {
        name if is_secret(name) => HIDDEN.to_owned(),
        "link" => links(&value),
        // A URL, or text before one.
        "location" | "content-location" | "refresh" => url(&value),
        _ => value.into_owned(),
    }
}

/// A `Link` field: each target is in angle brackets.
fn links(value: &str) -> String {
    let mut shown = String::with_capacity(value.len());
    for (place, piece) in value.split('<').enumerate() {
        if place > 0 {
            shown.push('<');
        }
        let (target, rest) = piece.split_at(piece.find('>').unwrap_or(piece.len()));
        shown += &url(target);
        shown += rest;
    }
    shown
}

/// The longest URL and the longest key that are shown in full, in characters.
const LONGEST_URL: usize = 2_000;
const LONGEST_KEY: usize = 200;

/// A key as it is shown. Of the request fields, cookies and hints in the key of a response, only names and the number are: each
/// may be a credential.
pub(crate) fn key(key: &Key) -> String {
    let Some(parts) = ResponseKey::of(key) else { return url(&key.to_string()) };
    let ResponseKey { namespace, origin, path_and_query, fields, cookies, hinted, content_of, has_others, .. } = parts;
    let mut shown = url(&format!("{namespace}{origin}{path_and_query}"));
    if let Some((end, _)) = shown.char_indices().nth(LONGEST_KEY) {
        shown.truncate(end);
        shown.push('…');
    }
    let mut add = |what: &str| {
        shown.push('#');
        shown += what;
        shown += HIDDEN;
    };
    (0..fields).for_each(|_| add(""));
    cookies.iter().for_each(|name| add(&format!("{name}=")));
    (0..hinted + usize::from(has_others)).for_each(|_| add(""));
    if let Some(method) = content_of {
        add(&format!("{method}:"));
    }
    shown
}

/// The URL that a key is made from; `None` if it is not made from a URL alone, or the URL is not shown in full.
pub(crate) fn url_of(key: &Key) -> Option<String> {
    let of = target_of(key)?;
    (of.len() <= LONGEST_URL && url(&of) == of).then_some(of)
}

/// The URL that a key is made from, with everything that may be secret in it.
pub(crate) fn target_of(key: &Key) -> Option<String> {
    ResponseKey::of(key).filter(ResponseKey::is_target).map(|parts| parts.origin + &parts.path_and_query)
}

/// A URL, a path or a pattern, without the values of query parameters that may be secret, and without user information in its
/// authority.
pub(crate) fn url(text: &str) -> String {
    let (before, mut rest) = text.split_at(text.find(['?', '#']).unwrap_or(text.len()));
    let mut shown = without_user(before);
    // It begins with a separator: `?`, `#` or `&`.
    while let Some(separator) = rest.chars().next() {
        let end = rest[1..].find(['&', '#']).map_or(rest.len(), |end| end + 1);
        shown.push(separator);
        match rest[1..end].split_once('=') {
            Some((name, value)) if tells(name, value) => {
                shown.push_str(name);
                shown.push('=');
                shown.push_str(HIDDEN);
            }
            _ => shown.push_str(&rest[1..end]),
        }
        rest = &rest[end..];
    }
    shown
}

/// Whether a parameter is hidden: its name says so, or its value is a URL with such a parameter.
fn tells(name: &str, value: &str) -> bool {
    let is_told = |(name, value): (&str, &str)| !value.is_empty() && is_secret(&decoded(name));
    let within = |value: &str| value.split(['?', '&', '#']).filter_map(|pair| pair.split_once('=')).any(is_told);
    is_told((name, value)) || within(value) || within(&decoded(value))
}

/// The text, decoded twice: in a readable key, a `%` is encoded once more.
fn decoded(text: &str) -> String {
    let once = percent_encoding::percent_decode_str(text).decode_utf8_lossy();
    percent_encoding::percent_decode_str(&once).decode_utf8_lossy().into_owned()
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
            ("/x?%2574oken=abc", "/x?%2574oken=•••"),
            ("/x?a=b?c#access_token=abc&d", "/x?a=b?c#access_token=•••&d"),
            ("/x?token=abc?d&e=f", "/x?token=•••&e=f"),
            ("/x?next=/y?token=abc&page=2", "/x?next=•••&page=2"),
            ("/x?image=https%3A%2F%2Fb%2Fc%3FX-Amz-Signature%3Dabc", "/x?image=•••"),
            ("/x?image=https%3A%2F%2Fb%2Fc%3Fsize%3D2", "/x?image=https%3A%2F%2Fb%2Fc%3Fsize%3D2"),
            ("http://a/x?token=abc*", "http://a/x?token=•••"),
            ("5; url=http://user@a/x?sig=abc", "5; url=http://•••@a/x?sig=•••"),
            ("http://user:pass@a/x", "http://•••@a/x"),
            ("http://a/@b?sig=", "http://a/@b?sig="),
            ("product:42", "product:42"),
            ("/x?keyword=shoes&sort=price", "/x?keyword=shoes&sort=price"),
        ] {
            assert_eq!(url(text), shown);
        }
    }

    #[test]
    fn of_a_response_key_no_value_but_its_url_is_shown() {
        let shown = |parts: &[&[u8]]| key(&Key::new([&[&b""[..], b"http", b"://", b"a"], parts].concat()));
        let [none, one, two] = [0_usize, 1, 2].map(usize::to_be_bytes);
        for (parts, expected) in [
            (&[&b"/x?q=a%20b&%74oken=abc"[..]][..], "http://a/x?q=a%20b&%74oken=•••"),
            (&[b"/x", &two, b"abc", b"abc", &none], "http://a/x#•••#•••"),
            (&[b"/x", b"#session=", &one, b"abc", b"#", b"abc"], "http://a/x#session=•••#•••"),
            (&[b"/x", b"#QUERY:", b"0123"], "http://a/x#QUERY:•••"),
            (&[b"/x", b"#private", b"0123"], "http://a/x#•••"),
        ] {
            assert_eq!(shown(parts), expected);
        }
        let long = shown(&["/ü".repeat(500).as_bytes(), b"#session=", &one, b"abc"]);
        assert!(long.chars().count() < 230 && long.ends_with("…#session=•••"), "{long}");
        assert_eq!(key(&Key::from(("product", "http://a/?%74oken=abc"))), "product:http://a/?%2574oken=•••");
    }

    #[test]
    fn the_url_of_a_key_is_told_where_it_leads_to_the_key_and_is_shown_in_full() {
        let of = |parts: &[&[u8]]| url_of(&Key::new([&[&b"shop"[..], b"http", b"://", b"a"], parts].concat()));
        assert_eq!(of(&[b"/x?q=a%20b"]).as_deref(), Some("http://a/x?q=a%20b"));
        let long = "/x".repeat(2_000);
        for hidden in [&[&b"/x?token=abc"[..]][..], &[b"/x", b"#", b"one"], &[long.as_bytes()]] {
            assert_eq!(of(hidden), None);
        }
        assert_eq!(url_of(&Key::from("http://a/x")), None);
    }

    #[test]
    fn fields_that_are_somebodys_own_are_named_and_not_shown() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("set-cookie", "a=b"),
            ("content-type", "text/plain"),
            ("x-auth-token", "abc"),
            ("location", "https://b/c?X-Amz-Signature=abc&page=1"),
            ("link", "<https://b/?token=abc>; rel=next, </x?page=2>; rel=\"prev\", <//b/?a=1&sig=abc>"),
        ] {
            headers.append(name, value.parse().unwrap());
        }
        let shown: Vec<String> = fields(&headers).iter().map(|[name, value]| format!("{name}: {value}")).collect();
        assert_eq!(
            shown,
            [
                "set-cookie: •••",
                "content-type: text/plain",
                "x-auth-token: •••",
                "location: https://b/c?X-Amz-Signature=•••&page=1",
                "link: <https://b/?token=•••>; rel=next, </x?page=2>; rel=\"prev\", <//b/?a=1&sig=•••>",
            ]
        );
    }
}
