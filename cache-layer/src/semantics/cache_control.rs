//! The directives of `Cache-Control` (RFC 9111, section 5.2).

use http::header::{CACHE_CONTROL, HeaderMap, HeaderName};

use super::delta_seconds::DeltaSeconds;

/// Every directive of a message, combined over all lines of the field.
///
/// Directives that repeat are combined to the most restrictive reading. A directive that restricts reuse
/// counts whatever its argument looks like; one that permits more counts only in its exact form.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct CacheControl {
    /// `no-store`, of a request or a response: keep no copy (5.2.1.5, 5.2.2.5).
    pub(crate) no_store: bool,
    /// `no-cache`, with or without field names: no reuse without validation (5.2.1.4, 5.2.2.4).
    pub(crate) no_cache: bool,
    /// The fields named by `no-cache="…"`.
    pub(crate) no_cache_fields: Vec<HeaderName>,
    /// `private`, with or without field names: not for a shared cache (5.2.2.7).
    pub(crate) private: bool,
    /// The fields named by `private="…"`.
    pub(crate) private_fields: Vec<HeaderName>,
    /// `public`: may be stored even if the request was authorised (5.2.2.9).
    pub(crate) public: bool,
    /// `must-revalidate`: never reused stale (5.2.2.2).
    pub(crate) must_revalidate: bool,
    /// `proxy-revalidate`: never reused stale by a shared cache (5.2.2.8).
    pub(crate) proxy_revalidate: bool,
    /// `must-understand`: store only by the rules of the status code, and then despite `no-store` (5.2.2.3).
    pub(crate) must_understand: bool,
    /// `immutable`: does not change while it is fresh (RFC 8246).
    pub(crate) immutable: bool,
    /// `no-transform`: the content is to be left as it is (5.2.1.6, 5.2.2.6).
    pub(crate) no_transform: bool,
    /// `only-if-cached`: the client wants a stored response or none (5.2.1.7).
    pub(crate) only_if_cached: bool,
    /// `max-age` (5.2.1.1, 5.2.2.1).
    pub(crate) max_age: Option<DeltaSeconds>,
    /// `s-maxage`: `max-age` for shared caches (5.2.2.10).
    pub(crate) s_maxage: Option<DeltaSeconds>,
    /// `stale-while-revalidate` (RFC 5861, section 3).
    pub(crate) stale_while_revalidate: Option<DeltaSeconds>,
    /// `stale-if-error` (RFC 5861, section 4).
    pub(crate) stale_if_error: Option<DeltaSeconds>,
    /// `max-stale`: the staleness that the client accepts; without an argument, any (5.2.1.2).
    pub(crate) max_stale: Option<DeltaSeconds>,
    /// `min-fresh`: the freshness that the client wants to be left (5.2.1.3).
    pub(crate) min_fresh: Option<DeltaSeconds>,
}

impl CacheControl {
    /// The directives of `Cache-Control`.
    pub(crate) fn from_headers(headers: &HeaderMap) -> Self {
        Self::parse(headers, &CACHE_CONTROL)
    }

    /// The directives of a field that has the syntax of `Cache-Control`.
    pub(crate) fn parse(headers: &HeaderMap, name: &HeaderName) -> Self {
        let mut parsed = Self::default();
        for line in headers.get_all(name) {
            for (directive, argument) in Directives::new(line.as_bytes()) {
                parsed.add(directive, argument);
            }
        }
        parsed
    }

    /// A line of the field with other numbers of seconds: `change` maps a directive's name and seconds to the new seconds.
    /// Directives without valid seconds, and all other bytes, stay as they are.
    pub(crate) fn with_seconds(line: &[u8], change: impl Fn(&[u8], u64) -> u64) -> Vec<u8> {
        let mut changed = Vec::with_capacity(line.len());
        let mut copied = 0;
        for (directive, argument) in Directives::new(line) {
            let (Argument::Value(value), Some(seconds)) = (argument, argument.delta_seconds().seconds()) else {
                continue;
            };
            let start = value.as_ptr().addr() - line.as_ptr().addr();
            changed.extend_from_slice(&line[copied..start]);
            changed.extend_from_slice(change(&directive.to_ascii_lowercase(), seconds).to_string().as_bytes());
            copied = start + value.len();
        }
        changed.extend_from_slice(&line[copied..]);
        changed
    }

    fn add(&mut self, directive: &[u8], argument: Argument<'_>) {
        // Most are written in lower case.
        if !self.add_lowercase(directive, argument) && directive.iter().any(u8::is_ascii_uppercase) {
            self.add_lowercase(&directive.to_ascii_lowercase(), argument);
        }
    }

    /// Adds a directive whose name is in lower case; `false` if it is none that is known.
    fn add_lowercase(&mut self, name: &[u8], argument: Argument<'_>) -> bool {
        let bare = matches!(argument, Argument::Absent);
        match name {
            b"no-store" => self.no_store = true,
            b"no-cache" => {
                self.no_cache = true;
                self.no_cache_fields.extend(argument.field_names());
            }
            b"private" => {
                self.private = true;
                self.private_fields.extend(argument.field_names());
            }
            b"public" => self.public |= bare,
            b"must-revalidate" => self.must_revalidate = true,
            b"proxy-revalidate" => self.proxy_revalidate = true,
            b"must-understand" => self.must_understand |= bare,
            b"immutable" => self.immutable |= bare,
            b"no-transform" => self.no_transform = true,
            b"only-if-cached" => self.only_if_cached = true,
            b"max-age" => keep_smaller(&mut self.max_age, argument.delta_seconds()),
            b"s-maxage" => keep_smaller(&mut self.s_maxage, argument.delta_seconds()),
            b"stale-while-revalidate" => keep_smaller(&mut self.stale_while_revalidate, argument.delta_seconds()),
            b"stale-if-error" => keep_smaller(&mut self.stale_if_error, argument.delta_seconds()),
            b"max-stale" if bare => keep_smaller(&mut self.max_stale, DeltaSeconds::Seconds(DeltaSeconds::MAX)),
            b"max-stale" => keep_smaller(&mut self.max_stale, argument.delta_seconds()),
            // The larger value is the stricter demand.
            b"min-fresh" => self.min_fresh = self.min_fresh.max(Some(argument.delta_seconds())),
            _ => return false,
        }
        true
    }
}

fn keep_smaller(kept: &mut Option<DeltaSeconds>, stated: DeltaSeconds) {
    *kept = Some(kept.map_or(stated, |kept| kept.min(stated)));
}

/// The part of a directive after its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Argument<'a> {
    Absent,
    /// A token, or the content of a quoted string. Escapes are not decoded: no argument that is used
    /// here needs one, so an escaped argument is merely invalid.
    Value(&'a [u8]),
    /// Anything that is neither, such as `=` alone or words after the value.
    Malformed,
}

impl Argument<'_> {
    fn delta_seconds(self) -> DeltaSeconds {
        match self {
            Self::Value(value) => DeltaSeconds::parse(value),
            Self::Absent | Self::Malformed => DeltaSeconds::Invalid,
        }
    }

    fn field_names(&self) -> impl Iterator<Item = HeaderName> {
        let list = match self {
            Self::Value(list) => list,
            Self::Absent | Self::Malformed => &[][..],
        };
        list.split(|&byte| byte == b',').filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
    }
}

/// Splits one field line into directives.
struct Directives<'a> {
    rest: &'a [u8],
    /// Set once a quote was found to have no end. Such a quote must not hide the directives after it, and
    /// looking for the end of each further one would make long lines of quotes expensive.
    unclosed_quote: bool,
}

impl<'a> Directives<'a> {
    fn new(line: &'a [u8]) -> Self {
        Self { rest: line, unclosed_quote: false }
    }

    fn take_token(&mut self) -> &'a [u8] {
        let end = self.rest.iter().position(|&byte| !is_token_byte(byte));
        let (token, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        self.rest = rest;
        token
    }

    /// Takes a quoted string and gives its content.
    fn take_quoted(&mut self) -> Option<&'a [u8]> {
        if self.unclosed_quote {
            return None;
        }
        let quoted = self.rest.strip_prefix(b"\"")?;
        let mut escaped = false;
        for (position, &byte) in quoted.iter().enumerate() {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => {
                    self.rest = &quoted[position + 1..];
                    return Some(&quoted[..position]);
                }
                _ => {}
            }
        }
        self.unclosed_quote = true;
        None
    }

    fn take_argument(&mut self) -> Argument<'a> {
        let Some(rest) = self.rest.strip_prefix(b"=") else {
            return Argument::Absent;
        };
        self.rest = rest;
        if let Some(content) = self.take_quoted() {
            return Argument::Value(content);
        }
        match self.take_token() {
            b"" => Argument::Malformed,
            token => Argument::Value(token),
        }
    }

    /// Moves to the comma that ends the directive; false if anything but white space came before it.
    fn finish(&mut self) -> bool {
        let mut clean = true;
        while let [byte, rest @ ..] = self.rest {
            match byte {
                b',' => break,
                b' ' | b'\t' => self.rest = rest,
                _ => {
                    clean = false;
                    if self.take_quoted().is_none() {
                        self.rest = rest;
                    }
                }
            }
        }
        clean
    }
}

impl<'a> Iterator for Directives<'a> {
    type Item = (&'a [u8], Argument<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let start = self.rest.iter().position(|byte| !matches!(byte, b',' | b' ' | b'\t'))?;
            self.rest = &self.rest[start..];
            let name = self.take_token();
            let mut argument = self.take_argument();
            if !self.finish() {
                argument = Argument::Malformed;
            }
            if !name.is_empty() {
                return Some((name, argument));
            }
        }
    }
}

fn is_token_byte(byte: u8) -> bool {
    TOKEN[usize::from(byte)]
}

/// The bytes of a token (RFC 9110, section 5.6.2).
const TOKEN: [bool; 256] = {
    let (others, mut token, mut byte) = (b"!#$%&'*+-.^_`|~", [false; 256], 0);
    while byte < 256 {
        token[byte] = (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    let mut other = 0;
    while other < others.len() {
        token[others[other] as usize] = true;
        other += 1;
    }
    token
};

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::DeltaSeconds::{Invalid, Seconds};
    use super::*;

    fn parse(lines: &[&'static str]) -> CacheControl {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(CACHE_CONTROL, HeaderValue::from_static(line));
        }
        CacheControl::from_headers(&headers)
    }

    #[test]
    fn seconds_are_changed_where_they_are_and_nothing_else_is() {
        let half = |line: &str| {
            let half = |name: &[u8], seconds| if name == b"min-fresh" { seconds } else { seconds / 2 };
            String::from_utf8(CacheControl::with_seconds(line.as_bytes(), half)).unwrap()
        };
        for (line, expected) in [
            ("max-age=60", "max-age=30"),
            ("public,MAX-AGE=60 , s-maxage=10", "public,MAX-AGE=30 , s-maxage=5"),
            (
                r#"max-age="60", no-cache="set-cookie", x="max-age=8""#,
                r#"max-age="30", no-cache="set-cookie", x="max-age=8""#,
            ),
            ("max-age=60, max-age=4", "max-age=30, max-age=2"),
            ("min-fresh=9", "min-fresh=9"),
            // Seconds that are none.
            (
                "max-age, max-age=, max-age=-1, max-age=1.5, max-age=1 2",
                "max-age, max-age=, max-age=-1, max-age=1.5, max-age=1 2",
            ),
            ("", ""),
            (r#"x="a, max-age=60"#, r#"x="a, max-age=30"#),
        ] {
            assert_eq!(half(line), expected, "{line}");
        }
    }

    #[test]
    fn no_field_says_nothing() {
        assert_eq!(parse(&[]), CacheControl::default());
        assert_eq!(parse(&["", " , ,,\t"]), CacheControl::default());
    }

    #[test]
    fn every_directive_is_understood_without_case_and_over_lines() {
        let parsed = parse(&[
            "No-Store, no-cache, private ,public,must-revalidate",
            "proxy-revalidate, MUST-UNDERSTAND, immutable, no-transform, only-if-cached, foobar",
            "MaX-aGe=1, s-maxage=2, stale-while-revalidate=3, stale-if-error=4, max-stale=5, min-fresh=6",
        ]);
        let expected = CacheControl {
            no_store: true,
            no_cache: true,
            no_cache_fields: vec![],
            private: true,
            private_fields: vec![],
            public: true,
            must_revalidate: true,
            proxy_revalidate: true,
            must_understand: true,
            immutable: true,
            no_transform: true,
            only_if_cached: true,
            max_age: Some(Seconds(1)),
            s_maxage: Some(Seconds(2)),
            stale_while_revalidate: Some(Seconds(3)),
            stale_if_error: Some(Seconds(4)),
            max_stale: Some(Seconds(5)),
            min_fresh: Some(Seconds(6)),
        };
        assert_eq!(parsed, expected);
    }

    #[test]
    fn max_age_is_read_strictly() {
        for (line, expected) in [
            ("max-age=3600", Some(Seconds(3600))),
            ("max-age=003600", Some(Seconds(3600))),
            ("max-age=\"3600\"", Some(Seconds(3600))),
            ("max-age=99999999999", Some(Seconds(DeltaSeconds::MAX))),
            ("foobar, max-age=3600", Some(Seconds(3600))),
            ("foo=bar, max-age=3600", Some(Seconds(3600))),
            ("foo=\"a, \\\" b\", max-age=3600", Some(Seconds(3600))),
            ("max-age=-3600", Some(Invalid)),
            ("max-age=3600.0", Some(Invalid)),
            ("max-age=3600.5", Some(Invalid)),
            ("max-age='3600'", Some(Invalid)),
            ("max-age=a3600", Some(Invalid)),
            ("max-age=3600a", Some(Invalid)),
            ("max-age=3600 60", Some(Invalid)),
            ("max-age=3600; private", Some(Invalid)),
            ("max-age =3600", Some(Invalid)),
            ("max-age= 3600", Some(Invalid)),
            ("max-age=", Some(Invalid)),
            ("max-age", Some(Invalid)),
            ("max-age=\"3600", Some(Invalid)),
            ("max-age=\"36\\00\"", Some(Invalid)),
            ("x-max-age=3600", None),
            ("max-age-x=3600", None),
            ("\"max-age=3600\"", None),
            ("=3600", None),
        ] {
            assert_eq!(parse(&[line]).max_age, expected, "{line}");
        }
    }

    #[test]
    fn a_directive_inside_a_quoted_string_is_none() {
        for line in [
            "extension=\"max-age=3600\"",
            "extension=\"a, max-age=3600, b\"",
            "extension=\"a\\\", max-age=3600\"",
            "extension = \"a, max-age=3600\"",
            "\"a, max-age=3600\"",
        ] {
            assert_eq!(parse(&[line]), CacheControl::default(), "{line}");
        }
        for line in ["extension=\"max-age=3600\", max-age=1", "max-age=1, extension=\"max-age=3600\""] {
            assert_eq!(parse(&[line]).max_age, Some(Seconds(1)), "{line}");
        }
    }

    #[test]
    fn a_quote_without_end_hides_no_restriction() {
        for line in [
            "extension=\"a, private, no-store",
            "extension=\"a, private, b=\\\"c, no-store",
            "extension=\"\\\"\\\", private, no-store",
        ] {
            let parsed = parse(&[line]);
            assert!(parsed.private && parsed.no_store, "{line}");
        }
    }

    #[test]
    fn the_strictest_of_several_values_counts() {
        for (lines, expected) in [
            (&["max-age=1800, max-age=1"][..], Seconds(1)),
            (&["max-age=1, max-age=1800"], Seconds(1)),
            (&["max-age=1800", "max-age=1"], Seconds(1)),
            (&["max-age=1", "max-age=1800"], Seconds(1)),
            (&["max-age=60", "max-age=60"], Seconds(60)),
            (&["max-age=60, max-age=soon"], Invalid),
            (&["max-age=soon, max-age=60"], Invalid),
        ] {
            assert_eq!(parse(lines).max_age, Some(expected), "{lines:?}");
        }
        assert_eq!(parse(&["min-fresh=1, min-fresh=5, min-fresh=2"]).min_fresh, Some(Seconds(5)));
    }

    #[test]
    fn restrictions_count_with_any_argument_and_permissions_only_bare() {
        let parsed = parse(&["no-store=1, private=, no-cache=x, must-revalidate=\"\", no-transform;"]);
        assert!(parsed.no_store && parsed.private && parsed.no_cache);
        assert!(parsed.must_revalidate && parsed.no_transform);

        let parsed = parse(&["public=1, must-understand=x, immutable;"]);
        assert_eq!(parsed, CacheControl::default());
    }

    #[test]
    fn named_fields_are_exposed() {
        let parsed = parse(&["private=\"Set-Cookie, x-user\", no-cache=ETag, no-cache=\"a b,\""]);
        assert!(parsed.private && parsed.no_cache);
        assert_eq!(parsed.private_fields, ["set-cookie", "x-user"]);
        assert_eq!(parsed.no_cache_fields, ["etag"]);
    }

    #[test]
    fn max_stale_without_argument_accepts_any_staleness() {
        assert_eq!(parse(&["max-stale"]).max_stale, Some(Seconds(DeltaSeconds::MAX)));
        assert_eq!(parse(&["max-stale="]).max_stale, Some(Invalid));
        assert_eq!(parse(&["max-stale, max-stale=5"]).max_stale, Some(Seconds(5)));
    }

    #[test]
    fn another_field_of_the_same_syntax_is_read_alone() {
        let name = HeaderName::from_static("cdn-cache-control");
        let mut headers = HeaderMap::new();
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(&name, HeaderValue::from_static("max-age=5"));
        let parsed = CacheControl::parse(&headers, &name);
        assert_eq!((parsed.no_store, parsed.max_age), (false, Some(Seconds(5))));
    }

    /// Lines made of the pieces that mean something to the parser, in any order.
    fn lines() -> impl Strategy<Value = Vec<u8>> {
        let piece =
            prop::sample::select(vec!["max-age", "private", "=", "\"", "\\", ",", " ", "60", "x", ";", "\t", "\u{e9}"]);
        prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat().into_bytes())
    }

    proptest! {
        #[test]
        fn junk_never_panics(line in prop_oneof![lines(), any::<Vec<u8>>()]) {
            let parsed: Vec<_> = Directives::new(&line).collect();
            prop_assert!(parsed.len() <= line.len());
        }

        #[test]
        fn no_list_before_it_hides_a_restriction(names in prop::collection::vec("[a-z]{1,8}(=[a-z0-9]{1,4})?", 0..8)) {
            let line = format!("{}, no-store", names.join(","));
            prop_assert!(Directives::new(line.as_bytes()).any(|(name, _)| name == b"no-store"));
        }

        #[test]
        fn a_quoted_argument_is_given_whole(content in "[ -!#-\\[\\]-~]*") {
            let line = format!("a=\"{content}\", b");
            let parsed: Vec<_> = Directives::new(line.as_bytes()).collect();
            let expected = [(&b"a"[..], Argument::Value(content.as_bytes())), (b"b", Argument::Absent)];
            prop_assert_eq!(parsed, expected);
        }
    }
}
