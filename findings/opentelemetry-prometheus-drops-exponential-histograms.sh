#!/usr/bin/env bash
# opentelemetry-prometheus leaves out every exponential histogram, and nobody is told.
#
# opentelemetry-prometheus, opentelemetry and opentelemetry_sdk 0.33.1 (the newest) with prometheus 0.14.0. Run it with cargo
# 1.88 or newer: findings/opentelemetry-prometheus-drops-exponential-histograms.sh
#
# A cache records how long its loads take in two histograms; a view gives one of them the exponential aggregation. Expected:
# both are in the scrape, or someone says that one can't be: the exporter, the provider, or the SDK's log (by `tracing`). Seen:
# one is missing from the scrape, with its name and type, as if there had been no load; nothing fails, and the log has no
# word of it, down to its debugging lines.
#
# Output: explicit buckets: in the scrape; exponential: not in the scrape; said in the log: nothing of it
#
# Exit status 0: it is as described. 1: it is not any more, or could not be tried.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
mkdir src
cat >Cargo.toml <<'TOML'
[package]
name = "tried"
edition = "2024"

[dependencies]
opentelemetry = { version = "=0.33.1", default-features = false, features = ["internal-logs", "metrics"] }
opentelemetry_sdk = { version = "=0.33.1", default-features = false, features = ["internal-logs", "metrics"] }
opentelemetry-prometheus = { version = "=0.33.1", default-features = false, features = ["internal-logs"] }
prometheus = { version = "=0.14.0", default-features = false }
tracing = { version = "0.1", default-features = false, features = ["std"] }

[profile.dev]
debug = false
TOML
cat >src/main.rs <<'RUST'
use opentelemetry::metrics::MeterProvider;
use opentelemetry_sdk::metrics::{Aggregation, Instrument, SdkMeterProvider, Stream};
use std::{fmt, fmt::Write, process::exit, sync::Mutex};
use tracing::{Event, Metadata, Subscriber, field::Field, field::Visit, span};

static LOG: Mutex<String> = Mutex::new(String::new());

/// Takes down what the SDK and the exporter say.
struct Log;

impl Subscriber for Log {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn event(&self, event: &Event<'_>) {
        struct Words<'a>(&'a mut String);
        impl Visit for Words<'_> {
            fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
                let _ = write!(self.0, "{}={value:?} ", field.name());
            }
        }
        let mut log = LOG.lock().unwrap();
        let _ = write!(log, "{} {}: ", event.metadata().level(), event.metadata().name());
        event.record(&mut Words(&mut log));
        log.push('\n');
    }
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

fn main() {
    tracing::subscriber::set_global_default(Log).unwrap();
    let registry = prometheus::Registry::new();
    let reader = opentelemetry_prometheus::exporter().with_registry(registry.clone()).build().unwrap();
    let provider = SdkMeterProvider::builder()
        .with_reader(reader)
        .with_view(|instrument: &Instrument| {
            let aggregation = Aggregation::Base2ExponentialHistogram { max_size: 160, max_scale: 20, record_min_max: true };
            (instrument.name() == "cache.exponential")
                .then(|| Stream::builder().with_aggregation(aggregation).build().unwrap())
        })
        .build();
    let meter = provider.meter("cache");
    for name in ["cache.explicit", "cache.exponential"] {
        meter.f64_histogram(name).with_unit("s").build().record(0.2, &[]);
    }
    let scrape = prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
    provider.force_flush().unwrap();
    let found = ["cache_explicit", "cache_exponential"].map(|name| scrape.contains(name));
    let log = LOG.lock().unwrap();
    let words = found.map(|found| if found { "in the scrape" } else { "not in the scrape" });
    let said = log.lines().filter(|line| !line.contains("InstrumentCreated")).any(|line| {
        line.starts_with("ERROR") || line.starts_with("WARN") || line.to_lowercase().contains("exponential")
    });
    println!(
        "explicit buckets: {}; exponential: {}; said in the log: {}",
        words[0],
        words[1],
        if said { &log } else { "nothing of it" }
    );
    exit(if found == [true, false] && !said && !log.is_empty() { 0 } else { 1 })
}
RUST
CARGO_TARGET_DIR=$folder/target cargo run --quiet
