//! What tells one state of a key from another.

/// Tells one making of an entry from any other, so that a writer can say "only if it still is the one I saw".
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct EntryId(pub(crate) [u8; 16]);

impl EntryId {
    pub(crate) fn random() -> Self {
        Self(fastrand::u128(..).to_be_bytes())
    }
}

/// Tells one state of a key from any other: which entry it holds, and the last soft invalidation that the entry has seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Version {
    pub(crate) id: EntryId,
    pub(crate) mark: SoftMark,
}

/// The time of the last soft invalidation of an entry's key, in whole seconds since the Unix epoch, rounded up; 0 if there
/// was none. No two soft invalidations of one entry have the same: a second one within a second is one more.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub(crate) struct SoftMark(pub(crate) u32);

impl SoftMark {
    #[cfg(feature = "memory")]
    pub(super) fn next(self, now: u64) -> Self {
        let seconds = u32::try_from(now / 1000 + 1).unwrap_or(u32::MAX);
        Self(seconds.max(self.0.saturating_add(1)))
    }
}
