//! Parts of a stored response (RFC 9110, section 14).

use std::ops::Range;

use http::{
    HeaderMap, HeaderValue, Method, StatusCode,
    header::{ACCEPT_RANGES, CONTENT_RANGE, IF_RANGE, LAST_MODIFIED, RANGE},
};

use super::{
    date::parse_http_date,
    list::{has, members},
    validator::{EntityTag, single_line, strong_last_modified},
};

/// What of a stored response answers a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Selected {
    /// All of it.
    Whole,
    /// These bytes, in a 206. They are not empty and lie within the content.
    Part(Range<u64>),
    /// Nothing: a 416.
    Unsatisfiable,
}

/// Whether the request asks for ranges of another unit than bytes, which only the application can know.
pub(crate) fn has_foreign_unit(request: &HeaderMap) -> bool {
    let is_bytes = |line: &HeaderValue| split_unit(line.as_bytes()).is_none_or(|(unit, _)| is_bytes_unit(unit));
    !request.get_all(RANGE).iter().all(is_bytes)
}

/// Selects from a stored response with content of `length` bytes.
///
/// A range that can't be read, is one of several, or depends on a validator that the stored response doesn't
/// have, is ignored, as RFC 9110, section 14.2, permits: the whole is never wrong.
pub(crate) fn select(
    method: &Method,
    request: &HeaderMap,
    status: StatusCode,
    stored: &HeaderMap,
    length: u64,
    now_secs: u64,
) -> Selected {
    let sliceable = |_: &&[u8]| *method == Method::GET && status == StatusCode::OK && accepts_ranges(stored);
    if !has(request, &RANGE) {
        return Selected::Whole;
    }
    let spec = single_line(request, &RANGE).filter(sliceable).and_then(parse_single);
    match spec {
        Some(spec) if if_range_holds(request, stored, now_secs) => spec.within(length),
        _ => Selected::Whole,
    }
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
    // Content that is already a part, whatever its status says, has no ranges that would be known.
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
    /// So many bytes at the end.
    Suffix(u64),
}

impl Spec {
    fn within(self, length: u64) -> Selected {
        match self {
            Self::Suffix(0) => Selected::Unsatisfiable,
            // Satisfiable, but no `Content-Range` could say so.
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

/// The range of a set that has only one.
fn parse_single(line: &[u8]) -> Option<Spec> {
    let (unit, set) = split_unit(line)?;
    let mut specs = set.split(|&byte| byte == b',').map(<[u8]>::trim_ascii).filter(|spec| !spec.is_empty());
    let spec = specs.next().filter(|_| is_bytes_unit(unit) && specs.next().is_none())?;
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
    fn what_cannot_be_read_or_is_several_is_ignored() {
        for line in [
            "bytes=0-1,3-4",
            "bytes=-1, 0-",
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
    }
}
