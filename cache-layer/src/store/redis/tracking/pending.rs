//! Invalidations that the server has not heard of yet.

use std::{
    collections::HashMap,
    sync::{Arc, MutexGuard},
    time::Duration,
};

use redis::{ErrorKind, RedisError, RedisResult, aio::MultiplexedConnection};
use tokio::{
    sync::Notify,
    time::{Instant, timeout, timeout_at},
};

use crate::store::redis::{
    connection::shard::Shard,
    invalidate,
    invalidate::{Mark, invalidate_keys},
    patterns::delete_matching,
    wire::names::Names,
};
use crate::{
    key::{Key, KeyId},
    pattern::Pattern,
    store::Scope,
    sync::Mutex,
    tag::Tags,
};

/// Invalidations kept at one time; above that they are merged into one of everything.
const CAP: usize = 10_000;
/// Patterns kept at one time: each is a pass over all names, and nothing is read before the last one's end.
const PATTERNS_CAP: usize = 16;
/// Keys that are delivered in one round trip: by then the other processes may read again.
const KEYS_AT_ONCE: usize = 500;
/// How long a delivery of keys and tags may take before the connection is given up.
const DELIVERY: Duration = Duration::from_secs(10);

/// What has to be invalidated before anything may be read again. Merged: an outage costs memory by what was
/// invalidated, not by how often.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    backlog: Mutex<Backlog>,
    /// A connection that comes up while another one delivers has to wait: it would be used before everything is.
    delivering: tokio::sync::Mutex<()>,
    /// Wakes whoever waits for a delivery.
    delivered: Notify,
}

#[derive(Debug, Default)]
struct Backlog {
    keys: HashMap<KeyId, Key>,
    tags: Vec<Arc<str>>,
    patterns: Vec<Pattern>,
    everything: bool,
}

impl Backlog {
    fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.tags.is_empty() && self.patterns.is_empty() && !self.everything
    }

    fn concerns(&self, shard: &dyn Shard) -> bool {
        let tags = self.everything || !self.tags.is_empty() || !self.patterns.is_empty();
        (tags && shard.covers(Scope::Everything)) || self.keys.values().any(|key| shard.covers(Scope::Key(key)))
    }

    fn holds(&self, scope: Scope<'_>) -> bool {
        self.everything
            || match scope {
                Scope::Key(key) => self.keys.contains_key(&key.id()),
                Scope::Tags(tags) => tags.as_slice().iter().any(|tag| self.tags.contains(tag)),
                Scope::Everything => false,
            }
    }

    /// What is for the server that has `shard`, and the rest.
    fn split(self, shard: &dyn Shard) -> (Self, Self) {
        let (keys, others) = self.keys.into_iter().partition(|(_, key)| shard.covers(Scope::Key(key)));
        let (mut taken, mut left) = (Self { keys, ..Self::default() }, Self { keys: others, ..Self::default() });
        let of_tags = if shard.covers(Scope::Everything) { &mut taken } else { &mut left };
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
        if self.everything || self.keys.len() + self.tags.len() > CAP || self.patterns.len() > PATTERNS_CAP {
            *self = Self { everything: true, ..Self::default() };
        }
    }
}

impl Pending {
    fn backlog(&self) -> MutexGuard<'_, Backlog> {
        self.backlog.lock()
    }

    pub(crate) fn add(&self, scope: Scope<'_>) {
        let mut added = Backlog::default();
        match scope {
            Scope::Key(key) => {
                added.keys.insert(key.id(), key.clone());
            }
            Scope::Tags(tags) => added.tags.extend_from_slice(tags.as_slice()),
            Scope::Everything => added.everything = true,
        }
        self.backlog().merge(added);
    }

    /// For a store on one server: in a cluster, each server would have to be told.
    pub(crate) fn add_pattern(&self, pattern: &Pattern) {
        self.backlog().merge(Backlog { patterns: vec![pattern.clone()], ..Backlog::default() });
    }

    /// How many are kept; of what was merged into one of everything, nobody knows how many it was.
    pub(crate) fn count(&self) -> usize {
        let backlog = self.backlog();
        backlog.keys.len() + backlog.tags.len() + backlog.patterns.len() + usize::from(backlog.everything)
    }

    /// Does `action` if nothing is kept for the server that has `shard`, while nothing can be added; tells whether it did.
    pub(crate) fn if_empty(&self, shard: &dyn Shard, action: impl FnOnce()) -> bool {
        let backlog = self.backlog();
        let empty = !backlog.concerns(shard) && self.delivering.try_lock().is_ok();
        if empty {
            action();
        }
        empty
    }

    /// Whether anything is kept for the server that has `shard`.
    pub(crate) fn concerns(&self, shard: &dyn Shard) -> bool {
        self.backlog().concerns(shard)
    }

    /// Waits, at most until `deadline`, until `scope` is no longer kept; `true` if it was delivered.
    pub(crate) async fn wait_for_delivery(&self, scope: Scope<'_>, deadline: std::time::Instant) -> bool {
        let deadline = Instant::from_std(deadline);
        loop {
            let delivered = self.delivered.notified();
            let kept = {
                let backlog = self.backlog();
                backlog.holds(scope) || self.delivering.try_lock().is_err()
            };
            if !kept {
                return true;
            }
            if timeout_at(deadline, delivered).await.is_err() {
                return false;
            }
        }
    }

    /// Delivers everything that is kept for the server that has `shard` to the data set of this `mark`, over a connection that
    /// nobody uses yet.
    pub(crate) async fn deliver(
        &self,
        names: &Names,
        shard: &dyn Shard,
        mark: Option<&str>,
        connection: &mut MultiplexedConnection,
    ) -> RedisResult<()> {
        let _waking = Waking(&self.delivered);
        self.deliver_alone(names, shard, mark, connection).await
    }

    async fn deliver_alone(
        &self,
        names: &Names,
        shard: &dyn Shard,
        mark: Option<&str>,
        connection: &mut MultiplexedConnection,
    ) -> RedisResult<()> {
        let told = |found: Mark| match names.is_clustered() || found.as_deref() == mark {
            true => Ok(()),
            false => Err(RedisError::from((ErrorKind::Io, "another data set took its place"))),
        };
        let _one_at_a_time = self.delivering.lock().await;
        let mut taken = Taken { pending: self, backlog: self.take(shard) };
        let backlog = &mut taken.backlog;
        let anything = !backlog.is_empty();
        let delivering = async {
            if backlog.everything {
                told(invalidate(names, connection, Scope::Everything).await?)?;
            }
            if !backlog.tags.is_empty() {
                told(invalidate(names, connection, Scope::Tags(&Tags::new(&backlog.tags))).await?)?;
            }
            while !backlog.keys.is_empty() {
                let keys: Vec<Key> = backlog.keys.values().take(KEYS_AT_ONCE).cloned().collect();
                told(invalidate_keys(names, connection, &keys).await?)?;
                keys.iter().for_each(|key| drop(backlog.keys.remove(&key.id())));
            }
            Ok::<(), RedisError>(())
        };
        match timeout(DELIVERY, delivering).await {
            Ok(delivered) => delivered?,
            Err(_) => {
                // One is delivered sooner than many. Elsewhere than where the tags are, what is left gets less each time.
                if shard.covers(Scope::Everything) {
                    taken.backlog = Backlog { everything: true, ..Backlog::default() };
                }
                return Err((ErrorKind::Io, "no answer to kept invalidations").into());
            }
        }
        deliver_patterns(&taken.backlog.patterns, names, connection).await?;
        taken.backlog = Backlog::default();
        if anything {
            tracing::info!("delivered the invalidations that were kept while Redis was away");
        }
        Ok(())
    }

    /// Does `action` while nothing can be added; it is told whether anything is kept, or on its way and may come back.
    #[cfg(feature = "cluster")]
    pub(crate) fn undisturbed(&self, action: impl FnOnce(bool)) {
        let backlog = self.backlog();
        action(!backlog.is_empty() || self.delivering.try_lock().is_err());
    }

    fn take(&self, shard: &dyn Shard) -> Backlog {
        let mut backlog = self.backlog();
        let (taken, left) = std::mem::take(&mut *backlog).split(shard);
        *backlog = left;
        taken
    }

    fn put_back(&self, backlog: Backlog) {
        self.backlog().merge(backlog);
    }
}

/// What is being delivered: put back when this is dropped, as it is with its keeper, unless it was taken out.
struct Taken<'a> {
    pending: &'a Pending,
    backlog: Backlog,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.pending.put_back(std::mem::take(&mut self.backlog));
    }
}

/// Wakes all who wait for a delivery, however it ends.
struct Waking<'a>(&'a Notify);

impl Drop for Waking<'_> {
    fn drop(&mut self) {
        self.0.notify_waiters();
    }
}

/// In their own time: each step of them has a limit, but a large server is not a slow one.
async fn deliver_patterns(
    patterns: &[Pattern],
    names: &Names,
    connection: &mut MultiplexedConnection,
) -> RedisResult<()> {
    for pattern in patterns {
        // The first tier is void: it belongs to connections that are gone.
        delete_matching(names, pattern, None, connection).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::redis::connection::shard::Everything;

    #[test]
    fn the_same_invalidation_is_kept_once() {
        let pending = Pending::default();
        for _ in 0..3 {
            pending.add(Scope::Tags(&Tags::new(["a", "b"])));
            pending.add(Scope::Key(&Key::new(["k"])));
        }
        let backlog = pending.take(&Everything);
        assert_eq!((Tags::new(&backlog.tags), backlog.keys.len()), (Tags::new(["a", "b"]), 1));
        assert!(pending.backlog().is_empty());
    }

    #[test]
    fn a_long_outage_ends_in_one_invalidation_of_everything() {
        let pending = Pending::default();
        for i in 0..=CAP {
            pending.add(Scope::Key(&Key::new([i.to_string()])));
        }
        let backlog = pending.take(&Everything);
        assert!(backlog.everything && backlog.keys.is_empty());
    }

    #[test]
    fn patterns_are_kept_once_and_become_everything_when_they_are_many() {
        let pending = Pending::default();
        for i in 0..2 * PATTERNS_CAP {
            pending.add_pattern(&Pattern::new(&format!("{}*", i / 2)));
        }
        assert_eq!(pending.backlog().patterns.len(), PATTERNS_CAP);
        pending.add_pattern(&Pattern::new("one more"));
        let backlog = pending.take(&Everything);
        assert!(backlog.everything && backlog.patterns.is_empty());
    }

    #[test]
    fn what_is_put_back_joins_what_came_since() {
        let pending = Pending::default();
        pending.add(Scope::Tags(&Tags::new(["a"])));
        let backlog = pending.take(&Everything);
        pending.add(Scope::Tags(&Tags::new(["b"])));
        pending.put_back(backlog);
        assert_eq!(Tags::new(&pending.take(&Everything).tags), Tags::new(["a", "b"]));
    }

    #[cfg(feature = "cluster")]
    #[test]
    fn what_is_on_its_way_is_kept_as_far_as_the_map_of_a_cluster_is_concerned() {
        let pending = Pending::default();
        pending.undisturbed(|kept| assert!(!kept));
        let _delivering = pending.delivering.try_lock().unwrap();
        pending.undisturbed(|kept| assert!(kept));
    }
}
