//! Groups of responses that are invalidated together (RFC 9875).

use http::{HeaderMap, HeaderName, Method};
use sfv::{BareItem, ListEntry};

use super::{invalidation::is_safe, names::Shapes, structured};

const CACHE_GROUPS: HeaderName = HeaderName::from_static("cache-groups");
const CACHE_GROUP_INVALIDATION: HeaderName = HeaderName::from_static("cache-group-invalidation");

/// The shape of the name of the field that names a response's groups.
pub(crate) const GROUPS: Shapes = Shapes::of_each(&["cache-groups"]);

/// The most groups that a response may be in; RFC 9875, section 2, asks for 32.
pub(crate) const MOST_GROUPS: usize = 64;
/// The longest name of a group, in bytes; RFC 9875, section 2, asks for 32.
pub(crate) const LONGEST_GROUP: usize = 256;

/// The groups that a response is in, within its origin.
///
/// `None` if they can't be read or are too many or too long: an invalidation would not reach the response.
pub(crate) fn cache_groups(headers: &HeaderMap) -> Option<Vec<String>> {
    let groups = strings(headers, &CACHE_GROUPS)?;
    let fit = groups.len() <= MOST_GROUPS && groups.iter().all(|group| group.len() <= LONGEST_GROUP);
    fit.then_some(groups)
}

/// Whether the message states its groups, even if it is in none.
pub(crate) fn names_groups(headers: &HeaderMap) -> bool {
    headers.contains_key(&CACHE_GROUPS)
}

/// The groups, within its origin, that a response to this method invalidates. A safe method invalidates nothing.
pub(crate) fn invalidated_groups(method: &Method, headers: &HeaderMap) -> Vec<String> {
    if is_safe(method) {
        return Vec::new();
    }
    let mut groups = strings(headers, &CACHE_GROUP_INVALIDATION).unwrap_or_default();
    // No response is in a group with a longer name.
    groups.retain(|group| group.len() <= LONGEST_GROUP);
    groups
}

/// The members of a list of strings, each once. Their parameters have no meaning yet.
fn strings(headers: &HeaderMap, name: &HeaderName) -> Option<Vec<String>> {
    let string = |member| match member {
        ListEntry::Item(sfv::Item { bare_item: BareItem::String(string), .. }) => Some(string.into()),
        _ => None,
    };
    let mut strings: Vec<String> = structured::list(headers, name)?.into_iter().map(string).collect::<Option<_>>()?;
    strings.sort_unstable();
    strings.dedup();
    Some(strings)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(name: &HeaderName, lines: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(name, HeaderValue::from_str(line).unwrap());
        }
        headers
    }

    fn groups(lines: &[&str]) -> Option<Vec<String>> {
        cache_groups(&headers(&CACHE_GROUPS, lines))
    }

    fn invalidated(method: &str, lines: &[&str]) -> Vec<String> {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        invalidated_groups(&method, &headers(&CACHE_GROUP_INVALIDATION, lines))
    }

    #[test]
    fn groups_are_strings_compared_with_case() {
        assert_eq!(
            groups(&["\"scripts\";a=1, \"Scripts\"", "\"scripts\", \"a b\""]).unwrap(),
            ["Scripts", "a b", "scripts"]
        );
        assert_eq!(groups(&[]), Some(vec![]));
        assert_eq!(groups(&[""]), Some(vec![]));
    }

    #[test]
    fn groups_that_cannot_be_read_are_not_passed_over() {
        for line in ["scripts", "\"a\", b", "(\"a\")", "\"a", "1"] {
            assert_eq!(groups(&[line]), None, "{line}");
        }
    }

    #[test]
    fn the_promised_number_and_length_fit() {
        let list = |count: usize, length: usize| {
            (0..count).map(|n| format!("\"{n:0length$}\"")).collect::<Vec<_>>().join(", ")
        };
        assert_eq!(groups(&[&list(32, 32)]).unwrap().len(), 32);
        assert_eq!(groups(&[&list(MOST_GROUPS, LONGEST_GROUP)]).unwrap().len(), MOST_GROUPS);
        assert_eq!(groups(&[&list(MOST_GROUPS + 1, 2)]), None);
        assert_eq!(groups(&[&list(1, LONGEST_GROUP + 1)]), None);
    }

    #[test]
    fn only_unsafe_methods_invalidate() {
        for method in ["POST", "PUT", "DELETE", "PATCH", "M-SEARCH"] {
            assert_eq!(invalidated(method, &["\"b\", \"a\"", "\"b\""]), ["a", "b"], "{method}");
        }
        for method in ["GET", "HEAD", "OPTIONS", "QUERY"] {
            assert_eq!(invalidated(method, &["\"a\""]), [""; 0], "{method}");
        }
        assert_eq!(invalidated("POST", &["a"]), [""; 0]);
        assert_eq!(invalidated("POST", &[]), [""; 0]);
        assert_eq!(invalidated("POST", &[&format!("\"{}\", \"a\"", "x".repeat(LONGEST_GROUP + 1))]), ["a"]);
    }
}
