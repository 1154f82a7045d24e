//! Processes of the service on one Redis and one database: what is written through one is read from the others.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use http::Method;
use serde_json::{Value, json};
use tests::{Fault, FaultProxy, HttpClient, RedisServer, ServiceProcess, wait_until};
use tokio::{task::JoinSet, time::sleep};

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

const REPLICAS: usize = 3;
/// Each product has one writer, which counts in its stock.
const PRODUCTS: std::ops::Range<usize> = 60..96;
/// Between its writes: longer than a load, for what one replica missed is void as soon as another one is written through.
const BETWEEN_WRITES: std::ops::Range<u64> = 2_500..3_500;
/// More than any product has at the beginning.
const FIRST_STOCK: u64 = 100_000;
const READERS: usize = 4;
/// While a process has no Redis, its requests may share a load that began before a write through another one: as long as a
/// load takes, on a machine that has other things to do.
const LOAD: Duration = Duration::from_millis(1_500);
/// How much later than the others one of them is let through to the new Redis: the others wait for it for three seconds.
const LATE: Duration = Duration::from_millis(500);

/// Three replicas under writers and readers, which ask another replica than the one that was written through, while Redis is killed and
/// started again, empty; and each time one replica is late to find it.
#[tokio::test(flavor = "multi_thread")]
async fn no_read_is_stale_after_a_loss_of_redis_though_one_process_is_back_later_than_the_others() {
    let mut redis = RedisServer::start();
    let folder = tempfile::tempdir().unwrap();
    let database = format!("sqlite://{}", folder.path().join("products.db").display());
    let (mut roads, mut fleet) = (Vec::new(), Vec::new());
    for _ in 0..REPLICAS {
        let road = FaultProxy::start(redis.addr()).await;
        let redis_url = format!("redis://{}", road.addr());
        fleet.push(ServiceProcess::start(SERVICE, &[("APP_REDIS_URL", &redis_url), ("APP_DATABASE_URL", &database)]));
        roads.push(road);
    }
    let watch = Arc::new(Watch::new(fleet.iter().map(ServiceProcess::url).collect()));
    let mut tasks = JoinSet::new();
    for product in PRODUCTS {
        tasks.spawn(watch.clone().write(product));
    }
    for _ in 0..READERS {
        tasks.spawn(watch.clone().read_on());
    }

    // Shorter and longer than a write waits for it.
    for (loss, outage) in [400, 2_500, 100, 2_500].map(Duration::from_millis).into_iter().enumerate() {
        watch.expect_hits().await;
        redis.kill();
        sleep(outage).await;
        let late = &mut roads[loss % REPLICAS];
        late.set(Fault::Cut).await;
        redis.restart();
        sleep(LATE).await;
        late.set(Fault::Pass).await;
        println!("{}", watch.summary());
    }
    watch.expect_hits().await;
    watch.stopped.store(true, Ordering::SeqCst);
    while let Some(task) = tasks.join_next().await {
        task.unwrap();
    }
    println!("{}", watch.summary());
    let stale = watch.stale.lock().unwrap();
    let wrong: Vec<_> = stale.iter().filter(|stale| stale.stored || stale.after > LOAD).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}

/// An answer that was asked for after its successor had been acknowledged.
#[derive(Debug)]
struct Stale {
    /// How long after.
    after: Duration,
    /// Whether it is what the cache had, and no load's that was under way.
    stored: bool,
}

/// What clients see.
struct Watch {
    replicas: Vec<String>,
    client: HttpClient,
    /// For each product, when each of its writes was answered.
    written: Vec<Mutex<Vec<(Instant, u64)>>>,
    reads: AtomicU64,
    hits: AtomicU64,
    stale: Mutex<Vec<Stale>>,
    stopped: AtomicBool,
}

impl Watch {
    fn new(replicas: Vec<String>) -> Self {
        Self {
            replicas,
            client: HttpClient::new().host("shop.example"),
            written: PRODUCTS.map(|_| Mutex::default()).collect(),
            reads: AtomicU64::new(0),
            hits: AtomicU64::new(0),
            stale: Mutex::default(),
            stopped: AtomicBool::new(false),
        }
    }

    async fn write(self: Arc<Self>, product: usize) {
        for stock in FIRST_STOCK.. {
            if self.stopped.load(Ordering::SeqCst) {
                return;
            }
            let replica = fastrand::usize(..REPLICAS);
            let url = format!("{}/api/products/{product}", self.replicas[replica]);
            let changed = json!({"name": "Lamp", "price": 19.99, "category": "electronics", "stock": stock});
            let put = self.client.send_json(Method::PUT, &url, &changed).await;
            assert_eq!(put.status, 200, "{}", put.text());
            self.written[product - PRODUCTS.start].lock().unwrap().push((Instant::now(), stock));
            self.read(product, (replica + 1) % REPLICAS).await;
            sleep(Duration::from_millis(fastrand::u64(BETWEEN_WRITES))).await;
        }
    }

    async fn read_on(self: Arc<Self>) {
        while !self.stopped.load(Ordering::SeqCst) {
            self.read(fastrand::usize(PRODUCTS), fastrand::usize(..REPLICAS)).await;
            sleep(Duration::from_millis(5)).await;
        }
    }

    async fn read(&self, product: usize, replica: usize) {
        let asked = Instant::now();
        let answer = self.client.get(&format!("{}/api/products/{product}", self.replicas[replica]), &[]).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.hits.fetch_add(u64::from(answer.x_cache() == "HIT"), Ordering::Relaxed);
        let stock = answer.json()["stock"].as_u64().unwrap();
        let written = self.written[product - PRODUCTS.start].lock().unwrap();
        let next = written.get(written.partition_point(|(_, written)| *written <= stock));
        if let Some(after) = next.and_then(|(when, _)| asked.checked_duration_since(*when)) {
            let stored = answer.header("cache-status").is_some_and(|status| status.contains("; hit"));
            self.stale.lock().unwrap().push(Stale { after, stored });
        }
    }

    async fn expect_hits(&self) {
        let before = self.hits.load(Ordering::Relaxed);
        wait_until("what is stored to be read again", async || self.hits.load(Ordering::Relaxed) > before + 50).await;
    }

    fn summary(&self) -> String {
        let stale = self.stale.lock().unwrap();
        let (reads, hits) = (self.reads.load(Ordering::Relaxed), self.hits.load(Ordering::Relaxed));
        let writes: usize = self.written.iter().map(|written| written.lock().unwrap().len()).sum();
        let longest = stale.iter().map(|stale| stale.after).max();
        format!("{writes} writes, {reads} reads, {hits} hits, {} stale, at most {longest:?}", stale.len())
    }
}
