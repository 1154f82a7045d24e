//! Which tags were invalidated while loads were under way, for a store in memory, which may forget the token of a tag.

use std::{collections::HashMap, sync::Arc};

use crate::hex;

/// The most tags that are remembered.
const CAP: usize = 1_024;

/// When tags were invalidated, as far as a load under way began before that. Times are by the store's clock.
#[derive(Default)]
pub(super) struct RecentInvalidations {
    times: HashMap<Arc<str>, u64>,
    /// The time of the last invalidation that was dropped although a load under way began before it.
    dropped: u64,
}

impl RecentInvalidations {
    /// Records the invalidation of a tag. `oldest` returns when the oldest load under way began; `None` if there is none.
    pub(super) fn add(&mut self, tag: &Arc<str>, now: u64, oldest: impl FnOnce() -> Option<u64>) {
        if self.times.len() >= CAP {
            self.make_room(oldest());
        }
        self.times.insert(tag.clone(), now);
    }

    /// Forgets all, since no load is under way.
    pub(super) fn clear(&mut self) {
        self.times.clear();
    }

    fn make_room(&mut self, oldest: Option<u64>) {
        self.times.retain(|_, time| oldest.is_some_and(|oldest| *time >= oldest));
        if self.times.len() >= CAP {
            // A fence that is too strict costs a fill, and one that is too lax serves an outdated entry.
            self.dropped = self.times.values().copied().max().unwrap_or(self.dropped);
            self.times.clear();
        }
    }

    /// Whether the tag was invalidated since a load began, or may have been; with the digits of that time, as a lease has them.
    pub(super) fn overtook(&self, tag: &str, began: &[u8; 16]) -> bool {
        let since = |time: u64| hex::of_u64(time) >= *began;
        since(self.dropped) || self.times.get(tag).is_some_and(|time| since(*time))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(number: usize) -> Arc<str> {
        number.to_string().into()
    }

    impl RecentInvalidations {
        fn overtook_one(&self, tag: &str, began: u64) -> bool {
            self.overtook(tag, &hex::of_u64(began))
        }
    }

    #[test]
    fn a_load_is_overtaken_by_the_invalidation_of_its_own_tag_alone() {
        let mut recent = RecentInvalidations::default();
        recent.add(&tag(1), 10, || Some(5));
        assert!(recent.overtook_one("1", 5) && recent.overtook_one("1", 10));
        assert!(!recent.overtook_one("1", 11) && !recent.overtook_one("2", 5));
        recent.clear();
        assert!(!recent.overtook_one("1", 5));
    }

    #[test]
    fn there_are_never_too_many_and_none_that_counts_is_lost() {
        let mut recent = RecentInvalidations::default();
        for number in 0..10 * CAP {
            // The loads before the last hundred invalidations have ended.
            let now = number as u64 + 1;
            recent.add(&tag(number), now, || Some(now.saturating_sub(100)));
            assert!(recent.times.len() <= CAP);
        }
        let last = 10 * CAP as u64;
        assert!(recent.overtook_one(&tag(10 * CAP - 1), last) && !recent.overtook_one("other", last - 99));

        let mut recent = RecentInvalidations::default();
        for number in 0..2 * CAP {
            recent.add(&tag(number), number as u64 + 1, || Some(1));
            assert!(recent.times.len() <= CAP && recent.overtook_one(&tag(0), 1));
        }
        // A load that began after those that were dropped is judged exactly.
        assert!(!recent.overtook_one("other", CAP as u64 + 1) && recent.overtook_one("other", CAP as u64));
    }
}
