//! `br` (RFC 7932).

use brotli::enc::BrotliEncoderParams;

/// The highest quality that does not cost many times as much as the other codings.
pub(super) const QUALITY: i32 = 5;
/// Bits of the window: as many as the content needs, within the limits that every decoder supports.
const WINDOW: std::ops::RangeInclusive<u32> = 10..=22;
/// At these qualities and a window below 17 bits, the encoder takes the hash tables of quality 9, which are 32 MiB: texts of 4 to
/// 40 KiB took some twenty times as long. Sources and pages are as short without them, within two hundredths; lists of much the
/// same JSON are up to eight hundredths longer.
const HASHED: std::ops::RangeInclusive<i32> = 5..=8;
const LEAST_HASHED_WINDOW: u32 = 17;

pub(super) fn compress(content: &[u8], quality: i32) -> Option<Vec<u8>> {
    let least = if HASHED.contains(&quality) { LEAST_HASHED_WINDOW } else { *WINDOW.start() };
    let window = (usize::BITS - content.len().leading_zeros()).clamp(least, *WINDOW.end());
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
