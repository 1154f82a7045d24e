//! After a loss of the server, while other processes have not reconnected.

use std::time::{Duration, Instant};

use tests::{Fault, FaultProxy, RedisServer, RedisUsage, wait_until};

use super::{
    deliver::{deliver, wait_for_delivery},
    shard::Everything,
};
use crate::{
    entry::{Deadlines, EntryId},
    store::{
        TieredStore,
        redis::{
            fleet_tests::*,
            tracking::{dataset_guard::DatasetGuard, outbox::Outbox},
            wire::names::Names,
            *,
        },
    },
};

/// Longer than any of these tests waits for anything.
const FOR_EVER: Duration = Duration::from_secs(60);

async fn load(store: &RedisStore, name: &str) -> Result<Acquired, StoreError> {
    StoreBackend::acquire(store, &key(name), Seen::Nothing, LEASE, Failures::Heed).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_was_restarted_hears_of_invalidations_at_once_and_is_read_and_filled_later() {
    let mut server = RedisServer::start();
    let store = connect_with(builder(server.url()).settle_time(Duration::from_secs(5))).await;
    fill(&store, &key("a"), "one", &["t"]).await;
    assert_eq!(store.state().breaker, Breaker::Closed);
    let Acquired::Granted(before) = load(&store, "b").await.unwrap() else { panic!("no lease") };

    restart(&mut server, &[&store]).await;
    let back = Instant::now();
    assert_eq!(store.state().breaker, Breaker::HalfOpen);
    assert_eq!(store.get(&key("a")).await.unwrap_err(), StoreError::Unavailable);
    assert_eq!(store.get_many(&[key("a")]).await[0].as_ref().unwrap_err(), &StoreError::Unavailable);
    assert_eq!(load(&store, "a").await.unwrap_err(), StoreError::Unavailable);
    assert_eq!(store.commit(&loaded(before, "one", &[])).await.unwrap_err(), StoreError::Unavailable);
    store.invalidate(Scope::Key(&key("a")), Hardness::Hard).await.unwrap();
    invalidate_tag(&store, "t").await.unwrap();
    store.delete_matching(&Pattern::new("redis:*")).await.unwrap();
    assert!(server.keys().contains(&store.0.context.names.tag("t")), "it was told");

    wait_until("it to be read", async || store.get(&key("a")).await.is_ok()).await;
    assert!(back.elapsed() > Duration::from_secs(4), "{:?}", back.elapsed());
    assert_eq!(store.state().breaker, Breaker::Closed);
    assert_eq!(fill(&store, &key("a"), "two", &["t"]).await, Committed::Stored);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_process_fills_that_is_back_before_another_one_is_read_by_nobody_until_that_one_is_back() {
    let mut server = RedisServer::start();
    let mut road = FaultProxy::start(server.addr()).await;
    let [early, late] = [server.url(), format!("redis://{}", road.addr())].map(|url| {
        RedisStore::builder(url).prefix("test").operation_timeout(PATIENCE).settle_time(Duration::from_secs(8)).build()
    });
    let (early, late) = (early.unwrap(), late.unwrap());
    for store in [&early, &late] {
        assert!(store.wait_connected(PATIENCE).await);
    }
    server.kill();
    for store in [&early, &late] {
        lose(store).await;
    }
    road.set(Fault::Cut).await;
    server.restart();
    assert!(early.wait_connected(PATIENCE).await);
    // Long enough that no write waits any more.
    tokio::time::sleep(Duration::from_millis(1_500)).await;

    let lease = load(&early, "a").await;
    invalidate_tag(&late, "t").await.unwrap_err();
    if let Ok(Acquired::Granted(lease)) = lease {
        // Loaded before the invalidation.
        let _ = early.commit(&loaded(lease, "old", &["t"])).await;
    }
    let found = early.get(&key("a")).await;
    assert!(!matches!(found, Ok(Lookup::Found(_))), "{found:?} was invalidated and is found");

    road.set(Fault::Pass).await;
    assert!(late.wait_connected(PATIENCE).await);
    wait_until("it to be read", async || early.get(&key("a")).await.is_ok()).await;
    assert_eq!(read(&early, &key("a")).await, None);
    assert_eq!(fill(&early, &key("a"), "new", &["t"]).await, Committed::Stored);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_closed_and_made_again_at_once_is_read_at_once() {
    let server = RedisServer::start();
    // A blip is a quarter of that.
    let store = connect_with(builder(server.url()).delivery_timeout(FOR_EVER).settle_time(FOR_EVER)).await;
    fill(&store, &key("a"), "one", &["t"]).await;
    for _ in 0..3 {
        let before = store.connection(&key("a")).session().unwrap().number;
        let _: u64 = server.command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
        wait_until("it to be connected again", async || {
            store.connection(&key("a")).session().is_ok_and(|session| session.number != before)
        })
        .await;
        assert_eq!(read(&store, &key("a")).await.unwrap(), "one");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_server_is_not_read_at_once_however_soon_it_is_there() {
    let mut server = RedisServer::start();
    let store = connect_with(builder(server.url()).delivery_timeout(FOR_EVER).settle_time(FOR_EVER)).await;
    restart(&mut server, &[&store]).await;
    assert_eq!(store.get(&key("a")).await.unwrap_err(), StoreError::Unavailable);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_was_silent_is_not_read_at_once_when_it_speaks_again() {
    let server = RedisServer::start();
    let store =
        connect_with(builder(server.url()).delivery_timeout(Duration::from_secs(1)).settle_time(FOR_EVER)).await;
    server.stop();
    lose(&store).await;
    server.cont();
    assert!(store.wait_connected(PATIENCE).await);
    assert_eq!(store.get(&key("a")).await.unwrap_err(), StoreError::Unavailable);
}

/// Who is ready to wait so long for an operation loses neither those under way, nor leases, nor what is read afterwards.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_pauses_for_less_than_an_operation_may_take_is_kept() {
    let server = RedisServer::start();
    let store = connect_with(builder(server.url()).operation_timeout(PATIENCE)).await;
    server.stop();
    // A heartbeat comes within a second, and is not awaited for less than another.
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    server.cont();
    assert_eq!(read(&store, &key("a")).await, None);
    assert_eq!(store.state().lost_connections, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_was_not_there_at_the_start_is_not_read_at_once() {
    let mut server = RedisServer::start();
    server.kill();
    let store = builder(server.url()).settle_time(FOR_EVER).build().unwrap();
    wait_until("an attempt to fail", async || {
        store.status().await.error.is_some_and(|error| !error.contains("still connecting"))
    })
    .await;
    server.restart();
    assert!(store.wait_connected(PATIENCE).await);
    assert_eq!(store.get(&key("a")).await.unwrap_err(), StoreError::Unavailable);
    // The next look-up finds it at once, and the entry is valid.
    let next = connect_with(builder(server.url()).settle_time(FOR_EVER)).await;
    assert_eq!(read(&next, &key("a")).await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invalidation_returns_when_a_server_that_was_just_lost_has_heard_of_it() {
    let server = RedisServer::start();
    let mut road = FaultProxy::start(server.addr()).await;
    let store = connect_with(builder(format!("redis://{}", road.addr())).delivery_timeout(FOR_EVER)).await;
    let other = connect(server.url()).await;
    let tags = Tags::new(["hard"]);
    for scope in [Scope::Tags(&tags), Scope::Key(&key("a")), Scope::Everything] {
        fill(&other, &key("a"), "old", &["hard"]).await;
        road.set(Fault::Cut).await;
        lose(&store).await;
        let (invalidate, mend) = tokio::join!(store.invalidate(scope, Hardness::Hard), async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            let found = read(&other, &key("a")).await;
            road.set(Fault::Pass).await;
            found
        });
        assert_eq!(mend.unwrap(), "old", "it can't have arrived yet");
        invalidate.unwrap();
        assert_eq!(read(&other, &key("a")).await, None, "{scope:?}");
        wait_until("nothing to be kept", async || store.connected() && store.state().pending_invalidations == 0).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_waits_for_a_server_that_is_long_gone() {
    let mut server = RedisServer::start();
    let timeout = Duration::from_secs(1);
    let store = connect_with(builder(server.url()).delivery_timeout(timeout)).await;
    server.kill();
    lose(&store).await;
    invalidate_tag(&store, "t").await.unwrap_err();
    let begun = Instant::now();
    for _ in 0..20 {
        invalidate_tag(&store, "t").await.unwrap_err();
    }
    assert!(begun.elapsed() < 10 * timeout, "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_kept_keys_are_delivered_in_few_round_trips() {
    const KEYS: usize = 9_000;
    let server = RedisServer::start();
    let mut road = FaultProxy::start(server.addr()).await;
    let store = connect_with(builder(format!("redis://{}", road.addr()))).await;
    let keys: Vec<Key> = (0..KEYS).map(|i| key(&i.to_string())).collect();
    let names: Vec<String> = keys.iter().map(|key| store.0.context.names.entry(key)).collect();
    let pairs = names.iter().flat_map(|name| [&**name, "old"]);
    let () = server.command(&["MSET"].into_iter().chain(pairs).collect::<Vec<_>>());
    road.set(Fault::Cut).await;
    lose(&store).await;
    for key in &keys {
        store.invalidate(Scope::Key(key), Hardness::Hard).await.unwrap_err();
    }
    assert_eq!(store.state().pending_invalidations, KEYS);

    let before = RedisUsage::of(&server);
    road.set(Fault::Pass).await;
    assert!(store.wait_connected(PATIENCE).await);
    assert_eq!(store.state().pending_invalidations, 0);
    let left: u64 = server.command(&["EXISTS"].into_iter().chain(names.iter().map(|name| &**name)).collect::<Vec<_>>());
    assert_eq!(left, 0);
    // Each round trip asks for the data set that it reached.
    let delivery = RedisUsage::of(&server).since(&before);
    assert!(delivery.calls("get") <= 40, "{} round trips", delivery.calls("get"));
    assert!(delivery.calls("unlink") >= KEYS as u64);
}

/// Kept keys whose delivery hangs, because there is no answer.
async fn undeliverable() -> (RedisServer, FaultProxy, Outbox, redis::aio::MultiplexedConnection) {
    let server = RedisServer::start();
    let mut road = FaultProxy::start(server.addr()).await;
    let client = redis::Client::open(format!("redis://{}", road.addr())).unwrap();
    let patient = redis::AsyncConnectionConfig::new().set_response_timeout(None);
    let connection = client.get_multiplexed_async_connection_with_config(&patient).await.unwrap();
    road.set(Fault::BlackHole).await;
    let outbox = Outbox::default();
    for name in ["a", "b", "c"] {
        outbox.add(Scope::Key(&key(name)));
    }
    (server, road, outbox, connection)
}

#[tokio::test]
async fn keys_that_take_too_long_to_deliver_become_everything() {
    let (_server, _road, outbox, mut connection) = undeliverable().await;
    tokio::time::pause();
    deliver(&outbox, &DatasetGuard::new(Restored::Clear), &Names::new("test"), &Everything, None, &mut connection)
        .await
        .unwrap_err();
    assert_eq!(outbox.count(), 1);
    assert!(outbox.concerns(|_| true));
}

#[tokio::test]
async fn what_was_being_delivered_is_kept_when_its_keeper_goes() {
    let (_server, _road, outbox, mut connection) = undeliverable().await;
    let (names, guard) = (Names::new("test"), DatasetGuard::new(Restored::Clear));
    let (key, patience) = (key("a"), std::time::Instant::now() + FOR_EVER);
    {
        let delivery = deliver(&outbox, &guard, &names, &Everything, None, &mut connection);
        tokio::time::timeout(Duration::from_millis(300), delivery).await.unwrap_err();
    }
    assert_eq!(outbox.count(), 3);
    // A caller that waits for it still does.
    let waiting = wait_for_delivery(&outbox, Scope::Key(&key), patience);
    tokio::time::timeout(Duration::from_millis(300), waiting).await.unwrap_err();
}

/// As on a half-open connection: there is no answer, and the socket does not end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_never_answered_is_let_go_of() {
    let server = RedisServer::start();
    let mut road = FaultProxy::start(server.addr()).await;
    let store = connect(format!("redis://{}", road.addr())).await;
    // By the third fill, this process knows the token that every entry carries.
    for name in ["first", "second", "third"] {
        fill(&store, &key(name), "x", &[]).await;
    }
    let Acquired::Granted(lease) = load(&store, "a").await.unwrap() else { panic!("no lease") };
    road.set(Fault::BlackHole).await;
    let filled = loaded(lease, "one", &[]);
    let (asked, filled) = tokio::join!(load(&store, "b"), store.commit(&filled));
    assert!(asked.is_err() && filled.is_err(), "{asked:?}, {filled:?}");
    let context = Arc::downgrade(&store.0.context);
    drop(store);
    wait_until("nothing of the store to be left", async || context.upgrade().is_none()).await;
}

/// Its own end comes long afterwards, as when a network gives up what was lost in it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_a_connection_that_was_given_up_voids_nothing_of_the_next_one() {
    let server = RedisServer::start();
    let store = connect(server.url()).await;
    let tiered = TieredStore::new(1 << 20, store.clone());
    let connection = store.connection(&key("a")).into_owned();
    let old = connection.session().unwrap();
    let client: u64 = redis::cmd("CLIENT").arg("ID").query_async(&mut old.driver()).await.unwrap();
    connection.give_up(&old);
    let late = store.begin_lease(&key("b"), store.lease_token(), [(&connection, &old); 2]);
    assert!(late.is_err(), "its end would not be noticed");
    connected_again(&store).await;
    fill(&tiered, &key("a"), "one", &[]).await;
    wait_until("the entry to be near", async || {
        assert_eq!(read(&tiered, &key("a")).await.unwrap(), "one");
        tiered.peek(&key("a")).is_some()
    })
    .await;
    let Acquired::Granted(lease) = load(&store, "b").await.unwrap() else { panic!("no lease") };
    assert!(!store.overtaken(&lease));

    assert_eq!(server.command::<u64>(&["CLIENT", "KILL", "ID", &client.to_string()]), 1);
    wait_until("its end to be noticed", async || old.end.closed.get().is_some()).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(tiered.peek(&key("a")).is_some() && !store.overtaken(&lease));
}

/// The network holds it up until another value is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_set_that_failed_and_arrives_all_the_same_replaces_no_later_one() {
    let server = RedisServer::start();
    let mut road = FaultProxy::start(server.addr()).await;
    let store =
        connect_with(builder(format!("redis://{}", road.addr())).operation_timeout(Duration::from_secs(2))).await;
    for name in ["first", "second", "third"] {
        fill(&store, &key(name), "x", &[]).await;
    }
    let tags = Tags::default();
    let set = |value: &'static str| {
        let deadlines = Deadlines::fresh_until(Clock::system().now() + 600_000);
        let entry = Entry::new(EntryId::random(), &key("a"), deadlines, Bytes::new(), value.into());
        StoreBackend::put(&store, vec![(key("a"), entry)], &tags)
    };
    set("zero").await.unwrap();
    let held_up = Duration::from_secs(10);
    road.set(Fault::Delay(held_up)).await;
    let sent = Instant::now();
    let connection = store.connection(&key("a")).into_owned();
    let (failed, ()) = tokio::join!(set("one"), async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        // For what is sent from now on, and not over this connection, as after some timeouts: the key is invalidated over the next one.
        road.set(Fault::Pass).await;
        connection.reset();
    });
    failed.unwrap_err();
    wait_until("the next to succeed", async || set("two").await.is_ok()).await;
    tokio::time::sleep((held_up + Duration::from_secs(2)).saturating_sub(sent.elapsed())).await;
    connected_again(&store).await;
    assert_eq!(read(&store, &key("a")).await.as_deref(), Some("two"));
}
