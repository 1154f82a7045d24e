//! What is stored: an entry, its deadlines, and its envelope on the wire.

use std::{
    any::Any,
    fmt,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;

use crate::{
    key::Key,
    tag::{Stamp, Tags},
};

#[cfg(feature = "redis")]
mod compression;
#[cfg(feature = "redis")]
pub(crate) mod envelope;

/// Bytes that an entry costs beyond the ones it holds: its allocations' heads and its slot in a map.
const OVERHEAD: usize = 256;

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
/// Each is at or after the one before it; what a front end doesn't use, it leaves equal to `fresh`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Deadlines {
    /// Served without a question until then.
    pub(crate) fresh: u64,
    /// Served while it is refreshed in the background until then (RFC 5861, section 3).
    pub(crate) stale_while_revalidate: u64,
    /// Served in place of an error until then (RFC 5861, section 4).
    pub(crate) stale_if_error: u64,
    /// Kept for its validators until then.
    pub(crate) keep: u64,
    /// Removed by the store after that.
    pub(crate) gone: u64,
}

impl Deadlines {
    /// An entry that is of no use once it is stale.
    #[cfg(test)]
    pub(crate) fn fresh_until(moment: u64) -> Self {
        Self { fresh: moment, stale_while_revalidate: moment, stale_if_error: moment, keep: moment, gone: moment }
    }
}

/// A stored value: a payload, what its front end knows about it, and what decides its life. Cheap to clone.
#[derive(Clone)]
pub struct Entry(Arc<Inner>);

struct Inner {
    id: EntryId,
    canonical: Bytes,
    deadlines: Deadlines,
    stamps: Vec<Stamp>,
    meta: Bytes,
    payload: Bytes,
    /// Whether the payload is compressed by its nature, so that compressing it would be in vain.
    packed: bool,
    /// The front end's reading of `meta`, made once for all hits in this process.
    view: OnceLock<Option<Arc<dyn Any + Send + Sync>>>,
}

impl Entry {
    pub(crate) fn new(id: EntryId, key: &Key, deadlines: Deadlines, meta: Bytes, payload: Bytes) -> Self {
        Self::from_parts(id, key.canonical().clone(), deadlines, Vec::new(), meta, payload)
    }

    fn from_parts(
        id: EntryId,
        canonical: Bytes,
        deadlines: Deadlines,
        stamps: Vec<Stamp>,
        meta: Bytes,
        payload: Bytes,
    ) -> Self {
        Self(Arc::new(Inner { id, canonical, deadlines, stamps, meta, payload, packed: false, view: OnceLock::new() }))
    }

    /// The same entry, carrying `stamps`.
    pub(crate) fn stamped(&self, stamps: Vec<Stamp>) -> Self {
        let Inner { id, canonical, deadlines, meta, payload, .. } = &*self.0;
        Self::from_parts(*id, canonical.clone(), *deadlines, stamps, meta.clone(), payload.clone())
            .packed(self.0.packed)
    }

    /// The same entry, new as it is, with a payload that is compressed by its nature, or isn't.
    pub(crate) fn packed(mut self, packed: bool) -> Self {
        if let Some(inner) = Arc::get_mut(&mut self.0) {
            inner.packed = packed;
        }
        self
    }

    pub(crate) fn id(&self) -> EntryId {
        self.0.id
    }

    /// Whether this is the entry of `key`, to the last byte.
    pub(crate) fn is_of(&self, key: &Key) -> bool {
        self.0.canonical == *key.canonical()
    }

    pub(crate) fn deadlines(&self) -> &Deadlines {
        &self.0.deadlines
    }

    pub(crate) fn stamps(&self) -> &[Stamp] {
        &self.0.stamps
    }

    /// The tags that it was stored with.
    pub(crate) fn tags(&self) -> Tags {
        Tags::new(self.0.stamps.iter().map(|stamp| &stamp.tag))
    }

    #[cfg(any(test, feature = "typed"))]
    pub(crate) fn meta(&self) -> &Bytes {
        &self.0.meta
    }

    pub(crate) fn payload(&self) -> &Bytes {
        &self.0.payload
    }

    /// The front end's reading of the metadata; `None` if it can't be read.
    pub(crate) fn view<T: Send + Sync + 'static>(&self, read: impl FnOnce(&Bytes) -> Option<T>) -> Option<&T> {
        self.0
            .view
            .get_or_init(|| read(&self.0.meta).map(|view| Arc::new(view) as Arc<dyn Any + Send + Sync>))
            .as_deref()
            .and_then(|view| view.downcast_ref())
    }

    /// Bytes of memory that this entry takes, near enough to bound a store by.
    #[cfg(feature = "memory")]
    pub(crate) fn weight(&self) -> usize {
        let inner = &*self.0;
        let stamps: usize = inner.stamps.iter().map(|stamp| size_of::<Stamp>() + stamp.tag.len()).sum();
        // The metadata counts twice: as it came, and as the view that hits are answered from.
        OVERHEAD + inner.canonical.len() + stamps + 2 * inner.meta.len() + inner.payload.len()
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("deadlines", &self.0.deadlines)
            .field("stamps", &self.0.stamps)
            .field("payload", &self.0.payload.len())
            .finish_non_exhaustive()
    }
}
