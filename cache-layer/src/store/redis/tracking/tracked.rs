//! Values that were read from a server that pushes changes; they are known until the server pushes one.
//!
//! A connection with client-side caching reads a value, and receives a push with its name as soon as it changes. The connection
//! delivers replies and pushes in order, and applies a push at once. But the task that waits for a reply handles it when it gets
//! to run, which may be after a push that came later: it would keep an outdated value, and no further push would correct that.
//! Redis' documentation of client-side caching describes the remedy: a placeholder.
//!
//! **The invariant.** A value is known here only if no push for its key was applied between the beginning of its read and now.
//! For that
//!
//! 1. [`begin_read`](Tracked::begin_read) puts a placeholder into the key's slot *before* the read is sent, with a number that no
//!    other read has;
//! 2. a push removes the slot, whatever is in it ([`void`](Tracked::void) and the like);
//! 3. [`Ticket::complete`] keeps the value only if it finds the placeholder of its own read.
//!
//! Each is one step under the lock of the table. A later read of the same key replaces the placeholder of an earlier one, whose
//! value is then not kept: of two reads under way, it is not known which one the server answered last.

use std::{
    borrow::Borrow,
    collections::{BTreeMap, HashMap},
    hash::Hash,
    marker::PhantomData,
    ops::RangeBounds,
};

use crate::{
    bounded::{Bound, Map},
    sync::Mutex,
};

/// Values by their keys, in a hash map or, where neighbouring keys change together, in an ordered map.
#[derive(Debug)]
pub(super) struct Tracked<K, V, M = HashMap<K, Slot<V>>> {
    table: Mutex<Table<M>>,
    bound: Bound,
    of: PhantomData<(K, V)>,
}

/// As [`Tracked`], with [ranges](Tracked::void_range) of keys.
pub(super) type TrackedRanges<K, V> = Tracked<K, V, BTreeMap<K, Slot<V>>>;

#[derive(Debug)]
struct Table<M> {
    slots: M,
    /// The number of reads begun so far; each read has its number.
    reads: u64,
}

#[derive(Debug)]
pub(super) enum Slot<V> {
    /// The placeholder of the read with this number.
    Reading(u64),
    Known(V),
}

impl<V> Slot<V> {
    fn known(&self) -> Option<&V> {
        match self {
            Self::Known(value) => Some(value),
            Self::Reading(_) => None,
        }
    }
}

/// A read under way. If it is dropped without a value, nothing of it remains.
#[must_use = "a read that is not begun before it is sent may keep what is out of date"]
pub(super) struct Ticket<'a, K, V, M = HashMap<K, Slot<V>>>
where
    K: Hash + Ord,
    M: Map<K, Slot<V>>,
{
    tracked: &'a Tracked<K, V, M>,
    key: K,
    number: u64,
    open: bool,
}

/// A read under way, in [`TrackedRanges`].
pub(super) type RangesTicket<'a, K, V> = Ticket<'a, K, V, BTreeMap<K, Slot<V>>>;

/// A view of the table at one moment.
pub(super) struct Known<'a, K, V, M> {
    slots: &'a M,
    of: PhantomData<(K, V)>,
}

impl<K: Hash + Ord, V, M: Map<K, Slot<V>>> Known<'_, K, V, M> {
    pub(super) fn get<Q: Hash + Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.slots.get(key)?.known()
    }
}

impl<K: Hash + Ord + Clone, V, M: Map<K, Slot<V>>> Tracked<K, V, M> {
    pub(super) fn new(bound: Bound) -> Self {
        Self { table: Mutex::new(Table { slots: M::default(), reads: 0 }), bound, of: PhantomData }
    }

    /// Announces that `key` is about to be read. To be called before the read is sent.
    pub(super) fn begin_read(&self, key: K) -> Ticket<'_, K, V, M> {
        let mut table = self.table.lock();
        let room = self.bound.make_room(&mut table.slots, 1);
        self.ticket(&mut table, key, room)
    }

    /// As [`begin_read`](Self::begin_read), for one read of many keys.
    pub(super) fn begin_reads(&self, keys: impl ExactSizeIterator<Item = K>) -> Vec<Ticket<'_, K, V, M>> {
        let mut table = self.table.lock();
        let room = self.bound.make_room(&mut table.slots, keys.len());
        keys.map(|key| self.ticket(&mut table, key, room)).collect()
    }

    /// As [`begin_read`](Self::begin_read), for a key that is already known, or being read; `None` if it is neither.
    pub(super) fn begin_read_again(&self, key: K) -> Option<Ticket<'_, K, V, M>> {
        let mut table = self.table.lock();
        table.slots.get(&key)?;
        Some(self.ticket(&mut table, key, true))
    }

    /// Without `room` for its placeholder, the result of the read is not kept.
    fn ticket(&self, table: &mut Table<M>, key: K, room: bool) -> Ticket<'_, K, V, M> {
        table.reads += 1;
        let number = table.reads;
        if room {
            table.slots.insert(key.clone(), Slot::Reading(number));
        }
        Ticket { tracked: self, key, number, open: room }
    }

    /// The value of `key`, if it is known.
    pub(super) fn get<Q: Hash + Ord + ?Sized>(&self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        V: Clone,
    {
        self.table.lock().slots.get(key)?.known().cloned()
    }

    /// Adds to the value of `key`, if it is known.
    pub(super) fn update<Q: Hash + Ord + ?Sized>(&self, key: &Q, add: impl FnOnce(&mut V))
    where
        K: Borrow<Q>,
    {
        if let Some(Slot::Known(value)) = self.table.lock().slots.get_mut(key) {
            add(value);
        }
    }

    /// Looks at many keys at one moment.
    pub(super) fn look<T>(&self, look: impl FnOnce(Known<'_, K, V, M>) -> T) -> T {
        look(Known { slots: &self.table.lock().slots, of: PhantomData })
    }

    /// The value of `key` changed.
    pub(super) fn void<Q: Hash + Ord + ?Sized>(&self, key: &Q)
    where
        K: Borrow<Q>,
    {
        self.table.lock().slots.remove(key);
    }

    /// Every value may have changed.
    pub(super) fn void_all(&self) {
        self.table.lock().slots.clear();
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.table.lock().slots.len()
    }
}

impl<K: Hash + Ord + Clone, V: Clone> TrackedRanges<K, V> {
    /// The values of those keys in `range` changed for which `which` holds.
    pub(super) fn void_range(&self, range: impl RangeBounds<K>, which: impl Fn(&K) -> bool) {
        let mut table = self.table.lock();
        let changed: Vec<K> = table.slots.range(range).map(|(key, _)| key).filter(|key| which(key)).cloned().collect();
        for key in changed {
            table.slots.remove(&key);
        }
    }

    /// Whether the value of any key in `range` is known, or being read.
    pub(super) fn has_any(&self, range: impl RangeBounds<K>) -> bool {
        self.table.lock().slots.range(range).next().is_some()
    }

    /// The values of all keys in `range` that are known, or being read, changed to `value`.
    pub(super) fn set_range(&self, range: impl RangeBounds<K>, value: &V) {
        for (_, slot) in self.table.lock().slots.range_mut(range) {
            *slot = Slot::Known(value.clone());
        }
    }
}

impl<K: Hash + Ord, V, M: Map<K, Slot<V>>> Ticket<'_, K, V, M> {
    /// Keeps the value that was read, unless it changed since; returns whether it is kept.
    pub(super) fn complete(self, value: V) -> bool {
        self.complete_with(|| Some(value))
    }

    /// As [`complete`](Self::complete), for a value that `keep` stores elsewhere, in which case `keep` returns `None`. Nothing is
    /// voided while `keep` runs. To void such a value, [void](Tracked::void) its key here first, and then remove it there.
    pub(super) fn complete_with(mut self, keep: impl FnOnce() -> Option<V>) -> bool {
        if !std::mem::take(&mut self.open) {
            return false;
        }
        let Table { slots, .. } = &mut *self.tracked.table.lock();
        let Some(slot) = slots.get_mut(&self.key).filter(|slot| is_of(slot, self.number)) else { return false };
        match keep() {
            Some(value) => *slot = Slot::Known(value),
            None => slots.remove(&self.key),
        }
        true
    }

    /// Ends the read, and voids its key, even if a value is known by now.
    pub(super) fn void(mut self) {
        self.open = false;
        self.tracked.table.lock().slots.remove(&self.key);
    }
}

impl<K, V, M> Drop for Ticket<'_, K, V, M>
where
    K: Hash + Ord,
    M: Map<K, Slot<V>>,
{
    fn drop(&mut self) {
        if self.open {
            let Table { slots, .. } = &mut *self.tracked.table.lock();
            if slots.get(&self.key).is_some_and(|slot| is_of(slot, self.number)) {
                slots.remove(&self.key);
            }
        }
    }
}

/// Whether `slot` is the placeholder of the read with this number.
fn is_of<V>(slot: &Slot<V>, number: u64) -> bool {
    matches!(slot, Slot::Reading(reading) if *reading == number)
}
