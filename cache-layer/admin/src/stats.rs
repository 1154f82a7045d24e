//! Recent counts: three rings of 60 slots, for a minute, a quarter of an hour and a day.

use std::time::Duration;

use cache_layer::telemetry::{Event, LoadOutcome, LookupEvent, LookupResult, NoCacheReason, Tier};

/// Slots of a ring.
pub(crate) const SLOTS: usize = 60;

/// The name of each ring, and the number of seconds in its slots.
pub(crate) const RINGS: [(&str, u64); 3] = [("1m", 1), ("15m", 15), ("24h", 24 * 60)];

/// The number of buckets, by powers of two of microseconds; look-ups of more than two minutes are in the last one.
const BUCKETS: usize = 28;

/// The counts of one slot.
#[derive(Clone, Default)]
pub(crate) struct Slot {
    /// The number of its time slot: counts of an earlier one are ignored.
    number: u64,
    pub(crate) counts: Counts,
}

#[derive(Clone, Default)]
pub(crate) struct Counts {
    /// By result, in the order of [`LookupResult::ALL`].
    pub(crate) lookups: [u64; 7],
    /// Hits by tier: memory, store.
    pub(crate) hits_by_tier: [u64; 2],
    pub(crate) bypasses: u64,
    pub(crate) loads: u64,
    pub(crate) failed_loads: u64,
    pub(crate) load_millis: u64,
    pub(crate) saved_millis: u64,
    pub(crate) not_stored: u64,
    /// Why requests bypassed the cache and responses were not stored.
    pub(crate) reasons: Vec<(NoCacheReason, u64)>,
    /// How long hits took, by tier, in buckets by powers of two of microseconds.
    durations: [[u32; BUCKETS]; 2],
}

/// The three rings.
pub(crate) struct Rings([Box<[Slot]>; RINGS.len()]);

impl Default for Rings {
    fn default() -> Self {
        Self(std::array::from_fn(|_| vec![Slot::default(); SLOTS].into()))
    }
}

impl Rings {
    /// Counts `event`, which happened `now` seconds after the Unix epoch.
    pub(crate) fn count(&mut self, event: Event, now: u64) {
        for (ring, (_, seconds)) in self.0.iter_mut().zip(RINGS) {
            let number = now / seconds;
            let slot = &mut ring[(number % SLOTS as u64) as usize];
            if slot.number != number {
                *slot = Slot { number, ..Slot::default() };
            }
            slot.counts.count(event);
        }
    }

    /// The slots of one ring, the oldest first, each with its start; slots without counts are included.
    pub(crate) fn read(&self, ring: usize, now: u64) -> impl Iterator<Item = (u64, Option<&Counts>)> {
        let seconds = RINGS[ring].1;
        let last = now / seconds;
        (0..SLOTS as u64).rev().map(move |back| {
            let number = last.saturating_sub(back);
            let slot = &self.0[ring][(number % SLOTS as u64) as usize];
            (number * seconds, (slot.number == number).then_some(&slot.counts))
        })
    }
}

impl Counts {
    fn count(&mut self, event: Event) {
        match event {
            Event::Lookup(lookup) => self.count_lookup(lookup),
            Event::Bypass(reason) => {
                self.bypasses += 1;
                self.because(reason, 1);
            }
            Event::NotStored(reason) => {
                self.not_stored += 1;
                self.because(reason, 1);
            }
            Event::Loaded { outcome, duration } => {
                self.loads += 1;
                self.load_millis += millis(duration);
                let failed = matches!(outcome, LoadOutcome::Failed | LoadOutcome::Lost);
                self.failed_loads += u64::from(failed);
            }
            _ => {}
        }
    }

    fn count_lookup(&mut self, lookup: LookupEvent) {
        if let Some(place) = LookupResult::ALL.iter().position(|result| *result == lookup.result)
            && let Some(count) = self.lookups.get_mut(place)
        {
            *count += 1;
        }
        self.saved_millis += millis(lookup.saved);
        if let Some(tier) = tier(lookup.tier).filter(|_| lookup.result.is_hit()) {
            self.hits_by_tier[tier] += 1;
            let micros = u64::try_from(lookup.duration.as_micros()).unwrap_or(u64::MAX);
            let bucket = (u64::BITS - micros.leading_zeros()) as usize;
            let count = &mut self.durations[tier][bucket.min(BUCKETS - 1)];
            *count = count.saturating_add(1);
        }
    }

    fn because(&mut self, reason: NoCacheReason, times: u64) {
        match self.reasons.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, count)) => *count += times,
            None => self.reasons.push((reason, times)),
        }
    }

    pub(crate) fn add(&mut self, other: &Self) {
        add(&mut self.lookups, &other.lookups);
        add(&mut self.hits_by_tier, &other.hits_by_tier);
        self.bypasses += other.bypasses;
        self.loads += other.loads;
        self.failed_loads += other.failed_loads;
        self.load_millis += other.load_millis;
        self.saved_millis += other.saved_millis;
        self.not_stored += other.not_stored;
        other.reasons.iter().for_each(|(reason, count)| self.because(*reason, *count));
        for (mine, theirs) in self.durations.iter_mut().zip(&other.durations) {
            mine.iter_mut().zip(theirs).for_each(|(mine, theirs)| *mine = mine.saturating_add(*theirs));
        }
    }

    pub(crate) fn hits(&self) -> u64 {
        self.of(LookupResult::is_hit)
    }

    pub(crate) fn misses(&self) -> u64 {
        self.of(|result| !result.is_hit())
    }

    fn of(&self, is: impl Fn(LookupResult) -> bool) -> u64 {
        LookupResult::ALL.iter().zip(self.lookups).filter(|(result, _)| is(**result)).map(|(_, count)| count).sum()
    }

    /// The duration in microseconds that this share of a tier's hits did not exceed: the upper end of a bucket, at most twice the
    /// true value.
    pub(crate) fn quantile(&self, tier: usize, share: f64) -> Option<u64> {
        let durations = &self.durations[tier];
        let all: u64 = durations.iter().map(|count| u64::from(*count)).sum();
        let wanted = ((all as f64 * share).ceil() as u64).max(1);
        let mut below = 0;
        let reached = durations.iter().position(|count| {
            below += u64::from(*count);
            below >= wanted
        });
        reached.map(|bucket| 1 << bucket)
    }
}

fn add<const N: usize>(mine: &mut [u64; N], theirs: &[u64; N]) {
    mine.iter_mut().zip(theirs).for_each(|(mine, theirs)| *mine += theirs);
}

fn tier(tier: Tier) -> Option<usize> {
    match tier {
        Tier::Memory => Some(0),
        Tier::Store => Some(1),
        _ => None,
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookup(result: LookupResult, tier: Tier, micros: u64) -> Event {
        let mut lookup = LookupEvent::new(result, tier);
        lookup.duration = Duration::from_micros(micros);
        lookup.saved = Duration::from_millis(2);
        Event::Lookup(lookup)
    }

    fn total(rings: &Rings, ring: usize, now: u64) -> Counts {
        let mut total = Counts::default();
        rings.read(ring, now).filter_map(|(_, counts)| counts).for_each(|counts| total.add(counts));
        total
    }

    #[test]
    fn each_ring_forgets_what_is_older_than_itself() {
        let mut rings = Rings::default();
        let begin = 1_000_000_000;
        for second in 0..120 {
            rings.count(lookup(LookupResult::Hit, Tier::Memory, 3), begin + second);
        }
        let now = begin + 119;
        assert_eq!(total(&rings, 0, now).hits(), 60);
        assert_eq!(total(&rings, 1, now).hits(), 120);
        assert_eq!(total(&rings, 2, now).hits(), 120);
        assert_eq!(total(&rings, 0, now + 30).hits(), 30);
        assert_eq!(total(&rings, 0, now + 60).hits(), 0);
        assert_eq!(total(&rings, 1, now + 900).hits(), 0);
        assert_eq!(rings.read(0, now).count(), SLOTS);
    }

    #[test]
    fn quantiles_are_of_the_tier_that_answered() {
        let mut rings = Rings::default();
        for _ in 0..98 {
            rings.count(lookup(LookupResult::Hit, Tier::Memory, 3), 90);
        }
        for _ in 0..2 {
            rings.count(lookup(LookupResult::Hit, Tier::Memory, 900), 90);
        }
        rings.count(lookup(LookupResult::Stale, Tier::Store, 300), 90);
        rings.count(lookup(LookupResult::Miss, Tier::None, 1_000_000), 90);
        let counts = total(&rings, 0, 90);
        assert_eq!([0.5, 0.99].map(|share| counts.quantile(0, share)), [Some(4), Some(1024)]);
        assert_eq!(counts.quantile(1, 0.5), Some(512));
        assert_eq!((counts.hits(), counts.misses(), counts.hits_by_tier), (101, 1, [100, 1]));
        assert_eq!(counts.saved_millis, 204);
        assert_eq!(Counts::default().quantile(0, 0.5), None);
    }

    #[test]
    fn reasons_are_counted_by_name() {
        let mut rings = Rings::default();
        rings.count(Event::Bypass(NoCacheReason::Cookie), 90);
        rings.count(Event::NotStored(NoCacheReason::NoStore), 90);
        rings.count(Event::NotStored(NoCacheReason::NoStore), 91);
        let counts = total(&rings, 0, 91);
        assert_eq!(counts.reasons, [(NoCacheReason::Cookie, 1), (NoCacheReason::NoStore, 2)]);
        assert_eq!((counts.bypasses, counts.not_stored), (1, 2));
    }
}
