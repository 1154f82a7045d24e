//! Bans where a server's clock, another process, or a loss gets in between.

use std::time::Duration;

use tests::{RedisServer, wait_until};

use super::{
    fleet_tests::{builder, connect, connect_with, fill, key, read},
    tracking::tag_tracker::{Judged, TagTracker},
    wire::{names::EVERYTHING, scripts},
    *,
};
use crate::{
    ban::MOST,
    clock::Clock,
    store::TieredStore,
    tag::{TagRecord, TagState, TagToken},
};

async fn ban(store: &impl StoreBackend, pattern: &str, hardness: Hardness) -> Result<(), StoreError> {
    store.invalidate(Scope::Pattern(&Pattern::new(pattern)), hardness).await.map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ban_is_younger_than_all_before_it_though_the_clock_of_the_server_was_set_back() {
    let server = RedisServer::start();
    let store = connect_with(builder(server.url()).lurker(false)).await;
    fill(&store, &key("before"), "x", &[]).await;
    // As if there had been a ban an hour from now.
    let (name, ahead) = (store.0.context.names.tag(EVERYTHING), (Clock::system().now() + 3_600_000) * 1000);
    let record: String = server.command(&["GET", &name]);
    let record = format!("{}|{ahead:016x}", &record[..TagToken::LENGTH]);
    server.command::<()>(&["SET", &name, &record, "KEEPTTL"]);
    // All pushes before this reply have been received.
    store.get(&key("nothing")).await.unwrap();
    for name in ["hard", "soft", "other"] {
        fill(&store, &key(name), "old", &[]).await;
    }
    ban(&store, "redis:soft", Hardness::Ramp(Duration::from_secs(3_600))).await.unwrap();
    let Ok(Lookup::Found(soft)) = store.get(&key("soft")).await else { panic!("it is not void") };
    let soft = soft.seen_at(|| Clock::system().now());
    assert!(soft.is_soft_invalidated(), "a window that begins so late counts at once");
    ban(&store, "redis:hard", Hardness::Hard).await.unwrap();
    assert_eq!(read(&store, &key("hard")).await, None);
    fill(&store, &key("hard"), "new", &[]).await;
    assert_eq!(read(&store, &key("hard")).await.as_deref(), Some("new"));
    assert_eq!(read(&store, &key("other")).await.as_deref(), Some("old"));
}

/// The list may have been shortened between the read of the entry and that of the list.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_each_that_is_in_doubt_is_looked_up_again() {
    let server = RedisServer::start();
    let writer = connect_with(builder(server.url()).lurker(false)).await;
    fill(&writer, &key("a"), "x", &[]).await;
    ban(&writer, "nobody's:*", Hardness::Hard).await.unwrap();
    // It knows of no ban yet.
    let reader = connect_with(builder(server.url()).lurker(false)).await;
    let found = reader.lookup_many(&[key("a")]).await;
    assert!(matches!(&found[..], [Ok(Lookup::Found(_))]), "{found:?}");
    let again = reader.round_trips().find(|(name, _)| *name == "GET").map(|(_, count)| count);
    assert!(again > Some(0), "it was judged by a list from after the read");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_that_is_full_takes_no_more_and_says_so() {
    let server = RedisServer::start();
    let store = connect_with(builder(server.url()).lurker(false)).await;
    for name in ["other".to_owned()].into_iter().chain((0..=MOST).map(|n| n.to_string())) {
        fill(&store, &key(&name), "x", &[]).await;
    }
    for n in 0..=MOST {
        ban(&store, &format!("redis:{n}"), Hardness::Hard).await.unwrap();
        assert_eq!(store.state().overflowed_bans, u64::from(n == MOST), "{n}");
        assert_eq!(read(&store, &key(&n.to_string())).await, None, "{n}");
    }
    assert_eq!(read(&store, &key("other")).await.as_deref(), Some("x"), "the list is still read");
    assert_eq!(store.bans_listed().map(|bans| bans.as_slice().len()), Some(MOST));
}

#[tokio::test]
async fn no_ban_is_taken_off_that_is_listed_under_another_token() {
    let server = RedisServer::start();
    let client = redis::Client::open(server.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let (at, line) = (format!("{:016x}", 7), "123456789abcdef");
    let record = format!("{at}{line}i|{at}{at}h{:08x}{:04x}a*", 0, 2);
    server.command::<()>(&["SET", "record", &record]);
    let mut take_off = async |line: &str| -> u64 {
        scripts::TAKE_OFF.key("record").arg(line).arg(&at).invoke_async(&mut connection).await.unwrap()
    };
    assert_eq!(take_off("023456789abcdef").await, 0);
    assert_eq!(server.command::<String>(&["GET", "record"]), record);
    assert_eq!(take_off(line).await, 1);
    assert_eq!(server.command::<String>(&["GET", "record"]), format!("{at}{line}i|{at}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pattern_that_can_not_be_listed_voids_what_this_process_still_serves() {
    let mut server = RedisServer::start();
    let store =
        TieredStore::new(1 << 20, connect(server.url()).await).serve_while_disconnected(Duration::from_secs(600));
    for name in ["a", "b"] {
        fill(&store, &key(name), "old", &[]).await;
        wait_until("the entry to be near", async || {
            read(&store, &key(name)).await.is_some() && store.peek(&key(name)).is_some()
        })
        .await;
    }
    server.kill();
    wait_until("the loss to be noticed", async || store.get(&key("nothing")).await.is_err()).await;
    assert!(store.peek(&key("a")).is_some());
    ban(&store, "redis:a", Hardness::Hard).await.unwrap_err();
    assert!(store.peek(&key("a")).is_none() && store.peek(&key("b")).is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_learns_of_a_ban_sweeps_it() {
    let server = RedisServer::start();
    let writer = connect_with(builder(server.url()).lurker(false)).await;
    let reader = connect_with(builder(server.url()).lurker_at_once()).await;
    fill(&writer, &key("a"), "old", &[]).await;
    ban(&writer, "redis:a", Hardness::Hard).await.unwrap();
    assert!(writer.has_bans().await, "it does not sweep itself");
    assert_eq!(read(&reader, &key("a")).await, None);
    wait_until("it to be swept", async || !writer.has_bans().await).await;
    assert_eq!(server.command::<u64>(&["EXISTS", &writer.0.context.names.entry(&key("a"))]), 0);
}

#[test]
fn a_verdict_is_in_doubt_if_the_list_may_have_changed_since_the_watch_began() {
    let tokens = TagTracker::default();
    let record = TagRecord::from(TagToken(*b"000000000000000a0123456789abcdei"));
    let learn = || tokens.begin_read(&[EVERYTHING.into()]).complete(&[Some(record.clone())]);
    let verdict =
        |watch, banned_since| Judged { state: TagState::Current, banned_since }.unless_in_doubt(&tokens, watch);
    let unknown = tokens.watch_bans();
    assert_eq!(verdict(unknown, false), Some(TagState::Current));
    assert_eq!(verdict(unknown, true), None, "it is not known whether any was taken off");
    for (change, is_seen) in [
        (&learn as &dyn Fn(), true),
        (&|| tokens.void(EVERYTHING), true),
        (&|| tokens.void_all(), true),
        (&|| tokens.void("another"), false),
    ] {
        learn();
        let watch = tokens.watch_bans();
        assert_eq!(verdict(watch, true), Some(TagState::Current));
        change();
        assert_eq!(verdict(watch, true), (!is_seen).then_some(TagState::Current));
        assert_eq!(verdict(watch, false), Some(TagState::Current));
    }
}
