//! A typed value as an entry: the value's own bytes, and how they are written.

use serde::de::DeserializeOwned;

use crate::{
    codec::Chosen,
    engine::{
        Cache, Retrieved,
        miss::{Found, Miss},
    },
    entry::{Deadlines, Entry, EntryId, Use},
    inherit::{self, Reads},
    key::Key,
    store::Seen,
    telemetry::{Event, Rejection, Tier},
};

pub(super) fn write(key: &Key, codec: &Chosen, value: Vec<u8>, deadlines: Deadlines) -> Entry {
    // The spare capacity of a vector would be kept as long as the value.
    let value = value.into_boxed_slice().into();
    Entry::new(EntryId::random(), key, deadlines, codec.meta().into_boxed_slice().into(), value)
}

/// A value, and the entry that it came from.
pub(super) struct Hit<V> {
    pub(super) value: V,
    pub(super) entry: Entry,
}

impl<V> Hit<V> {
    /// The value; the result that is being made now inherits its tags and freshness.
    pub(super) fn noted(self, cache: &Cache) -> V {
        inherit::note(|| Reads::new(&self.entry.tags(), Some(cache.local_time(self.entry.deadlines().fresh))));
        self.value
    }
}

impl Cache {
    /// The value, if the entry holds one of this type.
    pub(super) fn value_of<V: DeserializeOwned + 'static>(&self, entry: &Entry) -> Result<V, Rejection> {
        self.codec().decode(entry.meta(), entry.payload())
    }

    /// The entry for `key`, in this process or further away, and its tier.
    pub(super) async fn find<V: DeserializeOwned + 'static>(&self, key: &Key) -> (Found<Hit<V>>, Tier) {
        match self.find_here(key) {
            Some(hit) => (Found::Fresh(hit), Tier::Memory),
            None => (self.judge(key, self.lookup(key).await, self.now()), self.far_tier()),
        }
    }

    /// The fresh value of `key`, if this process has it in memory.
    pub(super) fn find_here<V: DeserializeOwned + 'static>(&self, key: &Key) -> Option<Hit<V>> {
        let entry = self.peek(key)?;
        let now = self.now();
        if now >= entry.deadlines_at(now).fresh {
            return None;
        }
        self.value_of(&entry).ok().map(|value| Hit { value, entry })
    }

    /// What was found for `key`, at a moment `now` after it was found.
    pub(super) fn judge<V: DeserializeOwned + 'static>(
        &self,
        key: &Key,
        retrieved: Retrieved,
        now: u64,
    ) -> Found<Hit<V>> {
        let missing = |expected| Found::Missing(Miss { key: key.clone(), expected, stale: None, detail: () });
        match retrieved {
            Retrieved::Found(entry) => {
                let value = self.value_of(&entry);
                self.judge_value(key, entry, value, now)
            }
            Retrieved::Missing(seen) => missing(Some(seen)),
            Retrieved::Unavailable => missing(None),
        }
    }

    /// The same, once the value of the entry has been read.
    pub(super) fn judge_value<V>(
        &self,
        key: &Key,
        entry: Entry,
        value: Result<V, Rejection>,
        now: u64,
    ) -> Found<Hit<V>> {
        let miss = |expected, stale| Miss { key: key.clone(), expected, stale, detail: () };
        let seen = Some(Seen::Entry(entry.id()));
        let value = match value {
            Ok(value) => value,
            Err(rejection) => {
                self.emit(Event::Rejected(rejection));
                return Found::Missing(miss(seen, None));
            }
        };
        let allowed = entry.deadlines_at(now).allow(now);
        if entry.is_from_the_future(now) {
            self.emit(Event::Rejected(Rejection::Future));
        }
        if allowed == Use::Fresh {
            return Found::Fresh(Hit { value, entry });
        }
        let miss = miss(seen, Some(entry.clone()).filter(|_| allowed != Use::Gone));
        if allowed == Use::Stale { Found::Stale(Hit { value, entry }, miss) } else { Found::Missing(miss) }
    }
}
