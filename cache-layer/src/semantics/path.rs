//! Which spellings of a path are one path.

use std::borrow::Cow;

/// `path`, with its encoded characters in one form; `None` if the application may read it as another path: it has dot segments,
/// empty segments, or encoded characters that need no encoding in a path (RFC 3986, sections 3.3 and 6.2.2).
#[inline]
pub(crate) fn clear_path(path: &str) -> Option<Cow<'_, str>> {
    let (mut before, mut telling) = (0, false);
    for &byte in path.as_bytes() {
        if TELLING[usize::from(byte)] {
            if byte == b'/' {
                if before == b'/' {
                    return None;
                }
            } else {
                telling = true;
            }
        }
        before = byte;
    }
    if telling { clear_path_told(path) } else { Some(Cow::Borrowed(path)) }
}

const TELLING: [bool; 256] = {
    let mut telling = [false; 256];
    telling[b'/' as usize] = true;
    telling[b'.' as usize] = true;
    telling[b'%' as usize] = true;
    telling[b'\\' as usize] = true;
    telling
};

/// As [`clear_path`], for a path with characters that need a close look.
#[cold]
fn clear_path_told(path: &str) -> Option<Cow<'_, str>> {
    if path.contains('\\') || path.split('/').any(|segment| matches!(segment, "." | "..")) {
        return None;
    }
    let mut plain = String::new();
    let mut rest = path;
    while let Some((start, encoded)) = rest.split_once('%') {
        let digits = encoded.get(..2).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
        let byte = u8::from_str_radix(digits, 16).ok()?;
        if is_plain(byte) || b"/\\%\0".contains(&byte) {
            return None;
        }
        plain.push_str(start);
        plain.push('%');
        plain.push_str(&digits.to_ascii_uppercase());
        rest = &encoded[2..];
    }
    if plain.is_empty() {
        return Some(Cow::Borrowed(path));
    }
    plain.push_str(rest);
    Some(Cow::Owned(plain))
}

/// A [clear](clear_path) path in which every character is encoded that needs to be, although servers take it as it is as well.
/// Paths that an application may read alike are the same, unless one of them is `None`.
pub(crate) fn canonical_path(path: &str) -> Option<Cow<'_, str>> {
    let clear = clear_path(path)?;
    let is_canonical = |byte| is_plain(byte) || matches!(byte, b'/' | b'%');
    if clear.bytes().all(is_canonical) {
        return Some(clear);
    }
    let mut canonical = String::with_capacity(clear.len() + 16);
    for byte in clear.bytes() {
        match is_canonical(byte) {
            true => canonical.push(char::from(byte)),
            false => canonical.push_str(&format!("%{byte:02X}")),
        }
    }
    Some(Cow::Owned(canonical))
}

/// Whether a character may be in a segment as it is: `pchar`, unless it is encoded.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@".contains(&byte)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_path_that_may_mean_another_one_is_not_clear() {
        for path in [
            "//a",
            "/a//b",
            "/a//",
            "/.",
            "/a/..",
            "/./a",
            "/a/%2e%2E/b",
            "/a/%2Fb",
            "/a%5cb",
            "/a\\b",
            "/%61",
            "/a%",
            "/a%4",
            "/a%g0",
            "/a%252e",
            "/a%00",
            "/%40admin",
            "/a%3ab",
            "/a%2Bb",
            "/%2a",
        ] {
            assert_eq!(clear_path(path), None, "{path}");
        }
        for path in ["/", "/a/", "/a.b/..c/...", "/a%20b", "/caf%C3%A9", "/a;b=c", "/a:b@c", "/{a}"] {
            assert_eq!(clear_path(path).as_deref(), Some(path));
        }
        assert_eq!(clear_path("/caf%c3%a9/%7c").as_deref(), Some("/caf%C3%A9/%7C"));
    }

    #[test]
    fn a_character_that_needs_encoding_is_one_whether_it_is_encoded_or_not() {
        for (path, canonical) in [
            ("/café", "/caf%C3%A9"),
            ("/caf%c3%a9", "/caf%C3%A9"),
            ("/{a}|\"[^`<>", "/%7Ba%7D%7C%22%5B%5E%60%3C%3E"),
            ("/@a:b;c=d!$&'()*+,~", "/@a:b;c=d!$&'()*+,~"),
            ("/", "/"),
        ] {
            assert_eq!(canonical_path(path).as_deref(), Some(canonical), "{path}");
        }
        assert_eq!(canonical_path("/é/../a"), None);
    }

    /// As an application that decodes each segment reads a path.
    fn decoded(path: &str) -> Vec<Vec<u8>> {
        let segment = |text: &str| {
            let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
            while let [first, after @ ..] = rest {
                let digits = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
                let encoded = digits.filter(|_| *first == b'%').and_then(|digits| u8::from_str_radix(digits, 16).ok());
                bytes.push(encoded.unwrap_or(*first));
                rest = if encoded.is_some() { &after[2..] } else { after };
            }
            bytes
        };
        path.split('/').map(segment).collect()
    }

    proptest! {
        /// What an application may read alike has one spelling, or is not clear.
        #[test]
        fn paths_that_are_read_alike_are_one(one in SPELLING, other in SPELLING) {
            let (one, other) = (format!("/{one}"), format!("/{other}"));
            if let (Some(first), Some(second)) = (canonical_path(&one), canonical_path(&other)) {
                prop_assert_eq!(decoded(&one) == decoded(&other), first == second, "{} {}", one, other);
            }
        }
    }

    /// Few characters, so that two are often the same.
    const SPELLING: &str = "(é|%C3%A9|%c3%a9|@|%40|\\||%7C|a|%61|/){0,3}";
}
