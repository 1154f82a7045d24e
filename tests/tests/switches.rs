//! Switches: what an operator turns off or on for a while, and that the whole fleet hears of it.

use std::{convert::Infallible, time::Duration};

use cache_layer::{
    Cache, CacheLayer, Clock, Switch, SwitchError,
    store::{MemoryStore, RedisStore, TieredStore},
    testing::verified,
};
use tests::{App, Backend, Fault, FaultProxy, Origin, RedisServer, over_each_store, wait_until};

const MINUTE: Duration = Duration::from_secs(60);
/// For each round trip, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(10);
const FRESH: &[(&str, &str)] = &[("cache-control", "max-age=60")];

async fn app(backend: &Backend, origin: &Origin) -> App {
    App::new(backend.cache().await.switches(true).build(), origin, |layer| layer)
}

fn said(response: &tests::Response) -> (&str, Option<String>) {
    (response.x_cache(), response.cache_status().detail)
}

async fn bypassed_reads_go_to_the_application_and_leave_what_is_stored(backend: &Backend) {
    let app = app(backend, &Origin::echo(FRESH)).await;
    assert_eq!(app.get("/a", &[]).await.call(), 1);
    app.cache.switch(Switch::BypassReads, MINUTE).await.unwrap();
    let past = app.get("/a", &[]).await;
    assert_eq!((said(&past), past.call()), (("BYPASS", Some("switched".to_owned())), 2));
    app.cache.switch_off(Switch::BypassReads).await.unwrap();
    let hit = app.get("/a", &[]).await;
    assert_eq!((hit.x_cache(), hit.call()), ("HIT", 1));
}

async fn stopped_fills_leave_hits_and_store_nothing(backend: &Backend) {
    let app = app(backend, &Origin::echo(FRESH)).await;
    app.get("/a", &[]).await;
    app.cache.switch(Switch::StopFills, MINUTE).await.unwrap();
    assert_eq!(app.get("/a", &[]).await.x_cache(), "HIT");
    for _ in 0..2 {
        assert_eq!(said(&app.get("/b", &[]).await), ("MISS", Some("fills-stopped".to_owned())));
    }
    app.cache.switch_off(Switch::StopFills).await.unwrap();
    assert_eq!(said(&app.get("/b", &[]).await), ("MISS", None));
    assert_eq!(app.get("/b", &[]).await.x_cache(), "HIT");
}

/// One by one and many at once; what the application sets is stored.
async fn stopped_fills_store_no_value_that_is_loaded(backend: &Backend) {
    let cache = backend.cache().await.switches(true).build();
    cache.switch(Switch::StopFills, MINUTE).await.unwrap();
    let load = async |wanted: Vec<&'static str>| Ok::<_, Infallible>(wanted.into_iter().map(|key| (key, 7)));
    assert_eq!(cache.get_or_load("one", async || Ok::<_, Infallible>(7)).await, Ok(7));
    assert_eq!(cache.get_or_load_many(["two", "three"], load).await, Ok(vec![Some(7), Some(7)]));
    cache.set("four", &7).await.unwrap();
    assert!(cache.drain(MINUTE).await);
    let is_there = async || {
        let mut there = Vec::new();
        for key in ["one", "two", "three", "four"] {
            there.push(cache.contains(key).await);
        }
        there
    };
    assert_eq!(is_there().await, [false, false, false, true]);
    cache.switch_off(Switch::StopFills).await.unwrap();
    cache.get_or_load_many(["two", "three"], load).await.unwrap();
    assert!(cache.drain(MINUTE).await);
    assert_eq!(is_there().await, [false, true, true, true]);
}

async fn wider_grace_uses_what_is_stale_for_as_long_as_it_is_kept(backend: &Backend) {
    let clock = Clock::manual();
    let cache = backend.cache().await.switches(true).clock(clock.clone()).build();
    let origin = Origin::echo(&[("cache-control", "max-age=1"), ("etag", "\"a\"")]);
    let app = App::new(cache, &origin, |layer| layer);
    app.get("/a", &[]).await;
    let strict = Origin::echo(&[("cache-control", "max-age=1, must-revalidate"), ("etag", "\"a\"")]);
    let strict = App::new(app.cache.clone(), &strict, |layer| layer.namespace("strict"));
    strict.get("/a", &[]).await;
    clock.advance(MINUTE);
    app.cache.switch(Switch::WiderGrace, MINUTE).await.unwrap();
    let stale = app.get("/a", &[]).await;
    assert_eq!((stale.x_cache(), stale.call()), ("STALE", 1));
    assert_ne!(strict.get("/a", &[]).await.x_cache(), "STALE", "must-revalidate stays what it is");
    app.cache.switch_off(Switch::WiderGrace).await.unwrap();
}

/// Whether verifications still come of hits, within a number of hits that is enough for a rate of 1.
async fn verifies(app: &App) -> bool {
    let before = app.cache.counts().verified;
    for _ in 0..5 {
        assert_eq!(app.get("/a", &[]).await.x_cache(), "HIT");
    }
    assert!(app.cache.drain(MINUTE).await);
    app.cache.counts().verified > before
}

async fn a_switched_rate_takes_the_place_of_every_rate_that_is_set(backend: &Backend) {
    let unset = app(backend, &Origin::echo(FRESH)).await;
    let set = App::new(unset.cache.clone(), &Origin::echo(FRESH), |layer| layer.namespace("set").verify(1.0));
    for app in [&unset, &set] {
        app.get("/a", &[]).await;
    }
    assert!(!verifies(&unset).await && verifies(&set).await);
    unset.cache.switch_verification(1.0, MINUTE).await.unwrap();
    assert!(verifies(&unset).await && verifies(&set).await);
    unset.cache.switch_verification(0.0, MINUTE).await.unwrap();
    assert!(!verifies(&unset).await && !verifies(&set).await);
    unset.cache.switch_off(Switch::VerificationRate).await.unwrap();
    assert!(!verifies(&unset).await && verifies(&set).await);
}

async fn a_switched_rate_verifies_values(backend: &Backend) {
    let cache = backend.cache().await.switches(true).build();
    let hit = async || {
        assert_eq!(cache.get_or_load("key", async || Ok::<_, Infallible>(7)).await, Ok(7));
        assert!(cache.drain(MINUTE).await);
        verified(&cache).await;
        cache.counts().verified
    };
    assert_eq!((hit().await, hit().await), (0, 0));
    cache.switch_verification(1.0, MINUTE).await.unwrap();
    assert!(hit().await > 0);
}

over_each_store!(
    a_switched_rate_takes_the_place_of_every_rate_that_is_set,
    a_switched_rate_verifies_values,
    bypassed_reads_go_to_the_application_and_leave_what_is_stored,
    stopped_fills_leave_hits_and_store_nothing,
    stopped_fills_store_no_value_that_is_loaded,
    wider_grace_uses_what_is_stale_for_as_long_as_it_is_kept,
);

#[tokio::test]
async fn without_switches_there_is_nothing_to_turn() {
    let plain = Cache::new(MemoryStore::new(1 << 20));
    assert_eq!(plain.switch(Switch::StopFills, MINUTE).await, Err(SwitchError::NoSwitches));
    let cache = Cache::builder(MemoryStore::new(1 << 20)).switches(true).build();
    for time in [Duration::ZERO, Duration::from_millis(999), Duration::from_secs(86_401)] {
        assert_eq!(cache.switch(Switch::StopFills, time).await, Err(SwitchError::Time(time)));
    }
    for rate in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
        assert_eq!(cache.switch_verification(rate, MINUTE).await, Err(SwitchError::Rate));
    }
    assert_eq!((cache.switched_on(), cache.switched_rate()), (vec![], None));
    cache.switch(Switch::VerificationRate, MINUTE).await.unwrap();
    assert_eq!(cache.switched_rate(), Some(0.01), "unless a rate is given");
}

/// A process, and its store.
async fn node(server: &RedisServer) -> (Cache, TieredStore, RedisStore) {
    let redis = RedisStore::builder(server.url()).operation_timeout(PATIENCE).build().unwrap();
    assert!(redis.wait_connected(MINUTE).await);
    let store = TieredStore::new(1 << 20, redis.clone());
    (Cache::builder(store.clone()).switches(true).build(), store, redis)
}

/// How often a process has made a round trip: `watch` to read the switches, `GET` for a look-up.
fn trips(redis: &RedisStore, operation: &str) -> u64 {
    redis.round_trips().filter(|(name, _)| *name == operation).map(|(_, count)| count).sum()
}

fn is_on(cache: &Cache, switch: Switch) -> bool {
    cache.switched_on().iter().any(|(on, _)| *on == switch)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_switch_reaches_the_fleet_with_one_push_each() {
    let server = RedisServer::start();
    let mut fleet = Vec::new();
    for _ in 0..4 {
        let (cache, _, redis) = node(&server).await;
        fleet.push((cache, redis));
    }
    let reads = || fleet.iter().map(|(_, redis)| trips(redis, "watch")).collect::<Vec<_>>();
    wait_until("each has read the key, and tracks it", async || reads() == [1; 4]).await;
    fleet[0].0.switch(Switch::StopFills, MINUTE).await.unwrap();
    wait_until("all know of it", async || fleet.iter().all(|(cache, _)| is_on(cache, Switch::StopFills))).await;
    // Each reads it once more, because of a push; the one that turned it has done so before.
    wait_until("each has read it", async || reads() == [3, 2, 2, 2]).await;
    // Nobody looks without a push.
    tokio::time::sleep(Duration::from_millis(2_100)).await;
    assert_eq!(reads(), [3, 2, 2, 2]);
    let late = node(&server).await.0;
    wait_until("one that comes later finds it", async || is_on(&late, Switch::StopFills)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_reaches_the_fleet_and_ends_with_its_switch() {
    let server = RedisServer::start();
    let mut fleet = Vec::new();
    for _ in 0..4 {
        let app = App::new(node(&server).await.0, &Origin::echo(FRESH), |layer| layer);
        app.get("/a", &[]).await;
        assert!(!verifies(&app).await);
        fleet.push(app);
    }
    let all_have = |rate: Option<f64>| fleet.iter().all(|app| app.cache.switched_rate() == rate);
    fleet[0].cache.switch_verification(1.0, MINUTE).await.unwrap();
    wait_until("all have the rate", async || all_have(Some(1.0))).await;
    for app in &fleet {
        assert!(verifies(app).await);
    }
    fleet[1].cache.switch_verification(0.125, Duration::from_secs(1)).await.unwrap();
    wait_until("it is over in all of them", async || all_have(None)).await;
    for app in &fleet {
        assert!(!verifies(app).await);
    }
}

/// Each turn has the key read twice, by the call and because of the push: the answers may be looked at in another order than the
/// server gave them in.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_was_read_earlier_undoes_nothing_that_was_read_later() {
    let server = RedisServer::start();
    let here = node(&server).await.0;
    for turn in 0..1_000 {
        here.switch(Switch::StopFills, MINUTE).await.unwrap();
        assert!(is_on(&here, Switch::StopFills), "turn {turn}");
        here.switch_off(Switch::StopFills).await.unwrap();
        for _ in 0..20 {
            assert!(!is_on(&here, Switch::StopFills), "turn {turn}");
            tokio::task::yield_now().await;
        }
    }
}

/// The shorter time is over before the process hears of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_was_away_does_not_keep_a_time_that_was_cut_short() {
    let server = RedisServer::start();
    let mut proxy = FaultProxy::start(server.addr()).await;
    let here = node(&server).await.0;
    let redis = RedisStore::builder(format!("redis://{}", proxy.addr())).operation_timeout(PATIENCE).build().unwrap();
    assert!(redis.wait_connected(MINUTE).await);
    let there = Cache::builder(redis).switches(true).build();
    here.switch(Switch::StopFills, MINUTE).await.unwrap();
    wait_until("it is heard of", async || is_on(&there, Switch::StopFills)).await;
    proxy.set(Fault::Cut).await;
    here.switch(Switch::StopFills, Duration::from_secs(1)).await.unwrap();
    wait_until("it is over here", async || !is_on(&here, Switch::StopFills)).await;
    assert!(is_on(&there, Switch::StopFills), "it has not heard of it");
    proxy.set(Fault::Pass).await;
    wait_until("it is over there", async || !is_on(&there, Switch::StopFills)).await;
}

/// The lines of other switches, and of what is over, are read again each time.
#[tokio::test(flavor = "multi_thread")]
async fn a_switch_turned_in_one_process_stays_until_the_same_one_is_turned_in_the_fleet() {
    let server = RedisServer::start();
    let (here, there) = (node(&server).await.0, node(&server).await.0);
    there.switch(Switch::BypassReads, Duration::from_secs(1)).await.unwrap();
    there.switch(Switch::StopFills, MINUTE).await.unwrap();
    let are_known = || is_on(&here, Switch::StopFills) && !is_on(&here, Switch::BypassReads);
    wait_until("one is on, and the other over", async || are_known()).await;
    here.switch_here(Switch::BypassReads, MINUTE).unwrap();
    here.switch_off_here(Switch::StopFills).unwrap();
    there.switch(Switch::WiderGrace, MINUTE).await.unwrap();
    wait_until("the key is read", async || is_on(&here, Switch::WiderGrace)).await;
    assert!(is_on(&here, Switch::BypassReads) && !is_on(&here, Switch::StopFills));
    there.switch(Switch::StopFills, MINUTE).await.unwrap();
    wait_until("it is turned here as well", async || is_on(&here, Switch::StopFills)).await;
}

/// All that the key says is new to that process, whenever it was said.
#[tokio::test(flavor = "multi_thread")]
async fn a_switch_turned_in_a_process_that_never_was_connected_stays_until_it_is_turned_in_the_fleet() {
    let server = RedisServer::start();
    let mut proxy = FaultProxy::start(server.addr()).await;
    proxy.set(Fault::Cut).await;
    let redis = RedisStore::builder(format!("redis://{}", proxy.addr())).prefix("test").operation_timeout(PATIENCE);
    let redis = redis.build().unwrap();
    let here = Cache::builder(redis).switches(true).build();
    here.switch_here(Switch::BypassReads, MINUTE).unwrap();
    here.switch_here(Switch::WiderGrace, MINUTE).unwrap();
    let (now, _): (u64, u64) = server.command(&["TIME"]);
    let [before, later] = [now - 3_600, now + 3_600].map(|seconds| seconds * 1_000);
    let said = format!("bypass-reads off {before}\nwider-grace {before}\nstop-fills {later}");
    let () = server.command(&["SET", "test:switches", &said]);
    proxy.set(Fault::Pass).await;
    wait_until("the key is read", async || is_on(&here, Switch::StopFills)).await;
    assert!(is_on(&here, Switch::BypassReads) && is_on(&here, Switch::WiderGrace));

    let redis = RedisStore::builder(server.url()).prefix("test").operation_timeout(PATIENCE).build().unwrap();
    assert!(redis.wait_connected(MINUTE).await);
    let there = Cache::builder(redis).switches(true).build();
    for switch in [Switch::BypassReads, Switch::WiderGrace] {
        there.switch_off(switch).await.unwrap();
        wait_until("it is turned here as well", async || !is_on(&here, switch)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_process_has_a_switch_on_for_longer_than_it_was_to_be() {
    let server = RedisServer::start();
    let (here, there) = (node(&server).await.0, node(&server).await.0);
    // A busy machine may take longer than that to tell the other.
    for seconds in [1, 2, 4, 8, 16] {
        here.switch(Switch::StopFills, Duration::from_secs(seconds)).await.unwrap();
        let end = tokio::time::Instant::now() + Duration::from_secs(seconds);
        let mut heard = false;
        while tokio::time::Instant::now() < end {
            heard |= is_on(&there, Switch::StopFills);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // The clock of switches is one of whole milliseconds.
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!((here.switched_on(), there.switched_on()), (vec![], vec![]));
        if heard {
            return;
        }
    }
    panic!("the other process never heard of it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_switch_is_turned_off_everywhere_even_if_redis_has_lost_it() {
    let server = RedisServer::start();
    let ((here, _, redis_here), (there, _, redis_there)) = (node(&server).await, node(&server).await);
    here.switch(Switch::WiderGrace, MINUTE).await.unwrap();
    here.switch(Switch::StopFills, MINUTE).await.unwrap();
    wait_until("it is heard of", async || there.switched_on().len() == 2).await;
    there.switch_off(Switch::WiderGrace).await.unwrap();
    wait_until("it is off", async || !is_on(&here, Switch::WiderGrace)).await;
    assert!(is_on(&here, Switch::StopFills));
    let reads = || [trips(&redis_here, "watch"), trips(&redis_there, "watch")];
    let before = reads();
    server.flushall();
    wait_until("both have looked again", async || reads().iter().zip(before).all(|(now, before)| *now > before)).await;
    assert!(is_on(&here, Switch::StopFills) && is_on(&there, Switch::StopFills));
    there.switch_off(Switch::StopFills).await.unwrap();
    wait_until("it is off", async || here.switched_on().is_empty() && there.switched_on().is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_first_tier_each_hit_asks_redis() {
    let server = RedisServer::start();
    let (cache, store, redis) = node(&server).await;
    let app = App::new(cache, &Origin::echo(FRESH), |layer: CacheLayer| layer).unexplained();
    app.get("/a", &[]).await;
    app.get("/a", &[]).await;
    assert_eq!(store.memory_entries(), 1);
    let asked = async || {
        let before = trips(&redis, "GET");
        assert_eq!(app.get("/a", &[]).await.x_cache(), "HIT");
        trips(&redis, "GET") - before
    };
    assert_eq!(asked().await, 0);
    app.cache.switch(Switch::FirstTierOff, MINUTE).await.unwrap();
    assert_eq!((asked().await, asked().await), (1, 1));
    app.cache.switch_off(Switch::FirstTierOff).await.unwrap();
    assert_eq!((asked().await, asked().await), (1, 0));
}
