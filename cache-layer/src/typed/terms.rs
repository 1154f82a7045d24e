//! The terms of a value: for how long it is kept, under which tags, and which callers wait for one load.

use std::time::Duration;

use crate::{
    clock::{Moment, millis},
    entry::Deadlines,
    inherit::{Reads, earliest},
    tag::Tags,
    telemetry::NoCacheReason,
};

/// How long a value is fresh unless set.
const TTL: Duration = Duration::from_secs(300);

/// Which callers wait for one load of a key. A [refresh](crate::GetOrLoad::refresh) that waits no longer, or not at all, overtakes
/// the load of another call: of the two, the refresh is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Lock {
    /// One caller in all processes that share a store loads, and the others wait for it, for the cache's
    /// [`lock_timeout`](crate::CacheBuilder::lock_timeout) at most.
    #[default]
    Fleet,
    /// One caller in each process loads at a time. The load that began first in the fleet is stored; a value that another process
    /// loads meanwhile goes to that load's caller alone, and callers that waited for it look the key up again.
    Process,
    /// Every caller loads, at once. The load that began first is stored.
    Off,
}

#[derive(Clone, Debug)]
pub(super) struct Terms {
    pub(super) ttl: Duration,
    /// By how many per cent the freshness may be shortened.
    pub(super) jitter: u8,
    pub(super) stale_while_revalidate: Duration,
    pub(super) stale_if_error: Duration,
    /// How long a stale value is kept for its load.
    pub(super) keep: Duration,
    pub(super) tags: Tags,
}

impl Default for Terms {
    fn default() -> Self {
        let none = Duration::ZERO;
        let tags = Tags::default();
        Self { ttl: TTL, jitter: 0, stale_while_revalidate: none, stale_if_error: none, keep: none, tags }
    }
}

impl Terms {
    pub(super) fn add_tags<T: AsRef<str>>(&mut self, tags: impl IntoIterator<Item = T>) {
        self.tags.extend(tags);
    }

    /// The tags of a value that is made from `reads` at that moment, and until when it is fresh.
    pub(super) fn apply_to(&self, reads: &Reads, at: Moment) -> Reads {
        let fresh_until = earliest(Some(at.local.saturating_add(self.life())), reads.fresh_until);
        Reads::new(&reads.tags_and(self.tags.clone()), fresh_until)
    }

    /// How long a value that is made now is fresh, in milliseconds: at least one, unless it is not to be stored.
    fn life(&self) -> u64 {
        if self.ttl.is_zero() {
            return 0;
        }
        let ttl = millis(self.ttl).max(1);
        ttl - fastrand::u64(..=(ttl / 100 * u64::from(self.jitter.min(100))).min(ttl - 1))
    }

    /// The deadlines and tags of a value that was made from `reads`; or why it is not stored.
    pub(super) fn settle(&self, reads: &Reads, at: Moment) -> Result<(Deadlines, Tags), NoCacheReason> {
        if self.ttl.is_zero() {
            return Err(NoCacheReason::NoStore);
        }
        let left = reads.fresh_until.map_or(0, |moment| moment.saturating_sub(at.local));
        if left == 0 {
            return Err(NoCacheReason::MadeFromStale);
        }
        let tags = reads.tags_and(self.tags.clone());
        if tags.fit() {
            Ok((self.deadlines(at.now.saturating_add(left), at.now), tags))
        } else {
            Err(NoCacheReason::TooManyTags)
        }
    }

    /// The deadlines of a value that is made then, and fresh until then.
    pub(super) fn deadlines(&self, fresh: u64, made: u64) -> Deadlines {
        let stale_while_revalidate = after(fresh, self.stale_while_revalidate);
        let stale_if_error = after(fresh, self.stale_if_error).max(stale_while_revalidate);
        let gone = after(fresh, self.keep).max(stale_if_error);
        Deadlines { made, fresh, stale_while_revalidate, stale_if_error, gone }
    }
}

fn after(moment: u64, duration: Duration) -> u64 {
    moment.saturating_add(millis(duration))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(now: u64) -> Moment {
        Moment { now, local: now }
    }

    #[test]
    fn what_was_read_is_fresh_for_as_long_by_whatever_clock() {
        let reads = Reads::new(&Tags::default(), Some(4_000));
        for now in [1_000, 600_000] {
            let at = Moment { now, local: 1_000 };
            let (deadlines, _) = Terms::default().settle(&Terms::default().apply_to(&reads, at), at).unwrap();
            assert_eq!((deadlines.made, deadlines.fresh), (now, now + 3_000));
        }
    }

    #[test]
    fn what_was_read_shortens_the_life_and_its_tags_add_to_ours() {
        let mut terms = Terms { ttl: Duration::from_secs(10), ..Terms::default() };
        terms.add_tags(["own"]);
        let reads = Reads::new(&Tags::new(["read"]), Some(4_000));
        let (deadlines, tags) = terms.settle(&terms.apply_to(&reads, at(1_000)), at(1_000)).unwrap();
        assert_eq!((deadlines.fresh, tags), (4_000, Tags::new(["own", "read"])));
        let (deadlines, _) = terms.settle(&terms.apply_to(&Reads::default(), at(1_000)), at(1_000)).unwrap();
        assert_eq!(deadlines.fresh, 11_000);
    }

    #[test]
    fn what_is_made_from_something_stale_is_not_kept() {
        let reads = Reads::new(&Tags::default(), Some(1_000));
        assert_eq!(Terms::default().settle(&reads, at(1_000)).unwrap_err(), NoCacheReason::MadeFromStale);
    }

    #[test]
    fn lives_are_shorter_by_up_to_the_jitter_and_never_longer() {
        let terms = Terms { ttl: Duration::from_secs(100), jitter: 10, ..Terms::default() };
        let lives: Vec<u64> = (0..1_000).map(|_| terms.life()).collect();
        assert!(lives.iter().all(|life| (90_000..=100_000).contains(life)), "{lives:?}");
        assert!(lives.iter().min() < Some(&91_000) && lives.iter().max() > Some(&99_000));
        assert_eq!(Terms { ttl: Duration::MAX, jitter: 0, ..Terms::default() }.life(), millis(Duration::MAX));
    }

    #[test]
    fn a_life_is_never_used_up_by_jitter_or_too_short_to_be_counted() {
        for (ttl, jitter) in [(Duration::from_millis(100), 100), (Duration::from_micros(1), 0), (Duration::MAX, 100)] {
            let terms = Terms { ttl, jitter, ..Terms::default() };
            for _ in 0..2_000 {
                let settled = terms.settle(&terms.apply_to(&Reads::default(), at(1_000)), at(1_000));
                assert!(settled.is_ok_and(|(deadlines, _)| deadlines.fresh > 1_000), "{ttl:?} {jitter}");
            }
        }
    }

    #[test]
    fn what_is_kept_for_its_load_is_gone_when_that_is_over() {
        let keep = Duration::from_millis(500);
        let terms = Terms { ttl: Duration::from_millis(10), keep, ..Terms::default() };
        let (deadlines, _) = terms.settle(&terms.apply_to(&Reads::default(), at(0)), at(0)).unwrap();
        assert_eq!((deadlines.fresh, deadlines.stale_if_error, deadlines.gone), (10, 10, 510));
    }

    #[test]
    fn windows_begin_when_freshness_ends() {
        let terms = Terms {
            ttl: Duration::from_millis(10),
            stale_while_revalidate: Duration::from_millis(5),
            stale_if_error: Duration::from_millis(3),
            ..Terms::default()
        };
        let (deadlines, _) = terms.settle(&terms.apply_to(&Reads::default(), at(0)), at(0)).unwrap();
        assert_eq!((deadlines.fresh, deadlines.stale_while_revalidate), (10, 15));
        assert_eq!((deadlines.stale_if_error, deadlines.gone), (15, 15));
    }
}
