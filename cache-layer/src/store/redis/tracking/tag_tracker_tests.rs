//! Tags and variants do not outlive their entries: clients' requests can create any number of them.

use tests::{RedisServer, wait_until};

use crate::store::redis::{
    fleet_tests::{LEASE, connect, fill, invalidate_tag, key, loaded, read},
    wire::scripts::ARE_RECORDS,
    *,
};
use crate::{
    clock::Clock,
    entry::{Deadlines, EntryId},
    ramp::{MOST, Ramp, Turn},
    store::{Invalidated, TieredStore, Writes},
    tag::{TagRecord, TagToken},
};

fn entry(key: &Key, id: EntryId, life: u64, payload: &str) -> Entry {
    let made = Clock::system().now();
    let deadlines = Deadlines { made, ..Deadlines::fresh_until(made + life) };
    Entry::new(id, key, deadlines, bytes::Bytes::new(), payload.to_owned().into())
}

async fn lease(store: &RedisStore, key: &Key) -> Lease {
    match store.acquire(key, Seen::Unusable, LEASE, Failures::Heed).await.unwrap() {
        Acquired::Granted(lease) => lease,
        other => panic!("no lease: {other:?}"),
    }
}

/// Stores an entry that is kept for this many milliseconds.
async fn keep(store: &RedisStore, key: &Key, life: u64, tags: &[&str]) {
    let lease = lease(store, key).await;
    let entries = vec![(key.clone(), entry(key, EntryId::random(), life, "value"))];
    let fill = Fill { writes: Writes { entries: entries.into(), guard: None }, ..loaded(lease, "", tags) };
    assert_eq!(store.commit(&fill).await.unwrap(), Committed::Stored);
}

fn left(server: &RedisServer, tag: &str) -> i64 {
    server.command(&["PTTL", &format!("test:t:{tag}")])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_lives_as_long_as_the_longest_entry_that_carries_it_and_not_much_longer() {
    let server = RedisServer::start();
    let store = connect(server.url()).await;
    keep(&store, &key("short"), 10_000, &["t"]).await;
    let short = left(&server, "t");
    assert!((5_000..=12_500).contains(&short), "{short}");
    keep(&store, &key("long"), 600_000, &["t"]).await;
    let long = left(&server, "t");
    assert!((600_000..=1_350_000).contains(&long), "{long}");
    // A shorter life changes nothing.
    keep(&store, &key("shorter"), 1_000, &["t"]).await;
    let still = left(&server, "t");
    assert!((500_000..=long).contains(&still), "{still} of {long}");
    for name in ["short", "long", "shorter"] {
        assert!(server.command::<i64>(&["PTTL", &store.0.context.names.entry(&key(name))]) <= still, "{name}");
    }
    let everything = left(&server, "");
    assert!(everything > 20 * 60 * 60 * 1000, "{everything}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_put_and_what_is_softened_keeps_its_token() {
    let server = RedisServer::start();
    let store = connect(server.url()).await;
    let place = key("a");
    store
        .put(vec![(place.clone(), entry(&place, EntryId::random(), 300_000, "value"))], &Tags::new(["t"]))
        .await
        .unwrap();
    assert!((290_000..=375_000).contains(&left(&server, "t")), "{}", left(&server, "t"));
    store.invalidate(Scope::Tags(&Tags::new(["t"])), Hardness::Soft).await.unwrap();
    assert!((290_000..=375_000).contains(&left(&server, "t")), "{}", left(&server, "t"));
    assert!(matches!(store.get(&place).await, Ok(Lookup::Found(_))));
    // No entry carries it any more.
    invalidate_tag(&store, "t").await.unwrap();
    assert!((1..=60_000).contains(&left(&server, "t")), "{}", left(&server, "t"));
}

/// Requests of a stranger for resources that do not exist.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_of_entries_that_are_gone_are_gone() {
    let server = RedisServer::start();
    let store = connect(server.url()).await;
    for name in 0..100 {
        keep(&store, &key(&name.to_string()), 500, &[&format!("product:{name}")]).await;
    }
    let tokens = async || server.keys().iter().filter(|name| name.contains(":t:product:")).count();
    assert!(tokens().await > 0);
    wait_until("the tokens to be gone", async || tokens().await == 0).await;
}

/// A token that is gone may be replaced by a new one, so that no entry is served that had carried the old one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_is_made_anew_is_another_one() {
    let server = RedisServer::start();
    let store = connect(server.url()).await;
    let tiered = TieredStore::new(1 << 20, connect(server.url()).await);
    fill(&store, &key("a"), "old", &["t"]).await;
    wait_until("the entry to be near", async || {
        assert_eq!(read(&tiered, &key("a")).await.as_deref(), Some("old"));
        tiered.peek(&key("a")).is_some()
    })
    .await;
    let () = server.command(&["DEL", "test:t:t"]);
    assert_eq!(read(&store, &key("a")).await, None);
    fill(&store, &key("b"), "new", &["t"]).await;
    assert_eq!(read(&store, &key("b")).await.as_deref(), Some("new"));
    // All pushes before this reply have been received.
    tiered.get(&key("nothing")).await.unwrap();
    for _ in 0..2 {
        assert_eq!((read(&store, &key("a")).await, read(&tiered, &key("a")).await), (None, None));
    }
}

/// A load that began before an invalidation is not stored, even if the invalidation's token is gone by the time that it ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invalidation_is_not_forgotten_with_its_token() {
    let server = RedisServer::start();
    let store = connect(server.url()).await;
    let late = lease(&store, &key("a")).await;
    invalidate_tag(&store, "t").await.unwrap();
    let () = server.command(&["DEL", "test:t:t"]);
    // A load that began after it has given the tag a token again.
    assert_eq!(fill(&store, &key("b"), "new", &["t"]).await, Committed::Stored);
    assert_eq!(store.commit(&loaded(late, "old", &["t"])).await.unwrap(), Committed::Refused);
}

/// A primary entry and one of its variants, as the result of a load.
async fn vary(store: &RedisStore, primary: EntryId, selector: &str, life: u64) -> Committed {
    let (place, variant) = (key("v"), key("v").variant(selector.as_bytes()));
    let lease = lease(store, &place).await;
    let entries = vec![
        (place.clone(), entry(&place, primary, life, "").leading_to(8)),
        (variant.clone(), entry(&variant, EntryId::random(), life, selector)),
    ];
    store
        .commit(&Fill { writes: Writes { entries: entries.into(), guard: None }, ..loaded(lease, "", &[]) })
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn variants_that_nothing_leads_to_any_more_are_deleted() {
    const MOST: usize = 8;
    let server = RedisServer::start();
    let store = connect(server.url()).await;
    let variants = || server.keys().iter().filter(|name| name.contains(":e:") && !name.contains(":-:")).count();
    let mut parent = EntryId::random();
    for round in 0..50 {
        // Like the front end, which starts a new primary entry when the limit of variants is reached.
        if round % MOST == 0 {
            parent = EntryId::random();
        }
        // Each of them is written twice, as by a refresh.
        for _ in 0..2 {
            assert_eq!(vary(&store, parent, &format!("language {round}"), 60_000).await, Committed::Stored);
            assert_eq!(variants(), round % MOST + 1, "round {round}");
        }
    }
    for round in 48..50 {
        let selector = format!("language {round}");
        assert_eq!(read(&store, &key("v").variant(selector.as_bytes())).await.unwrap(), selector);
    }
    let known: String = server.command(&["GET", &store.0.context.names.variants(&key("v"))]);
    assert_eq!(known.len(), 2 * 32);

    // The variants of an invalidated primary entry are deleted with the next one.
    store.invalidate(Scope::Key(&key("v")), Hardness::Hard).await.unwrap();
    vary(&store, EntryId::random(), "another", 60_000).await;
    assert_eq!(variants(), 1);
}

/// Concurrent loads have each counted only themselves, so that the front end starts anew too late.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_variants_that_were_counted_too_few_the_oldest_go() {
    let server = RedisServer::start();
    let store = connect(server.url()).await;
    let parent = EntryId::random();
    for round in 0..20 {
        assert_eq!(vary(&store, parent, &format!("language {round}"), 60_000).await, Committed::Stored);
        let variants = server.keys().iter().filter(|name| name.contains(":e:") && !name.contains(":-:")).count();
        assert_eq!(variants, (round + 1).min(8), "round {round}");
    }
    for round in 12..20 {
        let selector = format!("language {round}");
        assert_eq!(read(&store, &key("v").variant(selector.as_bytes())).await.unwrap(), selector);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_known_of_variants_lives_as_long_as_they_do_and_is_no_more_than_that() {
    let server = RedisServer::start();
    let store = connect(server.url()).await;
    let name = store.0.context.names.variants(&key("v"));
    let left = || server.command::<i64>(&["PTTL", &name]);
    let parent = EntryId::random();
    vary(&store, parent, "long", 60_000).await;
    vary(&store, parent, "short", 1_000).await;
    assert!((30_000..=60_000).contains(&left()), "{}", left());
    vary(&store, parent, "longer", 120_000).await;
    assert!((90_000..=120_000).contains(&left()), "{}", left());
    // A value that another program left there is ignored, and the names in it are not deleted.
    let other = format!("test:e:{}", "x".repeat(32));
    let () = server.command(&["SET", &other, "another's"]);
    for junk in [&["SET", &*name, "{}:-:x"][..], &["LPUSH", &*name, "a"]] {
        let _: i64 = server.command(&["DEL", &name]);
        let _: redis::Value = server.command(junk);
        assert_eq!(vary(&store, EntryId::random(), "one", 1_000).await, Committed::Stored);
        assert_eq!(server.command::<String>(&["GET", &name]).len(), 32);
        assert_eq!(server.command::<String>(&["GET", &other]), "another's");
    }
    wait_until("it to be gone", async || left() == -2).await;
}

/// The script that writes ramps, and the memory store's [`Ramps`](crate::ramp::Ramps), give the same result for any order of
/// them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_writes_the_ramps_that_a_store_in_memory_has() {
    let server = RedisServer::start();
    let store = connect(server.url()).await;
    let found = |tag: &str| {
        let found: Option<Vec<u8>> = server.command(&["GET", &format!("test:t:{tag}")]);
        TagRecord::parse(&found.expect("it has a token")).expect("it can be read")
    };
    let mut longest = 0;
    for number in 0..24 {
        let tag = format!("t{number}");
        let mut expected = None;
        if number % 4 > 0 {
            keep(&store, &key(&tag), 600_000, &[tag.as_str()]).await;
            expected = Some(found(&tag));
        }
        for _ in 0..48 {
            // Of every other tag, none is over before the test is.
            let shortest = if number % 2 == 0 { 4 } else { 0 };
            let window = [0, 1, 3, 400, 600_000, 3_600_000][fastrand::usize(shortest..6)];
            let hardness = if window == 0 && fastrand::bool() {
                Hardness::Soft
            } else {
                Hardness::Ramp(std::time::Duration::from_millis(window))
            };
            store.invalidate(Scope::Tags(&Tags::new([&tag])), hardness).await.unwrap();
            let written = found(&tag);
            let of_line = expected.clone();
            let at = written.token.micros();
            let ramp = Ramp { at, start: at, window: window * 1000 };
            let mirrored = TagRecord::soft_invalidated(ramp, of_line);
            assert_eq!(written.token.0[..16], mirrored.token.0[..16]);
            assert_eq!(written.to_text()[32..], mirrored.to_text()[32..], "{written:?} {mirrored:?}");
            longest = longest.max(written.to_text().len());
            expected = Some(written);
            if fastrand::u8(..3) == 0 {
                tokio::time::sleep(std::time::Duration::from_millis(2)).await;
            }
        }
    }
    assert_eq!(longest, 33 + MOST * 32);
}

/// A tag that was softened long ago, whose token fills have kept alive since: by as much the merged ramps begin before their time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_tag_that_was_softened_long_ago_more_ramps_than_fit_make_a_record_still() {
    const DAYS: u64 = 24 * 3_600_000_000;
    let server = RedisServer::start();
    let store = connect(server.url()).await;
    keep(&store, &key("a"), 600_000, &["t"]).await;
    let name = "test:t:t";
    let token: String = server.command(&["GET", name]);
    let past = Clock::system().now() * 1000 - 50 * DAYS;
    // Of ramps that are over as well, the last one's window ended when the one before it did.
    let over = format!("{past:016x}{}s1{past:016x}{:08x}{:08x}", &token[16..31], u32::MAX, 1);
    for before in [format!("{past:016x}{}s", &token[16..31]), over] {
        let () = server.command(&["SET", name, &before, "PX", "600000"]);
        for _ in 0..MOST + 8 {
            store
                .invalidate(Scope::Tags(&Tags::new(["t"])), Hardness::Ramp(std::time::Duration::from_secs(3_600)))
                .await
                .unwrap();
            let written: String = server.command(&["GET", name]);
            let record = TagRecord::parse(written.as_bytes()).unwrap_or_else(|| panic!("a record: {written}"));
            let carried = TagToken::parse(token.as_bytes()).unwrap();
            assert!(!record.state_of(&carried, || Turn(u32::MAX)).is_void(), "{written}");
        }
    }
}

/// A server whose clock was set back would order ramps wrongly: earlier entries are void.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_the_servers_clock_was_set_back_a_ramp_voids_what_it_covers() {
    let server = RedisServer::start();
    let store = connect(server.url()).await;
    keep(&store, &key("a"), 600_000, &["t"]).await;
    let name = "test:t:t";
    let token: String = server.command(&["GET", name]);
    let later = Clock::system().now() * 1000 + 3_600_000_000;
    let token = format!("{later:016x}{}", &token[16..]);
    let () = server.command(&["SET", name, &token, "PX", "600000"]);
    let () = server.command(&["PING"]);
    let hardness = Hardness::Ramp(std::time::Duration::from_secs(3_600));
    store.invalidate(Scope::Tags(&Tags::new(["t"])), hardness).await.unwrap();
    let written: String = server.command(&["GET", name]);
    assert!(written.len() == 32 && written[16..31] != token[16..31], "{written} after {token}");
}

/// Whatever another program or a damage has left: a value that only one of both took for a record would never be overwritten. A
/// server in another locale orders text in another way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_script_and_a_reader_take_the_same_values_for_records() {
    let servers = [RedisServer::start(), RedisServer::builder().locale("cs_CZ").start()];
    let line = "0123456789abcde";
    let ramp = |at: u64, lead: u64, window: u64| format!("{at:016x}{lead:08x}{window:08x}");
    let of = |at: u64, rest: &str| format!("{at:016x}{line}s{rest}");
    let two = of(9_000_000, &format!("1{}{}", ramp(7_000_000, 3, 60_000), ramp(9_000_000, 0, 60_000)));
    let bans = format!("|{:016x}{:016x}h000000000002a*{:016x}s0000ea600001b", 9, 7, 9);
    let many = |count: u64| (1..=count).map(|at| ramp(at * 1_000_000, 0, 60_000)).collect::<String>();
    let mut values = vec![
        of(9, ""),
        of(9, &"1".repeat(33)),
        of(u64::MAX, &format!("1{}", ramp(u64::MAX, 0, 60_000))),
        of(u64::MAX, &format!("1{}{}", ramp(u64::MAX - 1, 0, 60_000), ramp(u64::MAX, 0, 60_000))),
        of(0, &format!("1{}", ramp(0, 0, 60_000))),
        of(9_000_000, &format!("1{}", ramp(9_000_000, 9_001, 60_000))),
        of(9_000_000, &format!("1{}", ramp(9_000_000, 0, 0xffff_ffff))),
        of(9_000_000, &format!("1{}", ramp(8_000_000, 0, 60_000))),
        of(32_000_000, &format!("1{}", many(32))),
        of(33_000_000, &format!("1{}", many(33))),
        format!("{}{bans}", of(9, "")),
    ];
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..2_000 {
        let mut value = if random.bool() { two.clone() } else { format!("{two}{bans}") }.into_bytes();
        for _ in 0..random.usize(1..3) {
            let at = random.usize(..value.len());
            match random.u8(..4) {
                0 => drop(value.remove(at)),
                1 => value.insert(at, b'0'),
                _ => value[at] = *random.choice(b"019afsciAFhz|").expect("there are some"),
            }
        }
        values.push(String::from_utf8(value).unwrap());
    }
    let command: Vec<&str> = ["EVAL", ARE_RECORDS, "0"].into_iter().chain(values.iter().map(String::as_str)).collect();
    for server in servers {
        let are: Vec<u8> = server.command(&command);
        assert_eq!(are.len(), values.len());
        for (value, is) in values.iter().zip(are) {
            assert_eq!(is == 1, TagRecord::parse(value.as_bytes()).is_some(), "{value}");
        }
    }
}

/// A value in place of a token that can't be parsed is no token: neither for a read, nor for a script that commits or softens.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_of_another_version_is_no_token() {
    let server = RedisServer::start();
    let store = connect(server.url()).await;
    let name = "test:t:t";
    let of_another_time = format!("1{}", "1".repeat(32));
    for odd in ["2", "1", "1zz", &format!("2{}", "0".repeat(32)), &format!("1{}", "0".repeat(31)), &of_another_time] {
        keep(&store, &key("a"), 600_000, &["t"]).await;
        assert!(matches!(store.get(&key("a")).await, Ok(Lookup::Found(_))));
        let token: String = server.command(&["GET", name]);
        let () = server.command(&["SET", name, &format!("{}s{odd}", &token[..31]), "PX", "600000"]);
        wait_until("it is void", async || !matches!(store.get(&key("a")).await, Ok(Lookup::Found(_)))).await;
        keep(&store, &key("a"), 600_000, &["t"]).await;
        let () = server.command(&["SET", name, &format!("{}s{odd}", &token[..31]), "PX", "600000"]);
        let softened = store.invalidate(Scope::Tags(&Tags::new(["t"])), Hardness::Ramp(LEASE)).await;
        assert_eq!(softened, Ok(Invalidated::default()));
        let written: String = server.command(&["GET", name]);
        assert!(written.len() == 32 && written[16..31] != token[16..31], "{odd}: {written} after {token}");
    }
}
