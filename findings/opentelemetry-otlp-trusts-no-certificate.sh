#!/usr/bin/env bash
# opentelemetry-otlp's gRPC exporter, with the feature that adds the system's trust roots, trusts no certificate.
#
# opentelemetry-otlp and opentelemetry_sdk 0.33.1 (the newest), features `grpc-tonic`, `tls-ring` and `tls-roots`, without default
# features. Run it with cargo 1.88 or newer: findings/opentelemetry-otlp-trusts-no-certificate.sh
#
# A collector has a certificate for `localhost` that the system trusts (`SSL_CERT_FILE`). The exporter's endpoint is
# `https://localhost:PORT`. Expected: as `tls-roots` "adds system trust roots", the exporter connects and sends its span. Seen: it breaks
# off each handshake, since its set of roots is empty, and no span ever comes; without the default feature `internal-logs`, no line
# tells of it. With `.with_tls_config(ClientTlsConfig::new().with_enabled_roots())` the same exporter connects.
#
# Output: as it is built: the handshake fails, received fatal alert: UnknownCA
#         with_enabled_roots: the handshake succeeds
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
opentelemetry = { version = "=0.33.1", default-features = false, features = ["trace"] }
opentelemetry-otlp = { version = "=0.33.1", default-features = false, features = ["grpc-tonic", "tls-ring", "tls-roots", "trace"] }
opentelemetry_sdk = { version = "=0.33.1", default-features = false, features = ["trace"] }
rcgen = { version = "0.14", default-features = false, features = ["ring", "pem"] }
tokio = { version = "1", features = ["macros", "net", "rt-multi-thread", "time"] }
tokio-rustls = { version = "0.26", default-features = false, features = ["ring"] }

[profile.dev]
debug = false
TOML
cat >src/main.rs <<'RUST'
use opentelemetry::trace::{Tracer, TracerProvider};
use opentelemetry_otlp::{SpanExporter, WithExportConfig, WithTonicConfig, tonic_types::transport::ClientTlsConfig};
use opentelemetry_sdk::trace::SdkTracerProvider;
use std::{process::exit, sync::Arc, time::Duration};
use tokio::{net::TcpListener, time::timeout};
use tokio_rustls::{TlsAcceptor, rustls::{ServerConfig, pki_types::PrivatePkcs8KeyDer}};

/// The result of the first handshake of an exporter with the collector.
async fn handshake(listener: &TcpListener, collector: &TlsAcceptor, tls: Option<ClientTlsConfig>) -> Result<(), String> {
    let endpoint = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    let mut exporter = SpanExporter::builder().with_tonic().with_endpoint(endpoint).with_timeout(Duration::from_secs(5));
    if let Some(tls) = tls {
        exporter = exporter.with_tls_config(tls);
    }
    let provider = SdkTracerProvider::builder().with_batch_exporter(exporter.build().unwrap()).build();
    drop(provider.tracer("tried").start("span"));
    let flushing = tokio::task::spawn_blocking(move || drop(provider.force_flush()));
    let (stream, _) = timeout(Duration::from_secs(10), listener.accept()).await.expect("the exporter connects").unwrap();
    let result = collector.accept(stream).await.map(drop).map_err(|error| error.to_string());
    drop(flushing);
    result
}

#[tokio::main]
async fn main() {
    let certificate = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write("roots.pem", certificate.cert.pem()).unwrap();
    let key = PrivatePkcs8KeyDer::from(certificate.signing_key.serialize_der()).into();
    let provider = tokio_rustls::rustls::crypto::ring::default_provider();
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider)).with_safe_default_protocol_versions().unwrap()
        .with_no_client_auth().with_single_cert(vec![certificate.cert.der().clone()], key).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let collector = TlsAcceptor::from(Arc::new(config));
    let tell = |which: &str, result: &Result<(), String>| match result {
        Ok(()) => println!("{which}: the handshake succeeds"),
        Err(error) => println!("{which}: the handshake fails, {error}"),
    };
    let listener = TcpListener::bind("localhost:0").await.unwrap();
    let plain = handshake(&listener, &collector, None).await;
    tell("as it is built", &plain);
    let listener = TcpListener::bind("localhost:0").await.unwrap();
    let enabled = handshake(&listener, &collector, Some(ClientTlsConfig::new().with_enabled_roots())).await;
    tell("with_enabled_roots", &enabled);
    exit(if plain.is_err() && enabled.is_ok() { 0 } else { 1 })
}
RUST
CARGO_TARGET_DIR=$folder/target cargo build --quiet
# The program writes that file in the folder before the exporter reads it.
SSL_CERT_FILE=$folder/roots.pem target/debug/tried
