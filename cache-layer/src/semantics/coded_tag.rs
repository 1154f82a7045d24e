//! The entity tags of representations that this cache has coded (RFC 9110, section 8.8.3.3).
//!
//! Representations with different bytes need different strong tags. The tag of a coded representation is the application's tag
//! with the name of the coding at its end: `"abc"` and `"abc-gzip"`. A weak tag is the same for all representations. The
//! application only knows its own tags.

use http::{
    HeaderMap, HeaderValue,
    header::{ETAG, IF_MATCH, IF_NONE_MATCH, IF_RANGE},
};
use smallvec::SmallVec;

use super::validator::{EntityTag, entity_tags, single_line};
use crate::coding::Encoder;

/// Whether representations of a response with these fields can have different tags: it has one tag, in quotes, or none.
pub(crate) fn can_be_coded(headers: &HeaderMap) -> bool {
    let is_quoted = |tag: &[u8]| tag.len() >= 2 && tag.starts_with(b"\"") && tag.ends_with(b"\"");
    match single_line(headers, &ETAG) {
        Some(tag) => is_quoted(tag.strip_prefix(b"W/").unwrap_or(tag)),
        None => !headers.contains_key(ETAG),
    }
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
    let mut text = Vec::with_capacity(tag.len() + 1 + name.len());
    for part in [opaque, b"-", name, b"\""] {
        text.extend_from_slice(part);
    }
    HeaderValue::from_maybe_shared(bytes::Bytes::from(text)).unwrap_or_else(|_| unreachable!("a tag with a name in it"))
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

/// Whether a tag is that of this representation of a response with the strong tag `base`; compared weakly.
fn names(tag: EntityTag<'_>, base: &HeaderValue, representation: RepresentationId) -> bool {
    let base = base.as_bytes();
    let encoder = match representation {
        RepresentationId::Plain => return tag.matches_weakly(EntityTag::new(base)),
        RepresentationId::Coded(encoder) => encoder,
    };
    let rest = base.strip_suffix(b"\"").and_then(|opaque| tag.opaque().strip_prefix(opaque));
    let rest = rest.and_then(|rest| rest.strip_prefix(b"-")).and_then(|rest| rest.strip_suffix(b"\""));
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

/// Adds the application's own tags to the conditions of a forwarded request: `"abc"` beside `"abc-gzip"`.
/// `is_safe`: the method is safe, so that only `If-Match` is changed: a 304 would name a tag that the client doesn't know.
pub(crate) fn add_plain_tags(request: &mut HeaderMap, encoders: &[Encoder], is_safe: bool) {
    for name in [IF_MATCH, IF_NONE_MATCH] {
        if is_safe && name == IF_NONE_MATCH {
            continue;
        }
        let plain: Vec<_> = request
            .get_all(&name)
            .iter()
            .flat_map(|line| entity_tags(line.as_bytes()))
            .filter_map(|tag| plain(tag, encoders))
            .collect();
        for tag in plain {
            request.append(&name, tag);
        }
    }
}

/// The strong tag without the name of one of these encoders.
fn plain(tag: EntityTag<'_>, encoders: &[Encoder]) -> Option<HeaderValue> {
    let inside = tag.opaque().strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    let plain = encoders.iter().find_map(|encoder| {
        let rest = inside.strip_suffix(Name::of(*encoder).as_bytes())?.strip_suffix(b"-")?;
        Some([b"\"", rest, b"\""].concat())
    })?;
    // The result is strong, so that `If-Match` can match; a weak tag is not changed.
    tag.is_strong().then(|| HeaderValue::from_bytes(&plain).ok()).flatten()
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
        for (tag, coded_tag) in [("\"abc\"", "\"abc-gzip\""), ("\"\"", "\"-gzip\""), ("\"a-gzip\"", "\"a-gzip-gzip\"")]
        {
            assert_eq!(coded(&value(tag), Coding::Gzip), coded_tag);
        }
        assert_eq!(coded(&value("\"abc\""), Coding::Brotli), "\"abc-br\"");
        assert_eq!(coded(&value("\"abc\""), Coding::Zstd), "\"abc-zstd\"");
        assert_eq!(coded(&value("\"abc\""), Encoder::at(Coding::Brotli, 11).unwrap()), "\"abc-br11\"");
    }

    #[test]
    fn another_level_is_another_representation() {
        let best = Encoder::at(Coding::Gzip, 9).unwrap();
        let representations = [RepresentationId::Coded(best), PLAIN];
        for (condition, expected) in [("\"abc-gzip9\"", Some(representations[0])), ("\"abc-gzip\"", None)] {
            let request = headers(&[("if-none-match", condition)]);
            assert_eq!(none_match(&request, &value("\"abc\""), &representations), expected, "{condition}");
        }
        let mut request = headers(&[("if-match", "\"a-gzip9\", \"b-gzip\"")]);
        add_plain_tags(&mut request, &[best], true);
        assert_eq!(request, headers(&[("if-match", "\"a-gzip9\", \"b-gzip\""), ("if-match", "\"a\"")]));
    }

    #[test]
    fn what_can_t_be_told_apart_is_not_coded() {
        let cases: [(Fields<'_>, bool, bool); 8] = [
            (&[], true, false),
            (&[("etag", "\"a\"")], true, true),
            (&[("etag", "\"\"")], true, true),
            (&[("etag", "W/\"a\"")], true, false),
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
            ("\"abc-gzip\"", Some(GZIP)),
            ("W/\"abc-gzip\"", Some(GZIP)),
            ("\"abc-br\", \"abc-gzip\"", Some(BR)),
            ("\"abc\", \"abc-gzip\"", Some(GZIP)),
            ("\"x\", W/\"abc\"", Some(PLAIN)),
            ("\"abc-deflate\"", None),
            ("\"abcgzip\"", None),
            ("\"abc-gzip-gzip\"", None),
            ("\"ab-gzip\"", None),
            ("abc-gzip", None),
            ("*", None),
        ] {
            let request = headers(&[("if-none-match", condition)]);
            assert_eq!(none_match(&request, &value("\"abc\""), &ANY), expected, "{condition}");
        }
        let lines = headers(&[("if-none-match", "\"x\""), ("if-none-match", "\"abc-zstd\"")]);
        assert_eq!(none_match(&lines, &value("\"abc\""), &ANY), Some(ZSTD));
        assert_eq!(none_match(&lines, &value("\"abc\""), &[GZIP, PLAIN]), None);
    }

    #[test]
    fn a_client_resumes_what_it_has_a_part_of() {
        for (condition, expected) in [
            ("\"abc\"", Some(PLAIN)),
            ("\"abc-br\"", Some(BR)),
            ("W/\"abc-br\"", None),
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
        let encoders = [Coding::Gzip, Coding::Brotli].map(Encoder::usual);
        let cases: [(Fields<'_>, bool, Fields<'_>); 7] = [
            (&[("if-match", "\"a-gzip\"")], false, &[("if-match", "\"a-gzip\""), ("if-match", "\"a\"")]),
            (
                &[("if-match", "\"a-br\", \"b\", \"c-gzip\"")],
                true,
                &[("if-match", "\"a-br\", \"b\", \"c-gzip\""), ("if-match", "\"a\""), ("if-match", "\"c\"")],
            ),
            (&[("if-none-match", "\"a-gzip\"")], true, &[("if-none-match", "\"a-gzip\"")]),
            (&[("if-none-match", "\"a-br\"")], false, &[("if-none-match", "\"a-br\""), ("if-none-match", "\"a\"")]),
            (
                &[("if-match", "W/\"a-gzip\", \"a-zstd\", a-gzip, *")],
                false,
                &[("if-match", "W/\"a-gzip\", \"a-zstd\", a-gzip, *")],
            ),
            (&[("if-match", "\"gzip\"")], false, &[("if-match", "\"gzip\"")]),
            (&[("if-range", "\"a-gzip\"")], false, &[("if-range", "\"a-gzip\"")]),
        ];
        for (before, is_safe, after) in cases {
            let mut request = headers(before);
            add_plain_tags(&mut request, &encoders, is_safe);
            assert_eq!(request, headers(after), "{before:?}");
        }
    }
}
