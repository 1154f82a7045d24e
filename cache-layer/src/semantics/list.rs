//! Comma-separated lists of tokens (RFC 9110, section 5.6.1).

use http::{HeaderMap, HeaderName};

/// The non-empty members of a list field, over all of its lines.
///
/// Only for fields whose members are plain tokens: a comma inside a quoted string would split it.
pub(crate) fn members<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    headers
        .get_all(name)
        .into_iter()
        .flat_map(|line| line.as_bytes().split(|&byte| byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|member| !member.is_empty())
}

/// Whether this field is present.
pub(crate) fn has(headers: &HeaderMap, name: &HeaderName) -> bool {
    has_any(headers, std::slice::from_ref(name))
}

/// Whether any of these fields is present. Most messages have few fields, so comparing names is faster than hashing.
pub(crate) fn has_any(headers: &HeaderMap, names: &[HeaderName]) -> bool {
    headers.keys().any(|name| names.contains(name))
}

#[cfg(test)]
mod tests {
    use http::header::{HeaderMap, HeaderValue, VARY};

    use super::members;

    #[test]
    fn members_span_lines_and_empty_ones_are_skipped() {
        let mut headers = HeaderMap::new();
        for line in ["", " a ,,\tb\t", "c"] {
            headers.append(VARY, HeaderValue::from_static(line));
        }
        let found: Vec<&[u8]> = members(&headers, &VARY).collect();
        assert_eq!(found, [b"a", b"b", b"c"]);
    }
}
