//! Spans of time as cache fields spell them (RFC 9111, section 1.2.2).

/// A `delta-seconds` that a sender stated, valid or not.
///
/// An invalid value is kept apart from an absent one: the sender did mean to limit reuse, so the limit
/// counts as already reached. It orders below every valid value for the same reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum DeltaSeconds {
    /// Negative, fractional, not a number, or missing.
    Invalid,
    /// Whole seconds, at most [`DeltaSeconds::MAX`].
    Seconds(u64),
}

impl DeltaSeconds {
    /// Where larger values saturate: RFC 9111 asks for 2^31, about 68 years.
    pub(crate) const MAX: u64 = 1 << 31;

    /// Reads `1*DIGIT`.
    pub(crate) fn parse(value: &[u8]) -> Self {
        if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
            return Self::Invalid;
        }
        let seconds =
            value.iter().fold(0_u64, |seconds, digit| (seconds * 10 + u64::from(digit - b'0')).min(Self::MAX));
        Self::Seconds(seconds)
    }

    /// The seconds of a valid value.
    pub(crate) fn seconds(self) -> Option<u64> {
        match self {
            Self::Invalid => None,
            Self::Seconds(seconds) => Some(seconds),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::DeltaSeconds::{self, Invalid, Seconds};

    #[test]
    fn only_digits_are_valid_and_large_values_saturate() {
        for (value, expected) in [
            ("0", Seconds(0)),
            ("3600", Seconds(3600)),
            ("003600", Seconds(3600)),
            ("2147483647", Seconds(2_147_483_647)),
            ("2147483648", Seconds(DeltaSeconds::MAX)),
            ("2147483649", Seconds(DeltaSeconds::MAX)),
            ("99999999999", Seconds(DeltaSeconds::MAX)),
            ("99999999999999999999999999999999", Seconds(DeltaSeconds::MAX)),
            ("", Invalid),
            ("-3600", Invalid),
            ("+3600", Invalid),
            ("3600.0", Invalid),
            ("a3600", Invalid),
            ("3600a", Invalid),
            ("'3600'", Invalid),
            (" 3600", Invalid),
        ] {
            assert_eq!(DeltaSeconds::parse(value.as_bytes()), expected, "{value:?}");
        }
    }

    #[test]
    fn an_invalid_value_is_the_most_restrictive() {
        assert!(Invalid < Seconds(0));
    }

    proptest! {
        #[test]
        fn any_number_is_read_or_saturated(number: u64) {
            let parsed = DeltaSeconds::parse(number.to_string().as_bytes());
            prop_assert_eq!(parsed, Seconds(number.min(DeltaSeconds::MAX)));
        }
    }
}
