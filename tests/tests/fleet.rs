//! One load for a whole fleet: processes that know of each other by Redis alone, and one cold key.

use std::{
    pin::Pin,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use tests::{CacheNode, Gate, RedisServer, SharedOrigin, Storm, wait_until};

const NODE: &str = env!("CARGO_BIN_EXE_cache-node");
const PROCESSES: usize = 8;
const TASKS: usize = 256;
/// Each with a Redis of its own.
const ROUNDS: usize = 6;
const TIERED: &[(&str, &str)] = &[("TIERED", "1")];
const BACK_OFF: Duration = Duration::from_millis(500);
/// A back-off is spread by a fifth.
const SHORTEST_BACK_OFF: Duration = Duration::from_millis(400);

#[tokio::test(flavor = "multi_thread")]
async fn a_cold_key_is_loaded_once_for_eight_processes_of_256_tasks() {
    for tiers in [&[][..], TIERED] {
        let fleet = Fleet::start(Duration::from_millis(100), &open(), tiers).await;
        for storm in fleet.storm("/cold").await {
            assert_eq!(storm.answers["200 0"], TASKS as u64, "{storm:?}");
        }
        fleet.assert_loads("/cold", 1).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_of_many_keys_is_loaded_once_for_eight_processes_of_16_calls() {
    const KEYS: usize = 100;
    for tiers in [&[][..], TIERED] {
        let fleet = Fleet::start(Duration::from_millis(100), &open(), tiers).await;
        for storm in join_all(fleet.nodes.iter().map(|node| node.many(16, KEYS))).await {
            assert_eq!(storm.answers["0"], 16 * KEYS as u64 / 2, "{storm:?}");
        }
        let loads: Vec<usize> = (0..KEYS).map(|key| fleet.origin.callers(&format!("/many/{key}")).len()).collect();
        assert!(loads.iter().all(|loads| *loads == 1), "{loads:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_queries_are_loaded_once_for_eight_processes_of_256_tasks() {
    for tiers in [&[][..], TIERED] {
        let fleet = Fleet::start(Duration::from_millis(100), &open(), tiers).await;
        for (loads, content) in [(1, "one"), (2, "two")] {
            let storms = fleet.nodes.iter().map(|node| node.query_storm(TASKS, content, "/cold"));
            for storm in join_all(storms).await {
                assert_eq!(storm.answers[&format!("200 0{content}")], TASKS as u64, "{storm:?}");
            }
            fleet.assert_loads("/cold", loads).await;
        }
    }
}

/// Nothing is known of the tags that all of them carry: the node that stores first makes the tokens, and the others have begun before that.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_cold_at_one_time_on_a_redis_that_has_nothing_is_a_load_each() {
    for round in 0..ROUNDS {
        let tiers = if round % 2 == 0 { TIERED } else { &[] };
        let fleet = Fleet::start(Duration::from_millis(100), &open(), tiers).await;
        let contents = ["one", "two"].map(|content| {
            let storms = fleet.nodes.iter().map(|node| node.query_storm(TASKS / 4, content, "/cold"));
            join_all(storms.collect::<Vec<_>>())
        });
        let paths = ["/a", "/b"].map(|path| fleet.storm_of(TASKS / 4, path));
        let (contents, paths) = tokio::join!(join_all(contents), join_all(paths));
        for (storms, content) in contents.iter().zip(["one", "two"]).chain(paths.iter().zip(["", ""])) {
            for storm in storms {
                assert_eq!(storm.answers[&format!("200 0{content}")], TASKS as u64 / 4, "{storm:?}");
            }
        }
        for (path, loads) in [("/cold", 2), ("/a", 1), ("/b", 1)] {
            fleet.assert_loads(path, loads).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_killed_costs_the_fleet_one_more_load() {
    one_more_load(|node| Box::pin(node.storm(TASKS, "/cold")), "200 0").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_of_a_query_that_is_killed_costs_the_fleet_one_more_load() {
    one_more_load(|node| Box::pin(node.query_storm(TASKS, "one", "/cold")), "200 0one").await;
}

async fn one_more_load(storm: impl Fn(&CacheNode) -> Pin<Box<dyn Future<Output = Storm> + Send>>, answer: &str) {
    let (gate, lock_timeout) = (Gate::closed(), Duration::from_secs(12));
    let patience = [("LOCK_TIMEOUT_MS", "12000")];
    let Fleet { origin, nodes, _redis } = Fleet::start(Duration::ZERO, &gate, &patience).await;
    let mut storms: Vec<_> = nodes
        .into_iter()
        .map(|node| {
            let storm = tokio::spawn(storm(&node));
            (node, storm)
        })
        .collect();
    wait_until("somebody loads", async || !origin.callers("/cold").is_empty()).await;
    // Time for everybody to ask.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let leader: usize = origin.callers("/cold")[0].parse().unwrap();
    let (mut node, storm) = storms.remove(leader);
    node.kill();
    storm.abort();
    gate.open();

    let killed = Instant::now();
    for (_, storm) in storms {
        let storm = storm.await.unwrap();
        assert_eq!(storm.answers[answer], TASKS as u64, "{storm:?}");
    }
    let loads = origin.callers("/cold").len();
    println!("{loads} loads, all answered {:?} after the leader was killed", killed.elapsed());
    assert!(killed.elapsed() < lock_timeout + Duration::from_secs(5));
    assert_eq!(loads, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_in_another_process_is_woken_when_the_entry_is_stored() {
    let fleet = Fleet::start(Duration::from_millis(60), &open(), TIERED).await;
    let mut medians = Vec::new();
    for batch in 0..3 {
        let mut delays = Vec::new();
        for round in 0..20 {
            let path = format!("/round/{batch}/{round}");
            let storms = fleet.storm_of(1, &path).await;
            let loader: usize = fleet.origin.callers(&path)[0].parse().unwrap();
            let stored = fleet.nodes[loader].stored().await;
            let others = storms.iter().enumerate().filter(|(node, _)| *node != loader);
            delays.extend(others.map(|(_, storm)| storm.finished.saturating_sub(stored)));
            assert_eq!(fleet.origin.callers(&path).len(), 1);
        }
        delays.sort_unstable();
        let quantile = |share: usize| Duration::from_micros(delays[(delays.len() - 1) * share / 100]);
        let (median, p99) = (quantile(50), quantile(99));
        println!("woken after the commit: {median:?} (p50), {p99:?} (p99), {:?} (longest)", quantile(100));
        medians.push(median);
    }
    // Eight processes share what cores there are. Without a push, they would look again after 25 to 100 ms, in each batch.
    assert!(*medians.iter().min().unwrap() < Duration::from_millis(20), "{medians:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_application_is_asked_once_in_a_back_off_by_eight_processes() {
    let back_off = BACK_OFF.as_millis().to_string();
    let fleet = Fleet::start(Duration::from_millis(20), &open(), &[("SHARE_FAILURES_MS", &back_off)]).await;
    fleet.origin.fail(true);
    let (begun, mut answers) = (Instant::now(), 0);
    while begun.elapsed() < 10 * BACK_OFF {
        for storm in fleet.storm_of(8, "/failing").await {
            assert!(storm.answers.keys().all(|answer| answer.starts_with("503")), "{storm:?}");
            answers += storm.answers.values().sum::<u64>();
        }
    }
    let elapsed = begun.elapsed();
    let attempts = fleet.origin.callers("/failing").len();
    println!("{attempts} attempts for {answers} answers of {PROCESSES} processes in {elapsed:?}");
    let back_offs = elapsed.as_millis() / SHORTEST_BACK_OFF.as_millis();
    assert!(attempts > 2, "it is asked again after each: {attempts}");
    assert!(attempts as u128 <= back_offs + 1, "{attempts} in {back_offs}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_that_failed_is_stored_by_nobody_and_asked_again() {
    let fleet = Fleet::start(Duration::from_millis(20), &open(), &[]).await;
    fleet.origin.fail(true);
    for storm in fleet.storm_of(8, "/failing").await {
        assert!(storm.answers.keys().all(|answer| answer.starts_with("503")), "{storm:?}");
    }
    let attempts = fleet.origin.callers("/failing").len();
    println!("{attempts} attempts for {PROCESSES} processes of 8 tasks");
    fleet.origin.fail(false);
    wait_until("every process serves what is stored", async || {
        fleet.storm_of(1, "/failing").await.iter().all(|storm| storm.answers.contains_key("200 0"))
    })
    .await;
    assert!(fleet.origin.callers("/failing").len() > attempts);
}

fn open() -> Gate {
    let gate = Gate::closed();
    gate.open();
    gate
}

struct Fleet {
    origin: SharedOrigin,
    nodes: Vec<CacheNode>,
    _redis: RedisServer,
}

impl Fleet {
    async fn start(delay: Duration, gate: &Gate, settings: &[(&str, &str)]) -> Self {
        let redis = RedisServer::start();
        let origin = SharedOrigin::start(delay, gate).await;
        let (redis_url, origin_url) = (redis.url(), origin.url());
        let mut variables = vec![
            ("REDIS_URL", &*redis_url),
            ("ORIGIN_URL", &*origin_url),
            ("LOCK_TIMEOUT_MS", "20000"),
            // Nothing here is about a Redis that is slow, and many processes on few cores are.
            ("OPERATION_TIMEOUT_MS", "10000"),
        ];
        variables.extend(settings);
        let nodes = (0..PROCESSES).map(|node| CacheNode::start(NODE, &node.to_string(), &variables)).collect();
        Self { origin, nodes, _redis: redis }
    }

    /// All of them together have loaded `path` so often. A node that has lost its connection to Redis, as on a machine that stands
    /// still for a second, loads for itself and is not counted: it may or may not have loaded for all before.
    async fn assert_loads(&self, path: &str, expected: usize) {
        let lost = join_all(self.nodes.iter().map(CacheNode::lost_connections)).await;
        let callers = self.origin.callers(path);
        let counted = callers.iter().filter(|node| lost[node.parse::<usize>().expect("a number")] == 0).count();
        let all_are_there = lost.iter().all(|lost| *lost == 0);
        assert!(
            counted == expected || (counted < expected && !all_are_there),
            "{path} by {callers:?}, of whom these have lost connections: {lost:?}"
        );
    }

    /// Every task of every process asks for `path` at once.
    async fn storm(&self, path: &str) -> Vec<Storm> {
        self.storm_of(TASKS, path).await
    }

    async fn storm_of(&self, tasks: usize, path: &str) -> Vec<Storm> {
        join_all(self.nodes.iter().map(|node| node.storm(tasks, path))).await
    }
}
