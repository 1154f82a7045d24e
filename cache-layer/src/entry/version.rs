//! Versions, which tell one state of a key from another.

use crate::ramp::{SHORTEST, Turn};

/// Identifies one entry that was made, so that a writer can require that the entry is still the one that it saw.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct EntryId(pub(crate) [u8; 16]);

impl EntryId {
    pub(crate) fn random() -> Self {
        Self(fastrand::u128(..).to_be_bytes())
    }
}

/// Identifies one state of a key: its entry, and the last soft invalidation that covered the entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Version {
    pub(crate) id: EntryId,
    pub(crate) mark: SoftMark,
}

impl Version {
    /// Whether a soft invalidation of the key makes the entry stale, now or in its turn.
    pub(crate) fn is_marked(self) -> bool {
        self.mark != SoftMark::default()
    }
}

/// The last soft invalidation of an entry's key; 0 if there was none. No two marks of one entry are equal: a second soft
/// invalidation within a second adds one.
///
/// The mark of an invalidation at once is its time in whole seconds since the Unix epoch, rounded up. The mark of a ramp is the
/// second of the key's turn, since [`RAMP_EPOCH`](Self::RAMP_EPOCH); earlier versions of the library take it for a time of long
/// ago, and the entry for stale. Of several ramps, the earliest turn counts, less a second for each.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub(crate) struct SoftMark(pub(crate) u32);

/// The meaning of a mark.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Softening {
    None,
    /// The entry is stale, whatever a clock says, since this moment, in milliseconds since the Unix epoch.
    Since(u64),
    /// The entry is stale from this moment on.
    From(u64),
}

impl SoftMark {
    /// Marks below this are those of ramps: no time after 2004 is that low.
    pub(crate) const FIRST_TIME: u32 = 1 << 30;
    /// The start of the seconds of ramps: the beginning of 2026, in seconds since the Unix epoch. They last until 2060.
    pub(crate) const RAMP_EPOCH: u64 = 1_767_225_600;

    pub(super) fn says(self, turn: impl FnOnce() -> Turn) -> Softening {
        match self.0 {
            0 => Softening::None,
            seconds if seconds >= Self::FIRST_TIME => Softening::Since(u64::from(seconds) * 1000),
            seconds => Softening::From((Self::RAMP_EPOCH + u64::from(seconds)) * 1000 + turn().within_second()),
        }
    }

    #[cfg(feature = "memory")]
    pub(super) fn next(self, now: u64) -> Self {
        let seconds = u32::try_from(now / 1000 + 1).unwrap_or(u32::MAX);
        Self(seconds.max(self.0.saturating_add(1)))
    }

    /// The mark of a soft invalidation at this moment, in milliseconds since the Unix epoch, over a window in milliseconds, as
    /// the first one of its entry.
    #[cfg(feature = "redis")]
    pub(crate) fn of(at: u64, window: u64, turn: Turn) -> u32 {
        Self::ramped(at, window, turn).unwrap_or_else(|| u32::try_from(at / 1000 + 1).unwrap_or(u32::MAX))
    }

    /// The mark of a ramp; `None` if the ramp is too short to tell its turns apart, or begins at a time that a mark can't express.
    pub(crate) fn ramped(at: u64, window: u64, turn: Turn) -> Option<u32> {
        let second = turn.second_within(at, window).checked_sub(Self::RAMP_EPOCH)?;
        let second = u32::try_from(second).ok().filter(|second| *second < Self::FIRST_TIME && window >= SHORTEST)?;
        Some(second.max(1))
    }

    /// The mark after a ramp over `window` milliseconds that begins at `now`. A stale entry stays stale. A ramp that is too short
    /// to tell its turns apart counts at once.
    #[cfg(feature = "memory")]
    pub(super) fn next_ramped(self, now: u64, window: u64, turn: Turn) -> Self {
        match Self::ramped(now, window, turn) {
            Some(second) if self.0 == 0 => Self(second),
            Some(second) if self.0 < Self::FIRST_TIME => Self(second.min(self.0 - 1).max(1)),
            _ => self.next(now),
        }
    }
}

#[cfg(all(test, feature = "memory"))]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000_500;
    const MINUTE: u64 = 60_000;

    fn says(mark: SoftMark, turn: u32) -> Softening {
        mark.says(|| Turn(turn))
    }

    #[test]
    fn a_turn_is_within_its_window() {
        for turn in (0..=u32::MAX).step_by(9_999_991) {
            let mark = SoftMark::default().next_ramped(NOW, MINUTE, Turn(turn));
            let Softening::From(moment) = says(mark, turn) else { panic!("{mark:?}") };
            assert!((NOW - 1000..NOW + MINUTE).contains(&moment), "{turn}: {moment}");
        }
    }

    #[test]
    fn of_several_the_earliest_counts_and_no_two_are_the_same() {
        let turn = 1 << 31;
        let first = SoftMark::default().next_ramped(NOW, MINUTE, Turn(turn));
        let second = first.next_ramped(NOW + 1, MINUTE, Turn(turn));
        let sooner = second.next_ramped(NOW + 2, MINUTE / 3, Turn(turn));
        let at_once = sooner.next(NOW + 3);
        let again = at_once.next_ramped(NOW + 4, MINUTE, Turn(turn));
        let moment = |mark| match says(mark, turn) {
            Softening::From(moment) => moment,
            other => panic!("{other:?}"),
        };
        assert!(moment(second) < moment(first) && moment(sooner) < moment(second));
        assert_eq!(says(at_once, turn), Softening::Since(1_800_000_001_000));
        assert!(again != at_once && matches!(says(again, turn), Softening::Since(_)), "what is stale stays so");
    }

    #[test]
    fn a_ramp_too_short_for_its_turns_counts_at_once() {
        let mark = SoftMark::default().next_ramped(NOW, SHORTEST - 1, Turn(u32::MAX));
        assert!(matches!(says(mark, u32::MAX), Softening::Since(_)));
        let early = SoftMark::default().next_ramped(7, MINUTE, Turn(u32::MAX));
        assert_eq!(early, SoftMark::default().next(7), "before there were ramps");
        assert_eq!(says(SoftMark::default(), 9), Softening::None);
    }
}
