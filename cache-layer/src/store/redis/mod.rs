//! A store that a fleet of processes shares, on Redis >= 7.0 or Valkey >= 7.2.
//!
//! - [`names`]: what the keys are called
//! - [`lookup`]: reading entries, and whether their tags still hold
//! - [`reads`]: look-ups on their way, sent together
//! - [`replies`]: what the server may answer
//! - [`lease`]: the right to load
//! - [`grants`]: leases that were granted to this process, and whether they still stand
//! - [`waiters`]: who waits for the end of another process's lease
//! - [`commit`]: writing what was loaded
//! - [`invalidate`]: voiding entries, or making them stale
//! - [`patterns`]: deleting entries by their readable keys
//! - [`many`]: reading and writing many entries in one round trip
//! - [`scripts`]: what of this runs on the server
//! - [`routes`]: which connection an operation takes
//! - [`address`], [`sentinel`]: where the servers are
//! - [`share`], [`cluster`], [`slots`]: which of them has what
//! - [`greeting`]: whether a server can be used
//! - [`link`]: one connection, its keeper, and the breaker
//! - [`tokens`]: tag tokens known to a connection, kept right by server-assisted tracking
//! - [`near`]: entries known to a connection, in the same way, for the tiered store
//! - [`guard`]: whether the data set is the one that was here before
//! - [`redirect`]: invalidations while a cluster is rearranged
//! - [`operation`]: what a round trip is called in a trace
//! - [`pending`]: invalidations that could not be delivered yet
//! - [`state`]: what is known of the connections without asking
//! - [`tally`]: what happened over them so far
//! - [`errors`]: what an error says about the server
//! - [`config`]: settings and their limits

use std::{
    borrow::Cow,
    fmt,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use redis::aio::MultiplexedConnection;
use tokio::runtime::Handle;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::Instrument as _;

#[cfg(feature = "cluster")]
use self::cluster::Cluster;
use self::{
    address::Address,
    errors::is_not_allowed,
    grants::Grants,
    guard::Guard,
    invalidate::{Hardness, invalidate},
    link::{Link, Live, Shared, Timeouts},
    names::Names,
    operation::Operation,
    pending::Pending,
    routes::{Routes, Way},
    share::Share,
    tally::{Tally, WHEN_FULL},
};
use super::{
    Acquired, BoxFuture, Committed, Contract, Failed, Fill, Lease, LeaseToken, Lookup, Scope, Seen, Store, StoreError,
};
use crate::{entry::Entry, key::Key, pattern::Pattern, tag::Tags};

#[cfg(test)]
mod acl_tests;
mod address;
#[cfg(feature = "cluster")]
mod cluster;
#[cfg(all(test, feature = "cluster"))]
mod cluster_tests;
#[cfg(test)]
mod coherence_tests;
mod commit;
mod config;
#[cfg(test)]
mod disconnected_tests;
mod errors;
#[cfg(test)]
mod fleet_tests;
#[cfg(test)]
mod full_tests;
mod grants;
mod greeting;
mod guard;
#[cfg(test)]
mod guard_tests;
mod invalidate;
mod lease;
mod link;
mod lookup;
#[cfg(test)]
mod loss_tests;
mod many;
mod names;
mod near;
mod operation;
#[cfg(test)]
mod pattern_tests;
mod patterns;
mod pending;
mod reads;
#[cfg(test)]
mod reads_tests;
#[cfg(feature = "cluster")]
mod redirect;
mod replies;
#[cfg(test)]
mod replies_tests;
mod routes;
#[cfg(test)]
mod schedule_tests;
mod scripts;
#[cfg(feature = "sentinel")]
mod sentinel;
#[cfg(all(test, feature = "sentinel"))]
mod sentinel_tests;
mod share;
#[cfg(feature = "cluster")]
mod slots;
mod state;
mod tally;
mod tokens;
#[cfg(test)]
mod tokens_tests;
mod waiters;

pub use config::RedisStoreBuilder;
pub use guard::Restored;
pub(super) use near::Near;
pub use state::{Breaker, RedisState};
pub use tally::Push;

/// The first tier of this store, once there is one.
type NearSlot = Arc<OnceLock<Arc<Near>>>;

/// The tag that every entry here carries: its new token voids them all. No tag of a user's is empty.
const EVERYTHING: &str = "";
/// The least life of that tag's token, which is renewed with every fill. Those of other tags are kept for as long as
/// [what carries them](tokens::lives).
const TOKEN_LIFE: Duration = Duration::from_secs(24 * 60 * 60);

/// A store on a Redis or Valkey server. Cheap to clone; clones share their connections.
///
/// No request ever waits for a connection: while there is none, look-ups miss at once and nothing is stored. Look-ups of
/// many requests that are ready at the same time go out together, and those of one key are one command.
///
/// # Several servers
///
/// The URL says what there is. What an invalidation guarantees, once it has returned `Ok`, depends on it:
///
/// | URL | read from Redis | in the first tier of a [`TieredStore`](super::TieredStore) |
/// |---|---|---|
/// | `redis://` one server | by anybody: gone | here: gone; elsewhere: gone when the server's push arrives |
/// | `redis+sentinel://` a primary with replicas | as above, and see below for a fail-over | as above |
/// | `redis+cluster://` primaries that share the keys | by key, and here: gone; a tag, elsewhere: gone when the push arrives | as above |
///
/// The push leaves before the invalidation returns, so it arrives after the time that the network takes: in a cluster on
/// one machine with other work to do, in two runs, 0 and 1 of 2,000 reads from Redis were stale that began right after an
/// invalidation of a tag returned (the one within 0.7 ms of it), and the last stale read of a first tier began 2.3 ms after it
/// at the 99th percentile, 4.7 ms at worst. A
/// connection of which only one half is left is noticed within two seconds; nothing is served over it from then on.
///
/// After a loss of Redis the processes are back one after the other, and what was invalidated meanwhile is delivered by each
/// before it reads anything. So none reads before the others had time to be back:
/// [`settle_time`](RedisStoreBuilder::settle_time), with the bounds of that.
///
/// **One server.** An entry and its tags are judged over one connection, which tells in order what it read and what
/// changed: a read that begins after an invalidation returned does not see what it covered.
///
/// **Sentinel** (feature `sentinel`). Each connection asks the sentinels anew who the primary is, and a server that says it
/// is a replica is none. Replicas are never read: they lag. A fail-over loses what the replica had not heard of yet,
/// invalidations included, and [`Restored`] says what is done about it: by default everything is invalidated. While an
/// old primary is cut off from the sentinels but not from this process, two primaries take invalidations, each from its
/// own side; `min-replicas-to-write 1` keeps that short.
///
/// **Cluster** (feature `cluster`). An entry lies with its own key's slot; all tags of a prefix lie in one slot, so that
/// one clock and one order hold for them. That one primary serves every fill with one more round trip, and every hit whose
/// tags this process does not know; without it nothing is served from the cache. An invalidation by key reaches one
/// primary, one by tags another. `MOVED`, `ASK`, `TRYAGAIN` and `CLUSTERDOWN` send a look-up or a fill on without the
/// cache, and an invalidation to where its keys are by now. Who has what is asked at once then, and every two seconds. A
/// primary that is cut off from its cluster but not from this process is used until it notices, `cluster-node-timeout` and
/// a second later; a primary that was never seen before, a promoted replica for one, is treated as [`Restored`].
///
/// # What the server's user must be allowed
///
/// The keys `<prefix>:*`, no channels, and these commands, as a line for `ACL SETUSER NAME`:
///
/// ```text
#[doc = include_str!("acl.txt")]
/// ```
///
/// `select` is for another database than 0, `asking` and `cluster` for a cluster.
/// Without `client|tracking` tags are read with every hit, and nothing is kept in a first tier. Without `info` a data set
/// that was restored is not noticed, and [`status`](RedisStore::status) says less. Without `scan` a pattern invalidates everything. Sentinels must allow `hello` and `sentinel|get-master-addr-by-name`.
///
/// Redict 7.3 and Valkey 9.1 were tried, alone, behind sentinels and as a cluster. Every test of this store is run against Redis 7.0.15, Redis 8.0.2 and Valkey 8.1.1, alone, behind sentinels and as a
/// cluster, and passes unchanged: nothing that is asked of them here is answered differently, but the names and versions
/// in `INFO`. Valkey frees what is evicted, expired or overwritten in the background by default, where Redis, 8.0 included,
/// wants `lazyfree-lazy-eviction` and its like.
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
pub struct RedisStore(Arc<Inner>);

struct Inner {
    routes: Routes,
    names: Names,
    pending: Arc<Pending>,
    guard: Arc<Guard>,
    near: NearSlot,
    grants: Arc<Grants>,
    tally: Arc<Tally>,
    runtime: Handle,
    _stop: DropGuard,
}

/// How a Redis server is doing, from [`RedisStore::status`].
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct RedisStatus {
    /// Whether the server answered.
    pub connected: bool,
    /// How long it took to answer a `PING`.
    pub ping: Option<Duration>,
    /// The memory that the server uses, as it says it, such as `1.05M`; nothing if it does not say, as for a user who may not
    /// ask for `info`.
    pub used_memory_human: Option<String>,
    /// Clients connected to the server.
    pub connected_clients: Option<u64>,
    /// Whether it has no room and evicts nothing, so that nothing more is stored.
    pub full: bool,
    /// Why there is no answer; or, if it is [`full`](Self::full), what to do about that.
    pub error: Option<String>,
}

impl RedisStore {
    /// Settings of a store at `url`: `redis://` or, with the feature `tls`, `rediss://`, then
    /// `[user[:password]@]host[:port][/db]`; or `unix:///path[?db=N&user=…&pass=…]`. Here and in what follows, `valkey` may
    /// stand for `redis`.
    ///
    /// With the feature `sentinel`: `redis+sentinel://[user[:password]@]host[:port][,…]/name[/db]`, where the hosts are
    /// sentinels (port 26379 unless given), `name` is what they call the primary, and user and password are for the
    /// servers; those for the sentinels come as `?sentinel_user=…&sentinel_pass=…` or by
    /// [`sentinel_credentials`](RedisStoreBuilder::sentinel_credentials). With the feature `cluster`:
    /// `redis+cluster://[user[:password]@]host[:port][,…]`, where the hosts are some of the nodes; the others are found.
    /// With `tls`, `rediss+sentinel://` and `rediss+cluster://`, where every server and sentinel is reached by TLS, under the
    /// name or address that the sentinels or the cluster give it: its certificate must be for that one.
    ///
    /// ```no_run
    /// # use cache_layer::store::RedisStore;
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// # #[cfg(all(feature = "cluster", feature = "sentinel"))] {
    /// let cluster = RedisStore::builder("redis+cluster://:password@10.0.0.1,10.0.0.2,10.0.0.3").build()?;
    /// let primary = RedisStore::builder("redis+sentinel://10.0.0.1,10.0.0.2,10.0.0.3/main/0").build()?;
    /// # }
    /// # Ok(())
    /// # }
    /// ```
    pub fn builder(url: impl Into<String>) -> RedisStoreBuilder {
        RedisStoreBuilder::new(url.into())
    }

    fn start(
        address: Address,
        prefix: &str,
        connections: usize,
        timeouts: Timeouts,
        guard: Guard,
        runtime: &Handle,
    ) -> Self {
        let names = match &address {
            #[cfg(feature = "cluster")]
            Address::Cluster(_) => Names::clustered(prefix),
            _ => Names::new(prefix),
        };
        let stop = CancellationToken::new();
        let (pending, guard, near) = (Arc::<Pending>::default(), Arc::new(guard), NearSlot::default());
        let (grants, tally) = (Arc::<Grants>::default(), Arc::<Tally>::default());
        let shared = Shared {
            names: names.clone(),
            pending: pending.clone(),
            guard: guard.clone(),
            near: near.clone(),
            grants: grants.clone(),
            tally: tally.clone(),
            timeouts,
        };
        let routes = match address {
            #[cfg(feature = "cluster")]
            Address::Cluster(seeds) => Routes::Cluster(Cluster::start(seeds, connections, shared, runtime, &stop)),
            address => {
                let one = || Link::new(address.clone(), Share::Everything, false, shared.clone());
                let links: Vec<_> = std::iter::repeat_with(one).take(connections).collect();
                for link in &links {
                    runtime.spawn(link.clone().keep(stop.clone()));
                }
                Routes::One(links)
            }
        };
        let (runtime, _stop) = (runtime.clone(), stop.drop_guard());
        Self(Arc::new(Inner { routes, names, pending, guard, near, grants, tally, runtime, _stop }))
    }

    /// Whether there is a connection that is believed to work; in a cluster, to the primary that has the tags.
    #[must_use]
    pub fn connected(&self) -> bool {
        self.0.routes.to_tags().is_live()
    }

    /// Waits, at most for `timeout`, until there is a connection; in a cluster, one to every primary.
    ///
    /// For a start-up, before any request is taken: what is invalidated through a process that has no connection yet, others
    /// do not hear of until it has. In a cluster of containers the first attempt may be in vain, since the rules of the network
    /// lag behind a new one. After some five seconds, go on without.
    pub async fn wait_connected(&self, timeout: Duration) -> bool {
        tokio::time::timeout(timeout, self.0.routes.wait_connected()).await.is_ok()
    }

    /// Asks the server how it is; never waits longer than the operation timeout, or a second if that is longer.
    pub async fn status(&self) -> RedisStatus {
        let ask = async {
            let link = self.link_to_tags();
            let live = link.live()?;
            let begun = Instant::now();
            link.run_patiently(Operation::command("PING"), &live, async |mut connection: MultiplexedConnection| {
                redis::cmd("PING").query_async::<()>(&mut connection).await
            })
            .await?;
            let ping = begun.elapsed();
            let info = link
                .run_patiently(Operation::command("INFO"), &live, async |mut connection: MultiplexedConnection| {
                    match redis::cmd("INFO").arg("memory").arg("clients").query_async(&mut connection).await {
                        // It answers, and says no more of itself.
                        Err(error) if is_not_allowed(&error) => Ok(String::new()),
                        info => info,
                    }
                })
                .await?;
            let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            let number = |name: &str| field(name).and_then(|number| number.parse::<u64>().ok());
            let no_room =
                number("maxmemory").zip(number("used_memory")).is_some_and(|(max, used)| 0 < max && max <= used);
            let full = self.0.tally.is_full() || (no_room && field("maxmemory_policy") == Some("noeviction"));
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
                StoreError::Unavailable => self.link_to_tags().absence(),
                other => other.to_string(),
            };
            RedisStatus { error: Some(error), ..RedisStatus::default() }
        })
    }

    /// The first tier; made, if there is none, to hold about `max_bytes`.
    pub(super) fn near_or_init(&self, max_bytes: u64) -> Arc<Near> {
        self.0.near.get_or_init(|| Arc::new(Near::new(max_bytes))).clone()
    }

    /// The entry of `key` in the first tier.
    pub(super) fn near(&self, key: &Key) -> Option<Entry> {
        let link = self.link(key);
        let live = link.believed()?;
        let (_, tags) = self.link_of_tags(&link, &live).ok()?;
        self.0.near.get()?.get(&live, &tags, key)
    }

    /// The connection of `key`: always the same one, so that what is done with a key stays in order.
    fn link(&self, key: &Key) -> Cow<'_, Arc<Link>> {
        self.0.routes.of_key(key)
    }

    /// The connection by which the tags of an entry are read that is read over `live`.
    fn link_of_tags<'a>(&self, link: &'a Arc<Link>, live: &'a Arc<Live>) -> Result<Way<'a>, StoreError> {
        self.0.routes.of_tags_beside(link, live)
    }

    /// The same, if it may be read over by now.
    fn link_to_read_tags<'a>(&self, link: &'a Arc<Link>, live: &'a Arc<Live>) -> Result<Way<'a>, StoreError> {
        let way = self.link_of_tags(link, live)?;
        if way.1.is_settled() { Ok(way) } else { Err(StoreError::Unavailable) }
    }

    /// A connection to invalidate tags by.
    fn link_to_tags(&self) -> Arc<Link> {
        self.0.routes.to_tags()
    }

    /// The connection that an invalidation takes.
    fn link_of(&self, scope: Scope<'_>) -> Arc<Link> {
        match scope {
            Scope::Key(key) => self.link(key).into_owned(),
            Scope::Tags(_) | Scope::Everything => self.link_to_tags(),
        }
    }

    fn links(&self) -> Vec<Arc<Link>> {
        self.0.routes.all()
    }

    /// Runs an invalidation in a task of its own: a caller that is cancelled has written what is to be invalidated all the
    /// same.
    fn whatever_becomes_of_the_caller<T: Send + 'static>(
        &self,
        invalidation: impl Future<Output = Result<T, StoreError>> + Send + 'static,
    ) -> BoxFuture<'static, Result<T, StoreError>> {
        let task = self.0.runtime.spawn(invalidation.in_current_span());
        Box::pin(async move { task.await.unwrap_or(Err(StoreError::Unavailable)) })
    }
}

/// 15 hex digits, the middle of a [`TagToken`](crate::tag::TagToken).
fn chance() -> String {
    format!("{:015x}", fastrand::u64(..1 << 60))
}

impl Store for RedisStore {}

impl Contract for RedisStore {
    fn peek(&self, _: &Key) -> Option<Entry> {
        None
    }

    fn identity(&self) -> usize {
        Arc::as_ptr(&self.0).addr()
    }

    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Lookup, StoreError>> {
        Box::pin(self.lookup(key))
    }

    fn acquire<'a>(&'a self, key: &'a Key, seen: Seen, ttl: Duration) -> BoxFuture<'a, Result<Acquired, StoreError>> {
        Box::pin(self.acquire_lease(key, seen, ttl, false))
    }

    fn insist<'a>(&'a self, key: &'a Key, seen: Seen, ttl: Duration) -> BoxFuture<'a, Result<Acquired, StoreError>> {
        Box::pin(self.acquire_lease(key, seen, ttl, true))
    }

    fn renew<'a>(&'a self, lease: &'a Lease, ttl: Duration) -> BoxFuture<'a, Result<bool, StoreError>> {
        Box::pin(self.renew_lease(lease, ttl))
    }

    fn is_held_by<'a>(&'a self, key: &'a Key, token: LeaseToken) -> BoxFuture<'a, Result<bool, StoreError>> {
        Box::pin(self.is_lease_held_by(key, token))
    }

    fn overtaken(&self, lease: &Lease) -> bool {
        !(self.link(&lease.key).is_live() && self.0.grants.stands(lease))
    }

    fn commit<'a>(&'a self, fill: &'a Fill) -> BoxFuture<'a, Result<Committed, StoreError>> {
        Box::pin(self.commit_fill(fill))
    }

    fn release(&self, lease: &Lease, uncacheable: Option<Duration>) {
        self.release_lease(lease, uncacheable);
    }

    fn fail(&self, lease: &Lease, failed: Failed) {
        self.fail_lease(lease, failed);
    }

    fn changed<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, ()> {
        Box::pin(self.lease_may_have_ended(key))
    }

    fn invalidate<'a>(&'a self, scope: Scope<'a>) -> BoxFuture<'a, Result<(), StoreError>> {
        let (store, scope) = (self.clone(), scope.to_owned());
        self.whatever_becomes_of_the_caller(async move { store.deliver(scope.borrow(), Hardness::Hard).await })
    }

    fn soften<'a>(&'a self, scope: Scope<'a>) -> BoxFuture<'a, Result<(), StoreError>> {
        let (store, scope) = (self.clone(), scope.to_owned());
        self.whatever_becomes_of_the_caller(async move { store.deliver(scope.borrow(), Hardness::Soft).await })
    }

    fn delete_matching<'a>(&'a self, pattern: &'a Pattern) -> BoxFuture<'a, Result<u64, StoreError>> {
        let (store, pattern) = (self.clone(), pattern.clone());
        self.whatever_becomes_of_the_caller(async move { store.delete_pattern(&pattern).await })
    }

    fn get_many<'a>(&'a self, keys: &'a [Key]) -> BoxFuture<'a, Vec<Result<Lookup, StoreError>>> {
        Box::pin(self.lookup_many(keys))
    }

    fn put<'a>(&'a self, entries: Vec<(Key, Entry)>, tags: &'a Tags) -> BoxFuture<'a, Result<(), StoreError>> {
        let (store, tags) = (self.clone(), tags.clone());
        self.whatever_becomes_of_the_caller(async move { store.put_many(entries, &tags).await })
    }
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore").field("routes", &self.0.routes).finish_non_exhaustive()
    }
}
