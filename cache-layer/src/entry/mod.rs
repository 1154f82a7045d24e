//! What is stored: an entry, its deadlines, and its envelope on the wire.

use std::{
    any::Any,
    fmt,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;

use crate::{
    key::Key,
    tag::{Stamp, Standing, Tags},
};

#[cfg(feature = "redis")]
mod compression;
#[cfg(feature = "redis")]
pub(crate) mod envelope;
pub(crate) mod weight;

/// By how many milliseconds the clocks of two processes may differ unnoticed. Those that are kept by NTP stay well within.
const SKEW: u64 = 1_000;

/// Tells one making of an entry from any other, so that a writer can say "only if it still is the one I saw".
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EntryId(pub(crate) [u8; 16]);

impl EntryId {
    pub(crate) fn random() -> Self {
        Self(fastrand::u128(..).to_be_bytes())
    }
}

/// The five moments of an entry's life, in milliseconds since the Unix epoch, computed when the entry is made.
///
/// Those after `fresh` are not before it; what a front end doesn't use, it leaves equal to `fresh`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Deadlines {
    /// When it was made, by the clock of who made it; [`UNKNOWN`](Self::UNKNOWN) of what earlier versions wrote.
    pub(crate) made: u64,
    /// Served without a question until then.
    pub(crate) fresh: u64,
    /// Served while it is refreshed in the background until then (RFC 5861, section 3).
    pub(crate) stale_while_revalidate: u64,
    /// Served in place of an error until then (RFC 5861, section 4).
    pub(crate) stale_if_error: u64,
    /// Kept, for its validators at least, until then; removed by the store after that.
    pub(crate) gone: u64,
}

impl Deadlines {
    /// Before anything was made.
    #[cfg_attr(not(any(feature = "redis", feature = "typed")), allow(dead_code))]
    pub(crate) const UNKNOWN: u64 = 0;

    /// As they are to be compared with `now`. The moments are another clock's, or this one's before it was set: however far
    /// apart those are, there is never more left of a life than it had when it began. What was made later than it is now may
    /// be of any age, and is of no use but for its validators.
    fn at(self, now: u64) -> Self {
        match self.made.saturating_sub(now) {
            0 => self,
            ahead if ahead <= SKEW => Self {
                fresh: self.fresh.saturating_sub(ahead),
                stale_while_revalidate: self.stale_while_revalidate.saturating_sub(ahead),
                stale_if_error: self.stale_if_error.saturating_sub(ahead),
                ..self
            },
            _ => Self {
                fresh: self.fresh.min(now),
                stale_while_revalidate: self.stale_while_revalidate.min(now),
                stale_if_error: self.stale_if_error.min(now),
                ..self
            },
        }
    }

    /// The same life, stale at `moment` at the latest. The times for which it may be used stale are as long as they were,
    /// and begin then. Of several moments the earliest counts.
    fn stale_since(self, moment: u64) -> Self {
        let fresh = self.fresh.min(moment);
        let earlier = self.fresh - fresh;
        Self {
            fresh,
            stale_while_revalidate: self.stale_while_revalidate.saturating_sub(earlier),
            stale_if_error: self.stale_if_error.saturating_sub(earlier),
            ..self
        }
    }

    /// An entry that is of no use once it is stale.
    #[cfg(test)]
    pub(crate) fn fresh_until(moment: u64) -> Self {
        let made = Self::UNKNOWN;
        Self { made, fresh: moment, stale_while_revalidate: moment, stale_if_error: moment, gone: moment }
    }
}

/// Tells one state of a place from any other: which entry is there, and which soft invalidation of its key it has seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Version {
    pub(crate) id: EntryId,
    pub(crate) mark: Mark,
}

/// Of the last soft invalidation of an entry's key, in whole seconds since the Unix epoch, rounded up; 0: there was none.
/// No two of one entry are the same: a second one within a second is one more.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub(crate) struct Mark(pub(crate) u32);

impl Mark {
    #[cfg(feature = "memory")]
    fn next(self, now: u64) -> Self {
        let seconds = u32::try_from(now / 1000 + 1).unwrap_or(u32::MAX);
        Self(seconds.max(self.0.saturating_add(1)))
    }
}

/// A stored value: a payload, what its front end knows about it, and what decides its life. Cheap to clone.
#[derive(Clone)]
pub struct Entry {
    made: Arc<Made>,
    /// Since when soft invalidations make it stale at the latest, in milliseconds since the Unix epoch.
    stale_since: u64,
    mark: Mark,
}

/// As stale as it was made to be: no soft invalidation came over it.
const NEVER: u64 = u64::MAX;

/// What doesn't change once it is made.
#[derive(Clone)]
struct Made {
    id: EntryId,
    canonical: Bytes,
    deadlines: Deadlines,
    load_time: u32,
    stamps: Vec<Stamp>,
    meta: Bytes,
    payload: Bytes,
    held: Held,
    /// Whether the payload is compressed by its nature, so that compressing it would be in vain.
    packed: bool,
    /// The most variants that it is to lead to, if it leads to any. Whoever writes it says so; it is not stored.
    #[cfg_attr(not(feature = "redis"), allow(dead_code))]
    most_variants: u16,
    /// The front end's reading of `meta`, made once for all hits in this process.
    view: OnceLock<Option<Arc<dyn Any + Send + Sync>>>,
}

/// Bytes of the buffers that it keeps in memory, which are not its own alone.
#[derive(Clone, Copy)]
#[cfg_attr(not(feature = "memory"), allow(dead_code))]
struct Held {
    /// Of the one that the payload is in.
    buffer: usize,
    /// Of those of the key and the metadata, where they are not in there as well.
    beside: usize,
}

impl Entry {
    pub(crate) fn new(id: EntryId, key: &Key, deadlines: Deadlines, meta: Bytes, payload: Bytes) -> Self {
        let canonical = key.canonical().clone();
        let held = Held { buffer: payload.len(), beside: canonical.len() + meta.len() };
        Self::from_parts(id, canonical, deadlines, 0, Vec::new(), meta, payload, held)
    }

    /// The same entry, with the payload that its load brought, in these pieces and in so many milliseconds; 49 days at most.
    ///
    /// The pieces are copied in any case: a slice of a larger buffer would keep all of it in memory. So is the little there is
    /// beside them, into the same buffer: of small entries, buffers of their own and their counters would be a tenth.
    pub(crate) fn loaded<'a>(self, pieces: impl Iterator<Item = &'a Bytes> + Clone, millis: u64) -> Self {
        self.made_with(|made| {
            let (canonical, meta) = (made.canonical.len(), made.meta.len());
            let mut buffer = Vec::with_capacity(canonical + meta + pieces.clone().map(Bytes::len).sum::<usize>());
            buffer.extend_from_slice(&made.canonical);
            buffer.extend_from_slice(&made.meta);
            pieces.for_each(|piece| buffer.extend_from_slice(piece));
            made.held = Held { buffer: buffer.len(), beside: 0 };
            let mut rest = Bytes::from(buffer);
            made.canonical = rest.split_to(canonical);
            made.meta = rest.split_to(meta);
            made.payload = rest;
            made.load_time = u32::try_from(millis).unwrap_or(u32::MAX);
        })
    }

    /// As [`loaded`](Self::loaded), with the payload of another entry: it is not copied.
    pub(crate) fn loaded_again(self, stored: &Self, millis: u64) -> Self {
        self.made_with(|made| {
            made.payload = stored.payload().clone();
            made.held = Held { buffer: stored.made.held.buffer, beside: made.canonical.len() + made.meta.len() };
            made.load_time = u32::try_from(millis).unwrap_or(u32::MAX);
        })
    }

    #[allow(clippy::too_many_arguments)] // one for each part
    fn from_parts(
        id: EntryId,
        canonical: Bytes,
        deadlines: Deadlines,
        load_time: u32,
        stamps: Vec<Stamp>,
        meta: Bytes,
        payload: Bytes,
        held: Held,
    ) -> Self {
        let (packed, most_variants) = (false, 0);
        let made = Made {
            id,
            canonical,
            deadlines,
            load_time,
            stamps,
            meta,
            payload,
            held,
            packed,
            most_variants,
            view: OnceLock::new(),
        };
        Self { made: Arc::new(made), stale_since: NEVER, mark: Mark::default() }
    }

    /// The same entry, with a payload that is compressed by its nature, or isn't.
    pub(crate) fn packed(self, packed: bool) -> Self {
        self.made_with(|made| made.packed = packed)
    }

    /// The same entry, which is to lead to so many variants at most.
    pub(crate) fn leading_to(self, most_variants: u16) -> Self {
        self.made_with(|made| made.most_variants = most_variants)
    }

    #[cfg(feature = "redis")]
    pub(crate) fn most_variants(&self) -> u16 {
        self.made.most_variants
    }

    /// The same entry, made a little differently: in its place, if nobody else has it.
    fn made_with(mut self, change: impl FnOnce(&mut Made)) -> Self {
        change(Arc::make_mut(&mut self.made));
        self
    }

    /// The same entry, stale since `moment`, in milliseconds since the Unix epoch, by a soft invalidation.
    pub(crate) fn softened(&self, moment: u64) -> Self {
        Self { stale_since: self.stale_since.min(moment), ..self.clone() }
    }

    /// What is left of it by its tags.
    pub(crate) fn standing(self, standing: Standing) -> Option<Self> {
        match standing {
            Standing::Current => Some(self),
            Standing::StaleSince(moment) => Some(self.softened(moment)),
            Standing::Void => None,
        }
    }

    /// The same entry, if that is its mark.
    pub(crate) fn marked(&self, mark: Mark) -> Self {
        match mark.0 {
            0 => self.clone(),
            seconds => Self { mark, ..self.softened(u64::from(seconds) * 1000) },
        }
    }

    /// The same entry, after one more soft invalidation of its key.
    #[cfg(feature = "memory")]
    pub(crate) fn marked_anew(&self, now: u64) -> Self {
        self.marked(self.mark.next(now))
    }

    /// The same entry as it is `now`: after a soft invalidation it is not fresh, whatever the clock says that the
    /// invalidation's moment was taken from.
    pub(crate) fn seen_at(mut self, now: impl FnOnce() -> u64) -> Self {
        if self.is_softened() {
            self.stale_since = self.stale_since.min(now());
        }
        self
    }

    /// Whether a soft invalidation came over it.
    pub(crate) fn is_softened(&self) -> bool {
        self.stale_since != NEVER
    }

    /// By how much soft invalidations moved its deadlines, in milliseconds.
    pub(crate) fn brought_forward(&self) -> u64 {
        self.made.deadlines.fresh.saturating_sub(self.stale_since)
    }

    /// The same entry, carrying `stamps`.
    pub(crate) fn stamped(self, stamps: &[Stamp]) -> Self {
        // Most of what has no tags is in others' hands by now.
        if self.made.stamps == stamps {
            return self;
        }
        self.made_with(|made| made.stamps = stamps.to_vec())
    }

    pub(crate) fn id(&self) -> EntryId {
        self.made.id
    }

    pub(crate) fn version(&self) -> Version {
        Version { id: self.made.id, mark: self.mark }
    }

    /// Whether this is the entry of `key`, to the last byte.
    pub(crate) fn is_of(&self, key: &Key) -> bool {
        self.made.canonical == *key.canonical()
    }

    /// The bytes of the key that it was stored under.
    #[cfg(feature = "memory")]
    pub(crate) fn canonical(&self) -> &Bytes {
        &self.made.canonical
    }

    /// As it was made, and as soft invalidations left it.
    pub(crate) fn deadlines(&self) -> Deadlines {
        self.made.deadlines.stale_since(self.stale_since)
    }

    /// As they are to be compared with `now`.
    pub(crate) fn deadlines_at(&self, now: u64) -> Deadlines {
        self.deadlines().at(now)
    }

    /// Whether it was made later than it is now, so that it may be of any age: the clock was set back, or two clocks differ.
    pub(crate) fn is_from_the_future(&self, now: u64) -> bool {
        self.made.deadlines.made > now.saturating_add(SKEW)
    }

    /// How long its load took, in milliseconds; zero if nobody said.
    pub(crate) fn load_time(&self) -> u64 {
        self.made.load_time.into()
    }

    pub(crate) fn stamps(&self) -> &[Stamp] {
        &self.made.stamps
    }

    /// The tags that it was stored with.
    pub(crate) fn tags(&self) -> Tags {
        Tags::new(self.made.stamps.iter().map(|stamp| &stamp.tag))
    }

    #[cfg(any(test, feature = "typed"))]
    pub(crate) fn meta(&self) -> &Bytes {
        &self.made.meta
    }

    pub(crate) fn payload(&self) -> &Bytes {
        &self.made.payload
    }

    /// Whether others have it too: a store in this process, say.
    pub(crate) fn is_shared(&self) -> bool {
        Arc::strong_count(&self.made) > 1
    }

    /// The front end's reading of the metadata, to be taken apart. `None` if others have it too.
    pub(crate) fn own_view<T: 'static>(&mut self) -> Option<&mut T> {
        // Asking for leave to change what others have would take it out of their processors' caches.
        if self.is_shared() {
            return None;
        }
        let view = Arc::get_mut(&mut self.made)?.view.get_mut()?.as_mut()?;
        Arc::get_mut(view)?.downcast_mut()
    }

    /// The front end's reading of the metadata; `None` if it can't be read.
    pub(crate) fn view<T: Send + Sync + 'static>(&self, read: impl FnOnce(&Bytes) -> Option<T>) -> Option<&T> {
        self.made
            .view
            .get_or_init(|| read(&self.made.meta).map(|view| Arc::new(view) as Arc<dyn Any + Send + Sync>))
            .as_deref()
            .and_then(|view| view.downcast_ref())
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("deadlines", &self.deadlines())
            .field("stamps", &self.made.stamps)
            .field("payload", &self.made.payload.len())
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
        let meta = Bytes::from_static(b"meta");
        let planned = Entry::new(EntryId::random(), &Key::new(["k"]), deadlines(), meta, Bytes::new());
        let pieces = [Bytes::from_static(b"pay"), Bytes::new(), Bytes::from_static(b"load")];
        let entry = planned.loaded(pieces.iter(), 7);
        let Made { canonical, meta, payload, .. } = &*entry.made;
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
        let soft = entry(deadlines()).softened(4 * MINUTE);
        let Deadlines { fresh, stale_while_revalidate, stale_if_error, gone, .. } = soft.deadlines();
        assert_eq!([fresh, stale_while_revalidate, stale_if_error], [4 * MINUTE, 6 * MINUTE, 9 * MINUTE]);
        assert_eq!(gone, 60 * MINUTE, "its validators are kept");
        assert_eq!(soft.brought_forward(), 6 * MINUTE);
    }

    #[test]
    fn what_may_not_be_used_stale_may_not_be_used_once_it_is_softened() {
        let soft = entry(Deadlines::fresh_until(10 * MINUTE)).softened(4 * MINUTE);
        assert_eq!(soft.deadlines().stale_while_revalidate, 4 * MINUTE);
    }

    #[test]
    fn a_clock_that_is_behind_makes_no_softened_entry_fresh() {
        let soft = entry(deadlines()).softened(4 * MINUTE).seen_at(|| 3 * MINUTE);
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
        let soft = entry(deadlines()).softened(11 * MINUTE).seen_at(|| 11 * MINUTE);
        assert_eq!(soft.deadlines(), deadlines());
    }

    #[cfg(feature = "memory")]
    #[test]
    fn no_two_marks_are_the_same() {
        let first = entry(deadlines()).marked_anew(4 * MINUTE);
        let second = first.marked_anew(4 * MINUTE);
        assert!(first.version().mark < second.version().mark);
        assert_eq!(first.id(), second.id());
    }
}
