//! Hexadecimal digits, in lower case.

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// The two digits of a byte.
pub(crate) fn of_byte(byte: u8) -> [u8; 2] {
    [byte >> 4, byte & 15].map(|digit| DIGITS[usize::from(digit)])
}

/// The 16 digits of a number, which sort as the number does. Eight digits are made in one step, because every lease needs some.
pub(crate) fn of_u64(number: u64) -> [u8; 16] {
    let mut digits = [0; 16];
    let (high, low) = digits.split_at_mut(8);
    high.copy_from_slice(&eight(number >> 32));
    low.copy_from_slice(&eight(number & 0xffff_ffff));
    digits
}

/// The digits of a number of 32 bits.
fn eight(number: u64) -> [u8; 8] {
    const EACH: u64 = u64::from_ne_bytes([1; 8]);
    // Split each lane into two, until every digit has a lane of its own.
    let number = (number | (number << 16)) & 0x0000_ffff_0000_ffff;
    let number = (number | (number << 8)) & 0x00ff_00ff_00ff_00ff;
    let number = (number | (number << 4)) & 0x0f0f_0f0f_0f0f_0f0f;
    // Put a one into the lane of each digit that is a letter.
    let letters = ((number + 6 * EACH) >> 4) & EACH;
    (number + u64::from(b'0') * EACH + u64::from(b'a' - b'9' - 1) * letters).to_be_bytes()
}

/// The number of up to 16 digits; `None` if they are not hexadecimal digits.
pub(crate) fn parse(digits: &[u8]) -> Option<u64> {
    let digit = |byte: &u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let push = |number: u64, byte: &u8| digit(byte).map(|digit| number << 4 | u64::from(digit));
    (1..=16).contains(&digits.len()).then(|| digits.iter().try_fold(0, push))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_read_as_they_are_written_and_nothing_else() {
        for number in [0, 7, 0x1f, u64::MAX] {
            assert_eq!(parse(&of_u64(number)), Some(number));
        }
        assert_eq!(parse(b"ff"), Some(255));
        for odd in [&b""[..], b"+1", b"A", b"g", b" 1", b"00000000000000000"] {
            assert_eq!(parse(odd), None, "{odd:?}");
        }
    }

    #[test]
    fn every_byte_has_its_two_digits() {
        for byte in 0..=u8::MAX {
            assert_eq!(of_byte(byte), format!("{byte:02x}").as_bytes());
        }
    }

    #[test]
    fn a_number_has_the_digits_of_its_bytes() {
        let numbers =
            (0..64).flat_map(|shift| [u64::MAX >> shift, 0x0123_4567_89ab_cdef_u64.rotate_left(shift), 1 << shift]);
        for number in numbers.chain([0]) {
            assert_eq!(of_u64(number), format!("{number:016x}").as_bytes());
        }
    }

    #[test]
    fn digits_sort_as_the_number() {
        assert_eq!(&of_u64(0x1f), b"000000000000001f");
        assert!(of_u64(9) < of_u64(10) && of_u64(u64::MAX - 1) < of_u64(u64::MAX));
    }
}
