//! The keys that count most, in bounded memory (Space-Saving: Metwally, Agrawal and El Abbadi 2005).

use std::collections::HashMap;

use cache_layer::Key;

/// A sketch of the keys with the highest sums. A key whose share of all is larger than one part in [`CAP`](Self::CAP) is in it.
#[derive(Clone, Default)]
pub(crate) struct SpaceSaving {
    counters: Vec<Counter>,
    places: HashMap<Key, usize>,
}

#[derive(Clone, Debug)]
pub(crate) struct Counter {
    pub(crate) key: Key,
    /// At least what is true, and at most `error` more.
    pub(crate) sum: u64,
    pub(crate) error: u64,
    /// How often it came, while it was in here.
    pub(crate) times: u64,
}

impl SpaceSaving {
    pub(crate) const CAP: usize = 256;

    pub(crate) fn add(&mut self, key: &Key, amount: u64) {
        if let Some(&place) = self.places.get(key) {
            let counter = &mut self.counters[place];
            (counter.sum, counter.times) = (counter.sum + amount, counter.times + 1);
            return;
        }
        if self.counters.len() < Self::CAP {
            self.places.insert(key.clone(), self.counters.len());
            self.counters.push(Counter { key: key.clone(), sum: amount, error: 0, times: 1 });
            return;
        }
        // The least of all makes room, and the new one may have had as much before.
        let Some((place, least)) = self.counters.iter_mut().enumerate().min_by_key(|(_, counter)| counter.sum) else {
            return;
        };
        self.places.remove(&least.key);
        let error = least.sum;
        *least = Counter { key: key.clone(), sum: error + amount, error, times: 1 };
        self.places.insert(key.clone(), place);
    }

    /// The sums of several sketches, the highest first.
    pub(crate) fn merged<'a>(sketches: impl IntoIterator<Item = &'a Self>) -> Vec<Counter> {
        let mut merged: HashMap<&Key, Counter> = HashMap::new();
        for counter in sketches.into_iter().flat_map(|sketch| &sketch.counters) {
            merged
                .entry(&counter.key)
                .and_modify(|sum| {
                    sum.sum += counter.sum;
                    sum.error += counter.error;
                    sum.times += counter.times;
                })
                .or_insert_with(|| counter.clone());
        }
        let mut counters: Vec<_> = merged.into_values().collect();
        counters.sort_by(|one, other| other.sum.cmp(&one.sum).then_with(|| one.key.digest().cmp(&other.key.digest())));
        counters
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_often_is_found_among_many_that_are_not() {
        let mut sketch = SpaceSaving::default();
        for round in 0..2_000_u32 {
            sketch.add(&Key::from(("hot", round % 4)), 1);
            for cold in 0..5 {
                sketch.add(&Key::from(("cold", round * 5 + cold)), 1);
            }
        }
        assert_eq!(sketch.counters.len(), SpaceSaving::CAP);
        let top = SpaceSaving::merged([&sketch]);
        for counter in &top[..4] {
            assert!(counter.key.to_string().starts_with("hot:"), "{counter:?}");
            assert!(counter.sum - counter.error <= 500 && 500 <= counter.sum, "{counter:?}");
        }
    }

    #[test]
    fn several_sketches_are_one() {
        let mut sketches = [SpaceSaving::default(), SpaceSaving::default()];
        sketches[0].add(&Key::from("a"), 5);
        sketches[1].add(&Key::from("a"), 7);
        sketches[1].add(&Key::from("b"), 9);
        let top: Vec<(String, u64, u64)> =
            SpaceSaving::merged(&sketches).iter().map(|one| (one.key.to_string(), one.sum, one.times)).collect();
        assert_eq!(top, [("a".to_owned(), 12, 2), ("b".to_owned(), 9, 1)]);
    }
}
