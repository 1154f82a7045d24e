//! A fleet under steady load when its Redis fails: the table of `docs/failures.md`.
//!
//! `FAILURES=docs/failures.md cargo test -p tests --test failure_table` writes it. What is compared with a bound here is
//! errors and stale answers; latencies are for people.

use std::{
    env, fmt, fs,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use http::Method;
use tests::{
    CacheNode, Direction, Fault, FaultProxy, Gate, HOST, HttpClient, RedisCluster, RedisSentinel, RedisServer,
    SharedOrigin, wait_until,
};
use tokio::{task::JoinSet, time::sleep};

const NODE: &str = env!("CARGO_BIN_EXE_cache-node");
const NODES: usize = 2;
const CLIENTS_PER_NODE: usize = 3;
const PATHS: usize = 8;
/// Between a client's answer and its next question, and between invalidations.
const PAUSE: Duration = Duration::from_millis(4);
const BETWEEN_INVALIDATIONS: Duration = Duration::from_millis(100);
const EVENT: Duration = Duration::from_millis(2_500);

/// A push reaches a first tier within this time, on a busy machine.
const ON_ITS_WAY: Duration = Duration::from_millis(250);
/// A heartbeat's pause and its deadline, and the same again for the machine.
const HALF_OPEN: Duration = Duration::from_secs(4);

#[tokio::test(flavor = "multi_thread")]
async fn no_bad_day_of_redis_fails_a_request_or_brings_back_what_was_invalidated() {
    let mut redis = RedisServer::start();
    let (mut roads, mut urls) = (Vec::new(), Vec::new());
    for _ in 0..NODES {
        let road = FaultProxy::start(redis.addr()).await;
        urls.push(format!("redis://{}", road.addr()));
        roads.push(road);
    }
    let fleet = Fleet::start(&urls).await;
    let calm = fleet.observe("calm", "hits of the first tier, misses after invalidations", ON_ITS_WAY).await;
    let mut rows = vec![calm];

    redis.stop();
    rows.push(
        fleet
            .observe(
                "frozen (SIGSTOP)",
                "a few operations time out, then the connection is given up; the application answers",
                ON_ITS_WAY,
            )
            .await,
    );
    redis.cont();
    fleet.recover().await;

    redis.kill();
    rows.push(
        fleet.observe("killed, connections refused", "given up at once; the application answers", ON_ITS_WAY).await,
    );
    redis.restart();
    rows.push(
        fleet
            .observe(
                "restarted empty",
                "taken back at once, invalidations first; the application answers for three seconds more",
                ON_ITS_WAY,
            )
            .await,
    );
    fleet.recover().await;
    rows.push(fleet.observe("three seconds after that", "filled again", ON_ITS_WAY).await);

    rows.push(fleet.restore_an_old_dump(&mut redis).await);
    fleet.recover().await;

    redis.command::<()>(&["CONFIG", "SET", "maxmemory", "1"]);
    rows.push(
        fleet.observe("full (`noeviction`)", "nothing is stored; invalidations are taken at once", ON_ITS_WAY).await,
    );
    redis.command::<()>(&["CONFIG", "SET", "maxmemory", "0"]);
    fleet.recover().await;

    redis.command::<()>(&["SCRIPT", "FLUSH"]);
    rows.push(fleet.observe("SCRIPT FLUSH", "scripts are given to it again", ON_ITS_WAY).await);
    redis.flushall();
    rows.push(fleet.observe("FLUSHALL", "an empty cache, filled again", ON_ITS_WAY).await);

    for road in &mut roads {
        road.set(Fault::Delay(Duration::from_millis(50))).await;
    }
    rows.push(
        fleet
            .observe(
                "slow, 50 ms each way",
                "operations time out, the connection is given up and tried again",
                ON_ITS_WAY,
            )
            .await,
    );
    for road in &mut roads {
        road.set(Fault::Pass).await;
    }
    fleet.recover().await;

    roads[1].set(Fault::Swallow(Direction::ToClient)).await;
    rows.push(
        fleet
            .observe(
                "answers to one node are lost (half-open)",
                "what others invalidate is served by its first tier until operations time out, or a heartbeat: two seconds",
                HALF_OPEN,
            )
            .await,
    );
    roads[1].set(Fault::Pass).await;
    fleet.recover().await;
    fleet.stop().await;

    rows.push(a_replica_is_promoted().await);
    rows.push(a_node_of_a_cluster_is_lost().await);

    let table = table(&rows);
    println!("{table}");
    if let Ok(path) = env::var("FAILURES") {
        write(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path).as_path(), &table);
    }
    for row in &rows {
        assert!(row.answers.len() > 100, "{}: hardly anybody asked", row.event);
        assert_eq!(row.errors, Vec::<String>::new(), "{}", row.event);
        assert!(row.longest_stale() <= row.bound, "{}: stale {:?} later", row.event, row.longest_stale());
    }
}

/// Sentinels put a replica in its primary's place that never heard of the last invalidations.
async fn a_replica_is_promoted() -> Row {
    let mut group = RedisSentinel::start();
    let fleet = Fleet::start(&[group.url(), group.url()]).await;
    group.primary().command::<()>(&["ACL", "SETUSER", "default", "-psync", "-sync"]);
    group.primary().command::<u64>(&["CLIENT", "KILL", "TYPE", "replica"]);
    fleet.invalidation().await;
    let row = fleet.observe_promotion(
        "primary killed, a lagging replica promoted (Sentinel)",
        "the application answers until sentinels agree; the new primary is found, and begins empty",
        || {
            group.primary_mut().kill();
            group.wait_until_promoted();
        },
    );
    let row = row.await;
    fleet.stop().await;
    row
}

/// The primary dies that has the tags, and its replica takes its place.
async fn a_node_of_a_cluster_is_lost() -> Row {
    let mut cluster = RedisCluster::start(3, 1);
    let fleet = Fleet::start(&[cluster.url(), cluster.url()]).await;
    let index = cluster.index_of("{cache}");
    let row = fleet.observe_promotion(
        "one of three primaries killed, its replica promoted (Cluster)",
        "what it has is the application's to answer until the others agree; then everything begins empty",
        || {
            let replica = cluster.primaries().len() + index;
            cluster.node_mut(index).kill();
            while cluster.node_mut(replica).info("replication", "role") != "master" {
                std::thread::sleep(Duration::from_millis(20));
            }
        },
    );
    let row = row.await;
    fleet.stop().await;
    row
}

/// Two processes with first tiers, each with a way of its own to their Redis, and clients that ask all the time.
struct Fleet {
    nodes: Arc<[CacheNode]>,
    watch: Arc<Watch>,
    tasks: JoinSet<()>,
}

/// What the clients see.
struct Watch {
    origin: SharedOrigin,
    /// When each invalidation was acknowledged, and of what.
    acknowledged: Mutex<Vec<(Instant, u64)>>,
    answers: Mutex<Vec<Answer>>,
    errors: Mutex<Vec<String>>,
    invalidating: AtomicBool,
    stopped: AtomicBool,
}

#[derive(Clone, Copy)]
struct Answer {
    latency: Duration,
    /// How long before the question what it says had been invalidated.
    stale: Option<Duration>,
}

struct Row {
    event: &'static str,
    what_happens: &'static str,
    answers: Vec<Answer>,
    errors: Vec<String>,
    /// On answers that were invalidated before they were asked for.
    bound: Duration,
}

impl Fleet {
    /// One process for each way to Redis.
    async fn start(urls: &[String]) -> Self {
        let gate = Gate::closed();
        gate.open();
        let origin = SharedOrigin::start(Duration::from_millis(3), &gate).await;
        let mut nodes = Vec::new();
        for (name, url) in urls.iter().enumerate() {
            let variables = [("REDIS_URL", &**url), ("ORIGIN_URL", &*origin.url()), ("TIERED", "1")];
            nodes.push(CacheNode::start(NODE, &name.to_string(), &variables));
        }
        let watch = Arc::new(Watch {
            origin,
            acknowledged: Mutex::default(),
            answers: Mutex::default(),
            errors: Mutex::default(),
            invalidating: AtomicBool::new(true),
            stopped: AtomicBool::new(false),
        });
        let mut fleet = Self { nodes: nodes.into(), watch, tasks: JoinSet::new() };
        for node in 0..fleet.nodes.len() {
            for client in 0..CLIENTS_PER_NODE {
                fleet.tasks.spawn(ask(fleet.nodes.clone(), node, client, fleet.watch.clone()));
            }
        }
        fleet.tasks.spawn(invalidate(fleet.nodes.clone(), fleet.watch.clone()));
        fleet.recover().await;
        fleet
    }

    /// Observes the clients for as long as an event may last.
    async fn observe(&self, event: &'static str, what_happens: &'static str, bound: Duration) -> Row {
        self.watch.forget();
        sleep(EVENT).await;
        self.watch.row(event, what_happens, bound)
    }

    /// Observes the clients from the death of a server until its successor has served for as long as an event may last.
    async fn observe_promotion(&self, event: &'static str, what_happens: &'static str, promote: impl FnOnce()) -> Row {
        self.watch.forget();
        tokio::task::block_in_place(promote);
        self.recover().await;
        sleep(EVENT).await;
        self.watch.row(event, what_happens, ON_ITS_WAY)
    }

    /// Entries that were invalidated after the dump was made would come back with it.
    async fn restore_an_old_dump(&self, redis: &mut RedisServer) -> Row {
        self.watch.invalidating.store(false, Ordering::SeqCst);
        // Time for everything to be filled.
        sleep(5 * BETWEEN_INVALIDATIONS).await;
        redis.command::<()>(&["SAVE"]);
        self.watch.invalidate(&self.nodes[0]).await;
        redis.kill();
        redis.restart();
        self.watch.forget();
        sleep(EVENT).await;
        let row = self.watch.row(
            "restarted from an old dump",
            "noticed before anything is read; what the dump holds is void",
            ON_ITS_WAY,
        );
        fs::remove_file(redis.folder().join("dump.rdb")).expect("the dump is there");
        self.watch.invalidating.store(true, Ordering::SeqCst);
        row
    }

    /// Waits until everybody reads from Redis, and an invalidation has been taken since.
    async fn recover(&self) {
        for node in self.nodes.iter() {
            wait_until("the node reads from Redis", async || node.reads_redis().await).await;
        }
        self.invalidation().await;
    }

    /// Waits until an invalidation has been taken that is still to come.
    async fn invalidation(&self) {
        let taken = self.watch.acknowledged.lock().unwrap().len();
        wait_until("an invalidation is taken", async || self.watch.acknowledged.lock().unwrap().len() > taken).await;
    }

    async fn stop(self) {
        self.watch.stopped.store(true, Ordering::SeqCst);
        self.tasks.join_all().await;
    }
}

impl Watch {
    fn forget(&self) {
        self.answers.lock().unwrap().clear();
        self.errors.lock().unwrap().clear();
    }

    fn row(&self, event: &'static str, what_happens: &'static str, bound: Duration) -> Row {
        let mut answers = std::mem::take(&mut *self.answers.lock().unwrap());
        answers.sort_unstable_by_key(|answer| answer.latency);
        Row { event, what_happens, answers, errors: std::mem::take(&mut *self.errors.lock().unwrap()), bound }
    }

    async fn invalidate(&self, node: &CacheNode) {
        let version = self.origin.change();
        if node.invalidate_tag("all").await {
            self.acknowledged.lock().unwrap().push((Instant::now(), version));
        }
    }

    /// How long before `asked` the answer `version` had been invalidated.
    fn stale(&self, asked: Instant, version: u64) -> Option<Duration> {
        let acknowledged = self.acknowledged.lock().unwrap();
        let after = acknowledged.partition_point(|(_, invalidated)| *invalidated <= version);
        asked.checked_duration_since(acknowledged.get(after)?.0)
    }
}

async fn ask(nodes: Arc<[CacheNode]>, node: usize, client: usize, watch: Arc<Watch>) {
    let http = HttpClient::new().host(HOST);
    for path in (client..).map(|turn| format!("/items/{}", turn % PATHS)) {
        if watch.stopped.load(Ordering::SeqCst) {
            return;
        }
        let asked = Instant::now();
        match http.try_request(Method::GET, &nodes[node].url(&path), &[], "").await {
            Ok(response) if response.status == 200 => {
                let version = response.text().parse().expect("a version");
                let answer = Answer { latency: asked.elapsed(), stale: watch.stale(asked, version) };
                watch.answers.lock().unwrap().push(answer);
            }
            Ok(response) => watch.errors.lock().unwrap().push(format!("{path}: {}", response.status)),
            Err(error) => watch.errors.lock().unwrap().push(error.to_string()),
        }
        sleep(PAUSE).await;
    }
}

async fn invalidate(nodes: Arc<[CacheNode]>, watch: Arc<Watch>) {
    while !watch.stopped.load(Ordering::SeqCst) {
        sleep(BETWEEN_INVALIDATIONS).await;
        if watch.invalidating.load(Ordering::SeqCst) {
            watch.invalidate(&nodes[0]).await;
        }
    }
}

impl Row {
    fn quantile(&self, per_cent: usize) -> Duration {
        self.answers[(self.answers.len() - 1) * per_cent / 100].latency
    }

    fn longest_stale(&self) -> Duration {
        self.answers.iter().filter_map(|answer| answer.stale).max().unwrap_or_default()
    }

    fn stale(&self) -> usize {
        self.answers.iter().filter(|answer| answer.stale.is_some()).count()
    }
}

fn table(rows: &[Row]) -> String {
    let mut table = String::from(
        "| event | what happens | requests | errors | p50 | p99 | added to p99 | stale answers (how long after) |\n\
         |---|---|---|---|---|---|---|---|\n",
    );
    for row in rows {
        let added = row.quantile(99).saturating_sub(rows[0].quantile(99));
        let stale = match row.stale() {
            0 => "0".to_owned(),
            number => format!("{number} ({})", Milliseconds(row.longest_stale())),
        };
        table.push_str(&format!(
            "| {} | {} | {} | {} | {} | {} | {} | {stale} |\n",
            row.event,
            row.what_happens,
            row.answers.len(),
            row.errors.len(),
            Milliseconds(row.quantile(50)),
            Milliseconds(row.quantile(99)),
            Milliseconds(added),
        ));
    }
    table
}

struct Milliseconds(Duration);

impl fmt::Display for Milliseconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} ms", self.0.as_secs_f64() * 1000.0)
    }
}

/// Replaces the table in the document, and leaves what stands around it.
fn write(path: &Path, table: &str) {
    let document = fs::read_to_string(path).expect("the document is there");
    let (before, rest) = document.split_once("<!-- table -->\n").expect("a place for the table");
    let (_, after) = rest.split_once("<!-- end -->").expect("the end of the table");
    fs::write(path, format!("{before}<!-- table -->\n{table}<!-- end -->{after}")).expect("the document is written");
}
