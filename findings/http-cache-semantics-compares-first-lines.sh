#!/usr/bin/env bash
# http-cache-semantics compares only the first line of a request field that Vary names.
#
# http-cache-semantics 3.0.0 (the newest), by which http-cache 1.0 decides as well. Run it with cargo 1.85 or newer:
# findings/http-cache-semantics-compares-first-lines.sh
#
# A page has `Vary: Accept`. A client that says `Accept: text/html` and, in a second line, `Accept: image/avif` gets it with AVIF images,
# and it is kept. Expected: lines of one field are one list (RFC 9110, section 5.3), so the page fits clients that say the same, in one
# line or in two, and no client that says `Accept: text/html` alone (RFC 9111, section 4.1). Seen: it is the other way round. A client
# that says `text/html` alone gets the page from the cache, and one that says both in one line does not.
#
# Output: kept for text/html and, in a second line, image/avif
#         text/html alone: from the cache
#         both in two lines: from the cache
#         both in one line: asked again
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
http = "1"
http-cache-semantics = { version = "=3.0.0", default-features = false }

[profile.dev]
debug = false
TOML
cat >src/main.rs <<'RUST'
use http::{Request, Response};
use http_cache_semantics::CachePolicy;
use std::{process::exit, time::SystemTime};

fn accepting(lines: &[&str]) -> Request<()> {
    let builder = Request::get("http://shop.example/page");
    lines.iter().fold(builder, |builder, line| builder.header("accept", *line)).body(()).unwrap()
}

fn main() {
    let page = Response::builder().header("cache-control", "max-age=60").header("vary", "accept").body(()).unwrap();
    let policy = CachePolicy::new(&accepting(&["text/html", "image/avif"]), &page);
    println!("kept for text/html and, in a second line, image/avif");
    let is_kept_for = |who: &str, lines: &[&str]| {
        let kept = policy.before_request(&accepting(lines), SystemTime::now()).satisfies_without_revalidation();
        println!("{who}: {}", if kept { "from the cache" } else { "asked again" });
        kept
    };
    let alone = is_kept_for("text/html alone", &["text/html"]);
    let same = is_kept_for("both in two lines", &["text/html", "image/avif"]);
    let joined = is_kept_for("both in one line", &["text/html, image/avif"]);
    exit(if alone && same && !joined { 0 } else { 1 })
}
RUST
CARGO_TARGET_DIR=$folder/target cargo run --quiet
