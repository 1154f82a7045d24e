//! A store in this process: bounded by bytes, with an admission policy that keeps what is asked for.

use std::{
    collections::HashMap,
    fmt,
    future::ready,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use moka::{policy::EvictionPolicy, sync::Cache as Moka};
use tokio::sync::Notify;

use super::{
    Acquired, BoxFuture, Committed, Contract, Fill, Lease, Lookup, Scope, Seen, Store, StoreError, shelf::Shelf,
};
use crate::{
    entry::Entry,
    key::{Key, KeyId},
    tag::{Stamp, Tags, Token, hex},
    telemetry::Rejection,
};

/// A store in this process, bounded by bytes (TinyLFU: what is asked for often stays). Cheap to clone; clones are one
/// store.
///
/// ```
/// use cache_layer::{Cache, store::MemoryStore};
///
/// let cache = Cache::new(MemoryStore::new(64 * 1024 * 1024));
/// ```
#[derive(Clone)]
pub struct MemoryStore(Arc<Inner>);

struct Inner {
    entries: Shelf,
    tokens: Moka<Arc<str>, Token>,
    /// Until when a key is loaded without waiting for one another.
    uncacheable: Moka<KeyId, Instant>,
    fills: Mutex<Fills>,
    /// A lease ended.
    ended: Notify,
}

/// Who may write. Commits and invalidations go through its lock, one at a time; reads never do.
#[derive(Default)]
struct Fills {
    /// The tokens of the leases that are held.
    leases: HashMap<KeyId, [u8; 16]>,
    /// The store's clock: counts leases and invalidations.
    now: u64,
    /// When a tag was last invalidated: what a load must be younger than to trust that an absent token means
    /// "never invalidated" and not "forgotten".
    last_invalidation: u64,
}

impl Fills {
    fn tick(&mut self) -> u64 {
        self.now += 1;
        self.now
    }

    fn holds(&self, lease: &Lease) -> bool {
        self.leases.get(&lease.key.id()) == Some(&lease.token)
    }

    fn end(&mut self, lease: &Lease) {
        if self.holds(lease) {
            self.leases.remove(&lease.key.id());
        }
    }
}

/// Keys that are remembered as uncacheable at one time.
const UNCACHEABLE_CAP: u64 = 10_000;

impl MemoryStore {
    /// A store that holds about `max_bytes` bytes of entries: bodies, header fields, keys, tags, and 256 bytes of
    /// bookkeeping each. An entry above that size is not kept.
    #[must_use]
    pub fn new(max_bytes: u64) -> Self {
        let entries = Shelf::new(max_bytes);
        let tokens = Moka::builder()
            .max_capacity((max_bytes / 4).max(1 << 20))
            .weigher(|tag: &Arc<str>, _| u32::try_from(tag.len() + 128).unwrap_or(u32::MAX))
            .eviction_policy(EvictionPolicy::lru())
            .build();
        let uncacheable = Moka::new(UNCACHEABLE_CAP);
        Self(Arc::new(Inner { entries, tokens, uncacheable, fills: Mutex::default(), ended: Notify::new() }))
    }

    /// Bytes that the entries take at this moment, near enough.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.entries.bytes()
    }
}

#[cfg(test)]
impl MemoryStore {
    /// As if memory had been short.
    pub(super) fn lose_token(&self, tag: &str) {
        assert!(self.0.tokens.remove(tag).is_some());
    }
}

impl Inner {
    fn fills(&self) -> MutexGuard<'_, Fills> {
        // Nothing panics under this lock, and what it guards is whole after every statement.
        self.fills.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lookup(&self, key: &Key) -> Lookup {
        let Some((entry, _)) = self.entries.get(key.id()) else {
            return Lookup::Absent;
        };
        if !entry.is_of(key) {
            return Lookup::Rejected(Rejection::Key);
        }
        let current = |stamp: &Stamp| self.tokens.get(&stamp.tag) == Some(stamp.token);
        if entry.stamps().iter().all(current) { Lookup::Found(entry) } else { Lookup::Rejected(Rejection::Tag) }
    }

    fn acquire(&self, key: &Key, seen: Seen) -> Acquired {
        let id = key.id();
        if self.uncacheable.get(&id).is_some_and(|until| Instant::now() < until) {
            return Acquired::Uncacheable;
        }
        let mut fills = self.fills();
        let found = self.entries.get(id).map(|(entry, _)| entry.id());
        let changed = match seen {
            Seen::Nothing => found.is_some(),
            Seen::Entry(entry) => found != Some(entry),
            Seen::Unusable => false,
        };
        if changed {
            return Acquired::Changed;
        }
        if fills.leases.contains_key(&id) {
            return Acquired::Held;
        }
        let token = Lease::random_token();
        fills.leases.insert(id, token);
        Acquired::Granted(Lease::new(key, token, hex(fills.tick())))
    }

    fn commit(&self, Fill { lease, writes, tags }: &Fill) -> Committed {
        let mut fills = self.fills();
        if !fills.holds(lease) {
            return Committed::Refused;
        }
        fills.end(lease);
        if let Some((key, id)) = &writes.guard
            && self.entries.get(key.id()).map(|(entry, _)| entry.id()) != Some(*id)
        {
            return Committed::Refused;
        }
        let mut stamps = Vec::with_capacity(tags.as_slice().len());
        for tag in tags.as_slice() {
            let token = match self.tokens.get(tag) {
                Some(token) if token.overtook(&lease.started) => return Committed::Refused,
                Some(token) => token,
                None if hex(fills.last_invalidation) >= lease.started => return Committed::Refused,
                None => {
                    let token = Token::created(fills.tick());
                    self.tokens.insert(tag.clone(), token);
                    token
                }
            };
            stamps.push(Stamp { tag: tag.clone(), token });
        }
        for (key, entry) in &writes.entries {
            self.entries.insert(key.id(), entry.stamped(stamps.clone()), 0);
        }
        Committed::Stored
    }

    fn invalidate(&self, scope: Scope<'_>) {
        let mut fills = self.fills();
        match scope {
            Scope::Key(key) => {
                // Variants are reached through the primary entry alone, and theirs compare it when they commit.
                let primary = key.primary().id();
                fills.leases.remove(&primary);
                self.entries.remove(primary);
            }
            Scope::Tags(tags) => {
                let now = fills.tick();
                fills.last_invalidation = now;
                for tag in tags.as_slice() {
                    self.tokens.insert(tag.clone(), Token::invalidated(now));
                }
            }
            Scope::Everything => {
                fills.leases.clear();
                self.entries.empty();
            }
        }
    }

    fn put(&self, entries: Vec<(Key, Entry)>, tags: &Tags) {
        let mut fills = self.fills();
        let stamps: Vec<Stamp> = tags
            .as_slice()
            .iter()
            .map(|tag| {
                let token = self.tokens.get(tag).unwrap_or_else(|| {
                    let token = Token::created(fills.tick());
                    self.tokens.insert(tag.clone(), token);
                    token
                });
                Stamp { tag: tag.clone(), token }
            })
            .collect();
        for (key, entry) in entries {
            fills.leases.remove(&key.id());
            self.entries.insert(key.id(), entry.stamped(stamps.clone()), 0);
        }
    }
}

impl Store for MemoryStore {}

impl Contract for MemoryStore {
    fn peek(&self, key: &Key) -> Option<Entry> {
        match self.0.lookup(key) {
            Lookup::Found(entry) => Some(entry),
            Lookup::Absent | Lookup::Rejected(_) => None,
        }
    }

    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Lookup, StoreError>> {
        Box::pin(ready(Ok(self.0.lookup(key))))
    }

    fn acquire<'a>(&'a self, key: &'a Key, seen: Seen, _: Duration) -> BoxFuture<'a, Result<Acquired, StoreError>> {
        Box::pin(ready(Ok(self.0.acquire(key, seen))))
    }

    fn renew<'a>(&'a self, lease: &'a Lease, _: Duration) -> BoxFuture<'a, Result<bool, StoreError>> {
        Box::pin(ready(Ok(self.0.fills().holds(lease))))
    }

    fn commit<'a>(&'a self, fill: &'a Fill) -> BoxFuture<'a, Result<Committed, StoreError>> {
        let committed = self.0.commit(fill);
        self.0.ended.notify_waiters();
        Box::pin(ready(Ok(committed)))
    }

    fn release(&self, lease: &Lease, uncacheable: Option<Duration>) {
        let mut fills = self.0.fills();
        if let Some(duration) = uncacheable.filter(|_| fills.holds(lease)) {
            self.0.uncacheable.insert(lease.key.id(), Instant::now() + duration);
        }
        fills.end(lease);
        drop(fills);
        self.0.ended.notify_waiters();
    }

    fn changed<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, ()> {
        let id = key.id();
        Box::pin(async move {
            let mut ended = std::pin::pin!(self.0.ended.notified());
            ended.as_mut().enable();
            if self.0.fills().leases.contains_key(&id) {
                ended.await;
            }
        })
    }

    fn invalidate<'a>(&'a self, scope: Scope<'a>) -> BoxFuture<'a, Result<(), StoreError>> {
        self.0.invalidate(scope);
        self.0.ended.notify_waiters();
        Box::pin(ready(Ok(())))
    }

    fn get_many<'a>(&'a self, keys: &'a [Key]) -> BoxFuture<'a, Vec<Result<Lookup, StoreError>>> {
        Box::pin(ready(keys.iter().map(|key| Ok(self.0.lookup(key))).collect()))
    }

    fn put<'a>(&'a self, entries: Vec<(Key, Entry)>, tags: &'a Tags) -> BoxFuture<'a, Result<(), StoreError>> {
        self.0.put(entries, tags);
        self.0.ended.notify_waiters();
        Box::pin(ready(Ok(())))
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (entries, bytes) = self.0.entries.size();
        f.debug_struct("MemoryStore").field("entries", &entries).field("bytes", &bytes).finish_non_exhaustive()
    }
}
