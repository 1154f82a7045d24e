//! The product service through its sockets: every promise of its API with each store and each database.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::Method;
use serde_json::{Value, json};
use service::{Config, Server, ShutdownHandle};
use tempfile::TempDir;
use tests::{Fault, FaultProxy, HttpClient, Load, PostgresServer, RedisServer, Response, wait_until};
use tokio::task::JoinHandle;
use tracing_subscriber::layer::SubscriberExt as _;

/// Each of these tests runs once for each store and database that the service can stand on.
macro_rules! on_each_backend {
    ($($promise:ident),+ $(,)?) => {
        on_each_backend!(@ memory_and_sqlite(Store::Memory, Database::Sqlite) $($promise)+);
        on_each_backend!(@ memory_and_postgres(Store::Memory, Database::Postgres) $($promise)+);
        on_each_backend!(@ redis_and_sqlite(Store::Redis, Database::Sqlite) $($promise)+);
        on_each_backend!(@ redis_and_postgres(Store::Redis, Database::Postgres) $($promise)+);
    };
    (@ $backend:ident($store:expr, $database:expr) $($promise:ident)+) => {
        mod $backend {
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $promise() {
                    super::$promise(Backend::new($store, $database)).await;
                }
            )+
        }
    };
}

on_each_backend!(
    a_first_read_is_a_miss_and_the_next_a_hit_with_its_age,
    head_is_answered_from_what_get_stored,
    pages_partition_the_list_and_each_is_cached_by_itself,
    a_new_product_is_in_every_answer_at_once,
    a_changed_product_is_changed_in_every_answer_at_once,
    a_deleted_product_is_gone_from_every_answer_at_once,
    a_write_is_never_followed_by_an_older_read_even_under_load,
    deleting_the_cache_of_a_product_makes_the_next_reads_misses,
    errors_are_problem_details_and_are_never_cached,
);

async fn a_first_read_is_a_miss_and_the_next_a_hit_with_its_age(backend: Backend) {
    let service = backend.start().await;
    for path in ["/api/products/42", "/api/products", "/api/products?page=2&per_page=7", "/api/categories"] {
        let miss = service.get(path).await;
        assert_eq!(miss.status, 200, "{path}");
        assert_eq!(miss.x_cache(), "MISS", "{path}");
        assert_eq!(miss.header("age"), None);

        // The response is stored after its client has it; a request in between waits for that.
        let hit = service.get(path).await;
        assert_eq!(hit.x_cache(), "HIT", "{path}");
        assert_eq!(hit.body, miss.body);
        assert_eq!(hit.header("content-type"), Some("application/json"));
        let age: u64 = hit.header("age").expect("a hit has an Age").parse().unwrap();
        assert_eq!(hit.header("x-cache-age"), Some(age.to_string().as_str()));
    }
    assert_eq!(keys(&service.get("/api/products/42").await.json()), ["category", "id", "name", "price", "stock"]);

    tokio::time::sleep(Duration::from_millis(1100)).await;
    let later = service.hit("/api/products/42").await;
    assert_ne!(later.header("age"), Some("0"), "it grows older");
}

async fn head_is_answered_from_what_get_stored(backend: Backend) {
    let service = backend.start().await;
    let get = service.hit("/api/products/42").await;
    let head = service.request(Method::HEAD, "/api/products/42", "").await;
    assert_eq!(head.status, 200);
    assert_eq!(head.x_cache(), "HIT");
    assert_eq!(head.body, "");
    for field in ["content-type", "content-length"] {
        assert_eq!(head.header(field), get.header(field), "{field}");
    }
}

async fn pages_partition_the_list_and_each_is_cached_by_itself(backend: Backend) {
    let service = backend.start().await;
    let mut ids = Vec::new();
    for page in 1..=15 {
        let path = format!("/api/products?page={page}&per_page=7");
        let list = service.get(&path).await.json();
        assert_eq!(service.hit(&path).await.json(), list);
        assert_eq!(list["total"], 100);
        assert_eq!(list["page"], page);
        assert_eq!(list["per_page"], 7);
        ids.extend(list["items"].as_array().unwrap().iter().map(|item| item["id"].as_i64().unwrap()));
    }
    assert!(ids.iter().copied().eq(1..=100), "{ids:?}");

    let categories = service.get("/api/categories").await.json();
    let mut total = 0;
    for category in categories["items"].as_array().unwrap() {
        let name = category["name"].as_str().unwrap();
        let list = service.get(&format!("/api/products?category={name}&per_page=100")).await.json();
        assert_eq!(list["total"], category["products"]);
        assert!(list["items"].as_array().unwrap().iter().all(|item| item["category"] == name));
        total += list["total"].as_i64().unwrap();
    }
    assert_eq!(total, 100);
}

async fn a_new_product_is_in_every_answer_at_once(backend: Backend) {
    let service = backend.start().await;
    // A product that does not exist yet must not be remembered as missing.
    assert_eq!(service.get("/api/products/101").await.status, 404);
    service.warm(&["/api/products?per_page=100&page=2", "/api/products", "/api/categories"]).await;

    let added = service.send(Method::POST, "/api/products", &kettle(7)).await;
    assert_eq!(added.status, 201, "{}", added.text());
    assert_eq!(added.header("location"), Some("/api/products/101"));

    assert_eq!(service.get("/api/products/101").await.json(), added.json());
    assert_eq!(service.get("/api/products").await.json()["total"], 101);
    let second_page = service.get("/api/products?per_page=100&page=2").await.json();
    assert_eq!(second_page["items"], json!([added.json()]));
    let kitchen = json!({"name": "kitchen", "products": 1});
    assert!(service.categories().await.contains(&kitchen));
}

async fn a_changed_product_is_changed_in_every_answer_at_once(backend: Backend) {
    let service = backend.start().await;
    service.warm(&["/api/products/1", "/api/products/2", "/api/products", "/api/categories"]).await;

    let changed = service.send(Method::PUT, "/api/products/1", &kettle(7)).await;
    assert_eq!(changed.status, 200, "{}", changed.text());

    assert_eq!(service.get("/api/products/1").await.json(), changed.json());
    assert_eq!(service.get("/api/products").await.json()["items"][0], changed.json());
    assert!(service.categories().await.contains(&json!({"name": "kitchen", "products": 1})));
    assert_eq!(service.get("/api/products/2").await.x_cache(), "HIT", "another product is untouched");
}

async fn a_deleted_product_is_gone_from_every_answer_at_once(backend: Backend) {
    let service = backend.start().await;
    service.send(Method::PUT, "/api/products/1", &kettle(7)).await;
    service.warm(&["/api/products/1", "/api/products", "/api/categories"]).await;

    let deleted = service.request(Method::DELETE, "/api/products/1", "").await;
    assert_eq!(deleted.status, 204);

    assert_eq!(service.get("/api/products/1").await.status, 404);
    let list = service.get("/api/products").await.json();
    assert_eq!(list["total"], 99);
    assert_eq!(list["items"][0]["id"], 2);
    assert!(service.categories().await.iter().all(|category| category["name"] != "kitchen"));
}

async fn a_write_is_never_followed_by_an_older_read_even_under_load(backend: Backend) {
    let service = backend.start().await;
    let load =
        Load::start(&service.client, 6, &[service.url("/api/products/1"), service.url("/api/products?per_page=5")]);
    for stock in 1..=60 {
        let written = service.send(Method::PUT, "/api/products/1", &kettle(stock)).await;
        assert_eq!(written.status, 200, "{}", written.text());
        assert_eq!(service.get("/api/products/1").await.json()["stock"], stock);
        assert_eq!(service.get("/api/products?per_page=5").await.json()["items"][0]["stock"], stock);
    }
    load.stop().await.assert_no_failure();
}

async fn deleting_the_cache_of_a_product_makes_the_next_reads_misses(backend: Backend) {
    let service = backend.start().await;
    service.warm(&["/api/products/1", "/api/products/2", "/api/products"]).await;

    let deleted = service.request(Method::DELETE, "/api/products/1/cache", "").await;
    assert_eq!(deleted.status, 200);
    assert_eq!(deleted.json(), json!({"status": "invalidated"}));

    assert_eq!(service.get("/api/products/1").await.x_cache(), "MISS");
    assert_eq!(service.get("/api/products").await.x_cache(), "MISS");
    assert_eq!(service.get("/api/products/2").await.x_cache(), "HIT");
}

async fn errors_are_problem_details_and_are_never_cached(backend: Backend) {
    let service = backend.start().await;
    for (path, status, named) in [
        ("/api/products?page=0", 422, "page"),
        ("/api/products?page=two", 422, "page"),
        ("/api/products?per_page=101", 422, "per_page"),
        ("/api/products?per_page=0", 422, "per_page"),
        ("/api/products/0", 422, "id"),
        ("/api/products/first", 422, "id"),
        ("/api/products/4711", 404, "4711"),
        ("/api/nothing", 404, "/api/nothing"),
    ] {
        for _ in 0..2 {
            let problem = service.get(path).await;
            assert_problem(&problem, status, named);
            assert_ne!(problem.x_cache(), "HIT", "{path}");
        }
    }

    for (body, content_type, status, named) in [
        (json!({"name": "Kettle"}).to_string(), "application/json", 422, "#/price"),
        (json!({"name": "", "price": -1, "category": "c", "stock": 1}).to_string(), "application/json", 422, "#/name"),
        ("{".to_owned(), "application/json", 400, "JSON"),
        (kettle(7).to_string(), "text/plain", 415, "application/json"),
        (" ".repeat(66_000), "application/json", 413, "Large"),
    ] {
        let headers = [("content-type", content_type)];
        let problem = service.client.request(Method::POST, &service.url("/api/products"), &headers, body).await;
        assert_problem(&problem, status, named);
    }
    assert_problem(&service.request(Method::PATCH, "/api/products/1", "").await, 405, "PATCH");
    assert_eq!(service.get("/api/products").await.json()["total"], 100, "nothing was added");
}

mod two_instances {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn share_what_one_of_them_stored() {
        let backend = Backend::new(Store::Redis, Database::Postgres);
        let (one, other) = (backend.start().await, backend.start().await);
        let stored = one.hit("/api/products/42").await;
        let shared = other.get("/api/products/42").await;
        assert_eq!(shared.x_cache(), "HIT");
        assert_eq!(shared.body, stored.body);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn read_each_others_writes_at_once_even_under_load() {
        let backend = Backend::new(Store::Redis, Database::Postgres);
        let instances = [backend.start().await, backend.start().await];
        let urls: Vec<String> = instances
            .iter()
            .flat_map(|instance| [instance.url("/api/products/1"), instance.url("/api/products?per_page=5")])
            .collect();
        let load = Load::start(&instances[0].client, 6, &urls);
        for stock in 1..=60 {
            let writer = &instances[stock % 2];
            let written = writer.send(Method::PUT, "/api/products/1", &kettle(stock)).await;
            assert_eq!(written.status, 200, "{}", written.text());
            for reader in &instances {
                assert_eq!(reader.get("/api/products/1").await.json()["stock"], stock);
                let list = reader.get("/api/products?per_page=5").await.json();
                assert_eq!(list["items"][0]["stock"], stock);
            }
        }
        load.stop().await.assert_no_failure();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn with_different_prefixes_share_nothing() {
        let backend = Backend::new(Store::Redis, Database::Sqlite);
        let one = backend.start().await;
        let other = backend.start_with(|config| config.cache_prefix = "other".to_owned()).await;
        one.hit("/api/products/42").await;
        assert_eq!(other.get("/api/products/42").await.x_cache(), "MISS");
    }
}

mod health {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn without_redis_is_healthy() {
        let backend = Backend::new(Store::Memory, Database::Sqlite);
        let service = backend.start().await;
        let health = service.get("/health").await;
        assert_eq!(health.status, 200);
        assert_eq!(health.json()["status"], "healthy");
        assert_eq!(service.get("/health/live").await.status, 200);
        assert_eq!(service.get("/health/ready").await.status, 200);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn follows_redis_and_readiness_does_not() {
        let mut backend = Backend::new(Store::Redis, Database::Sqlite);
        let service = backend.start().await;
        service.wait_for_health("healthy").await;
        let health = service.get("/health").await.json();
        let redis = &health["redis"];
        assert_eq!(redis["connected"], true);
        assert!(redis["ping_ms"].as_f64().unwrap() >= 0.0);
        assert!(redis["used_memory_human"].is_string());
        assert!(redis["connected_clients"].as_u64().unwrap() >= 1);

        backend.redis().kill();
        service.wait_for_health("degraded").await;
        assert_eq!(service.get("/health").await.json()["redis"]["connected"], false);
        assert_eq!(service.get("/health/ready").await.status, 200);

        backend.redis().restart();
        service.wait_for_health("healthy").await;
    }

    /// All replicas share it: unready for its sake, none of them would be left to answer what the cache has.
    #[tokio::test(flavor = "multi_thread")]
    async fn follows_a_database_server_and_readiness_does_not() {
        let backend = Backend::new(Store::Memory, Database::Postgres);
        let mut network = FaultProxy::start(([127, 0, 0, 1], backend.postgres.as_ref().unwrap().port()).into()).await;
        let url = format!("postgres://postgres@{}/postgres", network.addr());
        let service = backend.start_with(|config| config.database_url = url.as_str().into()).await;
        service.wait_for_health("healthy").await;
        service.hit("/api/products/1").await;
        // The server first neither answers nor refuses, and then refuses.
        for fault in [Fault::BlackHole, Fault::Cut] {
            network.set(fault).await;
            service.wait_for_health("degraded").await;
            assert_eq!(service.get("/health").await.json()["database"]["connected"], false);
            assert_eq!(service.get("/health/ready").await.status, 200);
            assert_eq!(service.get("/api/products/1").await.x_cache(), "HIT");

            let mut asked = tokio::task::JoinSet::new();
            for id in 2..=60 {
                let (client, url) = (service.client.clone(), service.url(&format!("/api/products/{id}")));
                asked.spawn(async move { client.get(&url, &[]).await });
            }
            while let Some(answer) = asked.join_next().await {
                let answer = answer.unwrap();
                assert_problem(&answer, 503, "database");
                assert_eq!(answer.header("retry-after"), Some("5"));
            }
            let changed = service.send(Method::PUT, "/api/products/1", &kettle(1)).await;
            assert_problem(&changed, 503, "database");
            // The change may have been made for all that is known, so that it is kept no more: keep it for the next fault.
            network.set(Fault::Pass).await;
            service.wait_for_health("healthy").await;
            service.hit("/api/products/1").await;
        }
    }

    /// Monitors and orchestrators ask every few seconds, for as long as the service lives.
    #[tokio::test]
    async fn is_asked_without_a_span() {
        let spans = Spans::default();
        let backend = Backend::new(Store::Redis, Database::Sqlite);
        let subscriber = tracing_subscriber::registry().with(spans.clone());
        let _guard = tracing::subscriber::set_default(subscriber);
        let service = backend.start().await;
        // The only round trip that the cache makes of its own accord, a while after the start.
        wait_until("the switches are read", async || spans.count() > 0).await;
        let before = spans.count();
        for path in ["/health", "/health/live", "/health/ready", "/metrics"] {
            assert_eq!(service.get(path).await.status, 200);
        }
        assert_eq!(service.get("/health").await.json()["redis"]["connected"], true);
        assert_eq!(spans.count(), before);
        service.get("/api/products/1").await;
        assert!(spans.count() > before, "nothing is traced at all");
    }

    /// Counts the spans of requests, look-ups and round trips that begin on this thread.
    #[derive(Clone, Default)]
    struct Spans(Arc<AtomicUsize>);

    impl Spans {
        fn count(&self) -> usize {
            self.0.load(Ordering::SeqCst)
        }
    }

    impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Spans {
        fn on_new_span(
            &self,
            attributes: &tracing::span::Attributes<'_>,
            _: &tracing::span::Id,
            _: tracing_subscriber::layer::Context<'_, S>,
        ) {
            if ["request", "redis", "cache.get"].contains(&attributes.metadata().name()) {
                self.0.fetch_add(1, Ordering::SeqCst);
            }
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn says_when_redis_is_full_and_what_to_do() {
        let mut backend = Backend::new(Store::Redis, Database::Sqlite);
        let service = backend.start().await;
        service.wait_for_health("healthy").await;
        backend.redis().command::<()>(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
        backend.redis().command::<()>(&["CONFIG", "SET", "maxmemory", "1"]);
        service.wait_for_health("degraded").await;
        let health = service.get("/health").await.json();
        assert_eq!((&health["redis"]["connected"], &health["redis"]["full"]), (&true.into(), &true.into()));
        assert!(health["redis"]["error"].as_str().unwrap().contains("maxmemory-policy"), "{health}");
        let answer = service.get("/api/products/7").await;
        let status = answer.headers["cache-status"].to_str().unwrap();
        assert!(answer.status == 200 && status.contains("detail=store-full"), "{status}");
        let metrics = service.get("/metrics").await;
        let said = |line: &str| line.starts_with("cache_layer_redis_full") && line.ends_with(" 1");
        assert!(metrics.text().lines().any(said), "{}", metrics.text());
        assert_eq!(service.get("/health/ready").await.status, 200);

        backend.redis().command::<()>(&["CONFIG", "SET", "maxmemory", "0"]);
        service.hit("/api/products/7").await;
        service.wait_for_health("healthy").await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn is_never_cached() {
        let backend = Backend::new(Store::Memory, Database::Sqlite);
        let service = backend.start().await;
        for path in ["/health", "/health/live", "/health/ready"] {
            for _ in 0..3 {
                assert_ne!(service.get(path).await.x_cache(), "HIT", "{path}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_down_at_the_start_is_picked_up_when_it_comes() {
    let mut backend = Backend::new(Store::Redis, Database::Sqlite);
    backend.redis().kill();
    let service = backend.start_with(|_| {}).await;
    for _ in 0..3 {
        let answer = service.get("/api/products/42").await;
        assert_eq!(answer.status, 200);
        // The request may still share the load of the previous one, which ends after its answer was sent.
        let status = answer.headers["cache-status"].to_str().unwrap();
        assert!(!status.contains("; hit"), "{status}");
    }
    service.wait_for_health("degraded").await;

    backend.redis().restart();
    service.hit("/api/products/42").await;
    service.wait_for_health("healthy").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documentation_comes_from_the_binary_itself() {
    let backend = Backend::new(Store::Memory, Database::Sqlite);
    let service = backend.start().await;
    let document = service.get("/openapi.json").await.json();
    assert!(document["openapi"].as_str().unwrap().starts_with("3."));
    for path in ["/api/products", "/api/products/{id}", "/api/products/{id}/cache", "/api/categories", "/health"] {
        assert!(document["paths"][path].is_object(), "{path}");
    }

    let page = service.get("/docs/").await;
    assert_eq!(page.status, 200);
    for source in page.text().split(['"', '\'']) {
        assert!(!source.starts_with("http") && !source.starts_with("//"), "{source} is elsewhere");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_ends_the_server_and_frees_its_port() {
    let backend = Backend::new(Store::Redis, Database::Postgres);
    let service = backend.start().await;
    service.hit("/api/products/42").await;
    let addr = service.addr;
    service.shutdown.shutdown();
    tokio::time::timeout(Duration::from_secs(20), service.running).await.expect("it ends").unwrap();
    tokio::net::TcpStream::connect(addr).await.unwrap_err();
}

#[derive(Clone, Copy)]
enum Store {
    Memory,
    Redis,
}

#[derive(Clone, Copy)]
enum Database {
    Sqlite,
    Postgres,
}

/// The servers that instances of the service share.
struct Backend {
    redis: Option<RedisServer>,
    postgres: Option<PostgresServer>,
    folder: TempDir,
}

/// One instance of the service, in this process.
struct Service {
    addr: std::net::SocketAddr,
    client: HttpClient,
    shutdown: ShutdownHandle,
    running: JoinHandle<()>,
}

impl Backend {
    fn new(store: Store, database: Database) -> Self {
        Self {
            redis: matches!(store, Store::Redis).then(RedisServer::start),
            postgres: matches!(database, Database::Postgres).then(PostgresServer::start),
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn redis(&mut self) -> &mut RedisServer {
        self.redis.as_mut().expect("this backend has a Redis")
    }

    /// An instance that has found its Redis, if it has one.
    async fn start(&self) -> Service {
        let service = self.start_with(|_| {}).await;
        service.wait_for_health("healthy").await;
        service
    }

    async fn start_with(&self, change: impl FnOnce(&mut Config)) -> Service {
        let sqlite = || format!("sqlite://{}", self.folder.path().join("products.db").display());
        let mut config = Config {
            listen: "127.0.0.1:0".parse().unwrap(),
            database_url: self.postgres.as_ref().map_or_else(sqlite, PostgresServer::url).into(),
            redis_url: self.redis.as_ref().map(|redis| redis.url().into()),
            // These tests ask what is right, not what is fast, of a machine that may be busy.
            redis_timeout: Duration::from_secs(5),
            ..Config::default()
        };
        change(&mut config);
        let server = Server::bind(config).await.unwrap();
        Service {
            addr: server.local_addr(),
            // Instances behind one balancer hear one name.
            client: HttpClient::new().host("shop.example"),
            shutdown: server.shutdown_handle(),
            running: tokio::spawn(server.run()),
        }
    }
}

impl Service {
    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    async fn get(&self, path: &str) -> Response {
        self.request(Method::GET, path, "").await
    }

    async fn request(&self, method: Method, path: &str, body: &'static str) -> Response {
        self.client.request(method, &self.url(path), &[], body).await
    }

    async fn send(&self, method: Method, path: &str, body: &Value) -> Response {
        self.client.send_json(method, &self.url(path), body).await
    }

    /// Asks until the answer is a hit: an answer is stored after it was given.
    async fn hit(&self, path: &str) -> Response {
        let mut hit = None;
        wait_until(&format!("{path} is a hit"), async || {
            hit = Some(self.get(path).await).filter(is_from_the_store);
            hit.is_some()
        })
        .await;
        hit.unwrap()
    }

    async fn warm(&self, paths: &[&str]) {
        for path in paths {
            self.hit(path).await;
        }
    }

    async fn categories(&self) -> Vec<Value> {
        let mut categories = self.get("/api/categories").await.json();
        std::mem::take(categories["items"].as_array_mut().unwrap())
    }

    async fn wait_for_health(&self, status: &str) {
        wait_until(&format!("the service is {status}"), async || {
            let health = self.get("/health").await;
            assert_eq!(health.status, 200);
            health.json()["status"] == status
        })
        .await;
    }
}

/// A response from a load under way is an `X-Cache: HIT` as well, but need not be stored yet.
fn is_from_the_store(response: &Response) -> bool {
    let status = response.header("cache-status").unwrap_or_default();
    response.x_cache() == "HIT" && status.contains("; hit")
}

fn kettle(stock: usize) -> Value {
    json!({"name": "Kettle", "price": 19.99, "category": "kitchen", "stock": stock})
}

fn keys(object: &Value) -> Vec<&str> {
    let mut keys: Vec<&str> = object.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

#[track_caller]
fn assert_problem(response: &Response, status: u16, named: &str) {
    let text = String::from_utf8_lossy(&response.body);
    assert_eq!(response.status, status, "{text}");
    assert_eq!(response.header("content-type"), Some("application/problem+json"));
    let problem = response.json();
    assert_eq!(problem["status"], status);
    assert!(problem["title"].is_string());
    assert!(text.contains(named), "{named} is not named in {text}");
}
