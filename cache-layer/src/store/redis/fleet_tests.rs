//! What only a store on a server has to guarantee: coherence between nodes, and its promises when the server fails.

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::future::join_all;
use tests::{Fault, FaultProxy, RedisServer, wait_until};

use super::*;
use crate::{
    clock::Clock,
    entry::{Deadlines, EntryId},
    pattern::Pattern,
    store::{TieredStore, Writes},
    sync::Mutex,
    tag::Tags,
    telemetry::{Event, Observer, Rejection},
};

pub(super) const LEASE: Duration = Duration::from_secs(5);
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// The events of invalidations.
#[derive(Clone, Default)]
pub(super) struct Heard(pub(super) Arc<Mutex<Vec<Event>>>);

impl Observer for Heard {
    fn observe(&self, event: Event) {
        if matches!(event, Event::Invalidation { .. }) {
            self.0.lock().push(event);
        }
    }
}

/// A store that never waits for an unreachable server, and reads from it as soon as it is back.
pub(super) fn builder(url: String) -> RedisStoreBuilder {
    let builder = RedisStore::builder(url).prefix("test");
    let builder = builder.operation_timeout(Duration::from_secs(5)).connect_timeout(PATIENCE);
    builder.delivery_timeout(Duration::ZERO).settle_time(Duration::ZERO)
}

pub(super) async fn connect(url: String) -> RedisStore {
    connect_with(builder(url)).await
}

pub(super) async fn connect_with(builder: RedisStoreBuilder) -> RedisStore {
    let store = builder.build().unwrap();
    assert!(store.wait_connected(PATIENCE).await, "the server does not answer");
    store
}

pub(super) async fn lose(store: &RedisStore) {
    wait_until("the loss to be noticed", async || !store.connected()).await;
}

pub(super) async fn connected_again(store: &RedisStore) {
    wait_until("the connection to be back", async || store.connected()).await;
}

/// Kills the server, and starts it again with the data that it last saved, or empty if there is none.
pub(super) async fn restart(server: &mut RedisServer, stores: &[&RedisStore]) {
    server.kill();
    for store in stores {
        lose(store).await;
    }
    server.restart();
    for store in stores {
        assert!(store.wait_connected(PATIENCE).await);
    }
}

pub(super) fn key(name: &str) -> Key {
    Key::new(["redis:", name])
}

pub(super) async fn fill(store: &(impl StoreBackend + ?Sized), key: &Key, payload: &str, tags: &[&str]) -> Committed {
    loop {
        match store.acquire(key, Seen::Unusable, LEASE, Failures::Heed).await.unwrap() {
            Acquired::Granted(lease) => return commit(store, lease, payload, tags).await,
            // Another node's look-up may hold it for a moment.
            Acquired::Held => tokio::time::sleep(Duration::from_millis(2)).await,
            other => panic!("no lease: {other:?}"),
        }
    }
}

pub(super) async fn commit(
    store: &(impl StoreBackend + ?Sized),
    lease: Lease,
    payload: &str,
    tags: &[&str],
) -> Committed {
    store.commit(&loaded(lease, payload, tags)).await.unwrap()
}

/// The result of a load.
pub(super) fn loaded(lease: Lease, payload: &str, tags: &[&str]) -> Fill {
    let key = lease.key.clone();
    let deadlines = Deadlines::fresh_until(Clock::system().now() + 600_000);
    let payload = Bytes::copy_from_slice(payload.as_bytes());
    let entry = Entry::new(EntryId::random(), &key, deadlines, Bytes::new(), payload);
    Fill { lease, writes: Writes { entries: vec![(key, entry)].into(), guard: None }, tags: Tags::new(tags) }
}

pub(super) async fn read(store: &(impl StoreBackend + ?Sized), key: &Key) -> Option<String> {
    if let Some(entry) = store.peek(key) {
        return Some(String::from_utf8(entry.payload().to_vec()).unwrap());
    }
    match store.get(key).await.unwrap() {
        Lookup::Found(entry) => Some(String::from_utf8(entry.payload().to_vec()).unwrap()),
        Lookup::Absent | Lookup::Rejected(..) => None,
    }
}

pub(super) async fn invalidate_tag(store: &(impl StoreBackend + ?Sized), tag: &str) -> Result<(), StoreError> {
    store.invalidate(Scope::Tags(&Tags::new([tag])), Hardness::Hard).await.map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invalidation_by_one_node_is_seen_by_the_next_read_of_another() {
    let server = RedisServer::start();
    let (writer, reader) = (connect(server.url()).await, connect(server.url()).await);
    for round in 0..2_000 {
        fill(&writer, &key("a"), &round.to_string(), &["t"]).await;
        // The second read finds the tag's token in the reader's own table.
        for _ in 0..2 {
            assert_eq!(read(&reader, &key("a")).await.unwrap(), round.to_string());
        }
        invalidate_tag(&writer, "t").await.unwrap();
        assert_eq!(read(&reader, &key("a")).await, None, "round {round}");
    }
}

/// The load has gone on meanwhile: its answer has come.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_whose_renewal_is_left_half_way_stands() {
    let server = RedisServer::start();
    let mut road = FaultProxy::start(server.addr()).await;
    let store = connect(format!("redis://{}", road.addr())).await;
    // The server's answers take twice as long. It is asked to renew the lease, and then for the lease.
    road.set(Fault::Delay(Duration::from_millis(100))).await;
    for left_after in [50, 150, 250, 350] {
        let (name, life) = (key(&left_after.to_string()), Duration::from_secs(600));
        let acquired = StoreBackend::acquire(&store, &name, Seen::Unusable, life, Failures::Heed).await.unwrap();
        let Acquired::Granted(lease) = acquired else { panic!("no lease") };
        assert!(!store.overtaken(&lease));
        let renewal = StoreBackend::renew(&store, &lease, life);
        let _ = tokio::time::timeout(Duration::from_millis(left_after), renewal).await;
        // Until the renewal is over, its own push leaves that open.
        tokio::time::sleep(Duration::from_millis(150)).await;
        wait_until("it to stand", async || !store.overtaken(&lease)).await;
    }
}

/// This makes it safe to join a load under way: a reader that comes after an invalidation knows of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_read_after_an_invalidation_by_another_node_knows_that_a_lease_is_overtaken() {
    let server = RedisServer::start();
    let (node, other) = (connect(server.url()).await, connect(server.url()).await);
    fill(&node, &key("a"), "one", &["t"]).await;
    let tags = Tags::new(["t"]);
    for round in 0..300 {
        for place in [key("a"), key("a").variant(b"de")] {
            for scope in [Scope::Key(&key("a")), Scope::Tags(&tags), Scope::Everything] {
                let Acquired::Granted(lease) =
                    node.acquire(&place, Seen::Unusable, LEASE, Failures::Heed).await.unwrap()
                else {
                    panic!("no lease")
                };
                if round % 10 == 0 {
                    assert!(node.renew(&lease, LEASE).await.unwrap());
                }
                assert!(!node.overtaken(&lease), "round {round}: {scope:?} is still to come");
                other.invalidate(scope, Hardness::Hard).await.unwrap();
                node.get(&key("a")).await.unwrap();
                assert!(node.overtaken(&lease), "round {round}: {scope:?}");
                // The next round begins with an entry and without a lease.
                let _: i64 = server.command(&["DEL", &node.0.context.names.lease(&place)]);
                fill(&other, &key("a"), "two", &["t"]).await;
                node.get(&key("a")).await.unwrap();
            }
        }
    }
}

/// The first connection notes that nothing was invalidated yet: if a lease noted it, that would look like an invalidation.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_lease_on_an_empty_server_is_not_overtaken() {
    let server = RedisServer::start();
    let store = connect(server.url()).await;
    let Acquired::Granted(lease) = store.acquire(&key("a"), Seen::Nothing, LEASE, Failures::Heed).await.unwrap() else {
        panic!("no lease")
    };
    // The effects of the lease have arrived by the time of this reply.
    assert_eq!(read(&store, &key("b")).await, None);
    assert!(!store.overtaken(&lease));
}

/// The server's push of the end of the one may arrive when the other has been asked for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_follows_another_one_is_not_overtaken() {
    let server = RedisServer::start();
    let store = connect(server.url()).await;
    for round in 0..2_000 {
        let lease = loop {
            match store.acquire(&key("a"), Seen::Nothing, LEASE, Failures::Heed).await.unwrap() {
                Acquired::Granted(lease) => break lease,
                // The one before has not been given back yet.
                Acquired::Held => {}
                other => panic!("{other:?}"),
            }
        };
        assert!(!store.overtaken(&lease), "round {round}");
        store.release(&lease, None);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_of_a_connection_that_is_gone_is_overtaken() {
    let server = RedisServer::start();
    let store = connect(server.url()).await;
    fill(&store, &key("b"), "one", &[]).await;
    // What is over by itself can't be renewed.
    let life = Duration::from_secs(60);
    let Acquired::Granted(lease) = store.acquire(&key("a"), Seen::Nothing, life, Failures::Heed).await.unwrap() else {
        panic!("no lease")
    };
    assert!(!store.overtaken(&lease));
    assert!(server.command::<i64>(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]) > 0);
    wait_until("a new connection", async || store.overtaken(&lease) && store.connected()).await;
    wait_until("the lease to be renewed", async || store.renew(&lease, life).await == Ok(true)).await;
    assert!(store.overtaken(&lease), "and nobody knows what happened in between");
}

/// A lease on `a` that one node holds, and another node that waits for it and hardly polls.
struct Waiting {
    server: RedisServer,
    holder: RedisStore,
    waiter: RedisStore,
}

impl Waiting {
    /// So that the wait is not ended by the end of the lease.
    const LONG: Duration = Duration::from_secs(600);

    async fn new() -> Self {
        let server = RedisServer::builder().config("enable-debug-command local").start();
        let (holder, waiter) = (connect(server.url()).await, connect(server.url()).await);
        waiter.connection(&key("a")).session().unwrap().waiters.hardly_poll();
        Self { server, holder, waiter }
    }

    async fn lease(&self, ttl: Duration) -> Lease {
        loop {
            // The push that ended the last wait may still be on its way.
            match self.holder.acquire(&key("a"), Seen::Unusable, ttl, Failures::Heed).await {
                Ok(Acquired::Granted(lease)) => return lease,
                _ => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    }

    async fn begin(&self) -> tokio::task::JoinHandle<()> {
        let session = self.waiter.connection(&key("a")).session().unwrap();
        let before: i64 = self.tracked();
        let waiter = self.waiter.clone();
        let task = tokio::spawn(async move { waiter.lease_ended(&key("a")).await });
        wait_until("the waiter to wait", async || session.waiters.len() == 1 && self.tracked() > before).await;
        task
    }

    /// Pairs of key and client that the server tracks.
    fn tracked(&self) -> i64 {
        let info: String = self.server.command(&["INFO", "stats"]);
        info.lines().find_map(|line| line.strip_prefix("tracking_total_items:")?.parse().ok()).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_another_nodes_lease_is_woken_by_a_push() {
    let nodes = Waiting::new().await;
    for end in ["commit", "release", "invalidation", "expiry", "loss of the connection"] {
        let lease = nodes.lease(Waiting::LONG).await;
        let waiter = nodes.begin().await;
        assert!(!waiter.is_finished());
        match end {
            "commit" => {
                assert_eq!(commit(&nodes.holder, lease, "one", &[]).await, Committed::Stored);
            }
            "release" => nodes.holder.release(&lease, None),
            "invalidation" => nodes.holder.invalidate(Scope::Key(&key("a")), Hardness::Hard).await.map(drop).unwrap(),
            "expiry" => {
                let name = nodes.holder.0.context.names.lease(&key("a"));
                assert_eq!(nodes.server.command::<i64>(&["PEXPIRE", &name, "1"]), 1);
            }
            _ => assert!(nodes.server.command::<i64>(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]) > 0),
        }
        tokio::time::timeout(PATIENCE, waiter).await.expect(end).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_does_so_no_longer_than_the_lease_can_last() {
    let nodes = Waiting::new().await;
    // Longer than it takes to begin to wait, and less than this test waits.
    nodes.lease(PATIENCE / 2).await;
    // As if pushes were lost, and the server late to expire keys that are not read.
    let _: String = nodes.server.command(&["DEBUG", "SET-ACTIVE-EXPIRE", "0"]);
    let waiter = nodes.begin().await;
    tokio::time::timeout(PATIENCE, waiter).await.expect("the lease has run out").unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_push_wakes_all_who_wait_and_leaves_nothing_behind() {
    let nodes = Waiting::new().await;
    let lease = nodes.lease(Waiting::LONG).await;
    let waiters: Vec<_> = (0..100).map(|_| nodes.waiter.clone()).collect();
    let mut tasks = tokio::task::JoinSet::new();
    for waiter in waiters {
        tasks.spawn(async move { waiter.lease_ended(&key("a")).await });
    }
    let session = nodes.waiter.connection(&key("a")).session().unwrap();
    wait_until("somebody to wait", async || session.waiters.len() == 1).await;
    nodes.holder.release(&lease, None);
    tokio::time::timeout(PATIENCE, tasks.join_all()).await.expect("all to be woken");
    assert_eq!(session.waiters.len(), 0);

    let lease = nodes.lease(Waiting::LONG).await;
    let leaver = nodes.begin().await;
    leaver.abort();
    wait_until("the one who left to be forgotten", async || session.waiters.len() == 0).await;
    nodes.holder.release(&lease, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_tracking_is_refused_who_waits_polls() {
    let server = RedisServer::start();
    let _: String =
        server.command(&["ACL", "SETUSER", "cache", "on", ">secret", "~test:*", "+@all", "-client|tracking"]);
    let waiter = connect(server.url().replace("redis://", "redis://cache:secret@")).await;
    let holder = connect(server.url()).await;
    let Acquired::Granted(lease) = holder.acquire(&key("a"), Seen::Nothing, LEASE, Failures::Heed).await.unwrap()
    else {
        panic!("no lease")
    };
    let waiting = async {
        while matches!(waiter.acquire(&key("a"), Seen::Nothing, LEASE, Failures::Heed).await.unwrap(), Acquired::Held) {
            waiter.lease_ended(&key("a")).await;
        }
    };
    let release = async { holder.release(&lease, None) };
    tokio::time::timeout(PATIENCE, async { tokio::join!(waiting, release) }).await.expect("the waiter to notice");
}

/// How long after a commit a waiter of another node continues: `cargo test --release wake_up -- --ignored --nocapture`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn wake_up_after_a_commit_takes_less_than_five_milliseconds() {
    let nodes = Waiting::new().await;
    let mut taken = Vec::new();
    for _ in 0..1_000 {
        let lease = nodes.lease(LEASE).await;
        let waiter = nodes.waiter.clone();
        let waiter = tokio::spawn(async move {
            waiter.lease_ended(&key("a")).await;
            Instant::now()
        });
        tokio::time::sleep(Duration::from_millis(3)).await;
        assert_eq!(commit(&nodes.holder, lease, "one", &[]).await, Committed::Stored);
        let committed = Instant::now();
        taken.push(waiter.await.unwrap().saturating_duration_since(committed));
    }
    taken.sort_unstable();
    let at = |share: usize| taken[taken.len() * share / 1_000 - 1];
    println!("woken after the commit returned: p50 {:?}, p99 {:?}, longest {:?}", at(500), at(990), at(1_000));
    assert!(at(990) < Duration::from_millis(5));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_tier_lets_go_of_what_another_node_changes() {
    let server = RedisServer::start();
    let writer = connect(server.url()).await;
    let reader = TieredStore::new(1 << 20, connect(server.url()).await);
    let is_near = || reader.peek(&key("a")).is_some();
    for change in ["key", "tag", "everything", "another fill", "expiry"] {
        fill(&writer, &key("a"), "one", &["t"]).await;
        assert_eq!(read(&reader, &key("a")).await.unwrap(), "one");
        wait_until("the entry to be near", async || read(&reader, &key("a")).await.is_some() && is_near()).await;
        match change {
            "key" => writer.invalidate(Scope::Key(&key("a")), Hardness::Hard).await.map(drop).unwrap(),
            "tag" => invalidate_tag(&writer, "t").await.unwrap(),
            "everything" => writer.invalidate(Scope::Everything, Hardness::Hard).await.map(drop).unwrap(),
            "another fill" => {
                fill(&writer, &key("a"), "two", &["t"]).await;
            }
            _ => {
                let name = writer.0.context.names.entry(&key("a"));
                assert_eq!(server.command::<i64>(&["PEXPIRE", &name, "1"]), 1);
            }
        }
        wait_until(change, async || !is_near()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_tier_is_void_while_nobody_could_say_what_changed() {
    let server = RedisServer::start();
    let mut proxy = FaultProxy::start(server.addr()).await;
    let reader = TieredStore::new(1 << 20, connect(format!("redis://{}", proxy.addr())).await);
    fill(&reader, &key("a"), "one", &[]).await;
    wait_until("the entry to be near", async || {
        read(&reader, &key("a")).await.is_some() && reader.peek(&key("a")).is_some()
    })
    .await;
    proxy.set(Fault::BlackHole).await;
    wait_until("the first tier to be void", async || reader.peek(&key("a")).is_none()).await;
    proxy.set(Fault::Pass).await;
    wait_until("the entry to be read again", async || matches!(reader.get(&key("a")).await, Ok(Lookup::Found(_))))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_while_an_entry_is_being_read_wins_over_the_read() {
    let server = RedisServer::start();
    let redis = connect(server.url()).await;
    let reader = TieredStore::new(1 << 20, redis.clone());
    fill(&reader, &key("a"), "one", &[]).await;
    let Lookup::Found(entry) = redis.get(&key("a")).await.unwrap() else { panic!("not found") };
    let (local_tier, session) = (redis.local_tier_or_init(0), redis.connection(&key("a")).session().unwrap());
    for pushed in [false, true] {
        local_tier.void(key("a").id());
        let read = local_tier.begin_read(&key("a"));
        if pushed {
            local_tier.void(key("a").id());
        }
        read.complete(session.number, &entry);
        assert_eq!(reader.peek(&key("a")).is_some(), !pushed);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invalidation_that_could_not_be_delivered_is_kept_and_delivered_first() {
    let server = RedisServer::start();
    let mut proxy = FaultProxy::start(server.addr()).await;
    let store = connect(format!("redis://{}", proxy.addr())).await;
    let other = connect(server.url()).await;
    for name in ["by tag", "by key", "untouched"] {
        fill(&store, &key(name), "old", &[name]).await;
    }
    proxy.set(Fault::Cut).await;
    wait_until("the connection to be lost", async || !store.connected()).await;
    assert!(invalidate_tag(&store, "by tag").await.is_err());
    assert!(store.invalidate(Scope::Key(&key("by key")), Hardness::Hard).await.is_err());
    assert_eq!(read(&other, &key("by tag")).await.unwrap(), "old", "it can't have arrived yet");

    proxy.set(Fault::Pass).await;
    assert!(store.wait_connected(PATIENCE).await);
    // Not "after a while": with the first operation that succeeds.
    for store in [&store, &other] {
        assert_eq!(read(store, &key("by tag")).await, None);
        assert_eq!(read(store, &key("by key")).await, None);
        assert_eq!(read(store, &key("untouched")).await.unwrap(), "old");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_that_an_undelivered_invalidation_overtook_is_not_stored() {
    let server = RedisServer::start();
    let mut proxy = FaultProxy::start(server.addr()).await;
    let store = connect(format!("redis://{}", proxy.addr())).await;
    let Acquired::Granted(lease) =
        store.acquire(&key("a"), Seen::Nothing, Duration::from_secs(60), Failures::Heed).await.unwrap()
    else {
        panic!("no lease")
    };
    proxy.set(Fault::Cut).await;
    wait_until("the connection to be lost", async || !store.connected()).await;
    invalidate_tag(&store, "t").await.unwrap_err();
    proxy.set(Fault::Pass).await;
    assert!(store.wait_connected(PATIENCE).await);
    let deadlines = Deadlines::fresh_until(Clock::system().now() + 600_000);
    let entry = Entry::new(EntryId::random(), &key("a"), deadlines, Bytes::new(), Bytes::from_static(b"old"));
    let writes = Writes { entries: vec![(key("a"), entry)].into(), guard: None };
    let committed = StoreBackend::commit(&store, &Fill { lease, writes, tags: Tags::new(["t"]) }).await.unwrap();
    assert_eq!(committed, Committed::Refused);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scripts_that_the_server_forgot_are_given_to_it_again() {
    let server = RedisServer::start();
    let store = connect(server.url()).await;
    for _ in 0..3 {
        let () = server.command(&["SCRIPT", "FLUSH"]);
        assert_eq!(fill(&store, &key("a"), "one", &["t"]).await, Committed::Stored);
        let () = server.command(&["SCRIPT", "FLUSH"]);
        invalidate_tag(&store, "t").await.unwrap();
        assert_eq!(read(&store, &key("a")).await, None);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_emptied_server_is_an_empty_cache() {
    let server = RedisServer::start();
    let store = TieredStore::new(1 << 20, connect(server.url()).await);
    for round in 0..5 {
        assert_eq!(fill(&store, &key("a"), "one", &["t"]).await, Committed::Stored, "round {round}");
        assert_eq!(read(&store, &key("a")).await.unwrap(), "one");
        server.flushall();
        wait_until("the entry to be gone", async || read(&store, &key("a")).await.is_none()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_tracking_is_refused_tags_are_right_all_the_same() {
    let server = RedisServer::start();
    let () = server.command(&[
        "ACL",
        "SETUSER",
        "plain",
        "on",
        ">secret",
        "~*",
        "&*",
        "+@all",
        "-client|tracking",
        "-client|caching",
    ]);
    let url = server.url().replace("redis://", "redis://plain:secret@");
    let (writer, reader) = (connect(server.url()).await, TieredStore::new(1 << 20, connect(url).await));
    for round in 0..100 {
        fill(&writer, &key("a"), &round.to_string(), &["t"]).await;
        assert_eq!(read(&reader, &key("a")).await.unwrap(), round.to_string());
        assert!(reader.peek(&key("a")).is_none(), "nobody would say when it changes");
        invalidate_tag(&writer, "t").await.unwrap();
        assert_eq!(read(&reader, &key("a")).await, None);
    }
}

/// Neither where nobody says what changes, nor while bans come and go.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ban_costs_next_to_no_hit_of_an_entry_that_it_does_not_cover() {
    let server = RedisServer::start();
    let () = server.command(&["ACL", "SETUSER", "plain", "on", ">secret", "~*", "&*", "+@all", "-client|tracking"]);
    let untracked = connect(server.url().replace("redis://", "redis://plain:secret@")).await;
    let (writer, tracked) = (connect(server.url()).await, connect(server.url()).await);
    let keys: Vec<Key> = (0..100).map(|number| key(&format!("old {number}"))).collect();
    for key in &keys {
        fill(&writer, key, "old", &["t"]).await;
    }
    let ban = async |number: usize| {
        let pattern = Pattern::new(&format!("contract:other {number}:*"));
        writer.invalidate(Scope::Pattern(&pattern), Hardness::Hard).await.unwrap();
    };
    ban(0).await;
    for key in &keys {
        assert_eq!(read(&untracked, key).await.as_deref(), Some("old"), "{key}");
    }
    let (over, missed, hits) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    let (missed, hits, over, keys) = (&missed, &hits, &over, &keys);
    let reads = join_all((0..64).map(|_| async {
        while !over.load(Ordering::Relaxed) {
            let found = read(&tracked, &keys[fastrand::usize(..keys.len())]).await.is_some();
            if found { hits } else { missed }.fetch_add(1, Ordering::Relaxed);
        }
    }));
    let bans = async {
        for number in 1..40 {
            ban(number).await;
            let reads = || missed.load(Ordering::Relaxed) + hits.load(Ordering::Relaxed);
            // A miss of each reader after each ban would be one in four of these.
            let enough = reads() + 256;
            wait_until("each reader to have read a few times", async || reads() >= enough).await;
        }
        over.store(true, Ordering::Relaxed);
    };
    tokio::join!(reads, bans);
    println!("{hits:?} hits, {missed:?} misses");
    // A look-up that takes longer than it takes until the next ban may end without an answer.
    assert!(100 * missed.load(Ordering::Relaxed) <= hits.load(Ordering::Relaxed), "{missed:?} beside {hits:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_form_of_address_works() {
    let server = RedisServer::builder().password("s3cret").start();
    for url in [server.url(), format!("{}/3", server.url().trim_end_matches('/')), server.unix_url()] {
        let store = connect(url.clone()).await;
        assert_eq!(fill(&store, &key("a"), &url, &["t"]).await, Committed::Stored);
        assert_eq!(read(&store, &key("a")).await.unwrap(), url);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_down_costs_nothing_and_is_picked_up_when_it_comes() {
    let mut server = RedisServer::start();
    let url = server.url();
    server.kill();
    let store = RedisStore::builder(url).prefix("test").build().unwrap();
    assert_eq!(store.get(&key("a")).await.unwrap_err(), StoreError::Unavailable);
    let status = store.status().await;
    assert!(!status.connected && status.error.is_some(), "{status:?}");
    server.restart();
    assert!(store.wait_connected(PATIENCE).await);
    wait_until("a fill to be stored", async || {
        matches!(store.acquire(&key("a"), Seen::Nothing, LEASE, Failures::Heed).await, Ok(Acquired::Granted(_)))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_server_is_given_up_and_taken_back() {
    let server = RedisServer::start();
    let store = RedisStore::builder(server.url()).prefix("test").build().unwrap();
    assert!(store.wait_connected(PATIENCE).await);
    server.stop();
    wait_until("the connection to be given up", async || {
        let _ = store.get(&key("a")).await;
        !store.connected()
    })
    .await;
    assert_eq!(store.get(&key("a")).await.unwrap_err(), StoreError::Unavailable);
    server.cont();
    assert!(store.wait_connected(PATIENCE).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_dropped_leaves_no_connection() {
    let server = RedisServer::start();
    let clients = || {
        let info: String = server.command(&["INFO", "clients"]);
        info.lines().find_map(|line| line.strip_prefix("connected_clients:")?.parse::<u64>().ok()).unwrap()
    };
    let store = connect(server.url()).await;
    let with = clients();
    drop(store);
    wait_until("the connection to be closed", async || clients() < with).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_of_another_type_is_a_named_miss_and_is_overwritten() {
    let server = RedisServer::start();
    let redis = connect(server.url()).await;
    let tiered = TieredStore::new(1 << 20, connect(server.url()).await);
    for store in [&redis as &dyn StoreBackend, &tiered] {
        let name = redis.0.context.names.entry(&key("a"));
        server.flushall();
        assert_eq!(server.command::<i64>(&["LPUSH", &name, "x"]), 1);
        assert!(matches!(store.get(&key("a")).await.unwrap(), Lookup::Rejected(Rejection::Type, Seen::Unusable)));
    }
    assert_eq!(fill(&redis, &key("a"), "one", &[]).await, Committed::Stored);
    assert_eq!(read(&redis, &key("a")).await.unwrap(), "one");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_connections_are_one_store() {
    let server = RedisServer::start();
    let store = builder(server.url()).connections(4).build().unwrap();
    for connection in store.connections() {
        tokio::time::timeout(PATIENCE, connection.wait_connected()).await.unwrap();
    }
    for round in 0..50 {
        let keys: Vec<Key> = (0..16).map(|i| key(&i.to_string())).collect();
        for key in &keys {
            fill(&store, key, "x", &["t"]).await;
            assert!(read(&store, key).await.is_some());
        }
        invalidate_tag(&store, "t").await.unwrap();
        for key in &keys {
            assert_eq!(read(&store, key).await, None, "round {round}");
        }
    }
}
