//! Entries that are requested often are refreshed before they are stale: by one request of the fleet, and in the background.

use std::time::Duration;

use cache_layer::{CacheLayer, Clock};
use http::{Method, StatusCode};
use tests::{App, Backend, Failure, Gate, Origin, echo, over_each_store, request, wait_until};

const FIELDS: &[(&str, &str)] = &[("cache-control", "max-age=60, stale-if-error=60")];

/// So early that it is all but certain, as soon as it is permitted at all.
const AT_ONCE: f32 = 1e6;

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// An application whose first answer takes ten seconds, which leaves it 50 of its minute, and the others until `gate` is
/// open.
fn slow(clock: &Clock, gate: &Gate) -> Origin {
    let (clock, gate) = (clock.clone(), gate.clone());
    Origin::new(move |call, request| {
        let (clock, gate) = (clock.clone(), gate.clone());
        async move {
            match call {
                1 => clock.advance(seconds(10)),
                _ => gate.pass().await,
            }
            Ok(echo(call, &request, FIELDS))
        }
    })
}

async fn node(backend: &Backend, origin: &Origin, clock: &Clock, set: impl FnOnce(CacheLayer) -> CacheLayer) -> App {
    App::new(backend.cache().await.clock(clock.clone()).build(), origin, set)
}

/// The head of a hit, without waiting for what it may have begun.
async fn expect_hit(app: &App, method: Method, call: &str) {
    let answer = app.begin(request(method, "/", &[])).await.unwrap();
    let field = |name| answer.headers()[name].to_str().unwrap();
    assert_eq!((field("x-cache"), field("x-call")), ("HIT", call));
}

mod a_response {
    use super::*;

    async fn in_its_last_fifth_is_refreshed_once_for_the_fleet_and_nobody_waits(backend: &Backend) {
        let (clock, gate) = (Clock::manual(), Gate::closed());
        let origin = slow(&clock, &gate);
        let here = node(backend, &origin, &clock, |layer| layer.early_refresh(AT_ONCE)).await;
        let there = node(backend, &origin, &clock, |layer| layer.early_refresh(AT_ONCE)).await;
        here.get("/", &[]).await;
        clock.advance(seconds(39));
        for app in [&here, &there, &here, &there] {
            expect_hit(app, Method::GET, "1").await;
        }
        here.settled().await;
        assert_eq!(origin.calls(), 1, "there is more than a fifth left");

        clock.advance(seconds(2));
        for app in [&here, &there, &here, &there] {
            expect_hit(app, Method::GET, "1").await;
        }
        wait_until("it is being refreshed", async || origin.calls() == 2).await;
        for app in [&here, &there, &here, &there] {
            expect_hit(app, Method::GET, "1").await;
        }
        gate.open();
        here.settled().await;
        there.settled().await;
        for app in [&here, &there] {
            wait_until("it is answered with the new one", async || app.get("/", &[]).await.call() == 2).await;
        }
        assert_eq!(origin.calls(), 2);
        assert_eq!(here.cache.counts().early_refreshes + there.cache.counts().early_refreshes, 1);
        let counts = here.cache.counts();
        assert_eq!((counts.misses, counts.hits), (1, counts.hits), "a refresh is nobody's miss");
    }

    async fn is_not_refreshed_early_unless_that_is_set(backend: &Backend) {
        for beta in [None, Some(0.0), Some(-1.0), Some(f32::NAN), Some(f32::INFINITY)] {
            let clock = Clock::manual();
            let origin = slow(&clock, &Gate::closed());
            let app = node(backend, &origin, &clock, |layer| match beta {
                Some(beta) => layer.early_refresh(beta),
                None => layer,
            });
            let app = app.await;
            app.cache.invalidate_all().await.unwrap();
            app.get("/", &[]).await;
            clock.advance(seconds(49));
            expect_hit(&app, Method::GET, "1").await;
            app.settled().await;
            assert_eq!(origin.calls(), 1, "{beta:?}");
        }
    }

    async fn is_refreshed_early_by_requests_for_all_of_it(backend: &Backend) {
        let (clock, gate) = (Clock::manual(), Gate::closed());
        let origin = slow(&clock, &gate);
        let app = node(backend, &origin, &clock, |layer| layer.early_refresh(AT_ONCE)).await;
        app.get("/", &[]).await;
        clock.advance(seconds(49));
        expect_hit(&app, Method::HEAD, "1").await;
        app.settled().await;
        assert_eq!(origin.calls(), 1);
        expect_hit(&app, Method::GET, "1").await;
        wait_until("it is being refreshed", async || origin.calls() == 2).await;
        gate.open();
    }

    async fn outlives_a_refresh_that_fails(backend: &Backend) {
        let clock = Clock::manual();
        let origin = Origin::new({
            let clock = clock.clone();
            move |call, request| {
                let clock = clock.clone();
                async move {
                    let mut response = echo(call, &request, FIELDS);
                    match call {
                        1 => clock.advance(seconds(10)),
                        2 => return Err(Failure("no database")),
                        3 => *response.status_mut() = StatusCode::BAD_GATEWAY,
                        _ => {}
                    }
                    Ok(response)
                }
            }
        });
        let app = node(backend, &origin, &clock, |layer| layer.early_refresh(AT_ONCE)).await;
        app.get("/", &[]).await;
        clock.advance(seconds(49));
        for call in 2..=4 {
            // The lease of the one before may not have been given back yet.
            wait_until(&format!("call {call}"), async || {
                expect_hit(&app, Method::GET, "1").await;
                app.settled().await;
                origin.calls() == call
            })
            .await;
        }
        wait_until("it is refreshed", async || app.get("/", &[]).await.call() == 4).await;
    }

    over_each_store!(
        in_its_last_fifth_is_refreshed_once_for_the_fleet_and_nobody_waits,
        is_not_refreshed_early_unless_that_is_set,
        is_refreshed_early_by_requests_for_all_of_it,
        outlives_a_refresh_that_fails,
    );
}
