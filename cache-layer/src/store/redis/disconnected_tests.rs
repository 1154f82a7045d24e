//! A first tier that is served for a while after its connection was lost.

use std::time::Duration;

use tests::{RedisServer, wait_until};

use super::{
    fleet_tests::{PATIENCE, connect, fill, invalidate_tag, key, read},
    *,
};
use crate::store::TieredStore;

/// Longer than any of these tests takes.
const LONG: Duration = Duration::from_secs(600);

/// A tier with these entries, each with its name as its tag, whose server has just died.
async fn cut_off(names: &[&str], limit: Duration) -> (TieredStore, RedisServer) {
    let mut server = RedisServer::start();
    let store = TieredStore::new(1 << 20, connect(server.url()).await).serve_while_disconnected(limit);
    for name in names {
        fill(&store, &key(name), name, &[name]).await;
        wait_until("the entry to be near", async || {
            read(&store, &key(name)).await.is_some() && store.peek(&key(name)).is_some()
        })
        .await;
    }
    server.kill();
    wait_until("the loss to be noticed", async || store.get(&key("nothing")).await.is_err()).await;
    (store, server)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_served_until_its_own_process_invalidates_it() {
    let names = ["by key", "by tag", "softly", "by pattern", "by another pattern", "untouched"];
    let (store, _server) = cut_off(&names, LONG).await;
    for name in names {
        assert_eq!(store.peek(&key(name)).unwrap().payload(), name.as_bytes());
    }
    store.invalidate(Scope::Key(&key("by key")), Hardness::Hard).await.unwrap_err();
    invalidate_tag(&store, "by tag").await.unwrap_err();
    store.invalidate(Scope::Tags(&crate::tag::Tags::new(["softly"])), Hardness::Soft).await.unwrap_err();
    store.delete_matching(&Pattern::new("redis:by?pattern")).await.unwrap_err();
    store.delete_matching(&Pattern::new("redis:by%20[a]*pattern")).await.unwrap_err();
    for name in names {
        let expected = name == "untouched" || name == "by pattern";
        assert_eq!(store.peek(&key(name)).is_some(), expected, "{name}");
    }
    store.invalidate(Scope::Everything, Hardness::Hard).await.unwrap_err();
    assert!(store.peek(&key("untouched")).is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_void_once_its_time_is_over() {
    let (store, _server) = cut_off(&["a"], Duration::from_secs(1)).await;
    wait_until("its time to be over", async || store.peek(&key("a")).is_none()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_void_with_the_next_connection() {
    let (store, mut server) = cut_off(&["a"], LONG).await;
    assert!(store.peek(&key("a")).is_some());
    server.restart();
    wait_until("the next connection", async || store.get(&key("a")).await.is_ok()).await;
    assert!(store.peek(&key("a")).is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unless_it_is_asked_for_nothing_is_served() {
    let (store, _server) = cut_off(&["a"], Duration::ZERO).await;
    assert!(store.peek(&key("a")).is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn patterns_that_could_not_be_delivered_are_delivered_first() {
    let mut server = RedisServer::start();
    let mut proxy = tests::FaultProxy::start(server.addr()).await;
    let store = connect(format!("redis://{}", proxy.addr())).await;
    let other = connect(server.url()).await;
    for name in ["a1", "a2", "b"] {
        fill(&store, &key(name), "old", &[]).await;
    }
    proxy.set(tests::Fault::Cut).await;
    wait_until("the connection to be lost", async || !store.connected()).await;
    store.delete_matching(&Pattern::new("redis:a*")).await.unwrap_err();
    proxy.set(tests::Fault::Pass).await;
    assert!(store.wait_connected(PATIENCE).await);
    for store in [&store, &other] {
        assert_eq!((read(store, &key("a1")).await, read(store, &key("a2")).await), (None, None));
        assert_eq!(read(store, &key("b")).await.unwrap(), "old");
    }
    server.kill();
}
