//! The store: its connections, and the choice of one for an operation.

use std::{
    borrow::Cow,
    fmt,
    sync::{Arc, Once},
    time::{Duration, Instant},
};

use redis::aio::MultiplexedConnection;
use tokio::runtime::Handle;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::Instrument as _;

#[cfg(feature = "cluster")]
use super::topology::cluster::Cluster;
use super::{
    connection::{
        address::Address,
        context::Context,
        counters::WHEN_FULL,
        handle::{Connection, Limit},
        session::Session,
        shard::Everything,
    },
    topology::routes::{Route, Topology},
    tracking::local_tier::LocalTier,
    waiting_patterns::WaitingPatterns,
    wire::{errors::is_not_allowed, operation::Operation},
};
use crate::{
    entry::Entry,
    key::Key,
    store::{BoxFuture, Scope, StoreError},
};

/// A store on a Redis or Valkey server. Cheap to clone; clones share their connections.
///
/// No request ever waits for a connection: without one, look-ups miss at once and nothing is stored. Look-ups of several requests
/// that are ready at the same time are sent together, and look-ups of one key are one command.
///
/// # Several servers
///
/// The URL selects the kind of deployment. It determines what an invalidation guarantees once it has returned `Ok`:
///
/// | URL | read from Redis | in the first tier of a [`TieredStore`](crate::store::TieredStore) |
/// |---|---|---|
/// | `redis://` one server | by any process: gone | in this process: gone; in others: gone when the server's push arrives |
/// | `redis+sentinel://` a primary with replicas | as above, and see below for a fail-over | as above |
/// | `redis+cluster://` primaries that share the keys | by key, and in this process: gone; by tag or pattern, in others: gone when the push arrives | as above |
///
/// The push leaves before the invalidation returns, so it arrives after the latency of the network. Measured in a cluster on one
/// machine with other work to do: in two runs, 0 and 1 of 2,000 reads from Redis that began right after an invalidation of a tag
/// had returned were stale (the one within 0.7 ms of it), and the last stale read of a first tier began 2.3 ms after it at the
/// 99th percentile, 4.7 ms at worst. A half-open connection is noticed within two seconds, or a second after the
/// [operation timeout](crate::store::RedisStoreBuilder::operation_timeout) if that is longer; nothing is served over it from then
/// on.
///
/// After a loss of Redis the processes reconnect one after the other, and each delivers the invalidations of the meantime before
/// it reads anything. A process therefore does not read until the others have had time to reconnect: see
/// [`settle_time`](crate::store::RedisStoreBuilder::settle_time), also for the limits of this.
///
/// **One server.** An entry and its tags are judged over one connection, on which replies and pushes arrive in order: a read that
/// begins after an invalidation has returned does not see what the invalidation covered.
///
/// **Sentinel** (feature `sentinel`). Each connection asks the sentinels again which server is the primary, and does not use a
/// server that says it is a replica. Replicas are never read: they lag. A fail-over loses what the replica had not received yet,
/// invalidations included; [`Restored`](crate::store::Restored) says what is done about it: by default everything is invalidated.
/// While an old primary is cut off from the sentinels but not from this process, two primaries take invalidations, each from its
/// own side. With several [connections](crate::store::RedisStoreBuilder::connections) one process may be on both sides: what it
/// invalidates at the old one is neither void at the new one nor repeated there. `min-replicas-to-write 1` keeps that short.
///
/// **Cluster** (feature `cluster`). An entry lies in its own key's slot. All tags of a prefix lie in one slot, so that one clock
/// and one order hold for them. The primary of that slot takes part in every load, and in every fill and hit whose tags this
/// process does not know; without it nothing is served from the cache. An invalidation by key reaches one primary, an
/// invalidation by tags another. After `MOVED`, `ASK`, `TRYAGAIN` or `CLUSTERDOWN`, a look-up or a fill continues without the
/// cache, and an invalidation goes to the server that has its keys by now. The store then asks for the topology at once, and
/// otherwise every two seconds. A primary that is cut off from its cluster but not from this process is used until it notices,
/// `cluster-node-timeout` and a second later; a primary that was never seen before, such as a promoted replica, is treated as
/// [`Restored`](crate::store::Restored).
///
/// # What the server's user must be allowed
///
/// The keys `<prefix>:*`, no channels, and these commands, as a line for `ACL SETUSER NAME`:
///
/// ```text
#[doc = include_str!("acl.txt")]
/// ```
///
/// `select` is needed for a database other than 0, `asking` and `cluster` for a cluster. Without `client|tracking`, tags are read
/// with every hit, and nothing is kept in a first tier. Without `info`, a restored data set is not noticed, and
/// [`status`](RedisStore::status) says less. Without `scan`, the entries of deleted patterns are not swept, and a pattern that is
/// counted, or has no room on the list, invalidates everything. Sentinels must allow `hello` and
/// `sentinel|get-master-addr-by-name`.
///
/// Every test of this store runs against Redis 7.0.15, Redis 8.0.2 and Valkey 8.1.1, alone, behind sentinels and as a cluster,
/// and passes unchanged: these servers answer the store's commands alike, except for the names and versions in `INFO`. Redict 7.3
/// and Valkey 9.1 were tried, alone, behind sentinels and as a cluster. By default, Valkey frees evicted, expired and overwritten
/// values in the background; Redis, 8.0 included, needs `lazyfree-lazy-eviction` and the like for that.
///
/// # Example
///
/// ```no_run
/// use cache_layer::{Cache, store::RedisStore};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let store = RedisStore::builder("redis://127.0.0.1:6379/0").prefix("shop").build()?;
/// let cache = Cache::new(store);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct RedisStore(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub(super) topology: Topology,
    pub(super) context: Arc<Context>,
    pub(super) runtime: Handle,
    pub(super) follows_switches: Once,
    pub(super) waiting_patterns: WaitingPatterns,
    /// Ends the tasks of this store.
    pub(super) stop: CancellationToken,
    _stop: DropGuard,
}

/// The status of a Redis server, from [`RedisStore::status`].
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct RedisStatus {
    /// Whether the server answered.
    pub connected: bool,
    /// How long it took to answer a `PING`.
    pub ping: Option<Duration>,
    /// The memory that the server uses, as the server formats it, such as `1.05M`; `None` if the server does not say, as for a
    /// user without the permission for `info`.
    pub used_memory_human: Option<String>,
    /// Clients connected to the server.
    pub connected_clients: Option<u64>,
    /// Whether the server has no room and evicts nothing, so that nothing more is stored.
    pub full: bool,
    /// Why there is no answer; or, if the server is [`full`](Self::full), what to do about that.
    pub error: Option<String>,
}

impl RedisStore {
    pub(super) fn start(address: Address, connections: usize, context: Context, runtime: &Handle) -> Self {
        let (context, stop) = (Arc::new(context), CancellationToken::new());
        let topology = match address {
            #[cfg(feature = "cluster")]
            Address::Cluster(seeds) => {
                Topology::Cluster(Cluster::start(seeds, connections, context.clone(), runtime, &stop))
            }
            address => {
                let one = || Connection::new(address.clone(), Box::new(Everything), false, context.clone());
                let connections: Vec<_> = std::iter::repeat_with(one).take(connections).collect();
                for connection in &connections {
                    runtime.spawn(connection.clone().supervise(stop.clone()));
                }
                Topology::One(connections)
            }
        };
        let (runtime, _stop) = (runtime.clone(), stop.clone().drop_guard());
        Self(Arc::new(Inner {
            topology,
            context,
            runtime,
            follows_switches: Once::new(),
            waiting_patterns: WaitingPatterns::default(),
            stop,
            _stop,
        }))
    }

    /// Whether there is a connection that is believed to work; in a cluster, to the primary that has the tags.
    #[must_use]
    pub fn connected(&self) -> bool {
        self.0.topology.to_tags().is_connected()
    }

    /// Waits until there is a connection, but no longer than `timeout`; in a cluster, until there is one to every primary.
    ///
    /// For the start of a process, before it takes requests: other processes do not hear of an invalidation through a process
    /// that has no connection yet, until it has one. In a cluster of containers the first attempt may fail, since the rules of
    /// the network lag behind a new container. After some five seconds, continue without a connection.
    pub async fn wait_connected(&self, timeout: Duration) -> bool {
        tokio::time::timeout(timeout, self.0.topology.wait_connected()).await.is_ok()
    }

    /// Asks the server for its status; never waits longer than the operation timeout, or a second if that is longer.
    pub async fn status(&self) -> RedisStatus {
        let ask = async {
            let connection = self.connection_to_tags();
            let session = connection.session()?;
            let begun = Instant::now();
            connection
                .run_with(Operation::Ping, &session, Limit::Background, async |mut driver: MultiplexedConnection| {
                    redis::cmd("PING").query_async::<()>(&mut driver).await
                })
                .await?;
            let ping = begun.elapsed();
            let info = connection
                .run_with(Operation::Info, &session, Limit::Background, async |mut driver: MultiplexedConnection| {
                    match redis::cmd("INFO").arg("memory").arg("clients").query_async(&mut driver).await {
                        // The server answers, but does not allow `INFO`.
                        Err(error) if is_not_allowed(&error) => Ok(String::new()),
                        info => info,
                    }
                })
                .await?;
            let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            let number = |name: &str| field(name).and_then(|number| number.parse::<u64>().ok());
            let no_room =
                number("maxmemory").zip(number("used_memory")).is_some_and(|(max, used)| 0 < max && max <= used);
            let full =
                self.0.context.counters.is_full() || (no_room && field("maxmemory_policy") == Some("noeviction"));
            Ok::<_, StoreError>(RedisStatus {
                connected: true,
                ping: Some(ping),
                used_memory_human: field("used_memory_human").map(str::to_owned),
                connected_clients: number("connected_clients"),
                full,
                error: full.then(|| WHEN_FULL.to_owned()),
            })
        };
        ask.await.unwrap_or_else(|error| {
            let error = match error {
                StoreError::Unavailable => self.connection_to_tags().last_error(),
                other => other.to_string(),
            };
            RedisStatus { error: Some(error), ..RedisStatus::default() }
        })
    }

    /// The first tier; if there is none, it is made, to hold about `max_bytes`.
    pub(in crate::store) fn local_tier_or_init(&self, max_bytes: u64) -> Arc<LocalTier> {
        let clock = || self.0.context.clock.clock().clone();
        self.0.context.local_tier.get_or_init(|| Arc::new(LocalTier::new(max_bytes, clock()))).clone()
    }

    /// Whether some server tracks what this process reads, as far as is known: an ACL or a proxy may refuse it.
    pub(in crate::store) fn tracks(&self) -> bool {
        let connections = self.connections();
        let mut sessions = connections.iter().filter_map(|connection| connection.session().ok()).peekable();
        sessions.peek().is_none() || sessions.any(|session| session.tracking)
    }

    /// The entry of `key` in the first tier.
    pub(in crate::store) fn peek_local_tier(&self, key: &Key) -> Option<Entry> {
        let connection = self.connection(key);
        let session = connection.believed()?;
        let (_, tags) = self.connection_of_tags(&connection, &session).ok()?;
        // Asked after the list is known: a ban is taken off it only once each loss from before the sweep is noticed.
        let is_connected = || connection.has(&session);
        self.0.context.local_tier.get()?.get(session.number, is_connected, &tags.tokens, key)
    }

    /// The connection of `key`: always the same one, so that operations on a key stay in order.
    pub(super) fn connection(&self, key: &Key) -> Cow<'_, Arc<Connection>> {
        self.0.topology.of_key(key)
    }

    /// The connection by which to read the tags of an entry that is read over `session`.
    pub(super) fn connection_of_tags<'a>(
        &self,
        connection: &'a Arc<Connection>,
        session: &'a Arc<Session>,
    ) -> Result<Route<'a>, StoreError> {
        self.0.topology.of_tags_beside(connection, session)
    }

    /// As [`connection_of_tags`](Self::connection_of_tags), if reads are allowed over that connection by now.
    pub(super) fn connection_to_read_tags<'a>(
        &self,
        connection: &'a Arc<Connection>,
        session: &'a Arc<Session>,
    ) -> Result<Route<'a>, StoreError> {
        let route = self.connection_of_tags(connection, session)?;
        if route.1.is_settled() { Ok(route) } else { Err(StoreError::Unavailable) }
    }

    /// A connection to invalidate tags by.
    pub(super) fn connection_to_tags(&self) -> Arc<Connection> {
        self.0.topology.to_tags()
    }

    /// The connection that an invalidation takes.
    pub(super) fn connection_of(&self, scope: Scope<'_>) -> Arc<Connection> {
        match scope {
            Scope::Key(key) => self.connection(key).into_owned(),
            Scope::Tags(_) | Scope::Pattern(_) | Scope::Everything => self.connection_to_tags(),
        }
    }

    pub(super) fn connections(&self) -> Vec<Arc<Connection>> {
        self.0.topology.all()
    }

    /// Runs an operation in a task of its own, so that it is completed even if its caller is cancelled.
    pub(super) fn spawn_detached<T: Send + 'static>(
        &self,
        operation: impl Future<Output = Result<T, StoreError>> + Send + 'static,
    ) -> BoxFuture<'static, Result<T, StoreError>> {
        let task = self.0.runtime.spawn(operation.in_current_span());
        Box::pin(async move { task.await.unwrap_or(Err(StoreError::Unavailable)) })
    }
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore").field("topology", &self.0.topology).finish_non_exhaustive()
    }
}
