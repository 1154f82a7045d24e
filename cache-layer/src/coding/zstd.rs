//! `zstd` (RFC 8878).

use std::cell::RefCell;

use zstd::bulk::Compressor;

/// For a page of 20 products, 3,709 bytes of JSON, level 1 makes 742 bytes, 3 makes 716, and 5 to 9 make 645 at a third
/// of the speed (zlib at level 6: 678). See `benches/compression.rs`.
pub(crate) const LEVEL: i32 = 3;
/// The highest level at which each thread keeps its compressor: those of higher levels take many megabytes.
const HIGHEST_KEPT: i32 = 9;

thread_local! {
    // The compressor of each thread, with its level: making a compressor costs several times as much as compressing a page.
    static COMPRESSOR: RefCell<Option<(i32, Compressor<'static>)>> =
        RefCell::new(Compressor::new(LEVEL).ok().map(|compressor| (LEVEL, compressor)));
}

/// A frame that states the length of its content.
pub(crate) fn compress(content: &[u8], level: i32) -> Option<Vec<u8>> {
    if level > HIGHEST_KEPT {
        return zstd::bulk::compress(content, level).ok();
    }
    COMPRESSOR.with_borrow_mut(|kept| {
        let (kept_level, compressor) = kept.as_mut()?;
        if *kept_level != level {
            compressor.set_compression_level(level).ok()?;
            *kept_level = level;
        }
        compressor.compress(content).ok()
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compressor_of_another_level_writes_what_a_new_one_writes() {
        let page = (0..400_u32).map(|id| format!(r#"{{"id":{id},"price":{}}}"#, id * 37 % 500)).collect::<String>();
        for level in [3, 1, 9, 3, 19, 3, 2, 19, 9] {
            let new = zstd::bulk::compress(page.as_bytes(), level).unwrap();
            assert!(compress(page.as_bytes(), level).unwrap() == new, "{level}");
        }
    }
}
