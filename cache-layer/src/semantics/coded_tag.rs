//! The entity tags of representations that this cache has coded (RFC 9110, section 8.8.3.3).
//!
//! Representations with different bytes need different strong tags. The tag of a coded representation is the application's tag
//! with the name of the coding at its end: `"abc"` and `"abc-cl~gzip"`. A weak tag is the same for all representations. The
//! application only knows its own tags.

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{ETAG, IF_MATCH, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, RANGE},
};
use smallvec::SmallVec;

use super::{
    list::has,
    validator::{EntityTag, entity_tags, single_line},
};
use crate::coding::Encoder;

/// Stands between the application's tag and the name of a coding. With the name alone, a coded representation of version `"a"` would
/// have the tag of a version that an application, or a server in front of it, calls `"a-gzip"`.
const MARK: &[u8] = b"-cl~";

/// Whether representations of a response with these fields can have different tags: it has one tag, in quotes, that is not that of
/// a coded representation, or none.
pub(crate) fn can_be_coded(headers: &HeaderMap) -> bool {
    let Some(tag) = single_line(headers, &ETAG) else { return !headers.contains_key(ETAG) };
    let tag = tag.strip_prefix(b"W/").unwrap_or(tag);
    let inside = tag.strip_prefix(b"\"").and_then(|tag| tag.strip_suffix(b"\""));
    inside.is_some_and(|inside| without_name(inside).is_none())
}

/// The strong tag of a response, in its quotes.
pub(crate) fn strong_tag(headers: &HeaderMap) -> Option<&HeaderValue> {
    let tag = headers.get(ETAG)?;
    (tag.len() >= 2 && tag.as_bytes().starts_with(b"\"") && tag.as_bytes().ends_with(b"\"")).then_some(tag)
}

/// The tag of a representation in a coding, from the application's strong `tag`.
pub(crate) fn coded(tag: &HeaderValue, encoder: impl Into<Encoder>) -> HeaderValue {
    let name = Name::of(encoder.into());
    let (tag, name) = (tag.as_bytes(), name.as_bytes());
    let opaque = tag.strip_suffix(b"\"").unwrap_or(tag);
    let mut text = Vec::with_capacity(tag.len() + MARK.len() + name.len());
    for part in [opaque, MARK, name, b"\""] {
        text.extend_from_slice(part);
    }
    HeaderValue::from_maybe_shared(Bytes::from(text)).unwrap_or_else(|_| unreachable!("a tag with a name in it"))
}

/// Identifies a representation of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RepresentationId {
    /// As the application made it.
    Plain,
    Coded(Encoder),
}

/// The name of an encoder, as it is written.
struct Name(SmallVec<[u8; 8]>);

impl Name {
    fn of(encoder: Encoder) -> Self {
        let mut name = SmallVec::from_slice(encoder.coding().as_str().as_bytes());
        // At most two digits; none for the default level.
        let digits = [encoder.level() / 10, encoder.level() % 10];
        name.extend(digits.into_iter().skip_while(|digit| *digit == 0).map(|digit| b'0' + digit));
        Self(name)
    }

    fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// What is in the quotes of the tag of a coded representation, without the name of the coding, be it one that this program was
/// not built with; `None` for any other tag.
fn without_name(inside: &[u8]) -> Option<&[u8]> {
    let end = inside.iter().rposition(|byte| !byte.is_ascii_alphanumeric())? + 1;
    inside[..end].strip_suffix(MARK).filter(|_| end < inside.len())
}

/// Whether a tag is that of this representation of a response with the strong tag `base`; compared weakly.
fn names(tag: EntityTag<'_>, base: &HeaderValue, representation: RepresentationId) -> bool {
    let base = base.as_bytes();
    let encoder = match representation {
        RepresentationId::Plain => return tag.matches_weakly(EntityTag::new(base)),
        RepresentationId::Coded(encoder) => encoder,
    };
    let rest = base.strip_suffix(b"\"").and_then(|opaque| tag.opaque().strip_prefix(opaque));
    let rest = rest.and_then(|rest| rest.strip_prefix(MARK)).and_then(|rest| rest.strip_suffix(b"\""));
    rest == Some(Name::of(encoder).as_bytes())
}

/// The first of these representations that the client has, by its `If-None-Match`, for a response with the strong tag `base`.
#[allow(clippy::option_option, reason = "which representation, if any: as it was made, or in a coding")]
pub(crate) fn none_match(
    request: &HeaderMap,
    base: &HeaderValue,
    representations: &[RepresentationId],
) -> Option<RepresentationId> {
    let lines = request.get_all(IF_NONE_MATCH);
    let has = |representation| {
        let mut tags = lines.iter().flat_map(|line| entity_tags(line.as_bytes()));
        tags.any(|tag| names(tag, base, representation))
    };
    representations.iter().copied().find(|representation| has(*representation))
}

/// The first of these representations that the client has a part of, by its `If-Range`.
#[allow(clippy::option_option, reason = "which representation, if any: as it was made, or in a coding")]
pub(crate) fn if_range(
    request: &HeaderMap,
    base: &HeaderValue,
    representations: &[RepresentationId],
) -> Option<RepresentationId> {
    let tag = EntityTag::new(single_line(request, &IF_RANGE)?);
    representations.iter().copied().find(|representation| tag.is_strong() && names(tag, base, *representation))
}

/// Whether a client resumes by a date, which is that of every representation.
pub(crate) fn resumes_by_date(request: &HeaderMap) -> bool {
    request.get(IF_RANGE).is_some_and(|value| !value.as_bytes().ends_with(b"\""))
}

/// Whether a client asks for a part of what it has by a date alone, which is that of every representation.
pub(crate) fn asks_for_part_by_date(request: &HeaderMap) -> bool {
    has(request, &RANGE) && (resumes_by_date(request) || has(request, &IF_UNMODIFIED_SINCE))
}

/// The most tags that are added to one field of a request: a few bytes of it must not become many.
const MOST_PLAIN_TAGS: usize = 64;

/// Adds the application's own tags to the conditions of a forwarded request, in one line: `"abc"` beside `"abc-cl~gzip"`,
/// whichever process of a fleet has sent that. `is_safe`: the method is safe.
pub(crate) fn add_plain_tags(request: &mut HeaderMap, is_safe: bool) {
    static CONDITIONS: [HeaderName; 2] = [IF_MATCH, IF_NONE_MATCH];
    let fields = match is_safe {
        false => &CONDITIONS[..],
        // The application would answer with a part of another representation than the one whose tag the client sent. Without its own
        // tag it says 412.
        true if has(request, &RANGE) => &[],
        // A 304 would name a tag that the client does not know.
        true => &CONDITIONS[..1],
    };
    for name in fields {
        if !has(request, name) {
            continue;
        }
        let mut tags: Vec<&[u8]> = Vec::new();
        let lines = request.get_all(name).iter();
        for tag in lines.flat_map(|line| entity_tags(line.as_bytes())).filter_map(plain) {
            if tags.len() == MOST_PLAIN_TAGS {
                break;
            }
            if !tags.contains(&tag) {
                tags.push(tag);
            }
        }
        let tags: Vec<_> = tags.into_iter().map(|tag| [b"\"", tag, b"\""].concat()).collect();
        if let Ok(line) = HeaderValue::from_maybe_shared(Bytes::from(tags.join(&b", "[..])))
            && !line.is_empty()
        {
            request.append(name, line);
        }
    }
}

/// What is in the quotes of the application's strong tag, by that of a coded representation. A weak tag can't match in `If-Match`.
fn plain(tag: EntityTag<'_>) -> Option<&[u8]> {
    let inside = tag.opaque().strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    without_name(inside).filter(|_| tag.is_strong())
}

#[cfg(all(test, feature = "encode"))]
mod tests {
    use super::*;
    use crate::{
        coding::Coding,
        semantics::test_fields::{Fields, headers},
    };

    const PLAIN: RepresentationId = RepresentationId::Plain;
    const ZSTD: RepresentationId = RepresentationId::Coded(Encoder::usual(Coding::Zstd));
    const BR: RepresentationId = RepresentationId::Coded(Encoder::usual(Coding::Brotli));
    const GZIP: RepresentationId = RepresentationId::Coded(Encoder::usual(Coding::Gzip));
    const ANY: [RepresentationId; 4] = [ZSTD, BR, GZIP, PLAIN];

    fn value(text: &'static str) -> HeaderValue {
        HeaderValue::from_static(text)
    }

    #[test]
    fn a_strong_tag_has_the_name_of_the_coding_in_its_quotes() {
        for (tag, coded_tag) in
            [("\"abc\"", "\"abc-cl~gzip\""), ("\"\"", "\"-cl~gzip\""), ("\"a-cl~gzip\"", "\"a-cl~gzip-cl~gzip\"")]
        {
            assert_eq!(coded(&value(tag), Coding::Gzip), coded_tag);
        }
        assert_eq!(coded(&value("\"abc\""), Coding::Brotli), "\"abc-cl~br\"");
        assert_eq!(coded(&value("\"abc\""), Coding::Zstd), "\"abc-cl~zstd\"");
        assert_eq!(coded(&value("\"abc\""), Encoder::at(Coding::Brotli, 11).unwrap()), "\"abc-cl~br11\"");
    }

    #[test]
    fn another_level_is_another_representation() {
        let best = Encoder::at(Coding::Gzip, 9).unwrap();
        let representations = [RepresentationId::Coded(best), PLAIN];
        for (condition, expected) in [("\"abc-cl~gzip9\"", Some(representations[0])), ("\"abc-cl~gzip\"", None)] {
            let request = headers(&[("if-none-match", condition)]);
            assert_eq!(none_match(&request, &value("\"abc\""), &representations), expected, "{condition}");
        }
        let mut request = headers(&[("if-match", "\"a-cl~gzip9\", \"b-cl~gzip\"")]);
        add_plain_tags(&mut request, true);
        assert_eq!(request, headers(&[("if-match", "\"a-cl~gzip9\", \"b-cl~gzip\""), ("if-match", "\"a\", \"b\"")]));
    }

    #[test]
    fn what_can_t_be_told_apart_is_not_coded() {
        let cases: [(Fields<'_>, bool, bool); 11] = [
            (&[], true, false),
            (&[("etag", "\"a\"")], true, true),
            (&[("etag", "\"\"")], true, true),
            (&[("etag", "W/\"a\"")], true, false),
            (&[("etag", "\"a-gzip\"")], true, true),
            (&[("etag", "\"a-cl~gzip\"")], false, true),
            (&[("etag", "W/\"a-cl~br9\"")], false, false),
            (&[("etag", "a")], false, false),
            (&[("etag", "\"")], false, false),
            (&[("etag", "W/a")], false, false),
            (&[("etag", "\"a\""), ("etag", "\"b\"")], false, true),
        ];
        for (fields, can, is_strong) in cases {
            let headers = headers(fields);
            assert_eq!((can_be_coded(&headers), strong_tag(&headers).is_some()), (can, is_strong), "{fields:?}");
        }
    }

    #[test]
    fn a_client_has_what_its_tags_name() {
        for (condition, expected) in [
            ("\"abc\"", Some(PLAIN)),
            ("\"abc-cl~gzip\"", Some(GZIP)),
            ("W/\"abc-cl~gzip\"", Some(GZIP)),
            ("\"abc-cl~br\", \"abc-cl~gzip\"", Some(BR)),
            ("\"abc\", \"abc-cl~gzip\"", Some(GZIP)),
            ("\"x\", W/\"abc\"", Some(PLAIN)),
            ("\"abc-cl~deflate\"", None),
            ("\"abcgzip\"", None),
            ("\"abc-cl~gzip-cl~gzip\"", None),
            ("\"ab-cl~gzip\"", None),
            ("abc-cl~gzip", None),
            ("*", None),
        ] {
            let request = headers(&[("if-none-match", condition)]);
            assert_eq!(none_match(&request, &value("\"abc\""), &ANY), expected, "{condition}");
        }
        let lines = headers(&[("if-none-match", "\"x\""), ("if-none-match", "\"abc-cl~zstd\"")]);
        assert_eq!(none_match(&lines, &value("\"abc\""), &ANY), Some(ZSTD));
        assert_eq!(none_match(&lines, &value("\"abc\""), &[GZIP, PLAIN]), None);
    }

    #[test]
    fn a_client_resumes_what_it_has_a_part_of() {
        for (condition, expected) in [
            ("\"abc\"", Some(PLAIN)),
            ("\"abc-cl~br\"", Some(BR)),
            ("W/\"abc-cl~br\"", None),
            ("\"abd\"", None),
            ("Sun, 06 Nov 1994 08:49:37 GMT", None),
        ] {
            let request = headers(&[("if-range", condition)]);
            assert_eq!(if_range(&request, &value("\"abc\""), &ANY), expected, "{condition}");
            assert_eq!(resumes_by_date(&request), condition.ends_with("GMT"), "{condition}");
        }
        assert!(!resumes_by_date(&headers(&[])));
    }

    #[test]
    fn the_application_is_asked_by_its_own_tags_as_well() {
        let cases: [(Fields<'_>, bool, Fields<'_>); 12] = [
            (&[("if-match", "\"a-cl~gzip\"")], false, &[("if-match", "\"a-cl~gzip\""), ("if-match", "\"a\"")]),
            (
                &[("if-match", "\"a-cl~br\", \"b\", \"c-cl~gzip\"")],
                true,
                &[("if-match", "\"a-cl~br\", \"b\", \"c-cl~gzip\""), ("if-match", "\"a\", \"c\"")],
            ),
            (
                &[("if-match", "\"a-cl~br\""), ("range", "bytes=5-")],
                true,
                &[("if-match", "\"a-cl~br\""), ("range", "bytes=5-")],
            ),
            (
                &[("if-match", "\"a-cl~gzip\""), ("range", "bytes=5-")],
                false,
                &[("if-match", "\"a-cl~gzip\""), ("range", "bytes=5-"), ("if-match", "\"a\"")],
            ),
            (
                &[("if-match", "\"a-cl~gzip\", \"a-cl~br\""), ("if-match", "\"a-cl~br\"")],
                false,
                &[("if-match", "\"a-cl~gzip\", \"a-cl~br\""), ("if-match", "\"a-cl~br\""), ("if-match", "\"a\"")],
            ),
            (&[("if-none-match", "\"a-cl~gzip\"")], true, &[("if-none-match", "\"a-cl~gzip\"")]),
            (
                &[("if-none-match", "\"a-cl~br\"")],
                false,
                &[("if-none-match", "\"a-cl~br\""), ("if-none-match", "\"a\"")],
            ),
            (
                &[("if-match", "W/\"a-cl~gzip\", \"a-gzip\", a-cl~gzip, *")],
                false,
                &[("if-match", "W/\"a-cl~gzip\", \"a-gzip\", a-cl~gzip, *")],
            ),
            (&[("if-match", "\"gzip\"")], false, &[("if-match", "\"gzip\"")]),
            // Another process encodes at another level, or in what this one does not know.
            (
                &[("if-match", "\"a-cl~br9\", \"b-cl~dcz\"")],
                false,
                &[("if-match", "\"a-cl~br9\", \"b-cl~dcz\""), ("if-match", "\"a\", \"b\"")],
            ),
            (&[("if-match", "\"a-cl~\", \"~gzip\"")], false, &[("if-match", "\"a-cl~\", \"~gzip\"")]),
            (&[("if-range", "\"a-cl~gzip\"")], false, &[("if-range", "\"a-cl~gzip\"")]),
        ];
        for (before, is_safe, after) in cases {
            let mut request = headers(before);
            add_plain_tags(&mut request, is_safe);
            assert_eq!(request, headers(after), "{before:?}");
        }
    }

    #[test]
    fn a_long_condition_becomes_little_longer() {
        type Tag = fn(usize) -> String;
        let cases: [(Tag, usize); 2] =
            [(|_| "\"-cl~gzip\"".to_owned(), 1), (|number| format!("\"{number}-cl~gzip\""), 64)];
        for (tag, added) in cases {
            let line = (0..50_000).map(tag).collect::<Vec<_>>().join(",");
            let mut request = HeaderMap::new();
            request.insert(IF_MATCH, HeaderValue::from_str(&line).unwrap());
            add_plain_tags(&mut request, false);
            let lines: Vec<_> = request.get_all(IF_MATCH).iter().collect();
            assert_eq!((lines.len(), entity_tags(lines[1].as_bytes()).count()), (2, added));
        }
    }

    #[test]
    fn a_date_says_nothing_of_the_representation() {
        let range = ("range", "bytes=5-");
        let date = "Sun, 06 Nov 1994 08:49:37 GMT";
        let cases: [(Fields<'_>, bool); 6] = [
            (&[range, ("if-range", date)], true),
            (&[range, ("if-unmodified-since", date)], true),
            (&[("if-unmodified-since", date)], false),
            (&[("if-range", date)], false),
            (&[range, ("if-range", "\"a\"")], false),
            (&[range, ("if-modified-since", date)], false),
        ];
        for (fields, expected) in cases {
            assert_eq!(asks_for_part_by_date(&headers(fields)), expected, "{fields:?}");
        }
    }
}
