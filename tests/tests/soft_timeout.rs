//! A slow application, and what is stale in its place: a request waits no longer than it is said, and the load goes on.

use std::time::Duration;

use cache_layer::{Clock, Rule};
use http::Method;
use tests::{App, Backend, Failure, Gate, Origin, Response, ask, echo, over_each_store, request, wait_until};

const MINUTE: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_millis(10);
const LIMIT: Duration = Duration::from_secs(30);

over_each_store!(
    what_is_stale_answers_while_a_slow_application_still_works,
    a_load_goes_on_after_a_soft_timeout_that_is_longer_than_the_lock_timeout,
    whoever_waits_for_another_requests_load_waits_no_longer,
    nothing_stale_means_waiting_for_the_application,
    a_refresh_that_is_retried_is_waited_for_no_longer,
    a_rule_has_a_limit_of_its_own,
);

/// An application that answers its first request at once, and others when the gate is open.
fn slow(gate: &Gate) -> Origin {
    let gate = gate.clone();
    Origin::new(move |call, request| {
        let gate = gate.clone();
        async move {
            if call > 1 {
                gate.pass().await;
            }
            Ok(echo(call, &request, &[("cache-control", "max-age=60")]))
        }
    })
}

/// The page, without waiting for what goes on behind it.
async fn get(app: &App) -> Response {
    ask(&app.service(), request(Method::GET, "/page", &[])).await.unwrap()
}

struct Stale {
    app: App,
    origin: Origin,
    gate: Gate,
    clock: Clock,
}

/// An application of whose answer there is a stale one, which may stand in for an error.
async fn stale(backend: &Backend, abandoned: Duration) -> Stale {
    stale_with(backend, abandoned, LIMIT, SOON).await
}

async fn stale_with(backend: &Backend, abandoned: Duration, lock: Duration, soft: Duration) -> Stale {
    let (clock, gate) = (Clock::manual(), Gate::closed());
    let origin = slow(&gate);
    let cache = backend.cache().await.clock(clock.clone()).abandoned_load(abandoned);
    let cache = cache.lock_timeout(lock).build();
    let app = App::new(cache, &origin, |layer| layer.stale_if_error(10 * MINUTE).soft_timeout(soft));
    get(&app).await;
    assert!(app.cache.drain(LIMIT).await);
    clock.advance(2 * MINUTE);
    Stale { app, origin, gate, clock }
}

async fn what_is_stale_answers_while_a_slow_application_still_works(backend: &Backend) {
    expect_stored_later(stale(backend, Duration::ZERO).await).await;
}

async fn a_load_goes_on_after_a_soft_timeout_that_is_longer_than_the_lock_timeout(backend: &Backend) {
    // A lease that is not renewed for a third of it is lost.
    let lock = Duration::from_secs(6);
    expect_stored_later(stale_with(backend, Duration::ZERO, lock, lock + SOON).await).await;
}

async fn expect_stored_later(Stale { app, origin, gate, .. }: Stale) {
    let answer = get(&app).await;
    assert_eq!((answer.header("x-call"), answer.header("x-cache")), (Some("1"), Some("STALE")));
    // Longer than a load goes on that nobody waits for.
    tokio::time::sleep(Duration::from_secs(2)).await;
    gate.open();
    assert!(app.cache.drain(LIMIT).await);
    let answer = get(&app).await;
    assert_eq!((answer.header("x-call"), answer.header("x-cache")), (Some("2"), Some("HIT")));
    assert_eq!(origin.calls(), 2);
}

async fn whoever_waits_for_another_requests_load_waits_no_longer(backend: &Backend) {
    let Stale { app, origin, gate, .. } = stale(backend, Duration::from_secs(10)).await;
    for _ in 0..3 {
        assert_eq!(get(&app).await.header("x-call"), Some("1"));
    }
    // What is stale may be there before the application has been asked.
    wait_until("the application works", async || origin.calls() == 2).await;
    assert_eq!((origin.calls(), app.cache.counts().coalesced), (2, 2));
    gate.open();
    assert!(app.cache.drain(LIMIT).await);
    assert_eq!(get(&app).await.header("x-call"), Some("2"));
}

async fn nothing_stale_means_waiting_for_the_application(backend: &Backend) {
    let Stale { app, origin, gate, clock } = stale(backend, Duration::from_secs(10)).await;
    clock.advance(20 * MINUTE);
    let client = {
        let app = app.clone();
        tokio::spawn(async move { get(&app).await })
    };
    wait_until("the application works", async || origin.calls() == 2).await;
    tokio::time::sleep(5 * SOON).await;
    assert!(!client.is_finished());
    gate.open();
    assert_eq!(client.await.unwrap().header("x-call"), Some("2"));
}

async fn a_refresh_that_is_retried_is_waited_for_no_longer(backend: &Backend) {
    let (clock, gate) = (Clock::manual(), Gate::closed());
    let origin = {
        let gate = gate.clone();
        Origin::new(move |call, request| {
            let gate = gate.clone();
            async move {
                match call {
                    2 => Err(Failure("away")),
                    _ => {
                        if call > 2 {
                            gate.pass().await;
                        }
                        Ok(echo(call, &request, &[("cache-control", "max-age=60, stale-while-revalidate=600")]))
                    }
                }
            }
        })
    };
    let cache = backend.cache().await.clock(clock.clone()).build();
    let app = App::new(cache, &origin, |layer| layer.soft_timeout(SOON));
    get(&app).await;
    assert!(app.cache.drain(LIMIT).await);
    clock.advance(2 * MINUTE);
    // The refresh in the background has no answer.
    assert_eq!(get(&app).await.header("x-call"), Some("1"));
    assert!(app.cache.drain(LIMIT).await);
    assert_eq!(origin.calls(), 2);
    assert_eq!(get(&app).await.header("x-call"), Some("1"), "it is refreshed in the foreground, for so long");
    wait_until("the application works", async || origin.calls() == 3).await;
    gate.open();
    assert!(app.cache.drain(LIMIT).await);
    assert_eq!(get(&app).await.header("x-call"), Some("3"));
}

async fn a_rule_has_a_limit_of_its_own(backend: &Backend) {
    let (clock, gate) = (Clock::manual(), Gate::closed());
    let origin = slow(&gate);
    let cache = backend.cache().await.clock(clock.clone()).build();
    let app = App::new(cache, &origin, |layer| {
        let layer = layer.stale_if_error(10 * MINUTE).soft_timeout(LIMIT);
        layer.rule(Rule::path("/page").soft_timeout(SOON)).unwrap()
    });
    get(&app).await;
    assert!(app.cache.drain(LIMIT).await);
    clock.advance(2 * MINUTE);
    assert_eq!(get(&app).await.header("x-cache"), Some("STALE"));
    wait_until("the application works", async || origin.calls() == 2).await;
    gate.open();
    assert!(app.cache.drain(LIMIT).await);
    assert_eq!(get(&app).await.header("x-call"), Some("2"));
}
