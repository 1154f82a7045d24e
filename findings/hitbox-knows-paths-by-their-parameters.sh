#!/usr/bin/env bash
# hitbox's key of a path has its parameters and nothing else: /users/42 and /orders/42 are one entry.
#
# hitbox 0.2.4, hitbox-http 0.2.1, hitbox-tower 0.2.0 and hitbox-moka 0.2.0 (the newest). Run it with cargo 1.92 or newer:
# findings/hitbox-knows-paths-by-their-parameters.sh
#
# Two routes have a layer each, with `Method::new().path("/users/{id}")` and `.path("/orders/{id}")`, and share a backend, as they
# would share a Redis. Expected: the key tells the two paths apart. Seen: the key is method=GET, id=42 for both, so that the request for
# the order gets the entry of the user. A path that does not match its layer's pattern adds nothing to the key, so that all such paths
# share one entry: /contact gets the entry of /about.
#
# Output: /users/42: MISS, this is /users/42
#         /orders/42: HIT, this is /users/42
#         /about: MISS, this is /about
#         /contact: HIT, this is /about
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
bytes = "1"
hitbox = "=0.2.4"
hitbox-http = "=0.2.1"
hitbox-moka = "=0.2.0"
hitbox-tower = "=0.2.0"
http = "1"
http-body-util = "0.1"
tokio = { version = "1", features = ["macros", "rt", "time"] }
tower = { version = "0.5", default-features = false, features = ["util"] }

[profile.dev]
debug = false
TOML
cat >src/main.rs <<'RUST'
use bytes::Bytes;
use hitbox::{Config, policy::PolicyConfig};
use hitbox_http::{
    BufferedBody,
    extractors::{Method, path::PathExtractor},
    predicates::{NeutralRequestPredicate, NeutralResponsePredicate},
};
use hitbox_moka::MokaBackend;
use hitbox_tower::Cache;
use http::{Request, Response};
use http_body_util::Full;
use std::{convert::Infallible, process::exit, time::Duration};
use tower::{Layer, ServiceExt, service_fn};

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let backend = MokaBackend::builder().max_entries(1000).build();
    let mut seen = Vec::new();
    for (pattern, path) in [
        ("/users/{id}", "/users/42"),
        ("/orders/{id}", "/orders/42"),
        ("/users/{id}", "/about"),
        ("/users/{id}", "/contact"),
    ] {
        let page = service_fn(async |request: Request<BufferedBody<Full<Bytes>>>| {
            let page = format!("this is {}", request.uri().path());
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(page))))
        });
        let config = Config::builder()
            .request_predicate(NeutralRequestPredicate::new())
            .response_predicate(NeutralResponsePredicate::new())
            .extractor(Method::new().path(pattern))
            .policy(PolicyConfig::builder().ttl(Duration::from_secs(60)).build())
            .build();
        let cached = Cache::builder().backend(backend.clone()).config(config).build().layer(page);
        let request = Request::get(path).body(Full::<Bytes>::default()).unwrap();
        let (head, body) = cached.oneshot(request).await.unwrap().into_parts();
        let body = String::from_utf8_lossy(&body.collect().await.unwrap()).into_owned();
        let status = head.headers.get("x-cache-status").map_or("none", |value| value.to_str().unwrap());
        println!("{path}: {status}, {body}");
        seen.push((status.to_owned(), body));
    }
    let is = |at: usize, status: &str, of: &str| seen[at] == (status.to_owned(), format!("this is {of}"));
    let described = is(0, "MISS", "/users/42") && is(1, "HIT", "/users/42") && is(2, "MISS", "/about") && is(3, "HIT", "/about");
    exit(if described { 0 } else { 1 })
}
RUST
CARGO_TARGET_DIR=$folder/target cargo run --quiet
