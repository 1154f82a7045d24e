//! What the cache does, as metrics. Their labels are closed sets: never a key, a tag or a URL.
//!
//! A histogram has a series for each of its buckets, so what has many has few labels.

use std::sync::Arc;

use cache_layer::{
    Cache,
    store::{MemoryStore, RedisStore, TieredStore},
    telemetry::{Event, Lookup, Observer},
};
use opentelemetry::{
    KeyValue,
    metrics::{Counter, Histogram, Meter},
};

/// Seconds that an answer out of the cache takes: in memory, some microseconds; out of Redis, some hundred.
const LOOKUP: [f64; 11] = [0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.1, 1.0];
/// Seconds that a load takes, or a wait for one.
const LOAD: [f64; 10] = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 10.0];
/// Seconds.
const AGE: [f64; 8] = [1.0, 5.0, 15.0, 60.0, 300.0, 1_800.0, 3_600.0, 86_400.0];
/// Bytes.
const SIZE: [f64; 7] = [256.0, 1_024.0, 4_096.0, 16_384.0, 65_536.0, 262_144.0, 1_048_576.0];

/// Counts what one cache tells it.
pub(crate) struct CacheMetrics {
    cache: KeyValue,
    lookups: Counter<u64>,
    lookup_duration: Histogram<f64>,
    saved: Counter<f64>,
    load_duration: Histogram<f64>,
    coalesced: Counter<u64>,
    wait_duration: Histogram<f64>,
    fills: Counter<u64>,
    uncacheable: Counter<u64>,
    invalidations: Counter<u64>,
    rejected: Counter<u64>,
    refreshes: Counter<u64>,
    overloaded: Counter<u64>,
    entry_size: Histogram<f64>,
    entry_age: Histogram<f64>,
    store_errors: Counter<u64>,
}

impl CacheMetrics {
    pub(super) fn new(meter: &Meter, cache: &'static str) -> Self {
        let counter =
            |name, unit, description| meter.u64_counter(name).with_unit(unit).with_description(description).build();
        let histogram = |name, unit, description, bounds: &[f64]| {
            let histogram = meter.f64_histogram(name).with_unit(unit).with_description(description);
            histogram.with_boundaries(bounds.to_vec()).build()
        };
        Self {
            cache: KeyValue::new("cache", cache),
            lookups: counter("cache_layer.lookups", "{lookup}", "Requests to the cache, by what became of them"),
            lookup_duration: histogram(
                "cache_layer.lookup.duration",
                "s",
                "How long answers out of the cache took, by where they were",
                &LOOKUP,
            ),
            saved: meter
                .f64_counter("cache_layer.loads.saved")
                .with_unit("s")
                .with_description("What the loads took that hits made unnecessary")
                .build(),
            load_duration: histogram("cache_layer.load.duration", "s", "How long loads took, by how they ended", &LOAD),
            coalesced: counter(
                "cache_layer.coalesced",
                "{request}",
                "Requests that waited for another one's load, by whose it was and what ended the wait",
            ),
            wait_duration: histogram(
                "cache_layer.wait.duration",
                "s",
                "How long requests waited for another one's load",
                &LOAD,
            ),
            fills: counter("cache_layer.fills", "{fill}", "Entries on their way to the store, by what became of them"),
            uncacheable: counter("cache_layer.uncacheable", "{response}", "Responses that were not stored, by why"),
            invalidations: counter(
                "cache_layer.invalidations",
                "{invalidation}",
                "Invalidations, by what they cover, what becomes of that, and whether they arrived",
            ),
            rejected: counter("cache_layer.rejected_entries", "{entry}", "Stored bytes that were turned away, by why"),
            refreshes: counter(
                "cache_layer.refreshes",
                "{refresh}",
                "Refreshes of what is still fresh, and refreshes left out for want of room",
            ),
            overloaded: counter(
                "cache_layer.overloaded",
                "{request}",
                "Requests that were turned away for want of room at the application",
            ),
            entry_size: histogram("cache_layer.entry.size", "By", "Bodies and values, when they are stored", &SIZE),
            entry_age: histogram("cache_layer.entry.age", "s", "How old responses are when they are served", &AGE),
            store_errors: counter("cache_layer.store.errors", "{operation}", "Look-ups that the store did not answer"),
        }
    }

    fn labels(&self, labels: &[(&'static str, &'static str)]) -> Vec<KeyValue> {
        let labels = labels.iter().map(|(name, value)| KeyValue::new(*name, *value));
        std::iter::once(self.cache.clone()).chain(labels).collect()
    }

    fn count(&self, counter: &Counter<u64>, labels: &[(&'static str, &'static str)]) {
        counter.add(1, &self.labels(labels));
    }

    fn looked_up(&self, lookup: Lookup) {
        let (result, tier) = (lookup.result.as_str(), lookup.tier.as_str());
        self.count(&self.lookups, &[("result", result), ("tier", tier)]);
        if !lookup.result.is_hit() {
            return;
        }
        self.lookup_duration.record(lookup.duration.as_secs_f64(), &self.labels(&[("tier", tier)]));
        if !lookup.saved.is_zero() {
            self.saved.add(lookup.saved.as_secs_f64(), std::slice::from_ref(&self.cache));
        }
        if let Some(age) = lookup.age {
            self.entry_age.record(age.as_secs_f64(), std::slice::from_ref(&self.cache));
        }
    }
}

impl Observer for CacheMetrics {
    fn observe(&self, event: Event) {
        match event {
            Event::Lookup(lookup) => self.looked_up(lookup),
            Event::Bypass(_) => self.count(&self.lookups, &[("result", "bypass"), ("tier", "none")]),
            Event::Waited { scope, release, duration } => {
                let scope = ("scope", scope.as_str());
                self.count(&self.coalesced, &[scope, ("release", release.as_str())]);
                self.wait_duration.record(duration.as_secs_f64(), &self.labels(&[scope]));
            }
            Event::Loaded { outcome, duration } => {
                self.load_duration.record(duration.as_secs_f64(), &self.labels(&[("outcome", outcome.as_str())]));
            }
            Event::EarlyRefresh => self.count(&self.refreshes, &[("outcome", "early")]),
            Event::RefreshSkipped => self.count(&self.refreshes, &[("outcome", "skipped")]),
            Event::Overloaded => self.count(&self.overloaded, &[]),
            Event::NotStored(reason) => self.count(&self.uncacheable, &[("reason", reason.as_str())]),
            Event::Fill(outcome) => self.count(&self.fills, &[("outcome", outcome.as_str())]),
            Event::Kept { bytes } => self.entry_size.record(bytes as f64, std::slice::from_ref(&self.cache)),
            Event::Rejected(reason) => self.count(&self.rejected, &[("reason", reason.as_str())]),
            Event::Invalidation { kind, soft, delivered } => {
                let mode = if soft { "soft" } else { "hard" };
                let outcome = if delivered { "delivered" } else { "pending" };
                self.count(&self.invalidations, &[("kind", kind.as_str()), ("mode", mode), ("outcome", outcome)]);
            }
            Event::StoreUnavailable => self.count(&self.store_errors, &[]),
            // Told twice: `Lookup` and `Waited` say more; or what nobody asked for.
            _ => {}
        }
    }
}

/// What is kept in this process, entries and bytes.
pub(crate) enum Memory {
    All(MemoryStore),
    FirstTier(TieredStore),
}

impl Memory {
    fn entries(&self) -> u64 {
        match self {
            Self::All(store) => store.entries(),
            Self::FirstTier(store) => store.memory_entries(),
        }
    }

    fn bytes(&self) -> u64 {
        match self {
            Self::All(store) => store.bytes(),
            Self::FirstTier(store) => store.memory_bytes(),
        }
    }
}

/// Tells, whenever somebody asks, what the cache has in this process.
pub(crate) fn observe_memory(meter: &Meter, name: &'static str, memory: Memory) {
    let (memory, label) = (Arc::new(memory), [KeyValue::new("cache", name)]);
    let (sized, labels) = (memory.clone(), label.clone());
    meter
        // The unit is in the name, and Prometheus would say it twice.
        .u64_observable_gauge("cache_layer.l1.bytes")
        .with_description("What the entries in this process take")
        .with_callback(move |gauge| gauge.observe(sized.bytes(), &labels))
        .build();
    meter
        .u64_observable_gauge("cache_layer.l1.entries")
        .with_unit("{entry}")
        .with_description("Entries in this process")
        .with_callback(move |gauge| gauge.observe(memory.entries(), &label))
        .build();
}

/// Tells, whenever somebody asks, what the cache is loading.
pub(crate) fn observe_loads(meter: &Meter, name: &'static str, cache: Cache) {
    let label = [KeyValue::new("cache", name)];
    meter
        .u64_observable_gauge("cache_layer.loads.active")
        .with_unit("{load}")
        .with_description("Keys that this process is loading")
        .with_callback(move |gauge| gauge.observe(cache.loads_in_flight() as u64, &label))
        .build();
}

/// Tells, whenever somebody asks, how the Redis behind the cache is.
pub(crate) fn observe_redis(meter: &Meter, name: &'static str, redis: &RedisStore) {
    let (connected, state, pending, resets) = (redis.clone(), redis.clone(), redis.clone(), redis.clone());
    let label = [KeyValue::new("cache", name)];
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
        .u64_observable_gauge("cache_layer.pending_invalidations")
        .with_unit("{invalidation}")
        .with_description("Invalidations that Redis has not been told of yet")
        .with_callback(move |gauge| gauge.observe(pending.state().pending_invalidations as u64, &label))
        .build();
    meter
        .u64_observable_counter("cache_layer.tracking.resets")
        .with_unit("{connection}")
        .with_description("Connections to Redis that were lost, and with them what was known to be unchanged there")
        .with_callback(move |counter| counter.observe(resets.state().lost_connections, &[]))
        .build();
}
