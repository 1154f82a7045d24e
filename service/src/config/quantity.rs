//! Amounts with their units, as people write them: times, sizes, counts.

use std::{ops::RangeInclusive, time::Duration};

const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// A time: `250ms`, `30s`, `5m`, `1h`, `1d`, or plain seconds.
pub(super) fn time(text: &str) -> Result<Duration, String> {
    let (number, unit) = split_unit(text);
    let milliseconds: Option<u64> = match unit {
        "ms" => Some(1),
        "" | "s" => Some(1_000),
        "m" => Some(60_000),
        "h" => Some(3_600_000),
        "d" => Some(86_400_000),
        _ => None,
    };
    number
        .parse::<u64>()
        .ok()
        .zip(milliseconds)
        .and_then(|(number, unit)| number.checked_mul(unit))
        .map(Duration::from_millis)
        .filter(|time| *time <= YEAR)
        .ok_or_else(|| "must be a time of at most a year, such as 250ms, 30s, 5m, 1h, or plain seconds".to_owned())
}

/// A time that may not be zero.
pub(super) fn positive_time(text: &str) -> Result<Duration, String> {
    match time(text)? {
        Duration::ZERO => Err("must be more than 0".to_owned()),
        time => Ok(time),
    }
}

/// A share of something, from 0 to 1.
pub(super) fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| "must be a number from 0 to 1, such as 0.001".to_owned())
}

/// A number of bytes: `512KiB`, `64MiB`, `1GiB`, `10MB`, plain bytes, or as Kubernetes writes it, `64Mi`.
pub(super) fn bytes(text: &str) -> Result<u64, String> {
    let (number, unit) = split_unit(text);
    let unit: Option<u64> = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => Some(1),
        "kb" => Some(1_000),
        "mb" => Some(1_000_000),
        "gb" => Some(1_000_000_000),
        "ki" | "kib" => Some(1 << 10),
        "mi" | "mib" => Some(1 << 20),
        "gi" | "gib" => Some(1 << 30),
        _ => None,
    };
    number
        .parse::<u64>()
        .ok()
        .zip(unit)
        .and_then(|(number, unit)| number.checked_mul(unit))
        .filter(|bytes| (1..=1 << 40).contains(bytes))
        .ok_or_else(|| "must be a size of 1 byte to 1024GiB, such as 512KiB, 64MiB, 1GiB, or plain bytes".to_owned())
}

/// A number of bytes, or 0 for none.
pub(super) fn bytes_or_none(text: &str) -> Result<u64, String> {
    if text == "0" { Ok(0) } else { bytes(text).map_err(|why| format!("{why}, or 0")) }
}

/// A whole number within `allowed`.
pub(super) fn count(text: &str, allowed: RangeInclusive<u32>) -> Result<u32, String> {
    text.parse()
        .ok()
        .filter(|count| allowed.contains(count))
        .ok_or_else(|| format!("must be a whole number from {} to {}", allowed.start(), allowed.end()))
}

fn split_unit(text: &str) -> (&str, &str) {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    text.split_at(digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        for (text, milliseconds) in [
            ("300", 300_000),
            ("300s", 300_000),
            ("5m", 300_000),
            ("250ms", 250),
            ("2h", 7_200_000),
            ("365d", 31_536_000_000),
            ("0", 0),
        ] {
            assert_eq!(time(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for wrong in ["", "s", "-1", "1.5s", "5 m", "5min", "366d", "99999999999999999999", "1é"] {
            assert!(time(wrong).is_err(), "{wrong}");
        }
        assert!(positive_time("0ms").is_err());
    }

    #[test]
    fn sizes_have_units() {
        for (text, size) in [
            ("1048576", 1 << 20),
            ("64MiB", 64 << 20),
            ("64mib", 64 << 20),
            ("64Mi", 64 << 20),
            ("1GiB", 1 << 30),
            ("10MB", 10_000_000),
            ("512KiB", 512 << 10),
            ("7B", 7),
        ] {
            assert_eq!(bytes(text), Ok(size), "{text}");
        }
        for wrong in ["", "0", "64 MiB", "-1", "64M", "1025GiB", "18446744073709551616"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn counts_have_bounds() {
        assert_eq!(count("1", 1..=64), Ok(1));
        assert_eq!(count("65", 1..=64).unwrap_err(), "must be a whole number from 1 to 64");
        assert!(count("0", 1..=64).is_err());
        assert!(count("five", 1..=64).is_err());
    }
}
