//! The state of the connections to Redis, without asking the server.

use std::time::Duration;

use super::{RedisStore, connection::counters::Push, tracking::server_clock::ClockOffset};

/// Whether operations are sent to Redis at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Breaker {
    /// Every connection works, and reads go over it.
    Closed,
    /// Some connections work, or they were lost and have to [settle](super::RedisStoreBuilder::settle_time). A request that needs
    /// one of the others is served without the cache.
    HalfOpen,
    /// No connection works: requests are served without the cache until one is back.
    Open,
}

impl Breaker {
    /// 0, 1 or 2, for a metric: a higher number is worse.
    #[must_use]
    pub fn level(self) -> u64 {
        match self {
            Self::Closed => 0,
            Self::HalfOpen => 1,
            Self::Open => 2,
        }
    }
}

/// The state of the connections to Redis, from [`RedisStore::state`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RedisState {
    /// Distinguishes this process from the others with the same Redis, by a random number. [Leases](crate::store::LeaseHolder)
    /// have it.
    pub process: u32,
    /// Whether operations are sent to Redis.
    pub breaker: Breaker,
    /// Invalidations that Redis has not received yet. More than 10,000 of them are merged into one of everything.
    pub pending_invalidations: usize,
    /// Connections that were lost or given up since the store was made. With each, everything that this process knew by the
    /// server's tracking became void.
    pub lost_connections: u64,
    /// Whether Redis had no room for an entry within the last minute, and has stored none since.
    pub full: bool,
    /// The offset of the server's clock from this machine's; in a cluster, of the server that has the tags. `None` until the
    /// server has been asked.
    pub clock: Option<ClockOffset>,
    /// [Patterns](crate::Cache::delete_pattern) that are listed and not swept yet, as far as this process knows.
    pub bans: usize,
    /// Patterns that this process has swept and taken off the list.
    pub swept_bans: u64,
    /// For how long this process has waited to take swept patterns off the list, because a node of the cluster says that it hands
    /// a slot over to a node that has none, or does not answer; `None` if it does not wait. One process of a fleet sweeps at a
    /// time. A slot that was left so, by a move that was given up, keeps the patterns listed until `redis-cli --cluster fix` ends it.
    pub bans_held_up: Option<Duration>,
    /// Patterns of this process that were swept at once, because the list had no room for them.
    pub overflowed_bans: u64,
    /// Soft invalidations of this process that were delivered as hard ones, and patterns that were delivered as everything, because
    /// a slot of the cluster was being moved; and soft ones of tags or of everything that became hard ones
    /// because the server was full.
    /// [`Event::Invalidation`](crate::telemetry::Event::Invalidation) tells it of each.
    pub hardened_invalidations: u64,
}

impl RedisStore {
    /// The current state, without asking the server: fast enough for every scrape of metrics.
    ///
    /// ```no_run
    /// use cache_layer::store::{Breaker, RedisStore};
    ///
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// let store = RedisStore::builder("redis://127.0.0.1:6379/0").build()?;
    /// if store.state().breaker == Breaker::Open {
    ///     println!("serving without Redis");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn state(&self) -> RedisState {
        let connections = self.connections();
        let breaker = if !connections.iter().any(|connection| connection.is_connected()) {
            Breaker::Open
        } else if connections.iter().all(|connection| connection.settled().is_ok()) {
            Breaker::Closed
        } else {
            Breaker::HalfOpen
        };
        RedisState {
            process: self.0.context.lease_tokens.process(),
            breaker,
            pending_invalidations: self.0.context.outbox.count(),
            lost_connections: self.0.context.counters.lost_connections(),
            full: self.0.context.counters.is_full(),
            clock: self.0.context.clock.offset(),
            bans: self.bans_listed().map_or(0, |bans| bans.as_slice().len()),
            swept_bans: self.0.context.counters.bans_swept(),
            bans_held_up: self.0.context.counters.bans_held_up(),
            overflowed_bans: self.0.context.counters.overflows(),
            hardened_invalidations: self.0.context.counters.invalidations_hardened(),
        }
    }

    /// Round trips to Redis since the store was made, by operation: the name of a script, of several commands that are sent
    /// together, such as `claim`, or of a single command.
    ///
    /// A pattern counts once for each server, however many steps its sweep takes. Round trips that keep the connections alive are
    /// not counted. Each look-up counts, even if several were sent together.
    ///
    /// ```no_run
    /// # fn example(store: &cache_layer::store::RedisStore) {
    /// for (operation, count) in store.round_trips() {
    ///     println!("{operation}: {count}");
    /// }
    /// # }
    /// ```
    pub fn round_trips(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        self.0.context.counters.round_trips()
    }

    /// Pushes from Redis since the store was made: each tells this process that something it had read has changed.
    ///
    /// ```no_run
    /// # fn example(store: &cache_layer::store::RedisStore) {
    /// for (what, count) in store.pushes() {
    ///     println!("{}: {count}", what.as_str());
    /// }
    /// # }
    /// ```
    pub fn pushes(&self) -> impl Iterator<Item = (Push, u64)> + '_ {
        self.0.context.counters.pushes()
    }
}
