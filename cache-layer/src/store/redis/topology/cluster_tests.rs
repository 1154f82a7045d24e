//! A cluster whose topology changes under the store.

use std::{collections::HashSet, time::Instant};

use tests::{RedisCluster, RedisServer, slot, wait_until};

use crate::store::redis::{
    fleet_tests::*,
    tracking::dataset_guard_tests::{cut_replicas_off, fill_when_possible},
    *,
};
use crate::{
    Cache,
    store::TieredStore,
    telemetry::{Event, InvalidationKind},
};

/// The name of a tag's token.
fn token(tag: &str) -> String {
    format!("test:t:{{test}}:{tag}")
}

async fn is_read(store: &RedisStore, key: &Key) -> bool {
    matches!(store.get(key).await, Ok(Lookup::Found(_)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_are_spread_and_tags_are_together() {
    let cluster = RedisCluster::start(3, 0);
    let store = connect(cluster.url()).await;
    for i in 0..60 {
        assert_eq!(fill(&store, &key(&i.to_string()), "x", &["t", "u{v}"]).await, Committed::Stored);
    }
    let (mut with_entries, mut with_tags) = (HashSet::new(), HashSet::new());
    for (index, node) in cluster.primaries().iter().enumerate() {
        for name in node.keys() {
            assert_eq!(node.command::<u16>(&["CLUSTER", "KEYSLOT", &name]), slot(&name));
            let nodes = if name.contains(":e:") { &mut with_entries } else { &mut with_tags };
            nodes.insert(index);
        }
    }
    assert_eq!((with_entries.len(), with_tags.len()), (3, 1));
    invalidate_tag(&store, "u{v}").await.unwrap();
    for i in 0..60 {
        assert_eq!(read(&store, &key(&i.to_string())).await, None);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn why_no_node_is_there_is_told() {
    let alone = RedisServer::start();
    for (url, why) in [
        ("redis+cluster://127.0.0.1:1".to_owned(), "Connection refused"),
        (format!("redis+cluster://127.0.0.1:{}", alone.port()), "cluster support disabled"),
    ] {
        let store = RedisStore::builder(url).build().unwrap();
        wait_until(why, async || store.status().await.error.is_some_and(|error| error.contains(why))).await;
    }
}

/// All nodes are connected to at once, and each asks the one that has the tags, which may not be connected yet.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_on_a_healthy_cluster_has_nothing_to_complain_of() {
    let cluster = RedisCluster::start(3, 0);
    for _ in 0..20 {
        let store = RedisStore::builder(cluster.url()).prefix("test").connections(2).build().unwrap();
        assert!(store.wait_connected(PATIENCE).await);
        for connection in store.connections() {
            assert_eq!(connection.last_error(), "still connecting");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_connections_to_each_node_are_one_store_and_none_is_left() {
    let cluster = RedisCluster::start(3, 0);
    let clients = || -> u64 {
        let counts = cluster.primaries().iter().map(|node| node.info("clients", "connected_clients"));
        counts.map(|count| count.parse::<u64>().unwrap()).sum()
    };
    let without = clients();
    let store = RedisStore::builder(cluster.url())
        .prefix("test")
        .connections(4)
        .operation_timeout(Duration::from_secs(5))
        .build()
        .unwrap();
    assert!(store.wait_connected(PATIENCE).await);
    assert_eq!(store.connections().iter().filter(|connection| connection.is_connected()).count(), 12);
    let tiered = TieredStore::new(1 << 20, store.clone());
    for round in 0..50 {
        let keys: Vec<Key> = (0..16).map(|i| key(&i.to_string())).collect();
        for key in &keys {
            fill(&tiered, key, "x", &["t"]).await;
            assert!(read(&tiered, key).await.is_some());
        }
        invalidate_tag(&tiered, "t").await.unwrap();
        for key in &keys {
            assert_eq!(read(&tiered, key).await, None, "round {round}");
        }
    }
    drop((store, tiered));
    wait_until("the connections to be closed", async || clients() <= without).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_moves_is_followed() {
    let mut cluster = RedisCluster::start(3, 0);
    let store = connect(cluster.url()).await;
    let redis = connect(cluster.url()).await;
    let tiered = TieredStore::new(1 << 20, redis.clone());
    let name = store.0.context.names.entry(&key("a"));
    let added = cluster.add_node();
    let mut from = cluster.index_of(&name);
    for to in [added, from] {
        fill_when_possible(&store, &key("a"), "one", &["t"]).await;
        wait_until("it to be near", async || is_read(&redis, &key("a")).await && tiered.peek(&key("a")).is_some())
            .await;
        cluster.move_slot(slot(&name), from, to);
        if to != added {
            wait_until("it to be read at its new place", async || is_read(&store, &key("a")).await).await;
        }
        // A node that was not seen before could have started from a dump: none of its data is trusted.
        fill_when_possible(&store, &key("a"), "two", &["t"]).await;
        assert_eq!(cluster.index_of(&name), to);
        assert_eq!(read(&store, &key("a")).await.unwrap(), "two");
        store.invalidate(Scope::Key(&key("a")), Hardness::Hard).await.unwrap();
        assert_eq!(read(&store, &key("a")).await, None);
        wait_until("the first tier to let it go", async || tiered.peek(&key("a")).is_none()).await;
        assert!(!is_read(&redis, &key("a")).await);
        from = to;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invalidation_finds_what_is_just_being_moved() {
    let cluster = RedisCluster::start(3, 0);
    let store = connect(cluster.url()).await;
    let entry = store.0.context.names.entry(&key("a"));
    for name in [entry.clone(), token("t")] {
        let from = cluster.index_of(&name);
        let to = (from + 1) % 3;
        for moved_before in [false, true] {
            fill_when_possible(&store, &key("a"), "one", &["t"]).await;
            let acquired =
                StoreBackend::acquire(&store, &key("a"), Seen::Unusable, LEASE, Failures::Heed).await.unwrap();
            let Acquired::Granted(lease) = acquired else { panic!("no lease") };
            let source = &cluster.primaries()[from];
            cluster.begin_to_move_slot(slot(&name), from, to);
            if moved_before {
                let port = cluster.primaries()[to].port().to_string();
                let _: String = source.command(&["MIGRATE", "127.0.0.1", &port, &name, "0", "5000"]);
            }
            if name == entry {
                store.invalidate(Scope::Key(&key("a")), Hardness::Hard).await.unwrap();
            } else {
                invalidate_tag(&store, "t").await.unwrap();
            }
            cluster.finish_to_move_slot(slot(&name), from, to);
            wait_until("the cluster to be used again", async || store.get(&key("a")).await.is_ok()).await;
            assert_eq!(read(&store, &key("a")).await, None, "{name}");
            let late = loaded(lease, "old", &["t"]);
            wait_until("the late fill to be refused", async || match StoreBackend::commit(&store, &late).await {
                Ok(Committed::Stored) => panic!("stored what was invalidated"),
                committed => committed.is_ok(),
            })
            .await;
            cluster.move_slot(slot(&name), to, from);
            wait_until("the slot to be back", async || store.get(&key("a")).await.is_ok()).await;
        }
    }
}

/// Until it asks for the topology again, the store sends what it invalidates to the server that had the tags before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_the_tags_have_moved_a_pattern_and_a_ramp_cover_no_more_than_they_say() {
    let cluster = RedisCluster::start(3, 0);
    let store = connect(cluster.url()).await;
    let mut from = cluster.index_of(&token("t"));
    for (is_ramp, hardness) in [(false, Hardness::Hard), (true, Hardness::Ramp(Duration::from_secs(3_600)))] {
        // In slots that stay.
        for name in ["a", "b"] {
            fill_when_possible(&store, &key(name), "one", &["t"]).await;
        }
        let to = (from + 1) % 3;
        cluster.move_slot(slot(&token("t")), from, to);
        let (pattern, tags) = (Pattern::new("redis:a*"), Tags::new(["t"]));
        let scope = if is_ramp { Scope::Tags(&tags) } else { Scope::Pattern(&pattern) };
        StoreBackend::invalidate(&store, scope, hardness).await.unwrap();
        wait_until("the cluster to be used again", async || store.get(&key("b")).await.is_ok()).await;
        let found = |lookup| match lookup {
            Ok(Lookup::Found(entry)) => Some(entry.is_soft_invalidated()),
            _ => None,
        };
        assert_eq!(found(store.get(&key("b")).await), Some(false), "ramp: {is_ramp}");
        assert_eq!(found(store.get(&key("a")).await), is_ramp.then_some(false), "ramp: {is_ramp}");
        assert_eq!(store.state().hardened_invalidations, 0);
        from = to;
    }
    // While a slot is being moved, nothing is certain but that all of it is void.
    fill_when_possible(&store, &key("b"), "one", &["t"]).await;
    let to = (from + 1) % 3;
    cluster.begin_to_move_slot(slot(&token("t")), from, to);
    let port = cluster.primaries()[to].port().to_string();
    for name in cluster.primaries()[from].keys().iter().filter(|name| slot(name) == slot(&token("t"))) {
        let _: String = cluster.primaries()[from].command(&["MIGRATE", "127.0.0.1", &port, name, "0", "5000"]);
    }
    let heard = Heard::default();
    let cache = Cache::builder(store.clone()).observer(heard.clone()).build();
    cache.delete_pattern("redis:a*").await.unwrap();
    cache.soft_invalidate_tag("t").over(Duration::from_secs(60)).await.unwrap();
    cache.invalidate_tag("t").await.unwrap();
    assert_eq!(store.state().hardened_invalidations, 2);
    let hard = |kind, hardened| Event::Invalidation { kind, soft: false, delivered: true, hardened };
    let (all, tag) = (InvalidationKind::All, InvalidationKind::Tag);
    assert_eq!(*heard.0.lock(), [hard(all, true), hard(tag, true), hard(tag, false)]);
    cluster.finish_to_move_slot(slot(&token("t")), from, to);
    wait_until("the cluster to be used again", async || store.get(&key("b")).await.is_ok()).await;
    assert_eq!(read(&store, &key("b")).await, None);
}

/// Servers are swept in the order of their slots.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_moves_to_a_server_that_was_swept_already_is_swept_all_the_same() {
    let cluster = RedisCluster::start(3, 0);
    let store = connect_with(builder(cluster.url()).lurker_at_once()).await;
    let name = |key: &Key| store.0.context.names.entry(key);
    let last = (0..).map(|n: u32| key(&n.to_string())).find(|key| cluster.index_of(&name(key)) == 2).unwrap();
    // So that it takes a while to go over the second one.
    let tag = (0..).map(|n: u32| format!("{{{n}}}")).find(|tag| cluster.index_of(tag) == 1).unwrap();
    let many = "for n = 1, 60000 do redis.call('SET', KEYS[1] .. n, '') end";
    cluster.primaries()[1].command::<()>(&["EVAL", many, "1", &tag]);
    for is_listed in [false, true] {
        fill_when_possible(&store, &last, "old", &[]).await;
        cluster.primaries().iter().for_each(|node| node.command::<()>(&["CONFIG", "RESETSTAT"]));
        let sweeping = tokio::spawn({
            let (store, pattern) = (store.clone(), Pattern::new("redis:*"));
            async move {
                match is_listed {
                    true => StoreBackend::invalidate(&store, Scope::Pattern(&pattern), Hardness::Hard).await,
                    false => StoreBackend::delete_matching(&store, &pattern).await,
                }
            }
        });
        let scans =
            |node: usize| cluster.primaries()[node].command::<String>(&["INFO", "commandstats"]).contains("_scan:");
        wait_until("the second one to be swept", async || scans(1)).await;
        assert!(scans(0), "in the order of their slots");
        cluster.move_slot(slot(&name(&last)), 2, 0);
        let _ = sweeping.await.unwrap();
        wait_until("all to be swept", async || !store.has_bans().await).await;
        wait_until("the cluster to be used again", async || store.get(&last).await.is_ok()).await;
        assert_eq!(read(&store, &last).await, None, "listed: {is_listed}");
        cluster.move_slot(slot(&name(&last)), 0, 2);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_dies_is_replaced_and_nothing_stale_is_served_by_its_replica() {
    for tags_die in [false, true] {
        let mut cluster = RedisCluster::start(3, 1);
        let store = connect(cluster.url()).await;
        let home = cluster.index_of(&token("t"));
        let key = (0..).map(|i: u32| key(&i.to_string()));
        let key = key.into_iter().find(|key| cluster.index_of(&store.0.context.names.entry(key)) != home).unwrap();
        let index = if tags_die { home } else { cluster.index_of(&store.0.context.names.entry(&key)) };
        let replica = 3 + index;
        fill_when_possible(&store, &key, "old", &["t"]).await;
        let Acquired::Granted(lease) =
            StoreBackend::acquire(&store, &key, Seen::Unusable, Duration::from_secs(60), Failures::Heed).await.unwrap()
        else {
            panic!("no lease")
        };
        wait_until("the replica to have it", async || !cluster.node_mut(replica).keys().is_empty()).await;
        cut_replicas_off(&cluster.primaries()[index]);
        if tags_die {
            invalidate_tag(&store, "t").await.unwrap();
        } else {
            store.invalidate(Scope::Key(&key), Hardness::Hard).await.unwrap();
        }
        cluster.node_mut(index).kill();
        wait_until("the replica to be promoted", async || {
            cluster.node_mut(replica).info("replication", "role") == "master"
        })
        .await;
        wait_until("the replica to be used", async || store.get(&key).await.is_ok()).await;
        assert_eq!(read(&store, &key).await, None);
        assert!(store.state().lost_connections >= 1, "who has left is counted all the same");
        let late = loaded(lease, "old", &["t"]);
        wait_until("the late fill to be refused", async || match StoreBackend::commit(&store, &late).await {
            Ok(Committed::Stored) => panic!("stored what was invalidated"),
            committed => committed.is_ok(),
        })
        .await;
        fill_when_possible(&store, &key, "new", &["t"]).await;
        assert_eq!(read(&store, &key).await.unwrap(), "new");
    }
}

/// The server that had the tags pushes no invalidation that its successor receives.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_load_stands_and_no_request_waits_by_what_a_server_pushes_that_has_left() {
    let cluster = RedisCluster::start(3, 1);
    // Otherwise this process invalidates everything itself.
    let store = connect_with(builder(cluster.url()).on_restored(Restored::Trust)).await;
    let home = cluster.index_of(&token("t"));
    let is_at_home = |key: &Key| cluster.index_of(&store.0.context.names.entry(key)) == home;
    let [there, elsewhere] = [true, false].map(|at_home| {
        (0..).map(|i: u32| key(&i.to_string())).find(|key| is_at_home(key) == at_home).expect("a key for each")
    });
    fill_when_possible(&store, &elsewhere, "old", &["t"]).await;
    let mut leases = Vec::new();
    for key in [&there, &elsewhere] {
        match StoreBackend::acquire(&store, key, Seen::Unusable, Duration::from_secs(600), Failures::Heed).await {
            Ok(Acquired::Granted(lease)) => leases.push(lease),
            other => panic!("no lease: {other:?}"),
        }
    }
    assert!(leases.iter().all(|lease| !StoreBackend::overtaken(&store, lease)));
    let before = store.connection_to_tags();
    let session = before.session().unwrap();
    session.waiters.hardly_poll();
    let waiting = tokio::spawn({
        let store = store.clone();
        async move { store.lease_may_have_ended(&there).await }
    });
    wait_until("it to wait", async || session.waiters.len() == 1).await;

    cluster.fail_over_to(3 + home);
    wait_until("the successor to be used", async || {
        let tags = store.connection_to_tags();
        !Arc::ptr_eq(&tags, &before) && tags.is_connected()
    })
    .await;
    assert!(leases.iter().all(|lease| StoreBackend::overtaken(&store, lease)));
    wait_until("the request to look again", async || waiting.is_finished()).await;
}

/// Whether the pattern was swept at once, or as a ban that is off the list by then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_missed_a_pattern_hears_of_it_again_though_the_tags_are_elsewhere() {
    for is_counted in [true, false] {
        let mut cluster = RedisCluster::start(3, 1);
        let replaying = Restored::Replay(Duration::from_secs(600));
        let store = connect_with(builder(cluster.url()).on_restored(replaying).lurker_at_once()).await;
        let (home, name) = (cluster.index_of(&token("t")), |key: &Key| store.0.context.names.entry(key));
        let key = (0..).map(|i: u32| key(&i.to_string())).find(|key| cluster.index_of(&name(key)) != home).unwrap();
        let index = cluster.index_of(&name(&key));
        let replica = 3 + index;
        fill_when_possible(&store, &key, "old", &[]).await;
        wait_until("the replica to have it", async || !cluster.node_mut(replica).keys().is_empty()).await;
        cut_replicas_off(&cluster.primaries()[index]);
        let pattern = Pattern::new("redis:*");
        if is_counted {
            StoreBackend::delete_matching(&store, &pattern).await.unwrap();
        } else {
            StoreBackend::invalidate(&store, Scope::Pattern(&pattern), Hardness::Hard).await.unwrap();
            wait_until("the ban to be taken off", async || !store.has_bans().await).await;
        }
        cluster.node_mut(index).kill();
        wait_until("the replica to be promoted", async || {
            cluster.node_mut(replica).info("replication", "role") == "master"
        })
        .await;
        wait_until("the replica to be used", async || store.get(&key).await.is_ok()).await;
        assert_eq!(read(&store, &key).await, None, "counted: {is_counted}");
        fill_when_possible(&store, &key, "new", &[]).await;
        assert_eq!(read(&store, &key).await.as_deref(), Some("new"));
    }
}

/// Of two nodes, the one that has the tags is asked for the time: by its clock, processes judge what is fresh.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ramp_of_a_key_is_dated_by_the_clock_that_judges_it() {
    const AHEAD: u64 = 3_600;
    let cluster = RedisCluster::start(3, 0);
    let store = connect(cluster.url()).await;
    let clock = &store.0.context.clock;
    let ahead = || clock.offset().is_some_and(|offset| offset.millis > 1_800_000);
    let turn = loop {
        let now = Clock::system().now();
        let deadlines = crate::entry::Deadlines::fresh_until(now + 3 * AHEAD * 1_000);
        let entry = Entry::new(crate::entry::EntryId::random(), &key("a"), deadlines, Bytes::new(), Bytes::new());
        store.put(vec![(key("a"), entry)], &Tags::default()).await.unwrap();
        // As a heartbeat does.
        clock.note(crate::clock::Uptime::now(), (now / 1_000 + AHEAD, 0));
        let ramp = Hardness::Ramp(Duration::from_secs(10));
        let was_ahead = ahead();
        StoreBackend::invalidate(&store, Scope::Key(&key("a")), ramp).await.unwrap();
        // Otherwise a heartbeat has come before it.
        if was_ahead && ahead() {
            let Ok(Lookup::Found(entry)) = store.get(&key("a")).await else { panic!("it is there") };
            break entry.deadlines().fresh - now;
        }
    };
    let window = (AHEAD - 2) * 1_000..(AHEAD + 60) * 1_000;
    assert!(window.contains(&turn), "{turn} ms");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_gone_is_retried_and_its_invalidations_wait_for_it() {
    let mut cluster = RedisCluster::start(3, 0);
    let store = connect(cluster.url()).await;
    let name = store.0.context.names.entry(&key("a"));
    let index = cluster.index_of(&name);
    fill_when_possible(&store, &key("a"), "old", &[]).await;
    cluster.node_mut(index).stop();
    store.invalidate(Scope::Key(&key("a")), Hardness::Hard).await.unwrap_err();
    cluster.node_mut(index).cont();
    assert!(store.wait_connected(PATIENCE).await);
    wait_until("the node to be used again", async || store.get(&key("a")).await.is_ok()).await;
    assert_eq!(read(&store, &key("a")).await, None);
    fill_when_possible(&store, &key("a"), "new", &[]).await;
}

/// A key of a server that does not have the tags, and the index of that server.
fn key_apart_from_tags(cluster: &RedisCluster, store: &RedisStore) -> (Key, usize) {
    let home = cluster.index_of(&token("t"));
    let index = |key: &Key| cluster.index_of(&store.0.context.names.entry(key));
    let key = (0..).map(|i: u32| key(&i.to_string())).find(|key| index(key) != home).unwrap();
    let index = index(&key);
    (key, index)
}

/// The most invalidations that are kept one by one.
const MOST_KEPT: usize = 10_000;

/// One of everything stands for them then, which is for the server that has the tags: that one was not lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_missed_more_than_is_kept_one_by_one_is_not_read_before_all_of_it_is_void() {
    let cluster = RedisCluster::start(3, 0);
    let store = connect(cluster.url()).await;
    let (apart, index) = key_apart_from_tags(&cluster, &store);
    fill_when_possible(&store, &apart, "old", &[]).await;
    let connection = store.connection(&apart).into_owned();
    let number = || connection.session().map(|session| session.number);
    let before = number();
    store.0.context.outbox.add(Scope::Key(&apart));
    for i in 0..MOST_KEPT {
        store.0.context.outbox.add(Scope::Key(&key(&format!("other {i}"))));
    }
    let _: u64 = cluster.primaries()[index].command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    wait_until("it to be connected again", async || number().is_ok() && number() != before).await;
    wait_until("it to be read again", async || store.get(&apart).await.is_ok()).await;
    assert_eq!(read(&store, &apart).await, None);
    assert_eq!(store.state().pending_invalidations, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_must_hear_again_of_more_than_is_kept_one_by_one_serves_none_of_it() {
    let cluster = RedisCluster::start(3, 1);
    let replaying = Restored::Replay(Duration::from_secs(600));
    let store = connect_with(builder(cluster.url()).on_restored(replaying)).await;
    let (apart, index) = key_apart_from_tags(&cluster, &store);
    fill_when_possible(&store, &apart, "old", &[]).await;
    // As if it had received them, and its replica had not.
    let connection = store.connection(&apart).into_owned();
    let others = (0..).map(|i: u32| key(&format!("other {i}")));
    let others = others.filter(|key| Arc::ptr_eq(&store.connection(key), &connection));
    store.0.context.guard.remember(Scope::Key(&apart));
    others.take(MOST_KEPT + 1_000).for_each(|key| store.0.context.guard.remember(Scope::Key(&key)));
    cluster.fail_over_to(3 + index);
    wait_until("the replica to be used", async || {
        !Arc::ptr_eq(&store.connection(&apart), &connection) && store.get(&apart).await.is_ok()
    })
    .await;
    assert_eq!(read(&store, &apart).await, None);
    assert_eq!(store.state().pending_invalidations, 0);
}

/// Keeps an invalidation, as if its server had not answered.
fn keep(store: &RedisStore, scope: Scope<'_>) {
    store.0.context.outbox.add(scope);
    store.0.topology.beside(&store.connection_of(scope)).iter().for_each(|connection| connection.reset());
}

/// The slot may stay open for long.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_kept_for_a_slot_that_is_being_moved_keeps_no_server_away() {
    let mut cluster = RedisCluster::start(3, 0);
    let added = cluster.add_node();
    let store = connect(cluster.url()).await;
    // Otherwise the slot of the tags lacks a key that is read whenever a connection is made.
    invalidate_tag(&store, "other").await.unwrap();
    let (moved, from) = key_apart_from_tags(&cluster, &store);
    let entry = store.0.context.names.entry(&moved);
    let tags = Tags::new(["t"]);
    for (scope, name) in [(Scope::Key(&moved), entry), (Scope::Tags(&tags), token("t"))] {
        let from = if matches!(scope, Scope::Key(_)) { from } else { cluster.index_of(&name) };
        let stays = |key: &Key| {
            let entry = store.0.context.names.entry(key);
            cluster.index_of(&entry) == from && slot(&entry) != slot(&name)
        };
        let beside = (0..).map(|i: u32| key(&format!("beside {i}"))).find(stays).unwrap();
        let next = (from + 1) % 3;
        // The last one has no slot, so that the store has no connection to it.
        for (to, moved_before) in [(next, false), (next, true), (added, true)] {
            fill_when_possible(&store, &moved, "old", &["t"]).await;
            let case = format!("{scope:?} to {to}, moved before: {moved_before}");
            cluster.begin_to_move_slot(slot(&name), from, to);
            if moved_before {
                let port = cluster.primaries().get(to).unwrap_or(&cluster.replicas()[0]).port().to_string();
                let _: String = cluster.primaries()[from].command(&["MIGRATE", "127.0.0.1", &port, &name, "0", "5000"]);
            }
            keep(&store, scope);
            wait_until(&format!("the server to be used: {case}"), async || store.get(&beside).await.is_ok()).await;
            assert_eq!(store.state().pending_invalidations, 0, "{case}");
            cluster.finish_to_move_slot(slot(&name), from, to);
            wait_until("the cluster to be used again", async || store.get(&moved).await.is_ok()).await;
            assert_eq!(read(&store, &moved).await, None, "{case}");
            cluster.move_slot(slot(&name), to, from);
            wait_until("the slot to be back", async || store.get(&moved).await.is_ok()).await;
        }
    }
}

/// The documentation says of clusters: an entry and its tags lie on different nodes, so a reader may hear of an invalidation a
/// moment after it returned.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_process_hears_of_an_invalidated_tag_within_moments() {
    const ROUNDS: usize = 2_000;
    let cluster = RedisCluster::start(3, 0);
    let (writer, reader) = (connect(cluster.url()).await, connect(cluster.url()).await);
    let tiered = TieredStore::new(1 << 20, connect(cluster.url()).await);
    let home = cluster.index_of(&token("t"));
    // An entry on another node than the tags.
    let names = (0..).map(|i: u32| key(&i.to_string()));
    let key = names.into_iter().find(|key| cluster.index_of(&writer.0.context.names.entry(key)) != home).unwrap();
    let redis: &dyn StoreBackend = &reader;
    for (who, reader) in [("from Redis", redis), ("with a first tier", &tiered)] {
        let (mut delays, mut stale) = (Vec::new(), 0);
        for round in 0..ROUNDS {
            fill(&writer, &key, &round.to_string(), &["t"]).await;
            for _ in 0..2 {
                read(reader, &key).await;
            }
            invalidate_tag(&writer, "t").await.unwrap();
            let returned = Instant::now();
            let mut asked = returned;
            while read(reader, &key).await.is_some() {
                stale += 1;
                assert!(asked.duration_since(returned) < PATIENCE, "round {round}");
                asked = Instant::now();
            }
            // When the first read began that no longer saw the entry.
            delays.push(asked.duration_since(returned));
            assert_eq!(read(&writer, &key).await, None, "who invalidates has heard of it when it returns");
        }
        delays.sort_unstable();
        let at = |share: f64| delays[((delays.len() - 1) as f64 * share) as usize];
        println!(
            "{who}: {stale} stale reads after {ROUNDS} invalidations; none after p50 {:?}, p99 {:?}, max {:?}",
            at(0.5),
            at(0.99),
            at(1.0)
        );
    }
}

/// A server that is short of memory first evicts the keys that are never read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_data_set_ids_of_all_nodes_are_read_though_nothing_else_is() {
    let cluster = RedisCluster::start(3, 0);
    let store = connect(cluster.url()).await;
    let node = &cluster.primaries()[cluster.index_of(&token("t"))];
    let ids: Vec<String> = node.keys().into_iter().filter(|name| name.starts_with("test:mark:")).collect();
    assert_eq!(ids.len(), 3, "{ids:?}");
    let () = node.command(&["CONFIG", "RESETSTAT"]);
    wait_until("each node's connection to read its data set id", async || {
        let stats: String = node.command(&["INFO", "commandstats"]);
        let calls = stats.lines().find_map(|line| line.strip_prefix("cmdstat_mget:calls="));
        calls.is_some_and(|rest| rest.split(',').next().unwrap().parse::<u64>().unwrap() >= 6)
    })
    .await;
    assert_eq!(store.state().lost_connections, 0);
}
