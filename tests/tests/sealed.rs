//! Entries that need not trust Redis: what lies there tells nothing, and what was changed there is not believed.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use cache_layer::{
    Cache, CacheBuilder, Clock, Key, Switch, SwitchError,
    store::{KeyRing, RedisStore, Reserved, TieredStore},
    telemetry::Rejection,
};
use http::{Request, StatusCode};
use tests::{App, Body, Gate, Origin, RedisServer, echo, wait_until};

const LIMIT: Duration = Duration::from_secs(30);
const NAMES: [u8; 32] = [1; 32];
const OLD: [u8; 32] = [2; 32];
const NEW: [u8; 32] = [3; 32];

async fn connect(server: &RedisServer, ring: Option<KeyRing>) -> RedisStore {
    let store = RedisStore::builder(server.url()).operation_timeout(Duration::from_secs(10));
    let store = match ring {
        Some(ring) => store.sealed_with(ring),
        None => store,
    };
    let store = store.build().unwrap();
    assert!(store.wait_connected(LIMIT).await);
    store
}

async fn cache(server: &RedisServer, ring: KeyRing) -> Cache {
    Cache::new(connect(server, Some(ring)).await)
}

async fn tiered(server: &RedisServer, ring: KeyRing) -> CacheBuilder {
    Cache::builder(TieredStore::new(16 << 20, connect(server, Some(ring)).await))
}

fn ring() -> KeyRing {
    KeyRing::new(NAMES, OLD)
}

/// The name of the one entry that there is.
fn entry_name(server: &RedisServer) -> String {
    let mut entries = server.keys().into_iter().filter(|name| name.starts_with("cache:e:"));
    let name = entries.next().expect("an entry");
    assert_eq!(entries.next(), None);
    name
}

#[tokio::test(flavor = "multi_thread")]
async fn the_record_of_a_request_is_read_with_the_keys_alone() {
    let server = RedisServer::start();
    let (one, other) = (cache(&server, ring()).await, cache(&server, ring()).await);
    let stranger = cache(&server, KeyRing::new(NAMES, NEW)).await;
    for _ in 0..2 {
        // A process recognizes its own record if a request is sent twice.
        assert_eq!(one.reserve_request("id", b"product:42", LIMIT).await, Ok(Reserved::Now));
    }
    assert_eq!(other.reserve_request("id", b"another", LIMIT).await, Ok(Reserved::Before("product:42".into())));
    assert_eq!(stranger.reserve_request("id", b"another", LIMIT).await, Ok(Reserved::Before("".into())));
    let raw: Vec<u8> = server.command(&["GET", "cache:request:id"]);
    assert!(!raw.windows(7).any(|part| part == b"product"));

    let before = |record: &'static str| Ok(Reserved::Before(record.into()));
    for record in [&b"product:42"[..], b"answered"] {
        assert_eq!(stranger.record_request("id", b"another", b"its own", LIMIT).await, before(""));
        assert_eq!(other.record_request("id", b"another", b"its own", LIMIT).await, before("product:42"));
        assert_eq!(one.record_request("id", b"product:42", record, LIMIT).await, Ok(Reserved::Now));
    }
    // Once the record is another one, it stays: a late renewal does not take the answer's place.
    assert_eq!(one.record_request("id", b"product:42", b"product:42", LIMIT).await, before("answered"));
    assert_eq!(other.reserve_request("id", b"another", LIMIT).await, before("answered"));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_the_keys_finds_what_others_stored_and_hears_what_they_invalidate() {
    let server = RedisServer::start();
    let (one, other) = (tiered(&server, ring()).await.build(), tiered(&server, ring()).await.build());
    one.set(("product", 7), "lamp").tags(["product:7"]).await.unwrap();
    for cache in [&one, &other] {
        assert_eq!(cache.get::<String>(("product", 7)).await.as_deref(), Some("lamp"));
    }
    one.invalidate_tag("product:7").await.unwrap();
    wait_until("it is void everywhere", async || !other.contains(("product", 7)).await).await;
    other.set(("product", 7), "desk").await.unwrap();
    wait_until("it is there", async || one.contains(("product", 7)).await).await;
    one.delete(("product", 7)).await.unwrap();
    wait_until("it is void everywhere", async || !other.contains(("product", 7)).await).await;
    // One process of the fleet loads, and the others wait for it.
    let calls = Arc::new(AtomicUsize::new(0));
    let asks = [&one, &other, &one, &other].map(|cache| {
        let calls = calls.clone();
        tokio::spawn(
            cache
                .get_or_load("rates", async move || {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    Ok::<_, Infallible>(calls.fetch_add(1, Ordering::SeqCst))
                })
                .into_future(),
        )
    });
    for ask in asks {
        assert_eq!(ask.await.unwrap(), Ok(0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn variants_are_found_and_go_with_their_key() {
    let server = RedisServer::start();
    let cache = tiered(&server, ring()).await.build();
    let fields: &[(&str, &str)] = &[("cache-control", "max-age=60"), ("vary", "accept-language")];
    let origin = Origin::new(move |call, request| async move { Ok(echo(call, &request, fields)) });
    let app = App::new(cache.clone(), &origin, |layer| layer);
    for _ in 0..2 {
        for (language, call) in [("de", "1"), ("fr", "2")] {
            let answer = app.get("/page", &[("accept-language", language)]).await;
            assert_eq!(answer.header("x-call"), Some(call));
        }
    }
    cache.invalidate_all().await.unwrap();
    assert_eq!(app.get("/page", &[("accept-language", "de")]).await.header("x-call"), Some("3"));
    // A pattern has no names to match.
    assert_eq!(cache.delete_pattern("*nothing*").counted().await, Ok(0));
    assert_eq!(app.get("/page", &[("accept-language", "de")]).await.header("x-call"), Some("4"));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_other_keys_finds_nothing_and_is_told_why() {
    let server = RedisServer::start();
    cache(&server, ring()).await.set("k", "secret").await.unwrap();
    let other = cache(&server, KeyRing::new(NAMES, NEW)).await;
    assert_eq!(other.get::<String>("k").await, None);
    assert_eq!(other.counts().rejected, [(Rejection::Seal, 1)]);
    let elsewhere = cache(&server, KeyRing::new(NEW, OLD)).await;
    assert_eq!(elsewhere.get::<String>("k").await, None);
    assert_eq!(elsewhere.counts().rejected, [], "it has another name there");
    // A process without the keys writes nothing that is believed.
    let plain = Cache::new(connect(&server, None).await);
    plain.set("k", "forged").await.unwrap();
    let names: Vec<String> = server.keys().into_iter().filter(|name| name.starts_with("cache:e:")).collect();
    let (readable, hidden): (Vec<_>, Vec<_>) = names.iter().partition(|name| name.ends_with(":k"));
    let forged: Vec<u8> = server.command(&["GET", readable[0]]);
    let mut put = ::redis::cmd("SET");
    put.arg(hidden[0]).arg(forged);
    let client = ::redis::Client::open(server.url()).unwrap();
    let () = put.query(&mut client.get_connection().unwrap()).unwrap();
    let honest = cache(&server, ring()).await;
    assert_eq!(honest.get::<String>("k").await, None);
    assert_eq!(honest.counts().rejected, [(Rejection::Seal, 1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_of_the_server_holds_no_key_no_tag_and_no_value() {
    let dump_of = async |ring: Option<KeyRing>| {
        let server = RedisServer::start();
        let () = server.command(&["CONFIG", "SET", "rdbcompression", "no"]);
        let cache = Cache::new(connect(&server, ring).await);
        cache.set(("a-secret-key", 7), "a-secret-value").tags(["a-secret-tag"]).await.unwrap();
        let load = async || Ok::<_, Infallible>("a-secret-load".to_owned());
        cache.get_or_load("a-secret-name", load).tags(["a-secret-tag"]).await.unwrap();
        assert!(cache.drain(LIMIT).await);
        let () = server.command(&["SAVE"]);
        let folder: Vec<String> = server.command(&["CONFIG", "GET", "dir"]);
        std::fs::read(format!("{}/dump.rdb", folder[1])).unwrap()
    };
    let (plain, sealed) = (dump_of(None).await, dump_of(Some(ring())).await);
    for secret in ["a-secret-key", "a-secret-value", "a-secret-tag", "a-secret-load", "a-secret-name"] {
        let is_in = |dump: &[u8]| dump.windows(secret.len()).any(|window| window == secret.as_bytes());
        assert!(is_in(&plain), "{secret}: otherwise this looks in the wrong place");
        assert!(!is_in(&sealed), "{secret}");
    }
}

/// Who changes what is readable changes the list at `sealed_with`.
#[tokio::test(flavor = "multi_thread")]
async fn the_head_of_an_entry_tells_what_the_documentation_lists() {
    const MINUTE: Duration = Duration::from_secs(60);
    let (server, clock) = (RedisServer::start(), Clock::manual());
    let cache = Cache::builder(connect(&server, Some(ring())).await).clock(clock.clone()).build();
    let load = {
        let clock = clock.clone();
        async move || {
            clock.advance(Duration::from_millis(1_234));
            Ok::<_, Infallible>("a-secret".to_owned())
        }
    };
    let ask = cache.get_or_load("name", load).tags(["one", "four"]).ttl(MINUTE);
    ask.stale_while_revalidate(2 * MINUTE).stale_if_error(3 * MINUTE).keep(4 * MINUTE).await.unwrap();
    assert!(cache.drain(LIMIT).await);
    let name = entry_name(&server);
    let read = || server.command::<Vec<u8>>(&["GET", &name]);
    let sealed = read();
    let number = |bytes: &[u8], from: usize, length: usize| {
        bytes[from..from + length].iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
    };
    let of = |from, length| number(&sealed, from, length);
    assert_eq!((&sealed[..4], of(4, 4), of(24, 8)), (&b"CLE\x02"[..], 0, 0), "version, soft invalidation, no checksum");
    let minutes = [1, 3, 4, 0, 5].map(|minutes| clock.now() + minutes * 60_000);
    assert_eq!([32, 40, 48, 56, 64].map(|from| of(from, 8)), minutes, "its moments");
    assert_eq!(of(72, 4), 1_234, "how long its load took");
    let (key, tags, meta, payload) = (of(76, 4), of(80, 2), of(82, 4), of(87, 7));
    assert!(key > 0 && meta > 0, "the lengths of its key and its metadata");
    assert_eq!(
        (tags, sealed[86], payload),
        (3, 0x80, 10),
        "its tags, with that of everything; not compressed; a string as JSON"
    );
    let ring_key = |bytes: &[u8]| bytes[94..98].to_vec();
    let tags = 3 * (2 + 32) + ["one", "four"].concat().len() as u64;
    assert_eq!(sealed.len() as u64, 94 + 4 + 12 + key + tags + meta + payload + 16, "the rest is sealed");
    cache.soft_invalidate(&Key::new(["name"])).await.unwrap();
    let softened = number(&read(), 4, 4) * 1_000;
    assert!(softened.abs_diff(clock.now()) < 60_000, "when its key was softly invalidated: {softened}");
    cache.set("name", "another").await.unwrap();
    assert_eq!(ring_key(&read()), ring_key(&sealed), "which key sealed it");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_leases_and_tags_tell_what_the_documentation_lists() {
    let server = RedisServer::start();
    let cache = Cache::builder(connect(&server, Some(ring())).await).switches(true).build();
    let fields: &[(&str, &str)] = &[("vary", "accept-language"), ("cache-control", "max-age=60")];
    let origin = Origin::new(move |call, request: Request<Body>| async move {
        let mut response = echo(call, &request, if request.uri().path() == "/kept" { fields } else { &[] });
        if request.uri().path() == "/fails" {
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        }
        Ok(response)
    });
    let app = App::new(cache.clone(), &origin, |layer| layer.share_failures(true).failure_backoff(LIMIT, LIMIT));
    for path in ["/kept", "/fails", "/not-kept"] {
        app.get(path, &[]).await;
    }
    cache.set("name", "value").tags(["one", "four"]).await.unwrap();
    cache.invalidate_tag("one").await.unwrap();
    assert_eq!(cache.reserve_request("purge-7", b"a-secret", LIMIT).await, Ok(Reserved::Now));
    assert!(cache.audit(b"a-secret").await.unwrap());
    let gate = Gate::closed();
    let loading = {
        let gate = gate.clone();
        async move || {
            gate.pass().await;
            Ok::<_, Infallible>(7)
        }
    };
    let loading = tokio::spawn(cache.get_or_load("loading", loading).into_future());
    let of_kind = |kind: &str| {
        let prefix = format!("cache:{kind}:");
        let names = server.keys().into_iter().filter_map(|name| name.strip_prefix(&prefix).map(str::to_owned));
        let mut found: Vec<(String, Vec<u8>)> =
            names.map(|rest| (rest.clone(), server.command(&["GET", &format!("{prefix}{rest}")]))).collect();
        found.sort_by(|one, other| one.1.cmp(&other.1));
        found
    };
    wait_until("all loads have left what they leave", async || of_kind("l").len() == 3).await;
    cache.switch(Switch::StopFills, LIMIT).await.unwrap();
    // Of a load: how it failed, that it can't be stored, or whose it is and since when.
    let (leases, is_hex) = (of_kind("l"), |text: &[u8]| text.iter().all(u8::is_ascii_hexdigit));
    let time = leases[0].1.strip_prefix(b"!f1:503:").expect("one has failed once, with this status");
    assert!(time.len() == 16 && is_hex(time));
    assert_eq!(leases[1].1, b"!u");
    assert!(leases[2].1.len() == 16 && is_hex(&leases[2].1));
    // Of a tag: its length, twice, since it is hexadecimal, beside 16 bytes; when it was last invalidated, or made.
    let tags = of_kind("t");
    let mut lengths: Vec<_> = tags.iter().map(|(name, _)| name.len() / 2 - 16).collect();
    lengths.sort_unstable();
    assert!(lengths.starts_with(&[0, 3, 4]), "{lengths:?}");
    assert!(tags.iter().all(|(name, token)| is_hex(name.as_bytes()) && token.len() == 32 && is_hex(&token[..31])));
    // Of a key: which names are of one key, and of its variants.
    for (name, _) in ["e", "l", "v"].into_iter().flat_map(of_kind) {
        let (primary, variant) = name.strip_prefix('{').and_then(|name| name.split_once("}:")).expect("two parts");
        assert!(primary.len() == 32 && is_hex(primary.as_bytes()), "{name}");
        let variant = variant.strip_suffix(':').expect("nothing readable");
        assert!(variant == "-" || variant.len() == 32 && is_hex(variant.as_bytes()), "{name}");
    }
    let others = ["audit", "i", "id", "mark", "request:purge-7", "switches"].map(|name| format!("cache:{name}"));
    let kinds = ["e", "l", "v", "t"].map(|kind| format!("cache:{kind}:"));
    let is_listed = |name: &String| others.contains(name) || kinds.iter().any(|kind| name.starts_with(kind));
    assert_eq!(server.keys().into_iter().filter(|name| !is_listed(name)).collect::<Vec<_>>(), [""; 0]);
    gate.open();
    assert_eq!(loading.await.unwrap(), Ok(7));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_changed_cut_or_swapped_in_the_server_is_a_miss() {
    let server = RedisServer::start();
    let cache = cache(&server, ring()).await;
    cache.set("k", "value").await.unwrap();
    let name = entry_name(&server);
    let length: usize = server.command(&["STRLEN", &name]);
    let before: Vec<u8> = server.command(&["GET", &name]);
    let client = ::redis::Client::open(server.url()).unwrap();
    let mut connection = client.get_connection().unwrap();
    let mut put = |bytes: &[u8]| {
        let () = ::redis::cmd("SET").arg(&name).arg(bytes).query(&mut connection).unwrap();
    };
    for place in (8..length).step_by(7) {
        let mut changed = before.clone();
        changed[place] ^= 0x10;
        put(&changed);
        assert_eq!(cache.get::<String>("k").await, None, "byte {place}");
        put(&before[..place]);
        assert_eq!(cache.get::<String>("k").await, None, "cut at {place}");
    }
    let reasons: Vec<Rejection> = cache.counts().rejected.into_iter().map(|(reason, _)| reason).collect();
    assert!(reasons.iter().all(|reason| matches!(reason, Rejection::Seal | Rejection::Truncated)), "{reasons:?}");
    put(&before);
    assert_eq!(cache.get::<String>("k").await.as_deref(), Some("value"), "it is as it was");
    cache.set("other", "other").await.unwrap();
    let other = server.keys().into_iter().find(|other| other.starts_with("cache:e:") && *other != name).unwrap();
    let bytes: Vec<u8> = server.command(&["GET", &other]);
    put(&bytes);
    assert_eq!(cache.get::<String>("k").await, None, "it is another key's");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_under_load_costs_no_miss() {
    const KEYS: usize = 100;
    let server = RedisServer::start();
    let loads = Arc::new(AtomicUsize::new(0));
    let read_all = async |cache: &Cache| {
        for id in 0..KEYS {
            let loads = loads.clone();
            let load = async move || {
                loads.fetch_add(1, Ordering::SeqCst);
                Ok::<_, Infallible>(id)
            };
            assert_eq!(cache.get_or_load(("n", id), load).ttl(LIMIT * 100).await, Ok(id));
        }
        assert!(cache.drain(LIMIT).await);
    };
    let steps = [ring(), ring().opens(NEW), KeyRing::new(NAMES, NEW).opens(OLD)];
    let mut fleet = vec![cache(&server, ring()).await, cache(&server, ring()).await, cache(&server, ring()).await];
    read_all(&fleet[0]).await;
    // One process after the other takes each step, while all read, and something is written.
    for step in &steps {
        for process in 0..fleet.len() {
            fleet[process] = cache(&server, step.clone()).await;
            fleet[process].set(("written", process), "value").await.unwrap();
            for reader in &fleet {
                read_all(reader).await;
                assert_eq!(reader.get::<String>(("written", process)).await.as_deref(), Some("value"));
            }
        }
    }
    assert_eq!(loads.load(Ordering::SeqCst), KEYS);
}

/// Two fleets over one server, with one ring: what is staging's is not served in production.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_copied_from_another_prefix_is_a_miss() {
    let server = RedisServer::start();
    let cache = async |prefix: &str| {
        let store = RedisStore::builder(server.url()).prefix(prefix).operation_timeout(Duration::from_secs(10));
        let store = store.sealed_with(ring()).build().unwrap();
        assert!(store.wait_connected(LIMIT).await);
        Cache::new(store)
    };
    let (staging, production) = (cache("stg").await, cache("prod").await);
    staging.set("k", "staging").tags(["t"]).await.unwrap();
    for name in server.keys() {
        if let Some(rest) = name.strip_prefix("stg:e:").or(name.strip_prefix("stg:t:")) {
            let kind = &name[4..5];
            assert_eq!(server.command::<u64>(&["COPY", &name, &format!("prod:{kind}:{rest}")]), 1);
        }
    }
    assert_eq!(production.get::<String>("k").await, None);
    assert_eq!(production.counts().rejected, [(Rejection::Seal, 1)]);
    assert_eq!(staging.get::<String>("k").await.as_deref(), Some("staging"));
    production.set("k", "production").await.unwrap();
    assert_eq!(production.get::<String>("k").await.as_deref(), Some("production"));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_switch_in_the_server_has_what_is_stale_used() {
    const MINUTE: Duration = Duration::from_secs(60);
    let (server, clock) = (RedisServer::start(), Clock::manual());
    let cache = Cache::builder(connect(&server, Some(ring())).await).switches(true).clock(clock.clone()).build();
    let origin = Origin::echo(&[("cache-control", "max-age=1"), ("etag", "\"a\"")]);
    let app = App::new(cache.clone(), &origin, |layer| layer);
    assert_eq!(app.get("/a", &[]).await.call(), 1);
    clock.advance(MINUTE);
    assert_eq!(cache.switch(Switch::WiderGrace, MINUTE).await, Err(SwitchError::Sealed));
    let until = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap() + MINUTE;
    let until = until.as_millis();
    let () = server.command(&["SET", "cache:switches", &format!("wider-grace {until}\nstop-fills {until}")]);
    let switched_on = || cache.switched_on().into_iter().map(|(switch, _)| switch).collect::<Vec<_>>();
    wait_until("it is read", async || switched_on().contains(&Switch::StopFills)).await;
    let loaded = app.get("/a", &[]).await;
    assert_eq!((loaded.x_cache(), loaded.call(), switched_on()), ("MISS", 2, vec![Switch::StopFills]));
    // The operator of the process may.
    cache.switch_here(Switch::WiderGrace, MINUTE).unwrap();
    let stale = app.get("/a", &[]).await;
    assert_eq!((stale.x_cache(), stale.call()), ("STALE", 1));
}
