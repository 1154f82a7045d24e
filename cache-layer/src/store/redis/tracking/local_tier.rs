//! Entries kept in this process, as its connections last read them: the first tier of a
//! [`TieredStore`](crate::store::TieredStore).
//!
//! They are read with tracking on, like the [tokens](super::tag_tracker) of tags, and dropped by the server's push as soon
//! as they change. An entry is good only while the connection that read it lives, and for a set time after that: what
//! another one misses is unknown.

use std::{
    convert::Infallible,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use super::{
    tag_tracker::{TagTracker, Verdict},
    tracked::{Ticket, Tracked},
};
use crate::{
    bounded::Bound,
    clock::{Clock, millis},
    entry::{Entry, EntryId},
    key::{Key, KeyId, readable_in_full},
    pattern::Pattern,
    store::{Eviction, entry_cache::EntryCache},
};

pub(crate) struct LocalTier {
    /// From the connection of that number.
    entries: EntryCache<KeyId>,
    clock: Clock,
    /// For how long, in milliseconds, entries are good after their connection was lost.
    grace: AtomicU64,
    /// Nothing is kept, and nothing found.
    is_off: AtomicBool,
    /// Reads under way; what they read is in `entries`. Whatever changes is void here first, and then removed there.
    reads: Tracked<KeyId, Infallible>,
}

/// A read under way; forgotten when it is dropped.
pub(crate) struct EntryRead<'a> {
    entries: &'a EntryCache<KeyId>,
    clock: &'a Clock,
    is_off: &'a AtomicBool,
    id: KeyId,
    ticket: Ticket<'a, KeyId, Infallible>,
}

impl LocalTier {
    /// Whose entries run out by that clock.
    pub(crate) fn new(max_bytes: u64, clock: Clock) -> Self {
        // There are as many reads as tasks that wait for one.
        Self {
            entries: EntryCache::new(max_bytes),
            clock,
            grace: AtomicU64::new(0),
            is_off: AtomicBool::new(false),
            reads: Tracked::new(Bound::none()),
        }
    }

    pub(crate) fn serve_while_disconnected(&self, limit: Duration) {
        self.grace.store(millis(limit), Ordering::SeqCst);
    }

    pub(crate) fn grace(&self) -> Duration {
        Duration::from_millis(self.grace.load(Ordering::SeqCst))
    }

    /// The entry of `key`, if the connection of that number read it and it is known that nothing happened to it, nor to its
    /// `tags`.
    pub(crate) fn get(&self, connection: u64, tags: &TagTracker, key: &Key) -> Option<Entry> {
        let changes = tags.changes();
        let (entry, read_over) = self.entries.peek(key.id())?;
        if connection != read_over || !entry.is_of(key) {
            return None;
        }
        match tags.judge(&entry, key) {
            // What was taken off the list has been swept: the server has said so, before it said that.
            Verdict::Known(judged) if judged.banned_since && tags.changes() != changes => None,
            Verdict::Known(judged) => entry.in_state(judged.state),
            Verdict::Unknown(..) => None,
        }
    }

    /// Says that `key` is about to be read. To be called before the read is sent.
    pub(crate) fn begin_read(&self, key: &Key) -> EntryRead<'_> {
        let id = key.id();
        let (entries, clock, is_off) = (&self.entries, &self.clock, &self.is_off);
        EntryRead { entries, clock, is_off, id, ticket: self.reads.begin_read(id) }
    }

    /// Puts what `amends` makes of it in the place of the entry with this id, if that is here.
    pub(crate) fn amend(&self, key: &Key, of: EntryId, amends: impl FnOnce(&Entry) -> Entry) -> bool {
        self.entries.amend(key.id(), of, amends)
    }

    /// The entry changed.
    pub(crate) fn void(&self, id: KeyId) {
        self.reads.void(&id);
        self.entries.remove(id);
    }

    /// Entries whose readable key matches changed, or their change could not be told to the server.
    pub(crate) fn void_matching(&self, pattern: &Pattern) {
        self.reads.void_all();
        self.entries.remove_where(|entry| pattern.matches(readable_in_full(entry.canonical()).as_bytes()));
    }

    /// Every entry may have changed.
    pub(crate) fn void_all(&self) {
        self.reads.void_all();
        self.entries.clear();
    }

    /// Is of no use from now on, or of use again; what it had when it was turned off is gone.
    pub(crate) fn turn_off(&self, off: bool) {
        if self.is_off.swap(off, Ordering::SeqCst) == off {
            return;
        }
        self.entries.hide(off);
        if off {
            self.void_all();
        }
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.entries.size().1
    }

    pub(crate) fn entries(&self) -> u64 {
        self.entries.size().0
    }

    pub(crate) fn evictions(&self) -> impl Iterator<Item = (Eviction, u64)> + '_ {
        self.entries.evictions()
    }
}

impl EntryRead<'_> {
    /// Keeps what was read over the connection of that number, unless it changed since.
    pub(crate) fn complete(self, connection: u64, entry: &Entry) {
        let Self { entries, clock, is_off, id, ticket } = self;
        if is_off.load(Ordering::SeqCst) {
            return;
        }
        ticket.complete_with(|| {
            entries.insert_at(clock.now(), id, entry.clone(), connection);
            None
        });
    }
}
