//! The server's bad days: restored, full, short of memory.

use std::{
    collections::HashSet,
    future::ready,
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use tests::{RedisServer, wait_until};
use tower::{Layer as _, ServiceExt as _, service_fn};

use crate::store::redis::{fleet_tests::*, wire::names::nonce, *};
use crate::{Cache, CacheLayer, Profile, clock::Uptime, hex::of_u64, store::TieredStore, tag::Tags};

/// Retries a fill until the servers can be used, during any change of the topology.
#[cfg(any(feature = "cluster", feature = "sentinel"))]
pub(crate) async fn fill_when_possible(store: &impl StoreBackend, key: &Key, payload: &str, tags: &[&str]) {
    wait_until("a fill to be stored", async || {
        let Ok(Acquired::Granted(lease)) = store.acquire(key, Seen::Unusable, LEASE, Failures::Heed).await else {
            return false;
        };
        matches!(store.commit(&loaded(lease, payload, tags)).await, Ok(Committed::Stored))
    })
    .await;
}

/// From now on, replicas receive nothing, so that they miss it when they are promoted.
#[cfg(any(feature = "cluster", feature = "sentinel"))]
pub(crate) fn cut_replicas_off(primary: &RedisServer) {
    let () = primary.command(&["ACL", "SETUSER", "default", "-psync", "-sync"]);
    let _: u64 = primary.command(&["CLIENT", "KILL", "TYPE", "replica"]);
}

/// A server that was restored from a dump from before the invalidation of the key `a` and of the tag `t`.
async fn restored(policy: Restored) -> (RedisServer, RedisStore, Option<Lease>) {
    let mut server = RedisServer::start();
    let store = connect_with(builder(server.url()).on_restored(policy)).await;
    for name in ["a", "b", "untouched"] {
        fill(&store, &key(name), "old", &[name]).await;
    }
    let lease =
        match store.acquire(&key("in flight"), Seen::Nothing, Duration::from_secs(60), Failures::Heed).await.unwrap() {
            Acquired::Granted(lease) => Some(lease),
            _ => None,
        };
    let () = server.command(&["SAVE"]);
    store.invalidate(Scope::Key(&key("a")), Hardness::Hard).await.unwrap();
    store.invalidate(Scope::Key(&key("in flight")), Hardness::Hard).await.unwrap();
    invalidate_tag(&store, "b").await.unwrap();
    restart(&mut server, &[&store]).await;
    (server, store, lease)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_a_restored_dump_is_served() {
    let (server, store, lease) = restored(Restored::Clear).await;
    // A process that has never seen the server is as careful.
    for store in [&store, &connect(server.url()).await] {
        for name in ["a", "b", "untouched"] {
            assert_eq!(read(store, &key(name)).await, None, "{name}");
        }
    }
    assert_eq!(commit(&store, lease.unwrap(), "old", &[]).await, Committed::Refused);
    assert_eq!(fill(&store, &key("a"), "new", &["a"]).await, Committed::Stored);
    // The data set is cleared once, not by each process that connects.
    let later = connect(server.url()).await;
    assert_eq!(read(&later, &key("a")).await.unwrap(), "new");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_dump_hears_again_what_this_process_invalidated() {
    let (_server, store, lease) = restored(Restored::Replay(Duration::from_secs(60))).await;
    for name in ["a", "b"] {
        assert_eq!(read(&store, &key(name)).await, None, "{name}");
    }
    assert_eq!(read(&store, &key("untouched")).await.unwrap(), "old");
    assert_eq!(commit(&store, lease.unwrap(), "old", &[]).await, Committed::Refused);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dump_that_is_trusted_is_served_as_it_is() {
    let (_server, store, _) = restored(Restored::Trust).await;
    for name in ["a", "b", "untouched"] {
        assert_eq!(read(&store, &key(name)).await.unwrap(), "old", "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_was_lost_to_the_same_data_set_costs_no_entry() {
    let server = RedisServer::start();
    let store = connect_with(builder(server.url()).on_restored(Restored::Clear)).await;
    fill(&store, &key("a"), "one", &["t"]).await;
    let before = store.connection(&key("a")).session().unwrap().number;
    let _: u64 = server.command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    wait_until("it to be connected again", async || {
        store.connection(&key("a")).session().is_ok_and(|session| session.number != before)
    })
    .await;
    assert_eq!(read(&store, &key("a")).await.unwrap(), "one");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_data_set_that_was_swapped_under_a_living_connection_is_noticed() {
    let (server, other) = (RedisServer::start(), RedisServer::start());
    let store = connect(server.url()).await;
    let elsewhere = connect(other.url()).await;
    fill(&elsewhere, &key("a"), "of another data set", &[]).await;
    let before = store.connection(&key("a")).session().unwrap().number;
    let () = server.command(&["REPLICAOF", "127.0.0.1", &other.port().to_string()]);
    wait_until("the data set to arrive", async || server.info("replication", "master_link_status") == "up").await;
    let () = server.command(&["REPLICAOF", "NO", "ONE"]);
    wait_until("the connection to be made anew", async || {
        store.connection(&key("a")).session().is_ok_and(|session| session.number != before)
    })
    .await;
    assert_eq!(read(&store, &key("a")).await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_that_began_by_another_servers_clock_is_not_stored() {
    let server = RedisServer::start();
    let store = connect(server.url()).await;
    for (of_another, committed) in [(false, Committed::Stored), (true, Committed::Refused)] {
        let acquired = StoreBackend::acquire(&store, &key("a"), Seen::Unusable, LEASE, Failures::Heed).await.unwrap();
        let Acquired::Granted(lease) = acquired else { panic!("no lease") };
        let lease = if of_another { lease.under(Some("another".into()), 0) } else { lease };
        assert_eq!(commit(&store, lease, "x", &["t"]).await, committed);
    }
}

/// An invalidation after that is dated before the load began, as one is that came before it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_that_began_before_the_clock_was_set_back_is_not_stored() {
    const BACK: u64 = 10_000_000;
    let server = RedisServer::start();
    let (store, other) = (connect(server.url()).await, connect(server.url()).await);
    let clock = &store.0.context.clock;
    // As a heartbeat does.
    let note = |ahead: u64| {
        let asked = Uptime::now();
        let (seconds, micros): (u64, u64) = server.command(&["TIME"]);
        let said = seconds * 1_000_000 + micros + ahead;
        clock.note(asked, (said / 1_000_000, said % 1_000_000));
    };
    assert_eq!(fill(&store, &key("a"), "older", &["t"]).await, Committed::Stored);
    // Granted to a look-up, and to a load.
    for claimed in [true, false] {
        let lease = loop {
            store.invalidate(Scope::Key(&key("a")), Hardness::Hard).await.unwrap();
            let before = clock.times_set_back();
            note(BACK);
            if claimed {
                assert!(matches!(store.get(&key("a")).await, Ok(Lookup::Absent)));
            }
            let acquired = StoreBackend::acquire(&store, &key("a"), Seen::Nothing, LEASE, Failures::Heed).await;
            let Acquired::Granted(lease) = acquired.unwrap() else { panic!("no lease") };
            // Otherwise a heartbeat has come before it.
            if clock.times_set_back() == before {
                break lease;
            }
            store.release_lease(&lease, None);
        };
        // As of a clock that was ahead by that much when the load began.
        let began = u64::from_str_radix(str::from_utf8(&lease.started).unwrap(), 16).unwrap();
        let lease = lease.started(of_u64(began + BACK));
        invalidate_tag(&other, "t").await.unwrap();
        note(0);
        assert_eq!(commit(&store, lease, "old", &["t"]).await, Committed::Refused, "claimed: {claimed}");
        assert_eq!(read(&other, &key("a")).await, None);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_server_takes_an_invalidation_all_the_same() {
    let server = RedisServer::start();
    let store = TieredStore::new(1 << 20, connect(server.url()).await);
    let other = connect(server.url()).await;
    for round in 0..3 {
        for name in ["by tag", "by key", "by all"] {
            assert_eq!(fill(&store, &key(name), "old", &[name]).await, Committed::Stored, "round {round}");
        }
        let mut leases = Vec::new();
        for name in ["1", "2"] {
            let acquired =
                StoreBackend::acquire(&store, &key(name), Seen::Unusable, Duration::from_secs(60), Failures::Heed)
                    .await;
            let Acquired::Granted(lease) = acquired.unwrap() else { panic!("no lease") };
            leases.push(lease);
        }
        let () = server.command(&["CONFIG", "SET", "maxmemory", "1"]);
        invalidate_tag(&store, "by tag").await.unwrap();
        store.invalidate(Scope::Key(&key("by key")), Hardness::Hard).await.unwrap();
        for name in ["by tag", "by key"] {
            assert_eq!(read(&store, &key(name)).await, None, "{name}");
            assert_eq!(read(&other, &key(name)).await, None, "{name}");
        }
        assert_eq!(read(&other, &key("by all")).await.unwrap(), "old");
        store.invalidate(Scope::Everything, Hardness::Hard).await.unwrap();
        assert_eq!(read(&other, &key("by all")).await, None);

        // A load that was under way is not stored later, even if there is room again, and another fill has written the tag's
        // token.
        let () = server.command(&["CONFIG", "SET", "maxmemory", "0"]);
        let mut leases = leases.into_iter();
        assert_eq!(commit(&store, leases.next().unwrap(), "old", &["by tag"]).await, Committed::Refused);
        assert_eq!(fill(&other, &key("new"), "new", &["by tag"]).await, Committed::Stored);
        assert_eq!(commit(&store, leases.next().unwrap(), "old", &["by tag"]).await, Committed::Refused);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_server_is_not_asked_to_store_each_fill() {
    let server = RedisServer::start();
    let store = connect(server.url()).await;
    let () = server.command(&["CONFIG", "SET", "maxmemory", "1"]);
    let acquire = async || StoreBackend::acquire(&store, &key("a"), Seen::Unusable, LEASE, Failures::Heed).await;
    for _ in 0..100 {
        assert_eq!(acquire().await.unwrap_err(), StoreError::Full);
    }
    // Once a second.
    let refusals = server.info("errorstats", "errorstat_OOM");
    let refused: u64 = refusals.strip_prefix("count=").unwrap().parse().unwrap();
    assert!((1..=20).contains(&refused), "{refused}");
    let () = server.command(&["CONFIG", "SET", "maxmemory", "0"]);
    wait_until("it to be tried again", async || matches!(acquire().await, Ok(Acquired::Granted(_)))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_of_ours_is_evicted_nothing_stale_is_served() {
    let server = RedisServer::start();
    let store = TieredStore::new(1 << 20, connect(server.url()).await);
    let mut evicted = HashSet::new();
    for round in 0..60 {
        fill(&store, &key("a"), "old", &["t"]).await;
        let acquired =
            StoreBackend::acquire(&store, &key("b"), Seen::Unusable, Duration::from_secs(60), Failures::Heed)
                .await
                .unwrap();
        let Acquired::Granted(lease) = acquired else { panic!("no lease") };
        // Everything that there is, in turn; before, between and after what it could hide.
        let keys = server.keys();
        let victim = &keys[round % keys.len()];
        evicted.insert(victim.split(':').nth(1).unwrap().to_owned());
        let evict = |moment: usize| {
            if round / keys.len() % 3 == moment {
                let _: u64 = server.command(&["DEL", victim]);
            }
        };
        evict(0);
        invalidate_tag(&store, "t").await.unwrap();
        evict(1);
        store.invalidate(Scope::Key(&key("b")), Hardness::Hard).await.unwrap();
        evict(2);
        assert_eq!(read(&store, &key("a")).await, None, "without {victim}");
        assert_eq!(commit(&store, lease, "old", &["t"]).await, Committed::Refused, "without {victim}");
        // A heartbeat that finds no identity, or none of the data set, may void what was just stored once more.
        let is_filled = async || fill(&store, &key("a"), "new", &["t"]).await == Committed::Stored;
        let is_found = async || read(&store, &key("a")).await.as_deref() == Some("new");
        wait_until(&format!("a fill is found without {victim}"), async || is_filled().await && is_found().await).await;
    }
    assert_eq!(evicted, ["e", "l", "t", "i", "id", "mark"].map(str::to_owned).into());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_is_not_taken_for_a_server_nor_asked_again_and_again() {
    let primary = RedisServer::start();
    let replica = RedisServer::builder().config(&format!("replicaof 127.0.0.1 {}", primary.port())).start();
    let store = builder(replica.url()).build().unwrap();
    let begun = Instant::now();
    wait_until("the store to say why", async || {
        store.status().await.error.is_some_and(|error| error.contains("replica"))
    })
    .await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let connections: u64 = replica.info("stats", "total_connections_received").parse().unwrap();
    assert!(connections < 30 + begun.elapsed().as_secs(), "{connections} connections");
    assert!(!store.connected());
    let () = replica.command(&["REPLICAOF", "NO", "ONE"]);
    assert!(store.wait_connected(PATIENCE).await);
    assert_eq!(fill(&store, &key("a"), "one", &[]).await, Committed::Stored);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_loading_is_waited_for() {
    let mut server = RedisServer::builder()
        .config("key-load-delay 200")
        .config("loading-process-events-interval-bytes 1024")
        .start();
    let store = connect_with(builder(server.url()).on_restored(Restored::Trust)).await;
    for i in 0..2_000 {
        let () = server.command(&["SET", &format!("ballast:{i}"), &"x".repeat(1_000)]);
    }
    fill(&store, &key("a"), "one", &["t"]).await;
    let () = server.command(&["SAVE"]);
    server.kill();
    lose(&store).await;
    server.restart();
    assert!(store.wait_connected(PATIENCE).await);
    assert_eq!(read(&store, &key("a")).await.unwrap(), "one");
    store.invalidate(Scope::Tags(&Tags::new(["t"])), Hardness::Hard).await.unwrap();
    assert_eq!(read(&store, &key("a")).await, None);
}

/// The longest time until a swap is noticed, and much more for a busy machine.
const NOTICED: Duration = Duration::from_secs(10);

fn swap(server: &RedisServer) {
    let () = server.command(&["SWAPDB", "0", "1"]);
}

/// A server does not tell its clients of a swap.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_swapped_is_another_one_and_not_the_old_one_when_it_is_back() {
    let server = RedisServer::start();
    let (reader, writer) = (TieredStore::new(1 << 20, connect(server.url()).await), connect(server.url()).await);
    let tags = Tags::new(["t"]);
    for scope in [Scope::Key(&key("a")), Scope::Tags(&tags), Scope::Everything] {
        assert_eq!(fill(&writer, &key("a"), "old", &["t"]).await, Committed::Stored, "{scope:?}");
        wait_until("the entry to be near", async || {
            read(&reader, &key("a")).await.is_some() && reader.peek(&key("a")).is_some()
        })
        .await;

        swap(&server);
        let swapped = Instant::now();
        writer.invalidate(scope, Hardness::Hard).await.unwrap();
        wait_until("the first tier to be void", async || reader.peek(&key("a")).is_none()).await;
        assert_eq!(read(&reader, &key("a")).await, None, "{scope:?}");
        assert!(swapped.elapsed() < NOTICED, "{scope:?}: {:?}", swapped.elapsed());
        // The cache also works.
        assert_eq!(fill(&reader, &key("b"), "new", &["t"]).await, Committed::Stored, "{scope:?}");
        assert_eq!(read(&writer, &key("b")).await.unwrap(), "new");

        swap(&server);
        let swapped = Instant::now();
        for store in [&writer as &dyn StoreBackend, &reader] {
            wait_until("what it missed to be void", async || read(store, &key("a")).await.is_none()).await;
        }
        // A process that knows the tokens of the other database finds the entry void at once, any other once the swap is noticed.
        let by_another = async || read(&connect(server.url()).await, &key("a")).await.is_none();
        wait_until("what they missed to be void for others", by_another).await;
        assert!(swapped.elapsed() < NOTICED, "{scope:?}: {:?}", swapped.elapsed());
    }
}

/// Sooner than by a heartbeat: an invalidation notices the swap.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invalidation_that_went_to_another_database_is_not_lost_when_the_old_one_is_back_at_once() {
    let server = RedisServer::start();
    let (reader, writer) = (TieredStore::new(1 << 20, connect(server.url()).await), connect(server.url()).await);
    let tags = Tags::new(["t"]);
    for by in ["key", "tag", "softened key", "softened tag", "pattern", "write"] {
        fill(&writer, &key("a"), "old", &["t"]).await;
        wait_until("the entry to be near", async || {
            read(&reader, &key("a")).await.is_some() && reader.peek(&key("a")).is_some()
        })
        .await;
        swap(&server);
        match by {
            "key" => writer.invalidate(Scope::Key(&key("a")), Hardness::Hard).await.map(drop).unwrap(),
            "tag" => writer.invalidate(Scope::Tags(&tags), Hardness::Hard).await.map(drop).unwrap(),
            "softened key" => writer.invalidate(Scope::Key(&key("a")), Hardness::Soft).await.map(drop).unwrap(),
            "softened tag" => writer.invalidate(Scope::Tags(&tags), Hardness::Soft).await.map(drop).unwrap(),
            // Otherwise it is kept, and delivered before anything is read.
            "pattern" => drop(writer.delete_matching(&Pattern::new("redis:*")).await),
            _ => {
                let entry = reader.peek(&key("a")).expect("it is near");
                let _ = writer.put(vec![(key("a"), entry)], &tags).await;
            }
        }
        swap(&server);
        let swapped = Instant::now();
        for store in [&writer as &dyn StoreBackend, &reader] {
            let void = async || {
                store.peek(&key("a")).is_none()
                    && store.get(&key("a")).await.is_ok_and(|found| !matches!(found, Lookup::Found(_)))
            };
            wait_until(by, void).await;
        }
        assert!(swapped.elapsed() < NOTICED, "{by}: {:?}", swapped.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_back_hears_again_what_this_process_invalidated_or_is_trusted() {
    for (policy, after) in [(Restored::Replay(Duration::from_secs(60)), None), (Restored::Trust, Some("old"))] {
        let server = RedisServer::start();
        let store = connect_with(builder(server.url()).on_restored(policy)).await;
        for name in ["a", "untouched"] {
            fill(&store, &key(name), "old", &[name]).await;
        }
        swap(&server);
        store.invalidate(Scope::Key(&key("a")), Hardness::Hard).await.unwrap();
        let elsewhere = store.connection(&key("a")).dataset_id();
        swap(&server);
        wait_until("it to be noticed", async || {
            store.connection(&key("a")).dataset_id() != elsewhere && store.get(&key("a")).await.is_ok()
        })
        .await;
        assert_eq!(read(&store, &key("a")).await.as_deref(), after, "{policy:?}");
        assert_eq!(read(&store, &key("untouched")).await.unwrap(), "old", "{policy:?}");
    }
}

/// Nothing can be written there, not even that it is known.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_database_that_is_back_hears_again_what_this_process_invalidated() {
    let server = RedisServer::start();
    let store = connect_with(builder(server.url()).on_restored(Restored::Replay(Duration::from_secs(60)))).await;
    for name in ["a", "untouched"] {
        fill(&store, &key(name), "old", &[name]).await;
    }
    swap(&server);
    store.invalidate(Scope::Key(&key("a")), Hardness::Hard).await.unwrap();
    let elsewhere = store.connection(&key("a")).dataset_id();
    let () = server.command(&["CONFIG", "SET", "maxmemory", "1"]);
    swap(&server);
    wait_until("it to be noticed", async || {
        store.connection(&key("a")).dataset_id() != elsewhere && store.get(&key("a")).await.is_ok()
    })
    .await;
    assert_eq!(read(&store, &key("a")).await, None);
    assert_eq!(read(&store, &key("untouched")).await.as_deref(), Some("old"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_filled_after_a_flush_stays_and_no_connection_is_lost_for_it() {
    let server = RedisServer::start();
    // Longer than a busy machine is silent, so that no connection is lost for that.
    let patient = || connect_with(builder(server.url()).operation_timeout(PATIENCE));
    let stores = [patient().await, patient().await, patient().await];
    fill(&stores[0], &key("a"), "one", &["t"]).await;
    server.flushall();
    assert_eq!(fill(&stores[1], &key("a"), "two", &["t"]).await, Committed::Stored);
    let has_id = || server.keys().contains(&"test:mark".to_owned());
    wait_until("the data set to have an id again", async || has_id()).await;
    // All processes have noticed by then.
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    for store in &stores {
        assert_eq!(read(store, &key("a")).await.unwrap(), "two");
        assert_eq!(store.state().lost_connections, 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_dump_hears_again_of_a_pattern_that_was_counted() {
    let mut server = RedisServer::start();
    let store = connect_with(builder(server.url()).on_restored(Restored::Replay(Duration::from_secs(60)))).await;
    for name in ["a", "b"] {
        fill(&store, &key(name), "old", &[]).await;
    }
    let () = server.command(&["SAVE"]);
    assert_eq!(store.delete_matching(&Pattern::new("redis:a*")).await.unwrap().deleted, 1);
    restart(&mut server, &[&store]).await;
    assert_eq!(read(&store, &key("a")).await, None);
    assert_eq!(read(&store, &key("b")).await.as_deref(), Some("old"));
}

/// Its token of everything is then younger than all that this process knows, and of the same line as before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_swapped_data_set_that_first_hears_of_a_soft_invalidation_is_cleared_all_the_same() {
    let server = RedisServer::start();
    let older = connect(format!("{}/1", server.url())).await;
    fill(&older, &key("a"), "old", &["t"]).await;
    drop(older);
    let store = connect(server.url()).await;
    swap(&server);
    let ramp = Hardness::Ramp(Duration::from_secs(3_600));
    StoreBackend::invalidate(&store, Scope::Everything, ramp).await.unwrap();
    assert_eq!(read(&store, &key("a")).await, None);
}

/// A user without the permission to ask for the server's identity.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_swap_is_noticed_by_who_may_not_ask_for_info() {
    let server = RedisServer::start();
    let () = server.command(&["ACL", "SETUSER", "cache", "on", ">secret", "~test:*", "+@all", "-info"]);
    let store = connect(server.url().replace("redis://", "redis://cache:secret@")).await;
    fill(&store, &key("a"), "old", &["t"]).await;
    swap(&server);
    invalidate_tag(&store, "t").await.unwrap();
    swap(&server);
    wait_until("what it missed to be void", async || read(&store, &key("a")).await.is_none()).await;
}

/// A value that another program left there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_id_identifies_nothing() {
    let server = RedisServer::start();
    let foreign = "not an id, no!!";
    assert_eq!(foreign.len(), nonce().len());
    let () = server.command(&["SET", "test:mark", foreign]);
    let store = connect(server.url()).await;
    let id: String = server.command(&["GET", "test:mark"]);
    assert_ne!(id, foreign);
    assert_eq!(store.connection(&key("a")).dataset_id().as_deref(), Some(&*id));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_dump_hears_again_what_was_kept_before_it_was_delivered() {
    let mut server = RedisServer::start();
    let mut road = tests::FaultProxy::start(server.addr()).await;
    let url = format!("redis://{}", road.addr());
    let store = builder(url).on_restored(Restored::Replay(Duration::from_secs(60))).build().unwrap();
    assert!(store.wait_connected(PATIENCE).await);
    fill(&store, &key("a"), "old", &[]).await;
    let () = server.command(&["SAVE"]);
    road.set(tests::Fault::Cut).await;
    lose(&store).await;
    store.invalidate(Scope::Key(&key("a")), Hardness::Hard).await.unwrap_err();
    road.set(tests::Fault::Pass).await;
    assert!(store.wait_connected(PATIENCE).await);
    assert_eq!(read(&store, &key("a")).await, None);
    restart(&mut server, &[&store]).await;
    assert_eq!(read(&store, &key("a")).await, None);
}

/// It was asked for so long ago that nothing would be repeated by that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_dump_hears_again_what_was_delivered_lately_however_long_it_was_kept() {
    let mut server = RedisServer::start();
    let store = connect_with(builder(server.url()).on_restored(Restored::Replay(Duration::from_secs(600)))).await;
    for name in ["keyed", "tagged", "matched", "untouched"] {
        fill(&store, &key(name), "old", &[name]).await;
    }
    let () = server.command(&["SAVE"]);
    let (context, number) = (&store.0.context, || store.connection_to_tags().session().map(|session| session.number));
    context.outbox.add(Scope::Key(&key("keyed")));
    context.outbox.add(Scope::Tags(&Tags::new(["tagged"])));
    context.outbox.add(Scope::Pattern(&Pattern::new("redis:matched")));
    let before = number();
    let _: u64 = server.command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    wait_until("it to be delivered", async || number().is_ok() && number() != before).await;
    for restarted in [false, true] {
        if restarted {
            restart(&mut server, &[&store]).await;
        }
        for name in ["keyed", "tagged", "matched"] {
            assert_eq!(read(&store, &key(name)).await, None, "{name}, restarted: {restarted}");
        }
        assert_eq!(read(&store, &key("untouched")).await.as_deref(), Some("old"));
    }
}

/// Its entry is older than one that was written without a load, and than a load whose result was not stored.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_dump_hears_again_of_what_was_put_or_superseded() {
    for is_put in [true, false] {
        let mut server = RedisServer::start();
        let store = connect_with(builder(server.url()).on_restored(Restored::Replay(Duration::from_secs(600)))).await;
        for name in ["a", "untouched"] {
            assert_eq!(fill(&store, &key(name), "old", &[]).await, Committed::Stored);
        }
        let () = server.command(&["SAVE"]);
        let acquired = StoreBackend::acquire(&store, &key("a"), Seen::Unusable, LEASE, Failures::Heed).await.unwrap();
        let Acquired::Granted(lease) = acquired else { panic!("no lease") };
        if is_put {
            store.put(loaded(lease, "new", &[]).writes.entries.into_vec(), &Tags::default()).await.unwrap();
            assert_eq!(read(&store, &key("a")).await.as_deref(), Some("new"));
        } else {
            StoreBackend::supersede(&store, &lease).await.unwrap();
            assert_eq!(read(&store, &key("a")).await, None);
        }
        restart(&mut server, &[&store]).await;
        assert_eq!(read(&store, &key("a")).await, None, "put: {is_put}");
        assert_eq!(read(&store, &key("untouched")).await.as_deref(), Some("old"));
    }
}

/// It has taken the place of an invalidation.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_dump_hears_again_of_a_post_whose_answer_was_kept() {
    let mut server = RedisServer::start();
    let store = connect_with(builder(server.url()).on_restored(Restored::Replay(Duration::from_secs(60)))).await;
    let calls = AtomicU64::new(0);
    let application = Arc::new(move || {
        let response = Response::builder().header("cache-control", "max-age=60").header("content-location", "/");
        response.header("x-call", calls.fetch_add(1, Ordering::SeqCst) + 1).body(Full::<Bytes>::default())
    });
    let application = service_fn(move |_: Request<Full<Bytes>>| ready(application()));
    let cache = Cache::new(store.clone());
    let service = CacheLayer::new(cache.clone()).profile(Profile::Strict).layer(application);
    let call = async |method: &str| {
        let request = Request::builder().method(method).uri("http://shop.example/").body(Full::<Bytes>::default());
        let response = service.clone().oneshot(request.unwrap()).await.unwrap();
        let call = response.headers()["x-call"].to_str().unwrap().to_owned();
        response.into_body().collect().await.unwrap();
        assert!(cache.drain(PATIENCE).await);
        call
    };
    assert_eq!(call("GET").await, "1");
    let () = server.command(&["SAVE"]);
    assert_eq!(call("POST").await, "2");
    assert_eq!(call("GET").await, "2");
    restart(&mut server, &[&store]).await;
    assert_ne!(call("GET").await, "1");
}
