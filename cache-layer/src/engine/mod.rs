//! The cache itself, behind one handle: look up, decide who loads, fill, invalidate.
//!
//! - [`flight`]: requests of this process for one key, of which one loads
//! - [`permit`]: the right to load, its lease, and the commit
//! - [`backoff`]: failures, and how long to leave the application alone after them
//! - [`span`]: one request's look-up, and its load, as traces and observers see them
//! - [`patience`]: how long a request waits for others, and how often it asks again
//! - [`predictor`]: keys that it makes no sense to wait for
//! - [`early`]: when to refresh what is still fresh
//! - [`share`], [`growing_body`]: what others may have of a load before it has ended
//!
//! The engine knows keys, entries, their tags and their deadlines, and nothing of what they mean.

use std::{
    borrow::Cow,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use tokio_util::task::TaskTracker;

use self::{
    backoff::{Setback, Setbacks},
    flight::Flights,
    predictor::Predictor,
};
use crate::{
    clock::Clock,
    entry::Entry,
    error::InvalidateError,
    key::Key,
    pattern::Pattern,
    store::{Contract, LeaseToken, Lookup, Scope, Seen, Store, StoreError},
    tag::Tags,
    telemetry::{Counts, Event, InvalidationKind, Observer, Telemetry},
};
#[cfg(feature = "typed")]
use crate::{codec::Codec, telemetry::FillOutcome};

pub(crate) mod backoff;
pub(crate) mod early;
#[cfg(all(test, feature = "memory"))]
mod elsewhere_tests;
pub(crate) mod flight;
pub(crate) mod growing_body;
pub(crate) mod patience;
pub(crate) mod permit;
mod predictor;
pub(crate) mod share;
pub(crate) mod span;

/// Commits under way at one time, to a store outside of this process. More wait for their turn.
const COMMITS: usize = 256;

/// Bytes of entries on their way to the store, in units of [`UNIT`]: from when an answer says that it will be stored until it
/// is. A store that can't keep up is spared the newest: bodies must not pile up here.
const ON_THEIR_WAY: usize = 128 * 1024;
const UNIT: u64 = 1024;

/// A cache: one handle over one store, cheap to clone. Front ends answer from it, and applications invalidate through
/// it.
///
/// ```
/// use cache_layer::{Cache, store::MemoryStore};
///
/// # async fn example() -> Result<(), cache_layer::InvalidateError> {
/// let cache = Cache::new(MemoryStore::new(64 * 1024 * 1024));
/// cache.invalidate_tags(["product:42", "products"]).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Cache(Arc<Inner>);

struct Inner {
    store: Box<dyn Contract>,
    name: Cow<'static, str>,
    keys_in_traces: bool,
    clock: Clock,
    telemetry: Telemetry,
    lock_timeout: Duration,
    #[cfg(feature = "typed")]
    codec: Codec,
    flights: Arc<Flights>,
    predictor: Predictor,
    setbacks: Setbacks,
    /// Invalidations that began in this process: what was loaded before one and couldn't be stored isn't shared after.
    invalidations: AtomicU64,
    /// Keys whose last refresh in the background brought nothing to be stored.
    overdue: Predictor,
    abandoned_load: Duration,
    commits: Semaphore,
    on_their_way: Arc<Semaphore>,
    tasks: TaskTracker,
}

/// Settings of a [`Cache`], from [`Cache::builder`].
#[must_use = "a builder does nothing until it is built"]
pub struct CacheBuilder {
    store: Box<dyn Contract>,
    name: Cow<'static, str>,
    keys_in_traces: bool,
    clock: Clock,
    observer: Option<Arc<dyn Observer>>,
    lock_timeout: Duration,
    abandoned_load: Duration,
    #[cfg(feature = "typed")]
    codec: Codec,
}

impl CacheBuilder {
    /// How long a request waits for another one's load of the same key before it goes to the origin alone; 5 s unless set.
    /// Each request has up to a quarter less, at random, so that those who wait together don't go there together. A process
    /// that died holds others back for a third of it.
    ///
    /// A load itself may take longer, up to a minute or twelve of these timeouts. One that hangs for longer than that
    /// loses its place to the next, and is not stored; it goes on for as long as anybody waits for it or reads it.
    pub fn lock_timeout(mut self, timeout: Duration) -> Self {
        self.lock_timeout = timeout;
        self
    }

    /// How long a load goes on that nobody waits for any more, because the client has left that asked for it, or the caller;
    /// 10 s unless set. What comes within this time is stored, so that a client that comes back finds it; after that the
    /// load is dropped, in the application as well: its future, or what is left of its body. Zero means soon after.
    ///
    /// A load ends sooner once it can't be stored any more, or if a request waits for its room at the application
    /// ([`CacheLayer::max_loads`](crate::CacheLayer::max_loads)). A refresh in the background, for which nobody waits from the
    /// beginning, goes on for as long as a load keeps its place: a minute, or twelve [lock timeouts](Self::lock_timeout).
    pub fn abandoned_load(mut self, bound: Duration) -> Self {
        self.abandoned_load = bound;
        self
    }

    /// The clock that freshness is judged by; the system's unless set.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// How typed values are written; [`Codec::Json`] unless set. Values that are there already are read as they were
    /// written.
    #[cfg(feature = "typed")]
    pub fn codec(mut self, codec: Codec) -> Self {
        self.codec = codec;
        self
    }

    /// What the cache is called in traces; `cache-layer` unless set.
    pub fn name(mut self, name: impl Into<Cow<'static, str>>) -> Self {
        self.name = name.into();
        self
    }

    /// Whether traces name keys as people read them, in the field `cache.key`; unless set, they only have a digest of
    /// each, in `cache_layer.key_hash`. Keys contain what URLs contain, and traces are read by many.
    pub fn keys_in_traces(mut self, named: bool) -> Self {
        self.keys_in_traces = named;
        self
    }

    /// Is told what happens, beside the cache's own [`counts`](Cache::counts).
    pub fn observer(mut self, observer: impl Observer) -> Self {
        self.observer = Some(Arc::new(observer));
        self
    }

    /// The cache.
    #[must_use]
    pub fn build(self) -> Cache {
        #[cfg(feature = "typed")]
        let codec = self.codec;
        let Self { store, name, keys_in_traces, clock, observer, lock_timeout, abandoned_load, .. } = self;
        let tasks = TaskTracker::new();
        // So that waiting for them ends whenever there is none; it takes new ones all the same.
        tasks.close();
        Cache(Arc::new(Inner {
            store,
            name,
            keys_in_traces,
            clock,
            telemetry: Telemetry::with_observer(observer),
            lock_timeout,
            #[cfg(feature = "typed")]
            codec,
            flights: Arc::default(),
            predictor: Predictor::default(),
            setbacks: Setbacks::default(),
            invalidations: AtomicU64::new(0),
            overdue: Predictor::default(),
            abandoned_load,
            commits: Semaphore::new(COMMITS),
            on_their_way: Arc::new(Semaphore::new(ON_THEIR_WAY)),
            tasks,
        }))
    }
}

impl fmt::Debug for CacheBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheBuilder")
            .field("store", &self.store)
            .field("lock_timeout", &self.lock_timeout)
            .field("abandoned_load", &self.abandoned_load)
            .finish_non_exhaustive()
    }
}

/// What a look-up brought.
pub(crate) enum Looked {
    Found(Entry),
    Missing(Seen),
    /// The store did not answer; this request should not ask it again.
    Unavailable,
}

impl Cache {
    /// A cache over `store`, with default settings.
    pub fn new(store: impl Store) -> Self {
        Self::builder(store).build()
    }

    /// Settings of a cache over `store`.
    pub fn builder(store: impl Store) -> CacheBuilder {
        CacheBuilder {
            store: Box::new(store),
            name: Cow::Borrowed("cache-layer"),
            keys_in_traces: false,
            clock: Clock::system(),
            observer: None,
            lock_timeout: Duration::from_secs(5),
            abandoned_load: Duration::from_secs(10),
            #[cfg(feature = "typed")]
            codec: Codec::default(),
        }
    }

    /// Voids the entry of `key`, with all its variants. [`CacheLayer::key`](crate::CacheLayer::key) tells the key of a URI.
    ///
    /// Once this returned, no load that began before it becomes visible any more.
    ///
    /// # Errors
    ///
    /// If the store could not be reached: see [`InvalidateError`].
    pub async fn invalidate(&self, key: &Key) -> Result<(), InvalidateError> {
        self.invalidate_scope(Scope::Key(key)).await
    }

    /// Voids every entry that carries `tag`, at the cost of one small write.
    ///
    /// # Errors
    ///
    /// As for [`invalidate`](Self::invalidate).
    pub async fn invalidate_tag(&self, tag: &str) -> Result<(), InvalidateError> {
        self.invalidate_tags([tag]).await
    }

    /// Voids every entry that carries one of `tags`, in one round trip.
    ///
    /// # Errors
    ///
    /// As for [`invalidate`](Self::invalidate).
    pub async fn invalidate_tags<T: AsRef<str>>(
        &self,
        tags: impl IntoIterator<Item = T>,
    ) -> Result<(), InvalidateError> {
        let tags = Tags::new(tags);
        if tags.is_empty() {
            return Ok(());
        }
        self.invalidate_scope(Scope::Tags(&tags)).await
    }

    /// Voids every entry.
    ///
    /// # Errors
    ///
    /// As for [`invalidate`](Self::invalidate).
    pub async fn invalidate_all(&self) -> Result<(), InvalidateError> {
        self.invalidate_scope(Scope::Everything).await
    }

    /// Makes the entry of `key`, with all its variants, stale at once: it is used as if its freshness had ended now, for
    /// no longer than it may be used stale, while it is loaded again; where it may not be used stale, it is validated
    /// first. Its validators are kept, so that the application may answer that nothing has changed.
    ///
    /// Loads that began before are dealt with as by [`invalidate`](Self::invalidate). The first variant that is loaded
    /// again voids the other ones.
    ///
    /// # Errors
    ///
    /// As for [`invalidate`](Self::invalidate); what is kept to be retried is a hard invalidation.
    pub async fn soft_invalidate(&self, key: &Key) -> Result<(), InvalidateError> {
        self.soften_scope(Scope::Key(key)).await
    }

    /// Makes every entry that carries `tag` stale, as [`soft_invalidate`](Self::soft_invalidate) does, at the cost of one
    /// small write.
    ///
    /// ```
    /// # use cache_layer::{Cache, store::MemoryStore};
    /// # async fn example() -> Result<(), cache_layer::InvalidateError> {
    /// # let cache = Cache::new(MemoryStore::new(64 * 1024 * 1024));
    /// // Prices may be some seconds old: nobody has to wait for the new ones.
    /// cache.soft_invalidate_tag("prices").await?;
    /// // A withdrawn product may not be shown again.
    /// cache.invalidate_tag("product:42").await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`soft_invalidate`](Self::soft_invalidate).
    pub async fn soft_invalidate_tag(&self, tag: &str) -> Result<(), InvalidateError> {
        self.soft_invalidate_tags([tag]).await
    }

    /// Makes every entry that carries one of `tags` stale, in one round trip.
    ///
    /// # Errors
    ///
    /// As for [`soft_invalidate`](Self::soft_invalidate).
    pub async fn soft_invalidate_tags<T: AsRef<str>>(
        &self,
        tags: impl IntoIterator<Item = T>,
    ) -> Result<(), InvalidateError> {
        let tags = Tags::new(tags);
        if tags.is_empty() {
            return Ok(());
        }
        self.soften_scope(Scope::Tags(&tags)).await
    }

    /// Makes every entry stale.
    ///
    /// # Errors
    ///
    /// As for [`soft_invalidate`](Self::soft_invalidate).
    pub async fn soft_invalidate_all(&self) -> Result<(), InvalidateError> {
        self.soften_scope(Scope::Everything).await
    }

    /// Deletes every entry whose key matches `pattern`, with its variants, and tells how many keys had one; what tags had
    /// voided counts as long as it is there.
    ///
    /// A key is compared as people read it: its parts one after another, so `Key::new(["products:", "list:", "2"])` is
    /// matched by `products:list:*`, and the responses of a host by `http://shop.example/*`, behind the layer's
    /// [`space`](crate::CacheLayer::space) if it has one. `https://` in a pattern means `http://` as well, since layers keep
    /// the responses of both there, unless they have [`schemes_apart`](crate::CacheLayer::schemes_apart). Of a key, what is not printable ASCII, and `{ } % * [ ] \`, stand
    /// there as `%` and two upper-case hex digits.
    ///
    /// | in a pattern | matches |
    /// |---|---|
    /// | `*` | anything, also nothing |
    /// | `?` | any one character |
    /// | `[abc]`, `[a-z]`, `[^a]` | one of these; one that is not |
    /// | `\` | the next character itself |
    ///
    /// This looks at the name of every key, in small steps that leave the store time for others: it takes seconds where
    /// there are millions. A tag does the same at once. Once it returned, nothing that matches and was loaded before the
    /// call is served; what is loaded during the call may be deleted as well. It goes on if its caller doesn't wait.
    ///
    /// ```
    /// use cache_layer::{Cache, store::MemoryStore};
    ///
    /// # async fn example() -> Result<(), cache_layer::InvalidateError> {
    /// let cache = Cache::new(MemoryStore::new(64 * 1024 * 1024));
    /// let deleted = cache.delete_pattern("products:list:*").await?;
    /// println!("{deleted} lists will be loaded again");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`invalidate`](Self::invalidate). Redis users need the permission to `SCAN`; without it, everything is
    /// invalidated, and nothing counted.
    pub async fn delete_pattern(&self, pattern: &str) -> Result<u64, InvalidateError> {
        self.0.invalidations.fetch_add(1, Ordering::SeqCst);
        let mut deleted = self.0.store.delete_matching(&Pattern::new(pattern)).await;
        if let Some(pattern) = under_http(pattern) {
            let more = self.0.store.delete_matching(&Pattern::new(&pattern)).await;
            deleted = deleted.and_then(|deleted| Ok(deleted + more?));
        }
        self.0.setbacks.forget_all();
        self.delivered(deleted, InvalidationKind::Pattern, false)
    }

    async fn invalidate_scope(&self, scope: Scope<'_>) -> Result<(), InvalidateError> {
        self.0.invalidations.fetch_add(1, Ordering::SeqCst);
        let result = self.0.store.invalidate(scope).await;
        match scope {
            Scope::Key(key) => self.0.setbacks.forget(key),
            Scope::Everything => {
                self.0.setbacks.forget_all();
                self.0.predictor.forget_all();
            }
            Scope::Tags(_) => {}
        }
        self.delivered(result, scope.into(), false)
    }

    async fn soften_scope(&self, scope: Scope<'_>) -> Result<(), InvalidateError> {
        self.0.invalidations.fetch_add(1, Ordering::SeqCst);
        self.delivered(self.0.store.soften(scope).await, scope.into(), true)
    }

    fn delivered<T>(
        &self,
        result: Result<T, StoreError>,
        kind: InvalidationKind,
        soft: bool,
    ) -> Result<T, InvalidateError> {
        self.emit(Event::Invalidation { kind, soft, delivered: result.is_ok() });
        result.map_err(InvalidateError::from)
    }

    /// Waits until loads that are under way have ended and their entries are stored, at most for `timeout`; `true` if
    /// all have. For an orderly shutdown, once no request comes in any more. Invalidations that could not be delivered are
    /// not waited for: nobody knows for how long.
    pub async fn drain(&self, timeout: Duration) -> bool {
        tokio::time::timeout(timeout, self.0.tasks.wait()).await.is_ok()
    }

    /// Keys that this process is loading at this moment.
    #[must_use]
    pub fn loads_in_flight(&self) -> usize {
        self.0.flights.count()
    }

    /// What happened since the cache was built.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.0.telemetry.counts()
    }

    pub(crate) fn emit(&self, event: Event) {
        self.0.telemetry.emit(event);
    }

    pub(crate) fn now(&self) -> u64 {
        self.0.clock.now()
    }

    pub(crate) fn lock_timeout(&self) -> Duration {
        self.0.lock_timeout
    }

    /// How long a lease holds others back unless it is renewed. Well below their patience: they must still be waiting
    /// when it runs out, and for the load of the one that takes it next.
    pub(crate) fn lease_life(&self) -> Duration {
        self.0.lock_timeout / 3
    }

    pub(crate) fn flights(&self) -> &Arc<Flights> {
        &self.0.flights
    }

    /// Runs `task` to its end whatever becomes of its caller; [`drain`](Self::drain) waits for it.
    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> tokio::task::JoinHandle<T> {
        // In a box from here on: a runtime moves what it is given several times, and a load's future is large.
        self.0.tasks.spawn(Box::pin(task))
    }

    /// Whether what one of the two loads is stored for the other one, as far as this process can tell.
    pub(crate) fn shares_with(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0.store.identity() == other.0.store.identity()
    }

    /// Whether the lease of this token is held on `key`; `None` if the store doesn't say.
    pub(crate) async fn is_held_by(&self, key: &Key, token: LeaseToken) -> Option<bool> {
        self.0.store.is_held_by(key, token).await.ok()
    }

    /// The entry of `key`, if this process has it in memory.
    pub(crate) fn peek(&self, key: &Key) -> Option<Entry> {
        self.0.store.peek(key).map(|entry| entry.seen_at(|| self.now()))
    }

    /// The entry of `key`.
    pub(crate) async fn look_up(&self, key: &Key) -> Looked {
        let found = self.0.store.get(key).await;
        self.looked(found)
    }

    fn looked(&self, found: Result<Lookup, StoreError>) -> Looked {
        match found {
            Ok(Lookup::Found(entry)) => Looked::Found(entry.seen_at(|| self.now())),
            Ok(Lookup::Absent) => Looked::Missing(Seen::Nothing),
            Ok(Lookup::Rejected(rejection, seen)) => {
                self.emit(Event::Rejected(rejection));
                Looked::Missing(seen)
            }
            Err(error) => {
                tracing::debug!(%error, "look-up failed");
                self.emit(Event::StoreUnavailable);
                Looked::Unavailable
            }
        }
    }

    /// Whether a response for this primary key could not be kept lately.
    pub(crate) fn is_uncacheable(&self, key: &Key) -> bool {
        self.0.predictor.has(key)
    }

    /// The failure that the key backs off from, as far as this process remembers.
    pub(crate) fn setback(&self, key: &Key) -> Option<Setback> {
        self.0.setbacks.get(key)
    }

    /// The entries of `keys`, in their order, at the cost of one.
    #[cfg(feature = "typed")]
    pub(crate) async fn look_up_many(&self, keys: &[Key]) -> Vec<Looked> {
        self.0.store.get_many(keys).await.into_iter().map(|found| self.looked(found)).collect()
    }

    /// Stores what no load stands behind, over whatever is there or being loaded.
    #[cfg(feature = "typed")]
    pub(crate) async fn put(&self, entries: Vec<(Key, Entry)>, tags: &Tags) -> Result<(), StoreError> {
        self.0.invalidations.fetch_add(1, Ordering::SeqCst);
        entries.iter().for_each(|(key, _)| self.0.setbacks.forget(key));
        let sizes: Vec<u64> = entries.iter().map(|(_, entry)| entry.payload().len() as u64).collect();
        let result = self.0.store.put(entries, tags).await;
        for bytes in sizes {
            match result {
                Ok(()) => {
                    self.emit(Event::Fill(FillOutcome::Stored));
                    self.emit(Event::Kept { bytes });
                }
                Err(StoreError::Full) => self.emit(Event::Fill(FillOutcome::Full)),
                Err(_) => self.emit(Event::Fill(FillOutcome::Unavailable)),
            }
        }
        result
    }

    #[cfg(feature = "typed")]
    pub(crate) fn codec(&self) -> Codec {
        self.0.codec
    }

    /// Room for so many bytes on their way to the store, if there is.
    fn room_for(&self, bytes: u64) -> Option<OwnedSemaphorePermit> {
        self.0.on_their_way.clone().try_acquire_many_owned(units(bytes)).ok()
    }

    /// Waits for room for so many bytes, of which there is some already, and for a turn to commit them.
    async fn turn_to_commit(
        &self,
        room: Option<OwnedSemaphorePermit>,
        bytes: u64,
    ) -> (Option<OwnedSemaphorePermit>, Option<SemaphorePermit<'_>>) {
        // The semaphores are never closed.
        let room = match room {
            Some(room) if room.num_permits() >= units(bytes) as usize => Some(room),
            // Nobody waits for more while holding some: all could, and none would ever get it.
            less => {
                drop(less);
                self.0.on_their_way.clone().acquire_many_owned(units(bytes)).await.ok()
            }
        };
        (room, self.0.commits.acquire().await.ok())
    }

    fn invalidations(&self) -> u64 {
        self.0.invalidations.load(Ordering::SeqCst)
    }
}

/// The pattern that matches what layers keep of the URIs under `https` that this one matches, if it names that scheme.
fn under_http(pattern: &str) -> Option<String> {
    let (before, after) = pattern.split_once("://")?;
    before.strip_suffix("https").map(|space| format!("{space}http://{after}"))
}

/// One that is larger than there is room for has all of it.
fn units(bytes: u64) -> u32 {
    bytes.div_ceil(UNIT).min(ON_THEIR_WAY as u64) as u32
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache").field("store", &self.0.store).field("counts", &self.counts()).finish_non_exhaustive()
    }
}
