//! Leases and fills that are sent together: each has its own outcome.

use futures_util::{future::join_all, poll};
use tests::{RedisServer, RedisUsage, wait_until};

use crate::store::redis::{fleet_tests::*, *};

/// Longer than any test waits.
const LONG: Duration = Duration::from_secs(3600);

async fn acquire(store: &RedisStore, name: &str) -> Acquired {
    store.acquire(&key(name), Seen::Nothing, LONG, Failures::Heed).await.unwrap()
}

async fn granted(store: &RedisStore, names: &[&str]) -> Vec<Lease> {
    let asked = join_all(names.iter().map(|name| acquire(store, name))).await;
    let lease = |acquired| match acquired {
        Acquired::Granted(lease) => lease,
        other => panic!("no lease: {other:?}"),
    };
    asked.into_iter().map(lease).collect()
}

/// Commits what was loaded under these leases, with these tags, all at one time.
async fn commit_all(store: &RedisStore, leases: &[Lease], tags: &[&str]) -> Vec<Result<Committed, StoreError>> {
    let fills: Vec<Fill> = leases.iter().map(|lease| loaded(lease.clone(), "x", tags)).collect();
    join_all(fills.iter().map(|fill| store.commit(fill))).await
}

/// By the third fill, this process knows the token that every entry carries.
async fn ready(store: &RedisStore) {
    for name in ["first", "second", "third"] {
        fill(store, &key(name), "x", &[]).await;
    }
}

fn calls(server: &RedisServer, command: &str) -> u64 {
    RedisUsage::of(server).calls(command)
}

#[tokio::test]
async fn of_fills_in_one_call_each_has_its_own_outcome() {
    let server = RedisServer::start();
    let store = connect(server.url()).await;
    ready(&store).await;
    let names = ["stored", "lost", "invalidated", "odd", "taken over", "stored as well"];
    let leases = granted(&store, &names).await;
    let place = |name: &str| store.0.context.names.lease(&key(name));
    for name in ["lost", "odd"] {
        let _: i64 = server.command(&["DEL", &place(name)]);
    }
    let _: i64 = server.command(&["RPUSH", &place("odd"), "not a lease"]);
    let () = server.command(&["SET", &place("taken over"), "0123456789abcdef"]);
    store.invalidate(Scope::Key(&key("invalidated")), Hardness::Hard).await.unwrap();
    let before = calls(&server, "evalsha");
    let outcomes = commit_all(&store, &leases, &[]).await;
    assert_eq!(calls(&server, "evalsha") - before, 1, "they are one call");
    let (stored, refused) = (Ok(Committed::Stored), Ok(Committed::Refused));
    assert_eq!(outcomes[..3], [stored.clone(), refused.clone(), refused.clone()]);
    assert!(matches!(&outcomes[3], Err(StoreError::Failed(why)) if why.contains("WRONGTYPE")), "{outcomes:?}");
    assert_eq!(outcomes[4..], [refused, stored]);
    for (name, outcome) in names.iter().zip(&outcomes) {
        let found = read(&store, &key(name)).await;
        assert_eq!(found.is_some(), *outcome == Ok(Committed::Stored), "{name}");
    }
    let held: Option<String> = server.command(&["GET", &place("taken over")]);
    assert_eq!(held.as_deref(), Some("0123456789abcdef"), "another load's lease stands");
}

/// Their tags are compared in the same call, by the script for each of them.
#[tokio::test]
async fn a_tag_that_was_invalidated_meanwhile_refuses_the_fills_that_carry_it_alone() {
    let server = RedisServer::start();
    let (store, other) = (connect(server.url()).await, connect(server.url()).await);
    ready(&store).await;
    let leases = granted(&store, &["a", "b", "c", "d"]).await;
    invalidate_tag(&other, "changed").await.unwrap();
    let fills: Vec<Fill> = leases
        .into_iter()
        .zip([&["same"][..], &["changed"], &["same", "changed"], &[]])
        .map(|(lease, tags)| loaded(lease, "x", tags))
        .collect();
    let outcomes = join_all(fills.iter().map(|fill| store.commit(fill))).await;
    // Something was invalidated since these loads began, and it may have been any tag without a token.
    let refused = Ok(Committed::Refused);
    assert_eq!(outcomes, [refused.clone(), refused.clone(), refused, Ok(Committed::Stored)]);
    let leases = granted(&store, &["a", "b", "c"]).await;
    assert_eq!(commit_all(&store, &leases, &["same", "changed"]).await, [const { Ok(Committed::Stored) }; 3]);
    invalidate_tag(&other, "changed").await.unwrap();
    for name in ["a", "b", "c"] {
        assert_eq!(read(&store, &key(name)).await, None);
    }
}

#[tokio::test]
async fn a_full_server_refuses_them_all_and_says_so() {
    let server = RedisServer::start();
    let store = connect(server.url()).await;
    ready(&store).await;
    let leases = granted(&store, &["a", "b", "c"]).await;
    let () = server.command(&["CONFIG", "SET", "maxmemory", "1"]);
    assert_eq!(commit_all(&store, &leases, &[]).await, [const { Err(StoreError::Full) }; 3]);
}

#[tokio::test]
async fn scripts_that_the_server_has_forgotten_cost_no_fill() {
    let server = RedisServer::start();
    let store = connect(server.url()).await;
    ready(&store).await;
    let names: Vec<String> = (0..200).map(|number| number.to_string()).collect();
    let leases = granted(&store, &names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let () = server.command(&["SCRIPT", "FLUSH"]);
    let before = calls(&server, "evalsha");
    let outcomes = commit_all(&store, &leases, &[]).await;
    assert!(outcomes.iter().all(|outcome| *outcome == Ok(Committed::Stored)), "{outcomes:?}");
    // Two messages, of two calls and of one; each call is sent twice.
    assert!(calls(&server, "evalsha") - before <= 8);
}

#[tokio::test]
async fn leases_that_are_asked_for_together_are_granted_one_by_one() {
    let server = RedisServer::start();
    let (store, other) = (connect(server.url()).await, connect(server.url()).await);
    ready(&store).await;
    let held = granted(&other, &["held", "failed"]).await;
    other.fail(&held[1], Failed { status: None, pause: LONG, remembered: LONG });
    wait_until("the failure to be noted", async || matches!(acquire(&other, "failed").await, Acquired::BackOff { .. }))
        .await;
    fill(&other, &key("changed"), "x", &[]).await;
    let before = calls(&server, "mget");
    let asked = join_all(["free", "held", "changed", "failed", "free too"].map(|name| acquire(&store, name))).await;
    // The entries and the leases; one for each would be ten. Heartbeats come in between.
    let reads = calls(&server, "mget") - before;
    assert!((2..=6).contains(&reads), "they are one message: {reads}");
    assert!(
        matches!(
            &asked[..],
            [
                Acquired::Granted(one),
                Acquired::Held,
                Acquired::Changed,
                Acquired::BackOff { .. },
                Acquired::Granted(two)
            ] if !store.overtaken(one) && !store.overtaken(two)
        ),
        "{asked:?}"
    );
    // The lease that was taken over a changed entry was given back.
    assert!(matches!(
        other.acquire(&key("changed"), Seen::Unusable, LONG, Failures::Heed).await,
        Ok(Acquired::Granted(_))
    ));
}

#[tokio::test]
async fn a_lease_is_given_back_if_its_load_is_gone_before_it_was_asked_for() {
    let server = RedisServer::start();
    let (store, other) = (connect(server.url()).await, connect(server.url()).await);
    ready(&store).await;
    let ask = key("a");
    let before = calls(&server, "set");
    let mut asking = store.acquire(&ask, Seen::Nothing, LONG, Failures::Heed);
    assert!(poll!(&mut asking).is_pending());
    drop(asking);
    let is_granted = async || matches!(acquire(&other, "a").await, Acquired::Granted(_));
    // Whatever was asked for the first lease has reached the server by then: one connection carries both, in their order.
    granted(&store, &["b"]).await;
    assert_eq!(calls(&server, "set") - before, 2);
    wait_until("it to be given back", is_granted).await;
}

#[cfg(feature = "cluster")]
#[tokio::test]
async fn in_a_cluster_as_well_each_fill_has_its_own_outcome() {
    let cluster = ::tests::RedisCluster::start(3, 0);
    let store = connect(cluster.url()).await;
    ready(&store).await;
    let names: Vec<String> = (0..30).map(|number| number.to_string()).collect();
    let leases = granted(&store, &names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let place = |name: &str| store.0.context.names.lease(&key(name));
    let _: i64 = cluster.primaries()[cluster.index_of(&place("7"))].command(&["DEL", &place("7")]);
    store.invalidate(Scope::Key(&key("17")), Hardness::Hard).await.unwrap();
    let outcomes = commit_all(&store, &leases, &["t"]).await;
    for (name, outcome) in names.iter().zip(outcomes) {
        let is_refused = ["7", "17"].contains(&&**name);
        assert_eq!(outcome, Ok(if is_refused { Committed::Refused } else { Committed::Stored }), "{name}");
        assert_eq!(read(&store, &key(name)).await.is_some(), !is_refused, "{name}");
    }
}
