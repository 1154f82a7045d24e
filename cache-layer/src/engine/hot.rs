//! The hot set: the keys whose entries answer most requests in this process, in bounded memory.
//!
//! One hit in [`SAMPLE`] is counted, in one of several [sketches](SpaceSaving). The key decides which, so that each key is in one
//! sketch only. A thread that finds its sketch locked does not wait: hits of all keys are lost alike.

use std::{
    fmt,
    hash::{BuildHasher, RandomState},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::{
    entry::Entry,
    space_saving::{Counted, SpaceSaving},
    sync::Mutex,
};

/// One hit in this many is counted.
pub(super) const SAMPLE: u64 = 16;
/// The most keys that a caller may ask for.
const MOST: usize = 65_536;
const SHARDS: usize = 8;
/// The number of samples, for each key that there is room for, after which all earlier samples are halved: two million hits for
/// each thousand keys.
const AGE: u64 = 128;
/// Longer keys are not remembered.
pub(super) const LONGEST_KEY: usize = 1024;

/// Hits are counted by the bytes of an entry's key.
pub(super) type Canonical = Arc<[u8]>;

pub(super) struct HotSet {
    shards: [Mutex<SpaceSaving<Canonical>>; SHARDS],
    /// Samples since those before were made to count half, and after how many that is done: in all shards at once, or their sums would
    /// not compare.
    samples: AtomicU64,
    life: u64,
    hashing: RandomState,
    /// The number by which other processes recognize the lists of this process.
    pub(super) node: u64,
}

impl HotSet {
    /// A hot set with room for this many keys.
    pub(super) fn new(keys: usize) -> Self {
        let cap = keys.clamp(1, MOST).div_ceil(SHARDS);
        Self {
            shards: std::array::from_fn(|_| Mutex::new(SpaceSaving::new(cap))),
            samples: AtomicU64::new(0),
            life: AGE * (cap * SHARDS) as u64,
            hashing: RandomState::new(),
            node: fastrand::u64(..),
        }
    }

    /// Counts a hit of `entry`.
    pub(super) fn hit(&self, entry: &Entry) {
        if fastrand::u64(..SAMPLE) == 0 {
            self.count(entry.canonical());
        }
    }

    fn count(&self, canonical: &[u8]) {
        if canonical.len() > LONGEST_KEY {
            return;
        }
        let shard = &self.shards[self.hashing.hash_one(canonical) as usize % SHARDS];
        let Some(mut sketch) = shard.try_lock() else { return };
        sketch.add_with(canonical, 1, |canonical: &[u8]| Canonical::from(canonical));
        drop(sketch);
        if self.samples.fetch_add(1, Ordering::Relaxed) + 1 == self.life {
            self.samples.store(0, Ordering::Relaxed);
            self.shards.iter().for_each(|shard| shard.lock().halve());
        }
    }

    /// The keys whose entries answered most requests, and their numbers of samples.
    pub(super) fn hottest(&self) -> Vec<Counted<Canonical>> {
        // The shards are locked one after the other, so that no thread waits for all of them.
        let sketches: Vec<_> = self.shards.iter().map(|shard| shard.lock().clone()).collect();
        SpaceSaving::merged(&sketches)
    }
}

impl fmt::Debug for HotSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HotSet").field("node", &self.node).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// Ranks from 1 on, each with a frequency in inverse proportion to its number.
    fn zipf(keys: usize) -> impl FnMut() -> usize {
        let mut sums = Vec::with_capacity(keys);
        let mut sum = 0.0;
        for rank in 1..=keys {
            sum += 1.0 / rank as f64;
            sums.push(sum);
        }
        let mut random = fastrand::Rng::with_seed(21);
        move || {
            let point = random.f64() * sum;
            sums.partition_point(|sum| *sum < point)
        }
    }

    #[test]
    fn of_the_hundred_that_are_asked_for_most_nearly_all_are_found() {
        let (hot, mut next) = (HotSet::new(4096), zipf(100_000));
        // As many samples as about five million hits leave.
        for _ in 0..320_000 {
            hot.count(next().to_string().as_bytes());
        }
        let top: HashSet<usize> =
            hot.hottest()[..100].iter().map(|one| str::from_utf8(&one.key).unwrap().parse().unwrap()).collect();
        let recall = top.iter().filter(|rank| **rank < 100).count();
        println!("{recall} of 100");
        assert!(recall >= 95, "{recall}");
    }

    #[test]
    fn what_was_hot_once_makes_room() {
        let hot = HotSet::new(64);
        for (name, keys) in [("old", 64), ("new", 64)] {
            for round in 0..64 * 400 {
                hot.count(format!("{name}{}", round % keys).as_bytes());
            }
        }
        let top = hot.hottest();
        let new = top[..32].iter().filter(|one| one.key.starts_with(b"new")).count();
        assert_eq!(new, 32, "{:?}", &top[..32]);
    }

    #[test]
    fn a_key_that_is_too_long_is_left_out() {
        let hot = HotSet::new(64);
        hot.count(&[0; LONGEST_KEY + 1]);
        assert!(hot.hottest().is_empty());
        hot.count(&[0; LONGEST_KEY]);
        assert_eq!(hot.hottest().len(), 1);
    }
}
