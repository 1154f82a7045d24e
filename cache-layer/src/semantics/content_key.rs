//! What the content of a request adds to its key (RFC 10008, section 2.7).

use http::{HeaderMap, HeaderValue, header::CONTENT_TYPE};
use sha2::{Digest as _, Sha256};

use super::validator::single_line;

/// Fields whose names begin with `content-` but that are not metadata of the content: its length and its digests.
const NO_METADATA: [&str; 3] = ["content-length", "content-digest", "content-md5"];

/// The content of a request as the key contains it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Meaning<'a> {
    /// The bytes of the request body.
    Raw(&'a [u8]),
    /// The application's normalized form, which other bytes of the same meaning share. It never equals a key of raw bytes, which
    /// a request that forbids transformation (`no-transform`) gets.
    Normalized(&'a [u8]),
}

/// A digest of the content and of the fields that describe it: all fields whose names begin with `content-`, future ones
/// included. Two requests have the same digest exactly if all of these agree.
pub(crate) fn digest(headers: &HeaderMap, meaning: Meaning<'_>) -> [u8; 32] {
    let mut digest = Sha256::new();
    let mut names: Vec<&str> = headers.keys().map(http::HeaderName::as_str).filter(|name| is_metadata(name)).collect();
    names.sort_unstable();
    update_with_length(&mut digest, names.len());
    for name in names {
        let lines = headers.get_all(name);
        update_with(&mut digest, name.as_bytes());
        update_with_length(&mut digest, lines.iter().count());
        lines.iter().for_each(|line| update_with_line(&mut digest, name, line));
    }
    let (kind, content) = match meaning {
        Meaning::Raw(content) => (b'r', content),
        Meaning::Normalized(content) => (b'n', content),
    };
    digest.update([kind]);
    update_with(&mut digest, content);
    digest.finalize().into()
}

fn is_metadata(name: &str) -> bool {
    name.starts_with("content-") && !NO_METADATA.contains(&name)
}

fn update_with_line(digest: &mut Sha256, name: &str, line: &HeaderValue) {
    let line = line.as_bytes();
    match canonical_media_type(line).filter(|_| name == CONTENT_TYPE.as_str()) {
        Some(media_type) => update_with(digest, &media_type),
        None => update_with(digest, line),
    }
}

fn update_with(digest: &mut Sha256, part: &[u8]) {
    update_with_length(digest, part.len());
    digest.update(part);
}

fn update_with_length(digest: &mut Sha256, length: usize) {
    digest.update((length as u64).to_be_bytes());
}

/// Whether the request declares the type of its content unambiguously. Only the application can judge a request that does not
/// (RFC 10008, section 2).
pub(crate) fn has_one_type(headers: &HeaderMap) -> bool {
    single_line(headers, &CONTENT_TYPE).and_then(canonical_media_type).is_some()
}

/// The canonical spelling of a media type (RFC 9110, section 8.3.1): names in lower case, no white space. Values stay as they
/// are, quotes included. `None` for anything that is not a media type.
pub(crate) fn canonical_media_type(line: &[u8]) -> Option<Vec<u8>> {
    let (media_type, mut parameters) = line.split_at(line.iter().position(|&byte| byte == b';').unwrap_or(line.len()));
    let mut canonical = media_type.trim_ascii().to_ascii_lowercase();
    let slash = canonical.iter().position(|&byte| byte == b'/')?;
    if !is_token(&canonical[..slash]) || !is_token(&canonical[slash + 1..]) {
        return None;
    }
    while let Some((b';', rest)) = parameters.split_first() {
        let rest = rest.trim_ascii_start();
        let Some(name_end) = rest.iter().position(|byte| matches!(byte, b'=' | b';')) else {
            // Only white space or a parameter may follow a semicolon.
            return rest.is_empty().then_some(canonical);
        };
        let (name, value) = rest.split_at(name_end);
        if name.is_empty() && value[0] == b';' {
            parameters = value;
            continue;
        }
        let value = value.strip_prefix(b"=").filter(|_| is_token(name))?;
        let (value, rest) = value.split_at(value_end(value)?);
        canonical.push(b';');
        canonical.extend(name.iter().map(u8::to_ascii_lowercase));
        canonical.push(b'=');
        canonical.extend_from_slice(value);
        parameters = rest.trim_ascii_start();
    }
    parameters.is_empty().then_some(canonical)
}

/// The length of the value at the beginning of the text: a token or a quoted string.
fn value_end(value: &[u8]) -> Option<usize> {
    if value.first() != Some(&b'"') {
        let end = value.iter().position(|byte| !is_token_byte(*byte)).unwrap_or(value.len());
        return (end > 0).then_some(end);
    }
    let mut escaped = false;
    for (at, &byte) in value.iter().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return Some(at + 1),
            _ => {}
        }
    }
    None
}

fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|byte| is_token_byte(*byte))
}

/// RFC 9110, section 5.6.2.
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use proptest::{prelude::*, sample::Index};

    use super::*;
    use crate::semantics::test_fields::{Fields, headers};

    fn media_type(line: &str) -> Option<String> {
        canonical_media_type(line.as_bytes()).map(|bytes| String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn spellings_of_a_media_type_are_one() {
        for (line, expected) in [
            ("application/json", "application/json"),
            (" Application/JSON ", "application/json"),
            ("text/html; Charset=UTF-8", "text/html;charset=UTF-8"),
            ("text/html;charset=\"a;b \\\"\" ; x=y;", "text/html;charset=\"a;b \\\"\";x=y"),
            ("a/b;;c=d", "a/b;c=d"),
            ("a/b; ", "a/b"),
        ] {
            assert_eq!(media_type(line).as_deref(), Some(expected), "{line}");
        }
        for line in [
            "",
            "json",
            "a/",
            "/b",
            "a/b/c",
            "a b/c",
            "a/b, c/d",
            "a/b;c",
            "a/b;c=",
            "a/b;c=\"",
            "a/b;c=d e",
            "a/b;c =d",
        ] {
            assert_eq!(media_type(line), None, "{line}");
        }
    }

    #[test]
    fn only_one_type_that_can_be_read_is_one() {
        let has_one = |lines: &[&str]| {
            let fields: Vec<_> = lines.iter().map(|line| ("content-type", *line)).collect();
            has_one_type(&headers(&fields))
        };
        assert!(has_one(&["text/plain"]));
        assert!(!has_one(&[]) && !has_one(&[""]) && !has_one(&["junk"]));
        assert!(!has_one(&["text/plain", "text/plain"]));
    }

    fn of(fields: Fields<'_>, content: &str) -> [u8; 32] {
        digest(&headers(fields), Meaning::Raw(content.as_bytes()))
    }

    const JSON: (&str, &str) = ("content-type", "application/json");

    #[test]
    fn all_that_says_what_the_content_is_counts_and_nothing_else() {
        let one = of(&[JSON], "{}");
        let same: [Fields<'_>; 4] = [
            &[("content-type", "Application/JSON")],
            &[JSON, ("content-length", "2")],
            &[JSON, ("content-digest", "sha-256=:aGk=:"), ("content-md5", "x"), ("repr-digest", "x")],
            &[("accept", "text/plain"), JSON, ("cookie", "a=b")],
        ];
        for fields in same {
            assert_eq!(of(fields, "{}"), one, "{fields:?}");
        }
        let others: [Fields<'_>; 8] = [
            &[],
            &[("content-type", "text/plain")],
            &[("content-type", "application/json;charset=utf-8")],
            &[JSON, ("content-language", "de")],
            &[JSON, ("content-encoding", "gzip")],
            &[JSON, ("content-location", "/x")],
            &[JSON, ("content-of-tomorrow", "1")],
            &[JSON, JSON],
        ];
        for fields in others {
            assert_ne!(of(fields, "{}"), one, "{fields:?}");
        }
        assert_ne!(of(&[JSON], "{ }"), one);
        assert_ne!(digest(&headers(&[JSON]), Meaning::Normalized(b"{}")), one);
    }

    /// Moves the border between two neighbouring parts.
    #[test]
    fn no_part_is_taken_for_a_piece_of_another() {
        let requests: [(Fields<'_>, &str); 6] = [
            (&[("content-a", "a"), ("content-a", "b")], ""),
            (&[("content-a", "ab"), ("content-a", "")], ""),
            (&[("content-a", "a, b")], ""),
            (&[("content-a", "ar")], "b"),
            (&[("content-a", "a")], "rb"),
            (&[("content-aa", "r")], "b"),
        ];
        for (at, (fields, content)) in requests.iter().enumerate() {
            for (other, other_content) in &requests[..at] {
                assert_ne!(of(fields, content), of(other, other_content), "{fields:?} {content}, {other:?}");
            }
        }
    }

    #[test]
    fn names_have_no_order_and_lines_of_one_do() {
        let (a, b) = (("content-language", "de"), ("content-language", "en"));
        assert_eq!(of(&[JSON, a], "{}"), of(&[a, JSON], "{}"));
        assert_eq!(of(&[JSON, a, b], "{}"), of(&[a, JSON, b], "{}"));
        assert_ne!(of(&[JSON, a, b], "{}"), of(&[JSON, b, a], "{}"));
    }

    /// Few and short values, so that many of them agree, and the end of one is the beginning of another.
    fn requests() -> impl Strategy<Value = (Vec<(usize, String)>, bool, String)> {
        (prop::collection::vec((0..4_usize, "[ab,]{0,2}"), 0..4), any::<bool>(), "[ab]{0,3}")
    }

    /// Media types in all their spellings.
    fn media_types() -> impl Strategy<Value = String> {
        const TOKEN: &str = "[a-zA-Z0-9+.-]{1,3}";
        const VALUE: &str = "[a-zA-Z0-9+.-]{1,3}|\"([ ;=a-zA-Z,]|\\\\[ \"\\\\a])*\"";
        let parameter = format!(" ?;[ \t]?(({TOKEN})=({VALUE}))?");
        proptest::string::string_regex(&format!(" ?{TOKEN}/{TOKEN}({parameter}){{0,3}} ?")).unwrap()
    }

    const NAMES: [&str; 4] = ["content-type", "content-a", "content-aa", "x"];

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn requests_have_the_same_digest_exactly_if_they_agree(one in requests(), other in requests()) {
            let digest_of = |(fields, raw, content): &(Vec<(usize, String)>, bool, String)| {
                let fields: Vec<_> = fields.iter().map(|(name, value)| (NAMES[*name], value.as_str())).collect();
                let content = content.as_bytes();
                digest(&headers(&fields), if *raw { Meaning::Raw(content) } else { Meaning::Normalized(content) })
            };
            // Lines of one name keep their order, and names have none.
            let what_counts = |(fields, raw, content): &(Vec<(usize, String)>, bool, String)| {
                let mut fields: Vec<_> = fields.iter().filter(|(name, _)| *name < 3).cloned().collect();
                fields.sort_by_key(|(name, _)| *name);
                (fields, *raw, content.clone())
            };
            prop_assert_eq!(digest_of(&one) == digest_of(&other), what_counts(&one) == what_counts(&other));
        }

        #[test]
        fn a_canonical_media_type_is_read_as_itself(line in media_types()) {
            let canonical = canonical_media_type(line.as_bytes());
            prop_assert!(canonical.is_some(), "{line}");
            prop_assert_eq!(canonical_media_type(&canonical.clone().unwrap()), canonical);
        }

        #[test]
        fn a_media_type_that_is_garbled_is_another_one_or_none(
            line in media_types(),
            at: Index,
            by in "[ ;=\"\\\\a-zA-Z/,é]{0,2}",
        ) {
            let mut garbled = line.into_bytes();
            let at = at.index(garbled.len());
            garbled.splice(at..=at, by.bytes());
            if let Some(canonical) = canonical_media_type(&garbled) {
                prop_assert_eq!(canonical_media_type(&canonical), Some(canonical));
            }
        }
    }
}
