#!/usr/bin/env bash
# A cache's metrics have other names in Prometheus when opentelemetry-prometheus exports them than when Python's exporter does.
#
# opentelemetry-prometheus, opentelemetry and opentelemetry_sdk 0.33.1 with prometheus 0.14.0 (Rust), beside
# opentelemetry-exporter-prometheus 0.66b2 with opentelemetry-sdk 1.45.2 (Python); each is the newest. Run it with cargo 1.88 and
# Python 3.10 or newer: findings/opentelemetry-prometheus-names-as-no-other.sh
#
# Two services have the same five instruments, with the same names and units, and say nothing else. Expected: a dashboard fits
# both. OpenTelemetry's rules for Prometheus give the unit `1` an ending for gauges alone, and none twice. Seen: not one
# name is the same. In Rust, a counter of hits whose unit is `1` becomes a ratio, and so does a number of entries; an
# ending that the name has already (`_total`, `_bytes`, `_ratio`) is set once more. Python does neither.
#
# Output: cache.hits, 1: cache_hits_ratio_total, Python cache_hits_total
#         cache.entries, 1: cache_entries_ratio, Python cache_entries
#         cache.hit_ratio, 1: cache_hit_ratio_ratio, Python cache_hit_ratio
#         cache.misses_total, {request}: cache_misses_total_total, Python cache_misses_total
#         cache.memory_bytes, By: cache_memory_bytes_bytes, Python cache_memory_bytes
#
# Exit status 0: it is as described. 1: it is not any more, or could not be tried.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check opentelemetry-exporter-prometheus==0.66b2 opentelemetry-sdk==1.45.2
mkdir src
cat >Cargo.toml <<'TOML'
[package]
name = "tried"
edition = "2024"

[dependencies]
opentelemetry = { version = "=0.33.1", default-features = false, features = ["metrics"] }
opentelemetry_sdk = { version = "=0.33.1", default-features = false, features = ["metrics"] }
opentelemetry-prometheus = { version = "=0.33.1", default-features = false }
prometheus = { version = "=0.14.0", default-features = false }

[profile.dev]
debug = false
TOML
cat >src/main.rs <<'RUST'
use opentelemetry::metrics::MeterProvider;
use opentelemetry_sdk::metrics::SdkMeterProvider;

fn main() {
    let registry = prometheus::Registry::new();
    let reader = opentelemetry_prometheus::exporter().with_registry(registry.clone()).build().unwrap();
    let provider = SdkMeterProvider::builder().with_reader(reader).build();
    let meter = provider.meter("cache");
    meter.u64_counter("cache.hits").with_unit("1").build().add(1, &[]);
    meter.u64_gauge("cache.entries").with_unit("1").build().record(5, &[]);
    meter.f64_gauge("cache.hit_ratio").with_unit("1").build().record(0.5, &[]);
    meter.u64_counter("cache.misses_total").with_unit("{request}").build().add(1, &[]);
    meter.u64_gauge("cache.memory_bytes").with_unit("By").build().record(5, &[]);
    println!("{}", prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap());
}
RUST
CARGO_TARGET_DIR=$folder/target cargo run --quiet >rust.txt

cat >try.py <<'PYTHON'
import sys

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import generate_latest

meter = MeterProvider([PrometheusMetricReader()]).get_meter("cache")
meter.create_counter("cache.hits", unit="1").add(1)
meter.create_gauge("cache.entries", unit="1").set(5)
meter.create_gauge("cache.hit_ratio", unit="1").set(0.5)
meter.create_counter("cache.misses_total", unit="{request}").add(1)
meter.create_gauge("cache.memory_bytes", unit="By").set(5)


def names(scrape):
    return {line.split()[2] for line in scrape.splitlines() if line.startswith("# TYPE cache")}


with open("rust.txt") as file:
    rust, python = names(file.read()), names(generate_latest().decode())
expected = [
    ("cache.hits, 1", "cache_hits_ratio_total", "cache_hits_total"),
    ("cache.entries, 1", "cache_entries_ratio", "cache_entries"),
    ("cache.hit_ratio, 1", "cache_hit_ratio_ratio", "cache_hit_ratio"),
    ("cache.misses_total, {request}", "cache_misses_total_total", "cache_misses_total"),
    ("cache.memory_bytes, By", "cache_memory_bytes_bytes", "cache_memory_bytes"),
]
for instrument, here, there in expected:
    print(f"{instrument}: {here if here in rust else '?'}, Python {there if there in python else '?'}")
sys.exit(0 if rust == {here for _, here, _ in expected} and python == {there for _, _, there in expected} else 1)
PYTHON
venv/bin/python try.py
