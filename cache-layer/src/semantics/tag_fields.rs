//! Fields by which a response names its tags: `Cache-Tag` and `Surrogate-Key`, as in content delivery networks.

use http::{HeaderMap, HeaderName};

/// Tags with commas between them, which may hold blanks.
pub(crate) const CACHE_TAG: HeaderName = HeaderName::from_static("cache-tag");
/// Tags with blanks between them, which may hold commas.
pub(crate) const SURROGATE_KEY: HeaderName = HeaderName::from_static("surrogate-key");

/// The most tags that fields may name, repetitions included: a response with more is not worth reading through.
const MOST_NAMED: usize = 1_024;

/// The tags that a response names in `fields`. In other fields than those above, both commas and blanks separate tags.
///
/// `None` if they can't be read or are far too many: an invalidation would not reach the response.
pub(crate) fn named_tags<'a>(headers: &'a HeaderMap, fields: &[HeaderName]) -> Option<Vec<&'a str>> {
    let mut tags = Vec::new();
    for name in fields {
        let separates = |character: char| match name {
            name if *name == CACHE_TAG => character == ',',
            name if *name == SURROGATE_KEY => character.is_ascii_whitespace(),
            _ => character == ',' || character.is_ascii_whitespace(),
        };
        for line in headers.get_all(name) {
            let line = str::from_utf8(line.as_bytes()).ok()?;
            let named = line.split(separates).map(|tag| tag.trim_matches([' ', '\t'])).filter(|tag| !tag.is_empty());
            tags.extend(named.take(MOST_NAMED + 1 - tags.len()));
            if tags.len() > MOST_NAMED {
                return None;
            }
        }
    }
    Some(tags)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn headers(lines: &[(&'static str, &[u8])]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for &(name, value) in lines {
            headers.append(name, HeaderValue::from_bytes(value).unwrap());
        }
        headers
    }

    fn named(lines: &[(&'static str, &[u8])]) -> Option<Vec<String>> {
        let fields = [CACHE_TAG, SURROGATE_KEY, HeaderName::from_static("xkey")];
        Some(named_tags(&headers(lines), &fields)?.into_iter().map(str::to_owned).collect())
    }

    #[test]
    fn each_field_has_its_own_separator() {
        assert_eq!(named(&[("cache-tag", b"a b, c")]).unwrap(), ["a b", "c"]);
        assert_eq!(named(&[("surrogate-key", b"a b,c\td")]).unwrap(), ["a", "b,c", "d"]);
        assert_eq!(named(&[("xkey", b"a b,c")]).unwrap(), ["a", "b", "c"]);
    }

    #[test]
    fn all_lines_of_all_fields_count_and_nothing_is_no_tag() {
        let lines: [(&'static str, &[u8]); 4] =
            [("cache-tag", b"a,, ,b,"), ("surrogate-key", b"  "), ("cache-tag", b"c"), ("surrogate-key", b"d")];
        assert_eq!(named(&lines).unwrap(), ["a", "b", "c", "d"]);
        assert_eq!(named(&[]).unwrap(), [""; 0]);
        assert_eq!(named(&[("cache-tag", b"")]).unwrap(), [""; 0]);
    }

    #[test]
    fn only_the_given_fields_are_read() {
        let headers = headers(&[("cache-tag", b"a"), ("surrogate-key", b"b")]);
        assert_eq!(named_tags(&headers, &[SURROGATE_KEY]).unwrap(), ["b"]);
        assert_eq!(named_tags(&headers, &[]).unwrap(), [""; 0]);
    }

    #[test]
    fn what_cannot_be_read_is_not_passed_over() {
        assert_eq!(named(&[("cache-tag", b"a, b\xff")]), None);
        assert_eq!(named(&[("cache-tag", "müller".as_bytes())]).unwrap(), ["müller"]);
    }

    #[test]
    fn far_too_many_are_refused() {
        let line = |count: usize| vec!["t"; count].join(",").into_bytes();
        assert_eq!(named(&[("cache-tag", &line(MOST_NAMED))]).unwrap().len(), MOST_NAMED);
        assert_eq!(named(&[("cache-tag", &line(MOST_NAMED + 1))]), None);
        assert_eq!(named(&[("cache-tag", &line(MOST_NAMED)), ("xkey", b"one more")]), None);
    }

    proptest! {
        #[test]
        fn no_field_makes_it_panic(value in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(value) = HeaderValue::from_bytes(&value) {
                for name in [CACHE_TAG, SURROGATE_KEY] {
                    let headers = HeaderMap::from_iter([(name.clone(), value.clone())]);
                    for tag in named_tags(&headers, &[name]).unwrap_or_default() {
                        prop_assert!(!tag.is_empty() && tag.trim_matches([' ', '\t']) == tag);
                    }
                }
            }
        }
    }
}
