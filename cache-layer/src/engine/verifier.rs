//! Which hits are verified, and what is in doubt since.
//!
//! An entry that differs from what was loaded since is in doubt, until a later hit of its key has it loaded once more: what says
//! the same as the load before is stale, and what says something else again is never the same twice. That load is one of the same
//! budget.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;
use xxhash_rust::xxh3::Xxh3Default;

use crate::{entry::EntryId, key::Key, policy::Verify, sync::Mutex, telemetry::Difference};

/// Verifications under way at one time. Hits whose turn it would be beyond that are not verified.
pub(super) const AT_ONCE: usize = 16;
/// Entries in doubt at one time, and for how long: what changes often is not to look as if it did each time.
const DOUBTS: usize = 64;
pub(super) const DOUBT: Duration = Duration::from_secs(30);

/// What some hits are verified by. Clones are one.
#[derive(Clone, Debug)]
pub(crate) struct Verifier(Arc<State>);

#[derive(Debug)]
struct State {
    settings: Verify,
    sampling: Sampling,
    under_way: AtomicUsize,
    doubts: Mutex<VecDeque<Doubt>>,
    /// How many there may be, and turns that are kept for them.
    doubted: AtomicUsize,
    kept: AtomicUsize,
}

/// An entry that differs from what was loaded since.
#[derive(Debug)]
struct Doubt {
    key: Key,
    entry: EntryId,
    loaded: Print,
    until: Instant,
}

/// Which hits are verified: of each `1 / rate` in a row one, at random. So there are never more, and no rhythm of the requests
/// escapes it.
#[derive(Debug)]
struct Sampling {
    /// In parts of 2^32.
    rate: u64,
    seed: u64,
    hits: AtomicU64,
}

impl Sampling {
    fn new(rate: f64) -> Self {
        // At most 2^32.
        Self { rate: (rate * 4_294_967_296.0) as u64, seed: fastrand::u64(..), hits: AtomicU64::new(0) }
    }

    fn draws(&self) -> bool {
        let hit = u128::from(self.hits.fetch_add(1, Ordering::Relaxed));
        let (from, to) = (hit * u128::from(self.rate), (hit + 1) * u128::from(self.rate));
        let drawn = |stretch: u128| (from..to).contains(&(stretch << 32 | u128::from(self.place_in(stretch))));
        drawn(from >> 32) || drawn(to >> 32)
    }

    /// Where in a stretch of hits the one is that is drawn (splitmix64).
    fn place_in(&self, stretch: u128) -> u32 {
        let mut mixed = self.seed.wrapping_add((stretch as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) as u32
    }
}

/// What of a response, or of a value, is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Print {
    pub(crate) status: u16,
    pub(crate) fields: u64,
    pub(crate) body: u128,
}

impl Print {
    /// Of a value.
    #[cfg(feature = "typed")]
    pub(crate) fn of_value(bytes: &[u8]) -> Self {
        Self { status: 0, fields: 0, body: xxhash_rust::xxh3::xxh3_128(bytes) }
    }

    pub(super) fn differs_from(&self, other: &Self) -> Option<Difference> {
        match () {
            () if self.status != other.status => Some(Difference::Status),
            () if self.body != other.body => Some(Difference::Body),
            () if self.fields != other.fields => Some(Difference::Fields),
            () => None,
        }
    }
}

/// A print of a body, as it comes in.
pub(crate) struct Printing(Xxh3Default);

impl Printing {
    pub(crate) fn new() -> Self {
        Self(Xxh3Default::new())
    }

    pub(crate) fn add(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(crate) fn body(&self) -> u128 {
        self.0.digest128()
    }

    pub(crate) fn fields(&self) -> u64 {
        self.0.digest()
    }
}

impl Verifier {
    /// None if no hit is to be verified.
    pub(crate) fn new(settings: &Verify) -> Option<Self> {
        let sampling = Sampling::new(settings.rate());
        (sampling.rate > 0).then(|| {
            Self(Arc::new(State {
                settings: settings.clone(),
                sampling,
                under_way: AtomicUsize::new(0),
                doubts: Mutex::default(),
                doubted: AtomicUsize::new(0),
                kept: AtomicUsize::new(0),
            }))
        })
    }

    pub(crate) fn settings(&self) -> &Verify {
        &self.0.settings
    }

    /// Whether a hit of `key` is verified now; then it is to [leave](Self::leave) once it has been.
    pub(super) fn enter(&self, key: &Key) -> bool {
        if !self.is_turn_of(key) {
            return false;
        }
        let enters = self.0.under_way.fetch_add(1, Ordering::Relaxed) < AT_ONCE;
        if !enters {
            self.leave();
        }
        enters
    }

    pub(super) fn leave(&self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }

    fn is_turn_of(&self, key: &Key) -> bool {
        let State { sampling, doubted, kept, .. } = &*self.0;
        let drawn = sampling.draws();
        if doubted.load(Ordering::Relaxed) == 0 {
            return drawn;
        }
        let has_doubt = self.has_doubt_of(key);
        let doubts = doubted.load(Ordering::Relaxed);
        match (drawn, has_doubt) {
            (drawn, false) => {
                // What is in doubt comes first.
                let keep = |kept: usize| (kept < doubts).then_some(kept + 1);
                drawn && kept.fetch_update(Ordering::Relaxed, Ordering::Relaxed, keep).is_err()
            }
            (true, true) => true,
            (false, true) => {
                kept.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |kept: usize| kept.checked_sub(1)).is_ok()
            }
        }
    }

    fn has_doubt_of(&self, key: &Key) -> bool {
        let mut doubts = self.0.doubts.lock();
        let now = Instant::now();
        while doubts.front().is_some_and(|doubt| doubt.until <= now) {
            doubts.pop_front();
        }
        let has = doubts.iter().any(|doubt| doubt.key == *key);
        self.note(&doubts);
        has
    }

    fn note(&self, doubts: &VecDeque<Doubt>) {
        self.0.doubted.store(doubts.len(), Ordering::Relaxed);
        self.0.kept.fetch_min(doubts.len(), Ordering::Relaxed);
    }

    /// What was loaded before in place of this entry, if it is in doubt.
    pub(super) fn take_doubt(&self, key: &Key, entry: EntryId) -> Option<Print> {
        let mut doubts = self.0.doubts.lock();
        let place = doubts.iter().position(|doubt| doubt.key == *key)?;
        let doubt = doubts.remove(place)?;
        self.note(&doubts);
        (doubt.entry == entry).then_some(doubt.loaded)
    }

    pub(super) fn doubts(&self, key: &Key, entry: EntryId, loaded: Print) {
        let mut doubts = self.0.doubts.lock();
        doubts.retain(|doubt| doubt.key != *key);
        if doubts.len() >= DOUBTS {
            doubts.pop_front();
        }
        doubts.push_back(Doubt { key: key.clone(), entry, loaded, until: Instant::now() + DOUBT });
        self.note(&doubts);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_are_drawn_as_the_rate_says_and_never_more() {
        for (rate, hits) in [(1.0, 1_000_u64), (0.5, 1_000), (0.3, 10_000), (0.001, 100_000), (1.0 / 3.0, 9_999)] {
            let sampling = Sampling::new(rate);
            let mut drawn = 0_u64;
            for hit in 1..=hits {
                drawn += u64::from(sampling.draws());
                assert!(drawn as f64 <= (hit as f64 * rate).ceil(), "{drawn} of {hit} at {rate}");
            }
            let expected = hits as f64 * rate;
            assert!(drawn as f64 >= expected.mul_add(0.98, -2.0) || rate > 0.25, "{drawn} of {expected}");
            assert!(drawn as f64 >= expected * 0.6, "{drawn} of {expected}");
        }
        assert!(Verifier::new(&Verify::new(0.0)).is_none() && Verifier::new(&Verify::new(f64::NAN)).is_none());
        assert_eq!(Verify::new(7.0).rate(), 1.0);
    }

    #[test]
    fn no_rhythm_of_requests_escapes_it() {
        let sampling = Sampling::new(0.01);
        let mut drawn = [0_u64; 100];
        for hit in 0..200_000 {
            drawn[hit % 100] += u64::from(sampling.draws());
        }
        assert!(drawn.iter().filter(|times| **times > 0).count() > 90, "{drawn:?}");
    }
}
