//! Ramps: soft invalidations that take effect over a window, for each key at its own turn.
//!
//! If several ramps of one tag overlap, each applies to the entries that were loaded before it: an entry is stale from the
//! earliest of its turns on. At most [`MOST`] ramps are tracked; of more, the two that follow each other most closely are merged
//! into one whose turns are no later than those of either. With windows of one length, the closest two are less than a thirtieth
//! of it apart, so that a merger makes no more than that part of what was loaded between them stale before its turn.

use crate::tag_state::TagState;

/// The most ramps of one tag that are tracked. The script that writes them has the same number.
pub(crate) const MOST: usize = 32;
/// The longest window, in milliseconds: a week. It is longer than any deployment, and ends while the tag's token lives.
pub(crate) const LONGEST: u64 = 7 * 24 * 60 * 60 * 1000;
/// The shortest ramp of a key or a pattern, in milliseconds: its turns are in whole seconds.
pub(crate) const SHORTEST: u64 = 2_000;

/// The position of a key's turn within a window, as a fraction of 2^32: the same for a key and all its variants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Turn(pub(crate) u32);

impl Turn {
    /// The turn within a window of this length.
    pub(crate) fn of(self, window: u64) -> u64 {
        // Less than the window, which fits.
        ((u128::from(window) * u128::from(self.0)) >> 32) as u64
    }

    /// The second of this turn, since the Unix epoch, in a ramp of a key or a pattern over `window` milliseconds that begins at
    /// `begin`. The last turn ends with the window, although the turns of each second are spread over that second.
    pub(crate) fn second_within(self, begin: u64, window: u64) -> u64 {
        (begin + self.of(window.saturating_sub(1000))) / 1000
    }

    /// A part of a second, in milliseconds, by other digits than those that decide within a window: it spreads turns that are in
    /// whole seconds.
    pub(crate) fn within_second(self) -> u64 {
        (u64::from(self.0 & 0x3ff) * 1000) >> 10
    }
}

/// One soft invalidation of a tag. Moments are the store's, in microseconds since the Unix epoch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Ramp {
    /// When it was made: it covers entries whose token is older.
    pub(crate) at: u64,
    /// The beginning of its window: `at` or, if it was merged with an older ramp, or the clock was set back, earlier.
    pub(crate) start: u64,
    /// The length of its window: zero for an invalidation at once.
    pub(crate) window: u64,
}

impl Ramp {
    /// When the ramp makes a key stale, in milliseconds since the Unix epoch.
    fn state_of(&self, turn: Turn) -> TagState {
        match self.window {
            0 => TagState::StaleSince(self.start / 1000),
            window => TagState::StaleFrom(self.start.saturating_add(turn.of(window)) / 1000),
        }
    }

    #[cfg(feature = "memory")]
    fn end(&self) -> u64 {
        self.start.saturating_add(self.window)
    }

    /// The most by which a turn would be earlier if both were merged: a turn that only `newer` decides, or the earlier one of both.
    #[cfg(feature = "memory")]
    fn apart(&self, newer: &Self) -> u64 {
        newer.start.saturating_sub(self.start).max(newer.end().saturating_sub(self.end()))
    }

    /// One ramp for both, whose turns are no later than those of either. As in a token, its beginning and its window are whole
    /// milliseconds from its time. The two that are closest begin within two of the longest windows, so that the beginning has room
    /// there.
    #[cfg(feature = "memory")]
    fn merged(&self, newer: &Self) -> Self {
        let (start, end) = (self.start.min(newer.start), self.end().min(newer.end()));
        let lead = newer.at.saturating_sub(start).div_ceil(1000);
        let start = newer.at.saturating_sub(lead * 1000);
        Self { at: newer.at, start, window: end.saturating_sub(start) / 1000 * 1000 }
    }
}

/// The soft invalidations of one tag that still count, the oldest first; at least one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Ramps(Vec<Ramp>);

impl Ramps {
    /// These ramps, if they are valid: each is later than the one before, and there are at most [`MOST`].
    #[cfg(feature = "redis")]
    pub(crate) fn new(ramps: impl IntoIterator<Item = Ramp>) -> Option<Self> {
        let ramps: Vec<Ramp> = ramps.into_iter().take(MOST + 1).collect();
        let in_order = ramps.windows(2).all(|pair| pair[0].at < pair[1].at);
        let possible = ramps.iter().all(|ramp| ramp.start <= ramp.at && ramp.window <= 2 * LONGEST * 1000);
        ((1..=MOST).contains(&ramps.len()) && in_order && possible).then_some(Self(ramps))
    }

    /// The ramps `before`, and one more.
    #[cfg(feature = "memory")]
    pub(crate) fn with(before: &[Ramp], ramp: Ramp) -> Self {
        // A ramp that is over has made all older entries stale, so that the ramps before it are not needed any more.
        let over = before.iter().rposition(|older| older.end() <= ramp.start).unwrap_or(0);
        let mut ramps = before[over..].to_vec();
        ramps.push(ramp);
        while ramps.len() > MOST {
            let apart = |older: &usize| ramps[*older].apart(&ramps[older + 1]);
            let older = (0..ramps.len() - 1).min_by_key(apart).expect("there are several");
            ramps[older + 1] = ramps[older].merged(&ramps[older + 1]);
            ramps.remove(older);
        }
        Self(ramps)
    }

    pub(crate) fn as_slice(&self) -> &[Ramp] {
        &self.0
    }

    /// When the newest ramp was made.
    #[cfg(any(feature = "memory", feature = "redis"))]
    pub(crate) fn newest(&self) -> u64 {
        self.0.last().map_or(0, |ramp| ramp.at)
    }

    /// The state of an entry with this turn, whose token was made at `made`, before the newest ramp.
    pub(crate) fn state_of(&self, made: u64, turn: Turn) -> TagState {
        let (newest, older) = self.0.split_last().expect("there is at least one");
        let older = &older[older.partition_point(|ramp| ramp.at <= made)..];
        older.iter().fold(newest.state_of(turn), |state, ramp| state.and(ramp.state_of(turn)))
    }
}

#[cfg(all(test, feature = "memory"))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000;

    fn from(at: u64, window: u64) -> Ramp {
        Ramp { at, start: at, window }
    }

    fn moment(state: TagState) -> u64 {
        match state {
            TagState::StaleSince(moment) | TagState::StaleFrom(moment) => moment,
            TagState::Current | TagState::Banned | TagState::Invalid => panic!("{state:?}"),
        }
    }

    #[test]
    fn the_worst_of_several_tags_decides() {
        use TagState::{Current, Invalid, StaleFrom, StaleSince};
        assert_eq!(Current.and(StaleSince(2)), StaleSince(2));
        assert_eq!(StaleSince(3).and(StaleSince(2)), StaleSince(2));
        assert_eq!(StaleSince(3).and(Invalid), Invalid);
        assert_eq!(Invalid.and(Current), Invalid);
        assert_eq!(StaleFrom(9).and(Current), StaleFrom(9));
        assert_eq!(StaleFrom(9).and(StaleFrom(7)), StaleFrom(7));
        assert_eq!(StaleFrom(9).and(StaleSince(7)), StaleSince(7), "that one is stale whatever a clock says");
        assert_eq!(StaleSince(9).and(StaleFrom(7)), StaleSince(7));
    }

    #[test]
    fn a_turn_is_within_its_window_and_each_part_of_it_has_as_many() {
        assert_eq!([0, u32::MAX].map(|turn| Turn(turn).of(60)), [0, 59]);
        let mut counts = [0; 60];
        for number in 0..60_000_u64 {
            let turn = Turn((number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32);
            counts[turn.of(60) as usize] += 1;
            assert!(turn.within_second() < 1000);
        }
        assert!(counts.iter().all(|count| (900..1_100).contains(count)), "{counts:?}");
    }

    #[test]
    fn a_second_ramp_moves_nothing_of_the_first_back_and_spreads_what_came_between() {
        let first = Ramps::with(&[], from(100 * SECOND, 60 * SECOND));
        let both = Ramps::with(first.as_slice(), from(130 * SECOND, 60 * SECOND));
        let (early, late) = (Turn(1 << 30), Turn(3 << 30));
        assert_eq!(first.state_of(7, early), TagState::StaleFrom(115_000));
        assert_eq!(both.state_of(7, early), TagState::StaleFrom(115_000), "it was stale, and stays so");
        assert_eq!(both.state_of(7, late), TagState::StaleFrom(145_000), "as the first one says");
        assert_eq!(both.state_of(100 * SECOND, early), TagState::StaleFrom(145_000), "loaded in between");
    }

    #[test]
    fn what_is_over_is_told_by_the_newest_of_it() {
        let one = Ramps::with(&[], from(100 * SECOND, 10 * SECOND));
        let two = Ramps::with(one.as_slice(), from(200 * SECOND, 10 * SECOND));
        let three = Ramps::with(two.as_slice(), from(205 * SECOND, 0));
        assert_eq!(two.as_slice().len(), 2);
        let four = Ramps::with(three.as_slice(), from(300 * SECOND, 10 * SECOND));
        assert_eq!(four.as_slice().len(), 2, "what was soft at once is the newest that is over");
        assert_eq!(four.state_of(7, Turn(9)), TagState::StaleSince(205_000));
    }

    /// The part of all turns that have come at `now`, of an entry whose token was made at `made`.
    fn share_due(ramps: &Ramps, made: u64, now: u64) -> f64 {
        let is_due = |turn: u64| moment(ramps.state_of(made, Turn(turn as u32))) <= now / 1000;
        // A later turn is never due before an earlier one.
        let (mut due, mut not_due) = (0, 1_u64 << 32);
        while due < not_due {
            let middle = due.midpoint(not_due);
            if is_due(middle) { due = middle + 1 } else { not_due = middle }
        }
        due as f64 / (1_u64 << 32) as f64
    }

    /// The greatest part of the turns of what was loaded between two ramps that a ramp brings forward to the instant at which it
    /// comes, if there is one over an hour each `pause` seconds.
    fn brought_forward(pause: u64) -> f64 {
        let (mut ramps, mut loaded, mut most) = (Ramps::with(&[], from(0, 3_600 * SECOND)), vec![0], 0.0_f64);
        for at in (1..2 * 3_600 / pause).map(|step| step * pause * SECOND) {
            let next = Ramps::with(ramps.as_slice(), from(at, 3_600 * SECOND));
            loaded.retain(|made| made + 3_700 * SECOND > at);
            for made in &loaded {
                let before = if *made < ramps.newest() { share_due(&ramps, *made, at) } else { 0.0 };
                most = most.max(share_due(&next, *made, at) - before);
            }
            // Loaded just after this ramp.
            loaded.push(at);
            ramps = next;
        }
        most
    }

    #[test]
    fn ramps_that_overlap_stay_spread_however_many_there_are() {
        // Half as many as are tracked, nearly twice as many, and nearly six times as many.
        for (pause, bound) in [(300, 0.001), (60, 1.5 / 60.0), (20, 1.0 / (MOST - 2) as f64)] {
            let forward = brought_forward(pause);
            println!("each {pause} s: {forward} at once");
            assert!(forward < bound, "each {pause} s: {forward} at once");
        }
    }

    proptest! {
        /// However many overlap, no key is stale later than each of them says that covers it, and it is stale no later than the
        /// one that was there already said.
        #[test]
        fn no_ramp_is_late_and_none_brings_back_what_was_stale(
            steps in prop::collection::vec((1..4_u64, 0..120_u64), 1..100),
            made in 0..300_u64,
            turn: u32,
        ) {
            let (turn, mut at, mut all, mut ramps) = (Turn(turn), 100 * SECOND, Vec::new(), None::<Ramps>);
            let made = made * SECOND;
            let mut before = u64::MAX;
            for (pause, window) in steps {
                at += pause * SECOND;
                let next = Ramps::with(ramps.as_ref().map_or(&[][..], Ramps::as_slice), from(at, window * SECOND));
                prop_assert!(next.as_slice().len() <= MOST);
                all.push(Ramp { at, start: at, window: window * SECOND });
                if made < at {
                    let told = moment(next.state_of(made, turn));
                    for ramp in all.iter().filter(|ramp| made < ramp.at) {
                        // What is over is told as of the newest of it: stale all the same.
                        prop_assert!(told <= moment(ramp.state_of(turn)).max(at / 1000), "{next:?} {ramp:?}");
                    }
                    prop_assert!(told <= before.max(at / 1000), "{next:?}");
                    before = before.min(told);
                }
                ramps = Some(next);
            }
        }
    }
}
