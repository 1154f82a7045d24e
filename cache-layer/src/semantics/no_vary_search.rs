//! Queries that differ and select one response: `No-Vary-Search`
//! (draft-ietf-httpbis-no-vary-search-10, "URL variation config").
//!
//! This module parses the field and compares queries. It does not decide when a cache may use a response for another query.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName};
use percent_encoding::percent_decode_str;
use sfv::{BareItem, Dictionary, InnerList, Item, ListEntry};

use super::structured;

pub(crate) const NO_VARY_SEARCH: HeaderName = HeaderName::from_static("no-vary-search");

/// Beyond these limits, queries are compared byte by byte, because each request costs work.
const LONGEST_FIELD: usize = 4096;
const MOST_NAMES: usize = 128;
const MOST_PAIRS: usize = 1024;

/// Which spellings of the field are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Grammar {
    /// Draft -09 and later: `params` and `except` are lists, and exclude one another.
    #[default]
    Approved,
    /// Also the grammar of draft -03, the only one that browsers understand in 2026: `params` alone, and `params, except=("id")`.
    Former,
}

/// What a response says about the queries that select it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NoVarySearch {
    /// Whether the order of different names counts. That of the values of one name always does.
    order_counts: bool,
    counts: Counts,
}

/// Which parameters count.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Counts {
    AllBut(Vec<String>),
    Only(Vec<String>),
}

impl NoVarySearch {
    /// `None` if queries are to be compared byte by byte: the field is absent, can't be read, has no effect, or is too long.
    pub(crate) fn from_headers(headers: &HeaderMap, grammar: Grammar) -> Option<Self> {
        let lines = headers.get_all(&NO_VARY_SEARCH);
        let length: usize = lines.iter().map(|line| line.len() + 2).sum();
        if length == 0 || length > LONGEST_FIELD {
            return None;
        }
        let field = structured::dictionary(headers, &NO_VARY_SEARCH)?;
        let order_counts = !member(&field, "key-order", boolean).ok()?.unwrap_or(false);
        let counts = counted(&field, grammar).ok()?;
        let says_something = !order_counts || counts != Counts::AllBut(Vec::new());
        says_something.then_some(Self { order_counts, counts })
    }

    /// Whether no parameter counts, so that one response answers every query of its path.
    pub(crate) fn ignores_all(&self) -> bool {
        matches!(&self.counts, Counts::Only(names) if names.is_empty())
    }

    /// Whether the two queries are equivalent.
    pub(crate) fn are_equivalent(&self, one: Option<&str>, other: Option<&str>) -> bool {
        one == other || self.canonical(one).is_some_and(|one| self.canonical(other) == Some(one))
    }

    /// A canonical form, equal for all equivalent queries and for no other; `None` for a query that has too many parameters.
    ///
    /// It begins with the fingerprint of the `No-Vary-Search`, so that it can be part of a key.
    pub(crate) fn canonical(&self, query: Option<&str>) -> Option<Vec<u8>> {
        let pieces = query.unwrap_or_default().split('&').filter(|piece| !piece.is_empty());
        if pieces.clone().count() > MOST_PAIRS {
            return None;
        }
        let pairs = pieces.map(|piece| {
            let (name, value) = piece.split_once('=').unwrap_or((piece, ""));
            (form_decoded(name), form_decoded(value))
        });
        let mut pairs: Vec<_> = pairs.filter(|(name, _)| self.counts.has(name)).collect();
        if !self.order_counts {
            // A stable sort: the values of one name keep their order. The order of names makes no difference to equality.
            pairs.sort_by(|(one, _), (other, _)| one.cmp(other));
        }
        let mut canonical = self.fingerprint();
        for text in pairs.iter().flat_map(|(name, value)| [name, value]) {
            push(&mut canonical, text);
        }
        Some(canonical)
    }

    /// Distinguishes it from any other.
    fn fingerprint(&self) -> Vec<u8> {
        let (kind, names) = match &self.counts {
            Counts::AllBut(names) => (b'-', names),
            Counts::Only(names) => (b'+', names),
        };
        let mut fingerprint = vec![kind, b'0' + u8::from(self.order_counts)];
        fingerprint.extend_from_slice(&(names.len() as u32).to_be_bytes());
        names.iter().for_each(|name| push(&mut fingerprint, name));
        fingerprint
    }
}

impl Counts {
    fn has(&self, name: &str) -> bool {
        let is_named = |names: &[String]| names.binary_search_by(|one| one.as_str().cmp(name)).is_ok();
        match self {
            Self::AllBut(names) => !is_named(names),
            Self::Only(names) => is_named(names),
        }
    }
}

/// A member has an unexpected type, so that the whole field is ignored.
struct Unreadable;

/// The parameters that count, by the field.
fn counted(field: &Dictionary, grammar: Grammar) -> Result<Counts, Unreadable> {
    let except = member(field, "except", names)?;
    if grammar == Grammar::Former
        && let Some(ignores) = field.get("params").and_then(boolean)
    {
        return match except {
            Some(_) if !ignores => Err(Unreadable),
            None if !ignores => Ok(Counts::AllBut(Vec::new())),
            except => Ok(Counts::Only(except.unwrap_or_default())),
        };
    }
    match (member(field, "params", names)?, except) {
        (Some(_), Some(_)) => Err(Unreadable),
        (None, Some(names)) => Ok(Counts::Only(names)),
        (names, None) => Ok(Counts::AllBut(names.unwrap_or_default())),
    }
}

/// A member, if it is present.
fn member<T>(
    field: &Dictionary,
    key: &str,
    read: impl FnOnce(&ListEntry) -> Option<T>,
) -> Result<Option<T>, Unreadable> {
    field.get(key).map(|entry| read(entry).ok_or(Unreadable)).transpose()
}

fn boolean(entry: &ListEntry) -> Option<bool> {
    match entry {
        ListEntry::Item(Item { bare_item: BareItem::Boolean(is), .. }) => Some(*is),
        _ => None,
    }
}

/// Names of parameters, decoded, sorted, each once.
fn names(entry: &ListEntry) -> Option<Vec<String>> {
    let ListEntry::InnerList(InnerList { items, .. }) = entry else { return None };
    if items.len() > MOST_NAMES {
        return None;
    }
    let name = |item: &Item| match &item.bare_item {
        BareItem::String(name) => Some(form_decoded(name.as_str()).into_owned()),
        _ => None,
    };
    let mut names: Vec<String> = items.iter().map(name).collect::<Option<_>>()?;
    names.sort_unstable();
    names.dedup();
    Some(names)
}

/// A name or a value in `application/x-www-form-urlencoded`, decoded: invalid UTF-8 becomes U+FFFD, and a byte order mark stays.
fn form_decoded(text: &str) -> Cow<'_, str> {
    let spaced = if text.contains('+') { Cow::Owned(text.replace('+', " ")) } else { Cow::Borrowed(text) };
    match percent_decode_str(&spaced).decode_utf8_lossy() {
        Cow::Owned(decoded) => Cow::Owned(decoded),
        Cow::Borrowed(_) => spaced,
    }
}

fn push(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend_from_slice(&(text.len() as u32).to_be_bytes());
    bytes.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn field(lines: &[&str]) -> HeaderMap {
        lines.iter().map(|line| (NO_VARY_SEARCH, HeaderValue::from_bytes(line.as_bytes()).unwrap())).collect()
    }

    fn read(lines: &[&str], grammar: Grammar) -> Option<NoVarySearch> {
        NoVarySearch::from_headers(&field(lines), grammar)
    }

    fn split(uri: &str) -> (&str, Option<&str>) {
        uri.split_once('?').map_or((uri, None), |(path, query)| (path, Some(query)))
    }

    /// Whether what is stored for one URI answers a request for the other.
    fn matches(lines: &[&str], grammar: Grammar, stored: &str, request: &str) -> bool {
        let ((path, stored), (other, request)) = (split(stored), split(request));
        path == other
            && read(lines, grammar).map_or(stored == request, |variation| variation.are_equivalent(stored, request))
    }

    const YES: bool = true;
    const NO: bool = false;

    /// The stored URI, the lines of its field, the URI that is asked for, and whether they match.
    const VECTORS: [(&str, &[&str], &str, bool); 41] = include!("no_vary_search_vectors.rs");

    #[test]
    fn queries_match_as_the_draft_says() {
        for (stored, lines, request, expected) in VECTORS {
            assert_eq!(matches(lines, Grammar::Approved, stored, request), expected, "{stored} {lines:?} {request}");
            assert_eq!(matches(lines, Grammar::Approved, request, stored), expected, "{request} {lines:?} {stored}");
        }
    }

    #[test]
    fn the_former_spelling_is_read_where_it_is_asked_for() {
        for (stored, lines, request) in [
            ("/s?a=1", &["params"][..], "/s?a=2"),
            ("/s?id=1&x=1", &["params, except=(\"id\")"], "/s?id=1&x=2"),
            ("/s?id=1&x=1", &["except=(\"id\")"], "/s?id=1&x=2"),
        ] {
            assert!(matches(lines, Grammar::Former, stored, request), "{stored} {lines:?} {request}");
        }
        for lines in [&["params=?0"][..], &["params=?0, except=(\"id\")"], &["params=(\"x\"), except=(\"id\")"]] {
            assert_eq!(read(lines, Grammar::Former), None, "{lines:?}");
        }
        // Where both can be read, they mean the same.
        for (stored, lines, request, expected) in VECTORS {
            if !lines.iter().any(|line| line.starts_with("params,") || *line == "params") {
                assert_eq!(matches(lines, Grammar::Former, stored, request), expected, "{stored} {lines:?} {request}");
            }
        }
    }

    #[test]
    fn what_cannot_be_read_or_says_nothing_compares_queries_as_they_stand() {
        for line in [
            "",
            "params=()",
            "key-order=?0",
            "params=(\"a\"",
            "params=\"a\"",
            "params=?0",
            "except",
            "except=a",
            "except=(1)",
            "key-order=1",
            "key-order=()",
            "params=(\"a\" a)",
            "params=(\"a\"), except=()",
            "Params=(\"a\")",
            "unknown",
        ] {
            assert_eq!(read(&[line], Grammar::Approved), None, "{line}");
        }
        assert!(read(&["except=()"], Grammar::Approved).unwrap().ignores_all());
        assert!(!read(&["except=(\"a\")"], Grammar::Approved).unwrap().ignores_all());
        assert!(!read(&["params=(\"a\")"], Grammar::Approved).unwrap().ignores_all());
    }

    #[test]
    fn what_would_cost_too_much_is_compared_as_it_stands() {
        let names = |count: usize| format!("params=({})", vec!["\"a\""; count].join(" "));
        assert!(read(&[&names(MOST_NAMES)], Grammar::Approved).is_some());
        assert_eq!(read(&[&names(MOST_NAMES + 1)], Grammar::Approved), None);
        assert_eq!(read(&[&format!("params=(\"{}\")", "a".repeat(LONGEST_FIELD))], Grammar::Approved), None);
        let variation = read(&["params=(\"u\")"], Grammar::Approved).unwrap();
        let query = |pairs: usize| vec!["a=1"; pairs].join("&");
        assert!(variation.are_equivalent(Some(&query(MOST_PAIRS)), Some(&format!("&{}", query(MOST_PAIRS)))));
        let over = query(MOST_PAIRS + 1);
        assert!(variation.are_equivalent(Some(&over), Some(&over)));
        assert!(!variation.are_equivalent(Some(&over), Some(&format!("&{over}"))));
    }

    /// The comparison, name by name and without an order.
    fn equivalent_by_names(lines: &[&str], one: &str, other: &str) -> bool {
        let Some(NoVarySearch { order_counts, counts }) = read(lines, Grammar::Approved) else { return one == other };
        let pairs = |query: &str| -> Vec<(String, String)> {
            let mut pairs = Vec::new();
            for piece in query.split('&') {
                if piece.is_empty() {
                    continue;
                }
                let (name, value) = piece.split_at(piece.find('=').unwrap_or(piece.len()));
                let decode = |text: &str| {
                    let bytes: Vec<u8> = percent_decode_str(&text.replace('+', "%20")).collect();
                    String::from_utf8_lossy(&bytes).into_owned()
                };
                let name = decode(name);
                let kept = match &counts {
                    Counts::AllBut(names) => !names.contains(&name),
                    Counts::Only(names) => names.contains(&name),
                };
                if kept {
                    pairs.push((name, decode(value.strip_prefix('=').unwrap_or(value))));
                }
            }
            pairs
        };
        let (one, other) = (pairs(one), pairs(other));
        if order_counts {
            return one == other;
        }
        let values = |pairs: &[(String, String)], of: &str| -> Vec<String> {
            pairs.iter().filter(|(name, _)| name == of).map(|(_, value)| value.clone()).collect()
        };
        one.iter().chain(&other).all(|(name, _)| values(&one, name) == values(&other, name))
    }

    const FIELDS: [&str; 8] = [
        "key-order",
        "params=(\"a\")",
        "params=(\"a\" \"%62\")",
        "except=(\"a\")",
        "except=()",
        "key-order, params=(\"a\")",
        "key-order, except=(\"a\" \"+\")",
        "params=()",
    ];

    fn queries() -> impl Strategy<Value = String> {
        let piece = prop::sample::select(vec![
            "a", "b", "a=", "a=1", "a=2", "b=1", "%61=1", "%62", "+=1", "%20=1", "", "=", "=1", "%zz", "%ff", "c=a=b",
            "c=%3D",
        ]);
        prop::collection::vec(piece, 0..5).prop_map(|pieces| pieces.join("&"))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn queries_are_one_exactly_where_they_are_name_by_name(
            line in prop::sample::select(FIELDS.to_vec()),
            one in queries(),
            other in queries(),
        ) {
            let lines = [line];
            let uris = [&one, &other].map(|query| format!("/?{query}"));
            prop_assert_eq!(
                matches(&lines, Grammar::Approved, &uris[0], &uris[1]),
                equivalent_by_names(&lines, &one, &other)
            );
        }

        #[test]
        fn canonical_forms_are_equal_exactly_where_field_and_query_are(
            lines in (prop::sample::select(FIELDS.to_vec()), prop::sample::select(FIELDS.to_vec())),
            one in queries(),
            other in queries(),
        ) {
            let (Some(first), Some(second)) = (read(&[lines.0], Grammar::Approved), read(&[lines.1], Grammar::Approved))
            else { return Ok(()) };
            let same = first == second && first.are_equivalent(Some(&one), Some(&other));
            prop_assert_eq!(first.canonical(Some(&one)) == second.canonical(Some(&other)), same);
        }

        #[test]
        fn junk_never_panics(line: Vec<u8>, query: String) {
            if let Ok(value) = HeaderValue::from_bytes(&line) {
                let headers = HeaderMap::from_iter([(NO_VARY_SEARCH, value)]);
                for grammar in [Grammar::Approved, Grammar::Former] {
                    if let Some(variation) = NoVarySearch::from_headers(&headers, grammar) {
                        prop_assert!(variation.are_equivalent(Some(&query), Some(&query)));
                    }
                }
            }
        }
    }
}
