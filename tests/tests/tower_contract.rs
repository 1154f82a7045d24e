//! The layer is a good citizen of any Tower stack: it calls nothing that is not ready, takes no capacity that it does
//! not use, changes no error, and asks nothing of bodies.

use std::{
    cell::Cell,
    marker::PhantomPinned,
    pin::Pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use cache_layer::{CacheLayer, CacheService};
use http::{Method, Request, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, Empty, Full};
use tests::{App, Backend, Body, Failure, Feed, Gate, HOST, Origin, ask, echo, over_each_store, request, wait_until};
use tower::{
    Layer as _, Service, ServiceExt as _, buffer::Buffer, limit::ConcurrencyLimit, load_shed, load_shed::LoadShed,
    service_fn, timeout, timeout::Timeout,
};

type Fields = &'static [(&'static str, &'static str)];

const MAX_AGE: Fields = &[("cache-control", "max-age=60")];

fn get(uri: &str) -> Request<Body> {
    request(Method::GET, uri, &[])
}

async fn layer(backend: &Backend) -> CacheLayer {
    CacheLayer::new(backend.cache().await.build())
}

fn is_ready<S: Service<Q>, Q>(service: &mut S) -> bool {
    matches!(service.poll_ready(&mut Context::from_waker(Waker::noop())), Poll::Ready(Ok(())))
}

/// `/slow` answers when the gate is open, everything else at once.
fn sometimes_slow(gate: &Gate) -> Origin {
    let gate = gate.clone();
    Origin::new(move |call, request| {
        let gate = gate.clone();
        async move {
            if request.uri().path() == "/slow" {
                gate.pass().await;
            }
            Ok(echo(call, &request, MAX_AGE))
        }
    })
}

mod readiness {
    use super::*;

    async fn is_waited_for_under_a_concurrency_limit_of_one(backend: &Backend) {
        let origin = Origin::echo(MAX_AGE);
        let service = layer(backend).await.layer(ConcurrencyLimit::new(origin.clone(), 1));
        let clients: Vec<_> = (0..20)
            .map(|client| {
                let service = service.clone();
                tokio::spawn(async move { ask(&service, get(&format!("/{}", client % 10))).await.unwrap() })
            })
            .collect();
        for client in clients {
            assert_eq!(client.await.unwrap().status, StatusCode::OK);
        }
        assert_eq!(origin.calls(), 10);
    }

    async fn is_waited_for_under_a_buffer_of_one(backend: &Backend) {
        let origin = Origin::echo(MAX_AGE);
        let service = layer(backend).await.layer(Buffer::new(ConcurrencyLimit::new(origin.clone(), 1), 1));
        let clients: Vec<_> = (0..20)
            .map(|client| {
                let service = service.clone();
                tokio::spawn(async move { ask(&service, get(&format!("/{}", client % 10))).await.unwrap() })
            })
            .collect();
        for client in clients {
            assert_eq!(client.await.unwrap().status, StatusCode::OK);
        }
        assert_eq!(origin.calls(), 10);
    }

    async fn takes_no_capacity_before_there_is_a_request(backend: &Backend) {
        let origin = Origin::echo(MAX_AGE);
        let service = layer(backend).await.layer(ConcurrencyLimit::new(origin, 1));
        let mut ready: Vec<CacheService<_>> = (0..10).map(|_| service.clone()).collect();
        assert!(ready.iter_mut().all(is_ready::<_, Request<Body>>));
        assert_eq!(ask(&service, get("/")).await.unwrap().x_cache(), "MISS");
        let answer = ready.pop().unwrap().call(get("/")).await.unwrap();
        assert_eq!(answer.headers()["x-cache"], "HIT");
    }

    async fn of_a_busy_application_is_not_needed_for_a_hit(backend: &Backend) {
        let gate = Gate::closed();
        let origin = sometimes_slow(&gate);
        let service = layer(backend).await.layer(ConcurrencyLimit::new(origin.clone(), 1));
        let spawn = |uri: &'static str| {
            let service = service.clone();
            tokio::spawn(async move { ask(&service, get(uri)).await.unwrap() })
        };
        ask(&service, get("/")).await.unwrap();
        let slow = spawn("/slow");
        wait_until("the application is busy", async || origin.calls() == 2).await;
        let waiting = spawn("/other");
        for _ in 0..10 {
            assert_eq!(ask(&service, get("/")).await.unwrap().x_cache(), "HIT");
        }
        assert_eq!(origin.calls(), 2, "a second request got past the limit");
        gate.open();
        assert_eq!(slow.await.unwrap().call(), 2);
        assert_eq!(waiting.await.unwrap().call(), 3);
    }

    async fn that_is_refused_by_a_load_shedder_fails_what_is_no_hit(backend: &Backend) {
        let gate = Gate::closed();
        let origin = sometimes_slow(&gate);
        let service = layer(backend).await.layer(LoadShed::new(ConcurrencyLimit::new(origin.clone(), 1)));
        ask(&service, get("/")).await.unwrap();
        let slow = tokio::spawn({
            let service = service.clone();
            async move { ask(&service, get("/slow")).await.unwrap() }
        });
        wait_until("the application is busy", async || origin.calls() == 2).await;
        for method in [Method::GET, Method::HEAD, Method::POST] {
            let error = ask(&service, request(method, "/other", &[])).await.unwrap_err();
            assert!(error.is::<load_shed::error::Overloaded>(), "{error}");
        }
        assert_eq!(ask(&service, get("/")).await.unwrap().x_cache(), "HIT");
        gate.open();
        assert_eq!(slow.await.unwrap().call(), 2);
        assert_eq!(ask(&service, get("/other")).await.unwrap().call(), 3);
    }

    async fn is_always_given_to_a_load_shedder_outside(backend: &Backend) {
        let gate = Gate::closed();
        let origin = sometimes_slow(&gate);
        let service = LoadShed::new(layer(backend).await.layer(ConcurrencyLimit::new(origin.clone(), 1)));
        ask(&service, get("/")).await.unwrap();
        let slow = tokio::spawn({
            let service = service.clone();
            async move { ask(&service, get("/slow")).await.unwrap() }
        });
        wait_until("the application is busy", async || origin.calls() == 2).await;
        assert_eq!(ask(&service, get("/")).await.unwrap().x_cache(), "HIT");
        gate.open();
        slow.await.unwrap();
    }

    /// The mock panics when it is called before it said that it is ready.
    async fn is_asked_for_before_every_call(backend: &Backend) {
        let (mock, mut handle) = tower_test::mock::pair::<Request<Body>, http::Response<Body>>();
        let mut service = layer(backend).await.layer(mock);
        handle.allow(0);
        assert!(is_ready::<_, Request<Body>>(&mut service));
        let requests: [(&str, &str, Fields); 6] = [
            ("GET", "/", &[]),
            ("GET", "/personal", &[]),
            ("HEAD", "/head", &[]),
            ("POST", "/post", &[]),
            ("GET", "/precondition", &[("if-match", "*")]),
            ("GET", "/nowhere", &[("host", "")]),
        ];
        for (call, (method, uri, fields)) in requests.into_iter().enumerate() {
            let client = tokio::spawn({
                let (service, request) = (service.clone(), request(method.parse().unwrap(), uri, fields));
                async move { ask(&service, request).await.unwrap() }
            });
            handle.allow(1);
            let (request, respond) = handle.next_request().await.unwrap();
            assert_eq!((request.method().as_str(), request.uri().path()), (method, uri));
            let fields = if uri == "/personal" { &[("cache-control", "private")] } else { MAX_AGE };
            respond.send_response(echo(call, &request, fields));
            assert_eq!(client.await.unwrap().call(), call);
            handle.allow(0);
        }
        assert_eq!(ask(&service, get("/")).await.unwrap().x_cache(), "HIT");

        handle.send_error(Failure("it will never be ready again"));
        let error = ask(&service, get("/another")).await.unwrap_err();
        assert!(error.to_string().contains("it will never be ready again"), "{error}");
        assert_eq!(ask(&service, get("/")).await.unwrap().x_cache(), "HIT");
    }

    over_each_store!(
        is_waited_for_under_a_concurrency_limit_of_one,
        is_waited_for_under_a_buffer_of_one,
        takes_no_capacity_before_there_is_a_request,
        of_a_busy_application_is_not_needed_for_a_hit,
        that_is_refused_by_a_load_shedder_fails_what_is_no_hit,
        is_always_given_to_a_load_shedder_outside,
        is_asked_for_before_every_call,
    );
}

mod a_call {
    use super::*;

    async fn is_not_made_for_a_hit(backend: &Backend) {
        let origin = Origin::echo(MAX_AGE);
        let app = App::on(backend, &origin).await;
        for _ in 0..5 {
            assert_eq!(app.get("/", &[]).await.call(), 1);
            assert_eq!(app.send(Method::HEAD, "/", &[]).await.call(), 1);
        }
        assert_eq!(origin.calls(), 1);
    }

    async fn that_a_timeout_outside_gives_up_is_stored_when_it_ends(backend: &Backend) {
        let gate = Gate::closed();
        let origin = Origin::gated_echo(&gate, MAX_AGE);
        let app = App::on(backend, &origin).await;
        let service = Timeout::new(app.service(), Duration::from_millis(100));
        // On a busy machine a request may be given up before there is a call.
        wait_until("the application is called", async || {
            let error = ask(&service, get("/")).await.unwrap_err();
            assert!(error.is::<timeout::error::Elapsed>(), "{error}");
            origin.calls() == 1
        })
        .await;
        gate.open();
        app.settled().await;
        let answer = app.get("/", &[]).await;
        assert_eq!((answer.x_cache(), answer.call()), ("HIT", 1));
    }

    /// A stored response is for all clients: state that an outer layer keeps in its client's task does not reach the load.
    async fn sees_no_task_local_of_its_client(backend: &Backend) {
        tokio::task_local! {
            static USER: &'static str;
        }
        let origin = Origin::new(|call, request| async move {
            assert!(USER.try_with(|user| user.len()).is_err(), "a page for all was made for one");
            Ok(echo(call, &request, MAX_AGE))
        });
        let app = App::on(backend, &origin).await;
        for x_cache in ["MISS", "HIT"] {
            let answer = USER.scope("somebody", app.get("/", &[])).await;
            assert_eq!((answer.x_cache(), answer.call()), (x_cache, 1));
        }
    }

    over_each_store!(
        is_not_made_for_a_hit,
        that_a_timeout_outside_gives_up_is_stored_when_it_ends,
        sees_no_task_local_of_its_client,
    );
}

mod an_error {
    use super::*;

    async fn of_the_application_arrives_as_it_is_and_is_not_stored(backend: &Backend) {
        let origin = Origin::new(|call, request| async move {
            if call <= 2 { Err(Failure("no database")) } else { Ok(echo(call, &request, MAX_AGE)) }
        });
        let service = layer(backend).await.layer(origin);
        for method in [Method::GET, Method::POST] {
            let error: Failure = ask(&service, request(method, "/", &[])).await.unwrap_err();
            assert_eq!(error, Failure("no database"));
        }
        let answer = ask(&service, get("/")).await.unwrap();
        assert_eq!((answer.x_cache(), answer.call()), ("MISS", 3));
    }

    over_each_store!(of_the_application_arrives_as_it_is_and_is_not_stored);
}

mod a_panic {
    use super::*;

    async fn of_the_application_is_its_clients_and_nobody_elses(backend: &Backend) {
        let origin = Origin::new(|call, request| async move {
            assert!(call > 2, "a bug in the application");
            Ok(echo(call, &request, MAX_AGE))
        });
        let app = App::on(backend, &origin).await;
        for method in [Method::GET, Method::POST] {
            let panicked = tokio::spawn({
                let app = app.clone();
                async move { app.send(method, "/", &[]).await }
            });
            assert_panicked(panicked.await, "a bug in the application");
        }
        // The POST may have changed something before it panicked: its target is voided.
        app.settled().await;
        assert_eq!(app.get("/", &[]).await.call(), 3);
        assert_eq!(app.get("/", &[]).await.x_cache(), "HIT");
    }

    /// A reader that took it for the end would have half a response.
    async fn in_the_middle_of_a_body_is_its_readers(backend: &Backend) {
        let origin = Origin::new(|call, request| async move {
            if call > 1 {
                return Ok(echo(call, &request, MAX_AGE));
            }
            let (feed, body) = Feed::new();
            feed.data("half").unwrap();
            feed.data("panic").unwrap();
            let body = body.map_frame(|frame: Frame<Bytes>| {
                assert_ne!(frame.data_ref().unwrap(), "panic", "a bug in the application");
                frame
            });
            Ok(http::Response::builder().header("cache-control", "max-age=60").body(body.boxed_unsync()).unwrap())
        });
        let app = App::on(backend, &origin).await;
        let reader = tokio::spawn({
            let app = app.clone();
            async move { app.begin(get("/")).await.unwrap().into_body().collect().await.unwrap().to_bytes() }
        });
        let read = tokio::time::timeout(Duration::from_secs(30), reader).await.expect("it waits for ever");
        assert_panicked(read, "a bug in the application");
        assert_eq!(app.get("/", &[]).await.call(), 2);
        assert_eq!(app.get("/", &[]).await.x_cache(), "HIT");
    }

    fn assert_panicked<T: std::fmt::Debug>(result: Result<T, tokio::task::JoinError>, expected: &str) {
        let panic = result.unwrap_err().into_panic();
        let message = panic.downcast_ref::<String>().cloned();
        let message = message.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap();
        assert!(message.contains(expected), "{message}");
    }

    over_each_store!(of_the_application_is_its_clients_and_nobody_elses, in_the_middle_of_a_body_is_its_readers);
}

mod a_body {
    use super::*;

    /// Neither `Clone`, nor `Sync`, nor `Unpin`, nor `Default`.
    struct Difficult {
        chunk: Cell<Option<&'static str>>,
        _pinned: PhantomPinned,
    }

    impl Difficult {
        fn new(chunk: &'static str) -> Self {
            Self { chunk: Cell::new(Some(chunk).filter(|chunk| !chunk.is_empty())), _pinned: PhantomPinned }
        }
    }

    impl http_body::Body for Difficult {
        type Data = Bytes;
        type Error = Failure;

        fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
            Poll::Ready(self.chunk.take().map(|chunk| Ok(Frame::data(chunk.into()))))
        }

        fn is_end_stream(&self) -> bool {
            let chunk = self.chunk.take();
            self.chunk.set(chunk);
            chunk.is_none()
        }
    }

    /// A service that is not `Sync` either.
    #[derive(Clone)]
    struct DifficultService(Cell<u64>);

    impl Service<Request<Difficult>> for DifficultService {
        type Response = http::Response<Difficult>;
        type Error = Failure;
        type Future = std::future::Ready<Result<Self::Response, Failure>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Failure>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Request<Difficult>) -> Self::Future {
            self.0.set(self.0.get() + 1);
            let response = http::Response::builder().header("cache-control", "max-age=60");
            std::future::ready(Ok(response.body(Difficult::new("a difficult body")).unwrap()))
        }
    }

    async fn may_be_as_difficult_as_it_likes(backend: &Backend) {
        let service = layer(backend).await.layer(DifficultService(Cell::new(0)));
        for (content, x_cache) in [("", "MISS"), ("", "HIT"), ("content", "BYPASS")] {
            let request = Request::get("/").header("host", HOST).body(Difficult::new(content)).unwrap();
            let answer = ask(&service, request).await.unwrap();
            assert_eq!((answer.x_cache(), answer.text()), (x_cache, "a difficult body"));
        }
    }

    over_each_store!(may_be_as_difficult_as_it_likes);
}

mod axum_stacks {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use axum::{Router, http::header::CACHE_CONTROL, routing};

    use super::*;

    fn page(text: &'static str, calls: &Arc<AtomicUsize>) -> routing::MethodRouter {
        let calls = calls.clone();
        routing::get(move || async move {
            calls.fetch_add(1, Ordering::SeqCst);
            ([(CACHE_CONTROL, "max-age=60")], text)
        })
    }

    async fn x_cache(app: &Router, method: &str, uri: &str) -> (StatusCode, String) {
        let request = Request::builder().method(method).uri(uri).header("host", HOST);
        let answer = ask(app, request.body(axum::body::Body::empty()).unwrap()).await.unwrap();
        (answer.status, answer.x_cache().to_owned())
    }

    fn is(x_cache: &str) -> (StatusCode, String) {
        (StatusCode::OK, x_cache.to_owned())
    }

    async fn take_the_layer_around_a_router(backend: &Backend) {
        let calls = Arc::default();
        let cache = backend.cache().await.build();
        let app = Router::new().route("/page", page("page", &calls)).layer(CacheLayer::new(cache.clone()));
        assert_eq!(x_cache(&app, "HEAD", "/page").await, is("MISS"));
        assert_eq!(x_cache(&app, "GET", "/page").await, is("MISS"));
        assert_eq!(x_cache(&app, "GET", "/page").await, is("HIT"));
        // The load may have answered that one before it was stored, and HEAD waits for no load.
        assert!(cache.drain(Duration::from_secs(10)).await);
        assert_eq!(x_cache(&app, "HEAD", "/page").await, is("HIT"));
        assert_eq!(x_cache(&app, "GET", "/none").await, (StatusCode::NOT_FOUND, "MISS".to_owned()));
        assert_eq!(calls.load(Ordering::SeqCst), 2);
    }

    async fn take_the_layer_around_routes(backend: &Backend) {
        let calls = Arc::default();
        let app = Router::new().route("/page", page("page", &calls)).route_layer(layer(backend).await);
        assert_eq!(x_cache(&app, "GET", "/page").await, is("MISS"));
        assert_eq!(x_cache(&app, "GET", "/page").await, is("HIT"));
        assert_eq!(x_cache(&app, "GET", "/none").await, (StatusCode::NOT_FOUND, String::new()));
        assert_eq!(calls.load(Ordering::SeqCst), 1);
    }

    async fn take_the_layer_around_one_method(backend: &Backend) {
        let calls = Arc::default();
        let cached = page("page", &calls).layer(layer(backend).await);
        let app = Router::new().route("/page", cached).route("/other", page("other", &calls));
        assert_eq!(x_cache(&app, "GET", "/page").await, is("MISS"));
        assert_eq!(x_cache(&app, "GET", "/page").await, is("HIT"));
        assert_eq!(x_cache(&app, "GET", "/other").await, is(""));
    }

    /// A nested router is asked for what is left of the path.
    async fn that_are_nested_in_one_share_no_entry_when_each_has_a_space(backend: &Backend) {
        let (calls, layer) = (Arc::default(), layer(backend).await);
        let nested =
            |text, space| Router::new().route("/page", page(text, &calls)).layer(layer.clone().namespace(space));
        let app = Router::new().nest("/old", nested("the old page", "1")).nest("/new", nested("the new page", "2"));
        expect_two_pages(&app, &calls).await;
    }

    async fn that_are_nested_in_one_share_no_entry_of_a_layer_around_them(backend: &Backend) {
        let calls = Arc::default();
        let nested = |text| Router::new().route("/page", page(text, &calls));
        let app = Router::new().nest("/old", nested("the old page")).nest("/new", nested("the new page"));
        expect_two_pages(&app.layer(layer(backend).await), &calls).await;
    }

    async fn expect_two_pages(app: &Router, calls: &AtomicUsize) {
        for _ in 0..2 {
            for (uri, text) in [("/old/page", "the old page"), ("/new/page", "the new page")] {
                let request = Request::get(uri).header("host", HOST).body(axum::body::Body::empty()).unwrap();
                assert_eq!(ask(app, request).await.unwrap().text(), text, "{uri}");
            }
        }
        assert_eq!(calls.load(Ordering::SeqCst), 2);
    }

    over_each_store!(
        take_the_layer_around_a_router,
        take_the_layer_around_routes,
        take_the_layer_around_one_method,
        that_are_nested_in_one_share_no_entry_when_each_has_a_space,
        that_are_nested_in_one_share_no_entry_of_a_layer_around_them,
    );
}

mod a_hyper_server {
    use std::{
        convert::Infallible,
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
    };

    use hyper::body::Incoming;
    use hyper_util::{
        rt::{TokioExecutor, TokioIo},
        server::conn::auto,
        service::TowerToHyperService,
    };
    use tests::HttpClient;
    use tokio::net::TcpListener;

    use super::*;

    async fn serves_the_layer_as_it_is(backend: &Backend) {
        let calls = Arc::new(AtomicUsize::new(0));
        let application = service_fn({
            let calls = calls.clone();
            move |request: Request<Incoming>| {
                let call = calls.fetch_add(1, Ordering::SeqCst) + 1;
                async move {
                    let (parts, body) = request.into_parts();
                    let content = body.collect().await.unwrap().to_bytes();
                    let mut response = echo(call, &Request::from_parts(parts, ()), MAX_AGE);
                    response.headers_mut().insert("x-received", content.len().into());
                    Ok::<_, Infallible>(response)
                }
            }
        });
        let service = TowerToHyperService::new(layer(backend).await.layer(application));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let service = service.clone();
                tokio::spawn(async move {
                    let connection = auto::Builder::new(TokioExecutor::new());
                    let _ = connection.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });

        let client = HttpClient::new();
        let url = format!("http://{addr}/page?x=1");
        let miss = client.get(&url, &[]).await;
        assert_eq!((miss.x_cache(), miss.call()), ("MISS", 1));
        let hit = client.get(&url, &[]).await;
        assert_eq!((hit.x_cache(), hit.call(), &hit.body), ("HIT", 1, &miss.body));
        assert_eq!(hit.header("content-length"), Some(&*hit.body.len().to_string()), "it is sent in chunks");
        // The load may have answered that one before it was stored, and HEAD waits for no load.
        wait_until("the page is stored", async || {
            client.get(&url, &[]).await.header("cache-status").is_some_and(|status| status.contains("; hit"))
        })
        .await;
        let head = client.request(Method::HEAD, &url, &[], "").await;
        assert_eq!((head.x_cache(), head.header("content-length")), ("HIT", hit.header("content-length")));
        assert!(head.body.is_empty());
        let written = client.request(Method::POST, &url, &[], "some content").await;
        assert_eq!((written.x_cache(), written.header("x-received")), ("BYPASS", Some("12")));
        assert_eq!(client.get(&url, &[]).await.call(), 3);
        server.abort();
    }

    over_each_store!(serves_the_layer_as_it_is);
}

/// The layer takes bodies and errors of any type.
#[tokio::test]
async fn the_layer_is_indifferent_to_the_types_of_bodies() {
    let cache = cache_layer::Cache::new(cache_layer::store::MemoryStore::new(1 << 20));
    let service = CacheLayer::new(cache).layer(service_fn(async |_: Request<Empty<Bytes>>| {
        Ok::<_, Failure>(http::Response::builder().header("cache-control", "max-age=60").body(Full::from("x")).unwrap())
    }));
    for x_cache in ["MISS", "HIT"] {
        let request = Request::get("http://a.example/").body(Empty::new()).unwrap();
        let response = service.clone().oneshot(request).await.unwrap();
        assert_eq!(response.headers()["x-cache"], x_cache);
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "x");
    }
}
