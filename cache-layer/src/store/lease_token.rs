//! The tokens of leases in a store that processes share: by them, people can tell which process holds a lease, and since when.
//!
//! A token is 8 hex digits of the process, 4 of the second in which it was made, and 4 that the process counts up. No process makes a
//! token twice, unless it takes 65,536 leases within one second.

use std::{
    sync::atomic::{AtomicU16, Ordering},
    time::Duration,
};

use super::{LeaseHolder, LeaseToken};
use crate::hex;

/// How far the clocks of two processes may differ, in seconds: a lease that is younger than now is new.
const SKEW: u16 = 60;

/// Makes the tokens of one process.
#[derive(Debug)]
pub(crate) struct LeaseTokens {
    process: u32,
    made: AtomicU16,
}

impl Default for LeaseTokens {
    fn default() -> Self {
        Self { process: fastrand::u32(1..), made: AtomicU16::new(fastrand::u16(..)) }
    }
}

impl LeaseTokens {
    /// Distinguishes this process from the others with the same store.
    pub(crate) fn process(&self) -> u32 {
        self.process
    }

    /// A token that no other lease has, made at `now`, in milliseconds since the Unix epoch.
    pub(crate) fn next(&self, now: u64) -> LeaseToken {
        let made = self.made.fetch_add(1, Ordering::Relaxed);
        hex::of_u64((u64::from(self.process) << 32) | (u64::from(second(now)) << 16) | u64::from(made))
    }

    /// What the value of a lease tells of its holder at `now`, in milliseconds since the Unix epoch.
    pub(crate) fn holder(&self, value: &[u8], now: u64) -> LeaseHolder {
        let Some(token) = value.get(..16).and_then(hex::parse) else { return LeaseHolder::default() };
        let [process, made] = [token >> 32, (token >> 16) & 0xffff].map(|part| u32::try_from(part).unwrap_or(0));
        let age = second(now).wrapping_sub(u16::try_from(made).unwrap_or(0));
        let age = if age > u16::MAX - SKEW { 0 } else { age };
        LeaseHolder {
            process: Some(process),
            is_here: process == self.process,
            age: Some(Duration::from_secs(age.into())),
            remaining: None,
        }
    }
}

/// The second of a time in milliseconds, as a token has it.
fn second(now: u64) -> u16 {
    u16::try_from((now / 1000) & 0xffff).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const NOW: u64 = 1_800_000_000_000;

    #[test]
    fn a_token_tells_its_process_and_its_age() {
        let (here, other) = (LeaseTokens::default(), LeaseTokens::default());
        let value = [&here.next(NOW)[..], b"0006512abcde0000i00000000000000"].concat();
        for (later, age) in [(0, 0), (65_000, 65), (65_000_000, 65_000)] {
            let held = here.holder(&value, NOW + later);
            assert_eq!((held.process, held.is_here), (Some(here.process()), true));
            assert_eq!(held.age, Some(Duration::from_secs(age)), "{later} ms later");
        }
        let elsewhere = other.holder(&value, NOW);
        assert_eq!((elsewhere.process, elsewhere.is_here), (Some(here.process()), false));
        assert_eq!(other.holder(&value, NOW - 2_000).age, Some(Duration::ZERO), "by a clock that is behind");
        assert_eq!(here.holder(b"of another program", NOW), LeaseHolder::default());
        assert_eq!(here.holder(b"", NOW), LeaseHolder::default());
    }

    #[test]
    fn no_token_is_made_twice_in_a_second() {
        let tokens = LeaseTokens::default();
        let made: HashSet<_> = (0..=u16::MAX).map(|_| tokens.next(NOW)).collect();
        assert_eq!(made.len(), 65_536);
    }
}
