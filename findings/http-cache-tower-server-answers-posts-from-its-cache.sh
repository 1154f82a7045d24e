#!/usr/bin/env bash
# http-cache-tower-server answers a POST with its response to another one, which never reaches the application.
#
# http-cache-tower-server 0.2.6 (the newest), over its MokaManager. Run it with cargo 1.89 or newer:
# findings/http-cache-tower-server-answers-posts-from-its-cache.sh
#
# A search takes its query as the body of a POST, and says of its response `Cache-Control: max-age=60`. Two clients search for
# different things. Expected: both reach the application. RFC 9111, section 4: a cache must write through requests with unsafe
# methods, and not reply before it has forwarded them; section 9.3.3 of RFC 9110: what is cached of a POST may answer a later GET or
# HEAD. Seen: the second gets the results of the first, as a hit. Keys are method and URI; no method is left out.
#
# Output: tea: MISS, results for tea; coffee: HIT, results for tea; the application was asked 1 time(s)
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
http = "1"
http-body-util = "0.1"
http-cache = { version = "=1.0.0-alpha.9", default-features = false, features = ["manager-moka", "url-standard"] }
http-cache-tower-server = { version = "=0.2.6", default-features = false, features = ["manager-moka", "url-standard"] }
tokio = { version = "1", features = ["macros", "rt", "time"] }
tower = { version = "0.5", default-features = false, features = ["util"] }

[profile.dev]
debug = false
TOML
cat >src/main.rs <<'RUST'
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use http_cache::MokaManager;
use http_cache_tower_server::{QueryKeyer, ServerCacheLayer};
use std::{
    convert::Infallible,
    process::exit,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};
use tower::{Layer, ServiceExt, service_fn};

static ASKED: AtomicU32 = AtomicU32::new(0);

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let search = service_fn(async |request: Request<Full<Bytes>>| {
        ASKED.fetch_add(1, Ordering::Relaxed);
        let query = request.into_body().collect().await.unwrap().to_bytes();
        let found = format!("results for {}", String::from_utf8_lossy(&query));
        let response = Response::builder().header("cache-control", "max-age=60");
        Ok::<_, Infallible>(response.body(Full::new(Bytes::from(found))).unwrap())
    });
    let cached = ServerCacheLayer::with_keyer(MokaManager::default(), QueryKeyer).layer(search);
    let mut seen = Vec::new();
    for query in ["tea", "coffee"] {
        let request = Request::post("/search").body(Full::new(Bytes::from(query))).unwrap();
        let (head, body) = cached.clone().oneshot(request).await.unwrap().into_parts();
        let body = String::from_utf8_lossy(&body.collect().await.unwrap().to_bytes()).into_owned();
        let status = head.headers.get("x-cache").map_or("none", |value| value.to_str().unwrap());
        seen.push(format!("{query}: {status}, {body}"));
        // What it keeps, it keeps in a task.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let asked = ASKED.load(Ordering::Relaxed);
    println!("{}; the application was asked {asked} time(s)", seen.join("; "));
    exit(if seen[1] == "coffee: HIT, results for tea" && asked == 1 { 0 } else { 1 })
}
RUST
CARGO_TARGET_DIR=$folder/target cargo run --quiet
