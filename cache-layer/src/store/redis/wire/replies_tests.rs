//! A server or a proxy whose replies do not answer the commands: nothing is served from them, and nothing is stored by them.

use tests::{LyingProxy, RedisServer, wait_until};

use super::scripts;
use crate::store::redis::{
    fleet_tests::{PATIENCE, connect, connected_again, fill, invalidate_tag, key, loaded, read},
    *,
};
use crate::{
    clock::Clock,
    entry::{Deadlines, EntryId},
    store::TieredStore,
};

/// Values that may come instead of the values of several names, in the form of the protocol.
const NO_VALUES: [&[u8]; 9] = [
    b"*0\r\n",
    b"*1\r\n$1\r\na\r\n",
    b"*9\r\n$-1\r\n$-1\r\n$-1\r\n$-1\r\n$-1\r\n$-1\r\n$-1\r\n$-1\r\n$-1\r\n",
    b"*2\r\n*0\r\n*0\r\n",
    b"~0\r\n",
    b"%0\r\n",
    b"$0\r\n\r\n",
    b"_\r\n",
    b"+OK\r\n",
];

async fn lied_to(server: &RedisServer) -> (LyingProxy, RedisStore) {
    let proxy = LyingProxy::start(server.addr()).await;
    let store = connect(format!("redis://{}", proxy.addr())).await;
    (proxy, store)
}

/// Whatever is read or learnt through `proxy` afterwards, the invalidated entry is not returned.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_that_were_not_answered_prove_nothing() {
    let server = RedisServer::start();
    let other = connect(server.url()).await;
    let (proxy, store) = lied_to(&server).await;
    let (tiered_proxy, below) = lied_to(&server).await;
    let tiered = TieredStore::new(1 << 20, below.clone());
    for (round, reply) in NO_VALUES.into_iter().enumerate() {
        let place = key(&round.to_string());
        fill(&other, &place, "old", &["t"]).await;
        for (proxy, direct, store) in
            [(&proxy, &store, &store as &dyn StoreBackend), (&tiered_proxy, &below, &tiered as &dyn StoreBackend)]
        {
            connected_again(direct).await;
            assert_eq!(read(store, &place).await.as_deref(), Some("old"));
            proxy.lie(&["MGET"], reply);
        }
        invalidate_tag(&other, "t").await.unwrap();
        for (proxy, direct, store) in
            [(&proxy, &store, &store as &dyn StoreBackend), (&tiered_proxy, &below, &tiered as &dyn StoreBackend)]
        {
            for _ in 0..3 {
                assert!(store.peek(&place).is_none(), "{reply:?}");
                let found = store.get(&place).await;
                assert!(!matches!(found, Ok(Lookup::Found(_))), "{reply:?}: {found:?}");
                let found = &store.get_many(&[place.clone(), key("other")]).await[0];
                assert!(!matches!(found, Ok(Lookup::Found(_))), "{reply:?}: {found:?}");
            }
            assert!(proxy.be_honest() > 0, "{reply:?}: nothing was asked");
            connected_again(direct).await;
            assert_eq!(read(store, &place).await, None, "{reply:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_that_were_not_answered_are_not_there() {
    let server = RedisServer::start();
    let (proxy, store) = lied_to(&server).await;
    let keys = [key("a"), key("b"), key("c")];
    for key in &keys {
        fill(&store, key, "value", &[]).await;
    }
    let odd: [&[u8]; 5] = [b"*0\r\n", b"*1\r\n$1\r\na\r\n", b"%0\r\n", b":1\r\n", b"+OK\r\n"];
    for reply in odd {
        for command in ["GET", "MGET"] {
            connected_again(&store).await;
            proxy.lie(&[command], reply);
            let found = store.get(&keys[0]).await;
            let many = store.get_many(&keys).await;
            assert!(proxy.be_honest() > 0);
            if command == "MGET" {
                assert!(many.iter().all(Result::is_err), "{reply:?}: {many:?}");
            } else {
                assert!(found.is_err(), "{reply:?}: {found:?}");
            }
        }
    }
    connected_again(&store).await;
    assert!(store.get_many(&keys).await.iter().all(|found| matches!(found, Ok(Lookup::Found(_)))));
}

/// Replies that differ from what the script is written to return.
const NO_SCRIPT: [&[u8]; 5] = [b"*0\r\n", b"*2\r\n$0\r\n\r\n$0\r\n\r\n", b"$0\r\n\r\n", b"_\r\n", b"+OK\r\n"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_stored_by_replies_that_are_none() {
    let server = RedisServer::start();
    let other = connect(server.url()).await;
    let (proxy, store) = lied_to(&server).await;
    for (round, reply) in NO_SCRIPT.into_iter().enumerate() {
        connected_again(&store).await;
        let place = key(&round.to_string());
        let Acquired::Granted(lease) = store.acquire(&place, Seen::Nothing, PATIENCE, Failures::Heed).await.unwrap()
        else {
            panic!("no lease")
        };
        proxy.lie(&["EVALSHA", scripts::COMMIT.get_hash()], reply);
        let committed = store.commit(&loaded(lease, "old", &["t"])).await;
        assert!(proxy.be_honest() > 0);
        assert!(committed.is_err(), "{reply:?}: {committed:?}");
        // Whether or not it was carried out, the stored entry carries its tags.
        invalidate_tag(&other, "t").await.unwrap();
        assert_eq!(read(&other, &place).await, None, "{reply:?}");
    }
}

/// The commands that take a lease, and replies that do not answer them.
const NO_LEASE: [(&str, &[u8]); 14] = [
    ("SET", b"*0\r\n"),
    ("SET", b":1\r\n"),
    ("SET", b"+OK\r\n"),
    ("GETRANGE", b"*0\r\n"),
    ("GETRANGE", b"+OK\r\n"),
    ("GET", b"*0\r\n"),
    ("GET", b":1\r\n"),
    ("GET", b"+OK\r\n"),
    ("CLIENT", b"$-1\r\n"),
    ("TIME", b"_\r\n"),
    ("TIME", b"*0\r\n"),
    ("TIME", b"$1\r\n7\r\n"),
    ("TIME", b"*2\r\n$1\r\na\r\n$1\r\nb\r\n"),
    ("TIME", b"*3\r\n$1\r\n1\r\n$1\r\n2\r\n$1\r\n3\r\n"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_was_not_granted_is_none() {
    let server = RedisServer::start();
    let (proxy, store) = lied_to(&server).await;
    // One value is an answer for one name.
    let values = NO_VALUES.into_iter().filter(|reply| !reply.starts_with(b"*1")).map(|reply| ("MGET", reply));
    for (round, (command, reply)) in NO_LEASE.into_iter().chain(values).enumerate() {
        connected_again(&store).await;
        // Of an entry that was seen, the id is read.
        let seen = if command == "GETRANGE" { Seen::Entry(EntryId::random()) } else { Seen::Nothing };
        let place = key(&round.to_string());
        proxy.lie(&[command], reply);
        let acquired = store.acquire(&place, seen, PATIENCE, Failures::Heed).await;
        assert!(proxy.be_honest() > 0, "{command}");
        assert!(acquired.is_err(), "{command} answered by {reply:?}: {acquired:?}");
    }
}

/// Nor is one that a look-up took along; and nothing is found by that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_that_was_not_granted_is_none() {
    let server = RedisServer::start();
    let other = connect(server.url()).await;
    let (proxy, store) = lied_to(&server).await;
    let of_claims = NO_LEASE.into_iter().filter(|(command, _)| *command != "GETRANGE");
    let values = NO_VALUES.into_iter().map(|reply| ("MGET", reply));
    for (round, (command, reply)) in of_claims.chain(values).enumerate() {
        connected_again(&store).await;
        // For so long leases are taken from then on: what can't be given back is soon over.
        let short = Duration::from_millis(200);
        let first = store.acquire(&key("first"), Seen::Unusable, short, Failures::Heed).await.unwrap();
        if let Acquired::Granted(lease) = first {
            store.release(&lease, None);
        }
        let place = key(&round.to_string());
        proxy.lie(&[command], reply);
        let found = store.get(&place).await;
        assert!(proxy.be_honest() > 0, "{command}");
        assert!(found.is_err(), "{command} answered by {reply:?}: {found:?}");
        wait_until("the lease to be free", async || {
            matches!(other.acquire(&place, Seen::Nothing, PATIENCE, Failures::Heed).await, Ok(Acquired::Granted(_)))
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invalidation_that_was_not_acknowledged_is_kept_until_it_is() {
    let server = RedisServer::start();
    let (proxy, store) = lied_to(&server).await;
    let tag = Tags::new(["t"]);
    for (words, reply) in [
        (vec!["UNLINK"], &b"*0\r\n"[..]),
        (vec!["UNLINK"], b"$-1\r\n"),
        (vec!["UNLINK"], b"+OK\r\n"),
        (vec!["UNLINK"], b":-1\r\n"),
        (vec!["EVALSHA", scripts::INVALIDATE_TAG.get_hash()], b"*0\r\n"),
        (vec!["EVALSHA", scripts::INVALIDATE_TAG.get_hash()], b"$2\r\nOK\r\n"),
        (vec!["EVALSHA", scripts::NOTE_INVALIDATION.get_hash()], b"$0\r\n\r\n"),
        (vec!["SCAN"], b"*0\r\n"),
        (vec!["SCAN"], b"*2\r\n$1\r\n0\r\n$-1\r\n"),
        (vec!["SCAN"], b"*2\r\n$2\r\n-1\r\n*0\r\n"),
        (vec!["SCAN"], b"*2\r\n$1\r\n7\r\n*0\r\n"),
    ] {
        connected_again(&store).await;
        fill(&store, &key("a"), "old", &["t"]).await;
        proxy.lie(&words, reply);
        let told = match words[..] {
            ["UNLINK"] => store.invalidate(Scope::Key(&key("a")), Hardness::Hard).await,
            ["SCAN"] => store.delete_matching(&Pattern::new("redis:a")).await,
            _ => store.invalidate(Scope::Tags(&tag), Hardness::Hard).await,
        };
        assert!(told.is_err(), "{words:?} answered by {reply:?}: {told:?}");
        assert!(proxy.be_honest() > 0);
        connected_again(&store).await;
        assert_eq!(read(&store, &key("a")).await, None, "{words:?} answered by {reply:?}");
        assert_eq!(store.state().pending_invalidations, 0);
    }
}

/// An entry that is written without a load carries all of its tags, or is void.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_put_by_replies_that_are_none_is_not_left_without_its_tags() {
    let server = RedisServer::start();
    let other = connect(server.url()).await;
    let (proxy, store) = lied_to(&server).await;
    let tags = Tags::new(["t"]);
    for (round, (script, reply)) in [&*scripts::STAMP, &scripts::PUT]
        .into_iter()
        .flat_map(|script| NO_SCRIPT.map(|reply| (script, reply)))
        .enumerate()
    {
        connected_again(&store).await;
        let place = key(&round.to_string());
        let deadlines = Deadlines::fresh_until(Clock::system().now() + 600_000);
        let entry = Entry::new(EntryId::random(), &place, deadlines, bytes::Bytes::new(), "old".into());
        proxy.lie(&["EVALSHA", script.get_hash()], reply);
        let put = store.put(vec![(place.clone(), entry)], &tags).await;
        assert!(proxy.be_honest() > 0);
        assert!(put.is_err(), "{reply:?}: {put:?}");
        invalidate_tag(&other, "t").await.unwrap();
        assert_eq!(read(&other, &place).await, None, "{reply:?}");
    }
}

/// A read that is not tracked must not be kept as if it were.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_server_did_not_promise_to_track_is_not_kept() {
    let server = RedisServer::start();
    let other = connect(server.url()).await;
    let (proxy, below) = lied_to(&server).await;
    let tiered = TieredStore::new(1 << 20, below.clone());
    for (round, reply) in [&b"$-1\r\n"[..], b":1\r\n", b"*0\r\n"].into_iter().enumerate() {
        connected_again(&below).await;
        let place = key(&round.to_string());
        fill(&other, &place, "value", &["t"]).await;
        proxy.lie(&["CLIENT", "CACHING"], reply);
        let found = tiered.get(&place).await;
        assert!(found.is_err(), "{reply:?}: {found:?}");
        assert!(tiered.peek(&place).is_none());
        assert!(proxy.be_honest() > 0);
    }
}

/// Without tracking a first tier would be served for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_of_which_tracking_was_not_promised_is_none() {
    let server = RedisServer::start();
    for reply in [&b"$-1\r\n"[..], b":1\r\n", b"*0\r\n", b"+PONG\r\n"] {
        let proxy = LyingProxy::start(server.addr()).await;
        proxy.lie(&["CLIENT", "TRACKING"], reply);
        let store = crate::store::redis::fleet_tests::builder(format!("redis://{}", proxy.addr())).build().unwrap();
        wait_until("the reply to be refused", async || {
            store.status().await.error.is_some_and(|error| !error.contains("still connecting"))
        })
        .await;
        assert!(!store.connected(), "{reply:?}");
        assert!(proxy.be_honest() > 0);
        assert!(store.wait_connected(PATIENCE).await);
        assert!(store.connection_to_tags().session().unwrap().tracking);
    }
}

/// More keys than were named can't have been deleted: that reply belongs to another command.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_deleted_more_than_was_asked_for_is_asked_again() {
    let server = RedisServer::start();
    let (proxy, store) = lied_to(&server).await;
    for by_pattern in [false, true] {
        connected_again(&store).await;
        fill(&store, &key("a"), "old", &[]).await;
        proxy.lie(&["UNLINK"], b":9\r\n");
        let told = match by_pattern {
            false => store.invalidate(Scope::Key(&key("a")), Hardness::Hard).await,
            true => store.delete_matching(&Pattern::new("redis:a")).await,
        };
        assert!(told.is_err(), "by a pattern: {by_pattern}: {told:?}");
        assert!(proxy.be_honest() > 0);
        connected_again(&store).await;
        assert_eq!(read(&store, &key("a")).await, None, "by a pattern: {by_pattern}");
        assert_eq!(store.state().pending_invalidations, 0);
    }
}

/// As [`what_the_server_did_not_promise_to_track_is_not_kept`], of several read at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nor_are_several_that_the_server_did_not_promise_to_track() {
    let server = RedisServer::start();
    let other = connect(server.url()).await;
    let (proxy, below) = lied_to(&server).await;
    let tiered = TieredStore::new(1 << 20, below.clone());
    for (round, reply) in [&b"$-1\r\n"[..], b":1\r\n", b"*0\r\n"].into_iter().enumerate() {
        connected_again(&below).await;
        let places = ["a", "b"].map(|name| key(&format!("{name}{round}")));
        for place in &places {
            fill(&other, place, "value", &["t"]).await;
        }
        proxy.lie(&["CLIENT", "CACHING"], reply);
        let found = tiered.get_many(&places).await;
        assert!(found.iter().all(Result::is_err), "{reply:?}: {found:?}");
        assert!(places.iter().all(|place| tiered.peek(place).is_none()));
        assert!(proxy.be_honest() > 0);
    }
}
