//! The keys that have a fresh entry, as far as this process knows: a look-up of any other key is most likely followed by a load.
//!
//! That is a guess, and its quality depends on the requests: in a fleet that has filled the store, each process finds entries
//! that others stored. So the guess is checked against the results, and not used for as long as it is wrong too often.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use crate::key::KeyId;

/// The number of keys that are remembered, each in one of the cells that its digest selects: a cache line of them.
const CELLS: usize = 1 << 14;
const WAYS: usize = 8;
/// Moments are rounded up to this many milliseconds; and the bits for them.
const TICK: u64 = 16;
const MOMENT_BITS: u32 = 38;
const MOMENT: u64 = (1 << MOMENT_BITS) - 1;

/// A wrong guess costs a lease that has to be given back, a right one saves a round trip: one in five may be wrong.
const WRONG: i64 = -4;
const RIGHT: i64 = 1;
/// Limits how long it takes until the guess is trusted again.
const EXTREME: i64 = 64;

pub(crate) struct FreshKeys {
    /// The digits that distinguish a key from others at its cell, and until when it is fresh.
    cells: Box<[AtomicU64]>,
    trust: AtomicI64,
}

impl Default for FreshKeys {
    fn default() -> Self {
        Self { cells: (0..CELLS).map(|_| AtomicU64::new(0)).collect(), trust: AtomicI64::new(0) }
    }
}

impl FreshKeys {
    /// Notes that there is an entry that is fresh until this moment, in milliseconds since the Unix epoch.
    pub(crate) fn note(&self, id: KeyId, fresh_until: u64) {
        let (cells, fingerprint) = self.cells(id);
        let moment = |known: u64| known & MOMENT;
        // If there is no room, the key whose freshness ends first is replaced.
        let (mut cell, mut first) = (&cells[0], u64::MAX);
        for one in cells {
            let known = one.load(Ordering::Relaxed);
            if known >> MOMENT_BITS == fingerprint {
                cell = one;
                break;
            }
            if moment(known) < first {
                (cell, first) = (one, moment(known));
            }
        }
        cell.store(fingerprint << MOMENT_BITS | fresh_until.div_ceil(TICK).min(MOMENT), Ordering::Relaxed);
    }

    /// Notes that there is no such entry any more.
    pub(crate) fn forget(&self, id: KeyId) {
        let (cells, fingerprint) = self.cells(id);
        for cell in cells {
            if cell.load(Ordering::Relaxed) >> MOMENT_BITS == fingerprint {
                cell.store(0, Ordering::Relaxed);
            }
        }
    }

    /// Whether there is a fresh entry at `now`.
    pub(crate) fn has(&self, id: KeyId, now: u64) -> bool {
        let (cells, fingerprint) = self.cells(id);
        cells.iter().any(|cell| {
            let known = cell.load(Ordering::Relaxed);
            known >> MOMENT_BITS == fingerprint && now / TICK < known & MOMENT
        })
    }

    /// Whether a key without a known fresh entry is assumed to be loaded next.
    pub(crate) fn is_trusted(&self) -> bool {
        self.trust.load(Ordering::Relaxed) >= 0
    }

    /// Learns whether a key without a known fresh entry was loaded (`right`) or not.
    pub(crate) fn learn(&self, right: bool) {
        let (trust, change) = (self.trust.load(Ordering::Relaxed), if right { RIGHT } else { WRONG });
        let changed = (trust + change).clamp(-EXTREME, EXTREME);
        // Written only if it changes; an update that is lost to a concurrent one makes no difference.
        if changed != trust {
            self.trust.store(changed, Ordering::Relaxed);
        }
    }

    /// The cells of a key, and the digits that distinguish it from others there.
    fn cells(&self, id: KeyId) -> (&[AtomicU64], u64) {
        let digest = u128::from_be_bytes(id.primary);
        let first = (digest >> 64) as usize % (CELLS / WAYS) * WAYS;
        (&self.cells[first..first + WAYS], digest as u64 >> MOMENT_BITS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Key;

    const NOW: u64 = 1_800_000_000_000;

    #[test]
    fn a_key_is_fresh_until_it_is_not() {
        let (fresh, id) = (FreshKeys::default(), Key::new(["k"]).id());
        assert!(!fresh.has(id, NOW));
        fresh.note(id, NOW + 1_000);
        assert!(fresh.has(id, NOW) && fresh.has(id, NOW + 999));
        assert!(!fresh.has(id, NOW + 1_000 + TICK));
        assert!(!fresh.has(Key::new(["other"]).id(), NOW));
        fresh.forget(Key::new(["other"]).id());
        assert!(fresh.has(id, NOW));
        fresh.forget(id);
        assert!(!fresh.has(id, NOW));
        fresh.note(id, u64::MAX);
        assert!(fresh.has(id, NOW));
    }

    #[test]
    fn a_guess_that_is_wrong_too_often_is_not_made_until_it_would_be_right_again() {
        let fresh = FreshKeys::default();
        assert!(fresh.is_trusted());
        (0..1_000).for_each(|_| fresh.learn(false));
        assert!(!fresh.is_trusted());
        (0..EXTREME).for_each(|_| fresh.learn(true));
        assert!(fresh.is_trusted());
        (0..1_000).for_each(|_| fresh.learn(true));
        (0..=EXTREME / -WRONG).for_each(|_| fresh.learn(false));
        assert!(!fresh.is_trusted());
    }

    #[test]
    fn few_of_those_that_fit_forget_one_another() {
        let fresh = FreshKeys::default();
        let keys: Vec<KeyId> = (0..CELLS / 4).map(|number| Key::new([number.to_string()]).id()).collect();
        keys.iter().for_each(|id| fresh.note(*id, NOW));
        assert!(keys.iter().filter(|id| fresh.has(**id, NOW - 1_000)).count() > keys.len() * 99 / 100);
    }
}
