//! The keys with the highest sums, in bounded memory (Space-Saving: Metwally, Agrawal and El Abbadi 2005).

use std::{borrow::Borrow, collections::HashMap, hash::Hash};

/// A sketch of the keys with the highest sums, with room for a set number of keys. A key is in the sketch if its share of the
/// total is larger than one part in that number.
///
/// ```
/// use cache_layer::telemetry::SpaceSaving;
///
/// let mut sketch = SpaceSaving::new(2);
/// for key in ["a", "b", "a", "c", "a"] {
///     sketch.add(&key, 1);
/// }
/// assert_eq!(SpaceSaving::merged([&sketch])[0].key, "a");
/// ```
#[derive(Clone, Debug)]
pub struct SpaceSaving<K> {
    cap: usize,
    counted: Vec<Counted<K>>,
    places: HashMap<K, usize>,
    /// No sum is lower than this, and those before the cursor are higher, so that the next key to make room is found without
    /// examining all.
    floor: u64,
    cursor: usize,
}

/// A key of a [`SpaceSaving`], and its sum.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counted<K> {
    /// The key.
    pub key: K,
    /// The sum of the key: at least the true sum, and at most `error` more.
    pub sum: u64,
    /// The sum of the key that this one replaced.
    pub error: u64,
    /// How often an amount was added for the key while it was in the sketch.
    pub times: u64,
}

impl<K: Clone + Eq + Hash> SpaceSaving<K> {
    /// An empty sketch with room for this many keys, at least one.
    #[must_use]
    pub fn new(cap: usize) -> Self {
        Self { cap: cap.max(1), counted: Vec::new(), places: HashMap::new(), floor: 0, cursor: 0 }
    }

    /// Adds an amount to the sum of a key.
    pub fn add(&mut self, key: &K, amount: u64) {
        self.add_with(key, amount, K::clone);
    }

    /// As [`add`](Self::add), for a key that is cloned only if it is not in the sketch.
    pub fn add_with<Q>(&mut self, key: &Q, amount: u64, owned: impl FnOnce(&Q) -> K)
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        if let Some(&place) = self.places.get(key) {
            let counted = &mut self.counted[place];
            (counted.sum, counted.times) = (counted.sum.saturating_add(amount), counted.times + 1);
            return;
        }
        let key = owned(key);
        if self.counted.len() < self.cap {
            self.places.insert(key.clone(), self.counted.len());
            self.counted.push(Counted { key, sum: amount, error: 0, times: 1 });
            self.floor = self.floor.min(amount);
            self.cursor = 0;
            return;
        }
        // The key with the lowest sum makes room. The new key may have had as high a sum before.
        let place = self.least();
        let error = self.counted[place].sum;
        let new = Counted { key: key.clone(), sum: error.saturating_add(amount), error, times: 1 };
        let least = std::mem::replace(&mut self.counted[place], new);
        self.places.remove::<K>(&least.key);
        self.places.insert(key, place);
    }

    /// The place of the lowest sum. Sums only grow, so that those before the cursor need not be examined again.
    fn least(&mut self) -> usize {
        loop {
            let rest = &self.counted[self.cursor..];
            if let Some(next) = rest.iter().position(|counted| counted.sum <= self.floor) {
                self.cursor += next;
                return self.cursor;
            }
            self.floor = self.counted.iter().map(|counted| counted.sum).min().unwrap_or(0);
            self.cursor = 0;
        }
    }

    /// Halves all sums, so that recent amounts count for more.
    pub fn halve(&mut self) {
        for counted in &mut self.counted {
            (counted.sum, counted.error) = (counted.sum / 2, counted.error / 2);
        }
        (self.floor, self.cursor) = (self.floor / 2, 0);
    }

    /// The number of keys in the sketch.
    #[must_use]
    pub fn len(&self) -> usize {
        self.counted.len()
    }

    /// Whether the sketch is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.counted.is_empty()
    }

    /// The sums of several sketches together, the highest first.
    pub fn merged<'a>(sketches: impl IntoIterator<Item = &'a Self>) -> Vec<Counted<K>>
    where
        K: 'a,
    {
        let mut merged: HashMap<&K, Counted<K>> = HashMap::new();
        for counted in sketches.into_iter().flat_map(|sketch| &sketch.counted) {
            merged
                .entry(&counted.key)
                .and_modify(|sum| {
                    sum.sum = sum.sum.saturating_add(counted.sum);
                    sum.error = sum.error.saturating_add(counted.error);
                    sum.times += counted.times;
                })
                .or_insert_with(|| counted.clone());
        }
        let mut counted: Vec<_> = merged.into_values().collect();
        counted.sort_by_key(|counted| std::cmp::Reverse(counted.sum));
        counted
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_asked_for_often_is_found_among_many_that_are_not() {
        let mut sketch = SpaceSaving::new(256);
        for round in 0..2_000_u32 {
            sketch.add(&("hot", round % 4), 1);
            for cold in 0..5 {
                sketch.add(&("cold", round * 5 + cold), 1);
            }
        }
        assert_eq!(sketch.len(), 256);
        let top = SpaceSaving::merged([&sketch]);
        for counted in &top[..4] {
            assert_eq!(counted.key.0, "hot", "{counted:?}");
            assert!(counted.sum - counted.error <= 500 && 500 <= counted.sum, "{counted:?}");
        }
    }

    #[test]
    fn several_sketches_are_one() {
        let mut sketches = [SpaceSaving::new(8), SpaceSaving::new(8)];
        sketches[0].add(&"a", 5);
        sketches[1].add(&"a", 7);
        sketches[1].add(&"b", 9);
        let top: Vec<_> = SpaceSaving::merged(&sketches).iter().map(|one| (one.key, one.sum, one.times)).collect();
        assert_eq!(top, [("a", 12, 2), ("b", 9, 1)]);
    }

    proptest! {
        /// The key that makes room always has the lowest sum, however it was found.
        #[test]
        fn the_cursor_finds_what_looking_at_all_finds(adds in prop::collection::vec((0_u8..20, 0_u64..4, 0_u8..40), 0..400)) {
            let mut sketch = SpaceSaving::new(6);
            for (key, amount, halve) in adds {
                let before: HashMap<u8, u64> = sketch.counted.iter().map(|one| (one.key, one.sum)).collect();
                sketch.add(&key, amount);
                let gone = before.iter().find(|(key, _)| !sketch.places.contains_key(key));
                if let Some((_, sum)) = gone {
                    prop_assert_eq!(before.values().min(), Some(sum));
                }
                prop_assert!(sketch.counted.iter().enumerate().all(|(place, one)| sketch.places[&one.key] == place));
                if halve == 0 {
                    sketch.halve();
                }
            }
        }
    }
}
