//! Money: whole cents inside, a JSON number with two decimals outside, and no float in between.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use serde_json::value::RawValue;

/// An amount of money in whole cents, from 0.00 to [`Price::MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Price(i64);

impl Price {
    /// 99,999,999.99: far above any product, and exact in every JSON reader.
    pub(crate) const MAX: Self = Self(9_999_999_999);

    /// The price of `cents` hundredths, as the database keeps it.
    pub(crate) fn from_cents(cents: i64) -> Self {
        Self(cents.clamp(0, Self::MAX.0))
    }

    /// The amount in hundredths.
    pub(crate) fn cents(self) -> i64 {
        self.0
    }
}

/// Why a text is not a price.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PriceError {
    /// Not a number in plain decimal notation.
    NotDecimal,
    /// Below zero.
    Negative,
    /// Finer than a cent.
    TooPrecise,
    /// Above [`Price::MAX`].
    TooLarge,
}

impl fmt::Display for PriceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotDecimal => f.write_str("must be a number such as 19.99, without an exponent"),
            Self::Negative => f.write_str("must not be negative"),
            Self::TooPrecise => f.write_str("must have at most two decimals"),
            Self::TooLarge => write!(f, "must be at most {}", Price::MAX),
        }
    }
}

impl std::error::Error for PriceError {}

impl FromStr for Price {
    type Err = PriceError;

    fn from_str(text: &str) -> Result<Self, PriceError> {
        let (negative, amount) = match text.strip_prefix('-') {
            Some(amount) => (true, amount),
            None => (false, text),
        };
        let (whole, fraction) = amount.split_once('.').unwrap_or((amount, "0"));
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        if !digits(whole) || !digits(fraction) {
            return Err(PriceError::NotDecimal);
        }

        // 10.500 is the same number as 10.5.
        let fraction = fraction.trim_end_matches('0');
        if fraction.len() > 2 {
            return Err(PriceError::TooPrecise);
        }
        let cents = format!("{whole}{fraction:0<2}").parse().unwrap_or(i64::MAX);
        match cents {
            0 => Ok(Self(0)),
            _ if negative => Err(PriceError::Negative),
            _ if cents > Self::MAX.0 => Err(PriceError::TooLarge),
            _ => Ok(Self(cents)),
        }
    }
}

impl fmt::Display for Price {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:02}", self.0 / 100, self.0 % 100)
    }
}

impl Serialize for Price {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        RawValue::from_string(self.to_string()).map_err(serde::ser::Error::custom)?.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Price {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Box::<RawValue>::deserialize(deserializer)?.get().parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_are_read_exactly() {
        for (text, cents) in [
            ("19.99", 1999),
            ("0.29", 29),
            ("0", 0),
            ("-0", 0),
            ("7", 700),
            ("10.5", 1050),
            ("10.500", 1050),
            ("99999999.99", 9_999_999_999),
        ] {
            assert_eq!(text.parse::<Price>().ok().map(Price::cents), Some(cents), "{text}");
        }
    }

    #[test]
    fn what_is_no_price_is_refused_with_the_reason() {
        for (text, error) in [
            ("-1", PriceError::Negative),
            ("-0.01", PriceError::Negative),
            ("19.999", PriceError::TooPrecise),
            ("0.001", PriceError::TooPrecise),
            ("100000000", PriceError::TooLarge),
            ("99999999999999999999999999", PriceError::TooLarge),
            ("1e2", PriceError::NotDecimal),
            ("1E-2", PriceError::NotDecimal),
            ("\"19.99\"", PriceError::NotDecimal),
            ("null", PriceError::NotDecimal),
            ("1.", PriceError::NotDecimal),
            (".5", PriceError::NotDecimal),
            ("+1", PriceError::NotDecimal),
            ("", PriceError::NotDecimal),
        ] {
            assert_eq!(text.parse::<Price>(), Err(error), "{text}");
        }
    }

    #[test]
    fn json_always_has_two_decimals() {
        for (cents, json) in [(0, "0.00"), (5, "0.05"), (1050, "10.50"), (1999, "19.99"), (70000, "700.00")] {
            assert_eq!(serde_json::to_string(&Price(cents)).unwrap(), json);
        }
    }
}
