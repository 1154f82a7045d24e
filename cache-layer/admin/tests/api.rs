//! The API over a cache with an application behind it: explained, purged, watched; and refused.

use std::{
    convert::Infallible,
    fmt::{self, Write as _},
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{Router, body::Body, extract::ConnectInfo};
use bytes::Bytes;
use cache_layer::{
    Cache, CacheLayer, Clock, Hints, Key,
    store::{MemoryStore, RedisStore},
};
use cache_layer_admin::{Admin, Recorder};
use futures_util::{FutureExt as _, future::join_all};
use http::{HeaderMap, HeaderName, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use serde_json::{Value, json};
use tests::RedisServer;
use tower::{Layer as _, ServiceExt as _, service_fn, util::BoxCloneService};
use tracing::{
    Event, Metadata, Subscriber,
    field::Field,
    span::{Attributes, Id, Record},
};

const TOKEN: &str = "0123456789abcdef-admin";
const MINUTE: Duration = Duration::from_secs(60);

type Service = BoxCloneService<Request<Full<Bytes>>, Response<cache_layer::ResponseBody<Full<Bytes>>>, Infallible>;

/// An application, a cache in front of it, and the operator's side of that.
struct Shop {
    cache: Cache,
    service: Service,
    admin: Router,
}

/// Answers with fields that the request's own `x-answer` names, one a line.
async fn application(request: Request<Full<Bytes>>) -> Result<Response<Full<Bytes>>, Infallible> {
    let mut response = Response::builder();
    if request.uri().path().starts_with("/slow/") {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for line in request.headers().get_all("x-answer") {
        let (name, value) = line.to_str().unwrap().split_once('=').unwrap();
        response = match name {
            "status" => response.status(value.parse::<u16>().unwrap()),
            _ => response.header(name, value),
        };
    }
    Ok(response.body(Full::from(format!("of {}", request.uri()))).unwrap())
}

impl Shop {
    fn new() -> Self {
        let store = MemoryStore::new(1 << 22);
        Self::over(Cache::builder(store.clone()), |admin| admin.memory(store))
    }

    fn over(builder: cache_layer::CacheBuilder, set: impl FnOnce(Admin) -> Admin) -> Self {
        Self::with_layer(builder, |layer| layer, set)
    }

    fn with_layer(
        builder: cache_layer::CacheBuilder,
        layer: impl FnOnce(CacheLayer) -> CacheLayer,
        set: impl FnOnce(Admin) -> Admin,
    ) -> Self {
        let recorder = Recorder::new();
        let cache = builder.observer(recorder.clone()).build();
        let layer = layer(CacheLayer::new(cache.clone()).ttl_for_path("/ruled", MINUTE));
        let service = BoxCloneService::new(layer.layer(service_fn(application)));
        let admin = Admin::new(cache.clone()).name("shop").layer("all", &layer).recorder(recorder);
        let admin = set(admin).token(TOKEN).unwrap().router();
        Self { cache, service, admin }
    }

    async fn get(&self, path: &str, fields: &[(&str, &str)]) -> Response<Bytes> {
        self.request(Method::GET, path, fields, None).await
    }

    async fn request(
        &self,
        method: Method,
        path: &str,
        fields: &[(&str, &str)],
        hints: Option<Hints>,
    ) -> Response<Bytes> {
        let mut request = Request::builder().method(method).uri(format!("http://shop.example{path}"));
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let mut request = request.body(Full::default()).unwrap();
        if let Some(hints) = hints {
            hints.add_to(request.extensions_mut());
        }
        let response = self.service.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        assert!(self.cache.drain(MINUTE).await);
        Response::from_parts(parts, body)
    }

    /// From this machine, without a token.
    async fn ask(&self, target: &str) -> Value {
        let (status, _, body) = self.send(Method::GET, target, &[], "").await;
        assert_eq!(status, StatusCode::OK, "{target}: {body}");
        serde_json::from_str(&body).unwrap()
    }

    async fn purge(&self, body: &Value) -> Value {
        let (status, _, text) = self.post(body, &[]).await;
        assert_eq!(status, StatusCode::OK, "{body}: {text}");
        serde_json::from_str(&text).unwrap()
    }

    /// A stream of `/api/live`, which has begun.
    async fn watch(&self, query: &str) -> Body {
        let peer: SocketAddr = "127.0.0.1:5000".parse().unwrap();
        let request = Request::get(format!("/api/live?{query}")).header("host", "localhost");
        let request = request.extension(ConnectInfo(peer)).body(Body::empty()).unwrap();
        let response = self.admin.clone().oneshot(request).await.unwrap();
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        response.into_body()
    }

    async fn post(&self, body: &Value, fields: &[(&str, &str)]) -> (StatusCode, HeaderMap, String) {
        let bearer = format!("Bearer {TOKEN}");
        let known = [("authorization", &*bearer), ("content-type", "application/json")];
        self.send(Method::POST, "/api/purge", &[&known[..], fields].concat(), &body.to_string()).await
    }

    async fn send(
        &self,
        method: Method,
        target: &str,
        fields: &[(&str, &str)],
        body: &str,
    ) -> (StatusCode, HeaderMap, String) {
        let peer: SocketAddr = "127.0.0.1:5000".parse().unwrap();
        let mut request = Request::builder().method(method).uri(target).extension(ConnectInfo(peer));
        if !fields.iter().any(|(name, _)| *name == "host") {
            request = request.header("host", "localhost:9090");
        }
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::from(body.to_owned())).unwrap();
        let (parts, body) = self.admin.clone().oneshot(request).await.unwrap().into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        (parts.status, parts.headers, String::from_utf8(body.to_vec()).unwrap())
    }
}

fn cache_status<T>(response: &Response<T>) -> &str {
    response.headers()["cache-status"].to_str().unwrap()
}

#[tokio::test]
async fn what_explain_says_is_what_comes() {
    // Time stands still, so that no second begins in between.
    let shop = Shop::over(Cache::builder(MemoryStore::new(1 << 22)).clock(Clock::manual()), |admin| admin);
    let url = "/api/explain?url=http%3A%2F%2Fshop.example%2Fa";
    let before = shop.ask(url).await;
    assert_eq!((&before["verdict"], &before["is_final"]), (&json!("load"), &json!(false)));
    let answered =
        shop.ask(&format!("{url}&response_header=cache-control:max-age=60&response_header=cache-tag:t")).await;
    assert_eq!(answered["plan"]["fresh_ms"], 60_000);
    assert_eq!(answered["plan"]["tags"], json!(["t"]));
    let came = shop.get("/a", &[("x-answer", "cache-control=max-age=60"), ("x-answer", "cache-tag=t")]).await;
    assert_eq!(answered["cache_status"], cache_status(&came));

    let hit = shop.ask(url).await;
    assert_eq!((&hit["verdict"], &hit["tier"], &hit["is_final"]), (&json!("hit"), &json!("memory"), &json!(true)));
    assert_eq!(hit["tags"][0]["change"], "created");
    assert_eq!(hit["entry"]["bytes"], "of http://shop.example/a".len());
    assert_eq!(hit["recent"][0]["result"], "miss");
    let came = shop.get("/a", &[]).await;
    assert_eq!(hit["cache_status"], cache_status(&came));

    shop.cache.invalidate_tag("t").await.unwrap();
    let void = shop.ask(url).await;
    assert_eq!((&void["verdict"], &void["rejected"]), (&json!("load"), &json!("tag")));
}

#[tokio::test]
async fn every_reason_that_a_request_or_a_response_can_have_is_reached_by_name() {
    let shop = Shop::new();
    for (reason, method, request, response) in [
        ("method", "PUT", "", ""),
        ("connect", "CONNECT", "", ""),
        ("upgrade", "GET", "upgrade: websocket", ""),
        ("range", "GET", "range: lines=1-2", ""),
        ("conditional", "GET", "if-match: \"a\"", ""),
        ("request-no-store", "GET", "cache-control: no-store", ""),
        ("head", "HEAD", "", ""),
        ("status", "GET", "", "status=206"),
        ("no-store", "GET", "", "cache-control=no-store"),
        ("private", "GET", "", "cache-control=private"),
        ("no-cache", "GET", "", "cache-control=no-cache"),
        ("authorization", "GET", "authorization: Bearer a", "cache-control=max-age=60"),
        ("set-cookie", "GET", "", "set-cookie=a=b"),
        ("vary", "GET", "", "vary=*"),
        ("event-stream", "GET", "", "content-type=text/event-stream"),
        ("grpc", "GET", "", "content-type=application/grpc"),
        ("content-range", "GET", "", "content-range=bytes 0-1/2"),
        ("trailers", "GET", "", "trailer=x-checksum"),
        ("no-freshness", "GET", "", "x-nothing=1"),
        ("stale", "GET", "", "cache-control=max-age=0"),
        ("body-too-large", "GET", "", "content-length=2000000"),
    ] {
        let mut target = format!("/api/explain?url=http://shop.example/{reason}&method={method}");
        let encoded = |text: &str| text.replace('"', "%22").replace(' ', "%20").replace('=', "%3D");
        if !request.is_empty() {
            target += &format!("&header={}", encoded(request));
        }
        if let Some(status) = response.strip_prefix("status=") {
            target += &format!("&status={status}");
        } else if let Some((name, value)) = response.split_once('=') {
            target += &format!("&response_header={}", encoded(&format!("{name}: {value}")));
            // Fresh, so that the reason is another.
            if name != "cache-control" && reason != "no-freshness" {
                target += "&response_header=cache-control:max-age%3D60";
            }
        }
        let told = shop.ask(&target).await;
        assert_eq!(told["reason"]["name"], reason, "{target}: {told}");
        assert!(told["reason"]["means"].as_str().unwrap().len() > 20);
    }
    let without_host = shop.ask("/api/explain?url=/a").await;
    assert_eq!(without_host["reason"]["name"], "no-authority");
    let ruled = shop.ask("/api/explain?url=http://shop.example/ruled/a&header=cookie:a%3Db&status=200").await;
    assert_eq!(ruled["reason"]["name"], "cookie");
    let ttl = json!({"name": "ttl", "value": "60s for /ruled", "origin": "layer"});
    assert!(ruled["settings"].as_array().unwrap().contains(&ttl), "{ruled}");
}

#[tokio::test]
async fn a_purge_does_what_its_dry_run_foretold_and_is_in_the_audit() {
    let shop = Shop::new();
    for number in 0..30 {
        let tag = format!("cache-tag=t{}", number % 3);
        shop.get(&format!("/p/{number}"), &[("x-answer", "cache-control=max-age=60"), ("x-answer", &tag)]).await;
    }
    for (what, expected) in [
        (json!({"url": "http://shop.example/p/0"}), 1),
        (json!({"tag": "t1"}), 10),
        (json!({"pattern": "http://shop.example/p/2?"}), 10),
        (json!({"all": true}), 30),
    ] {
        let mut dry = what.clone();
        dry["dry_run"] = json!(true);
        let foretold = shop.purge(&dry).await;
        assert_eq!((&foretold["matched"], &foretold["id"]), (&json!(expected), &Value::Null), "{what}");
    }
    assert!(shop.get("/p/1", &[]).await.headers()["x-cache"] == "HIT", "a dry run changes nothing");
    assert_eq!(shop.ask("/api/audit?by=api").await, json!([]));

    let purged = shop.purge(&json!({"tag": "t1", "actor": "ada", "reason": "wrong price"})).await;
    assert_eq!((&purged["matched"], &purged["delivered"], &purged["mode"]), (&json!(10), &json!(true), &json!("hard")));
    assert_eq!(shop.get("/p/1", &[]).await.headers()["x-cache"], "MISS");
    let deleted = shop.purge(&json!({"pattern": "http://shop.example/p/2?"})).await;
    assert_eq!(deleted["matched"], 10);

    let audit = shop.ask("/api/audit").await;
    assert_eq!(
        audit.as_array().unwrap().len(),
        2,
        "a purge is not an invalidation of the application's besides: {audit}"
    );
    assert_eq!(
        (&audit[1]["actor"], &audit[1]["what"], &audit[1]["from"]),
        (&json!("ada"), &json!("t1"), &json!("127.0.0.1"))
    );
    shop.cache.invalidate_tag("own").await.unwrap();
    let own = shop.ask("/api/audit?by=application").await;
    assert_eq!((&own[0]["what"], &own[0]["kind"]), (&json!("own"), &json!("tag")));
}

#[tokio::test]
async fn an_operators_purges_are_not_the_applications_and_hide_none_of_its_own() {
    let shop = Shop::new();
    let fields = [("x-answer", "cache-control=max-age=60"), ("x-answer", "cache-tag=t")];
    let targets = [
        json!({"tag": "t"}),
        json!({"url": "http://shop.example/a"}),
        json!({"key": ["a", "b"]}),
        json!({"pattern": "http://shop.example/*"}),
        json!({"group": "g", "origin": "http://shop.example"}),
        json!({"all": true}),
    ];
    for mode in ["hard", "soft"] {
        for target in &targets {
            let mut body = target.clone();
            body["mode"] = json!(mode);
            shop.get("/a", &fields).await;
            shop.purge(&body).await;
        }
    }
    for target in ["/api/audit?by=application&limit=1", "/api/audit?by=application"] {
        assert_eq!(shop.ask(target).await, json!([]), "{target}");
    }
    assert_eq!(shop.ask("/api/audit").await.as_array().unwrap().len(), 2 * targets.len());
    // At the same moment as a purge of another key.
    let (url, key) = (json!({"url": "http://shop.example/a"}), cache_layer::Key::from("own"));
    let (_, own) = tokio::join!(shop.purge(&url), shop.cache.invalidate(&key));
    own.unwrap();
    let own = shop.ask("/api/audit?by=application").await;
    assert_eq!((own.as_array().unwrap().len(), &own[0]["what"]), (1, &json!("own")), "{own}");
}

#[tokio::test]
async fn only_so_many_clients_watch_at_one_time() {
    let shop = Shop::new();
    let watch = async || {
        let peer: SocketAddr = "127.0.0.1:5000".parse().unwrap();
        let request = Request::get("/api/live").header("host", "localhost").extension(ConnectInfo(peer));
        shop.admin.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
    };
    let mut watching = Vec::new();
    for _ in 0..16 {
        watching.push(watch().await);
    }
    assert!(watching.iter().all(|response| response.status() == StatusCode::OK));
    let refused = watch().await;
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(refused.headers().contains_key("retry-after"));
    watching.pop();
    assert_eq!(watch().await.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_soft_purge_leaves_what_may_be_used_stale_and_a_group_is_its_origins_own() {
    let shop = Shop::new();
    let fields =
        [("x-answer", "cache-control=max-age=60, stale-while-revalidate=60"), ("x-answer", "cache-groups=\"g\"")];
    shop.get("/a", &fields).await;
    shop.purge(&json!({"url": "http://shop.example/a", "mode": "soft"})).await;
    let told = shop.ask("/api/explain?url=http://shop.example/a").await;
    assert_eq!((&told["verdict"], &told["entry"]["soft_invalidated"]), (&json!("stale"), &json!(true)));
    assert_eq!(shop.get("/a", &fields).await.headers()["x-cache"], "STALE");

    let other = shop.purge(&json!({"group": "g", "origin": "http://other.example"})).await;
    assert_eq!(other["matched"], 0);
    let own = shop.purge(&json!({"group": "g", "origin": "http://shop.example/anything"})).await;
    assert_eq!(own["matched"], 1);
    assert_eq!(shop.get("/a", &fields).await.headers()["x-cache"], "MISS");
}

#[tokio::test]
async fn a_purge_over_a_while_leaves_what_has_its_turn_to_come() {
    let shop = Shop::new();
    let fields = [("x-answer", "cache-control=max-age=3600, stale-while-revalidate=60"), ("x-answer", "cache-tag=t")];
    for body in [
        json!({"tag": "t", "mode": "soft", "over": 604_800}),
        json!({"url": "http://shop.example/a", "mode": "soft", "over": 604_800}),
        json!({"pattern": "http://shop.example/*", "mode": "soft", "over": 604_800}),
        json!({"all": true, "mode": "soft", "over": 604_800}),
    ] {
        shop.get("/a", &fields).await;
        let purged = shop.purge(&body).await;
        assert_eq!((&purged["mode"], &purged["delivered"]), (&json!("soft"), &json!(true)), "{body}");
        assert_eq!(shop.get("/a", &fields).await.headers()["x-cache"], "HIT", "{body}");
    }
    shop.purge(&json!({"pattern": "http://shop.example/*", "mode": "soft"})).await;
    assert_eq!(shop.get("/a", &fields).await.headers()["x-cache"], "STALE");
}

#[tokio::test]
async fn a_purge_that_is_sent_again_purges_once() {
    let shop = Shop::new();
    let body = json!({"tag": "t"});
    let (first, _, one) = shop.post(&body, &[("idempotency-key", "k1")]).await;
    let (second, _, two) = shop.post(&body, &[("idempotency-key", "k1")]).await;
    assert_eq!((first, second, &one), (StatusCode::OK, StatusCode::OK, &two));
    assert_eq!(shop.cache.counts().invalidations, 1);
    let (other, _, _) = shop.post(&json!({"tag": "u"}), &[("idempotency-key", "k1")]).await;
    assert_eq!(other, StatusCode::UNPROCESSABLE_ENTITY);
    shop.post(&body, &[("idempotency-key", "k2")]).await;
    assert_eq!(shop.cache.counts().invalidations, 2);
    // What was wrong had no effect, and its key is free for what is right; so is that of a dry run.
    for wrong in [json!({"tag": "t", "mode": "sotf"}), json!({"tag": "t", "dry_run": true})] {
        shop.post(&wrong, &[("idempotency-key", "k3")]).await;
    }
    let (right, _, text) = shop.post(&body, &[("idempotency-key", "k3")]).await;
    assert_eq!((right, shop.cache.counts().invalidations), (StatusCode::OK, 3), "{text}");
}

#[tokio::test]
async fn one_of_those_that_ask_for_the_same_at_once_purges() {
    let shop = Shop::new();
    let (body, key) = (json!({"tag": "t"}), [("idempotency-key", "k1")]);
    let answers = join_all((0..8).map(|_| shop.post(&body, &key))).await;
    for (status, _, answer) in &answers {
        assert_eq!((*status, answer), (StatusCode::OK, &answers[0].2));
    }
    assert_eq!(shop.cache.counts().invalidations, 1);
}

#[tokio::test]
async fn a_purge_is_foretold_with_what_it_costs_to_load_again() {
    let shop = Shop::new();
    for path in ["/slow/1", "/slow/2"] {
        shop.get(path, &[("x-answer", "cache-control=max-age=3600"), ("x-answer", "cache-tag=slow")]).await;
    }
    let told = shop.ask("/api/tag/slow").await;
    let dry = shop.purge(&json!({"tag": "slow", "dry_run": true})).await;
    assert_eq!((&told["keys"], &dry["matched"]), (&json!(2), &json!(2)));
    assert_eq!((&told["keys_error"], &dry["matched_error"]), (&Value::Null, &Value::Null), "all were looked at");
    for told in [told, dry] {
        assert!(told["reload_ms"].as_u64().unwrap() >= 2 * 40, "each took 50 ms: {told}");
    }
    let none = shop.ask("/api/tag/none").await;
    assert_eq!((&none["keys"], &none["reload_ms"]), (&json!(0), &json!(0)));
}

#[tokio::test]
async fn what_is_wrong_is_said_and_changes_nothing() {
    let shop = Shop::new();
    for body in [
        json!({}),
        json!({"tag": "a", "url": "http://a/"}),
        json!({"tag": ""}),
        json!({"key": []}),
        json!({"all": false}),
        json!({"url": "/a"}),
        json!({"url": "http://a b/"}),
        json!({"group": "g"}),
        json!({"tag": "a", "mode": "gentle"}),
        json!({"tag": "a", "over": 60}),
        json!({"tag": "a", "mode": "soft", "over": 604_801}),
        json!({"tag": "a", "reason": "x".repeat(201)}),
        json!({"tag": "a", "actor": "x".repeat(201)}),
        json!({"tag": "a", "reason": "a\u{1b}[2J"}),
        json!({"tag": "a", "actor": "ada\nbob"}),
        json!({"tag": "a", "actor": "\u{202e}ada"}),
    ] {
        let (status, headers, text) = shop.post(&body, &[]).await;
        assert_eq!(
            (status, &headers["content-type"]),
            (StatusCode::BAD_REQUEST, &"application/problem+json".parse().unwrap()),
            "{body}"
        );
        assert!(serde_json::from_str::<Value>(&text).unwrap()["detail"].as_str().unwrap().len() > 10);
    }
    assert_eq!(shop.post(&json!({"tagg": "a"}), &[]).await.0, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(shop.post(&json!({"tag": "a".repeat(100_000)}), &[]).await.0, StatusCode::PAYLOAD_TOO_LARGE);
    for key in ["", &*"k".repeat(201)] {
        let (status, _, text) = shop.post(&json!({"tag": "a"}), &[("idempotency-key", key)]).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{key:?}: {text}");
    }
    assert_eq!(shop.cache.counts().invalidations, 0);
    for target in [
        "/api/explain",
        "/api/explain?url=http://a/&method=G%20T",
        "/api/explain?url=http://a/&header=nocolon",
        "/api/explain?url=http://a/&status=7",
        "/api/explain?url=http://a/&layer=none",
        "/api/explain?url=http://a/&urll=b",
        "/api/entry",
        "/api/live?sample=2",
        "/api/top?limit=many",
        "/api/audit?by=me",
    ] {
        let (status, _, text) = shop.send(Method::GET, target, &[], "").await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{target}: {text}");
    }
    assert_eq!(shop.send(Method::GET, "/api/nothing", &[], "").await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn who_may_not_is_refused() {
    let shop = Shop::new();
    let purge = r#"{"all": true}"#;
    let bearer = format!("Bearer {TOKEN}");
    let json = ("content-type", "application/json");
    for (fields, expected) in [
        (vec![json], 401),
        (vec![json, ("authorization", "Bearer wrong-wrong-wrong-wrong")], 401),
        (vec![json, ("authorization", &*bearer), ("origin", "http://evil.example")], 403),
        (vec![json, ("authorization", &*bearer), ("sec-fetch-site", "cross-site")], 403),
    ] {
        assert_eq!(shop.send(Method::POST, "/api/purge", &fields, purge).await.0, expected, "{fields:?}");
    }
    let (in_query, _, _) = shop.send(Method::POST, &format!("/api/purge?token={TOKEN}"), &[json], purge).await;
    assert_eq!(in_query, 400);
    assert_eq!(shop.cache.counts().invalidations, 0);
    for target in [
        "/api/stats",
        "/api/explain?url=http://a/",
        "/api/entry?url=http://a/",
        "/api/tag/t",
        "/api/audit",
        "/api/top",
        "/api/live",
    ] {
        let (status, headers, _) = shop.send(Method::GET, target, &[("host", "evil.example")], "").await;
        assert_eq!(
            (status, &headers["www-authenticate"]),
            (StatusCode::UNAUTHORIZED, &"Bearer".parse().unwrap()),
            "{target}"
        );
    }
    // The page itself is nobody's secret, and may not be shown in another one.
    for target in ["/", "/page.js", "/page.css", "/openapi.json"] {
        let (status, headers, body) = shop.send(Method::GET, target, &[("host", "evil.example")], "").await;
        assert_eq!(status, StatusCode::OK);
        assert!(headers["content-security-policy"].to_str().unwrap().contains("frame-ancestors 'none'"));
        assert!(!body.contains(TOKEN) && !body.contains("innerHTML"), "{target}");
    }
}

#[tokio::test]
async fn no_answer_has_a_body_a_cookie_or_a_credential() {
    let shop = Shop::new();
    let answers = [
        ("x-answer", "cache-control=public, max-age=60"),
        ("x-answer", "x-auth-token=opensesame"),
        ("cookie", "session=opensesame"),
        ("authorization", "Bearer opensesame"),
    ];
    shop.get("/a?api_key=opensesame&page=1", &answers).await;
    let url = "http%3A%2F%2Fshop.example%2Fa%3Fapi_key%3Dopensesame%26page%3D1";
    shop.purge(&json!({"url": "http://shop.example/a?api_key=opensesame&page=1", "dry_run": true})).await;
    shop.get("/a?api_key=opensesame&page=1", &[]).await;
    let explained = shop
        .ask(&format!("/api/explain?url={url}&header=cookie:session%3Dopensesame&header=authorization:opensesame"))
        .await;
    assert_eq!(explained["verdict"], "hit");
    let purged = shop.purge(&json!({"url": "http://shop.example/a?api_key=opensesame&page=1"})).await;
    let others = [
        shop.ask(&format!("/api/entry?url={url}")).await,
        shop.ask("/api/top").await,
        shop.ask("/api/audit").await,
        shop.ask("/api/stats").await,
    ];
    for answer in others.iter().chain([&explained, &purged]) {
        let text = answer.to_string();
        assert!(!text.contains("opensesame") && !text.contains("of http://"), "{text}");
    }
}

/// As a value in a query.
fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02x}")).collect()
}

#[tokio::test]
async fn whatever_is_asked_for_most_can_be_explained() {
    const FRESH: &[(&str, &str)] = &[("x-answer", "cache-control=max-age=60"), ("x-answer", "cache-tag=t")];
    let shop = Shop::new();
    let product = Key::from(("product", 42));
    for _ in 0..3 {
        shop.get("/search?q=a%20b", FRESH).await;
        shop.get("/open?api_key=abc", FRESH).await;
        shop.request(Method::GET, "/prices", FRESH, Some(Hints::new().key_part("one"))).await;
        let load = async || Ok::<_, Infallible>("a product".to_owned());
        shop.cache.get_or_load(&product, load).ttl(MINUTE).tags(["t"]).await.unwrap();
        assert!(shop.cache.drain(MINUTE).await);
    }
    let top = shop.ask("/api/top").await;
    let found = |part: &str| {
        let hottest = top["hottest"].as_array().unwrap().iter();
        hottest.clone().find(|one| one["key"].as_str().unwrap().contains(part)).unwrap_or_else(|| panic!("{top}"))
    };
    assert_eq!(found("/search")["url"], "http://shop.example/search?q=a%20b");
    let told = shop.ask(&format!("/api/explain?url={}", encoded(found("/search")["url"].as_str().unwrap()))).await;
    assert_eq!((&told["verdict"], &told["layer"]), (&json!("hit"), &json!("all")));
    for (part, layer, of_request) in
        [("/search", "all", true), ("/open", "all", true), ("/prices", "all", false), ("product", "", false)]
    {
        let digest = found(part)["digest"].as_str().unwrap();
        assert_eq!(found(part)["url"].is_null(), part != "/search", "{}", found(part));
        let told = shop.ask(&format!("/api/explain?digest={digest}")).await;
        assert_eq!((&told["verdict"], &told["tier"]), (&json!("hit"), &json!("memory")), "{told}");
        assert_eq!((told["layer"].is_string(), told["cache_status"].is_string()), (of_request, of_request), "{told}");
        assert_eq!(told["tags"][0]["change"], "created", "{told}");
        assert_eq!(told["recent"].as_array().unwrap().len(), 3, "{told}");
        let entry = shop.ask(&format!("/api/entry?digest={digest}")).await;
        assert_eq!(entry[0]["layer"].as_str().unwrap_or_default(), layer, "{entry}");
        assert_eq!((&entry[0]["tier"], &entry[0]["tags"][0]["name"]), (&json!("memory"), &json!("t")), "{entry}");
        assert_eq!(entry[0]["recent"].as_array().unwrap().len(), 3, "{entry}");
        let expected = if part == "product" { Value::Null } else { json!(200) };
        assert_eq!(entry[0]["response"]["status"], expected, "{entry}");
    }
    let of_key = "/api/explain?key=product&key=:&key=42";
    let told = shop.ask(of_key).await;
    assert_eq!((&told["verdict"], &told["key"]["readable"]), (&json!("hit"), &json!("product:42")));
    assert_eq!(told["value"]["bytes"], "\"a product\"".len());
    shop.cache.invalidate_tag("t").await.unwrap();
    let told = shop.ask(of_key).await;
    assert_eq!((&told["verdict"], &told["rejected"], &told["value"]), (&json!("load"), &json!("tag"), &Value::Null));
    for (target, status) in [
        ("/api/explain?digest=0123", StatusCode::NOT_FOUND),
        ("/api/entry?digest=0123", StatusCode::NOT_FOUND),
        ("/api/explain?key=product&url=http://shop.example/", StatusCode::BAD_REQUEST),
        ("/api/explain?key=product&digest=0123", StatusCode::BAD_REQUEST),
        ("/api/explain?key=product&method=GET", StatusCode::BAD_REQUEST),
    ] {
        assert_eq!(shop.send(Method::GET, target, &[], "").await.0, status, "{target}");
    }
}

/// What was logged on this thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<String>>);

impl Subscriber for Log {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut log = self.0.lock().unwrap();
        event.record(&mut |field: &Field, value: &dyn fmt::Debug| writeln!(log, "{field}={value:?}").unwrap());
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[tokio::test]
async fn nothing_that_is_part_of_a_key_for_one_client_is_told_and_no_url_that_opens_something() {
    let log = Log::default();
    let _guard = tracing::subscriber::set_default(log.clone());
    let keyed = |layer: CacheLayer| layer.key_cookies(["session"]).key_headers([HeaderName::from_static("x-api-key")]);
    let shop = Shop::with_layer(Cache::builder(MemoryStore::new(1 << 22)), keyed, |admin| admin);
    let (mut basket, mut secret) = (shop.watch("path=/basket").await, shop.watch("path=opensesame").await);
    let redirect = [
        ("x-answer", "cache-control=public, max-age=60"),
        ("x-answer", "status=302"),
        ("x-answer", "location=https://bucket.example/a?X-Amz-Signature=opensesame"),
        ("x-answer", "link=<https://b.example/?token=opensesame>; rel=next"),
        ("cookie", "session=opensesame"),
        ("x-api-key", "opensesame"),
    ];
    shop.get("/basket?%74oken=opensesame&page=1", &redirect).await;
    shop.request(Method::GET, "/basket", &redirect, Some(Hints::new().key_part("opensesame"))).await;
    shop.request(Method::PUT, "/basket", &redirect[4..], None).await;
    let seen = [decision(&mut basket).await, decision(&mut basket).await];
    assert!(secret.frame().now_or_never().is_none(), "a filter that finds what is hidden tells it");
    let fields = "header=cookie:session%3Dopensesame&header=x-api-key:opensesame";
    let explained = shop
        .ask(&format!("/api/explain?url=http://shop.example/basket%3F%2574oken%3Dopensesame%26page%3D1&{fields}"))
        .await;
    assert_eq!((&explained["verdict"], &explained["recent"][0]["result"]), (&json!("hit"), &json!("miss")));
    let top = shop.ask("/api/top").await;
    let keys: Vec<&str> = top["hottest"].as_array().unwrap().iter().map(|one| one["key"].as_str().unwrap()).collect();
    assert!(keys.contains(&"http://shop.example/basket?%74oken=•••&page=1#•••#session=•••"), "{keys:?}");
    let purged = [
        shop.purge(&json!({"pattern": "http://shop.example/basket?token=opensesame*"})).await,
        shop.purge(&json!({"tag": "/basket?token=opensesame"})).await,
        shop.purge(&json!({"key": ["", "http", "://", "shop.example", "/basket", "#", "opensesame"]})).await,
    ];
    let audits = [shop.ask("/api/audit").await, shop.ask("/api/audit?by=application").await];
    assert!(!audits[1].as_array().unwrap().is_empty(), "the write");
    let log = Value::String(std::mem::take(&mut *log.0.lock().unwrap()));
    assert!(log.as_str().unwrap().contains("what=\"http://shop.example/basket?token=•••\""), "{log}");
    for answer in seen.iter().chain(&purged).chain(&audits).chain([&explained, &top, &log]) {
        assert!(!answer.to_string().contains("opensesame"), "{answer}");
    }
}

#[tokio::test]
async fn the_counts_of_the_last_minute_the_top_and_the_stored_are_told() {
    let shop = Shop::new();
    for _ in 0..4 {
        shop.get("/a", &[("x-answer", "cache-control=max-age=60"), ("x-answer", "cache-tag=t")]).await;
    }
    shop.get("/b", &[("x-answer", "cache-control=no-store")]).await;
    let stats = shop.ask("/api/stats").await;
    let minute = &stats["windows"][0];
    assert_eq!((&minute["name"], minute["slots"].as_array().unwrap().len()), (&json!("1m"), 60));
    let sum = &minute["sum"];
    assert_eq!((&sum["hits"], &sum["misses"], &sum["hits_in_memory"]), (&json!(3), &json!(2), &json!(3)));
    assert_eq!(sum["reasons"], json!([{"name": "no-store", "count": 1}]));
    assert_eq!((&stats["memory"]["entries"], &stats["totals"]["stored"]), (&json!(1), &json!(1)));
    let top = shop.ask("/api/top?limit=1").await;
    assert_eq!((&top["hottest"][0]["key"], &top["hottest"][0]["sum"]), (&json!("http://shop.example/a"), &json!(4)));
    let tag = shop.ask("/api/tag/t").await;
    assert_eq!((&tag["keys"], &tag["change"]), (&json!(1), &json!("created")));
    let entry = shop.ask("/api/entry?url=http://shop.example/a").await;
    assert_eq!((&entry[0]["layer"], &entry[0]["entry"]["tags"]), (&json!("all"), &json!(["t"])));
    let document = shop.ask("/openapi.json").await;
    assert_eq!(document["paths"].as_object().unwrap().len(), 11);
}

/// The next decision of a stream.
async fn decision(stream: &mut Body) -> Value {
    let frame = tokio::time::timeout(MINUTE, stream.frame()).await.unwrap().unwrap().unwrap();
    let text = String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap();
    serde_json::from_str(text.lines().find_map(|line| line.strip_prefix("data: ")).unwrap()).unwrap()
}

#[tokio::test]
async fn who_watches_sees_what_it_asked_for() {
    let shop = Shop::new();
    let mut body = shop.watch("path=/a&result=hit").await;
    for path in ["/b", "/a", "/b", "/a"] {
        shop.get(path, &[("x-answer", "cache-control=max-age=60")]).await;
    }
    let decided = decision(&mut body).await;
    assert_eq!((&decided["key"], &decided["result"]), (&json!("http://shop.example/a"), &json!("hit")));
    // What is not looked up has a path as well.
    let mut bypasses = shop.watch("path=/a&result=bypass").await;
    for path in ["/b", "/a?session=1"] {
        shop.request(Method::PUT, path, &[], None).await;
    }
    let decided = decision(&mut bypasses).await;
    assert_eq!(
        (&decided["key"], &decided["reason"]["name"], &decided["url"]),
        (&json!("http://shop.example/a?session=•••"), &json!("method"), &Value::Null)
    );
}

#[tokio::test]
async fn who_watches_is_told_of_a_share_and_that_something_was_missed() {
    let shop = Shop::new();
    let watch = async |target: &str| {
        let peer: SocketAddr = "127.0.0.1:5000".parse().unwrap();
        let request = Request::get(target).header("host", "localhost").extension(ConnectInfo(peer));
        shop.admin.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap().into_body()
    };
    let next = async |body: &mut Body| {
        let frame = tokio::time::timeout(MINUTE, body.frame()).await.unwrap().unwrap().unwrap();
        String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap()
    };
    let (mut third, mut late) = (watch("/api/live?sample=0.33").await, watch("/api/live").await);
    for number in 1..=6 {
        shop.get(&format!("/{number}"), &[]).await;
    }
    for shown in ["/3", "/6"] {
        let text = next(&mut third).await;
        assert!(text.contains(&format!("http://shop.example{shown}\"")), "{text}");
    }
    for number in 0..5_000 {
        shop.get(&format!("/{number}"), &[]).await;
    }
    assert!(next(&mut late).await.contains("event: missed"));
}

#[tokio::test]
async fn no_more_is_told_than_was_asked_for() {
    let shop = Shop::new();
    for path in ["/a", "/b", "/c"] {
        shop.get(path, &[("x-answer", "cache-control=max-age=60")]).await;
    }
    let top = shop.ask("/api/top?limit=2").await;
    assert_eq!(["hottest", "dearest"].map(|list| top[list].as_array().unwrap().len()), [2, 2]);
    for key in ["k1", "k2"] {
        shop.post(&json!({"tag": "t"}), &[("idempotency-key", key)]).await;
    }
    shop.cache.invalidate_tag("of-the-application").await.unwrap();
    assert_eq!(shop.ask("/api/audit?limit=2").await.as_array().unwrap().len(), 2);
    let all = shop.ask("/api/audit").await;
    assert_eq!(all.as_array().unwrap().len(), 3, "{all}");
    assert!(all.as_array().unwrap().iter().all(|record| record.get("asked").is_none()), "{all}");
}

#[tokio::test]
async fn over_redis_a_pattern_is_counted_a_tag_is_known_and_a_loss_is_said() {
    let server = RedisServer::start();
    let redis = RedisStore::builder(server.url()).operation_timeout(Duration::from_secs(10)).build().unwrap();
    assert!(redis.wait_connected(MINUTE).await);
    let shop = Shop::over(Cache::builder(redis.clone()), |admin| admin.redis(redis));
    for number in 0..20 {
        shop.get(&format!("/p/{number}"), &[("x-answer", "cache-control=max-age=60"), ("x-answer", "cache-tag=t")])
            .await;
    }
    let dry = shop.purge(&json!({"pattern": "http://shop.example/p/1*", "dry_run": true})).await;
    assert_eq!(dry["matched"], 11);
    let purged = shop.purge(&json!({"pattern": "http://shop.example/p/1*"})).await;
    assert_eq!(purged["matched"], 11);
    // Void entries count until they are swept.
    tests::wait_until("they are swept", async || {
        shop.purge(&json!({"tag": "t", "dry_run": true})).await["matched"] == 9
    })
    .await;
    let told = shop.ask("/api/explain?url=http://shop.example/p/2").await;
    assert_eq!(
        (&told["verdict"], &told["tier"], &told["tags"][0]["change"]),
        (&json!("hit"), &json!("store"), &json!("created"))
    );
    assert_eq!(shop.ask("/api/stats").await["redis"]["breaker"], "closed");

    drop(server);
    tests::wait_until("Redis is missed", async || shop.ask("/api/stats").await["redis"]["breaker"] == "open").await;
    let told = shop.ask("/api/explain?url=http://shop.example/p/2").await;
    assert_eq!((&told["verdict"], &told["reason"]["name"]), (&json!("load"), &json!("store-unavailable")));
    let came = shop.get("/p/2", &[("x-answer", "cache-control=max-age=60")]).await;
    assert_eq!(told["cache_status"], cache_status(&came));
    let kept = shop.purge(&json!({"tag": "t"})).await;
    assert_eq!((&kept["delivered"], &kept["matched"]), (&json!(false), &Value::Null));
    assert_eq!(shop.send(Method::GET, "/api/tag/t", &[], "").await.0, StatusCode::SERVICE_UNAVAILABLE);
}
