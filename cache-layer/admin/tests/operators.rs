//! What an operator relies on, over real stores: the audit of a fleet, what a purge reaches, `PURGE`, and how much room is needed.

use std::{convert::Infallible, net::SocketAddr, time::Duration};

use axum::{Router, body::Body, extract::ConnectInfo};
use cache_layer::{
    Cache, CacheLayer, Hints, Inspected, Key, Switch,
    store::{MemoryStore, RedisStore},
};
use cache_layer_admin::{Admin, PurgeRule, Recorder};
use futures_util::{FutureExt as _, StreamExt as _, stream};
use http::{Request, StatusCode, header};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tests::{LyingProxy, RedisServer, wait_until};
use tower::ServiceExt as _;

const TOKEN: &str = "0123456789abcdef-admin";
const MINUTE: Duration = Duration::from_secs(60);

/// One process of a fleet: its cache, and the operator's side of it.
struct Process {
    cache: Cache,
    admin: Router,
}

impl Process {
    fn over(cache: Cache, known: impl FnOnce(Admin) -> Admin) -> Self {
        let layer = CacheLayer::new(cache.clone());
        let admin = known(Admin::new(cache.clone()).layer("all", &layer)).token(TOKEN).unwrap().router();
        Self { cache, admin }
    }

    async fn with(server: &RedisServer) -> Self {
        Self::at(&server.url()).await
    }

    async fn at(url: &str) -> Self {
        let store =
            RedisStore::builder(url).prefix("fleet").operation_timeout(Duration::from_secs(10)).build().unwrap();
        assert!(store.wait_connected(MINUTE).await);
        // A lease that a test looks at is held for as long as it looks, on a machine that pauses, too.
        let cache = Cache::builder(store.clone()).switches(true).lock_timeout(Duration::from_secs(30)).build();
        Self::over(cache, |admin| admin.redis(store))
    }

    async fn send(&self, method: &str, target: &str, fields: &[(&str, &str)], body: &Value) -> (StatusCode, Value) {
        let mut request = Request::builder().method(method).uri(target);
        request = request.header("authorization", format!("Bearer {TOKEN}")).header("content-type", "application/json");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
        let response = self.admin.clone().oneshot(request.body(body).unwrap()).await.unwrap();
        let (status, body) = (response.status(), response.into_body().collect().await.unwrap().to_bytes());
        (status, serde_json::from_slice(&body).unwrap())
    }

    async fn purge(&self, body: &Value, fields: &[(&str, &str)]) -> Value {
        let (status, answer) = self.send("POST", "/api/purge", fields, body).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        answer
    }

    async fn audit(&self) -> Vec<Value> {
        let (status, answer) = self.send("GET", "/api/audit?by=api&limit=10000", &[], &Value::Null).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        answer.as_array().unwrap().clone()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_is_of_the_fleet_and_outlives_its_processes() {
    let server = RedisServer::start();
    let here = Process::with(&server).await;
    let body = json!({"tag": "product:42", "actor": "ada", "reason": "wrong price"});
    here.purge(&body, &[]).await;
    here.send("POST", "/api/switches", &[], &json!({"switch": "stop-fills", "seconds": 60, "actor": "bob"})).await;
    drop(here);
    let there = Process::with(&server).await;
    there.purge(&json!({"all": true, "actor": "eve"}), &[]).await;
    let told = there.audit().await;
    let told: Vec<_> =
        told.iter().map(|one| ["actor", "kind", "what", "mode", "reason"].map(|name| &one[name])).collect();
    let null = &Value::Null;
    let expected = [
        [&json!("eve"), &json!("all"), &json!("everything"), &json!("hard"), null],
        [&json!("bob"), &json!("switch"), &json!("stop-fills"), &json!("on"), null],
        [&json!("ada"), &json!("tag"), &json!("product:42"), &json!("hard"), &json!("wrong price")],
    ];
    assert_eq!(told, expected);
    // For people with nothing but redis-cli.
    let raw: Vec<redis::Value> = server.command(&["XREVRANGE", "fleet:audit", "+", "-"]);
    assert_eq!(raw.len(), 3);
    assert!(format!("{raw:?}").contains("wrong price"));
    let left: i64 = server.command(&["TTL", "fleet:audit"]);
    assert!(left > 0, "it goes by itself: {left}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_audited_purges_stay_within_the_cap() {
    let server = RedisServer::start();
    let process = Process::with(&server).await;
    for _ in 0..50 {
        process.purge(&json!({"tag": "of-the-api"}), &[]).await;
    }
    let record = |number: u64| {
        json!({"id": number, "process": "another", "at": number, "by": "api", "kind": "tag", "what": "t", "mode": "hard", "delivered": true}).to_string()
    };
    let added = stream::iter(0..100_000_u64).map(|number| {
        let (cache, record) = (process.cache.clone(), record(number));
        async move { wait_until("it is added", async || cache.audit(record.as_bytes()).await == Ok(true)).await }
    });
    added.buffer_unordered(500).collect::<Vec<()>>().await;
    let kept: u64 = server.command(&["XLEN", "fleet:audit"]);
    assert_eq!(kept, 10_000);
    let memory: u64 = server.command(&["MEMORY", "USAGE", "fleet:audit"]);
    println!("10,000 records take {memory} bytes");
    assert!(memory < 4_000_000, "{memory}");
    let (status, _) = process.send("GET", "/api/audit", &[], &Value::Null).await;
    assert_eq!(status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_tells_which_process_loads_and_for_how_long() {
    let server = RedisServer::start();
    let (here, there) = (Process::with(&server).await, Process::with(&server).await);
    let name = async |process: &Process| {
        process.send("GET", "/api/stats", &[], &Value::Null).await.1["redis"]["process"].as_str().unwrap().to_owned()
    };
    let (here_is, there_is) = (name(&here).await, name(&there).await);
    assert_ne!(here_is, there_is);
    let (gate, open) = tokio::sync::oneshot::channel::<()>();
    let begun = std::sync::Arc::new(tokio::sync::Notify::new());
    let load = {
        let begun = begun.clone();
        async move || {
            begun.notify_one();
            open.await.ok();
            Ok::<_, Infallible>(1)
        }
    };
    let loading = tokio::spawn(here.cache.get_or_load("slow", load).into_future());
    begun.notified().await;
    let mut asked = Vec::new();
    for process in [&there, &here] {
        for target in ["/api/explain?key=slow", "/api/entry?key=slow"] {
            let (status, told) = process.send("GET", target, &[], &Value::Null).await;
            assert_eq!(status, StatusCode::OK, "{told}");
            asked.push(told);
        }
    }
    let [explained_there, entry_there, explained_here, entry_here] = &asked[..] else { unreachable!() };
    assert_eq!((&explained_there["verdict"], &explained_here["verdict"]), (&json!("wait"), &json!("wait")));
    for (lease, is_here) in [
        (&explained_there["lease"], false),
        (&entry_there[0]["lease"], false),
        (&explained_here["lease"], true),
        (&entry_here[0]["lease"], true),
    ] {
        let holder = &lease["holder"];
        assert_eq!((&lease["state"], &holder["here"]), (&json!("held"), &json!(is_here)), "{lease}");
        assert_eq!(holder["process"], here_is, "{lease}");
        assert!(holder["left_ms"].as_u64().unwrap() > 0 && holder["age_ms"].as_u64().is_some(), "{lease}");
    }
    gate.send(()).unwrap();
    assert_eq!(loading.await.unwrap().unwrap(), 1);
    wait_until("the lease is free, and held by nobody", async || {
        let (_, told) = there.send("GET", "/api/entry?key=slow", &[], &Value::Null).await;
        told[0]["lease"] == json!({"state": "free"})
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_the_audit_is_that_of_the_process_and_is_shown() {
    let mut server = RedisServer::start();
    let process = Process::with(&server).await;
    process.purge(&json!({"tag": "before"}), &[]).await;
    server.kill();
    let purged = process.purge(&json!({"tag": "meanwhile", "actor": "ada"}), &[]).await;
    assert_eq!(purged["delivered"], false, "{purged}");
    let told: Vec<Value> = process.audit().await.iter().map(|one| one["what"].clone()).collect();
    assert_eq!(told, ["meanwhile", "before"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_that_is_sent_again_to_another_process_purges_nothing_again() {
    let server = RedisServer::start();
    let (here, there) = (Process::with(&server).await, Process::with(&server).await);
    let (body, key) = (json!({"tag": "product:42", "actor": "ada"}), [("idempotency-key", "once")]);
    let first = here.purge(&body, &key).await;
    let since = here.cache.inspect_tag("product:42").await.unwrap().unwrap().since;
    let again = there.purge(&body, &key).await;
    assert_eq!((&again["id"], &again["delivered"]), (&first["id"], &json!(true)));
    assert_eq!(there.cache.inspect_tag("product:42").await.unwrap().unwrap().since, since);
    assert_eq!(there.audit().await.len(), 1);
    // Also by a process that has not received that request.
    for process in [&there, &Process::with(&server).await] {
        let (status, _) = process.send("POST", "/api/purge", &key, &json!({"tag": "another"})).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    }
    // What it is known by is nobody else's business.
    assert!(there.audit().await[0].get("asked").is_none());
}

/// Two processes, the first of which has a liar between itself and Redis; and an entry for `purge`.
async fn behind_a_liar(server: &RedisServer) -> (Process, Process, LyingProxy) {
    let proxy = LyingProxy::start(server.addr()).await;
    let (here, there) = (Process::at(&format!("redis://{}", proxy.addr())).await, Process::with(server).await);
    (here, there, proxy)
}

/// No `SCAN` comes to its end.
fn scan_for_ever(proxy: &LyingProxy) {
    for (cursor, next) in [("0", "5"), ("5", "7"), ("7", "5")] {
        proxy.lie(&["SCAN", cursor], format!("*2\r\n$1\r\n{next}\r\n*0\r\n").as_bytes());
    }
}

/// Whether an entry is there that is neither void nor stale.
async fn is_in_use(process: &Process, key: &Key) -> bool {
    matches!(process.cache.inspect(key).await, Ok(Inspected::Entry(_, entry)) if !entry.soft_invalidated)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_by_pattern_is_in_force_everywhere_before_anything_is_counted() {
    let server = RedisServer::start();
    for mode in ["hard", "soft"] {
        let (here, there, proxy) = behind_a_liar(&server).await;
        let key = Key::new(["leaked", mode]);
        here.cache.set(key.clone(), &1).ttl(60 * MINUTE).await.unwrap();
        assert!(is_in_use(&there, &key).await);
        scan_for_ever(&proxy);
        let body = json!({"pattern": "leaked*", "mode": mode});
        let purging = async {
            let purged = here.purge(&body, &[]).await;
            assert_eq!(purged["delivered"], true, "{purged}");
        };
        let in_force = async {
            wait_until("another process does not use it", async || !is_in_use(&there, &key).await).await;
            let _ = proxy.be_honest();
        };
        tokio::join!(purging, in_force);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn patterns_in_force_are_listed_with_who_deleted_them_and_what_is_left() {
    // Without the permission to look for names, nothing is swept.
    let server = RedisServer::builder().config("user default on nopass ~* &* +@all -scan").start();
    let (here, there) = (Process::with(&server).await, Process::with(&server).await);
    let patterns = async |process: &Process, query: &str| {
        let (status, told) = process.send("GET", &format!("/api/patterns{query}"), &[], &Value::Null).await;
        assert_eq!(status, StatusCode::OK, "{told}");
        told
    };
    assert_eq!(patterns(&here, "").await["patterns"], json!([]));
    // Where nothing was stored yet, there is nothing to void.
    here.cache.set("key:1", &1).ttl(60 * MINUTE).await.unwrap();
    let body = json!({"pattern": "key:1*", "actor": "ada", "reason": "wrong price"});
    here.purge(&body, &[]).await;
    here.purge(&json!({"pattern": "key:2*", "mode": "soft", "over": 600}), &[]).await;
    let told = patterns(&there, "").await;
    let [hard, soft] = &told["patterns"].as_array().unwrap()[..] else { panic!("{told}") };
    assert_eq!((&hard["pattern"], &hard["mode"], &hard["over_ms"]), (&json!("key:1*"), &json!("hard"), &json!(0)));
    assert_eq!((&hard["by"]["actor"], &hard["by"]["reason"]), (&json!("ada"), &json!("wrong price")), "{told}");
    assert_eq!((&soft["mode"], &soft["over_ms"], &soft["by"]["by"]), (&json!("soft"), &json!(600_000), &json!("api")));
    assert!(hard["since"].as_u64().unwrap() <= soft["since"].as_u64().unwrap() && hard["left"].is_null(), "{told}");
    let (status, _) = there.send("GET", "/api/patterns?count=perhaps", &[], &Value::Null).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    let (status, _) = there.send("GET", "/api/patterns?count=true", &[], &Value::Null).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "it may not be counted");

    // In memory there is nothing that is not allowed.
    let memory = Process::over(Cache::new(MemoryStore::new(1 << 22)), |admin| admin);
    fill(&memory.cache, &[11, 13, 20]).await;
    memory.purge(&json!({"pattern": "rest:*", "mode": "soft", "over": 600}), &[]).await;
    let told = patterns(&memory, "?count=true").await;
    if let [listed] = &told["patterns"].as_array().unwrap()[..] {
        assert_eq!((&listed["left"], &listed["by"]["matched"]), (&json!(2), &json!(2)), "{told}");
        assert_eq!(told["sweeper"]["here"], true, "{told}");
    }
    wait_until("it is swept", async || patterns(&memory, "").await == json!({"patterns": [], "sweeper": null})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_by_pattern_is_delivered_before_counting_ends_the_connection() {
    let server = RedisServer::start();
    for mode in ["hard", "soft"] {
        let (here, there, proxy) = behind_a_liar(&server).await;
        let key = Key::new(["leaked", mode]);
        there.cache.set(key.clone(), &1).ttl(60 * MINUTE).await.unwrap();
        proxy.lie(&["SCAN"], b"");
        let purged = here.purge(&json!({"pattern": "leaked*", "mode": mode}), &[]).await;
        assert_eq!((&purged["delivered"], &purged["matched"]), (&json!(true), &Value::Null), "{mode}: {purged}");
        assert!(!is_in_use(&there, &key).await, "{mode}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_by_pattern_without_the_right_to_count_is_in_force_and_purges_nothing_else() {
    let server = RedisServer::builder().config("user lame on >secret ~* +@all -scan &*").start();
    let process = Process::at(&server.url().replace("redis://", "redis://lame:secret@")).await;
    for name in ["leaked", "other"] {
        process.cache.set(name, &1).ttl(60 * MINUTE).await.unwrap();
    }
    let purged = process.purge(&json!({"pattern": "leaked*"}), &[]).await;
    assert_eq!((&purged["delivered"], &purged["matched"]), (&json!(true), &Value::Null), "{purged}");
    assert!(purged["note"].as_str().unwrap().to_lowercase().contains("scan"), "{purged}");
    assert!(!is_in_use(&process, &Key::from("leaked")).await && is_in_use(&process, &Key::from("other")).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_whose_client_has_gone_is_not_made_again_when_it_is_sent_again() {
    let server = RedisServer::start();
    let (here, there, proxy) = behind_a_liar(&server).await;
    let key = Key::from("leaked");
    here.cache.set(key.clone(), &1).ttl(60 * MINUTE).await.unwrap();
    scan_for_ever(&proxy);
    let (body, once) = (json!({"pattern": "leaked*", "actor": "ada"}), [("idempotency-key", "once")]);
    let in_force = wait_until("it is in force", async || !is_in_use(&there, &key).await);
    // The client leaves while the keys are counted.
    tokio::select! {
        _ = here.purge(&body, &once) => {}
        () = in_force => {}
    }
    let (again, ()) = tokio::join!(here.purge(&body, &once), async {
        let _ = proxy.be_honest();
    });
    let audit = there.audit().await;
    assert_eq!((audit.len(), &audit[0]["id"]), (1, &again["id"]), "{audit:?}");
    assert_eq!(there.purge(&body, &once).await, again, "wherever it is sent");
    assert_eq!(there.audit().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_processes_that_get_one_key_at_the_same_moment_one_purges() {
    let server = RedisServer::start();
    let (here, there) = (Process::with(&server).await, Process::with(&server).await);
    const ROUNDS: usize = 50;
    let mut refused = 0;
    for round in 0..ROUNDS {
        let (body, key) = (json!({"tag": "product:42"}), format!("round {round}"));
        let once = [("idempotency-key", &*key)];
        let (one, other) =
            tokio::join!(here.send("POST", "/api/purge", &once, &body), there.send("POST", "/api/purge", &once, &body));
        for (status, answer) in [&one, &other] {
            assert!(matches!(status.as_u16(), 200 | 409), "{status} {answer}");
            refused += usize::from(*status == StatusCode::CONFLICT);
        }
        assert!(one.0.is_success() || other.0.is_success());
        let again = there.purge(&body, &once).await;
        assert_eq!(there.audit().await.len(), round + 1, "{again}");
    }
    println!("{refused} of {ROUNDS} were refused while the other ran");
}

fn switch(name: &str) -> Value {
    json!({"switch": name, "seconds": 60, "actor": "ada"})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_switch_whose_client_has_gone_is_in_the_audit() {
    let server = RedisServer::start();
    let process = Process::with(&server).await;
    let turn = switch("bypass-reads");
    // It is sent, and its answer not waited for. On a machine that pauses here, the answer may be there at once: then it is sent again.
    let mut sent = 1;
    while process.send("POST", "/api/switches", &[], &turn).now_or_never().is_some() {
        sent += 1;
    }
    wait_until("each is recorded", async || process.audit().await.len() == sent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_switch_without_an_answer_is_in_the_audit_as_not_delivered() {
    let server = RedisServer::start();
    let (here, there, proxy) = behind_a_liar(&server).await;
    // It is carried out, and the connection ends before the answer.
    proxy.lie(&["EVALSHA"], b"");
    let (status, answer) = here.send("POST", "/api/switches", &[], &switch("stop-fills")).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{answer}");
    let _ = proxy.be_honest();
    let audit = here.audit().await;
    assert_eq!((&audit[0]["what"], &audit[0]["delivered"]), (&json!("stop-fills"), &json!(false)), "{audit:?}");
    wait_until("another process knows", async || there.cache.switched_on().len() == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_switch_that_is_turned_and_can_not_be_read_again_is_turned() {
    let server = RedisServer::start();
    let (here, there, proxy) = behind_a_liar(&server).await;
    proxy.lie(&["GET", "FLEET:SWITCHES"], b"-ERR not now\r\n");
    let (status, answer) = here.send("POST", "/api/switches", &[], &switch("stop-fills")).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(here.cache.switched_on()[0].0, Switch::StopFills);
    assert_eq!(here.audit().await[0]["delivered"], true);
    wait_until("another process knows", async || there.cache.switched_on().len() == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_a_switch_is_turned_in_one_process_and_the_fleets_word_counts_afterwards() {
    let mut server = RedisServer::start();
    let (here, there) = (Process::with(&server).await, Process::with(&server).await);
    server.kill();
    let (status, answer) = here.send("POST", "/api/switches", &[], &switch("bypass-reads")).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(answer["detail"].as_str().unwrap().contains("\"here\": true"), "{answer}");
    let mut turn = switch("bypass-reads");
    turn["here"] = json!(true);
    let (status, answer) = here.send("POST", "/api/switches", &[], &turn).await;
    assert_eq!((status, &answer[0]["on"]), (StatusCode::OK, &json!(true)), "{answer}");
    assert_eq!((here.cache.switched_on().len(), there.cache.switched_on().len()), (1, 0));
    let audit = here.audit().await;
    assert_eq!(audit[0]["what"], "bypass-reads in this process alone", "{audit:?}");
    server.restart();
    wait_until("the fleet turns it off", async || there.cache.switch_off(Switch::BypassReads).await.is_ok()).await;
    wait_until("it is off here, too", async || here.cache.switched_on().is_empty()).await;
}

const ENTRIES: usize = 100_000;

fn key(number: usize) -> Key {
    Key::new([if number.is_multiple_of(4) { "quarter" } else { "rest" }, &format!(":{number}")])
}

/// As many as fit in one round trip.
const BATCH: usize = 500;

/// Sets these of the entries: a quarter of all under one name, and every tenth with a tag.
async fn fill(cache: &Cache, numbers: &[usize]) {
    let (tenth, others): (Vec<usize>, Vec<usize>) = numbers.iter().partition(|number| **number % 10 == 0);
    for (numbers, tags) in [(tenth, &["all", "tenth"][..]), (others, &["all"])] {
        for batch in numbers.chunks(BATCH) {
            let values = batch.iter().map(|number| (key(*number), number));
            cache.set_many(values).ttl(60 * MINUTE).tags(tags).await.unwrap();
        }
    }
}

/// Which of them are not there.
async fn missing(cache: &Cache) -> Vec<usize> {
    let mut missing = Vec::new();
    for batch in (0..ENTRIES).collect::<Vec<_>>().chunks(BATCH) {
        let found = cache.get_many::<usize>(batch.iter().copied().map(key)).await;
        missing.extend(batch.iter().zip(found).filter_map(|(number, found)| found.is_none().then_some(*number)));
    }
    missing
}

/// Whether a purge said that it covers about as many keys as it `hit`: within 5 %, or as far off as it says itself that a sample of
/// them can be. Three times that far is one chance in a hundred million.
fn is_about(told: u64, purged: &Value, hit: u64) -> bool {
    let error = purged["matched_error"].as_u64().unwrap_or(0);
    println!("{told} told, give or take {error}, and {hit} hit");
    // A sample that says as good as nothing is no answer.
    error <= hit / 5 && told.abs_diff(hit) <= (hit / 20).max(3 * error)
}

/// What a purge foretells is what it hits.
async fn foretells(process: &Process, over_redis: bool) {
    let mut gone: Vec<usize> = (0..ENTRIES).collect();
    for target in ["tag", "pattern", "all"] {
        fill(&process.cache, &gone).await;
        assert_eq!(process.cache.count_all().await, Ok(Some(ENTRIES as u64)));
        let body = match target {
            "tag" => json!({"tag": "tenth"}),
            "pattern" => json!({"pattern": "quarter:*"}),
            _ => json!({"all": true}),
        };
        let mut dry = body.clone();
        dry["dry_run"] = json!(true);
        let (foretold, told) = (process.purge(&dry, &[]).await, process.purge(&body, &[]).await);
        gone = missing(&process.cache).await;
        let hit = gone.len() as u64;
        let matched = foretold["matched"].as_u64().expect("a number");
        assert!(hit > 0 && is_about(matched, &foretold, hit), "{target}: {foretold} for {hit}");
        // Over Redis, only a pattern looks at every key.
        let expected = (!over_redis || target == "pattern").then_some(hit);
        match (told["matched"].as_u64(), expected) {
            // What was in time is an estimate, where the machine is slow.
            (Some(matched), Some(hit)) => assert!(is_about(matched, &told, hit), "{target}: {told} for {hit}"),
            (matched, expected) => assert_eq!(matched, expected, "{target}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn in_memory_a_purge_hits_what_was_foretold() {
    foretells(&Process::over(Cache::new(MemoryStore::new(256 << 20)), |admin| admin), false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_redis_a_purge_hits_what_was_foretold() {
    let server = RedisServer::start();
    let store = RedisStore::builder(server.url()).operation_timeout(Duration::from_secs(10)).build().unwrap();
    assert!(store.wait_connected(MINUTE).await);
    foretells(&Process::over(Cache::new(store.clone()), |admin| admin.redis(store)), true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_looked_at_in_time_is_estimated() {
    let server = RedisServer::start();
    let store = RedisStore::builder(server.url()).operation_timeout(Duration::from_secs(10)).build().unwrap();
    assert!(store.wait_connected(MINUTE).await);
    let cache = Cache::new(store);
    // One of all is another program's, under a name of ours.
    let (all, tenth, without_end) = (10_001, 1_000, Duration::MAX);
    let () = server.command(&["HSET", "cache:e:{00112233445566778899aabbccddeeff}:-:other", "field", "value"]);
    fill(&cache, &(0..10_000).collect::<Vec<_>>()).await;
    for (within, in_time) in [(without_end, true), (Duration::ZERO, false)] {
        let told = [
            (cache.estimate_all(within).await.unwrap().unwrap(), all),
            (cache.estimate_tag("tenth", within).await.unwrap().unwrap(), tenth),
            (cache.estimate_pattern("*", within).await.unwrap().unwrap(), all),
        ];
        for (told, there) in told {
            println!("{told:?} for {there}");
            assert_eq!(told.error == 0, in_time, "{told:?}");
            // Three times as far off as one in twenty is, by chance: one in a hundred million.
            assert!(told.keys.abs_diff(there) <= 3 * told.error, "{told:?} for {there}");
        }
    }
}

/// An application with a cache that says `max-age=60`, and takes `PURGE` as `rules` say.
fn shop(rules: Vec<PurgeRule>, token: bool) -> (Cache, Router, Router) {
    let cache = Cache::new(MemoryStore::new(1 << 20));
    let layer = CacheLayer::new(cache.clone());
    let admin = Admin::new(cache.clone()).layer("all", &layer);
    let admin = if token { admin.token(TOKEN).unwrap() } else { admin };
    let (admin, purge) = admin.router_and_purge_layer(rules);
    let answer = async || ([(header::CACHE_CONTROL, "max-age=60")], "content");
    let app = Router::new().route("/api/a", axum::routing::get(answer)).route("/b", axum::routing::get(answer));
    (cache, app.layer(layer).layer(purge), admin)
}

/// Applications behind an authenticating layer: what is stored is each tenant's own.
fn of_tenants(rules: Vec<PurgeRule>) -> (Cache, Router, Router) {
    let (cache, app, admin) = shop(rules, true);
    let tenant = async |mut request: Request<Body>| {
        if let Some(tenant) = request.headers().get("x-tenant") {
            let hints = Hints::new().key_part(tenant.to_str().unwrap());
            hints.add_to(request.extensions_mut());
        }
        request
    };
    (cache, app.layer(axum::middleware::map_request(tenant)), admin)
}

#[tokio::test]
async fn a_purge_by_url_reaches_what_is_stored_for_each_tenant() {
    let (bearer, json) = (format!("Bearer {TOKEN}"), ("content-type", "application/json"));
    let (cache, app, admin) = of_tenants(vec![PurgeRule::under("/")]);
    let tenants = [&[("x-tenant", "one")][..], &[("x-tenant", "two")], &[]];
    for by_method in [false, true] {
        for tenant in tenants {
            is_stored_for(&cache, &app, "/b", tenant).await;
            assert!(is_stored_for(&cache, &app, "/b", tenant).await, "{tenant:?}");
        }
        let purged = match by_method {
            true => ask(&app, "PURGE", "/b", &[("authorization", &bearer)]).await,
            false => {
                let body = json!({"url": "http://shop.example/b"}).to_string();
                let request = Request::post("/api/purge").header("authorization", &bearer).header(json.0, json.1);
                admin.clone().oneshot(request.body(Body::from(body)).unwrap()).await.unwrap()
            }
        };
        assert_eq!(purged.status(), StatusCode::OK);
        for tenant in tenants {
            assert!(!is_stored_for(&cache, &app, "/b", tenant).await, "{tenant:?}, by method: {by_method}");
        }
    }
    // What is stored for one of them can be looked at.
    let get = async |target: &str| {
        let body = ask(&admin, "GET", target, &[("authorization", &bearer)]).await.into_body().collect().await.unwrap();
        serde_json::from_slice::<Value>(&body.to_bytes()).unwrap()
    };
    let entry = get("/api/entry?url=http://shop.example/b&hint=key-part:one").await;
    assert_eq!((&entry[0]["tier"], &entry[0]["key"]), (&json!("memory"), &json!("http://shop.example/b#•••")));
    let entry = get("/api/entry?url=http://shop.example/b&hint=key-part:three").await;
    assert_eq!((&entry[0]["tier"], &entry[0]["entry"]), (&json!("none"), &Value::Null));
}

#[tokio::test]
async fn purge_in_a_nested_router_is_for_the_path_that_the_client_sent() {
    let bearer = ("authorization", &*format!("Bearer {TOKEN}"));
    let nested = |rule| {
        let (cache, shop, admin) = shop(vec![PurgeRule::under(rule)], true);
        (cache, Router::new().nest("/shop", shop), admin)
    };
    for rule in ["/", "/shop", "/shop/api"] {
        let (cache, app, admin) = nested(rule);
        is_stored(&cache, &app, "/shop/api/a").await;
        assert!(is_stored(&cache, &app, "/shop/api/a").await);
        assert_eq!(ask(&app, "PURGE", "/shop/api/a", &[bearer]).await.status(), 200, "{rule}");
        assert!(!is_stored(&cache, &app, "/shop/api/a").await, "{rule}");
        let records = ask(&admin, "GET", "/api/audit?by=method", &[bearer]).await.into_body().collect().await.unwrap();
        let records: Value = serde_json::from_slice(&records.to_bytes()).unwrap();
        assert_eq!(records[0]["what"], "http://shop.example/shop/api/a");
    }
    let (_, app, _) = nested("/api");
    assert_eq!(ask(&app, "PURGE", "/shop/api/a", &[bearer]).await.status(), 405, "the rule is for another path");
    let (_, app, _) = nested("/");
    let two_hosts = [bearer, ("host", "other.example")];
    assert_eq!(ask(&app, "PURGE", "/shop/api/a", &two_hosts).await.status(), 400, "which of them is meant?");
}

async fn ask(app: &Router, method: &str, path: &str, fields: &[(&str, &str)]) -> http::Response<Body> {
    ask_from("127.0.0.1:5000", app, method, path, fields).await
}

async fn ask_from(peer: &str, app: &Router, method: &str, path: &str, fields: &[(&str, &str)]) -> http::Response<Body> {
    let peer: SocketAddr = peer.parse().unwrap();
    let mut request = Request::builder().method(method).uri(path).extension(ConnectInfo(peer));
    request = request.header("host", "shop.example");
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    app.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
}

/// Whether `path` is answered from the cache.
async fn is_stored(cache: &Cache, app: &Router, path: &str) -> bool {
    is_stored_for(cache, app, path, &[]).await
}

/// Whether `path` is answered from the cache, for a request with these fields.
async fn is_stored_for(cache: &Cache, app: &Router, path: &str, fields: &[(&str, &str)]) -> bool {
    let response = ask(app, "GET", path, fields).await;
    let stored = response.headers()["x-cache"] == "HIT";
    response.into_body().collect().await.unwrap();
    assert!(cache.drain(MINUTE).await);
    stored
}

#[tokio::test]
async fn purge_as_a_method_is_taken_where_a_rule_allows_it_and_nowhere_else() {
    let bearer = ("authorization", &*format!("Bearer {TOKEN}"));
    let (cache, app, admin) = shop(vec![PurgeRule::under("/api")], true);
    for path in ["/api/a", "/b"] {
        is_stored(&cache, &app, path).await;
        assert!(is_stored(&cache, &app, path).await);
    }
    for (fields, status) in [
        (vec![], 401),
        (vec![("authorization", "Bearer 0123456789abcdef-wrong")], 401),
        (vec![bearer, ("origin", "http://shop.example")], 403),
        (vec![bearer, ("sec-fetch-site", "cross-site")], 403),
    ] {
        assert_eq!(ask(&app, "PURGE", "/api/a", &fields).await.status(), status, "{fields:?}");
    }
    assert!(is_stored(&cache, &app, "/api/a").await);
    let purged = ask(&app, "PURGE", "/api/a", &[bearer]).await;
    assert_eq!((purged.status().as_u16(), &purged.headers()["cache-control"]), (200, &"no-store".parse().unwrap()));
    assert!(!is_stored(&cache, &app, "/api/a").await);
    // No rule is for it: the application is asked, which knows no such method, or no such path.
    assert_eq!(ask(&app, "PURGE", "/b", &[bearer]).await.status(), 405);
    assert_eq!(ask(&app, "PURGE", "/apiary", &[bearer]).await.status(), 404);
    for elsewhere in ["/api/../b", "/api/%2e%2E/b", "/api/..%2fb"] {
        assert_eq!(ask(&app, "PURGE", elsewhere, &[bearer]).await.status(), 400, "{elsewhere}");
    }
    assert!(is_stored(&cache, &app, "/b").await);
    let records = ask(&admin, "GET", "/api/audit?by=method", &[bearer]).await.into_body().collect().await.unwrap();
    let records: Value = serde_json::from_slice(&records.to_bytes()).unwrap();
    assert_eq!((&records[0]["what"], &records[0]["from"]), (&json!("http://shop.example/api/a"), &json!("127.0.0.1")));
    assert_eq!(records.as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn purge_as_a_method_says_who_and_why_to_the_audit_and_to_nobody_else() {
    let bearer = ("authorization", &*format!("Bearer {TOKEN}"));
    let (cache, app, admin) = shop(vec![PurgeRule::under("/api")], true);
    is_stored(&cache, &app, "/api/a").await;
    let long = "ü".repeat(201);
    // Who it is said to be opens nothing, and is no reason to ask further.
    assert_eq!(ask(&app, "PURGE", "/api/a", &[("x-actor", "ada"), ("x-reason", &long)]).await.status(), 401);
    for unfit in [
        vec![("x-actor", &*long)],
        vec![("x-reason", &*long)],
        vec![("x-reason", "a\tb")],
        vec![("x-actor", "\u{85}")],
        vec![("x-actor", "\u{202e}ada")],
        vec![("x-actor", "ada"), ("x-actor", "bob")],
    ] {
        let fields = [&[bearer], &unfit[..]].concat();
        assert_eq!(ask(&app, "PURGE", "/api/a", &fields).await.status(), 400, "{unfit:?}");
    }
    let mut broken = Request::builder().method("PURGE").uri("/api/a").header("host", "shop.example");
    broken = broken.header(bearer.0, bearer.1).header("x-actor", http::HeaderValue::from_bytes(b"\xff").unwrap());
    let status = app.clone().oneshot(broken.body(Body::empty()).unwrap()).await.unwrap().status();
    assert_eq!(status, 400, "no text");
    assert!(is_stored(&cache, &app, "/api/a").await);
    let longest = "ü".repeat(200);
    let said = [bearer, ("x-actor", " ada "), ("x-reason", &*longest)];
    assert_eq!(ask(&app, "PURGE", "/api/a", &said).await.status(), 200);
    assert_eq!(ask(&app, "PURGE", "/api/a", &[bearer, ("x-actor", "")]).await.status(), 200);
    let records = ask(&admin, "GET", "/api/audit?by=method", &[bearer]).await.into_body().collect().await.unwrap();
    let records: Value = serde_json::from_slice(&records.to_bytes()).unwrap();
    let told: Vec<_> = records.as_array().unwrap().iter().map(|one| (&one["actor"], &one["reason"])).collect();
    assert_eq!(told, [(&Value::Null, &Value::Null), (&json!("ada"), &json!(longest))]);
}

#[tokio::test]
async fn purge_without_a_token_is_for_this_machine_alone_where_a_rule_says_so() {
    let (cache, app, _) = shop(vec![PurgeRule::under("/").from_this_machine()], false);
    is_stored(&cache, &app, "/b").await;
    assert_eq!(ask_from("10.0.0.7:5000", &app, "PURGE", "/b", &[]).await.status(), 403);
    assert_eq!(ask(&app, "PURGE", "/b", &[("x-forwarded-for", "10.0.0.7")]).await.status(), 403);
    assert_eq!(ask(&app, "PURGE", "/b", &[("authorization", "Bearer x")]).await.status(), 403);
    assert!(is_stored(&cache, &app, "/b").await);
    assert_eq!(ask(&app, "PURGE", "/b", &[]).await.status(), 200);
    assert!(!is_stored(&cache, &app, "/b").await);
    let (cache, app, _) = shop(vec![], true);
    is_stored(&cache, &app, "/b").await;
    assert_eq!(ask(&app, "PURGE", "/b", &[]).await.status(), 405);
    assert!(is_stored(&cache, &app, "/b").await);
}

/// Of numbers, as good as random (SplitMix64).
fn mixed(number: u64) -> u64 {
    let mut hash = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

/// A memory of so many bytes, asked for keys of a Zipf mix: its hit ratio after the first half of it, and what was told of twice the size.
async fn run(bytes: u64) -> (f64, f64) {
    const KEYS: u64 = 15_000;
    const TIMES: u64 = 60_000;
    let recorder = Recorder::with_sizing();
    let store = MemoryStore::new(bytes);
    let cache = Cache::builder(store.clone()).observer(recorder.clone()).build();
    let mut sum = 0.0;
    let sums: Vec<f64> = (1..=KEYS)
        .map(|rank| {
            sum += (rank as f64).powf(-0.9);
            sum
        })
        .collect();
    let mut half = 0;
    for time in 0..TIMES {
        if time == TIMES / 2 {
            half = cache.counts().hits;
        }
        let wanted = mixed(time) as f64 / u64::MAX as f64 * sum;
        let rank = sums.partition_point(|below| *below < wanted);
        let load = async || Ok::<_, Infallible>("x".repeat(200));
        cache.get_or_load(("product", rank), load).await.unwrap();
    }
    let ratio = (cache.counts().hits - half) as f64 / (TIMES / 2) as f64;
    let told = recorder.hit_ratio_with(2 * store.entries()).unwrap();
    println!("{bytes} bytes, {} entries: {ratio:.3}; twice as many: {told:.3}", store.entries());
    (ratio, told)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_curve_is_told_and_growing_as_it_says_brings_what_it_says() {
    let ((_, promised), (grown, _)) = (run(1 << 20).await, run(2 << 20).await);
    println!("promised {promised:.3}, got {grown:.3}");
    assert!(grown > promised - 0.02, "{promised} was promised, and {grown} came");
}

#[tokio::test]
async fn a_recorder_without_sizing_tells_no_curve() {
    let recorder = Recorder::new();
    assert_eq!(recorder.hit_ratio_with(1_000), None);
    let cache = Cache::builder(MemoryStore::new(1 << 20)).observer(recorder.clone()).build();
    let admin = Admin::new(cache).recorder(recorder).token(TOKEN).unwrap().router();
    let bearer = ("authorization", &*format!("Bearer {TOKEN}"));
    assert_eq!(ask(&admin, "GET", "/api/sizing", &[bearer]).await.status(), 404);
}
