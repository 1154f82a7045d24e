//! Layers of others around the cache and inside it: the table of `guide::neighbours`, row by row, against the real crates.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Extension, Router,
    response::IntoResponse,
    routing::{any, get},
};
use cache_layer::{
    Cache, CacheLayer, Hints, ResponseBody, Rule,
    store::MemoryStore,
    telemetry::{Event, LookupEvent, LookupResult, Observer},
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, header};
use tests::{Body, Origin, Response, request};
use tower::{ServiceBuilder, limit::ConcurrencyLimitLayer, util::option_layer};
use tower_governor::{GovernorLayer, governor::GovernorConfigBuilder, key_extractor::SmartIpKeyExtractor};
use tower_http::{
    auth::AddAuthorizationLayer,
    catch_panic::CatchPanicLayer,
    compression::CompressionLayer,
    cors::CorsLayer,
    csrf::CsrfLayer,
    normalize_path::NormalizePathLayer,
    propagate_header::PropagateHeaderLayer,
    request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer},
    set_header::SetResponseHeaderLayer,
    timeout::TimeoutLayer,
    trace::TraceLayer,
    validate_request::ValidateRequestHeaderLayer,
};
use tower_sessions::{MemoryStore as Sessions, Session, SessionManagerLayer};

const MINUTE: Duration = Duration::from_secs(60);
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// A layer over a cache of its own, which keeps what says nothing for a minute.
struct Caching {
    cache: Cache,
    layer: CacheLayer,
}

impl Caching {
    fn new() -> Self {
        Self::set(|layer| layer)
    }

    fn set(set: impl FnOnce(CacheLayer) -> CacheLayer) -> Self {
        let cache = Cache::new(MemoryStore::new(1 << 20));
        Self { layer: set(CacheLayer::new(cache.clone()).ttl(MINUTE)), cache }
    }

    async fn get(&self, app: &Router, uri: &str, fields: &[(&str, &str)]) -> Response {
        self.ask(app, request(Method::GET, uri, fields)).await
    }

    async fn ask(&self, app: &Router, request: Request<Body>) -> Response {
        let response = tests::ask(app, request).await.unwrap();
        assert!(self.cache.drain(Duration::from_secs(30)).await);
        response
    }
}

/// Says how often it was asked, in what is long enough to be compressed.
fn counting() -> Router {
    let calls = Arc::new(AtomicUsize::new(0));
    let handler = async move || format!("call {} {}", calls.fetch_add(1, Ordering::SeqCst) + 1, "x".repeat(200));
    Router::new().route("/", any(handler.clone())).route("/a", any(handler))
}

fn x_caches(responses: &[Response]) -> Vec<&str> {
    responses.iter().map(Response::x_cache).collect()
}

#[tokio::test]
async fn cors_timeout_and_csrf_go_directly_outside_in_one_service_builder() {
    let service = ServiceBuilder::new()
        .layer(CorsLayer::permissive())
        .layer(TimeoutLayer::with_status_code(StatusCode::GATEWAY_TIMEOUT, MINUTE))
        .layer(CsrfLayer::new())
        .layer(Caching::new().layer)
        .service(Origin::echo(&[("cache-control", "max-age=60")]));
    let response = tests::ask(&service, request(Method::GET, "/", &[("origin", "https://a.example")])).await.unwrap();
    assert_eq!(response.header("access-control-allow-origin"), Some("*"));
    assert!(http_body::Body::is_end_stream(&ResponseBody::<Body>::default()));
}

#[tokio::test]
async fn fields_that_are_sent_back_go_outside() {
    let field = HeaderName::from_static("x-session-name");
    let sent_back = |response: &Response| response.header("x-session-name").map(ToOwned::to_owned);
    let caching = Caching::new();
    let app = counting().layer(caching.layer.clone()).layer(PropagateHeaderLayer::new(field.clone()));
    for name in ["ann", "bob"] {
        assert_eq!(sent_back(&caching.get(&app, "/", &[("x-session-name", name)]).await).as_deref(), Some(name));
    }

    // Inside, it is stored as any other field is, unless the layer is told.
    for (not_stored, expected) in [(&[][..], Some("ann")), (&[field.clone()][..], None)] {
        let caching = Caching::set(|layer| layer.not_stored(not_stored));
        let app = counting().layer(PropagateHeaderLayer::new(field.clone())).layer(caching.layer.clone());
        caching.get(&app, "/", &[("x-session-name", "ann")]).await;
        let other = caching.get(&app, "/", &[("x-session-name", "bob")]).await;
        assert_eq!((other.x_cache(), sent_back(&other).as_deref()), ("HIT", expected));
    }
}

#[tokio::test]
async fn request_ids_go_outside() {
    let ids = |response: &Response| response.header("x-request-id").map(ToOwned::to_owned);
    let id_layers = || {
        ServiceBuilder::new()
            .layer(SetRequestIdLayer::new(REQUEST_ID, MakeRequestUuid))
            .layer(PropagateRequestIdLayer::new(REQUEST_ID))
    };
    let caching = Caching::new();
    let app = counting().layer(caching.layer.clone()).layer(id_layers());
    caching.get(&app, "/", &[]).await;
    let own = caching.get(&app, "/", &[("x-request-id", "mine")]).await;
    assert_eq!((own.x_cache(), ids(&own).as_deref()), ("HIT", Some("mine")));

    let caching = Caching::new();
    let app = counting().layer(id_layers()).layer(caching.layer.clone());
    assert!(ids(&caching.get(&app, "/", &[]).await).is_some());
    let hit = caching.get(&app, "/", &[("x-request-id", "mine")]).await;
    assert_eq!((hit.x_cache(), ids(&hit)), ("HIT", None), "none, rather than another request's");
}

#[tokio::test]
async fn tracing_is_of_all_requests_outside_and_of_loads_inside() {
    for (outside, expected) in [(true, 3), (false, 1)] {
        let caching = Caching::new();
        let seen = Arc::new(AtomicUsize::new(0));
        let count = seen.clone();
        let trace = TraceLayer::new_for_http().on_request(move |_: &Request<_>, _: &tracing::Span| {
            count.fetch_add(1, Ordering::SeqCst);
        });
        let (app, cache) = (counting(), caching.layer.clone());
        let app = if outside { app.layer(cache).layer(trace) } else { app.layer(trace).layer(cache) };
        for _ in 0..3 {
            caching.get(&app, "/", &[]).await;
        }
        assert_eq!(seen.load(Ordering::SeqCst), expected);
    }
}

#[tokio::test]
async fn cors_goes_outside_and_makes_a_variant_of_each_origin_inside() {
    const ORIGINS: [&[(&str, &str)]; 3] = [&[], &[("origin", "https://a.example")], &[("origin", "https://b.example")]];
    let outcomes = async |app: Router, caching: &Caching| {
        let mut responses = Vec::new();
        for fields in ORIGINS {
            responses.push(caching.get(&app, "/", fields).await);
        }
        let allowed: Vec<_> =
            responses.iter().map(|r| r.header("access-control-allow-origin").map(ToOwned::to_owned)).collect();
        (x_caches(&responses).join(" "), allowed[1..].iter().flatten().cloned().collect::<Vec<_>>().join(" "))
    };
    let caching = Caching::new();
    let outside = counting().layer(caching.layer.clone()).layer(CorsLayer::very_permissive());
    let each = "https://a.example https://b.example";
    assert_eq!(outcomes(outside, &caching).await, ("MISS HIT HIT".to_owned(), each.to_owned()));
    let caching = Caching::new();
    let inside = counting().layer(CorsLayer::very_permissive()).layer(caching.layer.clone());
    assert_eq!(outcomes(inside, &caching).await, ("MISS MISS MISS".to_owned(), each.to_owned()));
    let caching = Caching::new();
    let inside = counting().layer(CorsLayer::permissive()).layer(caching.layer.clone());
    assert_eq!(outcomes(inside, &caching).await, ("MISS HIT HIT".to_owned(), "* *".to_owned()));
}

#[tokio::test]
async fn compression_goes_outside_and_makes_a_variant_of_each_coding_inside() {
    const CODINGS: [&[(&str, &str)]; 3] =
        [&[], &[("accept-encoding", "gzip")], &[("accept-encoding", "gzip, deflate, br")]];
    for (outside, expected) in [(true, "MISS HIT HIT"), (false, "MISS MISS MISS")] {
        let caching = Caching::new();
        let (app, cache) = (counting(), caching.layer.clone());
        let compression = CompressionLayer::new().no_br().no_zstd();
        let app = match outside {
            true => app.layer(cache).layer(compression),
            false => app.layer(compression).layer(cache),
        };
        let mut responses = Vec::new();
        for fields in CODINGS {
            responses.push(caching.get(&app, "/", fields).await);
        }
        assert_eq!(x_caches(&responses).join(" "), expected);
        let codings = responses.iter().map(|response| response.header("content-encoding"));
        assert_eq!(codings.collect::<Vec<_>>(), [None, Some("gzip"), Some("gzip")]);
    }
}

/// What is stored is what was compressed: a part of it is none of the page.
#[tokio::test]
async fn a_range_is_cut_out_of_what_was_compressed_inside() {
    let caching = Caching::new();
    let app = counting().layer(CompressionLayer::new()).layer(caching.layer.clone());
    let whole = caching.get(&app, "/", &[("accept-encoding", "gzip")]).await;
    let part = caching.get(&app, "/", &[("accept-encoding", "gzip"), ("range", "bytes=0-3")]).await;
    assert_eq!((part.status, part.header("content-encoding")), (StatusCode::PARTIAL_CONTENT, Some("gzip")));
    assert_eq!((&part.body[..], &part.body[..2]), (&whole.body[..4], &b"\x1f\x8b"[..]));
}

#[tokio::test]
async fn forged_requests_are_refused_outside_and_inside_unless_the_cache_answers_them() {
    const FORGED: [(&str, &str); 2] = [("sec-fetch-site", "cross-site"), ("origin", "https://evil.example")];
    for outside in [true, false] {
        let caching = Caching::new();
        let (app, cache) = (counting(), caching.layer.clone());
        // Its errors are responses.
        let app = match outside {
            true => app.layer(cache).layer(CsrfLayer::new()),
            false => app.layer(CsrfLayer::new()).layer(cache),
        };
        let page = caching.get(&app, "/", &[]).await;
        let refused = caching.ask(&app, request(Method::POST, "/", &FORGED)).await;
        assert_eq!((refused.status, refused.header("x-cache").is_some()), (StatusCode::FORBIDDEN, !outside));
        // It has changed nothing, and a safe request is answered, whoever has made it.
        let hit = caching.get(&app, "/", &FORGED).await;
        assert_eq!((hit.x_cache(), hit.text()), ("HIT", page.text()), "outside: {outside}");
    }
}

#[tokio::test]
async fn a_layer_of_a_method_router_is_for_the_methods_before_it() {
    let (read, write) = (async || "a page", async || StatusCode::NO_CONTENT);
    for (around_all, expected) in [(true, "MISS"), (false, "HIT")] {
        let caching = Caching::new();
        let cache = caching.layer.clone();
        let route = if around_all { get(read).put(write).layer(cache) } else { get(read).layer(cache).put(write) };
        let app = Router::new().route("/", route);
        caching.get(&app, "/", &[]).await;
        let written = caching.ask(&app, request(Method::PUT, "/", &[])).await;
        assert_eq!((written.status, written.header("x-cache").is_some()), (StatusCode::NO_CONTENT, around_all));
        assert_eq!(caching.get(&app, "/", &[]).await.x_cache(), expected);
    }
}

/// Why a range belongs to a stored response, and compression outside of it: the part is cut out of what is not compressed.
#[tokio::test]
async fn compression_outside_leaves_parts_alone() {
    let caching = Caching::set(|layer| layer.etags(true));
    let app = counting().layer(caching.layer.clone()).layer(CompressionLayer::new());
    caching.get(&app, "/", &[]).await;
    let part = caching.get(&app, "/", &[("range", "bytes=0-3"), ("accept-encoding", "gzip")]).await;
    assert_eq!(
        (part.status, part.text(), part.header("content-encoding")),
        (StatusCode::PARTIAL_CONTENT, "call", None)
    );
    // The reason to leave `etags` off there: one strong tag for two representations.
    let tags = [&[][..], &[("accept-encoding", "gzip")]].map(|fields| caching.get(&app, "/", fields));
    let [plain, compressed] = futures_util::future::join_all(tags).await.try_into().unwrap();
    assert_eq!(plain.header("etag"), compressed.header("etag"));
    assert!(plain.header("etag").unwrap().starts_with('"'));
}

#[tokio::test]
async fn a_timeout_outside_leaves_the_load_alive_and_inside_ends_it() {
    let slow = || {
        let handler = async || {
            tokio::time::sleep(Duration::from_millis(300)).await;
            "slow"
        };
        Router::new().route("/", get(handler))
    };
    let timeout = TimeoutLayer::with_status_code(StatusCode::GATEWAY_TIMEOUT, Duration::from_millis(50));
    for (outside, second) in [(true, (StatusCode::OK, "HIT")), (false, (StatusCode::GATEWAY_TIMEOUT, "MISS"))] {
        let caching = Caching::new();
        let cache = caching.layer.clone();
        let app = if outside { slow().layer(cache).layer(timeout) } else { slow().layer(timeout).layer(cache) };
        assert_eq!(caching.get(&app, "/", &[]).await.status, StatusCode::GATEWAY_TIMEOUT);
        let response = caching.get(&app, "/", &[]).await;
        assert_eq!((response.status, response.x_cache()), second);
    }
}

#[tokio::test]
#[expect(clippy::result_large_err, reason = "the layer's own signature")]
async fn who_may_ask_is_checked_outside() {
    let check = || {
        ValidateRequestHeaderLayer::custom(|request: &mut Request<axum::body::Body>| {
            match request.headers_mut().remove("authorization") {
                Some(credentials) if credentials.as_bytes().starts_with(b"Bearer ") => {
                    let tenant = String::from_utf8_lossy(&credentials.as_bytes()[7..]).into_owned();
                    Hints::new().key_part(tenant).add_to(request.extensions_mut());
                    Ok(())
                }
                _ => Err(StatusCode::UNAUTHORIZED.into_response()),
            }
        })
    };
    let credentials = [[("authorization", "Bearer one")], [("authorization", "Bearer two")]];
    let caching = Caching::new();
    let app = counting().layer(caching.layer.clone()).layer(check());
    let [one, two] = &credentials;
    let first = caching.get(&app, "/", one).await;
    assert_eq!(caching.get(&app, "/", one).await.text(), first.text());
    assert_ne!(caching.get(&app, "/", two).await.text(), first.text(), "each tenant has its own");
    let stranger = caching.get(&app, "/", &[]).await;
    assert_eq!((stranger.status, stranger.header("x-cache")), (StatusCode::UNAUTHORIZED, None));
    // Inside the cache, only requests that load are checked: a public response is shared, others are not stored.
    let caching = Caching::new();
    let public =
        SetResponseHeaderLayer::overriding(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=60"));
    let app = counting().layer(check()).layer(public).layer(caching.layer.clone());
    caching.get(&app, "/", one).await;
    let stranger = caching.get(&app, "/", &[]).await;
    assert_eq!((stranger.status, stranger.x_cache()), (StatusCode::OK, "HIT"), "not asked for credentials");
    let caching = Caching::new();
    let app = counting().layer(check()).layer(caching.layer.clone());
    assert_eq!(caching.get(&app, "/", one).await.cache_status().detail.as_deref(), Some("authorization"));
    // A field that is added outside of the cache counts as the client's own.
    let caching = Caching::new();
    let app = counting().layer(caching.layer.clone()).layer(AddAuthorizationLayer::basic("service", "secret"));
    assert_eq!(caching.get(&app, "/", &[]).await.cache_status().detail.as_deref(), Some("authorization"));
    let caching = Caching::new();
    let app = counting().layer(AddAuthorizationLayer::basic("service", "secret")).layer(caching.layer.clone());
    caching.get(&app, "/", &[]).await;
    assert_eq!(caching.get(&app, "/", &[]).await.x_cache(), "HIT");
}

#[tokio::test]
async fn sessions_go_inside_and_their_cookie_bypasses() {
    /// Counts the visits of a client.
    async fn visit(Extension(session): Extension<Session>) -> String {
        let visits: u32 = session.get("visits").await.unwrap().unwrap_or(0) + 1;
        session.insert("visits", visits).await.unwrap();
        format!("visit {visits}")
    }
    async fn look(Extension(session): Extension<Session>) -> String {
        format!("{} visits", session.get::<u32>("visits").await.unwrap().unwrap_or(0))
    }
    let routes = || Router::new().route("/", get(visit)).route("/look", get(look));
    let sessions = || SessionManagerLayer::new(Sessions::default()).with_secure(false);
    let cookie = |response: &Response| response.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();

    let caching = Caching::set(|layer| layer.bypass_on_cookies(["id"]));
    let app = routes().layer(sessions()).layer(caching.layer.clone());
    let first = caching.get(&app, "/", &[]).await;
    assert_eq!((first.text(), first.cache_status().detail.as_deref()), ("visit 1", Some("set-cookie")));
    let cookie_of_one = cookie(&first);
    let one = [("cookie", &*cookie_of_one)];
    assert_eq!(caching.get(&app, "/", &one).await.text(), "visit 2");
    assert_eq!(caching.get(&app, "/look", &[]).await.text(), "0 visits");
    assert_eq!(caching.get(&app, "/look", &[]).await.x_cache(), "HIT");
    assert_eq!(caching.get(&app, "/look", &one).await.text(), "2 visits", "not the page for clients without a session");
    // Without the setting, a client with a session gets that page.
    let caching = Caching::new();
    let app = routes().layer(sessions()).layer(caching.layer.clone());
    let cookie_of_one = cookie(&caching.get(&app, "/", &[]).await);
    caching.get(&app, "/look", &[]).await;
    assert_eq!(caching.get(&app, "/look", &[("cookie", &cookie_of_one)]).await.text(), "0 visits");
    // Outside, the cache doesn't see that a response begins a session.
    let caching = Caching::new();
    let app = routes().layer(caching.layer.clone()).layer(sessions());
    caching.get(&app, "/", &[]).await;
    let other = caching.get(&app, "/", &[]).await;
    assert_eq!((other.x_cache(), other.text()), ("HIT", "visit 1"), "another client's");
}

#[tokio::test]
async fn limits_of_clients_go_outside_and_those_of_the_application_inside() {
    let limit = || {
        let mut config = GovernorConfigBuilder::default().key_extractor(SmartIpKeyExtractor);
        let config = config.per_second(3600).burst_size(3).use_headers().finish().unwrap();
        GovernorLayer::new(config)
    };
    let (one, other) = ([("x-forwarded-for", "10.0.0.1")], [("x-forwarded-for", "10.0.0.2")]);
    let remaining = |response: &Response| response.header("x-ratelimit-remaining").map(ToOwned::to_owned);
    let caching = Caching::new();
    let app = counting().layer(caching.layer.clone()).layer(limit());
    let mut seen = Vec::new();
    for client in [one, one, other] {
        seen.push(remaining(&caching.get(&app, "/", &client).await).unwrap());
    }
    assert_eq!(seen, ["2", "1", "2"]);
    let caching = Caching::new();
    let app = counting().layer(limit()).layer(caching.layer.clone());
    assert_eq!(remaining(&caching.get(&app, "/", &one).await).as_deref(), Some("2"));
    for _ in 0..5 {
        let hit = caching.get(&app, "/", &other).await;
        assert_eq!((hit.x_cache(), remaining(&hit)), ("HIT", None), "hits don't count, and say nothing of another's");
    }
    // One load at a time is enough if everything else is answered from memory.
    let caching = Caching::new();
    let app = counting().layer(ConcurrencyLimitLayer::new(1)).layer(caching.layer.clone());
    caching.get(&app, "/", &[]).await;
    let hits = futures_util::future::join_all((0..10).map(|_| caching.get(&app, "/", &[]))).await;
    assert!(hits.iter().all(|hit| hit.x_cache() == "HIT"));
}

#[tokio::test]
async fn fields_that_are_the_same_for_all_go_anywhere() {
    let field = || {
        SetResponseHeaderLayer::overriding(HeaderName::from_static("x-frame-options"), HeaderValue::from_static("DENY"))
    };
    for outside in [true, false] {
        let caching = Caching::new();
        let (app, cache) = (counting(), caching.layer.clone());
        let app = if outside { app.layer(cache).layer(field()) } else { app.layer(field()).layer(cache) };
        for x_cache in ["MISS", "HIT"] {
            let response = caching.get(&app, "/", &[]).await;
            assert_eq!((response.x_cache(), response.header("x-frame-options")), (x_cache, Some("DENY")));
        }
    }
    // A nonce is not.
    let calls = Arc::new(AtomicUsize::new(0));
    let nonce = SetResponseHeaderLayer::overriding(header::CONTENT_SECURITY_POLICY, move |_: &http::Response<_>| {
        let nonce = calls.fetch_add(1, Ordering::SeqCst);
        HeaderValue::from_str(&format!("script-src 'nonce-{nonce}'")).ok()
    });
    let caching = Caching::new();
    let app = counting().layer(nonce).layer(caching.layer.clone());
    assert_eq!(caching.get(&app, "/", &[]).await.cache_status().detail.as_deref(), Some("one-client"));
}

#[tokio::test]
async fn paths_are_normalised_outside() {
    for (outside, expected) in [(true, "HIT"), (false, "MISS")] {
        let caching = Caching::new();
        // Around the router, since a router's layers come after its routing.
        let app = match outside {
            true => {
                let inner = ServiceBuilder::new()
                    .layer(NormalizePathLayer::trim_trailing_slash())
                    .map_response(|response: http::Response<ResponseBody<axum::body::Body>>| {
                        response.map(axum::body::Body::new)
                    })
                    .layer(caching.layer.clone())
                    .service(counting());
                Router::new().fallback_service(inner)
            }
            false => {
                let inner = ServiceBuilder::new()
                    .map_response(|response: http::Response<ResponseBody<axum::body::Body>>| {
                        response.map(axum::body::Body::new)
                    })
                    .layer(caching.layer.clone())
                    .layer(NormalizePathLayer::trim_trailing_slash())
                    .service(counting());
                Router::new().fallback_service(inner)
            }
        };
        caching.get(&app, "/a", &[]).await;
        assert_eq!(caching.get(&app, "/a/", &[]).await.x_cache(), expected);
        caching.ask(&app, request(Method::PUT, "/a", &[])).await;
        let after = [caching.get(&app, "/a/", &[]).await, caching.get(&app, "/a", &[]).await];
        let expected = if outside { ["MISS", "HIT"] } else { ["HIT", "MISS"] };
        assert_eq!(x_caches(&after), expected, "two keys, of which a write reaches one");
    }
}

#[tokio::test]
async fn panics_are_caught_inside() {
    async fn panics(headers: HeaderMap) -> &'static str {
        assert!(!headers.contains_key("x-panic"), "as it is told to");
        "well"
    }
    let routes = || Router::new().route("/", get(panics));
    let caching = Caching::new();
    let app = routes().layer(CatchPanicLayer::new()).layer(caching.layer.clone());
    let response = caching.get(&app, "/", &[("x-panic", "1")]).await;
    assert_eq!((response.status, response.x_cache()), (StatusCode::INTERNAL_SERVER_ERROR, "MISS"));
    assert_eq!(caching.get(&app, "/", &[]).await.text(), "well", "an error is not kept");
    // Outside, it is caught as well: the load's task passes it on.
    let caching = Caching::new();
    let app = routes().layer(caching.layer.clone()).layer(CatchPanicLayer::new());
    let response = caching.get(&app, "/", &[("x-panic", "1")]).await;
    assert_eq!((response.status, response.header("x-cache")), (StatusCode::INTERNAL_SERVER_ERROR, None));
}

/// The example of `CacheLayer::enabled`: with the layer and without, the body is axum's own.
#[tokio::test]
async fn the_layer_may_be_left_out() {
    for on in [true, false] {
        let caching = Caching::new();
        let layer = on.then(|| {
            ServiceBuilder::new()
                .map_response(|response: http::Response<ResponseBody<axum::body::Body>>| {
                    response.map(axum::body::Body::new)
                })
                .layer(caching.layer.clone())
        });
        let app = counting().layer(option_layer(layer));
        let first = caching.get(&app, "/", &[]).await;
        let second = caching.get(&app, "/", &[]).await;
        assert_eq!((first.text() == second.text(), second.header("x-cache")), (on, on.then_some("HIT")));
    }
}

/// By as many labels as there are routes, however many paths clients ask for.
#[tokio::test]
async fn look_ups_are_counted_by_route() {
    #[derive(Clone, Default)]
    struct Routes(Arc<Mutex<Counts>>);
    type Counts = HashMap<(Option<String>, LookupResult), usize>;

    impl Observer for Routes {
        fn observe(&self, event: Event) {
            assert!(!matches!(event, Event::Lookup(_)), "it is told of look-ups with their routes");
        }

        fn observe_lookup(&self, lookup: LookupEvent, route: Option<&str>) {
            *self.0.lock().unwrap().entry((route.map(str::to_owned), lookup.result)).or_default() += 1;
        }
    }

    let routes = Routes::default();
    // One of two observers, such as an exporter of metrics beside a recorder of decisions.
    let cache = Cache::builder(MemoryStore::new(1 << 20)).observer((|_: Event| {}, routes.clone())).build();
    let caching = Caching { layer: CacheLayer::new(cache.clone()).ttl(MINUTE), cache };
    let products = Router::new().route("/products/{id}", get(async || "a product"));
    let app = Router::new().nest("/shop", products).fallback(async || "nothing").layer(caching.layer.clone());
    for id in 0..10 {
        for _ in 0..2 {
            caching.get(&app, &format!("/shop/products/{id}"), &[]).await;
        }
        caching.get(&app, &format!("/other/{id}"), &[]).await;
    }
    let by_route = routes.0.lock().unwrap().clone();
    let product = || Some("/shop/products/{id}".to_owned());
    let expected =
        [((None, LookupResult::Miss), 10), ((product(), LookupResult::Hit), 10), ((product(), LookupResult::Miss), 10)];
    assert_eq!(by_route, HashMap::from(expected));
    // An observer that needs no routes receives look-ups all the same.
    let told = Arc::new(AtomicUsize::new(0));
    let count = told.clone();
    let observer = move |event: Event| {
        if matches!(event, Event::Lookup(_)) {
            count.fetch_add(1, Ordering::SeqCst);
        }
    };
    let cache = Cache::builder(MemoryStore::new(1 << 20)).observer(observer).build();
    let caching = Caching { layer: CacheLayer::new(cache.clone()).ttl(MINUTE), cache };
    let app = Router::new().route("/a", get(async || "a")).layer(caching.layer.clone());
    caching.get(&app, "/a", &[]).await;
    assert_eq!(told.load(Ordering::SeqCst), 1);
}

/// A layer inside sees paths without their prefix, and keeps them apart all the same.
#[tokio::test]
async fn nested_routers_are_told_apart() {
    let caching = Caching::set(|layer| layer.rule(Rule::path("/new/a").ttl(Duration::from_secs(7))).unwrap());
    let nested = || counting().layer(caching.layer.clone());
    let app = Router::new().nest("/old", nested()).nest("/new", Router::new().nest("/er", nested()).merge(nested()));
    for uri in ["/old/a", "/new/a", "/new/er/a", "/old", "/new/er/a?b"] {
        let miss = caching.get(&app, uri, &[]).await;
        let hit = caching.get(&app, uri, &[]).await;
        assert_eq!((miss.x_cache(), hit.x_cache(), hit.text()), ("MISS", "HIT", miss.text()), "{uri}");
        assert_eq!(hit.cache_status().ttl.unwrap() <= 7, uri == "/new/a", "{uri}");
    }
    let key = caching.layer.key(&"http://shop.example/old/a".parse().unwrap()).unwrap();
    caching.cache.invalidate(&key).await.unwrap();
    assert_eq!(caching.get(&app, "/old/a", &[]).await.x_cache(), "MISS");
    assert_eq!(caching.get(&app, "/new/a", &[]).await.x_cache(), "HIT");
    caching.ask(&app, request(Method::PUT, "/new/a", &[])).await;
    assert_eq!(caching.get(&app, "/new/a", &[]).await.x_cache(), "MISS");
    assert_eq!(caching.get(&app, "/old/a", &[]).await.x_cache(), "HIT");
}

/// A path that was changed by anything but nesting may distinguish two clients.
#[tokio::test]
async fn paths_that_were_rewritten_are_taken_as_they_are() {
    let caching = Caching::new();
    let rewrite =
        axum::middleware::from_fn(async |mut request: axum::extract::Request, next: axum::middleware::Next| {
            let tenant = request.headers()["x-tenant"].to_str().unwrap();
            *request.uri_mut() = format!("/{tenant}{}", request.uri().path()).parse().unwrap();
            next.run(request).await
        });
    let handler = |uri: http::Uri| async move { uri.path().to_owned() };
    let app = Router::new().fallback(handler).layer(caching.layer.clone()).layer(rewrite);
    for tenant in ["one", "two", "one"] {
        let response = caching.get(&app, "/page", &[("x-tenant", tenant)]).await;
        assert_eq!(response.text(), format!("/{tenant}/page"));
    }
}

/// Nor is what is left of a path after a rewrite taken for what is left of it after nesting.
#[tokio::test]
async fn a_path_that_was_rewritten_to_a_shorter_one_is_not_that_of_a_nested_router() {
    for (path, to) in [("/account", "/"), ("/premium/a", "/a")] {
        for nested in [false, true] {
            let caching = Caching::new();
            let rewrite = axum::middleware::from_fn(
                move |mut request: axum::extract::Request, next: axum::middleware::Next| async move {
                    if !request.headers().contains_key("x-member") {
                        *request.uri_mut() = http::Uri::from_static(to);
                    }
                    next.run(request).await
                },
            );
            let pages = Router::new().fallback(|uri: http::Uri| async move { uri.path().to_owned() });
            let (app, uri) = match nested {
                true => {
                    let pages = pages.layer(caching.layer.clone()).layer(rewrite);
                    (Router::new().nest("/shop", pages), format!("/shop{path}"))
                }
                false => {
                    let pages = pages.layer(caching.layer.clone());
                    (Router::new().fallback_service(pages).layer(rewrite), path.to_owned())
                }
            };
            for _ in 0..2 {
                assert_eq!(caching.get(&app, &uri, &[]).await.text(), to);
                assert_eq!(caching.get(&app, &uri, &[("x-member", "1")]).await.text(), path);
            }
        }
    }
}
