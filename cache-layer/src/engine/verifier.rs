//! Which hits are verified, and which entries are in doubt.
//!
//! An entry that differs from a later load is in doubt until a hit of it loads it once more. If both loads return the same, the
//! entry is outdated; otherwise the resource is different each time. The second load counts towards the same budget. The variants
//! of a key are in doubt each by itself.

use std::{
    collections::VecDeque,
    hash::BuildHasher as _,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;
use xxhash_rust::xxh3::Xxh3Default;

use crate::{
    entry::{Entry, EntryId},
    key::{Hashed, Key},
    policy::Verify,
    switches::Switches,
    sync::Mutex,
    telemetry::Difference,
};

/// The most verifications under way at one time. Further hits that would be due are not verified.
pub(super) const AT_ONCE: usize = 16;
/// The most entries in doubt at one time. The time limit below keeps a resource that changes often from being taken for one that
/// is different each time.
const DOUBTS: usize = 64;
pub(super) const DOUBT: Duration = Duration::from_secs(30);

/// Decides which hits are verified. Clones share the state.
#[derive(Clone, Debug)]
pub(crate) struct Verifier(Arc<State>);

#[derive(Debug)]
struct State {
    settings: Verify,
    rate: Rate,
    sampling: Sampling,
    /// The operator's switches, if the cache has them, whose rate takes precedence.
    switches: Option<Arc<Switches>>,
    running: Running,
    doubts: Mutex<VecDeque<Doubt>>,
    doubtful: Doubtful,
    /// The number of entries in doubt, and of the turns that are reserved for them.
    doubted: AtomicUsize,
    kept: AtomicUsize,
}

/// An entry that differs from a later load.
#[derive(Debug)]
struct Doubt {
    /// The key of its hits.
    key: Key,
    /// The bytes of its own key, which for a variant is another one.
    own: Box<[u8]>,
    entry: EntryId,
    loaded: Print,
    until: Instant,
}

impl Doubt {
    /// Whether it is about this entry, or one that had its place.
    fn is_about(&self, entry: &Entry) -> bool {
        *self.own == **entry.canonical()
    }
}

/// Which hits are verified: one of each `1 / rate` in a row, at random. So there are never more, and a periodic pattern of
/// requests can't evade the sampling. The rate may change from hit to hit.
#[derive(Debug)]
struct Sampling {
    seed: u64,
    /// The sum of the rates of all hits, in units of 2^-32. Each stretch of length 1 has one hit that is verified.
    position: AtomicU64,
    /// No hit before this position is verified. Most hits look at nothing else.
    next: AtomicU64,
}

impl Sampling {
    fn new() -> Self {
        Self { seed: fastrand::u64(..), position: AtomicU64::new(0), next: AtomicU64::new(0) }
    }

    /// Whether the next hit is drawn.
    #[inline(always)]
    fn draws(&self, Rate(rate): Rate) -> bool {
        // Before the position: what is read here was said of positions that come earlier than this hit's.
        let next = self.next.load(Ordering::Acquire);
        let begin = self.position.fetch_add(rate, Ordering::Relaxed);
        let passes_by = next.wrapping_sub(begin.wrapping_add(rate)).cast_signed() >= 0;
        !passes_by && self.draws_at(begin, rate)
    }

    /// Whether the hit at this position is drawn. It is as long as its rate, which is at most one stretch.
    #[cold]
    fn draws_at(&self, begin: u64, rate: u64) -> bool {
        let from_here = |place: u64| place.wrapping_sub(begin);
        let places = [0, 1, 2].map(|further| from_here(self.place_in((begin >> 32) + further)));
        // Those that are behind are a long way ahead.
        let nearest = |from: u64| places.into_iter().filter(|place| *place >= from).min().unwrap_or(from);
        self.next.store(begin.wrapping_add(nearest(rate)), Ordering::Release);
        nearest(0) < rate
    }

    /// The position of the hit that is verified in this stretch (splitmix64). After the 2^32nd stretch, the first follows.
    fn place_in(&self, stretch: u64) -> u64 {
        let stretch = stretch & 0xffff_ffff;
        let mut mixed = self.seed.wrapping_add(stretch.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        stretch << 32 | ((mixed ^ (mixed >> 31)) & 0xffff_ffff)
    }
}

/// A share of the hits, in units of 2^-32: at most 2^32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rate(u64);

impl From<f64> for Rate {
    fn from(rate: f64) -> Self {
        Self((rate * 4_294_967_296.0) as u64)
    }
}

/// The verifications that are under way, of all verifiers that share the limit.
#[derive(Clone, Debug, Default)]
pub(crate) struct Running(Arc<AtomicUsize>);

/// The place of one of them, until it is dropped.
#[derive(Debug)]
pub(super) struct Run(Running);

impl Running {
    fn begin(&self) -> Option<Run> {
        let run = Run(self.clone());
        (self.0.fetch_add(1, Ordering::Relaxed) < AT_ONCE).then_some(run)
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The keys of the entries in doubt, and a few others that look the same: a hit of any other key need not look at the list.
#[derive(Debug, Default)]
struct Doubtful([AtomicU64; 16]);

impl Doubtful {
    fn bit_of(key: &Key) -> (usize, u64) {
        let hash = Hashed::default().hash_one(key.hash());
        ((hash >> 6) as usize % 16, 1 << (hash % 64))
    }

    fn may_have(&self, key: &Key) -> bool {
        let (word, bit) = Self::bit_of(key);
        self.0[word].load(Ordering::Relaxed) & bit != 0
    }

    fn set(&self, doubts: &VecDeque<Doubt>) {
        let mut bits = [0; 16];
        for (word, bit) in doubts.iter().map(|doubt| Self::bit_of(&doubt.key)) {
            bits[word] |= bit;
        }
        for (word, bits) in self.0.iter().zip(bits) {
            word.store(bits, Ordering::Relaxed);
        }
    }
}

/// The turn of a hit that may be verified.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turn<'a> {
    pub(super) verifier: &'a Verifier,
    /// Whether the hit was drawn. Otherwise it is verified only if it is of an entry in doubt, for which a turn was kept.
    drawn: bool,
}

/// A digest of the compared parts of a response, or of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Print {
    pub(crate) status: u16,
    pub(crate) fields: u64,
    pub(crate) body: u128,
}

impl Print {
    /// The print of a value.
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

/// Computes the print of a body as it arrives.
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

impl Turn<'_> {
    /// The place of the verification of a hit of `key`, if it is verified. `found`: the entry that was hit, if that is known.
    pub(super) fn enter(self, key: &Key, found: Option<&Entry>) -> Option<Run> {
        let Self { verifier, drawn } = self;
        verifier.0.running.begin().filter(|_| verifier.verifies(drawn, key, found))
    }
}

impl Verifier {
    /// A verifier whose verifications are among those that are `running`. `None` if no hit can ever be verified: the rate is zero,
    /// and there are no switches by which an operator changes it.
    pub(crate) fn new(settings: Option<&Verify>, switches: Option<Arc<Switches>>, running: &Running) -> Option<Self> {
        let settings = settings.cloned().unwrap_or_else(|| Verify::new(0.0));
        (settings.rate() > 0.0 || switches.is_some()).then(|| {
            Self(Arc::new(State {
                rate: settings.rate().into(),
                settings,
                sampling: Sampling::new(),
                switches,
                running: running.clone(),
                doubts: Mutex::default(),
                doubtful: Doubtful::default(),
                doubted: AtomicUsize::new(0),
                kept: AtomicUsize::new(0),
            }))
        })
    }

    pub(crate) fn settings(&self) -> &Verify {
        &self.0.settings
    }

    /// The share of the hits that is verified now.
    #[inline(always)]
    fn rate(&self) -> Rate {
        let switched = self.0.switches.as_ref().and_then(|switches| switches.rate());
        switched.map_or(self.0.rate, Rate::from)
    }

    /// The turn of the next hit, of `key`, if it may be verified. Few are, and all the others go on as they do without
    /// verification.
    #[inline(always)]
    pub(crate) fn turn(&self, key: &Key) -> Option<Turn<'_>> {
        let State { sampling, kept, .. } = &*self.0;
        let rate = self.rate();
        if rate == Rate(0) {
            return None;
        }
        let drawn = sampling.draws(rate);
        (drawn || kept.load(Ordering::Relaxed) > 0 && self.may_doubt(key)).then_some(Turn { verifier: self, drawn })
    }

    /// Whether an entry of `key` may be in doubt. Hits ask while a turn is kept, all of them: this takes no lock.
    #[cold]
    fn may_doubt(&self, key: &Key) -> bool {
        self.0.doubtful.may_have(key)
    }

    /// Whether a hit of `key` is verified that is drawn, or is not.
    fn verifies(&self, drawn: bool, key: &Key, found: Option<&Entry>) -> bool {
        let State { doubted, kept, .. } = &*self.0;
        if doubted.load(Ordering::Relaxed) == 0 {
            kept.store(0, Ordering::Relaxed);
            return drawn;
        }
        let has_doubt = self.has_doubt_of(key, found);
        let doubts = doubted.load(Ordering::Relaxed);
        match (drawn, has_doubt) {
            (drawn, false) => {
                // Entries in doubt come first.
                let keep = |kept: usize| (kept < doubts).then_some(kept + 1);
                drawn && kept.fetch_update(Ordering::Relaxed, Ordering::Relaxed, keep).is_err()
            }
            (true, true) => true,
            (false, true) => {
                kept.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |kept: usize| kept.checked_sub(1)).is_ok()
            }
        }
    }

    /// Whether the entry that was hit is in doubt; if it is not known, whether any entry of `key` is.
    fn has_doubt_of(&self, key: &Key, found: Option<&Entry>) -> bool {
        let mut doubts = self.0.doubts.lock();
        let now = Instant::now();
        while doubts.front().is_some_and(|doubt| doubt.until <= now) {
            doubts.pop_front();
        }
        let has = doubts.iter().any(|doubt| found.map_or_else(|| doubt.key == *key, |entry| doubt.is_about(entry)));
        self.note(&doubts);
        has
    }

    fn note(&self, doubts: &VecDeque<Doubt>) {
        self.0.doubtful.set(doubts);
        self.0.doubted.store(doubts.len(), Ordering::Relaxed);
        self.0.kept.fetch_min(doubts.len(), Ordering::Relaxed);
    }

    /// The print of the load that differed from this entry, if the entry is in doubt.
    pub(super) fn take_doubt(&self, entry: &Entry) -> Option<Print> {
        let mut doubts = self.0.doubts.lock();
        let place = doubts.iter().position(|doubt| doubt.is_about(entry))?;
        let doubt = doubts.remove(place)?;
        self.note(&doubts);
        (doubt.entry == entry.id()).then_some(doubt.loaded)
    }

    /// Notes that an entry, found by a hit of `key`, differs from this load.
    pub(super) fn doubts(&self, key: &Key, entry: &Entry, loaded: Print) {
        let mut doubts = self.0.doubts.lock();
        doubts.retain(|doubt| !doubt.is_about(entry));
        if doubts.len() >= DOUBTS {
            doubts.pop_front();
        }
        // Copied, since it may be a slice of all that came with it.
        let own = entry.canonical().as_ref().into();
        doubts.push_back(Doubt { key: key.clone(), own, entry: entry.id(), loaded, until: Instant::now() + DOUBT });
        self.note(&doubts);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{
        entry::Deadlines,
        switches::{Switch, SwitchState},
    };

    fn entry_of(key: &Key) -> Entry {
        Entry::new(EntryId::random(), key, Deadlines::fresh_until(1), Bytes::new(), Bytes::new())
    }

    #[test]
    fn as_many_are_drawn_as_the_rate_says_and_never_more() {
        for (rate, hits) in [(1.0, 1_000_u64), (0.5, 1_000), (0.3, 10_000), (0.001, 100_000), (1.0 / 3.0, 9_999)] {
            let sampling = Sampling::new();
            let mut drawn = 0_u64;
            for hit in 1..=hits {
                drawn += u64::from(sampling.draws(rate.into()));
                assert!(drawn as f64 <= (hit as f64 * rate).ceil(), "{drawn} of {hit} at {rate}");
            }
            let expected = hits as f64 * rate;
            assert!(drawn as f64 >= expected.mul_add(0.98, -2.0) || rate > 0.25, "{drawn} of {expected}");
            assert!(drawn as f64 >= expected * 0.6, "{drawn} of {expected}");
        }
        for none in [0.0, f64::NAN] {
            assert!(Verifier::new(Some(&Verify::new(none)), None, &Running::default()).is_none());
        }
        assert!(Verifier::new(None, None, &Running::default()).is_none());
        assert_eq!(Verify::new(7.0).rate(), 1.0);
    }

    /// A thread that is overtaken between its look at the next place and its own position loses no draw, and makes none twice.
    #[test]
    fn threads_that_draw_together_draw_as_many_as_one() {
        const EACH: u64 = 200_000;
        for rate in [0.5, 0.01] {
            let sampling = Sampling::new();
            let of_one_thread = || (0..EACH).filter(|_| sampling.draws(rate.into())).count();
            let drawn: usize = std::thread::scope(|scope| {
                let threads = [(); 4].map(|()| scope.spawn(of_one_thread));
                threads.map(|thread| thread.join().unwrap()).into_iter().sum()
            });
            let expected = (4 * EACH) as f64 * rate;
            assert!((drawn as f64 - expected).abs() <= 2.0, "{drawn} instead of {expected}");
        }
    }

    /// After 2^32 stretches, the positions begin again.
    #[test]
    fn the_draws_go_on_after_the_last_position() {
        for rate in [1.0, 0.25, 0.001] {
            let sampling = Sampling::new();
            sampling.position.store(0_u64.wrapping_sub(50 << 32), Ordering::Relaxed);
            sampling.next.store(0_u64.wrapping_sub(50 << 32), Ordering::Relaxed);
            let hits = (100.0 / rate) as u64;
            let drawn = (0..hits).filter(|_| sampling.draws(rate.into())).count();
            assert!((99..=101).contains(&drawn), "{drawn} at {rate}");
        }
    }

    #[test]
    fn a_rate_that_changes_adds_up() {
        let sampling = Sampling::new();
        let (mut drawn, mut sum) = (0_u64, 0.0);
        for hit in 0..10_000 {
            let rate = [0.0, 0.5, 0.001, 1.0, 0.03][hit / 100 % 5];
            sum += rate;
            drawn += u64::from(sampling.draws(rate.into()));
            assert!(drawn as f64 <= f64::ceil(sum + 1e-6), "{drawn} of {sum}");
        }
        // A hit at a rate of 1 may have the turns of two stretches, or none.
        assert!(drawn as f64 > sum * 0.6, "{drawn} of {sum}");
    }

    #[test]
    fn no_more_entries_are_in_doubt_than_there_is_room_for() {
        let verifier = Verifier::new(Some(&Verify::new(1.0)), None, &Running::default()).unwrap();
        let print = Print { status: 200, fields: 0, body: 0 };
        let key = Key::new(["k"]);
        let variants = (0..DOUBTS).map(|number| key.variant(&number.to_be_bytes()));
        let keys = (0..2 * DOUBTS).map(|number| Key::from(("k", number)));
        let entries: Vec<Entry> = keys.chain(variants).map(|key| entry_of(&key)).collect();
        for entry in &entries {
            verifier.doubts(&key, entry, print);
            verifier.doubts(&key, entry, print);
        }
        assert_eq!(verifier.0.doubted.load(Ordering::Relaxed), DOUBTS);
        let (forgotten, kept) = entries.split_at(2 * DOUBTS);
        assert!(forgotten.iter().all(|entry| verifier.take_doubt(entry).is_none()), "the oldest make room");
        assert!(kept.iter().all(|entry| verifier.take_doubt(entry).is_some()));
        assert!(!verifier.may_doubt(&key));
    }

    #[test]
    fn a_turn_that_is_kept_for_one_variant_is_not_taken_by_another() {
        let verifier = Verifier::new(Some(&Verify::new(1e-9)), None, &Running::default()).unwrap();
        let key = Key::new(["k"]);
        let [doubted, other, replaced] = ["de", "en", "de"].map(|language| entry_of(&key.variant(language.as_bytes())));
        verifier.doubts(&key, &doubted, Print { status: 200, fields: 0, body: 0 });
        let has_turn = |found| verifier.turn(&key).and_then(|turn| turn.enter(&key, found)).is_some();
        let keep = || verifier.0.kept.store(1, Ordering::Relaxed);
        for (found, has) in [(&other, false), (&doubted, true), (&replaced, true)] {
            keep();
            assert_eq!(has_turn(Some(found)), has);
        }
        keep();
        assert!(has_turn(None), "it may be that one");
        assert!(verifier.take_doubt(&other).is_none());
        keep();
        assert!(has_turn(Some(&doubted)), "the look at another one left the doubt alone");
        assert!(verifier.take_doubt(&replaced).is_none());
        keep();
        assert!(!has_turn(Some(&doubted)), "it is gone");
    }

    /// While a turn is kept for an entry in doubt, hits of other keys wait for no lock.
    #[test]
    fn a_hit_of_another_key_waits_for_no_entry_in_doubt() {
        let verifier = Verifier::new(Some(&Verify::new(1e-9)), None, &Running::default()).unwrap();
        let doubted = Key::new(["doubted"]);
        let has_turn = |key: &Key| verifier.turn(key).and_then(|turn| turn.enter(key, None)).is_some();
        verifier.doubts(&doubted, &entry_of(&doubted), Print { status: 200, fields: 0, body: 0 });
        verifier.0.kept.store(1, Ordering::Relaxed);
        let (done, is_done) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            let held = verifier.0.doubts.lock();
            scope.spawn(|| {
                let others = (0..1_000).map(|number| Key::from(("k", number)));
                let others: Vec<Key> = others.filter(|key| !verifier.may_doubt(key)).collect();
                assert!(others.len() > 950, "{} of 1000 keys look the same", 1_000 - others.len());
                assert!(!others.iter().any(has_turn));
                done.send(()).unwrap();
            });
            let waited = is_done.recv_timeout(Duration::from_secs(20));
            drop(held);
            assert!(waited.is_ok(), "a hit waits for the lock");
        });
        assert!(has_turn(&doubted), "the turn was kept for it");
        assert!(!has_turn(&doubted));
    }

    #[test]
    fn a_switch_has_precedence_while_it_is_on() {
        let switches = Arc::new(Switches::default());
        let minute = Some(Duration::from_secs(60));
        let on = |rate| SwitchState { rate, ..SwitchState::new(Switch::VerificationRate, minute) };
        let off = SwitchState::off(Switch::VerificationRate);
        let key = Key::new(["k"]);
        let enters = |verifier: &Verifier| verifier.turn(&key).and_then(|turn| turn.enter(&key, None)).is_some();
        let [unset, set] = [None, Some(Verify::new(1.0))]
            .map(|settings| Verifier::new(settings.as_ref(), Some(switches.clone()), &Running::default()).unwrap());
        assert_eq!((enters(&unset), enters(&set)), (false, true));
        switches.set(on(1.0));
        assert!(enters(&unset));
        switches.set(on(0.0));
        assert!(!enters(&set));
        switches.set(off);
        assert_eq!((enters(&unset), enters(&set)), (false, true));
    }

    #[test]
    fn no_rhythm_of_requests_escapes_it() {
        let sampling = Sampling::new();
        let mut drawn = [0_u64; 100];
        for hit in 0..200_000 {
            drawn[hit % 100] += u64::from(sampling.draws(0.01.into()));
        }
        assert!(drawn.iter().filter(|times| **times > 0).count() > 90, "{drawn:?}");
    }
}
