//! A response as the metadata of an entry: its status and header fields, or, where it varies, the names of the fields
//! that select a variant.
//!
//! | first byte | then |
//! |---|---|
//! | `R` | status (2 bytes), traits (1), time of the response (8, milliseconds), its age then (8, seconds), until when it stands in for an application that can't be reached (8, milliseconds), the entry it is a variant of (16, zero: none), field lines: name length (2), name, value length (4), value |
//! | `V` | variants made so far (2 bytes), field names with commas between them |

use bytes::{BufMut, Bytes};
use http::{
    HeaderMap, HeaderName, HeaderValue, StatusCode,
    header::{CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, DATE, ETAG, LAST_MODIFIED, VARY},
};

use super::coded_fields::CodedFields;
use crate::{
    entry::{EntryId, weight},
    semantics::{names::Shapes, stale_windows::has_validator, vary::VaryFields},
};

const NO_PARENT: EntryId = EntryId([0; 16]);
/// The most field lines of a response that is stored.
pub(super) const MOST_FIELDS: usize = 1_000;
/// The most lines that are read: with `Date` and `ETag`, which the cache may add. Somebody else may have written the entry, and a
/// map of fields panics where it is given more names than it can have.
const MOST_READ: usize = MOST_FIELDS + 2;
/// The capacity for the metadata of most responses, in bytes.
const METADATA: usize = 512;
/// The capacity for the fields of most responses, with those that the cache adds.
const FIELDS: usize = 12;

/// The metadata of an entry of this front end.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Stored {
    Response(StoredResponse),
    /// The key has variants.
    Varies(StoredVaries),
}

/// What selects a variant, and how many were made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StoredVaries {
    pub(super) fields: VaryFields,
    pub(super) variants: u16,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct StoredResponse {
    pub(super) headers: HeaderMap,
    pub(super) info: StoredInfo,
    /// The shapes of the names of its fields.
    pub(super) shapes: Shapes,
    /// What its fields are in codings, if `headers` [has places](super::coded_fields::with_room) for them.
    pub(super) coded: Option<Box<CodedFields>>,
}

/// The stored data of a response in addition to its fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StoredInfo {
    pub(super) status: StatusCode,
    /// When the response was received, in milliseconds since the Unix epoch, and its age then, in seconds.
    pub(super) response_time: u64,
    pub(super) initial_age: u64,
    /// Until when the response may be used if the application can't be reached.
    pub(super) stale_if_disconnected: u64,
    pub(super) traits: Traits,
    /// The [`Varies`](Stored::Varies) entry that leads to this variant; without it, the variant is not used.
    pub(super) parent: Option<EntryId>,
}

/// Properties of a stored response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Traits {
    /// It says that it doesn't change while it is fresh (RFC 8246).
    pub(super) immutable: bool,
    /// It must never be used stale (RFC 9111, section 4.2.4).
    pub(super) never_stale: bool,
    /// It is known not to redirect to itself. Versions with separate schemes did not store this.
    pub(super) no_circle: bool,
    /// Its validators must not be used: a validation with them was answered with a 304 about another response.
    pub(super) unmatched: bool,
    /// It needs no choice or check on a hit: it is no redirect, not coded, and not to be coded. Former versions did not store
    /// this.
    pub(super) plain: bool,
    /// Its entity tag is the cache's own, which the application does not know.
    pub(super) minted: bool,
    /// It may be sent in content codings of the cache's own.
    pub(super) encodable: bool,
    /// It answers several queries, and carries the tag of its path, by which a write to any of them reaches it.
    pub(super) answers_several: bool,
}

impl Traits {
    /// Whether the response's validators, if it has some, may be used in a validation.
    fn are_known_to_the_application(self) -> bool {
        !self.unmatched && !self.minted
    }

    const IMMUTABLE: u8 = 1;
    const NEVER_STALE: u8 = 2;
    const NO_CIRCLE: u8 = 4;
    const UNMATCHED: u8 = 8;
    const PLAIN: u8 = 16;
    const MINTED: u8 = 32;
    const ENCODABLE: u8 = weight::ENCODABLE;
    const ANSWERS_SEVERAL: u8 = 128;

    fn to_byte(self) -> u8 {
        let of = |is: bool, bit: u8| u8::from(is) * bit;
        of(self.immutable, Self::IMMUTABLE)
            | of(self.never_stale, Self::NEVER_STALE)
            | of(self.no_circle, Self::NO_CIRCLE)
            | of(self.unmatched, Self::UNMATCHED)
            | of(self.plain, Self::PLAIN)
            | of(self.minted, Self::MINTED)
            | of(self.encodable, Self::ENCODABLE)
            | of(self.answers_several, Self::ANSWERS_SEVERAL)
    }

    fn from_byte(byte: u8) -> Self {
        let is = |bit: u8| byte & bit != 0;
        Self {
            immutable: is(Self::IMMUTABLE),
            never_stale: is(Self::NEVER_STALE),
            no_circle: is(Self::NO_CIRCLE),
            unmatched: is(Self::UNMATCHED),
            plain: is(Self::PLAIN),
            minted: is(Self::MINTED),
            encodable: is(Self::ENCODABLE),
            answers_several: is(Self::ANSWERS_SEVERAL),
        }
    }
}

impl StoredResponse {
    /// Whether the response can be validated.
    pub(super) fn can_be_validated(&self) -> bool {
        has_validator(&self.headers) && self.info.traits.are_known_to_the_application()
    }
}

impl StoredInfo {
    /// The age, in seconds (RFC 9111, section 4.2.3). It is never less than on arrival, even if this clock is behind the
    /// writer's.
    pub(super) fn age(&self, now: u64) -> u64 {
        self.initial_age + self.resident(now)
    }

    /// The seconds since the response was received.
    pub(super) fn resident(&self, now: u64) -> u64 {
        now.saturating_sub(self.response_time) / 1000
    }

    /// The metadata of an entry for the response with these `fields`. Lines of one field are adjacent.
    pub(super) fn with_fields<'f>(&self, fields: impl Iterator<Item = (&'f HeaderName, &'f HeaderValue)>) -> Vec<u8> {
        let mut out = Vec::with_capacity(METADATA);
        out.put_u8(weight::RESPONSE);
        out.put_u16(self.status.as_u16());
        out.put_u8(self.traits.to_byte());
        out.put_u64(self.response_time);
        out.put_u64(self.initial_age);
        out.put_u64(self.stale_if_disconnected);
        out.put_slice(&self.parent.unwrap_or(NO_PARENT).0);
        for (name, value) in fields {
            let (name, value) = (name.as_str().as_bytes(), value.as_bytes());
            // Header names are below 64 KiB by their type, and values by every server's limit.
            out.put_u16(name.len() as u16);
            out.put_slice(name);
            out.put_u32(value.len() as u32);
            out.put_slice(value);
        }
        out
    }
}

impl Stored {
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Varies(varies) => [&b"V"[..], &varies.variants.to_be_bytes(), &varies.fields.to_bytes()].concat(),
            Self::Response(response) => response.info.with_fields(response.headers.iter()),
        }
    }

    /// Reads the format of [`to_bytes`](Self::to_bytes). Values are slices of `bytes`.
    pub(super) fn from_bytes(bytes: &Bytes) -> Option<Self> {
        let mut rest = &bytes[..];
        match take(&mut rest, 1)?[0] {
            b'V' => {
                let variants = u16::from_be_bytes(array(&mut rest)?);
                VaryFields::from_bytes(rest).map(|fields| Self::Varies(StoredVaries { fields, variants }))
            }
            weight::RESPONSE => {
                let status = StatusCode::from_u16(u16::from_be_bytes(array(&mut rest)?)).ok()?;
                let traits = Traits::from_byte(take(&mut rest, 1)?[0]);
                let response_time = u64::from_be_bytes(array(&mut rest)?);
                let initial_age = u64::from_be_bytes(array(&mut rest)?).min(u64::from(u32::MAX));
                let stale_if_disconnected = u64::from_be_bytes(array(&mut rest)?);
                let parent = Some(EntryId(array(&mut rest)?)).filter(|parent| *parent != NO_PARENT);
                let (mut headers, mut shapes) = (HeaderMap::with_capacity(FIELDS), Shapes::default());
                while !rest.is_empty() {
                    let length = u16::from_be_bytes(array(&mut rest)?);
                    let name = name_of(take(&mut rest, usize::from(length))?)?;
                    shapes.add(&name);
                    let length = u32::from_be_bytes(array(&mut rest)?);
                    let value = bytes.slice_ref(take(&mut rest, usize::try_from(length).ok()?)?);
                    headers.try_append(name, HeaderValue::from_maybe_shared(value).ok()?).ok()?;
                }
                if headers.len() > MOST_READ {
                    return None;
                }
                let info = StoredInfo { status, response_time, initial_age, stale_if_disconnected, traits, parent };
                Some(Self::Response(StoredResponse { headers, info, shapes, coded: None }))
            }
            _ => None,
        }
    }
}

/// The field with this name. Frequent names are recognized without parsing.
fn name_of(name: &[u8]) -> Option<HeaderName> {
    Some(match name {
        b"content-type" => CONTENT_TYPE,
        b"content-length" => CONTENT_LENGTH,
        b"cache-control" => CACHE_CONTROL,
        b"etag" => ETAG,
        b"date" => DATE,
        b"vary" => VARY,
        b"last-modified" => LAST_MODIFIED,
        b"content-encoding" => CONTENT_ENCODING,
        _ => return HeaderName::from_bytes(name).ok(),
    })
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    rest.split_off(..length)
}

fn array<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    take(rest, N)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use http::header;
    use proptest::prelude::*;

    use super::*;
    use crate::semantics::vary::Vary;

    fn response() -> StoredResponse {
        let mut headers = HeaderMap::new();
        headers.append(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        headers.append("x-twice", HeaderValue::from_static("one"));
        headers.append("x-twice", HeaderValue::from_static("two"));
        headers.append("x-raw", HeaderValue::from_bytes(b"caf\xe9").unwrap());
        headers.append("x-empty", HeaderValue::from_static(""));
        let info = StoredInfo {
            status: StatusCode::OK,
            response_time: 1_800_000_000_000,
            initial_age: 7,
            stale_if_disconnected: 1_800_000_060_000,
            traits: Traits {
                immutable: true,
                no_circle: true,
                unmatched: true,
                minted: true,
                encodable: true,
                answers_several: true,
                ..Traits::default()
            },
            parent: Some(EntryId([9; 16])),
        };
        let shapes = Shapes::of(headers.keys());
        StoredResponse { headers, info, shapes, coded: None }
    }

    #[test]
    fn field_lines_are_kept_to_the_byte_with_duplicates_in_order() {
        let stored = Stored::Response(response());
        assert_eq!(Stored::from_bytes(&stored.to_bytes().into()), Some(stored));
    }

    #[test]
    fn a_name_that_is_known_is_what_it_would_be_read_as() {
        for name in [
            "content-type",
            "content-length",
            "cache-control",
            "etag",
            "date",
            "vary",
            "last-modified",
            "content-encoding",
            "x-other",
        ] {
            assert_eq!(name_of(name.as_bytes()), HeaderName::from_bytes(name.as_bytes()).ok());
        }
        assert_eq!(name_of(b"not a name"), None);
    }

    #[test]
    fn the_fields_that_select_a_variant_are_kept() {
        let mut headers = HeaderMap::new();
        headers.insert(header::VARY, HeaderValue::from_static("Accept-Language, X-Region"));
        let Some(Vary::Fields(fields)) = Vary::from_headers(&headers) else { panic!("it varies") };
        let stored = Stored::Varies(StoredVaries { fields, variants: 3 });
        assert_eq!(Stored::from_bytes(&stored.to_bytes().into()), Some(stored));
    }

    #[test]
    fn every_truncation_is_nothing_or_fewer_fields_but_no_panic() {
        let whole = Bytes::from(Stored::Response(response()).to_bytes());
        for length in 0..whole.len() {
            assert_ne!(Stored::from_bytes(&whole.slice(..length)), Some(Stored::Response(response())));
        }
    }

    #[test]
    fn a_response_has_no_more_fields_than_answers_can_have() {
        let of = |count: usize| {
            let mut headers = HeaderMap::new();
            for number in 0..count {
                headers.insert(HeaderName::try_from(format!("x-{number}")).unwrap(), HeaderValue::from_static(""));
            }
            Bytes::from(response().info.with_fields(headers.iter()))
        };
        assert!(Stored::from_bytes(&of(MOST_FIELDS)).is_some());
        for count in [MOST_READ + 1, 24_573, 24_576] {
            assert_eq!(Stored::from_bytes(&of(count)), None, "{count}");
        }
    }

    #[test]
    fn a_clock_that_is_behind_makes_no_response_younger() {
        assert_eq!(response().info.age(1_700_000_000_000), 7);
        assert_eq!(response().info.age(1_800_000_003_999), 10);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(kind in prop::sample::select(b"RVx".to_vec()), mut bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            bytes.insert(0, kind);
            let _ = Stored::from_bytes(&bytes.into());
        }
    }
}
