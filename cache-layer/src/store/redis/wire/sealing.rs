//! How entries are written: compressed, or sealed as well, with hidden names.

use std::borrow::Cow;

use bytes::Bytes;

#[cfg(feature = "sealed")]
use crate::entry::KeyRing;
use crate::{
    entry::{Compression, Entry, envelope},
    key::Key,
    telemetry::Rejection,
};

/// Entries are sealed and names hidden if there is a key ring.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sealing {
    pub(crate) compression: Compression,
    #[cfg(feature = "sealed")]
    pub(crate) ring: Option<KeyRing>,
}

#[cfg(feature = "sealed")]
impl Sealing {
    pub(crate) fn encode(&self, entry: &Entry) -> Bytes {
        let Self { compression, ring } = self;
        ring.as_ref().map_or_else(|| envelope::encode_with(entry, *compression), |ring| ring.seal(entry, *compression))
    }

    pub(crate) fn decode(&self, key: &Key, bytes: &Bytes) -> Result<Entry, Rejection> {
        self.ring.as_ref().map_or_else(|| envelope::decode(key, bytes), |ring| ring.open(key, bytes))
    }

    /// The same for the store with this prefix, under which alone its entries open.
    pub(super) fn bound_to(self, prefix: &str) -> Self {
        Self { ring: self.ring.map(|ring| ring.bound_to(prefix)), ..self }
    }

    /// Whether names are hidden from people, and from patterns.
    pub(crate) fn hides_names(&self) -> bool {
        self.ring.is_some()
    }

    pub(super) fn hide_id(&self, id: [u8; 16]) -> [u8; 16] {
        self.ring.as_ref().map_or(id, |ring| ring.hide_id(id))
    }

    pub(super) fn reveal_id(&self, id: [u8; 16]) -> [u8; 16] {
        self.ring.as_ref().map_or(id, |ring| ring.reveal_id(id))
    }

    pub(super) fn hide_tag<'t>(&self, tag: &'t str) -> Cow<'t, str> {
        self.ring.as_ref().map_or(Cow::Borrowed(tag), |ring| Cow::Owned(ring.hide_tag(tag)))
    }

    pub(super) fn reveal_tag<'t>(&self, tag: &'t str) -> Option<Cow<'t, str>> {
        match &self.ring {
            None => Some(Cow::Borrowed(tag)),
            Some(ring) => ring.reveal_tag(tag).map(Cow::Owned),
        }
    }
}

#[cfg(not(feature = "sealed"))]
#[expect(clippy::unused_self, reason = "with the feature, it is used")]
impl Sealing {
    pub(crate) fn encode(&self, entry: &Entry) -> Bytes {
        envelope::encode_with(entry, self.compression)
    }

    pub(crate) fn decode(&self, key: &Key, bytes: &Bytes) -> Result<Entry, Rejection> {
        envelope::decode(key, bytes)
    }

    pub(super) fn bound_to(self, _: &str) -> Self {
        self
    }

    pub(crate) fn hides_names(&self) -> bool {
        false
    }

    pub(super) fn hide_id(&self, id: [u8; 16]) -> [u8; 16] {
        id
    }

    pub(super) fn reveal_id(&self, id: [u8; 16]) -> [u8; 16] {
        id
    }

    pub(super) fn hide_tag<'t>(&self, tag: &'t str) -> Cow<'t, str> {
        Cow::Borrowed(tag)
    }

    pub(super) fn reveal_tag<'t>(&self, tag: &'t str) -> Option<Cow<'t, str>> {
        Some(Cow::Borrowed(tag))
    }
}
