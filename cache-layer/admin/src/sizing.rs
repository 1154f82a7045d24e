//! How the hit ratio depends on the size of the cache: the miss-ratio curve of an LRU cache, by SHARDS with a fixed size and its
//! correction (Waldspurger, Park, Garthwaite and Ahmad, *Efficient MRC Construction with SHARDS*, FAST 2015).
//!
//! An LRU cache is a stack with the key that was asked for last on top. The [`NEAR`] keys on top are known one by one: a few keys
//! are asked for so often that a sample would be wrong depending on whether it contains them. Of the keys below, those are
//! followed whose hash is below a threshold: one in twelve at first, and later fewer, so that there are never more than [`MOST`].
//! When a followed key is asked for, its *distance* is its place in the stack: about the number of followed keys above it,
//! divided by the share of keys that is followed. A cache with more entries than its distance would have had a hit.

use std::{
    collections::BTreeMap,
    hash::{Hash as _, Hasher},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use cache_layer::Key;

/// The number of keys that are followed.
const MOST: usize = 8192;
/// One in twelve.
const FIRST_THRESHOLD: u64 = u64::MAX / 12;
/// The number of keys on top of the stack, in sets of several ways.
pub(crate) const NEAR: usize = SETS * WAYS;
const SETS: usize = 256;
const WAYS: usize = 4;
/// The number of moments from one renumbering to the next.
const MOMENTS: usize = 4 * MOST;
/// The significant bits of a distance: 16 steps from one power of two to the next.
const STEP_BITS: u32 = 4;
const STEPS: usize = 1 << STEP_BITS;
const BUCKETS: usize = 48 * STEPS;
/// After this many seconds, earlier counts are halved, and a key that was not asked for meanwhile is no longer followed.
const HALF_LIFE: u64 = 6 * 60 * 60;

/// The curve, while it is being estimated.
pub(crate) struct Sizing {
    /// Hashes, in each set the last one first. Two threads that meet in a set may lose one, which is asked for again.
    near: Box<[[AtomicU64; WAYS]; SETS]>,
    threshold: AtomicU64,
    followed: Mutex<Followed>,
}

struct Followed {
    /// By hash: the moment of its last look-up.
    keys: BTreeMap<u64, usize>,
    /// The key of each moment; its place in `marks` is marked if there was no later look-up of that key.
    moments: Box<[u64]>,
    marks: Fenwick,
    next: usize,
    threshold: u64,
    /// The estimated number of look-ups of keys that are not near, by distance.
    distances: Box<[f64]>,
    /// The number of look-ups of keys that were never asked for before.
    first: f64,
    /// The number of all look-ups, followed or not, and of those of near keys.
    all: f64,
    near: f64,
    /// When the counts were last halved, in seconds since the Unix epoch, and the first moment after that.
    aged: u64,
    aged_at: usize,
}

/// The hash that a key has in this process already.
pub(crate) fn hash(key: &Key) -> u64 {
    #[derive(Default)]
    struct Told(u64);
    impl Hasher for Told {
        fn finish(&self) -> u64 {
            self.0
        }

        fn write(&mut self, bytes: &[u8]) {
            bytes.iter().for_each(|byte| self.0 = self.0.rotate_left(8) ^ u64::from(*byte));
        }

        fn write_u64(&mut self, hash: u64) {
            self.0 ^= hash;
        }
    }
    let mut hasher = Told::default();
    key.hash(&mut hasher);
    hasher.finish()
}

impl Sizing {
    pub(crate) fn new(now: u64) -> Self {
        Self {
            near: Box::new(std::array::from_fn(|_| Default::default())),
            threshold: AtomicU64::new(FIRST_THRESHOLD),
            followed: Mutex::new(Followed::new(now)),
        }
    }

    fn followed(&self) -> MutexGuard<'_, Followed> {
        // Slightly wrong counts are better than none.
        self.followed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records a look-up of a key with this hash; `kept` unless its response is never stored. `true` if the key is near: an LRU
    /// cache of [`NEAR`] entries would have had it.
    pub(crate) fn asked(&self, hash: u64, kept: bool) -> bool {
        let left = match self.near(hash, kept) {
            Near::There => return true,
            Near::Left(left) => left,
        };
        let threshold = self.threshold.load(Ordering::Relaxed);
        if hash < threshold || left.is_some_and(|left| left < threshold) {
            let mut followed = self.followed();
            followed.asked(hash);
            followed.left(left);
            self.threshold.store(followed.threshold, Ordering::Relaxed);
        }
        false
    }

    /// Moves a hash to the front of its set.
    fn near(&self, hash: u64, kept: bool) -> Near {
        let set = &self.near[hash as usize % SETS];
        let found = set.iter().position(|known| known.load(Ordering::Relaxed) == hash);
        if found.is_none() && !kept {
            return Near::Left(None);
        }
        let mut last = hash;
        for known in &set[..found.map_or(WAYS, |place| place + 1)] {
            let next = known.load(Ordering::Relaxed);
            known.store(last, Ordering::Relaxed);
            last = next;
        }
        match found {
            Some(_) => Near::There,
            None => Near::Left((last != 0).then_some(last)),
        }
    }

    /// Adds this many look-ups, of which `near` were of near keys.
    pub(crate) fn add(&self, looked_up: u64, near: u64, now: u64) {
        let mut followed = self.followed();
        followed.all += looked_up as f64;
        followed.near += near as f64;
        if now.saturating_sub(followed.aged) >= HALF_LIFE {
            followed.age(now);
            self.threshold.store(followed.threshold, Ordering::Relaxed);
        }
    }

    /// The hit ratio with room for this many entries of the present average size; `None` while too little is known, and for fewer
    /// than [`NEAR`].
    pub(crate) fn hit_ratio(&self, entries: u64) -> Option<f64> {
        self.followed().hit_ratio(entries)
    }

    /// The approximate number of keys that were asked for recently, and the number of those that are followed.
    pub(crate) fn keys(&self) -> (u64, usize) {
        let followed = self.followed();
        (NEAR as u64 + (followed.keys.len() as f64 * followed.weight()) as u64, followed.keys.len())
    }
}

/// The effect of a look-up on the top of the stack.
enum Near {
    There,
    /// The key was not there, and this one was removed for it.
    Left(Option<u64>),
}

impl Followed {
    /// The number of followed look-ups before any result is given.
    const LEAST: f64 = 1_000.0;

    fn new(now: u64) -> Self {
        Self {
            keys: BTreeMap::new(),
            moments: vec![0; MOMENTS].into(),
            marks: Fenwick(vec![0; MOMENTS + 1].into()),
            next: 0,
            threshold: FIRST_THRESHOLD,
            distances: vec![0.0; BUCKETS].into(),
            first: 0.0,
            all: 0.0,
            near: 0.0,
            aged: now,
            aged_at: 0,
        }
    }

    /// How many look-ups each followed one stands for.
    fn weight(&self) -> f64 {
        u64::MAX as f64 / self.threshold as f64
    }

    /// Moves a key from its place to the top.
    fn asked(&mut self, hash: u64) {
        if hash >= self.threshold {
            return;
        }
        let weight = self.weight();
        match self.keys.remove(&hash) {
            Some(moment) => {
                // The key has been removed already, and the keys up to its moment are below it.
                let above = self.keys.len() + 1 - self.marks.up_to(moment);
                self.marks.add(moment, -1);
                self.distances[bucket(NEAR as u64 + (above as f64 * weight) as u64)] += weight;
            }
            None => self.first += weight,
        }
    }

    /// Moves a key from the top to the first place below.
    fn left(&mut self, hash: Option<u64>) {
        let Some(hash) = hash.filter(|hash| *hash < self.threshold) else { return };
        if self.next == MOMENTS {
            self.number_anew();
        }
        if let Some(before) = self.keys.insert(hash, self.next) {
            self.marks.add(before, -1);
        }
        self.moments[self.next] = hash;
        self.marks.add(self.next, 1);
        self.next += 1;
        if self.keys.len() > MOST
            && let Some((hash, moment)) = self.keys.pop_last()
        {
            self.marks.add(moment, -1);
            self.threshold = hash;
        }
    }

    /// Gives the followed keys the first moments, in their order.
    fn number_anew(&mut self) {
        let (mut next, mut aged_at) = (0, 0);
        for moment in 0..self.next {
            if moment == self.aged_at {
                aged_at = next;
            }
            let hash = self.moments[moment];
            if let Some(last) = self.keys.get_mut(&hash)
                && *last == moment
            {
                *last = next;
                self.moments[next] = hash;
                next += 1;
            }
        }
        // This may be the next moment.
        if self.aged_at >= self.next {
            aged_at = next;
        }
        self.marks.0.fill(0);
        (0..next).for_each(|moment| self.marks.add(moment, 1));
        (self.next, self.aged_at) = (next, aged_at);
    }

    fn age(&mut self, now: u64) {
        self.distances.iter_mut().for_each(|count| *count /= 2.0);
        (self.first, self.all, self.near) = (self.first / 2.0, self.all / 2.0, self.near / 2.0);
        let marks = &mut self.marks;
        let aged_at = self.aged_at;
        self.keys.retain(|_, moment| {
            let stays = *moment >= aged_at;
            if !stays {
                marks.add(*moment, -1);
            }
            stays
        });
        if self.keys.len() < MOST / 2 {
            self.threshold = self.threshold.saturating_mul(2).min(FIRST_THRESHOLD);
        }
        (self.aged, self.aged_at) = (now, self.next);
    }

    fn hit_ratio(&self, entries: u64) -> Option<f64> {
        let counted = self.first + self.distances.iter().sum::<f64>();
        if entries < NEAR as u64 || self.near + counted / self.weight() < Self::LEAST {
            return None;
        }
        let last = bucket(entries);
        let mut below = self.distances[..last].iter().sum::<f64>();
        // Of the last bucket, the part that is below.
        let (begins, ends) = (begins(last), begins(last + 1));
        below += self.distances[last] * (entries - begins) as f64 / (ends - begins) as f64;
        // The number of first look-ups of keys is known well, and the number of all look-ups, too. Followed keys may be asked for
        // more or less often than the rest.
        let again = (self.all - self.near - self.first).max(0.0);
        let hits = self.near + again * below / (counted - self.first).max(1.0);
        Some((hits / self.all.max(1.0)).clamp(0.0, 1.0))
    }
}

/// The index of the bucket of a distance.
fn bucket(distance: u64) -> usize {
    let octave = distance.max(1).ilog2();
    let place = match octave.checked_sub(STEP_BITS) {
        None => distance as usize,
        Some(shift) => (shift as usize + 1) * STEPS + (distance >> shift) as usize - STEPS,
    };
    place.min(BUCKETS - 2)
}

/// The smallest distance in a bucket.
fn begins(bucket: usize) -> u64 {
    match (bucket / STEPS).checked_sub(1) {
        None => bucket as u64,
        Some(shift) => ((bucket % STEPS + STEPS) as u64) << shift,
    }
}

/// Sums of marks (Fenwick 1994), in which each step is a power of two.
struct Fenwick(Box<[i32]>);

impl Fenwick {
    fn add(&mut self, place: usize, amount: i32) {
        let mut at = place + 1;
        while let Some(sum) = self.0.get_mut(at) {
            *sum += amount;
            at += at & at.wrapping_neg();
        }
    }

    /// The number of marks up to a place, inclusive.
    fn up_to(&self, place: usize) -> usize {
        let (mut at, mut sum) = (place + 1, 0);
        while at > 0 {
            sum += self.0[at];
            at -= at & at.wrapping_neg();
        }
        usize::try_from(sum).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A number that is practically random (SplitMix64).
    fn mixed(number: u64) -> u64 {
        let mut hash = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        hash ^ (hash >> 31)
    }

    /// One of `keys` keys, `times` times: the first most often (Zipf, exponent 0.9).
    fn zipf(keys: u64, times: u64, seed: u64) -> Vec<u64> {
        let mut sum = 0.0;
        let sums: Vec<f64> = (1..=keys)
            .map(|rank| {
                sum += (rank as f64).powf(-0.9);
                sum
            })
            .collect();
        let pick = |time| {
            let wanted = mixed(seed ^ mixed(time)) as f64 / u64::MAX as f64 * sum;
            sums.partition_point(|below| *below < wanted) as u64
        };
        (0..times).map(pick).collect()
    }

    /// The hit ratio of an LRU cache of each size: each look-up is replayed, by its exact distance.
    fn replayed(trace: &[u64], sizes: &[u64]) -> Vec<f64> {
        let mut last = std::collections::HashMap::new();
        let mut marks = Fenwick(vec![0; trace.len() + 1].into());
        let mut hits = vec![0_u64; sizes.len()];
        for (moment, key) in trace.iter().enumerate() {
            if let Some(before) = last.insert(*key, moment) {
                let since = (last.len() - marks.up_to(before)) as u64;
                sizes.iter().zip(&mut hits).for_each(|(size, hits)| *hits += u64::from(since < *size));
                marks.add(before, -1);
            }
            marks.add(moment, 1);
        }
        hits.iter().map(|hits| *hits as f64 / trace.len() as f64).collect()
    }

    fn told(trace: &[u64], salt: u64) -> Sizing {
        let sizing = Sizing::new(0);
        let near = trace.iter().filter(|key| sizing.asked(mixed(salt ^ mixed(**key)), true)).count();
        sizing.add(trace.len() as u64, near as u64, 0);
        sizing
    }

    /// The curve is within two points of the truth, whichever keys are followed.
    #[track_caller]
    fn is_close(trace: &[u64], sizes: &[u64]) {
        let exact = replayed(trace, sizes);
        for salt in 0..5 {
            let sizing = told(trace, mixed(salt));
            for (size, exact) in sizes.iter().zip(&exact) {
                let told = sizing.hit_ratio(*size).unwrap();
                println!("{size}: {told:.4} for {exact:.4}");
                assert!((told - exact).abs() < 0.02, "{size}: {told} for {exact}");
            }
            assert!(sizing.keys().1 <= MOST);
        }
    }

    const SIZES: [u64; 7] = [1_024, 2_000, 8_000, 20_000, 50_000, 100_000, 200_000];

    #[test]
    fn the_curve_of_a_zipf_mix_is_that_of_a_replay() {
        is_close(&zipf(200_000, 400_000, 1), &SIZES);
    }

    #[test]
    fn the_curve_of_a_mix_with_scans_is_that_of_a_replay() {
        let popular = zipf(50_000, 300_000, 2);
        // After every third look-up of a popular key, the next of 30,000 keys that are read in turn.
        let mut trace = Vec::new();
        for (time, key) in popular.into_iter().enumerate() {
            trace.push(key);
            if time % 3 == 0 {
                trace.push(1_000_000 + (time as u64 / 3) % 30_000);
            }
        }
        is_close(&trace, &SIZES);
    }

    #[test]
    fn what_is_never_stored_takes_no_room() {
        let ask = |never_stored: bool| {
            let sizing = Sizing::new(0);
            let (mut all, mut near) = (0, 0);
            for time in 0..200_000_u64 {
                near += u64::from(sizing.asked(mixed(time % 20_000), true));
                all += 1;
                if never_stored {
                    near += u64::from(sizing.asked(mixed(1_000_000 + time), false));
                    all += 1;
                }
            }
            sizing.add(all, near, 0);
            (sizing.keys(), sizing.hit_ratio(50_000).unwrap())
        };
        let ((keys, ratio), (without, alone)) = (ask(true), ask(false));
        assert_eq!(keys, without);
        assert!(2.0_f64.mul_add(ratio, -alone).abs() < 0.02, "{ratio} and {alone}");
    }

    #[test]
    fn a_change_is_seen_after_a_while_and_what_is_over_is_followed_no_more() {
        let sizing = Sizing::new(0);
        let ask = |keys: std::ops::Range<u64>| {
            for _ in 0..20 {
                let near = keys.clone().filter(|key| sizing.asked(mixed(*key), true)).count();
                sizing.add(keys.end - keys.start, near as u64, 0);
            }
        };
        ask(0..50_000);
        let (small, before) = (sizing.hit_ratio(10_000).unwrap(), sizing.keys().1);
        assert!(small < 0.05, "a round of more keys than there is room for: {small}");
        for period in 1..6 {
            sizing.add(0, 0, period * HALF_LIFE);
            ask(100_000..105_000);
        }
        let (large, after) = (sizing.hit_ratio(10_000).unwrap(), sizing.keys().1);
        assert!(large > 0.8, "{large}");
        assert!(after < before / 2, "{after} of {before}");
    }

    #[test]
    fn little_is_no_ground_to_tell_anything() {
        let sizing = Sizing::new(0);
        (0..900).for_each(|key| assert!(!sizing.asked(mixed(key), true)));
        sizing.add(900, 0, 0);
        assert_eq!(sizing.hit_ratio(5_000), None);
        assert_eq!(told(&zipf(20_000, 100_000, 3), 0).hit_ratio(NEAR as u64 - 1), None);
    }

    #[test]
    fn each_distance_is_in_one_bucket_whose_ends_enclose_it() {
        for distance in (0..5_000).chain([1 << 20, (1 << 30) + 12_345, 1 << 40]) {
            let bucket = bucket(distance);
            assert!((begins(bucket)..begins(bucket + 1)).contains(&distance), "{distance}");
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 2);
    }
}
