//! A store that a fleet of processes shares, on Redis >= 7.0 or Valkey >= 7.2.
//!
//! - [`names`]: what the keys are called
//! - [`lookup`]: reading entries, and whether their tags still hold
//! - [`lease`]: the right to load
//! - [`commit`]: writing what was loaded
//! - [`invalidate`]: voiding entries
//! - [`scripts`]: what of this runs on the server
//! - [`link`]: one connection, its keeper, and the breaker
//! - [`tokens`]: tag tokens known to a connection, kept right by server-assisted tracking
//! - [`near`]: entries known to a connection, in the same way, for the tiered store
//! - [`pending`]: invalidations that could not be delivered yet
//! - [`config`]: settings and their limits

use std::{
    fmt,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use futures_util::future::select_all;
use redis::{Client, aio::MultiplexedConnection};
use tokio::runtime::Handle;
use tokio_util::sync::{CancellationToken, DropGuard};

use self::{
    invalidate::invalidate,
    link::{Link, Timeouts},
    names::Names,
    pending::Pending,
};
use super::{Acquired, BoxFuture, Committed, Contract, Fill, Lease, Lookup, Scope, Seen, Store, StoreError};
use crate::{entry::Entry, key::Key};

#[cfg(test)]
mod coherence_tests;
mod commit;
mod config;
#[cfg(test)]
mod fleet_tests;
mod invalidate;
mod lease;
mod link;
mod lookup;
mod names;
mod near;
mod pending;
#[cfg(test)]
mod schedule_tests;
mod scripts;
mod tokens;

pub use config::RedisStoreBuilder;
pub(super) use near::Near;

/// The first tier of this store, once there is one.
type NearSlot = Arc<OnceLock<Arc<Near>>>;

/// The tag that every entry here carries: its new token voids them all. No tag of a user's is empty.
const EVERYTHING: &str = "";
/// The least life of a tag's token. An entry that outlives its token becomes a miss, so it is renewed with every fill.
const TOKEN_LIFE: Duration = Duration::from_secs(24 * 60 * 60);

/// A store on a Redis or Valkey server. Cheap to clone; clones share their connections.
///
/// No request ever waits for a connection: while there is none, look-ups miss at once and nothing is stored.
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
    links: Vec<Arc<Link>>,
    names: Names,
    pending: Arc<Pending>,
    near: NearSlot,
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
    /// The memory that the server uses, as it says it, such as `1.05M`.
    pub used_memory_human: Option<String>,
    /// Clients connected to the server.
    pub connected_clients: Option<u64>,
    /// Why there is no answer.
    pub error: Option<String>,
}

impl RedisStore {
    /// Settings of a store at `url`: `redis://` or, with the feature `tls`, `rediss://`, then
    /// `[user[:password]@]host[:port][/db]`; or `unix:///path[?db=N&user=…&pass=…]`.
    pub fn builder(url: impl Into<String>) -> RedisStoreBuilder {
        RedisStoreBuilder::new(url.into())
    }

    fn start(client: &Client, prefix: &str, connections: usize, timeouts: Timeouts, runtime: &Handle) -> Self {
        let names = Names::new(prefix);
        let stop = CancellationToken::new();
        let pending = Arc::new(Pending::default());
        let near = NearSlot::default();
        let links: Vec<_> = (0..connections)
            .map(|_| Link::new(client.clone(), names.clone(), pending.clone(), near.clone(), timeouts))
            .collect();
        for link in &links {
            runtime.spawn(link.clone().keep(stop.clone()));
        }
        Self(Arc::new(Inner { links, names, pending, near, runtime: runtime.clone(), _stop: stop.drop_guard() }))
    }

    /// Whether there is a connection that is believed to work.
    #[must_use]
    pub fn connected(&self) -> bool {
        self.0.links.iter().any(|link| link.is_live())
    }

    /// Waits, at most for `timeout`, until there is a connection. Nothing needs to call this: it is for a start-up that
    /// wants to say whether Redis is there.
    pub async fn wait_connected(&self, timeout: Duration) -> bool {
        let any = select_all(self.0.links.iter().map(|link| Box::pin(link.wait_connected())));
        tokio::time::timeout(timeout, any).await.is_ok()
    }

    /// Asks the server how it is; never waits longer than the operation timeout, or a second if that is longer.
    pub async fn status(&self) -> RedisStatus {
        let ask = async {
            let link = self.any_link();
            let live = link.live()?;
            let begun = Instant::now();
            link.run_patiently(&live, async |mut connection: MultiplexedConnection| {
                redis::cmd("PING").query_async::<()>(&mut connection).await
            })
            .await?;
            let ping = begun.elapsed();
            let info: String = link
                .run_patiently(&live, async |mut connection: MultiplexedConnection| {
                    redis::cmd("INFO").arg("memory").arg("clients").query_async(&mut connection).await
                })
                .await?;
            let field = |name: &str| {
                info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::to_owned)
            };
            Ok::<_, StoreError>(RedisStatus {
                connected: true,
                ping: Some(ping),
                used_memory_human: field("used_memory_human"),
                connected_clients: field("connected_clients").and_then(|count| count.parse().ok()),
                error: None,
            })
        };
        ask.await.unwrap_or_else(|error| {
            let error = match error {
                StoreError::Unavailable => self.any_link().absence(),
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
        self.0.near.get()?.get(self.link(key), key)
    }

    /// The connection of `key`: always the same one, so that what is done with a key stays in order.
    fn link(&self, key: &Key) -> &Arc<Link> {
        let links = &self.0.links;
        &links[usize::from(key.id().primary[0]) % links.len()]
    }

    fn any_link(&self) -> &Arc<Link> {
        let links = &self.0.links;
        links.iter().find(|link| link.is_live()).unwrap_or(&links[0])
    }
}

/// 15 hex digits, the middle of a [`Token`].
fn chance() -> String {
    format!("{:015x}", fastrand::u64(..1 << 60))
}

impl Store for RedisStore {}

impl Contract for RedisStore {
    fn peek(&self, _: &Key) -> Option<Entry> {
        None
    }

    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Lookup, StoreError>> {
        Box::pin(self.lookup(key))
    }

    fn acquire<'a>(&'a self, key: &'a Key, seen: Seen, ttl: Duration) -> BoxFuture<'a, Result<Acquired, StoreError>> {
        Box::pin(self.acquire_lease(key, seen, ttl))
    }

    fn renew<'a>(&'a self, lease: &'a Lease, ttl: Duration) -> BoxFuture<'a, Result<bool, StoreError>> {
        Box::pin(self.renew_lease(lease, ttl))
    }

    fn commit<'a>(&'a self, fill: &'a Fill) -> BoxFuture<'a, Result<Committed, StoreError>> {
        Box::pin(self.commit_fill(fill))
    }

    fn release(&self, lease: &Lease, uncacheable: Option<Duration>) {
        self.release_lease(lease, uncacheable);
    }

    fn changed<'a>(&'a self, _: &'a Key) -> BoxFuture<'a, ()> {
        Box::pin(self.lease_may_have_ended())
    }

    fn invalidate<'a>(&'a self, scope: Scope<'a>) -> BoxFuture<'a, Result<(), StoreError>> {
        // In a task of its own: a caller that is cancelled has written what is to be invalidated all the same.
        let (store, scope) = (self.clone(), scope.to_owned());
        let delivery = self.0.runtime.spawn(async move { store.deliver(scope.borrow()).await });
        Box::pin(async move { delivery.await.unwrap_or(Err(StoreError::Unavailable)) })
    }
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore").field("links", &self.0.links).finish_non_exhaustive()
    }
}
