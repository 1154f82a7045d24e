//! Numbers: at `/metrics` for Prometheus, and by OTLP where a collector is named.

use std::{fmt, time::Instant};

use axum::{
    extract::{Request, State},
    http::{Method, StatusCode},
    middleware::Next,
    response::Response,
};
use cache_layer::otel;
use cache_layer_admin::Recorder;
use opentelemetry::{
    KeyValue,
    metrics::{Counter, Histogram, MeterProvider as _, UpDownCounter},
};
use opentelemetry_sdk::metrics::{Instrument, SdkMeterProvider, Stream};
use prometheus::{Registry, TextEncoder};

use super::{otlp, traces::route};
use crate::config::ConfigError;

/// Each cache has a few of the many reasons not to store. Beyond this number in a process, they are counted together.
const MOST_REASONS: usize = 100;

/// Seconds: from a hit in memory to a request that is given up. A hit in Redis takes some 200 microseconds, which the
/// buckets that the conventions advise, from 5 milliseconds up, would not tell from ten times as much. The alerts use the
/// bound of a quarter of a second.
const SECONDS: [f64; 8] = [0.000_1, 0.000_5, 0.002_5, 0.01, 0.05, 0.25, 1.0, 5.0];

/// The metrics of one server; a clone counts into the same ones.
#[derive(Clone)]
pub(crate) struct Metrics {
    provider: SdkMeterProvider,
    registry: Registry,
    requests: Counter<u64>,
    duration: Histogram<f64>,
    active: UpDownCounter<i64>,
}

impl Metrics {
    pub(crate) fn new() -> Result<Self, ConfigError> {
        let registry = Registry::new();
        let scraped = opentelemetry_prometheus::exporter()
            .with_registry(registry.clone())
            .scope_info_enabled(false)
            .build()
            .map_err(|error| ConfigError::Wrong(format!("metrics: {error}")))?;
        let mut provider =
            SdkMeterProvider::builder().with_resource(otlp::resource()).with_reader(scraped).with_view(bounded);
        if let Some(exporter) = otlp::metric_exporter()? {
            provider = provider.with_periodic_exporter(exporter);
        }
        let provider = provider.build();
        let meter = provider.meter(env!("CARGO_PKG_NAME"));
        let requests = meter
            .u64_counter("http.server.requests")
            .with_unit("{request}")
            .with_description("Requests that were answered, by method, route and status")
            .build();
        let duration = meter
            .f64_histogram("http.server.request.duration")
            .with_unit("s")
            .with_description("How long requests took, until their response began, by route")
            .with_boundaries(SECONDS.to_vec())
            .build();
        let active = meter
            .i64_up_down_counter("http.server.active_requests")
            .with_unit("{request}")
            .with_description("Requests that are being answered")
            .build();
        Ok(Self { provider, registry, requests, duration, active })
    }

    /// The instruments of the cache called `name`.
    pub(crate) fn of_cache(&self, name: &'static str) -> otel::Metrics {
        otel::Metrics::new(&self.provider.meter("cache_layer"), name)
    }

    /// Reports, at each collection, the hit ratio that the cache called `name` would have with room for a half, for as much, for twice
    /// and for four times of the entries that there are.
    pub(crate) fn watch_sizing(
        &self,
        name: &'static str,
        recorder: &Recorder,
        entries: impl Fn() -> u64 + Send + Sync + 'static,
    ) {
        const SIZES: [(&str, u64); 4] = [("0.5", 1), ("1", 2), ("2", 4), ("4", 8)];
        let recorder = recorder.clone();
        self.provider
            .meter("cache_layer")
            .f64_observable_gauge("cache_layer.sizing.hit_ratio")
            .with_description("The hit ratio that there would be with so many times the room in memory, by an estimate")
            .with_callback(move |gauge| {
                for (size, halves) in SIZES {
                    if let Some(ratio) = recorder.hit_ratio_with(entries() * halves / 2) {
                        gauge.observe(ratio, &[KeyValue::new("cache", name), KeyValue::new("size", size)]);
                    }
                }
            })
            .build();
    }

    /// All of them, in the text format of Prometheus.
    pub(crate) fn text(&self) -> Result<String, prometheus::Error> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }

    /// Sends what is left to the collector, and waits for it a little.
    pub(crate) async fn shutdown(self) {
        // It blocks its thread.
        let _ = tokio::task::spawn_blocking(move || self.provider.shutdown_with_timeout(otlp::FLUSH_TIMEOUT)).await;
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

/// A request that is being answered, until it is dropped.
struct Active {
    count: UpDownCounter<i64>,
    method: KeyValue,
}

impl Active {
    fn new(metrics: &Metrics, method: &KeyValue) -> Self {
        let (count, method) = (metrics.active.clone(), method.clone());
        count.add(1, std::slice::from_ref(&method));
        Self { count, method }
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.count.add(-1, std::slice::from_ref(&self.method));
    }
}

/// Measures every request, by its route and never by its path.
pub(crate) async fn measure(State(metrics): State<Metrics>, request: Request, next: Next) -> Response {
    let began = Instant::now();
    let method = KeyValue::new("http.request.method", known(request.method()));
    let route = route(request.extensions()).map(ToOwned::to_owned);
    let active = Active::new(&metrics, &method);
    let response = next.run(request).await;
    drop(active);
    let status = response.status();
    // A route has only the methods that it knows: clients must not multiply them.
    let route = route.filter(|_| status != StatusCode::METHOD_NOT_ALLOWED);
    let route = route.map(|route| KeyValue::new("http.route", route));
    metrics.duration.record(began.elapsed().as_secs_f64(), route.as_slice());
    let status = KeyValue::new("http.response.status_code", i64::from(status.as_u16()));
    let labels: Vec<_> = [method, status].into_iter().chain(route).collect();
    metrics.requests.add(1, &labels);
    response
}

/// Limits instruments that would otherwise have more series than are of use.
fn bounded(instrument: &Instrument) -> Option<Stream> {
    let bounded =
        (instrument.name() == otel::UNCACHEABLE).then(|| Stream::builder().with_cardinality_limit(MOST_REASONS));
    bounded.and_then(|stream| stream.build().ok())
}

/// Clients can make methods up, and labels must not grow with them.
fn known(method: &Method) -> &'static str {
    const KNOWN: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
    KNOWN.into_iter().find(|known| known == &method.as_str()).unwrap_or("_OTHER")
}
