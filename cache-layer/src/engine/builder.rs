//! Settings of a cache.

use std::{
    borrow::Cow,
    fmt,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use tokio::sync::Semaphore;

#[cfg(feature = "typed")]
use super::verifier::{Running, Verifier};
use super::{
    backoff::RecentFailures,
    cache::{COMMITS, Cache, Inner, ON_THEIR_WAY},
    doorkeeper::Doorkeeper,
    hot::HotSet,
    load_limit::LoadLimit,
    recent_keys::{RecentKeys, VoidRefusals},
};
use crate::{
    clock::Clock,
    store::{Store, StoreBackend, Sweep, SweepListener},
    telemetry::{Event, Named, Observer, SweepCause, Telemetry},
};
#[cfg(feature = "typed")]
use crate::{
    codec::{Chosen, Codec},
    policy::Verify,
};

/// The longest lock timeout: times that are computed from it can still be added to a moment, and sent to a server.
const LONGEST_LOCK_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

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
            verify: None,
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
    verify: Option<Verify>,
}

impl CacheBuilder {
    /// How long a request waits for another request's load of the same key before it goes to the application alone; 5 s unless
    /// set. For each request the time is up to a quarter shorter, at random, so that requests that wait together don't go there
    /// together. Once in a call for one value, the time begins anew: if the load that the call waits for, in its own process, was
    /// overtaken by an invalidation or a refresh, or was lost. The lease of a process that died holds other processes back for a
    /// third of this time.
    ///
    /// A load itself may take longer, up to a minute or twelve of these timeouts. A load that takes longer than that loses its
    /// place to the next one, and is not stored; it continues for as long as a request waits for it or reads its body.
    ///
    /// More than a day is taken as a day.
    pub fn lock_timeout(mut self, timeout: Duration) -> Self {
        self.lock_timeout = timeout.min(LONGEST_LOCK_TIMEOUT);
        self
    }

    /// How long a load continues after its last client or caller has left; 10 s unless set. A result within this time is
    /// stored, so that a client that comes back finds it. After that, the load is dropped, in the application as well: its
    /// future, or the rest of its body. Zero drops it soon after the last client has left.
    ///
    /// A load ends sooner if its result can't be stored any more, or if a request waits for its place at the application
    /// ([`CacheLayer::max_loads`](crate::CacheLayer::max_loads)); a load that waits for a place itself has none to give up. A
    /// background refresh, which never has a client that waits, continues for as long as a load may keep its place: a minute, or
    /// twelve [lock timeouts](Self::lock_timeout).
    pub fn abandoned_load(mut self, bound: Duration) -> Self {
        self.abandoned_load = bound;
        self
    }

    /// The most loads that run at one time, at least 1, of responses and of values together; without a limit unless set. It
    /// protects the systems behind the cache, such as a database, when the cache is lost.
    ///
    /// The limit is for this process, over all clones of the cache and all layers that use it. For responses it works as if
    /// each layer had it as its [own limit](crate::CacheLayer::max_loads), which may be lower. If all places are taken, the
    /// load of a value waits, first come, first served, for as long as a load may keep its place, a minute or twelve [lock
    /// timeouts](Self::lock_timeout); then it goes ahead. So no call fails for lack of a place, unless it has a
    /// [`hard_timeout`](crate::GetOrLoad::hard_timeout); with a [`soft_timeout`](crate::GetOrLoad::soft_timeout), it gets a
    /// stale value sooner. A background refresh does not wait: if no place is free, it is left to a later call.
    ///
    /// The loads that a load starts in its own task are part of it, of values and of responses: a handler that loads values, or
    /// sends requests through another layer over the cache, needs no further places, and neither does the body of its response,
    /// while it is read to be stored. Such loads keep the handler's place if it does not wait for them to the end. The exceptions are
    /// background refreshes, which need places of their own, the loads of *another* cache with a limit, each of which needs
    /// one of that cache's places, and requests through another layer with a [limit of its own](crate::CacheLayer::max_loads).
    ///
    /// A load keeps its place until its result is stored.
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

    /// The share of the hits of typed values that is verified, none unless set: their load runs again in the background, the
    /// bytes of the two values are compared, and [`Event::Verified`](crate::telemetry::Event::Verified) reports the result.
    /// This is [`CacheLayer::verify`](crate::CacheLayer::verify) for values. Values that the load itself reads from the cache
    /// are answered as usual, so that only its other sources are verified. An operator's
    /// [switch](crate::Switch::VerificationRate) takes precedence.
    ///
    /// The bytes are those that this cache's codec writes, of both values as a call gets them. Nothing is compared if the new
    /// value would not be stored, or if bytes that differ are not the same each time, as those of a `HashMap`: a `BTreeMap` can
    /// be verified.
    ///
    /// ```
    /// use cache_layer::{Cache, store::MemoryStore};
    ///
    /// let cache = Cache::builder(MemoryStore::new(64 * 1024 * 1024)).verify(0.001).build();
    /// ```
    #[cfg(feature = "typed")]
    pub fn verify(mut self, verify: impl Into<Verify>) -> Self {
        self.verify = Some(verify.into());
        self
    }

    /// The clock by which freshness is judged. Unless set, it is the server's for a store on Redis whose entries are not sealed,
    /// so that all processes judge by the same clock, whatever their machines' clocks say; otherwise the system's.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = Some(clock);
        self
    }

    /// How typed values are written; [`Json`](crate::codec::Json) unless set. Values that are already stored are read by the
    /// codec that wrote them, if that is this codec or one that comes with the library.
    #[cfg(feature = "typed")]
    pub fn codec(mut self, codec: impl Codec) -> Self {
        self.codec.set_codec(codec);
        self
    }

    /// A version number for the meaning of typed values; 0 unless set. Increase it when types change so that old values could
    /// still be read, but with another meaning. A value with another number is a miss, for the reason
    /// [`schema`](crate::telemetry::Rejection::Schema), and stays until it is loaded anew.
    ///
    /// It is for all values of a cache: while processes with two numbers run, each replaces the values of the other. If that
    /// costs too much, put a number into the key, as the `schema` of
    /// [`#[cached]`](https://docs.rs/cache-layer/latest/cache_layer/attr.cached.html#settings) does for one function.
    #[cfg(feature = "typed")]
    pub fn schema(mut self, schema: u32) -> Self {
        self.codec.set_schema(schema);
        self
    }

    /// The name of the cache in traces; `cache-layer` unless set.
    pub fn name(mut self, name: impl Into<Cow<'static, str>>) -> Self {
        self.name = name.into();
        self
    }

    /// Whether traces contain keys in readable form, in the field `cache.key`, and warnings about single keys, in the field
    /// `key`; unless set, they only have a digest of each key, in `cache_layer.key_hash` and `key`. Keys contain URLs with all
    /// that is in them, and traces are read by many people.
    pub fn keys_in_traces(mut self, named: bool) -> Self {
        self.keys_in_traces = named;
        self
    }

    /// Whether an operator can use switches ([`Cache::switch`]), for this process and all processes with the same Redis and
    /// prefix; off unless set. Set it before a layer is made with the cache. With it, the cache checks the switches on each
    /// request.
    pub fn switches(mut self, on: bool) -> Self {
        self.has_switches = on;
        self
    }

    /// Stores a result only from the second load of its key on, unless the load took at least this long; unless set, the cache
    /// stores every result at once. This is for a Redis that is full of entries that were asked for once: in traces of shops and
    /// feeds, most keys are. A memory store does not need it, and ignores it.
    ///
    /// - *A second load* is one for a key that this process has loaded before, according to a filter of the last 50,000 to
    ///   100,000 keys in 128 KiB, which takes one key in a hundred for another. A load also counts as a second one if another
    ///   process was loading the key when the request came, if other requests of this process wait for the load, or if there is
    ///   an entry, even a void one.
    /// - *Within a process*, requests that wait for the load share its result, as always. *In the fleet*, each process loads the
    ///   key once before it may store the result, or twice in all if the requests come at the same time.
    /// - A response that isn't stored says `detail=first-sight` in `Cache-Status`
    ///   ([`NoCacheReason::FirstSight`](crate::telemetry::NoCacheReason::FirstSight)); it counts as a fill with the outcome
    ///   [`FirstSight`](crate::telemetry::FillOutcome::FirstSight). The time of a response's load ends with its head.
    ///   [`CacheLayer::explain`](crate::CacheLayer::explain) assumes that a load takes less.
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

    /// Counts the keys that are hit most, the [hot set](Cache::hot), with room for this many, at most 65,536. Unless set, the
    /// cache counts none, and hits cost nothing for it. Each key takes about 200 bytes, and more if it is long. One hit in 16 is
    /// counted.
    ///
    /// Over Redis, the process leaves its list there each minute, 256 KiB at most, for other processes' [warm
    /// start](Cache::warm).
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

    /// Sets an observer, which receives every event; the cache keeps its own [`counts`](Cache::counts) in any case.
    pub fn observer(mut self, observer: impl Observer) -> Self {
        self.observer = Some(Arc::new(observer));
        self
    }

    /// Builds the cache.
    #[must_use]
    pub fn build(self) -> Cache {
        #[cfg(feature = "typed")]
        let (codec, verify) = (self.codec, self.verify);
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
        let telemetry = Telemetry::with_observer(observer);
        let on_sweep = report_sweeps(telemetry.clone());
        store.on_sweep(&on_sweep);
        let hot = (hot_keys > 0).then(|| Arc::new(HotSet::new(hot_keys)));
        let cache = Cache(Arc::new(Inner {
            is_local,
            store,
            name,
            keys_in_traces,
            clock,
            hears_lookups: telemetry.is_observed() || hot.is_some(),
            telemetry,
            _on_sweep: on_sweep,
            hot,
            lock_timeout,
            #[cfg(feature = "typed")]
            codec,
            #[cfg(feature = "typed")]
            verifier: Verifier::new(verify.as_ref(), switches.clone(), &Running::default()),
            flights: Arc::default(),
            uncacheable: RecentKeys::default(),
            void_refusals: VoidRefusals::default(),
            recent_failures: RecentFailures::default(),
            invalidations: AtomicU64::new(0),
            failed_refreshes: RecentKeys::default(),
            abandoned_load,
            // The memory store has its own policy, by which entries that were asked for once go first.
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

/// Reports the sweeps of a store to the observer of a cache.
fn report_sweeps(telemetry: Telemetry) -> Arc<SweepListener> {
    Arc::new(move |Sweep { cause, patterns, swept, duration }: &Sweep| {
        let (examined, removed) = (swept.examined, swept.removed);
        let (cause, duration, number) = (*cause, *duration, patterns.len() as u64);
        telemetry.emit(Event::Swept { cause, patterns: number, examined, removed, duration });
        if cause == SweepCause::Pattern {
            telemetry.name(&Named::Swept { patterns, examined, removed, duration });
        }
    })
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
