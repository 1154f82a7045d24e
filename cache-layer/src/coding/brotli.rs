//! `br`, as RFC 7932 has it.

use brotli::enc::BrotliEncoderParams;

/// The highest that costs not many times what the other codings do.
pub(super) const QUALITY: i32 = 5;
/// Bits of the window: as many as the content has, within what every decoder has.
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
