//! Freshening a stored response with a 304 or a response to HEAD (RFC 9111, sections 3.2, 4.3.4 and 4.3.5).

use http::{
    HeaderMap, StatusCode,
    header::{AGE, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderName, LAST_MODIFIED, SET_COOKIE},
};

use super::{
    caching_policy::{CachingPolicy, SetCookie},
    hop_by_hop,
    validator::{EntityTag, single_date, single_line},
};

/// Whether a 304 is about the stored response, whose validators, and no others, were in the request.
pub(crate) fn selects(not_modified: &HeaderMap, stored: &HeaderMap, now_secs: u64) -> bool {
    if not_modified.contains_key(ETAG) {
        let (Some(theirs), Some(ours)) = (EntityTag::of(not_modified), EntityTag::of(stored)) else {
            return false;
        };
        return if theirs.is_strong() { theirs.matches_strongly(ours) } else { theirs.matches_weakly(ours) };
    }
    // A 304 without a validator can only be about the response in the request.
    !not_modified.contains_key(LAST_MODIFIED)
        || has_same_line(&LAST_MODIFIED, not_modified, stored)
        || has_same_date(&LAST_MODIFIED, not_modified, stored, now_secs)
}

/// Whether both have the same date, however it is written.
fn has_same_date(name: &HeaderName, one: &HeaderMap, other: &HeaderMap, now_secs: u64) -> bool {
    single_date(one, name, now_secs).is_some_and(|date| single_date(other, name, now_secs) == Some(date))
}

fn has_same_line(name: &HeaderName, one: &HeaderMap, other: &HeaderMap) -> bool {
    single_line(one, name).is_some_and(|line| single_line(other, name) == Some(line))
}

/// Replaces fields of a stored response by those of a newer response without content.
///
/// Fields that describe the stored bytes are kept, whatever the newer response says.
pub(crate) fn freshen(stored: &mut HeaderMap, newer: &HeaderMap, policy: &CachingPolicy) {
    const BOUND_TO_CONTENT: [HeaderName; 3] = [CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE];
    let mut newer = newer.clone();
    hop_by_hop::strip(&mut newer);
    newer.remove(AGE);
    for name in BOUND_TO_CONTENT {
        newer.remove(name);
    }
    if policy.set_cookie != SetCookie::Keep {
        newer.remove(SET_COOKIE);
    }
    stored.remove(AGE);
    for name in newer.keys() {
        stored.remove(name);
    }
    for (name, value) in &newer {
        stored.append(name, value.clone());
    }
}

/// Whether a response to HEAD says that the content of the stored 200, of `stored_length` bytes, has changed (RFC 9111,
/// section 4.3.5).
pub(crate) fn head_outdates(status: StatusCode, head: &HeaderMap, stored: &HeaderMap, stored_length: u64) -> bool {
    let agrees = |name| !head.contains_key(&name) || has_same_line(&name, head, stored);
    // Compared weakly: a compressing proxy makes strong tags weak, perhaps for one method and not for the other.
    let same_tag =
        || EntityTag::of(head).zip(EntityTag::of(stored)).is_some_and(|(one, other)| one.matches_weakly(other));
    // In another coding, the same content has another length.
    let same_coding = || head.get_all(CONTENT_ENCODING).iter().eq(stored.get_all(CONTENT_ENCODING));
    let length_agrees = !head.contains_key(CONTENT_LENGTH)
        || !same_coding()
        || single_line(head, &CONTENT_LENGTH) == Some(stored_length.to_string().as_bytes());
    status == StatusCode::OK && !((agrees(ETAG) || same_tag()) && agrees(LAST_MODIFIED) && length_agrees)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;
    use crate::semantics::test_fields::headers;

    type Fields = &'static [(&'static str, &'static str)];

    fn freshened(stored: Fields, newer: Fields, policy: &CachingPolicy) -> HeaderMap {
        let mut stored = headers(stored);
        freshen(&mut stored, &headers(newer), policy);
        stored
    }

    const JANUARY: &str = "Wed, 01 Jan 2020 00:00:00 GMT";
    const FEBRUARY: &str = "Sat, 01 Feb 2020 00:00:00 GMT";

    #[test]
    fn a_304_is_about_the_response_with_its_validator() {
        let cases: [(Fields, Fields, bool); 18] = [
            (&[("etag", "\"a\"")], &[("etag", "\"a\"")], true),
            (&[("etag", "\"a\"")], &[("etag", "\"b\"")], false),
            (&[("etag", "\"a\"")], &[("etag", "W/\"a\"")], false),
            (&[("etag", "W/\"a\"")], &[("etag", "\"a\"")], true),
            (&[("etag", "W/\"a\"")], &[("etag", "W/\"a\"")], true),
            (&[("etag", "W/\"a\"")], &[("etag", "W/\"b\"")], false),
            (&[("etag", "\"a\"")], &[("last-modified", JANUARY)], false),
            (&[("etag", "\"a\""), ("etag", "\"b\"")], &[("etag", "\"a\"")], false),
            (&[("etag", "\"a\""), ("last-modified", FEBRUARY)], &[("etag", "\"a\""), ("last-modified", JANUARY)], true),
            (&[("last-modified", JANUARY)], &[("last-modified", JANUARY)], true),
            (&[("last-modified", FEBRUARY)], &[("last-modified", JANUARY)], false),
            (&[("last-modified", JANUARY)], &[("last-modified", "Wednesday, 01-Jan-20 00:00:00 GMT")], true),
            (&[("last-modified", "yesterday")], &[("last-modified", "the day before")], false),
            (&[("last-modified", FEBRUARY)], &[("etag", "\"a\""), ("last-modified", JANUARY)], false),
            (&[("last-modified", JANUARY)], &[("etag", "\"a\"")], false),
            (&[], &[("etag", "\"a\"")], true),
            (&[], &[("last-modified", JANUARY)], true),
            (&[], &[], true),
        ];
        for (not_modified, stored, expected) in cases {
            let selected = selects(&headers(not_modified), &headers(stored), 1_795_392_000);
            assert_eq!(selected, expected, "{not_modified:?} {stored:?}");
        }
    }

    #[test]
    fn all_fields_of_the_304_replace_all_lines_of_theirs() {
        let stored: Fields = &[
            ("cache-control", "max-age=1"),
            ("test-header", "a"),
            ("test-header", "b"),
            ("x-kept", "1"),
            ("content-type", "text/plain"),
            ("content-foo", "a"),
        ];
        let newer: Fields = &[
            ("cache-control", "max-age=3600"),
            ("test-header", "c"),
            ("x-new", "1"),
            ("x-new", "2"),
            ("content-type", "text/plain;charset=utf-8"),
            ("content-foo", "b"),
        ];
        let expected: Fields = &[
            ("x-kept", "1"),
            ("cache-control", "max-age=3600"),
            ("test-header", "c"),
            ("x-new", "1"),
            ("x-new", "2"),
            ("content-type", "text/plain;charset=utf-8"),
            ("content-foo", "b"),
        ];
        assert_eq!(freshened(stored, newer, &CachingPolicy::safe()), headers(expected));
    }

    #[test]
    fn what_describes_the_stored_bytes_stays() {
        let stored: Fields = &[("content-length", "36"), ("content-encoding", "gzip"), ("content-range", "a")];
        let newer: Fields = &[("content-length", "10"), ("content-encoding", "br"), ("content-range", "b")];
        assert_eq!(freshened(stored, newer, &CachingPolicy::strict()), headers(stored));
        assert_eq!(freshened(&[], newer, &CachingPolicy::strict()), HeaderMap::new());
    }

    #[test]
    fn what_is_not_stored_is_not_merged() {
        let newer: Fields = &[
            ("connection", "x-hop"),
            ("x-hop", "1"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "chunked"),
            ("age", "5"),
            ("set-cookie", "a=c"),
        ];
        for set_cookie in [SetCookie::Refuse, SetCookie::Strip] {
            let policy = CachingPolicy { set_cookie, ..CachingPolicy::strict() };
            assert_eq!(freshened(&[("age", "7")], newer, &policy), HeaderMap::new());
        }
        let kept = freshened(&[("set-cookie", "a=b")], newer, &CachingPolicy::strict());
        assert_eq!(kept, headers(&[("set-cookie", "a=c")]));
    }

    #[test]
    fn a_head_that_agrees_freshens_and_one_that_does_not_outdates() {
        let cases: [(u16, Fields, Fields, bool); 19] = [
            (200, &[], &[], false),
            (200, &[("content-length", "10")], &[], false),
            (200, &[("content-length", "11")], &[], true),
            (200, &[("content-length", "10"), ("content-length", "10")], &[], true),
            (200, &[("etag", "\"a\"")], &[("etag", "\"a\"")], false),
            (200, &[("etag", "\"b\"")], &[("etag", "\"a\"")], true),
            (200, &[("etag", "W/\"a\"")], &[("etag", "\"a\"")], false),
            (200, &[("etag", "\"a\"")], &[("etag", "W/\"a\"")], false),
            (200, &[("etag", "W/\"b\"")], &[("etag", "\"a\"")], true),
            (200, &[("content-length", "11"), ("content-encoding", "gzip")], &[], false),
            (200, &[("content-length", "11")], &[("content-encoding", "gzip")], false),
            (200, &[("content-length", "11"), ("content-encoding", "br")], &[("content-encoding", "gzip")], false),
            (200, &[("content-length", "11"), ("content-encoding", "br")], &[("content-encoding", "br")], true),
            (200, &[("etag", "\"b\"")], &[], true),
            (200, &[], &[("etag", "\"a\"")], false),
            (200, &[("last-modified", JANUARY)], &[("last-modified", JANUARY)], false),
            (200, &[("last-modified", FEBRUARY)], &[("last-modified", JANUARY)], true),
            (410, &[("etag", "\"b\"")], &[("etag", "\"a\"")], false),
            (304, &[], &[], false),
        ];
        for (status, head, stored, expected) in cases {
            let status = StatusCode::from_u16(status).unwrap();
            let effect = head_outdates(status, &headers(head), &headers(stored), 10);
            assert_eq!(effect, expected, "{status} {head:?} {stored:?}");
        }
    }

    fn any_headers() -> impl Strategy<Value = HeaderMap> {
        let name = prop::sample::select(vec![
            "a",
            "b",
            "c",
            "content-length",
            "content-encoding",
            "connection",
            "keep-alive",
            "age",
            "set-cookie",
        ]);
        prop::collection::vec((name, "[abc]{0,2}"), 0..8).prop_map(|lines| {
            let mut headers = HeaderMap::new();
            for (name, value) in lines {
                headers.append(name, HeaderValue::from_str(&value).unwrap());
            }
            headers
        })
    }

    proptest! {
        #[test]
        fn each_field_comes_whole_from_one_of_the_two(stored in any_headers(), newer in any_headers()) {
            let mut merged = stored.clone();
            freshen(&mut merged, &newer, &CachingPolicy::strict());
            let mut end_to_end = newer.clone();
            hop_by_hop::strip(&mut end_to_end);
            let names: HashSet<_> = stored.keys().chain(newer.keys()).collect();
            for name in names {
                let lines = |headers: &HeaderMap| headers.get_all(name).iter().cloned().collect::<Vec<_>>();
                let expected = match name.as_str() {
                    "age" => vec![],
                    "content-length" | "content-encoding" => lines(&stored),
                    _ if end_to_end.contains_key(name) => lines(&end_to_end),
                    _ => lines(&stored),
                };
                prop_assert_eq!(lines(&merged), expected, "{}", name);
            }
        }
    }
}
