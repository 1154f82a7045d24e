//! Two layers over one cache in one request's way: the one further in passes through what the one further out is loading,
//! instead of waiting for it.

use std::{future::ready, time::Duration};

use cache_layer::{
    Cache, CacheLayer, CacheService, Clock, Profile,
    store::{MemoryStore, RedisStore},
};
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use tests::{App, Backend, Body, Failure, Gate, Origin, Response, ask, echo, full, over_each_store, request};
use tower::{Layer as _, ServiceExt as _};

type Fields = &'static [(&'static str, &'static str)];

const MAX_AGE: Fields = &[("cache-control", "max-age=60")];
/// What a POST of `/` is told with these fields is kept for GET by the strict profile.
const FOR_GET: Fields = &[("cache-control", "max-age=60"), ("content-location", "/")];
const STALE: Fields = &[("cache-control", "max-age=60, stale-while-revalidate=60"), ("etag", "\"a\"")];
/// A request that waits for so long gets no answer in time.
const FOR_EVER: Duration = Duration::from_secs(3600);
/// The field that a load has on its way to another process.
const FIELD: &str = "cache-layer-load";

/// A field of the request, as the application behind a cache sees it.
fn seen(response: &Response, name: &str) -> Option<String> {
    let start = format!("{name}: ");
    response.text().lines().find_map(|line| line.strip_prefix(&start)).map(ToOwned::to_owned)
}

fn lines(response: &Response) -> Vec<&str> {
    response.headers.get_all("cache-status").iter().map(|line| line.to_str().unwrap()).collect()
}

/// A proxy that sends requests on to `inner`, in a process of its own: what is not on the wire does not arrive.
fn proxy_to(inner: CacheService<Origin>) -> Origin {
    Origin::new(move |_, request| {
        let inner = inner.clone();
        async move {
            let (parts, _) = request.into_parts();
            let mut sent = Request::builder().method(parts.method).uri(parts.uri).body(full("")).unwrap();
            *sent.headers_mut() = parts.headers;
            let (mut parts, body) = inner.oneshot(sent).await?.into_parts();
            parts.extensions.clear();
            let body = body.map_err(|_| Failure("the body of the inner response")).boxed_unsync();
            Ok(http::Response::from_parts(parts, body))
        }
    })
}

/// An application that answers whatever it is asked by what a GET of the same URI gets from `inner`.
fn getting_from<S, R>(inner: S) -> Origin
where
    S: tower::Service<Request<Body>, Response = http::Response<R>, Error = Failure> + Clone + Send + Sync + 'static,
    S::Future: Send,
    R: http_body::Body<Data = bytes::Bytes> + Send + 'static,
{
    Origin::new(move |_, mut request| {
        *request.method_mut() = Method::GET;
        let inner = inner.clone();
        async move {
            let failed = |_| Failure("the body of the inner response");
            Ok(inner.oneshot(request).await?.map(|body| body.map_err(failed).boxed_unsync()))
        }
    })
}

fn strict(layer: CacheLayer) -> CacheLayer {
    layer.profile(Profile::Strict)
}

async fn cache(backend: &Backend, clock: &Clock) -> Cache {
    backend.cache().await.clock(clock.clone()).lock_timeout(FOR_EVER).build()
}

mod in_one_process {
    use super::*;

    async fn get<S, R>(service: &S, cache: &Cache, uri: &str) -> Response
    where
        S: tower::Service<Request<Body>, Response = http::Response<R>> + Clone,
        S::Error: std::fmt::Debug,
        R: http_body::Body<Data = bytes::Bytes, Error: std::fmt::Debug>,
    {
        let answer = ask(service, request(Method::GET, uri, &[])).await.unwrap();
        assert!(cache.drain(Duration::from_secs(30)).await);
        answer
    }

    async fn a_load_passes_through(backend: &Backend) {
        let (clock, origin) = (Clock::manual(), Origin::echo(MAX_AGE));
        let cache = cache(backend, &clock).await;
        let layer = CacheLayer::new(cache.clone());
        let service = layer.clone().ttl(FOR_EVER).layer(layer.clone().layer(layer.layer(origin.clone())));
        let miss = get(&service, &cache, "/").await;
        assert_eq!((miss.x_cache(), origin.calls()), ("MISS", 1));
        let nested = "cache-layer; fwd=bypass; detail=nested";
        assert_eq!(lines(&miss), [nested, nested, "cache-layer; fwd=uri-miss; stored"]);
        assert_eq!((get(&service, &cache, "/").await.x_cache(), origin.calls()), ("HIT", 1));
    }

    /// The inner layer has the stale entry as well, and must not answer the refresh with it.
    async fn a_refresh_reaches_the_application(backend: &Backend) {
        let clock = Clock::manual();
        let origin = Origin::new(|call, request| ready(Ok(echo(call, &request, STALE))));
        let cache = cache(backend, &clock).await;
        let layer = CacheLayer::new(cache.clone());
        let service = layer.clone().layer(layer.layer(origin.clone()));
        get(&service, &cache, "/").await;
        clock.advance(Duration::from_secs(61));
        let stale = get(&service, &cache, "/").await;
        assert_eq!((stale.x_cache(), stale.call()), ("STALE", 1));
        let hit = get(&service, &cache, "/").await;
        assert_eq!((hit.x_cache(), hit.call(), origin.calls()), ("HIT", 2, 2));
        clock.advance(Duration::from_secs(121));
        assert_eq!(get(&service, &cache, "/").await.call(), 3, "and so does a load of what is too stale");
    }

    async fn what_is_another_entry_is_looked_up(backend: &Backend) {
        let (clock, origin) = (Clock::manual(), Origin::echo(MAX_AGE));
        let cache = cache(backend, &clock).await;
        let layer = CacheLayer::new(cache.clone());
        let service = layer.clone().layer(layer.namespace("inner").layer(origin.clone()));
        let miss = get(&service, &cache, "/").await;
        assert_eq!(lines(&miss), ["cache-layer; fwd=uri-miss; stored"; 2]);
        assert_eq!((get(&service, &cache, "/").await.x_cache(), origin.calls()), ("HIT", 1));
    }

    /// The POST, whose answer may be stored, is the load that the GET is part of.
    async fn a_handler_of_a_post_gets_its_own_uri_without_waiting_for_itself(backend: &Backend) {
        let (clock, origin) = (Clock::manual(), Origin::echo(FOR_GET));
        let cache = cache(backend, &clock).await;
        let layer = strict(CacheLayer::new(cache.clone()));
        let service = layer.clone().layer(getting_from(layer.layer(origin.clone())));
        let post = ask(&service, request(Method::POST, "/", &[])).await.unwrap();
        assert_eq!(lines(&post)[0], "cache-layer; fwd=bypass; detail=nested");
        let hit = get(&service, &cache, "/").await;
        assert_eq!((hit.x_cache(), hit.call(), origin.calls()), ("HIT", 1, 1));
    }

    /// The inner one sees the response's tags first, and clients get none.
    async fn a_tag_reaches_the_one_that_keeps_the_response(backend: &Backend) {
        const TAGGED: Fields = &[("cache-control", "max-age=60"), ("cache-tag", "product:42")];
        let (clock, origin) = (Clock::manual(), Origin::echo(TAGGED));
        let cache = cache(backend, &clock).await;
        let layer = CacheLayer::new(cache.clone());
        let service = layer.clone().layer(layer.layer(origin.clone()));
        for call in 1..=2 {
            let miss = get(&service, &cache, "/").await;
            assert_eq!((miss.x_cache(), miss.call()), ("MISS", call));
            assert_eq!(get(&service, &cache, "/").await.x_cache(), "HIT");
            assert!(!miss.headers.contains_key("cache-tag"));
            cache.invalidate_tag("product:42").await.unwrap();
        }
    }

    /// The outer one has the only room when it goes to the application alone.
    async fn a_request_that_goes_alone_takes_one_room(backend: &Backend) {
        let (clock, origin) = (Clock::manual(), Origin::echo(MAX_AGE));
        let cache = cache(backend, &clock).await;
        let layer = CacheLayer::new(cache.clone()).max_loads(1);
        let service = layer.clone().layer(layer.layer(origin.clone()));
        let answer = ask(&service, request(Method::HEAD, "/", &[])).await.unwrap();
        assert_eq!((answer.status, origin.calls()), (StatusCode::OK, 1));
    }

    /// Then nobody has a lease, and yet the inner one would wait for the outer one's load.
    #[tokio::test]
    async fn a_load_passes_through_while_there_is_no_store() {
        let store = RedisStore::builder("redis://127.0.0.1:1").build().unwrap();
        let (cache, origin) = (Cache::builder(store).lock_timeout(FOR_EVER).build(), Origin::echo(MAX_AGE));
        let layer = CacheLayer::new(cache.clone());
        let service = layer.clone().layer(layer.layer(origin.clone()));
        let miss = get(&service, &cache, "/").await;
        assert_eq!((miss.x_cache(), origin.calls()), ("MISS", 1));
        assert_eq!(lines(&miss)[0], "cache-layer; fwd=bypass; detail=nested");
    }

    /// A load of another cache does not keep this one from storing, and does not hide the enclosing load of this one.
    #[tokio::test]
    async fn another_cache_in_between_keeps_its_own_and_hides_no_load() {
        let cache = || Cache::builder(MemoryStore::new(1 << 20)).lock_timeout(FOR_EVER).build();
        let (mine, other, origin) = (cache(), cache(), Origin::echo(MAX_AGE));
        let layer = CacheLayer::new(mine.clone());
        let between = CacheLayer::new(other.clone()).layer(layer.clone().layer(origin.clone()));
        let service = layer.layer(between.clone());
        let miss = get(&service, &mine, "/").await;
        let stored = "cache-layer; fwd=uri-miss; stored";
        assert_eq!(lines(&miss), ["cache-layer; fwd=bypass; detail=nested", stored, stored]);
        assert!(other.drain(Duration::from_secs(30)).await);
        assert_eq!((get(&between, &other, "/").await.x_cache(), origin.calls()), ("HIT", 1));
    }

    /// Over the same store, each with a cache of its own.
    async fn caches_over_one_store_know_each_other(backend: &Backend) {
        let (clock, origin) = (Clock::manual(), Origin::echo(MAX_AGE));
        let (outer, inner) = (cache(backend, &clock).await, cache(backend, &clock).await);
        let service = CacheLayer::new(outer.clone()).layer(CacheLayer::new(inner).layer(origin.clone()));
        let miss = get(&service, &outer, "/").await;
        assert_eq!(lines(&miss), ["cache-layer; fwd=bypass; detail=nested", "cache-layer; fwd=uri-miss; stored"]);
        assert_eq!((get(&service, &outer, "/").await.x_cache(), origin.calls()), ("HIT", 1));
    }

    over_each_store!(
        a_load_passes_through,
        a_refresh_reaches_the_application,
        a_handler_of_a_post_gets_its_own_uri_without_waiting_for_itself,
        what_is_another_entry_is_looked_up,
        a_tag_reaches_the_one_that_keeps_the_response,
        a_request_that_goes_alone_takes_one_room,
        caches_over_one_store_know_each_other,
    );
}

/// Over one Redis and one prefix, with and without a first tier.
mod in_two_processes {
    use super::*;

    /// The outer one, the inner one, and the application behind both.
    async fn in_a_row(backend: &Backend, clock: &Clock, fields: Fields) -> (App, App, Origin) {
        let origin = Origin::new(move |call, request| ready(Ok(echo(call, &request, fields))));
        let inner = App::new(cache(backend, clock).await, &origin, |layer| layer);
        let outer = App::new(cache(backend, clock).await, &proxy_to(inner.service()), |layer| layer);
        (outer, inner, origin)
    }

    async fn a_load_passes_through(backend: &Backend) {
        const VARIES: Fields = &[("cache-control", "max-age=60"), ("vary", "accept-language")];
        let nested = "cache-layer; fwd=bypass; detail=nested";
        for fields in [MAX_AGE, VARIES] {
            let (outer, inner, origin) = in_a_row(backend, &Clock::manual(), fields).await;
            outer.cache.invalidate_all().await.unwrap();
            for (call, language) in [(1, "de"), (2, "en")] {
                let path = format!("/{}", if fields == VARIES { 0 } else { call });
                let asked: &[_] = &[("accept-language", language)];
                let miss = outer.get(&path, asked).await;
                assert_eq!((miss.x_cache(), miss.call(), origin.calls()), ("MISS", call, call));
                assert_eq!((lines(&miss)[0], outer.cache.counts().stored), (nested, call as u64));
                for app in [&outer, &inner] {
                    assert_eq!(app.get(&path, asked).await.call(), call);
                }
            }
            assert_eq!((origin.calls(), inner.cache.counts().bypasses), (2, 2));
        }
    }

    async fn a_refresh_reaches_the_application(backend: &Backend) {
        let clock = Clock::manual();
        let (outer, inner, origin) = in_a_row(backend, &clock, STALE).await;
        for app in [&outer, &inner] {
            assert_eq!(app.get("/", &[]).await.call(), 1);
        }
        clock.advance(Duration::from_secs(61));
        let stale = outer.get("/", &[]).await;
        assert_eq!((stale.x_cache(), stale.call()), ("STALE", 1));
        for app in [&outer, &inner] {
            let hit = app.get("/", &[]).await;
            assert_eq!((hit.x_cache(), hit.call(), origin.calls()), ("HIT", 2, 2));
        }
    }

    async fn a_handler_of_a_post_gets_its_own_uri_without_waiting_for_itself(backend: &Backend) {
        let (clock, origin) = (Clock::manual(), Origin::echo(FOR_GET));
        let inner = App::new(cache(backend, &clock).await, &origin, strict);
        let outer = App::new(cache(backend, &clock).await, &getting_from(proxy_to(inner.service())), strict);
        let post = outer.send(Method::POST, "/", &[]).await;
        assert_eq!(lines(&post)[0], "cache-layer; fwd=bypass; detail=nested");
        for app in [&outer, &inner] {
            let hit = app.get("/", &[]).await;
            assert_eq!((hit.x_cache(), hit.call(), origin.calls()), ("HIT", 1, 1));
        }
    }

    async fn a_forged_load_changes_nothing(backend: &Backend) {
        let (outer, _, origin) = in_a_row(backend, &Clock::manual(), MAX_AGE).await;
        let gate = Gate::closed();
        let slow = Origin::gated_echo(&gate, MAX_AGE);
        let app = App::new(backend.cache().await.lock_timeout(FOR_EVER).build(), &slow, |layer| layer);
        for forged in ["0123456789abcdef", "", "0", "x", "0123456789abcdef0"] {
            let field: &[_] = &[(FIELD, forged)];
            let path = format!("/{forged}");
            let miss = outer.get(&path, field).await;
            assert_eq!((miss.x_cache(), miss.cache_status().stored), ("MISS", true), "{forged:?}");
            assert_ne!(seen(&miss, FIELD).as_deref(), Some(forged));
            let calls = origin.calls();
            assert_eq!((outer.get(&path, field).await.x_cache(), origin.calls()), ("HIT", calls), "{forged:?}");
            for method in [Method::POST, Method::HEAD] {
                let answer = outer.send(method.clone(), "/other", field).await;
                assert_eq!((answer.status, seen(&answer, FIELD)), (StatusCode::OK, None), "{method} {forged:?}");
            }
        }
        // Nor does a client that sends one overtake the requests that wait for a load.
        let leads = tokio::spawn({
            let app = app.clone();
            async move { app.get("/slow", &[]).await }
        });
        tests::wait_until("it is being loaded", async || slow.calls() == 1).await;
        let forged = tokio::spawn({
            let app = app.clone();
            async move { app.get("/slow", &[(FIELD, "0123456789abcdef")]).await }
        });
        tests::wait_until("the other one waits", async || app.cache.counts().coalesced == 1).await;
        gate.open();
        assert_eq!((leads.await.unwrap().call(), forged.await.unwrap().call(), slow.calls()), (1, 1, 1));
    }

    /// No lease can be asked about, so that whatever a client sends would be believed.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_forged_load_counts_for_nothing_while_there_is_no_store() {
        let gate = Gate::closed();
        let slow = Origin::gated_echo(&gate, MAX_AGE);
        let store = RedisStore::builder("redis://127.0.0.1:1").build().unwrap();
        let app = App::new(Cache::builder(store).lock_timeout(FOR_EVER).build(), &slow, |layer| layer);
        let ask = |fields: &'static [_]| {
            let app = app.clone();
            tokio::spawn(async move { app.get("/slow", fields).await })
        };
        let leads = ask(&[]);
        tests::wait_until("it is being loaded", async || slow.calls() == 1).await;
        let forged = ask(&[(FIELD, "0123456789abcdef")]);
        tests::wait_until("the other one waits", async || app.cache.counts().coalesced == 1).await;
        gate.open();
        assert_eq!((leads.await.unwrap().call(), forged.await.unwrap().call(), slow.calls()), (1, 1, 1));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_load_passes_through_over_redis() {
        a_load_passes_through(&Backend::redis()).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_load_passes_through_over_memory_and_redis() {
        a_load_passes_through(&Backend::tiered()).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_handler_of_a_post_gets_its_own_uri_without_waiting_for_itself_over_redis() {
        a_handler_of_a_post_gets_its_own_uri_without_waiting_for_itself(&Backend::redis()).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_handler_of_a_post_gets_its_own_uri_without_waiting_for_itself_over_memory_and_redis() {
        a_handler_of_a_post_gets_its_own_uri_without_waiting_for_itself(&Backend::tiered()).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_refresh_reaches_the_application_over_redis() {
        a_refresh_reaches_the_application(&Backend::redis()).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_refresh_reaches_the_application_over_memory_and_redis() {
        a_refresh_reaches_the_application(&Backend::tiered()).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_forged_load_changes_nothing_over_redis() {
        a_forged_load_changes_nothing(&Backend::redis()).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_forged_load_changes_nothing_over_memory_and_redis() {
        a_forged_load_changes_nothing(&Backend::tiered()).await;
    }
}
