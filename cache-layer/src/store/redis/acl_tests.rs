//! The permissions of the server's user: those that it needs, and those that it can do without.

use tests::{RedisServer, wait_until};

use super::{
    fleet_tests::{LEASE, PATIENCE, commit, connected_again, fill, invalidate_tag, key, loaded, read},
    wire::scripts,
    *,
};
use crate::{
    clock::Clock,
    entry::{Deadlines, EntryId},
    store::{TieredStore, Writes},
    switches::{Switch, SwitchState},
};

/// The rules of the documented line, for a prefix and a password.
fn documented() -> Vec<String> {
    let line = include_str!("acl.txt").replace("PREFIX", "test").replace("PASSWORD", "secret");
    line.split_whitespace().map(str::to_owned).collect()
}

/// A server with a user of these rules, and the URL for that user.
fn server_with(rules: &[String]) -> (RedisServer, String) {
    let server = RedisServer::start();
    let setuser = ["ACL", "SETUSER", "cache"].into_iter().chain(rules.iter().map(String::as_str));
    server.command::<()>(&setuser.collect::<Vec<_>>());
    let url = format!("redis://cache:secret@{}", server.addr());
    (server, url)
}

async fn connect(url: &str) -> RedisStore {
    let builder = RedisStore::builder(url).prefix("test").operation_timeout(PATIENCE).connect_timeout(PATIENCE);
    // It is read at once, even if the first attempt to connect failed.
    let store = builder.settle_time(Duration::ZERO).build().unwrap();
    assert!(store.wait_connected(PATIENCE).await, "{}", store.connection_to_tags().last_error());
    store
}

fn entry(key: &Key) -> Entry {
    let deadlines = Deadlines::fresh_until(Clock::system().now() + 600_000);
    Entry::new(EntryId::random(), key, deadlines, bytes::Bytes::new(), "value".into())
}

/// Every copy of the line in the repository is the same.
#[test]
fn the_line_is_the_same_wherever_it_stands() {
    let commands = |text: &str| -> Vec<String> {
        let rules = text.split_once("-@all").expect("an ACL line").1.split_whitespace().filter(|word| *word != "\\");
        let mut commands: Vec<_> =
            rules.take_while(|word| word.starts_with('+')).map(|word| word.trim_end_matches('"').to_owned()).collect();
        commands.sort_unstable();
        commands
    };
    let expected = commands(include_str!("acl.txt"));
    assert!(expected.len() > 10);
    for file in ["helm/README.md", "helm/files/redis-start.sh"] {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file);
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!(commands(&text), expected, "{file}");
    }
}

async fn everything_works(store: &RedisStore) {
    let tiered = TieredStore::new(1 << 20, store.clone());
    assert_eq!(fill(&tiered, &key("a"), "one", &["t"]).await, Committed::Stored);
    wait_until("the entry to be near", async || {
        assert_eq!(read(&tiered, &key("a")).await.as_deref(), Some("one"));
        tiered.peek(&key("a")).is_some()
    })
    .await;
    assert!(matches!(store.get_many(&[key("a"), key("b")]).await[..], [Ok(Lookup::Found(_)), Ok(Lookup::Absent)]));
    store.invalidate(Scope::Key(&key("a")), Hardness::Soft).await.unwrap();
    store.invalidate(Scope::Tags(&Tags::new(["t"])), Hardness::Soft).await.unwrap();
    invalidate_tag(store, "t").await.unwrap();
    assert_eq!(read(&tiered, &key("a")).await, None);

    let Acquired::Granted(lease) = store.acquire(&key("b"), Seen::Nothing, LEASE, Failures::Heed).await.unwrap() else {
        panic!()
    };
    assert!(matches!(store.acquire(&key("b"), Seen::Nothing, LEASE, Failures::Heed).await, Ok(Acquired::Held)));
    assert!(store.renew(&lease, LEASE).await.unwrap());
    store.fail(&lease, Failed { status: Some(500), pause: LEASE, remembered: LEASE });
    store.lease_ended(&key("b")).await;
    let insisting = async || store.acquire(&key("b"), Seen::Nothing, LEASE, Failures::Ignore).await;
    let mut granted = None;
    wait_until("the lease to be free", async || {
        granted = if let Ok(Acquired::Granted(lease)) = insisting().await { Some(lease) } else { None };
        granted.is_some()
    })
    .await;
    assert_eq!(commit(store, granted.unwrap(), "two", &[]).await, Committed::Stored);
    store.invalidate(Scope::Key(&key("b")), Hardness::Hard).await.unwrap();
    store.put(vec![(key("c"), entry(&key("c")))], &Tags::new(["t"])).await.unwrap();
    assert_eq!(store.delete_matching(&Pattern::new("redis:c*")).await.unwrap().deleted, 1);
    assert_eq!(read(store, &key("c")).await, None);

    // Two variants, and then a new primary entry.
    for _ in 0..2 {
        let Acquired::Granted(lease) = store.acquire(&key("v"), Seen::Unusable, LEASE, Failures::Heed).await.unwrap()
        else {
            panic!()
        };
        let variant = key("v").variant(b"de");
        let entries = vec![(key("v"), entry(&key("v"))), (variant.clone(), entry(&variant))];
        let fill = Fill { writes: Writes { entries: entries.into(), guard: None }, ..loaded(lease, "", &[]) };
        assert_eq!(store.commit(&fill).await.unwrap(), Committed::Stored);
        assert!(matches!(store.get(&variant).await, Ok(Lookup::Found(_))));
    }
    // The entry is void, but still stored.
    assert_eq!(store.count(Reach::Tag("t")).await, Ok(Some(1)));
    assert_eq!(store.audit(b"a record").await, Ok(true));
    assert_eq!(store.audited(1).await.unwrap(), ["a record"]);
    assert_eq!(store.reserve_request("one", b"here", LEASE).await, Ok(Reserved::Now));
    assert_eq!(store.reserve_request("one", b"there", LEASE).await, Ok(Reserved::Before("here".into())));
    assert_eq!(store.record_request("one", b"here", b"answered", LEASE).await, Ok(Reserved::Now));
    assert_eq!(store.reserve_request("one", b"there", LEASE).await, Ok(Reserved::Before("answered".into())));
    store.set_switch(SwitchState::off(Switch::StopFills)).await.unwrap();
    store.invalidate(Scope::Everything, Hardness::Hard).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_documented_user_can_do_all_that_is_done() {
    let (server, url) = server_with(&documented());
    let store = connect(&url).await;
    everything_works(&store).await;
    let status = store.status().await;
    assert!(status.connected && status.used_memory_human.is_some(), "{status:?}");
    assert!(store.connection_to_tags().session().unwrap().tracking);
    let refused: Vec<redis::Value> = server.command(&["ACL", "LOG"]);
    assert!(refused.is_empty(), "{refused:?}");
    assert!(store.status().await.error.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_info_the_cache_is_used_and_healthy() {
    let rules: Vec<_> = documented().into_iter().filter(|rule| rule != "+info").collect();
    let (_server, url) = server_with(&rules);
    let store = connect(&url).await;
    everything_works(&store).await;
    let status = store.status().await;
    assert!(status.connected && status.ping.is_some() && status.error.is_none(), "{status:?}");
    assert_eq!((status.used_memory_human, status.connected_clients), (None, None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nor_is_it_missed_where_it_was_renamed_away() {
    let server = RedisServer::start();
    let proxy = tests::LyingProxy::start(server.addr()).await;
    // As after `rename-command INFO ""`.
    proxy.lie(&["INFO"], b"-ERR unknown command 'INFO', with args beginning with: 'memory' \r\n");
    let store = connect(&format!("redis://{}", proxy.addr())).await;
    everything_works(&store).await;
    let status = store.status().await;
    assert!(status.connected && status.error.is_none(), "{status:?}");
    assert!(proxy.be_honest() > 1);
}

/// What stands in for a sweep has its limit as well, for the calls that wait for their turn, and for the next connection, over which
/// it is delivered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_scan_a_pattern_whose_answer_never_comes_holds_up_nothing() {
    let rules: Vec<_> = documented().into_iter().filter(|rule| rule != "+scan").collect();
    let (server, url) = server_with(&rules);
    let proxy = tests::LyingProxy::start(server.addr()).await;
    let store = connect(&url.replace(&server.addr().to_string(), &proxy.addr().to_string())).await;
    fill(&store, &key("a"), "old", &[]).await;
    for _ in 0..2 {
        proxy.fall_silent(&["EVALSHA", scripts::INVALIDATE_TAG.get_hash()]);
    }
    // The list has no room for patterns of this length.
    let calls = ["b", "c"].map(|name| {
        let pattern = Pattern::new(&format!("redis:{}", name.repeat(2_000)));
        store.invalidate(Scope::Pattern(&pattern), Hardness::Hard)
    });
    let ended = tokio::time::timeout(Duration::from_secs(40), futures_util::future::join_all(calls)).await;
    assert!(ended.expect("they end").iter().all(Result::is_err));
    connected_again(&store).await;
    assert_eq!(proxy.be_honest(), 2, "it was kept, and tried again");
    assert_eq!(read(&store, &key("a")).await, None);
    assert_eq!(store.state().pending_invalidations, 0);
}

/// A user without `info` still learns from the greeting that a replica can't be written to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_is_known_without_info() {
    let rules: Vec<_> = documented().into_iter().filter(|rule| rule != "+info").collect();
    let (server, url) = server_with(&rules);
    server.command::<()>(&["REPLICAOF", "127.0.0.1", "1"]);
    let store = RedisStore::builder(url).prefix("test").build().unwrap();
    wait_until("the reason to be known", async || store.connection_to_tags().last_error().contains("replica")).await;
    assert!(!store.connected());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_can_not_be_used_is_said_with_what_to_do() {
    let last_error = async |url: String, expected: &str| {
        let store = RedisStore::builder(url).prefix("test").build().unwrap();
        wait_until(expected, async || store.connection_to_tags().last_error().contains(expected)).await;
    };
    let server = RedisServer::start();
    let proxy = tests::LyingProxy::start(server.addr()).await;
    let url = format!("redis://{}", proxy.addr());
    let text = |text: &str| format!("${}\r\n{text}\r\n", text.len());
    let hello = ["server", "redis", "version", "6.0.16", "mode", "standalone", "role", "master"].map(text).concat();
    proxy.lie(&["HELLO"], format!("%4\r\n{hello}").as_bytes());
    last_error(url.clone(), "7.0 or Valkey 7.2, or newer, is needed; this is redis 6.0.16").await;
    assert!(proxy.be_honest() > 0);
    // As nutcracker does.
    proxy.lie(&["HELLO"], b"");
    last_error(url.clone(), "must speak RESP3").await;
    assert!(proxy.be_honest() > 0);
    // As Redis 5 does.
    proxy.lie(&["HELLO"], b"-ERR unknown command `HELLO`, with args beginning with: `3`, \r\n");
    last_error(url, "7.0").await;
}

#[cfg(feature = "cluster")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_documented_user_is_enough_for_a_cluster_and_a_plain_url_to_it_is_told_the_right_one() {
    let cluster = tests::RedisCluster::start(3, 0);
    let rules = documented();
    let setuser: Vec<_> = ["ACL", "SETUSER", "cache"].into_iter().chain(rules.iter().map(String::as_str)).collect();
    for node in cluster.primaries() {
        node.command::<()>(&setuser);
    }
    let store = connect(&cluster.url().replace("redis+cluster://", "redis+cluster://cache:secret@")).await;
    everything_works(&store).await;

    let plain = RedisStore::builder(cluster.primaries()[0].url()).prefix("test").build().unwrap();
    wait_until("the reason to be known", async || plain.connection_to_tags().last_error().contains("redis+cluster://"))
        .await;
}
