//! Remembers which keys were loaded recently: an entry that is loaded once and never again is not worth its room in a shared
//! store.
//!
//! Two Bloom filters remember the keys. When the current one is full, it becomes the other one, and the other one is emptied and
//! becomes the current one. One in a hundred keys that were never loaded is taken for a key that was.

use std::{fmt, time::Duration};

use crate::{key::Key, sync::Mutex};

/// The number of bits of a filter: 64 KiB.
const BITS: u64 = 1 << 19;
/// The number of keys of a filter: with four bits each, one in 100 other keys is taken for one of them.
const KEYS: u32 = 50_000;
const PROBES: u64 = 4;

pub(super) struct Doorkeeper {
    /// The result of a load that takes this long is stored at once.
    pub(super) bound: Duration,
    filters: Mutex<Filters>,
}

struct Filters {
    current: Box<[u64]>,
    previous: Box<[u64]>,
    /// The number of keys in the current filter.
    keys: u32,
}

impl Doorkeeper {
    pub(super) fn new(bound: Duration) -> Self {
        let filter = || vec![0; (BITS / 64) as usize].into_boxed_slice();
        Self { bound, filters: Mutex::new(Filters { current: filter(), previous: filter(), keys: 0 }) }
    }

    /// Remembers a key, and returns whether it was known.
    pub(super) fn meet(&self, key: &Key) -> bool {
        self.filters.lock().meet(bits(key))
    }

    /// Whether a key is known.
    pub(super) fn knows(&self, key: &Key) -> bool {
        self.filters.lock().has(bits(key)) != (false, false)
    }
}

impl Filters {
    /// Whether a key is in the current filter, and in the previous one.
    fn has(&self, bits: [(usize, u64); PROBES as usize]) -> (bool, bool) {
        let is_in = |filter: &[u64]| bits.iter().all(|&(word, bit)| filter[word] & bit != 0);
        (is_in(&self.current), is_in(&self.previous))
    }

    fn meet(&mut self, bits: [(usize, u64); PROBES as usize]) -> bool {
        let (is_here, was_there) = self.has(bits);
        if !is_here {
            if self.keys == KEYS {
                std::mem::swap(&mut self.current, &mut self.previous);
                self.current.fill(0);
                self.keys = 0;
            }
            bits.iter().for_each(|&(word, bit)| self.current[word] |= bit);
            self.keys += 1;
        }
        is_here || was_there
    }
}

/// The positions of a key's bits.
fn bits(key: &Key) -> [(usize, u64); PROBES as usize] {
    // The hash is keyed, so that no client can choose keys that collide with others.
    let hash = key.hash();
    let hash = hash.primary ^ hash.variant.rotate_left(32);
    let (first, step) = (hash >> 32, (hash & 0xffff_ffff) | 1);
    std::array::from_fn(|probe| {
        let bit = first.wrapping_add(step.wrapping_mul(probe as u64)) % BITS;
        ((bit / 64) as usize, 1 << (bit % 64))
    })
}

impl fmt::Debug for Doorkeeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Doorkeeper").field("bound", &self.bound).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u32) -> Key {
        Key::from(("product", number))
    }

    #[test]
    fn a_key_is_known_from_the_second_time_on() {
        let doorkeeper = Doorkeeper::new(Duration::ZERO);
        assert!(!doorkeeper.knows(&key(1)) && !doorkeeper.meet(&key(1)));
        assert!(doorkeeper.knows(&key(1)) && doorkeeper.meet(&key(1)));
        assert!(!doorkeeper.meet(&key(1).variant(b"de")), "a variant is another key");
    }

    #[test]
    fn new_keys_are_rarely_taken_for_old_ones_and_old_ones_never_for_new() {
        let doorkeeper = Doorkeeper::new(Duration::ZERO);
        let mistaken = (0..KEYS).filter(|number| doorkeeper.meet(&key(*number))).count();
        assert!(mistaken < KEYS as usize / 50, "{mistaken} of {KEYS}");
        assert!((0..KEYS).all(|number| doorkeeper.meet(&key(number))));
    }

    #[test]
    fn what_was_not_loaded_for_long_is_forgotten() {
        let doorkeeper = Doorkeeper::new(Duration::ZERO);
        doorkeeper.meet(&key(0));
        for number in 1..4 * KEYS {
            doorkeeper.meet(&key(number));
        }
        let known = (0..100).filter(|number| doorkeeper.meet(&key(*number))).count();
        assert!(known < 20, "{known} of 100");
    }
}
