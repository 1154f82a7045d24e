//! The weight of an entry, by which stores are bounded: the memory that is allocated for it, which is more than its bytes.
//!
//! Hits are answered from a parsed form of the metadata, made at the first hit and kept. For a response it is a map of header
//! fields, in which a short field takes many times its length. It is counted from the start, so that a full store does not
//! exceed its bound once its entries are read.

use super::{
    codings::Codings,
    contents::{Contents, Entry},
};
use crate::{key::KeyHash, tag::TagStamp};

/// The first byte of a response's metadata, which has field lines: length of the name (2), name, length of the
/// value (4), value. Lines of one field are adjacent.
pub(crate) const RESPONSE: u8 = b'R';
pub(crate) const FIELDS_AT: usize = 44;
/// The position of a response's traits, and the one that says that it may be sent in codings.
const TRAITS_AT: usize = 3;
pub(crate) const ENCODABLE: u8 = 64;

/// The overhead of an allocation: the allocator's own data, and rounding.
const ALLOCATION: usize = 16;
/// The counters of what is shared.
const COUNTERS: usize = 16;
/// What a shared buffer has beside its bytes.
const BUFFER: usize = 24 + 2 * ALLOCATION;

/// What the fields of a representation take that differ in a coding: an entity tag and a length, in a box, and their text.
const CODED_FIELDS: usize = 96 + ALLOCATION + BUFFER + 40;

impl Entry {
    /// Bytes of memory that this entry takes, near enough to bound a store by.
    pub(crate) fn weight(&self) -> usize {
        // The slots of a store grow with it, by doubling, and some are of entries that have left.
        const SLOT: usize = 2 * (size_of::<KeyHash>() + 96);
        const ENTRY: usize = SLOT + COUNTERS + size_of::<Contents>() + ALLOCATION + BUFFER;
        let contents = &*self.contents;
        let beside = if contents.held.beside > 0 { contents.held.beside + 2 * BUFFER } else { 0 };
        let tags = |stamp: &TagStamp| size_of::<TagStamp>() + COUNTERS + stamp.tag.len() + ALLOCATION;
        let stamps: usize = contents.stamps.iter().map(tags).sum();
        let codings = contents.codings.as_ref().map_or(0, |codings| {
            let (buffers, bytes) = codings.held();
            let fields = codings.made() * CODED_FIELDS;
            COUNTERS + size_of::<Codings>() + ALLOCATION + buffers * BUFFER + bytes + fields
        });
        ENTRY + contents.held.buffer + beside + stamps + codings + view(&contents.meta)
    }
}

/// What the reading of the metadata takes.
fn view(meta: &[u8]) -> usize {
    // A status, some moments, and the map itself.
    const HEAD: usize = COUNTERS + 192 + ALLOCATION;
    match meta.first() {
        Some(&RESPONSE) => {
            let is_encodable = meta.get(TRAITS_AT).is_some_and(|traits| traits & ENCODABLE != 0);
            let (more, fields) = if is_encodable { (2, 48 + ALLOCATION) } else { (0, 0) };
            HEAD + fields + meta.get(FIELDS_AT..).map_or(0, |lines| map(lines, more))
        }
        // Values are read anew for each hit.
        Some(b'T') => 0,
        // The names of fields.
        _ => HEAD + meta.split(|&byte| byte == b',').map(|name| FIELD_NAME + name_on_the_heap(name)).sum::<usize>(),
    }
}

const FIELD_NAME: usize = size_of::<http::HeaderName>();

/// What an `http::HeaderMap` takes that these lines were read into, with room for what the cache says for itself, and for so
/// many fields more.
fn map(mut lines: &[u8], room: usize) -> usize {
    /// Beside a name and its value, there are a hash and links to more values.
    const SLOT: usize = FIELD_NAME + size_of::<http::HeaderValue>() + 32;
    const MORE: usize = size_of::<http::HeaderValue>() + 32;
    const INDEX: usize = 4;
    const OWN: usize = 4;
    let (mut names, mut more, mut heap) = (OWN + room, 0_usize, 0);
    let mut last: &[u8] = b"";
    while let Some((name, rest)) = field(lines) {
        lines = rest;
        if name == last {
            more += 1;
            continue;
        }
        last = name;
        names += 1;
        heap += name_on_the_heap(name);
    }
    // At most three quarters of a power of two are used; what there is more than one of is in a vector of its own.
    let indices = (names + names / 3).next_power_of_two().max(8);
    let more = if more > 0 { more * MORE + ALLOCATION } else { 0 };
    indices * INDEX + names * SLOT + 2 * ALLOCATION + more + heap
}

/// The name of the first of these lines, and the lines after it.
fn field(lines: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = lines.split_first_chunk::<2>()?;
    let (name, rest) = rest.split_at_checked(u16::from_be_bytes(*length).into())?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    Some((name, rest.get(u32::from_be_bytes(*length) as usize..)?))
}

/// What the name of a field takes beside its place: nothing if it is one of those that `http` has constants for, and
/// otherwise a buffer.
fn name_on_the_heap(name: &[u8]) -> usize {
    // By their length first: an entry that is stored is asked for each of its names.
    let has_constant = match name.len() {
        3 => matches!(name, b"via"),
        4 => matches!(name, b"date" | b"etag" | b"host" | b"link" | b"vary"),
        5 => matches!(name, b"allow"),
        6 => matches!(name, b"accept" | b"cookie" | b"origin" | b"pragma" | b"server"),
        7 => matches!(name, b"alt-svc" | b"expires" | b"referer" | b"warning"),
        8 => matches!(name, b"location"),
        10 => matches!(name, b"set-cookie" | b"user-agent"),
        11 => matches!(name, b"retry-after"),
        12 => matches!(name, b"content-type"),
        13 => matches!(name, b"accept-ranges" | b"cache-control" | b"content-range" | b"last-modified"),
        14 => matches!(name, b"accept-charset" | b"content-length"),
        15 => matches!(name, b"accept-encoding" | b"accept-language" | b"referrer-policy" | b"x-frame-options"),
        16 => matches!(
            name,
            b"content-encoding" | b"content-language" | b"content-location" | b"www-authenticate" | b"x-xss-protection"
        ),
        19 => matches!(name, b"content-disposition"),
        22 => matches!(name, b"access-control-max-age" | b"x-content-type-options" | b"x-dns-prefetch-control"),
        23 => matches!(name, b"content-security-policy"),
        25 => matches!(name, b"strict-transport-security"),
        27 => matches!(name, b"access-control-allow-origin"),
        28 => matches!(name, b"access-control-allow-headers" | b"access-control-allow-methods"),
        29 => matches!(name, b"access-control-expose-headers"),
        32 => matches!(name, b"access-control-allow-credentials"),
        35 => matches!(name, b"content-security-policy-report-only"),
        _ => false,
    };
    if has_constant { 0 } else { name.len() + BUFFER }
}

#[cfg(all(test, feature = "memory"))]
mod tests {
    use super::*;

    fn lines(fields: &[(&str, &str)]) -> Vec<u8> {
        let mut lines = Vec::new();
        for (name, value) in fields {
            lines.extend_from_slice(&(name.len() as u16).to_be_bytes());
            lines.extend_from_slice(name.as_bytes());
            lines.extend_from_slice(&(value.len() as u32).to_be_bytes());
            lines.extend_from_slice(value.as_bytes());
        }
        lines
    }

    #[test]
    fn names_without_a_buffer_are_those_that_have_a_constant() {
        let names = [
            "via",
            "etag",
            "allow",
            "cookie",
            "expires",
            "location",
            "set-cookie",
            "user-agent",
            "retry-after",
            "content-type",
            "accept-ranges",
            "cache-control",
            "last-modified",
            "content-length",
            "referrer-policy",
            "x-xss-protection",
            "content-encoding",
            "content-disposition",
            "access-control-max-age",
            "content-security-policy",
            "strict-transport-security",
            "access-control-allow-origin",
            "access-control-allow-headers",
            "access-control-expose-headers",
            "access-control-allow-credentials",
            "content-security-policy-report-only",
        ];
        for name in names {
            // Two readings of such a name are one text.
            let [one, other] = [(); 2].map(|()| http::HeaderName::from_bytes(name.as_bytes()).unwrap());
            assert_eq!(one.as_str().as_ptr(), other.as_str().as_ptr(), "{name}");
            assert_eq!(name_on_the_heap(name.as_bytes()), 0, "{name}");
        }
        assert!(name_on_the_heap(b"x-request-id") > 12);
    }

    #[test]
    fn a_field_counts_by_its_place_and_not_by_its_length() {
        let names: Vec<String> = (0..90).map(|number| format!("x-{number}")).collect();
        let many: Vec<_> = names.iter().map(|name| (name.as_str(), "v")).collect();
        assert!((12_000..24_000).contains(&map(&lines(&many), 0)), "{}", map(&lines(&many), 0));
        let same: Vec<_> = (0..90).map(|_| ("link", "v")).collect();
        assert!((6_000..12_000).contains(&map(&lines(&same), 0)), "{}", map(&lines(&same), 0));
        assert!(map(&lines(&[("etag", "v")]), 0) < map(&lines(&[("x-tag", "v")]), 0));
    }

    #[test]
    fn lines_that_are_cut_off_are_counted_as_far_as_they_go() {
        let whole = lines(&[("x-one", "1"), ("x-two", "2")]);
        for length in 0..whole.len() {
            assert!(map(&whole[..length], 0) <= map(&whole, 0), "{length}");
        }
    }
}
