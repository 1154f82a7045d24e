#!/usr/bin/env bash
# tower-http's CompressionLayer compresses what says `no-transform`, and leaves the digest of the plain form on it.
#
# tower-http 0.7.1 (the newest). Run it with cargo 1.88 or newer: findings/tower-http-compresses-what-says-no-transform.sh
#
# A response says `Cache-Control: max-age=60, no-transform`, and has a `Repr-Digest` of its 4,000 bytes, as a proxy gets it
# from its origin. A client accepts gzip. Expected: the layer leaves it alone (RFC 9111, section 5.2.2.6, which binds proxies),
# since that is all that an origin can say to keep its digest true; or at least the digest goes, as `Content-Length` does.
# Seen: it is compressed, and the digest stays. RFC 9530 defines it over the bytes with their coding, so that what a cache
# outside of the layer stores is taken for damaged by everybody who verifies it.
#
# Output: content-encoding gzip, cache-control max-age=60, no-transform; the digest said is that of the body sent: false
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
base64 = "0.22"
bytes = "1"
http = "1"
http-body-util = "0.1"
sha2 = "0.10"
tokio = { version = "1", features = ["macros", "rt"] }
tower = { version = "0.5", default-features = false, features = ["util"] }
tower-http = { version = "=0.7.1", features = ["compression-gzip"] }

[profile.dev]
debug = false
TOML
cat >src/main.rs <<'RUST'
use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use sha2::{Digest, Sha256};
use std::{convert::Infallible, process::exit};
use tower::{Layer, ServiceExt, service_fn};
use tower_http::compression::CompressionLayer;

fn digest(of: &[u8]) -> String {
    format!("sha-256=:{}:", BASE64_STANDARD.encode(Sha256::digest(of)))
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let page = service_fn(async |_: Request<Full<Bytes>>| {
        let body = "one ".repeat(1000);
        let response = Response::builder()
            .header("content-type", "text/plain")
            .header("cache-control", "max-age=60, no-transform")
            .header("repr-digest", digest(body.as_bytes()));
        Ok::<_, Infallible>(response.body(Full::new(Bytes::from(body))).unwrap())
    });
    let request = Request::get("/").header("accept-encoding", "gzip").body(Full::default()).unwrap();
    let (head, body) = CompressionLayer::new().layer(page).oneshot(request).await.unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let field = |name| head.headers.get(name).map_or("none", |value| value.to_str().unwrap());
    let right = field("repr-digest") == digest(&body);
    println!(
        "content-encoding {}, cache-control {}; the digest said is that of the body sent: {right}",
        field("content-encoding"),
        field("cache-control"),
    );
    let plain = field("repr-digest") == digest("one ".repeat(1000).as_bytes());
    exit(if field("content-encoding") == "gzip" && plain && !right { 0 } else { 1 })
}
RUST
CARGO_TARGET_DIR=$folder/target cargo run --quiet
