//! Back-off after failures, shared by all requests for a key: for a time that grows with each failure, requests that have another
//! answer don't ask the application.

use std::{
    collections::HashMap,
    sync::MutexGuard,
    time::{Duration, Instant},
};

use crate::{
    key::{Hashed, Key, KeyHash},
    sync::Mutex,
};

/// No back-off is longer, and no failure is remembered for longer, whatever is set, or a store says.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);
/// The most keys that are remembered at one time.
const CAP: usize = 10_000;
/// How long this process relies on its memory before it asks the store again, which knows if another process has invalidated the
/// key.
const TRUST: Duration = Duration::from_secs(1);

/// How long back-offs last: doubled with each failure from the first on, up to a longest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BackOff {
    first: Duration,
    longest: Duration,
}

impl BackOff {
    /// `None` if the first is zero. Neither is more than a day.
    pub(crate) fn new(first: Duration, longest: Duration) -> Option<Self> {
        let first = first.min(LONGEST);
        (!first.is_zero()).then_some(Self { first, longest: longest.clamp(first, LONGEST) })
    }

    /// The back-off after a failure that follows `failures` others; spread by a fifth, so that keys that failed together are not
    /// retried together.
    pub(crate) fn pause(self, failures: u32) -> Duration {
        let doubled = self.first.saturating_mul(2u32.saturating_pow(failures));
        doubled.min(self.longest).mul_f64(0.4f64.mul_add(fastrand::f64(), 0.8))
    }

    pub(crate) fn longest(self) -> Duration {
        self.longest
    }
}

/// A load that failed, and when to try again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RecentFailure {
    /// The status of the application's response; `None` if there was no response.
    pub(crate) status: Option<u16>,
    until: Instant,
}

impl RecentFailure {
    pub(crate) fn new(status: Option<u16>, remaining: Duration) -> Self {
        Self { status, until: Instant::now() + remaining.min(LONGEST) }
    }

    /// The rest of the back-off.
    pub(crate) fn remaining(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }
}

/// The failures that this process remembers, so that not every request has to ask the store.
#[derive(Debug, Default)]
pub(crate) struct RecentFailures(Mutex<HashMap<KeyHash, Remembered, Hashed>>);

#[derive(Debug)]
struct Remembered {
    recent_failure: RecentFailure,
    trusted_until: Instant,
}

impl RecentFailures {
    fn table(&self) -> MutexGuard<'_, HashMap<KeyHash, Remembered, Hashed>> {
        self.0.lock()
    }

    pub(crate) fn get(&self, key: &Key) -> Option<RecentFailure> {
        let mut table = self.table();
        let remembered = table.get(&key.hash())?;
        if Instant::now() < remembered.trusted_until {
            return Some(remembered.recent_failure);
        }
        table.remove(&key.hash());
        None
    }

    pub(crate) fn remember(&self, key: &Key, recent_failure: RecentFailure) {
        let now = Instant::now();
        let mut table = self.table();
        if table.len() >= CAP {
            table.retain(|_, remembered| now < remembered.trusted_until);
        }
        // If the table is full of current failures, forgetting this one costs a question to the store.
        if table.len() < CAP {
            let trusted_until = recent_failure.until.min(now + TRUST);
            table.insert(key.hash(), Remembered { recent_failure, trusted_until });
        }
    }

    /// Forgets a key that was invalidated, with all its variants.
    pub(crate) fn forget(&self, key: &Key) {
        let primary = key.hash().primary;
        self.table().retain(|id, _| id.primary != primary);
    }

    pub(crate) fn forget_all(&self) {
        self.table().clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn pauses_double_up_to_the_longest_and_are_spread() {
        let back_off = BackOff::new(SECOND, 30 * SECOND).unwrap();
        for (failures, about) in [(0, 1), (1, 2), (2, 4), (4, 16), (5, 30), (6, 30), (u32::MAX, 30)] {
            let pauses: Vec<Duration> = (0..100).map(|_| back_off.pause(failures)).collect();
            let about = about * SECOND;
            assert!(
                pauses.iter().all(|pause| (about.mul_f64(0.799)..about.mul_f64(1.201)).contains(pause)),
                "{failures}"
            );
            assert!(pauses.iter().any(|pause| *pause != pauses[0]));
        }
    }

    #[test]
    fn no_pause_is_much_longer_than_a_day_whatever_is_set() {
        for (first, longest) in [(SECOND, Duration::MAX), (Duration::MAX, Duration::MAX), (Duration::MAX, SECOND)] {
            let back_off = BackOff::new(first, longest).unwrap();
            assert_eq!(back_off.longest(), LONGEST);
            assert!(back_off.pause(u32::MAX) <= LONGEST.mul_f64(1.201));
        }
    }

    #[test]
    fn a_first_pause_of_zero_is_none_at_all() {
        assert_eq!(BackOff::new(Duration::ZERO, SECOND), None);
        assert_eq!(BackOff::new(2 * SECOND, SECOND).unwrap().longest(), 2 * SECOND);
    }

    #[test]
    fn a_failure_is_forgotten_when_it_ends_or_its_key_is_invalidated() {
        let (recent_failures, key) = (RecentFailures::default(), Key::new(["k"]));
        recent_failures.remember(&key, RecentFailure::new(None, Duration::ZERO));
        assert!(recent_failures.get(&key).is_none());
        for place in [key.clone(), key.variant(b"de")] {
            recent_failures.remember(&place, RecentFailure::new(Some(503), 30 * SECOND));
            assert_eq!(recent_failures.get(&place).unwrap().status, Some(503));
            recent_failures.forget(&key);
            assert!(recent_failures.get(&place).is_none());
        }
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let recent_failures = RecentFailures::default();
        for i in 0..CAP + 5 {
            recent_failures.remember(&Key::new([i.to_string()]), RecentFailure::new(None, 30 * SECOND));
        }
        assert_eq!(recent_failures.table().len(), CAP);
    }
}
