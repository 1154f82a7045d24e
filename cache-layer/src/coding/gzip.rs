//! `gzip` (RFC 1952).

use std::{cell::Cell, io::Write as _};

use flate2::{Compression, Crc, write::DeflateEncoder};

/// For a page of 20 products, 3,709 bytes of JSON, level 1 makes 812 bytes, and level 6 makes 694 in a third more time.
pub(super) const LEVEL: u32 = 6;

thread_local! {
    // The last encoder of each thread, with its level: its tables take some 300 KiB, which would otherwise be allocated and cleared
    // for each response.
    static KEPT: Cell<Option<(u32, DeflateEncoder<Vec<u8>>)>> = const { Cell::new(None) };
}

pub(super) fn compress(content: &[u8], level: u32) -> Option<Vec<u8>> {
    // An encoder that fails is not kept.
    let kept = KEPT.take().filter(|(kept, _)| *kept == level);
    let (_, mut encoder) = kept.unwrap_or_else(|| (level, DeflateEncoder::new(Vec::new(), Compression::new(level))));
    let coded = encoder.get_mut();
    coded.reserve(content.len() / 4);
    coded.extend_from_slice(&head(level));
    encoder.write_all(content).ok()?;
    let mut coded = encoder.reset(Vec::new()).ok()?;
    KEPT.set(Some((level, encoder)));
    let mut sum = Crc::new();
    sum.update(content);
    for number in [sum.sum(), sum.amount()] {
        coded.extend_from_slice(&number.to_le_bytes());
    }
    Some(coded)
}

/// The head of a member without a name, a date or a system.
fn head(level: u32) -> [u8; 10] {
    let effort = match level {
        9.. => 2,
        ..=1 => 4,
        _ => 0,
    };
    [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, effort, 255]
}

#[cfg(test)]
mod tests {
    use flate2::write::GzEncoder;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Also after other content, and at other levels: one entity tag identifies one sequence of bytes.
        #[test]
        fn an_encoder_that_was_used_before_writes_what_a_new_one_writes(
            contents in prop::collection::vec((prop::collection::vec("[a-f]{1,9}", 0..300), prop::collection::vec(any::<u8>(), 0..300)), 1..5),
            level in 1..=9_u32,
        ) {
            for (words, noise) in contents {
                let content = [words.join(" ").into_bytes(), noise].concat();
                for level in [level, LEVEL, LEVEL] {
                    let mut new = GzEncoder::new(Vec::new(), Compression::new(level));
                    new.write_all(&content).unwrap();
                    prop_assert_eq!(compress(&content, level), new.finish().ok(), "{}", level);
                }
            }
        }
    }
}
