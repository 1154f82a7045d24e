//! What a layer explains: every reason by its name, the settings and where they come from. An explanation changes nothing.
//!
//! The harness compares the explanation of each request in the other tests with its response: see `tests::Foreteller`.

use std::{
    collections::BTreeSet,
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use cache_layer::{
    Cache, CacheLayer, Clock, Coding, Encode, Explanation, Hints, Key, NoVarySearch, Rule, SettingOrigin, Switch,
    Verdict,
    store::{LeaseState, MemoryStore, RedisStore},
    telemetry::{Event, NoCacheReason as R, SweepCause},
};
use http::{HeaderName, Method, Request, Response, StatusCode};
use http_body_util::Full;
use tests::{App, Backend, Body, Gate, Origin, RedisServer, RedisUsage, echo, full, request, wait_until};
use tower::{Layer as _, ServiceExt as _, service_fn};

type Fields<'a> = &'a [(&'a str, &'a str)];

const MINUTE: Duration = Duration::from_secs(60);
const FRESH: (&str, &str) = ("cache-control", "max-age=60");

fn layer() -> CacheLayer {
    CacheLayer::new(Cache::new(MemoryStore::new(1 << 22)))
}

/// The explanation of a request without content.
async fn asked(layer: &CacheLayer, method: Method, uri: &str, fields: Fields<'_>) -> Explanation {
    layer.explain(&request(method, uri, fields)).await
}

async fn of_get(layer: &CacheLayer, fields: Fields<'_>) -> Explanation {
    asked(layer, Method::GET, "/a", fields).await
}

/// The same, once the application has answered.
async fn answered(layer: &CacheLayer, of_request: Fields<'_>, status: u16, fields: Fields<'_>) -> Explanation {
    of_get(layer, of_request).await.if_answered(&response(status, fields))
}

fn response(status: u16, fields: Fields<'_>) -> Response<Full<Bytes>> {
    let mut response = Response::builder().status(status);
    for (name, value) in fields {
        response = response.header(*name, *value);
    }
    response.body(Full::from("body")).unwrap()
}

/// The reasons that a request is refused for.
async fn by_request() -> Vec<(R, Explanation)> {
    let (plain, strict) = (layer(), layer().request_directives(true));
    let rules = layer().rule(Rule::prefix("/ruled").bypass()).unwrap();
    let mut with_body = request(Method::GET, "/a", &[]);
    *with_body.body_mut() = full("content");
    let mut hinted = request(Method::GET, "/a", &[]);
    Hints::new().bypass().add_to(hinted.extensions_mut());
    vec![
        (R::Method, asked(&plain, Method::POST, "/a", &[]).await),
        (R::ConnectMethod, asked(&plain, Method::CONNECT, "shop.example:80", &[]).await),
        (R::Upgrade, of_get(&plain, &[("upgrade", "websocket")]).await),
        (R::RequestBody, plain.explain(&with_body).await),
        (R::NoAuthority, plain.explain(&Request::get("/a").body(full("")).unwrap()).await),
        (R::RangeRequest, of_get(&plain, &[("range", "lines=1-2")]).await),
        (R::ConditionalRequest, of_get(&plain, &[("if-match", "\"a\"")]).await),
        (R::RequestNoStore, of_get(&plain, &[("cache-control", "no-store")]).await),
        (R::OnlyIfCached, of_get(&strict, &[("cache-control", "only-if-cached")]).await),
        (R::Cookie, of_get(&layer().bypass_on_cookies(["session"]), &[("cookie", "session=1")]).await),
        (R::Off, of_get(&layer().enabled(false), &[]).await),
        (R::Rule, asked(&rules, Method::GET, "/ruled/a", &[]).await),
        (R::UnclearPath, asked(&rules, Method::GET, "/x/../a", &[]).await),
        (R::Hint, plain.explain(&hinted).await),
        (
            R::BypassIf,
            of_get(&layer().bypass_if(|request| request.headers.contains_key("x-preview")), &[("x-preview", "1")])
                .await,
        ),
        (R::Incremental, of_get(&plain, &[("incremental", "?1")]).await),
        (R::HeadMiss, asked(&plain, Method::HEAD, "/a", &[]).await),
    ]
}

/// The reasons for refusing a request by its content.
async fn by_content() -> Vec<(R, Explanation)> {
    let layer = layer().query().max_content(4);
    let query = async |fields: Fields<'_>, content: &'static str| {
        let method = Method::from_bytes(b"QUERY").unwrap();
        layer.explain(&request(method, "/a", fields), Bytes::from_static(content.as_bytes())).await
    };
    let text = ("content-type", "text/plain");
    vec![
        (R::ContentType, query(&[], "a").await),
        (R::ContentTooLarge, query(&[text], "abcde").await),
        (R::ContentUnread, query(&[text, ("content-length", "3")], "a").await),
        (R::Expect, query(&[text, ("expect", "100-continue")], "a").await),
    ]
}

/// The reasons for refusing a response.
async fn by_response() -> Vec<(R, Explanation)> {
    let plain = layer();
    let ruled = layer().ttl(MINUTE);
    let kept_if = layer().keep_if(|_, headers| headers.contains_key("x-keep"));
    let many: String = (0..1025).map(|tag| format!("t{tag},")).collect();
    let says = async |fields: Fields<'_>| answered(&plain, &[], 200, fields).await;
    let port = plain.explain(&request(Method::GET, "/a", &[("host", "shop.example:80")])).await;
    let circle = request(Method::GET, "http://shop.example/a", &[]);
    let circle =
        plain.explain(&circle).await.if_answered(&response(301, &[FRESH, ("location", "https://shop.example/a")]));
    vec![
        (R::Status, answered(&plain, &[], 206, &[FRESH]).await),
        (R::NoStore, says(&[("cache-control", "no-store")]).await),
        (R::Private, says(&[("cache-control", "private")]).await),
        (R::NoCache, says(&[("cache-control", "no-cache")]).await),
        (R::Authorization, answered(&plain, &[("authorization", "Basic YQ==")], 200, &[FRESH]).await),
        (R::OneClient, answered(&ruled, &[], 200, &[("clear-site-data", "\"cache\"")]).await),
        (R::KeepIf, answered(&kept_if, &[], 200, &[FRESH]).await),
        (R::SetCookie, says(&[FRESH, ("set-cookie", "a=b")]).await),
        (R::VaryStar, says(&[FRESH, ("vary", "*")]).await),
        (R::EventStream, says(&[FRESH, ("content-type", "text/event-stream")]).await),
        (R::Grpc, says(&[FRESH, ("content-type", "application/grpc")]).await),
        (R::ContentRange, says(&[FRESH, ("content-range", "bytes 0-3/9")]).await),
        (R::Trailers, says(&[FRESH, ("trailer", "x-checksum")]).await),
        (R::NoFreshness, says(&[]).await),
        (R::AlreadyStale, says(&[FRESH, ("age", "61")]).await),
        (R::SecPurpose, answered(&plain, &[("sec-purpose", "prefetch")], 403, &[FRESH]).await),
        (R::Dictionary, says(&[FRESH, ("content-encoding", "dcb")]).await),
        (R::BodyTooLarge, answered(&layer().max_body(3), &[], 200, &[FRESH]).await),
        (R::TooManyTags, says(&[FRESH, ("cache-tag", &many)]).await),
        (R::TooManyFields, says(&[&[FRESH][..], &[("x-many", ""); 1_000]].concat()).await),
        (R::StatedPort, port.if_answered(&response(200, &[FRESH]))),
        (R::RedirectToItself, circle),
        (R::ServiceFailed, of_get(&plain, &[]).await.if_failed()),
    ]
}

/// What the application does, said by the request in `x-say-…` and `x-status`.
fn obedient() -> Origin {
    Origin::new(|call, request| async move {
        let mut response = echo(call, &request, &[]);
        for (name, value) in request.headers() {
            if let Some(name) = name.as_str().strip_prefix("x-say-") {
                response.headers_mut().append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.clone());
            }
        }
        if let Some(status) = request.headers().get("x-status") {
            *response.status_mut() = StatusCode::from_bytes(status.as_bytes()).unwrap();
        }
        Ok(response)
    })
}

/// The reasons that depend on earlier requests.
async fn by_state() -> Vec<(R, Explanation)> {
    let clock = Clock::manual();
    let cache = || Cache::builder(MemoryStore::new(1 << 20)).clock(clock.clone()).build();
    let stale = App::new(cache(), &obedient(), |layer| layer);
    stale.get("/a", &[("x-say-cache-control", "max-age=1"), ("x-say-etag", "\"one\"")]).await;
    clock.advance(Duration::from_secs(2));
    let unmatched = of_get(&stale.layer, &[]).await;
    assert_eq!(unmatched.verdict, Verdict::Validate);
    let private = App::new(cache(), &obedient(), |layer| layer);
    private.get("/a", &[("x-say-cache-control", "private")]).await;
    let failing = App::new(cache(), &obedient(), |layer| layer.share_failures(true));
    failing.get("/a", &[("x-status", "503")]).await;
    let ahead = App::new(cache(), &obedient(), |layer| layer);
    ahead.get("/a", &[("x-say-cache-control", "max-age=60")]).await;
    clock.set_back(Duration::from_secs(10));
    let away = RedisStore::builder("redis://127.0.0.1:1/0").build().unwrap();
    let remembered = of_get(&private.layer, &[]).await;
    assert_eq!(remembered.first_reason, Some(R::Private));
    vec![
        (R::Unmatched, unmatched.if_answered(&response(304, &[("etag", "\"two\"")]))),
        (R::Remembered, remembered),
        (R::BackedOff, of_get(&failing.layer, &[]).await),
        (R::FromTheFuture, of_get(&ahead.layer, &[]).await),
        (R::StoreUnavailable, of_get(&CacheLayer::new(Cache::new(away)), &[]).await),
        (R::StoreFull, full_store().await),
        (R::FirstSight, first_sight().await),
        (R::Nested, nested().await),
        (R::Switched, switched(Switch::BypassReads).await),
        (R::FillsStopped, switched(Switch::StopFills).await),
    ]
}

/// An operator has turned this on.
async fn switched(switch: Switch) -> Explanation {
    let cache = Cache::builder(MemoryStore::new(1 << 20)).switches(true).build();
    cache.switch(switch, MINUTE).await.unwrap();
    of_get(&CacheLayer::new(cache), &[]).await
}

/// A long timeout, so that a busy machine's pauses are no reasons.
async fn connect(server: &RedisServer) -> RedisStore {
    let store = RedisStore::builder(server.url()).operation_timeout(MINUTE / 6).build().unwrap();
    assert!(store.wait_connected(MINUTE).await);
    store
}

/// Redis has no room, and has said so.
async fn full_store() -> Explanation {
    let server = RedisServer::builder().config("maxmemory-policy noeviction").start();
    let store = connect(&server).await;
    server.command::<()>(&["CONFIG", "SET", "maxmemory", "1"]);
    let app = App::new(Cache::new(store), &obedient(), |layer| layer).unexplained();
    let mut explained = None;
    // What it has said counts for a second.
    wait_until("it is known to be full", async || {
        app.get("/b", &[("x-say-cache-control", "max-age=60")]).await;
        explained.insert(of_get(&app.layer, &[]).await).reason == Some(R::StoreFull)
    })
    .await;
    explained.expect("it was asked")
}

/// Of a key that was not loaded before, where that matters.
async fn first_sight() -> Explanation {
    let server = RedisServer::start();
    let store = connect(&server).await;
    of_get(&CacheLayer::new(Cache::builder(store).second_sight(MINUTE).build()), &[]).await
}

/// Within a load of the same layer.
async fn nested() -> Explanation {
    let layer = layer();
    let inner = layer.clone();
    let explained = std::sync::Arc::new(std::sync::Mutex::new(None));
    let told = explained.clone();
    let service = layer.layer(service_fn(move |request: Request<Body>| {
        let (inner, told) = (inner.clone(), told.clone());
        // Without its body, which is not `Sync`.
        let head = request.map(drop);
        async move {
            let explanation = inner.explain(&head.map(|()| String::new())).await;
            *told.lock().unwrap() = Some(explanation);
            Ok::<_, Infallible>(Response::new(full("")))
        }
    }));
    service.oneshot(request(Method::GET, "/a", &[])).await.unwrap();
    let explanation = explained.lock().unwrap().take();
    explanation.expect("it was asked")
}

/// Reasons that are known only afterwards: how a body ends, what other requests do in the meantime, what a handler has read; and
/// those of values, which are not requests.
const AFTERWARDS: [R; 9] = [
    R::BodyTruncated,
    R::BodyFailed,
    R::LeaseLost,
    R::WaitedTooLong,
    R::Abandoned,
    R::Overloaded,
    R::StoreBusy,
    R::MadeFromStale,
    R::Unserializable,
];

#[tokio::test(flavor = "multi_thread")]
async fn every_reason_is_explained_by_its_name() {
    let mut reached = BTreeSet::new();
    for explained in [by_request().await, by_content().await, by_response().await, by_state().await] {
        for (reason, explanation) in explained {
            assert_eq!(explanation.reason, Some(reason), "{explanation:?}");
            let named = explanation.cache_status.contains(reason.as_str());
            // These two are said by `fwd=method`, and this one by no response at all.
            let otherwise = matches!(reason, R::Method | R::ConnectMethod | R::ServiceFailed);
            assert!(named || otherwise, "{reason}: {}", explanation.cache_status);
            reached.insert(reason.as_str());
        }
    }
    reached.extend(AFTERWARDS.map(R::as_str));
    let all: BTreeSet<&str> = R::ALL.iter().map(|reason| reason.as_str()).collect();
    assert_eq!(reached, all);
}

#[tokio::test]
async fn the_rule_and_the_origin_of_each_setting_are_told() {
    let layer = layer().ttl_for_path("/shops", MINUTE).stale_if_error(MINUTE).max_body(5);
    let orders = Rule::path("/shops/{id}/orders").host("shop.example").ttl(Duration::from_secs(1)).max_body(7);
    let layer = layer.rule(orders.methods([Method::GET]).key_headers([HeaderName::from_static("x-tenant")])).unwrap();
    let told = |explanation: &Explanation, name: &str| {
        let settings = &explanation.settings.as_ref().unwrap().all;
        let setting = settings.iter().find(|setting| setting.name == name).unwrap();
        (setting.value.clone(), setting.origin)
    };
    let of_rule = asked(&layer, Method::GET, "/shops/7/orders", &[("x-tenant", "a")]).await;
    assert_eq!(of_rule.settings.as_ref().unwrap().rule.as_deref(), Some("GET shop.example/shops/{id}/orders"));
    assert_eq!(told(&of_rule, "ttl"), ("1s".to_owned(), SettingOrigin::Rule));
    assert_eq!(told(&of_rule, "max_body"), ("7 bytes".to_owned(), SettingOrigin::Rule));
    assert_eq!(told(&of_rule, "key_headers"), ("x-tenant".to_owned(), SettingOrigin::Rule));
    assert_eq!(told(&of_rule, "stale_if_error"), ("60s".to_owned(), SettingOrigin::Layer));
    assert_eq!(told(&of_rule, "heuristics"), ("no".to_owned(), SettingOrigin::Default));
    assert_eq!(of_rule.key.unwrap().fields, ["x-tenant"]);

    let of_layer = asked(&layer, Method::GET, "/shops/7", &[]).await;
    assert_eq!(of_layer.settings.as_ref().unwrap().rule, None);
    assert_eq!(told(&of_layer, "ttl"), ("60s for /shops".to_owned(), SettingOrigin::Layer));
    assert_eq!(told(&of_layer, "max_body"), ("5 bytes".to_owned(), SettingOrigin::Layer));

    let mut hinted = request(Method::GET, "/shops/7/orders", &[]);
    Hints::new().ttl(MINUTE).key_part("acme").add_to(hinted.extensions_mut());
    let hinted = layer.explain(&hinted).await;
    assert_eq!(told(&hinted, "ttl"), ("60s".to_owned(), SettingOrigin::Hint));
    assert_eq!(told(&hinted, "max_body").1, SettingOrigin::Rule);
    assert_eq!(hinted.key.unwrap().hinted, ["acme"]);
}

#[tokio::test]
async fn every_setting_of_a_rule_is_among_those_that_are_told() {
    let minute = MINUTE;
    let rule = Rule::prefix("/")
        .ttl(minute)
        .ttl_cap(minute)
        .negative_ttl(StatusCode::NOT_FOUND, minute)
        .stale_while_revalidate(minute)
        .stale_if_error(minute)
        .soft_timeout(minute)
        .verify(0.5)
        .early_refresh(1.0)
        .encode([])
        .max_body(1)
        .inherit(true)
        .etags(true)
        .keep_if(|_, _| true)
        .voids(false)
        .key_headers([HeaderName::from_static("x-a")])
        .key_cookies(["a"])
        .ignore_query(["a"])
        .ignore_cookies(["b"])
        .bypass_on_cookies(["c"]);
    // What a rule that bypasses says of stored responses is refused.
    for (rule, said) in [(rule, 19), (Rule::prefix("/").bypass(), 1)] {
        let explanation = of_get(&layer().rule(rule).unwrap(), &[]).await;
        let settings = explanation.settings.unwrap().all;
        let by_rule = settings.iter().filter(|setting| setting.origin == SettingOrigin::Rule);
        assert_eq!(by_rule.count(), said);
    }
}

#[tokio::test]
async fn what_answers_for_another_query_or_has_content_in_its_key_is_told() {
    let set = |layer: CacheLayer| layer.no_vary_search(NoVarySearch::new());
    let app = App::new(Cache::new(MemoryStore::new(1 << 20)), &obedient(), set);
    let fields = [("x-say-cache-control", "max-age=60"), ("x-say-no-vary-search", "params=(\"utm\")")];
    app.get("/s?id=1&utm=a", &fields).await;
    let other = asked(&app.layer, Method::GET, "/s?id=1", &[]).await;
    assert_eq!(other.verdict, Verdict::Hit);
    assert_eq!(other.alias_of.unwrap().to_string(), "http://shop.example/s?id=1&utm=a");
    let plan = asked(&app.layer, Method::GET, "/t", &[])
        .await
        .if_answered(&response(200, &[FRESH, ("no-vary-search", "key-order")]));
    let plan = plan.plan.unwrap();
    assert!(plan.answers_other_queries && plan.tags.iter().any(|tag| tag.starts_with("path ")), "{plan:?}");
    // To ask for that teaches nothing.
    assert_eq!(asked(&app.layer, Method::GET, "/t?a&b", &[]).await.alias_of, None);

    let queries = layer().query();
    let method = || Method::from_bytes(b"QUERY").unwrap();
    let query = request(method(), "/s", &[("content-type", "text/plain")]);
    let [one, other] = [queries.explain(&query, "one".into()).await, queries.explain(&query, "other".into()).await];
    let [one, other] = [one, other].map(|explanation| explanation.key.unwrap());
    assert!(one.content.is_some() && one.content != other.content && one.key != other.key);
    let plan = queries.explain(&query, "one".into()).await.if_answered(&response(200, &[FRESH])).plan.unwrap();
    assert!(plan.tags.iter().any(|tag| tag.starts_with("uri ")), "{plan:?}");
    // GET is answered by its target, as ever.
    assert_eq!(queries.explain(&request(Method::GET, "/s", &[]), Bytes::new()).await.key.unwrap().content, None);
}

/// A value whose load fails if it is told to.
async fn value(cache: &Cache, fails: bool) -> Result<&'static str, ()> {
    let load = async move || if fails { Err(()) } else { Ok("value".to_owned()) };
    let asked = cache.get_or_load("key", load).ttl(MINUTE).stale_while_revalidate(MINUTE).stale_if_error(3 * MINUTE);
    let value = asked.failure_backoff(MINUTE, MINUTE).await.map(|_| "value");
    assert!(cache.drain(MINUTE).await);
    value
}

#[tokio::test(flavor = "multi_thread")]
async fn what_becomes_of_a_value_is_told_by_its_key() {
    for backend in [Backend::memory(), Backend::redis()] {
        let clock = Clock::manual();
        let cache = backend.cache().await.clock(clock.clone()).switches(true).build();
        let told = async || {
            let told = cache.explain_value(&Key::from("key")).await;
            (told.verdict, told.reason, told.entry.is_some(), told.stands_in)
        };
        assert_eq!(told().await, (Verdict::Load, None, false, false));
        cache.switch(Switch::StopFills, MINUTE).await.unwrap();
        assert_eq!(told().await, (Verdict::Load, Some(R::FillsStopped), false, false));
        cache.switch_off(Switch::StopFills).await.unwrap();
        value(&cache, false).await.unwrap();
        assert_eq!(told().await, (Verdict::Hit, None, true, true));
        clock.advance(MINUTE);
        assert_eq!(told().await, (Verdict::Stale, None, true, true));
        clock.advance(MINUTE);
        assert_eq!(told().await, (Verdict::Load, None, true, true), "it is only of use in place of an error");
        assert_eq!(value(&cache, true).await, Ok("value"));
        assert_eq!(told().await, (Verdict::BackedOff, Some(R::BackedOff), true, true));
        cache.invalidate_all().await.unwrap();
        let told = cache.explain_value(&Key::from("key")).await;
        assert_eq!((told.verdict, told.entry), (Verdict::Load, None));
        // While a load is under way.
        let (gate, waiting) = (Gate::closed(), cache.clone());
        let load = {
            let gate = gate.clone();
            async move || {
                gate.pass().await;
                Ok::<_, Infallible>(1_u32)
            }
        };
        let loading = tokio::spawn(async move { waiting.get_or_load("other", load).ttl(MINUTE).await });
        wait_until("it is loading", async || cache.loads_in_flight() == 1).await;
        let told = cache.explain_value(&Key::from("other")).await;
        assert_eq!((told.verdict, told.is_loading), (Verdict::Wait, true));
        gate.open();
        assert_eq!(loading.await.unwrap(), Ok(1));
    }
}

#[tokio::test]
async fn what_is_stored_under_a_key_is_told_with_its_fields_and_codings() {
    let set = |layer: CacheLayer| layer.encode(Encode::new([Coding::Gzip]));
    let app = App::new(Cache::new(MemoryStore::new(1 << 20)), &obedient(), set);
    let long = "a".repeat(5_000);
    let fields = [("x-say-cache-control", "max-age=60"), ("x-say-content-type", "text/plain"), ("x-long", &*long)];
    let key = app.layer.key(&"http://shop.example/a".parse().unwrap()).unwrap();
    assert!(app.layer.stored(&key).await.is_none());
    app.get("/a", &fields).await;
    let stored = app.layer.stored(&key).await.unwrap();
    assert_eq!((stored.status, &stored.headers["content-type"]), (StatusCode::OK, &"text/plain".parse().unwrap()));
    assert!(stored.encodable && stored.codings.is_empty(), "{stored:?}");
    app.get("/a", &[("accept-encoding", "gzip")]).await;
    wait_until("it is encoded", async || {
        let codings = app.layer.stored(&key).await.unwrap().codings;
        codings.iter().any(|&(coding, bytes)| coding == Coding::Gzip && bytes < stored.entry.bytes)
    })
    .await;
    // Fields that only responses have are not stored.
    let headers = app.layer.stored(&key).await.unwrap().headers;
    assert!(!headers.contains_key("content-encoding") && !headers.contains_key("vary"), "{headers:?}");
}

#[tokio::test]
async fn the_field_in_which_the_cache_says_what_it_did_is_told() {
    let field = HeaderName::from_static("cdn-cache-status");
    let renamed = of_get(&layer().cache_status_field(field.clone()), &[]).await;
    assert_eq!(renamed.cache_status_field, Some(field));
    assert_eq!(renamed.cache_status, "cache-layer; fwd=uri-miss; stored");
    assert_eq!(of_get(&layer().announce(false), &[]).await.cache_status_field, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn to_ask_takes_no_lease_and_writes_nothing() {
    for backend in [Backend::redis(), Backend::tiered()] {
        let app = App::new(backend.cache().await.build(), &obedient(), |layer| layer).unexplained();
        // So that a look-up would take a lease along, were it one that a load follows.
        for call in 0..20 {
            app.get(&format!("/{call}"), &[("x-say-cache-control", "max-age=60")]).await;
        }
        let key = app.layer.key(&"http://shop.example/a".parse().unwrap()).unwrap();
        // A lease that was claimed in vain is given back a moment later.
        let leases = async || backend.server().keys().iter().filter(|name| name.contains(":l:")).count();
        wait_until("all leases to be given back", async || leases().await == 0).await;
        let (keys, counts, before) = (backend.server().keys(), app.cache.counts(), RedisUsage::of(backend.server()));
        for _ in 0..3 {
            let explanation = of_get(&app.layer, &[]).await;
            assert_eq!((explanation.verdict, explanation.lease), (Verdict::Load, Some(LeaseState::Free)));
            let stored = explanation.if_answered(&response(200, &[FRESH]));
            assert!(stored.plan.is_some() && stored.cache_status.ends_with("stored"), "{stored:?}");
        }
        let asked = RedisUsage::of(backend.server()).since(&before);
        assert_eq!((asked.calls("set"), asked.calls("evalsha")), (0, 0), "{}", asked.per(3));
        assert_eq!(backend.server().keys(), keys);
        assert_eq!(app.cache.inspect_lease(&key).await, Ok(LeaseState::Free));
        assert_eq!(app.cache.counts(), counts, "nothing was looked up");
    }
}

async fn names_the_pattern(app: &App) {
    let fields = [("x-say-cache-control", "max-age=60")];
    for path in ["/old", "/new"] {
        app.get(path, &fields).await;
    }
    assert!(app.cache.drain(MINUTE).await);
    app.cache.delete_pattern("http://shop.example/*").await.unwrap();
    app.get("/new", &fields).await;
    assert!(app.cache.drain(MINUTE).await);
    let old = asked(&app.layer, Method::GET, "/old", &[]).await;
    assert_eq!((old.verdict, old.banned_by.as_deref()), (Verdict::Load, Some("http://shop.example/*")));
    let key = old.key.unwrap().key;
    assert_eq!(app.cache.inspect_ban(&key).await, Ok(Some("http://shop.example/*".to_owned())));
    let new = asked(&app.layer, Method::GET, "/new", &[]).await;
    assert_eq!((new.verdict, new.banned_by), (Verdict::Hit, None));
    assert_eq!(asked(&app.layer, Method::GET, "/other", &[]).await.banned_by, None);
}

/// While time stands still, nothing is swept.
#[tokio::test(start_paused = true)]
async fn the_pattern_that_voids_a_response_is_named() {
    names_the_pattern(&App::new(Cache::new(MemoryStore::new(1 << 20)), &obedient(), |layer| layer)).await;
}

#[tokio::test]
async fn the_pattern_that_voids_a_response_in_redis_is_named() {
    let server = RedisServer::start();
    let store = RedisStore::builder(server.url()).operation_timeout(MINUTE / 6).lurker(false).build().unwrap();
    assert!(store.wait_connected(MINUTE).await);
    names_the_pattern(&App::new(Cache::new(store), &obedient(), |layer| layer)).await;
}

#[tokio::test]
async fn what_a_sweep_removed_is_told_to_each_cache_over_the_store() {
    let store = MemoryStore::new(1 << 20);
    let told = Arc::new(Mutex::new(Vec::new()));
    let cache = || {
        let told = told.clone();
        Cache::builder(store.clone()).observer(move |event: Event| told.lock().unwrap().push(event)).build()
    };
    let (one, gone) = (cache(), cache());
    drop(gone);
    let other = cache();
    for id in 0..3 {
        one.set(("list", id), &id).ttl(MINUTE).await.unwrap();
    }
    one.set("other", &1).ttl(MINUTE).await.unwrap();
    other.delete_pattern("list:*").await.unwrap();
    let swept = || -> Vec<(SweepCause, u64, u64, u64)> {
        let told = told.lock().unwrap();
        let swept = told.iter().filter_map(|event| match *event {
            Event::Swept { cause, patterns, examined, removed, .. } => Some((cause, patterns, examined, removed)),
            _ => None,
        });
        swept.collect()
    };
    tests::wait_until("the sweep to be told", async || swept().len() >= 2).await;
    assert_eq!(swept(), [(SweepCause::Pattern, 1, 4, 3); 2]);
    assert_eq!(store.bans(), 0);
}
