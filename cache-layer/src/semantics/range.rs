//! Parts of a stored response (RFC 9110, section 14).

use std::ops::Range;

use http::{
    HeaderMap, HeaderValue, Method, StatusCode,
    header::{ACCEPT_RANGES, CONTENT_ENCODING, CONTENT_RANGE, IF_RANGE, LAST_MODIFIED, RANGE},
};

use super::{
    date::parse_http_date,
    list::{has, members},
    validator::{EntityTag, single_line, strong_last_modified},
};

/// The part of a stored response that answers a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Selected {
    /// All of it.
    Whole,
    /// These bytes, in a 206. They are not empty and lie within the content.
    Part(Range<u64>),
    /// Each of these, two or more, in a 206 of several parts (RFC 9110, section 15.3.7.2). No two of them touch or overlap.
    Parts(Vec<Range<u64>>),
    /// Nothing: a 416.
    Unsatisfiable,
}

/// Whether the request asks for ranges of another unit than bytes, which only the application can know.
pub(crate) fn has_foreign_unit(request: &HeaderMap) -> bool {
    let is_bytes = |line: &HeaderValue| split_unit(line.as_bytes()).is_none_or(|(unit, _)| is_bytes_unit(unit));
    !request.get_all(RANGE).iter().all(is_bytes)
}

/// Whether the request asks for several ranges.
pub(crate) fn names_several(request: &HeaderMap) -> bool {
    request.get(RANGE).is_some_and(|line| line.as_bytes().contains(&b','))
}

/// Selects from a stored response with content of `length` bytes.
///
/// Ranges that can't be parsed, are too many, or depend on a validator that the stored response doesn't have, are ignored, as
/// RFC 9110, section 14.2, permits: the whole response is never wrong. Several ranges of coded content are ignored, too,
/// because clients disagree about the coding of the parts.
pub(crate) fn select(
    method: &Method,
    request: &HeaderMap,
    status: StatusCode,
    stored: &HeaderMap,
    length: u64,
    now_secs: u64,
) -> Selected {
    // For QUERY, ranges mean what they mean for GET (RFC 10008); of all other methods, none defines them.
    let defines_ranges = matches!(*method, Method::GET | Method::QUERY);
    let sliceable = |_: &&[u8]| defines_ranges && status == StatusCode::OK && accepts_ranges(stored);
    if !has(request, &RANGE) {
        return Selected::Whole;
    }
    let specs = single_line(request, &RANGE).filter(sliceable).and_then(parse);
    match specs.as_deref() {
        None => Selected::Whole,
        Some(_) if !if_range_holds(request, stored, now_secs) => Selected::Whole,
        Some([spec]) => spec.within(length),
        Some(_) if stored.contains_key(CONTENT_ENCODING) => Selected::Whole,
        Some(specs) => several(specs, length),
    }
}

/// The parts that `specs` name, in their order; parts outside of the content are left out, and parts that touch or overlap are
/// merged.
fn several(specs: &[Spec], length: u64) -> Selected {
    let mut parts: Vec<Range<u64>> = Vec::new();
    for spec in specs {
        let mut part = match spec.within(length) {
            Selected::Part(part) => part,
            Selected::Unsatisfiable => continue,
            Selected::Whole | Selected::Parts(_) => return Selected::Whole,
        };
        let mut place = parts.len();
        while let Some(at) = parts.iter().position(|other| part.start <= other.end && other.start <= part.end) {
            let other = parts.remove(at);
            part = part.start.min(other.start)..part.end.max(other.end);
            place = place.min(at);
        }
        parts.insert(place.min(parts.len()), part);
    }
    match &parts[..] {
        [] => Selected::Unsatisfiable,
        [part] => Selected::Part(part.clone()),
        _ => Selected::Parts(parts),
    }
}

/// A 206 of several parts of `content`, with the boundary that its `Content-Type` names.
pub(crate) fn multipart(
    content: &[u8],
    parts: &[Range<u64>],
    content_type: Option<&HeaderValue>,
    boundary: &str,
) -> Vec<u8> {
    let length = content.len() as u64;
    let selected: u64 = parts.iter().map(|part| part.end - part.start).sum();
    let mut body = Vec::with_capacity(selected as usize + parts.len() * 192);
    for part in parts {
        body.extend_from_slice(format!("--{boundary}\r\n").as_bytes());
        if let Some(content_type) = content_type {
            body.extend_from_slice(b"Content-Type: ");
            body.extend_from_slice(content_type.as_bytes());
            body.extend_from_slice(b"\r\n");
        }
        body.extend_from_slice(b"Content-Range: ");
        body.extend_from_slice(content_range(part, length).as_bytes());
        body.extend_from_slice(b"\r\n\r\n");
        // Within the content, which is in memory: these fit.
        body.extend_from_slice(&content[part.start as usize..part.end as usize]);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
    body
}

/// The `Content-Type` of a 206 of several parts.
pub(crate) fn multipart_type(boundary: &str) -> HeaderValue {
    let text = format!("multipart/byteranges; boundary={boundary}");
    HeaderValue::from_str(&text).expect("a boundary is visible ASCII")
}

/// The `Content-Range` of a part.
pub(crate) fn content_range(part: &Range<u64>, length: u64) -> HeaderValue {
    let text = format!("bytes {}-{}/{length}", part.start, part.end.saturating_sub(1));
    HeaderValue::from_str(&text).expect("digits are visible ASCII")
}

/// The `Content-Range` of a 416.
pub(crate) fn unsatisfied_content_range(length: u64) -> HeaderValue {
    HeaderValue::from_str(&format!("bytes */{length}")).expect("digits are visible ASCII")
}

/// The length of the whole that a 206 is a part of, if it says so.
pub(crate) fn complete_length(headers: &HeaderMap) -> Option<u64> {
    let (unit, range) = str::from_utf8(single_line(headers, &CONTENT_RANGE)?).ok()?.trim().split_once(' ')?;
    let (_, length) = range.split_once('/')?;
    is_bytes_unit(unit.as_bytes()).then(|| parse_position(length.as_bytes()))?
}

fn accepts_ranges(stored: &HeaderMap) -> bool {
    // The ranges of content that is already a part, whatever its status, are not known.
    let is_whole = !stored.contains_key(CONTENT_RANGE);
    is_whole && !members(stored, &ACCEPT_RANGES).any(|unit| unit.eq_ignore_ascii_case(b"none"))
}

/// RFC 9110, section 13.1.5.
fn if_range_holds(request: &HeaderMap, stored: &HeaderMap, now_secs: u64) -> bool {
    if !request.contains_key(IF_RANGE) {
        return true;
    }
    let Some(validator) = single_line(request, &IF_RANGE) else {
        return false;
    };
    if let Some(date) = parse_http_date(validator, now_secs) {
        return single_line(stored, &LAST_MODIFIED).is_some() && strong_last_modified(stored, now_secs) == Some(date);
    }
    EntityTag::of(stored).is_some_and(|tag| tag.matches_strongly(EntityTag::new(validator)))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spec {
    /// From a byte on, to another or to the end.
    From(u64, Option<u64>),
    /// This number of bytes at the end.
    Suffix(u64),
}

impl Spec {
    fn within(self, length: u64) -> Selected {
        match self {
            Self::Suffix(0) => Selected::Unsatisfiable,
            // Satisfiable, but no `Content-Range` could express it.
            Self::Suffix(_) if length == 0 => Selected::Whole,
            Self::Suffix(suffix) => Selected::Part(length.saturating_sub(suffix)..length),
            Self::From(first, _) if first >= length => Selected::Unsatisfiable,
            Self::From(first, last) => {
                Selected::Part(first..last.map_or(length, |last| last.saturating_add(1).min(length)))
            }
        }
    }
}

fn split_unit(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let equals = line.iter().position(|&byte| byte == b'=')?;
    Some((&line[..equals], &line[equals + 1..]))
}

fn is_bytes_unit(unit: &[u8]) -> bool {
    unit.trim_ascii().eq_ignore_ascii_case(b"bytes")
}

/// The most ranges that are answered: each costs more than its bytes.
const MOST_RANGES: usize = 16;

/// The ranges of a set; `None` if any of them can't be parsed, or if they are too many.
fn parse(line: &[u8]) -> Option<Vec<Spec>> {
    let (unit, set) = split_unit(line)?;
    let specs = set.split(|&byte| byte == b',').map(<[u8]>::trim_ascii).filter(|spec| !spec.is_empty());
    let specs: Vec<Spec> = specs.take(MOST_RANGES + 1).map(parse_one).collect::<Option<_>>()?;
    (is_bytes_unit(unit) && (1..=MOST_RANGES).contains(&specs.len())).then_some(specs)
}

fn parse_one(spec: &[u8]) -> Option<Spec> {
    let dash = spec.iter().position(|&byte| byte == b'-')?;
    match (&spec[..dash], &spec[dash + 1..]) {
        (b"", suffix) => Some(Spec::Suffix(parse_position(suffix)?)),
        (first, b"") => Some(Spec::From(parse_position(first)?, None)),
        (first, last) => {
            let (first, last) = (parse_position(first)?, parse_position(last)?);
            (first <= last).then_some(Spec::From(first, Some(last)))
        }
    }
}

/// Large numbers saturate: no content is that long.
fn parse_position(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let add = |position: u64, digit: &u8| position.saturating_mul(10).saturating_add(u64::from(digit - b'0'));
    Some(digits.iter().fold(0, add))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::semantics::test_fields::{Fields, headers};

    const NOW: u64 = 1_795_392_000;

    fn select_from(request: Fields<'_>, stored: Fields<'_>, length: u64) -> Selected {
        select(&Method::GET, &headers(request), StatusCode::OK, &headers(stored), length, NOW)
    }

    fn range(line: &str) -> Selected {
        select_from(&[("range", line)], &[], 11)
    }

    #[test]
    fn a_single_range_is_a_part() {
        for (line, expected) in [
            ("bytes=0-1", 0..2),
            ("bytes=1-", 1..11),
            ("bytes=-1", 10..11),
            ("bytes=-11", 0..11),
            ("bytes=-12", 0..11),
            ("bytes=10-10", 10..11),
            ("bytes=0-99999999999999999999999", 0..11),
            ("Bytes= 0-1 ,", 0..2),
            ("bytes=,003-004", 3..5),
        ] {
            assert_eq!(range(line), Selected::Part(expected), "{line}");
        }
    }

    #[test]
    fn a_range_outside_of_the_content_is_unsatisfiable() {
        for line in ["bytes=11-", "bytes=11-20", "bytes=99999999999999999999999-", "bytes=-0"] {
            assert_eq!(range(line), Selected::Unsatisfiable, "{line}");
        }
        assert_eq!(select_from(&[("range", "bytes=0-")], &[], 0), Selected::Unsatisfiable);
        assert_eq!(select_from(&[("range", "bytes=-5")], &[], 0), Selected::Whole);
    }

    #[test]
    fn several_ranges_are_parts_and_those_that_meet_are_one() {
        for (line, expected) in [
            ("bytes=0-1,3-4", &[0..2, 3..5][..]),
            ("bytes=-1, 0-1", &[10..11, 0..2]),
            ("bytes=5-6,0-0,8-", &[5..7, 0..1, 8..11]),
            ("bytes=0-0,20-30,-1", &[0..1, 10..11]),
            ("bytes=0-1,7-8,4-5,2-3", &[0..6, 7..9]),
            ("bytes=8-9,0-0,2-3,1-2", &[8..10, 0..4]),
        ] {
            assert_eq!(range(line), Selected::Parts(expected.to_vec()), "{line}");
        }
        for (line, expected) in
            [("bytes=0-1,1-4", 0..5), ("bytes=0-1,2-4", 0..5), ("bytes=3-4,0-9", 0..10), ("bytes=0-1,11-", 0..2)]
        {
            assert_eq!(range(line), Selected::Part(expected), "{line}");
        }
        assert_eq!(range("bytes=-1,0-"), Selected::Part(0..11));
        assert_eq!(range("bytes=11-,-0"), Selected::Unsatisfiable);
        let many = |count: usize| {
            let specs: Vec<String> = (0..count).map(|at| format!("{}-{}", 2 * at, 2 * at)).collect();
            select_from(&[("range", &format!("bytes={}", specs.join(",")))], &[], 100)
        };
        assert!(matches!(many(MOST_RANGES), Selected::Parts(parts) if parts.len() == MOST_RANGES));
        assert_eq!(many(MOST_RANGES + 1), Selected::Whole);
        let coded = select_from(&[("range", "bytes=0-1,3-4")], &[("content-encoding", "gzip")], 11);
        assert_eq!(coded, Selected::Whole);
    }

    #[test]
    fn parts_are_told_apart_by_their_boundary() {
        let content_type = HeaderValue::from_static("text/plain");
        let body = multipart(b"hello world", &[0..2, 6..11], Some(&content_type), "b");
        assert_eq!(
            String::from_utf8(body).unwrap(),
            "--b\r\nContent-Type: text/plain\r\nContent-Range: bytes 0-1/11\r\n\r\nhe\r\n\
             --b\r\nContent-Type: text/plain\r\nContent-Range: bytes 6-10/11\r\n\r\nworld\r\n--b--\r\n"
        );
    }

    #[test]
    fn what_cannot_be_read_is_ignored() {
        for line in [
            "bytes=0-1,2-1",
            "bytes=0-1,x",
            "bytes=2-1",
            "bytes=a-b",
            "bytes=1",
            "bytes=",
            "bytes=-",
            "bytes",
            "0-1",
            "bytes=+1-2",
            "bytes=1--2",
            "bytes=0x1-2",
            "seconds=0-1",
            "bytes=1 - 2",
        ] {
            assert_eq!(range(line), Selected::Whole, "{line}");
        }
        assert_eq!(select_from(&[("range", "bytes=0-1"), ("range", "bytes=0-1")], &[], 11), Selected::Whole);
        assert_eq!(select_from(&[], &[], 11), Selected::Whole);
    }

    #[test]
    fn only_another_unit_is_foreign() {
        for (line, expected) in [("seconds=0-1", true), ("bytes=0-1", false), ("BYTES=x", false), ("junk", false)] {
            assert_eq!(has_foreign_unit(&headers(&[("range", line)])), expected, "{line}");
        }
        assert!(!has_foreign_unit(&headers(&[])));
    }

    #[test]
    fn only_a_get_of_a_whole_200_is_sliced() {
        let request = headers(&[("range", "bytes=0-1")]);
        let select = |method: &Method, status: u16, stored: Fields<'_>| {
            select(method, &request, StatusCode::from_u16(status).unwrap(), &headers(stored), 11, NOW)
        };
        assert_eq!(select(&Method::GET, 200, &[("accept-ranges", "bytes")]), Selected::Part(0..2));
        assert_eq!(select(&Method::HEAD, 200, &[]), Selected::Whole);
        for status in [203, 301, 404, 500] {
            assert_eq!(select(&Method::GET, status, &[]), Selected::Whole, "{status}");
        }
        assert_eq!(select(&Method::GET, 200, &[("accept-ranges", "None")]), Selected::Whole);
        assert_eq!(select(&Method::GET, 200, &[("content-range", "bytes 0-10/20")]), Selected::Whole);
    }

    #[test]
    fn if_range_wants_the_same_bytes() {
        const MODIFIED: &str = "Sun, 22 Nov 2026 22:00:00 GMT";
        const DATE: &str = "Mon, 23 Nov 2026 00:00:00 GMT";
        let cases: [(&str, Fields<'_>, bool); 12] = [
            ("\"a\"", &[("etag", "\"a\"")], true),
            ("\"a\"", &[("etag", "\"b\"")], false),
            ("W/\"a\"", &[("etag", "W/\"a\"")], false),
            ("\"a\"", &[("etag", "W/\"a\"")], false),
            ("\"a\"", &[], false),
            ("\"a\", \"b\"", &[("etag", "\"a\"")], false),
            (MODIFIED, &[("last-modified", MODIFIED), ("date", DATE)], true),
            (MODIFIED, &[("last-modified", MODIFIED), ("date", MODIFIED)], false),
            (MODIFIED, &[("last-modified", MODIFIED)], false),
            (MODIFIED, &[("date", DATE)], false),
            (DATE, &[("last-modified", MODIFIED), ("date", DATE)], false),
            ("", &[("etag", "\"a\"")], false),
        ];
        for (validator, stored, expected) in cases {
            let expected = if expected { Selected::Part(0..2) } else { Selected::Whole };
            let request: Fields<'_> = &[("range", "bytes=0-1"), ("if-range", validator)];
            assert_eq!(select_from(request, stored, 11), expected, "{validator} {stored:?}");
        }
        let twice: Fields<'_> = &[("range", "bytes=0-1"), ("if-range", "\"a\""), ("if-range", "\"a\"")];
        assert_eq!(select_from(twice, &[("etag", "\"a\"")], 11), Selected::Whole);
        let outside: Fields<'_> = &[("range", "bytes=11-"), ("if-range", "\"b\"")];
        assert_eq!(select_from(outside, &[("etag", "\"a\"")], 11), Selected::Whole);
    }

    #[test]
    fn parts_are_described() {
        assert_eq!(content_range(&(0..2), 11), "bytes 0-1/11");
        assert_eq!(unsatisfied_content_range(11), "bytes */11");
    }

    #[test]
    fn a_part_says_how_long_the_whole_is() {
        for (lines, expected) in [
            (&["bytes 0-3/10"][..], Some(10)),
            (&[" Bytes 0-3/99999999999999999999 "], Some(u64::MAX)),
            (&["bytes 0-3/*"], None),
            (&["bytes */10"], Some(10)),
            (&["pages 0-3/10"], None),
            (&["bytes 0-3"], None),
            (&["bytes 0-3/10", "bytes 0-3/10"], None),
            (&[], None),
        ] {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(CONTENT_RANGE, HeaderValue::from_static(line));
            }
            assert_eq!(complete_length(&headers), expected, "{lines:?}");
        }
    }

    proptest! {
        #[test]
        fn a_part_is_what_indexing_gives(first: u8, last: u8, length in 0..300_u64) {
            let (first, last) = (u64::from(first), u64::from(last));
            let line = format!("bytes={first}-{last}");
            let indexed: Vec<u64> = (0..length).filter(|at| (first..=last).contains(at)).collect();
            match select_from(&[("range", &line)], &[], length) {
                Selected::Whole => prop_assert!(last < first),
                Selected::Part(part) => prop_assert_eq!(part.collect::<Vec<_>>(), indexed),
                Selected::Parts(parts) => panic!("{parts:?} of one range"),
                Selected::Unsatisfiable => prop_assert!(indexed.is_empty()),
            }
        }

        #[test]
        fn a_suffix_is_the_end(suffix in 1..400_u64, length in 1..300_u64) {
            let line = format!("bytes=-{suffix}");
            let Selected::Part(part) = select_from(&[("range", &line)], &[], length) else {
                panic!("{line}");
            };
            prop_assert_eq!((part.end, part.end - part.start), (length, suffix.min(length)));
        }

        #[test]
        fn no_request_gets_bytes_that_are_not_there(line in "bytes=[-0-9, ]{0,24}", length: u64) {
            if let Selected::Part(part) = select_from(&[("range", &line)], &[], length) {
                prop_assert!(part.start < part.end && part.end <= length);
            }
        }

        #[test]
        fn several_parts_are_the_bytes_that_were_asked_for(
            ranges in prop::collection::vec((0..40_u64, 0..8_u64), 1..6),
            length in 1..40_u64,
        ) {
            let specs: Vec<_> = ranges.iter().map(|(first, more)| format!("{first}-{}", first + more)).collect();
            let line = format!("bytes={}", specs.join(","));
            let asked_for = |at: &u64| ranges.iter().any(|(first, more)| (*first..=first + more).contains(at));
            let expected: Vec<u64> = (0..length).filter(asked_for).collect();
            let parts = match select_from(&[("range", &line)], &[], length) {
                Selected::Whole => panic!("{line}"),
                Selected::Part(part) => vec![part],
                Selected::Parts(parts) => parts,
                Selected::Unsatisfiable => vec![],
            };
            let mut selected: Vec<u64> = parts.into_iter().flatten().collect();
            selected.sort_unstable();
            prop_assert_eq!(selected, expected);
        }
    }
}
