//! What a layer has learned from requests for ranges.

use std::{
    collections::HashMap,
    sync::{Arc, MutexGuard},
};

use http::HeaderMap;

use crate::{
    key::{Hashed, Key, KeyHash},
    policy::Policy,
    sync::Mutex,
};

/// The most keys that are remembered at one time.
const CAP: usize = 10_000;
/// How long a key is remembered, in milliseconds.
const REMEMBERED: u64 = 60 * 60 * 1000;

/// What was learned from requests for ranges, by key and kind of client. Clones share the memory.
#[derive(Clone, Debug, Default)]
pub(super) struct RangeMemory(Arc<Mutex<LearnedRanges>>);

type LearnedRanges = HashMap<(KeyHash, Client), Learned, Hashed>;

/// The properties of a client that may decide whether its response is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Client {
    authorized: bool,
    has_cookies: bool,
}

impl Client {
    pub(super) fn of(request: &HeaderMap, policy: &Policy) -> Self {
        let Policy { caching, cookies, .. } = policy;
        Self { authorized: caching.has_credentials(request), has_cookies: cookies.any_counts(request) }
    }

    /// Whether the client identifies itself: responses to such clients are rarely stored.
    pub(super) fn is_known_to_the_application(self) -> bool {
        self.authorized || self.has_cookies
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Learned {
    /// Whether the whole response is stored.
    pub(super) kept: bool,
    /// In milliseconds since the Unix epoch.
    pub(super) at: u64,
}

impl RangeMemory {
    fn table(&self) -> MutexGuard<'_, HashMap<(KeyHash, Client), Learned, Hashed>> {
        self.0.lock()
    }

    pub(super) fn learned(&self, key: &Key, client: Client, now: u64) -> Option<Learned> {
        let learned = self.table().get(&(key.hash(), client)).copied()?;
        // A time in the future is from before the clock was set back.
        (now.checked_sub(learned.at)? < REMEMBERED).then_some(learned)
    }

    pub(super) fn learn(&self, key: &Key, client: Client, learned: Learned) {
        let mut table = self.table();
        if table.len() >= CAP {
            // Searching for expired keys would take longer than learning the others once more.
            table.clear();
        }
        table.insert((key.hash(), client), learned);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANYBODY: Client = Client { authorized: false, has_cookies: false };

    #[test]
    fn what_is_learned_is_forgotten_in_time_and_bounded() {
        let ranges = RangeMemory::default();
        let (key, learned) = (Key::new(["k"]), Learned { kept: false, at: 5 });
        ranges.learn(&key, ANYBODY, learned);
        let known = |now| ranges.learned(&key, ANYBODY, now).is_some();
        assert_eq!([5, 4 + REMEMBERED, 5 + REMEMBERED, 4].map(known), [true, true, false, false]);
        assert!(ranges.learned(&key, Client { authorized: true, ..ANYBODY }, 5).is_none());
        for number in 0..=CAP {
            ranges.learn(&Key::new([number.to_string()]), ANYBODY, learned);
        }
        assert!((1..=CAP).contains(&ranges.table().len()));
    }
}
