//! QUERY (RFC 10008), answered by content; and every response of a target, whatever its key, voided by a write to that.
//!
//! `q1` to `q20` are cases in which caches and clients elsewhere went wrong.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use cache_layer::{CacheLayer, Clock, Hints, NoVarySearch, Rule};
use http::{HeaderMap, HeaderName, Method, StatusCode};
use tests::{App, Backend, Feed, Gate, Origin, QueryApp, ask, full, heard, obey, over_each_store, request, wait_until};
use tower::{Service as _, ServiceExt as _};

const JSON: (&str, &str) = ("content-type", "application/json");
const FRESH: (&str, &str) = ("x-say-cache-control", "max-age=60");
const A: &str = "{\"a\":1}";

/// The first steps of the vectors.
trait Vectors {
    async fn q1(&self);
    async fn is_hit(&self, uri: &str, content: &str);
    async fn is_miss(&self, uri: &str, content: &str);
}

impl Vectors for QueryApp {
    /// Stores the answer to the first vector.
    async fn q1(&self) {
        assert_eq!(self.query("/s", &[JSON, FRESH], A).await.x_cache(), "MISS");
        self.is_hit("/s", A).await;
    }

    async fn is_hit(&self, uri: &str, content: &str) {
        assert_eq!(self.query(uri, &[JSON, FRESH], content).await.x_cache(), "HIT", "{uri} {content}");
    }

    async fn is_miss(&self, uri: &str, content: &str) {
        assert_eq!(self.query(uri, &[JSON, FRESH], content).await.x_cache(), "MISS", "{uri} {content}");
    }
}

async fn the_same_content_of_the_same_type_is_one(backend: &Backend) {
    let origin = Origin::obedient();
    let app = QueryApp::on(backend, &origin).await;
    app.q1().await;
    let again = app.query("/s", &[JSON], A).await;
    assert!(again.cache_status().hit && again.text().ends_with(A), "q1: {again:?}");
    for (what, fields, content, expected) in [
        ("q2", &[JSON, FRESH][..], "{\"a\": 1}", "MISS"),
        ("q3", &[("content-type", "text/plain"), FRESH], A, "MISS"),
        ("q4", &[("content-type", "Application/JSON"), FRESH], A, "HIT"),
        ("q5", &[JSON, FRESH, ("content-language", "de")], A, "MISS"),
        ("q6", &[JSON, FRESH, ("content-encoding", "gzip")], "as if it were", "MISS"),
        ("another charset", &[("content-type", "application/json;charset=UTF-8"), FRESH], A, "MISS"),
        ("another host", &[JSON, FRESH, ("host", "other.example")], A, "MISS"),
        ("framing", &[JSON, FRESH, ("content-length", "7")], A, "HIT"),
    ] {
        assert_eq!(app.query("/s", fields, content).await.x_cache(), expected, "{what}");
    }
    // The key is made of the whole content: each of these is stored by itself.
    app.is_hit("/s", A).await;
    app.is_hit("/s", "{\"a\": 1}").await;
}

async fn no_other_method_is_answered(backend: &Backend) {
    let origin = Origin::obedient();
    let app = QueryApp::on(backend, &origin).await;
    app.q1().await;
    let get = app.send("GET", "/s", &[FRESH], "").await;
    assert_eq!(get.x_cache(), "MISS", "q7");
    assert_eq!(app.send("HEAD", "/s", &[], "").await.call(), get.call());
    app.is_hit("/s", A).await;
    assert_eq!(app.send("GET", "/t", &[FRESH], "").await.x_cache(), "MISS");
    app.is_miss("/t", A).await;

    app.is_miss("/u", "").await;
    app.is_hit("/u", "").await;
    assert_eq!(app.send("GET", "/u", &[FRESH], "").await.x_cache(), "MISS", "q8");
    for _ in 0..2 {
        let untyped = app.query("/u", &[FRESH], "").await;
        assert_eq!((untyped.x_cache(), untyped.cache_status().detail.as_deref()), ("BYPASS", Some("content-type")));
    }
}

async fn a_write_to_the_target_voids_every_content(backend: &Backend) {
    let origin = Origin::obedient();
    let app = QueryApp::on(backend, &origin).await;
    let other = QueryApp::on(backend, &origin).await;
    for (what, method, fields, expected) in [
        ("q9", "POST", &[][..], "MISS"),
        ("q10", "POST", &[("x-status", "500")], "HIT"),
        ("q11", "QUERY", &[JSON], "HIT"),
        ("q12", "query", &[JSON], "MISS"),
        ("PUT", "PUT", &[], "MISS"),
        ("a redirect", "DELETE", &[("x-status", "303")], "MISS"),
        ("OPTIONS", "OPTIONS", &[], "HIT"),
    ] {
        for content in [A, "2"] {
            app.query("/s", &[JSON, FRESH], content).await;
            app.is_hit("/s", content).await;
        }
        // A write in one process reaches all of them.
        other.send(method, "/s", fields, "3").await;
        heard(&other.cache, &app.cache).await;
        for content in [A, "2"] {
            assert_eq!(app.query("/s", &[JSON, FRESH], content).await.x_cache(), expected, "{what}");
        }
    }
    // A target that another response names is stale as well, and no other one.
    app.is_miss("/t", A).await;
    app.send("POST", "/new", &[("x-say-location", "/t")], "").await;
    app.is_miss("/t", A).await;
    app.send("POST", "/new", &[], "").await;
    app.is_hit("/t", A).await;
}

async fn a_response_of_any_key_is_reached_by_its_target(backend: &Backend) {
    let tenant = HeaderName::from_static("x-tenant");
    let set = |layer: CacheLayer| layer.key_headers([tenant.clone()]).query();
    let other = backend.cache().await.build();
    let layer = CacheLayer::new(other.clone()).key_headers([tenant.clone()]);
    let app = QueryApp::new(backend.cache().await.build(), &Origin::obedient(), set);
    let of = |number| [("x-tenant", number), FRESH, JSON];
    let fill = async || {
        for number in ["1", "2"] {
            for (method, content) in [("GET", ""), ("QUERY", A)] {
                app.send(method, "/s", &of(number), content).await;
                assert_eq!(app.send(method, "/s", &of(number), content).await.x_cache(), "HIT", "{method} {number}");
            }
        }
    };
    let is_gone = async || {
        for number in ["1", "2"] {
            for (method, content) in [("GET", ""), ("QUERY", A)] {
                assert_eq!(app.send(method, "/s", &of(number), content).await.x_cache(), "MISS", "{method} {number}");
            }
        }
    };
    fill().await;
    app.send("POST", "/s", &[("x-tenant", "3")], "").await;
    is_gone().await;
    fill().await;
    assert!(layer.invalidate_uri(&"http://shop.example/s".parse().unwrap()).await.unwrap());
    heard(&other, &app.cache).await;
    is_gone().await;
    assert!(!layer.invalidate_uri(&"/s".parse().unwrap()).await.unwrap());
    app.send("POST", "/other", &[], "").await;
    assert_eq!(app.send("GET", "/s", &of("1"), "").await.x_cache(), "HIT");
}

async fn a_condition_is_about_the_response_to_its_content(backend: &Backend) {
    let origin = Origin::obedient();
    let app = QueryApp::on(backend, &origin).await;
    let tagged = [JSON, FRESH, ("x-say-etag", "\"x\""), ("x-say-which", "1")];
    app.query("/s", &tagged, A).await;
    let other = [JSON, FRESH, ("x-say-etag", "\"x\""), ("x-say-which", "2")];
    app.query("/s", &other, "2").await;
    for (content, which) in [("2", "2"), (A, "1")] {
        let response = app.query("/s", &[JSON, ("if-none-match", "\"x\"")], content).await;
        assert_eq!((response.status.as_u16(), response.header("which")), (304, Some(which)), "q13");
    }
    assert_eq!(app.query("/s", &[JSON, ("if-none-match", "\"y\"")], A).await.status, 200);
    for name in ["if-match", "if-unmodified-since"] {
        let response = app.query("/s", &[JSON, (name, "\"x\"")], A).await;
        assert_eq!(response.cache_status().detail.as_deref(), Some("conditional"), "{name}");
    }
}

async fn an_application_that_says_412_is_asked_again(backend: &Backend) {
    let asked = Arc::new(Mutex::new(Vec::<HeaderMap>::new()));
    let seen = asked.clone();
    let origin = Origin::new(move |call, request| {
        seen.lock().unwrap().push(request.headers().clone());
        async move {
            let condition = request.headers().get("if-none-match").cloned();
            let by_the_letter = request.headers().contains_key("x-letter");
            let mut response = obey(call, request).await;
            if condition.is_some() {
                *response.status_mut() =
                    if by_the_letter { StatusCode::PRECONDITION_FAILED } else { StatusCode::NOT_MODIFIED };
            }
            Ok(response)
        }
    });
    let clock = Clock::manual();
    let app = QueryApp::new(backend.cache().await.clock(clock.clone()).build(), &origin, CacheLayer::query);
    let tagged = [JSON, FRESH, ("x-say-etag", "\"x\"")];
    app.query("/s", &tagged, A).await;
    clock.advance(Duration::from_secs(61));
    let validated = app.query("/s", &tagged, A).await;
    assert_eq!((validated.x_cache(), origin.calls()), ("REVALIDATED", 2));
    assert!(validated.text().starts_with("answer 1 "), "{validated:?}");
    clock.advance(Duration::from_secs(61));
    let letter = [JSON, FRESH, ("x-say-etag", "\"x\""), ("x-letter", "1")];
    let response = app.query("/s", &letter, A).await;
    assert_eq!((response.status.as_u16(), response.call(), origin.calls()), (200, 4, 4), "q14");
    assert!(response.text().ends_with(A), "{response:?}");
    let conditions: Vec<bool> =
        asked.lock().unwrap().iter().map(|fields| fields.contains_key("if-none-match")).collect();
    assert_eq!(conditions, [false, true, true, false]);
    assert_eq!(app.query("/s", &letter, A).await.call(), 4, "and that is kept");
}

async fn what_cannot_be_answered_by_its_content_goes_through_as_it_came(backend: &Backend) {
    let origin = Origin::obedient();
    let app = QueryApp::new(backend.cache().await.build(), &origin, |layer| {
        layer.query().max_content(7).read_timeout(Duration::from_millis(200))
    });
    for (detail, fields) in [
        ("content-type", &[FRESH][..]),
        ("content-type", &[FRESH, JSON, JSON]),
        ("content-type", &[FRESH, ("content-type", "json")]),
        ("content-range", &[FRESH, JSON, ("content-range", "bytes 0-6/7")]),
        ("trailers", &[FRESH, JSON, ("trailer", "x-sum")]),
        ("expect", &[FRESH, JSON, ("expect", "100-continue")]),
        ("incremental", &[FRESH, JSON, ("incremental", "?1")]),
        ("range", &[FRESH, JSON, ("range", "items=0-1")]),
        ("request-no-store", &[FRESH, JSON, ("cache-control", "no-store")]),
        ("content-unread", &[FRESH, JSON, ("content-length", "6")]),
        ("content-unread", &[FRESH, JSON, ("content-length", "7, 7")]),
        ("content-too-large", &[FRESH, JSON, ("content-length", "8")]),
    ] {
        let calls = origin.calls();
        for _ in 0..2 {
            let response = app.query("/s", fields, A).await;
            assert_eq!((response.x_cache(), response.cache_status().detail.as_deref()), ("BYPASS", Some(detail)));
            assert!(response.text().ends_with(&format!("\n{A}")), "{detail}: {response:?}");
        }
        assert_eq!(origin.calls(), calls + 2, "{detail}");
    }
    // q15, announced by nobody.
    let too_long = request(Method::from_bytes(b"QUERY").unwrap(), "/s", &[FRESH, JSON]);
    let (feed, body) = Feed::new();
    feed.data("12345678").unwrap();
    feed.data("9").unwrap();
    drop(feed);
    let response = app.ask(too_long.map(|_| body)).await;
    assert_eq!(response.cache_status().detail.as_deref(), Some("content-too-large"));
    assert!(response.text().ends_with("\n123456789"), "q15: {response:?}");
    // Trailers that nobody announced.
    let (feed, body) = Feed::new();
    feed.data("1").unwrap();
    feed.trailers(HeaderMap::from_iter([(HeaderName::from_static("x-sum"), "1".parse().unwrap())])).unwrap();
    drop(feed);
    let trailed = request(Method::from_bytes(b"QUERY").unwrap(), "/s", &[FRESH, JSON]).map(|_| body);
    let response = app.ask(trailed).await;
    assert_eq!(response.cache_status().detail.as_deref(), Some("trailers"));
    assert!(response.text().ends_with("\n1+1"), "{response:?}");
    // Content that takes its time.
    let (feed, body) = Feed::new();
    feed.data("1").unwrap();
    let slow = request(Method::from_bytes(b"QUERY").unwrap(), "/s", &[FRESH, JSON]).map(|_| body);
    let calls = origin.calls();
    let sending = tokio::spawn({
        let app = app.clone();
        async move { app.ask(slow).await }
    });
    wait_until("the application is asked", async || origin.calls() > calls).await;
    feed.data("2").unwrap();
    drop(feed);
    let response = sending.await.unwrap();
    assert_eq!(response.cache_status().detail.as_deref(), Some("content-unread"));
    assert!(response.text().ends_with("\n12"), "{response:?}");
    assert_eq!(app.query("/s", &[FRESH, JSON], "12").await.x_cache(), "MISS", "nothing of all that was stored");
}

async fn a_client_that_stops_half_way_leaves_nothing(backend: &Backend) {
    let origin = Origin::obedient();
    let app = QueryApp::on(backend, &origin).await;
    let (feed, body) = Feed::new();
    feed.data("{\"a\"").unwrap();
    let half = request(Method::from_bytes(b"QUERY").unwrap(), "/s", &[FRESH, JSON]).map(|_| body);
    let mut sending = Box::pin(app.service.clone().oneshot(half));
    assert!(futures_util::poll!(sending.as_mut()).is_pending());
    // Nobody waits for one that is sending still.
    app.q1().await;
    drop(sending);
    assert_eq!(app.cache.loads_in_flight(), 0, "q16");
    drop(feed);

    let (feed, body) = Feed::new();
    feed.data("{\"a\"").unwrap();
    feed.abort(tests::Failure("gone")).unwrap();
    let broken = request(Method::from_bytes(b"QUERY").unwrap(), "/t", &[FRESH, JSON]).map(|_| body);
    let response = app.ask(broken).await;
    assert_eq!(response.cache_status().detail.as_deref(), Some("content-unread"));
    assert!(response.text().ends_with("failed: gone"), "{response:?}");
    app.is_miss("/t", "{\"a\"").await;
}

async fn vary_selects_among_the_responses_to_one_content(backend: &Backend) {
    let app = QueryApp::on(backend, &Origin::obedient()).await;
    let fields = |accept| [JSON, FRESH, ("x-say-vary", "Accept, Accept-Query"), ("accept", accept)];
    for accept in ["text/plain", "text/html"] {
        assert_eq!(app.query("/s", &fields(accept), A).await.x_cache(), "MISS", "q17: {accept}");
        assert_eq!(app.query("/s", &fields(accept), A).await.x_cache(), "HIT", "{accept}");
    }
}

async fn a_redirect_is_that_of_its_content(backend: &Backend) {
    let app = QueryApp::on(backend, &Origin::obedient()).await;
    for status in ["303", "307", "308"] {
        let uri = format!("/s{status}");
        let fields = [JSON, FRESH, ("x-status", status), ("x-say-location", "/stored/1")];
        assert_eq!(app.query(&uri, &fields, A).await.x_cache(), "MISS");
        assert_eq!(app.query(&uri, &fields, A).await.x_cache(), "HIT");
        assert_eq!(app.query(&uri, &fields, "B").await.x_cache(), "MISS", "q18");
        assert_eq!(app.send("GET", &uri, &[FRESH], "").await.x_cache(), "MISS");
    }
    // Nothing is stored under a URI that a response names, either.
    let named = [JSON, FRESH, ("x-say-location", "/named"), ("x-say-content-location", "/result")];
    app.query("/s", &named, A).await;
    for uri in ["/named", "/result"] {
        assert_eq!(app.send("GET", uri, &[FRESH], "").await.x_cache(), "MISS", "{uri}");
    }
}

async fn a_write_under_way_keeps_what_is_filled_meanwhile_from_lasting(backend: &Backend) {
    // The cache is filled during the write, by the process that writes or by another one.
    for (uri, by_another) in [("/one", false), ("/other", true)] {
        let gate = Gate::closed();
        let origin = Origin::gated_obedient(&gate, |_, request| request.method() == Method::POST);
        let (writer, reader) = (QueryApp::on(backend, &origin).await, QueryApp::on(backend, &origin).await);
        let mut service = writer.service.clone();
        let post = tokio::spawn(service.call(request(Method::POST, uri, &[])));
        wait_until("the write is under way", async || origin.calls() == 1).await;
        let filler = if by_another { &reader } else { &writer };
        filler.is_miss(uri, A).await;
        reader.is_hit(uri, A).await;
        gate.open();
        post.await.unwrap().unwrap();
        heard(&writer.cache, &reader.cache).await;
        reader.is_miss(uri, A).await;
        writer.is_hit(uri, A).await;
    }
}

async fn a_load_that_a_write_overtakes_is_not_stored(backend: &Backend) {
    let gate = Gate::closed();
    let origin = Origin::gated_obedient(&gate, |call, _| call == 1);
    let app = QueryApp::on(backend, &origin).await;
    let filling = tokio::spawn({
        let app = app.clone();
        async move { app.query("/s", &[JSON, FRESH], A).await }
    });
    wait_until("the load is under way", async || origin.calls() == 1).await;
    ask(&app.service, request(Method::POST, "/s", &[])).await.unwrap();
    gate.open();
    assert_eq!(filling.await.unwrap().call(), 1);
    app.is_miss("/s", A).await;
}

async fn contents_that_mean_the_same_are_one_where_the_application_says_so(backend: &Backend) {
    let origin = Origin::obedient();
    let app = QueryApp::new(backend.cache().await.build(), &origin, |layer| {
        layer.query().normalize(|request, content| {
            let unspaced: Vec<u8> = content.iter().copied().filter(|byte| *byte != b' ').collect();
            (request.uri.path() != "/raw").then_some(unspaced)
        })
    });
    app.is_miss("/s", "a b").await;
    app.is_hit("/s", "ab").await;
    let forbids = [JSON, FRESH, ("cache-control", "no-transform")];
    for content in ["ab", "a b"] {
        assert_eq!(app.query("/s", &forbids, content).await.x_cache(), "MISS", "q20");
        assert_eq!(app.query("/s", &forbids, content).await.x_cache(), "HIT");
    }
    app.is_miss("/raw", "a b").await;
    app.is_miss("/raw", "ab").await;
    // The application has what the client sent.
    assert!(app.query("/t", &[JSON, FRESH], "a b").await.text().ends_with("\na b"));
}

async fn equal_queries_wait_for_one_load(backend: &Backend) {
    let gate = Gate::closed();
    let origin = Origin::gated_obedient(&gate, |_, _| true);
    let (here, there) = (QueryApp::on(backend, &origin).await, QueryApp::on(backend, &origin).await);
    let clients: Vec<_> = (0..20)
        .map(|number| {
            let app = if number % 2 == 0 { here.clone() } else { there.clone() };
            let content = if number < 16 { A } else { "2" };
            tokio::spawn(async move { (content, app.query("/s", &[JSON, FRESH], content).await) })
        })
        .collect();
    wait_until("both are loaded", async || origin.calls() == 2).await;
    gate.open();
    for client in clients {
        let (content, response) = client.await.unwrap();
        assert!(response.text().ends_with(content), "{content}: {response:?}");
    }
    assert_eq!(origin.calls(), 2);
}

async fn a_refresh_in_the_background_has_the_content(backend: &Backend) {
    let (clock, origin) = (Clock::manual(), Origin::obedient());
    let app = QueryApp::new(backend.cache().await.clock(clock.clone()).build(), &origin, CacheLayer::query);
    let fields = [JSON, ("x-say-cache-control", "max-age=1, stale-while-revalidate=60")];
    app.query("/s", &fields, A).await;
    clock.advance(Duration::from_secs(2));
    let stale = app.query("/s", &fields, A).await;
    assert_eq!((stale.x_cache(), stale.call()), ("STALE", 1));
    let fresh = app.query("/s", &fields, A).await;
    assert_eq!((fresh.x_cache(), fresh.call()), ("HIT", 2));
    assert!(fresh.text().ends_with(A), "{fresh:?}");
}

async fn a_post_that_only_reads_is_answered_by_its_content(backend: &Backend) {
    let origin = Origin::obedient();
    let app = QueryApp::new(backend.cache().await.build(), &origin, |layer| {
        layer.voids(|request| request.uri.path() != "/search").query().posts(|request| request.uri.path() == "/search")
    });
    for (content, expected) in [("1", "MISS"), ("1", "HIT"), ("2", "MISS"), ("2", "HIT")] {
        assert_eq!(app.send("POST", "/search", &[JSON, FRESH], content).await.x_cache(), expected, "{content}");
    }
    assert_eq!(app.query("/search", &[JSON, FRESH], "1").await.x_cache(), "MISS");
    assert_eq!(app.send("GET", "/search", &[FRESH], "").await.x_cache(), "MISS");
    // What can't be answered so is a POST like any other, and this one voids nothing.
    let untyped = app.send("POST", "/search", &[FRESH], "1").await;
    assert_eq!((untyped.x_cache(), untyped.cache_status().fwd.as_deref()), ("BYPASS", Some("method")));
    assert_eq!(app.send("POST", "/search", &[JSON], "1").await.x_cache(), "HIT");
    app.send("PUT", "/search", &[], "").await;
    app.send("POST", "/other", &[JSON, FRESH], "1").await;
    assert_eq!(app.send("POST", "/other", &[JSON, FRESH], "1").await.x_cache(), "BYPASS");
}

/// RFC 9110, sections 13.1.2 and 14.2: POST has neither 304 nor ranges. For QUERY, both are as for GET (RFC 10008).
async fn a_post_is_answered_with_the_whole_stored_or_not_and_a_query_as_a_get_is(backend: &Backend) {
    let app = QueryApp::new(backend.cache().await.build(), &Origin::obedient(), |layer| layer.query().posts(|_| true));
    for (at, (method, field, status)) in [
        ("POST", ("range", "bytes=0-1"), 200),
        ("POST", ("range", "bytes=0-1,4-5"), 200),
        ("POST", ("if-none-match", "\"x\""), 200),
        ("POST", ("if-none-match", "*"), 200),
        ("POST", ("if-modified-since", "Fri, 31 Dec 9998 23:59:59 GMT"), 200),
        ("QUERY", ("range", "bytes=0-1"), 206),
        ("QUERY", ("range", "bytes=0-1,4-5"), 206),
        ("QUERY", ("range", "bytes=900-"), 416),
        ("QUERY", ("if-none-match", "\"x\""), 304),
    ]
    .into_iter()
    .enumerate()
    {
        let uri = format!("/{at}");
        for x_cache in ["MISS", "HIT"] {
            let fields = [JSON, FRESH, ("x-say-etag", "\"x\""), field];
            let response = app.send(method, &uri, &fields, A).await;
            assert_eq!((response.status.as_u16(), response.x_cache()), (status, x_cache), "{method} {field:?}");
            assert!(status != 200 || response.text().ends_with(A), "{response:?}");
        }
    }
}

async fn only_some_queries_are_answered_so_where_that_is_set(backend: &Backend) {
    let origin = Origin::obedient();
    let set = |layer: CacheLayer| layer.query().queries(|request| request.uri.path() == "/search");
    let app = QueryApp::new(backend.cache().await.build(), &origin, set);
    app.is_miss("/search", A).await;
    app.is_hit("/search", A).await;
    assert_eq!(app.send("GET", "/other", &[FRESH], "").await.x_cache(), "MISS");
    for _ in 0..2 {
        let passed = app.query("/other", &[JSON, FRESH], A).await;
        assert_eq!((passed.x_cache(), passed.cache_status().fwd.as_deref()), ("BYPASS", Some("method")));
        assert!(passed.text().ends_with(A), "{passed:?}");
    }
    assert_eq!(app.send("GET", "/other", &[], "").await.x_cache(), "HIT", "it is safe all the same");
    // The content is left to the application, however long it takes to arrive.
    let (feed, body) = Feed::new();
    let calls = origin.calls();
    let slow = request(Method::QUERY, "/other", &[FRESH, JSON]).map(|_| body);
    let sending = tokio::spawn({
        let app = app.clone();
        async move { app.ask(slow).await }
    });
    wait_until("the application is asked", async || origin.calls() > calls).await;
    feed.data("1").unwrap();
    drop(feed);
    assert!(sending.await.unwrap().text().ends_with("\n1"));
}

async fn the_rule_for_get_is_the_rule_for_a_query(backend: &Backend) {
    let minute = Duration::from_secs(60);
    for (at, (rule, expected, detail)) in [
        (Rule::path("/s").ttl(minute), "HIT", None),
        (Rule::path("/s").methods([Method::GET]).ttl(minute), "HIT", None),
        (Rule::path("/s").methods([Method::POST]).voids(false), "BYPASS", Some("remembered")),
        (Rule::path("/other").ttl(minute), "BYPASS", Some("remembered")),
        (Rule::path("/s").bypass(), "BYPASS", Some("rule")),
        (Rule::path("/s").ttl(minute).keep_if(|_, _| false), "MISS", Some("keep-if")),
    ]
    .into_iter()
    .enumerate()
    {
        let set = |layer: CacheLayer| layer.namespace(at.to_string()).rule(rule.clone()).unwrap().query();
        let app = QueryApp::new(backend.cache().await.build(), &Origin::obedient(), set);
        app.query("/s", &[JSON], A).await;
        let again = app.query("/s", &[JSON], A).await;
        let said = again.cache_status().detail.map(|detail| detail.split('/').next().unwrap_or_default().to_owned());
        assert_eq!((again.x_cache(), said.as_deref()), (expected, detail), "{rule:?}");
    }
}

async fn what_a_layer_outside_says_is_in_the_key(backend: &Backend) {
    let app = QueryApp::on(backend, &Origin::obedient()).await;
    let of = |tenant: &str| {
        let mut request = request(Method::QUERY, "/s", &[JSON, FRESH]).map(|_| full(A));
        Hints::new().key_part(tenant).add_to(request.extensions_mut());
        request
    };
    for tenant in ["one", "two"] {
        assert_eq!(app.ask(of(tenant)).await.x_cache(), "MISS", "{tenant}");
        assert_eq!(app.ask(of(tenant)).await.x_cache(), "HIT", "{tenant}");
    }
    app.is_miss("/s", A).await;
    // A write reaches the responses for every content and every tenant.
    app.send("POST", "/s", &[], "").await;
    for tenant in ["one", "two"] {
        assert_eq!(app.ask(of(tenant)).await.x_cache(), "MISS", "{tenant}");
    }
}

over_each_store!(
    the_rule_for_get_is_the_rule_for_a_query,
    what_a_layer_outside_says_is_in_the_key,
    the_same_content_of_the_same_type_is_one,
    no_other_method_is_answered,
    a_write_to_the_target_voids_every_content,
    a_response_of_any_key_is_reached_by_its_target,
    a_condition_is_about_the_response_to_its_content,
    an_application_that_says_412_is_asked_again,
    what_cannot_be_answered_by_its_content_goes_through_as_it_came,
    a_client_that_stops_half_way_leaves_nothing,
    vary_selects_among_the_responses_to_one_content,
    a_redirect_is_that_of_its_content,
    a_write_under_way_keeps_what_is_filled_meanwhile_from_lasting,
    a_load_that_a_write_overtakes_is_not_stored,
    contents_that_mean_the_same_are_one_where_the_application_says_so,
    equal_queries_wait_for_one_load,
    a_refresh_in_the_background_has_the_content,
    a_post_that_only_reads_is_answered_by_its_content,
    a_post_is_answered_with_the_whole_stored_or_not_and_a_query_as_a_get_is,
    only_some_queries_are_answered_so_where_that_is_set,
);

#[tokio::test]
async fn whether_a_post_is_looked_up_is_judged_by_all_that_it_says() {
    let app = QueryApp::new(Backend::memory().cache().await.build(), &Origin::obedient(), |layer| {
        layer.bypass_if(|request| request.headers.contains_key("range")).query().posts(|_| true)
    });
    for (field, x_cache) in [(("range", "bytes=0-1"), "BYPASS"), (("if-none-match", "*"), "MISS")] {
        assert_eq!(app.send("POST", "/", &[JSON, FRESH, field], A).await.x_cache(), x_cache, "{field:?}");
    }
}

#[tokio::test]
async fn a_layer_without_it_passes_query_through() {
    let origin = Origin::obedient();
    let app = App::on(&Backend::memory(), &origin).await;
    for _ in 0..2 {
        let method = Method::from_bytes(b"QUERY").unwrap();
        let response = app.ask(request(method, "/s", &[JSON, FRESH]).map(|_| full(A))).await;
        assert_eq!((response.x_cache(), response.cache_status().fwd.as_deref()), ("BYPASS", Some("method")));
    }
    assert_eq!(origin.calls(), 2);
}

#[tokio::test]
async fn content_is_in_no_name() {
    let backend = Backend::redis();
    let app = QueryApp::on(&backend, &Origin::obedient()).await;
    const SECRET: &str = "a-secret";
    assert_eq!(app.query("/s", &[JSON, FRESH], SECRET).await.x_cache(), "MISS");
    let keys = backend.server().keys();
    assert!(keys.iter().any(|key| key.contains("http://shop.example/s#QUERY:")), "{keys:?}");
    assert!(!keys.iter().any(|key| key.contains(SECRET)), "{keys:?}");
    assert_eq!(app.cache.delete_pattern("http://shop.example/s*").counted().await.unwrap(), 1);
    app.is_miss("/s", SECRET).await;
}

/// `No-Vary-Search` is about targets, and a content has a key of its own: no alias leads to it, and none is stored in vain.
#[tokio::test]
async fn no_alias_leads_to_what_is_stored_by_content() {
    let backend = Backend::redis();
    let set = |layer: CacheLayer| layer.no_vary_search(NoVarySearch::new()).query();
    let app = QueryApp::new(backend.cache().await.build(), &Origin::obedient(), set);
    let fields = [JSON, FRESH, ("x-say-no-vary-search", "params=(\"utm\")")];
    assert_eq!(app.query("/s?utm=1", &fields, A).await.x_cache(), "MISS");
    assert_eq!(app.query("/s?utm=1", &fields, A).await.x_cache(), "HIT");
    let keys = backend.server().keys();
    assert!(!keys.iter().any(|key| key.contains("#alias:")), "{keys:?}");
    assert_eq!(app.query("/s?utm=2", &fields, A).await.x_cache(), "MISS");
    assert_eq!(app.send("GET", "/s?utm=3", &fields, "").await.x_cache(), "MISS");
    let keys = backend.server().keys();
    assert!(keys.iter().any(|key| key.contains("#alias:")), "that of GET: {keys:?}");
    assert_eq!(app.query("/s?utm=3", &fields, A).await.x_cache(), "MISS");
}

#[tokio::test]
async fn the_application_gets_the_content_in_one_piece_and_its_length() {
    let lengths = Arc::new(Mutex::new(Vec::new()));
    let seen = lengths.clone();
    let origin = Origin::new(move |call, request| {
        seen.lock().unwrap().push(http_body::Body::size_hint(request.body()).exact());
        async move { Ok(obey(call, request).await) }
    });
    let app = QueryApp::on(&Backend::memory(), &origin).await;
    let (feed, body) = Feed::new();
    for piece in ["{\"a\"", "", ":1}"] {
        feed.data(Bytes::from_static(piece.as_bytes())).unwrap();
    }
    drop(feed);
    let pieces = request(Method::from_bytes(b"QUERY").unwrap(), "/s", &[FRESH, JSON]).map(|_| body);
    assert!(app.ask(pieces).await.text().ends_with(A));
    assert_eq!(*lengths.lock().unwrap(), [Some(7)]);
    app.is_hit("/s", A).await;
}
