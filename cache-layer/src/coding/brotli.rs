//! `br` (RFC 7932).

use brotli::enc::BrotliEncoderParams;

/// The highest quality that does not cost many times as much as the other codings.
pub(super) const QUALITY: i32 = 5;
/// Bits of the window: as many as the content needs, within the limits that every decoder supports.
const WINDOW: std::ops::RangeInclusive<u32> = 10..=22;

pub(super) fn compress(content: &[u8], quality: i32) -> Option<Vec<u8>> {
    let window = (usize::BITS - content.len().leading_zeros()).clamp(*WINDOW.start(), *WINDOW.end());
    let params = BrotliEncoderParams {
        quality,
        lgwin: i32::try_from(window).ok()?,
        size_hint: content.len(),
        ..BrotliEncoderParams::default()
    };
    let mut coded = Vec::with_capacity(content.len() / 4);
    brotli::BrotliCompress(&mut &*content, &mut coded, &params).ok()?;
    Some(coded)
}
