//! The load of a miss, a hit and an invalidation on Redis, counted by Redis itself: round trips, commands, scripts, bytes.
//!
//! `cargo nextest run -p tests --test redis_commands --no-capture` prints them, with the processor time that they took there. On
//! another server: `tests/servers/run valkey` before it.

use cache_layer::Cache;
use futures_util::future::join_all;
use tests::{App, Backend, Origin, RedisUsage};

const TIMES: u64 = 400;
/// The rounds in which misses are counted.
const ROUNDS: u64 = 5;
/// Requests at one time, where there are several.
const AT_ONCE: u64 = 40;
const PLAIN: &[(&str, &str)] = &[("cache-control", "max-age=600")];
const TAGGED: &[(&str, &str)] = &[("cache-control", "max-age=600"), ("cache-tag", "all-of-them")];

/// Allows for other commands: heartbeats, and commands that are sent once.
fn about(expected: u64) -> std::ops::RangeInclusive<u64> {
    expected..=expected + TIMES / 10
}

/// As [`about`], of a round of misses, which is counted by a few messages.
fn about_in_a_round(of_each: u64) -> std::ops::RangeInclusive<u64> {
    let expected = of_each * TIMES / ROUNDS;
    expected..=expected + TIMES / ROUNDS / 8
}

/// An application that answers with these `fields`, and a cache before it that has begun to work.
async fn app(backend: &Backend, name: &str, fields: &'static [(&'static str, &'static str)]) -> App {
    let app = App::on(backend, &Origin::echo(fields)).await.unexplained();
    // The first lease tells for how long they are taken; by the third, the token that everything carries is known.
    for number in 0..3 {
        app.get(&format!("/{name}/{number}"), &[]).await;
    }
    app
}

fn counted(what: &str, backend: &Backend, before: &RedisUsage) -> RedisUsage {
    let usage = RedisUsage::of(backend.server()).since(before);
    println!("{what}: {}", usage.per(TIMES));
    usage
}

/// Requests one after the other, so that each message to the server is a round trip; returns the usage in each round. A process
/// that stands still between the look-up and the load loses the lease that the look-up took along, and asks for it again.
async fn misses(backend: &Backend, app: &App, what: &str) -> Vec<RedisUsage> {
    let begun = RedisUsage::of(backend.server());
    let mut rounds = Vec::new();
    for round in 0..ROUNDS {
        let before = RedisUsage::of(backend.server());
        for number in round * TIMES / ROUNDS..(round + 1) * TIMES / ROUNDS {
            let answer = app.get(&format!("/{number}"), &[]).await;
            assert!(answer.cache_status().stored, "{number}");
        }
        rounds.push(RedisUsage::of(backend.server()).since(&before));
    }
    counted(what, backend, &begun);
    rounds
}

/// Panics if a miss costs more, or less, in each of the `rounds`.
fn assert_cost(rounds: &[RedisUsage], what: &str, of_each: u64, count: impl Fn(&RedisUsage) -> u64) {
    let counts: Vec<u64> = rounds.iter().map(count).collect();
    assert!(about_in_a_round(of_each).contains(counts.iter().min().expect("a round")), "{what}: {counts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_miss_is_one_round_trip_before_the_load_and_one_after_it_with_one_script() {
    for backend in [Backend::redis(), Backend::tiered()] {
        let app = app(&backend, "first", PLAIN).await;
        let rounds = misses(&backend, &app, "a miss").await;
        assert_cost(&rounds, "messages", 2, RedisUsage::messages);
        assert_cost(&rounds, "scripts", 1, |miss| miss.calls("evalsha"));
        // Before the load: the lease, the entry behind it, what watches over both, and the time. After it: the script, which
        // compares the lease, writes the entry and ends the lease.
        assert_cost(&rounds, "commands", 9, RedisUsage::commands);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_costs_no_round_trip_and_no_script() {
    let backend = Backend::redis();
    let app = app(&backend, "first", TAGGED).await;
    let rounds = misses(&backend, &app, "a miss with a tag").await;
    // The script returns the tag's token once.
    assert_cost(&rounds, "messages", 2, RedisUsage::messages);
    assert_cost(&rounds, "scripts", 1, |miss| miss.calls("evalsha"));
    assert_cost(&rounds, "commands", 12, RedisUsage::commands);
}

#[tokio::test(flavor = "multi_thread")]
async fn misses_that_come_together_share_what_they_can() {
    let backend = Backend::redis();
    let app = app(&backend, "first", PLAIN).await;
    let before = RedisUsage::of(backend.server());
    for round in 0..TIMES / AT_ONCE {
        join_all((0..AT_ONCE).map(|number| {
            let app = app.clone();
            async move { app.get(&format!("/{round}/{number}"), &[]).await }
        }))
        .await;
    }
    let miss = counted("a miss among many", &backend, &before);
    assert!(miss.messages() <= TIMES, "{}", miss.messages());
    // Fills that are ready together are one call. A lease that was claimed too early is given back, by a script.
    assert!(miss.calls("evalsha") <= TIMES / 2, "{}", miss.calls("evalsha"));
    assert!(miss.commands() <= 7 * TIMES, "{}", miss.commands());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hit_is_one_command() {
    let backend = Backend::redis();
    let app = app(&backend, "first", TAGGED).await;
    misses(&backend, &app, "a miss before the hits").await;
    // From here on, the tags' tokens are known.
    app.get("/first/0", &[]).await;
    let before = RedisUsage::of(backend.server());
    for number in 0..TIMES {
        assert!(app.get(&format!("/{number}"), &[]).await.cache_status().hit, "{number}");
    }
    let hit = counted("a hit", &backend, &before);
    assert!(about(TIMES).contains(&hit.messages()) && hit.commands() <= 5 * TIMES / 4, "{hit:?}");
    assert!(about(TIMES).contains(&hit.calls("get")) && hit.calls("evalsha") < TIMES / 50, "{hit:?}");
}

/// In a process that has not filled the store, nothing is known to be there: leases are taken in vain until that is noticed.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_finds_what_others_stored_soon_asks_for_no_leases() {
    let backend = Backend::redis();
    let (one, other) = (app(&backend, "one", PLAIN).await, app(&backend, "other", PLAIN).await);
    misses(&backend, &one, "a miss of the other process").await;
    let before = RedisUsage::of(backend.server());
    for number in 0..TIMES {
        assert!(other.get(&format!("/{number}"), &[]).await.cache_status().hit, "{number}");
    }
    let hit = counted("a hit on what another process stored", &backend, &before);
    assert!(about(TIMES).contains(&hit.messages()) && hit.calls("set") <= TIMES / 50, "{hit:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalidation_is_one_round_trip() {
    let backend = Backend::redis();
    let app = app(&backend, "first", PLAIN).await;
    let cache: &Cache = &app.cache;
    let before = RedisUsage::of(backend.server());
    for number in 0..TIMES {
        cache.invalidate_tag(&format!("tag {number}")).await.expect("it is delivered");
    }
    let tag = counted("an invalidation by tag", &backend, &before);
    assert!(about(TIMES).contains(&tag.messages()) && tag.calls("evalsha") == 2 * TIMES, "{tag:?}");
    let before = RedisUsage::of(backend.server());
    for number in 0..TIMES {
        let key = cache_layer::Key::new(["nobody's", &number.to_string()]);
        cache.invalidate(&key).await.expect("it is delivered");
    }
    let key = counted("an invalidation by key", &backend, &before);
    assert!(about(TIMES).contains(&key.messages()) && key.calls("evalsha") == 0, "{key:?}");
    assert!(about(2 * TIMES).contains(&key.commands()), "{key:?}");
}
