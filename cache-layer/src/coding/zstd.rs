//! `zstd` (RFC 8878).

use std::cell::RefCell;

use zstd::bulk::Compressor;

/// For a page of 20 products, 3,709 bytes of JSON, level 1 makes 742 bytes, 3 makes 716, and 5 to 9 make 645 at a third
/// of the speed (zlib at level 6: 678). See `benches/compression.rs`.
pub(super) const LEVEL: i32 = 3;

thread_local! {
    // Made once for each thread: making a compressor costs several times as much as compressing a page.
    static COMPRESSOR: RefCell<Option<Compressor<'static>>> = RefCell::new(Compressor::new(LEVEL).ok());
}

/// A frame that states the length of its content.
pub(crate) fn compress(content: &[u8]) -> Option<Vec<u8>> {
    COMPRESSOR.with_borrow_mut(|compressor| compressor.as_mut()?.compress(content).ok())
}

/// As [`compress`], at another level.
#[cfg(feature = "encode-zstd")]
pub(super) fn compress_at(content: &[u8], level: i32) -> Option<Vec<u8>> {
    zstd::bulk::compress(content, level).ok()
}

/// Appends the content of a frame to `whole`, if it has exactly this length.
#[cfg(feature = "redis")]
pub(crate) fn decompress(mut whole: Vec<u8>, frame: &[u8], length: usize) -> Option<Vec<u8>> {
    use std::io::Cursor;

    use zstd::bulk::Decompressor;

    thread_local! {
        static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = RefCell::new(Decompressor::new().ok());
    }

    let ahead = whole.len();
    whole.reserve_exact(length);
    let mut whole = Cursor::new(whole);
    whole.set_position(ahead as u64);
    let inflated = DECOMPRESSOR
        .with_borrow_mut(|decompressor| decompressor.as_mut()?.decompress_to_buffer(frame, &mut whole).ok())?;
    (inflated == length).then(|| whole.into_inner())
}
