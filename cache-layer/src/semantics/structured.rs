//! Structured fields (RFC 9651): reading lists, dictionaries and items.
//!
//! A field that does not parse to its end is not read at all.

use std::collections::BTreeMap;

use http::{HeaderMap, HeaderName};

/// The members of a dictionary. Of a key that repeats, the last counts.
pub(crate) type Dictionary = BTreeMap<String, Member>;

/// The parameters of an item. Of a key that repeats, the last counts.
pub(crate) type Parameters = BTreeMap<String, BareItem>;

/// A member of a list, or the value of one of a dictionary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Member {
    /// A single item.
    Item(Item),
    /// Items in parentheses, and what is said of them together.
    InnerList(Vec<Item>, Parameters),
}

impl Member {
    /// The value of a member that is an item, without its parameters.
    pub(crate) fn bare_item(&self) -> Option<&BareItem> {
        match self {
            Self::Item(item) => Some(&item.value),
            Self::InnerList(..) => None,
        }
    }
}

/// A value and what is said of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    /// The value.
    pub(crate) value: BareItem,
    /// What is said of it.
    pub(crate) parameters: Parameters,
}

/// A value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum BareItem {
    /// `1`
    Integer(i64),
    /// `1.5`, in thousandths.
    Decimal(i64),
    /// `"a b"`
    String(String),
    /// `a/b`
    Token(String),
    /// `:aGVsbG8=:`
    Bytes(Vec<u8>),
    /// `?1`
    Boolean(bool),
    /// `@1659578233`, in seconds since the Unix epoch.
    Date(i64),
    /// `%"f%c3%bc"`
    DisplayString(String),
}

/// The lines of a field as the one value that a parser reads (RFC 9651, section 4.2).
pub(crate) fn combined(headers: &HeaderMap, name: &HeaderName) -> Option<Vec<u8>> {
    let lines: Vec<&[u8]> = headers.get_all(name).iter().map(http::HeaderValue::as_bytes).collect();
    (!lines.is_empty()).then(|| lines.join(&b", "[..]))
}

/// Reads a dictionary.
pub(crate) fn parse_dictionary(value: &[u8]) -> Option<Dictionary> {
    let mut dictionary = Dictionary::new();
    Cursor(value).each_member(|cursor| {
        let key = cursor.key()?;
        let member = if cursor.take(b'=') {
            cursor.member()?
        } else {
            Member::Item(Item { value: BareItem::Boolean(true), parameters: cursor.parameters()? })
        };
        dictionary.insert(key, member);
        Some(())
    })?;
    Some(dictionary)
}

/// Reads a list.
pub(crate) fn parse_list(value: &[u8]) -> Option<Vec<Member>> {
    let mut list = Vec::new();
    Cursor(value).each_member(|cursor| {
        list.push(cursor.member()?);
        Some(())
    })?;
    Some(list)
}

/// What is left of the value. A step that fails may leave it anywhere, for then all of it has failed.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    /// Goes over members with commas between them, to the end of the value.
    fn each_member(mut self, mut read: impl FnMut(&mut Self) -> Option<()>) -> Option<()> {
        self.skip(b" ");
        if self.0.is_empty() {
            return Some(());
        }
        loop {
            read(&mut self)?;
            self.skip(b" \t");
            if self.0.is_empty() {
                return Some(());
            }
            self.expect(b',')?;
            self.skip(b" \t");
        }
    }

    fn peek(&self) -> Option<u8> {
        self.0.first().copied()
    }

    fn next(&mut self) -> Option<u8> {
        let (&first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(first)
    }

    fn take(&mut self, byte: u8) -> bool {
        let taken = self.peek() == Some(byte);
        if taken {
            self.0 = &self.0[1..];
        }
        taken
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        self.take(byte).then_some(())
    }

    fn skip(&mut self, bytes: &[u8]) {
        self.take_while(|byte| bytes.contains(&byte));
    }

    fn take_while(&mut self, belongs: impl Fn(u8) -> bool) -> &'a [u8] {
        let end = self.0.iter().position(|&byte| !belongs(byte)).unwrap_or(self.0.len());
        let (taken, rest) = self.0.split_at(end);
        self.0 = rest;
        taken
    }

    fn member(&mut self) -> Option<Member> {
        if !self.take(b'(') {
            return self.item().map(Member::Item);
        }
        let mut items = Vec::new();
        loop {
            self.skip(b" ");
            if self.take(b')') {
                return Some(Member::InnerList(items, self.parameters()?));
            }
            items.push(self.item()?);
            if !matches!(self.peek(), Some(b' ' | b')')) {
                return None;
            }
        }
    }

    fn item(&mut self) -> Option<Item> {
        Some(Item { value: self.bare_item()?, parameters: self.parameters()? })
    }

    fn parameters(&mut self) -> Option<Parameters> {
        let mut parameters = Parameters::new();
        while self.take(b';') {
            self.skip(b" ");
            let key = self.key()?;
            let value = if self.take(b'=') { self.bare_item()? } else { BareItem::Boolean(true) };
            parameters.insert(key, value);
        }
        Some(parameters)
    }

    fn key(&mut self) -> Option<String> {
        matches!(self.peek()?, b'a'..=b'z' | b'*').then_some(())?;
        let key =
            self.take_while(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'.' | b'*')).to_vec();
        String::from_utf8(key).ok()
    }

    fn bare_item(&mut self) -> Option<BareItem> {
        match self.peek()? {
            b'-' | b'0'..=b'9' => self.number(),
            b'"' => self.string().map(BareItem::String),
            b'*' | b'a'..=b'z' | b'A'..=b'Z' => self.token().map(BareItem::Token),
            b':' => self.bytes().map(BareItem::Bytes),
            b'?' => self.boolean().map(BareItem::Boolean),
            b'@' => self.date().map(BareItem::Date),
            b'%' => self.display_string().map(BareItem::DisplayString),
            _ => None,
        }
    }

    fn number(&mut self) -> Option<BareItem> {
        let sign = if self.take(b'-') { -1 } else { 1 };
        let whole = self.take_while(|byte| byte.is_ascii_digit());
        if whole.is_empty() {
            return None;
        }
        if !self.take(b'.') {
            return (whole.len() <= 15).then(|| BareItem::Integer(sign * number(whole)));
        }
        let fraction = self.take_while(|byte| byte.is_ascii_digit());
        let scale = match fraction.len() {
            1 => 100,
            2 => 10,
            3 => 1,
            _ => return None,
        };
        (whole.len() <= 12).then(|| BareItem::Decimal(sign * (number(whole) * 1000 + number(fraction) * scale)))
    }

    fn string(&mut self) -> Option<String> {
        self.expect(b'"')?;
        let mut text = String::new();
        loop {
            let byte = match self.next()? {
                b'"' => return Some(text),
                b'\\' => self.next().filter(|byte| matches!(byte, b'"' | b'\\'))?,
                byte @ b' '..=b'~' => byte,
                _ => return None,
            };
            text.push(char::from(byte));
        }
    }

    fn token(&mut self) -> Option<String> {
        let token =
            self.take_while(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~:/".contains(&byte)).to_vec();
        String::from_utf8(token).ok()
    }

    fn bytes(&mut self) -> Option<Vec<u8>> {
        self.expect(b':')?;
        let encoded = self.take_while(|byte| byte != b':');
        self.expect(b':')?;
        decode_base64(encoded)
    }

    fn boolean(&mut self) -> Option<bool> {
        self.expect(b'?')?;
        match self.next()? {
            b'0' => Some(false),
            b'1' => Some(true),
            _ => None,
        }
    }

    fn date(&mut self) -> Option<i64> {
        self.expect(b'@')?;
        match self.number()? {
            BareItem::Integer(seconds) => Some(seconds),
            _ => None,
        }
    }

    fn display_string(&mut self) -> Option<String> {
        self.expect(b'%')?;
        self.expect(b'"')?;
        let mut text = Vec::new();
        loop {
            match self.next()? {
                b'"' => return String::from_utf8(text).ok(),
                b'%' => text.push(self.hex_digit()? << 4 | self.hex_digit()?),
                byte @ b' '..=b'~' => text.push(byte),
                _ => return None,
            }
        }
    }

    /// Lower case only.
    fn hex_digit(&mut self) -> Option<u8> {
        match self.next()? {
            digit @ b'0'..=b'9' => Some(digit - b'0'),
            digit @ b'a'..=b'f' => Some(digit - b'a' + 10),
            _ => None,
        }
    }
}

/// At most 15 digits.
fn number(digits: &[u8]) -> i64 {
    digits.iter().fold(0, |number, digit| number * 10 + i64::from(digit - b'0'))
}

/// Padding may be missing, as RFC 9651, section 4.2.7, asks for.
fn decode_base64(encoded: &[u8]) -> Option<Vec<u8>> {
    let padding = encoded.iter().rev().take_while(|&&byte| byte == b'=').count();
    let digits = &encoded[..encoded.len() - padding];
    if digits.len() % 4 == 1 || padding > (4 - digits.len() % 4) % 4 {
        return None;
    }
    let mut bytes = Vec::with_capacity(digits.len() * 3 / 4);
    let (mut buffer, mut bits) = (0_u32, 0);
    for &digit in digits {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        buffer = (buffer << 6 | u32::from(value)) & 0xffff;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push((buffer >> bits) as u8);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sfv::{Dictionary as SfvDictionary, List as SfvList, ListEntry, Parser};

    use super::*;

    fn plain(value: BareItem) -> Member {
        Member::Item(Item { value, parameters: Parameters::new() })
    }

    fn value(text: &str) -> Option<BareItem> {
        match parse_list(text.as_bytes())?.as_slice() {
            [member] => member.bare_item().cloned(),
            _ => None,
        }
    }

    #[test]
    fn every_type_is_read() {
        for (text, expected) in [
            ("42", BareItem::Integer(42)),
            ("-042", BareItem::Integer(-42)),
            ("999999999999999", BareItem::Integer(999_999_999_999_999)),
            ("4.5", BareItem::Decimal(4_500)),
            ("4.25", BareItem::Decimal(4_250)),
            ("-0.125", BareItem::Decimal(-125)),
            ("999999999999.999", BareItem::Decimal(999_999_999_999_999)),
            ("\"a \\\"b\\\\\"", BareItem::String("a \"b\\".to_owned())),
            ("*a/b:c", BareItem::Token("*a/b:c".to_owned())),
            (":aGVsbG8=:", BareItem::Bytes(b"hello".to_vec())),
            (":aGVsbG8:", BareItem::Bytes(b"hello".to_vec())),
            (":+/A=:", BareItem::Bytes(vec![0xfb, 0xf0])),
            ("::", BareItem::Bytes(vec![])),
            ("?1", BareItem::Boolean(true)),
            ("?0", BareItem::Boolean(false)),
            ("@1659578233", BareItem::Date(1_659_578_233)),
            ("@-1", BareItem::Date(-1)),
            ("%\"f%c3%bc!\"", BareItem::DisplayString("f\u{fc}!".to_owned())),
        ] {
            assert_eq!(value(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn what_is_not_an_item_fails_the_field() {
        for text in [
            "-",
            "1.",
            "1.2345",
            "1000000000000000",
            "1000000000000.1",
            "--1",
            "\"a",
            "\"a\\b\"",
            "\"\u{e9}\"",
            ":a:",
            ":aGVsbG8==:",
            ":a b=:",
            ":YQ=a:",
            ":YQ= :",
            ":YQ",
            "?2",
            "?",
            "@1.5",
            "@",
            "%\"%C3%BC\"",
            "%\"%ff\"",
            "%\"%4\"",
            "%\"a",
            "%a",
            "%\"\u{e9}\"",
            "=",
            "a=b",
            "&&&&&",
            "(1",
            "(1\t2)",
            "(1,2)",
            "(\"a\"\"b\")",
            "1;A=2",
            "1;=2",
            "1;a=",
            "1,",
            ",1",
            "1,,2",
            "1 2",
            "\t1",
        ] {
            assert_eq!(parse_list(text.as_bytes()), None, "{text:?}");
        }
    }

    #[test]
    fn members_and_their_parameters() {
        let list = parse_list(b"  (1 a;q);x=2 ,\tb; y=\"c\";y=?0, ()  ").unwrap();
        let [Member::InnerList(items, parameters), Member::Item(item), Member::InnerList(none, _)] = &list[..] else {
            panic!("{list:?}");
        };
        assert_eq!((items.len(), none.len()), (2, 0));
        assert_eq!(items[1].parameters["q"], BareItem::Boolean(true));
        assert_eq!(parameters["x"], BareItem::Integer(2));
        assert_eq!(item.parameters["y"], BareItem::Boolean(false));
        assert_eq!(list[0].bare_item(), None);
    }

    #[test]
    fn the_last_of_a_repeated_key_counts() {
        let dictionary = parse_dictionary(b"a=1, b;x, a=(2)").unwrap();
        assert_eq!(dictionary["a"], parse_list(b"(2)").unwrap()[0]);
        assert_eq!(dictionary.len(), 2);
        for text in ["A=1", "1=a", "a =1", "a= 1", "a,", "a;", "=a"] {
            assert_eq!(parse_dictionary(text.as_bytes()), None, "{text:?}");
        }
    }

    #[test]
    fn nothing_is_an_empty_field_and_lines_are_one_value() {
        let name = HeaderName::from_static("x-list");
        let mut headers = HeaderMap::new();
        assert_eq!(combined(&headers, &name), None);
        assert_eq!(parse_list(b"   "), Some(vec![]));
        assert_eq!(parse_dictionary(b""), Some(Dictionary::new()));
        headers.append(&name, http::HeaderValue::from_static("1"));
        headers.append(&name, http::HeaderValue::from_static("2"));
        let value = combined(&headers, &name).unwrap();
        assert_eq!(parse_list(&value), Some(vec![plain(BareItem::Integer(1)), plain(BareItem::Integer(2))]));
    }

    fn theirs_bare(item: &sfv::BareItem) -> BareItem {
        match item {
            sfv::BareItem::Integer(value) => BareItem::Integer(i64::from(*value)),
            sfv::BareItem::Decimal(value) => BareItem::Decimal(value.as_integer_scaled_1000().into()),
            sfv::BareItem::String(value) => BareItem::String(value.as_str().to_owned()),
            sfv::BareItem::Token(value) => BareItem::Token(value.as_str().to_owned()),
            sfv::BareItem::ByteSequence(value) => BareItem::Bytes(value.clone()),
            sfv::BareItem::Boolean(value) => BareItem::Boolean(*value),
            sfv::BareItem::Date(value) => BareItem::Date(i64::from(value.unix_seconds())),
            sfv::BareItem::DisplayString(value) => BareItem::DisplayString(value.clone()),
        }
    }

    fn theirs_parameters(parameters: &sfv::Parameters) -> Parameters {
        parameters.iter().map(|(key, value)| (key.as_str().to_owned(), theirs_bare(value))).collect()
    }

    fn theirs_item(item: &sfv::Item) -> Item {
        Item { value: theirs_bare(&item.bare_item), parameters: theirs_parameters(&item.params) }
    }

    fn theirs(entry: &ListEntry) -> Member {
        match entry {
            ListEntry::Item(item) => Member::Item(theirs_item(item)),
            ListEntry::InnerList(list) => {
                Member::InnerList(list.items.iter().map(theirs_item).collect(), theirs_parameters(&list.params))
            }
        }
    }

    /// Values made of the pieces that mean something to the parser, in any order.
    fn values() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop::sample::select(vec![
            "a", "B", "*", "=", ";", ",", " ", "\t", "(", ")", "\"", "\\", "1", "-", ".", "12345", "1.5", "?1", "?0",
            "@9", ":", "YQ", "YWI=", "%\"", "%c3%bc", "/", "a=1", "(a b)", "\"x y\"", ";p", ", ", "\u{e9}",
        ]);
        prop::collection::vec(piece, 0..16).prop_map(|pieces| pieces.concat().into_bytes())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2048))]

        #[test]
        fn lists_are_read_as_by_the_reference_parser(value in prop_oneof![3 => values(), 1 => any::<Vec<u8>>()]) {
            let expected = Parser::new(&value).parse::<SfvList>().ok();
            prop_assert_eq!(parse_list(&value), expected.map(|list| list.iter().map(theirs).collect::<Vec<_>>()));
        }

        #[test]
        fn dictionaries_are_read_as_by_the_reference_parser(value in prop_oneof![3 => values(), 1 => any::<Vec<u8>>()]) {
            let expected = Parser::new(&value).parse::<SfvDictionary>().ok();
            let expected = expected.map(|members| {
                members.iter().map(|(key, entry)| (key.as_str().to_owned(), theirs(entry))).collect::<Dictionary>()
            });
            prop_assert_eq!(parse_dictionary(&value), expected);
        }

        #[test]
        fn byte_sequences_are_read_as_by_the_reference_parser(digits in "[A-Za-z0-9+/]{0,9}={0,3}") {
            let value = format!(":{digits}:");
            let expected = Parser::new(&value).parse::<SfvList>().ok();
            prop_assert_eq!(
                parse_list(value.as_bytes()),
                expected.map(|list| list.iter().map(theirs).collect::<Vec<_>>())
            );
        }
    }
}
