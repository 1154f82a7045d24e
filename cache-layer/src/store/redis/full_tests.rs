//! A server that has no room, and evicts nothing.

use tests::{RedisServer, wait_until};

use super::{
    fleet_tests::{Heard, LEASE, PATIENCE, builder, connect, connect_with, fill, key, read},
    *,
};
use crate::{
    Cache,
    clock::Clock,
    entry::{Deadlines, EntryId},
    pattern::Pattern,
    telemetry::{Event, InvalidationKind, NoCacheReason},
};

fn full_server() -> RedisServer {
    let server = RedisServer::start();
    let () = server.command(&["SET", "foreign", &"x".repeat(4 << 20)]);
    server
}

fn fill_up(server: &RedisServer) {
    let () = server.command(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
    let () = server.command(&["CONFIG", "SET", "maxmemory", "2mb"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_server_is_told_of_and_so_is_its_recovery() {
    let server = full_server();
    let store = connect(server.url()).await;
    assert_eq!(fill(&store, &key("a"), "one", &["t"]).await, Committed::Stored);
    let Acquired::Granted(lease) =
        store.acquire(&key("b"), Seen::Nothing, Duration::from_secs(5), Failures::Heed).await.unwrap()
    else {
        panic!("no lease")
    };
    assert!(!store.state().full && !store.status().await.full);
    fill_up(&server);

    // Before the first attempt, the server's own report counts.
    let status = store.status().await;
    assert!(status.connected && status.full, "{status:?}");
    assert!(status.error.is_some_and(|error| error.contains("maxmemory-policy")));
    assert!(!store.state().full);
    let refused = store.commit(&super::fleet_tests::loaded(lease, "two", &["new"])).await;
    assert_eq!(refused.unwrap_err(), StoreError::Full);
    for _ in 0..3 {
        let refused = store.acquire(&key("c"), Seen::Nothing, Duration::from_secs(5), Failures::Heed).await;
        assert!(matches!(refused, Err(StoreError::Full)), "{refused:?}");
    }
    assert!(store.state().full && store.connected());
    // Stored entries are served, and can be invalidated.
    assert_eq!(read(&store, &key("a")).await.as_deref(), Some("one"));
    store.invalidate(Scope::Tags(&Tags::new(["t"])), Hardness::Hard).await.unwrap();
    assert_eq!(read(&store, &key("a")).await, None);

    let () = server.command(&["CONFIG", "SET", "maxmemory", "0"]);
    wait_until("there to be room again", async || {
        store.acquire(&key("d"), Seen::Unusable, Duration::from_secs(5), Failures::Heed).await.is_ok()
    })
    .await;
    assert_eq!(fill(&store, &key("e"), "three", &[]).await, Committed::Stored);
    assert!(!store.state().full);
    let status = store.status().await;
    assert!(!status.full && status.error.is_none(), "{status:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_stored_for_lack_of_room_says_so() {
    use tower_service::Service as _;

    let server = full_server();
    let store = connect(server.url()).await;
    fill_up(&server);
    let cache = Cache::new(store);
    let layer = crate::CacheLayer::new(cache.clone());
    let application = tower::service_fn(|_| async {
        let response = http::Response::builder().header("cache-control", "max-age=60");
        Ok::<_, std::convert::Infallible>(
            response.body(http_body_util::Full::new(bytes::Bytes::from("hello"))).unwrap(),
        )
    });
    let mut service = tower_layer::Layer::layer(&layer, application);
    // Two keys: for a single one, the second request might still find the load of the first.
    for uri in ["http://a/x", "http://a/y"] {
        let request = http::Request::get(uri).body(http_body_util::Empty::<bytes::Bytes>::new()).unwrap();
        let response = service.call(request).await.unwrap();
        let status = response.headers()["cache-status"].to_str().unwrap().to_owned();
        assert!(status.contains("detail=store-full"), "{status}");
    }
    assert_eq!(NoCacheReason::StoreFull.as_str(), "store-full");
    wait_until("it to be counted", async || cache.counts().unavailable >= 2).await;
}

/// Also if every tag is known, so that only the entry has to be written.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_server_takes_no_entry_of_tags_that_it_has() {
    let server = full_server();
    let store = connect(server.url()).await;
    assert_eq!(fill(&store, &key("a"), "one", &["t"]).await, Committed::Stored);
    assert_eq!(read(&store, &key("a")).await.as_deref(), Some("one"));
    let variant = key("v").variant(b"de");
    let mut leases = Vec::new();
    for key in [&key("b"), &key("v")] {
        let acquired = store.acquire(key, Seen::Nothing, Duration::from_secs(60), Failures::Heed).await.unwrap();
        let Acquired::Granted(lease) = acquired else { panic!("no lease") };
        leases.push(lease);
    }
    let [of_one, of_variant]: [Lease; 2] = leases.try_into().unwrap();
    fill_up(&server);

    let of_one = super::fleet_tests::loaded(of_one, "two", &["t"]);
    assert_eq!(store.commit(&of_one).await.unwrap_err(), StoreError::Full);
    let mut of_variant = super::fleet_tests::loaded(of_variant, "two", &["t"]);
    let entry = |key: &Key| {
        let deadlines = Deadlines::fresh_until(Clock::system().now() + 600_000);
        (key.clone(), Entry::new(EntryId::random(), key, deadlines, bytes::Bytes::new(), "two".into()))
    };
    of_variant.writes.entries.push(entry(&variant));
    assert_eq!(store.commit(&of_variant).await.unwrap_err(), StoreError::Full);
    for key in [&key("b"), &key("v"), &variant] {
        assert_eq!(read(&store, key).await, None);
    }

    // An entry that can't be replaced is deleted at once, over the existing connection.
    let put = store.put(vec![entry(&key("a")), entry(&key("c"))], &Tags::new(["t"])).await;
    assert_eq!(put.unwrap_err(), StoreError::Full);
    assert_eq!(read(&store, &key("a")).await, None);
    assert_eq!(read(&store, &key("c")).await, None);
    let state = store.state();
    assert_eq!((state.pending_invalidations, state.lost_connections), (0, 0));

    let () = server.command(&["CONFIG", "SET", "maxmemory", "0"]);
    assert_eq!(store.commit(&of_one).await.unwrap(), Committed::Stored, "it kept its lease");
    assert_eq!(store.commit(&of_variant).await.unwrap(), Committed::Stored);
    assert_eq!(read(&store, &variant).await.as_deref(), Some("two"));
}

/// There is no room to write how soft it is: the token goes, and with it every entry of its tag.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_soft_invalidation_that_a_full_server_makes_hard_is_told_of_as_hard() {
    let server = full_server();
    let store = connect(server.url()).await;
    fill(&store, &key("a"), "one", &["t"]).await;
    let heard = Heard::default();
    let cache = Cache::builder(store.clone()).observer(heard.clone()).build();
    cache.soft_invalidate_tag("t").await.unwrap();
    assert!(read(&store, &key("a")).await.is_some());
    fill_up(&server);
    cache.soft_invalidate_tag("t").await.unwrap();
    assert_eq!(read(&store, &key("a")).await, None);
    cache.invalidate_tag("t").await.unwrap();
    let told = |soft, hardened| Event::Invalidation { kind: InvalidationKind::Tag, soft, delivered: true, hardened };
    assert_eq!(*heard.0.lock(), [told(true, false), told(false, true), told(false, false)]);
    assert_eq!(store.state().hardened_invalidations, 1);
}

/// The id of the data set can't be written, and the old one must not stay.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_restarted_as_full_as_it_was_is_connected_to_once() {
    let mut server = RedisServer::builder().config("maxmemory 2mb").config("maxmemory-policy noeviction").start();
    let () = server.command(&["CONFIG", "SET", "maxmemory", "0"]);
    // Longer than a busy machine is silent, so that no connection is lost for that.
    let store = connect_with(builder(server.url()).operation_timeout(PATIENCE)).await;
    assert_eq!(fill(&store, &key("a"), "old", &["t"]).await, Committed::Stored);
    let () = server.command(&["SET", "foreign", &"x".repeat(4 << 20)]);
    let () = server.command(&["SAVE"]);
    server.kill();
    wait_until("the loss to be noticed", async || !store.connected()).await;
    server.restart();
    wait_until("the server to be back", async || store.connected()).await;
    let lost = store.state().lost_connections;

    assert!(store.state().full, "it is told");
    assert_eq!(read(&store, &key("a")).await, None);
    let left = server.keys();
    assert!(!left.contains(&"test:id".to_owned()) && !left.contains(&"test:mark".to_owned()), "{left:?}");
    // Some heartbeats.
    tokio::time::sleep(Duration::from_millis(3_500)).await;
    assert!(store.connected());
    assert_eq!(store.state().lost_connections, lost);

    let () = server.command(&["CONFIG", "SET", "maxmemory", "0"]);
    wait_until("the data set to have an id", async || server.keys().contains(&"test:mark".to_owned())).await;
    assert_eq!(read(&store, &key("a")).await, None);
    assert_eq!(store.state().lost_connections, lost);
}

/// Redis refuses `SET` then, also of the key by which a process is elected, and of the list without its bans.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_void_on_a_full_server_is_swept_all_the_same() {
    let server = full_server();
    let node = connect_with(builder(server.url()).lurker(false)).await;
    for n in 0..40 {
        fill(&node, &key(&format!("hard {n}")), "x", &[]).await;
        fill(&node, &key(&format!("soft {n}")), "x", &[]).await;
        fill(&node, &key(&format!("tagged {n}")), "x", &["t"]).await;
    }
    node.invalidate(Scope::Pattern(&Pattern::new("redis:hard*")), Hardness::Hard).await.unwrap();
    node.invalidate(Scope::Pattern(&Pattern::new("redis:soft*")), Hardness::Soft).await.unwrap();
    fill_up(&server);
    assert!(server.command::<Option<String>>(&["GET", "foreign"]).is_some());
    node.invalidate(Scope::Tags(&Tags::new(["t"])), Hardness::Hard).await.unwrap();
    let refused = node.acquire(&key("new"), Seen::Nothing, LEASE, Failures::Heed).await;
    assert!(matches!(refused, Err(StoreError::Full)), "{refused:?}");
    let there = |kind: &str| server.keys().iter().filter(|name| name.contains(&format!("redis:{kind}"))).count();
    assert_eq!(["hard", "soft", "tagged"].map(there), [40; 3]);

    let sweeper = builder(server.url()).lurker_at_once().reclaim_every(Duration::from_secs(1));
    let sweeper = connect_with(sweeper).await;
    sweeper.begin_to_lurk();
    wait_until("the bans to be off the list", async || !sweeper.has_bans().await).await;
    wait_until("what the tag made void to be gone", async || there("tagged") == 0).await;
    assert_eq!(["hard", "soft"].map(there), [0, 40]);
    for n in 0..40 {
        let found = node.get(&key(&format!("soft {n}"))).await.unwrap();
        let is_soft = |entry: Entry| entry.seen_at(|| Clock::system().now()).is_soft_invalidated();
        assert!(matches!(&found, Lookup::Found(entry) if is_soft(entry.clone())), "{found:?}");
    }
    let refused = node.acquire(&key("new"), Seen::Nothing, LEASE, Failures::Heed).await;
    assert!(matches!(refused, Err(StoreError::Full)), "it is full all the time: {refused:?}");
}
