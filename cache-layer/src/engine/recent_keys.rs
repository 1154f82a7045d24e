//! Keys that are remembered for a while: because recent responses could not be stored, so that waiting for each other's loads
//! would only delay all requests; or because their last background refresh returned nothing.

use std::{
    collections::HashMap,
    sync::MutexGuard,
    time::{Duration, Instant},
};

use crate::{
    key::{Hashed, Key, KeyHash},
    sync::Mutex,
    telemetry::NoCacheReason,
};

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
        if until.len() >= CAP {
            until.retain(|_, recent| now < recent.until);
        }
        // If the table is full of current keys, forgetting this one costs a wait.
        if until.len() < CAP {
            until.insert(key.hash(), Recent { until: now + duration, reason });
        }
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
    fn it_is_bounded() {
        let keys = RecentKeys::default();
        for i in 0..CAP + 5 {
            keys.remember(&Key::new([i.to_string()]), Duration::from_secs(60));
        }
        assert_eq!(keys.until().len(), CAP);
    }
}
