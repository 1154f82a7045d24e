//! Structured fields (RFC 9651), as [`sfv`] reads them.
//!
//! A field that does not parse to its end is not read at all. The types of `sfv` stay within the users of this module: no
//! public signature names them.

use http::{HeaderMap, HeaderName, HeaderValue};
use sfv::{Dictionary, Item, List, Parser};

use super::list::has;

/// The members of a dictionary: empty if the field is absent, `None` if it can't be parsed. If a key repeats, the last member
/// counts.
pub(crate) fn dictionary(headers: &HeaderMap, name: &HeaderName) -> Option<Dictionary> {
    let Some(field) = combined(headers, name) else { return Some(Dictionary::new()) };
    Parser::new(&field).parse().ok()
}

/// The members of a list: empty if the field is absent, `None` if it can't be parsed.
pub(crate) fn list(headers: &HeaderMap, name: &HeaderName) -> Option<List> {
    let Some(field) = combined(headers, name) else { return Some(List::new()) };
    Parser::new(&field).parse().ok()
}

/// The item of a field that has one.
pub(crate) fn item(headers: &HeaderMap, name: &HeaderName) -> Option<Item> {
    Parser::new(&combined(headers, name)?).parse().ok()
}

/// The lines of a field combined into one value for the parser (RFC 9651, section 4.2); `None` if the field is absent, as in most
/// responses.
fn combined(headers: &HeaderMap, name: &HeaderName) -> Option<Vec<u8>> {
    if !has(headers, name) {
        return None;
    }
    let lines: Vec<&[u8]> = headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
    Some(lines.join(&b", "[..]))
}

/// What this crate relies on, whichever version of the parser it is built with.
#[cfg(test)]
mod tests {
    use sfv::{BareItem, Decimal, Integer, ListEntry};

    use super::*;

    const NAME: HeaderName = HeaderName::from_static("x-field");

    fn field(lines: &[&str]) -> HeaderMap {
        lines.iter().map(|line| (NAME, HeaderValue::from_bytes(line.as_bytes()).unwrap())).collect()
    }

    fn read_list(line: &str) -> Option<List> {
        list(&field(&[line]), &NAME)
    }

    fn read_dictionary(line: &str) -> Option<Dictionary> {
        dictionary(&field(&[line]), &NAME)
    }

    fn value(line: &str) -> Option<BareItem> {
        match &read_list(line)?[..] {
            [ListEntry::Item(item)] => Some(item.bare_item.clone()),
            _ => None,
        }
    }

    #[test]
    fn every_type_is_read() {
        let integer = |number: i64| Integer::try_from(number).unwrap();
        let decimal = |thousandths| BareItem::Decimal(Decimal::from_integer_scaled_1000(integer(thousandths)));
        let date = |seconds| BareItem::Date(sfv::Date::from_unix_seconds(integer(seconds)));
        let string = |text: &str| BareItem::String(sfv::String::from_string(text.to_owned()).unwrap());
        let token = |text: &str| BareItem::Token(sfv::Token::from_string(text.to_owned()).unwrap());
        for (line, expected) in [
            ("42", BareItem::Integer(integer(42))),
            ("-042", BareItem::Integer(integer(-42))),
            ("999999999999999", BareItem::Integer(integer(999_999_999_999_999))),
            ("4.5", decimal(4_500)),
            ("4.25", decimal(4_250)),
            ("-0.125", decimal(-125)),
            ("999999999999.999", decimal(999_999_999_999_999)),
            ("\"a \\\"b\\\\\"", string("a \"b\\")),
            ("*a/b:c", token("*a/b:c")),
            (":aGVsbG8=:", BareItem::ByteSequence(b"hello".to_vec())),
            (":aGVsbG8:", BareItem::ByteSequence(b"hello".to_vec())),
            (":+/A=:", BareItem::ByteSequence(vec![0xfb, 0xf0])),
            ("::", BareItem::ByteSequence(vec![])),
            ("?1", BareItem::Boolean(true)),
            ("?0", BareItem::Boolean(false)),
            ("@1659578233", date(1_659_578_233)),
            ("@-1", date(-1)),
            ("%\"f%c3%bc!\"", BareItem::DisplayString("f\u{fc}!".to_owned())),
        ] {
            assert_eq!(value(line), Some(expected), "{line}");
        }
    }

    #[test]
    fn what_is_not_an_item_fails_the_field() {
        for line in [
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
            assert_eq!(read_list(line), None, "{line:?}");
        }
    }

    #[test]
    fn members_and_their_parameters() {
        let list = read_list("  (1 a;q);x=2 ,\tb; y=\"c\";y=?0, ()  ").unwrap();
        let [ListEntry::InnerList(inner), ListEntry::Item(item), ListEntry::InnerList(none)] = &list[..] else {
            panic!("{list:?}");
        };
        assert_eq!((inner.items.len(), none.items.len()), (2, 0));
        assert_eq!(inner.items[1].params["q"], BareItem::Boolean(true));
        assert_eq!(inner.params["x"], BareItem::Integer(2.into()));
        assert_eq!(item.params["y"], BareItem::Boolean(false));
    }

    #[test]
    fn the_last_of_a_repeated_key_counts() {
        let dictionary = read_dictionary("a=1, b;x, a=(2)").unwrap();
        assert_eq!(dictionary["a"], read_list("(2)").unwrap()[0]);
        assert_eq!(dictionary.len(), 2);
        for line in ["A=1", "1=a", "a =1", "a= 1", "a,", "a;", "=a"] {
            assert_eq!(read_dictionary(line), None, "{line:?}");
        }
    }

    #[test]
    fn nothing_is_an_empty_field_and_lines_are_one_value() {
        for absent_or_empty in [&[][..], &[""], &["   "]] {
            assert_eq!(list(&field(absent_or_empty), &NAME), Some(vec![]), "{absent_or_empty:?}");
            assert_eq!(dictionary(&field(absent_or_empty), &NAME), Some(Dictionary::new()), "{absent_or_empty:?}");
        }
        assert_eq!(list(&field(&["1", "2"]), &NAME), read_list("1, 2"));
        assert_eq!(read_list("1, 2").unwrap().len(), 2);
    }
}
