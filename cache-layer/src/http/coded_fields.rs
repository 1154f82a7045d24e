//! The fields by which a representation in a content coding differs from the response that the application made. They are made
//! once for each coding of an entry that several requests read, so that a hit only has to put them in their places.

use std::sync::OnceLock;

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{CONTENT_ENCODING, CONTENT_LENGTH, ETAG, VARY},
};

use super::annotate::{self, OWN_PLACES};
use crate::{
    coding::{Coding, Encoder},
    semantics::coded_tag,
};

/// The fields of the representations of one entry, for the codings in which it was sent.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct CodedFields([OnceLock<Box<Fields>>; Coding::COUNT]);

/// The fields of a representation of this length.
#[derive(Debug, PartialEq, Eq)]
struct Fields {
    encoder: Encoder,
    length: usize,
    etag: Option<HeaderValue>,
    content_length: Option<HeaderValue>,
}

/// The fields that have places of their own, after those that the cache says for itself, in this order.
static PLACES: [HeaderName; 4] = [VARY, CONTENT_ENCODING, ETAG, CONTENT_LENGTH];

impl CodedFields {
    /// Adapts the fields of the entry's response, [with their places](with_room), to its representation by this encoder, of this
    /// length.
    pub(super) fn describe(&self, headers: &mut HeaderMap, encoder: Encoder, length: usize) {
        let made = self.0[encoder.coding().number()].get_or_init(|| Box::new(Fields::of(headers, encoder, length)));
        if made.encoder == encoder && made.length == length {
            made.put(headers);
        } else {
            // Another layer over the same cache encodes at another level.
            describe(headers, encoder, length);
        }
    }
}

impl Fields {
    fn of(headers: &HeaderMap, encoder: Encoder, length: usize) -> Self {
        let etag = coded_tag::strong_tag(headers).map(|tag| coded_tag::coded(tag, encoder));
        // Both are kept with an entry, in one buffer.
        let tag = etag.as_ref().map_or(&[][..], HeaderValue::as_bytes);
        let mut text = Bytes::from([tag, length.to_string().as_bytes()].concat());
        let tag = text.split_to(tag.len());
        let etag = etag.is_some().then(|| value(tag));
        let content_length = headers.contains_key(CONTENT_LENGTH).then(|| value(text));
        Self { encoder, length, etag, content_length }
    }

    fn put(&self, headers: &mut HeaderMap) {
        let coding = HeaderValue::from_static(self.encoder.coding().as_str());
        let values = [Some(coding), self.etag.clone(), self.content_length.clone()];
        let fields = PLACES[1..].iter().zip(values).filter(|(_, value)| value.is_some());
        annotate::set(headers, OWN_PLACES + 1, fields);
    }
}

fn value(text: Bytes) -> HeaderValue {
    HeaderValue::from_maybe_shared(text).unwrap_or_else(|_| unreachable!("a tag, or digits"))
}

/// Adapts the fields of a response to its representation by this encoder, of this length.
pub(super) fn describe(headers: &mut HeaderMap, encoder: Encoder, length: usize) {
    Fields::of(headers, encoder, length).put(headers);
}

/// Removes the place for a coding: the representation has none.
pub(super) fn describe_plain(headers: &mut HeaderMap) {
    headers.remove(CONTENT_ENCODING);
}

/// Adds `Accept-Encoding` to `Vary`.
pub(super) fn vary(headers: &mut HeaderMap) {
    let value = varied(headers);
    headers.insert(VARY, value);
}

/// The fields of an encodable response in the order in which answers need them: placeholders for those that [`annotate::stored`]
/// sets, `Vary` as every answer has it, a placeholder for `Content-Encoding`, and the fields that differ in a coding.
pub(super) fn with_room(headers: &HeaderMap) -> HeaderMap {
    let [vary, content_encoding, etag, content_length] = &PLACES;
    let in_both = [(etag, coded_tag::strong_tag(headers)), (content_length, headers.get(content_length))];
    let in_both = in_both.into_iter().filter_map(|(name, value)| Some((name, value?.clone())));
    let first: Vec<_> = [(vary, varied(headers)), (content_encoding, HeaderValue::from_static(""))]
        .into_iter()
        .chain(in_both)
        .collect();
    annotate::with_room(headers, &first)
}

/// The value of `Vary` with `Accept-Encoding`, in one line, because some clients read only one.
fn varied(headers: &HeaderMap) -> HeaderValue {
    const NAME: &str = "accept-encoding";
    let mut lines = headers.get_all(VARY).iter();
    let Some(first) = lines.next() else { return HeaderValue::from_static(NAME) };
    let lines = std::iter::once(first).chain(lines).map(HeaderValue::as_bytes);
    let names = lines.chain([NAME.as_bytes()]).collect::<Vec<_>>().join(&b", "[..]);
    HeaderValue::from_maybe_shared(Bytes::from(names))
        .unwrap_or_else(|_| unreachable!("values and a comma are a value"))
}

#[cfg(all(test, feature = "encode"))]
mod tests {
    use super::*;
    use crate::semantics::test_fields::{Fields as Lines, headers};

    fn lines(headers: &HeaderMap) -> Vec<(String, String)> {
        let line = |(name, value): (&HeaderName, &HeaderValue)| {
            (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())
        };
        let mut lines: Vec<_> = headers.iter().map(line).filter(|(_, value)| !value.is_empty()).collect();
        lines.sort_unstable();
        lines
    }

    /// What is put in places is what is put anywhere, and what the next request gets, too.
    #[test]
    fn a_representation_has_the_same_fields_with_and_without_places() {
        let cases: [Lines<'_>; 6] = [
            &[("content-type", "text/plain")],
            &[("content-type", "text/plain"), ("content-length", "100"), ("etag", "\"v\"")],
            &[("etag", "W/\"v\""), ("content-length", "100"), ("link", "a"), ("link", "b")],
            &[("etag", "\"v\""), ("vary", "origin"), ("vary", "accept-language")],
            &[("content-length", "100"), ("vary", "origin"), ("age", "7"), ("x-cache", "HIT")],
            &[("link", "a"), ("link", "b"), ("etag", "\"v\"")],
        ];
        for case in cases {
            let stored = headers(case);
            let (roomy, made) = (with_room(&stored), CodedFields::default());
            let without_own = || {
                let mut plain = stored.clone();
                for name in ["age", "x-cache"] {
                    plain.remove(name);
                }
                vary(&mut plain);
                plain
            };
            let best = Encoder::at(Coding::Gzip, 9).unwrap();
            let gzip = Encoder::usual(Coding::Gzip);
            for (encoder, length) in [(gzip, 31), (gzip, 31), (best, 29), (best, 29), (gzip, 30), (gzip, 31)] {
                let (mut placed, mut plain) = (roomy.clone(), without_own());
                made.describe(&mut placed, encoder, length);
                describe(&mut plain, encoder, length);
                assert_eq!(lines(&placed), lines(&plain), "{case:?} {encoder} {length}");
                assert_eq!(placed["content-encoding"], "gzip");
                assert!(placed.get("content-length").is_none_or(|value| *value == length.to_string()));
            }
            let mut uncoded = roomy.clone();
            describe_plain(&mut uncoded);
            assert_eq!(lines(&uncoded), lines(&without_own()), "{case:?}");
        }
    }
}
