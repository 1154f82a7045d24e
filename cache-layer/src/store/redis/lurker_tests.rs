//! Sweeps: what they take, what they spare, and what look-ups make of the list while it changes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::{FutureExt as _, future::join_all};
use tests::{Fault, FaultProxy, RedisServer, wait_until};

use super::{
    fleet_tests::{PATIENCE, builder, commit, connect_with, fill, invalidate_tag, key, read},
    tracking::tag_tracker::SharedTurn,
    wire::{names::EVERYTHING, scripts},
    *,
};
use crate::{
    store::{Sweep, SweepListener},
    sync::Mutex,
    telemetry::SweepCause,
};

/// Longer than any sweep takes: what ends such a lease is the sweep.
const LEASE: Duration = Duration::from_secs(60);

pub(super) async fn ban(store: &impl StoreBackend, pattern: &str) {
    store.invalidate(Scope::Pattern(&Pattern::new(pattern)), Hardness::Hard).await.unwrap();
}

pub(super) async fn lease(store: &RedisStore, key: &Key) -> Lease {
    match StoreBackend::acquire(store, key, Seen::Unusable, LEASE, Failures::Heed).await.unwrap() {
        Acquired::Granted(lease) => lease,
        other => panic!("no lease: {other:?}"),
    }
}

/// A store that does not sweep.
pub(super) async fn idle(url: String) -> RedisStore {
    connect_with(builder(url).lurker(false)).await
}

/// Has another process sweep all bans, and waits until that is done.
pub(super) async fn sweep_all(url: String) -> Vec<Sweep> {
    let lurker = connect_with(builder(url).lurker_at_once()).await;
    let sweeps = Arc::new(Mutex::new(Vec::new()));
    let heard = sweeps.clone();
    let listener: Arc<SweepListener> = Arc::new(move |sweep: &Sweep| heard.lock().push(sweep.clone()));
    lurker.on_sweep(&listener);
    lurker.begin_to_lurk();
    wait_until("all bans to be swept", async || !lurker.has_bans().await && !sweeps.lock().is_empty()).await;
    let sweeps = sweeps.lock();
    sweeps.clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_that_knows_of_a_ban_keeps_its_lease_while_that_is_swept() {
    let server = RedisServer::start();
    let (node, other) = (idle(server.url()).await, idle(server.url()).await);
    fill(&node, &key("sink"), "x", &[]).await;
    let (early, capped) = (lease(&node, &key("early")).await, Key::new(["redis:", &"x".repeat(300)]));
    ban(&other, "redis:*").await;
    // All pushes before this reply have been received.
    node.get(&key("nothing")).await.unwrap();
    let mut late = vec![lease(&node, &key("late")).await, lease(&node, &capped).await];
    // The look-up takes the lease.
    assert!(matches!(node.get(&key("claimed")).await, Ok(Lookup::Absent)));
    late.push(lease(&node, &key("claimed")).await);
    fill(&node, &key("fresh"), "fresh", &[]).await;
    // As of a load that knew of a younger ban, of another line of tokens.
    let of_another_line = node.0.context.names.lease(&key("another line"));
    let value = format!("{:016x}{}{:015x}", 7, "f".repeat(16), 7);
    server.command::<()>(&["SET", &of_another_line, &value]);

    let sweeps = sweep_all(server.url()).await;
    let [Sweep { cause: SweepCause::Pattern, patterns, swept, .. }] = &sweeps[..] else { panic!("{sweeps:?}") };
    assert_eq!((&patterns[..], swept.removed), (&["redis:*".to_owned()][..], 1));
    assert!(swept.examined > 0);
    assert_eq!(server.command::<u64>(&["EXISTS", &of_another_line]), 0);
    assert_eq!(read(&other, &key("fresh")).await.as_deref(), Some("fresh"), "it was loaded after the ban");
    assert_eq!(commit(&node, early, "old", &[]).await, Committed::Refused);
    for lease in late {
        let key = lease.key.clone();
        assert!(StoreBackend::renew(&node, &lease, LEASE).await.unwrap(), "{key:?}");
        assert!(StoreBackend::is_held_by(&other, &key, lease.token).await.unwrap(), "{key:?}");
        assert_eq!(commit(&node, lease, "new", &[]).await, Committed::Stored, "{key:?}");
        assert_eq!(read(&other, &key).await.as_deref(), Some("new"), "{key:?}");
    }
}

/// The name of such a lease shows how the key begins: no pattern can be compared with the rest.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_of_a_capped_key_is_swept_unless_its_load_knew_of_the_youngest_ban() {
    let server = RedisServer::start();
    let (node, other) = (idle(server.url()).await, idle(server.url()).await);
    let capped = Key::new(["redis:", &"x".repeat(300), ":end"]);
    // Of a load that knew of no ban, and of one that knew of a ban that covers it, and not of the next one.
    for known in [None, Some("redis:*")] {
        fill(&node, &key("sink"), "x", &[]).await;
        if let Some(known) = known {
            ban(&other, known).await;
            // All pushes before this reply have been received.
            node.get(&key("nothing")).await.unwrap();
        }
        let held = lease(&node, &capped).await;
        assert_eq!(held.bans.as_ref().is_some_and(|bans| bans.newest() > 0), known.is_some());
        ban(&other, "*:end").await;
        sweep_all(server.url()).await;
        assert!(!StoreBackend::is_held_by(&other, &capped, held.token).await.unwrap(), "{known:?}");
        assert_eq!(commit(&node, held, "old", &[]).await, Committed::Refused, "{known:?}");
    }
}

/// This makes it safe to join a load under way, as after an invalidation of a tag.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_read_after_a_ban_by_another_node_knows_that_a_lease_is_overtaken() {
    let server = RedisServer::start();
    let (node, other) = (idle(server.url()).await, idle(server.url()).await);
    for place in [key("a"), key("b").variant(b"de")] {
        let held = lease(&node, &place).await;
        assert!(!node.overtaken(&held), "it is still to come");
        ban(&other, "redis:*").await;
        // All pushes before this reply have been received.
        node.get(&key("nothing")).await.unwrap();
        assert!(node.overtaken(&held), "{place:?}");
    }
}

/// With 128 long patterns, the list has 130 KiB.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_look_up_reads_the_list_for_all_that_need_it() {
    const KEYS: usize = 200;
    // Each heartbeat reads the list as well: every second, for each of the two stores.
    const FEW: usize = 20;
    let server = RedisServer::start();
    let mut road = FaultProxy::start(server.addr()).await;
    // Who waits for the read of another one does so for a quarter of this time.
    let node = builder(format!("redis://{}", road.addr())).operation_timeout(PATIENCE).lurker(false);
    let node = connect_with(node).await;
    let other = idle(server.url()).await;
    let keys: Vec<Key> = (0..KEYS).map(|n| key(&n.to_string())).collect();
    for key in &keys {
        fill(&node, key, "x", &[]).await;
    }
    for n in 0..100 {
        ban(&other, &format!("nobody's:{}{n}", "x".repeat(1_000))).await;
    }
    let list: usize = server.command(&["STRLEN", &node.0.context.names.tag(EVERYTHING)]);
    assert!(list > 100_000);
    let sent = || -> usize { server.info("stats", "total_net_output_bytes").parse().unwrap() };
    // Without heartbeats: a push that comes late may have the list read once more.
    let reads = || node.round_trips().find(|(name, _)| *name == "MGET").map_or(0, |(_, count)| count);
    let session = node.connection_to_tags().session().unwrap();
    // All entries are there before the list is.
    road.set(Fault::Delay(Duration::from_millis(50))).await;
    // First it does not know that there is a list, and then it does.
    for known in [false, true] {
        assert_eq!(node.0.context.has_bans.load(Ordering::SeqCst), known);
        // As by a push.
        session.tokens.void(EVERYTHING);
        let (before, reads_before) = (sent(), reads());
        for found in join_all(keys.iter().map(|key| node.lookup(key, false))).await {
            assert!(matches!(found, Ok(Lookup::Found(_))), "{found:?}");
        }
        let lists = (sent() - before) / list;
        assert!((1..=FEW).contains(&lists), "{lists} of {KEYS} look-ups read the list");
        assert!((1..=3).contains(&(reads() - reads_before)), "{} of {KEYS} look-ups read it", reads() - reads_before);
    }
    session.tokens.void(EVERYTHING);
    let before = sent();
    let keys: Vec<Key> = (0..KEYS).map(|n| key(&format!("new {n}"))).collect();
    let acquired = join_all(keys.iter().map(|key| lease(&node, key))).await;
    assert!(acquired.iter().all(|lease| lease.bans.is_some()));
    let lists = (sent() - before) / list;
    assert!(lists <= FEW, "{lists} of {KEYS} loads read the list");
}

/// As one of several futures of a task that does something else meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_look_up_that_is_no_longer_polled_stops_no_other() {
    let server = RedisServer::start();
    let node = idle(server.url()).await;
    let key = key("a");
    fill(&node, &key, "x", &[]).await;
    let session = node.connection_to_tags().session().unwrap();
    session.tokens.void(EVERYTHING);
    let mut left = Box::pin(node.lookup(&key, false));
    let is_led = || matches!(session.tokens.share_read(), SharedTurn::Follow(_));
    wait_until("it reads for all", async || {
        // It has to be left while it reads: if it has ended already, another one begins.
        if left.as_mut().now_or_never().is_some() {
            session.tokens.void(EVERYTHING);
            left = Box::pin(node.lookup(&key, false));
        }
        is_led()
    })
    .await;
    for _ in 0..3 {
        let found = node.lookup(&key, false).await;
        assert!(matches!(found, Ok(Lookup::Found(_))), "{found:?}");
        session.tokens.void(EVERYTHING);
    }
    drop(left);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_that_several_bans_cover_counts_once() {
    let server = RedisServer::start();
    let node = idle(server.url()).await;
    for name in ["a", "ab", "c"] {
        fill(&node, &key(name), "x", &[]).await;
    }
    for (pattern, hardness) in [
        ("redis:a*", Hardness::Soft),
        ("redis:ab", Hardness::Ramp(Duration::from_secs(3_600))),
        ("redis:*b", Hardness::Soft),
    ] {
        node.invalidate(Scope::Pattern(&Pattern::new(pattern)), hardness).await.unwrap();
    }
    let sweeps = sweep_all(server.url()).await;
    let removed: u64 = sweeps.iter().map(|sweep| sweep.swept.removed).sum();
    assert_eq!((sweeps[0].swept.examined, removed), (3, 2), "{sweeps:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_tags_made_void_is_reclaimed_and_nothing_else() {
    let server = RedisServer::start();
    let (node, other) = (idle(server.url()).await, idle(server.url()).await);
    for n in 0..300 {
        let tag = ["hard", "soft", "lost", "kept"][n % 4];
        fill(&node, &key(&n.to_string()), tag, &[tag, "all"]).await;
    }
    fill(&node, &key("0").variant(b"de"), "variant", &["hard"]).await;
    let entries = || server.keys().iter().filter(|name| name.starts_with("test:e:")).count();
    assert_eq!(entries(), 301);
    // `SCAN` may name an entry twice.
    let swept = other.reclaim_now().await;
    assert!(swept.examined >= 301 && swept.removed == 0, "{swept:?}");
    invalidate_tag(&other, "hard").await.unwrap();
    other.invalidate(Scope::Tags(&Tags::new(["soft"])), Hardness::Soft).await.unwrap();
    other.invalidate(Scope::Tags(&Tags::new(["all"])), Hardness::Ramp(Duration::from_secs(60))).await.unwrap();
    server.command::<()>(&["DEL", "test:t:lost"]);
    // What is loaded since is no longer void.
    fill(&node, &key("0"), "new", &["hard"]).await;
    server.command::<()>(&["SET", &node.0.context.names.entry(&key("foreign")), "no entry"]);
    let swept = other.reclaim_now().await;
    assert!(swept.examined >= 302 && swept.removed == 75 + 75, "{swept:?}");
    assert_eq!(read(&node, &key("0")).await.as_deref(), Some("new"));
    for n in 1..300 {
        let found = read(&node, &key(&n.to_string())).await;
        assert_eq!(found.is_some(), n % 4 == 1 || n % 4 == 3, "{n}");
    }
    other.invalidate(Scope::Everything, Hardness::Hard).await.unwrap();
    assert_eq!(other.reclaim_now().await.removed, 151);
    assert_eq!(entries(), 1, "the one that is none");
}

/// Another program's, such that a server takes it for one of an entry.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_only_looks_like_an_entrys_does_not_end_the_reclaiming() {
    let server = RedisServer::start();
    let node = idle(server.url()).await;
    server.command::<()>(&["SET", "test:e:{zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz}:-:x", "1"]);
    assert_eq!(node.reclaim_now().await.examined, 0);
    assert_eq!(server.command::<u64>(&["EXISTS", "test:e:{zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz}:-:x"]), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_taken_the_place_of_a_void_entry_is_not_reclaimed() {
    let server = RedisServer::start();
    let node = idle(server.url()).await;
    fill(&node, &key("a"), "new", &[]).await;
    let mut driver = node.connection_to_tags().session().unwrap().driver();
    let mut reclaim = scripts::RECLAIM.key(node.0.context.names.entry(&key("a")));
    let removed: u64 = reclaim.arg("0123456789abcdef").invoke_async(&mut driver).await.unwrap();
    assert_eq!((removed, read(&node, &key("a")).await.as_deref()), (0, Some("new")));
}

/// A token that was read before an entry was written says nothing about that entry.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_loaded_while_it_is_reclaimed_stays() {
    let server = RedisServer::start();
    let (node, other) = (idle(server.url()).await, idle(server.url()).await);
    for n in 0..3_000 {
        let entry = loaded_entry(&key(&n.to_string()));
        node.put(vec![entry], &Tags::new(["t"])).await.unwrap();
    }
    let done = AtomicBool::new(false);
    let reclaiming = async {
        let mut removed = 0;
        for _ in 0..5 {
            removed += other.reclaim_now().await.removed;
        }
        done.store(true, Ordering::SeqCst);
        removed
    };
    let loading = async {
        let mut rounds = 0;
        while rounds < 20 || !done.load(Ordering::SeqCst) {
            invalidate_tag(&node, "t").await.unwrap();
            let keys: Vec<Key> = (0..100).map(|_| key(&fastrand::usize(..3_000).to_string())).collect();
            node.put(keys.iter().map(loaded_entry).collect(), &Tags::new(["t"])).await.unwrap();
            for _ in 0..2 {
                for key in &keys {
                    assert!(read(&node, key).await.is_some(), "round {rounds}: {key:?}");
                }
                // The deletion of what was judged before may still come.
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            rounds += 1;
        }
    };
    let (removed, ()) = tokio::join!(reclaiming, loading);
    assert!(removed > 0);
}

fn loaded_entry(key: &Key) -> (Key, Entry) {
    let deadlines = crate::entry::Deadlines::fresh_until(Clock::system().now() + 600_000);
    (key.clone(), Entry::new(crate::entry::EntryId::random(), key, deadlines, Bytes::new(), Bytes::from_static(b"x")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_process_reclaims_and_the_others_leave_it_alone() {
    let server = RedisServer::start();
    let every = Duration::from_secs(1);
    let nodes = [0, 1, 2].map(|_| builder(server.url()).reclaim_every(every));
    let (sweeps, mut stores) = (Arc::new(Mutex::new(0)), Vec::new());
    let heard = sweeps.clone();
    let listener: Arc<SweepListener> = Arc::new(move |sweep: &Sweep| {
        *heard.lock() += usize::from(sweep.cause == SweepCause::Tag && sweep.swept.removed == 1);
    });
    for node in nodes {
        let store = connect_with(node).await;
        store.on_sweep(&listener);
        stores.push(store);
    }
    fill(&stores[0], &key("a"), "x", &["t"]).await;
    invalidate_tag(&stores[1], "t").await.unwrap();
    let name = stores[0].0.context.names.entry(&key("a"));
    wait_until("it to be reclaimed", async || server.command::<u64>(&["EXISTS", &name]) == 0).await;
    wait_until("it to be told", async || *sweeps.lock() == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_process_has_reclaimed_no_other_looks_for_again() {
    let server = RedisServer::start();
    let sweeps = Arc::new(Mutex::new(0));
    let heard = sweeps.clone();
    let listener: Arc<SweepListener> = Arc::new(move |_: &Sweep| *heard.lock() += 1);
    let mut stores = Vec::new();
    for _ in 0..3 {
        let store = connect_with(builder(server.url()).reclaim_every(Duration::from_secs(1))).await;
        store.on_sweep(&listener);
        stores.push(store);
    }
    let asked = |store: &RedisStore| {
        let count = store.round_trips().find(|(name, _)| *name == "last_invalidation");
        count.map_or(0, |(_, count)| count)
    };
    let names = &stores[0].0.context.names;
    for passes in 1..=2 {
        wait_until("a pass", async || *sweeps.lock() == passes).await;
        wait_until("its term to be over", async || server.command::<u64>(&["EXISTS", &names.reclaimer()]) == 0).await;
        let before: Vec<u64> = stores.iter().map(asked).collect();
        wait_until("each to have asked again", async || {
            stores.iter().zip(&before).all(|(store, before)| asked(store) >= before + 2)
        })
        .await;
        assert_eq!(*sweeps.lock(), passes, "nothing was invalidated since the last pass of the fleet");
        invalidate_tag(&stores[0], "t").await.unwrap();
    }
    wait_until("a pass after the invalidation", async || *sweeps.lock() == 3).await;
}

#[cfg(feature = "cluster")]
mod cluster {
    use tests::{RedisCluster, slot};

    use super::*;
    use crate::store::{
        Restored, TieredStore,
        redis::{fleet_tests::connect, tracking::dataset_guard_tests::fill_when_possible},
    };

    /// A node that gets its first slot while bans are swept has entries that no sweep has seen.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_moves_to_a_node_without_slots_is_swept_before_the_ban_is_taken_off() {
        let mut cluster = RedisCluster::start(3, 0);
        let added = cluster.add_node();
        // The data of a node that appears is trusted.
        let url = cluster.url();
        let trusting = || builder(url.clone()).on_restored(Restored::Trust);
        let node = connect_with(trusting().lurker(false)).await;
        let name = node.0.context.names.entry(&key("a"));
        fill(&node, &key("a"), "old", &[]).await;
        let (moving, from) = (slot(&name), cluster.index_of(&name));
        cluster.begin_to_move_slot(moving, from, added);
        let port = cluster.node_mut(added).port().to_string();
        let _: String = cluster.primaries()[from].command(&["MIGRATE", "127.0.0.1", &port, &name, "0", "5000"]);
        ban(&node, "redis:*").await;

        let lurker = connect_with(trusting().lurker_at_once()).await;
        lurker.begin_to_lurk();
        let scans = || lurker.round_trips().find(|(name, _)| *name == "SCAN").map_or(0, |(_, count)| count);
        wait_until("the other nodes to be swept", async || scans() >= 6).await;
        // Longer than it takes until the list would be shortened.
        tokio::time::sleep(Duration::from_secs(7)).await;
        assert!(lurker.has_bans().await, "the entry is on a node that was not swept");
        wait_until("an operator to hear of it", async || lurker.state().bans_held_up.is_some()).await;
        cluster.finish_to_move_slot(moving, from, added);
        wait_until("the ban to be taken off", async || !lurker.has_bans().await).await;
        assert_eq!(lurker.state().bans_held_up, None);
        // All of them again, if the connection to it took longer.
        assert!(scans() >= 8, "the node that was added, twice");
        assert!(!cluster.node_mut(added).keys().contains(&name));
        wait_until("the node to be used", async || node.get(&key("a")).await.is_ok()).await;
        assert_eq!(read(&node, &key("a")).await, None);
    }

    /// Neither a sweep that is counted nor one for want of room on the list knows of the node that gets its first slot.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_moves_to_a_node_without_slots_is_void_for_a_pattern_that_is_swept_at_once() {
        let mut cluster = RedisCluster::start(3, 0);
        let added = cluster.add_node();
        let node = connect_with(builder(cluster.url()).on_restored(Restored::Trust).lurker(false)).await;
        let name = node.0.context.names.entry(&key("a"));
        let (moving, from) = (slot(&name), cluster.index_of(&name));
        let port = cluster.node_mut(added).port().to_string();
        let too_long = Pattern::new(&format!("redis:[a{}]", "b".repeat(1_100)));
        for is_counted in [true, false] {
            wait_until("the added node to have no slot", async || node.0.topology.one_of_each_server().len() == 3)
                .await;
            fill_when_possible(&node, &key("a"), "old", &[]).await;
            cluster.begin_to_move_slot(moving, from, added);
            let _: String = cluster.primaries()[from].command(&["MIGRATE", "127.0.0.1", &port, &name, "0", "5000"]);
            if is_counted {
                assert_eq!(node.delete_matching(&Pattern::new("redis:*")).await.unwrap().deleted, 0);
            } else {
                node.invalidate(Scope::Pattern(&too_long), Hardness::Hard).await.unwrap();
            }
            cluster.finish_to_move_slot(moving, from, added);
            wait_until("the node to be used", async || node.get(&key("a")).await.is_ok()).await;
            assert_eq!(read(&node, &key("a")).await, None, "counted: {is_counted}");
            cluster.move_slot(moving, added, from);
        }
    }

    /// It can't say whether it hands a slot over.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn while_a_node_does_not_answer_no_ban_is_taken_off() {
        let mut cluster = RedisCluster::start(3, 0);
        let added = cluster.add_node();
        for index in 0..=added {
            cluster.node_mut(index).command::<()>(&["CONFIG", "SET", "cluster-node-timeout", "120000"]);
        }
        let url = cluster.url();
        let trusting = || builder(url.clone()).on_restored(Restored::Trust);
        let node = connect_with(trusting().lurker(false)).await;
        let name = |key: &Key| node.0.context.names.entry(key);
        let tags = cluster.index_of(&node.0.context.names.tag(EVERYTHING));
        let moved = (0..).map(|n: u32| key(&n.to_string())).find(|key| cluster.index_of(&name(key)) != tags).unwrap();
        fill(&node, &moved, "old", &[]).await;
        let (moved_name, from) = (name(&moved), cluster.index_of(&name(&moved)));
        cluster.begin_to_move_slot(slot(&moved_name), from, added);
        let port = cluster.node_mut(added).port().to_string();
        let _: String = cluster.primaries()[from].command(&["MIGRATE", "127.0.0.1", &port, &moved_name, "0", "5000"]);
        ban(&node, "redis:*").await;

        let lurker = connect_with(trusting().lurker_at_once()).await;
        lurker.begin_to_lurk();
        let scans = || lurker.round_trips().find(|(name, _)| *name == "SCAN").map_or(0, |(_, count)| count);
        wait_until("the other nodes to be swept", async || scans() >= 6).await;
        // Its sweep is over by then; a second later, it looks for servers that it has not swept.
        tokio::time::sleep(Duration::from_secs(4)).await;
        cluster.node_mut(from).stop();
        wait_until("an operator to hear of it", async || lurker.state().bans_held_up.is_some()).await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert!(lurker.has_bans().await, "the entry is on a node that was not swept");
        cluster.node_mut(from).cont();
        cluster.finish_to_move_slot(slot(&moved_name), from, added);
        wait_until("the ban to be taken off", async || !lurker.has_bans().await).await;
        wait_until("the node to be used", async || node.get(&moved).await.is_ok()).await;
        assert_eq!(read(&node, &moved).await, None);
    }

    /// A name that both rounds find counts once.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_sweep_that_goes_round_twice_counts_once() {
        let cluster = RedisCluster::start(3, 0);
        let node = connect_with(builder(cluster.url()).lurker(false)).await;
        for n in 0..12 {
            fill(&node, &key(&n.to_string()), "x", &[]).await;
        }
        for pattern in ["redis:1*", "redis:*"] {
            node.invalidate(Scope::Pattern(&Pattern::new(pattern)), Hardness::Soft).await.unwrap();
        }
        let sweeps = sweep_all(cluster.url()).await;
        assert_eq!(sweeps[0].swept, crate::store::Swept { examined: 12, removed: 12 });
    }

    /// The server that has the tags says that a ban was taken off; the sweep of another server is not heard of.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_first_tier_that_hears_of_a_ban_and_not_of_its_sweep_serves_nothing_older() {
        let cluster = RedisCluster::start(3, 0);
        for node in cluster.primaries() {
            node.command::<()>(&["ACL", "SETUSER", "reader", "on", ">secret", "~*", "&*", "+@all"]);
        }
        let writer = connect(cluster.url()).await;
        let url = cluster.url().replace("://", "://reader:secret@");
        let reader = connect_with(builder(url).lurker(false)).await;
        let tiered = TieredStore::new(1 << 20, reader.clone()).serve_while_disconnected(Duration::from_secs(600));
        let home = cluster.index_of(&reader.0.context.names.tag(EVERYTHING));
        let index = |key: &Key| cluster.index_of(&reader.0.context.names.entry(key));
        let keys = || (0..).map(|n: u32| key(&n.to_string()));
        let there = keys().find(|key| index(key) != home).unwrap();
        let beside_tags = keys().find(|key| index(key) == home).unwrap();
        for key in [&there, &beside_tags] {
            fill(&writer, key, "old", &[]).await;
        }
        wait_until("the entry to be near", async || {
            read(&tiered, &there).await.is_some() && tiered.peek(&there).is_some()
        })
        .await;
        let lost = &cluster.primaries()[index(&there)];
        lost.command::<()>(&["ACL", "SETUSER", "reader", "off"]);
        lost.command::<u64>(&["CLIENT", "KILL", "USER", "reader"]);
        wait_until("the loss to be noticed", async || reader.connection(&there).session().is_err()).await;
        assert!(tiered.peek(&there).is_some(), "it is served for a while");

        ban(&writer, &there.readable()).await;
        writer.begin_to_lurk();
        wait_until("the ban to be swept and taken off", async || !writer.has_bans().await).await;
        wait_until("the reader to know that", async || {
            let _ = reader.get(&beside_tags).await;
            reader.bans_listed().is_some_and(|bans| bans.is_empty() && bans.newest() > 0)
        })
        .await;
        assert!(tiered.peek(&there).is_none(), "the ban voided it");
        // What is loaded after the ban, over a connection that is there, is served.
        fill(&writer, &beside_tags, "new", &[]).await;
        wait_until("the other one to be near", async || {
            read(&tiered, &beside_tags).await.as_deref() == Some("new") && tiered.peek(&beside_tags).is_some()
        })
        .await;
    }
}
