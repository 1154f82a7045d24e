//! Tags that a response names in its fields, soft invalidation, and patterns, as an application and its clients see them.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use cache_layer::{CacheLayer, Clock, Tags};
use http::{HeaderName, HeaderValue, Method};
use tests::{App, Backend, Gate, Origin, echo, over_each_store, wait_until};

const NAMED: &[(&str, &str)] =
    &[("cache-control", "max-age=60"), ("cache-tag", "red, round things"), ("surrogate-key", "list list/1")];
const STALE_FOR_A_WHILE: &[(&str, &str)] = &[
    ("cache-control", "max-age=600, stale-while-revalidate=60, stale-if-error=60"),
    ("cache-tag", "t"),
    ("etag", "\"v\""),
];

async fn app(backend: &Backend, origin: &Origin, set: impl FnOnce(CacheLayer) -> CacheLayer) -> App {
    App::new(backend.cache().await.build(), origin, set)
}

async fn fields_name_tags_and_no_client_sees_them(backend: &Backend) {
    let origin = Origin::echo(NAMED);
    let app = app(backend, &origin, |layer| layer).await;
    for tag in ["red", "round things", "list", "list/1"] {
        let calls = origin.calls();
        for x_cache in ["MISS", "HIT"] {
            let response = app.get("/a", &[]).await;
            assert_eq!(response.header("x-cache"), Some(x_cache), "{tag}");
            assert_eq!((response.header("cache-tag"), response.header("surrogate-key")), (None, None), "{x_cache}");
        }
        app.cache.invalidate_tag("round").await.unwrap();
        assert_eq!(app.get("/a", &[]).await.header("x-cache"), Some("HIT"));
        app.cache.invalidate_tag(tag).await.unwrap();
        assert_eq!(origin.calls(), calls + 1);
    }
    for (method, fields) in [(Method::HEAD, &[][..]), (Method::POST, &[]), (Method::GET, &[("range", "bytes=0-0")])] {
        let response = app.send(method.clone(), "/b", fields).await;
        assert_eq!((response.header("cache-tag"), response.header("surrogate-key")), (None, None), "{method}");
    }
}

async fn the_fields_are_the_users_choice(backend: &Backend) {
    let origin = Origin::echo(NAMED);
    let passing = app(backend, &origin, |layer| layer.pass_tag_fields(true)).await;
    for _ in 0..2 {
        let response = passing.get("/a", &[]).await;
        assert_eq!(response.header("cache-tag"), Some("red, round things"));
        assert_eq!(response.header("surrogate-key"), Some("list list/1"));
    }
    // A response that another layer stored with its tag fields is sent without them all the same.
    let strict = app(backend, &origin, |layer| layer).await;
    let response = strict.get("/a", &[]).await;
    assert_eq!((response.header("x-cache"), response.header("cache-tag")), (Some("HIT"), None));

    let deaf = app(backend, &origin, |layer| layer.namespace("deaf").tag_fields([])).await;
    deaf.get("/a", &[]).await;
    deaf.cache.invalidate_tag("red").await.unwrap();
    let response = deaf.get("/a", &[]).await;
    assert_eq!((response.header("x-cache"), response.header("cache-tag")), (Some("HIT"), Some("red, round things")));

    let own = Origin::echo(&[("cache-control", "max-age=60"), ("x-tags", "a,b c")]);
    let own = app(backend, &own, |layer| layer.namespace("own").tag_fields([HeaderName::from_static("x-tags")])).await;
    own.get("/a", &[]).await;
    own.cache.invalidate_tag("c").await.unwrap();
    let response = own.get("/a", &[]).await;
    assert_eq!((response.header("x-cache"), response.header("x-tags")), (Some("MISS"), None));
}

async fn a_response_with_more_tags_than_an_invalidation_could_reach_is_not_stored(backend: &Backend) {
    let origin = Origin::new(|call, request| async move {
        let mut response = echo(call, &request, &[("cache-control", "max-age=60")]);
        let value = match request.uri().path() {
            "/many" => (0..1_025).map(|n| n.to_string()).collect::<Vec<_>>().join(","),
            "/long" => "x".repeat(257),
            _ => (0..1_024).map(|n| n.to_string()).collect::<Vec<_>>().join(","),
        };
        response.headers_mut().insert("cache-tag", HeaderValue::from_str(&value).unwrap());
        Ok(response)
    });
    let app = app(backend, &origin, |layer| layer).await;
    for (path, detail) in [("/many", Some("too-many-tags")), ("/long", Some("too-many-tags")), ("/fit", None)] {
        let response = app.get(path, &[]).await;
        assert_eq!((response.cache_status().detail.as_deref(), response.header("cache-tag")), (detail, None), "{path}");
    }
    assert_eq!(app.get("/fit", &[]).await.header("x-cache"), Some("HIT"));
    app.cache.invalidate_tag("1023").await.unwrap();
    assert_eq!(app.get("/fit", &[]).await.header("x-cache"), Some("MISS"));

    // The cache's own tags take none of that room.
    let tenant = HeaderName::from_static("x-tenant");
    let keyed = self::app(backend, &origin, |layer| layer.namespace("keyed").key_headers([tenant])).await;
    assert_eq!(keyed.get("/many", &[]).await.cache_status().detail.as_deref(), Some("too-many-tags"));
    keyed.get("/fit", &[]).await;
    assert_eq!(keyed.get("/fit", &[]).await.header("x-cache"), Some("HIT"));
    // Neither those of the application nor that one are lost.
    keyed.cache.invalidate_tag("0").await.unwrap();
    assert_eq!(keyed.get("/fit", &[]).await.header("x-cache"), Some("MISS"));
    keyed.send(Method::POST, "/fit", &[("x-tenant", "other")]).await;
    assert_eq!(keyed.get("/fit", &[]).await.header("x-cache"), Some("MISS"));
}

async fn a_304_that_names_tags_replaces_those_named_before(backend: &Backend) {
    let origin = Origin::new(|call, request| async move {
        let mut response = echo(call, &request, &[("cache-control", "max-age=600"), ("etag", "\"v\"")]);
        if request.headers().contains_key("if-none-match") {
            *response.status_mut() = http::StatusCode::NOT_MODIFIED;
        }
        match call {
            1 => drop(response.headers_mut().insert("cache-tag", HeaderValue::from_static("one"))),
            2 => drop(response.headers_mut().insert("cache-tag", HeaderValue::from_static("two"))),
            _ => {}
        }
        Ok(response)
    });
    let app = app(backend, &origin, |layer| layer).await;
    app.get("/a", &[]).await;
    app.cache.soft_invalidate_tag("one").await.unwrap();
    assert_eq!(app.get("/a", &[]).await.header("x-cache"), Some("REVALIDATED"));
    app.cache.invalidate_tag("one").await.unwrap();
    assert_eq!(app.get("/a", &[]).await.header("x-cache"), Some("HIT"), "it is `two` now");
    app.cache.soft_invalidate_tag("two").await.unwrap();
    assert_eq!(app.get("/a", &[]).await.header("x-cache"), Some("REVALIDATED"));
    app.cache.invalidate_tag("two").await.unwrap();
    assert_eq!(app.get("/a", &[]).await.header("x-cache"), Some("MISS"), "a 304 that names none leaves it so");
}

async fn what_is_softened_is_served_stale_while_one_request_refreshes_it(backend: &Backend) {
    let gate = Gate::closed();
    let held = gate.clone();
    let origin = Origin::new(move |call, request| {
        let held = held.clone();
        async move {
            if call % 2 == 0 {
                held.pass().await;
                let mut response = echo(call, &request, STALE_FOR_A_WHILE);
                assert_eq!(request.headers()["if-none-match"], "\"v\"", "its validator was kept");
                *response.status_mut() = http::StatusCode::NOT_MODIFIED;
                return Ok(response);
            }
            Ok(echo(call, &request, STALE_FOR_A_WHILE))
        }
    });
    let app = app(backend, &origin, |layer| layer).await;
    let ask = async || {
        let request = tests::request(Method::GET, "/a", &[]);
        tests::ask(&app.service(), request).await.unwrap()
    };
    ask().await;
    app.settled().await;
    let key = CacheLayer::new(app.cache.clone()).key(&http::Uri::from_static("http://shop.example/a")).unwrap();
    app.cache.soft_invalidate(&key).await.unwrap();
    for _ in 0..5 {
        let response = ask().await;
        assert_eq!((response.header("x-cache"), response.call()), (Some("STALE"), 1));
    }
    wait_until("the refresh to begin", async || origin.calls() == 2).await;
    gate.open();
    app.settled().await;
    let response = ask().await;
    assert_eq!((response.header("x-cache"), origin.calls()), (Some("HIT"), 2));
}

async fn what_is_softened_stands_in_for_an_error(backend: &Backend) {
    const WITHOUT_REFRESH: &[(&str, &str)] = &[("cache-control", "max-age=600, stale-if-error=60"), ("cache-tag", "t")];
    let origin = Origin::new(|call, request| async move {
        let mut response = echo(call, &request, WITHOUT_REFRESH);
        if call > 1 {
            *response.status_mut() = http::StatusCode::SERVICE_UNAVAILABLE;
        }
        Ok(response)
    });
    let app = app(backend, &origin, |layer| layer).await;
    app.get("/a", &[]).await;
    app.cache.soft_invalidate_all().await.unwrap();
    let response = app.get("/a", &[]).await;
    assert_eq!((response.status.as_u16(), response.header("x-cache"), response.call()), (200, Some("STALE"), 1));
    app.cache.invalidate_all().await.unwrap();
    assert_eq!(app.get("/a", &[]).await.status, 503, "hard leaves nothing to stand in");
}

async fn what_must_not_be_stale_is_revalidated_before_it_is_used(backend: &Backend) {
    for control in ["max-age=600, must-revalidate, stale-while-revalidate=60", "s-maxage=600", "max-age=600"] {
        let origin = Origin::new(move |call, request| async move {
            let fields = [("cache-control", control), ("etag", "\"v\""), ("surrogate-key", "t")];
            let mut response = echo(call, &request, &fields);
            if request.headers().contains_key("if-none-match") {
                *response.status_mut() = http::StatusCode::NOT_MODIFIED;
            }
            Ok(response)
        });
        let app = app(backend, &origin, |layer| layer.namespace(control)).await;
        app.get("/a", &[]).await;
        app.cache.soft_invalidate_tag("t").await.unwrap();
        assert_eq!(app.get("/a", &[]).await.header("x-cache"), Some("REVALIDATED"), "{control}");
        assert_eq!(app.get("/a", &[]).await.header("x-cache"), Some("HIT"), "{control}");
    }
}

async fn the_time_that_a_softened_response_may_be_stale_counts_from_then(backend: &Backend) {
    let clock = Clock::manual();
    let origin = Origin::echo(&[("cache-control", "max-age=600, stale-while-revalidate=60"), ("cache-tag", "t")]);
    let app = App::new(backend.cache().await.clock(clock.clone()).build(), &origin, |layer| layer);
    app.get("/a", &[]).await;
    app.cache.soft_invalidate_tag("t").await.unwrap();
    clock.advance(Duration::from_secs(120));
    assert_eq!(app.get("/a", &[]).await.header("x-cache"), Some("MISS"), "within its own freshness, past the window");
}

async fn every_variant_of_a_softened_key_is_stale_until_it_is_loaded_again(backend: &Backend) {
    let origin = Origin::echo(&[
        ("cache-control", "max-age=600, stale-while-revalidate=60"),
        ("vary", "accept-language"),
        ("cache-tag", "t"),
    ]);
    let app = app(backend, &origin, |layer| layer).await;
    let get = async |language: &'static str| app.get("/a", &[("accept-language", language)]).await;
    let key = CacheLayer::new(app.cache.clone()).key(&http::Uri::from_static("http://shop.example/a")).unwrap();
    for language in ["de", "en"] {
        get(language).await;
        assert_eq!(get(language).await.header("x-cache"), Some("HIT"));
    }
    app.cache.soft_invalidate(&key).await.unwrap();
    assert_eq!(get("de").await.header("x-cache"), Some("STALE"));
    assert_eq!(get("de").await.header("x-cache"), Some("HIT"), "it has been refreshed");
    let english = get("en").await;
    assert_ne!(english.header("x-cache"), Some("HIT"), "another variant's refresh makes this one no fresher");
}

async fn a_ramp_of_a_key_is_not_forgotten_when_another_variant_is_loaded(backend: &Backend) {
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    let clock = Clock::manual();
    let origin = Origin::echo(&[("cache-control", "max-age=2592000"), ("vary", "accept-language")]);
    let app = App::new(backend.cache().await.clock(clock.clone()).build(), &origin, |layer| layer);
    let get = async |language: &'static str| app.get("/a", &[("accept-language", language)]).await;
    let key = CacheLayer::new(app.cache.clone()).key(&http::Uri::from_static("http://shop.example/a")).unwrap();
    get("de").await;
    assert_eq!(get("de").await.header("x-cache"), Some("HIT"));
    // No turn comes before the clock is advanced.
    app.cache.soft_invalidate(&key).over(7 * DAY).await.unwrap();
    get("en").await;
    clock.advance(8 * DAY);
    assert_ne!(get("de").await.header("x-cache"), Some("HIT"), "its turn was within the window");
}

async fn a_pattern_deletes_responses_by_their_address(backend: &Backend) {
    let origin = Origin::new(|call, request| async move {
        let mut response = echo(call, &request, &[("cache-control", "max-age=600")]);
        response.extensions_mut().insert(Tags::new(["t"]));
        Ok(response)
    });
    let app = app(backend, &origin, |layer| layer).await;
    for path in ["/products?page=1", "/products?page=2", "/products/42", "/categories"] {
        app.get(path, &[]).await;
    }
    assert_eq!(app.cache.delete_pattern("http://shop.example/products\\?*").counted().await.unwrap(), 2);
    assert_eq!(app.cache.delete_pattern("*/products/4[0-9]").counted().await.unwrap(), 1);
    assert_eq!(app.get("/products?page=1", &[]).await.header("x-cache"), Some("MISS"));
    assert_eq!(app.get("/categories", &[]).await.header("x-cache"), Some("HIT"));
}

/// The first load of a tag, during which a tag is invalidated.
#[tokio::test(flavor = "multi_thread")]
async fn in_memory_only_an_invalidation_of_its_own_tag_overtakes_a_load() {
    let backend = Backend::memory();
    for (own, invalidated, is_stored) in [("a", "b", true), ("c", "c", false), ("d", "e", true)] {
        let (gate, began, cache) = (Gate::closed(), Arc::new(AtomicBool::new(false)), backend.cache().await.build());
        let load = {
            let (gate, began) = (gate.clone(), began.clone());
            async move || {
                began.store(true, Ordering::SeqCst);
                gate.pass().await;
                Ok::<_, Infallible>(1)
            }
        };
        let loading = tokio::spawn(cache.get_or_load(own, load).tags([own]).into_future());
        wait_until("it loads", async || began.load(Ordering::SeqCst)).await;
        cache.invalidate_tag(invalidated).await.unwrap();
        gate.open();
        assert_eq!(loading.await.unwrap(), Ok(1));
        assert!(cache.drain(Duration::from_secs(30)).await);
        assert_eq!(cache.contains(own).await, is_stored, "{own}, and {invalidated} was invalidated");
    }
}

over_each_store!(
    fields_name_tags_and_no_client_sees_them,
    the_fields_are_the_users_choice,
    a_response_with_more_tags_than_an_invalidation_could_reach_is_not_stored,
    a_304_that_names_tags_replaces_those_named_before,
    what_is_softened_is_served_stale_while_one_request_refreshes_it,
    what_is_softened_stands_in_for_an_error,
    what_must_not_be_stale_is_revalidated_before_it_is_used,
    the_time_that_a_softened_response_may_be_stale_counts_from_then,
    every_variant_of_a_softened_key_is_stale_until_it_is_loaded_again,
    a_ramp_of_a_key_is_not_forgotten_when_another_variant_is_loaded,
    a_pattern_deletes_responses_by_their_address,
);
