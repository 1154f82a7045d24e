//! Leases that look-ups take, and what happens to those that no load takes.

use std::{task::Poll, time::Duration};

use futures_util::poll;
use tests::{RedisServer, wait_until};

use super::{
    fleet_tests::{LEASE, commit, connect, fill, key, read},
    *,
};
use crate::{
    clock::Clock,
    entry::{Deadlines, EntryId},
    store::Writes,
};

/// A store that has begun to work, so that it knows the life of leases.
async fn working(server: &RedisServer) -> RedisStore {
    let store = connect(server.url()).await;
    fill(&store, &key("first"), "x", &[]).await;
    store
}

async fn acquire(store: &RedisStore, key: &Key, seen: Seen) -> Acquired {
    store.acquire(key, seen, LEASE, Failures::Heed).await.unwrap()
}

fn went(store: &RedisStore, operation: &str) -> u64 {
    store.round_trips().find(|(name, _)| *name == operation).map_or(0, |(_, count)| count)
}

fn lease_name(store: &RedisStore, name: &str) -> String {
    store.0.context.names.lease(&key(name))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_load_has_the_lease_that_its_look_up_took_along() {
    let server = RedisServer::start();
    let store = working(&server).await;
    let before = went(&store, "acquire");
    for round in 0..100 {
        let place = key(&round.to_string());
        assert!(matches!(store.get(&place).await, Ok(Lookup::Absent)));
        let Acquired::Granted(lease) = acquire(&store, &place, Seen::Nothing).await else { panic!("no lease") };
        assert!(!store.overtaken(&lease));
        assert_eq!(commit(&store, lease, "value", &[]).await, Committed::Stored);
        assert_eq!(read(&store, &place).await.as_deref(), Some("value"));
    }
    // On a machine that pauses, some are given back before the load asks, and for a while the store takes none then.
    let (claims, others) = (went(&store, "claim"), went(&store, "acquire") - before);
    assert!(claims > 50 && others < 50, "{claims} leases came with the look-up, {others} without");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_load_asks_for_is_given_back() {
    let server = RedisServer::start();
    let (store, other) = (working(&server).await, connect(server.url()).await);
    assert!(matches!(store.get(&key("a")).await, Ok(Lookup::Absent)));
    wait_until("another process to have it", async || {
        matches!(acquire(&other, &key("a"), Seen::Nothing).await, Acquired::Granted(_))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nor_does_it_stay_where_the_look_up_is_cancelled() {
    let server = RedisServer::start();
    let (store, other) = (working(&server).await, connect(server.url()).await);
    for pauses in 0..20 {
        let place = key(&pauses.to_string());
        let mut lookup = store.get(&place);
        let _ = poll!(&mut lookup);
        for _ in 0..pauses {
            tokio::task::yield_now().await;
        }
        drop(lookup);
        wait_until("another process to have it", async || {
            matches!(acquire(&other, &place, Seen::Nothing).await, Acquired::Granted(_))
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fresh_entry_is_found_all_the_same_and_its_lease_is_free() {
    let server = RedisServer::start();
    let (store, other) = (working(&server).await, connect(server.url()).await);
    fill(&other, &key("a"), "value", &[]).await;
    assert_eq!(read(&store, &key("a")).await.as_deref(), Some("value"));
    assert_eq!(went(&store, "claim"), 1);
    wait_until("the lease to be free", async || server.command::<u64>(&["EXISTS", &lease_name(&store, "a")]) == 0)
        .await;
    assert_eq!(read(&store, &key("a")).await.as_deref(), Some("value"));
    assert_eq!(went(&store, "claim"), 1, "it is known by then");
}

/// Otherwise it would wait for its own process.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_leads_the_load_has_the_lease_that_anothers_look_up_took_along() {
    let server = RedisServer::start();
    let store = working(&server).await;
    for round in 0..200 {
        let place = key(&round.to_string());
        let (first, second) = (store.get(&place), async {
            tokio::task::yield_now().await;
            store.get(&place).await.unwrap();
            acquire(&store, &place, Seen::Nothing).await
        });
        let (found, acquired) = tokio::join!(first, second);
        assert!(matches!(found, Ok(Lookup::Absent)));
        assert!(matches!(acquired, Acquired::Granted(_)), "round {round}: {acquired:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stale_entry_is_refreshed_under_the_lease_that_was_taken_with_it() {
    let server = RedisServer::start();
    let store = working(&server).await;
    let place = key("a");
    let Acquired::Granted(lease) = acquire(&store, &place, Seen::Nothing).await else { panic!("no lease") };
    let now = Clock::system().now();
    let deadlines = Deadlines { gone: now + 600_000, ..Deadlines::fresh_until(now - 60_000) };
    let stale = crate::entry::Entry::new(EntryId::random(), &place, deadlines, bytes::Bytes::new(), "old".into());
    let writes = Writes { entries: vec![(place.clone(), stale)].into(), guard: None };
    let fill = Fill { lease, writes, tags: Tags::default() };
    assert_eq!(StoreBackend::commit(&store, &fill).await, Ok(Committed::Stored));
    let Ok(Lookup::Found(entry)) = store.get(&place).await else { panic!("nothing") };
    let Acquired::Granted(lease) = acquire(&store, &place, Seen::Entry(entry.id())).await else { panic!("no lease") };
    assert_eq!(went(&store, "claim"), 1);
    assert_eq!(commit(&store, lease, "new", &[]).await, Committed::Stored);
    assert_eq!(read(&store, &place).await.as_deref(), Some("new"));
}

/// The lease from before the invalidation is gone, and no load begins under it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invalidation_after_the_look_up_is_none_of_the_load() {
    let server = RedisServer::start();
    let (store, other) = (working(&server).await, connect(server.url()).await);
    for round in 0..50 {
        let place = key(&round.to_string());
        store.get(&place).await.unwrap();
        other.invalidate(Scope::Key(&place), Hardness::Hard).await.unwrap();
        // This reply comes after the push.
        store.get(&key("nobody's")).await.unwrap();
        let Acquired::Granted(lease) = acquire(&store, &place, Seen::Nothing).await else { panic!("no lease") };
        assert!(!store.overtaken(&lease), "round {round}");
        assert_eq!(commit(&store, lease, "value", &[]).await, Committed::Stored, "round {round}");
    }
}

/// Its client may leave while the command that takes it is on its way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_is_given_back_where_the_load_that_asks_for_it_is_cancelled() {
    // Longer than the test waits.
    const LIFE: Duration = Duration::from_secs(600);
    let server = RedisServer::start();
    // It has read what a load asks for besides, so that the lease is asked for at once.
    let (store, other) = (working(&server).await, connect(server.url()).await);
    for round in 0..60 {
        let place = key(&round.to_string());
        let mut acquired = store.acquire(&place, Seen::Nothing, LIFE, Failures::Heed);
        let at_once = poll!(&mut acquired);
        for _ in 0..round % 20 {
            tokio::task::yield_now().await;
        }
        drop(acquired);
        // On a busy machine, the reply may have come first.
        if let Poll::Ready(Ok(Acquired::Granted(lease))) = at_once {
            store.release(&lease, None);
        }
        wait_until("another process to have it", async || {
            matches!(acquire(&other, &place, Seen::Nothing).await, Acquired::Granted(_))
        })
        .await;
    }
}
