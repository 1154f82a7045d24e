//! The hot set and the warm start: what a new process has in memory before its first request, and that none of it is stale.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use cache_layer::{
    Cache, CacheBuilder, Switch, Warmed,
    store::{MemoryStore, RedisStore, TieredStore},
    telemetry::{Event, Observer, Tier, WarmOutcome},
};
use redis::Value;
use tests::{App, Backend, Fault, FaultProxy, Origin, RedisCluster, RedisServer, RedisUsage, wait_until};

const PATIENCE: Duration = Duration::from_secs(10);
const HOUR: Duration = Duration::from_secs(3600);

/// Answers from memory.
#[derive(Clone, Default)]
struct InMemory(Arc<AtomicUsize>);

impl InMemory {
    fn take(&self) -> usize {
        self.0.swap(0, Ordering::Relaxed)
    }
}

impl Observer for InMemory {
    fn observe(&self, event: Event) {
        if let Event::Lookup(lookup) = event
            && lookup.tier == Tier::Memory
        {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Numbers from 0 on, of which each comes as often as one by one more than it is.
#[derive(Clone)]
struct Zipf(Arc<[f64]>);

impl Zipf {
    fn new(keys: usize) -> Self {
        let mut sum = 0.0;
        let sums = (1..=keys).map(|rank| {
            sum += 1.0 / rank as f64;
            sum
        });
        Self(sums.collect())
    }

    fn next(&self, random: &mut fastrand::Rng) -> usize {
        let point = random.f64() * self.0[self.0.len() - 1];
        self.0.partition_point(|sum| *sum < point)
    }
}

async fn redis(url: String) -> RedisStore {
    let store = RedisStore::builder(url).operation_timeout(PATIENCE).build().unwrap();
    assert!(store.wait_connected(PATIENCE).await);
    store
}

async fn tiered(url: String) -> CacheBuilder {
    Cache::builder(TieredStore::new(64 << 20, redis(url).await)).hot_keys(4096)
}

async fn value(cache: &Cache, id: usize) -> usize {
    let load = async move || Ok::<_, Infallible>(id);
    cache.get_or_load(("product", id), load).ttl(HOUR).await.unwrap()
}

/// Requests as a shop has them.
async fn shop(cache: &Cache, zipf: &Zipf, seed: u64, requests: usize) {
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..requests {
        let id = zipf.next(&mut random);
        assert_eq!(value(cache, id).await, id);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_thousand_requests_of_a_new_process_hit_memory_nearly_as_often_as_an_old_ones() {
    const WARM: usize = 1500;
    let (server, zipf) = (RedisServer::start(), Zipf::new(2000));
    let old_hits = InMemory::default();
    let old = tiered(server.url()).await.observer(old_hits.clone()).build();
    let shoppers = (0..16).map(|seed| {
        let (old, zipf) = (old.clone(), zipf.clone());
        tokio::spawn(async move { shop(&old, &zipf, seed, 12_000).await })
    });
    for shopper in shoppers.collect::<Vec<_>>() {
        shopper.await.unwrap();
    }
    assert!(old.drain(PATIENCE).await);
    assert_eq!(old.leave_hot_keys().await, Ok(true));
    old_hits.take();
    shop(&old, &zipf, 99, 1000).await;

    let hits = InMemory::default();
    let new = tiered(server.url()).await.observer(hits.clone()).build();
    let before = RedisUsage::of(&server);
    let reads = |server: &RedisServer| -> u64 {
        let count = |field: &str| server.info("stats", field).parse::<u64>().unwrap();
        count("keyspace_hits") + count("keyspace_misses")
    };
    let read = reads(&server);
    let warmed = new.warm(WARM, PATIENCE).await;
    let (usage, read) = (RedisUsage::of(&server).since(&before), reads(&server) - read);
    println!("{warmed:?}: {} MGET, {read} reads", usage.calls("mget"));
    assert!(warmed.complete && warmed.nodes == 1 && warmed.asked <= WARM, "{warmed:?}");
    assert!(warmed.found * 100 >= warmed.asked * 99, "{warmed:?}");
    // The list, the token that all entries have, and what the heartbeats of both read, of which each has three.
    assert!(read <= WARM as u64 + 100, "{read}");
    shop(&new, &zipf, 100, 1000).await;
    let (old, new) = (old_hits.take(), hits.take());
    println!("of 1000: {new} beside {old}");
    assert!(new * 10 >= old * 9, "{new} beside {old}");

    let cold_hits = InMemory::default();
    let cold = tiered(server.url()).await.observer(cold_hits.clone()).build();
    shop(&cold, &zipf, 100, 1000).await;
    println!("of 1000: {} without", cold_hits.0.load(Ordering::Relaxed));
    assert!(cold_hits.take() < new, "it is the warm start that does it");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_is_read_than_was_to_be_and_what_is_here_is_not_read_again() {
    let server = RedisServer::start();
    let old = tiered(server.url()).await.build();
    for id in 0..200 {
        for _ in 0..100 {
            value(&old, id).await;
        }
    }
    assert!(old.drain(PATIENCE).await);
    old.leave_hot_keys().await.unwrap();
    let new = tiered(server.url()).await.build();
    let warmed = new.warm(70, PATIENCE).await;
    assert_eq!((warmed.asked, warmed.found, warmed.complete), (70, 70, true), "{warmed:?}");
    let warmed = new.warm(70, PATIENCE).await;
    assert_eq!((warmed.asked, warmed.found), (70, 70), "seventy others: {warmed:?}");
    // One hit in sixteen is counted, so that some of the keys may not be on the list.
    let warmed = new.warm(200, PATIENCE).await;
    assert!((40..=60).contains(&warmed.asked) && warmed.found == warmed.asked, "the others: {warmed:?}");
    assert_eq!(new.warm(0, PATIENCE).await.asked, 0);
    // A process does not warm itself by its own list.
    assert_eq!(old.warm(70, PATIENCE).await.nodes, 0);
}

/// A first tier keeps nothing where the server refuses to track, nor while an operator has turned it off.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_fetched_where_nothing_is_kept() {
    let server = RedisServer::start();
    let old = tiered(server.url()).await.build();
    // One hit in sixteen is counted.
    for _ in 0..400 {
        value(&old, 1).await;
    }
    assert!(old.drain(PATIENCE).await);
    assert!(old.leave_hot_keys().await.unwrap());
    let () = server.command(&["ACL", "SETUSER", "plain", "on", ">secret", "~*", "&*", "+@all", "-client|tracking"]);
    let untracked = tiered(server.url().replace("redis://", "redis://plain:secret@")).await.build();
    let switched = tiered(server.url()).await.switches(true).build();
    let before = RedisUsage::of(&server);
    let fetches_nothing = async |cache: &Cache, why: &str| {
        let warmed = cache.warm(10, PATIENCE).await;
        assert!(!warmed.first_tier && !warmed.complete, "{why}: {warmed:?}");
        assert_eq!((warmed.asked, warmed.found), (0, 0), "{why}");
    };
    fetches_nothing(&untracked, "untracked").await;
    for switch in [Switch::FirstTierOff, Switch::BypassReads] {
        switched.switch(switch, HOUR).await.unwrap();
        fetches_nothing(&switched, switch.as_str()).await;
        switched.switch_off(switch).await.unwrap();
    }
    // A fetch begins with the lists; heartbeats read what has values.
    assert_eq!(RedisUsage::of(&server).since(&before).calls("xrevrange"), 0);
    let warmed = switched.warm(10, PATIENCE).await;
    assert!(warmed.first_tier && warmed.complete, "{warmed:?}");
    assert_eq!((warmed.asked, warmed.found), (1, 1), "{warmed:?}");
}

/// Of what has variants, all that a request takes.
#[tokio::test(flavor = "multi_thread")]
async fn variants_are_fetched_with_what_leads_to_them() {
    let backend = Backend::tiered();
    let origin = Origin::echo(&[("cache-control", "max-age=600"), ("vary", "accept-language")]);
    let old = App::new(backend.cache().await.hot_keys(100).build(), &origin, |layer| layer);
    for _ in 0..200 {
        for language in ["de", "en"] {
            old.get("/a", &[("accept-language", language)]).await;
        }
    }
    old.settled().await;
    old.cache.leave_hot_keys().await.unwrap();
    assert_eq!(old.cache.hot(10).len(), 2, "{:?}", old.cache.hot(10));
    let hits = InMemory::default();
    let new = backend.cache().await.hot_keys(100).observer(hits.clone()).build();
    let warmed = new.warm(10, PATIENCE).await;
    assert_eq!((warmed.asked, warmed.found), (3, 3), "two variants, and what leads to them: {warmed:?}");
    let new = App::new(new, &origin, |layer| layer).unexplained();
    for language in ["de", "en"] {
        assert_eq!(new.get("/a", &[("accept-language", language)]).await.x_cache(), "HIT");
    }
    assert_eq!(hits.take(), 2);
}

/// While one process warms up, over and over, another one changes what it fetches.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_changes_during_a_warm_start_is_not_served_as_it_was() {
    const KEYS: usize = 256;
    let server = RedisServer::start();
    let writer = tiered(server.url()).await.build();
    let versions: Arc<[AtomicU64]> = (0..KEYS).map(|_| AtomicU64::new(0)).collect();
    let floors: Arc<[AtomicU64]> = (0..KEYS).map(|_| AtomicU64::new(0)).collect();
    let load = |cache: Cache, versions: Arc<[AtomicU64]>, id: usize| async move {
        let load = async move || Ok::<_, Infallible>(versions[id].load(Ordering::SeqCst));
        cache.get_or_load(("product", id), load).ttl(HOUR).tags([format!("tag:{id}")]).await.unwrap()
    };
    for id in (0..KEYS).cycle().take(KEYS * 40) {
        load(writer.clone(), versions.clone(), id).await;
    }
    assert!(writer.drain(PATIENCE).await);
    assert!(writer.leave_hot_keys().await.unwrap());
    let (mut found, mut changed) = (0, 0);
    for round in 0..8 {
        let new = tiered(server.url()).await.build();
        let (done, changes) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let writing = tokio::spawn({
            let (writer, versions, floors) = (writer.clone(), versions.clone(), floors.clone());
            let (done, changes) = (done.clone(), changes.clone());
            async move {
                while done.load(Ordering::SeqCst) == 0 {
                    let id = fastrand::usize(..KEYS);
                    let version = versions[id].fetch_add(1, Ordering::SeqCst) + 1;
                    let told = match round % 2 {
                        0 => writer.invalidate(&("product", id).into()).await,
                        _ => writer.invalidate_tag(&format!("tag:{id}")).await,
                    };
                    if told.is_ok() {
                        floors[id].store(version, Ordering::SeqCst);
                        changes.fetch_add(1, Ordering::SeqCst);
                    }
                    load(writer.clone(), versions.clone(), id).await;
                }
            }
        });
        // Entries that are not fetched in one round are fetched in the next.
        while changes.load(Ordering::SeqCst) < 30 {
            found += new.warm(KEYS, PATIENCE).await.found;
        }
        done.store(1, Ordering::SeqCst);
        writing.await.unwrap();
        changed += changes.load(Ordering::SeqCst);
        // Once anything was read over the connection, what came before it is known.
        assert_eq!(new.get::<u64>(("no", "product")).await, None);
        for id in 0..KEYS {
            let (floor, now) = (floors[id].load(Ordering::SeqCst), versions[id].load(Ordering::SeqCst));
            let read = new.get::<u64>(("product", id)).await;
            assert!(read.is_none_or(|read| floor <= read && read <= now), "{id}: {read:?}, {floor} and {now}");
        }
        assert!(writer.drain(PATIENCE).await);
    }
    println!("{found} fetched, {changed} changed");
    assert!(found > 8 * KEYS / 2 && changed >= 8 * 30, "{found} fetched, {changed} changed");
}

/// Written by another program that may write to Redis.
#[tokio::test(flavor = "multi_thread")]
async fn lists_that_are_none_are_counted_and_no_more() {
    let server = RedisServer::start();
    let old = tiered(server.url()).await.build();
    for _ in 0..200 {
        value(&old, 1).await;
    }
    assert!(old.drain(PATIENCE).await);
    old.leave_hot_keys().await.unwrap();
    let now = u64::try_from(std::time::UNIX_EPOCH.elapsed().unwrap().as_millis()).unwrap();
    let long = [&now.to_be_bytes()[..], &[b'1'; 300 * 1024]].concat();
    let forged = [&now.to_be_bytes()[..], b"1nodenode", &[0, 0, 0, 9, 0, 5], b"\0\0\0\x01x"].concat();
    for record in [&b"nonsense"[..], b"", &now.to_be_bytes(), &long, &[&now.to_be_bytes()[..], b"2abcdefgh"].concat()] {
        server.command::<Value>(&[b"XADD".as_slice(), b"cache:hot", b"*", b"record", record]);
    }
    server.command::<Value>(&[b"XADD".as_slice(), b"cache:hot", b"*", b"record", &forged]);
    let outcomes = Arc::new(AtomicU64::new(0));
    let refused = outcomes.clone();
    let observer = move |event: Event| {
        if let Event::Warmed { outcome: WarmOutcome::RefusedList, count } = event {
            refused.fetch_add(count, Ordering::Relaxed);
        }
    };
    let new = tiered(server.url()).await.observer(observer).build();
    let warmed = new.warm(10, PATIENCE).await;
    assert_eq!((warmed.refused_lists, warmed.nodes), (5, 2), "{warmed:?}");
    assert_eq!((warmed.asked, warmed.found), (2, 1), "what is forged names no entry: {warmed:?}");
    assert_eq!(outcomes.load(Ordering::Relaxed), 5);

    // Of another kind altogether.
    server.command::<()>(&["SET", "cache:hot", "text"]);
    assert!(!new.warm(10, PATIENCE).await.complete);
    assert!(old.leave_hot_keys().await.is_err());
    assert_eq!(value(&new, 1).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_was_left_long_ago_does_not_count() {
    let server = RedisServer::start();
    let new = tiered(server.url()).await.build();
    let now = u64::try_from(std::time::UNIX_EPOCH.elapsed().unwrap().as_millis()).unwrap();
    let (eleven_minutes, one) = (11 * 60_000, [&[0, 0, 0, 9, 0, 5][..], b"\0\0\0\x01x"].concat());
    for (at, node, nodes) in
        [(now - eleven_minutes, b"1nodeof-a", 0), (now + eleven_minutes, b"1nodeof-b", 0), (now, b"1nodeof-c", 1)]
    {
        let record = [&at.to_be_bytes()[..], node, &one].concat();
        server.command::<Value>(&[b"XADD".as_slice(), b"cache:hot", b"*", b"record", &record]);
        let warmed = new.warm(10, PATIENCE).await;
        assert_eq!((warmed.nodes, warmed.refused_lists), (nodes, 0), "{warmed:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_or_a_first_tier_it_is_over_at_once() {
    let memory = Cache::builder(MemoryStore::new(1 << 20)).hot_keys(10).build();
    for _ in 0..200 {
        value(&memory, 1).await;
    }
    assert_eq!(memory.hot(1)[0].key.to_string(), "product:1");
    assert_eq!(memory.leave_hot_keys().await, Ok(false));
    assert_eq!(memory.warm(10, PATIENCE).await, Warmed::default());

    let mut server = RedisServer::start();
    let plain = Cache::builder(redis(server.url()).await).hot_keys(10).build();
    assert_eq!(plain.warm(10, PATIENCE).await, Warmed::default());

    let away = tiered(server.url()).await.build();
    server.kill();
    wait_until("the connection is lost", async || !away.warm(10, PATIENCE).await.complete).await;
    // A server that accepts connections and never answers costs the deadline at most.
    let silent = RedisServer::start();
    let cache = tiered(silent.url()).await.build();
    silent.stop();
    let warmed = cache.warm(10, Duration::from_millis(200)).await;
    silent.cont();
    assert_eq!((warmed.complete, warmed.asked), (false, 0), "{warmed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_cluster_the_lists_lie_beside_the_tags() {
    let cluster = RedisCluster::start(3, 0);
    let old = tiered(cluster.url()).await.build();
    for id in 0..50 {
        for _ in 0..60 {
            value(&old, id).await;
        }
    }
    assert!(old.drain(PATIENCE).await);
    assert_eq!(old.leave_hot_keys().await, Ok(true));
    let hits = InMemory::default();
    let new = tiered(cluster.url()).await.observer(hits.clone()).build();
    let warmed = new.warm(100, PATIENCE).await;
    assert!(warmed.complete && warmed.found >= 40, "{warmed:?}");
    for id in 0..50 {
        value(&new, id).await;
    }
    assert_eq!(hits.take(), warmed.found);
}

/// Counts hits of `keys` products, and leaves the list of them.
async fn make_hot(old: &Cache, keys: usize) {
    for id in (0..keys).cycle().take(keys * 60) {
        value(old, id).await;
    }
    assert!(old.drain(PATIENCE).await);
    assert_eq!(old.leave_hot_keys().await, Ok(true));
}

/// With the deadlines that a store has by default. A connection that is given up has warmed nothing up: what was read over it is
/// void.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_entries_over_a_slow_network_are_fetched_and_cost_no_connection() {
    let server = RedisServer::start();
    let old = tiered(server.url()).await.build();
    make_hot(&old, 64).await;
    for id in 0..64 {
        let large: String = std::iter::repeat_with(fastrand::alphanumeric).take(1 << 19).collect();
        old.set(("product", id), &large).ttl(HOUR).await.unwrap();
    }
    // A machine that stands still for a second loses a connection, too, but not each time.
    for last in [false, false, true] {
        if warms_up_over_a_slow_network(&server, last).await {
            return;
        }
    }
}

/// Whether no connection was lost; panics if the `last` attempt lost one.
async fn warms_up_over_a_slow_network(server: &RedisServer, last: bool) -> bool {
    let mut proxy = FaultProxy::start(([127, 0, 0, 1], server.port()).into()).await;
    let store = RedisStore::builder(format!("redis://{}", proxy.addr())).build().unwrap();
    assert!(store.wait_connected(PATIENCE).await);
    let hits = InMemory::default();
    let new = Cache::builder(TieredStore::new(256 << 20, store.clone())).hot_keys(4096).observer(hits.clone()).build();
    // Of each 16 KiB: an entry takes longer than an operation may.
    proxy.set(Fault::Delay(Duration::from_millis(2))).await;
    let warmed = new.warm(4096, Duration::from_secs(3)).await;
    println!("{warmed:?}");
    if store.state().lost_connections > 0 {
        assert!(!last, "{warmed:?}");
        return false;
    }
    assert!(warmed.nodes == 1 && warmed.found > 0, "{warmed:?}");
    proxy.set(Fault::Pass).await;
    let rest = new.warm(4096, PATIENCE).await;
    assert!(rest.complete, "{rest:?}");
    for id in 0..64 {
        new.get::<String>(("product", id)).await;
    }
    assert!(hits.take() >= warmed.found, "all that was fetched is still here: {warmed:?}");
    true
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_a_cluster_that_does_not_answer_leaves_the_warm_start_incomplete() {
    let cluster = RedisCluster::start(3, 0);
    let old = tiered(cluster.url()).await.build();
    make_hot(&old, 60).await;
    let tags = cluster.index_of("{cache}");
    let frozen = &cluster.primaries()[(tags + 1) % 3];
    let store = RedisStore::builder(cluster.url()).build().unwrap();
    assert!(store.wait_connected(PATIENCE).await);
    let new = Cache::builder(TieredStore::new(64 << 20, store)).hot_keys(4096).build();
    frozen.stop();
    let warmed = new.warm(100, HOUR).await;
    frozen.cont();
    println!("{warmed:?}");
    assert!(!warmed.complete && warmed.found > 0 && warmed.found == warmed.asked, "{warmed:?}");
    wait_until("it answers again", async || new.warm(100, PATIENCE).await.complete).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sealed_list_says_nothing_to_who_reads_redis() {
    use cache_layer::store::KeyRing;
    let server = RedisServer::start();
    let cache = async |secret: u8| {
        let store = RedisStore::builder(server.url()).operation_timeout(PATIENCE);
        let store = store.sealed_with(KeyRing::new([secret; 32], [secret; 32])).build().unwrap();
        assert!(store.wait_connected(PATIENCE).await);
        Cache::builder(TieredStore::new(1 << 20, store)).hot_keys(100).build()
    };
    let old = cache(1).await;
    for _ in 0..200 {
        let load = async || Ok::<_, Infallible>(1);
        old.get_or_load(("very", "secret"), load).ttl(HOUR).await.unwrap();
    }
    assert!(old.drain(PATIENCE).await);
    assert_eq!(old.leave_hot_keys().await, Ok(true));
    let records: Vec<(String, Vec<Vec<u8>>)> = server.command(&["XRANGE", "cache:hot", "-", "+"]);
    let bytes = records.iter().flat_map(|(_, fields)| fields.concat()).collect::<Vec<u8>>();
    for word in [&b"very"[..], b"secret"] {
        assert!(!bytes.windows(word.len()).any(|window| window == word));
    }
    let warmed = cache(1).await.warm(10, PATIENCE).await;
    assert_eq!((warmed.nodes, warmed.found), (1, 1), "{warmed:?}");
    let warmed = cache(2).await.warm(10, PATIENCE).await;
    assert_eq!((warmed.nodes, warmed.refused_lists, warmed.asked), (0, 1, 0), "{warmed:?}");
}

/// The lists are left without being asked for, and are gone after a while.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_leaves_its_list_by_itself() {
    let server = RedisServer::start();
    let cache = tiered(server.url()).await.build();
    wait_until("it has left a list", async || {
        value(&cache, 1).await;
        server.command::<u64>(&["XLEN", "cache:hot"]) > 0
    })
    .await;
    let life: u64 = server.command(&["PTTL", "cache:hot"]);
    assert!((1..=600_000).contains(&life), "{life}");
}
