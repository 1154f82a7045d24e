//! Entries in memory, bounded by bytes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use moka::{Expiry, notification::RemovalCause, sync::Cache as Moka};

use crate::{clock::Clock, entry::Entry, key::KeyId};

/// Why an entry left the memory of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Eviction {
    /// There was no room for it, or others are asked for more often.
    Size,
    /// Its time was up.
    Expired,
    /// It was invalidated, or changed in the store behind.
    Invalidated,
}

impl Eviction {
    const ALL: [Self; 3] = [Self::Size, Self::Expired, Self::Invalidated];

    /// The name, for a metric's label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Size => "size",
            Self::Expired => "expired",
            Self::Invalidated => "invalidated",
        }
    }

    /// `None` for one that made place for a newer one of its own key.
    fn of(cause: RemovalCause) -> Option<Self> {
        match cause {
            RemovalCause::Size => Some(Self::Size),
            RemovalCause::Expired => Some(Self::Expired),
            RemovalCause::Explicit => Some(Self::Invalidated),
            RemovalCause::Replaced => None,
        }
    }
}

/// A map that holds about so many bytes of entries, and keeps those that are asked for (TinyLFU).
pub(super) struct Shelf {
    entries: Moka<KeyId, Kept>,
    /// Counts how often it was emptied. The map's own way goes by times that reads and writes on other threads may
    /// still be setting, and lets some of what was there through.
    emptied: AtomicU64,
    evictions: Arc<[AtomicU64; Eviction::ALL.len()]>,
}

#[derive(Clone)]
struct Kept {
    entry: Entry,
    /// Where it came from, as its owner counts.
    source: u64,
    emptied: u64,
}

/// Lets go of entries that nobody can be served any more.
struct WhenGone;

impl Expiry<KeyId, Kept> for WhenGone {
    fn expire_after_create(&self, _: &KeyId, kept: &Kept, _: Instant) -> Option<Duration> {
        let gone = kept.entry.deadlines().gone;
        Some(Duration::from_millis(gone.saturating_sub(Clock::system().now())))
    }

    fn expire_after_update(&self, key: &KeyId, kept: &Kept, now: Instant, _: Option<Duration>) -> Option<Duration> {
        self.expire_after_create(key, kept, now)
    }
}

impl Shelf {
    pub(super) fn new(max_bytes: u64) -> Self {
        let evictions = Arc::<[AtomicU64; Eviction::ALL.len()]>::default();
        let counters = evictions.clone();
        let entries = Moka::builder()
            .max_capacity(max_bytes)
            .weigher(|_, kept: &Kept| u32::try_from(kept.entry.weight()).unwrap_or(u32::MAX))
            .expire_after(WhenGone)
            .eviction_listener(move |_, _, cause| {
                if let Some(eviction) = Eviction::of(cause) {
                    counters[eviction as usize].fetch_add(1, Ordering::Relaxed);
                }
            })
            .build();
        Self { entries, emptied: AtomicU64::new(0), evictions }
    }

    /// The entry, and where it came from.
    pub(super) fn get(&self, id: KeyId) -> Option<(Entry, u64)> {
        let Kept { entry, source, emptied } = self.entries.get(&id)?;
        (emptied == self.emptied.load(Ordering::SeqCst)).then_some((entry, source))
    }

    pub(super) fn insert(&self, id: KeyId, entry: Entry, source: u64) {
        let emptied = self.emptied.load(Ordering::SeqCst);
        self.entries.insert(id, Kept { entry, source, emptied });
    }

    pub(super) fn remove(&self, id: KeyId) {
        self.entries.invalidate(&id);
    }

    /// Removes what `condition` holds for, and tells what that was.
    pub(super) fn remove_where(&self, condition: impl Fn(&Entry) -> bool) -> Vec<KeyId> {
        let emptied = self.emptied.load(Ordering::SeqCst);
        let found = self.entries.iter().filter(|(_, kept)| kept.emptied == emptied && condition(&kept.entry));
        let ids: Vec<KeyId> = found.map(|(id, _)| *id).collect();
        ids.iter().for_each(|id| self.remove(*id));
        ids
    }

    /// Removes everything. What is inserted at the same time may go as well.
    pub(super) fn empty(&self) {
        self.emptied.fetch_add(1, Ordering::SeqCst);
        self.entries.invalidate_all();
    }

    /// Entries, and the bytes they take, as far as housekeeping has come.
    pub(super) fn size(&self) -> (u64, u64) {
        (self.entries.entry_count(), self.entries.weighted_size())
    }

    /// What left so far, and why, as far as housekeeping has come.
    pub(super) fn evictions(&self) -> impl Iterator<Item = (Eviction, u64)> + '_ {
        let counts = self.evictions.iter().map(|count| count.load(Ordering::Relaxed));
        Eviction::ALL.into_iter().zip(counts)
    }

    /// The bytes that the entries take, once housekeeping is done.
    pub(super) fn bytes(&self) -> u64 {
        self.entries.run_pending_tasks();
        self.entries.weighted_size()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{
        entry::{Deadlines, EntryId},
        key::Key,
    };

    fn entry(key: &Key, payload: usize) -> Entry {
        let deadlines = Deadlines::fresh_until(Clock::system().now() + 60_000);
        Entry::new(EntryId::random(), key, deadlines, Bytes::new(), vec![0; payload].into())
    }

    #[test]
    fn what_was_there_is_gone_once_it_is_emptied() {
        let shelf = Shelf::new(1 << 20);
        let key = Key::new(["k"]);
        shelf.insert(key.id(), entry(&key, 0), 7);
        assert_eq!(shelf.get(key.id()).unwrap().1, 7);
        shelf.empty();
        assert!(shelf.get(key.id()).is_none());
        shelf.insert(key.id(), entry(&key, 0), 8);
        assert_eq!(shelf.get(key.id()).unwrap().1, 8);
    }

    #[test]
    fn it_is_bounded_by_bytes() {
        let shelf = Shelf::new(100_000);
        for i in 0..1_000 {
            let key = Key::new([i.to_string()]);
            shelf.insert(key.id(), entry(&key, 1_000), 0);
        }
        assert!(shelf.bytes() <= 100_000, "{}", shelf.bytes());
    }

    #[test]
    fn it_tells_why_entries_left() {
        let shelf = Shelf::new(100_000);
        let keys: Vec<_> = (0..5).map(|i| Key::new([i.to_string()])).collect();
        keys[..4].iter().for_each(|key| shelf.insert(key.id(), entry(key, 0), 0));
        shelf.insert(keys[0].id(), entry(&keys[0], 1), 0);
        shelf.remove(keys[0].id());
        shelf.remove_where(|entry| entry.is_of(&keys[1]));
        let gone = Deadlines::fresh_until(Clock::system().now() - 1);
        shelf.insert(keys[2].id(), Entry::new(EntryId::random(), &keys[2], gone, Bytes::new(), Bytes::new()), 0);
        shelf.insert(keys[4].id(), entry(&keys[4], 200_000), 0);

        let wanted = [(Eviction::Size, 1), (Eviction::Expired, 1), (Eviction::Invalidated, 2)];
        let evictions = || shelf.evictions().collect::<Vec<_>>();
        // What is expired is not found any more, and swept within some seconds.
        let begun = Instant::now();
        while evictions() != wanted {
            assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", evictions());
            std::thread::sleep(Duration::from_millis(50));
            shelf.bytes();
        }
        assert_eq!(shelf.size().0, 1);
    }
}
