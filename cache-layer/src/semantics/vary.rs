//! Which request fields select a response (RFC 9111, section 4.1).

use std::{borrow::Cow, fmt, sync::Arc};

use http::header::{
    ACCEPT, ACCEPT_CHARSET, ACCEPT_ENCODING, ACCEPT_LANGUAGE, CONTENT_ENCODING, COOKIE, HeaderMap, HeaderName,
    HeaderValue, VARY,
};

use super::{
    cookies::{Pair, pairs},
    list::{has, members},
    negotiated_fields::{accepts_coding, canonical_coding, negotiated_codings, negotiated_languages},
    preference::{self, Order},
};

/// Which spellings of a selecting field count as equal (RFC 9111, section 4.1), and which differences the application does not,
/// or can not, see.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Normalization {
    /// In `Accept-Encoding` and `Accept-Language`: case, white space, the digits of weights, and former names. In `Accept` and
    /// `Accept-Charset`, lists by their definition as well: white space around commas.
    pub(crate) preferences: bool,
    /// In the first two, the order of members. Some applications take the first member of the same weight, or of all.
    pub(crate) coding_order: Order,
    pub(crate) language_order: Order,
    /// In all other fields: white space around commas. It may have a meaning in a field that is not a list.
    pub(crate) list_space: bool,
    /// The application's codings, if they are known: the application gets the fields as [`negotiate`](Self::negotiate) leaves
    /// them.
    pub(crate) codings: Vec<String>,
    pub(crate) languages: Vec<String>,
    /// The cookies that count where a response varies by `Cookie`, if not all do; sorted.
    pub(crate) cookies: Vec<String>,
}

impl fmt::Display for Normalization {
    /// The level, and what there is to negotiate: `safe, codings br gzip`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { codings, languages, cookies, .. } = self;
        let level = Self { codings: Vec::new(), languages: Vec::new(), cookies: Vec::new(), ..self.clone() };
        let levels = [("safe", Self::safe()), ("all", Self::all()), ("permitted", Self::permitted())];
        let name = levels.iter().find(|(_, known)| *known == level).map_or("own", |(name, _)| *name);
        f.write_str(name)?;
        for (what, names) in [("codings", codings), ("languages", languages), ("cookies", cookies)] {
            if !names.is_empty() {
                write!(f, ", {what} {}", names.join(" "))?;
            }
        }
        Ok(())
    }
}

impl Normalization {
    /// Only differences that an application can't see if it reads the fields by their syntax.
    pub(crate) const fn safe() -> Self {
        Self {
            preferences: true,
            coding_order: Order::Counts,
            language_order: Order::Counts,
            list_space: false,
            codings: Vec::new(),
            languages: Vec::new(),
            cookies: Vec::new(),
        }
    }

    /// As [`safe`](Self::safe), and also the order where it has no meaning.
    pub(crate) fn all() -> Self {
        Self { coding_order: Order::Moot, language_order: Order::CountsAmongEquals, ..Self::safe() }
    }

    /// Whatever RFC 9111 permits.
    pub(crate) fn permitted() -> Self {
        Self { coding_order: Order::Moot, language_order: Order::Moot, list_space: true, ..Self::safe() }
    }

    /// Negotiates in the application's place: the request keeps only what the application needs to choose. Returns the client's
    /// own values of both fields, if they were changed.
    pub(crate) fn negotiate(&self, request: &mut HeaderMap) -> Option<HeaderMap> {
        let negotiated = |name: &HeaderName, has: &[String]| {
            let value = if has.is_empty() { None } else { selecting_value(request, name) };
            let value = HeaderValue::from_bytes(&self.negotiated(name, &value?)?).ok()?;
            let mut lines = request.get_all(name).iter();
            let is_the_same = lines.next() == Some(&value) && lines.next().is_none();
            (!is_the_same).then_some(value)
        };
        let coding = negotiated(&ACCEPT_ENCODING, &self.codings);
        let language = negotiated(&ACCEPT_LANGUAGE, &self.languages);
        if coding.is_none() && language.is_none() {
            return None;
        }
        let mut sent = HeaderMap::with_capacity(2);
        for (name, value) in [(ACCEPT_ENCODING, coding), (ACCEPT_LANGUAGE, language)] {
            for line in request.get_all(&name) {
                sent.append(&name, line.clone());
            }
            if let Some(value) = value {
                request.insert(name, value);
            }
        }
        Some(sent)
    }

    /// The negotiated value of a field; `None` if it stays as it is.
    fn negotiated(&self, name: &HeaderName, value: &[u8]) -> Option<Vec<u8>> {
        if *name == ACCEPT_ENCODING && !self.codings.is_empty() {
            return negotiated_codings(value, &self.codings);
        }
        if *name == ACCEPT_LANGUAGE && !self.languages.is_empty() {
            return negotiated_languages(value, &self.languages);
        }
        None
    }

    /// The cookies that count, in order for each name; empty if the request has none of them.
    fn counting_cookies(&self, request: &HeaderMap) -> Vec<u8> {
        let mut counting = Vec::new();
        for name in &self.cookies {
            // All of the pair: a spelling that applications read in two ways is one of its own.
            for Pair { text, .. } in pairs(request).filter(|pair| pair.name == name.as_bytes()) {
                counting.extend_from_slice(text);
                counting.push(b';');
            }
        }
        // Many applications ignore such a line as a whole, and so what it says of these cookies.
        for line in request.get_all(COOKIE).iter().filter(|line| !line.as_bytes().is_ascii()) {
            counting.extend_from_slice(line.as_bytes());
            counting.push(b';');
        }
        counting
    }
}

/// The `Vary` of a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Vary {
    /// No request selects it again: `*`, a member that is not a field name, or more than
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
            // `*` is a valid token, so it must be distinguished from a field of that name.
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
pub(crate) struct VaryFields(Arc<[HeaderName]>);

impl VaryFields {
    /// The most fields that a response may vary on: each costs work on every request for it.
    pub(crate) const LIMIT: usize = 16;

    fn new(mut names: Vec<HeaderName>) -> Option<Self> {
        names.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
        names.dedup();
        (1..=Self::LIMIT).contains(&names.len()).then(|| Self(names.into()))
    }

    /// What a request says in each field, in the order of the names. Lines are combined with `", "`; an
    /// absent field differs from an empty one.
    pub(crate) fn selecting_values<'a>(
        &'a self,
        request: &'a HeaderMap,
        normalization: &'a Normalization,
    ) -> impl Iterator<Item = Option<Cow<'a, [u8]>>> {
        self.0.iter().map(|name| {
            if *name == COOKIE && !normalization.cookies.is_empty() {
                return Some(normalization.counting_cookies(request).into());
            }
            Some(normalized(name, selecting_value(request, name)?, normalization))
        })
    }

    #[cfg(test)]
    pub(crate) fn values(&self, request: &HeaderMap, normalization: &Normalization) -> Vec<Option<Vec<u8>>> {
        self.selecting_values(request, normalization).map(|value| value.map(Cow::into_owned)).collect()
    }

    /// The names with commas between them, for [`VaryFields::from_bytes`].
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let names: Vec<&[u8]> = self.0.iter().map(|name| name.as_str().as_bytes()).collect();
        names.join(&b',')
    }

    /// Reads the format of [`VaryFields::to_bytes`], and nothing else.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let names = bytes.split(|&byte| byte == b',').map(HeaderName::from_bytes);
        let fields = Self::new(names.collect::<Result<_, _>>().ok()?)?;
        (fields.to_bytes() == bytes).then_some(fields)
    }
}

fn selecting_value<'a>(request: &'a HeaderMap, name: &HeaderName) -> Option<Cow<'a, [u8]>> {
    let mut lines = request.get_all(name).into_iter().map(|line| line.as_bytes().trim_ascii());
    let mut value = Cow::Borrowed(lines.next()?);
    for line in lines {
        let value = value.to_mut();
        value.extend_from_slice(b", ");
        value.extend_from_slice(line);
    }
    Some(value)
}

fn normalized<'a>(name: &HeaderName, value: Cow<'a, [u8]>, normalization: &Normalization) -> Cow<'a, [u8]> {
    if name == ACCEPT_ENCODING || name == ACCEPT_LANGUAGE {
        if !normalization.preferences {
            return value;
        }
        if let Some(negotiated) = normalization.negotiated(name, &value) {
            return negotiated.into();
        }
        let canonical = match name == ACCEPT_ENCODING {
            true => preference::canonical(&value, normalization.coding_order, canonical_coding),
            false => preference::canonical(&value, normalization.language_order, |language| language),
        };
        // A value that can't be parsed stays as it is, and equals no other spelling.
        return canonical.map_or(value, Cow::Owned);
    }
    let is_list = normalization.preferences && (name == ACCEPT || name == ACCEPT_CHARSET);
    if is_list || normalization.list_space { without_space_at_commas(&value).into() } else { value }
}

/// Whether the content of a stored response may be sent to the client of a request (RFC 9110, section 12.5.3).
pub(crate) fn accepts_codings(request: &HeaderMap, stored: &HeaderMap) -> bool {
    selecting_value(request, &ACCEPT_ENCODING)
        .is_none_or(|value| members(stored, &CONTENT_ENCODING).all(|coding| accepts_coding(&value, coding)))
}

/// Removes the white space before and after commas outside of quotes.
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
            assert_eq!(fields.values(&request(lines), &Normalization::default()), expected, "{lines:?}");
        }
        assert_ne!(fields.values(&request(&[("foo", "1,2"), ("bar", "a")]), &Normalization::default()), expected);
    }

    #[test]
    fn absent_matches_only_absent() {
        let fields = fields(&["foo"]);
        for normalization in [&Normalization::default(), &Normalization::permitted()] {
            assert_eq!(fields.values(&request(&[]), normalization), [None]);
            assert_eq!(fields.values(&request(&[("foo", "")]), normalization), [Some(vec![])]);
        }
        for name in ["accept-language", "accept-encoding"] {
            let all = &Normalization::permitted();
            assert_eq!(super::tests::fields(&[name]).values(&request(&[]), all), [None]);
            assert_eq!(super::tests::fields(&[name]).values(&request(&[(name, "")]), all), [Some(vec![])]);
        }
    }

    fn same(name: &'static str, one: &'static str, other: &'static str, normalization: &Normalization) -> bool {
        let values = |value| fields(&[name]).values(&request(&[(name, value)]), normalization);
        values(one) == values(other)
    }

    #[test]
    fn spellings_of_a_preference_are_one() {
        for name in ["accept-language", "accept-encoding"] {
            for other in ["eN, De", " en , de", "en,de;q=1.0", "EN ;Q=1,\tde,,"] {
                assert!(same(name, "en, de", other, &Normalization::safe()), "{name} {other}");
                assert!(!same(name, "en, de", other, &Normalization::default()), "{name} {other}");
            }
            assert!(!same(name, "en, de", "de, en", &Normalization::safe()));
            assert!(same(name, "en, de", "de, en", &Normalization::permitted()));
            assert!(!same(name, "en, de", "fr;q=0.5, de;q=1.0", &Normalization::permitted()));
            assert!(!same(name, "en, de", "en, de;q=0.9", &Normalization::permitted()));
        }
    }

    /// The table of the levels: which of two values are one.
    #[test]
    fn levels_take_more_and_more_for_one() {
        let negotiate = Normalization { codings: vec!["br".to_owned(), "gzip".to_owned()], ..Normalization::safe() };
        for (name, one, other, safe, all, negotiated) in [
            ("accept-encoding", "gzip, br", "GZIP ,br;q=1.0", true, true, true),
            ("accept-encoding", "gzip, br", "br, gzip", false, true, true),
            ("accept-encoding", "gzip, deflate, br, zstd", "br, gzip", false, false, true),
            ("accept-encoding", "gzip", "gzip;q=0", false, false, false),
            ("accept-encoding", "gzip;q=0.5, br", "gzip;q=0.4, br", false, false, true),
            ("accept-encoding", "gzip, br, dcb", "gzip, br", false, false, true),
            ("accept-encoding", "*", "gzip, br", false, false, true),
            ("accept-encoding", "x-gzip", "gzip", true, true, true),
            ("accept-encoding", "", "identity", false, false, false),
            ("accept-language", "de-CH, de;q=0.9", "DE-ch,de;q=0.900", true, true, true),
            ("accept-language", "en, de", "de, en", false, false, false),
            ("accept-language", "en;q=0.8, de;q=0.9", "de;q=0.9, en;q=0.8", false, true, false),
        ] {
            for (level, expected) in
                [(&Normalization::safe(), safe), (&Normalization::all(), all), (&negotiate, negotiated)]
            {
                assert_eq!(same(name, one, other, level), expected, "{one} {other} {level:?}");
            }
        }
    }

    #[test]
    fn the_application_sees_what_it_is_selected_by() {
        let normalization = Normalization {
            codings: vec!["br".to_owned(), "gzip".to_owned()],
            languages: vec!["de".to_owned(), "en".to_owned()],
            ..Normalization::safe()
        };
        let fields = fields(&["accept-encoding, accept-language"]);
        let before =
            request(&[("accept-encoding", "gzip, zstd"), ("accept-encoding", "br"), ("accept-language", "de-CH, en")]);
        let mut after = before.clone();
        assert_eq!(normalization.negotiate(&mut after), Some(before.clone()));
        assert_eq!(normalization.negotiate(&mut after), None);
        assert_eq!(after, request(&[("accept-encoding", "br, gzip"), ("accept-language", "de, en;q=0.99")]));
        assert_eq!(fields.values(&after, &normalization), fields.values(&before, &normalization));
        for unchanged in [&[][..], &[("accept-encoding", "identity;q=0, br")], &[("accept-language", "junk!")]] {
            let mut request = request(unchanged);
            assert_eq!(normalization.negotiate(&mut request), None);
            assert_eq!(request, super::tests::request(unchanged));
        }
    }

    #[test]
    fn only_the_cookies_that_count_select() {
        let normalization =
            Normalization { cookies: vec!["lang".to_owned(), "theme".to_owned()], ..Normalization::safe() };
        let values = |lines| fields(&["cookie"]).values(&request(lines), &normalization);
        let dark = values(&[("cookie", "theme=dark")]);
        assert_eq!(values(&[("cookie", "id=7; theme=dark"), ("cookie", "x")]), dark);
        for other in [
            &[][..],
            &[("cookie", "id=7")],
            &[("cookie", "theme=light")],
            &[("cookie", "theme=")],
            &[("cookie", "xtheme=dark")],
            &[("cookie", "theme=dark; theme=light")],
            &[("cookie", "theme=dark; lang=de")],
        ] {
            assert_ne!(values(other), dark, "{other:?}");
        }
        assert_eq!(values(&[]), values(&[("cookie", "id=7")]));
        // An application may trim the name, or ignore a line that is not ASCII.
        for line in ["theme =dark", "theme\t=dark", "theme", "id=é; theme=dark"] {
            let line = HeaderValue::from_bytes(line.as_bytes()).unwrap();
            let odd = fields(&["cookie"]).values(&HeaderMap::from_iter([(COOKIE, line.clone())]), &normalization);
            assert!(![dark.clone(), values(&[])].contains(&odd), "{line:?}");
        }
        assert_eq!(values(&[("cookie", "lang=de; theme=dark")]), values(&[("cookie", "theme=dark; lang=de")]));
    }

    #[test]
    fn what_is_no_preference_is_none_of_their_spellings() {
        for other in ["de;q=500", "de;q=.5", "de;q=0.5000", "\"de\";q=0.5"] {
            assert!(!same("accept-language", "de;q=0.5", other, &Normalization::safe()), "{other}");
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
            assert_eq!(same("foo", one, other, &Normalization::permitted()), expected, "{one} {other}");
            assert!(!same("foo", one, other, &Normalization::safe()), "{one} {other}");
        }
    }

    #[test]
    fn space_at_commas_is_moot_where_the_field_is_known_to_be_a_list() {
        for name in ["accept", "accept-charset"] {
            assert!(same(name, "a/b;q=0.5, c/d", " a/b;q=0.5 ,c/d", &Normalization::safe()), "{name}");
            assert!(!same(name, "a/b, c/d", "a/b,c/d", &Normalization::default()), "{name}");
            for other in ["c/d,a/b", "A/b,c/d", "a/b,c/d;q=1", "a/b,c/d,"] {
                assert!(!same(name, "a/b, c/d", other, &Normalization::safe()), "{name} {other}");
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
