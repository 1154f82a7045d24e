//! Memory over Redis: what this process reads often, it keeps, and drops as soon as Redis says that it changed.

use std::{fmt, sync::Arc, time::Duration};

use super::{
    Acquired, BoxFuture, Committed, Contract, Fill, Lease, Lookup, RedisStore, Scope, Seen, Store, StoreError,
    redis::Near,
};
use crate::{entry::Entry, key::Key, tag::Tags};

/// A [`RedisStore`] with a first tier in this process: a hit there costs no round trip. Cheap to clone.
///
/// The tiers are coherent without polling: entries and tags are read with the server's tracking on, and its pushes evict
/// them. While there is no connection, the first tier is void too, since nobody could say what changed. A connection of
/// which only one half is left is noticed within two seconds.
///
/// ```no_run
/// use cache_layer::{Cache, store::{RedisStore, TieredStore}};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let redis = RedisStore::builder("redis://127.0.0.1:6379/0").build()?;
/// let cache = Cache::new(TieredStore::new(64 * 1024 * 1024, redis));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct TieredStore {
    redis: RedisStore,
    near: Arc<Near>,
}

impl TieredStore {
    /// A first tier of about `max_bytes`, counted as by [`MemoryStore`](super::MemoryStore), over `redis`.
    ///
    /// A Redis store has one first tier: made again over a clone of the same one, this is the tier that is there already.
    #[must_use]
    pub fn new(max_bytes: u64, redis: RedisStore) -> Self {
        let near = redis.near_or_init(max_bytes);
        Self { redis, near }
    }

    /// Bytes that the entries of the first tier take at this moment, near enough.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.near.bytes()
    }
}

impl Store for TieredStore {}

impl Contract for TieredStore {
    fn peek(&self, key: &Key) -> Option<Entry> {
        self.redis.near(key)
    }

    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Lookup, StoreError>> {
        self.redis.get(key)
    }

    fn acquire<'a>(&'a self, key: &'a Key, seen: Seen, ttl: Duration) -> BoxFuture<'a, Result<Acquired, StoreError>> {
        Contract::acquire(&self.redis, key, seen, ttl)
    }

    fn renew<'a>(&'a self, lease: &'a Lease, ttl: Duration) -> BoxFuture<'a, Result<bool, StoreError>> {
        self.redis.renew(lease, ttl)
    }

    fn commit<'a>(&'a self, fill: &'a Fill) -> BoxFuture<'a, Result<Committed, StoreError>> {
        Contract::commit(&self.redis, fill)
    }

    fn release(&self, lease: &Lease, uncacheable: Option<Duration>) {
        self.redis.release(lease, uncacheable);
    }

    fn changed<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, ()> {
        self.redis.changed(key)
    }

    fn invalidate<'a>(&'a self, scope: Scope<'a>) -> BoxFuture<'a, Result<(), StoreError>> {
        self.redis.invalidate(scope)
    }

    fn get_many<'a>(&'a self, keys: &'a [Key]) -> BoxFuture<'a, Vec<Result<Lookup, StoreError>>> {
        self.redis.get_many(keys)
    }

    fn put<'a>(&'a self, entries: Vec<(Key, Entry)>, tags: &'a Tags) -> BoxFuture<'a, Result<(), StoreError>> {
        self.redis.put(entries, tags)
    }
}

impl fmt::Debug for TieredStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TieredStore").field("redis", &self.redis).finish_non_exhaustive()
    }
}
