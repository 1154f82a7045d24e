//! The binary envelope of an entry outside this process, version 2 or 3. All numbers are big-endian.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 4 | magic `CLE` and the version, `0x02` or `0x03` |
//! | 4 | 4 | mark of the last soft invalidation of its key: seconds since the Unix epoch, rounded up; below 2^30, of a ramp: the second, since the beginning of 2026, of the key's turn; zero: none |
//! | 8 | 16 | entry id: fixed in place, so that a script can compare it |
//! | 24 | 8 | XXH3-64 of everything but these eight bytes, with the mark as zero |
//! | 32 | 40 | the five moments of its life, milliseconds since the Unix epoch: fresh until, usable while it is revalidated until, usable on errors until, made, gone |
//! | 72 | 4 | how long the load took, milliseconds |
//! | 76 | 4 | length of the canonical key |
//! | 80 | 2 | number of tags |
//! | 82 | 4 | length of the front end's metadata |
//! | 86 | 8 | how the payload is written, one byte, and its length, seven |
//! | 94 | … | canonical key; tags, each a 2-byte length, the tag, its 32-byte token; metadata; payload |
//!
//! Version 3 has 16 more bytes at its end: the hex digits of the youngest [ban](crate::ban) that its load knew of. An entry of
//! version 2 knew of no ban; it is written if there was none, so that earlier versions of this crate can read it.
//!
//! A script writes the mark in place; nothing else ever changes. A mark can only make an entry stale, so that a wrong one costs a
//! refresh.
//!
//! The payload is in one piece, so that a reply is sliced and not copied. The bytes are not trusted: an envelope that can't be
//! read is a [`Rejection`], a miss with a reason.

use std::{str, sync::Arc};

use bytes::{BufMut, Bytes, BytesMut};
use xxhash_rust::xxh3::{Xxh3Default, xxh3_64};

use super::{
    compression::{Compression, Written, decompressed, forms},
    contents::{Contents, Entry, Held},
    deadlines::Deadlines,
    version::{EntryId, SoftMark, Version},
};
use crate::{
    hex,
    key::Key,
    tag::{TagStamp, TagToken, Tags},
    telemetry::Rejection,
};

const MAGIC: &[u8; 3] = b"CLE";
const VERSION: u8 = 2;
/// With [`KNOWN`] more bytes.
const VERSION_KNOWING: u8 = 3;
const KNOWN: usize = 16;
#[cfg(any(fuzzing, test))]
pub(crate) const MAGIC_AND_VERSION: [u8; 4] = [MAGIC[0], MAGIC[1], MAGIC[2], VERSION];
pub(crate) const HEAD: usize = 94;
/// Where the lengths begin, which are the last part of the head.
#[cfg(any(fuzzing, test))]
pub(crate) const LENGTHS: usize = 76;
pub(crate) const MARK: std::ops::Range<usize> = 4..8;
/// The bits of a payload's length; the bits above say how the payload is written.
const LENGTH_BITS: u32 = 56;
const CHECKSUM: std::ops::Range<usize> = 24..32;
/// The longest envelope whose sum is taken in one piece.
const SUMMED_AT_ONCE: usize = 512;

/// The position and the bit that say that an entry is sealed.
pub(super) const SEALED: (usize, u8) = (86, 0x80);

#[cfg(any(test, fuzzing, feature = "unstable-parts"))]
pub(crate) fn encode(entry: &Entry) -> Bytes {
    encode_with(entry, Compression::default())
}

pub(crate) fn encode_with(entry: &Entry, compression: Compression) -> Bytes {
    let mut out = write(entry, compression);
    let sum = checksum(&out);
    out[CHECKSUM].copy_from_slice(&sum.to_be_bytes());
    out.freeze()
}

/// The envelope without its sum.
pub(super) fn write(entry: &Entry, compression: Compression) -> BytesMut {
    let contents = &*entry.contents;
    let (written, payload) = entry.written_payload(compression);
    let tags: usize = contents.stamps.iter().map(|stamp| 2 + stamp.tag.len() + TagToken::LENGTH).sum();
    let known = if contents.bans_known > 0 { KNOWN } else { 0 };
    let length = HEAD + contents.canonical.len() + tags + contents.meta.len() + payload.len() + known;
    let mut out = BytesMut::with_capacity(length);
    out.put_slice(MAGIC);
    out.put_u8(if known > 0 { VERSION_KNOWING } else { VERSION });
    out.put_u32(0);
    out.put_slice(&contents.id.0);
    out.put_u64(0);
    let Deadlines { made, fresh, stale_while_revalidate, stale_if_error, gone } = contents.deadlines;
    // Earlier versions wrote another moment in the place of `made`, the same as `gone`, which no reader used.
    for deadline in [fresh, stale_while_revalidate, stale_if_error, made, gone] {
        out.put_u64(deadline);
    }
    out.put_u32(contents.load_time);
    // Keys, tags and metadata come from request and response heads, far below these widths.
    out.put_u32(contents.canonical.len() as u32);
    out.put_u16(contents.stamps.len() as u16);
    out.put_u32(contents.meta.len() as u32);
    out.put_u64(u64::from(written.0) << LENGTH_BITS | payload.len() as u64);
    out.put_slice(&contents.canonical);
    for TagStamp { tag, token } in &contents.stamps {
        out.put_u16(tag.len() as u16);
        out.put_slice(tag.as_bytes());
        out.put_slice(&token.0);
    }
    out.put_slice(&contents.meta);
    out.put_slice(&payload);
    if known > 0 {
        out.put_slice(&hex::of_u64(contents.bans_known));
    }
    out
}

/// Reads the entry of `key` out of `bytes`.
pub(crate) fn decode(key: &Key, bytes: &Bytes) -> Result<Entry, Rejection> {
    check_version(bytes)?;
    let sum = bytes.get(CHECKSUM).and_then(|sum| sum.try_into().ok()).map(u64::from_be_bytes);
    let sum = sum.ok_or(Rejection::Truncated)?;
    if sum == 0 && bytes.get(SEALED.0).is_some_and(|coding| coding & SEALED.1 != 0) {
        return Err(Rejection::Seal);
    }
    if sum != checksum(bytes) {
        // An operator can do something about truncation, so it takes precedence.
        let is_short = bytes.len() < HEAD || least_length(bytes) > (bytes.len() - HEAD) as u64;
        return Err(if is_short { Rejection::Truncated } else { Rejection::Checksum });
    }
    read(key, bytes)
}

/// Whether the envelope has a known version.
pub(super) fn check_version(bytes: &[u8]) -> Result<(), Rejection> {
    if bytes.get(..3) != Some(&MAGIC[..]) {
        return Err(Rejection::Foreign);
    }
    if !matches!(bytes.get(3), Some(&(VERSION | VERSION_KNOWING))) {
        return Err(Rejection::Version);
    }
    Ok(())
}

/// The minimum number of bytes after a complete head.
pub(super) fn least_length(head: &[u8]) -> u64 {
    let number =
        |place: std::ops::Range<usize>| head[place].iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
    [number(76..80), number(82..86), number(87..94)].into_iter().fold(0, u64::saturating_add)
}

/// Reads the entry of `key` out of complete bytes.
pub(super) fn read(key: &Key, bytes: &Bytes) -> Result<Entry, Rejection> {
    if bytes.get(3) != Some(&VERSION_KNOWING) {
        return read_body(key, bytes);
    }
    let body = bytes.len().checked_sub(KNOWN).ok_or(Rejection::Truncated)?;
    let known = hex::parse(&bytes[body..]).ok_or(Rejection::Malformed)?;
    Ok(read_body(key, &bytes.slice(..body))?.knowing_bans(known))
}

fn read_body(key: &Key, bytes: &Bytes) -> Result<Entry, Rejection> {
    let mut reader = Reader { bytes, at: MARK.start };
    let mark = SoftMark(u32::from_be_bytes(reader.array()?));
    let id = EntryId(reader.array()?);
    reader.u64()?;
    let [fresh, stale_while_revalidate, stale_if_error, made, gone] =
        [reader.u64()?, reader.u64()?, reader.u64()?, reader.u64()?, reader.u64()?];
    // An entry is made before it is gone: other values are from earlier versions.
    let made = if made < gone { made } else { Deadlines::UNKNOWN };
    let deadlines = Deadlines { made, fresh, stale_while_revalidate, stale_if_error, gone };
    let load_time = u32::from_be_bytes(reader.array()?);
    let key_length = u64::from(u32::from_be_bytes(reader.array()?));
    let tag_count = usize::from(u16::from_be_bytes(reader.array()?));
    let meta_length = u64::from(u32::from_be_bytes(reader.array()?));
    let payload_length = reader.u64()?;
    let written = Written((payload_length >> LENGTH_BITS) as u8);
    let payload_length = payload_length & ((1 << LENGTH_BITS) - 1);
    let canonical = reader.slice(key_length)?;
    if canonical != *key.canonical() {
        return Err(Rejection::Key);
    }
    if tag_count > Tags::MAX + Tags::OWN + 1 {
        return Err(Rejection::Malformed);
    }
    // Not collected: a growing `Vec` keeps room for more, and the entry keeps the `Vec`.
    let mut stamps = Vec::with_capacity(tag_count);
    for _ in 0..tag_count {
        stamps.push(reader.stamp()?);
    }
    let meta = reader.slice(meta_length)?;
    let payload = reader.slice(payload_length)?;
    if reader.at != bytes.len() {
        return Err(Rejection::Malformed);
    }
    let (parts, codings) = if written == Written::FORMS {
        let (payload, codings) = forms::read(payload)?;
        ([canonical, meta, payload], Some(codings))
    } else {
        (decompressed(written, [canonical, meta, payload])?, None)
    };
    // A slice of the reply keeps the whole reply in memory.
    let buffer = if written.is_sliced() { bytes.len() } else { parts.iter().map(Bytes::len).sum() };
    let [canonical, meta, payload] = parts;
    let held = Held { buffer, beside: 0 };
    let contents =
        Contents { load_time, stamps, held, codings, ..Contents::new(id, canonical, deadlines, meta, payload) };
    Ok(Entry::of(contents).marked(mark, || key.id().turn()))
}

/// Bytes 4 to 23 of an entry of this version, for a script to compare.
pub(crate) fn version(Version { id, mark }: Version) -> [u8; 20] {
    let mut bytes = [0; 20];
    bytes[..4].copy_from_slice(&mark.0.to_be_bytes());
    bytes[4..].copy_from_slice(&id.0);
    bytes
}

/// The same bytes with their correct checksum.
#[cfg(any(test, fuzzing))]
pub(crate) fn summed(bytes: &Bytes) -> Bytes {
    let mut summed = bytes.to_vec();
    summed[CHECKSUM].copy_from_slice(&checksum(bytes).to_be_bytes());
    summed.into()
}

fn checksum(bytes: &[u8]) -> u64 {
    let before = &bytes[..MARK.start.min(bytes.len())];
    let between = &bytes[MARK.end.min(bytes.len())..CHECKSUM.start.min(bytes.len())];
    let behind = &bytes[CHECKSUM.end.min(bytes.len())..];
    let parts = [before, &[0; MARK.end - MARK.start], between, behind];
    // A short entry is copied together: that takes less time than to set up the state of a hash in parts.
    let mut buffer = [0; SUMMED_AT_ONCE];
    if bytes.len() <= buffer.len() {
        let length = parts.iter().fold(0, |length, part| {
            buffer[length..][..part.len()].copy_from_slice(part);
            length + part.len()
        });
        return xxh3_64(&buffer[..length]);
    }
    let mut hasher = Xxh3Default::new();
    parts.iter().for_each(|part| hasher.update(part));
    hasher.digest()
}

struct Reader<'a> {
    bytes: &'a Bytes,
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: u64) -> Result<&'a [u8], Rejection> {
        let length = usize::try_from(length).map_err(|_| Rejection::Truncated)?;
        let taken = self.bytes[self.at..].get(..length).ok_or(Rejection::Truncated)?;
        self.at += length;
        Ok(taken)
    }

    fn slice(&mut self, length: u64) -> Result<Bytes, Rejection> {
        self.take(length).map(|taken| self.bytes.slice_ref(taken))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Rejection> {
        self.take(N as u64).and_then(|taken| taken.try_into().map_err(|_| Rejection::Truncated))
    }

    fn stamp(&mut self) -> Result<TagStamp, Rejection> {
        let length = u16::from_be_bytes(self.array()?);
        let tag = str::from_utf8(self.take(u64::from(length))?).map_err(|_| Rejection::Malformed)?;
        // The empty tag, which stands for everything, needs no allocation.
        let tag = if tag.is_empty() { Arc::default() } else { Arc::from(tag) };
        Ok(TagStamp { tag, token: TagToken(self.array()?) })
    }

    fn u64(&mut self) -> Result<u64, Rejection> {
        self.array().map(u64::from_be_bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::entry::EntryHead;

    fn key() -> Key {
        Key::new(["http://", "example.org", "/products?page=2"])
    }

    fn entry() -> Entry {
        let deadlines = Deadlines {
            fresh: 1_800_000_000_000,
            stale_while_revalidate: 1_800_000_030_000,
            stale_if_error: 1_800_000_060_000,
            made: 1_800_000_090_000,
            gone: 1_800_000_120_000,
        };
        let (id, meta) = (EntryId(*b"0123456789abcdef"), b"meta".to_vec());
        EntryHead { key: key(), id, deadlines, meta, is_compressed: false }
            .loaded([Bytes::from("payload")].iter(), 1_234)
            .stamped(&[TagStamp { tag: "products".into(), token: TagToken(*b"00000000000000070123456789abcdec") }])
    }

    fn assert_same(left: &Entry, right: &Entry) {
        assert_eq!(left.id(), right.id());
        assert_eq!(left.deadlines(), right.deadlines());
        assert_eq!(left.load_time(), right.load_time());
        assert_eq!(left.stamps(), right.stamps());
        assert_eq!(left.meta(), right.meta());
        assert_eq!(left.payload(), right.payload());
    }

    #[test]
    fn a_sum_in_one_piece_is_the_sum_of_the_parts() {
        let bytes: Vec<u8> = (0..2 * SUMMED_AT_ONCE).map(|place| (place * 31 % 251) as u8).collect();
        for length in (HEAD..bytes.len()).step_by(7).chain(SUMMED_AT_ONCE - 2..SUMMED_AT_ONCE + 3) {
            let mut in_parts = Xxh3Default::new();
            in_parts.update(&bytes[..4]);
            in_parts.update(&[0; 4]);
            in_parts.update(&bytes[8..24]);
            in_parts.update(&bytes[32..length]);
            assert_eq!(checksum(&bytes[..length]), in_parts.digest(), "{length}");
        }
    }

    #[test]
    fn version_2_is_these_bytes_for_ever() {
        let golden = include_bytes!("../../fixtures/entry-v2.bin");
        assert_eq!(encode(&entry()), golden[..]);
        assert_same(&decode(&key(), &Bytes::from_static(golden)).unwrap(), &entry());
    }

    #[test]
    fn version_3_is_these_bytes_for_ever() {
        let golden = include_bytes!("../../fixtures/entry-v3.bin");
        let knowing = entry().knowing_bans(0x0006_48f1_a2b3_c4d5);
        assert_eq!(encode(&knowing), golden[..]);
        let read = decode(&key(), &Bytes::from_static(golden)).unwrap();
        assert_same(&read, &entry());
        assert_eq!(read.bans_known(), knowing.bans_known());
    }

    #[test]
    fn which_bans_it_knew_of_is_where_scripts_look_and_nothing_else_is_that() {
        let whole = encode(&entry().knowing_bans(7));
        // `GETRANGE key -16 -1`.
        assert_eq!(whole[whole.len() - 16..], hex::of_u64(7));
        for length in 0..whole.len() {
            assert!(decode(&key(), &whole.slice(..length)).is_err(), "{length}");
        }
        for bit in 32 * 8..whole.len() * 8 {
            let mut bytes = whole.to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&key(), &bytes.into()).is_err(), "{bit}");
        }
        let mut odd = whole.to_vec();
        *odd.last_mut().unwrap() = b'g';
        assert_eq!(decode(&key(), &summed(&odd.into())).unwrap_err(), Rejection::Malformed);
    }

    #[test]
    fn version_1_is_a_named_miss() {
        let golden = include_bytes!("../../fixtures/entry-v1.bin");
        assert_eq!(decode(&key(), &Bytes::from_static(golden)).unwrap_err(), Rejection::Version);
    }

    #[test]
    fn an_entry_of_before_it_was_said_when_it_was_made_is_from_no_future() {
        let mut bytes = encode(&entry()).to_vec();
        // Earlier versions never wrote a moment before the last one there.
        bytes.copy_within(64..72, 56);
        let read = decode(&key(), &summed(&bytes.into())).unwrap();
        assert_eq!(read.deadlines(), Deadlines { made: Deadlines::UNKNOWN, ..entry().deadlines() });
        assert!(!read.is_from_the_future(0));
    }

    #[test]
    fn the_payload_is_a_slice_of_the_reply() {
        let reply = encode(&entry());
        let payload = decode(&key(), &reply).unwrap().payload().clone();
        assert!(reply.as_ptr_range().contains(&payload.as_ptr()));
    }

    #[test]
    fn a_script_finds_the_id_where_it_looks() {
        // `GETRANGE key 8 23`, both ends included.
        assert_eq!(encode(&entry())[8..=23], entry().id().0);
        assert_eq!(encode(&entry())[4..=23], version(entry().version()));
        // And the canonical key, 76 to 79 its length.
        assert_eq!(encode(&entry())[76..80], (key().canonical().len() as u32).to_be_bytes());
        assert_eq!(encode(&entry())[94..94 + key().canonical().len()], *key().canonical());
    }

    #[test]
    fn every_truncation_is_a_named_miss() {
        let whole = encode(&entry());
        for length in 0..whole.len() {
            let rejection = decode(&key(), &whole.slice(..length)).unwrap_err();
            let expected: &[Rejection] = match length {
                0..3 => &[Rejection::Foreign],
                3 => &[Rejection::Version],
                _ => &[Rejection::Truncated, Rejection::Checksum],
            };
            assert!(expected.contains(&rejection), "{length}: {rejection:?}");
        }
    }

    #[test]
    fn every_bit_flip_is_a_named_miss_or_a_mark() {
        let whole = encode(&entry());
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole.to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            match decode(&key(), &bytes.into()) {
                Ok(entry) => {
                    let softened = entry.version().mark != SoftMark::default();
                    assert!(MARK.contains(&(bit / 8)) && softened, "bit {bit}");
                }
                Err(_) => assert!(!MARK.contains(&(bit / 8)), "bit {bit}"),
            }
        }
    }

    #[test]
    fn a_mark_that_is_written_in_place_makes_it_stale() {
        let mut bytes = encode(&entry()).to_vec();
        bytes[MARK].copy_from_slice(&1_799_999_990_u32.to_be_bytes());
        let marked = decode(&key(), &bytes.into()).unwrap();
        assert_eq!(marked.version().mark, SoftMark(1_799_999_990));
        assert_eq!(marked.deadlines().fresh, 1_799_999_990_000);
        assert_eq!(marked.deadlines().stale_while_revalidate, 1_800_000_020_000);
        assert_eq!(marked.id(), entry().id());
    }

    #[test]
    fn a_ramps_mark_makes_it_stale_from_the_turn_of_its_key_on() {
        let mut bytes = encode(&entry()).to_vec();
        let second = u32::try_from(1_799_999_990 - SoftMark::RAMP_EPOCH).unwrap();
        bytes[MARK].copy_from_slice(&second.to_be_bytes());
        let marked = decode(&key(), &bytes.into()).unwrap();
        assert!(!marked.is_soft_invalidated());
        assert!((1_799_999_990_000..1_799_999_991_000).contains(&marked.deadlines().fresh));
        assert!(marked.seen_at(|| 1_799_999_991_000).is_soft_invalidated());
    }

    #[test]
    fn another_keys_entry_is_a_named_miss() {
        let other = Key::new(["http://", "example.org", "/products?page=3"]);
        assert_eq!(decode(&other, &encode(&entry())).unwrap_err(), Rejection::Key);
        assert_eq!(decode(&key().variant(b"de"), &encode(&entry())).unwrap_err(), Rejection::Key);
    }

    #[test]
    fn an_unknown_version_is_a_named_miss() {
        let mut bytes = encode(&entry()).to_vec();
        bytes[3] = VERSION_KNOWING + 1;
        assert_eq!(decode(&key(), &bytes.into()).unwrap_err(), Rejection::Version);
    }

    #[test]
    fn bytes_after_the_payload_are_a_named_miss() {
        let mut bytes = encode(&entry()).to_vec();
        bytes.push(0);
        let sum = checksum(&bytes);
        bytes[CHECKSUM].copy_from_slice(&sum.to_be_bytes());
        assert_eq!(decode(&key(), &bytes.into()).unwrap_err(), Rejection::Malformed);
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(
            parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..4),
            deadlines in any::<[u64; 5]>(),
            load_time in any::<u32>(),
            tags in prop::collection::vec("[a-z:]{1,40}", 0..8),
            meta in prop::collection::vec(any::<u8>(), 0..200),
            payload in prop::collection::vec(any::<u8>(), 0..2_000),
        ) {
            let key = Key::new(parts);
            let [made, fresh, stale_while_revalidate, stale_if_error, gone] = deadlines;
            let made = made.min(gone.saturating_sub(1));
            let deadlines = Deadlines { made, fresh, stale_while_revalidate, stale_if_error, gone };
            let stamps: Vec<_> = tags.iter().map(|tag| TagStamp {
                tag: tag.as_str().into(),
                token: TagToken(*b"000000000000000a0123456789abcdei"),
            }).collect();
            let head = EntryHead { key: key.clone(), id: EntryId::random(), deadlines, meta, is_compressed: false };
            let entry = head.loaded([Bytes::from(payload)].iter(), load_time.into()).stamped(&stamps);
            assert_same(&decode(&key, &encode(&entry)).unwrap(), &entry);
        }

        #[test]
        fn no_bytes_make_it_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode(&key(), &bytes.clone().into());
            // Past the magic and the checksum, where a hostile writer would start.
            if bytes.len() >= HEAD {
                bytes[..4].copy_from_slice(b"CLE\x02");
                let sum = checksum(&bytes);
                bytes[CHECKSUM].copy_from_slice(&sum.to_be_bytes());
                let _ = decode(&key(), &bytes.into());
            }
        }
    }
}
