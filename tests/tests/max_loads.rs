//! However many requests the cache can't answer, the application sees no more of them at one time than it is said to bear.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use cache_layer::{CacheLayer, Clock};
use http::{Method, StatusCode};
use tests::{App, Backend, Feed, Gate, Origin, Response, echo, over_each_store, request, wait_until};
use tokio::task::JoinSet;

type Fields = &'static [(&'static str, &'static str)];

/// For tests that wait for it.
const SHORT: Duration = Duration::from_millis(200);
/// For tests that store something: a lease that is not renewed for a third of it is lost, and a busy machine pauses.
const LONG: Duration = Duration::from_secs(30);

const MAX_AGE: Fields = &[("cache-control", "max-age=60")];
const MOST: usize = 7;

/// An application that takes a moment for each answer, and the most that it had to give at one time.
fn counting() -> (Origin, Arc<AtomicUsize>) {
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let origin = Origin::new({
        let most = most.clone();
        move |call, request| {
            let (now, most) = (now.clone(), most.clone());
            async move {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(5)).await;
                now.fetch_sub(1, Ordering::SeqCst);
                Ok(echo(call, &request, MAX_AGE))
            }
        }
    });
    (origin, most)
}

/// 200 requests at once, each for something else.
async fn expect_all_to_be_answered(app: &App, methods: &[Method]) {
    let mut clients = JoinSet::new();
    for (client, method) in (0..200).zip(methods.iter().cycle()) {
        let (app, request) = (app.clone(), request(method.clone(), &format!("/{client}"), &[]));
        clients.spawn(async move { app.begin(request).await.unwrap().status() });
    }
    while let Some(status) = clients.join_next().await {
        assert_eq!(status.unwrap(), StatusCode::OK);
    }
    assert_eq!(app.cache.counts().overloaded, 0);
}

async fn of_a_cold_cache_are_no_more_than_the_application_bears(backend: &Backend) {
    let (origin, most) = counting();
    let app = App::new(backend.cache().await.build(), &origin, |layer| layer.max_loads(MOST));
    expect_all_to_be_answered(&app, &[Method::GET, Method::HEAD]).await;
    assert_eq!(most.load(Ordering::SeqCst), MOST);
}

/// The case that it is for.
#[tokio::test(flavor = "multi_thread")]
async fn of_a_lost_cache_are_no_more_than_the_application_bears() {
    let backend = Backend::tiered();
    let (origin, most) = counting();
    let app = App::new(backend.cache().await.build(), &origin, |layer| layer.max_loads(MOST));
    // The server dies with it.
    drop(backend);
    wait_until("the cache is lost", async || {
        app.get("/lost", &[]).await;
        app.cache.counts().unavailable > 0
    })
    .await;
    most.store(0, Ordering::SeqCst);
    expect_all_to_be_answered(&app, &[Method::GET]).await;
    assert_eq!(most.load(Ordering::SeqCst), MOST);
}

/// An application that answers `/slow` when the gate is open, with room for one, and a client that has taken it.
struct Full {
    app: App,
    origin: Origin,
    gate: Gate,
    clock: Clock,
}

impl Full {
    async fn of(backend: &Backend, fields: Fields, lock_timeout: Duration) -> Self {
        let (gate, clock) = (Gate::closed(), Clock::manual());
        let origin = Origin::new({
            let gate = gate.clone();
            move |call, request| {
                let gate = gate.clone();
                async move {
                    if request.uri().path() == "/slow" {
                        gate.pass().await;
                    }
                    Ok(echo(call, &request, fields))
                }
            }
        });
        let app = async |lock_timeout| {
            let cache = backend.cache().await.clock(clock.clone()).lock_timeout(lock_timeout).build();
            App::new(cache, &origin, |layer: CacheLayer| layer.max_loads(1))
        };
        app(LONG).await.get("/stored", &[]).await;
        let app = app(lock_timeout).await;
        Self { app, origin, gate, clock }
    }

    async fn fill(&self) {
        let app = self.app.clone();
        tokio::spawn(async move { app.begin(request(Method::GET, "/slow", &[])).await });
        wait_until("there is no room left", async || self.origin.calls() == 2).await;
    }

    /// Without waiting for what goes on in the background.
    async fn ask(&self, method: Method, uri: &str) -> Response {
        let (parts, body) = self.app.begin(request(method, uri, &[])).await.unwrap().into_parts();
        let body = http_body_util::BodyExt::collect(body).await.unwrap().to_bytes();
        Response { status: parts.status, headers: parts.headers, body, trailers: None }
    }
}

async fn beyond_what_it_bears_wait_so_long_and_are_turned_away(backend: &Backend) {
    let full = Full::of(backend, MAX_AGE, SHORT).await;
    full.fill().await;
    for method in [Method::GET, Method::HEAD] {
        let answer = full.ask(method, "/other").await;
        assert_eq!((answer.status, answer.header("retry-after")), (StatusCode::SERVICE_UNAVAILABLE, Some("1")));
        assert_eq!(answer.cache_status().detail.as_deref(), Some("overloaded"));
    }
    assert_eq!((full.origin.calls(), full.app.cache.counts().overloaded), (2, 2));
    let hit = full.ask(Method::GET, "/stored").await;
    assert_eq!((hit.x_cache(), hit.call()), ("HIT", 1), "a hit needs no room");
    let write = full.ask(Method::POST, "/other").await;
    assert_eq!((write.status, write.call()), (StatusCode::OK, 3), "nor does a write");

    full.gate.open();
    full.app.settled().await;
    assert_eq!(full.ask(Method::GET, "/other").await.call(), 4);
}

async fn beyond_what_it_bears_are_answered_with_what_stands_in_for_errors(backend: &Backend) {
    let full = Full::of(backend, &[("cache-control", "max-age=60, stale-if-error=60")], SHORT).await;
    full.fill().await;
    full.clock.advance(Duration::from_secs(61));
    let stale = full.ask(Method::GET, "/stored").await;
    assert_eq!((stale.x_cache(), stale.call(), full.origin.calls()), ("STALE", 1, 2));
    full.gate.open();
    full.app.settled().await;
}

async fn in_the_background_are_left_out(backend: &Backend) {
    let full = Full::of(backend, &[("cache-control", "max-age=60, stale-while-revalidate=60")], LONG).await;
    full.fill().await;
    full.clock.advance(Duration::from_secs(61));
    let stale = full.ask(Method::GET, "/stored").await;
    assert_eq!((stale.x_cache(), stale.call()), ("STALE", 1));
    wait_until("it is left out", async || full.app.cache.counts().skipped_refreshes == 1).await;
    assert_eq!(full.origin.calls(), 2);

    full.gate.open();
    full.app.settled().await;
    assert_eq!(full.app.get("/stored", &[]).await.x_cache(), "STALE");
    assert_eq!(full.app.get("/stored", &[]).await.call(), 3);
}

/// Two requests that anybody can make would close the site otherwise.
async fn that_nobody_waits_for_give_way(backend: &Backend) {
    let origin = Origin::new(|call, request| async move {
        match request.uri().path() {
            "/silent" => std::future::pending().await,
            "/feed" => {
                let (feed, body) = Feed::new();
                tokio::spawn(async move {
                    while feed.data("{}").is_ok() {
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                });
                Ok(http::Response::builder().header("cache-control", "max-age=60").body(body).unwrap())
            }
            _ => Ok(echo(call, &request, MAX_AGE)),
        }
    });
    let cache = backend.cache().await.abandoned_load(Duration::from_secs(600)).build();
    let app = App::new(cache, &origin, |layer| layer.max_loads(2));
    let silent = tokio::spawn({
        let app = app.clone();
        async move { app.begin(request(Method::GET, "/silent", &[])).await }
    });
    let mut feed = app.begin(request(Method::GET, "/feed", &[])).await.unwrap();
    http_body_util::BodyExt::frame(feed.body_mut()).await.unwrap().unwrap();
    wait_until("both rooms are taken", async || origin.calls() == 2).await;
    silent.abort();
    drop(feed);
    for uri in ["/a", "/b"] {
        let answer = app.begin(request(Method::GET, uri, &[])).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
    }
    assert_eq!(app.cache.counts().overloaded, 0);
}

over_each_store!(
    of_a_cold_cache_are_no_more_than_the_application_bears,
    beyond_what_it_bears_wait_so_long_and_are_turned_away,
    beyond_what_it_bears_are_answered_with_what_stands_in_for_errors,
    in_the_background_are_left_out,
    that_nobody_waits_for_give_way,
);
