//! Entries in memory, bounded by bytes.

use std::{
    array,
    cell::Cell,
    hash::{BuildHasher, Hash},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use quick_cache::{
    DefaultHashBuilder, Lifecycle, OptionsBuilder, Weighter,
    sync::{Cache as QuickCache, EntryAction, EntryResult},
};
use smallvec::SmallVec;

use super::Amended;
use crate::{
    clock::{Clock, millis},
    entry::{Entry, EntryId},
    key::{Hashed, KeyHash, KeyId},
    labels::labels,
};

/// The minimum size of a shard in bytes: an entry can't be larger than its shard.
const SHARD: u64 = 8 << 20;
/// The minimum number of shards, once each has that size. While one shard is swept or grows, the others are available.
const SHARDS: u64 = 16;
/// The size in bytes from which on shards are split, up to the maximum number: sweeping a larger shard holds up more requests.
const LARGE_SHARD: u64 = 64 << 20;
const MOST_SHARDS: u64 = 64;
/// The share of its shard, in percent, that an entry may take.
const LARGEST: u64 = 95;
/// The bit of the generation that hides every slot.
#[cfg(feature = "redis")]
const HIDDEN: u64 = 1 << 63;
#[cfg(not(feature = "redis"))]
const HIDDEN: u64 = 0;
/// How long it takes until every shard was swept once, if there are writes.
const ROUND: Duration = Duration::from_secs(60);

labels! {
    /// Why an entry left the memory of this process.
    pub enum Eviction {
        /// There was no room for it, or other entries are asked for more often.
        Size => "size",
        /// It expired.
        Expired => "expired",
        /// It was invalidated, or changed in the store behind this memory.
        Invalidated => "invalidated",
    }
}

/// The identifier by which an entry is found.
pub(crate) trait Place: Copy + Eq + Hash + Send + Sync + 'static {
    type Hashing: BuildHasher + Clone + Default + Send + Sync;

    /// A number that is the same for a key and its variants, and differs otherwise.
    fn shard(self) -> u16;
}

/// The identifier within a process.
impl Place for KeyHash {
    type Hashing = Hashed;

    fn shard(self) -> u16 {
        // These bits are not those that tell the slots of one shard apart.
        (self.primary >> 32) as u16
    }
}

/// The identifier in the server's pushes.
impl Place for KeyId {
    type Hashing = DefaultHashBuilder;

    fn shard(self) -> u16 {
        let [first, second, ..] = self.primary;
        u16::from_be_bytes([first, second])
    }
}

/// A map that holds about a given number of bytes of entries, and keeps those that are asked for (S3-FIFO).
///
/// An expired entry is dropped when it is asked for, when there is no more room, which is soon for an entry that is not
/// asked for, or when its shard is swept.
pub(crate) struct EntryCache<P: Place> {
    shards: Box<[Shard<P>]>,
    /// The bytes that an entry may take.
    largest: u64,
    /// Counts how often the cache was cleared. Slots of an earlier generation are void at once; sweeping drops them.
    generation: AtomicU64,
    /// When the next shard is swept, in milliseconds since the Unix epoch, and how many were swept.
    due: AtomicU64,
    sweeps: AtomicU64,
    /// Milliseconds from one sweep to the next.
    pause: u64,
    evictions: Evictions,
}

struct Shard<P: Place> {
    entries: QuickCache<P, Slot, Weight, P::Hashing, Evictions>,
    /// The [`EntryCache::generation`] in which it was last swept.
    swept: AtomicU64,
}

impl<P: Place> Shard<P> {
    /// Evicts until the slots are within the shard's bytes again: one that has grown in its place has evicted none.
    fn evict_excess(&self) {
        let capacity = self.entries.capacity();
        if self.entries.weight() > capacity {
            // It is what it was; setting it evicts what exceeds it.
            self.entries.set_capacity(capacity);
        }
    }
}

#[derive(Clone)]
struct Slot {
    entry: Entry,
    /// Where the entry came from, as the owner of this cache counts.
    source: u64,
    generation: u64,
    /// When the entry expires; a copy, so that sweeping need not follow the pointer to the entry.
    expires_at: u64,
    /// The weight of the entry when it was inserted.
    weight: u64,
}

#[derive(Clone)]
struct Weight;

impl<P> Weighter<P, Slot> for Weight {
    fn weight(&self, _: &P, slot: &Slot) -> u64 {
        slot.weight
    }
}

/// The number of entries that left, by reason.
#[derive(Clone, Default)]
struct Evictions(Arc<[AtomicU64; Eviction::ALL.len()]>);

impl Evictions {
    fn add(&self, eviction: Eviction, count: u64) {
        if count > 0 {
            self.0[eviction as usize].fetch_add(count, Ordering::Relaxed);
        }
    }
}

/// The slots that had to make room for an entry; dropped once the shard is free again.
struct MadeRoom<P> {
    /// The key of that entry: its own former slot leaves as well.
    inserted: Option<P>,
    left: SmallVec<[Slot; 2]>,
}

impl<P> Default for MadeRoom<P> {
    fn default() -> Self {
        Self { inserted: None, left: SmallVec::new() }
    }
}

impl<P: Place> Lifecycle<P, Slot> for Evictions {
    type RequestState = MadeRoom<P>;

    fn on_evict(&self, state: &mut MadeRoom<P>, place: P, slot: Slot) {
        if state.inserted != Some(place) {
            self.add(Eviction::Size, 1);
        }
        state.left.push(slot);
    }
}

impl<P: Place> EntryCache<P> {
    pub(super) fn new(max_bytes: u64) -> Self {
        Self::swept_within(max_bytes, ROUND)
    }

    fn swept_within(max_bytes: u64, round: Duration) -> Self {
        let count = (max_bytes / SHARD).clamp(1, SHARDS).max((max_bytes / LARGE_SHARD).min(MOST_SHARDS));
        let (bytes, evictions) = (max_bytes.div_ceil(count), Evictions::default());
        let options = OptionsBuilder::new()
            .shards(1)
            // Assumes entries of 2 KiB; half as many keys of evicted entries are remembered, to recognize those that are asked
            // for again.
            .estimated_items_capacity(usize::try_from(bytes / 2048).unwrap_or(usize::MAX).max(16))
            .weight_capacity(bytes)
            .build()
            .expect("a capacity is all that is needed");
        let shard = || Shard {
            entries: QuickCache::with_options(options.clone(), Weight, P::Hashing::default(), evictions.clone()),
            swept: AtomicU64::new(0),
        };
        Self {
            shards: (0..count).map(|_| shard()).collect(),
            largest: bytes / 100 * LARGEST,
            generation: AtomicU64::new(0),
            due: AtomicU64::new(0),
            sweeps: AtomicU64::new(0),
            pause: millis(round) / count,
            evictions,
        }
    }

    /// The shard of a key and its variants.
    fn shard(&self, id: P) -> &Shard<P> {
        &self.shards[usize::from(id.shard()) % self.shards.len()]
    }

    /// The entry, and where it came from. It may have expired, as its deadlines say.
    pub(super) fn peek(&self, id: P) -> Option<(Entry, u64)> {
        self.slot(id).map(|Slot { entry, source, .. }| (entry, source))
    }

    /// The entry, and where it came from. An expired one is dropped.
    pub(super) fn get(&self, id: P) -> Option<(Entry, u64)> {
        let Slot { entry, source, expires_at, .. } = self.slot(id)?;
        if Clock::system().now() < expires_at {
            return Some((entry, source));
        }
        if self.shard(id).entries.remove_if(&id, |slot| slot.entry.id() == entry.id()).is_some() {
            self.evictions.add(Eviction::Expired, 1);
        }
        None
    }

    fn slot(&self, id: P) -> Option<Slot> {
        self.shard(id).entries.get(&id).filter(|slot| slot.generation == self.generation.load(Ordering::SeqCst))
    }

    /// The generation, whether or not the entries are hidden.
    fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst) & !HIDDEN
    }

    /// Hides all entries, or shows them again. Hidden entries can still be changed and removed.
    #[cfg(feature = "redis")]
    pub(super) fn hide(&self, hidden: bool) {
        match hidden {
            true => self.generation.fetch_or(HIDDEN, Ordering::SeqCst),
            false => self.generation.fetch_and(!HIDDEN, Ordering::SeqCst),
        };
    }

    pub(super) fn insert(&self, id: P, entry: Entry, source: u64) {
        self.insert_at(Clock::system().now(), id, entry, source);
    }

    /// As [`insert`](Self::insert), at the moment `now`, in milliseconds since the Unix epoch.
    pub(super) fn insert_at(&self, now: u64, id: P, entry: Entry, source: u64) {
        let (shard, generation) = (self.shard(id), self.generation());
        let expires_at = entry.deadlines().gone;
        self.sweep_if_due(shard, generation, now);
        let weight = entry.weight() as u64;
        let refusal = if expires_at <= now {
            Some(Eviction::Expired)
        } else if weight > self.largest {
            Some(Eviction::Size)
        } else {
            None
        };
        if let Some(refusal) = refusal {
            shard.entries.remove(&id);
            return self.evictions.add(refusal, 1);
        }
        let mut made_room = MadeRoom { inserted: Some(id), ..MadeRoom::default() };
        shard.entries.insert_with_lifecycle(id, Slot { entry, source, generation, expires_at, weight }, &mut made_room);
    }

    /// Replaces the entry with this id by what `amends` makes of it, if the entry is still there, and if it may be that large;
    /// others make room for it. An entry that is removed meanwhile stays removed.
    pub(super) fn amend(&self, id: P, of: EntryId, amends: impl FnOnce(&Entry) -> Entry) -> Amended {
        self.amend_if(id, |slot| slot.entry.id() == of, amends)
    }

    /// As [`amend`](Self::amend), if the entry came from `source`.
    pub(super) fn amend_this(&self, id: P, of: EntryId, source: u64, amends: impl FnOnce(&Entry) -> Entry) -> Amended {
        self.amend_if(id, |slot| slot.entry.id() == of && slot.source == source, amends)
    }

    fn amend_if(&self, id: P, which: impl Fn(&Slot) -> bool, amends: impl FnOnce(&Entry) -> Entry) -> Amended {
        let shard = self.shard(id);
        let is_it = |slot: &Slot| slot.generation == self.generation() && which(slot);
        // Without this check, a missing key would get a placeholder.
        if !shard.entries.peek(&id).is_some_and(|slot| is_it(&slot)) {
            return Amended::Gone;
        }
        let amended = shard.entries.entry(&id, Some(Duration::ZERO), |_, slot| {
            if !is_it(slot) {
                return EntryAction::Retain(Amended::Gone);
            }
            let entry = amends(&slot.entry);
            let weight = entry.weight() as u64;
            if weight > self.largest {
                return EntryAction::Retain(Amended::NoRoom);
            }
            (slot.entry, slot.weight) = (entry, weight);
            EntryAction::Retain(Amended::Kept)
        });
        match amended {
            EntryResult::Retained(amended) => {
                shard.evict_excess();
                amended
            }
            _ => Amended::Gone,
        }
    }

    /// The number of shards.
    pub(super) fn shards(&self) -> usize {
        self.shards.len()
    }

    /// The entries of one shard with their sources, from now to the end; a lock is held for one entry at a time.
    pub(super) fn each_of(&self, shard: usize) -> impl Iterator<Item = (P, Entry, u64)> + '_ {
        let generation = self.generation();
        let found = self.shards[shard].entries.iter().filter(move |(_, slot)| slot.generation == generation);
        found.map(|(id, slot)| (id, slot.entry, slot.source))
    }

    /// Removes the entry with this id, if it is still there and came from `source`: `true` if so.
    pub(super) fn remove_this(&self, id: P, of: EntryId, source: u64) -> bool {
        let is_it = |slot: &Slot| slot.entry.id() == of && slot.source == source;
        let removed = self.shard(id).entries.remove_if(&id, is_it).is_some();
        self.evictions.add(Eviction::Invalidated, u64::from(removed));
        removed
    }

    pub(super) fn remove(&self, id: P) {
        if self.shard(id).entries.remove(&id).is_some() {
            self.evictions.add(Eviction::Invalidated, 1);
        }
    }

    /// Removes the entries for which `condition` holds; returns their keys.
    pub(super) fn remove_where(&self, condition: impl Fn(&Entry) -> bool) -> Vec<P> {
        let ids = self.ids_where(|_, entry| condition(entry));
        ids.iter().for_each(|id| self.remove(*id));
        ids
    }

    /// Counts the entries for which `condition` holds. It examines every entry.
    pub(super) fn count_where(&self, condition: impl Fn(P, &Entry) -> bool) -> u64 {
        let generation = self.generation();
        let now = Clock::system().now();
        let entries = self.shards.iter().flat_map(|shard| shard.entries.iter());
        let there = |slot: &Slot| slot.generation == generation && now < slot.expires_at;
        entries.filter(|(id, slot)| there(slot) && condition(*id, &slot.entry)).count() as u64
    }

    /// The keys of the entries for which `condition` holds. It examines every entry.
    pub(super) fn ids_where(&self, condition: impl Fn(P, &Entry) -> bool) -> Vec<P> {
        let generation = self.generation.load(Ordering::SeqCst);
        let entries = self.shards.iter().flat_map(|shard| shard.entries.iter());
        let found = entries.filter(|(id, slot)| slot.generation == generation && condition(*id, &slot.entry));
        found.map(|(id, _)| id).collect()
    }

    /// Removes all entries. An entry that is inserted at the same time may be removed as well.
    pub(super) fn clear(&self) {
        self.generation.fetch_add(1, Ordering::SeqCst);
    }

    fn sweep_if_due(&self, shard: &Shard<P>, generation: u64, now: u64) {
        if shard.swept.load(Ordering::Relaxed) != generation {
            self.sweep(shard, generation, now);
        }
        let due = self.due.load(Ordering::Relaxed);
        // A clock that was set back would not reach `due` for a long time.
        let is_due = now >= due || due - now > self.pause;
        if is_due && self.due.compare_exchange(due, now + self.pause, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            let next = self.sweeps.fetch_add(1, Ordering::Relaxed) as usize % self.shards.len();
            self.sweep(&self.shards[next], generation, now);
        }
    }

    /// Drops the slots that have expired or are of an earlier generation.
    fn sweep(&self, shard: &Shard<P>, generation: u64, now: u64) {
        let (expired, void) = (Cell::new(0), Cell::new(0));
        shard.entries.retain(|_, slot| {
            let count = match (slot.generation >= generation, now < slot.expires_at) {
                (true, true) => return true,
                (true, false) => &expired,
                (false, _) => &void,
            };
            count.set(count.get() + 1);
            false
        });
        self.evictions.add(Eviction::Expired, expired.get());
        self.evictions.add(Eviction::Invalidated, void.get());
        shard.swept.fetch_max(generation, Ordering::Relaxed);
    }

    /// The number of entries, and the bytes they take; expired entries count until they are swept.
    pub(super) fn size(&self) -> (u64, u64) {
        let generation = self.generation();
        let swept = self.shards.iter().filter(|shard| shard.swept.load(Ordering::Relaxed) == generation);
        swept.fold((0, 0), |(entries, bytes), shard| {
            (entries + shard.entries.len() as u64, bytes + shard.entries.weight())
        })
    }

    /// The number of entries that left so far, by reason.
    pub(super) fn evictions(&self) -> impl Iterator<Item = (Eviction, u64)> + '_ {
        let counts: [u64; Eviction::ALL.len()] =
            array::from_fn(|number| self.evictions.0[number].load(Ordering::Relaxed));
        Eviction::ALL.iter().copied().zip(counts)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{entry::Deadlines, key::Key};

    fn entry(key: &Key, payload: usize) -> Entry {
        let deadlines = Deadlines::fresh_until(Clock::system().now() + 60_000);
        Entry::new(EntryId::random(), key, deadlines, Bytes::new(), vec![0; payload].into())
    }

    fn count(cache: &EntryCache<KeyHash>, eviction: Eviction) -> u64 {
        cache.evictions().find(|(one, _)| *one == eviction).map_or(0, |(_, count)| count)
    }

    #[test]
    fn what_was_there_is_gone_once_it_is_emptied() {
        let cache = EntryCache::new(1 << 20);
        let key = Key::new(["k"]);
        cache.insert(key.hash(), entry(&key, 0), 7);
        assert_eq!(cache.get(key.hash()).unwrap().1, 7);
        cache.clear();
        assert!(cache.get(key.hash()).is_none());
        cache.insert(key.hash(), entry(&key, 0), 8);
        assert_eq!(cache.get(key.hash()).unwrap().1, 8);
    }

    #[test]
    fn what_it_is_emptied_of_makes_room_at_once() {
        let cache = EntryCache::new(SHARD * SHARDS);
        let keys: Vec<_> = (0..1_000).map(|i| Key::new([i.to_string()])).collect();
        keys.iter().for_each(|key| cache.insert(key.hash(), entry(key, 0), 0));
        assert_eq!(cache.size().0, 1_000);
        cache.clear();
        assert_eq!(cache.size(), (0, 0));
        keys.iter().for_each(|key| cache.insert(key.hash(), entry(key, 0), 0));
        assert_eq!(cache.size().0, 1_000);
        assert_eq!(count(&cache, Eviction::Invalidated), 1_000);
    }

    #[test]
    fn it_is_bounded_by_bytes() {
        for bytes in [100_000, 3 * SHARD] {
            let cache = EntryCache::new(bytes);
            let key = |i: u64| Key::new([i.to_string()]);
            let inserted = 2 * bytes / 1_000;
            (0..inserted).for_each(|i| cache.insert(key(i).hash(), entry(&key(i), 1_000), 0));
            let (entries, kept) = cache.size();
            assert!((bytes / 10 * 9..=bytes).contains(&kept), "{kept} of {bytes}");
            assert_eq!(count(&cache, Eviction::Size), inserted - entries);
        }
    }

    #[test]
    fn what_is_asked_for_stays_while_others_come_and_go() {
        let cache = EntryCache::new(1 << 20);
        let wanted = Key::new(["wanted"]);
        cache.insert(wanted.hash(), entry(&wanted, 0), 0);
        for i in 0..10_000 {
            assert!(cache.get(wanted.hash()).is_some(), "{i}");
            let other = Key::new([i.to_string()]);
            cache.insert(other.hash(), entry(&other, 1_000), 0);
        }
    }

    #[test]
    fn as_large_an_entry_is_kept_as_is_said() {
        let (mib, gib) = (1 << 20, 1 << 30);
        for (max_bytes, said) in [
            (4 * mib, 4 * mib / 10 * 9),
            (15 * mib, 7 * mib),
            (127 * mib, 7 * mib),
            (200 * mib, 200 * mib / 20),
            (gib, gib / 20),
            (3 * gib, 60 * mib),
            (16 * gib, 16 * gib / 100),
        ] {
            let cache = EntryCache::<KeyHash>::new(max_bytes);
            assert!(cache.largest >= said, "of {max_bytes}: {}", cache.largest);
        }
    }

    #[test]
    fn what_is_larger_than_a_shard_is_not_kept_and_nothing_goes_for_it() {
        let cache = EntryCache::new(SHARD);
        let [small, large] = ["small", "large"].map(|name| Key::new([name]));
        cache.insert(small.hash(), entry(&small, 0), 0);
        cache.insert(large.hash(), entry(&large, 0), 0);
        cache.insert(large.hash(), entry(&large, SHARD as usize / 100 * 96), 0);
        assert!(cache.get(large.hash()).is_none(), "nor is what it should have replaced");
        assert!(cache.get(small.hash()).is_some());
        cache.insert(large.hash(), entry(&large, SHARD as usize / 100 * 94), 0);
        assert!(cache.get(large.hash()).is_some());
    }

    #[test]
    fn what_nobody_asks_for_any_more_is_swept() {
        let cache = EntryCache::swept_within(SHARD * SHARDS, Duration::ZERO);
        let gone = Deadlines::fresh_until(Clock::system().now() + 20);
        for i in 0..100 {
            let key = Key::new([i.to_string()]);
            cache.insert(key.hash(), Entry::new(EntryId::random(), &key, gone, Bytes::new(), Bytes::new()), 0);
        }
        std::thread::sleep(Duration::from_millis(30));
        let key = Key::new(["one that stays"]);
        (0..=SHARDS).for_each(|_| cache.insert(key.hash(), entry(&key, 0), 0));
        assert_eq!((cache.size().0, count(&cache, Eviction::Expired)), (1, 100));
    }

    #[cfg(feature = "encode-gzip")]
    #[test]
    fn what_is_added_to_an_entry_counts_and_brings_none_back() {
        use crate::{coding::Coding, entry::Form};

        let cache = EntryCache::new(SHARD);
        let key = Key::new(["k"]);
        let add = |of: EntryId, bytes: usize| {
            let coded = Form::Made(vec![0; bytes].into());
            cache.amend(key.hash(), of, |entry| entry.clone().with_form(Coding::Gzip, coded))
        };
        assert_eq!(add(EntryId::random(), 1_000), Amended::Gone, "there is nothing");
        assert_eq!(cache.size().0, 0);
        let first = entry(&key, 0);
        cache.insert(key.hash(), first.clone(), 7);
        let before = cache.size().1;
        assert_eq!(add(EntryId::random(), 1_000), Amended::Gone, "it is another one");
        assert_eq!(add(first.id(), 1_000), Amended::Kept);
        assert!((before + 1_000..before + 1_500).contains(&cache.size().1), "{} {before}", cache.size().1);
        let (amended, source) = cache.get(key.hash()).unwrap();
        assert_eq!((amended.form(Coding::Gzip), source), (&Form::Made(vec![0; 1_000].into()), 7));
        assert_eq!(add(first.id(), SHARD as usize), Amended::NoRoom, "it would be larger than any");
        assert_eq!(cache.get(key.hash()).unwrap().0.form(Coding::Gzip), amended.form(Coding::Gzip));
        cache.insert(key.hash(), entry(&key, 0), 8);
        assert_eq!(add(first.id(), 1_000), Amended::Gone, "it has been replaced");
        assert_eq!(cache.size().1, before);
        cache.clear();
        let swept = cache.slot(key.hash()).map_or(first.id(), |slot| slot.entry.id());
        assert_eq!(add(swept, 1_000), Amended::Gone);
        let second = entry(&key, 0);
        cache.insert(key.hash(), second.clone(), 9);
        cache.remove(key.hash());
        assert_eq!(add(second.id(), 1_000), Amended::Gone, "it was removed");
        assert!(cache.get(key.hash()).is_none());
    }

    #[cfg(feature = "encode-gzip")]
    #[test]
    fn what_is_added_to_entries_evicts_others_where_there_is_no_more_room() {
        use crate::{coding::Coding, entry::Form};

        let cache = EntryCache::new(SHARD);
        let mut inserted = Vec::new();
        while cache.size().1 < SHARD / 100 * 95 {
            let key = Key::new([inserted.len().to_string()]);
            let entry = entry(&key, 4_096);
            cache.insert(key.hash(), entry.clone(), 0);
            inserted.push((key, entry.id()));
        }
        let (removed, _) = &inserted[inserted.len() / 2];
        cache.remove(removed.hash());
        let before = cache.size().0;
        assert_eq!(before, inserted.len() as u64 - 1, "nothing had to leave so far");
        let coded = Form::Made(vec![0; 3_600].into());
        let mut kept = 0;
        for (key, id) in &inserted {
            let amended = cache.amend(key.hash(), *id, |entry| entry.clone().with_form(Coding::Gzip, coded.clone()));
            kept += u64::from(amended == Amended::Kept);
            assert!(cache.size().1 <= SHARD, "{} bytes", cache.size().1);
        }
        assert!(kept > before / 3, "{kept} of {before}");
        assert!(cache.get(removed.hash()).is_none(), "it was removed");
        let (left, bytes) = cache.size();
        assert!(bytes >= SHARD / 10 * 9, "no more leave than have to: {bytes} bytes");
        assert_eq!(count(&cache, Eviction::Size), before - left);
    }

    #[test]
    fn it_tells_why_entries_left() {
        let cache = EntryCache::new(100_000);
        let keys: Vec<_> = (0..5).map(|i| Key::new([i.to_string()])).collect();
        keys[..4].iter().for_each(|key| cache.insert(key.hash(), entry(key, 0), 0));
        cache.insert(keys[0].hash(), entry(&keys[0], 1), 0);
        cache.remove(keys[0].hash());
        cache.remove_where(|entry| entry.is_of(&keys[1]));
        let gone = Deadlines::fresh_until(Clock::system().now() - 1);
        cache.insert(keys[2].hash(), Entry::new(EntryId::random(), &keys[2], gone, Bytes::new(), Bytes::new()), 0);
        assert!(cache.get(keys[2].hash()).is_none());
        cache.insert(keys[4].hash(), entry(&keys[4], 200_000), 0);
        let wanted = [(Eviction::Size, 1), (Eviction::Expired, 1), (Eviction::Invalidated, 2)];
        assert_eq!(cache.evictions().collect::<Vec<_>>(), wanted);
        assert_eq!(cache.size().0, 1);
    }
}
