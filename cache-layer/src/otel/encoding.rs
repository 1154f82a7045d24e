//! Metrics of encoding: labelled by the coding alone, for all caches together.

use std::time::Duration;

use opentelemetry::{
    KeyValue,
    metrics::{Counter, Meter},
};

use crate::coding::Coding;

pub(super) struct EncodingMetrics {
    encoded: Counter<u64>,
    content: Counter<u64>,
    time: Counter<f64>,
}

impl EncodingMetrics {
    pub(super) fn new(meter: &Meter) -> Self {
        Self {
            encoded: meter
                .u64_counter("cache_layer.encoded")
                .with_unit("{response}")
                .with_description(
                    "Stored responses that were encoded, by the coding; those that did not shrink as well",
                )
                .build(),
            content: meter
                .u64_counter("cache_layer.encoded.content")
                .with_unit("By")
                .with_description("Bytes of what was encoded, by the coding, before (in) and after (out)")
                .build(),
            time: meter
                .f64_counter("cache_layer.encode.time")
                .with_unit("s")
                .with_description("What encoding took, by the coding")
                .build(),
        }
    }

    pub(super) fn encoded(&self, coding: Coding, content: u64, coded: Option<u64>, duration: Duration) {
        let coding = KeyValue::new("coding", coding.as_str());
        self.encoded.add(1, std::slice::from_ref(&coding));
        self.time.add(duration.as_secs_f64(), std::slice::from_ref(&coding));
        for (way, bytes) in [("in", content), ("out", coded.unwrap_or(content))] {
            self.content.add(bytes, &[coding.clone(), KeyValue::new("way", way)]);
        }
    }
}
