//! What the cache does, as metrics. Their labels are closed sets: never a key, a tag or a URL.

use cache_layer::{
    store::RedisStore,
    telemetry::{Event, Observer},
};
use opentelemetry::{
    KeyValue,
    metrics::{Counter, Meter},
};

/// Counts what one cache tells it.
pub(crate) struct CacheMetrics {
    cache: KeyValue,
    lookups: Counter<u64>,
    coalesced: Counter<u64>,
    fills: Counter<u64>,
    uncacheable: Counter<u64>,
    invalidations: Counter<u64>,
    rejected: Counter<u64>,
    store_errors: Counter<u64>,
}

impl CacheMetrics {
    pub(super) fn new(meter: &Meter, cache: &'static str) -> Self {
        let counter =
            |name, unit, description| meter.u64_counter(name).with_unit(unit).with_description(description).build();
        Self {
            cache: KeyValue::new("cache", cache),
            lookups: counter("cache_layer.lookups", "{lookup}", "Requests to the cache, by what became of them"),
            coalesced: counter("cache_layer.coalesced", "{request}", "Requests that waited for another one's load"),
            fills: counter("cache_layer.fills", "{fill}", "Entries on their way to the store, by what became of them"),
            uncacheable: counter("cache_layer.uncacheable", "{response}", "Responses that were not stored, by why"),
            invalidations: counter(
                "cache_layer.invalidations",
                "{invalidation}",
                "Invalidations, by whether they arrived",
            ),
            rejected: counter("cache_layer.rejected_entries", "{entry}", "Stored bytes that were turned away, by why"),
            store_errors: counter("cache_layer.store.errors", "{operation}", "Look-ups that the store did not answer"),
        }
    }

    fn count(&self, counter: &Counter<u64>, labels: &[(&'static str, &'static str)]) {
        let labels = labels.iter().map(|(name, value)| KeyValue::new(*name, *value));
        let labels: Vec<_> = std::iter::once(self.cache.clone()).chain(labels).collect();
        counter.add(1, &labels);
    }
}

impl Observer for CacheMetrics {
    fn observe(&self, event: Event) {
        match event {
            Event::Hit => self.count(&self.lookups, &[("result", "hit")]),
            Event::Miss => self.count(&self.lookups, &[("result", "miss")]),
            Event::Bypass(_) => self.count(&self.lookups, &[("result", "bypass")]),
            Event::Coalesced => self.count(&self.coalesced, &[]),
            Event::NotStored(reason) => self.count(&self.uncacheable, &[("reason", reason.as_str())]),
            Event::Fill(outcome) => self.count(&self.fills, &[("outcome", outcome.as_str())]),
            Event::Rejected(reason) => self.count(&self.rejected, &[("reason", reason.as_str())]),
            Event::Invalidation { delivered } => {
                let outcome = if delivered { "delivered" } else { "pending" };
                self.count(&self.invalidations, &[("outcome", outcome)]);
            }
            Event::StoreUnavailable => self.count(&self.store_errors, &[]),
            // What this version of the cache doesn't tell yet.
            _ => {}
        }
    }
}

/// Tells, whenever somebody asks, how the Redis behind the cache is.
pub(crate) fn observe_redis(meter: &Meter, redis: RedisStore) {
    meter
        .u64_observable_gauge("cache_layer.redis.connected")
        .with_unit("{connection}")
        .with_description("1 while Redis is believed to answer, 0 while requests are served without it")
        .with_callback(move |gauge| gauge.observe(u64::from(redis.connected()), &[]))
        .build();
}
