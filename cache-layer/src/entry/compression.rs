//! Payloads as they are kept outside this process: what is large and shrinks is compressed, once, when it is written.

use bytes::Bytes;

use super::Entry;
use crate::telemetry::Rejection;

/// How a payload is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Coding(pub(super) u8);

impl Coding {
    const PLAIN: Self = Self(0);
    /// The length that it had, 8 bytes, and a zstd frame.
    #[cfg(feature = "zstd")]
    const ZSTD: Self = Self(1);

    pub(super) fn is_plain(self) -> bool {
        self == Self::PLAIN
    }
}

impl Entry {
    /// The payload, compressed if that is worth it.
    pub(super) fn coded_payload(&self) -> (Coding, Bytes) {
        #[cfg(feature = "zstd")]
        if let Some(frame) = (!self.made.packed).then(|| zstd::compress(self.payload())).flatten() {
            return (Coding::ZSTD, frame);
        }
        (Coding::PLAIN, self.payload().clone())
    }
}

/// A key, metadata and a payload as they were before they were written. Where the payload was compressed, they lie in one
/// buffer of their own: as slices, the first two would keep the frame in memory as well.
pub(super) fn unpacked(coding: Coding, parts: [Bytes; 3]) -> Result<[Bytes; 3], Rejection> {
    match coding {
        Coding::PLAIN => Ok(parts),
        #[cfg(feature = "zstd")]
        Coding::ZSTD => {
            let [canonical, meta, frame] = parts;
            let mut whole = zstd::decompress(&[&canonical, &meta], &frame).ok_or(Rejection::Malformed)?;
            Ok([whole.split_to(canonical.len()), whole.split_to(meta.len()), whole])
        }
        // By another version, or by one that was built with more features.
        _ => Err(Rejection::Version),
    }
}

#[cfg(feature = "zstd")]
mod zstd {
    use std::{cell::RefCell, io::Cursor};

    use ::zstd::bulk::{Compressor, Decompressor};
    use bytes::{BufMut as _, Bytes};

    /// Below, a round trip costs more than the bytes.
    pub(super) const THRESHOLD: usize = 1024;
    /// Of a page of 20 products, 3,709 bytes of JSON, level 1 makes 742 bytes, 3 makes 716, and 5 to 9 make 645 at a third
    /// of the speed (zlib's 6: 678). See `benches/compression.rs`.
    const LEVEL: i32 = 3;
    /// The most that a payload may have been. Who declares more is not believed.
    const MOST: u64 = 64 * 1024 * 1024;

    thread_local! {
        // Made once for each thread: making one costs several times what it then does for a page.
        static COMPRESSOR: RefCell<Option<Compressor<'static>>> = RefCell::new(Compressor::new(LEVEL).ok());
        static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = RefCell::new(Decompressor::new().ok());
    }

    pub(super) fn compress(payload: &[u8]) -> Option<Bytes> {
        if payload.len() < THRESHOLD || payload.len() as u64 > MOST {
            return None;
        }
        let frame = COMPRESSOR.with_borrow_mut(|compressor| compressor.as_mut()?.compress(payload).ok())?;
        // Not worth the work of every reader.
        if frame.len() + size_of::<u64>() > payload.len() / 8 * 7 {
            return None;
        }
        let mut coded = Vec::with_capacity(size_of::<u64>() + frame.len());
        coded.put_u64(payload.len() as u64);
        coded.put_slice(&frame);
        Some(coded.into())
    }

    /// What `head` and then the payload are, one after the other.
    pub(super) fn decompress(head: &[&[u8]], coded: &[u8]) -> Option<Bytes> {
        let (length, frame) = coded.split_first_chunk()?;
        let length = u64::from_be_bytes(*length);
        // Checked before anything is inflated, and then never inflated beyond.
        let length = usize::try_from(length).ok().filter(|_| length <= MOST)?;
        let ahead: usize = head.iter().map(|part| part.len()).sum();
        let mut whole = Vec::with_capacity(ahead + length);
        head.iter().for_each(|part| whole.extend_from_slice(part));
        let mut whole = Cursor::new(whole);
        whole.set_position(ahead as u64);
        let inflate = |decompressor: &mut Option<Decompressor<'_>>| {
            decompressor.as_mut()?.decompress_to_buffer(frame, &mut whole).ok()
        };
        let inflated = DECOMPRESSOR.with_borrow_mut(inflate)?;
        (inflated == length).then(|| whole.into_inner().into())
    }
}

#[cfg(all(test, feature = "zstd"))]
mod tests {
    use super::*;
    use crate::{
        entry::{Deadlines, EntryId, envelope},
        key::Key,
    };

    fn entry(payload: Vec<u8>) -> Entry {
        Entry::new(EntryId::random(), &Key::new(["k"]), Deadlines::fresh_until(0), Bytes::new(), payload.into())
    }

    /// A page of twenty products, as an API would answer it.
    fn page() -> Vec<u8> {
        let product = |id: u32| {
            format!(
                r#"{{"id":{id},"name":"Product {id}","description":"A product of the category {}, number {id}","price":"{}.{:02}","category":"{}","stock":{},"rating":{}.{},"currency":"EUR"}}"#,
                ["books", "clothing", "electronics"][id as usize % 3],
                5 + id * 37 % 500,
                id * 49 % 100,
                ["books", "clothing", "electronics"][id as usize % 3],
                id * 10,
                id % 5,
                id * 7 % 10,
            )
        };
        format!("[{}]", (1..=20).map(product).collect::<Vec<_>>().join(",")).into()
    }

    fn unpack(coding: Coding, payload: Vec<u8>) -> Result<[Bytes; 3], Rejection> {
        unpacked(coding, [Bytes::from_static(b"key"), Bytes::from_static(b"meta"), payload.into()])
    }

    fn read(envelope: &Bytes) -> Result<Entry, Rejection> {
        envelope::decode(&Key::new(["k"]), envelope)
    }

    #[test]
    fn a_page_of_products_shrinks_to_a_fifth_and_comes_back() {
        let page = entry(page());
        let written = envelope::encode(&page);
        assert!(page.payload().len() > 3_000);
        assert!(written.len() - 95 <= page.payload().len() / 5, "{} of {}", written.len(), page.payload().len());
        assert_eq!(read(&written).unwrap().payload(), page.payload());
    }

    #[test]
    fn what_is_small_packed_or_does_not_shrink_is_left_alone() {
        let noise = (0..4_000).map(|_| fastrand::u8(..)).collect();
        for entry in [entry(vec![b'x'; zstd::THRESHOLD - 1]), entry(vec![b'x'; 4_000]).packed(true), entry(noise)] {
            let written = envelope::encode(&entry);
            assert!(written.ends_with(entry.payload()));
            assert_eq!(read(&written).unwrap().payload(), entry.payload());
        }
    }

    #[test]
    fn nothing_of_the_frame_is_kept_with_what_was_in_it() {
        let written = envelope::encode(&entry(page()));
        let read = read(&written).unwrap();
        let (reply, [canonical, meta, payload]) =
            (written.as_ptr_range(), [&read.made.canonical, &read.made.meta, &read.made.payload]);
        assert_eq!([canonical.as_ptr_range().end, meta.as_ptr_range().end], [meta.as_ptr(), payload.as_ptr()]);
        assert!([canonical, meta, payload].iter().all(|part| !reply.contains(&part.as_ptr())));
    }

    #[test]
    fn a_bomb_is_a_miss() {
        let bomb = ::zstd::bulk::compress(&vec![0; 100 << 20], 1).unwrap();
        for declared in [100_u64 << 20, 1 << 20, 0, u64::MAX] {
            let coded: Vec<u8> = declared.to_be_bytes().into_iter().chain(bomb.iter().copied()).collect();
            assert_eq!(unpack(Coding::ZSTD, coded), Err(Rejection::Malformed), "{declared}");
        }
    }

    #[test]
    fn no_bytes_make_it_panic() {
        for length in 0..200 {
            let bytes: Vec<u8> = (0..length).map(|_| fastrand::u8(..)).collect();
            let _ = unpack(Coding::ZSTD, bytes);
        }
    }

    #[test]
    fn another_coding_is_a_named_miss() {
        assert_eq!(unpack(Coding(9), Vec::new()), Err(Rejection::Version));
    }
}
