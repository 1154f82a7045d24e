//! Invalidations that the server has not received yet, and must receive before anything is read again. They are merged: the
//! memory that an outage costs depends on what was invalidated, not on how often.

use std::{
    collections::HashMap,
    sync::{Arc, MutexGuard},
};

use tokio::sync::{Notify, futures::Notified};

use crate::{
    key::{Key, KeyId},
    pattern::Pattern,
    store::Scope,
    sync::Mutex,
};

/// The most keys and tags that are kept; above that, all are merged into one invalidation of everything.
const MOST: usize = 10_000;
/// The most patterns that are kept; the list of bans has room for few.
const MOST_PATTERNS: usize = 64;

#[derive(Debug, Default)]
pub(crate) struct Outbox {
    queue: Mutex<Queue>,
    delivered: Notify,
    turns: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Queue {
    backlog: Backlog,
    /// A connection that comes up while another one delivers has to wait: otherwise it would be used before everything is
    /// delivered.
    delivering: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Backlog {
    pub(crate) keys: HashMap<KeyId, Key>,
    pub(crate) tags: Vec<Arc<str>>,
    pub(crate) patterns: Vec<Pattern>,
    pub(crate) everything: bool,
}

/// The invalidations that are being delivered. Those that are left when this is dropped are put back.
pub(crate) struct Delivery<'a> {
    outbox: &'a Outbox,
    pub(crate) backlog: Backlog,
}

impl Backlog {
    pub(crate) fn everything() -> Self {
        Self { everything: true, ..Self::default() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.tags.is_empty() && self.patterns.is_empty() && !self.everything
    }

    fn concerns(&self, covers: impl Fn(Scope<'_>) -> bool) -> bool {
        let tags = !self.tags.is_empty() || !self.patterns.is_empty();
        // Everything may stand for keys of any server.
        self.everything || (tags && covers(Scope::Everything)) || self.keys.values().any(|key| covers(Scope::Key(key)))
    }

    fn holds(&self, scope: Scope<'_>) -> bool {
        self.everything
            || match scope {
                Scope::Key(key) => self.keys.contains_key(&key.id()),
                Scope::Tags(tags) => tags.as_slice().iter().any(|tag| self.tags.contains(tag)),
                Scope::Pattern(pattern) => self.patterns.contains(pattern),
                Scope::Everything => false,
            }
    }

    /// The part for the server that `covers` it, and the rest.
    fn split(self, covers: impl Fn(Scope<'_>) -> bool) -> (Self, Self) {
        let (keys, others) = self.keys.into_iter().partition(|(_, key)| covers(Scope::Key(key)));
        let (mut taken, mut left) = (Self { keys, ..Self::default() }, Self { keys: others, ..Self::default() });
        let of_tags = if covers(Scope::Everything) { &mut taken } else { &mut left };
        (of_tags.tags, of_tags.patterns, of_tags.everything) = (self.tags, self.patterns, self.everything);
        (taken, left)
    }

    fn merge(&mut self, other: Self) {
        self.everything |= other.everything;
        self.keys.extend(other.keys);
        self.tags.extend(other.tags);
        self.tags.sort_unstable();
        self.tags.dedup();
        for pattern in other.patterns {
            if !self.patterns.contains(&pattern) {
                self.patterns.push(pattern);
            }
        }
        if self.everything || self.keys.len() + self.tags.len() > MOST || self.patterns.len() > MOST_PATTERNS {
            *self = Self::everything();
        }
    }
}

impl Outbox {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock()
    }

    pub(crate) fn add(&self, scope: Scope<'_>) {
        let mut added = Backlog::default();
        match scope {
            Scope::Key(key) => {
                added.keys.insert(key.id(), key.clone());
            }
            Scope::Tags(tags) => added.tags.extend_from_slice(tags.as_slice()),
            Scope::Pattern(pattern) => added.patterns.push(pattern.clone()),
            Scope::Everything => added.everything = true,
        }
        self.queue().backlog.merge(added);
    }

    /// The number of kept invalidations; those that were merged into one of everything are no longer counted.
    pub(crate) fn count(&self) -> usize {
        let Backlog { keys, tags, patterns, everything } = &self.queue().backlog;
        keys.len() + tags.len() + patterns.len() + usize::from(*everything)
    }

    /// Whether everything is kept, and not under way.
    pub(crate) fn holds_everything(&self) -> bool {
        self.queue().backlog.everything
    }

    /// Whether anything is kept for the server that `covers` it.
    pub(crate) fn concerns(&self, covers: impl Fn(Scope<'_>) -> bool) -> bool {
        self.queue().backlog.concerns(covers)
    }

    /// Whether `scope` is kept, or a delivery is under way whose rest may be put back.
    pub(crate) fn may_hold(&self, scope: Scope<'_>) -> bool {
        let queue = self.queue();
        queue.delivering || queue.backlog.holds(scope)
    }

    /// Runs `action`, while nothing can be added, if nothing is kept or under way for the server that `covers` it; returns
    /// whether it did.
    pub(crate) fn if_empty(&self, covers: impl Fn(Scope<'_>) -> bool, action: impl FnOnce()) -> bool {
        let queue = self.queue();
        let empty = !queue.delivering && !queue.backlog.concerns(covers);
        if empty {
            action();
        }
        empty
    }

    /// Runs `action` while nothing can be added, and tells it whether anything is kept, or is under way and may be put back.
    #[cfg(feature = "cluster")]
    pub(crate) fn undisturbed(&self, action: impl FnOnce(bool)) {
        let queue = self.queue();
        action(queue.delivering || !queue.backlog.is_empty());
    }

    /// Takes what is kept for the server that `covers` it, to deliver it; `None` while another delivery is under way.
    pub(crate) fn begin_delivery(&self, covers: impl Fn(Scope<'_>) -> bool) -> Option<Delivery<'_>> {
        let mut queue = self.queue();
        if queue.delivering {
            return None;
        }
        let (taken, left) = std::mem::take(&mut queue.backlog).split(covers);
        queue.backlog = left;
        queue.delivering = true;
        Some(Delivery { outbox: self, backlog: taken })
    }

    /// The turns of connections that have something to deliver: first come, first served.
    pub(crate) fn turns(&self) -> &tokio::sync::Mutex<()> {
        &self.turns
    }

    /// Resolves when the next delivery ends, however it ends.
    pub(crate) fn delivered(&self) -> Notified<'_> {
        self.delivered.notified()
    }
}

impl Drop for Delivery<'_> {
    fn drop(&mut self) {
        let mut queue = self.outbox.queue();
        queue.backlog.merge(std::mem::take(&mut self.backlog));
        queue.delivering = false;
        drop(queue);
        self.outbox.delivered.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;
    use crate::tag::Tags;

    fn begin(outbox: &Outbox) -> Delivery<'_> {
        outbox.begin_delivery(|_| true).unwrap()
    }

    #[test]
    fn the_same_invalidation_is_kept_once() {
        let outbox = Outbox::default();
        for _ in 0..3 {
            outbox.add(Scope::Tags(&Tags::new(["a", "b"])));
            outbox.add(Scope::Key(&Key::new(["k"])));
        }
        let backlog = &begin(&outbox).backlog;
        assert_eq!((Tags::new(&backlog.tags), backlog.keys.len()), (Tags::new(["a", "b"]), 1));
        assert_eq!(outbox.count(), 0);
    }

    #[test]
    fn a_long_outage_ends_in_one_invalidation_of_everything() {
        let outbox = Outbox::default();
        for i in 0..=MOST {
            outbox.add(Scope::Key(&Key::new([i.to_string()])));
        }
        let backlog = &begin(&outbox).backlog;
        assert!(backlog.everything && backlog.keys.is_empty());
    }

    #[test]
    fn patterns_are_kept_once_and_become_everything_when_they_are_many() {
        let outbox = Outbox::default();
        for i in 0..2 * MOST_PATTERNS {
            outbox.add(Scope::Pattern(&Pattern::new(&format!("{}*", i / 2))));
        }
        assert_eq!(outbox.count(), MOST_PATTERNS);
        outbox.add(Scope::Pattern(&Pattern::new("one more")));
        let backlog = &begin(&outbox).backlog;
        assert!(backlog.everything && backlog.patterns.is_empty());
    }

    #[test]
    fn what_is_not_delivered_joins_what_came_since() {
        let outbox = Outbox::default();
        outbox.add(Scope::Tags(&Tags::new(["a"])));
        let delivery = begin(&outbox);
        outbox.add(Scope::Tags(&Tags::new(["b"])));
        drop(delivery);
        assert_eq!(Tags::new(&begin(&outbox).backlog.tags), Tags::new(["a", "b"]));
    }

    #[test]
    fn what_is_for_another_server_stays() {
        let outbox = Outbox::default();
        let [here, there] = ["here", "there"].map(|key| Key::new([key]));
        outbox.add(Scope::Key(&here));
        outbox.add(Scope::Key(&there));
        outbox.add(Scope::Tags(&Tags::new(["a"])));
        let covers = |scope: Scope<'_>| matches!(scope, Scope::Key(key) if key.id() == here.id());
        assert!(outbox.concerns(covers));
        let mut delivery = outbox.begin_delivery(covers).unwrap();
        let taken = std::mem::take(&mut delivery.backlog);
        assert!(taken.keys.keys().eq([&here.id()]) && taken.tags.is_empty());
        drop(delivery);
        assert!(!outbox.concerns(covers) && outbox.may_hold(Scope::Key(&there)));
        assert_eq!(outbox.count(), 2);
    }

    #[test]
    fn everything_is_delivered_by_one_server_and_awaited_by_all() {
        let outbox = Outbox::default();
        for i in 0..=MOST {
            outbox.add(Scope::Key(&Key::new([i.to_string()])));
        }
        assert!(!outbox.if_empty(|_| false, || unreachable!("published before everything was delivered")));
        let delivery = outbox.begin_delivery(|_| false).unwrap();
        assert!(delivery.backlog.is_empty() && outbox.holds_everything());
        drop(delivery);
        begin(&outbox).backlog = Backlog::default();
        assert!(outbox.if_empty(|_| false, || ()));
    }

    #[test]
    fn one_delivers_at_a_time_and_its_end_is_told() {
        let outbox = Outbox::default();
        let key = Key::new(["k"]);
        outbox.add(Scope::Key(&key));
        let mut delivery = begin(&outbox);
        assert!(outbox.begin_delivery(|_| true).is_none());
        assert!(outbox.may_hold(Scope::Everything), "it may come back");
        assert!(!outbox.if_empty(|_| true, || unreachable!("published beside a delivery")));
        let mut delivered = Box::pin(outbox.delivered());
        assert!((&mut delivered).now_or_never().is_none());
        delivery.backlog = Backlog::default();
        drop(delivery);
        assert!(delivered.now_or_never().is_some());
        assert!(!outbox.may_hold(Scope::Key(&key)) && outbox.if_empty(|_| true, || ()));
    }

    #[cfg(feature = "cluster")]
    #[test]
    fn what_is_on_its_way_is_kept_as_far_as_the_map_of_a_cluster_is_concerned() {
        let outbox = Outbox::default();
        outbox.undisturbed(|kept| assert!(!kept));
        let _delivery = begin(&outbox);
        outbox.undisturbed(|kept| assert!(kept));
    }
}
