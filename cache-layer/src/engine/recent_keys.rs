//! Keys that are remembered for a while: because recent responses could not be stored, so that waiting for each other's loads
//! would only delay all requests; or because their last background refresh returned nothing.

use std::{
    collections::HashMap,
    sync::{
        MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{
    key::{Hashed, Key, KeyHash},
    sync::Mutex,
    telemetry::NoCacheReason,
};

/// How long requests for a key don't wait for each other after a response for it could not be stored.
pub(super) const REMEMBER_UNCACHEABLE: Duration = Duration::from_secs(5);

/// The most keys that are remembered at one time.
const CAP: usize = 10_000;

#[derive(Debug, Default)]
pub(crate) struct RecentKeys(Mutex<HashMap<KeyHash, Recent, Hashed>>);

/// What is remembered of a key.
#[derive(Debug)]
struct Recent {
    until: Instant,
    reason: Option<NoCacheReason>,
}

impl RecentKeys {
    fn until(&self) -> MutexGuard<'_, HashMap<KeyHash, Recent, Hashed>> {
        self.0.lock()
    }

    pub(crate) fn has(&self, key: &Key) -> bool {
        let mut until = self.until();
        match until.get(&key.hash()) {
            Some(recent) if Instant::now() < recent.until => true,
            Some(_) => {
                until.remove(&key.hash());
                false
            }
            None => false,
        }
    }

    pub(crate) fn forget_all(&self) {
        self.until().clear();
    }

    pub(crate) fn forget(&self, key: &Key) {
        self.until().remove(&key.hash());
    }

    /// Why a key is remembered, if that is known here.
    pub(crate) fn reason(&self, key: &Key) -> Option<NoCacheReason> {
        self.until().get(&key.hash()).and_then(|recent| recent.reason)
    }

    pub(crate) fn remember(&self, key: &Key, duration: Duration) {
        self.remember_why(key, duration, None);
    }

    pub(crate) fn remember_why(&self, key: &Key, duration: Duration, reason: Option<NoCacheReason>) {
        let now = Instant::now();
        let mut until = self.until();
        // That another process says the same, without a reason, prolongs nothing.
        if reason.is_none()
            && until.get(&key.hash()).is_some_and(|recent| recent.reason.is_some() && now < recent.until)
        {
            return;
        }
        if until.len() >= CAP {
            until.retain(|_, recent| now < recent.until);
        }
        // If the table is full of current keys, forgetting this one costs a wait.
        if until.len() < CAP {
            until.insert(key.hash(), Recent { until: now + duration, reason });
        }
    }
}

/// Since when what a store remembers of responses that could not be stored does not count. The store's memory has no reasons, and
/// so it is left alone until it has run out.
#[derive(Debug, Default)]
pub(crate) struct VoidRefusals {
    /// Almost never, which is all that most loads ask.
    any: AtomicBool,
    until: Mutex<Option<Instant>>,
}

impl VoidRefusals {
    /// Longer than a store remembers: a process that gets new settings somewhat later still tells what it knows by the former ones.
    const FOR: Duration = REMEMBER_UNCACHEABLE.saturating_mul(2);

    pub(crate) fn set(&self) {
        *self.until.lock() = Some(Instant::now() + Self::FOR);
        self.any.store(true, Ordering::Release);
    }

    pub(crate) fn are_void(&self) -> bool {
        self.any.load(Ordering::Acquire) && self.are_still()
    }

    #[cold]
    fn are_still(&self) -> bool {
        let mut until = self.until.lock();
        let still = until.is_some_and(|until| Instant::now() < until);
        if !still {
            *until = None;
            self.any.store(false, Ordering::Release);
        }
        still
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_runs_out() {
        let keys = RecentKeys::default();
        let key = Key::new(["k"]);
        keys.remember(&key, Duration::from_secs(60));
        assert!(keys.has(&key));
        keys.remember(&key, Duration::ZERO);
        assert!(!keys.has(&key));
    }

    #[test]
    fn a_reason_that_is_known_here_outlasts_a_refusal_without_one() {
        let keys = RecentKeys::default();
        let key = Key::new(["k"]);
        keys.remember_why(&key, Duration::from_secs(60), Some(NoCacheReason::NoStore));
        keys.remember(&key, Duration::ZERO);
        assert!(keys.has(&key));
        assert_eq!(keys.reason(&key), Some(NoCacheReason::NoStore));
    }

    #[test]
    fn it_is_bounded() {
        let keys = RecentKeys::default();
        for i in 0..CAP + 5 {
            keys.remember(&Key::new([i.to_string()]), Duration::from_secs(60));
        }
        assert_eq!(keys.until().len(), CAP);
    }
}
