//! A server in a locale whose letters come before its digits: its scripts order moments as numbers all the same.

use std::time::Duration;

use tests::RedisServer;

use super::{
    fleet_tests::{commit, fill, invalidate_tag, key, read},
    lurker_tests::{ban, idle, lease, sweep_all},
    wire::{names::EVERYTHING, replies::Moment, scripts},
    *,
};
use crate::{clock::Clock, hex, tag::TagToken};

const HOUR: u64 = 3_600_000_000;

fn server() -> RedisServer {
    let server = RedisServer::builder().locale("cs_CZ").start();
    let letters_first: bool = server.command(&["EVAL", "return ('f' < '0') and 1 or 0", "0"]);
    assert!(letters_first, "the locale does not count");
    server
}

/// Has the next bans get the numbers after this one. It is ahead of the server's clock, which therefore decides none.
async fn last_ban_was(store: &RedisStore, server: &RedisServer, number: u64) {
    fill(store, &key("sink"), "x", &[]).await;
    let name = store.0.context.names.tag(EVERYTHING);
    let record: String = server.command(&["GET", &name]);
    let record = format!("{}|{number:016x}", &record[..TagToken::LENGTH]);
    server.command::<()>(&["SET", &name, &record, "KEEPTTL"]);
    // All pushes before this reply have been received.
    store.get(&key("nothing")).await.unwrap();
}

/// A number that ends in this digit.
fn ahead(digit: u64) -> u64 {
    (Clock::system().now() * 1000 + HOUR) & !0xf | digit
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_pattern_covers_is_swept_before_the_ban_is_taken_off() {
    let server = server();
    let store = idle(server.url()).await;
    last_ban_was(&store, &server, ahead(0x9)).await;
    fill(&store, &key("a"), "old", &[]).await;
    ban(&store, "redis:a").await;
    assert_eq!(read(&store, &key("a")).await, None);
    assert_eq!(sweep_all(server.url()).await[0].swept.removed, 1);
    assert_eq!(read(&store, &key("a")).await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_that_knows_of_a_ban_keeps_its_lease_and_its_entry_while_that_is_swept() {
    let server = server();
    let store = idle(server.url()).await;
    last_ban_was(&store, &server, ahead(0x8)).await;
    for pattern in ["redis:*", "nobody's:1", "nobody's:2"] {
        ban(&store, pattern).await;
    }
    assert!(read(&store, &key("nothing")).await.is_none(), "it is a look-up that reads the list");
    assert_eq!(store.bans_listed().map(|bans| bans.as_slice().len()), Some(3));
    fill(&store, &key("a"), "new", &[]).await;
    let held = lease(&store, &key("b")).await;
    sweep_all(server.url()).await;
    assert_eq!(read(&store, &key("a")).await.as_deref(), Some("new"));
    assert_eq!(commit(&store, held, "new", &[]).await, Committed::Stored);
}

/// At many moments, so that some differ in a letter and a digit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fill_is_refused_after_an_invalidation_and_not_before_one() {
    let server = server();
    let (store, other) = (idle(server.url()).await, idle(server.url()).await);
    for round in 0..100 {
        let (before, after) = (key(&format!("before{round}")), key(&format!("after{round}")));
        let overtaken = lease(&store, &before).await;
        invalidate_tag(&other, "t").await.unwrap();
        // Each of the tags is new, and may have been the one that was invalidated.
        assert_eq!(commit(&store, overtaken, "old", &[&format!("b{round}")]).await, Committed::Refused, "{round}");
        assert_eq!(fill(&store, &after, "new", &[&format!("a{round}")]).await, Committed::Stored, "{round}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tag_that_is_softened_again_and_again_keeps_its_line() {
    let server = server();
    let store = idle(server.url()).await;
    fill(&store, &key("a"), "x", &["t"]).await;
    for round in 0..100 {
        let soft = if round % 2 == 0 { Hardness::Soft } else { Hardness::Ramp(Duration::from_secs(60)) };
        store.invalidate(Scope::Tags(&Tags::new(["t"])), soft).await.unwrap();
        assert_eq!(read(&store, &key("a")).await.as_deref(), Some("x"), "it is stale, and not void, in round {round}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_application_is_left_alone_until_the_back_off_ends_and_no_longer() {
    let server = server();
    let store = idle(server.url()).await;
    for hours in 1..=48 {
        for (ready, over) in [(hours * HOUR, false), (0, true)] {
            let place = key(&format!("{hours}{over}"));
            let ready = Clock::system().now() * 1000 + ready - u64::from(over) * hours * HOUR;
            let failed = format!("!f1:503:{ready:016x}");
            server.command::<()>(&["SET", &store.0.context.names.lease(&place), &failed]);
            let acquired = store.acquire(&place, Seen::Unusable, Duration::from_secs(5), Failures::Heed).await.unwrap();
            match acquired {
                Acquired::Granted(_) => assert!(over, "{hours}"),
                Acquired::BackOff { remaining, .. } => {
                    assert!(!over && remaining <= Duration::from_micros(hours * HOUR), "{hours}: {remaining:?}");
                }
                other => panic!("{hours}: {other:?}"),
            }
        }
    }
}

/// A data set without an id is cleared, unless its token of everything is younger than what the caller knows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_data_set_is_cleared_only_if_it_may_be_older_than_what_is_known_of_it() {
    let server = server();
    let driver = redis::Client::open(server.url()).unwrap().get_multiplexed_async_connection().await.unwrap();
    let seen = Clock::system().now() * 1000;
    let line = "0123456789abcde";
    for hours in 1..=48 {
        for (time, younger) in [(seen + hours * HOUR, true), (seen - hours * HOUR, false)] {
            server.command::<()>(&["SET", "everything", &format!("{time:016x}{line}i")]);
            server.command::<()>(&["SET", "last", &format!("{time:016x}")]);
            server.command::<u64>(&["DEL", "mark"]);
            let mut identify = scripts::IDENTIFY.key("id");
            identify.key("mark").key("everything").key("last");
            identify.arg("").arg(line).arg("clear").arg(line).arg(60_000).arg(line).arg(&hex::of_u64(seen)[..]);
            let (_, cleared, Moment(now)): (String, bool, Moment) =
                identify.invoke_async(&mut driver.clone()).await.unwrap();
            assert_eq!(cleared, !younger, "{hours}");
            let note: String = server.command(&["GET", "last"]);
            let kept = if younger { hex::of_u64(time) } else { now };
            assert_eq!(note.as_bytes(), kept, "{hours}");
        }
    }
}
