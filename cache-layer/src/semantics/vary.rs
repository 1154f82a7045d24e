//! Which request fields select a response (RFC 9111, section 4.1).

use http::header::{ACCEPT, ACCEPT_CHARSET, ACCEPT_ENCODING, ACCEPT_LANGUAGE, HeaderMap, HeaderName, VARY};

use super::{
    list::{has, members},
    preference,
};

/// Which spellings of a selecting field are taken for one (RFC 9111, section 4.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Normalization {
    /// In `Accept-Encoding` and `Accept-Language`: case, white space and the digits of weights. In `Accept` and
    /// `Accept-Charset`, lists by their definition as well: white space around commas.
    pub(crate) preferences: bool,
    /// In the first two: the order of members. Some applications take the first of the same weight, or of all.
    pub(crate) preference_order: bool,
    /// In all other fields: white space around commas. It may have a meaning in a field that is no list.
    pub(crate) list_space: bool,
}

impl Normalization {
    /// Only what an application that reads the fields by their syntax can't tell apart.
    pub(crate) const fn safe() -> Self {
        Self { preferences: true, preference_order: false, list_space: false }
    }

    /// Whatever RFC 9111 permits.
    pub(crate) const fn all() -> Self {
        Self { preferences: true, preference_order: true, list_space: true }
    }
}

/// What the `Vary` of a response says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Vary {
    /// No request selects it again: `*`, a member that is no field name, or more than
    /// [`VaryFields::LIMIT`] fields.
    Star,
    /// The requests that agree in these fields.
    Fields(VaryFields),
}

impl Vary {
    /// `None` when the response does not vary.
    pub(crate) fn from_headers(headers: &HeaderMap) -> Option<Self> {
        if !has(headers, &VARY) {
            return None;
        }
        let mut names = Vec::new();
        for member in members(headers, &VARY) {
            // `*` is a valid token, and so it has to be told from a field of that name.
            match HeaderName::from_bytes(member) {
                Ok(name) if member != b"*" => names.push(name),
                _ => return Some(Self::Star),
            }
        }
        if names.is_empty() {
            return None;
        }
        Some(VaryFields::new(names).map_or(Self::Star, Self::Fields))
    }
}

/// The names of the selecting request fields: lower case, sorted, each once, at least one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct VaryFields(Vec<HeaderName>);

impl VaryFields {
    /// The most fields that a response may vary on: each costs work on every request for it.
    pub(crate) const LIMIT: usize = 16;

    fn new(mut names: Vec<HeaderName>) -> Option<Self> {
        names.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
        names.dedup();
        (1..=Self::LIMIT).contains(&names.len()).then_some(Self(names))
    }

    /// What a request says in each field, in the order of the names. Lines are combined with `", "`; an
    /// absent field differs from an empty one.
    pub(crate) fn selecting_values(&self, request: &HeaderMap, normalization: Normalization) -> Vec<Option<Vec<u8>>> {
        let normalize = |name, value| normalized(name, value, normalization);
        self.0.iter().map(|name| Some(normalize(name, selecting_value(request, name)?))).collect()
    }

    /// The names with commas between them, for [`VaryFields::from_bytes`].
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let names: Vec<&[u8]> = self.0.iter().map(|name| name.as_str().as_bytes()).collect();
        names.join(&b',')
    }

    /// Reads what [`VaryFields::to_bytes`] wrote, and nothing else.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let names = bytes.split(|&byte| byte == b',').map(HeaderName::from_bytes);
        let fields = Self::new(names.collect::<Result<_, _>>().ok()?)?;
        (fields.to_bytes() == bytes).then_some(fields)
    }
}

fn selecting_value(request: &HeaderMap, name: &HeaderName) -> Option<Vec<u8>> {
    let mut lines = request.get_all(name).into_iter();
    let mut value = lines.next()?.as_bytes().trim_ascii().to_vec();
    for line in lines {
        value.extend_from_slice(b", ");
        value.extend_from_slice(line.as_bytes().trim_ascii());
    }
    Some(value)
}

fn normalized(name: &HeaderName, value: Vec<u8>, normalization: Normalization) -> Vec<u8> {
    if name == ACCEPT_ENCODING || name == ACCEPT_LANGUAGE {
        if !normalization.preferences {
            return value;
        }
        // What can't be read stays as it is, and is no spelling of anything else.
        return preference::canonical(&value, normalization.preference_order).unwrap_or(value);
    }
    let is_list = normalization.preferences && (name == ACCEPT || name == ACCEPT_CHARSET);
    if is_list || normalization.list_space { without_space_at_commas(&value) } else { value }
}

/// Without the white space before and after commas that are outside of quotes.
fn without_space_at_commas(value: &[u8]) -> Vec<u8> {
    let mut kept = Vec::with_capacity(value.len());
    let (mut quoted, mut escaped) = (false, false);
    for &byte in value {
        if !quoted {
            match byte {
                b',' => kept.truncate(kept.trim_ascii_end().len()),
                b' ' | b'\t' if kept.last() == Some(&b',') => continue,
                _ => {}
            }
        }
        kept.push(byte);
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = quoted,
            b'"' => quoted = !quoted,
            _ => {}
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn vary(lines: &[&str]) -> Option<Vary> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(VARY, HeaderValue::from_str(line).unwrap());
        }
        Vary::from_headers(&headers)
    }

    fn fields(lines: &[&str]) -> VaryFields {
        match vary(lines) {
            Some(Vary::Fields(fields)) => fields,
            other => panic!("{lines:?} gave {other:?}"),
        }
    }

    fn request(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for &(name, value) in lines {
            headers.append(name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn a_response_without_vary_does_not_vary() {
        assert_eq!(vary(&[]), None);
        assert_eq!(vary(&["", " , ,"]), None);
    }

    #[test]
    fn a_star_anywhere_selects_nothing() {
        for lines in [&["*"][..], &["*, *"], &["*", "*"], &[", *"], &["", "*"], &["*, Foo"], &["Foo, *"]] {
            assert_eq!(vary(lines), Some(Vary::Star), "{lines:?}");
        }
    }

    #[test]
    fn what_cannot_be_compared_counts_as_star() {
        assert_eq!(vary(&["accept, not a name"]), Some(Vary::Star));
        let names: Vec<String> = (0..=VaryFields::LIMIT).map(|n| format!("x-{n}")).collect();
        assert_eq!(vary(&[&names.join(",")]), Some(Vary::Star));
        assert_ne!(vary(&[&names[1..].join(",")]), Some(Vary::Star));
    }

    #[test]
    fn spelling_and_order_of_the_names_do_not_matter() {
        let expected = fields(&["accept, cookie"]);
        for lines in [&["Cookie, ACCEPT"][..], &["cookie", "accept"], &["accept,,accept , cookie"]] {
            assert_eq!(fields(lines), expected, "{lines:?}");
        }
        assert_eq!(expected.to_bytes(), b"accept,cookie");
    }

    #[test]
    fn lines_of_a_selecting_field_are_combined() {
        let fields = fields(&["foo, bar"]);
        let expected = [Some(b"a".to_vec()), Some(b"1, 2".to_vec())];
        for lines in [
            &[("foo", "1, 2"), ("bar", "a")][..],
            &[("foo", "1"), ("foo", "2"), ("bar", " a\t")],
            &[("foo", " 1 "), ("bar", "a"), ("foo", "2"), ("other", "x")],
        ] {
            assert_eq!(fields.selecting_values(&request(lines), Normalization::default()), expected, "{lines:?}");
        }
        assert_ne!(
            fields.selecting_values(&request(&[("foo", "1,2"), ("bar", "a")]), Normalization::default()),
            expected
        );
    }

    #[test]
    fn absent_matches_only_absent() {
        let fields = fields(&["foo"]);
        for normalization in [Normalization::default(), Normalization::all()] {
            assert_eq!(fields.selecting_values(&request(&[]), normalization), [None]);
            assert_eq!(fields.selecting_values(&request(&[("foo", "")]), normalization), [Some(vec![])]);
        }
        for name in ["accept-language", "accept-encoding"] {
            let all = Normalization::all();
            assert_eq!(super::tests::fields(&[name]).selecting_values(&request(&[]), all), [None]);
            assert_eq!(super::tests::fields(&[name]).selecting_values(&request(&[(name, "")]), all), [Some(vec![])]);
        }
    }

    fn same(name: &'static str, one: &'static str, other: &'static str, normalization: Normalization) -> bool {
        let values = |value| fields(&[name]).selecting_values(&request(&[(name, value)]), normalization);
        values(one) == values(other)
    }

    #[test]
    fn spellings_of_a_preference_are_one() {
        for name in ["accept-language", "accept-encoding"] {
            for other in ["eN, De", " en , de", "en,de;q=1.0", "EN ;Q=1,\tde,,"] {
                assert!(same(name, "en, de", other, Normalization::safe()), "{name} {other}");
                assert!(!same(name, "en, de", other, Normalization::default()), "{name} {other}");
            }
            assert!(!same(name, "en, de", "de, en", Normalization::safe()));
            assert!(same(name, "en, de", "de, en", Normalization::all()));
            assert!(!same(name, "en, de", "fr;q=0.5, de;q=1.0", Normalization::all()));
            assert!(!same(name, "en, de", "en, de;q=0.9", Normalization::all()));
        }
    }

    #[test]
    fn what_is_no_preference_is_none_of_their_spellings() {
        for other in ["de;q=500", "de;q=.5", "de;q=0.5000", "\"de\";q=0.5"] {
            assert!(!same("accept-language", "de;q=0.5", other, Normalization::safe()), "{other}");
        }
    }

    #[test]
    fn space_at_commas_is_dropped_outside_of_quotes() {
        for (one, other, expected) in [
            ("1,2", " 1, 2 ", true),
            ("1 ,\t2", "1,2", true),
            ("1 2", "12", false),
            ("\"1, 2\"", "\"1,2\"", false),
            ("\"\\\", 1\"", "\"\\\",1\"", false),
            ("\"1\", 2", "\"1\",2", true),
            ("1, ,2", "1,,2", true),
        ] {
            assert_eq!(same("foo", one, other, Normalization::all()), expected, "{one} {other}");
            assert!(!same("foo", one, other, Normalization::safe()), "{one} {other}");
        }
    }

    #[test]
    fn space_at_commas_is_moot_where_the_field_is_known_to_be_a_list() {
        for name in ["accept", "accept-charset"] {
            assert!(same(name, "a/b;q=0.5, c/d", " a/b;q=0.5 ,c/d", Normalization::safe()), "{name}");
            assert!(!same(name, "a/b, c/d", "a/b,c/d", Normalization::default()), "{name}");
            for other in ["c/d,a/b", "A/b,c/d", "a/b,c/d;q=1", "a/b,c/d,"] {
                assert!(!same(name, "a/b, c/d", other, Normalization::safe()), "{name} {other}");
            }
        }
    }

    #[test]
    fn only_the_canonical_form_is_decoded() {
        for bytes in [&b""[..], b",", b"a,", b",a", b"b,a", b"a,a", b"A", b"a b", b"a, b", b"\xff"] {
            assert_eq!(VaryFields::from_bytes(bytes), None, "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn encoding_round_trips(names in prop::collection::vec("[A-Za-z-]{1,12}", 1..=VaryFields::LIMIT)) {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let fields = fields(&names);
            prop_assert_eq!(VaryFields::from_bytes(&fields.to_bytes()), Some(fields));
        }

        #[test]
        fn decoding_junk_never_panics(junk: Vec<u8>) {
            if let Some(fields) = VaryFields::from_bytes(&junk) {
                prop_assert_eq!(fields.to_bytes(), junk);
            }
        }
    }
}
