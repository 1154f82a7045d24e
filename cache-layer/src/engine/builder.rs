//! Settings of a cache.

use std::{
    borrow::Cow,
    fmt,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use tokio::sync::Semaphore;

#[cfg(feature = "typed")]
use super::verifier::Verifier;
use super::{
    backoff::RecentFailures,
    cache::{COMMITS, Cache, Inner, ON_THEIR_WAY},
    doorkeeper::Doorkeeper,
    hot::HotSet,
    load_limit::LoadLimit,
    recent_keys::RecentKeys,
};
use crate::{
    clock::Clock,
    store::{Store, StoreBackend},
    telemetry::{Observer, Telemetry},
};
#[cfg(feature = "typed")]
use crate::{
    codec::{Chosen, Codec},
    policy::Verify,
};

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
            clock: None,
            observer: None,
            lock_timeout: Duration::from_secs(5),
            abandoned_load: Duration::from_secs(10),
            load_limit: LoadLimit::default(),
            has_switches: false,
            hot_keys: 0,
            second_sight: None,
            #[cfg(feature = "typed")]
            codec: Chosen::default(),
            #[cfg(feature = "typed")]
            verifier: None,
        }
    }
}

/// Settings of a [`Cache`], from [`Cache::builder`].
#[must_use = "a builder does nothing until it is built"]
pub struct CacheBuilder {
    store: Box<dyn StoreBackend>,
    name: Cow<'static, str>,
    keys_in_traces: bool,
    clock: Option<Clock>,
    observer: Option<Arc<dyn Observer>>,
    lock_timeout: Duration,
    abandoned_load: Duration,
    load_limit: LoadLimit,
    has_switches: bool,
    hot_keys: usize,
    second_sight: Option<Duration>,
    #[cfg(feature = "typed")]
    codec: Chosen,
    #[cfg(feature = "typed")]
    verifier: Option<Verifier>,
}

impl CacheBuilder {
    /// How long a request waits for another one's load of the same key before it goes to the origin alone; 5 s unless set.
    /// Each request has up to a quarter less, at random, so that requests that wait together don't go there together. A process
    /// that died holds others back for a third of it.
    ///
    /// A load itself may take longer, up to a minute or twelve of these timeouts. One that hangs for longer than that
    /// loses its place to the next, and is not stored; it goes on for as long as a request waits for it or reads it.
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

    /// The most loads that run at one time, at least 1, of responses and of values together; without a limit unless set. It
    /// protects what stands behind the cache, such as a database, from the day the cache is lost.
    ///
    /// It holds for this process, over all clones of the cache and all layers with it. For responses it is as if each layer had it
    /// as its [own limit](crate::CacheLayer::max_loads), which may be lower. One load of a value more waits, first come, first
    /// served, for as long as a load keeps its place, a minute or twelve [lock timeouts](Self::lock_timeout); then it goes
    /// ahead. So no call fails for want of a place, unless it has a [`hard_timeout`](crate::GetOrLoad::hard_timeout); it has a
    /// stale value sooner by a [`soft_timeout`](crate::GetOrLoad::soft_timeout). A refresh in the background waits for nothing: if
    /// there is no place, it is left to a later call.
    ///
    /// What a load itself loads, in its own task, is part of it: a handler that asks for values needs no place for them.
    ///
    /// ```
    /// use cache_layer::{Cache, store::MemoryStore};
    ///
    /// // Never more than forty connections to the database.
    /// let cache = Cache::builder(MemoryStore::new(64 * 1024 * 1024)).max_loads(40).build();
    /// ```
    pub fn max_loads(mut self, most: usize) -> Self {
        self.load_limit = LoadLimit::new(most);
        self
    }

    /// Which share of the hits of typed values is verified, none unless set: their load runs again in the background, the bytes of
    /// the value are compared, and [`Event::Verified`](crate::telemetry::Event::Verified) says what came of it. As
    /// [`CacheLayer::verify`](crate::CacheLayer::verify), which is for responses; what the load itself asks the cache for is answered
    /// as ever, so that only what it reads beyond that is verified.
    ///
    /// ```
    /// use cache_layer::{Cache, store::MemoryStore};
    ///
    /// let cache = Cache::builder(MemoryStore::new(64 * 1024 * 1024)).verify(0.001).build();
    /// ```
    #[cfg(feature = "typed")]
    pub fn verify(mut self, verify: impl Into<Verify>) -> Self {
        self.verifier = Verifier::new(&verify.into());
        self
    }

    /// The clock that freshness is judged by. Unless set, it is the server's for a store on Redis whose entries are not sealed, so that
    /// all processes have one, whatever their machines' clocks say; otherwise the system's.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = Some(clock);
        self
    }

    /// How typed values are written; [`Json`](crate::codec::Json) unless set. Values that are there already are read as they
    /// were written, if that was by this codec or by one that comes with the library.
    #[cfg(feature = "typed")]
    pub fn codec(mut self, codec: impl Codec) -> Self {
        self.codec.set_codec(codec);
        self
    }

    /// The number of what typed values mean, to be counted up when types change so that old values would be read, but as
    /// something else; 0 unless set. A value of another number is a miss, for the reason
    /// [`schema`](crate::telemetry::Rejection::Schema), and stays until it is loaded anew.
    ///
    /// It is for all values of a cache: while processes of two numbers run, each replaces what the other one has stored. Where
    /// that is too much, a number in the key keeps them apart, as the `schema` of
    /// [`#[cached]`](https://docs.rs/cache-layer/latest/cache_layer/attr.cached.html#settings) does for one function.
    #[cfg(feature = "typed")]
    pub fn schema(mut self, schema: u32) -> Self {
        self.codec.set_schema(schema);
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

    /// Whether an operator may turn things off for a while ([`Cache::switch`]), in this process and in all that share its Redis and
    /// prefix; not unless set. To be set before a layer is made of the cache. Each request is asked for it then.
    pub fn switches(mut self, on: bool) -> Self {
        self.has_switches = on;
        self
    }

    /// Stores what is loaded only from the second load of its key on, unless the load took at least so long; unless set,
    /// everything is stored at once. For a Redis that is full of what was asked for once: in traces of shops and feeds, that is most
    /// keys. A memory store needs none, and has none.
    ///
    /// - *A second load* is one that this process has had before, by a filter of the last 50,000 to 100,000 keys in 128 KiB, which takes
    ///   one key in a hundred for another. So is a load whose key another process was loading when it was asked for, one that others wait
    ///   for in this process, and one for which an entry is there, though it may be void.
    /// - *Within a process*, requests that wait for the load share what it brings, as ever. *In the fleet*, what is stored nowhere is
    ///   loaded again: by each process once before it may store it, or twice in all where they ask at the same time.
    /// - A response that isn't stored says so by `detail=first-sight` in `Cache-Status`
    ///   ([`NoCacheReason::FirstSight`](crate::telemetry::NoCacheReason::FirstSight)); each is a fill with the outcome
    ///   [`FirstSight`](crate::telemetry::FillOutcome::FirstSight). For a response, the load is timed to its head.
    ///   [`CacheLayer::explain`](crate::CacheLayer::explain) can't foretell it.
    ///
    /// ```no_run
    /// use std::time::Duration;
    /// use cache_layer::{Cache, store::RedisStore};
    ///
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// let store = RedisStore::builder("redis://127.0.0.1:6379/0").build()?;
    /// let cache = Cache::builder(store).second_sight(Duration::from_millis(200)).build();
    /// # Ok(())
    /// # }
    /// ```
    pub fn second_sight(mut self, unless_slower_than: Duration) -> Self {
        self.second_sight = Some(unless_slower_than);
        self
    }

    /// For how many keys there is room in the [hot set](Cache::hot), at most 65,536; unless set, there is none, and hits cost
    /// nothing for it. Each takes some 200 bytes, and longer keys as much more. One hit in 16 is counted.
    ///
    /// Over Redis, the list of them is left there each minute, 256 KiB at most, for other processes' [warm start](Cache::warm).
    ///
    /// ```
    /// use cache_layer::{Cache, store::MemoryStore};
    ///
    /// let cache = Cache::builder(MemoryStore::new(64 * 1024 * 1024)).hot_keys(4096).build();
    /// assert!(cache.hot(10).is_empty(), "so far");
    /// ```
    pub fn hot_keys(mut self, keys: usize) -> Self {
        self.hot_keys = keys;
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
        let (codec, verifier) = (self.codec, self.verifier);
        let Self {
            store,
            name,
            keys_in_traces,
            clock,
            observer,
            lock_timeout,
            abandoned_load,
            load_limit,
            has_switches,
            hot_keys,
            second_sight,
            ..
        } = self;
        let clock = clock.or_else(|| store.clock()).unwrap_or_default();
        let switches = has_switches.then(|| store.follow_switches());
        let is_local = store.is_local();
        let hot = (hot_keys > 0).then(|| Arc::new(HotSet::new(hot_keys)));
        let cache = Cache(Arc::new(Inner {
            is_local,
            store,
            name,
            keys_in_traces,
            clock,
            hears_lookups: observer.is_some() || hot.is_some(),
            telemetry: Telemetry::with_observer(observer),
            hot,
            lock_timeout,
            #[cfg(feature = "typed")]
            codec,
            #[cfg(feature = "typed")]
            verifier,
            flights: Arc::default(),
            uncacheable: RecentKeys::default(),
            recent_failures: RecentFailures::default(),
            invalidations: AtomicU64::new(0),
            failed_refreshes: RecentKeys::default(),
            abandoned_load,
            // Memory has a policy of its own by which what is asked for once goes first.
            doorkeeper: second_sight.filter(|_| !is_local).map(Doorkeeper::new),
            load_limit,
            switches,
            commits: Semaphore::new(COMMITS),
            on_their_way: Arc::new(Semaphore::new(ON_THEIR_WAY)),
        }));
        cache.leave_hot_keys_from_now_on();
        cache
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
