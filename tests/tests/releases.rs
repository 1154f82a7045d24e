//! How requests that wait for another request's load are released: each way has a name, is counted, and lets them go on.

use std::time::Duration;

use cache_layer::{Cache, telemetry::Release};
use http::{Method, StatusCode};
use tests::{App, Backend, Failure, Gate, Origin, ask, echo, over_each_store, request, wait_until};

const FRESH: &[(&str, &str)] = &[("cache-control", "max-age=600")];
const TAGGED: &[(&str, &str)] = &[("cache-control", "max-age=600"), ("cache-tag", "x")];
const SHORT: Duration = Duration::from_millis(600);

over_each_store!(
    a_load_that_is_stored_is_done,
    a_load_that_fails_is_a_transient_error,
    a_response_that_can_not_be_shared_makes_everybody_give_up_waiting,
    a_load_that_panics_leaves_the_lock_dangling,
    who_waited_too_long_goes_alone,
);

fn releases(app: &App) -> Vec<(Release, u64)> {
    app.cache.counts().releases
}

async fn a_load_that_is_stored_is_done(backend: &Backend) {
    let app = App::on(backend, &Origin::echo(FRESH)).await;
    app.get("/x", &[]).await;
    app.get("/x", &[]).await;
    assert_eq!(releases(&app), [(Release::Done, 1)]);
}

async fn a_load_that_fails_is_a_transient_error(backend: &Backend) {
    let origin = Origin::new(|call, request| async move {
        match call {
            1 => Err(Failure("no response")),
            _ => {
                let mut response = echo(call, &request, &[]);
                *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
                Ok(response)
            }
        }
    });
    let app = App::on(backend, &origin).await;
    ask(&app.service(), request(Method::GET, "/x", &[])).await.unwrap_err();
    app.settled().await;
    app.get("/x", &[]).await;
    assert_eq!(releases(&app), [(Release::TransientError, 2)]);
}

async fn a_response_that_can_not_be_shared_makes_everybody_give_up_waiting(backend: &Backend) {
    let app = App::on(backend, &Origin::echo(&[("cache-control", "private, max-age=600")])).await;
    app.get("/x", &[]).await;
    assert_eq!(releases(&app), [(Release::GiveUp, 1)]);
}

async fn a_load_that_panics_leaves_the_lock_dangling(backend: &Backend) {
    let origin = Origin::new(|call, request| async move {
        assert!(call > 1, "an application's own fault");
        Ok(echo(call, &request, FRESH))
    });
    let app = App::on(backend, &origin).await;
    let service = app.service();
    let panicked = tokio::spawn(async move { ask(&service, request(Method::GET, "/x", &[])).await }).await;
    assert!(panicked.unwrap_err().is_panic());
    assert_eq!(releases(&app), [(Release::Dangling, 1)]);
    assert_eq!(app.get("/x", &[]).await.call(), 2);
    assert_eq!(releases(&app), [(Release::Done, 1), (Release::Dangling, 1)]);
}

async fn who_waited_too_long_goes_alone(backend: &Backend) {
    let hasty = backend.cache().await.lock_timeout(SHORT).build();
    goes_alone(&hasty, &hasty).await;
    // A lease lasts for a part of the lock timeout, and another process sees nothing but the lease.
    let patient = backend.cache().await.lock_timeout(Duration::from_secs(30)).build();
    backend.cache().await.build().invalidate_tag("x").await.expect("it is delivered");
    goes_alone(&patient, &hasty).await;
}

/// A request waits for one of `leading` until it has waited too long.
async fn goes_alone(leading: &Cache, waiting: &Cache) {
    let gate = Gate::closed();
    let held = gate.clone();
    let origin = Origin::new(move |call, request| {
        let gate = held.clone();
        async move {
            if call == 1 {
                gate.pass().await;
            }
            Ok(echo(call, &request, TAGGED))
        }
    });
    let [leading, waiting] = [leading, waiting].map(|cache| App::new(cache.clone(), &origin, |layer| layer));
    let get = async |app: App| ask(&app.service(), request(Method::GET, "/x", &[])).await.expect("an answer");
    let leader = tokio::spawn(get(leading.clone()));
    wait_until("the first to ask", async || origin.calls() == 1).await;
    let before = timeouts(&waiting);
    let answer = get(waiting.clone()).await;
    assert_eq!(answer.cache_status().detail.as_deref(), Some("waited-too-long"));
    assert_eq!(timeouts(&waiting), before + 1);
    gate.open();
    assert_eq!(leader.await.expect("no panic").call(), 1);
    leading.settled().await;
}

fn timeouts(app: &App) -> u64 {
    releases(app).iter().filter(|(release, _)| *release == Release::WaitTimeout).map(|(_, count)| count).sum()
}
