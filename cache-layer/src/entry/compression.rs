//! Payloads as they are kept outside this process: what is large and shrinks is compressed, once, when it is written.

use bytes::Bytes;

use super::contents::Entry;
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
        if let Some(frame) = (!self.contents.is_compressed).then(|| zstd::compress(self.payload())).flatten() {
            return (Coding::ZSTD, frame);
        }
        (Coding::PLAIN, self.payload().clone())
    }
}

/// A key, metadata and a payload as they were before they were written. Where the payload was compressed, they lie in one
/// buffer of their own: as slices, the first two would keep the frame in memory as well.
pub(super) fn decompressed(coding: Coding, parts: [Bytes; 3]) -> Result<[Bytes; 3], Rejection> {
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

/// Below, a round trip costs more than the bytes.
#[cfg(feature = "zstd")]
pub(super) const THRESHOLD: usize = 1024;

#[cfg(feature = "zstd")]
mod zstd {
    use std::{cell::RefCell, io::Cursor};

    use ::zstd::bulk::{Compressor, Decompressor};
    use bytes::{BufMut as _, Bytes};

    use super::THRESHOLD;

    /// Of a page of 20 products, 3,709 bytes of JSON, level 1 makes 742 bytes, 3 makes 716, and 5 to 9 make 645 at a third
    /// of the speed (zlib's 6: 678). See `benches/compression.rs`.
    const LEVEL: i32 = 3;
    /// The longest payload that a frame may declare; one that declares more is malformed.
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

    fn unpack(coding: Coding, payload: Vec<u8>) -> Result<[Bytes; 3], Rejection> {
        decompressed(coding, [Bytes::from_static(b"key"), Bytes::from_static(b"meta"), payload.into()])
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
