//! How requests that wait for another request's load are released: each way has a name, is counted, and lets them go on.

use std::time::Duration;

use cache_layer::telemetry::Release;
use http::{Method, StatusCode};
use tests::{App, Backend, Failure, Gate, Origin, ask, echo, over_each_store, request, wait_until};

const FRESH: &[(&str, &str)] = &[("cache-control", "max-age=600")];
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
    let gate = Gate::closed();
    let held = gate.clone();
    let origin = Origin::new(move |call, request| {
        let gate = held.clone();
        async move {
            if call == 1 {
                gate.pass().await;
            }
            Ok(echo(call, &request, FRESH))
        }
    });
    // One request waits in the same process, and one in another.
    let app = App::new(backend.cache().await.lock_timeout(SHORT).build(), &origin, |layer| layer);
    let other = App::new(backend.cache().await.lock_timeout(SHORT).build(), &origin, |layer| layer);
    let service = app.service();
    let leader = tokio::spawn(async move { ask(&service, request(Method::GET, "/x", &[])).await });
    wait_until("the first to ask", async || origin.calls() == 1).await;
    for waiting in [&app, &other] {
        let answer = ask(&waiting.service(), request(Method::GET, "/x", &[])).await.expect("an answer");
        assert_eq!(answer.cache_status().detail.as_deref(), Some("waited-too-long"));
        assert!(releases(waiting).contains(&(Release::WaitTimeout, 1)), "{:?}", releases(waiting));
    }
    gate.open();
    assert_eq!(leader.await.expect("no panic").expect("an answer").call(), 1);
}
