//! Durations in readable form, such as `1m30s`.

use syn::{Error, LitStr, Result};

/// Milliseconds in each unit.
const UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// Milliseconds of `"60s"`, `"1m30s"` and the like, and of `"0s"` where zero means something.
pub(crate) fn milliseconds(text: &LitStr, may_be_zero: bool) -> Result<u64> {
    let wrong = |why: &str| {
        let value = text.value();
        Err(Error::new(
            text.span(),
            format!(
                "{value:?} {why}: write a number and a unit, such as \"500ms\", \"60s\", \"5m\", \"2h\", \"1d\" or \"1m30s\""
            ),
        ))
    };
    let value = text.value();
    let mut rest = value.as_str();
    let mut total = 0u64;
    loop {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (number, tail) = rest.split_at(digits);
        let letters = tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        let (Ok(number), Some((_, factor))) = (number.parse::<u64>(), UNITS.iter().find(|(name, _)| *name == unit))
        else {
            return wrong("is no duration");
        };
        match number.checked_mul(*factor).and_then(|part| total.checked_add(part)) {
            Some(sum) => total = sum,
            None => return wrong("is too long"),
        }
        rest = tail;
        if rest.is_empty() {
            break;
        }
    }
    if total == 0 && !may_be_zero { wrong("is no time at all") } else { Ok(total) }
}
