//! What sweeps of the store did: labelled by the cause alone, since a store may have several caches.

use std::time::Duration;

use opentelemetry::{
    KeyValue,
    metrics::{Counter, Meter},
};

use crate::telemetry::SweepCause;

pub(super) struct SweepMetrics {
    sweeps: Counter<u64>,
    removed: Counter<u64>,
    time: Counter<f64>,
}

impl SweepMetrics {
    pub(super) fn new(meter: &Meter) -> Self {
        Self {
            sweeps: meter
                .u64_counter("cache_layer.sweeps")
                .with_unit("{sweep}")
                .with_description("Sweeps of the store by this process, by why entries were void")
                .build(),
            removed: meter
                .u64_counter("cache_layer.sweep.removed")
                .with_unit("{entry}")
                .with_description("Void entries that sweeps removed, or stale ones that they marked")
                .build(),
            time: meter
                .f64_counter("cache_layer.sweep.time")
                .with_unit("s")
                .with_description("How long sweeps took, most of which is pauses")
                .build(),
        }
    }

    /// Counts a sweep of the store of one cache.
    pub(super) fn swept(&self, cause: SweepCause, removed: u64, duration: Duration) {
        let labels = [KeyValue::new("cause", cause.as_str())];
        self.sweeps.add(1, &labels);
        self.removed.add(removed, &labels);
        self.time.add(duration.as_secs_f64(), &labels);
    }
}
