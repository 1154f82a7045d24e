//! The program of a first hour with the library: a shop with rules, tags, tenants, and a value that is cached, behind layers of
//! others. It runs without a cache, over memory and over Redis, by its configuration alone.

use std::{error::Error, time::Duration};

use cache_layer::Cache;
use http::{Method, Request, StatusCode};
use program::Config;
use tests::{Body, RedisServer, Response, request};

/// All of the program, as it would be in a `main.rs`.
mod program {
    use std::{
        error::Error,
        sync::{
            Arc,
            atomic::{AtomicU64, Ordering},
        },
        time::Duration,
    };

    use axum::{
        Extension, Router,
        extract::{Path, Request, State},
        http::{HeaderName, StatusCode, header::AUTHORIZATION},
        middleware::{Next, from_fn},
        response::{IntoResponse, Response},
        routing::get,
    };
    use cache_layer::{
        Cache, CacheLayer, ConfigError, Hints, Rule, Tags, cached,
        store::{MemoryStore, RedisStore},
    };
    use tower_governor::{GovernorLayer, governor::GovernorConfigBuilder, key_extractor::SmartIpKeyExtractor};
    use tower_http::request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer};

    /// What the program reads from its environment.
    pub(crate) struct Config {
        /// Whether anything is cached.
        pub(crate) cache: bool,
        /// The URL of a Redis; memory without one.
        pub(crate) redis: Option<String>,
        /// How long Redis may take for an answer.
        pub(crate) redis_timeout: Duration,
        /// How many requests of a client are answered before it has to wait.
        pub(crate) burst: u32,
    }

    /// A database, with a price that is slow to compute.
    #[derive(Clone, Default)]
    pub(crate) struct Db {
        price: Arc<AtomicU64>,
        queries: Arc<AtomicU64>,
    }

    impl Db {
        async fn price(&self, id: u64) -> u64 {
            self.queries.fetch_add(1, Ordering::SeqCst);
            id * 100 + self.price.load(Ordering::SeqCst)
        }

        pub(crate) fn queries(&self) -> u64 {
            self.queries.load(Ordering::SeqCst)
        }
    }

    #[derive(Clone)]
    struct Shop {
        cache: Cache,
        db: Db,
        /// Zero if nothing is to be cached.
        ttl: Duration,
    }

    impl Shop {
        #[cached(name = "price", cache = "self.cache", ttl = self.ttl, tags = ["product:{id}"])]
        async fn price(&self, id: u64) -> u64 {
            self.db.price(id).await
        }
    }

    pub(crate) async fn cache(config: &Config) -> Result<Cache, Box<dyn Error>> {
        let Some(url) = &config.redis else { return Ok(Cache::new(MemoryStore::new(64 * 1024 * 1024))) };
        let redis = RedisStore::builder(url.as_str()).operation_timeout(config.redis_timeout).build()?;
        redis.wait_connected(Duration::from_secs(10)).await;
        Ok(Cache::new(redis))
    }

    fn caching(config: &Config, cache: &Cache) -> Result<CacheLayer, ConfigError> {
        let (second, minute) = (Duration::from_secs(1), Duration::from_secs(60));
        CacheLayer::new(cache.clone())
            .enabled(config.cache)
            .rule(Rule::path("/products/{id}").ttl(minute).stale_while_revalidate(minute))?
            .rule(Rule::path("/orders").ttl(10 * second))?
            .rule(Rule::prefix("/admin").bypass())
    }

    pub(crate) fn app(config: &Config, cache: &Cache, db: Db) -> Result<Router, Box<dyn Error>> {
        let ttl = if config.cache { Duration::from_secs(60) } else { Duration::ZERO };
        let shop = Shop { cache: cache.clone(), db, ttl };
        let limit = GovernorConfigBuilder::default()
            .key_extractor(SmartIpKeyExtractor)
            .per_second(3600)
            .burst_size(config.burst)
            .use_headers()
            .finish()
            .ok_or("a limit of zero")?;
        let request_id = HeaderName::from_static("x-request-id");
        Ok(Router::new()
            .route("/products/{id}", get(product).put(change))
            .route("/orders", get(orders))
            .route("/admin", get(async || "for some"))
            .with_state(shop)
            .layer(caching(config, cache)?)
            .layer(from_fn(authenticate))
            .layer(GovernorLayer::new(limit))
            .layer(PropagateRequestIdLayer::new(request_id.clone()))
            .layer(SetRequestIdLayer::new(request_id, MakeRequestUuid)))
    }

    /// Each tenant has responses of its own, and who is nobody's client gets none.
    async fn authenticate(mut request: Request, next: Next) -> Response {
        let credentials = request.headers_mut().remove(AUTHORIZATION);
        let tenant = credentials.as_ref().and_then(|line| line.to_str().ok()?.strip_prefix("Bearer "));
        let Some(tenant) = tenant else { return StatusCode::UNAUTHORIZED.into_response() };
        Hints::new().key_part(tenant).add_to(request.extensions_mut());
        request.extensions_mut().insert(Tenant(tenant.to_owned()));
        next.run(request).await
    }

    #[derive(Clone)]
    struct Tenant(String);

    async fn product(State(shop): State<Shop>, Path(id): Path<u64>) -> impl IntoResponse {
        let price = shop.price(id).await;
        (Extension(Tags::new([format!("product:{id}")])), format!("product {id} for {price}"))
    }

    async fn orders(Extension(Tenant(tenant)): Extension<Tenant>) -> String {
        format!("orders of {tenant}")
    }

    /// Once this has returned, no client gets the former price, whatever its tenant.
    async fn change(State(shop): State<Shop>, Path(id): Path<u64>) -> StatusCode {
        shop.db.price.fetch_add(1, Ordering::SeqCst);
        match shop.cache.invalidate_tag(&format!("product:{id}")).await {
            Ok(()) => StatusCode::NO_CONTENT,
            Err(_) => StatusCode::ACCEPTED,
        }
    }
}

const ONE: (&str, &str) = ("authorization", "Bearer one");
const TWO: (&str, &str) = ("authorization", "Bearer two");

/// The program, with what a test needs to know of it.
struct Shop {
    app: axum::Router,
    cache: Cache,
    db: program::Db,
}

impl Shop {
    async fn open(cache: bool, redis: Option<String>, burst: u32) -> Result<Self, Box<dyn Error>> {
        // A long timeout, so that a busy machine's pauses are no misses.
        let config = Config { cache, redis, redis_timeout: Duration::from_secs(10), burst };
        let (cache, db) = (program::cache(&config).await?, program::Db::default());
        Ok(Self { app: program::app(&config, &cache, db.clone())?, cache, db })
    }

    async fn ask(&self, request: Request<Body>) -> Response {
        let response = tests::ask(&self.app, request).await.unwrap();
        // What is loaded is stored a little later.
        assert!(self.cache.drain(Duration::from_secs(30)).await);
        response
    }

    async fn get(&self, uri: &str, fields: &[(&str, &str)]) -> Response {
        let fields: Vec<_> = fields.iter().copied().chain([("x-forwarded-for", "10.0.0.1")]).collect();
        self.ask(request(Method::GET, uri, &fields)).await
    }
}

async fn keeps_what_it_is_told_to(redis: Option<String>) -> Result<(), Box<dyn Error>> {
    let shop = Shop::open(true, redis, 1000).await?;
    let miss = shop.get("/products/7", &[ONE]).await;
    let hit = shop.get("/products/7", &[ONE, ("x-request-id", "mine")]).await;
    assert_eq!(
        (miss.x_cache(), miss.text(), hit.x_cache(), hit.text()),
        ("MISS", "product 7 for 700", "HIT", miss.text())
    );
    assert!(miss.header("x-request-id").is_some());
    assert_eq!(hit.header("x-request-id"), Some("mine"));

    // Another tenant has a page of its own, of the same value.
    let other = shop.get("/products/7", &[TWO]).await;
    assert_eq!((other.x_cache(), other.text(), shop.db.queries()), ("MISS", miss.text(), 1));
    for tenant in ["one", "two"] {
        let credentials = format!("Bearer {tenant}");
        for x_cache in ["MISS", "HIT"] {
            let orders = shop.get("/orders", &[("authorization", &credentials)]).await;
            assert_eq!((orders.x_cache(), orders.text()), (x_cache, &*format!("orders of {tenant}")));
        }
    }

    // A write reaches all of them, and the value.
    let fields = [ONE, ("x-forwarded-for", "10.0.0.2")];
    assert_eq!(shop.ask(request(Method::PUT, "/products/7", &fields)).await.status, StatusCode::NO_CONTENT);
    for client in [ONE, TWO] {
        let changed = shop.get("/products/7", &[client]).await;
        assert_eq!((changed.x_cache(), changed.text()), ("MISS", "product 7 for 701"));
    }
    assert_eq!(shop.db.queries(), 2);

    for _ in 0..2 {
        assert_eq!(shop.get("/admin", &[ONE]).await.cache_status().detail.as_deref(), Some("rule"));
    }
    let stranger = shop.get("/products/7", &[]).await;
    assert_eq!((stranger.status, stranger.header("x-cache")), (StatusCode::UNAUTHORIZED, None));
    Ok(())
}

#[tokio::test]
async fn over_memory() -> Result<(), Box<dyn Error>> {
    keeps_what_it_is_told_to(None).await
}

#[tokio::test]
async fn over_redis() -> Result<(), Box<dyn Error>> {
    let server = RedisServer::start();
    keeps_what_it_is_told_to(Some(server.url())).await
}

#[tokio::test]
async fn without_a_cache() -> Result<(), Box<dyn Error>> {
    let shop = Shop::open(false, None, 1000).await?;
    for queries in 1..4 {
        let response = shop.get("/products/7", &[ONE]).await;
        assert_eq!((response.text(), shop.db.queries()), ("product 7 for 700", queries));
        assert_eq!(response.cache_status().detail.as_deref(), Some("off"));
    }
    Ok(())
}

#[tokio::test]
async fn hits_count_towards_the_limit_of_a_client() -> Result<(), Box<dyn Error>> {
    let shop = Shop::open(true, None, 3).await?;
    for (x_cache, left) in [("MISS", "2"), ("HIT", "1"), ("HIT", "0")] {
        let response = shop.get("/orders", &[ONE]).await;
        assert_eq!((response.x_cache(), response.header("x-ratelimit-remaining")), (x_cache, Some(left)));
    }
    let refused = shop.get("/orders", &[ONE]).await;
    assert_eq!((refused.status, refused.header("x-cache")), (StatusCode::TOO_MANY_REQUESTS, None));
    Ok(())
}
