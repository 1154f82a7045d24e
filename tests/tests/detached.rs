//! A service that can be called for a request only, and only while that lives, as behind the Tower adapters of some
//! frameworks: what is stale is refreshed all the same, and that something is amiss is said.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use cache_layer::{Cache, CacheLayer, CacheService, Clock};
use http::{Method, Request, Response, StatusCode};
use tests::{Backend, Body, Failure, Gate, ask, full, over_each_store, request, wait_until};
use tower::{Layer as _, Service, ServiceExt as _};

/// The actions of a call after its request has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Afterwards {
    Fails,
    Panics,
    /// Answers, but not with what it would have answered.
    HasNothing,
}

/// State that the framework keeps for as long as a request lives.
struct InRequest;

#[derive(Clone)]
struct Inner {
    afterwards: Afterwards,
    calls: Arc<AtomicUsize>,
}

impl Service<Request<Body>> for Inner {
    type Response = Response<Body>;
    type Error = Failure;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Failure>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let context = request.extensions_mut().remove::<Weak<InRequest>>().expect("called through the framework");
        let (afterwards, calls) = (self.afterwards, self.calls.clone());
        Box::pin(async move {
            // So long, at least, a stale answer takes at most to be on its way.
            tokio::time::sleep(Duration::from_millis(300)).await;
            if context.upgrade().is_some() {
                let call = calls.fetch_add(1, Ordering::SeqCst) + 1;
                let fields = Response::builder().header("cache-control", "max-age=60, stale-while-revalidate=600");
                return Ok(fields.header("x-call", call).body(full(format!("answer {call} "))).unwrap());
            }
            match afterwards {
                Afterwards::Fails => Err(Failure("there is no request any more")),
                Afterwards::Panics => panic!("there is no request any more"),
                Afterwards::HasNothing => Ok(Response::builder().status(404).body(full("")).unwrap()),
            }
        })
    }
}

/// Calls its layer as the framework does.
#[derive(Clone)]
struct Framework(CacheService<Inner>);

impl Framework {
    fn new(cache: Cache, afterwards: Afterwards) -> Self {
        Self(CacheLayer::new(cache).layer(Inner { afterwards, calls: Arc::default() }))
    }

    async fn get(&self) -> tests::Response {
        let service = self.0.clone();
        let handler = tower::service_fn(move |mut request: Request<Body>| {
            let service = service.clone();
            async move {
                let in_request = Arc::new(InRequest);
                request.extensions_mut().insert(Arc::downgrade(&in_request));
                let response = service.oneshot(request).await.expect("an answer");
                drop(in_request);
                Ok::<_, Infallible>(response)
            }
        });
        ask(&handler, request(Method::GET, "/", &[])).await.unwrap()
    }
}

async fn what_is_stale_is_loaded_by_the_next_request_where_a_refresh_came_to_nothing(backend: &Backend) {
    for afterwards in [Afterwards::Fails, Afterwards::Panics, Afterwards::HasNothing] {
        let clock = Clock::manual();
        let cache = backend.cache().await.clock(clock.clone()).build();
        cache.invalidate_all().await.unwrap();
        let framework = Framework::new(cache.clone(), afterwards);
        let settled = async || assert!(cache.drain(Duration::from_secs(30)).await);
        assert_eq!(framework.get().await.x_cache(), "MISS");
        settled().await;
        for round in 1..3 {
            clock.advance(Duration::from_secs(61));
            let stale = framework.get().await;
            assert_eq!((stale.x_cache(), stale.call()), ("STALE", round), "{afterwards:?}");
            settled().await;
            let failed = if afterwards == Afterwards::HasNothing { 0 } else { round as u64 };
            assert_eq!(cache.counts().failed_refreshes, failed, "{afterwards:?}");

            let loaded = framework.get().await;
            assert_eq!((loaded.x_cache(), loaded.call()), ("MISS", round + 1), "{afterwards:?}");
            settled().await;
            let hit = framework.get().await;
            assert_eq!((hit.x_cache(), hit.call()), ("HIT", round + 1), "{afterwards:?}");
        }
    }
}

/// An application that is down fails its own requests as well.
async fn what_is_stale_stands_in_where_the_next_request_has_no_answer_either(backend: &Backend) {
    let clock = Clock::manual();
    let cache = backend.cache().await.clock(clock.clone()).build();
    let broken = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let origin = tests::Origin::new({
        let broken = broken.clone();
        move |call, request| {
            let broken = broken.load(Ordering::SeqCst);
            async move {
                if broken {
                    return Err(Failure("down"));
                }
                Ok(tests::echo(call, &request, &[("cache-control", "max-age=60, stale-while-revalidate=600")]))
            }
        }
    });
    let app = tests::App::new(cache, &origin, |layer| layer);
    app.get("/", &[]).await;
    broken.store(true, Ordering::SeqCst);
    clock.advance(Duration::from_secs(61));
    for calls in [2, 3] {
        let stale = app.get("/", &[]).await;
        assert_eq!((stale.x_cache(), stale.call()), ("STALE", 1));
        assert_eq!(origin.calls(), calls);
    }
    assert_eq!(app.cache.counts().failed_refreshes, 1);
    // From here on it is left alone for a while.
    assert_eq!(app.get("/", &[]).await.x_cache(), "STALE");
    assert_eq!(origin.calls(), 3);
    wait_until("it is asked again", async || {
        app.get("/", &[]).await;
        origin.calls() > 3
    })
    .await;
    broken.store(false, Ordering::SeqCst);
    wait_until("it is fresh again", async || app.get("/", &[]).await.x_cache() == "HIT").await;
}

/// An error is an answer all the same: the application can be asked in the background, and no request has to wait for it.
async fn what_is_stale_is_refreshed_in_the_background_again_after_an_error_of_the_application(backend: &Backend) {
    let (clock, gate) = (Clock::manual(), Gate::closed());
    // Who waited for the application would wait for longer than the test does.
    let cache = backend.cache().await.clock(clock.clone()).lock_timeout(Duration::from_secs(600)).build();
    let origin = tests::Origin::new({
        let gate = gate.clone();
        move |call, request| {
            let gate = gate.clone();
            async move {
                if call > 2 {
                    gate.pass().await;
                }
                let fields = &[("cache-control", "max-age=60, stale-while-revalidate=600")];
                let mut response = tests::echo(call, &request, fields);
                if call == 2 {
                    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
                }
                Ok(response)
            }
        }
    });
    let app = tests::App::new(cache, &origin, |layer| layer).unexplained();
    app.get("/", &[]).await;
    clock.advance(Duration::from_secs(61));
    assert_eq!(app.get("/", &[]).await.x_cache(), "STALE");
    assert_eq!((origin.calls(), app.cache.counts().failed_refreshes), (2, 0));
    wait_until("it is asked again", async || {
        let stale = app.begin(request(Method::GET, "/", &[])).await.unwrap();
        let field = |name| stale.headers()[name].to_str().unwrap();
        assert_eq!((field("x-cache"), field("x-call")), ("STALE", "1"));
        origin.calls() > 2
    })
    .await;
    gate.open();
    app.settled().await;
    assert_eq!(app.get("/", &[]).await.x_cache(), "HIT");
}

over_each_store!(
    what_is_stale_is_loaded_by_the_next_request_where_a_refresh_came_to_nothing,
    what_is_stale_stands_in_where_the_next_request_has_no_answer_either,
    what_is_stale_is_refreshed_in_the_background_again_after_an_error_of_the_application,
);
