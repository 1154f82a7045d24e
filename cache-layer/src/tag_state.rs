//! What the tags of an entry say about it: current, stale, or void.

/// The state of an entry by its tags.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum TagState {
    Current,
    /// A soft invalidation came after the entry, at this time, in milliseconds since the Unix epoch.
    StaleSince(u64),
    /// A ramp came after the entry, and the entry's turn is at this time, which may be in the future.
    StaleFrom(u64),
    /// A pattern that its key matches was deleted.
    Banned,
    Invalid,
}

impl TagState {
    #[cfg(feature = "redis")]
    pub(crate) fn is_void(self) -> bool {
        matches!(self, Self::Banned | Self::Invalid)
    }

    /// The combined state of two tags: the worse one.
    pub(crate) fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Invalid, _) | (_, Self::Invalid) => Self::Invalid,
            (Self::Banned, _) | (_, Self::Banned) => Self::Banned,
            (Self::Current, state) | (state, Self::Current) => state,
            (Self::StaleFrom(one), Self::StaleFrom(other)) => Self::StaleFrom(one.min(other)),
            (Self::StaleSince(one) | Self::StaleFrom(one), Self::StaleSince(other) | Self::StaleFrom(other)) => {
                Self::StaleSince(one.min(other))
            }
        }
    }
}
