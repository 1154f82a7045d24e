//! Entries kept in this process, as its connections last read them: the first tier of a
//! [`TieredStore`](crate::store::TieredStore).
//!
//! They are read with tracking on, like the [tokens](super::tag_tracker) of tags, and dropped by the server's push as soon as
//! they change. An entry is valid only while the connection that read it lives, and for a set time after that: changes that
//! another connection misses are unknown.

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
    store::{Amended, Eviction, entry_cache::EntryCache},
};

pub(crate) struct LocalTier {
    /// Each entry has the number of its connection.
    entries: EntryCache<KeyId>,
    clock: Clock,
    /// For how long, in milliseconds, entries are valid after their connection was lost.
    grace: AtomicU64,
    /// While this is set, nothing is kept, and nothing is found.
    is_off: AtomicBool,
    /// Reads under way; their results are in `entries`. A change voids an entry here first, and then removes it there.
    reads: Tracked<KeyId, Infallible>,
}

/// A read under way; it is forgotten when it is dropped.
pub(crate) struct EntryRead<'a> {
    entries: &'a EntryCache<KeyId>,
    clock: &'a Clock,
    is_off: &'a AtomicBool,
    id: KeyId,
    ticket: Ticket<'a, KeyId, Infallible>,
}

impl LocalTier {
    /// A tier whose entries expire by `clock`.
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

    /// The entry of `key`, if the connection of this number read it, and if neither the entry nor its `tags` are known to have
    /// changed. `is_connected`: whether that connection receives pushes at this moment.
    pub(crate) fn get(
        &self,
        connection: u64,
        is_connected: impl FnOnce() -> bool,
        tags: &TagTracker,
        key: &Key,
    ) -> Option<Entry> {
        let changes = tags.changes();
        let (entry, read_over) = self.entries.peek(key.id())?;
        if connection != read_over || !entry.is_of(key) {
            return None;
        }
        match tags.judge(&entry, key) {
            // Bans that were taken off the list have been swept: the server pushed the sweep's changes before it pushed that. In a
            // cluster, another server pushes the sweep's changes than the list's: without a connection to that one, a ban that
            // came since may have covered the entry.
            Verdict::Known(judged) if judged.banned_since && (!is_connected() || tags.changes() != changes) => None,
            Verdict::Known(judged) => entry.in_state(judged.state),
            Verdict::Unknown(..) => None,
        }
    }

    /// Announces that `key` is about to be read. To be called before the read is sent.
    pub(crate) fn begin_read(&self, key: &Key) -> EntryRead<'_> {
        let id = key.id();
        let (entries, clock, is_off) = (&self.entries, &self.clock, &self.is_off);
        EntryRead { entries, clock, is_off, id, ticket: self.reads.begin_read(id) }
    }

    /// Replaces the entry with this id, if it is here, by what `amends` makes of it.
    pub(crate) fn amend(&self, key: &Key, of: EntryId, amends: impl FnOnce(&Entry) -> Entry) -> Amended {
        self.entries.amend(key.id(), of, amends)
    }

    /// The entry changed.
    pub(crate) fn void(&self, id: KeyId) {
        self.reads.void(&id);
        self.entries.remove(id);
    }

    /// Entries whose readable key matches changed, or the server could not be told of their change.
    pub(crate) fn void_matching(&self, pattern: &Pattern) {
        self.reads.void_all();
        self.entries.remove_where(|entry| pattern.matches(readable_in_full(entry.canonical()).as_bytes()));
    }

    /// Every entry may have changed.
    pub(crate) fn void_all(&self) {
        self.reads.void_all();
        self.entries.clear();
    }

    /// Turns the tier off, or on again; the entries that it had when it was turned off are gone.
    pub(crate) fn turn_off(&self, off: bool) {
        if self.is_off.swap(off, Ordering::SeqCst) == off {
            return;
        }
        self.entries.hide(off);
        if off {
            self.void_all();
        }
    }

    pub(crate) fn is_off(&self) -> bool {
        self.is_off.load(Ordering::SeqCst)
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
    /// Keeps an entry that was read over the connection of this number, unless it changed since.
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{
        entry::Deadlines,
        store::redis::wire::names::EVERYTHING,
        tag::{TagRecord, TagStamp, TagToken},
    };

    /// A ban that is taken off the list between the look at the entry and the look at the list is on no list any more, and may
    /// have covered the entry.
    #[test]
    fn an_entry_is_not_judged_by_a_list_that_changes_meanwhile() {
        let token = *b"000000000000000a0123456789abcdei";
        let stamp = TagStamp { tag: EVERYTHING.into(), token: TagToken(token) };
        let (key, tags) = (Key::new(["k"]), TagTracker::default());
        let tier = LocalTier::new(1 << 20, Clock::system());
        let deadlines = Deadlines::fresh_until(Clock::system().now() + 600_000);
        let entry = Entry::new(EntryId::random(), &key, deadlines, Bytes::new(), Bytes::new());
        tier.begin_read(&key).complete(1, &entry.stamped(std::slice::from_ref(&stamp)));
        let listed = |newest: u64| {
            let record = format!("{}|{newest:016x}", String::from_utf8_lossy(&token));
            let record = TagRecord::parse(record.as_bytes()).expect("a record");
            tags.begin_read(std::slice::from_ref(&stamp.tag)).complete(&[Some(record)]);
        };
        let found = |meanwhile: &dyn Fn() -> bool| tier.get(1, meanwhile, &tags, &key).is_some();
        let changes = || {
            tags.void(EVERYTHING);
            true
        };
        // Of an entry whose load knew of all bans, no change of the list says anything.
        listed(0);
        assert!(found(&|| false) && found(&|| true));
        listed(7);
        assert!(found(&|| true));
        assert!(!found(&|| false), "without a connection");
        assert!(!found(&changes), "the list changed");
    }
}
