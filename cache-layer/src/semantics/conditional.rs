//! Conditional requests: those of clients, which a stored response may answer, and those of the cache, which validate a stored
//! response (RFC 9111, section 4.3; RFC 9110, section 13).

use http::{
    HeaderMap, Method, Request, StatusCode,
    header::{
        ACCEPT_RANGES, CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, DATE, ETAG,
        HeaderName, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, LAST_MODIFIED, RANGE,
    },
};

use super::{
    list::has_any,
    validator::{EntityTag, entity_tags, single_date},
};

/// Whether only the application can evaluate a precondition of the request, because the precondition concerns the state of
/// the resource and not a stored copy (RFC 9110, sections 13.1.1 and 13.1.4).
pub(crate) fn must_be_forwarded(request: &HeaderMap) -> bool {
    request.contains_key(IF_MATCH) || request.contains_key(IF_UNMODIFIED_SINCE)
}

/// Whether the client that sent this GET or HEAD already has the stored response, so that a 304 is the right answer.
pub(crate) fn is_not_modified(request: &HeaderMap, status: StatusCode, stored: &HeaderMap, now_secs: u64) -> bool {
    static PRECONDITIONS: [HeaderName; 2] = [IF_NONE_MATCH, IF_MODIFIED_SINCE];
    if !status.is_success() || !has_any(request, &PRECONDITIONS) {
        return false;
    }
    if request.contains_key(IF_NONE_MATCH) {
        return none_match_fails(request, stored);
    }
    let Some(since) = single_date(request, &IF_MODIFIED_SINCE, now_secs) else {
        return false;
    };
    // RFC 9111, section 4.3.2: a response without Last-Modified is compared by its Date.
    let basis = if stored.contains_key(LAST_MODIFIED) { LAST_MODIFIED } else { DATE };
    let Some(modified) = single_date(stored, &basis, now_secs) else {
        return false;
    };
    // A date in the future is ignored, unless it equals the Last-Modified of the application.
    modified == since || (modified < since && since <= now_secs)
}

fn none_match_fails(request: &HeaderMap, stored: &HeaderMap) -> bool {
    let tag = EntityTag::of(stored);
    let lines = request.get_all(IF_NONE_MATCH);
    if lines.iter().all(|line| line.as_bytes().trim_ascii() == b"*") {
        return true;
    }
    let mut tags = lines.iter().flat_map(|line| entity_tags(line.as_bytes()));
    tag.is_some_and(|tag| tags.any(|one| one.matches_weakly(tag)))
}

/// Removes the client's preconditions and range, so that the application sends the whole response.
pub(crate) fn unconditional(request: &mut HeaderMap) {
    static FIELDS: [HeaderName; 6] = [IF_MATCH, IF_NONE_MATCH, IF_MODIFIED_SINCE, IF_UNMODIFIED_SINCE, IF_RANGE, RANGE];
    if request.keys().any(may_be_conditional) {
        for name in &FIELDS {
            request.remove(name);
        }
    }
}

/// Removes the preconditions and the range of a POST that is answered by its content: no answer to POST is a 304 or a part
/// (RFC 9110, sections 13.1.2 and 14.2).
pub(crate) fn ignore_undefined<B>(request: &mut Request<B>) {
    if *request.method() == Method::POST {
        unconditional(request.headers_mut());
    }
}

/// Whether a request field may be a precondition or a range. Checks the first letters, which is faster than comparing names.
fn may_be_conditional(name: &HeaderName) -> bool {
    let name = name.as_str();
    name.starts_with("if-") || name == "range"
}

/// Turns a request into one that validates a stored response: the stored validators, byte for byte, replace the client's
/// preconditions.
pub(crate) fn validating(request: &mut HeaderMap, stored: &HeaderMap) {
    unconditional(request);
    if let Some(tag) = stored.get(ETAG).filter(|_| EntityTag::of(stored).is_some()) {
        request.insert(IF_NONE_MATCH, tag.clone());
    }
    if let Some(date) = stored.get(LAST_MODIFIED) {
        request.insert(IF_MODIFIED_SINCE, date.clone());
    }
}

/// Reduces the fields of a stored response to those of a 304: all but the metadata of the content, which a 304 does not have
/// (RFC 9110, section 15.4.5).
pub(crate) fn retain_not_modified_fields(headers: &mut HeaderMap) {
    const CONTENT_FIELDS: [HeaderName; 11] = [
        ACCEPT_RANGES,
        CONTENT_ENCODING,
        CONTENT_LANGUAGE,
        CONTENT_LENGTH,
        CONTENT_RANGE,
        CONTENT_TYPE,
        HeaderName::from_static("content-digest"),
        HeaderName::from_static("content-md5"),
        HeaderName::from_static("digest"),
        HeaderName::from_static("repr-digest"),
        HeaderName::from_static("unencoded-digest"),
    ];
    for name in CONTENT_FIELDS {
        headers.remove(name);
    }
    // Last-Modified helps a client only if there is no other validator.
    if EntityTag::of(headers).is_some() {
        headers.remove(LAST_MODIFIED);
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;
    use crate::semantics::{
        date::write_http_date,
        test_fields::{Fields, headers},
    };

    /// 23 November 2026.
    const NOW: u64 = 1_795_392_000;

    fn not_modified(request: Fields<'_>, stored: Fields<'_>) -> bool {
        is_not_modified(&headers(request), StatusCode::OK, &headers(stored), NOW)
    }

    #[test]
    fn a_matching_tag_means_that_the_client_has_it() {
        for (condition, tag, expected) in [
            ("\"abcdef\"", "\"abcdef\"", true),
            ("\"other\"", "\"abcdef\"", false),
            ("W/\"abcdef\"", "W/\"abcdef\"", true),
            ("W/\"abcdef\"", "\"abcdef\"", true),
            ("\"abcdef\"", "W/\"abcdef\"", true),
            ("\"abcdef\u{fc}\"", "\"abcdef\u{fc}\"", true),
            ("\"abcdef\", \"1234\", \"5678\"", "\"abcdef\"", true),
            ("\"1234\", \"abcdef\", \"5678\"", "\"abcdef\"", true),
            ("\"1234\", \"5678\", \"abcdef\"", "\"abcdef\"", true),
            ("\"1234\",\"5,\"", "\"5,\"", true),
            ("*", "\"abcdef\"", true),
            (" * ", "\"abcdef\"", true),
            ("*, \"1\"", "\"abcdef\"", false),
            ("", "\"abcdef\"", false),
            ("abcdef", "\"abcdef\"", false),
            ("\"abcdef\"", "abcdef", false),
            ("abcdef", "abcdef", true),
        ] {
            assert_eq!(not_modified(&[("if-none-match", condition)], &[("etag", tag)]), expected, "{condition} {tag}");
        }
        assert!(not_modified(&[("if-none-match", "\"1\""), ("if-none-match", "\"2\"")], &[("etag", "\"2\"")]));
        assert!(not_modified(&[("if-none-match", "*")], &[]));
        assert!(!not_modified(&[("if-none-match", "\"1\"")], &[]));
        assert!(!not_modified(&[("if-none-match", "\"1\"")], &[("etag", "\"1\""), ("etag", "\"2\"")]));
    }

    const EARLIER: &str = "Sun, 22 Nov 2026 22:00:00 GMT";
    const MIDDLE: &str = "Sun, 22 Nov 2026 23:00:00 GMT";
    const LATER: &str = "Mon, 23 Nov 2026 00:00:00 GMT";
    const FUTURE: &str = "Mon, 23 Nov 2026 00:00:01 GMT";

    #[test]
    fn the_tag_takes_precedence_over_the_date() {
        let stored: Fields<'_> = &[("etag", "\"abcdef\""), ("last-modified", MIDDLE)];
        assert!(not_modified(&[("if-none-match", "\"abcdef\""), ("if-modified-since", EARLIER)], stored));
        assert!(!not_modified(&[("if-none-match", "\"other\""), ("if-modified-since", LATER)], stored));
        assert!(!not_modified(&[("if-none-match", ""), ("if-modified-since", LATER)], stored));
    }

    #[test]
    fn a_client_has_what_was_not_modified_since() {
        for (since, expected) in [
            (EARLIER, false),
            (MIDDLE, true),
            (LATER, true),
            ("Sunday, 22-Nov-26 23:00:00 GMT", true),
            ("Sun Nov 22 23:00:00 2026", true),
            (FUTURE, false),
            ("Sun, 22 Nov 2026 23:00:00", false),
            ("0", false),
        ] {
            assert_eq!(
                not_modified(&[("if-modified-since", since)], &[("last-modified", MIDDLE)]),
                expected,
                "{since}"
            );
        }
        assert!(!not_modified(&[], &[("last-modified", MIDDLE)]));
        let twice: Fields<'_> = &[("if-modified-since", LATER), ("if-modified-since", LATER)];
        assert!(!not_modified(twice, &[("last-modified", MIDDLE)]));
        assert!(not_modified(&[("if-modified-since", FUTURE)], &[("last-modified", FUTURE)]));
    }

    #[test]
    fn without_a_modification_date_that_of_the_response_counts() {
        let stored: Fields<'_> = &[("date", MIDDLE)];
        assert!(not_modified(&[("if-modified-since", LATER)], stored));
        assert!(not_modified(&[("if-modified-since", MIDDLE)], stored));
        // The client's copy is older than this response, and no validator shows that the two are the same.
        assert!(!not_modified(&[("if-modified-since", EARLIER)], stored));
        assert!(!not_modified(&[("if-modified-since", LATER)], &[]));
        assert!(!not_modified(&[("if-modified-since", LATER)], &[("last-modified", "never"), ("date", MIDDLE)]));
    }

    #[test]
    fn a_precondition_is_ignored_where_the_response_is_no_success() {
        let request = headers(&[("if-none-match", "*")]);
        let stored = headers(&[("etag", "\"a\"")]);
        for (status, expected) in [(200, true), (203, true), (204, true), (301, false), (404, false), (500, false)] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(is_not_modified(&request, status, &stored, NOW), expected, "{status}");
        }
    }

    #[test]
    fn what_is_about_the_resource_is_forwarded() {
        for (field, expected) in [
            ("if-match", true),
            ("if-unmodified-since", true),
            ("if-none-match", false),
            ("if-modified-since", false),
            ("if-range", false),
            ("range", false),
        ] {
            assert_eq!(must_be_forwarded(&headers(&[(field, "\"a\"")])), expected, "{field}");
        }
    }

    #[test]
    fn validation_sends_the_stored_validators_and_nothing_of_the_clients() {
        let client: Fields<'_> = &[
            ("accept", "a/b"),
            ("if-none-match", "\"client\""),
            ("if-modified-since", LATER),
            ("if-match", "\"client\""),
            ("if-unmodified-since", LATER),
            ("if-range", "\"client\""),
            ("range", "bytes=0-1"),
        ];
        let cases: [(Fields<'_>, Fields<'_>); 5] = [
            (&[("etag", "W/\"a b\"")], &[("accept", "a/b"), ("if-none-match", "W/\"a b\"")]),
            (&[("etag", "abc")], &[("accept", "a/b"), ("if-none-match", "abc")]),
            (&[("last-modified", "some time")], &[("accept", "a/b"), ("if-modified-since", "some time")]),
            (
                &[("etag", "\"a\""), ("last-modified", MIDDLE)],
                &[("accept", "a/b"), ("if-none-match", "\"a\""), ("if-modified-since", MIDDLE)],
            ),
            (&[("etag", "\"a\""), ("etag", "\"b\"")], &[("accept", "a/b")]),
        ];
        for (stored, expected) in cases {
            let mut request = headers(client);
            validating(&mut request, &headers(stored));
            assert_eq!(request, headers(expected), "{stored:?}");
        }
        let mut request = headers(client);
        unconditional(&mut request);
        assert_eq!(request, headers(&[("accept", "a/b")]));
    }

    #[test]
    fn a_304_says_what_the_200_said_but_nothing_of_its_content() {
        let must_have: Fields<'_> = &[
            ("cache-control", "max-age=60"),
            ("content-location", "/a"),
            ("date", LATER),
            ("etag", "\"a\""),
            ("expires", FUTURE),
            ("vary", "accept"),
            ("x-own", "1"),
        ];
        let mut response = headers(must_have);
        for name in
            ["content-length", "content-type", "content-encoding", "content-language", "content-range", "digest"]
        {
            response.insert(name, HeaderValue::from_static("1"));
        }
        response.insert(LAST_MODIFIED, HeaderValue::from_static(MIDDLE));
        retain_not_modified_fields(&mut response);
        assert_eq!(response, headers(must_have));

        let mut response = headers(&[("last-modified", MIDDLE)]);
        retain_not_modified_fields(&mut response);
        assert!(response.contains_key(LAST_MODIFIED));
    }

    proptest! {
        #[test]
        fn a_304_is_given_for_the_stored_tag_in_any_list(
            tags in prop::collection::vec("(W/)?\"[a-c,*]{0,2}\"", 1..5),
            stored in "(W/)?\"[a-c,*]{0,2}\"",
        ) {
            let bare = |tag: &str| tag.trim_start_matches("W/").to_owned();
            let expected = tags.iter().any(|tag| bare(tag) == bare(&stored));
            let list = tags.join(", ");
            prop_assert_eq!(not_modified(&[("if-none-match", &list)], &[("etag", &stored)]), expected);
        }

        #[test]
        fn a_304_by_date_means_that_nothing_is_newer(modified in 0..2 * NOW, since in 0..2 * NOW) {
            let request = headers(&[]);
            let mut request = request;
            request.insert(IF_MODIFIED_SINCE, write_http_date(since));
            let mut stored = HeaderMap::new();
            stored.insert(LAST_MODIFIED, write_http_date(modified));
            let answer = is_not_modified(&request, StatusCode::OK, &stored, NOW);
            prop_assert_eq!(answer, modified == since || (modified < since && since <= NOW));
        }
    }
}
