//! Hexadecimal digits, in lower case.

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// The two digits of a byte.
pub(crate) fn of_byte(byte: u8) -> [u8; 2] {
    [byte >> 4, byte & 15].map(|digit| DIGITS[usize::from(digit)])
}

/// The 16 digits of a number, which sort as the number does.
pub(crate) fn of_u64(number: u64) -> [u8; 16] {
    std::array::from_fn(|i| DIGITS[(number >> (60 - 4 * i)) as usize & 15])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_its_two_digits() {
        for byte in 0..=u8::MAX {
            assert_eq!(of_byte(byte), format!("{byte:02x}").as_bytes());
        }
    }

    #[test]
    fn digits_sort_as_the_number() {
        assert_eq!(&of_u64(0x1f), b"000000000000001f");
        assert!(of_u64(9) < of_u64(10) && of_u64(u64::MAX - 1) < of_u64(u64::MAX));
    }
}
