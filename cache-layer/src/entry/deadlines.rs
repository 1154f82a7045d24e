//! The moments at which an entry's uses end.

/// The difference between the clocks of two processes that is tolerated, in milliseconds. Clocks kept by NTP stay well within it.
pub(super) const SKEW: u64 = 1_000;

/// The longest life of an entry in a server that refuses longer ones, in milliseconds: a hundred years.
#[cfg(feature = "redis")]
const LONGEST_LIFE: u64 = 100 * 365 * 24 * 60 * 60 * 1000;

/// The five moments of an entry's life, in milliseconds since the Unix epoch, computed when the entry is made.
///
/// The moments after `fresh` are not before it; a front end leaves those that it doesn't use equal to `fresh`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Deadlines {
    /// When the entry was made, by the clock of the process that made it; [`UNKNOWN`](Self::UNKNOWN) in an envelope that an
    /// earlier version wrote.
    pub(crate) made: u64,
    /// Until when the entry is served without asking the application.
    pub(crate) fresh: u64,
    /// Until when it is served while it is refreshed in the background (RFC 5861, section 3).
    pub(crate) stale_while_revalidate: u64,
    /// Until when it is served in place of an error (RFC 5861, section 4).
    pub(crate) stale_if_error: u64,
    /// Until when it is kept, at least for its validators; the store removes it after that.
    pub(crate) gone: u64,
}

/// What may be done with an entry at a moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Use {
    /// It answers.
    Fresh,
    /// It answers, and is to be refreshed.
    Stale,
    /// It does not answer; it may be of use to its load, or in place of an error.
    Kept,
    /// Nothing: a store may be late to remove an expired entry.
    Gone,
}

impl Deadlines {
    /// What may be done at `now`, if these are the deadlines [for that moment](Self::at).
    pub(crate) fn allow(self, now: u64) -> Use {
        match now {
            now if now < self.fresh => Use::Fresh,
            now if now < self.stale_while_revalidate => Use::Stale,
            now if now < self.gone => Use::Kept,
            _ => Use::Gone,
        }
    }

    /// A moment before any entry was made.
    #[cfg_attr(not(feature = "redis"), allow(dead_code))]
    pub(crate) const UNKNOWN: u64 = 0;

    /// The deadlines to compare with `now`. The clock that set them may be another process's, or this one's before it was
    /// corrected: however far apart the two clocks are, an entry never has more time left than it had when it was made. An entry
    /// that was made later than `now` may be of any age, and only its validators are of use.
    pub(super) fn at(self, now: u64) -> Self {
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

    /// How long a store keeps an entry that is written `now`, in milliseconds. The life counts from the time at which the entry was made,
    /// if that is known: the deadlines may be by another clock.
    #[cfg(feature = "redis")]
    pub(crate) fn life(self, now: u64) -> u64 {
        let begin = if self.made == Self::UNKNOWN { now } else { self.made };
        self.gone.saturating_sub(begin).min(LONGEST_LIFE)
    }

    /// The same deadlines, but stale at `moment` at the latest. The times for which the entry may be used stale are as long as
    /// they were, and begin then. Of several moments the earliest counts.
    pub(super) fn stale_since(self, moment: u64) -> Self {
        let fresh = self.fresh.min(moment);
        let earlier = self.fresh - fresh;
        Self {
            fresh,
            stale_while_revalidate: self.stale_while_revalidate.saturating_sub(earlier),
            stale_if_error: self.stale_if_error.saturating_sub(earlier),
            ..self
        }
    }

    /// The later of each of these moments.
    pub(crate) fn latest(self, other: Self) -> Self {
        Self {
            made: self.made.max(other.made),
            fresh: self.fresh.max(other.fresh),
            stale_while_revalidate: self.stale_while_revalidate.max(other.stale_while_revalidate),
            stale_if_error: self.stale_if_error.max(other.stale_if_error),
            gone: self.gone.max(other.gone),
        }
    }

    /// An entry that is of no use once it is stale.
    #[cfg(test)]
    pub(crate) fn fresh_until(moment: u64) -> Self {
        let made = Self::UNKNOWN;
        Self { made, fresh: moment, stale_while_revalidate: moment, stale_if_error: moment, gone: moment }
    }
}
