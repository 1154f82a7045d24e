//! The entry: a handle to immutable contents, and the soft invalidations that this handle has seen.

use std::{
    any::Any,
    fmt,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;

use super::{
    codings::Codings,
    deadlines::{Deadlines, SKEW},
    version::{EntryId, SoftMark, Softening, Version},
};
use crate::{
    key::Key,
    ramp::{LONGEST, Turn},
    tag::{TagStamp, TagState, Tags},
};

/// A stored value: a payload, the metadata of its front end, and its tags and deadlines. Cheap to clone.
#[derive(Clone)]
pub struct Entry {
    pub(super) contents: Arc<Contents>,
    /// The time from which soft invalidations make the entry stale, in milliseconds since the Unix epoch.
    stale_since: u64,
    mark: SoftMark,
    /// Whether it already is stale by them, whatever a clock says; otherwise that time may be in the future, by a ramp.
    softened: bool,
}

/// No soft invalidation made the entry stale.
const NEVER: u64 = u64::MAX;

/// The immutable part of an entry.
#[derive(Clone)]
pub(super) struct Contents {
    pub(super) id: EntryId,
    pub(super) canonical: Bytes,
    pub(super) deadlines: Deadlines,
    pub(super) load_time: u32,
    /// The youngest [ban](crate::ban) that its load knew of; 0: of none, as far as a store has to be told.
    #[cfg_attr(not(feature = "redis"), allow(dead_code))]
    pub(super) bans_known: u64,
    pub(super) stamps: Vec<TagStamp>,
    pub(super) meta: Bytes,
    pub(super) payload: Bytes,
    /// The payload in content codings, if there is any of it.
    pub(super) codings: Option<Arc<Codings>>,
    pub(super) held: Held,
    /// Whether the payload is compressed by nature, so that compressing it again would not help.
    pub(super) is_compressed: bool,
    /// The most variants that this entry may lead to, if it is a variant index: for the script that writes it; not stored.
    #[cfg_attr(not(feature = "redis"), allow(dead_code))]
    pub(super) most_variants: u16,
    /// The front end's reading of `meta`, made once for all hits in this process.
    pub(super) view: OnceLock<Option<Arc<dyn Any + Send + Sync>>>,
}

impl Contents {
    /// Of an entry whose payload is in a buffer of its own.
    pub(super) fn new(id: EntryId, canonical: Bytes, deadlines: Deadlines, meta: Bytes, payload: Bytes) -> Self {
        let held = Held { buffer: payload.len(), beside: canonical.len() + meta.len() };
        Self {
            id,
            canonical,
            deadlines,
            load_time: 0,
            bans_known: 0,
            stamps: Vec::new(),
            meta,
            payload,
            codings: None,
            held,
            is_compressed: false,
            most_variants: 0,
            view: OnceLock::new(),
        }
    }
}

/// The sizes of the buffers that an entry keeps in memory, which may be shared.
#[derive(Clone, Copy)]
#[cfg_attr(not(feature = "memory"), allow(dead_code))]
pub(super) struct Held {
    /// The buffer with the payload, in bytes.
    pub(super) buffer: usize,
    /// The buffers of the key and the metadata, in bytes, if they are not in that buffer as well.
    pub(super) beside: usize,
}

/// An entry before its payload has arrived.
#[derive(Debug)]
pub(crate) struct EntryHead {
    pub(crate) key: Key,
    pub(crate) id: EntryId,
    pub(crate) deadlines: Deadlines,
    pub(crate) meta: Vec<u8>,
    /// Whether the payload is compressed by nature.
    pub(crate) is_compressed: bool,
}

impl EntryHead {
    /// The entry without its payload.
    pub(crate) fn without_payload(&self) -> Entry {
        let meta = Bytes::copy_from_slice(&self.meta);
        Entry::new(self.id, &self.key, self.deadlines, meta, Bytes::new()).compressed(self.is_compressed)
    }

    /// The entry with its loaded payload, in these pieces; `millis` is the duration of the load, 49 days at most.
    ///
    /// The pieces are always copied: a slice of a larger buffer would keep all of that buffer in memory. The key and the
    /// metadata are copied into the same buffer: separate buffers and their counters would be a tenth of a small entry.
    pub(crate) fn loaded<'a>(&self, pieces: impl Iterator<Item = &'a Bytes> + Clone, millis: u64) -> Entry {
        let (canonical, meta) = (self.key.canonical(), &self.meta);
        let length = canonical.len() + meta.len() + pieces.clone().map(Bytes::len).sum::<usize>();
        let mut buffer = Vec::with_capacity(length);
        buffer.extend_from_slice(canonical);
        buffer.extend_from_slice(meta);
        pieces.for_each(|piece| buffer.extend_from_slice(piece));
        let mut rest = Bytes::from(buffer);
        let (canonical, meta) = (rest.split_to(canonical.len()), rest.split_to(meta.len()));
        Entry::of(Contents {
            held: Held { buffer: length, beside: 0 },
            load_time: u32::try_from(millis).unwrap_or(u32::MAX),
            is_compressed: self.is_compressed,
            ..Contents::new(self.id, canonical, self.deadlines, meta, rest)
        })
    }

    /// As [`loaded`](Self::loaded), with the payload of another entry, which is not copied. `coded`: its codings are kept, too.
    pub(crate) fn loaded_again(&self, stored: &Entry, millis: u64, coded: bool) -> Entry {
        let (canonical, meta) = (Bytes::copy_from_slice(self.key.canonical()), Bytes::copy_from_slice(&self.meta));
        let again = Entry::of(Contents {
            held: Held { buffer: stored.contents.held.buffer, beside: canonical.len() + meta.len() },
            load_time: u32::try_from(millis).unwrap_or(u32::MAX),
            is_compressed: self.is_compressed,
            ..Contents::new(self.id, canonical, self.deadlines, meta, stored.payload().clone())
        });
        if coded { again.with_codings_of(stored) } else { again }
    }
}

impl Entry {
    pub(crate) fn new(id: EntryId, key: &Key, deadlines: Deadlines, meta: Bytes, payload: Bytes) -> Self {
        Self::of(Contents::new(id, Bytes::copy_from_slice(key.canonical()), deadlines, meta, payload))
    }

    /// The same entry, whose moments come no earlier than those of `other`.
    #[cfg(feature = "memory")]
    pub(crate) fn lasting_as_long_as(self, other: &Self) -> Self {
        let (own, latest) = (self.contents.deadlines, self.contents.deadlines.latest(other.contents.deadlines));
        if latest == own { self } else { self.change(|contents| contents.deadlines = latest) }
    }

    pub(super) fn of(contents: Contents) -> Self {
        Self { contents: Arc::new(contents), stale_since: NEVER, mark: SoftMark::default(), softened: false }
    }

    /// The same entry, marked as compressed by nature, or not.
    pub(crate) fn compressed(self, is_compressed: bool) -> Self {
        self.change(|contents| contents.is_compressed = is_compressed)
    }

    /// The same entry, which may lead to at most `most_variants` variants.
    pub(crate) fn leading_to(self, most_variants: u16) -> Self {
        self.change(|contents| contents.most_variants = most_variants)
    }

    #[cfg(feature = "redis")]
    pub(crate) fn most_variants(&self) -> u16 {
        self.contents.most_variants
    }

    /// The same entry with changed contents: changed in place, if no other handle shares them.
    pub(super) fn change(mut self, change: impl FnOnce(&mut Contents)) -> Self {
        change(Arc::make_mut(&mut self.contents));
        self
    }

    /// The same entry, stale since `moment`, in milliseconds since the Unix epoch, by a soft invalidation.
    pub(crate) fn soft_invalidated(&self, moment: u64) -> Self {
        Self { stale_since: self.stale_since.min(moment), softened: true, ..self.clone() }
    }

    /// The same entry, stale from `moment` on, which may be in the future, by a ramp.
    fn stale_from(&self, moment: u64) -> Self {
        Self { stale_since: self.stale_since.min(moment), ..self.clone() }
    }

    /// The entry in this state of its tags; `None` if they make it invalid.
    pub(crate) fn in_state(self, state: TagState) -> Option<Self> {
        match state {
            TagState::Current => Some(self),
            TagState::StaleSince(moment) => Some(self.soft_invalidated(moment)),
            TagState::StaleFrom(moment) => Some(self.stale_from(moment)),
            TagState::Banned | TagState::Invalid => None,
        }
    }

    /// The same entry, if that is its mark; its key has that turn.
    pub(crate) fn marked(self, mark: SoftMark, turn: impl FnOnce() -> Turn) -> Self {
        match mark.says(turn) {
            Softening::None => self,
            Softening::Since(moment) => Self { mark, ..self.soft_invalidated(moment) },
            Softening::From(moment) => Self { mark, ..self.stale_from(moment) },
        }
    }

    /// The same entry, after one more soft invalidation of its key, over this many milliseconds.
    #[cfg(feature = "memory")]
    pub(crate) fn marked_anew(&self, now: u64, window: u64, turn: Turn) -> Self {
        let mark = self.mark.next_ramped(now, window, turn);
        self.clone().marked(mark, || turn)
    }

    /// The same entry as it is `now`: after a soft invalidation it is not fresh, whatever the clock says that the
    /// invalidation's moment was taken from.
    pub(crate) fn seen_at(mut self, now: impl FnOnce() -> u64) -> Self {
        if self.stale_since != NEVER {
            let now = now();
            // A moment further away than any ramp is not valid.
            self.softened |= self.stale_since.saturating_sub(now) > LONGEST + SKEW || self.stale_since <= now;
            if self.softened {
                self.stale_since = self.stale_since.min(now);
            }
        }
        self
    }

    /// Whether a soft invalidation covers the entry.
    pub(crate) fn is_soft_invalidated(&self) -> bool {
        self.softened
    }

    /// What soft invalidations have done to it, for the entries that it leads to: they are to be [as stale](Self::in_state).
    pub(crate) fn softening(&self) -> TagState {
        match self.stale_since {
            // Not the end of its own freshness, which is not that of the entries that it leads to.
            moment if self.softened => TagState::StaleSince(moment),
            NEVER => TagState::Current,
            moment => TagState::StaleFrom(moment),
        }
    }

    /// Whether it is fresh, and no ramp is going to make it stale: it is taken to be what a load would return.
    pub(crate) fn is_taken_for_current(&self, now: u64) -> bool {
        self.stale_since == NEVER && now < self.deadlines_at(now).fresh
    }

    /// By how much soft invalidations move its deadlines, in milliseconds.
    pub(crate) fn brought_forward(&self) -> u64 {
        self.contents.deadlines.fresh.saturating_sub(self.stale_since)
    }

    /// The same entry, whose load took this many milliseconds.
    #[cfg(feature = "typed")]
    pub(crate) fn loaded_in(self, millis: u64) -> Self {
        self.change(|contents| contents.load_time = u32::try_from(millis).unwrap_or(u32::MAX))
    }

    /// The same entry, carrying `stamps`.
    pub(crate) fn stamped(self, stamps: &[TagStamp]) -> Self {
        // Most entries without tags are shared with other handles by now.
        if self.contents.stamps == stamps {
            return self;
        }
        self.change(|contents| contents.stamps = stamps.to_vec())
    }

    pub(crate) fn id(&self) -> EntryId {
        self.contents.id
    }

    pub(crate) fn version(&self) -> Version {
        Version { id: self.contents.id, mark: self.mark }
    }

    /// Whether this is the entry of `key`, to the last byte.
    pub(crate) fn is_of(&self, key: &Key) -> bool {
        self.contents.canonical == *key.canonical()
    }

    /// The bytes of the key that it was stored under.
    pub(crate) fn canonical(&self) -> &Bytes {
        &self.contents.canonical
    }

    /// The deadlines that the entry was made with, as soft invalidations have moved them.
    pub(crate) fn deadlines(&self) -> Deadlines {
        self.contents.deadlines.stale_since(self.stale_since)
    }

    /// The deadlines as they are to be compared with `now`.
    pub(crate) fn deadlines_at(&self, now: u64) -> Deadlines {
        self.deadlines().at(now)
    }

    /// Whether this entry was made later than `now`, so that its age is unknown: a clock was set back, or two clocks differ.
    pub(crate) fn is_from_the_future(&self, now: u64) -> bool {
        self.contents.deadlines.made > now.saturating_add(SKEW)
    }

    /// How long the load of this entry took, in milliseconds; zero if that is not known.
    pub(crate) fn load_time(&self) -> u64 {
        self.contents.load_time.into()
    }

    /// The youngest ban that its load knew of.
    #[cfg(feature = "redis")]
    pub(crate) fn bans_known(&self) -> u64 {
        self.contents.bans_known
    }

    /// The same entry, whose load knew of the bans up to this one.
    #[cfg(feature = "redis")]
    pub(crate) fn knowing_bans(self, newest: u64) -> Self {
        if self.contents.bans_known == newest { self } else { self.change(|contents| contents.bans_known = newest) }
    }

    pub(crate) fn stamps(&self) -> &[TagStamp] {
        &self.contents.stamps
    }

    /// The tags that it was stored with.
    pub(crate) fn tags(&self) -> Tags {
        Tags::new(self.contents.stamps.iter().map(|stamp| &stamp.tag))
    }

    pub(crate) fn meta(&self) -> &Bytes {
        &self.contents.meta
    }

    /// The payload; empty if [only a frame](Self::is_framed) is present.
    pub(crate) fn payload(&self) -> &Bytes {
        &self.contents.payload
    }

    /// Whether other handles share it, such as that of a store in this process.
    pub(crate) fn is_shared(&self) -> bool {
        Arc::strong_count(&self.contents) > 1
    }

    /// The front end's reading of the metadata, to be moved out. `None` if other handles share it.
    pub(crate) fn own_view<T: 'static>(&mut self) -> Option<&mut T> {
        // A request for exclusive access would evict shared data from other processors' caches.
        if self.is_shared() {
            return None;
        }
        let view = Arc::get_mut(&mut self.contents)?.view.get_mut()?.as_mut()?;
        Arc::get_mut(view)?.downcast_mut()
    }

    /// The front end's reading of the metadata; `None` if it can't be read.
    pub(crate) fn view<T: Send + Sync + 'static>(&self, read: impl FnOnce(&Bytes) -> Option<T>) -> Option<&T> {
        self.contents
            .view
            .get_or_init(|| read(&self.contents.meta).map(|view| Arc::new(view) as Arc<dyn Any + Send + Sync>))
            .as_deref()
            .and_then(|view| view.downcast_ref())
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("deadlines", &self.deadlines())
            .field("stamps", &self.contents.stamps)
            .field("payload", &self.contents.payload.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: u64 = 60_000;

    fn entry(deadlines: Deadlines) -> Entry {
        Entry::new(EntryId::random(), &Key::new(["k"]), deadlines, Bytes::new(), Bytes::new())
    }

    fn deadlines() -> Deadlines {
        Deadlines {
            made: MINUTE,
            fresh: 10 * MINUTE,
            stale_while_revalidate: 12 * MINUTE,
            stale_if_error: 15 * MINUTE,
            gone: 60 * MINUTE,
        }
    }

    #[test]
    fn what_is_loaded_lies_in_one_buffer() {
        let (key, meta) = (Key::new(["k"]), b"meta".to_vec());
        let planned = EntryHead { key, id: EntryId::random(), deadlines: deadlines(), meta, is_compressed: false };
        let pieces = [Bytes::from_static(b"pay"), Bytes::new(), Bytes::from_static(b"load")];
        let entry = planned.loaded(pieces.iter(), 7);
        let Contents { canonical, meta, payload, .. } = &*entry.contents;
        assert_eq!([&meta[..], payload], [&b"meta"[..], b"payload"]);
        assert!(entry.is_of(&Key::new(["k"])) && entry.load_time() == 7);
        let [canonical, meta, payload] = [canonical, meta, payload].map(|part| part.as_ptr_range());
        assert_eq!([canonical.end, meta.end], [meta.start, payload.start]);
    }

    #[test]
    fn a_view_that_others_have_too_is_not_taken_apart() {
        let mut entry = entry(deadlines());
        entry.view(|_| Some("the view".to_owned()));
        let other = entry.clone();
        assert_eq!(entry.own_view::<String>(), None);
        drop(other);
        assert_eq!(entry.own_view().map(std::mem::take::<String>).as_deref(), Some("the view"));
    }

    #[test]
    fn a_softened_entry_is_stale_at_once_with_windows_as_long_as_its_own() {
        let soft = entry(deadlines()).soft_invalidated(4 * MINUTE);
        let Deadlines { fresh, stale_while_revalidate, stale_if_error, gone, .. } = soft.deadlines();
        assert_eq!([fresh, stale_while_revalidate, stale_if_error], [4 * MINUTE, 6 * MINUTE, 9 * MINUTE]);
        assert_eq!(gone, 60 * MINUTE, "its validators are kept");
        assert_eq!(soft.brought_forward(), 6 * MINUTE);
    }

    #[test]
    fn by_a_ramp_it_is_fresh_until_its_turn_and_then_stale() {
        let ramped = entry(deadlines()).in_state(TagState::StaleFrom(4 * MINUTE)).expect("it is valid");
        let before = ramped.clone().seen_at(|| 3 * MINUTE);
        assert!(!before.is_soft_invalidated() && before.deadlines().fresh == 4 * MINUTE, "no longer than that");
        let after = ramped.clone().seen_at(|| 5 * MINUTE);
        assert!(after.is_soft_invalidated() && after.deadlines().stale_while_revalidate == 6 * MINUTE);
        let never = entry(deadlines()).in_state(TagState::StaleFrom(2 * LONGEST)).expect("it is valid");
        assert!(never.seen_at(|| 0).is_soft_invalidated(), "no ramp is so long");
        let both = ramped.in_state(TagState::StaleSince(9 * MINUTE)).expect("it is valid").seen_at(|| 2 * MINUTE);
        assert_eq!(
            (both.is_soft_invalidated(), both.deadlines().fresh),
            (true, 2 * MINUTE),
            "the other one is at once"
        );
    }

    #[test]
    fn what_may_not_be_used_stale_may_not_be_used_once_it_is_softened() {
        let soft = entry(Deadlines::fresh_until(10 * MINUTE)).soft_invalidated(4 * MINUTE);
        assert_eq!(soft.deadlines().stale_while_revalidate, 4 * MINUTE);
    }

    #[test]
    fn a_clock_that_is_behind_makes_no_softened_entry_fresh() {
        let soft = entry(deadlines()).soft_invalidated(4 * MINUTE).seen_at(|| 3 * MINUTE);
        assert_eq!((soft.deadlines().fresh, soft.deadlines().stale_while_revalidate), (3 * MINUTE, 5 * MINUTE));
        assert_eq!(entry(deadlines()).seen_at(|| 3 * MINUTE).deadlines(), deadlines());
    }

    #[test]
    fn no_clock_gives_it_more_of_a_life_than_it_began_with() {
        let entry = entry(deadlines());
        for now in (0..20 * MINUTE).step_by(250) {
            let Deadlines { fresh, stale_while_revalidate, stale_if_error, .. } = entry.deadlines_at(now);
            let left = [fresh, stale_while_revalidate, stale_if_error].map(|moment| moment.saturating_sub(now));
            assert!(left[0] <= 9 * MINUTE && left[1] <= 11 * MINUTE && left[2] <= 14 * MINUTE, "{now}: {left:?}");
            assert!(now < MINUTE || entry.deadlines_at(now) == entry.deadlines(), "{now}");
        }
    }

    #[test]
    fn what_is_from_the_future_is_of_no_use_but_for_its_validators() {
        let entry = entry(deadlines());
        for (now, is_from_the_future) in [(0, true), (MINUTE - SKEW - 1, true), (MINUTE - SKEW, false), (MINUTE, false)]
        {
            assert_eq!(entry.is_from_the_future(now), is_from_the_future, "{now}");
            let Deadlines { fresh, stale_while_revalidate, stale_if_error, gone, .. } = entry.deadlines_at(now);
            for moment in [fresh, stale_while_revalidate, stale_if_error] {
                assert_eq!(moment <= now, is_from_the_future, "{now}");
            }
            assert_eq!(gone, 60 * MINUTE);
        }
    }

    #[test]
    fn what_is_stale_already_is_softened_for_no_longer() {
        let soft = entry(deadlines()).soft_invalidated(11 * MINUTE).seen_at(|| 11 * MINUTE);
        assert_eq!(soft.deadlines(), deadlines());
    }

    #[cfg(feature = "memory")]
    #[test]
    fn no_two_marks_are_the_same() {
        let first = entry(deadlines()).marked_anew(4 * MINUTE, 0, Turn(0));
        let second = first.marked_anew(4 * MINUTE, 0, Turn(0));
        assert!(first.version().mark < second.version().mark);
        assert_eq!(first.id(), second.id());
    }
}
