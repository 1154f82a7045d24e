//! Two processes of the service on one Redis and one database: what is written through one is read from the other.

use http::Method;
use serde_json::{Value, json};
use tests::{HttpClient, RedisServer, ServiceProcess, wait_until};

const SERVICE: &str = env!("CARGO_BIN_EXE_service-under-test");
const PRODUCT: u64 = 42;

/// How many writes there are: `FLEET_WRITES`, or few enough for every day.
fn writes() -> u64 {
    std::env::var("FLEET_WRITES").map_or(200, |count| count.parse().expect("FLEET_WRITES is a number"))
}

/// The stock of the product, wherever in an answer it stands.
fn stock(answer: &Value) -> &Value {
    let items = answer["items"].as_array();
    items
        .and_then(|items| items.iter().find(|item| item["id"] == PRODUCT))
        .map_or(&answer["stock"], |item| &item["stock"])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_is_in_item_list_and_page_of_the_other_process_at_its_next_read() {
    let redis = RedisServer::start();
    let folder = tempfile::tempdir().unwrap();
    let database = format!("sqlite://{}", folder.path().join("products.db").display());
    let (redis_url, patience) = (redis.url(), "10s");
    let variables = [("APP_REDIS_URL", &*redis_url), ("APP_REDIS_TIMEOUT", patience), ("APP_DATABASE_URL", &database)];
    let fleet = [ServiceProcess::start(SERVICE, &variables), ServiceProcess::start(SERVICE, &variables)];
    // Behind one balancer, they hear one name.
    let client = HttpClient::new().host("shop.example");
    for service in &fleet {
        let health = format!("{}/health", service.url());
        wait_until("Redis is there", async || client.get(&health, &[]).await.json()["redis"]["connected"] == true)
            .await;
    }

    let paths = ["/api/products/42", "/api/products?category=electronics&per_page=50", "/api/products?page=3"];
    let (mut hits, mut stale) = (0, 0);
    for write in 0..writes() {
        let (here, there) = (&fleet[(write % 2) as usize], &fleet[((write + 1) % 2) as usize]);
        for path in paths {
            let warm = client.get(&format!("{}{path}", there.url()), &[]).await;
            assert_eq!(warm.status, 200, "{}", warm.text());
            hits += u64::from(warm.x_cache() == "HIT");
        }
        let changed = json!({"name": "Lamp", "price": 19.99, "category": "electronics", "stock": write});
        let put = client.send_json(Method::PUT, &format!("{}/api/products/{PRODUCT}", here.url()), &changed).await;
        assert_eq!(put.status, 200, "{}", put.text());
        for path in paths {
            let read = client.get(&format!("{}{path}", there.url()), &[]).await;
            stale += u64::from(*stock(&read.json()) != write);
        }
    }
    println!("{} writes, {hits} hits in between, {stale} stale reads of {}", writes(), 3 * writes());
    assert_eq!(stale, 0);
    assert!(hits > 0, "nothing was ever cached");
}
