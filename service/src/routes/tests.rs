use std::time::Duration;

use axum::{body::Body, extract::Request, http::header, routing::get};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::{
    limits::{MAX_REQUEST_BODY, limited},
    *,
};
use crate::{
    config::{CacheRules, CacheSwitch},
    product::Product,
};

mod metrics;
mod traces;

struct Service {
    router: Router,
    app: App,
}

struct Answer {
    status: u16,
    headers: axum::http::HeaderMap,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("not JSON: {}", self.body))
    }

    fn header(&self, name: impl header::AsHeaderName) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The problem, after a look at what all problems have in common.
    #[track_caller]
    fn problem(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.body);
        assert_eq!(self.header(header::CONTENT_TYPE), "application/problem+json");
        let problem = self.json();
        assert_eq!(problem["status"], status);
        assert_eq!(problem["type"], "about:blank");
        problem
    }
}

impl Service {
    async fn new() -> Self {
        Self::with(Config::default()).await
    }

    async fn with(config: Config) -> Self {
        let config = Config { database_url: "sqlite::memory:".into(), ..config };
        let app = App::open(&config).await.unwrap();
        Self { router: router(app.clone(), &config, None), app }
    }

    async fn send(&self, request: Request) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Answer {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body: String::from_utf8_lossy(&body).into_owned(),
        }
    }

    async fn request(&self, method: &str, path: &str) -> Answer {
        let request = Request::builder().method(method).uri(path);
        let request = request.header(header::HOST, "shop.example");
        self.send(request.body(Body::empty()).unwrap()).await
    }

    /// Waits until the cache has stored what it was going to.
    async fn settle(&self) {
        assert!(self.app.cache.drain(Duration::from_secs(10)).await);
    }

    async fn get(&self, path: &str) -> Answer {
        self.request("GET", path).await
    }

    async fn send_json(&self, method: &str, path: &str, body: impl ToString) -> Answer {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "shop.example")
            .header(header::CONTENT_TYPE, "application/json");
        self.send(request.body(Body::from(body.to_string())).unwrap()).await
    }
}

fn kettle() -> Value {
    json!({"name": "Kettle", "price": 10.5, "category": "kitchen", "stock": 3})
}

#[tokio::test]
async fn a_page_is_listed_with_its_place() {
    let service = Service::new().await;
    let answer = service.get("/api/products?page=2&per_page=2").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header(header::CONTENT_TYPE), "application/json");
    assert_eq!(
        answer.body,
        concat!(
            r#"{"items":["#,
            r#"{"id":3,"name":"Product 3","price":26.49,"category":"electronics","stock":30},"#,
            r#"{"id":4,"name":"Product 4","price":31.99,"category":"clothing","stock":40}"#,
            r#"],"total":100,"page":2,"per_page":2}"#
        )
    );
}

#[tokio::test]
async fn a_list_without_products_is_empty() {
    let service = Service::new().await;
    let unknown = service.get("/api/products?category=unheard-of").await.json();
    assert_eq!(unknown, json!({"items": [], "total": 0, "page": 1, "per_page": 20}));
    let beyond = service.get("/api/products?page=4294967295").await.json();
    assert_eq!((&beyond["items"], &beyond["total"]), (&json!([]), &json!(100)));
}

#[tokio::test]
async fn every_wrong_parameter_is_named() {
    let service = Service::new().await;
    let answer = service.get("/api/products?page=0&per_page=many").await;
    assert_eq!(
        answer.problem(422)["errors"],
        json!([
            {"parameter": "page", "detail": "must be a whole number from 1 to 4294967295"},
            {"parameter": "per_page", "detail": "must be a whole number from 1 to 100"},
        ])
    );
    for id in ["0", "-1", "abc", "+7", "007", "9223372036854775808", "%ff"] {
        let answer = service.get(&format!("/api/products/{id}")).await;
        assert_eq!(answer.problem(422)["errors"][0]["parameter"], "id", "{id}");
    }
}

#[tokio::test]
async fn a_query_that_is_no_text_is_refused_instead_of_read_as_another() {
    let service = Service::new().await;
    for query in ["category=%ff", "category=caf%E9", "page=%ff", "per_page=%C3", "category=books&page=1%80"] {
        service.get(&format!("/api/products?{query}")).await.problem(400);
    }
    assert_eq!(service.get("/api/products?category=caf%C3%A9").await.status, 200);
    service.get("/docs/%ff").await.problem(400);
}

#[tokio::test]
async fn what_get_returned_can_be_put_back() {
    let service = Service::new().await;
    for id in [1, 42, 100] {
        let path = format!("/api/products/{id}");
        let product = service.get(&path).await;
        let back = service.send_json("PUT", &path, &product.body).await;
        assert_eq!((back.status, &back.body), (200, &product.body));

        let mut changed = product.json();
        changed["name"] = json!("Changed");
        let answer = service.send_json("PUT", &path, &changed).await;
        assert_eq!((answer.status, answer.json()), (200, changed));
    }
    let listed = service.get("/api/products?per_page=1").await.json()["items"][0].clone();
    assert_eq!(service.send_json("PUT", "/api/products/1", &listed).await.json(), listed);

    let elsewhere = service.send_json("PUT", "/api/products/2", &listed).await;
    let detail = "must be 2, as in the path, or left out";
    assert_eq!(elsewhere.problem(422)["errors"], json!([{"pointer": "#/id", "detail": detail}]));
    assert_eq!(service.get("/api/products/2").await.json()["name"], "Product 2");
    let again = service.send_json("POST", "/api/products", &listed).await;
    let detail = "must be left out: the service chooses it";
    assert_eq!(again.problem(422)["errors"], json!([{"pointer": "#/id", "detail": detail}]));
}

#[tokio::test]
async fn a_request_names_one_host() {
    let service = Service::new().await;
    for path in ["/api/products/1", "/health", "/metrics", "/docs/", "/nothing"] {
        for hosts in [&[] as &[_], &["shop.example", "shop.example"], &["a.example", "b.example"], &["a b"]] {
            let request = hosts.iter().fold(Request::get(path), |request, host| request.header(header::HOST, *host));
            service.send(request.body(Body::empty()).unwrap()).await.problem(400);
        }
    }
    let old = Request::get("/api/products/1").version(axum::http::Version::HTTP_10).body(Body::empty());
    assert_eq!(service.send(old.unwrap()).await.status, 200);
}

#[tokio::test]
async fn a_change_is_seen_by_the_next_read_of_anything() {
    let service = Service::new().await;
    let read = async || {
        let list = service.get("/api/products?category=kitchen").await.json();
        let item = service.get("/api/products/101").await.json();
        let categories = service.get("/api/categories").await.json();
        let kitchen = categories["items"]
            .as_array()
            .and_then(|items| items.iter().find(|item| item["name"] == "kitchen"))
            .cloned();
        (list["items"].clone(), item["name"].clone(), kitchen)
    };
    assert_eq!(read().await, (json!([]), Value::Null, None));

    let added = service.send_json("POST", "/api/products", kettle()).await;
    assert_eq!(added.status, 201);
    assert_eq!(added.header(header::LOCATION), "/api/products/101");
    assert!(added.body.contains(r#""price":10.50,"#), "{}", added.body);
    let one = Some(json!({"name": "kitchen", "products": 1}));
    assert_eq!(read().await, (json!([added.json()]), json!("Kettle"), one.clone()));

    let pot = json!({"name": "Pot", "price": 20, "category": "kitchen", "stock": 0});
    let replaced = service.send_json("PUT", "/api/products/101", pot).await;
    assert_eq!(replaced.status, 200);
    assert_eq!(read().await, (json!([replaced.json()]), json!("Pot"), one));

    assert_eq!(service.request("DELETE", "/api/products/101").await.status, 204);
    assert_eq!(read().await, (json!([]), Value::Null, None));
}

#[tokio::test]
async fn a_read_is_a_hit_until_what_it_shows_changes() {
    let service = Service::new().await;
    let paths = ["/api/products", "/api/products/1", "/api/products/2", "/api/categories"];
    let hits = async || {
        let mut hits = Vec::new();
        for path in paths {
            hits.push(service.get(path).await.header("x-cache") == "HIT");
        }
        hits
    };
    assert_eq!(hits().await, [false; 4]);
    service.settle().await;
    assert_eq!(hits().await, [true; 4]);

    service.send_json("PUT", "/api/products/1", kettle()).await;
    assert_eq!(hits().await, [false, false, true, false]);
    service.settle().await;
    service.send_json("POST", "/api/products", kettle()).await;
    assert_eq!(hits().await, [false, true, true, false]);
    service.settle().await;
    service.request("DELETE", "/api/products/2/cache").await;
    assert_eq!(hits().await, [false, true, false, true]);
    service.settle().await;
    service.request("DELETE", "/api/products/1").await;
    assert_eq!(hits().await, [false, false, true, false]);
}

#[tokio::test]
async fn without_a_cache_every_read_is_the_databases() {
    // A Redis that cannot be reached: nobody asks for it.
    let redis_url = Some("redis://127.0.0.1:1".into());
    let off = Service::with(Config { cache: CacheSwitch::Off, redis_url, ..Config::default() }).await;
    let on = Service::new().await;
    for path in
        ["/api/products?per_page=3", "/api/products/1", "/api/products/999", "/api/categories", "/api/products?page=0"]
    {
        for _ in 0..2 {
            let (without, with) = (off.get(path).await, on.get(path).await);
            assert_eq!((without.status, &without.body), (with.status, &with.body), "{path}");
            assert_eq!(without.header(header::CONTENT_TYPE), with.header(header::CONTENT_TYPE), "{path}");
            for field in ["x-cache", "age", "cache-status"] {
                assert!(without.headers.get(field).is_none(), "{path}: {field}");
            }
            on.settle().await;
        }
    }
    // Behind the service's back: with a cache, this would not be seen.
    let product = off.app.database.product(1).await.unwrap().unwrap();
    off.app.database.replace(&Product { stock: product.stock + 1, ..product.clone() }).await.unwrap();
    assert_eq!(off.get("/api/products/1").await.json()["stock"], product.stock + 1);

    assert_eq!(off.request("DELETE", "/api/products/1/cache").await.json(), json!({"status": "invalidated"}));
    assert_eq!(off.send_json("PUT", "/api/products/1", kettle()).await.status, 200);
    assert_eq!(off.get("/api/products/1").await.json()["name"], "Kettle");
    let health = off.get("/health").await.json();
    assert_eq!((&health["status"], &health["redis"]), (&json!("healthy"), &Value::Null));
    off.settle().await;
}

#[tokio::test]
async fn health_and_documentation_are_never_hits() {
    let cache_paths = "/=60s".parse().unwrap();
    let service = Service::with(Config { cache_paths, ..Config::default() }).await;
    for path in ["/health", "/health/live", "/health/ready", "/docs/", "/openapi.json"] {
        for _ in 0..2 {
            let answer = service.get(path).await;
            assert_eq!(answer.status, 200);
            assert_ne!(answer.header("x-cache"), "HIT", "{path}");
            assert_eq!(answer.header(header::CACHE_CONTROL), "no-store");
            service.settle().await;
        }
    }
}

#[tokio::test]
async fn what_is_not_there_is_not_found() {
    let service = Service::new().await;
    let path = "/api/products/4711";
    for answer in
        [service.get(path).await, service.send_json("PUT", path, kettle()).await, service.request("DELETE", path).await]
    {
        assert_eq!(answer.problem(404)["detail"], "there is no product 4711");
    }
    service.get("/api/products/1/price").await.problem(404);
    service.get("/docs/missing.js").await.problem(404);
}

#[tokio::test]
async fn a_method_that_a_path_does_not_know_is_refused_with_those_it_does() {
    let service = Service::new().await;
    let answer = service.request("PATCH", "/api/products/1").await;
    answer.problem(405);
    assert_eq!(answer.header(header::ALLOW), "GET,HEAD,PUT,DELETE");
}

#[tokio::test]
async fn a_body_must_be_a_small_json_object() {
    let service = Service::new().await;
    let send = async |body: &str| service.send_json("POST", "/api/products", body).await;
    send("{\"name\": ").await.problem(400);
    for other in ["[]", "1", "null", "\"kettle\""] {
        assert_eq!(
            send(other).await.problem(422)["errors"],
            json!([{"pointer": "#", "detail": "must be an object"}]),
            "{other}"
        );
    }
    send(&" ".repeat(MAX_REQUEST_BODY + 1)).await.problem(413);

    let plain =
        Request::post("/api/products").header(header::HOST, "shop.example").body(Body::from(kettle().to_string()));
    service.send(plain.unwrap()).await.problem(415);
}

#[tokio::test]
async fn every_wrong_field_is_named() {
    let service = Service::new().await;
    let body = r#"{"name": 7, "price": 19.999, "stock": -1, "colour": "red"}"#;
    let answer = service.send_json("POST", "/api/products", body).await;
    assert_eq!(
        answer.problem(422)["errors"],
        json!([
            {"pointer": "#/name", "detail": "must be a string"},
            {"pointer": "#/price", "detail": "must have at most two decimals"},
            {"pointer": "#/category", "detail": "is required"},
            {"pointer": "#/stock", "detail": "must be a whole number from 0 to 1000000000"},
            {"pointer": "#/colour", "detail": "is not a field of a product"},
        ])
    );
}

#[tokio::test]
async fn the_cache_of_a_product_can_be_dropped() {
    let service = Service::new().await;
    let answer = service.request("DELETE", "/api/products/1/cache").await;
    assert_eq!((answer.status, answer.body.as_str()), (200, r#"{"status":"invalidated"}"#));
}

#[tokio::test]
async fn health_is_told() {
    let service = Service::new().await;
    assert_eq!(
        service.get("/health").await.json(),
        json!({"status": "healthy", "redis": null, "switches": {}, "database": {"connected": true}})
    );
    assert_eq!(service.get("/health/live").await.json(), json!({"status": "alive"}));
    assert_eq!(service.get("/health/ready").await.json(), json!({"status": "ready"}));
}

#[tokio::test]
async fn who_shuts_down_is_alive_but_not_ready() {
    let service = Service::new().await;
    service.app.shutdown.shutdown();
    service.get("/health/ready").await.problem(503);
    assert_eq!(service.get("/health/live").await.status, 200);
    assert_eq!(service.get("/health").await.status, 200);
}

#[tokio::test]
async fn the_document_describes_routes_that_are_there() {
    let service = Service::new().await;
    let document = service.get("/openapi.json").await.json();
    let paths = document["paths"].as_object().unwrap();
    assert_eq!(paths.len(), 8);
    for (path, operations) in paths {
        for (method, operation) in operations.as_object().unwrap() {
            let path = path.replace("{id}", "1");
            let method = method.to_uppercase();
            let answer = service.send_json(&method, &path, kettle()).await;
            let code = answer.status.to_string();
            let described = &operation["responses"][&code]["description"];
            assert!(described.is_string(), "{method} {path} answered {code}");
        }
    }
}

#[tokio::test]
async fn the_documentation_comes_from_this_binary_alone() {
    let service = Service::new().await;
    let page = service.get("/docs/").await.body;
    let files: Vec<_> = ["href=\"", "src=\""]
        .iter()
        .flat_map(|attribute| page.split(attribute).skip(1))
        .filter_map(|rest| rest.split('"').next())
        .collect();
    assert!(files.len() >= 5, "{page}");
    for file in files {
        assert!(!file.contains("//"), "{file} is elsewhere");
        let answer = service.get(&format!("/docs/{}", file.trim_start_matches("./"))).await;
        assert_eq!(answer.status, 200, "{file}");
    }
    let start = service.get("/docs/swagger-initializer.js").await.body;
    assert!(start.contains(r#""url": "../openapi.json""#), "{start}");
    assert!(start.contains(r#""validatorUrl": "none""#), "{start}");
}

#[tokio::test]
async fn the_documentation_runs_nothing_but_its_own_scripts() {
    let service = Service::new().await;
    for path in ["/", "/docs", "/docs/", "/docs/swagger-ui-bundle.js", "/docs/nothing", "/openapi.json"] {
        let answer = service.get(path).await;
        assert_eq!(answer.header(header::X_CONTENT_TYPE_OPTIONS), "nosniff", "{path}");
        let policy = answer.header(header::CONTENT_SECURITY_POLICY);
        assert!(policy.starts_with("default-src 'none'; script-src 'self'; "), "{path}: {policy}");
    }
    // A script in the page itself would not run.
    let page = service.get("/docs/").await.body;
    assert!(page.split("<script").skip(1).all(|script| script.starts_with(" src=\"./")), "{page}");
}

#[tokio::test]
async fn a_client_of_http_1_0_is_told_how_long_its_answer_is() {
    let service = Service::new().await;
    for path in ["/docs/swagger-ui-bundle.js", "/openapi.json", "/api/products", "/metrics"] {
        for (version, streamed) in [(axum::http::Version::HTTP_10, false), (axum::http::Version::HTTP_11, true)] {
            let request = Request::get(path).version(version).header(header::HOST, "shop.example");
            let request = request.header(header::ACCEPT_ENCODING, "gzip").body(Body::empty());
            let answer = service.send(request.unwrap()).await;
            let length = answer.header(header::CONTENT_LENGTH);
            assert!(streamed || length == answer.body.len().to_string(), "{path}: {length:?}");
            let coded = path.starts_with("/docs") || path.starts_with("/openapi");
            // What the cache has encoded has its length in any version.
            let may_be = path.starts_with("/api") && answer.header("x-cache") == "HIT";
            assert!(may_be || (answer.header(header::CONTENT_ENCODING) == "gzip") == (streamed && coded), "{path}");
        }
    }
}

#[tokio::test]
async fn a_rule_keeps_errors_for_longer_than_any_other_response() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rules.toml");
    let rule = "[[rule]]\npath = \"/api/products/{id}\"\nnegative_ttl = { 404 = \"10m\" }\n";
    std::fs::write(&file, rule).unwrap();
    let rules = CacheRules::read(&file).unwrap();
    let service = Service::with(Config { cache_rules: Some(rules), ..Config::default() }).await;
    for (id, status, ttls) in [(4711, 404, 61..=600), (1, 200, 1..=60)] {
        let path = format!("/api/products/{id}");
        assert_eq!(service.get(&path).await.status, status);
        service.settle().await;
        let hit = service.get(&path).await;
        let said = hit.header("cache-status");
        let ttl: u64 = said.split("ttl=").nth(1).unwrap_or_else(|| panic!("{said}")).parse().unwrap();
        assert!(ttls.contains(&ttl), "{path}: {said}");
    }
    // And what is found is as old as without the rule, at most.
    let cache = &service.app.cache;
    assert_eq!([cache.ttl(), cache.negative_ttl()].map(|ttl| ttl.as_secs()), [60, 600]);
}

#[tokio::test]
async fn a_panic_and_a_request_without_end_are_problems() {
    let config = Config { request_timeout: Duration::from_millis(10), ..Config::default() };
    let routes = Router::new()
        .route("/panic", get(|| async { panic!("secret") as () }))
        .route("/hang", get(std::future::pending::<()>));
    let service = Service::new().await;
    let router = limited(routes, &config).with_state(service.app.clone());
    let service = Service { router, ..service };
    let panicked = service.get("/panic").await;
    panicked.problem(500);
    assert!(!panicked.body.contains("secret"));
    let given_up = service.get("/hang").await;
    given_up.problem(503);
    assert_eq!(given_up.header(header::RETRY_AFTER), "5");
}
