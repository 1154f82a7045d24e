//! Counts over all connections of a store since it was made. They only grow, even if servers come and go.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use crate::store::redis::wire::operation::Operation;
use crate::{clock::millis, throttle::Throttle};

/// How long a server counts as full after it refused to store; while fills are tried, that is renewed every second.
const FULL: Duration = Duration::from_secs(60);

/// What to do about a server that is full.
pub(crate) const WHEN_FULL: &str = "Redis has no room left and evicts nothing: nothing more is stored. Set its \
     maxmemory-policy to allkeys-lfu, or its maxmemory higher";

/// The subject of a push from the server: this process drops what it knew of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Push {
    /// An entry of the first tier.
    Entry,
    /// A lease that this process holds, or waits for.
    Lease,
    /// The token of a tag.
    Tag,
    /// The time of the last invalidation; every load under way began after it.
    Invalidation,
    /// Everything: the data set was emptied.
    Everything,
}

impl Push {
    const ALL: [Self; 5] = [Self::Entry, Self::Lease, Self::Tag, Self::Invalidation, Self::Everything];

    /// The name, for a metric's label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Entry => "entry",
            Self::Lease => "lease",
            Self::Tag => "tag",
            Self::Invalidation => "invalidation",
            Self::Everything => "everything",
        }
    }
}

#[derive(Debug)]
pub(crate) struct Counters {
    begun: Instant,
    /// When the server last refused to store, in milliseconds after `begun` and at least 1; 0 if it has stored since.
    refused: AtomicU64,
    refusals: Throttle,
    lost_connections: AtomicU64,
    overflows: AtomicU64,
    overflow: Throttle,
    hardened: AtomicU64,
    swept_bans: AtomicU64,
    /// When the lurker began to wait for the topology to show every node, in milliseconds after `begun` and at least 1; 0 if it does not.
    held_up: AtomicU64,
    round_trips: [AtomicU64; Operation::ALL.len()],
    pushes: [AtomicU64; Push::ALL.len()],
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            begun: Instant::now(),
            refused: AtomicU64::new(0),
            refusals: Throttle::new(),
            lost_connections: AtomicU64::new(0),
            overflows: AtomicU64::new(0),
            overflow: Throttle::new(),
            hardened: AtomicU64::new(0),
            swept_bans: AtomicU64::new(0),
            held_up: AtomicU64::new(0),
            round_trips: Default::default(),
            pushes: Default::default(),
        }
    }
}

impl Counters {
    /// Notes that the server had no room for a fill. It is logged once for as long as it continues.
    pub(crate) fn refused(&self) {
        let was_full = self.is_full();
        self.refused.store(millis(self.begun.elapsed()).max(1), Ordering::Relaxed);
        if !was_full && self.refusals.pass().is_some() {
            tracing::warn!("{WHEN_FULL}");
        }
    }

    /// Notes that the server stored something.
    pub(crate) fn stored(&self) {
        if self.refused.load(Ordering::Relaxed) != 0 && self.refused.swap(0, Ordering::Relaxed) != 0 {
            tracing::info!("Redis has room again");
        }
    }

    /// Whether the server refuses to store, as far as this process knows.
    pub(crate) fn is_full(&self) -> bool {
        let refused = self.refused.load(Ordering::Relaxed);
        refused != 0 && millis(self.begun.elapsed()).saturating_sub(refused) < millis(FULL)
    }

    pub(crate) fn lost_a_connection(&self) {
        self.lost_connections.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn lost_connections(&self) -> u64 {
        self.lost_connections.load(Ordering::Relaxed)
    }

    /// Counts a ban for which there was no room.
    pub(crate) fn overflowed(&self) {
        self.overflows.fetch_add(1, Ordering::Relaxed);
        if self.overflow.pass().is_some() {
            tracing::warn!(
                "the list of bans has no room for another pattern: it is swept at once, and its caller waits until all keys were scanned"
            );
        }
    }

    pub(crate) fn overflows(&self) -> u64 {
        self.overflows.load(Ordering::Relaxed)
    }

    /// Counts an invalidation that was delivered as a hard one, or as one of more.
    pub(crate) fn hardened(&self) {
        self.hardened.fetch_add(1, Ordering::Relaxed);
    }

    /// As [`hardened`](Self::hardened), because its keys were being moved.
    #[cfg(feature = "cluster")]
    pub(crate) fn hardened_by_a_move(&self) {
        self.hardened();
        tracing::warn!(
            "a slot of the cluster is being moved: a soft invalidation of its keys was delivered as a hard one, or one of a pattern as one of everything"
        );
    }

    pub(crate) fn invalidations_hardened(&self) -> u64 {
        self.hardened.load(Ordering::Relaxed)
    }

    pub(crate) fn swept_bans(&self, count: u64) {
        self.swept_bans.fetch_add(count, Ordering::Relaxed);
    }

    /// Bans that this process has swept and taken off the list.
    pub(crate) fn bans_swept(&self) -> u64 {
        self.swept_bans.load(Ordering::Relaxed)
    }

    /// Notes that bans stay listed because a slot is being handed over, until the guard is dropped. There is one lurker at a time.
    #[cfg(feature = "cluster")]
    pub(crate) fn hold_up_bans(&self) -> HeldUp<'_> {
        self.held_up.store(millis(self.begun.elapsed()).max(1), Ordering::Relaxed);
        tracing::warn!(
            "bans stay listed until every node of the Redis cluster answers, and none hands a slot over to a node without slots. If \
             no slot is being moved, one was left so: `redis-cli --cluster fix` ends that"
        );
        HeldUp(self)
    }

    /// For how long bans have stayed listed because a node may have keys that the topology does not show.
    pub(crate) fn bans_held_up(&self) -> Option<Duration> {
        match self.held_up.load(Ordering::Relaxed) {
            0 => None,
            since => Some(Duration::from_millis(millis(self.begun.elapsed()).saturating_sub(since))),
        }
    }

    pub(crate) fn sent(&self, operation: Operation) {
        self.round_trips[operation as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn round_trips(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        let counts = self.round_trips.iter().map(|count| count.load(Ordering::Relaxed));
        Operation::ALL.into_iter().map(Operation::as_str).zip(counts)
    }

    pub(crate) fn received(&self, push: Push) {
        self.pushes[push as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn pushes(&self) -> impl Iterator<Item = (Push, u64)> + '_ {
        let counts = self.pushes.iter().map(|count| count.load(Ordering::Relaxed));
        Push::ALL.into_iter().zip(counts)
    }
}

/// Bans stay listed, until this is dropped.
#[cfg(feature = "cluster")]
pub(crate) struct HeldUp<'a>(&'a Counters);

#[cfg(feature = "cluster")]
impl Drop for HeldUp<'_> {
    fn drop(&mut self) {
        self.0.held_up.store(0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_counted_by_itself() {
        let counters = Counters::default();
        counters.received(Push::Tag);
        counters.received(Push::Everything);
        counters.received(Push::Everything);
        let received: Vec<_> = counters.pushes().map(|(push, count)| (push.as_str(), count)).collect();
        assert_eq!(received, [("entry", 0), ("lease", 0), ("tag", 1), ("invalidation", 0), ("everything", 2)]);

        counters.sent(Operation::Mget);
        counters.sent(Operation::Acquire);
        let sent: Vec<_> = counters.round_trips().filter(|(_, count)| *count > 0).collect();
        assert_eq!(sent, [("MGET", 1), ("acquire", 1)]);
    }
}
