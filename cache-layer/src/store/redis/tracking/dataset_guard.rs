//! The reaction of this process to a data set that may be older than an invalidation: its server was restarted with saved data,
//! or a replica took its primary's place.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    store::{OwnedScope, Scope},
    sync::Mutex,
};

/// The most different invalidations that are kept for a replay; from there on, all are merged into one of everything.
const MOST: usize = 10_000;

/// What to do when a data set appears that may be older than the latest invalidations: see
/// [`RedisStoreBuilder::on_restored`](crate::store::RedisStoreBuilder::on_restored).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Restored {
    /// Invalidate everything: no entry is ever served that an invalidation covered. Costs a cold cache after a fail-over.
    #[default]
    Clear,
    /// Repeat what Redis has received from this process in the last period of this length, which should be longer than replicas lag
    /// or dumps are old. Misses invalidations by processes that are gone. A value that was set is repeated as an invalidation of its
    /// key. If there are too many to repeat (10,000 to 20,000 in that period), everything is invalidated.
    Replay(Duration),
    /// Use the data set as it is: an invalidation that it has not received is lost.
    Trust,
}

/// The policy, and its state: the servers that this process knows, and what it invalidated.
#[derive(Debug)]
pub(crate) struct DatasetGuard {
    policy: Restored,
    recent: Mutex<Recent>,
}

#[derive(Debug, Default)]
struct Recent {
    /// The identities of the servers that this process has connected to.
    met: HashSet<Arc<str>>,
    invalidations: VecDeque<(Instant, OwnedScope)>,
    /// When there were too many of them, so that one of everything stands for those until then.
    merged: Option<Instant>,
}

/// An invalidation that is to be repeated.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Repeated<'a> {
    One(Scope<'a>),
    /// One of everything, which stands for many.
    Merged,
}

impl DatasetGuard {
    pub(crate) fn new(policy: Restored) -> Self {
        Self { policy, recent: Mutex::default() }
    }

    /// Whether everything in another data set is invalidated.
    pub(crate) fn clears(&self) -> bool {
        self.policy == Restored::Clear
    }

    /// Remembers an invalidation that was delivered. One that is kept is remembered, too, and again when it is delivered: until then,
    /// any data set that this process uses receives it anyway.
    pub(crate) fn remember(&self, scope: Scope<'_>) {
        let Restored::Replay(last) = self.policy else { return };
        let mut recent = self.recent.lock();
        let invalidations = &mut recent.invalidations;
        while invalidations.front().is_some_and(|(when, _)| when.elapsed() > last) {
            invalidations.pop_front();
        }
        invalidations.push_back((Instant::now(), scope.to_owned()));
        // Most are there twice, kept and delivered.
        if invalidations.len() >= 2 * MOST {
            recent.merge();
        }
    }

    /// As [`replay`](Self::replay), unless this process has met that server before.
    pub(crate) fn replay_unless_met(&self, server: &Arc<str>, again: impl FnMut(Repeated<'_>)) {
        let Restored::Replay(last) = self.policy else { return };
        let mut recent = self.recent.lock();
        // Another connection to that server waits here until all is kept that it has to deliver.
        if recent.met.insert(server.clone()) {
            recent.replay(last, again);
        }
    }

    /// Goes through the invalidations that must be repeated in a data set that may be older.
    pub(crate) fn replay(&self, again: impl FnMut(Repeated<'_>)) {
        let Restored::Replay(last) = self.policy else { return };
        self.recent.lock().replay(last, again);
    }
}

impl Recent {
    /// Keeps the youngest of equal invalidations; if there are too many, one of everything in place of all.
    fn merge(&mut self) {
        let mut known = HashSet::new();
        let mut kept: VecDeque<_> =
            self.invalidations.drain(..).rev().filter(|(_, scope)| known.insert(scope.clone())).collect();
        if kept.len() >= MOST {
            kept.clear();
            self.merged = Some(Instant::now());
        }
        kept.make_contiguous().reverse();
        self.invalidations = kept;
    }

    /// Goes through what is no older than `last`.
    fn replay(&self, last: Duration, mut again: impl FnMut(Repeated<'_>)) {
        if self.merged.is_some_and(|when| when.elapsed() <= last) {
            again(Repeated::Merged);
        }
        let young = self.invalidations.iter().filter(|(when, _)| when.elapsed() <= last);
        young.for_each(|(_, scope)| again(Repeated::One(scope.borrow())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Key;

    fn replayed(guard: &DatasetGuard) -> Vec<String> {
        let mut replayed = Vec::new();
        guard.replay(|scope| replayed.push(format!("{scope:?}")));
        replayed
    }

    #[test]
    fn only_who_replays_remembers() {
        let key = Key::new(["k"]);
        for policy in [Restored::Clear, Restored::Trust] {
            let guard = DatasetGuard::new(policy);
            guard.remember(Scope::Key(&key));
            assert!(replayed(&guard).is_empty());
        }
        let guard = DatasetGuard::new(Restored::Replay(Duration::from_secs(60)));
        guard.remember(Scope::Key(&key));
        assert_eq!(replayed(&guard).len(), 1);
    }

    #[test]
    fn what_is_older_than_the_policy_says_is_not_replayed() {
        let guard = DatasetGuard::new(Restored::Replay(Duration::ZERO));
        guard.remember(Scope::Everything);
        std::thread::sleep(Duration::from_millis(1));
        assert!(replayed(&guard).is_empty());
    }

    #[test]
    fn a_server_that_was_met_before_needs_no_replay() {
        let guard = DatasetGuard::new(Restored::Replay(Duration::from_secs(60)));
        guard.remember(Scope::Everything);
        let mut replays = 0;
        for server in ["a", "a", "b"] {
            guard.replay_unless_met(&server.into(), |_| replays += 1);
        }
        assert_eq!(replays, 2);
    }

    #[test]
    fn what_is_remembered_is_bounded_and_covers_all_the_same() {
        let guard = DatasetGuard::new(Restored::Replay(Duration::from_secs(60)));
        for i in 0..2 * MOST + 10 {
            guard.remember(Scope::Key(&Key::new([i.to_string()])));
        }
        let replayed = replayed(&guard);
        assert!(replayed.len() < MOST && replayed[0].contains("Merged"));
    }

    #[test]
    fn what_is_invalidated_again_and_again_is_remembered_once() {
        let guard = DatasetGuard::new(Restored::Replay(Duration::from_secs(60)));
        let keys: Vec<Key> = (0..MOST - 10).map(|i| Key::new([i.to_string()])).collect();
        for _ in 0..4 {
            keys.iter().for_each(|key| guard.remember(Scope::Key(key)));
            guard.remember(Scope::Tags(&crate::tag::Tags::new(["t"])));
        }
        let mut replayed = replayed(&guard);
        assert!(replayed.len() < 2 * MOST && replayed.iter().all(|scope| !scope.contains("Merged")));
        replayed.sort();
        replayed.dedup();
        assert_eq!(replayed.len(), keys.len() + 1);
    }
}
