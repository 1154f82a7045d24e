//! Patterns on a server: what they match, and what they and tags cost other clients.

use std::time::{Duration, Instant};

use bytes::Bytes;
use tests::{LyingProxy, RedisServer};

use super::{
    fleet_tests::{builder, connect, connect_with, connected_again, fill, key, read},
    schedule_tests::plain_connection,
    wire::names::EVERYTHING,
    *,
};
use crate::{
    clock::Clock,
    entry::{Deadlines, EntryId, envelope},
    store::TieredStore,
    tag::{TagStamp, TagToken, Tags},
};

#[tokio::test]
async fn a_pattern_means_here_what_it_means_to_the_server() {
    const SIGNS: &[u8] = b"aab-*?[]^\\";
    let server = RedisServer::start();
    let mut random = fastrand::Rng::new();
    let seed = random.get_seed();
    let mut word = |signs: &[u8], most: usize| -> String {
        (0..random.usize(1..=most)).map(|_| signs[random.usize(..signs.len())] as char).collect()
    };
    let mut names: Vec<String> = (0..300).map(|_| word(SIGNS, 6)).collect();
    names.sort_unstable();
    names.dedup();
    for name in &names {
        server.command::<()>(&["SET", name, ""]);
    }
    let mut connection = plain_connection(&server).await;
    let mut matched = 0;
    for _ in 0..3_000 {
        let text = word(SIGNS, 9);
        let pattern = Pattern::new(&text);
        let mut scan = redis::cmd("SCAN");
        let (cursor, mut theirs): (u64, Vec<String>) =
            scan.arg(0).arg("MATCH").arg(&text).arg("COUNT").arg(100_000).query_async(&mut connection).await.unwrap();
        assert_eq!(cursor, 0);
        theirs.sort_unstable();
        let ours: Vec<String> = names.iter().filter(|name| pattern.matches(name.as_bytes())).cloned().collect();
        assert_eq!(ours, theirs, "{text} with seed {seed}");
        matched += ours.len();
    }
    assert!(matched > 3_000, "{matched}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_nodes_first_tier_lets_go_of_what_a_pattern_deletes() {
    let server = RedisServer::start();
    let reader = TieredStore::new(1 << 20, connect(server.url()).await);
    let writer = connect(server.url()).await;
    for round in 0..200 {
        fill(&writer, &key("a"), &round.to_string(), &[]).await;
        for _ in 0..2 {
            assert_eq!(read(&reader, &key("a")).await.unwrap(), round.to_string());
        }
        let own = if round % 2 == 0 {
            reader.delete_matching(&Pattern::new("redis:*")).await
        } else {
            Ok(Invalidated::default())
        };
        let others = writer.delete_matching(&Pattern::new("redis:*")).await.unwrap();
        assert_eq!(own.unwrap().and(others).deleted, 1);
        // All pushes before this reply have been received.
        reader.get(&key("nothing")).await.unwrap();
        assert!(reader.peek(&key("a")).is_none(), "round {round}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_not_scan_invalidates_everything_instead() {
    let server = RedisServer::start();
    server.command::<()>(&["ACL", "SETUSER", "plain", "on", ">secret", "~*", "&*", "+@all", "-scan"]);
    let store = connect(server.url().replace("redis://", "redis://plain:secret@")).await;
    fill(&store, &key("a"), "one", &[]).await;
    assert_eq!(store.delete_matching(&Pattern::new("redis:a")).await.unwrap().deleted, 0);
    assert_eq!(read(&store, &key("a")).await, None);
    assert!(store.connected(), "it is no reason to give up the connection");
}

/// A store without a lurker, so that patterns stay listed.
async fn with_a_list(server: &RedisServer) -> RedisStore {
    connect_with(builder(server.url()).lurker(false)).await
}

/// The number of sweeps so far.
fn sweeps(store: &RedisStore) -> u64 {
    store.round_trips().find(|(name, _)| *name == "SCAN").map_or(0, |(_, count)| count)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn patterns_for_which_there_is_no_room_are_swept_together() {
    let server = RedisServer::start();
    let store = with_a_list(&server).await;
    for number in 0..300 {
        fill(&store, &key(&number.to_string()), "one", &[]).await;
    }
    fill(&store, &key("other"), "one", &[]).await;
    // As many other names as take a few steps.
    let many = "for n = 1, 5000 do redis.call('SET', 'other:' .. n, '') end";
    server.command::<()>(&["EVAL", many, "0"]);
    let before = sweeps(&store);
    let all = (0..300).map(|number| {
        let (store, pattern) = (store.clone(), Pattern::new(&format!("redis:{number}")));
        // Half of those that find no room are soft.
        let hardness = if number % 2 == 0 { Hardness::Hard } else { Hardness::Soft };
        tokio::spawn(async move { store.invalidate(Scope::Pattern(&pattern), hardness).await })
    });
    for invalidated in all.collect::<Vec<_>>() {
        invalidated.await.unwrap().unwrap();
    }
    assert_eq!(store.state().overflowed_bans, 300 - 128);
    // How many steps one takes depends on how busy the machine is.
    let sweeps = sweeps(&store) - before;
    println!("172 patterns were swept in {sweeps} sweeps");
    assert!((2..=30).contains(&sweeps), "{sweeps} sweeps instead of a few");
    for number in 0..300 {
        let found = match store.get(&key(&number.to_string())).await {
            Ok(Lookup::Found(entry)) => Some(entry.is_soft_invalidated()),
            _ => None,
        };
        assert_eq!(found, (number % 2 == 1).then_some(true), "{number}");
    }
    assert_eq!(read(&store, &key("other")).await.unwrap(), "one");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pattern_of_both_schemes_takes_one_place_on_the_list() {
    let server = RedisServer::start();
    let store = with_a_list(&server).await;
    let cache = crate::Cache::new(store.clone());
    let names = ["http://shop/99/a", "https://shop/99/a", "http://other/a"];
    for name in names {
        fill(&store, &Key::new([name]), "one", &[]).await;
    }
    for number in 0..100 {
        cache.delete_pattern(&format!("https://shop/{number}/*")).await.unwrap();
    }
    assert_eq!(store.state().overflowed_bans, 0);
    assert_eq!(read(&store, &Key::new([names[0]])).await, None);
    assert_eq!(read(&store, &Key::new([names[1]])).await, None);
    assert!(read(&store, &Key::new([names[2]])).await.is_some());
    assert_eq!(cache.count_pattern("https://shop/*").await.unwrap(), Some(2), "void, and there");
    assert_eq!(cache.delete_pattern("https://shop/*").counted().await.unwrap(), 2);
}

/// The latencies of one client during other work.
struct Stalls {
    longest: Duration,
    /// The 99.9th percentile.
    usual: Duration,
    pings: usize,
}

/// Sends one PING after another while `work` is done.
async fn stalls_during<T>(server: &RedisServer, work: impl Future<Output = T>) -> (T, Duration, Stalls) {
    let url = server.url();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    // On a thread of its own, so that only the server delays it.
    let pinging = std::thread::spawn(move || {
        let mut connection = redis::Client::open(url).unwrap().get_connection().unwrap();
        let mut times = Vec::new();
        loop {
            let begun = Instant::now();
            redis::cmd("PING").query::<()>(&mut connection).unwrap();
            times.push(begun.elapsed());
            if stopped.try_recv().is_ok() {
                return times;
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    });
    let begun = Instant::now();
    let result = work.await;
    let took = begun.elapsed();
    stop.send(()).unwrap();
    let mut times = pinging.join().unwrap();
    times.sort_unstable();
    let (pings, longest) = (times.len(), *times.last().unwrap());
    (result, took, Stalls { longest, usual: times[pings * 999 / 1000], pings })
}

/// How often the server ran each command since the last `CONFIG RESETSTAT`.
fn calls(server: &RedisServer) -> Vec<(String, u64)> {
    let info: String = server.command(&["INFO", "commandstats"]);
    let line = |line: &str| {
        let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        Some((name.to_owned(), rest.split_once(',')?.0.parse().ok()?))
    };
    info.lines().filter_map(line).collect()
}

/// By the server's own clock, since it keeps a log of all.
fn longest_command(server: &RedisServer) -> Duration {
    let longest = "local longest = 0;
                   for _, entry in ipairs(redis.call('SLOWLOG', 'GET', -1)) do
                       if entry[4][1] == 'SCAN' or entry[4][1] == 'UNLINK' or entry[4][1] == 'EVALSHA' then longest = math.max(longest, entry[3]) end
                   end;
                   return longest";
    Duration::from_micros(server.command(&["EVAL", longest, "0"]))
}

/// `total` entries in the form of commits; every fifth is a list of products with the tag `lists`.
async fn populate(server: &RedisServer, store: &RedisStore, total: usize) {
    fill(store, &key("first"), "x", &["lists"]).await;
    let token =
        |tag: &str| TagToken::parse(&server.command::<Vec<u8>>(&["GET", &store.0.context.names.tag(tag)])).unwrap();
    let stamp = |tag: &str| TagStamp { tag: tag.into(), token: token(tag) };
    let (lists, everything) = (stamp("lists"), stamp(EVERYTHING));
    let mut connection = plain_connection(server).await;
    let deadlines = Deadlines::fresh_until(Clock::system().now() + 3_600_000);
    for chunk in (0..total).collect::<Vec<_>>().chunks(5_000) {
        let mut pipeline = redis::pipe();
        for n in chunk {
            let is_list = n % 5 == 0;
            let key = Key::new([if is_list { "products:list:" } else { "products:detail:" }, &n.to_string()]);
            let entry = Entry::new(EntryId::random(), &key, deadlines, Bytes::new(), Bytes::from_static(b"payload"));
            let stamps = if is_list { vec![lists.clone(), everything.clone()] } else { vec![everything.clone()] };
            let bytes = envelope::encode(&entry.stamped(&stamps));
            pipeline
                .cmd("SET")
                .arg(store.0.context.names.entry(&key))
                .arg(&bytes[..])
                .arg("PX")
                .arg(3_600_000)
                .ignore();
        }
        pipeline.query_async::<()>(&mut connection).await.unwrap();
    }
}

/// Invalidates the tag of a fifth of `total` entries, deletes that fifth by a pattern, and then idles for as long.
async fn cost(total: usize) -> [Stalls; 3] {
    let server = RedisServer::start();
    let store = connect(server.url()).await;
    populate(&server, &store, total).await;
    let list = Key::new(["products:list:", "0"]);
    assert!(read(&store, &list).await.is_some());
    // The look-up may have taken the lease, which is given back.
    let lease = store.0.context.names.lease(&list);
    let given_back = async || server.command::<u64>(&["EXISTS", &lease]) == 0;
    tests::wait_until("the lease to be given back", given_back).await;

    server.command::<()>(&["CONFIG", "RESETSTAT"]);
    let (_, took, tag) = stalls_during(&server, invalidate_tag(&store, "lists")).await;
    let counted = calls(&server);
    let of = |name: &str| counted.iter().find(|(one, _)| one == name).map_or(0, |(_, calls)| *calls);
    println!(
        "tag over {} of {total} entries: {took:?}, longest stall {:?} ({} pings)",
        total / 5,
        tag.longest,
        tag.pings
    );
    println!("  commands: {counted:?}");
    assert_eq!((of("evalsha"), of("set"), of("scan"), of("unlink"), of("del")), (2, 2, 0, 0, 0), "{counted:?}");
    assert_eq!(read(&store, &list).await, None);
    tests::wait_until("the lease to be given back", given_back).await;

    server.command::<()>(&["CONFIG", "SET", "slowlog-log-slower-than", "0"]);
    server.command::<()>(&["CONFIG", "SET", "slowlog-max-len", "1000000"]);
    server.command::<()>(&["CONFIG", "RESETSTAT"]);
    let (deleted, took, pattern) =
        stalls_during(&server, store.delete_matching(&Pattern::new("products:list:*"))).await;
    assert_eq!(deleted.unwrap().deleted, total as u64 / 5);
    let counted = calls(&server);
    println!(
        "pattern over the same: {took:?}, longest stall {:?}, 99.9 % of {} pings within {:?}",
        pattern.longest, pattern.pings, pattern.usual
    );
    println!("  commands: {counted:?}; the longest that the server needed for one: {:?}", longest_command(&server));
    let (_, _, nothing) = stalls_during(&server, tokio::time::sleep(took)).await;
    println!("nothing for as long: longest stall {:?}, 99.9 % within {:?}", nothing.longest, nothing.usual);
    assert!(counted.iter().all(|(name, _)| name != "keys"), "{counted:?}");
    assert_eq!(
        server.command::<usize>(&["DBSIZE"]),
        total - total / 5 + 6,
        "one entry, two tokens, a note, the identity and the data set id are left"
    );
    [tag, pattern, nothing]
}

/// Bans a fifth of `total` entries many times, has a lurker sweep them, and sweeps another fifth by a call that counts. Returns
/// the 99th percentile of the time for a ban, and the latencies of a client while the lurker swept.
async fn cost_of_bans(total: usize) -> (Duration, Stalls) {
    let server = RedisServer::start();
    let store = with_a_list(&server).await;
    populate(&server, &store, total).await;
    let mut times = Vec::new();
    for number in 0..500 {
        let pattern = Pattern::new(&format!("products:list:*{}", "*".repeat(number % 100)));
        let begun = Instant::now();
        store.invalidate(Scope::Pattern(&pattern), Hardness::Hard).await.unwrap();
        times.push(begun.elapsed());
    }
    times.sort_unstable();
    assert_eq!(store.state().overflowed_bans, 0);
    assert_eq!(read(&store, &Key::new(["products:list:", "5"])).await, None);
    assert!(read(&store, &Key::new(["products:detail:", "6"])).await.is_some());
    println!("bans over {} of {total} entries: half within {:?}, 99 % within {:?}", total / 5, times[250], times[495]);

    let (_, _, nothing) = stalls_during(&server, tokio::time::sleep(Duration::from_secs(1))).await;
    println!("nothing for a second: longest stall {:?}, 99.9 % within {:?}", nothing.longest, nothing.usual);
    server.command::<()>(&["CONFIG", "SET", "slowlog-log-slower-than", "0"]);
    server.command::<()>(&["CONFIG", "SET", "slowlog-max-len", "1000000"]);
    let lurker = connect_with(builder(server.url()).lurker_at_once()).await;
    let swept = async {
        lurker.begin_to_lurk();
        while lurker.has_bans().await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let (_, took, swept) = stalls_during(&server, swept).await;
    println!(
        "the lurker: {took:?}, longest stall {:?}, 99.9 % within {:?}; the longest that the server needed for one: {:?}",
        swept.longest,
        swept.usual,
        longest_command(&server)
    );
    assert_eq!(lurker.state().swept_bans, 100);
    let left: usize = server.command(&["DBSIZE"]);
    assert!(left < total - total / 5 + 20, "{left}");

    let begun = Instant::now();
    let deleted = store.delete_matching(&Pattern::new("products:detail:?*1")).await.unwrap().deleted;
    let counted = begun.elapsed();
    println!("a call that sweeps and counts {deleted} of what is left: {counted:?}");
    println!(
        "of {total} entries: a ban in {:?} (p99) beside {counted:?} of SCAN in the same run; the lurker's longest stall {:?}, {:?} \
         while nothing was done",
        times[495], swept.longest, nothing.longest
    );
    (times[495], swept)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ban_costs_one_round_trip_and_what_it_covers_is_swept() {
    cost_of_bans(20_000).await;
}

/// As the one below.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement over a million entries, for a quiet machine"]
async fn a_pattern_is_said_within_5_ms_and_its_sweep_holds_nobody_up_for_10() {
    let (said, swept) = cost_of_bans(1_000_000).await;
    assert!(said < Duration::from_millis(5), "{said:?}");
    assert!(swept.longest < Duration::from_millis(10), "{:?}", swept.longest);
}

async fn invalidate_tag(store: &RedisStore, tag: &str) {
    store.invalidate(Scope::Tags(&Tags::new([tag])), Hardness::Hard).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tag_costs_one_round_trip_and_a_pattern_small_steps() {
    cost(20_000).await;
}

/// Prints the figures in the documentation. Run it with `--release`, on an idle machine: other work delays the client by itself,
/// and the output shows by how much.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement over a million entries, for a quiet machine"]
async fn nobody_is_held_up_by_a_tag_or_a_pattern_over_200_000_of_a_million_entries() {
    let [tag, pattern, nothing] = cost(1_000_000).await;
    let longest = tag.longest.max(pattern.longest);
    assert!(longest < Duration::from_millis(20), "{longest:?}, and {:?} while nothing was done", nothing.longest);
}

/// The connection is half-open from then on: the sweep's own limits end it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sweep_whose_last_answer_never_comes_ends_and_is_kept() {
    let server = RedisServer::start();
    let proxy = LyingProxy::start(server.addr()).await;
    let store = connect(format!("redis://{}", proxy.addr())).await;
    fill(&store, &key("a"), "old", &[]).await;
    proxy.fall_silent(&["GET", &store.0.context.names.dataset_id("")]);
    let swept = store.delete_matching(&Pattern::new("redis:*"));
    let swept = tokio::time::timeout(Duration::from_secs(30), swept).await.expect("it ends");
    assert!(swept.is_err(), "{swept:?}");
    assert_eq!(proxy.be_honest(), 1);
    connected_again(&store).await;
    assert_eq!(read(&store, &key("a")).await, None);
    assert_eq!(store.state().pending_invalidations, 0);
}
