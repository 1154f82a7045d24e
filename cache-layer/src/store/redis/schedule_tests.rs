//! Random schedules: nodes that load, invalidate and read the same key at the same time, with pauses of random length in
//! between. No read that began after an invalidation returned sees what was there before it.
//!
//! A machine that pauses for longer than a heartbeat's patience costs a connection: whoever used it then reads and stores
//! nothing, and an invalidation that was not acknowledged binds nobody.
//!
//! As a check on the check, the same schedules are run over the pattern that tutorials teach: a lock by `SET NX`, the load,
//! a `SET`. There they find stale reads.
//!
//! `SCHEDULES=100000 cargo test -p cache-layer --all-features --lib schedule -- --nocapture` runs that many: minutes.

use std::{
    env,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use redis::aio::MultiplexedConnection;
use tests::RedisServer;
use tokio::{join, task::JoinSet};

use super::RedisStore;
use crate::{
    clock::Clock,
    entry::{Deadlines, Entry, EntryId},
    key::Key,
    store::{Acquired, Committed, Contract, Fill, Lease, Lookup, Scope, Seen, StoreError, TieredStore, Writes},
    tag::Tags,
};

const NODES: usize = 3;
/// Schedules under way at one time.
const LANES: usize = 16;
const LEASE: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_schedule_reads_what_was_invalidated_from_redis() {
    let server = RedisServer::start();
    let nodes = nodes(async || Direct(connect(server.url()).await)).await;
    assert_never_stale(&run(nodes, schedules(2_000)).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_schedule_reads_what_was_invalidated_from_first_tiers() {
    let server = RedisServer::start();
    let nodes = nodes(async || Tiered(TieredStore::new(64 << 20, connect(server.url()).await))).await;
    assert_never_stale(&run(nodes, schedules(2_000)).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_schedules_find_the_pattern_of_the_tutorials_stale() {
    let server = RedisServer::start();
    let client = redis::Client::open(server.url()).unwrap();
    let nodes = nodes(async || Tutorial(client.get_multiplexed_async_connection().await.unwrap())).await;
    let counters = run(nodes, 1_000).await;
    println!("{counters:?}");
    assert!(counters.stale.into_inner() > 0);
}

fn assert_never_stale(counters: &Counters) {
    println!("{counters:?}");
    let total = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    assert_eq!(total(&counters.stale), 0);
    // It means something only if much was read, and much was overtaken.
    assert!(total(&counters.served) > total(&counters.reads) / 10);
    assert!(total(&counters.stored) > 0 && total(&counters.refused) > 0);
}

fn schedules(usually: u64) -> u64 {
    env::var("SCHEDULES").map_or(usually, |number| number.parse().expect("SCHEDULES is a number"))
}

pub(super) async fn connect(url: String) -> RedisStore {
    let store = RedisStore::builder(url).prefix("test").operation_timeout(Duration::from_secs(10)).build().unwrap();
    assert!(store.wait_connected(Duration::from_secs(10)).await, "the server does not answer");
    store
}

async fn nodes<N>(mut node: impl AsyncFnMut() -> N) -> Arc<[N]> {
    let mut nodes = Vec::new();
    for _ in 0..NODES {
        nodes.push(node().await);
    }
    nodes.into()
}

/// A node, as far as a schedule needs it. What it stores is a version.
trait Node: Send + Sync + 'static {
    type Load: Send;

    fn begin(&self, place: &Place) -> impl Future<Output = Option<Self::Load>> + Send;
    /// Whether it was stored.
    fn end(&self, place: &Place, load: Self::Load, version: u64) -> impl Future<Output = bool> + Send;
    /// Whether it was acknowledged.
    fn invalidate(&self, place: &Place, by: By) -> impl Future<Output = bool> + Send;
    fn read(&self, place: &Place) -> impl Future<Output = Option<u64>> + Send;
}

#[derive(Clone, Copy)]
pub(super) enum By {
    Key,
    Tag,
    Everything,
}

/// Where one schedule takes place: nobody else uses this key and this tag.
pub(super) struct Place {
    pub(super) key: Key,
    tags: Tags,
    /// What the entry is made from.
    pub(super) version: AtomicU64,
    /// Reads that begin now must not see less.
    pub(super) floor: AtomicU64,
}

impl Place {
    pub(super) fn new(number: u64) -> Self {
        Self {
            key: Key::new(["schedule:", &number.to_string()]),
            tags: Tags::new([format!("tag {number}")]),
            version: AtomicU64::new(0),
            floor: AtomicU64::new(0),
        }
    }
}

#[derive(Debug, Default)]
struct Counters {
    reads: AtomicU64,
    served: AtomicU64,
    stored: AtomicU64,
    refused: AtomicU64,
    stale: AtomicU64,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

async fn run<N: Node>(nodes: Arc<[N]>, schedules: u64) -> Counters {
    let (counters, next) = (Arc::new(Counters::default()), Arc::new(AtomicU64::new(0)));
    let mut lanes = JoinSet::new();
    for _ in 0..LANES {
        let (nodes, counters, next) = (nodes.clone(), counters.clone(), next.clone());
        lanes.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= schedules {
                    return;
                }
                schedule(&nodes, number, &counters).await;
            }
        });
    }
    while let Some(lane) = lanes.join_next().await {
        lane.unwrap();
    }
    Arc::into_inner(counters).expect("every lane has ended")
}

async fn schedule<N: Node>(nodes: &[N], number: u64, counters: &Counters) {
    let place = &Place::new(number);
    let node = || &nodes[fastrand::usize(..nodes.len())];
    let loader = async || {
        for _ in 0..4 {
            pause().await;
            let node = node();
            let Some(load) = node.begin(place).await else { continue };
            let version = place.version.load(Ordering::SeqCst);
            pause().await;
            let stored = node.end(place, load, version).await;
            count(if stored { &counters.stored } else { &counters.refused });
        }
    };
    let invalidator = async || {
        for _ in 0..3 {
            pause().await;
            let version = place.version.fetch_add(1, Ordering::SeqCst) + 1;
            let by = match fastrand::u8(..) {
                0 => By::Everything,
                1..128 => By::Key,
                _ => By::Tag,
            };
            if node().invalidate(place, by).await {
                place.floor.fetch_max(version, Ordering::SeqCst);
            }
        }
    };
    let reader = async || {
        for _ in 0..12 {
            pause().await;
            let floor = place.floor.load(Ordering::SeqCst);
            count(&counters.reads);
            if let Some(version) = node().read(place).await {
                count(&counters.served);
                if version < floor {
                    count(&counters.stale);
                }
            }
        }
    };
    join!(loader(), loader(), invalidator(), reader(), reader());
}

async fn pause() {
    if fastrand::u8(..8) == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    for _ in 0..fastrand::u8(..6) {
        tokio::task::yield_now().await;
    }
}

/// Reads over the connection.
struct Direct(RedisStore);

/// Reads in its first tier, too.
struct Tiered(TieredStore);

impl Node for Direct {
    type Load = Lease;

    async fn begin(&self, place: &Place) -> Option<Lease> {
        begin(&self.0, place).await
    }

    async fn end(&self, place: &Place, load: Lease, version: u64) -> bool {
        end(&self.0, place, load, version).await
    }

    async fn invalidate(&self, place: &Place, by: By) -> bool {
        invalidate(&self.0, place, by).await
    }

    async fn read(&self, place: &Place) -> Option<u64> {
        get(&self.0, &place.key).await.ok()?
    }
}

impl Node for Tiered {
    type Load = Lease;

    async fn begin(&self, place: &Place) -> Option<Lease> {
        begin(&self.0, place).await
    }

    async fn end(&self, place: &Place, load: Lease, version: u64) -> bool {
        end(&self.0, place, load, version).await
    }

    async fn invalidate(&self, place: &Place, by: By) -> bool {
        invalidate(&self.0, place, by).await
    }

    async fn read(&self, place: &Place) -> Option<u64> {
        if fastrand::bool() {
            return get(&self.0, &place.key).await.ok()?;
        }
        // What other nodes invalidated may still be on its way to this one; it comes before the reply to any question.
        get(&self.0, &Key::new(["schedule:", "nobody's"])).await.ok()?;
        match self.0.peek(&place.key) {
            Some(entry) => Some(version(&entry)),
            None => get(&self.0, &place.key).await.ok()?,
        }
    }
}

pub(super) async fn begin(store: &impl Contract, place: &Place) -> Option<Lease> {
    match store.acquire(&place.key, Seen::Unusable, LEASE).await {
        Ok(Acquired::Granted(lease)) => Some(lease),
        _ => None,
    }
}

pub(super) async fn end(store: &impl Contract, place: &Place, lease: Lease, version: u64) -> bool {
    let deadlines = Deadlines::fresh_until(Clock::system().now() + 600_000);
    let entry = Entry::new(EntryId::random(), &place.key, deadlines, Bytes::new(), version.to_string().into());
    let writes = Writes { entries: vec![(place.key.clone(), entry)], guard: None };
    store.commit(&Fill { lease, writes, tags: place.tags.clone() }).await == Ok(Committed::Stored)
}

/// Whether it was acknowledged.
pub(super) async fn invalidate(store: &impl Contract, place: &Place, by: By) -> bool {
    let scope = match by {
        By::Key => Scope::Key(&place.key),
        By::Tag => Scope::Tags(&place.tags),
        By::Everything => Scope::Everything,
    };
    store.invalidate(scope).await.is_ok()
}

/// What was found; an error if there was no reply.
pub(super) async fn get(store: &impl Contract, key: &Key) -> Result<Option<u64>, StoreError> {
    Ok(match store.get(key).await? {
        Lookup::Found(entry) => Some(version(&entry)),
        Lookup::Absent | Lookup::Rejected(..) => None,
    })
}

pub(super) fn version(entry: &Entry) -> u64 {
    str::from_utf8(entry.payload()).unwrap().parse().unwrap()
}

/// `SET lock NX`, load, `SET`, `DEL lock`; an invalidation is a `DEL`.
struct Tutorial(MultiplexedConnection);

impl Tutorial {
    async fn command<T: redis::FromRedisValue>(&self, command: &[&str]) -> T {
        let (name, arguments) = command.split_first().expect("a command");
        redis::cmd(name).arg(arguments).query_async(&mut self.0.clone()).await.unwrap()
    }
}

/// The names of the entry and of its lock.
fn names(place: &Place) -> (String, String) {
    let key = place.key.readable();
    (format!("entry:{key}"), format!("lock:{key}"))
}

impl Node for Tutorial {
    type Load = ();

    async fn begin(&self, place: &Place) -> Option<()> {
        let locked: Option<String> = self.command(&["SET", &names(place).1, "1", "NX", "PX", "5000"]).await;
        locked.map(drop)
    }

    async fn end(&self, place: &Place, (): (), version: u64) -> bool {
        let (entry, lock) = names(place);
        let () = self.command(&["SET", &entry, &version.to_string()]).await;
        let () = self.command(&["DEL", &lock]).await;
        true
    }

    async fn invalidate(&self, place: &Place, _: By) -> bool {
        let () = self.command(&["DEL", &names(place).0]).await;
        true
    }

    async fn read(&self, place: &Place) -> Option<u64> {
        self.command(&["GET", &names(place).0]).await
    }
}
