//! A typed value as an entry: the value's own bytes, and how they are written.

use bytes::Bytes;
use serde::de::DeserializeOwned;

use crate::codec::Codec;
use crate::{
    engine::{Cache, Looked},
    entry::{Deadlines, Entry, EntryId},
    inherit::{self, Reads},
    key::Key,
    store::Seen,
    telemetry::{Event, Rejection, Tier},
};

/// Begins the metadata of a typed entry. A response's begins otherwise.
const KIND: u8 = b'T';

pub(super) fn write(key: &Key, codec: Codec, value: Vec<u8>, deadlines: Deadlines) -> Entry {
    // What a vector has to spare would be kept as long as the value.
    let value = value.into_boxed_slice().into();
    Entry::new(EntryId::random(), key, deadlines, Bytes::copy_from_slice(&[KIND, codec.mark()]), value)
}

/// The value, if the entry holds one of this type.
pub(super) fn read<V: DeserializeOwned>(entry: &Entry) -> Option<V> {
    let [KIND, mark] = entry.meta()[..] else { return None };
    Codec::of_mark(mark)?.decode(entry.payload()).ok()
}

/// A value, and the entry that it came from.
pub(super) struct Hit<V> {
    pub(super) value: V,
    pub(super) entry: Entry,
}

impl<V> Hit<V> {
    /// The value, of which whatever is being made now takes note.
    pub(super) fn noted(self) -> V {
        inherit::note(|| Reads::new(&self.entry.tags(), Some(self.entry.deadlines().fresh)));
        self.value
    }
}

/// What a cache has for a key.
pub(super) enum Found<V> {
    Fresh(Hit<V>),
    /// Stale, and to be used while it is loaded anew.
    Usable(Hit<V>, Vacancy),
    Nothing(Vacancy),
}

/// The place that a value is going to take.
#[derive(Clone, Debug)]
pub(super) struct Vacancy {
    /// What is there; nobody knows if the store doesn't answer.
    pub(super) seen: Option<Seen>,
    /// The value that was there, and may still be of use.
    pub(super) stale: Option<Entry>,
}

impl Vacancy {
    /// Whatever is there is to be replaced.
    pub(super) const UNSEEN: Self = Self { seen: Some(Seen::Unusable), stale: None };
}

impl Cache {
    /// What is there for `key`, in this process or further away, and where it is.
    pub(super) async fn find<V: DeserializeOwned>(&self, key: &Key) -> (Found<V>, Tier) {
        match self.find_here(key) {
            Some(hit) => (Found::Fresh(hit), Tier::Memory),
            None => (self.judge(self.look_up(key).await), self.far_tier()),
        }
    }

    /// The fresh value of `key`, if this process has it in memory.
    pub(super) fn find_here<V: DeserializeOwned>(&self, key: &Key) -> Option<Hit<V>> {
        let entry = self.peek(key)?;
        let now = self.now();
        if now >= entry.deadlines_at(now).fresh {
            return None;
        }
        read(&entry).map(|value| Hit { value, entry })
    }

    pub(super) fn judge<V: DeserializeOwned>(&self, looked: Looked) -> Found<V> {
        let entry = match looked {
            Looked::Found(entry) => entry,
            Looked::Missing(seen) => return Found::Nothing(Vacancy { seen: Some(seen), stale: None }),
            Looked::Unavailable => return Found::Nothing(Vacancy { seen: None, stale: None }),
        };
        let now = self.now();
        let Some(value) = read(&entry) else {
            self.emit(Event::Rejected(Rejection::Type));
            return Found::Nothing(Vacancy { seen: Some(Seen::Entry(entry.id())), stale: None });
        };
        let Deadlines { fresh, stale_while_revalidate: usable, .. } = entry.deadlines_at(now);
        if entry.is_from_the_future(now) {
            self.emit(Event::Rejected(Rejection::Future));
        }
        let vacancy = Vacancy { seen: Some(Seen::Entry(entry.id())), stale: Some(entry.clone()) };
        let hit = Hit { value, entry };
        match now {
            now if now < fresh => Found::Fresh(hit),
            now if now < usable => Found::Usable(hit, vacancy),
            _ => Found::Nothing(vacancy),
        }
    }
}
