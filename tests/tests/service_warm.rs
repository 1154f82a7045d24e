//! The service with a first tier: one that stops leaves what it answered with most, and the next one has it before it is ready.

use http::Method;
use tests::{HttpClient, RedisServer, ServiceProcess, wait_until};

const SERVICE: &str = env!("CARGO_BIN_EXE_service-under-test");

#[tokio::test(flavor = "multi_thread")]
async fn what_one_process_answered_with_most_the_next_has_in_memory_from_the_start() {
    let redis = RedisServer::start();
    let folder = tempfile::tempdir().unwrap();
    let database = format!("sqlite://{}", folder.path().join("products.db").display());
    let redis_url = redis.url();
    let mut variables = vec![
        ("APP_REDIS_URL", &*redis_url),
        ("APP_REDIS_TIMEOUT", "10s"),
        ("APP_DATABASE_URL", &database),
        ("APP_CACHE_FIRST_TIER", "1MiB"),
        ("APP_CACHE_PATHS", "/api/products=1h"),
        ("APP_CACHE_WARM", "20s"),
    ];
    let client = HttpClient::new().host("shop.example");
    let path = "/api/products/42";
    let in_memory = async |service: &ServiceProcess| {
        let metrics = client.get(&format!("{}/metrics", service.url()), &[]).await;
        metrics.text().lines().any(|line| {
            line.starts_with("cache_layer_lookups_total")
                && line.contains("tier=\"memory\"")
                && line.contains("\"hit\"")
        })
    };
    for attempt in 1..=3 {
        let mut first = ServiceProcess::start(SERVICE, &variables);
        for _ in 0..300 {
            assert_eq!(client.get(&format!("{}{path}", first.url()), &[]).await.status, 200);
        }
        wait_until("the first tier is in use", async || in_memory(&first).await).await;
        first.terminate();
        assert_eq!(first.wait(), 0, "{}", first.log());
        // It takes two seconds at most, and says so if that was not enough: on a machine that has other things to do.
        if attempt == 3 || !first.log().contains("stopped before the cache") {
            assert!(redis.command::<u64>(&["XLEN", "service:hot"]) > 0, "{}", first.log());
            break;
        }
    }

    let second = ServiceProcess::start(SERVICE, &variables);
    assert!(second.log().contains("fetched what other processes answer with most"), "{}", second.log());
    assert_eq!(client.get(&format!("{}{path}", second.url()), &[]).await.x_cache(), "HIT");
    assert!(in_memory(&second).await, "its first request");
    // A product that changes is not served as it was, although no request asked for it here before.
    let gone = client.request(Method::DELETE, &format!("{}{path}", second.url()), &[], "").await;
    assert!(gone.status.is_success(), "{}", gone.text());
    assert_eq!(client.get(&format!("{}{path}", second.url()), &[]).await.status, 404);
    drop(second);

    variables.retain(|(name, _)| *name != "APP_CACHE_WARM");
    variables.push(("APP_CACHE_WARM", "0"));
    let third = ServiceProcess::start(SERVICE, &variables);
    assert!(!third.log().contains("fetched what"), "{}", third.log());
}
