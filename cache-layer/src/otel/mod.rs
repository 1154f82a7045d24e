//! The events of a cache as OpenTelemetry metrics (feature `otel`): [`Metrics`] makes the instruments from a meter.
//!
//! ```
//! use cache_layer::{Cache, otel::Metrics, store::MemoryStore};
//!
//! // The meter of the application's own provider, or of the global one.
//! let metrics = Metrics::new(&opentelemetry::global::meter("cache_layer"), "products");
//! let store = MemoryStore::new(64 * 1024 * 1024);
//! let cache = Cache::builder(store.clone()).name("products").observer(metrics.observer()).build();
//! metrics.watch_cache(&cache);
//! metrics.watch_memory(&store);
//! ```
//!
//! Labels are closed sets: never a key, a tag or a URL. OpenTelemetry has no conventions for the metrics of caches, so that
//! the names are this library's own; names in traces follow the conventions, where there are some.
//!
//! | instrument | labels | meaning |
//! |---|---|---|
//! | `cache_layer.lookups` | `cache`, `result`, `tier` | requests to the cache, by their result |
//! | `cache_layer.lookup.duration` | `tier` | how long look-ups took that the cache answered, in seconds |
//! | `cache_layer.loads.saved` | `cache` | the time of the loads that hits made unnecessary, in seconds |
//! | `cache_layer.loads`, `cache_layer.load.duration` | `cache`, `outcome` of the first | loads |
//! | `cache_layer.loads.active` | `cache` | keys that this process is loading |
//! | `cache_layer.switched_on` | `cache`, `switch` | 1 for each switch that is on |
//! | `cache_layer.coalesced`, `cache_layer.wait.duration` | `scope`, `cache` and `release` of the first | requests that waited for another request's load |
//! | `cache_layer.fills` | `cache`, `outcome` | entries on their way to the store |
//! | `cache_layer.uncacheable` | `cache`, `reason` | responses that were not stored |
//! | `cache_layer.invalidations` | `cache`, `kind`, `outcome` | invalidations |
//! | `cache_layer.rejected_entries` | `cache`, `reason` | stored bytes that were rejected |
//! | `cache_layer.refreshes` | `cache`, `outcome` | early refreshes, and background refreshes that were skipped or got no response |
//! | `cache_layer.verified` | `cache`, `outcome` | hits that were loaded again, by the result of the comparison |
//! | `cache_layer.warmed` | `cache`, `outcome` | entries that a warm start asked for, and lists that it could not read |
//! | `cache_layer.sweeps`, `.sweep.removed`, `.sweep.time` | `cause` | sweeps of the store by this process, the entries that they removed, and their time in seconds; counted once for each cache over the store |
//! | `cache_layer.overloaded` | `cache` | requests that were refused |
//! | `cache_layer.encoded`, `.encoded.content`, `.encode.time` | `coding`, `way` of the second | responses that were encoded for clients, in bytes and seconds |
//! | `cache_layer.entry.size`, `cache_layer.entry.age` | `cache` of the first | the size and age of entries, in bytes and seconds |
//! | `cache_layer.store.errors` | `cache` | look-ups that the store did not answer |
//! | `cache_layer.l1.bytes`, `.entries`, `.evictions` | `cache`, `cause` of the last | entries in this process |
//! | `cache_layer.redis.connected`, `.breaker`, `.full`, `.roundtrips` | `op` of the last | the connection to Redis |
//! | `cache_layer.redis.clock_offset` | | by how many seconds Redis' clock is ahead of this machine's |
//! | `cache_layer.pending_invalidations`, `cache_layer.tracking.resets`, `.pushes` | `cache` of the first, `kind` of the last | invalidations to be delivered, and the pushes of Redis |
//! | `cache_layer.bans`, `.bans.swept`, `.bans.overflows` | | bans that are listed, as far as this process knows; bans that it has swept; patterns for which the list had no room |
//!
//! A histogram has a series for each of its buckets, so histograms have few labels: loads and sizes are distributed differently
//! in each cache, the duration of a look-up depends on the tier that answers it, and that of a wait on the process that loads.
//! The metrics of Redis belong to the process, whichever caches share it. 20 caches stay below 2,300 series; a view can limit
//! the many reasons of [`UNCACHEABLE`].
//!
//! The time that invalidations take to reach other processes is not measured: a push from Redis carries no time, and two clocks
//! differ by more than a push takes.

mod encoding;
mod sweeping;

use std::{borrow::Cow, fmt};

use opentelemetry::{
    KeyValue, StringValue,
    metrics::{Counter, Histogram, Meter},
};

use self::{encoding::EncodingMetrics, sweeping::SweepMetrics};
#[cfg(feature = "memory")]
use crate::store::{Eviction, MemoryStore};
#[cfg(feature = "redis")]
use crate::store::{RedisStore, TieredStore};
use crate::{
    engine::Cache,
    telemetry::{Event, LookupEvent, LookupResult, Observer},
};

/// The instrument with the most series: one for each reason that occurs.
pub const UNCACHEABLE: &str = "cache_layer.uncacheable";

/// Seconds that a look-up takes: some microseconds in memory, some hundred in Redis.
const LOOKUP: [f64; 9] = [0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.01, 0.05, 0.25];
/// Seconds that a load takes, or a wait for one.
const LOAD: [f64; 7] = [0.001, 0.005, 0.025, 0.1, 0.25, 1.0, 5.0];
/// Seconds.
const AGE: [f64; 5] = [1.0, 10.0, 60.0, 600.0, 3_600.0];
/// Bytes.
const SIZE: [f64; 4] = [1_024.0, 8_192.0, 65_536.0, 524_288.0];

/// The instruments of one cache. Clones share them.
#[derive(Clone)]
pub struct Metrics {
    meter: Meter,
    cache: KeyValue,
}

impl Metrics {
    /// Makes the instruments with `meter`, for the cache whose label `cache` is `name`.
    pub fn new(meter: &Meter, name: impl Into<Cow<'static, str>>) -> Self {
        Self { meter: meter.clone(), cache: KeyValue::new("cache", StringValue::from(name.into())) }
    }

    /// The observer that counts the events of the cache: set it as the cache's [observer](crate::CacheBuilder::observer), alone
    /// or in a pair.
    #[must_use]
    pub fn observer(&self) -> impl Observer + use<> {
        Events::new(&self.meter, self.cache.clone())
    }

    /// Reports, at each collection, how many keys the cache is loading, and which of its [switches](crate::Switch) are on.
    pub fn watch_cache(&self, cache: &Cache) {
        let (cache, switched, label) = (cache.clone(), cache.clone(), [self.cache.clone()]);
        self.meter
            .u64_observable_gauge("cache_layer.loads.active")
            .with_unit("{load}")
            .with_description("Keys that this process is loading")
            .with_callback(move |gauge| gauge.observe(cache.loads_in_flight() as u64, &label))
            .build();
        let (cache, label) = (switched, self.cache.clone());
        self.meter
            .u64_observable_gauge("cache_layer.switched_on")
            .with_unit("{switch}")
            .with_description("1 for each switch that an operator has turned on for a while, as this process knows it")
            .with_callback(move |gauge| {
                for (switch, _) in cache.switched_on() {
                    gauge.observe(1, &[label.clone(), KeyValue::new("switch", switch.as_str())]);
                }
            })
            .build();
    }

    /// Reports, at each collection, the contents of a store in this process.
    #[cfg(feature = "memory")]
    #[cfg_attr(docsrs, doc(cfg(feature = "memory")))]
    pub fn watch_memory(&self, store: &MemoryStore) {
        let [entries, bytes, evictions] = std::array::from_fn(|_| store.clone());
        self.watch_entries(move || entries.entries(), move || bytes.bytes(), move || evictions.evictions().collect());
    }

    /// Reports, at each collection, what a first tier holds.
    #[cfg(feature = "redis")]
    #[cfg_attr(docsrs, doc(cfg(feature = "redis")))]
    pub fn watch_first_tier(&self, store: &TieredStore) {
        let [entries, bytes, evictions] = std::array::from_fn(|_| store.clone());
        self.watch_entries(
            move || entries.memory_entries(),
            move || bytes.memory_bytes(),
            move || evictions.memory_evictions().collect(),
        );
    }

    #[cfg(feature = "memory")]
    fn watch_entries(
        &self,
        entries: impl Fn() -> u64 + Send + Sync + 'static,
        bytes: impl Fn() -> u64 + Send + Sync + 'static,
        evictions: impl Fn() -> Vec<(Eviction, u64)> + Send + Sync + 'static,
    ) {
        let [of_bytes, of_entries, of_evictions] = std::array::from_fn(|_| [self.cache.clone()]);
        self.meter
            // The unit is in the name, and Prometheus would say it twice.
            .u64_observable_gauge("cache_layer.l1.bytes")
            .with_description("What the entries in this process take")
            .with_callback(move |gauge| gauge.observe(bytes(), &of_bytes))
            .build();
        self.meter
            .u64_observable_gauge("cache_layer.l1.entries")
            .with_unit("{entry}")
            .with_description("Entries in this process")
            .with_callback(move |gauge| gauge.observe(entries(), &of_entries))
            .build();
        self.meter
            .u64_observable_counter("cache_layer.l1.evictions")
            .with_unit("{entry}")
            .with_description("Entries that left this process, by why: no room, too old, or invalidated")
            .with_callback(move |counter| {
                let [cache] = &of_evictions;
                for (eviction, count) in evictions() {
                    counter.observe(count, &[cache.clone(), KeyValue::new("cause", eviction.as_str())]);
                }
            })
            .build();
    }

    /// Reports, at each collection, the state of the Redis behind the cache.
    ///
    /// A process has one Redis, whichever caches share it, so that only what is kept for it has a label for the cache.
    #[cfg(feature = "redis")]
    #[cfg_attr(docsrs, doc(cfg(feature = "redis")))]
    pub fn watch_redis(&self, redis: &RedisStore) {
        self.watch_connections(redis);
        self.watch_pushes(redis);
    }

    #[cfg(feature = "redis")]
    fn watch_connections(&self, redis: &RedisStore) {
        let meter = &self.meter;
        let [connected, state, full, trips, clock] = std::array::from_fn(|_| redis.clone());
        meter
            .u64_observable_gauge("cache_layer.redis.connected")
            .with_unit("{connection}")
            .with_description("1 while Redis is believed to answer, 0 while requests are served without it")
            .with_callback(move |gauge| gauge.observe(u64::from(connected.connected()), &[]))
            .build();
        meter
            .u64_observable_gauge("cache_layer.redis.breaker")
            .with_description(
                "0 while every connection to Redis works, 1 while some do, 2 while requests are served without it",
            )
            .with_callback(move |gauge| gauge.observe(state.state().breaker.level(), &[]))
            .build();
        meter
            .u64_observable_gauge("cache_layer.redis.full")
            .with_description("1 while Redis has no room and evicts nothing, so that nothing more is stored")
            .with_callback(move |gauge| gauge.observe(u64::from(full.state().full), &[]))
            .build();
        meter
            .f64_observable_gauge("cache_layer.redis.clock_offset")
            .with_unit("s")
            .with_description("By how much Redis' clock, which freshness is judged by, is ahead of this machine's")
            .with_callback(move |gauge| {
                if let Some(offset) = clock.state().clock {
                    gauge.observe(offset.millis as f64 / 1000.0, &[]);
                }
            })
            .build();
        meter
            .u64_observable_counter("cache_layer.redis.roundtrips")
            .with_unit("{roundtrip}")
            .with_description("Round trips to Redis, by what they were for; a pattern, in many steps, is one")
            .with_callback(move |counter| {
                for (operation, count) in trips.round_trips() {
                    counter.observe(count, &[KeyValue::new("op", operation)]);
                }
            })
            .build();
    }

    #[cfg(feature = "redis")]
    fn watch_pushes(&self, redis: &RedisStore) {
        let meter = &self.meter;
        let ([pending, resets, pushes], label) = (std::array::from_fn(|_| redis.clone()), [self.cache.clone()]);
        meter
            .u64_observable_gauge("cache_layer.pending_invalidations")
            .with_unit("{invalidation}")
            .with_description("Invalidations that Redis has not been told of yet")
            .with_callback(move |gauge| gauge.observe(pending.state().pending_invalidations as u64, &label))
            .build();
        let [listed, swept, held_up, overflows] = std::array::from_fn(|_| redis.clone());
        meter
            .u64_observable_gauge("cache_layer.bans")
            .with_unit("{pattern}")
            .with_description("Patterns that are listed as deleted and not swept yet")
            .with_callback(move |gauge| gauge.observe(listed.state().bans as u64, &[]))
            .build();
        meter
            .u64_observable_counter("cache_layer.bans.swept")
            .with_unit("{pattern}")
            .with_description("Patterns that this process has swept, and taken off the list")
            .with_callback(move |counter| counter.observe(swept.state().swept_bans, &[]))
            .build();
        meter
            .f64_observable_gauge("cache_layer.bans.held_up")
            .with_unit("s")
            .with_description(
                "How long swept patterns have stayed listed because a node without slots gets one, or a node does not answer; else 0",
            )
            .with_callback(move |gauge| {
                gauge.observe(held_up.state().bans_held_up.unwrap_or_default().as_secs_f64(), &[]);
            })
            .build();
        meter
            .u64_observable_counter("cache_layer.bans.overflows")
            .with_unit("{pattern}")
            .with_description("Patterns for which there was no room on the list, so that they were swept at once")
            .with_callback(move |counter| counter.observe(overflows.state().overflowed_bans, &[]))
            .build();
        meter
            .u64_observable_counter("cache_layer.tracking.resets")
            .with_unit("{connection}")
            .with_description("Connections to Redis that were lost, and with them what was known to be unchanged there")
            .with_callback(move |counter| counter.observe(resets.state().lost_connections, &[]))
            .build();
        meter
            .u64_observable_counter("cache_layer.tracking.pushes")
            .with_unit("{push}")
            .with_description("What Redis told unasked, by what had changed there")
            .with_callback(move |counter| {
                for (push, count) in pushes.pushes() {
                    counter.observe(count, &[KeyValue::new("kind", push.as_str())]);
                }
            })
            .build();
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").field("cache", &self.cache.value).finish_non_exhaustive()
    }
}

/// Counts the events of one cache.
struct Events {
    cache: KeyValue,
    lookups: Counter<u64>,
    lookup_duration: Histogram<f64>,
    saved: Counter<f64>,
    loads: Counter<u64>,
    load_duration: Histogram<f64>,
    coalesced: Counter<u64>,
    wait_duration: Histogram<f64>,
    fills: Counter<u64>,
    uncacheable: Counter<u64>,
    invalidations: Counter<u64>,
    rejected: Counter<u64>,
    refreshes: Counter<u64>,
    verified: Counter<u64>,
    warmed: Counter<u64>,
    sweeping: SweepMetrics,
    overloaded: Counter<u64>,
    encoding: EncodingMetrics,
    entry_size: Histogram<f64>,
    entry_age: Histogram<f64>,
    store_errors: Counter<u64>,
}

impl Events {
    fn new(meter: &Meter, cache: KeyValue) -> Self {
        let counter =
            |name, unit, description| meter.u64_counter(name).with_unit(unit).with_description(description).build();
        let histogram = |name, unit, description, bounds: &[f64]| {
            let histogram = meter.f64_histogram(name).with_unit(unit).with_description(description);
            histogram.with_boundaries(bounds.to_vec()).build()
        };
        Self {
            cache,
            lookups: counter("cache_layer.lookups", "{lookup}", "Requests to the cache, by what became of them"),
            lookup_duration: histogram(
                "cache_layer.lookup.duration",
                "s",
                "How long answers took that were in the cache, by where they were",
                &LOOKUP,
            ),
            saved: meter
                .f64_counter("cache_layer.loads.saved")
                .with_unit("s")
                .with_description("What the loads took that hits made unnecessary")
                .build(),
            loads: counter("cache_layer.loads", "{load}", "Loads, by how they ended"),
            load_duration: histogram("cache_layer.load.duration", "s", "How long loads took", &LOAD),
            coalesced: counter(
                "cache_layer.coalesced",
                "{request}",
                "Requests that waited for another one's load, by whose it was and what ended the wait",
            ),
            wait_duration: histogram(
                "cache_layer.wait.duration",
                "s",
                "How long requests waited for another one's load, by whose it was",
                &LOAD,
            ),
            fills: counter("cache_layer.fills", "{fill}", "Entries on their way to the store, by what became of them"),
            uncacheable: counter(UNCACHEABLE, "{response}", "Responses that were not stored, by why"),
            invalidations: counter(
                "cache_layer.invalidations",
                "{invalidation}",
                "Invalidations, by what they cover and whether they arrived, or became more than was asked for",
            ),
            rejected: counter("cache_layer.rejected_entries", "{entry}", "Stored bytes that were turned away, by why"),
            refreshes: counter(
                "cache_layer.refreshes",
                "{refresh}",
                "Refreshes of entries that are still fresh, refreshes left out for lack of room, and refreshes without an answer",
            ),
            verified: counter("cache_layer.verified", "{hit}", "Hits that were loaded again, by what came of it"),
            warmed: counter("cache_layer.warmed", "{entry}", "Entries that a warm start asked for, by what came of it"),
            sweeping: SweepMetrics::new(meter),
            overloaded: counter("cache_layer.overloaded", "{request}", "Requests refused for lack of room"),
            encoding: EncodingMetrics::new(meter),
            entry_size: histogram("cache_layer.entry.size", "By", "Bodies and values, when they are stored", &SIZE),
            entry_age: histogram("cache_layer.entry.age", "s", "How old responses are when they are served", &AGE),
            store_errors: counter("cache_layer.store.errors", "{operation}", "Look-ups that the store did not answer"),
        }
    }

    fn count(&self, counter: &Counter<u64>) {
        counter.add(1, std::slice::from_ref(&self.cache));
    }

    fn count_by(&self, counter: &Counter<u64>, name: &'static str, value: &'static str) {
        counter.add(1, &[self.cache.clone(), KeyValue::new(name, value)]);
    }

    fn count_by_both(&self, counter: &Counter<u64>, [one, other]: [(&'static str, &'static str); 2]) {
        counter.add(1, &[self.cache.clone(), KeyValue::new(one.0, one.1), KeyValue::new(other.0, other.1)]);
    }

    fn looked_up(&self, lookup: LookupEvent) {
        let (result, tier) = (lookup.result.as_str(), lookup.tier.as_str());
        self.count_by_both(&self.lookups, [("result", result), ("tier", tier)]);
        if !lookup.result.is_hit() {
            return;
        }
        // A request that waited for another one's load has measured that.
        if lookup.result != LookupResult::Collapsed {
            self.lookup_duration.record(lookup.duration.as_secs_f64(), &[KeyValue::new("tier", tier)]);
        }
        if !lookup.saved.is_zero() {
            self.saved.add(lookup.saved.as_secs_f64(), std::slice::from_ref(&self.cache));
        }
        if let Some(age) = lookup.age {
            self.entry_age.record(age.as_secs_f64(), &[]);
        }
    }
}

impl Observer for Events {
    fn observe(&self, event: Event) {
        match event {
            Event::Lookup(lookup) => self.looked_up(lookup),
            Event::Bypass(_) => self.count_by_both(&self.lookups, [("result", "bypass"), ("tier", "none")]),
            Event::Waited { scope, release, duration } => {
                let scope = ("scope", scope.as_str());
                self.count_by_both(&self.coalesced, [scope, ("release", release.as_str())]);
                self.wait_duration.record(duration.as_secs_f64(), &[KeyValue::new(scope.0, scope.1)]);
            }
            Event::Loaded { outcome, duration } => {
                self.count_by(&self.loads, "outcome", outcome.as_str());
                self.load_duration.record(duration.as_secs_f64(), std::slice::from_ref(&self.cache));
            }
            Event::EarlyRefresh => self.count_by(&self.refreshes, "outcome", "early"),
            Event::RefreshSkipped => self.count_by(&self.refreshes, "outcome", "skipped"),
            Event::RefreshFailed => self.count_by(&self.refreshes, "outcome", "failed"),
            Event::Verified { same, .. } => {
                self.count_by(&self.verified, "outcome", if same { "same" } else { "differing" });
            }
            Event::VerifiedAgain { stable } => {
                self.count_by(&self.verified, "outcome", if stable { "stale" } else { "unstable" });
            }
            Event::Warmed { outcome, count } => {
                self.warmed.add(count, &[self.cache.clone(), KeyValue::new("outcome", outcome.as_str())]);
            }
            Event::Swept { cause, removed, duration, .. } => {
                self.sweeping.swept(cause, removed, duration);
            }
            Event::Overloaded => self.count(&self.overloaded),
            Event::NotStored(reason) => self.count_by(&self.uncacheable, "reason", reason.as_str()),
            Event::Fill(outcome) => self.count_by(&self.fills, "outcome", outcome.as_str()),
            Event::Kept { bytes } => self.entry_size.record(bytes as f64, std::slice::from_ref(&self.cache)),
            Event::Rejected(reason) => self.count_by(&self.rejected, "reason", reason.as_str()),
            Event::Invalidation { kind, delivered, hardened, .. } => {
                let outcome = match (delivered, hardened) {
                    (true, true) => "hardened",
                    (true, false) => "delivered",
                    (false, _) => "pending",
                };
                self.count_by_both(&self.invalidations, [("kind", kind.as_str()), ("outcome", outcome)]);
            }
            Event::Encoded { coding, content, coded, duration } => {
                self.encoding.encoded(coding, content, coded, duration);
            }
            Event::StoreUnavailable => self.count(&self.store_errors),
            // Reported twice, since `Lookup` and `Waited` say more; or not of interest here.
            _ => {}
        }
    }
}
