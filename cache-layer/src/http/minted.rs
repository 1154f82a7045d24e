//! Entity tags for stored responses that came without a validator, computed from their content, so that clients can validate
//! them with a 304.

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{
    HeaderMap, HeaderValue, StatusCode,
    header::{CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_TYPE, ETAG, LAST_MODIFIED},
};
use xxhash_rust::xxh3::Xxh3Default;

use super::stored::{Stored, Traits};
use crate::{
    hex,
    semantics::{cache_control::CacheControl, encodable::forbids_transformation},
};

/// Whether a response gets an entity tag: it is a success without a validator, and may be changed on its way.
pub(super) fn is_due(status: StatusCode, headers: &HeaderMap, directives: &CacheControl) -> bool {
    status.is_success()
        && !directives.no_transform
        // Its freshness may come from elsewhere than the field that forbids it.
        && !forbids_transformation(headers)
        && !headers.contains_key(ETAG)
        && !headers.contains_key(LAST_MODIFIED)
}

/// The metadata of a response with an entity tag for this content, and the tag; `None` if `meta` is not that of a response.
pub(super) fn with_tag<'a>(meta: &[u8], content: impl Iterator<Item = &'a Bytes>) -> Option<(Vec<u8>, HeaderValue)> {
    let Some(Stored::Response(mut response)) = Stored::from_bytes(&Bytes::copy_from_slice(meta)) else { return None };
    let tag = entity_tag(&response.headers, content);
    response.headers.insert(ETAG, tag.clone());
    response.info.traits = Traits { minted: true, ..response.info.traits };
    Some((Stored::Response(response).to_bytes(), tag))
}

/// The entity tag of a representation: strong, because it differs with every byte, and with the fields that say how to read the
/// bytes. It has 128 bits, so that two representations of one URI never have the same tag by chance.
fn entity_tag<'a>(headers: &HeaderMap, content: impl Iterator<Item = &'a Bytes>) -> HeaderValue {
    let mut hash = Xxh3Default::new();
    for name in [CONTENT_TYPE, CONTENT_ENCODING, CONTENT_LANGUAGE] {
        for line in headers.get_all(name) {
            hash.update(line.as_bytes());
            // No field value has this byte.
            hash.update(b"\0");
        }
        hash.update(b"\0");
    }
    content.for_each(|piece| hash.update(piece));
    let mut text = BytesMut::with_capacity(34);
    text.put_u8(b'"');
    hash.digest128().to_be_bytes().iter().for_each(|byte| text.put_slice(&hex::of_byte(*byte)));
    text.put_u8(b'"');
    HeaderValue::from_maybe_shared(text.freeze()).expect("only digits and quotes are written")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let line =
            |(name, value): &(&'static str, &'static str)| (name.parse().unwrap(), HeaderValue::from_static(value));
        fields.iter().map(line).collect()
    }

    #[test]
    fn a_tag_is_of_the_bytes_and_of_what_says_how_they_are_read() {
        let tag = |fields: &[(&'static str, &'static str)], pieces: &[&'static str]| {
            let pieces: Vec<_> = pieces.iter().map(|piece| Bytes::from_static(piece.as_bytes())).collect();
            entity_tag(&headers(fields), pieces.iter())
        };
        let json = tag(&[("content-type", "application/json")], &["[1,", "2]"]);
        assert_eq!(json, tag(&[("content-type", "application/json"), ("date", "today")], &["[1,2]"]));
        for (fields, content) in [
            (&[("content-type", "application/json")][..], "[1,3]"),
            (&[("content-type", "text/plain")], "[1,2]"),
            (&[("content-type", "application/json"), ("content-encoding", "gzip")], "[1,2]"),
            (&[("content-type", "application/json"), ("content-language", "de")], "[1,2]"),
            (&[("content-encoding", "application/json")], "[1,2]"),
            (&[], "[1,2]"),
        ] {
            assert_ne!(json, tag(fields, &[content]), "{fields:?} {content}");
        }
        assert!(json.len() == 34 && json.as_bytes().starts_with(b"\""));
    }

    #[test]
    fn only_a_success_without_a_validator_that_may_be_changed_is_given_one() {
        let due = |status, fields: &[(&'static str, &'static str)]| {
            let headers = headers(fields);
            is_due(StatusCode::from_u16(status).unwrap(), &headers, &CacheControl::from_headers(&headers))
        };
        assert!(due(200, &[("cache-control", "max-age=60")]) && due(203, &[]));
        assert!(!due(404, &[]) && !due(301, &[]));
        for field in [("etag", "\"a\""), ("etag", "W/\"a\""), ("last-modified", "x"), ("cache-control", "no-transform")]
        {
            assert!(!due(200, &[field]), "{field:?}");
        }
    }
}
