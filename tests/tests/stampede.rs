//! Which request asks the application when many want the same response, and what becomes of the others when it fails.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use cache_layer::CacheLayer;
use http::{Method, StatusCode};
use tests::{App, Backend, Failure, Gate, Origin, Response, echo, over_each_store, request};

const LONG: Duration = Duration::from_secs(600);
const FLEET: usize = 4;
const REQUESTS: usize = 10;

over_each_store!(
    all_cold_answers_that_say_that_they_are_stored_are,
    a_failing_application_is_asked_once_in_a_back_off_by_all_processes,
    an_application_without_a_response_is_refused_for_as_a_bad_gateway,
    a_stale_response_stands_in_while_the_application_is_left_alone,
    nothing_is_refreshed_while_the_application_is_left_alone,
    a_back_off_ends,
    an_invalidation_ends_a_back_off,
    a_success_ends_a_back_off,
    nobody_is_refused_who_did_not_ask_for_it,
    a_failure_for_one_client_is_not_shared,
    without_a_back_off_nothing_is_remembered,
);

/// An application that can be told to fail.
struct Failing {
    origin: Origin,
    broken: Arc<AtomicBool>,
}

impl Failing {
    /// Fails with `status` or, without one, with an error.
    fn new(status: Option<StatusCode>, fields: &'static [(&'static str, &'static str)]) -> Self {
        let broken = Arc::new(AtomicBool::new(true));
        let is_broken = broken.clone();
        let origin = Origin::new(move |call, request| {
            let broken = is_broken.load(Ordering::SeqCst);
            async move {
                // So that requests that come at the same time meet.
                tokio::time::sleep(Duration::from_millis(20)).await;
                let mut response = echo(call, &request, if broken { &[] } else { fields });
                if broken {
                    *response.status_mut() = status.ok_or(Failure("broken"))?;
                }
                Ok(response)
            }
        });
        Self { origin, broken }
    }

    fn break_down(&self) {
        self.broken.store(true, Ordering::SeqCst);
    }

    fn repair(&self) {
        self.broken.store(false, Ordering::SeqCst);
    }

    fn calls(&self) -> usize {
        self.origin.calls()
    }

    async fn fleet(&self, backend: &Backend, set: impl Fn(CacheLayer) -> CacheLayer) -> Vec<App> {
        let mut apps = Vec::new();
        for _ in 0..FLEET {
            apps.push(App::new(backend.cache().await.build(), &self.origin, &set));
        }
        apps
    }
}

/// The same request many times over, at once, to each of `apps`.
async fn all_at_once(apps: &[App]) -> Vec<Result<Response, Failure>> {
    let mut tasks = tokio::task::JoinSet::new();
    for app in apps {
        for _ in 0..REQUESTS {
            let app = app.clone();
            tasks.spawn(async move { tests::ask(&app.service(), request(Method::GET, "/x", &[])).await });
        }
    }
    let answers = tasks.join_all().await;
    for app in apps {
        app.settled().await;
    }
    answers
}

fn detail(response: &Response) -> Option<String> {
    response.cache_status().detail
}

async fn a_failing_application_is_asked_once_in_a_back_off_by_all_processes(backend: &Backend) {
    let failing = Failing::new(Some(StatusCode::SERVICE_UNAVAILABLE), &[]);
    let apps = failing.fleet(backend, |layer| layer.share_failures(true).failure_backoff(LONG, LONG)).await;
    for round in 0..3 {
        let answers = all_at_once(&apps).await;
        assert_eq!(failing.calls(), 1, "round {round}");
        let shared: Vec<Response> = answers
            .into_iter()
            .map(|answer| answer.expect("an answer"))
            .filter(|answer| detail(answer).as_deref() == Some("backed-off"))
            .collect();
        assert_eq!(shared.len(), FLEET * REQUESTS - usize::from(round == 0));
        for answer in shared {
            assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
            let seconds: u64 = answer.header("retry-after").expect("a Retry-After").parse().expect("seconds");
            assert!((400..=720).contains(&seconds), "{seconds}");
        }
    }
    let spared: u64 = apps.iter().map(|app| app.cache.counts().backed_off).sum();
    assert_eq!(spared, (3 * FLEET * REQUESTS - 1) as u64);
}

async fn an_application_without_a_response_is_refused_for_as_a_bad_gateway(backend: &Backend) {
    let failing = Failing::new(None, &[]);
    let apps = failing.fleet(backend, |layer| layer.share_failures(true).failure_backoff(LONG, LONG)).await;
    let failed = all_at_once(&apps).await.into_iter().filter(Result::is_err).count();
    assert_eq!((failed, failing.calls()), (1, 1));
    for app in &apps {
        assert_eq!(app.get("/x", &[]).await.status, StatusCode::BAD_GATEWAY);
    }
    assert_eq!(failing.calls(), 1);
}

async fn a_stale_response_stands_in_while_the_application_is_left_alone(backend: &Backend) {
    let failing =
        Failing::new(Some(StatusCode::INTERNAL_SERVER_ERROR), &[("cache-control", "max-age=0, stale-if-error=600")]);
    let apps = failing.fleet(backend, |layer| layer.failure_backoff(LONG, LONG)).await;
    failing.repair();
    assert_eq!(apps[0].get("/x", &[]).await.call(), 1);
    failing.break_down();
    for answer in all_at_once(&apps).await {
        assert_eq!(answer.expect("an answer").call(), 1);
    }
    assert_eq!(failing.calls(), 2);
    for app in &apps {
        let answer = app.get("/x", &[]).await;
        let status = answer.cache_status();
        assert_eq!((answer.call(), status.hit, status.detail.as_deref()), (1, true, Some("backed-off")));
    }
    assert_eq!(failing.calls(), 2);
}

async fn nothing_is_refreshed_while_the_application_is_left_alone(backend: &Backend) {
    let failing =
        Failing::new(Some(StatusCode::BAD_GATEWAY), &[("cache-control", "max-age=0, stale-while-revalidate=600")]);
    let apps = failing.fleet(backend, |layer| layer.failure_backoff(LONG, LONG)).await;
    failing.repair();
    assert_eq!(apps[0].get("/x", &[]).await.call(), 1);
    failing.break_down();
    for _ in 0..5 {
        for app in &apps {
            assert_eq!(app.get("/x", &[]).await.call(), 1);
        }
    }
    assert_eq!(failing.calls(), 2);
}

async fn a_back_off_ends(backend: &Backend) {
    let failing = Failing::new(Some(StatusCode::GATEWAY_TIMEOUT), &[("cache-control", "max-age=600")]);
    let pause = Duration::from_millis(200);
    let apps = failing.fleet(backend, |layer| layer.share_failures(true).failure_backoff(pause, pause)).await;
    assert_eq!(apps[0].get("/x", &[]).await.call(), 1);
    failing.repair();
    // The pause may end between what is explained and what comes.
    let app = apps[1].clone().unexplained();
    tests::wait_until("the application to be asked again", async || app.get("/x", &[]).await.status == StatusCode::OK)
        .await;
    assert_eq!(failing.calls(), 2);
}

async fn an_invalidation_ends_a_back_off(backend: &Backend) {
    let failing = Failing::new(Some(StatusCode::SERVICE_UNAVAILABLE), &[("cache-control", "max-age=600")]);
    let apps = failing.fleet(backend, |layer| layer.share_failures(true).failure_backoff(LONG, LONG)).await;
    assert_eq!(apps[0].get("/x", &[]).await.call(), 1);
    failing.repair();
    for app in &apps {
        assert_eq!(app.get("/x", &[]).await.status, StatusCode::SERVICE_UNAVAILABLE);
    }
    let key =
        CacheLayer::new(apps[1].cache.clone()).key(&http::Uri::from_static("http://shop.example/x")).expect("a key");
    apps[1].cache.invalidate(&key).await.expect("the store has it");
    assert_eq!(apps[1].get("/x", &[]).await.call(), 2);
    for app in &apps {
        assert_eq!(app.get("/x", &[]).await.call(), 2);
    }
}

async fn a_success_ends_a_back_off(backend: &Backend) {
    let failing = Failing::new(Some(StatusCode::SERVICE_UNAVAILABLE), &[("cache-control", "max-age=600")]);
    // The one may go ahead where the other holds off.
    let bold = failing.fleet(backend, |layer| layer.failure_backoff(LONG, LONG)).await;
    let patient = failing.fleet(backend, |layer| layer.share_failures(true).failure_backoff(LONG, LONG)).await;
    assert_eq!(bold[0].get("/x", &[]).await.call(), 1);
    failing.repair();
    assert_eq!(patient[0].get("/x", &[]).await.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(bold[1].get("/x", &[]).await.call(), 2);
    assert_eq!(patient[0].get("/x", &[]).await.call(), 2);
    assert_eq!(patient[1].get("/x", &[]).await.call(), 2);
}

async fn nobody_is_refused_who_did_not_ask_for_it(backend: &Backend) {
    let failing = Failing::new(Some(StatusCode::SERVICE_UNAVAILABLE), &[("cache-control", "max-age=600")]);
    let apps = failing.fleet(backend, |layer| layer.failure_backoff(LONG, LONG)).await;
    for call in 1..5 {
        assert_eq!(apps[call % FLEET].get("/x", &[]).await.call(), call);
    }
    for answer in all_at_once(&apps).await {
        assert!(answer.expect("an answer").call() > 4);
    }
    failing.repair();
    let answered = apps[0].get("/x", &[]).await;
    assert_eq!(answered.status, StatusCode::OK);
    for app in &apps {
        assert_eq!(app.get("/x", &[]).await.call(), answered.call());
    }
}

async fn a_failure_for_one_client_is_not_shared(backend: &Backend) {
    for personal in [("authorization", "Bearer x"), ("cookie", "session=x")] {
        let failing = Failing::new(Some(StatusCode::SERVICE_UNAVAILABLE), &[]);
        let apps = failing.fleet(backend, |layer| layer.share_failures(true).failure_backoff(LONG, LONG)).await;
        let uri = format!("/{}", personal.0);
        assert_eq!(apps[0].get(&uri, &[personal]).await.call(), 1);
        assert_eq!(apps[1].get(&uri, &[]).await.call(), 2);
        assert_eq!(detail(&apps[2].get(&uri, &[]).await).as_deref(), Some("backed-off"));
        assert_eq!(apps[3].get(&uri, &[personal]).await.call(), 3);
    }
}

async fn without_a_back_off_nothing_is_remembered(backend: &Backend) {
    let failing = Failing::new(Some(StatusCode::SERVICE_UNAVAILABLE), &[]);
    let apps = failing.fleet(backend, |layer| layer.share_failures(true).failure_backoff(Duration::ZERO, LONG)).await;
    for call in 1..5 {
        assert_eq!(apps[0].get("/x", &[]).await.call(), call);
    }
}

/// However many come in at one moment, and there are more than go to the store at one time.
async fn all_cold_answers_that_say_that_they_are_stored_are(backend: &Backend) {
    const BURST: usize = 300;
    let gate = Gate::closed();
    let origin = Origin::gated_echo(&gate, &[("cache-control", "max-age=600")]);
    let app = App::new(backend.cache().await.lock_timeout(LONG).build(), &origin, |layer| layer);
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..BURST {
        let app = app.clone();
        clients.spawn(async move {
            let answer = tests::ask(&app.service(), request(Method::GET, &format!("/{client}"), &[])).await.unwrap();
            answer.cache_status().stored
        });
    }
    tests::wait_until("all are at the application", async || origin.calls() == BURST).await;
    gate.open();
    let said = clients.join_all().await.into_iter().filter(|stored| *stored).count();
    app.settled().await;
    let counts = app.cache.counts();
    assert_eq!((said, counts.stored, counts.shed, counts.unavailable), (BURST, BURST as u64, 0, 0));
}
