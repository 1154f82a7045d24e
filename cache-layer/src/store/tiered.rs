//! Memory over Redis: this process keeps what it reads often, and drops it as soon as Redis says that it changed.

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::runtime::Handle;

use super::{
    Acquired, Amended, BoxFuture, Committed, Estimate, Eviction, Failed, Failures, Fill, Hardness, Invalidated, Lease,
    LeaseState, LeaseToken, ListedPatterns, Lookup, Reach, RedisStore, Reserved, Scope, Seen, Store, StoreBackend,
    StoreError, SweepListener, redis::LocalTier,
};
use crate::{
    clock::Clock,
    entry::{Entry, EntryId},
    key::Key,
    pattern::Pattern,
    switches::{SwitchState, Switches},
    tag::{TagToken, Tags},
};

/// A [`RedisStore`] with a first tier in this process: a hit there costs no round trip. Cheap to clone.
///
/// The tiers are coherent without polling: entries and tags are read with the server's tracking on, and its pushes evict them.
/// Without a connection the first tier is void too, since this process would not hear of changes, unless
/// [`serve_while_disconnected`](Self::serve_while_disconnected) sets for how long that is accepted. A half-open connection is
/// noticed within two seconds, or a second after the [operation timeout](crate::store::RedisStoreBuilder::operation_timeout) if
/// that is longer.
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
    local_tier: Arc<LocalTier>,
}

impl TieredStore {
    /// A first tier of about `max_bytes`, counted as by [`MemoryStore`](super::MemoryStore), over `redis`.
    ///
    /// A Redis store has one first tier: a second call with a clone of the same Redis store returns the existing tier.
    #[must_use]
    pub fn new(max_bytes: u64, redis: RedisStore) -> Self {
        let local_tier = redis.local_tier_or_init(max_bytes);
        Self { redis, local_tier }
    }

    /// For how long after the connection was lost the first tier is still served; zero unless set, which means not at all. All
    /// tiers over the same Redis store share this setting.
    ///
    /// In that time this process does not hear what other processes invalidate. So another process's invalidation may take effect
    /// here as late as this time and the time in which a loss is noticed, which is two seconds, or a second after the operation
    /// timeout if that is longer. What this process invalidates itself is void at once, delivered or not. After that time, or with
    /// the next connection, the first tier is void.
    ///
    /// In a cluster, the connection to the server that has the tags may remain while another one is lost. Invalidations of tags, of
    /// everything, and by [pattern](crate::Cache::delete_pattern) are then heard of, and obeyed, as before. Once a pattern has been
    /// deleted, whichever it is, the entries of the lost server that are older are no longer served.
    ///
    /// ```no_run
    /// # use std::time::Duration;
    /// # use cache_layer::store::{RedisStore, TieredStore};
    /// # fn example() -> Result<(), cache_layer::ConfigError> {
    /// let redis = RedisStore::builder("redis://127.0.0.1:6379/0").build()?;
    /// let store = TieredStore::new(64 * 1024 * 1024, redis).serve_while_disconnected(Duration::from_secs(5));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn serve_while_disconnected(self, limit: Duration) -> Self {
        self.local_tier.serve_while_disconnected(limit);
        self
    }

    /// The bytes that the entries of the first tier take at this moment, as for
    /// [`MemoryStore::bytes`](super::MemoryStore::bytes).
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.local_tier.bytes()
    }

    /// The entries of the first tier at this moment, as for [`MemoryStore::entries`](super::MemoryStore::entries).
    #[must_use]
    pub fn memory_entries(&self) -> u64 {
        self.local_tier.entries()
    }

    /// The entries that left the first tier since the store was made, by reason, as for
    /// [`MemoryStore::evictions`](super::MemoryStore::evictions).
    pub fn memory_evictions(&self) -> impl Iterator<Item = (Eviction, u64)> + '_ {
        self.local_tier.evictions()
    }
}

impl Store for TieredStore {}

impl StoreBackend for TieredStore {
    fn peek(&self, key: &Key) -> Option<Entry> {
        self.redis.peek_local_tier(key)
    }

    fn keeps_additions(&self) -> bool {
        true
    }

    fn amend(&self, key: &Key, of: EntryId, amends: &dyn Fn(&Entry) -> Entry) -> Amended {
        self.local_tier.amend(key, of, amends)
    }

    fn identity(&self) -> usize {
        self.redis.identity()
    }

    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Lookup, StoreError>> {
        self.redis.get(key)
    }

    fn follow_switches(&self) -> Arc<Switches> {
        self.redis.follow_switches()
    }

    fn set_switch(&self, state: SwitchState) -> BoxFuture<'_, Result<(), StoreError>> {
        self.redis.set_switch(state)
    }

    fn audit<'a>(&'a self, record: &'a [u8]) -> BoxFuture<'a, Result<bool, StoreError>> {
        self.redis.audit(record)
    }

    fn audited<'a>(&'a self, most: usize) -> BoxFuture<'a, Result<Vec<Bytes>, StoreError>> {
        self.redis.audited(most)
    }

    fn reserve_request<'a>(
        &'a self,
        id: &'a str,
        record: &'a [u8],
        life: Duration,
    ) -> BoxFuture<'a, Result<Reserved, StoreError>> {
        self.redis.reserve_request(id, record, life)
    }

    fn record_request<'a>(
        &'a self,
        id: &'a str,
        reserved: &'a [u8],
        record: &'a [u8],
        life: Duration,
    ) -> BoxFuture<'a, Result<Reserved, StoreError>> {
        self.redis.record_request(id, reserved, record, life)
    }

    fn look<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Lookup, StoreError>> {
        self.redis.look(key)
    }

    fn leave_list<'a>(&'a self, list: &'a [u8]) -> BoxFuture<'a, Result<bool, StoreError>> {
        self.redis.leave_list(list)
    }

    fn lists<'a>(&'a self) -> BoxFuture<'a, Result<(Vec<Bytes>, usize), StoreError>> {
        self.redis.lists()
    }

    fn fetch<'a>(&'a self, keys: &'a [Key]) -> BoxFuture<'a, Vec<Result<Lookup, StoreError>>> {
        self.redis.fetch(keys)
    }

    fn on_sweep(&self, listener: &Arc<SweepListener>) {
        self.redis.on_sweep(listener);
    }

    fn keeps_what_it_reads(&self) -> bool {
        !self.local_tier.is_off() && self.redis.tracks()
    }

    fn clock(&self) -> Option<Clock> {
        StoreBackend::clock(&self.redis)
    }

    fn runtime(&self) -> Option<Handle> {
        self.redis.runtime()
    }

    fn lease_state<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<LeaseState, StoreError>> {
        self.redis.lease_state(key)
    }

    fn tag_token<'a>(&'a self, tag: &'a str) -> BoxFuture<'a, Result<Option<TagToken>, StoreError>> {
        self.redis.tag_token(tag)
    }

    fn patterns(&self) -> BoxFuture<'_, Result<ListedPatterns, StoreError>> {
        self.redis.patterns()
    }

    fn banned_by<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<String>, StoreError>> {
        self.redis.banned_by(key)
    }

    fn count<'a>(&'a self, reach: Reach<'a>) -> BoxFuture<'a, Result<Option<u64>, StoreError>> {
        StoreBackend::count(&self.redis, reach)
    }

    fn estimate<'a>(
        &'a self,
        reach: Reach<'a>,
        within: Duration,
    ) -> BoxFuture<'a, Result<Option<Estimate>, StoreError>> {
        StoreBackend::estimate(&self.redis, reach, within)
    }

    fn acquire<'a>(
        &'a self,
        key: &'a Key,
        seen: Seen,
        ttl: Duration,
        failures: Failures,
    ) -> BoxFuture<'a, Result<Acquired, StoreError>> {
        self.redis.acquire(key, seen, ttl, failures)
    }

    fn renew<'a>(&'a self, lease: &'a Lease, ttl: Duration) -> BoxFuture<'a, Result<bool, StoreError>> {
        self.redis.renew(lease, ttl)
    }

    fn is_held_by<'a>(&'a self, key: &'a Key, token: LeaseToken) -> BoxFuture<'a, Result<bool, StoreError>> {
        self.redis.is_held_by(key, token)
    }

    fn overtaken(&self, lease: &Lease) -> bool {
        self.redis.overtaken(lease)
    }

    fn commit<'a>(&'a self, fill: &'a Fill) -> BoxFuture<'a, Result<Committed, StoreError>> {
        StoreBackend::commit(&self.redis, fill)
    }

    fn release(&self, lease: &Lease, uncacheable: Option<Duration>) {
        self.redis.release(lease, uncacheable);
    }

    fn supersede<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<(), StoreError>> {
        self.redis.supersede(lease)
    }

    fn end_lease<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<(), StoreError>> {
        self.redis.end_lease(key)
    }

    fn note_write(&self, key: &Key) {
        self.redis.note_write(key);
    }

    fn fail(&self, lease: &Lease, failed: Failed) {
        self.redis.fail(lease, failed);
    }

    fn lease_ended<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, ()> {
        self.redis.lease_ended(key)
    }

    fn invalidate(&self, scope: Scope<'_>, hardness: Hardness) -> BoxFuture<'static, Result<Invalidated, StoreError>> {
        self.redis.invalidate(scope, hardness)
    }

    fn delete_matching(&self, pattern: &Pattern) -> BoxFuture<'static, Result<Invalidated, StoreError>> {
        self.redis.delete_matching(pattern)
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
