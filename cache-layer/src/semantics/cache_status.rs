//! The `Cache-Status` field (RFC 9211).

/// The text of a field, which is appended to; most are short enough for the stack.
#[derive(Clone, Debug)]
pub(crate) enum Text {
    Short { bytes: [u8; Self::SHORT], length: usize },
    Long(Vec<u8>),
}

impl Text {
    const SHORT: usize = 128;

    pub(crate) fn new() -> Self {
        Self::Short { bytes: [0; Self::SHORT], length: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.as_ref().len()
    }

    #[inline]
    pub(crate) fn extend_from_slice(&mut self, more: &[u8]) {
        if let Self::Short { bytes, length } = self
            && let Some(room) = bytes.get_mut(*length..).and_then(|rest| rest.get_mut(..more.len()))
        {
            room.copy_from_slice(more);
            *length += more.len();
        } else {
            self.outgrow(more);
        }
    }

    #[cold]
    fn outgrow(&mut self, more: &[u8]) {
        *self = Self::Long([self.as_ref(), more].concat());
    }

    pub(crate) fn push(&mut self, byte: u8) {
        self.extend_from_slice(&[byte]);
    }
}

impl AsRef<[u8]> for Text {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Short { bytes, length } => &bytes[..*length],
            Self::Long(bytes) => bytes,
        }
    }
}

/// The name of a cache, checked to be expressible in the field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CacheName(Vec<u8>);

impl CacheName {
    /// A name of printable ASCII; written as a token if it is one, otherwise as a string.
    pub(crate) fn new(name: &str) -> Option<Self> {
        let valid = !name.is_empty() && name.bytes().all(is_printable);
        valid.then(|| {
            let mut text = Text::new();
            write_token_or_string(&mut text, name);
            Self(text.as_ref().to_vec())
        })
    }
}

impl Default for CacheName {
    fn default() -> Self {
        Self(b"cache-layer".to_vec())
    }
}

/// What one cache did for one request: a member of the field.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CacheStatus<'a> {
    /// The cache.
    pub(crate) name: &'a CacheName,
    /// What it did.
    pub(crate) outcome: Outcome,
    /// A detail, for people.
    pub(crate) detail: Option<&'static str>,
    /// The detail of an earlier request, if this one's detail refers to it. Both are tokens then.
    pub(crate) first: Option<&'static str>,
}

/// Whether the cache answered itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Answered without going forward.
    Hit {
        /// The remaining freshness in seconds, negative when stale.
        ttl: i64,
    },
    /// Went forward.
    Forward {
        /// Why it did.
        why: ForwardReason,
        /// The status of the response that came back, if it is not that of this response.
        status: Option<u16>,
        /// The freshness of the response that came back, in seconds, if the cache stores it.
        ttl: Option<i64>,
        /// Whether the cache stores the response that came back.
        stored: bool,
        /// Whether the request joined another that was already under way.
        collapsed: bool,
    },
}

/// The values of `fwd` (RFC 9211, section 2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ForwardReason {
    /// The cache was told not to handle the request.
    Bypass,
    /// The method requires going forward.
    Method,
    /// Nothing is stored for the URI.
    UriMiss,
    /// The responses that are stored for the URI were selected by other request fields.
    VaryMiss,
    /// No suitable response is stored, for another reason.
    Miss,
    /// The stored response is fresh, but the request wants it validated.
    Request,
    /// The stored response is stale.
    Stale,
    /// The stored response counts as stale, because it was made in the future, so that its age is unknown.
    FromTheFuture,
}

impl ForwardReason {
    /// The token of the field.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Bypass => "bypass",
            Self::Method => "method",
            Self::UriMiss => "uri-miss",
            Self::VaryMiss => "vary-miss",
            Self::Miss => "miss",
            Self::Request => "request",
            Self::Stale | Self::FromTheFuture => "stale",
        }
    }
}

/// The largest integer of a structured field (RFC 9651, section 3.3.1).
const MAX_INTEGER: i64 = 999_999_999_999_999;

impl CacheStatus<'_> {
    /// Writes the member as a line of its own, in printable ASCII. It goes after the lines that are already there.
    pub(crate) fn write(self, text: &mut Text) {
        text.extend_from_slice(&self.name.0);
        match self.outcome {
            Outcome::Hit { ttl } => {
                text.extend_from_slice(b"; hit; ttl=");
                write_integer(text, ttl);
            }
            Outcome::Forward { why, status, ttl, stored, collapsed } => {
                text.extend_from_slice(b"; fwd=");
                text.extend_from_slice(why.as_str().as_bytes());
                if let Some(status) = status {
                    text.extend_from_slice(b"; fwd-status=");
                    write_integer(text, status.into());
                }
                if let Some(ttl) = ttl {
                    text.extend_from_slice(b"; ttl=");
                    write_integer(text, ttl);
                }
                if stored {
                    text.extend_from_slice(b"; stored");
                }
                if collapsed {
                    text.extend_from_slice(b"; collapsed");
                }
            }
        }
        if let Some(detail) = self.detail {
            text.extend_from_slice(b"; detail=");
            write_token_or_string(text, detail);
            if let Some(first) = self.first {
                text.push(b'/');
                text.extend_from_slice(first.as_bytes());
            }
        }
    }
}

fn write_integer(text: &mut Text, number: i64) {
    let number = number.clamp(-MAX_INTEGER, MAX_INTEGER);
    if number < 0 {
        text.push(b'-');
    }
    write_number(text, number.unsigned_abs());
}

/// In decimal.
pub(crate) fn write_number(text: &mut Text, mut number: u64) {
    let mut digits = [0; 20];
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    text.extend_from_slice(&digits[start..]);
}

/// An sf-token where the value is one, else an sf-string; what neither can express becomes `?`.
fn write_token_or_string(text: &mut Text, value: &str) {
    if is_token(value) {
        text.extend_from_slice(value.as_bytes());
        return;
    }
    text.push(b'"');
    for byte in value.bytes() {
        match byte {
            b'"' | b'\\' => text.extend_from_slice(&[b'\\', byte]),
            _ if is_printable(byte) => text.push(byte),
            _ => text.push(b'?'),
        }
    }
    text.push(b'"');
}

fn is_printable(byte: u8) -> bool {
    matches!(byte, b' '..=b'~')
}

/// RFC 9651, section 3.3.4.
fn is_token(value: &str) -> bool {
    value.starts_with(|first: char| first.is_ascii_alphabetic() || first == '*')
        && value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~:/".contains(&byte))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;
    use sfv::{BareItem, List, ListEntry, Parser};

    use super::*;

    fn status(name: &str, outcome: Outcome, detail: Option<&'static str>) -> HeaderValue {
        let name = CacheName::new(name).unwrap();
        let mut text = Text::new();
        CacheStatus { name: &name, outcome, detail, first: None }.write(&mut text);
        HeaderValue::from_bytes(text.as_ref()).unwrap()
    }

    fn forward(why: ForwardReason) -> Outcome {
        Outcome::Forward { why, status: None, ttl: None, stored: false, collapsed: false }
    }

    /// The identifier and the parameters, as a structured-field parser reads them.
    fn parse(value: &HeaderValue) -> (BareItem, Vec<(String, BareItem)>) {
        let list: List = Parser::new(value.as_bytes()).parse().unwrap();
        let [ListEntry::Item(item)] = &list[..] else {
            panic!("{value:?} is not one item");
        };
        let parameters = item.params.iter().map(|(key, value)| (key.to_string(), value.clone()));
        (item.bare_item.clone(), parameters.collect())
    }

    #[test]
    fn a_text_is_what_was_appended_however_long() {
        for step in [1, 7, 100, 128, 129, 300] {
            let (mut text, mut expected) = (Text::new(), Vec::new());
            for byte in 0..9 {
                let more = vec![b'0' + byte; step];
                text.extend_from_slice(&more);
                expected.extend(more);
                assert_eq!((text.as_ref(), text.len()), (&*expected, expected.len()));
            }
        }
    }

    #[test]
    fn members_are_written_as_the_specification_shows_them() {
        let stored = Outcome::Forward {
            why: ForwardReason::UriMiss,
            status: None,
            ttl: Some(60),
            stored: true,
            collapsed: false,
        };
        let everything = Outcome::Forward {
            why: ForwardReason::Stale,
            status: Some(304),
            ttl: Some(-5),
            stored: true,
            collapsed: true,
        };
        for (outcome, detail, expected) in [
            (Outcome::Hit { ttl: 58 }, None, "cache-layer; hit; ttl=58"),
            (Outcome::Hit { ttl: -412 }, None, "cache-layer; hit; ttl=-412"),
            (stored, None, "cache-layer; fwd=uri-miss; ttl=60; stored"),
            (everything, None, "cache-layer; fwd=stale; fwd-status=304; ttl=-5; stored; collapsed"),
            (forward(ForwardReason::Bypass), Some("no-store"), "cache-layer; fwd=bypass; detail=no-store"),
            (forward(ForwardReason::Method), Some("say \"no\""), "cache-layer; fwd=method; detail=\"say \\\"no\\\"\""),
        ] {
            assert_eq!(status("cache-layer", outcome, detail), expected);
        }
    }

    #[test]
    fn a_name_is_a_token_where_it_can_be_one() {
        for (name, written) in [
            ("ExampleCache", "ExampleCache"),
            ("*edge", "*edge"),
            ("http://a.example/", "http://a.example/"),
            ("Cache 1", "\"Cache 1\""),
            ("1st", "\"1st\""),
            ("a, b; hit", "\"a, b; hit\""),
            ("a\"b\\c", "\"a\\\"b\\\\c\""),
        ] {
            let value = status(name, Outcome::Hit { ttl: 0 }, None);
            assert_eq!(value, format!("{written}; hit; ttl=0"));
            let (BareItem::Token(_) | BareItem::String(_)) = parse(&value).0 else {
                panic!("{value:?}");
            };
        }
        for name in ["", "caf\u{e9}", "a\nb", "\u{7f}"] {
            assert_eq!(CacheName::new(name), None, "{name:?}");
        }
    }

    #[test]
    fn every_reason_is_a_token() {
        for (why, expected) in [
            (ForwardReason::Bypass, "bypass"),
            (ForwardReason::Method, "method"),
            (ForwardReason::UriMiss, "uri-miss"),
            (ForwardReason::VaryMiss, "vary-miss"),
            (ForwardReason::Miss, "miss"),
            (ForwardReason::Request, "request"),
            (ForwardReason::Stale, "stale"),
        ] {
            let (_, parameters) = parse(&status("c", forward(why), None));
            let [(key, BareItem::Token(token))] = &parameters[..] else {
                panic!("{parameters:?}");
            };
            assert_eq!((key.as_str(), token.as_str()), ("fwd", expected));
        }
    }

    #[test]
    fn an_extreme_ttl_stays_an_integer() {
        for (ttl, expected) in [(i64::MAX, MAX_INTEGER), (i64::MIN, -MAX_INTEGER)] {
            let (_, parameters) = parse(&status("c", Outcome::Hit { ttl }, None));
            let [_, (key, BareItem::Integer(integer))] = &parameters[..] else {
                panic!("{parameters:?}");
            };
            assert_eq!((key.as_str(), i64::from(*integer)), ("ttl", expected));
        }
    }

    #[test]
    fn a_detail_that_cannot_be_written_does_not_break_the_field() {
        let value = status("c", Outcome::Hit { ttl: 1 }, Some("caf\u{e9}\r\n"));
        assert_eq!(value, "c; hit; ttl=1; detail=\"caf????\"");
    }

    proptest! {
        #[test]
        fn any_printable_name_is_read_back(name in "[ -~]{1,32}", ttl: i64) {
            let (identifier, parameters) = parse(&status(&name, Outcome::Hit { ttl }, Some("d")));
            let read = match &identifier {
                BareItem::Token(token) => token.as_str(),
                BareItem::String(string) => string.as_str(),
                other => panic!("{other:?}"),
            };
            prop_assert_eq!(read, name);
            prop_assert_eq!(parameters.len(), 3);
        }
    }
}
