//! Entries kept in this process, as its connections last read them: the first tier of a
//! [`TieredStore`](crate::store::TieredStore).
//!
//! They are read with tracking on, like the [`tokens`](super::tokens) of tags, and dropped by the server's push as soon
//! as they change. An entry is good only while the connection that read it lives, and for a set time after that: what
//! another one misses is unknown.

use std::{
    collections::HashMap,
    sync::{
        Arc, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use super::{link::Live, tokens::Verdict};
use crate::{
    clock::millis,
    entry::Entry,
    key::{Key, KeyId, readable_in_full},
    pattern::Pattern,
    store::{Eviction, entry_cache::EntryCache},
    sync::Mutex,
};

pub(in crate::store) struct Near {
    /// From the connection of that number.
    entries: EntryCache,
    /// For how long, in milliseconds, entries are good after their connection was lost.
    grace: AtomicU64,
    /// Reads under way, each with its question. A push removes it, and then its answer is not kept.
    reads: Mutex<HashMap<KeyId, u64>>,
}

/// A read under way; forgotten when it is dropped.
pub(super) struct Read<'a> {
    near: &'a Near,
    id: KeyId,
    question: u64,
}

impl Near {
    pub(in crate::store) fn new(max_bytes: u64) -> Self {
        Self { entries: EntryCache::new(max_bytes), grace: AtomicU64::new(0), reads: Mutex::default() }
    }

    pub(in crate::store) fn serve_while_disconnected(&self, limit: Duration) {
        self.grace.store(millis(limit), Ordering::SeqCst);
    }

    pub(super) fn grace(&self) -> Duration {
        Duration::from_millis(self.grace.load(Ordering::SeqCst))
    }

    fn reads(&self) -> MutexGuard<'_, HashMap<KeyId, u64>> {
        self.reads.lock()
    }

    /// The entry of `key`, if it is known that nothing happened to it: `live` reads the entry, `tags` its tags.
    pub(super) fn get(&self, live: &Live, tags: &Live, key: &Key) -> Option<Entry> {
        let (entry, connection) = self.entries.peek(key.id())?;
        if live.number != connection || !entry.is_of(key) {
            return None;
        }
        match tags.tokens.judge(entry.stamps()) {
            Verdict::Known(state) => entry.in_state(state),
            Verdict::Unknown(..) => None,
        }
    }

    /// Says that `key` is about to be read. To be called before the read is sent.
    pub(super) fn ask(&self, key: &Key) -> Read<'_> {
        let (id, question) = (key.id(), fastrand::u64(..));
        self.reads().insert(id, question);
        Read { near: self, id, question }
    }

    /// The entry changed.
    pub(super) fn forget(&self, id: KeyId) {
        let mut reads = self.reads();
        reads.remove(&id);
        self.entries.remove(id);
    }

    /// Entries whose readable key matches changed, or their change could not be told to the server.
    pub(super) fn forget_matching(&self, pattern: &Pattern) {
        let mut reads = self.reads();
        reads.clear();
        self.entries.remove_where(|entry| pattern.matches(readable_in_full(entry.canonical()).as_bytes()));
    }

    /// Every entry may have changed.
    pub(super) fn forget_all(&self) {
        let mut reads = self.reads();
        reads.clear();
        self.entries.clear();
    }

    pub(in crate::store) fn bytes(&self) -> u64 {
        self.entries.size().1
    }

    pub(in crate::store) fn entries(&self) -> u64 {
        self.entries.size().0
    }

    pub(in crate::store) fn evictions(&self) -> impl Iterator<Item = (Eviction, u64)> + '_ {
        self.entries.evictions()
    }
}

impl Read<'_> {
    /// Keeps what was read over `live`, unless it changed since.
    pub(super) fn answer(self, live: &Arc<Live>, entry: &Entry) {
        let reads = self.near.reads();
        if reads.get(&self.id) == Some(&self.question) {
            // Under the lock, so that a push can't come in between.
            self.near.entries.insert(self.id, entry.clone(), live.number);
        }
    }
}

impl Drop for Read<'_> {
    fn drop(&mut self) {
        let mut reads = self.near.reads();
        if reads.get(&self.id) == Some(&self.question) {
            reads.remove(&self.id);
        }
    }
}
