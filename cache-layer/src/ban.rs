//! Bans: invalidations by pattern that record what is void, and that readers obey until a sweep removes the entries.
//!
//! A store keeps a list of the bans that still count. A load knows the bans that there were when it began; its entry is covered
//! by the bans that are younger and whose pattern matches its key.

use crate::{
    key::readable_in_full,
    pattern::Pattern,
    ramp::{SHORTEST, Turn},
    tag_state::TagState,
};

/// The most bans that are listed. The script that writes them contains the same number.
pub(crate) const MOST: usize = 128;
/// The bytes of the longest pattern that is listed.
pub(crate) const LONGEST_PATTERN: usize = 1_024;

/// One invalidation by pattern.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Ban {
    /// Distinguishes the bans of a list, and orders them by age: the time of the ban by the store's clock, in microseconds since
    /// the Unix epoch; if that clock was set back, one more than the ban before.
    pub(crate) at: u64,
    /// When covered entries begin to become stale, in the same unit: `at` or, in a store that dates bans apart from their order, an
    /// earlier time, after the clock was set back.
    pub(crate) begin: u64,
    /// The window in milliseconds over which covered entries become stale; `None` if they are void.
    pub(crate) soft_over: Option<u64>,
    pub(crate) pattern: Pattern,
}

impl Ban {
    fn state_of(&self, turn: Turn) -> TagState {
        let begin = self.begin / 1000;
        match self.soft_over {
            None => TagState::Banned,
            Some(window) if window < SHORTEST => TagState::StaleSince(begin),
            Some(window) => TagState::StaleFrom(turn.second_within(begin, window) * 1000 + turn.within_second()),
        }
    }

    /// Whether this ban makes an older one of the same pattern redundant.
    #[cfg(feature = "memory")]
    fn stands_for(&self, older: &Self) -> bool {
        self.pattern == older.pattern
            && match self.soft_over {
                None => true,
                // Otherwise an entry that is stale by the older ramp would be fresh again until its turn in the new one.
                Some(window) => window == 0 && older.soft_over.is_some(),
            }
    }
}

/// The bans that still count, the oldest first.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Bans {
    list: Vec<Ban>,
    /// The number of the youngest ban that there ever was.
    newest: u64,
}

impl Bans {
    /// A list of these bans, `newest` being the youngest ever; `None` unless each is younger than the one before, and they are no
    /// more than the limit.
    #[cfg(feature = "redis")]
    pub(crate) fn new(list: Vec<Ban>, newest: u64) -> Option<Self> {
        let in_order = list.windows(2).all(|pair| pair[0].at < pair[1].at);
        let last = list.last().is_none_or(|ban| ban.at <= newest);
        (list.len() <= MOST && in_order && last).then_some(Self { list, newest })
    }

    /// The list with one more ban; `None` if there is no room for it.
    #[cfg(feature = "memory")]
    pub(crate) fn with(&self, ban: Ban) -> Option<Self> {
        let newest = ban.at;
        let mut list: Vec<Ban> = self.list.iter().filter(|older| !ban.stands_for(older)).cloned().collect();
        list.push(ban);
        (list.len() <= MOST).then_some(Self { list, newest })
    }

    /// The list without the `swept` bans.
    #[cfg(feature = "memory")]
    pub(crate) fn without(&self, swept: &Self) -> Self {
        let list = self.list.iter().filter(|ban| !swept.list.contains(ban)).cloned().collect();
        Self { list, newest: self.newest }
    }

    #[cfg(any(test, feature = "memory", feature = "redis"))]
    pub(crate) fn as_slice(&self) -> &[Ban] {
        &self.list
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The number of the youngest ban that there ever was, listed or not; 0 if there was none.
    pub(crate) fn newest(&self) -> u64 {
        self.newest
    }

    /// The bans that cover an entry under this readable key, whose load knew of the bans up to `known`; the youngest first.
    pub(crate) fn covering<'a>(&'a self, known: u64, readable: &'a [u8]) -> impl Iterator<Item = &'a Ban> {
        let younger = self.list.iter().rev().take_while(move |ban| ban.at > known);
        younger.filter(|ban| ban.pattern.matches(readable))
    }

    /// The pattern of the youngest of those, if any of them is hard.
    pub(crate) fn voiding(&self, known: u64, canonical: &[u8]) -> Option<String> {
        let readable = readable_in_full(canonical);
        let mut covering = self.covering(known, readable.as_bytes());
        covering.find(|ban| ban.soft_over.is_none()).map(|ban| ban.pattern.to_string())
    }

    /// The state of an entry under this canonical key, whose load knew of the bans up to `known`.
    pub(crate) fn state_of(&self, known: u64, canonical: &[u8], turn: impl FnOnce() -> Turn) -> TagState {
        if self.newest <= known || self.list.is_empty() {
            return TagState::Current;
        }
        let readable = readable_in_full(canonical);
        let mut covering = self.covering(known, readable.as_bytes()).peekable();
        if covering.peek().is_none() {
            return TagState::Current;
        }
        let turn = turn();
        covering.fold(TagState::Current, |state, ban| state.and(ban.state_of(turn)))
    }
}

#[cfg(all(test, feature = "memory"))]
mod tests {
    use super::*;
    use crate::key::Key;

    fn ban(at: u64, soft_over: Option<u64>, pattern: &str) -> Ban {
        Ban { at, begin: at, soft_over, pattern: Pattern::new(pattern) }
    }

    fn listed(bans: &[Ban]) -> Bans {
        bans.iter().fold(Bans::default(), |bans, ban| bans.with(ban.clone()).expect("there is room"))
    }

    fn state(bans: &Bans, known: u64, key: &str) -> TagState {
        bans.state_of(known, Key::new([key]).canonical(), || Turn(1 << 31))
    }

    #[test]
    fn what_knew_of_a_ban_is_not_covered_by_it() {
        let bans = listed(&[ban(5, None, "a*"), ban(7, None, "b*")]);
        assert_eq!(
            [4, 5, 7].map(|known| state(&bans, known, "a")),
            [TagState::Banned, TagState::Current, TagState::Current]
        );
        assert_eq!(
            [4, 6, 7].map(|known| state(&bans, known, "b")),
            [TagState::Banned, TagState::Banned, TagState::Current]
        );
        assert_eq!(state(&bans, 0, "c"), TagState::Current);
        let voiding = |known, key: &str| bans.voiding(known, Key::new([key]).canonical());
        assert_eq!([voiding(4, "a"), voiding(5, "a"), voiding(4, "c")], [Some("a*".to_owned()), None, None]);
    }

    #[test]
    fn soft_ones_make_stale_at_once_or_in_turn_and_the_worst_counts() {
        let at = 1_800_000_000_000_000;
        let soft = ban(at, Some(0), "a*");
        let ramp = ban(at + 1, Some(61_000), "ab*");
        let bans = listed(&[soft.clone(), ramp.clone()]);
        assert_eq!(state(&bans, 0, "a"), TagState::StaleSince(at / 1000));
        assert_eq!(state(&bans, 0, "ab"), TagState::StaleSince(at / 1000));
        assert_eq!(state(&bans, at, "ab"), TagState::StaleFrom(at / 1000 + 30_000 + Turn(1 << 31).within_second()));
        assert_eq!(state(&listed(&[soft, ramp, ban(at + 2, None, "*")]), 0, "ab"), TagState::Banned);
        assert_eq!(state(&listed(&[ban(at, Some(1_999), "a")]), 0, "a"), TagState::StaleSince(at / 1000));
    }

    #[test]
    fn one_stands_for_an_older_one_of_its_pattern_only_if_it_says_no_less() {
        let (hard, soft, ramp) = (None, Some(0), Some(60_000));
        for (older, newer, left) in [
            (hard, hard, 1),
            (soft, hard, 1),
            (ramp, hard, 1),
            (soft, soft, 1),
            (ramp, soft, 1),
            (hard, soft, 2),
            (hard, ramp, 2),
            (soft, ramp, 2),
            (ramp, ramp, 2),
        ] {
            assert_eq!(listed(&[ban(1, older, "a"), ban(2, newer, "a")]).as_slice().len(), left, "{older:?} {newer:?}");
        }
        assert_eq!(listed(&[ban(1, hard, "a"), ban(2, hard, "b")]).as_slice().len(), 2);
    }

    #[test]
    fn a_list_is_bounded_and_what_was_swept_leaves_it() {
        let all: Vec<Ban> = (1..=MOST as u64).map(|at| ban(at, None, &at.to_string())).collect();
        let bans = listed(&all);
        assert_eq!(bans.with(ban(999, None, "one more")), None);
        let again = bans.with(ban(999, None, "7")).expect("it takes the place of an older one");
        let left = again.without(&bans);
        assert_eq!((left.as_slice().len(), left.newest()), (1, 999), "the one that came during the sweep stays");
        assert_eq!((left.without(&left).is_empty(), left.without(&left).newest()), (true, 999));
    }
}
