//! Look-ups that are sent together.

use std::time::Duration;

use futures_util::{future::join_all, poll};
use tests::{RedisServer, wait_until};

use super::batcher::{Answer, Found, LookupBatcher};
use crate::store::redis::{fleet_tests::*, *};

async fn reads(server: &RedisServer) -> Arc<LookupBatcher> {
    let client = redis::Client::open(server.url()).unwrap();
    LookupBatcher::new(client.get_multiplexed_async_connection().await.unwrap(), Duration::from_secs(5))
}

fn ask(reads: &Arc<LookupBatcher>, name: &str) -> Arc<Answer> {
    reads.ask(&key(name), false, || name.to_owned())
}

/// The bytes of the answer, as text instead of an envelope.
async fn text(answer: &Answer) -> String {
    match answer.wait().await {
        Ok(Found::Nothing) => "nothing".to_owned(),
        Ok(Found::Foreign) => "foreign".to_owned(),
        Ok(Found::Envelope(envelope)) => String::from_utf8(envelope.bytes().to_vec()).unwrap(),
        Err(error) => format!("error: {error}"),
    }
}

#[tokio::test]
async fn who_asks_for_what_is_about_to_be_read_shares_that_read() {
    let server = RedisServer::start();
    let reads = reads(&server).await;
    let () = server.command(&["SET", "a", "one"]);
    let (first, other, second) = (ask(&reads, "a"), ask(&reads, "b"), ask(&reads, "a"));
    assert!(Arc::ptr_eq(&first, &second) && !Arc::ptr_eq(&first, &other));
    assert_eq!([text(&second).await, text(&other).await], ["one", "nothing"]);
    let calls = server.info("commandstats", "cmdstat_get");
    assert!(calls.starts_with("calls=2,"), "{calls}");
}

#[tokio::test]
async fn a_shared_read_is_tracked_if_anybody_wants_that() {
    let server = RedisServer::start();
    let reads = reads(&server).await;
    let first = ask(&reads, "a");
    let second = reads.ask(&key("a"), true, || "a".to_owned());
    assert!(Arc::ptr_eq(&first, &second));
    // Tracking was never turned on here, so the server's error shows that it was requested.
    let answer = text(&first).await;
    assert!(answer.contains("CACHING"), "{answer}");
}

#[tokio::test]
async fn who_asks_once_a_read_was_sent_has_one_of_its_own() {
    let server = RedisServer::start();
    let reads = reads(&server).await;
    server.stop();
    let first = ask(&reads, "a");
    wait_until("it to be sent", async || reads.waiting() == 0).await;
    assert!(!first.initialized());
    let second = ask(&reads, "a");
    assert!(!Arc::ptr_eq(&first, &second));
    server.cont();
    assert_eq!([text(&first).await, text(&second).await], ["nothing", "nothing"]);
}

#[tokio::test]
async fn each_has_the_answer_to_its_own_question() {
    let server = RedisServer::start();
    let reads = reads(&server).await;
    let names: Vec<String> = (0..100).map(|number| number.to_string()).collect();
    for name in &names {
        let () = server.command(&["SET", name, &format!("value {name}")]);
    }
    let () = server.command(&["DEL", "17"]);
    let _: i64 = server.command(&["RPUSH", "17", "a list"]);
    let _: i64 = server.command(&["DEL", "18"]);
    let answers: Vec<_> = names.iter().map(|name| reads.ask(&key(name), name.len() == 1, || name.clone())).collect();
    for (name, answer) in names.iter().zip(&answers) {
        let text = text(answer).await;
        match &**name {
            // Tracking was never turned on here, so the server returns an error.
            name if name.len() == 1 => assert!(text.starts_with("error"), "{name}: {text}"),
            "17" => assert_eq!(text, "foreign"),
            "18" => assert_eq!(text, "nothing"),
            name => assert_eq!(text, format!("value {name}")),
        }
    }
}

#[tokio::test]
async fn of_any_number_that_asks_few_wait_for_one_another() {
    let server = RedisServer::start();
    let reads = reads(&server).await;
    let names: Vec<String> = (0..1_000).map(|number| number.to_string()).collect();
    let answers: Vec<_> = names.iter().map(|name| (ask(&reads, name), reads.waiting())).collect();
    assert!(answers.iter().all(|(_, waiting)| *waiting < 64));
    for (answer, _) in &answers {
        assert_eq!(text(answer).await, "nothing");
    }
    let calls = server.info("commandstats", "cmdstat_get");
    assert!(calls.starts_with("calls=1000,"), "{calls}");
}

#[tokio::test]
async fn who_asked_first_may_go_away() {
    let server = RedisServer::start();
    let store = connect(server.url()).await;
    fill(&store, &key("a"), "one", &[]).await;
    let key = key("a");
    let (mut first, mut second) = (store.get(&key), store.get(&key));
    assert!(poll!(&mut first).is_pending() && poll!(&mut second).is_pending());
    drop(first);
    assert!(matches!(second.await, Ok(Lookup::Found(_))));
}

#[tokio::test]
async fn a_connection_that_ends_fails_them_all_at_once() {
    let mut server = RedisServer::start();
    let reads = reads(&server).await;
    server.stop();
    let answers: Vec<_> = (0..20).map(|number| ask(&reads, &number.to_string())).collect();
    wait_until("them to be sent", async || reads.waiting() == 0).await;
    server.kill();
    for answer in join_all(answers.iter().map(|answer| text(answer))).await {
        assert!(answer.starts_with("error"), "{answer}");
    }
}
