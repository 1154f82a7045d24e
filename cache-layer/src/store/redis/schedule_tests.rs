//! Random schedules: nodes that load, invalidate and read the same key at the same time, with pauses of random length, while the
//! server loses keys. A read that began after an invalidation returned never sees an older entry; after a soft invalidation or
//! the window of a ramp, it never sees one as fresh.
//!
//! A machine that pauses for longer than a heartbeat allows loses a connection: a node that used it then reads and stores
//! nothing for a while, and an invalidation that was not acknowledged guarantees nothing. A read that such a node refuses does not
//! count, and the next one comes later, so that the schedules are not over before the node is back.
//!
//! To check the check, the same schedules run over the pattern that tutorials teach: a lock by `SET NX`, the load, a `SET`. There
//! they find stale reads.
//!
//! `SCHEDULES=100000 cargo test -p cache-layer --all-features --lib schedule -- --nocapture` runs that many: minutes. In a cluster
//! they take longer, since a ban stays on its list for five seconds, and a list that is full has each further pattern swept at
//! once.

use std::{
    env,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
#[cfg(feature = "cluster")]
use futures_util::future::join_all;
use redis::{AsyncConnectionConfig, aio::MultiplexedConnection};
#[cfg(feature = "cluster")]
use tests::RedisCluster;
use tests::{RedisServer, slot};
use tokio::{join, task::JoinSet};

use super::{
    RedisStore, RedisStoreBuilder,
    wire::names::{EVERYTHING, Names},
};
use crate::{
    clock::Clock,
    entry::{Deadlines, Entry, EntryId},
    key::Key,
    pattern::Pattern,
    store::{
        Acquired, Committed, Failures, Fill, Hardness, Lease, Lookup, Scope, Seen, StoreBackend, StoreError,
        TieredStore, Writes,
    },
    tag::Tags,
};

const NODES: usize = 3;
/// The number of schedules under way at one time.
const LANES: usize = 16;
const LEASE: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_schedule_reads_what_was_invalidated_from_redis() {
    let server = RedisServer::start();
    let nodes = nodes(async || Direct(connect(server.url()).await)).await;
    assert_never_stale(&run(Fate::of(&server).await, nodes, schedules(2_000)).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_schedule_reads_what_was_invalidated_from_first_tiers() {
    let server = RedisServer::start();
    let nodes = nodes(async || Tiered(TieredStore::new(64 << 20, connect(server.url()).await))).await;
    assert_never_stale(&run(Fate::of(&server).await, nodes, schedules(2_000)).await);
}

/// Entries lie on each of three servers, and tags and bans on one of them.
#[cfg(feature = "cluster")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_schedule_reads_what_was_invalidated_from_a_cluster() {
    let cluster = RedisCluster::start(3, 0);
    let nodes = nodes(async || {
        let store = connect(cluster.url()).await;
        InOrder(Direct(store.clone()), store)
    })
    .await;
    assert_never_stale(&run(Fate::in_cluster(&cluster).await, nodes, schedules(300)).await);
}

#[cfg(feature = "cluster")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_schedule_reads_what_was_invalidated_from_first_tiers_over_a_cluster() {
    let cluster = RedisCluster::start(3, 0);
    let nodes = nodes(async || {
        let store = connect(cluster.url()).await;
        InOrder(Tiered(TieredStore::new(64 << 20, store.clone())), store)
    })
    .await;
    assert_never_stale(&run(Fate::in_cluster(&cluster).await, nodes, schedules(300)).await);
}

/// The clocks of the nodes are ten minutes apart, and each now and then does a warm start like a new process.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_schedule_reads_what_was_invalidated_from_first_tiers_that_warm_up_under_clocks_that_differ() {
    let server = RedisServer::start();
    let skew = AtomicI64::new(-600_000);
    let nodes = nodes(async || {
        let clock = Clock::skewed(skew.fetch_add(600_000, Ordering::Relaxed));
        let store = connect_with(builder(server.url()).local_clock(clock)).await;
        Warming(Tiered(TieredStore::new(64 << 20, store)))
    })
    .await;
    assert_never_stale(&run(Fate::of(&server).await, nodes, schedules(2_000)).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_schedules_find_bans_stale_that_are_taken_off_before_the_leases_are_swept() {
    let server = RedisServer::start();
    let nodes = nodes(async || Hasty(connect(server.url()).await)).await;
    // One run in three of a thousand finds none.
    let mut found = false;
    for _ in 0..20 {
        let counters = run(Fate::of(&server).await, nodes.clone(), 500).await;
        println!("{counters:?}");
        found = counters.stale.into_inner() > 0;
        if found {
            break;
        }
    }
    assert!(found);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_schedules_find_the_pattern_of_the_tutorials_stale() {
    let server = RedisServer::start();
    let nodes = nodes(async || Tutorial(plain_connection(&server).await)).await;
    let counters = run(Fate::of(&server).await, nodes, 1_000).await;
    println!("{counters:?}");
    assert!(counters.stale.into_inner() > 0);
}

fn assert_never_stale(counters: &Counters) {
    println!("{counters:?}");
    let total = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    assert_eq!(total(&counters.stale), 0);
    // The result is meaningful only if much was read, and many loads were overtaken.
    assert!(total(&counters.served) > total(&counters.reads) / 10);
    assert!(total(&counters.stored) > 0 && total(&counters.refused) > 0);
    assert!(total(&counters.softened) > 0 && total(&counters.lost) > 0);
}

fn schedules(usually: u64) -> u64 {
    env::var("SCHEDULES").map_or(usually, |number| number.parse().expect("SCHEDULES is a number"))
}

/// A store that waits as long as it can, and reads from a server that it had lost only after the usual time.
fn builder(url: String) -> RedisStoreBuilder {
    let patience = Duration::from_secs(10);
    RedisStore::builder(url).prefix("test").operation_timeout(patience).connect_timeout(patience)
}

async fn connect_with(builder: RedisStoreBuilder) -> RedisStore {
    let store = builder.build().unwrap();
    assert!(store.wait_connected(Duration::from_secs(10)).await, "the server does not answer");
    store
}

pub(super) async fn connect(url: String) -> RedisStore {
    connect_with(builder(url).lurker_at_once()).await
}

pub(super) async fn plain_connection(server: &RedisServer) -> MultiplexedConnection {
    // However long the machine pauses.
    let patient = AsyncConnectionConfig::new().set_response_timeout(None);
    let client = redis::Client::open(server.url()).unwrap();
    client.get_multiplexed_async_connection_with_config(&patient).await.unwrap()
}

async fn nodes<N>(mut node: impl AsyncFnMut() -> N) -> Arc<[N]> {
    let mut nodes = Vec::new();
    for _ in 0..NODES {
        nodes.push(node().await);
    }
    nodes.into()
}

/// The operations of a node in a schedule. It stores a version.
trait Node: Send + Sync + 'static {
    type Load: Send;

    fn begin(&self, place: &Place) -> impl Future<Output = Option<Self::Load>> + Send;
    /// Whether it was stored.
    fn end(&self, place: &Place, load: Self::Load, version: u64) -> impl Future<Output = bool> + Send;
    /// Whether it was acknowledged.
    fn invalidate(&self, place: &Place, by: By) -> impl Future<Output = bool> + Send;
    /// The same, for a soft invalidation over this window; there is none for a pattern that is swept.
    fn soften(&self, place: &Place, by: By, window: Duration) -> impl Future<Output = bool> + Send;
    /// An error if there was no answer.
    fn read(&self, place: &Place) -> impl Future<Output = Result<Option<Answer>, StoreError>> + Send;
}

/// How long to wait after a read without an answer.
pub(super) const REFUSED: Duration = Duration::from_millis(100);

struct Answer {
    version: u64,
    softened: bool,
}

impl From<&Entry> for Answer {
    fn from(entry: &Entry) -> Self {
        let softened = entry.clone().seen_at(|| Clock::system().now()).is_soft_invalidated();
        Self { version: version(entry), softened }
    }
}

#[derive(Clone, Copy)]
pub(super) enum By {
    Key,
    Tag,
    /// The pattern is swept before this returns.
    Pattern,
    /// The pattern is banned, and swept later.
    Ban,
    Everything,
}

/// The key and the tag of one schedule, which no other schedule uses.
pub(super) struct Place {
    pub(super) key: Key,
    tags: Tags,
    pattern: Pattern,
    /// The source of the entry.
    pub(super) version: AtomicU64,
    /// The lowest version that reads may see from now on.
    pub(super) floor: AtomicU64,
    /// The lowest version that they may see as fresh.
    fresh_floor: AtomicU64,
}

impl Place {
    pub(super) fn new(number: u64) -> Self {
        Self {
            key: Key::new(["schedule:", &number.to_string()]),
            tags: Tags::new([format!("tag {number}")]),
            pattern: Pattern::new(&format!("sched*:{number}")),
            version: AtomicU64::new(0),
            floor: AtomicU64::new(0),
            fresh_floor: AtomicU64::new(0),
        }
    }

    /// The names of all keys that the server has for this schedule.
    fn names(&self, names: &Names) -> [String; 3] {
        [names.entry(&self.key), names.lease(&self.key), names.tag(self.tags.iter().next().expect("a tag"))]
    }
}

#[derive(Debug, Default)]
struct Counters {
    /// Those that were answered.
    reads: AtomicU64,
    unanswered: AtomicU64,
    served: AtomicU64,
    stored: AtomicU64,
    refused: AtomicU64,
    softened: AtomicU64,
    lost: AtomicU64,
    stale: AtomicU64,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

async fn run<N: Node>(fate: Fate, nodes: Arc<[N]>, schedules: u64) -> Counters {
    let (counters, next) = (Arc::new(Counters::default()), Arc::new(AtomicU64::new(0)));
    let mut lanes = JoinSet::new();
    for _ in 0..LANES {
        let (nodes, fate, counters, next) = (nodes.clone(), fate.clone(), counters.clone(), next.clone());
        lanes.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= schedules {
                    return;
                }
                schedule(&nodes, &fate, number, &counters).await;
            }
        });
    }
    while let Some(lane) = lanes.join_next().await {
        lane.unwrap();
    }
    Arc::into_inner(counters).expect("every lane has ended")
}

/// The failure of servers: keys are evicted at random.
#[derive(Clone)]
struct Fate {
    names: Arc<Names>,
    /// Those of a cluster share the slots evenly, in this order.
    servers: Vec<MultiplexedConnection>,
}

impl Fate {
    async fn of(server: &RedisServer) -> Self {
        Self { names: Names::new("test").into(), servers: vec![plain_connection(server).await] }
    }

    #[cfg(feature = "cluster")]
    async fn in_cluster(cluster: &RedisCluster) -> Self {
        let servers = join_all(cluster.primaries().iter().map(plain_connection)).await;
        Self { names: Names::clustered("test").into(), servers }
    }

    /// Whether there was anything to evict.
    async fn strike(&self, place: &Place) -> bool {
        let [entry, lease, tag] = place.names(&self.names);
        let victim = match fastrand::u8(..) {
            0 => self.names.tag(EVERYTHING),
            1..8 => self.names.last_invalidation(),
            8..24 => entry,
            24..40 => lease,
            40..128 => tag,
            _ => return false,
        };
        self.unlink(&victim).await
    }

    /// Whether it was there.
    async fn unlink(&self, name: &str) -> bool {
        let mut server = self.servers[((usize::from(slot(name)) + 1) * self.servers.len() - 1) / 16_384].clone();
        redis::cmd("UNLINK").arg(name).query_async::<u64>(&mut server).await.unwrap() > 0
    }
}

async fn schedule<N: Node>(nodes: &[N], fate: &Fate, number: u64, counters: &Counters) {
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
                1..80 => By::Key,
                80..160 => By::Tag,
                160..240 => By::Ban,
                _ => By::Pattern,
            };
            let soft = !matches!(by, By::Pattern) && fastrand::u8(..3) == 0;
            let window = Duration::from_millis(if fastrand::bool() { 0 } else { fastrand::u64(1..4) });
            if soft && node().soften(place, by, window).await {
                if !window.is_zero() {
                    // The turn of the key is within it.
                    tokio::time::sleep(window + Duration::from_millis(1)).await;
                }
                place.fresh_floor.fetch_max(version, Ordering::SeqCst);
            } else if !soft && node().invalidate(place, by).await {
                place.floor.fetch_max(version, Ordering::SeqCst);
            }
        }
    };
    let reader = async || {
        for _ in 0..12 {
            pause().await;
            let [floor, fresh] = [&place.floor, &place.fresh_floor].map(|floor| floor.load(Ordering::SeqCst));
            let Ok(read) = node().read(place).await else {
                count(&counters.unanswered);
                tokio::time::sleep(REFUSED).await;
                continue;
            };
            count(&counters.reads);
            if let Some(Answer { version, softened }) = read {
                count(if softened { &counters.softened } else { &counters.served });
                if version < floor || (!softened && version < fresh) {
                    count(&counters.stale);
                }
            }
        }
    };
    let loser = async || {
        for _ in 0..2 {
            pause().await;
            if fate.strike(place).await {
                count(&counters.lost);
            }
        }
    };
    join!(loader(), loader(), invalidator(), loser(), reader(), reader());
    // A pattern examines all keys, so earlier ones slow it down.
    for name in place.names(&fate.names) {
        fate.unlink(&name).await;
    }
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

/// Also reads in the first tier.
struct Tiered(TieredStore);

/// The same, and entries may also be read by a warm start.
struct Warming(Tiered);

impl Node for Warming {
    type Load = Lease;

    async fn begin(&self, place: &Place) -> Option<Lease> {
        self.0.begin(place).await
    }

    async fn end(&self, place: &Place, load: Lease, version: u64) -> bool {
        self.0.end(place, load, version).await
    }

    async fn invalidate(&self, place: &Place, by: By) -> bool {
        self.0.invalidate(place, by).await
    }

    async fn soften(&self, place: &Place, by: By, window: Duration) -> bool {
        self.0.soften(place, by, window).await
    }

    async fn read(&self, place: &Place) -> Result<Option<Answer>, StoreError> {
        // Beside the read, as requests that come before it is done.
        let Self(Tiered(store)) = self;
        let keys = [Key::new(["schedule: none"]), place.key.clone()];
        let warm = async {
            if fastrand::bool() {
                store.get_many(&keys).await;
            }
        };
        join!(self.0.read(place), warm).0
    }
}

/// A node of a cluster. What one server has pushed may still be on its way when another one answers: how long that takes is what
/// the cluster's bound is about. These nodes read only once they have received what was pushed before.
#[cfg(feature = "cluster")]
struct InOrder<N>(N, RedisStore);

#[cfg(feature = "cluster")]
impl<N: Node> Node for InOrder<N> {
    type Load = N::Load;

    async fn begin(&self, place: &Place) -> Option<N::Load> {
        self.0.begin(place).await
    }

    async fn end(&self, place: &Place, load: N::Load, version: u64) -> bool {
        self.0.end(place, load, version).await
    }

    async fn invalidate(&self, place: &Place, by: By) -> bool {
        self.0.invalidate(place, by).await
    }

    async fn soften(&self, place: &Place, by: By, window: Duration) -> bool {
        self.0.soften(place, by, window).await
    }

    async fn read(&self, place: &Place) -> Result<Option<Answer>, StoreError> {
        let sessions = self.1.0.topology.all().into_iter().filter_map(|connection| connection.session().ok());
        join_all(sessions.map(async |session| {
            let answered: Result<(), _> = redis::cmd("PING").query_async(&mut session.driver()).await;
            answered.map_err(|_| StoreError::Unavailable)
        }))
        .await
        .into_iter()
        .collect::<Result<Vec<()>, StoreError>>()?;
        self.0.read(place).await
    }
}

/// Deletes the entry that a ban covers, and takes the ban off the list, even during loads.
struct Hasty(RedisStore);

impl Node for Hasty {
    type Load = Lease;

    async fn begin(&self, place: &Place) -> Option<Lease> {
        begin(&self.0, place).await
    }

    async fn end(&self, place: &Place, load: Lease, version: u64) -> bool {
        end(&self.0, place, load, version).await
    }

    async fn invalidate(&self, place: &Place, _: By) -> bool {
        invalidate(&self.0, place, By::Ban).await && self.0.take_off_hastily(&place.key).await
    }

    async fn soften(&self, place: &Place, by: By, _: Duration) -> bool {
        self.invalidate(place, by).await
    }

    async fn read(&self, place: &Place) -> Result<Option<Answer>, StoreError> {
        read(&self.0, &place.key).await
    }
}

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

    async fn soften(&self, place: &Place, by: By, window: Duration) -> bool {
        soften(&self.0, place, by, window).await
    }

    async fn read(&self, place: &Place) -> Result<Option<Answer>, StoreError> {
        read(&self.0, &place.key).await
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

    async fn soften(&self, place: &Place, by: By, window: Duration) -> bool {
        soften(&self.0, place, by, window).await
    }

    async fn read(&self, place: &Place) -> Result<Option<Answer>, StoreError> {
        if fastrand::bool() {
            return read(&self.0, &place.key).await;
        }
        // Invalidations by other nodes may still be on their way to this one; they arrive before the reply to any command.
        get(&self.0, &Key::new(["schedule:", "nobody's"])).await?;
        match self.0.peek(&place.key) {
            Some(entry) => Ok(Some(Answer::from(&entry))),
            None => read(&self.0, &place.key).await,
        }
    }
}

pub(super) async fn begin(store: &impl StoreBackend, place: &Place) -> Option<Lease> {
    match store.acquire(&place.key, Seen::Unusable, LEASE, Failures::Heed).await {
        Ok(Acquired::Granted(lease)) => Some(lease),
        _ => None,
    }
}

pub(super) async fn end(store: &impl StoreBackend, place: &Place, lease: Lease, version: u64) -> bool {
    let deadlines = Deadlines::fresh_until(Clock::system().now() + 600_000);
    let entry = Entry::new(EntryId::random(), &place.key, deadlines, Bytes::new(), version.to_string().into());
    let writes = Writes { entries: vec![(place.key.clone(), entry)].into(), guard: None };
    store.commit(&Fill { lease, writes, tags: place.tags.clone() }).await == Ok(Committed::Stored)
}

/// Whether it was acknowledged.
pub(super) async fn invalidate(store: &impl StoreBackend, place: &Place, by: By) -> bool {
    match scope(place, by) {
        Some(scope) => store.invalidate(scope, Hardness::Hard).await.is_ok(),
        None => store.delete_matching(&place.pattern).await.is_ok(),
    }
}

async fn soften(store: &impl StoreBackend, place: &Place, by: By, window: Duration) -> bool {
    let hardness = if window.is_zero() { Hardness::Soft } else { Hardness::Ramp(window) };
    store.invalidate(scope(place, by).expect("no pattern that is swept"), hardness).await.is_ok()
}

fn scope(place: &Place, by: By) -> Option<Scope<'_>> {
    match by {
        By::Key => Some(Scope::Key(&place.key)),
        By::Tag => Some(Scope::Tags(&place.tags)),
        By::Everything => Some(Scope::Everything),
        By::Ban => Some(Scope::Pattern(&place.pattern)),
        By::Pattern => None,
    }
}

async fn read(store: &impl StoreBackend, key: &Key) -> Result<Option<Answer>, StoreError> {
    Ok(match store.get(key).await? {
        Lookup::Found(entry) => Some(Answer::from(&entry)),
        Lookup::Absent | Lookup::Rejected(..) => None,
    })
}

/// The result of a read; an error if there was no reply.
pub(super) async fn get(store: &impl StoreBackend, key: &Key) -> Result<Option<u64>, StoreError> {
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

    async fn soften(&self, place: &Place, by: By, _: Duration) -> bool {
        self.invalidate(place, by).await
    }

    async fn read(&self, place: &Place) -> Result<Option<Answer>, StoreError> {
        let version: Option<u64> = self.command(&["GET", &names(place).0]).await;
        Ok(version.map(|version| Answer { version, softened: false }))
    }
}
