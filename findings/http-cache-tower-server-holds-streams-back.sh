#!/usr/bin/env bash
# http-cache-tower-server holds a stream back until it ends, also one that must not be stored.
#
# http-cache-tower-server 0.2.6 (the newest), over its MokaManager. Run it with cargo 1.89 or newer:
# findings/http-cache-tower-server-holds-streams-back.sh
#
# An application sends an event each half second, with `Content-Type: text/event-stream` and `Cache-Control: no-store`. Expected:
# the layer passes on each event as it comes, since it will not store them. Seen: the layer collects the whole body before it answers,
# so that head and first event arrive when the stream has ended, half a second after its fourth and last event. A stream without an
# end never arrives.
#
# Output: without: first event after 0.0 s; with: first event after 2.0 s
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
futures-util = { version = "0.3", default-features = false }
http = "1"
http-body = "1"
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
use futures_util::stream::unfold;
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use http_cache::MokaManager;
use http_cache_tower_server::{QueryKeyer, ServerCacheLayer};
use std::{convert::Infallible, fmt::Debug, process::exit, time::{Duration, Instant}};
use tower::{Layer, Service, ServiceExt, service_fn};

const PAUSE: Duration = Duration::from_millis(500);

async fn events(_: Request<Full<Bytes>>) -> Result<Response<UnsyncBoxBody<Bytes, Infallible>>, Infallible> {
    let events = unfold(0, async |sent| {
        if sent > 0 {
            tokio::time::sleep(PAUSE).await;
        }
        (sent < 4).then(|| (Ok(Frame::data(Bytes::from("data: one\n\n"))), sent + 1))
    });
    let response = Response::builder().header("content-type", "text/event-stream").header("cache-control", "no-store");
    Ok(response.body(StreamBody::new(events).boxed_unsync()).unwrap())
}

/// Seconds until the first event is there.
async fn first<S, B>(service: S) -> f64
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>, Error: Debug>,
    B: Body<Data = Bytes, Error: Debug>,
{
    let began = Instant::now();
    let body = service.oneshot(Request::get("/events").body(Full::default()).unwrap()).await.unwrap().into_body();
    let mut body = Box::pin(body);
    body.frame().await.unwrap().unwrap();
    began.elapsed().as_secs_f64()
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let without = first(service_fn(events)).await;
    let with = first(ServerCacheLayer::with_keyer(MokaManager::default(), QueryKeyer).layer(service_fn(events))).await;
    println!("without: first event after {without:.1} s; with: first event after {with:.1} s");
    exit(if without < 0.4 && with > 1.4 { 0 } else { 1 })
}
RUST
CARGO_TARGET_DIR=$folder/target cargo run --quiet
