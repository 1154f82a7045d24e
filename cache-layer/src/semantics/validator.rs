//! Validators: entity tags and modification dates (RFC 9110, section 8.8).

use http::{
    HeaderMap, HeaderName,
    header::{DATE, ETAG, LAST_MODIFIED},
};

use super::date::parse_http_date;

/// An entity tag with its quotes; a tag without quotes is compared as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EntityTag<'a> {
    opaque: &'a [u8],
    weak: bool,
}

impl<'a> EntityTag<'a> {
    /// The tag of a response; `None` if it has several tags or an empty one.
    pub(crate) fn of(headers: &'a HeaderMap) -> Option<Self> {
        single_line(headers, &ETAG).map(Self::new).filter(|tag| !tag.opaque.is_empty())
    }

    /// A tag as a field spells it.
    pub(crate) fn new(text: &'a [u8]) -> Self {
        match text.strip_prefix(b"W/") {
            Some(opaque) => Self { opaque, weak: true },
            None => Self { opaque: text, weak: false },
        }
    }

    /// Whether both identify the same bytes.
    pub(crate) fn matches_strongly(self, other: Self) -> bool {
        !self.weak && self == other
    }

    /// Whether both identify equivalent content.
    pub(crate) fn matches_weakly(self, other: Self) -> bool {
        self.opaque == other.opaque
    }

    /// The opaque part, in its quotes.
    pub(crate) fn opaque(self) -> &'a [u8] {
        self.opaque
    }

    /// Whether it promises the same bytes.
    pub(crate) fn is_strong(self) -> bool {
        !self.weak
    }
}

/// The members of a list of entity tags. A comma inside of quotes belongs to the tag.
pub(crate) fn entity_tags(list: &[u8]) -> impl Iterator<Item = EntityTag<'_>> {
    let mut quoted = false;
    list.split(move |&byte| {
        quoted ^= byte == b'"';
        byte == b',' && !quoted
    })
    .map(<[u8]>::trim_ascii)
    .filter(|member| !member.is_empty())
    .map(EntityTag::new)
}

/// A date that a field gives on its only line.
pub(crate) fn single_date(headers: &HeaderMap, name: &HeaderName, now_secs: u64) -> Option<u64> {
    parse_http_date(single_line(headers, name)?, now_secs)
}

/// The only line of a field.
pub(crate) fn single_line<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a [u8]> {
    let mut lines = headers.get_all(name).into_iter();
    let line = lines.next()?.as_bytes();
    lines.next().is_none().then_some(line)
}

/// The modification date of a response, if no two versions can share it: it was sent a second later at the
/// earliest (RFC 9110, section 8.8.2.2).
pub(crate) fn strong_last_modified(headers: &HeaderMap, now_secs: u64) -> Option<u64> {
    let last_modified = single_date(headers, &LAST_MODIFIED, now_secs)?;
    let date = single_date(headers, &DATE, now_secs)?;
    (last_modified < date).then_some(last_modified)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn tag(text: &str) -> EntityTag<'_> {
        EntityTag::new(text.as_bytes())
    }

    #[test]
    fn strong_and_weak_comparison_as_the_specification_shows_them() {
        for (one, other, strong, weak) in [
            ("W/\"1\"", "W/\"1\"", false, true),
            ("W/\"1\"", "W/\"2\"", false, false),
            ("W/\"1\"", "\"1\"", false, true),
            ("\"1\"", "\"1\"", true, true),
            ("\"a\"", "\"A\"", false, false),
            ("w/\"1\"", "\"1\"", false, false),
            ("1", "\"1\"", false, false),
            ("1", "1", true, true),
        ] {
            assert_eq!(tag(one).matches_strongly(tag(other)), strong, "{one} {other}");
            assert_eq!(tag(other).matches_strongly(tag(one)), strong, "{other} {one}");
            assert_eq!(tag(one).matches_weakly(tag(other)), weak, "{one} {other}");
        }
        assert!(tag("\"1\"").is_strong() && !tag("W/\"1\"").is_strong());
    }

    #[test]
    fn a_response_has_one_tag_or_none() {
        let mut headers = HeaderMap::new();
        assert_eq!(EntityTag::of(&headers), None);
        headers.insert(ETAG, HeaderValue::from_static(""));
        assert_eq!(EntityTag::of(&headers), None);
        headers.insert(ETAG, HeaderValue::from_bytes(b"\"caf\xe9\"").unwrap());
        assert_eq!(EntityTag::of(&headers), Some(EntityTag::new(b"\"caf\xe9\"")));
        headers.append(ETAG, HeaderValue::from_static("\"b\""));
        assert_eq!(EntityTag::of(&headers), None);
    }

    #[test]
    fn commas_inside_quotes_belong_to_the_tag() {
        let tags: Vec<_> = entity_tags(b" \"a,b\" ,, W/\"c\",d,\"e, f").collect();
        assert_eq!(tags, [tag("\"a,b\""), tag("W/\"c\""), tag("d"), tag("\"e, f")]);
    }

    #[test]
    fn a_modification_date_is_strong_a_second_later() {
        let strong = |date: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            headers.insert(LAST_MODIFIED, HeaderValue::from_static("Thu, 01 Jan 1970 00:00:09 GMT"));
            if let Some(date) = date {
                headers.insert(DATE, HeaderValue::from_static(date));
            }
            strong_last_modified(&headers, 60)
        };
        assert_eq!(strong(Some("Thu, 01 Jan 1970 00:00:10 GMT")), Some(9));
        assert_eq!(strong(Some("Thu, 01 Jan 1970 00:00:09 GMT")), None);
        assert_eq!(strong(Some("now")), None);
        assert_eq!(strong(None), None);
    }
}
