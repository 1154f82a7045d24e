//! Entries in memory, bounded by bytes.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use moka::{Expiry, sync::Cache as Moka};

use crate::{clock::Clock, entry::Entry, key::KeyId};

/// A map that holds about so many bytes of entries, and keeps those that are asked for (TinyLFU).
pub(super) struct Shelf {
    entries: Moka<KeyId, Kept>,
    /// Counts how often it was emptied. The map's own way goes by times that reads and writes on other threads may
    /// still be setting, and lets some of what was there through.
    emptied: AtomicU64,
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
        let entries = Moka::builder()
            .max_capacity(max_bytes)
            .weigher(|_, kept: &Kept| u32::try_from(kept.entry.weight()).unwrap_or(u32::MAX))
            .expire_after(WhenGone)
            .build();
        Self { entries, emptied: AtomicU64::new(0) }
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
}
