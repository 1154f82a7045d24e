//! A Redis that dies, freezes, fills up, lies or is replaced by something else costs time within its deadline, and
//! nothing more: every request is answered, rightly, and when Redis is well again so are the hits.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::Path,
    response::{IntoResponse, Response},
    routing::get,
};
use cache_layer::{Cache, CacheLayer, Tags, store::RedisStore};
use service::{Config, Server};
use tests::{Direction, Fault, FaultProxy, HttpClient, Load, RedisServer, Report, wait_until};
use tokio::net::TcpListener;

const CLIENTS: usize = 16;
const ITEMS: usize = 24;

/// Enough for every client to meet the fault many times over.
const MANY: usize = 1500;

const DEADLINE: Duration = Duration::from_millis(50);

mod under_load {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_killed_redis_fails_no_request_and_hits_return_when_it_is_started_again() {
        let mut redis = RedisServer::start();
        let app = App::over(&redis.url(), DEADLINE).await;
        let load = app.load();
        load.more(MANY).await;
        app.expect_hits().await;

        redis.kill();
        load.more(MANY).await;
        wait_until("the store notices", async || !app.redis.connected()).await;

        redis.restart();
        load.more(MANY).await;
        app.expect_hits().await;
        load.stop().await.assert_no_failure();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_frozen_redis_fails_no_request_and_hits_return_when_it_thaws() {
        let redis = RedisServer::start();
        let app = App::over(&redis.url(), DEADLINE).await;
        let load = app.load();
        load.more(MANY).await;
        app.expect_hits().await;

        redis.stop();
        load.more(MANY).await;

        redis.cont();
        load.more(MANY).await;
        app.expect_hits().await;
        load.stop().await.assert_no_failure();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_redis_that_dies_and_returns_again_and_again_fails_no_request() {
        let mut redis = RedisServer::start();
        let app = App::over(&redis.url(), DEADLINE).await;
        let load = app.load();
        for _ in 0..5 {
            load.more(MANY / 5).await;
            redis.kill();
            load.more(MANY / 5).await;
            redis.restart();
        }
        app.expect_hits().await;
        load.stop().await.assert_no_failure();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_flushed_redis_fails_no_request_and_is_filled_again() {
        let redis = RedisServer::start();
        let app = App::over(&redis.url(), DEADLINE).await;
        let load = app.load();
        for _ in 0..10 {
            load.more(MANY / 10).await;
            redis.flushall();
        }
        app.expect_hits().await;
        load.stop().await.assert_no_failure();
    }
}

mod the_service {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn answers_every_request_while_its_redis_dies_freezes_and_returns() {
        let mut redis = RedisServer::start();
        let config = Config {
            listen: "127.0.0.1:0".parse().unwrap(),
            database_url: "sqlite::memory:".into(),
            redis_url: Some(redis.url().into()),
            ..Config::default()
        };
        let server = Server::bind(config).await.unwrap();
        let (addr, shutdown) = (server.local_addr(), server.shutdown_handle());
        let running = tokio::spawn(server.run());
        let paths = ["products", "products/1", "products?category=books", "products?page=3", "categories"];
        let urls = paths.map(|path| format!("http://{addr}/api/{path}"));

        let client = HttpClient::new();
        let expect_hits = async || {
            for url in &urls {
                wait_until(&format!("{url} is a hit"), async || client.get(url, &[]).await.x_cache() == "HIT").await;
            }
        };
        let load = Load::start(&client, CLIENTS, &urls);
        expect_hits().await;
        redis.kill();
        load.more(MANY).await;
        redis.restart();
        expect_hits().await;
        redis.stop();
        load.more(MANY).await;
        redis.cont();
        expect_hits().await;
        load.stop().await.assert_no_failure();

        shutdown.shutdown();
        running.await.unwrap();
    }
}

/// A long deadline, so that one of it, two of it and a machine's hiccup are told apart.
mod added_latency {
    use super::*;

    const LONG_DEADLINE: Duration = Duration::from_secs(1);
    const HICCUP: Duration = Duration::from_millis(700);

    #[tokio::test(flavor = "multi_thread")]
    async fn of_a_frozen_redis_is_one_deadline_at_most_and_almost_nothing_once_it_is_known() {
        let redis = RedisServer::start();
        let app = App::over(&redis.url(), LONG_DEADLINE).await;
        app.expect_hits().await;
        let without_cache = app.measure_without_cache().await;

        redis.stop();
        assert_bounded(&app.measure().await, &without_cache);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn of_a_killed_redis_is_one_deadline_at_most_and_almost_nothing_once_it_is_known() {
        let mut redis = RedisServer::start();
        let app = App::over(&redis.url(), LONG_DEADLINE).await;
        app.expect_hits().await;
        let without_cache = app.measure_without_cache().await;

        redis.kill();
        assert_bounded(&app.measure().await, &without_cache);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn of_a_black_hole_is_one_deadline_at_most_and_almost_nothing_once_it_is_known() {
        let redis = RedisServer::start();
        let mut proxy = FaultProxy::start(redis.addr()).await;
        let app = App::over(&through(&proxy), LONG_DEADLINE).await;
        app.expect_hits().await;
        let without_cache = app.measure_without_cache().await;

        proxy.set(Fault::BlackHole).await;
        assert_bounded(&app.measure().await, &without_cache);
    }

    fn assert_bounded(with_fault: &Report, without_cache: &Report) {
        let (worst, usual) = (with_fault.quantile(1.0), with_fault.quantile(0.5));
        let (worst_without, usual_without) = (without_cache.quantile(1.0), without_cache.quantile(0.5));
        assert!(
            worst <= worst_without + LONG_DEADLINE + HICCUP,
            "the slowest took {worst:?}, and {worst_without:?} without a cache"
        );
        assert!(
            usual <= 3 * usual_without + LONG_DEADLINE / 20,
            "half of the requests took {usual:?} or more, and {usual_without:?} without a cache"
        );
    }
}

mod a_bad_road_to_redis {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn that_is_cut() {
        endure(&[Fault::Cut]).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn that_is_a_black_hole() {
        endure(&[Fault::BlackHole]).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn that_loses_one_direction() {
        endure(&[Fault::Swallow(Direction::ToServer), Fault::Swallow(Direction::ToClient)]).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn that_is_slower_than_the_deadline() {
        endure(&[Fault::Delay(3 * DEADLINE)]).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn that_breaks_off_in_the_middle_of_answers() {
        endure(&[Fault::Truncate(1), Fault::Truncate(100), Fault::Truncate(5000)]).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn that_ends_at_a_server_of_another_kind() {
        endure(&[
            Fault::Junk(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"),
            Fault::Junk(b"\xff\xfe\x00\x01\x02\x03garbage\r\n"),
            Fault::Junk(b"SSH-2.0-OpenSSH_9.9\r\n"),
        ])
        .await;
    }

    /// Well-formed, and never what was asked for.
    #[tokio::test(flavor = "multi_thread")]
    async fn that_ends_at_a_redis_that_lies() {
        endure(&[
            Fault::Junk(b"+OK\r\n"),
            Fault::Junk(b"$5\r\nhello\r\n"),
            Fault::Junk(b"_\r\n"),
            Fault::Junk(b"*2\r\n:1\r\n:2\r\n"),
            Fault::Junk(b"-ERR no\r\n"),
            Fault::Junk(b">2\r\n$10\r\ninvalidate\r\n_\r\n"),
        ])
        .await;
    }

    /// A length that nobody must reserve memory for.
    #[tokio::test(flavor = "multi_thread")]
    async fn that_announces_more_than_there_is() {
        endure(&[Fault::Junk(b"$536870911\r\nx"), Fault::Junk(b"*1000000000\r\n")]).await;
    }

    /// Each fault in turn, under load, on a road that was good and becomes good again.
    async fn endure(faults: &[Fault]) {
        let redis = RedisServer::start();
        let mut proxy = FaultProxy::start(redis.addr()).await;
        let app = App::over(&through(&proxy), DEADLINE).await;
        let load = app.load();
        for fault in faults {
            app.expect_hits().await;
            proxy.set(*fault).await;
            load.more(MANY / 2).await;
            app.expect_right_answers().await;
            proxy.set(Fault::Pass).await;
        }
        app.expect_hits().await;
        load.stop().await.assert_no_failure();
    }
}

mod a_redis_that {
    use super::*;

    #[tokio::test]
    async fn is_down_at_the_start_is_used_when_it_comes() {
        let mut redis = RedisServer::start();
        redis.kill();
        let app = App::over(&redis.url(), DEADLINE).await;
        app.expect_right_answers().await;
        assert!(!app.redis.connected());

        redis.restart();
        app.expect_hits().await;
        assert!(app.redis.connected());
    }

    #[tokio::test]
    async fn does_not_know_the_password_fails_no_request() {
        let redis = RedisServer::builder().password("right").start();
        let app = App::over(&format!("redis://:wrong@127.0.0.1:{}", redis.port()), DEADLINE).await;
        app.expect_right_answers().await;
        assert!(!app.redis.connected());
        let error = app.redis.status().await.error.expect("the status says why");
        assert!(error.to_lowercase().contains("password"), "{error}");
    }

    #[tokio::test]
    async fn is_full_fails_no_request_and_is_used_when_there_is_room() {
        let redis = RedisServer::start();
        let app = App::over(&redis.url(), DEADLINE).await;
        redis.command::<()>(&["CONFIG", "SET", "maxmemory", "1"]);
        app.expect_right_answers().await;
        app.expect_right_answers().await;
        assert!(redis.keys().is_empty());

        redis.command::<()>(&["CONFIG", "SET", "maxmemory", "0"]);
        app.expect_hits().await;
    }

    #[tokio::test]
    async fn became_a_replica_and_takes_no_writes_fails_no_request() {
        let redis = RedisServer::start();
        let app = App::over(&redis.url(), DEADLINE).await;
        let elsewhere = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        redis.command::<()>(&["REPLICAOF", "127.0.0.1", &elsewhere.port().to_string()]);
        app.expect_right_answers().await;
        app.expect_right_answers().await;

        redis.command::<()>(&["REPLICAOF", "NO", "ONE"]);
        app.expect_hits().await;
    }

    #[tokio::test]
    async fn takes_no_commands_of_ours_fails_no_request() {
        let redis = RedisServer::builder().config("user limited on >pw ~other:* -@all +ping +hello +client").start();
        let app = App::over(&format!("redis://limited:pw@127.0.0.1:{}", redis.port()), DEADLINE).await;
        app.expect_right_answers().await;
        app.expect_right_answers().await;
        assert!(redis.keys().is_empty());
    }

    #[tokio::test]
    async fn frozen_lets_an_invalidation_fail_and_not_hang() {
        let redis = RedisServer::start();
        let app = App::over(&redis.url(), DEADLINE).await;
        app.expect_hits().await;
        redis.stop();
        let error = tokio::time::timeout(Duration::from_secs(10), app.cache.invalidate_tag("items"))
            .await
            .expect("an invalidation has a deadline")
            .expect_err("nobody took it");
        assert!(!error.to_string().is_empty());
    }

    #[tokio::test]
    async fn is_frozen_or_dead_still_has_a_status() {
        let mut redis = RedisServer::start();
        let app = App::over(&redis.url(), DEADLINE).await;
        app.expect_hits().await;
        let status = app.redis.status().await;
        assert!(status.connected);
        assert!(status.ping.is_some());
        assert!(status.used_memory_human.is_some());
        assert!(status.connected_clients >= Some(1));

        redis.stop();
        let asked = Instant::now();
        let status = app.redis.status().await;
        assert_eq!(status.ping, None);
        assert!(status.error.is_some());
        assert!(asked.elapsed() < Duration::from_secs(10), "it answers by its deadline");

        redis.kill();
        wait_until("the status says that it is gone", async || !app.redis.status().await.connected).await;
    }
}

mod foreign_data_under_our_keys {
    use super::*;

    #[tokio::test]
    async fn of_another_type_fails_no_request() {
        let redis = RedisServer::start();
        let app = App::over(&redis.url(), DEADLINE).await;
        app.expect_hits().await;
        for key in redis.keys() {
            redis.command::<()>(&["DEL", &key]);
            redis.command::<()>(&["RPUSH", &key, "not", "ours"]);
        }
        app.expect_right_answers().await;
        app.expect_right_answers().await;

        redis.flushall();
        app.expect_hits().await;
    }

    #[tokio::test]
    async fn of_junk_bytes_is_a_miss_and_is_replaced() {
        let redis = RedisServer::start();
        let app = App::over(&redis.url(), DEADLINE).await;
        let every_byte: Vec<u8> = (0..=255).collect();
        for junk in [b"".as_slice(), b"\x00", b"{\"json\":true}", &every_byte, &[0xff; 100_000]] {
            app.expect_hits().await;
            for key in redis.keys() {
                redis.command::<()>(&[b"SET".as_slice(), key.as_bytes(), junk]);
            }
            app.expect_right_answers().await;
        }
        app.expect_hits().await;
    }

    #[tokio::test]
    async fn that_was_an_entry_until_a_bit_flipped_or_its_end_got_lost_is_never_served() {
        let redis = RedisServer::start();
        let app = App::over(&redis.url(), DEADLINE).await;
        app.expect_hit(0).await;
        let key = entry_key(&redis, 0);
        let entry: Vec<u8> = redis.command(&["GET", &key]);

        for at in 0..entry.len() {
            let mut flipped = entry.clone();
            flipped[at] ^= 1 << (at % 8);
            for (what, damaged) in [("flipped in", &flipped[..]), ("lost after", &entry[..at])] {
                redis.command::<()>(&[b"SET".as_slice(), key.as_bytes(), damaged]);
                let answer = app.get(0).await;
                assert_eq!(answer.x_cache(), "MISS", "{what} byte {at} of {}", entry.len());
                // The next damage must come after the answer to this one was stored.
                app.expect_hit(0).await;
            }
        }
    }

    #[tokio::test]
    async fn that_is_the_entry_of_another_key_is_never_served() {
        let redis = RedisServer::start();
        let app = App::over(&redis.url(), DEADLINE).await;
        app.expect_hits().await;
        redis.command::<()>(&["COPY", &entry_key(&redis, 1), &entry_key(&redis, 2), "REPLACE"]);
        assert_eq!(app.get(2).await.x_cache(), "MISS");
    }
}

/// A small application behind the cache, with the cache on Redis alone.
struct App {
    cached: SocketAddr,
    uncached: SocketAddr,
    redis: RedisStore,
    cache: Cache,
    client: HttpClient,
}

impl App {
    async fn over(redis_url: &str, deadline: Duration) -> Self {
        // Long enough to be there, and short enough for many faults one after the other.
        let settling = Duration::from_millis(200);
        let redis = RedisStore::builder(redis_url).operation_timeout(deadline).settle_time(settling).build().unwrap();
        let cache = Cache::new(redis.clone());
        let router = Router::new().route("/items/{id}", get(item));
        Self {
            uncached: serve(router.clone()).await,
            cached: serve(router.layer(CacheLayer::new(cache.clone()))).await,
            redis,
            cache,
            client: HttpClient::new(),
        }
    }

    /// One answer, which must be right whatever happened to the cache.
    async fn get(&self, item: usize) -> tests::Response {
        let response = self.client.get(&url(self.cached, item), &[]).await;
        assert_eq!(response.status, 200);
        assert_eq!(response.text(), body(item));
        response
    }

    async fn expect_right_answers(&self) {
        for item in 0..ITEMS {
            self.get(item).await;
        }
    }

    /// Within the cap of `wait_until`, every item is a hit.
    async fn expect_hits(&self) {
        for item in 0..ITEMS {
            self.expect_hit(item).await;
        }
    }

    async fn expect_hit(&self, item: usize) {
        // A request that was answered by another one's load may end before that load is stored.
        let stored =
            async || self.get(item).await.header("cache-status").is_some_and(|status| status.contains("; hit"));
        wait_until(&format!("item {item} is a hit"), stored).await;
    }

    fn load(&self) -> Load {
        load(self.cached)
    }

    async fn measure(&self) -> Report {
        measure(self.cached).await
    }

    async fn measure_without_cache(&self) -> Report {
        measure(self.uncached).await
    }
}

fn entry_key(redis: &RedisServer, item: usize) -> String {
    let end = format!("/items/{item}");
    let keys = redis.keys();
    keys.iter()
        .find(|key| key.contains(":e:") && key.ends_with(&end))
        .unwrap_or_else(|| panic!("no entry for {end} among {keys:#?}"))
        .clone()
}

async fn item(Path(item): Path<usize>) -> Response {
    let mut response = ([("cache-control", "public, max-age=300")], body(item)).into_response();
    response.extensions_mut().insert(Tags::new(["items".to_owned(), format!("item:{item}")]));
    response
}

fn body(item: usize) -> String {
    format!("this is item {item}")
}

fn url(addr: SocketAddr, item: usize) -> String {
    format!("http://{addr}/items/{item}")
}

fn load(addr: SocketAddr) -> Load {
    let urls: Vec<String> = (0..ITEMS).map(|item| url(addr, item)).collect();
    Load::start(&HttpClient::new(), CLIENTS, &urls)
}

async fn measure(addr: SocketAddr) -> Report {
    let load = load(addr);
    load.more(2 * MANY).await;
    let report = load.stop().await;
    report.assert_no_failure();
    report
}

async fn serve(router: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    addr
}

fn through(proxy: &FaultProxy) -> String {
    format!("redis://{}", proxy.addr())
}
